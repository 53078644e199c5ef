"""What an association is worth: the equations of BPFISH (Singh and Pratap), numbered as there.

Money is counted in whole millionths of a unit, so that no computer orders two utilities otherwise.

    2-5     R_s = T R k_s for a miner with k_s hospitals; of it R_ns = R_s D_n / D is hospital n's
    7, 8    E^comp = jobs * kappa * beta * work * f^2, work being the gradients of single beats in a job
    9       E^trans = T H mu / v
    10      U^MC = R_ns - phi (E^comp + E^trans)
    11      beta * work / f + ways * H / v <= deadline, of one round
    19, 21  U = sum of both sides' utilities, F = rho U - (1 - rho) J

`paper` weighs a miner as if the hospital were its only one, as the printed algorithm has no other way to begin. All other
methods have a miner leave `share` of what a block pays to the hospital for which it is made, so that its worth does not depend on
who else comes: U^MC = share R T - phi (E^comp + E^trans).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

UNIT = 10**6  # of money


class Offer(NamedTuple):
    """A miner: what a block pays it, what share of that its hospitals get, how many it takes."""

    reward: float
    share: float
    places: int


class Report(NamedTuple):
    """A hospital as it reports itself.

    Attributes:
        beats: train beats; `work`: gradients of single beats in a job.
        cycles, frequency, watts, slow: as of `timing.fleet.Device`.
        reliability: share of its jobs that come in.
    """

    beats: int
    work: int
    cycles: float
    frequency: float
    watts: float
    reliability: float
    slow: float = 1.0


class Terms(NamedTuple):
    """What holds for all.

    Attributes:
        rounds: T, each of which pays and sends; `jobs`: that are computed, T, or 1 to count as the paper prints it.
        bits: H, of a model; `ways`: that it travels in a round, 2 with the download.
        deadline: seconds; None: there is none.
    """

    rounds: int
    jobs: int
    bits: float
    ways: int
    kappa: float
    phi: float
    deadline: float | None


@dataclass(frozen=True)
class Market:
    """Offers by miner, reports by hospital, and the rate of each link in bit/s: `rates[hospital][miner]`."""

    offers: Sequence[Offer]
    reports: Mapping[int, Report]
    rates: Mapping[int, Sequence[float]]
    terms: Terms

    @property
    def beats(self) -> int:
        """Of all hospitals."""
        return sum(report.beats for report in self.reports.values())

    def delay(self, hospital: int, miner: int) -> float:
        """Seconds of a job."""
        one, terms = self.reports[hospital], self.terms
        sending = terms.ways * terms.bits / self.rates[hospital][miner]
        return one.slow * (one.cycles * one.work / one.frequency + sending)

    def energy(self, hospital: int, miner: int) -> tuple[float, float]:
        """Joules of computing and of sending in all rounds."""
        one, terms = self.reports[hospital], self.terms
        computing = terms.jobs * terms.kappa * one.cycles * one.work * one.frequency**2
        return computing, terms.rounds * one.slow * terms.bits / self.rates[hospital][miner] * one.watts

    def cost(self, hospital: int, miner: int) -> float:
        """What its energy costs a hospital."""
        return self.terms.phi * sum(self.energy(hospital, miner))

    def alone(self, hospital: int, miner: int) -> tuple[int, int]:
        """Utility of hospital and miner if it were the only one there: how `paper` ranks."""
        pays = self.terms.rounds * self.offers[miner].reward
        part = pays * self.reports[hospital].beats / self.beats
        return _money(part - self.cost(hospital, miner)), _money(pays - part)

    def utility(self, hospital: int, miner: int) -> int:
        """Of the hospital, whoever else comes."""
        offer = self.offers[miner]
        return _money(offer.share * offer.reward * self.terms.rounds - self.cost(hospital, miner))

    def value(self, hospital: int) -> int:
        """What a hospital is to a miner: the beats that come in, in millionths."""
        one = self.reports[hospital]
        return _money(one.reliability * one.beats)

    def meets(self, hospital: int, miner: int) -> bool:
        """Whether a job is done within the deadline."""
        return self.terms.deadline is None or self.delay(hospital, miner) <= self.terms.deadline


def total(market: Market, pairs: Mapping[int, int]) -> float:
    """U of an association, eq. 19: the rewards of all blocks, which go to one side or the other, less all energy."""
    sizes = [0] * len(market.offers)
    for miner in pairs.values():
        sizes[miner] += 1
    pays = sum(offer.reward * market.terms.rounds * many**2 for offer, many in zip(market.offers, sizes, strict=True))
    return pays - sum(market.cost(hospital, miner) for hospital, miner in sorted(pairs.items()))


def objective(utility: float, loss: float, rho: float) -> float:
    """F, eq. 21.

    >>> objective(100.0, 0.5, 0.5)
    49.75
    """
    return rho * utility - (1 - rho) * loss


def _money(units: float) -> int:
    return round(units * UNIT)
