"""What MLflow knows of a study: its runs, and what is sent again after a tracker or a store was lost."""

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from processes import actors
from reference import Heard, settled
from simulated_ray import simulated
from studies import ROUNDS, outcome, runs_of, store_of, trials_of

from engine.background import Background
from engine.result import Result
from engine.tracking.config import TrackingConfig
from engine.tracking.queue import SPOOL
from engine.tracking.store import store_uri
from engine.tracking.tracker import Tracker, open_tracker
from sweeps.answer import answers
from sweeps.folder import STUDY_FILE, repeat_folder, trial_folder
from sweeps.means import Limits, Means
from sweeps.mirrored import study_note
from sweeps.rows import rows_of
from sweeps.start import resume_study


def test_mlflow_has_one_parent_and_one_child_for_each_trial(done: Path):
    client, runs = runs_of(done, "pulseledger")
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert len(children) == 4
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sorted(run.data.tags["number"] for run in children) == ["0", "1", "2", "3"]
    assert 0 < parent.data.metrics["sweep/training_share"] < 1
    trials = {str(t.number): t for t in trials_of(done)}
    counts = {name: parent.data.metrics[name] for name in parent.data.metrics if name.startswith("sweep/n_")}
    assert counts == {"sweep/n_complete": 4.0, "sweep/n_pruned": 0.0, "sweep/n_fail": 0.0}
    for hospitals in (2, 3):
        best = f"sweep/best/hospitals {hospitals}/validation personal macro_f1"
        points = client.get_metric_history(parent.info.run_id, best)
        assert points[-1].step == 4
        assert points[-1].value == max(t.values[0] for t in trials.values() if t.condition == f"hospitals={hospitals}")
        assert sorted(p.value for p in points) == [p.value for p in points]
    assert {m for m in parent.data.metrics if m.startswith("system/")} >= {"system/cpu_utilization_percentage"}
    files = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert files == {STUDY_FILE, "pareto.json", "trials.parquet", "report"}
    assert "pulseledger sweep study.yaml" in parent.data.tags["mlflow.note.content"]
    assert [d.dataset.name for d in parent.inputs.dataset_inputs] == ["simulated"]
    (winner,) = [run for run in children if "model.id" in run.data.tags]
    assert trials[winner.data.tags["number"]].values[0] == max(t.values[0] for t in trials.values())
    assert [m.model_id for m in parent.outputs.model_outputs] == [winner.data.tags["model.id"]]
    for run in children:
        trial = trials[run.data.tags["number"]]
        assert run.data.tags["condition"] == trial.condition
        # what varies, and nothing else
        assert run.data.params == {
            "federation.learning_rate": str(trial.keys["federation.learning_rate"]),
            "cohort.hospitals": trial.condition[-1],
        }
        assert run.info.run_name == f"FedAvg + fine-tuning | {trial.condition} | trial {trial.number}"
        assert run.data.tags["optuna.number"] == str(trial.frozen.number)
        assert run.data.metrics["validation/personal/macro_f1"] == trial.values[0]
        curve = client.get_metric_history(run.info.run_id, "val/macro_f1")
        assert [point.step for point in curve] == list(range(1, ROUNDS + 1))
        result = Result.read(repeat_folder(trial_folder(done, trial.number), 0))
        assert run.data.metrics["final/personal/macro_f1"] == pytest.approx(result.final.personal.macro_f1)
        assert run.data.tags["ledger.head"] == result.ledger.head


def test_the_study_s_run_compares_methods_within_a_condition_as_compare_does(done: Path):
    _, runs = runs_of(done, "pulseledger")
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    note = parent.data.tags["mlflow.note.content"]
    found = answers(rows_of(done))
    assert len(found) == 2
    for answer in found:
        assert answer.text.removeprefix(answer.condition) in note
        (standing,) = answer.standings
        name = f"{answer.condition.replace('=', ' ')}/final personal macro_f1/FedAvg fine-tuning"
        assert parent.data.metrics[name] == pytest.approx(standing.outcome.mean("final/personal/macro_f1"))
        assert f"| FedAvg + fine-tuning | {standing.outcome.mean('final/personal/macro_f1'):.3f} |" in note
    # nothing is taken over conditions
    assert [name for name in parent.data.metrics if "macro_f1" in name and "hospitals" not in name] == []


