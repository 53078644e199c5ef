"""SQLite files that somebody else has made or writes: read without a byte being written beside them."""

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

BUSY_SECONDS = 30.0
LARGEST = 1 << 37  # bytes
_BESIDE = ("-journal", "-wal")  # what a writer that was killed leaves beside the file
_WAL = b"\x02"  # of the two bytes in the header that say how it is written and read


@contextlib.contextmanager
def reader(path: Path) -> Iterator[Callable[[], sqlite3.Connection]]:
    """What connects to an SQLite file for reading, within the block.

    A writer that was killed within a commit leaves a journal, which the next who opens the file rolls back; a file in WAL
    mode has files made beside it by whoever opens it. Both are opened in a copy of the reader's own.

    Raises:
        sqlite3.Error: it cannot be used, or holds more than tables.
    """

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS, check_same_thread=False
        )

    def only_tables(connection: sqlite3.Connection) -> sqlite3.Connection:
        """A view could have no end, and a virtual table runs a module's code."""
        others = "SELECT 1 FROM sqlite_master WHERE type = 'view' OR sql LIKE 'CREATE VIRTUAL%' LIMIT 1"
        connection.execute("PRAGMA trusted_schema = OFF")
        if connection.execute(others).fetchone() is not None:
            raise sqlite3.DatabaseError("it holds more than tables")
        return connection

    if not _alone(path, connect):
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / path.name
            for ending in ("", *_BESIDE):
                beside = path.with_name(path.name + ending)
                if beside.is_file():
                    with _as_its_own():
                        shutil.copyfile(beside, copy.with_name(beside.name))
            yield lambda: only_tables(sqlite3.connect(copy, check_same_thread=False))
        return
    yield lambda: only_tables(connect())


def copy_of(path: Path, copy: Path) -> None:
    """Writes an SQLite file anew as it is now, also while somebody writes it.

    Raises:
        sqlite3.Error: it cannot be used.
    """
    with (
        reader(path) as connect,
        contextlib.closing(connect()) as source,
        contextlib.closing(sqlite3.connect(copy)) as made,
    ):
        source.backup(made)


def _alone(path: Path, connect: Callable[[], sqlite3.Connection]) -> bool:
    """Whether the file can be opened where it is, with nothing to be done beside it first."""
    if not path.is_file():
        raise sqlite3.OperationalError("it is no file")
    if path.stat().st_size > LARGEST:
        raise sqlite3.OperationalError(f"it holds more than {LARGEST >> 30} GiB")
    with _as_its_own(), path.open("rb") as file:
        if file.read(20)[18:] == _WAL * 2:
            return False
    with contextlib.closing(connect()) as probe:
        try:
            probe.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.OperationalError as error:
            return error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK
    return True


@contextlib.contextmanager
def _as_its_own() -> Iterator[None]:
    """What the disk refuses as SQLite says it."""
    try:
        yield
    except OSError as error:
        raise sqlite3.OperationalError(error.strerror or str(error)) from None
