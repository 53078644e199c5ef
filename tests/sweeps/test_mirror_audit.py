"""What MLflow holds of a study must be what its folder gives: whatever is edited, missing or added is named."""

import shutil
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.audit.report import Finding, Note, Report
from engine.audit.study import audit_records
from engine.paths import sqlite_uri
from engine.tracking.store import Kept, read_runs
from sweeps.audit import audit_study
from sweeps.folder import read_study, read_trials
from sweeps.mirror_audit import (
    MEASURED,
    UNBOUND,
    Wanted,
    audit_mlflow,
    check,
    check_note,
    check_study,
    of_study,
    of_trial,
)


def parent_of(folder: Path) -> str:
    """MLflow's id of the study's own run."""
    with sqlite3.connect(folder / "mlflow.db") as store:
        hanging = "SELECT run_uuid FROM tags WHERE key = 'mlflow.parentRunId'"
        (found,) = store.execute(f"SELECT run_uuid FROM runs WHERE run_uuid NOT IN ({hanging})").fetchall()
    store.close()
    return found[0]


@pytest.fixture(scope="module")
def kept(agreed: Path) -> list[Kept]:
    """The study's run in MLflow, and those of its trials."""
    return read_runs(sqlite_uri(agreed / "mlflow.db"), parent_of(agreed))


@pytest.fixture(scope="module")
def wanted(agreed: Path, kept: list[Kept]) -> list[Wanted]:
    """What the folder gives of each run."""
    study, report = read_study(agreed), audit_study(agreed, checks=())
    recorded = audit_records(agreed / "ledger", Report(), checks=())
    trials = {trial.number: trial for trial in read_trials(study, agreed)}
    own = of_study(study, agreed, list(trials.values()), recorded, report)
    return [own, *(of_trial(study, agreed, trials[int(run.tags["number"])]) for run in kept[1:])]


def found(kept: Kept, wanted: Wanted, **changes: Any) -> set[str]:
    """What is found wrong with a run of MLflow."""
    told = check(kept._replace(**changes), wanted)
    return {each.field for each in told if isinstance(each, Finding)}


def trial_of(kept: Kept) -> int | None:
    return int(kept.tags["number"]) if "number" in kept.tags else None


def without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def test_mlflow_agrees_with_the_folder(agreed: Path, kept: list[Kept]):
    assert sorted(str(trial_of(run)) for run in kept) == ["0", "1", "2", "None"]
    home, report = audit_mlflow(parent_of(agreed), None, agreed)
    assert (home, report.findings, report.unchecked) == (agreed, [], [])
    assert report.counts["runs in MLflow"] == 4


def test_every_parameter_is_held(kept: list[Kept], wanted: list[Wanted]):
    for run, held in zip(kept, wanted, strict=True):
        assert found(run, held) == set()
        assert found(run, held, params={**run.params, "added": "1"}) == {"added"}
        for name, text in run.params.items():
            for params in ({**run.params, name: f"{text}1"}, without(run.params, name)):
                assert found(run, held, params=params) == {name}
    assert {"federation.learning_rate"} == {name for run in kept for name in run.params}


def test_every_point_of_every_metric_is_held(kept: list[Kept], wanted: list[Wanted]):
    """Whatever is written: a new metric that nothing is held against fails here, until it is held or in UNBOUND."""
    seen = set()
    for run, held in zip(kept, wanted, strict=True):
        for name in (name for name in run.latest if not name.startswith(UNBOUND)):
            points = list(run.curves[name])
            named = set() if name in MEASURED else {name}  # seconds of a round that was done twice: not verified
            seen.add(name)
            for place, (step, value) in enumerate(points):
                other = [*points[:place], (step, value + 0.5), *points[place + 1 :]]
                assert found(run, held, curves={**run.curves, name: other}) == named, name
            assert found(run, held, latest={**run.latest, name: run.latest[name] + 0.5}) == named, name
            more = [*points, (points[-1][0] + 1, points[-1][1])]
            assert found(run, held, curves={**run.curves, name: more}) == {name}
            gone = {"curves": without(run.curves, name), "latest": without(run.latest, name)}
            assert found(run, held, **gone) == {name}
        added = {"curves": {**run.curves, "final/new": [(0, 1.0)]}, "latest": {**run.latest, "final/new": 1.0}}
        assert found(run, held, **added) == {"final/new"}
    assert {
        "train/loss",
        "val/macro_f1",
        "perf/round_s",
        "final/personal/macro_f1",
        "sd/final/personal/macro_f1",
    } <= seen
    assert {"sweep/n_complete", "sweep/rounds_saved", "timing/total_seconds"} <= seen


