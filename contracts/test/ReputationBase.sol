// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IReputationLedger} from "../src/IReputationLedger.sol";
import {IRoundLedger} from "../src/IRoundLedger.sol";
import {ReputationLedger} from "../src/ReputationLedger.sol";
import {Base} from "./Base.sol";
import {Paired} from "./Paired.sol";

/// @dev A ReputationLedger beside the RoundLedger of `Base`, and what it takes to drive it.
abstract contract ReputationBase is Base {
    /// @dev What the annex of a round names; zero is left out.
    struct Subjects {
        bytes32 decisions;
        bytes32 rewards;
        bytes32 scores;
    }

    ReputationLedger internal reputations;

    function deployReputation() internal {
        reputations = new ReputationLedger(ledger);
    }

    function annexLeaves(Subjects memory subjects) internal pure returns (bytes32[] memory leaves) {
        if (subjects.decisions != 0) leaves = Paired.append(leaves, Paired.named("decisions", subjects.decisions));
        if (subjects.rewards != 0) leaves = Paired.append(leaves, Paired.named("rewards", subjects.rewards));
        if (subjects.scores != 0) leaves = Paired.append(leaves, Paired.named("scores", subjects.scores));
    }

    function annexOf(Subjects memory subjects) internal pure returns (bytes32) {
        return Paired.root(annexLeaves(subjects));
    }

    /// @dev Siblings of the verdicts: the last leaf.
    function scoresProof(Subjects memory subjects) internal pure returns (bytes32[] memory) {
        bytes32[] memory leaves = annexLeaves(subjects);
        return Paired.prove(leaves, leaves.length - 1);
    }

    /// @dev Siblings of the rewards: the leaf after the decisions, if there are any.
    function rewardsProof(Subjects memory subjects) internal pure returns (bytes32[] memory) {
        return Paired.prove(annexLeaves(subjects), subjects.decisions == 0 ? 0 : 1);
    }

    function scoresLeaf(uint64 round, uint32 index, uint16 participated, uint16 accepted, uint16 threshold)
        internal
        pure
        returns (bytes32)
    {
        return Paired.leaf(abi.encode(round, index, participated, accepted, threshold));
    }

    function rewardLeaf(uint32 slot, uint256 cumulative) internal pure returns (bytes32) {
        return Paired.leaf(abi.encode(slot, cumulative));
    }

    /// @dev Seals the open round with an annex.
    function sealWith(Subjects memory subjects) internal returns (IRoundLedger.Header memory header) {
        header = nextHeader(Paired.leaf(abi.encode("root", progress().round)));
        header.annex = annexOf(subjects);
        seal(header);
    }

    function finalize() internal {
        vm.warp(block.timestamp + WINDOW);
        ledger.finalizeRound(FEDERATION);
    }

    function claimOf(uint32 slot, uint256 cumulative) internal pure returns (IReputationLedger.Claim memory) {
        return IReputationLedger.Claim(slot, hospitalOf(slot), organisation(slot), cumulative);
    }

    function reputation(uint32 slot) internal view returns (uint16) {
        return reputations.reputation(FEDERATION, slot);
    }
}
