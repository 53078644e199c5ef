"""What hostile hospitals send in place of an update, as they know the honest ones: float64 arithmetic, float32 sent.

ipm       -strength * mean of the honest updates                        Xie et al. 2019, arXiv 1903.03936
alie      mean - z * standard deviation, coordinate by coordinate       Baruch et al. 2019, arXiv 1902.06156
mimic     what the honest hospital sends that sticks out most           Karimireddy et al. 2022, arXiv 2006.09365
copycat   what the honest hospital with the lowest id sends
adaptive  -strength * mean, with the strength that moves the rule in use furthest against the honest mean, found by
          bisection, in the manner of Fang et al. 2020 (arXiv 1911.11815) and Shejwalkar, Houmansadr 2021
"""

from collections.abc import Callable, Mapping
from statistics import NormalDist

import numpy as np

from engine.messages import State

WARM_UP = 3  # rounds in which mimic looks for the direction before it settles on whom to copy
DIRECTION, COPIED = "mimic.direction", "mimic.copied"

Vectors = Mapping[int, np.ndarray]  # honest hospital -> float32[P]


def alie_z(hospitals: int, hostile: int) -> float:
    """The largest z at which the attackers with those honest hospitals that lie beyond make a majority.

    >>> round(alie_z(20, 4), 3)
    0.157
    """
    needed = hospitals // 2 + 1 - hostile
    honest = hospitals - hostile
    share = (honest - needed) / honest
    return max(0.0, NormalDist().inv_cdf(share)) if 0 < share < 1 else 0.0


def ipm(honest: Vectors, strength: float) -> np.ndarray:
    """Inner-product manipulation: against the honest mean, float32[P]."""
    return (-strength * _stacked(honest).mean(0)).astype(np.float32)


def alie(honest: Vectors, z: float) -> np.ndarray:
    """A little is enough: within the spread of the honest ones, but all on one side, float32[P]."""
    points = _stacked(honest)
    return (points.mean(0) - z * points.std(0)).astype(np.float32)


def copycat(honest: Vectors) -> np.ndarray:
    """No work, somebody else's update, float32[P]."""
    return honest[min(honest)].copy()


def mimic(honest: Vectors, round: int, memory: State) -> tuple[np.ndarray, State]:
    """All attackers copy one honest hospital, so that it counts for many, float32[P].

    Args:
        round: from 1 on since the attack began.
        memory: of earlier rounds: the direction in which honest updates differ most, by one power iteration a round, and
            after `WARM_UP` rounds the hospital that is copied from then on. Where it is not in the round, the first one is.
    """
    points = _stacked(honest)
    apart = points - points.mean(0)
    direction = memory.get(DIRECTION, np.ones(points.shape[1]))
    along = apart @ direction
    settled = memory.get(COPIED)
    if settled is None:
        new = along @ apart
        length = float(np.linalg.norm(new))
        direction = new / length if length > 0 else direction
        who = sorted(honest)[int(np.argmax(apart @ direction))]
        kept: State = {DIRECTION: direction}
        if round >= WARM_UP:
            kept = {DIRECTION: direction, COPIED: np.array(who)}
    else:
        who, kept = int(settled), {DIRECTION: direction, COPIED: settled}
    return honest.get(who, honest[min(honest)]).copy(), kept


def adaptive(honest: Vectors, merge: Callable[[np.ndarray], np.ndarray], steps: int = 8) -> np.ndarray:
    """The multiple of the honest mean, turned round, that does most harm under the rule in use, float32[P].

    Args:
        merge: what all attackers send, float32[P] -> the rule's direction with it, float64[P].
        steps: of halving between the best power of two and its neighbours.
    """
    mean = _stacked(honest).mean(0)

    def harm(strength: float) -> float:
        return float(mean @ (mean - merge((-strength * mean).astype(np.float32))))

    powers = [2.0**k for k in range(-3, 7)]
    best = max(powers, key=harm)
    low, high = best / 2, best * 2
    for _ in range(steps):
        left, right = (low + best) / 2, (best + high) / 2
        if harm(left) > harm(best):
            best, high = left, best
        elif harm(right) > harm(best):
            low, best = best, right
        else:
            low, high = left, right
    return (-best * mean).astype(np.float32)


def _stacked(honest: Vectors) -> np.ndarray:
    return np.array([honest[h] for h in sorted(honest)], np.float64)
