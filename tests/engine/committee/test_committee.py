"""Who sits in a committee, and how it works: commit, then reveal."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.audit import sittings
from engine.committee.build import require_room, seat
from engine.committee.config import CommitteeConfig
from engine.committee.judges import Committee
from engine.committee.schedule import Seated
from engine.committee.seats import lot, seated
from engine.errors import ConfigError, HospitalError
from engine.messages import Asked, Commitment, LoopState, Taken, Update, Vote
from engine.result import CommitteeRow, RoundSummary, VerdictRow
from engine.schedule.sampled import Sampled

MODEL = b"\x11" * 32


def row(scores: Mapping[int, int], qualified: Sequence[int], judges: Sequence[int] = (), absent: Sequence[int] = ()):
    verdicts = tuple(VerdictRow(hospital=h, score=s, qualified=h in qualified) for h, s in scores.items())
    return CommitteeRow(judges=tuple(judges), absent=tuple(absent), verdicts=verdicts)


def test_the_first_committee_has_the_smallest_lots_of_the_registered_model():
    """And not the order of a hash map."""
    expected = sorted(sorted(range(20), key=lambda h: lot(MODEL, 1, h))[:4])
    assert list(seated(MODEL, 1, range(20), 4, "random", None)) == expected
    assert seated(b"\x12" * 32, 1, range(20), 4, "random", None) != tuple(expected)


def test_the_next_committee_is_of_those_who_qualified_and_the_last_one_trains_again():
    before = row({0: 90, 1: 80, 2: 70, 3: 10}, (0, 1, 2), judges=(4, 5), absent=(5,))
    assert set(seated(MODEL, 2, range(6), 2, "random", before)) < {0, 1, 2}
    assert seated(MODEL, 2, range(6), 2, "score", before) == (0, 1)
    assert seated(MODEL, 2, range(6), 4, "score", before) == (0, 1, 2, 3)  # the rejected before those who have just sat
    assert seated(MODEL, 2, range(6), 5, "score", before) == (0, 1, 2, 3, 4)  # last of all who owed scores


@given(st.data())
def test_committees_are_whole_never_outsiders_and_the_audit_draws_the_same(data):
    candidates = sorted(data.draw(st.sets(st.integers(0, 19), min_size=2, max_size=12)))
    size = data.draw(st.integers(1, len(candidates) - 1))
    election = data.draw(st.sampled_from(["random", "score"]))
    judges = seated(MODEL, 1, candidates, size, election, None)
    before, same = None, None
    for round in range(2, 6):
        trainers = [h for h in candidates if h not in judges]
        shares = data.draw(st.lists(st.integers(0, 10), min_size=len(trainers), max_size=len(trainers)))
        absent = data.draw(st.sampled_from([(), judges[:1]]))
        there = tuple(j for j in judges if j not in absent)
        same = sittings.Sitting(round - 1, 50, 1, 0, 0, there, absent, tuple(trainers), tuple(shares) * len(there))
        before = row(same.scores, sorted(same.qualified), judges, absent)
        judges = seated(MODEL, round, candidates, size, election, before)
        assert len(judges) == size
        assert set(judges) <= set(candidates)
        assert list(judges) == sorted(set(judges))
        assert sittings.seated(MODEL, round, candidates, size, election, same) == list(judges)


def test_judges_do_not_train_and_a_schedule_made_anew_seats_the_same():
    def schedule() -> Seated:
        return Seated(Sampled(3, (0, 1, 2, 3, 5), 3), (0, 1, 2, 3, 5), 2, "random", lambda params: params.tobytes())

    for round in range(1, 9):
        state = LoopState(round - 1, np.full(2, round, np.float32))
        asked = schedule().ask(round, state, b"m")
        assert len(asked.judges) == 2
        assert len(asked.hospitals) == 3
        assert not {*asked.judges} & {*asked.hospitals}
        assert asked.judges == schedule().ask(round, state, b"").judges  # its name on a ledger changes nothing


def test_a_committee_larger_than_what_can_judge_is_refused():
    with pytest.raises(ConfigError, match=r"committee\.size is 3; of 4 hospitals that train, 2 have validation"):
        seat(CommitteeConfig(method="drawn", size=3), Sampled(0, (0, 1, 2, 3), 1), (0, 1), bytes)


def test_more_scores_than_the_contract_takes_are_refused_before_anything_begins():
    drawn = CommitteeConfig(method="drawn", size=16)
    require_room(drawn, 100, 5)
    for config, updates in ((drawn, 101), (CommitteeConfig(method="drawn", size=1, scores="beats"), 257)):
        with pytest.raises(ConfigError, match="the contract takes 256 updates and 8,000 scores"):
            require_room(config, updates, 5)
    require_room(CommitteeConfig(), 1000, 5)


class Pool:
    """Judge j finds j of ten beats right, one below five j + 5; some fail to commit, some to reveal."""

    def __init__(self, silent: Sequence[int] = (), gone: Sequence[int] = (), absurd: Sequence[int] = ()) -> None:
        self.silent, self.gone, self.absurd = silent, gone, absurd
        self.shown: Mapping[int, Commitment] = {}

    def commit(self, asked: Asked, updates: Sequence[Update], notice: Any, ids: Sequence[int]) -> list[Any]:
        return [HospitalError(j, 1, "judge", "-") if j in self.silent else Commitment(bytes([j]), b"") for j in ids]

    def reveal(
        self, asked: Asked, updates: Sequence[Update], commitments, notice: Any, ids: Sequence[int]
    ) -> list[Any]:
        self.shown = dict(commitments)
        return [
            HospitalError(j, 1, "judge", "-")
            if j in self.gone
            else Vote((10,), {u.hospital: (11 if j in self.absurd else j % 5 + 5,) for u in updates if u.hospital != j})
            for j in ids
        ]


def judged(pool: Pool, judges: tuple[int, ...] = (), gate: bool = True, hospitals: Sequence[int] = (0, 1, 2, 3)):
    updates = tuple(Update(h, np.zeros(2, np.float32), 1, 0.0, 1) for h in hospitals)
    config = CommitteeConfig(method="drawn" if judges else "others", gate=gate)
    committee = Committee(pool, config, (0, 1, 2, 3, 7, 8, 9), lambda asked: None)
    return committee(Asked(1, tuple(hospitals), np.zeros(2, np.float32), judges=judges), Taken(updates, (), None))


def test_scores_are_told_only_when_all_commitments_are_there():
    pool = Pool(silent=(8,))
    found = judged(pool, (7, 8, 9))
    assert sorted(pool.shown) == [7, 9]
    assert found.sitting.members == (7, 8, 9)
    assert found.sitting.row.absent == (8,)
    assert found.sitting.scores == dict.fromkeys(range(4), 7000)  # the lower of 7000 and 9000
    assert found.out == frozenset()


def test_who_owes_scores_is_absent_and_one_of_all_has_no_good_update():
    for pool in (Pool(silent=(2,)), Pool(gone=(2,)), Pool(absurd=(2,))):
        found = judged(pool)
        assert found.sitting.row.absent == (2,)
        assert found.sitting.qualified == {0, 1, 3}
        assert found.out == {2}
        assert judged(pool, gate=False).out == frozenset()


def test_where_nobody_judges_nothing_counts_and_the_round_goes_on():
    found = judged(Pool(silent=(7, 8, 9)), (7, 8, 9))
    assert (found.sitting.qualified, found.out) == (frozenset(), frozenset(range(4)))
    assert found.sitting.row.absent == (7, 8, 9)
    assert found.counted(Taken((), (), None)).updates == ()
    assert judged(Pool(), hospitals=(1,)).out == {1}  # alone it has no judge


def test_a_round_without_a_committee_has_no_row():
    fields = RoundSummary.model_fields["committee"]
    assert fields.default is None
