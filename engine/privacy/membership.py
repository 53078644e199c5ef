"""Membership inference: how well the final models tell which beats they were trained on, measured in each hospital.

Two attacks by somebody who holds a model and a beat with its right class:

- **threshold** (Yeom et al., IEEE CSF 2018): a beat whose cross-entropy is not above the mean over the train beats was trained on. Its
  advantage is the share of train beats that it names, less the share of others that it names wrongly: 0 for a coin, 1 for a model that
  gives everything away. It chooses nothing by what it is measured on, so a coin's advantage is 0 on average.
- **ranking**: the area under its curve over all thresholds, the probability that a train beat has the lower cross-entropy of the two.

The others are the hospital's test beats. Where these are of other patients, or of a later time, a model may tell the two apart for that
reason alone; how much is seen by a model that cannot have learned single beats, such as one with a small epsilon.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import Field

from engine.part import Many, Part

LEAST = 10  # beats on either side; fewer say nothing


class Guesses(NamedTuple):
    """What the attacks came to under one model, in whole numbers.

    Attributes:
        wins: twice the pairs of a train beat and another in which the first has the lower cross-entropy; a draw counts once.
        hits: train beats that the threshold names, of `members`.
        alarms: others that it names, of `others`.
    """

    wins: int
    hits: int
    members: int
    alarms: int
    others: int


def guesses(members: np.ndarray, others: np.ndarray) -> Guesses:
    """
    Args:
        members: float64[n], the probability that a model gives the right class of each train beat.
        others: float64[m], of each other beat.

    >>> guesses(np.array([0.9, 0.6]), np.array([0.6, 0.1]))
    Guesses(wins=7, hits=1, members=2, alarms=0, others=2)
    """
    ordered = np.sort(others)
    lower, level = (int(np.searchsorted(ordered, members, side).sum()) for side in ("left", "right"))
    with np.errstate(divide="ignore"):
        mean = np.log(members).mean()  # minus the cross-entropy; -inf where a beat is given no chance at all
        named = [int((np.log(of) >= mean).sum()) for of in (members, others)]
    return Guesses(lower + level, named[0], len(members), named[1], len(others))


def fits(counts: Sequence[int], members: int, others: int) -> bool:
    """Whether counts can be `Guesses` over so many beats."""
    if len(counts) != len(Guesses._fields) or not all(type(count) is int for count in counts):
        return False
    of = Guesses(*counts)
    most = Guesses(2 * members * others, members, members, others, others)
    return all(0 <= count <= bound for count, bound in zip(of, most, strict=True)) and of[2::2] == (members, others)


class Guess(Part):
    """Of a model, or the mean over the hospitals' models: area under the ranking's curve, and advantage of the threshold."""

    auc: float
    advantage: float


class HospitalMembership(Part):
    """Of one hospital: train beats, other beats, and how far its models tell them apart."""

    id: int
    members: int
    others: int
    global_: Guess = Field(validation_alias="global", serialization_alias="global")
    personal: Guess


class Membership(Part):
    """Of all honest hospitals that have enough beats; the two guesses are means over them."""

    global_: Guess = Field(validation_alias="global", serialization_alias="global")
    personal: Guess
    hospitals: Many[HospitalMembership]


def membership_report(found: Mapping[int, Mapping[str, Sequence[int]]]) -> Membership | None:
    """
    Args:
        found: hospital -> "global" and "personal" -> `Guesses`; none of a hospital with too few beats.

    Returns:
        None where no hospital has enough beats.
    """
    rows = []
    for hospital, models in sorted(found.items()):
        if models:
            of = {name: Guesses(*counts) for name, counts in models.items()}
            sides = of["global"]
            rows.append(
                HospitalMembership(
                    id=hospital,
                    members=sides.members,
                    others=sides.others,
                    global_=_guess(sides),
                    personal=_guess(of["personal"]),
                )
            )
    if not rows:
        return None
    return Membership(
        global_=_mean([row.global_ for row in rows]),
        personal=_mean([row.personal for row in rows]),
        hospitals=tuple(rows),
    )


def _guess(of: Guesses) -> Guess:
    return Guess(auc=of.wins / (2 * of.members * of.others), advantage=of.hits / of.members - of.alarms / of.others)


def _mean(of: Sequence[Guess]) -> Guess:
    return Guess(
        auc=math.fsum(one.auc for one in of) / len(of), advantage=math.fsum(one.advantage for one in of) / len(of)
    )


def most_advantage(epsilon: float, delta: float) -> float:
    """The largest advantage that any attack can have on average against (epsilon, delta) for one beat, where train beats and others are
    drawn alike (Kairouz, Oh, Viswanath, ICML 2015; Humphries et al., IEEE CSF 2023).

    >>> round(most_advantage(1.0, 1e-5), 4), most_advantage(0.0, 0.0)
    (0.4621, 0.0)
    """
    return math.tanh(epsilon / 2) + 2 * delta / (1 + math.exp(min(epsilon, 700)))
