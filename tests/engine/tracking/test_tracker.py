"""The tracker before a real store: what it could not write is written later, once, also by another process."""

import contextlib
import json
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
from reference import ROOT
from safetensors.numpy import load_file

from engine.clock import JumpingClock
from engine.errors import PulseLedgerError
from engine.experiment import run
from engine.model import build_network
from engine.oracles.torch import TorchOracle
from engine.tracking.curves import VIEW, final_paths
from engine.tracking.queue import SPOOL
from engine.tracking.store import MlflowStore, mlflow_client, read_runs, runs_address
from engine.tracking.tracker import Tracker


class Faulty:
    """MLflow's client, whose calls go wrong while `broken` is set; with `late`, only after the store did the work."""

    def __init__(self, late: bool = False) -> None:
        self.broken, self.late = False, late
        self.client: Any = None

    def connect(self, uri: str) -> "Faulty":
        self.client = mlflow_client(uri)
        return self

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def call(*args: Any, **keys: Any) -> Any:
            if self.broken and self.late:
                method(*args, **keys)
            if self.broken:
                raise ConnectionError("nobody answers")
            return method(*args, **keys)

        return call


class Tried:
    """Makes trackers of one spool, with a clock of their own and a connection that can break."""

    def __init__(self, store: Path, folder: Path) -> None:
        self.uri, self.folder = f"sqlite:///{store / 'mlflow.db'}", folder
        self.clock = JumpingClock()

    def tracker(self, late: bool = False, **keys: Any) -> tuple[Tracker, Faulty]:
        connection = Faulty(late)
        opened = MlflowStore(self.uri, "pulseledger", self.folder, connection.connect, **keys)
        return Tracker(opened, self.folder / SPOOL, self.clock), connection


@pytest.fixture
def tried(store: Path, tmp_path: Path) -> Tried:
    return Tried(store, tmp_path)


# --- A store that is away for a while ---------------------------------------------------------------------------------


def test_what_a_store_did_not_take_is_sent_once_it_is_back(tried, look, tmp_path: Path):
    tracker, connection = tried.tracker()
    tracker.open_run("away/1", "one", {"a": "b"}, {"p": 1})
    tracker.log("away/1", 1, {"train/loss": 0.5})
    tracker.flush()
    assert not (tmp_path / SPOOL).exists()
    connection.broken = True
    tried.clock.sleep(2)  # more than a flush apart
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
    tried.clock.sleep(1)
    tracker.flush()
    assert (tracker.waiting(), tracker.state()) == (0, "")
    assert not (tmp_path / SPOOL).exists()
    first, second = look.by_key("away/1"), look.by_key("away/2")
    assert look.steps(first, "train/loss") == [1, 2]
    assert look.steps(second, "train/loss") == [1, 2]
    assert look.steps(second, "final/accuracy") == [0]
    assert second.data.tags["mlflow.parentRunId"] == first.info.run_id
    assert (second.info.status, second.data.params) == ("KILLED", {"p": "2"})
    assert first.data.tags["c"] == "d"


def test_the_next_process_sends_what_the_last_one_left(tried, look, tmp_path: Path):
    tracker, connection = tried.tracker()
    tracker.open_run("left/1", "one", {}, {})
    tracker.log("left/1", 1, {"train/loss": 0.5})
    tracker.flush()
    connection.broken = True
    tried.clock.sleep(2)
    for step in (2, 3):
        tracker.log("left/1", step, {"train/loss": 0.5})
    assert "wait in" in tracker.close()
    with (tmp_path / SPOOL).open("a") as file:
        file.write('["points", "left/1", 17')  # killed while it wrote
    again, _ = tried.tracker()
    assert again.waiting() == 0
    assert not (tmp_path / SPOOL).exists()
    again.open_run("left/1", "one", {}, {})
    for step in (1, 2, 3, 4):  # a resumed run sends its whole history
        again.log("left/1", step, {"train/loss": 0.5})
    assert again.close() == ""
    assert look.steps(look.by_key("left/1"), "train/loss") == [1, 2, 3, 4]


