// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {IMaskLedger} from "../src/IMaskLedger.sol";
import {IRoundLedger} from "../src/IRoundLedger.sol";
import {MaskLedger} from "../src/MaskLedger.sol";
import {Base, Tree} from "./Base.sol";

contract MaskLedgerTest is Base {
    uint32 private constant TIME = 2 days;
    bytes32 private constant OPENING = keccak256("opening");

    MaskLedger private masks;
    IRoundLedger.Header private header;
    bytes32[] private leaves;

    function setUp() public {
        deploy();
        masks = new MaskLedger(ledger, TIME);
        openFederation();
        openRound();
        leaves = leavesWith(keccak256("leaf 1"));
        leaves[2] = Tree.EMPTY;
        header = nextHeader(Tree.root(leaves));
        header.count = SLOTS; // as a coordinator may say: no contract counts leaves
        header = seal(header);
    }

    function challenge() private {
        vm.prank(AUDITOR);
        masks.challengeUpdate(FEDERATION, header, 1, leaves[1], Tree.prove(leaves, 1));
    }

    function recordOf(bytes32 opening) private pure returns (IMaskLedger.MaskOpening memory) {
        return IMaskLedger.MaskOpening(FEDERATION, 1, 1, opening);
    }

    function signedBy(uint256 key, IMaskLedger.MaskOpening memory record) private view returns (bytes memory) {
        bytes32 kind = keccak256("MaskOpening(bytes32 federation,uint64 round,uint32 slot,bytes32 opening)");
        return sign(key, typed(address(masks), keccak256(bytes.concat(kind, abi.encode(record)))));
    }

    function answer() private {
        IMaskLedger.MaskOpening memory record = recordOf(OPENING);
        masks.answerChallenge(record, signedBy(keyOf(1), record), hospitalOf(1), organisation(1), registryProof(1));
    }

    function state() private view returns (IMaskLedger.Challenge memory) {
        return masks.challengeState(FEDERATION, 1, 1);
    }

    function refuseStatus(IMaskLedger.Status status) private {
        refuse(IMaskLedger.WrongStatus.selector, abi.encode(FEDERATION, 1, 1, status));
    }

    function testInnocentHospital() public {
        vm.expectEmit(address(masks));
        emit IMaskLedger.UpdateChallenged(FEDERATION, 1, 1, uint64(block.timestamp + TIME), 2);
        challenge();
        check(state().status == IMaskLedger.Status.CHALLENGED, "challenged");
        vm.warp(block.timestamp + TIME - 1);
        vm.expectEmit(address(masks));
        emit IMaskLedger.ChallengeAnswered(FEDERATION, 1, 1, OPENING);
        answer();
        check(state().opening == OPENING, "opening");
        vm.expectEmit(address(masks));
        emit IMaskLedger.ChallengeDecided(FEDERATION, 1, 1, false, "why", 2);
        vm.prank(AUDITOR);
        masks.decideChallenge(FEDERATION, 1, 1, false, "why");
        check(state().status == IMaskLedger.Status.INNOCENT && state().reasons == "why", "innocent");
    }

    function testOpeningThatContradictsIsFraud() public {
        challenge();
        answer();
        vm.prank(AUDITOR);
        masks.decideChallenge(FEDERATION, 1, 1, true, "why");
        check(state().status == IMaskLedger.Status.FRAUD, "fraud");
        refuseStatus(IMaskLedger.Status.FRAUD);
        challenge();
    }

    function testSilenceUntilTheDeadlineIsFraud() public {
        challenge();
        uint64 deadline = state().deadline;
        vm.warp(deadline - 1);
        refuse(IMaskLedger.AnswerStillDue.selector, abi.encode(FEDERATION, 1, 1, deadline));
        masks.expireChallenge(FEDERATION, 1, 1);
        vm.warp(deadline);
        IMaskLedger.MaskOpening memory record = recordOf(OPENING);
        bytes memory signature = signedBy(keyOf(1), record);
        refuse(IMaskLedger.AnswerTooLate.selector, abi.encode(FEDERATION, 1, 1, deadline));
        masks.answerChallenge(record, signature, hospitalOf(1), organisation(1), registryProof(1));
        vm.expectEmit(address(masks));
        emit IMaskLedger.OpeningRefused(FEDERATION, 1, 1);
        vm.prank(STRANGER);
        masks.expireChallenge(FEDERATION, 1, 1);
        check(state().status == IMaskLedger.Status.FRAUD && state().opening == 0, "fraud without an opening");
    }

    function testTwoUpdatesAreNeverChallenged() public {
        challenge();
        bytes32[] memory proof = Tree.prove(leaves, 0);
        refuse(IMaskLedger.TooFewHidden.selector, abi.encode(FEDERATION, 1, 1));
        vm.prank(AUDITOR);
        masks.challengeUpdate(FEDERATION, header, 0, leaves[0], proof);
        IMaskLedger.Openings memory openings = masks.openingsOf(FEDERATION, 1);
        check(openings.updates == 3 && openings.challenged == 1 && openings.answered == 0, "one challenged");
        answer();
        check(masks.openingsOf(FEDERATION, 1).answered == 1, "one opened");
    }

    function testARoundOfTwoIsNotChallenged() public {
        header = seal(nextHeader(Tree.root(leaves)));
        bytes32[] memory proof = Tree.prove(leaves, 1);
        refuse(IMaskLedger.TooFewHidden.selector, abi.encode(FEDERATION, 2, 1));
        vm.prank(AUDITOR);
        masks.challengeUpdate(FEDERATION, header, 1, leaves[1], proof);
    }

    function testWhoAnsweredIsNotExpired() public {
        challenge();
        answer();
        vm.warp(state().deadline + 1 days);
        refuseStatus(IMaskLedger.Status.ANSWERED);
        masks.expireChallenge(FEDERATION, 1, 1);
    }

    function testOnlyAuditorsChallengeAndDecide() public {
        bytes32[] memory proof = Tree.prove(leaves, 1);
        bytes32 role = ledger.AUDITOR_ROLE();
        refuse(IAccessControl.AccessControlUnauthorizedAccount.selector, abi.encode(coordinator, role));
        vm.prank(coordinator);
        masks.challengeUpdate(FEDERATION, header, 1, leaves[1], proof);
        challenge();
        answer();
        refuse(IAccessControl.AccessControlUnauthorizedAccount.selector, abi.encode(hospitalOf(1), role));
        vm.prank(hospitalOf(1));
        masks.decideChallenge(FEDERATION, 1, 1, false, 0);
    }

    function testOnlyWhatIsInTheRoundIsChallenged() public {
        bytes32[] memory proof = Tree.prove(leaves, 2);
        refuse(IMaskLedger.UpdateNotInRound.selector, abi.encode(FEDERATION, 1, 2));
        vm.prank(AUDITOR);
        masks.challengeUpdate(FEDERATION, header, 2, Tree.EMPTY, proof);
        proof = Tree.prove(leaves, 1);
        refuse(IMaskLedger.UpdateNotInRound.selector, abi.encode(FEDERATION, 1, 0));
        vm.prank(AUDITOR);
        masks.challengeUpdate(FEDERATION, header, 0, leaves[1], proof);
    }

    function testNobodyAnswersForAnother() public {
        challenge();
        IMaskLedger.MaskOpening memory record = recordOf(OPENING);
        bytes memory signature = signedBy(keyOf(0), record);
        bytes32[] memory proof = registryProof(1);
        refuse(IMaskLedger.OpeningNotSigned.selector, abi.encode(hospitalOf(1)));
        masks.answerChallenge(record, signature, hospitalOf(1), organisation(1), proof);
        refuse(IMaskLedger.NotHolder.selector, abi.encode(FEDERATION, 1, hospitalOf(0)));
        masks.answerChallenge(record, signature, hospitalOf(0), organisation(0), proof);
        record = recordOf(0);
        signature = signedBy(keyOf(1), record);
        refuse(IMaskLedger.OpeningIsZero.selector, "");
        masks.answerChallenge(record, signature, hospitalOf(1), organisation(1), proof);
        check(state().status == IMaskLedger.Status.CHALLENGED, "still owed");
    }

    function testNothingIsDecidedBeforeItIsAnswered() public {
        refuseStatus(IMaskLedger.Status.NONE);
        masks.expireChallenge(FEDERATION, 1, 1);
        challenge();
        refuseStatus(IMaskLedger.Status.CHALLENGED);
        vm.prank(AUDITOR);
        masks.decideChallenge(FEDERATION, 1, 1, true, 0);
        answer();
        IMaskLedger.MaskOpening memory record = recordOf(OPENING);
        bytes memory signature = signedBy(keyOf(1), record);
        refuseStatus(IMaskLedger.Status.ANSWERED);
        masks.answerChallenge(record, signature, hospitalOf(1), organisation(1), registryProof(1));
    }
}
