// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Budget} from "./Budget.sol";

/**
 * @title IRoundLedger
 * @notice Records, events and errors of the RoundLedger.
 */
interface IRoundLedger {
    /// @notice Where a round stands.
    enum RoundStatus {
        NONE,
        OPEN,
        SEALED,
        DISPUTED,
        FINAL,
        VOID
    }

    /**
     * @notice Whether the round after the last sealed one is open, a dispute has stopped the federation, it is over, or
     * an open round was aborted.
     */
    enum Phase {
        IDLE,
        OPEN,
        DISPUTED,
        CLOSED,
        ABORTED
    }

    /// @notice What the contract says about the holder of a slot; NONE leaves it to the registry.
    enum HospitalStatus {
        NONE,
        ACTIVE,
        SUSPENDED
    }

    /// @notice What the head of a round is hashed from, next to chain, contract and federation.
    struct Header {
        /// Number of the round, from 1.
        uint64 round;
        /// Head of the round before.
        bytes32 previousHead;
        /// Root of the positional tree of signed updates.
        bytes32 root;
        /// Digest of the model that the round started from.
        bytes32 parentModel;
        /// Digest of the model that came out.
        bytes32 model;
        /// Number of slots with an update.
        uint32 count;
        /// Root of the tree of named digests (see {Annex}), zero without any.
        bytes32 annex;
    }

    /// @notice What a hospital signs in a round.
    struct ModelUpdate {
        /// Version of this record, `SCHEMA`.
        uint16 schema;
        /// Identifier of the federation.
        bytes32 federation;
        /// Number of the round.
        uint64 round;
        /// Slot of the hospital.
        uint32 slot;
        /// Digest of the model that it started from.
        bytes32 parentModel;
        /// Head of the round before: the hospital co-signs the history so far.
        bytes32 parentHead;
        /// Digest of the change that it sends.
        bytes32 update;
        /// Salted commitment to the number of training samples.
        bytes32 samples;
        /// Salted commitment to the metrics.
        bytes32 metrics;
        /// Digest of the inputs of the privacy accountant, zero without differential privacy.
        bytes32 privacy;
        /// Digest of the configuration.
        bytes32 configHash;
        /// A number of the hospital's choice.
        uint64 nonce;
        /// Last second at which it may be submitted, 0 for none.
        uint64 deadline;
    }

    /// @notice A coordinator's signed promise to seal `leaf` in `slot`.
    struct Receipt {
        /// Identifier of the federation.
        bytes32 federation;
        /// Number of the round.
        uint64 round;
        /// Slot of the hospital.
        uint32 slot;
        /// Leaf of the signed update.
        bytes32 leaf;
    }

    /// @notice Change of a hospital's key, signed by the old and by the new one.
    struct KeyRotation {
        /// Identifier of the federation.
        bytes32 federation;
        /// Slot of the hospital.
        uint32 slot;
        /// Account that holds the slot.
        address from;
        /// Account that takes it over.
        address to;
        /// First round that the new key signs.
        uint64 round;
    }

    /// @notice What overrides the registry for one slot.
    struct Hospital {
        /// Account that holds the slot.
        address account;
        /// ACTIVE or SUSPENDED; NONE if the registry decides.
        HospitalStatus status;
        /// Round of the last key rotation, so that none can be replayed.
        uint64 rotated;
        /// Commitment to the organisation.
        bytes32 organisation;
    }

    /// @notice The part of a federation's state that sealing moves, in one word of storage.
    struct Progress {
        /// Number of the last sealed round.
        uint64 round;
        /// Last second of the open round, 0 for none.
        uint40 deadline;
        /// Time of the last seal.
        uint40 sealedAt;
        /// Number of slots of every tree of the federation.
        uint24 slots;
        /// Least number of updates in a round.
        uint24 quorum;
        /// Seconds after a seal before it may become final.
        uint24 window;
        /// Updates submitted directly for the next round.
        uint24 submissions;
        /// Whether the next round is open, or whether there can be one at all.
        Phase phase;
    }

