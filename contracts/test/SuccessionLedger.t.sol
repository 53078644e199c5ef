// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRoundLedger} from "../src/IRoundLedger.sol";
import {ISuccessionLedger} from "../src/ISuccessionLedger.sol";
import {RoundLedger} from "../src/RoundLedger.sol";
import {SuccessionLedger} from "../src/SuccessionLedger.sol";
import {Base, Tree} from "./Base.sol";

/// @dev A coordinator that is gone, and three that stand behind it.
contract SuccessionTest is Base {
    uint32 internal constant PATIENCE = 10 minutes;
    SuccessionLedger internal line;
    address[] internal order;

    function setUp() public {
        deploy();
        line = new SuccessionLedger(ledger);
        openFederation();
        for (uint256 place = 0; place < 3; ++place) {
            order.push(successor(place));
        }
        vm.prank(coordinator);
        ledger.entrust(FEDERATION, address(line));
        vm.prank(coordinator);
        line.appoint(FEDERATION, order, PATIENCE);
        openRound();
        seal();
    }

    function successor(uint256 place) internal pure returns (address) {
        return vm.addr(2001 + place);
    }

    function take(uint32 place) internal {
        vm.prank(successor(place));
        line.takeOver(FEDERATION, place);
    }

    function silence(uint256 times) internal {
        vm.warp(block.timestamp + times * PATIENCE);
    }

    function leader() internal view returns (address) {
        return ledger.federationState(FEDERATION).coordinator;
    }

    function sealBy(address account) internal {
        IRoundLedger.Header memory header = nextHeader(keccak256("root"));
        vm.prank(account);
        ledger.sealRound(FEDERATION, header, 0, 0);
    }

    function refuseLeader(address account) internal {
        refuse(IRoundLedger.NotLeader.selector, abi.encode(FEDERATION, leader(), account));
    }

    function testTheNextInOrderFinishesTheOpenRound() public {
        silence(1);
        vm.expectEmit(address(line));
        emit ISuccessionLedger.CoordinatorTookOver(FEDERATION, 1, successor(0), coordinator, 1);
        take(0);
        check(leader() == successor(0) && line.succession(FEDERATION).term == 1, "leads");
        sealBy(successor(0));
        check(progress().round == 2, "sealed");
    }

    function testNothingOfTheOldOneCounts() public {
        IRoundLedger.Header memory waiting = nextHeader(keccak256("waiting"));
        silence(1);
        take(0);
        refuseLeader(coordinator);
        vm.prank(coordinator);
        ledger.sealRound(FEDERATION, waiting, 0, 0);
        refuseLeader(coordinator);
        vm.prank(coordinator);
        ledger.openRound(FEDERATION, 2, waiting.parentModel, 0);
        refuseLeader(coordinator);
        vm.prank(coordinator);
        ledger.refuseUpdate(FEDERATION, 0);
        bytes32 last = waiting.previousHead;
        refuseLeader(coordinator);
        vm.prank(coordinator);
        ledger.closeFederation(FEDERATION, 1, last, keccak256("closing"));
        refuseLeader(coordinator);
        vm.prank(coordinator);
        line.reportAlive(FEDERATION);
    }

    function testAReceiptOfTheOldOneCountsForItsOwnRoundsOnly() public {
        silence(1);
        take(0);
        bytes32[] memory leaves = leavesWith(Tree.EMPTY);
        IRoundLedger.Header memory header = nextHeader(Tree.root(leaves));
        vm.prank(successor(0));
        ledger.sealRound(FEDERATION, header, 0, 0);
        (IRoundLedger.Receipt memory receipt, bytes memory signature) = promise_(2, 1, keccak256("promised"));
        address signer = vm.addr(COORDINATOR_KEY);
        refuse(IRoundLedger.SignatureInvalid.selector, abi.encode(signer, receiptDigest(receipt)));
        ledger.dispute(FEDERATION, list(header), receipt, signature, leaves[1], Tree.prove(leaves, 1));
        signature = sign(2001, receiptDigest(receipt));
        ledger.dispute(FEDERATION, list(header), receipt, signature, leaves[1], Tree.prove(leaves, 1));
        check(status(2) == IRoundLedger.RoundStatus.DISPUTED, "the new one's counts");
    }

    function testTooEarly() public {
        silence(1);
        uint256 now_ = block.timestamp;
        vm.warp(now_ - 1);
        refuse(ISuccessionLedger.TakeoverTooEarly.selector, abi.encode(FEDERATION, 0, now_));
        take(0);
        check(line.takeoverFrom(FEDERATION, 0) == now_, "from then on");
        vm.warp(now_);
        refuse(ISuccessionLedger.TakeoverTooEarly.selector, abi.encode(FEDERATION, 1, now_ + PATIENCE));
        take(1);
        take(0);
    }

    function testOutOfOrder() public {
        silence(10);
        refuse(ISuccessionLedger.NotSuccessor.selector, abi.encode(FEDERATION, 0, successor(1)));
        vm.prank(successor(1));
        line.takeOver(FEDERATION, 0);
        refuse(ISuccessionLedger.NotSuccessor.selector, abi.encode(FEDERATION, 3, successor(2)));
        vm.prank(successor(2));
        line.takeOver(FEDERATION, 3);
        refuse(ISuccessionLedger.NotSuccessor.selector, abi.encode(FEDERATION, 0, STRANGER));
        vm.prank(STRANGER);
        line.takeOver(FEDERATION, 0);
        refuse(ISuccessionLedger.NotSuccessor.selector, abi.encode(FEDERATION, 0, coordinator));
        vm.prank(coordinator);
        line.takeOver(FEDERATION, 0);
    }

    function testOfTwoThatRaceOneWins() public {
        silence(2);
        take(1);
        refuse(ISuccessionLedger.SuccessorPassed.selector, abi.encode(FEDERATION, 0, 2));
        take(0);
        refuse(ISuccessionLedger.SuccessorPassed.selector, abi.encode(FEDERATION, 0, 2));
        line.takeoverFrom(FEDERATION, 0);
    }

    function testOfTwoThatRaceTheLaterOneWaitsAgain() public {
        silence(2);
        uint256 until = block.timestamp + PATIENCE;
        take(0);
        refuse(ISuccessionLedger.TakeoverTooEarly.selector, abi.encode(FEDERATION, 1, until));
        take(1);
    }

    function testTheSecondDiesAsWell() public {
        silence(1);
        take(0);
        silence(1);
        take(1);
        sealBy(successor(1));
        refuseLeader(successor(0));
        vm.prank(successor(0));
        ledger.openRound(FEDERATION, 3, 0, 0);
        silence(1);
        take(2);
        silence(9);
        refuse(ISuccessionLedger.SuccessorPassed.selector, abi.encode(FEDERATION, 2, 3));
        take(2);
    }

    function testASealAndAReportStartThePatienceAnew() public {
        silence(1);
        seal();
        refuse(ISuccessionLedger.TakeoverTooEarly.selector, abi.encode(FEDERATION, 0, block.timestamp + PATIENCE));
        take(0);
        silence(1);
        vm.prank(coordinator);
        line.reportAlive(FEDERATION);
        refuse(ISuccessionLedger.TakeoverTooEarly.selector, abi.encode(FEDERATION, 0, block.timestamp + PATIENCE));
        take(0);
    }

    function testARoleAloneDoesNotLead() public {
        grant(ledger.COORDINATOR_ROLE(), STRANGER);
        refuseLeader(STRANGER);
        vm.prank(STRANGER);
        ledger.openRound(FEDERATION, 2, 0, 0);
        refuse(IRoundLedger.NotKeeper.selector, abi.encode(FEDERATION, STRANGER));
        vm.prank(STRANGER);
        ledger.handOver(FEDERATION, STRANGER);
    }

    function testNotInADispute() public {
        disputeEmptySlot();
        silence(5);
        refuse(IRoundLedger.FederationDisputed.selector, abi.encode(FEDERATION, 2));
        take(0);
    }

    function testNotAfterTheEnd() public {
        bytes32 last = ledger.head(FEDERATION);
        vm.prank(coordinator);
        ledger.closeFederation(FEDERATION, 1, last, keccak256("closing"));
        silence(5);
        refuse(IRoundLedger.FederationOver.selector, abi.encode(FEDERATION, keccak256("closing")));
        take(0);
    }

    function testRolesStayApart() public {
        grant(ledger.REVIEWER_ROLE(), successor(0));
        silence(2);
        refuse(
            IRoundLedger.RolesConflict.selector,
            abi.encode(successor(0), ledger.REVIEWER_ROLE(), ledger.COORDINATOR_ROLE())
        );
        take(0);
        take(1);
        grant(ledger.AUDITOR_ROLE(), successor(1));
        bytes32[] memory leaves = leavesWith(Tree.EMPTY);
        IRoundLedger.Header memory header = nextHeader(Tree.root(leaves));
        sealBy2(header);
        (IRoundLedger.Receipt memory receipt,) = promise_(2, 1, keccak256("promised"));
        bytes memory signature = sign(2002, receiptDigest(receipt));
        ledger.dispute(FEDERATION, list(header), receipt, signature, leaves[1], Tree.prove(leaves, 1));
        refuse(
            IRoundLedger.RolesConflict.selector,
            abi.encode(successor(1), ledger.COORDINATOR_ROLE(), ledger.AUDITOR_ROLE())
        );
        vm.prank(successor(1));
        ledger.resolveDispute(FEDERATION, header, true);
    }

    function sealBy2(IRoundLedger.Header memory header) internal {
        vm.prank(successor(1));
        ledger.sealRound(FEDERATION, header, 0, 0);
    }

    function testTheOrderIsFixedOnceAndBeforeRound1() public {
        refuse(ISuccessionLedger.SuccessionFixed.selector, abi.encode(FEDERATION));
        vm.prank(coordinator);
        line.appoint(FEDERATION, order, PATIENCE);
        refuse(IRoundLedger.NotEntrustable.selector, abi.encode(FEDERATION, coordinator));
        vm.prank(coordinator);
        ledger.entrust(FEDERATION, STRANGER);
    }

    function testOrdersThatAreRefused() public {
        bytes32 other = keccak256("other");
        vm.prank(coordinator);
        ledger.openFederation(other, CONFIG, Tree.root(registry), GENESIS, SLOTS, 2, WINDOW, STALENESS);
        refuse(IRoundLedger.NotEntrustable.selector, abi.encode(other, STRANGER));
        vm.prank(STRANGER);
        ledger.entrust(other, STRANGER);
        refuse(ISuccessionLedger.PatienceOutOfRange.selector, abi.encode(other, 0, line.LONGEST()));
        vm.prank(coordinator);
        line.appoint(other, order, 0);
        address[] memory none = new address[](0);
        refuse(ISuccessionLedger.SuccessorsOutOfRange.selector, abi.encode(other, 0, 16));
        vm.prank(coordinator);
        line.appoint(other, none, 1);
        address[] memory own = new address[](1);
        own[0] = coordinator;
        refuse(ISuccessionLedger.SuccessorInvalid.selector, abi.encode(other, 0, coordinator));
        vm.prank(coordinator);
        line.appoint(other, own, 1);
        refuse(ISuccessionLedger.SuccessionFixed.selector, abi.encode(other));
        vm.prank(coordinator);
        line.reportAlive(other);
    }

    function testFuzzNobodyTakesOverBeforeItsTime(uint32 place, uint64 waited) public {
        place %= 3;
        waited %= 4 * PATIENCE;
        vm.warp(block.timestamp + waited);
        bool due = waited >= uint256(PATIENCE) * (place + 1);
        vm.prank(successor(place));
        (bool taken,) = address(line).call(abi.encodeCall(line.takeOver, (FEDERATION, place)));
        check(taken == due && (leader() == successor(place)) == due, "exactly from its time on");
    }
}
