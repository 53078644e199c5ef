"""The audit's own account of privacy: epsilon of composed, Poisson-sampled Gaussian mechanisms, from their definition.

The trainer bounds epsilon from above, on a grid. Here it is computed as exactly as an integral can be, with other arithmetic.
With the privacy loss L, the log of P/Q under P, and K(z) the sum over all samples of log E[e^(z L)],

    delta(epsilon) = 1/(2 pi i) integral over z from t - i inf to t + i inf of e^(K(z) - z epsilon) / (z (z + 1)) dz

for any t > 0 (Alghamdi et al. 2023, arXiv 2208.09595); E is an integral over the outcome x of one sample. Both are taken by the
trapezoid rule, which converges exponentially for such functions. P and Q change places for a record that is added.

>>> round(epsilon([(1.0, 1.0, 1, 1)], 1e-5), 3)      # one Gaussian of sigma 1
4.377
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

Event = tuple[float, float, int, int]  # probability of a record, sigma, sums released of a sample, samples

_FAR = 600.0  # where the integral over z is cut off, at the latest
_APART = 45.0  # logarithm of what a copy of the integral may weigh
_SMALL = 1e-7  # of the integrand's largest value, where it is cut off at the earliest


def epsilon(events: Sequence[Event], delta: float) -> float:
    """Epsilon of all the events together; 0 where there are none."""
    kept = tuple(
        (rate, sigma / math.sqrt(uses), many) for rate, sigma, uses, many in sorted(events) if many and rate > 0
    )
    apart = sum(many * rate * math.erf(1 / (math.sqrt(8) * sigma)) for rate, sigma, many in kept)
    if (
        apart <= delta
    ):  # in total variation, so that epsilon is 0; the integral, which nothing damps there, is off by more
        return 0.0
    return max(_one_way(kept, delta, added) for added in (False, True))


@lru_cache(maxsize=256)  # hospitals with the same account ask for the same
def _one_way(events: tuple[tuple[float, float, int], ...], delta: float, added: bool) -> float:
    t, apart = _contour(events, delta, added)
    step = 2 * math.pi / apart
    u, values = [0.0], [_moment(events, np.array([t + 0j]), added)[0]]
    while u[-1] < _FAR and (values[-1] - values[0]).real + math.log(t * (t + 1) / max(u[-1], t)) > math.log(_SMALL):
        more = u[-1] + step * np.arange(1, 33)
        u.extend(more.tolist())
        values.extend(_moment(events, t + 1j * more, added).tolist())
    z, k = t + 1j * np.array(u), np.array(values)
    weight = np.full(len(u), step / math.pi)
    weight[0] /= 2
    kernel = weight / (z * (z + 1))

    def at(epsilon: float) -> float:
        return float((kernel * np.exp(k - z * epsilon)).real.sum())

    low, high = 0.0, max(1.0, 2 * float((values[0].real - math.log(delta)) / t))
    if at(low) <= delta:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) > delta else (low, middle)
    return (low + high) / 2


def _contour(events: Sequence[tuple[float, float, int]], delta: float, added: bool) -> tuple[float, float]:
    """Where to integrate, and how far apart copies of delta(epsilon) must lie that a sum in place of the integral adds.

    The bound (K(t) - log delta - log t (t + 1)) / t on epsilon is smallest where the integrand oscillates least. A copy at a
    distance D below weighs e^(-t D), one above at most e^(t D + K(s) - s (epsilon + D)), for any s > t.
    """
    grid = np.geomspace(0.05, 2000, 120)
    with np.errstate(over="ignore", invalid="ignore"):
        k = _moment(events, grid + 0j, added).real
        bound = (k - math.log(delta) - np.log(grid * (grid + 1))) / grid
    best = int(np.nanargmin(np.where(np.isfinite(bound), bound, np.inf)))
    t, beyond = float(grid[best]), slice(best + 1, None)
    above = (k[beyond] - grid[beyond] * max(0.0, bound[best]) + _APART) / (grid[beyond] - t)
    return t, max(_APART / t, *sorted(above[np.isfinite(above)].tolist())[:1])


def _moment(events: Sequence[tuple[float, float, int]], z: np.ndarray, added: bool) -> np.ndarray:
    """K at each z, complex[z]."""
    total = np.zeros(len(z), complex)
    for rate, sigma, samples in events:
        total += samples * _log_mean(rate, sigma, z, added)
    return total


def _log_mean(rate: float, sigma: float, z: np.ndarray, added: bool) -> np.ndarray:
    """log E[e^(z L)] for one sample: of (P/Q)^z under P, or of (Q/P)^z under Q."""
    if rate == 1:  # two Gaussians
        return z * (z + 1) / (2 * sigma**2)
    power = -z if added else z + 1  # of P/Q, under Q
    reach = 10 * sigma
    furthest = max(1.0, float(power.real.max())) if not added else 1.0
    pace = min(sigma / 16, 2 * sigma**2 / max(1.0, float(np.abs(power.imag).max())))
    x = np.arange(-reach, furthest + reach, pace)
    ratio = np.log1p(rate * np.expm1(np.minimum((2 * x - 1) / (2 * sigma**2), 700)))
    normal = -x * x / (2 * sigma**2) - math.log(sigma * math.sqrt(2 * math.pi)) + math.log(pace)
    found = np.empty(len(z), complex)
    for i, one in enumerate(power):
        exponent = one * ratio + normal
        top = exponent.real.max()
        found[i] = top + np.log(np.exp(exponent - top).sum())
    return found
