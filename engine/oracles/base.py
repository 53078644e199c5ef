"""The oracle: what an algorithm may ask of a network, over flat float32 vectors.

Every algorithm goes through `gradient`, `hessian_vector` and `scores`, so that a faster oracle speeds up all of them,
and a hand-solvable one can check all of them.
"""

from typing import NamedTuple, Protocol

import numpy as np


class Batch(NamedTuple):
    """Beats: x float32[n, leads, window], rr float32[n, features], y int[n]; and what changes their loss.

    Attributes:
        class_weight: float32[classes], factor on the loss of each class's beats. The mean is over n all the same.
        logit_offset: float32[classes], added to the logits in the loss, not in `scores`.
        patient: int[n], a number of each beat's patient, where somebody wants to know.
    """

    x: np.ndarray
    rr: np.ndarray
    y: np.ndarray
    class_weight: np.ndarray | None = None
    logit_offset: np.ndarray | None = None
    patient: np.ndarray | None = None


def require_clip(clip: float, batch: Batch) -> None:
    """
    Raises:
        ValueError: no gradients can be clipped to this, or the batch has logit offsets.
    """
    if not clip > 0:
        raise ValueError(f"clip must be above 0, not {clip}")
    if batch.logit_offset is not None:
        raise ValueError("clipped gradients know no logit offsets")


class Clipped(NamedTuple):
    """A sum of clipped gradients.

    Attributes:
        total: sum over the beats of each one's gradient, shortened to the norm, float32[parameters].
        longer: beats whose gradient was longer.
        zeroed: beats whose gradient was not finite, and counts zero.
    """

    total: np.ndarray
    longer: int
    zeroed: int


class Oracle(Protocol):
    """Mean cross-entropy of a network on a batch, and its derivatives."""

    def gradient(self, params: np.ndarray, batch: Batch) -> tuple[float, np.ndarray]:
        """The loss and its gradient, float32[parameters]."""
        ...

    def clipped_gradient(self, params: np.ndarray, batch: Batch, clip: float) -> Clipped:
        """The gradients of all beats' own losses, each shortened to norm `clip` where longer, added up; of at least one beat."""
        ...

    def hessian_vector(self, params: np.ndarray, batch: Batch, vector: np.ndarray) -> np.ndarray:
        """The Hessian of the loss times `vector`, float32[parameters]."""
        ...

    def scores(self, params: np.ndarray, x: np.ndarray, rr: np.ndarray) -> np.ndarray:
        """Logits, float32[n, classes]."""
        ...
