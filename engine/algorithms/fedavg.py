"""FedAvg, FedProx, and the reference lines without and with pooled data.

FedAvg: McMahan et al. 2017 (arXiv 1602.05629). FedProx: Li et al. 2020 (arXiv 1812.06127).
"""

import numpy as np

from engine.algorithms.base import Bend, Local, LocalResult, Personalise, Work, pulled, sgd, straight
from engine.algorithms.config import FederationConfig


def steps_of(config: FederationConfig, work: Work) -> int:
    """SGD steps of a hospital's round."""
    if config.local_steps is not None and work.privacy.steps is None:
        return work.cut(config.local_steps)
    return work.steps(config.local_epochs, config.batch_size)


def rate_of(config: FederationConfig, round: int) -> float:
    """Rate of local SGD in a round."""
    return config.learning_rate * config.falls(round)


def trained(config: FederationConfig, work: Work, bend: Bend = straight) -> tuple[np.ndarray, float, int]:
    """A round's plain SGD: parameters, mean loss, steps."""
    steps = steps_of(config, work)
    params, loss = sgd(work, steps, config.batch_size, rate_of(config, work.round), bend)
    return params, loss, steps


def epochs(config: FederationConfig, mu: float = 0.0) -> Local:
    """Local work: `local_epochs` passes of SGD from the global model, with FedProx's pull when mu > 0."""

    def local(work: Work) -> LocalResult:
        params, loss, steps = trained(config, work, pulled(work.params, mu))
        return LocalResult(params - work.params, loss, steps)

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


def own_model(config: FederationConfig) -> Personalise:
    """The personal model of local-only: what the hospital trained.

    One that never trained, as one that was not there, trains on its own minutes now, for as many rounds as the others.
    """
    return kept_or_alone(config, alone(config), "params")


def kept_or_alone(config: FederationConfig, train: Local, name: str) -> Personalise:
    """The model `name` of a hospital's private state; one that has none comes to it now, by itself."""

    def personalise(work: Work) -> tuple[np.ndarray, int]:
        if name in work.state:
            return work.state[name], 0
        return rounds_alone(config, work, train, name)

    return personalise


def rounds_alone(config: FederationConfig, work: Work, train: Local, name: str) -> tuple[np.ndarray, int]:
    """What a hospital that was not there comes to in as many rounds as the others had: its private `name`, and the cost."""
    state, spent = dict(work.state), 0
    for round in range(1, config.rounds + 1):
        result = train(Work(**{**vars(work), "state": state, "round": round}))
        state, spent = {**state, **result.state}, spent + result.gradient_evaluations
    return state[name], spent
