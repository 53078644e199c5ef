"""Verdicts: by hand, their invariants, and engine, audit and contract against each other to the last bit."""

from dataclasses import astuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.audit import sittings as theirs
from engine.committee.quality import merit
from engine.committee.seats import lot
from engine.committee.verdicts import PARTS, column, qualified, scores
from engine.ledger.chain.base import Chain
from engine.ledger.chain.contracts import deploy_data, query
from engine.ledger.chain.embedded import EmbeddedChain
from engine.ledger.chain.transactions import created_contract
from engine.ledger.sitting import leader_of, said_of
from engine.ledger.subjects.committee import Said, said_from
from engine.messages import Sitting, Vote

# the table of contracts/test/CommitteeLedger.t.sol: judge -> update -> share of each class
BY_HAND = {
    2: {0: (9000, 5000), 1: (6000, 1500), 2: (None, None)},
    3: {0: (8000, None), 1: (5000, None), 2: (2000, None)},
    4: {0: (10_000, 7000), 1: (0, 9000), 2: (4000, None)},
    5: {0: (100, None), 1: (7000, None), 2: (1000, None)},
}


def sitting(columns, members=None, percent: int = 50) -> Sitting:
    hospitals = sorted({h for one in columns.values() for h in one}) or [0, 1]
    found = scores(columns, hospitals)
    absent = [m for m in members or columns if m not in columns]
    return Sitting(
        tuple(members or sorted(columns)), {}, {}, columns, found, qualified(found, percent, absent), percent
    )


