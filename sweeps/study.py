"""The study driver: one process owns the Optuna study and its database, Ray only executes.

ask -> placement group and runner -> wait for any -> tell. Every `tell` is committed, every trial has its folder with
a checkpoint after each round, so a driver that is killed at any moment loses nothing: `resume` adopts what it left.
"""

import contextlib
import json
import logging
import os
import socket
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from engine.actors import end_actor, imported_ray, start_ray, stop_ray
from engine.background import Background
from engine.config import RunConfig, config_hash, dump_yaml, load_yaml, parse
from engine.errors import ResourceError, StudyError
from engine.files import whole
from engine.tracking import start_tracker
from sweeps.space import (
    Condition,
    StudyConfig,
    build_sampler,
    conditions,
    grid,
    resolve,
    search_space,
    suggest,
    total_trials,
)
from sweeps.storage import driver_storage, one_sentence, open_storage, storage_url
from sweeps.trial import RUNNER_CPU, TrialRunner, repeat_folder

STUDY_FILE = "study.yaml"
FAIL_FAST = 3  # trials that all fail at the start end the study
LOSSES = 2  # times that a trial is started again after its processes were lost
START_SECONDS = 180.0  # a placement group that is not there by then never will be


@dataclass
class _Slot:
    """A placement group and its runner, used by one trial after another."""

    group: Any
    runner: Any


@dataclass
class _Running:
    """A trial under way."""

    study: optuna.Study
    number: int  # in its Optuna study
    trial: int  # in the whole study; names its folder
    order: dict[str, Any]
    slot: _Slot | None = None
    call: Any = None
    losses: int = 0
    started: float = field(default_factory=time.monotonic)


