"""Reputation and rewards of hospitals: integers only, so that contract, writer and auditor agree to the last unit.

The rule is the social norm of Zhao et al., "Privacy-Preserving Blockchain-Based Federated Learning for IoT Devices" (IEEE Internet of
Things Journal, 2021), with its four cases made disjoint. Verdicts do not come from what a hospital says of itself: every update is
scored by the other hospitals of the round on their own validation beats, and the median counts (as in BlockFLow, Mugunthan et al. 2020).
"""

from collections.abc import Iterable, Mapping, Sequence

from engine.encoding import keccak
from engine.errors import LedgerError
from engine.ledger.merkle import paired_levels
from engine.ledger.records import ZERO, PeerScore, Verdicts, word

BASE, HIGHEST = 10, 100  # as in RoundLedger.sol
WIDTH = 16  # hospitals in one word of the contract
PARTS = 1_000_000  # a score of 1


def step(reputation: int, accepted: bool, threshold: int) -> int:
    """The reputation of a hospital after a round in which it took part.

    Below the threshold it serves a penalty and comes back one by one, whatever the verdict; from there on an accepted update
    adds one, a rejected one takes one, or everything if the hospital stood just at the threshold.
    """
    if reputation < threshold:
        return reputation + 1
    if accepted:
        return min(reputation + 1, HIGHEST)
    return 0 if reputation == threshold else reputation - 1


def threshold(reputations: Mapping[int, int], participants: Sequence[int]) -> int:
    """The mean reputation of a round's participants before it, rounded down."""
    return sum(reputations.get(slot, BASE) for slot in participants) // len(participants)


def score(correct: int, total: int) -> int:
    """Share of correct predictions in parts per million, rounded down; 0 where there is nothing to predict."""
    return PARTS * correct // total if total else 0


def peer_scores(peers: Iterable[PeerScore]) -> dict[int, dict[int, int]]:
    """What `verdicts` takes: slot of the update -> slot of the judge -> score."""
    found: dict[int, dict[int, int]] = {}
    for one in peers:
        found.setdefault(one.slot, {})[one.judge] = score(one.correct, one.total)
    return found


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


def words(accepted: Mapping[int, bool], level: int) -> tuple[Verdicts, ...]:
    """The verdicts of a round, sixteen hospitals in a word as the contract takes them; ascending, without empty words."""
    packed = []
    for index in sorted({slot // WIDTH for slot in accepted}):
        here = {slot % WIDTH: good for slot, good in accepted.items() if slot // WIDTH == index}
        packed.append(Verdicts(index, sum(1 << i for i in here), sum(1 << i for i in here if here[i]), level))
    return tuple(packed)


def accepted_of(verdicts: Sequence[Verdicts]) -> dict[int, bool]:
    """What `words` packed: slot -> whether its update was accepted."""
    return {
        WIDTH * one.index + bit: bool(one.accepted >> bit & 1)
        for one in verdicts
        for bit in range(WIDTH)
        if one.participated >> bit & 1
    }


def standing(rounds: Iterable[Sequence[Verdicts]]) -> tuple[dict[int, int], dict[int, int]]:
    """Reputations and cumulative rewards after the verdicts of these rounds, in their order."""
    reputations: dict[int, int] = {}
    rewards: dict[int, int] = {}
    for one in rounds:
        if one:
            accepted = accepted_of(one)
            reputations = after(reputations, accepted, one[0].threshold)
            rewards = earned(rewards, reputations, accepted)
    return reputations, rewards


def after(reputations: Mapping[int, int], accepted: Mapping[int, bool], level: int) -> dict[int, int]:
    """All reputations after a round."""
    changed = {slot: step(reputations.get(slot, BASE), good, level) for slot, good in accepted.items()}
    return {**reputations, **changed}


def earned(rewards: Mapping[int, int], reputations: Mapping[int, int], accepted: Mapping[int, bool]) -> dict[int, int]:
    """Cumulative rewards after a round: an accepted update earns its hospital's reputation in points, a rejected one nothing."""
    gains = {slot: rewards.get(slot, 0) + reputations[slot] for slot, good in accepted.items() if good}
    return {**rewards, **gains}


def reward_leaf(slot: int, cumulative: int) -> bytes:
    """Leaf of a claim in the tree of rewards."""
    # Hashed twice, so that no inner node (64 bytes) can pass for a leaf.
    return keccak(keccak(word(slot) + word(cumulative)))


def rewards_levels(rewards: Mapping[int, int]) -> list[list[bytes]]:
    """The tree of rewards: a leaf for each hospital that has any, by ascending slot."""
    return paired_levels([reward_leaf(slot, rewards[slot]) for slot in sorted(rewards)])


def rewards_root(rewards: Mapping[int, int]) -> bytes:
    """Root of the tree of rewards, zero without any."""
    return rewards_levels(rewards)[-1][0] if rewards else ZERO


def _median(values: Sequence[int], slot: int) -> int:
    if not values:
        raise LedgerError(
            f"the update of hospital {slot} has no judge: peer scores need at least two hospitals in a round"
        )
    # The lower of the two middle values: an integer, and one that somebody gave.
    return sorted(values)[(len(values) - 1) // 2]
