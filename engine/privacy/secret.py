"""Random numbers that only a hospital may know: they follow from a secret of its own, never from the run's seed.

A release is named by round and by the model that it starts from. The same release has the same noise, so repeating it after
an interruption tells nothing new; any other has noise of its own, so that no two can be subtracted from each other.

SHAKE-256 is the generator: what it gave so far says nothing about the rest. A commitment to the seed of one release can be
signed; whoever is shown the seed later, in a dispute, can compute sampling and noise of that release again, and of no other.
"""

import hashlib
import hmac
from collections.abc import Sequence

import numpy as np

from engine.seeds import generator


def simulated_secret(seed: int, hospital: int) -> bytes:
    """A stand-in for a hospital's secret in simulations, 32 bytes: whoever knows the run's seed knows it."""
    return generator(seed, "privacy secret", 0, hospital).bytes(32)


def release_seed(secret: bytes, round: int, begins: Sequence[np.ndarray]) -> bytes:
    """The seed of one release, 32 bytes.

    Args:
        round: 0 for the adaptation of the final model.
        begins: all that the work starts from.
    """
    start = hashlib.sha256()
    for array in begins:
        start.update(f"|{array.dtype.str}{array.shape}|".encode() + array.tobytes())
    return hmac.digest(secret, b"PulseLedger release 1" + round.to_bytes(8, "big") + start.digest(), "sha256")


def commitment(seed: bytes) -> bytes:
    """What may be told of a seed, 32 bytes."""
    return hashlib.sha256(b"PulseLedger noise seed 1" + seed).digest()


def opens(seed: bytes, committed: bytes) -> bool:
    """Whether a seed is the one that was committed to."""
    return hmac.compare_digest(commitment(seed), committed)


def drawn(seed: bytes, purpose: bytes, numbers: tuple[int, ...], count: int) -> np.ndarray:
    """uint64[count] of the block that `numbers` name."""
    name = seed + purpose + b"".join(number.to_bytes(8, "big") for number in numbers)
    return np.frombuffer(hashlib.shake_256(name).digest(8 * count), "<u8")


def sampled(seed: bytes, stream: int, batch: int, n: int, rate: int, parts: int) -> np.ndarray:
    """Positions of a Poisson sample of 0..n-1, each with probability rate / parts, ascending."""
    if rate >= parts:
        return np.arange(n)
    return np.flatnonzero(drawn(seed, b"sample", (stream, batch), n) < np.uint64((rate << 64) // parts))


def laplace(seed: bytes, block: int, count: int) -> np.ndarray:
    """float64[count], Laplace of scale 1, for one block of a release."""
    centred = _uniform(drawn(seed, b"laplace", (block,), count)) - 0.5
    return -np.sign(centred) * np.log1p(-2 * np.abs(centred))


def _uniform(words: np.ndarray) -> np.ndarray:
    """float64, above 0 and below 1."""
    return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normal(seed: bytes, gradient: int, count: int) -> np.ndarray:
    """float64[count], standard normal (Box and Muller 1958), for one gradient, or block, of a release."""
    pairs = (count + 1) // 2
    uniform = _uniform(drawn(seed, b"noise", (gradient,), 2 * pairs))
    radius, angle = np.sqrt(-2 * np.log(uniform[:pairs])), 2 * np.pi * uniform[pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
