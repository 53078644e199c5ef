"""The study driver: one process owns the Optuna study and its database, Ray only executes.

ask -> placement group and runner -> wait for any -> at a rung ask the pruner, at the end tell. Every `tell` is
committed, every trial has its folder with a checkpoint after each round, so a driver that is killed at any moment loses
nothing: `resume` adopts what it left.

User attributes of a trial in Optuna's database:
    trial, condition, keys, config      number in the whole study, label, what was tuned, one configuration per repeat
    baseline                            of a baseline: its keys
    rung/ROUND                          values of the objectives there, kept, and what Optuna's pruner noted
    pruned                              round, or repeat, at which it was pruned
    repeats                             objective -> mean, sd, low, high (95 % interval), n
    reason                              why it was pruned or failed, in a line
    waiting                             what a trial waits for that a reviewer must decide on; "" once it goes on
    error                               of a failed trial: hospital, round, stage, traceback
"""

import contextlib
import json
import logging
import math
import os
import re
import signal
import socket
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import optuna
from engine.tracking.tracking import start_tracker
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from engine.actors import SITE, end_actor, imported_ray, start_ray, stop_ray, worker_logs
from engine.background import Answer, Background
from engine.config import RunConfig, config_hash
from engine.errors import (
    DataError,
    HospitalError,
    HospitalLost,
    PulseLedgerError,
    ResourceError,
    ReviewPending,
    StudyError,
)
from engine.files import whole
from engine.ledger.studies import StudyLedger
from engine.pools.ray import ATTEMPTS, sited_groups
from engine.result import finished, rounds_done
from engine.settings import dump_yaml, load_yaml, parse
from engine.synthesis.files import FOLDER
from engine.synthesis.reviews import STATE, undecided
from engine.tracked import publish
from sweeps import registration
from sweeps.progress import StudyProgress
from sweeps.pruning import competitors, keep
from sweeps.space import (
    Condition,
    StudyConfig,
    build_sampler,
    conditions,
    grid,
    resolve,
    rung_rounds,
    search_space,
    suggest,
    total_trials,
    violation,
)
from sweeps.storage import driver_storage, one_sentence, open_storage, storage_url
from sweeps.tracking import StudyRun, begun
from sweeps.trial import PROGRESS, RUNNER_CPU, TrialRunner, repeat_folder

STUDY_FILE = "study.yaml"
FAIL_FAST = 3  # trials that all fail at the start end the study
LOSSES = 2  # times that a trial is started again after its processes were lost
START_SECONDS = 180.0  # a placement group that is not there by then never will be
DROP_SECONDS = 60.0  # for a pruned trial to close its ledger and let its hospitals go
STORE_SECONDS = 15.0  # for an MLflow store that is away when the study ends
TRACKERS = 3  # of which one after another may be lost before a call to MLflow is given up
TICK = 0.5  # seconds between two looks at the running trials
STOP = ".stop"  # a file that asks all runners to end at their next checkpoint
MEMORY_SHARE, RUNNER_GB, HOST_GB = 0.7, 0.35, 0.3  # of free memory; of a runner and of each host of hospitals, measured


@dataclass
class _Slot:
    """A placement group and its runner, used by one trial after another."""

    group: Any
    runner: Any
    bundles: list[dict[str, float]]
    labels: list[dict[str, str]]


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
    seen: tuple[Any, float] = (None, 0.0)  # the last round and note that were seen, and when


