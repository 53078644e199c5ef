// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRoundLedger} from "../src/IRoundLedger.sol";
import {Base} from "./Base.sol";

/// @dev Who holds a slot, and who may have which role.
contract RegistryTest is Base {
    bytes32[] internal none;

    function setUp() public {
        deploy();
        openFederation();
        openRound();
    }

    function testRegistry() public view {
        for (uint32 slot = 0; slot < SLOTS; ++slot) {
            check(holds(slot, hospitalOf(slot), organisation(slot)), "in the registry");
            check(!holds(slot, hospitalOf((slot + 1) % 3), organisation(slot)), "not another account");
            check(!holds(slot, hospitalOf(slot), organisation((slot + 1) % 3)), "not another organisation");
        }
        check(!ledger.isHospital(FEDERATION, 3, hospitalOf(0), organisation(0), none), "no such slot");
    }

    function holds(uint32 slot, address account, bytes32 org) internal view returns (bool) {
        return ledger.isHospital(FEDERATION, slot, account, org, registryProof(slot));
    }

    function testSetHospital() public {
        vm.prank(ADMIN);
        vm.expectEmit(address(ledger));
        emit IRoundLedger.HospitalSet(FEDERATION, 1, STRANGER, IRoundLedger.HospitalStatus.ACTIVE, CONFIG);
        ledger.setHospital(FEDERATION, 1, STRANGER, IRoundLedger.HospitalStatus.ACTIVE, CONFIG);
        check(holds(1, STRANGER, CONFIG) && !holds(1, hospitalOf(1), organisation(1)), "replaced");
        vm.prank(ADMIN);
        ledger.setHospital(FEDERATION, 1, STRANGER, IRoundLedger.HospitalStatus.SUSPENDED, CONFIG);
        check(!holds(1, STRANGER, CONFIG) && !holds(1, hospitalOf(1), organisation(1)), "suspended");
        vm.prank(ADMIN);
        ledger.setHospital(FEDERATION, 1, address(0), IRoundLedger.HospitalStatus.NONE, 0);
        check(!holds(1, STRANGER, CONFIG) && holds(1, hospitalOf(1), organisation(1)), "the registry is back");
        check(ledger.hospital(FEDERATION, 1).status == IRoundLedger.HospitalStatus.NONE, "entry");
    }

    function testSetHospitalRefusals() public {
        vm.prank(ADMIN);
        refuse(IRoundLedger.SlotOutOfRange.selector, abi.encode(FEDERATION, 3, 3));
        ledger.setHospital(FEDERATION, 3, STRANGER, IRoundLedger.HospitalStatus.ACTIVE, CONFIG);
        vm.prank(ADMIN);
        refuse(IRoundLedger.AccountIsZero.selector, abi.encode(FEDERATION, 1));
        ledger.setHospital(FEDERATION, 1, address(0), IRoundLedger.HospitalStatus.ACTIVE, CONFIG);
        vm.prank(ADMIN);
        refuse(IRoundLedger.FederationUnknown.selector, abi.encode(CONFIG));
        ledger.setHospital(CONFIG, 0, STRANGER, IRoundLedger.HospitalStatus.ACTIVE, CONFIG);
        check(!ledger.isHospital(CONFIG, 0, hospitalOf(0), organisation(0), none), "nobody holds a slot of nothing");
    }

    function rotate(IRoundLedger.KeyRotation memory rotation, uint256 oldKey, uint256 newKey) internal {
        bytes32 digest = rotationDigest(rotation);
        ledger.rotateKey(rotation, organisation(1), registryProof(1), sign(oldKey, digest), sign(newKey, digest));
    }

    function testRotateKey() public {
        IRoundLedger.KeyRotation memory rotation =
            IRoundLedger.KeyRotation(FEDERATION, 1, hospitalOf(1), vm.addr(77), 1);
        vm.expectEmit(address(ledger));
        emit IRoundLedger.KeyRotated(FEDERATION, 1, hospitalOf(1), vm.addr(77), organisation(1), 1);
        rotate(rotation, keyOf(1), 77);
        check(holds(1, vm.addr(77), organisation(1)) && !holds(1, hospitalOf(1), organisation(1)), "rotated");
        seal();
        rotate(IRoundLedger.KeyRotation(FEDERATION, 1, vm.addr(77), hospitalOf(1), 2), 77, keyOf(1));
        check(holds(1, hospitalOf(1), organisation(1)), "and back");
    }

    function testRotateRefusals() public {
        IRoundLedger.KeyRotation memory rotation =
            IRoundLedger.KeyRotation(FEDERATION, 1, hospitalOf(1), vm.addr(77), 2);
        (bytes memory oldSignature, bytes memory newSignature) = bothSign(rotation);
        refuse(IRoundLedger.RoundOutOfOrder.selector, abi.encode(FEDERATION, 1, 2));
        ledger.rotateKey(rotation, organisation(1), registryProof(1), oldSignature, newSignature);

        rotation.round = 1;
        (oldSignature, newSignature) = bothSign(rotation);
        bytes32 digest = rotationDigest(rotation);
        bytes32[] memory proof = registryProof(1);
        refuse(IRoundLedger.SignatureInvalid.selector, abi.encode(hospitalOf(1), digest));
        ledger.rotateKey(rotation, organisation(1), proof, newSignature, newSignature);
        refuse(IRoundLedger.SignatureInvalid.selector, abi.encode(vm.addr(77), digest));
        ledger.rotateKey(rotation, organisation(1), proof, oldSignature, oldSignature);
        refuse(IRoundLedger.NotHospital.selector, abi.encode(FEDERATION, 1, hospitalOf(1)));
        ledger.rotateKey(rotation, CONFIG, proof, oldSignature, newSignature);
        ledger.rotateKey(rotation, organisation(1), proof, oldSignature, newSignature);

        // Back and forth in one round would let the first record be replayed.
        rotation = IRoundLedger.KeyRotation(FEDERATION, 1, vm.addr(77), hospitalOf(1), 1);
        (newSignature, oldSignature) = bothSign(rotation);
        refuse(IRoundLedger.RoundOutOfOrder.selector, abi.encode(FEDERATION, 1, 1));
        ledger.rotateKey(rotation, organisation(1), proof, oldSignature, newSignature);
        rotation.to = address(0);
        refuse(IRoundLedger.AccountIsZero.selector, abi.encode(FEDERATION, 1));
        ledger.rotateKey(rotation, organisation(1), proof, oldSignature, newSignature);
    }

    function bothSign(IRoundLedger.KeyRotation memory rotation) internal view returns (bytes memory, bytes memory) {
        bytes32 digest = rotationDigest(rotation);
        return (sign(keyOf(1), digest), sign(77, digest));
    }

    function testRolesAreKeptApart() public {
        bytes32 coordinates = ledger.COORDINATOR_ROLE();
        bytes32[2] memory others = [ledger.REVIEWER_ROLE(), ledger.AUDITOR_ROLE()];
        for (uint256 i = 0; i < 2; ++i) {
            vm.prank(ADMIN);
            refuse(IRoundLedger.RolesConflict.selector, abi.encode(coordinator, coordinates, others[i]));
            ledger.grantRole(others[i], coordinator);
        }
        vm.prank(ADMIN);
        refuse(IRoundLedger.RolesConflict.selector, abi.encode(AUDITOR, others[1], coordinates));
        ledger.grantRole(coordinates, AUDITOR);
        address reviewer = vm.addr(REVIEWER_KEY);
        vm.prank(ADMIN);
        refuse(IRoundLedger.RolesConflict.selector, abi.encode(reviewer, others[0], coordinates));
        ledger.grantRole(coordinates, reviewer);
    }
}