    /// @notice State of a federation, as `federationState` returns it.
    struct FederationState {
        /// Head after the last sealed round.
        bytes32 head;
        /// Digest of the model that the next round starts from.
        bytes32 model;
        /// Digest of the configuration.
        bytes32 configHash;
        /// Root of the registry of hospitals.
        bytes32 registryRoot;
        /// The moving part.
        Progress progress;
        /// Last round that was declared final.
        uint64 finalized;
        /// Round under dispute, or the last one that was.
        uint64 disputed;
        /// Digest of the record that closed the federation, zero while it runs.
        bytes32 closing;
        /// Account that leads: that opened or sealed last, or was handed the federation.
        address coordinator;
        /// Rounds that the model of an update may be behind.
        uint32 staleness;
    }

    /// @notice What shows that an update is beyond the privacy budget of its federation.
    struct Overspent {
        /// The update.
        ModelUpdate record;
        /// Signature of the update, as in its leaf.
        bytes signature;
        /// What it has spent, and the budget.
        Budget.Account account;
        /// Siblings of its leaf in the sealed tree.
        bytes32[] proof;
        /// Siblings of the budget in the annex of the round.
        bytes32[] annexProof;
    }

    /// @notice An update that was submitted directly.
    struct Submission {
        /// Leaf that the sealed tree must hold; zero if nothing was submitted.
        bytes32 leaf;
        /// Whether the coordinator says that it was not given the vector.
        bool refused;
    }

    /**
     * @notice A federation was opened at round 0.
     * @param federation Identifier of the federation.
     * @param configHash Digest of its configuration.
     * @param registryRoot Root of the tree of hospitals, one leaf per slot.
     * @param genesisModel Digest of the model before round 1.
     * @param slots Number of slots.
     * @param quorum Least number of updates in a round.
     * @param window Seconds after a seal before it may become final.
     * @param staleness Rounds that the model of an update may be behind.
     * @param head Head of round 0.
     */
    event FederationOpened(
        bytes32 indexed federation,
        bytes32 configHash,
        bytes32 registryRoot,
        bytes32 genesisModel,
        uint32 slots,
        uint32 quorum,
        uint32 window,
        uint32 staleness,
        bytes32 head
    );

    /**
     * @notice A coordinator took the federation over: its receipts count from now on.
     * @param federation Identifier of the federation.
     * @param round Last round for which receipts of the one before it count: that was opened or sealed, or, where the
     * federation was handed over, the last sealed one.
     * @param coordinator The account.
     */
    event CoordinatorChanged(bytes32 indexed federation, uint64 indexed round, address indexed coordinator);

    /**
     * @notice Only whoever leads the federation goes on with it from now on.
     * @param federation Identifier of the federation.
     * @param keeper Contract that alone can hand it to another account.
     */
    event FederationEntrusted(bytes32 indexed federation, address indexed keeper);

    /**
     * @notice A round was opened by itself, not by the seal of the one before.
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @param parentModel Digest of the model that it starts from.
     * @param deadline Last second at which it may be sealed, 0 for none.
     */
    event RoundOpened(bytes32 indexed federation, uint64 indexed round, bytes32 parentModel, uint64 deadline);

    /**
     * @notice A round was sealed and, unless `next` says otherwise, the next one opened.
     * @param federation Identifier of the federation.
     * @param round Number of the round, from 1.
     * @param header What the head was hashed from.
     * @param submissions Number of updates that were submitted directly.
     * @param next Deadline of the next round: 0 for none, `KEEP_CLOSED` if it was not opened.
     * @param head Head after this round.
     */
    event RoundSealed(
        bytes32 indexed federation, uint64 indexed round, Header header, uint32 submissions, uint64 next, bytes32 head
    );

    /**
     * @notice A hospital's update was submitted directly.
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @param slot Slot of the hospital.
     * @param account Account that signed.
     * @param leaf Leaf that the sealed tree must hold.
     * @param record The signed record.
     * @param signature Its signature.
     */
    event UpdateSubmitted(
        bytes32 indexed federation,
        uint64 indexed round,
        uint32 indexed slot,
        address account,
        bytes32 leaf,
        ModelUpdate record,
        bytes signature
    );