def start_study(study: StudyConfig, folder: Path, progress: StudyProgress | None = None, quiet: bool = False) -> None:
    """Begins a study in `folder`, or goes on with the same one there.

    Args:
        progress: who is told how it goes on; the usual view on stderr if None, or nothing if `quiet`.

    Raises:
        StudyError: another driver holds the folder, or it holds another study.
        ResourceError: a trial does not fit on the machine or cluster.
        KeyboardInterrupt: SIGINT or SIGTERM; after the first, all trials have reached a checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder), driver_storage(study, folder, _sayer(progress, quiet)) as storage:
        _write_study(study, folder)
        _drive(study, folder, storage, progress, quiet)


def resume_study(folder: Path, progress: StudyProgress | None = None, quiet: bool = False) -> None:
    """Goes on with the study of `folder` until every wanted trial has ended; see `start_study`."""
    study = read_study(folder)
    with _lock(folder), driver_storage(study, folder, _sayer(progress, quiet)) as storage:
        _drive(study, folder, storage, progress, quiet)


def _drive(study: StudyConfig, folder: Path, storage: BaseStorage, progress: StudyProgress | None, quiet: bool) -> None:
    opened = open_studies(study, folder, storage)
    already = sum(t.state.is_finished() and "config" in t.user_attrs for s, _ in opened for t in _trials(s))
    shown = progress or StudyProgress(total_trials(study), quiet, study.objectives, already)
    with shown, _ray(study):
        _require_head(study)
        try:
            Driver(study, folder, opened, shown).drive()
        except imported_ray().exceptions.RayError as error:
            raise ResourceError(f"Ray was lost ({_line(error)}); `pulseledger resume {folder}` goes on.") from None


def _sayer(progress: StudyProgress | None, quiet: bool) -> Callable[[str], None]:
    if progress is not None:
        return progress.note
    return lambda text: None if quiet else print(text, file=sys.stderr, flush=True)


def _trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False)


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

    Every baseline, then every point of the design and of a grid, is enqueued once. `storage` is the driver's; without, it is opened to read.

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
                queue += [({**fixed, **point}, {}) for point in (*study.design, *grid(study))]
            # a driver that was killed here left the first of them; nobody asks before the mark is set
            for params, attributes in queue[len(made.get_trials(deepcopy=False)) :]:
                made.enqueue_trial(params, user_attrs=attributes)
            made.set_user_attr("enqueued", True)
        opened.append((made, condition))
    return opened


class Driver:
    """Asks, starts, waits and tells. One at a time for each study folder."""

    def __init__(
        self,
        study: StudyConfig,
        folder: Path,
        opened: list[tuple[optuna.Study, Condition | None]],
        progress: StudyProgress,
    ) -> None:
        self._study = study
        self._folder = folder.resolve()
        self._progress = progress
        self._ray = imported_ray()
        there = self._ray.cluster_resources().get("CPU", 1.0)
        # what each site may hold at a time, only the user knows
        self._concurrency = study.concurrency or (1 if study.execution.sites else max(1, int(there)))
        room = memory_room(study, there / self._concurrency, _free_memory(self._ray, study))
        if room < self._concurrency:
            progress.note(f"memory is enough for {max(room, 1)} of {self._concurrency} trials at a time")
            self._concurrency = max(room, 1)
        self._cpus = _trial_cpus(self._ray, study, self._concurrency)
        self._conditions = {c.label: c for c in conditions(study)}
        self._studies = opened
        self._total = total_trials(study)
        self._space = search_space(study)
        self._idle: list[_Slot] = []
        self._running: list[_Running] = []
        self._parked: list[_Running] = []  # wait for a reviewer
        self._signals = 0
        self._trained = 0.0  # seconds of training, times the CPUs of the trial
        self._tracker: Background | None = None
        self._parent: str | None = None
        self._run: StudyRun | None = None
        self._restarting = False
        self._unsure: dict[str, tuple[_Running, str]] = {}  # trials that ended, and may not be in MLflow yet
        self._ledger: Background | None = None
        self._anchored: list[Answer] = []

    def drive(self) -> None:
        """Runs until every wanted trial has ended.

        Raises:
            StudyError: the first trials all failed.
            ReviewPending: all other trials have ended; some wait for a reviewer.
            KeyboardInterrupt: a signal; says how to go on.
        """
        running = self._running
        began = time.monotonic()
        (self._folder / STOP).unlink(missing_ok=True)
        try:
            with self._listening():
                self._start_tracking()
                self._register()
                waiting = self._adopt()
                self._reconcile(self._ended_trials())
                while True:
                    waiting += self._decided()
                    while (
                        not self._signals
                        and len(running) < self._concurrency
                        and (waiting or self._asked() < self._total)
                    ):
                        trial = waiting.pop(0) if waiting else self._ask()
                        if trial is None:
                            break  # a grid is used up
                        running.append(trial)
                        self._launch(trial)
                    if not running:
                        break
                    done, _ = self._ray.wait([trial.call for trial in running], num_returns=1, timeout=TICK)
                    self._look()
                    for call in done:
                        trial = next(t for t in running if t.call is call)
                        if self._conclude(trial):
                            running.remove(trial)
                            if self._run is not None:
                                self._run.ended(self._trials())
                    self._fail_fast()
                if self._signals:
                    raise KeyboardInterrupt(
                        f"stopped, every trial is at a checkpoint; `pulseledger resume {self._folder}` goes on."
                    )
                self._leave_ledger()
                if self._parked:
                    raise ReviewPending(self._waits())
                self._finish_tracking("COMPLETE", time.monotonic() - began)
        except StudyError:
            self._finish_tracking("FAIL", time.monotonic() - began)
            raise
        finally:
            for slot in (*(trial.slot for trial in running), *self._idle):
                self._close_slot(slot)
            if self._ledger is not None:
                self._ledger.abandon()
            if self._tracker is not None:
                with contextlib.suppress(Exception):
                    if self._signals > 1:  # at once: what MLflow misses it gets at the resume
                        self._tracker.end()
                    else:
                        self._tracker.close()

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM lets every trial reach a checkpoint, the second leaves at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def heard(number: int, frame: Any) -> None:
            self._signals += 1
            if self._signals > 1:
                raise KeyboardInterrupt(f"left at once; `pulseledger resume {self._folder}` goes on.")
            (self._folder / STOP).touch()
            # not now: the progress may be in the middle of something
            threading.Thread(
                target=self._progress.note, args=("stopping at the next checkpoints; once more leaves at once",)
            ).start()

        before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _register(self) -> None:
        """Anchors the design of the study before its first trial, and what a driver that was killed did not get to."""
        if self._study.ledger.backend == "none":
            return
        settings = (self._folder / "ledger", self._key(), self._study.ledger)
        self._ledger = Background(StudyLedger, *settings, actor=False)
        self._ledger.submit("register", registration.design(self._study), self._total).result()
        recorded = self._ledger.submit("recorded").result()
        asked = [t for t in self._trials() if "config" in t.user_attrs]
        for trial in sorted(asked, key=lambda t: t.user_attrs["trial"]):
            number = trial.user_attrs["trial"]
            if (number, False) not in recorded:
                self._anchor(number, "BEGUN", registration.begun(trial.user_attrs))
            if trial.state.is_finished() and (number, True) not in recorded:
                self._anchor(number, *registration.ended(trial, trial_folder(self._folder, number)))

    def _anchor(self, trial: int, stage: str, content: dict[str, Any]) -> None:
        """Records a beginning or an end beside the trials; what the ledger refuses ends the study at the next look."""
        if self._ledger is not None:
            self._anchored.append(self._ledger.submit("record", trial, stage, content))

    def _leave_ledger(self) -> None:
        if self._ledger is None:
            return
        for answer in self._anchored:
            answer.result()
        summary = self._ledger.submit("summary").result()
        self._ledger.close()
        self._ledger = None
        if self._run is not None:
            tags = {f"ledger.{name}": str(summary[name]) for name in ("head", "contract", "chain_id", "backend")}
            self._track("tags", self._parent, tags)

    def _look(self) -> None:
        """Shows the rounds of the running trials, and notices one that does not move."""
        while self._anchored and self._anchored[0].done():
            self._anchored.pop(0).result()
        for trial in self._running:
            with contextlib.suppress(OSError, ValueError, KeyError):
                shown = json.loads((Path(trial.order["folder"]) / PROGRESS).read_text())
                if (now := (shown["round"], shown["note"])) != trial.seen[0]:
                    trial.seen = (now, time.monotonic())
                    self._progress.advanced(trial.trial, shown["round"], shown["scores"], shown["note"])
            limit = START_SECONDS + ATTEMPTS * self._study.execution.deadline
            if time.monotonic() - trial.seen[1] > limit and trial.slot is not None:
                self._progress.note(f"trial {trial.trial}: no round in {limit:g} s; its runner is ended")
                end_actor(trial.slot.runner)  # the call fails, which counts as a loss
                trial.seen = (trial.seen[0], time.monotonic())

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
            "stop": str(self._folder / STOP),
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
                    order = self._order(study, trial.number)
                    given_up = [k for k, v in trial.user_attrs.items() if k.startswith("rung/") and not v["kept"]]
                    if given_up:
                        self._prune(order, int(given_up[0][5:]))
                    else:
                        adopted.append(order)
                    continue
                fixed = trial.system_attrs.get("fixed_params")
                there = study.get_trials(deepcopy=False)
                if fixed is not None and not any(t.user_attrs.get("instead_of") == trial.number for t in there):
                    kept = {k: v for k, v in trial.user_attrs.items() if k == "baseline"}
                    study.enqueue_trial(fixed, user_attrs={**kept, "instead_of": trial.number})
                study.tell(trial.number, state=TrialState.FAIL)
        if adopted:
            self._progress.note(f"going on with {len(adopted)} trials of an earlier driver")
        return sorted(adopted, key=lambda t: t.trial)

    def _launch(self, trial: _Running) -> None:
        folder = Path(trial.order["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        attributes = self._attributes(trial)
        by_repeat = self._study.pruner.method == "wilcoxon"
        steps = range(1, self._study.repeats) if by_repeat else rung_rounds(self._study)
        rungs = [] if "baseline" in attributes else [k for k in steps if f"rung/{k}" not in attributes]
        trial.order |= {"rungs": rungs, "by_repeat": by_repeat}
        self._anchor(trial.trial, "BEGUN", registration.begun(attributes))
        trial.order["attempt"] = _next_attempt(folder, self._study.repeats)
        trial.seen = (None, time.monotonic())
        rounds = sum(config["federation"]["rounds"] for config in trial.order["configs"])
        self._progress.started(trial.trial, self._label(trial), attributes["condition"], rounds)
        config = RunConfig.model_validate(trial.order["configs"][0])
        bundles, labels = trial_bundles(config, self._cpus, _nodes(self._ray)), trial_labels(config, self._cpus)
        trial.slot = next((s for s in self._idle if (s.bundles, s.labels) == (bundles, labels)), None)
        if trial.slot is not None:
            self._idle.remove(trial.slot)
        else:
            if self._idle:
                self._close_slot(self._idle.pop(0))  # of another size: its CPUs are wanted
            trial.slot = self._open_slot(trial.trial, bundles, labels)
        trial.call = trial.slot.runner.begin.remote(trial.order, self._tracker)

    def _open_slot(self, trial: int, bundles: list[dict[str, float]], labels: list[dict[str, str]]) -> _Slot:
        ray = self._ray
        spread = self._study.execution.placement == "spread"
        group = ray.util.placement_group(bundles, "SPREAD" if spread else "PACK", bundle_label_selector=labels or None)
        end = time.monotonic() + START_SECONDS
        while not self._is_there(group):
            if time.monotonic() > end:
                there, free = ray.cluster_resources().get("CPU", 0), ray.available_resources().get("CPU", 0)
                ray.util.remove_placement_group(group)
                sites = sorted({label[SITE] for label in labels if label})
                where = f" on nodes labelled {SITE}={', '.join(sites)}" if sites else ""
                raise ResourceError(
                    f"trial {trial} wants {self._cpus:g} CPU in {len(bundles)} bundles{where}; after {START_SECONDS:g} s "
                    f"the cluster's {there:g} CPU have {free:g} free."
                )
        strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
            group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
        )
        actor = ray.remote(num_cpus=RUNNER_CPU, max_restarts=0)(TrialRunner)
        return _Slot(group, actor.options(scheduling_strategy=strategy).remote(), bundles, labels)

    def _is_there(self, group: Any) -> bool:
        lost = "no node is left"
        try:
            if group.wait(1):
                return True
            # on a cluster another node may join
            if self._study.execution.address != "local" or any(node["Alive"] for node in self._ray.nodes()):
                return False
        except Exception as error:  # Ray's own is a bare Exception here
            lost = _line(error)
        raise ResourceError(f"Ray was lost ({lost}); `pulseledger resume {self._folder}` goes on.")

    def _close_slot(self, slot: _Slot | None) -> None:
        if slot is not None:
            end_actor(slot.runner)  # its hospitals belong to it and end with it
            with contextlib.suppress(Exception):
                self._ray.util.remove_placement_group(slot.group)

    def _conclude(self, trial: _Running) -> bool:
        """Takes the answer of a trial's runner; returns False when the trial goes on."""
        try:
            reply = self._ray.get(trial.call)
        except self._ray.exceptions.RayError as error:
            self._close_slot(trial.slot)
            trial.slot = None
            cause = _cause(self._ray, error)
            if not isinstance(cause, (self._ray.exceptions.RayError, MemoryError, HospitalLost)):
                self._fail(trial, cause, str(error))
                return True
            trial.losses += 1
            if trial.losses > LOSSES or self._signals:
                if not self._signals:
                    self._fail(trial, StudyError(f"lost {trial.losses} times: {_line(cause)}"), str(error))
                return True
            self._progress.note(f"trial {trial.trial}: {_line(cause)}; going on from its checkpoint")
            self._launch(trial)
            return False
        assert trial.slot is not None
        self._trained += reply["trained"] * self._cpus
        if reply["state"] == "rung" and self._judge(trial, reply["step"], reply["result"]):
            if not self._signals:
                trial.call = trial.slot.runner.advance.remote()
                return False
            reply["state"] = "stopped"
        if reply["state"] == "rung":
            self._leave(trial)
            self._prune(trial, reply["step"])
        elif reply["state"] == "waiting":
            self._idle.append(trial.slot)
            self._parked.append(trial)
            self._handle(trial).set_user_attr("waiting", reply["reason"])
            self._progress.note(f"trial {trial.trial}: {reply['reason']}")
        elif reply["state"] == "stopped":
            self._close_slot(trial.slot)  # stays RUNNING: a resume adopts it
        else:
            self._idle.append(trial.slot)
            self._tell(trial, reply["results"])
        trial.slot = None
        return True

    def _decided(self) -> list[_Running]:
        """Parked trials that can go on: a reviewer has decided on all that they asked for."""
        ready = []
        for trial in self._parked:
            runs = sorted(Path(trial.order["folder"]).glob(f"seed-*/{FOLDER}/{STATE}"))
            if not any(undecided(run.parent.parent) for run in runs):
                ready.append(trial)
        for trial in ready:
            self._parked.remove(trial)
            self._handle(trial).set_user_attr("waiting", "")
        return ready

    def _waits(self) -> str:
        numbers = ", ".join(str(trial.trial) for trial in sorted(self._parked, key=lambda t: t.trial))
        one = len(self._parked) == 1
        return (
            f"{'trial' if one else 'trials'} {numbers} {'waits' if one else 'wait'} for a reviewer; decide with `pulseledger "
            f"governance approve|deny {self._folder} ID --reason TEXT`, then go on with `pulseledger resume {self._folder}`."
        )

    def _judge(self, trial: _Running, step: int, result: dict[str, Any]) -> bool:
        """Keeps what the trial reached at a rung, with the decision; returns whether it goes on."""
        values = [lookup(result, name) for name in self._study.objectives]
        known = [value for value in values if value is not None and math.isfinite(value)]
        handle = self._handle(trial)
        if len(known) < len(values):  # nothing to compare; the end will tell
            return True
        if len(known) == 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # reported already, by a driver that was killed here
                handle.report(known[0], step)
        there = competitors(_trials(trial.study), self._attributes(trial)["condition"])
        there[trial.trial].rungs[step] = tuple(known)
        order = sorted(there)
        kept, memory = keep(self._study, trial.study.study_name, [there[n] for n in order], order.index(trial.trial))
        # one write: a driver that is killed before it decides again, one that is killed after it abides by this
        handle.set_user_attr(f"rung/{step}", {"values": known, "kept": kept, "memory": memory})
        return kept

    def _leave(self, trial: _Running) -> None:
        """Lets a pruned trial close its ledger; its runner is used again."""
        assert trial.slot is not None
        try:
            self._ray.get(trial.slot.runner.drop.remote(), timeout=DROP_SECONDS)
            self._idle.append(trial.slot)
        except self._ray.exceptions.RayError as error:
            self._progress.note(f"trial {trial.trial}: {_line(error)} while it was pruned")
            self._close_slot(trial.slot)

    def _prune(self, trial: _Running, step: int) -> None:
        handle = self._handle(trial)
        handle.set_user_attr("pruned", step)
        reason = pruned_at(self._attributes(trial), self._study)
        handle.set_user_attr("reason", reason)
        self._reconcile([(trial, "PRUNED")])
        trial.study.tell(trial.number, state=TrialState.PRUNED)
        values = dict(zip(self._study.objectives, self._attributes(trial)[f"rung/{step}"]["values"], strict=True))
        self._ended(trial, "PRUNED", values, reason)

    def _tell(self, trial: _Running, results: list[dict[str, Any]]) -> None:
        wanted = [config_hash(RunConfig.model_validate(values)) for values in trial.order["configs"]]
        if [r["config_hash"] for r in results] != wanted:
            self._fail(trial, StudyError("the runner ran another configuration than it was asked to"), "")
            return
        scores: dict[str, list[float]] = {}
        for name in (*self._study.objectives, *self._study.constraints):
            values = [value for result in results if (value := lookup(result, name)) is not None]
            if len(values) < len(results) or not all(map(math.isfinite, values)):
                kind = "objective" if name in self._study.objectives else "constraint"
                self._fail(trial, StudyError(f"the {kind} {name} has no value in this cohort"), "")
                return
            scores[name] = values
        self._reconcile([(trial, "COMPLETE")])  # before the tell: Optuna never knows more than MLflow
        self._spread(trial, results)
        handle = self._handle(trial)
        for name, bound in self._study.constraints.items():
            value = statistics.fmean(scores[name])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # set already, by a driver that was killed here
                handle.set_constraint(name, violation(bound, value))
        handle.set_user_attr("repeats", {name: interval(values) for name, values in scores.items()})
        means = {name: statistics.fmean(scores[name]) for name in self._study.objectives}
        trial.study.tell(trial.number, list(means.values()))
        self._ended(trial, "COMPLETE", means, "")

    def _fail(self, trial: _Running, cause: BaseException, trace: str) -> None:
        reason = _line(cause) if isinstance(cause, StudyError) else f"{type(cause).__name__}: {_line(cause)}"
        where = {}
        trace = re.sub(r"\x1b\[[0-9;]*m", "", trace)  # Ray writes in colours
        if isinstance(cause, HospitalError):
            trace = f"{cause.trace}\n{trace}"
            where = {"hospital": cause.hospital, "round": cause.round, "stage": cause.stage}
        path = error_file(self._folder, trial.trial)
        said = {**where, "what the workers printed": worker_logs()}
        with whole(path) as part:
            part.write_text(
                "\n".join([reason, *(f"{name}: {value}" for name, value in said.items()), "", trace]), encoding="utf-8"
            )
        handle = self._handle(trial)
        handle.set_user_attr("reason", reason)
        handle.set_user_attr("error", {**where, "traceback": trace})
        self._reconcile([(trial, "FAIL")])
        trial.study.tell(trial.number, state=TrialState.FAIL)
        self._ended(trial, "FAIL", {}, f"{reason} ({path})")

    def _ended_trials(self) -> list[tuple[_Running, str]]:
        """All trials that have ended, and how."""
        return [
            (self._order(study, t.number), t.state.name)
            for study, _ in self._studies
            for t in begun(_trials(study))
            if t.state.is_finished()
        ]

    def _reconcile(self, ended: list[tuple[_Running, str]]) -> None:
        """Sends again what MLflow lacks of trials that ended, whatever it was lost with.

        All of it is in their folders and in Optuna. While the store is away this waits for the next call.
        """
        if self._tracker is None:
            return
        self._unsure |= {trial.order["key"]: (trial, state) for trial, state in ended}
        for _ in range(TRACKERS):
            wanted = {}
            for key, (trial, state) in self._unsure.items():
                rounds = 0
                with contextlib.suppress(DataError):  # a damaged file must not end the study
                    rounds = len(rounds_done(*_first_repeat(trial)))
                wanted[key] = (state, self._attributes(trial).get("reason", ""), rounds)
            lacking = self._track("lacking", wanted) if wanted else []
            if lacking is None:
                return
            self._unsure = {key: self._unsure[key] for key in lacking}
            for trial, state in self._unsure.values():
                self._publish(trial, state)

    def _publish(self, trial: _Running, state: str) -> None:
        """Sends what an ended trial has in its folder and in Optuna."""
        if self._tracker is None:
            return
        order = trial.order
        named = (order["key"], order["name"], order["tags"], order["parent"])
        for problem in publish(*_first_repeat(trial), self._tracker, *named):
            self._progress.note(f"trial {trial.trial}: {problem}")
        attributes = self._attributes(trial)
        if state == "COMPLETE":
            repeats = range(len(order["configs"]))
            with contextlib.suppress(DataError):
                self._spread(trial, [finished(repeat_folder(Path(order["folder"]), r)) for r in repeats])
        elif reason := attributes.get("reason"):
            where = {k: v for k, v in attributes.get("error", {}).items() if k != "traceback"}
            tags = {"reason": reason, **{f"error.{name}": str(value) for name, value in where.items()}}
            self._track("tags", order["key"], tags | ({"error": reason} if state == "FAIL" else {}))
            if (path := error_file(self._folder, trial.trial)).exists():
                self._track("artifacts", order["key"], [str(path)])
        self._track("finish", order["key"], state)

    def _ended(self, trial: _Running, state: str, values: dict[str, float], reason: str) -> None:
        self._anchor(trial.trial, *registration.ended(_trials(trial.study)[trial.number], Path(trial.order["folder"])))
        condition = self._attributes(trial)["condition"]
        seconds = time.monotonic() - trial.started
        self._progress.ended(trial.trial, self._label(trial), condition, state, values, reason, seconds)

    def _attributes(self, trial: _Running) -> dict[str, Any]:
        return _trials(trial.study)[trial.number].user_attrs

    def _handle(self, trial: _Running) -> optuna.Trial:
        """Optuna's own trial, also of one that an earlier driver asked for."""
        return optuna.Trial(trial.study, _trials(trial.study)[trial.number]._trial_id)

    def _label(self, trial: _Running) -> str:
        return " ".join(f"{k.rsplit('.', 1)[-1]}={_short(v)}" for k, v in self._attributes(trial)["keys"].items())

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
        self._parent = self._key()
        self._run = StudyRun(self._track, self._parent, self._study, self._folder)
        self._run.open({"optuna.storage": storage_url(self._study, self._folder)})
        self._run.ended(self._trials())  # what a driver that was killed had no time to say
        if missing := self._track("state"):
            self._progress.note(f"MLflow: {missing}")

    def _track(self, method: str, *args: Any) -> Any:
        """Tells or asks MLflow; a study goes on without it. None when nobody answers."""
        for _ in range(TRACKERS):
            if self._tracker is None:
                return None
            try:
                return self._tracker.submit(method, *args).result()
            except self._ray.exceptions.RayActorError:
                if self._restarting:
                    return None
                self._restart_tracking()
            except Exception as error:
                self._progress.note(f"MLflow: {type(error).__name__}: {_line(error)}")
                return None
        return None

    def _restart_tracking(self) -> None:
        """Starts another tracker for one whose process was lost; running trials are sent again when they end."""
        self._progress.note("MLflow: the tracker's process was lost and is started again")
        if self._tracker is not None:
            self._tracker.abandon()
        self._restarting = True
        try:
            self._start_tracking()
        except PulseLedgerError as error:
            self._progress.note(f"MLflow: {_line(error)}")
        finally:
            self._restarting = False

    def _finish_tracking(self, state: str, seconds: float) -> None:
        trials = [t for t in self._trials() if "config" in t.user_attrs]
        shares = {}
        cores = self._ray.cluster_resources().get("CPU", 1.0)
        if self._trained:
            share = shares["sweep/training_share"] = self._trained / (seconds * cores)
            self._progress.note(f"{share:.0%} of the {cores:g} CPUs' time was training")
        if any(t.state == TrialState.PRUNED for t in trials):
            saved = shares["sweep/rounds_saved"] = rounds_saved(self._study, trials)
            self._progress.note(f"pruning saved {saved:.0%} of all rounds")
        if self._run is None:
            return
        end = time.monotonic() + STORE_SECONDS
        while self._track("state") and time.monotonic() < end:
            time.sleep(1)
            self._track("flush", True)
        self._reconcile(self._ended_trials())
        if self._unsure:
            self._progress.note(f"MLflow: {len(self._unsure)} trials are not complete there; resume sends them again")
        self._track("summary", self._parent, shares)
        self._run.close(state, self._trials())
        for _ in range(TRACKERS):  # a tracker that was lost meanwhile has left the run open
            self._track("flush", True)
            if not self._track("lacking", {self._parent: (state, "", 0)}):
                break
            self._track("finish", self._parent, state)
        if missing := self._track("state"):
            self._progress.note(f"MLflow: {missing}")

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return [trial for study, _ in self._studies for trial in _trials(study)]

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


