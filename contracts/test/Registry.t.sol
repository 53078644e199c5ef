// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRoundLedger} from "../src/IRoundLedger.sol";
import {RoundLedger} from "../src/RoundLedger.sol";
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

    /// @dev Every pair of roles: no account holds two.
    function testRolesAreKeptApart() public {
        bytes32[4] memory roles =
            [ledger.DEFAULT_ADMIN_ROLE(), ledger.COORDINATOR_ROLE(), ledger.REVIEWER_ROLE(), ledger.AUDITOR_ROLE()];
        address[4] memory holders = [ADMIN, coordinator, vm.addr(REVIEWER_KEY), AUDITOR];
        for (uint256 held = 0; held < 4; ++held) {
            for (uint256 given = 1; given < 4; ++given) {
                if (held == given) continue;
                vm.prank(ADMIN);
                refuse(IRoundLedger.RolesConflict.selector, abi.encode(holders[held], roles[held], roles[given]));
                ledger.grantRole(roles[given], holders[held]);
            }
        }
        vm.prank(ADMIN);
        ledger.grantRole(roles[1], coordinator);
    }

    function testAHolderOfARoleDoesNotBecomeAdmin() public {
        vm.prank(ADMIN);
        ledger.beginDefaultAdminTransfer(AUDITOR);
        vm.warp(block.timestamp + 1 days + 1);
        bytes32 auditor = ledger.AUDITOR_ROLE();
        vm.prank(AUDITOR);
        refuse(IRoundLedger.RolesConflict.selector, abi.encode(AUDITOR, auditor, bytes32(0)));
        ledger.acceptDefaultAdminTransfer();
    }

    /// @dev As deployed, admin, coordinator and auditor are different accounts.
    function testNobodyIsDeployedWithTwoRoles() public {
        bytes32 admin = ledger.DEFAULT_ADMIN_ROLE();
        bytes32 coordinates = ledger.COORDINATOR_ROLE();
        bytes32 audits = ledger.AUDITOR_ROLE();
        refuse(IRoundLedger.RolesConflict.selector, abi.encode(ADMIN, admin, coordinates));
        new RoundLedger(ADMIN, ADMIN, AUDITOR, 1 days);
        refuse(IRoundLedger.RolesConflict.selector, abi.encode(ADMIN, admin, audits));
        new RoundLedger(ADMIN, coordinator, ADMIN, 1 days);
        refuse(IRoundLedger.RolesConflict.selector, abi.encode(AUDITOR, coordinates, audits));
        new RoundLedger(ADMIN, AUDITOR, AUDITOR, 1 days);
    }
}
