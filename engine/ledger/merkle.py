"""The tree of a round, the chain of heads, and the tree of verdicts.

The tree is positional: leaf i belongs to slot i, and a slot without an update holds the fixed `EMPTY` leaf. The path of
a proof follows from the slot, siblings are never sorted, so one proof shows presence or absence in exactly that slot
and a hospital cannot appear twice.
"""

from collections.abc import Sequence
from functools import lru_cache

from engine.encoding import keccak
from engine.errors import LedgerError
from engine.ledger.records import (
    ZERO,
    Domain,
    Federation,
    Header,
    PeerScore,
    SignedUpdate,
    Verdicts,
    address_bytes,
    digest,
    word,
)

# The first byte keeps leaves (0), nodes (1) and the empty leaf (2) apart: none can pass for another.
EMPTY = keccak(b"\x02PulseLedger empty slot")


def update_leaf(signed: SignedUpdate, domain: Domain) -> bytes:
    """Hash a signed update into the leaf of its slot, 32 bytes."""
    record = signed.record
    return keccak(
        b"\x00"
        + record.schema.to_bytes(2, "big")
        + record.slot.to_bytes(4, "big")
        + digest(record, domain)
        + signed.signature
    )


def registry_leaves(federation: Federation) -> list[bytes]:
    """Compute the leaf of every slot of the registry: its number, first address and organisation."""
    return [
        keccak(b"\x00" + slot.to_bytes(4, "big") + address_bytes(hospital) + organisation)
        for slot, (hospital, organisation) in enumerate(
            zip(federation.hospitals, federation.organisations, strict=True)
        )
    ]


def registry_root(federation: Federation) -> bytes:
    """Compute the root of the registry of hospitals, the same tree as that of a round."""
    return root(registry_leaves(federation))


def root(leaves: Sequence[bytes]) -> bytes:
    """Compute the root of at least one leaf, padded with EMPTY to a power of two.

    Raises:
        LedgerError: there is no leaf.
    """
    return levels(leaves)[-1][0]


def prove(leaves: Sequence[bytes], slot: int) -> list[bytes]:
    """Return the siblings of a slot from the leaf to the root.

    Raises:
        LedgerError: there is no such slot.
    """
    if not 0 <= slot < len(leaves):
        raise LedgerError(f"slot {slot} is not one of the {len(leaves)} slots of the tree")
    return path(levels(leaves), slot)


def path(levels: Sequence[Sequence[bytes]], slot: int) -> list[bytes]:
    """Return the siblings of a slot from the levels of a tree, for many proofs of one tree."""
    return [level[(slot >> depth) ^ 1] for depth, level in enumerate(levels[:-1])]


def verify(root: bytes, leaf: bytes, slot: int, size: int, proof: Sequence[bytes]) -> bool:
    """Tell whether `leaf` sits in `slot` of a tree of `size` slots; with `leaf=EMPTY`, whether the slot is empty."""
    if not 0 <= slot < size or len(proof) != _depth(size) or any(len(sibling) != 32 for sibling in proof):
        return False
    node = leaf
    for depth, sibling in enumerate(proof):
        node = _node(sibling, node) if slot >> depth & 1 else _node(node, sibling)
    return node == root


def genesis_head(domain: Domain, federation: Federation) -> bytes:
    """Compute the head of round 0, as the contract does."""
    return keccak(
        word(domain.chain_id)
        + word(address_bytes(domain.contract))
        + federation.id
        + federation.config_hash
        + registry_root(federation)
        + federation.genesis_model
        + word(len(federation.hospitals))
        + word(federation.quorum)
    )


def genesis_header(domain: Domain, federation: Federation) -> Header:
    """Return the opening of a federation as a header of round 0."""
    model = federation.genesis_model
    return Header(0, ZERO, ZERO, model, model, 0, ZERO, ZERO, genesis_head(domain, federation))


def next_head(
    head: bytes,
    domain: Domain,
    federation: bytes,
    round: int,
    root: bytes,
    parent_model: bytes,
    model: bytes,
    count: int,
    scores_root: bytes = ZERO,
    decisions: bytes = ZERO,
) -> bytes:
    """Compute the head after a round from the head before it, as the contract does."""
    return keccak(
        head
        + word(domain.chain_id)
        + word(address_bytes(domain.contract))
        + federation
        + word(round)
        + root
        + parent_model
        + model
        + word(count)
        + scores_root
        + decisions
    )


def header_head(header: Header, domain: Domain, federation: bytes) -> bytes:
    """Compute the head that a header leads to; whoever checks compares it with `header.head`."""
    return next_head(
        header.previous_head,
        domain,
        federation,
        header.round,
        header.root,
        header.parent_model,
        header.model,
        header.count,
        header.scores_root,
        header.decisions,
    )


# --- Verdicts ---------------------------------------------------------------------------------------------------------


def verdicts_leaf(round: int, verdicts: Verdicts) -> bytes:
    """Hash the verdicts on 16 hospitals, twice, so that a leaf cannot pass for a node."""
    values = (round, verdicts.index, verdicts.participated, verdicts.accepted, verdicts.threshold)
    return keccak(keccak(b"".join(word(value) for value in values)))


def peers_leaf(round: int, peers: Sequence[PeerScore]) -> bytes:
    """Hash the scores that a round's verdicts follow from, twice; no verdicts' leaf starts with this text."""
    values = [value for one in peers for value in (one.slot, one.judge, one.correct, one.total)]
    return keccak(keccak(b"PulseLedger peer scores 1" + word(round) + b"".join(word(value) for value in values)))


def scores_levels(round: int, verdicts: Sequence[Verdicts], peers: Sequence[PeerScore] = ()) -> list[list[bytes]]:
    """Compute the tree of verdicts; the scores behind them are its last leaf, if there are any."""
    leaves = [verdicts_leaf(round, one) for one in verdicts]
    return paired_levels([*leaves, peers_leaf(round, peers)] if peers else leaves)


def scores_root(round: int, verdicts: Sequence[Verdicts], peers: Sequence[PeerScore] = ()) -> bytes:
    """Compute the root of the tree of verdicts, zero without any."""
    return scores_levels(round, verdicts, peers)[-1][0] if verdicts else ZERO


def paired_levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """Compute a tree from at least one leaf up: pairs are sorted, an odd node moves up as it is.

    OpenZeppelin's MerkleProof follows the proofs of this tree.
    """
    level = list(leaves)
    found = [level]
    while len(level) > 1:
        pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
        level = [keccak(b"".join(sorted(pair))) if len(pair) == 2 else pair[0] for pair in pairs]
        found.append(level)
    return found


def paired_path(levels: Sequence[Sequence[bytes]], position: int) -> list[bytes]:
    """Return the siblings of the leaf at a position of `paired_levels`; a node without one adds nothing."""
    proof = []
    for level in levels[:-1]:
        if position ^ 1 < len(level):
            proof.append(level[position ^ 1])
        position >>= 1
    return proof


# --- Small parts ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8192)  # hospitals of one process check their paths through the same tree
def _node(left: bytes, right: bytes) -> bytes:
    return keccak(b"\x01" + left + right)


def _depth(size: int) -> int:
    return (size - 1).bit_length()


def levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """Compute all levels of the tree, from the padded leaves to the root; raises LedgerError without a leaf."""
    if not leaves:
        raise LedgerError("a tree needs at least one slot")
    level = [*leaves, *[EMPTY] * ((1 << _depth(len(leaves))) - len(leaves))]
    found = [level]
    while len(level) > 1:
        level = [keccak(b"\x01" + level[i] + level[i + 1]) for i in range(0, len(level), 2)]
        found.append(level)
    return found
