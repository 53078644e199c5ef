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
     * @return Keccak-256 of round, percent, classes, the numbers of judges, absent and trainers, then their slots and the shares,
     * one word each.
     */
    function digest(ICommitteeLedger.Sitting memory sitting) internal pure returns (bytes32) {
        return keccak256(
            bytes.concat(
                abi.encode(
                    sitting.round,
                    sitting.percent,
                    sitting.classes,
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
     * - no judge may score its own update, or be absent at the same time.
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
                _requireShare(judges[judge], slot, share);
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

    function _requireShare(uint32 judge, uint256 slot, uint256 share) private pure {
        // The slot was a uint32 before.
        // forge-lint: disable-next-line(unsafe-typecast)
        if (share > PARTS) revert ICommitteeLedger.ShareOutOfRange(judge, uint32(slot), share);
        if (judge == slot) revert ICommitteeLedger.OwnUpdateScored(judge);
    }

    function _holds(uint32[] memory slots, uint32 slot) private pure returns (bool) {
        for (uint256 i = 0; i < slots.length; ++i) {
            if (slots[i] == slot) return true;
        }
        return false;
    }
}
