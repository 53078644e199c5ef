// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ICommitteeLedger} from "./ICommitteeLedger.sol";

/**
 * @title CommitteeVerdicts
 * @notice What follows from the shares of judges: of each class the lower median of the shares that an update was given, its
 * score the mean of those over the classes of which anybody gave it one, rounded down. An update qualifies that has a score, has
 * at least `percent` of the best one, and whose hospital owes no scores.
 */
library CommitteeVerdicts {
    /// @notice A whole share.
    uint256 internal constant PARTS = 10_000;

    /// @notice In the place of a share where there is none.
    uint256 internal constant NO_SHARE = type(uint16).max;

    /// @notice Updates of a round, at most: one bit each.
    uint256 internal constant MOST = 256;

    /**
     * @notice Computes the digest of a sitting, as the annex of its round names it.
     * @param sitting What the judges said.
     * @return Keccak-256 of round, percent, classes, own, cap, the numbers of judges, absent and trainers, then their slots and the
     * shares, one word each.
     */
    function digest(ICommitteeLedger.Sitting memory sitting) internal pure returns (bytes32) {
        return keccak256(
            bytes.concat(
                abi.encode(
                    sitting.round,
                    sitting.percent,
                    sitting.classes,
                    sitting.own,
                    sitting.cap,
                    sitting.judges.length,
                    sitting.absent.length,
                    sitting.trainers.length
                ),
                abi.encodePacked(sitting.judges, sitting.absent, sitting.trainers, sitting.shares)
            )
        );
    }

    /**
     * @notice Judges the updates of a round.
     *
     * Requirements:
     *
     * - there must be a share of each judge for each trainer and class, packed without a word more, each in range.
     * - no judge may score its own update where nobody leads, or be absent at the same time.
     *
     * @param sitting What the judges said, slots ascending.
     * @return scores Score of each trainer, in parts of 10,000.
     * @return qualified One bit for each trainer, the first in the lowest.
     */
    function verdicts(ICommitteeLedger.Sitting memory sitting)
        internal
        pure
        returns (uint16[] memory scores, uint256 qualified)
    {
        uint256 many = sitting.trainers.length;
        if (many > MOST) revert ICommitteeLedger.TooManyTrainers(many, MOST);
        if (sitting.own > 100 || sitting.cap > PARTS) {
            revert ICommitteeLedger.ClaimOutOfRange(sitting.own, sitting.cap);
        }
        uint256 words = (sitting.judges.length * many * sitting.classes + 15) / 16;
        if (sitting.shares.length != words) revert ICommitteeLedger.SharesMissing(words, sitting.shares.length);
        for (uint256 i = 0; i < sitting.judges.length; ++i) {
            if (_holds(sitting.absent, sitting.judges[i])) revert ICommitteeLedger.JudgeAbsent(sitting.judges[i]);
        }
        scores = new uint16[](many);
        uint256[] memory given = new uint256[](sitting.judges.length);
        uint256 best = 0;
        for (uint256 trainer = 0; trainer < many; ++trainer) {
            uint256 score = _score(sitting, trainer, given);
            // At most PARTS.
            // forge-lint: disable-next-line(unsafe-typecast)
            scores[trainer] = uint16(score);
            if (score > best) best = score;
        }
        for (uint256 trainer = 0; trainer < many; ++trainer) {
            uint256 score = scores[trainer];
            if (score == 0 || 100 * score < uint256(sitting.percent) * best) continue;
            if (!_holds(sitting.absent, sitting.trainers[trainer])) qualified |= 2 ** trainer;
        }
    }

    /**
     * @notice Finds who leads a round.
     * @param sitting What the judges said; has passed {verdicts}.
     * @param qualified One bit for each trainer, the first in the lowest: whether it qualified.
     * @return found Whether anybody leads: somebody whose update qualified has claimed something of it and was scored by others.
     * @return slot Its slot; of equals the lowest.
     * @return merit `own` times its capped claim and 100 - `own` times the others' mean, in parts of 1,000,000.
     */
    function leader(ICommitteeLedger.Sitting memory sitting, uint256 qualified)
        internal
        pure
        returns (bool found, uint32 slot, uint256 merit)
    {
        if (sitting.own == 0) return (false, 0, 0);
        for (uint256 trainer = 0; trainer < sitting.trainers.length; ++trainer) {
            if ((qualified >> trainer) & 1 == 0) continue;
            (bool claims, uint256 own, uint256 mean) = _qualities(sitting, trainer);
            if (!claims) continue;
            uint256 value = sitting.own * own + (100 - sitting.own) * mean;
            if (found && value <= merit) continue;
            (found, slot, merit) = (true, sitting.trainers[trainer], value);
        }
    }

    /// @dev What an update's hospital claims of it, capped, and the mean of what the others found.
    function _qualities(ICommitteeLedger.Sitting memory sitting, uint256 trainer)
        private
        pure
        returns (bool claims, uint256 own, uint256 mean)
    {
        uint256[] memory given = new uint256[](sitting.judges.length);
        uint256 count = 0;
        for (uint256 judge = 0; judge < sitting.judges.length; ++judge) {
            (bool has, uint256 quality) = _quality(sitting, judge, trainer);
            if (!has) continue;
            if (sitting.judges[judge] == sitting.trainers[trainer]) {
                (claims, own) = (true, quality);
                continue;
            }
            mean += quality;
            _insert(given, count++, quality);
        }
        if (count == 0) return (false, 0, 0);
        mean /= count;
        uint256 middle = given[(count - 1) / 2];
        if (own > middle + sitting.cap) own = middle + sitting.cap;
        if (own + sitting.cap < middle) own = middle - sitting.cap;
    }

    /// @dev The mean of the shares that a judge gave an update, over the classes that it has.
    function _quality(ICommitteeLedger.Sitting memory sitting, uint256 judge, uint256 trainer)
        private
        pure
        returns (bool has, uint256 mean)
    {
        uint256 first = (judge * sitting.trainers.length + trainer) * sitting.classes;
        uint256 count = 0;
        for (uint256 lane = first; lane < first + sitting.classes; ++lane) {
            uint256 share = (uint256(sitting.shares[lane >> 4]) >> ((lane & 15) << 4)) & NO_SHARE;
            if (share == NO_SHARE) continue;
            mean += share;
            ++count;
        }
        return count == 0 ? (false, 0) : (true, mean / count);
    }

    /// @dev Puts a value among the first `count`, which ascend.
    function _insert(uint256[] memory given, uint256 count, uint256 value) private pure {
        uint256 place = count;
        for (; place > 0 && given[place - 1] > value; --place) {
            given[place] = given[place - 1];
        }
        given[place] = value;
    }

    /// @dev The mean over the classes; `given` is room for the shares of one of them.
    function _score(ICommitteeLedger.Sitting memory sitting, uint256 trainer, uint256[] memory given)
        private
        pure
        returns (uint256)
    {
        uint256 sum = 0;
        uint256 classes = 0;
        for (uint256 class = 0; class < sitting.classes; ++class) {
            uint256 count = _gather(sitting, trainer, class, given);
            if (count == 0) continue;
            // The lower of the two in the middle: one that somebody gave.
            sum += given[(count - 1) / 2];
            ++classes;
        }
        return classes == 0 ? 0 : sum / classes;
    }

    /**
     * @dev Puts the shares of a class that an update was given into `given`, ascending, and returns their number. Sizes were
     * checked before: no index leaves its array, and no sum comes near 2^256.
     */
    function _gather(ICommitteeLedger.Sitting memory sitting, uint256 trainer, uint256 class, uint256[] memory given)
        private
        pure
        returns (uint256 count)
    {
        bytes32[] memory shares = sitting.shares;
        uint32[] memory judges = sitting.judges;
        uint256 slot = sitting.trainers[trainer];
        unchecked {
            uint256 stride = sitting.trainers.length * sitting.classes;
            uint256 lane = trainer * sitting.classes + class;
            for (uint256 judge = 0; judge < judges.length; ++judge) {
                uint256 share = (uint256(shares[lane >> 4]) >> ((lane & 15) << 4)) & NO_SHARE;
                lane += stride;
                if (share == NO_SHARE) continue;
                uint256 by = judges[judge];
                // Slots were a uint32 before.
                // forge-lint: disable-next-line(unsafe-typecast)
                if (share > PARTS) revert ICommitteeLedger.ShareOutOfRange(uint32(by), uint32(slot), share);
                if (by == slot) {
                    // forge-lint: disable-next-line(unsafe-typecast)
                    if (sitting.own == 0) revert ICommitteeLedger.OwnUpdateScored(uint32(by));
                    continue; // a claim
                }
                uint256 place = count++;
                for (; place > 0; --place) {
                    uint256 lower = given[place - 1];
                    if (lower <= share) break;
                    given[place] = lower;
                }
                given[place] = share;
            }
        }
    }

    function _holds(uint32[] memory slots, uint32 slot) private pure returns (bool) {
        for (uint256 i = 0; i < slots.length; ++i) {
            if (slots[i] == slot) return true;
        }
        return false;
    }
}
