"""From a configuration and the sizes of its hospitals to an association, and what is told of it."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from engine.association.config import AssociationConfig
from engine.association.market import Market, Offer, Report, Terms, objective, total
from engine.association.matching import REASONS, Matching, associate
from engine.association.report import AssociationReport, MinerShare, Place
from engine.encoding import json_hash
from engine.errors import ConfigError
from engine.seeds import generator
from engine.timing.fleet import Device, Load, shannon


class Miners(Protocol):
    """Who works for which miner."""

    @property
    def rates(self) -> Mapping[int, float]:
        """Of each hospital that has a miner, bit/s of its link."""
        ...

    def trainers(self, among: Sequence[int]) -> tuple[int, ...]:
        """Those that may train."""
        ...

    def digest(self) -> bytes:
        """What each round's annex names, 32 bytes."""
        ...

    def report(self, loss: float | None) -> AssociationReport | None:
        """What the result says; `loss` is the mean train loss of the last round."""
        ...


class NoMiners:
    """Hospitals send to the coordinator."""

    rates: Mapping[int, float] = MappingProxyType({})

    def trainers(self, among: Sequence[int]) -> tuple[int, ...]:
        return tuple(among)

    def digest(self) -> bytes:
        return bytes(32)

    def report(self, loss: float | None) -> None:
        return None


NO_MINERS = NoMiners()


class Associated(NamedTuple):
    """The association of a run, and the market that it was made in."""

    config: AssociationConfig
    market: Market
    matching: Matching

    @property
    def rates(self) -> dict[int, float]:
        return {hospital: self.market.rates[hospital][miner] for hospital, miner in self.matching.pairs.items()}

    def trainers(self, among: Sequence[int]) -> tuple[int, ...]:
        """Those with a miner.

        Raises:
            ConfigError: nobody has one.
        """
        found = tuple(hospital for hospital in among if hospital in self.matching.pairs)
        if not found:
            why = next(iter(self.matching.left_out.values()))
            raise ConfigError(
                f"association.method {self.config.method} leaves every hospital out: hospital 0 {REASONS[why]}; change "
                "association.deadline, reward, share or phi."
            )
        return found

    def record(self) -> dict[str, Any]:
        """Offers, reports and association as plain values: what the digest in each round's annex is of."""
        market = self.market
        return {
            "method": self.config.method,
            "offers": [list(offer) for offer in market.offers],
            "reports": [[h, *report] for h, report in sorted(market.reports.items())],
            "rates": [[h, *rates] for h, rates in sorted(market.rates.items())],
            "pairs": [list(pair) for pair in sorted(self.matching.pairs.items())],
            "left_out": [list(one) for one in sorted(self.matching.left_out.items())],
        }

    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON of the record."""
        return json_hash(self.record())

    def report(self, loss: float | None) -> AssociationReport:
        market, pairs = self.market, self.matching.pairs
        utility = total(market, pairs)
        energies = {h: sum(market.energy(h, m)) for h, m in pairs.items()}
        return AssociationReport(
            method=self.config.method,
            utility=utility,
            energy_joules=sum(energies.values()),
            delay_seconds=max(market.delay(h, m) for h, m in pairs.items()),
            objective=None if loss is None else objective(utility, loss, self.config.rho),
            miners=tuple(
                MinerShare(id=miner, hospitals=tuple(h for h, m in pairs.items() if m == miner))
                for miner in range(len(market.offers))
            ),
            hospitals=tuple(
                Place(
                    id=h,
                    miner=m,
                    utility=market.utility(h, m) / 10**6,
                    energy_joules=energies[h],
                    delay_seconds=market.delay(h, m),
                )
                for h, m in pairs.items()
            ),
            left_out={str(h): why for h, why in self.matching.left_out.items()},
        )


def links(config: AssociationConfig, seed: int, hospital: int) -> tuple[float, ...]:
    """bit/s of a hospital's links by miner, drawn as in table III of BPFISH."""
    draw = generator(seed, "links", 0, hospital)
    low, high = config.blocks
    found = []
    for _ in range(config.miners):
        sinr, blocks = draw.uniform(*config.sinr), int(draw.integers(low, high + 1))
        found.append(blocks * shannon(config.bandwidth, sinr))
    return tuple(found)


def build_association(
    config: AssociationConfig,
    seed: int,
    rounds: int,
    kappa: float,
    devices: Sequence[Device],
    loads: Mapping[int, Load],
    beats: Mapping[int, int],
) -> Associated:
    """The association of a run.

    Args:
        devices: by hospital; loads, beats: of those that may train.
    """
    many = len(loads)
    offers = (Offer(config.reward, config.share, config.places(many)),) * config.miners
    reports = {
        h: Report(
            beats[h],
            loads[h].beats,
            devices[h].cycles,
            devices[h].frequency,
            devices[h].watts,
            1.0 - devices[h].dropout,
            devices[h].slow,
        )
        for h in sorted(loads)
    }
    bits = float(max(load.bits for load in loads.values()))
    terms = Terms(rounds, rounds, bits, 2, kappa, config.phi, config.deadline)
    market = Market(offers, reports, {h: links(config, seed, h) for h in reports}, terms)
    return Associated(config, market, associate(market, config.method, generator(seed, "association")))