def interval(values: list[float]) -> dict[str, float | None]:
    """Mean, standard deviation and 95 % interval of the mean (Student's t) over the repeats; None where one is too few."""
    from scipy.stats import t

    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return {"mean": mean, "sd": None, "low": None, "high": None, "n": n}
    sd = statistics.stdev(values)
    half = float(t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "n": n}


def pruned_at(attributes: dict[str, Any], study: StudyConfig) -> str:
    """Where a trial was pruned, in words; empty for one that was not."""
    if "pruned" not in attributes:
        return ""
    return f"pruned at {'repeat' if study.pruner.method == 'wilcoxon' else 'round'} {attributes['pruned']}"


def rounds_saved(study: StudyConfig, trials: list[optuna.trial.FrozenTrial]) -> float:
    """The share of the rounds of all `trials` that pruning has left out."""
    wanted = saved = 0
    for trial in trials:
        per_repeat = trial.user_attrs["config"][0]["federation"]["rounds"]
        rounds = per_repeat * study.repeats
        wanted += rounds
        if "pruned" in trial.user_attrs:
            saved += rounds - trial.user_attrs["pruned"] * (per_repeat if study.pruner.method == "wilcoxon" else 1)
    return saved / wanted if wanted else 0.0


def trial_bundles(config: RunConfig, cpus: float, nodes: int) -> list[dict[str, float]]:
    """The bundles of a trial's placement group: its runner, and one for each actor that holds hospitals.

    On one node the actors share a bundle, so that the next trial can use the group whatever its number of hospitals.
    """
    n = len(trial_hosts(config, cpus)) if nodes > 1 or config.execution.sites else 1
    rest = round(cpus - RUNNER_CPU, 4)
    share = int(1e4 * rest / n) / 1e4
    shares = [share] * (n - 1) + [round(rest - share * (n - 1), 4)]
    return [{"CPU": RUNNER_CPU}, *({"CPU": s} for s in shares)]


