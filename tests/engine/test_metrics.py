"""Scores of confusion matrices that can be worked out on paper, and the server's mean."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.metrics import confusion, federation_scores, scores

#              predicted N, S, V
TABLE = np.array([[6, 2, 0],  # true N
                  [1, 3, 0],  # true S
                  [0, 4, 4]])  # true V  # fmt: skip


def test_confusion_counts_true_in_rows_and_predicted_in_columns():
    table = confusion(np.array([0, 0, 1, 2, 2], np.int8), np.array([0, 1, 1, 0, 0], np.int8), 3)
    assert table.tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 0]]
    assert confusion(np.zeros(0, np.int8), np.zeros(0, np.int8), 2).tolist() == [[0, 0], [0, 0]]
    # 4 * 127 would not fit into the labels' own int8
    assert confusion(np.full(200, 4, np.int8), np.full(200, 3, np.int8), 5)[4, 3] == 200


def test_scores_by_hand():
    found = scores(TABLE, "NSV")
    assert found["accuracy"] == 13 / 20
    assert found["recall"] == {"N": 6 / 8, "S": 3 / 4, "V": 4 / 8}
    assert found["precision"] == {"N": 6 / 7, "S": 3 / 9, "V": 4 / 4}
    # F1 = 2 TP / (2 TP + FP + FN)
    assert found["f1"] == pytest.approx({"N": 12 / 15, "S": 6 / 13, "V": 8 / 12})
    assert found["macro_f1"] == pytest.approx((12 / 15 + 6 / 13 + 8 / 12) / 3)
    assert found["balanced_accuracy"] == pytest.approx((3 / 4 + 3 / 4 + 1 / 2) / 3)
    assert found["recall_min"] == 1 / 2
    assert found["support"] == {"N": 8, "S": 4, "V": 8}


def test_an_absent_class_has_no_recall_and_counts_in_no_mean():
    # no V among the true labels, yet two S were called V; S was never called
    found = scores(np.array([[3, 0, 0], [1, 0, 2], [0, 0, 0]]), "NSV")
    assert found["recall"] == {"N": 1.0, "S": 0.0, "V": None}
    assert found["precision"] == {"N": 3 / 4, "S": None, "V": 0.0}
    assert found["f1"] == {"N": 6 / 7, "S": 0.0, "V": None}
    assert found["macro_f1"] == pytest.approx((6 / 7 + 0) / 2)
    assert found["balanced_accuracy"] == 0.5
    assert found["recall_min"] == 0.0


def test_means_are_over_the_scored_classes_only():
    """V is there, but is not among those that every part of the data has."""
    found = scores(TABLE, "NSV", "NS")
    assert found["macro_f1"] == pytest.approx((12 / 15 + 6 / 13) / 2)
    assert found["balanced_accuracy"] == pytest.approx((3 / 4 + 3 / 4) / 2)
    assert found["recall_min"] == 3 / 4
    assert found["accuracy"] == 13 / 20  # all beats
    assert found["recall"]["V"] == 1 / 2
    assert scores(TABLE, "NSV", "NSV") == scores(TABLE, "NSV")
    # classes have names, which may be longer than a letter
    assert scores(TABLE, ("normal", "S", "V"), ("normal", "S"))["macro_f1"] == found["macro_f1"]
    assert federation_scores({0: TABLE}, "NSV", scored="NS")["macro_f1"] == found["macro_f1"]


def test_rare_recall_is_the_mean_of_all_but_the_commonest():
    assert federation_scores({0: TABLE + np.diag([9, 0, 0])}, "NSV")["rare_recall"] == pytest.approx(
        (3 / 4 + 1 / 2) / 2
    )
    assert federation_scores({0: TABLE + np.diag([9, 0, 0])}, "NSV", scored="NV")["rare_recall"] == 1 / 2
    assert federation_scores({0: TABLE * [[1], [0], [0]]}, "NSV")["rare_recall"] is None  # only N


def test_a_hospital_without_scored_beats_is_neither_worst_nor_hurt():
    tables = {0: np.array([[0, 0], [1, 3]]), 1: np.array([[3, 1], [0, 2]])}
    found = federation_scores(tables, "NV", {0: np.array([[0, 0], [0, 4]]), 1: tables[1]}, scored="N")
    assert [row["macro_f1"] for row in found["per_hospital"]] == [None, pytest.approx(6 / 7)]
    assert found["worst_hospital_macro_f1"] == found["mean_hospital_macro_f1"] == pytest.approx(6 / 7)
    assert found["hurt_share"] == 0.0


def test_without_beats_there_are_no_scores():
    found = scores(np.zeros((2, 2), np.int64), "NV")
    assert [found[k] for k in ("accuracy", "balanced_accuracy", "macro_f1", "recall_min")] == [None] * 4
    assert federation_scores({}, "NV")["worst_hospital_macro_f1"] is None
    assert federation_scores({}, "NV", {})["hurt_share"] is None


def test_pooled_scores_are_not_the_mean_of_the_hospitals():
    tables = {2: np.array([[90, 10], [0, 0]]), 0: np.array([[1, 1], [1, 1]]), 5: np.zeros((2, 2), np.int64)}
    found = federation_scores(tables, "NV")
    assert found["confusion"] == [[91, 11], [1, 1]]
    assert found["accuracy"] == 92 / 104
    # in order of their ids; a hospital without beats has no row
    assert [row["id"] for row in found["per_hospital"]] == [0, 2]
    assert [row["accuracy"] for row in found["per_hospital"]] == [0.5, 0.9]
    assert found["worst_hospital_accuracy"] == 0.5
    assert found["worst_hospital_macro_f1"] == pytest.approx(0.5)  # hospital 2, N only: 180 / 190
    assert found["mean_hospital_macro_f1"] == pytest.approx((0.5 + 18 / 19) / 2)
    assert "hurt_share" not in found


def test_how_even_hospitals_are():
    def table(hits: int) -> np.ndarray:  # N only: F1 is 2 hits / (10 + hits)
        return np.array([[hits, 10 - hits], [0, 0]])

    found = federation_scores({0: table(10), 1: table(5), 2: table(5), 3: table(0)}, "NV")
    assert [row["f1"]["N"] for row in found["per_hospital"]] == [1.0, 2 / 3, 2 / 3, 0.0]
    assert found["mean_hospital_macro_f1"] == pytest.approx(7 / 12)
    assert found["variance_hospital_macro_f1"] == pytest.approx((25 + 1 + 1 + 49) / 144 / 4)
    assert found["jain_index"] == pytest.approx((7 / 3) ** 2 / (4 * (1 + 4 / 9 + 4 / 9)))
    assert found["worst_tenth_macro_f1"] == 0.0
    many = federation_scores({h: table(min(h, 10)) for h in range(11)}, "NV")  # a tenth of eleven are two
    assert many["worst_tenth_macro_f1"] == pytest.approx((0 + 2 / 11) / 2)
    even = federation_scores({h: table(7) for h in range(3)}, "NV")
    assert (even["jain_index"], even["variance_hospital_macro_f1"]) == (pytest.approx(1.0), pytest.approx(0.0))
    assert federation_scores({0: table(0)}, "NV")["jain_index"] is None


def test_hurt_are_hospitals_that_the_personal_model_made_worse():
    before = {i: np.array([[2, 2], [2, 2]]) for i in range(4)}
    after = {
        0: np.array([[4, 0], [0, 4]]),  # better
        1: np.array([[2, 2], [2, 2]]),  # as before: not hurt
        2: np.array([[4, 0], [4, 0]]),  # same accuracy, but V is never found: macro-F1 1/3 after 1/2
        3: np.array([[0, 4], [4, 0]]),  # worse
    }
    found = federation_scores(after, "NV", before)
    assert found["hurt_share"] == 2 / 4
    assert found["worst_hospital_macro_f1"] == 0.0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60))
def test_scores_agree_with_counting_beat_by_beat(pairs: list[tuple[int, int]]):
    true, predicted = (np.array(column, np.int8) for column in zip(*pairs, strict=True))
    found = scores(confusion(true, predicted, 3), "NSV")
    assert found["accuracy"] == pytest.approx((true == predicted).mean())
    present = sorted(set(true.tolist()))
    assert found["balanced_accuracy"] == pytest.approx(np.mean([(predicted[true == c] == c).mean() for c in present]))
    by_class = []
    for c in present:
        tp, fp, fn = (((true == c) == a) & ((predicted == c) == b) for a, b in ((1, 1), (0, 1), (1, 0)))
        by_class.append(2 * tp.sum() / (2 * tp.sum() + fp.sum() + fn.sum()))
    assert found["macro_f1"] == pytest.approx(np.mean(by_class))