def test_a_call_whose_answer_was_lost_is_not_written_twice(tried, look, tmp_path: Path):
    tracker, connection = tried.tracker(late=True)
    connection.broken = True
    tracker.open_run("lost/1", "one", {}, {})
    tracker.log("lost/1", 1, {"train/loss": 0.5})
    for _ in range(2):  # the search, then the run
        tried.clock.sleep(60)
        tracker.flush()
    connection.broken = False
    tried.clock.sleep(60)
    tracker.flush()
    connection.broken = True
    tried.clock.sleep(2)
    tracker.log("lost/1", 2, {"train/loss": 0.5})
    tracker.summary("lost/1", {"final/accuracy": 0.5})
    connection.broken = False
    tried.clock.sleep(60)
    tracker.close()
    run = look.by_key("lost/1")
    assert look.steps(run, "train/loss") == [1, 2]
    assert look.steps(run, "final/accuracy") == [0]


def test_what_is_refused_for_good_does_not_hold_up_the_rest(tried, look, tmp_path: Path):
    tracker, _ = tried.tracker()
    tracker.open_run("refused/1", "one", {}, {})
    with pytest.raises(PulseLedgerError, match="recall@5"):
        tracker.summary("refused/1", {"recall@5": 0.5})
    with pytest.raises(PulseLedgerError, match="FileNotFoundError"):
        tracker.artifacts("refused/1", [str(tmp_path / "no.txt")])
    with pytest.raises(PulseLedgerError, match="no run was opened for refused/2"):
        tracker.summary("refused/2", {"final/accuracy": 0.5})
    tracker.summary("refused/1", {"final/accuracy": 0.5})
    assert tracker.close() == ""
    assert look.by_key("refused/1").data.metrics == {"final/accuracy": 0.5}


def test_a_store_that_is_locked_at_the_start_is_opened_later(tried, look, tmp_path: Path):
    """A busy disk, another process that writes: to give up there would lose every run of a driver."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from engine.tracking.tracker import open_tracker\n"
        f"tracker = open_tracker('{tried.uri}', 'locked', Path('{tmp_path / SPOOL}'))\n"
        "tracker.open_run('locked/1', 'one', {}, {})\n"
        "print(tracker.state(), flush=True)\n"
        "sys.stdin.readline()\n"
        "print(tracker.close())\n"
    )
    with contextlib.closing(sqlite3.connect(tried.uri.removeprefix("sqlite:///"), isolation_level=None)) as holder:
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
    assert len(look.runs(experiment="locked")) == 1


def test_two_trackers_of_one_spool_do_not_write_at_a_time(tried, look, tmp_path: Path):
    """The tracker of a killed driver lives on for a moment: both would make a run, and lose the other's spool."""
    old, connection = tried.tracker()
    old.open_run("twice/1", "one", {}, {})
    connection.broken = True
    old.log("twice/1", 1, {"train/loss": 0.5})
    tried.clock.sleep(2)
    old.flush()
    left = (tmp_path / SPOOL).read_text()
    new, _ = tried.tracker()
    assert new.open_run("twice/1", "one", {}, {}) is None
    new.log("twice/1", 2, {"train/loss": 0.5})
    assert "the tracker of an earlier process still writes" in new.state()
    assert new.lacking({"twice/1": ("COMPLETE", "", 0)}) is None
    assert (tmp_path / SPOOL).read_text() == left
    assert "1 entries wait" in old.close()
    assert new.close() == ""
    assert look.steps(look.by_key("twice/1"), "train/loss") == [1, 2]  # also what the old one had spooled
    assert not (tmp_path / SPOOL).exists()


def test_a_spool_that_holds_what_is_refused_does_not_stop_the_next_process(tried, look, tmp_path: Path):
    (tmp_path / SPOOL).write_text('["tags", "orphan/1", 17, [{"a": "b"}]]\n')  # its run was never opened
    tracker, _ = tried.tracker()
    with pytest.raises(PulseLedgerError, match="no run was opened for orphan/1"):
        tracker.open_run("orphan/2", "two", {}, {})
    tracker.log("orphan/2", 1, {"train/loss": 0.5})
    assert tracker.close() == ""
    assert look.steps(look.by_key("orphan/2"), "train/loss") == [1]


def test_what_a_run_lacks_is_found(tried, look, tmp_path: Path):
    tracker, connection = tried.tracker()
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


# --- Models and the machine -------------------------------------------------------------------------------------------


