"""Records: the real 48 as they were counted by hand, damaged files in one sentence each, and the download."""

import hashlib
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb

from engine.data import records, simulate
from engine.data.beats import Beats, load_beats
from engine.data.config import CohortConfig, DataConfig, SimulationConfig
from engine.data.partitions import DS1, DS2, PACED, TEST, split
from engine.data.records import AAMI, file_digests, locate, mitdb_digests, read_record, record_names
from engine.errors import DataError

SAMPLES = 12_960  # of each simulated record: 0.6 minutes at 360 Hz


def refusal(work: Callable[[], object]) -> str:
    """The message with which `work` is refused: one sentence on one line."""
    with pytest.raises(DataError) as caught:
        work()
    message = str(caught.value)
    assert message.endswith((".", "?"))
    assert len(message.splitlines()) == 1
    assert caught.value.__cause__ is None
    return message


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two simulated records, s001 and s002; tests that damage them take a copy."""
    folder = tmp_path_factory.mktemp("pair") / "records"
    simulate.write_records(folder, 2, seed=0, minutes=SAMPLES / 360 / 60)
    return folder


@pytest.fixture
def folder(pair: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pair, tmp_path / "records"))


def of(folder: Path, **settings: Any) -> DataConfig:
    return DataConfig(source="folder", folder=str(folder), window=(90, 162), **settings)


@pytest.fixture(scope="module")
def everything(mitdb: Path) -> Beats:
    """All 48 real records with windows so short that no beat is lost at an edge."""
    return load_beats(DataConfig(source="mitdb", folder=str(mitdb), window=(2, 2), normalise="none", rr_features=False))


def test_aami_classes_are_those_of_ec57() -> None:
    expected = {"N": "NLRej", "S": "AaJS", "V": "VE", "F": "F", "Q": "/fQ"}
    assert {symbol: c for c, symbols in expected.items() for symbol in symbols} == AAMI


def test_the_published_list_names_every_file_once() -> None:
    digests = mitdb_digests()
    names = {name for name, _, _ in (file.partition(".") for file in digests)}
    assert names == {*DS1, *DS2, *PACED}
    assert set(digests) == {f"{name}.{end}" for name in names for end in ("hea", "dat", "atr")}
    assert len(digests) == len(set(digests.values())) == 144
    assert all(len(digest) == 64 and int(digest, 16) >= 0 for digest in digests.values())


def test_the_real_records_hold_what_was_counted_by_hand(everything: Beats) -> None:
    assert len(everything.records) == 48
    annotated = sum((Counter(record["annotated"]) for record in everything.records), Counter())
    assert annotated == {"N": 90_631, "S": 2_781, "V": 7_236, "F": 803, "Q": 8_043}
    assert annotated.total() == 109_494 == len(everything)
    assert everything.counts() == annotated
    assert {record["samples"] for record in everything.records} == {650_000}
    assert {record["sampling_rate"] for record in everything.records} == {360.0}
    by_name = {record["name"]: record["annotated"] for record in everything.records}
    assert (by_name["208"]["F"], by_name["213"]["F"], by_name["232"]["S"]) == (373, 362, 1_382)
    assert sum(by_name[name]["Q"] for name in PACED) == 8_028


def test_the_real_patients(everything: Beats) -> None:
    people = {record["name"]: record for record in everything.records}
    assert Counter(person["sex"] for person in people.values()) == {"M": 26, "F": 22}
    assert {name for name, person in people.items() if person["age"] == -1} == {"103", "219"}
    ages = [person["age"] for person in people.values() if person["age"] != -1]
    assert (min(ages), max(ages)) == (23, 89)
    assert len({person["patient"] for person in people.values()}) == 47
    assert people["202"]["patient"] == people["201"]["patient"] == "201"


def test_the_lead_is_picked_by_name(everything: Beats, mitdb: Path) -> None:
    leads = {record["name"]: record["lead"] for record in everything.records}
    assert {name for name, lead in leads.items() if lead != "MLII"} == {"102", "104"}
    assert leads["102"] == leads["104"] == "V5"
    raw: Any = wfdb.rdrecord(str(mitdb / "114"))
    assert raw.sig_name == ["V5", "MLII"]
    record = read_record(mitdb, "114", DataConfig(source="mitdb"))
    assert record.lead == "MLII"
    assert np.array_equal(record.signal, raw.p_signal[:, 1].astype(np.float32))


def test_two_records_are_one_patient_only_in_mitdb(mitdb: Path) -> None:
    assert read_record(mitdb, "202", DataConfig(source="mitdb")).patient == "201"
    assert read_record(mitdb, "202", of(mitdb)).patient == "202"


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
    assert beats.x.shape == (6_318, 360)
    assert beats.counts() == {"N": 4_195, "S": 36, "V": 5, "F": 0, "Q": 2_082}
    assert [record["lead"] for record in beats.records] == ["MLII", "MLII", "V5"]
    assert sum(record["edge"] for record in beats.records) == 5


def test_the_chronological_test_part_of_all_records(everything: Beats) -> None:
    part, _ = split(everything, np.zeros(len(everything), np.int32), CohortConfig(hospitals=1))
    tested = dict(zip("NSVFQ", np.bincount(everything.y[part == TEST], minlength=5).tolist(), strict=True))
    counted = {"N": 27_083, "S": 837, "V": 2_255, "F": 171, "Q": 2_523}
    for letter, count in counted.items():
        assert abs(tested[letter] - count) <= (0.002 * count if letter in "NQ" else 1), letter


def test_the_real_files_are_the_published_ones(mitdb: Path, tmp_path: Path) -> None:
    digests = file_digests(mitdb, ["100", "234"], DataConfig(source="mitdb"))
    assert digests == {name: mitdb_digests()[name] for name in digests}
    for file in mitdb.glob("100.*"):
        shutil.copy(file, tmp_path)
    damaged = bytearray((tmp_path / "100.dat").read_bytes())
    damaged[1000] ^= 1
    (tmp_path / "100.dat").chmod(0o644)
    (tmp_path / "100.dat").write_bytes(damaged)
    message = refusal(lambda: load_beats(DataConfig(source="mitdb", folder=str(tmp_path))))
    assert message.startswith(f"{tmp_path / '100.dat'}: differs from MIT-BIH 1.0.0 (SHA-256); ")
    assert "data.source: folder" in message
    assert len(load_beats(of(tmp_path))) > 2_000


def test_a_record_is_read_as_it_was_written(pair: Path) -> None:
    raw: Any = wfdb.rdrecord(str(pair / "s001"))
    notes = wfdb.rdann(str(pair / "s001"), "atr")
    record = read_record(pair, "s001", of(pair))
    assert (record.name, record.patient, record.lead, record.sampling_rate) == ("s001", "s001", "MLII", 360.0)
    assert record.signal.dtype == np.float32
    assert np.array_equal(record.signal, raw.p_signal[:, 0].astype(np.float32))
    assert notes.symbol[0] == "+"  # the rhythm note is no beat
    assert record.peaks.tolist() == notes.sample[1:].tolist()
    assert record.symbols == tuple(notes.symbol[1:])
    assert f"{record.age} {record.sex} simulated" == raw.comments[0]


@pytest.mark.parametrize(
    ("settings", "lead"),
    [
        ({}, "MLII"),
        ({"lead": "V1"}, "V1"),
        ({"lead": 1}, "V1"),
        ({"lead": "aVF", "lead_fallback": "V1"}, "V1"),
        ({"lead": "MLII", "lead_fallback": None}, "MLII"),
    ],
)
def test_a_lead_by_name_number_or_fallback(pair: Path, settings: dict[str, Any], lead: str) -> None:
    record = read_record(pair, "s001", of(pair, **settings))
    raw: Any = wfdb.rdrecord(str(pair / "s001"), channel_names=[lead])
    assert record.lead == lead
    assert np.array_equal(record.signal, raw.p_signal[:, 0].astype(np.float32))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lead": "aVF", "lead_fallback": None}, "s001.hea: has no lead aVF; it has MLII, V1 (data.lead, "),
        ({"lead": "aVF"}, "s001.hea: has no lead aVF or V5; it has MLII, V1 (data.lead, data.lead_fallback)."),
        ({"lead": 2}, "s001.hea: has no lead number 2; it has 2: MLII, V1."),
        ({"lead": -1}, "s001.hea: has no lead number -1; it has 2: MLII, V1."),
    ],
)
def test_a_lead_that_is_not_there(pair: Path, settings: dict[str, Any], says: str) -> None:
    assert says in refusal(lambda: load_beats(of(pair, **settings)))


@pytest.mark.parametrize("end", ["dat", "atr", "hea"])
@pytest.mark.parametrize("chosen", ["all", ("s001",)])
def test_a_missing_file_is_named(folder: Path, end: str, chosen: Any) -> None:
    (folder / f"s001.{end}").unlink()
    message = refusal(lambda: load_beats(of(folder, records=chosen)))
    assert message.startswith(f"{folder / 's001'}.{end}: ")
    assert message.endswith("a record needs .hea, .dat and .atr.")
    message = refusal(lambda: read_record(folder, "s001", of(folder)))
    assert message == f"{folder / 's001'}.{end}: is missing; a record needs .hea, .dat and .atr."


@pytest.mark.parametrize("left", [0, 1, 1000, -1, -4])
def test_a_truncated_signal_is_named(folder: Path, left: int) -> None:
    signal = folder / "s002.dat"
    signal.write_bytes(signal.read_bytes()[:left])
    message = refusal(lambda: load_beats(of(folder)))
    assert message.startswith(f"{signal}: does not hold the {SAMPLES} samples its header promises (")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes.fromhex("ffd8ffe000104a46494600010101004800480000ffdb0043") + bytes(range(256)) * 8,
        b"\n# only a comment\n",
        b"s002 0 360 0\n",
        b"s002 2 360 0\ns002.dat 16 1000(0)/mV 16 0 0 0 0 MLII\ns002.dat 16 1000(0)/mV 16 0 0 0 0 V1\n",
        b"s002 2 0 12960\ns002.dat 16 1000(0)/mV 16 0 0 0 0 MLII\ns002.dat 16 1000(0)/mV 16 0 0 0 0 V1\n",
        b"s002/2 2 360 25920\ns002a 12960\ns002b 12960\n",
    ],
    ids=["empty", "jpeg", "comment", "no signal", "no samples", "no rate", "segments"],
)
def test_a_header_that_is_none_is_named(folder: Path, content: bytes) -> None:
    (folder / "s002.hea").write_bytes(content)
    message = refusal(lambda: load_beats(of(folder)))
    assert message.startswith(f"{folder / 's002.hea'}: is not a readable WFDB header (")


def test_a_header_that_points_to_another_signal_is_named(folder: Path) -> None:
    header = folder / "s002.hea"
    header.write_text(header.read_text().replace("s002.dat", "gone.dat"))
    assert refusal(lambda: load_beats(of(folder))).startswith(f"{folder / 's002.dat'}: ")


@pytest.mark.parametrize("left", [1, 31])
def test_annotations_that_are_none_are_named(folder: Path, left: int) -> None:
    notes = folder / "s002.atr"
    notes.write_bytes(notes.read_bytes()[:left])
    assert refusal(lambda: load_beats(of(folder))).startswith(f"{notes}: is not a readable WFDB annotation file (")


@pytest.mark.parametrize("seed", range(6))
def test_noise_instead_of_annotations_is_refused(folder: Path, seed: int) -> None:
    notes = folder / "s002.atr"
    notes.write_bytes(np.random.default_rng(seed).bytes(3000))
    assert refusal(lambda: load_beats(of(folder))).startswith(f"{notes}: ")


def test_annotations_of_another_record_are_refused(folder: Path, tmp_path: Path) -> None:
    simulate.write_records(tmp_path / "longer", 1, seed=1, minutes=1.0)
    shutil.copy(tmp_path / "longer" / "s001.atr", folder / "s001.atr")
    assert refusal(lambda: load_beats(of(folder))) == (
        f"{folder / 's001.atr'}: has beats outside the {SAMPLES} samples of the signal; do the files belong together?"
    )


def test_annotations_without_a_beat_are_refused(folder: Path) -> None:
    symbols = ["+", "~", "|", "!", "x"]
    wfdb.wrann("s001", "atr", np.arange(100, 600, 100), symbols, write_dir=str(folder))
    assert refusal(lambda: load_beats(of(folder))) == (
        f"{folder / 's001.atr'}: has no annotated beat of the classes N, S, V, F, Q."
    )


def test_annotations_that_run_backwards_are_refused(folder: Path) -> None:
    def word(code: int, time: int) -> bytes:
        return (code << 10 | time).to_bytes(2, "little")

    # WFDB format: N at 1000, SKIP by -800 (high half first), N at 200, end.
    back = word(59, 0) + b"\xff\xff" + (-800 & 0xFFFF).to_bytes(2, "little")
    (folder / "s001.atr").write_bytes(word(1, 1000) + back + word(1, 0) + word(0, 0))
    assert wfdb.rdann(str(folder / "s001"), "atr").sample.tolist() == [1000, 200]
    assert refusal(lambda: load_beats(of(folder))) == (
        f"{folder / 's001.atr'}: its beats are not in order of time; is the file damaged?"
    )


def write_signal(folder: Path, digital: np.ndarray) -> None:
    """Replaces s001 by int16 samples of one lead, 1000 a mV; -32768 marks a lost sample."""
    wfdb.wrsamp(
        "s001", 360, ["mV"], ["MLII"], d_signal=digital[:, None], fmt=["16"], adc_gain=[1000.0], baseline=[0],
        write_dir=str(folder),
    )  # fmt: skip
    wfdb.wrann("s001", "atr", np.array([200]), ["N"], write_dir=str(folder))


def test_the_last_sample_is_the_last_that_can_hold_a_beat(folder: Path) -> None:
    write_signal(folder, np.zeros(1000, np.int64))
    wfdb.wrann("s001", "atr", np.array([999]), ["N"], write_dir=str(folder))
    assert read_record(folder, "s001", of(folder)).peaks.tolist() == [999]
    wfdb.wrann("s001", "atr", np.array([1000]), ["N"], write_dir=str(folder))
    assert "has beats outside the 1000 samples" in refusal(lambda: read_record(folder, "s001", of(folder)))


def test_lost_samples_become_the_median(folder: Path) -> None:
    digital = np.full(1000, 250, np.int64)
    digital[:100] = 750
    digital[300:400] = -32768
    write_signal(folder, digital)
    signal = read_record(folder, "s001", of(folder)).signal
    assert signal[:100].tolist() == pytest.approx([0.75] * 100)
    assert signal[100:].tolist() == pytest.approx([0.25] * 900)


def test_a_lead_that_is_lost_altogether_is_refused(folder: Path) -> None:
    write_signal(folder, np.full(1000, -32768, np.int64))
    assert refusal(lambda: read_record(folder, "s001", of(folder))) == (
        f"{folder / 's001'}.dat: every sample of lead MLII is marked as lost."
    )


@pytest.mark.parametrize(
    ("comments", "person"),
    [
        (["69 M 1085 1629 x1", "Aldomet"], ("M", 69)),
        (["-1 F 1 2 x1"], ("F", -1)),
        (["unknown patient"], ("", -1)),
        (["54"], ("", 54)),
        ([], ("", -1)),
    ],
)
def test_sex_and_age_come_from_the_first_comment(folder: Path, comments: list[str], person: tuple[str, int]) -> None:
    header = folder / "s001.hea"
    lines = [line for line in header.read_text().splitlines() if not line.startswith("#")]
    header.write_text("\n".join([*lines, *(f"# {comment}" for comment in comments)]) + "\n")
    record = read_record(folder, "s001", of(folder))
    assert (record.sex, record.age) == person


def test_records_are_chosen_by_name(pair: Path) -> None:
    assert record_names(pair, of(pair)) == ["s001", "s002"]
    assert record_names(pair, of(pair, records=("s002", "s001"))) == ["s002", "s001"]
    assert record_names(pair, of(pair, exclude=("s001",))) == ["s002"]
    assert refusal(lambda: record_names(pair, of(pair, exclude=("s001", "102")))) == (  # a slip of the pen, surely
        f"{pair}: has no record '102'; it holds s001, s002."
    )
    assert refusal(lambda: record_names(pair, of(pair, records=("s001", "s003")))) == (
        f"{pair}: has no record 's003'; it holds s001, s002."
    )
    assert refusal(lambda: record_names(pair, of(pair, exclude=("s001", "s002")))) == (
        f"{pair}: no record is left after data.records and data.exclude."
    )


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, problem in (
        ("empty", "holds no WFDB header (*.hea)"),
        ("file", "is not a folder"),
        ("none", "is not a folder"),
    ):
        where = tmp_path / name
        assert refusal(lambda where=where: load_beats(of(where))) == (  # type: ignore[misc]
            f"data.folder: {where} {problem}; give a folder of .hea, .dat and .atr files."
        )


def test_where_mitdb_is_looked_for(folder: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Path] = []
    monkeypatch.setattr(records, "fetch_mitdb", lambda target, progress: fetched.append(target))
    monkeypatch.setenv("PULSELEDGER_DATA", str(tmp_path / "nothing"))
    assert refusal(lambda: locate(DataConfig(source="mitdb"))).startswith(f"PULSELEDGER_DATA: {tmp_path / 'nothing'} ")
    assert locate(DataConfig(source="mitdb", folder=str(folder))) == folder  # the key comes before the variable
    folder.rename(tmp_path / "mitdb")
    monkeypatch.setenv("PULSELEDGER_DATA", str(tmp_path))
    assert locate(DataConfig(source="mitdb")) == tmp_path / "mitdb"
    assert fetched == []
    monkeypatch.delenv("PULSELEDGER_DATA")
    assert locate(DataConfig(source="mitdb")) == cache / "mitdb"
    assert fetched == [cache / "mitdb"]


def test_simulated_records_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSELEDGER_CACHE", str(tmp_path))
    data = DataConfig(simulated=SimulationConfig(patients=1, minutes=0.6))

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(simulate, "write_records", fail)
        locate(data)
    folder = locate(data)  # what was interrupted is done again
    assert sorted(path.name for path in folder.iterdir()) == ["s001.atr", "s001.dat", "s001.hea"]
    assert list((tmp_path / "simulated").iterdir()) == [folder]
    monkeypatch.setattr(simulate, "write_records", fail)
    assert locate(data) == folder
    other = DataConfig(simulated=SimulationConfig(patients=1, minutes=0.6, seed=1))
    with pytest.raises(KeyboardInterrupt):
        locate(other)


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PULSELEDGER_CACHE", str(tmp_path / "file"))
    monkeypatch.delenv("PULSELEDGER_DATA", raising=False)
    message = refusal(lambda: locate(DataConfig()))
    assert message.startswith(str(tmp_path / "file" / "simulated"))
    assert message.endswith("the simulated records cannot be stored (Not a directory).")
    assert refusal(lambda: locate(DataConfig(source="mitdb"))) == (
        f"{tmp_path / 'file' / 'mitdb'}: cannot be made (Not a directory)."
    )


class Server(ThreadingHTTPServer):
    """Serves `files` on 127.0.0.1; `ranges` says whether parts may be asked for, `cut` where a body breaks off."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.cut: int | None = None
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name, wanted = self.path[1:], self.headers["Range"]
        self.server.asked.append((name, wanted))
        content = self.server.files.get(name)
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.server.cut])

    def log_message(self, format: str, *args: Any) -> None:
        pass


