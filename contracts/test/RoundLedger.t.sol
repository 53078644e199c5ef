// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {IRoundLedger} from "../src/IRoundLedger.sol";
import {RoundLedger} from "../src/RoundLedger.sol";
import {Base, Tree} from "./Base.sol";

/// @dev A hospital behind a contract: it accepts what its owner has signed.
contract Multisig {
    address private immutable OWNER;

    constructor(address owner) {
        OWNER = owner;
    }

    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        (bytes32 r, bytes32 s) = abi.decode(signature, (bytes32, bytes32));
        return ecrecover(digest, uint8(signature[64]), r, s) == OWNER ? this.isValidSignature.selector : bytes4(0);
    }
}

contract RoundLedgerTest is Base {
    bytes32 internal constant CLOSING = keccak256("closing");

    IRoundLedger.Header internal header;
    bytes32[] internal none;

    function setUp() public {
        deploy();
        openFederation();
        openRound();
    }

    // --- Federations and rounds --------------------------------------------------------------------------------------

    function testHeadOfRoundZero() public view {
        bytes32 expected = keccak256(
            bytes.concat(
                abi.encode(block.chainid, address(ledger), FEDERATION, CONFIG),
                abi.encode(Tree.root(registry), GENESIS, SLOTS, uint256(2))
            )
        );
        check(ledger.head(FEDERATION) == expected, "head 0");
        check(ledger.headAt(FEDERATION, 0) == expected, "head at 0");
        check(ledger.head(keccak256("other")) == 0, "head of an unknown federation");
    }

    function testOpenFederationRefusals() public {
        bytes32 other = keccak256("other");
        vm.prank(coordinator);
        refuse(IRoundLedger.FederationAlreadyOpen.selector, abi.encode(FEDERATION));
        ledger.openFederation(FEDERATION, CONFIG, CONFIG, GENESIS, 3, 1, 0, STALENESS);
        vm.prank(coordinator);
        refuse(IRoundLedger.RegistryIsZero.selector, abi.encode(other));
        ledger.openFederation(other, CONFIG, 0, GENESIS, 3, 1, 0, STALENESS);
        vm.prank(coordinator);
        refuse(IRoundLedger.ModelIsZero.selector, abi.encode(other, uint64(0)));
        ledger.openFederation(other, CONFIG, CONFIG, 0, 3, 1, 0, STALENESS);
        vm.prank(coordinator);
        refuse(IRoundLedger.QuorumOutOfRange.selector, abi.encode(other, 0, 3));
        ledger.openFederation(other, CONFIG, CONFIG, GENESIS, 3, 0, 0, STALENESS);
        vm.prank(coordinator);
        refuse(IRoundLedger.QuorumOutOfRange.selector, abi.encode(other, 4, 3));
        ledger.openFederation(other, CONFIG, CONFIG, GENESIS, 3, 4, 0, STALENESS);
        vm.prank(coordinator);
        refuse(SafeCast.SafeCastOverflowedUintDowncast.selector, abi.encode(24, 1 << 24));
        ledger.openFederation(other, CONFIG, CONFIG, GENESIS, 1 << 24, 4, 0, STALENESS);
    }

    function testUnknownFederation() public {
        bytes32 other = keccak256("other");
        vm.prank(coordinator);
        refuse(IRoundLedger.FederationUnknown.selector, abi.encode(other));
        ledger.openRound(other, 1, GENESIS, 0);
    }

    function testOpenRoundRefusals() public {
        vm.prank(coordinator);
        refuse(IRoundLedger.RoundAlreadyOpen.selector, abi.encode(FEDERATION, 1));
        ledger.openRound(FEDERATION, 1, GENESIS, 0);
        vm.prank(coordinator);
        refuse(IRoundLedger.RoundOutOfOrder.selector, abi.encode(FEDERATION, 1, 2));
        ledger.openRound(FEDERATION, 2, GENESIS, 0);

        header = nextHeader(keccak256("root"));
        vm.prank(coordinator);
        ledger.sealRound(FEDERATION, header, 0, CLOSED);
        vm.prank(coordinator);
        refuse(IRoundLedger.ParentModelMismatch.selector, abi.encode(FEDERATION, 2, header.model, GENESIS));
        ledger.openRound(FEDERATION, 2, GENESIS, 0);
        vm.prank(coordinator);
        refuse(IRoundLedger.DeadlinePassed.selector, abi.encode(block.timestamp, block.timestamp));
        ledger.openRound(FEDERATION, 2, header.model, uint64(block.timestamp));
    }

    function testSealMovesHeadModelAndRound() public {
        for (uint64 round = 1; round <= 10; ++round) {
            header = nextHeader(keccak256(abi.encode("root", round)));
            bytes32 expected = expectedHead(header);
            vm.prank(coordinator);
            vm.expectEmit(address(ledger));
            emit IRoundLedger.RoundSealed(FEDERATION, round, header, 0, 0, expected);
            ledger.sealRound(FEDERATION, header, 0, 0);
            IRoundLedger.FederationState memory state = ledger.federationState(FEDERATION);
            check(state.head == expected && state.model == header.model, "head and model");
            check(state.progress.round == round && isOpen(), "round");
            check(ledger.headAt(FEDERATION, round) == expected, "head at");
        }
        check(ledger.headAt(FEDERATION, 7) != 0 && ledger.headAt(FEDERATION, 6) == 0, "four heads are kept");
        check(status(1) == IRoundLedger.RoundStatus.SEALED, "no number of seals ends a window");
        check(status(11) == IRoundLedger.RoundStatus.OPEN && status(12) == IRoundLedger.RoundStatus.NONE, "next");
        check(status(0) == IRoundLedger.RoundStatus.NONE, "round 0");
    }

    function testSealRefusals() public {
        header = nextHeader(keccak256("root"));
        IRoundLedger.Header memory bad = header;
        bad.round = 2;
        refuseSeal(bad, IRoundLedger.RoundOutOfOrder.selector, abi.encode(FEDERATION, 1, 2));
        bad = header;
        bad.previousHead = CONFIG;
        refuseSeal(bad, IRoundLedger.HeadMismatch.selector, abi.encode(FEDERATION, 0, header.previousHead, CONFIG));
        bad = header;
        bad.parentModel = CONFIG;
        refuseSeal(bad, IRoundLedger.ParentModelMismatch.selector, abi.encode(FEDERATION, 1, GENESIS, CONFIG));
        bad = header;
        bad.count = 1;
        refuseSeal(bad, IRoundLedger.CountOutOfRange.selector, abi.encode(FEDERATION, 1, 1, 2, 3));
        bad = header;
        bad.count = 4;
        refuseSeal(bad, IRoundLedger.CountOutOfRange.selector, abi.encode(FEDERATION, 1, 4, 2, 3));
        bad = header;
        bad.root = 0;
        refuseSeal(bad, IRoundLedger.RootIsZero.selector, abi.encode(FEDERATION, 1));
        bad = header;
        bad.model = 0;
        refuseSeal(bad, IRoundLedger.ModelIsZero.selector, abi.encode(FEDERATION, 1));
        vm.prank(coordinator);
        refuse(IRoundLedger.SubmissionsMissed.selector, abi.encode(FEDERATION, 1, 0, 1));
        ledger.sealRound(FEDERATION, header, 1, 0);
        vm.prank(coordinator);
        refuse(IRoundLedger.DeadlinePassed.selector, abi.encode(1, block.timestamp));
        ledger.sealRound(FEDERATION, header, 0, 1);
        vm.prank(coordinator);
        refuse(SafeCast.SafeCastOverflowedUintDowncast.selector, abi.encode(40, 1 << 40));
        ledger.sealRound(FEDERATION, header, 0, 1 << 40);
    }

    function refuseSeal(IRoundLedger.Header memory bad, bytes4 selector, bytes memory arguments) internal {
        vm.prank(coordinator);
        refuse(selector, arguments);
        ledger.sealRound(FEDERATION, bad, 0, 0);
    }

    function testDeadlineVoidsAnOpenRound() public {
        header = nextHeader(keccak256("root"));
        vm.prank(coordinator);
        ledger.sealRound(FEDERATION, header, 0, uint64(block.timestamp + 60));
        vm.warp(block.timestamp + 60);
        check(status(2) == IRoundLedger.RoundStatus.OPEN, "the last second counts");
        submit(1);
        vm.warp(block.timestamp + 1);
        check(status(2) == IRoundLedger.RoundStatus.VOID && !isOpen(), "void");
        header = nextHeader(keccak256("root"));
        refuseSeal(header, IRoundLedger.RoundNotOpen.selector, abi.encode(FEDERATION, 2));
        openRound();
        check(status(2) == IRoundLedger.RoundStatus.OPEN, "open again");
        check(isSubmitted(2, header.parentModel, 1), "the submission still counts");
        check(progress().submissions == 1, "so does its number");
        seal();
        check(progress().submissions == 0, "a new round starts from none");
    }

    function testPauseStopsNewRoundsOnly() public {
        vm.prank(ADMIN);
        ledger.pause();
        header = nextHeader(keccak256("root"));
        refuseSeal(header, Pausable.EnforcedPause.selector, "");
        submit(0);
        vm.prank(coordinator);
        ledger.sealRound(FEDERATION, header, 1, CLOSED);
        vm.prank(coordinator);
        refuse(Pausable.EnforcedPause.selector, "");
        ledger.openRound(FEDERATION, 2, header.model, 0);
        vm.prank(coordinator);
        refuse(Pausable.EnforcedPause.selector, "");
        ledger.openFederation(keccak256("other"), CONFIG, CONFIG, GENESIS, 3, 1, 0, STALENESS);
        vm.warp(block.timestamp + WINDOW);
        ledger.finalizeRound(FEDERATION);
        check(status(1) == IRoundLedger.RoundStatus.FINAL, "finalized in a pause");
        vm.prank(ADMIN);
        ledger.unpause();
        openRound();
    }

    // --- Direct submission -------------------------------------------------------------------------------------------

    function testSubmitUpdate() public {
        IRoundLedger.ModelUpdate memory record = updateOf(1);
        bytes memory signature = sign(keyOf(1), updateDigest(record));
        bytes32 leaf = keccak256(bytes.concat(hex"000002", bytes4(uint32(1)), updateDigest(record), signature));
        vm.prank(STRANGER);
        vm.expectEmit(address(ledger));
        emit IRoundLedger.UpdateSubmitted(FEDERATION, 1, 1, hospitalOf(1), leaf, record, signature);
        ledger.submitUpdate(record, signature, hospitalOf(1), organisation(1), registryProof(1));
        check(isSubmitted(1, GENESIS, 1), "bit of slot 1");
        check(!isSubmitted(1, GENESIS, 0), "no bit of slot 0");
        check(progress().submissions == 1, "counted");
        refuseUpdate(record, 1, IRoundLedger.AlreadySubmitted.selector, abi.encode(FEDERATION, 1, 1));
    }

    function testSubmitUntilTheLastSecond() public {
        IRoundLedger.ModelUpdate memory record = updateOf(1);
        record.deadline = uint64(block.timestamp + 60);
        bytes memory signature = sign(keyOf(1), updateDigest(record));
        bytes32[] memory proof = registryProof(1);
        vm.warp(record.deadline + 1);
        refuse(IRoundLedger.DeadlinePassed.selector, abi.encode(record.deadline, block.timestamp));
        ledger.submitUpdate(record, signature, hospitalOf(1), organisation(1), proof);
        vm.warp(record.deadline);
        ledger.submitUpdate(record, signature, hospitalOf(1), organisation(1), proof);
        check(isSubmitted(1, GENESIS, 1), "the last second counts");
    }

    function refuseUpdate(IRoundLedger.ModelUpdate memory record, uint32 slot, bytes4 selector, bytes memory arguments)
        internal
    {
        bytes memory signature = sign(keyOf(slot), updateDigest(record));
        bytes32[] memory proof = registryProof(slot);
        refuse(selector, arguments);
        ledger.submitUpdate(record, signature, hospitalOf(slot), organisation(slot), proof);
    }

    function testSubmitRefusals() public {
        IRoundLedger.ModelUpdate memory record = updateOf(1);
        record.schema = 1;
        refuseUpdate(record, 1, IRoundLedger.SchemaMismatch.selector, abi.encode(2, 1));
        record = updateOf(1);
        record.deadline = uint64(block.timestamp - 1);
        refuseUpdate(record, 1, IRoundLedger.DeadlinePassed.selector, abi.encode(block.timestamp - 1, block.timestamp));
        record = updateOf(1);
        record.parentHead = CONFIG;
        refuseUpdate(
            record, 1, IRoundLedger.HeadMismatch.selector, abi.encode(FEDERATION, 0, ledger.head(FEDERATION), CONFIG)
        );
        record = updateOf(1);
        record.parentModel = CONFIG;
        refuseUpdate(record, 1, IRoundLedger.ParentModelMismatch.selector, abi.encode(FEDERATION, 1, GENESIS, CONFIG));
        record = updateOf(1);
        record.configHash = GENESIS;
        refuseUpdate(record, 1, IRoundLedger.ConfigMismatch.selector, abi.encode(FEDERATION, CONFIG, GENESIS));
        record = updateOf(1);
        record.round = 2;
        refuseUpdate(record, 1, IRoundLedger.RoundOutOfOrder.selector, abi.encode(FEDERATION, 1, 2));
        record = updateOf(2);
        refuseUpdate(record, 1, IRoundLedger.NotHospital.selector, abi.encode(FEDERATION, 2, hospitalOf(1)));
        record = updateOf(1);
        bytes memory signature = sign(keyOf(2), updateDigest(record));
        bytes32[] memory proof = registryProof(1);
        refuse(IRoundLedger.SignatureInvalid.selector, abi.encode(hospitalOf(1), updateDigest(record)));
        ledger.submitUpdate(record, signature, hospitalOf(1), organisation(1), proof);
        header = nextHeader(keccak256("root"));
        vm.prank(coordinator);
        ledger.sealRound(FEDERATION, header, 0, CLOSED);
        refuseUpdate(updateOf(1), 1, IRoundLedger.RoundNotOpen.selector, abi.encode(FEDERATION, 2));
    }

    /// @dev Every field is signed: any other value makes the signature worthless or is refused before.
    function testFuzzSubmitOfAChangedRecord(uint8 field, bytes32 value) public {
        IRoundLedger.ModelUpdate memory record = updateOf(1);
        bytes memory signature = sign(keyOf(1), updateDigest(record));
        bytes memory encoded = abi.encode(record);
        uint256 offset = 32 * (uint256(field) % 13);
        bytes32 old;
        assembly {
            let place := add(add(encoded, 32), offset)
            old := mload(place)
        }
        // One time in four the record stays as it was.
        if (field >= 192) value = old;
        assembly {
            mstore(add(add(encoded, 32), offset), value)
        }
        bytes32[] memory proof = registryProof(1);
        bytes memory call = bytes.concat(
            RoundLedger.submitUpdate.selector,
            encoded,
            abi.encode(17 * 32, hospitalOf(1), organisation(1), 21 * 32),
            abi.encode(65, bytes32(0), bytes32(0), bytes32(0)),
            abi.encode(proof.length, proof[0], proof[1])
        );
        // The signature goes into the three words after its length.
        uint256 start = 4 + 18 * 32;
        for (uint256 i = 0; i < 65; ++i) {
            call[start + i] = signature[i];
        }
        (bool done,) = address(ledger).call(call);
        check(done == (old == value), "only the signed record is taken");
    }

    function testContractWalletSubmits() public {
        Multisig wallet = new Multisig(vm.addr(99));
        vm.prank(ADMIN);
        ledger.setHospital(FEDERATION, 1, address(wallet), IRoundLedger.HospitalStatus.ACTIVE, organisation(1));
        IRoundLedger.ModelUpdate memory record = updateOf(1);
        ledger.submitUpdate(record, sign(99, updateDigest(record)), address(wallet), organisation(1), none);
        check(isSubmitted(1, GENESIS, 1), "a contract may hold a slot");
    }

    // --- Disputes ----------------------------------------------------------------------------------------------------

    function testReceiptAgainstAnEmptySlot() public {
        bytes32[] memory leaves = leavesWith(Tree.EMPTY);
        header = seal(nextHeader(Tree.root(leaves)));
        (IRoundLedger.Receipt memory receipt, bytes memory signature) = promise_(1, 1, keccak256("promised"));
        vm.prank(STRANGER);
        vm.expectEmit(address(ledger));
        emit IRoundLedger.RoundDisputed(FEDERATION, 1, 1, keccak256("promised"), Tree.EMPTY);
        ledger.dispute(FEDERATION, list(header), receipt, signature, Tree.EMPTY, Tree.prove(leaves, 1));
        check(status(1) == IRoundLedger.RoundStatus.DISPUTED, "disputed");
        check(status(2) == IRoundLedger.RoundStatus.NONE, "the open round is closed");
        IRoundLedger.Header memory next = nextHeader(keccak256("root"));
        refuseSeal(next, IRoundLedger.FederationDisputed.selector, abi.encode(FEDERATION, 1));
        vm.prank(coordinator);
        refuse(IRoundLedger.FederationDisputed.selector, abi.encode(FEDERATION, 1));
        ledger.openRound(FEDERATION, 2, header.model, 0);
        vm.warp(block.timestamp + WINDOW);
        refuse(IRoundLedger.FederationDisputed.selector, abi.encode(FEDERATION, 1));
        ledger.finalizeRound(FEDERATION);
    }

    function testReceiptAgainstAnotherLeaf() public {
        bytes32[] memory leaves = leavesWith(keccak256("another"));
        header = seal(nextHeader(Tree.root(leaves)));
        disputeSlot(header, leaves);
        check(status(1) == IRoundLedger.RoundStatus.DISPUTED, "disputed");
    }

    function testSubmissionAgainstAnEmptySlot() public {
        submit(1);
        bytes32[] memory leaves = leavesWith(Tree.EMPTY);
        header = seal(nextHeader(Tree.root(leaves)));
        ledger.dispute(
            FEDERATION, list(header), IRoundLedger.Receipt(FEDERATION, 1, 1, 0), "", Tree.EMPTY, Tree.prove(leaves, 1)
        );
        check(status(1) == IRoundLedger.RoundStatus.DISPUTED, "disputed");
    }

    function testSubmissionAgainstATakenSlot() public {
        bytes32[] memory leaves = leavesWith(submit(1));
        header = seal(nextHeader(Tree.root(leaves)));
        bytes32[] memory proof = Tree.prove(leaves, 1);
        refuse(IRoundLedger.EvidenceInconclusive.selector, abi.encode(FEDERATION, 1, 1));
        ledger.dispute(FEDERATION, list(header), IRoundLedger.Receipt(FEDERATION, 1, 1, 0), "", leaves[1], proof);
    }

    function testDisputeRefusals() public {
        bytes32[] memory leaves = leavesWith(Tree.EMPTY);
        header = seal(nextHeader(Tree.root(leaves)));
        bytes32[] memory proof = Tree.prove(leaves, 1);
        (IRoundLedger.Receipt memory receipt, bytes memory signature) = promise_(1, 1, keccak256("promised"));

        IRoundLedger.Header memory forged = header;
        forged.root = CONFIG;
        bytes32 held = ledger.head(FEDERATION);
        refuse(IRoundLedger.HeadMismatch.selector, abi.encode(FEDERATION, 1, held, expectedHead(forged)));
        ledger.dispute(FEDERATION, list(forged), receipt, signature, Tree.EMPTY, proof);

        refuse(IRoundLedger.ProofInvalid.selector, abi.encode(header.root, CONFIG));
        ledger.dispute(FEDERATION, list(header), receipt, signature, CONFIG, proof);

        (IRoundLedger.Receipt memory other, bytes memory otherSignature) = promise_(2, 1, keccak256("promised"));
        refuse(IRoundLedger.ReceiptMismatch.selector, abi.encode(FEDERATION, 1, FEDERATION, 2));
        ledger.dispute(FEDERATION, list(header), other, otherSignature, Tree.EMPTY, proof);

        IRoundLedger.Header memory open = nextHeader(keccak256("root"));
        refuse(IRoundLedger.RoundNotSealed.selector, abi.encode(FEDERATION, 2, IRoundLedger.RoundStatus.OPEN));
        ledger.dispute(FEDERATION, list(open), receipt, signature, CONFIG, proof);
    }

    function testReceiptRefusals() public {
        bytes32[] memory leaves = leavesWith(Tree.EMPTY);
        header = seal(nextHeader(Tree.root(leaves)));
        bytes32[] memory proof = Tree.prove(leaves, 1);

        // What was promised is there; nothing was promised; nobody signed; a hospital signed.
        (IRoundLedger.Receipt memory receipt, bytes memory signature) = promise_(1, 1, Tree.EMPTY);
        refuse(IRoundLedger.EvidenceInconclusive.selector, abi.encode(FEDERATION, 1, 1));
        ledger.dispute(FEDERATION, list(header), receipt, signature, Tree.EMPTY, proof);
        receipt.leaf = 0;
        refuse(IRoundLedger.EvidenceInconclusive.selector, abi.encode(FEDERATION, 1, 1));
        ledger.dispute(FEDERATION, list(header), receipt, "", Tree.EMPTY, proof);
        receipt.leaf = keccak256("promised");
        bytes32 digest = receiptDigest(receipt);
        refuse(IRoundLedger.SignatureInvalid.selector, abi.encode(address(0), digest));
        ledger.dispute(FEDERATION, list(header), receipt, "", Tree.EMPTY, proof);
        signature = sign(keyOf(1), digest);
        refuse(IRoundLedger.SignatureInvalid.selector, abi.encode(hospitalOf(1), digest));
        ledger.dispute(FEDERATION, list(header), receipt, signature, Tree.EMPTY, proof);
    }

    function testOnlyOneDisputeAtATime() public {
        bytes32[] memory leaves = leavesWith(Tree.EMPTY);
        IRoundLedger.Header memory first = seal(nextHeader(Tree.root(leaves)));
        IRoundLedger.Header memory second = seal(nextHeader(Tree.root(leaves)));
        disputeSlot(first, leaves);
        (IRoundLedger.Receipt memory receipt, bytes memory signature) = promise_(2, 1, CONFIG);
        refuse(IRoundLedger.FederationDisputed.selector, abi.encode(FEDERATION, 1));
        ledger.dispute(FEDERATION, list(second), receipt, signature, Tree.EMPTY, Tree.prove(leaves, 1));
    }

    function testVoidPutsTheModelBack() public {
        header = disputeEmptySlot();
        bytes32 headBefore = ledger.head(FEDERATION);
        vm.prank(AUDITOR);
        vm.expectEmit(address(ledger));
        emit IRoundLedger.DisputeResolved(FEDERATION, 1, true, GENESIS);
        ledger.resolveDispute(FEDERATION, header, true);
        check(status(1) == IRoundLedger.RoundStatus.VOID, "void");
        check(ledger.head(FEDERATION) == headBefore && progress().round == 1, "heads and rounds are not rewritten");
        openRound();
        IRoundLedger.Header memory next = seal();
        check(next.parentModel == GENESIS && next.round == 2, "the next round starts from the model before");
        check(status(1) == IRoundLedger.RoundStatus.VOID, "still void");
        vm.warp(block.timestamp + WINDOW);
        ledger.finalizeRound(FEDERATION);
        check(status(1) == IRoundLedger.RoundStatus.VOID && status(2) == IRoundLedger.RoundStatus.FINAL, "for good");
    }

    function testVoidTakesLaterRoundsAlong() public {
        bytes32[] memory leaves = leavesWith(Tree.EMPTY);
        IRoundLedger.Header memory first = seal(nextHeader(Tree.root(leaves)));
        header = seal(nextHeader(Tree.root(leaves)));
        seal();
        submit(0);
        disputeSlot(header, leaves);
        check(status(1) == IRoundLedger.RoundStatus.SEALED && status(3) == IRoundLedger.RoundStatus.SEALED, "others");
        vm.prank(AUDITOR);
        ledger.resolveDispute(FEDERATION, header, true);
        check(status(1) == IRoundLedger.RoundStatus.SEALED, "the round before stays");
        check(status(2) == IRoundLedger.RoundStatus.VOID && status(3) == IRoundLedger.RoundStatus.VOID, "void");
        check(ledger.federationState(FEDERATION).model == first.model, "model of the round before");
        check(progress().submissions == 0, "a submission for another model does not count");
        openRound();
        submit(0);
        disputeSlot(first, leaves);
    }

    function testUpheldRoundIsFinal() public {
        bytes32[] memory leaves = leavesWith(Tree.EMPTY);
        IRoundLedger.Header memory first = seal(nextHeader(Tree.root(leaves)));
        header = seal(nextHeader(Tree.root(leaves)));
        disputeSlot(header, leaves);
        vm.prank(AUDITOR);
        ledger.resolveDispute(FEDERATION, header, false);
        check(status(1) == IRoundLedger.RoundStatus.FINAL && status(2) == IRoundLedger.RoundStatus.FINAL, "final");
        check(ledger.federationState(FEDERATION).model == header.model, "model unchanged");
        (IRoundLedger.Receipt memory receipt, bytes memory signature) = promise_(1, 1, CONFIG);
        refuse(IRoundLedger.RoundNotSealed.selector, abi.encode(FEDERATION, 1, IRoundLedger.RoundStatus.FINAL));
        ledger.dispute(FEDERATION, list(first), receipt, signature, Tree.EMPTY, Tree.prove(leaves, 1));
        openRound();
        seal();
    }

    function testResolveRefusals() public {
        header = nextHeader(keccak256("root"));
        vm.prank(AUDITOR);
        refuse(IRoundLedger.NoDispute.selector, abi.encode(FEDERATION));
        ledger.resolveDispute(FEDERATION, header, true);
        header = disputeEmptySlot();
        IRoundLedger.Header memory forged = header;
        forged.round = 2;
        vm.prank(AUDITOR);
        refuse(IRoundLedger.RoundOutOfOrder.selector, abi.encode(FEDERATION, 1, 2));
        ledger.resolveDispute(FEDERATION, forged, true);
        forged = header;
        forged.parentModel = CONFIG;
        bytes memory detail = abi.encode(FEDERATION, 1, ledger.head(FEDERATION), expectedHead(forged));
        vm.prank(AUDITOR);
        refuse(IRoundLedger.HeadMismatch.selector, detail);
        ledger.resolveDispute(FEDERATION, forged, true);
    }

    function testFinalize() public {
        refuse(IRoundLedger.NothingToFinalize.selector, abi.encode(FEDERATION, 0));
        ledger.finalizeRound(FEDERATION);
        seal();
        uint256 until = block.timestamp + WINDOW;
        vm.warp(until - 1);
        refuse(IRoundLedger.WindowOpen.selector, abi.encode(FEDERATION, 1, until));
        ledger.finalizeRound(FEDERATION);
        vm.warp(until);
        vm.prank(STRANGER);
        vm.expectEmit(address(ledger));
        emit IRoundLedger.RoundFinalized(FEDERATION, 1);
        ledger.finalizeRound(FEDERATION);
        check(status(1) == IRoundLedger.RoundStatus.FINAL, "final");
        refuse(IRoundLedger.NothingToFinalize.selector, abi.encode(FEDERATION, 1));
        ledger.finalizeRound(FEDERATION);
    }

    // --- The end -----------------------------------------------------------------------------------------------------

    function close() internal {
        close(progress().round, ledger.head(FEDERATION), CLOSING);
    }

    function close(uint64 round, bytes32 lastHead, bytes32 closing) internal {
        vm.prank(coordinator);
        ledger.closeFederation(FEDERATION, round, lastHead, closing);
    }

    function testCloseFederation() public {
        header = seal();
        bytes32 lastHead = ledger.head(FEDERATION);
        vm.expectEmit(address(ledger));
        emit IRoundLedger.FederationClosed(FEDERATION, 1, lastHead, CLOSING);
        close();
        check(ledger.federationState(FEDERATION).closing == CLOSING, "closing");
        check(progress().phase == IRoundLedger.Phase.CLOSED, "phase");
        check(ledger.head(FEDERATION) == lastHead && progress().round == 1, "head and round stay");
        check(status(2) == IRoundLedger.RoundStatus.NONE, "no round is open");
    }

    function testCloseBeforeTheFirstRound() public {
        close();
        check(ledger.federationState(FEDERATION).closing == CLOSING, "closing");
    }

    function testNothingFollowsTheEnd() public {
        seal();
        header = nextHeader(keccak256("root"));
        IRoundLedger.ModelUpdate memory record = updateOf(1);
        bytes memory signature = sign(keyOf(1), updateDigest(record));
        bytes32[] memory proof = registryProof(1);
        bytes32 lastHead = ledger.head(FEDERATION);
        close();
        bytes memory detail = abi.encode(FEDERATION, CLOSING);
        vm.prank(coordinator);
        refuse(IRoundLedger.FederationOver.selector, detail);
        ledger.sealRound(FEDERATION, header, 0, 0);
        vm.prank(coordinator);
        refuse(IRoundLedger.FederationOver.selector, detail);
        ledger.openRound(FEDERATION, 2, header.parentModel, 0);
        refuse(IRoundLedger.FederationOver.selector, detail);
        ledger.submitUpdate(record, signature, hospitalOf(1), organisation(1), proof);
        vm.prank(coordinator);
        refuse(IRoundLedger.FederationOver.selector, detail);
        ledger.closeFederation(FEDERATION, 1, lastHead, CONFIG);
    }

    function testCloseRefusals() public {
        header = disputeEmptySlot();
        bytes32 lastHead = ledger.head(FEDERATION);
        refuse(IRoundLedger.FederationDisputed.selector, abi.encode(FEDERATION, 1));
        close(1, lastHead, CLOSING);
        vm.prank(AUDITOR);
        ledger.resolveDispute(FEDERATION, header, false);
        refuse(IRoundLedger.RoundOutOfOrder.selector, abi.encode(FEDERATION, 1, 0));
        close(0, lastHead, CLOSING);
        refuse(IRoundLedger.HeadMismatch.selector, abi.encode(FEDERATION, 1, lastHead, CONFIG));
        close(1, CONFIG, CLOSING);
        refuse(IRoundLedger.ClosingIsZero.selector, abi.encode(FEDERATION));
        close(1, lastHead, 0);
    }

    /// @dev Disputes and finality go on after the end, and neither opens the federation again.
    function testTheEndStaysTheEnd() public {
        bytes32[] memory leaves = leavesWith(Tree.EMPTY);
        IRoundLedger.Header memory first = seal(nextHeader(Tree.root(leaves)));
        header = seal(nextHeader(Tree.root(leaves)));
        close();
        disputeSlot(header, leaves);
        check(progress().phase == IRoundLedger.Phase.DISPUTED, "disputed");
        vm.prank(AUDITOR);
        ledger.resolveDispute(FEDERATION, header, true);
        check(progress().phase == IRoundLedger.Phase.CLOSED, "closed after a void");
        disputeSlot(first, leaves);
        vm.prank(AUDITOR);
        ledger.resolveDispute(FEDERATION, first, false);
        check(progress().phase == IRoundLedger.Phase.CLOSED, "closed after an upheld round");
        vm.prank(coordinator);
        refuse(IRoundLedger.FederationOver.selector, abi.encode(FEDERATION, CLOSING));
        ledger.openRound(FEDERATION, 3, first.model, 0);
        vm.warp(block.timestamp + WINDOW);
        ledger.finalizeRound(FEDERATION);
        check(status(1) == IRoundLedger.RoundStatus.FINAL && status(2) == IRoundLedger.RoundStatus.VOID, "final");
    }
}
