// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IReputationLedger} from "../src/IReputationLedger.sol";
import {IRoundLedger} from "../src/IRoundLedger.sol";
import {ISyntheticLedger} from "../src/ISyntheticLedger.sol";
import {ReputationLedger} from "../src/ReputationLedger.sol";
import {RoundLedger} from "../src/RoundLedger.sol";
import {SyntheticLedger} from "../src/SyntheticLedger.sol";
import {Tree} from "./Base.sol";
import {ReputationBase} from "./ReputationBase.sol";
import {SyntheticBase} from "./SyntheticBase.sol";

/// @dev Drives a federation by random calls and remembers what must not change afterwards.
contract RoundHandler is ReputationBase {
    /// @dev What was said in the annex of a round, as the handler knows it.
    struct Said {
        Subjects subjects;
        uint16 participated;
        uint16 accepted;
        uint256 cumulative;
    }

    IRoundLedger.Header[] internal headers;
    Said[] internal said;
    bytes32[] internal none;
    uint256 internal cumulative;
    uint256 internal largestClaim;
    uint64 internal lastJudged;

    uint64 internal upheld;
    mapping(uint64 round => IRoundLedger.RoundStatus) internal settled;
    mapping(uint64 round => uint256) internal sealedAt;
    mapping(bytes32 action => uint256) public done;
    string public violation;

    constructor() {
        deploy();
        deployReputation();
        openFederation();
        openRound();
    }

    /// @dev Runs an action; `seals` and `moves` say whether it may change the head and the model.
    modifier watched(bytes32 action, bool seals, bool moves) {
        IRoundLedger.FederationState memory before = ledger.federationState(FEDERATION);
        _;
        ++done[action];
        IRoundLedger.FederationState memory state = ledger.federationState(FEDERATION);
        bool sealed_ = state.progress.round != before.progress.round;
        if (sealed_ != (state.head != before.head)) violation = "a head moves with a round, and only then";
        if (sealed_ && !seals) violation = "only a seal moves the round";
        if (sealed_ && before.closing != 0) violation = "nothing follows the end";
        if (before.closing != 0 && (state.closing != before.closing || isOpen())) violation = "the end stays";
        if (state.model != before.model && !moves) violation = "only a seal or a void moves the model";
        if (state.finalized < before.finalized) violation = "finality does not go back";
        if (reputations.claimed(FEDERATION, 1) != largestClaim) violation = "the largest claim so far";
        bool endedBefore = true;
        for (uint64 round = 1; round <= state.progress.round; ++round) {
            IRoundLedger.RoundStatus now_ = status(round);
            bool ended = now_ == IRoundLedger.RoundStatus.FINAL || now_ == IRoundLedger.RoundStatus.VOID;
            IRoundLedger.RoundStatus was = settled[round];
            if (was != IRoundLedger.RoundStatus.NONE && was != now_) violation = "FINAL and VOID never change";
            bool early = block.timestamp < sealedAt[round] + WINDOW && round > upheld;
            if (now_ == IRoundLedger.RoundStatus.FINAL && was == IRoundLedger.RoundStatus.NONE && early) {
                violation = "nothing is final within its window but what an auditor upheld";
            }
            if (now_ == IRoundLedger.RoundStatus.FINAL && !endedBefore) violation = "finality has no gaps";
            endedBefore = endedBefore && ended;
            if (ended) settled[round] = now_;
        }
    }

    function count() external view returns (uint64) {
        return uint64(headers.length);
    }

    function contractUnderTest() external view returns (RoundLedger) {
        return ledger;
    }

    function reputationUnderTest() external view returns (ReputationLedger) {
        return reputations;
    }

    /// @dev Seals with rewards and, mostly, decisions and verdicts.
    function sealNext(uint32 judged, bool keepClosed) public watched("seal", true, true) {
        if (!isOpen()) return;
        IRoundLedger.Header memory header = nextHeader(Tree.root(leavesWith(Tree.EMPTY)));
        // Now and then the coordinator publishes less than before.
        cumulative = judged % 4 == 0 ? cumulative / 2 : cumulative + judged % 100;
        Said memory now_ = said.push();
        now_.participated = uint16(judged & 7);
        now_.accepted = uint16((judged >> 3) & judged & 7);
        now_.cumulative = cumulative;
        if (judged % 3 != 0) now_.subjects.decisions = keccak256(abi.encode(judged));
        now_.subjects.rewards = rewardLeaf(1, cumulative);
        if (judged % 7 != 0) {
            now_.subjects.scores = scoresLeaf(header.round, 0, now_.participated, now_.accepted, 10);
        }
        said[said.length - 1] = now_;
        header.annex = annexOf(now_.subjects);
        uint32 submissions = progress().submissions;
        vm.prank(coordinator);
        uint64 next = keepClosed ? CLOSED : judged % 5 == 0 ? uint64(block.timestamp + 600) : 0;
        ledger.sealRound(FEDERATION, header, submissions, next);
        headers.push(header);
        sealedAt[header.round] = block.timestamp;
    }

    function reopen(bool timed) public watched("open", false, false) {
        IRoundLedger.Phase phase = progress().phase;
        if (isOpen() || phase == IRoundLedger.Phase.DISPUTED || phase == IRoundLedger.Phase.CLOSED) return;
        uint64 round = progress().round + 1;
        bytes32 model = ledger.federationState(FEDERATION).model;
        vm.prank(coordinator);
        ledger.openRound(FEDERATION, round, model, timed ? uint64(block.timestamp + 600) : 0);
    }

    function submitNext(uint32 slot) public watched("submit", false, false) {
        slot %= SLOTS;
        IRoundLedger.FederationState memory state = ledger.federationState(FEDERATION);
        if (!isOpen()) return;
        if (isSubmitted(state.progress.round + 1, state.model, slot)) return;
        submit(slot);
    }

    /// @dev Disputes any round that is sealed, however many were sealed after it, and no other.
    function disputeOne(uint256 back) public watched("dispute", false, false) {
        if (headers.length == 0 || progress().phase == IRoundLedger.Phase.DISPUTED) return;
        uint256 first = headers.length - 1 - back % headers.length;
        uint256 last = headers.length > first + 4 ? headers.length - 4 : first;
        IRoundLedger.Header[] memory given = new IRoundLedger.Header[](last - first + 1);
        for (uint256 i = 0; i < given.length; ++i) {
            given[i] = headers[first + i];
        }
        bool due = status(given[0].round) == IRoundLedger.RoundStatus.SEALED;
        bytes32[] memory leaves = leavesWith(Tree.EMPTY);
        (IRoundLedger.Receipt memory receipt, bytes memory signature) =
            promise_(given[0].round, 1, keccak256("promised"));
        try ledger.dispute(FEDERATION, given, receipt, signature, leaves[1], Tree.prove(leaves, 1)) {
            if (!due) violation = "a dispute that is not due";
        } catch {
            if (due) violation = "a dispute that is due was refused";
        }
    }

    function markAll() public watched("mark", false, false) {
        try ledger.markRound(FEDERATION) {
            ++done["marked"];
        } catch {}
    }

    function refuseOne(uint32 slot) public watched("refuse", false, false) {
        vm.prank(coordinator);
        try ledger.refuseUpdate(FEDERATION, slot % SLOTS) {
            ++done["refused"];
        } catch {}
    }

    /// @dev Anybody may end a round, after its deadline and not before.
    function abortOne() public watched("abort", false, false) {
        IRoundLedger.Progress memory now_ = progress();
        bool late = now_.deadline != 0 && block.timestamp > now_.deadline;
        bool due = now_.phase == IRoundLedger.Phase.OPEN && late;
        try ledger.abortRound(FEDERATION) {
            if (!due) violation = "an abort before the deadline";
            ++done["aborted"];
        } catch {
            if (due) violation = "a stuck round could not be aborted";
        }
    }

    function resolve(bool voided) public watched("resolve", false, voided) {
        if (progress().phase != IRoundLedger.Phase.DISPUTED) return;
        IRoundLedger.Header memory header = headers[ledger.federationState(FEDERATION).disputed - 1];
        if (!voided) upheld = header.round;
        vm.prank(AUDITOR);
        ledger.resolveDispute(FEDERATION, header, voided);
    }

    /// @dev Ends the federation; rarely, as nothing but disputes and finality follows.
    function close(uint8 dice) public watched("close", false, false) {
        IRoundLedger.FederationState memory state = ledger.federationState(FEDERATION);
        if (dice % 16 != 0 || state.closing != 0 || state.progress.phase == IRoundLedger.Phase.DISPUTED) return;
        vm.prank(coordinator);
        ledger.closeFederation(FEDERATION, state.progress.round, state.head, keccak256(abi.encode(dice)));
    }

    function finalizeAll() public watched("finalize", false, false) {
        try ledger.finalizeRound(FEDERATION) {
            ++done["finalized"];
        } catch {}
    }

    /// @dev Whether what the header of a round commits to may count, by the handler's own account.
    function stands(uint64 round) internal view returns (bool) {
        IRoundLedger.FederationState memory state = ledger.federationState(FEDERATION);
        bool disputed = state.progress.phase == IRoundLedger.Phase.DISPUTED && round >= state.disputed;
        bool kept = state.progress.round - round < ledger.RING() || round == state.finalized;
        return kept && !disputed && status(round) != IRoundLedger.RoundStatus.VOID;
    }

    /// @dev Claims from any round: it succeeds for more points under a final header that is kept, and only then.
    function claim(uint256 which) public watched("claim", false, false) {
        if (headers.length == 0) return;
        which %= headers.length;
        Said memory then = said[which];
        bool final_ = status(headers[which].round) == IRoundLedger.RoundStatus.FINAL;
        bool due = final_ && stands(headers[which].round) && then.cumulative > largestClaim;
        bytes32[] memory proof = rewardsProof(then.subjects);
        IReputationLedger.Claim memory claim_ = claimOf(1, then.cumulative);
        try reputations.claimReward(
            FEDERATION, headers[which], then.subjects.rewards, proof, claim_, registryProof(1), none
        ) {
            if (!due) violation = "a claim that is not due";
            largestClaim = then.cumulative;
            ++done["claimed"];
        } catch {
            if (due) violation = "a claim that is due was refused";
        }
    }

    /// @dev Applies the verdicts of any round: each once, in order, under a header that stands, and only then.
    function judge(uint256 which) public watched("judge", false, false) {
        if (headers.length == 0) return;
        which %= headers.length;
        Said memory then = said[which];
        uint64 round = headers[which].round;
        bool due = stands(round) && round > lastJudged && then.subjects.scores != 0;
        bytes32 root = due ? then.subjects.scores : scoresLeaf(round, 0, then.participated, then.accepted, 10);
        bytes32[] memory proof = scoresProof(then.subjects);
        vm.prank(coordinator);
        try reputations.updateReputation(
            FEDERATION, headers[which], root, proof, 0, then.participated, then.accepted, 10, none
        ) {
            if (!due) violation = "verdicts that must not count";
            lastJudged = round;
            ++done["judged"];
        } catch {
            if (due) violation = "verdicts that must count";
        }
    }

    function pass(uint16 time) public watched("wait", false, false) {
        vm.warp(block.timestamp + time % 2400);
    }

    function togglePause(uint8 dice) public watched("pause", false, false) {
        if (dice % 4 != 0) return;
        vm.prank(ADMIN);
        ledger.pause();
        ++done["paused"];
        vm.prank(ADMIN);
        ledger.unpause();
    }
}

