"""What hospitals and coordinator sign in a round, and what follows from it: leaves, heads. Small enough for a hospital."""

from dataclasses import dataclass
from typing import Any

from engine.encoding import json_hash, keccak
from engine.ledger.format import SCHEMA, ZERO
from engine.ledger.subjects.privacy import said_digest
from engine.ledger.subjects.registry import Federation, registry_root
from engine.ledger.typed import (
    U8,
    U16,
    U32,
    U64,
    Bytes32,
    Domain,
    Json,
    JsonOrNone,
    Record,
    address_bytes,
    digest,
    word,
)


@dataclass(frozen=True, kw_only=True)
class ModelUpdate(Record):
    """What one hospital signs in one round.

    Attributes:
        schema: version of this record.
        federation: identifier of the federation.
        round: number of the round, from 1.
        slot: position of the hospital, from 0.
        parent_model: hash of the model that it started from.
        parent_head: head after the round before; signing it signs the history so far.
        update: hash of the change that it sends.
        samples: salted commitment to the number of training samples, its weight.
        metrics: salted commitment to what the hospital measured on its own data.
        privacy: digest of what the privacy mechanism says and has spent, see `privacy.py`; zero without one.
        config_hash: hash of the configuration.
        nonce: a number of the hospital's choice; two records with different nonces differ.
        deadline: seconds since 1970 after which the contract takes it no more, 0 for none.
    """

    schema: U16 = SCHEMA
    federation: Bytes32
    round: U64
    slot: U32
    parent_model: Bytes32
    parent_head: Bytes32
    update: Bytes32
    samples: Bytes32
    metrics: Bytes32
    privacy: Bytes32
    config_hash: Bytes32
    nonce: U64
    deadline: U64 = 0


@dataclass(frozen=True)
class SignedUpdate:
    """A record and the 65 bytes r, s, v (27 or 28) of its hospital's signature."""

    record: ModelUpdate
    signature: bytes


@dataclass(frozen=True)
class Receipt(Record):
    """The coordinator's word that it took this leaf; with an absence proof, evidence that it broke it."""

    federation: Bytes32
    round: U64
    slot: U32
    leaf: Bytes32


@dataclass(frozen=True)
class Absence(Record):
    """The coordinator's word that a hospital's job ended in this round without an update: it was lost, or given up as late.

    Attributes:
        job: number of the job among the hospital's, from 1.
        kind: position in `format.ABSENCES`.
        start: rounds that were done when it began.
    """

    federation: Bytes32
    round: U64
    slot: U32
    job: U64
    kind: U8
    start: U64


@dataclass(frozen=True)
class Availability(Record):
    """An auditor's word that it holds the vector behind an update that was shown to the contract directly."""

    federation: Bytes32
    round: U64
    slot: U32
    leaf: Bytes32


@dataclass(frozen=True)
class Erasure(Record):
    """A hospital's word that the opening of one of its updates was erased at its will."""

    federation: Bytes32
    round: U64
    slot: U32
    leaf: Bytes32


@dataclass(frozen=True)
class Opening(Record):
    """What stands behind the salted commitments of one update; deleting it makes them unreadable for good.

    Attributes:
        samples: number of training samples.
        metrics: what the hospital measured.
        privacy: inputs of the privacy accountant, None without differential privacy.
    """

    samples: U64
    samples_salt: Bytes32
    metrics: Json
    metrics_salt: Bytes32
    privacy: JsonOrNone = None


def count_commitment(salt: bytes, count: int) -> bytes:
    """Commit to a number: keccak256(abi.encode(bytes32 salt, uint256 count))."""
    return keccak(salt + word(count))


def commitments(opening: Opening) -> dict[str, bytes]:
    """Return the fields samples, metrics and privacy of the update that an opening belongs to."""
    return {
        "samples": count_commitment(opening.samples_salt, opening.samples),
        # keccak256(abi.encode(bytes32 salt, bytes32 sha256 of the canonical JSON))
        "metrics": keccak(opening.metrics_salt + json_hash(opening.metrics)),
        "privacy": ZERO if opening.privacy is None else said_digest(opening.privacy),
    }


# --- Leaves and heads -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Header(Record):
    """A sealed round as its head commits to it; `head` follows from the other fields, see `head_of`.

    Attributes:
        round: number of the round, from 1; 0 is the opening of the federation.
        previous_head: head before it.
        root: root of the tree of updates.
        parent_model: hash of the model before the round.
        model: hash of the model after it.
        count: number of updates.
        annex: root over the digests that subjects name, zero without.
        head: head after it.
    """

    round: U64
    previous_head: Bytes32
    root: Bytes32
    parent_model: Bytes32
    model: Bytes32
    count: U32
    annex: Bytes32
    head: Bytes32 = ZERO

    @property
    def abi(self) -> tuple[Any, ...]:
        """As the contract's Header."""
        return self.round, self.previous_head, self.root, self.parent_model, self.model, self.count, self.annex


def update_leaf(signed: SignedUpdate, domain: Domain) -> bytes:
    """Hash a signed update into the leaf of its slot, 32 bytes."""
    return leaf_of(signed, digest(signed.record, domain))


def leaf_of(signed: SignedUpdate, digest: bytes) -> bytes:
    """As `update_leaf`, where the digest is known."""
    record = signed.record
    place = record.schema.to_bytes(2, "big") + record.slot.to_bytes(4, "big")
    return keccak(b"\x00" + place + digest + signed.signature)


def genesis_header(domain: Domain, federation: Federation) -> Header:
    """Return the opening of a federation as a header of round 0."""
    head = keccak(
        word(domain.chain_id)
        + word(address_bytes(domain.contract))
        + federation.id
        + federation.config_hash
        + registry_root(federation)
        + federation.genesis_model
        + word(len(federation.hospitals))
        + word(federation.quorum)
    )
    return Header(0, ZERO, ZERO, federation.genesis_model, federation.genesis_model, 0, ZERO, head)


def head_of(header: Header, domain: Domain, federation: bytes) -> bytes:
    """Compute the head that a header leads to, as the contract does; whoever checks compares it with `header.head`."""
    return keccak(
        header.previous_head
        + word(domain.chain_id)
        + word(address_bytes(domain.contract))
        + federation
        + word(header.round)
        + header.root
        + header.parent_model
        + header.model
        + word(header.count)
        + header.annex
    )
