// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Annex} from "./Annex.sol";
import {CommitteeVerdicts} from "./CommitteeVerdicts.sol";
import {ICommitteeLedger} from "./ICommitteeLedger.sol";
import {IRoundLedger} from "./IRoundLedger.sol";
import {RoundLedger} from "./RoundLedger.sol";

/**
 * @title CommitteeLedger
 * @notice Judges the updates of sealed rounds by the scores of their committees. It takes nobody's word on a verdict: it computes
 * it, from scores that are proven under the annex of the round's header. That judges committed to their scores before any was
 * told, and that they signed them, stands in the journal, which an audit reads.
 *
 * The events hold every verdict.
 */
contract CommitteeLedger is ICommitteeLedger {
    /// @notice Name in the annex of the digest of a sitting.
    bytes32 public constant COMMITTEE = keccak256("committee");

    /// @notice Contract that knows federations, rounds and hospitals.
    // Capitals for immutables are the convention of Solidity's style guide; slither knows the older one.
    // slither-disable-next-line naming-convention
    RoundLedger public immutable ROUNDS;

    /// @notice Last round of a federation whose updates were judged.
    mapping(bytes32 federation => uint64 round) public judged;

    /**
     * @notice Fixes the contract that knows federations, rounds and hospitals.
     * @param rounds The RoundLedger.
     */
    constructor(RoundLedger rounds) {
        ROUNDS = rounds;
    }

    /**
     * @notice Judges the updates of a sealed round. Anyone may relay it.
     *
     * Requirements:
     *
     * - `header` must pass `requireSealed` of the RoundLedger, and be of the round of the sitting.
     * - neither this round nor a later one may have been judged.
     * - the annex must hold the digest of the sitting as `COMMITTEE`.
     * - slots must ascend, so that no judge counts twice, and exist.
     * - as {verdicts}.
     *
     * Emits a {RoundJudged} event, and a {LeaderElected} event where somebody leads.
     *
     * @param federation Identifier of the federation.
     * @param header What the head of the round was hashed from.
     * @param sitting What the judges said.
     * @param annexProof Siblings of the sitting's digest in the annex.
     */
    function judgeRound(
        bytes32 federation,
        IRoundLedger.Header calldata header,
        Sitting memory sitting,
        bytes32[] calldata annexProof
    ) external {
        // SEALED and FINAL are both good for a verdict.
        // slither-disable-next-line unused-return
        (, uint32 slots) = ROUNDS.requireSealed(federation, header);
        if (sitting.round != header.round) revert SittingOfOtherRound(federation, header.round, sitting.round);
        uint64 last = judged[federation];
        if (header.round <= last) revert RoundAlreadyJudged(federation, last, header.round);
        bytes32 said = CommitteeVerdicts.digest(sitting);
        Annex.requireNamed(header.annex, COMMITTEE, said, annexProof);
        _requireSlots(sitting.judges, slots);
        _requireSlots(sitting.absent, slots);
        _requireSlots(sitting.trainers, slots);

        judged[federation] = header.round;
        (uint16[] memory scores, uint256 qualified) = CommitteeVerdicts.verdicts(sitting);
        emit RoundJudged(federation, header.round, said, sitting.trainers, scores, qualified, sitting.absent);
        (bool found, uint32 slot, uint256 merit) = CommitteeVerdicts.leader(sitting, qualified);
        if (found) emit LeaderElected(federation, header.round, slot, merit);
    }

    /**
     * @notice Computes what follows from the scores of a committee; changes nothing.
     * @param sitting What the judges said.
     * @return scores Score of each trainer, in parts of 10,000.
     * @return qualified One bit for each trainer, the first in the lowest.
     */
    function verdicts(Sitting memory sitting) external pure returns (uint16[] memory scores, uint256 qualified) {
        return CommitteeVerdicts.verdicts(sitting);
    }

    /**
     * @notice Finds who leads a round by the scores of a committee; changes nothing.
     * @param sitting What the judges said.
     * @return found Whether anybody leads.
     * @return slot Its slot.
     * @return merit What its update was found to be, in parts of 1,000,000.
     */
    function leader(Sitting memory sitting) external pure returns (bool found, uint32 slot, uint256 merit) {
        // The scores are not needed.
        // slither-disable-next-line unused-return
        (, uint256 qualified) = CommitteeVerdicts.verdicts(sitting);
        return CommitteeVerdicts.leader(sitting, qualified);
    }

    /**
     * @notice Computes the digest of a sitting, as the annex of its round names it.
     * @param sitting What the judges said.
     * @return The digest.
     */
    function digest(Sitting memory sitting) external pure returns (bytes32) {
        return CommitteeVerdicts.digest(sitting);
    }

    /**
     * @notice Computes a hospital's lot: with election "random" the smallest lots of those who may be elected sit.
     * @param model The model that the round starts from.
     * @param round Number of the round.
     * @param slot Slot of the hospital.
     * @return The lot.
     */
    function lot(bytes32 model, uint64 round, uint32 slot) external pure returns (bytes32) {
        return sha256(abi.encodePacked("PulseLedger committee 1", model, round, slot));
    }

    function _requireSlots(uint32[] memory slots, uint32 limit) private pure {
        for (uint256 i = 0; i < slots.length; ++i) {
            uint32 before = i == 0 ? 0 : slots[i - 1];
            if (slots[i] >= limit || (i > 0 && slots[i] <= before)) revert SlotsInvalid(before, slots[i], limit);
        }
    }
}
