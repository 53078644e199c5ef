"""Runs with hostile hospitals: the same bits everywhere, scores of the honest ones, and what the audit makes of it."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from reference import Interrupted, StopAfter, numbers

from engine.audit.report import Verdict
from engine.audit.run import audit
from engine.experiment import Place, run

FIVE = {"cohort.hospitals": 5, "data.simulated.patients": 6, "attack.hospitals": [1, 3]}
LEDGER = {"ledger.backend": "embedded", "ledger.window": 0}
ROBUST = {"aggregation.rule": "centred-clipping", "aggregation.byzantine": 1, "aggregation.worker_momentum": 0.5}


def test_attackers_and_rules_that_remember_go_on_bit_for_bit(tiny_config, tmp_path: Path):
    config = tiny_config(**FIVE, **LEDGER, **ROBUST, **{"attack.method": "mimic", "federation.rounds": 4})
    expected = numbers(run(config, tmp_path / "straight"), tmp_path / "straight")
    for stop in (2, 3):
        with pytest.raises(Interrupted):
            run(config, tmp_path / "stumbling", Place(observers=(StopAfter(stop),)))
    assert numbers(run(config, tmp_path / "stumbling"), tmp_path / "stumbling") == expected
    assert audit(tmp_path / "stumbling").findings == []


def test_neither_pool_nor_ledger_changes_a_bit_of_an_attack(tiny_config, tmp_path: Path, ray2):
    changes = {**FIVE, **ROBUST, "attack.method": "alie", "attack.strength": 1.5}
    with_ledger = run(tiny_config(**changes, **LEDGER), tmp_path / "one")
    actors = {"execution.pool": "ray", "execution.cpus": 2, "execution.hospitals_per_actor": 2}
    for name, other in (("plain", {}), ("ray", actors)):
        found = run(tiny_config(**changes, **other), tmp_path / name)
        assert found.model_hash == with_ledger.model_hash
        assert found.final == with_ledger.final
        assert found.hostile == (1, 3)


@pytest.fixture(scope="module")
def flipped(tiny_config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("flipped")
    run(tiny_config(**FIVE, **LEDGER, **{"attack.method": "sign-flip"}), folder)
    return folder


def test_the_honest_hospitals_scores_are_those_of_their_predictions(flipped: Path):
    result = json.loads((flipped / "result.json").read_text())
    assert result["hostile"] == [1, 3]
    every = pq.read_table(flipped / "predictions.parquet").to_pandas()
    assert set(every.hospital) == {0, 1, 2, 3, 4}
    rows = every[(every.model == "personal") & ~every.hospital.isin([1, 3])]
    scores = result["final"]["personal"]
    assert scores["accuracy"] == pytest.approx((rows.true == rows.predicted).mean())
    assert sum(map(sum, scores["confusion"])) == len(rows)
    assert {row["id"] for row in scores["per_hospital"]} == {0, 2, 4}
    # and so is the trivial line beside them
    report = [h for h in result["cohort"]["hospitals"] if h["id"] not in (1, 3)]
    right = sum(h["local_majority_accuracy"] * h["test"] for h in report)
    assert result["cohort"]["local_majority_accuracy"] == pytest.approx(right / sum(h["test"] for h in report))


def test_the_audit_recomputes_them_and_knows_who_is_hostile(flipped: Path, tmp_path: Path):
    assert audit(flipped).verdict is Verdict.CLEAN
    path = flipped / "result.json"
    text = path.read_text()
    for name, wrong in (("hostile", [1]), ("cohort.global_majority_accuracy", 0.5)):
        told = json.loads(text)
        *within, last = name.split(".")
        part = told[within[0]] if within else told
        part[last] = wrong
        path.write_text(json.dumps(told))
        fields = {finding.field for finding in audit(flipped).findings}
        path.write_text(text)
        assert name in fields


def test_those_who_are_left_out_send_nothing_and_are_not_missed(tiny_config, tmp_path: Path):
    result = run(tiny_config(**FIVE, **LEDGER, **{"attack.method": "left-out"}), tmp_path)
    assert [row.participants for row in result.rounds] == [3, 3]
    assert result.hostile == (1, 3)
    assert audit(tmp_path).verdict is Verdict.CLEAN


def test_flipped_signs_move_the_mean_and_not_the_median(tiny_config, tmp_path: Path):
    """Four of five honest: the median stays with them, the mean goes where four times one update says."""
    one = {**FIVE, "attack.hospitals": [1], "federation.rounds": 3}
    scores = {}
    for rule in ("mean", "median"):
        changes = {**one, "aggregation.rule": rule, "attack.method": "sign-flip", "attack.strength": 20.0}
        if rule == "median":
            changes["aggregation.byzantine"] = 1
        scores[rule] = [row.train_loss for row in run(tiny_config(**changes), tmp_path / rule).rounds]
    assert scores["median"][-1] < scores["median"][0]
    assert scores["mean"][-1] > scores["median"][-1]


def test_how_often_a_backdoor_opens_follows_from_what_honest_hospitals_signed(tiny_config, tmp_path: Path):
    """All three hostile ones call every marked beat S: the global model learns it; one that nobody plants opens seldom."""
    attack = {"attack.method": "backdoor", "attack.target": "S", "attack.strength": 1.0, "attack.hospitals": [1, 2, 3]}
    result = run(tiny_config(**{**FIVE, **LEDGER, **attack}), tmp_path)
    assert result.backdoor is not None
    honest = [h for h in result.cohort.hospitals if h.id in (0, 4)]
    assert result.backdoor.target == "S"
    assert 0 < result.backdoor.beats <= sum(h.test for h in honest)
    assert result.backdoor.global_ is not None
    assert audit(tmp_path).verdict is Verdict.CLEAN
    path = tmp_path / "result.json"
    text = path.read_text()
    for name, wrong in (("beats", 1), ("global", 0.123), ("personal", None), ("target", "N")):
        told = json.loads(text)
        told["backdoor"][name] = wrong
        path.write_text(json.dumps(told))
        assert f"backdoor.{name}" in {finding.field for finding in audit(tmp_path).findings}
    path.write_text(text)
