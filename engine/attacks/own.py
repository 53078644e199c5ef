"""An attack of a user's own: it takes the place of the honest update of the hospitals that play attackers."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from engine.attacks.config import AttackConfig
from engine.own.call import guarded, make, require
from engine.own.reference import reference


class Honest(NamedTuple):
    """What an attacking hospital would have sent.

    Attributes:
        round: from 1.
        hospital: its id.
        params: float32[parameters], the model that the round started from.
        update: float32[parameters], the change that it has trained.
        draw: random numbers of this round and hospital.
    """

    round: int
    hospital: int
    params: np.ndarray
    update: np.ndarray
    draw: np.random.Generator


Attack = Callable[[Honest], np.ndarray]  # what is sent instead, float32[parameters]


def nobody(honest: Honest) -> np.ndarray:
    """No attack."""
    return honest.update


def build_attack(config: AttackConfig) -> Attack:
    """The attack that a configuration names; `nobody` where that is one of ours, or none."""
    own = reference(config.method)
    if own is None:
        return nobody
    attack = make("an attack", config.method, {}, config.parameters)
    require(config.method, callable(attack), f"made a {type(attack).__name__}, not a function of an Honest")

    def checked(honest: Honest) -> np.ndarray:
        found = guarded(own, attack, honest)
        right = isinstance(found, np.ndarray) and found.dtype == np.float32 and found.shape == honest.update.shape
        what = f"{found.dtype}{list(found.shape)}" if isinstance(found, np.ndarray) else f"a {type(found).__name__}"
        require(config.method, right, f"gave {what}, not float32{list(honest.update.shape)}")
        return found  # type: ignore[no-any-return]

    return checked
