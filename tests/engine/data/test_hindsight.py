"""No hindsight: when only what comes after a part of a record changes, that part's beats stay what they are."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ecg
import numpy as np
import pytest

from engine.data.beats import ARRAYS, Beats, load_beats, open_beats, rr_features
from engine.data.cohort import Cohort, build_cohort
from engine.data.config import CohortConfig, DataConfig
from engine.data.hindsight import scaled_by_train, timing, without_hindsight
from engine.data.partitions import NO_END, TEST, TRAIN, UNUSED, VALIDATION, horizons, partition, split

Make = Callable[..., Beats]
Settings = Callable[..., DataConfig]


def parts_of(beats: Beats, config: CohortConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    owner = partition(beats, config)
    part, trains = split(beats, owner, config)
    return owner, part, trains, horizons(beats, owner, part, trains, config)


# --- Horizons


def test_a_part_ends_where_the_next_begins(beats_of: Make) -> None:
    # Ten beats at 300, 600, ...: six train, one validates (2100), three test (from 2400).
    beats = beats_of({"a": "N" * 10, "b": "N" * 10})
    config = CohortConfig(hospitals=2, partition="one-record")
    _, part, _, horizon = parts_of(beats, config)
    assert part[:10].tolist() == [TRAIN] * 6 + [VALIDATION] + [TEST] * 3
    assert horizon.tolist() == ([2100] * 6 + [2400] + [NO_END] * 3) * 2


def test_what_adapts_ends_where_it_is_tested(beats_of: Make) -> None:
    beats = beats_of({"a": "N" * 20, "b": "N" * 20}, interval=360 * 30)
    config = CohortConfig(hospitals=2, partition="one-record", split="leave-one-hospital-out", held_out=1)
    _, part, _, horizon = parts_of(beats, config)
    assert part[20:].tolist() == [TRAIN] * 9 + [TEST] * 11
    assert horizon[20:].tolist() == [beats.sample[29]] * 9 + [NO_END] * 11


def test_a_random_split_has_no_horizon(beats_of: Make) -> None:
    beats = beats_of({"a": "N" * 20})
    assert (parts_of(beats, CohortConfig(hospitals=1, partition="one-record", split="random"))[3] == NO_END).all()


def test_beats_of_no_hospital_have_no_horizon(beats_of: Make) -> None:
    beats = beats_of({"a": "N" * 20, "b": "N" * 20})
    owner, part, _, horizon = parts_of(beats, CohortConfig(hospitals=1, partition="records", groups=(("a",),)))
    assert (owner[20:] == -1).all()
    assert (part[20:] == UNUSED).all()
    assert (horizon[20:] == NO_END).all()


# --- Timing


def test_timing_stops_at_the_horizon_by_hand(beats_of: Make) -> None:
    # Beats at 360, 720, ...: intervals of 1 s; then one 1800 late. Before the horizon nothing of that is known.
    beats = beats_of({"a": "N" * 6}, interval=360)
    sample = np.array([360, 720, 1080, 1440, 3240, 3600])
    names = ("previous", "next", "previous_ratio", "next_ratio")
    data = DataConfig(rr_context=2)
    beats = replace(beats, sample=sample, peak=sample, rr=rr_features(sample / 360.0, data), rr_names=names)
    horizon = np.array([3240] * 4 + [NO_END] * 2)
    rr = timing(beats, data, horizon)
    assert rr[:4] == pytest.approx(np.array([[0.8, 0.8, 0, 0]] * 4), abs=1e-5)  # (1 - 0.8) / 0.25
    assert np.array_equal(rr[4:], beats.rr[4:])
    assert beats.rr[3, 1] == pytest.approx((3.0 - 0.8) / 0.25)  # with hindsight: 5 s, clipped to 3


def test_only_the_last_beats_of_a_part_change(beats_of: Make) -> None:
    draw = np.random.default_rng(0)
    sample = np.cumsum(draw.integers(200, 400, 100))
    beats = beats_of({"a": "N" * 100})
    data = DataConfig()
    beats = replace(beats, sample=sample, peak=sample, rr=rr_features(sample / 360.0, data), rr_names=data.rr_names)
    horizon = parts_of(beats, CohortConfig(hospitals=1, partition="one-record"))[3]
    changed = np.flatnonzero((timing(beats, data, horizon) != beats.rr).any(1))
    ends = [np.flatnonzero(horizon == end)[-1] + 1 for end in np.unique(horizon)[:2]]
    assert set(changed.tolist()) <= {i for end in ends for i in range(end - 10, end)}
    assert len(changed) >= 18


# --- Scale


def test_a_record_is_scaled_by_its_train_beats_by_hand(beats_of: Make) -> None:
    # Train windows hold 1 1 1 9 1 1 1 1: median 1, mean 2, variance 7; the later ones do not count.
    beats = beats_of({"a": "N" * 4}, window=4)
    x = np.array([[1, 1, 1, 9], [1, 1, 1, 1], [50, 50, 50, 50], [8, 1, 1, 1]], np.float32)
    part = np.array([TRAIN, TRAIN, TEST, TEST])
    made = scaled_by_train(replace(beats, x=x[:, None]), np.zeros(4, int), part, np.ones(4, bool))
    assert made[:2, 0].tolist() == [pytest.approx([0, 0, 0, 8 / 7**0.5]), [0, 0, 0, 0]]
    assert made[2, 0].tolist() == pytest.approx([49 / 7**0.5] * 4)
    assert made[3, 0].tolist() == pytest.approx([7**0.5, 0, 0, 0])


def test_a_record_without_train_beats_takes_its_hospitals_scale(beats_of: Make) -> None:
    beats = beats_of({"a": "NN", "b": "NN"}, window=2)
    x = np.array([[0, 2], [0, 2], [5, 7], [5, 9]], np.float32)
    part = np.array([TRAIN, TEST, TEST, TEST])
    made = scaled_by_train(replace(beats, x=x[:, None]), np.zeros(4, int), part, np.ones(4, bool))
    assert made[:, 0].tolist() == [[-1, 1], [-1, 1], [4, 6], [4, 8]]  # median 1, spread 1
    unowned = scaled_by_train(
        replace(beats, x=x[:, None]), np.array([0, 0, -1, -1]), part, np.array([True, True, False, False])
    )
    assert unowned[2:, 0].tolist() == x[2:].tolist()


# --- The whole cohort


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same two records twice; in the second the test part is another one: beats moved, waves taller."""
    first, second = (tmp_path_factory.mktemp("hindsight") / name for name in ("first", "second"))
    for name in "ab":
        peaks = ecg.write(first, name, seconds=100)
        ecg.write(second, name, seconds=100)
        late = len(peaks) - round(0.3 * len(peaks))  # 0.7 of the beats train and validate
        border = int(peaks[late] - 90)  # where the first test window begins
        signal = np.fromfile(second / f"{name}.dat", "<i2").reshape(-1, 2)
        signal[border:] = 5 * signal[border:] + 300
        signal.astype("<i2").tofile(second / f"{name}.dat")
        import wfdb

        notes = wfdb.rdann(str(second / name), "atr")
        moved = notes.sample.copy()
        moved[late:] += np.random.default_rng(1).integers(30, 90, len(moved) - late)
        wfdb.wrann(name, "atr", moved, notes.symbol, write_dir=str(second))
    return first, second


