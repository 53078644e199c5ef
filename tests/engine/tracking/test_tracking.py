"""What a run leaves in an MLflow store, whatever happened to it on the way."""

import contextlib
import http.server
import json
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine.tracking.tracking import (
    SPOOL,
    Tracker,
    experiment_id,
    flat_params,
    ledger_tags,
    round_metrics,
)
from reference import ROOT, Interrupted, StopAfter, as_run
from safetensors.numpy import load_file

from engine.config import RunConfig, config_hash
from engine.errors import HospitalError, PulseLedgerError
from engine.experiment import Place
from engine.model import build_network
from engine.oracles.torch import TorchOracle
from engine.settings import dotted_keys, load_yaml, parse
from engine.tracked import run_tracked

ROUNDS = 4
METRICS_OF_ROUNDS = {"train", "val", "fl", "perf", "ledger"}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def make(tiny_config):
    def build(name: str, **keys: Any) -> RunConfig:
        base = {"name": name, "tracking.backend": "mlflow", "federation.rounds": ROUNDS}
        return tiny_config(**base | keys)

    return build


@pytest.fixture(scope="module")
def client(store: Path):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{store / 'mlflow.db'}")


def runs_called(client: Any, pattern: str) -> list[Any]:
    experiment = client.get_experiment_by_name("pulseledger").experiment_id
    return client.search_runs([experiment], f"tags.folder LIKE '{pattern}'")


def steps(client: Any, run: Any, metric: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run.info.run_id, metric)]


# --- A run that goes well ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracked(make, store: Path, client) -> tuple[RunConfig, dict[str, Any], Any]:
    config = make("well", **{"ledger.backend": "embedded"})
    result = run_tracked(config, store / "well", store)
    (run,) = runs_called(client, "well")
    return config, result, run


def test_parameters_are_the_configuration_with_dotted_names(tracked):
    config, _, run = tracked
    assert run.data.params == {key: str(value) for key, value in flat_params(config).items()}
    assert run.data.params["federation.perfedavg.alpha"] == str(config.federation.perfedavg.alpha)
    assert run.data.params["cohort.hospitals"] == "3"
    keys = dotted_keys(RunConfig)
    # a key that holds a mapping, such as least numbers of real beats, is one parameter for each entry
    found = {next(k for k in keys if f"{name}.".startswith(f"{k}.")) for name in flat_params(config)}
    assert found == set(keys) - {"out"}


def test_tags_lead_to_source_configuration_and_ledger(tracked):
    config, result, run = tracked
    tags = run.data.tags
    assert tags["config_hash"] == result["config_hash"] == config_hash(config)
    assert tags["model_hash"] == result["model_hash"]
    assert tags["ledger.head"] == result["ledger"]["head"]
    assert tags["ledger.contract"] == result["ledger"]["contract"]
    if (ROOT / ".git").exists():
        assert len(tags["mlflow.source.git.commit"]) == 40
    assert (run.info.status, tags["state"], tags["seed"]) == ("FINISHED", "COMPLETE", "0")
    assert "degraded" not in tags


def test_every_round_is_one_point_of_each_curve(tracked, client):
    _, result, run = tracked
    points = client.get_metric_history(run.info.run_id, "val/macro_f1")
    assert [p.step for p in points] == [1, 2, 3, 4]
    assert [p.value for p in points] == [row["validation"]["macro_f1"] for row in result["rounds"]]
    for metric in round_metrics(result["rounds"][0]):
        assert steps(client, run, metric) == [1, 2, 3, 4], metric


def test_final_scores_are_single_points(tracked, client):
    _, result, run = tracked
    personal, common = result["final"]["personal"], result["final"]["global"]
    expected = {
        "final/macro_f1": personal["macro_f1"],
        "final/recall/V": personal["recall"]["V"],
        "final/hurt_share": personal["hurt_share"],
        "final_global/accuracy": common["accuracy"],
        "final/ledger_gas_per_round": result["ledger"]["gas_per_round"],
        "final/ledger_overhead": result["ledger"]["overhead_share"],
        "baseline/local_majority_accuracy": result["cohort"]["local_majority_accuracy"],
    }
    for metric, value in expected.items():
        (point,) = client.get_metric_history(run.info.run_id, metric)
        assert point.value == pytest.approx(value), metric
    assert {m for m in run.data.metrics if m.startswith("final/")} > {"final/accuracy", "final/total_s"}


