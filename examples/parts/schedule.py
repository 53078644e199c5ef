"""A federation that grows: one hospital in the first round, and one more in each round after it."""

from engine.messages import Asked, LoopState, Taken, Trained
from engine.schedule.sampled import Sampled


class Growing:
    """Made from the synchronous schedule, which knows the run's seed, its trainers, and how many a round may have."""

    def __init__(self, synchronous: Sampled, *, first: int = 1) -> None:
        self.synchronous, self.first = synchronous, first

    def ask(self, round: int, state: LoopState, model: bytes) -> Asked:
        """The work of a round, which depends on the round alone."""
        asked = self.synchronous.ask(round, state, model)
        return Asked(round, asked.hospitals[: self.first + round - 1], asked.params, model)

    def take(self, asked: Asked, trained: Trained) -> Taken:
        """All that have answered."""
        return self.synchronous.take(asked, trained)
