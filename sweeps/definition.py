"""The study on disk is the study: what its trials were begun with is kept in their database, and nothing else goes on.

More trials, another concurrency, cluster, place of the data or store of the runs are still the same study.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import StudyError
from engine.files import read_text
from engine.paths import PATHS, TABLES
from engine.provenance import provenance
from sweeps.folder import IDENTITY, OWNER, STUDY_FILE
from sweeps.space import StudyConfig

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

DEFINITION, CODE = "definition", "code"  # attributes of each Optuna study
_ORDERED = ("objectives", "conditions")  # Optuna knows values by their places, conditions by labels made of all axes
_NOT_PART = ("out", "trials", "concurrency", "execution", "storage", "tracking", *PATHS, *TABLES)


def definition(study: StudyConfig) -> dict[str, Any]:
    """Dotted key -> value of everything that decides what the study is."""
    every = flat(study.model_dump(mode="json"))
    return {
        key: value for key, value in every.items() if not any(key == p or key.startswith(f"{p}.") for p in _NOT_PART)
    }


def code() -> dict[str, Any]:
    """The program that runs it."""
    made = provenance()
    return {"version": made.version, "commit": made.commit, "changed": made.changed}


def recorded(storage: "BaseStorage", mine: str | None) -> Mapping[str, Any]:
    """The attributes of an Optuna study of this folder, which name what it was begun with; empty before the first.

    Args:
        mine: identity of the folder in a database of many; None: the database is the folder's own.
    """
    for found in storage.get_all_studies():
        if DEFINITION in found.user_attrs and (mine is None or found.user_attrs.get(OWNER) == mine):
            return found.user_attrs
    return {}


def refuse_changed(now: Mapping[str, Any], begun: Mapping[str, Any], folder: Path) -> None:
    """
    Raises:
        StudyError: names the first key that differs, with both values, or what stands in another order.
    """
    plain = definition(StudyConfig())
    for key in [*now, *(key for key in begun if key not in now)]:
        was, there = begun.get(key, plain.get(key)), now.get(key, plain.get(key))
        if was != there:
            raise StudyError(
                f"{folder / STUDY_FILE}: {key} is {_shown(there)}, but the study was begun with {_shown(was)}; put it back, "
                "or begin another study with another --out."
            )
    for part in _ORDERED:
        was, there = ([key for key in keys if key.startswith(f"{part}.")] for keys in (begun, now))
        if was != there:
            raise StudyError(
                f"{folder / STUDY_FILE}: the order of {part} is another than the study was begun with, which was "
                f"{', '.join(key.removeprefix(f'{part}.') for key in was)}; put it back."
            )


def require_unedited(study: StudyConfig, folder: Path) -> None:
    """For readers: what is shown must be told by the names under which it was run. Writes nothing.

    Raises:
        StudyError: the study's file was edited since its trials began.
    """
    from sweeps.storage import reading_storage  # with SQLAlchemy, which a run by itself needs not

    identity = folder / IDENTITY
    mine = None if study.storage is None else (read_text(identity) if identity.is_file() else "")
    with reading_storage(study, folder) as storage:
        begun = recorded(storage, mine) if storage is not None else {}
    if begun:
        refuse_changed(definition(study), begun[DEFINITION], folder)


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:120]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value; an empty section is none."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        elif value != {}:
            found[f"{prefix}{name}"] = value
    return found