def test_artifacts_and_the_dataset_are_there_without_a_beat(tracked, client):
    _, result, run = tracked
    names = {a.path for a in client.list_artifacts(run.info.run_id)}
    assert names == {"result.json", "config.yaml", "confusion.png"}
    copy = client.download_artifacts(run.info.run_id, "config.yaml")
    assert parse(RunConfig, load_yaml(copy), copy) == as_run(tracked[0], result["config"]["execution"]["oracle"])
    (dataset,) = [each.dataset for each in run.inputs.dataset_inputs]
    assert dataset.name == "simulated"
    assert result["cohort"]["digest"].startswith(dataset.digest)
    assert len(dataset.digest) >= 32
    profile = json.loads(dataset.profile)
    assert profile["num_rows"] == result["cohort"]["beats"] == sum(profile["classes"].values())
    assert profile["classes"] == result["cohort"]["classes"]


def test_the_note_says_how_to_do_it_again(tracked):
    _, _, run = tracked
    note = run.data.tags["mlflow.note.content"]
    assert "\n\n    pulseledger run config.yaml\n\n" in note
    assert run.data.tags.get("mlflow.source.git.commit", "") in note


def test_hospitals_are_single_points(tracked):
    _, result, run = tracked
    for row in result["final"]["personal"]["per_hospital"]:
        assert run.data.metrics[f"hospital/{row['id']:02d}/macro_f1"] == row["macro_f1"]


def test_a_second_look_writes_nothing_twice(tracked, make, store: Path, client):
    config, result, run = tracked
    assert run_tracked(config, store / "well", store) == result
    (again,) = runs_called(client, "well")
    assert again.info.run_id == run.info.run_id
    assert again.info.status == "FINISHED"
    for metric in again.data.metrics:
        assert len(steps(client, again, metric)) == (4 if metric.split("/")[0] in METRICS_OF_ROUNDS else 1), metric


# --- Interruptions and failures ---------------------------------------------------------------------------------------


def test_an_interrupted_run_is_one_run_with_each_step_once(make, store: Path, client):
    config = make("it's interrupted")  # the name in the key must not end a filter's string
    folder = store / "it's interrupted"
    for stop in (2, 4):
        with pytest.raises(Interrupted):
            run_tracked(config, folder, store, Place(observers=(StopAfter(stop),)))
        (run,) = runs_called(client, "it_s interrupted")
        assert run.info.status == "FAILED"
        assert run.data.tags["state"] == "FAIL"
        assert run.data.tags["error"].startswith("Interrupted")
    run_tracked(config, folder, store)
    (run,) = runs_called(client, "it_s interrupted")
    assert run.info.status == "FINISHED"
    assert run.data.tags["state"] == "COMPLETE"
    for metric in ("train/loss", "val/macro_f1", "val/recall/V", "perf/round_s"):
        assert steps(client, run, metric) == [1, 2, 3, 4], metric
    assert steps(client, run, "final/macro_f1") == [0]


def test_what_an_attempt_could_not_send_is_sent_by_the_next(make, store: Path, client, monkeypatch):
    """The process ended with points in the buffer: they are read from the checkpoint."""
    config, folder = make("unsent"), store / "unsent"
    with monkeypatch.context() as patch:
        patch.setattr("engine.tracking.tracking.Tracker.log", lambda *args: None)
        with pytest.raises(Interrupted):
            run_tracked(config, folder, store, Place(observers=(StopAfter(3),)))
    (run,) = runs_called(client, "unsent")
    assert steps(client, run, "val/macro_f1") == []
    run_tracked(config, folder, store)
    assert steps(client, run, "val/macro_f1") == [1, 2, 3, 4]


