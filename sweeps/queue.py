"""The trials of a study in Optuna's database, as their only writer sees them: made, asked for, noted, told.

Only the driver uses this; readers have `sweeps.folder`.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from sweeps.definition import CODE, DEFINITION, code, definition
from sweeps.folder import OWNER, optuna_names, refuse_another
from sweeps.lock import identity
from sweeps.space import Condition, StudyConfig, conditions, resolve
from sweeps.storage import one_sentence
from sweeps.stored import StoredTrial, stored
from sweeps.tuned import build_sampler, drawn, grid, suggest

Opened = list[tuple[optuna.Study, Condition | None]]


def open_studies(study: StudyConfig, folder: Path, storage: BaseStorage) -> Opened:
    """Makes or finds the Optuna studies of a folder, one for each condition, or a single one for all of them with `joint`.

    Raises:
        StudyError: the database is damaged or away, the disk is full, or a study of this name has another folder.
    """
    with one_sentence(study, folder):
        return [(_open(study, folder, storage, name), condition) for name, condition in optuna_names(study)]


def _open(study: StudyConfig, folder: Path, storage: BaseStorage, name: str) -> optuna.Study:
    made = optuna.create_study(
        storage=storage,
        study_name=name,
        directions=list(study.objectives.values()),
        load_if_exists=True,
        pruner=optuna.pruners.NopPruner(),
    )
    if study.storage is not None:  # many folders share one database
        mine = identity(folder)
        refuse_another(name, made.user_attrs.get(OWNER, mine), mine)
        made.set_user_attr(OWNER, mine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        made.set_metric_names(list(study.objectives))
    noted = {CODE: code(), DEFINITION: definition(study)}
    if DEFINITION not in made.user_attrs or (
        any(made.user_attrs.get(name) != value for name, value in noted.items())
        and all(trial.state == TrialState.WAITING for trial in made.get_trials(deepcopy=False))
    ):
        # a driver, of another release perhaps, may have ended before its first trial: what begins is this, and it is registered
        for name, value in noted.items():
            made.set_user_attr(name, value)
    return made


def wanted_first(study: StudyConfig, condition: Condition | None) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Parameters and attributes of what runs before anything is drawn: baselines, the design, the points of a grid."""
    everything = conditions(study)
    rows: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for place in everything if condition is None else [condition]:
        fixed = {"condition": place.label} if study.joint and len(everything) > 1 else {}
        rows += [(fixed, {"baseline": keys}) for keys in study.baselines]
        rows += [({**fixed, **point}, {}) for point in (*study.design, *grid(study, place))]
    return rows


def _enqueued(trials: Sequence[FrozenTrial]) -> int:
    """How many of `wanted_first` are in an Optuna study; what was put back into its queue is none of them."""
    return sum("fixed_params" in trial.system_attrs and "instead_of" not in trial.user_attrs for trial in trials)


class Entry:
    """One trial in Optuna's database, to read and to write; also one that an earlier driver asked for."""

    def __init__(self, study: optuna.Study, position: int, id: int) -> None:
        """Args: position is Optuna's own number of it in its study, id that in the database."""
        self.study = study
        self.position = position
        self._id = id
        self._last: StoredTrial | None = None  # as it was read, until something is written

    def read(self) -> StoredTrial:
        """What is there now; nobody else writes."""
        if self._last is not None:
            return self._last
        # not through the study, which reads all of its trials that have not ended, also those that wait in its queue
        found = stored(self.study._storage.get_trial(self._id))
        assert found is not None, "a trial without a configuration never becomes an entry"
        self._last = found
        return found

    def note(self, name: str, value: Any) -> None:
        """Writes one attribute; see `sweeps.stored`."""
        self._last = None
        self.study._storage.set_trial_user_attr(self._id, name, value)

    def report(self, step: int, value: float) -> None:
        """Tells Optuna an intermediate value of a single objective; again changes nothing."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # reported already, by a driver that was killed here
            self._trial().report(value, step)

    def constrain(self, name: str, violation: float) -> None:
        """Tells Optuna how far a bound is broken; again changes nothing."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # set already, by a driver that was killed here
            self._trial().set_constraint(name, violation)

    def complete(self, values: list[float]) -> None:
        """The end of a trial, with its objectives."""
        self._last = None
        self.study.tell(self.position, values)

    def end(self, state: Literal["PRUNED", "FAIL"]) -> None:
        """The end of a trial without objectives."""
        self._last = None
        self.study.tell(self.position, state=TrialState[state])

    def _trial(self) -> optuna.Trial:
        self._last = None
        # Optuna has no public way to write to a trial that another process asked for
        return optuna.Trial(self.study, self._id)


class Queue:
    """All trials of a study, and which comes next.

    What has begun is remembered here and read one by one. Every baseline, then every point of the design and of a grid is
    enqueued once, when its turn has come: whatever is asked of Optuna reads every trial that waits in its queue, so that a
    grid of a thousand points would cost a thousand times a thousand.
    """

    def __init__(self, study: StudyConfig, opened: Opened) -> None:
        self._study = study
        self._opened = opened
        self._conditions = {condition.label: condition for condition in conditions(study)}
        there = [made.get_trials(deepcopy=False) for made, _ in opened]
        self._entries = [
            [Entry(made, t.number, t._trial_id) for t in trials if stored(t) is not None]
            for (made, _), trials in zip(opened, there, strict=True)
        ]
        self._waiting = [sum(t.state == TrialState.WAITING for t in trials) for trials in there]
        self._first = [
            wanted_first(study, condition)[_enqueued(trials) :]
            for (_, condition), trials in zip(opened, there, strict=True)
        ]

    def trials(self) -> list[StoredTrial]:
        """All that got as far as having a configuration, which are those that count."""
        return [entry.read() for entry in self.entries()]

    def entries(self) -> list[Entry]:
        """The same, to write to."""
        return [entry for entries in self._entries for entry in entries]

    def begun(self) -> int:
        """How many these are."""
        return sum(len(entries) for entries in self._entries)

    def rivals(self, entry: Entry) -> list[StoredTrial]:
        """The trials of the Optuna study that an entry is in."""
        return [other.read() for entries in self._entries if entry in entries for other in entries]

    def ask(self) -> Entry | None:
        """The next trial: conditions in turn, the one with the fewest trials first. None when a grid is used up."""
        counts = [len(entries) for entries in self._entries]
        for index in sorted(range(len(counts)), key=lambda i: (counts[i], i)):
            study, condition = self._opened[index]
            if not self._waiting[index] and self._first[index]:
                params, attributes = self._first[index].pop(0)
                study.enqueue_trial(params, user_attrs=attributes)
                self._waiting[index] += 1
            if self._study.sampler == "grid" and not self._waiting[index]:
                continue  # this condition's grid is used up
            study.sampler = build_sampler(self._study, counts[index], index)
            entry = self._draw(study, condition, sum(counts))
            self._waiting[index] = max(0, self._waiting[index] - 1)  # Optuna takes what waits before it draws
            self._entries[index].append(entry)
            self._entries[index].sort(key=lambda one: one.position)
            return entry
        return None

    def _draw(self, study: optuna.Study, condition: Condition | None, number: int) -> Entry:
        asked = study.ask()
        baseline = asked.user_attrs.get("baseline")
        if condition is None:
            labels = list(self._conditions)
            label = asked.suggest_categorical("condition", labels) if len(labels) > 1 else labels[0]
            condition = self._conditions[label]
        if baseline is not None:
            keys = baseline
        else:
            keys = drawn(self._study, condition, lambda key, space: suggest(asked, key, space))
        configs = [resolve(self._study, condition, keys, repeat) for repeat in range(self._study.repeats)]
        asked.set_user_attr("trial", number)
        asked.set_user_attr("condition", condition.label)
        asked.set_user_attr("keys", keys)
        # last: a trial with a configuration can be adopted, one without never began
        asked.set_user_attr("config", [config.model_dump(mode="json") for config in configs])
        return Entry(study, asked.number, asked._trial_id)

    def adopt(self) -> list[Entry]:
        """Trials that an earlier driver left RUNNING, by their number; one that never got a configuration is failed.

        What such a trial had taken out of the queue, a baseline or a point of the grid, is put back there.
        """
        adopted = []
        for index, (study, _) in enumerate(self._opened):
            mine = {entry.position: entry for entry in self._entries[index]}
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if trial.number in mine:
                    adopted.append(mine[trial.number])
                    continue
                fixed = trial.system_attrs.get("fixed_params")
                there = study.get_trials(deepcopy=False)
                if fixed is not None and not any(t.user_attrs.get("instead_of") == trial.number for t in there):
                    kept = {name: value for name, value in trial.user_attrs.items() if name == "baseline"}
                    study.enqueue_trial(fixed, user_attrs={**kept, "instead_of": trial.number})
                    self._waiting[index] += 1
                study.tell(trial.number, state=TrialState.FAIL)
        return sorted(adopted, key=lambda entry: entry.read().number)
