"""Rounds that go through blocks: the formula against another minimum and against rounds that are played through."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from engine.timing.blocks import best_rate, fork, latency, simulated


@pytest.mark.parametrize(("wait", "miners", "spread"), [(1.0, 10, 0.1), (60.0, 2, 5.0), (0.0, 50, 0.01)])
def test_the_best_rate_is_the_least_latency(wait: float, miners: int, spread: float):
    rate = best_rate(wait, miners, spread)
    bounds = (math.log(rate) - 2, math.log(rate) + 3)
    found = minimize_scalar(
        lambda x: latency(wait, math.exp(x), miners, spread), bounds=bounds, options={"xatol": 1e-9}
    )
    assert rate == pytest.approx(math.exp(found.x), rel=1e-5)
    assert latency(wait, rate, miners, spread) <= min(latency(wait, f * rate, miners, spread) for f in (0.9, 1.1))


def test_forks_by_hand():
    # two others, each with a block within a second of rate 0.5: 1 - e^-1
    assert fork(0.5, 3, 1.0) == pytest.approx(1 - math.exp(-1))
    assert latency(2.0, 0.5, 3, 1.0) == pytest.approx((2 + 1 / 1.5 + 1) * math.e)


def test_rounds_that_are_played_through_take_as_long_as_the_formula_says():
    for rate in (0.05, best_rate(2.0, 8, 0.5), 0.5):
        seconds = simulated([1.0, 3.0], rate, 8, 0.5, 4000, np.random.default_rng(18))
        error = seconds.std(ddof=1) / math.sqrt(len(seconds))
        assert abs(seconds.mean() - latency(2.0, rate, 8, 0.5)) < 4 * error


def test_a_single_miner_never_forks_and_should_be_as_fast_as_it_can():
    assert best_rate(1.0, 1, 5.0) == math.inf
    assert simulated([1.0], 1e9, 1, 2.0, 3, np.random.default_rng(0)) == pytest.approx([3.0] * 3)
