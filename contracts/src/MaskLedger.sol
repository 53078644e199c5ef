// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IMaskLedger} from "./IMaskLedger.sol";
import {IRoundLedger} from "./IRoundLedger.sol";
import {PositionalTree} from "./PositionalTree.sol";
import {RoundLedger} from "./RoundLedger.sol";

/**
 * @title MaskLedger
 * @notice Keeps time for challenges to masked updates. Nobody sees an update beneath its masks; an auditor may want one opened.
 * The hospital answers with the digest of the opening, which it gives the auditor, who decides. Who does not answer until the
 * deadline has committed fraud: a refusal must not pay. The contract counts how many updates of a round nobody has wanted
 * opened, and refuses a challenge that would leave fewer than two of them, which hide each other in the sum.
 *
 * What it does not do: compute the opening. The masks are streams of ChaCha20 under keys of X25519 as long as the update, for each
 * other hospital one, which costs more gas than a block has; an audit computes them from the journal. Nor does it know of the
 * sums of a round with several: it counts over the whole round.
 */
contract MaskLedger is IMaskLedger, EIP712 {
    bytes32 private constant OPENING_TYPEHASH =
        keccak256("MaskOpening(bytes32 federation,uint64 round,uint32 slot,bytes32 opening)");

    /// @notice Contract that knows federations, rounds, hospitals and roles.
    // Capitals for immutables are the convention of Solidity's style guide; slither knows the older one.
    // slither-disable-next-line naming-convention
    RoundLedger public immutable ROUNDS;

    /// @notice Seconds in which a hospital must answer.
    // slither-disable-next-line naming-convention
    uint32 public immutable ANSWER_TIME;

    /// @dev Updates that hide each other; the last one is the sum less all that are open.
    uint32 private constant HIDDEN = 2;

    mapping(bytes32 federation => mapping(uint64 round => mapping(uint32 slot => Challenge))) private _challenges;
    mapping(bytes32 federation => mapping(uint64 round => Openings)) private _openings;

    /// @dev Roles are those of the RoundLedger, and so is the error.
    modifier onlyAuditor() {
        bytes32 role = ROUNDS.AUDITOR_ROLE();
        if (!ROUNDS.hasRole(role, msg.sender)) {
            revert IAccessControl.AccessControlUnauthorizedAccount(msg.sender, role);
        }
        _;
    }

    /**
     * @notice Fixes the contract that knows federations, rounds and hospitals, and how long a hospital has to answer.
     * @param rounds The RoundLedger.
     * @param answerTime Seconds in which a hospital must answer.
     */
    constructor(RoundLedger rounds, uint32 answerTime) EIP712("PulseLedger", "2") {
        ROUNDS = rounds;
        ANSWER_TIME = answerTime;
    }

    /**
     * @notice Wants a masked update of a sealed round opened.
     *
     * Requirements:
     *
     * - the caller must have the AUDITOR_ROLE of the RoundLedger.
     * - `header` must pass `requireSealed` of the RoundLedger.
     * - `leaf` must be in `slot` of the round's tree, and not be the empty leaf.
     * - nobody may have challenged the update before.
     * - two updates of the round at least must remain that nobody has challenged.
     *
     * Emits an {UpdateChallenged} event.
     *
     * @param federation Identifier of the federation.
     * @param header What the head of the round was hashed from.
     * @param slot Slot of the hospital.
     * @param leaf Leaf of its update.
     * @param proof Siblings of the leaf.
     */
    function challengeUpdate(
        bytes32 federation,
        IRoundLedger.Header calldata header,
        uint32 slot,
        bytes32 leaf,
        bytes32[] calldata proof
    ) external onlyAuditor {
        // SEALED and FINAL are both good for a challenge.
        // slither-disable-next-line unused-return
        (, uint32 slots) = ROUNDS.requireSealed(federation, header);
        if (leaf == PositionalTree.EMPTY || !PositionalTree.verify(header.root, slot, leaf, slots, proof)) {
            revert UpdateNotInRound(federation, header.round, slot);
        }
        Challenge storage challenge = _challenges[federation][header.round][slot];
        if (challenge.status != Status.NONE) revert WrongStatus(federation, header.round, slot, challenge.status);
        Openings storage openings = _openings[federation][header.round];
        uint32 challenged = openings.challenged + 1;
        uint32 unchallenged = header.count < challenged ? 0 : header.count - challenged;
        if (unchallenged < HIDDEN) revert TooFewHidden(federation, header.round, unchallenged);
        (openings.updates, openings.challenged) = (header.count, challenged);
        challenge.status = Status.CHALLENGED;
        challenge.deadline = SafeCast.toUint64(block.timestamp + ANSWER_TIME);
        emit UpdateChallenged(federation, header.round, slot, challenge.deadline, unchallenged);
    }

    /**
     * @notice Answers a challenge with the digest of an opening. Anyone may relay it.
     *
     * Requirements:
     *
     * - the hospital must owe an opening, and the deadline must not have passed.
     * - `account` must hold the slot, and have signed the opening.
     *
     * Emits a {ChallengeAnswered} event.
     *
     * @param record The opening.
     * @param signature Signature of the record by `account`.
     * @param account Account that holds the slot.
     * @param organisation Commitment to its organisation.
     * @param proof Siblings of the slot in the registry; ignored where the admin or a rotation overrode the registry.
     */
    function answerChallenge(
        MaskOpening calldata record,
        bytes calldata signature,
        address account,
        bytes32 organisation,
        bytes32[] calldata proof
    ) external {
        Challenge storage challenge = _challenges[record.federation][record.round][record.slot];
        if (challenge.status != Status.CHALLENGED) {
            revert WrongStatus(record.federation, record.round, record.slot, challenge.status);
        }
        // A validator can shift a block by seconds, which is nothing to a deadline of hours.
        // slither-disable-next-line timestamp
        if (block.timestamp >= challenge.deadline) {
            revert AnswerTooLate(record.federation, record.round, record.slot, challenge.deadline);
        }
        if (record.opening == 0) revert OpeningIsZero();
        if (!ROUNDS.isHospital(record.federation, record.slot, account, organisation, proof)) {
            revert NotHolder(record.federation, record.slot, account);
        }
        bytes32 digest = _hashTypedDataV4(
            keccak256(abi.encode(OPENING_TYPEHASH, record.federation, record.round, record.slot, record.opening))
        );
        if (!SignatureChecker.isValidSignatureNowCalldata(account, digest, signature)) {
            revert OpeningNotSigned(account);
        }
        challenge.status = Status.ANSWERED;
        challenge.opening = record.opening;
        ++_openings[record.federation][record.round].answered;
        emit ChallengeAnswered(record.federation, record.round, record.slot, record.opening);
    }

    /**
     * @notice Decides on an opening.
     *
     * Requirements:
     *
     * - the caller must have the AUDITOR_ROLE of the RoundLedger.
     * - the hospital must have answered.
     *
     * Emits a {ChallengeDecided} event.
     *
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @param slot Slot of the hospital.
     * @param fraud Whether the opening contradicts what the hospital signed.
     * @param reasons Digest of the auditor's reasons.
     */
    function decideChallenge(bytes32 federation, uint64 round, uint32 slot, bool fraud, bytes32 reasons)
        external
        onlyAuditor
    {
        Challenge storage challenge = _challenges[federation][round][slot];
        if (challenge.status != Status.ANSWERED) revert WrongStatus(federation, round, slot, challenge.status);
        challenge.status = fraud ? Status.FRAUD : Status.INNOCENT;
        challenge.reasons = reasons;
        Openings storage openings = _openings[federation][round];
        emit ChallengeDecided(federation, round, slot, fraud, reasons, openings.updates - openings.answered);
    }

    /**
     * @notice Takes the silence of a hospital for fraud. Anyone may call it.
     *
     * Requirements:
     *
     * - the hospital must owe an opening, and the deadline must have passed.
     *
     * Emits an {OpeningRefused} event.
     *
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @param slot Slot of the hospital.
     */
    function expireChallenge(bytes32 federation, uint64 round, uint32 slot) external {
        Challenge storage challenge = _challenges[federation][round][slot];
        if (challenge.status != Status.CHALLENGED) revert WrongStatus(federation, round, slot, challenge.status);
        // slither-disable-next-line timestamp
        if (block.timestamp < challenge.deadline) revert AnswerStillDue(federation, round, slot, challenge.deadline);
        challenge.status = Status.FRAUD;
        emit OpeningRefused(federation, round, slot);
    }

    /**
     * @notice Returns how a challenge stands; all values are zero if there is none.
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @param slot Slot of the hospital.
     * @return The challenge.
     */
    function challengeState(bytes32 federation, uint64 round, uint32 slot) external view returns (Challenge memory) {
        return _challenges[federation][round][slot];
    }

    /**
     * @notice Returns how much of a round was challenged and opened; all values are zero before its first challenge.
     * @param federation Identifier of the federation.
     * @param round Number of the round.
     * @return The numbers.
     */
    function openingsOf(bytes32 federation, uint64 round) external view returns (Openings memory) {
        return _openings[federation][round];
    }
}
