"""Evidence that the noise protects: an attacker who knows everything but the secret, and asks of many releases whether a canary was in.

With true and false positives of a test, epsilon is at least log((TPR - delta) / FPR); bounds of Clopper and Pearson make that a lower
bound that holds in all but 2 of 10,000 such trials. It must lie below what the accountant says, and does not where the noise is broken.
"""

import functools
import hashlib
import math

import numpy as np
import pytest
from reference import f32
from scipy.stats import beta

from engine.data.samples import Samples
from engine.model import FeatureNetwork
from engine.oracles.base import Batch, Clipped
from engine.privacy.config import PrivacyConfig
from engine.privacy.dpsgd import dp_sgd
from engine.privacy.features import Normalisation, normalised, of_features, raised
from engine.privacy.plan import SIGMA, Mechanism, mechanism_of
from engine.privacy.secret import normal, release_seed, simulated_secret

TRIALS, DELTA, BEATS = 3000, 1e-5, 10
MECHANISM = mechanism_of(PrivacyConfig(method="dp-sgd", noise=1.0, sampling_rate=1.0), (1, 0))


@functools.cache
def claimed() -> float:
    """What the accountant says of a single release."""
    return MECHANISM.epsilon((1, 0))


class Canary:
    """The worst case: all other beats have no gradient, the canary's is as long as it may be."""

    def clipped_gradient(self, params: np.ndarray, batch: Batch, clip: float) -> Clipped:
        return Clipped(np.full(1, clip * float((batch.x > 0).sum()), np.float32), 0, 0)


def released(mechanism: Mechanism, secret: bytes, trial: int, is_in: bool) -> float:
    """What leaves the hospital, as the sum of the gradients with noise."""
    x = np.zeros((BEATS, 1), np.float32)
    x[0] = is_in
    privacy = dp_sgd(mechanism, np.zeros(BEATS), secret, trial, f32(0), {})
    positions = next(privacy.batches(BEATS, BEATS, np.random.default_rng(0)))
    oracle = Canary()
    _, total = privacy.gradient(oracle, f32(0), Batch(x[positions], x[positions], np.zeros(len(positions), np.int8)))  # type: ignore[arg-type]
    return float(privacy.noise(total)[0]) * BEATS


def least_epsilon(with_canary: np.ndarray, without: np.ndarray) -> float:
    """The best lower bound of a few thresholds, which were chosen beforehand."""
    found = 0.0
    for threshold in (0.5, 1.0, 1.5, 2.0):
        hits, alarms, n = int((with_canary > threshold).sum()), int((without > threshold).sum()), len(without)
        low = float(beta.ppf(1e-4, hits, n - hits + 1)) if hits else 0.0
        high = float(beta.ppf(1 - 1e-4, alarms + 1, n - alarms)) if alarms < n else 1.0
        found = max(found, math.log((low - DELTA) / high) if low > DELTA else 0.0)
    return found


def attack(mechanism: Mechanism, secret: bytes, subtract: bytes | None = None) -> float:
    """What an attacker finds; `subtract` is a secret that it believes in."""
    both = []
    for is_in in (True, False):
        seen = np.array([released(mechanism, secret, trial, is_in) for trial in range(TRIALS)])
        if subtract is not None:
            seeds = [release_seed(subtract, trial, [f32(0)]) for trial in range(TRIALS)]
            seen -= np.array([normal(seed, 0, 1)[0] for seed in seeds])
        both.append(seen)
    return least_epsilon(*both)


def test_a_canary_finds_less_than_the_account_says():
    found = attack(MECHANISM, hashlib.sha256(b"of the hospital").digest())
    assert 0.5 < found <= claimed()  # and something, or the attack would prove nothing


@pytest.mark.parametrize(("sigma", "is_caught"), [(1.0, False), (0.2, True), (0.0, True)])
def test_a_canary_among_released_features_finds_less_than_the_account_says(sigma: float, is_caught: bool):
    """Which of two beats it is, by the direction in which their features differ most: each of many copies has noise of its own."""
    network = FeatureNetwork(leads=1, window=8, rr=0, classes=2, features=12, seed=0)
    windows = np.random.default_rng(3).standard_normal((2, 1, 8)).astype(np.float32) * np.float32(10)
    windows[1] = -windows[0]
    how, rr, claim = (
        Normalisation("beat", 2, 1.0),
        np.zeros((2, 0), np.float32),
        PrivacyConfig(method="features", noise=1.0),
    )
    said = mechanism_of(claim, (0, 0), network.features)
    real = said._replace(sigma=round(sigma * SIGMA))  # what is claimed, and what is done
    z = normalised(raised(network, windows, rr), how)
    seen = []
    for beat in (0, 1):
        x = np.repeat(windows[beat : beat + 1], TRIALS, 0)
        copies = Samples(x, np.zeros((TRIALS, 0), np.float32), np.zeros(TRIALS, np.int8), np.arange(TRIALS))
        made = of_features(real, network, how, hashlib.sha256(b"of the hospital").digest())(1, f32(0), {}, copies)
        seen.append(made.shown(copies).x @ (z[0] - z[1]))
    found = least_epsilon(seen[0], seen[1])
    assert (found > said.epsilon((1, 0))) == is_caught
    assert found > 0.5  # or the attack would prove nothing


@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_noise_that_is_missing_or_too_small_is_caught(sigma: float):
    assert attack(MECHANISM._replace(sigma=round(sigma * SIGMA)), bytes(32)) > claimed()


def test_noise_from_the_run_s_seed_is_no_noise():
    """Whoever has the bundle knows the seed; with a secret of the hospital the same attack finds nothing more."""
    simulated = simulated_secret(7, 0)
    assert attack(MECHANISM, simulated, subtract=simulated) > claimed()
    assert attack(MECHANISM, hashlib.sha256(b"of the hospital").digest(), subtract=simulated) <= claimed()
