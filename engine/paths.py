"""Which keys are paths, and against what a path is read.

A relative path in a file is meant from the file's own folder, `~` is the user's home. Inside the program all of them are
absolute; of a file that holds a user's own part there is only its name and digest from then on. What lies within a run's or study's own folder is written down relative to it, so that the folder can move.
"""

import os
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from engine.config import OWN_KEYS
from engine.errors import ConfigError
from engine.files import CONFIG, write_text
from engine.homes import home_of, settle
from engine.own import reference
from engine.settings import load_yaml, yaml_text

PATHS = (
    "out",
    "data.folder",
    "data.other.folder",
    "ledger.keystore",
    "ledger.key_file",
    "ledger.admin_key_file",
    "execution.certificates",
)
TABLES = ("data.patients", "data.other.patients")  # a path if it names a .csv file
LISTS = ("clock.fleet",)  # as well, but its content counts, not its name
STORES = ("tracking.uri",)  # a path if it is SQLite's
SQLITE = "sqlite:///"


def anchored(values: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Nested or dotted settings in which every path is absolute; relative ones are meant from `base`."""

    def absolute(path: str) -> str:
        return os.path.normpath(Path(base).absolute() / Path(path).expanduser())

    return _each(values, absolute, lambda key, text: _pinned(key, text, base))


def _pinned(key: str, text: str, base: Path) -> str:
    """An own part by file and digest; its source is known from now on."""
    if not reference.looks_own(text):
        return text
    try:
        return reference.pinned(reference.anchored(text, base))
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None


def portable(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Settings as they are written into `folder`: what lies in it is relative to it."""

    def shorter(path: str) -> str:
        home = folder.absolute()
        return f"./{Path(path).relative_to(home)}" if Path(path).is_relative_to(home) else path

    return {**_each(values, shorter), **({"out": values["out"]} if "out" in values else {})}


def sqlite_uri(path: Path) -> str:
    """The address of an SQLite file, whatever signs its name has."""
    return SQLITE + urllib.parse.quote(str(path), safe="/ +&=;,@:!$'()*~[]{}")


def sqlite_path(uri: str) -> Path:
    """The file of an address that `sqlite_uri` makes."""
    return Path(urllib.parse.unquote(uri.removeprefix(SQLITE)))


def _each(
    values: Mapping[str, Any],
    change: Callable[[str], str],
    own: Callable[[str, str], str] = lambda key, text: text,
    prefix: str = "",
) -> dict[str, Any]:
    """Values with every path changed by `change`, and every text that may name an own part by `own`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found[name] = _each(value, change, own, f"{key}.")
        else:
            found[name] = changed(key, value, change, own)
    return found


def changed(
    key: str, value: Any, change: Callable[[str], str], own: Callable[[str, str], str] = lambda key, text: text
) -> Any:
    """The value of a key, changed if it is a path or names an own part."""
    if not isinstance(value, str) or not value:
        return value
    if key in OWN_KEYS:
        return own(key, value)
    if key in PATHS or (key in (*TABLES, *LISTS) and value.lower().endswith(".csv")):
        return change(value)
    if key in STORES and value.startswith(SQLITE):
        return sqlite_uri(Path(change(str(sqlite_path(value)))))
    return value


def load_config(path: Path) -> dict[str, Any]:
    """The values of a run's or study's own file, its paths absolute.

    Of a folder that was moved, or copied, with what lies around it, they are those around it now.
    """
    here, home = path.parent.absolute(), home_of(path.parent)

    def moved(text: str) -> str:
        if not Path(text).is_absolute():
            return text
        along = Path(os.path.normpath(here / os.path.relpath(text, home)))
        return str(along) if along.exists() else text

    if path.exists() and (not path.is_file() or path.stat().st_size > CONFIG):
        what = "no plain file" if not path.is_file() else f"larger than {CONFIG >> 20} MiB"
        raise ConfigError(f"{path}: cannot be read (it is {what}); give a YAML file.")
    values = load_yaml(path)
    if here != home:
        values = {**_each(values, moved), **({"out": values["out"]} if "out" in values else {})}
    return anchored(values, path.parent)


def write_config(path: Path, model: BaseModel) -> None:
    """Writes a run's or study's own file; what lies in its folder is relative to it."""
    write_text(path, yaml_text(portable(model.model_dump(mode="json"), path.parent)))
    settle(path.parent)
