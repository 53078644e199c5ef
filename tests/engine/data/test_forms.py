"""Simulated records in the form of other databases: names, leads, rate, comments, and patients with several records."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb

from engine.data.beats import load_beats
from engine.data.collection import gather
from engine.data.config import DataConfig
from engine.data.forms import twelve_leads, write_like
from engine.data.simulate import record
from engine.data.sources import INCART, SVDB

Refused = Callable[[Callable[[], object]], str]


@pytest.fixture(scope="module")
def incart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("incart") / "records"
    assert write_like("incart", folder, 4, seed=2, minutes=0.5) == [f"I{i:02}" for i in range(1, 11)]
    return folder


def test_incarts_form(incart: Path) -> None:
    for name in ("I01", "I10"):
        raw: Any = wfdb.rdrecord(str(incart / name))
        assert raw.sig_name == "I II III AVR AVL AVF V1 V2 V3 V4 V5 V6".split() == list(INCART.leads)
        assert (raw.fs, raw.sig_len, raw.units) == (257, 7710, ["mV"] * 12)
        assert 250 <= raw.adc_gain[0] <= 1100
        assert len(set(raw.adc_gain)) == 1
    comments = [wfdb.rdheader(str(incart / name)).comments for name in ("I01", "I03", "I04", "I08", "I10")]
    assert [lines[1] for lines in comments] == [f"patient {n}" for n in (1, 1, 2, 4, 4)]
    assert comments[0][0] == comments[1][0]
    assert comments[0][0].startswith("<age>: ")


def test_its_patients_and_leads_are_found(incart: Path) -> None:
    data = DataConfig(source="incart", folder=str(incart), window=("0.25 s", "0.45 s"), records=INCART.records[:10])
    beats = load_beats(data)
    assert [row["patient"] for row in beats.records] == list("1112233444")
    assert {tuple(row["leads"]) for row in beats.records} == {("II",)}
    assert beats.window == (64, 116)
    assert all(20 <= row["age"] <= 90 and row["sex"] in "MF" for row in beats.records)


def test_records_of_one_patient_are_different_hours_of_the_same_heart() -> None:
    first, second, other = (record(n, 2, 0.5, 257, again) for n, again in ((1, 0), (1, 1), (2, 0)))
    assert np.array_equal(first.patient.shapes, second.patient.shapes)
    assert not np.array_equal(first.patient.shapes, other.patient.shapes)
    assert not np.array_equal(first.signal, second.signal)
    assert np.array_equal(record(1, 2, 0.5, 257, 1).signal, second.signal)


def test_limb_leads_obey_einthoven_and_goldberger() -> None:
    signal = np.random.default_rng(0).standard_normal((100, 2))
    one, two, three, avr, avl, avf = twelve_leads(signal).T[:6]
    assert np.allclose(two, one + three)
    assert np.allclose(avr + avl + avf, 0)
    assert np.allclose(avl, one - two / 2)
    assert np.array_equal(two, signal[:, 0])
    assert np.array_equal(twelve_leads(signal)[:, 6], signal[:, 1])


def test_svdbs_form_says_nothing_of_patients(tmp_path: Path) -> None:
    assert write_like("svdb", tmp_path / "s", 3, seed=0, minutes=0.5) == ["800", "801", "802"]
    raw: Any = wfdb.rdrecord(str(tmp_path / "s" / "801"))
    assert (raw.fs, raw.sig_name, raw.adc_gain) == (128, list(SVDB.leads), [200.0, 200.0])
    data = DataConfig(source="svdb", folder=str(tmp_path / "s"), records=("800", "801", "802"), lead="ECG1")
    assert gather(data).patients.source == ""


def test_32_patients_make_the_75_records_of_incart(tmp_path: Path, refused: Refused) -> None:
    assert sum(3 if p % 3 == 1 else 2 for p in range(1, 33)) == 75
    assert refused(lambda: write_like("incart", tmp_path / "r", 33, 0, 0.5)) == (
        "data.simulated.patients: incart has 75 records, these patients would have 77."
    )
    assert refused(lambda: write_like("svdb", tmp_path / "r", 79, 0, 0.5)).startswith(
        "data.simulated.patients: svdb has 78 "
    )
    assert not (tmp_path / "r").exists()
