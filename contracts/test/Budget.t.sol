// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Annex} from "../src/Annex.sol";
import {Budget} from "../src/Budget.sol";
import {IRoundLedger} from "../src/IRoundLedger.sol";
import {Base, Tree} from "./Base.sol";

contract BudgetTest is Base {
    bytes32 private constant TERMS = keccak256("terms");
    bytes32 private constant SAID = keccak256("said");

    IRoundLedger.ModelUpdate private record;
    IRoundLedger.Header private header;
    bytes32[] private leaves;
    bytes private signature;
    Budget.Account private account;

    function setUp() public {
        deploy();
        openFederation();
        openRound();
    }

    /// @dev Seals a round whose slot 1 has spent this of a budget of 10 and 2.
    function sealSpent(uint64 one, uint64 two) private {
        account = Budget.Account(TERMS, [uint64(10), 2], SAID, [one, two]);
        record = updateOf(1);
        record.privacy = keccak256(abi.encode(SAID, account.spent));
        signature = sign(keyOf(1), updateDigest(record));
        leaves = leavesWith(
            keccak256(abi.encodePacked(bytes1(0), record.schema, record.slot, updateDigest(record), signature))
        );
        header = nextHeader(Tree.root(leaves));
        header.annex = annexOf(account.terms, account.budget);
        header = seal(header);
    }

    /// @dev An annex that names nothing else.
    function annexOf(bytes32 terms, uint64[2] memory budget) private pure returns (bytes32) {
        bytes32 digest = keccak256(abi.encode(terms, budget));
        return keccak256(bytes.concat(keccak256(abi.encode(keccak256("privacy"), digest))));
    }

    function voidIt() private {
        bytes32[] memory none;
        IRoundLedger.Overspent memory evidence =
            IRoundLedger.Overspent(record, signature, account, Tree.prove(leaves, 1), none);
        ledger.voidOverspent(FEDERATION, list(header), evidence);
    }

    function refuseInconclusive() private {
        refuse(IRoundLedger.EvidenceInconclusive.selector, abi.encode(FEDERATION, 1, 1));
    }

    function testAnybodyVoidsARoundBeyondTheBudget() public {
        sealSpent(13, 0);
        vm.expectEmit(address(ledger));
        emit IRoundLedger.BudgetExceeded(FEDERATION, 1, 1, account.budget, account.spent);
        vm.expectEmit(address(ledger));
        emit IRoundLedger.DisputeResolved(FEDERATION, 1, true, GENESIS);
        vm.prank(STRANGER);
        voidIt();
        check(status(1) == IRoundLedger.RoundStatus.VOID, "void");
        check(ledger.federationState(FEDERATION).model == GENESIS, "the model before it");
        check(!isOpen(), "the open round is closed");
        openRound();
        header = seal();
        check(header.parentModel == GENESIS, "goes on from there");
    }

    function testMoreOfTheSecondKindIsBeyondTheBudget() public {
        sealSpent(0, 3);
        voidIt();
        check(status(1) == IRoundLedger.RoundStatus.VOID, "void");
    }

    function testWhatIsLeftOfTheSecondKindPaysForTheFirst() public {
        sealSpent(12, 0);
        refuseInconclusive();
        voidIt();
        check(status(1) == IRoundLedger.RoundStatus.SEALED, "stands");
    }

    function testAllThatIntegersHoldIsAddedUp() public {
        sealSpent(type(uint64).max, 0);
        voidIt();
        check(status(1) == IRoundLedger.RoundStatus.VOID, "void");
    }

    function testAnotherAccountThanWasSignedProvesNothing() public {
        sealSpent(5, 0);
        account.spent = [uint64(13), 0];
        refuseInconclusive();
        voidIt();
        account.spent = [uint64(5), 0];
        account.said = TERMS;
        refuseInconclusive();
        voidIt();
    }

    function testAnotherBudgetThanTheRoundNamesProvesNothing() public {
        sealSpent(5, 0);
        account.budget = [uint64(1), 0];
        bytes32 digest = keccak256(abi.encode(account.terms, account.budget));
        refuse(Annex.AnnexProofInvalid.selector, abi.encode(header.annex, keccak256("privacy"), digest));
        voidIt();
    }

    function testAnotherUpdateThanTheRoundHoldsProvesNothing() public {
        sealSpent(5, 0);
        account.spent = [uint64(13), 0];
        record.privacy = keccak256(abi.encode(SAID, account.spent));
        bytes32 leaf =
            keccak256(abi.encodePacked(bytes1(0), record.schema, record.slot, updateDigest(record), signature));
        refuse(IRoundLedger.ProofInvalid.selector, abi.encode(header.root, leaf));
        voidIt();
    }

    function testAFinalRoundStands() public {
        sealSpent(13, 0);
        vm.warp(block.timestamp + WINDOW);
        ledger.finalizeRound(FEDERATION);
        refuse(IRoundLedger.RoundNotSealed.selector, abi.encode(FEDERATION, 1, IRoundLedger.RoundStatus.FINAL));
        voidIt();
    }

    function testRoundsAfterItAreVoidToo() public {
        sealSpent(13, 0);
        IRoundLedger.Header memory next = seal();
        voidIt();
        check(status(next.round) == IRoundLedger.RoundStatus.VOID, "void with it");
        refuse(IRoundLedger.RoundNotSealed.selector, abi.encode(FEDERATION, 1, IRoundLedger.RoundStatus.VOID));
        voidIt();
    }
}
