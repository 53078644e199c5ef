"""What a drawn hospital is shown to compute a round's model again, and what it checks of that first.

Which hospitals are drawn for a round follows from its head: nobody chooses, and each knows it by itself. A drawn hospital
that signs again after a round has computed its model from the updates of all, and found the one under the head.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from engine.encoding import canonical_json, hexed, keccak, unhexed
from engine.errors import LedgerError
from engine.ledger.format import COMMITTEE, SERVER, ZERO, tensor_name
from engine.ledger.signing import recover_digest
from engine.ledger.sitting import leader_of
from engine.ledger.subjects.committee import said_from
from engine.ledger.subjects.updates import (
    Header,
    ModelUpdate,
    Opening,
    SignedUpdate,
    count_commitment,
    head_of,
    leaf_of,
)
from engine.ledger.trees import EMPTY, annex_root, root
from engine.ledger.typed import Domain, digest, record_from_json, record_to_json
from engine.model import Layout, model_hash, vector_hash

Began = tuple[int, float]  # of an update: rounds that were done when its work began, what the schedule has it count
Digests = tuple[Mapping[str, bytes], Mapping[str, bytes]]  # by name, of two rounds


@dataclass(frozen=True)
class Shown:
    """A round as a drawn hospital is shown it.

    Attributes:
        round: its number.
        before: float32[parameters], the model that it started from.
        vectors: file of the archive with what the hospitals sent.
        updates: signed records and what opens their weights, see `packed`.
        server: what the server's optimiser remembered then.
        previous: header of the round before; None before round 1.
        digests: behind the annexes of the round before and of this one.
        masks: what was said in its masked sums, see `masking.py`; () where nothing was hidden.
        sitting: what its committee said, see `subjects/committee.py`; "" where none sat.
        older: rounds that were done -> float32[parameters], models that updates of this round may have begun from.
        began: slot -> where its work began; of those that are missing, with the model before the round.
    """

    round: int
    before: np.ndarray
    vectors: Path
    updates: bytes
    server: Mapping[str, np.ndarray] = field(default_factory=dict)
    previous: Header | None = None
    digests: Digests = field(default_factory=lambda: ({}, {}))
    sitting: str = ""
    older: Mapping[int, np.ndarray] = field(default_factory=dict)
    began: Mapping[int, Began] = field(default_factory=dict)
    masks: tuple[str, ...] = ()


class Weighed(NamedTuple):
    """An update of a round: its slot, the number of samples behind it, float32[parameters]; start and discount as of `Update`."""

    slot: int
    samples: int
    vector: np.ndarray
    start: int
    discount: float


def drawn(head: bytes, slots: int, many: int) -> frozenset[int]:
    """The slots whose hospitals must compute the model of the round with this head, the first by a hash of head and slot."""
    ranked = sorted(range(slots), key=lambda slot: keccak(b"PulseLedger check 1" + head + slot.to_bytes(4, "big")))
    return frozenset(ranked[:many])


def packed(updates: Sequence[SignedUpdate], openings: Sequence[Opening]) -> bytes:
    """The signed updates of a round with the openings of their weights, and of nothing else."""
    pairs = zip(updates, openings, strict=True)
    rows = [[record_to_json(u.record), hexed(u.signature), o.samples, hexed(o.samples_salt)] for u, o in pairs]
    return canonical_json(rows).encode()


def server_digest(server: Mapping[str, np.ndarray]) -> bytes:
    """Hash of what the server's optimiser remembers, as the annex of a round names it; ZERO for nothing."""
    return model_hash(server) if server else ZERO


