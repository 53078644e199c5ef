"""Settings of who works when."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from engine.own.call import OwnSection, Parameters, own_parameters
from engine.own.reference import Own, is_own
from engine.settings import Mistake

ASYNCHRONOUS = ("buffered", "fedasync", "fedcompass")  # modes in which updates may begin from older models
_WAITS = ("first", "deadline")
_AGES = ("max_staleness", "staleness", "exponent", "hinge", "slope", "correction", "cap")
SCHEDULE_KEYS: dict[str, tuple[str, ...]] = {
    "synchronous": (),
    "semi-synchronous": _WAITS,
    "buffered": ("buffer", *_AGES),
    "fedasync": ("mixing", *_AGES),
    "fedcompass": ("least", "slack", *_AGES),
}  # mode -> keys that it reads


class ScheduleConfig(OwnSection):
    """Who works when, and whose answers count."""

    PART = "mode"

    mode: Literal["synchronous", "semi-synchronous", "buffered", "fedasync", "fedcompass"] | Own = Field(
        "synchronous",
        union_mode="left_to_right",
        description="a round ends when all have come in who were asked, the first or those within a deadline, as many as the "
        "buffer holds, one, or a group whose work was cut so that it meets; or one of your own",
    )
    parameters: Parameters = own_parameters()
    first: int | None = Field(
        10, ge=1, description="semi-synchronous: updates that end a round; null: only the deadline does"
    )
    deadline: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="semi-synchronous: virtual seconds after which a round ends with the updates it has",
    )
    buffer: int = Field(5, ge=1, description="buffered: updates that end a round")
    mixing: float = Field(0.6, gt=0, le=1, description="fedasync: share of the hospital's model in the new one")
    least: float = Field(0.2, gt=0, le=1, description="fedcompass: least share of the local work that is handed out")
    slack: float = Field(
        0.2, ge=0, le=10, description="fedcompass: how much longer a group waits, as a share of its time"
    )
    max_staleness: int = Field(
        20, ge=1, le=1000, description="rounds that an update's model may be behind; older work is given up"
    )
    staleness: Literal["constant", "hinge", "polynomial"] = Field(
        "polynomial",
        description="what an update counts that is s rounds behind: 1, 1 / (slope * (s - hinge) + 1), (1 + s)^-exponent",
    )
    exponent: float = Field(0.5, ge=0, le=10, description="of the polynomial")
    hinge: int = Field(4, ge=0, description="hinge: rounds that count in full")
    slope: float = Field(10.0, ge=0, description="hinge: how fast it falls after that")
    correction: Literal["none", "rate"] = Field(
        "none", description="rate: updates count by how seldom their hospital is heard, so that fast ones do not lead"
    )
    cap: float = Field(4.0, ge=1, description="correction: factor at most, and one by it at least")

    def clashes(self) -> Iterator[Mistake]:
        yield from super().clashes()
        if self.mode == "semi-synchronous" and self.first is None and self.deadline is None:
            yield Mistake("mode semi-synchronous needs first, deadline or both", ["mode", "first", "deadline"])

    @property
    def updates(self) -> int:
        """Updates that end a round, where their number does."""
        return {"buffered": self.buffer, "fedasync": 1, "semi-synchronous": self.first or 1}.get(self.mode, 1)

    @property
    def is_asynchronous(self) -> bool:
        """Whether updates may begin from older models."""
        return self.mode in ASYNCHRONOUS

    def used(self) -> dict[str, Any]:
        """Only what the mode reads."""
        values = self.model_dump(mode="json")
        read = ("parameters",) if is_own(self.mode) else SCHEDULE_KEYS[self.mode]
        return {name: values[name] for name in ("mode", *read)}


BY_VERDICTS = ("thompson", "reputation")  # policies that want a committee
FLOORED = ("round-robin", "power-of-choice", "oort", "ucb", *BY_VERDICTS)  # policies with a floor


class SelectionConfig(OwnSection):
    """Who is asked in a round, where not all are."""

    PART = "policy"

    policy: Literal["random", "round-robin", "power-of-choice", "oort", "ucb", "thompson", "reputation"] | Own = Field(
        "random",
        union_mode="left_to_right",
        description="drawn anew for each round; by turns; those with most wrong; by utility; by bandits; or one of your own",
    )
    floor: float = Field(
        0.5,
        ge=0,
        le=1,
        description="all built-in policies but random: who was asked for less than this share of an even part goes first",
    )
    parameters: Parameters = own_parameters()

    def used(self) -> dict[str, Any]:
        """Only what the policy reads."""
        floor = {"floor": self.floor} if self.policy in FLOORED else {}
        return {"policy": self.policy, "parameters": self.parameters, **floor}
