"""Who is who: from a CSV, a mapping, the names, the headers, a known database; else said not to be known."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ecg
import pytest

from engine.data.beats import load_beats
from engine.data.cohort import build_cohort
from engine.data.collection import gather
from engine.data.config import CohortConfig, DataConfig
from engine.data.identity import UNKNOWN
from engine.errors import ConfigError

Refused = Callable[[Callable[[], object]], str]
Settings = Callable[..., DataConfig]


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Four records, by name of three patients: p1_a, p1_b, p2_a, 0003_x."""
    for name, comment in (("p1_a", "63 M"), ("p1_b", "subject no. 7"), ("p2_a", "subject no. 8"), ("0003_x", "none")):
        ecg.write(tmp_path / "records", name, comments=[comment])
    return tmp_path / "records"


def test_a_mapping(records: Path, settings_of: Settings, refused: Refused) -> None:
    table = {"p1_a": "anna", "p1_b": "anna", "p2_a": "berta", "0003_x": 3}
    beats = load_beats(settings_of(records, patients=table))
    assert {row["name"]: row["patient"] for row in beats.records} == {**table, "0003_x": "3"}
    assert beats.patients_source == "data.patients"
    del table["p2_a"]
    assert (
        refused(lambda: load_beats(settings_of(records, patients=table))) == "data.patients: names no patient of p2_a."
    )


@pytest.mark.parametrize(
    "text",
    [
        "record,patient\np1_a,01\np1_b,01\np2_a,1\n0003_x,1e3\n",
        "site,Patient,RECORD\nx,01,p1_a\nx,01,p1_b\n\nx,1,p2_a\nx,1e3,0003_x.hea\n",
        "p1_a, 01\np1_b, 01\np2_a, 1\n0003_x, 1e3\nof-no-record, 5\n",
        "\ufeffrecord;patient\np1_a;01\np1_b;01\np2_a;1\n0003_x;1e3\n",
        "patient\trecord\n01\tp1_a\n01\tp1_b\n1\tp2_a\n1e3\t0003_x\n",
        "\ufeffrecord,patient\r\np1_a,01\r\np1_b,01\r\np2_a,1\r\n0003_x,1e3\r\n",
    ],
)
def test_a_csv_is_text(records: Path, settings_of: Settings, text: str) -> None:
    path = records.parent / "Patients.CSV"
    path.write_text(text, encoding="utf-8")
    patients = gather(settings_of(records, patients=str(path))).patients
    assert patients.of == {"p1_a": "01", "p1_b": "01", "p2_a": "1", "0003_x": "1e3"}
    assert patients.source == str(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("record,patient\np1_a,1\np1_b,\np2_a,1\n", "names no patient of 0003_x, p1_b."),
        ("a,b,c\n1,2,3\n", "needs the columns record and patient, or two columns without a head."),
        ("", "needs the columns record and patient, or two columns without a head."),
        ("record,patient\np1_a,1\np1_a,2\n", "gives record p1_a to two patients, 1 and 2."),
        ("record,note,patient\np1_a,1\n", "a row has 2 columns: p1_a,1."),
    ],
)
def test_a_csv_that_says_too_little(
    records: Path, settings_of: Settings, refused: Refused, text: str, says: str
) -> None:
    path = records.parent / "patients.csv"
    path.write_text(text)
    assert refused(lambda: gather(settings_of(records, patients=str(path)))) == f"{path}: {says}"


def test_a_name_that_two_records_end_in_is_nobodys(tmp_path: Path, settings_of: Settings, refused: Refused) -> None:
    for place in ("p1", "p2"):
        ecg.write(tmp_path / place, "r")
    told = {"p1/r": "anna", "r": "berta"}
    assert refused(lambda: gather(settings_of(tmp_path, patients=told))) == "data.patients: names no patient of p2/r."
    assert gather(settings_of(tmp_path, patients={**told, "p2/r": "carla"})).patients.of["p2/r"] == "carla"