def remembered(shown: Shown, header: Header, domain: Domain, federation: bytes) -> bytes:
    """What the server's optimiser must remember after a round, as its head commits to it; so must be what is shown of before.

    Raises:
        LedgerError: it is not, or the digests that are shown are not those under the heads.
    """
    where, before, known = f"round {header.round}", shown.previous, ZERO
    if header.round > 1:
        if (
            before is None
            or before.round != header.round - 1
            or head_of(before, domain, federation) != header.previous_head
        ):
            raise LedgerError(f"{where}: the round before is not shown as its head commits to it")
        if annex_root(shown.digests[0]) != before.annex:
            raise LedgerError(f"{where}: the digests of the round before are not those under its head")
        known = shown.digests[0].get(SERVER, ZERO)
    if server_digest(shown.server) != known:
        raise LedgerError(f"{where}: what the server's optimiser remembered is not what the round before committed to")
    if annex_root(shown.digests[1]) != header.annex:
        raise LedgerError(f"{where}: the digests that are shown are not those under the head")
    return shown.digests[1].get(SERVER, ZERO)


def led_by(shown: Shown, header: Header) -> int | None:
    """The hospital that leads a round by what its committee said; None where nobody does.

    Raises:
        LedgerError: what is shown of the committee is not what the head commits to.
    """
    said = said_from(shown.sitting) if shown.sitting else None
    digest = ZERO if said is None else said.digest
    if annex_root(shown.digests[1]) != header.annex or digest != shown.digests[1].get(COMMITTEE, ZERO):
        raise LedgerError(f"round {header.round}: what is shown of its committee is not what the head commits to")
    return leader_of(shown.sitting)


def weighed(
    shown: Shown,
    header: Header,
    domain: Domain,
    holders: Sequence[Sequence[str]],
    layout: Layout,
    name: Callable[[int, np.ndarray], bytes],
) -> list[Weighed]:
    """The updates of a round by slot, each as its hospital has signed it, all together as the head commits to them.

    Args:
        header: of the round.
        holders: for each slot the accounts that may have signed for it.
        layout: of the parameters.
        name: of what a hospital has sent, which it signs as its update.

    Raises:
        LedgerError: something is not what hospitals signed, or not what the head commits to.
    """
    where = f"round {header.round}"
    if shown.round != header.round or vector_hash(shown.before, layout) != header.parent_model:
        raise LedgerError(f"{where}: what is shown starts from another model")
    vectors = _vectors(shown.vectors)
    names = {number: vector_hash(params, layout) for number, params in shown.older.items()}
    leaves, found = [EMPTY] * len(holders), []
    for signed, samples, salt in _unpacked(shown.updates):
        record, slot = signed.record, signed.record.slot
        what = f"{where}, hospital {slot}"
        if slot >= len(holders) or leaves[slot] != EMPTY:
            raise LedgerError(f"{what}: it has no place in the round")
        signed_digest = digest(record, domain)
        if recover_digest(signed_digest, signed.signature) not in holders[slot]:
            raise LedgerError(f"{what}: the update that is shown is not signed by it")
        vector = vectors.get(tensor_name(slot))
        if vector is None or name(slot, vector) != record.update:
            raise LedgerError(f"{what}: the vector that is shown is not the one that it signed")
        if count_commitment(salt, samples) != record.samples:
            raise LedgerError(f"{what}: the weight that is shown is not the one that it committed to")
        leaves[slot] = leaf_of(signed, signed_digest)
        start, discount = shown.began.get(slot, (header.round - 1, 1.0))
        model = header.parent_model if start == header.round - 1 else names.get(start)
        if model != record.parent_model:
            raise LedgerError(
                f"{what}: the model that its work is said to have begun from is not the one that it signed"
            )
        found.append(Weighed(slot, samples, vector, start, discount))
    if root(leaves) != header.root:
        raise LedgerError(f"{where}: the updates that are shown are not those under the head")
    return sorted(found, key=lambda one: one.slot)


def _unpacked(text: bytes) -> list[tuple[SignedUpdate, int, bytes]]:
    try:
        rows = json.loads(text)
        return [
            (SignedUpdate(record_from_json(ModelUpdate, record), unhexed(signature)), int(samples), unhexed(salt))
            for record, signature, samples, salt in rows
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(f"the updates that are shown are damaged ({error})") from None


def _vectors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LedgerError(
            f"{path} cannot be read by a hospital that is drawn to compute the round again ({reason}); hospitals need the "
            "run's folder, or ledger.checks: 0"
        ) from None
