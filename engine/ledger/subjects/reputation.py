"""Reputation and rewards of hospitals: integers only, so that contract, writer and auditor agree to the last unit.

The rule is the social norm of Zhao et al., "Privacy-Preserving Blockchain-Based Federated Learning for IoT Devices" (IEEE Internet of
Things Journal, 2021), with its four cases made disjoint. Verdicts do not come from what a hospital says of itself: every update is
scored by the other hospitals of the round on their own validation beats, and the median counts (as in BlockFLow, Mugunthan et al. 2020).

    >>> step(12, accepted=True, threshold=10), step(12, accepted=False, threshold=10), step(10, accepted=False, threshold=10)
    (13, 11, 0)
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from engine.encoding import hexed, json_hash, keccak
from engine.errors import LedgerError
from engine.ledger.book import Book, Call
from engine.ledger.chain.contracts import call_data, deploy_data
from engine.ledger.format import BASE_REPUTATION, LEADER_REWARD, MAX_REPUTATION, PARTS, REWARDS, SCORES, WORD
from engine.ledger.signing import require_signer
from engine.ledger.store import Rows
from engine.ledger.subjects.registry import Registry
from engine.ledger.subjects.rounds import Rounds
from engine.ledger.subjects.updates import ModelUpdate
from engine.ledger.trees import Levels, annex_path, paired_levels, paired_path
from engine.ledger.typed import U16, U32, U64, Bytes32, Record, record_from_json, record_to_json, word

# --- The rule ---------------------------------------------------------------------------------------------------------


def step(reputation: int, accepted: bool, threshold: int) -> int:
    """The reputation of a hospital after a round in which it took part.

    Below the threshold it serves a penalty and comes back one by one, whatever the verdict; from there on an accepted update
    adds one, a rejected one takes one, or everything if the hospital stood just at the threshold.
    """
    if reputation < threshold:
        return reputation + 1
    if accepted:
        return min(reputation + 1, MAX_REPUTATION)
    return 0 if reputation == threshold else reputation - 1


def score(correct: int, total: int) -> int:
    """Share of correct predictions in parts per million, rounded down; 0 where there is nothing to predict."""
    return PARTS * correct // total if total else 0


def verdicts(scores: Mapping[int, Mapping[int, int]]) -> dict[int, bool]:
    """Accepts the updates whose median score is at least half of the best median.

    Args:
        scores: slot of the update -> slot of the judge -> score; no hospital judges itself.

    Raises:
        LedgerError: an update has no judge but its own hospital.
    """
    medians = {slot: _median([s for judge, s in row.items() if judge != slot], slot) for slot, row in scores.items()}
    best = max(medians.values(), default=0)
    return {slot: 2 * median >= best for slot, median in medians.items()}


def _median(values: Sequence[int], slot: int) -> int:
    if not values:
        raise LedgerError(
            f"the update of hospital {slot} has no judge: peer scores need at least two hospitals in a round"
        )
    # The lower of the two middle values: an integer, and one that somebody gave.
    return sorted(values)[(len(values) - 1) // 2]


# --- What is written down ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdicts(Record):
    """Verdicts of one round on the 16 hospitals 16 * index to 16 * index + 15, one bit each.

    Attributes:
        participated: bit set of the hospitals with a verdict.
        accepted: bit set of those whose update was good.
        threshold: reputation at which the rule turns.
    """

    index: U32
    participated: U16
    accepted: U16
    threshold: U16


@dataclass(frozen=True)
class PeerScores(Record):
    """What a judge signs in a round: its scores of the other updates.

    Attributes:
        slot: of the judge.
        parent_head: head after the round before.
        scores: SHA-256 of canonical JSON, see `said_digest`.
    """

    federation: Bytes32
    round: U64
    slot: U32
    parent_head: Bytes32
    scores: Bytes32


def said_digest(said: Iterable[tuple[int, bytes, int, int]]) -> bytes:
    """Digest of what a judge says: slot, hash of the update, correct predictions and beats of each, by ascending slot."""
    return json_hash([[slot, hexed(update), correct, total] for slot, update, correct, total in said])


@dataclass(frozen=True)
class PeerScore:
    """What hospital `judge` found of the update of `slot`: correct predictions among all its validation beats."""

    slot: int
    judge: int
    correct: int
    total: int


@dataclass(frozen=True)
class Judged:
    """What the peers said of a round's updates: their scores, by ascending slot and judge, and the verdicts that follow.

    Empty where nobody was asked.

    Attributes:
        signatures: of each judge over its scores.
    """

    verdicts: tuple[Verdicts, ...] = ()
    peers: tuple[PeerScore, ...] = ()
    signatures: Mapping[int, bytes] = field(default_factory=dict)

    def rows(self, round: int) -> Rows:
        """As the journal holds it."""
        return {
            "scores": [(round, record_to_json(one)) for one in self.verdicts],
            "peers": [(round, one.slot, one.judge, one.correct, one.total) for one in self.peers],
            "judges": [(round, judge, self.signatures[judge]) for judge in sorted(self.signatures)],
        }

    def tree(self, round: int) -> Levels:
        """The tree of the verdicts, one at least; the scores behind them are its last leaf, if there are any."""
        leaves = [_verdicts_leaf(round, one) for one in self.verdicts]
        return paired_levels([*leaves, _peers_leaf(round, self.peers)] if self.peers else leaves)


@dataclass(frozen=True)
class Standing:
    """Where hospitals stand after a round, by slot: reputation (`BASE_REPUTATION` if not named), cumulative reward."""

    reputations: Mapping[int, int] = field(default_factory=dict)
    rewards: Mapping[int, int] = field(default_factory=dict)

    def threshold(self, participants: Sequence[int]) -> int:
        """The mean reputation of a round's participants before it, rounded down."""
        return sum(self.reputations.get(slot, BASE_REPUTATION) for slot in participants) // len(participants)

    def after(self, verdicts: Sequence[Verdicts], leader: int | None = None) -> "Standing":
        """After a round with these verdicts: an accepted update earns its hospital's reputation in points, and `LEADER_REWARD` who leads."""
        if not verdicts:
            return self
        accepted, level = accepted_of(verdicts), verdicts[0].threshold
        held = {s: step(self.reputations.get(s, BASE_REPUTATION), good, level) for s, good in accepted.items()}
        extra = {} if leader is None else {leader: LEADER_REWARD}
        gains = {s: self.rewards.get(s, 0) + held[s] + extra.get(s, 0) for s, good in accepted.items() if good}
        return Standing({**self.reputations, **held}, {**self.rewards, **gains})

    def tree(self) -> Levels:
        """The tree of rewards: a leaf for each hospital that has any, at least one, by ascending slot."""
        return paired_levels([_reward_leaf(slot, self.rewards[slot]) for slot in sorted(self.rewards)])


