"""Who leads a round: by hand, and how little a hospital's own claim can do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.committee.quality import leader, merit
from engine.committee.verdicts import PARTS, column, scores
from engine.messages import Vote

# three hospitals that judge each other and themselves, two classes, of which hospital 2 has one
VOTES = {
    0: Vote((10, 10), {0: (10, 10), 1: (8, 6), 2: (9, 7)}),
    1: Vote((10, 10), {0: (8, 7), 1: (9, 9), 2: (9, 8)}),
    2: Vote((10, 0), {0: (7, 0), 1: (6, 0), 2: (8, 0)}),
}
COLUMNS = {judge: column(judge, vote, (0, 1, 2), claims=True) for judge, vote in VOTES.items()}


def test_merits_by_hand():
    """Hospital 0 claims 10,000; the others' means are 7500 and 7000: the lower median 7000, so that 7500 counts, and 7250."""
    assert merit(COLUMNS, 0, 50, 500) == 50 * 7500 + 50 * 7250
    assert merit(COLUMNS, 1, 50, 500) == 50 * 6500 + 50 * 6500  # 9000 of 7000 and 6000
    assert merit(COLUMNS, 2, 50, 500) == 50 * 8000 + 50 * 8250  # 8000, which it found itself; of 8000 and 8500
    assert leader(COLUMNS, {0, 1, 2}, 50, 500) == 2
    assert leader(COLUMNS, {0, 1}, 50, 500) == 0  # whose update does not qualify cannot lead
    assert leader(COLUMNS, {0, 1, 2}, 100, PARTS) == 0  # by claims alone
    assert leader(COLUMNS, {0, 1, 2}, 0, 0) is None
    assert leader(COLUMNS, set(), 50, 500) is None


def test_a_claim_moves_no_score():
    assert scores(COLUMNS, (0, 1, 2)) == {0: (7000 + 7000) // 2, 1: (6000 + 6000) // 2, 2: (9000 + 7000) // 2}


def test_who_claims_nothing_or_is_scored_by_nobody_does_not_lead():
    silent = {judge: column for judge, column in COLUMNS.items() if judge != 2}
    assert merit(silent, 2, 50, 500) is None
    assert leader(silent, {0, 1, 2}, 50, 500) == 0
    assert merit({0: COLUMNS[0]}, 0, 50, 500) is None


def test_of_equals_the_first_leads():
    same = {judge: dict.fromkeys((3, 4, 5), (5000,)) for judge in (3, 4, 5)}
    assert leader(same, {3, 4, 5}, 50, 500) == 3


shares = st.integers(0, PARTS)


@given(st.lists(shares, min_size=1, max_size=6), shares, shares, st.integers(1, 100), st.integers(0, PARTS))
def test_a_lie_about_ones_own_update_gains_the_cap_at_most(others, true, told, own, cap):
    def found(claim: int) -> int | None:
        return merit({0: {0: (claim,)}, **{i: {0: (share,)} for i, share in enumerate(others, 1)}}, 0, own, cap)

    honest, lied = found(true), found(told)
    assert honest is not None
    assert lied is not None
    assert abs(lied - honest) <= 2 * own * cap
    middle = sorted(others)[(len(others) - 1) // 2]
    assert lied <= own * (middle + cap) + (100 - own) * (sum(others) // len(others))


def test_a_judge_scores_its_own_update_only_where_claims_count():
    with pytest.raises(ValueError, match="judge 0"):
        column(0, VOTES[0], (0, 1, 2))
