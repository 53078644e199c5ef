// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/**
 * @title PositionalTree
 * @notice Merkle tree in which leaf i belongs to slot i. The path follows from the slot and siblings are never sorted,
 * so one proof shows what sits in exactly that slot, be it a leaf or the mark of an empty slot, and nothing can sit in
 * two slots unseen. The tree is padded with `EMPTY` to a power of two.
 */
library PositionalTree {
    /// @notice Leaf of a slot without an entry. The first byte keeps leaves (0), nodes (1) and this mark (2) apart.
    bytes32 internal constant EMPTY = keccak256("\x02PulseLedger empty slot");

    /**
     * @notice Tells whether `leaf` sits in `slot` of a tree of `slots` slots.
     * @param root Root of the tree.
     * @param slot Position of the leaf, from 0.
     * @param leaf The leaf, `EMPTY` to ask for absence.
     * @param slots Number of slots of the tree, without the padding.
     * @param proof Siblings from the leaf to the root.
     * @return True if the proof leads to the root.
     */
    function verify(bytes32 root, uint256 slot, bytes32 leaf, uint256 slots, bytes32[] calldata proof)
        internal
        pure
        returns (bool)
    {
        // A proof of another length would let an inner node pass for a leaf.
        if (slot >= slots || proof.length != depth(slots)) return false;
        bytes32 node = leaf;
        for (uint256 level = 0; level < proof.length; ++level) {
            bytes32 sibling = proof[level];
            node = (slot >> level) & 1 == 1
                ? keccak256(abi.encodePacked(bytes1(0x01), sibling, node))
                : keccak256(abi.encodePacked(bytes1(0x01), node, sibling));
        }
        return node == root;
    }

    /**
     * @notice Returns the number of siblings in a proof.
     * @param slots Number of slots of the tree, at least 1.
     * @return Number of levels above the leaves: the smallest d with 2^d >= slots.
     */
    function depth(uint256 slots) internal pure returns (uint256) {
        return Math.log2(slots, Math.Rounding.Ceil);
    }
}
