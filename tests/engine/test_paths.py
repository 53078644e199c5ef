"""Paths in settings: meant from the file's folder, absolute inside, relative to their own folder where they are written."""

import shutil
from pathlib import Path

import pytest
import sqlalchemy

from engine.config import RunConfig
from engine.homes import claim, home_of
from engine.paths import PATHS, STORES, TABLES, anchored, load_config, portable, sqlite_path, sqlite_uri, write_config
from engine.settings import dotted_keys, parse


def test_every_path_is_a_key():
    assert {*PATHS, *TABLES, *STORES} <= set(dotted_keys(RunConfig))


def test_relative_paths_are_meant_from_the_file_s_folder(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("HOME", "/home/somebody")
    values = {
        "out": "results",
        "data": {"folder": "../recs", "patients": "who.csv", "other": {"folder": "/abs/recs"}},
        "ledger": {"keystore": "~/keys", "key_file": None},
        "tracking": {"uri": "sqlite:///store.db"},
        "name": "results",
    }
    assert anchored(values, Path("/a/b")) == {
        "out": "/a/b/results",
        "data": {"folder": "/a/recs", "patients": "/a/b/who.csv", "other": {"folder": "/abs/recs"}},
        "ledger": {"keystore": "/home/somebody/keys", "key_file": None},
        "tracking": {"uri": "sqlite:////a/b/store.db"},
        "name": "results",
    }
    assert anchored({"data.folder": "recs"}, Path("/a")) == {"data.folder": "/a/recs"}
    assert anchored({"tracking": {"uri": "http://host:1"}, "data": {"patients": r"^(\d+)_"}}, Path("/a")) == {
        "tracking": {"uri": "http://host:1"},
        "data": {"patients": r"^(\d+)_"},
    }


def test_what_lies_in_its_own_folder_moves_with_it(tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    values = {
        "data": {"source": "folder", "folder": str(first / "recs")},
        "ledger": {"keystore": str(tmp_path / "keys")},
        "tracking": {"uri": sqlite_uri(first / "own.db")},
    }
    write_config(first / "config.yaml", parse(RunConfig, values, "test"))
    first.rename(second)
    moved = parse(RunConfig, load_config(second / "config.yaml"), "test")
    assert moved.data.folder == str(second / "recs")
    assert moved.tracking.uri == sqlite_uri(second / "own.db")
    assert moved.ledger.keystore == str(tmp_path / "keys")
    assert portable({"data": {"folder": str(second)}}, second) == {"data": {"folder": "./."}}


@pytest.mark.parametrize("copied", [False, True])
def test_what_lies_around_a_folder_moves_with_it(copied: bool, tmp_path: Path):
    """A project's folder holds records, a store and a run; what stays elsewhere is still meant."""
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "recs").mkdir(parents=True)
    (first / "store.db").touch()
    (tmp_path / "keys").mkdir()
    values = {
        "data": {"source": "folder", "folder": str(first / "recs")},
        "ledger": {"keystore": str(tmp_path / "keys")},
        "tracking": {"uri": sqlite_uri(first / "store.db")},
    }
    claim(first / "run", "run", ())
    write_config(first / "run" / "config.yaml", parse(RunConfig, values, "test"))
    shutil.copytree(first, second) if copied else first.rename(second)
    moved = parse(RunConfig, load_config(second / "run" / "config.yaml"), "test")
    assert moved.data.folder == str(second / "recs")
    assert moved.tracking.uri == sqlite_uri(second / "store.db")
    assert moved.ledger.keystore == str(tmp_path / "keys")
    alone = tmp_path / "elsewhere" / "run"
    shutil.copytree(second / "run", alone)
    write_config(second / "run" / "config.yaml", moved)  # as a resume does
    assert home_of(second / "run") == second / "run"
    assert load_config(alone / "config.yaml")["data"]["folder"] == str(first / "recs")


@pytest.mark.parametrize("name", ["plain", "a?b", "a#b", "a%20b", "a b", "ä", "a&b=c"])
def test_an_address_names_its_file_whatever_signs_it_has(name: str, tmp_path: Path):
    """As SQLAlchemy reads it, which Optuna and MLflow go by."""
    path = tmp_path / name / "x.db"
    path.parent.mkdir()
    assert sqlite_path(sqlite_uri(path)) == path
    engine = sqlalchemy.create_engine(sqlite_uri(path))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE t (a INT)"))
    engine.dispose()
    assert [file.name for file in path.parent.iterdir()] == ["x.db"]
