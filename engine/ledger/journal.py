"""The durable truth of a run: one SQLite file with every signed record, round, raw transaction and receipt.

A row is on disk before what it describes is sent. The chain can be rebuilt from this file, not the other way round.

Tables of format 2; hashes, signatures and raw transactions are BLOBs, records are canonical JSON with bytes as 0x hex:

    meta          key, value                   format "2"; federation, domain, backend (JSON); rule of aggregation
    updates       round, slot, record, signature, leaf          ModelUpdate, what the tree of a round is made of
    openings      round, slot, opening         what stands behind the salted commitments; deletable, for erasure
    receipts      round, slot, signature       of the coordinator over Receipt(federation, round, slot, leaf)
    heads         round, slot, signature       of a hospital over RoundHead(federation, round, slot, head)
    rotations     slot, round, record, old_signature, new_signature            KeyRotation
    scores        round, verdicts              Verdicts, one row for 16 hospitals, by ascending index
    peers         round, slot, judge, correct, total            PeerScore, what the verdicts follow from
    rounds        round, parent_model, model, count, root, scores_root, decisions, head
    synthetic     seq, kind, id, record, signature, sender      policy, request, review, report, expire; see `GOVERNED`
    transactions  seq, purpose, round, hash, raw, receipt       receipt: JSON of ChainReceipt, NULL until the answer
"""

import errno
import fcntl
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.encoding import canonical_json, read_json
from engine.errors import LedgerError
from engine.ledger.records import (
    Domain,
    Federation,
    Header,
    KeyRotation,
    ModelUpdate,
    PeerScore,
    RoundEntry,
    SignedUpdate,
    Verdicts,
    domain_from_json,
    domain_to_json,
    federation_from_json,
    federation_to_json,
    record_from_json,
    record_to_json,
    verdicts_from_json,
)

LOCK_SECONDS = 5.0  # a ledger actor lives on for a moment after its driver was killed
FILE = "journal.sqlite"
FORMAT = 2
RULE = "fixed-36"  # how updates are added up: see engine/aggregation/mean.py; a change there needs a new name here

# What is written down of the governance of synthetic data, and the contract's function that takes it.
GOVERNED = {
    "policy": "setPolicy",
    "reviewer": "setReviewer",
    "request": "requestSynthetic",
    "review": "reviewSynthetic",
    "report": "reportSynthetic",
    "expire": "expireSynthetic",
}

