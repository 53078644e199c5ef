// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRoundLedger} from "../src/IRoundLedger.sol";
import {RoundLedger} from "../src/RoundLedger.sol";

/// @dev The cheat codes of forge that the tests use.
interface Vm {
    struct Gas {
        uint64 gasLimit;
        uint64 gasTotalUsed;
        uint64 gasMemoryUsed;
        int64 gasRefunded;
        uint64 gasRemaining;
    }

    function addr(uint256 key) external pure returns (address);
    function expectEmit(address emitter) external;
    function expectRevert(bytes calldata data) external;
    function lastCallGas() external view returns (Gas memory);
    function prank(address sender) external;
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function snapshotGasLastCall(string calldata group, string calldata name) external returns (uint256);
    function warp(uint256 time) external;
}

/// @dev Positional tree in memory, written apart from the library under test.
library Tree {
    bytes32 internal constant EMPTY = keccak256(hex"0250756c73654c656467657220656d70747920736c6f74");

    function node(bytes32 left, bytes32 right) internal pure returns (bytes32) {
        return keccak256(bytes.concat(hex"01", left, right));
    }

    function pad(bytes32[] memory leaves) internal pure returns (bytes32[] memory level) {
        uint256 size = 1;
        while (size < leaves.length) size *= 2;
        level = new bytes32[](size);
        for (uint256 i = 0; i < size; ++i) {
            level[i] = i < leaves.length ? leaves[i] : EMPTY;
        }
    }

    function up(bytes32[] memory level) internal pure returns (bytes32[] memory above) {
        above = new bytes32[](level.length / 2);
        for (uint256 i = 0; i < above.length; ++i) {
            above[i] = node(level[2 * i], level[2 * i + 1]);
        }
    }

    function root(bytes32[] memory leaves) internal pure returns (bytes32) {
        bytes32[] memory level = pad(leaves);
        while (level.length > 1) level = up(level);
        return level[0];
    }

    function prove(bytes32[] memory leaves, uint256 slot) internal pure returns (bytes32[] memory proof) {
        bytes32[] memory level = pad(leaves);
        uint256 depth = 0;
        while (1 << depth < level.length) ++depth;
        proof = new bytes32[](depth);
        for (uint256 i = 0; i < depth; ++i) {
            proof[i] = level[(slot >> i) ^ 1];
            level = up(level);
        }
    }
}

