"""The ledger as an observer of the loop: computes the head of each round, hands signed rounds to the ledger beside it.

The next round needs the head of the one before, so tree and head are computed here, from the leaves that the hospitals
send. Checking signatures, journal, receipts and chain go on in the background; what they find ends the run.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from engine.background import Answer, Background
from engine.errors import LedgerError
from engine.ledger import archive
from engine.ledger.bundle import write_bundle
from engine.ledger.config import LedgerConfig
from engine.ledger.desk import LedgerDesk
from engine.ledger.keys import Notice, Signing, read_rotations
from engine.ledger.ledger import Governed, Ledger, Opened
from engine.ledger.merkle import EMPTY, levels, next_head, path, scores_root, update_leaf
from engine.ledger.records import (
    NO_ROUND,
    Domain,
    Federation,
    Header,
    ModelUpdate,
    PeerScore,
    RoundEntry,
    Seal,
    SignedUpdate,
    Verdicts,
    opening_from_json,
    record_from_json,
    record_to_json,
    verdicts_from_json,
)
from engine.ledger.reputation import accepted_of, after, earned, peer_scores, standing, threshold, verdicts, words
from engine.messages import Asked
from engine.model import vector_hash


class LedgerObserver:
    """Observer of one run. A round waits for hashing, signing, tree and head; everything else goes on beside it.

    Attributes:
        signing: what hospitals need to sign.
        organisations: of the hospitals, by slot.
        seconds: time that the loop waited for this observer.
    """

    wants_vectors = True

    def __init__(self, folder: Path, federation: Federation, config: LedgerConfig, actor: bool, rounds: int) -> None:
        """Opens or creates the ledger in `folder`, for a run of `rounds` rounds.

        Raises:
            LedgerError: the node is unreachable, or journal, chain and this run contradict each other.
        """
        started = time.perf_counter()
        self._folder, self._federation, self._rounds = folder, federation, rounds
        keystore = None if config.keystore is None else Path(config.keystore)
        self._rotations = read_rotations(keystore) if keystore is not None else []
        where = (config.backend, config.url, config.chain_id, config.contract, config.key_file)
        settings = (*where, config.confirmations, config.timeout)
        self._ledger = Background(Ledger, folder, federation, *settings, actor=actor)
        try:
            opened: Opened = self._ledger.submit(Ledger.opened).result()
        except BaseException:
            self._ledger.abandon()
            raise
        self.organisations = federation.organisations
        self._headers = list(opened.headers)
        self._decisions = opened.decisions
        self._verdicts = dict(opened.verdicts)
        self._standing = standing(self._verdicts[round] for round in sorted(self._verdicts))
        self.signing = Signing(
            federation.id,
            federation.config_hash,
            opened.domain,
            opened.coordinator,
            len(federation.hospitals),
            opened.headers[0].head,
            keystore,
        )
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="archive")
        self._writing: Future[Path] | None = None
        self._open: list[tuple[RoundEntry, list[Answer[Any]]]] = []  # the last answer holds the receipts
        self._last: dict[int, tuple[int, list[list[bytes]]]] = {}  # slot -> round of its last update and the tree
        self._receipts: dict[int, tuple[int, bytes]] = {}
        self.open_seconds = time.perf_counter() - started
        self.seconds = 0.0

    def desk(self, federation: bytes) -> LedgerDesk:
        """The desk of this ledger, which knows its federation."""
        return LedgerDesk(self)

    def name(self, params: np.ndarray) -> bytes:
        return vector_hash(params, self._federation.layout)

    def notice(self, asked: Asked) -> Notice:
        started = time.perf_counter()
        self._collect()
        slots = asked.hospitals
        seen = {slot: self._last[slot] for slot in slots if slot in self._last}
        first = min((round for round, _ in seen.values()), default=len(self._headers) - 1)
        notice = Notice(
            asked.model,
            tuple(self._headers[first:]),
            {slot: b"".join(path(tree, slot)) for slot, (_, tree) in seen.items()},
            {slot: self._receipts.pop(slot) for slot in slots if slot in self._receipts},
        )
        self.seconds += time.perf_counter() - started
        return notice

    def received(self, round: int, updates: Sequence[Any]) -> None:
        """Begins to archive the updates of a round, beside what the loop does with them."""
        vectors = {u.hospital: u.vector for u in updates}
        self._writing = self._writer.submit(archive.write_round, self._folder, round, vectors)

    def round_finished(self, record: Any) -> None:
        """Waits for the archive and submits the round; raises what the ledger refused of an earlier one."""
        started = time.perf_counter()
        if self._writing is not None:
            self._writing.result()
        signed = tuple(u.signed.update for u in record.updates)
        judged, peers = self._judge(record)
        entry = RoundEntry(
            record.round,
            record.parent,
            record.model,
            signed,
            tuple(u.signed.opening for u in record.updates),
            verdicts=judged,
            peers=peers,
            decisions=self._decisions,
            next_deadline=NO_ROUND if record.round == self._rounds else 0,
        )
        self._submit(entry, {u.hospital: u.signed.leaf for u in record.updates})
        self.seconds += time.perf_counter() - started

    @property
    def decisions(self) -> bytes:
        """Hash chain of the decisions on synthetic data, as the next round will name it."""
        return self._decisions

    def governance(self) -> tuple[Domain, list[tuple[str, bytes, str, bytes | None, str | None]]]:
        """As `Ledger.governance`."""
        steps: tuple[Domain, list[Any]] = self._ledger.submit(Ledger.governance).result()
        return steps

    def govern(self, kind: str, content: Any, signature: bytes | None = None, sender: str | None = None) -> Governed:
        """As `Ledger.govern`; the rounds from now on name the decisions after it."""
        done: Governed = self._ledger.submit(Ledger.govern, kind, content, signature, sender).result()
        self._decisions = done.decisions
        return done

    def pending(self) -> list[Any]:
        """The rounds, as JSON values, that the ledger has not confirmed; they go into the checkpoint."""
        self._collect()
        return [_to_json(entry) for entry, _ in self._open]

    def replay(self, pending: list[Any], rounds: int) -> None:
        """Submits the rounds of a checkpoint again; what the ledger already holds it confirms.

        Args:
            rounds: that the checkpoint holds; the ledger may have more, of a run that stopped before its checkpoint.

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
        self._standing = standing(self._verdicts[round] for round in sorted(self._verdicts) if round <= known)
        for entry in entries:
            self._submit(entry, {u.record.slot: update_leaf(u, self.signing.domain) for u in entry.updates})
        self._last = {}  # hospitals begin anew, too
        for rotation in self._rotations:
            self._ledger.submit(Ledger.rotate, *rotation).result()

    def finish(self) -> None:
        """Waits until the last round is sealed, so that its receipts can be given out."""
        started = time.perf_counter()
        while self._open:
            self._settle()
        self.seconds += time.perf_counter() - started

    def summary(self) -> dict[str, Any]:
        """What the ledger holds, once it has sealed the last round."""
        self.finish()
        summary: dict[str, Any] = self._ledger.submit(Ledger.summary).result()
        return summary

    def leave(self) -> None:
        """Waits for everything submitted and lets go of a run that may go on later."""
        self.finish()
        self._ledger.close()
        self._writer.shutdown()

    def close(self, signatures: Mapping[int, bytes]) -> dict[str, Any]:
        """Keeps the hospitals' signatures under the last head, makes the rounds final, returns the summary."""
        started = time.perf_counter()
        self._ledger.submit(Ledger.cosign, len(self._headers) - 1, signatures).result()
        if self._federation.window == 0 and len(self._headers) > 1:
            self._ledger.submit(Ledger.finalize).result()
        summary: dict[str, Any] = self._ledger.submit(Ledger.summary).result()
        self.seconds += time.perf_counter() - started
        self._ledger.close()
        self._writer.shutdown()
        return summary

    def bundle(self, result: Mapping[str, Any], config: str) -> str:
        """Writes everything that an audit needs into one file; returns its SHA-256 in hex. The ledger is closed."""
        return write_bundle(self._folder, result, config)

    def abandon(self) -> None:
        """Lets go without waiting for a good end, after something else failed."""
        self._writer.shutdown()
        self._ledger.abandon()

    def _submit(self, entry: RoundEntry, leaves: Mapping[int, bytes]) -> None:
        self._collect()
        if entry.round != len(self._headers):
            raise LedgerError(f"round {entry.round} cannot follow round {len(self._headers) - 1}")
        tree = levels([leaves.get(slot, EMPTY) for slot in range(self.signing.slots)])
        before, domain = self._headers[-1].head, self.signing.domain
        scores = scores_root(entry.round, entry.verdicts, entry.peers)
        content = (tree[-1][0], entry.parent_model, entry.model, len(leaves), scores, entry.decisions)
        head = next_head(before, domain, self._federation.id, entry.round, *content)
        self._headers.append(Header(entry.round, before, *content, head))
        self._last.update(dict.fromkeys(leaves, (entry.round, tree)))
        answers: list[Answer[Any]] = [self._ledger.submit(Ledger.append, entry)]
        if entry.verdicts:
            accepted = accepted_of(entry.verdicts)
            reputations = after(self._standing[0], accepted, entry.verdicts[0].threshold)
            self._standing = reputations, earned(self._standing[1], reputations, accepted)
            answers.append(self._ledger.submit(Ledger.update_reputation, entry.round))
        self._open.append((entry, [*answers, self._ledger.submit(Ledger.receipts, entry.round)]))

    def _judge(self, record: Any) -> tuple[tuple[Verdicts, ...], tuple[PeerScore, ...]]:
        """The verdicts on a round's updates, and the scores that they follow from; none where an update has no judge."""
        peers = tuple(
            PeerScore(slot, judge, *record.verdicts[slot][judge])
            for slot in sorted(record.verdicts)
            for judge in sorted(record.verdicts[slot])
        )
        scores, slots = peer_scores(peers), [u.hospital for u in record.updates]
        if not peers or set(scores) != set(slots):
            return (), ()
        return words(verdicts(scores), threshold(self._standing[0], slots)), peers

    def _collect(self) -> None:
        while self._open and self._open[0][1][-1].done():
            self._settle()

    def _settle(self) -> None:
        """Takes the ledger's answer on the oldest open round."""
        entry, (sealed, *posted, receipts) = self._open[0]
        seal: Seal = sealed.result()
        for answer in posted:
            answer.result()
        if seal.head != self._headers[entry.round].head:
            raise LedgerError(
                f"round {entry.round} was sealed with head 0x{seal.head.hex()}, the hospitals were told "
                f"0x{self._headers[entry.round].head.hex()}"
            )
        self._receipts.update({slot: (entry.round, signature) for slot, signature in receipts.result().items()})
        self._open.pop(0)