contract RoundInvariants {
    RoundHandler internal handler;

    error Violated(string what);

    function setUp() public {
        handler = new RoundHandler();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function invariantNothingForbiddenHappened() public view {
        if (bytes(handler.violation()).length != 0) revert Violated(handler.violation());
    }

    function invariantRoundsAreDense() public view {
        RoundLedger ledger = handler.contractUnderTest();
        uint64 round = ledger.federationState(keccak256("federation")).progress.round;
        if (round != handler.count()) revert Violated("one round per seal");
    }

    function invariantReputationsStayInRange() public view {
        ReputationLedger reputations = handler.reputationUnderTest();
        for (uint32 slot = 0; slot < 3; ++slot) {
            if (reputations.reputation(keccak256("federation"), slot) > 100) revert Violated("largest reputation");
        }
    }

    /// @dev The invariants say something only if the handler gets everywhere.
    function testHandlerReachesEverything() public {
        for (uint256 i = 0; i < 3; ++i) {
            handler.submitNext(0);
            handler.sealNext(15, false);
            handler.judge(i);
        }
        handler.disputeOne(1);
        handler.judge(2);
        handler.resolve(true);
        handler.claim(2);
        handler.reopen(true);
        handler.sealNext(1, false);
        handler.disputeOne(0);
        handler.resolve(false);
        handler.pass(2399);
        handler.pass(2399);
        handler.markAll();
        handler.finalizeAll();
        handler.claim(0);
        handler.claim(3);
        handler.close(0);
        handler.sealNext(1, false);
        handler.reopen(false);
        handler.disputeOne(0);
        RoundLedger ledger = handler.contractUnderTest();
        // 15 points a round in rounds 1 to 3, of which 2 and 3 are void, and 1 in round 4.
        if (handler.reputationUnderTest().claimed(keccak256("federation"), 1) != 46) revert Violated("claim");
        if (handler.done("claimed") != 2) revert Violated("claims");
        if (handler.done("judged") != 3) revert Violated("judge");
        if (ledger.roundStatus(keccak256("federation"), 2) != IRoundLedger.RoundStatus.VOID) revert Violated("void");
        if (ledger.roundStatus(keccak256("federation"), 4) != IRoundLedger.RoundStatus.FINAL) revert Violated("final");
        invariantNothingForbiddenHappened();
    }
}

/// @dev Drives requests by random calls and keeps accounts of its own.
contract SyntheticHandler is SyntheticBase {
    bytes32[] public ids;
    mapping(bytes32 id => uint32) public reserved;
    mapping(bytes32 id => ISyntheticLedger.Status) internal ended;
    mapping(bytes32 action => uint256) public done;
    uint32 public largestQuota;
    bytes32 public head;
    string public violation;

    constructor() {
        deploySynthetic();
        setPolicy(standardPolicy(true));
        largestQuota = 100;
    }

    function contractUnderTest() external view returns (SyntheticLedger) {
        return synthetic;
    }

    function count() external view returns (uint256) {
        return ids.length;
    }

    /// @dev What must count for a hospital and class, summed anew from what was granted and generated.
    function expected(uint32 slot, uint8 class_) external view returns (uint256 sum) {
        for (uint256 i = 0; i < ids.length; ++i) {
            ISyntheticLedger.RequestState memory state = synthetic.requestState(ids[i]);
            if (state.slot == slot && state.class_ == class_) sum += reserved[ids[i]];
        }
    }

    function note(bytes32 action, bytes32 id, uint32 amount, bytes32 record) internal {
        ++done[action];
        reserved[id] = amount;
        ISyntheticLedger.Status status_ = statusOf(id);
        head = keccak256(abi.encode(head, id, status_, amount, record));
        if (ended[id] != ISyntheticLedger.Status.NONE) violation = "an ended request changed";
        bool waits = status_ == ISyntheticLedger.Status.PENDING || status_ == ISyntheticLedger.Status.PREVIEWED;
        if (!waits && status_ != ISyntheticLedger.Status.APPROVED) ended[id] = status_;
    }

    function pick(uint256 which) internal view returns (bytes32) {
        return ids[which % ids.length];
    }

    function request(uint32 slot, uint8 class_, uint8 floorStep, uint32 quantity) public {
        uint32[6] memory floors = [uint32(1), 6, 10, 30, 50, 200];
        ISyntheticLedger.SyntheticRequest memory wanted =
            requestOf(slot % 2, 1 + class_ % 3, 2, 1 + quantity % 60, floors[floorStep % 6]);
        bytes32 id = ask(wanted);
        ids.push(id);
        ISyntheticLedger.RequestState memory state = synthetic.requestState(id);
        bool granted = state.status == ISyntheticLedger.Status.APPROVED;
        if (granted && (state.counted == 0 || state.counted > wanted.quantity)) violation = "granted out of range";
        note(granted ? bytes32("approved") : bytes32("asked"), id, granted ? state.counted : 0, id);
    }

    /// @dev What the policy of a request wants to be seen of it.
    function wantedOf(ISyntheticLedger.RequestState memory state) internal view returns (uint16) {
        return synthetic.policyAt(FEDERATION, state.policyVersion).policy.preview;
    }

    function preview(uint256 which, uint32 amount) public {
        if (ids.length == 0) return;
        bytes32 id = pick(which);
        ISyntheticLedger.RequestState memory state = synthetic.requestState(id);
        if (state.status != ISyntheticLedger.Status.PENDING || block.timestamp >= state.expiresAt) return;
        if (wantedOf(state) == 0) return;
        ISyntheticLedger.SyntheticPreview memory given = previewOf(id, amount % (wantedOf(state) + 1));
        show(state.slot, given);
        note("previewed", id, 0, previewDigest(given));
    }

    function review(uint256 which, bool grants, uint32 amount) public {
        if (ids.length == 0) return;
        bytes32 id = pick(which);
        (uint32 allowed,) = synthetic.allowance(id);
        ISyntheticLedger.RequestState memory state = synthetic.requestState(id);
        bool seen = state.status == ISyntheticLedger.Status.PREVIEWED;
        if (!seen && state.status != ISyntheticLedger.Status.PENDING) return;
        if (block.timestamp >= state.expiresAt) return;
        if (allowed == 0 || (wantedOf(state) != 0 && state.previewed == 0)) grants = false;
        amount = grants ? 1 + amount % allowed : 0;
        (ISyntheticLedger.SyntheticReview memory given, bytes memory signature) = reviewOf(id, grants, amount);
        synthetic.reviewSynthetic(id, given, signature, vm.addr(REVIEWER_KEY));
        bytes32 kind =
            keccak256("SyntheticReview(bytes32 request,bool approve,uint32 granted,bytes32 reason,uint64 deadline)");
        note("reviewed", id, amount, typed(address(synthetic), keccak256(bytes.concat(kind, abi.encode(given)))));
    }

    function report(uint256 which, uint32 amount, bool good) public {
        if (ids.length == 0) return;
        bytes32 id = pick(which);
        ISyntheticLedger.RequestState memory state = synthetic.requestState(id);
        if (state.status != ISyntheticLedger.Status.APPROVED || block.timestamp >= state.expiresAt) return;
        ISyntheticLedger.SyntheticReport memory given = goodReport(id, amount % (reserved[id] + 1));
        if (!good) given.duplicates = 1000;
        send(state.slot, given);
        good = good && given.generated != 0;
        uint32 held = good ? given.generated : state.counted;
        note(good ? bytes32("accepted") : bytes32("rejected"), id, held, reportDigest(given));
    }

    function expire(uint256 which) public {
        if (ids.length == 0) return;
        bytes32 id = pick(which);
        try synthetic.expireSynthetic(id) {
            note("expired", id, reserved[id], 0);
        } catch {}
    }

    function pass(uint16 time) public {
        vm.warp(block.timestamp + time % 1800);
    }

    function newPolicy(uint32 quota, bool automatic, uint8 dice) public {
        if (dice % 8 != 0) return;
        ISyntheticLedger.Policy memory policy = standardPolicy(automatic);
        policy.quota = quota % 150;
        policy.preview = uint16(dice) / 128 * 30;
        setPolicy(policy);
        vm.warp(block.timestamp + 1 days);
        if (policy.quota > largestQuota) largestQuota = policy.quota;
        ++done["policy"];
    }
}

contract SyntheticInvariants {
    SyntheticHandler internal handler;

    error Violated(string what);

    function setUp() public {
        handler = new SyntheticHandler();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function invariantNothingForbiddenHappened() public view {
        if (bytes(handler.violation()).length != 0) revert Violated(handler.violation());
    }

    function invariantQuotaIsExact() public view {
        SyntheticLedger synthetic = handler.contractUnderTest();
        for (uint32 slot = 0; slot < 2; ++slot) {
            for (uint8 class_ = 1; class_ <= 3; ++class_) {
                uint256 used = synthetic.used(keccak256("federation"), slot, class_);
                if (used != handler.expected(slot, class_)) revert Violated("used is not what was granted");
                if (used > handler.largestQuota()) revert Violated("more than any quota");
            }
        }
    }

    function invariantDecisionsAreTheChain() public view {
        if (handler.contractUnderTest().decisions(keccak256("federation")) != handler.head()) revert Violated("head");
    }

    /// @dev The invariants say something only if the handler gets everywhere.
    function testHandlerReachesEverything() public {
        handler.request(0, 0, 3, 20);
        handler.report(0, 10, true);
        handler.request(0, 0, 3, 20);
        handler.report(1, 10, false);
        handler.request(1, 0, 3, 20);
        handler.pass(1799);
        handler.pass(1799);
        handler.pass(2);
        handler.expire(2);
        handler.newPolicy(120, false, 0);
        handler.request(1, 1, 3, 20);
        handler.review(3, true, 7);
        handler.newPolicy(120, false, 128);
        handler.request(0, 1, 3, 20);
        handler.preview(4, 30);
        handler.review(4, true, 7);
        bytes32[7] memory actions =
            [bytes32("approved"), "accepted", "rejected", "expired", "reviewed", "policy", "previewed"];
        for (uint256 i = 0; i < 7; ++i) {
            if (handler.done(actions[i]) == 0) revert Violated(string(bytes.concat(actions[i])));
        }
        invariantQuotaIsExact();
        invariantDecisionsAreTheChain();
        invariantNothingForbiddenHappened();
    }
}
