"""The median of each entry of the updates, whatever the hospitals' sizes (Yin et al. 2018, arXiv 1803.01498)."""

from collections.abc import Callable

import numpy as np


def median(*, shrink: float = 1.0) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """From updates float32[n, parameters] and weights float64[n] to the direction float64[parameters]."""

    def combine(updates: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return shrink * np.median(updates.astype(np.float64), axis=0)

    return combine
