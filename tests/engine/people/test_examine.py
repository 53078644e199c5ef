"""Patients, groups of patients and calibration, against numbers that can be redone on paper, and against the audit's second writing."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.audit.people import examined as again
from engine.people.examine import People, examined, groups_of

CLASSES = "NV"


def table(*beats: tuple[str, str, str, str, str, int], model: str = "global") -> dict[str, list[Any]]:
    """Columns of predictions: patient, sex, age, true, predicted, confidence."""
    names = ("patient", "sex", "age", "true", "predicted", "confidence")
    columns: dict[str, list[Any]] = {name: [beat[i] for beat in beats] for i, name in enumerate(names)}
    return columns | {"hospital": [0] * len(beats), "model": [model] * len(beats)}


def both(*beats: tuple[str, str, str, str, str, int]) -> dict[str, list[Any]]:
    """The same beats and answers under both models."""
    one, other = table(*beats), table(*beats, model="personal")
    return {name: one[name] + other[name] for name in one}


def looked(columns: dict[str, list[Any]], least: int = 1, scored: str = CLASSES) -> People:
    return examined(pa.table(columns), CLASSES, scored, least)


# three women's beats of two patients: N called N and V, V called V; a man's: N called N twice, V called N; a third says nothing
BEATS = [
    ("a", "female", "<65", "N", "N", 9_000),
    ("a", "female", "<65", "N", "V", 6_000),
    ("b", "female", ">=65", "V", "V", 8_000),
    ("c", "male", ">=65", "N", "N", 10_000),
    ("c", "male", ">=65", "N", "N", 9_900),
    ("c", "male", ">=65", "V", "N", 7_000),
    ("d", "unknown", "unknown", "V", "V", 5_000),
]


def test_gaps_by_hand():
    sex = looked(both(*BEATS)).fairness.personal.sex
    assert [(g.group, g.patients, g.beats) for g in sex.groups] == [("female", 2, 3), ("male", 1, 3), ("unknown", 1, 1)]
    assert [[list(row) for row in g.confusion] for g in sex.groups] == [
        [[1, 1], [0, 1]],
        [[2, 0], [1, 0]],
        [[0, 0], [0, 1]],
    ]
    # called V: 2 of 3 beats of women, 0 of 3 of men; called N: 1 of 3 and 3 of 3
    assert sex.demographic_parity == {"N": pytest.approx(2 / 3), "V": pytest.approx(2 / 3)}
    # recall of V: 1 and 0; of N: 1/2 and 1
    assert sex.equal_opportunity == {"N": 0.5, "V": 1.0}
    # false alarms of V: 1 of 2 N beats, and 0 of 2; of N: 0 of 1 V beat, and 1 of 1
    assert sex.equalised_odds == {"N": 1.0, "V": 1.0}
    assert sex.testable == ("N", "V")
    assert sex.worst == 1.0
    assert sex.groups[0].macro_f1 == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert sex.groups[1].accuracy == pytest.approx(2 / 3)


def test_a_gap_with_few_beats_is_shown_and_not_testable():
    sex = looked(both(*BEATS), least=2).fairness.global_.sex
    assert sex.equal_opportunity == {"N": 0.5, "V": 1.0}
    assert sex.testable == ()  # of V there is one beat in each group, and so of others than N
    assert sex.worst is None


def test_a_single_known_group_has_no_gap():
    sex = looked(both(*BEATS[:3], BEATS[6])).fairness.global_.sex
    assert sex.demographic_parity == {"N": None, "V": None}
    assert sex.testable == ()


def test_a_group_without_a_class_has_no_recall_to_compare():
    age = looked(both(*BEATS)).fairness.global_.age  # nobody below 65 has a V
    assert [g.group for g in age.groups] == ["<65", ">=65", "unknown"]
    assert age.equal_opportunity == {"N": pytest.approx(1 - 1 / 2), "V": None}
    assert age.equalised_odds == {"N": None, "V": None}
    assert age.demographic_parity["V"] == pytest.approx(1 / 2 - 1 / 4)


def test_calibration_by_hand():
    """Bins of 1/15: 9,000 and 9,900 and 10,000 lie in the last two (13: 8,667 to 9,333; 14), each of the others alone."""
    found = looked(both(*BEATS)).calibration.global_
    filled = {i: (b.beats, b.right, b.confidence) for i, b in enumerate(found.bins) if b.beats}
    assert filled == {
        7: (1, 1, 5_000), 9: (1, 0, 6_000), 10: (1, 0, 7_000), 12: (1, 1, 8_000), 13: (1, 1, 9_000), 14: (2, 2, 19_900),
    }  # fmt: skip
    assert found.ece == pytest.approx((0.5 + 0.6 + 0.7 + 0.2 + 0.1 + 0.01) / 7)
    assert [(a.threshold, a.share, a.accuracy) for a in found.abstention] == [
        (0, 1.0, 5 / 7), (5_000, 1.0, 5 / 7), (6_000, 6 / 7, 4 / 6), (7_000, 5 / 7, 4 / 5), (8_000, 4 / 7, 1.0),
        (9_000, 3 / 7, 1.0), (9_500, 2 / 7, 1.0), (9_900, 2 / 7, 1.0),
    ]  # fmt: skip


def test_without_test_beats_there_is_nothing_to_say():
    nothing = looked(table())
    assert (nothing.patients, nothing.calibration.global_.ece, nothing.calibration.global_.abstention) == ((), None, ())
    assert nothing.fairness.global_.sex.groups == ()


def test_every_patient_has_a_confusion_matrix_under_each_model():
    one, other = table(*BEATS), table(*[(*b[:4], "N", b[5]) for b in BEATS], model="personal")
    found = looked({name: one[name] + other[name] for name in one}).patients
    assert [(p.patient, p.sex, p.age) for p in found] == [b[:3] for b in (BEATS[0], BEATS[2], BEATS[3], BEATS[6])]
    assert found[2].global_ == ((2, 0), (1, 0))
    assert found[3].personal == ((0, 0), (1, 0))


def test_groups_come_from_all_records_of_a_patient_and_contradictions_are_unknown():
    def record(patient: str, sex: str | None, age: int | None) -> dict[str, Any]:
        return {"patient": patient, "sex": sex, "age": age}

    records = [
        record("a", "F", 65),
        record("a", "", -1),
        record("b", "M", 64),
        record("b", "F", 64),
        record("c", None, None),
    ]
    assert groups_of(records) == {"a": ("female", ">=65"), "b": ("unknown", "<65"), "c": ("unknown", "unknown")}


PEOPLE = st.lists(
    st.tuples(st.sampled_from(["female", "male", "unknown"]), st.sampled_from(["<65", ">=65", "unknown"])),
    min_size=1,
    max_size=4,
)
ANSWERS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(CLASSES), st.sampled_from(CLASSES), st.integers(0, 10_000)),
    max_size=30,
)


@settings(max_examples=40)
@given(PEOPLE, ANSWERS, st.sampled_from(["N", "NV"]), st.integers(1, 4))
def test_the_audit_comes_to_the_same(people: list[tuple[str, str]], answers: list[Any], scored: str, least: int):
    beats = [(f"p{who % len(people)}", *people[who % len(people)], *rest) for who, *rest in answers]
    columns = both(*beats)  # type: ignore[arg-type]
    found = looked(columns, least, scored)
    expected = again(columns, CLASSES, list(scored), least, [])
    assert found.fairness.document() == expected["fairness"]
    assert found.calibration.document() == expected["calibration"]
    assert [one.document() for one in found.patients] == expected["patients"]
