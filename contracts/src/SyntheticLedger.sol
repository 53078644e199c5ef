// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IRoundLedger} from "./IRoundLedger.sol";
import {ISyntheticLedger} from "./ISyntheticLedger.sol";
import {RoundLedger} from "./RoundLedger.sol";

/**
 * @title SyntheticLedger
 * @notice Governs synthetic training data. A hospital asks for a quantity of one class; the policy of the federation
 * denies the request, leaves it to a reviewer of another organisation, or grants it; the hospital reports what it
 * generated with the numbers that policy bounds, and the report is accepted or rejected. Denial, rejection and expiry
 * are normal outcomes, not errors.
 *
 * Where the policy wants it, the hospital first makes a preview, so that a reviewer decides on beats that he has seen.
 * A preview counts against no quota, and a report of the same batch is refused: it is made to be looked at.
 *
 * What counts against the quota of a hospital and class is exact at every moment: the generated quantity of accepted
 * requests plus the granted quantity of all others that were approved. What was granted and then rejected, or never
 * reported, stays counted, so that nobody tries again until a batch happens to pass.
 *
 * Hospitals, roles and federations are those of the RoundLedger. Real counts of a class are not on chain: the policy
 * sees a floor from a coarse ladder, and a salted commitment binds the exact number. The events hold every field, so
 * the state can be rebuilt from them; times in the state are those of the block.
 */
