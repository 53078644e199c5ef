"""A study seen as a whole: what its MLflow run, `compare` and the Python interface say of it."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial
from reference import ROOT, TINY, command, settled
from rich.console import Console
from sweeps.compare import _all_n, as_csv, as_json, print_table, rows_of
from sweeps.study import open_studies, read_study
from sweeps.tracking import by_condition, hypervolume, pareto, study_metrics

from engine.errors import ConfigError, PulseLedgerError, StudyError
from engine.settings import load_yaml, set_key
from sweeps import Study
from sweeps.space import StudyConfig, load_study

F1, WORST, COST = "validation/personal/macro_f1", "validation/personal/recall_min", "ledger/gas_per_round"


def study_of(**keys: Any) -> StudyConfig:
    return load_study({"name": "seen", "conditions": {"cohort.hospitals": [2, 3]}, **keys}, "test")


def ended(number: int, *values: float, hospitals: int = 2, state: str = "COMPLETE", broken: float = 0.0) -> FrozenTrial:
    attributes = {"trial": number, "condition": f"hospitals={hospitals}", "keys": {"number": number}, "config": [{}]}
    trial = create_trial(
        state=TrialState[state], values=list(values) if state == "COMPLETE" else None, user_attrs=attributes
    )
    trial.set_constraint("overhead", broken)
    return trial


# --- Numbers of a study -----------------------------------------------------------------------------------------------


def test_counts_and_bests():
    study = study_of(objectives={F1: "maximize", COST: "minimize"})
    unasked = create_trial(state=TrialState.FAIL)
    trials = [
        ended(0, 0.5, 100.0),
        ended(1, 0.75, 200.0, hospitals=3),
        ended(2, 0.875, 50.0, broken=0.5),
        ended(3, state="PRUNED"),
        ended(4, state="FAIL"),
        unasked,
    ]
    found = study_metrics(study, trials)
    # 2 is better than all but breaks its constraint; the reference of the cost is twice the first trial's;
    # hospitals=2: 0.5 * (1 - 100/200), hospitals=3: 0.75 * (1 - 200/400)
    assert found.pop("sweep/hypervolume") == pytest.approx((0.25 + 0.375) / 2)
    assert found == {
        "sweep/n_complete": 3.0,
        "sweep/n_pruned": 1.0,
        "sweep/n_fail": 1.0,
        "sweep/best/validation personal macro_f1": 0.75,
        "sweep/best/ledger gas_per_round": 100.0,
    }
    assert study_metrics(study, [unasked])["sweep/hypervolume"] == 0.0


def test_the_hypervolume_is_the_area_of_the_steps():
    study = study_of(objectives={F1: "maximize", WORST: "maximize"})
    # boxes of 0.5 x 0.75 and 0.75 x 0.25 overlap in 0.5 x 0.25; (0.25, 0.25) adds nothing
    trials = [ended(0, 0.5, 0.75), ended(1, 0.75, 0.25), ended(2, 0.25, 0.25)]
    assert hypervolume(study, trials) == pytest.approx(0.375 + 0.1875 - 0.125)
    assert hypervolume(study, trials[::-1]) == hypervolume(study, trials)
    assert hypervolume(study, [ended(0, 0.0, 1.0)]) == 0.0
    three = study_of(objectives={F1: "maximize", WORST: "maximize", "ledger/overhead_share": "minimize"})
    assert hypervolume(three, [ended(0, 0.5, 0.5, 0.5)]) == pytest.approx(0.125)


def test_the_front_is_each_conditions_own():
    study = study_of(objectives={F1: "maximize", COST: "minimize"})
    trials = [
        ended(0, 0.5, 10.0),
        ended(1, 0.75, 20.0),
        ended(2, 0.5, 20.0),  # worse than both
        ended(3, 0.25, 99.0, hospitals=3),
        ended(4, 0.875, 1.0, broken=1.0),
        ended(5, 0.5, 10.0),  # as good as 0
    ]
    front = pareto(study, trials)
    assert {label: [point["trial"] for point in points] for label, points in front.items()} == {
        "hospitals=2": [0, 1, 5],
        "hospitals=3": [3],
    }
    assert front["hospitals=3"][0] == {"trial": 3, "keys": {"number": 3}, "values": {F1: 0.25, COST: 99.0}}
    single = pareto(study_of(objectives={F1: "maximize"}), [ended(0, 0.5), ended(1, 0.75)])
    assert [point["trial"] for point in single["hospitals=2"]] == [1]
    assert list(by_condition(study, [])) == ["hospitals=2", "hospitals=3"]


def test_the_baseline_of_calling_everything_n():
    # 6 of 10 are N: F1 of N is 12 / 16, of V 0, and F is not there
    assert _all_n({"N": 6, "V": 4, "F": 0}) == (0.6, pytest.approx(0.375))
    assert _all_n({"S": 1, "V": 1}) == (None, None)


# --- A small study, and what was added to its database by hand --------------------------------------------------------


def tiny_study(**more: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in {**TINY, "ledger.backend": "none", "execution.cpus": 2}.items():
        set_key(values, key, value)
    return {
        **values,
        "name": "seen",
        "conditions": {"cohort.hospitals": [2, 3]},
        "baselines": [{"federation.algorithm": "local"}],
        "search": {"federation.learning_rate": {"choice": [0.1]}},
        "sampler": "grid",
        "repeats": 2,
        **more,
    }


@pytest.fixture(scope="module")
def seen(ray2, tmp_path_factory) -> Study:
    """Two conditions, in each a baseline and a trial, two repeats."""
    settled()
    folder = tmp_path_factory.mktemp("seen") / "study"
    return Study(Study(tiny_study(), out=folder, quiet=True).run().folder)


def test_results_rounds_and_hospitals_are_frames(seen: Study):
    results, rounds, hospitals = seen.results(), seen.rounds(), seen.hospitals()
    assert list(results["trial"].sort_values()) == [0, 1, 2, 3]
    assert set(results["repeats"]) == {2}
    assert results["federation.learning_rate"].notna().sum() == 2
    assert len(rounds) == 4 * 2 * 2  # trials, repeats, rounds
    assert len(hospitals) == 2 * 2 * 2 + 2 * 2 * 3  # trials, repeats, hospitals
    for row in results.to_dict("records"):
        runs = [seen.folder / "trials" / f"{row['trial']:04d}" / f"seed-{r}" / "result.json" for r in (0, 1)]
        scores = [json.loads(path.read_text()) for path in runs]
        values = [result["final"]["personal"]["accuracy"] for result in scores]
        assert row["personal_accuracy"] == pytest.approx(np.mean(values))
        assert row["personal_accuracy_sd"] == pytest.approx(np.std(values, ddof=1))
        own = rounds[(rounds["trial"] == row["trial"]) & (rounds["repeat"] == 1)]
        assert list(own["round"]) == [1, 2]
        assert list(own["macro_f1"]) == [r["validation"]["macro_f1"] for r in scores[1]["rounds"]]
        places = hospitals[(hospitals["trial"] == row["trial"]) & (hospitals["repeat"] == 0)]
        per_hospital = scores[0]["final"]["global"]["per_hospital"]
        assert list(places["global_macro_f1"].dropna()) == [each["macro_f1"] for each in per_hospital]


def test_the_best_is_the_first_of_its_condition(seen: Study):
    results = seen.results()
    for label in ("hospitals=2", "hospitals=3"):
        assert seen.best(label)["trial"] == results[results["condition"] == label].iloc[0]["trial"]
    assert seen.best()[f"objective/{F1}"] == results[f"objective/{F1}"].max()
    with pytest.raises(StudyError, match="'hospitals=9' is no condition of this study; there are: hospitals=2; hosp"):
        seen.best("hospitals=9")


def test_a_study_is_made_from_a_file_a_folder_or_values(seen: Study, tmp_path: Path):
    assert seen.config.name == "seen"
    assert seen.folder.name == "study"
    ready = Study("quickstart.yaml", out=tmp_path / "q", federation__rounds=3)
    assert ready.config.federation.rounds == 3
    assert ready.folder == tmp_path / "q"
    assert Study(ready.config).config == ready.config
    assert Study({"name": "plain"}).folder == Path("runs/plain")
    values = tiny_study()
    Study(values, federation__rounds=7)
    assert values == tiny_study()  # the caller's own
    with pytest.raises(ConfigError, match=r"federation__round: federation.round is not a key"):
        Study("quickstart.yaml", federation__round=3)
    with pytest.raises(PulseLedgerError, match="holds neither a study"):
        Study({"name": "plain"}, out=tmp_path / "none").results()


def test_importing_the_interface_is_quick():
    code = "import sys; from sweeps import Study; sys.exit(len({'torch', 'optuna', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


ENDINGS: dict[str, dict[str, Any]] = {  # as the driver notes them
    "PRUNED": {"pruned": 2, "reason": "pruned at round 2"},
    "FAIL": {
        "reason": "HospitalError: hospital 1, round 2, train: ValueError: boom",
        "error": {"hospital": 1, "round": 2, "stage": "train", "traceback": "Traceback ..."},
    },
}


@pytest.fixture(scope="module")
def marked(seen: Study, tmp_path_factory) -> Path:
    """A copy of the study in which one trial is pruned, one has failed, and one breaks a constraint."""
    folder = Path(shutil.copytree(seen.folder, tmp_path_factory.mktemp("marked") / "study"))
    study = read_study(folder)
    (first, _), _ = open_studies(study, folder)
    template = first.get_trials()[-1].user_attrs
    results = {}
    for number, state in ((10, "PRUNED"), (11, "FAIL"), (12, "COMPLETE")):
        shutil.copytree(folder / "trials" / "0000", folder / "trials" / f"{number:04d}")
        attributes = {**template, "trial": number, "keys": {"mu": float(number)}, **ENDINGS.get(state, {})}
        complete = state == "COMPLETE"
        trial = create_trial(state=TrialState[state], values=[2.0] if complete else None, user_attrs=attributes)
        if complete:
            trial.set_constraint("ledger/overhead_share", 0.25)
        else:
            for repeat in (0, 1):
                (folder / "trials" / f"{number:04d}" / f"seed-{repeat}" / "result.json").unlink()
        first.add_trial(trial)
        results[number] = state
    return folder


def test_compare_says_how_each_trial_ended(marked: Path):
    rows = {row["trial"]: row for row in rows_of(marked)}
    order = [row["trial"] for row in rows_of(marked) if row["condition"] == "hospitals=2"]
    assert order[-3:] == [12, 10, 11]  # complete but in breach, then those without a result
    assert (rows[10]["state"], rows[10]["round"], rows[10]["rounds"]) == ("PRUNED", 2, 2)
    failed = {k: rows[11][k] for k in ("state", "hospital", "stage", "traceback", "round")}
    assert failed == {"state": "FAIL", "hospital": 1, "stage": "train", "traceback": "Traceback ...", "round": 2}
    assert rows[12]["violated"] == ["ledger/overhead_share"]
    assert rows[0]["baseline"]
    assert rows[0]["violated"] == []
    assert Study(marked).best()["trial"] != 12

    console = Console(width=170, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    print_table(list(rows_of(marked)), console)
    text = console.export_text()
    assert "trial 10 pruned at round 2, after round 2 of 2\n" in text
    assert "trial 11 failed after round 2 of 2: HospitalError: hospital 1, round 2, train: ValueError: boom\n" in text
    assert "trial 12 breaks ledger/overhead_share by 0.25\n" in text
    for baseline in ("local majority", "all N", "global majority", "baseline"):
        assert baseline in text
    assert "± is the standard deviation over the repeats" in text


def test_json_and_csv_hold_all_of_it(marked: Path, tmp_path: Path):
    rows = rows_of(marked)
    assert json.loads(as_json(rows)) == rows
    (tmp_path / "rows.csv").write_text(as_csv(rows))
    table = pd.read_csv(tmp_path / "rows.csv").set_index("trial")
    assert len(table) == len(rows)
    assert table.loc[12, "constraint/ledger/overhead_share"] == 0.25
    assert table.loc[10, "mu"] == 10.0
    assert table.loc[0, f"spread/{F1}/n"] == 2
    assert table.loc[0, f"spread/{F1}/mean"] == pytest.approx(table.loc[0, f"objective/{F1}"])
    assert table.loc[11, "stage"] == "train"
    (first,) = (row for row in rows if row["trial"] == 0)
    assert json.loads(table.loc[0, "personal_accuracy_interval"]) == first["personal_accuracy_interval"]


def test_curves_of_a_pruned_trial_come_from_its_checkpoint(marked: Path):
    rounds = Study(marked).rounds()
    assert list(rounds[rounds["trial"] == 10]["round"]) == [1, 2, 1, 2]
    hospitals = Study(marked).hospitals()
    assert not len(hospitals[hospitals["trial"] == 10])


# --- The dashboard and the example ------------------------------------------------------------------------------------


def test_optuna_itself_opens_the_database(seen: Study):
    names = optuna.get_all_study_names(f"sqlite:///{seen.folder / 'optuna.db'}")
    assert names == ["seen | hospitals=2", "seen | hospitals=3"]


def drawn(folder: Path, printed: str) -> None:
    assert "best of hospitals=" in printed
    assert (folder / "curves.png").stat().st_size > 10_000
    assert load_yaml(folder / "study.yaml")["name"] == "example"


def test_the_example_runs(ray2, tmp_path: Path, monkeypatch, capsys):
    settled()
    monkeypatch.setenv("PULSELEDGER_EXAMPLE", "tiny")
    monkeypatch.setattr(sys, "argv", ["study.py", str(tmp_path / "study")])
    runpy.run_path(str(ROOT / "examples" / "study.py"))
    drawn(tmp_path / "study", capsys.readouterr().out)


@pytest.mark.long
def test_the_whole_example_runs(tmp_path: Path):
    words = [sys.executable, str(ROOT / "examples" / "study.py"), str(tmp_path / "study")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    drawn(tmp_path / "study", done.stdout)


def test_help_of_the_command_line_is_quick():
    assert command("compare", "--help").returncode == 0