TABLES: dict[str, tuple[str, ...]] = {
    "meta": ("key", "value"),
    "updates": ("round", "slot", "record", "signature", "leaf"),
    "openings": ("round", "slot", "opening"),
    "receipts": ("round", "slot", "signature"),
    "heads": ("round", "slot", "signature"),
    "rotations": ("slot", "round", "record", "old_signature", "new_signature"),
    "scores": ("round", "verdicts"),
    "peers": ("round", "slot", "judge", "correct", "total"),
    "rounds": ("round", "parent_model", "model", "count", "root", "scores_root", "decisions", "head"),
    "synthetic": ("seq", "kind", "id", "record", "signature", "sender"),
    "transactions": ("seq", "purpose", "round", "hash", "raw", "receipt"),
}

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE updates (
    round INTEGER NOT NULL, slot INTEGER NOT NULL, record TEXT NOT NULL, signature BLOB NOT NULL, leaf BLOB NOT NULL,
    PRIMARY KEY (round, slot)
);
CREATE TABLE openings (
    round INTEGER NOT NULL, slot INTEGER NOT NULL, opening TEXT NOT NULL, PRIMARY KEY (round, slot)
);
CREATE TABLE receipts (
    round INTEGER NOT NULL, slot INTEGER NOT NULL, signature BLOB NOT NULL, PRIMARY KEY (round, slot)
);
CREATE TABLE heads (
    round INTEGER NOT NULL, slot INTEGER NOT NULL, signature BLOB NOT NULL, PRIMARY KEY (round, slot)
);
CREATE TABLE rotations (
    slot INTEGER NOT NULL, round INTEGER NOT NULL, record TEXT NOT NULL, old_signature BLOB NOT NULL,
    new_signature BLOB NOT NULL, PRIMARY KEY (slot, round)
);
CREATE TABLE scores (round INTEGER NOT NULL, verdicts TEXT NOT NULL, UNIQUE (round, verdicts));
CREATE TABLE peers (
    round INTEGER NOT NULL, slot INTEGER NOT NULL, judge INTEGER NOT NULL, correct INTEGER NOT NULL,
    total INTEGER NOT NULL, PRIMARY KEY (round, slot, judge)
);
CREATE TABLE rounds (
    round INTEGER PRIMARY KEY, parent_model BLOB NOT NULL, model BLOB NOT NULL, count INTEGER NOT NULL,
    root BLOB NOT NULL, scores_root BLOB NOT NULL, decisions BLOB NOT NULL, head BLOB NOT NULL
);
CREATE TABLE synthetic (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, id BLOB NOT NULL, record TEXT NOT NULL, signature BLOB,
    sender TEXT, UNIQUE (kind, id)
);
CREATE TABLE transactions (
    seq INTEGER PRIMARY KEY, purpose TEXT NOT NULL, round INTEGER NOT NULL, hash BLOB NOT NULL, raw BLOB NOT NULL,
    receipt TEXT
);
"""


@dataclass(frozen=True)
class ChainReceipt:
    """What the chain answered: transaction hash (0x hex), status (1 success, 0 refused), gas used."""

    transaction: str
    status: int
    gas: int


@dataclass(frozen=True)
class JournalTransaction:
    """A signed transaction; `receipt` is None until the chain has answered.

    Purposes: deploy, open, open-round, seal, finalize, grant; rotate, submit, dispute, resolve, reputation, claim;
    deploy-synthetic, and the kinds of `GOVERNED`.
    """

    seq: int
    purpose: str
    round: int
    hash: bytes
    raw: bytes
    receipt: ChainReceipt | None


@dataclass(frozen=True)
class Meta:
    """What the journal belongs to. `backend` holds name, url (without credentials), the contract asked for, account."""

    federation: Federation
    domain: Domain
    backend: dict[str, Any]
    rule: str = RULE


class TransactionLog:
    """A file of one writer with signed transactions and what they are about: the part that all journals share.

    Raises LedgerError with one sentence for a damaged file and for a full disk.
    """

    def __init__(self, path: Path) -> None:
        """Lock the folder, creating it if needed, and open the file if there is one.

        Raises:
            LedgerError: another process writes this file, or it is damaged.
        """
        self.path = path
        self._connection: sqlite3.Connection | None = None
        with storage(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = lock_writer(self.path.with_suffix(".lock"), self.path)
        try:
            if self.path.exists():
                self._connect()
        except BaseException:
            self.close()
            raise

    def transactions(self, round: int | None = None, purpose: str | None = None) -> list[JournalTransaction]:
        """Return all transactions, or those of one round or purpose, in the order in which they were signed."""
        query = (
            "SELECT seq, purpose, round, hash, raw, receipt FROM transactions "
            "WHERE (?1 IS NULL OR round = ?1) AND (?2 IS NULL OR purpose = ?2) ORDER BY seq"
        )
        with storage(self.path):
            rows = self._open().execute(query, (round, purpose)).fetchall()
        return [
            JournalTransaction(seq, purpose, round, identity, raw, receipt_from_json(receipt) if receipt else None)
            for seq, purpose, round, identity, raw, receipt in rows
        ]

    def set_receipt(self, seq: int, receipt: ChainReceipt) -> None:
        """Write what the chain answered."""
        with storage(self.path), self._open() as connection:
            connection.execute("UPDATE transactions SET receipt = ? WHERE seq = ?", (receipt_to_json(receipt), seq))

    def close(self) -> None:
        """Close the file and let the next writer in; a second call does nothing."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _write(self, schema: str, meta: Mapping[str, str], transactions: list[tuple[str, int, bytes, bytes]]) -> None:
        """Write a new file with its first transactions (purpose, round, hash, raw), whole or not at all."""
        temporary = self.path.with_suffix(".new")
        with storage(self.path):
            temporary.unlink(missing_ok=True)
            connection = sqlite3.connect(temporary)
            try:
                connection.execute("PRAGMA synchronous=FULL")
                connection.executescript(schema)
                with connection:
                    connection.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))
                    connection.executemany(ADD_TRANSACTION, transactions)
            finally:
                connection.close()
            temporary.replace(self.path)
            sync_folder(self.path.parent)
        self._connect()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise LedgerError(f"the journal {self.path} is closed")
        return self._connection

    def _connect(self) -> None:
        with storage(self.path):
            # One writer, but its calls may come from another thread than the one that opened the file.
            connection = sqlite3.connect(self.path, timeout=5, check_same_thread=False)
            self._connection = connection
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            state = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if state != "ok":
                raise LedgerError(f"the journal {self.path} is damaged: {' '.join(state.split())}")
            self._read(connection)

    def _read(self, connection: sqlite3.Connection) -> None:
        """Take up what the file says of itself; raises LedgerError when that is damaged."""
        raise NotImplementedError


