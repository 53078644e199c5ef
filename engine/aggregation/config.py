"""Settings of aggregation."""

from typing import Any, Literal

from pydantic import Field

from engine.own.call import OwnSection, Parameters, own_parameters
from engine.own.reference import Own
from engine.secure.config import SecureConfig
from engine.settings import Section

RuleName = Literal[
    "mean", "median", "trimmed-mean", "krum", "multi-krum", "geometric-median", "centred-clipping", "norm-bound"
]

# rule -> what it alone reads
RULE_KEYS: dict[str, tuple[str, ...]] = {
    "median": (),
    "trimmed-mean": (),
    "krum": (),
    "multi-krum": ("keep",),
    "geometric-median": ("iterations",),
    "centred-clipping": ("radius", "iterations"),
    "norm-bound": ("radius",),
}


NUMBERS = ("learning_rate", "momentum", "beta2", "tau")  # of a server's optimiser


class ServerConfig(Section):
    """The server's optimiser: it takes the mean of the updates for a negative gradient."""

    method: Literal["none", "momentum", "adam", "yogi"] = Field(
        "none", description="none adds the mean; FedAvgM, FedAdam, FedYogi remember earlier ones"
    )
    learning_rate: float = Field(1.0, gt=0, description="momentum, adam, yogi: rate of the server's step")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum, adam, yogi: weight of the past in the direction")
    beta2: float = Field(0.99, ge=0, lt=1, description="adam, yogi: weight of the past in the squares")
    tau: float = Field(1e-3, gt=0, description="adam, yogi: added to the root; large is close to momentum")

    rate: Literal["constant", "falling", "cosine"] = Field(
        "constant",
        description="momentum, adam, yogi: the rate over the rounds, in a line or along half a cosine to zero",
    )

    def used(self, rounds: int) -> dict[str, Any]:
        """Only what the method reads, in a run of so many rounds."""
        if self.method == "none":
            return {"method": "none"}
        keys = ("learning_rate", "momentum") if self.method == "momentum" else NUMBERS
        falls = {} if self.rate == "constant" else {"rate": self.rate, "rounds": rounds}
        return {"method": self.method, **{key: getattr(self, key) for key in keys}, **falls}


class UpdateConfig(Section):
    """How an update travels, see `engine/aggregation/compression.py`."""

    compression: Literal["none", "int8", "top-k"] = Field(
        "none",
        description="of each update: 8 bits an entry, or the largest entries only; what is left out is added to the next",
    )
    share: float = Field(0.1, gt=0, le=1, description="top-k: of the entries that are sent")

    def used(self) -> dict[str, Any]:
        """Only what the compression reads."""
        share = {"share": self.share} if self.compression == "top-k" else {}
        return {"compression": self.compression, **share}

    def size(self, parameters: int) -> float:
        """Bytes of an update: entries of 4 bytes; of 1 and a scale of 1; of 4 and a position of 4."""
        if self.compression == "int8":
            return parameters + 1.0
        return 8.0 * max(1, round(self.share * parameters)) if self.compression == "top-k" else 4.0 * parameters


class AggregationConfig(OwnSection):
    """From the hospitals' updates to the next global model."""

    PART = "rule"

    rule: RuleName | Own = Field(
        "mean",
        union_mode="left_to_right",
        description="mean: weighted as federation.weighting says; or one that bears hostile updates and counts all of them the "
        "same; or one of your own",
    )
    parameters: Parameters = own_parameters()
    byzantine: int = Field(0, ge=0, description="f: so many updates of a round may be hostile; all rules but the mean")
    keep: int | None = Field(None, ge=1, description="multi-krum: updates that are averaged; null: all but f")
    radius: float | None = Field(
        None, gt=0, description="centred-clipping, norm-bound: an update reaches no further; null: than the median one"
    )
    iterations: int = Field(8, ge=1, le=1000, description="geometric-median, centred-clipping: steps to the centre")
    mix: Literal["none", "bucketing", "nearest"] = Field(
        "none",
        description="before the rule: means of `bucket` updates drawn at random, or of the n - f nearest to each",
    )
    bucket: int = Field(2, ge=2, description="mix bucketing: updates in a bucket")
    worker_momentum: float = Field(
        0.0, ge=0, lt=1, description="weight of the past in what a hospital sends: the running mean of its changes"
    )
    server: ServerConfig = ServerConfig()
    secure: SecureConfig = SecureConfig()

    @property
    def bears(self) -> bool:
        """Whether the rule is one of ours that bears hostile updates."""
        return self.rule in RULE_KEYS

    def used(self) -> dict[str, Any]:
        """Only what the rule reads, besides its name, own parameters, the server's optimiser and the workers' momentum."""
        if not self.bears:
            return {}
        bucket = ("bucket",) if self.mix == "bucketing" else ()
        return {key: getattr(self, key) for key in ("byzantine", "mix", *bucket, *RULE_KEYS[self.rule])}

    def inputs(self, updates: int) -> int:
        """How many vectors the rule itself is given of so many updates."""
        if self.secure.groups:
            return self.secure.groups
        return -(-updates // self.bucket) if self.bears and self.mix == "bucketing" else updates

    def problem(self, updates: int) -> str:
        """Why the rule cannot bear `byzantine` hostile among so many updates; "" if it can, or need not."""
        if not self.bears:
            return ""
        f, n = self.byzantine, self.inputs(updates)
        least, formula = (2 * f + 3, "2f + 3") if self.rule in ("krum", "multi-krum") else (2 * f + 1, "2f + 1")
        what = f"aggregation.rule {self.rule} with aggregation.byzantine {f}"
        if self.mix == "nearest" and updates < 2 * f + 1:
            return f"{what} and aggregation.mix nearest needs at least {2 * f + 1} updates in a round (2f + 1), not {updates}"
        if n < least:
            given = f"{updates}" if n == updates else f"{updates} in {n} buckets"
            kind = "updates" if n == updates else "buckets"
            return f"{what} needs at least {least} {kind} in a round ({formula}), not {given}"
        if self.rule == "multi-krum" and self.keep is not None and self.keep > n - f:
            return f"aggregation.keep is {self.keep}, but multi-krum keeps at most n - f = {n - f}"
        return ""
