"""How long a round takes whose updates go through blocks that miners race for, and the rate of blocks at which it takes least.

The model of BlockFL (Kim, Park, Bennis, Kim 2020, IEEE Communications Letters 24(6), arXiv 1808.03949): hospitals work and upload (`wait`
seconds, until the last has come in), N miners begin a proof of work together, each done after an exponential time of `rate` blocks a
second; the first block is on its way to the others for `spread` seconds. If another miner finds its own meanwhile the chain forks, and
the round begins anew. Derived here:

    fork        p = 1 - exp(-rate (N - 1) spread)         the others' remaining times are exponential again
    latency     (wait + 1 / (rate N) + spread) / (1 - p)  attempts are geometric
    best rate   2 / (c (1 + sqrt(1 + 4 N A / c)))         c = (N - 1) spread, A = wait + spread; the derivative's only root
"""

import math
from collections.abc import Sequence

import numpy as np


def fork(rate: float, miners: int, spread: float) -> float:
    """Chance that an attempt forks.

    >>> fork(1.0, 1, 5.0)
    0.0
    """
    return -math.expm1(-rate * (miners - 1) * spread)


def latency(wait: float, rate: float, miners: int, spread: float) -> float:
    """Mean seconds of a round, forks and all; infinite where none ever gets through.

    >>> latency(3.0, 0.5, 1, 1.0)
    6.0
    """
    through = math.exp(-rate * (miners - 1) * spread)
    return (wait + 1 / (rate * miners) + spread) / through if through else math.inf


def best_rate(wait: float, miners: int, spread: float) -> float:
    """Blocks a second of each miner at which a round takes least; infinite where nothing can fork."""
    c = (miners - 1) * spread
    if c == 0:
        return math.inf
    return 2 / (c * (1 + math.sqrt(1 + 4 * miners * (wait + spread) / c)))


def simulated(
    waits: Sequence[float], rate: float, miners: int, spread: float, rounds: int, draw: np.random.Generator
) -> np.ndarray:
    """float64[rounds]: seconds of rounds that are played through, attempt by attempt.

    Args:
        waits: seconds until the last update is in, of one attempt after another, over and over.
    """
    found, attempt = np.zeros(rounds), 0
    for round in range(rounds):
        while True:
            blocks = np.sort(draw.exponential(1 / rate, miners))
            found[round] += waits[attempt % len(waits)] + blocks[0] + spread
            attempt += 1
            if miners == 1 or blocks[1] - blocks[0] > spread:
                break
    return found
