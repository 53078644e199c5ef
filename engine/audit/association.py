"""The association of hospitals with miners, a second time, and a pair that would rather have each other, if there is one.

Written from the definitions in `docs/bpfish.md`, not from `engine/association`. It follows from the configuration, from the fleet
that its seed draws, and from the train beats that each hospital has signed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.audit import spec
from engine.audit.case import Case
from engine.audit.report import Count, Told, finding
from engine.audit.virtual import Size, device, rate, stream
from engine.ledger.format import ASSOCIATION

_UNIT = 10**6


@dataclass(frozen=True)
class Market:
    """What every pair of a hospital and a miner comes to.

    Attributes:
        miners: how many; places: hospitals that each takes.
        rates: slot -> bit/s by miner.
        hospitals, pays: slot -> by miner what the hospital and the miner get, in millionths of a unit, as the method counts.
        costs: slot -> by miner what the energy costs the hospital, in units.
        joules, seconds: slot -> by miner, in all rounds, and of a job.
        values: slot -> what it is to a miner.
        reports: rows of the record.
    """

    method: str
    miners: int
    places: int
    rates: Mapping[int, Sequence[float]]
    hospitals: Mapping[int, Sequence[int]]
    pays: Mapping[int, Sequence[int]]
    costs: Mapping[int, Sequence[float]]
    joules: Mapping[int, Sequence[float]]
    seconds: Mapping[int, Sequence[float]]
    values: Mapping[int, int]
    reports: Sequence[Sequence[Any]]
    deadline: float | None

    def in_time(self, slot: int, miner: int) -> bool:
        """Whether a job is done within the deadline."""
        return self.deadline is None or self.seconds[slot][miner] <= self.deadline

    def wishes(self, slot: int) -> list[int]:
        """The miners that a hospital could go to, best first."""
        own, order = self.hospitals[slot], range(self.miners)
        ranked = sorted(order, key=lambda m: (-self.pays[slot][m], self.costs[slot][m], m))
        if self.method != "paper":
            ranked = sorted(order, key=lambda m: (-own[m], m))
        return [m for m in ranked if own[m] > 0 and self.in_time(slot, m)]


def runs(case: Case) -> bool:
    """Whether hospitals of this run work for miners."""
    section = case.config.get("association")
    return isinstance(section, Mapping) and section.get("method") != "none"


def market_of(case: Case, sizes: Mapping[int, Size], beats: Mapping[int, int]) -> Market:
    """The market of a run.

    Raises:
        KeyError, TypeError, ValueError, ArithmeticError: the configuration does not say what it takes.
    """
    section, clock, seed = case.config["association"], case.config["clock"], case.config["seed"]
    rounds, hospitals = int(case.config["federation"]["rounds"]), int(case.config["cohort"]["hospitals"])
    method, miners, all_beats = section["method"], int(section["miners"]), sum(beats[slot] for slot in sizes)
    even, asked = -(-len(sizes) // miners), section["capacity"]
    places = {"paper": len(sizes), "all-on-one": len(sizes), "random": asked or len(sizes)}.get(method, asked or even)
    rates, joules, seconds, costs = (dict[int, list[float]]() for _ in range(4))
    own, pays = dict[int, list[int]](), dict[int, list[int]]()
    values, reports = dict[int, int](), list[list[Any]]()
    earned = rounds * section["reward"]
    for slot in sorted(sizes):
        machine, work, bits = device(clock, seed, slot, hospitals), sizes[slot].beats, float(sizes[slot].bits)
        rates[slot] = links(section, seed, slot)
        computing = rounds * clock["kappa"] * machine["cycles"] * work * machine["frequency"] ** 2
        sent = [rounds * machine["slow"] * bits / r * machine["watts"] for r in rates[slot]]
        joules[slot] = [computing + one for one in sent]
        busy = machine["cycles"] * work / machine["frequency"]
        seconds[slot] = [machine["slow"] * (busy + 2 * bits / r) for r in rates[slot]]
        part = earned * beats[slot] / all_beats
        gets = part if method == "paper" else section["share"] * section["reward"] * rounds
        costs[slot] = [section["phi"] * one for one in joules[slot]]
        own[slot] = [round((gets - one) * _UNIT) for one in costs[slot]]
        pays[slot] = [round((earned - part) * _UNIT)] * miners
        reliable = 1.0 - machine["dropout"]
        values[slot] = round(reliable * beats[slot] * _UNIT)
        said = [machine[name] for name in ("cycles", "frequency", "watts")]
        reports.append([slot, beats[slot], work, *said, reliable, machine["slow"]])
    return Market(
        method, miners, places, rates, own, pays, costs, joules, seconds, values, reports, section["deadline"]
    )


def links(section: Mapping[str, Any], seed: int, slot: int) -> list[float]:
    """bit/s of a hospital's links by miner."""
    draw, found = stream(seed, "links", 0, slot), []
    for _ in range(int(section["miners"])):
        sinr = draw.uniform(*section["sinr"])
        found.append(
            int(draw.integers(section["blocks"][0], section["blocks"][1] + 1)) * rate(section["bandwidth"], sinr)
        )
    return found


