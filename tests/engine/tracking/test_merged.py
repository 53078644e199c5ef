"""Several MLflow stores in one copy."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from engine.errors import PulseLedgerError
from engine.paths import sqlite_uri
from engine.tracking.merged import merge_stores, run_ids
from engine.tracking.tracker import open_tracker


def stored(path: Path, *keys: str, experiment: str = "pulseledger") -> Path:
    """A store with one finished run for each key, under the experiment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tracker = open_tracker(sqlite_uri(path), experiment, path.with_name("spool.jsonl"))
    for number, key in enumerate(keys):
        tracker.open_run(key, f"run {key}", {"which": key}, {"rate": number})
        for step in (1, 2):
            tracker.log(key, step, {"train/loss": step / 4, "val/macro_f1": number + step / 8})
        tracker.summary(key, {"final/personal/macro_f1": number / 2})
        tracker.finish(key, "COMPLETE")
    tracker.close()
    return path


def content(store: Path) -> dict[str, list[object]]:
    """Experiment -> its runs as a reader sees them."""
    client = MlflowClient(sqlite_uri(store))
    found: dict[str, list[object]] = {}
    for experiment in client.search_experiments():
        for run in sorted(client.search_runs([experiment.experiment_id]), key=lambda run: run.data.tags["which"]):
            curve = client.get_metric_history(run.info.run_id, "val/macro_f1")
            points = [(point.step, point.value) for point in curve]
            about = (run.info.run_id, run.info.run_name, run.info.status, run.data.params, run.data.metrics, points)
            found.setdefault(experiment.name, []).append((*about, run.data.tags, run.info.artifact_uri))
    return found


def test_all_runs_of_all_stores_are_in_the_copy_and_the_stores_stay_as_they_were(tmp_path: Path):
    one = stored(tmp_path / "one" / "mlflow.db", "a/0", "a/1")
    two = stored(tmp_path / "two" / "mlflow.db", "b/0")
    before = [path.read_bytes() for path in (one, two)]
    merge_stores({"one": one, "two": two}, tmp_path / "both.db")
    assert [path.read_bytes() for path in (one, two)] == before
    both = content(tmp_path / "both.db")
    assert both == {"one / pulseledger": content(one)["pulseledger"], "two / pulseledger": content(two)["pulseledger"]}
    assert {name: len(runs) for name, runs in both.items()} == {"one / pulseledger": 2, "two / pulseledger": 1}
    # again, over the file of the last time, and of another order
    merge_stores({"two": two, "one": one}, tmp_path / "both.db")
    assert content(tmp_path / "both.db") == both


def test_what_is_no_store_is_refused_by_name(tmp_path: Path):
    one = stored(tmp_path / "one" / "mlflow.db", "a/0")
    (tmp_path / "no.db").write_text("no database, but text that is long enough to be one")
    for broken in ("no.db", "absent.db"):
        with pytest.raises(PulseLedgerError, match=f"{broken}: is no MLflow store"):
            merge_stores({"one": one, "x": tmp_path / broken}, tmp_path / "both.db")


def test_runs_are_found_by_their_keys_without_mlflow(tmp_path: Path):
    store = stored(tmp_path / "mlflow.db", "s/x", "s/x/0", "s/x/1", "s/xy/0")
    found = run_ids(store, "s/x")
    assert set(found) == {"s/x", "s/x/0", "s/x/1"}
    runs = MlflowClient(sqlite_uri(store)).search_runs(["1"])
    assert {run for _, run in found.values()} < {run.info.run_id for run in runs}
    assert {experiment for experiment, _ in found.values()} == {"1"}
    assert run_ids(tmp_path / "absent.db", "s/x") == {}
