"""The file for the regulator: nothing in it without a test or a figure, and the tests are there."""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest
from reference import ROOT

from engine.errors import DataError
from engine.result import RESULT, Result
from sweeps import Study
from sweeps.__main__ import main
from sweeps.dossier.document import FILL, sections
from sweeps.dossier.facts import facts_of
from sweeps.dossier.measures import frameworks, measures
from sweeps.dossier.write import markdown, plain, write_dossier
from sweeps.folder import STUDY_FILE


def defined(path: Path) -> set[str]:
    """Names of the tests of a file."""
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_a_claim_names_is_there() -> None:
    named = [test for one in measures().values() for test in one.tests]
    assert len(named) > 40
    for test in named:
        file, _, name = test.partition("::")
        assert (ROOT / file).is_file(), test
        assert name in defined(ROOT / file), test


def test_every_test_that_the_page_on_compliance_names_is_there() -> None:
    text = (ROOT / "docs/compliance.md").read_text()
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert name in defined(ROOT / file), name


def test_every_measure_has_tests_and_limits_and_is_used() -> None:
    used = {name for lines in frameworks().values() for line in lines for name in line.get("by", ())}
    for one in measures().values():
        assert one.tests, one.name
        assert one.limits, one.name
        assert one.when in ("", "ledger", "keystore", "privacy", "secret key", "synthesis", "robust rule"), one.name
    assert measures().keys() - used <= {"groups"}  # it speaks of the model card
    assert set(frameworks()) == {"hipaa", "stride", "linddun", "annex_iv"}
    wanted = {"164.308", "164.310", "164.312"}
    assert {line["at"][:7] for line in frameworks()["hipaa"]} == wanted
    assert len({line["flow"] for line in frameworks()["stride"]}) >= 5
    assert {line["kind"] for line in frameworks()["stride"]} == set("STRIDE")


def test_a_dossier_of_a_study_holds_its_figures_and_marks_what_people_must_add(seen: Study, tmp_path: Path) -> None:
    html, text = write_dossier(seen.folder, tmp_path / "out", lambda folder: "clean")
    said = text.read_text()
    facts = facts_of(seen.folder)
    for result in facts.results:
        assert result.cohort.digest in said
        assert result.model_hash in said or result not in [r for trial in facts.best for r in trial.results]
    for trial in facts.best:
        spread = trial.outcome.scores["final/personal/macro_f1"]
        assert spread.interval is not None
        assert f"| {spread.mean:.3f} | {spread.interval[0]:.3f} to {spread.interval[1]:.3f} |" in said
    assert "not bounded: no run used a privacy mechanism" in said
    for name, there in (("dp", False), ("signed", False), ("keys", False), ("data-stays", True), ("lost", True)):
        told = plain(measures()[name].does)
        assert (f"Not in force in all runs here: {told}" in said) != there, name  # neither ledger nor privacy here
        assert told in said
    assert said.count(FILL) >= 15
    assert f"{said.count(FILL)} places are marked" in said
    page = html.read_text()
    assert page.count(FILL) == said.count(FILL)
    assert "<h2>Read first</h2>" in page
    assert "Not a medical device" in page
    assert "default-src 'none'" in page
    for title in (
        "Record of processing",
        "Data protection impact assessment",
        "HIPAA safeguards",
        "Threat model",
        "Model card",
    ):
        assert f"## {title}" in said


def test_a_dossier_of_a_run_tells_epsilon_and_membership_as_they_were_measured(seen: Study, tmp_path: Path) -> None:
    run = Path(shutil.copytree(seen.folder / "trials/0000/seed-0", tmp_path / "run"))
    document = json.loads((run / RESULT).read_text())
    document["privacy"] = {
        "mechanism": "dp-sgd", "unit": "beat", "neighbours": "add or remove", "epsilon": 3.25, "delta": 1e-5, "pld": 3.25, "rdp": 3.5,
        "alone": 9.5, "shares": 4, "sigma": 1.0, "clip": 1.0, "sampling_rate": 0.1, "budget": [10, 0], "secret": "simulated", "most_beats_of_a_patient": 7,
        "not_protected": ["test <tables>"], "hospitals": [{"id": 0, "samples": [10, 0], "epsilon": 3.25, "told": True}],
    }  # fmt: skip
    (run / RESULT).write_text(json.dumps(document))
    (run / "synthetic").mkdir(exist_ok=True)
    for name, privacy in (
        ("a", {"membership_auc": 0.612}),
        ("b", {"not_computable": "3 beats"}),
        ("c", {"membership_auc": {"not_computable": "few"}}),
    ):
        (run / f"synthetic/evidence-{name}.json").write_text(json.dumps({"privacy": privacy}))
    (run / "synthetic/evidence-d.json").write_text("[")
    assert Result.read(run).privacy is not None
    said = markdown("x", "", sections(facts_of(run), "x"))
    assert "epsilon 3.25 at delta 1e-05 for one beat of one hospital" in said
    assert "9.50 against all others of a masked sum together" in said
    assert "so nothing is protected from whoever knows the seed" in said
    assert "test \\<tables\\>" in said
    for words in (
        "AUC of membership inference 0.612",
        "not computable: 3 beats",
        "not computable: few",
        "the evidence cannot be read",
    ):
        assert words in said, words


def test_where_nothing_has_finished_there_is_no_dossier(tmp_path: Path, seen: Study) -> None:
    (tmp_path / STUDY_FILE).write_text((seen.folder / STUDY_FILE).read_text())
    shutil.copy(seen.folder / ".id", tmp_path / ".id") if (seen.folder / ".id").exists() else None
    with pytest.raises(DataError, match="no trial has finished"):
        facts_of(tmp_path)


def test_words_of_the_data_are_text_in_markdown() -> None:
    assert plain("a|b\n<script>") == "a\\|b\\\\n\\<script\\>"


def test_the_command_writes_both_files(seen: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dossier", str(seen.folder), "--out", str(tmp_path / "out"), "--no-audit"]) == 0
    assert "what people must add is marked" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").glob("dossier.*")) == ["dossier.html", "dossier.md"]
    assert "not made: pulseledger audit DIR recomputes everything" in (tmp_path / "out/dossier.md").read_text()