// Delays and expiry compare with the time of the block on purpose: they are minutes to days long, a block producer can
// move it by seconds, and no hash depends on it.
// slither-disable-start timestamp
contract SyntheticLedger is ISyntheticLedger, EIP712 {
    /// @notice Reason: the federation has no policy.
    uint16 public constant NO_POLICY = 1;
    /// @notice Reason: the request names another version than the one in force.
    uint16 public constant POLICY_VERSION = 2;
    /// @notice Reason: the class is not allowed.
    uint16 public constant CLASS = 4;
    /// @notice Reason: the generator is not allowed.
    uint16 public constant GENERATOR = 8;
    /// @notice Reason: too little real data for the generator.
    uint16 public constant MIN_REAL = 16;
    /// @notice Reason: the ratio to the real floor allows nothing.
    uint16 public constant RATIO = 32;
    /// @notice Reason: the quota is used up.
    uint16 public constant QUOTA = 64;
    /// @notice Reason: the share of synthetic data is at its cap.
    uint16 public constant SHARE = 128;
    /// @notice Reason: synthetic beats are told from real ones too easily.
    uint16 public constant AUC = 256;
    /// @notice Reason: synthetic beats are too close to training beats.
    uint16 public constant NNDR = 512;
    /// @notice Reason: too many near-duplicates.
    uint16 public constant DUPLICATES = 1024;
    /// @notice Reason: the class's score falls too far.
    uint16 public constant UTILITY = 2048;
    /// @notice Reason: synthetic beats are farther from training beats than those from each other.
    uint16 public constant DISTANCE = 4096;
    /// @notice Reason: synthetic beats repeat one another.
    uint16 public constant REPEATED = 8192;
    /// @notice Reason: who learns from the synthetic beats does not recognise real ones.
    uint16 public constant RECOGNISED = 16_384;
    /// @notice Reason: synthetic beats vary far less than real ones.
    uint16 public constant SPREAD = 32_768;

    uint256 private constant BASIS = 10_000;

    bytes32 private constant REQUEST_TYPEHASH = keccak256(
        "SyntheticRequest(bytes32 federation,uint32 slot,uint8 class_,uint8 generator,uint32 quantity,uint32 realFloor,bytes32 realCount,bytes32 settings,uint32 policyVersion,uint64 nonce,uint64 deadline)"
    );
    bytes32 private constant PREVIEW_TYPEHASH =
        keccak256("SyntheticPreview(bytes32 request,uint32 generated,bytes32 batch,bytes32 evidence)");
    bytes32 private constant REVIEW_TYPEHASH =
        keccak256("SyntheticReview(bytes32 request,bool approve,uint32 granted,bytes32 reason,uint64 deadline)");
    bytes32 private constant REPORT_TYPEHASH = keccak256(
        "SyntheticReport(bytes32 request,uint32 generated,bytes32 batch,bytes32 evidence,uint16 aucBp,uint16 nndrBp,uint16 distanceBp,uint32 duplicates,uint32 repeated,uint16 spreadBp,int16 utilityBp,uint16 recognisedBp)"
    );

    /// @notice Contract that knows federations, hospitals and roles.
    // Capitals for immutables are the convention of Solidity's style guide; slither knows the older one.
    // slither-disable-next-line naming-convention
    RoundLedger public immutable ROUNDS;

    /// @notice Seconds until a new version of a policy is in force; the first version of a federation is at once.
    // slither-disable-next-line naming-convention
    uint48 public immutable POLICY_DELAY;

    /// @notice Commitment to the organisation of a reviewer, zero if none was set.
    mapping(address reviewer => bytes32 organisation) public organisationOf;

    /// @notice Head of the decisions of a federation: a hash chain over every change of a request's status.
    mapping(bytes32 federation => bytes32 head) public decisions;

    mapping(bytes32 federation => PolicyVersion[]) private _policies;
    mapping(bytes32 id => RequestState) private _requests;
    mapping(bytes32 federation => mapping(uint32 slot => mapping(uint8 class_ => uint32))) private _used;

    /// @dev Roles are those of the RoundLedger, and so is the error.
    modifier onlyAdmin() {
        bytes32 role = ROUNDS.DEFAULT_ADMIN_ROLE();
        if (!ROUNDS.hasRole(role, msg.sender)) {
            revert IAccessControl.AccessControlUnauthorizedAccount(msg.sender, role);
        }
        _;
    }

    /**
     * @notice Fixes the contract that knows federations, hospitals and roles.
     * @param rounds The RoundLedger.
     * @param policyDelay Seconds until a new version of a policy is in force.
     */
    constructor(RoundLedger rounds, uint48 policyDelay) EIP712("PulseLedger", "2") {
        ROUNDS = rounds;
        POLICY_DELAY = policyDelay;
    }

    // --- Policy ------------------------------------------------------------------------------------------------------

    /**
     * @notice Sets the next version of the policy of a federation. The first is in force at once, later ones after
     * `POLICY_DELAY`.
     *
     * Requirements:
     *
     * - the caller must be the admin of the RoundLedger, and the federation must be open there.
     * - the last version must be in force.
     * - `shareCapBp` must be at most 10,000, `expirySeconds` at least 1, and generators numbered 0 to 7.
     *
     * Emits a {PolicySet} event.
     *
     * @param federation Identifier of the federation.
     * @param policy The policy.
     * @param digest Digest of the text that explains it.
     */
    function setPolicy(bytes32 federation, Policy calldata policy, bytes32 digest) external onlyAdmin {
        if (ROUNDS.head(federation) == 0) revert FederationUnknown(federation);
        if (policy.shareCapBp > BASIS || policy.expirySeconds == 0 || policy.allowedGenerators >> 8 != 0) {
            revert PolicyInvalid(federation, policy.allowedGenerators, policy.shareCapBp, policy.expirySeconds);
        }
        PolicyVersion[] storage versions = _policies[federation];
        uint48 effectiveAt = uint48(block.timestamp);
        if (versions.length != 0) {
            uint48 last = versions[versions.length - 1].effectiveAt;
            if (last > effectiveAt) revert PolicyPending(federation, uint32(versions.length), last);
            effectiveAt += POLICY_DELAY;
        }

        versions.push(PolicyVersion(policy, digest, effectiveAt));
        emit PolicySet(federation, uint32(versions.length), policy, digest, effectiveAt);
    }

    /**
     * @notice Sets the organisation of a reviewer, without which it can decide nothing.
     *
     * Requirements: the caller must be the admin of the RoundLedger. Emits a {ReviewerSet} event.
     *
     * @param reviewer Account of the reviewer.
     * @param organisation Commitment to its organisation, zero to take it away.
     */
    function setReviewer(address reviewer, bytes32 organisation) external onlyAdmin {
        organisationOf[reviewer] = organisation;
        emit ReviewerSet(reviewer, organisation);
    }

    // --- Requests ----------------------------------------------------------------------------------------------------

    /**
     * @notice Submits a hospital's request. Anyone may relay it. It becomes DENIED if the policy in force forbids it,
     * APPROVED at once if the policy is automatic (with the largest quantity that quota, ratio and share allow), and
     * PENDING otherwise.
     *
     * Requirements:
     *
     * - `account` must hold the slot in the RoundLedger and must have signed the request.
     * - the request's deadline must not have passed, its quantity must not be zero, its floor must be on the ladder.
     * - the request must be new, and must not name a version of the policy that does not exist so far: after a
     *   reorganisation it may come before the policy, and would be denied for good.
     *
     * Emits a {SyntheticRequested} and a {SyntheticStatusChanged} event.
     *
     * @param request The request.
     * @param signature Signature of its EIP-712 digest.
     * @param account Account that signed.
     * @param organisation Commitment to its organisation.
     * @param proof Siblings of the slot in the registry of the RoundLedger.
     * @return id Identifier of the request: the digest that was signed.
     */
    function requestSynthetic(
        SyntheticRequest calldata request,
        bytes calldata signature,
        address account,
        bytes32 organisation,
        bytes32[] calldata proof
    ) external returns (bytes32 id) {
        if (request.quantity == 0) revert QuantityIsZero(request.federation, request.slot);
        if (!_isLadderStep(request.realFloor)) revert FloorNotOnLadder(request.realFloor);
        _requireTime(request.deadline);
        if (request.policyVersion > _policies[request.federation].length) {
            revert PolicyUnknown(request.federation, request.policyVersion);
        }
        if (!ROUNDS.isHospital(request.federation, request.slot, account, organisation, proof)) {
            revert NotHospital(request.federation, request.slot, account);
        }
        id = _hashTypedDataV4(keccak256(abi.encode(REQUEST_TYPEHASH, request)));
        _requireSignature(account, id, signature);
        _record(id, request, account, organisation);
        emit SyntheticRequested(id, request.federation, request.slot, account, organisation, request, signature);
        _decideByPolicy(id);
    }

    /**
     * @notice Submits the preview of a pending request: beats that the hospital made for the reviewer to look at. Anyone
     * may relay it. The time to decide begins anew; nothing counts against the quota.
     *
     * Requirements:
     *
     * - the request must be PENDING and its time not over.
     * - the present holder of the slot must have signed the preview.
     * - the policy that the request was made under must want previews, of no fewer beats than were generated.
     *
     * Emits a {SyntheticPreviewed} and a {SyntheticStatusChanged} event.
     *
     * @param id Identifier of the request.
     * @param preview The preview.
     * @param signature Signature of its EIP-712 digest.
     */
    function previewSynthetic(bytes32 id, SyntheticPreview calldata preview, bytes calldata signature) external {
        RequestState storage state = _requests[id];
        _requirePhase(id, state, Status.PENDING);
        if (preview.request != id) revert RequestMismatch(id, preview.request);
        address account = _holder(state);
        bytes32 digest = _hashTypedDataV4(keccak256(abi.encode(PREVIEW_TYPEHASH, preview)));
        _requireSignature(account, digest, signature);
        uint16 wanted = _wantedPreview(state);
        if (wanted == 0 || preview.generated > wanted) revert PreviewOutOfRange(id, preview.generated, wanted);

        state.previewed = preview.generated;
        state.preview = preview.batch;
        emit SyntheticPreviewed(id, account, preview, signature);
        _change(id, state, Status.PREVIEWED, 0, 0, digest);
    }

    /**
     * @notice Submits a reviewer's decision on a request that waits. Anyone may relay it.
     *
     * Requirements:
     *
     * - the request must be PENDING or PREVIEWED and its time not over.
     * - `reviewer` must have the reviewer role in the RoundLedger, must not be a coordinator, must belong to a known
     *   organisation other than the requester's, and must have signed the review.
     * - an approval must grant between 1 and what the policy in force allows now; a denial grants 0.
     * - an approval must follow a preview of at least one beat, if the policy that the request was made under wants one.
     *
     * Emits a {SyntheticReviewed} and a {SyntheticStatusChanged} event.
     *
     * @param id Identifier of the request.
     * @param review The decision.
     * @param signature Signature of its EIP-712 digest.
     * @param reviewer Account that signed.
     */
    function reviewSynthetic(bytes32 id, SyntheticReview calldata review, bytes calldata signature, address reviewer)
        external
    {
        RequestState storage state = _requests[id];
        _requirePhase(id, state, state.status == Status.PREVIEWED ? Status.PREVIEWED : Status.PENDING);
        if (review.request != id) revert RequestMismatch(id, review.request);
        _requireTime(review.deadline);
        _requireIndependent(id, state.organisation, reviewer);
        bytes32 digest = _hashTypedDataV4(keccak256(abi.encode(REVIEW_TYPEHASH, review)));
        _requireSignature(reviewer, digest, signature);
        _requireGrant(id, state, review);

        emit SyntheticReviewed(id, reviewer, review, signature);
        _change(id, state, review.approve ? Status.APPROVED : Status.DENIED, review.granted, 0, digest);
    }

    /**
     * @notice Submits a hospital's report on what it generated. Anyone may relay it. The report is ACCEPTED if its
     * numbers are within the bounds of the policy that the request was made under, otherwise REJECTED. What an accepted
     * report did not use goes back to the quota; what a rejected one was granted does not.
     *
     * Requirements:
     *
     * - the request must be APPROVED and its time not over.
     * - the present holder of the slot must have signed the report.
     * - not more may have been generated than granted, and not the batch of the preview.
     *
     * Emits a {SyntheticReported} and a {SyntheticStatusChanged} event.
     *
     * @param id Identifier of the request.
     * @param report The report.
     * @param signature Signature of its EIP-712 digest.
     */
    function reportSynthetic(bytes32 id, SyntheticReport calldata report, bytes calldata signature) external {
        RequestState storage state = _requests[id];
        _requirePhase(id, state, Status.APPROVED);
        if (report.request != id) revert RequestMismatch(id, report.request);
        address account = _holder(state);
        bytes32 digest = _hashTypedDataV4(keccak256(abi.encode(REPORT_TYPEHASH, report)));
        _requireSignature(account, digest, signature);
        if (report.generated > state.counted) revert GeneratedExceedsGrant(id, report.generated, state.counted);
        if (report.batch == state.preview && state.previewed != 0) revert PreviewReused(id, report.batch);

        emit SyntheticReported(id, account, report, signature);
        uint16 reasons = _shortcomings(_policies[state.federation][state.policyVersion - 1].policy, report);
        if (reasons == 0) _change(id, state, Status.ACCEPTED, report.generated, 0, digest);
        else _change(id, state, Status.REJECTED, state.counted, reasons, digest);
    }

    /**
     * @notice Marks a request that waits, or that was approved, and whose time is over as EXPIRED; what was granted stays
     * counted against the quota. Anyone may call.
     *
     * Requirements: the request must be PENDING, PREVIEWED or APPROVED, and its time over.
     *
     * Emits a {SyntheticStatusChanged} event.
     *
     * @param id Identifier of the request.
     */
    function expireSynthetic(bytes32 id) external {
        RequestState storage state = _requests[id];
        Status status = state.status;
        if (!_isOpen(status) || block.timestamp < state.expiresAt) revert NotExpired(id, status, state.expiresAt);
        _change(id, state, Status.EXPIRED, state.counted, 0, 0);
    }

    // --- Views -------------------------------------------------------------------------------------------------------

    /**
     * @notice Returns the number of the version in force.
     * @param federation Identifier of the federation.
     * @return Number of the version, 0 without a policy.
     */
    function policyVersion(bytes32 federation) public view returns (uint32) {
        PolicyVersion[] storage versions = _policies[federation];
        uint256 count = versions.length;
        // Only the last version can be waiting, see `setPolicy`.
        if (count != 0 && versions[count - 1].effectiveAt > block.timestamp) --count;
        return SafeCast.toUint32(count);
    }

    /**
     * @notice Returns one version of a policy.
     * @param federation Identifier of the federation.
     * @param version Number of the version, from 1.
     * @return The version.
     */
    function policyAt(bytes32 federation, uint32 version) external view returns (PolicyVersion memory) {
        PolicyVersion[] storage versions = _policies[federation];
        if (version == 0 || version > versions.length) revert PolicyUnknown(federation, version);
        return versions[version - 1];
    }

    /**
     * @notice Returns the state of a request; all values are zero if it was never made.
     * @param id Identifier of the request.
     * @return The state.
     */
    function requestState(bytes32 id) external view returns (RequestState memory) {
        return _requests[id];
    }

    /**
     * @notice Returns what counts against the quota of a hospital and class.
     * @param federation Identifier of the federation.
     * @param slot Slot of the hospital.
     * @param class_ Class of the beats.
     * @return Generated quantity of ACCEPTED requests plus granted quantity of all others that were APPROVED.
     */
    function used(bytes32 federation, uint32 slot, uint8 class_) external view returns (uint32) {
        return _used[federation][slot][class_];
    }

    /**
     * @notice Returns what the policy in force leaves of the quota of a hospital and class.
     * @param federation Identifier of the federation.
     * @param slot Slot of the hospital.
     * @param class_ Class of the beats.
     * @return The rest, 0 without a policy.
     */
    function remainingQuota(bytes32 federation, uint32 slot, uint8 class_) external view returns (uint32) {
        uint32 version = policyVersion(federation);
        if (version == 0) return 0;
        uint32 quota = _policies[federation][version - 1].policy.quota;
        return uint32(Math.saturatingSub(quota, _used[federation][slot][class_]));
    }

    /**
     * @notice Returns the quantity that the policy in force allows a pending request now, and why not more than 0.
     * @param id Identifier of the request.
     * @return allowed The quantity.
     * @return reasons Bits of the reasons if it is 0.
     */
    function allowance(bytes32 id) external view returns (uint32 allowed, uint16 reasons) {
        return _allowance(_requests[id]);
    }

    // --- Internals ---------------------------------------------------------------------------------------------------

    function _requireTime(uint64 deadline) private view {
        if (deadline != 0 && deadline < block.timestamp) revert DeadlinePassed(deadline, block.timestamp);
    }

    function _requireSignature(address account, bytes32 digest, bytes calldata signature) private view {
        if (!SignatureChecker.isValidSignatureNowCalldata(account, digest, signature)) {
            revert SignatureInvalid(account, digest);
        }
    }

    function _requirePhase(bytes32 id, RequestState storage state, Status expected) private view {
        if (state.status != expected) revert RequestStatusMismatch(id, expected, state.status);
        if (block.timestamp >= state.expiresAt) revert RequestOver(id, state.expiresAt);
    }

    function _requireIndependent(bytes32 id, bytes32 requester, address reviewer) private view {
        if (!ROUNDS.hasRole(ROUNDS.REVIEWER_ROLE(), reviewer) || ROUNDS.hasRole(ROUNDS.COORDINATOR_ROLE(), reviewer)) {
            revert NotReviewer(reviewer);
        }
        bytes32 organisation = organisationOf[reviewer];
        if (organisation == 0 || organisation == requester) {
            revert ReviewerNotIndependent(id, reviewer, organisation);
        }
    }

    function _requireGrant(bytes32 id, RequestState storage state, SyntheticReview calldata review) private view {
        (uint32 allowed, uint16 reasons) = _allowance(state);
        bool fits = review.approve ? review.granted != 0 && review.granted <= allowed : review.granted == 0;
        if (!fits) revert GrantOutOfRange(id, review.granted, allowed, reasons);
        uint16 wanted = _wantedPreview(state);
        if (review.approve && wanted != 0 && state.previewed == 0) revert PreviewMissing(id, wanted);
    }

    function _wantedPreview(RequestState storage state) private view returns (uint16) {
        return _policies[state.federation][state.policyVersion - 1].policy.preview;
    }

    /// @dev Whether a request can still change, and expires otherwise.
    function _isOpen(Status status) private pure returns (bool) {
        return status == Status.PENDING || status == Status.PREVIEWED || status == Status.APPROVED;
    }

    /// @dev The account that made the request, unless the slot has changed hands in the RoundLedger since.
    function _holder(RequestState storage state) private view returns (address) {
        IRoundLedger.Hospital memory entry = ROUNDS.hospital(state.federation, state.slot);
        if (entry.status == IRoundLedger.HospitalStatus.NONE) return state.account;
        if (entry.status == IRoundLedger.HospitalStatus.ACTIVE) return entry.account;
        revert NotHospital(state.federation, state.slot, entry.account);
    }

    function _record(bytes32 id, SyntheticRequest calldata given, address account, bytes32 organisation) private {
        RequestState storage state = _requests[id];
        if (state.status != Status.NONE) revert RequestExists(id);
        state.account = account;
        state.slot = given.slot;
        state.class_ = given.class_;
        state.generator = given.generator;
        state.quantity = given.quantity;
        state.realFloor = given.realFloor;
        state.policyVersion = given.policyVersion;
        state.federation = given.federation;
        state.organisation = organisation;
    }

    function _decideByPolicy(bytes32 id) private {
        RequestState storage state = _requests[id];
        uint32 version = policyVersion(state.federation);
        (uint32 allowed, uint16 reasons) = _allowance(state);
        if (version != state.policyVersion) reasons |= POLICY_VERSION;
        if (reasons != 0) {
            _change(id, state, Status.DENIED, 0, reasons, id);
        } else if (!_policies[state.federation][version - 1].policy.automatic) {
            _change(id, state, Status.PENDING, 0, 0, id);
        } else {
            _change(id, state, Status.APPROVED, allowed, 0, id);
        }
    }

    /**
     * @dev The only place where status, quota and the chain of decisions change. The chain binds the signed message
     * behind each change, so that a seal with its head binds all reviews and reports so far.
     */
    function _change(
        bytes32 id,
        RequestState storage state,
        Status status,
        uint32 counted,
        uint16 reasons,
        bytes32 record
    ) private {
        bytes32 federation = state.federation;
        uint32 inUse = _used[federation][state.slot][state.class_];
        _used[federation][state.slot][state.class_] = inUse - state.counted + counted;
        state.status = status;
        state.counted = counted;
        if (_isOpen(status)) {
            uint32 expirySeconds = _policies[federation][state.policyVersion - 1].policy.expirySeconds;
            state.expiresAt = SafeCast.toUint40(block.timestamp + expirySeconds);
        }
        bytes32 newHead = keccak256(abi.encode(decisions[federation], id, status, counted, record));
        decisions[federation] = newHead;
        emit SyntheticStatusChanged(id, federation, status, counted, reasons, record, newHead);
    }

    /// @dev What the policy in force allows of a request now; the reasons are zero if and only if it is more than 0.
    function _allowance(RequestState storage state) private view returns (uint32 allowed, uint16 reasons) {
        uint32 version = policyVersion(state.federation);
        if (version == 0) return (0, NO_POLICY);
        Policy storage rule = _policies[state.federation][version - 1].policy;
        reasons = _prohibitions(rule, state);

        uint256 floor = state.realFloor;
        uint256 inUse = _used[state.federation][state.slot][state.class_];
        uint256 byRatio = (floor * rule.ratioBp) / BASIS;
        if (byRatio == 0) reasons |= RATIO;
        uint256 byQuota = Math.saturatingSub(rule.quota, inUse);
        if (byQuota == 0) reasons |= QUOTA;
        uint256 byShare = Math.saturatingSub(_shareLimit(rule.shareCapBp, floor), inUse);
        if (byShare == 0) reasons |= SHARE;
        if (reasons != 0) return (0, reasons);
        // Not above the quantity, which has 32 bits.
        allowed = uint32(Math.min(Math.min(state.quantity, byRatio), Math.min(byQuota, byShare)));
    }

    function _prohibitions(Policy storage rule, RequestState storage state) private view returns (uint16 reasons) {
        uint8 generator = state.generator;
        if ((rule.allowedClasses >> state.class_) & 1 == 0) reasons |= CLASS;
        // Generators above 7 are never allowed, so the index below exists.
        if ((rule.allowedGenerators >> generator) & 1 == 0) return reasons | GENERATOR;
        if (state.realFloor < rule.minReal[generator]) reasons |= MIN_REAL;
    }

    /// @dev The largest x with x / (x + floor) <= capBp / 10,000.
    function _shareLimit(uint256 capBp, uint256 floor) private pure returns (uint256) {
        return capBp == BASIS ? type(uint256).max : (capBp * floor) / (BASIS - capBp);
    }

    function _shortcomings(Policy storage rule, SyntheticReport calldata report) private view returns (uint16 reasons) {
        if (report.aucBp > rule.maxAucBp) reasons |= AUC;
        if (report.nndrBp < rule.minNndrBp) reasons |= NNDR;
        if (_above(report.duplicates, rule.maxDuplicatesBp, report.generated)) reasons |= DUPLICATES;
        if (report.utilityBp < rule.minUtilityBp) reasons |= UTILITY;
        if (report.distanceBp > rule.maxDistanceBp) reasons |= DISTANCE;
        if (_above(report.repeated, rule.maxRepeatedBp, report.generated)) reasons |= REPEATED;
        if (report.spreadBp < rule.minSpreadBp) reasons |= SPREAD;
        // From no data nobody learns; and an empty report would free the quota for another attempt.
        if (report.generated == 0 || report.recognisedBp < rule.minRecognisedBp) reasons |= RECOGNISED;
    }

    /// @dev Whether `part` is more than `bp` / 10,000 of `whole`.
    function _above(uint256 part, uint256 bp, uint256 whole) private pure returns (bool) {
        return part * BASIS > bp * whole;
    }

    /// @dev 0, 1, 2, 6, 10, 20, 30, 50, then 1, 2 and 5 times the powers of ten: a floor that says no more than needed.
    function _isLadderStep(uint256 value) private pure returns (bool) {
        if (value < 100) {
            return value == 0 || value == 1 || value == 2 || value == 6 || value == 10 || value == 20 || value == 30
                || value == 50;
        }
        while (value % 10 == 0) value /= 10;
        return value == 1 || value == 2 || value == 5;
    }
}
// slither-disable-end timestamp
