"""The accountant: cases that can be worked by hand, laws of composition, and the numbers of another accountant."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from engine.errors import ConfigError
from engine.privacy.accountant import Event, calibrated, epsilon, pld_epsilon, rdp, rdp_epsilon

DELTA = 1e-5
# dp-accounting 0.6.0, which wants an older attrs than this project and so is no requirement; computed once with its
# PLDAccountant and RdpAccountant at delta 1e-5: events -> (PLD, RDP)
LIBRARY = {
    (Event(0.01, 1.0, 1, 1000),): (1.8282436455855091, 2.101366525420273),
    (Event(0.01, 1.1, 1, 10000),): (5.192620123878041, 5.632010670081592),
    (Event(0.05, 2.0, 1, 1000),): (3.699741845924451, 4.024351903409868),
    (Event(0.001, 0.7, 1, 20000),): (1.6485482283484778, 2.307165729518768),
    (Event(0.05, 1.0, 1, 10),): (1.6560042560867851, 2.155925238974246),
    (Event(0.3, 4.0, 1, 200),): (4.8620529179266265, 5.269959620693825),
    (Event(0.05, 2.0, 1, 400), Event(0.05, 2.0, 2, 200)): (3.483922023551112, 3.816462205469555),
    (Event(0.02, 0.5, 1, 1),): (4.099009589296651, 5.135463040590914),
}


def smallest(delta_of, low: float = 0.0, high: float = 100.0) -> float:
    """The smallest epsilon with at most `DELTA`, by bisection."""
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle) > DELTA else (low, middle)
    return high


def gaussian(sigma: float) -> float:
    """Epsilon of one Gaussian mechanism, Balle and Wang 2018, theorem 8."""
    return smallest(
        lambda e: norm.cdf(0.5 / sigma - e * sigma) - math.exp(e + norm.logcdf(-0.5 / sigma - e * sigma)),
        high=10 / sigma + 10 / sigma**2,
    )


def sampled(rate: float, sigma: float) -> float:
    """Epsilon of one sampled Gaussian: the integral of max(0, P - e^epsilon Q), both ways round, by the trapezoid rule."""
    x = np.linspace(-12 * sigma, 1 + 12 * sigma, 400_001)
    q = norm.pdf(x, 0, sigma)
    p = (1 - rate) * q + rate * norm.pdf(x, 1, sigma)

    def delta(e: float, one: np.ndarray, other: np.ndarray) -> float:
        return float(np.trapezoid(np.maximum(one - math.exp(e) * other, 0), x))

    return max(smallest(lambda e: delta(e, p, q), high=30), smallest(lambda e: delta(e, q, p), high=30))


@pytest.mark.parametrize("sigma", [0.05, 0.2, 0.5, 1.0, 2.0, 5.0])
def test_one_gaussian_costs_what_its_formula_says(sigma: float):
    exact = gaussian(sigma)
    assert exact <= pld_epsilon([Event(1.0, sigma, 1, 1)], DELTA) <= exact + 1e-4
    assert rdp_epsilon([Event(1.0, sigma, 1, 1)], DELTA) >= exact


@pytest.mark.parametrize(("rate", "sigma"), [(0.02, 0.5), (0.2, 1.0), (0.5, 0.7), (0.9, 3.0)])
def test_one_sampled_gaussian_costs_what_the_integral_says(rate: float, sigma: float):
    exact = sampled(rate, sigma)
    assert exact - 1e-6 <= pld_epsilon([Event(rate, sigma, 1, 1)], DELTA) <= exact + 2e-3
    assert rdp_epsilon([Event(rate, sigma, 1, 1)], DELTA) >= exact


def test_renyi_divergence_of_order_two_by_hand():
    """E_Q[(P/Q)^2] = 1 + q^2 (e^(1/sigma^2) - 1)."""
    assert rdp(0.3, 1.5)[0] == pytest.approx(math.log(1 + 0.09 * (math.exp(1 / 2.25) - 1)))
    assert rdp(1.0, 1.5)[0] == pytest.approx(2 / (2 * 2.25))


@pytest.mark.parametrize("steps", [2, 100, 2000])
def test_many_gaussians_cost_what_one_of_less_noise_does(steps: int):
    exact = gaussian(10 / math.sqrt(steps))
    assert exact <= pld_epsilon([Event(1.0, 10.0, 1, steps)], DELTA) <= exact + 1e-3


def test_two_gradients_of_one_sample_cost_more_than_two_of_two():
    together, apart = [Event(0.05, 2.0, 2, 200)], [Event(0.05, 2.0, 1, 400)]
    assert epsilon(together, DELTA) > epsilon(apart, DELTA)
    assert epsilon(together, DELTA) == pytest.approx(epsilon([Event(0.05, 2 / math.sqrt(2), 1, 200)], DELTA))


@pytest.mark.parametrize("events", LIBRARY)
def test_never_below_another_accountant_and_hardly_above(events: tuple[Event, ...]):
    pld, rdp = LIBRARY[events]
    assert pld - 1e-4 <= pld_epsilon(events, DELTA) <= pld + 1e-3  # its own error is of that size
    assert rdp - 1e-9 <= rdp_epsilon(events, DELTA) <= 1.02 * rdp  # it has orders between ours


@given(
    rate=st.floats(0.01, 1),
    sigma=st.floats(0.5, 20),
    steps=st.integers(1, 200),
    delta=st.floats(1e-8, 1e-3),
)
@settings(max_examples=6)
def test_more_of_anything_that_tells_costs_more(rate: float, sigma: float, steps: int, delta: float):
    slack = 2e-3

    def cost(rate: float = rate, sigma: float = sigma, steps: int = steps, delta: float = delta) -> float:
        return epsilon([Event(rate, sigma, 1, steps)], delta)

    here = cost()
    assert 0 <= here < math.inf
    assert cost(steps=steps + max(1, steps // 10)) >= here - slack
    assert cost(rate=min(1.0, 1.2 * rate)) >= here - slack
    assert cost(sigma=1.2 * sigma) <= here + slack
    assert cost(delta=2 * delta) <= here + slack
    assert here <= rdp_epsilon([Event(rate, sigma, 1, steps)], delta)


def test_kinds_compose_in_any_order_and_cost_less_than_one_by_one():
    one, other = Event(0.1, 2.0, 1, 100), Event(0.3, 5.0, 1, 40)
    both = epsilon([one, other], DELTA)
    assert both == epsilon([other, one], DELTA)
    assert max(epsilon([one], DELTA), epsilon([other], DELTA)) < both
    assert both < epsilon([one], DELTA / 2) + epsilon([other], DELTA / 2)
    halves = [Event(0.1, 2.0, 1, 50), Event(0.1, 2.0, 1, 50)]
    assert epsilon(halves, DELTA) == pytest.approx(epsilon([one], DELTA), abs=1e-3)


def test_nothing_released_costs_nothing():
    assert epsilon([], DELTA) == epsilon([Event(0.1, 1.0, 1, 0)], DELTA) == 0


@pytest.mark.parametrize("wanted", [8.0])
def test_the_noise_of_an_epsilon_is_the_least_that_is_enough(wanted: float):
    events = [Event(0.05, 0.0, 1, 200), Event(0.05, 0.0, 2, 50)]
    sigma = calibrated(events, wanted, DELTA)
    assert epsilon([event._replace(sigma=sigma) for event in events], DELTA) <= wanted
    assert epsilon([event._replace(sigma=sigma - 0.001) for event in events], DELTA) > wanted


def test_an_epsilon_that_no_noise_reaches_is_refused():
    with pytest.raises(ConfigError, match=r"privacy.epsilon: 0.0001 at delta 1e-09 needs a noise multiplier above"):
        calibrated([Event(1.0, 0.0, 1, 100_000)], 0.0001, 1e-9)
