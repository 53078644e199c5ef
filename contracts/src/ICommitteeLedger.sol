// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/**
 * @title ICommitteeLedger
 * @notice Records, events and errors of the CommitteeLedger. Those of the RoundLedger that it asks come through unchanged.
 */
interface ICommitteeLedger {
    /// @notice What the judges of a round said of its updates.
    struct Sitting {
        /// Number of the round.
        uint64 round;
        /// Per cent of the best score that an update needs.
        uint8 percent;
        /// Shares that each judge gives each update: one for each class.
        uint8 classes;
        /// Per cent that a hospital's own claim weighs in who leads; 0: nobody leads, and nobody scores its own update.
        uint8 own;
        /// How far from the others' median a claim counts, in parts of 10,000.
        uint16 cap;
        /// Slots of the judges that revealed their scores, ascending.
        uint32[] judges;
        /// Slots of the judges that owed scores and gave none, ascending.
        uint32[] absent;
        /// Slots with an update, ascending.
        uint32[] trainers;
        /// Shares in parts of 10,000 by judge, trainer and class, 16 in a word, the first in the lowest bits;
        /// `NO_SHARE` for a class that the judge has no beats of, and, where nobody leads, for its own update.
        bytes32[] shares;
    }

    /**
     * @notice The updates of a round were judged.
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @param sitting Digest of what the judges said.
     * @param trainers Slots with an update, ascending.
     * @param scores Score of each, in parts of 10,000.
     * @param qualified One bit for each, the first in the lowest: whether it qualified.
     * @param absent Slots of the judges that owed scores and gave none.
     */
    event RoundJudged(
        bytes32 indexed federation,
        uint64 indexed round,
        bytes32 sitting,
        uint32[] trainers,
        uint16[] scores,
        uint256 qualified,
        uint32[] absent
    );

    /**
     * @notice A hospital leads a round: of those whose updates qualified, the one whose update was found best.
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @param slot Slot of the hospital.
     * @param merit What its update was found to be, in parts of 1,000,000.
     */
    event LeaderElected(bytes32 indexed federation, uint64 indexed round, uint32 indexed slot, uint256 merit);

    /// @notice The sitting is of another round than the header.
    error SittingOfOtherRound(bytes32 federation, uint64 expected, uint64 given);

    /// @notice The round or a later one was judged before.
    error RoundAlreadyJudged(bytes32 federation, uint64 last, uint64 round);

    /// @notice Slots must ascend, each once, and exist.
    error SlotsInvalid(uint32 before, uint32 slot, uint32 slots);

    /// @notice There are more updates than a verdict has bits.
    error TooManyTrainers(uint256 trainers, uint256 most);

    /// @notice Each judge must give each update a share of each class, packed without a word more.
    error SharesMissing(uint256 expected, uint256 given);

    /// @notice A share must be one of 10,000 parts, or none.
    error ShareOutOfRange(uint32 judge, uint32 trainer, uint256 share);

    /// @notice A judge may not score its own update where nobody leads.
    error OwnUpdateScored(uint32 judge);

    /// @notice A claim weighs at most 100 per cent, and is capped within 10,000 parts.
    error ClaimOutOfRange(uint8 own, uint16 cap);

    /// @notice A judge cannot have revealed its scores and be absent.
    error JudgeAbsent(uint32 judge);
}