def _to_json(entry: RoundEntry) -> dict[str, Any]:
    updates = [
        [record_to_json(signed.record), signed.signature.hex(), record_to_json(opening)]
        for signed, opening in zip(entry.updates, entry.openings, strict=True)
    ]
    return {
        "round": entry.round,
        "parent": entry.parent_model.hex(),
        "model": entry.model.hex(),
        "updates": updates,
        "verdicts": [record_to_json(one) for one in entry.verdicts],
        "peers": [[one.slot, one.judge, one.correct, one.total] for one in entry.peers],
        "decisions": entry.decisions.hex(),
        "next_deadline": entry.next_deadline,
    }


def _from_json(value: Any) -> RoundEntry:
    try:
        return RoundEntry(
            value["round"],
            bytes.fromhex(value["parent"]),
            bytes.fromhex(value["model"]),
            tuple(SignedUpdate(record_from_json(ModelUpdate, r), bytes.fromhex(s)) for r, s, _ in value["updates"]),
            tuple(opening_from_json(opening) for _, _, opening in value["updates"]),
            tuple(verdicts_from_json(text) for text in value["verdicts"]),
            tuple(PeerScore(*row) for row in value["peers"]),
            bytes.fromhex(value["decisions"]),
            value["next_deadline"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(f"the checkpoint's ledger entries are damaged ({error}).") from None