def start_study(study: StudyConfig, folder: Path, say: Callable[[str], None] = print) -> None:
    """Begins a study in `folder`, or goes on with the same one there.

    Raises:
        StudyError: another driver holds the folder, or it holds another study.
        ResourceError: a trial does not fit on the machine or cluster.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder), driver_storage(study, folder, say) as storage:
        _write_study(study, folder)
        _drive(study, folder, say, storage)


def resume_study(folder: Path, say: Callable[[str], None] = print) -> None:
    """Goes on with the study of `folder` until every wanted trial has ended."""
    study = read_study(folder)
    with _lock(folder), driver_storage(study, folder, say) as storage:
        _drive(study, folder, say, storage)


def _drive(study: StudyConfig, folder: Path, say: Callable[[str], None], storage: BaseStorage) -> None:
    with _ray(study):
        _require_head(study)
        Driver(study, folder, say, storage).drive()


def _write_study(study: StudyConfig, folder: Path) -> None:
    path = folder / STUDY_FILE
    if path.exists():
        there = parse(StudyConfig, load_yaml(path), str(path))
        # more trials, another concurrency or cluster are still the same study
        changed = [
            key
            for key in StudyConfig.model_fields
            if key not in ("out", "trials", "concurrency", "execution", "storage")
            and getattr(there, key) != getattr(study, key)
        ]
        if (there.storage is None) != (study.storage is None):  # a database may move, but trials do not change its kind
            changed.append("kind of storage")
        if changed:
            raise StudyError(
                f"{path}: holds a study with another {changed[0]}; use another --out, or pulseledger resume."
            )
    with whole(path) as part:
        part.write_text(dump_yaml(study), encoding="utf-8")


def read_study(folder: Path) -> StudyConfig:
    """The study of a folder.

    Raises:
        StudyError: there is none.
    """
    if not (folder / STUDY_FILE).exists():
        raise StudyError(f"{folder}: holds no study ({STUDY_FILE} is missing).")
    return parse(StudyConfig, load_yaml(folder / STUDY_FILE), str(folder / STUDY_FILE))


def open_studies(
    study: StudyConfig, folder: Path, storage: BaseStorage | None = None
) -> list[tuple[optuna.Study, Condition | None]]:
    """The Optuna studies of a folder, one for each condition, or a single one for all of them with `joint`.

    Every baseline, and every point of a grid, is enqueued once. `storage` is the driver's; without, it is opened to read.

    Raises:
        StudyError: the database is damaged or away, the disk is full, or a study of this name has another folder.
    """
    with one_sentence(study, folder):
        return _open_studies(study, folder, storage or open_storage(study, folder))


def _open_studies(
    study: StudyConfig, folder: Path, storage: BaseStorage
) -> list[tuple[optuna.Study, Condition | None]]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").setLevel(logging.WARNING)
    directions = list(study.objectives.values())
    opened = []
    everything = conditions(study)
    for condition in [None] if study.joint else everything:
        name = study.name if condition is None else f"{study.name} | {condition.label}"
        made = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=directions,
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner(),
        )
        if study.storage is not None:
            # many folders share one database
            mine = _identity(folder)
            owner = made.user_attrs.get("folder", mine)
            if owner != mine:
                raise StudyError(
                    f"storage: the database holds a study {study.name} of another folder (begun as {owner}); choose "
                    "another name, or resume that one in its folder."
                )
            made.set_user_attr("folder", mine)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            made.set_metric_names(list(study.objectives))
        if "enqueued" not in made.user_attrs:
            queue: list[tuple[dict[str, Any], dict[str, Any]]] = []
            for place in everything if condition is None else [condition]:
                fixed = {"condition": place.label} if study.joint and len(everything) > 1 else {}
                queue += [(fixed, {"baseline": keys}) for keys in study.baselines]
                queue += [({**fixed, **point}, {}) for point in grid(study)]
            # a driver that was killed here left the first of them; nobody asks before the mark is set
            for params, attributes in queue[len(made.get_trials(deepcopy=False)) :]:
                made.enqueue_trial(params, user_attrs=attributes)
            made.set_user_attr("enqueued", True)
        opened.append((made, condition))
    return opened


class Driver:
    """Asks, starts, waits and tells. One at a time for each study folder."""

    def __init__(self, study: StudyConfig, folder: Path, say: Callable[[str], None], storage: BaseStorage) -> None:
        self._study = study
        self._folder = folder.resolve()
        self._say = say
        self._ray = imported_ray()
        self._cpus = _trial_cpus(self._ray, study)
        self._concurrency = study.concurrency or max(1, int(self._ray.cluster_resources().get("CPU", 1) // self._cpus))
        self._conditions = {c.label: c for c in conditions(study)}
        self._studies = open_studies(study, self._folder, storage)
        self._total = total_trials(study)
        self._space = search_space(study)
        self._idle: list[_Slot] = []
        self._tracker: Background | None = None
        self._parent: str | None = None

    def drive(self) -> None:
        """Runs until every wanted trial has ended.

        Raises:
            StudyError: the first trials all failed.
        """
        running: list[_Running] = []
        try:
            self._start_tracking()
            waiting = self._adopt()
            while True:
                while len(running) < self._concurrency and (waiting or self._asked() < self._total):
                    trial = waiting.pop(0) if waiting else self._ask()
                    if trial is None:
                        break  # a grid is used up
                    running.append(trial)
                    self._launch(trial)
                if not running:
                    break
                done, _ = self._ray.wait([trial.call for trial in running], num_returns=1, timeout=5)
                for call in done:
                    trial = next(t for t in running if t.call is call)
                    if self._conclude(trial):
                        running.remove(trial)
                self._fail_fast()
            self._finish_tracking("COMPLETE")
        except StudyError:
            self._finish_tracking("FAIL")
            raise
        finally:
            for slot in (*(trial.slot for trial in running), *self._idle):
                self._close_slot(slot)
            if self._tracker is not None:
                with contextlib.suppress(Exception):
                    self._tracker.close()

    def _asked(self) -> int:
        """Trials that count against the wanted number: all that got as far as having a configuration."""
        return sum("config" in t.user_attrs for study, _ in self._studies for t in study.get_trials(deepcopy=False))

    def _ask(self) -> _Running | None:
        """The next trial: conditions in turn, the one with the fewest trials first."""
        counts = [sum("config" in t.user_attrs for t in study.get_trials(deepcopy=False)) for study, _ in self._studies]
        for index in sorted(range(len(counts)), key=lambda i: (counts[i], i)):
            study, condition = self._studies[index]
            waiting = any(t.state == TrialState.WAITING for t in study.get_trials(deepcopy=False))
            if self._study.sampler == "grid" and not waiting:
                continue  # this condition's grid is used up
            study.sampler = build_sampler(self._study, counts[index], index)
            asked = study.ask()
            baseline = asked.user_attrs.get("baseline")
            if condition is None:
                labels = list(self._conditions)
                label = asked.suggest_categorical("condition", labels) if len(labels) > 1 else labels[0]
                condition = self._conditions[label]
            if baseline is not None:
                keys = baseline
            else:
                keys = {key: suggest(asked, key, distribution) for key, distribution in self._space.items()}
            trial = self._asked()
            configs = [resolve(self._study, condition, keys, r) for r in range(self._study.repeats)]
            asked.set_user_attr("trial", trial)
            asked.set_user_attr("condition", condition.label)
            asked.set_user_attr("keys", keys)
            # last: a trial with a configuration can be adopted, one without never began
            asked.set_user_attr("config", [c.model_dump(mode="json") for c in configs])
            return self._order(study, asked.number)
        return None

    def _order(self, study: optuna.Study, number: int) -> _Running:
        attributes = study.get_trials(deepcopy=False)[number].user_attrs
        trial = attributes["trial"]
        name = f"trial-{trial:04d}"
        tags = {
            "study": self._study.name,
            "condition": attributes["condition"],
            "number": str(trial),
            "trial_name": name,
            "state": "RUNNING",
            "direction": ", ".join(self._study.objectives.values()),
            "optuna.study": study.study_name,
            "method": attributes["config"][0]["federation"]["algorithm"],
            **{f"condition.{k}": str(v) for k, v in self._conditions[attributes["condition"]].keys.items()},
        }
        order = {
            "configs": attributes["config"],
            "folder": str(trial_folder(self._folder, trial)),
            "attempt": 0,
            "key": f"{self._key()}/{trial}",
            "name": name,
            "tags": tags,
            "parent": self._parent,
        }
        return _Running(study, number, trial, order)

    def _adopt(self) -> list[_Running]:
        """Trials that an earlier driver left RUNNING: continued, or failed when they never got a configuration.

        What such a trial had taken out of the queue, a baseline or a point of the grid, is put back there.
        """
        adopted = []
        for study, _ in self._studies:
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if "config" in trial.user_attrs:
                    adopted.append(self._order(study, trial.number))
                    continue
                fixed = trial.system_attrs.get("fixed_params")
                there = study.get_trials(deepcopy=False)
                if fixed is not None and not any(t.user_attrs.get("instead_of") == trial.number for t in there):
                    kept = {k: v for k, v in trial.user_attrs.items() if k == "baseline"}
                    study.enqueue_trial(fixed, user_attrs={**kept, "instead_of": trial.number})
                study.tell(trial.number, state=TrialState.FAIL)
        if adopted:
            self._say(f"going on with {len(adopted)} trials of an earlier driver")
        return sorted(adopted, key=lambda t: t.trial)

    def _launch(self, trial: _Running) -> None:
        folder = Path(trial.order["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        trial.order["attempt"] = _next_attempt(folder, self._study.repeats)
        trial.slot = self._idle.pop() if self._idle else self._open_slot(trial.trial)
        trial.call = trial.slot.runner.run.remote(trial.order, self._tracker)

    def _open_slot(self, trial: int) -> _Slot:
        ray = self._ray
        group = ray.util.placement_group([{"CPU": RUNNER_CPU}, {"CPU": self._cpus - RUNNER_CPU}], strategy="PACK")
        if not group.wait(START_SECONDS):
            there, free = ray.cluster_resources().get("CPU", 0), ray.available_resources().get("CPU", 0)
            raise ResourceError(
                f"trial {trial} wants {self._cpus:g} CPU; after {START_SECONDS:g} s the cluster's {there:g} CPU "
                f"have {free:g} free."
            )
        strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
            group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
        )
        actor = ray.remote(num_cpus=RUNNER_CPU, max_restarts=0)(TrialRunner)
        return _Slot(group, actor.options(scheduling_strategy=strategy).remote())

    def _close_slot(self, slot: _Slot | None) -> None:
        if slot is not None:
            end_actor(slot.runner)  # its hospitals belong to it and end with it
            with contextlib.suppress(Exception):
                self._ray.util.remove_placement_group(slot.group)

    def _conclude(self, trial: _Running) -> bool:
        """Tells how a trial ended; returns False when it was started again instead."""
        try:
            results = self._ray.get(trial.call)
        except self._ray.exceptions.RayActorError:
            self._close_slot(trial.slot)
            trial.losses += 1
            if trial.losses <= LOSSES:
                self._say(f"trial {trial.trial}: its processes were lost, going on from its checkpoint")
                self._launch(trial)
                return False
            self._fail(trial, f"its processes were lost {trial.losses} times", "")
            return True
        except self._ray.exceptions.RayTaskError as error:
            self._close_slot(trial.slot)
            self._fail(trial, f"{type(error.cause).__name__}: {error.cause}", str(error))
            return True
        assert trial.slot is not None
        self._idle.append(trial.slot)
        self._tell(trial, results)
        return True

    def _tell(self, trial: _Running, results: list[dict[str, Any]]) -> None:
        wanted = [config_hash(RunConfig.model_validate(values)) for values in trial.order["configs"]]
        if [r["config_hash"] for r in results] != wanted:
            self._fail(trial, "the runner ran another configuration than it was asked to", "")
            return
        means = []
        for name in self._study.objectives:
            values = [value for result in results if (value := lookup(result, name)) is not None]
            if len(values) < len(results):
                self._fail(trial, f"the objective {name} has no value in this cohort", "")
                return
            means.append(statistics.fmean(values))
        self._spread(trial, results)
        trial.study.tell(trial.number, means)
        said = ", ".join(f"{name} {value:.4f}" for name, value in zip(self._study.objectives, means, strict=True))
        seconds = time.monotonic() - trial.started
        self._say(f"trial {trial.trial + 1}/{self._total}  {self._label(trial)}  {said}  ({seconds:.0f} s)")

    def _fail(self, trial: _Running, error: str, trace: str) -> None:
        path = error_file(self._folder, trial.trial)
        path.write_text(f"{error}\n\n{trace}")
        trial.study.tell(trial.number, state=TrialState.FAIL)
        key = trial.order["key"]
        self._track("open_run", key, trial.order["name"], trial.order["tags"], {}, self._parent)
        self._track("tags", key, {"error": error})
        self._track("finish", key, "FAIL")
        self._say(
            f"trial {trial.trial + 1}/{self._total}  {self._label(trial)}  FAILED: {error.splitlines()[0]} ({path})"
        )

    def _label(self, trial: _Running) -> str:
        attributes = trial.study.get_trials(deepcopy=False)[trial.number].user_attrs
        keys = " ".join(f"{k.rsplit('.', 1)[-1]}={_short(v)}" for k, v in attributes["keys"].items())
        return f"[{attributes['condition']}] {keys}"

    def _fail_fast(self) -> None:
        ended = [
            t
            for study, _ in self._studies
            for t in study.get_trials(deepcopy=False)
            if t.state.is_finished() and "config" in t.user_attrs
        ]
        if len(ended) >= min(FAIL_FAST, self._total) and all(t.state == TrialState.FAIL for t in ended):
            first = min(ended, key=lambda t: t.user_attrs["trial"])
            raise StudyError(
                f"the first {len(ended)} trials all failed; trial {first.user_attrs['trial']}: "
                f"{read_error(self._folder, first.user_attrs['trial'])}"
            )

    def _key(self) -> str:
        """Names this study in MLflow, wherever its folder is moved."""
        return f"{self._study.name}/{_identity(self._folder)}"

    def _start_tracking(self) -> None:
        if self._study.tracking.backend == "none":
            return
        self._tracker = start_tracker(self._study.tracking, self._folder, actor=True)
        note = f"`pulseledger sweep {STUDY_FILE}` with the file among the artifacts; `pulseledger compare` prints the table."
        tags = {
            "study": self._study.name,
            "optuna.storage": storage_url(self._study, self._folder),
            "mlflow.note.content": note,
        }
        self._parent = self._key()
        self._tracker.submit("open_run", self._parent, self._study.name, tags, {}).result()
        self._tracker.submit("artifacts", self._parent, [str(self._folder / STUDY_FILE)]).result()

    def _track(self, method: str, *args: Any) -> None:
        """Tells MLflow; a study goes on without it when it is away."""
        if self._tracker is not None:
            try:
                self._tracker.submit(method, *args).result()
            except Exception as error:
                self._say(f"MLflow: {type(error).__name__}: {str(error).splitlines()[0][:200]}")

    def _finish_tracking(self, state: str) -> None:
        states = [t.state for study, _ in self._studies for t in study.get_trials(deepcopy=False)]
        counts = {f"sweep/n_{s.name.lower()}": float(states.count(s)) for s in (TrialState.COMPLETE, TrialState.FAIL)}
        self._track("summary", self._parent, counts)
        self._track("finish", self._parent, state)

    def _spread(self, trial: _Running, results: list[dict[str, Any]]) -> None:
        """Mean and standard deviation over the repeats, in MLflow's run of the trial."""
        if self._tracker is None or len(results) < 2:
            return
        metrics = {}
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "recall_min"):
            values = [result["final"]["personal"][name] for result in results]
            metrics[f"repeats/{name}_mean"] = statistics.fmean(values)
            metrics[f"repeats/{name}_sd"] = statistics.stdev(values)
        self._track("summary", trial.order["key"], metrics)
        self._track("flush")