def test_the_logged_model_gives_the_scores_of_the_oracle(tried, look, tiny_config, tmp_path: Path):
    import mlflow.pytorch
    import torch

    result = run(tiny_config(), tmp_path / "run")
    tracker, _ = tried.tracker()
    tracker.open_run("model/study", "study", {}, {})
    tracker.open_run("model/1", "one", {}, {}, "model/study")
    for _ in range(2):  # the second time finds it there
        tracker.model("model/1", str(tmp_path / "run"), "model/study")
    assert tracker.close() == ""
    logged = look.by_key("model/1")
    for each in (logged, look.by_key("model/study")):
        assert [m.model_id for m in each.outputs.model_outputs] == [logged.data.tags["model.id"]]
    model = look.client.get_logged_model(logged.data.tags["model.id"])
    folder = Path(urllib.request.url2pathname(model.artifact_location.removeprefix("file://")))
    assert (folder / "data" / "model.pt2").exists()  # no pickle
    example = np.array(json.loads((folder / "input_example.json").read_text()), np.float32)
    assert example.shape == (2, 252 + 4)
    assert "torch==" in (folder / "requirements.txt").read_text()

    loaded = mlflow.pytorch.load_model(folder.as_uri())
    network = build_network(result.config.model, 1, 252, 4, 5)
    tensors = load_file(tmp_path / "run" / "model.safetensors")
    params = np.concatenate([tensors[name].ravel() for name, _ in network.layout])
    for rows in (1, 2, 33):  # the batch is free
        x = np.random.default_rng(rows).standard_normal((rows, 256), dtype=np.float32)
        with torch.inference_mode():
            scores = loaded(torch.from_numpy(x)).numpy()
        expected = TorchOracle(network).scores(params, x[:, None, :252], x[:, 252:])
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    predicted = mlflow.pyfunc.load_model(folder.as_uri()).predict(example)
    np.testing.assert_allclose(
        predicted, TorchOracle(network).scores(params, example[:, None, :252], example[:, 252:]), rtol=1e-5, atol=1e-6
    )


def test_the_machine_is_watched_until_the_run_ends(tried, look, tmp_path: Path):
    for part in (1, 2):  # the second process goes on with the steps of the first
        tracker, _ = tried.tracker(sampling_seconds=0.2)
        tracker.open_run("machine/1", "study", {}, {})
        tracker.system_metrics("machine/1")
        end = time.monotonic() + 20
        while time.monotonic() < end:
            points = look.steps(look.by_key("machine/1"), "system/cpu_utilization_percentage")
            if len(points) >= 2 * part:
                break
            time.sleep(0.1)
        tracker.finish("machine/1", "COMPLETE")
        tracker.close()
    points = look.steps(look.by_key("machine/1"), "system/cpu_utilization_percentage")
    assert points == list(range(len(points)))
    assert len(points) >= 4
    assert not [t for t in threading.enumerate() if t.name == "SystemMetricsMonitor"]


# --- What readers ask -------------------------------------------------------------------------------------------------


def test_the_number_of_an_experiment_leads_to_its_page(tried, look):
    tracker, _ = tried.tracker()
    tracker.open_run("page/1", "one", {"colour": "blue"}, {})
    tracker.finish("page/1", "PRUNED")
    run = look.by_key("page/1")
    address = runs_address(tried.uri, "pulseledger")
    assert f"#/experiments/{run.info.experiment_id}/runs?" in address
    # opened on the columns that a study is about, which the experiment keeps
    assert address.endswith(f"&viewStateShareKey={VIEW}")
    experiment = mlflow_client(tried.uri).get_experiment(run.info.experiment_id)
    columns = json.loads(experiment.tags[f"mlflow.sharedViewState.{VIEW}"])["selectedColumns"]
    names = ("final/personal/macro_f1", "final/personal/rare_recall", "ledger/overhead_share")
    assert columns[:3] == [f"metrics.`{name}`" for name in names]
    assert set(names) <= set(final_paths(("N",)))
    with pytest.raises(PulseLedgerError, match="has no experiment 'other'"):
        runs_address(tried.uri, "other")
    tracker.open_run("page/1/0", "two", {}, {"rate": 3}, "page/1")
    for step in (2, 1):
        tracker.log("page/1/0", step, {"train/loss": step / 4})
    tracker.summary("page/1/0", {"final/x": 0.5})
    tracker.flush(now=True)
    own, below = read_runs(tried.uri, run.info.run_id, leave=lambda name: name == "final/x")
    assert (own.tags["colour"], own.tags["state"], own.status, own.name) == ("blue", "PRUNED", "KILLED", "one")
    assert (below.name, below.params) == ("two", {"rate": "3"})
    assert below.curves == {"train/loss": [(1, 0.25), (2, 0.5)], "final/x": []}
    assert below.latest == {"train/loss": 0.5, "final/x": 0.5}
    with pytest.raises(PulseLedgerError, match="MLflow's run nothing cannot be read"):
        read_runs(tried.uri, "nothing")
