"""The cohort's report: distances and baselines worked out by hand, and the numbers of the first study."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from engine.config import RunConfig
from engine.data import cohort as module
from engine.data.beats import Beats
from engine.data.cohort import Cohort, build_cohort, heterogeneity
from engine.data.config import CohortConfig, DataConfig
from engine.errors import ConfigError

Make = Callable[..., Beats]


@pytest.fixture
def build(beats_of: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Cohort]:
    """`build({"a": "NNV"}, hospitals=1, ...)` builds a cohort from beats in memory."""

    def built(
        records: dict[str, str], patients: dict[str, str] | None = None, database: str = "", **settings: Any
    ) -> Cohort:
        beats = beats_of(records, patients, database=database)
        monkeypatch.setattr(module, "load", lambda data, progress: beats)
        return build_cohort(DataConfig(), CohortConfig(hospitals=settings.pop("hospitals", len(records)), **settings))

    return built


# --- heterogeneity


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        # Opposite: each is 1/2 + 1/2 from the pool.
        ([[10, 0], [0, 10]], {"emd_mean": 1, "emd_max": 1, "js": 1, "hellinger": 1, "size_cv": 0}),
        # Equal shares, sizes 4 and 8: mean 6, spread 2.
        ([[3, 1], [6, 2]], {"emd_mean": 0, "emd_max": 0, "js": 0, "hellinger": 0, "size_cv": 1 / 3}),
        # Pool (1/2, 1/2); entropy of (3/4, 1/4) is 0.811278 bit: sqrt(1 - 0.811278); sqrt(1 - 2 sqrt(3/16)).
        ([[3, 1], [1, 3]], {"emd_mean": 0.5, "emd_max": 0.5, "js": 0.434422, "hellinger": 0.366025, "size_cv": 0}),
        # Pool (3/4, 1/4), weighted by size: 1/4 + 1/4 and 3/4 + 3/4. Sizes 30 and 10: mean 20, spread 10.
        ([[30, 0], [0, 10]], {"emd_mean": 1, "emd_max": 1.5, "js": 1, "hellinger": 1, "size_cv": 0.5}),
        # Three classes, one each: 2/3 + 1/3 + 1/3; log2(3) bit over log2(3).
        (
            [[5, 0, 0], [0, 5, 0], [0, 0, 5]],
            {"emd_mean": 4 / 3, "emd_max": 4 / 3, "js": 1, "hellinger": 1, "size_cv": 0},
        ),
        # Two alike and one apart: pool (2/3, 1/3); Hellinger over the pairs 0, 1, 1.
        (
            [[5, 0], [5, 0], [0, 5]],
            {"emd_mean": 8 / 9, "emd_max": 4 / 3, "js": (0.918296 / 1.584963) ** 0.5, "hellinger": (2 / 3) ** 0.5,
             "size_cv": 0},
        ),
        ([[7, 3]], {"emd_mean": 0, "emd_max": 0, "js": 0, "hellinger": 0, "size_cv": 0}),
    ],
)  # fmt: skip
def test_heterogeneity_by_hand(table: list[list[int]], expected: dict[str, float]) -> None:
    assert heterogeneity(np.array(table)) == pytest.approx(expected, abs=1e-6)


def test_hospitals_that_swap_their_classes_are_apart() -> None:
    # A Wasserstein distance between the probability vectors, taken as samples, sees no difference here.
    assert wasserstein_distance([1, 0], [0, 1]) == 0
    assert heterogeneity(np.array([[1, 0], [0, 1]]))["emd_mean"] == 1
    assert wasserstein_distance([0.7, 0.2, 0.1], [0.1, 0.7, 0.2]) == pytest.approx(0)
    assert heterogeneity(np.array([[7, 2, 1], [1, 7, 2]]))["emd_mean"] == pytest.approx(0.6)


tables = st.integers(2, 5).flatmap(
    lambda classes: st.lists(
        st.lists(st.integers(0, 50), min_size=classes, max_size=classes).filter(any), min_size=1, max_size=8
    )
)


@given(tables, st.randoms(use_true_random=False))
def test_heterogeneity_stays_in_its_bounds_and_forgets_names(table: list[list[int]], random: Any) -> None:
    whole = np.array(table)
    measured = heterogeneity(whole)
    assert 0 <= measured["emd_mean"] <= measured["emd_max"] + 1e-9 <= 2 + 1e-9
    assert -1e-9 <= measured["js"] <= 1 + 1e-9
    assert -1e-9 <= measured["hellinger"] <= 1 + 1e-9
    hospitals, classes = (random.sample(range(n), n) for n in whole.shape)
    # The root near zero magnifies the last digit of its argument.
    assert heterogeneity(whole[hospitals][:, classes]) == pytest.approx(measured, abs=1e-6)
    assert heterogeneity(np.repeat(whole[:1], 3, axis=0)) == pytest.approx(dict.fromkeys(measured, 0), abs=1e-6)


# --- baselines


def test_local_majority_by_hand(build: Callable[..., Cohort]) -> None:
    # Ten beats of each: six train, one validates, three test. The commonest class of a's train beats is N, of all its
    # beats V; the same holds for the three together.
    report = build({"a": "NNNNVV" "V" "VVV", "b": "VVVVVN" "V" "VNV", "c": "NNNNNN" "N" "NVV"},
                   partition="one-record").report  # fmt: skip
    # a: N is right for 0 of 3. b: V for 2 of 3. c: N for 1 of 3.
    assert [row["local_majority_accuracy"] for row in report["hospitals"]] == pytest.approx([0, 2 / 3, 1 / 3])
    assert report["local_majority_accuracy"] == pytest.approx(3 / 9)
    # Tested are 2 N and 7 V. N is said of a's 3 and c's 3 and hits 1, V of b's 3 and hits 2.
    f1 = {"N": 2 * 1 / (2 + 6), "V": 2 * 2 / (7 + 3)}
    assert report["local_majority_macro_f1"] == pytest.approx((f1["N"] + f1["V"]) / 2)
    # Train beats: N 4 + 1 + 6 = 11, V 2 + 5 = 7; N is right for 2 of 9.
    assert report["global_majority_accuracy"] == pytest.approx(2 / 9)
    # All beats: a has V 6 of 10, b has V 8 of 10, c has N 8 of 10.
    assert report["local_majority_accuracy_all"] == pytest.approx(22 / 30)
    assert report["scored"] == ["N", "V"]
    assert report["beats"] == 30
    assert report["classes"] == {"N": 14, "S": 0, "V": 16, "F": 0, "Q": 0}
    assert report["hospitals"][1] == {
        "id": 1, "records": ["b"], "trains": True, "train": 6, "validation": 1, "test": 3,
        "classes": {"N": 2, "S": 0, "V": 8, "F": 0, "Q": 0}, "local_majority_accuracy": pytest.approx(2 / 3),
        "local_majority_macro_f1": pytest.approx((2 * 2 / (2 + 3) + 0) / 2),  # tested are V N V, V is said of all
        "not_testable": ["N", "S", "V", "F", "Q"],
        "left_out": {"edge": 0, "lost": 0, "flat": 0, "unclear": 0},
    }  # fmt: skip


def test_missing_classes_are_listed_by_hospital(build: Callable[..., Cohort]) -> None:
    report = build({"a": "NNNNNNNNVS", "b": "NNNNNNNNNV", "c": "QQQQQQQQQN"}, partition="one-record").report
    assert report["missing"] == {"N": [], "S": [1, 2], "V": [2], "F": [0, 1, 2], "Q": [0, 1]}


def test_a_hospital_without_test_beats_has_no_baseline(build: Callable[..., Cohort]) -> None:
    # Of one beat nothing is tested: round(0.3) is 0.
    report = build({"a": "N", "b": "NNNNNNNNNN"}, partition="one-record").report
    assert [row["local_majority_accuracy"] for row in report["hospitals"]] == [None, 1]
    assert report["local_majority_accuracy"] == 1


# --- leaks


def test_nothing_leaks_between_whole_patients_in_time(build: Callable[..., Cohort]) -> None:
    report = build({"a": "N" * 10, "b": "N" * 10}, partition="one-record").report
    assert report["leaky"] == report["patients_shared"] == []


def test_a_random_split_is_called_leaky(build: Callable[..., Cohort]) -> None:
    report = build({"a": "N" * 10, "b": "N" * 10}, partition="one-record", split="random").report
    assert report["leaky"] == ["random split: neighbouring beats of one patient are in train and test"]
    assert report["patients_shared"] == []


def test_a_patient_in_two_hospitals_is_called_leaky(build: Callable[..., Cohort]) -> None:
    report = build({f"r{i}": "NSVFQ" * 20 for i in range(6)}, hospitals=3, partition="beat-dirichlet", alpha=10).report
    assert report["patients_shared"] == [f"r{i}" for i in range(6)]
    assert report["leaky"] == ["patients in more than one hospital: r0, r1, r2, r3, r4 ..."]


def test_201_and_202_leak_between_ds1_and_ds2(build: Callable[..., Cohort]) -> None:
    names = dict.fromkeys(["101", "201", "202"], "N" * 10)
    settings = {"hospitals": 2, "partition": "one-record", "split": "inter-patient"}
    report = build(names, {"202": "201"}, "mitdb", **settings).report
    assert report["leaky"] == ["patients in more than one hospital: 201"]
    assert [(row["records"], row["trains"]) for row in report["hospitals"]] == [
        (["101"], True), (["201"], True), (["202"], False),
    ]  # fmt: skip


# --- the cohort


@pytest.mark.parametrize(
    ("changes", "leaky"),
    [
        ({}, False),
        ({"cohort.split": "random"}, True),
        ({"cohort.split": "inter-patient"}, False),
        ({"cohort.split": "leave-one-hospital-out", "cohort.held_out": 2, "cohort.adapt_minutes": 0.5}, False),
        ({"cohort.partition": "beat-dirichlet", "cohort.alpha": 1.0}, True),
    ],
)
def test_the_parts_of_all_hospitals_are_disjoint(
    tiny_config: Callable[..., RunConfig], changes: dict[str, Any], leaky: bool
) -> None:
    config = tiny_config(**{"cohort.adapt_minutes": 0.8, **changes})
    cohort = build_cohort(config.data, config.cohort)
    parts = [part for h in cohort.hospitals for part in (h.train, h.validation, h.test)]
    used = np.concatenate(parts)
    assert len(set(used.tolist())) == len(used) <= len(cohort.beats)
    assert all((np.diff(part) > 0).all() and part.dtype == np.int64 for part in parts)
    assert [h.id for h in cohort.hospitals] == list(range(len(cohort.hospitals)))
    rows = cohort.report["hospitals"]
    sizes = [(len(h.train), len(h.validation), len(h.test), h.trains) for h in cohort.hospitals]
    assert [(row["train"], row["validation"], row["test"], row["trains"]) for row in rows] == sizes
    assert sum(sum(row["classes"].values()) for row in rows) == cohort.report["beats"] == len(cohort.beats)
    assert cohort.report["edge_beats"] == sum(record["edge"] for record in cohort.beats.records)
    assert cohort.report["digest"] == cohort.beats.digest
    assert bool(cohort.report["leaky"]) == leaky
    assert json.loads(json.dumps(cohort.report, allow_nan=False)) == cohort.report


def test_the_same_cohort_is_built_again(tiny_config: Callable[..., RunConfig]) -> None:
    config = tiny_config(**{"cohort.partition": "record-dirichlet", "cohort.split": "random"})
    first, second = (build_cohort(config.data, config.cohort) for _ in range(2))
    assert first.report == second.report
    for a, b in zip(first.hospitals, second.hospitals, strict=True):
        assert np.array_equal(a.train, b.train)
        assert np.array_equal(a.test, b.test)


def refusal(work: Callable[[], object]) -> str:
    """The message with which `work` is refused: one sentence on one line."""
    with pytest.raises(ConfigError) as caught:
        work()
    message = str(caught.value)
    assert message.endswith(".")
    assert len(message.splitlines()) == 1
    return message


def test_a_hospital_without_train_beats_is_refused(build: Callable[..., Cohort]) -> None:
    # Held out, its first beat lies after the first 0.001 minutes.
    settings = {"split": "leave-one-hospital-out", "held_out": 1, "adapt_minutes": 0.001}
    message = refusal(lambda: build({"a": "N" * 10, "b": "N" * 10}, partition="one-record", **settings))
    assert message == (
        "cohort: hospital 1 (b) has no train beats with split leave-one-hospital-out; "
        "give it more records, fewer hospitals, or other data.classes."
    )


@pytest.mark.parametrize("empty", [0, 1])
def test_a_hospital_without_any_beat_is_refused(build: Callable[..., Cohort], empty: int) -> None:
    message = refusal(lambda: build({"a": "N" * 10 * empty, "b": "N" * 10 * (1 - empty)}, partition="one-record"))
    name = "ab"[empty]
    says = f"cohort: hospital {empty} (no beats; none is left of {name}) has no train beats with split chronological; "
    assert message.startswith(says)


# --- the first study


def test_the_prototype_is_easy_without_looking_at_the_signal(mitdb: Any) -> None:
    data = DataConfig(
        source="mitdb", folder=str(mitdb), records=("100", "101", "102"), lead=0, window=(180, 180), drop_symbols=("Q",)
    )
    report = build_cohort(data, CohortConfig(hospitals=3, partition="one-record")).report
    assert report["beats"] == 6_318
    assert report["local_majority_accuracy_all"] == pytest.approx(0.9778, abs=5e-5)
    assert report["local_majority_accuracy"] == pytest.approx(0.9916, abs=5e-5)
    assert report["heterogeneity"]["emd_mean"] == pytest.approx(0.859, abs=5e-4)
    assert report["heterogeneity"]["emd_max"] == pytest.approx(1.25, abs=5e-3)
    assert report["heterogeneity"]["size_cv"] == pytest.approx(0.08, abs=5e-3)
    assert report["missing"]["F"] == [0, 1, 2]
    assert report["leaky"] == []
    random = build_cohort(data, CohortConfig(hospitals=3, partition="one-record", split="random")).report
    assert random["local_majority_accuracy"] == pytest.approx(0.9778, abs=0.006)


def test_one_real_record_for_each_hospital(mitdb: Any) -> None:
    # 90.54 % in notes/science.md is for 48 hospitals; 201 and 202 are one man, so there are 47.
    data = DataConfig(source="mitdb", folder=str(mitdb), window=(2, 2), normalise="none", rr_features=False)
    report = build_cohort(data, CohortConfig(hospitals=47, partition="one-record")).report
    assert report["beats"] == 109_494
    assert report["local_majority_accuracy_all"] == pytest.approx(0.9054, abs=5e-5)
    assert report["heterogeneity"]["emd_max"] == pytest.approx(1.80, abs=5e-3)
    assert report["classes"] == {"N": 90_631, "S": 2_781, "V": 7_236, "F": 803, "Q": 8_043}
