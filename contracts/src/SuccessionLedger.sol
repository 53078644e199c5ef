// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRoundLedger} from "./IRoundLedger.sol";
import {ISuccessionLedger} from "./ISuccessionLedger.sol";
import {RoundLedger} from "./RoundLedger.sol";

/**
 * @title SuccessionLedger
 * @notice Who leads a federation when its coordinator is gone for good. The order of successors is fixed before round 1.
 * Whoever leads shows that it is there by sealing, or by `reportAlive`. If it is silent for as long as the patience of the
 * federation, the next in order may take over, after twice that the one after it, and so on: a successor that is gone
 * as well holds nobody up, and nobody jumps the queue. Each takeover begins a term; who led an earlier term, or was passed,
 * never leads again.
 *
 * The RoundLedger does what follows: it takes nothing from anybody but whoever leads.
 */
// Patience compares with the time of the block on purpose: it is minutes to days long, and no hash depends on it.
// slither-disable-start timestamp
contract SuccessionLedger is ISuccessionLedger {
    /// @notice Contract that knows federations and who leads them.
    // Capitals for immutables are the convention of Solidity's style guide; slither knows the older one.
    // slither-disable-next-line naming-convention
    RoundLedger public immutable ROUNDS;

    /// @notice Most successors of a federation.
    uint256 public constant MOST = 16;

    /// @notice Longest patience, in seconds (12 days).
    uint32 public constant LONGEST = 2 ** 20 - 1;

    mapping(bytes32 federation => Line) private _lines;

    /**
     * @notice Fixes the contract that knows federations.
     * @param rounds The RoundLedger.
     */
    constructor(RoundLedger rounds) {
        ROUNDS = rounds;
    }

    /// @dev Who leads is known to the RoundLedger, and so is the error.
    modifier onlyLeader(bytes32 federation) {
        ROUNDS.requireLeader(federation, msg.sender);
        _;
    }

    /**
     * @notice Fixes the order of successors, once.
     *
     * Requirements:
     *
     * - no round must be sealed, and the federation have no order yet. Without `entrust` the order leads to nothing.
     * - the caller must lead it.
     * - there must be 1 to `MOST` successors, none of them zero or the one before it, and a patience of 1 to `LONGEST`.
     *
     * Emits a {SuccessorsAppointed} event.
     *
     * @param federation Identifier of the federation.
     * @param successors Accounts that may take over, in their order.
     * @param patience Seconds without a sign of whoever leads, for each place.
     */
    function appoint(bytes32 federation, address[] calldata successors, uint32 patience)
        external
        onlyLeader(federation)
    {
        Line storage line = _lines[federation];
        IRoundLedger.FederationState memory state = ROUNDS.federationState(federation);
        if (line.patience != 0 || state.progress.round != 0) revert SuccessionFixed(federation);
        uint256 count = successors.length;
        if (count == 0 || count > MOST) revert SuccessorsOutOfRange(federation, count, MOST);
        if (patience == 0 || patience > LONGEST) revert PatienceOutOfRange(federation, patience, LONGEST);
        address before = msg.sender;
        for (uint256 place = 0; place < count; ++place) {
            address successor = successors[place];
            if (successor == address(0) || successor == before) revert SuccessorInvalid(federation, place, successor);
            before = successor;
        }

        line.successors = successors;
        line.patience = patience;
        line.heard = uint64(block.timestamp);
        emit SuccessorsAppointed(federation, successors, patience);
    }

    /**
     * @notice Shows that whoever leads is there, without a seal: in a long round, after a dispute or a pause.
     *
     * Requirements: the caller must lead the federation, and its order be fixed.
     *
     * Emits a {LeaderReported} event.
     *
     * @param federation Identifier of the federation.
     */
    function reportAlive(bytes32 federation) external onlyLeader(federation) {
        Line storage line = _lines[federation];
        if (line.patience == 0) revert SuccessionFixed(federation);
        line.heard = uint64(block.timestamp);
        emit LeaderReported(federation, line.term, msg.sender);
    }

    /**
     * @notice Takes a federation over.
     *
     * Requirements:
     *
     * - the caller must stand in this place of the order, and no one at or behind it have led.
     * - whoever leads must have been silent for the patience, once for each place between it and this one.
     * - the federation must be entrusted to this contract and not be closed, and no dispute be open.
     * - the caller must be neither admin nor auditor nor reviewer.
     *
     * Emits a {CoordinatorTookOver} event.
     *
     * @param federation Identifier of the federation.
     * @param place Of the caller in the order, from 0.
     */
    function takeOver(bytes32 federation, uint32 place) external {
        Line storage line = _lines[federation];
        if (place >= line.successors.length || line.successors[place] != msg.sender) {
            revert NotSuccessor(federation, place, msg.sender);
        }
        if (place < line.term) revert SuccessorPassed(federation, place, line.term);
        IRoundLedger.FederationState memory state = ROUNDS.federationState(federation);
        uint256 until = _until(line, state.progress, place);
        if (block.timestamp < until) revert TakeoverTooEarly(federation, place, until);

        line.term = place + 1;
        line.heard = uint64(block.timestamp);
        emit CoordinatorTookOver(federation, place + 1, msg.sender, state.coordinator, state.progress.round);
        ROUNDS.handOver(federation, msg.sender);
    }

    // --- Views -------------------------------------------------------------------------------------------------------

    /**
     * @notice Returns the order of a federation; without successors if it has none.
     * @param federation Identifier of the federation.
     * @return The order.
     */
    function succession(bytes32 federation) external view returns (Line memory) {
        return _lines[federation];
    }

    /**
     * @notice Returns from when on a successor may take over if whoever leads stays silent.
     * @param federation Identifier of the federation.
     * @param place Of the successor in the order, from 0; at or behind the present term.
     * @return Seconds since 1970.
     */
    function takeoverFrom(bytes32 federation, uint32 place) external view returns (uint256) {
        Line storage line = _lines[federation];
        if (place >= line.successors.length) revert NotSuccessor(federation, place, address(0));
        if (place < line.term) revert SuccessorPassed(federation, place, line.term);
        return _until(line, ROUNDS.federationState(federation).progress, place);
    }

    function _until(Line storage line, IRoundLedger.Progress memory progress, uint32 place)
        private
        view
        returns (uint256)
    {
        uint256 heard = line.heard > progress.sealedAt ? line.heard : progress.sealedAt;
        return heard + uint256(line.patience) * (place - line.term + 1);
    }
}
// slither-disable-end timestamp
