"""Synchronous rounds of hospitals that are drawn anew each time."""

from collections.abc import Sequence, Set
from dataclasses import dataclass

from engine.messages import Asked, LoopState, Measured, Taken, Trained, survivors
from engine.result import RoundSummary
from engine.schedule.selection import Choice, Policy, random
from engine.seeds import generator


@dataclass(frozen=True)
class Sampled:
    """Asks `per_round` of the trainers, and waits for all of them.

    Attributes:
        seed: of the run.
        trainers: ids of the hospitals that may be selected, ascending.
        policy: who is asked, where not all are.
        min_hospitals: with fewer answers a round fails; None wants all that were asked.
    """

    seed: int
    trainers: tuple[int, ...]
    per_round: int
    min_hospitals: int | None = None
    policy: Policy = random

    def select(
        self,
        round: int,
        history: Sequence[RoundSummary] = (),
        measured: Sequence[Measured] = (),
        busy: Set[int] = frozenset(),
    ) -> tuple[int, ...]:
        """The hospitals of a round, ascending; drawn from (seed, round) and history alone, so a resumed run draws the same.

        Args:
            busy: hospitals that are still at work for an earlier one, and take up its places.
        """
        idle = tuple(h for h in self.trainers if h not in busy) if busy else self.trainers
        wanted = self.per_round - len(busy)
        if wanted >= len(idle):
            return idle
        if wanted == 0:
            return ()
        draw = generator(self.seed, "participation", round)
        return tuple(sorted(self.policy(Choice(round, idle, wanted, draw, history, measured))))

    def ask(self, round: int, state: LoopState, model: bytes) -> Asked:
        return Asked(round, self.select(round, state.history, state.measured), state.params, model)

    def take(self, asked: Asked, trained: Trained) -> Taken:
        updates, lost = survivors(trained.answers, self.min_hospitals)
        return Taken(updates, lost, trained.summed)
