"""Federated algorithms: from the configuration to a record of pure functions."""

import numpy as np

from engine.algorithms.base import Algorithm, Samples, State, sgd
from engine.algorithms.config import FederationConfig, PersonalisationConfig
from engine.algorithms.fedavg import alone, epochs, own_model
from engine.algorithms.perfedavg import meta_steps
from engine.oracles.base import Oracle


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


def finetune(federation: FederationConfig, personalisation: PersonalisationConfig):  # type: ignore[no-untyped-def]
    """Personalisation by plain SGD from the global model; for Per-FedAvg that is its adaptation, at rate alpha."""
    rate = personalisation.learning_rate
    if rate is None:
        meta = federation.algorithm == "perfedavg"
        rate = federation.perfedavg.alpha if meta else federation.learning_rate

    def personalise(
        oracle: Oracle, params: np.ndarray, state: State, samples: Samples, draw: np.random.Generator
    ) -> tuple[np.ndarray, int]:
        steps = personalisation.steps
        if personalisation.epochs is not None:
            steps = max(1, round(personalisation.epochs * samples.batches(federation.batch_size)))
        personal, _ = sgd(oracle, params, samples, draw, steps, federation.batch_size, rate)
        return personal, steps

    def keep(
        oracle: Oracle, params: np.ndarray, state: State, samples: Samples, draw: np.random.Generator
    ) -> tuple[np.ndarray, int]:
        return params, 0

    return keep if personalisation.method == "none" else personalise