def lookup(result: dict[str, Any], name: str) -> float | None:
    """The score at a path such as "validation/personal/macro_f1"; None where the cohort does not have it."""
    value: Any = result
    for part in name.split("/"):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def trial_folder(folder: Path, trial: int) -> Path:
    """Where a trial writes."""
    return folder / "trials" / f"{trial:04d}"


def error_file(folder: Path, trial: int) -> Path:
    """Where a failed trial's reason and traceback are kept."""
    return trial_folder(folder, trial) / "error.txt"


def read_error(folder: Path, trial: int) -> str:
    """The reason of a failed trial in one line; empty when none was written."""
    try:
        return error_file(folder, trial).read_text().split("\n", 1)[0]
    except OSError:
        return ""


def _next_attempt(folder: Path, repeats: int) -> int:
    """Counts up the attempts at a trial, which fences off a runner that is still alive from an earlier one."""
    attempt = 0
    for repeat in range(repeats):
        path = repeat_folder(folder, repeat) / "attempt"
        attempt = max(attempt, int(path.read_text() or 0) if path.exists() else 0)
    for repeat in range(repeats):
        place = repeat_folder(folder, repeat)
        place.mkdir(parents=True, exist_ok=True)
        (place / "attempt").write_text(str(attempt + 1))
    return attempt + 1


