"""FedAvg, FedProx, and the reference lines without and with pooled data.

FedAvg: McMahan et al. 2017 (arXiv 1602.05629). FedProx: Li et al. 2020 (arXiv 1812.06127).
"""

import numpy as np

from engine.algorithms.base import Local, LocalResult, Work, sgd
from engine.algorithms.config import FederationConfig


def epochs(config: FederationConfig, mu: float = 0.0) -> Local:
    """Local work: `local_epochs` passes of SGD from the global model, with FedProx's pull when mu > 0."""

    def local(work: Work) -> LocalResult:
        steps = work.steps(config.local_epochs, config.batch_size)
        rate = config.learning_rate * config.decay ** (work.round - 1)
        anchor = (work.params, mu) if mu > 0 else None
        trained, loss = sgd(work, steps, config.batch_size, rate, anchor)
        return LocalResult(trained - work.params, loss, steps)

    return local


def alone(config: FederationConfig) -> Local:
    """Local-only: each hospital goes on from its own model, and sends nothing (an update of zeros)."""
    train = epochs(config)

    def local(work: Work) -> LocalResult:
        own = work.state.get("params", work.params)
        result = train(work.starting_from(own))
        state = {"params": own + result.update}
        return LocalResult(np.zeros_like(work.params), result.loss, result.gradient_evaluations, state)

    return local


def own_model(work: Work) -> tuple[np.ndarray, int]:
    """The personal model of local-only: what the hospital trained; one that never trained keeps the given model."""
    return work.state.get("params", work.params), 0
