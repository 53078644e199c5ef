"""The ledger of one study: its design before the first trial, then the beginning and the end of every trial.

A journal comes first, as with rounds: a record is durable before its transaction is sent to StudyLedger.sol, and opening
the journal again finishes what a crash left. Tables of format 1:

    meta          key, value                format "1", domain, backend (JSON)
    designs       generation, study, content, digest, trials, head
    records       seq, study, sequence, trial, stage, content, digest, head
    transactions  seq, purpose, round, hash, raw, receipt    as in journal.py; round is a generation or a record's seq

`digest` is the SHA-256 of the canonical JSON in `content`; `head` is the contract's head after the row. The contract fixes
the number of trials when a study is registered. A change (more trials, another version of the code) is registered as the
next generation, under a study id derived from the first one, and names the first in its content. Later trials begin under
the newest generation; each trial ends under the one in which it began.
"""

import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.encoding import canonical_json, json_hash, keccak, read_json
from engine.errors import LedgerError
from engine.ledger.chain import (
    GAS_OTHER,
    Chain,
    call_data,
    created_contract,
    deploy_data,
    is_deployed,
    public_url,
    query,
)
from engine.ledger.config import LedgerConfig
from engine.ledger.delivery import settle
from engine.ledger.journal import ADD_TRANSACTION, JournalTransaction, TransactionLog, storage
from engine.ledger.ledger import connect
from engine.ledger.records import Domain, address_bytes, domain_from_json, domain_to_json, word

FILE = "study.sqlite"
FORMAT = 1
STAGES = ("NONE", "BEGUN", "COMPLETE", "PRUNED", "FAILED")  # as in StudyLedger.sol

