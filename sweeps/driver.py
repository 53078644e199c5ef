"""The study driver: one process owns the Optuna study and its database, Ray only executes.

ask -> placement group and runner -> wait for any -> at a rung ask the pruner, at the end tell. Every `tell` is
committed, every trial has its folder with a checkpoint after each round, so a driver that is killed at any moment loses
nothing: `resume` adopts what it left. Whoever else wants something of a study leaves a command (`sweeps.commands`).
"""

import contextlib
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.actors import worker_logs
from engine.config import config_hash
from engine.errors import HospitalLost, ReviewPending, StudyError
from engine.ledger.chain.base import ChainTrouble
from engine.own.reference import digests
from engine.own.source import of_digests
from engine.paths import write_config
from engine.pools.ray import ATTEMPTS
from engine.result import RESULT
from engine.synthesis.files import FOLDER
from engine.synthesis.reviews import STATE, undecided
from sweeps.anchors import Anchors, NoAnchors, open_anchors
from sweeps.commands import Command, CommandTable, State
from sweeps.failures import failure_of, write_error
from sweeps.folder import (
    NOT_SEEN,
    STUDY_FILE,
    Seen,
    missing_results,
    read_error,
    read_progress,
    repeats_of,
    trial_folder,
)
from sweeps.lock import study_key
from sweeps.means import Means
from sweeps.mirror import open_mirror
from sweeps.mirrored import told
from sweeps.progress import StudyProgress
from sweeps.pruning import competitors, keep
from sweeps.queue import Entry, Queue
from sweeps.scores import COSTS
from sweeps.sizes import housed
from sweeps.slots import Slot, Slots, cause_of, unimportable
from sweeps.space import StudyConfig, rung_rounds, runs_of, violation
from sweeps.stopping import STOP, Stopping
from sweeps.stored import Rung, StoredTrial, interval, pruned_at, rounds_saved
from sweeps.text import first_line, settings
from sweeps.trial import AtCheckpoint, AtRung, Done, Numbers, Order, Waiting, next_attempt
from sweeps.tuned import extension_problem, total_trials

ASKED = ", as asked"  # ends the reason of a trial that somebody had pruned


@dataclass
class _Running:
    """A trial that has an order: under way, before its start, or waiting for a reviewer."""

    entry: Entry
    number: int
    order: Order
    slot: Slot | None = None
    call: Any = None
    losses: int = 0
    started: float = 0.0
    seen: Seen = NOT_SEEN
    seen_at: float = 0.0
    before: int = 0  # rounds of earlier attempts
    pace: float = 0.0  # seconds of its longest round
    pruning: Command | None = None  # somebody has asked for its end
    again: bool = False  # it has ended already, but its results are gone


