// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";

/**
 * @title RoundLedger
 * @notice Anchors the rounds of federated learning runs. A round is one Merkle root over the signed updates of its
 * hospitals and the hash of the model that came out; a run is a chain of such rounds behind one `head`. The contract
 * holds digests only: no patient data, no model, no update, no address of a hospital.
 *
 * The cost of a round does not depend on the number of hospitals. The head is contract state, hashed from nothing
 * that a block producer chooses (no timestamp, no block hash), so the same transactions lead to the same head on any
 * chain with the same chain id and contract address, also after a reorganisation or a replay.
 *
 * The events hold every field, so the state can be rebuilt from them alone.
 */
contract RoundLedger is AccessControl {
    /// @notice Role that may open federations and seal rounds.
    bytes32 public constant COORDINATOR_ROLE = keccak256("COORDINATOR_ROLE");

    /**
     * @dev `head` is never zero once a federation is open, so it doubles as the mark of existence. Only `head`,
     * `model` and `round` change when a round is sealed.
     */
    struct Federation {
        bytes32 head;
        bytes32 model;
        bytes32 configHash;
        bytes32 registryRoot;
        uint64 round;
    }

    mapping(bytes32 federation => Federation) private _federations;

    /**
     * @notice A federation was opened at round 0.
     * @param federation Identifier of the federation.
     * @param configHash Digest of its configuration.
     * @param registryRoot Root of the tree of hospital addresses, one leaf per slot.
     * @param genesisModel Digest of the model before round 1.
     * @param head Head of round 0.
     */
    event FederationOpened(
        bytes32 indexed federation, bytes32 configHash, bytes32 registryRoot, bytes32 genesisModel, bytes32 head
    );

    /**
     * @notice A round was sealed.
     * @param federation Identifier of the federation.
     * @param round Number of the round, from 1.
     * @param root Root of the tree of signed updates, one leaf per slot.
     * @param parentModel Digest of the model that the round started from.
     * @param model Digest of the model that came out.
     * @param count Number of slots with an update.
     * @param slots Number of slots of the tree.
     * @param head Head after this round.
     */
    event RoundSealed(
        bytes32 indexed federation,
        uint64 indexed round,
        bytes32 root,
        bytes32 parentModel,
        bytes32 model,
        uint32 count,
        uint32 slots,
        bytes32 head
    );

    /// @notice The federation is already open.
    error FederationAlreadyOpen(bytes32 federation);

    /// @notice The federation was never opened.
    error FederationUnknown(bytes32 federation);

    /// @notice The round is not the one after the last sealed round.
    error RoundOutOfOrder(bytes32 federation, uint64 expected, uint64 given);

    /// @notice The round does not start from the model that the last round ended with.
    error ParentModelMismatch(bytes32 federation, uint64 round, bytes32 expected, bytes32 given);

    /// @notice The number of updates is zero or exceeds the number of slots.
    error CountOutOfRange(bytes32 federation, uint64 round, uint32 count, uint32 slots);

    /// @notice The root of the tree of updates is zero.
    error RootIsZero(bytes32 federation, uint64 round);

    /// @notice The digest of the model is zero; `round` is 0 for the genesis model.
    error ModelIsZero(bytes32 federation, uint64 round);

    /**
     * @notice Gives the two roles to their first holders.
     * @param admin Account that may grant and revoke roles.
     * @param coordinator Account that may open federations and seal rounds.
     */
    constructor(address admin, address coordinator) {
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
        _grantRole(COORDINATOR_ROLE, coordinator);
    }

    /**
     * @notice Opens a federation at round 0, once.
     *
     * Requirements:
     *
     * - the caller must have the coordinator role.
     * - `federation` must not be open.
     * - `genesisModel` must not be zero.
     *
     * Emits a {FederationOpened} event.
     *
     * @param federation Identifier of the federation.
     * @param configHash Digest of its configuration.
     * @param registryRoot Root of the tree of hospital addresses.
     * @param genesisModel Digest of the model before round 1.
     */
    function openFederation(bytes32 federation, bytes32 configHash, bytes32 registryRoot, bytes32 genesisModel)
        external
        onlyRole(COORDINATOR_ROLE)
    {
        Federation storage state = _federations[federation];
        if (state.head != 0) revert FederationAlreadyOpen(federation);
        if (genesisModel == 0) revert ModelIsZero(federation, 0);

        bytes32 newHead = keccak256(
            abi.encode(block.chainid, address(this), federation, configHash, registryRoot, genesisModel)
        );
        state.head = newHead;
        state.model = genesisModel;
        state.configHash = configHash;
        state.registryRoot = registryRoot;
        emit FederationOpened(federation, configHash, registryRoot, genesisModel, newHead);
    }

    /**
     * @notice Seals the next round of a federation.
     *
     * Requirements:
     *
     * - the caller must have the coordinator role.
     * - `federation` must be open and `round` must be its last round plus one.
     * - `parentModel` must be the model that the last round ended with.
     * - `count` must be at least 1 and at most `slots`.
     * - `root` and `model` must not be zero.
     *
     * Emits a {RoundSealed} event.
     *
     * @param federation Identifier of the federation.
     * @param round Number of the round, from 1.
     * @param root Root of the tree of signed updates.
     * @param parentModel Digest of the model that the round started from.
     * @param model Digest of the model that came out.
     * @param count Number of slots with an update.
     * @param slots Number of slots of the tree.
     */
    function sealRound(
        bytes32 federation,
        uint64 round,
        bytes32 root,
        bytes32 parentModel,
        bytes32 model,
        uint32 count,
        uint32 slots
    ) external onlyRole(COORDINATOR_ROLE) {
        Federation storage state = _federations[federation];
        bytes32 oldHead = state.head;
        if (oldHead == 0) revert FederationUnknown(federation);
        if (round != state.round + 1) revert RoundOutOfOrder(federation, state.round + 1, round);
        if (parentModel != state.model) revert ParentModelMismatch(federation, round, state.model, parentModel);
        if (count == 0 || count > slots) revert CountOutOfRange(federation, round, count, slots);
        if (root == 0) revert RootIsZero(federation, round);
        if (model == 0) revert ModelIsZero(federation, round);

        // All types are static, so the two halves together are the bytes of one `abi.encode` of all ten values,
        // which would need more stack than there is.
        bytes32 newHead = keccak256(
            bytes.concat(
                abi.encode(oldHead, block.chainid, address(this), federation, round),
                abi.encode(root, parentModel, model, count, slots)
            )
        );
        state.head = newHead;
        state.model = model;
        state.round = round;
        emit RoundSealed(federation, round, root, parentModel, model, count, slots, newHead);
    }

    /**
     * @notice Returns the state of a federation; all values are zero if it was never opened.
     * @param federation Identifier of the federation.
     * @return currentHead Head after the last sealed round.
     * @return model Digest of the model after the last sealed round.
     * @return configHash Digest of the configuration.
     * @return registryRoot Root of the tree of hospital addresses.
     * @return round Number of the last sealed round, 0 before the first.
     */
    function federationState(bytes32 federation)
        external
        view
        returns (bytes32 currentHead, bytes32 model, bytes32 configHash, bytes32 registryRoot, uint64 round)
    {
        Federation storage state = _federations[federation];
        return (state.head, state.model, state.configHash, state.registryRoot, state.round);
    }

    /**
     * @notice Returns the head of a federation, zero if it was never opened.
     * @param federation Identifier of the federation.
     * @return Head after the last sealed round.
     */
    function head(bytes32 federation) external view returns (bytes32) {
        return _federations[federation].head;
    }
}
