"""A study that registers itself: nothing is recorded twice, and whatever is changed after the fact is named."""

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from reference import TINY
from simulated_ray import simulated

from engine.audit.report import Verdict
from engine.errors import ResourceError
from engine.ledger.format import STUDY
from engine.pools.config import ExecutionConfig
from engine.settings import set_key
from sweeps import registration
from sweeps.__main__ import main
from sweeps.audit import audit_study
from sweeps.checks import load_study
from sweeps.folder import trial_folder
from sweeps.space import StudyConfig
from sweeps.start import resume_study, start_study

KEYS: dict[str, Any] = {
    **{
        key: value
        for key, value in TINY.items()
        if key not in ("execution.pool", "cohort.hospitals", "tracking.backend")
    },
    "name": "registered",
    "federation.rounds": 4,
    "execution.cpus": 2,
    "execution.pool": "inprocess",
    "cohort.hospitals": 2,
}

TRACKED = {"backend": "mlflow", "models": "none"}  # to export one takes seconds


def study_of(trials: int = 4, **keys: Any) -> StudyConfig:
    values: dict[str, Any] = {
        # the first fails, the second is complete, of those that follow one is pruned
        "baselines": [{"federation.learning_rate": 1e30}],
        "search": {"federation.learning_rate": {"log_uniform": [1e-5, 0.1]}},
        "design": [
            {"federation.learning_rate": 0.05},
            {"federation.learning_rate": 0.04},
            {"federation.learning_rate": 1e-5},
        ],
        "pruner": {"method": "rungs", "first": 2, "factor": 2, "n_startup_trials": 0},
        "sampler": "random",
        "trials": trials,
        "concurrency": 1,
        "tracking": {"backend": "none"},
        **keys,
    }
    for key, value in KEYS.items():
        set_key(values, key, value)
    return load_study(values, "test")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "registered"
    start_study(study_of(tracking=TRACKED), folder, quiet=True, means=simulated())
    return folder


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(done, tmp_path / "registered"))


def places(folder: Path) -> set[tuple]:
    """What is found in the study; the runs of its trials are audited elsewhere."""
    return {(f.trial, f.record, f.field) for f in audit_study(folder, checks=()).findings}


def database(folder: Path, statement: str, *arguments: Any) -> None:
    connection = sqlite3.connect(folder / "optuna.db")
    assert connection.execute(statement, arguments).rowcount > 0
    connection.commit()
    connection.close()