class Driver:
    """Asks, starts, waits, judges and tells. One at a time for each study folder."""

    def __init__(
        self,
        study: StudyConfig,
        folder: Path,
        queue: Queue,
        commands: CommandTable,
        progress: StudyProgress,
        means: Means,
        ray: Any,
    ) -> None:
        self._study = study
        self._folder = folder.resolve()
        self._queue, self._commands, self._progress, self._ray = queue, commands, progress, ray
        self._clock, self._limits = means.clock, means.limits
        self._slots = Slots(ray, study, progress.note, means.runner, means.clock, means.limits.start)
        if self._slots.at_once < self._slots.wanted:
            progress.note(f"memory is enough for {self._slots.at_once} of {self._slots.wanted} trials at a time")
        self._mirror = open_mirror(
            study,
            self._folder,
            queue.trials,
            progress.note,
            means.start_tracker,
            means.clock,
            means.limits.store,
            means.draw,
        )
        self._anchors: Anchors = NoAnchors()
        self._waiting: list[_Running] = []  # for a slot
        self._again: list[_Running] = []  # the same, of trials that have ended
        self._running: list[_Running] = []
        self._parked: list[_Running] = []  # for a reviewer
        self._stranded: list[str] = []  # what is wrong with the node of a trial that stays under way
        self._stopping = Stopping(self._folder, commands, progress.note, means.clock)
        self._trained = 0.0  # seconds of training, times the CPUs of the trial

    def drive(self) -> None:
        """Runs until every wanted trial has ended; raises as `start_study` says."""
        began = self._clock.now()
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: self._mirror.close(at_once=self._stopping.urgency > 1))
            stack.callback(lambda: self._anchors.abandon())
            stack.callback(self._close_slots)
            stack.enter_context(self._stopping.listening())
            try:
                self._mirror.open(self._study)
                # after the mirror: its tracker goes by whether the folder has been given its name
                self._anchors = open_anchors(self._study, self._folder, study_key(self._study, self._folder))
                self._anchors.register(self._study, self._queue.trials())
                self._adopt()
                self._mirror.ended((trial, trial.state) for trial in self._queue.trials() if trial.ended)
                self._loop()
                self._stopping.end()
                if self._stranded:
                    raise StudyError(f"{self._stranded[0]}; `pulseledger resume {self._folder}` goes on.")
                self._mirror.tags(self._anchors.finish())
                if self._parked:
                    raise ReviewPending(self._waits())
                self._finish("COMPLETE", began)
            except ChainTrouble as error:
                self._finish("FAIL", began)
                raise StudyError(f"{first_line(error)}; `pulseledger resume {self._folder}` goes on.") from None
            except StudyError:
                self._finish("FAIL", began)
                raise

    def _loop(self) -> None:
        self._stopping.waits = True
        while True:
            there = self._slots.look()
            self._obey()
            self._unpark()
            waits = not there or self._fill()
            if not self._running:
                if waits and not self._stopping.urgency:
                    if not there:
                        self._clock.sleep(self._limits.tick)
                    continue
                return
            calls = [trial.call for trial in self._running]
            done, _ = self._ray.wait(calls, num_returns=1, timeout=self._limits.tick)
            self._look()
            self._end_late()
            for call in done:
                trial = next(t for t in self._running if t.call is call)
                if self._conclude(trial):
                    self._running.remove(trial)
                    self._mirror.moved()
            self._fail_fast()

    # --- Asking and starting ------------------------------------------------------------------------------------------

    def _fill(self) -> bool:
        """Starts trials as long as there is room; returns whether one waits for it."""
        while not self._stopping.urgency and len(self._running) < self._slots.at_once:
            trial = self._next()
            if trial is None:
                break
            slot = self._slots.take(trial.number, trial.order.configs[0], others=bool(self._running))
            if slot is None:
                self._put_back(trial)
                return True
            self._running.append(trial)
            self._launch(trial, slot)
        return False

    def _next(self) -> _Running | None:
        """A trial that waits, else a new one; None when there is nothing left, or nothing can go on."""
        if self._stranded:
            return None
        if self._waiting or self._again:
            return (self._waiting or self._again).pop(0)
        if self._queue.begun() >= total_trials(self._study):
            return None
        entry = self._queue.ask()
        return None if entry is None else self._ordered(entry)

    def _put_back(self, trial: _Running) -> None:
        """A trial is the next to get a slot."""
        (self._again if trial.again else self._waiting).insert(0, trial)

    def _ordered(self, entry: Entry) -> _Running:
        """What is to be done for a trial; its configurations are checked here, once."""
        trial = entry.read()
        configs = runs_of(self._study, trial.condition, trial.keys)
        if [config_hash(config) for config in configs] != [config_hash(config) for config in trial.runs]:
            raise StudyError(
                f"{self._folder / STUDY_FILE}: is another study than that in which trial {trial.number} began."
            )
        by_repeat = self._study.pruner.method == "wilcoxon"
        steps = range(1, self._study.repeats) if by_repeat else rung_rounds(self._study.pruner, trial.rounds)
        home = trial_folder(self._folder, trial.number)
        order = Order(
            configs=tuple(housed(config, self._slots.cpus) for config in configs),
            folder=home,
            named=self._mirror.named(trial),
            scores=tuple(dict.fromkeys((*self._study.objectives, *self._study.constraints, *told(self._study)))),
            rungs=tuple(steps) if trial.baseline is None else (),
            by_repeat=by_repeat,
            stops=(self._folder / STOP, home / STOP),
            sources=of_digests(digest for config in configs for digest in digests(config)),
        )
        return _Running(entry, trial.number, order)

    def _adopt(self) -> None:
        """Trials that an earlier driver left under way go on; what it had decided to prune is pruned."""
        for entry in self._queue.adopt():
            trial = self._ordered(entry)
            given_up = [step for step, rung in entry.read().rungs.items() if not rung.kept]
            if given_up:
                self._prune(trial, given_up[0])
            else:
                self._waiting.append(trial)
        for entry in self._queue.entries():
            if missing_results(self._folder, entry.read()):
                self._progress.note(f"trial {entry.read().number}: its results are gone, it is run again")
                again = self._ordered(entry)
                again.order, again.again = replace(again.order, rungs=()), True
                self._again.append(again)
        if self._waiting:
            self._progress.note(f"going on with {len(self._waiting)} trials of an earlier driver")

    def _launch(self, trial: _Running, slot: Slot) -> None:
        trial.order.folder.mkdir(parents=True, exist_ok=True)
        (trial.order.folder / STOP).unlink(missing_ok=True)
        stored = trial.entry.read()
        if not trial.again:
            self._anchors.begun(stored)
        rungs = tuple(step for step in trial.order.rungs if step not in stored.rungs)
        trial.order = next_attempt(replace(trial.order, rungs=rungs))
        now = self._clock.now()
        trial.started = trial.started or now
        trial.seen, trial.seen_at, trial.pace = NOT_SEEN, now, 0.0
        trial.before = read_progress(trial.order.folder).round
        self._progress.started(trial.number, settings(stored.keys), stored.condition, trial.order.rounds)
        trial.slot = slot
        trial.call = slot.runner.begin.remote(trial.order, self._mirror.tracker)

    # --- Waiting ------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Shows the rounds of the running trials, and notices one that does not move."""
        self._anchors.look()
        limit = self._limits.start + ATTEMPTS * self._study.execution.deadline
        for trial in self._running:
            if (seen := read_progress(trial.order.folder)) not in (trial.seen, NOT_SEEN):
                if trial.before < trial.seen.round < seen.round:
                    trial.pace = max(trial.pace, self._clock.now() - trial.seen_at)
                trial.seen, trial.seen_at = seen, self._clock.now()
                self._progress.advanced(trial.number, seen.round, seen.scores, seen.note)
            if self._clock.now() - trial.seen_at > limit and trial.slot is not None:
                self._progress.note(f"trial {trial.number}: no round in {limit:g} s; its runner is ended")
                self._slots.end_runner(trial.slot)  # the call fails, which counts as a loss
                trial.seen_at = self._clock.now()

    def _end_late(self) -> None:
        """Ends trials that reach no checkpoint in time when a stop is wanted; what is lost is since their last."""
        for trial in self._running if self._stopping.urgency else ():
            has_begun = trial.seen.round > trial.before
            limit = max(self._limits.stop, 2 * trial.pace) if has_begun else self._limits.leave
            if self._stopping.seconds() > limit and trial.slot is not None and trial.number not in self._stopping.ended:
                self._progress.note(f"trial {trial.number}: no checkpoint within {limit:.0f} s; its runner is ended")
                self._slots.end_runner(trial.slot)  # the call fails, and the trial stays under way
                self._stopping.ended.add(trial.number)

    def _conclude(self, trial: _Running) -> bool:
        """Takes the answer of a trial's runner; returns False when the trial goes on."""
        assert trial.slot is not None
        try:
            reply = self._ray.get(trial.call)
        except self._ray.exceptions.RayError as error:
            self._slots.end(trial.slot)
            trial.slot = None
            self._lost(trial, error)
            return True
        self._trained += reply.trained * self._slots.cpus
        self._stopping.ended.discard(trial.number)  # it was quicker
        match reply:
            case AtRung():
                kept = self._judge(trial, reply)
                if kept and trial.pruning is None and not self._stopping.urgency:
                    trial.call = trial.slot.runner.advance.remote()
                    return False
                self._leave(trial, reply.step, kept)
            case Done():
                self._slots.give_back(trial.slot)
                self._tell(trial, reply.repeats)
            case Waiting():
                self._slots.give_back(trial.slot)
                self._park(trial, reply.reason)
            case AtCheckpoint():
                self._slots.end(trial.slot)
                if trial.pruning is not None:
                    self._prune_asked(trial)
        trial.slot = None
        return True

    def _lost(self, trial: _Running, error: BaseException) -> None:
        """A runner has failed: a mistake ends its trial, lost processes and memory are tried again."""
        cause = cause_of(self._ray, error)
        if missing := unimportable(cause):
            self._fail(trial, StudyError(f"a worker cannot import what it needs ({missing})"), str(error))
        elif isinstance(cause, ChainTrouble):
            self._strand(trial, cause)
        elif not isinstance(cause, (self._ray.exceptions.RayError, MemoryError, HospitalLost)):
            self._fail(trial, cause, str(error))
        elif not self._stopping.urgency:
            trial.losses += 1
            if trial.losses > self._limits.losses:
                self._fail(trial, StudyError(f"lost {trial.losses} times: {first_line(cause)}"), str(error))
            elif trial.pruning is not None:
                self._prune_asked(trial)
            else:
                self._progress.note(f"trial {trial.number}: {first_line(cause)}; going on from its checkpoint")
                self._put_back(trial)

    def _strand(self, trial: _Running, cause: ChainTrouble) -> None:
        """A trial whose node is what is wrong stays under way, for a resume; no other begins meanwhile."""
        self._progress.note(f"trial {trial.number}: {first_line(cause)}; it goes on with `pulseledger resume`")
        self._stranded.append(f"trial {trial.number}: {first_line(cause)}")

    def _park(self, trial: _Running, reason: str) -> None:
        """A trial waits for a reviewer; others go on."""
        trial.entry.note("waiting", reason)
        self._progress.note(f"trial {trial.number}: {reason}")
        self._parked.append(trial)

    def _unpark(self) -> None:
        """Parked trials can go on when a reviewer has decided on all that they asked for."""
        for trial in list(self._parked):
            runs = sorted(trial.order.folder.glob(f"seed-*/{FOLDER}/{STATE}"))
            if not any(undecided(run.parent.parent) for run in runs):
                self._parked.remove(trial)
                trial.entry.note("waiting", "")
                self._waiting.append(trial)

    def _waits(self) -> str:
        numbers = ", ".join(str(number) for number in sorted(trial.number for trial in self._parked))
        one = len(self._parked) == 1
        return (
            f"{'trial' if one else 'trials'} {numbers} {'waits' if one else 'wait'} for a reviewer; decide with `pulseledger "
            f"governance approve|deny {self._folder} ID --reason TEXT`, then go on with `pulseledger resume {self._folder}`."
        )

    # --- Judging and telling ------------------------------------------------------------------------------------------

    def _judge(self, trial: _Running, reached: AtRung) -> bool:
        """Keeps what the trial reached at a rung, with the decision; returns whether it goes on."""
        found = [reached.numbers.scores[name] for name in self._study.objectives]
        values = [value for value in found if value is not None and math.isfinite(value)]
        if len(values) < len(found):  # nothing to compare; the end will tell
            return True
        if len(values) == 1:
            trial.entry.report(reached.step, values[0])
        there = competitors(self._queue.rivals(trial.entry), trial.entry.read().condition)
        there[trial.number].rungs[reached.step] = tuple(values)
        order = sorted(there)
        contenders = [there[number] for number in order]
        name = trial.entry.study.study_name
        kept, memory = keep(
            self._study, name, contenders, order.index(trial.number), trial.order.configs[0].federation.rounds
        )
        # one write: a driver that is killed before it decides again, one that is killed after it abides by this
        trial.entry.note(f"rung/{reached.step}", {"values": values, "kept": kept, "memory": memory})
        return kept

    def _leave(self, trial: _Running, step: int, kept: bool) -> None:
        """Ends a trial at its rung, where it is pruned or stopped."""
        assert trial.slot is not None
        if kept and trial.pruning is None:
            self._slots.end(trial.slot)  # stays RUNNING: a resume adopts it
            return
        self._drop(trial.number, trial.slot)
        self._prune(trial, step, ASKED if kept else "")

    def _drop(self, number: int, slot: Slot) -> None:
        """Lets a pruned trial close its ledger; its runner is used again."""
        try:
            self._ray.get(slot.runner.drop.remote(), timeout=self._limits.drop)
            self._slots.give_back(slot)
        except self._ray.exceptions.RayError as error:
            self._progress.note(f"trial {number}: {first_line(error)} while it was pruned")
            self._slots.end(slot)

    def _prune(self, trial: _Running, step: int, why: str = "") -> None:
        """Ends a trial at round, or repeat, `step`; `why` is added where it was not the pruner's decision."""
        trial.entry.note("pruned", step)
        reason = pruned_at(step, self._study) + why
        trial.entry.note("reason", reason)
        stored = trial.entry.read()
        self._mirror.ended([(stored, "PRUNED")])
        trial.entry.end("PRUNED")
        reached = stored.rungs.get(step, Rung(())).values
        self._told(trial, dict(zip(self._study.objectives, reached, strict=False)), reason)

    def _tell_again(self, trial: _Running, values: dict[str, float]) -> None:
        """The end of a trial that had ended before: its numbers must be the same, or the results are another trial's."""
        stored = trial.entry.read()
        told = dict(zip(self._study.objectives, stored.values, strict=True))
        if any(told[name] != value for name, value in values.items() if name not in COSTS):
            reason = f"it came to {values}, not to {told} as before: records or program have changed"
            for path in repeats_of(trial.order.folder):
                (path / RESULT).unlink(missing_ok=True)
            raise StudyError(f"trial {trial.number}: was run again, and {reason}.")
        self._mirror.ended([(stored, "COMPLETE")])
        self._told(trial, values, "")

    def _tell(self, trial: _Running, repeats: Sequence[Numbers]) -> None:
        if [numbers.config_hash for numbers in repeats] != [config_hash(config) for config in trial.order.configs]:
            self._fail(trial, StudyError("the runner ran another configuration than it was asked to"), "")
            return
        scores: dict[str, list[float]] = {}
        for name in (*self._study.objectives, *self._study.constraints):
            values = [value for numbers in repeats if (value := numbers.scores[name]) is not None]
            if len(values) < len(repeats) or not all(map(math.isfinite, values)):
                kind = "objective" if name in self._study.objectives else "constraint"
                self._fail(trial, StudyError(f"the {kind} {name} has no value in this cohort"), "")
                return
            scores[name] = values
        means = {name: statistics.fmean(scores[name]) for name in self._study.objectives}
        if trial.again:
            self._tell_again(trial, means)
            return
        stored = trial.entry.read()
        self._mirror.ended([(stored, "COMPLETE")])  # before the tell: Optuna never knows more than MLflow
        self._mirror.spread(stored, repeats)
        for name, bound in self._study.constraints.items():
            trial.entry.constrain(name, violation(bound, statistics.fmean(scores[name])))
        trial.entry.note("repeats", {name: interval(values)._asdict() for name, values in scores.items()})
        trial.entry.complete(list(means.values()))
        self._told(trial, means, "")

    def _fail(self, trial: _Running, cause: BaseException, trace: str) -> None:
        failed = failure_of(cause, trace)
        if trial.again:
            raise StudyError(
                f"trial {trial.number}: its results are gone, and it cannot be run again ({failed.reason})."
            )
        path = write_error(self._folder, trial.number, failed, worker_logs())
        trial.entry.note("reason", failed.reason)
        trial.entry.note("error", failed.where)
        self._mirror.ended([(trial.entry.read(), "FAIL")])
        trial.entry.end("FAIL")
        self._told(trial, {}, f"{failed.reason} ({path})")

    def _told(self, trial: _Running, values: dict[str, float], reason: str) -> None:
        """After the end of a trial: its record, its line, and the answer to whoever asked for its end."""
        stored = trial.entry.read()
        if not trial.again:
            self._anchors.ended(stored)
        seconds = self._clock.now() - trial.started if trial.started else 0.0
        label = settings(stored.keys)
        self._progress.ended(trial.number, label, stored.condition, stored.state, values, reason, seconds)
        if trial.pruning is not None:
            (trial.order.folder / STOP).unlink(missing_ok=True)
            self._answer_prune(trial.pruning, stored)

    def _fail_fast(self) -> None:
        ended = [trial for trial in self._queue.trials() if trial.ended]
        enough = min(self._limits.fail_fast, total_trials(self._study))
        if len(ended) >= enough and all(trial.state == "FAIL" for trial in ended):
            first = min(trial.number for trial in ended)
            reason = read_error(self._folder, first)
            raise StudyError(f"the first {len(ended)} trials all failed; trial {first}: {reason}")

    # --- What others ask for ------------------------------------------------------------------------------------------

    def _obey(self) -> None:
        """Takes the commands that were left in the folder since the last look."""
        pruning = {trial.pruning.id for trial in self._running if trial.pruning is not None}
        for command in self._commands.waiting():
            if command.id in pruning or self._stopping.asked(command):
                continue
            value = "" if command.value is None else f" {command.value}"
            self._progress.note(f"{command.by} asks: {command.verb}{value}")
            match command.verb:
                case "stop":
                    self._stopping.ask(command)
                case "trials":
                    self._extend(command)
                case "prune":
                    self._take_prune(command)

    def _extend(self, command: Command) -> None:
        """Another number of trials: an amendment on the ledger, as with another `trials` in the study's file."""
        wanted, begun = command.value or 0, self._queue.begun()
        if refusal := extension_problem(self._study, wanted, begun):
            self._commands.answer(command, "refused", refusal)
            return
        study = self._study.model_copy(update={"trials": wanted})
        self._anchors.register(study, ())
        write_config(self._folder / STUDY_FILE, study)
        self._study = study
        self._progress.extended(wanted)
        self._mirror.open(study)
        self._commands.answer(command, "done", f"the study is to have {wanted} trials")

    def _take_prune(self, command: Command) -> None:
        for trial in self._running:
            if trial.number == command.value and not trial.again:
                self._commands.answer(command, "accepted", "ending at its next checkpoint")
                trial.pruning = command
                (trial.order.folder / STOP).touch()
                return
        for others in (self._waiting, self._parked):
            for trial in others:
                if trial.number == command.value:
                    others.remove(trial)
                    trial.pruning = command
                    self._anchors.begun(trial.entry.read())  # one that has waited for room since it was asked for
                    self._prune_asked(trial)
                    self._mirror.moved()
                    return
        ended = next((trial for trial in self._queue.trials() if trial.number == command.value), None)
        if ended is None:
            self._commands.answer(command, "refused", f"there is no trial {command.value} so far")
        else:
            self._answer_prune(command, ended)

    def _prune_asked(self, trial: _Running) -> None:
        """Ends a trial where it is."""
        step = read_progress(trial.order.folder).round
        if trial.order.by_repeat:
            step = sum((repeat / RESULT).exists() for repeat in repeats_of(trial.order.folder))
        self._prune(trial, step, ASKED)

    def _answer_prune(self, command: Command, ended: StoredTrial) -> None:
        state: State = "done" if ended.state == "PRUNED" else "refused"
        self._commands.answer(command, state, f"trial {ended.number} has ended as {ended.state}")

    # --- The end ------------------------------------------------------------------------------------------------------

    def _finish(self, state: str, began: float) -> None:
        trials, metrics = self._queue.trials(), {}
        if self._trained:
            cores = self._slots.cores()
            share = metrics["sweep/training_share"] = self._trained / ((self._clock.now() - began) * cores)
            self._progress.note(f"{share:.0%} of the {cores:g} CPUs' time was training")
        if any(trial.state == "PRUNED" for trial in trials):
            saved = metrics["sweep/rounds_saved"] = rounds_saved(self._study, trials)
            self._progress.note(f"pruning saved {saved:.0%} of all rounds")
        self._mirror.finish(state, metrics)

    def _close_slots(self) -> None:
        for trial in self._running:
            if trial.slot is not None:
                self._slots.end(trial.slot)
        self._slots.close()
