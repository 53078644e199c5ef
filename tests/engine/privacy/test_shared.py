"""Noise that hospitals share under masks: what each adds, what comes together in a sum, and where it is refused."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import audit
from reference import f32
from safetensors.numpy import load_file

from engine.audit import privacy
from engine.audit.case import Case
from engine.audit.evidence import Evidence
from engine.audit.reading import read
from engine.audit.report import Finding, Verdict, collected
from engine.errors import ConfigError
from engine.experiment import run
from engine.privacy.config import PrivacyConfig
from engine.privacy.dpsgd import dp_sgd
from engine.privacy.plan import Mechanism, mechanism_of
from engine.result import Result
from sweeps.rows import outcome_of

SECRET = bytes(range(32))
FIVE = {"cohort.hospitals": 5, "data.simulated.patients": 6, "ledger.backend": "embedded", "ledger.window": 0}
SHARED = {
    **FIVE,
    "aggregation.secure.method": "masks",
    "privacy.method": "dp-sgd",
    "privacy.noise": 1.0,
    "privacy.steps": 1,
    "privacy.honest": 4,
    "federation.rounds": 1,
}


def mechanism(**changes: Any) -> Mechanism:
    return mechanism_of(PrivacyConfig(method="dp-sgd", noise=2.0, clip=3.0, sampling_rate=0.1), (100, 50))._replace(
        **changes
    )


def noise_of(one: Mechanism, secret: bytes, round: int = 1, patients: Any = None) -> np.ndarray:
    """A noised sum of nothing, float64, before it is divided."""
    patients = np.zeros(1000) if patients is None else patients
    privacy = dp_sgd(one, patients, secret, round, f32(0), {})
    return privacy.noise(np.zeros(40_000, np.float32)).astype(float) * 0.1 * len(patients)


def test_shares_of_as_many_as_are_counted_on_come_to_all_of_the_noise():
    shares = [noise_of(mechanism(shares=4), bytes([i]) * 32) for i in range(4)]
    assert shares[0].std() == pytest.approx(2.0 * 3.0 / 2, rel=0.02)
    assert np.abs(np.corrcoef(shares) - np.eye(4)).max() < 0.03
    assert sum(shares).std() == pytest.approx(2.0 * 3.0, rel=0.02)
    assert noise_of(mechanism(), SECRET).std() == pytest.approx(2.0 * 3.0, rel=0.02)


def test_nobody_shares_the_noise_of_the_adaptation():
    assert noise_of(mechanism(shares=4), SECRET, round=0).std() == pytest.approx(2.0 * 3.0, rel=0.02)


def test_what_all_others_leave_costs_more():
    one = mechanism(shares=4)
    assert one.epsilon((100, 0)) == mechanism().epsilon((100, 0))
    assert one.alone((100, 0)) == mechanism(sigma=one.sigma // 2).epsilon((100, 0)) > one.epsilon((100, 0))
    assert mechanism().alone((100, 0)) == mechanism().epsilon((100, 0))


def test_gradients_of_patients_count_the_same_in_all_hospitals_of_a_sum():
    """A sum weighs a hospital with its beats, so each divides by these, and not by its patients."""
    few, many = np.arange(100) // 50, np.arange(1000) // 10
    one = mechanism(unit="patient", shares=4)
    for patients in (few, many):
        weighted = noise_of(one, SECRET, patients=patients)
        assert weighted.std() == pytest.approx(2.0 * 3.0 / 2, rel=0.02)
    alone = noise_of(mechanism(unit="patient"), SECRET, patients=few)
    assert alone.std() == pytest.approx(2.0 * 3.0 * 100 / 2, rel=0.02)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no masks": ({"aggregation.secure.method": "none"}, "shows each update by itself, .*; with privacy.honest it is masks"),
    "buckets": ({"cohort.hospitals": 6, "aggregation.secure.buckets": 2}, "privacy.honest is 4; a sum may have no more than 3 hospitals"),
    "several steps": ({"privacy.steps": 2}, "privacy.steps 2 goes on from a gradient that has only the hospital's own noise"),
    "another algorithm": ({"federation.algorithm": "perfedavg"}, "sends more than one noised sum"),
    "another weighting": ({"federation.weighting": "uniform"}, "weighs hospitals' noise unlike their beats"),
    "momentum": ({"aggregation.worker_momentum": 0.9}, "adds up noise of rounds with other hospitals"),
    "attackers": ({"attack.method": "sign-flip", "attack.hospitals": [1]}, "sends what has no noise"),
    "more than a sum may have": ({"privacy.honest": 5}, "privacy.honest is 5; a sum may have no more than 4 hospitals"),
    "nobody else": ({"privacy.honest": 1}, "privacy.honest is 1"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_noise_is_shared_only_where_it_comes_together(what: str, tiny_config):
    changes, says = REFUSED[what]
    with pytest.raises(ConfigError, match=says):
        tiny_config(**{**SHARED, **changes})


@pytest.fixture(scope="module")
def folder(tiny_config, tmp_path_factory) -> Path:
    """A round whose samples are empty: the model moves by noise alone."""
    folder = tmp_path_factory.mktemp("shared") / "run"
    run(tiny_config(**{**SHARED, "privacy.sampling_rate": 1e-6, "privacy.unit": "patient"}), folder)
    return folder


def test_the_noise_in_a_model_is_that_of_all_in_the_sum(folder: Path):
    """Five shares of four: sigma sqrt(5 / 4), times clip and rate, over q times all beats."""
    result = Result.read(folder)
    before = load_file(folder / "ledger" / "updates" / "00000.safetensors")["genesis"]
    after = np.concatenate([tensor.ravel() for tensor in load_file(folder / "model.safetensors").values()])
    beats = sum(one.train for one in result.cohort.hospitals)
    expected = math.sqrt(5 / 4) * result.config.federation.learning_rate / (1e-6 * beats)
    moved = np.sort(after.astype(float)).std() ** 2 - before.astype(float).var()
    assert math.sqrt(moved) == pytest.approx(expected, rel=0.1)


def test_a_run_with_shared_noise_is_audited_and_says_on_what_it_rests(folder: Path):
    report = audit(folder)
    assert (report.findings, report.verdict) == ([], Verdict.CLEAN)
    said = Result.read(folder).privacy
    assert (said.shares, said.unit) == (4, "patient")
    assert said.alone >= said.epsilon
    assert any("against all others of a sum together" in one for one in said.not_protected)
    assert "It holds while 4 hospitals of each sum are honest" in outcome_of([Result.read(folder)]).privacy


def test_a_sum_of_too_few_and_another_number_of_shares_are_found(folder: Path, tiny_config):
    with Evidence(folder) as evidence:
        case, _ = collected(read(evidence))
        assert case.config
        assert case.reported  # both are read while the evidence is open
    entry = case.rounds[1]
    few = replace(entry.maskings[0], masked=dict(list(entry.maskings[0].masked.items())[:3]))
    fewer = replace(case, rounds={1: replace(entry, maskings=(few,))})
    assert found(case) == set()
    assert found(fewer) == {(1, "opening", "privacy.shares")}
    other = replace(case)
    other.__dict__["config"] = {**case.config, "privacy": {**case.config["privacy"], "honest": 3}}
    places = {
        (1, "opening", "privacy.shares"),
        (1, "annex", "privacy"),
        (None, "hospital", "privacy.shares"),
        (None, "result", "privacy.shares"),
    }
    assert places <= found(other)
    lower = replace(case)
    said = {**case.reported["privacy"], "alone": case.reported["privacy"]["alone"] - 0.01}
    lower.__dict__["reported"] = {**case.reported, "privacy": said}
    assert found(lower) == {(None, "result", "privacy.alone")}


def found(case: Case) -> set[tuple[int | None, str, str]]:
    return {(one.round, one.record, one.field) for one in privacy.check(case) if isinstance(one, Finding)}
