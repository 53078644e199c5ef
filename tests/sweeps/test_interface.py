"""The Python interface of a study, and the example that uses it."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from reference import ROOT, command, settled
from studies import SEEN

from engine.errors import ConfigError, PulseLedgerError, StudyError
from engine.settings import load_yaml
from sweeps import Study

F1 = "validation/personal/macro_f1"


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
    ready = Study("ready:quickstart", out=tmp_path / "q", federation__rounds=3)
    assert ready.config.federation.rounds == 3
    assert ready.folder == tmp_path / "q"
    assert Study(ready.config).config == ready.config
    assert Study({"name": "plain"}).folder == Path("runs/plain")
    values = SEEN
    Study(values, federation__rounds=7)
    assert values == SEEN  # the caller's own
    with pytest.raises(ConfigError, match=r"federation__round: federation.round is not a key"):
        Study("ready:quickstart", federation__round=3)
    with pytest.raises(PulseLedgerError, match="holds neither a study"):
        Study({"name": "plain"}, out=tmp_path / "none").results()


def test_importing_the_interface_is_quick():
    code = "import sys; from sweeps import Study; sys.exit(len({'torch', 'optuna', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def test_what_breaks_a_constraint_is_not_the_best(marked: Path):
    assert Study(marked).best()["trial"] != 12


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
