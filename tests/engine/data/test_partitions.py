"""Partitions and splits: whole patients in one hospital, nothing lost, nothing twice, time kept in order."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.beats import Beats, load_beats
from engine.data.cohort import heterogeneity
from engine.data.config import CohortConfig, DataConfig
from engine.data.partitions import (
    TEST,
    TRAIN,
    UNUSED,
    VALIDATION,
    inter_patient_records,
    official,
    partition,
    shortened,
    split,
)
from engine.data.sources import DS1, DS2, PACED
from engine.data.sources import MITDB as DATABASE
from engine.errors import ConfigError

Make = Callable[..., Beats]
MITDB = sorted([*DS1, *DS2, *PACED])
RECORD_LEVEL = ("consecutive", "pathology", "record-dirichlet", "quantity")


def refusal(work: Callable[[], object]) -> str:
    """The message with which `work` is refused: one sentence on one line."""
    with pytest.raises(ConfigError) as caught:
        work()
    message = str(caught.value)
    assert message.endswith((".", "..."))
    assert len(message.splitlines()) == 1
    return message


def names_of(beats: Beats, owner: np.ndarray, hospital: int) -> list[str]:
    return [beats.records[r]["name"] for r in np.unique(beats.record[owner == hospital])]


def counts(beats: Beats, owner: np.ndarray, hospitals: int) -> np.ndarray:
    """int[hospitals, classes]."""
    return np.array([np.bincount(beats.y[owner == h], minlength=len(beats.classes)) for h in range(hospitals)])


@st.composite
def cohorts(draw: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Up to twelve records of any classes, and whose they are; some patients have several."""
    records = draw(st.lists(st.text("NSVFQ", min_size=1, max_size=30), min_size=1, max_size=12))
    owners = draw(st.lists(st.integers(0, 11), min_size=len(records), max_size=len(records)))
    return (
        {f"r{i:02}": letters for i, letters in enumerate(records)},
        {f"r{i:02}": f"p{owner}" for i, owner in enumerate(owners)},
    )


# --- whole patients


@given(
    cohorts(),
    st.sampled_from((*RECORD_LEVEL, "one-record")),
    st.integers(0, 10**6),
    st.integers(0, 2**40),
    st.sampled_from([1e-4, 0.1, 1.0, 100.0]),
)
def test_whole_patients_fill_every_hospital(
    beats_of: Make, cohort: tuple[dict, dict], kind: Any, size: int, seed: int, alpha: float
) -> None:
    beats = beats_of(*cohort)
    patients = [record["patient"] for record in beats.records]
    people = len(set(patients))
    hospitals = people if kind == "one-record" else 1 + size % people
    config = CohortConfig(hospitals=hospitals, partition=kind, seed=seed, alpha=alpha, exponent=alpha)
    owner = partition(beats, config)
    assert owner.dtype == np.int32
    assert len(owner) == len(beats)  # one hospital for each beat
    assert set(owner.tolist()) == set(range(hospitals))  # none is empty, none is unknown
    whose = [
        {int(h) for r in np.flatnonzero(np.array(patients) == p) for h in owner[beats.record == r]} for p in patients
    ]
    assert all(len(hospitals_of_patient) == 1 for hospitals_of_patient in whose)
    assert np.array_equal(owner, partition(beats, config))


@given(st.sampled_from(RECORD_LEVEL), st.integers(1, 47), st.integers(0, 2**40), st.sampled_from([0.01, 0.3, 10.0]))
def test_201_and_202_stay_together(beats_of: Make, kind: Any, hospitals: int, seed: int, alpha: float) -> None:
    beats = beats_of({name: "NSVFQ"[i % 5] * 10 for i, name in enumerate(MITDB)}, {"202": "201"})
    owner = partition(beats, CohortConfig(hospitals=hospitals, partition=kind, seed=seed, alpha=alpha))
    one = owner[np.isin(beats.record, [MITDB.index("201"), MITDB.index("202")])]
    assert len(set(one.tolist())) == 1


@pytest.mark.parametrize("kind", ["record-dirichlet", "quantity", "beat-dirichlet"])
def test_the_seed_of_the_cohort_changes_what_is_drawn(beats_of: Make, kind: Any) -> None:
    beats = beats_of({f"r{i}": "NSVFQ" * 4 for i in range(20)})
    drawn = {partition(beats, CohortConfig(hospitals=4, partition=kind, seed=s)).tobytes() for s in range(20)}
    assert len(drawn) == 20


