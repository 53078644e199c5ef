"""Whole studies on Ray: small ones that run through, and one whose driver is killed."""

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from mlflow import MlflowClient
from optuna.trial import TrialState
from reference import ROOT, Heard, as_run, settled

from engine.audit.run import audit
from engine.config import RunConfig, config_hash
from engine.errors import ResourceError, StudyError
from sweeps.__main__ import main
from sweeps.compare import rows_of
from sweeps.space import StudyConfig, conditions, load_study, resolve, total_trials
from sweeps.study import STUDY_FILE, Driver, open_studies, read_study, resume_study, start_study, trial_folder
from sweeps.tracking import StudyRun
from sweeps.trial import TrialRunner

ROUNDS = 8

BASE: dict[str, Any] = {
    "name": "tiny",
    "data": {"window": [90, 162], "simulated": {"patients": 6, "minutes": 1.5}},
    "model": {"channels": [8, 8, 16], "hidden": 16},
    "federation": {"rounds": ROUNDS, "local_epochs": 3},
    "ledger": {"backend": "none"},
    "tracking": {"backend": "none"},
    "execution": {"cpus": 2, "hospitals_per_actor": 3},
}
TUNED: dict[str, Any] = {
    **BASE,
    "ledger": {"backend": "embedded"},
    "tracking": {"backend": "mlflow"},
    "conditions": {"cohort.hospitals": [2, 3]},
    "search": {"federation.learning_rate": {"log_uniform": [0.01, 0.1]}},
    "sampler": "random",
    "trials": 4,
}


def study_of(values: dict[str, Any], **keys: Any) -> StudyConfig:
    return load_study({**values, **keys}, "test")


def store_of(done: Path, experiment: str) -> dict[str, str]:
    """An experiment of its own in the store of `done`: making the tables of a store takes seconds."""
    return {"backend": "mlflow", "uri": f"sqlite:///{done / 'mlflow.db'}", "experiment": experiment}


def runs_of(done: Path, experiment: str) -> tuple[MlflowClient, list[Any]]:
    client = MlflowClient(f"sqlite:///{done / 'mlflow.db'}")
    return client, client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def trials_of(folder: Path) -> list[Any]:
    """All trials of a study, in the order of their numbers in the whole study."""
    found = [t for opened, _ in open_studies(read_study(folder), folder) for t in opened.get_trials()]
    return sorted((t for t in found if "trial" in t.user_attrs), key=lambda t: t.user_attrs["trial"])


def outcome(folder: Path) -> list[Any]:
    """What has to be the same however often a study was interrupted."""
    return [(t.user_attrs["trial"], t.user_attrs["condition"], t.params, t.state, t.values) for t in trials_of(folder)]


# --- A study that runs through ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def said() -> Heard:
    return Heard()


@pytest.fixture(scope="module")
def done(ray2, said: Heard, tmp_path_factory) -> Path:
    """The folder of a finished study: two conditions, two trials in each, tracked, with ledgers."""
    settled()
    folder = tmp_path_factory.mktemp("studies") / "tiny"
    start_study(study_of(TUNED), folder, said)
    return folder


def test_every_trial_is_complete(done: Path, said: Heard):
    trials = trials_of(done)
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 4
    assert [t.user_attrs["trial"] for t in trials] == [0, 1, 2, 3]
    assert [t.user_attrs["condition"] for t in trials] == ["hospitals=2", "hospitals=3"] * 2
    assert len({t.params["federation.learning_rate"] for t in trials}) == 4
    assert {number: end[0] for number, end in said.ends.items()} == dict.fromkeys(range(4), "COMPLETE")
    assert [list(end[1].values()) for _, end in sorted(said.ends.items())] == [t.values for t in trials]
    assert all(rounds == sorted(rounds) and rounds[-1] <= ROUNDS for rounds in said.rounds.values())


