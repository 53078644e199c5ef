"""Two kinds of Merkle trees.

The positional tree holds the updates of a round, and the registry: leaf i belongs to slot i, and a slot without an update
holds the fixed `EMPTY` leaf. The path of a proof follows from the slot, siblings are never sorted, so one proof shows
presence or absence in exactly that slot, and a hospital cannot appear twice.

The paired tree holds what is asked for by content (verdicts, rewards, the digests of an annex): pairs are sorted, an odd
node moves up as it is. OpenZeppelin's MerkleProof follows its proofs.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from engine.encoding import keccak
from engine.errors import LedgerError
from engine.ledger.format import ZERO

# The first byte keeps leaves (0), nodes (1) and the empty leaf (2) apart: none can pass for another.
EMPTY = keccak(b"\x02PulseLedger empty slot")

Levels = list[list[bytes]]  # of a tree, from the leaves to the root

# --- By position ------------------------------------------------------------------------------------------------------


def levels(leaves: Sequence[bytes]) -> Levels:
    """Compute all levels of the tree, from the leaves, padded with EMPTY to a power of two, to the root.

    Raises:
        LedgerError: there is no leaf.
    """
    if not leaves:
        raise LedgerError("a tree needs at least one slot")
    level = [*leaves, *[EMPTY] * ((1 << _depth(len(leaves))) - len(leaves))]
    found = [level]
    while len(level) > 1:
        level = [keccak(b"\x01" + level[i] + level[i + 1]) for i in range(0, len(level), 2)]
        found.append(level)
    return found


def root(leaves: Sequence[bytes]) -> bytes:
    """Compute the root of at least one leaf; raises LedgerError when there is none."""
    return levels(leaves)[-1][0]


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


@lru_cache(maxsize=8192)  # hospitals of one process check their paths through the same tree
def _node(left: bytes, right: bytes) -> bytes:
    return keccak(b"\x01" + left + right)


def _depth(size: int) -> int:
    return (size - 1).bit_length()


# --- By content -------------------------------------------------------------------------------------------------------


def paired_levels(leaves: Sequence[bytes]) -> Levels:
    """Compute a paired tree from at least one leaf up."""
    level = list(leaves)
    found = [level]
    while len(level) > 1:
        pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
        level = [keccak(b"".join(sorted(pair))) if len(pair) == 2 else pair[0] for pair in pairs]
        found.append(level)
    return found


def paired_root(leaves: Sequence[bytes]) -> bytes:
    """Compute the root of a paired tree, ZERO without a leaf."""
    return paired_levels(leaves)[-1][0] if leaves else ZERO


def paired_path(levels: Sequence[Sequence[bytes]], position: int) -> list[bytes]:
    """Return the siblings of the leaf at a position of `paired_levels`; a node without one adds nothing."""
    proof = []
    for level in levels[:-1]:
        if position ^ 1 < len(level):
            proof.append(level[position ^ 1])
        position >>= 1
    return proof


# --- The annex of a round ---------------------------------------------------------------------------------------------


def annex_root(digests: Mapping[str, bytes]) -> bytes:
    """Compute the annex over named digests, ZERO without any. A digest that is ZERO is left out."""
    return paired_root([_annex_leaf(name, digests[name]) for name in named(digests)])


def annex_path(digests: Mapping[str, bytes], name: str) -> list[bytes]:
    """Return the siblings from a named digest to the annex.

    Raises:
        LedgerError: the annex does not name it.
    """
    names = named(digests)
    if name not in names:
        raise LedgerError(f"the annex names no {name}")
    return paired_path(paired_levels([_annex_leaf(one, digests[one]) for one in names]), names.index(name))


def named(digests: Mapping[str, bytes]) -> list[str]:
    """Return the names that an annex holds, in the order of its leaves: by their bytes, none whose digest is ZERO."""
    return sorted((name for name, digest in digests.items() if digest != ZERO), key=str.encode)


def _annex_leaf(name: str, digest: bytes) -> bytes:
    # Hashed twice, so that no inner node (64 bytes) can pass for a leaf.
    return keccak(keccak(keccak(name.encode()) + digest))
