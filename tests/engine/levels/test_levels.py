"""Edges between hospitals and coordinator: the same bits as without, other bytes and times, and scores of each edge."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import other
from hypothesis import given
from hypothesis import strategies as st
from paths import Path_, at, changed, general, leaves
from results import whole
from safetensors.numpy import load_file

from engine.aggregation.build import rule_of
from engine.aggregation.mean import partial, total
from engine.audit.clock import check
from engine.audit.evidence import Evidence
from engine.audit.reading import read
from engine.audit.report import Finding, collected
from engine.audit.run import audit
from engine.audit.secure import check as secure_check
from engine.config import RunConfig
from engine.errors import ConfigError
from engine.experiment import run
from engine.ledger.masking import build_masking
from engine.levels.config import LevelConfig
from engine.levels.tree import above, seconds, sent
from engine.messages import Update
from engine.result import Result

LEVELS: dict[str, Any] = {
    "cohort.hospitals": 4,
    "ledger.backend": "embedded",
    "federation.rounds": 3,
    "clock.fleet": "stragglers",
    "clock.slow": [3],
    "schedule.mode": "semi-synchronous",
    "schedule.first": 3,
    "topology.levels": [{"nodes": 2, "uplink": 1e6, "downlink": 2e6}, {"nodes": 1, "uplink": 1e7, "downlink": 1e7}],
}


# two edges of three hospitals, each with a masked sum
MASKED: dict[str, Any] = {
    "cohort.hospitals": 6,
    "ledger.backend": "embedded",
    "ledger.window": 0,
    "clock.fleet": "none",
    "schedule.mode": "synchronous",
    "schedule.first": None,
    "topology.levels": LEVELS["topology.levels"],
    "aggregation.secure.method": "masks",
    "aggregation.secure.buckets": 2,
    "privacy.method": "dp-sgd",
    "privacy.noise": 1.0,
    "privacy.steps": 1,
    "privacy.honest": 3,
}


@pytest.fixture(scope="module")
def masked(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rounds whose samples are empty: the model moves by the noise of the edges' sums alone."""
    folder = tmp_path_factory.mktemp("edges") / "run"
    run(tiny_config(**{**MASKED, "privacy.sampling_rate": 1e-6, "federation.rounds": 1}), folder)
    return folder