def test_a_failed_run_says_why(make, store: Path, client):
    with pytest.raises(HospitalError):
        run_tracked(make("fails", **{"federation.learning_rate": 1e30}), store / "fails", store)
    (run,) = runs_called(client, "fails")
    assert run.info.status == "FAILED"
    assert "hospital 0, round 1, train" in run.data.tags["error"]


def test_a_degraded_run_is_tagged(tracked):
    _, result, _ = tracked
    rows = [dict(row, lost=["hospital 1, round 2, train: boom"]) for row in result["rounds"]]
    assert ledger_tags({**result, "rounds": rows})["degraded"] == "true"


def test_the_number_of_an_experiment_leads_to_its_page(tracked, store: Path):
    _, _, run = tracked
    uri = f"sqlite:///{store / 'mlflow.db'}"
    assert experiment_id(uri, "pulseledger") == run.info.experiment_id
    with pytest.raises(PulseLedgerError, match="has no experiment 'other'"):
        experiment_id(uri, "other")


# --- Stores that are not there ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://127.0.0.1:9", "Connection refused"),
        ("sqlite:////nonexistent/folder/mlflow.db", "its folder does not exist"),
        ("ftp://somewhere/else", "give sqlite:///PATH"),
        ("mlruns", "give sqlite:///PATH"),
    ],
)
def test_a_store_that_cannot_be_is_refused_before_any_work(make, tmp_path: Path, uri: str, reason: str):
    with pytest.raises(PulseLedgerError) as error:
        run_tracked(make("nowhere", **{"tracking.uri": uri}), tmp_path / "run", tmp_path)
    text = str(error.value)
    assert text.startswith(f"tracking.uri: no MLflow store at {uri} (")
    assert reason in text
    assert text.endswith(".")
    assert "\n" not in text
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_no_store_is_refused(make, tmp_path: Path):
    (tmp_path / "mlflow.db").write_text("Dear diary, " * 100)
    with pytest.raises(PulseLedgerError, match="it is not an SQLite file"):
        run_tracked(make("diary"), tmp_path / "run", tmp_path)