def test_each_trial_ran_what_it_was_asked(done: Path):
    study = read_study(done)
    by_label = {c.label: c for c in conditions(study)}
    for trial in trials_of(done):
        home = trial_folder(done, trial.user_attrs["trial"])
        result = json.loads((home / "seed-0" / "result.json").read_text())
        wanted = resolve(study, by_label[trial.user_attrs["condition"]], trial.params, 0)
        assert as_run(wanted, result["config"]["execution"]["oracle"]) == RunConfig.model_validate(result["config"])
        assert result["config_hash"] == config_hash(wanted)
        assert len(result["cohort"]["hospitals"]) == wanted.cohort.hospitals
        assert trial.values == [result["validation"]["personal"]["macro_f1"]]
        assert audit(home / "seed-0").clean
    assert yaml.safe_load((done / STUDY_FILE).read_text())["search"] == TUNED["search"]


def test_mlflow_has_one_parent_and_one_child_for_each_trial(done: Path):
    client, runs = runs_of(done, "pulseledger")
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert len(children) == 4
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sorted(run.data.tags["number"] for run in children) == ["0", "1", "2", "3"]
    assert 0 < parent.data.metrics["sweep/training_share"] < 1
    trials = {str(t.user_attrs["trial"]): t for t in trials_of(done)}
    counts = {name: parent.data.metrics[name] for name in parent.data.metrics if name.startswith("sweep/n_")}
    assert counts == {"sweep/n_complete": 4.0, "sweep/n_pruned": 0.0, "sweep/n_fail": 0.0}
    best = "sweep/best/validation personal macro_f1"
    points = client.get_metric_history(parent.info.run_id, best)
    assert [p.step for p in points] == [1, 2, 3, 4]
    assert points[-1].value == max(t.values[0] for t in trials.values())
    assert sorted(p.value for p in points) == [p.value for p in points]
    assert {m for m in parent.data.metrics if m.startswith("system/")} >= {"system/cpu_utilization_percentage"}
    files = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert files == {STUDY_FILE, "pareto.json", "trials.parquet", "report"}
    assert "pulseledger sweep study.yaml" in parent.data.tags["mlflow.note.content"]
    assert [d.dataset.name for d in parent.inputs.dataset_inputs] == ["simulated"]
    (winner,) = [run for run in children if "model.id" in run.data.tags]
    assert trials[winner.data.tags["number"]].values[0] == points[-1].value
    assert [m.model_id for m in parent.outputs.model_outputs] == [winner.data.tags["model.id"]]
    for run in children:
        trial = trials[run.data.tags["number"]]
        assert run.data.tags["condition"] == trial.user_attrs["condition"]
        assert run.data.params["federation.learning_rate"] == str(trial.params["federation.learning_rate"])
        curve = client.get_metric_history(run.info.run_id, "val/macro_f1")
        assert [point.step for point in curve] == list(range(1, ROUNDS + 1))
        result = json.loads((trial_folder(done, int(run.data.tags["number"])) / "seed-0" / "result.json").read_text())
        assert run.data.metrics["final/macro_f1"] == pytest.approx(result["final"]["personal"]["macro_f1"])
        assert run.data.tags["ledger.head"] == result["ledger"]["head"]


def test_the_table_is_sorted_best_first_in_each_condition(done: Path):
    rows = rows_of(done)
    assert [row["condition"] for row in rows] == ["hospitals=2"] * 2 + ["hospitals=3"] * 2
    for label in ("hospitals=2", "hospitals=3"):
        scores = [r["objectives"]["validation/personal/macro_f1"] for r in rows if r["condition"] == label]
        assert scores == sorted(scores, reverse=True)
    for row in rows:
        assert 0 < row["local_majority_accuracy"] <= 1
        assert 0 < row["local_majority_macro_f1"] < 1
        assert row["gas_per_round"] > 30_000
        assert row["repeats"] == 1


