"""Settings of an attack."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from engine.own.call import OwnSection, Parameters, own_parameters
from engine.own.reference import Own, is_own

Method = Literal[
    "none",
    "left-out",
    "label-flip",
    "backdoor",
    "sign-flip",
    "noise",
    "free-rider",
    "ipm",
    "alie",
    "mimic",
    "copycat",
    "adaptive",
]
TOGETHER = ("ipm", "alie", "mimic", "copycat", "adaptive")  # attackers see the honest updates of the round

# method -> its strength where none is set, of those that have one; ALIE's follows from the numbers of hospitals
STRENGTH: dict[str, float | None] = {"sign-flip": 4.0, "noise": 3.0, "ipm": 2.0, "alie": None, "backdoor": 0.5}


class AttackConfig(OwnSection):
    """Hostile hospitals in a simulation, see `engine/attacks`."""

    PART = "method"

    method: Method | Own = Field(
        "none",
        union_mode="left_to_right",
        description="what hostile hospitals do; left-out: they take no part, for comparison; or an attack of your own",
    )
    parameters: Parameters = own_parameters()
    share: float = Field(0.2, ge=0, lt=1, description="share of hospitals that are hostile, drawn by the run's seed")
    hospitals: tuple[int, ...] | None = Field(
        None, description="ids of the hostile hospitals; null: as many as `share` says"
    )
    start: int = Field(1, ge=1, description="first round in which they attack; before it they are honest")
    strength: float | None = Field(
        None,
        gt=0,
        description="sign-flip, ipm: factor (4, 2); noise: of the update's length (3); alie: standard deviations (by the numbers "
        "of hospitals); backdoor: share of the beats, at most 1 (0.5)",
    )
    target: str | None = Field(None, description="backdoor: class that the trigger is to give; null: the first one")

    def used(self) -> dict[str, Any]:
        """Only what the method reads."""
        if self.method == "none":
            return {"method": "none"}
        who = {"share": self.share} if self.hospitals is None else {"hospitals": list(self.hospitals)}
        how = {"strength": self.strength} if self.method in STRENGTH else {}
        goal = {"target": self.target} if self.method == "backdoor" else {}
        own = {"parameters": self.parameters} if is_own(self.method) else {}
        return {"method": self.method, **own, **who, "start": self.start, **how, **goal}

    def problem(self, hospitals: int, classes: Sequence[str]) -> str:
        """Why there can be no such attack among so many hospitals; "" if there can."""
        if self.method == "none":
            return ""
        if self.hospitals is not None:
            beyond = [h for h in self.hospitals if not 0 <= h < hospitals]
            if beyond:
                return f"attack.hospitals: there is no hospital {beyond[0]}; they are 0 to {hospitals - 1}"
            if len(set(self.hospitals)) < len(self.hospitals):
                return "attack.hospitals names a hospital twice"
        many = round(self.share * hospitals) if self.hospitals is None else len(self.hospitals)
        if not 0 < many < hospitals:
            key = "attack.share" if self.hospitals is None else "attack.hospitals"
            which = "none" if many == 0 else "all"
            return f"{key} makes {which} of the {hospitals} hospitals hostile; it takes at least one of each kind"
        if self.method == "backdoor" and self.target is not None and self.target not in classes:
            return f"attack.target: {self.target!r} is no class; allowed: {', '.join(classes)}"
        return ""

    @property
    def sees_others(self) -> bool:
        """Whether attackers see the honest updates of a round."""
        return self.method in TOGETHER

    @property
    def force(self) -> float:
        """The strength, of a method whose default is a number; 1 of one that has none."""
        default = STRENGTH.get(self.method, 1.0)
        return self.strength if self.strength is not None else (1.0 if default is None else default)
