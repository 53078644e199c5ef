// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRoundLedger} from "../src/IRoundLedger.sol";
import {Base, Tree} from "./Base.sol";

/// @dev How long a round can be disputed, whose receipts count, and how a round ends that nobody seals.
contract FinalityTest is Base {
    IRoundLedger.Header[] internal headers;
    bytes32[] internal leaves;

    function setUp() public {
        deploy();
        openFederation();
        openRound();
        leaves = leavesWith(Tree.EMPTY);
    }

    function sealRounds(uint256 count) internal {
        for (uint256 i = 0; i < count; ++i) {
            headers.push(seal(nextHeader(Tree.root(leaves))));
        }
    }

    /// @dev The headers of the rounds `first` to `last`.
    function chain(uint64 first, uint64 last) internal view returns (IRoundLedger.Header[] memory given) {
        given = new IRoundLedger.Header[](last - first + 1);
        for (uint64 i = 0; i < given.length; ++i) {
            given[i] = headers[first - 1 + i];
        }
    }

    function disputeWith(IRoundLedger.Header[] memory given) internal {
        (IRoundLedger.Receipt memory receipt, bytes memory signature) =
            promise_(given[0].round, 1, keccak256("promised"));
        ledger.dispute(FEDERATION, given, receipt, signature, leaves[1], Tree.prove(leaves, 1));
    }

    function refuseDispute(IRoundLedger.Header[] memory given, bytes4 selector, bytes memory arguments) internal {
        (IRoundLedger.Receipt memory receipt, bytes memory signature) =
            promise_(given[0].round, 1, keccak256("promised"));
        bytes32[] memory proof = Tree.prove(leaves, 1);
        refuse(selector, arguments);
        ledger.dispute(FEDERATION, given, receipt, signature, leaves[1], proof);
    }

    // --- Windows -----------------------------------------------------------------------------------------------------

    function testNoNumberOfSealsEndsAWindow() public {
        sealRounds(30);
        check(status(1) == IRoundLedger.RoundStatus.SEALED, "sealed");
        disputeWith(chain(1, 27));
        check(status(1) == IRoundLedger.RoundStatus.DISPUTED, "disputed");
        vm.prank(AUDITOR);
        ledger.resolveDispute(FEDERATION, headers[0], true);
        for (uint64 round = 1; round <= 30; ++round) {
            check(status(round) == IRoundLedger.RoundStatus.VOID, "void with all that was built on it");
        }
        check(ledger.federationState(FEDERATION).model == GENESIS, "the model before it");
    }

    function testAnyKeptHeadWillDo() public {
        sealRounds(9);
        for (uint64 last = 6; last <= 9; ++last) {
            uint256 before = status(2) == IRoundLedger.RoundStatus.SEALED ? 1 : 0;
            check(before == 1, "sealed");
            refuseDispute(chain(2, 5), IRoundLedger.HeadNotKept.selector, abi.encode(FEDERATION, 5));
        }
        disputeWith(chain(2, 7));
        check(status(2) == IRoundLedger.RoundStatus.DISPUTED, "disputed");
    }

    function testHeadersMustFollowEachOther() public {
        sealRounds(9);
        IRoundLedger.Header[] memory given = chain(1, 9);
        given[0].count = 3;
        bytes memory detail = abi.encode(FEDERATION, 1, expectedHead(given[0]), given[1].previousHead);
        refuseDispute(given, IRoundLedger.HeadMismatch.selector, detail);
        given = chain(1, 9);
        given[4] = given[5];
        refuseDispute(given, IRoundLedger.RoundOutOfOrder.selector, abi.encode(FEDERATION, 5, 6));
        given = chain(1, 9);
        given[8].annex = 0;
        detail = abi.encode(FEDERATION, 9, ledger.head(FEDERATION), expectedHead(given[8]));
        refuseDispute(given, IRoundLedger.HeadMismatch.selector, detail);
        // A round that has not come yet leads nowhere.
        given = chain(1, 9);
        IRoundLedger.Header[] memory longer = new IRoundLedger.Header[](10);
        for (uint256 i = 0; i < 9; ++i) {
            longer[i] = given[i];
        }
        longer[9] = nextHeader(CONFIG);
        refuseDispute(longer, IRoundLedger.HeadNotKept.selector, abi.encode(FEDERATION, 10));
    }

    /// @dev One changed field anywhere in the chain of headers, and it proves nothing.
    function testFuzzAChangedHeaderProvesNothing(uint8 place, uint8 field, bytes32 value) public {
        sealRounds(7);
        IRoundLedger.Header[] memory given = chain(1, 7);
        IRoundLedger.Header memory header = given[place % 7];
        field %= 4;
        if (field == 0 && value != header.root) header.root = value;
        else if (field == 1 && value != header.model) header.model = value;
        else if (field == 2 && value != header.parentModel) header.parentModel = value;
        else header.annex = keccak256(abi.encode(value));
        (IRoundLedger.Receipt memory receipt, bytes memory signature) = promise_(1, 1, keccak256("promised"));
        (bool done,) = address(ledger)
            .call(
                abi.encodeCall(
                    ledger.dispute, (FEDERATION, given, receipt, signature, leaves[1], Tree.prove(leaves, 1))
                )
            );
        check(!done, "refused");
    }

    function testVoidOverTheEndsOfWords() public {
        sealRounds(520);
        disputeWith(chain(255, 520));
        vm.prank(AUDITOR);
        ledger.resolveDispute(FEDERATION, headers[254], true);
        check(status(254) == IRoundLedger.RoundStatus.SEALED, "the round before stays");
        uint64[5] memory rounds = [uint64(255), 256, 511, 512, 520];
        for (uint256 i = 0; i < 5; ++i) {
            check(status(rounds[i]) == IRoundLedger.RoundStatus.VOID, "void");
        }
        openRound();
        seal();
        check(status(521) == IRoundLedger.RoundStatus.SEALED, "the round after is not");
    }

    /// @dev Rounds follow faster than the window: those up to a mark become final a window after it.
    function testAMarkBecomesFinalHoweverFastRoundsFollow() public {
        sealRounds(3);
        uint256 until = block.timestamp + WINDOW;
        vm.expectEmit(address(ledger));
        emit IRoundLedger.RoundMarked(FEDERATION, 3, uint64(until));
        vm.prank(STRANGER);
        ledger.markRound(FEDERATION);
        refuse(IRoundLedger.NothingToFinalize.selector, abi.encode(FEDERATION, 3));
        ledger.markRound(FEDERATION);
        for (uint256 i = 0; i < 6; ++i) {
            vm.warp(until - 6 + i);
            sealRounds(1);
            refuse(IRoundLedger.WindowOpen.selector, abi.encode(FEDERATION, 4 + i, block.timestamp + WINDOW));
            ledger.finalizeRound(FEDERATION);
        }
        vm.warp(until);
        vm.expectEmit(address(ledger));
        emit IRoundLedger.RoundFinalized(FEDERATION, 3);
        ledger.finalizeRound(FEDERATION);
        check(status(3) == IRoundLedger.RoundStatus.FINAL && status(4) == IRoundLedger.RoundStatus.SEALED, "marked");
        refuseDispute(
            chain(3, 9), IRoundLedger.RoundNotSealed.selector, abi.encode(FEDERATION, 3, IRoundLedger.RoundStatus.FINAL)
        );
        (IRoundLedger.RoundStatus held,) = ledger.requireSealed(FEDERATION, headers[2]);
        check(held == IRoundLedger.RoundStatus.FINAL, "the last final header stands");
        ledger.markRound(FEDERATION);
        disputeWith(chain(4, 9));
        refuse(IRoundLedger.FederationDisputed.selector, abi.encode(FEDERATION, 4));
        ledger.markRound(FEDERATION);
    }

    function testNothingToMark() public {
        refuse(IRoundLedger.NothingToFinalize.selector, abi.encode(FEDERATION, 0));
        ledger.markRound(FEDERATION);
        sealRounds(1);
        vm.warp(block.timestamp + WINDOW);
        ledger.finalizeRound(FEDERATION);
        refuse(IRoundLedger.NothingToFinalize.selector, abi.encode(FEDERATION, 1));
        ledger.markRound(FEDERATION);
    }

    // --- Receipts ----------------------------------------------------------------------------------------------------

    function revoke(address account) internal {
        bytes32 role = ledger.COORDINATOR_ROLE();
        vm.prank(ADMIN);
        ledger.revokeRole(role, account);
    }

    /// @dev A coordinator that leaves takes its promises along to no place where they do not count.
    function testReceiptsOfACoordinatorThatLeftCount() public {
        sealRounds(1);
        revoke(coordinator);
        disputeWith(chain(1, 1));
        check(status(1) == IRoundLedger.RoundStatus.DISPUTED, "disputed");
    }

    /// @dev The key of a coordinator that left is no weapon against the rounds of its successor.
    function testReceiptsOfACoordinatorThatLeftEndWithItsRounds() public {
        sealRounds(1);
        revoke(coordinator);
        address successor = vm.addr(77);
        grant(ledger.COORDINATOR_ROLE(), successor);
        coordinator = successor;
        sealRounds(2);
        check(ledger.federationState(FEDERATION).coordinator == successor, "bound by its first seal");
        address before = vm.addr(COORDINATOR_KEY);
        (IRoundLedger.Receipt memory receipt,) = promise_(3, 1, keccak256("promised"));
        refuseDispute(chain(3, 3), IRoundLedger.SignatureInvalid.selector, abi.encode(before, receiptDigest(receipt)));
        // The round that was open when it left is one that it may have given receipts for.
        disputeWith(chain(2, 3));
        check(status(2) == IRoundLedger.RoundStatus.DISPUTED, "disputed");
    }

    function testASuccessorsReceiptsCountAfterItLeft() public {
        address successor = vm.addr(77);
        grant(ledger.COORDINATOR_ROLE(), successor);
        address first = coordinator;
        coordinator = successor;
        sealRounds(1);
        coordinator = first;
        sealRounds(1);
        revoke(successor);
        IRoundLedger.Receipt memory receipt = IRoundLedger.Receipt(FEDERATION, 2, 1, keccak256("promised"));
        bytes memory signature = sign(77, receiptDigest(receipt));
        ledger.dispute(FEDERATION, chain(2, 2), receipt, signature, leaves[1], Tree.prove(leaves, 1));
        check(status(2) == IRoundLedger.RoundStatus.DISPUTED, "disputed");
    }

    // --- A round that nobody seals -----------------------------------------------------------------------------------

    function openTimed(uint64 seconds_) internal {
        IRoundLedger.Header memory header = nextHeader(Tree.root(leaves));
        vm.prank(coordinator);
        ledger.sealRound(FEDERATION, header, 0, uint64(block.timestamp + seconds_));
        headers.push(header);
    }

    function testAnybodyAbortsAStuckRound() public {
        openTimed(60);
        vm.warp(block.timestamp + 60);
        refuse(IRoundLedger.NothingToAbort.selector, abi.encode(FEDERATION, 2));
        ledger.abortRound(FEDERATION);
        vm.warp(block.timestamp + 1);
        bytes32 model = headers[0].model;
        vm.prank(STRANGER);
        vm.expectEmit(address(ledger));
        emit IRoundLedger.RoundAborted(FEDERATION, 2, model);
        ledger.abortRound(FEDERATION);
        check(status(2) == IRoundLedger.RoundStatus.VOID, "void");
        check(progress().phase == IRoundLedger.Phase.ABORTED, "aborted");
        refuse(IRoundLedger.NothingToAbort.selector, abi.encode(FEDERATION, 2));
        ledger.abortRound(FEDERATION);
        openRound();
        sealRounds(1);
        check(status(2) == IRoundLedger.RoundStatus.SEALED, "opened again, and sealed");
    }

    function testARoundWithoutDeadlineIsNotAborted() public {
        vm.warp(block.timestamp + 365 days);
        refuse(IRoundLedger.NothingToAbort.selector, abi.encode(FEDERATION, 1));
        ledger.abortRound(FEDERATION);
    }

    /// @dev Disputes and finality go on while a round is aborted.
    function testAnAbortedRoundStopsNothingElse() public {
        openTimed(60);
        vm.warp(block.timestamp + 61);
        ledger.abortRound(FEDERATION);
        disputeWith(chain(1, 1));
        vm.prank(AUDITOR);
        ledger.resolveDispute(FEDERATION, headers[0], false);
        check(status(1) == IRoundLedger.RoundStatus.FINAL && status(2) == IRoundLedger.RoundStatus.NONE, "final");
    }
}
