"""Settings of who works when."""

from typing import Literal

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


class SelectionConfig(OwnSection):
    """Who is asked in a round, where not all are."""

    PART = "policy"

    policy: Literal["random"] | Own = Field(
        "random", union_mode="left_to_right", description="drawn anew for each round; or one of your own"
    )
    parameters: Parameters = own_parameters()