@pytest.mark.parametrize("kind", ["one-record", "consecutive", "pathology"])
def test_what_is_not_drawn_does_not_depend_on_the_seed(beats_of: Make, kind: Any) -> None:
    beats = beats_of({f"r{i}": "NSVFQ" * 4 for i in range(6)})
    drawn = {partition(beats, CohortConfig(hospitals=6, partition=kind, seed=s)).tobytes() for s in range(5)}
    assert len(drawn) == 1


@pytest.mark.parametrize("kind", RECORD_LEVEL)
def test_more_hospitals_than_patients_are_refused(beats_of: Make, kind: Any) -> None:
    beats = beats_of({"a": "NN", "b": "NN", "c": "NN"}, {"c": "b"})
    assert refusal(lambda: partition(beats, CohortConfig(hospitals=3, partition=kind))) == (
        "cohort.hospitals is 3, but the 3 records come from 2 patients and a patient is never split; "
        "allowed: at most that many, or cohort.partition: beat-dirichlet."
    )
    partition(beats, CohortConfig(hospitals=2, partition=kind))


# --- one record, consecutive, listed


def test_one_record_makes_a_hospital_of_each_patient(beats_of: Make) -> None:
    beats = beats_of({"a": "NN", "b": "N", "c": "NNN"}, {"c": "a"})
    owner = partition(beats, CohortConfig(hospitals=2, partition="one-record"))
    assert owner.tolist() == [0, 0, 1, 0, 0, 0]


def test_one_record_with_another_number_is_refused(beats_of: Make) -> None:
    beats = beats_of({"a": "NN", "b": "N", "c": "NNN"})
    assert refusal(lambda: partition(beats, CohortConfig(hospitals=2, partition="one-record"))) == (
        "cohort.hospitals is 2, but partition one-record makes a hospital of each of the 3 patients; allowed: 3."
    )


def test_consecutive_cuts_at_the_nearest_record(beats_of: Make) -> None:
    # 12 records in 5 hospitals: cuts after round(2.4), round(4.8), round(7.2), round(9.6) records.
    beats = beats_of({f"r{i:02}": "N" for i in range(12)})
    owner = partition(beats, CohortConfig(hospitals=5, partition="consecutive"))
    assert owner.tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4]


def test_consecutive_moves_a_cut_that_would_part_a_patient(beats_of: Make) -> None:
    beats = beats_of({f"r{i}": "N" for i in range(4)}, {"r1": "p", "r2": "p"})
    assert partition(beats, CohortConfig(hospitals=2, partition="consecutive")).tolist() == [0, 0, 0, 1]


@given(st.integers(1, 60), st.integers(1, 60))
def test_consecutive_hospitals_are_equal_but_for_one_record(beats_of: Make, records: int, hospitals: int) -> None:
    hospitals = min(records, hospitals)
    beats = beats_of({f"r{i:02}": "N" for i in range(records)})
    owner = partition(beats, CohortConfig(hospitals=hospitals, partition="consecutive"))
    sizes = np.bincount(owner)
    assert sizes.max() - sizes.min() <= 1
    assert np.all(np.diff(owner) >= 0)


def listed(*groups: tuple[str, ...]) -> CohortConfig:
    return CohortConfig(hospitals=len(groups), partition="records", groups=groups)


def test_listed_records_and_those_of_no_hospital(beats_of: Make) -> None:
    beats = beats_of({"a": "NN", "b": "N", "c": "NNN", "d": "N"})
    config = listed(("d", "a"), ("b",))
    owner = partition(beats, config)
    assert owner.tolist() == [0, 0, 1, -1, -1, -1, 0]
    part, _ = split(beats, owner, config)
    assert (part[owner == -1] == UNUSED).all()
    assert (part[owner != -1] != UNUSED).all()


def test_listed_records_that_do_not_exist_or_share_a_patient(beats_of: Make) -> None:
    beats = beats_of({"200": "N", "201": "N", "202": "N"}, {"202": "201"})
    message = refusal(lambda: partition(beats, listed(("200",), ("203",))))
    assert message.startswith("cohort.groups: there is no record '203' among 200, 201, 202")
    assert refusal(lambda: partition(beats, listed(("200", "201"), ("202",)))) == (
        "cohort.groups: record 202 gives patient 201 to hospitals 0 and 1; a patient belongs to one hospital."
    )
    assert refusal(lambda: partition(beats, listed(("200",), ("201", "200")))).startswith(
        "cohort.groups: record 200 gives patient 200 to hospitals 0 and 1; "
    )
    assert partition(beats, listed(("200",), ("202", "201"))).tolist() == [0, 1, 1]


