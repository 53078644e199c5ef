"""The association of hospitals with miners: invariants by brute force, another solver's optimum, and figures that can be redone by hand."""

import itertools
import random
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from engine.association.market import UNIT, Market, Offer, Report, Terms, objective, total
from engine.association.matching import accepted, associate, best, possible
from engine.seeds import generator

PLAIN = Terms(rounds=15, jobs=1, bits=3776.0, ways=1, kappa=1e-28, phi=1.0, deadline=None)
Wishes = Mapping[int, Sequence[int]]


def market(
    beats: Sequence[int], rates: Sequence[Sequence[float]], places: int = 9, terms: Terms = PLAIN, reward: float = 10.0
) -> Market:
    """Equal machines: 20,000 cycles a beat at 2 GHz, 1 W."""
    reports = {h: Report(n, n, 2e4, 2e9, 1.0, 1.0) for h, n in enumerate(beats)}
    return Market((Offer(reward, 0.5, places),) * len(rates[0]), reports, dict(enumerate(rates)), terms)


def small(draw: random.Random) -> tuple[dict[int, list[int]], dict[int, int], list[int]]:
    """Wishes, values and places of at most five hospitals and three miners."""
    hospitals, miners = draw.randint(1, 5), draw.randint(1, 3)
    wishes = {h: draw.sample(range(miners), draw.randint(0, miners)) for h in range(hospitals)}
    return wishes, {h: draw.randint(1, 3) for h in wishes}, [draw.randint(0, 2) for _ in range(miners)]


def matchings(wishes: Wishes, places: Sequence[int]) -> Iterator[dict[int, int]]:
    """All that there are."""
    for choice in itertools.product(*([None, *miners] for miners in wishes.values())):
        pairs = {h: m for h, m in zip(wishes, choice, strict=True) if m is not None}
        if all(sum(m == miner for m in pairs.values()) <= many for miner, many in enumerate(places)):
            yield pairs


def blocked(pairs: Mapping[int, int], wishes: Wishes, values: Mapping[int, int], places: Sequence[int]) -> bool:
    """Whether a hospital and a miner would rather have each other."""
    for h, miners in wishes.items():
        for m in miners:
            if pairs.get(h) == m:
                break
            there = [other for other, at in pairs.items() if at == m]
            if len(there) < places[m] or any((-values[h], h) < (-values[o], o) for o in there):
                return True
    return False


def test_deferred_acceptance_is_stable_best_for_every_hospital_and_nobody_gains_by_lying():
    draw = random.Random(18)
    for _ in range(120):
        wishes, values, places = small(draw)
        found = accepted(wishes, values, places)
        stable = [pairs for pairs in matchings(wishes, places) if not blocked(pairs, wishes, values, places)]
        assert found in stable
        for h, miners in wishes.items():
            rank = {m: place for place, m in enumerate(miners)}
            mine = rank.get(found.get(h, -1), 99)
            assert mine == min(rank.get(pairs.get(h, -1), 99) for pairs in stable)
            for many in range(len(places) + 1):
                for said in itertools.permutations(range(len(places)), many):
                    other = accepted({**wishes, h: said}, values, places).get(h, -1)
                    assert rank.get(other, 99) >= mine


def test_places_are_kept_and_the_order_of_the_hospitals_does_not_matter():
    draw = random.Random(7)
    for _ in range(200):
        wishes, values, places = small(draw)
        found = accepted(wishes, values, places)
        mixed = draw.sample(sorted(wishes), len(wishes))
        assert accepted({h: wishes[h] for h in mixed}, values, places) == found
        assert all(found[h] in wishes[h] for h in found)


def test_the_largest_sum_is_that_of_another_solver():
    draw = random.Random(3)
    for _ in range(200):
        hospitals, miners = draw.randint(1, 7), draw.randint(1, 4)
        places = [draw.randint(0, 3) for _ in range(miners)]
        worth = {h: {m: draw.randint(1, 9) for m in range(miners) if draw.random() < 0.8} for h in range(hospitals)}
        pairs = best(worth, places)
        assert all(sum(m == miner for m in pairs.values()) <= many for miner, many in enumerate(places))
        slots = [m for m, many in enumerate(places) for _ in range(many)]
        table = np.array([[-worth[h].get(m, -99) for m in slots] + [0] * hospitals for h in worth])
        assert sum(worth[h][m] for h, m in pairs.items()) == -table[linear_sum_assignment(table)].sum()


