"""Every part that a configuration names, made once before any long work, so that what is wrong with one is told first."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.aggregation.build import rule_of
from engine.algorithms.budget import noised_samples
from engine.attacks.own import build_attack
from engine.config import RunConfig
from engine.data.samples import Samples
from engine.model import FeatureNetwork
from engine.own.call import found, require_signature
from engine.own.reference import reference
from engine.privacy.build import build_privacy
from engine.schedule.build import build_schedule


def require_parts(config: RunConfig) -> None:
    """
    Raises:
        PulseLedgerError: a part of the user's own cannot be loaded, does not take what it is given, or is none.
    """
    rule_of(config)  # and with it the algorithm
    build_attack(config.attack)
    budget = noised_samples(config.federation, config.personalisation, config.privacy.steps)
    features = FeatureNetwork(1, 1, 0, 2, 1, 0)  # any will do
    mechanisms = build_privacy(config.privacy, features, budget, np.random.default_rng, lambda: bytes(32))
    none = np.zeros(0, np.int64)
    mechanisms(0, np.zeros(1, np.float32), {}, Samples(none, none, none, none))
    trainers = tuple(range(config.cohort.hospitals))
    build_schedule(config.schedule, config.selection, config.seed, trainers, 1, config.federation.min_hospitals)
    # what these are made from is known only when there are data
    _fits("a network", config.model.network, ("leads", "length", "rr", "classes"), config.model.parameters)
    _fits("a generator", config.balance.method, (), config.balance.parameters)


def _fits(what: str, name: str, given: Sequence[str], parameters: Mapping[str, Any]) -> None:
    own = reference(name)
    if own is not None:
        require_signature(what, own, found(own), given, parameters)
