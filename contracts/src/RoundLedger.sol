// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {
    AccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {BitMaps} from "@openzeppelin/contracts/utils/structs/BitMaps.sol";
import {PositionalTree} from "./PositionalTree.sol";
import {Registry} from "./Registry.sol";

/**
 * @title RoundLedger
 * @notice Anchors the rounds of federated learning runs. A round is one Merkle root over the signed updates of its
 * hospitals and the hash of the model that came out; a run is a chain of such rounds behind one head. The contract
 * holds digests only: no patient data, no model, no update.
 *
 * A round is NONE, OPEN, SEALED and then FINAL. While it is SEALED, a signed receipt or a direct submission that the
 * sealed tree does not hold turns it into DISPUTED, and an auditor into FINAL or VOID. An open round whose deadline
 * passes is VOID until its number is opened again. Heads and round numbers are never rewritten. A run ends with a
 * digest of what it came to, after which its federation takes no round any more.
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
contract RoundLedger is Registry, Pausable {
    using BitMaps for BitMaps.BitMap;

    /// @notice Version of `ModelUpdate`.
    uint16 public constant SCHEMA = 2;

    /// @notice Value of `next` in `sealRound` that leaves the next round closed.
    uint64 public constant KEEP_CLOSED = type(uint64).max;

    bytes32 private constant MODEL_UPDATE_TYPEHASH = keccak256(
        "ModelUpdate(uint16 schema,bytes32 federation,uint64 round,uint32 slot,bytes32 parentModel,bytes32 parentHead,bytes32 update,bytes32 samples,bytes32 metrics,bytes32 privacy,bytes32 configHash,uint64 nonce,uint64 deadline)"
    );
    bytes32 private constant RECEIPT_TYPEHASH =
        keccak256("Receipt(bytes32 federation,uint64 round,uint32 slot,bytes32 leaf)");

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
        (Federation storage state, Progress memory progress) = _read(federation);
        if (progress.slots != 0) revert FederationAlreadyOpen(federation);
        if (registryRoot == 0) revert RegistryIsZero(federation);
        if (genesisModel == 0) revert ModelIsZero(federation, 0);
        if (quorum == 0 || quorum > slots) revert QuorumOutOfRange(federation, quorum, slots);

        state.model = genesisModel;
        state.configHash = configHash;
        state.registryRoot = registryRoot;
        progress.slots = SafeCast.toUint24(slots);
        progress.quorum = SafeCast.toUint24(quorum);
        progress.window = SafeCast.toUint24(window);
        _store(state, progress);
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
        _requireParent(federation, round, state, parentModel);

        _open(progress, deadline);
        _store(state, progress);
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
        _requireOpenNext(federation, round, progress);
        _requireHead(federation, state, round - 1, header.previousHead);
        _requireParent(federation, round, state, header.parentModel);
        _requireCount(federation, round, header.count, progress);
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
        _store(state, progress);
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
        _requireDisputable(federation, state, progress, round);
        _requireHeader(federation, state, header);
        if (receipt.federation != federation || receipt.round != round) {
            revert ReceiptMismatch(federation, round, receipt.federation, receipt.round);
        }
        if (!PositionalTree.verify(header.root, receipt.slot, leaf, progress.slots, proof)) {
            revert ProofInvalid(header.root, leaf);
        }
        bool conclusive;
        if (receipt.leaf == 0 && coordinatorSignature.length == 0) {
            bool sent = submitted(federation, round, header.parentModel, receipt.slot);
            conclusive = sent && leaf == PositionalTree.EMPTY;
        } else {
            conclusive = receipt.leaf != leaf;
            _requireReceipt(receipt, coordinatorSignature);
        }
        if (!conclusive) revert EvidenceInconclusive(federation, round, receipt.slot);

        progress.phase = Phase.DISPUTED;
        _store(state, progress);
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
        _requireHeader(federation, state, header);

        // What is over stays over: who voids the last round of a closed federation voids what it came to.
        progress.phase = state.closing == 0 ? Phase.IDLE : Phase.CLOSED;
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
        _store(state, progress);
        emit DisputeResolved(federation, round, voided, state.model);
    }

    /**
     * @notice Makes all sealed rounds final. Anyone may call.
     *
     * Requirements:
     *
     * - the window after the last seal must be over, and no dispute must be open.
     * - a round must have been sealed since the last one that is final.
     *
     * Emits a {RoundFinalized} event.
     *
     * @param federation Identifier of the federation.
     */
    function finalizeRound(bytes32 federation) external {
        (Federation storage state, Progress memory progress) = _load(federation);
        _requireUndisputed(federation, state, progress);
        uint256 until = uint256(progress.sealedAt) + progress.window;
        if (block.timestamp < until) revert WindowOpen(federation, progress.round, until);
        // Before round 1 both are 0.
        if (state.finalized == progress.round) revert NothingToFinalize(federation, progress.round);

        state.finalized = progress.round;
        emit RoundFinalized(federation, progress.round);
    }

    /**
     * @notice Closes a federation with what the run came to. No round can be opened or sealed after that, and no update
     * submitted; sealed rounds can still be disputed and made final.
     *
     * Requirements:
     *
     * - the caller must have the coordinator role.
     * - the federation must not be closed, and no dispute must be open.
     * - `round` must be the last sealed round, and `lastHead` the head after it.
     * - `closing` must not be zero.
     *
     * Emits a {FederationClosed} event.
     *
     * @param federation Identifier of the federation.
     * @param round Number of the last sealed round, 0 if there is none.
     * @param lastHead Head after that round.
     * @param closing Digest of the record that says what the run came to.
     */
    function closeFederation(bytes32 federation, uint64 round, bytes32 lastHead, bytes32 closing)
        external
        onlyRole(COORDINATOR_ROLE)
    {
        (Federation storage state, Progress memory progress) = _load(federation);
        _requireRunning(federation, state, progress);
        if (round != progress.round) revert RoundOutOfOrder(federation, progress.round, round);
        _requireHead(federation, state, round, lastHead);
        if (closing == 0) revert ClosingIsZero(federation);

        progress.phase = Phase.CLOSED;
        _store(state, progress);
        state.closing = closing;
        emit FederationClosed(federation, round, lastHead, closing);
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

    // --- Internals ---------------------------------------------------------------------------------------------------

    function _store(Federation storage state, Progress memory progress) private {
        state.progress = progress;
    }

    /// @dev A deadline is 0 for none.
    function _requireTime(uint64 deadline, uint256 earliest) private view {
        if (deadline != 0 && deadline < earliest) revert DeadlinePassed(deadline, block.timestamp);
    }

    function _requireCount(bytes32 federation, uint64 round, uint32 count, Progress memory progress) private pure {
        if (count < progress.quorum || count > progress.slots) {
            revert CountOutOfRange(federation, round, count, progress.quorum, progress.slots);
        }
    }

    function _open(Progress memory progress, uint64 deadline) private view {
        _requireNotPaused();
        _requireTime(deadline, block.timestamp + 1);
        progress.deadline = SafeCast.toUint40(deadline);
        progress.phase = Phase.OPEN;
    }

    function _requireRecord(ModelUpdate calldata record) private view {
        bytes32 federation = record.federation;
        uint64 round = record.round;
        (Federation storage state, Progress memory progress) = _load(federation);
        _requireOpenNext(federation, round, progress);
        if (record.schema != SCHEMA) revert SchemaMismatch(SCHEMA, record.schema);
        _requireTime(record.deadline, block.timestamp);
        _requireHead(federation, state, round - 1, record.parentHead);
        _requireParent(federation, round, state, record.parentModel);
        if (record.configHash != state.configHash) {
            revert ConfigMismatch(federation, state.configHash, record.configHash);
        }
    }

    function _countSubmission(ModelUpdate calldata record) private {
        bytes32 key = _submissionKey(record.federation, record.round, record.parentModel, record.slot);
        uint256 bit = uint256(1) << (record.slot % 256);
        if (_submissions[key] & bit != 0) revert AlreadySubmitted(record.federation, record.round, record.slot);
        _submissions[key] |= bit;
        _federations[record.federation].progress.submissions += 1;
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

    function _requireDisputable(bytes32 federation, Federation storage state, Progress memory progress, uint64 round)
        private
        view
    {
        RoundStatus status = _status(state, progress, round);
        if (status != RoundStatus.SEALED) revert RoundNotSealed(federation, round, status);
        _requireUndisputed(federation, state, progress);
    }

    function _submissionKey(bytes32 federation, uint64 round, bytes32 parentModel, uint32 slot)
        private
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(federation, round, parentModel, slot / 256));
    }
}
// slither-disable-end timestamp