# --- pathology


def test_patients_are_sorted_by_pathology(beats_of: Make) -> None:
    beats = beats_of(
        {
            "healthy": "N" * 100,
            "some V": "N" * 90 + "V" * 10,
            "one V": "N" * 99 + "V",  # 1 % is no pathology
            "paced": "N" * 10 + "Q" * 40,
            "many V": "N" * 70 + "V" * 30,
            "S more than V": "N" * 90 + "S" * 6 + "V" * 4,
            "F": "N" * 90 + "F" * 10,
            "two V": "N" * 98 + "VV",  # 2 % is
        }
    )
    owner = partition(beats, CohortConfig(hospitals=8, partition="pathology"))
    ranked = [names_of(beats, owner, h)[0] for h in range(8)]
    assert ranked == ["paced", "S more than V", "many V", "some V", "two V", "F", "healthy", "one V"]


def test_in_a_long_record_fifty_beats_are_a_pathology(beats_of: Make) -> None:
    beats = beats_of({"49": "N" * 3951 + "S" * 49, "50": "N" * 3950 + "S" * 50, "N": "N" * 4000})
    owner = partition(beats, CohortConfig(hospitals=3, partition="pathology"))
    assert [names_of(beats, owner, h)[0] for h in range(3)] == ["50", "49", "N"]  # then in order of the records


# The hospitals of notes/science.md, section 8.2.
PATHOLOGY = [
    "102 104 107 217".split(),
    "100 118 124 201 202 207 209 220 222 232 234".split(),
    "106 119 200 203 208 221 223 228 233".split(),
    "109 111 116 205 210 212 213 214 215 231".split(),
    "101 103 105 108 112 113 114 115 117 121 122 123 219 230".split(),
]


def test_the_five_pathology_hospitals_are_all_of_mitdb() -> None:
    assert [sorted(group) for group in DATABASE.pathologies] == PATHOLOGY
    assert sorted(sum(PATHOLOGY, [])) == MITDB
    assert len(MITDB) == 48
    assert (len(DS1), len(DS2), len(PACED)) == (22, 22, 4)


def test_pathology_of_the_real_records(real: Beats) -> None:
    owner = partition(real, CohortConfig(hospitals=5, partition="pathology"))
    assert [names_of(real, owner, h) for h in range(5)] == PATHOLOGY
    measured = heterogeneity(counts(real, owner, 5))
    expected = {"emd_mean": 0.573, "emd_max": 1.69, "js": 0.554, "hellinger": 0.571}
    assert {key: measured[key] for key in expected} == pytest.approx(expected, abs=0.005)


def test_pathology_without_the_paced_records(beats_of: Make) -> None:
    unpaced = [name for name in MITDB if name not in PACED]
    beats = beats_of(dict.fromkeys(unpaced, "NNN"), {"202": "201"}, database="mitdb")
    owner = partition(beats, CohortConfig(hospitals=4, partition="pathology"))
    assert [names_of(beats, owner, h) for h in range(4)] == PATHOLOGY[1:]
    # With another number of hospitals the list does not fit, and the records are sorted and cut.
    owner = partition(beats, CohortConfig(hospitals=5, partition="pathology"))
    assert len(set(owner.tolist())) == 5


def test_six_times_eight_consecutive_real_records(real: Beats) -> None:
    owner = partition(real, CohortConfig(hospitals=6, partition="consecutive"))
    assert [names_of(real, owner, h) for h in range(6)] == [MITDB[8 * h : 8 * h + 8] for h in range(6)]
    measured = heterogeneity(counts(real, owner, 6))
    expected = {"emd_mean": 0.243, "emd_max": 0.57, "js": 0.278, "hellinger": 0.296}
    assert {key: measured[key] for key in expected} == pytest.approx(expected, abs=0.005)


# --- drawn partitions


