"""Whole runs whose hospitals work for miners: the same learning, another clock, and an audit that names who would rather be elsewhere."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finished import other
from paths import Path_, at, changed, general, leaves
from results import whole

from engine.audit.clock import check
from engine.audit.evidence import Evidence
from engine.audit.reading import read
from engine.audit.report import Finding, collected
from engine.audit.run import audit
from engine.config import RunConfig
from engine.errors import ConfigError
from engine.experiment import run
from engine.result import Result

MINERS: dict[str, Any] = {
    "cohort.hospitals": 4,
    "ledger.backend": "embedded",
    "federation.rounds": 2,
    "clock.fleet": "bpfish",
    "association.method": "capacity",
    "association.miners": 2,
    "association.phi": 1e-3,
}


@pytest.fixture(scope="module")
def finished(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    folder = tmp_path_factory.mktemp("miners") / "run"
    return run(tiny_config(**MINERS), folder), folder


def test_the_association_is_under_every_head_and_the_audit_computes_it_again(finished: tuple[Result, Path]):
    result, folder = finished
    report = audit(folder)
    assert (report.findings, report.clean) == ([], True)
    assert report.counts["associations"] == 1
    said = result.association
    assert said is not None
    assert {len(miner.hospitals) for miner in said.miners} == {2}
    assert said.left_out == {}
    energies = [place.energy_joules for place in said.hospitals]
    assert said.energy_joules == pytest.approx(sum(energies))
    assert said.utility == pytest.approx(2 * 10 * (2**2 + 2**2) - 1e-3 * sum(energies))
    assert said.objective == pytest.approx(0.5 * said.utility - 0.5 * result.rounds[-1].train_loss)  # type: ignore[operator]
    assert result.clock is not None  # all jobs of the clock are those of the plan
    assert result.clock.compute_joules + result.clock.radio_joules == pytest.approx(said.energy_joules, rel=1e-6)
    assert result.clock.virtual_seconds == pytest.approx(2 * said.delay_seconds, abs=1e-5)


@pytest.mark.parametrize("method", ["none", "paper", "random", "all-on-one", "optimal"])
def test_who_works_for_whom_changes_the_clock_and_no_bit_of_the_learning(
    finished: tuple[Result, Path], tiny_config: Callable[..., RunConfig], tmp_path: Path, method: str
):
    result = run(tiny_config(**{**MINERS, "association.method": method}), tmp_path)
    assert result.model_hash == finished[0].model_hash
    assert result.final == finished[0].final
    assert audit(tmp_path).clean
    assert (result.association is None) == (method == "none")


def test_a_hospital_without_a_miner_does_not_train(tiny_config: Callable[..., RunConfig], tmp_path: Path):
    keys = {
        **MINERS,
        "association.miners": 1,
        "association.capacity": 3,
        "schedule.mode": "buffered",
        "schedule.buffer": 2,
    }
    result = run(tiny_config(**keys), tmp_path)
    assert result.association is not None
    assert list(result.association.left_out.values()) == ["full"]
    out = int(next(iter(result.association.left_out)))
    beats = {h.id: h.train for h in result.cohort.hospitals}
    assert (-beats[out], out) == max((-n, h) for h, n in beats.items())  # the miner keeps those with most beats
    assert all(one.id != out for row in result.rounds if row.virtual for one in row.virtual.arrived)
    assert audit(tmp_path).clean
    with pytest.raises(
        ConfigError, match=r"leaves every hospital out: hospital 0 takes longer than association\.deadline"
    ):
        run(tiny_config(**MINERS, **{"association.deadline": 1e-6}), tmp_path / "none")


def test_a_pair_that_would_rather_have_each_other_is_named(finished: tuple[Result, Path], tmp_path: Path):
    folder = Path(shutil.copytree(finished[1], tmp_path / "run"))
    said = json.loads((folder / "result.json").read_text())
    rows = said["association"]["hospitals"]
    for row in rows:
        row["miner"] = 1 - row["miner"]
    (folder / "result.json").write_text(json.dumps(said))
    assert any("would rather have each other than what they have" in one.message for one in audit(folder).findings)


def test_every_value_that_a_result_says_of_the_association_is_held_against_the_auditors_own(
    finished: tuple[Result, Path], tmp_path: Path
):
    folder = Path(shutil.copytree(finished[1], tmp_path / "run"))
    path = folder / "result.json"
    said = json.loads(path.read_text())
    found: dict[str, Path_] = {general(p): p for p in leaves(said) if p[0] == "association"}
    shape = {
        general(p).removesuffix(".*") for p in leaves(whole(Result)) if p[0] == "association" and p[1] != "left_out"
    }
    assert {name.removesuffix(".*") for name in found} >= shape
    with Evidence(folder) as evidence:
        case, _ = collected(read(evidence))
        assert case is not None
        for name, place in found.items():
            path.write_text(json.dumps(changed(said, place, other(at(said, place)))))
            fields = {str(one.field) for one in check(replace(case)) if isinstance(one, Finding)}
            assert any(".".join(map(str, place)).startswith(field) for field in fields), name


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"clock.fleet": "none"}, "association.method capacity needs machines and links: clock.fleet"),
        ({"federation.algorithm": "local"}, "sends no updates to miners"),
        ({"association.sinr": [20, 13]}, "sinr must be two values"),
        ({"association.blocks": [0, 3]}, "blocks must be two whole numbers"),
    ],
)
def test_what_cannot_be_with_miners_is_refused(
    tiny_config: Callable[..., RunConfig], keys: dict[str, Any], message: str
):
    with pytest.raises(ConfigError, match=message) as error:
        tiny_config(**{**MINERS, **keys})
    assert "\n" not in str(error.value)