def pairs_of(market: Market, seed: int) -> dict[int, int] | None:
    """Slot -> miner; None of `optimal`, of which there may be several: what is said of it is held against `improves`."""
    slots = sorted(market.reports, key=lambda row: row[0])
    wishes = {row[0]: market.wishes(row[0]) for row in slots}
    match market.method:
        case "capacity":
            return _stable(market, wishes)
        case "paper":
            return _paper(market, wishes)
        case "all-on-one":
            return {slot: 0 for slot, miners in wishes.items() if 0 in miners}
        case "random":
            draw, room, found = stream(seed, "association"), [market.places] * market.miners, dict[int, int]()
            for place in draw.permutation(len(wishes)).tolist():
                slot = slots[place][0]
                open_ = [m for m in range(market.miners) if m in wishes[slot] and room[m] > 0]
                if open_:
                    found[slot] = open_[int(draw.integers(len(open_)))]
                    room[found[slot]] -= 1
            return dict(sorted(found.items()))
    return None


def _stable(market: Market, wishes: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """Rounds of proposals by everybody at once; whoever proposes in which order, the outcome is the same."""
    struck: dict[int, set[int]] = {slot: set() for slot in wishes}
    while True:
        choice = {s: next((m for m in miners if m not in struck[s]), None) for s, miners in wishes.items()}
        over = False
        for miner in range(market.miners):
            asking = sorted((s for s, m in choice.items() if m == miner), key=lambda s: (-market.values[s], s))
            for slot in asking[market.places :]:
                struck[slot].add(miner)
                over = True
        if not over:
            return {slot: miner for slot, miner in sorted(choice.items()) if miner is not None}


def _paper(market: Market, wishes: Mapping[int, Sequence[int]]) -> dict[int, int]:
    found: dict[int, int] = {}
    while left := {slot: list(miners) for slot, miners in wishes.items() if slot not in found and miners}:
        while True:
            asking = [(left[s][0], -market.hospitals[s][left[s][0]], s) for s in left if left[s]]
            kept = {miner: min(one[1:] for one in asking if one[0] == miner)[1] for miner, _, _ in asking}
            rejected = [(miner, slot) for miner, _, slot in asking if kept[miner] != slot]
            for miner, slot in rejected:
                left[slot].remove(miner)
            if not rejected:
                break
        found |= {slot: miner for miner, slot in kept.items()}
    return dict(sorted(found.items()))


def blocking(market: Market, pairs: Mapping[int, int]) -> list[tuple[int, int]]:
    """Pairs that would rather have each other than what they have, by the preferences of `capacity`."""
    found = []
    for row in market.reports:
        slot = row[0]
        for miner in market.wishes(slot):
            if pairs.get(slot) == miner:
                break
            there = [s for s, m in pairs.items() if m == miner]
            worst = max(((-market.values[s], s) for s in there), default=(0, -1))
            if len(there) < market.places or (-market.values[slot], slot) < worst:
                found.append((slot, miner))
    return found


def improves(market: Market, pairs: Mapping[int, int]) -> bool:
    """Whether moving hospitals one after another around would raise the sum of their utilities: a negative cycle."""
    nowhere = market.miners
    worth = {
        row[0]: {m: market.hospitals[row[0]][m] for m in market.wishes(row[0])} | {nowhere: 0} for row in market.reports
    }
    at = {slot: pairs.get(slot, nowhere) for slot in worth}
    used = [sum(m == miner for m in at.values()) for miner in range(nowhere)]
    edges: dict[tuple[int, int], int] = {}
    for slot, values in worth.items():
        for there, value in values.items():
            loss = values[at[slot]] - value
            edges[at[slot], there] = min(loss, edges.get((at[slot], there), loss))
    hub = nowhere + 1  # a free place
    edges |= {(miner, hub): 0 for miner in range(nowhere) if used[miner] < market.places} | {(nowhere, hub): 0}
    edges |= {(hub, miner): 0 for miner in range(nowhere) if used[miner] > 0} | {(hub, nowhere): 0}
    distance = dict.fromkeys(range(nowhere + 2), 0)
    for _ in range(nowhere + 2):
        changed = False
        for (here, there), cost in edges.items():
            if here != there and distance[here] + cost < distance[there]:
                distance[there], changed = distance[here] + cost, True
        if not changed:
            return False
    return True


def settled(case: Case, market: Market) -> dict[int, int]:
    """Who works for whom: as it follows, or, of `optimal`, as the result says."""
    found = pairs_of(market, case.config["seed"])
    return _reported(market, case.reported.get(ASSOCIATION)) if found is None else found


def check(case: Case, market: Market | None) -> Iterator[Told]:
    """Check what is under every head, and what the result says, against the market of the run."""
    if market is None:
        return
    said = case.reported.get(ASSOCIATION)
    reported = _reported(market, said)
    pairs = pairs_of(market, case.config["seed"])
    if pairs is None:
        pairs = reported
        possible = all(m in market.wishes(s) for s, m in pairs.items()) and all(
            sum(m == miner for m in pairs.values()) <= market.places for miner in range(market.miners)
        )
        if not possible or improves(market, pairs):
            message = "the association is not the best: other places would raise the sum of the hospitals' utilities"
            yield finding("result", "association.hospitals", None, sorted(pairs.items()), message)
    yield Count("associations")
    if case.reported:
        yield from _check_result(case, market, pairs, reported, said)
    digest = spec.json_hash(_record(case, market, pairs))
    for number, entry in sorted(case.rounds.items()):
        if entry.digests.get(ASSOCIATION) != digest:
            message = "the association under the head is not the one that follows from offers and reports"
            yield finding("annex", ASSOCIATION, digest, entry.digests.get(ASSOCIATION), message, round=number)


def _check_result(
    case: Case, market: Market, pairs: Mapping[int, int], reported: Mapping[int, int], said: Any
) -> Iterator[Told]:
    if market.method == "capacity":
        for slot, miner in blocking(market, reported)[:1]:
            message = f"hospital {slot} and miner {miner} would rather have each other than what they have"
            yield finding("result", "association.hospitals", reported.get(slot), miner, message, hospital=slot)
    for name, value in _expected(case, market, pairs).items():
        yield Count("results")
        told = said.get(name) if isinstance(said, Mapping) else None
        if told != value:
            message = f"association.{name} of the result does not follow from offers and reports"
            yield finding("result", f"association.{name}", value, told, message)


def _reported(market: Market, said: Any) -> dict[int, int]:
    """Slot -> miner as the result has it, of those that there are."""
    rows = said.get("hospitals") if isinstance(said, Mapping) else None
    found = {}
    for row in rows if isinstance(rows, list) else ():
        slot, miner = (row.get("id"), row.get("miner")) if isinstance(row, Mapping) else (None, None)
        if type(slot) is int and type(miner) is int and slot in market.values and 0 <= miner < market.miners:
            found[slot] = miner
    return found


def _left_out(market: Market, pairs: Mapping[int, int]) -> dict[int, str]:
    found = {}
    for row in market.reports:
        slot = row[0]
        if slot not in pairs:
            late = not any(market.in_time(slot, miner) for miner in range(market.miners))
            found[slot] = "late" if late else "full" if market.wishes(slot) else "loss"
    return found


def _record(case: Case, market: Market, pairs: Mapping[int, int]) -> dict[str, Any]:
    section = case.config["association"]
    return {
        "method": market.method,
        "offers": [[section["reward"], section["share"], market.places]] * market.miners,
        "reports": [list(row) for row in market.reports],
        "rates": [[slot, *rates] for slot, rates in sorted(market.rates.items())],
        "pairs": [list(pair) for pair in sorted(pairs.items())],
        "left_out": [list(one) for one in sorted(_left_out(market, pairs).items())],
    }


def _expected(case: Case, market: Market, pairs: Mapping[int, int]) -> dict[str, Any]:
    section, rounds = case.config["association"], int(case.config["federation"]["rounds"])
    sizes = [sum(m == miner for m in pairs.values()) for miner in range(market.miners)]
    pays = sum(section["reward"] * rounds * many**2 for many in sizes)
    utility = pays - sum(market.costs[slot][miner] for slot, miner in sorted(pairs.items()))
    rows, last = case.reported.get("rounds"), None
    if isinstance(rows, list) and rows and isinstance(rows[-1], Mapping):
        last = rows[-1].get("train_loss")
    joules = {slot: market.joules[slot][miner] for slot, miner in sorted(pairs.items())}
    gets = section["share"] * section["reward"] * rounds
    return {
        "method": market.method,
        "utility": utility,
        "energy_joules": sum(joules.values()),
        "delay_seconds": max((market.seconds[slot][miner] for slot, miner in pairs.items()), default=None),
        "objective": None if last is None else section["rho"] * utility - (1 - section["rho"]) * last,
        "miners": [
            {"id": m, "hospitals": [s for s, at in sorted(pairs.items()) if at == m]} for m in range(market.miners)
        ],
        "hospitals": [
            {
                "id": slot,
                "miner": miner,
                "utility": round((gets - section["phi"] * joules[slot]) * _UNIT) / 10**6,
                "energy_joules": joules[slot],
                "delay_seconds": market.seconds[slot][miner],
            }
            for slot, miner in sorted(pairs.items())
        ],
        "left_out": {str(slot): why for slot, why in _left_out(market, pairs).items()},
    }
