"""The weighted mean of the updates.

Sums run in fixed point: each weighted update is rounded to a multiple of 2^-36 and added as a 64-bit integer. Integer
addition has no order, so hosts may add up their own hospitals first, in any layout, and the last bit of the model stays
the same. Rounding costs at most 2^-37 of one weighted entry, far below what float32 parameters can show.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from engine.errors import PulseLedgerError
from engine.messages import LoopState, Taken, Update, Verdicts

NAME = "mean/fixed-36"

SCALE = 2.0**36
LIMIT = 2.0**24  # of a weighted entry: training that works stays far below, and a few such still fit into 64 bits


def add(summed: np.ndarray, weight: float, update: np.ndarray) -> int:
    """Adds one update times its weight to int64[parameters] in units of 2^-36, in place.

    Returns:
        The largest absolute value that was added to an entry, for a bound on the sum.

    Raises:
        PulseLedgerError: an entry is so large that sums might overflow; no training that works comes near.
    """
    scaled = update.astype(np.float64)
    scaled *= weight * SCALE  # a power of two: the product is rounded as without it
    np.rint(scaled, out=scaled)
    largest = float(max(scaled.max(initial=0.0), -scaled.min(initial=0.0)))
    if not largest < LIMIT * SCALE:
        raise PulseLedgerError(
            f"an update times its weight of {weight:g} reaches {largest / SCALE:.3g}, the limit is {LIMIT:g}; "
            "the training diverges, try a smaller learning rate"
        )
    summed += scaled.astype(np.int64)
    return int(largest)


def total(parts: Iterable[np.ndarray], size: int) -> np.ndarray:
    """The sum of such sums, int64[size]: updates may be added in groups.

    Raises:
        PulseLedgerError: the sum might not fit into 64 bits.
    """
    summed, bound = np.zeros(size, np.int64), 0
    for part in parts:
        bound += int(np.abs(part).max(initial=0))
        require_room(bound)
        summed += part
    return summed


def require_room(bound: int) -> None:
    """Refuses a sum whose entries may reach `bound`: beyond 64 bits integers wrap without a word."""
    if bound >= 2**63:
        raise PulseLedgerError("the updates of a round are too large to add up; the training diverges")


def weight(weighting: str, samples: int) -> float:
    """The weight of one hospital's update under "samples", "uniform" or "none"."""
    return {"samples": float(samples), "uniform": 1.0, "none": 0.0}[weighting]


def partial(weighting: str) -> Callable[[Sequence[Update], int], tuple[np.ndarray, dict[int, str]]]:
    """The part of the sum that one host makes: int64[parameters], and why single updates are not in it."""

    def summed(updates: Sequence[Update], size: int) -> tuple[np.ndarray, dict[int, str]]:
        result, bound, refused = np.zeros(size, np.int64), 0, {}
        for update in updates:
            assert update.vector is not None
            try:
                bound += add(result, weight(weighting, update.samples) * update.discount, update.vector)
            except PulseLedgerError as error:
                refused[update.hospital] = str(error)
        require_room(bound)
        return result, refused

    return summed


def direction(weighting: str, of_models: bool = False) -> Callable[[LoopState, Taken, Verdicts], np.ndarray | None]:
    """The mean itself: the sum divided by 2^36 times the sum of the weights, in float64; None when that is zero.

    The weights in the divisor are those without the schedule's discount: a buffer of old updates makes a small step.

    Args:
        of_models: what is averaged are the hospitals' models, not their changes: what began from an older model pulls back
            towards it.
    """

    def mean(state: LoopState, taken: Taken, verdicts: Verdicts) -> np.ndarray | None:
        weights = sum(weight(weighting, update.samples) for update in taken.updates)
        assert taken.summed is not None
        if weights == 0.0:
            return None
        found = np.asarray(taken.summed / (SCALE * weights))
        for update in taken.updates if of_models else ():
            if update.start in state.older:
                back = state.older[update.start].astype(np.float64) - state.params
                found = found + weight(weighting, update.samples) * update.discount / weights * back
        return found

    return mean
