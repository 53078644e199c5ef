"""Recompute everything that the ledger of a run claims, from the folder of the run alone.

Every link is checked against its neighbours as they are recorded (leaf against record, root against leaves, head
against the head before), so one changed value gives findings where it is and not in every round after it. Together the
links reach from the signatures of the hospitals to the head on the chain and to the final model.

What an audit cannot see: whoever holds all hospital keys can write a different history that is consistent in itself.
Compare the head with one kept elsewhere, such as in the tracker.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from eth_hash.auto import keccak
from safetensors import SafetensorError
from safetensors.numpy import load

from engine.aggregation import weighted_mean
from engine.errors import LedgerError
from engine.ledger.archive import read_genesis, read_round
from engine.ledger.canonical import model_hash, read_json, vector_hash
from engine.ledger.chain import (
    Chain,
    EmbeddedChain,
    RpcChain,
    call_data,
    decode_transaction,
    deploy_data,
    deployed_code,
    read_state,
)
from engine.ledger.journal import FILE, Meta, Receipt, read_meta, read_only, receipt_from_json
from engine.ledger.merkle import EMPTY, genesis_head, next_head, registry_root, root, update_leaf
from engine.ledger.records import SignedUpdate, UpdateRecord, record_from_json
from engine.ledger.signing import recover


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it must be.

    Attributes:
        round: number of the round, None if it concerns the whole run.
        hospital: slot of the hospital, None if it concerns no single one.
        record: where it is: update, round, transaction, chain, archive, model or result.
        field: what of it.
        expected: the value that follows from everything else, as text.
        found: the value that is there, as text.
        message: one sentence.
    """

    round: int | None
    hospital: int | None
    record: str
    field: str
    expected: str
    found: str
    message: str


@dataclass
class AuditReport:
    """What an audit found; `counts` says how much was checked, `notes` what could not be."""

    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    head: str | None = None

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"clean": self.clean, **asdict(self)}

    def lines(self) -> list[str]:
        """Return the report as text, one finding a line."""
        checked = ", ".join(f"{number} {name}" for name, number in self.counts.items())
        lines = [f"checked: {checked}", f"head: {self.head}"]
        lines += [f"finding: {_place(f)}: {f.message} (expected {f.expected}, found {f.found})" for f in self.findings]
        lines += [f"note: {note}" for note in self.notes]
        lines.append("clean" if self.clean else f"{len(self.findings)} findings")
        return lines


@dataclass
class _Round:
    """A row of the journal whose values have the right types."""

    parent_model: bytes
    model: bytes
    count: int
    root: bytes
    head: bytes
    updates: dict[int, "_Update"] = field(default_factory=dict)


@dataclass
class _Update:
    """`signed` is None where the record cannot be read."""

    leaf: bytes | None
    signed: SignedUpdate | None


@dataclass
class _Transaction:
    seq: int
    purpose: Any
    round: Any
    raw: bytes
    receipt: Receipt | None


def audit(run_folder: Path) -> AuditReport:
    """Recompute a run's ledger. Nothing in the folder is changed.

    Raises:
        LedgerError: there is no journal, it is not a journal, or it does not say which federation it belongs to.
    """
    folder = Path(run_folder)
    with read_only(folder / "ledger" / FILE) as connection:
        meta = read_meta(connection, folder / "ledger" / FILE)
        return _Audit(folder, meta, connection).run()


