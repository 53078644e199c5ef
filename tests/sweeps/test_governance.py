"""Reviewing from the command line: one run from request to result, and a study in which a trial waits."""

import json
from pathlib import Path
from typing import Any

import pytest
from governed import waiting
from reference import Heard, command, settled
from simulated_ray import simulated

from engine.errors import ReviewPending
from engine.ledger.signing import reviewer_key
from engine.synthesis.config import PolicyConfig
from engine.synthesis.reviews import read_state, write_review
from sweeps.__main__ import main
from sweeps.checks import load_study
from sweeps.means import MEANS, Means
from sweeps.start import resume_study, start_study

# --- The command line -------------------------------------------------------------------------------------------------


def test_the_command_line_from_request_to_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    file, folder = tmp_path / "run.yaml", tmp_path / "run"
    file.write_text(
        "name: run\ndata: {window: [90, 162], simulated: {patients: 6, minutes: 1.5}}\ncohort: {hospitals: 3}\n"
        "model: {channels: [8, 8, 16], hidden: 16}\nfederation: {rounds: 1}\ntracking: {backend: none}\n"
        "execution: {pool: inprocess}\nbalance: {method: smote, classes: SV, policy: {mode: human, preview: 0}}\n"
    )
    words = ["run", str(file), "--out", str(folder)]
    assert main(words) == 3
    said = capsys.readouterr().err
    assert "3 requests for synthetic beats wait for a reviewer" in said.strip().splitlines()[-1]
    assert main(["governance", "list", str(folder)]) == 0
    table = capsys.readouterr().out
    assert "5 requests, 3 wait for a reviewer" in table
    assert "there are too few real beats for this generator" in table
    assert main(["governance", "list", str(folder), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in rows] == ["pending"] * 3 + ["denied"] * 2
    first, second, third = (row["request"] for row in rows[:3])
    for wrong, sentence in (
        (["approve", folder, first], "governance approve: --reason is needed"),
        (["approve", folder, "zz", "--reason", "x"], "0 requests begin with 'zz'"),
        (["approve", folder, "--reason", "x"], "an ID is needed"),
        (["approve", folder, first, "--reason", "x", "--granted", "9999"], "the policy allows 1 to"),
        (["deny", folder, first, "--reason", "x", "--granted", "1"], "--granted goes with approve"),
        (["approve", folder, rows[3]["request"], "--reason", "x"], "is denied; only a pending one"),
        (["list", tmp_path / "none"], "holds no requests for synthetic beats"),
    ):
        assert main(["governance", *map(str, wrong)]) == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert said.count("\n") == 1
    assert main(["governance", "approve", str(folder), first[:10], "--reason", "looks fine", "--granted", "9"]) == 0
    assert f"request {first[:16]} approved, 9 of" in capsys.readouterr().out
    assert main(["governance", "deny", str(folder), second, "--reason", "no", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["approve"] is False
    assert main(["resume", str(folder)]) == 3
    assert "1 request for synthetic beats waits" in capsys.readouterr().err
    key = tmp_path / "key"
    state = read_state(folder)
    key.write_text(reviewer_key(state.seed, bytes.fromhex(state.federation)).hex())
    assert main(["governance", "approve", str(folder), third, "--reason", "yes", "--key", str(key)]) == 0
    capsys.readouterr()
    assert main(["governance", "list", str(folder), "--json"]) == 0
    assert [row["status"] for row in json.loads(capsys.readouterr().out)].count("decided") == 1
    assert main(["resume", str(folder)]) == 0
    capsys.readouterr()
    assert main(["governance", "show", str(folder), third]) == 0
    shown = capsys.readouterr().out
    assert "status: accepted" in shown
    assert "approved by the reviewer: yes" in shown
    assert "nndr" in shown
    assert main(["governance", "show", str(folder), first, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["granted"] == 9
    assert main(["governance", "policy", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == PolicyConfig(mode="human", preview=0).model_dump(mode="json")
    assert main(["audit", str(folder)]) == 0
    capsys.readouterr()
    (folder / "synthetic/governance.json").write_text("{")
    done = command("governance", "list", folder)
    assert done.returncode == 2
    assert "governance.json: is not readable" in done.stderr
    assert "Traceback" not in done.stderr


# --- A study ----------------------------------------------------------------------------------------------------------

STUDY: dict[str, Any] = {
    "name": "reviewed",
    "data": {"window": [90, 162], "simulated": {"patients": 6, "minutes": 1.5}},
    "cohort": {"hospitals": 3},
    "model": {"channels": [8, 8, 16], "hidden": 16},
    "federation": {"rounds": 1},
    "balance": {"method": "smote", "classes": "S", "policy": {"preview": 0}},
    "ledger": {"backend": "none"},
    "tracking": {"backend": "none"},
    "execution": {"cpus": 2, "hospitals_per_actor": 3},
    "conditions": {"balance.policy.mode": ["human", "automatic"]},
    "search": {"federation.learning_rate": {"log_uniform": [0.01, 0.1]}},
    "sampler": "random",
    "trials": 2,
    "concurrency": 1,
}
ALONE = {**STUDY, "execution": {"cpus": 2, "pool": "inprocess"}}


def decide(folder: Path) -> int:
    """Approves whatever waits below a study's folder."""
    runs = [path.parent.parent for path in folder.glob("trials/*/seed-*/synthetic/governance.json")]
    decisions = [write_review(home, row, True, row.allowed, "fine") for home in runs for row in waiting(home)]
    return len(decisions)


@pytest.mark.long
def test_a_sweep_with_a_trial_that_waits_ends_with_three(
    ray2: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    settled()
    file, folder = tmp_path / "study.yaml", tmp_path / "study"
    file.write_text(json.dumps(STUDY))
    assert main(["sweep", str(file), "--out", str(folder)]) == 3
    goes_on_when_decided(folder, capsys.readouterr().err, MEANS, capsys)


def test_a_trial_that_waits_blocks_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "study"
    with pytest.raises(ReviewPending) as waits:
        start_study(load_study(ALONE, "test"), folder, Heard(), means=simulated())
    goes_on_when_decided(folder, f"pulseledger: {waits.value}", simulated(), capsys)


def goes_on_when_decided(folder: Path, said: str, means: Means, capsys: pytest.CaptureFixture[str]) -> None:
    """The first of two trials waits for a reviewer, who approves of what it asks."""
    assert (
        f"pulseledger: trial 0 waits for a reviewer; decide with `pulseledger governance approve|deny {folder} ID"
        in said
    )
    assert [path.parent.parent.name for path in folder.glob("trials/*/seed-0/result.json")] == ["0001"]
    assert main(["governance", "list", str(folder)]) == 0
    assert "trials/0000/seed-0" in capsys.readouterr().out
    assert decide(folder) == 1
    if means is MEANS:
        settled()
    heard = Heard()
    resume_study(folder, heard, means=means)
    assert {number: end[0] for number, end in heard.ends.items()} == {0: "COMPLETE"}
    rows = json.loads((folder / "trials/0000/seed-0/result.json").read_text())["synthesis"]
    assert [row["reasons"] for row in rows if row["granted"]] == ["approved by the reviewer: fine"]


def test_a_decision_that_comes_while_others_run_is_taken_up(tmp_path: Path):
    class Deciding(Heard):
        def ended(self, trial: int, *args: Any) -> None:
            super().ended(trial, *args)
            if trial == 1:
                assert decide(tmp_path) == 1

    heard = Deciding()
    start_study(load_study(ALONE, "test"), tmp_path, heard, means=simulated())
    assert heard.starts == [0, 1, 0]
    assert any(note.startswith("trial 0: 1 request for synthetic beats waits") for note in heard.notes)
    assert {number: end[0] for number, end in heard.ends.items()} == {0: "COMPLETE", 1: "COMPLETE"}
