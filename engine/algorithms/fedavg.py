"""FedAvg, FedProx, and the reference lines without and with pooled data.

FedAvg: McMahan et al. 2017 (arXiv 1602.05629). FedProx: Li et al. 2020 (arXiv 1812.06127).
"""

import numpy as np

from engine.algorithms.base import LocalResult, Samples, State, sgd
from engine.algorithms.config import FederationConfig
from engine.oracles.base import Oracle


def epochs(config: FederationConfig, mu: float = 0.0):  # type: ignore[no-untyped-def]
    """Local work: `local_epochs` passes of SGD from the global model, with FedProx's pull when mu > 0."""

    def local(
        oracle: Oracle, params: np.ndarray, state: State, samples: Samples, draw: np.random.Generator, round: int
    ) -> LocalResult:
        steps = config.local_epochs * samples.batches(config.batch_size)
        rate = config.learning_rate * config.decay ** (round - 1)
        anchor = (params, mu) if mu > 0 else None
        trained, loss = sgd(oracle, params, samples, draw, steps, config.batch_size, rate, anchor)
        return LocalResult(trained - params, loss, steps)

    return local


def alone(config: FederationConfig):  # type: ignore[no-untyped-def]
    """Local-only: each hospital goes on from its own model, and sends nothing (an update of zeros)."""
    local = epochs(config)

    def step(
        oracle: Oracle, params: np.ndarray, state: State, samples: Samples, draw: np.random.Generator, round: int
    ) -> LocalResult:
        own = state.get("params", params)
        result = local(oracle, own, {}, samples, draw, round)
        state = {"params": own + result.update}
        return LocalResult(np.zeros_like(params), result.loss, result.gradient_evaluations, state)

    return step


def own_model(
    oracle: Oracle, params: np.ndarray, state: State, samples: Samples, draw: np.random.Generator
) -> tuple[np.ndarray, int]:
    """The personal model of local-only: what the hospital trained; one that never trained keeps the given model."""
    return state.get("params", params), 0
