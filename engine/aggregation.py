"""Aggregation: from the hospitals' updates to the next global model."""

from collections.abc import Sequence

import numpy as np


def weighted_mean(params: np.ndarray, updates: Sequence[tuple[float, np.ndarray]]) -> np.ndarray:
    """The global parameters plus the weighted mean of the updates.

    The sum runs in float64 and in the order given, which is the order of hospital ids: the last bit may not depend on
    which hospital answered first, nor on where it lives. The audit of the ledger repeats exactly this.

    Args:
        params: float32[parameters].
        updates: (weight, float32[parameters]) for each hospital; if all weights are zero, the model stays as it is.

    Returns:
        float32[parameters], a new array.
    """
    total = float(sum(weight for weight, _ in updates))
    if total == 0.0:
        return params.copy()
    mean = np.zeros(len(params), np.float64)
    for weight, update in updates:
        mean += weight * update.astype(np.float64)
    return (params.astype(np.float64) + mean / total).astype(np.float32)


def weight(weighting: str, samples: int) -> float:
    """The weight of one hospital's update under "samples", "uniform" or "none"."""
    return {"samples": float(samples), "uniform": 1.0, "none": 0.0}[weighting]
