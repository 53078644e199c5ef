"""Settings of aggregation."""

from typing import Any, Literal

from pydantic import Field

from engine.own.call import OwnSection, Parameters, own_parameters
from engine.own.reference import Own
from engine.settings import Section


class ServerConfig(Section):
    """The server's optimiser: it takes the mean of the updates for a negative gradient."""

    method: Literal["none", "momentum", "adam", "yogi"] = Field(
        "none", description="none adds the mean; FedAvgM, FedAdam, FedYogi remember earlier ones"
    )
    learning_rate: float = Field(1.0, gt=0, description="momentum, adam, yogi: rate of the server's step")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum, adam, yogi: weight of the past in the direction")
    beta2: float = Field(0.99, ge=0, lt=1, description="adam, yogi: weight of the past in the squares")
    tau: float = Field(1e-3, gt=0, description="adam, yogi: added to the root; large is close to momentum")

    def used(self) -> dict[str, Any]:
        """Only what the method reads."""
        keys = {"none": (), "momentum": ("learning_rate", "momentum")}.get(
            self.method, tuple(ServerConfig.model_fields)
        )
        return {"method": self.method, **{key: getattr(self, key) for key in keys}}


class AggregationConfig(OwnSection):
    """From the hospitals' updates to the next global model."""

    PART = "rule"

    rule: Literal["mean"] | Own = Field(
        "mean",
        union_mode="left_to_right",
        description="mean: weighted as federation.weighting says; or one of your own",
    )
    parameters: Parameters = own_parameters()
    server: ServerConfig = ServerConfig()
