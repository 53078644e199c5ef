"""Whoever only looks at a folder leaves every byte of it as it is, and adds none but what he says."""

import argparse
import shutil
import sqlite3
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sweeps.__main__ import main
from sweeps.audit import audit_study
from sweeps.verbs import looking


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_readers_write_nothing_into_a_folder(agreed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Of a study that was copied, so that its store names places of the first one; its database makes files when it is opened."""
    monkeypatch.setenv("PULSELEDGER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    copy, started = Path(shutil.copytree(agreed, tmp_path / "copy")), list[str]()
    with sqlite3.connect(copy / "optuna.db") as database:
        assert database.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    database.close()
    before = bytes_of(copy)
    assert main(["compare", str(copy), "--csv"]) == 0
    assert audit_study(copy, checks=()).findings == []
    options = argparse.Namespace(folders=[copy], store=None, port=0)
    looking.ui(options, [], become=lambda path, words: started.extend(words))
    assert bytes_of(copy) == before
    # what is served is a copy that finds its artifacts beside the store that it was made of
    served = started[started.index("--backend-store-uri") + 1]
    assert str(tmp_path / "cache") in served
    assert "copy/mlflow.db was moved: this is a copy of it" in capsys.readouterr().out
    experiment = MlflowClient(served).get_experiment_by_name("pulseledger")
    assert experiment.artifact_location == (copy / "artifacts").as_uri()
    assert {path.name for path in tmp_path.iterdir()} == {"copy", "cache"}


@pytest.mark.long
def test_a_report_writes_into_its_own_folder_only(agreed: Path, tmp_path: Path):
    copy = Path(shutil.copytree(agreed, tmp_path / "copy"))
    before = bytes_of(copy)
    assert main(["report", str(copy), "--no-audit"]) == 0
    assert {name for name, held in bytes_of(copy).items() if before.get(name) != held} <= {
        name for name in bytes_of(copy) if name.startswith("report/")
    }


def test_a_store_that_was_not_moved_is_served_itself(
    agreed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
):
    monkeypatch.setenv("PULSELEDGER_CACHE", str(tmp_path / "cache"))
    started, before = list[str](), (agreed / "mlflow.db").read_bytes()
    options = argparse.Namespace(folders=[agreed], store=None, port=0)
    looking.ui(options, [], become=lambda path, words: started.extend(words))
    assert started[started.index("--backend-store-uri") + 1] == f"sqlite:///{agreed / 'mlflow.db'}"
    assert (agreed / "mlflow.db").read_bytes() == before
    assert "was moved" not in capsys.readouterr().out