    /**
     * @notice The coordinator says that it was not given the vector behind an update that was submitted directly.
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @param slot Slot of the hospital.
     * @param leaf Leaf of the update.
     */
    event UpdateRefused(bytes32 indexed federation, uint64 indexed round, uint32 indexed slot, bytes32 leaf);

    /**
     * @notice An open round was aborted after its deadline.
     * @param federation Identifier of the federation.
     * @param round Number of the round, which can be opened again.
     * @param parentModel Digest of the model that it started from.
     */
    event RoundAborted(bytes32 indexed federation, uint64 indexed round, bytes32 parentModel);

    /**
     * @notice The clock for the finality of all rounds up to this one runs, whatever is sealed after it.
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @param until First second at which they can be declared final.
     */
    event RoundMarked(bytes32 indexed federation, uint64 indexed round, uint64 until);

    /**
     * @notice A round was disputed and its federation stopped.
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @param slot Slot whose update is missing, or may not be there.
     * @param promised Leaf that the sealed tree should hold: of a receipt, or of an update submitted directly; zero where
     * the update that it holds began from a model that is too old.
     * @param found Leaf that the sealed tree holds.
     */
    event RoundDisputed(
        bytes32 indexed federation, uint64 indexed round, uint32 indexed slot, bytes32 promised, bytes32 found
    );

    /**
     * @notice An update was beyond the privacy budget of its federation, which voids its round.
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @param slot Slot of the hospital.
     * @param budget Noised samples that it may take, of which 1 and 2 gradients are released.
     * @param spent Samples that it said it had taken.
     */
    event BudgetExceeded(
        bytes32 indexed federation, uint64 indexed round, uint32 indexed slot, uint64[2] budget, uint64[2] spent
    );

    /**
     * @notice A round was voided or upheld, by an auditor who resolved a dispute, or by a proof.
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @param voided True if it and all rounds after it are void, false if it and all rounds before it are final.
     * @param model Digest of the model that the next round starts from.
     */
    event DisputeResolved(bytes32 indexed federation, uint64 indexed round, bool voided, bytes32 model);

    /**
     * @notice All rounds up to this one are final.
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     */
    event RoundFinalized(bytes32 indexed federation, uint64 indexed round);

    /**
     * @notice A federation was closed: no round of it will be opened or sealed any more.
     * @param federation Identifier of the federation.
     * @param round Number of its last sealed round, 0 if there is none.
     * @param head Head after that round.
     * @param closing Digest of the record that says what the run came to.
     */
    event FederationClosed(bytes32 indexed federation, uint64 indexed round, bytes32 head, bytes32 closing);

    /**
     * @notice The admin overrode the registry for one slot, or (status NONE) put it back in force.
     * @param federation Identifier of the federation.
     * @param slot Slot of the hospital.
     * @param account Account that holds the slot.
     * @param status The new status.
     * @param organisation Commitment to the organisation.
     */
    event HospitalSet(
        bytes32 indexed federation,
        uint32 indexed slot,
        address indexed account,
        HospitalStatus status,
        bytes32 organisation
    );

    /**
     * @notice A hospital changed its key.
     * @param federation Identifier of the federation.
     * @param slot Slot of the hospital.
     * @param from Account that held the slot.
     * @param to Account that holds it now.
     * @param organisation Commitment to the organisation, unchanged.
     * @param round First round that the new key signs.
     */
    event KeyRotated(
        bytes32 indexed federation,
        uint32 indexed slot,
        address from,
        address indexed to,
        bytes32 organisation,
        uint64 round
    );

    /// @notice The federation is already open.
    error FederationAlreadyOpen(bytes32 federation);

    /// @notice The federation was never opened.
    error FederationUnknown(bytes32 federation);

    /// @notice A dispute has stopped the federation.
    error FederationDisputed(bytes32 federation, uint64 round);

    /// @notice The federation is over.
    error FederationOver(bytes32 federation, bytes32 closing);

    /// @notice The digest of the record that closes the federation is zero.
    error ClosingIsZero(bytes32 federation);

    /// @notice The federation has no open dispute.
    error NoDispute(bytes32 federation);

    /// @notice The root of the registry is zero.
    error RegistryIsZero(bytes32 federation);

