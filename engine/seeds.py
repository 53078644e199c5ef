"""Random numbers: one function, so that no two purposes ever share a stream."""

import hashlib

import numpy as np


def generator(seed: int, purpose: str, round: int = 0, hospital: int = 0) -> np.random.Generator:
    """A generator that depends on all four arguments and on nothing else.

    Streams for different arguments are statistically independent (NumPy's `SeedSequence`), which `seed + i`
    does not give: there, seed 0 of hospital 1 would repeat seed 1 of hospital 0. Repeating a round after a
    crash draws the same numbers again, whatever ran before.

    Args:
        seed: the run's seed, >= 0.
        purpose: what the numbers are for, such as "batches" or "partition".
        round: round number, 0 before the first.
        hospital: hospital id.
    """
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    return np.random.default_rng(np.random.SeedSequence([seed, word, round, hospital]))
