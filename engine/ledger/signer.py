"""The hospital's side of the ledger: what it signs, and what it checks before it signs.

A hospital signs its update of a round over the head of the round before, and so the whole history. It does that only
when the coordinator shows that this history holds what the hospital sent before, under the heads that it signed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from engine.encoding import hexed, keccak
from engine.errors import LedgerError
from engine.ledger.keystore import load_key
from engine.ledger.recount import Shown, Weighed, drawn, led_by, remembered, server_digest, weighed
from engine.ledger.signing import (
    SALT_MASKS,
    SALT_METRICS,
    SALT_PRIVACY,
    SALT_REAL_COUNT,
    SALT_SAMPLES,
    SALT_SCORES,
    hospital_key,
    recover_digest,
    salt,
    sign,
)
from engine.ledger.subjects.closing import HospitalResult, SignedResult, text_digest
from engine.ledger.subjects.committee import RevealedScores, ScoreCommitment, commitment_of, commitments_digest
from engine.ledger.subjects.masks import StepVoice
from engine.ledger.subjects.reputation import PeerScores, said_digest
from engine.ledger.subjects.synthetic import (
    SignedPreview,
    SignedReport,
    SignedRequest,
    SyntheticPreview,
    SyntheticReport,
    SyntheticRequest,
    real_floor,
)
from engine.ledger.subjects.updates import (
    Header,
    ModelUpdate,
    Opening,
    Receipt,
    SignedUpdate,
    commitments,
    count_commitment,
    head_of,
    update_leaf,
)
from engine.ledger.trees import verify
from engine.ledger.typed import Domain, digest
from engine.model import Layout


@dataclass(frozen=True)
class Signing:
    """What a hospital needs to sign: the federation, the contract that anchors it, and where it begins.

    Attributes:
        coordinator: address that signs receipts.
        slots: number of hospitals.
        genesis: head of round 0.
        keystore: folder of the encrypted keys; None derives the key from the seed of the run.
        checks: slots that are drawn for a round to compute its model again.
        holders: for each slot the accounts that may sign for it; what hospitals compare does not depend on them.
        led: accounts that were coordinator before; receipts of earlier rounds are theirs.
    """

    federation: bytes
    config_hash: bytes
    domain: Domain
    coordinator: str
    slots: int
    genesis: bytes
    keystore: Path | None = None
    checks: int = 0
    holders: tuple[tuple[str, ...], ...] = field(default=(), compare=False)
    led: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Notice:
    """What the coordinator tells hospitals before they sign: how the ledger stands, and what became of their updates.

    Attributes:
        model: hash of the model that the round starts from.
        headers: sealed rounds without a gap, from the oldest that one of them must check to the last.
        paths: slot -> siblings, joined, from the leaf of its last update to the root of that round.
        receipts: slot -> round and coordinator's signature, of its newest receipt.
        shown: the last round as those who are drawn for it must compute it again; None where it cannot be shown.
    """

    model: bytes
    headers: tuple[Header, ...]
    paths: Mapping[int, bytes]
    receipts: Mapping[int, tuple[int, bytes]]
    shown: Shown | None = None


@dataclass(frozen=True)
class Terms:
    """What the coordinator tells hospitals before they ask for synthetic beats.

    Attributes:
        signing: as for updates, but for the contract that requests and reports are signed for.
        policy_version: of the policy in force.
    """

    signing: Signing
    policy_version: int


@dataclass(frozen=True)
class Memory:
    """What a hospital remembers of its last update: round, leaf, and the head that it signed with it."""

    round: int
    leaf: bytes
    parent_head: bytes


class Signer:
    """Holds the key of one hospital. Whoever keeps `memory` can build it again after its process was lost."""

    def __init__(self, slot: int, signing: Signing, seed: int, memory: Memory | None = None) -> None:
        """Derives the key or reads it from the keystore.

        Raises:
            LedgerError: there is no key, or the password is wrong.
        """
        self._slot, self._signing = slot, signing
        if signing.keystore is None:
            self._key = hospital_key(seed, signing.federation, slot)
        else:
            self._key = load_key(signing.keystore, slot)
        self.memory: Memory | None = None
        self._promised: dict[int, bytes] = {}  # round -> leaf without a receipt so far
        if memory is not None:
            self.restore(memory)

    def restore(self, memory: Memory) -> None:
        """Take up what an earlier process of this hospital remembered."""
        self.memory, self._promised = memory, {memory.round: memory.leaf}

    def check(self, notice: Notice) -> None:
        """Compare a notice with what this hospital signed and sent.

        Raises:
            LedgerError: the heads do not follow from each other or from the one that was signed, the last update is
                not in its slot of the round that it was sent for, or a receipt is for something else.
        """
        signing, last = self._signing, self.memory
        _check_headers(notice.headers, signing)
        if last is not None:
            header = next((h for h in notice.headers if h.round == last.round), None)
            if header is None:
                raise LedgerError(f"round {last.round}, in which this hospital took part, is not shown")
            if header.previous_head != last.parent_head:
                raise LedgerError(
                    f"round {last.round} follows head {hexed(header.previous_head)}, "
                    f"this hospital signed {hexed(last.parent_head)}"
                )
            joined = notice.paths.get(self._slot, b"")
            siblings = [joined[i : i + 32] for i in range(0, len(joined), 32)]
            if not verify(header.root, last.leaf, self._slot, signing.slots, siblings):
                raise LedgerError(
                    f"the proof does not lead from the update of round {last.round} to the root {hexed(header.root)}"
                )
        if self._slot in notice.receipts:
            self._take(*notice.receipts[self._slot])
        if notice.shown is None and self.is_drawn(notice):
            round = notice.headers[-1].round
            raise LedgerError(f"this hospital is drawn to compute round {round} again, but is not shown its updates")

    def has_signed(self, notice: Notice) -> bool:
        """Whether this hospital has sent an update over the last head of the notice."""
        header, last = notice.headers[-1], self.memory
        return last is not None and (last.round, last.parent_head) == (header.round + 1, header.head)

    def is_drawn(self, notice: Notice) -> bool:
        """Whether this hospital must compute the last round again before it signs: it is drawn to, or leads that round.

        Raises:
            LedgerError: what is shown of the round's committee is not what the head commits to.
        """
        header, checks = notice.headers[-1], self._signing.checks
        if header.round == 0 or not checks:
            return False
        leads = notice.shown is not None and led_by(notice.shown, header) == self._slot
        return leads or self._slot in _drawn(header.head, self._signing.slots, checks)

    def weighed(self, notice: Notice, layout: Layout, name: Callable[[int, np.ndarray], bytes]) -> list[Weighed]:
        """The updates of the last round as they are shown, checked against the signatures and the head; see `recount`.

        Args:
            name: of what a hospital has sent: what it signs as its update.

        Raises:
            LedgerError: they are not what was signed.
        """
        assert notice.shown is not None
        return weighed(notice.shown, notice.headers[-1], self._signing.domain, self._signing.holders, layout, name)

    def require_remembered(self, notice: Notice, server: Mapping[str, np.ndarray]) -> None:
        """Compare what the server's optimiser remembers after the last round, as it was computed again; see `recount`.

        Raises:
            LedgerError: it is not what the head commits to, or what is shown of the round before is not.
        """
        assert notice.shown is not None
        header = notice.headers[-1]
        if server_digest(server) != remembered(notice.shown, header, self._signing.domain, self._signing.federation):
            raise LedgerError(
                f"the server's optimiser remembers something else after round {header.round} than follows from its updates"
            )

    def update(
        self,
        notice: Notice,
        vector_hash: bytes,
        samples: int,
        metrics: dict[str, Any],
        privacy: dict[str, Any] | None = None,
        start: int | None = None,
    ) -> tuple[SignedUpdate, Opening, bytes]:
        """Sign the update of the round after the last of the notice: record, what opens its commitments, and its leaf.

        Args:
            start: round after which the model was made that the work began from; None: the last.

        Raises:
            LedgerError: this hospital has signed another update for this round, or one for a later round.
        """
        signing, header = self._signing, notice.headers[-1]
        round = header.round + 1
        salts = [salt(self._key, signing.federation, round, purpose) for purpose in (SALT_SAMPLES, SALT_METRICS)]
        opening = Opening(samples, salts[0], metrics, salts[1], privacy)
        committed = commitments(opening)
        record = ModelUpdate(
            federation=signing.federation,
            round=round,
            slot=self._slot,
            parent_model=notice.model if start is None else self.model_after(notice, start),
            parent_head=header.head,
            update=vector_hash,
            samples=committed["samples"],
            metrics=committed["metrics"],
            privacy=committed["privacy"],
            config_hash=signing.config_hash,
            nonce=round,
        )
        signed = SignedUpdate(record, sign(record, signing.domain, self._key))
        leaf = update_leaf(signed, signing.domain)
        if self.memory is not None and self.memory.round >= round and self.memory.leaf != leaf:
            raise LedgerError(f"this hospital has already signed another update, for round {self.memory.round}")
        self.memory = Memory(round, leaf, header.head)
        self._promised[round] = leaf
        return signed, opening, leaf

    def model_after(self, notice: Notice, round: int) -> bytes:
        """The name of the model that work began from after a round, which the notice must show.

        Raises:
            LedgerError: it does not.
        """
        if round == notice.headers[-1].round:
            return notice.model
        header = next((header for header in notice.headers if header.round == round), None)
        if header is None:
            raise LedgerError(f"round {round}, after which this hospital's work began, is not shown")
        return header.model

    def request(
        self, terms: Terms, class_: int, generator: int, quantity: int, real: int, settings: bytes
    ) -> SignedRequest:
        """Ask for synthetic beats of a class; of the number of real ones only a floor and a commitment are told.

        Args:
            settings: digest of the generator's settings, 32 bytes.
        """
        record = SyntheticRequest(
            federation=self._signing.federation,
            slot=self._slot,
            class_=class_,
            generator=generator,
            quantity=quantity,
            real_floor=real_floor(real),
            real_count=count_commitment(self.count_salt(class_), real),
            settings=settings,
            policy_version=terms.policy_version,
            nonce=class_ + 1,
            deadline=0,
        )
        return SignedRequest(record, sign(record, terms.signing.domain, self._key))

    def count_salt(self, class_: int) -> bytes:
        """What opens, with the number, the commitment to the real beats of a class, 32 bytes."""
        return salt(self._key, self._signing.federation, class_ + 1, SALT_REAL_COUNT)

    def preview(self, terms: Terms, request: bytes, generated: int, batch: bytes, evidence: bytes) -> SignedPreview:
        """Sign what was generated for a reviewer to look at; see `report`."""
        record = SyntheticPreview(request, generated, batch, evidence)
        return SignedPreview(record, sign(record, terms.signing.domain, self._key))

    def report(
        self, terms: Terms, request: bytes, generated: int, batch: bytes, evidence: bytes, numbers: Mapping[str, int]
    ) -> SignedReport:
        """Sign what was generated for a request.

        Args:
            batch, evidence: digests, 32 bytes.
            numbers: those of the evidence that policy bounds, by the names of the record.
        """
        record = SyntheticReport(request, generated, batch, evidence, **numbers)
        return SignedReport(record, sign(record, terms.signing.domain, self._key))

    def secret(self) -> bytes:
        """What only the holder of the key can know, 32 bytes, for noise and sampling of a privacy mechanism."""
        return salt(self._key, self._signing.federation, 0, SALT_PRIVACY)

    def mask_secret(self, drawn: bytes) -> bytes:
        """What masks follow from, 32 bytes that only this hospital can know; `drawn` is what it has drawn besides its key."""
        return keccak(salt(self._key, self._signing.federation, 0, SALT_MASKS) + drawn)

    def voice(self, notice: Notice) -> StepVoice:
        """How this hospital speaks in the masked sums of the round after the last of the notice; call `check` first."""
        signing, header = self._signing, notice.headers[-1]
        place = (signing.domain, signing.federation, header.round + 1, header.head)
        return StepVoice(*place, signing.holders, self._slot, self._key)

    def withdraw(self) -> None:
        """Forget the last update: it never left this hospital's host."""
        if self.memory is not None:
            self._promised.pop(self.memory.round, None)
            self.memory = None

    def scores(self, round: int, said: Sequence[tuple[int, bytes, int, int]]) -> bytes:
        """Sign what this hospital found of the other updates of a round in which it took part.

        Args:
            said: slot, hash of the update, correct predictions and beats, by ascending slot.

        Raises:
            LedgerError: it did not take part in that round.
        """
        if self.memory is None or self.memory.round != round:
            raise LedgerError(f"this hospital did not take part in round {round}, whose updates it is to judge")
        federation, head = self._signing.federation, self.memory.parent_head
        record = PeerScores(federation, round, self._slot, head, said_digest(said))
        return sign(record, self._signing.domain, self._key)

    def commitment(self, notice: Notice, said: bytes) -> tuple[bytes, bytes]:
        """Commit to scores of the round after the last of the notice: commitment and signature; call `check` first.

        Args:
            said: digest of the scores.
        """
        federation, header = self._signing.federation, notice.headers[-1]
        found = commitment_of(self.scores_salt(header.round + 1), said)
        record = ScoreCommitment(federation, header.round + 1, self._slot, header.head, found)
        return found, sign(record, self._signing.domain, self._key)

    def scores_salt(self, round: int) -> bytes:
        """What opens, with its scores, a judge's commitment of a round, 32 bytes."""
        return salt(self._key, self._signing.federation, round, SALT_SCORES)

    def revealed(self, notice: Notice, said: bytes, commitments: Mapping[int, bytes]) -> bytes:
        """Sign scores, and with them that everybody's commitments were there before.

        Raises:
            LedgerError: the commitment of this hospital is not among them, or is another one.
        """
        federation, header = self._signing.federation, notice.headers[-1]
        if commitments.get(self._slot) != commitment_of(self.scores_salt(header.round + 1), said):
            raise LedgerError("this hospital's commitment to its scores is not among those that it is shown")
        shown = commitments_digest(commitments)
        record = RevealedScores(federation, header.round + 1, self._slot, header.head, shown, said)
        return sign(record, self._signing.domain, self._key)

    def result(self, notice: Notice, content: str) -> SignedResult:
        """Sign what came of the run, and with it the last head, which no later update names; call `check` first.

        Args:
            content: what this hospital states, canonical JSON.

        Raises:
            LedgerError: there is no receipt for the last update of this hospital.
        """
        signing, header = self._signing, notice.headers[-1]
        if self.memory is not None and self.memory.round in self._promised:
            raise LedgerError(f"the coordinator gave no receipt for the update of round {self.memory.round}")
        record = HospitalResult(signing.federation, header.round, self._slot, header.head, text_digest(content))
        return SignedResult(record, sign(record, signing.domain, self._key), content)

    def _take(self, round: int, signature: bytes) -> None:
        leaf = self._promised.get(round)
        if leaf is None:
            return  # of a time before this process
        record = Receipt(self._signing.federation, round, self._slot, leaf)
        try:
            signer = recover_digest(digest(record, self._signing.domain), signature)
        except LedgerError as error:
            raise LedgerError(f"the receipt of round {round} is damaged: {error}") from error
        if signer not in (self._signing.coordinator, *self._signing.led):
            raise LedgerError(f"the receipt of round {round} is not the coordinator's word on the update that was sent")
        self._promised = {r: leaf for r, leaf in self._promised.items() if r > round}


@lru_cache(maxsize=8)  # all hospitals of a process ask for the same rounds
def _drawn(head: bytes, slots: int, many: int) -> frozenset[int]:
    return drawn(head, slots, many)


@lru_cache(maxsize=8)  # all hospitals of a process are shown the same rounds
def _check_headers(headers: tuple[Header, ...], signing: Signing) -> None:
    if not headers:
        raise LedgerError("no head is shown")
    for before, header in zip((None, *headers), headers, strict=False):
        if before is not None and (header.previous_head != before.head or header.round != before.round + 1):
            raise LedgerError(f"round {header.round} does not follow round {before.round}")
        if header.round == 0:
            if header.head != signing.genesis:
                raise LedgerError(f"the federation begins with head {hexed(header.head)}, not with its own")
        elif head_of(header, signing.domain, signing.federation) != header.head:
            raise LedgerError(f"the head of round {header.round} does not follow from what is shown of it")
