"""The ledger as a part of the loop: closes each round, hands what was signed to the ledger of the run beside it.

The next round needs the head of the one before, so tree and head are made here, from the leaves that the hospitals send.
Checking signatures, journal, receipts and chain go on in the background; what they find ends the run.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from engine.background import Answer, Background
from engine.clock import REAL, Clock
from engine.encoding import hexed, json_hash, unhexed
from engine.errors import DataError, LedgerError
from engine.ledger import archive, masking, sitting
from engine.ledger.base import Again
from engine.ledger.bundle import write_bundle
from engine.ledger.config import FIRST, Leader, LedgerConfig
from engine.ledger.desk import LedgerDesk
from engine.ledger.format import (
    BEFORE,
    BEFORE_THAT,
    CLOCK,
    DECISIONS,
    GENESIS,
    NO_ROUND,
    SERVER,
    ZERO,
    tensor_name,
    vectors_name,
)
from engine.ledger.keystore import read_rotations
from engine.ledger.recount import Began, Digests, Shown, packed, server_digest
from engine.ledger.run import RunLedger
from engine.ledger.signer import Notice, Signing
from engine.ledger.subjects import reputation
from engine.ledger.subjects.closing import SignedResult, bound, text_digest
from engine.ledger.subjects.committee import said_from
from engine.ledger.subjects.masks import maskings
from engine.ledger.subjects.registry import Federation
from engine.ledger.subjects.rounds import Absent, Closed, RoundEntry, Seal, close
from engine.ledger.subjects.synthetic import Governance, Governed, Step
from engine.ledger.subjects.updates import Header, ModelUpdate, Opening, SignedUpdate, update_leaf
from engine.ledger.trees import EMPTY, Levels, levels, path
from engine.ledger.typed import record_from_json, record_to_json
from engine.messages import Asked, Ending, Global, Pace, RoundRecord, Update
from engine.model import vector_hash
from engine.provenance import code_digest
from engine.secure.config import SecureConfig
from engine.secure.part import Place


@dataclass(frozen=True)
class _Submitted:
    """A round that the ledger has not confirmed; answers of its seal, of its verdicts where it has some, of its receipts."""

    entry: RoundEntry
    sealed: Answer[Seal]
    posted: tuple[Answer[None], ...]
    receipts: Answer[dict[int, bytes]]


class LedgerObserver:
    """Ledger of one run. A round waits for hashing, signing, tree and head; everything else goes on beside it.

    Attributes:
        signing: what hospitals need to sign.
        organisations: of the hospitals, by slot.
        seconds: time that the loop waited for this observer.
    """

    wants_vectors = True

    def __init__(
        self,
        folder: Path,
        federation: Federation,
        rule: Mapping[str, Any],
        config: LedgerConfig,
        actor: bool,
        rounds: int,
        clock: Clock = REAL,
        named: Mapping[str, bytes] = MappingProxyType({}),
        lasting: bool = False,
        leader: Leader = FIRST,
    ) -> None:
        """Opens or creates the ledger in `folder`, for a run of `rounds` rounds.

        Args:
            rule: how a round's model follows from its updates, see `format`.
            named: digests that the annex of every round names, such as that of privacy.
            lasting: hospitals remember what they sent when this begins anew.
            leader: who works as coordinator.

        Raises:
            LedgerError: the node is unreachable, or journal, chain and this run contradict each other.
        """
        self._clock, started = clock, clock.now()
        self._folder, self._federation, self._rounds = folder, federation, rounds
        self._by_committee, self._gated = config.reputation == "committee", rule.get("gate") is True
        self._secure = SecureConfig.model_validate(rule.get("secure", {}))
        self._named, self._lasting = named, lasting
        keystore = None if config.keystore is None else Path(config.keystore)
        self._rotations = read_rotations(keystore) if keystore is not None else []
        self._ledger = Background(RunLedger, folder, federation, rule, config, REAL, None, leader, actor=actor)
        try:
            opened = self._ledger.submit(RunLedger.opened).result()
        except BaseException:
            self._ledger.abandon()
            raise
        self.organisations = federation.organisations
        self._headers, self._decisions = list(opened.headers), opened.decisions
        self._found = dict(opened.found)
        self._standing = reputation.standing(self._found.values())
        where = (federation.id, federation.config_hash, opened.domain, opened.coordinator)
        self.signing = Signing(
            *where,
            len(federation.hospitals),
            opened.headers[0].head,
            keystore,
            federation.checks,
            self._holders(opened.holders),
            opened.led,
        )
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="archive")
        self._writing: Future[Path] | None = None
        self._before: np.ndarray | None = None  # parameters that the round under way starts from
        self._shown: Future[Shown] | None = None  # the last round, for those who are drawn for it
        self._digests: Mapping[str, bytes] = {}  # behind the annex of the last round
        self._open: list[_Submitted] = []
        self._last: dict[int, tuple[int, Levels]] = {}  # slot -> round of its last update and the tree
        self._receipts: dict[int, tuple[int, bytes]] = {}
        self.open_seconds, self.seconds = clock.now() - started, 0.0

    def desk(self, federation: bytes) -> LedgerDesk:
        """The desk of this ledger, which knows its federation."""
        return LedgerDesk(self)

    def name(self, params: np.ndarray) -> bytes:
        return vector_hash(params, self._federation.layout)

    def notice(self, asked: Asked) -> Notice:
        started = self._clock.now()
        self._collect()
        slots = asked.hospitals
        seen = {slot: self._last[slot] for slot in slots if slot in self._last}
        began = [start.round for start in asked.starts.values()]
        first = min((*(round for round, _ in seen.values()), *began), default=len(self._headers) - 1)
        notice = Notice(
            asked.model,
            tuple(self._headers[first:]),
            {slot: b"".join(path(tree, slot)) for slot, (_, tree) in seen.items()},
            {slot: self._receipts[slot] for slot in slots if slot in self._receipts},
            None if self._shown is None else self._shown.result(),
        )
        self._before = asked.params
        self.seconds += self._clock.now() - started
        return notice

    def received(self, round: int, updates: Sequence[Update]) -> None:
        """Begins to archive the updates of a round, beside what the loop does with them."""
        vectors = {u.hospital: u.vector for u in updates if u.vector is not None}
        self._writing = self._writer.submit(archive.write_round, self._folder, round, vectors)

    def round_finished(self, record: RoundRecord) -> None:
        """Waits for the archive and submits the round; raises what the ledger refused of an earlier one."""
        started = self._clock.now()
        if self._writing is not None:
            self._writing.result()
        signed = [u.signed for u in record.updates if u.signed is not None]
        present = [u.hospital for u in record.updates]
        judged = reputation.judge(record.judged.verdicts, present, self._standing, record.judged.signatures)
        sat = record.judged.sitting
        if sat.scores and self._by_committee:
            judged = sitting.verdicts(sat, self._standing)
        after = self._standing.after(judged.verdicts, sat.leader)
        remembered = {SERVER: server_digest(record.servers[1]), **clock_digest(record.asked.pace)}
        entry = RoundEntry(
            record.round,
            record.parent,
            record.model,
            tuple(one.update for one in signed),
            tuple(one.opening for one in signed),
            digests={
                DECISIONS: self._decisions,
                **self._named,
                **remembered,
                **reputation.digests(record.round, judged, after),
                **sitting.digests(record.round, sat),
                **masking.digests(record.masking),
            },
            rows={
                **judged.rows(record.round),
                **sitting.rows(record.round, sat),
                **masking.rows(record.round, record.masking),
            },
            next_deadline=NO_ROUND if record.round == self._rounds else 0,
            absent=tuple(Absent(record.round, a.hospital, a.number, a.kind, a.start) for a in record.asked.pace.absent),
        )
        if self._federation.checks:
            assert self._before is not None
            before = Global(self._before, record.servers[0], record.older)
            began = {h: (start.round, start.discount) for h, start in record.asked.starts.items()}
            digests = (self._digests, entry.digests)
            self._shown = self._writer.submit(self._show, entry, before, self._headers[-1], digests, began)
        self._digests = entry.digests
        self._submit(entry, {u.hospital: u.signed.leaf for u in record.updates if u.signed is not None})
        self._standing = after
        self.seconds += self._clock.now() - started

    @property
    def decisions(self) -> bytes:
        """Hash chain of the decisions on synthetic data, as the next round will name it."""
        return self._decisions

    def governance(self) -> Governance:
        """How the governance of synthetic data stands."""
        return self._ledger.submit(_governance).result()

    def govern(self, step: Step) -> Governed:
        """As `Synthetic.take`; the rounds from now on name the decisions after it."""
        done = self._ledger.submit(_take, step).result()
        self._decisions = done.decisions
        return done

    def pending(self) -> list[Any]:
        """The rounds, as JSON values, that the ledger has not confirmed; they go into the checkpoint."""
        self._collect()
        return [_to_json(one.entry) for one in self._open]

    def replay(self, pending: list[Any], rounds: int, again: Again) -> None:
        """Submits the rounds of a checkpoint again; what the ledger already holds it confirms.

        Args:
            rounds: that the checkpoint holds; the ledger may have more, of a run that stopped before its checkpoint.
            again: computes the model of a round anew, for hospitals that are drawn to do so.

        Raises:
            LedgerError: the ledger and the checkpoint together lack a round, or an entry is damaged.
        """
        entries = [_from_json(value) for value in pending]
        known = entries[0].round - 1 if entries else rounds
        if len(self._headers) <= known:
            raise LedgerError(
                f"the checkpoint is after round {rounds}, the ledger in {self._folder} ends with round "
                f"{len(self._headers) - 1}"
            )
        del self._headers[known + 1 :]
        self._standing = reputation.standing(one for round, one in self._found.items() if round <= known)
        for entry in entries:
            self._submit(entry, {u.record.slot: update_leaf(u, self.signing.domain) for u in entry.updates})
            self._standing = self._standing.after(*reputation.found_in(entry.rows, sitting.leader_of))
        self._show_again(again)
        self._last = self._last_trees() if self._lasting else {}  # else hospitals begin anew, too
        for rotation in self._rotations:
            self._ledger.submit(RunLedger.rotate, rotation).result()

    def finish(self) -> None:
        """Waits until the last round is sealed, so that its receipts can be given out."""
        started = self._clock.now()
        while self._open:
            self._settle()
        self.seconds += self._clock.now() - started

    def summary(self) -> dict[str, Any]:
        """What the ledger holds, once it has sealed the last round."""
        self.finish()
        return self._ledger.submit(RunLedger.summary).result()

    def leave(self) -> None:
        """Waits for everything submitted and lets go of a run that may go on later."""
        self.finish()
        self._ledger.close()
        self._writer.shutdown()

    def close(self, signed: Mapping[int, SignedResult], ending: Ending) -> dict[str, Any]:
        """Keeps what hospitals signed at the end, closes over it, makes the rounds final, returns the summary."""
        self.finish()
        digests = {"config": text_digest(ending.config), "data": bytes.fromhex(ending.data), "code": code_digest()}
        if ending.document:
            digests["result"] = json_hash(bound(ending.document))
            digests["predictions"] = bytes.fromhex(ending.predictions())
        self._ledger.submit(_close, dict(signed), ending.state, dict(ending.missing), digests).result()
        if self._federation.window == 0 and len(self._headers) > 1:
            self._ledger.submit(_finalize).result()
        summary = self._ledger.submit(RunLedger.summary).result()
        self._ledger.close()
        self._writer.shutdown()
        return summary

    def bundle(self, result: Mapping[str, Any], config: str) -> None:
        """Writes everything that an audit needs into one file. The ledger is closed."""
        write_bundle(self._folder, result, config)

    def abandon(self) -> None:
        """Lets go without waiting for a good end, after something else failed."""
        self._writer.shutdown()
        self._ledger.abandon()

    def _holders(self, known: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        """With the changes of keys that the ledger takes up when the run goes on."""
        added: dict[int, tuple[str, ...]] = {}
        for rotation in self._rotations:
            added[rotation.record.slot] = (*added.get(rotation.record.slot, ()), rotation.record.to)
        return tuple((*accounts, *added.get(slot, ())) for slot, accounts in enumerate(known))

    def _show(
        self, entry: RoundEntry, before: Global, previous: Header, digests: Digests, began: Mapping[int, Began]
    ) -> Shown:
        """A round as those who are drawn for it are shown it; also for a run that goes on later."""
        archive.write_before(self._folder, before, began)
        vectors = (self._folder / vectors_name(entry.round)).resolve()
        updates = packed(entry.updates, entry.openings)
        text = next((row[1] for row in entry.rows.get("sittings", ())), "")
        masks = tuple(row[2] for row in entry.rows.get("maskings", ()))
        return Shown(
            entry.round,
            before.params,
            vectors,
            updates,
            before.server,
            previous,
            digests,
            text,
            before.older,
            began,
            masks,
        )

    def _show_again(self, again: Again) -> None:
        """Takes up, for a run that goes on, what those who are drawn for the last round must be shown of it."""
        last = self._headers[-1]
        if self._federation.checks == 0 or last.round == 0:
            return
        digests = self._ledger.submit(_digests, last.round).result()
        kept = [archive.read_before(self._folder / name) for name in (BEFORE, BEFORE_THAT)]
        fitting = [one for one in kept if one is not None and self._fits(one[0], last, digests[0])]
        before, began = fitting[0] if fitting else (self._before_again(last, digests[0], again), {})
        updates = self._ledger.submit(_packed, last.round).result()
        vectors, previous = (self._folder / vectors_name(last.round)).resolve(), self._headers[last.round - 1]
        text = self._ledger.submit(_sitting, last.round).result()
        masks = self._ledger.submit(_maskings, last.round).result()
        shown = Shown(
            last.round,
            before.params,
            vectors,
            updates,
            before.server,
            previous,
            digests,
            text,
            before.older,
            began,
            masks,
        )
        self._shown, self._digests = self._writer.submit(lambda: shown), digests[1]

    def _fits(self, before: Global, last: Header, digests: Mapping[str, bytes]) -> bool:
        """Whether this is what the last round started from, as the ledger has it."""
        try:
            model = self.name(before.params)
        except (ValueError, DataError):
            return False  # of another form
        return model == last.parent_model and server_digest(before.server) == digests.get(SERVER, ZERO)

    def _before_again(self, last: Header, digests: Mapping[str, bytes], again: Again) -> Global:
        """What the last round started from, where the process that knew it left none: out of the archive.

        Raises:
            LedgerError: what lies there does not lead to it.
        """
        try:
            before = Global(archive.read(self._folder, 0)[GENESIS], {})
            for number in range(1, last.round):
                vectors = archive.read(self._folder, number)
                signed = zip(*self._ledger.submit(_signed, number).result(), strict=True)
                slots = [(update.record.slot, opening.samples) for update, opening in signed]
                updates = [Update(s, vectors[tensor_name(s)], samples, 0.0, 0) for s, samples in slots]
                if self._gated:
                    updates = sitting.counted(updates, said_from(self._ledger.submit(_sitting, number).result()))
                before = again(number, before, updates, self._summed(number, vectors))
            fits = self._fits(before, last, digests)
        except (KeyError, ValueError, DataError):
            fits = False
        if not fits:
            raise LedgerError(
                f"{self._folder / BEFORE}: is not the model before round {last.round}, which hospitals must compute again, and "
                "the archive beside it does not lead there; put back what was changed"
            )
        return before

    def _summed(self, number: int, vectors: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The sums beneath the masked updates of a round; None where nothing was hidden."""
        texts = self._ledger.submit(_maskings, number).result()
        if not texts:
            return None
        place = Place(self._federation.id, number, self._headers[number - 1].head)
        groups = masking.groups_in(texts, self._secure, place)
        return masking.sums_of(groups, {s: vectors[tensor_name(s)] for one in groups for s in one.masked})

    def _last_trees(self) -> dict[int, tuple[int, Levels]]:
        """Of each hospital's last update the round, and the tree that it is in."""
        found, slots = dict(self._last), self.signing.slots
        for number in range(len(self._headers) - 1 - len(self._open), 0, -1):
            if len(found) == slots:
                break
            updates, _ = self._ledger.submit(_signed, number).result()
            leaves = {u.record.slot: update_leaf(u, self.signing.domain) for u in updates}
            if leaves.keys() - found.keys():
                tree = levels([leaves.get(slot, EMPTY) for slot in range(slots)])
                found = {**dict.fromkeys(leaves, (number, tree)), **found}
        return found

    def _submit(self, entry: RoundEntry, leaves: Mapping[int, bytes]) -> None:
        self._collect()
        if entry.round != len(self._headers):
            raise LedgerError(f"round {entry.round} cannot follow round {len(self._headers) - 1}")
        where = (self.signing.domain, self._federation.id, self.signing.slots)
        closed: Closed = close(entry, leaves, self._headers[-1], *where)
        self._headers.append(closed.header)
        self._last.update(dict.fromkeys(leaves, (entry.round, closed.tree)))
        sealed = self._ledger.submit(RunLedger.append, entry, closed)
        posted = [self._ledger.submit(_post_verdicts, entry.round)] if entry.rows.get("scores") else []
        if entry.rows.get("sittings"):
            posted.append(self._ledger.submit(_judge, entry.round))
        self._open.append(_Submitted(entry, sealed, tuple(posted), self._ledger.submit(_receipts, entry.round)))

    def _collect(self) -> None:
        while self._open and self._open[0].receipts.done():
            self._settle()

    def _settle(self) -> None:
        """Takes the ledger's answer on the oldest open round."""
        oldest = self._open[0]
        seal, number = oldest.sealed.result(), oldest.entry.round
        for answer in oldest.posted:
            answer.result()
        if seal.head != self._headers[number].head:
            raise LedgerError(
                f"round {number} was sealed with head {hexed(seal.head)}, the hospitals were told "
                f"{hexed(self._headers[number].head)}"
            )
        receipts = oldest.receipts.result()
        self._receipts.update({slot: (number, signature) for slot, signature in receipts.items()})
        self._open.pop(0)


