// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRoundLedger} from "../src/IRoundLedger.sol";
import {Base, Tree} from "./Base.sol";

/// @dev Which headers a sister contract may trust.
contract HeadersTest is Base {
    IRoundLedger.Header internal header;

    function setUp() public {
        deploy();
        openFederation();
        openRound();
    }

    function refuseHeader(IRoundLedger.Header memory given, bytes4 selector, bytes memory arguments) internal {
        refuse(selector, arguments);
        ledger.requireSealed(FEDERATION, given);
    }

    function refuseStatus(IRoundLedger.Header memory given, IRoundLedger.RoundStatus held) internal {
        refuseHeader(given, IRoundLedger.RoundNotSealed.selector, abi.encode(FEDERATION, given.round, held));
    }

    function testASealedHeaderStands() public {
        header = seal();
        (IRoundLedger.RoundStatus held, uint32 slots) = ledger.requireSealed(FEDERATION, header);
        check(held == IRoundLedger.RoundStatus.SEALED && slots == SLOTS, "sealed");
        vm.warp(block.timestamp + WINDOW);
        ledger.finalizeRound(FEDERATION);
        (held, slots) = ledger.requireSealed(FEDERATION, header);
        check(held == IRoundLedger.RoundStatus.FINAL && slots == SLOTS, "final");
    }

    function testAnUnsealedHeaderDoesNotStand() public {
        header = nextHeader(keccak256("root"));
        refuseStatus(header, IRoundLedger.RoundStatus.OPEN);
        IRoundLedger.Header memory given = header;
        given.round = 0;
        refuseStatus(given, IRoundLedger.RoundStatus.NONE);
        given.round = 2;
        refuseStatus(given, IRoundLedger.RoundStatus.NONE);
        vm.prank(coordinator);
        ledger.sealRound(FEDERATION, header, 0, uint64(block.timestamp + 60));
        vm.warp(block.timestamp + 61);
        refuseStatus(nextHeader(keccak256("root")), IRoundLedger.RoundStatus.VOID);
        refuse(IRoundLedger.FederationUnknown.selector, abi.encode(CONFIG));
        ledger.requireSealed(CONFIG, header);
    }

    /// @dev A header with any other value in any field is not the one that was sealed.
    function testFuzzAChangedHeaderDoesNotStand(uint8 field, bytes32 value) public {
        seal();
        header = seal();
        bytes memory encoded = abi.encode(header);
        uint256 offset = 32 * (uint256(field) % 7);
        bytes32 old;
        assembly {
            let place := add(add(encoded, 32), offset)
            old := mload(place)
        }
        // One time in four the header stays as it was.
        if (field >= 192) value = old;
        assembly {
            mstore(add(add(encoded, 32), offset), value)
        }
        bytes memory call = bytes.concat(ledger.requireSealed.selector, FEDERATION, encoded);
        (bool done,) = address(ledger).staticcall(call);
        check(done == (old == value), "only what was sealed stands");
    }

    function testAHeaderStandsWhileItsHeadIsKept() public {
        header = seal();
        for (uint256 i = 1; i < ledger.RING(); ++i) {
            ledger.requireSealed(FEDERATION, header);
            seal();
        }
        ledger.requireSealed(FEDERATION, header);
        seal();
        bytes memory detail = abi.encode(FEDERATION, 1, ledger.head(FEDERATION), expectedHead(header));
        refuseHeader(header, IRoundLedger.HeadMismatch.selector, detail);
    }

    /// @dev Rounds 1 to 3, a dispute on round 2: what was built on it waits, and falls or stands with it.
    function testAHeaderWaitsForTheDisputeBefore() public {
        bytes32[] memory leaves = leavesWith(Tree.EMPTY);
        IRoundLedger.Header memory first = seal();
        header = seal(nextHeader(Tree.root(leaves)));
        IRoundLedger.Header memory third = seal();
        disputeSlot(header, leaves);
        ledger.requireSealed(FEDERATION, first);
        refuseStatus(header, IRoundLedger.RoundStatus.DISPUTED);
        refuseHeader(third, IRoundLedger.FederationDisputed.selector, abi.encode(FEDERATION, 2));
        vm.prank(AUDITOR);
        ledger.resolveDispute(FEDERATION, header, false);
        ledger.requireSealed(FEDERATION, header);
        (IRoundLedger.RoundStatus held,) = ledger.requireSealed(FEDERATION, third);
        check(held == IRoundLedger.RoundStatus.SEALED, "upheld");
    }

    function testAVoidHeaderNeverStandsAgain() public {
        bytes32[] memory leaves = leavesWith(Tree.EMPTY);
        header = seal(nextHeader(Tree.root(leaves)));
        IRoundLedger.Header memory second = seal();
        disputeSlot(header, leaves);
        vm.prank(AUDITOR);
        ledger.resolveDispute(FEDERATION, header, true);
        refuseStatus(header, IRoundLedger.RoundStatus.VOID);
        refuseStatus(second, IRoundLedger.RoundStatus.VOID);
        openRound();
        IRoundLedger.Header memory third = seal();
        vm.warp(block.timestamp + WINDOW);
        ledger.finalizeRound(FEDERATION);
        refuseStatus(header, IRoundLedger.RoundStatus.VOID);
        refuseStatus(second, IRoundLedger.RoundStatus.VOID);
        ledger.requireSealed(FEDERATION, third);
    }

    /// @dev Two federations with the same everything: the head of one is not the head of the other.
    function testAHeaderStandsInItsFederationOnly() public {
        bytes32 other = keccak256("other");
        bytes32 root = ledger.federationState(FEDERATION).registryRoot;
        header = seal();
        vm.prank(coordinator);
        ledger.openFederation(other, CONFIG, root, GENESIS, SLOTS, 2, WINDOW, STALENESS);
        vm.prank(coordinator);
        ledger.openRound(other, 1, GENESIS, 0);
        IRoundLedger.Header memory twin = header;
        twin.previousHead = ledger.head(other);
        vm.prank(coordinator);
        ledger.sealRound(other, twin, 0, 0);
        ledger.requireSealed(other, twin);
        bytes memory detail = abi.encode(other, 1, ledger.head(other), expectedHead(other, header));
        refuse(IRoundLedger.HeadMismatch.selector, detail);
        ledger.requireSealed(other, header);
        detail = abi.encode(FEDERATION, 1, ledger.head(FEDERATION), expectedHead(twin));
        refuseHeader(twin, IRoundLedger.HeadMismatch.selector, detail);
    }
}
