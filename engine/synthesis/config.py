"""Settings of balancing, of generators, and of the policy for synthetic beats."""

from collections.abc import Iterator
from typing import Literal, get_args

from pydantic import Field, field_validator

from engine.data.config import CLASSES, ClassNames
from engine.own.call import OwnSection, Parameters, own_parameters
from engine.own.reference import Own, is_own
from engine.settings import Mistake, Section

Generator = Literal["oversample", "smote", "borderline", "adasyn", "timegan"]
GENERATORS: tuple[Generator, ...] = get_args(Generator)  # numbered from 1 in records and contract, in this order
MOST_GOVERNED = 16  # classes of a policy, a bit each in the contract
OWN_GENERATOR = "own"  # every generator of a user's own, in a policy and in records
NUMBERED = (*GENERATORS, OWN_GENERATOR)
SYNTHETIC = GENERATORS[1:]  # the first repeats real beats; these make new ones, before training starts


def _different(value: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not value or len(set(value)) != len(value):
        raise ValueError("must be different classes, or null for the rare ones")
    return tuple(sorted(value, key=CLASSES.index)) if set(value) <= set(CLASSES) else value


class TimeGanConfig(Section):
    """TimeGAN (Yoon, Jarrett, van der Schaar 2019) as ydata-synthetic has it. A step is one batch in each phase."""

    patch: int = Field(15, ge=1, le=512, description="samples of a beat in one step of the sequence")
    hidden: int = Field(24, ge=2, le=512, description="width of the recurrent layers")
    steps: int = Field(1500, ge=1, le=100_000, description="steps of each of the three phases")
    batch_size: int = Field(64, ge=1, le=4096, description="beats in a batch")
    learning_rate: float = Field(1e-3, gt=0, description="rate of Adam")
    minimum: int = Field(32, ge=2, description="real beats of the class without which nothing is trained")


# Limits of a policy: largest, and least values.
LARGEST = ("quota", "ratio", "share_cap", "max_auc", "max_distance", "max_duplicates", "max_repeated")
LEAST = ("preview", "min_nndr", "min_spread", "min_utility", "min_recognised")


class PolicyConfig(Section):
    """What synthetic beats a hospital may make and use; the ledger keeps it in integers (`engine/ledger/subjects/policy.py`).

    Real beats count as the largest step of 0, 1, 2, 6, 10, 20, 30, 50, 100, 200, 500, ... that they reach.
    """

    mode: Literal["automatic", "human"] = Field("automatic", description="who grants: these rules, or a reviewer too")
    # as many as its picture shows; 20 are what a classifier needs to be tried on
    preview: int = Field(
        30, ge=0, lt=2**16, description="human: beats that a reviewer is shown before a grant; 0 lets him grant blindly"
    )
    classes: ClassNames | None = Field(
        None, description="classes that may be asked for; null: the rare ones, S, V, F of AAMI"
    )
    # both per class and hospital: three times the rarest class of a large hospital, and the ratio of `balance`
    quota: int = Field(1000, ge=0, lt=2**32, description="most beats for each hospital and class")
    ratio: float = Field(5.0, ge=0, le=10_000, description="most beats for each real one")
    share_cap: float = Field(
        0.85, ge=0, le=1, description="largest synthetic share of a class; lets a full ratio of 5 pass"
    )
    # k + 1 for the interpolating ones (borderline asks its 10 nearest, too); a deep generator learns from tens
    min_real: dict[str, int] = Field(
        {"oversample": 1, "smote": 6, "borderline": 11, "adasyn": 6, "timegan": 30},
        description="generators that are allowed -> fewest real beats; given, it replaces all of them",
    )
    # few rare beats support neither number: bounded by default, most requests would fail for want of evidence
    max_auc: float = Field(1.0, ge=0, le=1, description="largest AUC of a classifier that tells synthetic from real")
    min_utility: float = Field(-1.0, ge=-1, le=1, description="least change of the class's recall")
    # docs/synthesis.md has the batches that these were chosen on. What ten real and ten made beats do not support counts
    # as its worst value.
    min_nndr: float = Field(
        0.05, ge=0, le=6, description="least distance to real beats, as a ratio to that between real ones"
    )
    max_distance: float = Field(
        5.0, ge=0, le=6.5535, description="largest distance to real beats, as a ratio to that between real ones"
    )
    max_duplicates: float = Field(
        0.4, ge=0, le=1, description="largest share of a batch that equals a real beat but for noise"
    )
    max_repeated: float = Field(
        0.4, ge=0, le=1, description="largest share of a batch that equals an earlier beat of it but for noise"
    )
    min_spread: float = Field(
        0.15, ge=0, le=6.5535, description="least variance of a batch, as a share of that of the real beats"
    )
    min_recognised: float = Field(
        0.25,
        ge=0,
        le=6.5535,
        description="least recall of the class by who learns it from the batch, as a share of that from real beats",
    )
    # a reviewer's week, and a week for the generation; the embedded chain counts a second for each transaction
    expiry_seconds: int = Field(604_800, ge=3600, lt=2**32, description="time to decide, and then to report")

    @property
    def looser(self) -> dict[str, tuple[float, float]]:
        """Limits that let through what the default would not: name -> value, default. Ledger, audit and report tell them."""
        fields = type(self).model_fields
        found = {name: (getattr(self, name), fields[name].default) for name in LARGEST + LEAST}
        if self.mode == "automatic":
            del found["preview"]  # nobody looks
        signs = dict.fromkeys(LARGEST, 1) | dict.fromkeys(LEAST, -1)
        loose = {name: pair for name, pair in found.items() if signs[name] * (pair[0] - pair[1]) > 0}
        fewest = fields["min_real"].default
        return loose | {
            f"min_real.{name}": (number, fewest[name])
            for name, number in self.min_real.items()
            if number < fewest[name]
        }

    @property
    def loose(self) -> str:
        """The same in words; "" where the policy is as strict as the default."""
        return ", ".join(f"{name} {value:g} (default {default:g})" for name, (value, default) in self.looser.items())

    @field_validator("classes")
    @classmethod
    def _classes(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return _different(value)

    @field_validator("min_real")
    @classmethod
    def _generators(cls, value: dict[str, int]) -> dict[str, int]:
        if not set(value) <= set(NUMBERED) or not all(0 <= n < 2**16 for n in value.values()):
            raise ValueError(f"must map generators out of {', '.join(NUMBERED)} to numbers of 0 to 65535")
        return value


class BalanceConfig(OwnSection):
    """Class balancing of each hospital's own train data."""

    PART = "method"

    method: Literal["none", "class_weighted", "public_weights", "logit_adjustment", Generator] | Own = Field(
        "none",
        union_mode="left_to_right",
        description="change the loss, repeat real beats, or add synthetic ones, also by a generator of your own",
    )
    parameters: Parameters = own_parameters()
    classes: ClassNames | None = Field(
        None, description="classes that may get more beats; null: the rare ones, S, V, F of AAMI"
    )
    target: float = Field(0.5, gt=0, le=1, description="size to bring a class to, as a share of the largest class")
    ratio: float = Field(5.0, gt=0, description="at most this many added beats for each real one")
    quota: int = Field(1000, ge=1, description="at most this many added beats for each hospital and class")
    budget: Literal["all", "real"] = Field(
        "all", description="an epoch has the batches of all beats, or only as many as of the real ones, drawn from all"
    )
    neighbours: int = Field(5, ge=1, description="smote, borderline, adasyn: k, which needs k + 1 real beats")
    seed: int | None = Field(
        None, ge=0, description="seed of repeated and synthetic beats; null: the run's. Given, repeats share generators"
    )
    weights: dict[str, float] | None = Field(
        None,
        description="public_weights: factor on the loss of each class's beats, 1 for the others; not counted from any data",
    )
    max_weight: float = Field(20.0, ge=1, description="class_weighted: largest weight of a class")
    tau: float = Field(1.0, ge=0, description="logit_adjustment: factor on the logarithm of the class shares")
    timegan: TimeGanConfig = TimeGanConfig()
    policy: PolicyConfig = PolicyConfig()

    def clashes(self) -> Iterator[Mistake]:
        """Weights that are missing or impossible."""
        yield from super().clashes()
        if self.method == "public_weights" and self.weights is None:
            yield Mistake(
                "balance.method public_weights needs balance.weights, such as {S: 5, V: 2}", ["method", "weights"]
            )
        if self.method == "oversample" and self.policy.mode == "human" and self.policy.preview:
            yield Mistake(
                "balance.method oversample repeats real beats, which no reviewer of another organisation may see: with "
                "balance.policy.mode human it needs balance.policy.preview 0",
                ["method", "policy.mode", "policy.preview"],
            )
        if any(not 0 <= weight <= 1e6 for weight in (self.weights or {}).values()):
            yield Mistake("balance.weights must be numbers from 0 to 1e6", ["weights"])

    @field_validator("classes")
    @classmethod
    def _classes(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return _different(value)


_ADDING = ("classes", "target", "ratio", "quota", "budget", "seed")
# What each balancing method reads besides its name.
BALANCE_KEYS: dict[str, tuple[str, ...]] = {
    "none": (),
    "class_weighted": ("max_weight",),
    "public_weights": ("weights",),
    "logit_adjustment": ("tau",),
    "oversample": _ADDING,
    "smote": (*_ADDING, "neighbours", "policy"),
    "borderline": (*_ADDING, "neighbours", "policy"),
    "adasyn": (*_ADDING, "neighbours", "policy"),
    "timegan": (*_ADDING, "timegan", "policy"),
}
OWN_KEYS = (*_ADDING, "parameters", "policy")


def balance_keys(method: str) -> tuple[str, ...]:
    """What a balancing method reads besides its name."""
    return OWN_KEYS if is_own(method) else BALANCE_KEYS[method]


def makes_beats(method: str) -> bool:
    """Whether a balancing method makes new beats, before training starts."""
    return is_own(method) or method in SYNTHETIC


def numbered(method: str) -> str:
    """The name of a generator in policies and records."""
    return OWN_GENERATOR if is_own(method) else method
