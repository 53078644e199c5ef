// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {Annex} from "../src/Annex.sol";
import {IReputationLedger} from "../src/IReputationLedger.sol";
import {IRoundLedger} from "../src/IRoundLedger.sol";
import {Tree} from "./Base.sol";
import {Paired} from "./Paired.sol";
import {ReputationBase} from "./ReputationBase.sol";

contract ReputationLedgerTest is ReputationBase {
    IRoundLedger.Header internal header;
    Subjects internal subjects;
    bytes32[] internal none;

    function setUp() public {
        deploy();
        deployReputation();
        openFederation();
        openRound();
    }

    // --- Reputation --------------------------------------------------------------------------------------------------

    /// @dev Seals a round with these verdicts on slots 0 to 2, between two other subjects of the annex.
    function sealVerdicts(uint16 participated, uint16 accepted, uint16 threshold) internal {
        bytes32 root = scoresLeaf(progress().round + 1, 0, participated, accepted, threshold);
        subjects = Subjects(keccak256("decisions"), keccak256("rewards"), root);
        header = sealWith(subjects);
    }

    function update(uint16 participated, uint16 accepted, uint16 threshold) internal {
        bytes32[] memory proof = scoresProof(subjects);
        vm.prank(coordinator);
        reputations.updateReputation(
            FEDERATION, header, subjects.scores, proof, 0, participated, accepted, threshold, none
        );
    }

    function refuseUpdate(uint16 participated, uint16 accepted, bytes4 selector, bytes memory arguments) internal {
        bytes32[] memory proof = scoresProof(subjects);
        vm.prank(coordinator);
        refuse(selector, arguments);
        reputations.updateReputation(FEDERATION, header, subjects.scores, proof, 0, participated, accepted, 10, none);
    }

    function judge(uint16 participated, uint16 accepted, uint16 threshold) internal {
        sealVerdicts(participated, accepted, threshold);
        update(participated, accepted, threshold);
    }

    function held(uint16 a, uint16 b, uint16 c) internal view returns (bool) {
        return reputation(0) == a && reputation(1) == b && reputation(2) == c;
    }

    function testReputationByHand() public {
        check(held(10, 10, 10), "base");
        judge(7, 5, 10);
        check(held(11, 0, 11), "accepted at h: up; rejected at h: 0");
        judge(7, 2, 5);
        check(held(10, 1, 10), "rejected above h: down; accepted below h: up");
        judge(6, 0, 9);
        check(held(10, 2, 9), "who did not take part stays; rejected below h: up");
        judge(4, 0, 9);
        check(held(10, 2, 0), "rejected at h after a fall: 0");
    }

    function testReputationSaturates() public {
        for (uint256 i = 0; i < 95; ++i) {
            judge(1, 1, 0);
        }
        check(reputation(0) == 100, "largest");
    }

    /// @dev The rule, case by case as printed, must name exactly one case for any input and agree with the contract.
    function testFuzzReputation(uint16 threshold, uint16 verdicts, uint8 rounds) public {
        threshold %= 101;
        uint256[3] memory model = [uint256(10), 10, 10];
        for (uint256 i = 0; i <= rounds % 12; ++i) {
            uint16 participated = uint16((verdicts >> i) & 7);
            uint16 accepted = uint16((verdicts >> (i / 2)) & participated);
            judge(participated, accepted, threshold);
            for (uint256 slot = 0; slot < 3; ++slot) {
                if ((participated >> slot) & 1 == 0) continue;
                model[slot] = ruled(model[slot], threshold, (accepted >> slot) & 1 == 1);
            }
            check(held(uint16(model[0]), uint16(model[1]), uint16(model[2])), "rule");
        }
    }

    function ruled(uint256 g, uint256 h, bool high) internal pure returns (uint256 value) {
        uint256 cases = 0;
        if (high && g >= h) (value, cases) = (g + 1 > 100 ? 100 : g + 1, cases + 1);
        if (!high && g >= h + 1) (value, cases) = (g - 1, cases + 1);
        if (!high && g == h) (value, cases) = (0, cases + 1);
        if (g < h) (value, cases) = (g + 1, cases + 1);
        check(cases == 1, "exhaustive and disjoint");
    }

    /// @dev Forty slots: words 0 to 2, each proven on its own under one root, the last with eight slots.
    function testWordsOfALargerFederation() public {
        bytes32 large = keccak256("large");
        vm.prank(coordinator);
        ledger.openFederation(large, CONFIG, CONFIG, GENESIS, 40, 1, WINDOW, STALENESS);
        vm.prank(coordinator);
        ledger.openRound(large, 1, GENESIS, 0);
        bytes32[] memory words = new bytes32[](3);
        words[0] = scoresLeaf(1, 0, 0xFFFF, 0x0F0F, 10);
        words[1] = scoresLeaf(1, 1, 0x8001, 0x8000, 10);
        words[2] = scoresLeaf(1, 2, 0x00FF, 0x00FF, 10);
        subjects = Subjects(0, 0, Paired.root(words));
        header = nextHeader(keccak256("root"));
        header.previousHead = ledger.head(large);
        header.annex = annexOf(subjects);
        vm.prank(coordinator);
        ledger.sealRound(large, header, 0, 0);
        uint16[3] memory participated = [uint16(0xFFFF), 0x8001, 0x00FF];
        uint16[3] memory accepted = [uint16(0x0F0F), 0x8000, 0x00FF];
        // In any order: each word has an order of its own.
        for (uint32 i = 0; i < 3; ++i) {
            uint32 index = 2 - i;
            bytes32[] memory proof = Paired.prove(words, index);
            vm.prank(coordinator);
            reputations.updateReputation(
                large, header, subjects.scores, none, index, participated[index], accepted[index], 10, proof
            );
        }
        for (uint32 slot = 0; slot < 40; ++slot) {
            bool judged = (participated[slot / 16] >> (slot % 16)) & 1 == 1;
            bool good = (accepted[slot / 16] >> (slot % 16)) & 1 == 1;
            check(reputations.reputation(large, slot) == (good ? 11 : judged ? 0 : 10), "each slot by its own bit");
        }
        vm.prank(coordinator);
        refuse(IReputationLedger.MaskInvalid.selector, abi.encode(large, 2, 0x0100, 0));
        reputations.updateReputation(large, header, subjects.scores, none, 2, 0x0100, 0, 10, none);
    }

    function testReputationChangedIsSaid() public {
        sealVerdicts(7, 5, 10);
        bytes32[] memory proof = scoresProof(subjects);
        // Slots 3 to 15 do not exist and stay at the base.
        uint256 values = 0x000a000a000a000a000a000a000a000a000a000a000a000a000a000b0000000b;
        vm.prank(coordinator);
        vm.expectEmit(address(reputations));
        emit IReputationLedger.ReputationChanged(FEDERATION, 1, 0, 7, 5, 10, values);
        reputations.updateReputation(FEDERATION, header, subjects.scores, proof, 0, 7, 5, 10, none);
    }

    function testReputationRefusals() public {
        judge(7, 7, 10);
        bytes32 leaf = scoresLeaf(1, 0, 7, 3, 10);
        refuseUpdate(7, 3, IReputationLedger.ProofInvalid.selector, abi.encode(subjects.scores, leaf));
        bytes32[] memory proof = scoresProof(subjects);
        uint16[3] memory wrong = [uint16(8), 1, 7];
        for (uint256 i = 0; i < 3; ++i) {
            // Slot 3 does not exist; slot 1 was accepted without taking part; word 1 does not exist.
            uint32 index = i == 2 ? 1 : 0;
            uint16 accepted = i == 1 ? 2 : 0;
            vm.prank(coordinator);
            refuse(IReputationLedger.MaskInvalid.selector, abi.encode(FEDERATION, index, wrong[i], accepted));
            reputations.updateReputation(
                FEDERATION, header, subjects.scores, proof, index, wrong[i], accepted, 10, none
            );
        }
        vm.prank(coordinator);
        refuse(IReputationLedger.ThresholdOutOfRange.selector, abi.encode(101, 100));
        reputations.updateReputation(FEDERATION, header, subjects.scores, proof, 0, 7, 7, 101, none);
    }

    /// @dev Whoever else holds a role or a slot is refused, and so is a coordinator that has lost the role.
    function testOnlyTheCoordinatorJudges() public {
        sealVerdicts(7, 7, 10);
        bytes32 role = ledger.COORDINATOR_ROLE();
        address[5] memory others = [ADMIN, AUDITOR, vm.addr(REVIEWER_KEY), hospitalOf(0), STRANGER];
        for (uint256 i = 0; i < 5; ++i) {
            refuseJudge(others[i], abi.encode(others[i], role));
        }
        vm.prank(ADMIN);
        ledger.revokeRole(role, coordinator);
        refuseJudge(coordinator, abi.encode(coordinator, role));
        grant(role, coordinator);
        update(7, 7, 10);
    }

    function refuseJudge(address caller, bytes memory arguments) internal {
        bytes32[] memory proof = scoresProof(subjects);
        vm.prank(caller);
        refuse(IAccessControl.AccessControlUnauthorizedAccount.selector, arguments);
        reputations.updateReputation(FEDERATION, header, subjects.scores, proof, 0, 7, 7, 10, none);
    }

    function testVerdictsAreTakenOnceAndInOrder() public {
        sealVerdicts(7, 7, 10);
        IRoundLedger.Header memory first = header;
        Subjects memory firstSubjects = subjects;
        judge(7, 7, 10);
        refuseUpdate(7, 7, IReputationLedger.ReputationOutOfOrder.selector, abi.encode(FEDERATION, 0, 2, 2));
        header = first;
        subjects = firstSubjects;
        refuseUpdate(7, 7, IReputationLedger.ReputationOutOfOrder.selector, abi.encode(FEDERATION, 0, 2, 1));
        check(held(11, 11, 11), "once");
    }

    /// @dev Verdicts are what the annex names "scores": not what it names otherwise, and not what it does not name.
    function testOnlyTheScoresOfTheAnnexJudge() public {
        bytes32 root = scoresLeaf(1, 0, 7, 7, 10);
        subjects = Subjects(root, root, keccak256("other verdicts"));
        header = sealWith(subjects);
        bytes32 name = keccak256("scores");
        bytes32[][3] memory proofs =
            [scoresProof(subjects), rewardsProof(subjects), Paired.prove(annexLeaves(subjects), 0)];
        for (uint256 i = 0; i < 3; ++i) {
            vm.prank(coordinator);
            refuse(Annex.AnnexProofInvalid.selector, abi.encode(header.annex, name, root));
            reputations.updateReputation(FEDERATION, header, root, proofs[i], 0, 7, 7, 10, none);
        }
        // An annex without any name is no root of verdicts either.
        header = sealWith(Subjects(0, 0, 0));
        check(header.annex == 0, "nothing is named");
        vm.prank(coordinator);
        refuse(Annex.AnnexProofInvalid.selector, abi.encode(0, name, 0));
        reputations.updateReputation(FEDERATION, header, 0, none, 0, 7, 7, 10, none);
    }

    /// @dev The verdicts of one round do not count for another, although both rounds have the same root of verdicts.
    function testVerdictsOfAnotherRoundDoNotCount() public {
        sealVerdicts(7, 7, 10);
        header = sealWith(subjects);
        bytes32 leaf = scoresLeaf(2, 0, 7, 7, 10);
        refuseUpdate(7, 7, IReputationLedger.ProofInvalid.selector, abi.encode(subjects.scores, leaf));
    }

    function testAForgedHeaderJudgesNobody() public {
        sealVerdicts(7, 7, 10);
        subjects.scores = scoresLeaf(1, 0, 7, 0, 10);
        header.annex = annexOf(subjects);
        bytes memory detail = abi.encode(FEDERATION, 1, ledger.head(FEDERATION), expectedHead(header));
        refuseUpdate(7, 0, IRoundLedger.HeadMismatch.selector, detail);
    }

    // --- Rewards -----------------------------------------------------------------------------------------------------

    /// @dev Seals a round after which slot 1 has earned this much.
    function sealReward(uint256 cumulative) internal {
        subjects = Subjects(keccak256("decisions"), rewardLeaf(1, cumulative), keccak256("scores"));
        header = sealWith(subjects);
    }

    function publish(uint256 cumulative) internal {
        sealReward(cumulative);
        finalize();
    }

    function claim(uint256 cumulative) internal {
        bytes32[] memory proof = rewardsProof(subjects);
        reputations.claimReward(
            FEDERATION, header, subjects.rewards, proof, claimOf(1, cumulative), registryProof(1), none
        );
    }

    function refuseClaim(uint256 cumulative, bytes4 selector, bytes memory arguments) internal {
        refuseClaim(claimOf(1, cumulative), selector, arguments);
    }

    function refuseClaim(IReputationLedger.Claim memory claim_, bytes4 selector, bytes memory arguments) internal {
        bytes32[] memory proof = rewardsProof(subjects);
        bytes32[] memory membership = registryProof(1);
        refuse(selector, arguments);
        reputations.claimReward(FEDERATION, header, subjects.rewards, proof, claim_, membership, none);
    }

    function points() internal view returns (uint256) {
        return reputations.claimed(FEDERATION, 1);
    }

    function testClaimsAreCumulative() public {
        publish(30);
        vm.prank(STRANGER);
        vm.expectEmit(address(reputations));
        emit IReputationLedger.RewardClaimed(FEDERATION, 1, hospitalOf(1), 1, 30, 30);
        claim(30);
        refuseClaim(30, IReputationLedger.NothingToClaim.selector, abi.encode(FEDERATION, 1, 30, 30));
        publish(50);
        vm.expectEmit(address(reputations));
        emit IReputationLedger.RewardClaimed(FEDERATION, 1, hospitalOf(1), 2, 20, 50);
        claim(50);
        check(points() == 50, "50 in all");
    }

    function testClaimRefusals() public {
        publish(30);
        bytes memory detail = abi.encode(rewardLeaf(1, 30), rewardLeaf(1, 31));
        refuseClaim(31, IReputationLedger.ProofInvalid.selector, detail);
        IReputationLedger.Claim memory claim_ = claimOf(1, 30);
        claim_.account = STRANGER;
        refuseClaim(claim_, IReputationLedger.NotHospital.selector, abi.encode(FEDERATION, 1, STRANGER));
        claim_ = claimOf(1, 30);
        claim_.organisation = CONFIG;
        refuseClaim(claim_, IReputationLedger.NotHospital.selector, abi.encode(FEDERATION, 1, hospitalOf(1)));
        // Another slot cannot take the points of slot 1.
        claim_ = claimOf(0, 30);
        refuseClaim(claim_, IReputationLedger.ProofInvalid.selector, abi.encode(rewardLeaf(1, 30), rewardLeaf(0, 30)));
        check(points() == 0, "nothing was claimed");
    }

    function testAClaimWaitsForFinality() public {
        sealReward(30);
        IRoundLedger.RoundStatus status_ = IRoundLedger.RoundStatus.SEALED;
        refuseClaim(30, IReputationLedger.RoundNotFinal.selector, abi.encode(FEDERATION, 1, status_));
        finalize();
        claim(30);
        check(points() == 30, "claimed");
    }

    /// @dev The header of an older final round is as good as the last one, and gives nothing twice.
    function testAnOldFinalHeaderGivesNothingTwice() public {
        publish(30);
        IRoundLedger.Header memory old = header;
        Subjects memory oldSubjects = subjects;
        publish(50);
        claim(50);
        header = old;
        subjects = oldSubjects;
        refuseClaim(30, IReputationLedger.NothingToClaim.selector, abi.encode(FEDERATION, 1, 50, 30));
        check(points() == 50, "50 in all");
    }

    function testAnOldFinalHeaderGivesThePartThatItIsGoodFor() public {
        publish(30);
        IRoundLedger.Header memory old = header;
        Subjects memory oldSubjects = subjects;
        publish(50);
        IRoundLedger.Header memory last = header;
        Subjects memory lastSubjects = subjects;
        header = old;
        subjects = oldSubjects;
        claim(30);
        header = last;
        subjects = lastSubjects;
        claim(50);
        check(points() == 50, "50 in all, in any order");
    }

    function testShrinkingRewardsTakeNothingBackAndGiveNothing() public {
        publish(50);
        claim(50);
        publish(40);
        refuseClaim(40, IReputationLedger.NothingToClaim.selector, abi.encode(FEDERATION, 1, 50, 40));
        publish(55);
        claim(55);
        check(points() == 55, "5 more than 50, not 15 more than 40");
    }

    /// @dev The last final round can be claimed from for ever; one before it, while its head is in the ring.
    function testTheLastFinalHeaderClaimsHoweverManyRoundsFollow() public {
        publish(30);
        IRoundLedger.Header memory first = header;
        Subjects memory firstSubjects = subjects;
        for (uint256 i = 0; i < 20; ++i) {
            seal();
        }
        claim(30);
        publish(50);
        (header, first) = (first, header);
        (subjects, firstSubjects) = (firstSubjects, subjects);
        bytes memory detail = abi.encode(FEDERATION, 1, ledger.headAt(FEDERATION, 21), expectedHead(header));
        refuseClaim(30, IRoundLedger.HeadMismatch.selector, detail);
        (header, subjects) = (first, firstSubjects);
        claim(50);
        check(points() == 50, "50 in all");
    }

    /// @dev The same registry, the same rewards: the header of one federation claims nothing in another.
    function testAHeaderClaimsInItsFederationOnly() public {
        publish(30);
        bytes32 other = keccak256("other");
        vm.prank(coordinator);
        ledger.openFederation(other, CONFIG, Tree.root(registry), GENESIS, SLOTS, 2, 0, STALENESS);
        bytes32[] memory proof = rewardsProof(subjects);
        bytes32[] memory membership = registryProof(1);
        IRoundLedger.RoundStatus never = IRoundLedger.RoundStatus.NONE;
        refuse(IRoundLedger.RoundNotSealed.selector, abi.encode(other, 1, never));
        reputations.claimReward(other, header, subjects.rewards, proof, claimOf(1, 30), membership, none);
        IRoundLedger.Header memory twin = header;
        twin.previousHead = ledger.head(other);
        twin.annex = 0;
        vm.prank(coordinator);
        ledger.openRound(other, 1, GENESIS, 0);
        vm.prank(coordinator);
        ledger.sealRound(other, twin, 0, 0);
        ledger.finalizeRound(other);
        bytes memory detail = abi.encode(other, 1, ledger.head(other), expectedHead(other, header));
        refuse(IRoundLedger.HeadMismatch.selector, detail);
        reputations.claimReward(other, header, subjects.rewards, proof, claimOf(1, 30), membership, none);
        refuse(Annex.AnnexProofInvalid.selector, abi.encode(0, keccak256("rewards"), subjects.rewards));
        reputations.claimReward(other, twin, subjects.rewards, proof, claimOf(1, 30), membership, none);
        claim(30);
        check(reputations.claimed(other, 1) == 0 && points() == 30, "each federation by itself");
    }

    /// @dev Rewards are what the annex names "rewards": the root under another name claims nothing.
    function testOnlyTheRewardsOfTheAnnexAreClaimed() public {
        bytes32 root = rewardLeaf(1, 30);
        subjects = Subjects(root, keccak256("other rewards"), root);
        header = sealWith(subjects);
        finalize();
        bytes32[][3] memory proofs =
            [rewardsProof(subjects), scoresProof(subjects), Paired.prove(annexLeaves(subjects), 0)];
        for (uint256 i = 0; i < 3; ++i) {
            bytes32[] memory membership = registryProof(1);
            refuse(Annex.AnnexProofInvalid.selector, abi.encode(header.annex, keccak256("rewards"), root));
            reputations.claimReward(FEDERATION, header, root, proofs[i], claimOf(1, 30), membership, none);
        }
    }

    /// @dev What the old key has claimed is not claimed again by the new one; the old one claims no more.
    function testARotatedKeyClaimsTheRestOnly() public {
        publish(30);
        claim(30);
        publish(50);
        vm.prank(ADMIN);
        ledger.setHospital(FEDERATION, 1, STRANGER, IRoundLedger.HospitalStatus.ACTIVE, organisation(1));
        refuseClaim(50, IReputationLedger.NotHospital.selector, abi.encode(FEDERATION, 1, hospitalOf(1)));
        bytes32[] memory proof = rewardsProof(subjects);
        vm.expectEmit(address(reputations));
        emit IReputationLedger.RewardClaimed(FEDERATION, 1, STRANGER, 2, 20, 50);
        IReputationLedger.Claim memory claim_ = IReputationLedger.Claim(1, STRANGER, organisation(1), 50);
        reputations.claimReward(FEDERATION, header, subjects.rewards, proof, claim_, none, none);
        vm.prank(ADMIN);
        ledger.setHospital(FEDERATION, 1, STRANGER, IRoundLedger.HospitalStatus.SUSPENDED, organisation(1));
        claim_.cumulative = 50;
        refuseClaim(claim_, IReputationLedger.NotHospital.selector, abi.encode(FEDERATION, 1, STRANGER));
    }

    /// @dev Whatever is published and claimed in whatever order: the points are the largest amount claimed so far.
    function testFuzzClaims(uint8[4] memory amounts, uint8[9] memory order) public {
        IRoundLedger.Header[4] memory headers;
        Subjects[4] memory published;
        for (uint256 i = 0; i < 4; ++i) {
            sealReward(amounts[i]);
            (headers[i], published[i]) = (header, subjects);
        }
        finalize();
        uint256 largest = 0;
        for (uint256 i = 0; i < 9; ++i) {
            uint256 pick = order[i] % 4;
            (header, subjects) = (headers[pick], published[pick]);
            if (amounts[pick] > largest) {
                claim(amounts[pick]);
                largest = amounts[pick];
            } else {
                bytes memory detail = abi.encode(FEDERATION, 1, largest, amounts[pick]);
                refuseClaim(amounts[pick], IReputationLedger.NothingToClaim.selector, detail);
            }
            check(points() == largest, "the largest amount so far");
        }
    }

    // --- Disputes ----------------------------------------------------------------------------------------------------

    /// @dev Seals a round whose slot 1 is empty, with verdicts and a reward in its annex.
    function sealDisputable() internal returns (bytes32[] memory leaves) {
        leaves = leavesWith(Tree.EMPTY);
        subjects = Subjects(0, rewardLeaf(1, 30), scoresLeaf(progress().round + 1, 0, 7, 7, 10));
        header = nextHeader(Tree.root(leaves));
        header.annex = annexOf(subjects);
        seal(header);
    }

    function refuseBoth(bytes4 selector, bytes memory arguments) internal {
        refuseUpdate(7, 7, selector, arguments);
        refuseClaim(30, selector, arguments);
    }

    /// @dev In dispute, then void, then void under later final rounds: the header proves nothing any more.
    function testAVoidedRoundProvesNothing() public {
        bytes32[] memory leaves = sealDisputable();
        disputeSlot(header, leaves);
        bytes4 selector = IRoundLedger.RoundNotSealed.selector;
        refuseBoth(selector, abi.encode(FEDERATION, 1, IRoundLedger.RoundStatus.DISPUTED));
        vm.prank(AUDITOR);
        ledger.resolveDispute(FEDERATION, header, true);
        refuseBoth(selector, abi.encode(FEDERATION, 1, IRoundLedger.RoundStatus.VOID));
        openRound();
        seal();
        finalize();
        refuseBoth(selector, abi.encode(FEDERATION, 1, IRoundLedger.RoundStatus.VOID));
        check(points() == 0 && held(10, 10, 10), "nothing was taken");
    }

    /// @dev The last sealed round is void when everything is made final: finality does not revive it.
    function testFinalityDoesNotReviveAVoidRound() public {
        bytes32[] memory leaves = sealDisputable();
        disputeSlot(header, leaves);
        vm.prank(AUDITOR);
        ledger.resolveDispute(FEDERATION, header, true);
        finalize();
        bytes4 selector = IRoundLedger.RoundNotSealed.selector;
        refuseBoth(selector, abi.encode(FEDERATION, 1, IRoundLedger.RoundStatus.VOID));
    }

    function testWhatWasBuiltOnADisputedRoundWaits() public {
        bytes32[] memory leaves = sealDisputable();
        IRoundLedger.Header memory first = header;
        sealVerdicts(7, 7, 10);
        disputeSlot(first, leaves);
        refuseUpdate(7, 7, IRoundLedger.FederationDisputed.selector, abi.encode(FEDERATION, 1));
        vm.prank(AUDITOR);
        ledger.resolveDispute(FEDERATION, first, false);
        update(7, 7, 10);
        check(held(11, 11, 11), "upheld");
        (header, subjects) = (first, Subjects(0, rewardLeaf(1, 30), scoresLeaf(1, 0, 7, 7, 10)));
        claim(30);
        check(points() == 30, "an upheld round is final");
    }
}