FILES = {
    "100.hea": b"100 2 360 650000\n",
    "100.dat": np.random.default_rng(0).bytes(200_000),
    "100.atr": bytes(range(256)),
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(
        records, "mitdb_digests", lambda: {name: hashlib.sha256(body).hexdigest() for name, body in FILES.items()}
    )
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        server.files = dict(FILES)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_fetch_takes_every_file_once(server: Server, tmp_path: Path) -> None:
    target, told = tmp_path / "deep" / "mitdb", []
    assert records.fetch_mitdb(target, server.url, told.append) == 3
    assert contents(target) == FILES
    assert server.asked == [(name, None) for name in FILES]
    assert told == ["0/3 100.hea", "1/3 100.dat", "2/3 100.atr", "3/3 done"]
    assert records.fetch_mitdb(target, server.url) == 0
    assert len(server.asked) == 3


def test_fetch_goes_on_inside_a_file(server: Server, tmp_path: Path) -> None:
    server.cut = 150_000  # the connection breaks in the middle of 100.dat
    message = refusal(lambda: records.fetch_mitdb(tmp_path, server.url))
    assert message.startswith(f"{server.url}100.dat: cannot be fetched (")
    assert "PULSELEDGER_DATA" in message
    assert set(contents(tmp_path)) == {"100.hea", "100.dat.part"}
    got = (tmp_path / "100.dat.part").stat().st_size
    assert 0 < got <= 150_000
    server.cut, server.asked = None, []
    assert records.fetch_mitdb(tmp_path, server.url) == 2
    assert contents(tmp_path) == FILES
    assert server.asked == [("100.dat", f"bytes={got}-"), ("100.atr", None)]


def test_fetch_starts_a_file_again_where_the_server_sends_no_parts(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "100.dat.part").write_bytes(FILES["100.dat"][:1000])
    assert records.fetch_mitdb(tmp_path, server.url) == 3
    assert contents(tmp_path) == FILES


def test_fetch_takes_a_part_that_was_already_whole(server: Server, tmp_path: Path) -> None:
    (tmp_path / "100.atr.part").write_bytes(FILES["100.atr"])
    assert records.fetch_mitdb(tmp_path, server.url) == 3
    assert contents(tmp_path) == FILES
    assert ("100.atr", "bytes=256-") in server.asked


@pytest.mark.parametrize("part", [b"", b"not the beginning"])
def test_fetch_throws_away_what_is_not_the_published_file(server: Server, tmp_path: Path, part: bytes) -> None:
    if part:
        (tmp_path / "100.dat.part").write_bytes(part)
    else:
        server.files["100.dat"] = FILES["100.dat"][:-1] + b"x"
    assert refusal(lambda: records.fetch_mitdb(tmp_path, server.url)) == (
        f"{server.url}100.dat: is not the published file (SHA-256 differs); it was thrown away."
    )
    assert contents(tmp_path) == {"100.hea": FILES["100.hea"]}
    server.files = dict(FILES)
    assert records.fetch_mitdb(tmp_path, server.url) == 2
    assert contents(tmp_path) == FILES


def test_fetch_of_a_file_that_the_server_lacks(server: Server, tmp_path: Path) -> None:
    del server.files["100.dat"]
    message = refusal(lambda: records.fetch_mitdb(tmp_path, server.url))
    assert message.startswith(f"{server.url}100.dat: cannot be fetched (HTTPError); ")
    assert set(contents(tmp_path)) == {"100.hea"}


def test_fetch_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as closed:  # bound but not listening: nobody else gets the port meanwhile
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        assert refusal(lambda: records.fetch_mitdb(tmp_path, url)) == (
            f"{url}100.atr: cannot be fetched (ConnectionError); "
            "set data.folder or PULSELEDGER_DATA to a copy of MIT-BIH."
        )
    assert contents(tmp_path) == {}


def test_fetch_into_a_full_disk_is_one_sentence(server: Server, tmp_path: Path) -> None:
    (tmp_path / "100.hea.part").symlink_to("/dev/full")
    message = refusal(lambda: records.fetch_mitdb(tmp_path, server.url))
    assert message == f"{tmp_path / '100.hea.part'}: cannot be stored (No space left on device)."
