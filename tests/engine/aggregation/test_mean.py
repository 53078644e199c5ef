"""The weighted mean in fixed point."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import f32, merged

from engine.aggregation.build import build_rule
from engine.aggregation.config import AggregationConfig
from engine.aggregation.mean import NAME
from engine.messages import Update


def test_the_mean_by_hand():
    updates = [(1, f32(4, 0)), (3, f32(0, 8))]
    new = merged(f32(1, 2), updates, "samples")
    np.testing.assert_array_equal(new, f32(1 + 4 / 4, 2 + 24 / 4))
    assert new.dtype == np.float32
    np.testing.assert_array_equal(merged(f32(1, 2), updates, "uniform"), f32(1 + 4 / 2, 2 + 8 / 2))


def test_without_weights_the_model_stays_and_is_a_copy():
    start = f32(1, 2)
    new = merged(start, [(1, f32(4, 0))], "none")
    np.testing.assert_array_equal(new, start)
    assert not np.shares_memory(new, start)


def test_the_rule_says_what_it_is():
    rule = build_rule(AggregationConfig(), "samples")
    assert (rule.name, rule.spec) == (NAME, {"weighting": "samples", "server": {"method": "none"}})


@given(
    vectors=st.lists(st.tuples(st.integers(1, 5000), st.floats(-2, 2, width=32)), min_size=1, max_size=12),
    cut=st.integers(0, 12),
)
def test_sums_of_any_two_groups_in_any_order_have_the_same_bits(vectors: list[tuple[int, float]], cut: int):
    rule = build_rule(AggregationConfig(), "samples")
    updates = [Update(i, f32(x, -x / 3), n, 0.0, 1) for i, (n, x) in enumerate(vectors)]
    assert rule.partial is not None
    at_once, _ = rule.partial(updates, 2)
    turned = updates[::-1]
    groups = [rule.partial(part, 2)[0] for part in (turned[:cut], turned[cut:])]
    np.testing.assert_array_equal(rule.join(groups, 2), at_once)


def test_an_update_beyond_the_limit_is_left_out_and_named():
    rule = build_rule(AggregationConfig(), "samples")
    updates = [Update(0, f32(1), 2, 0.0, 1), Update(4, f32(2.0**24), 1, 0.0, 1)]
    assert rule.partial is not None
    summed, refused = rule.partial(updates, 1)
    assert summed.tolist() == [2 * 2**36]
    assert list(refused) == [4]
    assert "the training diverges" in refused[4]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_never_added(bad: float):
    rule = build_rule(AggregationConfig(), "uniform")
    assert rule.partial is not None
    summed, refused = rule.partial([Update(1, f32(bad), 1, 0.0, 1)], 1)
    assert (summed.tolist(), list(refused)) == ([0], [1])