def cohorts(folders: tuple[Path, Path], settings_of: Settings, **keys: Any) -> list[Cohort]:
    config = CohortConfig(hospitals=2, partition="one-record")
    return [build_cohort(settings_of(folder, **keys), config) for folder in folders]


@pytest.mark.parametrize("context", [10, "8 s"])
def test_train_and_validation_beats_know_nothing_of_the_test_part(
    folders: tuple[Path, Path], settings_of: Settings, context: Any
) -> None:
    first, second = cohorts(folders, settings_of, normalise="train", rr_context=context)
    for a, b in zip(first.hospitals, second.hospitals, strict=True):
        for index, same in ((a.train, b.train), (a.validation, b.validation)):
            kept = np.intersect1d(index, same)  # the guard gap follows the first test beat, which has moved
            assert len(kept) >= len(index) - 1 > 0
            assert np.array_equal(first.beats.x[kept], second.beats.x[kept])
            assert np.array_equal(first.beats.rr[kept], second.beats.rr[kept])
    assert not np.array_equal(first.beats.x[a.test], second.beats.x[a.test])


def test_with_hindsight_they_would(folders: tuple[Path, Path], settings_of: Settings) -> None:
    first, second = cohorts(folders, settings_of, normalise="record")
    train = first.hospitals[0].train
    assert not np.array_equal(first.beats.x[train], second.beats.x[train])


