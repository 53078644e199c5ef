// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {
    AccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {BitMaps} from "@openzeppelin/contracts/utils/structs/BitMaps.sol";
import {IRoundLedger} from "./IRoundLedger.sol";
import {PositionalTree} from "./PositionalTree.sol";

/**
 * @title RoundLedger
 * @notice Anchors the rounds of federated learning runs. A round is one Merkle root over the signed updates of its
 * hospitals and the hash of the model that came out; a run is a chain of such rounds behind one head. The contract
 * holds digests only: no patient data, no model, no update.
 *
 * A round is NONE, OPEN, SEALED and then FINAL. While it is SEALED, a signed receipt or a direct submission that the
 * sealed tree does not hold turns it into DISPUTED, and an auditor into FINAL or VOID. An open round whose deadline
 * passes is VOID until its number is opened again. Heads and round numbers are never rewritten.
 *
 * Sealing costs the same for any number of hospitals: nothing loops over them. The head hashes nothing that a block
 * producer chooses (no timestamp, no block hash), so the same transactions lead to the same head on any chain with the
 * same chain id and contract address, also after a reorganisation or a replay.
 *
 * The events hold every field, so the state can be rebuilt from them; times in the state are those of the block.
 */
// Deadlines and windows compare with the time of the block on purpose: they are minutes to days long, a block producer
// can move it by seconds, and no hash depends on it.
// slither-disable-start timestamp
contract RoundLedger is IRoundLedger, AccessControlDefaultAdminRules, EIP712, Pausable {
    using BitMaps for BitMaps.BitMap;

    /**
     * @dev Only a head, `model` and `progress` change when a round is sealed. The head of round r lies at r % RING: the
     * last seven heads before the present one stay for disputes without a word of storage more per round.
     */
    struct Federation {
        bytes32[8] heads;
        Progress progress;
        bytes32 model;
        bytes32 configHash;
        bytes32 registryRoot;
        bytes32 rewardsRoot;
        uint64 finalized;
        uint64 disputed;
        mapping(uint32 slot => Hospital) hospitals;
        mapping(uint256 index => ReputationWord) reputations;
        mapping(uint32 slot => uint256) claimed;
        BitMaps.BitMap voided;
    }

    /// @dev Reputations of 16 slots, 16 bits each, and the last round that moved them.
    struct ReputationWord {
        uint256 values;
        uint64 round;
    }

    /// @notice Role that opens federations, opens and seals rounds and signs receipts.
    bytes32 public constant COORDINATOR_ROLE = keccak256("COORDINATOR_ROLE");

    /// @notice Role that decides on requests for synthetic data.
    bytes32 public constant REVIEWER_ROLE = keccak256("REVIEWER_ROLE");

    /// @notice Role that resolves disputes.
    bytes32 public constant AUDITOR_ROLE = keccak256("AUDITOR_ROLE");

    /// @notice Version of `ModelUpdate`.
    uint16 public constant SCHEMA = 2;

    /// @notice Number of heads that are kept; a round is beyond dispute once this many were sealed after it.
    uint64 public constant RING = 8;

    /// @notice Value of `next` in `sealRound` that leaves the next round closed.
    uint64 public constant KEEP_CLOSED = type(uint64).max;

    /// @notice Reputation of a hospital that was never judged.
    uint16 public constant BASE_REPUTATION = 10;

    /// @notice Largest reputation.
    uint16 public constant MAX_REPUTATION = 100;

    /// @dev `BASE_REPUTATION` in each of the 16 lanes of a word.
    uint256 private constant BASE_WORD =
        uint256(BASE_REPUTATION) * 0x0001000100010001000100010001000100010001000100010001000100010001;

    bytes32 private constant MODEL_UPDATE_TYPEHASH = keccak256(
        "ModelUpdate(uint16 schema,bytes32 federation,uint64 round,uint32 slot,bytes32 parentModel,bytes32 parentHead,bytes32 update,bytes32 samples,bytes32 metrics,bytes32 privacy,bytes32 configHash,uint64 nonce,uint64 deadline)"
    );
    bytes32 private constant RECEIPT_TYPEHASH =
        keccak256("Receipt(bytes32 federation,uint64 round,uint32 slot,bytes32 leaf)");
    bytes32 private constant KEY_ROTATION_TYPEHASH =
        keccak256("KeyRotation(bytes32 federation,uint32 slot,address from,address to,uint64 round)");

    mapping(bytes32 federation => Federation) private _federations;

    // Keyed by federation, round, parent model and slot / 256. With the parent model in the key, a submission counts
    // again when its round is opened again, unless a dispute has put another model in its place.
    mapping(bytes32 key => uint256) private _submissions;

    /**
     * @notice Gives the two roles to their first holders.
     * @param admin Account that grants roles, enrols hospitals and pauses; it changes in two steps.
     * @param coordinator Account that opens federations and seals rounds.
     * @param adminDelay Seconds between the two steps of a change of the admin.
     */
    constructor(address admin, address coordinator, uint48 adminDelay)
        AccessControlDefaultAdminRules(adminDelay, admin)
        EIP712("PulseLedger", "2")
    {
        _grantRole(COORDINATOR_ROLE, coordinator);
    }

    // --- Rounds ------------------------------------------------------------------------------------------------------

    /**
     * @notice Opens a federation at round 0, once. Round 1 is opened by `openRound`.
     *
     * Requirements:
     *
     * - the caller must have the coordinator role, and the contract must not be paused.
     * - `federation` must not be open.
     * - `registryRoot` and `genesisModel` must not be zero.
     * - `quorum` must be at least 1 and at most `slots`.
     *
     * Emits a {FederationOpened} event.
     *
     * @param federation Identifier of the federation.
     * @param configHash Digest of its configuration.
     * @param registryRoot Root of the positional tree of hospitals, with the leaf
     * keccak256(0x00, uint32 slot, address, bytes32 organisation).
     * @param genesisModel Digest of the model before round 1.
     * @param slots Number of slots, at most 2^24 - 1.
     * @param quorum Least number of updates in a round.
     * @param window Seconds after a seal before it may become final, at most 2^24 - 1 (194 days).
     */
    function openFederation(
        bytes32 federation,
        bytes32 configHash,
        bytes32 registryRoot,
        bytes32 genesisModel,
        uint32 slots,
        uint32 quorum,
        uint32 window
    ) external onlyRole(COORDINATOR_ROLE) whenNotPaused {
        Federation storage state = _federations[federation];
        if (state.progress.slots != 0) revert FederationAlreadyOpen(federation);
        if (registryRoot == 0) revert RegistryIsZero(federation);
        if (genesisModel == 0) revert ModelIsZero(federation, 0);
        if (quorum == 0 || quorum > slots) revert QuorumOutOfRange(federation, quorum, slots);

        state.model = genesisModel;
        state.configHash = configHash;
        state.registryRoot = registryRoot;
        state.progress.slots = SafeCast.toUint24(slots);
        state.progress.quorum = SafeCast.toUint24(quorum);
        state.progress.window = SafeCast.toUint24(window);
        bytes32 newHead = _genesisHead(federation, state);
        state.heads[0] = newHead;
        emit FederationOpened(federation, configHash, registryRoot, genesisModel, slots, quorum, window, newHead);
    }

    /**
     * @notice Opens the next round. Needed for round 1, after a pause, after a dispute, and to open a round again
     * whose deadline has passed; otherwise `sealRound` opens the round after it.
     *
     * Requirements:
     *
     * - the caller must have the coordinator role, and the contract must not be paused.
     * - `round` must be the last sealed round plus one and must not be open.
     * - `parentModel` must be the model of the federation.
     * - `deadline` must be 0 or in the future.
     * - no dispute must be open.
     *
     * Emits a {RoundOpened} event.
     *
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @param parentModel Digest of the model that it starts from.
     * @param deadline Last second at which it may be sealed, 0 for none.
     */
    function openRound(bytes32 federation, uint64 round, bytes32 parentModel, uint64 deadline)
        external
        onlyRole(COORDINATOR_ROLE)
    {
        (Federation storage state, Progress memory progress) = _load(federation);
        _requireNext(federation, round, progress);
        if (_isOpen(progress)) revert RoundAlreadyOpen(federation, round);
        if (parentModel != state.model) revert ParentModelMismatch(federation, round, state.model, parentModel);

        _open(progress, deadline);
        state.progress = progress;
        emit RoundOpened(federation, round, parentModel, deadline);
    }

    /**
     * @notice Seals the open round and opens the next one.
     *
     * Requirements:
     *
     * - the caller must have the coordinator role.
     * - the round of the header must be open: the last sealed round plus one, before its deadline, no dispute.
     * - `header.previousHead` and `header.parentModel` must be those of the federation.
     * - `header.count` must be at least the quorum and at most the number of slots.
     * - `header.root` and `header.model` must not be zero.
     * - `submissions` must be the number of direct submissions so far, so that no seal can cross one on its way.
     * - to open the next round, the contract must not be paused, and `next` must be 0 or in the future.
     *
     * Emits a {RoundSealed} event.
     *
     * @param federation Identifier of the federation.
     * @param header What the new head is hashed from.
     * @param submissions Number of updates of this round that were submitted directly.
     * @param next Deadline of the next round; 0 for none, `KEEP_CLOSED` to leave it closed.
     */
    function sealRound(bytes32 federation, Header calldata header, uint32 submissions, uint64 next)
        external
        onlyRole(COORDINATOR_ROLE)
    {
        (Federation storage state, Progress memory progress) = _load(federation);
        uint64 round = header.round;
        _requireNext(federation, round, progress);
        if (!_isOpen(progress)) revert RoundNotOpen(federation, round);
        _requireHead(federation, state, round - 1, header.previousHead);
        bytes32 parentModel = state.model;
        if (header.parentModel != parentModel) {
            revert ParentModelMismatch(federation, round, parentModel, header.parentModel);
        }
        if (header.count < progress.quorum || header.count > progress.slots) {
            revert CountOutOfRange(federation, round, header.count, progress.quorum, progress.slots);
        }
        if (header.root == 0) revert RootIsZero(federation, round);
        if (header.model == 0) revert ModelIsZero(federation, round);
        if (submissions != progress.submissions) {
            revert SubmissionsMissed(federation, round, progress.submissions, submissions);
        }

        bytes32 newHead = _headOf(federation, header);
        state.heads[round % RING] = newHead;
        state.model = header.model;
        progress.round = round;
        progress.sealedAt = uint40(block.timestamp);
        progress.submissions = 0;
        progress.phase = Phase.IDLE;
        if (next != KEEP_CLOSED) _open(progress, next);
        state.progress = progress;
        emit RoundSealed(federation, round, header, submissions, next, newHead);
    }

    /**
     * @notice Submits a hospital's update directly: the way round a coordinator that does not take it. Anyone may
     * relay it. A seal that leaves the slot empty can then be disputed.
     *
     * Requirements:
     *
     * - the round of the record must be open, and the record's own deadline must not have passed.
     * - head, model and configuration of the record must be those of the federation.
     * - `account` must hold the slot and must have signed the record.
     * - the slot must not have submitted an update for this round and model.
     *
     * Emits an {UpdateSubmitted} event.
     *
     * @param record The record.
     * @param signature Signature of its EIP-712 digest.
     * @param account Account that signed.
     * @param organisation Commitment to its organisation.
     * @param proof Siblings of the slot in the registry; ignored where the admin or a rotation overrode the registry.
     */
    function submitUpdate(
        ModelUpdate calldata record,
        bytes calldata signature,
        address account,
        bytes32 organisation,
        bytes32[] calldata proof
    ) external {
        _requireRecord(record);
        _requireHospital(record.federation, record.slot, account, organisation, proof);
        bytes32 digest = _hashTypedDataV4(keccak256(abi.encode(MODEL_UPDATE_TYPEHASH, record)));
        _requireSignature(account, digest, signature);

        _countSubmission(record);
        bytes32 leaf = keccak256(abi.encodePacked(bytes1(0), record.schema, record.slot, digest, signature));
        emit UpdateSubmitted(record.federation, record.round, record.slot, account, leaf, record, signature);
    }

    // --- Disputes and finality ---------------------------------------------------------------------------------------

    /**
     * @notice Disputes a sealed round and stops its federation until an auditor has decided. Anyone may call: what
     * counts is the evidence. It is one of two:
     *
     * - a receipt signed by a coordinator, and a proof that the sealed tree holds another leaf, or none, in that slot;
     * - a receipt with a zero leaf and no signature, a proof that the slot is empty, and a direct submission of the
     *   slot on record.
     *
     * Requirements:
     *
     * - the round must be SEALED: not final, void, or older than the heads that are kept.
     * - `header` must hash to the head of its round, and the receipt must name the same federation and round.
     * - no other dispute must be open.
     *
     * The open round, if any, is closed; `openRound` opens it again after the decision.
     *
     * Emits a {RoundDisputed} event.
     *
     * @param federation Identifier of the federation.
     * @param header What the head of the round was hashed from.
     * @param receipt What was promised.
     * @param coordinatorSignature Signature of the receipt by a present coordinator, 65 bytes.
     * @param leaf Leaf that the sealed tree holds in the slot.
     * @param proof Siblings of the slot in the sealed tree.
     */
    function dispute(
        bytes32 federation,
        Header calldata header,
        Receipt calldata receipt,
        bytes calldata coordinatorSignature,
        bytes32 leaf,
        bytes32[] calldata proof
    ) external {
        (Federation storage state, Progress memory progress) = _load(federation);
        uint64 round = header.round;
        _requireStatus(federation, state, progress, round, RoundStatus.SEALED);
        if (progress.phase == Phase.DISPUTED) revert FederationDisputed(federation, state.disputed);
        _requireHead(federation, state, round, _headOf(federation, header));
        if (receipt.federation != federation || receipt.round != round) {
            revert ReceiptMismatch(federation, round, receipt.federation, receipt.round);
        }
        if (!PositionalTree.verify(header.root, receipt.slot, leaf, progress.slots, proof)) {
            revert ProofInvalid(header.root, leaf);
        }
        if (receipt.leaf == 0 && coordinatorSignature.length == 0) {
            bool sent = submitted(federation, round, header.parentModel, receipt.slot);
            if (!sent || leaf != PositionalTree.EMPTY) revert EvidenceInconclusive(federation, round, receipt.slot);
        } else {
            if (receipt.leaf == leaf) revert EvidenceInconclusive(federation, round, receipt.slot);
            _requireReceipt(receipt, coordinatorSignature);
        }

        progress.phase = Phase.DISPUTED;
        state.progress = progress;
        state.disputed = round;
        emit RoundDisputed(federation, round, receipt.slot, receipt.leaf, leaf);
    }

    /**
     * @notice Resolves the open dispute. A voided round takes the rounds after it along, for they were built on it,
     * and the next round starts from the model before it; a round that is upheld becomes final with all rounds before
     * it, since a later void of one of those would undo it.
     *
     * Requirements:
     *
     * - the caller must have the auditor role.
     * - a dispute must be open, and `header` must hash to the head of the disputed round.
     *
     * Emits a {DisputeResolved} event.
     *
     * @param federation Identifier of the federation.
     * @param header What the head of the disputed round was hashed from.
     * @param voided True to void the round, false to uphold it.
     */
    function resolveDispute(bytes32 federation, Header calldata header, bool voided) external onlyRole(AUDITOR_ROLE) {
        (Federation storage state, Progress memory progress) = _load(federation);
        if (progress.phase != Phase.DISPUTED) revert NoDispute(federation);
        uint64 round = state.disputed;
        if (header.round != round) revert RoundOutOfOrder(federation, round, header.round);
        _requireHead(federation, state, round, _headOf(federation, header));

        progress.phase = Phase.IDLE;
        if (voided) {
            // At most RING rounds: an older one cannot be disputed.
            for (uint64 later = round; later <= progress.round; ++later) {
                state.voided.set(later);
            }
            // Direct submissions for another model do not count for the round that is opened now.
            if (state.model != header.parentModel) progress.submissions = 0;
            state.model = header.parentModel;
        } else {
            state.finalized = round;
        }
        state.progress = progress;
        emit DisputeResolved(federation, round, voided, state.model);
    }

    /**
     * @notice Makes all sealed rounds final, and publishes rewards.
     *
     * Requirements:
     *
     * - the window after the last seal must be over, and no dispute must be open.
     * - only a coordinator may pass a root of rewards; without one, there must be a round to finalize.
     *
     * Emits a {RoundFinalized} event.
     *
     * @param federation Identifier of the federation.
     * @param rewardsRoot Root of the tree of cumulative rewards, zero to leave it as it is.
     */
    function finalizeRound(bytes32 federation, bytes32 rewardsRoot) external {
        (Federation storage state, Progress memory progress) = _load(federation);
        if (rewardsRoot != 0) _checkRole(COORDINATOR_ROLE);
        if (progress.phase == Phase.DISPUTED) revert FederationDisputed(federation, state.disputed);
        uint256 until = uint256(progress.sealedAt) + progress.window;
        if (block.timestamp < until) revert WindowOpen(federation, progress.round, until);
        if (progress.round == 0 || (state.finalized == progress.round && rewardsRoot == 0)) {
            revert NothingToFinalize(federation, progress.round);
        }

        state.finalized = progress.round;
        if (rewardsRoot != 0) state.rewardsRoot = rewardsRoot;
        emit RoundFinalized(federation, progress.round, rewardsRoot);
    }

    // --- Hospitals ---------------------------------------------------------------------------------------------------

    /**
     * @notice Overrides the registry for one slot: enrols, replaces or suspends its holder.
     *
     * Requirements:
     *
     * - the caller must be the admin.
     * - the slot must exist, and `account` must not be zero unless the registry is put back in force.
     *
     * Emits a {HospitalSet} event.
     *
     * @param federation Identifier of the federation.
     * @param slot Slot of the hospital.
     * @param account Account that holds the slot.
     * @param status ACTIVE, SUSPENDED, or NONE to put the registry back in force.
     * @param organisation Commitment to the organisation.
     */
    function setHospital(bytes32 federation, uint32 slot, address account, HospitalStatus status, bytes32 organisation)
        external
        onlyRole(DEFAULT_ADMIN_ROLE)
    {
        (Federation storage state, Progress memory progress) = _load(federation);
        if (slot >= progress.slots) revert SlotOutOfRange(federation, slot, progress.slots);
        if (account == address(0) && status != HospitalStatus.NONE) revert AccountIsZero(federation, slot);

        Hospital storage entry = state.hospitals[slot];
        entry.account = account;
        entry.status = status;
        entry.organisation = organisation;
        emit HospitalSet(federation, slot, account, status, organisation);
    }

    /**
     * @notice Replaces the key of a hospital by a record that the old and the new key have signed. Anyone may relay it.
     *
     * Requirements:
     *
     * - `rotation.from` must hold the slot, and `rotation.to` must not be zero.
     * - `rotation.round` must be the last sealed round plus one, and the slot must not have rotated in it yet.
     * - both signatures must be valid.
     *
     * Emits a {KeyRotated} event.
     *
     * @param rotation The record.
     * @param organisation Commitment to the organisation of the hospital.
     * @param proof Siblings of the slot in the registry; ignored where the admin or a rotation overrode the registry.
     * @param oldSignature Signature of the record by `rotation.from`.
     * @param newSignature Signature of the record by `rotation.to`.
     */
    function rotateKey(
        KeyRotation calldata rotation,
        bytes32 organisation,
        bytes32[] calldata proof,
        bytes calldata oldSignature,
        bytes calldata newSignature
    ) external {
        if (rotation.to == address(0)) {
            revert AccountIsZero(rotation.federation, rotation.slot);
        }
        _requireHospital(rotation.federation, rotation.slot, rotation.from, organisation, proof);
        bytes32 digest = _hashTypedDataV4(keccak256(abi.encode(KEY_ROTATION_TYPEHASH, rotation)));
        _requireSignature(rotation.from, digest, oldSignature);
        _requireSignature(rotation.to, digest, newSignature);
        _rotate(rotation, organisation);
    }

    // --- Reputation and rewards --------------------------------------------------------------------------------------

    /**
     * @notice Applies the verdicts of a round to the reputations of 16 slots.
     *
     * With reputation g, threshold h and the verdict on the slot's update: accepted and g >= h gives g + 1, at most
     * `MAX_REPUTATION`; rejected and g > h gives g - 1; rejected and g == h gives 0; g < h, which serves a penalty,
     * gives g + 1 for either verdict.
     *
     * Requirements:
     *
     * - the caller must have the coordinator role.
     * - the round must be SEALED or FINAL, its head still kept, and `header` must hash to it.
     * - the word must not have taken verdicts of this or a later round.
     * - the verdicts must be a leaf of the scores root of the round.
     *
     * Emits a {ReputationChanged} event.
     *
     * @param federation Identifier of the federation.
     * @param header What the head of the round was hashed from.
     * @param index Number of the word: slots 16 * index to 16 * index + 15.
     * @param participated One bit per slot that was judged.
     * @param accepted One bit per slot whose update was accepted.
     * @param threshold The mean reputation of the participants, rounded by the coordinator.
     * @param proof Siblings in the tree of scores, whose leaf is the twice hashed ABI encoding of (round, index,
     * participated, accepted, threshold).
     */
    function updateReputation(
        bytes32 federation,
        Header calldata header,
        uint32 index,
        uint16 participated,
        uint16 accepted,
        uint16 threshold,
        bytes32[] calldata proof
    ) external onlyRole(COORDINATOR_ROLE) {
        _requireJudged(federation, header);
        _requireMasks(federation, index, participated, accepted, threshold);
        bytes32 leaf =
            keccak256(bytes.concat(keccak256(abi.encode(header.round, index, participated, accepted, threshold))));
        if (!MerkleProof.verifyCalldata(proof, header.scoresRoot, leaf)) revert ProofInvalid(header.scoresRoot, leaf);

        ReputationWord storage word = _federations[federation].reputations[index];
        if (header.round <= word.round) {
            revert ReputationOutOfOrder(federation, index, word.round, header.round);
        }
        uint256 values = _applyVerdicts(_reputations(word), participated, accepted, threshold);
        word.values = values;
        word.round = header.round;
        emit ReputationChanged(federation, header.round, index, participated, accepted, threshold, values);
    }

    /**
     * @notice Claims the reward of a hospital up to a cumulative amount. Anyone may relay it; the reward is a number of
     * points, and due to the holder of the slot.
     *
     * Requirements:
     *
     * - `account` must hold the slot.
     * - the amount must be a leaf of the root of rewards and exceed what was claimed before.
     *
     * Emits a {RewardClaimed} event.
     *
     * @param federation Identifier of the federation.
     * @param slot Slot of the hospital.
     * @param account Account that holds the slot.
     * @param organisation Commitment to its organisation.
     * @param registryProof Siblings of the slot in the registry; ignored where the registry was overridden.
     * @param cumulative Points of the slot over all rounds.
     * @param rewardProof Siblings in the tree of rewards, whose leaf is the twice hashed ABI encoding of
     * (slot, cumulative).
     */
    function claimReward(
        bytes32 federation,
        uint32 slot,
        address account,
        bytes32 organisation,
        bytes32[] calldata registryProof,
        uint256 cumulative,
        bytes32[] calldata rewardProof
    ) external {
        (Federation storage state,) = _load(federation);
        _requireHospital(federation, slot, account, organisation, registryProof);
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(slot, cumulative))));
        if (!MerkleProof.verifyCalldata(rewardProof, state.rewardsRoot, leaf)) {
            revert ProofInvalid(state.rewardsRoot, leaf);
        }
        uint256 before = state.claimed[slot];
        if (cumulative <= before) revert NothingToClaim(federation, slot, before, cumulative);

        state.claimed[slot] = cumulative;
        emit RewardClaimed(federation, slot, account, cumulative - before, cumulative);
    }

    // --- Pause -------------------------------------------------------------------------------------------------------

    /**
     * @notice Stops new federations and new rounds, and nothing else: an open round can still be sealed (with `next`
     * set to `KEEP_CLOSED`), disputed and made final.
     *
     * Requirements: the caller must be the admin. Emits a {Paused} event.
     */
    function pause() external onlyRole(DEFAULT_ADMIN_ROLE) {
        _pause();
    }

    /// @notice Ends a pause. Requirements: the caller must be the admin. Emits an {Unpaused} event.
    function unpause() external onlyRole(DEFAULT_ADMIN_ROLE) {
        _unpause();
    }

    // --- Views -------------------------------------------------------------------------------------------------------

    /**
     * @notice Returns the head of a federation, zero if it was never opened.
     * @param federation Identifier of the federation.
     * @return Head after the last sealed round.
     */
    function head(bytes32 federation) external view returns (bytes32) {
        Federation storage state = _federations[federation];
        return state.heads[state.progress.round % RING];
    }

    /**
     * @notice Returns the head after one of the last `RING` rounds.
     * @param federation Identifier of the federation.
     * @param round Number of the round, 0 for the head before round 1.
     * @return Head after that round; zero if it was not sealed or its head is no longer kept.
     */
    function headAt(bytes32 federation, uint64 round) external view returns (bytes32) {
        Federation storage state = _federations[federation];
        uint64 last = state.progress.round;
        return round <= last && last - round < RING ? state.heads[round % RING] : bytes32(0);
    }

    /**
     * @notice Returns the state of a federation; all values are zero if it was never opened.
     * @param federation Identifier of the federation.
     * @return The state.
     */
    function federationState(bytes32 federation) external view returns (FederationState memory) {
        Federation storage state = _federations[federation];
        Progress memory progress = state.progress;
        return FederationState({
            head: state.heads[progress.round % RING],
            model: state.model,
            configHash: state.configHash,
            registryRoot: state.registryRoot,
            rewardsRoot: state.rewardsRoot,
            progress: progress,
            finalized: state.finalized,
            disputed: state.disputed
        });
    }

    /**
     * @notice Returns where a round stands.
     * @param federation Identifier of the federation.
     * @param round Number of the round, from 1.
     * @return The status; NONE for a round that was never opened.
     */
    function roundStatus(bytes32 federation, uint64 round) external view returns (RoundStatus) {
        Federation storage state = _federations[federation];
        return _status(state, state.progress, round);
    }

    /**
     * @notice Tells whether the next round can be sealed now.
     * @param federation Identifier of the federation.
     * @return True if it is open and its deadline has not passed.
     */
    function isOpen(bytes32 federation) external view returns (bool) {
        return _isOpen(_federations[federation].progress);
    }

    /**
     * @notice Tells whether a slot has submitted an update directly.
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @param parentModel Digest of the model that the round started from.
     * @param slot Slot of the hospital.
     * @return True if it has.
     */
    function submitted(bytes32 federation, uint64 round, bytes32 parentModel, uint32 slot) public view returns (bool) {
        bytes32 key = _submissionKey(federation, round, parentModel, slot);
        return (_submissions[key] >> (slot % 256)) & 1 == 1;
    }

    /**
     * @notice Tells whether an account is the active holder of a slot: by the entry of the slot if there is one,
     * otherwise by the registry.
     * @param federation Identifier of the federation.
     * @param slot Slot of the hospital.
     * @param account The account.
     * @param organisation Commitment to its organisation.
     * @param proof Siblings of the slot in the registry; ignored where the admin or a rotation overrode the registry.
     * @return True if it is.
     */
    function isHospital(
        bytes32 federation,
        uint32 slot,
        address account,
        bytes32 organisation,
        bytes32[] calldata proof
    ) public view returns (bool) {
        Federation storage state = _federations[federation];
        Hospital storage entry = state.hospitals[slot];
        HospitalStatus status = entry.status;
        if (status == HospitalStatus.SUSPENDED) return false;
        if (status == HospitalStatus.ACTIVE) return account == entry.account && organisation == entry.organisation;
        bytes32 leaf = keccak256(abi.encodePacked(bytes1(0), slot, account, organisation));
        return PositionalTree.verify(state.registryRoot, slot, leaf, state.progress.slots, proof);
    }

    /**
     * @notice Returns the entry that overrides the registry for a slot.
     * @param federation Identifier of the federation.
     * @param slot Slot of the hospital.
     * @return The entry; its status is NONE if the registry decides.
     */
    function hospital(bytes32 federation, uint32 slot) external view returns (Hospital memory) {
        return _federations[federation].hospitals[slot];
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
        return uint16(_reputations(_federations[federation].reputations[slot / 16]) >> (16 * (slot % 16)));
    }

    /**
     * @notice Returns the points that a slot has claimed.
     * @param federation Identifier of the federation.
     * @param slot Slot of the hospital.
     * @return Points of all claims so far.
     */
    function claimed(bytes32 federation, uint32 slot) external view returns (uint256) {
        return _federations[federation].claimed[slot];
    }

    /**
     * @notice Tells whether a tree of updates holds a leaf in a slot.
     * @param root Root of the tree.
     * @param slot Slot of the hospital.
     * @param leaf The leaf.
     * @param slots Number of slots of the tree.
     * @param proof Siblings from the leaf to the root.
     * @return True if it does.
     */
    function verifyUpdate(bytes32 root, uint32 slot, bytes32 leaf, uint32 slots, bytes32[] calldata proof)
        external
        pure
        returns (bool)
    {
        return PositionalTree.verify(root, slot, leaf, slots, proof);
    }

    /**
     * @notice Tells whether a slot of a tree of updates is empty.
     * @param root Root of the tree.
     * @param slot Slot of the hospital.
     * @param slots Number of slots of the tree.
     * @param proof Siblings from the leaf to the root.
     * @return True if it is.
     */
    function verifyAbsent(bytes32 root, uint32 slot, uint32 slots, bytes32[] calldata proof)
        external
        pure
        returns (bool)
    {
        return PositionalTree.verify(root, slot, PositionalTree.EMPTY, slots, proof);
    }

    // --- Internals ---------------------------------------------------------------------------------------------------

    /// @dev Who seals must neither decide on requests nor judge disputes about its own seals.
    function _grantRole(bytes32 role, address account) internal override returns (bool) {
        if (role == COORDINATOR_ROLE) {
            _requireWithout(account, REVIEWER_ROLE, role);
            _requireWithout(account, AUDITOR_ROLE, role);
        } else if (role == REVIEWER_ROLE || role == AUDITOR_ROLE) {
            _requireWithout(account, COORDINATOR_ROLE, role);
        }
        return super._grantRole(role, account);
    }

    function _requireWithout(address account, bytes32 held, bytes32 given) private view {
        if (hasRole(held, account)) revert RolesConflict(account, held, given);
    }

    /// @dev The moving word is read once, changed in memory and written once.
    function _load(bytes32 federation) private view returns (Federation storage state, Progress memory progress) {
        state = _federations[federation];
        progress = state.progress;
        if (progress.slots == 0) revert FederationUnknown(federation);
    }

    function _requireNext(bytes32 federation, uint64 round, Progress memory progress) private view {
        if (progress.phase == Phase.DISPUTED) revert FederationDisputed(federation, _federations[federation].disputed);
        if (round != progress.round + 1) revert RoundOutOfOrder(federation, progress.round + 1, round);
    }

    function _isOpen(Progress memory progress) private view returns (bool) {
        return progress.phase == Phase.OPEN && (progress.deadline == 0 || block.timestamp <= progress.deadline);
    }

    function _open(Progress memory progress, uint64 deadline) private view {
        _requireNotPaused();
        if (deadline != 0 && deadline <= block.timestamp) revert DeadlinePassed(deadline, block.timestamp);
        progress.deadline = SafeCast.toUint40(deadline);
        progress.phase = Phase.OPEN;
    }

    function _requireHead(bytes32 federation, Federation storage state, uint64 round, bytes32 given) private view {
        bytes32 expected = state.heads[round % RING];
        if (given != expected) revert HeadMismatch(federation, round, expected, given);
    }

    function _requireRecord(ModelUpdate calldata record) private view {
        (Federation storage state, Progress memory progress) = _load(record.federation);
        _requireNext(record.federation, record.round, progress);
        if (!_isOpen(progress)) revert RoundNotOpen(record.federation, record.round);
        if (record.schema != SCHEMA) revert SchemaMismatch(SCHEMA, record.schema);
        if (record.deadline != 0 && record.deadline < block.timestamp) {
            revert DeadlinePassed(record.deadline, block.timestamp);
        }
        _requireHead(record.federation, state, record.round - 1, record.parentHead);
        if (record.parentModel != state.model) {
            revert ParentModelMismatch(record.federation, record.round, state.model, record.parentModel);
        }
        if (record.configHash != state.configHash) {
            revert ConfigMismatch(record.federation, state.configHash, record.configHash);
        }
    }

    function _countSubmission(ModelUpdate calldata record) private {
        bytes32 key = _submissionKey(record.federation, record.round, record.parentModel, record.slot);
        uint256 bit = uint256(1) << (record.slot % 256);
        if (_submissions[key] & bit != 0) revert AlreadySubmitted(record.federation, record.round, record.slot);
        _submissions[key] |= bit;
        _federations[record.federation].progress.submissions += 1;
    }

    function _requireHospital(
        bytes32 federation,
        uint32 slot,
        address account,
        bytes32 organisation,
        bytes32[] calldata proof
    ) private view {
        if (!isHospital(federation, slot, account, organisation, proof)) {
            revert NotHospital(federation, slot, account);
        }
    }

    function _requireSignature(address account, bytes32 digest, bytes calldata signature) private view {
        if (!SignatureChecker.isValidSignatureNowCalldata(account, digest, signature)) {
            revert SignatureInvalid(account, digest);
        }
    }

    function _rotate(KeyRotation calldata rotation, bytes32 organisation) private {
        (Federation storage state, Progress memory progress) = _load(rotation.federation);
        Hospital storage entry = state.hospitals[rotation.slot];
        if (rotation.round != progress.round + 1 || rotation.round == entry.rotated) {
            revert RoundOutOfOrder(rotation.federation, progress.round + 1, rotation.round);
        }
        entry.account = rotation.to;
        entry.status = HospitalStatus.ACTIVE;
        entry.rotated = rotation.round;
        entry.organisation = organisation;
        emit KeyRotated(rotation.federation, rotation.slot, rotation.from, rotation.to, organisation, rotation.round);
    }

    /// @dev A receipt does not say who signed it: any present coordinator will do.
    function _requireReceipt(Receipt calldata receipt, bytes calldata signature) private view {
        bytes32 digest = _hashTypedDataV4(keccak256(abi.encode(RECEIPT_TYPEHASH, receipt)));
        // The third value only details the failure.
        // slither-disable-next-line unused-return
        (address signer, ECDSA.RecoverError failure,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (failure != ECDSA.RecoverError.NoError || !hasRole(COORDINATOR_ROLE, signer)) {
            revert SignatureInvalid(signer, digest);
        }
    }

    function _status(Federation storage state, Progress memory progress, uint64 round)
        private
        view
        returns (RoundStatus)
    {
        uint64 last = progress.round;
        if (round == 0 || round > last) {
            if (round != last + 1 || progress.phase != Phase.OPEN) return RoundStatus.NONE;
            return _isOpen(progress) ? RoundStatus.OPEN : RoundStatus.VOID;
        }
        if (state.voided.get(round)) return RoundStatus.VOID;
        if (progress.phase == Phase.DISPUTED && round == state.disputed) return RoundStatus.DISPUTED;
        if (round <= state.finalized || last - round >= RING) return RoundStatus.FINAL;
        return RoundStatus.SEALED;
    }

    function _requireStatus(
        bytes32 federation,
        Federation storage state,
        Progress memory progress,
        uint64 round,
        RoundStatus expected
    ) private view {
        RoundStatus status = _status(state, progress, round);
        if (status != expected) revert RoundNotSealed(federation, round, status);
    }

    /// @dev Verdicts count for a sealed round whose head is kept and that is neither void nor in dispute.
    function _requireJudged(bytes32 federation, Header calldata header) private view {
        (Federation storage state, Progress memory progress) = _load(federation);
        RoundStatus status = _status(state, progress, header.round);
        if (status != RoundStatus.SEALED && status != RoundStatus.FINAL) {
            revert RoundNotSealed(federation, header.round, status);
        }
        // The head of a round that left the ring has been overwritten by another, which no header of it hashes to.
        _requireHead(federation, state, header.round, _headOf(federation, header));
    }

    function _requireMasks(bytes32 federation, uint32 index, uint16 participated, uint16 accepted, uint16 threshold)
        private
        view
    {
        uint256 slots = _federations[federation].progress.slots;
        uint256 first = uint256(index) * 16;
        if (first >= slots || uint256(participated) >> (slots - first) != 0 || accepted & ~participated != 0) {
            revert MaskInvalid(federation, index, participated, accepted);
        }
        if (threshold > MAX_REPUTATION) revert ThresholdOutOfRange(threshold, MAX_REPUTATION);
    }

    /// @dev A word without a round has never been written.
    function _reputations(ReputationWord storage word) private view returns (uint256) {
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

    function _submissionKey(bytes32 federation, uint64 round, bytes32 parentModel, uint32 slot)
        private
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(federation, round, parentModel, slot / 256));
    }

    function _genesisHead(bytes32 federation, Federation storage state) private view returns (bytes32) {
        return keccak256(
            abi.encode(
                block.chainid,
                address(this),
                federation,
                state.configHash,
                state.registryRoot,
                state.model,
                state.progress.slots,
                state.progress.quorum
            )
        );
    }

    function _headOf(bytes32 federation, Header calldata header) private view returns (bytes32) {
        return keccak256(
            abi.encode(
                header.previousHead,
                block.chainid,
                address(this),
                federation,
                header.round,
                header.root,
                header.parentModel,
                header.model,
                header.count,
                header.scoresRoot,
                header.decisions
            )
        );
    }
}
// slither-disable-end timestamp
