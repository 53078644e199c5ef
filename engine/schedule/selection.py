"""Who is asked in a round: policies that choose some of the hospitals that may train."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from engine.messages import Measured
from engine.own.call import guarded, make, require
from engine.own.reference import reference
from engine.result import RoundSummary
from engine.schedule import policies
from engine.schedule.config import SelectionConfig


class Choice(NamedTuple):
    """What a policy chooses from.

    Attributes:
        round: from 1.
        trainers: ids of the hospitals that may be asked, ascending.
        wanted: how many are asked, fewer than there are.
        draw: random numbers of this round alone.
        history: of the rounds before.
        measured: in them, by hospital.
    """

    round: int
    trainers: tuple[int, ...]
    wanted: int
    draw: np.random.Generator
    history: Sequence[RoundSummary]
    measured: Sequence[Measured] = ()


Policy = Callable[[Choice], Sequence[int]]  # as many different trainers as are wanted


def random(choice: Choice) -> Sequence[int]:
    """Draws hospitals without replacement, each with the same chance."""
    return choice.draw.choice(choice.trainers, choice.wanted, replace=False).tolist()  # type: ignore[no-any-return]


def build_policy(config: SelectionConfig) -> Policy:
    """The policy of a configuration."""
    own = reference(config.policy)
    if own is None and config.policy == "random":
        return random
    if own is None:
        return lambda choice: policies.chosen(
            config.policy,
            policies.facts(choice.trainers, choice.measured, choice.history),
            choice.round,
            choice.wanted,
            config.floor,
            choice.draw,
        )
    policy = make("a selection policy", config.policy, {}, config.parameters)
    require(config.policy, callable(policy), f"made a {type(policy).__name__}, not a function of a Choice")

    def checked(choice: Choice) -> Sequence[int]:
        stage = f"round {choice.round}, selection: "
        found = guarded(own, lambda: [int(h) for h in policy(choice)], stage=stage)
        right = len(set(found)) == len(found) == choice.wanted and set(found) <= set(choice.trainers)
        words = (
            f"chose {found} in round {choice.round}, not {choice.wanted} different hospitals of {list(choice.trainers)}"
        )
        require(config.policy, right, words)
        return found

    return checked
