"""Beats: where windows lie, how they are scaled, RR features worked out by hand, and the cache of cut beats."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data import beats as module
from engine.data.beats import ARRAYS, cut, load_beats, open_beats, rr_features
from engine.data.config import AAMI, DataConfig, FilterConfig
from engine.data.disk import locate
from engine.data.records import Entry, Record, open_record, read_record
from engine.errors import DataError


def record(
    signal: list[float] | np.ndarray,
    peaks: list[int],
    symbols: str | None = None,
    rate: float = 100.0,
    kinds: list[int] | None = None,
) -> Record:
    return Record(
        name="r",
        sex="",
        age=-1,
        leads=("MLII",),
        sampling_rate=rate,
        native_rate=rate,
        signal=np.asarray(signal, np.float32)[None],
        kinds=np.asarray(kinds or np.zeros(len(signal)), np.int8)[None],
        peaks=np.array(peaks, np.int64),
        symbols=tuple(symbols or "N" * len(peaks)),
    )


def raw(before: int, after: int, **settings: Any) -> DataConfig:
    return DataConfig(window=(before, after), normalise="none", **settings)


# --- windows


def test_a_window_goes_from_before_the_peak_to_just_before_after() -> None:
    arrays = cut(record(np.arange(100), [50, 60]), raw(10, 5))
    assert arrays.x.dtype == np.float32
    assert arrays.x[:, 0].tolist() == [list(range(40, 55)), list(range(50, 65))]
    assert arrays.sample.tolist() == [50, 60]


def test_a_beat_whose_window_leaves_the_record_is_left_out() -> None:
    # 10 - 10 = 0 is the first sample and 95 + 5 = 100 is one after the last: both still fit.
    arrays = cut(record(np.arange(100), [9, 10, 95, 96]), raw(10, 5))
    assert arrays.sample.tolist() == [10, 95]
    assert arrays.x[:, 0, [0, -1]].tolist() == [[0, 14], [85, 99]]


@given(
    st.lists(st.integers(0, 299), min_size=1, max_size=20, unique=True).map(sorted),
    st.integers(1, 60),
    st.integers(1, 60),
)
def test_every_window_is_the_stretch_around_its_peak(peaks: list[int], before: int, after: int) -> None:
    arrays = cut(record(np.arange(300), peaks), raw(before, after))
    kept = [p for p in peaks if p - before >= 0 and p + after <= 300]
    assert arrays.sample.tolist() == kept
    assert arrays.x[:, 0].tolist() == [list(range(p - before, p + after)) for p in kept]
    assert {len(array) for array in arrays[:4]} == {len(kept)}
    assert arrays.counts == {"edge": len(peaks) - len(kept), "lost": 0, "flat": 0, "unclear": 0}


def test_a_record_is_scaled_by_its_median_and_spread() -> None:
    # Median 1, mean 2, variance (7 * 1 + 49) / 8 = 7.
    signal = [1, 1, 1, 9, 1, 1, 1, 1]
    x = cut(record(signal, [3, 5]), DataConfig(window=(1, 2), normalise="record")).x
    assert x[:, 0].tolist() == [pytest.approx([0, 8 / 7**0.5, 0]), [0, 0, 0]]


def test_a_beat_is_scaled_by_its_own_mean_and_spread() -> None:
    # 2 4 4 6: mean 4, variance 2. 5 5 5 5 is flat and stays finite.
    x = cut(record([2, 4, 4, 6, 5, 5, 5, 5], [2, 6]), DataConfig(window=(2, 2), normalise="beat")).x
    assert x[:, 0].tolist() == [pytest.approx([-(2**0.5), 0, 0, 2**0.5]), [0, 0, 0, 0]]


def test_a_flat_record_stays_finite() -> None:
    x = cut(record([3.0] * 20, [10]), DataConfig(window=(2, 2), normalise="record")).x
    assert x[:, 0].tolist() == [[0, 0, 0, 0]]


def test_millivolts_are_kept_where_nothing_is_scaled() -> None:
    assert cut(record([0.5, -1.25, 2.0], [1]), raw(1, 1)).x[:, 0].tolist() == [[0.5, -1.25]]


# --- classes and symbols


def test_classes_count_in_the_order_of_their_letters() -> None:
    peaks = list(range(10, 90, 10))
    y = cut(record(np.zeros(100), peaks, "NLAVF/fQ"), raw(2, 2)).y
    assert y.dtype == np.int8
    assert y.tolist() == [0, 0, 1, 2, 3, 4, 4, 4]
    # Without S and Q the letters that are left are N V F.
    arrays = cut(record(np.zeros(100), peaks, "NLAVF/fQ"), raw(2, 2, classes="FVN"))
    assert arrays.y.tolist() == [0, 0, 1, 2]
    assert arrays.sample.tolist() == [10, 20, 40, 50]


def test_symbols_can_be_dropped_from_a_class() -> None:
    arrays = cut(record(np.zeros(100), [10, 20, 30, 40], "/fQN"), raw(2, 2, drop_symbols=("Q",)))
    assert arrays.sample.tolist() == [10, 20, 40]
    assert arrays.y.tolist() == [4, 4, 0]


# --- RR features

# A premature beat with its pause: intervals 0.8 0.8 0.4 1.2 s.
SECONDS = np.array([0.0, 0.8, 1.6, 2.0, 3.2])


def test_rr_features_by_hand() -> None:
    # One interval on each side: local means 0.8, 0.8, (0.8 + 0.4) / 2 = 0.6, (0.4 + 1.2) / 2 = 0.8, 1.2.
    # At the ends the missing neighbour is the beat's only interval. ln(4/3) = 0.28768, ln(1/2) = -0.69315.
    features = rr_features(SECONDS, DataConfig(rr_context=1))
    assert features.dtype == np.float32
    assert features.shape == (5, 4)
    previous, following, previous_ratio, next_ratio = features.T.tolist()
    assert previous == pytest.approx([0, 0, 0, -1.6, 1.6], abs=1e-5)
    assert following == pytest.approx([0, 0, -1.6, 1.6, 1.6], abs=1e-5)
    assert previous_ratio == pytest.approx([0, 0, 2.87682, -6.93147, 0], abs=1e-4)
    assert next_ratio == pytest.approx([0, 0, -4.05465, 4.05465, 0], abs=1e-4)


def test_the_local_mean_takes_as_many_intervals_as_there_are() -> None:
    # Ten on each side reach over the whole record: every local mean is 3.2 / 4 = 0.8.
    features = rr_features(SECONDS, DataConfig())
    assert features[:, 2].tolist() == pytest.approx([0, 0, 0, -6.93147, 4.05465], abs=1e-4)
    assert features[:, 3].tolist() == pytest.approx([0, 0, -6.93147, 4.05465, 4.05465], abs=1e-4)


def test_features_come_in_the_order_that_was_asked_for() -> None:
    whole = rr_features(SECONDS, DataConfig())
    some = rr_features(SECONDS, DataConfig(rr_features=("next_ratio", "previous")))
    assert some.tolist() == whole[:, [3, 0]].tolist()
    assert rr_features(SECONDS, DataConfig(rr_features=False)).shape == (5, 0)


def test_a_long_gap_counts_as_three_seconds() -> None:
    features = rr_features(np.array([0.0, 1.0, 31.0]), DataConfig(rr_features=("previous", "next")))
    assert features.tolist() == [pytest.approx([0.8, 0.8]), pytest.approx([0.8, 8.8]), pytest.approx([8.8, 8.8])]


@pytest.mark.parametrize("seconds", [[], [5.0]])
def test_a_lone_beat_has_no_timing(seconds: list[float]) -> None:
    assert rr_features(np.array(seconds), DataConfig()).tolist() == [[0.0] * 4] * len(seconds)


def test_two_beats_on_one_sample_stay_finite() -> None:
    assert np.isfinite(rr_features(np.array([1.0, 1.0, 2.0]), DataConfig())).all()


@given(st.lists(st.floats(0.2, 1.4), min_size=1, max_size=40), st.floats(0.5, 2.0))
def test_ratios_do_not_depend_on_the_heart_rate(intervals: list[float], factor: float) -> None:
    seconds = np.concatenate([[0.0], np.cumsum(intervals)])
    data = DataConfig(rr_features=("previous_ratio", "next_ratio"), rr_context=3)
    assert np.allclose(rr_features(seconds, data), rr_features(seconds * factor, data), atol=1e-3)


def test_timing_counts_the_beats_that_are_left_out() -> None:
    # At 100 Hz the A beat 0.4 s after the first N is the neighbour of both N beats; the first peak is an edge beat.
    whole = record(np.zeros(500), [5, 100, 140, 260], "NNAN")
    arrays = cut(whole, raw(10, 10, classes="NV", rr_features=("previous", "next")))
    assert arrays.sample.tolist() == [100, 260]
    assert arrays.rr.tolist() == [pytest.approx([0.6, -1.6], abs=1e-5), pytest.approx([1.6, 1.6], abs=1e-5)]
    dropped = cut(whole, raw(10, 10, drop_symbols=("A",), rr_features=("previous", "next")))
    assert dropped.rr.tolist() == arrays.rr.tolist()


def test_a_context_in_seconds_takes_the_intervals_within_it() -> None:
    # Within 0.8 s of each beat, but at least its own two intervals: local means 0.8, 0.8, 0.6, 0.8, 1.2.
    seconds = rr_features(SECONDS, DataConfig(rr_context="0.8 s"))
    expected = [0, 0, np.log(0.8 / 0.6) / 0.1, np.log(0.4 / 0.8) / 0.1, 0]
    assert seconds[:, 2].tolist() == pytest.approx(expected, abs=1e-3)
    whole = rr_features(SECONDS, DataConfig(rr_context="1 s"))[:, 3]
    assert whole[2] == pytest.approx(np.log(0.4 / 0.6) / 0.1, abs=1e-3)
    everything = rr_features(SECONDS, DataConfig(rr_context="60 s"))
    assert everything.tolist() == rr_features(SECONDS, DataConfig(rr_context=100)).tolist()


@given(st.lists(st.floats(0.2, 4), min_size=1, max_size=30), st.floats(0.001, 20))
def test_a_context_in_seconds_always_has_an_interval(intervals: list[float], reach: float) -> None:
    times = np.concatenate([[0.0], np.cumsum(intervals)])
    assert np.isfinite(rr_features(times, DataConfig(rr_context=f"{reach:.3f} s"))).all()


# --- lost and flat stretches


def test_beats_on_lost_or_flat_stretches_are_left_out_and_counted() -> None:
    # Windows are 5 before and 5 after: that of 20 ends before sample 25, where the lost ones begin.
    kinds = [0] * 25 + [1] * 10 + [0] * 25 + [2] * 20 + [0] * 20
    signal = np.arange(100.0)
    signal[25:35] = np.nan
    arrays = cut(record(signal, [3, 20, 21, 30, 39, 40, 55, 56, 84, 85], kinds=kinds), raw(5, 5))
    assert arrays.sample.tolist() == [20, 40, 55, 85]
    assert arrays.counts == {"edge": 1, "lost": 3, "flat": 2, "unclear": 0}
    assert np.isfinite(arrays.x).all()
    assert len(arrays.rr) == 4


def test_a_beat_that_is_not_wanted_is_not_counted_as_lost() -> None:
    kinds = [1] * 50 + [0] * 50
    arrays = cut(record(np.arange(100.0), [20, 30, 60, 70], "NVNV", kinds=kinds), raw(5, 5, classes="NS"))
    assert arrays.counts == {"edge": 0, "lost": 1, "flat": 0, "unclear": 0}
    assert arrays.dropped == {"V": 2}


def test_a_records_scale_is_that_of_its_good_samples() -> None:
    # The first eight samples have median 1 and variance 7; what is lost and flat does not count.
    signal = [1, 1, 1, 9, 1, 1, 1, 1, np.nan, np.nan, 50, 50, 50]
    kinds = [0] * 8 + [1, 1, 2, 2, 2]
    x = cut(record(signal, [3, 5], kinds=kinds), DataConfig(window=(1, 2), normalise="record")).x
    assert x[:, 0].tolist() == [pytest.approx([0, 8 / 7**0.5, 0]), [0, 0, 0]]
    nothing = cut(record([5.0] * 13, [5], kinds=[2] * 13), DataConfig(window=(1, 2), normalise="record"))
    assert nothing.counts["flat"] == 1


def test_windows_may_be_given_in_seconds() -> None:
    arrays = cut(record(np.arange(100), [50]), raw(10, 5).model_copy(update={"window": ("0.1 s", "50 ms")}))
    assert arrays.x[:, 0].tolist() == [list(range(40, 55))]


# --- the cache


@pytest.fixture
def cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the records that were read to be cut, in a cache of this test alone."""
    names: list[str] = []

    def counted(entry: Entry, data: DataConfig) -> Record:
        names.append(entry.name)
        return read_record(entry, data)

    monkeypatch.setenv("PULSELEDGER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "read_record", counted)
    return names


def read(data: DataConfig, name: str) -> Record:
    return read_record(open_record(name, Path(data.folder or "") / f"{name}.hea", data), data)


@pytest.fixture(scope="module")
def data(simulated: DataConfig) -> DataConfig:
    """Two records in a folder, which the caches of single tests need not simulate again."""
    return DataConfig(source="folder", folder=str(locate(simulated)), records=("s001", "s004"), window=(90, 162))


def test_beats_are_the_cut_records_in_order(cuts: list[str], data: DataConfig) -> None:
    told: list[str] = []
    beats = load_beats(data, told.append)
    assert told == ["cutting beats of 2 records"]
    assert cuts == ["s001", "s004"]
    whole = [read(data, name) for name in cuts]
    parts = [cut(each, data) for each in whole]
    for name in ("x", "rr", "y", "sample"):
        assert np.array_equal(getattr(beats, name), np.concatenate([getattr(part, name) for part in parts])), name
    assert beats.record.tolist() == [0] * len(parts[0].y) + [1] * len(parts[1].y)
    assert beats.peak.tolist() == [*whole[0].peaks.tolist(), *whole[1].peaks.tolist()]
    assert beats.x.shape == (len(beats), 1, 252)
    assert {name: getattr(beats, name).dtype.name for name in ARRAYS} == {
        "x": "float32", "rr": "float32", "y": "int8", "record": "int32", "sample": "int64", "peak": "int64",
    }  # fmt: skip
    assert beats.rr_names == ("previous", "next", "previous_ratio", "next_ratio")
    assert sum(beats.counts().values()) == len(beats)
    assert [row["name"] for row in beats.records] == ["s001", "s004"]
    for row, each, part in zip(beats.records, whole, parts, strict=True):
        assert sum(row["annotated"].values()) == len(each.peaks) == row["peaks"] == len(part.y) + row["edge"]
        assert (row["leads"], row["sampling_rate"], row["samples"]) == (["MLII"], 360.0, 43_200)
    assert beats.window == (90, 162)
    assert beats.patients_source == ""


def test_edge_beats_are_counted_only_where_they_were_wanted(cuts: list[str], data: DataConfig) -> None:
    long = data.model_copy(update={"window": (2000, 2000)})
    peaks = {name: read(data, name) for name in data.records}
    for wanted in ("NSVFQ", "SV"):
        beats = load_beats(long.model_copy(update={"classes": tuple(wanted)}))
        for row in beats.records:
            each = peaks[row["name"]]
            outside = [
                symbol
                for peak, symbol in zip(each.peaks, each.symbols, strict=True)
                if AAMI[symbol] in wanted and not 2000 <= peak <= 43_200 - 2000
            ]
            assert row["edge"] == len(outside)
    assert sum(row["edge"] for row in load_beats(long).records) > 0


def test_a_second_load_maps_the_same_files(cuts: list[str], data: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_beats(data)

    def fail(*_: object) -> Record:
        raise AssertionError("cut again")

    monkeypatch.setattr(module, "read_record", fail)
    second = load_beats(data)
    third = open_beats(first.folder)
    for name in ARRAYS:
        arrays = [getattr(each, name) for each in (first, second, third)]
        assert len({array.filename for array in arrays}) == 1
        assert np.array_equal(arrays[0], arrays[1])
        assert np.array_equal(arrays[0], arrays[2])
    assert first.digest == second.digest == third.digest
    assert first.records == second.records == third.records


def test_the_arrays_are_mapped_and_cannot_be_written(cuts: list[str], data: DataConfig) -> None:
    beats = load_beats(data)
    for name in ARRAYS:
        array = getattr(beats, name)
        assert isinstance(array, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def flip(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)

    return damage


def shorten(name: str, left: int | None = -4) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:left]) and None


def write_meta(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "meta.json").write_text(text) and None


DAMAGES = {
    "flipped x": flip("x.npy"),
    "flipped y": flip("y.npy"),
    "shortened rr": shorten("rr.npy"),
    "emptied sample": shorten("sample.npy", 0),
    "lost record": lambda folder: (folder / "record.npy").unlink(),
    "meta half": shorten("meta.json", 40),
    "meta empty": write_meta(""),
    "meta list": write_meta("[]"),
    "meta null": write_meta("null"),
    "meta without checksums": write_meta('{"classes": "NSVFQ", "records": [], "digest": "", "rr_names": []}'),
    "meta lost": lambda folder: (folder / "meta.json").unlink(),
    "folder emptied": lambda folder: [path.unlink() for path in folder.iterdir()] and None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_noticed_and_made_again(cuts: list[str], data: DataConfig, damage: str) -> None:
    beats = load_beats(data)
    whole = {name: np.array(getattr(beats, name)) for name in ARRAYS}
    DAMAGES[damage](beats.folder)
    with pytest.raises(DataError, match="is not a complete cache of beats") as caught:
        open_beats(beats.folder, check=True)
    assert str(beats.folder) in str(caught.value)
    again = load_beats(data)
    assert cuts == ["s001", "s004"] * 2
    assert (again.folder, again.digest, again.records) == (beats.folder, beats.digest, beats.records)
    for name in ARRAYS:
        assert np.array_equal(getattr(again, name), whole[name]), name
    load_beats(data)
    assert len(cuts) == 4
    assert [path.name for path in beats.folder.parent.iterdir()] == [beats.folder.name]  # nothing is left behind


@pytest.mark.parametrize("damage", ["emptied sample", "lost record", "meta half", "meta null"])
def test_a_process_that_maps_a_damaged_cache_is_told(cuts: list[str], data: DataConfig, damage: str) -> None:
    folder = load_beats(data).folder
    DAMAGES[damage](folder)
    with pytest.raises(DataError, match="is not a complete cache of beats"):
        open_beats(folder)


def test_what_changes_the_beats_has_a_cache_of_its_own(cuts: list[str], data: DataConfig) -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"window": (90, 161)},
        {"lead": ("V1",)},
        {"rate": 250.0},
        {"symbols": {"A": "N"}},
        {"patients": "^s"},
        {"rr_context": "10 s"},
        {"normalise": "beat"},
        {"rr_features": False},
        {"rr_context": 5},
        {"classes": ("N", "S", "V")},
        {"drop_symbols": ("N",)},
        {"records": ("s004", "s001")},
        {"records": ("s001",)},
        {"filter": FilterConfig(notch=50.0)},
    ]
    loaded = [load_beats(data.model_copy(update=changes)) for changes in settings]
    assert len({beats.folder for beats in loaded}) == len({beats.digest for beats in loaded}) == len(settings)
    count = len(cuts)
    assert load_beats(data).folder == loaded[0].folder
    assert len(cuts) == count


def test_the_same_records_elsewhere_share_the_cache(cuts: list[str], data: DataConfig, tmp_path: Path) -> None:
    first = load_beats(data)
    copy = Path(shutil.copytree(data.folder or "", tmp_path / "copy"))
    moved = data.model_copy(update={"folder": str(copy)})
    assert load_beats(moved).folder == first.folder
    assert len(cuts) == 2
    changed = bytearray((copy / "s001.dat").read_bytes())
    changed[500] ^= 1
    (copy / "s001.dat").write_bytes(changed)
    assert load_beats(moved).digest != first.digest
    assert len(cuts) == 4


def test_the_digest_does_not_depend_on_the_machine(
    cuts: list[str], data: DataConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = load_beats(data)
    monkeypatch.setenv("PULSELEDGER_CACHE", str(tmp_path / "another"))
    second = load_beats(data)
    assert second.digest == first.digest
    assert second.folder != first.folder
    assert (second.folder / "x.npy").read_bytes() == (first.folder / "x.npy").read_bytes()


def test_classes_without_a_beat_are_refused(cuts: list[str], data: DataConfig) -> None:
    says = r"no beat is left; data.classes is \['F', 'Q'\] and data.window \[90, 162\]\.$"
    with pytest.raises(DataError, match=says):
        load_beats(data.model_copy(update={"classes": ("F", "Q"), "records": ("s001",)}))


def test_a_full_disk_is_one_sentence(cuts: list[str], data: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.np, "save", full)
    with pytest.raises(DataError, match=r"the beats cannot be stored \(No space left on device\)\.$"):
        load_beats(data)


def test_a_full_disk_does_not_bring_back_a_damaged_cache(
    cuts: list[str], data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip("x.npy")(load_beats(data).folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.np, "save", full)
    with pytest.raises(DataError, match="is not a complete cache of beats"):
        load_beats(data)


def test_what_is_described_is_plain_json(cuts: list[str], data: DataConfig) -> None:
    beats = load_beats(data)
    assert json.loads(json.dumps(beats.records)) == list(beats.records)
