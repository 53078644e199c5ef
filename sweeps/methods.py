"""How a study calls its methods: an algorithm, and what is put on top of it."""

from typing import NamedTuple

from engine.algorithms.config import Method
from engine.config import RunConfig
from engine.own.reference import reference
from engine.reads import why_unread

# what a name says besides the algorithm, and the value of which it says nothing
ADDED = (
    ("model", "network", "cnn"),
    ("balance", "method", "none"),
    ("aggregation", "rule", "mean"),
    ("aggregation", "mix", "none"),
    ("schedule", "mode", "synchronous"),
    ("selection", "policy", "random"),
)
ADAPTS = ("perfedavg", "ditto", "local")  # their last local steps are part of the method, not something added to it


class Named(NamedTuple):
    """A method as a reader knows it.

    Attributes:
        title: its name in sentences, tables, pictures and MLflow.
        algorithm: its key.
        trains_global: whether there is a whole global model to speak of.
        adapts: whether the personal models are others than the global one.
    """

    title: str
    algorithm: str
    trains_global: bool
    adapts: bool

    @property
    def alone(self) -> bool:
        """Whether each hospital trains by itself."""
        return self.algorithm == "local"

    @property
    def pools(self) -> bool:
        """Whether it takes all beats to one place, which no federation may: a line to compare with."""
        return self.algorithm == "centralised"


def _privacy(config: RunConfig) -> list[str]:
    """How private it is asked to be, which is what two such methods differ by."""
    private, own = config.privacy, reference(config.privacy.method)
    if private.method == "none":
        return []
    if own is not None:
        return [own.brief]
    asked = f"epsilon {private.epsilon:g}" if private.epsilon is not None else f"noise {private.noise:g}"
    if private.method == "features":
        return [f"{asked} of features by {private.normalisation}, {private.release}"]
    return [asked if private.unit == "beat" else f"{asked} a {private.unit}"]


def method_of(config: RunConfig) -> Named:
    """The method of a run.

    >>> method_of(RunConfig()).title
    'FedAvg + fine-tuning'
    """
    plain: Method = config.federation.method
    algorithm, adapts = config.federation.algorithm, config.personalisation.method != "none"
    words = [plain.title]
    if adapts and algorithm not in ADAPTS:
        words.append("fine-tuning" if config.personalisation.method == "finetune" else config.personalisation.method)
    if (server := config.aggregation.server.method) != "none":
        words.append(f"server {server}")
    for section, key, neutral in ADDED:
        if why_unread(config, f"{section}.{key}"):
            continue
        if (value := getattr(getattr(config, section), key)) != neutral:
            own = reference(value)
            words.append(own.brief if own is not None else value.replace("_", " "))
    words += _privacy(config)
    return Named(" + ".join(words), algorithm, plain.trains_global, adapts and plain.trains_global)
