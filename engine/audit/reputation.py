"""Verdicts, reputations and rewards, computed a second time from the scores that hospitals gave each other.

The rule, as in `contracts/README.md`. A score is the share of correct predictions in parts per million, rounded down. The
score of an update is the lower median of the scores that the other hospitals of the round gave it; it is accepted if twice
that is at least the best median of the round. With reputation g of its hospital and h, the mean reputation of the round's
hospitals before it, rounded down:

    g < h                  g + 1, whatever the verdict
    g >= h, accepted       g + 1, at most 100
    g > h, rejected        g - 1
    g = h, rejected        0

An accepted update earns as many points as its hospital's reputation after the round; whoever leads a round by what its committee
said earns `LEADER_REWARD` more.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple

from engine.audit import spec
from engine.audit.case import Case, Peer, Round, Verdicts
from engine.audit.records import check_signature
from engine.audit.report import Count, Told, finding
from engine.ledger.format import BASE_REPUTATION, LEADER_REWARD, MAX_REPUTATION, PARTS, REWARDS, SCORES, WORD


class Standing:
    """Reputations and rewards of all hospitals, moved on round by round.

    Attributes:
        reputations: slot -> reputation, of those that were judged.
        rewards: slot -> points so far, of those that have earned any.
    """

    def __init__(self) -> None:
        self.reputations: dict[int, int] = {}
        self.rewards: dict[int, int] = {}

    def threshold(self, slots: Sequence[int]) -> int:
        """Mean reputation of these hospitals, rounded down; 0 without any."""
        return sum(self.reputations.get(slot, BASE_REPUTATION) for slot in slots) // max(len(slots), 1)

    def judge(self, slot: int, accepted: bool, threshold: int) -> None:
        """One verdict."""
        g = self.reputations.get(slot, BASE_REPUTATION)
        if g < threshold:
            after = g + 1
        elif accepted:
            after = min(g + 1, MAX_REPUTATION)
        else:
            after = g - 1 if g > threshold else 0
        self.reputations[slot] = after
        if accepted:
            self.rewards[slot] = self.rewards.get(slot, 0) + after

    @property
    def rewards_root(self) -> bytes:
        """Root over the rewards, zero without any."""
        return spec.paired_root([spec.reward_leaf(slot, self.rewards[slot]) for slot in sorted(self.rewards)])


def check(case: Case) -> Iterator[Told]:
    """Check scores and verdicts of each round, and what follows from them, in the order of the rounds."""
    standing = Standing()
    for number, entry in sorted(case.rounds.items()):
        yield from _check_peers(number, entry)
        yield from _check_judges(case, number, entry)
        yield from _check_scores(number, entry)
        if entry.verdicts:
            yield Count("verdicts")
            yield from _check_verdicts(number, entry, standing.threshold([*entry.judged]))
            _move(standing, entry)
        yield from _compare(number, entry, REWARDS, standing.rewards_root, "rewards that follow from all verdicts")


def standing_after(case: Case) -> Standing:
    """Reputations and rewards after the last round, by the recorded verdicts."""
    standing = Standing()
    for _, entry in sorted(case.rounds.items()):
        _move(standing, entry)
    return standing


def applied(case: Case) -> dict[int, int]:
    """Reputations as the contract must hold them: after the verdicts that it was shown."""
    shown = {t.round for t in case.transactions if t.purpose == "reputation" and case.taken(t)}
    standing = Standing()
    found: dict[int, int] = {}
    for number, entry in sorted(case.rounds.items()):
        _move(standing, entry)
        if number in shown:
            found |= {slot: standing.reputations[slot] for slot in entry.judged}
    return found


def _move(standing: Standing, entry: Round) -> None:
    for one in entry.verdicts:
        for slot, accepted in one.judged.items():
            standing.judge(slot, accepted, one.threshold)
    leads = entry.sitting.leader if entry.sitting is not None and entry.verdicts else None
    if leads is not None:
        standing.rewards[leads] = standing.rewards.get(leads, 0) + LEADER_REWARD


def _check_peers(number: int, entry: Round) -> Iterator[Told]:
    for one in entry.peers:
        yield Count("peer scores")
        if one.correct > one.total or one.judge == one.slot or not {one.slot, one.judge} <= entry.updates.keys():
            message = "no hospital of the round can have given this score"
            values = [one.judge, one.correct, one.total]
            where = {"round": number, "hospital": one.slot}
            yield finding("scores", "peers", "a share of a judge's beats", values, message, **where)


def _check_judges(case: Case, number: int, entry: Round) -> Iterator[Told]:
    """Every judge signed exactly the scores that are recorded as its own, and the contract was shown what follows."""
    judges = {one.judge for one in entry.peers}
    for judge in sorted(judges | entry.judges.keys()):
        said = [
            [one.slot, "0x" + _update(entry, one.slot).hex(), one.correct, one.total]
            for one in sorted(entry.peers)
            if one.judge == judge
        ]
        values = {
            "federation": case.federation.id,
            "round": number,
            "slot": judge,
            "parentHead": case.head(number - 1),
            "scores": spec.json_hash(said),
        }
        if judge not in case.federation.slots:
            continue  # told with the score
        yield Count("judges")
        digest, where = spec.typed_digest("PeerScores", values, case.domain), {"round": number, "hospital": judge}
        signature = entry.judges.get(judge, b"")
        yield from check_signature(digest, signature, case.holder(judge, number), "scores", "signature", where)
    shown = [t for t in case.transactions if t.purpose == "reputation" and t.round == number and case.taken(t)]
    told = sorted(t.arguments["index"] for t in shown if type(t.arguments.get("index")) is int)
    wanted = sorted(one.index for one in entry.verdicts)
    # the last round of a run that stopped may have been sealed before its verdicts were sent
    if told != wanted and (case.finished or number < case.last):
        message = "each word of the verdicts must have been shown to the contract once"
        yield finding("scores", "transaction", wanted, told, message, round=number)
    for transaction in shown:
        given = transaction.arguments
        right = [one for one in entry.verdicts if one.index == given.get("index")]
        for one in right:
            for name in ("participated", "accepted", "threshold"):
                if given.get(name) != getattr(one, name):
                    message = f"{name} that the contract was shown is not what the verdicts say"
                    yield finding("scores", name, getattr(one, name), given.get(name), message, round=number)


def _update(entry: Round, slot: int) -> bytes:
    update = entry.updates.get(slot)
    return spec.ZERO if update is None or update.record is None else update.record["update"]  # type: ignore[no-any-return]


def _check_scores(number: int, entry: Round) -> Iterator[Told]:
    """The verdicts follow from the scores, and both stand under the annex."""
    leaves = [spec.verdicts_leaf(number, *astuple(one)) for one in entry.verdicts]
    if entry.verdicts and entry.sitting is not None:
        expected = packed(accepted_by_committee(entry), entry.verdicts[0].threshold)
        if entry.verdicts != expected:
            message = "the verdicts do not follow from what the committee said"
            yield finding("scores", "verdicts", expected, entry.verdicts, message, round=number)
    elif entry.verdicts and not entry.peers:
        message = "verdicts were given, but no hospital scored an update"
        yield finding("scores", "peers", "scores", None, message, round=number)
    if entry.peers:
        leaves.append(spec.peers_leaf(number, entry.peers))
        level = entry.verdicts[0].threshold if entry.verdicts else 0
        expected = packed(accepted_by_peers(entry.peers), level)
        if entry.verdicts != expected:
            message = "the verdicts do not follow from the scores of the other hospitals"
            yield finding("scores", "verdicts", expected, entry.verdicts, message, round=number)
    yield from _compare(number, entry, SCORES, spec.paired_root(leaves), "recorded verdicts and scores")


def accepted_by_peers(peers: Sequence[Peer]) -> dict[int, bool]:
    """Slot of each update -> whether its median score is at least half of the best; {} where one has no judge."""
    scores: dict[int, list[int]] = defaultdict(list)
    for one in peers:
        scores[one.slot] += [PARTS * one.correct // one.total if one.total else 0] * (one.judge != one.slot)
    if not all(scores.values()):
        return {}
    # The lower of the two middle values: an integer, and one that somebody gave.
    medians = {slot: sorted(given)[(len(given) - 1) // 2] for slot, given in scores.items()}
    return {slot: 2 * median >= max(medians.values()) for slot, median in medians.items()}


def accepted_by_committee(entry: Round) -> dict[int, bool]:
    """Slot of each hospital that trained or owed scores -> whether it did well: its update qualified, its scores came."""
    if entry.sitting is None:
        return {}
    good = entry.sitting.qualified
    return {slot: slot in good for slot in entry.sitting.trainers} | dict.fromkeys(entry.sitting.absent, False)


def packed(accepted: Mapping[int, bool], threshold: int) -> tuple[Verdicts, ...]:
    """Verdicts as the journal and the contract hold them: sixteen hospitals in a word, ascending, none empty."""
    found = []
    for index in sorted({slot // WORD for slot in accepted}):
        bits = {1 << slot % WORD: good for slot, good in accepted.items() if slot // WORD == index}
        found.append(Verdicts(index, sum(bits), sum(bit for bit, good in bits.items() if good), threshold))
    return tuple(found)


def _check_verdicts(number: int, entry: Round, level: int) -> Iterator[Told]:
    judged = entry.judged
    if judged.keys() != entry.updates.keys() | {*(entry.sitting.absent if entry.sitting else ())}:
        message = "verdicts were not given on exactly the updates of the round"
        yield finding("scores", "participated", sorted(entry.updates), sorted(judged), message, round=number)
    for one in entry.verdicts:
        if one.accepted & ~one.participated:
            message = "an update was accepted that there is not"
            yield finding("scores", "accepted", one.participated, one.accepted, message, round=number)
        if one.threshold != level:
            message = "the threshold is not the mean reputation of the hospitals in the round"
            yield finding("scores", "threshold", level, one.threshold, message, round=number)


def _compare(number: int, entry: Round, name: str, root: bytes, what: str) -> Iterator[Told]:
    recorded = entry.digests.get(name, spec.ZERO)
    if recorded != root:
        message = f"the tree over the {what} has another root"
        yield finding("annex", name, root, recorded, message, round=number)
