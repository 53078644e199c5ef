"""From the configuration to a privacy mechanism."""

from collections.abc import Callable

import numpy as np

from engine.data.samples import Samples
from engine.messages import State
from engine.model import AnyNetwork, FeatureNetwork
from engine.oracles.base import Oracle
from engine.own.call import make
from engine.privacy.base import NONE, Privacy
from engine.privacy.config import PrivacyConfig
from engine.privacy.dpsgd import dp_sgd
from engine.privacy.features import HeadOracle, normalisation_of, of_features
from engine.privacy.plan import mechanism_of

# (round, 0 for the adaptation; parameters that the work starts from; private state; train part) -> mechanism of this work
Mechanisms = Callable[[int, np.ndarray, State, Samples], Privacy]


def build_privacy(
    config: PrivacyConfig,
    network: AnyNetwork | None,
    budget: tuple[int, ...],
    draw: Callable[[int], np.random.Generator],
    secret: Callable[[], bytes],
) -> Mechanisms:
    """The mechanisms of one hospital.

    Args:
        network: whose features are released, for the method features.
        budget: noised samples of the whole run, by uses.
        draw: round -> random numbers for the noise of a mechanism of the user's own. They follow from the run's seed, which
            everybody may know: what is noised with them is not protected.
        secret: 32 bytes that only the hospital knows.
    """
    if config.method == "none":
        return lambda round, params, state, samples: NONE
    if config.method == "features":
        assert isinstance(network, FeatureNetwork)  # the configuration requires it
        mechanism = mechanism_of(config, budget, network.features)
        return of_features(mechanism, network, normalisation_of(config), secret())
    if config.noised:
        mechanism, own = mechanism_of(config, budget), secret()
        return lambda round, params, state, samples: dp_sgd(mechanism, _patients(samples), own, round, params, state)

    def made(round: int, params: np.ndarray, state: State, samples: Samples) -> Privacy:
        one: Privacy = make("a privacy mechanism", config.method, {"draw": draw(round)}, config.parameters, Privacy)
        return one._replace(name=config.method)

    return made


def oracle_of(config: PrivacyConfig, network: AnyNetwork, oracle: Oracle, train: Samples) -> Oracle:
    """What a hospital takes gradients and scores with, given the network's oracle and its train part."""
    if config.method != "features":
        return oracle
    assert isinstance(network, FeatureNetwork)  # the configuration requires it
    return HeadOracle(network, normalisation_of(config), oracle, train)


def _patients(samples: Samples) -> np.ndarray:
    """Of each beat of a part; where nobody asked for them, one for all."""
    return np.zeros(len(samples), np.int64) if samples.patient is None else samples.patient[samples.index]
