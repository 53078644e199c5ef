"""Whatever lies in a folder is read, or refused in one sentence: never a traceback, never numbers that are none."""

import os
import tempfile
from pathlib import Path

import fuzzing
import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.config import DataConfig
from engine.data.records import open_record, read_record

# what the format's own words may be, and what stands there in files that somebody edited
WORDS = st.sampled_from(
    ["", "0", "1", "2", "360", "360/250", "360(0)", "1e3", "-5", "nan", "12:00:00", "01/01/2020", "200(0)/mV", "1/V", "0/uV", "16",
     "212", "16x4", "16:3", "16+24", "508", "99", "mV", "a.dat", "b.dat", "../a.dat", "~", "a/2", "MLII", "V5", "Lead II", "µV"]
) | st.text(max_size=6)  # fmt: skip
LINES = st.lists(WORDS, max_size=9).map(" ".join)
SECONDS = float(os.environ.get("PULSELEDGER_FUZZ_SECONDS", "120"))


@given(lines=st.lists(LINES, max_size=5), comments=st.lists(st.text(max_size=12), max_size=2), lead=st.integers(0, 2))
@settings(max_examples=150)
def test_a_header_of_any_words_is_read_or_refused(lines: list[str], comments: list[str], lead: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "r"
        fuzzing.put(folder, 0)
        text = "\n".join([*lines, *(f"#{comment}" for comment in comments)])
        (folder / "a.hea").write_bytes(text.encode("utf-8", "surrogatepass"))
        fuzzing.read(DataConfig(source="folder", folder=str(folder), window=(30, 40), lead=lead))


@given(data=st.data())
@settings(max_examples=60)
def test_a_record_that_wfdb_wrote_in_any_form_is_read_as_it_was_meant(data: st.DataObject) -> None:
    draw = data.draw
    rate = draw(
        st.sampled_from([128, 250, 257, 360, 500, 1000]) | st.floats(100, 1000).map(lambda rate: round(rate, 3))
    )
    kind, bits = draw(st.sampled_from([("16", 16), ("24", 24), ("32", 32), ("212", 12), ("80", 8)]))
    gain = draw(st.floats(20, 60) if bits == 8 else st.floats(50, 600))
    baseline = draw(st.integers(-20, 20))
    leads = draw(st.lists(st.sampled_from(["MLII", "V1", "V5", "I", "aVF"]), min_size=1, max_size=4, unique=True))
    chosen = draw(st.integers(0, len(leads) - 1))
    unit, factor = draw(st.sampled_from([("mV", 1.0), ("uV", 1000.0), ("V", 0.001)]))
    notes = draw(st.none() | st.sampled_from([100.0, 250.0, 1000.0]))
    frames = [draw(st.sampled_from([1, 1, 2])) for _ in leads] if kind == "16" else [1] * len(leads)
    n = round(3 * rate)
    digital = [np.random.default_rng(draw(st.integers(0, 2**31))).integers(-100, 100, n * k) for k in frames]
    places = sorted(draw(st.sets(st.integers(0, 19), min_size=2, max_size=12)))
    peaks = [150 * place + draw(st.integers(0, 20)) for place in places]  # ms
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        wfdb.wrsamp(
            "a", rate, [unit] * len(leads), leads, fmt=[kind] * len(leads), adc_gain=[gain / factor] * len(leads),
            baseline=[baseline] * len(leads), samps_per_frame=frames, e_d_signal=digital, write_dir=place,
        )  # fmt: skip
        base = notes or rate
        at = np.unique(np.rint(np.array(peaks) / 1000 * base).astype(np.int64))
        wfdb.wrann("a", "atr", at, ["N"] * len(at), fs=notes, write_dir=place)
        settings_ = DataConfig(source="folder", folder=place, lead=chosen, window=(10, 10))
        record = read_record(open_record("a", folder / "a.hea", settings_), settings_)
    own = (digital[chosen] - baseline) / gain  # in mV, whatever the unit
    expected = own.reshape(n, frames[chosen]).mean(1)
    np.testing.assert_allclose(record.signal[0], expected, atol=2e-6, rtol=1e-5)
    assert record.native_rate == pytest.approx(rate)
    where = np.unique(np.rint(at * (record.native_rate / base)).astype(np.int64))
    assert record.peaks.tolist() == where.tolist()
    assert record.leads == (leads[chosen],)


@given(st.integers(0, 2**40))
@settings(max_examples=120)
def test_a_damaged_record_is_read_or_refused(seed: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        fuzzing.attempt(seed, Path(place) / "r")


def test_what_is_not_damaged_is_read() -> None:
    """Else the tests above would test nothing."""
    for kind in range(fuzzing.FORMS):
        with tempfile.TemporaryDirectory() as place:
            fuzzing.put(Path(place) / "r", kind)
            data = DataConfig(source="folder", folder=str(Path(place) / "r"), window=(60, 90))
            assert fuzzing.read(data) == "", kind


@pytest.mark.long
def test_nothing_is_found_in_damaged_records_for_as_long_as_one_looks() -> None:
    """PULSELEDGER_FUZZ_SECONDS=600 looks for ten minutes; the seeds go on where the day stands."""
    import time

    assert list(fuzzing.failures(SECONDS, int(time.time()) % 10**6 * 1000)) == []
