"""Simulated records: read back through wfdb, the same bytes every time, beats that behave as their class should."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb
from numpy.typing import NDArray

from engine.data.simulate import write_records
from engine.errors import DataError

AAMI = {"N": "N", "L": "N", "R": "N", "A": "S", "V": "V", "F": "F", "/": "Q", "Q": "Q"}
MINUTES = 4.0
RATE = 360


@dataclass
class Beats:
    """One record read back: beat times in samples (n,), symbols (n,), rhythm note, signal (samples, 2) in mV."""

    at: NDArray[np.int64]
    symbols: list[str]
    note: str
    signal: NDArray[np.float64]

    def around(self, symbols: str) -> list[tuple[float, float]]:
        """Intervals before and after each lone beat of `symbols`, relative to the N-N intervals nearby."""
        classes = [AAMI[symbol] for symbol in self.symbols]
        rr = np.diff(self.at).astype(np.float64)
        quiet = np.array([classes[i] == "N" and classes[i + 1] == "N" for i in range(len(rr))])
        found = []
        for i in range(1, len(rr)):
            if self.symbols[i] not in symbols or classes[i - 1] != "N" or classes[i + 1] != "N":
                continue
            near = slice(max(0, i - 10), i + 10)
            if quiet[near].sum() >= 3:
                local = float(rr[near][quiet[near]].mean())
                found.append((float(rr[i - 1]) / local, float(rr[i]) / local))
        return found

    def width(self, symbols: str) -> float:
        """Seconds for which the mean beat of `symbols` is far from its baseline, in the 240 ms around R."""
        chosen = [
            at
            for at, symbol in zip(self.at, self.symbols, strict=True)
            if symbol in symbols and 90 <= at < len(self.signal) - 90
        ]
        mean = np.mean([self.signal[at - 43 : at + 44] for at in chosen], axis=0)
        far = np.abs(mean - mean[[0, -1]].mean(axis=0)).sum(axis=1)
        return float((far > 0.3 * far.max()).sum()) / RATE


def read_beats(folder: Path, name: str) -> Beats:
    record: Any = wfdb.rdrecord(str(folder / name))
    notes = wfdb.rdann(str(folder / name), "atr")
    kept = [(at, symbol) for at, symbol in zip(notes.sample, notes.symbol, strict=True) if symbol in AAMI]
    return Beats(
        at=np.array([at for at, _ in kept]),
        symbols=[symbol for _, symbol in kept],
        note=notes.aux_note[0],
        signal=record.p_signal,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("simulated") / "deep" / "records"
    assert write_records(target, 8, seed=5, minutes=MINUTES) == [f"s{number:03d}" for number in range(1, 9)]
    return target


@pytest.fixture(scope="module")
def patients(folder: Path) -> list[Beats]:
    return [read_beats(folder, f"s{number:03d}") for number in range(1, 9)]


def test_records_read_back_through_wfdb(folder: Path) -> None:
    assert sorted(contents(folder)) == [f"s{n:03d}.{end}" for n in range(1, 9) for end in ("atr", "dat", "hea")]
    for number in range(1, 9):
        record: Any = wfdb.rdrecord(str(folder / f"s{number:03d}"))
        assert record.fs == RATE
        assert record.sig_len == round(MINUTES * 60 * RATE)
        assert record.sig_name == ["MLII", "V1"]
        assert record.units == ["mV", "mV"]
        assert record.fmt == ["16", "16"]
        age, sex = record.comments[0].split()[:2]
        assert 18 <= int(age) <= 100
        assert sex in ("M", "F")
        assert np.isfinite(record.p_signal).all()
        assert 0.5 < np.ptp(record.p_signal[:, 0]) < 12.0


def test_annotations_start_with_the_rhythm_and_rise(folder: Path) -> None:
    for number in range(1, 9):
        notes = wfdb.rdann(str(folder / f"s{number:03d}"), "atr")
        assert notes.symbol[0] == "+"
        assert notes.aux_note[0].startswith("(")
        assert notes.symbol.count("+") == 1
        assert set(notes.symbol[1:]) <= set(AAMI)
        assert (np.diff(notes.sample) > 0).all()
        assert (np.diff(notes.sample[1:]) > 0.2 * RATE).all()
        assert notes.sample[-1] < MINUTES * 60 * RATE


def test_annotations_lie_on_the_complexes(patients: list[Beats]) -> None:
    narrow = patients[0]
    chosen = [at for at, symbol in zip(narrow.at, narrow.symbols, strict=True) if symbol == "N" and at > 100]
    mean = np.mean([narrow.signal[at - 36 : at + 37, 0] for at in chosen if at + 37 < len(narrow.signal)], axis=0)
    assert abs(int(np.argmax(np.abs(mean - np.median(mean)))) - 36) <= 3


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        write_records(tmp_path / name, 2, seed, minutes=0.5)
    first, again, other = (contents(tmp_path / name) for name in ("first", "again", "other"))
    assert first == again
    assert all(first[name] != other[name] for name in first if name.endswith((".dat", ".atr")))


def test_a_patient_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    write_records(tmp_path / "three", 3, 9, minutes=0.5)
    write_records(tmp_path / "five", 5, 9, minutes=0.5)
    three, five = contents(tmp_path / "three"), contents(tmp_path / "five")
    assert len(three) == 9
    assert three == {name: five[name] for name in three}
    assert three["s001.dat"] != three["s002.dat"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_few_patients_already_hold_the_classes(tmp_path: Path, seed: int) -> None:
    names = write_records(tmp_path / "r", 8, seed, minutes=2.0)
    found = [{AAMI[symbol] for symbol in read_beats(tmp_path / "r", name).symbols} for name in names]
    assert set().union(*found) == set("NSVFQ")
    assert set("NSV") <= set().union(*found[:4])


def test_class_mix_is_like_a_real_collection(patients: list[Beats]) -> None:
    classes = [AAMI[symbol] for beats in patients for symbol in beats.symbols]
    share = {name: classes.count(name) / len(classes) for name in "NSVFQ"}
    assert 0.68 < share["N"] < 0.90
    assert share["F"] < share["V"] < 0.2
    assert 0.01 < share["S"] < 0.10
    assert 0.03 < share["Q"] < 0.15


def test_atrial_beats_come_early(patients: list[Beats]) -> None:
    pairs = np.array([pair for beats in patients for pair in beats.around("A")])
    assert len(pairs) >= 15
    assert np.median(pairs[:, 0]) < 0.9
    assert (pairs[:, 0] < 1.0).mean() > 0.9
    # The node is reset, so that less than two whole intervals pass from the beat before to the beat after.
    assert np.median(pairs.sum(axis=1)) < 1.95


def test_ventricular_beats_come_early_and_are_compensated(patients: list[Beats]) -> None:
    regular = [beats for beats in patients if beats.note.startswith("(N")]
    pairs = np.array([pair for beats in regular for pair in beats.around("V")])
    assert len(pairs) >= 40
    assert np.median(pairs[:, 0]) < 0.85
    assert abs(np.median(pairs.sum(axis=1)) - 2.0) < 0.06
    assert (np.abs(pairs.sum(axis=1) - 2.0) < 0.25).mean() > 0.85


def test_fusion_beats_are_nearly_on_time(patients: list[Beats]) -> None:
    pairs = np.array([pair for beats in patients for pair in beats.around("F")])
    assert len(pairs) >= 10
    assert 0.9 < np.median(pairs[:, 0]) < 1.0


@pytest.mark.parametrize("number", [1, 5, 8])
def test_ventricular_complexes_are_wider_than_the_patients_own(patients: list[Beats], number: int) -> None:
    beats = patients[number - 1]
    assert beats.width("V") > 1.4 * beats.width("N")


def test_paced_rhythm_is_regular(patients: list[Beats]) -> None:
    paced = patients[6]
    intervals = [
        (paced.at[i + 1] - paced.at[i]) / RATE
        for i in range(len(paced.at) - 1)
        if paced.symbols[i] == paced.symbols[i + 1] == "/"
    ]
    assert len(intervals) > 50
    assert np.std(intervals) < 0.02


def test_the_sampling_rate_is_taken(tmp_path: Path) -> None:
    write_records(tmp_path / "r", 1, 0, minutes=0.5, sampling_rate=250)
    record: Any = wfdb.rdrecord(str(tmp_path / "r" / "s001"))
    assert (record.fs, record.sig_len) == (250, 7500)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write: Any = wfdb.wrann
    calls: list[str] = []

    def fail_on_second(name: str, *rest: Any, **options: Any) -> None:
        calls.append(name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(name, *rest, **options)

    monkeypatch.setattr(wfdb, "wrann", fail_on_second)
    with pytest.raises(KeyboardInterrupt):
        write_records(tmp_path / "r", 3, 0, minutes=0.5)
    assert list(tmp_path.iterdir()) == []


def test_an_occupied_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(DataError, match="not an empty folder"):
        write_records(tmp_path, 1, 0, minutes=0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    assert write_records(tmp_path / "r", 1, 0, minutes=0.5) == ["s001"]
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    assert len(contents(tmp_path / "r")) == 3


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"patients": 0}, "patients"),
        ({"patients": 2.5}, "patients"),
        ({"patients": True}, "patients"),
        ({"seed": -1}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"minutes": 0.1}, "minutes"),
        ({"minutes": float("nan")}, "minutes"),
        ({"minutes": 1e9}, "minutes"),
        ({"sampling_rate": 50}, "sampling_rate"),
        ({"sampling_rate": 360.5}, "sampling_rate"),
    ],
)
def test_a_wrong_argument_is_one_sentence(tmp_path: Path, wrong: dict[str, Any], name: str) -> None:
    arguments: dict[str, Any] = {"patients": 1, "seed": 0, "minutes": 0.5, **wrong}
    with pytest.raises(ValueError, match=f"^{name} must be ") as caught:
        write_records(tmp_path / "r", **arguments)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []
