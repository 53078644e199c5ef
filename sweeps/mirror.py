"""What MLflow knows of a study: the study's own run, the parent of its trials' runs, and whatever it is still to be told.

Optuna and the folders hold everything; MLflow is a mirror. A study goes on without it, and what was lost with a tracker's
process, or because the store was away, is sent again from the folders, each step once.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from engine.actors import imported_ray
from engine.background import Background
from engine.clock import REAL, Clock
from engine.errors import DataError, PulseLedgerError
from engine.files import whole, write_text
from engine.outputs import rounds_done
from engine.own.reference import titled
from engine.result import Result
from engine.tracked import Shown, publish
from engine.tracking.curves import data_profile, run_note
from engine.tracking.tracker import Tracker, start_tracker
from sweeps.answer import answers
from sweeps.derived import PARETO, TRIALS, pareto_text
from sweeps.folder import STUDY_FILE, error_file, repeat_folder, trial_folder
from sweeps.front import best, by_condition, study_metrics
from sweeps.lock import study_key
from sweeps.mirrored import (
    ending_tags,
    first_run,
    method_scores,
    study_note,
    told,
    trial_name,
    trial_scores,
    trial_tags,
    varied,
)
from sweeps.rows import results_frame, rows_of
from sweeps.space import StudyConfig
from sweeps.storage import storage_url
from sweeps.stored import StoredTrial
from sweeps.text import first_line
from sweeps.trial import Numbers, numbers_of

TRACKERS = 3  # of which one after another may be lost before a call to MLflow is given up
STORE_SECONDS = 15.0  # for a store that is away when the study ends

Given = ParamSpec("Given")
Found = TypeVar("Found")


class Mirror(Protocol):
    """What the driver tells MLflow. Nothing here fails a study."""

    @property
    def tracker(self) -> Background[Tracker] | None:
        """For the runners, which send the curves of their trials; None without one."""
        ...

    def open(self, study: StudyConfig) -> None:
        """Makes or finds the study's run; once more when the study has changed."""
        ...

    def named(self, trial: StoredTrial) -> Shown:
        """The run of a trial."""
        ...

    def moved(self) -> None:
        """After each trial that ended: a point of each `sweep/` curve."""
        ...

    def ended(self, trials: Iterable[tuple[StoredTrial, str]]) -> None:
        """Trials with the states in which they end: sends again what MLflow lacks of them, and of earlier ones."""
        ...

    def spread(self, trial: StoredTrial, repeats: Sequence[Numbers]) -> None:
        """The scores of a trial, means over its repeats."""
        ...

    def tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags of the study's run."""
        ...

    def finish(self, state: str, metrics: Mapping[str, float]) -> None:
        """The end of the study: its files, report, data and best model."""
        ...

    def close(self, at_once: bool) -> None:
        """Lets go; at once leaves what is waiting to the next driver."""
        ...


class NoMirror:
    """Of a study without tracking."""

    tracker: Background[Tracker] | None = None

    def open(self, study: StudyConfig) -> None:
        pass

    def named(self, trial: StoredTrial) -> Shown:
        return Shown("", trial_name(trial), {}, "")

    def moved(self) -> None:
        pass

    def ended(self, trials: Iterable[tuple[StoredTrial, str]]) -> None:
        pass

    def spread(self, trial: StoredTrial, repeats: Sequence[Numbers]) -> None:
        pass

    def tags(self, tags: Mapping[str, str]) -> None:
        pass

    def finish(self, state: str, metrics: Mapping[str, float]) -> None:
        pass

    def close(self, at_once: bool) -> None:
        pass


class MlflowMirror:
    """The mirror of one study; what it has not seen in MLflow yet it looks for at the next call."""

    def __init__(
        self,
        study: StudyConfig,
        folder: Path,
        trials: Callable[[], Sequence[StoredTrial]],
        say: Callable[[str], None],
        start: Callable[..., Background[Tracker]],
        clock: Clock,
        store_seconds: float,
        draw: Callable[[Path], object],
    ) -> None:
        """
        Args:
            trials: gives all trials of the study as they are now.
            say: told in plain words what is wrong.
            start: starts a tracker.
            draw: writes the report of a study into its folder.
            store_seconds: how long to wait, at the end, for a store that is away.
        """
        self._study, self._folder, self._trials, self._say = study, folder, trials, say
        self._start, self._clock, self._seconds, self._draw = start, clock, store_seconds, draw
        self.tracker: Background[Tracker] | None = None
        self._key = ""
        self._restarting = False
        self._unsure: dict[int, tuple[StoredTrial, str]] = {}  # trials that ended, and may not be in MLflow yet

    def open(self, study: StudyConfig) -> None:
        self._study = study
        if self.tracker is None:
            self.tracker = self._start(study.tracking, self._folder, actor=True)
            # after the start: the first one checks that somebody listens, and goes by whether the key is there
            self._key = study_key(study, self._folder)
        tags = {
            "study": study.name,
            "mlflow.note.content": self._note(),
            "optuna.storage": storage_url(study, self._folder),
        }
        tags |= {"tuned_on_test": "true"} if study.tuned_on_test else {}
        self._track(Tracker.open_run, self._key, study.name, tags, {})
        self._track(Tracker.artifacts, self._key, [self._folder / STUDY_FILE])
        self._track(Tracker.system_metrics, self._key)
        self.moved()  # what a driver that was killed had no time to say
        self._say_missing()

    def named(self, trial: StoredTrial) -> Shown:
        key, several = f"{self._key}/{trial.number}", len(trial.configs) > 1
        return Shown(
            key, trial_name(trial), trial_tags(self._study, trial), self._key, varied(self._study), not several
        )

    def moved(self) -> None:
        trials = self._trials()
        if step := sum(trial.ended for trial in trials):
            self._track(Tracker.log, self._key, step, study_metrics(self._study, trials))

    def ended(self, trials: Iterable[tuple[StoredTrial, str]]) -> None:
        self._unsure |= {trial.number: (trial, state) for trial, state in trials}
        for _ in range(TRACKERS):
            keys = {self.named(trial).key: number for number, (trial, _) in self._unsure.items()}
            wanted = {key: self._wanted(*self._unsure[number]) for key, number in keys.items()}
            lacking = self._track(Tracker.lacking, wanted) if wanted else []
            if lacking is None:
                return  # the store is away: the next call asks again
            self._unsure = {keys[key]: self._unsure[keys[key]] for key in lacking}
            for trial, state in self._unsure.values():
                self._publish(trial, state)

    def spread(self, trial: StoredTrial, repeats: Sequence[Numbers]) -> None:
        metrics = trial_scores(self._study, trial, [numbers.scores for numbers in repeats])
        self._track(Tracker.summary, self.named(trial).key, metrics)
        self._track(Tracker.flush)

    def tags(self, tags: Mapping[str, str]) -> None:
        if tags:
            self._track(Tracker.tags, self._key, tags)

    def finish(self, state: str, metrics: Mapping[str, float]) -> None:
        end = self._clock.now() + self._seconds
        while self._track(Tracker.state) and self._clock.now() < end:
            self._clock.sleep(1)
            self._track(Tracker.flush, now=True)
        trials = self._trials()
        self.ended((trial, trial.state) for trial in trials if trial.ended)
        if self._unsure:
            self._say(f"MLflow: {len(self._unsure)} trials are not complete there; resume sends them again")
        for trial in trials if self._study.repeats > 1 else ():
            if (
                trial.state == "COMPLETE"
            ):  # a tracker that was lost just before its means came leaves the run without them
                self._send_scores(trial)
        self._track(Tracker.summary, self._key, metrics)
        self._send_answers()
        self._send_files(trials)
        self._send_data(trials)
        for trial in self._modelled(trials):
            self._track(Tracker.model, self.named(trial).key, str(self._home(trial)), self._key)
        self._track(Tracker.finish, self._key, state)
        for _ in range(TRACKERS):  # a tracker that was lost meanwhile has left the run open
            self._track(Tracker.flush, now=True)
            if not self._track(Tracker.lacking, {self._key: (state, "", 0)}):
                break
            self._track(Tracker.finish, self._key, state)
        self._say_missing()

    def close(self, at_once: bool) -> None:
        if self.tracker is None:
            return
        with contextlib.suppress(Exception):
            if at_once:  # what MLflow misses it gets at the resume
                self.tracker.end()
            else:
                self.tracker.close()

    # --- Trials -------------------------------------------------------------------------------------------------------

    def _wanted(self, trial: StoredTrial, state: str) -> tuple[str, str, int]:
        """How a trial's run must look; see `Tracker.lacking`."""
        rounds = 0
        with contextlib.suppress(DataError):  # a damaged file must not end the study
            rounds = len(rounds_done(first_run(trial), self._home(trial)))
        return state, trial.reason, rounds

    def _publish(self, trial: StoredTrial, state: str) -> None:
        """Sends what an ended trial has in its folder and in Optuna."""
        named = self.named(trial)
        if self.tracker is None:
            return
        for problem in publish(first_run(trial), self._home(trial), self.tracker, named):
            self._say(f"trial {trial.number}: {problem}")
        if state == "COMPLETE":
            self._send_scores(trial)
        elif trial.reason:
            self._track(Tracker.tags, named.key, ending_tags(trial, state))
            if (path := error_file(self._folder, trial.number)).exists():
                self._track(Tracker.artifacts, named.key, [path])
        self._track(Tracker.finish, named.key, state)

    def _send_scores(self, trial: StoredTrial) -> None:
        """As `spread`, out of the trial's folder."""
        home = trial_folder(self._folder, trial.number)
        paths = (*self._study.objectives, *told(self._study))
        with contextlib.suppress(DataError):
            results = [Result.read(repeat_folder(home, repeat)) for repeat in range(len(trial.configs))]
            self.spread(trial, [numbers_of(result, paths) for result in results])

    def _home(self, trial: StoredTrial) -> Path:
        """The folder of the repeat that a trial's run follows."""
        return repeat_folder(trial_folder(self._folder, trial.number), 0)

    # --- The study's own run ------------------------------------------------------------------------------------------

    def _send_answers(self) -> None:
        """What `compare` says of the study: sentences and a table as its note, the table's numbers as metrics."""
        try:
            found = answers(rows_of(self._folder))
        except PulseLedgerError as error:  # a damaged result; MLflow is told what it can be
            self._say(f"MLflow: no answer, {first_line(error)}")
            return
        metrics = method_scores(found)
        self._track(Tracker.summary, self._key, metrics)
        self._track(Tracker.tags, self._key, {"mlflow.note.content": study_note(found, self._note())})

    def _note(self) -> str:
        """How to get the study again."""
        more = " `pulseledger compare DIR` prints the table, `pulseledger report DIR` draws it."
        return run_note("pulseledger sweep study.yaml", STUDY_FILE, more)

    def _send_files(self, trials: Sequence[StoredTrial]) -> None:
        write_text(self._folder / PARETO, pareto_text(self._study, trials))
        with whole(self._folder / TRIALS) as part:
            results_frame(self._folder).to_parquet(part)
        self._track(Tracker.artifacts, self._key, [self._folder / PARETO, self._folder / TRIALS])
        try:
            self._draw(self._folder)
            self._track(Tracker.artifacts, self._key, [self._folder / "report"])
        except Exception as error:  # all trials have ended, and a picture must not be what a study fails of
            self._track(Tracker.tags, self._key, {"report.error": f"{type(error).__name__}: {error}"})

    def _send_data(self, trials: Sequence[StoredTrial]) -> None:
        """The cohorts, each once."""
        seen = set()
        for trial in trials:
            try:
                cohort = Result.read(self._home(trial)).cohort
            except DataError:
                continue  # it never got to a result
            profile = data_profile(cohort)
            if profile not in seen:
                seen.add(profile)
                source = titled(self._study.data.source)
                self._track(Tracker.dataset, self._key, source, cohort.digest, source, profile)

    def _modelled(self, trials: Sequence[StoredTrial]) -> list[StoredTrial]:
        """Trials whose model is kept: the best by the first objective, of all or of each condition."""
        each = list(by_condition(self._study, trials).values())
        groups: dict[str, list[list[StoredTrial]]] = {"none": [], "best": [sum(each, [])], "conditions": each}
        found = (best(self._study, group) for group in groups[self._study.tracking.models])
        return [trial for trial in found if trial is not None]

    # --- The tracker --------------------------------------------------------------------------------------------------

    def _track(
        self, method: Callable[Concatenate[Tracker, Given], Found], *args: Given.args, **keys: Given.kwargs
    ) -> Found | None:
        """Tells or asks MLflow; None when nobody answers."""
        for _ in range(TRACKERS):
            if self.tracker is None:
                return None
            try:
                return self.tracker.submit(method, *args, **keys).result()
            except imported_ray().exceptions.RayActorError:
                if self._restarting:
                    return None
                self._restart()
            except Exception as error:
                self._say(f"MLflow: {type(error).__name__}: {first_line(error)}")
                return None
        return None

    def _restart(self) -> None:
        """Starts another tracker for one whose process was lost; running trials are sent again when they end."""
        self._say("MLflow: the tracker's process was lost and is started again")
        if self.tracker is not None:
            self.tracker.abandon()
            self.tracker = None
        self._restarting = True
        try:
            self.open(self._study)
        except PulseLedgerError as error:
            self._say(f"MLflow: {first_line(error)}")
        finally:
            self._restarting = False

    def _say_missing(self) -> None:
        if missing := self._track(Tracker.state):
            self._say(f"MLflow: {missing}")


def draw_report(folder: Path) -> None:
    """The page and the pictures of a study that has ended."""
    from sweeps.report import write_report  # with all that draws, which a driver needs only here

    write_report(folder)


def open_mirror(
    study: StudyConfig,
    folder: Path,
    trials: Callable[[], Sequence[StoredTrial]],
    say: Callable[[str], None],
    start: Callable[..., Background[Tracker]] = start_tracker,
    clock: Clock = REAL,
    store_seconds: float = STORE_SECONDS,
    draw: Callable[[Path], object] = draw_report,
) -> Mirror:
    """The mirror of a study, if it is tracked; see `MlflowMirror`."""
    if study.tracking.backend == "none":
        return NoMirror()
    return MlflowMirror(study, folder, trials, say, start, clock, store_seconds, draw)
