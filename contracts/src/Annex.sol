// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";

/**
 * @title Annex
 * @notice The annex of a round's header: the root of a tree over named digests, so that whatever is to be bound to a
 * round needs a name and no field of its own. Names in use:
 *
 * - "committee": digest of what the judges of the round said of its updates;
 * - "decisions": head of the chain of decisions on synthetic data;
 * - "privacy": digest of the privacy mechanism and its budget, see `Budget`;
 * - "rewards": root over the cumulative rewards after the round;
 * - "scores": root over the verdicts of the round.
 *
 * The tree is that of OpenZeppelin's `MerkleProof` (pairs are sorted before they are hashed). A leaf is
 * keccak256(keccak256(abi.encode(keccak256(name), digest))), hashed twice so that no node passes for a leaf. Leaves
 * stand in ascending order of the bytes of their names, a node without a partner moves up unchanged, a digest of zero
 * is left out, and the annex is zero if nothing is named.
 *
 * That a name stands once, and in its place, is for an audit to check: a proof shows that a digest is there.
 */
library Annex {
    /// @notice The proof does not show that the annex holds this digest under this name.
    error AnnexProofInvalid(bytes32 annex, bytes32 name, bytes32 digest);

    /**
     * @notice Requires that an annex holds a digest under a name.
     * @param annex The annex.
     * @param name Keccak-256 of the name.
     * @param digest The digest.
     * @param proof Siblings from the leaf to the annex.
     */
    function requireNamed(bytes32 annex, bytes32 name, bytes32 digest, bytes32[] calldata proof) internal pure {
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(name, digest))));
        if (!MerkleProof.verifyCalldata(proof, annex, leaf)) revert AnnexProofInvalid(annex, name, digest);
    }
}