def test_a_csv_that_is_not_there(
    records: Path, settings_of: Settings, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(records.parent)
    assert refused(lambda: gather(settings_of(records, patients="who.csv"))) == (
        f"{records.parent / 'who.csv'}: cannot be read (No such file or directory)."
    )


def test_a_regular_expression_over_the_name(records: Path, settings_of: Settings, refused: Refused) -> None:
    patients = gather(settings_of(records, patients=r"^(\w+)_")).patients
    assert patients.of == {"p1_a": "p1", "p1_b": "p1", "p2_a": "p2", "0003_x": "0003"}
    assert patients.source == r"the records' names by ^(\w+)_"
    assert gather(settings_of(records, patients=r"^....")).patients.of["p1_b"] == "p1_b"  # the whole, without a group
    assert refused(lambda: gather(settings_of(records, patients=r"^p(\d)"))) == (
        r"data.patients: finds no patient of 0003_x in the records' names by ^p(\d)."
    )


def test_a_form_of_the_headers_comments(records: Path, settings_of: Settings, refused: Refused) -> None:
    some = settings_of(records, records=("p1_b", "p2_a"), patients={"comment": r"subject no\. (\d+)"})
    assert gather(some).patients.of == {"p1_b": "7", "p2_a": "8"}
    whole = some.model_copy(update={"records": "all"})
    assert refused(lambda: gather(whole)).startswith(
        "data.patients: finds no patient of 0003_x, p1_a in the headers' comments"
    )


@pytest.mark.parametrize("value", ["(", {"comment": "["}])
def test_what_is_no_expression_is_refused(records: Path, settings_of: Settings, value: Any) -> None:
    with pytest.raises(ValueError, match=r"is neither a \.csv file nor a regular expression"):
        settings_of(records, patients=value)


def test_patients_that_the_headers_name_are_known(tmp_path: Path, settings_of: Settings, refused: Refused) -> None:
    for name, patient in (("I01", 1), ("I02", 1), ("I03", 2), ("I04", 2)):
        ecg.write(tmp_path, name, comments=["<age>: 65 <sex>: F <diagnoses> none", f"patient {patient}"])
    data = settings_of(tmp_path)
    beats = load_beats(data)
    assert [row["patient"] for row in beats.records] == ["1", "1", "2", "2"]
    assert beats.patients_source == "the headers' comments"
    cohort = build_cohort(data, CohortConfig(hospitals=1, partition="consecutive", split="inter-patient"))
    assert [(row["records"], row["trains"]) for row in cohort.report["hospitals"]] == [
        (["I01", "I02"], True), (["I03", "I04"], False),
    ]  # fmt: skip
    assert cohort.report["leaky"] == []
    with pytest.raises(ConfigError, match="the 4 records come from 2 patients and a patient is never split"):
        build_cohort(data, CohortConfig(hospitals=4, partition="consecutive"))
    for name in ("I01", "I02", "I03", "I04"):  # all say the same that is no number of a patient
        ecg.retell(tmp_path / f"{name}.hea", f"patient {1 + (name > 'I02')}", "patient anonymised")
    assert gather(data).patients.source == ""
    ecg.write(tmp_path, "I01", comments=["patient 1"])
    ecg.write(tmp_path, "I05")  # one that does not say: then nobody is known
    assert gather(data).patients.source == ""
    assert gather(data).patients.of["I02"] == "I02"


def test_one_signal_under_two_names_is_said(records: Path, settings_of: Settings) -> None:
    for end in (".dat", ".hea", ".atr"):
        shutil.copy(records / f"p1_a{end}", records / f"z{end}")
    ecg.retell(records / "z.hea", "p1_a", "z")
    two = CohortConfig(hospitals=2, partition="consecutive")
    said = "one signal as records of two patients: z is p1_a"
    assert build_cohort(settings_of(records), two).report["leaky"] == [said, UNKNOWN]
    told = {"p1_a": 1, "p1_b": 1, "p2_a": 2, "0003_x": 3, "z": 4}
    assert build_cohort(settings_of(records, patients=told), two).report["leaky"] == [said]
    assert build_cohort(settings_of(records, patients={**told, "z": 1}), two).report["leaky"] == []


def test_what_is_not_known_is_said(records: Path, settings_of: Settings) -> None:
    report = build_cohort(settings_of(records), CohortConfig(hospitals=2, partition="consecutive")).report
    assert report["leaky"] == [UNKNOWN]
    assert (report["patients"], report["patients_source"]) == (4, "")
    told = build_cohort(
        settings_of(records, patients=r"^(\w+)_"), CohortConfig(hospitals=2, partition="consecutive")
    ).report
    assert told["leaky"] == []
    assert told["patients"] == 3


def test_who_is_who_is_part_of_the_digest(records: Path, settings_of: Settings) -> None:
    first = load_beats(settings_of(records))
    second = load_beats(settings_of(records, patients=r"^(\w+)_"))
    third = load_beats(settings_of(records, patients={"p1_a": "p1", "p1_b": "p1", "p2_a": "p2", "0003_x": "0003"}))
    assert first.digest != second.digest == third.digest


def test_numbers_like_mit_bihs_are_a_hospitals_own(tmp_path: Path, settings_of: Settings) -> None:
    # "55 M" is a comment of two of MIT-BIH's records, too, but not all of it.
    for name in ("101", "102", "104", "105", "106", "107"):
        ecg.write(tmp_path, name, comments=["55 M"])
    data = settings_of(tmp_path)
    assert set(gather(data).known.values()) == {None}
    config = CohortConfig(hospitals=2, split="inter-patient", partition="consecutive")
    cohort = build_cohort(data, config)
    assert cohort.report["beats"] == 6 * 24  # none is dropped as paced
    assert [row["records"] for row in cohort.report["hospitals"]] == [
        ["101", "104"],
        ["106"],
        ["102"],
        ["105"],
        ["107"],
    ]
    rows = build_cohort(data, CohortConfig(hospitals=3, partition="pathology")).report["hospitals"]
    assert [row["records"] for row in rows] == [["101", "102"], ["104", "105"], ["106", "107"]]