@pytest.mark.parametrize(
    ("exponent", "sizes"),
    # 14 patients, 3 hospitals: one each, and 11 more by 1 : 1/2 : 1/3, which is 6, 3 and 2; by 1 : 1/4 : 1/9 it is
    # 8.08, 2.02 and 0.90; equal shares are 3.67 each.
    [(1.0, [7, 4, 3]), (2.0, [9, 3, 2]), (0.0, [5, 5, 4])],
)
def test_quantity_by_hand(beats_of: Make, exponent: float, sizes: list[int]) -> None:
    beats = beats_of({f"r{i:02}": "N" for i in range(14)})
    owner = partition(beats, CohortConfig(hospitals=3, partition="quantity", exponent=exponent))
    assert np.bincount(owner).tolist() == sizes


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 5), st.integers(0, 99))
def test_quantity_sizes_fall(beats_of: Make, patients: int, hospitals: int, exponent: float, seed: int) -> None:
    beats = beats_of({f"r{i:02}": "N" for i in range(patients)})
    config = CohortConfig(hospitals=min(patients, hospitals), partition="quantity", exponent=exponent, seed=seed)
    sizes = np.bincount(partition(beats, config))
    assert sizes.sum() == patients
    assert sizes.min() >= 1
    assert (np.diff(sizes) <= 0).all()


