"""Beginning a study and going on with one: the lock, the database, the study's file, Ray; then the driver."""

import sys
from collections.abc import Callable
from pathlib import Path

from optuna.storages import BaseStorage

from engine.errors import ResourceError, StudyError
from engine.files import write_text
from engine.settings import dump_yaml
from sweeps.commands import CommandTable
from sweeps.driver import Driver
from sweeps.folder import STUDY_FILE, is_study, read_study
from sweeps.lock import only_driver
from sweeps.means import MEANS, Means
from sweeps.progress import StudyProgress
from sweeps.queue import Queue, open_studies
from sweeps.records import require_same
from sweeps.slots import RayLost, require_head
from sweeps.space import StudyConfig, total_trials
from sweeps.storage import driver_storage
from sweeps.text import first_line


def start_study(
    study: StudyConfig, folder: Path, progress: StudyProgress | None = None, quiet: bool = False, means: Means = MEANS
) -> None:
    """Begins a study in `folder`, or goes on with the same one there.

    Args:
        progress: who is told how it goes on; the usual view on stderr if None, or nothing if `quiet`.

    Raises:
        StudyError: another driver holds the folder, or it holds another study.
        ResourceError: a trial does not fit on the machine or cluster.
        ReviewPending: all other trials have ended; some wait for a reviewer.
        KeyboardInterrupt: SIGINT, SIGTERM or a command to stop; after the first, all trials have reached a checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with only_driver(folder), driver_storage(study, folder, _sayer(progress, quiet), means.clock) as storage:
        _write_study(study, folder)
        _drive(study, folder, storage, progress, quiet, means)


def resume_study(
    folder: Path, progress: StudyProgress | None = None, quiet: bool = False, means: Means = MEANS
) -> None:
    """Goes on with the study of `folder` until every wanted trial has ended; see `start_study`."""
    read_study(folder)
    with only_driver(folder):
        study = read_study(folder)  # again: the driver before may have been asked for more trials
        with driver_storage(study, folder, _sayer(progress, quiet), means.clock) as storage:
            _drive(study, folder, storage, progress, quiet, means)


def _drive(
    study: StudyConfig, folder: Path, storage: BaseStorage, progress: StudyProgress | None, quiet: bool, means: Means
) -> None:
    require_same(study, folder)
    commands = CommandTable(folder)
    queue = Queue(study, open_studies(study, folder, storage))
    already = sum(trial.ended for trial in queue.trials())
    shown = progress or StudyProgress(total_trials(study), quiet, study.objectives, already, means.clock)
    with shown, means.ray(study.execution) as ray:
        require_head(ray, study)
        try:
            Driver(study, folder, queue, commands, shown, means, ray).drive()
        except (ray.exceptions.RayError, RayLost) as error:
            raise ResourceError(f"Ray was lost ({first_line(error)}); `pulseledger resume {folder}` goes on.") from None


def _sayer(progress: StudyProgress | None, quiet: bool) -> Callable[[str], None]:
    if progress is not None:
        return progress.note
    return lambda text: None if quiet else print(text, file=sys.stderr, flush=True)


def _write_study(study: StudyConfig, folder: Path) -> None:
    path = folder / STUDY_FILE
    if is_study(folder):
        there = read_study(folder)
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
    write_text(path, dump_yaml(study))
