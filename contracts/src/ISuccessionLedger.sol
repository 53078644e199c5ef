// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/**
 * @title ISuccessionLedger
 * @notice Records, events and errors of the SuccessionLedger.
 */
interface ISuccessionLedger {
    /// @notice Who may lead a federation after whom.
    struct Line {
        /// Accounts that may take over, in their order.
        address[] successors;
        /// Seconds without a sign of whoever leads, for each place that a successor stands behind it.
        uint32 patience;
        /// How many places have been passed: 0 while the first coordinator leads, else one more than the leader's place.
        uint32 term;
        /// Time of the last sign that was given here: appointed, reported or taken over.
        uint64 heard;
    }

    /**
     * @notice The order of successors of a federation was fixed.
     * @param federation Identifier of the federation.
     * @param successors Accounts that may take over, in their order.
     * @param patience Seconds without a sign of whoever leads, for each place.
     */
    event SuccessorsAppointed(bytes32 indexed federation, address[] successors, uint32 patience);

    /**
     * @notice Whoever leads a federation is there, which starts the patience anew.
     * @param federation Identifier of the federation.
     * @param term Its term.
     * @param leader The account.
     */
    event LeaderReported(bytes32 indexed federation, uint32 indexed term, address indexed leader);

    /**
     * @notice The next in order leads a federation from now on.
     * @param federation Identifier of the federation.
     * @param term Number of its term, one more than its place in the order.
     * @param coordinator The account.
     * @param predecessor Account that led before it.
     * @param round Last sealed round; the one after it is the first of the new term.
     */
    event CoordinatorTookOver(
        bytes32 indexed federation, uint32 indexed term, address indexed coordinator, address predecessor, uint64 round
    );

    /// @notice The federation has its order already, or has begun without one.
    error SuccessionFixed(bytes32 federation);

    /// @notice An order has 1 to `MOST` successors.
    error SuccessorsOutOfRange(bytes32 federation, uint256 count, uint256 most);

    /// @notice The patience is zero or longer than a takeover may wait.
    error PatienceOutOfRange(bytes32 federation, uint32 patience, uint32 most);

    /// @notice A successor is the account before it, or none.
    error SuccessorInvalid(bytes32 federation, uint256 place, address account);

    /// @notice The account does not stand in this place of the order.
    error NotSuccessor(bytes32 federation, uint32 place, address account);

    /// @notice One that stands behind this place has led already.
    error SuccessorPassed(bytes32 federation, uint32 place, uint32 term);

    /// @notice Whoever leads, or stands before this place, has time until then.
    error TakeoverTooEarly(bytes32 federation, uint32 place, uint256 until);
}