@pytest.fixture(scope="module")
def finished(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    folder = tmp_path_factory.mktemp("levels") / "run"
    return run(tiny_config(**LEVELS), folder), folder


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_sums_of_edges_are_the_flat_sum_to_the_last_bit(hospitals: int, edges: int, seed: int):
    draw = np.random.default_rng(seed)
    updates = [
        Update(h, draw.standard_normal(7).astype(np.float32), int(draw.integers(1, 999)), 0.0, 0)
        for h in range(hospitals)
    ]
    levels = (LevelConfig(nodes=edges), LevelConfig(nodes=1 + edges // 2))
    paths = above(hospitals, levels)
    parts = {
        edge: partial("samples")([u for u in updates if paths[u.hospital][0] == edge], 7)[0] for edge in range(edges)
    }
    higher = {edge: path[1] for path in paths for edge in (path[0],)}
    regions = [total([parts[e] for e, node in higher.items() if node == region], 7) for region in {*higher.values()}]
    np.testing.assert_array_equal(total(regions, 7), partial("samples")(updates, 7)[0])


def test_hospitals_are_shared_out_evenly_and_in_order():
    paths = above(10, (LevelConfig(nodes=4), LevelConfig(nodes=2)))
    assert [path[0] for path in paths] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert [path[1] for path in paths] == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]


def test_bytes_and_seconds_of_a_level_by_hand():
    levels = (LevelConfig(nodes=2, uplink=640.0, downlink=320.0), LevelConfig(nodes=1, uplink=64e3, downlink=32e3))
    # ten entries: 320 bits down and 640 up
    assert seconds(levels, 10) == [2.0, 0.02]
    # round 1: hospitals 0, 1 and 3 by way of both edges; round 2: hospital 2 by way of the second
    assert sent(above(4, levels), [(0, 1, 3), (2,)], 10) == [3 * 80, 2 * 80]


def test_levels_add_their_time_to_every_round_and_change_no_bit_of_the_learning(
    finished: tuple[Result, Path], tiny_config: Callable[..., RunConfig], tmp_path: Path
):
    flat = run(tiny_config(**{**LEVELS, "topology.levels": [], "ledger.backend": "none"}), tmp_path)
    result = finished[0]
    assert result.model_hash == flat.model_hash
    assert result.final == flat.final
    assert flat.topology is None
    assert result.topology is not None
    hops = result.parameters * (32 / 2e6 + 64 / 1e6 + (32 + 64) / 1e7)
    assert [level.seconds for level in result.topology.levels] == pytest.approx(
        [result.parameters * (32 / 2e6 + 64 / 1e6), result.parameters * 96 / 1e7]
    )
    for with_levels, without in zip(result.rounds, flat.rounds, strict=True):
        assert with_levels.virtual is not None
        assert without.virtual is not None
        late = with_levels.virtual.seconds - without.virtual.seconds
        assert late == pytest.approx(with_levels.round * hops, abs=1e-5)
    # in each of three rounds hospitals 0, 1 and 2 by way of both edges
    assert [level.up_bytes for level in result.topology.levels] == [
        6 * 8 * result.parameters,
        3 * 8 * result.parameters,
    ]
    assert result.topology.hospital_bytes == 9 * 4 * result.parameters
    assert [edge.hospitals for edge in result.topology.edges] == [(0, 1), (2, 3)]
    report = audit(finished[1])
    assert (report.findings, report.clean) == ([], True)


def test_every_value_that_a_result_says_of_its_levels_is_held_against_the_auditors_own(
    finished: tuple[Result, Path], tmp_path: Path
):
    folder = Path(shutil.copytree(finished[1], tmp_path / "run"))
    path = folder / "result.json"
    said = json.loads(path.read_text())
    found: dict[str, Path_] = {general(p): p for p in leaves(said) if p[0] == "topology"}
    assert found.keys() == {general(p) for p in leaves(whole(Result)) if p[0] == "topology"}
    with Evidence(folder) as evidence:
        case, _ = collected(read(evidence))
        assert case is not None
        for name, place in found.items():
            path.write_text(json.dumps(changed(said, place, other(at(said, place)))))
            fields = {str(one.field) for one in check(replace(case)) if isinstance(one, Finding)}
            assert any(".".join(map(str, place)).startswith(field) for field in fields), name


def test_each_edge_has_a_masked_sum_of_its_hospitals_with_all_of_the_noise(masked: Path):
    """Two sums, each with N(0, sigma^2 clip^2) of three thirds, over q times all beats: sqrt(2) lr / (q n)."""
    result = Result.read(masked)
    before = load_file(masked / "ledger" / "updates" / "00000.safetensors")["genesis"]
    after = np.concatenate([tensor.ravel() for tensor in load_file(masked / "model.safetensors").values()])
    beats = sum(one.train for one in result.cohort.hospitals)
    expected = math.sqrt(2) * result.config.federation.learning_rate / (1e-6 * beats)
    assert (after.astype(float) - before).std() == pytest.approx(expected, rel=0.05)
    with Evidence(masked) as evidence:
        case, _ = collected(read(evidence))
        assert case is not None
        assert [list(said.masked) for said in case.rounds[1].maskings] == [[0, 1, 2], [3, 4, 5]]
    assert result.topology is not None
    assert result.topology.hospital_bytes == 6 * 8 * (result.parameters + 1)
    assert [level.up_bytes for level in result.topology.levels] == [2 * 8 * result.parameters, 8 * result.parameters]
    assert [edge.hospitals for edge in result.topology.edges] == [(0, 1, 2), (3, 4, 5)]
    report = audit(masked)
    assert (report.findings, report.clean) == ([], True)


def test_masked_sums_of_edges_change_no_bit_of_the_learning(tiny_config: Callable[..., RunConfig], tmp_path: Path):
    plain = {**MASKED, "privacy.method": "none", "privacy.noise": None, "privacy.honest": None}
    flat = {**plain, "aggregation.secure.method": "none", "topology.levels": [], "ledger.backend": "none"}
    edges, without = (run(tiny_config(**keys), tmp_path / name) for name, keys in (("edges", plain), ("flat", flat)))
    assert edges.model_hash == without.model_hash
    assert edges.final == without.final


def test_the_audit_names_sums_of_others_than_an_edges_hospitals(masked: Path):
    with Evidence(masked) as evidence:
        case, _ = collected(read(evidence))
    assert case is not None
    levels = [{**LEVELS["topology.levels"][0], "nodes": 3}, LEVELS["topology.levels"][1]]
    other_edges = replace(case)
    vars(other_edges)["config"] = {**case.config, "topology": {"levels": levels}}
    found = [one for one in secure_check(other_edges) if isinstance(one, Finding)]
    assert "the groups of masked sums are not the hospitals of each edge" in {one.message for one in found}
    assert not [one for one in secure_check(case) if isinstance(one, Finding)]


def test_an_edge_with_too_few_hospitals_is_named(tiny_config: Callable[..., RunConfig], tmp_path: Path):
    with pytest.raises(ConfigError, match="in each of 2 buckets, not 5"):
        tiny_config(**{**MASKED, "cohort.hospitals": 5})


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ([0, 1, 2], "at least 3 hospitals at each edge; edge 0 has fewer with train beats"),
        ([7], "privacy.honest is 4; of the hospitals with train beats here a sum may have no more than 3"),
    ],
)
def test_hospitals_without_train_beats_are_not_counted_on(
    tiny_config: Callable[..., RunConfig], without: list[int], message: str
):
    """Of ten hospitals at two edges: sums of five have four at least, which honest may be; of four, three."""
    anything: Any = object()
    config = tiny_config(**{**MASKED, "cohort.hospitals": 10, "privacy.honest": 4})
    build_masking(config, anything, anything, rule_of(config), range(10), 10)
    trainers = [hospital for hospital in range(10) if hospital not in without]
    with pytest.raises(ConfigError, match=message):
        build_masking(config, anything, anything, rule_of(config), trainers, len(trainers))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"clock.fleet": "none", "schedule.mode": "synchronous"}, "allowed with them: clock.fleet equal"),
        ({"schedule.mode": "buffered", "schedule.buffer": 2}, "allowed with them: schedule.mode synchronous"),
        ({"aggregation.rule": "median"}, "allowed with them: aggregation.rule mean"),
        ({"topology.levels": [{"nodes": 5}]}, "allowed with them: cohort.hospitals as many as there are edges"),
        ({"topology.levels": [{"nodes": 1}, {"nodes": 2}]}, "none may have more than the one below"),
        ({**MASKED, "aggregation.secure.buckets": None}, "aggregation.secure.buckets 2, a masked sum for each edge"),
        ({**MASKED, "federation.participation": 0.9, "cohort.hospitals": 8}, "federation.participation 1 with masks"),
        ({**MASKED, "privacy.honest": 4}, "privacy.honest is 4; a sum may have no more than 3 hospitals"),
    ],
)
def test_levels_that_cannot_be_are_refused(tiny_config: Callable[..., RunConfig], keys: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message) as error:
        tiny_config(**{**LEVELS, **keys})
    assert "\n" not in str(error.value)
