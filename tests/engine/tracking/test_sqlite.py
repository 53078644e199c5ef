"""MLflow's store in a file: whole or not at all, mended where it is half made, found again where it was moved to."""

import contextlib
import sqlite3
import threading
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from mlflow import MlflowClient

from engine.paths import sqlite_uri
from engine.tracking.queue import Artifacts, Open
from engine.tracking.sqlite import ready_store
from engine.tracking.store import MlflowStore, mlflow_client


def opened(folder: Path) -> MlflowStore:
    store = MlflowStore(sqlite_uri((folder / "mlflow.db").resolve()), "pulseledger")
    store.connect()
    return store


def client(folder: Path) -> MlflowClient:
    return MlflowClient(sqlite_uri((folder / "mlflow.db").resolve()))


def test_a_store_is_whole_at_the_moment_it_is_there(tmp_path: Path):
    """Five at once, each of which looks as soon as the file has its name."""
    wrong: list[str] = []

    def make() -> None:
        ready_store(tmp_path / "mlflow.db", mlflow_client)
        with sqlite3.connect(tmp_path / "mlflow.db") as store:
            tables = store.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
            if tables < 30 or store.execute("SELECT version_num FROM alembic_version").fetchone() is None:
                wrong.append(f"{tables} tables")

    threads = [threading.Thread(target=make) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert {path.name for path in tmp_path.iterdir()} <= {"mlflow.db", ".mlflow.db.lock"}


@pytest.mark.parametrize("tables", [0, 1, 15])
def test_a_store_that_is_half_made_is_made_again(tables: int, tmp_path: Path):
    """As a process that is killed among the steps of its making leaves it."""
    ready_store(tmp_path / "whole.db", mlflow_client)
    with sqlite3.connect(tmp_path / "whole.db") as whole, sqlite3.connect(tmp_path / "mlflow.db") as half:
        made = whole.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' LIMIT ?", (tables,)
        )
        for (sql,) in made.fetchall():
            half.execute(sql)
    store = opened(tmp_path)
    store.do(Open("a", 1, "a", {}, {}, None))
    assert (
        len(client(tmp_path).search_runs([client(tmp_path).get_experiment_by_name("pulseledger").experiment_id])) == 1
    )


def test_a_store_with_runs_is_never_taken_for_half_made(tmp_path: Path):
    opened(tmp_path).do(Open("a", 1, "a", {}, {}, None))
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.execute("UPDATE alembic_version SET version_num = 'of another release'")
    ready_store(tmp_path / "mlflow.db", mlflow_client)
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        assert store.execute("SELECT count(*) FROM runs").fetchone() == (1,)


def test_a_store_that_another_process_has_locked_stays_where_it_is(tmp_path: Path):
    ready_store(tmp_path / "mlflow.db", mlflow_client)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            ready_store(tmp_path / "mlflow.db", mlflow_client)
    assert {path.name for path in tmp_path.iterdir()} <= {"mlflow.db", ".mlflow.db.lock"}


@pytest.mark.parametrize("name", ["second", "a?b", "a#b", "a%20b c"])
def test_artifacts_of_a_moved_store_are_those_beside_it(name: str, tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / name
    first.mkdir()
    (tmp_path / "one.txt").write_text("1")
    (tmp_path / "two.txt").write_text("2")
    before = opened(first)
    before.do(Open("a", 1, "a", {}, {}, None))
    before.do(Artifacts("a", 2, [str(tmp_path / "one.txt")], None))
    first.rename(second)
    after = opened(second)
    after.do(Open("a", 3, "a", {}, {}, None))
    after.do(Open("b", 4, "b", {}, {}, None))
    after.do(Artifacts("b", 5, [str(tmp_path / "two.txt")], None))
    assert after.run_id("a") == before.run_id("a")
    for key, file in (("a", "one.txt"), ("b", "two.txt")):
        uri = client(second).get_run(after.run_id(key)).info.artifact_uri
        assert uri.startswith(f"file://{quote(str(second))}/artifacts/")
        assert (Path(unquote(uri.removeprefix("file://"))) / file).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "one.txt", "two.txt"])


def test_an_experiment_that_was_deleted_is_restored(tmp_path: Path):
    opened(tmp_path).do(Open("a", 1, "a", {}, {}, None))
    there = client(tmp_path).get_experiment_by_name("pulseledger")
    client(tmp_path).delete_experiment(there.experiment_id)
    opened(tmp_path).do(Open("b", 2, "b", {}, {}, None))
    assert client(tmp_path).get_experiment(there.experiment_id).lifecycle_stage == "active"
