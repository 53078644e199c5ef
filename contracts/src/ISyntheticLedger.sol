// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/**
 * @title ISyntheticLedger
 * @notice Records, events and errors of the SyntheticLedger.
 */
interface ISyntheticLedger {
    /// @notice Where a request stands.
    enum Status {
        NONE,
        PENDING,
        PREVIEWED,
        DENIED,
        APPROVED,
        ACCEPTED,
        REJECTED,
        EXPIRED
    }

    /// @notice What a federation allows. Shares are in basis points (1 / 10,000).
    struct Policy {
        /// Bit c is set if class c is allowed: the position in "NSVFQ".
        uint16 allowedClasses;
        /// Bit g is set if generator g is allowed: 1 oversample, 2 smote, 3 borderline, 4 adasyn, 5 timegan.
        uint16 allowedGenerators;
        /// True if requests within the policy are approved without a reviewer.
        bool automatic;
        /// Most beats of a preview, without which no reviewer may approve; 0 if none is wanted.
        uint16 preview;
        /// Most that may count for one hospital and class.
        uint32 quota;
        /// Largest quantity of one request, as a share of the real floor.
        uint32 ratioBp;
        /// Largest share of synthetic data in the class, counted against the real floor.
        uint16 shareCapBp;
        /// Seconds until a pending or approved request expires.
        uint32 expirySeconds;
        /// Largest area under the curve of a classifier that tells synthetic from real.
        uint16 maxAucBp;
        /// Least ratio of nearest-neighbour distances, to training against held-out data.
        uint16 minNndrBp;
        /// Largest ratio of the distance to training data, to that within training data; 65,535 for any.
        uint16 maxDistanceBp;
        /// Largest share of near-duplicates of training data in a batch.
        uint16 maxDuplicatesBp;
        /// Largest share of a batch that repeats the rest of it.
        uint16 maxRepeatedBp;
        /// Least variance of a batch, as a share of that of real data.
        uint16 minSpreadBp;
        /// Least change of the class's score with the batch.
        int16 minUtilityBp;
        /// Least recall of the class by who learnt from the batch, as a share of that by who learnt from real data.
        uint16 minRecognisedBp;
        /// Least real floor per generator.
        uint16[8] minReal;
    }

    /// @notice One version of a policy.
    struct PolicyVersion {
        /// The policy.
        Policy policy;
        /// Digest of the text that explains it.
        bytes32 digest;
        /// Time from which it is in force.
        uint48 effectiveAt;
    }

    /// @notice What a hospital signs to ask for synthetic data.
    struct SyntheticRequest {
        /// Identifier of the federation.
        bytes32 federation;
        /// Slot of the hospital.
        uint32 slot;
        /// Class to generate.
        uint8 class_;
        /// Generator to use.
        uint8 generator;
        /// Number of beats.
        uint32 quantity;
        /// Largest step of the ladder that is not above the real count of the class.
        uint32 realFloor;
        /// Salted commitment to the real count.
        bytes32 realCount;
        /// Digest of the generator's settings.
        bytes32 settings;
        /// Version of the policy that the hospital knows.
        uint32 policyVersion;
        /// A number of the hospital's choice.
        uint64 nonce;
        /// Last second at which it may be submitted, 0 for none.
        uint64 deadline;
    }

    /// @notice What a hospital signs of the beats that it made for a reviewer to look at, and never trains on.
    struct SyntheticPreview {
        /// Identifier of the request.
        bytes32 request;
        /// Number of beats generated, 0 if none could be.
        uint32 generated;
        /// Root or digest of the preview.
        bytes32 batch;
        /// Digest of the quality report on the preview, which names its pictures.
        bytes32 evidence;
    }

    /// @notice What a reviewer signs.
    struct SyntheticReview {
        /// Identifier of the request.
        bytes32 request;
        /// True to approve.
        bool approve;
        /// Number of beats granted, 0 if denied.
        uint32 granted;
        /// Digest of the reason.
        bytes32 reason;
        /// Last second at which it may be submitted, 0 for none.
        uint64 deadline;
    }

    /// @notice What a hospital signs when it has generated.
    struct SyntheticReport {
        /// Identifier of the request.
        bytes32 request;
        /// Number of beats generated.
        uint32 generated;
        /// Root or digest of the batch.
        bytes32 batch;
        /// Digest of the quality report.
        bytes32 evidence;
        /// Area under the curve of a classifier that tells synthetic from real.
        uint16 aucBp;
        /// Ratio of nearest-neighbour distances.
        uint16 nndrBp;
        /// Ratio of the distance to training data, to that within training data.
        uint16 distanceBp;
        /// Near-duplicates of training data in the batch.
        uint32 duplicates;
        /// Data of the batch that repeats an earlier one of it.
        uint32 repeated;
        /// Variance of the batch, as a share of that of real data.
        uint16 spreadBp;
        /// Change of the class's score with the batch.
        int16 utilityBp;
        /// Recall of the class by who learnt from the batch, as a share of that by who learnt from real data.
        uint16 recognisedBp;
    }

    /// @notice State of a request.
    struct RequestState {
        /// Account that signed it.
        address account;
        /// Slot of the hospital.
        uint32 slot;
        /// Class to generate.
        uint8 class_;
        /// Generator to use.
        uint8 generator;
        /// Where it stands.
        Status status;
        /// Second from which it can only expire, while PENDING, PREVIEWED or APPROVED.
        uint40 expiresAt;
        /// Number of beats asked for.
        uint32 quantity;
        /// What counts against the quota: generated when ACCEPTED, granted since it was APPROVED, otherwise 0.
        uint32 counted;
        /// Floor of the real count.
        uint32 realFloor;
        /// Version of the policy it was made under.
        uint32 policyVersion;
        /// Number of beats of its preview.
        uint32 previewed;
        /// Identifier of the federation.
        bytes32 federation;
        /// Commitment to the hospital's organisation.
        bytes32 organisation;
        /// Digest of its preview, zero without one.
        bytes32 preview;
    }

