"""A run as its evidence tells it, read once and frozen: typed rows, parsed records, decoded transactions. Nothing in it is true yet.

Zeros stand in the place of a hash that cannot be read, which is told when the case is read; the links around it then say
what is missing. What more than one check needs and what follows from the rows alone is a property here.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from engine.audit import spec
from engine.audit.evidence import Evidence
from engine.audit.execution import Execute, Executed, RunState, execute_run
from engine.audit.known import NOTHING, Known
from engine.audit.masks import Said
from engine.audit.records import read_yaml
from engine.audit.sittings import Sitting, Vote
from engine.audit.spec import Domain, Record
from engine.audit.transactions import Transaction
from engine.encoding import read_json
from engine.ledger.format import BUNDLE, ENDINGS, NO_ROUND, WORD

# What a complete run leaves in its folder, in the order in which it is written.
LEFT = (f"ledger/{BUNDLE}", "predictions.parquet", "model.safetensors", "result.json")

Matrix = tuple[tuple[int, ...], ...]  # rows are true classes, columns predicted ones


@dataclass(frozen=True)
class Federation:
    """What is fixed before round 1: as in the journal's meta row `federation`."""

    id: bytes
    config_hash: bytes
    hospitals: tuple[str, ...]
    genesis_model: bytes
    layout: tuple[tuple[str, tuple[int, ...]], ...]
    organisations: tuple[bytes, ...]
    quorum: int
    window: int
    checks: int

    @property
    def slots(self) -> range:
        """All slots."""
        return range(len(self.hospitals))

    @property
    def parameters(self) -> int:
        """Of the model."""
        return sum(math.prod(shape) for _, shape in self.layout)


@dataclass(frozen=True)
class Rule:
    """How the model of a round follows from its updates: as in the meta row `rule`; `name` is "" where it cannot be read.

    Attributes:
        settings: of a rule other than the mean.
        part, parameters: of a user's own rule.
        gate: only updates that the committee of the round found good count.
        secure: how updates are hidden; {} where they are not.
    """

    name: str
    weighting: str
    server: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    gate: bool = False
    secure: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdicts:
    """Verdicts of one round on the hospitals 16 * index to 16 * index + 15, one bit each."""

    index: int
    participated: int
    accepted: int
    threshold: int

    @property
    def judged(self) -> dict[int, bool]:
        """Slot of each hospital with a verdict -> whether its update was accepted."""
        bits = [bit for bit in range(WORD) if self.participated >> bit & 1]
        return {WORD * self.index + bit: bool(self.accepted >> bit & 1) for bit in bits}


class Peer(NamedTuple):
    """What hospital `judge` found of the update of `slot`: correct predictions among all its validation beats."""

    slot: int
    judge: int
    correct: int
    total: int


@dataclass(frozen=True)
class Opening:
    """What a hospital committed to in an update; `metrics` and `privacy` are canonical JSON."""

    samples: int
    samples_salt: bytes
    metrics: bytes
    metrics_salt: bytes
    privacy: bytes | None


@dataclass(frozen=True)
class Update:
    """A row of the updates of a round and what belongs to it; None is what is not there or cannot be read."""

    leaf: bytes | None
    record: Record | None
    signature: bytes
    opening: Opening | None = None
    receipt: bytes | None = None
    erasure: bytes | None = None


@dataclass(frozen=True)
class Round:
    """A row of the rounds, and what belongs to it; `judges` are signatures over the peers' scores, by judge, `votes` of a committee."""

    parent_model: bytes
    model: bytes
    count: int
    root: bytes
    annex: bytes
    head: bytes
    updates: Mapping[int, Update]
    digests: Mapping[str, bytes]
    verdicts: tuple[Verdicts, ...]
    peers: tuple[Peer, ...]
    judges: Mapping[int, bytes]
    absent: tuple[tuple[int, int, str, int, bytes], ...] = ()  # slot, job, kind, start, signature
    sitting: Sitting | None = None
    votes: Mapping[int, Vote] = field(default_factory=dict)
    maskings: tuple[Said, ...] = ()

    def counted(self, gate: bool) -> set[int]:
        """Slots whose updates go into the model: all, or only those that a committee found good."""
        good = set() if self.sitting is None else self.sitting.qualified
        return {*self.updates} & good if gate else {*self.updates}

    @property
    def judged(self) -> dict[int, bool]:
        """Slot of each hospital with a verdict -> whether its update was accepted."""
        return {slot: accepted for one in self.verdicts for slot, accepted in one.judged.items()}