TABLES: dict[str, tuple[str, ...]] = {
    "meta": ("key", "value"),
    "designs": ("generation", "study", "content", "digest", "trials", "head"),
    "records": ("seq", "study", "sequence", "trial", "stage", "content", "digest", "head"),
    "transactions": ("seq", "purpose", "round", "hash", "raw", "receipt"),
}

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE designs (
    generation INTEGER PRIMARY KEY, study BLOB NOT NULL UNIQUE, content TEXT NOT NULL, digest BLOB NOT NULL,
    trials INTEGER NOT NULL, head BLOB NOT NULL
);
CREATE TABLE records (
    seq INTEGER PRIMARY KEY, study BLOB NOT NULL, sequence INTEGER NOT NULL, trial INTEGER NOT NULL,
    stage INTEGER NOT NULL, content TEXT NOT NULL, digest BLOB NOT NULL, head BLOB NOT NULL,
    UNIQUE (study, sequence), UNIQUE (trial, stage)
);
CREATE TABLE transactions (
    seq INTEGER PRIMARY KEY, purpose TEXT NOT NULL, round INTEGER NOT NULL, hash BLOB NOT NULL, raw BLOB NOT NULL,
    receipt TEXT
);
"""


@dataclass(frozen=True)
class Design:
    """One registration of a study; `trials` is the number of trials that may begin under it or before it."""

    generation: int
    study: bytes
    content: str
    digest: bytes
    trials: int
    head: bytes


@dataclass(frozen=True)
class TrialRecord:
    """That a trial began or ended; `stage` is a position in STAGES."""

    seq: int
    study: bytes
    sequence: int
    trial: int
    stage: int
    content: str
    digest: bytes
    head: bytes


def study_id(identity: str, generation: int) -> bytes:
    """Return the id of a study (generation 0), or of an amendment to it, 32 bytes."""
    first = json_hash({"study": identity})
    return first if generation == 0 else json_hash({"first": "0x" + first.hex(), "generation": generation})


class StudyLedger:
    """The ledger of one study in one folder; one writer at a time. The same record again changes nothing."""

    def __init__(self, folder: Path, identity: str, config: LedgerConfig) -> None:
        """Open or create the ledger; rebuild the chain or compare with it.

        Args:
            folder: the `ledger/` folder of the study.
            identity: names the study, wherever its folder is moved.
            config: where to anchor; each study deploys a contract of its own.

        Raises:
            LedgerError: a setting is wrong, the node is unreachable, another process writes here, or journal, chain
                and settings contradict each other.
        """
        self._identity = identity
        self._seconds = 0.0
        # Purpose and round of what the chain has not answered; None: nothing was compared with it so far.
        self._open: list[tuple[str, int]] | None = None
        self._chain: Chain | None = None
        self._journal = _Journal(Path(folder))
        try:
            where = (config.backend, config.url, config.chain_id, config.key_file)
            self._chain = connect(*where, config.confirmations, config.timeout)
            self._load(config)
        except BaseException:
            self.close()
            raise

    def register(self, design: Mapping[str, Any], trials: int) -> None:
        """Register the study, or an amendment where the design has changed or more trials are wanted.

        Raises:
            LedgerError: the chain refuses or does not answer; the journal holds the registration.
        """
        last = self._designs[-1] if self._designs else None
        if last is not None and last.trials >= trials and _design_of(last) == canonical_json(design):
            return
        generation = len(self._designs)
        study = study_id(self._identity, generation)
        first = None if generation == 0 else "0x" + self._designs[0].study.hex()
        content = {
            "design": design,
            "trials": trials,
            "generation": generation,
            "first": first,
            # Trials that had begun already, unregistered or under an earlier generation.
            "begun": sum(stage == 1 for _, stage in self._known),
        }
        digest = json_hash(content)
        head = keccak(
            word(self._domain.chain_id) + word(address_bytes(self._domain.contract)) + study + digest + word(trials)
        )
        row = Design(generation, study, canonical_json(content), digest, trials, head)
        data = call_data("registerStudy", study, digest, trials, contract="StudyLedger")
        self._append("register", generation, data, "designs", row)
        self._designs.append(row)
        self._heads[study] = (head, 0)

    def record(self, trial: int, stage: str, content: Mapping[str, Any]) -> None:
        """Record that a trial began ("BEGUN") or ended ("COMPLETE", "PRUNED" or "FAILED").

        Args:
            content: plain data whose digest is anchored.

        Raises:
            LedgerError: the trial is recorded with another stage or content, or the chain refuses or does not answer.
        """
        started = time.perf_counter()
        code, digest = STAGES.index(stage), json_hash(content)
        known = self._known.get((trial, min(code, 2)))
        if known is not None:
            if (known.stage, known.digest) != (code, digest):
                raise LedgerError(
                    f"trial {trial} is recorded as {STAGES[known.stage]} with digest 0x{known.digest.hex()} in "
                    f"{self._journal.path}, now it is {stage} with 0x{digest.hex()}"
                )
            return
        begun = self._known.get((trial, 1))
        if code != 1 and begun is None:
            raise LedgerError(f"trial {trial} cannot end as {stage}: no beginning is recorded")
        study = self._designs[-1].study if begun is None else begun.study
        before, sequence = self._heads[study][0], self._heads[study][1] + 1
        head = keccak(before + word(sequence) + word(trial) + word(code) + digest)
        seq = len(self._known) + 1
        row = TrialRecord(seq, study, sequence, trial, code, canonical_json(content), digest, head)
        data = call_data("recordTrial", study, sequence, trial, code, digest, contract="StudyLedger")
        self._append("record", seq, data, "records", row)
        self._note(row)
        self._seconds += time.perf_counter() - started

    def recorded(self) -> set[tuple[int, bool]]:
        """Return what is recorded: trial, and whether it is its end."""
        return {(trial, kind == 2) for trial, kind in self._known}

    def summary(self) -> dict[str, Any]:
        """Return what a study reports of its ledger; `seconds` is the time spent in `record` of this process."""
        receipts = [t.receipt for t in self._journal.transactions() if t.receipt is not None]
        return {
            "head": " ".join("0x" + self._heads[design.study][0].hex() for design in self._designs),
            "contract": self._domain.contract,
            "chain_id": self._domain.chain_id,
            "backend": self._open_chain().name,
            "generations": len(self._designs),
            "records": len(self._known),
            "gas_total": sum(receipt.gas for receipt in receipts),
            "seconds": self._seconds,
        }

    def close(self) -> None:
        """Close journal and chain; a second call does nothing."""
        self._journal.close()
        if self._chain is not None:
            self._chain.close()
            self._chain = None

    def _load(self, config: LedgerConfig) -> None:
        chain, journal = self._open_chain(), self._journal
        if journal.meta is None:
            raw = chain.sign(None, deploy_data(chain.sender, chain.sender, contract="StudyLedger"), GAS_OTHER * 2)
            domain = Domain(chain.chain_id, created_contract(chain.sender, raw))
            backend = {"name": config.backend, "url": public_url(config.url) if config.url else None}
            journal.create(domain, backend, raw)
        assert journal.meta is not None
        self._domain, backend = journal.meta
        if (backend.get("name"), self._domain.chain_id) != (config.backend, chain.chain_id):
            raise LedgerError(
                f"the journal {journal.path} belongs to ledger.backend {backend.get('name')}, chain "
                f"{self._domain.chain_id}; this study has {config.backend}, chain {chain.chain_id}"
            )
        self._designs = journal.designs()
        self._heads = {design.study: (design.head, 0) for design in self._designs}
        if self._designs and self._designs[0].study != study_id(self._identity, 0):
            raise LedgerError(f"the journal {journal.path} belongs to another study than {self._identity}")
        self._known: dict[tuple[int, int], TrialRecord] = {}
        for row in journal.records():
            self._note(row)
        self._settle_open()
        if not is_deployed(chain.code(self._domain.contract), "StudyLedger"):
            raise LedgerError(
                f"the code at {self._domain.contract} on the {chain.name} chain is not this version's StudyLedger"
            )
        for design in self._designs:
            state = query(chain, self._domain.contract, "studyState", design.study, contract="StudyLedger")
            found, held = (state["head"], state["sequence"]), self._heads[design.study]
            if found != held:
                raise LedgerError(
                    f"journal and chain contradict each other: record {held[1]} with head 0x{held[0].hex()} in "
                    f"{journal.path}, record {found[1]} with head 0x{found[0].hex()} in contract {self._domain.contract}"
                )

    def _note(self, row: TrialRecord) -> None:
        self._known[row.trial, min(row.stage, 2)] = row
        self._heads[row.study] = (row.head, row.sequence)

    def _append(self, purpose: str, round: int, data: bytes, table: str, row: Design | TrialRecord) -> None:
        self._settle_open()
        chain = self._open_chain()
        raw = chain.sign(self._domain.contract, data, GAS_OTHER)
        self._journal.add_transaction(purpose, round, keccak(raw), raw, (table, row))
        self._open = [(purpose, round)]
        try:
            self._settle_open()
        except LedgerError:
            # What is in the journal counts; it is settled before the next record, or when the folder is opened again.
            if table == "records":
                assert isinstance(row, TrialRecord)
                self._note(row)
            raise

    def _settle_open(self) -> None:
        """Bring every transaction that the chain has not answered onto it, in order; at the opening, all of them."""
        attempts: dict[tuple[str, int], list[JournalTransaction]] = {}
        wanted: Sequence[tuple[str | None, int | None]] = [(None, None)] if self._open is None else self._open
        for transaction in (t for purpose, round in wanted for t in self._journal.transactions(round, purpose)):
            attempts.setdefault((transaction.purpose, transaction.round), []).append(transaction)
        for tries in attempts.values():
            settle(self._open_chain(), self._journal, tries, GAS_OTHER)
        self._open = []

    def _open_chain(self) -> Chain:
        if self._chain is None:
            raise LedgerError(f"the ledger {self._journal.path.parent} is closed")
        return self._chain


class _Journal(TransactionLog):
    """The open journal of a study."""

    def __init__(self, folder: Path) -> None:
        self.meta: tuple[Domain, dict[str, Any]] | None = None
        super().__init__(folder / FILE)

    def create(self, domain: Domain, backend: Mapping[str, Any], deployment: bytes) -> None:
        meta = {"format": str(FORMAT), "domain": domain_to_json(domain), "backend": canonical_json(backend)}
        self._write(_SCHEMA, meta, [("deploy", 0, keccak(deployment), deployment)])

    def designs(self) -> list[Design]:
        with storage(self.path):
            return [Design(*row) for row in self._open().execute("SELECT * FROM designs ORDER BY generation")]

    def records(self) -> list[TrialRecord]:
        with storage(self.path):
            return [TrialRecord(*row) for row in self._open().execute("SELECT * FROM records ORDER BY seq")]

    def add_transaction(
        self,
        purpose: str,
        round: int,
        hash: bytes,
        raw: bytes,
        row: tuple[str, Design | TrialRecord] | None = None,
    ) -> JournalTransaction:
        """Write a transaction, and in the same durable step the row that it is about."""
        with storage(self.path), self._open() as connection:
            if row is not None:
                names = TABLES[row[0]]
                values = [getattr(row[1], name) for name in names]
                connection.execute(f"INSERT INTO {row[0]} VALUES ({', '.join('?' * len(names))})", values)
            seq = connection.execute(ADD_TRANSACTION, (purpose, round, hash, raw)).lastrowid
        assert seq is not None
        return JournalTransaction(seq, purpose, round, hash, raw, None)

    def _read(self, connection: sqlite3.Connection) -> None:
        values = dict(connection.execute("SELECT key, value FROM meta"))
        try:
            if values["format"] != str(FORMAT):
                raise LedgerError(f"format {values['format']}, expected {FORMAT}")
            self.meta = (domain_from_json(values["domain"]), read_json(values["backend"]))
        except (KeyError, ValueError, LedgerError) as error:
            raise LedgerError(f"the journal {self.path} is damaged: {error}") from error


def _design_of(row: Design) -> str:
    return canonical_json(read_json(row.content)["design"])