def test_compare_and_audit_speak_json_and_csv(done: Path, capsys):
    assert main(["compare", str(done), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(rows_of(done)))
    assert main(["compare", str(done), "--csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert "federation.learning_rate" in lines[0].split(",")
    assert main(["compare", str(done)]) == 0
    table = capsys.readouterr().out
    assert "hospitals=2" in table
    assert "local majority" in table
    assert main(["audit", str(done), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)[str(done)]
    assert report["clean"]
    assert len(report["runs"]) == 4
    assert [row["state"] for row in report["trials"]] == ["COMPLETE"] * 4


def test_a_finished_study_has_nothing_left_to_do(done: Path, ray2):
    before = outcome(done)
    said = Heard()
    resume_study(done, said)
    assert (said.notes, said.starts) == ([], [])
    assert outcome(done) == before


def test_a_changed_study_is_refused(done: Path):
    kept = (done / STUDY_FILE).read_text()
    for keys, name in (({"seed": 1}, "seed"), ({"repeats": 2}, "repeats"), ({"sampler": "tpe"}, "sampler")):
        with pytest.raises(StudyError) as error:
            start_study(study_of(TUNED, **keys), done)
        assert f"holds a study with another {name};" in str(error.value)
        assert str(done / STUDY_FILE) in str(error.value)
    assert (done / STUDY_FILE).read_text() == kept


# --- Baselines, grids, repeats, failures ------------------------------------------------------------------------------


def test_a_grid_with_baselines_repeats_and_a_failure(done: Path, ray2, tmp_path: Path):
    """One driver died after it had taken a trial out of the queue, and before that trial had a configuration."""
    settled()
    values = {
        **BASE,
        "tracking": store_of(done, "grid"),
        "baselines": [{"federation.learning_rate": 1e30}, {"federation.algorithm": "local"}],
        "search": {"federation.algorithm": {"choice": ["fedavg", "perfedavg"]}},
        "sampler": "grid",
        "repeats": 2,
        "concurrency": 1,
    }
    study = study_of(values)
    ((opened, _),) = open_studies(study, tmp_path)
    for _ in range(2):
        opened.ask()  # the first baseline and the second, lost
    start_study(study, tmp_path, quiet=True)
    trials = trials_of(tmp_path)
    wanted = [{"federation.algorithm": "fedavg"}, {"federation.algorithm": "perfedavg"}, *values["baselines"]]
    assert [t.user_attrs["keys"] for t in trials] == wanted
    assert [t.state.name for t in trials] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    rows = rows_of(tmp_path)
    assert rows[-1]["trial"] == 2  # what failed comes last, with its reason
    assert rows[-1]["error"].startswith("HospitalError: hospital 0, round 1, train")
    failed = trials[2].user_attrs
    assert failed["reason"] == rows[-1]["error"]
    assert [failed["error"][key] for key in ("hospital", "round", "stage")] == [0, 1, "train"]
    assert "in _do_train" in failed["error"]["traceback"]  # where it happened, in another process
    assert "\x1b" not in (trial_folder(tmp_path, 2) / "error.txt").read_text()
    assert [row["baseline"] for row in sorted(rows, key=lambda r: r["trial"])] == [False, False, True, True]
    for trial in (t for t in trials if t.state == TrialState.COMPLETE):
        number = trial.user_attrs["trial"]
        results = [
            json.loads((trial_folder(tmp_path, number) / f"seed-{r}" / "result.json").read_text()) for r in range(2)
        ]
        assert [r["config"]["seed"] for r in results] == [0, 1]
        assert results[0]["model_hash"] != results[1]["model_hash"]
        assert trial.values == [pytest.approx(_mean(results, "validation", "macro_f1"))]
        (row,) = [row for row in rows if row["trial"] == number]
        assert row["repeats"] == 2
        assert row["personal_accuracy"] == pytest.approx(_mean(results, "final", "accuracy"))
        both = [r["final"]["personal"]["accuracy"] for r in results]
        assert row["personal_accuracy_sd"] == pytest.approx(statistics.stdev(both))
        told = trial.user_attrs["repeats"]["validation/personal/macro_f1"]
        values = [r["validation"]["personal"]["macro_f1"] for r in results]
        half = 12.706205 * statistics.stdev(values) / 2**0.5  # Student's t, one degree of freedom
        assert [told[key] for key in ("mean", "low", "high", "n")] == pytest.approx(
            [trial.value, trial.value - half, trial.value + half, 2]
        )
    client, runs = runs_of(done, "grid")
    by_number = {run.data.tags.get("number"): run for run in runs}
    assert len(runs) == 5
    assert by_number["2"].info.status == "FAILED"
    tags = by_number["2"].data.tags
    assert "hospital 0, round 1, train" in tags["error"]
    assert [tags[f"error.{key}"] for key in ("hospital", "round", "stage")] == ["0", "1", "train"]
    assert "error.txt" in [a.path for a in client.list_artifacts(by_number["2"].info.run_id)]
    assert by_number["0"].data.metrics["repeats/macro_f1_mean"] == pytest.approx(
        next(row["personal_macro_f1"] for row in rows if row["trial"] == 0)
    )
    assert by_number[None].data.metrics["sweep/n_complete"] == 3.0


def _mean(results: list[dict[str, Any]], part: str, score: str) -> float:
    return statistics.fmean(result[part]["personal"][score] for result in results)


def test_joint_studies_draw_the_condition_too(ray2, tmp_path: Path):
    settled()
    values = {**TUNED, "tracking": {"backend": "none"}, "ledger": {"backend": "none"}, "joint": True, "trials": 2}
    study = study_of(values, baselines=[{"federation.algorithm": "local"}])
    start_study(study, tmp_path, quiet=True)
    (opened,) = open_studies(study, tmp_path)
    assert opened[1] is None
    trials = trials_of(tmp_path)
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 2
    # the baseline comes first, once in each condition
    assert [t.params["condition"] for t in trials] == ["hospitals=2", "hospitals=3"]
    assert [t.user_attrs["condition"] for t in trials] == ["hospitals=2", "hospitals=3"]
    assert [t.user_attrs["config"][0]["cohort"]["hospitals"] for t in trials] == [2, 3]
    assert [t.user_attrs["config"][0]["federation"]["algorithm"] for t in trials] == ["local"] * 2


@pytest.mark.parametrize(("trials", "ended"), [(6, 3), (2, 2)])
def test_a_study_whose_trials_all_fail_ends_with_the_first_reason(ray2, tmp_path: Path, trials: int, ended: int):
    settled()
    broken = {**BASE["data"], "source": "folder", "folder": str(tmp_path / "nowhere")}
    study = study_of(TUNED, data=broken, trials=trials, tracking={"backend": "none"}, concurrency=1)
    said = Heard()
    with pytest.raises(StudyError) as error:
        start_study(study, tmp_path / "study", said)
    assert str(error.value).startswith(f"the first {ended} trials all failed; trial 0: DataError: ")
    assert str(tmp_path / "nowhere") in str(error.value)
    assert "\n" not in str(error.value)
    assert [t.state for t in trials_of(tmp_path / "study")] == [TrialState.FAIL] * ended
    assert [(end[0], end[2].startswith("DataError: ")) for end in said.ends.values()] == [("FAIL", True)] * ended
    kept = (trial_folder(tmp_path / "study", 0) / "error.txt").read_text()
    assert kept.startswith("DataError: ")
    assert 'experiment.py", line ' in kept  # with its traceback


def test_more_trials_at_a_time_than_there_are_cpus_are_refused(ray2, tmp_path: Path):
    with pytest.raises(ResourceError) as error:
        start_study(study_of(TUNED, concurrency=100), tmp_path)
    assert "concurrency 100" in str(error.value)
    assert "the cluster has 2 CPU" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_queue_that_was_half_written_is_completed(tmp_path: Path, monkeypatch):
    values = {**BASE, "search": {"federation.batch_size": {"choice": [8, 16, 32]}}, "sampler": "grid"}
    study = study_of(values, baselines=[{"federation.algorithm": "local"}])
    enqueue = optuna.Study.enqueue_trial
    left = [2]

    def dies(self: optuna.Study, *args: Any, **kwargs: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        enqueue(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "enqueue_trial", dies)
        with pytest.raises(KeyboardInterrupt):
            open_studies(study, tmp_path)
    for _ in range(2):
        ((opened, _),) = open_studies(study, tmp_path)
        fixed = [t.system_attrs["fixed_params"] for t in opened.get_trials()]
        assert fixed == [{}, *({"federation.batch_size": size} for size in (8, 16, 32))]
        assert [t.user_attrs for t in opened.get_trials()] == [
            {"baseline": {"federation.algorithm": "local"}},
            {},
            {},
            {},
        ]


# --- Pruning, constraints, samplers, losses ---------------------------------------------------------------------------


def test_seeds_are_added_until_a_configuration_is_worse(ray2, tmp_path: Path):
    """Wilcoxon: a trial is compared with the best one, seed by seed; what is worse for certain gets no more seeds."""
    settled()
    study = study_of(
        BASE,
        federation={"rounds": 2, "local_epochs": 2},
        search={"federation.learning_rate": {"uniform": [1e-6, 0.5]}},
        design=[{"federation.learning_rate": 0.1}, {"federation.learning_rate": 1e-6}],
        repeats=6,
        pruner={"method": "wilcoxon", "p_threshold": 0.2},
        constraints={"timing/gradient_evaluations": "<= 10", "validation/personal/accuracy": ">= 0"},
        concurrency=1,
    )
    assert total_trials(study) == 2
    heard = Heard()
    start_study(study, tmp_path, heard)
    good, bad = trials_of(tmp_path)
    assert [good.state, bad.state] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert [t.params["federation.learning_rate"] for t in (good, bad)] == [0.1, 1e-6]
    rungs = [good.user_attrs[f"rung/{repeat}"]["values"] for repeat in range(1, 6)]
    finals = [json.loads(p.read_text()) for p in sorted(trial_folder(tmp_path, 0).glob("seed-*/result.json"))]
    assert rungs == [[r["validation"]["personal"]["macro_f1"]] for r in finals[:5]]
    # the sign of three differences out of three has p = 1/8 < 0.2, of two 1/4
    assert bad.user_attrs["pruned"] == 3
    assert len(list(trial_folder(tmp_path, 1).glob("seed-*/result.json"))) == 3
    assert heard.ends[1][0] == "PRUNED"
    assert heard.ends[1][2] == bad.user_attrs["reason"] == "pruned at repeat 3"
    assert "pruning saved 25% of all rounds" in heard.notes  # 3 of 12 repeats
    evaluations = statistics.fmean(r["timing"]["gradient_evaluations"] for r in finals)
    accuracy = statistics.fmean(r["validation"]["personal"]["accuracy"] for r in finals)
    assert good.constraints == {
        "timing/gradient_evaluations": pytest.approx(evaluations - 10),
        "validation/personal/accuracy": pytest.approx(-accuracy),
    }
    (row,) = [row for row in rows_of(tmp_path) if row["trial"] == 0]
    assert row["violated"] == ["timing/gradient_evaluations"]


def test_a_driver_that_died_after_it_decided_abides_by_it(ray2, tmp_path: Path, monkeypatch):
    settled()
    study = study_of(
        BASE,
        search={"federation.learning_rate": {"uniform": [1e-6, 0.5]}},
        design=[{"federation.learning_rate": 0.1}, {"federation.learning_rate": 1e-6}],
        pruner={"method": "successive_halving", "first": 2, "factor": 2},
        concurrency=1,
    )

    def dies(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Driver, "_prune", dies)
        with pytest.raises(KeyboardInterrupt):
            start_study(study, tmp_path, quiet=True)
    running = trials_of(tmp_path)[-1]
    assert running.state == TrialState.RUNNING
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("trials/*/seed-0/checkpoint.safetensors")}
    heard = Heard()
    resume_study(tmp_path, heard)
    ended = {t.user_attrs["trial"]: t for t in trials_of(tmp_path)}[running.user_attrs["trial"]]
    assert ended.state == TrialState.PRUNED
    assert f"rung/{ended.user_attrs['pruned']}" in ended.user_attrs
    assert ended.value == ended.intermediate_values[ended.user_attrs["pruned"]]
    assert running.user_attrs["trial"] not in heard.starts
    assert all(p.stat().st_mtime_ns == then for p, then in before.items())


@pytest.mark.parametrize(
    ("error", "attempts", "state"),
    [(MemoryError(), 3, "FAIL"), (ValueError("no"), 1, "FAIL"), (MemoryError(), 2, "COMPLETE")],
)
def test_lost_memory_is_retried_and_mistakes_are_not(ray2, tmp_path: Path, error: Exception, attempts: int, state: str):
    """The runner itself fails, as often as `attempts` says if the study is to fail, else once less."""
    settled()
    study = study_of(BASE, trials=1, search={"federation.batch_size": {"choice": [16]}}, federation={"rounds": 1})
    fails = attempts if state == "FAIL" else attempts - 1
    (tmp_path / "study").mkdir()
    log = tmp_path / "log"

    class Failing(TrialRunner):
        def begin(self, order: dict[str, Any], tracker: Any) -> dict[str, Any]:
            with log.open("a") as file:
                file.write("x")
            if len(log.read_text()) <= fails:
                raise error
            return super().begin(order, tracker)

    heard = Heard()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeps.study.TrialRunner", Failing)
        if state == "FAIL":
            with pytest.raises(StudyError):
                start_study(study, tmp_path / "study", heard)
        else:
            start_study(study, tmp_path / "study", heard)
    assert len(log.read_text()) == attempts
    (trial,) = trials_of(tmp_path / "study")
    assert trial.state.name == state
    if state == "FAIL":
        wanted = "lost 3 times: MemoryError" if attempts == 3 else "ValueError: no"
        assert trial.user_attrs["reason"] == wanted
    else:
        assert sum("going on from its checkpoint" in note for note in heard.notes) == 1


def test_a_trial_that_does_not_move_is_ended(ray2, tmp_path: Path, monkeypatch):
    settled()

    class Sleeping(TrialRunner):
        def begin(self, order: dict[str, Any], tracker: Any) -> dict[str, Any]:
            time.sleep(600)
            return {}

    monkeypatch.setattr("sweeps.study.TrialRunner", Sleeping)
    monkeypatch.setattr("sweeps.study.START_SECONDS", 5.0)
    monkeypatch.setattr("sweeps.study.LOSSES", 0)
    study = study_of(BASE, trials=1, execution={**BASE["execution"], "deadline": 0.1})
    heard = Heard()
    with pytest.raises(StudyError):
        start_study(study, tmp_path, heard)
    assert heard.notes[0] == "trial 0: no round in 5.3 s; its runner is ended"  # 5 s and three times the deadline
    assert heard.ends[0][0] == "FAIL"
    assert heard.ends[0][2].startswith("lost 1 times: ")


def test_work_before_the_first_round_counts_as_moving(ray2, tmp_path: Path, monkeypatch):
    """As long as a generator of synthetic beats says that it is being trained, its trial is not taken for stuck."""
    settled()

    class Slow(TrialRunner):
        def advance(self) -> dict[str, Any]:
            for i in range(8):
                self._progress.note(f"timegan: step {i}")
                time.sleep(1)
            return super().advance()

    monkeypatch.setattr("sweeps.study.TrialRunner", Slow)
    monkeypatch.setattr("sweeps.study.START_SECONDS", 4.0)
    heard = Heard()
    study = study_of(BASE, trials=1, repeats=1, execution={**BASE["execution"], "deadline": 0.3})  # 4.9 s in all
    start_study(study, tmp_path, heard)
    assert [state for state, _, _ in heard.ends.values()] == ["COMPLETE"]
    assert not heard.notes or "no round" not in heard.notes[0]


# --- A driver that is killed ------------------------------------------------------------------------------------------


def until(condition: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def test_a_killed_driver_loses_nothing_and_repeats_nothing(done: Path, ray2, tmp_path: Path):
    """The same study as `done`, killed when its first trial has ended and others are under way."""
    folder, file = tmp_path / "killed", tmp_path / "study.yaml"
    values = {**TUNED, "tracking": store_of(done, "killed")}
    file.write_text(yaml.safe_dump(values))
    words = [sys.executable, "-m", "sweeps", "sweep", str(file), "--out", str(folder)]
    driver = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(lambda: list(folder.glob("trials/*/seed-0/checkpoint.safetensors")), driver)
        kept = (folder / STUDY_FILE).read_text()
        with pytest.raises(StudyError) as error:
            start_study(study_of(values, trials=9), folder)
        assert str(error.value).startswith(
            f"{folder}: is being driven by process {driver.pid} on {socket.gethostname()};"
        )
        assert (folder / STUDY_FILE).read_text() == kept  # a refused driver changes nothing
        until(lambda: list(folder.glob("trials/*/seed-0/result.json")), driver)
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.communicate()
    assert len(list(folder.glob("trials/*/seed-0/result.json"))) < 4
    before = {p: p.stat().st_mtime_ns for p in folder.glob("trials/*/seed-0/result.json")}
    settled()
    said = Heard()
    resume_study(folder, said)
    assert any("of an earlier driver" in line for line in said.notes)
    assert outcome(folder) == outcome(done)[:4]
    assert [row[3] for row in outcome(folder)] == [TrialState.COMPLETE] * 4
    everything = [t for opened, _ in open_studies(read_study(folder), folder) for t in opened.get_trials()]
    assert len(everything) in (4, 5)  # one may have been asked for without a configuration yet
    assert sum(t.state != TrialState.COMPLETE for t in everything) == len(everything) - 4
    for path, time_written in before.items():
        assert path.stat().st_mtime_ns == time_written  # what was finished was not run again
    assert all(audit(path.parent).clean for path in folder.glob("trials/*/seed-0/ledger"))
    client, runs = runs_of(done, "killed")
    assert len(runs) == 5
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        if "mlflow.parentRunId" in run.data.tags:
            curve = client.get_metric_history(run.info.run_id, "val/macro_f1")
            assert sorted(point.step for point in curve) == list(range(1, ROUNDS + 1))
            assert len(client.get_metric_history(run.info.run_id, "final/macro_f1")) == 1


# --- What MLflow has lost ---------------------------------------------------------------------------------------------


def elsewhere(done: Path, folder: Path, tracking: dict[str, str]) -> None:
    """A copy of the ended study `done` whose runs belong into another store, where nothing is yet."""
    if not folder.exists():
        shutil.copytree(done, folder, ignore=shutil.ignore_patterns("mlflow.db*", "artifacts"))
    values = yaml.safe_load((folder / STUDY_FILE).read_text())
    (folder / STUDY_FILE).write_text(yaml.safe_dump({**values, "tracking": tracking}))


def complete(done: Path, experiment: str) -> dict[str, Any]:
    """Checks that the copy of `done` is in MLflow as a whole and once; returns its runs by number, "" is the study's."""
    client, runs = runs_of(done, experiment)
    by_number = {run.data.tags.get("number", ""): run for run in runs}
    assert sorted(by_number) == ["", "0", "1", "2", "3"]
    assert len(runs) == 5
    for number, run in by_number.items():
        assert (run.info.status, run.data.tags["state"]) == ("FINISHED", "COMPLETE")
        if number:
            assert run.data.tags["mlflow.parentRunId"] == by_number[""].info.run_id
            for metric in ("train/loss", "val/macro_f1"):
                curve = client.get_metric_history(run.info.run_id, metric)
                assert sorted(point.step for point in curve) == list(range(1, ROUNDS + 1))
            assert len(client.get_metric_history(run.info.run_id, "final/macro_f1")) == 1
            files = {a.path for a in client.list_artifacts(run.info.run_id)}
            assert files == {"result.json", "config.yaml", "confusion.png"}
    return by_number


def test_what_is_missing_in_mlflow_is_sent_by_a_resume(done: Path, ray2, tmp_path: Path):
    """Optuna and the folders have every trial. MLflow has none at first; then a run, some points and two ends are lost."""
    settled()
    folder = tmp_path / "lost"
    elsewhere(done, folder, store_of(done, "lost"))
    resume_study(folder, quiet=True)
    before = complete(done, "lost")
    client, _ = runs_of(done, "lost")
    client.delete_run(before["0"].info.run_id)
    with contextlib.closing(sqlite3.connect(done / "mlflow.db")) as store, store:
        lost = (before["1"].info.run_id, ROUNDS)
        store.execute("DELETE FROM metrics WHERE run_uuid = ? AND step = ?", lost)
    for number in ("2", ""):
        client.update_run(before[number].info.run_id, status="RUNNING")
    resume_study(folder, quiet=True)
    after = complete(done, "lost")
    assert {n for n in before if before[n].info.run_id != after[n].info.run_id} == {"0"}
    assert before["3"].info.end_time == after["3"].info.end_time  # nothing was missing there
    assert outcome(folder) == outcome(done)[:4]


def test_trackers_that_are_killed_one_after_another_lose_nothing(done: Path, ray2, tmp_path: Path, monkeypatch):
    """Killed when the first and the third trial have just been sent, and before the study's own run is ended."""
    settled()
    folder = tmp_path / "shot"
    elsewhere(done, folder, store_of(done, "shot"))
    sent: list[int] = []
    publish, close = Driver._publish, StudyRun.close

    def kill(driver: Driver) -> None:
        driver._ray.kill(driver._tracker._actor)

    def publishing(self: Driver, trial: Any, state: str) -> None:
        publish(self, trial, state)
        sent.append(trial.trial)
        if len(sent) in (1, 3):
            kill(self)

    def closing(self: StudyRun, state: str, trials: Any) -> None:
        driver, track = self._track.__self__, self._track
        self._track = lambda method, *args: kill(driver) if method == "finish" else track(method, *args)
        close(self, state, trials)

    monkeypatch.setattr(Driver, "_publish", publishing)
    monkeypatch.setattr(StudyRun, "close", closing)
    heard = Heard()
    resume_study(folder, heard)
    assert sum("the tracker's process was lost" in note for note in heard.notes) == 3
    complete(done, "shot")


def test_a_store_that_is_away_until_all_trials_have_ended_is_completed_later(
    done: Path, ray2, tmp_path: Path, monkeypatch
):
    settled()
    folder = tmp_path / "late"
    monkeypatch.setattr("sweeps.study.STORE_SECONDS", 0.0)
    elsewhere(done, folder, {"backend": "mlflow", "uri": "http://127.0.0.1:9", "experiment": "late"})
    heard = Heard()
    resume_study(folder, heard)  # MLflow being away is no reason to fail
    assert any("the store is away (no MLflow store at http://127.0.0.1:9" in note for note in heard.notes)
    assert any("4 trials are not complete there" in note for note in heard.notes)
    elsewhere(done, folder, store_of(done, "late"))
    heard = Heard()
    resume_study(folder, heard)
    assert not any("is away" in note or "not complete" in note for note in heard.notes)
    complete(done, "late")


@pytest.mark.long
def test_more_trials_are_the_same_study(done: Path, ray2, tmp_path: Path):
    """The last test of `done`: it adds a trial to it."""
    settled()
    before = outcome(done)
    start_study(study_of(TUNED, trials=5), done, quiet=True)
    after = outcome(done)
    assert after[:4] == before
    assert [row[0] for row in after] == [0, 1, 2, 3, 4]
    assert after[4][3] == TrialState.COMPLETE