def test_a_study_is_clean_and_its_failed_and_pruned_trials_are_listed(done: Path, capsys):
    report = audit_study(done)
    assert report.findings == []
    states = [row["state"] for row in report.trials]
    assert states == ["FAILED", "COMPLETE", "COMPLETE", "PRUNED"]
    assert report.trials[0]["reason"].startswith("HospitalError: hospital 0, round 1, train")
    assert report.trials[3]["reason"] == "pruned at round 2"
    assert report.counts["records"] == 8
    assert len(report.runs) == 4
    assert report.clean
    assert main(["audit", str(done)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("trial 3: PRUNED: pruned at round 2") for line in lines)
    assert lines[-1] == "verdict: clean"


def test_nothing_is_recorded_twice_and_more_trials_are_an_amendment(done: Path, tmp_path: Path):
    folder = Path(shutil.copytree(done, tmp_path / "registered"))
    before = audit_study(folder).head
    resume_study(folder, quiet=True, means=simulated())
    assert audit_study(folder).head == before
    start_study(study_of(trials=5, tracking=TRACKED), folder, quiet=True, means=simulated())
    report = audit_study(folder)
    assert report.findings == []
    assert report.notes == ["amended: trials 4 to 5"]
    assert report.counts["records"] == 10
    assert report.head is not None
    assert report.head.split()[0] == before


def test_what_a_killed_driver_did_not_record_is_recorded_at_the_resume(done: Path, tmp_path: Path):
    """A driver that was killed between telling Optuna and writing the record: the last one is missing."""
    folder = Path(shutil.copytree(done, tmp_path / "registered"))
    head = audit_study(folder).head
    with sqlite3.connect(folder / "ledger" / STUDY.file) as connection:
        connection.execute("DELETE FROM records WHERE seq = 8")
        connection.execute("DELETE FROM transactions WHERE seq = 10")
    connection.close()
    report = audit_study(folder)
    assert (report.findings, report.verdict) == ([], Verdict.UNFINISHED)
    assert report.notes == ["the end of trials 3 is not recorded; resume does so"]
    resume_study(folder, quiet=True, means=simulated())
    report = audit_study(folder)
    assert (report.findings, report.head) == ([], head)


def test_changes_after_the_fact_are_named(done: Path, copy: Path):
    original = (copy / "optuna.db").read_bytes()
    database(copy, "UPDATE trial_values SET value = 0.99 WHERE trial_id = 2")
    name = "validation/personal/macro_f1"
    assert {(1, "ended", "values.0"), (1, "database", name)} <= places(copy)
    (copy / "optuna.db").write_bytes(original)

    database(copy, "UPDATE trials SET state = 'FAIL' WHERE trial_id = 2")
    assert (1, "database", "state") in places(copy)
    (copy / "optuna.db").write_bytes(original)

    database(copy, "DELETE FROM trials WHERE trial_id = 4")
    assert (3, "database", "trial") in places(copy)  # dropped
    (copy / "optuna.db").write_bytes(original)

    opened_ = optuna.load_study(study_name=None, storage=f"sqlite:///{copy / 'optuna.db'}")
    added = optuna.Trial(opened_, opened_.ask()._trial_id)
    attributes = opened_.get_trials()[1].user_attrs | {"trial": 4}
    for key, value in attributes.items():
        added.set_user_attr(key, value)
    assert (4, "database", "trial") in places(copy)  # added
    (copy / "optuna.db").write_bytes(original)

    statement = "UPDATE trial_user_attributes SET value_json = replace(value_json, '0.04', '0.03') WHERE trial_id = 3"
    database(copy, f"{statement} AND key IN ('keys', 'config')")
    found = places(copy)
    assert {(2, "begun", "keys.federation.learning_rate"), (2, "folder", "config_hash")} <= found
    (copy / "optuna.db").unlink()
    assert (None, "database", "file") in places(copy)
    assert not (copy / "optuna.db").exists()


def test_swapped_changed_and_surplus_folders_are_named(copy: Path):
    one, two = trial_folder(copy, 1), trial_folder(copy, 2)
    one.rename(copy / "aside")
    two.rename(one)
    (copy / "aside").rename(two)
    found = places(copy)
    assert {(number, "ended", "results.0.model_hash") for number in (1, 2)} <= found
    assert {(number, "folder", "config_hash") for number in (1, 2)} <= found
    shutil.copytree(one, trial_folder(copy, 9))
    assert (9, "folder", "0009") in places(copy)
    shutil.rmtree(one)
    assert (1, "folder", "result.json") in places(copy)


def test_a_changed_result_study_file_or_missing_ledger_is_named(copy: Path):
    path = trial_folder(copy, 1) / "seed-0" / "result.json"
    text = path.read_text()
    result = json.loads(text)
    result["final"]["personal"]["accuracy"] = 0.999
    path.write_text(json.dumps(result))
    assert places(copy) == {(1, "ended", "results.0.digest")}
    result = json.loads(text)
    result["timing"]["total_seconds"] += 1  # times are not anchored
    path.write_text(json.dumps(result))
    assert places(copy) == set()
    study = copy / "study.yaml"
    study.write_text(study.read_text().replace("learning_rate: 0.05", "learning_rate: 0.06"))
    assert places(copy) == {(None, "design", "design.0.federation.learning_rate")}
    shutil.rmtree(copy / "ledger")
    assert (None, "study", "ledger") in places(copy)


def test_without_a_ledger_nothing_is_registered(tmp_path: Path):
    start_study(study_of(trials=2, ledger={"backend": "none"}), tmp_path / "s", quiet=True, means=simulated())
    assert not (tmp_path / "s" / "ledger").exists()
    report = audit_study(tmp_path / "s")
    notes = [
        "no ledger was kept (ledger.backend is none): nothing was registered",
        "trial 1: repeat 0 kept no ledger, nothing of it is signed",  # trial 0 failed
    ]
    assert (report.findings, report.unchecked, report.verdict.code) == ([], notes, 4)


def test_a_study_whose_ray_never_came_is_unfinished_and_has_nothing_wrong(tmp_path: Path):
    @contextlib.contextmanager
    def ray(execution: ExecutionConfig) -> Iterator[Any]:
        raise ResourceError("none")
        yield

    with pytest.raises(ResourceError, match="none"):
        start_study(study_of(trials=2), tmp_path / "s", quiet=True, means=replace(simulated(), ray=ray))
    report = audit_study(tmp_path / "s")
    assert (report.findings, report.unchecked, report.verdict.code) == ([], [], 5)
    (tmp_path / "s" / "trials" / "0000").mkdir(parents=True)
    assert places(tmp_path / "s") == {(None, "study", "ledger")}


def test_times_are_left_out_and_all_else_is_not():
    result = {
        "timing": {"total_seconds": 1, "gradient_evaluations": 7},
        "ledger": {"seconds": 2, "overhead_share": 3, "head": "h"},
        "rounds": [{"train_seconds": 1, "loss": 2}],
        "final": {"hurt_share": 0.5},
        "config": {"balance": {"policy": {"expiry_seconds": 3600}}},
    }
    assert registration._timeless(result) == {
        "timing": {"gradient_evaluations": 7},
        "ledger": {"head": "h"},
        "rounds": [{"loss": 2}],
        "final": {"hurt_share": 0.5},
        "config": {"balance": {"policy": {"expiry_seconds": 3600}}},
    }


# --- From MLflow ------------------------------------------------------------------------------------------------------


def test_an_audit_starts_from_an_mlflow_run(done: Path, copy: Path, capsys):
    import mlflow

    store = f"sqlite:///{copy / 'mlflow.db'}"
    client = mlflow.MlflowClient(store)
    runs = client.search_runs([client.get_experiment_by_name("pulseledger").experiment_id])
    by_number = {run.data.tags.get("number"): run.info.run_id for run in runs}
    assert main(["audit", "--mlflow", by_number["1"], str(copy), "--json"]) == 0
    ((home, report),) = json.loads(capsys.readouterr().out).items()
    assert home == str(trial_folder(copy, 1) / "seed-0")
    assert report["verdict"] == "clean"
    assert main(["audit", "--mlflow", by_number[None], "--store", store, "--json"]) == 0
    ((home, report),) = json.loads(capsys.readouterr().out).items()
    assert (home, len(report["runs"])) == (str(copy), 4)
    assert {"ledger.head", "ledger.contract", "ledger.chain_id"} <= client.get_run(by_number[None]).data.tags.keys()
    tags = {"ledger.head", "ledger.contract", "ledger.chain_id", "ledger.closing", "model_hash"}
    for name in tags:
        client.set_tag(by_number["1"], name, "0x99")
    assert main(["audit", "--mlflow", by_number["1"], str(copy), "--json"]) == 1
    ((_, report),) = json.loads(capsys.readouterr().out).items()
    assert {(f["record"], f["field"], f["found"]) for f in report["findings"]} == {("mlflow", n, "0x99") for n in tags}
    client.set_tag(by_number[None], "ledger.head", "0x99")
    assert main(["audit", "--mlflow", by_number[None], str(copy)]) == 1
    assert "finding: mlflow.ledger.head: MLflow's tag" in capsys.readouterr().out
    assert main(["audit", "--mlflow", "0" * 32, str(copy)]) == 2
    assert main(["audit", "--mlflow", by_number["1"], str(copy / "trials")]) == 2
