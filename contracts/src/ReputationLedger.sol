// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Annex} from "./Annex.sol";
import {IReputationLedger} from "./IReputationLedger.sol";
import {IRoundLedger} from "./IRoundLedger.sol";
import {RoundLedger} from "./RoundLedger.sol";

/**
 * @title ReputationLedger
 * @notice Keeps the reputations of hospitals and the rewards that they have claimed. It takes nobody's word: verdicts
 * and rewards are proven under the annex of a round's header, and the header against the RoundLedger, which also knows
 * federations, hospitals and roles. A round that is void or in dispute proves nothing.
 *
 * The events hold every field, so the state can be rebuilt from them alone.
 */
contract ReputationLedger is IReputationLedger {
    /// @dev Reputations of 16 slots, 16 bits each, and the last round that moved them.
    struct Word {
        uint256 values;
        uint64 round;
    }

    /// @notice Name in the annex of the root over the verdicts of a round.
    bytes32 public constant SCORES = keccak256("scores");

    /// @notice Name in the annex of the root over the cumulative rewards after a round.
    bytes32 public constant REWARDS = keccak256("rewards");

    /// @notice Reputation of a hospital that was never judged.
    uint16 public constant BASE_REPUTATION = 10;

    /// @notice Largest reputation.
    uint16 public constant MAX_REPUTATION = 100;

    /// @dev `BASE_REPUTATION` in each of the 16 lanes of a word.
    uint256 private constant BASE_WORD =
        uint256(BASE_REPUTATION) * 0x0001000100010001000100010001000100010001000100010001000100010001;

    /// @notice Contract that knows federations, rounds, hospitals and roles.
    // Capitals for immutables are the convention of Solidity's style guide; slither knows the older one.
    // slither-disable-next-line naming-convention
    RoundLedger public immutable ROUNDS;

    /// @notice Points that a slot has claimed in all.
    mapping(bytes32 federation => mapping(uint32 slot => uint256 points)) public claimed;

    mapping(bytes32 federation => mapping(uint256 index => Word)) private _words;

    /// @dev Who leads is known to the RoundLedger, and so is the error.
    modifier onlyLeader(bytes32 federation) {
        ROUNDS.requireLeader(federation, msg.sender);
        _;
    }

    /**
     * @notice Fixes the contract that knows federations, rounds, hospitals and roles.
     * @param rounds The RoundLedger.
     */
    constructor(RoundLedger rounds) {
        ROUNDS = rounds;
    }

    /**
     * @notice Applies the verdicts of a round to the reputations of 16 slots.
     *
     * With reputation g, threshold h and the verdict on the slot's update: accepted and g >= h gives g + 1, at most
     * `MAX_REPUTATION`; rejected and g > h gives g - 1; rejected and g == h gives 0; g < h, which serves a penalty,
     * gives g + 1 for either verdict.
     *
     * Requirements:
     *
     * - the caller must lead the federation in the RoundLedger.
     * - `header` must pass `requireSealed` of the RoundLedger.
     * - the masks must name slots that exist, and accept only slots that took part.
     * - the annex must hold the root of the verdicts as `SCORES`, and the verdicts must be a leaf of that root.
     * - the word must not have taken verdicts of this or a later round.
     *
     * Emits a {ReputationChanged} event.
     *
     * @param federation Identifier of the federation.
     * @param header What the head of the round was hashed from.
     * @param scoresRoot Root of the tree of verdicts.
     * @param annexProof Siblings of that root in the annex.
     * @param index Number of the word: slots 16 * index to 16 * index + 15.
     * @param participated One bit per slot that was judged.
     * @param accepted One bit per slot whose update was accepted.
     * @param threshold The mean reputation of the participants, rounded by the coordinator.
     * @param proof Siblings in the tree of verdicts, whose leaf is the twice hashed ABI encoding of (round, index,
     * participated, accepted, threshold).
     */
    function updateReputation(
        bytes32 federation,
        IRoundLedger.Header calldata header,
        bytes32 scoresRoot,
        bytes32[] calldata annexProof,
        uint32 index,
        uint16 participated,
        uint16 accepted,
        uint16 threshold,
        bytes32[] calldata proof
    ) external onlyLeader(federation) {
        _requireMasks(federation, _slotsOf(federation, header), index, participated, accepted, threshold);
        Annex.requireNamed(header.annex, SCORES, scoresRoot, annexProof);
        _requireLeaf(scoresRoot, keccak256(abi.encode(header.round, index, participated, accepted, threshold)), proof);

        uint256 values = _judgeWord(federation, header.round, index, participated, accepted, threshold);
        emit ReputationChanged(federation, header.round, index, participated, accepted, threshold, values);
    }

    /**
     * @notice Claims the reward of a hospital up to a cumulative amount. Anyone may relay it; the reward is a number of
     * points, and due to the holder of the slot. Amounts are cumulative, so that one claim settles all rounds before,
     * and none can be made twice: what an older round, or a root that has shrunk, grants again is not more than zero.
     *
     * Requirements:
     *
     * - `header` must pass `requireSealed` of the RoundLedger, and its round must be FINAL.
     * - the annex must hold the root of rewards as `REWARDS`, and the amount must be a leaf of that root.
     * - `account` must hold the slot in the RoundLedger.
     * - the amount must exceed what was claimed before.
     *
     * Emits a {RewardClaimed} event.
     *
     * @param federation Identifier of the federation.
     * @param header What the head of the round was hashed from.
     * @param rewardsRoot Root of the tree of cumulative rewards after that round.
     * @param annexProof Siblings of that root in the annex.
     * @param claim Who claims, and how much.
     * @param registryProof Siblings of the slot in the registry; ignored where the registry was overridden.
     * @param rewardProof Siblings in the tree of rewards, whose leaf is the twice hashed ABI encoding of
     * (slot, cumulative).
     */
    function claimReward(
        bytes32 federation,
        IRoundLedger.Header calldata header,
        bytes32 rewardsRoot,
        bytes32[] calldata annexProof,
        Claim calldata claim,
        bytes32[] calldata registryProof,
        bytes32[] calldata rewardProof
    ) external {
        _requireFinal(federation, header);
        Annex.requireNamed(header.annex, REWARDS, rewardsRoot, annexProof);
        _requireLeaf(rewardsRoot, keccak256(abi.encode(claim.slot, claim.cumulative)), rewardProof);
        if (!ROUNDS.isHospital(federation, claim.slot, claim.account, claim.organisation, registryProof)) {
            revert NotHospital(federation, claim.slot, claim.account);
        }
        uint256 before = claimed[federation][claim.slot];
        if (claim.cumulative <= before) revert NothingToClaim(federation, claim.slot, before, claim.cumulative);

        claimed[federation][claim.slot] = claim.cumulative;
        uint256 amount = claim.cumulative - before;
        emit RewardClaimed(federation, claim.slot, claim.account, header.round, amount, claim.cumulative);
    }

    /**
     * @notice Returns the reputation of a slot.
     * @param federation Identifier of the federation.
     * @param slot Slot of the hospital.
     * @return The reputation, `BASE_REPUTATION` before the first verdict.
     */
    function reputation(bytes32 federation, uint32 slot) external view returns (uint16) {
        // The shift brings the lane to the lowest bits; the cast cuts the others off.
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint16(_values(_words[federation][slot / 16]) >> (16 * (slot % 16)));
    }

    function _slotsOf(bytes32 federation, IRoundLedger.Header calldata header) private view returns (uint32 slots) {
        // SEALED and FINAL are both good for a verdict.
        // slither-disable-next-line unused-return
        (, slots) = ROUNDS.requireSealed(federation, header);
    }

    function _requireFinal(bytes32 federation, IRoundLedger.Header calldata header) private view {
        // The number of slots is not needed for a claim.
        // slither-disable-next-line unused-return
        (IRoundLedger.RoundStatus status,) = ROUNDS.requireSealed(federation, header);
        if (status != IRoundLedger.RoundStatus.FINAL) revert RoundNotFinal(federation, header.round, status);
    }

    /// @dev The leaf is the hash of `content`: hashed twice, so that no node passes for a leaf.
    function _requireLeaf(bytes32 root, bytes32 content, bytes32[] calldata proof) private pure {
        bytes32 leaf = keccak256(bytes.concat(content));
        if (!MerkleProof.verifyCalldata(proof, root, leaf)) revert ProofInvalid(root, leaf);
    }

    function _requireMasks(
        bytes32 federation,
        uint256 slots,
        uint32 index,
        uint16 participated,
        uint16 accepted,
        uint16 threshold
    ) private pure {
        uint256 first = uint256(index) * 16;
        if (first >= slots || uint256(participated) >> (slots - first) != 0 || accepted & ~participated != 0) {
            revert MaskInvalid(federation, index, participated, accepted);
        }
        if (threshold > MAX_REPUTATION) revert ThresholdOutOfRange(threshold, MAX_REPUTATION);
    }

    function _judgeWord(
        bytes32 federation,
        uint64 round,
        uint32 index,
        uint16 participated,
        uint16 accepted,
        uint16 threshold
    ) private returns (uint256 values) {
        Word storage word = _words[federation][index];
        if (round <= word.round) revert ReputationOutOfOrder(federation, index, word.round, round);
        values = _applyVerdicts(_values(word), participated, accepted, threshold);
        word.values = values;
        word.round = round;
    }

    /// @dev A word without a round has never been written.
    function _values(Word storage word) private view returns (uint256) {
        return word.round == 0 ? BASE_WORD : word.values;
    }

    function _applyVerdicts(uint256 values, uint16 participated, uint16 accepted, uint16 threshold)
        private
        pure
        returns (uint256 changed)
    {
        changed = values;
        for (uint256 lane = 0; lane < 16; ++lane) {
            if ((participated >> lane) & 1 == 0) continue;
            uint256 shift = 16 * lane;
            uint256 old = (values >> shift) & type(uint16).max;
            uint256 value = _judge(old, (accepted >> lane) & 1 == 1, threshold);
            changed ^= (old ^ value) << shift;
        }
    }

    /// @dev The four cases of the rule; they are exhaustive and disjoint.
    function _judge(uint256 value, bool accepted, uint256 threshold) private pure returns (uint256) {
        if (value < threshold) return value + 1;
        if (accepted) return Math.min(value + 1, MAX_REPUTATION);
        return value == threshold ? 0 : value - 1;
    }
}
