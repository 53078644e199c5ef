"""Settings of privacy."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from engine.own.call import OwnSection, Parameters, own_parameters
from engine.own.reference import Own
from engine.settings import Mistake

PLAIN = ("method", "parameters", "membership")  # all that is read where no mechanism of ours is named


class PrivacyConfig(OwnSection):
    """The mechanism that every gradient goes through."""

    PART = "method"

    method: Literal["none", "dp-sgd"] | Own = Field(
        "none",
        union_mode="left_to_right",
        description="none; dp-sgd: clipped and noised gradients of Poisson-sampled beats (docs/privacy.md); or a mechanism of "
        "your own, whose noise is drawn from the run's seed: a simulation, no protection",
    )
    parameters: Parameters = own_parameters()
    unit: Literal["beat", "patient"] = Field(
        "beat", description="dp-sgd: what is protected, one of a hospital's train beats, or all of a patient's there"
    )
    beats: int = Field(
        64,
        ge=1,
        le=100_000,
        description="dp-sgd, unit patient: so many beats of a sampled patient at most, in one gradient",
    )
    epsilon: float | None = Field(
        None, gt=0, le=1000, description="dp-sgd: what a hospital spends at most; the noise follows from it"
    )
    noise: float | None = Field(
        None, ge=0.05, le=10_000, description="dp-sgd: noise multiplier, in place of `epsilon`; read to thousandths"
    )
    delta: float = Field(1e-5, ge=1e-10, le=0.01, description="dp-sgd: read to 1e-12")
    clip: float = Field(
        1.0, ge=1e-6, le=1e6, description="dp-sgd: largest norm of one beat's gradient; read to millionths"
    )
    sampling_rate: float = Field(
        0.05,
        ge=1e-6,
        le=1,
        description="dp-sgd: probability of each beat, or patient, to be in a batch, in place of federation.batch_size; to 1e-9",
    )
    steps: int = Field(
        20, ge=1, le=100_000, description="dp-sgd: noised gradients of a hospital in a round, in place of local_epochs"
    )
    honest: int | None = Field(
        None,
        ge=2,
        description="dp-sgd under masks: each hospital adds so much noise that that of this many in a sum comes to all of it; null: "
        "each adds all of it",
    )
    secret: Literal["simulated", "key"] = Field(
        "simulated",
        description="dp-sgd: noise and sampling follow from the run's seed, which protects nobody, or from the hospital's key "
        "(ledger.keystore)",
    )

    membership: bool = Field(
        False,
        description="any method: each hospital measures how well the final models tell its train beats from its test beats",
    )

    @property
    def noised(self) -> bool:
        """Whether a mechanism of ours works, and so an account is kept."""
        return self.method == "dp-sgd"

    def used(self) -> dict[str, Any]:
        """Only what the method reads."""
        unset = {name for name in ("honest", "membership") if not getattr(self, name)}
        values = self.model_dump(mode="json", exclude=unset)
        return values if self.noised else {name: values[name] for name in PLAIN if name in values}

    def clashes(self) -> Iterator[Mistake]:
        """Noise that is said twice or not at all, or said where nothing reads it."""
        yield from super().clashes()
        given = [name for name in ("epsilon", "noise") if getattr(self, name) is not None]
        if self.noised and len(given) != 1:
            says = "privacy.method dp-sgd needs one of privacy.epsilon and privacy.noise"
            yield Mistake(f"{says}, not {'both' if given else 'none'}", ["epsilon", "noise"])
        if not self.noised and given:
            yield Mistake(
                f"privacy.{given[0]} is for method dp-sgd, and privacy.method is {self.method}", ["method", *given]
            )

    def clashes_with(self, run: Any) -> Iterator[Mistake]:
        """Where noise that hospitals share (`honest`) does not come to what is accounted for, in a whole configuration (`RunConfig`)."""
        if self.honest is None or not self.noised:
            return
        key, secure, federation = "privacy.honest", run.aggregation.secure, run.federation
        for other, found, allowed, why in (
            ("aggregation.secure.method", secure.method, ("masks",), "shows each update by itself, with its own noise alone"),
            ("aggregation.secure.buckets", secure.groups, (0, 1), "shows several sums, each with a part of the noise"),
            ("privacy.steps", self.steps, (1,), "goes on from a gradient that has only the hospital's own noise"),
            ("federation.algorithm", federation.algorithm, ("fedavg", "fedprox"), "sends more than one noised sum"),
            ("federation.weighting", federation.weighting, ("auto", "samples"), "weighs hospitals' noise unlike their beats"),
            ("aggregation.worker_momentum", run.aggregation.worker_momentum, (0,), "adds up noise of rounds with other hospitals"),
            ("attack.method", run.attack.method, ("none",), "sends what has no noise"),
        ):  # fmt: skip
            if found not in allowed:
                one = " or ".join(map(str, allowed[-1:] if other.endswith("buckets") else allowed))
                yield Mistake(f"{other} {found} {why}; with {key} it is {one}", [key, other])
        in_a_round = max(1, round(federation.participation * run.cohort.hospitals))
        if secure.method == "masks" and self.honest > secure.threshold_in(in_a_round):
            says = f"a sum may have no more than {secure.threshold_in(in_a_round)} hospitals (aggregation.secure.threshold), whose noise would be too little"
            yield Mistake(f"{key} is {self.honest}; {says}", [key, "aggregation.secure.threshold"])
