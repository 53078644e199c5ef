"""Whose a folder is: what was begun in it says so in a mark, and nobody else's file is ever written over."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from engine.errors import ConfigError
from engine.files import read_text, write_text

MARK = ".pulseledger"
Kind = Literal["run", "study", "report"]


def claim(folder: Path, kind: Kind, names: Sequence[str]) -> None:
    """Makes a folder for a run, study or report, or finds it again; `names` are what will be written there.

    Raises:
        ConfigError: it holds one of these from somebody else, or is the folder of another kind of thing.
        DataError: it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file, where a folder is wanted; choose another --out.")
    mine = kind_of(folder)
    if mine == kind:
        return
    if mine:
        raise ConfigError(f"{folder}: is the folder of a {mine}, not of a {kind}; choose another --out.")
    if foreign := next((name for name in names if (folder / name).exists()), None):
        raise ConfigError(
            f"{folder}: holds a {foreign} that no {kind} of PulseLedger has written, and would be written over; choose "
            "another --out."
        )
    folder.mkdir(parents=True, exist_ok=True)
    _mark(folder, kind)


def kind_of(folder: Path) -> str:
    """What was begun in a folder; empty where nothing was."""
    return _read(folder, "kind")


def home_of(folder: Path) -> Path:
    """Where a folder was when its own files were last written; where it is, if nothing says so."""
    return Path(_read(folder, "home") or folder.absolute())


def settle(folder: Path) -> None:
    """Says that the paths in a folder's own files are those of where it is now."""
    if (kind := kind_of(folder)) and home_of(folder) != folder.absolute():
        _mark(folder, kind)


def _mark(folder: Path, kind: str) -> None:
    write_text(folder / MARK, json.dumps({"kind": kind, "home": str(folder.absolute())}))


def _read(folder: Path, name: str) -> str:
    try:
        return str(json.loads(read_text(folder / MARK))[name])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