@settings(max_examples=30)  # a tiny alpha draws 200 times
@given(cohorts(), st.integers(0, 10**6), st.integers(0, 2**40), st.sampled_from([1e-4, 0.1, 1.0, 100.0]))
def test_beat_dirichlet_gives_every_hospital_ten_beats(
    beats_of: Make, cohort: tuple[dict, dict], size: int, seed: int, alpha: float
) -> None:
    beats = beats_of({**cohort[0], "more": "NV" * 10})
    config = CohortConfig(hospitals=1 + size % (len(beats) // 10), partition="beat-dirichlet", alpha=alpha, seed=seed)
    owner = partition(beats, config)
    assert len(owner) == len(beats)
    assert (owner >= 0).all()
    assert np.bincount(owner, minlength=config.hospitals).min() >= 10
    assert np.bincount(owner).size == config.hospitals
    assert np.array_equal(owner, partition(beats, config))


@pytest.mark.parametrize("seed", range(5))
def test_beat_dirichlet_with_no_beat_to_spare_comes_to_an_end(beats_of: Make, seed: int) -> None:
    beats = beats_of({"a": "NSVFQ" * 10})
    config = CohortConfig(hospitals=5, partition="beat-dirichlet", alpha=0.01, seed=seed)
    assert np.bincount(partition(beats, config)).tolist() == [10] * 5


def test_beat_dirichlet_with_too_many_hospitals_is_refused(beats_of: Make) -> None:
    beats = beats_of({"a": "NV" * 14})
    assert refusal(lambda: partition(beats, CohortConfig(hospitals=3, partition="beat-dirichlet"))) == (
        "cohort.hospitals is 3, but 28 beats give fewer than 10 to each; allowed: at most 2."
    )
    partition(beats, CohortConfig(hospitals=2, partition="beat-dirichlet"))


@pytest.mark.parametrize("kind", ["record-dirichlet", "beat-dirichlet"])
def test_a_smaller_alpha_makes_hospitals_differ_more(beats_of: Make, kind: Any) -> None:
    pathologies = {f"{letter}{i:02}": "N" * 20 + letter * 20 for letter in "NSVFQ" for i in range(12)}
    beats = beats_of(pathologies)
    means = {}
    for alpha in (0.1, 1.0, 100.0):
        configs = [CohortConfig(hospitals=5, partition=kind, alpha=alpha, seed=seed) for seed in range(12)]
        measured = [heterogeneity(counts(beats, partition(beats, config), 5)) for config in configs]
        means[alpha] = {key: np.mean([each[key] for each in measured]) for key in ("emd_mean", "js", "hellinger")}
    for key in ("emd_mean", "js", "hellinger"):
        assert means[0.1][key] > 1.3 * means[1.0][key] > 1.3 * means[100.0][key], key


def test_beat_dirichlet_of_the_real_records(real: Beats) -> None:
    # Means of 50 draws in notes/science.md: EMD 1.11 at 0.1 and 0.55 at 0.5 for five hospitals.
    for alpha, expected in ((0.1, 1.11), (0.5, 0.55)):
        configs = [CohortConfig(hospitals=5, partition="beat-dirichlet", alpha=alpha, seed=seed) for seed in range(10)]
        measured = [heterogeneity(counts(real, partition(real, config), 5))["emd_mean"] for config in configs]
        assert np.mean(measured) == pytest.approx(expected, rel=0.15)


# --- splits


def in_time(beats: Beats, gaps: list[int]) -> Beats:
    """The same beats with these numbers of samples between them, from the beginning in each record."""
    sample = np.concatenate([np.cumsum(gaps[: (beats.record == r).sum()]) for r in range(len(beats.records))])
    return replace(beats, sample=sample)


def parts_by_record(beats: Beats, part: np.ndarray) -> list[dict[int, np.ndarray]]:
    """For each record the samples of its beats in each part."""
    return [
        {p: beats.sample[(beats.record == r) & (part == p)] for p in (TRAIN, VALIDATION, TEST, UNUSED)}
        for r in range(len(beats.records))
    ]


def test_chronological_parts_by_hand(beats_of: Make) -> None:
    beats = beats_of({"a": "N" * 10, "b": "N" * 20}, interval=300)
    part, trains = split(beats, np.zeros(30, np.int32), CohortConfig(hospitals=1))
    assert part[:10].tolist() == [TRAIN] * 6 + [VALIDATION] + [TEST] * 3
    assert part[10:].tolist() == [TRAIN] * 12 + [VALIDATION] * 2 + [TEST] * 6
    assert trains.tolist() == [True]


def test_chronological_parts_without_validation(beats_of: Make) -> None:
    beats = beats_of({"a": "N" * 10})
    config = CohortConfig(hospitals=1, fractions=(0.75, 0.0, 0.25))
    part, _ = split(beats, np.zeros(10, np.int32), config)
    assert part.tolist() == [TRAIN] * 8 + [TEST] * 2  # round(2.5) is 2


def test_few_train_beats_are_the_first_of_each_record_by_its_share(beats_of: Make) -> None:
    beats = beats_of({"a": "N" * 10, "b": "N" * 20, "c": "N" * 5}, interval=300)
    owner = np.repeat(np.array([0, 0, 1], np.int32), [10, 20, 5])
    whole, _ = split(beats, owner, CohortConfig(hospitals=2))
    part = shortened(beats, owner, whole, 7)  # of 6 and 12: 2.33 and 4.67, so 2 and 5; hospital 1 has 3 only
    assert part[:10].tolist() == [TRAIN] * 2 + [UNUSED] * 4 + [VALIDATION] + [TEST] * 3
    assert part[10:30].tolist() == [TRAIN] * 5 + [UNUSED] * 7 + [VALIDATION] * 2 + [TEST] * 6
    assert part[30:].tolist() == whole[30:].tolist()
    assert shortened(beats, owner, whole, None) is whole


def test_the_guard_gap_by_hand(beats_of: Make) -> None:
    # Windows of 8 samples, 10 beats: the boundaries lie before the 7th and the 8th beat. Of the train beats at
    # distance 3, 8 and 9 from the first validation beat only the nearest overlaps it; and validation, 7 before test.
    beats = in_time(beats_of({"a": "N" * 10}, window=8), [50, 50, 50, 1, 5, 1, 3, 7, 1, 1])
    # peaks 50 100 150 151 156 157 | 160 | 167 168 169
    part, _ = split(beats, np.zeros(10, np.int32), CohortConfig(hospitals=1))
    assert beats.sample.tolist() == [50, 100, 150, 151, 156, 157, 160, 167, 168, 169]
    assert part.tolist() == [TRAIN] * 4 + [UNUSED] * 3 + [TEST] * 3
    touching = replace(beats, sample=np.where(np.arange(10) == 5, 152, beats.sample))
    part, _ = split(touching, np.zeros(10, np.int32), CohortConfig(hospitals=1))
    assert part[5] == TRAIN  # its last sample is the one before the first of the next window


@given(
    cohorts(), st.lists(st.integers(1, 30), min_size=30, max_size=30), st.sampled_from([2, 8, 40]), st.integers(1, 3)
)
def test_chronological_keeps_time_in_order_and_windows_apart(
    beats_of: Make, cohort: tuple[dict, dict], gaps: list[int], window: int, size: int
) -> None:
    beats = in_time(beats_of(*cohort, window=window), gaps)
    people = len({record["patient"] for record in beats.records})
    config = CohortConfig(hospitals=min(size, people), partition="consecutive")
    part, trains = split(beats, partition(beats, config), config)
    assert trains.all()
    for samples, letters in zip(parts_by_record(beats, part), cohort[0].values(), strict=True):
        n = len(letters)
        assert len(samples[TEST]) == round(0.3 * n)
        assert len(samples[TRAIN]) <= min(round(0.6 * n), n - len(samples[TEST]))
        assert sum(map(len, samples.values())) == n
        for earlier, later in ((TRAIN, VALIDATION), (VALIDATION, TEST), (TRAIN, TEST)):
            if len(samples[earlier]) and len(samples[later]):
                assert samples[later].min() - samples[earlier].max() >= window
        if min(gaps) >= window:
            assert len(samples[UNUSED]) == 0
            assert len(samples[TRAIN]) == min(round(0.6 * n), n - len(samples[TEST]))


def test_chronological_on_the_real_records_keeps_windows_apart(mitdb: Any) -> None:
    data = DataConfig(source="mitdb", folder=str(mitdb), records=("200", "203", "207"), window=(180, 180))
    beats = load_beats(data)
    part, _ = split(beats, np.zeros(len(beats), np.int32), CohortConfig(hospitals=1))
    for samples in parts_by_record(beats, part):
        assert samples[VALIDATION].min() - samples[TRAIN].max() >= 360
        assert samples[TEST].min() - samples[VALIDATION].max() >= 360
        assert 0 < len(samples[UNUSED]) < 10
        total = sum(map(len, samples.values()))
        assert [len(samples[p]) / total for p in (TRAIN, VALIDATION, TEST)] == pytest.approx([0.6, 0.1, 0.3], abs=0.01)


@given(cohorts(), st.integers(0, 2**40))
def test_random_parts_are_disjoint_and_cover_each_hospital(
    beats_of: Make, cohort: tuple[dict, dict], seed: int
) -> None:
    beats = beats_of(*cohort)
    people = len({record["patient"] for record in beats.records})
    config = CohortConfig(hospitals=people, partition="one-record", split="random", seed=seed)
    owner = partition(beats, config)
    part, trains = split(beats, owner, config)
    assert set(part.tolist()) <= {TRAIN, VALIDATION, TEST}
    assert trains.all()
    for h in range(people):
        n = int((owner == h).sum())
        tested = round(0.3 * n)
        trained = min(round(0.6 * n), n - tested)
        assert np.bincount(part[owner == h], minlength=3).tolist() == [trained, n - trained - tested, tested]
    assert np.array_equal(part, split(beats, owner, config)[0])


def test_random_parts_are_mixed_in_time_and_change_with_the_seed(beats_of: Make) -> None:
    beats = beats_of({"a": "N" * 100, "b": "N" * 100})
    config = CohortConfig(hospitals=2, partition="one-record", split="random")
    owner = partition(beats, config)
    part, _ = split(beats, owner, config)
    for h in range(2):
        samples = beats.sample[owner == h]
        assert samples[part[owner == h] == TEST].min() < samples[part[owner == h] == TRAIN].max()
    assert not np.array_equal(part[owner == 0], part[owner == 1])
    other, _ = split(beats, owner, config.model_copy(update={"seed": 1}))
    assert not np.array_equal(part, other)


MINUTE = 360 * 60


def test_inter_patient_by_hand(beats_of: Make) -> None:
    # A beat each half minute: beats 1 to 9 lie before minute 5, the tenth on it.
    beats = beats_of(
        dict.fromkeys(["100", "101", "102", "106", "103"], "N" * 20), interval=MINUTE // 2, database="mitdb"
    )
    config = CohortConfig(hospitals=1, partition="consecutive", split="inter-patient")
    owner = partition(beats, config)
    assert [names_of(beats, owner, h) for h in range(3)] == [["101", "106"], ["100"], ["103"]]
    assert (owner[beats.record == 2] == -1).all()  # 102 is paced: neither DS1 nor DS2
    part, trains = split(beats, owner, config)
    assert trains.tolist() == [True, False, False]
    for record in (1, 3):  # 60 % and 10 % of what is not tested: round(20 * 6 / 7) is 17
        assert part[beats.record == record].tolist() == [TRAIN] * 17 + [VALIDATION] * 3
    for record in (0, 4):
        assert part[beats.record == record].tolist() == [TRAIN] * 9 + [TEST] * 11
    assert (part[beats.record == 2] == UNUSED).all()
    shorter = split(beats, owner, config.model_copy(update={"adapt_minutes": 2.0}))[0]
    assert shorter[beats.record == 0].tolist() == [TRAIN] * 3 + [TEST] * 17


def whole_patients(beats: Beats, owner: np.ndarray, part: np.ndarray, hospitals: int) -> list[str]:
    """The records that validate; none of their beats does anything else, and no others validate."""
    learning = (owner >= 0) & (owner < hospitals)
    chosen = [r for r in range(len(beats.records)) if (part[(beats.record == r) & learning] == VALIDATION).any()]
    for r in chosen:
        assert (part[(beats.record == r) & learning] == VALIDATION).all()
    return [beats.records[r]["name"] for r in chosen]


def test_patients_that_nobody_trains_on_validate_where_patients_are_unseen(beats_of: Make) -> None:
    # 14 training patients, 60 % and 10 % of what is not tested: 2 validate. S lies in four of them, so that none or two
    # of these would be further from a seventh of S than one is.
    seen = {f"p{i:02}": "N" * 12 + "S" * 8 * (i in (0, 1, 2, 3)) for i in range(14)}
    unseen = {f"q{i}": "N" * 20 for i in range(14)}
    mixed = {name: text for pair in zip(seen.items(), unseen.items(), strict=True) for name, text in pair}
    beats = beats_of(mixed, interval=MINUTE // 2)
    config = CohortConfig(hospitals=4, partition="consecutive", split="inter-patient")
    owner = partition(beats, config)
    part, _ = split(beats, owner, config)
    chosen = whole_patients(beats, owner, part, 4)
    assert len(chosen) == 2
    assert sum(name in ("p00", "p01", "p02", "p03") for name in chosen) == 1
    assert all((part[owner == h] == TRAIN).any() for h in range(4))
    assert set(part[(owner >= 0) & (owner < 4)].tolist()) == {TRAIN, VALIDATION}
    assert np.array_equal(part, split(beats, owner, config)[0])
    others = [split(beats, owner, config.model_copy(update={"seed": seed}))[0] for seed in range(1, 6)]
    assert any(not np.array_equal(part, other) for other in others)


def test_the_hospitals_that_train_beside_a_held_out_one_validate_by_patient(beats_of: Make) -> None:
    beats = beats_of(dict.fromkeys("abcdefgh", "N" * 20), interval=MINUTE // 2)
    config = CohortConfig(hospitals=2, partition="consecutive", split="leave-one-hospital-out", held_out=1)
    owner = partition(beats, config)
    part, _ = split(beats, owner, config)
    (name,) = whole_patients(beats, owner, part, 1)  # round(4 / 7)
    for letter in set("abcd") - {name}:
        assert part[beats.record == "abcdefgh".index(letter)].tolist() == [TRAIN] * 14 + [TEST] * 6
    none = config.model_copy(update={"fractions": (0.7, 0.0, 0.3)})
    assert not (split(beats, owner, none)[0] == VALIDATION).any()


def test_inter_patient_keeps_adaptation_and_test_windows_apart(beats_of: Make) -> None:
    beats = beats_of({"100": "N" * 4, "101": "N" * 4}, window=40, database="mitdb")
    edge = 5 * MINUTE
    beats = replace(beats, sample=np.tile([1000, edge - 36, edge - 1, edge + 5], 2))
    config = CohortConfig(hospitals=1, partition="consecutive", split="inter-patient")
    part, _ = split(beats, partition(beats, config), config)
    assert part[beats.record == 0].tolist() == [TRAIN, TRAIN, UNUSED, TEST]


@pytest.mark.parametrize("kind", ["pathology", "consecutive", "record-dirichlet", "quantity"])
def test_inter_patient_trains_on_ds1_alone(beats_of: Make, kind: Any) -> None:
    beats = beats_of(dict.fromkeys(MITDB, "NNSVN"), {"202": "201"}, database="mitdb")
    config = CohortConfig(hospitals=5, partition=kind, split="inter-patient")
    owner = partition(beats, config)
    assert tuple(sorted(sum((names_of(beats, owner, h) for h in range(5)), []))) == DS1
    assert [names_of(beats, owner, h) for h in range(5, 27)] == [[name] for name in DS2]
    assert owner.max() == 26
    assert names_of(beats, owner, -1) == list(PACED)
    _, trains = split(beats, owner, config)
    assert trains.tolist() == [True] * 5 + [False] * 22


def test_inter_patient_of_the_real_records(real: Beats) -> None:
    config = CohortConfig(hospitals=5, partition="pathology", split="inter-patient")
    owner = partition(real, config)
    part, _ = split(real, owner, config)
    unseen = owner >= 5
    early = np.bincount(real.y[unseen & (part == TRAIN)], minlength=5)[:4].tolist()
    late = np.bincount(real.y[unseen & (part == TEST)], minlength=5)[:4].tolist()
    assert early == [7_333, 229, 535, 100]  # minutes 0 to 5 of DS2, counted in notes/science.md
    assert late == [36_926, 1_608, 2_686, 288]
    assert not (part[~unseen] == TEST).any()
    assert sum(np.bincount(real.y[(owner >= 0) & ~unseen])[:4]) == 45_866 + 944 + 3_788 + 415


def test_inter_patient_elsewhere_takes_every_second_patient(beats_of: Make) -> None:
    beats = beats_of(dict.fromkeys(["s1", "s2", "s3", "s4", "s5"], "NN"), {"s3": "s1"})
    assert inter_patient_records(beats) == ([0, 2, 3], [1, 4])


def test_names_like_those_of_a_database_are_nothing_special(beats_of: Make) -> None:
    beats = beats_of(dict.fromkeys(["101", "102", "104", "106"], "N" * 20))
    assert official(beats, range(4)) is None
    assert inter_patient_records(beats) == ([0, 2], [1, 3])


def test_the_official_split_goes_by_what_a_record_is(beats_of: Make) -> None:
    # Copies under other names: "a" is MIT-BIH's 100, "100" is its 101.
    beats = beats_of({"100": "NN", "a": "NN"})
    known = {"100": "mitdb/101", "a": "mitdb/100"}
    beats = replace(beats, records=tuple({**row, "known": known[row["name"]]} for row in beats.records))
    assert inter_patient_records(beats) == ([0], [1])
    mixed = replace(beats, records=({**beats.records[0], "known": ""}, beats.records[1]))
    assert official(mixed, range(2)) is None
    assert official(mixed, [1]) is not None


@pytest.mark.parametrize("names", [["101", "106"], ["100", "103"], ["102"]])
def test_inter_patient_needs_both_sides(beats_of: Make, names: list[str]) -> None:
    beats = beats_of(dict.fromkeys(names, "NN"), database="mitdb")
    config = CohortConfig(hospitals=1, partition="consecutive", split="inter-patient")
    assert refusal(lambda: partition(beats, config)) == (
        "cohort.split inter-patient needs records of both official parts of MIT-BIH 1.0.0, such as 101 and 100 "
        "(data.records, data.exclude)."
    )
    assert refusal(lambda: partition(beats_of({"s1": "NN"}), config)) == (
        "cohort.split inter-patient needs records of at least two patients (data.records, data.exclude)."
    )


@pytest.mark.parametrize("kind", ["beat-dirichlet", "records"])
def test_inter_patient_does_not_go_with_every_partition(beats_of: Make, kind: Any) -> None:
    beats = beats_of({"100": "N" * 20, "101": "N" * 20})
    config = CohortConfig(hospitals=1, partition=kind, split="inter-patient", groups=(("101",),))
    assert refusal(lambda: partition(beats, config)) == (
        f"cohort.split inter-patient does not go with cohort.partition {kind}."
    )


@pytest.mark.parametrize("held_out", range(3))
def test_only_the_held_out_hospital_does_not_train(beats_of: Make, held_out: int) -> None:
    beats = beats_of(dict.fromkeys("abc", "N" * 20), interval=MINUTE // 2)
    config = CohortConfig(hospitals=3, partition="one-record", split="leave-one-hospital-out", held_out=held_out)
    owner = partition(beats, config)
    part, trains = split(beats, owner, config)
    assert trains.tolist() == [h != held_out for h in range(3)]
    for h in range(3):
        expected = [TRAIN] * 9 + [TEST] * 11 if h == held_out else [TRAIN] * 12 + [VALIDATION] * 2 + [TEST] * 6
        assert part[owner == h].tolist() == expected


def test_a_record_may_lie_in_the_held_out_hospital_and_in_others(beats_of: Make) -> None:
    # Beats of one record by turns in both hospitals; those of hospital 0 adapt before minute 5 and are tested after.
    beats = beats_of({"a": "N" * 40}, interval=MINUTE // 4)
    owner = np.arange(40, dtype=np.int32) % 2
    for held_out in (0, 1):
        config = CohortConfig(
            hospitals=2, partition="beat-dirichlet", split="leave-one-hospital-out", held_out=held_out
        )
        part, trains = split(beats, owner, config)
        assert trains.tolist() == [held_out == 1, held_out == 0]
        early = np.flatnonzero(beats.sample < 5 * MINUTE)
        unseen = owner == held_out
        assert (part[early][unseen[early]] == TRAIN).all()
        assert (part[19:][unseen[19:]] == TEST).all()
        assert part[~unseen].tolist() == [TRAIN] * 12 + [VALIDATION] * 2 + [TEST] * 6


def test_a_hospital_without_beats_is_not_forgotten(beats_of: Make) -> None:
    beats = beats_of({"a": "NN", "b": ""})  # none of b's beats are of the wanted classes
    config = CohortConfig(hospitals=2, partition="one-record")
    _, trains = split(beats, partition(beats, config), config)
    assert len(trains) == 2