def test_timing_may_stop_at_the_gap_whatever_the_scale_is(folders: tuple[Path, Path], settings_of: Settings) -> None:
    """As where every beat after the train part was moved: `next` and the ratios of the last train beats stay."""
    for normalise, stop in (("record", True), ("beat", True), ("none", True), ("train", None), ("train", True)):
        first, second = cohorts(folders, settings_of, normalise=normalise, rr_stop=stop)
        for a, b in zip(first.hospitals, second.hospitals, strict=True):
            kept = np.intersect1d(a.train, b.train)
            assert len(kept) >= len(a.train) - 1
            assert np.array_equal(first.beats.rr[kept], second.beats.rr[kept])
    first, second = cohorts(folders, settings_of, normalise="train", rr_stop=False)
    validation = np.intersect1d(first.hospitals[0].validation, second.hospitals[0].validation)
    assert not np.array_equal(first.beats.rr[validation], second.beats.rr[validation])


def test_timing_that_stops_leaves_windows_and_other_timing_as_they_are(
    folders: tuple[Path, Path], settings_of: Settings
) -> None:
    config = CohortConfig(hospitals=2, partition="one-record")
    stopped, crossing = (build_cohort(settings_of(folders[0], rr_stop=stop), config) for stop in (True, False))
    assert np.array_equal(stopped.beats.x, crossing.beats.x)
    changed = np.flatnonzero((stopped.beats.rr != crossing.beats.rr).any(1))
    assert 0 < len(changed) <= 2 * 2 * 10  # at most rr_context before each of two gaps, in each record
    assert crossing.beats.folder == load_beats(settings_of(folders[0], rr_stop=None)).folder


def test_beats_without_hindsight_are_kept_and_mapped(folders: tuple[Path, Path], settings_of: Settings) -> None:
    data = settings_of(folders[0], normalise="train")
    raw = load_beats(data)
    first, again = (build_cohort(data, CohortConfig(hospitals=2, partition="one-record")).beats for _ in range(2))
    other = build_cohort(data, CohortConfig(hospitals=2, partition="one-record", fractions=(0.5, 0.2, 0.3))).beats
    assert first.folder == again.folder
    assert len({raw.folder, first.folder, other.folder}) == 3
    assert raw.digest == first.digest == other.digest  # the data are the same
    for name in ARRAYS:
        assert isinstance(getattr(first, name), np.memmap)
        shared = np.array_equal(getattr(raw, name), getattr(first, name))
        assert shared == (name not in ("x", "rr"))
    assert (first.folder / "y.npy").samefile(raw.folder / "y.npy")
    (first.folder / "x.npy").write_bytes(b"")
    mended = build_cohort(data, CohortConfig(hospitals=2, partition="one-record")).beats
    assert np.array_equal(mended.x, open_beats(first.folder, check=True).x)


def test_where_nothing_looks_ahead_nothing_is_copied(folders: tuple[Path, Path], settings_of: Settings) -> None:
    data = settings_of(folders[0], normalise="beat", rr_features=False)
    beats = load_beats(data)
    config = CohortConfig(hospitals=2, partition="one-record")
    assert without_hindsight(beats, data, *parts_of(beats, config)) is beats
