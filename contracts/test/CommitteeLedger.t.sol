// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Annex} from "../src/Annex.sol";
import {CommitteeLedger} from "../src/CommitteeLedger.sol";
import {ICommitteeLedger} from "../src/ICommitteeLedger.sol";
import {IRoundLedger} from "../src/IRoundLedger.sol";
import {CommitteeBase} from "./CommitteeBase.sol";

contract CommitteeLedgerTest is CommitteeBase {
    function setUp() public {
        deploy();
        deployCommittee();
        openFederation();
        openRound();
    }

    // --- Verdicts ----------------------------------------------------------------------------------------------------

    /// @dev The table of tests/engine/committee/test_verdicts.py, by hand.
    function testVerdictsByHand() public view {
        ICommitteeLedger.Sitting memory sitting = byHand();
        (uint16[] memory scores, uint256 qualified) = committees.verdicts(sitting);
        check(scores[0] == 6500, "(8000 + 5000) / 2");
        check(scores[1] == 3250, "(5000 + 1500) / 2");
        check(scores[2] == 2000, "of the one class that anybody gave it");
        check(qualified == 3, "3250 is half of 6500");
        sitting.percent = 51;
        (, qualified) = committees.verdicts(sitting);
        check(qualified == 1, "and not 51 per cent");
        sitting.absent = slotsOf(0);
        (, qualified) = committees.verdicts(sitting);
        check(qualified == 0, "who owes scores has no good update");
    }

    function testNoScoreQualifiesNobody() public view {
        ICommitteeLedger.Sitting memory sitting = sittingOf(slotsOf(2), slotsOf(0, 1), 1);
        sitting.percent = 0;
        (uint16[] memory scores, uint256 qualified) = committees.verdicts(sitting);
        check(scores[0] == 0 && scores[1] == 0 && qualified == 0, "best is zero");
        sitting = sittingOf(new uint32[](0), slotsOf(0, 1), 0);
        (scores, qualified) = committees.verdicts(sitting);
        check(scores.length == 2 && qualified == 0, "nobody has judged");
    }

    /// @dev Fewer than half of the judges cannot move a score out of what the others gave.
    function testFuzzLiarsStayWithinTheHonest(uint16[5] memory honest, uint16[4] memory lies, uint8 liars) public view {
        liars %= 5;
        uint32[] memory judges = new uint32[](5 + liars);
        uint16[] memory shares = new uint16[](5 + liars);
        uint16 least = type(uint16).max;
        uint16 most = 0;
        for (uint32 i = 0; i < shares.length; ++i) {
            judges[i] = i + 1;
            shares[i] = (i < 5 ? honest[i] : lies[i - 5]) % 10_001;
            if (i < 5 && shares[i] < least) least = shares[i];
            if (i < 5 && shares[i] > most) most = shares[i];
        }
        ICommitteeLedger.Sitting memory sitting = sittingOf(judges, slotsOf(0), 1);
        sitting.shares = packed(shares);
        (uint16[] memory scores,) = committees.verdicts(sitting);
        check(least <= scores[0] && scores[0] <= most, "within");
    }

    // --- Who leads ---------------------------------------------------------------------------------------------------

    /// @dev Three that judge each other and themselves: the table of tests/engine/committee/test_quality.py, by hand.
    function led(uint8 own, uint16 cap) internal pure returns (ICommitteeLedger.Sitting memory sitting) {
        uint32[] memory slots = new uint32[](3);
        (slots[1], slots[2]) = (1, 2);
        sitting = sittingOf(slots, slots, 2);
        uint16[18] memory shares = [
            uint16(10_000),
            10_000,
            8000,
            6000,
            9000,
            7000,
            8000,
            7000,
            9000,
            9000,
            9000,
            8000,
            7000,
            NO_SHARE,
            6000,
            NO_SHARE,
            8000,
            NO_SHARE
        ];
        uint16[] memory lanes = new uint16[](18);
        for (uint256 i = 0; i < 18; ++i) {
            lanes[i] = shares[i];
        }
        sitting.shares = packed(lanes);
        (sitting.own, sitting.cap) = (own, cap);
    }

    function testTheBestUpdateLeadsByHand() public view {
        (bool found, uint32 slot, uint256 merit) = committees.leader(led(50, 500));
        check(found && slot == 2 && merit == 50 * 8000 + 50 * 8250, "its own 8000, the others' 8000 and 8500");
        (found, slot, merit) = committees.leader(led(100, 10_000));
        check(found && slot == 0 && merit == 100 * 10_000, "by claims alone");
        (found, slot, merit) = committees.leader(led(100, 0));
        check(found && slot == 2 && merit == 100 * 8000, "by lower medians alone");
        (uint16[] memory scores,) = committees.verdicts(led(50, 500));
        check(scores[0] == 7000 && scores[1] == 6000 && scores[2] == 8000, "claims move no score");
    }

    function testALeaderIsElectedWithItsRound() public {
        ICommitteeLedger.Sitting memory sitting = led(50, 500);
        IRoundLedger.Header memory header = sealSitting(sitting);
        vm.expectEmit(address(committees));
        emit ICommitteeLedger.LeaderElected(FEDERATION, 1, 2, 812_500);
        committees.judgeRound(FEDERATION, header, sitting, none);
    }

    function testClaimsWithoutALeaderAreRefused() public {
        ICommitteeLedger.Sitting memory sitting = led(0, 0);
        refuse(ICommitteeLedger.OwnUpdateScored.selector, abi.encode(0));
        committees.verdicts(sitting);
        sitting = led(101, 0);
        refuse(ICommitteeLedger.ClaimOutOfRange.selector, abi.encode(101, 0));
        committees.verdicts(sitting);
        sitting = led(50, 10_001);
        refuse(ICommitteeLedger.ClaimOutOfRange.selector, abi.encode(50, 10_001));
        committees.verdicts(sitting);
    }

    function testNobodyLeadsWithoutAClaimOrWithoutOthers() public view {
        ICommitteeLedger.Sitting memory sitting = sittingOf(slotsOf(2), slotsOf(0, 1), 1);
        sitting.shares[0] = bytes32(uint256(10_000) << 16 | 9000);
        (sitting.own, sitting.cap) = (50, 500);
        (bool found,,) = committees.leader(sitting);
        check(!found, "no claim");
    }

    /// @dev Whatever a hospital says of its own update, it gains `own` per cent of the cap over the others' median.
    function testFuzzAClaimIsCapped(uint16 claim, uint16 other, uint8 own, uint16 cap) public view {
        (claim, other, cap, own) = (claim % 10_001, other % 10_000 + 1, cap % 10_001, own % 100 + 1);
        ICommitteeLedger.Sitting memory sitting = sittingOf(slotsOf(0, 1), slotsOf(0), 1);
        sitting.shares[0] = bytes32(uint256(other) << 16 | claim);
        (sitting.own, sitting.cap) = (own, cap);
        (bool found,, uint256 merit) = committees.leader(sitting);
        check(found && merit <= uint256(100) * other + uint256(own) * cap, "capped");
    }

    // --- A sealed round ----------------------------------------------------------------------------------------------

    function testRoundIsJudged() public {
        ICommitteeLedger.Sitting memory sitting = sittingOf(slotsOf(2), slotsOf(0, 1), 1);
        uint16[] memory scores = new uint16[](2);
        (scores[0], scores[1]) = (6000, 2999);
        sitting.shares = packed(scores);
        IRoundLedger.Header memory header = sealSitting(sitting);
        vm.expectEmit(address(committees));
        emit ICommitteeLedger.RoundJudged(
            FEDERATION, 1, committees.digest(sitting), sitting.trainers, scores, 1, sitting.absent
        );
        committees.judgeRound(FEDERATION, header, sitting, none);
        check(committees.judged(FEDERATION) == 1, "judged");
        refuse(ICommitteeLedger.RoundAlreadyJudged.selector, abi.encode(FEDERATION, 1, 1));
        committees.judgeRound(FEDERATION, header, sitting, none);
    }

    /// @dev Whatever is changed, the annex does not hold it.
    function testOtherScoresAreRefused() public {
        ICommitteeLedger.Sitting memory sitting = byHand();
        IRoundLedger.Header memory header = sealSitting(sitting);
        sitting.shares[0] ^= bytes32(uint256(1));
        refuseSitting(header, sitting);
        sitting = byHand();
        sitting.percent = 49;
        refuseSitting(header, sitting);
        sitting = byHand();
        sitting.absent = slotsOf(2);
        refuseSitting(header, sitting);
        sitting = byHand();
        sitting.round = 2;
        refuse(ICommitteeLedger.SittingOfOtherRound.selector, abi.encode(FEDERATION, 1, 2));
        committees.judgeRound(FEDERATION, header, sitting, none);
    }

    function refuseSitting(IRoundLedger.Header memory header, ICommitteeLedger.Sitting memory sitting) internal {
        bytes32 said = committees.digest(sitting);
        refuse(Annex.AnnexProofInvalid.selector, abi.encode(header.annex, keccak256("committee"), said));
        committees.judgeRound(FEDERATION, header, sitting, none);
    }

    // --- Defects of others -------------------------------------------------------------------------------------------

    /// @dev One member alone filled the quorum of a demonstration by sending its scores again.
    function testAJudgeCountsOnce() public {
        ICommitteeLedger.Sitting memory sitting = sittingOf(slotsOf(1, 1), slotsOf(0, 2), 1);
        IRoundLedger.Header memory header = sealSitting(sitting);
        refuse(ICommitteeLedger.SlotsInvalid.selector, abi.encode(1, 1, SLOTS));
        committees.judgeRound(FEDERATION, header, sitting, none);
    }

    function testSlotsExistAndAscend() public {
        ICommitteeLedger.Sitting memory sitting = sittingOf(slotsOf(SLOTS), slotsOf(0), 1);
        IRoundLedger.Header memory header = sealSitting(sitting);
        refuse(ICommitteeLedger.SlotsInvalid.selector, abi.encode(0, SLOTS, SLOTS));
        committees.judgeRound(FEDERATION, header, sitting, none);
        sitting = sittingOf(slotsOf(0), slotsOf(2, 1), 1);
        sitting.round = 2;
        header = sealSitting(sitting);
        refuse(ICommitteeLedger.SlotsInvalid.selector, abi.encode(2, 1, SLOTS));
        committees.judgeRound(FEDERATION, header, sitting, none);
    }

    /// @dev A committee that scores fewer than all updates was taken for one that scores all.
    function testEachUpdateIsScoredByEachJudge() public {
        ICommitteeLedger.Sitting memory sitting = byHand();
        sitting.shares = new bytes32[](0);
        refuse(ICommitteeLedger.SharesMissing.selector, abi.encode(2, 0));
        committees.verdicts(sitting);
    }

    function testNobodyScoresItsOwnUpdate() public {
        ICommitteeLedger.Sitting memory sitting = sittingOf(slotsOf(1), slotsOf(0, 1), 1);
        uint16[] memory shares = new uint16[](2);
        (shares[0], shares[1]) = (1, 10_000);
        sitting.shares = packed(shares);
        refuse(ICommitteeLedger.OwnUpdateScored.selector, abi.encode(1));
        committees.verdicts(sitting);
    }

    function testASharesPartsAreTenThousand() public {
        ICommitteeLedger.Sitting memory sitting = sittingOf(slotsOf(1), slotsOf(0), 1);
        uint16[] memory shares = new uint16[](1);
        shares[0] = 10_001;
        sitting.shares = packed(shares);
        refuse(ICommitteeLedger.ShareOutOfRange.selector, abi.encode(1, 0, 10_001));
        committees.verdicts(sitting);
    }

    function testNobodyIsAbsentAndThere() public {
        ICommitteeLedger.Sitting memory sitting = byHand();
        sitting.absent = slotsOf(0, 4);
        refuse(ICommitteeLedger.JudgeAbsent.selector, abi.encode(4));
        committees.verdicts(sitting);
    }

    function testAVerdictHasABitForEachUpdate() public {
        ICommitteeLedger.Sitting memory sitting = sittingOf(slotsOf(1), new uint32[](257), 1);
        refuse(ICommitteeLedger.TooManyTrainers.selector, abi.encode(257, 256));
        committees.verdicts(sitting);
    }

    /// @dev As engine/committee/seats.py draws them.
    function testLot() public view {
        bytes32 expected = sha256(abi.encodePacked("PulseLedger committee 1", GENESIS, uint64(3), uint32(7)));
        check(committees.lot(GENESIS, 3, 7) == expected, "lot");
    }
}
