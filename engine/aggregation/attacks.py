"""Hospitals that do not send what they have trained: an attack takes the place of the honest update of those that it names."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from engine.own.call import OwnSection, Parameters, guarded, make, own_parameters, require
from engine.own.reference import Own, reference


class AttackConfig(OwnSection):
    """An attack on the federation by some of its hospitals."""

    PART = "method"

    method: Literal["none"] | Own = Field(
        "none", union_mode="left_to_right", description="none, or an attack of your own"
    )
    parameters: Parameters = own_parameters()
    hospitals: tuple[int, ...] = Field((), description="ids of the hospitals that attack")


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


def build_attack(config: AttackConfig, hospital: int) -> Attack:
    """The attack of one hospital; `nobody` where it is honest."""
    own = reference(config.method)
    if own is None or hospital not in config.hospitals:
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
