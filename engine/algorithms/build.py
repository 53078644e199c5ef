"""From the configuration to an algorithm."""

import numpy as np

from engine.algorithms.base import Algorithm, Personalise, Work, sgd
from engine.algorithms.config import FederationConfig, PersonalisationConfig
from engine.algorithms.fedavg import alone, epochs, own_model
from engine.algorithms.perfedavg import meta_steps


def build_algorithm(federation: FederationConfig, personalisation: PersonalisationConfig) -> Algorithm:
    """The algorithm of a configuration."""
    weighting = "samples" if federation.weighting == "auto" else federation.weighting
    adapt = finetune(federation, personalisation)
    match federation.algorithm:
        case "fedavg":
            return Algorithm(epochs(federation), adapt, weighting)
        case "fedprox":
            return Algorithm(epochs(federation, federation.mu), adapt, weighting)
        case "perfedavg":
            # the paper takes the plain mean: every hospital's personalised loss counts the same
            uniform = "uniform" if federation.weighting == "auto" else federation.weighting
            return Algorithm(meta_steps(federation), adapt, uniform)
        case "local":
            return Algorithm(alone(federation), own_model, "none")
        case "centralised":
            return Algorithm(epochs(federation), adapt, "samples", pooled=True)


def finetune(federation: FederationConfig, personalisation: PersonalisationConfig) -> Personalise:
    """Personalisation by plain SGD from the global model; for Per-FedAvg that is its adaptation, at rate alpha."""
    rate = personalisation.learning_rate
    if rate is None:
        meta = federation.algorithm == "perfedavg"
        rate = federation.perfedavg.alpha if meta else federation.learning_rate

    def personalise(work: Work) -> tuple[np.ndarray, int]:
        steps = personalisation.steps
        if personalisation.epochs is not None:
            steps = max(1, round(personalisation.epochs * work.samples.batches(federation.batch_size)))
        personal, _ = sgd(work, steps, federation.batch_size, rate)
        return personal, steps

    return keep if personalisation.method == "none" else personalise


def keep(work: Work) -> tuple[np.ndarray, int]:
    """No personalisation: the global model as it is."""
    return work.params, 0
