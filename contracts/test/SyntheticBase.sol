// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ISyntheticLedger} from "../src/ISyntheticLedger.sol";
import {SyntheticLedger} from "../src/SyntheticLedger.sol";
import {Base} from "./Base.sol";

/// @dev A SyntheticLedger beside the RoundLedger of `Base`, and what it takes to drive it.
abstract contract SyntheticBase is Base {
    SyntheticLedger internal synthetic;
    bytes32 internal constant OTHER_ORGANISATION = keccak256("university");
    uint64 internal nonce;

    function deploySynthetic() internal {
        deploy();
        openFederation();
        synthetic = new SyntheticLedger(ledger, 1 days);
        vm.prank(ADMIN);
        synthetic.setReviewer(vm.addr(REVIEWER_KEY), OTHER_ORGANISATION);
    }

    /// @dev Classes S and V, smote and timegan; quota 100; at most twice the real floor and two thirds of the class.
    function standardPolicy(bool automatic) internal pure returns (ISyntheticLedger.Policy memory policy) {
        policy.allowedClasses = 6;
        policy.allowedGenerators = 4 + 32;
        policy.automatic = automatic;
        policy.quota = 100;
        policy.ratioBp = 20_000;
        policy.shareCapBp = 6_667;
        policy.expirySeconds = 1 hours;
        policy.maxAucBp = 7_500;
        policy.minNndrBp = 5_000;
        policy.maxDistanceBp = 30_000;
        policy.maxDuplicatesBp = 1_000;
        policy.maxRepeatedBp = 2_000;
        policy.minSpreadBp = 1_500;
        policy.minUtilityBp = -100;
        policy.minRecognisedBp = 2_500;
        policy.minReal[2] = 6;
        policy.minReal[5] = 50;
    }

    function setPolicy(ISyntheticLedger.Policy memory policy) internal {
        vm.prank(ADMIN);
        synthetic.setPolicy(FEDERATION, policy, keccak256("policy"));
    }

    function requestOf(uint32 slot, uint8 class_, uint8 generator, uint32 quantity, uint32 realFloor)
        internal
        returns (ISyntheticLedger.SyntheticRequest memory)
    {
        return ISyntheticLedger.SyntheticRequest({
            federation: FEDERATION,
            slot: slot,
            class_: class_,
            generator: generator,
            quantity: quantity,
            realFloor: realFloor,
            realCount: keccak256("salted count"),
            settings: keccak256("settings"),
            policyVersion: synthetic.policyVersion(FEDERATION),
            nonce: ++nonce,
            deadline: 0
        });
    }

    function requestId(ISyntheticLedger.SyntheticRequest memory request) internal view returns (bytes32) {
        bytes32 kind = keccak256(
            "SyntheticRequest(bytes32 federation,uint32 slot,uint8 class_,uint8 generator,uint32 quantity,uint32 realFloor,bytes32 realCount,bytes32 settings,uint32 policyVersion,uint64 nonce,uint64 deadline)"
        );
        return typed(address(synthetic), keccak256(bytes.concat(kind, abi.encode(request))));
    }

    function ask(ISyntheticLedger.SyntheticRequest memory request) internal returns (bytes32) {
        uint32 slot = request.slot;
        bytes memory signature = sign(keyOf(slot), requestId(request));
        return synthetic.requestSynthetic(request, signature, hospitalOf(slot), organisation(slot), registryProof(slot));
    }

    function reviewOf(bytes32 id, bool grants, uint32 granted)
        internal
        view
        returns (ISyntheticLedger.SyntheticReview memory review, bytes memory signature)
    {
        bytes32 kind = keccak256(
            "SyntheticReview(bytes32 request,bool approve,uint32 granted,bytes32 reason,uint64 deadline)"
        );
        review = ISyntheticLedger.SyntheticReview(id, grants, granted, keccak256("reason"), 0);
        signature = sign(REVIEWER_KEY, typed(address(synthetic), keccak256(bytes.concat(kind, abi.encode(review)))));
    }

    function previewOf(bytes32 id, uint32 generated) internal pure returns (ISyntheticLedger.SyntheticPreview memory) {
        return ISyntheticLedger.SyntheticPreview(id, generated, keccak256("preview"), keccak256("evidence"));
    }

    function previewDigest(ISyntheticLedger.SyntheticPreview memory preview) internal view returns (bytes32) {
        bytes32 kind = keccak256("SyntheticPreview(bytes32 request,uint32 generated,bytes32 batch,bytes32 evidence)");
        return typed(address(synthetic), keccak256(bytes.concat(kind, abi.encode(preview))));
    }

    function show(uint32 slot, ISyntheticLedger.SyntheticPreview memory preview) internal {
        synthetic.previewSynthetic(preview.request, preview, sign(keyOf(slot), previewDigest(preview)));
    }

    function approve(bytes32 id, uint32 granted) internal {
        (ISyntheticLedger.SyntheticReview memory review, bytes memory signature) = reviewOf(id, true, granted);
        synthetic.reviewSynthetic(id, review, signature, vm.addr(REVIEWER_KEY));
    }

    function goodReport(bytes32 id, uint32 generated) internal pure returns (ISyntheticLedger.SyntheticReport memory) {
        return ISyntheticLedger.SyntheticReport({
            request: id,
            generated: generated,
            batch: keccak256("batch"),
            evidence: keccak256("evidence"),
            aucBp: 7_500,
            nndrBp: 5_000,
            distanceBp: 30_000,
            duplicates: generated / 10,
            repeated: generated / 5,
            spreadBp: 1_500,
            utilityBp: -100,
            recognisedBp: 2_500
        });
    }

    function reportDigest(ISyntheticLedger.SyntheticReport memory report) internal view returns (bytes32) {
        bytes32 kind = keccak256(
            "SyntheticReport(bytes32 request,uint32 generated,bytes32 batch,bytes32 evidence,uint16 aucBp,uint16 nndrBp,uint16 distanceBp,uint32 duplicates,uint32 repeated,uint16 spreadBp,int16 utilityBp,uint16 recognisedBp)"
        );
        return typed(address(synthetic), keccak256(bytes.concat(kind, abi.encode(report))));
    }

    function send(uint32 slot, ISyntheticLedger.SyntheticReport memory report) internal {
        synthetic.reportSynthetic(report.request, report, sign(keyOf(slot), reportDigest(report)));
    }

    function statusOf(bytes32 id) internal view returns (ISyntheticLedger.Status) {
        return synthetic.requestState(id).status;
    }
}
