"""Secrets shared among hospitals: any `threshold` shares give a secret back, fewer tell nothing (Shamir 1979).

Polynomials over the integers modulo the prime 2^256 - 189. The share of a hospital is the value at its slot + 1; the secret is
the value at 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

PRIME = 2**256 - 189


def dealt(coefficients: Sequence[int], slots: Iterable[int]) -> dict[int, int]:
    """The share of each slot.

    Args:
        coefficients: the secret, then threshold - 1 numbers that nobody else knows.

    >>> dealt([7, 2], [0, 1, 2])
    {0: 9, 1: 11, 2: 13}
    """
    found = {}
    for slot in slots:
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * (slot + 1) + coefficient) % PRIME
        found[slot] = value
    return found


def restored(shares: Mapping[int, int]) -> int:
    """The secret that shares belong to, of which there are as many as the threshold.

    >>> restored({0: 9, 2: 13})
    7
    """
    slots = tuple(sorted(shares))
    return sum(weight * shares[slot] for weight, slot in zip(_weights(slots), slots, strict=True)) % PRIME


@lru_cache(maxsize=64)  # of one round the same hospitals give shares of all secrets
def _weights(slots: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's weights at 0."""
    found = []
    for slot in slots:
        above = below = 1
        for other in slots:
            if other != slot:
                above = above * (other + 1) % PRIME
                below = below * (other - slot) % PRIME
        found.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(found)
