"""An MLflow store in an SQLite file: it appears whole or not at all, and may be moved with what lies beside it.

MLflow makes its tables in dozens of steps; a process that dies among them leaves a file that no later one can open. So
an empty store is made once, kept in the cache, and copied.
"""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock

from engine import databases
from engine.files import cache_folder, whole
from engine.paths import sqlite_uri

ARTIFACTS = "artifacts"  # beside the store
BESIDE = "pulseledger.artifacts"  # tag of an experiment whose files lie there
LOCK_SECONDS = 120.0
BUSY_SECONDS = 5.0  # for a file that another process has locked; the tracker tries again later

Make = Callable[[str], Any]  # MLflow's client for an address


def ready_store(path: Path, make: Make) -> None:
    """Has a store in `path`: made if there is none, made again if it is half made, its artifacts found where it is now.

    Raises:
        OSError, sqlite3.Error, filelock.Timeout: the file cannot be used.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not there")
    with filelock.FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_SECONDS):
        for part in path.parent.glob(f".{path.name}.[0-9]*"):
            part.unlink(missing_ok=True)
        if path.exists() and _half_made(path, make):
            path.replace(path.with_name(f"{path.name}.half-made"))
        if not path.exists():
            with whole(path) as part:
                shutil.copyfile(_empty_store(make), part)
        settle(path)


def settle(path: Path, home: Path | None = None) -> None:
    """Artifacts of a store that was moved, or copied, are those beside it: MLflow keeps the absolute place of the first.

    Args:
        home: the folder that they are in, of a store that lies elsewhere.
    """
    now = ((home or path.resolve().parent) / ARTIFACTS).as_uri()
    with _opened(path) as store:
        for experiment, was in _moved(store, now):
            with store:
                store.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (now, experiment))
                for table, column in (("runs", "artifact_uri"), ("logged_models", "artifact_location")):
                    store.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE experiment_id = ? "
                        f"AND substr({column}, 1, ?) = ?",
                        (now, len(was) + 1, experiment, len(was) + 1, f"{was}/"),
                    )


def settled(path: Path, copy: Path) -> Path:
    """A store for those who only look: the file itself or, where it was moved, a copy that finds its artifacts.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    home = path.resolve().parent
    with databases.reader(path) as connect, contextlib.closing(connect()) as store:
        moved = _moved(store, (home / ARTIFACTS).as_uri())
    if not moved:
        return path
    with whole(copy) as part:
        databases.copy_of(path, part)
        settle(part, home)
    return copy


def _moved(store: sqlite3.Connection, now: str) -> list[tuple[str, str]]:
    """Number and place of the experiments whose artifacts lie beside their store, and are said to lie elsewhere than `now`."""
    beside = "SELECT experiment_id FROM experiment_tags WHERE key = ?"
    query = f"SELECT experiment_id, artifact_location FROM experiments WHERE experiment_id IN ({beside})"
    return [(experiment, was) for experiment, was in store.execute(query, (BESIDE,)) if was != now]


def _half_made(path: Path, make: Make) -> bool:
    """Whether the tables are not all there; a store that holds a run, or is locked, is never taken for one."""
    with _opened(path) as store:
        if "runs" in _tables(store) and store.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is not None:
            return False
        return _revision(store) != _template_revision(make)


def _tables(store: sqlite3.Connection) -> set[str]:
    return {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _revision(store: sqlite3.Connection) -> str:
    if "alembic_version" not in _tables(store):
        return ""
    return str((store.execute("SELECT version_num FROM alembic_version").fetchone() or ("",))[0])


def _template_revision(make: Make) -> str:
    with _opened(_empty_store(make)) as store:
        return _revision(store)


def _empty_store(make: Make) -> Path:
    """An empty store of this release of MLflow, in the cache."""
    path = cache_folder() / f"mlflow-{version('mlflow')}.db"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_suffix(".lock"), timeout=LOCK_SECONDS):
            if not path.exists():
                with whole(path) as part:
                    part.unlink(missing_ok=True)
                    make(sqlite_uri(part.resolve()))
                    with _opened(part) as store, store:
                        # of MLflow's own experiment, which nothing here uses: not where this process happened to stand
                        store.execute("UPDATE experiments SET artifact_location = 'mlflow-artifacts'")
    return path


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as store:
        yield store
