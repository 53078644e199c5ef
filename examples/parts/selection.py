"""Hospitals in turn, in place of drawn ones."""

from collections.abc import Callable, Sequence

from engine.schedule.selection import Choice


def turns(*, start: int = 0) -> Callable[[Choice], Sequence[int]]:
    """A policy chooses `wanted` of the `trainers`; it may look at the `history` and use the random numbers of `draw`."""

    def choose(choice: Choice) -> Sequence[int]:
        first = start + (choice.round - 1) * choice.wanted
        return [choice.trainers[(first + i) % len(choice.trainers)] for i in range(choice.wanted)]

    return choose
