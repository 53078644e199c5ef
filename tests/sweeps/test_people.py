"""Gaps between groups of patients with intervals over patients, and whom a method hurts."""

import numpy as np
import pytest
from outcomes import condition, outcome

from sweeps.hurt import ALONE, GLOBAL, hurts
from sweeps.people import gap_of, levels


def tables(*patients: list[list[int]]) -> np.ndarray:
    """Of one seed."""
    return np.array([patients])


def test_a_gap_is_the_first_group_less_the_second_and_its_interval_is_over_patients():
    """Women: 6 of 8 V found, 2 of 10 others called V. Men: 3 of 6, and 1 of 10."""
    women = tables([[4, 1], [0, 4]], [[4, 1], [2, 2]])
    men = tables([[9, 1], [3, 3]])
    found = gap_of(women, men, 1)
    assert found.recall is not None
    assert found.false_alarms is not None
    assert found.called is not None
    assert found.recall.value == pytest.approx(6 / 8 - 3 / 6)
    assert found.false_alarms.value == pytest.approx(2 / 10 - 1 / 10)
    assert found.called.value == pytest.approx(8 / 18 - 4 / 16)
    # drawn twice each woman finds 8 of 8 or 4 of 8; the only man is always himself
    assert found.recall.low == pytest.approx(4 / 8 - 3 / 6)
    assert found.recall.high == pytest.approx(8 / 8 - 3 / 6)
    assert found.false_alarms == pytest.approx((0.1, 0.1, 0.1))


def test_more_seeds_are_no_more_patients():
    women, men = tables([[4, 1], [0, 4]], [[4, 1], [2, 2]]), tables([[9, 1], [3, 3]])
    assert gap_of(np.repeat(women, 5, 0), np.repeat(men, 5, 0), 1) == gap_of(women, men, 1)


def test_a_gap_without_beats_of_the_class_is_none():
    found = gap_of(tables([[4, 1], [0, 0]]), tables([[9, 1], [3, 3]]), 1)
    assert found.recall is None
    assert found.called is not None


def test_a_group_by_itself_has_its_patients_intervals_and_one_patient_has_none():
    """Two women with 8 and 6 of 9 beats right; 8 of 10 N, 6 of 8 V, of which one has all and one half."""
    women, man = tables([[4, 1], [0, 4]], [[4, 1], [2, 2]]), tables([[9, 1], [3, 3]])
    found = dict(levels(women, [(0, "N"), (1, "V")], 8))
    assert found["accuracy"] == "77.8 [66.7, 88.9]"
    assert found["recall of N"] == "80.0 [80.0, 80.0]"
    assert found["recall of V"] == "75.0 [50.0, 100.0]"
    assert found["macro-F1"].startswith("77.5 [")  # 2 * 8 / (10 + 10) and 2 * 6 / (8 + 8)
    # F1 is 18 of 22 for N, 6 of 10 for V
    alone = levels(man, [(0, "N"), (1, "V")], 8)
    assert alone == [("accuracy", "75.0"), ("macro-F1", "(70.9)"), ("recall of N", "90.0"), ("recall of V", "(50.0)")]
    assert levels(tables([[4, 1], [0, 0]]), [(1, "V")], 8)[-1] == ("recall of V", "–")


def test_hurt_is_who_is_more_than_a_point_below_what_he_could_have():
    fedavg = outcome("fedavg", {0: 0.50, 1: 0.60, 2: 0.70, 3: 0.80}, {0: 0.54, 1: 0.60, 2: 0.70, 3: 0.80}, common=0.605)
    alone = outcome("local", {0: 0.50, 1: 0.62, 2: 0.709, 3: 0.10}, {0: 0.50, 1: 0.60, 2: 0.709, 3: 0.10})
    rows = condition(fedavg, alone)
    # against .605: 0 is .085 below, 1 only .005; alone: 1 is .01 below in the mean, which is not more than a point, 2 .009
    assert hurts(fedavg, rows) == {GLOBAL: 0.25, ALONE: 0.0}
    assert hurts(alone, rows) == {GLOBAL: None, ALONE: None}
    worse = outcome("local", {0: 0.50, 1: 0.63, 2: 0.709, 3: 0.10}, {0: 0.50, 1: 0.60, 2: 0.709, 3: 0.10})
    assert hurts(fedavg, condition(fedavg, worse))[ALONE] == 0.25
    assert hurts(fedavg, condition(fedavg))[ALONE] is None  # nobody trains alone here
