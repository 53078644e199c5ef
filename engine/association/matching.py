"""Which hospital goes to which miner. Pure functions of a market, whatever the order of its hospitals.

    paper       Algorithm 1 of BPFISH, read as it can be run: in each pass every hospital that is left applies to the miner with
                the highest utility as if it were the only one there (ties: the lowest cost, then the lower number), is rejected
                but for the best of each miner, applies to the next, until nobody is rejected; who is kept stays for good
    capacity    deferred acceptance, hospitals propose (Gale and Shapley 1962): hospitals rank miners by their own utility, miners
                rank hospitals by the beats that come in; no pair would rather have each other, and no stable association is
                better for any hospital; a hospital gains nothing by naming other wishes
    random      hospitals in a drawn order, each with a miner drawn from those that it reaches and that have room
    all-on-one  everybody with the first miner
    optimal     the largest sum of the hospitals' utilities within the miners' places (Kuhn 1955, hospital by hospital)

A pair is possible if the deadline is met and the hospital's utility is above zero; ties go to the lower number.
"""

import heapq
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from engine.association.market import Market

_FAR = 2**62
LATE, LOSS, FULL = "late", "loss", "full"
REASONS = {
    LATE: "takes longer than association.deadline with every miner",
    LOSS: "would pay more for its energy than it gets, with every miner that it reaches in time",
    FULL: "finds no place with a miner that it could go to",
}


class Matching(NamedTuple):
    """An association: hospital -> miner, and why each of the others was left out, a key of `REASONS`."""

    pairs: Mapping[int, int]
    left_out: Mapping[int, str]


def associate(market: Market, method: str, draw: np.random.Generator) -> Matching:
    """The association of a market; only `random` draws."""
    wishes = {hospital: possible(market, hospital, method) for hospital in sorted(market.reports)}
    match method:
        case "paper":
            pairs = passes(market, wishes)
        case "capacity":
            values = {hospital: market.value(hospital) for hospital in wishes}
            pairs = accepted(wishes, values, [offer.places for offer in market.offers])
        case "random":
            pairs = drawn(wishes, [offer.places for offer in market.offers], draw)
        case "all-on-one":
            pairs = {hospital: 0 for hospital, miners in wishes.items() if 0 in miners}
        case _:
            worth = {h: {m: market.utility(h, m) for m in miners} for h, miners in wishes.items()}
            pairs = best(worth, [offer.places for offer in market.offers])
    out = {h: _reason(market, h, miners) for h, miners in wishes.items() if h not in pairs}
    return Matching(dict(sorted(pairs.items())), out)


def possible(market: Market, hospital: int, method: str) -> list[int]:
    """The miners that a hospital could go to, best first."""
    found = []
    for miner in range(len(market.offers)):
        if method == "paper":
            own, other = market.alone(hospital, miner)
            key = (-other, market.cost(hospital, miner), miner)
        else:
            own = market.utility(hospital, miner)
            key = (-own, 0.0, miner)
        if own > 0 and market.meets(hospital, miner):
            found.append(key)
    return [miner for *_, miner in sorted(found)]


def _reason(market: Market, hospital: int, miners: Sequence[int]) -> str:
    if not any(market.meets(hospital, miner) for miner in range(len(market.offers))):
        return LATE
    return FULL if miners else LOSS


def accepted(wishes: Mapping[int, Sequence[int]], values: Mapping[int, int], places: Sequence[int]) -> dict[int, int]:
    """Deferred acceptance, hospitals propose: each pair is looked at once.

    Args:
        wishes: hospital -> miners, best first.
        values: what each hospital is to every miner; of equal ones the lower number is preferred.
        places: by miner.

    >>> accepted({0: [0, 1], 1: [0], 2: [0, 1]}, {0: 5, 1: 7, 2: 6}, [1, 1])
    {1: 0, 2: 1}
    """
    held: list[list[tuple[int, int]]] = [[] for _ in places]  # heaps, the least wanted first
    following = dict.fromkeys(wishes, 0)
    free = sorted(wishes, reverse=True)
    while free:
        hospital = free.pop()
        while following[hospital] < len(wishes[hospital]):
            miner = wishes[hospital][following[hospital]]
            following[hospital] += 1
            mine = (values[hospital], -hospital)
            if len(held[miner]) < places[miner]:
                heapq.heappush(held[miner], mine)
                break
            if held[miner] and held[miner][0] < mine:
                _, rejected = heapq.heapreplace(held[miner], mine)
                free.append(-rejected)
                break
    return dict(sorted((-hospital, miner) for miner, heap in enumerate(held) for _, hospital in heap))


