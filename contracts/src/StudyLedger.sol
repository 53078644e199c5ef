// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {
    AccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";

/**
 * @title StudyLedger
 * @notice Anchors studies before their first trial, and every trial when it begins and when it ends, so that a study
 * can show that no trial was dropped, swapped or added. The contract holds digests and numbers of trials only.
 *
 * The head hashes nothing that a block producer chooses; the events hold every field, so the state can be rebuilt from
 * them alone.
 */
contract StudyLedger is AccessControlDefaultAdminRules {
    /// @notice Where a trial stands.
    enum Stage {
        NONE,
        BEGUN,
        COMPLETE,
        PRUNED,
        FAILED
    }

    /// @notice State of a study.
    struct Study {
        /// Head over the registration and all records, zero if the study is unknown.
        bytes32 head;
        /// Number of the last record.
        uint64 sequence;
        /// Most trials that may begin.
        uint32 trials;
        /// Trials that have begun.
        uint32 begun;
        /// Trials that have ended.
        uint32 ended;
    }

    /// @notice Role that registers studies and records trials.
    bytes32 public constant REGISTRAR_ROLE = keccak256("REGISTRAR_ROLE");

    /// @notice Seconds between the two steps of a change of the admin.
    uint48 public constant ADMIN_DELAY = 1 days;

    mapping(bytes32 study => Study) private _studies;
    mapping(bytes32 study => mapping(uint32 trial => Stage)) private _stages;

    /**
     * @notice A study was registered.
     * @param study Identifier of the study.
     * @param design Digest of its space, conditions, repeats, objectives, budget and code version.
     * @param trials Most trials that may begin.
     * @param head Head before the first record.
     */
    event StudyRegistered(bytes32 indexed study, bytes32 design, uint32 trials, bytes32 head);

    /**
     * @notice A trial began or ended.
     * @param study Identifier of the study.
     * @param sequence Number of the record, from 1.
     * @param trial Number of the trial, from 0.
     * @param stage What happened.
     * @param digest Digest of the configuration (BEGUN), of the result (COMPLETE, PRUNED) or of the reason (FAILED).
     * @param head Head after this record.
     */
    event TrialRecorded(
        bytes32 indexed study, uint64 indexed sequence, uint32 indexed trial, Stage stage, bytes32 digest, bytes32 head
    );

    /// @notice The study is already registered.
    error StudyAlreadyRegistered(bytes32 study);

    /// @notice The study was never registered.
    error StudyUnknown(bytes32 study);

    /// @notice The digest of the design is zero.
    error DesignIsZero(bytes32 study);

    /// @notice The record is not the one after the last.
    error SequenceOutOfOrder(bytes32 study, uint64 expected, uint64 given);

    /// @notice The study has no such trial.
    error TrialOutOfRange(bytes32 study, uint32 trial, uint32 trials);

    /// @notice The trial cannot go from one stage to the other: it begins once, and then ends once.
    error StageOutOfOrder(bytes32 study, uint32 trial, Stage held, Stage given);

    /**
     * @notice Gives the two roles to their first holders.
     * @param admin Account that grants roles; it changes in two steps.
     * @param registrar Account that registers studies and records trials.
     */
    constructor(address admin, address registrar) AccessControlDefaultAdminRules(ADMIN_DELAY, admin) {
        _grantRole(REGISTRAR_ROLE, registrar);
    }

    /**
     * @notice Registers a study, once.
     *
     * Requirements:
     *
     * - the caller must have the registrar role.
     * - `study` must be new, and `design` must not be zero.
     *
     * Emits a {StudyRegistered} event.
     *
     * @param study Identifier of the study.
     * @param design Digest of its space, conditions, repeats, objectives, budget and code version.
     * @param trials Most trials that may begin.
     */
    function registerStudy(bytes32 study, bytes32 design, uint32 trials) external onlyRole(REGISTRAR_ROLE) {
        Study storage state = _studies[study];
        if (state.head != 0) revert StudyAlreadyRegistered(study);
        if (design == 0) revert DesignIsZero(study);

        bytes32 newHead = keccak256(abi.encode(block.chainid, address(this), study, design, trials));
        state.head = newHead;
        state.trials = trials;
        emit StudyRegistered(study, design, trials, newHead);
    }

    /**
     * @notice Records that a trial began or ended.
     *
     * Requirements:
     *
     * - the caller must have the registrar role.
     * - `sequence` must be the number of the last record plus one.
     * - `trial` must be below the number of trials of the study.
     * - BEGUN must be the first record of the trial, and each other stage its second.
     *
     * Emits a {TrialRecorded} event.
     *
     * @param study Identifier of the study.
     * @param sequence Number of the record, from 1.
     * @param trial Number of the trial, from 0.
     * @param stage What happened.
     * @param digest Digest of the configuration (BEGUN), of the result (COMPLETE, PRUNED) or of the reason (FAILED).
     */
    function recordTrial(bytes32 study, uint64 sequence, uint32 trial, Stage stage, bytes32 digest)
        external
        onlyRole(REGISTRAR_ROLE)
    {
        Study storage state = _studies[study];
        bytes32 oldHead = state.head;
        if (oldHead == 0) revert StudyUnknown(study);
        if (sequence != state.sequence + 1) revert SequenceOutOfOrder(study, state.sequence + 1, sequence);
        if (trial >= state.trials) revert TrialOutOfRange(study, trial, state.trials);
        _requireStage(study, trial, stage);

        bytes32 newHead = keccak256(abi.encode(oldHead, sequence, trial, stage, digest));
        state.head = newHead;
        state.sequence = sequence;
        if (stage == Stage.BEGUN) ++state.begun;
        else ++state.ended;
        _stages[study][trial] = stage;
        emit TrialRecorded(study, sequence, trial, stage, digest, newHead);
    }

    /**
     * @notice Returns the state of a study; all values are zero if it was never registered.
     * @param study Identifier of the study.
     * @return The state.
     */
    function studyState(bytes32 study) external view returns (Study memory) {
        return _studies[study];
    }

    /**
     * @notice Returns where a trial stands.
     * @param study Identifier of the study.
     * @param trial Number of the trial.
     * @return The stage; NONE if it never began.
     */
    function trialStage(bytes32 study, uint32 trial) external view returns (Stage) {
        return _stages[study][trial];
    }

    function _requireStage(bytes32 study, uint32 trial, Stage stage) private view {
        Stage held = _stages[study][trial];
        bool begins = held == Stage.NONE && stage == Stage.BEGUN;
        bool ends = held == Stage.BEGUN && stage > Stage.BEGUN;
        if (!begins && !ends) revert StageOutOfOrder(study, trial, held, stage);
    }
}
