"""Settings of the federated loop, of the algorithms and of personalisation; how readers call each algorithm."""

import math
from typing import Literal, NamedTuple

from pydantic import Field

from engine.own.call import OwnSection, Parameters, own_parameters
from engine.own.reference import Own, reference
from engine.settings import Section


class Method(NamedTuple):
    """An algorithm as a reader knows it.

    Attributes:
        title: its name in tables and pictures.
        trains_global: without, what the loop carries along was never trained, or not whole, and there is no global model
            to speak of.
    """

    title: str
    trains_global: bool = True


METHODS = {
    "fedavg": Method("FedAvg"),
    "fedprox": Method("FedProx"),
    "scaffold": Method("SCAFFOLD"),
    "perfedavg": Method("Per-FedAvg"),
    "ditto": Method("Ditto"),
    "fedper": Method("FedPer", trains_global=False),
    "fedrep": Method("FedRep", trains_global=False),
    "fedbn": Method("FedBN", trains_global=False),
    "local": Method("local-only", trains_global=False),
    "centralised": Method("centralised"),
}


def method_called(algorithm: str) -> Method:
    """The algorithm of a key, as a reader knows it; one of a user's own by the name in its file."""
    own = reference(algorithm)
    return METHODS[algorithm] if own is None else Method(own.brief)


class PerFedAvgConfig(Section):
    """Per-FedAvg (Fallah, Mokhtari, Ozdaglar 2020). The letters are the paper's."""

    variant: Literal["first-order", "difference", "exact"] = Field(
        "difference",
        description="the second-order term: left out, a difference of gradients (the paper's Hessian-free), or exact",
    )
    alpha: float = Field(0.05, ge=0, description="rate of the inner step, also of the adaptation")
    beta: float = Field(0.2, gt=0, description="rate of the outer step")
    tau: int | None = Field(
        None, ge=1, description="meta-steps a round; null takes as many as cost no more gradients than FedAvg's epochs"
    )
    delta: float = Field(1e-2, gt=0, description="length of the central difference of variant difference")
    stratified: bool = Field(True, description="draw support and query batches evenly over the hospital's classes")


class FedRepConfig(Section):
    """FedRep (Collins et al. 2021)."""

    head_steps: int = Field(5, ge=1, le=100_000, description="SGD steps of the head in a round, before all else")


class FederationConfig(OwnSection):
    """The federated loop."""

    PART = "algorithm"

    algorithm: (
        Literal[
            "fedavg", "fedprox", "scaffold", "perfedavg", "ditto", "fedper", "fedrep", "fedbn", "local", "centralised"
        ]
        | Own
    ) = Field(
        "fedavg",
        union_mode="left_to_right",
        description="'local' and 'centralised' are the reference lines without and with pooled data; or one of your own",
    )
    parameters: Parameters = own_parameters()
    rounds: int = Field(20, ge=1, le=100_000, description="number of rounds")
    participation: float = Field(1.0, gt=0, le=1, description="share of hospitals that train in a round")
    local_epochs: int = Field(1, ge=1, le=1000, description="passes over the train data in a round")
    local_steps: int | None = Field(
        None, ge=1, le=1_000_000, description="SGD steps of each hospital in a round, instead of local_epochs"
    )
    batch_size: int = Field(32, ge=1, le=65536, description="beats in a batch")
    learning_rate: float = Field(0.1, gt=0, description="rate of local SGD")
    decay: float = Field(1.0, gt=0, le=1, description="factor on the rates after each round, or step")
    rate: Literal["decay", "cosine", "steps"] = Field(
        "decay",
        description="how rates fall: by decay after each round, along half a cosine to zero, or by decay after each third of the rounds",
    )
    mu: float = Field(0.01, ge=0, description="FedProx: weight of the proximal term")
    ditto_lambda: float = Field(
        0.1, ge=0, description="Ditto: how strongly personal models are pulled to the global one"
    )
    weighting: Literal["auto", "samples", "uniform"] = Field(
        "auto", description="weights of the mean; auto is uniform for perfedavg (as in the paper), else samples"
    )
    validation: Literal["all", "participants"] = Field(
        "all", description="hospitals whose validation beats score each round's model"
    )
    min_hospitals: int | None = Field(None, ge=1, description="go on with this many when hospitals fail; null: all")
    perfedavg: PerFedAvgConfig = PerFedAvgConfig()
    fedrep: FedRepConfig = FedRepConfig()

    def falls(self, round: int) -> float:
        """Factor on the rates in a round, counted from 1.

        >>> [FederationConfig(rounds=6, decay=0.5, rate="steps").falls(round) for round in (1, 2, 3, 5, 6)]
        [1.0, 1.0, 0.5, 0.25, 0.25]
        """
        if self.rate == "decay":
            return self.decay ** (round - 1)
        done = min((round - 1) / self.rounds, 1.0)
        return 0.5 + 0.5 * math.cos(math.pi * done) if self.rate == "cosine" else self.decay ** min(int(3 * done), 2)

    @property
    def method(self) -> Method:
        """The algorithm as a reader knows it, with its variant.

        >>> FederationConfig(algorithm="perfedavg").method.title
        'Per-FedAvg difference'
        """
        plain = method_called(self.algorithm)
        if self.algorithm == "perfedavg":
            return plain._replace(title=f"{plain.title} {self.perfedavg.variant}")
        return plain


class PersonalisationConfig(Section):
    """What each hospital does with the final global model, on its own train data only."""

    method: Literal["none", "finetune", "lp-ft", "safeguarded"] = Field(
        "finetune",
        description="SGD from the global model, the head before all else, only what validation bears out, or nothing",
    )
    steps: int = Field(10, ge=1, description="number of SGD steps")
    epochs: float | None = Field(None, gt=0, description="passes over the train data instead of `steps`")
    learning_rate: float | None = Field(
        None, gt=0, description="null: perfedavg.alpha for Per-FedAvg, else federation.learning_rate"
    )
    batch_size: int | None = Field(None, ge=1, le=65536, description="beats in a batch; null: federation.batch_size")
    rate: Literal["constant", "falling"] | None = Field(
        None, description="the rate over the steps, falling to zero; null: constant with finetune, else falling"
    )
    part: Literal["all", "head"] = Field("all", description="what moves: everything, or the last layer only")
    pull: float | None = Field(
        None, ge=0, description="weight of the proximal pull to the global model; null: 0.1 with safeguarded, else 0"
    )
    keep: Literal["last", "half-way", "best-on-validation"] = Field(
        "last", description="what is kept of the steps: their end, half of the way there, or the best of four places"
    )
