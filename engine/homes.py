"""Whose a folder is: what was begun in it says so in a mark, and nobody else's file is ever written over."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from engine.errors import ConfigError
from engine.files import write_text

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
    write_text(folder / MARK, json.dumps({"kind": kind}))


def kind_of(folder: Path) -> str:
    """What was begun in a folder; empty where nothing was."""
    try:
        return str(json.loads((folder / MARK).read_text(encoding="utf-8"))["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
