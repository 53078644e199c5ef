"""Recompute what the ledger of a study claims: designs, records, heads, and the contract's state after all transactions.

As with rounds, hashes come from `verify`, and the transactions are executed again on an empty chain. What the records say
is compared with Optuna's database and the trials' folders by `sweeps.audit`.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.encoding import canonical_json, read_json
from engine.errors import LedgerError
from engine.ledger import verify
from engine.ledger.audit import AuditReport, _bytes, _code, _hash, _text
from engine.ledger.chain import (
    Chain,
    EmbeddedChain,
    RpcChain,
    call_arguments,
    created_contract,
    decode_transaction,
    is_deployed,
    query,
)
from engine.ledger.journal import ChainReceipt, read_only, receipt_from_json
from engine.ledger.records import Domain, domain_from_json
from engine.ledger.studies import FILE, FORMAT, STAGES, TABLES

_PURPOSES = {"register": "registerStudy", "record": "recordTrial"}


@dataclass(frozen=True)
class StudyFinding:
    """One thing that is not as it must be.

    Attributes:
        trial: number of the trial in the study, None if it concerns no single one.
        record: where it is: meta, design, begun, ended, transaction, chain, database, folder, study or mlflow.
        field: what of it.
        expected: the value that follows from everything else, as text.
        found: the value that is there, as text.
        message: one sentence.
    """

    trial: int | None
    record: str
    field: str
    expected: str
    found: str
    message: str


@dataclass
class StudyReport:
    """What an audit of a study found.

    Attributes:
        trials: number, condition, state and reason of every trial, failed and pruned ones included.
        runs: folder of each trial's run -> the audit of its own ledger.
        head: heads of all generations of the study, with a space between them.
    """

    findings: list[StudyFinding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    head: str | None = None
    trials: list[dict[str, Any]] = field(default_factory=list)
    runs: dict[str, AuditReport] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether nothing was found, neither in the study nor in a run of it."""
        return not self.findings and all(report.clean for report in self.runs.values())

    def find(self, trial: Any, record: str, field: str, expected: Any, found: Any, message: str) -> None:
        """Adds a finding."""
        number = trial if type(trial) is int else None
        self.findings.append(StudyFinding(number, record, field, _text(expected), _text(found), message))

    def count(self, name: str, more: int = 1) -> None:
        """Counts what was checked."""
        self.counts[name] = self.counts.get(name, 0) + more

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        own = {name: value for name, value in asdict(self).items() if name != "runs"}
        return {"clean": self.clean, **own, "runs": {name: report.to_dict() for name, report in self.runs.items()}}

    def lines(self) -> list[str]:
        """Return the report as text, one trial or finding a line."""
        checked = ", ".join(f"{number} {name}" for name, number in self.counts.items())
        lines = [f"checked: {checked}", f"head: {self.head}"]
        for row in self.trials:
            if row["state"] != "COMPLETE":
                lines.append(f"trial {row['trial']}: {row['state']}: {row['reason']} ({row['condition']})")
        for f in self.findings:
            where = "" if f.trial is None else f"trial {f.trial}, "
            lines.append(f"finding: {where}{f.record}.{f.field}: {f.message} (expected {f.expected}, found {f.found})")
        lines += [f"note: {note}" for note in self.notes]
        for name, report in self.runs.items():
            if report.findings or report.notes:
                lines += [f"{name}: {line}" for line in report.lines()]
        clean = sum(report.clean for report in self.runs.values())
        lines.append(f"{clean} of {len(self.runs)} runs are clean")
        lines.append("clean" if self.clean else f"{len(self.findings)} findings in the study")
        return lines


