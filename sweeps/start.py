"""Beginning a study and going on with one: the lock, the database, the study's file, Ray; then the driver."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from optuna.storages import BaseStorage

from engine.actors import joined_ray
from engine.errors import ConfigError, ResourceError, StudyError
from engine.homes import claim
from engine.own.reference import digests, named
from engine.own.source import hold
from engine.paths import load_config, write_config
from engine.tracking.tracker import require_store
from sweeps.checks import load_study
from sweeps.commands import CommandTable
from sweeps.definition import CODE, DEFINITION, code, definition, recorded, refuse_changed
from sweeps.driver import Driver
from sweeps.folder import IDENTITY, STUDY_FILE, WRITTEN, is_study, missing_results, read_study, read_trials
from sweeps.lock import identity, only_driver
from sweeps.means import MEANS, Means
from sweeps.progress import StudyProgress
from sweeps.queue import Queue, open_studies
from sweeps.records import require_same
from sweeps.slots import RayLost, require_head
from sweeps.space import StudyConfig
from sweeps.storage import driver_storage
from sweeps.text import first_line
from sweeps.tuned import extension_problem, total_trials

Found = TypeVar("Found")
_LEAVING = 30.0  # seconds
_ONE = threading.Lock()  # Ray, its signals and its actors belong to the whole process


def start_study(
    study: StudyConfig, folder: Path, progress: StudyProgress | None = None, quiet: bool = False, means: Means = MEANS
) -> None:
    """Begins a study in `folder`, or goes on with the same one there.

    Args:
        progress: who is told how it goes on; the usual view on stderr if None, or nothing if `quiet`.

    Raises:
        StudyError: another driver holds the folder, it holds another study, or this process runs one already.
        ConfigError: somebody else's files are in the folder.
        ResourceError: a trial does not fit on the machine or cluster.
        ReviewPending: all other trials have ended; some wait for a reviewer.
        KeyboardInterrupt: SIGINT, SIGTERM, SIGHUP or a command to stop; after the first, all trials have reached a
            checkpoint.
    """
    with _only_one(folder):
        claim(folder, "study", WRITTEN)
        say = _sayer(progress, quiet)
        with only_driver(folder), _storage(study, folder, say, means) as storage:
            _same(study, folder, storage, say)
            hold(folder, digests(study))
            write_config(folder / STUDY_FILE, study)
            _drive(study, folder, storage, progress, quiet, means)


def resume_study(
    folder: Path,
    progress: StudyProgress | None = None,
    quiet: bool = False,
    means: Means = MEANS,
    trials: int | None = None,
) -> None:
    """Goes on with the study of `folder` until every wanted trial has ended; see `start_study`.

    Args:
        trials: that the study is to have from now on, an amendment on the ledger.
    """
    read_study(folder)
    with _only_one(folder), only_driver(folder):
        # again: the driver before may have been asked for more trials; and with all checks, as its file may be edited
        values = load_config(folder / STUDY_FILE)
        hold(folder, [own.digest for own in named(values)])
        study = load_study(values, str(folder / STUDY_FILE))
        say = _sayer(progress, quiet)
        with _storage(study, folder, say, means) as storage:
            _same(study, folder, storage, say)
            if trials is not None:
                begun = len(read_trials(study, folder))
                if problem := extension_problem(study, trials, begun):
                    raise ConfigError(f"--trials {trials}: {problem}.")
                study = study.model_copy(update={"trials": trials})
                write_config(folder / STUDY_FILE, study)
            _drive(study, folder, storage, progress, quiet, means)


def _drive(
    study: StudyConfig, folder: Path, storage: BaseStorage, progress: StudyProgress | None, quiet: bool, means: Means
) -> None:
    with _beside(means.ray(study.execution)) as started:
        require_same(study, folder)
        commands = CommandTable(folder)
        queue = Queue(study, open_studies(study, folder, storage))
        if queue.begun() and not (folder / IDENTITY).exists():
            raise StudyError(
                f"{folder / IDENTITY}: is gone, which names the study on the ledger and in MLflow; put it back."
            )
        already = sum(trial.ended and not missing_results(folder, trial) for trial in queue.trials())
        shown = progress or StudyProgress(total_trials(study), quiet, study.objectives, already, means.clock)
        # a thread that is not waited for when Ray does not come; what it makes appears whole in the cache, or not at all
        warming = threading.Thread(target=means.warm, args=(study, shown.note), daemon=True)
        with shown:
            if study.execution.address == "local":
                warming.start()
            ray = started()
            if head := joined_ray():
                shown.note(f"joined the Ray at {head}")
            require_head(ray, study)
            if warming.ident is not None:
                warming.join()  # the first trials would do the same work once more
            try:
                Driver(study, folder, queue, commands, shown, means, ray).drive()
            except (ray.exceptions.RayError, RayLost) as error:
                raise ResourceError(
                    f"Ray was lost ({first_line(error)}); `pulseledger resume {folder}` goes on."
                ) from None


@contextlib.contextmanager
def _beside(entered: AbstractContextManager[Found]) -> Iterator[Callable[[], Found]]:
    """Enters something that takes seconds in a thread, and gives what waits for it; it is left at the end.

    The thread ends last: Linux kills a Ray with the thread that started it, and leaving a dead Ray takes 15 seconds. Whatever
    does not come within `_LEAVING` once it is not wanted any more ends with the process.
    """
    stack, entering, left = contextlib.ExitStack(), Future[Found](), threading.Event()

    def enter() -> None:
        try:
            entering.set_result(stack.enter_context(entered))
        except BaseException as error:
            entering.set_exception(error)
        left.wait()

    threading.Thread(target=enter, name="beside", daemon=True).start()
    try:
        yield entering.result
    finally:
        try:
            if wait([entering], _LEAVING).done:
                stack.close()
        finally:
            left.set()


def _sayer(progress: StudyProgress | None, quiet: bool) -> Callable[[str], None]:
    if progress is not None:
        return progress.note
    return lambda text: None if quiet else print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _storage(study: StudyConfig, folder: Path, say: Callable[[str], None], means: Means) -> Iterator[BaseStorage]:
    """The study's database; before that, as it gives the folder the name by which it counts as begun, the store of the runs.

    Raises:
        PulseLedgerError: nobody listens at the address of the store, and the study has not begun.
    """
    if study.tracking.backend != "none":
        require_store(study.tracking, folder, folder)
    with driver_storage(study, folder, say, means.clock) as storage:
        yield storage


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    if not _ONE.acquire(blocking=False):
        raise StudyError(
            f"{folder}: this process runs another study, and one process runs one at a time; wait for it, or start another "
            "process."
        )
    try:
        yield
    except KeyboardInterrupt as stop:  # without a word: before the driver listens
        begun = f"stopped; `pulseledger resume {folder}` goes on."
        raise KeyboardInterrupt(
            str(stop)
            or (begun if is_study(folder) else "stopped before the study had begun; the same command begins it.")
        ) from None
    finally:
        _ONE.release()


def _same(study: StudyConfig, folder: Path, storage: BaseStorage, say: Callable[[str], None]) -> None:
    """
    Raises:
        StudyError: the trials in the folder were begun with another study.
    """
    begun = recorded(storage, None if study.storage is None else identity(folder))
    if begun:
        refuse_changed(definition(study), begun[DEFINITION], folder)
        if begun[CODE] != code():
            say(f"the study was begun with {_version(begun[CODE])}, this is {_version(code())}")
    elif is_study(folder):
        there = read_study(folder)
        refuse_changed(definition(study), definition(there), folder)
        if (there.storage is None) != (study.storage is None):  # a database may move, but trials do not change its kind
            raise StudyError(
                f"{folder / STUDY_FILE}: holds a study with another kind of storage; use another --out, or pulseledger resume."
            )


def _version(code: Mapping[str, Any]) -> str:
    commit = f" of commit {code['commit'][:12]}" if code["commit"] else ""
    return f"PulseLedger {code['version']}{commit}{' with changes' if code['changed'] else ''}"
