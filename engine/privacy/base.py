"""What a privacy mechanism is: how batches are drawn, a gradient taken and noised, and what a step of it costs.

The algorithms take every gradient through these parts, so that one mechanism serves all of them. No privacy is a
mechanism like any other: `NONE` leaves everything as it is and costs nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from engine.data.samples import Samples, passes
from engine.messages import State
from engine.oracles.base import Batch, Oracle


class Privacy(NamedTuple):
    """A mechanism of one hospital.

    Attributes:
        name: as in the configuration.
        batches: (beats, batch size, random numbers) -> positions of one batch after another, without end.
        gradient: (oracle, parameters, batch) -> loss and gradient, float32[parameters], bounded as the noise needs it.
        noise: the gradient as it is used; a mechanism's own secret stands behind it, never the run's seed.
        price: number of gradients taken -> what a signed update says of the mechanism and its cost; None: nothing.
        steps: gradients of a round, in place of passes over the beats; None: as many as these have batches.
        memory: what joins the hospital's private state after the work.
        shown: the train beats as all of the work sees them.
    """

    name: str
    batches: Callable[[int, int, np.random.Generator], Iterator[np.ndarray]]
    gradient: Callable[[Oracle, np.ndarray, Batch], tuple[float, np.ndarray]]
    noise: Callable[[np.ndarray], np.ndarray]
    price: Callable[[int], dict[str, Any] | None]
    steps: int | None = None
    memory: Callable[[], State] = dict
    shown: Callable[[Samples], Samples] = lambda samples: samples


def plain(oracle: Oracle, params: np.ndarray, batch: Batch) -> tuple[float, np.ndarray]:
    """The gradient of the batch as the oracle has it."""
    return oracle.gradient(params, batch)


def unchanged(gradient: np.ndarray) -> np.ndarray:
    """The gradient as it is."""
    return gradient


def _free(gradients: int) -> None:
    return None


NONE = Privacy("none", passes, plain, unchanged, _free)