# --- Calls of the ledger beside the loop ------------------------------------------------------------------------------


def _governance(ledger: RunLedger) -> Governance:
    return ledger.synthetic.governance()


def _take(ledger: RunLedger, step: Step) -> Governed:
    return ledger.synthetic.take(step)


def _post_verdicts(ledger: RunLedger, round: int) -> None:
    ledger.reputation.update(round)


def _judge(ledger: RunLedger, round: int) -> None:
    ledger.committees.judge(round)


def _sitting(ledger: RunLedger, round: int) -> str:
    return ledger.committees.sitting(round)


def _maskings(ledger: RunLedger, round: int) -> tuple[str, ...]:
    return maskings(ledger.book, round)


def _receipts(ledger: RunLedger, round: int) -> dict[int, bytes]:
    return ledger.rounds.receipts(round)


def _close(
    ledger: RunLedger,
    signed: Mapping[int, SignedResult],
    state: str,
    missing: Mapping[int, str],
    digests: Mapping[str, bytes],
) -> None:
    ledger.closing.close(signed, state, missing, digests)


def _packed(ledger: RunLedger, round: int) -> bytes:
    return packed(*_signed(ledger, round))


def _digests(ledger: RunLedger, round: int) -> Digests:
    """Behind the annexes of the round before and of this one."""
    return ledger.rounds.digests(round - 1), ledger.rounds.digests(round)