class _Audit:
    def __init__(self, folder: Path, meta: Meta, connection: sqlite3.Connection) -> None:
        self.folder, self.meta, self.connection = folder, meta, connection
        self.report = AuditReport()
        self.finished = (folder / "result.json").exists()
        self.rounds: dict[int, _Round] = {}
        self.unanswered = False  # the last round is recorded, but the run stopped before the chain had it

    def run(self) -> AuditReport:
        self.read_rounds()
        self.read_updates()
        for number, entry in sorted(self.rounds.items()):
            self.check_round(number, entry)
        transactions = self.read_transactions()
        self.check_transactions(transactions)
        self.check_chain(transactions)
        self.check_archive()
        self.check_model()
        self.check_result()
        self.report.counts = {
            "rounds": len(self.rounds),
            "updates": sum(len(entry.updates) for entry in self.rounds.values()),
            "transactions": len(transactions),
            **self.report.counts,
        }
        self.report.head = _text(self.last_head())
        return self.report

    # --- Reading rows -------------------------------------------------------------------------------------------------

    def read_rounds(self) -> None:
        query = "SELECT round, parent_model, model, count, root, head FROM rounds ORDER BY round"
        for number, parent_model, model, count, tree_root, head in self.connection.execute(query):
            if type(number) is not int:
                self.find(None, None, "round", "round", "an integer", number, "a round has no number")
                continue
            # Zeros take the place of what cannot be read; the links around it then say what is missing.
            entry = _Round(bytes(32), bytes(32), -1, bytes(32), bytes(32))
            values = {"parent_model": parent_model, "model": model, "root": tree_root, "head": head}
            for name, value in values.items():
                if _is_hash(value):
                    setattr(entry, name, value)
                else:
                    self.find(number, None, "round", name, "32 bytes", value, f"{name} of the round is damaged")
            if type(count) is int:
                entry.count = count
            else:
                self.find(number, None, "round", "count", "an integer", count, "count of the round is damaged")
            self.rounds[number] = entry
        for number in range(1, max(self.rounds, default=0) + 1):
            if number not in self.rounds:
                self.find(number, None, "round", "round", number, None, "the round is missing from the journal")

    def read_updates(self) -> None:
        query = "SELECT round, slot, record, signature, leaf FROM updates ORDER BY round, slot"
        hospitals = self.meta.federation.hospitals
        for number, slot, text, signature, leaf in self.connection.execute(query):
            if type(number) is not int or number not in self.rounds:
                known = f"one of {len(self.rounds)} rounds"
                where = number if type(number) is int else None
                self.find(where, slot, "update", "round", known, number, "an update belongs to no recorded round")
                continue
            if type(slot) is not int or not 0 <= slot < len(hospitals):
                known = f"0 to {len(hospitals) - 1}"
                self.find(number, None, "update", "slot", known, slot, "an update belongs to no hospital")
                continue
            if slot in self.rounds[number].updates:
                self.find(number, slot, "update", "slot", "one update", "two", "the hospital appears twice")
                continue
            update = _Update(leaf if _is_hash(leaf) else None, None)
            self.rounds[number].updates[slot] = update
            if update.leaf is None:
                self.find(number, slot, "update", "leaf", "32 bytes", leaf, "the leaf is damaged")
            if not isinstance(signature, bytes) or len(signature) != 65:
                self.find(number, slot, "update", "signature", "65 bytes", signature, "the signature is damaged")
                continue
            try:
                update.signed = SignedUpdate(record_from_json(text), signature)
            except LedgerError as error:
                self.find(
                    number, slot, "update", "record", "a readable record", text, f"the record is damaged: {error}"
                )

    def read_transactions(self) -> list[_Transaction]:
        query = "SELECT seq, purpose, round, hash, raw, receipt FROM transactions ORDER BY seq"
        transactions = []
        for seq, purpose, number, identity, raw, text in self.connection.execute(query):
            where = number if type(number) is int else None
            if not isinstance(raw, bytes):
                self.find(where, None, "transaction", "raw", "bytes", raw, f"transaction {seq} is damaged")
                continue
            if identity != keccak(raw):
                message = f"transaction {seq} is not the one that was recorded"
                self.find(where, None, "transaction", "hash", keccak(raw), identity, message)
            receipt = None
            if text is not None:
                try:
                    receipt = receipt_from_json(text)
                except LedgerError as error:
                    self.find(where, None, "transaction", "receipt", "a readable receipt", text, str(error))
            if receipt is not None and receipt.transaction != "0x" + keccak(raw).hex():
                message = f"the receipt of transaction {seq} belongs to another one"
                self.find(where, None, "transaction", "receipt", keccak(raw), receipt.transaction, message)
            transactions.append(_Transaction(seq, purpose, number, raw, receipt))
        return transactions

    # --- Rounds -------------------------------------------------------------------------------------------------------

    def check_round(self, number: int, entry: _Round) -> None:
        federation, domain = self.meta.federation, self.meta.domain
        slots = len(federation.hospitals)
        for slot, update in sorted(entry.updates.items()):
            if update.signed is not None:
                self.check_update(number, slot, entry, update, update.signed)

        before = self.rounds.get(number - 1)
        if before is not None or number == 1:
            parent = before.model if before is not None else federation.genesis_model
            if entry.parent_model != parent:
                message = "the round does not start from the model that the round before ended with"
                self.find(number, None, "round", "parent_model", parent, entry.parent_model, message)
        if federation.weighting == "none" and entry.model != entry.parent_model:
            message = "the model changed in a federation that does not aggregate"
            self.find(number, None, "round", "model", entry.parent_model, entry.model, message)
        if entry.count != len(entry.updates):
            message = "the number of updates is not the recorded one"
            self.find(number, None, "round", "count", len(entry.updates), entry.count, message)

        leaves = [entry.updates[s].leaf or EMPTY if s in entry.updates else EMPTY for s in range(slots)]
        tree_root = root(leaves)
        if tree_root != entry.root:
            message = "the tree over the recorded leaves has another root"
            self.find(number, None, "round", "root", tree_root, entry.root, message)
        if before is not None or number == 1:
            head = before.head if before is not None else genesis_head(domain, federation)
            if 0 <= entry.count < 1 << 32:
                content = (entry.root, entry.parent_model, entry.model, entry.count, slots)
                head = next_head(head, domain, federation.id, number, *content)
            if head != entry.head:
                message = "the head does not follow from the head before it and this round"
                self.find(number, None, "round", "head", head, entry.head, message)

    def check_update(self, number: int, slot: int, entry: _Round, update: _Update, signed: SignedUpdate) -> None:
        federation, domain = self.meta.federation, self.meta.domain
        expected: dict[str, Any] = {
            "schema": 1,
            "federation": federation.id,
            "round": number,
            "slot": slot,
            "parent_model": entry.parent_model,
            "config_hash": federation.config_hash,
        }
        for name, value in expected.items():
            found = getattr(signed.record, name)
            if found != value:
                message = f"{name} of the signed record is not that of the run"
                self.find(number, slot, "update", name, value, found, message)
        self.count("signatures")
        try:
            signer, problem = recover(signed, domain), "the record is not what this hospital signed"
        except LedgerError as error:
            signer, problem = "no valid signature", str(error)
        if signer != federation.hospitals[slot]:
            self.find(number, slot, "update", "signature", federation.hospitals[slot], signer, problem)
        leaf = update_leaf(signed, domain)
        if update.leaf is not None and leaf != update.leaf:
            message = "the leaf is not the hash of the record and its signature"
            self.find(number, slot, "update", "leaf", leaf, update.leaf, message)

    # --- Transactions and chain ---------------------------------------------------------------------------------------

    def check_transactions(self, transactions: list[_Transaction]) -> None:
        """Compare what each transaction says with the round that it seals."""
        federation, domain = self.meta.federation, self.meta.domain
        sealed: dict[int, list[_Transaction]] = {number: [] for number in self.rounds}
        for transaction in transactions:
            number = transaction.round if type(transaction.round) is int else None
            try:
                content = decode_transaction(transaction.raw)
            except LedgerError as error:
                self.find(number, None, "transaction", "raw", "a signed transaction", transaction.raw, str(error))
                continue
            if content["chain_id"] != domain.chain_id:
                message = f"transaction {transaction.seq} is signed for another chain"
                self.find(number, None, "transaction", "chain_id", domain.chain_id, content["chain_id"], message)
            if transaction.purpose != "deploy" and content["to"] != domain.contract:
                message = f"transaction {transaction.seq} goes to another contract"
                self.find(number, None, "transaction", "to", domain.contract, content["to"], message)
            expected = None
            if transaction.purpose == "open" and number == 0:
                registry = registry_root(federation.hospitals)
                names = ["id", "config_hash", "registry_root", "genesis_model"]
                values: list[int | bytes] = [federation.id, federation.config_hash, registry, federation.genesis_model]
                expected = call_data("openFederation", *values)
            elif transaction.purpose == "seal" and number in self.rounds:
                entry = self.rounds[number]
                sealed[number].append(transaction)
                names = ["id", "round", "root", "parent_model", "model", "count", "slots"]
                values = [federation.id, number, entry.root, entry.parent_model, entry.model]
                values += [max(entry.count, 0), len(federation.hospitals)]
                expected = call_data("sealRound", *values)
            elif transaction.purpose == "seal":
                message = f"transaction {transaction.seq} seals a round that the journal does not hold"
                self.find(number, None, "round", "round", transaction.round, None, message)
            elif transaction.purpose == "deploy" and number == 0:
                # The two addresses at the end are the roles' first holders, whom the run does not prescribe.
                code = deploy_data(domain.contract, domain.contract)[:-64]
                if content["data"][:-64] != code:
                    message = "the contract was created from other code than this version's"
                    self.find(0, None, "transaction", "bytecode", keccak(code), keccak(content["data"][:-64]), message)
            else:
                known = "deploy or open for round 0, or seal"
                found = f"{transaction.purpose} for round {transaction.round}"
                message = f"transaction {transaction.seq} has no known purpose"
                self.find(number, None, "transaction", "purpose", known, found, message)
            if expected is not None and content["data"] != expected:
                self.compare_call(number, names, expected, content["data"])
        for number, attempts in sorted(sealed.items()):
            self.check_receipts(number, attempts)

    def compare_call(self, number: int | None, names: list[str], expected: bytes, found: bytes) -> None:
        """Name the argument of a call that differs from the journal."""
        if found[:4] != expected[:4] or len(found) != len(expected):
            message = "the transaction calls something else"
            self.find(number, None, "transaction", "function", expected[:4], found[:4], message)
            return
        for index, name in enumerate(names):
            part = slice(4 + 32 * index, 36 + 32 * index)
            if expected[part] != found[part]:
                message = f"{name} in the transaction is not the recorded one"
                self.find(number, None, "transaction", name, expected[part], found[part], message)

    def check_receipts(self, number: int, attempts: list[_Transaction]) -> None:
        succeeded = [t for t in attempts if t.receipt is not None and t.receipt.status == 1]
        if len(succeeded) == 1:
            return
        if not succeeded and attempts and number == max(self.rounds) and not self.finished:
            self.unanswered = True
            self.report.notes.append(f"round {number} is recorded, but the run stopped before the chain had answered")
            return
        message = "the round must have exactly one successful transaction"
        self.find(number, None, "transaction", "receipt", 1, len(succeeded), message)

    def check_chain(self, transactions: list[_Transaction]) -> None:
        backend = self.meta.backend.get("name")
        chain: Chain | None = None
        try:
            if backend == "embedded":
                chain = EmbeddedChain()
                if not self.replay(chain, transactions):
                    return
            elif backend == "rpc":
                try:
                    chain = RpcChain(str(self.meta.backend.get("url")))
                except LedgerError as error:
                    self.report.notes.append(f"the chain was not compared: {error}")
                    return
            else:
                self.find(None, None, "chain", "backend", "embedded or rpc", backend, "the back end is unknown")
                return
            try:
                self.compare_chain(chain)
            except LedgerError as error:
                self.find(
                    None, None, "chain", "contract", "an answer", "none", f"the contract does not answer: {error}"
                )
        finally:
            if chain is not None:
                chain.close()

    def replay(self, chain: Chain, transactions: list[_Transaction]) -> bool:
        """Execute the recorded transactions again on an empty chain."""
        for transaction in transactions:
            number = transaction.round if type(transaction.round) is int else None
            try:
                chain.send(transaction.raw)
            except LedgerError as error:
                message = f"transaction {transaction.seq} cannot be executed again: {error}"
                self.find(number, None, "chain", "transaction", "execution", "refusal", message)
                self.report.notes.append("the head on the chain was not compared, as the execution stopped before it")
                return False
            self.count("re-executed")
            receipt = chain.receipt(keccak(transaction.raw))
            assert receipt is not None
            if transaction.receipt is None:
                continue
            for name in ("status", "gas"):
                expected, found = getattr(receipt, name), getattr(transaction.receipt, name)
                if expected != found:
                    message = f"executing transaction {transaction.seq} again gives another {name}"
                    self.find(number, None, "transaction", name, expected, found, message)
        return True

    def compare_chain(self, chain: Chain) -> None:
        federation, domain = self.meta.federation, self.meta.domain
        if chain.chain_id != domain.chain_id:
            message = "the chain is not the one that the run was sealed on"
            self.find(None, None, "chain", "chain_id", domain.chain_id, chain.chain_id, message)
            return
        code = chain.code(domain.contract)
        if code != deployed_code():
            message = "the code of the contract is not this version's"
            self.find(None, None, "chain", "code", keccak(deployed_code()), keccak(code) if code else None, message)
            return
        state = read_state(chain, domain.contract, federation.id)
        last = max(self.rounds, default=0)
        if self.unanswered and state["round"] == last - 1:
            last -= 1
        entry = self.rounds.get(last)
        expected = {
            "head": entry.head if entry is not None else genesis_head(domain, federation),
            "model": entry.model if entry is not None else federation.genesis_model,
            "config_hash": federation.config_hash,
            "registry_root": registry_root(federation.hospitals),
            "round": last,
        }
        for name, value in expected.items():
            if state[name] != value:
                message = f"journal and chain disagree on {name}; expected is the chain, found the journal"
                self.find(last, None, "chain", name, state[name], value, message)

    # --- Vectors ------------------------------------------------------------------------------------------------------

    def check_archive(self) -> None:
        """Check every archived vector and recompute every aggregate, as far as all it needs is there and right."""
        federation, ledger = self.meta.federation, self.folder / "ledger"
        params: np.ndarray | None = None
        try:
            params = read_genesis(ledger)
            found = vector_hash(params, federation.layout)
            if found != federation.genesis_model:
                message = "the archived genesis parameters are not the recorded ones"
                self.find(0, None, "archive", "genesis", federation.genesis_model, found, message)
                params = None
        except LedgerError as error:
            self.find(0, None, "archive", "genesis", "readable parameters", "none", str(error))

        for number in range(1, max(self.rounds, default=0) + 1):
            entry = self.rounds.get(number)
            updates = self.check_vectors(number, entry) if entry is not None else None
            if entry is None or updates is None or params is None:
                if params is not None:
                    self.report.notes.append(f"aggregates were not recomputed from round {number} on")
                params = None
                continue
            self.count("aggregates")
            try:
                if federation.weighting != "none":
                    params = weighted_mean(params, updates)
                found = vector_hash(params, federation.layout)
            except LedgerError as error:
                found, params = bytes(32), None
                self.report.notes.append(f"round {number}: {error}")
            if found != entry.model:
                message = "the aggregate of the archived updates is not the recorded model"
                self.find(number, None, "round", "model", found, entry.model, message)
                if params is not None:
                    self.report.notes.append(f"aggregates were not recomputed after round {number}")
                params = None
        for path in sorted((ledger / "updates").glob("*.safetensors")):
            number = int(path.stem) if path.stem.isdecimal() else -1
            if number != 0 and number not in self.rounds:
                where = number if number > 0 else None
                self.find(where, None, "archive", "file", "none", path.name, "the archive holds an unrecorded round")

    def check_vectors(self, number: int, entry: _Round) -> list[tuple[float, np.ndarray]] | None:
        """Check the vectors of one round; return (weight, vector) by slot if all are there and right."""
        federation = self.meta.federation
        try:
            vectors = read_round(self.folder / "ledger", number)
        except LedgerError as error:
            self.find(number, None, "archive", "file", "readable vectors", "none", str(error))
            return None
        whole = True
        for slot in sorted(set(vectors) | set(entry.updates)):
            update = entry.updates.get(slot)
            if slot not in vectors:
                self.find(number, slot, "archive", "update", "a vector", None, "the archived vector is missing")
            elif update is None:
                self.find(number, slot, "archive", "update", None, "a vector", "the archive holds an unrecorded vector")
            elif update.signed is not None:
                self.count("vectors")
                try:
                    found = vector_hash(vectors[slot], federation.layout)
                    message = "the archived vector is not the one that the hospital signed"
                except LedgerError as error:
                    found, message = b"", str(error)
                if found == update.signed.record.update:
                    continue
                self.find(number, slot, "archive", "update", update.signed.record.update, found, message)
            whole = False
        if not whole:
            return None
        by_samples = federation.weighting == "samples"
        return [(_record(entry.updates[slot]).samples if by_samples else 1, vectors[slot]) for slot in sorted(vectors)]

    def check_model(self) -> None:
        path = self.folder / "model.safetensors"
        expected = self.last_model()
        if not path.exists():
            if self.finished:
                self.find(None, None, "model", "file", "model.safetensors", None, "the final model is missing")
            else:
                self.report.notes.append("there is no model.safetensors: the run did not finish")
            return
        try:
            found = model_hash(load(path.read_bytes()))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, LedgerError) as error:
            message = f"model.safetensors is damaged: {error}"
            self.find(None, None, "model", "file", "readable tensors", "none", message)
            return
        if found != expected:
            message = "model.safetensors is not the model that the last round recorded"
            self.find(max(self.rounds, default=0), None, "model", "model_hash", expected, found, message)

    def check_result(self) -> None:
        path = self.folder / "result.json"
        if not self.finished:
            self.report.notes.append("there is no result.json: the run did not finish")
            return
        try:
            result = read_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            self.find(None, None, "result", "file", "readable JSON", "none", f"result.json is damaged: {error}")
            return
        domain = self.meta.domain
        updates = sum(len(entry.updates) for entry in self.rounds.values())
        expected = {
            "model_hash": self.last_model(),
            "config_hash": self.meta.federation.config_hash,
            "ledger.head": self.last_head(),
            "ledger.contract": domain.contract,
            "ledger.chain_id": domain.chain_id,
            "ledger.backend": self.meta.backend.get("name"),
            "ledger.updates": updates,
            "ledger.rounds": len(self.rounds),
        }
        for name, value in expected.items():
            found: Any = result
            for key in name.split("."):
                found = found.get(key, _ABSENT) if isinstance(found, Mapping) else _ABSENT
            if found is _ABSENT:
                self.report.notes.append(f"result.json has no {name} to compare")
                continue
            self.count("results")
            same = _plain_hex(found) == value.hex() if isinstance(value, bytes) else found == value
            if not same:
                message = f"{name} in result.json is not what the ledger holds"
                self.find(None, None, "result", name, value, found, message)

    # --- Small parts --------------------------------------------------------------------------------------------------

    def last_model(self) -> bytes:
        return self.rounds[max(self.rounds)].model if self.rounds else self.meta.federation.genesis_model

    def last_head(self) -> bytes:
        if self.rounds:
            return self.rounds[max(self.rounds)].head
        return genesis_head(self.meta.domain, self.meta.federation)

    def count(self, name: str) -> None:
        self.report.counts[name] = self.report.counts.get(name, 0) + 1

    def find(
        self, round: int | None, hospital: Any, record: str, field: str, expected: Any, found: Any, message: str
    ) -> None:
        slot = hospital if type(hospital) is int else None
        self.report.findings.append(Finding(round, slot, record, field, _text(expected), _text(found), message))


_ABSENT = object()


def _record(update: _Update) -> UpdateRecord:
    assert update.signed is not None
    return update.signed.record


def _is_hash(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) == 32


def _plain_hex(value: Any) -> str | None:
    return value.lower().removeprefix("0x") if isinstance(value, str) else None


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        text = "0x" + value.hex()
    else:
        text = "nothing" if value is None else str(value)
    return text if len(text) <= 200 else text[:197] + "..."


def _place(finding: Finding) -> str:
    parts = [] if finding.round is None else [f"round {finding.round}"]
    if finding.hospital is not None:
        parts.append(f"hospital {finding.hospital}")
    return ", ".join([*parts, f"{finding.record}.{finding.field}"])
