"""From the configuration to who judges, and to a schedule that seats them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.committee.config import CommitteeConfig
from engine.committee.judges import Committee
from engine.committee.schedule import Seated
from engine.errors import ConfigError
from engine.messages import Asked, Judges, Pool, Schedule
from engine.schedule.sampled import Sampled

MOST_UPDATES = 256  # a verdict has a bit for each
MOST_SCORES = 8000  # some 1,200 gas each, within the limit of format.py; twice as much where one leads


def trainers_of(config: CommitteeConfig, per_round: int, trainers: int) -> int:
    """How many hospitals train in a round: all that are wanted, or that a committee leaves."""
    return min(per_round, trainers - config.size) if config.method == "drawn" else per_round


def require_room(config: CommitteeConfig, per_round: int, classes: int) -> None:
    """
    Raises:
        ConfigError: a round has more scores than the contract computes verdicts of within a transaction.
    """
    if config.method == "none":
        return
    judges = config.size if config.method == "drawn" else per_round
    scores = judges * per_round * (classes if config.scores == "classes" else 1)
    most = MOST_SCORES // 2 if config.leader else MOST_SCORES
    if per_round > MOST_UPDATES or scores > most:
        raise ConfigError(
            f"committee: {judges} judges of {per_round} updates give {scores:,} scores a round; the contract takes {MOST_UPDATES} updates "
            f"and {most:,} scores: lower federation.participation or committee.size, take committee.scores beats, or no ledger."
        )


def seat(
    config: CommitteeConfig, schedule: Schedule, candidates: Sequence[int], name: Callable[[np.ndarray], bytes]
) -> Schedule:
    """The schedule with a committee beside those who train, where one is drawn.

    Args:
        candidates: ids of hospitals that train and have validation beats.
        name: of a model.

    Raises:
        ConfigError: there are too few candidates.
    """
    if config.method != "drawn":
        return schedule
    assert isinstance(schedule, Sampled)  # no other mode goes with a committee
    if config.size > len(candidates) or config.size >= len(schedule.trainers):
        raise ConfigError(
            f"committee.size is {config.size}; of {len(schedule.trainers)} hospitals that train, {len(candidates)} have validation "
            "beats to judge on, and one at least must be left to train."
        )
    return Seated(schedule, candidates, config.size, config.election, name)


def build_committee(
    config: CommitteeConfig, pool: Pool, candidates: Sequence[int], notice: Callable[[Asked], Any]
) -> Judges:
    """Judges of a configuration that has some; of `others` those of a round that have validation beats.

    Raises:
        ConfigError: nobody can judge.
    """
    if len(candidates) < 2 and config.method == "others":
        raise ConfigError(
            "committee.method others needs two hospitals at least that have validation beats to judge on."
        )
    return Committee(pool, config, candidates, notice)