def _signed(ledger: RunLedger, round: int) -> tuple[list[SignedUpdate], list[Opening]]:
    return ledger.rounds.signed(round)


def _finalize(ledger: RunLedger) -> None:
    if ledger.challenges.owed() and ledger.book.chain.name == "embedded":
        return  # its clock would pass the time of hospitals that may still answer
    ledger.rounds.finalize()


def clock_digest(pace: Pace) -> dict[str, bytes]:
    """What the annex of a round says of the virtual clock; {} where none is kept."""
    if not pace.arrived:
        return {}
    absent = [[one.hospital, one.number, one.kind, one.start] for one in pace.absent]
    return {CLOCK: json_hash({"now": pace.line.now, "absent": absent})}


# --- Entries in a checkpoint ------------------------------------------------------------------------------------------


def _to_json(entry: RoundEntry) -> dict[str, Any]:
    updates = [
        [record_to_json(signed.record), hexed(signed.signature), record_to_json(opening)]
        for signed, opening in zip(entry.updates, entry.openings, strict=True)
    ]
    return {
        "round": entry.round,
        "parent": hexed(entry.parent_model),
        "model": hexed(entry.model),
        "updates": updates,
        "digests": {name: hexed(digest) for name, digest in entry.digests.items()},
        "rows": {table: [_values(row) for row in rows] for table, rows in entry.rows.items()},
        "next_deadline": entry.next_deadline,
        "absent": [list(one) for one in entry.absent],
    }


def _from_json(value: Any) -> RoundEntry:
    try:
        return RoundEntry(
            value["round"],
            unhexed(value["parent"]),
            unhexed(value["model"]),
            tuple(SignedUpdate(record_from_json(ModelUpdate, r), unhexed(s)) for r, s, _ in value["updates"]),
            tuple(record_from_json(Opening, opening) for _, _, opening in value["updates"]),
            {name: unhexed(digest) for name, digest in value["digests"].items()},
            {table: [tuple(map(_value, row)) for row in rows] for table, rows in value["rows"].items()},
            value["next_deadline"],
            tuple(Absent(*one) for one in value["absent"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LedgerError(f"the checkpoint's ledger entries are damaged ({error}).") from None


def _values(row: Sequence[Any]) -> list[Any]:
    return [{"hex": hexed(value)} if isinstance(value, bytes) else value for value in row]


def _value(value: Any) -> Any:
    return unhexed(value["hex"]) if isinstance(value, dict) else value
