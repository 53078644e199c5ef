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
import {Annex} from "./Annex.sol";
import {Budget} from "./Budget.sol";
import {PositionalTree} from "./PositionalTree.sol";
import {Registry} from "./Registry.sol";

/**
 * @title RoundLedger
 * @notice Anchors the rounds of federated learning runs. A round is one Merkle root over the signed updates of its
 * hospitals and the hash of the model that came out; a run is a chain of such rounds behind one head. The contract
 * holds digests only: no patient data, no model, no update.
 *
 * A round is NONE, OPEN, SEALED and then FINAL. While it is SEALED, a signed receipt or a direct submission that the
 * sealed tree does not hold turns it into DISPUTED, and an auditor into FINAL or VOID. No number of seals ends that: a
 * round stays SEALED until its window is over and somebody declares it final. An open round whose deadline passes is
 * VOID until its number is opened again. Heads and round numbers are never rewritten. A run ends
 * with a digest of what it came to, after which its federation takes no round any more.
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
    bytes32 private constant AVAILABILITY_TYPEHASH =
        keccak256("Availability(bytes32 federation,uint64 round,uint32 slot,bytes32 leaf)");

    // Keyed by federation, round, parent model and slot. With the parent model in the key, a submission counts again
    // when its round is opened again, unless a dispute has put another model in its place.
    mapping(bytes32 key => Submission) private _submissions;

    /**
     * @notice Gives the roles to their first holders, who must be different accounts.
     * @param admin Account that grants roles, enrols hospitals and pauses; it changes in two steps.
     * @param coordinator Account that opens federations and seals rounds.
     * @param auditor Account that resolves disputes.
     * @param adminDelay Seconds between the two steps of a change of the admin.
     */
    constructor(address admin, address coordinator, address auditor, uint48 adminDelay)
        AccessControlDefaultAdminRules(adminDelay, admin)
        EIP712("PulseLedger", "2")
    {
        _grantRole(COORDINATOR_ROLE, coordinator);
        _grantRole(AUDITOR_ROLE, auditor);
    }

    /// @dev Role and term; see `requireLeader`.
    modifier onlyLeader(bytes32 federation) {
        requireLeader(federation, msg.sender);
        _;
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
     * @param staleness Rounds that the model of an update may be behind; 0 where all work starts from the last one.
     */
    function openFederation(
        bytes32 federation,
        bytes32 configHash,
        bytes32 registryRoot,
        bytes32 genesisModel,
        uint32 slots,
        uint32 quorum,
        uint32 window,
        uint32 staleness
    ) external onlyRole(COORDINATOR_ROLE) whenNotPaused {
        (Federation storage state, Progress memory progress) = _read(federation);
        if (progress.slots != 0) revert FederationAlreadyOpen(federation);
        if (registryRoot == 0) revert RegistryIsZero(federation);
        if (genesisModel == 0) revert ModelIsZero(federation, 0);
        if (quorum == 0 || quorum > slots) revert QuorumOutOfRange(federation, quorum, slots);

        state.model = genesisModel;
        state.configHash = configHash;
        state.registryRoot = registryRoot;
        state.staleness = staleness;
        progress.slots = SafeCast.toUint24(slots);
        progress.quorum = SafeCast.toUint24(quorum);
        progress.window = SafeCast.toUint24(window);
        _store(state, progress);
        bytes32 newHead = _genesisHead(federation, state);
        for (uint256 i = 0; i < RING; ++i) {
            state.heads[i] = newHead;
        }
        _serve(federation, state, 0, msg.sender);
        emit FederationOpened(
            federation, configHash, registryRoot, genesisModel, slots, quorum, window, staleness, newHead
        );
    }

    /**
     * @notice Opens the next round. Needed for round 1, after a pause, after a dispute, and to open a round again
     * whose deadline has passed; otherwise `sealRound` opens the round after it.
     *
     * Requirements:
     *
     * - the caller must lead the federation, and the contract must not be paused.
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
        onlyLeader(federation)
    {
        (Federation storage state, Progress memory progress) = _load(federation);
        _requireNext(federation, round, progress);
        if (_isOpen(progress)) revert RoundAlreadyOpen(federation, round);
        _requireParent(federation, round, state, parentModel);

        _open(progress, deadline);
        _store(state, progress);
        _serve(federation, state, round, msg.sender);
        emit RoundOpened(federation, round, parentModel, deadline);
    }

    /**
     * @notice Seals the open round and opens the next one.
     *
     * Requirements:
     *
     * - the caller must lead the federation.
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
        onlyLeader(federation)
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
        _serve(federation, state, round, msg.sender);
        progress.round = round;
        progress.sealedAt = uint40(block.timestamp);
        progress.submissions = 0;
        progress.phase = Phase.IDLE;
        if (next != KEEP_CLOSED) _open(progress, next);
        _store(state, progress);
        emit RoundSealed(federation, round, header, submissions, next, newHead);
    }

    /**
     * @notice Ends an open round whose deadline has passed, on record. Anyone may call: a coordinator that is gone cannot
     * keep a round in suspense. The coordinator can open its number again.
     *
     * Requirements: the round after the last sealed one must be open, and its deadline over.
     *
     * Emits a {RoundAborted} event.
     *
     * @param federation Identifier of the federation.
     */
    function abortRound(bytes32 federation) external {
        (Federation storage state, Progress memory progress) = _load(federation);
        uint64 round = progress.round + 1;
        if (progress.phase != Phase.OPEN || _isOpen(progress)) revert NothingToAbort(federation, round);

        progress.phase = Phase.ABORTED;
        _store(state, progress);
        emit RoundAborted(federation, round, state.model);
    }

    /**
     * @notice Submits a hospital's update directly: the way round a coordinator that does not take it. Anyone may
     * relay it. A seal whose tree does not hold its leaf can then be disputed, with nothing but that. The hospital must
     * give its vector to the coordinator; see `refuseUpdate`.
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
        bytes32 digest = _updateDigest(record);
        _requireSignature(account, digest, signature);

        bytes32 leaf = _leafOf(record, digest, signature);
        _keepSubmission(record, leaf);
        emit UpdateSubmitted(record.federation, record.round, record.slot, account, leaf, record, signature);
    }

    /**
     * @notice Says that the vector behind a direct submission was not given to the coordinator, so that the round can go
     * on without it: a hospital that withholds its vector loses its slot, and nobody else a round. If that is not true,
     * the hospital gives the vector to an auditor, whose signature makes the submission count again in a dispute.
     *
     * Requirements:
     *
     * - the caller must lead the federation, and the round after the last sealed one must be open.
     * - the slot must have submitted an update for this round and model, and it must not be refused yet.
     *
     * Emits an {UpdateRefused} event.
     *
     * @param federation Identifier of the federation.
     * @param slot Slot of the hospital.
     */
    function refuseUpdate(bytes32 federation, uint32 slot) external onlyLeader(federation) {
        (Federation storage state, Progress memory progress) = _load(federation);
        uint64 round = progress.round + 1;
        _requireOpenNext(federation, round, progress);
        Submission storage kept = _submissions[_submissionKey(federation, round, state.model, slot)];
        if (kept.leaf == 0 || kept.refused) revert NothingToRefuse(federation, round, slot);

        kept.refused = true;
        emit UpdateRefused(federation, round, slot, kept.leaf);
    }

    /**
     * @notice Returns what a slot has submitted directly.
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @param parentModel Digest of the model that the round started from.
     * @param slot Slot of the hospital.
     * @return The submission; its leaf is zero if there is none.
     */
    function submission(bytes32 federation, uint64 round, bytes32 parentModel, uint32 slot)
        external
        view
        returns (Submission memory)
    {
        return _submissions[_submissionKey(federation, round, parentModel, slot)];
    }

    // --- Who leads ---------------------------------------------------------------------------------------------------

    /**
     * @notice Binds a federation to whoever leads it, and to a contract that alone can hand it to somebody else: see
     * `SuccessionLedger`. From then on an account that only has the coordinator role cannot go on with it.
     *
     * Requirements:
     *
     * - the caller must be the account that went on with the federation last.
     * - no round must be sealed, and the federation not be entrusted yet.
     *
     * Emits a {FederationEntrusted} event.
     *
     * @param federation Identifier of the federation.
     * @param keeper The contract.
     */
    function entrust(bytes32 federation, address keeper) external {
        Federation storage state = _federations[federation];
        if (msg.sender != state.coordinator || state.entrusted || state.progress.round != 0) {
            revert NotEntrustable(federation, msg.sender);
        }
        state.keeper = keeper;
        state.entrusted = true;
        emit FederationEntrusted(federation, keeper);
    }

    /**
     * @notice Hands an entrusted federation to another account. Nothing that the one before it sends counts from then on:
     * neither what waits to get into a block, nor a receipt for a round that is not sealed.
     *
     * Requirements:
     *
     * - the caller must be the contract that the federation is entrusted to.
     * - the federation must not be closed, and no dispute be open.
     * - `account` must be neither admin nor auditor nor reviewer.
     *
     * Emits a {CoordinatorChanged} event.
     *
     * @param federation Identifier of the federation.
     * @param account The account.
     */
    function handOver(bytes32 federation, address account) external {
        (Federation storage state, Progress memory progress) = _load(federation);
        if (msg.sender != state.keeper) revert NotKeeper(federation, msg.sender);
        _requireRunning(federation, state, progress);
        _requireApart(account, COORDINATOR_ROLE);
        _serve(federation, state, progress.round, account);
    }

    /**
     * @notice Requires that an account may go on with a federation: the one that leads it, where it is entrusted, and
     * otherwise any with the coordinator role.
     * @param federation Identifier of the federation.
     * @param account The account.
     */
    function requireLeader(bytes32 federation, address account) public view {
        Federation storage state = _federations[federation];
        if (!state.entrusted) {
            _checkRole(COORDINATOR_ROLE, account);
        } else if (account != state.coordinator) {
            revert NotLeader(federation, state.coordinator, account);
        }
    }

    // --- Disputes and finality ---------------------------------------------------------------------------------------

    /**
     * @notice Disputes a sealed round and stops its federation until an auditor has decided. Anyone may call: what
     * counts is the evidence. It is a proof that the sealed tree holds another leaf in a slot, or none, than
     *
     * - a receipt names that a coordinator of the federation has signed; or
     * - the slot has submitted directly: the receipt then has a zero leaf. The signature is empty, or where the
     *   coordinator has refused the submission, an auditor's under the record
     *   Availability(bytes32 federation,uint64 round,uint32 slot,bytes32 leaf), which says that it holds the vector.
     *
     * Requirements:
     *
     * - the round must be SEALED, and the receipt must name it and its federation.
     * - `headers` must lead from the head of the round to one that is kept.
     * - no other dispute must be open.
     *
     * The open round, if any, is closed; `openRound` opens it again after the decision.
     *
     * Emits a {RoundDisputed} event.
     *
     * @param federation Identifier of the federation.
     * @param headers What the head of the round was hashed from, and, of a round that is older than the heads that are
     * kept, those of the rounds after it up to one whose head is.
     * @param receipt What was promised.
     * @param signature Of the receipt, by whoever has the coordinator role, or was coordinator of the federation at that
     * time; 65 bytes.
     * @param leaf Leaf that the sealed tree holds in the slot.
     * @param proof Siblings of the slot in the sealed tree.
     */
    function dispute(
        bytes32 federation,
        Header[] calldata headers,
        Receipt calldata receipt,
        bytes calldata signature,
        bytes32 leaf,
        bytes32[] calldata proof
    ) external {
        (Federation storage state, Progress memory progress) = _load(federation);
        Header calldata header = headers[0];
        _requireDisputable(federation, state, progress, header.round);
        bytes32 disputedHead = _requireHeaders(federation, state, progress, headers);
        if (receipt.federation != federation || receipt.round != header.round) {
            revert ReceiptMismatch(federation, header.round, receipt.federation, receipt.round);
        }
        if (!PositionalTree.verify(header.root, receipt.slot, leaf, progress.slots, proof)) {
            revert ProofInvalid(header.root, leaf);
        }
        bytes32 promised = _promised(state, receipt, header.parentModel, signature);
        if (promised == 0 || promised == leaf) revert EvidenceInconclusive(federation, header.round, receipt.slot);

        progress.phase = Phase.DISPUTED;
        _store(state, progress);
        state.disputed = header.round;
        state.disputedHead = disputedHead;
        emit RoundDisputed(federation, header.round, receipt.slot, promised, leaf);
    }

    /**
     * @notice Disputes a sealed round that holds an update whose work began from a model that is too old, or from none of
     * the federation's: its record names it. Anyone may call; it stops the federation as `dispute` does.
     *
     * Requirements:
     *
     * - the round must be SEALED, and no dispute be open.
     * - `headers` must lead, one round after the other, to a head that is kept. They must begin as many rounds before
     *   the disputed one as the federation allows an update to be behind, or at round 1, and reach the disputed one.
     * - the sealed tree must hold the record with its signature in its slot.
     * - none of these rounds up to the disputed one may have started from the model that the record names.
     *
     * Emits a {RoundDisputed} event, in which nothing was promised.
     *
     * @param federation Identifier of the federation.
     * @param headers What the heads of these rounds, and of those up to one that is kept, were hashed from.
     * @param record The update's record.
     * @param signature Its signature, as it was sealed.
     * @param proof Siblings of the slot in the sealed tree.
     */
    function disputeUpdate(
        bytes32 federation,
        Header[] calldata headers,
        ModelUpdate calldata record,
        bytes calldata signature,
        bytes32[] calldata proof
    ) external {
        (Federation storage state, Progress memory progress) = _load(federation);
        _requireDisputable(federation, state, progress, record.round);
        _requireHeaders(federation, state, progress, headers);
        Header calldata header = _requireTooOld(federation, state.staleness, headers, record);
        bytes32 leaf = _leafOf(record, _updateDigest(record), signature);
        if (!PositionalTree.verify(header.root, record.slot, leaf, progress.slots, proof)) {
            revert ProofInvalid(header.root, leaf);
        }

        progress.phase = Phase.DISPUTED;
        _store(state, progress);
        state.disputed = header.round;
        state.disputedHead = _headOf(federation, header);
        emit RoundDisputed(federation, header.round, record.slot, 0, leaf);
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
        // Whoever was handed the federation has no role that would keep it apart from this one.
        if (msg.sender == state.coordinator) revert RolesConflict(msg.sender, COORDINATOR_ROLE, AUDITOR_ROLE);
        uint64 round = state.disputed;
        if (header.round != round) revert RoundOutOfOrder(federation, round, header.round);
        bytes32 given = _headOf(federation, header);
        if (given != state.disputedHead) revert HeadMismatch(federation, round, state.disputedHead, given);

        if (voided) {
            _voidFrom(state, progress, header);
        } else {
            _end(state, progress);
            state.finalized = round;
            state.finalHead = given;
        }
        emit DisputeResolved(federation, round, voided, state.model);
    }

    /**
     * @notice Voids a sealed round that holds an update beyond the privacy budget of its federation, and the rounds
     * after it. Anyone may call: the hospital has signed what it spent, and the round names the budget, both in integers,
     * so nobody has to decide.
     *
     * Requirements:
     *
     * - the round must be SEALED, no dispute be open, and `headers` be as `dispute` wants them.
     * - the leaf of record and signature must be in the round's tree.
     * - the round's annex must name the budget, and the record hold the account, which must be beyond it.
     *
     * The open round, if any, is closed; `openRound` opens it again.
     *
     * Emits a {BudgetExceeded} and a {DisputeResolved} event.
     *
     * @param federation Identifier of the federation.
     * @param headers As for `dispute`.
     * @param evidence The update, its account and where both are.
     */
    function voidOverspent(bytes32 federation, Header[] calldata headers, Overspent calldata evidence) external {
        (Federation storage state, Progress memory progress) = _load(federation);
        Header calldata header = headers[0];
        _requireDisputable(federation, state, progress, header.round);
        // The head of the round is for a decision that comes later; here none does.
        // slither-disable-next-line unused-return
        _requireHeaders(federation, state, progress, headers);
        uint32 slot = evidence.record.slot;
        bytes32 leaf = _leafOf(evidence.record, _updateDigest(evidence.record), evidence.signature);
        if (!PositionalTree.verify(header.root, slot, leaf, progress.slots, evidence.proof)) {
            revert ProofInvalid(header.root, leaf);
        }
        Annex.requireNamed(header.annex, Budget.NAME, Budget.terms(evidence.account), evidence.annexProof);
        if (!Budget.isExceeded(evidence.account, evidence.record.privacy)) {
            revert EvidenceInconclusive(federation, header.round, slot);
        }
        _voidFrom(state, progress, header);
        emit BudgetExceeded(federation, header.round, slot, evidence.account.budget, evidence.account.spent);
        emit DisputeResolved(federation, header.round, true, state.model);
    }

    /**
     * @notice Makes all rounds final whose window is over. Anyone may call.
     *
     * Those are all sealed rounds once the window after the last seal is over, and before that the rounds up to the last
     * mark, once the window after it is; see `markRound`.
     *
     * Requirements:
     *
     * - a round must have been sealed since the last one that is final, and its window be over.
     * - no dispute must be open.
     *
     * Emits a {RoundFinalized} event.
     *
     * @param federation Identifier of the federation.
     */
    function finalizeRound(bytes32 federation) external {
        (Federation storage state, Progress memory progress) = _load(federation);
        _requireUndisputed(federation, state, progress);
        uint64 round = progress.round;
        // Before round 1 both are 0.
        if (state.finalized == round) revert NothingToFinalize(federation, round);
        bytes32 finalHead = _headAt(state, round);
        uint256 until = uint256(progress.sealedAt) + progress.window;
        if (block.timestamp < until) {
            (round, finalHead) = (state.marked, state.markedHead);
            if (round <= state.finalized || block.timestamp < uint256(state.markedAt) + progress.window) {
                revert WindowOpen(federation, progress.round, until);
            }
        }

        state.finalized = round;
        state.finalHead = finalHead;
        emit RoundFinalized(federation, round);
    }

    /**
     * @notice Notes the last sealed round, so that it becomes final a window after its seal however fast rounds follow.
     * Anyone may call.
     *
     * Requirements:
     *
     * - no dispute must be open.
     * - a round must have been sealed since the last one that is final, and no mark must be waiting for its window.
     *
     * Emits a {RoundMarked} event.
     *
     * @param federation Identifier of the federation.
     */
    function markRound(bytes32 federation) external {
        (Federation storage state, Progress memory progress) = _load(federation);
        _requireUndisputed(federation, state, progress);
        uint64 round = progress.round;
        if (state.finalized == round || state.marked > state.finalized) revert NothingToFinalize(federation, round);

        state.marked = round;
        state.markedAt = progress.sealedAt;
        state.markedHead = _headAt(state, round);
        emit RoundMarked(federation, round, uint64(progress.sealedAt) + progress.window);
    }

    /**
     * @notice Closes a federation with what the run came to. No round can be opened or sealed after that, and no update
     * submitted; sealed rounds can still be disputed and made final.
     *
     * Requirements:
     *
     * - the caller must lead the federation.
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
        onlyLeader(federation)
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

    function _updateDigest(ModelUpdate calldata record) private view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(MODEL_UPDATE_TYPEHASH, record)));
    }

    function _leafOf(ModelUpdate calldata record, bytes32 digest, bytes calldata signature)
        private
        pure
        returns (bytes32)
    {
        return keccak256(abi.encodePacked(bytes1(0), record.schema, record.slot, digest, signature));
    }

    /// @dev Requires that a record's model is none that work could begin from, and returns the header of its round.
    function _requireTooOld(
        bytes32 federation,
        uint64 staleness,
        Header[] calldata headers,
        ModelUpdate calldata record
    ) private pure returns (Header calldata header) {
        uint64 first = headers[0].round;
        uint64 oldest = record.round > staleness ? record.round - staleness : 1;
        if (first > oldest) revert RoundOutOfOrder(federation, oldest, first);
        if (record.round - first >= headers.length) revert HeadNotKept(federation, record.round);
        for (uint64 round = oldest; round <= record.round; ++round) {
            if (headers[round - first].parentModel == record.parentModel) {
                revert EvidenceInconclusive(federation, record.round, record.slot);
            }
        }
        header = headers[record.round - first];
    }

    function _keepSubmission(ModelUpdate calldata record, bytes32 leaf) private {
        bytes32 key = _submissionKey(record.federation, record.round, record.parentModel, record.slot);
        if (_submissions[key].leaf != 0) revert AlreadySubmitted(record.federation, record.round, record.slot);
        _submissions[key].leaf = leaf;
        _federations[record.federation].progress.submissions += 1;
    }

    /// @dev Binds an account to the federation: its receipts count from now on, and after it has left, for the rounds
    /// until `round`. Where another opens or seals that is its own first one, for which the one before it may have given
    /// some; where another was handed the federation it is the last sealed one.
    function _serve(bytes32 federation, Federation storage state, uint64 round, address account) private {
        if (state.coordinator == account) return;
        state.served[state.coordinator] = round;
        state.coordinator = account;
        state.served[account] = type(uint64).max;
        emit CoordinatorChanged(federation, round, account);
    }

    /// @dev The leaf that the tree should hold; zero if nothing was promised.
    function _promised(
        Federation storage state,
        Receipt calldata receipt,
        bytes32 parentModel,
        bytes calldata signature
    ) private view returns (bytes32 promised) {
        if (receipt.leaf != 0) {
            address signer = _signerOf(RECEIPT_TYPEHASH, receipt, receipt.leaf, signature);
            // A receipt does not say who signed it.
            bool known = !state.entrusted && hasRole(COORDINATOR_ROLE, signer);
            if (!known && state.served[signer] < receipt.round) {
                revert SignatureInvalid(signer, _digestOf(RECEIPT_TYPEHASH, receipt, receipt.leaf));
            }
            return receipt.leaf;
        }
        bytes32 key = _submissionKey(receipt.federation, receipt.round, parentModel, receipt.slot);
        promised = _submissions[key].leaf;
        if (!_submissions[key].refused) return promised;
        address witness = _signerOf(AVAILABILITY_TYPEHASH, receipt, promised, signature);
        if (!hasRole(AUDITOR_ROLE, witness)) {
            revert SignatureInvalid(witness, _digestOf(AVAILABILITY_TYPEHASH, receipt, promised));
        }
    }

    /// @dev Digest of a record with the fields of a receipt.
    function _digestOf(bytes32 kind, Receipt calldata receipt, bytes32 leaf) private view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(kind, receipt.federation, receipt.round, receipt.slot, leaf)));
    }

    /// @dev The zero address, which holds no role and never served, for a signature that is none.
    function _signerOf(bytes32 kind, Receipt calldata receipt, bytes32 leaf, bytes calldata signature)
        private
        view
        returns (address signer)
    {
        // Why there is no signer does not matter.
        // slither-disable-next-line unused-return
        (signer,,) = ECDSA.tryRecoverCalldata(_digestOf(kind, receipt, leaf), signature);
    }

    /// @dev What is over stays over: who voids the last round of a closed federation voids what it came to.
    function _end(Federation storage state, Progress memory progress) private {
        progress.phase = state.closing == 0 ? Phase.IDLE : Phase.CLOSED;
        _store(state, progress);
    }

    /// @dev Voids a round with those after it; the next one starts from the model before it.
    function _voidFrom(Federation storage state, Progress memory progress, Header calldata header) private {
        _void(state, header.round, progress.round);
        // Direct submissions for another model do not count for the round that is opened now.
        if (state.model != header.parentModel) progress.submissions = 0;
        state.model = header.parentModel;
        _end(state, progress);
    }

    /// @dev Marks rounds as void, 256 in a word, so that any number of them fits into a transaction.
    function _void(Federation storage state, uint64 first, uint64 last) private {
        for (uint256 bucket = first >> 8; bucket <= last >> 8; ++bucket) {
            uint256 mask = type(uint256).max;
            if (bucket == first >> 8) mask <<= first & 255;
            if (bucket == last >> 8) mask &= type(uint256).max >> (255 - (last & 255));
            state.voided._data[bucket] |= mask;
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
        return keccak256(abi.encode(federation, round, parentModel, slot));
    }
}
// slither-disable-end timestamp
