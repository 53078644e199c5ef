"""Settings of privacy."""

from typing import Literal

from pydantic import Field

from engine.own.call import OwnSection, Parameters, own_parameters
from engine.own.reference import Own


class PrivacyConfig(OwnSection):
    """The mechanism that every gradient goes through."""

    PART = "method"

    method: Literal["none"] | Own = Field(
        "none",
        union_mode="left_to_right",
        description="none, or a mechanism of your own, whose noise is drawn from the run's seed: a simulation, no protection",
    )
    parameters: Parameters = own_parameters()
