"""The durable truth of a run: one SQLite file with every signed update, round, raw transaction and receipt.

A row is on disk before what it describes is sent. The chain can be rebuilt from this file, not the other way round.
"""

import errno
import fcntl
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import LedgerError
from engine.ledger.canonical import read_json
from engine.ledger.records import (
    Domain,
    Federation,
    RoundEntry,
    domain_from_json,
    domain_to_json,
    federation_from_json,
    federation_to_json,
    record_to_json,
)

LOCK_SECONDS = 5.0  # a ledger actor lives on for a moment after its driver was killed
FILE = "journal.sqlite"
FORMAT = 1

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE updates (
    round INTEGER NOT NULL, slot INTEGER NOT NULL, record TEXT NOT NULL, signature BLOB NOT NULL, leaf BLOB NOT NULL,
    PRIMARY KEY (round, slot)
);
CREATE TABLE rounds (
    round INTEGER PRIMARY KEY, parent_model BLOB NOT NULL, model BLOB NOT NULL, count INTEGER NOT NULL,
    root BLOB NOT NULL, head BLOB NOT NULL
);
CREATE TABLE transactions (
    seq INTEGER PRIMARY KEY, purpose TEXT NOT NULL, round INTEGER NOT NULL, hash BLOB NOT NULL, raw BLOB NOT NULL,
    receipt TEXT
);
"""


@dataclass(frozen=True)
class Receipt:
    """What the chain answered: transaction hash (0x hex), status (1 success, 0 refused), gas used."""

    transaction: str
    status: int
    gas: int


@dataclass(frozen=True)
class JournalTransaction:
    """A signed transaction; `receipt` is None until the chain has answered. Purpose: deploy, open or seal."""

    seq: int
    purpose: str
    round: int
    hash: bytes
    raw: bytes
    receipt: Receipt | None


@dataclass(frozen=True)
class JournalRound:
    """A round without its updates; the tree root stands for them."""

    round: int
    parent_model: bytes
    model: bytes
    count: int
    root: bytes
    head: bytes


@dataclass(frozen=True)
class Meta:
    """What the journal belongs to. `backend` holds name, url (without credentials) and the contract asked for."""

    federation: Federation
    domain: Domain
    backend: dict[str, Any]


class Journal:
    """The open journal of one writer. Raises LedgerError with one sentence for a damaged file and for a full disk."""

    def __init__(self, folder: Path) -> None:
        """Lock the folder, creating it if needed, and open the journal if there is one.

        Raises:
            LedgerError: another process writes this journal, or the file is damaged.
        """
        self.path = Path(folder) / FILE
        self.meta: Meta | None = None
        self._connection: sqlite3.Connection | None = None
        with _storage(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.path.with_suffix(".lock"), self.path)
        try:
            if self.path.exists():
                self._connect()
        except BaseException:
            self.close()
            raise

    def create(self, meta: Meta, transactions: list[tuple[str, int, bytes, bytes]]) -> None:
        """Write a new journal with its first transactions (purpose, round, hash, raw), whole or not at all."""
        temporary = self.path.with_suffix(".new")
        with _storage(self.path):
            temporary.unlink(missing_ok=True)
            connection = sqlite3.connect(temporary)
            try:
                connection.execute("PRAGMA synchronous=FULL")
                connection.executescript(_SCHEMA)
                with connection:
                    connection.executemany(
                        "INSERT INTO meta VALUES (?, ?)",
                        [
                            ("format", str(FORMAT)),
                            ("federation", federation_to_json(meta.federation)),
                            ("domain", domain_to_json(meta.domain)),
                            ("backend", json.dumps(meta.backend, sort_keys=True)),
                        ],
                    )
                    for row in transactions:
                        connection.execute(_ADD_TRANSACTION, row)
            finally:
                connection.close()
            temporary.replace(self.path)
            _sync_folder(self.path.parent)
        self._connect()

    def rounds(self) -> list[JournalRound]:
        """Return all rounds in order."""
        query = "SELECT round, parent_model, model, count, root, head FROM rounds ORDER BY round"
        with _storage(self.path):
            return [JournalRound(*row) for row in self._open().execute(query)]

    def transactions(self, round: int | None = None) -> list[JournalTransaction]:
        """Return all transactions, or those of one round, in the order in which they were signed."""
        query = "SELECT seq, purpose, round, hash, raw, receipt FROM transactions WHERE ?1 IS NULL OR round = ?1 ORDER BY seq"
        with _storage(self.path):
            rows = self._open().execute(query, (round,)).fetchall()
        return [
            JournalTransaction(seq, purpose, round, identity, raw, receipt_from_json(receipt) if receipt else None)
            for seq, purpose, round, identity, raw, receipt in rows
        ]

    def add_round(
        self, entry: RoundEntry, leaves: list[bytes], root: bytes, head: bytes, transaction: tuple[bytes, bytes]
    ) -> JournalTransaction:
        """Write a round, its updates (one leaf each) and its transaction (hash, raw) in one durable step."""
        with _storage(self.path), self._open() as connection:
            connection.executemany(
                "INSERT INTO updates VALUES (?, ?, ?, ?, ?)",
                [
                    (entry.round, signed.record.slot, record_to_json(signed.record), signed.signature, leaf)
                    for signed, leaf in zip(entry.updates, leaves, strict=True)
                ],
            )
            connection.execute(
                "INSERT INTO rounds VALUES (?, ?, ?, ?, ?, ?)",
                (entry.round, entry.parent_model, entry.model, len(entry.updates), root, head),
            )
            seq = connection.execute(_ADD_TRANSACTION, ("seal", entry.round, *transaction)).lastrowid
        assert seq is not None
        return JournalTransaction(seq, "seal", entry.round, *transaction, None)

    def add_transaction(self, purpose: str, round: int, hash: bytes, raw: bytes) -> JournalTransaction:
        """Write one more transaction: another attempt at one that the chain can no longer take."""
        with _storage(self.path), self._open() as connection:
            seq = connection.execute(_ADD_TRANSACTION, (purpose, round, hash, raw)).lastrowid
        assert seq is not None
        return JournalTransaction(seq, purpose, round, hash, raw, None)

    def set_receipt(self, seq: int, receipt: Receipt) -> None:
        """Write what the chain answered."""
        with _storage(self.path), self._open() as connection:
            connection.execute("UPDATE transactions SET receipt = ? WHERE seq = ?", (receipt_to_json(receipt), seq))

    def close(self) -> None:
        """Close the file and let the next writer in; a second call does nothing."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise LedgerError(f"the journal {self.path} is closed")
        return self._connection

    def _connect(self) -> None:
        with _storage(self.path):
            # One writer, but its calls may come from another thread than the one that opened the file.
            connection = sqlite3.connect(self.path, timeout=5, check_same_thread=False)
            self._connection = connection
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            state = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if state != "ok":
                raise LedgerError(f"the journal {self.path} is damaged: {' '.join(state.split())}")
            self.meta = read_meta(connection, self.path)


