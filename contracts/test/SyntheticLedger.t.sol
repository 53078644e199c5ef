// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {IRoundLedger} from "../src/IRoundLedger.sol";
import {ISyntheticLedger} from "../src/ISyntheticLedger.sol";
import {SyntheticBase} from "./SyntheticBase.sol";

contract SyntheticLedgerTest is SyntheticBase {
    uint8 internal constant V = 2;
    uint8 internal constant SMOTE = 2;
    uint8 internal constant TIMEGAN = 5;

    function setUp() public {
        deploySynthetic();
        setPolicy(standardPolicy(false));
    }

    function used(uint32 slot) internal view returns (uint32) {
        return synthetic.used(FEDERATION, slot, V);
    }

    /// @dev Asks, and expects the outcome and the reasons in the event.
    function outcome(
        ISyntheticLedger.SyntheticRequest memory request,
        ISyntheticLedger.Status status,
        uint32 counted,
        uint16 reasons
    ) internal returns (bytes32 id) {
        id = requestId(request);
        bytes32 head = keccak256(abi.encode(synthetic.decisions(FEDERATION), id, status, counted, id));
        bytes memory signature = sign(keyOf(request.slot), id);
        vm.expectEmit(address(synthetic));
        emit ISyntheticLedger.SyntheticRequested(
            id, FEDERATION, request.slot, hospitalOf(request.slot), organisation(request.slot), request, signature
        );
        vm.expectEmit(address(synthetic));
        emit ISyntheticLedger.SyntheticStatusChanged(id, FEDERATION, status, counted, reasons, id, head);
        ask(request);
        check(statusOf(id) == status && synthetic.requestState(id).counted == counted, "outcome");
        check(synthetic.decisions(FEDERATION) == head, "decisions");
    }

    // --- Policy ------------------------------------------------------------------------------------------------------

    function testDenialsByPolicy() public {
        ISyntheticLedger.Status denied = ISyntheticLedger.Status.DENIED;
        outcome(requestOf(1, 0, SMOTE, 5, 10), denied, 0, synthetic.CLASS());
        outcome(requestOf(1, 200, SMOTE, 5, 10), denied, 0, synthetic.CLASS());
        outcome(requestOf(1, V, 1, 5, 10), denied, 0, synthetic.GENERATOR());
        outcome(requestOf(1, V, 255, 5, 10), denied, 0, synthetic.GENERATOR());
        // The original study: one ventricular beat, and SMOTE asked for.
        outcome(requestOf(1, V, SMOTE, 5, 1), denied, 0, synthetic.MIN_REAL());
        outcome(requestOf(1, V, TIMEGAN, 5, 30), denied, 0, synthetic.MIN_REAL());
        uint16 nothing = synthetic.MIN_REAL() | synthetic.RATIO() | synthetic.SHARE();
        outcome(requestOf(1, V, SMOTE, 5, 0), denied, 0, nothing);
        ISyntheticLedger.SyntheticRequest memory stale = requestOf(1, V, SMOTE, 5, 10);
        stale.policyVersion = 0;
        outcome(stale, denied, 0, synthetic.POLICY_VERSION());
        check(used(1) == 0, "a denial uses nothing");
    }

    function testNoPolicy() public {
        bytes32 other = keccak256("other");
        bytes32 root = ledger.federationState(FEDERATION).registryRoot;
        vm.prank(coordinator);
        ledger.openFederation(other, CONFIG, root, GENESIS, SLOTS, 1, 0, STALENESS);
        ISyntheticLedger.SyntheticRequest memory request = requestOf(1, V, SMOTE, 5, 10);
        request.federation = other;
        bytes memory signature = sign(keyOf(1), requestId(request));
        refuse(ISyntheticLedger.PolicyUnknown.selector, abi.encode(other, 1));
        synthetic.requestSynthetic(request, signature, hospitalOf(1), organisation(1), registryProof(1));
        request.policyVersion = 0;
        bytes32 id = requestId(request);
        bytes32 head = keccak256(abi.encode(bytes32(0), id, ISyntheticLedger.Status.DENIED, 0, id));
        uint16 reasons = synthetic.NO_POLICY();
        vm.expectEmit(address(synthetic));
        emit ISyntheticLedger.SyntheticStatusChanged(id, other, ISyntheticLedger.Status.DENIED, 0, reasons, id, head);
        ask(request);
    }

    function testTooLittleForTheFirstVersion() public {
        check(synthetic.remainingQuota(keccak256("other"), 1, V) == 0, "no policy, no quota");
        refuse(ISyntheticLedger.PolicyUnknown.selector, abi.encode(FEDERATION, 2));
        synthetic.policyAt(FEDERATION, 2);
        refuse(ISyntheticLedger.PolicyUnknown.selector, abi.encode(FEDERATION, 0));
        synthetic.policyAt(FEDERATION, 0);
        check(synthetic.policyAt(FEDERATION, 1).policy.minReal[5] == 50, "policy 1");
    }

    function testPolicyIsDelayed() public {
        ISyntheticLedger.Policy memory stricter = standardPolicy(false);
        stricter.quota = 10;
        uint48 effectiveAt = uint48(block.timestamp + 1 days);
        vm.expectEmit(address(synthetic));
        emit ISyntheticLedger.PolicySet(FEDERATION, 2, stricter, keccak256("policy"), effectiveAt);
        setPolicy(stricter);
        vm.prank(ADMIN);
        refuse(ISyntheticLedger.PolicyPending.selector, abi.encode(FEDERATION, 2, effectiveAt));
        synthetic.setPolicy(FEDERATION, stricter, 0);
        vm.warp(effectiveAt - 1);
        check(synthetic.policyVersion(FEDERATION) == 1, "still the first");
        check(synthetic.remainingQuota(FEDERATION, 1, V) == 100, "its quota");
        vm.warp(effectiveAt);
        check(synthetic.policyVersion(FEDERATION) == 2, "now the second");
        check(synthetic.remainingQuota(FEDERATION, 1, V) == 10, "its quota");
    }

    function testSetPolicyRefusals() public {
        ISyntheticLedger.Policy memory policy = standardPolicy(false);
        vm.prank(ADMIN);
        refuse(ISyntheticLedger.FederationUnknown.selector, abi.encode(CONFIG));
        synthetic.setPolicy(CONFIG, policy, 0);
        policy.shareCapBp = 10_001;
        refusePolicy(policy);
        policy.shareCapBp = 10_000;
        policy.expirySeconds = 0;
        refusePolicy(policy);
        policy.expirySeconds = 1;
        policy.allowedGenerators = 256;
        refusePolicy(policy);
        vm.prank(coordinator);
        refuse(IAccessControl.AccessControlUnauthorizedAccount.selector, abi.encode(coordinator, bytes32(0)));
        synthetic.setPolicy(FEDERATION, policy, 0);
    }

    function refusePolicy(ISyntheticLedger.Policy memory policy) internal {
        vm.prank(ADMIN);
        refuse(
            ISyntheticLedger.PolicyInvalid.selector,
            abi.encode(FEDERATION, policy.allowedGenerators, policy.shareCapBp, policy.expirySeconds)
        );
        synthetic.setPolicy(FEDERATION, policy, 0);
    }

    function automatic() internal {
        setPolicy(standardPolicy(true));
        vm.warp(block.timestamp + 1 days);
    }

    /// @dev Floor 10: the ratio allows 20 at a time, two thirds of the class another 10 to the real 10.
    function testAutomaticGrantsWhatFits() public {
        automatic();
        ISyntheticLedger.Status approved = ISyntheticLedger.Status.APPROVED;
        outcome(requestOf(1, V, SMOTE, 15, 10), approved, 15, 0);
        // 20 / (20 + 10) is just below 66.67 %: five are left of the share.
        outcome(requestOf(1, V, SMOTE, 15, 10), approved, 5, 0);
        outcome(requestOf(1, V, SMOTE, 15, 10), ISyntheticLedger.Status.DENIED, 0, synthetic.SHARE());
        check(used(1) == 20, "share cap");
        // With more real beats the ratio binds, then the quota, which is per hospital.
        outcome(requestOf(1, V, SMOTE, 70, 30), approved, 40, 0);
        outcome(requestOf(1, V, SMOTE, 70, 50), approved, 40, 0);
        outcome(
            requestOf(1, V, SMOTE, 70, 50), ISyntheticLedger.Status.DENIED, 0, synthetic.QUOTA() | synthetic.SHARE()
        );
        check(used(1) == 100 && synthetic.remainingQuota(FEDERATION, 1, V) == 0, "quota");
        outcome(requestOf(0, V, SMOTE, 7, 50), approved, 7, 0);
    }

    // --- Requests ----------------------------------------------------------------------------------------------------

    function testRequestRefusals() public {
        ISyntheticLedger.SyntheticRequest memory request = requestOf(1, V, SMOTE, 0, 10);
        refuseRequest(request, 1, ISyntheticLedger.QuantityIsZero.selector, abi.encode(FEDERATION, 1));
        request = requestOf(1, V, SMOTE, 5, 11);
        refuseRequest(request, 1, ISyntheticLedger.FloorNotOnLadder.selector, abi.encode(11));
        request = requestOf(1, V, SMOTE, 5, 10);
        request.deadline = uint64(block.timestamp - 1);
        refuseRequest(
            request, 1, ISyntheticLedger.DeadlinePassed.selector, abi.encode(block.timestamp - 1, block.timestamp)
        );
        request.deadline = 0;
        refuseRequest(request, 2, ISyntheticLedger.NotHospital.selector, abi.encode(FEDERATION, 1, hospitalOf(2)));
        bytes memory signature = sign(keyOf(2), requestId(request));
        bytes32[] memory proof = registryProof(1);
        refuse(ISyntheticLedger.SignatureInvalid.selector, abi.encode(hospitalOf(1), requestId(request)));
        synthetic.requestSynthetic(request, signature, hospitalOf(1), organisation(1), proof);
        ask(request);
        refuseRequest(request, 1, ISyntheticLedger.RequestExists.selector, abi.encode(requestId(request)));
    }

    function refuseRequest(
        ISyntheticLedger.SyntheticRequest memory request,
        uint32 slot,
        bytes4 selector,
        bytes memory arguments
    ) internal {
        bytes memory signature = sign(keyOf(slot), requestId(request));
        bytes32[] memory proof = registryProof(slot);
        refuse(selector, arguments);
        synthetic.requestSynthetic(request, signature, hospitalOf(slot), organisation(slot), proof);
    }

    function testLadder() public {
        uint32[24] memory steps = [
            uint32(0),
            1,
            2,
            6,
            10,
            20,
            30,
            50,
            100,
            200,
            500,
            1_000,
            2_000,
            5_000,
            10_000,
            20_000,
            50_000,
            100_000,
            1_000_000,
            10_000_000,
            100_000_000,
            1_000_000_000,
            500_000_000,
            2_000_000_000
        ];
        for (uint256 i = 0; i < steps.length; ++i) {
            ask(requestOf(1, V, SMOTE, 1, steps[i]));
        }
    }

    function testFuzzLadder(uint32 realFloor) public {
        // Any other value is refused: a step is a leading 1, 2 or 5 with zeros behind it from 100 on.
        uint32 lead = realFloor;
        while (lead >= 10) lead /= 10;
        uint32 power = 1;
        while (realFloor / power >= 10) power *= 10;
        bool step = realFloor == lead * power && (lead == 1 || lead == 2 || lead == 5);
        if (realFloor < 100) step = realFloor == 30 || realFloor == 6 || realFloor == 0 || (step && realFloor != 5);
        ISyntheticLedger.SyntheticRequest memory request = requestOf(1, V, SMOTE, 1, realFloor);
        if (step) ask(request);
        else refuseRequest(request, 1, ISyntheticLedger.FloorNotOnLadder.selector, abi.encode(realFloor));
    }

    // --- Reviews -----------------------------------------------------------------------------------------------------

    function pending() internal returns (bytes32) {
        return outcome(requestOf(1, V, SMOTE, 12, 10), ISyntheticLedger.Status.PENDING, 0, 0);
    }

    function testReviewApproves() public {
        bytes32 id = pending();
        (ISyntheticLedger.SyntheticReview memory review, bytes memory signature) = reviewOf(id, true, 9);
        vm.prank(STRANGER);
        vm.expectEmit(address(synthetic));
        emit ISyntheticLedger.SyntheticReviewed(id, vm.addr(REVIEWER_KEY), review, signature);
        synthetic.reviewSynthetic(id, review, signature, vm.addr(REVIEWER_KEY));
        check(statusOf(id) == ISyntheticLedger.Status.APPROVED && used(1) == 9, "approved");
    }

    function testReviewDenies() public {
        bytes32 id = pending();
        (ISyntheticLedger.SyntheticReview memory review, bytes memory signature) = reviewOf(id, false, 0);
        synthetic.reviewSynthetic(id, review, signature, vm.addr(REVIEWER_KEY));
        check(statusOf(id) == ISyntheticLedger.Status.DENIED && used(1) == 0, "denied");
        refuse(
            ISyntheticLedger.RequestStatusMismatch.selector,
            abi.encode(id, ISyntheticLedger.Status.PENDING, ISyntheticLedger.Status.DENIED)
        );
        synthetic.reviewSynthetic(id, review, signature, vm.addr(REVIEWER_KEY));
    }

    function refuseReview(bytes32 id, bool grants, uint32 granted, bytes4 selector, bytes memory arguments) internal {
        (ISyntheticLedger.SyntheticReview memory review, bytes memory signature) = reviewOf(id, grants, granted);
        refuse(selector, arguments);
        synthetic.reviewSynthetic(id, review, signature, vm.addr(REVIEWER_KEY));
    }

    function testReviewRefusals() public {
        bytes32 id = pending();
        bytes4 outOfRange = ISyntheticLedger.GrantOutOfRange.selector;
        refuseReview(id, true, 0, outOfRange, abi.encode(id, 0, 12, 0));
        refuseReview(id, true, 13, outOfRange, abi.encode(id, 13, 12, 0));
        refuseReview(id, false, 1, outOfRange, abi.encode(id, 1, 12, 0));

        (ISyntheticLedger.SyntheticReview memory review, bytes memory signature) = reviewOf(CONFIG, true, 9);
        refuse(ISyntheticLedger.RequestMismatch.selector, abi.encode(id, CONFIG));
        synthetic.reviewSynthetic(id, review, signature, vm.addr(REVIEWER_KEY));
        (review, signature) = reviewOf(id, true, 9);
        review.granted = 8;
        bytes32 kind =
            keccak256("SyntheticReview(bytes32 request,bool approve,uint32 granted,bytes32 reason,uint64 deadline)");
        bytes32 digest = typed(address(synthetic), keccak256(bytes.concat(kind, abi.encode(review))));
        refuse(ISyntheticLedger.SignatureInvalid.selector, abi.encode(vm.addr(REVIEWER_KEY), digest));
        synthetic.reviewSynthetic(id, review, signature, vm.addr(REVIEWER_KEY));
        review.deadline = 1;
        refuse(ISyntheticLedger.DeadlinePassed.selector, abi.encode(1, block.timestamp));
        synthetic.reviewSynthetic(id, review, signature, vm.addr(REVIEWER_KEY));

        vm.warp(block.timestamp + 1 hours);
        refuseReview(id, true, 9, ISyntheticLedger.RequestOver.selector, abi.encode(id, block.timestamp));
    }

    function testReviewerIsIndependent() public {
        bytes32 id = pending();
        address reviewer = vm.addr(REVIEWER_KEY);
        setOrganisation(organisation(1));
        bytes4 selector = ISyntheticLedger.ReviewerNotIndependent.selector;
        refuseReview(id, true, 9, selector, abi.encode(id, reviewer, organisation(1)));
        setOrganisation(0);
        refuseReview(id, true, 9, selector, abi.encode(id, reviewer, bytes32(0)));
        setOrganisation(organisation(2));
        bytes32 role = ledger.REVIEWER_ROLE();
        vm.prank(ADMIN);
        ledger.revokeRole(role, reviewer);
        refuseReview(id, true, 9, ISyntheticLedger.NotReviewer.selector, abi.encode(reviewer));
        grant(role, reviewer);
        approve(id, 9);
    }

    function setOrganisation(bytes32 organisation_) internal {
        vm.prank(ADMIN);
        vm.expectEmit(address(synthetic));
        emit ISyntheticLedger.ReviewerSet(vm.addr(REVIEWER_KEY), organisation_);
        synthetic.setReviewer(vm.addr(REVIEWER_KEY), organisation_);
    }

    function testReviewFollowsThePolicyInForce() public {
        ISyntheticLedger.Policy memory stricter = standardPolicy(false);
        stricter.allowedClasses = 2;
        stricter.expirySeconds = 2 days;
        setPolicy(stricter);
        vm.warp(block.timestamp + 1 days - 1);
        bytes32 id = pending();
        vm.warp(block.timestamp + 1);
        (uint32 allowed, uint16 reasons) = synthetic.allowance(id);
        check(allowed == 0 && reasons == synthetic.CLASS(), "the new policy forbids the class");
        refuseReview(id, true, 9, ISyntheticLedger.GrantOutOfRange.selector, abi.encode(id, 9, 0, reasons));
    }

    // --- Previews ----------------------------------------------------------------------------------------------------

    /// @dev A request under a policy that wants a preview of 20 beats.
    function waiting() internal returns (bytes32) {
        ISyntheticLedger.Policy memory policy = standardPolicy(false);
        policy.preview = 20;
        setPolicy(policy);
        vm.warp(block.timestamp + 1 days);
        return pending();
    }

    function refusePreview(
        ISyntheticLedger.SyntheticPreview memory preview,
        bytes32 id,
        uint32 slot,
        bytes4 selector,
        bytes memory arguments
    ) internal {
        bytes memory signature = sign(keyOf(slot), previewDigest(preview));
        refuse(selector, arguments);
        synthetic.previewSynthetic(id, preview, signature);
    }

    function testPreviewThenGrantThenReport() public {
        bytes32 id = waiting();
        ISyntheticLedger.SyntheticPreview memory preview = previewOf(id, 20);
        bytes32 digest = previewDigest(preview);
        bytes memory signature = sign(keyOf(1), digest);
        vm.warp(block.timestamp + 30 minutes);
        ISyntheticLedger.Status previewed = ISyntheticLedger.Status.PREVIEWED;
        bytes32 head = keccak256(abi.encode(synthetic.decisions(FEDERATION), id, previewed, 0, digest));
        vm.prank(STRANGER);
        vm.expectEmit(address(synthetic));
        emit ISyntheticLedger.SyntheticPreviewed(id, hospitalOf(1), preview, signature);
        vm.expectEmit(address(synthetic));
        emit ISyntheticLedger.SyntheticStatusChanged(id, FEDERATION, previewed, 0, 0, digest, head);
        synthetic.previewSynthetic(id, preview, signature);
        ISyntheticLedger.RequestState memory state = synthetic.requestState(id);
        check(state.previewed == 20 && state.preview == preview.batch && used(1) == 0, "shown, and not counted");
        check(state.expiresAt == block.timestamp + 1 hours, "the time to decide begins anew");
        approve(id, 10);
        check(used(1) == 10, "granted");

        ISyntheticLedger.SyntheticReport memory report = goodReport(id, 10);
        report.batch = preview.batch;
        refuseReport(id, report, 1, ISyntheticLedger.PreviewReused.selector, abi.encode(id, preview.batch));
        report.batch = keccak256("batch");
        send(1, report);
        check(statusOf(id) == ISyntheticLedger.Status.ACCEPTED, "accepted");
    }

    function testNoGrantBeforeThePreview() public {
        bytes32 id = waiting();
        refuseReview(id, true, 9, ISyntheticLedger.PreviewMissing.selector, abi.encode(id, 20));
        show(1, previewOf(id, 0));
        refuseReview(id, true, 9, ISyntheticLedger.PreviewMissing.selector, abi.encode(id, 20));
        (ISyntheticLedger.SyntheticReview memory review, bytes memory signature) = reviewOf(id, false, 0);
        synthetic.reviewSynthetic(id, review, signature, vm.addr(REVIEWER_KEY));
        check(statusOf(id) == ISyntheticLedger.Status.DENIED, "a denial needs none");
    }

    function testPreviewRefusals() public {
        bytes4 outOfRange = ISyntheticLedger.PreviewOutOfRange.selector;
        bytes32 id = pending();
        refusePreview(previewOf(id, 0), id, 1, outOfRange, abi.encode(id, 0, 0));
        id = waiting();
        refusePreview(previewOf(id, 21), id, 1, outOfRange, abi.encode(id, 21, 20));
        ISyntheticLedger.SyntheticPreview memory preview = previewOf(id, 20);
        bytes memory arguments = abi.encode(hospitalOf(1), previewDigest(preview));
        refusePreview(preview, id, 2, ISyntheticLedger.SignatureInvalid.selector, arguments);
        refusePreview(previewOf(CONFIG, 20), id, 1, ISyntheticLedger.RequestMismatch.selector, abi.encode(id, CONFIG));
        show(1, previewOf(id, 20));
        bytes4 mismatch = ISyntheticLedger.RequestStatusMismatch.selector;
        arguments = abi.encode(id, ISyntheticLedger.Status.PENDING, ISyntheticLedger.Status.PREVIEWED);
        refusePreview(previewOf(id, 20), id, 1, mismatch, arguments);
        uint40 expiresAt = synthetic.requestState(id).expiresAt;
        vm.warp(expiresAt);
        refuseReview(id, true, 9, ISyntheticLedger.RequestOver.selector, abi.encode(id, expiresAt));
        synthetic.expireSynthetic(id);
        check(statusOf(id) == ISyntheticLedger.Status.EXPIRED && used(1) == 0, "expired");
    }

    // --- Reports and expiry ------------------------------------------------------------------------------------------

    function granted10() internal returns (bytes32 id) {
        id = pending();
        approve(id, 10);
    }

    function testReportAccepted() public {
        bytes32 id = granted10();
        ISyntheticLedger.SyntheticReport memory report = goodReport(id, 7);
        bytes memory signature = sign(keyOf(1), reportDigest(report));
        vm.prank(STRANGER);
        vm.expectEmit(address(synthetic));
        emit ISyntheticLedger.SyntheticReported(id, hospitalOf(1), report, signature);
        synthetic.reportSynthetic(id, report, signature);
        check(statusOf(id) == ISyntheticLedger.Status.ACCEPTED, "accepted at every bound");
        check(used(1) == 7 && synthetic.remainingQuota(FEDERATION, 1, V) == 93, "the rest goes back");
    }

    function testReportRejected() public {
        uint16[8] memory reasons = [
            synthetic.AUC(),
            synthetic.NNDR(),
            synthetic.DUPLICATES(),
            synthetic.UTILITY(),
            synthetic.DISTANCE(),
            synthetic.REPEATED(),
            synthetic.RECOGNISED(),
            synthetic.SPREAD()
        ];
        for (uint256 i = 0; i < 8; ++i) {
            bytes32 id = outcome(requestOf(1, V, SMOTE, 12, 50), ISyntheticLedger.Status.PENDING, 0, 0);
            approve(id, 10);
            ISyntheticLedger.SyntheticReport memory report = goodReport(id, 10);
            if (i == 0) report.aucBp += 1;
            if (i == 1) report.nndrBp -= 1;
            if (i == 2) report.duplicates += 1;
            if (i == 3) report.utilityBp -= 1;
            if (i == 4) report.distanceBp += 1;
            if (i == 5) report.repeated += 1;
            if (i == 6) report.recognisedBp -= 1;
            if (i == 7) report.spreadBp -= 1;
            bytes32 digest = reportDigest(report);
            ISyntheticLedger.Status rejected = ISyntheticLedger.Status.REJECTED;
            bytes32 head = keccak256(abi.encode(synthetic.decisions(FEDERATION), id, rejected, 10, digest));
            vm.expectEmit(address(synthetic));
            emit ISyntheticLedger.SyntheticReported(id, hospitalOf(1), report, sign(keyOf(1), digest));
            vm.expectEmit(address(synthetic));
            emit ISyntheticLedger.SyntheticStatusChanged(id, FEDERATION, rejected, 10, reasons[i], digest, head);
            send(1, report);
            check(used(1) == 10 * (i + 1), "nothing goes back");
        }
    }

    function testRetriesUseTheQuotaUp() public {
        for (uint256 i = 0; i < 2; ++i) {
            ISyntheticLedger.SyntheticReport memory report = goodReport(granted10(), 0);
            send(1, report);
        }
        outcome(requestOf(1, V, SMOTE, 12, 10), ISyntheticLedger.Status.DENIED, 0, synthetic.SHARE());
    }

    function testReportRefusals() public {
        bytes32 id = pending();
        ISyntheticLedger.SyntheticReport memory report = goodReport(id, 10);
        refuseReport(
            id,
            report,
            1,
            ISyntheticLedger.RequestStatusMismatch.selector,
            abi.encode(id, ISyntheticLedger.Status.APPROVED, ISyntheticLedger.Status.PENDING)
        );
        approve(id, 10);
        report.generated = 11;
        refuseReport(id, report, 1, ISyntheticLedger.GeneratedExceedsGrant.selector, abi.encode(id, 11, 10));
        report.generated = 10;
        refuseReport(
            id, report, 2, ISyntheticLedger.SignatureInvalid.selector, abi.encode(hospitalOf(1), reportDigest(report))
        );
        report.request = CONFIG;
        refuseReport(id, report, 1, ISyntheticLedger.RequestMismatch.selector, abi.encode(id, CONFIG));
        vm.warp(block.timestamp + 1 hours);
        report.request = id;
        refuseReport(id, report, 1, ISyntheticLedger.RequestOver.selector, abi.encode(id, block.timestamp));
    }

    function refuseReport(
        bytes32 id,
        ISyntheticLedger.SyntheticReport memory report,
        uint32 slot,
        bytes4 selector,
        bytes memory arguments
    ) internal {
        bytes memory signature = sign(keyOf(slot), reportDigest(report));
        refuse(selector, arguments);
        synthetic.reportSynthetic(id, report, signature);
    }

    function testReportIsSignedByThePresentHolder() public {
        bytes32 id = granted10();
        vm.prank(ADMIN);
        ledger.setHospital(FEDERATION, 1, hospitalOf(1), IRoundLedger.HospitalStatus.SUSPENDED, organisation(1));
        ISyntheticLedger.SyntheticReport memory report = goodReport(id, 10);
        refuseReport(id, report, 1, ISyntheticLedger.NotHospital.selector, abi.encode(FEDERATION, 1, hospitalOf(1)));
        vm.prank(ADMIN);
        ledger.setHospital(FEDERATION, 1, hospitalOf(2), IRoundLedger.HospitalStatus.ACTIVE, organisation(1));
        refuseReport(
            id, report, 1, ISyntheticLedger.SignatureInvalid.selector, abi.encode(hospitalOf(2), reportDigest(report))
        );
        send(2, report);
        check(statusOf(id) == ISyntheticLedger.Status.ACCEPTED, "accepted");
    }

    function testExpiry() public {
        bytes32 id = pending();
        bytes32 other = granted10();
        uint40 expiresAt = synthetic.requestState(id).expiresAt;
        check(expiresAt == block.timestamp + 1 hours, "an hour");
        vm.warp(expiresAt - 1);
        refuse(ISyntheticLedger.NotExpired.selector, abi.encode(id, ISyntheticLedger.Status.PENDING, expiresAt));
        synthetic.expireSynthetic(id);
        check(used(1) == 10, "reserved");
        vm.warp(expiresAt);
        vm.prank(STRANGER);
        synthetic.expireSynthetic(other);
        synthetic.expireSynthetic(id);
        check(statusOf(id) == ISyntheticLedger.Status.EXPIRED, "expired");
        check(used(1) == 10, "what was granted stays counted, what waited never was");
        refuse(ISyntheticLedger.NotExpired.selector, abi.encode(id, ISyntheticLedger.Status.EXPIRED, expiresAt));
        synthetic.expireSynthetic(id);
    }
}