class Journal(TransactionLog):
    """The open journal of a run."""

    def __init__(self, folder: Path) -> None:
        """As `TransactionLog`, in a folder."""
        self.meta: Meta | None = None
        super().__init__(Path(folder) / FILE)

    def create(self, meta: Meta, transactions: list[tuple[str, int, bytes, bytes]]) -> None:
        """Write a new journal with its first transactions (purpose, round, hash, raw), whole or not at all."""
        values = {
            "format": str(FORMAT),
            "federation": federation_to_json(meta.federation),
            "domain": domain_to_json(meta.domain),
            "backend": canonical_json(meta.backend),
            "rule": meta.rule,
        }
        self._write(_SCHEMA, values, transactions)

    def rounds(self, genesis: bytes) -> list[Header]:
        """Return all rounds in order; the head before each is that of the row before, `genesis` for the first."""
        query = f"SELECT {', '.join(TABLES['rounds'])} FROM rounds ORDER BY round"
        headers: list[Header] = []
        with storage(self.path):
            for round, parent_model, model, count, root, scores_root, decisions, head in self._open().execute(query):
                previous = headers[-1].head if headers else genesis
                headers.append(Header(round, previous, root, parent_model, model, count, scores_root, decisions, head))
        return headers

    def leaves(self, round: int) -> dict[int, bytes]:
        """Return the leaf of every slot with an update in a round."""
        with storage(self.path):
            return dict(self._open().execute("SELECT slot, leaf FROM updates WHERE round = ? ORDER BY slot", (round,)))

    def update(self, round: int, slot: int) -> tuple[SignedUpdate, bytes] | None:
        """Return one signed update and the coordinator's signature of its receipt, None where the slot is empty."""
        query = (
            "SELECT u.record, u.signature, r.signature FROM updates u JOIN receipts r USING (round, slot) "
            "WHERE round = ? AND slot = ?"
        )
        with storage(self.path):
            row = self._open().execute(query, (round, slot)).fetchone()
        return None if row is None else (SignedUpdate(record_from_json(ModelUpdate, row[0]), row[1]), row[2])

    def receipts(self, round: int) -> dict[int, bytes]:
        """Return the coordinator's signature for every slot with an update in a round."""
        with storage(self.path):
            return dict(self._open().execute("SELECT slot, signature FROM receipts WHERE round = ?", (round,)))

    def heads(self, round: int) -> dict[int, bytes]:
        """Return the hospitals' signatures under the head of a round."""
        with storage(self.path):
            return dict(self._open().execute("SELECT slot, signature FROM heads WHERE round = ?", (round,)))

    def rotations(self) -> list[tuple[KeyRotation, bytes, bytes]]:
        """Return all changes of keys with their two signatures, in the order in which they came."""
        query = "SELECT record, old_signature, new_signature FROM rotations ORDER BY rowid"
        with storage(self.path):
            rows = self._open().execute(query).fetchall()
        return [(record_from_json(KeyRotation, record), old, new) for record, old, new in rows]

    def scores(self, round: int) -> list[Verdicts]:
        """Return the verdicts of a round by ascending index."""
        query = "SELECT verdicts FROM scores WHERE round = ? ORDER BY rowid"
        with storage(self.path):
            return [verdicts_from_json(text) for (text,) in self._open().execute(query, (round,))]

    def verdicts(self) -> dict[int, tuple[Verdicts, ...]]:
        """Return the verdicts of all rounds that have some, in their order."""
        found: dict[int, tuple[Verdicts, ...]] = {}
        with storage(self.path):
            for round, text in self._open().execute("SELECT round, verdicts FROM scores ORDER BY round, rowid"):
                found[round] = (*found.get(round, ()), verdicts_from_json(text))
        return found

    def peers(self, round: int) -> list[PeerScore]:
        """Return the scores that the verdicts of a round follow from."""
        query = "SELECT slot, judge, correct, total FROM peers WHERE round = ? ORDER BY slot, judge"
        with storage(self.path):
            return [PeerScore(*row) for row in self._open().execute(query, (round,))]

    def governed(self) -> list[tuple[str, bytes, str, bytes | None, str | None]]:
        """Return everything that was written down of governance: kind, id, record (JSON), signature, sender."""
        query = "SELECT kind, id, record, signature, sender FROM synthetic ORDER BY seq"
        with storage(self.path):
            return self._open().execute(query).fetchall()

    def add_round(
        self,
        entry: RoundEntry,
        leaves: list[bytes],
        receipts: list[bytes],
        header: Header,
        transaction: tuple[bytes, bytes],
    ) -> JournalTransaction:
        """Write a round, its updates (a leaf and a receipt each) and its transaction (hash, raw) in one durable step."""
        rows = list(zip(entry.updates, entry.openings, leaves, receipts, strict=True))
        with storage(self.path), self._open() as connection:
            connection.executemany(
                "INSERT INTO updates VALUES (?, ?, ?, ?, ?)",
                [
                    (entry.round, signed.record.slot, record_to_json(signed.record), signed.signature, leaf)
                    for signed, _, leaf, _ in rows
                ],
            )
            connection.executemany(
                "INSERT INTO openings VALUES (?, ?, ?)",
                [(entry.round, signed.record.slot, record_to_json(opening)) for signed, opening, _, _ in rows],
            )
            connection.executemany(
                "INSERT INTO receipts VALUES (?, ?, ?)",
                [(entry.round, signed.record.slot, receipt) for signed, _, _, receipt in rows],
            )
            connection.executemany(
                "INSERT INTO scores VALUES (?, ?)", [(entry.round, record_to_json(one)) for one in entry.verdicts]
            )
            connection.executemany(
                "INSERT INTO peers VALUES (?, ?, ?, ?, ?)",
                [(entry.round, one.slot, one.judge, one.correct, one.total) for one in entry.peers],
            )
            connection.execute(
                "INSERT INTO rounds VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                tuple(getattr(header, name) for name in TABLES["rounds"]),
            )
            seq = connection.execute(ADD_TRANSACTION, ("seal", entry.round, *transaction)).lastrowid
        assert seq is not None
        return JournalTransaction(seq, "seal", entry.round, *transaction, None)

    def add_transaction(
        self, purpose: str, round: int, hash: bytes, raw: bytes, row: tuple[str, tuple[Any, ...]] | None = None
    ) -> JournalTransaction:
        """Write one more transaction, and in the same durable step the record (table, values) that it carries."""
        with storage(self.path), self._open() as connection:
            if row is not None:
                connection.execute(f"INSERT INTO {row[0]} VALUES ({', '.join('?' * len(row[1]))})", row[1])
            seq = connection.execute(ADD_TRANSACTION, (purpose, round, hash, raw)).lastrowid
        assert seq is not None
        return JournalTransaction(seq, purpose, round, hash, raw, None)

    def add_heads(self, round: int, signatures: Mapping[int, bytes]) -> None:
        """Write the hospitals' signatures under the head of a round; one that is there already stays."""
        with storage(self.path), self._open() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO heads VALUES (?, ?, ?)",
                [(round, slot, signatures[slot]) for slot in sorted(signatures)],
            )

    def _read(self, connection: sqlite3.Connection) -> None:
        self.meta = read_meta(connection, self.path)


