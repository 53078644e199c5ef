"""From the configuration to a schedule."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engine.messages import Asked, LoopState, Schedule, Taken, Trained
from engine.own.call import guarded, make, require
from engine.own.reference import Reference, reference
from engine.schedule.clocked import Clocked
from engine.schedule.config import ScheduleConfig, SelectionConfig
from engine.schedule.sampled import Sampled
from engine.schedule.selection import build_policy
from engine.timing.fleet import Fleet, Load


def build_schedule(
    config: ScheduleConfig,
    selection: SelectionConfig,
    seed: int,
    trainers: tuple[int, ...],
    per_round: int,
    min_hospitals: int | None,
) -> Schedule:
    """The schedule of a configuration; a user's own is made from the synchronous one, whose fields it may use."""
    synchronous = Sampled(seed, trainers, per_round, min_hospitals, build_policy(selection))
    own = reference(config.mode)
    if own is None:
        return synchronous
    made = make("a schedule", config.mode, {"synchronous": synchronous}, config.parameters)
    for method in ("ask", "take"):
        require(
            config.mode,
            callable(getattr(made, method, None)),
            f"made a {type(made).__name__} without a method {method}",
        )
    return _Own(own, config.mode, made, trainers)


def on_clock(schedule: Schedule, config: ScheduleConfig, fleet: Fleet, loads: Mapping[int, Load]) -> Schedule:
    """The schedule on a virtual clock; a user's own keeps none."""
    return Clocked(schedule, config, fleet, loads) if isinstance(schedule, Sampled) else schedule


@dataclass(frozen=True)
class _Own:
    """A user's own schedule, whose answers are checked."""

    own: Reference
    name: str
    made: Schedule
    trainers: tuple[int, ...]

    def ask(self, round: int, state: LoopState, model: bytes) -> Asked:
        found = guarded(self.own, self.made.ask, round, state, model, stage=f"round {round}, ask: ")
        require(
            self.name, isinstance(found, Asked), f"ask gave a {type(found).__name__} in round {round}, not an Asked"
        )
        ids = tuple(found.hospitals)
        right = bool(ids) and list(ids) == sorted(set(ids)) and set(ids) <= set(self.trainers)
        require(
            self.name, right, f"asked {list(ids)} in round {round}; allowed: ascending ids of {list(self.trainers)}"
        )
        same = (found.round, found.model) == (round, model) and np.array_equal(found.params, state.params)
        require(self.name, same, f"ask changed round, model or parameters in round {round}")
        return Asked(round, ids, state.params, model)

    def take(self, asked: Asked, trained: Trained) -> Taken:
        found = guarded(self.own, self.made.take, asked, trained, stage=f"round {asked.round}, take: ")
        require(self.name, isinstance(found, Taken), f"take gave a {type(found).__name__}, not a Taken")
        kept = all(any(update is answer for answer in trained.answers) for update in (*found.updates, *found.lost))
        everybody = trained.summed is None or len(found.updates) + len(found.lost) == len(trained.answers)
        require(self.name, kept and bool(found.updates), "take must give updates out of the answers, at least one")
        require(
            self.name, everybody, "take left out updates that their hosts have added up; an own rule keeps them apart"
        )
        return found
