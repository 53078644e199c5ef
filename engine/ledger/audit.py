"""Recompute everything that the ledger of a run claims, from the folder of the run or from its bundle alone.

Every link is checked against its neighbours as they are recorded (leaf against record, root against leaves, head against the head before),
so one changed value gives findings where it is and not in every round after it. Together the links reach from the signatures of the
hospitals to the head on the chain and to the final model. Hashes, trees and signatures are computed by `verify`, which shares no code
with what wrote them; the transactions are executed again on an empty chain.

What an audit of one copy cannot see: whoever holds all hospital keys can write a different history that is consistent in itself.
Every hospital signs the head before it; `compare` holds two copies against each other, and the tracker keeps the head, too.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from engine.aggregation.mean import weighted_mean
from engine.encoding import canonical_json, read_json
from engine.errors import LedgerError, PulseLedgerError
from engine.ledger import policy, verify
from engine.ledger.chain import (
    Chain,
    EmbeddedChain,
    RpcChain,
    artefact_digest,
    call_arguments,
    created_contract,
    decode_transaction,
    is_deployed,
    query,
)
from engine.ledger.evidence import Evidence
from engine.ledger.journal import FORMAT, GOVERNED, RULE, ChainReceipt, receipt_from_json
from engine.ledger.records import (
    FIELDS,
    NO_ROUND,
    Domain,
    Federation,
    KeyRotation,
    ModelUpdate,
    PeerScore,
    Record,
    SyntheticReport,
    SyntheticRequest,
    SyntheticReview,
    domain_from_json,
    federation_from_json,
    opening_from_json,
    solidity_name,
    verdicts_from_json,
)
from engine.ledger.reputation import BASE, accepted_of, earned, peer_scores, reward_leaf, step, verdicts, words

_ZERO = bytes(32)
_RECORDS: dict[str, type[Record]] = {
    "request": SyntheticRequest,
    "review": SyntheticReview,
    "report": SyntheticReport,
}
R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it must be.

    Attributes:
        round: number of the round, None if it concerns the whole run.
        hospital: slot of the hospital, None if it concerns no single one.
        record: where it is: update, opening, receipt, head, rotation, scores, round, synthetic, transaction, chain, archive, bundle,
            meta, model, result or equivocation.
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
    """A row of the journal whose values have the right types, and what belongs to it."""

    parent_model: bytes = _ZERO
    model: bytes = _ZERO
    count: int = -1
    root: bytes = _ZERO
    scores_root: bytes = _ZERO
    decisions: bytes = _ZERO
    head: bytes = _ZERO
    updates: dict[int, "_Update"] = field(default_factory=dict)
    verdicts: list[Any] = field(default_factory=list)
    peers: list[PeerScore] = field(default_factory=list)


@dataclass
class _Update:
    """What the checks of a round need of an update; `record` is None where it cannot be read."""

    leaf: bytes | None = None
    record: ModelUpdate | None = None
    signature: bytes = b""
    samples: int | None = None


@dataclass
class _Transaction:
    seq: int
    purpose: Any
    round: Any
    raw: bytes
    receipt: ChainReceipt | None
    function: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    to: str | None = None

    @property
    def succeeded(self) -> bool:
        return self.receipt is not None and self.receipt.status == 1


def audit(path: Path) -> AuditReport:
    """Recompute a run's ledger from its folder or its bundle. Nothing is changed.

    Raises:
        LedgerError: there is neither, or a file is so damaged that no journal can be read from it.
    """
    with Evidence(Path(path)) as evidence:
        return _Audit(evidence).run()


def compare(path: Path, other: Path) -> AuditReport:
    """Hold two copies of a run against each other: what one signer signed twice, in two versions, is proof against it.

    Raises:
        LedgerError: a copy cannot be read.
    """
    report = AuditReport()
    with Evidence(Path(path)) as here, Evidence(Path(other)) as there:
        first, second = _Audit(here), _Audit(there)
        if not (first.read() and second.read()):
            report.findings += first.report.findings + second.report.findings
            return report
        if first.federation.id != second.federation.id or first.domain != second.domain:
            report.notes.append("the two belong to different federations or contracts, nothing can contradict")
            return report
        both = sorted(first.rounds.keys() & second.rounds.keys())
        report.counts = {"rounds": len(both), "updates": 0}
        for number in both:
            _compare_round(report, number, first, second)
        for number in sorted(first.rounds.keys() ^ second.rounds.keys()):
            report.notes.append(f"round {number} is in one copy only")
        report.head = _text(first.last_head())
    return report


def _compare_round(report: AuditReport, number: int, first: "_Audit", second: "_Audit") -> None:
    a, b = first.rounds[number], second.rounds[number]
    for slot in sorted(a.updates.keys() & b.updates.keys()):
        one, two = a.updates[slot], b.updates[slot]
        report.counts["updates"] += 1
        if one.record is None or two.record is None or one.record == two.record:
            continue
        if first.signed_by_holder(number, slot, one) and second.signed_by_holder(number, slot, two):
            message = "the hospital signed two different updates for one round"
            leaves = (_text(one.leaf), _text(two.leaf))
            report.findings.append(Finding(number, slot, "equivocation", "update", *leaves, message))
    if a.head != b.head:
        message = "the coordinator sealed the round in two versions"
        report.findings.append(Finding(number, None, "equivocation", "head", _text(a.head), _text(b.head), message))


class _Audit:
    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.folder = evidence.folder
        self.report = AuditReport()
        self.finished = self.folder is None or (self.folder / "result.json").exists()
        self.rounds: dict[int, _Round] = {}
        self.rotations: list[tuple[int, KeyRotation]] = []  # by round
        self.transactions: list[_Transaction] = []
        self.books = policy.Books()
        self.reviews: dict[bytes, SyntheticReview] = {}  # by request, as are reports
        self.reports: dict[bytes, SyntheticReport] = {}
        self.chains: list[bytes] = [_ZERO]  # values of the chain of decisions
        self.synthetic: Domain | None = None
        self.coordinator = ""
        self.opens = 0  # rounds recorded, but not answered by the chain before the run stopped

    def run(self) -> AuditReport:
        if self.read():
            for number in sorted(self.rounds):
                self.check_round(number)
            self.check_receipts()
            self.check_heads()
            self.check_reputation()
            self.check_transactions()
            self.check_chain()
            self.check_archive()
            self.check_model()
            self.check_result()
            self.check_synthetic_files()
            self.report.head = _text(self.last_head())
        for record, name, expected, found, message in self.evidence.problems:
            self.find(None, None, record, name, expected, found, message)
        self.report.counts = {
            "rounds": len(self.rounds),
            "updates": sum(len(entry.updates) for entry in self.rounds.values()),
            "transactions": len(self.transactions),
            **self.report.counts,
        }
        return self.report

    # --- Reading rows -------------------------------------------------------------------------------------------------

    def read(self) -> bool:
        """Read the journal; False if it does not say what it belongs to."""
        if not self.read_meta():
            return False
        self.read_rounds()
        self.read_updates()
        self.read_openings()
        self.read_transactions()
        self.read_rotations()
        self.read_scores()
        self.read_peers()
        self.read_synthetic()
        return True

    def read_meta(self) -> bool:
        values = {row["key"]: row["value"] for row in self.evidence.rows("meta") if isinstance(row["key"], str)}
        unknown = sorted(values.keys() - {"format", "federation", "domain", "backend", "rule"})
        for key in unknown:
            self.find(
                None, None, "meta", key, None, values[key], "the journal says something that its format does not know"
            )
        if values.get("format") != str(FORMAT):
            self.find(None, None, "meta", "format", FORMAT, values.get("format"), "the journal has another format")
            return False
        try:
            what = "federation"
            self.federation: Federation = federation_from_json(values.get("federation", ""))
            what = "domain"
            self.domain: Domain = domain_from_json(values.get("domain", ""))
            what = "backend"
            self.backend = read_json(values.get("backend", ""))
            if not isinstance(self.backend, dict):
                raise ValueError("not an object")
        except (LedgerError, ValueError, TypeError) as error:
            self.find(None, None, "meta", what, f"a readable {what}", values.get(what), str(error))
            return False
        self.rule = values.get("rule")
        if self.rule != RULE:
            message = "updates were added up by a rule that this version does not know"
            self.find(None, None, "meta", "rule", RULE, self.rule, message)
        slots = len(self.federation.hospitals)
        leaves = [
            verify.registry_leaf(s, self.federation.hospitals[s], self.federation.organisations[s])
            for s in range(slots)
        ]
        self.registry = verify.tree_root(leaves)
        fixed = (self.federation.id, self.federation.config_hash, self.registry, self.federation.genesis_model)
        where = (self.domain.chain_id, self.domain.contract)
        self.genesis_head = verify.first_head(*where, *fixed, slots, self.federation.quorum)
        return True

    def read_rounds(self) -> None:
        for row in self.evidence.rows("rounds"):
            number = row["round"]
            if type(number) is not int:
                self.find(None, None, "round", "round", "an integer", number, "a round has no number")
                continue
            if number in self.rounds:
                self.find(number, None, "round", "round", "one", "two", "the round is there twice")
                continue
            # Zeros take the place of what cannot be read; the links around it then say what is missing.
            entry = self.rounds[number] = _Round()
            for name in ("parent_model", "model", "root", "scores_root", "decisions", "head"):
                value = _hash(row[name])
                if value is None:
                    self.find(number, None, "round", name, "32 bytes", row[name], f"{name} of the round is damaged")
                else:
                    setattr(entry, name, value)
            if type(row["count"]) is int:
                entry.count = row["count"]
            else:
                self.find(number, None, "round", "count", "an integer", row["count"], "count of the round is damaged")
        for number in [n for n in self.rounds if n < 1]:
            self.find(number, None, "round", "round", "1 or more", number, "there is no such round")
            del self.rounds[number]
        # A gap is told once: a number that somebody wrote may be as large as he likes.
        for before, number in pairwise([0, *sorted(self.rounds)]):
            if number != before + 1:
                last = "" if number == before + 2 else f" to {number - 1}"
                message = f"round {before + 1}{last} is missing from the journal"
                self.find(before + 1, None, "round", "round", before + 1, None, message)

    def read_updates(self) -> None:
        for row in self.evidence.rows("updates"):
            place = self.place(row, "update")
            if place is None:
                continue
            number, slot = place
            if slot in self.rounds[number].updates:
                self.find(number, slot, "update", "slot", "one update", "two", "the hospital appears twice")
                continue
            update = self.rounds[number].updates[slot] = _Update(_hash(row["leaf"]))
            if update.leaf is None:
                self.find(number, slot, "update", "leaf", "32 bytes", row["leaf"], "the leaf is damaged")
            update.signature = _bytes(row["signature"])
            if len(update.signature) != 65:
                message = "the signature is damaged"
                self.find(number, slot, "update", "signature", "65 bytes", row["signature"], message)
            update.record = self.record(ModelUpdate, row["record"], number, slot, "update")

    def read_openings(self) -> None:
        for number, slot, row, update in self.rows_of_updates("openings", "opening"):
            try:
                opening = opening_from_json(row["opening"])
                metrics = canonical_json(opening.metrics).encode()
                privacy = None if opening.privacy is None else canonical_json(opening.privacy).encode()
            except (LedgerError, ValueError, TypeError) as error:
                message = f"the opening is damaged: {error}"
                self.find(number, slot, "opening", "opening", "a readable opening", row["opening"], message)
                continue
            update.samples = opening.samples
            if update.record is None:
                continue
            self.count("openings")
            values = {
                "samples": verify.commitment(opening.samples_salt, opening.samples),
                "metrics": verify.commitment(opening.metrics_salt, verify.sha256(metrics)),
                "privacy": _ZERO if privacy is None else verify.sha256(privacy),
            }
            for name, value in values.items():
                if value != getattr(update.record, name):
                    message = f"the opening is not what the hospital committed to as {name}"
                    self.find(number, slot, "opening", name, getattr(update.record, name), value, message)

    def read_rotations(self) -> None:
        for row in self.evidence.rows("rotations"):
            slot = row["slot"] if type(row["slot"]) is int else None
            number = row["round"] if type(row["round"]) is int else None
            rotation = self.record(KeyRotation, row["record"], number, slot, "rotation")
            if rotation is None:
                continue
            expected = {"federation": self.federation.id, "slot": row["slot"], "round": row["round"]}
            for name, value in expected.items():
                if getattr(rotation, name) != value:
                    message = f"{name} of the rotation is not that of its row"
                    self.find(number, slot, "rotation", name, value, getattr(rotation, name), message)
            if not 0 <= rotation.slot < len(self.federation.hospitals):
                continue
            before = self.holder(rotation.slot, NO_ROUND)
            if rotation.from_ != before:
                message = "the rotation leaves a key that does not hold the slot"
                self.find(number, slot, "rotation", "from_", before, rotation.from_, message)
            digest = self.digest(rotation, self.domain)
            for name, address in (("old_signature", rotation.from_), ("new_signature", rotation.to)):
                self.check_signature(number, slot, "rotation", name, digest, _bytes(row[name]), address)
            sent = [t for t in self.transactions if t.purpose == "rotate" and t.succeeded and t.round == row["round"]]
            if not any(t.arguments.get("rotation", {}).get("slot") == rotation.slot for t in sent):
                message = "the rotation was never shown to the contract"
                self.find(number, slot, "rotation", "transaction", "one", None, message)
            self.rotations.append((rotation.round, rotation))
            self.count("rotations")

    def read_scores(self) -> None:
        for row in self.evidence.rows("scores"):
            number = row["round"]
            if type(number) is not int or number not in self.rounds:
                self.find(
                    None, None, "scores", "round", "a recorded round", number, "verdicts belong to no recorded round"
                )
                continue
            try:
                self.rounds[number].verdicts.append(verdicts_from_json(row["verdicts"]))
            except LedgerError as error:
                message = f"the verdicts are damaged: {error}"
                self.find(number, None, "scores", "verdicts", "readable verdicts", row["verdicts"], message)

    def read_peers(self) -> None:
        for row in self.evidence.rows("peers"):
            place = self.place(row, "scores")
            if place is None:
                continue
            number, slot = place
            values = [row[name] for name in ("judge", "correct", "total")]
            known = all(type(value) is int and 0 <= value < 1 << 63 for value in values)
            entry = self.rounds[number]
            if not known or values[1] > values[2] or values[0] == slot or not {slot, values[0]} <= entry.updates.keys():
                message = "a score is damaged, or no hospital of the round can have given it"
                self.find(number, slot, "scores", "peers", "a share of a judge's beats", values, message)
            if known:
                entry.peers.append(PeerScore(slot, *values))
            self.count("peer scores")

    def read_transactions(self) -> None:
        for position, row in enumerate(self.evidence.rows("transactions"), start=1):
            seq, where = row["seq"], row["round"] if type(row["round"]) is int else None
            raw = _bytes(row["raw"])
            if seq != position:
                message = "the transactions are not numbered without a gap"
                self.find(where, None, "transaction", "seq", position, seq, message)
            if not raw:
                self.find(where, None, "transaction", "raw", "bytes", row["raw"], f"transaction {seq} is damaged")
                continue
            identity = verify.keccak256(raw)
            if _hash(row["hash"]) != identity:
                message = f"transaction {seq} is not the one that was recorded"
                self.find(where, None, "transaction", "hash", identity, row["hash"], message)
            receipt = None
            if row["receipt"] is not None:
                try:
                    receipt = receipt_from_json(row["receipt"])
                    if receipt.transaction != "0x" + identity.hex():
                        message = f"the receipt of transaction {seq} belongs to another one"
                        self.find(where, None, "transaction", "receipt", identity, receipt.transaction, message)
                except LedgerError as error:
                    self.find(where, None, "transaction", "receipt", "a readable receipt", row["receipt"], str(error))
            transaction = _Transaction(position, row["purpose"], row["round"], raw, receipt)
            self.transactions.append(transaction)
            self.read_call(transaction, where)

    def read_call(self, transaction: _Transaction, where: int | None) -> None:
        """Decode what a transaction asks of which contract."""
        try:
            content = decode_transaction(transaction.raw)
            sender = verify.sender(transaction.raw) if transaction.purpose in ("open", "deploy-synthetic") else ""
        except (LedgerError, ValueError) as error:
            self.find(where, None, "transaction", "raw", "a signed transaction", transaction.raw, str(error))
            return
        if content["chain_id"] != self.domain.chain_id:
            message = f"transaction {transaction.seq} is signed for another chain"
            self.find(where, None, "transaction", "chain_id", self.domain.chain_id, content["chain_id"], message)
        transaction.to = content["to"]
        if transaction.purpose in ("deploy", "deploy-synthetic"):
            contract = "SyntheticLedger" if transaction.purpose == "deploy-synthetic" else "RoundLedger"
            code = _code(contract)
            if content["data"][: len(code)] != code:
                hashes = (verify.keccak256(code), verify.keccak256(content["data"][: len(code)]))
                self.find(0, None, "transaction", "bytecode", *hashes, f"{contract} was created from other code")
            if transaction.purpose == "deploy-synthetic" and transaction.succeeded:
                self.synthetic = Domain(self.domain.chain_id, created_contract(sender, transaction.raw))
            return
        if transaction.purpose == "open":
            self.coordinator = sender
        governed = transaction.purpose in GOVERNED
        try:
            contract = "SyntheticLedger" if governed else "RoundLedger"
            transaction.function, transaction.arguments = call_arguments(content["data"], contract)
        except LedgerError as error:
            self.find(where, None, "transaction", "function", "a call of the contract", content["data"][:4], str(error))

    def read_synthetic(self) -> None:
        """Go through all requests, reviews and reports in their order and decide them again."""
        for position, row in enumerate(self.evidence.rows("synthetic"), start=1):
            kind = row["kind"]
            if row["seq"] != position:
                message = "the steps of governance are not numbered without a gap"
                self.find(None, None, "synthetic", "seq", position, row["seq"], message)
            if kind not in GOVERNED:
                self.find(
                    None, None, "synthetic", "kind", ", ".join(GOVERNED), kind, "the step of governance is unknown"
                )
                continue
            sent = [t for t in self.transactions if t.purpose == kind]
            try:
                if kind in _RECORDS:
                    self.read_signed_step(kind, row, sent)
                else:
                    self.read_step(kind, row, sent)
            except LedgerError as error:
                message = f"the contract could not have taken this {kind}: {error}"
                self.find(None, None, "synthetic", kind, "a step that is possible", row["id"], message)
            self.count("governance")
            self.chains.append(self.books.decisions)

    def read_step(self, kind: str, row: dict[str, Any], sent: list[_Transaction]) -> None:
        identity = _hash(row["id"])
        try:
            content = read_json(row["record"])
            if not isinstance(content, dict):
                raise ValueError("not an object")
        except ValueError as error:
            message = f"the {kind} is damaged: {error}"
            self.find(None, None, "synthetic", "record", "readable JSON", row["record"], message)
            return
        for name in ("signature", "sender"):
            if row[name] is not None:
                self.find(None, None, "synthetic", name, None, row[name], f"a {kind} has no {name}")
        matching = [t for t in sent if t.succeeded and _asked(kind, t.arguments) == _flat(content)]
        if not matching:
            message = f"no transaction shows this {kind} to the contract"
            self.find(None, None, "synthetic", "record", "a transaction with the same values", content, message)
        if kind == "policy":
            version = len(self.books.policies) + 1
            expected = verify.sha256(canonical_json({"version": version, "policy": content}).encode())
            try:
                self.books.policies.append(policy.from_contract(content))
            except (KeyError, TypeError, ValueError):
                message = "the policy lacks a value"
                self.find(None, None, "synthetic", "record", "all values of a policy", content, message)
        elif kind == "reviewer":
            expected = _address_word(content.get("account"))
        else:
            expected = _hash(content.get("request")) or _ZERO
            self.books.expire(expected)
        if identity != expected:
            self.find(None, None, "synthetic", "id", expected, row["id"], f"the id is not that of the {kind}")

    def read_signed_step(self, kind: str, row: dict[str, Any], sent: list[_Transaction]) -> None:
        record = self.record(_RECORDS[kind], row["record"], None, None, "synthetic")
        if record is None:
            return
        if self.synthetic is None:
            raise LedgerError("there is no contract for it")
        digest = self.digest(record, self.synthetic)
        signature = _bytes(row["signature"])
        if isinstance(record, SyntheticRequest):
            identity = digest
            slot: int | None = record.slot
            if record.federation != self.federation.id:
                message = "the request belongs to another federation"
                self.find(None, slot, "synthetic", "federation", self.federation.id, record.federation, message)
        else:
            identity = record.request  # type: ignore[attr-defined]
            standing = self.books.requests.get(identity)
            slot = standing.request.slot if standing is not None else None
        if _hash(row["id"]) != identity:
            self.find(None, slot, "synthetic", "id", identity, row["id"], f"the id is not that of the {kind}")
        if kind == "review":
            if not isinstance(row["sender"], str):
                self.find(
                    None, slot, "synthetic", "sender", "an address", row["sender"], "the review names no reviewer"
                )
            signer = row["sender"]
        else:
            if row["sender"] is not None:
                self.find(None, slot, "synthetic", "sender", None, row["sender"], f"a {kind} names no sender")
            signer = self.holder(slot, NO_ROUND) if slot is not None and slot < len(self.federation.hospitals) else None
        self.check_signature(None, slot, "synthetic", "signature", digest, signature, signer)
        values = _values(record)
        if not any(t.succeeded and t.arguments.get(kind) == values for t in sent):
            message = f"no transaction shows this {kind} to the contract"
            self.find(None, slot, "synthetic", "record", "a transaction with the same values", row["record"], message)
        if isinstance(record, SyntheticRequest):
            self.books.request(identity, record)
        elif isinstance(record, SyntheticReview):
            self.books.review(identity, record, digest)
            self.reviews[identity] = record
        elif isinstance(record, SyntheticReport):
            self.books.report(identity, record, digest)
            self.reports[identity] = record

    # --- Rounds -------------------------------------------------------------------------------------------------------

    def check_round(self, number: int) -> None:
        entry, federation = self.rounds[number], self.federation
        slots = len(federation.hospitals)
        for slot, update in sorted(entry.updates.items()):
            if update.record is not None:
                self.check_update(number, slot, entry, update, update.record)

        before = self.rounds.get(number - 1)
        known = before is not None or number == 1
        if known:
            parent = self.model_before(number)
            if entry.parent_model != parent:
                message = "the round does not start from the model that the round before ended with"
                self.find(number, None, "round", "parent_model", parent, entry.parent_model, message)
        if federation.weighting == "none" and entry.model != entry.parent_model:
            message = "the model changed in a federation that does not aggregate"
            self.find(number, None, "round", "model", entry.parent_model, entry.model, message)
        if entry.count != len(entry.updates):
            message = "the number of updates is not the recorded one"
            self.find(number, None, "round", "count", len(entry.updates), entry.count, message)
        if len(entry.updates) < federation.quorum:
            message = "the round has fewer updates than its quorum"
            self.find(number, None, "round", "quorum", federation.quorum, len(entry.updates), message)

        leaves = [verify.EMPTY_SLOT] * slots
        for slot, update in entry.updates.items():
            leaves[slot] = update.leaf or verify.EMPTY_SLOT
        tree_root = verify.tree_root(leaves)
        if tree_root != entry.root:
            message = "the tree over the recorded leaves has another root"
            self.find(number, None, "round", "root", tree_root, entry.root, message)
        self.check_verdicts(number, entry)
        if entry.decisions not in self.chains:
            message = "the chain of decisions never had this value"
            self.find(number, None, "round", "decisions", self.chains[-1], entry.decisions, message)
        if known and 0 <= entry.count < 1 << 32:
            head = before.head if before is not None else self.genesis_head
            head = verify.following_head(
                head,
                self.domain.chain_id,
                self.domain.contract,
                federation.id,
                number,
                entry.root,
                entry.parent_model,
                entry.model,
                entry.count,
                entry.scores_root,
                entry.decisions,
            )
            if head != entry.head:
                message = "the head does not follow from the head before it and this round"
                self.find(number, None, "round", "head", head, entry.head, message)

    def check_update(self, number: int, slot: int, entry: _Round, update: _Update, record: ModelUpdate) -> None:
        before = self.rounds.get(number - 1)
        expected: dict[str, Any] = {
            "schema": 2,
            "federation": self.federation.id,
            "round": number,
            "slot": slot,
            "parent_model": entry.parent_model,
            "parent_head": before.head if before is not None else self.genesis_head,
            "config_hash": self.federation.config_hash,
        }
        for name, value in expected.items():
            found = getattr(record, name)
            if found != value:
                message = f"{name} of the signed record is not that of the run"
                self.find(number, slot, "update", name, value, found, message)
        self.count("signatures")
        digest = self.digest(record, self.domain)
        self.check_signature(number, slot, "update", "signature", digest, update.signature, self.holder(slot, number))
        leaf = verify.update_leaf(_values(record), update.signature, self.domain.chain_id, self.domain.contract)
        if update.leaf is not None and leaf != update.leaf:
            message = "the leaf is not the hash of the record and its signature"
            self.find(number, slot, "update", "leaf", leaf, update.leaf, message)

    def check_verdicts(self, number: int, entry: _Round) -> None:
        leaves = [
            verify.verdicts_leaf(number, one.index, one.participated, one.accepted, one.threshold)
            for one in entry.verdicts
        ]
        if entry.peers:
            leaves.append(verify.peers_leaf(number, [(p.slot, p.judge, p.correct, p.total) for p in entry.peers]))
            try:
                accepted = verdicts(peer_scores(entry.peers))
            except LedgerError:
                accepted = {}  # told above: a hospital judged itself
            level = entry.verdicts[0].threshold if entry.verdicts else 0
            expected = words(accepted, level)
            if tuple(entry.verdicts) != expected:
                message = "the verdicts do not follow from the scores of the other hospitals"
                self.find(number, None, "scores", "verdicts", expected, tuple(entry.verdicts), message)
        scores = verify.paired_root(leaves)
        if scores != entry.scores_root:
            message = "the tree over the recorded verdicts has another root"
            self.find(number, None, "round", "scores_root", scores, entry.scores_root, message)
        if not entry.verdicts:
            return
        judged = set(accepted_of(entry.verdicts))
        if judged != set(entry.updates):
            message = "verdicts were not given on exactly the updates of the round"
            self.find(number, None, "scores", "participated", sorted(entry.updates), sorted(judged), message)
        for one in entry.verdicts:
            if one.accepted & ~one.participated:
                message = "an update was accepted that there is not"
                self.find(number, None, "scores", "accepted", one.participated, one.accepted, message)

    def check_receipts(self) -> None:
        seen = set()
        for number, slot, row, update in self.rows_of_updates("receipts", "receipt"):
            seen.add((number, slot))
            if update.leaf is None:
                continue
            self.count("receipts")
            values = {"federation": self.federation.id, "round": number, "slot": slot, "leaf": update.leaf}
            digest = verify.typed_digest("Receipt", values, self.domain.chain_id, self.domain.contract)
            self.check_signature(
                number, slot, "receipt", "signature", digest, _bytes(row["signature"]), self.coordinator
            )
        for number, entry in self.rounds.items():
            for slot in entry.updates:
                if (number, slot) not in seen:
                    self.find(number, slot, "receipt", "signature", "a receipt", None, "the update has no receipt")

    def check_heads(self) -> None:
        """The last head has no update after it that names it; hospitals sign it by itself."""
        last, signed = max(self.rounds, default=0), set()
        for row in self.evidence.rows("heads"):
            number, slot = row["round"], row["slot"]
            known = number == 0 or (type(number) is int and number in self.rounds)
            if not known or type(slot) is not int or not 0 <= slot < len(self.federation.hospitals):
                where = number if type(number) is int else None
                field_ = "slot" if known else "round"
                message = "a signature under a head belongs to no hospital or round"
                self.find(where, slot, "head", field_, "one of the run", row[field_], message)
                continue
            head = self.rounds[number].head if number else self.genesis_head
            values = {"federation": self.federation.id, "round": number, "slot": slot, "head": head}
            digest = verify.typed_digest("RoundHead", values, self.domain.chain_id, self.domain.contract)
            signer = self.holder(slot, number)
            if self.check_signature(number, slot, "head", "signature", digest, _bytes(row["signature"]), signer):
                self.count("co-signatures")
                if number == last:
                    signed.add(slot)
        missing = len(self.federation.hospitals) - len(signed)
        if self.rounds and missing and self.finished:
            self.report.notes.append(f"the last head lacks the signatures of {missing} hospitals")

    # --- Transactions and chain ---------------------------------------------------------------------------------------

    def check_transactions(self) -> None:
        """Compare what each transaction says with the rows that it belongs to."""
        federation, sealed = self.federation, 0
        for transaction in self.transactions:
            number = transaction.round if type(transaction.round) is int else None
            purpose = transaction.purpose
            about = _round_of(transaction, sealed)
            if about is not None and about != transaction.round:
                message = f"transaction {transaction.seq} is about another round"
                self.find(about, None, "transaction", "round", about, transaction.round, message)
            if purpose == "seal" and transaction.succeeded and number is not None:
                sealed = number
            if purpose in ("deploy", "deploy-synthetic"):
                continue
            target = self.synthetic.contract if purpose in GOVERNED and self.synthetic else self.domain.contract
            if transaction.to != target:
                message = f"transaction {transaction.seq} goes to another contract"
                self.find(number, None, "transaction", "to", target, transaction.to, message)
            function = _FUNCTIONS.get(purpose)
            expected: dict[str, Any] = {}
            if function is None:
                message = f"transaction {transaction.seq} has no known purpose"
                self.find(number, None, "transaction", "purpose", ", ".join(_FUNCTIONS), purpose, message)
                continue
            if transaction.function and transaction.function != function:
                message = "the transaction calls something else"
                self.find(number, None, "transaction", "function", function, transaction.function, message)
                continue
            if purpose not in (*GOVERNED, "rotate", "submit", "grant"):
                expected["federation"] = federation.id
            if purpose == "open":
                expected |= {
                    "configHash": federation.config_hash,
                    "registryRoot": self.registry,
                    "genesisModel": federation.genesis_model,
                    "slots": len(federation.hospitals),
                    "quorum": federation.quorum,
                    "window": federation.window,
                }
            elif purpose == "finalize":
                if transaction.arguments.get("rewardsRoot") not in (_ZERO, None):
                    expected["rewardsRoot"] = self.rewards_root(sealed)
            elif purpose == "open-round":
                expected["round"] = number
            elif purpose in ("seal", "reputation", "dispute", "resolve"):
                expected["header"] = self.header(number)
                if expected["header"] is None:
                    message = f"transaction {transaction.seq} is about a round that the journal does not hold"
                    self.find(number, None, "round", "round", transaction.round, None, message)
                    continue
            self.compare_call(number, expected, transaction.arguments)
        for number in sorted(self.rounds):
            self.check_seal(number)
        if sum(t.purpose == "open" and t.succeeded for t in self.transactions) != 1 and self.rounds:
            message = "the federation must have been opened exactly once"
            self.find(0, None, "transaction", "purpose", "one open", "none or several", message)

    def header(self, number: int | None) -> dict[str, Any] | None:
        if number is None or number not in self.rounds:
            return None
        entry, before = self.rounds[number], self.rounds.get(number - 1)
        return {
            "round": number,
            "previousHead": before.head if before is not None else self.genesis_head,
            "root": entry.root,
            "parentModel": entry.parent_model,
            "model": entry.model,
            "count": entry.count,
            "scoresRoot": entry.scores_root,
            "decisions": entry.decisions,
        }

    def compare_call(self, number: int | None, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Name the argument of a call that differs from the journal."""
        for name, value in expected.items():
            there = found.get(name)
            if isinstance(value, Mapping):
                self.compare_call(number, value, there if isinstance(there, Mapping) else {})
            elif there != value:
                message = f"{name} in the transaction is not the recorded one"
                self.find(number, None, "transaction", name, value, there, message)

    def check_seal(self, number: int) -> None:
        attempts = self.seals.get(number, [])
        succeeded = sum(t.succeeded for t in attempts)
        if succeeded == 1:
            return
        if not succeeded and attempts and number == max(self.rounds) and not self.finished:
            self.opens = 1
            self.report.notes.append(f"round {number} is recorded, but the run stopped before the chain had answered")
            return
        message = "the round must have exactly one successful transaction"
        self.find(number, None, "transaction", "receipt", 1, succeeded, message)

    def check_chain(self) -> None:
        backend = self.backend.get("name")
        chain: Chain | None = None
        try:
            if backend == "embedded":
                chain = EmbeddedChain()
                if not self.replay(chain):
                    return
            elif backend == "rpc":
                try:
                    chain = RpcChain(str(self.backend.get("url")))
                except LedgerError as error:
                    self.report.notes.append(f"the chain was not compared: {error}")
                    return
            else:
                self.find(None, None, "meta", "backend", "embedded or rpc", backend, "the back end is unknown")
                return
            try:
                self.compare_chain(chain)
            except LedgerError as error:
                message = f"the contract does not answer: {error}"
                self.find(None, None, "chain", "contract", "an answer", "none", message)
        finally:
            if chain is not None:
                chain.close()

    def replay(self, chain: Chain) -> bool:
        """Execute the recorded transactions again on an empty chain."""
        for transaction in self.transactions:
            number = transaction.round if type(transaction.round) is int else None
            try:
                chain.send(transaction.raw)
            except LedgerError as error:
                message = f"transaction {transaction.seq} cannot be executed again: {error}"
                self.find(number, None, "chain", "transaction", "execution", "refusal", message)
                self.report.notes.append("the head on the chain was not compared, as the execution stopped before it")
                return False
            self.count("re-executed")
            receipt = chain.receipt(verify.keccak256(transaction.raw))
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
        federation, domain = self.federation, self.domain
        if chain.chain_id != domain.chain_id:
            message = "the chain is not the one that the run was sealed on"
            self.find(None, None, "chain", "chain_id", domain.chain_id, chain.chain_id, message)
            return
        if not is_deployed(chain.code(domain.contract)):
            message = "the code of the contract is not this version's"
            self.find(None, None, "chain", "code", "RoundLedger", "other code", message)
            return
        state = query(chain, domain.contract, "federationState", federation.id)
        last = max(self.rounds, default=0)
        if self.opens and state["progress"]["round"] == last - 1:
            last -= 1
        expected = {
            "head": self.rounds[last].head if last in self.rounds else self.genesis_head,
            "model": self.model_before(last + 1),
            "configHash": federation.config_hash,
            "registryRoot": self.registry,
            "round": last,
        }
        for name, value in expected.items():
            there = (state | state["progress"])[name]
            if there != value:
                message = f"journal and chain disagree on {name}; expected is the chain, found the journal"
                self.find(last, None, "chain", name, there, value, message)
        self.compare_governance(chain)
        self.compare_reputation(chain)

    def compare_governance(self, chain: Chain) -> None:
        if self.synthetic is None:
            return
        contract, identity = self.synthetic.contract, self.federation.id
        decisions = query(chain, contract, "decisions", identity, contract="SyntheticLedger")
        if decisions != self.books.decisions:
            message = "journal and chain disagree on the decisions; expected is the chain, found the journal"
            self.find(None, None, "synthetic", "decisions", decisions, self.books.decisions, message)
        for (slot, class_), counted in sorted(self.books.used.items()):
            self.count("quotas")
            used = query(chain, contract, "used", identity, slot, class_, contract="SyntheticLedger")
            if used != counted:
                message = f"journal and chain disagree on the quota of class {policy.CLASSES[class_]}"
                self.find(None, slot, "synthetic", "used", used, counted, message)

    def check_reputation(self) -> None:
        """Recompute all reputations from the recorded verdicts, in order."""
        self.reputation: dict[int, int] = {}
        shown = {t.round for t in self.transactions if t.purpose == "reputation" and t.succeeded}
        self.applied: dict[int, int] = {}
        self.rewards: dict[int, dict[int, int]] = {}  # by round, cumulative
        earlier: dict[int, int] = {}
        for number in sorted(self.rounds):
            given = self.rounds[number].verdicts
            slots = [16 * one.index + bit for one in given for bit in range(16) if one.participated >> bit & 1]
            if not slots:
                continue
            self.count("verdicts")
            level = sum(self.reputation.get(slot, BASE) for slot in slots) // len(slots)
            for one in given:
                if one.threshold != level:
                    message = "the threshold is not the mean reputation of the hospitals in the round"
                    self.find(number, None, "scores", "threshold", level, one.threshold, message)
                for slot in (s for s in slots if s // 16 == one.index):
                    good = bool(one.accepted >> slot % 16 & 1)
                    self.reputation[slot] = step(self.reputation.get(slot, BASE), good, one.threshold)
                    if number in shown:
                        self.applied[slot] = self.reputation[slot]
            earlier = self.rewards[number] = earned(earlier, self.reputation, accepted_of(given))

    def rewards_root(self, number: int) -> bytes:
        """Root over the cumulative rewards after a round, recomputed."""
        earlier = [n for n in self.rewards if n <= number]
        rewards = self.rewards[max(earlier)] if earlier else {}
        return verify.paired_root([reward_leaf(slot, rewards[slot]) for slot in sorted(rewards)])

    def compare_reputation(self, chain: Chain) -> None:
        for slot, value in sorted(self.applied.items()):
            self.count("reputations")
            held = query(chain, self.domain.contract, "reputation", self.federation.id, slot)
            if held != value:
                message = "journal and chain disagree on a reputation; expected is the journal"
                self.find(None, slot, "scores", "reputation", value, held, message)

    # --- Vectors ------------------------------------------------------------------------------------------------------

    def check_archive(self) -> None:
        """Check every archived vector and recompute every aggregate, as far as all it needs is there and right."""
        federation = self.federation
        params: np.ndarray | None = None
        tensors = self.tensors(0)
        if tensors is not None:
            if set(tensors) != {"genesis"}:
                message = "the file does not hold the genesis parameters"
                self.find(0, None, "archive", "genesis", "genesis", ", ".join(sorted(tensors)), message)
            elif (found := self.flat_hash(tensors["genesis"])) != federation.genesis_model:
                message = "the archived genesis parameters are not the recorded ones"
                self.find(0, None, "archive", "genesis", federation.genesis_model, found, message)
            else:
                params = tensors["genesis"]
        for number in sorted(self.rounds):
            entry = self.rounds[number]
            updates = self.check_vectors(number, entry)
            if updates is None or params is None or self.rule != RULE or number - 1 not in (0, *self.rounds):
                if params is not None:
                    self.report.notes.append(f"aggregates were not recomputed from round {number} on")
                params = None
                continue
            self.count("aggregates")
            try:
                # A hospital may be voided out of the history by a dispute; the round then starts from an older model.
                if federation.weighting != "none":
                    params = weighted_mean(params, updates)
                model = self.flat_hash(params)
            except PulseLedgerError as error:
                self.find(number, None, "archive", "update", "updates that can be added up", "none", str(error))
                params = None
                continue
            if model != entry.model:
                message = "the aggregate of the archived updates is not the recorded model"
                self.find(number, None, "round", "model", model, entry.model, message)
                self.report.notes.append(f"aggregates were not recomputed after round {number}")
                params = None
            elif number + 1 in self.rounds and self.model_before(number + 1) != entry.model:
                self.report.notes.append(f"round {number} was voided: aggregates were not recomputed after it")
                params = None
        for name in self.evidence.archived():
            stem = name.removesuffix(".safetensors")
            number = int(stem) if stem.isdecimal() else -1
            if number != 0 and number not in self.rounds:
                where = number if number > 0 else None
                self.find(where, None, "archive", "file", None, name, "the archive holds an unrecorded round")

    def check_vectors(self, number: int, entry: _Round) -> list[tuple[float, np.ndarray]] | None:
        """Check the vectors of one round; return (weight, vector) by slot if all are there and right."""
        tensors = self.tensors(number)
        if tensors is None:
            return None
        whole, vectors = True, {}
        for name, vector in tensors.items():
            slot = int(name[5:]) if name[:5] == "slot-" and name[5:].isascii() and name[5:].isdecimal() else -1
            if name != f"slot-{slot:04d}" or slot not in entry.updates:
                where = slot if slot >= 0 else None
                self.find(number, where, "archive", "update", None, name, "the archive holds an unrecorded vector")
                whole = False
            else:
                vectors[slot] = vector
        weights = []
        for slot, update in sorted(entry.updates.items()):
            if slot not in vectors:
                self.find(number, slot, "archive", "update", "a vector", None, "the archived vector is missing")
                whole = False
                continue
            if update.record is None:
                whole = False
                continue
            self.count("vectors")
            found = self.flat_hash(vectors[slot])
            if found != update.record.update:
                message = "the archived vector is not the one that the hospital signed"
                self.find(number, slot, "archive", "update", update.record.update, found, message)
                whole = False
            weight = update.samples if self.federation.weighting == "samples" else 1
            if weight is None:
                message = f"round {number}, hospital {slot}: the number of samples was erased, so the aggregate is not recomputed"
                self.report.notes.append(message)
                whole = False
            else:
                weights.append((float(weight), vectors[slot]))
        return weights if whole else None

    def tensors(self, number: int) -> dict[str, np.ndarray] | None:
        data = self.evidence.vectors(number)
        if data is None:
            self.find(number, None, "archive", "file", "readable vectors", None, "the archived vectors are missing")
            return None
        try:
            return load(data)
        except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
            message = f"the archived vectors are damaged: {error}"
            self.find(number, None, "archive", "file", "readable vectors", None, message)
            return None

    def flat_hash(self, vector: np.ndarray) -> bytes:
        try:
            return verify.flat_hash(vector, self.federation.layout)
        except ValueError:
            return b""

    def check_model(self) -> None:
        if self.folder is None:
            return
        path = self.folder / "model.safetensors"
        if not path.exists():
            if self.finished:
                self.find(None, None, "model", "file", "model.safetensors", None, "the final model is missing")
            else:
                self.report.notes.append("there is no model.safetensors: the run did not finish")
            return
        try:
            found = verify.tensors_hash(load(path.read_bytes()))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            message = f"model.safetensors is damaged: {error}"
            self.find(None, None, "model", "file", "readable tensors", "none", message)
            return
        expected = self.last_model()
        if found != expected:
            message = "model.safetensors is not the model that the last round recorded"
            self.find(max(self.rounds, default=0), None, "model", "model_hash", expected, found, message)

    def check_result(self) -> None:
        self.check_manifest()
        if self.folder is None:
            return
        path = self.folder / "result.json"
        if not self.finished:
            self.report.notes.append("there is no result.json: the run did not finish")
            return
        try:
            result = read_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            self.find(None, None, "result", "file", "readable JSON", "none", f"result.json is damaged: {error}")
            return
        updates = sum(len(entry.updates) for entry in self.rounds.values())
        standing = {}
        if self.rewards:
            rewards = self.rewards[max(self.rewards)]
            standing["ledger.hospitals"] = [
                {"id": slot, "reputation": self.reputation.get(slot, BASE), "reward": rewards.get(slot, 0)}
                for slot in range(len(self.federation.hospitals))
            ]
        self.compare_result(
            result,
            {
                **standing,
                "model_hash": self.last_model(),
                "config_hash": self.federation.config_hash,
                "ledger.head": self.last_head(),
                "ledger.contract": self.domain.contract,
                "ledger.chain_id": self.domain.chain_id,
                "ledger.backend": self.backend.get("name"),
                "ledger.updates": updates,
                "ledger.rounds": len(self.rounds),
            },
            "result",
        )
        kept = self.evidence.manifest.get("result")
        for name, value in kept.items() if isinstance(kept, dict) else ():
            if not isinstance(result, dict) or result.get(name) != value:
                there = result.get(name) if isinstance(result, dict) else None
                message = f"{name} in result.json is not what the bundle holds"
                self.find(None, None, "result", name, _digest_text(value), _digest_text(there), message)

    # --- Synthetic beats ----------------------------------------------------------------------------------------------

    def check_synthetic_files(self) -> None:
        """Hold what lies in the run's folder against the signed reports and reviews, and the result against the books."""
        result = None if self.folder is None else _file_json(self.folder / "result.json")
        rows = result.get("synthesis") if isinstance(result, dict) else None
        if self.folder is None or (rows is None and not (self.folder / "synthetic").is_dir()):
            return
        missing = 0
        for identity, report in self.reports.items():
            slot = self.books.requests[identity].request.slot
            path = self.folder / "synthetic" / f"evidence-{identity.hex()[:16]}.json"
            if path.exists():
                self.check_evidence(path, slot, report)
            else:
                missing += 1
        if missing:
            self.report.notes.append(f"{missing} reports on the quality of synthetic beats are not in the folder")
        for identity, review in self.reviews.items():
            slot = self.books.requests[identity].request.slot
            path = self.folder / "ledger" / "reviews" / f"{identity.hex()}.json"
            if path.exists():
                self.count("reasons")
                content = _file_json(path)
                reason = content.get("reason") if isinstance(content, dict) else None
                said = verify.sha256(reason.encode("utf-8", "replace")) if isinstance(reason, str) else None
                if said != review.reason:
                    message = "the reason in the folder is not the one that the reviewer signed"
                    self.find(None, slot, "synthetic", "reason", review.reason, said, message)
        accepted: dict[int, list[SyntheticReport]] = {}
        for identity, standing in self.books.requests.items():
            if standing.status == policy.Status.ACCEPTED:
                accepted.setdefault(standing.request.slot, []).append(self.reports[identity])
        for slot, reports in accepted.items():
            path = self.folder / "synthetic" / f"hospital-{slot}.npz"
            if path.exists():
                self.check_batches(path, slot, reports)
            else:
                self.report.notes.append(f"the synthetic beats of hospital {slot} are not in the folder")
        if rows is not None:
            self.compare_outcomes(rows)

    def check_evidence(self, path: Path, slot: int, report: SyntheticReport) -> None:
        self.count("evidence")
        content = _file_json(path)
        try:
            text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        except ValueError:
            text = ""
        digest = verify.sha256(text.encode("ascii"))
        if digest != report.evidence:
            message = "the quality report in the folder is not the one that the hospital signed"
            self.find(None, slot, "synthetic", "evidence", report.evidence, digest, message)
            return
        for name, value in verify.quality_numbers(content).items():
            if getattr(report, name) != value:
                message = f"{name} of the signed report does not follow from the quality report"
                self.find(None, slot, "synthetic", name, value, getattr(report, name), message)

    def check_batches(self, path: Path, slot: int, reports: list[SyntheticReport]) -> None:
        message = "the synthetic beats in the folder are not those that the hospital signed for"
        try:
            with zipfile.ZipFile(path) as archive:
                # stored entries only: what is not compressed cannot swell
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ValueError("compressed")
            with np.load(path, allow_pickle=False) as arrays:
                parts = [np.atleast_1d(arrays[name]) for name in ("x", "rr", "y")]
        except Exception as error:  # the formats' readers raise many kinds for damaged files
            self.find(None, slot, "synthetic", "batch", "readable arrays", type(error).__name__, message)
            return
        start = 0
        for report in reports:
            self.count("batches")
            digest = verify.batch_digest(*(part[start : start + report.generated] for part in parts))
            if digest != report.batch:
                self.find(None, slot, "synthetic", "batch", report.batch, digest, message)
            start += report.generated
        if any(len(part) != start for part in parts):
            lengths = ", ".join(str(len(part)) for part in parts)
            self.find(None, slot, "synthetic", "batch", f"{start} beats", lengths, message)

    def compare_outcomes(self, rows: Any) -> None:
        """What result.json says of each request, against what follows from the journal."""
        told = {row.get("request"): row for row in rows if isinstance(row, dict)} if isinstance(rows, list) else {}
        for identity, standing in self.books.requests.items():
            row, request = told.pop(identity.hex(), None), standing.request
            status = standing.status
            expected: dict[str, Any] = {
                "hospital": request.slot,
                "class": policy.CLASSES[request.class_] if request.class_ < len(policy.CLASSES) else None,
                "wanted": request.quantity,
                "granted": standing.granted,
                "accepted": standing.counted if status == policy.Status.ACCEPTED else 0,
                "status": status.name.lower(),
            }
            for name, wanted in expected.items():
                found = None if row is None else row.get(name)
                if found != wanted:
                    message = f"{name} of a request in result.json is not what the ledger holds"
                    self.find(None, request.slot, "result", "synthesis", wanted, found, message)
        for unknown in told:
            self.find(None, None, "result", "synthesis", None, unknown, "the ledger holds no such request")

    def check_manifest(self) -> None:
        manifest = self.evidence.manifest
        if not manifest:
            if self.finished:
                self.report.notes.append("there is no bundle")
            return
        result = manifest.get("result")
        if not isinstance(result, dict):
            self.find(None, None, "bundle", "result", "an object", result, "the manifest has no result")
            return
        digest = verify.sha256(canonical_json(result).encode()).hex()
        if manifest.get("result_digest") != digest:
            message = "the digest of the result is not that of the result"
            self.find(None, None, "bundle", "result_digest", digest, manifest.get("result_digest"), message)
        expected = {"model_hash": self.last_model(), "config_hash": self.federation.config_hash}
        self.compare_result(result, expected, "bundle")
        contracts = manifest.get("contracts")
        for name in ("RoundLedger", "SyntheticLedger"):
            found = contracts.get(name) if isinstance(contracts, dict) else None
            if found != artefact_digest(name):
                self.report.notes.append(f"the run was made with another build of {name}")

    def compare_result(self, result: Any, expected: Mapping[str, Any], record: str) -> None:
        for name, value in expected.items():
            found: Any = result
            for key in name.split("."):
                found = found.get(key, _ABSENT) if isinstance(found, Mapping) else _ABSENT
            self.count("results")
            same = _plain_hex(found) == value.hex() if isinstance(value, bytes) else found == value
            if not same:
                there = None if found is _ABSENT else found
                self.find(None, None, record, name, value, there, f"{name} of the result is not what the ledger holds")

    # --- Small parts --------------------------------------------------------------------------------------------------

    def place(self, row: Mapping[str, Any], record: str) -> tuple[int, int] | None:
        """Round and slot of a row; tells what is wrong with them."""
        number, slot = row["round"], row["slot"]
        if type(number) is not int or number not in self.rounds:
            where = number if type(number) is int else None
            message = f"the {record} belongs to no recorded round"
            self.find(where, slot, record, "round", f"one of {len(self.rounds)} rounds", number, message)
            return None
        if type(slot) is not int or not 0 <= slot < len(self.federation.hospitals):
            known = f"0 to {len(self.federation.hospitals) - 1}"
            self.find(number, None, record, "slot", known, slot, f"the {record} belongs to no hospital")
            return None
        return number, slot

    def rows_of_updates(self, table: str, record: str) -> Iterator[tuple[int, int, Mapping[str, Any], _Update]]:
        """Round, slot, row and update of each row of a table with one row for each update; tells which belong to none."""
        seen = set()
        for row in self.evidence.rows(table):
            place = self.place(row, record)
            if place is None:
                continue
            number, slot = place
            update = self.rounds[number].updates.get(slot)
            if update is None or place in seen:
                self.find(number, slot, record, "slot", "one of an update", slot, f"the {record} belongs to no update")
                continue
            seen.add(place)
            yield number, slot, row, update

    def record(self, kind: type[R], text: Any, number: int | None, slot: int | None, name: str) -> R | None:
        """Read a signed record; tells which field is damaged."""
        try:
            values = read_json(text)
            if not isinstance(values, dict):
                raise ValueError("not an object")
        except ValueError as error:
            self.find(number, slot, name, "record", "readable JSON", text, f"the record is damaged: {error}")
            return None
        fields = FIELDS[kind]
        for unknown in sorted(values.keys() - fields.keys()):
            self.find(number, slot, name, unknown, None, values[unknown], f"the record has no field {unknown}")
            return None
        read: dict[str, Any] = {}
        for key, solidity in fields.items():
            value = _hash(values.get(key)) if solidity == "bytes32" else values.get(key)
            try:
                verify.encode(solidity, value)
            except ValueError as error:
                message = f"{key} of the record is damaged: {error}"
                self.find(number, slot, name, key, solidity, values.get(key), message)
                return None
            read[key] = value
        return kind(**read)

    def digest(self, record: Record, domain: Domain) -> bytes:
        return verify.typed_digest(type(record).__name__, _values(record), domain.chain_id, domain.contract)

    def check_signature(
        self, number: int | None, slot: int | None, record: str, name: str, digest: bytes, signature: bytes, who: Any
    ) -> bool:
        """Tell when a signature is not that of `who`."""
        try:
            signer, problem = verify.signer(digest, signature), "this is not what the signer signed"
        except ValueError as error:
            signer, problem = "no valid signature", str(error)
        if signer == who:
            return True
        self.find(number, slot, record, name, who, signer, problem)
        return False

    def signed_by_holder(self, number: int, slot: int, update: _Update) -> bool:
        assert update.record is not None
        try:
            signer = verify.signer(self.digest(update.record, self.domain), update.signature)
        except ValueError:
            return False
        return signer == self.holder(slot, number)

    def holder(self, slot: int, number: int) -> str:
        held = self.federation.hospitals[slot]
        for begins, rotation in sorted(self.rotations, key=lambda pair: pair[0]):
            if rotation.slot == slot and begins <= number:
                held = rotation.to
        return held

    def model_before(self, number: int) -> bytes:
        """The model that a round starts from: that of the round before, or what a dispute has put in its place."""
        before = self.rounds.get(number - 1)
        model = before.model if before is not None else self.federation.genesis_model
        return self.replaced.get(number, model)

    @cached_property
    def replaced(self) -> dict[int, bytes]:
        """The models that disputes have put in the place of voided ones, by the round that starts from them."""
        sealed, found = 0, {}
        for transaction in self.transactions:
            if transaction.purpose == "seal" and transaction.succeeded and type(transaction.round) is int:
                sealed = transaction.round
            elif transaction.purpose == "resolve" and transaction.succeeded and transaction.arguments.get("voided"):
                disputed = self.rounds.get(transaction.round) if type(transaction.round) is int else None
                if disputed is not None:
                    found[sealed + 1] = disputed.parent_model
        return found

    @cached_property
    def seals(self) -> dict[Any, list[_Transaction]]:
        """All attempts to seal a round, by what they say is its number."""
        found: dict[Any, list[_Transaction]] = {}
        for transaction in self.transactions:
            if transaction.purpose == "seal" and type(transaction.round) is int:
                found.setdefault(transaction.round, []).append(transaction)
        return found

    def last_model(self) -> bytes:
        return self.rounds[max(self.rounds)].model if self.rounds else self.federation.genesis_model

    def last_head(self) -> bytes:
        return self.rounds[max(self.rounds)].head if self.rounds else self.genesis_head

    def count(self, name: str) -> None:
        self.report.counts[name] = self.report.counts.get(name, 0) + 1

    def find(
        self, round: int | None, hospital: Any, record: str, field: str, expected: Any, found: Any, message: str
    ) -> None:
        slot = hospital if type(hospital) is int else None
        self.report.findings.append(Finding(round, slot, record, field, _text(expected), _text(found), message))


_ABSENT = object()
_FUNCTIONS = {
    "open": "openFederation",
    "open-round": "openRound",
    "seal": "sealRound",
    "finalize": "finalizeRound",
    "rotate": "rotateKey",
    "submit": "submitUpdate",
    "dispute": "dispute",
    "resolve": "resolveDispute",
    "reputation": "updateReputation",
    "claim": "claimReward",
    "grant": "grantRole",
    **GOVERNED,
}


def _round_of(transaction: _Transaction, sealed: int) -> int | None:
    """The round that a transaction belongs to by what it asks for, when `sealed` rounds came before it."""
    arguments, purpose = transaction.arguments, transaction.purpose
    if purpose in ("deploy", "deploy-synthetic", "open"):
        return 0
    if purpose in (*GOVERNED, "grant", "finalize"):
        return sealed
    for name in ("header", "rotation", "record"):
        if isinstance(arguments.get(name), Mapping):
            return int(arguments[name]["round"])
    return int(arguments["round"]) if "round" in arguments else None


def _code(contract: str) -> bytes:
    """The creation code of a contract without the arguments of its constructor."""
    from engine.ledger.chain import artefact

    return bytes.fromhex(artefact(contract)["bytecode"][2:])


def _values(record: Record) -> dict[str, Any]:
    """A record's values by the names of its signed type."""
    return {solidity_name(name): getattr(record, name) for name in FIELDS[type(record)]}


def _asked(kind: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a governance transaction without a signature asks for, as its row holds it."""
    if kind == "policy":
        return _flat(arguments.get("policy", {}))
    if kind == "reviewer":
        return _flat({"account": arguments.get("reviewer"), "organisation": arguments.get("organisation")})
    return _flat({"request": arguments.get("id")})


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    plain = {}
    for name, value in values.items():
        value = "0x" + value.hex() if isinstance(value, bytes) else value
        plain[name] = list(value) if isinstance(value, tuple) else value
    return plain


def _address_word(value: Any) -> bytes:
    try:
        return verify.encode("address", value)
    except ValueError:
        return _ZERO


def _bytes(value: Any) -> bytes:
    """Bytes out of 0x hex; nothing out of anything else."""
    if not isinstance(value, str) or not value.startswith("0x"):
        return b""
    try:
        return bytes.fromhex(value[2:])
    except ValueError:
        return b""


def _hash(value: Any) -> bytes | None:
    found = _bytes(value)
    return found if len(found) == 32 else None


def _plain_hex(value: Any) -> str | None:
    return value.lower().removeprefix("0x") if isinstance(value, str) else None


def _file_json(path: Path) -> Any:
    """The JSON of a file; None if there is none that can be read."""
    try:
        return read_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _digest_text(value: Any) -> str:
    text = canonical_json(value)
    return text if len(text) <= 100 else "sha256 " + verify.sha256(text.encode()).hex()


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
