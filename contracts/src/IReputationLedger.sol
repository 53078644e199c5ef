// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRoundLedger} from "./IRoundLedger.sol";

/**
 * @title IReputationLedger
 * @notice Records, events and errors of the ReputationLedger. Those of the RoundLedger that it asks come through unchanged.
 */
interface IReputationLedger {
    /// @notice Who claims a reward, and how much.
    struct Claim {
        /// Slot of the hospital.
        uint32 slot;
        /// Account that holds the slot.
        address account;
        /// Commitment to its organisation.
        bytes32 organisation;
        /// Points of the slot over all rounds up to the proven one.
        uint256 cumulative;
    }

    /**
     * @notice The reputations of 16 slots took the verdicts of a round.
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @param index Number of the word: it holds slots 16 * index to 16 * index + 15.
     * @param participated One bit per slot that was judged.
     * @param accepted One bit per slot whose update was accepted.
     * @param threshold The mean reputation that the rule compares with.
     * @param values The 16 reputations after the change, 16 bits each, lowest slot in the lowest bits.
     */
    event ReputationChanged(
        bytes32 indexed federation,
        uint64 indexed round,
        uint32 indexed index,
        uint16 participated,
        uint16 accepted,
        uint16 threshold,
        uint256 values
    );

    /**
     * @notice A hospital's reward was claimed.
     * @param federation Identifier of the federation.
     * @param slot Slot of the hospital.
     * @param account Account that it is due to.
     * @param round Number of the final round whose rewards were proven.
     * @param amount Points of this claim.
     * @param cumulative Points of all claims so far.
     */
    event RewardClaimed(
        bytes32 indexed federation,
        uint32 indexed slot,
        address indexed account,
        uint64 round,
        uint256 amount,
        uint256 cumulative
    );

    /// @notice The verdicts of this or a later round have already been taken.
    error ReputationOutOfOrder(bytes32 federation, uint32 index, uint64 last, uint64 given);

    /// @notice A mask names a slot that does not exist, or accepts one that did not take part.
    error MaskInvalid(bytes32 federation, uint32 index, uint16 participated, uint16 accepted);

    /// @notice The threshold exceeds the largest reputation.
    error ThresholdOutOfRange(uint16 threshold, uint16 max);

    /// @notice Rewards are due once their round is FINAL.
    error RoundNotFinal(bytes32 federation, uint64 round, IRoundLedger.RoundStatus status);

    /// @notice The account is not an active holder of the slot.
    error NotHospital(bytes32 federation, uint32 slot, address account);

    /// @notice The proof does not lead to the root.
    error ProofInvalid(bytes32 root, bytes32 leaf);

    /// @notice Nothing is left to claim.
    error NothingToClaim(bytes32 federation, uint32 slot, uint256 claimed, uint256 cumulative);
}