    /// @notice The quorum is zero or exceeds the number of slots.
    error QuorumOutOfRange(bytes32 federation, uint32 quorum, uint32 slots);

    /// @notice The round is not the one after the last sealed round.
    error RoundOutOfOrder(bytes32 federation, uint64 expected, uint64 given);

    /// @notice The round is already open.
    error RoundAlreadyOpen(bytes32 federation, uint64 round);

    /// @notice The round is not open, or its deadline has passed.
    error RoundNotOpen(bytes32 federation, uint64 round);

    /// @notice The deadline has passed.
    error DeadlinePassed(uint64 deadline, uint256 time);

    /// @notice The head is not the one that the contract holds.
    error HeadMismatch(bytes32 federation, uint64 round, bytes32 expected, bytes32 given);

    /// @notice The headers do not lead to a head that is kept.
    error HeadNotKept(bytes32 federation, uint64 round);

    /// @notice The round does not start from the model of the federation.
    error ParentModelMismatch(bytes32 federation, uint64 round, bytes32 expected, bytes32 given);

    /// @notice The record was made under another configuration.
    error ConfigMismatch(bytes32 federation, bytes32 expected, bytes32 given);

    /// @notice The record has another version.
    error SchemaMismatch(uint16 expected, uint16 given);

    /// @notice The number of updates is below the quorum or exceeds the number of slots.
    error CountOutOfRange(bytes32 federation, uint64 round, uint32 count, uint32 quorum, uint32 slots);

    /// @notice The coordinator has not seen all updates that were submitted directly.
    error SubmissionsMissed(bytes32 federation, uint64 round, uint32 expected, uint32 given);

    /// @notice The root of the tree of updates is zero.
    error RootIsZero(bytes32 federation, uint64 round);

    /// @notice The digest of the model is zero; `round` is 0 for the genesis model.
    error ModelIsZero(bytes32 federation, uint64 round);

    /// @notice The slot has submitted no update for this round, or it is refused already.
    error NothingToRefuse(bytes32 federation, uint64 round, uint32 slot);

    /// @notice The round is not open beyond its deadline.
    error NothingToAbort(bytes32 federation, uint64 round);

    /// @notice Somebody else leads the federation.
    error NotLeader(bytes32 federation, address leader, address account);

    /// @notice The federation is entrusted to another contract, or to none.
    error NotKeeper(bytes32 federation, address account);

    /// @notice The federation is entrusted already, or has begun, or somebody else leads it.
    error NotEntrustable(bytes32 federation, address account);

    /// @notice The slot has already submitted an update for this round.
    error AlreadySubmitted(bytes32 federation, uint64 round, uint32 slot);

    /// @notice The account is not an active holder of the slot.
    error NotHospital(bytes32 federation, uint32 slot, address account);

    /// @notice The signature was not made by the account.
    error SignatureInvalid(address account, bytes32 digest);

    /// @notice The federation has no such slot.
    error SlotOutOfRange(bytes32 federation, uint32 slot, uint32 slots);

    /// @notice The account is zero.
    error AccountIsZero(bytes32 federation, uint32 slot);

    /// @notice The round cannot be disputed unless it is SEALED, and proves nothing unless it is SEALED or FINAL.
    error RoundNotSealed(bytes32 federation, uint64 round, RoundStatus status);

    /// @notice The round or federation of the receipt is not that of the header.
    error ReceiptMismatch(bytes32 federation, uint64 round, bytes32 givenFederation, uint64 givenRound);

    /// @notice The proof does not lead to the root.
    error ProofInvalid(bytes32 root, bytes32 leaf);

    /// @notice The sealed tree holds what it should, or nothing was promised: there is nothing to dispute.
    error EvidenceInconclusive(bytes32 federation, uint64 round, uint32 slot);

    /// @notice The window for disputes is not over.
    error WindowOpen(bytes32 federation, uint64 round, uint256 until);

    /// @notice No round has been sealed since the last one that is final.
    error NothingToFinalize(bytes32 federation, uint64 round);

    /// @notice The account holds a role that the new one must be kept apart from.
    error RolesConflict(address account, bytes32 held, bytes32 given);
}
