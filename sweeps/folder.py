"""A study's folder as a reader sees it: where things lie, what the study is, what its trials are.

To read a study writes not a byte: one that a driver is just opening has the trials that it has so far.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from engine import checkpoint
from engine.errors import StudyError
from engine.files import read_text, write_text
from engine.paths import load_config
from engine.result import RESULT, Result, RoundSummary
from engine.settings import parse
from sweeps.space import Condition, StudyConfig, conditions
from sweeps.stored import StoredTrial, begun

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

STUDY_FILE = "study.yaml"
# what a study writes into its folder
WRITTEN = (
    STUDY_FILE,
    "optuna.db",
    "trials",
    "pareto.json",
    "trials.parquet",
    "report",
    "commands",
    "ledger",
    "config.yaml",
)
PROGRESS = "progress.json"  # in a trial's folder: the last round, and what goes on since
IDENTITY = ".id"  # names a study wherever its folder is moved
METRIC_NAMES = "study:metric_names"  # where Optuna keeps the names of the objectives
REPEAT = re.compile(r"seed-(0|[1-9][0-9]{0,5})")
OWNER = "folder"  # attribute of an Optuna study that many folders may share a database with: the identity of its own


def trial_folder(folder: Path, trial: int) -> Path:
    """Where a trial writes."""
    return folder / "trials" / f"{trial:04d}"


def repeat_folder(trial: Path, repeat: int) -> Path:
    """Where one repeat of a trial writes."""
    return trial / f"seed-{repeat}"


def repeats_of(trial: Path) -> list[Path]:
    """The folders of a trial's repeats that were begun, in their order."""
    return sorted((path for path in trial.glob("seed-*") if REPEAT.fullmatch(path.name)), key=repeat_number)


def repeat_number(repeat: Path) -> int:
    """Which repeat a folder of `repeats_of` is."""
    return int(repeat.name.removeprefix("seed-"))


def missing_results(folder: Path, trial: StoredTrial) -> list[Path]:
    """The results of a complete trial that are gone from its folder."""
    if trial.state != "COMPLETE":
        return []
    home = trial_folder(folder, trial.number)
    wanted = [repeat_folder(home, repeat) / RESULT for repeat in range(len(trial.configs))]
    return [path for path in wanted if not path.exists()]


def error_file(folder: Path, trial: int) -> Path:
    """Where a failed trial's reason and traceback are kept."""
    return trial_folder(folder, trial) / "error.txt"


def read_error(folder: Path, trial: int) -> str:
    """The reason of a failed trial in one line; empty when none was written."""
    try:
        return read_text(error_file(folder, trial)).split("\n", 1)[0]
    except (OSError, ValueError):
        return ""


def read_history(run: Path) -> Sequence[RoundSummary]:
    """The rounds of a run, finished or not.

    Raises:
        DataError: the result or the checkpoint is damaged.
    """
    if (run / RESULT).exists():
        return Result.read(run).rounds
    return checkpoint.history(run) if (run / checkpoint.NAME).exists() else ()


class Seen(NamedTuple):
    """How far a running trial is: rounds over all its repeats, the last one's scores, what goes on since."""

    round: int
    note: str
    scores: dict[str, float]


NOT_SEEN = Seen(0, "", {})


def write_progress(trial: Path, seen: Seen) -> None:
    """Leaves word in a trial's folder."""
    write_text(trial / PROGRESS, json.dumps(seen._asdict()))


def read_progress(trial: Path) -> Seen:
    """The last word of a trial, from its folder."""
    try:
        return Seen(**json.loads(read_text(trial / PROGRESS)))
    except (OSError, ValueError, TypeError):
        return NOT_SEEN


def is_study(folder: Path) -> bool:
    """Whether a study was begun in the folder."""
    return (folder / STUDY_FILE).exists()


def read_study(folder: Path) -> StudyConfig:
    """The study of a folder.

    Raises:
        StudyError: there is none.
    """
    if not is_study(folder):
        raise StudyError(f"{folder}: holds no study ({STUDY_FILE} is missing).")
    path = folder / STUDY_FILE
    return parse(StudyConfig, load_config(path), str(path))


def optuna_name(study: StudyConfig, condition: str) -> str:
    """The name of the Optuna study that the trials of a condition are in: one each, or one for all with `joint`."""
    return study.name if study.joint else f"{study.name} | {condition}"


def optuna_names(study: StudyConfig) -> list[tuple[str, Condition | None]]:
    """The names of all Optuna studies, each with its condition, or a single one for all conditions with `joint`."""
    if study.joint:
        return [(study.name, None)]
    return [(optuna_name(study, condition.label), condition) for condition in conditions(study)]


class Group(NamedTuple):
    """What an Optuna study holds: the trials of one condition, or of all of them where that is None.

    `directions` are "maximize" or "minimize", one for each objective; `names` are the objectives as Optuna has them, and
    `noted` is what the driver noted of the whole.
    """

    name: str
    condition: Condition | None
    trials: "Sequence[FrozenTrial]"
    directions: Sequence[str] = ()
    names: Sequence[str] = ()
    noted: Mapping[str, Any] = MappingProxyType({})


def read_groups(study: StudyConfig, folder: Path) -> list[Group]:
    """The Optuna studies of a folder with their trials; none in those that no driver has made yet.

    Raises:
        StudyError: the database is damaged or away, or its study of this name is that of another folder.
    """
    from sweeps.storage import reading_storage  # with Optuna and SQLAlchemy, which a trial's runner needs not

    with reading_storage(study, folder) as storage:
        if storage is None:
            return [Group(name, condition, ()) for name, condition in optuna_names(study)]
        return [Group(name, condition, *_held(storage, name, folder)) for name, condition in optuna_names(study)]


def read_trials(study: StudyConfig, folder: Path) -> list[StoredTrial]:
    """All trials of a study that got as far as having a configuration, by their number.

    Raises:
        StudyError: as of `read_groups`.
        DataError: what was noted of a trial is damaged.
    """
    found = [trial for group in read_groups(study, folder) for trial in begun(group.trials)]
    return sorted(found, key=lambda trial: trial.number)


def _held(
    storage: "BaseStorage", name: str, folder: Path
) -> "tuple[Sequence[FrozenTrial], Sequence[str], Sequence[str], Mapping[str, Any]]":
    try:
        found = storage.get_study_id_from_name(name)
    except KeyError:
        return (), (), (), {}
    noted = storage.get_study_user_attrs(found)
    owner = noted.get(OWNER)
    if owner is not None:
        identity = folder / IDENTITY
        refuse_another(name, owner, read_text(identity) if identity.is_file() else "")
    directions = [direction.name.lower() for direction in storage.get_study_directions(found)]
    names = storage.get_study_system_attrs(found).get(METRIC_NAMES, ())
    try:
        return storage.get_all_trials(found, deepcopy=False), directions, names, noted
    except (ValueError, LookupError, TypeError, AssertionError) as error:  # of a value that is none of Optuna's own
        raise StudyError(f"storage: a trial of {name} cannot be read ({type(error).__name__}: {error}).") from None


def refuse_another(name: str, owner: str, mine: str) -> None:
    """Of many folders that share a database, each has studies of its own.

    Raises:
        StudyError: the Optuna study `name` is not that of the folder with the identity `mine`.
    """
    if owner != mine:
        raise StudyError(
            f"storage: the database holds a study {name.partition(' | ')[0]} of another folder (begun as {owner}); choose "
            "another name, or resume that one in its folder."
        )