@dataclass(frozen=True)
class Statement:
    """What a hospital states of itself at the end; the page of its names is `engine/statement.py`.

    Attributes:
        counts: part -> beats of each class.
        validation, test: "global" and "personal" -> confusion matrix.
        trained, personalised: evaluations of gradients.
        curve: round -> confusion matrix of the model after it on the validation part.
        privacy: what its mechanism says of the whole run; None without one.
        triggered: model -> beats that a simulated backdoor led to its target, and of how many; empty without one.
        guessed: model -> wins, hits, members, alarms and others of membership inference; empty where it was not measured.
    """

    data: str
    classes: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    validation: Mapping[str, Matrix]
    test: Mapping[str, Matrix]
    predictions: str
    trained: int
    personalised: int
    curve: Mapping[int, Matrix]
    privacy: Mapping[str, Any] | None = None
    triggered: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    guessed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """A row of the results: what a hospital signed at the end. `content` is None where it cannot be read."""

    record: Record
    signature: bytes
    text: str
    content: Statement | None


@dataclass(frozen=True)
class Closing:
    """The row of the closings: what the coordinator signed at the end.

    Attributes:
        round: of the row.
        missing: hospitals without a result -> why.
    """

    round: Any
    record: Record
    signature: bytes
    missing: Mapping[int, str]


@dataclass(frozen=True)
class Rotation:
    """A change of a hospital's key: slot and round of its row, and the record."""

    slot: Any
    round: Any
    record: Record
    old_signature: bytes
    new_signature: bytes


class Term(NamedTuple):
    """A time in which a successor led: `seq` of its takeover, number, account, its first round."""

    seq: int
    number: int
    account: str
    round: int


@dataclass(frozen=True)
class Step:
    """A step in the governance of synthetic data, as its row says but for the record.

    That is a `Record` where somebody signs the step (request, preview, review, report), plain JSON where nobody does.
    """

    kind: str
    id: Any
    record: Record | Mapping[str, Any]
    signature: Any
    sender: Any


