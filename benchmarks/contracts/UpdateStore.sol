// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/**
 * @title UpdateStore
 * @notice Baseline of benchmarks/ledger.py, not part of the ledger: every update of every round is kept in storage, with
 * a transaction of its own. One account writes everything; nobody's signature is checked.
 */
contract UpdateStore {
    /// @notice One update. Four words of storage.
    struct Update {
        bytes32 update;
        bytes32 parentModel;
        bytes32 metrics;
        uint64 round;
        uint32 slot;
        uint32 samples;
        uint64 time;
    }

    address private immutable _coordinator = msg.sender;
    mapping(uint64 round => mapping(uint32 slot => Update)) private _updates;
    mapping(uint64 round => bytes32 model) private _models;

    /// @notice An update was stored.
    event UpdateStored(uint64 indexed round, uint32 indexed slot, bytes32 update);

    /// @notice A round was closed.
    event RoundClosed(uint64 indexed round, bytes32 model);

    /// @notice The caller may not write, or the update or round is there already.
    error NotAccepted();

    /// @notice Stores the update of one hospital, once.
    function store(uint64 round, uint32 slot, bytes32 update, bytes32 parentModel, bytes32 metrics, uint32 samples)
        external
    {
        if (msg.sender != _coordinator || _updates[round][slot].update != 0) revert NotAccepted();
        _updates[round][slot] = Update(update, parentModel, metrics, round, slot, samples, uint64(block.timestamp));
        emit UpdateStored(round, slot, update);
    }

    /// @notice Stores the model that came out of a round, once.
    function close(uint64 round, bytes32 model) external {
        if (msg.sender != _coordinator || _models[round] != 0) revert NotAccepted();
        _models[round] = model;
        emit RoundClosed(round, model);
    }
}