def test_a_note_fits_into_a_tag(done: Path):
    found = answers(rows_of(done))
    long = study_note(found * 20, "how to get it again")
    assert len(long) < 8000
    assert long.endswith("how to get it again")
    assert long.startswith("**hospitals=2**: ")


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
            assert len(client.get_metric_history(run.info.run_id, "final/personal/macro_f1")) == 1
            files = {a.path for a in client.list_artifacts(run.info.run_id)}
            assert files == {"result.json", "config.yaml", "confusion.svg"}
    return by_number


def test_what_is_missing_in_mlflow_is_sent_by_a_resume(done: Path, tmp_path: Path):
    """Optuna and the folders have every trial. MLflow has none at first; then a run, some points and two ends are lost."""
    folder = tmp_path / "lost"
    elsewhere(done, folder, store_of(done, "lost"))
    resume_study(folder, Heard(), means=simulated())
    before = complete(done, "lost")
    client, _ = runs_of(done, "lost")
    client.delete_run(before["0"].info.run_id)
    with contextlib.closing(sqlite3.connect(done / "mlflow.db")) as store, store:
        lost = (before["1"].info.run_id, ROUNDS)
        store.execute("DELETE FROM metrics WHERE run_uuid = ? AND step = ?", lost)
    for number in ("2", ""):
        client.update_run(before[number].info.run_id, status="RUNNING")
    resume_study(folder, Heard(), means=simulated())
    after = complete(done, "lost")
    assert {n for n in before if before[n].info.run_id != after[n].info.run_id} == {"0"}
    assert before["3"].info.end_time == after["3"].info.end_time  # nothing was missing there
    assert outcome(folder) == outcome(done)


class _Shot(Background[Tracker]):
    """A tracker whose process is killed when the first and the third trial have just been sent, and once before the
    study's own run is ended; `sent` are the keys of the runs that were, over all trackers of the test."""

    sent: ClassVar[list[str]] = []

    def submit(self, method: Any, /, *args: Any, **keys: Any) -> Any:
        if method is not Tracker.finish or args[0] in self.sent:
            return super().submit(method, *args, **keys)
        if args[0].count("/") == 1:  # the study's; those of its trials end in a number
            self.sent.append(args[0])
            self._kill()
        answer = super().submit(method, *args, **keys)
        answer.result()
        self.sent.append(args[0])
        if len(self.sent) in (1, 3):
            self._kill()
        return answer

    def _kill(self) -> None:
        (process,) = actors(os.getpid(), "background")
        process.kill()
        process.wait(20)


@pytest.mark.long
def test_trackers_that_are_killed_one_after_another_lose_nothing(done: Path, ray2, tmp_path: Path):
    settled()
    folder = tmp_path / "shot"
    elsewhere(done, folder, store_of(done, "shot"))

    def start(config: TrackingConfig, folder: Path, actor: bool) -> Background[Tracker]:
        return _Shot(open_tracker, store_uri(config, folder), config.experiment, folder / SPOOL, actor=actor)

    heard = Heard()
    resume_study(folder, heard, means=Means(start_tracker=start))
    assert sum("the tracker's process was lost" in note for note in heard.notes) == 3, heard.notes
    complete(done, "shot")


def test_a_store_that_is_away_until_all_trials_have_ended_is_completed_later(done: Path, tmp_path: Path):
    folder = tmp_path / "late"
    elsewhere(done, folder, {"backend": "mlflow", "uri": "http://127.0.0.1:9", "experiment": "late"})
    heard = Heard()
    resume_study(folder, heard, means=simulated(limits=Limits(store=0.0)))  # MLflow being away is no reason to fail
    assert any("the store is away (no MLflow store at http://127.0.0.1:9" in note for note in heard.notes)
    assert any("4 trials are not complete there" in note for note in heard.notes)
    elsewhere(done, folder, store_of(done, "late"))
    heard = Heard()
    resume_study(folder, heard, means=simulated())
    assert not any("is away" in note or "not complete" in note for note in heard.notes)
    complete(done, "late")
