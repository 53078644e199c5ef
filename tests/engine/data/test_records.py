"""One record: what `wfdb` wrote is read as it was, in every form; what is damaged is one sentence that names the file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ecg
import numpy as np
import pytest
import wfdb

from engine.data import signals
from engine.data.beats import load_beats
from engine.data.collection import gather
from engine.data.config import AAMI, DataConfig
from engine.data.headers import read_header, segments_named
from engine.data.records import MOST_OUTSIDE, Record, open_record, person, read_record, same_lead

Refused = Callable[[Callable[[], object]], str]
Settings = Callable[..., DataConfig]
SAMPLES = 12_960  # of each simulated record


def read(folder: Path, name: str, data: DataConfig) -> Record:
    return read_record(open_record(name, folder / f"{name}.hea", data), data)


def test_the_nineteen_beats_of_wfdb_have_classes() -> None:
    expected = {"N": "NLRejBn", "S": "AaJS", "V": "VEr", "F": "F", "Q": "/fQ?"}
    assert {symbol: c for c, symbols in expected.items() for symbol in symbols} == AAMI
    assert len(AAMI) == 19


def test_a_record_is_read_as_it_was_written(pair: Path, settings_of: Settings) -> None:
    raw: Any = wfdb.rdrecord(str(pair / "s001"))
    notes = wfdb.rdann(str(pair / "s001"), "atr")
    record = read(pair, "s001", settings_of(pair))
    assert (record.name, record.leads, record.sampling_rate, record.native_rate) == ("s001", ("MLII",), 360.0, 360.0)
    assert record.signal.dtype == np.float32
    assert np.array_equal(record.signal, raw.p_signal[:, :1].T.astype(np.float32))
    assert not record.kinds.any()
    assert notes.symbol[0] == "+"  # the rhythm note is no beat
    assert record.peaks.tolist() == notes.sample[1:].tolist()
    assert record.symbols == tuple(notes.symbol[1:])
    assert record.others == {"+": 1}
    assert f"{record.age} {record.sex} simulated" == raw.comments[0]


# --- Leads


@pytest.mark.parametrize(
    ("wanted", "lead"),
    [
        (("MLII", "V5"), "MLII"), (("V1",), "V1"), ((1,), "V1"), (("aVF", "V1"), "V1"), (("aVF", 0), "MLII"),
        (("II",), "MLII"), (("lead ii",), "MLII"), (("v1", "MLII"), "V1"), ((7, "V1"), "V1"),
    ],
)  # fmt: skip
def test_the_first_lead_of_the_list_that_is_there(pair: Path, settings_of: Settings, wanted: Any, lead: str) -> None:
    record = read(pair, "s001", settings_of(pair, lead=wanted))
    raw: Any = wfdb.rdrecord(str(pair / "s001"), channel_names=[lead])
    assert record.leads == (lead,)
    assert np.array_equal(record.signal[0], raw.p_signal[:, 0].astype(np.float32))


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (("aVF",), "s001.hea: has no lead aVF; it has MLII, V1 (data.lead)."),
        (("aVF", "V5"), "s001.hea: has no lead aVF or V5; it has MLII, V1 (data.lead)."),
        (("aVF", 2), "s001.hea: has no lead aVF or number 2; it has MLII, V1 (data.lead)."),
        ((2,), "s001.hea: has no lead number 2; it has 2: MLII, V1 (data.lead)."),
        ((-1,), "s001.hea: has no lead number -1; it has 2: MLII, V1 (data.lead)."),
    ],
)
def test_a_lead_that_is_not_there(pair: Path, settings_of: Settings, refused: Refused, wanted: Any, says: str) -> None:
    assert says in refused(lambda: load_beats(settings_of(pair, lead=wanted, records=("s001",))))


@pytest.mark.parametrize(
    ("names", "one"),
    [
        (
            [
                "MLII",
                "mlii",
                "II",
                "ii",
                "Lead II",
                "LEAD_II",
                "lead 2",
                "ML2",
                "ECG lead II",
                "ECG lead 2",
                "ECG II",
                " II ",
            ],
            "ii",
        ),
        (["I", "Lead I", "lead-1", "ML1", "MLI"], "i"),
        (["III", "ML3", "MLIII"], "iii"),
        (["aVR", "AVR", "avr", "Lead aVR"], "avr"),
        (["V1", "v1", "Lead V1", "V 1"], "v1"),
        (["ECG2", "ECG 2", "ecg_2"], "ecg2"),
    ],
)
def test_ways_to_write_a_lead(names: list[str], one: str) -> None:
    assert {same_lead(name) for name in names} == {one}


def test_different_leads_stay_different() -> None:
    names = [
        "I",
        "II",
        "III",
        "aVR",
        "aVL",
        "aVF",
        *(f"V{i}" for i in range(1, 7)),
        "MV2",
        "ECG1",
        "ECG2",
        "ECG 3",
        "ECG",
        "CM5",
        "2",
    ]
    assert len({same_lead(name) for name in names}) == len(names)


def test_an_exact_name_goes_before_one_that_is_alike(tmp_path: Path, settings_of: Settings) -> None:
    ecg.write(tmp_path, "a", leads=("II", "MLII"))
    assert read(tmp_path, "a", settings_of(tmp_path)).leads == ("MLII",)
    assert read(tmp_path, "a", settings_of(tmp_path, lead="II")).leads == ("II",)
    assert read(tmp_path, "a", settings_of(tmp_path, lead="ML2")).leads == ("II",)


def test_leads_without_names(tmp_path: Path, settings_of: Settings, refused: Refused) -> None:
    ecg.write(tmp_path, "a", leads=(None, None))
    assert refused(lambda: load_beats(settings_of(tmp_path))) == (
        f"{tmp_path / 'a.hea'}: has no lead MLII or V5; its 2 leads have no names: give data.lead a number from 0."
    )
    assert refused(lambda: load_beats(settings_of(tmp_path, lead=5))).endswith(
        "has no lead number 5; it has 2 (data.lead)."
    )
    record = read(tmp_path, "a", settings_of(tmp_path, lead=1))
    assert record.leads == ("lead 1",)
    assert record.signal[0].max() == pytest.approx(
        0.75 * read(tmp_path, "a", settings_of(tmp_path, lead=0)).signal.max(), 0.01
    )


# --- Headers


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes.fromhex("ffd8ffe000104a46494600010101004800480000ffdb0043") + bytes(range(256)) * 8,
        b"\n# only a comment\n",
        b"s002 0 360 0\n",
        b"s002 2 0 12960\ns002.dat 16 1000(0)/mV 16 0 0 0 0 MLII\ns002.dat 16 1000(0)/mV 16 0 0 0 0 V1\n",
        *(b"s002 1 %s 12960\ns002.dat 16 1000(0)/mV 16 0 0 0 0 MLII\n" % rate for rate in (b"3.6e2", b"-360", b"257,3")),
        b"s002 3 360 12960\ns002.dat 16 1000(0)/mV 16 0 0 0 0 MLII\ns002.dat 16 1000(0)/mV 16 0 0 0 0 V1\n",
        b"s002 1 360 12960\ns002.dat 16 1000(0)/mV 16 0 0 0 0 MLII\ns002.dat 16 1000(0)/mV 16 0 0 0 0 V1\n",
        b"s002 1 360 12960\ns002.dat 7 1000(0)/mV 16 0 0 0 0 MLII\n",
        b"s002 3 360 99\ns002.dat 16 1 0 0 0 0 0 A\ns001.dat 16 1 0 0 0 0 0 B\ns002.dat 16 1 0 0 0 0 0 C\n",
        b"s002 1 360 99999999999999999999\ns002.dat 16 1000(0)/mV 16 0 0 0 0 MLII\n",
        b"s002/1 2 360 12960\ns002 12960\n",
        b"x" * (2 << 20),
    ],
    ids=["empty", "jpeg", "comment", "no signal", "no rate", "3.6e2 Hz", "-360 Hz", "257,3 Hz", "a line short", "a line more", "format 7", "not together",
         "endless", "itself a segment", "megabytes"],
)  # fmt: skip
def test_a_header_that_is_none_is_named(folder: Path, settings_of: Settings, refused: Refused, content: bytes) -> None:
    (folder / "s002.hea").write_bytes(content)
    message = refused(lambda: load_beats(settings_of(folder, records=("s001", "s002"))))
    assert message.startswith(f"{folder / 's002.hea'}: is not a readable WFDB header (")


def test_the_files_are_those_that_the_header_names(tmp_path: Path, settings_of: Settings, refused: Refused) -> None:
    ecg.write(tmp_path, "a")
    (tmp_path / "a.dat").rename(tmp_path / "raw1.dat")
    ecg.retell(tmp_path / "a.hea", "a.dat", "raw1.dat")
    first = gather(settings_of(tmp_path))
    assert sorted(first.digests) == ["a.atr", "a.hea", "raw1.dat"]
    assert len(load_beats(settings_of(tmp_path))) == 24
    (tmp_path / "a.dat").write_bytes(b"lies there, too")
    assert gather(settings_of(tmp_path)).digests == first.digests
    (tmp_path / "raw1.dat").write_bytes((tmp_path / "raw1.dat").read_bytes()[::-1])
    assert gather(settings_of(tmp_path)).digests != first.digests
    (tmp_path / "raw1.dat").unlink()
    assert refused(lambda: load_beats(settings_of(tmp_path))) == f"{tmp_path / 'raw1.dat'}: is missing; a.hea names it."


def test_upper_case_names(tmp_path: Path, settings_of: Settings) -> None:
    ecg.write(tmp_path, "r1")
    plain = read(tmp_path, "r1", settings_of(tmp_path))
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / path.name.upper())
    assert len(load_beats(settings_of(tmp_path)).records) == 1
    record = read_record(open_record("R1", tmp_path / "R1.HEA", settings_of(tmp_path)), settings_of(tmp_path))
    assert np.array_equal(record.signal, plain.signal)
    assert record.peaks.tolist() == plain.peaks.tolist()


def test_a_path_with_signs_of_its_own(tmp_path: Path, settings_of: Settings) -> None:
    for place in ("with space", "a::b", "s3:", "100%", "[1]", "ä"):
        ecg.write(tmp_path / place, "r1")
        assert len(load_beats(settings_of(tmp_path / place))) == 24


@pytest.mark.parametrize("gain", ["1e-300", "1e-8"])
def test_a_gain_that_makes_a_signal_of_no_measure_is_refused(
    tmp_path: Path, settings_of: Settings, refused: Refused, gain: str
) -> None:
    ecg.write(tmp_path, "a", format="16", gain=200.0, leads=("MLII",))
    text = (tmp_path / "a.hea").read_text()
    assert "200" in text
    (tmp_path / "a.hea").write_text(text.replace("200.0(0)", f"{gain}(0)").replace(" 200(0)", f" {gain}(0)"))
    said = refused(lambda: load_beats(settings_of(tmp_path)))
    assert said.startswith(f"{tmp_path / 'a.hea'}: lead MLII reaches ")
    assert said.endswith("mV, more than 1e+09; its gain or unit in the header is wrong.")


@pytest.mark.parametrize("length", ["", " 0"])
@pytest.mark.parametrize("format", ["16", "212", "516"])
def test_a_header_without_a_number_of_samples(tmp_path: Path, settings_of: Settings, format: str, length: str) -> None:
    ecg.write(tmp_path, "a", format=format, gain=200.0)
    whole = read(tmp_path, "a", settings_of(tmp_path))
    ecg.retell(tmp_path / "a.hea", "a 2 360 7200", f"a 2 360{length}")
    assert read_header(tmp_path / "a.hea").length == 7200
    assert np.array_equal(read(tmp_path, "a", settings_of(tmp_path)).signal, whole.signal)


def test_a_header_with_nothing_optional(tmp_path: Path, settings_of: Settings) -> None:
    # rate 250, gain 200, mV, baseline 0: the format's own defaults
    ecg.write(tmp_path, "a", rate=250, gain=200.0, leads=("x",))
    whole = read(tmp_path, "a", settings_of(tmp_path, lead=0))
    (tmp_path / "a.hea").write_text("a 1\na.dat 16\n")
    record = read(tmp_path, "a", settings_of(tmp_path, lead=0))
    assert record.sampling_rate == 250
    assert np.array_equal(record.signal, whole.signal)


# --- Signals


FORMATS = ["8", "16", "24", "32", "61", "80", "160", "212", "310", "311", "508", "516", "524"]


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_that_wfdb_writes_is_read(tmp_path: Path, settings_of: Settings, format: str) -> None:
    gain = 40.0 if format in ("80", "508") else 200.0
    ecg.write(tmp_path, "a", format=format, gain=gain, seconds=10.001)
    record = read(tmp_path, "a", settings_of(tmp_path))
    times = ecg.beat_times(10.001)
    expected = ecg.wave(10.001, 360, times, ["NNNNNNV"[i % 7] for i in range(len(times))], ecg.turn("a"))
    assert record.signal.shape == (1, len(expected)) == (1, 3600)
    assert np.abs(record.signal[0] - expected).max() <= 0.51 / gain
    assert record.peaks.tolist() == np.rint(times * 360).tolist()


@pytest.mark.parametrize("format", FORMATS)
def test_a_signal_cut_short_is_named(tmp_path: Path, settings_of: Settings, refused: Refused, format: str) -> None:
    ecg.write(tmp_path, "a", format=format, gain=40.0)
    signal = tmp_path / "a.dat"
    whole = signal.read_bytes()
    for left in (0, 1, 1000, len(whole) // 2):
        signal.write_bytes(whole[:left])
        message = refused(lambda: load_beats(settings_of(tmp_path)))
        assert message.startswith(f"{signal}: does not hold the 7200 samples its header promises (")


@pytest.mark.parametrize("left", [0, 1, 1000, -1, -4])
def test_a_truncated_signal_is_named(folder: Path, settings_of: Settings, refused: Refused, left: int) -> None:
    signal = folder / "s002.dat"
    signal.write_bytes(signal.read_bytes()[:left])
    message = refused(lambda: load_beats(settings_of(folder)))
    assert message.startswith(f"{signal}: does not hold the {SAMPLES} samples its header promises (")


def test_twelve_leads_in_two_compressed_files(tmp_path: Path, settings_of: Settings) -> None:
    leads = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")
    ecg.write(tmp_path, "k", leads=leads, format="516", rate=500)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k.atr", "k.hea", "k_1.dat", "k_2.dat"]
    for lead, size in (("II", 0.75), ("V3", 0.75**8), ("V6", 0.75**11)):
        record = read(tmp_path, "k", settings_of(tmp_path, lead=lead))
        assert record.leads == (lead,)
        assert record.signal.max() == pytest.approx(size, abs=0.02)
    assert sorted(gather(settings_of(tmp_path)).digests) == ["k.atr", "k.hea", "k_1.dat", "k_2.dat"]


def test_a_mat_file_of_format_16_with_an_offset(tmp_path: Path, settings_of: Settings) -> None:
    # as in the challenges of PhysioNet: a MATLAB file whose samples begin after 24 bytes
    ecg.write(tmp_path, "A0001")
    whole = read(tmp_path, "A0001", settings_of(tmp_path))
    (tmp_path / "A0001.mat").write_bytes(bytes(24) + (tmp_path / "A0001.dat").read_bytes())
    (tmp_path / "A0001.dat").unlink()
    ecg.retell(tmp_path / "A0001.hea", "A0001.dat 16 ", "A0001.mat 16+24 ")
    assert np.array_equal(read(tmp_path, "A0001", settings_of(tmp_path)).signal, whole.signal)


def frames(folder: Path, lost: bool) -> np.ndarray:
    """A record whose first lead has four samples in each of 360 frames a second; returns what its frames are."""
    fast, slow = np.arange(4 * 3600) % 1000, np.arange(3600) % 500
    if lost:
        fast[401] = -32768
    wfdb.wrsamp(
        "f", 360, ["mV", "mV"], ["MLII", "V1"], fmt=["16", "16"], adc_gain=[1000.0, 1000.0], baseline=[0, 0],
        samps_per_frame=[4, 1], e_d_signal=[fast, slow], write_dir=str(folder),
    )  # fmt: skip
    wfdb.wrann("f", "atr", np.array([400, 1600]), ["N", "V"], write_dir=str(folder))
    return fast.reshape(-1, 4).mean(1) / 1000


def test_several_samples_in_a_frame_become_their_mean(tmp_path: Path, settings_of: Settings) -> None:
    expected = frames(tmp_path, lost=False)
    record = read(tmp_path, "f", settings_of(tmp_path))
    assert record.signal[0] == pytest.approx(expected, abs=1e-6)
    assert record.peaks.tolist() == [400, 1600]
    assert read(tmp_path, "f", settings_of(tmp_path, lead="V1")).signal.shape == (1, 3600)


def test_a_frame_with_a_lost_sample_is_lost(tmp_path: Path, settings_of: Settings) -> None:
    # Its mean would be -8 V.
    frames(tmp_path, lost=True)
    record = read(tmp_path, "f", settings_of(tmp_path))
    assert np.flatnonzero(np.isnan(record.signal[0])).tolist() == [100]
    assert np.nanmin(record.signal) >= 0


@pytest.mark.parametrize("skew", [3, 10])
def test_a_lead_that_lags_is_brought_forward(tmp_path: Path, settings_of: Settings, skew: int) -> None:
    ecg.write(tmp_path, "a")
    plain = read(tmp_path, "a", settings_of(tmp_path)).signal[0]
    first = (tmp_path / "a.hea").read_text().splitlines()[1]
    ecg.retell(tmp_path / "a.hea", first, first.replace(" 16 ", f" 16:{skew} ", 1))
    record = read(tmp_path, "a", settings_of(tmp_path))
    assert np.array_equal(record.signal[0, :-skew], plain[skew:])
    assert np.isnan(record.signal[0, -skew:]).all()


# --- Units


@pytest.mark.parametrize("unit", ["mV", "uV", "V", "nV"])
def test_voltages_become_millivolts(tmp_path: Path, settings_of: Settings, unit: str) -> None:
    ecg.write(tmp_path, "a", unit=unit)
    record = read(tmp_path, "a", settings_of(tmp_path, normalise="none"))
    assert record.signal.max() == pytest.approx(1.0, abs=0.02)
    assert record.signal.min() == pytest.approx(-1.5, abs=0.02)


@pytest.mark.parametrize("sign", ["µ", "μ"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_micro_sign_is_not_lost(tmp_path: Path, settings_of: Settings, sign: str, encoding: str) -> None:
    # `wfdb` reads ASCII and would take it for V, a million times too much.
    if encoding == "latin-1" and sign == "μ":
        return  # latin-1 has no Greek letters
    ecg.write(tmp_path, "a", unit="uV")
    text = (tmp_path / "a.hea").read_text()
    (tmp_path / "a.hea").write_bytes(text.replace("/uV", f"/{sign}V").encode(encoding))
    assert wfdb.rdheader(str(tmp_path / "a")).units == ["V", "V"]
    assert read(tmp_path, "a", settings_of(tmp_path)).signal.max() == pytest.approx(1.0, abs=0.02)


def test_what_is_no_voltage_is_refused_where_millivolts_are_kept(
    tmp_path: Path, settings_of: Settings, refused: Refused
) -> None:
    ecg.write(tmp_path, "a", unit="mmHg")
    assert refused(lambda: load_beats(settings_of(tmp_path, normalise="none"))) == (
        f"{tmp_path / 'a.hea'}: lead MLII is in mmHg, which is no voltage, and data.normalise: none keeps mV."
    )
    assert len(load_beats(settings_of(tmp_path))) == 24  # scaled, its unit does not matter


# --- Segments


def in_segments(folder: Path, cuts: list[tuple[str, int, int]], layout: bool = False, **differs: Any) -> np.ndarray:
    """The record `m` of 7200 samples, of which some are cut out as segments; the others are gaps. Returns its lead."""
    ecg.write(folder, "m", leads=("MLII", "V1"))
    whole: Any = wfdb.rdrecord(str(folder / "m"))
    lines, at = [], 0
    for name, start, end in cuts:
        if start > at:
            lines.append(f"~ {start - at}")
        leads = ["V1", "MLII"] if name in differs.get("swapped", ()) else ["MLII", "V1"]
        order = [1, 0] if name in differs.get("swapped", ()) else [0, 1]
        keep = [0] if name in differs.get("lacking", ()) else [0, 1]  # the lead that stands first
        gain = 500.0 if name in differs.get("louder", ()) else 1000.0
        wfdb.wrsamp(
            name, 360, ["mV"] * len(keep), [leads[i] for i in keep], whole.p_signal[start:end][:, [order[i] for i in keep]],
            fmt=["16"] * len(keep), adc_gain=[gain] * len(keep), baseline=[0] * len(keep), write_dir=str(folder),
        )  # fmt: skip
        lines.append(f"{name} {end - start}")
        at = end
    if at < 7200:
        lines.append(f"~ {7200 - at}")
    if layout:
        (folder / "m_layout.hea").write_text(
            "m_layout 2 360 0\n~ 0 1000/mV 16 0 0 0 0 MLII\n~ 0 1000/mV 16 0 0 0 0 V1\n"
        )
        lines.insert(0, "m_layout 0")
    (folder / "m.dat").unlink()
    (folder / "m.hea").write_text(f"m/{len(lines)} 2 360 7200\n" + "\n".join(lines) + "\n# 54 M\n")
    return whole.p_signal[:, 0]


def test_segments_are_put_together(tmp_path: Path, settings_of: Settings) -> None:
    expected = in_segments(tmp_path, [("m1", 0, 3000), ("m2", 3000, 5000), ("m3", 5000, 7200)], louder=("m2",))
    record = read(tmp_path, "m", settings_of(tmp_path))
    assert record.signal[0] == pytest.approx(expected, abs=0.0021)
    assert record.age == 54
    beats = load_beats(settings_of(tmp_path))  # the segments' headers are no records
    assert [row["name"] for row in beats.records] == ["m"]
    assert sorted(gather(settings_of(tmp_path)).digests) == [
        "m.atr",
        "m.hea",
        *(f"m{i}.{e}" for i in (1, 2, 3) for e in ("dat", "hea")),
    ]


def test_gaps_and_segments_without_the_lead_are_lost(tmp_path: Path, settings_of: Settings) -> None:
    cuts = [("m1", 0, 2000), ("m2", 2500, 4000), ("m3", 4000, 7000)]
    expected = in_segments(tmp_path, cuts, layout=True, swapped=("m2", "m3"), lacking=("m3",))
    record = read(tmp_path, "m", settings_of(tmp_path))
    there = np.r_[0:2000, 2500:4000]
    assert record.signal[0, there] == pytest.approx(expected[there], abs=1e-3)
    lost = np.setdiff1d(np.arange(7200), there)
    assert np.isnan(record.signal[0, lost]).all()
    assert (record.kinds[0, lost] == signals.LOST).all()
    row = load_beats(settings_of(tmp_path)).records[0]
    inside = [p for p in record.peaks if p - 90 >= 0 and p + 162 <= 7200]
    kept = [p for p in inside if not np.isnan(record.signal[0, p - 90 : p + 162]).any()]
    assert row["lost"] == len(inside) - len(kept) > 0


def test_segments_that_do_not_fit_are_refused(tmp_path: Path, settings_of: Settings, refused: Refused) -> None:
    in_segments(tmp_path, [("m1", 0, 3000), ("m2", 3000, 7200)])
    header = (tmp_path / "m.hea").read_text()
    data = settings_of(tmp_path, records=("m",))
    for old, new, says in (
        ("m1 3000", "m1 3001", "promises 3001 samples of segment m1, which has 3000"),
        ("360 7200", "360 7100", "promises 7100 samples, its segments have another number"),
        ("m/2 2 360", "m/2 2 250", "segment m1 has segments of its own, or another sampling rate"),
    ):
        (tmp_path / "m.hea").write_text(header.replace(old, new))
        assert refused(lambda: load_beats(data)) == f"{tmp_path / 'm.hea'}: is not a readable WFDB header ({says})."
    (tmp_path / "m.hea").write_text(header)
    (tmp_path / "m2.hea").unlink()
    assert refused(lambda: load_beats(data)) == f"{tmp_path / 'm2.hea'}: is missing; m.hea names it."


def test_segments_are_named_by_a_header_that_has_some() -> None:
    assert segments_named("m/3 2 360 30\nm_layout 0\n# a comment\n~ 10\nm1 20\n") == ["m_layout", "~", "m1"]
    assert segments_named("m 2 360 30\nm.dat 16\nm.dat 16\n") == segments_named("") == []


# --- Annotations


@pytest.mark.parametrize("base", [250, 1000, 90.5])
def test_annotations_with_a_time_base_of_their_own_are_converted(
    tmp_path: Path, settings_of: Settings, base: float
) -> None:
    ecg.write(tmp_path, "a", annotation_rate=base)
    assert wfdb.rdann(str(tmp_path / "a"), "atr").fs == base
    expected = ecg.beat_times(20) * 360
    peaks = read(tmp_path, "a", settings_of(tmp_path)).peaks
    assert np.abs(peaks - expected).max() <= 0.5 * 360 / base + 0.5
    record = read(tmp_path, "a", settings_of(tmp_path, rate=500))
    assert np.abs(record.peaks - ecg.beat_times(20) * 500).max() <= 0.5 * 500 / base + 0.5


def test_a_time_base_of_nothing_is_refused(tmp_path: Path, settings_of: Settings, refused: Refused) -> None:
    ecg.write(tmp_path, "a", annotation_rate=250)
    notes = (tmp_path / "a.atr").read_bytes()
    assert b"time resolution: 250" in notes
    (tmp_path / "a.atr").write_bytes(notes.replace(b"time resolution: 250", b"time resolution: 000"))
    assert refused(lambda: load_beats(settings_of(tmp_path))).startswith(
        f"{tmp_path / 'a.atr'}: is not a readable WFDB "
    )


@pytest.mark.parametrize("left", [1, 31])
def test_annotations_that_are_none_are_named(folder: Path, settings_of: Settings, refused: Refused, left: int) -> None:
    notes = folder / "s002.atr"
    notes.write_bytes(notes.read_bytes()[:left])
    message = refused(lambda: load_beats(settings_of(folder)))
    assert message.startswith(f"{notes}: is not a readable WFDB annotation file (")


@pytest.mark.parametrize("seed", range(6))
def test_noise_instead_of_annotations_is_refused(
    folder: Path, settings_of: Settings, refused: Refused, seed: int
) -> None:
    notes = folder / "s002.atr"
    notes.write_bytes(np.random.default_rng(seed).bytes(3000))
    assert refused(lambda: load_beats(settings_of(folder))).startswith(f"{notes}: ")


def test_a_beat_after_the_end_is_an_edge_beat(tmp_path: Path, settings_of: Settings) -> None:
    samples = [*range(288, 7000, 288), 7100]
    ecg.write(tmp_path, "a", annotations=([*samples, 7250], "N" * (len(samples) + 1)))
    record = read(tmp_path, "a", settings_of(tmp_path))
    assert record.peaks.tolist() == [*samples, 7250]  # the last interval is known, though its window is not
    row = load_beats(settings_of(tmp_path)).records[0]
    assert row["edge"] == 2  # 7100 + 162 is after the end, too
    assert len(record.peaks) * MOST_OUTSIDE < 2


def test_annotations_of_another_record_are_refused(folder: Path, settings_of: Settings, refused: Refused) -> None:
    ecg.write(folder.parent / "longer", "s001", seconds=60)
    (folder / "s001.atr").write_bytes((folder.parent / "longer" / "s001.atr").read_bytes())
    assert refused(lambda: load_beats(settings_of(folder))) == (
        f"{folder / 's001.atr'}: has 30 of 74 beats outside the {SAMPLES} samples of the signal; do the files belong together?"
    )


def test_annotations_without_a_beat_are_refused(folder: Path, settings_of: Settings, refused: Refused) -> None:
    symbols = ["+", "~", "|", "!", "x"]
    wfdb.wrann("s001", "atr", np.arange(100, 600, 100), symbols, write_dir=str(folder))
    assert refused(lambda: load_beats(settings_of(folder))) == (
        f"{folder / 's001.atr'}: has no annotated beat of the classes N, S, V, F, Q."
    )


def test_annotations_that_run_backwards_are_refused(folder: Path, settings_of: Settings, refused: Refused) -> None:
    def word(code: int, time: int) -> bytes:
        return (code << 10 | time).to_bytes(2, "little")

    # WFDB format: N at 1000, SKIP by -800 (high half first), N at 200, end.
    back = word(59, 0) + b"\xff\xff" + (-800 & 0xFFFF).to_bytes(2, "little")
    (folder / "s001.atr").write_bytes(word(1, 1000) + back + word(1, 0) + word(0, 0))
    assert wfdb.rdann(str(folder / "s001"), "atr").sample.tolist() == [1000, 200]
    assert refused(lambda: load_beats(settings_of(folder))) == (
        f"{folder / 's001.atr'}: its beats are not in order of time; is the file damaged?"
    )


def test_two_annotations_of_one_beat_become_one(tmp_path: Path, settings_of: Settings) -> None:
    # N twice; N and its kin L; N and V, which contradict each other; A rhythm note is no beat at all.
    samples = [400, 400, 800, 800, 1200, 1200, 1600, 1600]
    ecg.write(tmp_path, "a", annotations=(samples, "NNNLNV+N"))
    record = read(tmp_path, "a", settings_of(tmp_path))
    assert record.peaks.tolist() == [400, 800, 1200, 1600]
    assert record.symbols == ("N", "N", "", "N")
    assert record.doubled == 3
    beats = load_beats(settings_of(tmp_path, rr_features=("previous", "next")))
    assert beats.sample.tolist() == [400, 800, 1600]
    # 400 samples at 360 Hz are 1.111 s; the contradicting beat still parts its neighbours.
    assert beats.rr[:, 0] == pytest.approx([(400 / 360 - 0.8) / 0.25] * 3, rel=1e-5)
    assert (beats.records[0]["unclear"], beats.records[0]["doubled"]) == (1, 3)
    # Up to a tenth of a second is one beat, too, at its first annotation: nothing beats so fast.
    ecg.write(tmp_path, "a", annotations=([400, 401, 800, 835, 1200, 1210, 1600, 1636], "NNNLNVNV"))
    record = read(tmp_path, "a", settings_of(tmp_path))
    assert (record.peaks.tolist(), record.symbols) == ([400, 800, 1200, 1600, 1636], ("N", "N", "", "N", "V"))
    ecg.write(tmp_path, "a", annotations=(samples, "NNNLNV+N"))
    # With a map that calls them alike they do not contradict each other.
    same = load_beats(settings_of(tmp_path, symbols={"V": "N"}))
    assert same.sample.tolist() == [400, 800, 1200, 1600]


# --- Symbols


def test_beats_of_all_symbols_are_kept_and_counted(tmp_path: Path, settings_of: Settings) -> None:
    ecg.write(tmp_path, "a", symbols="NBnr?V", seconds=40)
    beats = load_beats(settings_of(tmp_path, rr_features=("previous",)))
    count = len(ecg.beat_times(40))
    assert len(beats) == count
    assert beats.counts() == {"N": 25, "S": 0, "V": 16, "F": 0, "Q": 8}
    assert beats.rr[:, 0] == pytest.approx([0.0] * count, abs=0.02)  # no interval is doubled
    row = beats.records[0]
    assert (row["dropped"], row["others"]) == ({}, {})


def test_symbols_of_ones_own(tmp_path: Path, settings_of: Settings) -> None:
    ecg.write(tmp_path, "a", symbols="Nej!", seconds=40)
    plain = load_beats(settings_of(tmp_path)).records[0]
    assert plain["annotated"]["N"] == 37
    assert plain["others"] == {"!": 12}
    own = load_beats(settings_of(tmp_path, symbols={"e": "S", "j": None, "!": "V"}))
    assert own.counts() == {"N": 13, "S": 12, "V": 12, "F": 0, "Q": 0}
    assert (own.records[0]["dropped"], own.records[0]["others"]) == ({"j": 12}, {})
    assert own.records[0]["peaks"] == 49
    some = load_beats(settings_of(tmp_path, drop_symbols=("e",), classes="NV"))
    assert some.records[0]["dropped"] == {"e": 12}


# --- Lost samples


def test_lost_samples_stay_lost(tmp_path: Path, settings_of: Settings) -> None:
    ecg.write(tmp_path, "a", lost=(5.0, 10.0))
    record = read(tmp_path, "a", settings_of(tmp_path))
    assert np.flatnonzero(np.isnan(record.signal[0])).tolist() == list(range(1800, 3600))
    assert np.flatnonzero(record.kinds == signals.LOST).tolist() == list(range(1800, 3600))


def test_a_lead_that_is_lost_altogether_is_refused(tmp_path: Path, settings_of: Settings, refused: Refused) -> None:
    ecg.write(tmp_path, "a", lost=(0.0, 20.0))
    assert refused(lambda: load_beats(settings_of(tmp_path))) == (
        f"{tmp_path / 'a.hea'}: every sample of lead MLII is marked as lost."
    )


# --- Person


@pytest.mark.parametrize(
    ("comments", "expected"),
    [
        (["69 M 1085 1629 x1", "Aldomet"], ("M", 69)),
        (["-1 F 1 2 x1"], ("F", -1)),
        (["-1 M"], ("M", -1)),
        (["unknown patient"], ("", -1)),
        (["54"], ("", 54)),
        ([], ("", -1)),
        (["Age: 63  Sex: M"], ("M", 63)),
        (["<age>: 65 <sex>: F <diagnoses> none", "patient 1"], ("F", 65)),
        (["age: 81", "sex: female"], ("F", 81)),
        (["Gender: Male", "AGE = 7"], ("M", 7)),
        (["89+ F"], ("F", 89)),
        (["30 minutes of Holter, second tape"], ("", -1)),
        (["1 of 2 channels noisy M"], ("", -1)),
        (["Age: 300 Sex: unknown"], ("", -1)),
        (["page: 12", "dosage: 40 mg"], ("", -1)),
        (["12 MV"], ("", -1)),
        (["63 years M"], ("M", 63)),
        (["63y F"], ("F", 63)),
        (["Age: 63 years", "Sex: male"], ("M", 63)),
        (["Age (years): 63"], ("", 63)),
        (["Age: 6 months Sex: F"], ("F", -1)),
        (["age: 12 weeks"], ("", -1)),
        (["3 days M"], ("", -1)),
        (["? M"], ("", -1)),
        (["Age: NaN"], ("", -1)),
    ],
)
def test_sex_and_age_as_headers_give_them(comments: list[str], expected: tuple[str, int]) -> None:
    assert person(comments) == expected
