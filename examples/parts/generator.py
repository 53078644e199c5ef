"""Synthetic beats that are real ones with noise: the simplest generator, which a policy must allow by name."""

from collections.abc import Callable

import numpy as np

Made = tuple[np.ndarray, np.ndarray]


def jitter(*, size: float = 0.05) -> Callable[[np.ndarray, np.ndarray, int, np.random.Generator], Made]:
    """From the class's real beats, x float32[n, leads, window] and rr float32[n, features], to as many as are wanted."""

    def make(x: np.ndarray, rr: np.ndarray, wanted: int, draw: np.random.Generator) -> Made:
        rows = draw.integers(len(x), size=wanted)
        noise = np.float32(size) * draw.standard_normal((wanted, *x.shape[1:]), dtype=np.float32)
        return x[rows] + noise, rr[rows]

    return make