ADD_TRANSACTION = "INSERT INTO transactions (purpose, round, hash, raw) VALUES (?, ?, ?, ?)"


def read_meta(connection: sqlite3.Connection, path: Path) -> Meta:
    """Read what a journal belongs to.

    Raises:
        LedgerError: it has another format, or the rows that say so are damaged.
    """
    with storage(path):
        values = dict(connection.execute("SELECT key, value FROM meta"))
    if values.get("format") != str(FORMAT):
        raise LedgerError(f"the journal {path} has format {values.get('format')}, expected {FORMAT}")
    try:
        backend = read_json(values["backend"])
        if not isinstance(backend, dict):
            raise LedgerError("backend: not an object")
        federation, domain = federation_from_json(values["federation"]), domain_from_json(values["domain"])
        return Meta(federation, domain, backend, values["rule"])
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
        with storage(path):
            shutil.copyfile(path, copy)
            log = path.with_name(path.name + "-wal")
            if log.is_file():
                shutil.copyfile(log, copy.with_name(copy.name + "-wal"))
            connection = sqlite3.connect(copy)
        try:
            # A damaged text must reach the audit as a wrong text, not as an error of the reader.
            connection.text_factory = lambda data: data.decode("utf-8", "replace")
            with storage(path):
                yield connection
        finally:
            connection.close()


def receipt_to_json(receipt: ChainReceipt) -> str:
    """Write a receipt as JSON."""
    return json.dumps({"gas": receipt.gas, "status": receipt.status, "transaction": receipt.transaction})


def receipt_from_json(text: str) -> ChainReceipt:
    """Read what `receipt_to_json` wrote; raises LedgerError when it is something else."""
    try:
        receipt = ChainReceipt(**read_json(text))
    except (TypeError, ValueError) as error:
        raise LedgerError(f"a receipt is damaged: {error}") from error
    if not isinstance(receipt.transaction, str) or not all(type(n) is int for n in (receipt.status, receipt.gas)):
        raise LedgerError("a receipt is damaged: a value has the wrong type")
    return receipt


def lock_writer(path: Path, journal: Path) -> int | None:
    """Lock a file for this process, and return its descriptor; raises LedgerError when another process holds it."""
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


def sync_folder(folder: Path) -> None:
    """Make the names of new files durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
