// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {BitMaps} from "@openzeppelin/contracts/utils/structs/BitMaps.sol";
import {IRoundLedger} from "./IRoundLedger.sol";

/**
 * @title Federations
 * @notice The part of the RoundLedger that holds the state of its federations, says where a round stands and what a
 * head is hashed from. It writes nothing: that is for the functions of the RoundLedger.
 */
// What compares with the time of the block is explained at the RoundLedger.
// slither-disable-start timestamp
abstract contract Federations is IRoundLedger {
    using BitMaps for BitMaps.BitMap;

    /**
     * @dev Only a head, `model` and `progress` change when a round is sealed. The head of round r lies at r % RING; an
     * older one follows from the headers between it and one that is kept. The ring is filled when the federation is
     * opened, so that no seal writes a word for the first time.
     */
    struct Federation {
        bytes32[4] heads;
        Progress progress;
        bytes32 model;
        bytes32 configHash;
        bytes32 registryRoot;
        address coordinator;
        uint64 disputed;
        bool entrusted;
        uint64 finalized;
        uint64 marked;
        uint64 markedAt;
        uint32 staleness;
        bytes32 finalHead;
        bytes32 markedHead;
        bytes32 disputedHead;
        BitMaps.BitMap voided;
        bytes32 closing;
        address keeper;
        mapping(address coordinator => uint64 round) served;
    }

    /// @notice Number of heads that are kept; what an older round committed to is shown by the headers after it.
    uint64 public constant RING = 4;

    mapping(bytes32 federation => Federation) internal _federations;

    // --- Views -------------------------------------------------------------------------------------------------------

    /**
     * @notice Returns the head of a federation, zero if it was never opened.
     * @param federation Identifier of the federation.
     * @return Head after the last sealed round.
     */
    function head(bytes32 federation) external view returns (bytes32) {
        Federation storage state = _federations[federation];
        return _headAt(state, state.progress.round);
    }

    /**
     * @notice Returns the head after one of the last `RING` rounds.
     * @param federation Identifier of the federation.
     * @param round Number of the round, 0 for the head before round 1.
     * @return Head after that round; zero if it was not sealed or its head is no longer kept.
     */
    function headAt(bytes32 federation, uint64 round) external view returns (bytes32) {
        Federation storage state = _federations[federation];
        uint64 last = state.progress.round;
        return round <= last && last - round < RING ? _headAt(state, round) : bytes32(0);
    }

    /**
     * @notice Returns the state of a federation; all values are zero if it was never opened.
     * @param federation Identifier of the federation.
     * @return The state.
     */
    function federationState(bytes32 federation) external view returns (FederationState memory) {
        (Federation storage state, Progress memory progress) = _read(federation);
        return FederationState({
            head: _headAt(state, progress.round),
            model: state.model,
            configHash: state.configHash,
            registryRoot: state.registryRoot,
            progress: progress,
            finalized: state.finalized,
            disputed: state.disputed,
            closing: state.closing,
            coordinator: state.coordinator,
            staleness: state.staleness
        });
    }

    /**
     * @notice Returns where a round stands.
     * @param federation Identifier of the federation.
     * @param round Number of the round, from 1.
     * @return The status; NONE for a round that was never opened.
     */
    function roundStatus(bytes32 federation, uint64 round) external view returns (RoundStatus) {
        (Federation storage state, Progress memory progress) = _read(federation);
        return _status(state, progress, round);
    }

    /**
     * @notice Checks a header for a contract that keeps a subject of its own. What a header commits to counts while the
     * head of its round is kept, if neither the round nor one that it was built on is void or in dispute. Kept are the
     * last `RING` heads, and that of the last round that was declared final.
     *
     * Requirements:
     *
     * - the round must be SEALED or FINAL, and no round before it may be in dispute.
     * - its head must still be kept, and `header` must hash to it.
     *
     * @param federation Identifier of the federation.
     * @param header What the head of the round was hashed from.
     * @return status SEALED or FINAL.
     * @return slots Number of slots of every tree of the federation.
     */
    function requireSealed(bytes32 federation, Header calldata header)
        external
        view
        returns (RoundStatus status, uint32 slots)
    {
        (Federation storage state, Progress memory progress) = _load(federation);
        status = _status(state, progress, header.round);
        if (status != RoundStatus.SEALED && status != RoundStatus.FINAL) {
            revert RoundNotSealed(federation, header.round, status);
        }
        // A dispute on an earlier round may take this one along.
        if (header.round > state.disputed) _requireUndisputed(federation, state, progress);
        bytes32 given = _headOf(federation, header);
        if (header.round != state.finalized || given != state.finalHead) {
            // The head of a round that left the ring has been overwritten by another, which no header of it hashes to.
            _requireHead(federation, state, header.round, given);
        }
        slots = progress.slots;
    }

    // --- Internals ---------------------------------------------------------------------------------------------------

    /// @dev The moving word is read once, changed in memory and written once.
    function _load(bytes32 federation) internal view returns (Federation storage state, Progress memory progress) {
        (state, progress) = _read(federation);
        if (progress.slots == 0) revert FederationUnknown(federation);
    }

    /// @dev As `_load`, but all values are zero if the federation was never opened.
    function _read(bytes32 federation) internal view returns (Federation storage state, Progress memory progress) {
        state = _federations[federation];
        progress = state.progress;
    }

    function _headAt(Federation storage state, uint64 round) internal view returns (bytes32) {
        return state.heads[round % RING];
    }

    function _isOpen(Progress memory progress) internal view returns (bool) {
        return progress.phase == Phase.OPEN && (progress.deadline == 0 || block.timestamp <= progress.deadline);
    }

    function _status(Federation storage state, Progress memory progress, uint64 round)
        internal
        view
        returns (RoundStatus)
    {
        uint64 last = progress.round;
        if (round == 0 || round > last) {
            if (round != last + 1) return RoundStatus.NONE;
            if (progress.phase == Phase.ABORTED) return RoundStatus.VOID;
            if (progress.phase != Phase.OPEN) return RoundStatus.NONE;
            return _isOpen(progress) ? RoundStatus.OPEN : RoundStatus.VOID;
        }
        if (state.voided.get(round)) return RoundStatus.VOID;
        if (progress.phase == Phase.DISPUTED && round == state.disputed) return RoundStatus.DISPUTED;
        return round <= state.finalized ? RoundStatus.FINAL : RoundStatus.SEALED;
    }

    function _requireUndisputed(bytes32 federation, Federation storage state, Progress memory progress) internal view {
        if (progress.phase == Phase.DISPUTED) revert FederationDisputed(federation, state.disputed);
    }

    function _requireRunning(bytes32 federation, Federation storage state, Progress memory progress) internal view {
        _requireUndisputed(federation, state, progress);
        if (progress.phase == Phase.CLOSED) revert FederationOver(federation, state.closing);
    }

    function _requireNext(bytes32 federation, uint64 round, Progress memory progress) internal view {
        _requireRunning(federation, _federations[federation], progress);
        if (round != progress.round + 1) revert RoundOutOfOrder(federation, progress.round + 1, round);
    }

    function _requireOpenNext(bytes32 federation, uint64 round, Progress memory progress) internal view {
        _requireNext(federation, round, progress);
        if (!_isOpen(progress)) revert RoundNotOpen(federation, round);
    }

    function _requireParent(bytes32 federation, uint64 round, Federation storage state, bytes32 given) internal view {
        bytes32 expected = state.model;
        if (given != expected) revert ParentModelMismatch(federation, round, expected, given);
    }

    function _requireHead(bytes32 federation, Federation storage state, uint64 round, bytes32 given) internal view {
        bytes32 expected = _headAt(state, round);
        if (given != expected) revert HeadMismatch(federation, round, expected, given);
    }

    /**
     * @dev Requires that headers, one round after the other, lead to a head that is kept, and returns the head of the
     * first of them.
     */
    function _requireHeaders(
        bytes32 federation,
        Federation storage state,
        Progress memory progress,
        Header[] calldata headers
    ) internal view returns (bytes32 first) {
        first = _headOf(federation, headers[0]);
        bytes32 last = first;
        uint64 round = headers[0].round;
        for (uint256 i = 1; i < headers.length; ++i) {
            Header calldata header = headers[i];
            if (header.round != ++round) revert RoundOutOfOrder(federation, round, header.round);
            if (header.previousHead != last) revert HeadMismatch(federation, round - 1, last, header.previousHead);
            last = _headOf(federation, header);
        }
        if (round > progress.round || progress.round - round >= RING) revert HeadNotKept(federation, round);
        _requireHead(federation, state, round, last);
    }

    function _genesisHead(bytes32 federation, Federation storage state) internal view returns (bytes32) {
        return keccak256(
            abi.encode(
                block.chainid,
                address(this),
                federation,
                state.configHash,
                state.registryRoot,
                state.model,
                state.progress.slots,
                state.progress.quorum
            )
        );
    }

    function _headOf(bytes32 federation, Header calldata header) internal view returns (bytes32) {
        return keccak256(
            abi.encode(
                header.previousHead,
                block.chainid,
                address(this),
                federation,
                header.round,
                header.root,
                header.parentModel,
                header.model,
                header.count,
                header.annex
            )
        );
    }
}
// slither-disable-end timestamp
