"""Nobody's file is written over."""

from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.experiment import run
from engine.homes import MARK, claim, kind_of


def test_a_folder_is_claimed_once_and_found_again(tmp_path: Path):
    folder = tmp_path / "new" / "run"
    assert kind_of(folder) == ""
    claim(folder, "run", ("config.yaml",))
    assert kind_of(folder) == "run"
    (folder / "config.yaml").write_text("ours")
    claim(folder, "run", ("config.yaml",))
    with pytest.raises(ConfigError, match=r"run: is the folder of a run, not of a study; choose another --out\.$"):
        claim(folder, "study", ())


def test_other_files_may_stay_where_they_are(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    claim(tmp_path, "run", ("config.yaml",))
    assert kind_of(tmp_path) == "run"


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors", "confusion.svg", "predictions.parquet", "ledger"])
def test_a_run_leaves_a_foreign_file_alone(name: str, tiny_config, tmp_path: Path):
    (tmp_path / name).write_text("# my careful notes\n")
    with pytest.raises(ConfigError, match=f"holds a {name} that no run of PulseLedger has written"):
        run(tiny_config(), tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "# my careful notes\n"}


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file, where a folder is wanted"):
        claim(tmp_path / "file", "run", ())


def test_a_damaged_mark_is_none(tmp_path: Path):
    (tmp_path / MARK).write_text("{")
    assert kind_of(tmp_path) == ""
