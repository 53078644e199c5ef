"""Everything that a report is made of, read from a study's folder once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna

from engine.config import RunConfig
from engine.result import Result
from sweeps.folder import read_groups, read_study, repeat_folder, trial_folder
from sweeps.front import front
from sweeps.methods import method_of
from sweeps.rows import Outcome, Row, rows_of
from sweeps.space import StudyConfig, conditions
from sweeps.stored import StoredTrial, begun

Skew = tuple[str, float | None]


@dataclass(frozen=True)
class Finished:
    """One complete trial.

    Attributes:
        keys: dotted keys of its condition.
        results: of each repeat, without their rounds, which are most of a result.
        curves: of each repeat, the global model's validation macro-F1 by round.
        times: of each repeat, the virtual seconds at the end of each round; empty where no time is kept.
    """

    row: Row
    outcome: Outcome
    keys: dict[str, Any]
    results: tuple[Result, ...]
    curves: tuple[tuple[float | None, ...], ...]
    times: tuple[tuple[float, ...], ...] = ()

    @property
    def condition(self) -> str:
        return self.row.condition

    @property
    def method(self) -> str:
        """The algorithm as a reader calls it."""
        return self.outcome.method.title

    @property
    def trains_global(self) -> bool:
        """Whether there is a global model; local-only has none, what its loop carries along was never trained."""
        return self.outcome.method.trains_global

    @property
    def hospitals(self) -> int:
        return len(self.results[0].cohort.hospitals)

    @property
    def skew(self) -> Skew:
        """How records became hospitals: the partition, and the Dirichlet concentration if it has one."""
        cohort = self.results[0].config.cohort
        return cohort.partition, cohort.alpha if "dirichlet" in cohort.partition else None

    @property
    def others(self) -> str:
        """What its condition sets besides hospitals and skew."""
        plain = ("cohort.hospitals", "cohort.partition", "cohort.alpha")
        return ", ".join(f"{k.rsplit('.', 1)[-1]} {v}" for k, v in self.keys.items() if k not in plain)


@dataclass(frozen=True)
class Tuned:
    """What was tuned for one objective in one Optuna study, as a study in memory for Optuna's own pictures."""

    label: str
    objective: str
    study: optuna.Study


@dataclass(frozen=True)
class Front:
    """All complete trials of an Optuna study: float[trials, objectives], bool[trials] that marks its front, methods."""

    values: np.ndarray
    marked: np.ndarray
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Material:
    """A study, its rows and the trials behind them.

    Attributes:
        trials: the complete ones, best first in each condition.
        fronts: label of the Optuna study -> its front; empty with a single objective.
        stored: number of a trial -> what Optuna's database holds of it.
        began, ended: of the first and the last trial so far.
    """

    study: StudyConfig
    rows: Sequence[Row]
    trials: Sequence[Finished]
    tuned: Sequence[Tuned]
    fronts: dict[str, Front]
    stored: dict[int, StoredTrial]
    began: datetime | None
    ended: datetime | None


def read_material(folder: Path) -> Material:
    """Reads a study, finished or under way.

    Raises:
        PulseLedgerError: the folder holds no study, or a result is damaged.
    """
    study = read_study(folder)
    rows = rows_of(folder)
    groups = [(g, begun(g.trials)) for g in read_groups(study, folder)]
    tuned, fronts = [], {}
    for group, trials in groups:
        label = group.condition.label if group.condition is not None else "all conditions"
        complete = [trial for trial in trials if trial.state == "COMPLETE"]
        if complete and len(study.objectives) > 1:
            chosen = {trial.number for trial in front(study, complete)}
            marked = np.array([trial.number in chosen for trial in complete])
            methods = tuple(method_of(RunConfig.model_validate(trial.configs[0])).title for trial in complete)
            fronts[label] = Front(np.array([trial.values for trial in complete]), marked, methods)
        # a baseline has no tuned keys, and Optuna's pictures stumble over what is not the same in all trials
        drawn = [trial for trial in complete if trial.baseline is None and trial.frozen.params]
        tuned += [Tuned(label, name, _alone(drawn, i, d)) for i, (name, d) in enumerate(study.objectives.items())]
    times = [
        t for group, _ in groups for trial in group.trials for t in (trial.datetime_start, trial.datetime_complete)
    ]
    known = sorted(t for t in times if t is not None)
    return Material(
        study=study,
        rows=rows,
        trials=finished_trials(study, folder, rows),
        tuned=tuned,
        fronts=fronts,
        stored={trial.number: trial for _, trials in groups for trial in trials},
        began=known[0] if known else None,
        ended=known[-1] if known else None,
    )


def finished_trials(study: StudyConfig, folder: Path, rows: Iterable[Row]) -> list[Finished]:
    """The complete trials of `rows` with their results."""
    keys = {condition.label: condition.keys for condition in conditions(study)}
    found = []
    for row in rows:
        if row.outcome is None:
            continue
        home = trial_folder(folder, row.trial)
        results = [Result.read(repeat_folder(home, repeat)) for repeat in range(row.outcome.repeats)]
        found.append(
            Finished(
                row,
                row.outcome,
                keys.get(row.condition, {}),
                tuple(result.model_copy(update={"rounds": ()}) for result in results),
                tuple(tuple(summary.validation.macro_f1 for summary in result.rounds) for result in results),
                tuple(times for result in results if (times := _times(result))),
            )
        )
    return found


def _times(result: Result) -> tuple[float, ...]:
    return tuple(summary.virtual.seconds for summary in result.rounds if summary.virtual is not None)


def best_of_each(trials: Iterable[Finished]) -> list[Finished]:
    """The first trial of each condition and method; trials come best first."""
    found: dict[tuple[str, str], Finished] = {}
    for trial in trials:
        found.setdefault((trial.condition, trial.method), trial)
    return list(found.values())


def _alone(trials: Sequence[StoredTrial], number: int, direction: Literal["minimize", "maximize"]) -> optuna.Study:
    """A study in memory of one objective only: of several, Optuna's importances take each for one to be minimised."""
    made = optuna.create_study(direction=direction)
    for trial in trials:
        own = trial.frozen
        made.add_trial(
            optuna.trial.create_trial(
                value=trial.values[number],
                params=own.params,
                distributions=own.distributions,
                system_attrs=own.system_attrs,
            )
        )
    return made
