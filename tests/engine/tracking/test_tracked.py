"""A run under MLflow's eyes: what it leaves in the store, whatever happened to it on the way."""

import http.server
import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from reference import ROOT, Interrupted, StopAfter, Watch, as_run
from servers import MlflowServer

from engine.background import Background
from engine.config import RunConfig, config_hash
from engine.errors import HospitalError, PulseLedgerError
from engine.experiment import Place, drained
from engine.result import Result
from engine.settings import load_yaml, parse
from engine.tracked import Shown, run_tracked, track
from engine.tracking.curves import params_of, round_metrics
from engine.tracking.queue import SPOOL
from engine.tracking.store import MlflowStore
from engine.tracking.tracker import Tracker

ROUNDS = 4


@pytest.fixture(scope="module")
def make(tiny_config):
    def build(name: str, **keys: Any) -> RunConfig:
        base = {"name": name, "tracking.backend": "mlflow", "federation.rounds": ROUNDS}
        return tiny_config(**base | keys)

    return build


# --- A run that goes well ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracked(make, store: Path, look) -> tuple[RunConfig, Result, Any]:
    config = make("well", **{"ledger.backend": "embedded"})
    result = run_tracked(config, store / "well", store)
    return config, result, look.called("well")


def test_parameters_are_a_handful_and_the_rest_is_in_the_file(tracked):
    config, _, run = tracked
    assert run.data.params == {key: str(value) for key, value in params_of(config).items()}
    assert run.data.params["cohort.hospitals"] == "3"
    assert "federation.perfedavg.alpha" not in run.data.params  # as by default


def test_tags_lead_to_source_configuration_and_ledger(tracked):
    config, result, run = tracked
    tags = run.data.tags
    assert tags["config_hash"] == result.config_hash == config_hash(config)
    assert tags["model_hash"] == result.model_hash
    assert tags["ledger.head"] == result.ledger.head
    assert tags["ledger.contract"] == result.ledger.contract
    if (ROOT / ".git").exists():
        assert len(tags["mlflow.source.git.commit"]) == 40
    assert (run.info.status, tags["state"], tags["seed"]) == ("FINISHED", "COMPLETE", "0")
    assert "degraded" not in tags


def test_every_round_is_one_point_of_each_curve(tracked, look):
    _, result, run = tracked
    points = look.points(run, "val/macro_f1")
    assert [p.step for p in points] == [1, 2, 3, 4]
    assert [p.value for p in points] == [row.validation.macro_f1 for row in result.rounds]
    for metric in round_metrics(result.rounds[0]):
        assert look.steps(run, metric) == [1, 2, 3, 4], metric


def test_final_scores_are_single_points(tracked, look):
    _, result, run = tracked
    personal, common = result.final.personal, result.final.global_
    expected = {
        "final/personal/macro_f1": personal.macro_f1,
        "final/personal/recall/V": personal.recall["V"],
        "final/personal/hurt_share": personal.hurt_share,
        "final/global/accuracy": common.accuracy,
        "ledger/gas_per_round": result.ledger.gas_per_round,
        "ledger/overhead_share": result.ledger.overhead_share,
        "cohort/local_majority_accuracy": result.cohort.local_majority_accuracy,
    }
    for metric, value in expected.items():
        (point,) = look.points(run, metric)
        assert point.value == pytest.approx(value), metric
    assert {m for m in run.data.metrics if m.startswith("final/")} > {
        "final/personal/accuracy",
        "final/global/macro_f1",
    }


def test_artifacts_and_the_dataset_are_there_without_a_beat(tracked, look):
    _, result, run = tracked
    assert look.files(run) == {"result.json", "config.yaml", "confusion.svg"}
    copy = look.client.download_artifacts(run.info.run_id, "config.yaml")
    assert parse(RunConfig, load_yaml(copy), copy) == as_run(tracked[0], result.config.execution.oracle)
    (dataset,) = [each.dataset for each in run.inputs.dataset_inputs]
    assert dataset.name == "simulated"
    assert result.cohort.digest.startswith(dataset.digest)
    assert len(dataset.digest) >= 32
    profile = json.loads(dataset.profile)
    assert profile["num_rows"] == result.cohort.beats == sum(profile["classes"].values())
    assert profile["classes"] == result.cohort.classes


