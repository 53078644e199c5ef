"""Rules that bear hostile updates: by hand, their properties, and where each of them breaks."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.aggregation import robust
from engine.aggregation.build import build_rule, combine, mixed
from engine.aggregation.config import RULE_KEYS, AggregationConfig
from engine.config import RunConfig
from engine.errors import ConfigError, PulseLedgerError
from engine.messages import LoopState, Taken, Update
from engine.settings import parse

FIVE = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [2.0, 2.0], [90.0, -90.0]])  # the last one is hostile


def merged(points: np.ndarray, **settings: object) -> np.ndarray:
    config = AggregationConfig(**settings)
    return combine(config, mixed(config, list(points.astype(np.float32))), np.zeros(points.shape[1]))


def test_the_printed_examples():
    assert doctest.testmod(robust).failed == 0


def test_each_rule_by_hand():
    assert merged(FIVE, rule="median").tolist() == [1.0, 0.0]
    assert merged(FIVE, rule="trimmed-mean", byzantine=1).tolist() == [1.0, 2 / 3]
    # squared distances to the 5 - 1 - 2 = 2 nearest others: 1 + 4, 1 + 5, 4 + 4, 4 + 5, ...
    assert robust.krum_scores(FIVE, 1)[:4].tolist() == [5.0, 6.0, 8.0, 9.0]
    assert merged(FIVE, rule="krum", byzantine=1).tolist() == [0.0, 0.0]
    assert merged(FIVE, rule="multi-krum", byzantine=1, keep=2).tolist() == [0.5, 0.0]
    assert merged(FIVE, rule="multi-krum", byzantine=1).tolist() == [0.75, 1.0]
    # norms 0, 1, 2, sqrt 8, ...: to the median one, 2
    root = 2 / np.sqrt(8)
    far = 2 / np.sqrt(2)
    assert merged(FIVE, rule="norm-bound").tolist() == pytest.approx(
        [(1 + 2 * root + far) / 5, (2 + 2 * root - far) / 5]
    )
    assert merged(FIVE, rule="centred-clipping", iterations=1).tolist() == merged(FIVE, rule="norm-bound").tolist()


def test_the_geometric_median_of_a_triangle_with_a_wide_angle_is_that_corner():
    corner = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.2]])  # 168.7 degrees at the first one, more than 120
    assert merged(corner, rule="geometric-median", iterations=200).tolist() == pytest.approx([0.0, 0.0], abs=1e-4)


def test_the_geometric_median_of_an_equilateral_triangle_is_its_centre():
    triangle = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])
    centre = merged(triangle, rule="geometric-median", iterations=100)
    assert centre.tolist() == pytest.approx([0.5, np.sqrt(3) / 6], abs=1e-6)


def test_the_floor_of_a_distance_follows_the_spread_so_small_updates_are_no_plain_mean():
    for scale in (1.0, 1e-6):
        found = merged(scale * FIVE, rule="geometric-median", iterations=50) / scale
        assert np.abs(found).max() < 2.0


def test_centred_clipping_starts_from_the_last_round():
    rule = build_rule(AggregationConfig(rule="centred-clipping", radius=1.0, iterations=1), "uniform")
    updates = tuple(Update(h, np.array([4.0], np.float32), 1, 0.0, 1) for h in range(2))
    state, seen = LoopState(0, np.zeros(1, np.float32)), []
    for number in range(1, 4):
        params, server = rule.merge(state, Taken(updates, (), None), {})
        seen.append(float(params[0]))
        state = LoopState(number, params, server=server)
    assert seen == [1.0, 1.0 + 2.0, 3.0 + 3.0]  # the centre moves by one a round, the model by the centre


def test_buckets_hold_each_update_once_in_an_order_that_any_change_of_one_update_changes():
    vectors = [np.array([v], np.float32) for v in range(9)]
    order = robust.shuffled(vectors)
    assert sorted(order) == list(range(9))
    assert order == robust.shuffled([v.copy() for v in vectors])
    others = [robust.shuffled([*vectors[:8], np.array([8.0 + k], np.float32)]) for k in (0.5, 1.0, 2.0)]
    assert all(other != order for other in others)
    buckets = robust.bucketing(np.array(vectors, np.float64), order, 4)
    assert len(buckets) == 3
    assert float(buckets[:2].sum() * 4 + buckets[2].sum()) == sum(range(9))


def test_nearest_neighbours_leave_nothing_of_a_far_update_among_the_others():
    assert robust.nearest(FIVE, 1)[:4].tolist() == [[0.75, 1.0]] * 4


def test_workers_momentum_by_hand():
    rule = build_rule(AggregationConfig(worker_momentum=0.75), "samples")
    first, memory = rule.encode(np.array([4.0], np.float32), {})
    second, _ = rule.encode(np.array([0.0], np.float32), memory)
    assert (first.tolist(), second.tolist()) == ([1.0], [0.75])


POINTS = arrays(np.float64, (7, 3), elements=st.integers(-50, 50).map(float))
RULES = sorted(RULE_KEYS)


@given(POINTS, st.permutations(range(7)), st.sampled_from(RULES))
def test_the_order_of_hospitals_does_not_matter(points: np.ndarray, order: list[int], rule: str):
    if rule in ("krum", "multi-krum"):  # but for ties, which go to the lower hospital
        scores = robust.krum_scores(points, 2)
        if len(set(scores.tolist())) < len(scores):
            return
    one, other = (merged(p, rule=rule, byzantine=2) for p in (points, points[order]))
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@given(POINTS, arrays(np.float64, 3, elements=st.integers(-50, 50).map(float)))
def test_what_is_moved_as_a_whole_moves_the_result(points: np.ndarray, by: np.ndarray):
    for rule in ("median", "trimmed-mean", "krum", "multi-krum"):
        moved = merged(points + by, rule=rule, byzantine=2)
        np.testing.assert_allclose(moved, merged(points, rule=rule, byzantine=2) + by, atol=1e-9)


@given(POINTS, st.integers(1, 3), st.sampled_from([1e3, 1e9, 1e30]))
def test_below_the_breakdown_point_no_strength_moves_a_rule_far(honest: np.ndarray, hostile: int, strength: float):
    points = np.concatenate([honest, np.full((hostile, 3), strength)])
    for rule in ("median", "trimmed-mean", "krum", "multi-krum", "geometric-median", "norm-bound"):
        found = merged(points, rule=rule, byzantine=hostile, iterations=30)
        assert np.abs(found).max() <= 2 * 87 * 2, rule  # 87: the longest honest update
    assert np.abs(robust.mean(points)).max() > 50 or strength < 1e4


def test_one_hostile_update_moves_the_mean_as_far_as_it_likes_and_half_of_them_the_median():
    assert np.abs(robust.mean(np.array([[0.0], [0.0], [3e9]]))).max() == 1e9
    assert np.abs(robust.median(np.array([[0.0], [1e9], [1e9]]))).max() == 1e9


@pytest.mark.parametrize(
    ("settings", "hospitals", "words"),
    [
        ({"rule": "krum", "byzantine": 4}, 10, r"at least 11 updates in a round \(2f \+ 3\), not 10"),
        ({"rule": "multi-krum", "byzantine": 2}, 6, r"at least 7 updates"),
        ({"rule": "median", "byzantine": 5}, 10, r"at least 11 updates in a round \(2f \+ 1\), not 10"),
        (
            {"rule": "trimmed-mean", "byzantine": 3, "mix": "bucketing"},
            12,
            r"at least 7 buckets .* not 12 in 6 buckets",
        ),
        ({"rule": "norm-bound", "byzantine": 3, "mix": "nearest"}, 6, r"nearest needs at least 7 updates"),
        ({"rule": "multi-krum", "byzantine": 2, "keep": 9}, 10, r"aggregation.keep is 9, .* at most n - f = 8"),
    ],
)
def test_too_many_hostile_for_a_rule_are_refused_by_name(settings: dict[str, object], hospitals: int, words: str):
    values = {"aggregation": settings, "cohort": {"hospitals": hospitals}}
    with pytest.raises(ConfigError, match=words):
        parse(RunConfig, values, "run.yaml")
    parse(RunConfig, {**values, "federation": {"algorithm": "local"}}, "run.yaml")  # nothing is merged there


def test_a_round_that_lost_too_many_hospitals_for_its_rule_says_so():
    rule = build_rule(AggregationConfig(rule="krum", byzantine=1), "uniform")
    updates = tuple(Update(h, np.ones(2, np.float32), 1, 0.0, 1) for h in range(4))
    with pytest.raises(PulseLedgerError, match=r"round 3: aggregation.rule krum .* at least 5 updates"):
        rule.merge(LoopState(2, np.zeros(2, np.float32)), Taken(updates, (), None), {})


def test_updates_that_are_not_finite_are_named():
    good, bad = np.zeros(2, np.float32), np.array([0, np.nan], np.float32)
    assert robust.unfit([Update(3, good, 1, 0.0, 1), Update(5, bad, 1, 0.0, 1)]) == {5: "the update is not finite"}
