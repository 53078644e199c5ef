// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/**
 * @title UpdateEvents
 * @notice Baseline of benchmarks/ledger.py, not part of the ledger: every update is an event with a transaction of its
 * own, and one bit of storage that keeps it from being written twice. One account writes everything; nobody's signature
 * is checked.
 */
contract UpdateEvents {
    address private immutable _coordinator = msg.sender;
    mapping(uint64 round => mapping(uint256 word => uint256 bits)) private _written;
    mapping(uint64 round => bytes32 model) private _models;

    /// @notice An update was written.
    event UpdateWritten(
        uint64 indexed round,
        uint32 indexed slot,
        bytes32 update,
        bytes32 parentModel,
        bytes32 metrics,
        uint32 samples
    );

    /// @notice A round was closed.
    event RoundClosed(uint64 indexed round, bytes32 model);

    /// @notice The caller may not write, or the update or round is there already.
    error NotAccepted();

    /// @notice Writes the update of one hospital, once.
    function write(uint64 round, uint32 slot, bytes32 update, bytes32 parentModel, bytes32 metrics, uint32 samples)
        external
    {
        uint256 bits = _written[round][slot / 256];
        uint256 bit = 1 << (slot % 256);
        if (msg.sender != _coordinator || bits & bit != 0) revert NotAccepted();
        _written[round][slot / 256] = bits | bit;
        emit UpdateWritten(round, slot, update, parentModel, metrics, samples);
    }

    /// @notice Stores the model that came out of a round, once.
    function close(uint64 round, bytes32 model) external {
        if (msg.sender != _coordinator || _models[round] != 0) revert NotAccepted();
        _models[round] = model;
        emit RoundClosed(round, model);
    }
}