def test_the_note_says_how_to_do_it_again(tracked):
    _, _, run = tracked
    note = run.data.tags["mlflow.note.content"]
    assert "\n\n    pulseledger run config.yaml\n\n" in note
    assert run.data.tags.get("mlflow.source.git.commit", "") in note


def test_hospitals_are_single_points(tracked):
    _, result, run = tracked
    for row in result.final.personal.per_hospital:
        assert run.data.metrics[f"hospital/{row.id:02d}/macro_f1"] == row.macro_f1


def test_a_second_look_writes_nothing_twice(tracked, make, store: Path, look):
    config, result, run = tracked
    assert run_tracked(config, store / "well", store) == result
    again = look.called("well")
    assert again.info.run_id == run.info.run_id
    assert again.info.status == "FINISHED"
    curves = {*round_metrics(result.rounds[0]), "perf/rss_mb"}
    for metric in again.data.metrics:
        assert len(look.steps(again, metric)) == (4 if metric in curves else 1), metric


# --- Interruptions and failures ---------------------------------------------------------------------------------------


def test_an_interrupted_run_is_one_run_with_each_step_once(make, store: Path, look):
    config = make("it's interrupted")  # the name in the key must not end a filter's string
    folder = store / "it's interrupted"
    for stop in (2, 4):
        with pytest.raises(Interrupted):
            run_tracked(config, folder, store, Place(observers=(StopAfter(stop),)))
        run = look.called("it_s interrupted")
        assert run.info.status == "FAILED"
        assert run.data.tags["state"] == "FAIL"
        assert run.data.tags["error"].startswith("Interrupted")
    run_tracked(config, folder, store)
    run = look.called("it_s interrupted")
    assert run.info.status == "FINISHED"
    assert run.data.tags["state"] == "COMPLETE"
    for metric in ("train/loss", "val/macro_f1", "val/recall/V", "perf/round_s"):
        assert look.steps(run, metric) == [1, 2, 3, 4], metric
    assert look.steps(run, "final/personal/macro_f1") == [0]


class Forgetful(Tracker):
    """Ends with its points in the buffer."""

    def log(self, key: str, step: int, metrics: Any) -> None:
        pass


def test_what_an_attempt_could_not_send_is_sent_by_the_next(make, store: Path, look):
    """The process ended with points in the buffer: they are read from the checkpoint."""
    config, folder = make("unsent"), store / "unsent"

    def attempt(tracker: type[Tracker], place: Place) -> None:
        background = Background(tracker, MlflowStore(look.uri, "pulseledger"), actor=False)
        try:
            drained(track(config, folder, place, background, Shown("unsent/1", "unsent", {})))
        finally:
            background.close()

    with pytest.raises(Interrupted):
        attempt(Forgetful, Place(observers=(StopAfter(3),)))
    assert look.steps(look.called("unsent"), "val/macro_f1") == []
    attempt(Tracker, Place())
    assert look.steps(look.called("unsent"), "val/macro_f1") == [1, 2, 3, 4]


def test_a_failed_run_says_why(make, store: Path, look):
    with pytest.raises(HospitalError):
        run_tracked(make("fails", **{"federation.learning_rate": 1e30}), store / "fails", store)
    run = look.called("fails")
    assert run.info.status == "FAILED"
    assert "hospital 0, round 1, train" in run.data.tags["error"]


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


