// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/**
 * @title IMaskLedger
 * @notice Records, events and errors of the MaskLedger. Those of the RoundLedger that it asks come through unchanged.
 */
interface IMaskLedger {
    /// @notice How a challenge stands.
    enum Status {
        /// Nobody has challenged the update.
        NONE,
        /// The hospital owes an opening.
        CHALLENGED,
        /// The hospital has answered; an auditor has the opening to check.
        ANSWERED,
        /// The opening is that of the update.
        INNOCENT,
        /// The opening contradicts what the hospital signed, or the hospital gave none in time.
        FRAUD
    }

    /// @notice A challenge to one masked update.
    struct Challenge {
        /// How it stands.
        Status status;
        /// Second from which on it is too late to answer.
        uint64 deadline;
        /// Digest of the opening that the hospital gave, zero without one.
        bytes32 opening;
        /// Digest of the auditor's reasons, zero without a decision.
        bytes32 reasons;
    }

    /// @notice What of a round's updates was challenged and opened.
    struct Openings {
        /// Updates of the round.
        uint32 updates;
        /// Of those, how many were challenged.
        uint32 challenged;
        /// Of those, how many hospitals have answered.
        uint32 answered;
    }

    /// @notice A hospital's word that this is the opening of its masked update (EIP-712).
    struct MaskOpening {
        /// Identifier of the federation.
        bytes32 federation;
        /// Number of the round.
        uint64 round;
        /// Slot of the hospital.
        uint32 slot;
        /// Digest of the opening.
        bytes32 opening;
    }

    /**
     * @notice An auditor wants a masked update opened.
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @param slot Slot of the hospital.
     * @param deadline Second from which on it is too late to answer.
     * @param unchallenged Updates of the round that nobody has challenged; in a sum of all of them these hide each other.
     */
    event UpdateChallenged(
        bytes32 indexed federation, uint64 indexed round, uint32 indexed slot, uint64 deadline, uint32 unchallenged
    );

    /**
     * @notice A hospital has opened its masked update.
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @param slot Slot of the hospital.
     * @param opening Digest of the opening.
     */
    event ChallengeAnswered(bytes32 indexed federation, uint64 indexed round, uint32 indexed slot, bytes32 opening);

    /**
     * @notice An auditor has decided on an opening.
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @param slot Slot of the hospital.
     * @param fraud Whether it contradicts what the hospital signed.
     * @param reasons Digest of the auditor's reasons.
     * @param unopened Updates of the round that no hospital has opened.
     */
    event ChallengeDecided(
        bytes32 indexed federation,
        uint64 indexed round,
        uint32 indexed slot,
        bool fraud,
        bytes32 reasons,
        uint32 unopened
    );

    /**
     * @notice A hospital has not opened its masked update in time, which counts as fraud.
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @param slot Slot of the hospital.
     */
    event OpeningRefused(bytes32 indexed federation, uint64 indexed round, uint32 indexed slot);

    /// @notice The challenge does not stand as it must for this.
    error WrongStatus(bytes32 federation, uint64 round, uint32 slot, Status status);

    /// @notice The round holds no update of the hospital, or another one.
    error UpdateNotInRound(bytes32 federation, uint64 round, uint32 slot);

    /// @notice Fewer than two updates of the round would remain unchallenged, and the sum would tell the last one.
    error TooFewHidden(bytes32 federation, uint64 round, uint32 unchallenged);

    /// @notice It is too late to answer.
    error AnswerTooLate(bytes32 federation, uint64 round, uint32 slot, uint64 deadline);

    /// @notice The hospital may still answer.
    error AnswerStillDue(bytes32 federation, uint64 round, uint32 slot, uint64 deadline);

    /// @notice The opening is not signed by the account.
    error OpeningNotSigned(address account);

    /// @notice The account does not hold the slot.
    error NotHolder(bytes32 federation, uint32 slot, address account);

    /// @notice An opening has a digest.
    error OpeningIsZero();
}
