"""The journal of a ledger as a file: one SQLite database of one writer, and the only place that speaks SQL.

What is written is on disk when a call returns, all of a call or nothing of it. Damage and a full disk give one sentence.
"""

import errno
import fcntl
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.clock import REAL, Clock
from engine.errors import LedgerError
from engine.files import whole
from engine.ledger.format import Journal, Table

PATIENCE = (
    5.0  # seconds that a writer waits for another: a ledger actor lives on for a moment after its driver was killed
)

Rows = Mapping[str, Sequence[tuple[Any, ...]]]  # table -> rows, the values in the order of its columns


class Store:
    """An open journal.

    Attributes:
        path: of the file.
        journal: what kind it is.
        meta: what it says of itself, by key; empty as long as it was not created.
    """

    def __init__(self, folder: Path, journal: Journal, clock: Clock = REAL) -> None:
        """Lock the folder, creating it if needed, and open the file if there is one.

        Raises:
            LedgerError: another process writes this file, or it is damaged or of another format.
        """
        self.path = Path(folder) / journal.file
        self.meta: Mapping[str, str] = {}
        self.journal = journal
        self._connection: sqlite3.Connection | None = None
        with storage(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock_writer(self.path.with_suffix(".lock"), self.path, clock)
        try:
            if self.path.exists():
                self._connect()
        except BaseException:
            self.close()
            raise

    @property
    def connection(self) -> sqlite3.Connection:
        """The database itself; raises LedgerError when it is not open."""
        if self._connection is None:
            raise LedgerError(f"the journal {self.path} is closed")
        return self._connection

    def create(self, meta: Mapping[str, str], rows: Rows) -> None:
        """Write a new file with what it says of itself and its first rows, whole or not at all."""
        with storage(self.path):
            for left in self.path.parent.glob(f".{self.path.name}.*"):
                left.unlink()  # by a process that was killed here
        # for its owner's eyes: it holds what opens the commitments; SQLite gives its log the same permissions
        with whole(self.path, durable=True, mode=0o600, error=LedgerError) as part, storage(self.path):
            connection = sqlite3.connect(part)
            try:
                for name, table in self.journal.tables.items():
                    connection.execute(f"CREATE TABLE {name} ({table.sql})")
                described = [("format", str(self.journal.format)), *meta.items()]
                with connection:
                    self._insert(connection, {"meta": described, **rows})
            finally:
                connection.close()
        self._connect()

    def discard(self) -> None:
        """Delete the file; the folder stays locked, and another can be created."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self.meta = None, {}
        with storage(self.path):
            for name in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + name).unlink(missing_ok=True)

    def rows(self, table: str, **equal: Any) -> list[sqlite3.Row]:
        """Return the rows of a table in the order in which they were written, or those with these values."""
        where = " AND ".join(f"{name} = ?" for name in equal) or "1"
        query = f"SELECT {', '.join(self.journal.tables[table].columns)} FROM {table} WHERE {where} ORDER BY rowid"
        with storage(self.path):
            return self.connection.execute(query, tuple(equal.values())).fetchall()

    def add(self, rows: Rows) -> None:
        """Write rows of any tables in one durable step."""
        with storage(self.path), self.connection as connection:
            self._insert(connection, rows)

    def replace(self, table: str, key: Mapping[str, Any], rows: Rows) -> None:
        """Delete rows of a table for good, and write others in the same step; nothing of them stays in the file.

        Args:
            key: values by column, of the rows that go.
        """
        where = " AND ".join(f"{name} = ?" for name in key)
        with storage(self.path):
            self.connection.execute("PRAGMA secure_delete=ON")
            with self.connection as connection:
                connection.execute(f"DELETE FROM {table} WHERE {where}", tuple(key.values()))
                self._insert(connection, rows)
            self.connection.execute("VACUUM")
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def set_receipt(self, seq: int, receipt: str | None) -> None:
        """Write what the chain answered to a transaction; None: nothing that it still says."""
        with storage(self.path), self.connection as connection:
            connection.execute("UPDATE transactions SET receipt = ? WHERE seq = ?", (receipt, seq))

    def close(self) -> None:
        """Close the file and let the next writer in; a second call does nothing."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _insert(self, connection: sqlite3.Connection, rows: Rows) -> None:
        for table, values in rows.items():
            places = ", ".join("?" * len(self.journal.tables[table].columns))
            connection.executemany(f"INSERT INTO {table} VALUES ({places})", values)

    def _connect(self) -> None:
        with storage(self.path):
            # One writer, but its calls may come from another thread than the one that opened the file.
            connection = sqlite3.connect(self.path, timeout=5, check_same_thread=False)
            self._connection = connection
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            state = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if state != "ok":
                raise LedgerError(f"the journal {self.path} is damaged: {' '.join(state.split())}")
        self.meta = read_meta(connection, self.journal, self.path)


def read_meta(connection: sqlite3.Connection, journal: Journal, path: Path) -> dict[str, str]:
    """Return what a journal says of itself; raises LedgerError when it is damaged or of another format."""
    with storage(path):
        meta = dict(connection.execute("SELECT key, value FROM meta"))
    if meta.get("format") != str(journal.format):
        raise LedgerError(f"the journal {path} has format {meta.get('format')}, expected {journal.format}")
    return meta


@contextmanager
def read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a copy of a journal, with what its write-ahead log holds; the folder is not touched at all.

    SQLite itself would create files beside a journal that is in WAL mode, even for a reader.

    Raises:
        LedgerError: missing or damaged.
    """
    if not path.is_file():
        raise LedgerError(f"there is no journal {path}")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        with storage(path):
            shutil.copyfile(path, copy)
            log = path.with_name(path.name + "-wal")
            if log.is_file():
                shutil.copyfile(log, copy.with_name(copy.name + "-wal"))
            connection = sqlite3.connect(copy)
        try:
            connection.row_factory = sqlite3.Row
            with storage(path):
                yield connection
        finally:
            connection.close()


def table_rows(connection: sqlite3.Connection, name: str, table: Table) -> Iterator[sqlite3.Row]:
    """The rows of a table in the order in which they were written."""
    yield from connection.execute(f"SELECT {', '.join(table.columns)} FROM {name} ORDER BY rowid")


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system raise into one sentence."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        text = str(error)
        if "disk is full" in text or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise LedgerError(f"the journal {path} cannot be written: the disk is full") from error
        if isinstance(error, OSError):
            raise LedgerError(f"the journal {path} cannot be used: {error.strerror}") from error
        if isinstance(error, sqlite3.OperationalError):
            what = "is damaged" if "no such" in text or "malformed" in text else "cannot be used"
            raise LedgerError(f"the journal {path} {what}: {text}") from error
        raise LedgerError(f"the journal {path} is damaged: {text}") from error


def _lock_writer(path: Path, journal: Path, clock: Clock) -> int | None:
    """Lock a file for this process, and return its descriptor; raises LedgerError when another process holds it."""
    # The lock dies with the process, so a crash leaves nothing behind that a person would have to clear away.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = clock.now() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN) and clock.now() < deadline:
                clock.sleep(0.1)
                continue
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise LedgerError(f"process {holder} is writing the journal {journal}, one writer at a time") from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor
