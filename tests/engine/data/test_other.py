"""Train on one database, test on another: who trains, who is tested, whose leads and patients, and what would leak."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ecg
import pytest

from engine.config import RunConfig
from engine.data.beats import load_beats
from engine.data.cohort import build_cohort
from engine.data.config import CohortConfig, DataConfig, OtherConfig
from engine.data.identity import UNKNOWN
from engine.errors import ConfigError
from engine.settings import parse

Refused = Callable[[Callable[[], object]], str]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Three records at 360 Hz with lead MLII, and three of two patients at 250 Hz with lead II and V beats as `r`."""
    folder = tmp_path_factory.mktemp("other")
    for name in "abc":
        ecg.write(folder / "home", name, seconds=40)
    for name, patient in (("a", 1), ("b", 1), ("x", 2)):
        ecg.write(folder / "away", name, seconds=40, rate=250, leads=("I", "II"), comments=[f"patient {patient}"])
    return folder / "home", folder / "away"


def both(places: tuple[Path, Path], **changes: Any) -> DataConfig:
    other = {"source": "folder", "folder": str(places[1]), **changes.pop("other", {})}
    keys = {"rate": 360.0, "window": (90, 162), "patients": "^.", **changes}
    return DataConfig(source="folder", folder=str(places[0]), other=OtherConfig(**other), **keys)


SPLIT = CohortConfig(hospitals=2, partition="consecutive", split="other-database", adapt_minutes=0.2)


def test_the_first_database_trains_and_the_second_is_tested(places: tuple[Path, Path]) -> None:
    cohort = build_cohort(both(places), SPLIT)
    rows = [(row["records"], row["trains"], row["test"] > 0) for row in cohort.report["hospitals"]]
    assert rows == [
        (["a", "b"], True, False),
        (["c"], True, False),
        (["folder/a", "folder/b"], False, True),
        (["folder/x"], False, True),
    ]
    assert [row["patient"] for row in cohort.beats.records] == ["a", "b", "c", "folder/1", "folder/1", "folder/2"]
    assert cohort.report["leads"] == {"MLII": ["a", "b", "c"], "II": ["folder/a", "folder/b", "folder/x"]}
    assert cohort.report["native_rates"] == {"360": 3, "250": 3}
    assert cohort.report["leaky"] == []
    for hospital in cohort.hospitals[2:]:  # adapts on the first 12 s of each record, at the common rate
        assert (cohort.beats.sample[hospital.train] < 0.2 * 60 * 360).all()
        assert (cohort.beats.sample[hospital.test] >= 0.2 * 60 * 360).all()


def test_what_the_second_database_has_of_its_own(places: tuple[Path, Path]) -> None:
    data = both(places, other={"lead": "I", "records": ("x", "a"), "patients": {"x": "p", "a": "p"}})
    beats = load_beats(data)
    assert [(row["name"], row["leads"], row["patient"]) for row in beats.records[3:]] == [
        ("folder/x", ["I"], "folder/p"),
        ("folder/a", ["I"], "folder/p"),
    ]
    assert beats.digest != load_beats(both(places)).digest
    assert load_beats(both(places, other={"exclude": ("a", "b")})).records[-1]["name"] == "folder/x"
    assert len(load_beats(both(places, other={"exclude": ("a", "b")})).records) == 4


def test_patients_that_one_side_does_not_know_are_said(places: tuple[Path, Path]) -> None:
    assert build_cohort(both(places, patients=None), SPLIT).report["leaky"] == [UNKNOWN]


def test_a_second_database_at_another_rate_wants_a_rate(places: tuple[Path, Path], refused: Refused) -> None:
    assert "360 Hz (a, b, c) and 250 Hz (a, b, x); give data.rate" in refused(
        lambda: load_beats(both(places, rate=None))
    )


def test_the_same_file_on_both_sides_is_refused(places: tuple[Path, Path], tmp_path: Path, refused: Refused) -> None:
    shutil.copytree(places[1], tmp_path / "away")
    shutil.copy(places[0] / "b.dat", tmp_path / "away" / "y.dat")
    ecg.write(tmp_path / "more", "y", seconds=40)
    shutil.copy(places[0] / "b.hea", tmp_path / "away" / "y.hea")
    ecg.retell(tmp_path / "away" / "y.hea", "b.dat", "y.dat")
    shutil.copy(tmp_path / "more" / "y.atr", tmp_path / "away" / "y.atr")
    ecg.rewrite(tmp_path / "away" / "y.hea", lambda line: line)
    (tmp_path / "away" / "y.hea").write_text((tmp_path / "away" / "y.hea").read_text() + "# patient 9\n")
    message = refused(lambda: load_beats(both((places[0], tmp_path / "away"))))
    assert message.startswith(f"data.other: {tmp_path / 'away' / 'y.'}")
    assert message.endswith("so what is tested on would be trained on.")


def test_a_copy_of_a_known_patient_is_found_across_databases(mitdb: Path, tmp_path: Path) -> None:
    # 201 trains; a resampled copy of 202, the same man, lies in another folder under another name.
    import wfdb

    raw: Any = wfdb.rdrecord(str(mitdb / "202"), sampto=72_000)
    notes = wfdb.rdann(str(mitdb / "202"), "atr", sampto=70_000)
    wfdb.wrsamp(
        "z",
        180,
        ["mV"] * 2,
        raw.sig_name,
        raw.p_signal[::2],
        fmt=["16"] * 2,
        comments=raw.comments,
        write_dir=str(tmp_path),
    )
    wfdb.wrann("z", "atr", notes.sample // 2, notes.symbol, write_dir=str(tmp_path))
    data = DataConfig(
        source="mitdb", folder=str(mitdb), records=("201", "100"), rate=360.0, window=(90, 162),
        other=OtherConfig(source="folder", folder=str(tmp_path)),
    )  # fmt: skip
    report = build_cohort(data, SPLIT).report
    assert report["leaky"] == ["patients in more than one hospital: 201"]


@pytest.mark.parametrize("partition", ["consecutive", "pathology", "record-dirichlet", "quantity", "records"])
def test_partitions_are_over_the_first_database_alone(places: tuple[Path, Path], partition: Any) -> None:
    groups = (("a",), ("c", "b")) if partition == "records" else None
    config = CohortConfig(hospitals=2, partition=partition, split="other-database", groups=groups, adapt_minutes=0.2)
    rows = build_cohort(both(places), config).report["hospitals"]
    assert sorted(sum((row["records"] for row in rows[:2]), [])) == ["a", "b", "c"]
    assert len(rows) == 4


def test_beats_of_one_patient_are_not_dealt_out(places: tuple[Path, Path]) -> None:
    config = CohortConfig(hospitals=2, partition="beat-dirichlet", split="other-database")
    with pytest.raises(ConfigError, match=r"other-database does not go with cohort\.partition beat-dirichlet"):
        build_cohort(both(places), config)


@pytest.mark.parametrize(
    "values",
    [{"cohort": {"split": "other-database"}}, {"data": {"other": {"source": "svdb"}}, "cohort": {"split": "random"}}],
)
def test_split_and_second_database_go_together(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"cohort\.split: other-database and data\.other\.source go together"):
        parse(RunConfig, values, "c.yaml")
