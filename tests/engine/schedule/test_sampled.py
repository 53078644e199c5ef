"""Synchronous rounds of drawn hospitals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import f32

from engine.errors import HospitalError
from engine.messages import Asked, LoopState, Trained, Update
from engine.schedule.sampled import Sampled


@given(seed=st.integers(0, 2**40), round=st.integers(1, 500), hospitals=st.integers(1, 40), wanted=st.integers(1, 50))
def test_selection_depends_on_seed_and_round_alone(seed: int, round: int, hospitals: int, wanted: int):
    schedule = Sampled(seed, tuple(range(3, 3 + hospitals)), wanted)
    chosen = schedule.select(round)
    assert list(chosen) == sorted(set(chosen))
    assert len(chosen) == min(wanted, hospitals)
    assert set(chosen) <= set(schedule.trainers)
    assert all(type(h) is int for h in chosen)
    assert Sampled(seed, schedule.trainers, wanted, min_hospitals=1).select(round) == chosen


def test_selection_gives_every_hospital_its_turn():
    schedule = Sampled(0, tuple(range(10)), 2)
    rounds = [schedule.select(round) for round in range(1, 201)]
    counts = np.bincount(np.array(rounds).ravel(), minlength=10)
    assert counts.sum() == 400
    assert counts.min() > 20  # 40 expected, standard deviation 5.7
    assert len(set(rounds)) > 30  # of 45 pairs
    assert rounds != [Sampled(1, tuple(range(10)), 2).select(round) for round in range(1, 201)]


def test_asked_are_the_drawn_hospitals_with_the_state_s_model():
    schedule, state = Sampled(0, (0, 1, 2, 3), 2), LoopState(4, f32(1, 2))
    asked = schedule.ask(5, state, b"name")
    assert (asked.round, asked.hospitals, asked.model) == (5, schedule.select(5), b"name")
    assert asked.params is state.params


def test_what_is_taken_keeps_the_sum_and_tells_who_is_lost():
    answers = [Update(0, None, 1, 0.0, 1), HospitalError(1, 1, "train", "boom")]
    trained, asked = Trained(answers, np.array([7])), Asked(1, (0, 1), f32(0))
    taken = Sampled(0, (0, 1), 2, min_hospitals=1).take(asked, trained)
    assert [u.hospital for u in taken.updates] == [0]
    assert [error.hospital for error in taken.lost] == [1]
    assert taken.summed is trained.summed
    with pytest.raises(HospitalError, match="hospital 1, round 1, train: boom"):
        Sampled(0, (0, 1), 2).take(asked, trained)
