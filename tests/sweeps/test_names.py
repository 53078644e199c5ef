"""Names of records and hospitals stay text on their way through a study: conditions, Optuna, tables, CSV, MLflow, the audit."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import ecg
import optuna
import pyarrow.parquet as pq
import pytest
from reference import TINY, Heard
from simulated_ray import simulated

from engine.result import PREDICTIONS, Result
from engine.settings import load_yaml, set_key
from sweeps.__main__ import main
from sweeps.audit import audit_study
from sweeps.checks import load_study
from sweeps.folder import read_study, repeat_folder, trial_folder
from sweeps.rows import hospitals_frame, rows_of
from sweeps.start import start_study
from sweeps.table import as_csv, as_json

NAMES = ("04015", "0001", "3141595_0001", "010")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("names")
    for name in NAMES:
        ecg.write(place / "records", name, seconds=40)
    (place / "p.csv").write_text("record,patient\n" + "".join(f"{name},00{i}\n" for i, name in enumerate(NAMES)))
    text = f"""
name: 0042
data: {{source: folder, folder: {place / "records"}, window: [60, 90], classes: [usual beat, pvc],
  symbols: {{N: usual beat, V: pvc}}, patients: {place / "p.csv"}}}
cohort: {{hospitals: 2, partition: records, groups: [[04015], [0001]], fractions: [0.5, 0.2, 0.3]}}
conditions:
  cohort.groups:
    - [[04015, 010], [0001, 3141595_0001]]
    - [[010], [0001]]
tracking: {{backend: mlflow, models: none}}
execution: {{cpus: 2, pool: inprocess}}
federation: {{rounds: 1}}
objectives: {{validation/personal/recall/pvc: maximize}}
"""
    (place / "study.yaml").write_text(text)
    values: dict[str, Any] = load_yaml(place / "study.yaml")
    for key, value in TINY.items():
        if key.startswith("model"):
            set_key(values, key, value)
    start_study(load_study(values, "study.yaml"), place / "out", Heard(), means=simulated())
    return place / "out"


def test_records_and_patients_of_the_results_are_those_of_the_files(study: Path) -> None:
    groups = [tuple(tuple(h.records) for h in _result(study, trial).cohort.hospitals) for trial in (0, 1)]
    assert [tuple(map(set, each)) for each in groups] == [
        ({"04015", "010"}, {"0001", "3141595_0001"}),
        ({"010"}, {"0001"}),
    ]
    table = pq.read_table(repeat_folder(trial_folder(study, 0), 0) / PREDICTIONS).to_pydict()
    assert set(zip(table["record"], table["patient"], strict=True)) == {
        ("04015", "000"), ("0001", "001"), ("3141595_0001", "002"), ("010", "003"),
    }  # fmt: skip


def test_optuna_and_the_studys_file_keep_the_text(study: Path) -> None:
    assert read_study(study).name == "0042"
    (name,) = {s.study_name for s in optuna.get_all_study_summaries(f"sqlite:///{study / 'optuna.db'}")[:1]}
    trials = optuna.load_study(study_name=name, storage=f"sqlite:///{study / 'optuna.db'}").get_trials()
    written = json.dumps([trial.user_attrs for trial in trials])
    assert "04015" in written
    assert "010" in written
    assert "2061" not in written


def test_tables_and_csv_name_the_condition_as_it_was_written(study: Path) -> None:
    rows = rows_of(study)
    studies = {str(study): rows}
    for text in (as_csv(studies), as_json(studies)):
        assert "04015" in text
        assert "3141595_0001" in text
    read = list(csv.DictReader(io.StringIO(as_csv(studies))))
    assert {row["condition"] for row in read} == {row.condition for row in rows}
    assert set(hospitals_frame(study)["condition"]) == {row.condition for row in rows}


def test_a_study_is_tuned_for_compared_and_drawn_by_the_names_of_its_classes(study: Path, capsys: Any) -> None:
    values = {row.trial: row.objectives["validation/personal/recall/pvc"] for row in rows_of(study)}
    assert values == {n: _result(study, n).validation.personal.recall["pvc"] for n in (0, 1)}
    assert "all usual beat" in printed(capsys, ["compare", str(study)])
    printed(capsys, ["report", str(study)])
    page = next((study / "report").glob("*.html")).read_text(encoding="utf-8")
    for text in ("recall pvc", "recall usual beat", "all usual beat", "MLII 4"):
        assert text in page


def printed(capsys: Any, arguments: list[str]) -> str:
    """What a verb prints, which must end well."""
    assert main(arguments) == 0
    told = capsys.readouterr()
    return str(told.out + told.err)


def test_mlflow_keeps_the_text_and_the_audit_is_clean(study: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{study / 'mlflow.db'}")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    told = [run.data.params.get("cohort.groups", "") for run in runs]
    assert any("'04015'" in text and "'3141595_0001'" in text for text in told)
    assert audit_study(study).findings == []


def test_flags_keep_the_text(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = study.parent / "records"
    keys = ["--data.source", "folder", "--data.folder", str(place), "--cohort.hospitals", "2", "--json"]
    for records, says in (("[010, 0001]", ["0001", "010"]), ("[3141595_0001, 04015]", ["04015", "3141595_0001"])):
        assert main(["data", "describe", *keys, "--data.records", records]) == 0
        found = json.loads(capsys.readouterr().out)
        assert sorted(name for hospital in found["hospitals"] for name in hospital["records"]) == says


def _result(study: Path, trial: int) -> Result:
    return Result.read(repeat_folder(trial_folder(study, trial), 0))
