"""What noisy gradients cost: upper bounds on epsilon of composed, Poisson-sampled Gaussian mechanisms.

Neighbours differ by one record that is added or removed. One event samples each record with probability q and releases a
sum in which a record counts at most C, plus N(0, sigma^2 C^2); `uses` sums of the same sample are one event of sigma /
sqrt(uses). Two bounds, each an upper one; both take events of different kinds:

    RDP   Renyi divergence at whole orders (Mironov, Talwar, Zhang 2019, arXiv 1908.10530, section 3.3), from there to
          epsilon as Canonne, Kamath, Steinke 2020 (arXiv 2004.00010, proposition 12)
    PLD   distribution of the privacy loss, composed by FFT (Koskela, Jalko, Honkela 2020, arXiv 1906.03049); each loss is
          split between its two neighbours on a grid so that both measures keep their mass, which only ever raises epsilon
          (Doroshenko et al. 2022, arXiv 2207.04380, "connect the dots")

>>> round(epsilon((Event(1.0, 1.0, 1, 1),), 1e-5), 2)      # one Gaussian of sigma 1, by hand: 4.377
4.38
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from engine.errors import ConfigError

_ORDERS = np.array([*range(2, 65), 72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 1024], float)
_TAIL = 1e-14  # of probability that a window may leave out; it is added to delta's side
_LEAST, _MOST = 50, 1e4  # noise multipliers: thousandths below which none is sought; beyond which nothing is learned


class Event(NamedTuple):
    """`times` releases of one kind.

    Attributes:
        rate: q, probability of a record to be in a sample.
        sigma: standard deviation of the noise over the clipping norm.
        uses: sums that were released of the same sample.
    """

    rate: float
    sigma: float
    uses: int
    times: int

    @property
    def noise(self) -> float:
        """The sigma of all its sums together."""
        return self.sigma / math.sqrt(self.uses)


def epsilon(events: Sequence[Event], delta: float) -> float:
    """The smaller of the two bounds; 0 where nothing was released."""
    kept = tuple(sorted(event for event in events if event.times and event.rate > 0))
    return _epsilon(kept, delta) if kept else 0.0


@functools.lru_cache(maxsize=256)  # hospitals with the same number of steps ask for the same
def _epsilon(events: tuple[Event, ...], delta: float) -> float:
    return min(rdp_epsilon(events, delta), pld_epsilon(events, delta))


def calibrated(events: Sequence[Event], epsilon_: float, delta: float) -> float:
    """The smallest sigma, in thousandths, with which the events (theirs does not count) cost at most `epsilon_`.

    Raises:
        ConfigError: no useful amount of noise is enough.
    """

    def fits(sigma: int, bound: Callable[[Sequence[Event], float], float]) -> bool:
        return bound([event._replace(sigma=sigma / 1000) for event in events], delta) <= epsilon_

    def least(low: int, high: int, bound: Callable[[Sequence[Event], float], float]) -> int:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle, bound) else (middle, high)
        return high

    most = int(1000 * _MOST)
    if not fits(most, rdp_epsilon):
        raise ConfigError(f"privacy.epsilon: {epsilon_:g} at delta {delta:g} needs a noise multiplier above {_MOST:g}.")
    loose = least(_LEAST, most, rdp_epsilon)  # fast, and never less than the other bound asks for
    below = loose
    while below > _LEAST and fits(below, epsilon):
        below = max(_LEAST, int(0.9 * below))
    return least(below, loose, epsilon) / 1000


# --- RDP --------------------------------------------------------------------------------------------------------------


def rdp_epsilon(events: Sequence[Event], delta: float) -> float:
    """Epsilon by Renyi divergences."""
    total = sum((event.times * rdp(event.rate, event.noise) for event in events), np.zeros(len(_ORDERS)))
    bounds = total + np.log1p(-1 / _ORDERS) - (math.log(delta) + np.log(_ORDERS)) / (_ORDERS - 1)
    return max(0.0, float(np.min(bounds)))


@functools.lru_cache(maxsize=256)
def rdp(rate: float, sigma: float) -> np.ndarray:
    """Renyi divergence of one event at each order, float64[orders]: log sum_k C(a,k) (1-q)^(a-k) q^k e^((k^2-k)/2s^2) / (a-1)."""
    from scipy.special import gammaln, logsumexp

    if rate == 1:
        return _ORDERS / (2 * sigma**2)
    found = []
    for order in _ORDERS:
        k = np.arange(order + 1)
        choose = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
        terms = choose + (order - k) * math.log1p(-rate) + k * math.log(rate) + (k * k - k) / (2 * sigma**2)
        found.append(logsumexp(terms) / (order - 1))
    return np.maximum(np.array(found), 0)


# --- PLD --------------------------------------------------------------------------------------------------------------


class _Losses(NamedTuple):
    """A privacy loss on a grid: mass[i] at (first + i) * step, and `infinite` beyond all of it."""

    first: int
    mass: np.ndarray
    infinite: float


def pld_epsilon(events: Sequence[Event], delta: float) -> float:
    """Epsilon by distributions of the privacy loss: the larger of a record removed and a record added."""
    steps = sum(event.times for event in events)
    # a loss moves at most by one step of the grid, on average not at all: all moves together have deviation 0.5 sqrt(n) h
    step = min(1e-3, 2e-2 / math.sqrt(steps))
    return max(_composed(events, delta, step, removed) for removed in (True, False))


def _composed(events: Sequence[Event], delta: float, step: float, removed: bool) -> float:
    tail = _TAIL / sum(event.times for event in events)
    parts = [(_losses(event.rate, event.noise, step, removed, tail), event.times) for event in events]
    low, high = _window(parts, step)
    size = 1 << max(4, (high - low).bit_length())
    spectrum = np.ones(size // 2 + 1, complex)
    finite = 0.0
    for losses, count in parts:
        placed = np.zeros(size)
        np.add.at(placed, (np.arange(len(losses.mass)) + losses.first) % size, losses.mass)
        spectrum *= np.fft.rfft(placed) ** count
        finite += count * math.log1p(-losses.infinite)
    composed = np.maximum(np.fft.irfft(spectrum, size), 0)
    loss = (low + (np.arange(size) - low) % size) * step
    order = np.argsort(loss)
    # what lies outside the window has come in at its other end: at most this much, which counts as infinite
    return _epsilon_of(loss[order], composed[order], -math.expm1(finite) + 2 * _TAIL + size * 1e-17, delta)


def _epsilon_of(loss: np.ndarray, mass: np.ndarray, infinite: float, delta: float) -> float:
    """The smallest epsilon with infinite + sum over losses l > epsilon of mass (1 - e^(epsilon - l)) <= delta."""
    if infinite > delta:
        return math.inf
    above = np.cumsum(mass[::-1])[::-1]
    scaled = np.cumsum((mass * np.exp(-np.maximum(loss, -700.0)))[::-1])[::-1]  # the same under the other measure
    # between two losses delta(epsilon) = infinite + above - e^epsilon * scaled, with those above epsilon
    at = infinite + above - np.exp(np.minimum(loss, 700.0)) * scaled  # delta at each loss: its own term is zero
    first = int(np.argmax(at <= delta))  # falls with epsilon; the last one is `infinite`
    if at[first] > delta:
        return math.inf
    if loss[first] <= 0:
        return 0.0
    value = (above[first] + infinite - delta) / scaled[first] if scaled[first] > 0 else 0.0
    found = math.log(value) if value > 0 else 0.0
    return float(min(max(found, loss[first - 1] if first else 0.0, 0.0), loss[first]))


def _window(parts: Sequence[tuple[_Losses, int]], step: float) -> tuple[int, int]:
    """First and last place of the grid outside which the sum of all losses lies with a probability of at most `_TAIL` each."""
    bounds = []
    least, most = (
        sum(count * place for (losses, count), place in zip(parts, places, strict=True))
        for places in (
            [losses.first for losses, _ in parts],
            [losses.first + len(losses.mass) - 1 for losses, _ in parts],
        )
    )
    for sign in (-1, 1):
        found = math.inf
        for rate in np.geomspace(0.1, 1e3, 24):  # Chernoff: P(sum > u) <= exp(sum of log E e^(r l) - r u)
            logs = 0.0
            for losses, count in parts:
                place = (losses.first + np.arange(len(losses.mass))) * step * sign * rate
                top = place.max()
                logs += count * (top + math.log(np.exp(place - top) @ losses.mass))
            found = min(found, (logs - math.log(_TAIL)) / rate)
        bounds.append(sign * found / step)
    return max(least, math.floor(bounds[0])), min(most, math.ceil(bounds[1]))


@functools.lru_cache(maxsize=64)
def _losses(rate: float, sigma: float, step: float, removed: bool, tail: float) -> _Losses:
    """The loss of one event: log(P/Q) under P where a record is removed, log(Q/P) under Q where one is added.

    P = (1 - q) N(0, s^2) + q N(1, s^2) and Q = N(0, s^2); the loss of x, log(1 - q + q e^((2x - 1) / 2s^2)), rises with x.
    """
    from scipy.special import ndtri

    reach = -float(ndtri(tail / 2)) * sigma
    ends = np.array([-reach, 1 + reach])
    lowest, highest = np.minimum((2 * ends - 1) / (2 * sigma**2), 700)
    if rate < 1:  # else the loss is that itself, which may be far below zero
        lowest, highest = np.log1p(rate * np.expm1([lowest, highest]))
    first, last = math.floor(lowest / step), math.ceil(highest / step)
    edges = np.arange(first, last + 1) * step
    x = _outcome(edges, rate, sigma)
    x[0] = -np.inf  # the tails join the outermost intervals; what is cut off above is infinite below
    p = (1 - rate) * _between(x / sigma) + rate * _between((x - 1) / sigma)
    q = _between(x / sigma)
    if not removed:  # the loss is the other way round, and falls with x
        p, q, edges, first = q[::-1], p[::-1], -edges[::-1], -last
    # p = a + b and q = a e^-l0 + b e^-l1, with the losses l0 < l1 at the interval's ends
    upper = (p - q * np.exp(edges[:-1])) / -np.expm1(-step)
    upper = np.clip(upper, 0, p)
    mass = np.zeros(len(edges))
    mass[:-1] += p - upper
    mass[1:] += upper
    return _Losses(first, mass, float(min(1.0, max(tail, 1 - mass.sum()))))


def _outcome(loss: np.ndarray, rate: float, sigma: float) -> np.ndarray:
    """Where the loss has these values; minus infinity where it never falls so low."""
    if rate == 1:
        return sigma**2 * loss + 0.5
    inside = np.expm1(loss) / rate + 1
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(inside > 0, sigma**2 * np.log(inside) + 0.5, -np.inf)


def _between(x: np.ndarray) -> np.ndarray:
    """Mass of a standard normal between each two neighbours, exact also far out."""
    from scipy.special import ndtr

    a, b = x[:-1], x[1:]
    return np.where(a > 0, ndtr(-a) - ndtr(-b), ndtr(b) - ndtr(a))
