"""Settings of who works when."""

from typing import Any, Literal

from pydantic import Field

from engine.own.call import OwnSection, Parameters, own_parameters
from engine.own.reference import Own


class ScheduleConfig(OwnSection):
    """Who works when, and whose answers count."""

    PART = "mode"

    mode: Literal["synchronous"] | Own = Field(
        "synchronous",
        union_mode="left_to_right",
        description="rounds that wait for all who were asked; or one of your own",
    )
    parameters: Parameters = own_parameters()


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