    /**
     * @notice A version of a policy was set.
     * @param federation Identifier of the federation.
     * @param version Number of the version, from 1.
     * @param policy The policy.
     * @param digest Digest of the text that explains it.
     * @param effectiveAt Time from which it is in force.
     */
    event PolicySet(
        bytes32 indexed federation, uint32 indexed version, Policy policy, bytes32 digest, uint48 effectiveAt
    );

    /**
     * @notice The organisation of a reviewer was set.
     * @param reviewer Account of the reviewer.
     * @param organisation Commitment to its organisation.
     */
    event ReviewerSet(address indexed reviewer, bytes32 organisation);

    /**
     * @notice A hospital asked for synthetic data.
     * @param id Identifier of the request: the EIP-712 digest that the hospital signed.
     * @param federation Identifier of the federation.
     * @param slot Slot of the hospital.
     * @param account Account that signed.
     * @param organisation Commitment to its organisation.
     * @param request The request.
     * @param signature Its signature.
     */
    event SyntheticRequested(
        bytes32 indexed id,
        bytes32 indexed federation,
        uint32 indexed slot,
        address account,
        bytes32 organisation,
        SyntheticRequest request,
        bytes signature
    );

    /**
     * @notice A hospital previewed what it asks for.
     * @param id Identifier of the request.
     * @param account Account that signed.
     * @param preview The preview.
     * @param signature Its signature.
     */
    event SyntheticPreviewed(bytes32 indexed id, address indexed account, SyntheticPreview preview, bytes signature);

    /**
     * @notice A reviewer decided on a request.
     * @param id Identifier of the request.
     * @param reviewer Account of the reviewer.
     * @param review The decision.
     * @param signature Its signature.
     */
    event SyntheticReviewed(bytes32 indexed id, address indexed reviewer, SyntheticReview review, bytes signature);

    /**
     * @notice A hospital reported what it generated.
     * @param id Identifier of the request.
     * @param account Account that signed.
     * @param report The report.
     * @param signature Its signature.
     */
    event SyntheticReported(bytes32 indexed id, address indexed account, SyntheticReport report, bytes signature);

    /**
     * @notice The status of a request changed.
     * @param id Identifier of the request.
     * @param federation Identifier of the federation.
     * @param status The new status.
     * @param counted What counts against the quota from now on.
     * @param reasons Bits of the reasons, for DENIED by policy and REJECTED.
     * @param record Digest of the message that caused the change; zero for an expiry.
     * @param decisions Head of the decisions of the federation after the change.
     */
    event SyntheticStatusChanged(
        bytes32 indexed id,
        bytes32 indexed federation,
        Status indexed status,
        uint32 counted,
        uint16 reasons,
        bytes32 record,
        bytes32 decisions
    );

    /// @notice The federation was never opened.
    error FederationUnknown(bytes32 federation);

    /// @notice A value of the policy is out of range: a share above 1, an unknown generator, or no time to expire.
    error PolicyInvalid(bytes32 federation, uint16 allowedGenerators, uint16 shareCapBp, uint32 expirySeconds);

    /// @notice The last version is not in force yet; the next one has to wait for it.
    error PolicyPending(bytes32 federation, uint32 version, uint48 effectiveAt);

    /// @notice The federation has no such version of a policy.
    error PolicyUnknown(bytes32 federation, uint32 version);

    /// @notice The account is not an active holder of the slot.
    error NotHospital(bytes32 federation, uint32 slot, address account);

    /// @notice The signature was not made by the account.
    error SignatureInvalid(address account, bytes32 digest);

    /// @notice The deadline has passed.
    error DeadlinePassed(uint64 deadline, uint256 time);

    /// @notice The floor is not a step of the ladder 0, 1, 2, 6, 10, 20, 30, 50, 100, 200, 500, 1000, and so on.
    error FloorNotOnLadder(uint32 realFloor);

    /// @notice The request asks for nothing.
    error QuantityIsZero(bytes32 federation, uint32 slot);

    /// @notice The request was made before.
    error RequestExists(bytes32 id);

    /// @notice The request does not have the status that the call needs.
    error RequestStatusMismatch(bytes32 id, Status expected, Status given);

    /// @notice The signed message names another request.
    error RequestMismatch(bytes32 expected, bytes32 given);

    /// @notice The time of the request is over: it can only expire.
    error RequestOver(bytes32 id, uint40 expiresAt);

    /// @notice The request can neither expire in this status nor at this time.
    error NotExpired(bytes32 id, Status status, uint40 expiresAt);

    /// @notice The preview has more beats than the policy wants, or is not wanted at all.
    error PreviewOutOfRange(bytes32 id, uint32 generated, uint16 wanted);

    /// @notice The policy wants a preview before an approval, and there is none with a beat in it.
    error PreviewMissing(bytes32 id, uint16 wanted);

    /// @notice The batch is the one that was previewed, which is not for training.
    error PreviewReused(bytes32 id, bytes32 batch);

    /// @notice The account is no reviewer, or one that also seals rounds.
    error NotReviewer(address account);

    /// @notice The reviewer's organisation is unknown, or that of the requester.
    error ReviewerNotIndependent(bytes32 id, address reviewer, bytes32 organisation);

    /// @notice The granted quantity is not between 1 and what the policy allows now, or not 0 for a denial.
    error GrantOutOfRange(bytes32 id, uint32 granted, uint32 allowed, uint16 reasons);

    /// @notice More was generated than granted.
    error GeneratedExceedsGrant(bytes32 id, uint32 generated, uint32 granted);
}