def trial_labels(config: RunConfig, cpus: float) -> list[dict[str, str]]:
    """What the node of each bundle must be labelled with; empty without `execution.sites`."""
    if not config.execution.sites:
        return []
    return [{}, *({SITE: site} for site, _ in trial_hosts(config, cpus) if site is not None)]


def trial_hosts(config: RunConfig, cpus: float) -> list[tuple[str | None, list[int]]]:
    """Which hospitals share an actor in a trial that has so many CPUs, and at which site."""
    hospitals = config.cohort.hospitals + (config.federation.algorithm == "centralised")
    return sited_groups([(i, 1) for i in range(hospitals)], config.execution, round(cpus - RUNNER_CPU, 4))


def memory_room(study: StudyConfig, cpus: float, free: float) -> int:
    """How many trials fit into `free` bytes of memory at a time, going by the one with the most actors."""
    return int(free * MEMORY_SHARE // (trial_gigabytes(study, cpus) * 1e9))


def trial_gigabytes(study: StudyConfig, cpus: float) -> float:
    """Memory of the largest trial: its runner and each actor that holds hospitals, with torch in each."""
    return RUNNER_GB + HOST_GB * max(len(trial_hosts(config, cpus)) for config in largest_trials(study))


def largest_trials(study: StudyConfig) -> list[RunConfig]:
    """One configuration for each condition and baseline; what is tuned seldom changes the size."""
    return [resolve(study, c, keys, 0) for c in conditions(study) for keys in ({}, *study.baselines)]


def lookup(result: dict[str, Any], name: str) -> float | None:
    """The score at a path such as "validation/personal/macro_f1"; None where the cohort does not have it."""
    value: Any = result
    for part in name.split("/"):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _first_repeat(trial: _Running) -> tuple[RunConfig, Path]:
    """The repeat that MLflow's run of a trial follows: its configuration and its folder."""
    return RunConfig.model_validate(trial.order["configs"][0]), repeat_folder(Path(trial.order["folder"]), 0)


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


def _free_memory(ray: Any, study: StudyConfig) -> float:
    if study.execution.address == "local":
        import psutil

        return float(psutil.virtual_memory().available)
    return float(ray.available_resources().get("memory", 0.0)) or float("inf")


def _trial_cpus(ray: Any, study: StudyConfig, concurrency: int) -> float:
    """CPUs of one trial: all divided by the wanted concurrency, at least one if there is.

    Raises:
        ResourceError: the trials at a time want more than there is.
    """
    there = ray.cluster_resources().get("CPU", 0.0)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    largest = max((node["Resources"].get("CPU", 0.0) for node in nodes), default=0.0)
    cpus = min(there / concurrency, largest) if study.concurrency else 1.0
    rooms = dict.fromkeys(study.execution.sites.values(), 0.0)
    for node in nodes:
        if (site := node["Labels"].get(SITE)) in rooms:
            rooms[site] = max(rooms[site], node["Resources"].get("CPU", 0.0))
    if rooms:
        # all hospitals may be at the smallest site; one that has not joined yet has at least one CPU
        cpus = min(room or 1.0 for room in rooms.values()) / concurrency
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
        with whole(path) as part:
            part.write_text(f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}")
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


def _nodes(ray: Any) -> int:
    return sum(node["Alive"] for node in ray.nodes())


def _cause(ray: Any, error: BaseException) -> BaseException:
    """What went wrong in an actor, also in one that another actor asked."""
    while isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
