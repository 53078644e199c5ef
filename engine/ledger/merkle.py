"""The tree of a round and the chain of heads.

The tree is positional: leaf i belongs to slot i, and a slot without an update holds the fixed `EMPTY` leaf. The path of
a proof follows from the slot, siblings are never sorted, so one proof shows presence or absence in exactly that slot
and a hospital cannot appear twice.
"""

from collections.abc import Sequence

from eth_hash.auto import keccak

from engine.errors import LedgerError
from engine.ledger.records import Domain, Federation, SignedUpdate, address_bytes, update_digest, word

# The first byte keeps leaves (0), nodes (1) and the empty leaf (2) apart: none can pass for another.
EMPTY = keccak(b"\x02PulseLedger empty slot")


def update_leaf(signed: SignedUpdate, domain: Domain) -> bytes:
    """Hash a signed update into the leaf of its slot, 32 bytes."""
    record = signed.record
    return keccak(
        b"\x00"
        + record.schema.to_bytes(2, "big")
        + record.slot.to_bytes(4, "big")
        + update_digest(record, domain)
        + signed.signature
    )


def registry_root(hospitals: Sequence[str]) -> bytes:
    """Compute the root of the same tree over the addresses of all hospitals, one leaf per slot."""
    return root([keccak(b"\x00" + slot.to_bytes(4, "big") + address_bytes(h)) for slot, h in enumerate(hospitals)])


def root(leaves: Sequence[bytes]) -> bytes:
    """Compute the root of at least one leaf, padded with EMPTY to a power of two.

    Raises:
        LedgerError: there is no leaf.
    """
    return _levels(leaves)[-1][0]


def prove(leaves: Sequence[bytes], slot: int) -> list[bytes]:
    """Return the siblings of a slot from the leaf to the root.

    Raises:
        LedgerError: there is no such slot.
    """
    if not 0 <= slot < len(leaves):
        raise LedgerError(f"slot {slot} is not one of the {len(leaves)} slots of the tree")
    return [level[(slot >> depth) ^ 1] for depth, level in enumerate(_levels(leaves)[:-1])]


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
        + registry_root(federation.hospitals)
        + federation.genesis_model
    )


def next_head(
    head: bytes,
    domain: Domain,
    federation: bytes,
    round: int,
    root: bytes,
    parent_model: bytes,
    model: bytes,
    count: int,
    slots: int,
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
        + word(slots)
    )


def _node(left: bytes, right: bytes) -> bytes:
    return keccak(b"\x01" + left + right)


def _depth(size: int) -> int:
    return (size - 1).bit_length()


def _levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    if not leaves:
        raise LedgerError("a tree needs at least one slot")
    level = [*leaves, *[EMPTY] * ((1 << _depth(len(leaves))) - len(leaves))]
    levels = [level]
    while len(level) > 1:
        level = [_node(level[i], level[i + 1]) for i in range(0, len(level), 2)]
        levels.append(level)
    return levels
