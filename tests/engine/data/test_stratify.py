"""Test parts that begin earlier, so that classes can be spoken of; by hand, and whatever the records."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data.beats import Beats
from engine.data.config import CohortConfig
from engine.data.partitions import TEST, TRAIN, VALIDATION, split
from engine.data.stratify import Stretch, drawn_evenly, moved
from engine.errors import ConfigError
from engine.settings import parse

Make = Callable[..., Beats]


def stretch(letters: str, tested: int, hospital: int = 0) -> Stretch:
    return Stretch(np.array(["NSV".index(c) for c in letters]), np.full(len(letters), hospital), tested)


def test_a_cut_moves_to_the_beat_that_is_lacking():
    # two V are wanted: the last one is at the 8th of ten, the one before it at the 6th
    assert moved([stretch("NNNNNVNVNN", 2)], 2) == [5]
    assert moved([stretch("NNNNNVNVNN", 2)], 1) == [3]


def test_a_cut_moves_where_it_costs_fewest_beats():
    records = [stretch("NNNNVNNNNN", 2), stretch("NNNNNNNVNN", 2)]
    assert moved(records, 1) == [2, 3]  # one beat more of the second; the V of the first is in its first half


def test_at_most_half_of_a_record_is_tested_and_for_nothing_none_is_moved():
    assert moved([stretch("VVVVVNNNNN", 2)], 1) == [2]
    assert moved([stretch("NNNNNNVNNN", 2)], 2) == [2]  # one V more is no two
    assert moved([stretch("NNVNVN", 4)], 1) == [4]  # more than half is tested anyway


def test_each_hospital_first_and_then_all_together():
    # hospital 0 has two V in its last half, hospital 1 one: the two are reached there, and three in neither nor in both but together
    records = [stretch("NNNNNVNVNN", 2, hospital=0), stretch("NNNNNNNVNN", 2, hospital=1)]
    assert moved([*records], 2) == [5, 2]
    # of three neither hospital has enough, both together have; of N both have: one beat more in hospital 0
    records = [stretch("NNNNNVNVNN", 2, hospital=0), stretch("NNNNNNVNNN", 3, hospital=1)]
    assert moved([*records], 3) == [5, 4]


@given(
    st.lists(st.tuples(st.text("NSV", min_size=1, max_size=30), st.integers(0, 2)), min_size=1, max_size=5),
    st.integers(1, 6),
)
def test_what_can_be_tested_is_and_no_record_is_tested_less(records: list[tuple[str, int]], least: int):
    made = [stretch(letters, round(0.3 * len(letters)), hospital) for letters, hospital in records]
    before = [one.tested for one in made]
    after = moved(made, least)
    assert all(b <= a <= max(b, len(one.classes) // 2) for b, a, one in zip(before, after, made, strict=True))
    for c in range(3):
        for group in ({0}, {1}, {2}, {0, 1, 2}):
            mine = [(one, a, b) for one, a, b in zip(made, after, before, strict=True) if int(one.hospital[0]) in group]

            def held(sizes: list[int], mine=mine, c=c) -> int:
                return sum(
                    int((one.classes[len(one.classes) - n :] == c).sum())
                    for (one, *_), n in zip(mine, sizes, strict=True)
                )

            most = held([max(b, len(one.classes) // 2) for one, _, b in mine])
            assert held([a for _, a, _ in mine]) >= min(least, most) or most < least


def test_of_drawn_patients_those_are_tested_whose_classes_can_be_spoken_of():
    table = np.array([[90, 0], [90, 60], [90, 10], [90, 50]])
    tests = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], bool)
    assert drawn_evenly(table, tests, 0.3, 50) == 2
    # of those that have enough, the one nearest to the share: 1/4 and 50/120 are nearer to 0.3 than 1/4 and 60/120
    assert drawn_evenly(table, np.array([[0, 1, 0, 0], [0, 0, 0, 1]], bool), 0.3, 50) == 1


# --- In a cohort


def settings(**changes: object) -> CohortConfig:
    return parse(CohortConfig, {"hospitals": 1, "stratify": True, "min_support": 2, **changes}, "cohort")


def test_the_parts_of_a_record_stay_in_order_of_time(beats_of: Make):
    beats = beats_of({"a": "NNNNNVNVNN"}, interval=300)
    part, _ = split(beats, np.zeros(10, np.int32), settings())
    # five are tested; the other five are parted six to one
    assert part.tolist() == [TRAIN] * 4 + [VALIDATION] + [TEST] * 5
    plain, _ = split(beats, np.zeros(10, np.int32), settings(stratify=False))
    assert plain.tolist() == [TRAIN] * 6 + [VALIDATION] + [TEST] * 3


def test_random_parts_hold_each_class(beats_of: Make):
    beats = beats_of({"a": "N" * 40 + "V" * 4 + "S"})
    part, _ = split(beats, np.zeros(45, np.int32), settings(split="random"))
    assert [(int((part[40:44] == p).sum())) for p in (TRAIN, VALIDATION, TEST)] == [1, 1, 2]
    assert (part[:40] == TEST).sum() == 12
    assert part[44] == TRAIN  # of one beat nothing can be tested


def test_whole_patients_are_tested_who_have_the_rare_class(beats_of: Make):
    beats = beats_of({f"r{i}": "NNNNN" + ("VV" if i in (3, 7) else "NN") for i in range(10)})
    for seed in range(5):
        part, _ = split(beats, np.zeros(70, np.int32), settings(split="patients", seed=seed, fractions=(0.6, 0.1, 0.3)))
        assert all(len(set(part[beats.record == r].tolist())) == 1 for r in range(10))
        tested = np.asarray(beats.y)[part == TEST] == beats.classes.index("V")
        assert tested.sum() == 2  # one of the two, and the other one trains or validates


def test_who_is_tested_is_not_chosen_twice():
    with pytest.raises(ConfigError, match="stratify chooses who is tested, and split inter-patient says it already"):
        settings(split="inter-patient")
