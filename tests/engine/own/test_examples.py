"""The files under examples/parts: they are what docs/extending.md shows, and they run."""

import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from reference import ROOT

from engine.audit.known import Known
from engine.audit.report import Verdict
from engine.audit.run import audit
from engine.config import OWN_KEYS, RunConfig
from engine.experiment import run
from engine.own.reference import is_own
from engine.paths import anchored
from engine.reads import value_at
from engine.result import Result
from engine.settings import load_yaml, parse, set_key
from engine.tracking.models import torch_model
from sweeps.audit import own_rule
from sweeps.checks import load_study
from sweeps.methods import method_of
from sweeps.source import read_file

PARTS = ROOT / "examples/parts"
PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")


def configured(name: str, **changes: Any) -> RunConfig:
    """A file of examples/parts as a run of seconds."""
    values = load_yaml(PARTS / name)
    for key, value in {"execution.pool": "inprocess", "tracking.backend": "none", **changes}.items():
        set_key(values, key, value)
    return parse(RunConfig, anchored(values, PARTS), name)


@pytest.mark.parametrize("path", sorted(PARTS.iterdir()), ids=lambda path: path.name)
def test_the_page_shows_each_file_to_the_letter(path: Path):
    shown = re.findall(r"^<!-- (\S+) -->\n```(?:python|yaml)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    texts = dict(shown)
    assert path.suffix in (".py", ".yaml")
    assert texts.get(path.name) == path.read_text(encoding="utf-8")


def test_the_two_runs_name_a_part_of_every_kind():
    configs = [configured(name) for name in ("clinic.yaml", "parts.yaml")]
    assert {key for key in OWN_KEYS if any(is_own(value_at(config, key)) for config in configs)} == set(OWN_KEYS)


def test_the_table_of_visits_runs_and_its_audit_is_clean(tmp_path: Path):
    changes = {"federation.rounds": 4, "data.parameters": {"patients": 25}, "ledger.window": 0}
    result = run(configured("clinic.yaml", **changes), tmp_path / "run")
    assert (result.cohort.unit, result.cohort.shape) == ("visits", (1, 10))
    assert result.cohort.features[2::5] == ("creatinine", "creatinine missing")
    assert result.cohort.leaky == ()
    assert result.cohort.leads == {}
    assert set(result.final.global_.recall) == {"stable", "watch", "admit"}
    assert result.final.personal.macro_f1 > result.cohort.local_majority_macro_f1 + 0.2
    rows = pq.read_table(tmp_path / "run/predictions.parquet").to_pylist()
    assert {row["patient"].split()[0] for row in rows} == {"north", "south", "harbour"}
    assert audit(tmp_path / "run").verdict is Verdict.CLEAN
    module, example = torch_model(tmp_path / "run")  # as MLflow keeps it, made from the copy of its source
    assert module(torch.tensor(example)).shape == (2, 3)


@pytest.mark.long
def test_all_other_kinds_run_together_and_the_audit_says_what_it_takes_their_word_for(tmp_path: Path):
    config = configured("parts.yaml", **{"federation.rounds": 2})
    assert method_of(config).title.count("@") == 7  # the attack is no part of the method
    result = run(config, tmp_path / "run")
    assert [row.participants for row in result.rounds] == [2, 3]
    assert {row.generator for row in result.synthesis or ()} == {"own"}
    assert any(row.accepted for row in result.synthesis or ())
    report = audit(tmp_path / "run", known=Known(execute=own_rule))
    assert report.findings == []
    assert report.counts["aggregates"] == 2
    assert {note.partition(", digest")[0] for note in report.unchecked} == {
        "own part, not recomputed here: schedule schedule.py:Growing",
        "own part, not recomputed here: selection selection.py:turns",
    }


def test_a_run_of_own_parts_that_is_cut_off_goes_on_to_the_same_bits_in_another_place(tmp_path: Path):
    config = configured("parts.yaml", **{"federation.rounds": 2, "balance.method": "none", "balance.policy": {}})
    whole = run(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "moved")
    (tmp_path / "moved/result.json").unlink()
    (tmp_path / "moved/checkpoint.safetensors").unlink()
    shutil.rmtree(tmp_path / "moved/ledger")
    again = run(config, tmp_path / "moved")
    assert again.model_hash == whole.model_hash
    assert Result.read(tmp_path / "moved").final == whole.final


def test_the_study_compares_three_methods_under_two_rules_for_what_is_missing():
    given = read_file(PARTS / "clinic_study.yaml")
    study = load_study(given.values, given.source)
    assert study.conditions == {"data.missing": ["mask", "median"]}
    assert is_own(study.baselines[2]["federation.algorithm"])
