"""DP-SGD without its noise, an own privacy mechanism: Poisson samples and clipped gradients as in `engine/privacy/dpsgd.py`.

The row of sigma 0 in `benchmarks/bpfish.py`: nothing but the noise differs from the others. It protects nobody.
"""

import math
from collections.abc import Iterator

import numpy as np

from engine.oracles.base import Batch, Oracle
from engine.privacy.base import Privacy

_SHORT = 1 - 1e-5  # as in dpsgd.py


def clipped(draw: np.random.Generator, *, rate: float, clip: float, steps: int) -> Privacy:
    """
    Args:
        rate: probability of each beat to be in a batch.
        clip: norm to which each beat's gradient is shortened.
        steps: gradients of a round.
    """
    expected = 0.0

    def batches(n: int, batch_size: int, _: np.random.Generator) -> Iterator[np.ndarray]:
        nonlocal expected
        expected = rate * n
        while True:
            yield np.flatnonzero(draw.random(n) < rate)

    def gradient(oracle: Oracle, params: np.ndarray, batch: Batch) -> tuple[float, np.ndarray]:
        if not len(batch.y):
            return math.nan, np.zeros(len(params), np.float32)
        return math.nan, oracle.clipped_gradient(params, batch, clip * _SHORT).total

    def mean(total: np.ndarray) -> np.ndarray:
        return (total / expected).astype(np.float32)

    return Privacy("clipped", batches, gradient, mean, lambda gradients: None, steps=steps)