def test_ten_thousand_hospitals_and_fifty_miners_take_seconds():
    draw = np.random.default_rng(1)
    wishes = dict(enumerate(draw.permuted(np.tile(np.arange(50), (10_000, 1)), axis=1).tolist()))
    values = dict(enumerate(draw.integers(1, 1000, 10_000).tolist()))
    began = time.process_time()
    found = accepted(wishes, values, [200] * 50)
    assert time.process_time() - began < 5
    assert len(found) == 10_000


def test_the_utility_of_two_hospitals_and_two_miners_by_hand():
    two = market([100, 300], [[1e6, 2e6], [2e6, 1e6]], terms=PLAIN._replace(phi=1e6))
    # 1e-28 * 2e4 * 100 * 4e18 = 8e-4 J and 15 * 3776 / 1e6 = 0.05664 J; three times and half of that
    assert two.energy(0, 0) == pytest.approx((8e-4, 0.05664), rel=1e-12)
    assert two.energy(1, 0) == pytest.approx((24e-4, 0.02832), rel=1e-12)
    assert two.delay(0, 0) == pytest.approx(100 * 2e4 / 2e9 + 0.003776, rel=1e-12)
    # R_s = 15 * 10 * k: together 15 * 10 * 2 * 2 = 600, apart 150 + 150
    together, apart = 600 - (8e-4 + 0.05664 + 24e-4 + 0.02832) * 1e6, 300 - (8e-4 + 0.05664 + 24e-4 + 0.05664) * 1e6
    assert total(two, {0: 0, 1: 0}) == pytest.approx(together, rel=1e-12)
    assert total(two, {0: 0, 1: 1}) == pytest.approx(apart, rel=1e-12)
    assert objective(together, 0.5, 0.25) == pytest.approx(0.25 * together - 0.75 * 0.5)
    assert two.alone(1, 0) == (round((150 * 0.75 - 0.03072e6) * UNIT), round(150 * 0.25 * UNIT))


def test_f_of_the_paper_is_rewards_of_squared_crowds_less_the_energy():
    one = drawn_market(50, 5)
    pairs = associate(one, "paper", generator(0, "association")).pairs
    sizes = [sum(m == miner for m in pairs.values()) for miner in range(5)]
    spent = sum(sum(one.energy(h, m)) for h, m in pairs.items())
    assert sizes == [10] * 5  # one miner takes one hospital in each pass
    assert total(one, pairs) == pytest.approx(15 * 10 * sum(k * k for k in sizes) - spent, rel=1e-9)


def drawn_market(hospitals: int, miners: int, deadline: float | None = None, places: int = 99) -> Market:
    draw = np.random.default_rng(5)
    rates = draw.uniform(1e7, 1e9, (hospitals, miners)).tolist()
    return market(draw.integers(50, 150, hospitals).tolist(), rates, places, PLAIN._replace(deadline=deadline))


@pytest.mark.parametrize("method", ["paper", "capacity", "random", "all-on-one", "optimal"])
def test_who_cannot_keep_the_deadline_or_would_lose_money_is_with_no_miner(method: str):
    machine = 100 * 2e4 / 2e9
    two = market([100, 100, 100], [[1e9, 1e9], [1e3, 1e9], [1e3, 1e3]], terms=PLAIN._replace(deadline=2 * machine))
    found = associate(two, method, generator(0, "association"))
    assert 2 not in found.pairs
    assert found.left_out[2] == "late"
    assert found.pairs.get(1) == (None if method == "all-on-one" else 1)
    poor = market([100], [[1e3]], terms=PLAIN._replace(phi=1e9))
    assert associate(poor, method, generator(0, "association")) == ({}, {0: "loss"})


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_miners_take_no_more_than_they_have_places_and_the_rest_is_told(hospitals: int, places: int, seed: int):
    one = drawn_market(hospitals, 2, places=places)
    for method in ("capacity", "random", "optimal"):
        found = associate(one, method, generator(seed, "association"))
        assert all(sum(m == miner for m in found.pairs.values()) <= places for miner in range(2))
        assert len(found.pairs) == min(hospitals, 2 * places)
        assert set(found.left_out.values()) <= {"full"}
        assert found.pairs.keys() | found.left_out.keys() == set(range(hospitals))


def test_a_hospital_wants_the_miner_that_costs_it_least():
    two = market([100], [[1e6, 2e6]])
    assert possible(two, 0, "capacity") == [1, 0]
    assert possible(two, 0, "paper") == [1, 0]
    assert associate(two, "all-on-one", generator(0, "association")).pairs == {0: 0}
