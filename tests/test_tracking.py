"""What a run leaves in an MLflow store, whatever happened to it on the way."""

import http.server
import threading
from pathlib import Path
from typing import Any

import pytest
from reference import ROOT, Interrupted, StopAfter, as_run

from engine.config import RunConfig, config_hash, dotted_keys, load_yaml, parse
from engine.errors import HospitalError, PulseLedgerError
from engine.experiment import Place, run_tracked
from engine.tracking import flat_params, ledger_tags, round_metrics

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
    assert set(flat_params(config)) == set(dotted_keys(RunConfig)) - {"out"}


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
        patch.setattr("engine.tracking.Tracker.log", lambda *args: None)
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
