"""Settings of privacy."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from engine.own.call import OwnSection, Parameters, own_parameters
from engine.own.reference import Own
from engine.settings import Mistake

# what the method features reads besides: always, and where noise or normalisation is of one kind
OF_FEATURES = ("epsilon", "noise", "release", "normalisation", "secret")
OF_RELEASE, OF_NORMALISATION = {"gaussian": ("delta",)}, {"batch": ("batch",), "none": ("clip",)}
ONLY_FEATURES = ("release", "normalisation", "batch")
PLAIN = ("method", "parameters", "membership")  # all that is read where no mechanism of ours is named


class PrivacyConfig(OwnSection):
    """The mechanism that every gradient goes through."""

    PART = "method"

    method: Literal["none", "dp-sgd", "features"] | Own = Field(
        "none",
        union_mode="left_to_right",
        description="none; dp-sgd: clipped and noised gradients of Poisson-sampled beats (docs/privacy.md); features: "
        "frozen features of each train beat, released once with noise, all training on these; or a mechanism of "
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
        None, gt=0, le=1000, description="dp-sgd, features: what a hospital spends at most; the noise follows from it"
    )
    noise: float | None = Field(
        None,
        ge=0.05,
        le=10_000,
        description="dp-sgd, features: noise multiplier, in place of `epsilon`; read to thousandths",
    )
    delta: float = Field(1e-5, ge=1e-10, le=0.01, description="dp-sgd, features with Gaussian noise: read to 1e-12")
    clip: float = Field(
        1.0,
        ge=1e-6,
        le=1e6,
        description="dp-sgd: largest norm of one beat's gradient; features without normalisation: of its features; read to millionths",
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
    release: Literal["gaussian", "laplace"] = Field(
        "gaussian",
        description="features: noise for a beat's vector, accounted at delta; or for each of its values, all of them counted, at delta 0",
    )
    normalisation: Literal["beat", "batch", "none"] = Field(
        "beat",
        description="features: over the values of each beat by itself (Zhao et al.), over `batch` beats as batch norm does, or none, "
        "shortened to `clip`",
    )
    batch: int = Field(
        64, ge=2, le=100_000, description="features, normalisation batch: beats that are normalised together"
    )
    secret: Literal["simulated", "key"] = Field(
        "simulated",
        description="dp-sgd, features: noise and sampling follow from the run's seed, which protects nobody, or from the hospital's key "
        "(ledger.keystore)",
    )

    membership: bool = Field(
        False,
        description="any method: each hospital measures how well the final models tell its train beats from its test beats",
    )

    @property
    def noised(self) -> bool:
        """Whether a mechanism of ours works, and so an account is kept."""
        return self.method in ("dp-sgd", "features")

    def used(self) -> dict[str, Any]:
        """Only what the method reads."""
        unset = {name for name in ("honest", "membership") if not getattr(self, name)}
        values = self.model_dump(mode="json", exclude=unset)
        if self.method == "dp-sgd":
            return {name: value for name, value in values.items() if name not in ONLY_FEATURES}
        of_features = (*OF_FEATURES, *OF_RELEASE.get(self.release, ()), *OF_NORMALISATION.get(self.normalisation, ()))
        read = (*PLAIN, *(of_features if self.noised else ()))
        return {name: values[name] for name in read if name in values}

    def clashes(self) -> Iterator[Mistake]:
        """Noise that is said twice or not at all, or said where nothing reads it."""
        yield from super().clashes()
        given = [name for name in ("epsilon", "noise") if getattr(self, name) is not None]
        if self.noised and len(given) != 1:
            says = f"privacy.method {self.method} needs one of privacy.epsilon and privacy.noise"
            yield Mistake(f"{says}, not {'both' if given else 'none'}", ["epsilon", "noise"])
        if not self.noised and given:
            yield Mistake(
                f"privacy.{given[0]} is for methods dp-sgd and features, and privacy.method is {self.method}",
                ["method", *given],
            )

    def clashes_with(self, run: Any) -> Iterator[Mistake]:
        """Where noise that hospitals share (`honest`) does not come to what is accounted for, in a whole configuration (`RunConfig`)."""
        if self.method == "features":
            yield from self._features_clash(run)
        if self.honest is None or self.method != "dp-sgd":
            return
        key, secure, federation = "privacy.honest", run.aggregation.secure, run.federation
        for other, found, allowed, why in (
            ("aggregation.secure.method", secure.method, ("masks",), "shows each update by itself, with its own noise alone"),
            ("privacy.steps", self.steps, (1,), "goes on from a gradient that has only the hospital's own noise"),
            ("federation.algorithm", federation.algorithm, ("fedavg", "fedprox"), "sends more than one noised sum"),
            ("federation.weighting", federation.weighting, ("auto", "samples"), "weighs hospitals' noise unlike their beats"),
            ("aggregation.worker_momentum", run.aggregation.worker_momentum, (0,), "adds up noise of rounds with other hospitals"),
            ("attack.method", run.attack.method, ("none",), "sends what has no noise"),
        ):  # fmt: skip
            if found not in allowed:
                one = " or ".join(map(str, allowed))
                yield Mistake(f"{other} {found} {why}; with {key} it is {one}", [key, other])
        in_a_sum = max(1, round(federation.participation * run.cohort.hospitals)) // max(1, secure.groups)
        if secure.method == "masks" and self.honest > secure.threshold_in(in_a_sum):
            says = f"a sum may have no more than {secure.threshold_in(in_a_sum)} hospitals (aggregation.secure.threshold), whose noise would be too little"
            yield Mistake(f"{key} is {self.honest}; {says}", [key, "aggregation.secure.threshold"])

    def _features_clash(self, run: Any) -> Iterator[Mistake]:
        """What the release of noised features does not go with, in a whole configuration (`RunConfig`)."""
        for other, found, allowed, why in (
            ("model.network", run.model.network, "features", "has no frozen features to release"),
            ("privacy.unit", self.unit, "beat", "has many beats, each of which is released"),
            ("attack.method", run.attack.method, "none", "alters windows or updates that no account knows"),
        ):
            if found != allowed:
                said = f"{other} {found} {why}; with privacy.method features it is {allowed}"
                yield Mistake(said, [other, "privacy.method"])
        if run.augment.active:
            says = "augment alters windows, of which only noised features are left; with privacy.method features all of its keys are 0"
            yield Mistake(says, ["augment", "privacy.method"])