class Found(NamedTuple):
    """What moves reputations and rewards in a round: verdicts, and the hospital that leads it, None without one."""

    verdicts: tuple[Verdicts, ...] = ()
    leader: int | None = None


def found_in(rows: Rows, leader_of: Callable[[str], int | None]) -> Found:
    """What moves them, in what is written down with a round."""
    verdicts = tuple(record_from_json(Verdicts, row[1]) for row in rows.get("scores", ()))
    return Found(verdicts, next((leader_of(row[1]) for row in rows.get("sittings", ())), None))


def standing(rounds: Iterable[Found]) -> Standing:
    """Where hospitals stand after these rounds, in their order."""
    found = Standing()
    for one in rounds:
        found = found.after(*one)
    return found


def judge(
    scores: Mapping[int, Mapping[int, tuple[int, int]]],
    slots: Sequence[int],
    before: Standing,
    signatures: Mapping[int, bytes] | None = None,
) -> Judged:
    """Judge the updates of a round; nobody, where an update has no judge.

    Args:
        scores: slot of the update -> slot of the judge -> correct predictions and number of its beats.
        slots: with an update.
        before: the round.
        signatures: of the judges.
    """
    if not scores or set(scores) != set(slots):
        return Judged()
    peers = [PeerScore(slot, by, *scores[slot][by]) for slot in sorted(scores) for by in sorted(scores[slot])]
    shares = {slot: {by: score(*said) for by, said in row.items()} for slot, row in scores.items()}
    return Judged(words(verdicts(shares), before.threshold(slots)), tuple(peers), dict(signatures or {}))


def digests(round: int, judged: Judged, after: Standing) -> dict[str, bytes]:
    """What a round's annex names of verdicts and rewards."""
    scores = {SCORES: judged.tree(round)[-1][0]} if judged.verdicts else {}
    return scores | ({REWARDS: after.tree()[-1][0]} if after.rewards else {})