def _trial_cpus(ray: Any, study: StudyConfig) -> float:
    """CPUs of one trial: all divided by the wanted concurrency, at least one if there is.

    Raises:
        ResourceError: the trials at a time want more than there is.
    """
    there = ray.cluster_resources().get("CPU", 0.0)
    largest = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    cpus = min(there / study.concurrency, largest) if study.concurrency else 1.0
    if cpus < 2 * RUNNER_CPU or cpus > largest:
        raise ResourceError(
            f"concurrency {study.concurrency or 1} leaves {cpus:.2g} CPU for a trial, which wants at least "
            f"{2 * RUNNER_CPU:g}; the cluster has {there:g} CPU."
        )
    return cpus


def _require_head(study: StudyConfig) -> None:
    """SQLite is one machine's: on a cluster its file lies beside a driver on the head node.

    Raises:
        StudyError: the driver is on another node.
    """
    ray = imported_ray()
    alive = [node for node in ray.nodes() if node["Alive"]]
    here = ray.get_runtime_context().get_node_id()
    head = [node["NodeID"] for node in alive if "node:__internal_head__" in node["Resources"]]
    if study.storage is None and len(alive) > 1 and here not in head:
        raise StudyError(
            f"storage: null is SQLite, which wants the driver on the head node of a cluster of {len(alive)} nodes; start it "
            "there, or give storage a postgresql+psycopg:// address."
        )


@contextlib.contextmanager
def _ray(study: StudyConfig) -> Iterator[None]:
    started = start_ray(study.execution)
    try:
        yield
    finally:
        if started:
            stop_ray()


def _identity(folder: Path) -> str:
    """Names a study's folder wherever it is moved: host, process and time of its beginning."""
    path = folder / ".id"
    if not path.exists():
        path.write_text(f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}")
    return path.read_text()


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Only one driver at a time; the second one is told who the first is."""
    lock = filelock.FileLock(folder / ".lock")
    owner = folder / ".driver.json"
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        try:
            first = json.loads(owner.read_text())
            who = f"process {first['pid']} on {first['host']}"
        except (OSError, ValueError, KeyError):
            who = "another process"
        raise StudyError(f"{folder}: is being driven by {who}; wait for it, or stop it and resume.") from None
    try:
        owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        lock.release()


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
