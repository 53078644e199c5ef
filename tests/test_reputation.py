"""The rule of reputation worked out by hand, its properties, verdicts by the median of peers, and the packed words."""

import pytest
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import LedgerError
from engine.ledger.merkle import paired_path
from engine.ledger.records import Verdicts
from engine.ledger.reputation import (
    BASE,
    HIGHEST,
    after,
    earned,
    reward_leaf,
    rewards_levels,
    rewards_root,
    score,
    step,
    threshold,
    verdicts,
    words,
)


@pytest.mark.parametrize(
    ("reputation", "accepted", "level", "expected"),
    [
        (10, True, 10, 11),
        (12, True, 10, 13),
        (HIGHEST, True, 10, HIGHEST),
        (12, False, 10, 11),
        (11, False, 10, 10),
        (10, False, 10, 0),
        (0, True, 10, 1),
        (0, False, 10, 1),
        (9, False, 10, 10),
        (0, False, 0, 0),
        (0, True, 0, 1),
    ],
)
def test_rule(reputation: int, accepted: bool, level: int, expected: int) -> None:
    assert step(reputation, accepted, level) == expected


@given(st.integers(0, HIGHEST), st.booleans(), st.integers(0, HIGHEST))
def test_rule_is_exhaustive_disjoint_and_stays_in_range(reputation: int, accepted: bool, level: int) -> None:
    cases = [
        accepted and reputation >= level,
        not accepted and reputation >= level + 1,
        not accepted and reputation == level,
        reputation < level,
    ]
    assert sum(cases) == 1
    results = [min(reputation + 1, HIGHEST), reputation - 1, 0, reputation + 1]
    assert step(reputation, accepted, level) == results[cases.index(True)]
    assert 0 <= step(reputation, accepted, level) <= HIGHEST


def test_threshold_is_the_mean_of_the_participants_rounded_down() -> None:
    assert threshold({0: 10, 1: 13, 2: 90}, [0, 1]) == 11
    assert threshold({}, [4, 5]) == BASE


def test_verdict_is_the_median_of_the_others() -> None:
    # hospital 2 sends rubbish and praises itself; hospital 0 lies about everybody
    scores = {
        0: {1: 900_000, 2: 880_000},
        1: {0: 0, 2: 910_000},
        2: {0: 100_000, 1: 120_000, 2: 1_000_000},
    }
    assert verdicts(scores) == {0: True, 1: False, 2: False}  # medians 880,000, 0 (lower of two) and 100,000
    scores[1] = {0: 0, 2: 910_000, 3: 900_000}
    assert verdicts(scores)[1]  # two honest judges outvote one liar


def test_half_of_the_best_is_enough() -> None:
    assert verdicts({0: {1: 1_000_000}, 1: {0: 500_000}}) == {0: True, 1: True}
    assert verdicts({0: {1: 1_000_000}, 1: {0: 499_999}}) == {0: True, 1: False}


def test_an_update_without_a_judge_is_an_error() -> None:
    with pytest.raises(LedgerError, match="update of hospital 0 has no judge"):
        verdicts({0: {0: 1}})


def test_score_in_parts_per_million() -> None:
    assert score(1, 3) == 333_333
    assert score(0, 0) == 0


def test_words_pack_sixteen_hospitals() -> None:
    assert words({0: True, 15: False, 16: True, 33: True}, 12) == (
        Verdicts(0, 0b1000000000000001, 0b1, 12),
        Verdicts(1, 0b1, 0b1, 12),
        Verdicts(2, 0b10, 0b10, 12),
    )


def test_a_round_of_reputation_and_rewards() -> None:
    accepted = {0: True, 1: False}
    reputations = after({}, accepted, BASE)
    assert reputations == {0: 11, 1: 0}
    rewards = earned({}, reputations, accepted)
    assert rewards == {0: 11}
    later = after(reputations, {0: True, 1: True}, threshold(reputations, [0, 1]))
    assert later == {0: 12, 1: 1}  # mean 5: hospital 1 serves its penalty
    assert earned(rewards, later, {0: True, 1: True}) == {0: 23, 1: 1}


@given(st.integers(1, 12), st.data())
def test_proofs_lead_to_the_root(count: int, data: st.DataObject) -> None:
    rewards = {slot: 100 + slot for slot in range(count)}
    position = data.draw(st.integers(0, count - 1))
    node = reward_leaf(position, 100 + position)
    for sibling in paired_path(rewards_levels(rewards), position):
        node = keccak(min(node, sibling) + max(node, sibling))
    assert node == rewards_root(rewards)


def test_leaves_by_hand() -> None:
    assert reward_leaf(3, 500) == keccak(keccak((3).to_bytes(32, "big") + (500).to_bytes(32, "big")))
    assert rewards_root({}) == bytes(32)
