// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRoundLedger} from "../src/IRoundLedger.sol";
import {Base, Tree} from "./Base.sol";

/// @dev A sealed update that began from a model that is too old, and what may not be said of one that did not.
contract StalenessTest is Base {
    IRoundLedger.Header[] internal headers;
    IRoundLedger.ModelUpdate internal record;
    bytes internal signature;
    bytes32[] internal leaves;

    function setUp() public {
        deploy();
        openFederation();
        openRound();
    }

    function modelBefore(uint64 round) internal view returns (bytes32) {
        return headers[round - 1].parentModel;
    }

    function sealMany(uint64 many) internal {
        for (uint64 i = 0; i < many; ++i) {
            headers.push(seal());
        }
    }

    /// @dev Seals a round whose slot 1 holds an update that began from this model.
    function sealUpdate(bytes32 model) internal {
        record = updateOf(1);
        record.parentModel = model;
        signature = sign(keyOf(1), updateDigest(record));
        leaves = leavesWith(leafOf());
        headers.push(seal(nextHeader(Tree.root(leaves))));
    }

    function leafOf() internal view returns (bytes32) {
        return keccak256(bytes.concat(hex"000002", bytes4(uint32(1)), updateDigest(record), signature));
    }

    function shown(uint64 from, uint64 to) internal view returns (IRoundLedger.Header[] memory list_) {
        list_ = new IRoundLedger.Header[](to - from + 1);
        for (uint64 round = from; round <= to; ++round) {
            list_[round - from] = headers[round - 1];
        }
    }

    function disputeIt(uint64 from, uint64 to) internal {
        ledger.disputeUpdate(FEDERATION, shown(from, to), record, signature, Tree.prove(leaves, 1));
    }

    function refuseIt(uint64 from, uint64 to, bytes4 selector, bytes memory arguments) internal {
        IRoundLedger.Header[] memory list_ = shown(from, to);
        bytes32[] memory proof = Tree.prove(leaves, 1);
        refuse(selector, arguments);
        ledger.disputeUpdate(FEDERATION, list_, record, signature, proof);
    }

    function testAnUpdateThatIsTooOldStopsTheFederation() public {
        sealMany(4);
        sealUpdate(modelBefore(2));
        vm.expectEmit(address(ledger));
        emit IRoundLedger.RoundDisputed(FEDERATION, 5, 1, 0, leaves[1]);
        disputeIt(3, 5);
        check(status(5) == IRoundLedger.RoundStatus.DISPUTED, "disputed");
        check(ledger.federationState(FEDERATION).staleness == STALENESS, "as opened");
    }

    /// @dev What is not too old, however it is told, disputes nothing.
    function testFuzzOnlyWhatIsTooOldIsDisputed(uint64 behind, uint64 later, uint64 more) public {
        (behind, later, more) = (1 + behind % 5, later % 4, more % 2);
        sealMany(5);
        sealUpdate(modelBefore(6 - behind));
        sealMany(later);
        uint64 first = 6 - STALENESS - more;
        if (behind <= STALENESS) {
            bytes memory told = abi.encode(FEDERATION, 6, 1);
            refuseIt(first, 6 + later, IRoundLedger.EvidenceInconclusive.selector, told);
        } else {
            disputeIt(first, 6 + later);
        }
    }

    function testTheLastModelIsNotTooOld() public {
        sealMany(4);
        sealUpdate(ledger.federationState(FEDERATION).model);
        refuseIt(3, 5, IRoundLedger.EvidenceInconclusive.selector, abi.encode(FEDERATION, 5, 1));
    }

    /// @dev In the first rounds only a model that is none of the federation's can be shown.
    function testAModelOfNobodyInTheFirstRounds() public {
        sealUpdate(keccak256("nobody's"));
        disputeIt(1, 1);
        check(status(1) == IRoundLedger.RoundStatus.DISPUTED, "disputed");
    }

    function testTheGenesisIsNotTooOldInTheFirstRounds() public {
        sealMany(2);
        sealUpdate(GENESIS);
        refuseIt(1, 3, IRoundLedger.EvidenceInconclusive.selector, abi.encode(FEDERATION, 3, 1));
    }

    /// @dev Too few headers would hide the round that the work began from.
    function testAllRoundsThatCountAreShown() public {
        sealMany(4);
        sealUpdate(modelBefore(3));
        refuseIt(4, 5, IRoundLedger.RoundOutOfOrder.selector, abi.encode(FEDERATION, 3, 4));
        refuseIt(3, 4, IRoundLedger.HeadNotKept.selector, abi.encode(FEDERATION, 5));
    }

    function testAForgedHeaderShowsNothing() public {
        sealMany(4);
        sealUpdate(modelBefore(4));
        headers[3].parentModel = keccak256("forged");
        bytes32 given = expectedHead(headers[3]);
        bytes memory told = abi.encode(FEDERATION, 4, given, headers[4].previousHead);
        refuseIt(3, 5, IRoundLedger.HeadMismatch.selector, told);
    }

    /// @dev An old round is shown by the headers after it.
    function testARoundThatLeftTheRing() public {
        sealMany(4);
        sealUpdate(modelBefore(2));
        sealMany(7);
        refuseIt(3, 5, IRoundLedger.HeadNotKept.selector, abi.encode(FEDERATION, 5));
        disputeIt(3, 9);
        vm.prank(AUDITOR);
        ledger.resolveDispute(FEDERATION, headers[4], true);
        check(status(5) == IRoundLedger.RoundStatus.VOID && status(12) == IRoundLedger.RoundStatus.VOID, "void");
        check(ledger.federationState(FEDERATION).model == headers[4].parentModel, "the model before it");
    }

    function testAnotherSlotSignatureOrRecordIsNotSealed() public {
        sealMany(4);
        sealUpdate(modelBefore(1));
        record.nonce += 1;
        refuseIt(3, 5, IRoundLedger.ProofInvalid.selector, abi.encode(headers[4].root, leafOf()));
        record.nonce -= 1;
        signature = sign(keyOf(2), updateDigest(record));
        refuseIt(3, 5, IRoundLedger.ProofInvalid.selector, abi.encode(headers[4].root, leafOf()));
    }

    function testWhatIsFinalOrOpenOrInDisputeIsNotDisputed() public {
        sealMany(4);
        sealUpdate(modelBefore(2));
        record.round = 6;
        bytes4 selector = IRoundLedger.RoundNotSealed.selector;
        refuseIt(3, 5, selector, abi.encode(FEDERATION, 6, IRoundLedger.RoundStatus.OPEN));
        record.round = 5;
        disputeIt(3, 5);
        refuseIt(3, 5, selector, abi.encode(FEDERATION, 5, IRoundLedger.RoundStatus.DISPUTED));
        vm.prank(AUDITOR);
        ledger.resolveDispute(FEDERATION, headers[4], false);
        refuseIt(3, 5, selector, abi.encode(FEDERATION, 5, IRoundLedger.RoundStatus.FINAL));
    }
}
