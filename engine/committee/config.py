"""Settings of who judges the updates of a round, and what follows from that."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from engine.settings import Mistake, Section

EVERYBODY = 20  # hospitals of which each may judge all others; beyond that a committee is drawn
LARGEST = 16  # judges that are drawn, at most


class CommitteeConfig(Section):
    """Committee consensus on a round's updates, see `engine/committee/verdicts.py`."""

    method: Literal["none", "others", "drawn"] = Field(
        "none",
        description="others: every hospital of a round judges the others' updates; drawn: a committee that does not train judges",
    )
    size: int = Field(4, ge=1, le=LARGEST, description="drawn: judges of a round")
    election: Literal["random", "score"] = Field(
        "random",
        description="drawn: of those whose updates qualified, the next committee is drawn or has the best scores",
    )
    scores: Literal["classes", "beats"] = Field(
        "classes", description="an update's share of right predictions, of each class by itself or of all beats"
    )
    measure: Literal["accuracy", "mae"] = Field(
        "accuracy",
        description="accuracy: share of right predictions; mae: 1 less the mean absolute error, the mean probability of the true class",
    )
    percent: int = Field(
        50, ge=0, le=100, description="an update qualifies that has so many per cent of the best score of the round"
    )
    gate: bool = Field(False, description="only updates that qualify go into the model")
    leader: bool = Field(
        False,
        description="whoever's update is found best, by itself and by others, leads the round (proof of training quality)",
    )
    own: int = Field(50, ge=1, le=100, description="leader: per cent that a hospital's claim of its own update weighs")
    cap: int = Field(
        500, ge=0, le=10_000, description="leader: how far from the others' median a claim counts, in parts of 10,000"
    )
    hostile: Literal["honest", "lie"] = Field(
        "honest",
        description="how hospitals that attack judge: as others do, or all right for each other and nothing for the rest",
    )

    def used(self) -> dict[str, Any]:
        """Only what the method reads."""
        if self.method == "none":
            return {"method": "none"}
        drawn = ("size", "election") if self.method == "drawn" else ()
        leads = ("own", "cap") if self.leader else ()
        always = ("scores", "measure", "percent", "gate", "leader", *leads, "hostile")
        return {key: getattr(self, key) for key in ("method", *drawn, *always)}

    @property
    def claims(self) -> tuple[int, int]:
        """What a claim weighs, and how far it counts; 0 where nobody leads."""
        return (self.own, self.cap) if self.leader else (0, 0)

    def clashes(self) -> Iterator[Mistake]:
        if self.gate and self.method == "none":
            yield Mistake("gate needs judges, but method is none; allowed: others, drawn", ["gate", "method"])
        if self.leader and self.method != "others":
            says = f"leader wants hospitals that score their own update, too; with method {self.method} none does; allowed: others"
            yield Mistake(says, ["leader", "method"])

    def problem(self, hospitals: int) -> str:
        """Why so many hospitals cannot be judged like this; "" if they can."""
        if self.method == "others" and not 2 <= hospitals <= EVERYBODY:
            return (
                f"committee.method others needs 2 to {EVERYBODY} hospitals, which all judge each other, not {hospitals}; "
                "with more, method drawn"
            )
        if self.method == "drawn" and self.size >= hospitals:
            return f"committee.size is {self.size}, which leaves none of {hospitals} hospitals to train"
        return ""
