"""The real 48 records of MIT-BIH as they were counted by hand."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb

from engine.data.beats import Beats, load_beats
from engine.data.cohort import build_cohort
from engine.data.collection import gather
from engine.data.config import CohortConfig, DataConfig
from engine.data.disk import file_digests
from engine.data.partitions import TEST, split
from engine.data.records import open_record, read_record
from engine.data.sources import DS1, DS2, MITDB, PACED

Refused = Callable[[Callable[[], object]], str]
Settings = Callable[..., DataConfig]


def test_the_published_list_names_every_file_once() -> None:
    assert set(MITDB.digests) == set(MITDB.files)
    assert len(MITDB.digests) == len(set(MITDB.digests.values())) == 144
    assert all(len(digest) == 64 and int(digest, 16) >= 0 for digest in MITDB.digests.values())
    assert MITDB.records == tuple(sorted([*DS1, *DS2, *PACED]))
    assert sorted(MITDB.comments.values()) == list(MITDB.records)


def test_the_real_records_hold_what_was_counted_by_hand(real: Beats) -> None:
    assert len(real.records) == 48
    annotated = sum((Counter(record["annotated"]) for record in real.records), Counter())
    assert annotated == {"N": 90_631, "S": 2_781, "V": 7_236, "F": 803, "Q": 8_043}
    assert annotated.total() == 109_494 == len(real)
    assert real.counts() == annotated
    assert {record["samples"] for record in real.records} == {650_000}
    assert {record["sampling_rate"] for record in real.records} == {360.0}
    by_name = {record["name"]: record["annotated"] for record in real.records}
    assert (by_name["208"]["F"], by_name["213"]["F"], by_name["232"]["S"]) == (373, 362, 1_382)
    assert sum(by_name[name]["Q"] for name in PACED) == 8_028


def test_no_real_beat_is_left_out_as_lost_flat_or_doubled(real: Beats, mitdb: Path) -> None:
    # 116's lead is clipped for 0.74 s, which is no second.
    wide = load_beats(DataConfig(source="mitdb", folder=str(mitdb), records=("116", "203", "103"), window=(360, 360)))
    for beats in (real, wide):
        assert {reason: sum(r[reason] for r in beats.records) for reason in ("lost", "flat", "unclear", "doubled")} == {
            "lost": 0, "flat": 0, "unclear": 0, "doubled": 0,
        }  # fmt: skip
    assert sum((Counter(record["others"]) for record in real.records), Counter()) == {
        "+": 1291, "~": 616, "!": 472, '"': 437, "x": 193, "|": 132, "[": 6, "]": 6,
    }  # fmt: skip


def test_the_real_patients(real: Beats) -> None:
    people = {record["name"]: record for record in real.records}
    assert Counter(person["sex"] for person in people.values()) == {"M": 26, "F": 22}
    assert {name for name, person in people.items() if person["age"] == -1} == {"103", "219"}
    ages = [person["age"] for person in people.values() if person["age"] != -1]
    assert (min(ages), max(ages)) == (23, 89)
    assert len({person["patient"] for person in people.values()}) == 47
    assert people["202"]["patient"] == people["201"]["patient"] == "201"
    assert real.patients_source == "MIT-BIH 1.0.0"


def test_the_lead_is_picked_by_name(real: Beats, mitdb: Path) -> None:
    leads = {record["name"]: record["leads"] for record in real.records}
    assert {name for name, lead in leads.items() if lead != ["MLII"]} == {"102", "104"}
    assert leads["102"] == leads["104"] == ["V5"]
    raw: Any = wfdb.rdrecord(str(mitdb / "114"))
    assert raw.sig_name == ["V5", "MLII"]
    data = DataConfig(source="mitdb")
    record = read_record(open_record("114", mitdb / "114.hea", data), data)
    assert record.leads == ("MLII",)
    assert np.array_equal(record.signal[0], raw.p_signal[:, 1].astype(np.float32))


def test_the_prototype_has_exactly_6318_beats(mitdb: Path) -> None:
    beats = load_beats(
        DataConfig(
            source="mitdb",
            folder=str(mitdb),
            records=("100", "101", "102"),
            lead=0,
            window=(180, 180),
            drop_symbols=("Q",),
        )
    )
    assert len(beats) == 6_318
    assert beats.x.shape == (6_318, 1, 360)
    assert beats.counts() == {"N": 4_195, "S": 36, "V": 5, "F": 0, "Q": 2_082}
    assert [record["leads"] for record in beats.records] == [["MLII"], ["MLII"], ["V5"]]
    assert sum(record["edge"] for record in beats.records) == 5
    assert [record["dropped"] for record in beats.records] == [{}, {"Q": 2}, {}]


def test_the_chronological_test_part_of_all_records(real: Beats) -> None:
    part = split(real, np.zeros(len(real), np.int32), CohortConfig(hospitals=1))[0]
    tested = dict(zip("NSVFQ", np.bincount(real.y[part == TEST], minlength=5).tolist(), strict=True))
    counted = {"N": 27_083, "S": 837, "V": 2_255, "F": 171, "Q": 2_523}
    for letter, count in counted.items():
        assert abs(tested[letter] - count) <= (0.002 * count if letter in "NQ" else 1), letter


def test_the_real_files_are_the_published_ones(
    mitdb: Path, tmp_path: Path, refused: Refused, settings_of: Settings
) -> None:
    digests = file_digests(mitdb, [mitdb / name for name in ("100.hea", "100.atr", "234.dat")], MITDB)
    assert digests == {name: MITDB.digests[name] for name in digests}
    for file in mitdb.glob("100.*"):
        shutil.copy(file, tmp_path)
    damaged = bytearray((tmp_path / "100.dat").read_bytes())
    damaged[1000] ^= 1
    (tmp_path / "100.dat").chmod(0o644)
    (tmp_path / "100.dat").write_bytes(damaged)
    message = refused(lambda: load_beats(DataConfig(source="mitdb", folder=str(tmp_path), records=("100",))))
    assert message.startswith(f"{tmp_path / '100.dat'}: differs from MIT-BIH 1.0.0 (SHA-256); ")
    assert "data.source: folder" in message
    assert len(load_beats(settings_of(tmp_path))) > 2_000


def copy(mitdb: Path, target: Path, names: dict[str, str]) -> Path:
    """Records of MIT-BIH under other names."""
    target.mkdir()
    for record, name in names.items():
        for end in ("dat", "atr"):
            (target / f"{name}.{end}").symlink_to(mitdb / f"{record}.{end}")
        header = (mitdb / f"{record}.hea").read_text()
        (target / f"{name}.hea").write_text(header.replace(f"{record}.dat", f"{name}.dat"))
    return target


def test_a_copy_is_recognised_by_content_whatever_it_is_called(
    mitdb: Path, tmp_path: Path, settings_of: Settings
) -> None:
    place = copy(mitdb, tmp_path / "copy", {"201": "202", "202": "a", "100": "101"})
    collection = gather(settings_of(place))
    assert collection.known == {"202": ("mitdb", "201"), "a": ("mitdb", "202"), "101": ("mitdb", "100")}
    assert collection.patients.of == {"202": "201", "a": "201", "101": "100"}
    assert collection.patients.source == "MIT-BIH 1.0.0"


def test_a_filtered_or_resampled_copy_is_recognised(mitdb: Path, tmp_path: Path, settings_of: Settings) -> None:
    for name in ("201", "202"):
        raw: Any = wfdb.rdrecord(str(mitdb / name), sampto=36_000)
        notes = wfdb.rdann(str(mitdb / name), "atr", sampto=35_000)
        half = raw.p_signal[::2]  # 180 Hz: no file is MIT-BIH's any more
        wfdb.wrsamp(
            name, 180, ["mV"] * 2, raw.sig_name, half, fmt=["16"] * 2, comments=raw.comments, write_dir=str(tmp_path)
        )
        wfdb.wrann(name, "atr", notes.sample // 2, notes.symbol, write_dir=str(tmp_path))
    cohort = build_cohort(
        settings_of(tmp_path), CohortConfig(hospitals=1, split="inter-patient", partition="consecutive")
    )
    assert {row["known"] for row in cohort.beats.records} == {"mitdb/201", "mitdb/202"}
    assert cohort.report["leaky"] == ["patients in more than one hospital: 201"]


def test_a_folder_that_is_mitdb_leaks_as_mitdb_does(mitdb: Path, settings_of: Settings) -> None:
    config = CohortConfig(hospitals=5, split="inter-patient")
    small = {"window": (2, 2), "normalise": "none", "rr_features": False}
    folder = build_cohort(settings_of(mitdb, **small), config).report
    named = build_cohort(DataConfig(source="mitdb", folder=str(mitdb), **small), config).report
    assert folder["leaky"] == ["patients in more than one hospital: 201"]
    assert {**folder, "digest": ""} == {**named, "digest": ""}
    assert folder["digest"] == named["digest"]


@pytest.mark.parametrize("extra", [{}, {"own": ("201", 0)}])
def test_an_own_201_beside_a_known_one_is_somebody_else(
    mitdb: Path, tmp_path: Path, settings_of: Settings, extra: dict[str, Any]
) -> None:
    place = copy(mitdb, tmp_path / "copy", {"201": "b"})
    if extra:
        for end in ("dat", "hea", "atr"):
            source = (mitdb / f"100.{end}").read_bytes()
            changed = source.replace(b"100.dat", b"201.dat").replace(b"69 M 1085", b"55 M 1085")
            (place / f"201.{end}").write_bytes(changed if end != "dat" else changed[::-1])
        wfdb.wrann("201", "atr", np.array([1000, 2000]), ["N", "N"], write_dir=str(place))
    patients = gather(settings_of(place)).patients
    if extra:
        assert patients.of == {"b": "mitdb 201", "201": "201"}
        assert patients.source == ""
    else:
        assert patients.of == {"b": "201"}