_ADD_TRANSACTION = "INSERT INTO transactions (purpose, round, hash, raw) VALUES (?, ?, ?, ?)"


def read_meta(connection: sqlite3.Connection, path: Path) -> Meta:
    """Read what a journal belongs to.

    Raises:
        LedgerError: it has another format, or the rows that say so are damaged.
    """
    with _storage(path):
        values = dict(connection.execute("SELECT key, value FROM meta"))
    if values.get("format") != str(FORMAT):
        raise LedgerError(f"the journal {path} has format {values.get('format')}, expected {FORMAT}")
    try:
        backend = read_json(values["backend"])
        if not isinstance(backend, dict):
            raise LedgerError("backend: not an object")
        return Meta(federation_from_json(values["federation"]), domain_from_json(values["domain"]), backend)
    except (KeyError, TypeError, ValueError, LedgerError) as error:
        raise LedgerError(f"the journal {path} is damaged: {error}") from error


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
        copy = Path(folder) / FILE
        with _storage(path):
            shutil.copyfile(path, copy)
            log = path.with_name(path.name + "-wal")
            if log.is_file():
                shutil.copyfile(log, copy.with_name(copy.name + "-wal"))
            connection = sqlite3.connect(copy)
        try:
            # A damaged text must reach the audit as a wrong text, not as an error of the reader.
            connection.text_factory = lambda data: data.decode("utf-8", "replace")
            with _storage(path):
                yield connection
        finally:
            connection.close()


def receipt_to_json(receipt: Receipt) -> str:
    """Write a receipt as JSON."""
    return json.dumps({"gas": receipt.gas, "status": receipt.status, "transaction": receipt.transaction})


def receipt_from_json(text: str) -> Receipt:
    """Read what `receipt_to_json` wrote; raises LedgerError when it is something else."""
    try:
        receipt = Receipt(**read_json(text))
    except (TypeError, ValueError) as error:
        raise LedgerError(f"a receipt is damaged: {error}") from error
    if not isinstance(receipt.transaction, str) or not all(type(n) is int for n in (receipt.status, receipt.gas)):
        raise LedgerError("a receipt is damaged: a value has the wrong type")
    return receipt


def _lock(path: Path, journal: Path) -> int | None:
    # The lock dies with the process, so a crash leaves nothing behind that a person would have to clear away.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN) and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise LedgerError(f"process {holder} is writing the journal {journal}, one writer at a time") from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _storage(path: Path) -> Iterator[None]:
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
