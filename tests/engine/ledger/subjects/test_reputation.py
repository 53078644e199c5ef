"""The rule of reputation worked out by hand, its properties, verdicts by the median of peers, and what the contract holds."""

from dataclasses import replace
from pathlib import Path

import pytest
from eth_abi import encode
from eth_utils import keccak
from hypothesis import given
from hypothesis import strategies as st
from simulators import FEDERATION_ID, Run

from engine.errors import LedgerError
from engine.ledger.chain.base import ContractRevert
from engine.ledger.format import BASE_REPUTATION, LEADER_REWARD, MAX_REPUTATION, REWARDS, SCORES
from engine.ledger.run import RunLedger
from engine.ledger.sitting import leader_of
from engine.ledger.subjects.reputation import (
    Found,
    Judged,
    PeerScore,
    Standing,
    Verdicts,
    digests,
    found_in,
    judge,
    score,
    standing,
    step,
    verdicts,
    words,
)
from engine.ledger.subjects.rounds import RoundEntry
from engine.ledger.trees import paired_path


@pytest.mark.parametrize(
    ("reputation", "accepted", "level", "expected"),
    [
        (10, True, 10, 11),
        (12, True, 10, 13),
        (MAX_REPUTATION, True, 10, MAX_REPUTATION),
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


@given(st.integers(0, MAX_REPUTATION), st.booleans(), st.integers(0, MAX_REPUTATION))
def test_rule_is_exhaustive_disjoint_and_stays_in_range(reputation: int, accepted: bool, level: int) -> None:
    cases = [
        accepted and reputation >= level,
        not accepted and reputation >= level + 1,
        not accepted and reputation == level,
        reputation < level,
    ]
    assert sum(cases) == 1
    results = [min(reputation + 1, MAX_REPUTATION), reputation - 1, 0, reputation + 1]
    assert step(reputation, accepted, level) == results[cases.index(True)]
    assert 0 <= step(reputation, accepted, level) <= MAX_REPUTATION


def test_threshold_is_the_mean_of_the_participants_rounded_down() -> None:
    assert Standing({0: 10, 1: 13, 2: 90}).threshold([0, 1]) == 11
    assert Standing().threshold([4, 5]) == BASE_REPUTATION


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
    first = Standing().after(words({0: True, 1: False}, BASE_REPUTATION))
    assert (first.reputations, first.rewards) == ({0: 11, 1: 0}, {0: 11})
    level = first.threshold([0, 1])
    assert level == 5  # hospital 1 serves its penalty
    second = first.after(words({0: True, 1: True}, level))
    assert (second.reputations, second.rewards) == ({0: 12, 1: 1}, {0: 23, 1: 1})
    assert second.after(()) == second
    rounds = [words({0: True, 1: False}, BASE_REPUTATION), (), words({0: True, 1: True}, level)]
    assert standing(Found(one) for one in rounds) == second


def test_who_leads_a_round_earns_more() -> None:
    first = Standing().after(words({0: True, 1: True}, BASE_REPUTATION), leader=1)
    assert first.rewards == {0: 11, 1: 11 + LEADER_REWARD}
    assert standing([Found(words({0: True, 1: True}, BASE_REPUTATION), 1)]) == first


def test_a_round_is_judged_by_the_scores_of_peers() -> None:
    scores = {0: {1: (80, 100), 2: (82, 100)}, 1: {0: (10, 100), 2: (12, 90)}, 2: {0: (79, 100), 1: (0, 0)}}
    judged = judge(scores, [0, 1, 2], Standing({0: 12}))
    # medians: 800,000 of hospital 0, 100,000 of 1, and 0 of 2, whose judge 1 has no beats
    assert judged.verdicts == (Verdicts(0, 0b111, 0b001, 10),)
    assert judged.peers[:2] == (PeerScore(0, 1, 80, 100), PeerScore(0, 2, 82, 100))
    assert len(judged.peers) == 6
    assert found_in(judged.rows(4), leader_of) == (judged.verdicts, None)
    assert judge(scores, [0, 1], Standing()) == judge({}, [0], Standing()) == Judged()


# --- Trees ------------------------------------------------------------------------------------------------------------


def leaf(types: list[str], values: list[int]) -> bytes:
    return keccak(keccak(encode(types, values)))


def test_the_tree_of_verdicts_by_hand() -> None:
    judged = Judged(tuple(Verdicts(index, 7, 5, 2) for index in range(3)))
    types = ["uint64", "uint32", "uint16", "uint16", "uint16"]
    a, b, c = (leaf(types, [9, index, 7, 5, 2]) for index in range(3))
    pair = keccak(min(a, b) + max(a, b))
    assert judged.tree(9)[-1] == [keccak(min(pair, c) + max(pair, c))]
    peers = replace(judged, verdicts=judged.verdicts[:1], peers=(PeerScore(0, 1, 3, 4),))
    text = b"PulseLedger peer scores 1" + encode(["uint64", "uint32", "uint32", "uint32", "uint32"], [9, 0, 1, 3, 4])
    d = keccak(keccak(text))
    assert peers.tree(9)[-1] == [keccak(min(a, d) + max(a, d))]


@given(st.integers(1, 12), st.data())
def test_proofs_lead_to_the_root_of_rewards(count: int, data: st.DataObject) -> None:
    tree = Standing(rewards={slot: 100 + slot for slot in range(count)}).tree()
    position = data.draw(st.integers(0, count - 1))
    node = leaf(["uint32", "uint256"], [position, 100 + position])
    for sibling in paired_path(tree, position):
        node = keccak(min(node, sibling) + max(node, sibling))
    assert [node] == tree[-1]


def test_the_annex_names_verdicts_where_there_are_some_and_rewards_from_then_on() -> None:
    judged = Judged(words({0: False}, 0))
    assert set(digests(1, judged, Standing())) == {SCORES}
    paid = Standing(rewards={1: 5})
    assert set(digests(2, Judged(), paid)) == {REWARDS}
    assert digests(2, judged, paid) == {SCORES: judged.tree(2)[-1][0], REWARDS: paid.tree()[-1][0]}
    assert digests(3, Judged(), Standing()) == {}


# --- In the ledger ----------------------------------------------------------------------------------------------------


def judged_entry(run: Run, ledger: RunLedger, number: int, accepted: dict[int, bool], before: Standing) -> RoundEntry:
    """A round with these verdicts."""
    judged = Judged(words(accepted, before.threshold(list(accepted))))
    entry = run.entry(number, ledger.domain, ledger.head)
    found = digests(number, judged, before.after(judged.verdicts))
    return replace(entry, digests=found, rows=judged.rows(number))


def held(ledger: RunLedger, what: str) -> list[int]:
    contract = ledger.reputation.contract
    return [ledger.book.query("ReputationLedger", contract, what, FEDERATION_ID, slot) for slot in range(4)]


def test_verdicts_move_reputations_and_rewards_are_claimed_once(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.open() as ledger:
        assert ledger.summary()["transactions"] == 3  # the contract is not there before somebody asks for it
        for number, accepted in ((1, {0: True, 1: True, 2: False}), (2, {0: True, 2: True})):
            entry = judged_entry(run, ledger, number, accepted, ledger.reputation.standing())
            ledger.append(entry)
            for _ in range(2):
                ledger.reputation.update(number)
            assert ledger.append(entry).round == number
        ledger.append(run.entry(3, ledger.domain, ledger.head))
        with pytest.raises(LedgerError, match="round 3 has no verdicts"):
            ledger.reputation.update(3)
        after = ledger.reputation.standing()
        assert (after.reputations, after.rewards) == ({0: 12, 1: 11, 2: 1}, {0: 23, 1: 11, 2: 1})
        assert held(ledger, "reputation") == [12, 11, 1, BASE_REPUTATION]
        assert ledger.summary()["transactions"] == 3 + 3 + 1 + 2  # seals, the contract, verdicts
    with run.open() as ledger:
        assert ledger.reputation.standing(1).rewards == {0: 11, 1: 11}
        with pytest.raises(LedgerError, match="the annex names no rewards"):
            ledger.reputation.claim(0)  # round 3, as it was closed here, tells nobody's rewards
        ledger.append(judged_entry(run, ledger, 4, {0: True, 2: False}, ledger.reputation.standing()))
        ledger.reputation.update(4)
        with pytest.raises(ContractRevert, match="RoundNotFinal"):
            ledger.reputation.claim(0)
        ledger.rounds.finalize()
        for _ in range(2):
            assert ledger.reputation.claim(0) == 23 + 13
        assert held(ledger, "claimed") == [36, 0, 0, 0]
        with pytest.raises(LedgerError, match="hospital 3 has no reward to claim"):
            ledger.reputation.claim(3)
        rows = {row["id"]: (row["reputation"], row["reward"]) for row in ledger.summary()["hospitals"]}
        assert rows == {0: (13, 36), 1: (11, 11), 2: (2, 1)}
