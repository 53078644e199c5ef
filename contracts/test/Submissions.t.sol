// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {IRoundLedger} from "../src/IRoundLedger.sol";
import {Base, Tree} from "./Base.sol";

/// @dev The way round a coordinator that does not take an update, and what it may not be used for.
contract SubmissionsTest is Base {
    IRoundLedger.Header internal header;
    bytes32[] internal leaves;

    function setUp() public {
        deploy();
        openFederation();
        openRound();
    }

    /// @dev What is shown of a direct submission: no leaf, and no signature unless it was refused.
    function claimOfSlot(uint32 slot) internal view returns (IRoundLedger.Receipt memory) {
        return IRoundLedger.Receipt(FEDERATION, header.round, slot, 0);
    }

    function sealWith(bytes32 leaf) internal {
        leaves = leavesWith(leaf);
        header = seal(nextHeader(Tree.root(leaves)));
    }

    function disputeSubmission(bytes memory signature) internal {
        ledger.dispute(FEDERATION, list(header), claimOfSlot(1), signature, leaves[1], Tree.prove(leaves, 1));
    }

    function refuseDispute(bytes memory signature, bytes4 selector, bytes memory arguments) internal {
        bytes32[] memory proof = Tree.prove(leaves, 1);
        refuse(selector, arguments);
        ledger.dispute(FEDERATION, list(header), claimOfSlot(1), signature, leaves[1], proof);
    }

    function refuseSlot(uint32 slot) internal {
        vm.prank(coordinator);
        ledger.refuseUpdate(FEDERATION, slot);
    }

    function availability(uint256 key, uint32 slot, bytes32 leaf) internal view returns (bytes memory) {
        return sign(key, availabilityDigest(IRoundLedger.Receipt(FEDERATION, header.round, slot, leaf)));
    }

    function testTheLeafIsKept() public {
        bytes32 leaf = submit(1);
        IRoundLedger.Submission memory kept = submissionOf(1, GENESIS, 1);
        check(kept.leaf == leaf && !kept.refused, "leaf");
        check(submissionOf(1, GENESIS, 0).leaf == 0, "nothing of slot 0");
        check(submissionOf(1, CONFIG, 1).leaf == 0, "nothing for another model");
    }

    /// @dev Another leaf in the slot is as good a proof as none.
    function testASubmissionAgainstAnotherLeaf() public {
        bytes32 leaf = submit(1);
        sealWith(keccak256("another"));
        vm.expectEmit(address(ledger));
        emit IRoundLedger.RoundDisputed(FEDERATION, 1, 1, leaf, keccak256("another"));
        disputeSubmission("");
        check(status(1) == IRoundLedger.RoundStatus.DISPUTED, "disputed");
    }

    function testFuzzOnlyTheSubmittedLeafStands(bytes32 sealed_) public {
        bytes32 leaf = submit(1);
        if (uint256(sealed_) % 4 == 0) sealed_ = leaf;
        sealWith(sealed_);
        if (sealed_ == leaf) {
            refuseDispute("", IRoundLedger.EvidenceInconclusive.selector, abi.encode(FEDERATION, 1, 1));
        } else {
            disputeSubmission("");
        }
    }

    /// @dev A hospital that withholds its vector loses its slot: the round goes on, and cannot be disputed for it.
    function testARefusedSubmissionCostsItsSlotOnly() public {
        bytes32 leaf = submit(1);
        vm.prank(coordinator);
        vm.expectEmit(address(ledger));
        emit IRoundLedger.UpdateRefused(FEDERATION, 1, 1, leaf);
        ledger.refuseUpdate(FEDERATION, 1);
        check(submissionOf(1, GENESIS, 1).refused, "on record");
        sealWith(Tree.EMPTY);
        check(progress().round == 1 && isOpen(), "sealed, and the next is open");
        bytes32 digest = availabilityDigest(IRoundLedger.Receipt(FEDERATION, 1, 1, leaf));
        refuseDispute("", IRoundLedger.SignatureInvalid.selector, abi.encode(address(0), digest));
    }

    /// @dev A coordinator that refuses what it was given is found out by the auditor who is given it, too.
    function testAFalseRefusalIsDisputedWithAnAuditor() public {
        bytes32 leaf = submit(1);
        refuseSlot(1);
        sealWith(Tree.EMPTY);
        disputeSubmission(availability(AUDITOR_KEY, 1, leaf));
        check(status(1) == IRoundLedger.RoundStatus.DISPUTED, "disputed");
    }

    function testOnlyAnAuditorsWordOnThisLeafAnswersARefusal() public {
        bytes32 leaf = submit(1);
        bytes32 other = submit(2);
        refuseSlot(1);
        sealWith(Tree.EMPTY);
        bytes32 digest = availabilityDigest(IRoundLedger.Receipt(FEDERATION, 1, 1, leaf));
        bytes4 selector = IRoundLedger.SignatureInvalid.selector;
        refuseDispute(availability(keyOf(1), 1, leaf), selector, abi.encode(hospitalOf(1), digest));
        refuseDispute(availability(COORDINATOR_KEY, 1, leaf), selector, abi.encode(coordinator, digest));
        // An auditor's signature under something else recovers to somebody who is none.
        (bool done,) = address(ledger)
            .call(
                abi.encodeCall(
                    ledger.dispute,
                    (
                        FEDERATION,
                        list(header),
                        claimOfSlot(1),
                        availability(AUDITOR_KEY, 1, other),
                        leaves[1],
                        Tree.prove(leaves, 1)
                    )
                )
            );
        check(!done, "another leaf");
    }

    function testASubmissionThatWasRefusedAndSealedIsNotDisputed() public {
        bytes32 leaf = submit(1);
        refuseSlot(1);
        sealWith(leaf);
        bytes memory signature = availability(AUDITOR_KEY, 1, leaf);
        refuseDispute(signature, IRoundLedger.EvidenceInconclusive.selector, abi.encode(FEDERATION, 1, 1));
    }

    function testRefusalRefusals() public {
        submit(1);
        bytes32 role = ledger.COORDINATOR_ROLE();
        refuse(IAccessControl.AccessControlUnauthorizedAccount.selector, abi.encode(address(this), role));
        ledger.refuseUpdate(FEDERATION, 1);
        vm.prank(coordinator);
        refuse(IRoundLedger.NothingToRefuse.selector, abi.encode(FEDERATION, 1, 0));
        ledger.refuseUpdate(FEDERATION, 0);
        refuseSlot(1);
        vm.prank(coordinator);
        refuse(IRoundLedger.NothingToRefuse.selector, abi.encode(FEDERATION, 1, 1));
        ledger.refuseUpdate(FEDERATION, 1);
        // After the seal it is too late.
        submit(2);
        sealWith(Tree.EMPTY);
        vm.prank(coordinator);
        refuse(IRoundLedger.NothingToRefuse.selector, abi.encode(FEDERATION, 2, 2));
        ledger.refuseUpdate(FEDERATION, 2);
    }

    /// @dev A refusal does not make the submission uncounted: the seal still has to name it.
    function testARefusedSubmissionIsStillCounted() public {
        submit(1);
        refuseSlot(1);
        IRoundLedger.Header memory next = nextHeader(keccak256("root"));
        vm.prank(coordinator);
        refuse(IRoundLedger.SubmissionsMissed.selector, abi.encode(FEDERATION, 1, 1, 0));
        ledger.sealRound(FEDERATION, next, 0, 0);
        vm.prank(coordinator);
        ledger.sealRound(FEDERATION, next, 1, 0);
    }
}
