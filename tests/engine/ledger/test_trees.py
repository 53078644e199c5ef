"""Both trees and the annex against definitions written a second time."""

from itertools import permutations

import pytest
from eth_utils import keccak
from hypothesis import given, settings
from hypothesis import strategies as st
from simulators import EMPTY_SLOT, reference_annex, reference_root

from engine.errors import LedgerError
from engine.ledger.format import ZERO
from engine.ledger.trees import (
    EMPTY,
    annex_path,
    annex_root,
    levels,
    named,
    paired_levels,
    paired_path,
    paired_root,
    path,
    root,
    verify,
)

hashes = st.binary(min_size=32, max_size=32)
trees = st.lists(st.one_of(hashes, st.just(EMPTY)), min_size=1, max_size=40)


@settings(deadline=None, max_examples=60)
@given(trees, st.data())
def test_proofs_show_presence_and_absence_in_one_position(leaves: list[bytes], data: st.DataObject):
    top = root(leaves)
    assert top == reference_root(leaves)
    slot = data.draw(st.integers(0, len(leaves) - 1))
    proof = path(levels(leaves), slot)
    assert verify(top, leaves[slot], slot, len(leaves), proof)
    other_leaf = data.draw(hashes.filter(lambda leaf: leaf != leaves[slot]))
    assert not verify(top, other_leaf, slot, len(leaves), proof)
    assert not verify(top, leaves[slot], len(leaves), len(leaves), proof)
    assert not verify(top, leaves[slot], slot, len(leaves), [*proof, EMPTY])
    for other in range(len(leaves)):
        if leaves[other] != leaves[slot]:
            assert not verify(top, leaves[slot], other, len(leaves), path(levels(leaves), other))
            assert not verify(top, leaves[slot], other, len(leaves), proof)


@settings(deadline=None, max_examples=40)
@given(trees, st.data())
def test_any_other_leaf_gives_another_root(leaves: list[bytes], data: st.DataObject):
    slot = data.draw(st.integers(0, len(leaves) - 1))
    changed = list(leaves)
    changed[slot] = data.draw(hashes.filter(lambda leaf: leaf != leaves[slot]))
    assert root(changed) != root(leaves)


def test_the_empty_leaf_and_what_is_no_tree():
    assert EMPTY == EMPTY_SLOT
    with pytest.raises(LedgerError, match="at least one slot"):
        root([])


def test_a_paired_tree_by_hand():
    a, b, c = (keccak(bytes([i])) for i in range(3))
    pair = keccak(min(a, b) + max(a, b))
    tree = paired_levels([a, b, c])
    assert tree[-1] == [keccak(min(pair, c) + max(pair, c))]
    assert [paired_path(tree, i) for i in range(3)] == [[b, c], [a, c], [pair]]
    assert (paired_root([]), paired_root([a])) == (ZERO, a)


digests = st.dictionaries(st.text(max_size=12), st.one_of(hashes, st.just(ZERO)), max_size=9)


@given(digests)
def test_the_annex_is_the_written_out_one_and_every_digest_is_proven_under_it(named_digests: dict[str, bytes]):
    annex = annex_root(named_digests)
    assert annex == reference_annex(named_digests)
    for name in named(named_digests):
        node = keccak(keccak(keccak(text=name) + named_digests[name]))
        for sibling in annex_path(named_digests, name):
            node = keccak(min(node, sibling) + max(node, sibling))
        assert node == annex


def test_an_annex_does_not_depend_on_the_order_and_knows_no_zero():
    found = {"scores": b"\x01" * 32, "decisions": b"\x02" * 32, "rewards": b"\x03" * 32}
    assert len({annex_root({name: found[name] for name in order}) for order in permutations(found)}) == 1
    assert annex_root({**found, "privacy": ZERO}) == annex_root(found)
    assert annex_root({"scores": ZERO}) == annex_root({}) == ZERO
    with pytest.raises(LedgerError, match="the annex names no privacy"):
        annex_path(found, "privacy")