def words(accepted: Mapping[int, bool], level: int) -> tuple[Verdicts, ...]:
    """The verdicts of a round, sixteen hospitals in a word as the contract takes them; ascending, without empty words."""
    packed = []
    for index in sorted({slot // WORD for slot in accepted}):
        here = {slot % WORD: good for slot, good in accepted.items() if slot // WORD == index}
        packed.append(Verdicts(index, sum(1 << i for i in here), sum(1 << i for i in here if here[i]), level))
    return tuple(packed)


def accepted_of(verdicts: Sequence[Verdicts]) -> dict[int, bool]:
    """What `words` packed: slot -> whether its update was accepted."""
    return {
        WORD * one.index + bit: bool(one.accepted >> bit & 1)
        for one in verdicts
        for bit in range(WORD)
        if one.participated >> bit & 1
    }


# Leaves are hashed twice, so that no inner node (64 bytes) can pass for one; no leaf of verdicts starts as that of peers.


def _verdicts_leaf(round: int, verdicts: Verdicts) -> bytes:
    values = (round, verdicts.index, verdicts.participated, verdicts.accepted, verdicts.threshold)
    return keccak(keccak(b"".join(word(value) for value in values)))


def _peers_leaf(round: int, peers: Sequence[PeerScore]) -> bytes:
    values = [value for one in peers for value in (one.slot, one.judge, one.correct, one.total)]
    return keccak(keccak(b"PulseLedger peer scores 1" + word(round) + b"".join(word(value) for value in values)))


def _reward_leaf(slot: int, cumulative: int) -> bytes:
    return keccak(keccak(word(slot) + word(cumulative)))


# --- In the ledger ----------------------------------------------------------------------------------------------------


class Reputation:
    """Verdicts, reputations and rewards of an open federation."""

    def __init__(self, book: Book, registry: Registry, rounds: Rounds, leader_of: Callable[[str], int | None]) -> None:
        """
        Args:
            leader_of: the hospital that leads a round by what is written down of its committee.
        """
        self._book, self._registry, self._rounds, self._leader_of = book, registry, rounds, leader_of
        self._federation = registry.federation

    @property
    def contract(self) -> str:
        """Address of the ReputationLedger; deployed when first asked for."""
        data = deploy_data(self._book.domain.contract, contract="ReputationLedger")
        return self._book.deploy("deploy-reputation", data)

    def judged(self, round: int) -> Judged:
        """Return what the journal holds of a round."""
        rows = self._book.store.rows("scores", round=round)
        peers = self._book.store.rows("peers", round=round)
        return Judged(
            tuple(record_from_json(Verdicts, row["verdicts"]) for row in rows),
            tuple(PeerScore(row["slot"], row["judge"], row["correct"], row["total"]) for row in peers),
            {row["slot"]: row["signature"] for row in self._book.store.rows("judges", round=round)},
        )

    def found(self) -> dict[int, Found]:
        """Return what moves reputations and rewards, of all rounds that have verdicts, in their order."""
        leaders = {row["round"]: self._leader_of(row["sitting"]) for row in self._book.store.rows("sittings")}
        found: dict[int, Found] = {}
        for row in self._book.store.rows("scores"):
            round, one = row["round"], record_from_json(Verdicts, row["verdicts"])
            found[round] = Found((*found.get(round, Found()).verdicts, one), leaders.get(round))
        return found

    def standing(self, round: int | None = None) -> Standing:
        """Where hospitals stand after a round, by default the last sealed one."""
        last = len(self._rounds.seals) if round is None else round
        return standing(one for number, one in self.found().items() if number <= last)

    def update(self, round: int) -> None:
        """Send the verdicts of a sealed round to the contract, one transaction for 16 hospitals.

        Raises:
            LedgerError: the round has no verdicts, a judge did not sign its scores, or the contract refuses.
        """
        judged = self.judged(round)
        if not judged.verdicts:
            raise LedgerError(f"round {round} has no verdicts")
        self._require_signed(round, judged)
        tree, where = judged.tree(round), self._named(round, SCORES)
        for position, one in enumerate(judged.verdicts):
            word = (one.index, one.participated, one.accepted, one.threshold)
            self._send("reputation", round, "updateReputation", *where, *word, paired_path(tree, position))

    def _require_signed(self, round: int, judged: Judged) -> None:
        rows = self._book.store.rows("updates", round=round)
        sent = {row["slot"]: record_from_json(ModelUpdate, row["record"]).update for row in rows}
        head = self._rounds.headers[round].previous_head
        for judge in sorted({one.judge for one in judged.peers}):
            said = [(one.slot, sent[one.slot], one.correct, one.total) for one in judged.peers if one.judge == judge]
            record = PeerScores(self._federation.id, round, judge, head, said_digest(said))
            where, holder = f"round {round}, judge {judge}", self._registry.holder(judge, round)
            require_signer(where, record, judged.signatures.get(judge, b""), self._book.domain, holder)

    def claim(self, slot: int) -> int:
        """Pull the reward of a hospital, as of the last final round; return its points. The same again does nothing.

        Raises:
            ContractRevert: the round is not final.
            LedgerError: the hospital has no reward.
        """
        final = self._last_final()
        after = self.standing(final)
        if slot not in after.rewards:
            raise LedgerError(f"hospital {slot} has no reward to claim")
        organisation, membership = self._registry.membership(slot)
        claim = (slot, self._registry.holder(slot), organisation, after.rewards[slot])
        proof = paired_path(after.tree(), sorted(after.rewards).index(slot))
        self._send("claim", final, "claimReward", *self._named(final, REWARDS), claim, membership, proof)
        return after.rewards[slot]

    def _last_final(self) -> int:
        last = len(self._rounds.seals)
        finals = (round for round in range(last, 0, -1) if self._rounds.status(round) == "FINAL")
        return next(finals, last)

    def _named(self, round: int, name: str) -> tuple[Any, ...]:
        """Arguments that prove a digest of a round: federation, header, digest, siblings in the annex."""
        found = self._rounds.digests(round)
        siblings = annex_path(found, name)
        return self._federation.id, self._rounds.sealed(round).abi, found[name], siblings

    def _send(self, purpose: str, round: int, function: str, *arguments: Any) -> None:
        data = call_data(function, *arguments, contract="ReputationLedger")
        self._book.send(Call(purpose, round, self.contract, data))