@pytest.mark.parametrize("answers", [0, 2])
def test_a_server_that_is_no_mlflow_is_refused_and_one_that_no_longer_is_does_not_stop_the_training(
    make, tmp_path: Path, answers: int
):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    Silent.answers = answers
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        uri = f"http://127.0.0.1:{server.server_port}"
        told: list[str] = []
        place = Place(note=told.append)
        if not answers:
            with pytest.raises(PulseLedgerError, match=r"what listens there is no MLflow: HTTP 404 Not Found"):
                run_tracked(make("deaf", **{"tracking.uri": uri}), tmp_path / "run", tmp_path, place)
            assert not (tmp_path / "run").exists()
            return
        result = run_tracked(make("deaf", **{"tracking.uri": uri}), tmp_path / "run", tmp_path, place)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert len(result.rounds) == ROUNDS
    problems = [text for text in told if text.startswith("MLflow: ")]
    assert len(problems) == 1
    assert f"no MLflow store at {uri}" in problems[0]


class Silent(http.server.BaseHTTPRequestHandler):
    """Is MLflow for so many answers; then it has nothing, and says nothing of it."""

    answers = 0

    def do_GET(self) -> None:
        if Silent.answers:
            Silent.answers -= 1
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")
            return
        self.send_error(404)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


# --- A server that is away --------------------------------------------------------------------------------------------


def test_a_resume_goes_on_without_the_server(make, store: Path, look, tmp_path: Path):
    """Nobody is there at the start: refused at the first one, but not where a run was begun before."""
    away = make("back", **{"tracking.uri": "http://127.0.0.1:9", "tracking.experiment": "back"})
    with pytest.raises(PulseLedgerError, match="no MLflow store"):
        run_tracked(away, tmp_path / "run", tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".id").write_text("begun")
    told: list[str] = []
    result = run_tracked(away, tmp_path / "run", tmp_path, Place(note=told.append))
    assert len(result.rounds) == ROUNDS
    assert len([text for text in told if text.startswith("MLflow: the store is away")]) == 1
    lines = [json.loads(line) for line in (tmp_path / "run" / SPOOL).read_text().splitlines()]
    assert [line[3][0] for line in lines if line[0] == "points"] == [1, 2, 3, 4]
    back = make("back", **{"tracking.uri": f"sqlite:///{store / 'mlflow.db'}", "tracking.experiment": "back"})
    assert run_tracked(back, tmp_path / "run", tmp_path) == result
    (run,) = look.runs(experiment="back")
    for metric in round_metrics(result.rounds[0]):
        assert look.steps(run, metric) == [1, 2, 3, 4], metric
    assert look.steps(run, "perf/rss_mb") == [1, 2, 3, 4]  # only the first process knew them
    assert look.steps(run, "final/personal/macro_f1") == [0]
    assert run.info.status == "FINISHED"
    assert not (tmp_path / "run" / SPOOL).exists()


@pytest.mark.long
def test_a_run_goes_on_while_the_server_is_away(make, store: Path, look_at, tmp_path: Path):
    """A real server, stopped after round 2 and started again after the run."""
    server = MlflowServer(f"sqlite:///{store / 'mlflow.db'}", tmp_path)
    told: list[str] = []
    server.start()
    try:
        config = make("away", **{"tracking.uri": server.url, "tracking.experiment": "over http"})
        place = Place(observers=(Watch(2, server.stop),), note=told.append)
        result = run_tracked(config, tmp_path / "run", tmp_path, place)
    finally:
        server.stop()
    assert len(result.rounds) == ROUNDS
    (problem,) = [text for text in told if text.startswith("MLflow: ")]
    assert re.search(rf"the store is away .* entries wait in {re.escape(str(tmp_path / 'run' / SPOOL))}", problem)
    server.start()
    try:
        assert run_tracked(config, tmp_path / "run", tmp_path) == result
        look = look_at(server.url)
        (run,) = look.runs(experiment="over http")
        assert (run.info.status, run.data.tags["state"]) == ("FINISHED", "COMPLETE")
        for metric in round_metrics(result.rounds[0]):
            assert look.steps(run, metric) == [1, 2, 3, 4], metric
        final = [metric for metric in run.data.metrics if metric.startswith("final/")]
        assert final
        assert all(look.steps(run, metric) == [0] for metric in final)
        assert look.files(run) == {"result.json", "config.yaml", "confusion.svg"}
    finally:
        server.stop()
    assert not (tmp_path / "run" / SPOOL).exists()
