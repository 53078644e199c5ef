// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ICommitteeLedger} from "../src/ICommitteeLedger.sol";
import {IMaskLedger} from "../src/IMaskLedger.sol";
import {IReputationLedger} from "../src/IReputationLedger.sol";
import {IRoundLedger} from "../src/IRoundLedger.sol";
import {MaskLedger} from "../src/MaskLedger.sol";
import {StudyLedger} from "../src/StudyLedger.sol";
import {SuccessionLedger} from "../src/SuccessionLedger.sol";
import {Tree} from "./Base.sol";
import {CommitteeBase} from "./CommitteeBase.sol";
import {Paired} from "./Paired.sol";
import {ReputationBase} from "./ReputationBase.sol";
import {ISyntheticLedger} from "../src/ISyntheticLedger.sol";
import {SyntheticBase} from "./SyntheticBase.sol";

/**
 * @dev Writes snapshots/*.json, which are in version control: what each transaction costs, with the 21,000 of a
 * transaction and its call data. Run with FOUNDRY_PROFILE=gas, which makes every call a transaction of its own.
 */
contract GasSnapshot is SyntheticBase, ReputationBase, CommitteeBase {
    function setUp() public {
        deploySynthetic();
        deployReputation();
        deployCommittee();
    }

    /// @dev A federation of this many slots, its leaves all drawn; sealed with every field set.
    function sealRounds(uint32 slots, string memory name) internal {
        bytes32 federation = keccak256(abi.encode("federation", slots));
        vm.prank(coordinator);
        ledger.openFederation(federation, CONFIG, keccak256("registry"), GENESIS, slots, 1, WINDOW, STALENESS);
        vm.snapshotGasLastCall("rounds", string.concat(name, " 0 openFederation"));
        vm.prank(coordinator);
        ledger.openRound(federation, 1, GENESIS, uint64(block.timestamp + 1 hours));
        vm.snapshotGasLastCall("rounds", string.concat(name, " 1 openRound"));
        for (uint64 round = 1; round <= 9; ++round) {
            IRoundLedger.FederationState memory state = ledger.federationState(federation);
            IRoundLedger.Header memory header = IRoundLedger.Header({
                round: round,
                previousHead: state.head,
                root: keccak256(abi.encode("root", round)),
                parentModel: state.model,
                model: keccak256(abi.encode("model", round)),
                count: slots,
                annex: keccak256(abi.encode("annex", round))
            });
            vm.prank(coordinator);
            ledger.sealRound(federation, header, 0, uint64(block.timestamp + 1 hours));
            check(vm.lastCallGas().gasTotalUsed <= 60_000, "what a seal may cost in any round");
            if (round == 1) vm.snapshotGasLastCall("rounds", string.concat(name, " 2 sealRound 1"));
            if (round == 7) vm.snapshotGasLastCall("rounds", string.concat(name, " 3 sealRound 7"));
            if (round == 9) vm.snapshotGasLastCall("rounds", string.concat(name, " 4 sealRound 9, steady"));
        }
    }

    function testRounds() public {
        sealRounds(3, "0003 hospitals,");
        sealRounds(100, "0100 hospitals,");
        sealRounds(1000, "1000 hospitals,");
    }

    function testRarePaths() public {
        openRound();
        submit(0);
        vm.snapshotGasLastCall("rare", "submitUpdate, first of a round");
        submit(1);
        vm.snapshotGasLastCall("rare", "submitUpdate, next");
        vm.prank(coordinator);
        ledger.refuseUpdate(FEDERATION, 1);
        vm.snapshotGasLastCall("rare", "refuseUpdate");
        bytes32[] memory leaves = leavesWith(Tree.EMPTY);
        IRoundLedger.Header memory header = seal(nextHeader(Tree.root(leaves)));
        disputeSlot(header, leaves);
        vm.snapshotGasLastCall("rare", "dispute by receipt");
        vm.prank(AUDITOR);
        ledger.resolveDispute(FEDERATION, header, true);
        vm.snapshotGasLastCall("rare", "resolveDispute, one round void");
        vm.prank(coordinator);
        ledger.openRound(FEDERATION, 2, GENESIS, uint64(block.timestamp + 1));
        vm.warp(block.timestamp + 2);
        ledger.abortRound(FEDERATION);
        vm.snapshotGasLastCall("rare", "abortRound");
        openRound();
        seal();
        ledger.markRound(FEDERATION);
        vm.snapshotGasLastCall("rare", "markRound");
        finalize();
        vm.snapshotGasLastCall("rare", "finalizeRound");
        vm.prank(ADMIN);
        ledger.setHospital(FEDERATION, 1, STRANGER, IRoundLedger.HospitalStatus.ACTIVE, CONFIG);
        vm.snapshotGasLastCall("rare", "setHospital");
        IRoundLedger.KeyRotation memory rotation = IRoundLedger.KeyRotation(FEDERATION, 2, hospitalOf(2), vm.addr(7), 3);
        bytes32 digest = rotationDigest(rotation);
        ledger.rotateKey(rotation, organisation(2), registryProof(2), sign(keyOf(2), digest), sign(7, digest));
        vm.snapshotGasLastCall("rare", "rotateKey");
        IRoundLedger.FederationState memory state = ledger.federationState(FEDERATION);
        vm.prank(coordinator);
        ledger.closeFederation(FEDERATION, state.progress.round, state.head, keccak256("closing"));
        vm.snapshotGasLastCall("rare", "closeFederation");
    }

    function testSuccession() public {
        SuccessionLedger line = new SuccessionLedger(ledger);
        address[] memory order = new address[](2);
        (order[0], order[1]) = (vm.addr(2001), vm.addr(2002));
        vm.prank(coordinator);
        ledger.entrust(FEDERATION, address(line));
        vm.snapshotGasLastCall("rare", "entrust");
        vm.prank(coordinator);
        line.appoint(FEDERATION, order, 60);
        vm.snapshotGasLastCall("rare", "appoint, two successors");
        openRound();
        vm.prank(coordinator);
        line.reportAlive(FEDERATION);
        vm.snapshotGasLastCall("rare", "reportAlive");
        vm.warp(block.timestamp + 120);
        vm.prank(order[1]);
        line.takeOver(FEDERATION, 1);
        vm.snapshotGasLastCall("rare", "takeOver");
    }

    /// @dev An update of round 4 that began before round 1, of a federation in which two rounds are allowed.
    function testTooOld() public {
        openRound();
        IRoundLedger.Header[] memory headers = new IRoundLedger.Header[](3);
        seal();
        headers[0] = seal();
        headers[1] = seal();
        IRoundLedger.ModelUpdate memory record = updateOf(1);
        record.parentModel = GENESIS;
        bytes memory signature = sign(keyOf(1), updateDigest(record));
        bytes32[] memory leaves =
            leavesWith(keccak256(bytes.concat(hex"000002", bytes4(uint32(1)), updateDigest(record), signature)));
        headers[2] = seal(nextHeader(Tree.root(leaves)));
        ledger.disputeUpdate(FEDERATION, headers, record, signature, Tree.prove(leaves, 1));
        vm.snapshotGasLastCall("rare", "disputeUpdate, two rounds behind allowed");
    }

    /// @dev An annex of three names, as a run with synthetic data and judged updates has it.
    function testReputation() public {
        openRound();
        for (uint64 round = 1; round <= 2; ++round) {
            Subjects memory subjects =
                Subjects(keccak256("decisions"), rewardLeaf(1, 30 * round), scoresLeaf(round, 0, 7, 5, 10));
            IRoundLedger.Header memory header = sealWith(subjects);
            bytes32[] memory proof = scoresProof(subjects);
            vm.prank(coordinator);
            reputations.updateReputation(FEDERATION, header, subjects.scores, proof, 0, 7, 5, 10, none);
            vm.snapshotGasLastCall("reputation", string.concat("updateReputation, 16 slots, ", nth(round)));
            finalize();
            proof = rewardsProof(subjects);
            IReputationLedger.Claim memory claim = claimOf(1, 30 * round);
            reputations.claimReward(FEDERATION, header, subjects.rewards, proof, claim, registryProof(1), none);
            vm.snapshotGasLastCall("reputation", string.concat("claimReward, ", nth(round)));
        }
    }

    function nth(uint64 round) internal pure returns (string memory) {
        return round == 1 ? "first" : "next";
    }

    /// @dev A committee of this many beside its trainers, or, where they are the same, all of a round, with five classes. With `own`
    /// above 0 one of them leads.
    function judgeRound(uint32 first, uint32 judges, uint32 trainers, uint8 own, string memory name) internal {
        bytes32 federation = keccak256(bytes(name));
        vm.prank(coordinator);
        ledger.openFederation(federation, CONFIG, keccak256("registry"), GENESIS, 100, 1, WINDOW, STALENESS);
        uint32[] memory judging = new uint32[](judges);
        uint32[] memory training = new uint32[](trainers);
        uint16[] memory shares = new uint16[](uint256(judges) * trainers * 5);
        for (uint32 i = 0; i < judges; ++i) {
            judging[i] = first + i;
        }
        for (uint32 i = 0; i < trainers; ++i) {
            training[i] = i;
        }
        for (uint256 i = 0; i < shares.length; ++i) {
            bool unscored = own == 0 && judging[i / 5 / trainers] == training[(i / 5) % trainers];
            shares[i] = unscored ? NO_SHARE : uint16(uint256(keccak256(abi.encode(i))) % 10_001);
        }
        for (uint64 round = 1; round <= 2; ++round) {
            ICommitteeLedger.Sitting memory sitting = sittingOf(judging, training, 5);
            (sitting.round, sitting.own, sitting.cap) = (round, own, 500);
            sitting.shares = packed(shares);
            IRoundLedger.FederationState memory state = ledger.federationState(federation);
            bytes32 annex = Paired.named("committee", committees.digest(sitting));
            IRoundLedger.Header memory header = IRoundLedger.Header(
                round, state.head, keccak256("root"), state.model, keccak256(abi.encode(round)), trainers, annex
            );
            vm.prank(coordinator);
            ledger.openRound(federation, round, state.model, uint64(block.timestamp + 1 hours));
            vm.prank(coordinator);
            ledger.sealRound(federation, header, 0, type(uint64).max);
            committees.judgeRound(federation, header, sitting, none);
            vm.snapshotGasLastCall("committee", string.concat("judgeRound, ", name, ", ", nth(round)));
        }
    }

    function testCommittee() public {
        judgeRound(16, 4, 16, 0, "04 judges, 16 updates");
        judgeRound(90, 10, 90, 0, "10 judges, 90 updates");
        judgeRound(0, 5, 5, 0, "05 judge each other");
        judgeRound(0, 5, 5, 50, "05 judge each other and one leads");
        judgeRound(0, 20, 20, 0, "20 judge each other");
        judgeRound(0, 20, 20, 50, "20 judge each other and one leads");
    }

    function testSynthetic() public {
        setPolicy(standardPolicy(false));
        vm.snapshotGasLastCall("synthetic", "setPolicy");
        bytes32 id = ask(requestOf(1, 2, 2, 12, 10));
        vm.snapshotGasLastCall("synthetic", "requestSynthetic, pending");
        ask(requestOf(1, 2, 2, 12, 1));
        vm.snapshotGasLastCall("synthetic", "requestSynthetic, denied");
        approve(id, 10);
        vm.snapshotGasLastCall("synthetic", "reviewSynthetic");
        send(1, goodReport(id, 7));
        vm.snapshotGasLastCall("synthetic", "reportSynthetic");
        id = ask(requestOf(1, 2, 2, 12, 10));
        vm.warp(block.timestamp + 1 hours);
        synthetic.expireSynthetic(id);
        vm.snapshotGasLastCall("synthetic", "expireSynthetic");
        ISyntheticLedger.Policy memory policy = standardPolicy(false);
        policy.preview = 30;
        setPolicy(policy);
        vm.warp(block.timestamp + 1 days);
        show(1, previewOf(ask(requestOf(1, 2, 2, 12, 10)), 30));
        vm.snapshotGasLastCall("synthetic", "previewSynthetic");
    }

    /// @dev Two challenges of a round of four: one is opened and decided, one is not.
    function testMasks() public {
        MaskLedger masks = new MaskLedger(ledger, 2 days);
        bytes32 federation = keccak256("masked");
        registry.push(registryLeaf(3, hospitalOf(3), organisation(3)));
        vm.prank(coordinator);
        ledger.openFederation(federation, CONFIG, Tree.root(registry), GENESIS, 4, 1, WINDOW, STALENESS);
        bytes32[] memory leaves = new bytes32[](4);
        for (uint256 i = 0; i < 4; ++i) {
            leaves[i] = keccak256(abi.encode("leaf", i));
        }
        bytes32 head = ledger.federationState(federation).head;
        IRoundLedger.Header memory header =
            IRoundLedger.Header(1, head, Tree.root(leaves), GENESIS, keccak256("model"), 4, keccak256("annex"));
        vm.prank(coordinator);
        ledger.openRound(federation, 1, GENESIS, uint64(block.timestamp + 1 hours));
        vm.prank(coordinator);
        ledger.sealRound(federation, header, 0, CLOSED);
        challenge(masks, federation, header, leaves, 1);
        vm.snapshotGasLastCall("masks", "challengeUpdate, first of a round");
        challenge(masks, federation, header, leaves, 2);
        vm.snapshotGasLastCall("masks", "challengeUpdate, next");
        IMaskLedger.MaskOpening memory record = IMaskLedger.MaskOpening(federation, 1, 1, keccak256("opening"));
        bytes32 kind = keccak256("MaskOpening(bytes32 federation,uint64 round,uint32 slot,bytes32 opening)");
        bytes32 digest = typed(address(masks), keccak256(bytes.concat(kind, abi.encode(record))));
        masks.answerChallenge(record, sign(keyOf(1), digest), hospitalOf(1), organisation(1), registryProof(1));
        vm.snapshotGasLastCall("masks", "answerChallenge");
        vm.prank(AUDITOR);
        masks.decideChallenge(federation, 1, 1, true, keccak256("reasons"));
        vm.snapshotGasLastCall("masks", "decideChallenge");
        vm.warp(block.timestamp + 2 days);
        masks.expireChallenge(federation, 1, 2);
        vm.snapshotGasLastCall("masks", "expireChallenge");
    }

    function challenge(
        MaskLedger masks,
        bytes32 federation,
        IRoundLedger.Header memory header,
        bytes32[] memory leaves,
        uint32 slot
    ) internal {
        vm.prank(AUDITOR);
        masks.challengeUpdate(federation, header, slot, leaves[slot], Tree.prove(leaves, slot));
    }

    function testStudy() public {
        StudyLedger studies = new StudyLedger(ADMIN, STRANGER);
        vm.prank(STRANGER);
        studies.registerStudy(FEDERATION, CONFIG, 10);
        vm.snapshotGasLastCall("studies", "registerStudy");
        vm.prank(STRANGER);
        studies.recordTrial(FEDERATION, 1, 0, StudyLedger.Stage.BEGUN, CONFIG);
        vm.prank(STRANGER);
        studies.recordTrial(FEDERATION, 2, 0, StudyLedger.Stage.COMPLETE, CONFIG);
        vm.prank(STRANGER);
        studies.recordTrial(FEDERATION, 3, 1, StudyLedger.Stage.BEGUN, CONFIG);
        vm.snapshotGasLastCall("studies", "recordTrial, begun");
        vm.prank(STRANGER);
        studies.recordTrial(FEDERATION, 4, 1, StudyLedger.Stage.COMPLETE, CONFIG);
        vm.snapshotGasLastCall("studies", "recordTrial, ended");
    }
}
