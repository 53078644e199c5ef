"""What lies on disk: which records a folder holds, what is left out and said, and where databases are looked for."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ecg
import pytest

from engine.data import disk, simulate
from engine.data.beats import load_beats
from engine.data.collection import gather
from engine.data.config import DataConfig, SimulationConfig
from engine.data.disk import annotators, locate, records_in
from engine.data.sources import INCART, MITDB, SVDB, recognised

Refused = Callable[[Callable[[], object]], str]
Settings = Callable[..., DataConfig]


def names_in(folder: Path, data: DataConfig) -> list[str]:
    return list(records_in(folder, data).names)


# --- Records of a folder


def test_records_are_chosen_by_name(pair: Path, settings_of: Settings, refused: Refused) -> None:
    assert names_in(pair, settings_of(pair)) == ["s001", "s002"]
    assert names_in(pair, settings_of(pair, records=("s002", "s001"))) == ["s002", "s001"]
    assert names_in(pair, settings_of(pair, exclude=("s001",))) == ["s002"]
    # a slip of the pen, surely
    assert refused(lambda: records_in(pair, settings_of(pair, exclude=("s001", "102")))) == (
        f"{pair}: has no record '102'; it holds s001, s002."
    )
    assert refused(lambda: records_in(pair, settings_of(pair, records=("s001", "s003")))) == (
        f"{pair}: has no record 's003'; it holds s001, s002."
    )
    assert refused(lambda: records_in(pair, settings_of(pair, exclude=("s001", "s002")))) == (
        f"{pair}: no record is left after data.records and data.exclude."
    )


@pytest.mark.parametrize("form", ["absent", "absent but below", "empty", "a file"])
def test_a_folder_without_records_is_refused(
    tmp_path: Path, settings_of: Settings, refused: Refused, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").touch()
    (tmp_path / "empty").mkdir()
    problem = "holds no WFDB header (*.hea)" if form == "empty" else "is not a folder"
    monkeypatch.chdir(tmp_path)
    for given in (str(tmp_path / form), form):  # what was tried is said in full
        assert refused(lambda given=given: load_beats(settings_of(Path(given)))) == (
            f"data.folder: {tmp_path / form} {problem}; give a folder of WFDB records."
        )


def test_the_users_own_folder_is_found(tmp_path: Path, settings_of: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    ecg.write(tmp_path / "ecg", "a")
    assert locate(settings_of(Path("~/ecg"))) == tmp_path / "ecg"


def test_records_below_are_found_where_the_folder_has_none(
    tmp_path: Path, settings_of: Settings, refused: Refused
) -> None:
    for place in ("p1/s1", "p1/s2", "p2/s1"):
        ecg.write(tmp_path / "p" / place, "night")
    ecg.write(tmp_path / "p" / "p2" / "s1", "day")
    everything = ["p1/s1/night", "p1/s2/night", "p2/s1/day", "p2/s1/night"]
    assert names_in(tmp_path / "p", settings_of(tmp_path / "p")) == everything
    assert len(load_beats(settings_of(tmp_path / "p")).records) == 4
    chosen = settings_of(tmp_path / "p", records=("day", "p1/s1/night"))
    assert names_in(tmp_path / "p", chosen) == ["p2/s1/day", "p1/s1/night"]
    assert refused(lambda: records_in(tmp_path / "p", settings_of(tmp_path / "p", exclude=("night",)))) == (
        f"{tmp_path / 'p'}: has 3 records 'night', p1/s1/night, p1/s2/night, p2/s1/night; give the path of one."
    )
    ecg.write(tmp_path / "p", "top")  # a folder with records of its own is not searched further
    assert names_in(tmp_path / "p", settings_of(tmp_path / "p")) == ["top"]
    (tmp_path / "p" / "p2").rename(tmp_path / "p" / ".hidden")
    ecg.write(tmp_path / "p" / "ward", "day")
    assert records_in(tmp_path / "p", settings_of(tmp_path / "p")).strays == (
        f"ward/ holds records that are left out, as {tmp_path / 'p'} has some of its own",
    )


def test_folders_that_are_links_are_searched_once(tmp_path: Path, settings_of: Settings) -> None:
    ecg.write(tmp_path / "p" / "ward", "a")
    ecg.write(tmp_path / "elsewhere" / "b", "b")
    (tmp_path / "p" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "p" / "ward" / "round").symlink_to(tmp_path / "p")
    (tmp_path / "p" / "zz").symlink_to(tmp_path / "elsewhere" / "b")
    assert names_in(tmp_path / "p", settings_of(tmp_path / "p")) == ["other/b/b", "ward/a"]


def test_the_file_records_says_which_there_are(tmp_path: Path, settings_of: Settings, refused: Refused) -> None:
    for name in ("a", "b", "c"):
        ecg.write(tmp_path, name)
    for name in ("x/d", "y/e", "y/f"):
        ecg.write(tmp_path / name[0], name[2])
    (tmp_path / "RECORDS").write_text("b\r\na\n\nx/d\ny/\n")  # a line may name a folder
    assert names_in(tmp_path, settings_of(tmp_path)) == ["a", "b", "x/d", "y/e", "y/f"]
    (tmp_path / "RECORDS").write_bytes("\ufeffb\n".encode())  # as an editor under Windows leaves it
    assert names_in(tmp_path, settings_of(tmp_path)) == ["b"]
    (tmp_path / "RECORDS").write_text("b\na\nx/d\ny\n")
    (tmp_path / "y" / "RECORDS").write_text("f\n")
    assert names_in(tmp_path, settings_of(tmp_path)) == ["a", "b", "x/d", "y/f"]
    (tmp_path / "RECORDS").write_text("a\ngone\n")
    assert refused(lambda: load_beats(settings_of(tmp_path))) == (
        f"{tmp_path / 'gone.hea'}: is missing; a record needs a header, signals and annotations."
    )
    (tmp_path / "RECORDS").write_text("a\n../b\n")
    assert refused(lambda: load_beats(settings_of(tmp_path))) == (
        f"{tmp_path / 'RECORDS'}: names ../b, which lies outside of its folder."
    )
    (tmp_path / "RECORDS").write_bytes(b"\xff\xfe\x00")
    assert refused(lambda: load_beats(settings_of(tmp_path))).startswith(
        f"{tmp_path / 'RECORDS'}: is not a readable list"
    )


def test_annotations_without_a_record_are_said_and_left_out(tmp_path: Path, settings_of: Settings) -> None:
    ecg.write(tmp_path, "102")
    shutil.copy(tmp_path / "102.atr", tmp_path / "102-0.atr")
    told: list[str] = []
    assert names_in(tmp_path, settings_of(tmp_path)) == ["102"]
    beats = load_beats(settings_of(tmp_path), told.append)
    assert [row["name"] for row in beats.records] == ["102"]
    assert told[0] == "102-0.atr has no record beside it and is left out"


@pytest.mark.parametrize("chosen", ["all", ("s001",)])
@pytest.mark.parametrize("end", ["dat", "atr", "hea"])
def test_a_missing_file_is_named(folder: Path, settings_of: Settings, refused: Refused, end: str, chosen: Any) -> None:
    # A record that has lost its header is missed, not forgotten.
    (folder / f"s001.{end}").unlink()
    says = {
        "dat": "is missing; s001.hea names it.",
        "atr": "is missing, which holds the annotations; a record needs them.",
        "hea": "is missing; a record needs a header, signals and annotations.",
    }
    message = refused(lambda: load_beats(settings_of(folder, records=chosen)))
    assert message == f"{folder / 's001'}.{end}: {says[end]}"


def test_shadows_of_a_mac_and_hidden_files_are_no_records(tmp_path: Path, settings_of: Settings) -> None:
    ecg.write(tmp_path, "a")
    for name in ("._a.hea", "._a.dat", "._a.atr", ".b.hea", ".DS_Store"):
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "._a.hea").touch()
    (tmp_path / "c.hea").mkdir()
    assert names_in(tmp_path, settings_of(tmp_path)) == ["a"]
    (tmp_path / "below" / ".cache").mkdir(parents=True)
    ecg.write(tmp_path / "below" / ".cache", "z")
    ecg.write(tmp_path / "below" / "d", "a")
    assert names_in(tmp_path / "below", settings_of(tmp_path / "below")) == ["d/a"]


def test_all_unusable_records_are_named_at_once(tmp_path: Path, settings_of: Settings, refused: Refused) -> None:
    for number in range(13):
        ecg.write(tmp_path, f"r{number:02}")
    for number in range(10):
        (tmp_path / f"r{number:02}.dat").write_bytes(b"")
    (tmp_path / "r10.atr").unlink()
    message = refused(lambda: load_beats(settings_of(tmp_path)))
    assert message.startswith(f"{tmp_path}: 11 of 13 records cannot be used (data.exclude leaves them out): ")
    assert f"{tmp_path / 'r00.dat'}: does not hold the 7200 samples its header promises (0 of 28800 bytes); " in message
    assert message.endswith("; and r08, r09, r10.")
    broken = tuple(f"r{number:02}" for number in range(11))
    assert len(load_beats(settings_of(tmp_path, exclude=broken)).records) == 2


def test_damage_that_shows_late_is_said_of_all_records_too(
    tmp_path: Path, settings_of: Settings, refused: Refused
) -> None:
    for name in "abc":
        ecg.write(tmp_path, name)
    for name in "ac":
        (tmp_path / f"{name}.atr").write_bytes(b"\x00")
    message = refused(lambda: load_beats(settings_of(tmp_path)))
    assert message.startswith(
        f"{tmp_path}: 2 of 3 records cannot be used (data.exclude leaves them out): {tmp_path / 'a.atr'}: "
    )
    assert f"; {tmp_path / 'c.atr'}: is not a readable WFDB annotation file (" in message


# --- Other annotators


def test_other_annotators_are_named_and_can_be_chosen(tmp_path: Path, settings_of: Settings, refused: Refused) -> None:
    for name in ("a", "b"):
        ecg.write(tmp_path, name, annotator="ecg")
        ecg.write(tmp_path, name, annotator="qrs", symbols="N")
    assert annotators(tmp_path / "a.hea") == ["ecg", "qrs"]
    message = refused(lambda: load_beats(settings_of(tmp_path)))
    assert "a.atr: is missing, which holds the annotations; there are ecg, qrs (data.annotator)" in message
    assert load_beats(settings_of(tmp_path, annotator="ecg")).counts()["V"] > 0
    assert load_beats(settings_of(tmp_path, annotator="qrs")).counts()["V"] == 0


# --- Rates


def test_mixed_rates_are_refused_naming_both(tmp_path: Path, settings_of: Settings, refused: Refused) -> None:
    for name, rate in (("a", 360), ("b", 360), ("c", 128), ("d", 360), ("e", 360)):
        ecg.write(tmp_path, name, rate=rate)
    assert refused(lambda: load_beats(settings_of(tmp_path))) == (
        f"{tmp_path}: the records have different sampling rates, 360 Hz (a, b, d ...) and 128 Hz (c); give data.rate, to "
        "which all are resampled."
    )
    beats = load_beats(settings_of(tmp_path, rate=250))
    assert {(row["sampling_rate"], row["native_rate"]) for row in beats.records} == {(250, 360), (250, 128)}


def test_a_window_that_does_not_fit_the_rate_is_refused(
    tmp_path: Path, settings_of: Settings, refused: Refused
) -> None:
    ecg.write(tmp_path, "a", rate=128)
    message = refused(lambda: load_beats(settings_of(tmp_path, window=("1 ms", "0.5 s"))))
    assert message.startswith("data.window is ['1 ms', '0.5 s'], which at 128 Hz is 0 and 64 samples; both must be ")


# --- Where records are looked for


def test_where_mitdb_is_looked_for(
    folder: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    fetched: list[tuple[str, Path]] = []
    monkeypatch.setattr(disk, "fetch", lambda dataset, target, progress: fetched.append((dataset.name, target)))
    monkeypatch.setenv("PULSELEDGER_DATA", str(tmp_path / "nothing"))
    assert refused(lambda: locate(DataConfig(source="mitdb"))).startswith(f"PULSELEDGER_DATA: {tmp_path / 'nothing'} ")
    assert locate(DataConfig(source="mitdb", folder=str(folder))) == folder  # the key comes before the variable
    folder.rename(tmp_path / "mitdb")
    monkeypatch.setenv("PULSELEDGER_DATA", str(tmp_path))
    assert locate(DataConfig(source="mitdb")) == tmp_path / "mitdb"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PULSELEDGER_DATA", "~/mitdb")
    assert locate(DataConfig(source="mitdb")) == tmp_path / "mitdb"
    assert fetched == []
    monkeypatch.delenv("PULSELEDGER_DATA")
    assert locate(DataConfig(source="mitdb")) == cache / "mitdb"
    assert fetched == [("mitdb", cache / "mitdb")]


def test_where_other_databases_are_looked_for(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(disk, "fetch", lambda dataset, target, progress: fetched.append(dataset.name))
    monkeypatch.setenv("PULSELEDGER_DATA", str(tmp_path))
    assert locate(DataConfig(source="incart")) == cache / "incart"  # the variable's folder holds other databases
    ecg.write(tmp_path / "incartdb", "I01")
    assert locate(DataConfig(source="incart")) == tmp_path / "incartdb"
    ecg.write(tmp_path / "svdb", "800")
    assert locate(DataConfig(source="svdb")) == tmp_path / "svdb"
    assert fetched == ["incart"]


def test_known_databases_have_the_records_that_they_have() -> None:
    assert (len(INCART.records), INCART.records[0], INCART.records[-1]) == (75, "I01", "I75")
    assert (len(SVDB.records), SVDB.records[0], SVDB.records[-1]) == (78, "800", "894")
    assert (INCART.folder, SVDB.folder, MITDB.folder) == ("incartdb", "svdb", "mitdb")
    assert len(SVDB.files) == 3 * 78


def test_a_database_asked_for_by_name_is_missed_record_by_record(tmp_path: Path, refused: Refused) -> None:
    ecg.write(tmp_path, "I01")
    ecg.write(tmp_path, "other")
    message = refused(lambda: gather(DataConfig(source="incart", folder=str(tmp_path))))
    assert message.startswith(f"{tmp_path}: 74 of 75 records cannot be used (data.exclude leaves them out): ")
    assert message.endswith("I73, I74, I75.")
    assert gather(DataConfig(source="incart", folder=str(tmp_path), records=("I01",))).entries[0].name == "I01"


def test_nothing_is_recognised_in_nothing() -> None:
    assert recognised([], []) is None
    assert recognised(["0" * 64], ["69 M 1085 1629 x1"]) is None  # only a part of what 100's header says
    assert recognised([], ["69 M 1085 1629 x1", "Aldomet, Inderal"]) == ("mitdb", "100")
    assert recognised([MITDB.digests["208.atr"]], []) == ("mitdb", "208")


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


def test_a_cache_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PULSELEDGER_CACHE", str(tmp_path / "file"))
    monkeypatch.delenv("PULSELEDGER_DATA", raising=False)
    assert refused(lambda: locate(DataConfig())) == f"{tmp_path / 'file'}: cannot be made (File exists)."
    assert refused(lambda: locate(DataConfig(source="mitdb"))) == (
        f"{tmp_path / 'file' / 'mitdb'}: cannot be made (Not a directory)."
    )
    monkeypatch.setenv("PULSELEDGER_CACHE", str(tmp_path / "cache"))
    data = DataConfig(simulated=SimulationConfig(patients=1, minutes=0.6))
    folder = locate(data)
    shutil.rmtree(folder)
    folder.touch()
    assert refused(lambda: locate(data)) == f"{folder}: the simulated records cannot be stored (Not a directory)."
    assert list(folder.parent.iterdir()) == [folder]  # nothing half done is left