def passes(market: Market, wishes: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """Algorithm 1: in each pass a miner takes one of those who are left."""
    pairs: dict[int, int] = {}
    while True:
        left = {hospital: miners for hospital, miners in wishes.items() if hospital not in pairs and miners}
        if not left:
            return pairs
        following = dict.fromkeys(left, 0)
        kept: dict[int, int] = {}
        free = sorted(left, reverse=True)
        while free:
            hospital = free.pop()
            while following[hospital] < len(left[hospital]):
                miner = left[hospital][following[hospital]]
                following[hospital] += 1
                other = kept.get(miner)
                if other is None or _rank(market, hospital, miner) < _rank(market, other, miner):
                    kept[miner] = hospital
                    free += [] if other is None else [other]
                    break
        pairs |= {hospital: miner for miner, hospital in kept.items()}


def _rank(market: Market, hospital: int, miner: int) -> tuple[int, int]:
    return -market.alone(hospital, miner)[0], hospital


def drawn(wishes: Mapping[int, Sequence[int]], places: Sequence[int], draw: np.random.Generator) -> dict[int, int]:
    """At random: hospitals in a drawn order, each with one of the miners that it could go to and that have room."""
    room, pairs = list(places), {}
    order = sorted(wishes)
    for hospital in [order[i] for i in draw.permutation(len(order)).tolist()]:
        miners = sorted(miner for miner in wishes[hospital] if room[miner])
        if miners:
            pairs[hospital] = miners[int(draw.integers(len(miners)))]
            room[pairs[hospital]] -= 1
    return pairs


def best(worth: Mapping[int, Mapping[int, int]], places: Sequence[int]) -> dict[int, int]:
    """The largest sum, hospital by hospital: each is put where the others, moving up, lose least.

    Args:
        worth: hospital -> miner -> what the pair is worth, above zero; who is left out is worth nothing.
    """
    nowhere, pairs = len(places), dict[int, int]()
    room = [*places, len(worth)]
    for hospital in sorted(worth):
        cost = {miner: -value for miner, value in worth[hospital].items()} | {nowhere: 0}
        came: dict[int, tuple[int, int]] = {}  # miner -> the miner before it on the way, and the hospital that moves on
        steps = _steps(worth, pairs, nowhere)
        for _ in range(nowhere + 1):
            better: dict[int, tuple[int, int, int]] = {}
            for (here, there), (more, who) in steps.items():
                if here in cost and cost[here] + more < min(cost.get(there, _FAR), better.get(there, (_FAR, 0, 0))[0]):
                    better[there] = (cost[here] + more, here, who)
            if not better:
                break
            cost |= {there: found[0] for there, found in better.items()}
            came |= {there: found[1:] for there, found in better.items()}
        there = min((value, miner) for miner, value in cost.items() if room[miner])[1]
        room[there] -= 1
        while there in came:
            there_before, who = came[there]
            pairs[who], there = there, there_before
        pairs[hospital] = there
    return {hospital: miner for hospital, miner in pairs.items() if miner != nowhere}


def _steps(
    worth: Mapping[int, Mapping[int, int]], pairs: Mapping[int, int], nowhere: int
) -> dict[tuple[int, int], tuple[int, int]]:
    """(miner, another) -> what it costs least to move one hospital on, and which."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for who, here in sorted(pairs.items()):
        for there, value in {**worth[who], nowhere: 0}.items():
            step = (worth[who].get(here, 0) - value, who)
            if there != here and step < found.get((here, there), (_FAR, 0)):
                found[here, there] = step
    return found
