// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Annex} from "../src/Annex.sol";
import {PositionalTree} from "../src/PositionalTree.sol";
import {Base, Tree} from "./Base.sol";
import {Paired} from "./Paired.sol";

/// @dev The libraries take proofs from call data.
contract Trees {
    function holds(bytes32 root, uint256 slot, bytes32 leaf, uint256 slots, bytes32[] calldata proof)
        external
        pure
        returns (bool)
    {
        return PositionalTree.verify(root, slot, leaf, slots, proof);
    }

    function requireNamed(bytes32 annex, bytes32 name, bytes32 digest, bytes32[] calldata proof) external pure {
        Annex.requireNamed(annex, name, digest, proof);
    }
}

contract TreesTest is Base {
    Trees internal trees;
    bytes32[] internal none;

    function setUp() public {
        trees = new Trees();
    }

    // --- Positional trees --------------------------------------------------------------------------------------------

    function testFuzzPositionalProofs(uint8 size, uint8 where, bytes32 salt) public view {
        uint256 slots = 1 + uint256(size) % 40;
        uint256 slot = where % slots;
        bytes32[] memory leaves = new bytes32[](slots);
        for (uint256 i = 0; i < slots; ++i) {
            leaves[i] = i % 3 == 2 ? Tree.EMPTY : keccak256(abi.encode(salt, i));
        }
        bytes32 root = Tree.root(leaves);
        bytes32[] memory proof = Tree.prove(leaves, slot);
        check(trees.holds(root, slot, leaves[slot], slots, proof), "present");
        check(trees.holds(root, slot, Tree.EMPTY, slots, proof) == (slot % 3 == 2), "absent");
        check(!trees.holds(root, slot, keccak256("x"), slots, proof), "another leaf");
        check(!trees.holds(root, slots, leaves[slot], slots, proof), "beyond the slots");
        if (slots == 1) return;
        check(!trees.holds(root, slot ^ 1, leaves[slot], slots, proof), "another slot");
        proof = new bytes32[](proof.length - 1);
        check(!trees.holds(root, slot, leaves[slot], slots, proof), "a shorter proof");
    }

    // --- Annex -------------------------------------------------------------------------------------------------------

    /// @dev Digests 01.., 02.., and so on; the roots were computed by another implementation in another language.
    function testAnnexOfFixedNames() public view {
        bytes32[] memory leaves = new bytes32[](1);
        leaves[0] = Paired.named("scores", filled(3));
        check(leaves[0] == 0x3d811d2783ba5db962883e7b3f7789a30ae3283c8337e9a2223462792939c3db, "one name");
        trees.requireNamed(leaves[0], keccak256("scores"), filled(3), none);

        leaves = new bytes32[](3);
        leaves[0] = Paired.named("decisions", filled(1));
        leaves[1] = Paired.named("rewards", filled(2));
        leaves[2] = Paired.named("scores", filled(3));
        bytes32 three = 0x631a3650357d48429fc0a5ee5525fc44b45bf7846062be1dd3691f150a418d01;
        check(Paired.root(leaves) == three, "three names");
        // The third moves up beside the node of the other two.
        bytes32[] memory proof = new bytes32[](1);
        proof[0] = Paired.pair(leaves[0], leaves[1]);
        trees.requireNamed(three, keccak256("scores"), filled(3), proof);

        leaves = new bytes32[](5);
        leaves[0] = Paired.named("committee", filled(5));
        leaves[1] = Paired.named("decisions", filled(1));
        leaves[2] = Paired.named("privacy", filled(4));
        leaves[3] = Paired.named("rewards", filled(2));
        leaves[4] = Paired.named("scores", filled(3));
        bytes32 five = 0x9c8f659b765a39770a29fd91f651ba876631373e237075af20cd0830b3322923;
        check(Paired.root(leaves) == five, "five names");
        trees.requireNamed(five, keccak256("privacy"), filled(4), Paired.prove(leaves, 2));
    }

    function filled(uint8 value) internal pure returns (bytes32) {
        return bytes32(uint256(value) * 0x0101010101010101010101010101010101010101010101010101010101010101);
    }

    function testAnEmptyAnnexHoldsNothing() public {
        refuseNamed(0, keccak256("scores"), 0, none);
        refuseNamed(0, keccak256("scores"), keccak256("digest"), none);
        refuseNamed(0, 0, 0, none);
    }

    function refuseNamed(bytes32 annex, bytes32 name, bytes32 digest, bytes32[] memory proof) internal {
        refuse(Annex.AnnexProofInvalid.selector, abi.encode(annex, name, digest));
        trees.requireNamed(annex, name, digest, proof);
    }

    /// @dev Each of n names is proven by its own proof, and by no other name, digest or proof.
    function testFuzzAnnex(uint8 size, uint8 where, uint8 other, bytes32 salt) public {
        uint256 count = 1 + uint256(size) % 9;
        uint256 position = where % count;
        bytes32[] memory leaves = new bytes32[](count);
        for (uint256 i = 0; i < count; ++i) {
            leaves[i] = Paired.leaf(abi.encode(nameOf(i), digestOf(salt, i)));
        }
        bytes32 annex = Paired.root(leaves);
        bytes32 name = nameOf(position);
        bytes32 digest = digestOf(salt, position);
        bytes32[] memory proof = Paired.prove(leaves, position);
        trees.requireNamed(annex, name, digest, proof);
        refuseNamed(annex, nameOf(position + 1), digest, proof);
        refuseNamed(annex, name, digestOf(salt, position + 1), proof);
        refuseNamed(annex, name, digest, Paired.append(proof, annex));
        if (count == 1) return;
        uint256 wrong = (position + 1 + other % (count - 1)) % count;
        refuseNamed(annex, name, digest, Paired.prove(leaves, wrong));
        refuseNamed(annex, name, digest, none);
        // An inner node is the hash of 64 bytes, and so is what a leaf is the hash of: but only once.
        (bytes32 left, bytes32 right) = leaves[0] < leaves[1] ? (leaves[0], leaves[1]) : (leaves[1], leaves[0]);
        if (count == 2) refuseNamed(annex, left, right, none);
    }

    function nameOf(uint256 position) internal pure returns (bytes32) {
        return keccak256(abi.encode("name", position));
    }

    function digestOf(bytes32 salt, uint256 position) internal pure returns (bytes32) {
        return keccak256(abi.encode(salt, position));
    }
}
