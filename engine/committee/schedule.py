"""Rounds in which a committee judges and does not train."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.committee.seats import seated
from engine.messages import Asked, LoopState, Taken, Trained
from engine.schedule.sampled import Sampled


@dataclass(frozen=True)
class Seated:
    """Seats a committee, and asks others to train.

    Attributes:
        schedule: of those who train.
        candidates: ids of hospitals that may judge, ascending.
        name: of a model, float32[parameters]; the same with a ledger as without.
    """

    schedule: Sampled
    candidates: Sequence[int]
    size: int
    election: str
    name: Callable[[np.ndarray], bytes]

    def ask(self, round: int, state: LoopState, model: bytes) -> Asked:
        before = state.history[-1].committee if state.history else None
        judges = seated(self.name(state.params), round, self.candidates, self.size, self.election, before)
        trainers = tuple(h for h in self.schedule.trainers if h not in judges)
        asked = replace(self.schedule, trainers=trainers).ask(round, state, model)
        return replace(asked, judges=judges)

    def take(self, asked: Asked, trained: Trained) -> Taken:
        return self.schedule.take(asked, trained)
