"""The weighted mean in fixed point."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import f32, merged

from engine.aggregation.build import build_rule
from engine.aggregation.config import AggregationConfig
from engine.aggregation.mean import NAME, add, partial, total, weight
from engine.errors import PulseLedgerError
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


def test_weights():
    assert [weight(w, 7) for w in ("samples", "uniform", "none")] == [7.0, 1.0, 0.0]


def test_fixed_point_by_hand():
    # 3 * 2^-37 is half a unit: rounded to even, 1.5 units -> 2
    assert sums([(3, f32(2**-37, 1, -2))]).tolist() == [2, 3 * 2**36, -6 * 2**36]


def test_the_order_changes_no_bit_where_it_would_in_floating_point():
    draw = np.random.default_rng(0)
    updates = [(abs(w) + 1, (draw.standard_normal(50) * 10.0**w).astype(np.float32)) for w in range(-3, 6)]
    params = draw.standard_normal(50).astype(np.float32)
    expected = merged(params, updates, "samples")
    assert np.array_equal(merged(params, updates[::-1], "samples"), expected)
    # whereas floating-point sums of these depend on it
    plain = [sum(w * u for w, u in order) for order in (updates, updates[::-1])]
    assert not np.array_equal(*plain)


def test_rounding_is_far_below_float32():
    draw = np.random.default_rng(1)
    updates = [(int(draw.integers(1, 3000)), (1e-3 * draw.standard_normal(500)).astype(np.float32)) for _ in range(20)]
    params = (0.1 * draw.standard_normal(500)).astype(np.float32)
    exact = params + sum(w * u.astype(np.float64) for w, u in updates) / sum(w for w, _ in updates)
    np.testing.assert_array_max_ulp(merged(params, updates, "samples"), exact.astype(np.float32), maxulp=1)


@pytest.mark.parametrize("wrong", [1e30, np.inf, np.nan])
def test_a_diverging_update_says_so(wrong: float):
    with pytest.raises(PulseLedgerError, match=r"the limit is 1\.67772e\+07; the training diverges"):
        add(np.zeros(1, np.int64), 1.0, f32(wrong))


def test_a_sum_that_would_wrap_is_refused():
    large = sums([(1, f32(2**24 - 1))])
    with pytest.raises(PulseLedgerError, match="too large to add up"):
        sums([(1, f32(2**24 - 1))] * 9)
    assert total([large] * 7, 1).tolist() == [7 * (2**24 - 1) * 2**36]
    with pytest.raises(PulseLedgerError, match="too large to add up"):
        total([large] * 9, 1)


def sums(updates: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """The sum of (samples, change) in fixed point."""
    sent = [Update(i, vector, samples, 0.0, 1) for i, (samples, vector) in enumerate(updates)]
    return partial("samples")(sent, len(updates[0][1]))[0]
