"""Rounds: how one is closed over its updates, written down, sealed on the chain, and compared with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from engine.encoding import hexed, keccak
from engine.errors import LedgerError
from engine.ledger.book import Book, Call
from engine.ledger.chain.base import NoContract
from engine.ledger.chain.contracts import call_arguments, call_data, is_deployed
from engine.ledger.chain.transactions import decode_transaction
from engine.ledger.delivery import Contradiction, JournalTransaction, Refused
from engine.ledger.format import ABSENCES, NO_ROUND, PHASES, PRIVACY, RING, ROUND_STATUS, SCHEMA, ZERO
from engine.ledger.signing import require_digest_signer
from engine.ledger.store import Rows
from engine.ledger.subject import Subject
from engine.ledger.subjects.privacy import require_spent
from engine.ledger.subjects.registry import Registry
from engine.ledger.subjects.updates import (
    Absence,
    Header,
    ModelUpdate,
    Opening,
    Receipt,
    SignedUpdate,
    commitments,
    genesis_header,
    head_of,
    leaf_of,
)
from engine.ledger.trees import EMPTY, Levels, annex_root, levels, named, path
from engine.ledger.typed import Domain, digest, record_from_json, record_to_json


class Absent(NamedTuple):
    """A job that ended in a round without an update, as the journal has it; `kind` is one of `format.ABSENCES`."""

    round: int
    slot: int
    job: int
    kind: str
    start: int


@dataclass(frozen=True)
class RoundEntry:
    """One round as the loop reports it: number from 1, model hashes before and after, updates by ascending slot.

    Attributes:
        openings: one for each update.
        digests: what subjects add to the annex, by name.
        rows: what they write down with the round, by table; plain JSON values.
        absent: jobs that ended in the round without an update.
        next_deadline: of the next round, which the seal opens: 0 for what the settings say, NO_ROUND opens no round.
    """

    round: int
    parent_model: bytes
    model: bytes
    updates: tuple[SignedUpdate, ...]
    openings: tuple[Opening, ...]
    digests: Mapping[str, bytes] = field(default_factory=dict)
    rows: Rows = field(default_factory=dict)
    next_deadline: int = 0
    absent: tuple[Absent, ...] = ()


class Closed(NamedTuple):
    """What follows from the updates of a round: its header, and the tree over the leaves of all slots."""

    header: Header
    tree: Levels


def close(
    entry: RoundEntry, leaves: Mapping[int, bytes], before: Header, domain: Domain, federation: bytes, slots: int
) -> Closed:
    """Close a round over the leaves of its slots, after the header of the round before."""
    tree = levels([leaves.get(slot, EMPTY) for slot in range(slots)])
    models, annex = (entry.parent_model, entry.model), annex_root(entry.digests)
    header = Header(entry.round, before.head, tree[-1][0], *models, len(leaves), annex)
    return Closed(replace(header, head=head_of(header, domain, federation)), tree)


@dataclass(frozen=True)
class Seal:
    """Proof that a round is on the chain: tree root, head after it, updates, transaction hash (0x hex), gas."""

    round: int
    root: bytes
    head: bytes
    count: int
    transaction: str
    gas: int


@dataclass(frozen=True)
class Proof:
    """That `leaf` sits in `slot` of a sealed round; the leaf EMPTY shows that the slot has no update.

    `trees.verify(header.root, leaf, slot, slots, siblings)` checks it.
    """

    header: Header
    slot: int
    slots: int
    leaf: bytes
    siblings: tuple[bytes, ...]


def _absence(federation: bytes, one: "Absent") -> Absence:
    return Absence(federation, one.round, one.slot, one.job, ABSENCES.index(one.kind), one.start)


_IDLE, _OPEN, _ABORTED = 0, 1, PHASES.index("ABORTED")  # phases of a federation


class Rounds(Subject):
    """The rounds of an open federation.

    Everything is in the journal before it is sent, so an append that a crash or an unreachable node interrupted is
    finished by opening the folder again, or by appending the same round again.

    Attributes:
        headers: of all rounds so far, the opening of the federation first. A round without a seal is in the journal, but
            the chain has not answered; there is at most one, the last.
        seals: of all rounds that have one.
    """

    def __init__(self, book: Book, registry: Registry, deadline: int = 0, most_stale: int = 0) -> None:
        """
        Args:
            deadline: seconds for a round, 0 for no limit.
            most_stale: rounds that the model of an update may be behind.
        """
        self._most_stale = most_stale
        self._book, self._federation, self._registry = book, registry.federation, registry
        self._deadline = deadline
        self._model = self._federation.genesis_model
        self.headers: list[Header] = []
        self.seals: list[Seal] = []

    @property
    def head(self) -> bytes:
        """The head after the last sealed round, 32 bytes."""
        return self.headers[len(self.seals)].head

    def append(self, entry: RoundEntry, closed: Closed | None = None) -> Seal:
        """Check a round, write it down and seal it. The same round again returns the same seal.

        Args:
            closed: header and tree, where the caller made them already; None makes them here.

        Raises:
            LedgerError: a signature, slot, parent or number is wrong; the round is sealed with other content; the
                chain refuses or does not answer. What the journal already holds is not lost.
        """
        leaves = self._check(entry)
        if closed is None:
            before, domain = self.headers[entry.round - 1], self._book.domain
            closed = close(entry, leaves, before, domain, self._federation.id, len(self._federation.hospitals))
        for slot, leaf in leaves.items():
            if closed.tree[0][slot] != leaf:
                raise LedgerError(f"round {entry.round}, hospital {slot}: the leaf is not the hash of what was signed")
        if entry.round < len(self.headers):
            self._require_recorded(closed.header)
        else:
            self._record(entry, closed.header, leaves)
        if entry.round > len(self.seals):
            self._finish()
        return self.seals[entry.round - 1]

    def signed(self, round: int) -> tuple[list[SignedUpdate], list[Opening]]:
        """Return the signed updates of a round and what opens them, without those whose opening was erased."""
        openings = {row["slot"]: row["opening"] for row in self._book.store.rows("openings", round=round)}
        rows = [row for row in self._book.store.rows("updates", round=round) if row["slot"] in openings]
        updates = [SignedUpdate(record_from_json(ModelUpdate, row["record"]), row["signature"]) for row in rows]
        return updates, [record_from_json(Opening, openings[row["slot"]]) for row in rows]

    def receipts(self, round: int) -> dict[int, bytes]:
        """Return the coordinator's signature over the `Receipt` of every slot with an update in a round."""
        return {row["slot"]: row["signature"] for row in self._book.store.rows("receipts", round=round)}

    def digests(self, round: int) -> dict[str, bytes]:
        """Return the digests behind the annex of a round, by name."""
        return {row["name"]: row["digest"] for row in self._book.store.rows("annexes", round=round)}

    def prove(self, round: int, slot: int) -> Proof:
        """Prove what a slot holds in a sealed round: a leaf, or EMPTY.

        Raises:
            LedgerError: there is no such round or slot.
        """
        slots = len(self._federation.hospitals)
        header = self.sealed(round)
        if not 0 <= slot < slots:
            raise LedgerError(f"slot {slot} is not one of the {slots} slots of the tree")
        found = {row["slot"]: row["leaf"] for row in self._book.store.rows("updates", round=round)}
        leaves = [found.get(i, EMPTY) for i in range(slots)]
        return Proof(header, slot, slots, leaves[slot], tuple(path(levels(leaves), slot)))

    def headers_from(self, round: int, stale: bool = False) -> list[Header]:
        """Return the headers from a sealed round to one whose head the contract keeps, as a dispute shows them.

        Args:
            stale: from the oldest round on whose model an update of this one may have begun from.
        """
        self.sealed(round)
        first = max(1, round - self._most_stale) if stale else round
        return self.headers[first : max(round, len(self.seals) - RING + 1) + 1]

    def sealed(self, round: int) -> Header:
        """Return the header of a sealed round; raises LedgerError when there is no such."""
        if not 1 <= round <= len(self.seals):
            raise LedgerError(f"round {round} is not one of the {len(self.seals)} sealed rounds")
        return self.headers[round]

    def finalize(self) -> None:
        """Make all sealed rounds final, in one transaction for any number of them; within their window those up to a mark.

        Where all are final already nothing is sent.

        Raises:
            ContractRevert: the window for disputes has not passed, or there is an open dispute.
        """
        if self.seals and self.is_final():
            return
        self._send("finalize", len(self.seals), "finalizeRound", self._federation.id)

    def mark(self) -> None:
        """Note the last sealed round, so that it becomes final a window after its seal however fast rounds follow.

        Raises:
            ContractRevert: it is final or noted already, an earlier one waits for its window, or there is an open dispute.
        """
        self._send("mark", len(self.seals), "markRound", self._federation.id)

    def is_final(self) -> bool:
        """Whether all sealed rounds are beyond dispute, or there are none."""
        return self.finalized() == len(self.seals)

    def finalized(self) -> int:
        """The last round that is beyond dispute, with all before it; 0 for none."""
        return int(self.state(self._book.domain.contract)["finalized"])

    def abort(self) -> None:
        """End a round on record whose deadline has passed; its number can be opened again.

        Raises:
            ContractRevert: none is open, or its deadline has not passed.
        """
        self._send("abort", len(self.seals) + 1, "abortRound", self._federation.id)

    def grant(self, role: str, account: str) -> None:
        """Give an account a role of the contract, such as "AUDITOR_ROLE"; the sender must be the admin.

        Raises:
            ContractRevert: it is not, or the account holds a role that excludes this one.
        """
        self._send("grant", 0, "grantRole", keccak(role.encode()), account)

    def has_role(self, role: str, account: str) -> bool:
        """Whether an account holds a role of the contract, such as "AUDITOR_ROLE"."""
        return bool(self._ask("hasRole", keccak(role.encode()), account))

    def status(self, round: int) -> str:
        """Return the contract's word on a round, one of `format.ROUND_STATUS`."""
        return ROUND_STATUS[self._ask("roundStatus", self._federation.id, round)]

    def refresh(self) -> None:
        """Ask the contract which model the next round starts from: the last one that was not voided."""
        round = len(self.seals)
        while round and self.status(round) == "VOID":
            round -= 1
        self._model = self.headers[round].model

    # --- Checks -------------------------------------------------------------------------------------------------------

    def _check(self, entry: RoundEntry) -> dict[int, bytes]:
        """Check every update of a round; return the leaf of each slot that took part."""
        federation, hospitals, domain = self._federation, self._federation.hospitals, self._book.domain
        self._check_entry(entry)
        leaves: dict[int, bytes] = {}
        for signed, opening in zip(entry.updates, entry.openings, strict=True):
            record = signed.record
            where = f"round {entry.round}, hospital {record.slot}"
            if record.slot >= len(hospitals):
                raise LedgerError(f"{where}: there are only {len(hospitals)} hospitals")
            if leaves and record.slot <= max(leaves):
                raise LedgerError(f"{where}: updates must be sorted by slot, one for each hospital")
            expected = {
                "schema": SCHEMA,
                "federation": federation.id,
                "round": entry.round,
                "parent_model": self._parent_of(record, entry),
                "parent_head": self.headers[entry.round - 1].head,
                "config_hash": federation.config_hash,
                **commitments(opening),
            }
            for name, value in expected.items():
                if getattr(record, name) != value:
                    found, wanted = _show(getattr(record, name)), _show(value)
                    raise LedgerError(f"{where}: {name} is {found} in the record, expected {wanted}")
            signed_digest = digest(record, domain)
            holder = self._registry.holder(record.slot, entry.round)
            require_digest_signer(where, signed_digest, signed.signature, domain, holder)
            require_spent(where, opening.privacy, entry.digests.get(PRIVACY, ZERO))
            leaves[record.slot] = leaf_of(signed, signed_digest)
        return leaves

    def _parent_of(self, record: ModelUpdate, entry: RoundEntry) -> bytes:
        """The model that an update may have begun from: that of the round, or one that is not too old."""
        oldest = max(0, entry.round - 1 - self._most_stale)
        older = {header.model for header in self.headers[oldest : entry.round - 1]}
        return record.parent_model if record.parent_model in older else entry.parent_model

    def _check_entry(self, entry: RoundEntry) -> None:
        updates, openings, quorum = len(entry.updates), len(entry.openings), self._federation.quorum
        if updates < quorum:
            raise LedgerError(f"round {entry.round} has {updates} updates, the quorum is {quorum}")
        if openings != updates:
            raise LedgerError(f"round {entry.round} has {openings} openings for {updates} updates")
        for name in ("parent_model", "model"):
            value = getattr(entry, name)
            if not isinstance(value, bytes) or len(value) != 32 or not any(value):
                raise LedgerError(f"round {entry.round}: {name} is not a hash of 32 bytes")
        if not 1 <= entry.round <= len(self.headers):
            raise LedgerError(f"round {entry.round} cannot follow round {len(self.headers) - 1}")

    def _require_recorded(self, given: Header) -> None:
        recorded = self.headers[given.round]
        for name in ("parent_model", "model", "root", "annex"):
            was, now = getattr(recorded, name), getattr(given, name)
            if was != now:
                raise LedgerError(
                    f"round {given.round} is already recorded with another {name}: {_show(was)}, now given {_show(now)}"
                )

    def _record(self, entry: RoundEntry, header: Header, leaves: Mapping[int, bytes]) -> None:
        """Write the round and its transaction in one durable step."""
        book, federation, domain = self._book, self._federation, self._book.domain
        last = len(self.headers) - 1
        if any(one.purpose == "close" and one.receipt and one.receipt.status for one in book.transactions):
            raise LedgerError(
                f"{book.path.parent}: the run has ended after round {last} and is closed, nothing can follow"
            )
        if last > len(self.seals):
            raise LedgerError(f"round {last} is recorded but not sealed: append it again before round {entry.round}")
        if entry.parent_model != self._model:
            raise LedgerError(
                f"round {entry.round} starts from model {_show(entry.parent_model)}, "
                f"round {last} ended with {_show(self._model)}"
            )
        if header.previous_head != self.head:
            raise LedgerError(f"round {entry.round} was closed after another head than that of round {last}")
        book.finish()
        number = entry.round
        pairs = list(zip(entry.updates, entry.openings, strict=True))
        rows: dict[str, Sequence[tuple[Any, ...]]] = {
            "updates": [
                (number, u.record.slot, record_to_json(u.record), u.signature, leaves[u.record.slot]) for u, _ in pairs
            ],
            "openings": [(number, u.record.slot, record_to_json(opening)) for u, opening in pairs],
            "receipts": self._promises(number, leaves),
            "rounds": [
                (number, header.parent_model, header.model, header.count, header.root, header.annex, header.head)
            ],
            "annexes": [(number, name, entry.digests[name]) for name in named(entry.digests)],
            "absences": self._words(entry.absent),
            **entry.rows,
        }
        direct = self._require_open(entry)
        if direct:
            self._refuse_missing(number, entry.parent_model, leaves)
        data = call_data("sealRound", federation.id, header.abi, direct, entry.next_deadline or self._until())
        book.write(Call("seal", number, domain.contract, data, rows))
        self.headers.append(header)

    def promise_again(self) -> None:
        """Sign what a coordinator that was replaced had signed of a round without a seal: its word on that counts no more."""
        store, number = self._book.store, len(self.headers) - 1
        if number == len(self.seals):
            return
        leaves = {row["slot"]: row["leaf"] for row in store.rows("updates", round=number)}
        absent = [Absent(*tuple(row)[:-1]) for row in store.rows("absences", round=number)]
        store.replace("receipts", {"round": number}, {"receipts": self._promises(number, leaves)})
        store.replace("absences", {"round": number}, {"absences": self._words(absent)})

    def _promises(self, number: int, leaves: Mapping[int, bytes]) -> list[tuple[int, int, bytes]]:
        receipts = [Receipt(self._federation.id, number, slot, leaf) for slot, leaf in leaves.items()]
        chain, domain = self._book.chain, self._book.domain
        return [(number, one.slot, chain.sign_digest(digest(one, domain))) for one in receipts]

    def _words(self, absent: Sequence[Absent]) -> list[tuple[Any, ...]]:
        chain, domain = self._book.chain, self._book.domain
        return [(*one, chain.sign_digest(digest(_absence(self._federation.id, one), domain))) for one in absent]

    def _require_open(self, entry: RoundEntry) -> int:
        """Open the round if a dispute or a pause left it closed; return the number of updates shown directly."""
        state = self.state(self._book.domain.contract)
        if state["head"] != self.head:
            # A reorganisation took away rounds that were sealed, or a restart of the node even the contract.
            self._book.restore()
            state = self.state(self._book.domain.contract)
        if not self._is_open(state):
            # a reorganisation may have taken the opening alone: what was lost is there again before another is signed
            state = self._book.settled(lambda: self.state(self._book.domain.contract))
            if not self._is_open(state):
                self._open(entry.round, entry.parent_model)
        return int(state["submissions"])

    def _is_open(self, state: dict[str, Any]) -> bool:
        """Whether the contract takes the round, now."""
        return state["phase"] == _OPEN and not 0 < state["deadline"] <= self._book.chain.time()

    def _open(self, round: int, parent_model: bytes) -> None:
        self._send("open-round", round, "openRound", self._federation.id, round, parent_model, self._until())

    def _until(self) -> int:
        """The deadline of a round that is opened now, by the chain's clock; 0 for none."""
        return self._book.chain.time() + self._deadline if self._deadline else 0

    def _refuse_missing(self, round: int, parent_model: bytes, leaves: Mapping[int, bytes]) -> None:
        """Say of updates that were shown directly, and that nobody gave us the vectors of, that we do not have them."""
        for slot in range(len(self._federation.hospitals)):
            shown = self.submission(round, parent_model, slot)
            if any(shown["leaf"]) and shown["leaf"] != leaves.get(slot) and not shown["refused"]:
                self._send("refuse", round, "refuseUpdate", self._federation.id, slot)

    def _finish(self) -> None:
        """Bring the last seal onto the chain."""
        try:
            self._book.finish()
        except Refused:
            if not self._seal_again():
                raise
            self._book.restore()

    def restore(self) -> None:
        """As `Book.restore`, for the last seal as well that the chain has let pass."""
        try:
            self._book.restore()
        except Refused:
            if not self._seal_again() and not self._open_again():
                raise
            self._book.restore()

    def _open_again(self) -> bool:
        """Write the opening of the next round down a second time if its deadline passed before it came into a block."""
        number = len(self.seals) + 1
        sent = [t for t in self._book.transactions if (t.purpose, t.round) == ("open-round", number)]
        given = call_arguments(decode_transaction(sent[-1].raw)["data"])[1] if sent else {"deadline": 0}
        if not 0 < given["deadline"] <= self._book.chain.time():
            return False
        arguments = (self._federation.id, number, given["parentModel"], self._until())
        self._book.write(self._call("open-round", number, "openRound", *arguments))
        return True

    def _seal_again(self) -> bool:
        """Write the last seal down a second time if it came too late; tells whether it did.

        Its round may have passed its deadline, or that of the next round may have, or an update was shown directly
        between our look at the chain and the seal. What the seal says of the round stays the same.
        """
        number = len(self.seals) + 1
        if number != len(self.headers) - 1:
            return False
        book, header = self._book, self.headers[number]
        state, now = self.state(book.domain.contract), book.chain.time()
        sealed = [t for t in book.transactions if (t.purpose, t.round) == ("seal", number)]
        given = call_arguments(decode_transaction(sealed[-1].raw)["data"])[1]
        closed = state["phase"] in (_IDLE, _ABORTED) or (state["phase"] == _OPEN and 0 < state["deadline"] <= now)
        late = closed or given["submissions"] != state["submissions"] or 0 < given["next"] <= now
        if state["round"] != number - 1 or not (closed or state["phase"] == _OPEN) or not late:
            return False
        if closed:
            self._open(number, header.parent_model)
        if state["submissions"]:
            leaves = {row["slot"]: row["leaf"] for row in book.store.rows("updates", round=number)}
            self._refuse_missing(number, header.parent_model, leaves)
        following = NO_ROUND if given["next"] == NO_ROUND else self._until()
        data = call_data("sealRound", self._federation.id, header.abi, int(state["submissions"]), following)
        book.write(Call("seal", number, book.domain.contract, data))
        return True

    # --- The contract -------------------------------------------------------------------------------------------------

    def require_contract(self, contract: str) -> None:
        """Refuse an address without this version's contract; raises NoContract of one without any, else LedgerError."""
        chain = self._book.chain
        code = chain.code(contract)
        if not is_deployed(code):
            kind = LedgerError if code else NoContract
            raise kind(f"the code at {contract} on the {chain.name} chain is not this version's RoundLedger")

    def require_coordinator(self, contract: str) -> None:
        """Refuse a contract where this account may not seal rounds; raises LedgerError."""
        chain = self._book.chain
        if not self._book.query("RoundLedger", contract, "hasRole", keccak(b"COORDINATOR_ROLE"), chain.sender):
            raise LedgerError(f"account {chain.sender} is not a coordinator of contract {contract}")

    def submission(self, round: int, parent_model: bytes, slot: int) -> dict[str, Any]:
        """Return what a slot has shown the contract directly: leaf (ZERO for nothing), refused."""
        found: dict[str, Any] = self._ask("submission", self._federation.id, round, parent_model, slot)
        return found

    def state(self, contract: str) -> dict[str, Any]:
        """Return what a contract holds of this federation, by the names of its ABI."""
        state: dict[str, Any] = self._book.query("RoundLedger", contract, "federationState", self._federation.id)
        return state | state.pop("progress")

    def opening(self, contract: str) -> Sequence[Call]:
        """The calls that open the federation and its first round."""
        federation = self._federation
        fixed = (federation.id, federation.config_hash, self._registry.root, federation.genesis_model)
        sizes = (len(federation.hospitals), federation.quorum, federation.window, self._most_stale)
        return (
            Call("open", 0, contract, call_data("openFederation", *fixed, *sizes)),
            Call(
                "open-round",
                1,
                contract,
                call_data("openRound", federation.id, 1, federation.genesis_model, self._until()),
            ),
        )

    def _ask(self, function: str, *arguments: Any) -> Any:
        return self._book.query("RoundLedger", self._book.domain.contract, function, *arguments)

    def _send(self, purpose: str, round: int, function: str, *arguments: Any) -> None:
        self._book.send(self._call(purpose, round, function, *arguments))

    def _call(self, purpose: str, round: int, function: str, *arguments: Any) -> Call:
        return Call(purpose, round, self._book.domain.contract, call_data(function, *arguments))

    # --- What the book tells ------------------------------------------------------------------------------------------

    def reset(self) -> None:
        headers = [genesis_header(self._book.domain, self._federation)]
        for row in self._book.store.rows("rounds"):
            models = (row["parent_model"], row["model"])
            content = (row["root"], *models, row["count"], row["annex"], row["head"])
            headers.append(Header(row["round"], headers[-1].head, *content))
        self.headers, self.seals = headers, []

    def settled(self, done: JournalTransaction, live: bool) -> None:
        if done.purpose != "seal":
            return
        if done.round != len(self.seals) + 1 or done.round >= len(self.headers):
            raise LedgerError(f"the journal {self._book.path} is damaged: round {done.round} is not whole")
        header, receipt = self.headers[done.round], done.receipt
        assert receipt is not None
        self.seals.append(Seal(header.round, header.root, header.head, header.count, receipt.transaction, receipt.gas))
        self._model = header.model
        if live:
            self._require_state()

    def restored(self) -> None:
        if [header.round for header in self.headers] != list(range(len(self.seals) + 1)):
            raise LedgerError(f"the journal {self._book.path} is damaged: round {len(self.seals) + 1} is not whole")
        self.require_contract(self._book.domain.contract)
        self.refresh()
        self._require_state()

    def _require_state(self) -> None:
        """Compare the last sealed round with the contract."""
        round, contract = len(self.seals), self._book.domain.contract
        state = self.state(contract)
        expected = {
            "round": round,
            "head": self.head,
            "model": self._model,
            "configHash": self._federation.config_hash,
            "registryRoot": self._registry.root,
        }
        for name, value in expected.items():
            if state[name] != value:
                raise Contradiction(
                    f"journal and chain contradict each other: {name} of round {round} is {_show(value)} in "
                    f"{self._book.path} and {_show(state[name])} in contract {contract}"
                )


def _show(value: Any) -> str:
    return hexed(value) if isinstance(value, bytes) else f"{value}"[:100]