def test_seconds_of_a_round_that_differ_are_not_verified(agreed: Path, tmp_path: Path):
    copy = Path(shutil.copytree(agreed, tmp_path / "study"))
    with sqlite3.connect(copy / "mlflow.db") as store:
        store.execute("UPDATE metrics SET value = value + 1 WHERE key = 'perf/train_s' AND step = 2")
    store.close()
    _, report = audit_mlflow(parent_of(copy), None, copy)
    assert report.findings == []
    assert len(report.unchecked) == 3
    assert all("perf/train_s at step 2" in words for words in report.unchecked)


# Of MLflow's tags: where a run lies, what MLflow and this program note of themselves, and how to get the numbers again.
FREE = {
    "folder", "pulseledger.key", "optuna.storage", "mlflow.parentRunId", "mlflow.note.content", "mlflow.runName",
    "mlflow.source.name", "mlflow.source.type", "mlflow.user", "mlflow.source.git.commit", "mlflow.source.git.branch",
    "mlflow.source.git.dirty", "mlflow.source.git.repoURL", "model.id",
}  # fmt: skip


def test_every_tag_is_held_or_listed(agreed: Path, kept: list[Kept], wanted: list[Wanted]):
    for run, held in zip(kept, wanted, strict=True):
        for name in run.tags.keys() - FREE:
            assert found(run, held, tags={**run.tags, name: "other"}) == {name}
            assert found(run, held, tags=without(run.tags, name)) == {name}
        assert found(run, held, status="RUNNING") == set()
        assert found(run, held, status="FAILED") == {"status"}
        assert found(run, held, name="other") == {"name"}
    said = kept[0].tags["mlflow.note.content"]
    for note in (said.replace("hospital", "clinic"), ""):
        told = check_note(kept[0]._replace(tags={**kept[0].tags, "mlflow.note.content": note}), agreed)
        assert [each.field for each in told if isinstance(each, Finding)] == ["mlflow.note.content"]


def test_a_run_that_mlflow_believes_to_go_on_is_not_verified(kept: list[Kept], wanted: list[Wanted]):
    told = list(check(kept[1]._replace(status="RUNNING", curves={}, latest={}), wanted[1]))
    assert ["says that it still goes on" in each.text for each in told if isinstance(each, Note)] == [True]


def test_a_trial_s_run_that_is_gone_or_there_twice_is_named(agreed: Path, kept: list[Kept]):
    study, report = read_study(agreed), audit_study(agreed, checks=())
    recorded, trials = audit_records(agreed / "ledger", Report(), checks=()), read_trials(study, agreed)

    def numbers(runs: list[Kept]) -> list[tuple[int | None, str]]:
        told = check_study(runs, study, agreed, trials, recorded, report)
        return [(each.trial, each.found) for each in told if isinstance(each, Finding)]

    number = trial_of(kept[1])
    assert numbers([kept[0], *kept[2:]]) == [(number, "nothing")]
    assert numbers([*kept, kept[1]]) == [(number, str(number))]
    odd = kept[1]._replace(tags={**kept[1].tags, "number": "²"})
    assert numbers([kept[0], odd, *kept[2:]]) == [(-1, "²"), (number, "nothing")]


@pytest.mark.parametrize("table", ["metrics", "latest_metrics", "params"])
def test_what_is_changed_in_the_store_is_named_and_the_store_is_not_touched(agreed: Path, tmp_path: Path, table: str):
    copy = Path(shutil.copytree(agreed, tmp_path / "study"))
    column, key = ("value", "federation.learning_rate") if table == "params" else ("value", "final/personal/macro_f1")
    with sqlite3.connect(copy / "mlflow.db") as store:
        assert store.execute(f"UPDATE {table} SET {column} = 0.125 WHERE key = ?", (key,)).rowcount >= 2
    store.close()
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    _, report = audit_mlflow(parent_of(copy), None, copy)
    assert {found.field for found in report.findings} == {key}
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_a_tag_leads_to_no_other_folder(agreed: Path, tmp_path: Path):
    copy = Path(shutil.copytree(agreed, tmp_path / "study"))
    here = Path(shutil.copytree(agreed, tmp_path / "here"))
    run = parent_of(here)
    with sqlite3.connect(here / "mlflow.db") as store:
        store.execute("UPDATE tags SET value = ? WHERE key = 'study' AND run_uuid = ?", (str(copy), run))
    store.close()
    home, report = audit_mlflow(run, None, here)
    assert home == here
    assert {found.field for found in report.findings} == {"study"}