/// @dev A RoundLedger with one federation of three hospitals, keys 1001 to 1003, and what it takes to drive it.
abstract contract Base {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    address internal constant ADMIN = address(0xA1);
    uint256 internal constant COORDINATOR_KEY = 0xC0;
    uint256 internal constant AUDITOR_KEY = 0xAD;
    uint256 internal constant REVIEWER_KEY = 0xE1;
    address internal constant STRANGER = address(0x57);

    bytes32 internal constant FEDERATION = keccak256("federation");
    bytes32 internal constant CONFIG = keccak256("config");
    bytes32 internal constant GENESIS = keccak256("genesis");
    uint32 internal constant SLOTS = 3;
    uint32 internal constant WINDOW = 1 hours;
    uint32 internal constant STALENESS = 2;
    uint64 internal constant CLOSED = type(uint64).max;

    address internal immutable AUDITOR = vm.addr(AUDITOR_KEY);

    RoundLedger internal ledger;
    address internal coordinator;
    bytes32[] internal registry;

    error AssertionFailed(string what);

    function check(bool truth, string memory what) internal pure {
        if (!truth) revert AssertionFailed(what);
    }

    /// @dev Expects the next call to be refused with this error.
    function refuse(bytes4 selector, bytes memory arguments) internal {
        vm.expectRevert(bytes.concat(selector, arguments));
    }

    function deploy() internal {
        vm.warp(1_700_000_000);
        coordinator = vm.addr(COORDINATOR_KEY);
        ledger = new RoundLedger(ADMIN, coordinator, AUDITOR, 1 days);
        grant(ledger.REVIEWER_ROLE(), vm.addr(REVIEWER_KEY));
        for (uint32 slot = 0; slot < SLOTS; ++slot) {
            registry.push(registryLeaf(slot, hospitalOf(slot), organisation(slot)));
        }
    }

    function openFederation() internal {
        vm.prank(coordinator);
        ledger.openFederation(FEDERATION, CONFIG, Tree.root(registry), GENESIS, SLOTS, 2, WINDOW, STALENESS);
    }

    function openRound() internal {
        uint64 round = progress().round + 1;
        bytes32 model = ledger.federationState(FEDERATION).model;
        vm.prank(coordinator);
        ledger.openRound(FEDERATION, round, model, 0);
    }

    /// @dev Seals the open round and opens the next.
    function seal() internal returns (IRoundLedger.Header memory header) {
        return seal(nextHeader(keccak256(abi.encode("root", progress().round + 1))));
    }

    function seal(IRoundLedger.Header memory header) internal returns (IRoundLedger.Header memory) {
        uint32 submissions = progress().submissions;
        vm.prank(coordinator);
        ledger.sealRound(FEDERATION, header, submissions, 0);
        return header;
    }

    function nextHeader(bytes32 root) internal view returns (IRoundLedger.Header memory) {
        IRoundLedger.FederationState memory state = ledger.federationState(FEDERATION);
        uint64 round = state.progress.round + 1;
        bytes32 model = keccak256(abi.encode("model", round, state.head));
        return IRoundLedger.Header(round, state.head, root, state.model, model, 2, keccak256("annex"));
    }

    function grant(bytes32 role, address account) internal {
        vm.prank(ADMIN);
        ledger.grantRole(role, account);
    }

    function progress() internal view returns (IRoundLedger.Progress memory) {
        return ledger.federationState(FEDERATION).progress;
    }

    function keyOf(uint32 slot) internal pure returns (uint256) {
        return 1001 + slot;
    }

    function hospitalOf(uint32 slot) internal pure returns (address) {
        return vm.addr(keyOf(slot));
    }

    function organisation(uint32 slot) internal pure returns (bytes32) {
        return keccak256(abi.encode("organisation", slot));
    }

    function registryLeaf(uint32 slot, address account, bytes32 org) internal pure returns (bytes32) {
        return keccak256(bytes.concat(hex"00", bytes4(slot), bytes20(account), org));
    }

    function registryProof(uint32 slot) internal view returns (bytes32[] memory) {
        return Tree.prove(registry, slot);
    }

    function domain(address contract_) internal view returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("PulseLedger"),
                keccak256("2"),
                block.chainid,
                contract_
            )
        );
    }

    function typed(address contract_, bytes32 structHash) internal view returns (bytes32) {
        return keccak256(bytes.concat(hex"1901", domain(contract_), structHash));
    }

    function sign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return bytes.concat(r, s, bytes1(v));
    }

    function updateOf(uint32 slot) internal view returns (IRoundLedger.ModelUpdate memory) {
        IRoundLedger.FederationState memory state = ledger.federationState(FEDERATION);
        return IRoundLedger.ModelUpdate({
            schema: 2,
            federation: FEDERATION,
            round: state.progress.round + 1,
            slot: slot,
            parentModel: state.model,
            parentHead: state.head,
            update: keccak256(abi.encode("update", slot)),
            samples: keccak256("samples"),
            metrics: keccak256("metrics"),
            privacy: 0,
            configHash: CONFIG,
            nonce: 7,
            deadline: 0
        });
    }

    function updateDigest(IRoundLedger.ModelUpdate memory record) internal view returns (bytes32) {
        bytes32 kind = keccak256(
            "ModelUpdate(uint16 schema,bytes32 federation,uint64 round,uint32 slot,bytes32 parentModel,bytes32 parentHead,bytes32 update,bytes32 samples,bytes32 metrics,bytes32 privacy,bytes32 configHash,uint64 nonce,uint64 deadline)"
        );
        return typed(address(ledger), keccak256(bytes.concat(kind, abi.encode(record))));
    }

    function receiptDigest(IRoundLedger.Receipt memory receipt) internal view returns (bytes32) {
        bytes32 kind = keccak256("Receipt(bytes32 federation,uint64 round,uint32 slot,bytes32 leaf)");
        return typed(address(ledger), keccak256(bytes.concat(kind, abi.encode(receipt))));
    }

    function rotationDigest(IRoundLedger.KeyRotation memory rotation) internal view returns (bytes32) {
        bytes32 kind = keccak256("KeyRotation(bytes32 federation,uint32 slot,address from,address to,uint64 round)");
        return typed(address(ledger), keccak256(bytes.concat(kind, abi.encode(rotation))));
    }

    function availabilityDigest(IRoundLedger.Receipt memory promised) internal view returns (bytes32) {
        bytes32 kind = keccak256("Availability(bytes32 federation,uint64 round,uint32 slot,bytes32 leaf)");
        return typed(address(ledger), keccak256(bytes.concat(kind, abi.encode(promised))));
    }

    /// @dev A header by itself, as `dispute` takes it.
    function list(IRoundLedger.Header memory header) internal pure returns (IRoundLedger.Header[] memory headers) {
        headers = new IRoundLedger.Header[](1);
        headers[0] = header;
    }

    function submissionOf(uint64 round, bytes32 parentModel, uint32 slot)
        internal
        view
        returns (IRoundLedger.Submission memory)
    {
        return ledger.submission(FEDERATION, round, parentModel, slot);
    }

    function isSubmitted(uint64 round, bytes32 parentModel, uint32 slot) internal view returns (bool) {
        return submissionOf(round, parentModel, slot).leaf != 0;
    }

    /// @dev Submits the update of a slot and returns the leaf that the sealed tree must hold.
    function submit(uint32 slot) internal returns (bytes32) {
        IRoundLedger.ModelUpdate memory record = updateOf(slot);
        bytes memory signature = sign(keyOf(slot), updateDigest(record));
        ledger.submitUpdate(record, signature, hospitalOf(slot), organisation(slot), registryProof(slot));
        return keccak256(bytes.concat(hex"000002", bytes4(slot), updateDigest(record), signature));
    }

    function promise_(uint64 round, uint32 slot, bytes32 leaf)
        internal
        view
        returns (IRoundLedger.Receipt memory receipt, bytes memory signature)
    {
        receipt = IRoundLedger.Receipt(FEDERATION, round, slot, leaf);
        signature = sign(COORDINATOR_KEY, receiptDigest(receipt));
    }

    /// @dev Three leaves with the given one in slot 1.
    function leavesWith(bytes32 leaf) internal pure returns (bytes32[] memory leaves) {
        leaves = new bytes32[](3);
        leaves[0] = keccak256("leaf 0");
        leaves[1] = leaf;
        leaves[2] = keccak256("leaf 2");
    }

    /// @dev Seals a round whose slot 1 is empty although a receipt promised a leaf, and disputes it.
    function disputeEmptySlot() internal returns (IRoundLedger.Header memory header) {
        bytes32[] memory leaves = leavesWith(Tree.EMPTY);
        header = seal(nextHeader(Tree.root(leaves)));
        disputeSlot(header, leaves);
    }

    function disputeSlot(IRoundLedger.Header memory header, bytes32[] memory leaves) internal {
        (IRoundLedger.Receipt memory receipt, bytes memory signature) = promise_(header.round, 1, keccak256("promised"));
        ledger.dispute(FEDERATION, list(header), receipt, signature, leaves[1], Tree.prove(leaves, 1));
    }

    function status(uint64 round) internal view returns (IRoundLedger.RoundStatus) {
        return ledger.roundStatus(FEDERATION, round);
    }

    function isOpen() internal view returns (bool) {
        return status(progress().round + 1) == IRoundLedger.RoundStatus.OPEN;
    }

    function expectedHead(IRoundLedger.Header memory h) internal view returns (bytes32) {
        return expectedHead(FEDERATION, h);
    }

    function expectedHead(bytes32 federation, IRoundLedger.Header memory h) internal view returns (bytes32) {
        return keccak256(
            bytes.concat(
                abi.encode(h.previousHead, block.chainid, address(ledger), federation, h.round),
                abi.encode(h.root, h.parentModel, h.model, h.count, h.annex)
            )
        );
    }
}
