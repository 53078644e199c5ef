"""Signals: what is lost or flat, filters without delay, and another sampling rate that keeps every wave in its place."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import ecg
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data.beats import load_beats
from engine.data.config import DataConfig, FilterConfig
from engine.data.records import open_record, read_record
from engine.data.signals import (
    FLAT,
    GOOD,
    LOST,
    bridged,
    filtered,
    millivolts,
    quality,
    ratio,
    resampled,
    resampled_kinds,
)
from engine.errors import DataError

Refused = Callable[[Callable[[], object]], str]
Settings = Callable[..., DataConfig]


def tone(rate: float, frequency: float, seconds: float = 20.0, phase: float = 0.3) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate + phase)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("mV", 1),
        ("MV", 1),
        ("uV", 1e-3),
        ("µV", 1e-3),
        ("V", 1e3),
        ("microvolts", 1e-3),
        ("Volt", 1e3),
        ("kV", None),
        ("mmHg", None),
        ("NU", None),
        ("", None),
    ],
)
def test_units(unit: str, factor: float | None) -> None:
    assert millivolts(unit) == factor


# --- Quality


def test_a_second_of_one_value_is_flat() -> None:
    # At 10 Hz: nine equal samples are none, ten are; so are ten lost ones lost and nothing else.
    signal = np.arange(100, dtype=float)
    signal[5:14] = 3.0
    signal[20:30] = 3.0
    signal[40:55] = np.nan
    signal[90:100] = -7.0
    kinds = quality(signal, 10.0)
    assert np.flatnonzero(kinds == FLAT).tolist() == [*range(20, 30), *range(90, 100)]
    assert np.flatnonzero(kinds == LOST).tolist() == list(range(40, 55))


@given(st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=1, max_size=60), st.floats(0.5, 20))
def test_every_sample_is_one_thing(values: list[float], rate: float) -> None:
    signal = np.array(values)
    kinds = quality(signal, rate)
    for i, value in enumerate(values):
        run = i, i
        while run[0] > 0 and values[run[0] - 1] == value:
            run = run[0] - 1, run[1]
        while run[1] + 1 < len(values) and values[run[1] + 1] == value:
            run = run[0], run[1] + 1
        length = run[1] - run[0] + 1
        expected = LOST if np.isnan(value) else FLAT if length >= max(rate, 2) else GOOD
        assert kinds[i] == expected


def test_lost_samples_are_bridged_by_straight_lines() -> None:
    signal = np.array([np.nan, 1.0, np.nan, np.nan, 4.0, np.nan])
    assert bridged(signal, quality(signal, 360)).tolist() == [1.0, 1.0, 2.0, 3.0, 4.0, 4.0]
    assert bridged(np.array([np.nan] * 3), quality(np.array([np.nan] * 3), 360)).tolist() == [0.0] * 3


# --- Another rate


@pytest.mark.parametrize(("rate", "wanted"), [(360, 128), (257, 360), (128, 360), (1000, 250), (360, 257), (250, 360)])
def test_waves_keep_size_and_place(rate: float, wanted: float) -> None:
    by = ratio(rate, wanted)
    lower = min(rate, wanted) / 2
    for frequency in (1.0, 7.0, 0.6 * lower):
        made = resampled(tone(rate, frequency), by)
        inner = slice(int(wanted), -int(wanted))
        assert np.abs(made - tone(wanted, frequency)[: len(made)])[inner].max() < 6e-4
    assert len(made) == round(20 * wanted)


def test_what_the_lower_rate_cannot_hold_is_gone() -> None:
    by = ratio(360, 128)
    for frequency in (1.2 * 64, 100.0, 170.0):
        assert np.abs(resampled(tone(360, frequency), by)[128:-128]).max() < 2e-3
    # Taken without a filter, every 45th of 16 times as many samples, 100 Hz would come back as 28 Hz, whole.
    assert np.abs(tone(360, 100.0)[::3]).max() > 0.9


def test_a_level_stays_a_level_up_to_the_ends() -> None:
    assert np.abs(resampled(np.full(3600, 5.0), ratio(360, 250)) - 5.0).max() < 1e-3


def test_rates_in_no_simple_ratio_are_refused() -> None:
    assert ratio(360, 128) == Fraction(16, 45)
    assert ratio(1000 / 3, 360) == Fraction(27, 25)
    assert ratio(360, 360) == 1
    assert ratio(257.3, 250) == Fraction(2500, 2573)
    with pytest.raises(
        DataError, match=r"360 Hz cannot be brought to data.rate 359\.98 Hz; choose a rate in a simpler"
    ):
        ratio(360, 359.98)
    with pytest.raises(DataError):
        ratio(0.001, 10_000)


def test_a_new_sample_is_as_bad_as_its_worse_neighbour() -> None:
    kinds = np.array([GOOD, GOOD, LOST, LOST, GOOD, FLAT, FLAT, GOOD], np.int8)
    # twice as many samples: old ones at even places
    assert resampled_kinds(kinds, Fraction(2), 16).tolist() == [
        GOOD, GOOD, GOOD, LOST, LOST, LOST, LOST, LOST, GOOD, FLAT, FLAT, FLAT, FLAT, FLAT, GOOD, GOOD,
    ]  # fmt: skip
    assert resampled_kinds(kinds, Fraction(1, 2), 4).tolist() == [GOOD, LOST, GOOD, FLAT]


@pytest.mark.parametrize(("rate", "wanted"), [(360, 250), (128, 360), (257, 360)])
def test_beats_lie_at_the_same_place_of_the_same_wave(
    tmp_path: Path, settings_of: Settings, rate: float, wanted: float
) -> None:
    ecg.write(tmp_path / "own", "a", rate=rate, symbols="NLV")
    ecg.write(tmp_path / "there", "a", rate=wanted, symbols="NLV")
    made = load_beats(settings_of(tmp_path / "own", rate=wanted, window=("0.2 s", "0.4 s"), normalise="none"))
    real = load_beats(settings_of(tmp_path / "there", window=("0.2 s", "0.4 s"), normalise="none"))
    assert made.window == real.window == (round(0.2 * wanted), round(0.4 * wanted))
    assert np.abs(made.sample - real.sample).max() <= 1
    shift = (made.sample - real.sample)[:, None]
    at = made.sample[:, None] + np.arange(-made.window[0], made.window[1])
    truth = ecg.wave(20.0, wanted, ecg.beat_times(20.0), ["NLV"[i % 3] for i in range(24)], ecg.turn("a"))
    assert np.abs(made.x[:, 0] - truth[at]).max() < 0.002  # the file has steps of 0.001 mV
    assert np.abs(made.rr - real.rr)[np.abs(shift[:, 0]) == 0].max() < 0.1
    assert {row["sampling_rate"] for row in made.records} == {wanted}
    assert {row["native_rate"] for row in made.records} == {rate}


def test_lost_stretches_are_lost_at_another_rate(tmp_path: Path, settings_of: Settings) -> None:
    ecg.write(tmp_path, "a", lost=(5.0, 10.0))
    data = settings_of(tmp_path, rate=100)
    record = read_record(open_record("a", tmp_path / "a.hea", data), data)
    assert np.flatnonzero(np.isnan(record.signal[0])).tolist() == list(range(500, 1000))
    assert np.nanmax(np.abs(record.signal)) < 2


def test_the_rate_of_the_records_changes_nothing(tmp_path: Path, settings_of: Settings) -> None:
    ecg.write(tmp_path, "a")
    first, second = load_beats(settings_of(tmp_path)), load_beats(settings_of(tmp_path, rate=360))
    assert np.array_equal(first.x, second.x)
    assert np.array_equal(first.rr, second.rr)


# --- Filters


def amplitude(signal: np.ndarray, rate: float, frequency: float) -> float:
    """Size of a wave in a signal of whole periods."""
    axis = np.arange(len(signal)) / rate
    return float(2 * np.abs(np.mean(signal * np.exp(-2j * np.pi * frequency * axis))))


@pytest.mark.parametrize(
    ("settings", "kept", "gone"),
    [
        ({"band": (0.5, 40.0)}, [2.0, 5.0, 15.0], [0.05, 120.0, 170.0]),
        ({"notch": 50.0}, [5.0, 40.0, 60.0], [50.0]),
        ({"band": (0.5, 40.0), "notch": 60.0}, [5.0], [0.05, 60.0]),
    ],
)
def test_filters_keep_the_band_and_take_the_rest(
    settings: dict[str, Any], kept: list[float], gone: list[float]
) -> None:
    made = FilterConfig(**settings)
    for frequency in kept:
        assert amplitude(filtered(tone(360, frequency, 40), 360, made)[3600:-3600], 360, frequency) > 0.94
    for frequency in gone:
        assert amplitude(filtered(tone(360, frequency, 40), 360, made)[3600:-3600], 360, frequency) < 0.05


@pytest.mark.parametrize("settings", [{"band": (0.5, 40.0)}, {"notch": 50.0}])
def test_filters_have_no_delay(settings: dict[str, Any]) -> None:
    # A symmetric wave stays symmetric about its place.
    axis = np.arange(7200) - 3600
    pulse = np.exp(-0.5 * (axis / 10) ** 2)
    made = filtered(pulse, 360, FilterConfig(**settings))
    assert np.abs(made[1:] - made[1:][::-1]).max() < 1e-6
    assert int(np.argmax(made)) == 3600


def test_a_filtered_record_loses_hum_and_wander(tmp_path: Path, settings_of: Settings) -> None:
    import wfdb

    ecg.write(tmp_path, "a", seconds=30)
    raw: Any = wfdb.rdrecord(str(tmp_path / "a"))
    noise = 0.3 * tone(360, 50, 30) + 2 * tone(360, 0.1, 30)
    wfdb.wrsamp(
        "a", 360, ["mV", "mV"], ["MLII", "V1"], raw.p_signal + noise[:, None], fmt=["16", "16"], write_dir=str(tmp_path)
    )
    data = settings_of(tmp_path, filter={"band": (0.5, 40.0), "notch": 50.0})
    record = read_record(open_record("a", tmp_path / "a.hea", data), data)
    clean = filtered(raw.p_signal[:, 0], 360, data.filter)
    assert np.abs(record.signal[0] - clean)[1080:-1080].max() < 0.05
    assert load_beats(data).digest != load_beats(settings_of(tmp_path)).digest


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"band": (0.5, 64.0)}, "data.filter reaches 64 Hz, but a signal of 128 Hz holds less than 64"),
        ({"notch": 100.0}, "data.filter reaches 100 Hz, but a signal of 128 Hz holds less than 64"),
    ],
)
def test_a_filter_that_the_rate_does_not_hold_is_refused(
    tmp_path: Path, settings_of: Settings, refused: Refused, settings: dict[str, Any], says: str
) -> None:
    ecg.write(tmp_path, "a", rate=128)
    assert refused(lambda: load_beats(settings_of(tmp_path, filter=settings))) == f"{tmp_path / 'a.hea'}: {says}."


def test_a_signal_too_short_for_a_filter_is_refused(tmp_path: Path, settings_of: Settings, refused: Refused) -> None:
    ecg.write(tmp_path, "a", seconds=0.03, annotations=([1], "N"))
    message = refused(lambda: load_beats(settings_of(tmp_path, filter={"band": (0.5, 40.0)})))
    assert message == f"{tmp_path / 'a.hea'}: its 11 samples are too few for data.filter."