@dataclass(frozen=True)
class Case:
    """All of a run but its vectors and the files beside the journal, which are read from `evidence` as they are checked.

    Attributes:
        backend: name, url, contract: as in the meta row.
        known: what the auditor knows from elsewhere.
        execute: asks the chain.
    """

    evidence: Evidence
    federation: Federation
    domain: Domain
    backend: Mapping[str, Any]
    rule: Rule
    rounds: Mapping[int, Round]
    results: Mapping[int, Result]
    closing: Closing | None
    rotations: tuple[Rotation, ...]
    steps: tuple[Step, ...]
    transactions: tuple[Transaction, ...]
    known: Known = NOTHING
    execute: Execute = execute_run

    @cached_property
    def finished(self) -> bool:
        """Whether the run has ended: it left a result or a bundle, which are written at the end only, or was pruned."""
        folder = self.evidence.folder
        return folder is None or (folder / "result.json").exists() or self.ending == "pruned"

    @property
    def closed(self) -> bool:
        """Whether the run was closed as complete: what it leaves behind is written right after that."""
        return self.ending == "complete"

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """Files that a complete run leaves in its folder, and that are not there."""
        folder = self.evidence.folder
        return () if folder is None else tuple(name for name in LEFT if not os.path.lexists(folder / name))

    @property
    def ending(self) -> str:
        """How the run ended by what its coordinator signed, one of `ENDINGS`."""
        state = 0 if self.closing is None else self.closing.record["state"]
        return ENDINGS[state] if state < len(ENDINGS) else ENDINGS[0]

    @property
    def public(self) -> bool:
        """Whether this is a bundle from which all openings were left out to hand it on; it has none, whatever it says."""
        said = self.evidence.folder is None and self.evidence.manifest.get("public") is True
        return said and all(
            update.opening is None for entry in self.rounds.values() for update in entry.updates.values()
        )

    @cached_property
    def result(self) -> Mapping[str, Any]:
        """What result.json says; empty where it is not there, or cannot be read."""
        try:
            found = read_json(self.evidence.text("result.json"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @cached_property
    def reported(self) -> Mapping[str, Any]:
        """What the run reports: of result.json, or of the bundle where there is no such file."""
        if self.evidence.folder is not None and ("result.json" not in self.missing or not self.closed):
            return self.result
        kept = self.evidence.manifest.get("result")
        return kept if isinstance(kept, dict) else {}

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The configuration; empty where it is not there, or cannot be read."""
        return read_yaml(self.evidence.config)

    # --- Rounds -------------------------------------------------------------------------------------------------------

    @cached_property
    def registry(self) -> bytes:
        """Root over the hospitals."""
        return spec.registry_root(self.federation.hospitals, self.federation.organisations)

    @cached_property
    def genesis_head(self) -> bytes:
        """Head of round 0."""
        f = self.federation
        fixed = (f.id, f.config_hash, self.registry, f.genesis_model)
        return spec.first_head(self.domain, *fixed, len(f.hospitals), f.quorum)

    @cached_property
    def last(self) -> int:
        """Number of the last round, 0 without any."""
        return max(self.rounds, default=0)

    @property
    def last_model(self) -> bytes:
        """Model after the last round."""
        return self.rounds[self.last].model if self.rounds else self.federation.genesis_model

    def head(self, number: int) -> bytes:
        """Head after a round; that of round 0 where the journal has no such round."""
        return self.rounds[number].head if number in self.rounds else self.genesis_head

    def model_after(self, number: int) -> bytes | None:
        """The model after a round, 0 for the genesis; None where the journal has no such round."""
        if number == 0:
            return self.federation.genesis_model
        return self.rounds[number].model if number in self.rounds else None

    def known_before(self, number: int) -> bool:
        """Whether the journal holds what a round follows on."""
        return number == 1 or number - 1 in self.rounds

    def model_before(self, number: int) -> bytes:
        """The model that a round starts from: that of the round before, or what a dispute has put in its place."""
        before = self.rounds.get(number - 1)
        model = before.model if before is not None else self.federation.genesis_model
        return self.replaced.get(number, model)

    @cached_property
    def replaced(self) -> dict[int, bytes]:
        """The models that disputes have put in the place of voided ones, by the round that starts from them."""
        found = {}
        for sealed, transaction in self.in_order:
            proven = transaction.purpose == "overspent"
            decided = transaction.purpose == "resolve" and transaction.arguments.get("voided")
            if transaction.succeeded and (proven or decided):
                disputed = self.rounds.get(transaction.round) if type(transaction.round) is int else None
                if disputed is not None:
                    found[sealed + 1] = disputed.parent_model
        return found

    def header(self, number: Any) -> dict[str, Any] | None:
        """A round as the contract's Header; None if the journal does not hold it."""
        if type(number) is not int or number not in self.rounds:
            return None
        entry = self.rounds[number]
        return {
            "round": number,
            "previousHead": self.head(number - 1),
            "root": entry.root,
            "parentModel": entry.parent_model,
            "model": entry.model,
            "count": entry.count,
            "annex": entry.annex,
        }

    # --- Who signs ----------------------------------------------------------------------------------------------------

    def holder(self, slot: int, number: int = NO_ROUND, changes: int | None = None) -> str:
        """The address whose signature counts for a slot in a round, after all or the first `changes` changes of keys."""
        held = self.federation.hospitals[slot]
        for rotation in sorted(self.rotations[:changes], key=lambda rotation: rotation.record["round"]):
            if rotation.record["slot"] == slot and rotation.record["round"] <= number:
                held = rotation.record["to"]
        return held

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """Of successors that took over, in order."""
        return tuple(
            Term(t.seq, t.arguments["place"] + 1, t.call.sender, sealed + 1)
            for sealed, t in self.in_order
            if t.purpose == "take-over" and self.taken(t) and t.call is not None and "place" in t.arguments
        )

    def leader(self, number: int = NO_ROUND) -> str:
        """The account whose word counts as the coordinator's in a round, by default at the end."""
        led = [term.account for term in self.terms if term.round <= number]
        return led[-1] if led else self.coordinator

    @cached_property
    def coordinator(self) -> str:
        """The account that opened the federation; "" if none did."""
        openings = [t.call.sender for t in self.transactions if t.purpose == "open" and t.call is not None]
        return openings[-1] if openings else ""

    # --- Transactions -------------------------------------------------------------------------------------------------

    @cached_property
    def in_order(self) -> tuple[tuple[int, Transaction], ...]:
        """Every transaction, with the round that had been sealed last when it came."""
        return tuple(_after_seals(self.transactions))

    @cached_property
    def seals(self) -> dict[int, list[Transaction]]:
        """All attempts to seal a round, by what they say is its number."""
        found: dict[int, list[Transaction]] = {}
        for transaction in self.transactions:
            if transaction.purpose == "seal" and type(transaction.round) is int:
                found.setdefault(transaction.round, []).append(transaction)
        return found

    @cached_property
    def pending(self) -> Transaction | None:
        """The last transaction of a run that stopped before the chain had answered it."""
        last = self.transactions[-1] if self.transactions else None
        return last if last is not None and last.receipt is None and not self.finished else None

    def taken(self, transaction: Transaction) -> bool:
        """Whether a transaction counts: the chain took it, or nobody can know yet that it did not."""
        return transaction.succeeded or transaction is self.pending

    @cached_property
    def contracts(self) -> dict[str, str]:
        """Name of each contract that the run uses -> its address."""
        found = {"RoundLedger": self.domain.contract}
        for transaction in self.transactions:
            known, call = transaction.known, transaction.call
            if transaction.creates and transaction.succeeded and transaction.purpose != "deploy" and known and call:
                found[known.contract] = call.created
        return found

    def holder_at(self, slot: int, transaction: Transaction | None) -> str:
        """The address that held a slot when a transaction came; None asks for now."""
        held = self.federation.hospitals[slot]
        for earlier in self.transactions:
            if transaction is not None and earlier.seq >= transaction.seq:
                break
            rotation = earlier.arguments.get("rotation") if earlier.purpose == "rotate" else None
            if earlier.succeeded and isinstance(rotation, Mapping) and rotation["slot"] == slot:
                held = rotation["to"]
        return held

    @property
    def governance(self) -> Domain | None:
        """Where requests, reviews and reports are signed for; None if there is no contract for them."""
        contract = self.contracts.get("SyntheticLedger")
        return None if contract is None else Domain(self.domain.chain_id, contract)

    @cached_property
    def chain(self) -> Executed[RunState]:
        """What the chain says; it is asked when this is first wanted."""
        judged = {slot for entry in self.rounds.values() for slot in entry.judged}
        requests = [s.record for s in self.steps if s.kind == "request" and isinstance(s.record, Record)]
        wanted = {(record["slot"], record["class_"]) for record in requests}
        place = (self.backend, self.domain, self.contracts, self.transactions)
        rounds = [(n, entry.parent_model) for n, entry in sorted(self.rounds.items()) if self.shown(n)]
        shown = [(*one, slot) for one in rounds for slot in self.federation.slots]
        return self.execute(*place, self.federation.id, sorted(judged), sorted(wanted), shown, self.known.rpc)

    def shown(self, number: int) -> int:
        """Updates of a round that were shown to the contract directly, as its seal names their number."""
        seals = [seal.arguments.get("submissions", 0) for seal in self.seals.get(number, []) if seal.succeeded]
        return int(seals[-1]) if seals else 0


def _after_seals(transactions: Sequence[Transaction]) -> Iterator[tuple[int, Transaction]]:
    sealed = 0
    for transaction in transactions:
        yield sealed, transaction
        if transaction.purpose == "seal" and transaction.succeeded and type(transaction.round) is int:
            sealed = transaction.round