def test_scores_by_hand():
    found = scores(BY_HAND, (0, 1, 2))
    assert found == {0: (8000 + 5000) // 2, 1: (5000 + 1500) // 2, 2: 2000}
    assert qualified(found, 50) == {0, 1}  # 3250 is half of 6500
    assert qualified(found, 51) == {0}
    assert qualified(found, 50, absent=(0,)) == {1}


def test_what_a_judge_leaves_out_counts_as_nothing_right():
    """Leaving a trainer out must not move a median as if the judge were not there."""
    said = {judge: column(judge, Vote((4,), {0: (4,)}), (0, 1)) for judge in (7, 8)}
    said[9] = column(9, Vote((4,), {0: (4,), 1: (4,)}), (0, 1))
    assert scores(said, (0, 1)) == {0: PARTS, 1: 0}


@pytest.mark.parametrize(
    "vote", [Vote((), {}), Vote((4,), {0: (5,)}), Vote((4,), {0: (1, 1)}), Vote((-1,), {}), Vote((4,), {3: (1,)}), Vote((4,), {2: (4,)})]
)  # fmt: skip
def test_a_vote_that_no_validation_part_can_give_is_none(vote):
    with pytest.raises(ValueError, match="judge 2"):
        column(2, vote, (0, 1))


def test_the_update_of_a_hospital_with_a_rare_class_qualifies_where_a_plain_share_turns_it_away():
    """Nine judges have class N alone, two have S, too; the rare hospital's update is right on S and half right on N."""
    classes = {j: Vote((100, 0), {20: (100, 0), 21: (45, 0)}) for j in range(9)}
    classes |= {j: Vote((100, 20), {20: (100, 0), 21: (45, 20)}) for j in (9, 10)}
    beats = {
        j: Vote((sum(v.totals),), {h: (sum(right),) for h, right in v.correct.items()}) for j, v in classes.items()
    }
    by_class = scores({j: column(j, v, (20, 21)) for j, v in classes.items()}, (20, 21))
    assert by_class == {20: 5000, 21: 7250}
    assert qualified(by_class, 50) == {20, 21}
    assert qualified(scores({j: column(j, v, (20, 21)) for j, v in beats.items()}, (20, 21)), 50) == {20}


shares = st.integers(0, PARTS)


@given(st.lists(shares, min_size=1, max_size=9), st.data())
def test_fewer_lying_judges_than_honest_ones_leave_a_score_among_the_honest(honest, data):
    lies = data.draw(st.lists(shares, max_size=len(honest) - 1))
    columns = {judge: {0: (share,)} for judge, share in enumerate([*honest, *lies], start=1)}
    assert min(honest) <= scores(columns, (0,))[0] <= max(honest)


@given(st.lists(shares, min_size=2, max_size=9))
def test_one_column_more_or_less_moves_a_score_to_a_neighbour_at_most(given_):
    columns = {judge: {0: (share,)} for judge, share in enumerate(given_, start=1)}
    ordered, whole = sorted(given_), scores(columns, (0,))[0]
    place = ordered.index(whole), len(ordered) - 1 - ordered[::-1].index(whole)
    for judge in columns:
        left = scores({j: c for j, c in columns.items() if j != judge}, (0,))[0]
        assert ordered[max(place[0] - 1, 0)] <= left <= ordered[min(place[1] + 1, len(ordered) - 1)]


@st.composite
def said(draw) -> Said:
    """A committee whose judges may have trained, may lack classes, and may be absent."""
    trainers = tuple(sorted(draw(st.sets(st.integers(0, 9), min_size=1, max_size=5))))
    judges = tuple(sorted(draw(st.sets(st.integers(0, 12), max_size=5))))
    absent = tuple(sorted(draw(st.sets(st.integers(0, 12), max_size=2)) - {*judges}))
    classes = draw(st.integers(1, 4)) if judges else 0
    share = st.one_of(st.none(), st.sampled_from([0, 1, 4999, 5000, PARTS]), shares)
    own = draw(st.sampled_from([0, 1, 50, 100]))
    lanes = [None if j == t and not own else draw(share) for j in judges for t in trainers for _ in range(classes)]
    numbers = (
        draw(st.integers(1, 99)),
        draw(st.integers(0, 100)),
        classes,
        own,
        draw(st.sampled_from([0, 500, PARTS])),
    )
    return Said(*numbers, judges, absent, trainers, tuple(lanes))


@pytest.fixture(scope="module")
def contract() -> tuple[Chain, str]:
    """A CommitteeLedger on a chain in this process; of its RoundLedger the verdicts ask nothing."""
    chain = EmbeddedChain()
    raw = chain.sign(None, deploy_data(chain.sender, contract="CommitteeLedger"), 3_000_000)
    chain.send(raw)
    return chain, created_contract(chain.sender, raw)


@settings(max_examples=25)
@given(said())
def test_the_contract_finds_the_same(contract: tuple[Chain, str], one: Said):
    found = query(*contract, "verdicts", one.abi, contract="CommitteeLedger")
    expected = scores(one.columns, one.trainers)
    assert dict(zip(one.trainers, found["scores"], strict=True)) == expected
    bits = {slot for i, slot in enumerate(one.trainers) if found["qualified"] >> i & 1}
    assert bits == qualified(expected, one.percent, one.absent)
    assert query(*contract, "digest", one.abi, contract="CommitteeLedger") == one.digest
    leads = query(*contract, "leader", one.abi, contract="CommitteeLedger")
    assert (leads["slot"] if leads["found"] else None) == leader_of(one.text())
    if leads["found"]:
        assert leads["merit"] == merit(one.columns, leads["slot"], one.own, one.cap)


def test_lots_are_those_of_the_contract(contract: tuple[Chain, str]):
    assert query(*contract, "lot", b"\x07" * 32, 3, 7, contract="CommitteeLedger") == lot(b"\x07" * 32, 3, 7)


@settings(max_examples=40)
@given(said())
def test_engine_and_audit_agree_on_words_digest_scores_and_who_qualifies_and_leads(one: Said):
    other = theirs.read_sitting(one.text())
    assert said_from(one.text()) == one
    assert astuple(other) == tuple(one)
    assert (other.words, other.digest) == (list(one.words), one.digest)
    found = scores(one.columns, one.trainers)
    assert other.scores == found
    assert other.qualified == qualified(found, one.percent, one.absent)
    assert other.leader == leader_of(one.text())


def test_a_committee_of_which_nobody_came_says_so():
    said_ = said_of(4, sitting({}, members=(5, 6)))
    assert said_ == Said(4, 50, 0, 0, 0, (), (5, 6), (0, 1), ())
    assert (said_.columns, theirs.read_sitting(said_.text()).qualified) == ({}, set())