@dataclass
class Recorded:
    """What the journal of a study says, as far as it can be read.

    Attributes:
        designs: content of each generation.
        begun: trial -> content of its beginning.
        ended: trial -> stage and content of its end.
        domain: chain and contract; None if the journal does not say.
    """

    designs: list[dict[str, Any]] = field(default_factory=list)
    begun: dict[int, dict[str, Any]] = field(default_factory=dict)
    ended: dict[int, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    domain: Domain | None = None


@dataclass
class _Study:
    """What the contract must hold of one generation."""

    head: bytes
    trials: int
    sequence: int = 0
    stages: dict[int, int] = field(default_factory=dict)


def audit_records(folder: Path, report: StudyReport) -> Recorded:
    """Recompute the journal in the `ledger/` folder of a study; findings go into `report`. Nothing is changed.

    Raises:
        LedgerError: there is no journal, or none can be read from the file.
    """
    with read_only(Path(folder) / FILE) as connection:
        return _StudyAudit(connection, report).run()


class _StudyAudit:
    def __init__(self, connection: sqlite3.Connection, report: StudyReport) -> None:
        self.connection = connection
        self.report = report
        self.found = Recorded()
        self.studies: dict[bytes, _Study] = {}
        self.order: list[bytes] = []
        self.wanted: dict[tuple[str, int], dict[str, Any]] = {}  # what a transaction must ask for
        self.raw: list[tuple[bytes, ChainReceipt | None]] = []
        self.contract = b""

    def run(self) -> Recorded:
        if self.read_meta():
            self.read_designs()
            self.read_records()
            self.read_transactions()
            self.check_chain()
            self.report.head = " ".join("0x" + self.studies[study].head.hex() for study in self.order) or None
        return self.found

    def rows(self, table: str) -> Iterator[dict[str, Any]]:
        names = TABLES[table]
        for row in self.connection.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY rowid"):
            yield {n: "0x" + v.hex() if isinstance(v, bytes) else v for n, v in zip(names, row, strict=True)}

    def read_meta(self) -> bool:
        find = self.report.find
        values = {row["key"]: row["value"] for row in self.rows("meta")}
        if values.get("format") != str(FORMAT):
            find(None, "meta", "format", FORMAT, values.get("format"), "the journal has another format")
            return False
        try:
            what = "domain"
            self.domain = self.found.domain = domain_from_json(values.get("domain", ""))
            what = "backend"
            self.backend = read_json(values.get("backend", ""))
            if not isinstance(self.backend, dict):
                raise ValueError("not an object")
        except (LedgerError, ValueError, TypeError) as error:
            find(None, "meta", what, f"a readable {what}", values.get(what), str(error))
            return False
        chain = verify.encode("uint256", self.domain.chain_id)
        self.contract = chain + verify.encode("address", self.domain.contract)
        return True

    def read_designs(self) -> None:
        find = self.report.find
        for position, row in enumerate(self.rows("designs")):
            study, content = _hash(row["study"]), self.content(None, "design", row)
            if row["generation"] != position:
                message = "the registrations are not numbered without a gap"
                find(None, "design", "generation", position, row["generation"], message)
            if study is None or not _is_uint(row["trials"], 32) or content is None:
                find(None, "design", "row", "readable values", row["study"], "a registration is damaged")
                continue
            first = self.order[0] if self.order else None
            if first is not None:
                derived = {"first": "0x" + first.hex(), "generation": position}
                expected = verify.sha256(canonical_json(derived).encode())
                if study != expected:
                    message = "the id of the amendment does not follow from the first registration"
                    find(None, "design", "study", expected, study, message)
            named = {"generation": position, "trials": row["trials"], "first": first and "0x" + first.hex()}
            for name, value in named.items():
                if content.get(name) != value:
                    message = f"{name} of the registration is not that of its row"
                    find(None, "design", name, value, content.get(name), message)
            begun = content.get("begun")
            if begun and not position:
                self.report.notes.append(f"the study was registered after {begun} of its trials had begun")
            digest = _hash(row["digest"]) or bytes(32)
            head = verify.keccak256(self.contract + study + digest + verify.encode("uint32", row["trials"]))
            if _hash(row["head"]) != head:
                message = "the head of the registration does not follow from it"
                find(None, "design", "head", head, row["head"], message)
            self.studies[study] = _Study(head, row["trials"])
            self.order.append(study)
            self.found.designs.append(content)
            self.wanted["register", position] = {"study": study, "design": digest, "trials": row["trials"]}
            self.report.count("registrations")
        if not self.order:
            find(None, "design", "generation", "a registration", None, "the study was never registered")
        for one, two in zip(self.found.designs, self.found.designs[1:], strict=False):
            changed = [name for name, _, _ in differences(one.get("design"), two.get("design"))]
            if one.get("trials") != two.get("trials"):
                changed.insert(0, f"trials {_text(one.get('trials'))} to {_text(two.get('trials'))}")
            self.report.notes.append(f"amended: {', '.join(changed)}")

    def read_records(self) -> None:
        find = self.report.find
        heads = {study: held.head for study, held in self.studies.items()}
        for position, row in enumerate(self.rows("records"), start=1):
            trial, stage, study = row["trial"], row["stage"], _hash(row["study"])
            stage = stage if type(stage) is int and 1 <= stage < len(STAGES) else 0
            record = "ended" if stage > 1 else "begun"
            if row["seq"] != position:
                message = "the records are not numbered without a gap"
                find(trial, record, "seq", position, row["seq"], message)
            content = self.content(trial, record, row)
            if not stage or not _is_uint(trial, 32):
                name = "trial" if stage else "stage"
                find(trial, record, name, "a value of the contract", row[name], "a record is damaged")
                continue
            held = self.studies.get(study or b"")
            if held is None or study is None:
                message = "the record belongs to no registered study"
                find(trial, record, "study", "a registered study", row["study"], message)
                continue
            held.sequence += 1
            if row["sequence"] != held.sequence:
                message = "a record of the study is missing, added, or in another place"
                find(trial, record, "sequence", held.sequence, row["sequence"], message)
            if not (trial < held.trials and _follows(held.stages.get(trial, 0), stage)):
                message = "the trial cannot begin or end here"
                was = STAGES[held.stages.get(trial, 0)]
                find(trial, record, "stage", f"what may follow {was}, of {held.trials} trials", STAGES[stage], message)
            held.stages[trial] = stage
            digest = _hash(row["digest"]) or bytes(32)
            words = [verify.encode("uint256", n) for n in (held.sequence, trial, stage)]
            head = verify.keccak256(heads[study] + b"".join(words) + digest)
            if _hash(row["head"]) != head:
                find(trial, record, "head", head, row["head"], "the head does not follow from the record before it")
            # The next link starts from what is written, so that one change is told once.
            heads[study] = _hash(row["head"]) or head
            held.head = heads[study]
            self.wanted["record", position] = {
                "study": study,
                "sequence": row["sequence"],
                "trial": trial,
                "stage": stage,
                "digest": digest,
            }
            self.report.count("records")
            if content is not None and stage == 1:
                self.found.begun.setdefault(trial, content)
            elif content is not None:
                self.found.ended.setdefault(trial, (STAGES[stage], content))

    def content(self, trial: Any, record: str, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """The content of a row, whose digest must be the anchored one."""
        try:
            content = read_json(row["content"])
            if not isinstance(content, dict):
                raise ValueError("not an object")
            digest = verify.sha256(canonical_json(content).encode())
        except (ValueError, UnicodeError) as error:
            message = f"the content is damaged: {error}"
            self.report.find(trial, record, "content", "readable JSON", row["content"], message)
            return None
        if _hash(row["digest"]) != digest:
            message = "the digest is not that of the content"
            self.report.find(trial, record, "digest", digest, row["digest"], message)
        return content

    def read_transactions(self) -> None:
        find = self.report.find
        done: dict[tuple[str, int], int] = {}
        for position, row in enumerate(self.rows("transactions"), start=1):
            raw, purpose = _bytes(row["raw"]), row["purpose"]
            key = (str(purpose), row["round"] if type(row["round"]) is int else -1)
            trial = self.wanted.get(key, {}).get("trial")
            if row["seq"] != position:
                find(trial, "transaction", "seq", position, row["seq"], "the transactions have a gap")
            identity = verify.keccak256(raw)
            if _hash(row["hash"]) != identity:
                find(trial, "transaction", "hash", identity, row["hash"], f"transaction {position} was changed")
            receipt = None
            try:
                receipt = receipt_from_json(row["receipt"]) if row["receipt"] is not None else None
                if receipt is not None and receipt.transaction != "0x" + identity.hex():
                    raise LedgerError("it belongs to another transaction")
            except LedgerError as error:
                message = f"the receipt is damaged: {error}"
                find(trial, "transaction", "receipt", identity, row["receipt"], message)
            if raw:
                self.raw.append((raw, receipt))
            if receipt is not None and receipt.status == 1:
                done[key] = done.get(key, 0) + 1
            self.check_call(position, key, trial, raw)
        for key in [("deploy", 0), *self.wanted]:
            if done.pop(key, 0) != 1:
                trial = self.wanted.get(key, {}).get("trial")
                message = f"{key[0]} {key[1]} must have exactly one successful transaction"
                find(trial, "transaction", "receipt", "one success", "none or several", message)
        for key in done:
            message = "a successful transaction belongs to no row"
            find(None, "transaction", "round", "a row of the journal", f"{key[0]} {key[1]}", message)
        self.report.count("transactions", len(self.raw))

    def check_call(self, position: int, key: tuple[str, int], trial: Any, raw: bytes) -> None:
        """Compare what a transaction asks for with the row that it belongs to."""
        find = self.report.find
        try:
            call = decode_transaction(raw)
            if call["chain_id"] != self.domain.chain_id:
                message = f"transaction {position} is signed for another chain"
                find(trial, "transaction", "chain_id", self.domain.chain_id, call["chain_id"], message)
            if key[0] == "deploy":
                code = _code("StudyLedger")
                contract = created_contract(verify.sender(raw), raw)
                if call["data"][: len(code)] != code or contract != self.domain.contract:
                    message = "the contract was created from other code, or elsewhere"
                    find(None, "transaction", "bytecode", self.domain.contract, contract, message)
                return
            if call["to"] != self.domain.contract:
                message = f"transaction {position} goes to another contract"
                find(trial, "transaction", "to", self.domain.contract, call["to"], message)
            function, arguments = call_arguments(call["data"], "StudyLedger")
        except (LedgerError, ValueError) as error:
            find(trial, "transaction", "raw", "a signed call", raw, f"transaction {position} is damaged: {error}")
            return
        expected = self.wanted.get(key)
        if expected is None or function != _PURPOSES.get(key[0]):
            message = f"transaction {position} belongs to no row, or calls something else"
            find(trial, "transaction", "purpose", _PURPOSES.get(key[0]), function, message)
            return
        for name, value in expected.items():
            if arguments.get(name) != value:
                message = f"{name} in transaction {position} is not the recorded one"
                find(trial, "transaction", name, value, arguments.get(name), message)

    def check_chain(self) -> None:
        find = self.report.find
        chain: Chain | None = None
        backend = self.backend.get("name")
        try:
            if backend == "embedded":
                chain = EmbeddedChain()
                self.replay(chain)
            elif backend == "rpc":
                chain = RpcChain(str(self.backend.get("url")))
            else:
                find(None, "meta", "backend", "embedded or rpc", backend, "the back end is unknown")
                return
            self.compare_chain(chain)
        except LedgerError as error:
            if backend == "rpc":
                self.report.notes.append(f"the chain was not compared: {error}")
            else:
                find(None, "chain", "transaction", "execution", "refusal", f"cannot be executed again: {error}")
        finally:
            if chain is not None:
                chain.close()

    def replay(self, chain: Chain) -> None:
        for position, (raw, recorded) in enumerate(self.raw, start=1):
            chain.send(raw)
            receipt = chain.receipt(verify.keccak256(raw))
            assert receipt is not None
            self.report.count("re-executed")
            for name in ("status", "gas") if recorded is not None else ():
                if getattr(receipt, name) != getattr(recorded, name):
                    message = f"executing transaction {position} again gives another {name}"
                    values = (getattr(receipt, name), getattr(recorded, name))
                    self.report.find(None, "transaction", name, *values, message)

    def compare_chain(self, chain: Chain) -> None:
        find, contract = self.report.find, self.domain.contract
        if chain.chain_id != self.domain.chain_id or not is_deployed(chain.code(contract), "StudyLedger"):
            find(None, "chain", "code", "StudyLedger", "another chain or code", "the contract is not this version's")
            return
        for study, held in self.studies.items():
            state = query(chain, contract, "studyState", study, contract="StudyLedger")
            expected = {
                "head": held.head,
                "sequence": held.sequence,
                "trials": held.trials,
                "begun": len(held.stages),
                "ended": sum(stage > 1 for stage in held.stages.values()),
            }
            for name, value in expected.items():
                if state[name] != value:
                    message = f"journal and chain disagree on {name}; expected is the chain, found the journal"
                    find(None, "chain", name, state[name], value, message)
            for trial, stage in held.stages.items():
                there = query(chain, contract, "trialStage", study, trial, contract="StudyLedger")
                if there != stage:
                    message = "journal and chain disagree on where the trial stands; expected is the chain"
                    find(trial, "chain", "stage", STAGES[there], STAGES[stage], message)


def _follows(held: int, given: int) -> bool:
    return given == 1 if held == 0 else held == 1 and given > 1


def _is_uint(value: Any, bits: int) -> bool:
    return type(value) is int and 0 <= value < 1 << bits


def differences(one: Any, two: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted name and both values of everything that differs between two JSON values."""
    if isinstance(one, dict) and isinstance(two, dict):
        for key in sorted(one.keys() | two.keys()):
            yield from differences(one.get(key), two.get(key), f"{name}.{key}" if name else key)
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            yield from differences(a, b, f"{name}.{i}" if name else str(i))
    elif one != two:
        yield name or "value", one, two
