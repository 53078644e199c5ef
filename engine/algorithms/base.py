"""What an algorithm is: a frozen record of pure functions over flat float32 vectors and explicit state."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from engine.data.samples import NO_SAMPLES, Samples
from engine.messages import State
from engine.model import Layout
from engine.oracles.base import Batch, Oracle
from engine.privacy.base import NONE, Privacy


@dataclass(frozen=True)
class Work:
    """Everything that one hospital's work may use.

    Attributes:
        oracle: of the network.
        layout: name and shape of each tensor in the flat vector, for methods that treat parts of it apart.
        params: float32[parameters], the global model; never written to.
        state: the hospital's private state after its last round; never written to.
        samples: its train beats.
        draw: random numbers of this round and hospital.
        round: from 1, or as many as its jobs would be in time with the others; 0 when the final model is personalised.
        privacy: the mechanism that every gradient goes through.
        validation: its validation beats, to choose by; no gradient is taken of them.
        share: of the configured work that is to be done; 1 but where the schedule cuts it.
    """

    oracle: Oracle
    layout: Layout
    params: np.ndarray
    state: State
    samples: Samples
    draw: np.random.Generator
    round: int = 0
    privacy: Privacy = NONE
    validation: Samples = NO_SAMPLES
    share: float = 1.0

    def gradient(self, params: np.ndarray, batch: Batch) -> tuple[float, np.ndarray]:
        """Loss and gradient at `params`, float32[parameters], through the privacy mechanism."""
        loss, gradient = self.privacy.gradient(self.oracle, params, batch)
        return loss, self.privacy.noise(gradient)

    def batches(self, batch_size: int, draw: np.random.Generator | None = None) -> Iterator[np.ndarray]:
        """Positions of one batch after another, without end; `draw` where streams must be independent."""
        return self.privacy.batches(len(self.samples), batch_size, self.draw if draw is None else draw)

    def steps(self, epochs: int, batch_size: int) -> int:
        """Gradients in so many passes over the beats, or as the mechanism says."""
        if self.privacy.steps is not None:
            return self.privacy.steps
        return self.cut(epochs * self.samples.batches(batch_size))

    def cut(self, steps: int) -> int:
        """The share of so many steps that is to be done."""
        return min(steps, max(1, round(self.share * steps)))

    def starting_from(self, params: np.ndarray) -> "Work":
        """The same work from other parameters."""
        return replace(self, params=params)


@dataclass(frozen=True)
class LocalResult:
    """What one hospital's work of one round gives.

    Attributes:
        update: float32[parameters], what the server receives: the change of the parameters.
        loss: mean loss over the batches that were stepped on.
        gradient_evaluations: gradients of one batch that were computed; a Hessian-vector product counts as `perfedavg.PRODUCT`.
        state: the hospital's private state after the round.
    """

    update: np.ndarray
    loss: float
    gradient_evaluations: int
    state: State = field(default_factory=dict)


Local = Callable[[Work], LocalResult]
Personalise = Callable[[Work], tuple[np.ndarray, int]]  # personal parameters, gradient evaluations


@dataclass(frozen=True)
class Algorithm:
    """A federated algorithm.

    Attributes:
        local: a hospital's work in one round.
        personalise: from the final global model to the hospital's own, on its train data only.
        weighting: how updates are averaged; "none" leaves the global model as it is.
        pooled: one imaginary hospital holds everybody's train data and works alone.
    """

    local: Local
    personalise: Personalise
    weighting: Literal["samples", "uniform", "none"]
    pooled: bool = False


Bend = Callable[[np.ndarray, np.ndarray], np.ndarray]  # parameters, gradient there -> what is stepped along


def straight(params: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The gradient as it is."""
    return gradient


def pulled(point: np.ndarray, weight: float) -> Bend:
    """Adds `weight / 2 * |params - point|^2` to the loss, FedProx's proximal term."""
    if weight == 0:
        return straight
    return lambda params, gradient: gradient + np.float32(weight) * (params - point)


def within(moving: np.ndarray, bend: Bend = straight) -> Bend:
    """Only the parameters where bool[parameters] is true move."""
    return lambda params, gradient: np.where(moving, bend(params, gradient), np.float32(0))


def sgd(
    work: Work,
    steps: int,
    batch_size: int,
    rate: float | Callable[[int], float],
    bend: Bend = straight,
    after: Callable[[int, np.ndarray], None] = lambda step, params: None,
) -> tuple[np.ndarray, float]:
    """Plain SGD over the batches of `work`, from its parameters.

    Args:
        rate: of all steps, or of each, from 0.
        bend: what is stepped along, given the gradient.
        after: told the number of steps that are done and the parameters after each; it must not keep them.

    Returns:
        The new parameters (the given ones are not touched) and the mean loss of the batches, as the oracle has it.
    """
    params = work.params.copy()
    losses = []
    batches = work.batches(batch_size)
    for step in range(steps):
        loss, gradient = work.gradient(params, work.samples.batch(next(batches)))
        params -= np.float32(rate(step) if callable(rate) else rate) * bend(params, gradient)
        losses.append(loss)
        after(step + 1, params)
    return params, float(np.mean(losses)) if losses else 0.0
