// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {
    AccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {Federations} from "./Federations.sol";
import {PositionalTree} from "./PositionalTree.sol";

/**
 * @title Registry
 * @notice The part of the RoundLedger that knows who is who: the roles, and which account holds which slot of a
 * federation. The registry of a federation is a root, set when it is opened; the admin and key rotations override it
 * slot by slot, so that the change of one hospital needs no new registry.
 */
abstract contract Registry is Federations, AccessControlDefaultAdminRules, EIP712 {
    /// @notice Role that opens federations, opens and seals rounds and signs receipts.
    bytes32 public constant COORDINATOR_ROLE = keccak256("COORDINATOR_ROLE");

    /// @notice Role that decides on requests for synthetic data.
    bytes32 public constant REVIEWER_ROLE = keccak256("REVIEWER_ROLE");

    /// @notice Role that resolves disputes.
    bytes32 public constant AUDITOR_ROLE = keccak256("AUDITOR_ROLE");

    bytes32 private constant KEY_ROTATION_TYPEHASH =
        keccak256("KeyRotation(bytes32 federation,uint32 slot,address from,address to,uint64 round)");

    mapping(bytes32 federation => mapping(uint32 slot => Hospital)) private _hospitals;

    /**
     * @notice Overrides the registry for one slot: enrols, replaces or suspends its holder.
     *
     * Requirements:
     *
     * - the caller must be the admin.
     * - the slot must exist, and `account` must not be zero unless the registry is put back in force.
     *
     * Emits a {HospitalSet} event.
     *
     * @param federation Identifier of the federation.
     * @param slot Slot of the hospital.
     * @param account Account that holds the slot.
     * @param status ACTIVE, SUSPENDED, or NONE to put the registry back in force.
     * @param organisation Commitment to the organisation.
     */
    function setHospital(bytes32 federation, uint32 slot, address account, HospitalStatus status, bytes32 organisation)
        external
        onlyRole(DEFAULT_ADMIN_ROLE)
    {
        (, Progress memory progress) = _load(federation);
        if (slot >= progress.slots) revert SlotOutOfRange(federation, slot, progress.slots);
        if (account == address(0) && status != HospitalStatus.NONE) revert AccountIsZero(federation, slot);

        Hospital storage entry = _hospitals[federation][slot];
        entry.account = account;
        entry.status = status;
        entry.organisation = organisation;
        emit HospitalSet(federation, slot, account, status, organisation);
    }

    /**
     * @notice Replaces the key of a hospital by a record that the old and the new key have signed. Anyone may relay it.
     *
     * Requirements:
     *
     * - `rotation.from` must hold the slot, and `rotation.to` must not be zero.
     * - `rotation.round` must be the last sealed round plus one, and the slot must not have rotated in it yet.
     * - both signatures must be valid.
     *
     * Emits a {KeyRotated} event.
     *
     * @param rotation The record.
     * @param organisation Commitment to the organisation of the hospital.
     * @param proof Siblings of the slot in the registry; ignored where the admin or a rotation overrode the registry.
     * @param oldSignature Signature of the record by `rotation.from`.
     * @param newSignature Signature of the record by `rotation.to`.
     */
    function rotateKey(
        KeyRotation calldata rotation,
        bytes32 organisation,
        bytes32[] calldata proof,
        bytes calldata oldSignature,
        bytes calldata newSignature
    ) external {
        if (rotation.to == address(0)) {
            revert AccountIsZero(rotation.federation, rotation.slot);
        }
        _requireHospital(rotation.federation, rotation.slot, rotation.from, organisation, proof);
        bytes32 digest = _hashTypedDataV4(keccak256(abi.encode(KEY_ROTATION_TYPEHASH, rotation)));
        _requireSignature(rotation.from, digest, oldSignature);
        _requireSignature(rotation.to, digest, newSignature);
        _rotate(rotation, organisation);
    }

    /**
     * @notice Tells whether an account is the active holder of a slot: by the entry of the slot if there is one,
     * otherwise by the registry.
     * @param federation Identifier of the federation.
     * @param slot Slot of the hospital.
     * @param account The account.
     * @param organisation Commitment to its organisation.
     * @param proof Siblings of the slot in the registry; ignored where the admin or a rotation overrode the registry.
     * @return True if it is.
     */
    function isHospital(
        bytes32 federation,
        uint32 slot,
        address account,
        bytes32 organisation,
        bytes32[] calldata proof
    ) public view returns (bool) {
        Hospital storage entry = _hospitals[federation][slot];
        HospitalStatus status = entry.status;
        if (status == HospitalStatus.SUSPENDED) return false;
        if (status == HospitalStatus.ACTIVE) return account == entry.account && organisation == entry.organisation;
        Federation storage state = _federations[federation];
        bytes32 leaf = keccak256(abi.encodePacked(bytes1(0), slot, account, organisation));
        return PositionalTree.verify(state.registryRoot, slot, leaf, state.progress.slots, proof);
    }

    /**
     * @notice Returns the entry that overrides the registry for a slot.
     * @param federation Identifier of the federation.
     * @param slot Slot of the hospital.
     * @return The entry; its status is NONE if the registry decides.
     */
    function hospital(bytes32 federation, uint32 slot) external view returns (Hospital memory) {
        return _hospitals[federation][slot];
    }

    /**
     * @dev No account holds two roles: who seals must neither decide on requests nor judge disputes about its own seals,
     * and who gives roles away must not exercise them.
     */
    function _grantRole(bytes32 role, address account) internal override returns (bool) {
        _requireApart(account, role);
        return super._grantRole(role, account);
    }

    /// @dev Requires that an account holds no other role than this one.
    function _requireApart(address account, bytes32 role) internal view {
        _requireWithout(account, DEFAULT_ADMIN_ROLE, role);
        _requireWithout(account, COORDINATOR_ROLE, role);
        _requireWithout(account, REVIEWER_ROLE, role);
        _requireWithout(account, AUDITOR_ROLE, role);
    }

    function _requireHospital(
        bytes32 federation,
        uint32 slot,
        address account,
        bytes32 organisation,
        bytes32[] calldata proof
    ) internal view {
        if (!isHospital(federation, slot, account, organisation, proof)) {
            revert NotHospital(federation, slot, account);
        }
    }

    function _requireSignature(address account, bytes32 digest, bytes calldata signature) internal view {
        if (!SignatureChecker.isValidSignatureNowCalldata(account, digest, signature)) {
            revert SignatureInvalid(account, digest);
        }
    }

    function _requireWithout(address account, bytes32 held, bytes32 given) private view {
        if (held != given && hasRole(held, account)) revert RolesConflict(account, held, given);
    }

    function _rotate(KeyRotation calldata rotation, bytes32 organisation) private {
        uint64 next = _federations[rotation.federation].progress.round + 1;
        Hospital storage entry = _hospitals[rotation.federation][rotation.slot];
        if (rotation.round != next || rotation.round == entry.rotated) {
            revert RoundOutOfOrder(rotation.federation, next, rotation.round);
        }
        entry.account = rotation.to;
        entry.status = HospitalStatus.ACTIVE;
        entry.rotated = rotation.round;
        entry.organisation = organisation;
        emit KeyRotated(rotation.federation, rotation.slot, rotation.from, rotation.to, organisation, rotation.round);
    }
}