def test_a_server_that_is_no_mlflow_does_not_stop_the_training(make, tmp_path: Path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        uri = f"http://127.0.0.1:{server.server_port}"
        told: list[str] = []
        place = Place(note=told.append)
        result = run_tracked(make("deaf", **{"tracking.uri": uri}), tmp_path / "run", tmp_path, place)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert len(result["rounds"]) == ROUNDS
    problems = [text for text in told if text.startswith("MLflow: ")]
    assert len(problems) == 1
    assert f"no MLflow store at {uri}" in problems[0]


class Silent(http.server.BaseHTTPRequestHandler):
    """Has nothing, and says nothing of it."""

    def do_GET(self) -> None:
        self.send_error(404)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


# --- A store that is away for a while ---------------------------------------------------------------------------------


class Faulty:
    """A client whose calls go wrong while `broken` is set; with `late`, only after the store has done the work."""

    def __init__(self, client: Any, late: bool = False) -> None:
        self.client, self.broken, self.late = client, False, late

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def call(*args: Any, **keys: Any) -> Any:
            if self.broken and self.late:
                method(*args, **keys)
            if self.broken:
                raise ConnectionError("nobody answers")
            return method(*args, **keys)

        return call


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """The tracker's clock."""
    clock = [1000.0]
    monkeypatch.setattr("engine.tracking.tracking.time.monotonic", lambda: clock[0])
    return clock


def faulty(store: Path, folder: Path, late: bool = False) -> tuple[Tracker, Faulty]:
    tracker = Tracker(f"sqlite:///{store / 'mlflow.db'}", "pulseledger", str(folder / SPOOL))
    tracker._client = Faulty(tracker._client, late)
    return tracker, tracker._client


def by_key(client: Any, key: str) -> Any:
    experiment = client.get_experiment_by_name("pulseledger").experiment_id
    found = client.search_runs([experiment], f"tags.`pulseledger.key` = '{key}'")
    assert len(found) == 1
    return found[0]


def test_what_a_store_did_not_take_is_sent_once_it_is_back(tracked, store: Path, client, tmp_path: Path, now):
    tracker, connection = faulty(store, tmp_path)
    tracker.open_run("away/1", "one", {"a": "b"}, {"p": 1})
    tracker.log("away/1", 1, {"train/loss": 0.5})
    tracker.flush()
    assert not (tmp_path / SPOOL).exists()
    connection.broken = True
    now[0] += 2  # more than a flush apart
    tracker.log("away/1", 2, {"train/loss": 0.25})
    assert tracker.open_run("away/2", "two", {}, {"p": 2}, "away/1") is None
    for step in (1, 2):
        tracker.log("away/2", step, {"train/loss": 1.0 / step})
    tracker.summary("away/2", {"final/accuracy": 0.75})
    tracker.finish("away/2", "PRUNED")
    assert tracker.waiting() == 6
    assert len((tmp_path / SPOOL).read_text().splitlines()) == 6
    assert f"6 entries wait in {tmp_path / SPOOL}" in tracker.state()
    connection.broken = False
    tracker.tags("away/1", {"c": "d"})  # too early: the store is tried again a second after it was away
    assert tracker.waiting() == 7
    now[0] += 1
    tracker.flush()
    assert (tracker.waiting(), tracker.state()) == (0, "")
    assert not (tmp_path / SPOOL).exists()
    first, second = by_key(client, "away/1"), by_key(client, "away/2")
    assert steps(client, first, "train/loss") == [1, 2]
    assert steps(client, second, "train/loss") == [1, 2]
    assert steps(client, second, "final/accuracy") == [0]
    assert second.data.tags["mlflow.parentRunId"] == first.info.run_id
    assert (second.info.status, second.data.params) == ("KILLED", {"p": "2"})
    assert first.data.tags["c"] == "d"


def test_the_next_process_sends_what_the_last_one_left(tracked, store: Path, client, tmp_path: Path, now):
    tracker, connection = faulty(store, tmp_path)
    tracker.open_run("left/1", "one", {}, {})
    tracker.log("left/1", 1, {"train/loss": 0.5})
    tracker.flush()
    connection.broken = True
    now[0] += 2
    for step in (2, 3):
        tracker.log("left/1", step, {"train/loss": 0.5})
    assert "wait in" in tracker.close()
    with (tmp_path / SPOOL).open("a") as file:
        file.write('["points", "left/1", 17')  # killed while it wrote
    again, _ = faulty(store, tmp_path)
    assert again.waiting() == 0
    assert not (tmp_path / SPOOL).exists()
    again.open_run("left/1", "one", {}, {})
    for step in (1, 2, 3, 4):  # a resumed run sends its whole history
        again.log("left/1", step, {"train/loss": 0.5})
    assert again.close() == ""
    assert steps(client, by_key(client, "left/1"), "train/loss") == [1, 2, 3, 4]


def test_a_call_whose_answer_was_lost_is_not_written_twice(tracked, store: Path, client, tmp_path: Path, now):
    tracker, connection = faulty(store, tmp_path, late=True)
    connection.broken = True
    tracker.open_run("lost/1", "one", {}, {})
    tracker.log("lost/1", 1, {"train/loss": 0.5})
    for _ in range(2):  # the search, then the run
        now[0] += 60
        tracker.flush()
    connection.broken = False
    now[0] += 60
    tracker.flush()
    connection.broken = True
    now[0] += 2
    tracker.log("lost/1", 2, {"train/loss": 0.5})
    tracker.summary("lost/1", {"final/accuracy": 0.5})
    connection.broken = False
    now[0] += 60
    tracker.close()
    run = by_key(client, "lost/1")
    assert steps(client, run, "train/loss") == [1, 2]
    assert steps(client, run, "final/accuracy") == [0]


def test_waiting_doubles_up_to_a_minute(tracked, store: Path, tmp_path: Path, now):
    tracker, connection = faulty(store, tmp_path)
    connection.broken = True
    tracker.open_run("double/1", "one", {}, {})
    waits = []
    for _ in range(9):
        waits.append(tracker._next_try - now[0])
        now[0] = tracker._next_try
        tracker.flush()
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_what_is_refused_for_good_does_not_hold_up_the_rest(tracked, store: Path, client, tmp_path: Path):
    tracker, _ = faulty(store, tmp_path)
    tracker.open_run("refused/1", "one", {}, {})
    with pytest.raises(PulseLedgerError, match="recall@5"):
        tracker.summary("refused/1", {"recall@5": 0.5})
    with pytest.raises(PulseLedgerError, match="FileNotFoundError"):
        tracker.artifacts("refused/1", [str(tmp_path / "no.txt")])
    with pytest.raises(PulseLedgerError, match="no run was opened for refused/2"):
        tracker.summary("refused/2", {"final/accuracy": 0.5})
    tracker.summary("refused/1", {"final/accuracy": 0.5})
    assert tracker.close() == ""
    assert by_key(client, "refused/1").data.metrics == {"final/accuracy": 0.5}


class Serving:
    """`mlflow server` on a store, in a process of its own."""

    def __init__(self, store: Path, port: int) -> None:
        words = [
            "--backend-store-uri",
            f"sqlite:///{store / 'mlflow.db'}",
            "--artifacts-destination",
            str(store / "up"),
        ]
        self.uri = f"http://127.0.0.1:{port}"
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
        ]
        self.process = subprocess.Popen([*command, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait(self) -> None:
        end = time.monotonic() + 90
        while time.monotonic() < end:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except OSError:
                time.sleep(0.2)
        raise TimeoutError(self.uri)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def test_a_resume_goes_on_without_the_server(make, store: Path, client, tracked, tmp_path: Path):
    """Nobody is there at the start: refused at the first one, but not where a run was begun before."""
    away = make("back", **{"tracking.uri": "http://127.0.0.1:9", "tracking.experiment": "back"})
    with pytest.raises(PulseLedgerError, match="no MLflow store"):
        run_tracked(away, tmp_path / "run", tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".id").write_text("begun")
    told: list[str] = []
    result = run_tracked(away, tmp_path / "run", tmp_path, Place(note=told.append))
    assert len(result["rounds"]) == ROUNDS
    assert len([text for text in told if text.startswith("MLflow: the store is away")]) == 1
    lines = [json.loads(line) for line in (tmp_path / "run" / SPOOL).read_text().splitlines()]
    assert [line[3][0] for line in lines if line[0] == "points"] == [1, 2, 3, 4]
    back = make("back", **{"tracking.uri": f"sqlite:///{store / 'mlflow.db'}", "tracking.experiment": "back"})
    assert run_tracked(back, tmp_path / "run", tmp_path) == result
    (run,) = client.search_runs([client.get_experiment_by_name("back").experiment_id])
    for metric in round_metrics(result["rounds"][0]):
        assert steps(client, run, metric) == [1, 2, 3, 4], metric
    assert steps(client, run, "perf/rss_mb") == [1, 2, 3, 4]  # only the first process knew them
    assert steps(client, run, "final/macro_f1") == [0]
    assert run.info.status == "FINISHED"
    assert not (tmp_path / "run" / SPOOL).exists()


def test_a_store_that_is_locked_at_the_start_is_opened_later(tracked, store: Path, client, tmp_path: Path):
    """A busy disk, another process that writes: to give up there would lose every run of a driver."""
    file = store / "mlflow.db"
    script = (
        "import sys\n"
        "from engine.tracking.tracking import Tracker\n"
        f"tracker = Tracker('sqlite:///{file}', 'locked', '{tmp_path / SPOOL}')\n"
        "tracker.open_run('locked/1', 'one', {}, {})\n"
        "print(tracker.state(), flush=True)\n"
        "sys.stdin.readline()\n"
        "print(tracker.close())\n"
    )
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        child = subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        said = child.stdout.readline()
        holder.execute("COMMIT")
    rest, _ = child.communicate("\n", timeout=60)
    assert "database is locked" in said
    assert "1 entries wait" in said
    assert rest.strip() == ""
    assert len(client.search_runs([client.get_experiment_by_name("locked").experiment_id])) == 1


def test_two_trackers_of_one_spool_do_not_write_at_a_time(tracked, store: Path, client, tmp_path: Path, now):
    """The tracker of a killed driver lives on for a moment: both would make a run, and lose the other's spool."""
    old, connection = faulty(store, tmp_path)
    old.open_run("twice/1", "one", {}, {})
    connection.broken = True
    old.log("twice/1", 1, {"train/loss": 0.5})
    now[0] += 2
    old.flush()
    left = (tmp_path / SPOOL).read_text()
    new = Tracker(f"sqlite:///{store / 'mlflow.db'}", "pulseledger", str(tmp_path / SPOOL))
    assert new.open_run("twice/1", "one", {}, {}) is None
    new.log("twice/1", 2, {"train/loss": 0.5})
    assert "the tracker of an earlier process still writes" in new.state()
    assert new.lacking({"twice/1": ("COMPLETE", "", 0)}) is None
    assert (tmp_path / SPOOL).read_text() == left
    old._lock.release()  # as the end of its process does
    assert new.close() == ""
    assert steps(client, by_key(client, "twice/1"), "train/loss") == [1, 2]  # also what the old one had spooled
    assert not (tmp_path / SPOOL).exists()


def test_a_spool_that_holds_what_is_refused_does_not_stop_the_next_process(tracked, store: Path, client, tmp_path):
    (tmp_path / SPOOL).write_text('["tags", "orphan/1", 17, [{"a": "b"}]]\n')  # its run was never opened
    tracker, _ = faulty(store, tmp_path)
    with pytest.raises(PulseLedgerError, match="no run was opened for orphan/1"):
        tracker.open_run("orphan/2", "two", {}, {})
    tracker.log("orphan/2", 1, {"train/loss": 0.5})
    assert tracker.close() == ""
    assert steps(client, by_key(client, "orphan/2"), "train/loss") == [1]


def test_what_a_run_lacks_is_found(tracked, store: Path, tmp_path: Path, now):
    tracker, connection = faulty(store, tmp_path)
    tracker.open_run("lacks/1", "one", {}, {})
    for step in (1, 2):
        tracker.log("lacks/1", step, {"train/loss": 0.5})
    tracker.tags("lacks/1", {"reason": "because"})
    whole = {"lacks/1": ("PRUNED", "because", 2)}
    assert tracker.lacking(whole) == ["lacks/1"]  # it has not ended
    tracker.finish("lacks/1", "PRUNED")
    assert tracker.lacking(whole) == []
    for values in (("FAIL", "because", 2), ("PRUNED", "", 2), ("PRUNED", "because", 3)):
        assert tracker.lacking({"lacks/1": values}) == ["lacks/1"]
    assert tracker.lacking({"lacks/2": ("COMPLETE", "", 0), **whole}) == ["lacks/2"]
    connection.broken = True
    assert tracker.lacking(whole) is None


@pytest.mark.long
def test_a_run_goes_on_while_the_server_is_away(make, store: Path, client, tracked, tmp_path: Path, free_port: int):
    """A real server, stopped after round 2 and started again after the run."""
    from mlflow import MlflowClient

    serving = Serving(store, free_port)
    told: list[str] = []
    try:
        serving.wait()

        class Stop:
            def round_finished(self, record: Any) -> None:
                if record.round == 2:
                    serving.end()

        config = make("away", **{"tracking.uri": serving.uri, "tracking.experiment": "over http"})
        place = Place(observers=(Stop(),), note=told.append)
        result = run_tracked(config, tmp_path / "run", tmp_path, place)
    finally:
        serving.end()
    assert len(result["rounds"]) == ROUNDS
    (problem,) = [text for text in told if text.startswith("MLflow: ")]
    assert re.search(rf"the store is away .* entries wait in {re.escape(str(tmp_path / 'run' / SPOOL))}", problem)
    serving = Serving(store, free_port)
    try:
        serving.wait()
        assert run_tracked(config, tmp_path / "run", tmp_path) == result
        server = MlflowClient(serving.uri)
        (run,) = server.search_runs([server.get_experiment_by_name("over http").experiment_id])
        assert (run.info.status, run.data.tags["state"]) == ("FINISHED", "COMPLETE")
        for metric in round_metrics(result["rounds"][0]):
            assert steps(server, run, metric) == [1, 2, 3, 4], metric
        assert {m: steps(server, run, m) for m in run.data.metrics if m.startswith("final/")}
        assert all(steps(server, run, m) == [0] for m in run.data.metrics if m.startswith("final/"))
        assert {a.path for a in server.list_artifacts(run.info.run_id)} == {
            "result.json",
            "config.yaml",
            "confusion.png",
        }
    finally:
        serving.end()
    assert not (tmp_path / "run" / SPOOL).exists()


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


# --- Models and the machine -------------------------------------------------------------------------------------------


def test_the_logged_model_gives_the_scores_of_the_oracle(tracked, store: Path, client, tmp_path: Path):
    import mlflow.pytorch
    import torch

    _, result, run = tracked
    tracker, _ = faulty(store, tmp_path)
    for _ in range(2):  # the second time finds it there
        tracker.model(run.data.tags["pulseledger.key"], str(store / "well"))
    assert tracker.close() == ""
    run = client.get_run(run.info.run_id)
    assert [m.model_id for m in run.outputs.model_outputs] == [run.data.tags["model.id"]]
    model = client.get_logged_model(run.data.tags["model.id"])
    folder = Path(urllib.request.url2pathname(model.artifact_location.removeprefix("file://")))
    assert (folder / "data" / "model.pt2").exists()  # no pickle
    example = np.array(json.loads((folder / "input_example.json").read_text()), np.float32)
    assert example.shape == (2, 252 + 4)
    assert "torch==" in (folder / "requirements.txt").read_text()

    loaded = mlflow.pytorch.load_model(folder.as_uri())
    config = RunConfig.model_validate(result["config"])
    network = build_network(config.model, 252, 4, 5)
    tensors = load_file(store / "well" / "model.safetensors")
    params = np.concatenate([tensors[name].ravel() for name, _ in network.layout])
    for rows in (1, 2, 33):  # the batch is free
        x = np.random.default_rng(rows).standard_normal((rows, 256), dtype=np.float32)
        with torch.inference_mode():
            scores = loaded(torch.from_numpy(x)).numpy()
        expected = TorchOracle(network).scores(params, x[:, :252], x[:, 252:])
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    predicted = mlflow.pyfunc.load_model(folder.as_uri()).predict(example)
    np.testing.assert_allclose(
        predicted, TorchOracle(network).scores(params, example[:, :252], example[:, 252:]), rtol=1e-5, atol=1e-6
    )


def test_the_machine_is_watched_until_the_run_ends(tracked, store: Path, client, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    for part in (1, 2):  # the second process goes on with the steps of the first
        tracker, _ = faulty(store, tmp_path)
        tracker.open_run("machine/1", "study", {}, {})
        tracker.system_metrics("machine/1")
        end = time.monotonic() + 20
        while time.monotonic() < end:
            points = steps(client, by_key(client, "machine/1"), "system/cpu_utilization_percentage")
            if len(points) >= 2 * part:
                break
            time.sleep(0.1)
        tracker.finish("machine/1", "COMPLETE")
        tracker.close()
    points = steps(client, by_key(client, "machine/1"), "system/cpu_utilization_percentage")
    assert points == list(range(len(points)))
    assert len(points) >= 4
    assert not [t for t in threading.enumerate() if t.name == "SystemMetricsMonitor"]
