"""A cluster of several raylets: hospitals at their sites, a node that is lost, a node that comes late."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from raylets import ENVIRONMENT, Raylets, raylets
from reference import ROOT

from engine.actors import Place
from engine.config import ExecutionConfig, RunConfig, load_yaml, parse
from engine.errors import ConfigError, ResourceError, StudyError
from engine.experiment import run
from engine.pool import host_places
from sweeps import study as driver
from sweeps.space import StudyConfig, load_study

VALUES: dict[str, Any] = {
    "name": "nodes",
    "data": {"window": [90, 162], "simulated": {"patients": 6, "minutes": 1.5}},
    "cohort": {"hospitals": 4},
    "model": {"channels": [8, 8, 16], "hidden": 16},
    "federation": {"rounds": 10, "local_epochs": 2},
    "ledger": {"backend": "embedded"},
    "tracking": {"backend": "mlflow"},
    "execution": {"hospitals_per_actor": 1},
    "search": {"federation.learning_rate": {"log_uniform": [0.01, 0.1]}},
    "sampler": "random",
    "trials": 1,
}


def study_of(**keys: Any) -> StudyConfig:
    return load_study({**VALUES, **keys}, "test")


# --- Who goes where ---------------------------------------------------------------------------------------------------


def test_hospitals_are_dealt_to_the_rooms_or_go_to_their_sites():
    sizes = [(h, 10) for h in range(4)]
    left, right = Place(bundle=1), Place(bundle=2)
    alone = ExecutionConfig(hospitals_per_actor=1)
    # 0.9 of two CPUs for two hosts each
    assert host_places(sizes, alone, [(left, 2.0), (right, 2.0)]) == (
        0.9,
        [(left, [0]), (left, [2]), (right, [1]), (right, [3])],
    )
    sites = ExecutionConfig(hospitals_per_actor=1, sites={0: "b", 1: "a", 2: "b", 3: "b"})
    share, placed = host_places(sizes, sites, [(left, 1.0), (right, 1.0)])  # a comes first
    assert placed == [(left, [1]), (right, [0]), (right, [2]), (right, [3])]
    assert share == 0.3  # the three at b divide its CPU, and every host gets the same
    together = ExecutionConfig(sites=sites.sites)
    assert host_places(sizes, together, [(left, 0.5), (right, 0.5)])[1] == [(left, [1]), (right, [0, 2, 3])]


@pytest.mark.parametrize(
    ("execution", "words"),
    [
        ({"sites": {0: "a", 1: "b"}}, "execution.sites names no site for hospital 2"),
        ({"sites": dict.fromkeys(range(4), "a"), "pool": "threads"}, "execution.sites needs execution.pool ray"),
        ({"sites": {"first": "a"}}, "execution.sites.first"),
        ({"placement": "strict"}, "execution.placement is 'strict'"),
    ],
)
def test_places_that_cannot_be_are_refused(execution: dict[str, Any], words: str):
    with pytest.raises(ConfigError) as error:
        study_of(execution=execution)
    assert words in str(error.value)


def nodes_of(*nodes: tuple[str, float, str]) -> Any:
    """What Ray says of a cluster of (id, CPUs, site); the driver is on the node `here`, the head is `head`."""
    rows = [
        {
            "NodeID": name,
            "Alive": True,
            "Labels": {"site": site},
            "Resources": {"CPU": cpus, **({"node:__internal_head__": 1.0} if name == "head" else {})},
        }
        for name, cpus, site in nodes
    ]
    return SimpleNamespace(
        nodes=lambda: rows,
        cluster_resources=lambda: {"CPU": sum(cpus for _, cpus, _ in nodes)},
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "here"),
    )


def test_a_trial_has_a_bundle_for_each_node_or_site():
    ray = nodes_of(("head", 0, ""), ("x", 4, "a"), ("y", 2, "b"), ("z", 8, "b"))
    sites = {"sites": dict(enumerate("abba"))}
    assert driver._trial_bundles(ray, study_of()) == [0.1, 0.9]
    assert driver._trial_bundles(ray, study_of(concurrency=2)) == [0.1, pytest.approx(6.9)]  # half of 14
    assert driver._trial_bundles(ray, study_of(concurrency=1)) == [0.1, 7.9]  # no more than the largest node has
    assert driver._trial_bundles(ray, study_of(execution={"placement": "spread"})) == [0.1, 1.9, 1.9, 1.9]
    assert driver._trial_bundles(ray, study_of(execution=sites, concurrency=2)) == [0.1, 0.9, 0.9]
    with pytest.raises(ResourceError, match="concurrency 20 leaves 0.1 CPU"):
        driver._trial_bundles(ray, study_of(execution=sites, concurrency=20))


def test_sqlite_wants_the_driver_on_the_head(monkeypatch: pytest.MonkeyPatch):
    for ray, refused in (
        (nodes_of(("head", 1, ""), ("here", 1, "")), True),
        (nodes_of(("here", 1, "")), False),
    ):
        monkeypatch.setattr(driver, "imported_ray", lambda ray=ray: ray)
        driver._require_head(study_of(storage="postgresql+psycopg://there/db"))
        if refused:
            with pytest.raises(StudyError, match="wants the driver on the head node of a cluster of 2 nodes"):
                driver._require_head(study_of())
        else:
            driver._require_head(study_of())


# --- Three raylets ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three() -> Iterator[tuple[Raylets, dict[str, str]]]:
    """A head and the nodes `a` and `b`, labelled so; site -> node id."""
    with raylets() as cluster:
        yield cluster, {name: cluster.add(name, 2) for name in "ab"}


ASK = """
import json, sys
from engine.actors import SITE, imported_ray, start_ray
from engine.config import RunConfig
from engine.data.cohort import build_cohort
from engine.hospital import Task
from engine.model import build_network
from engine.pool import RayPool, InProcessPool, site_names
import numpy as np
config = RunConfig.model_validate(json.loads(sys.argv[1]))
def ask():
    cohort = build_cohort(config.data, config.cohort)
    network = build_network(config.model, len(cohort.beats.classes), config.data)
    task = Task(config, network, cohort.beats.folder, None)
    pool = RayPool(cohort.hospitals, task)
    params = network.initial(0)
    same = np.array_equal(pool.train(1, params, b"", range(4)).summed, InProcessPool(cohort.hospitals, task).train(1, params, b"", range(4)).summed)
    found = pool.nodes()
    pool.close()
    return found, bool(same)
start_ray(config.execution)
ray = imported_ray()
group = ray.util.placement_group([{"CPU": .1}, {"CPU": 1}, {"CPU": 1}], bundle_label_selector=[{}, *({SITE: s} for s in site_names(config.execution))])
strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
within = ray.get(ray.remote(num_cpus=0.1)(ask).options(scheduling_strategy=strategy).remote())
ray.util.remove_placement_group(group)
print(json.dumps([within, ask()]))
"""


def test_each_hospital_is_at_its_site(three):
    pass


def command(study: StudyConfig | dict[str, Any], folder: Path, cluster: Raylets) -> subprocess.Popen[str]:
    """`pulseledger sweep` on the cluster, in a process of its own."""
    folder.mkdir()
    file = folder / "wanted.yaml"
    file.write_text(yaml.safe_dump(study))
    words = [sys.executable, "-m", "sweeps", "sweep", str(file), "--out", str(folder), "--address", cluster.address]
    return subprocess.Popen(
        words, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def until(condition: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def ended(process: subprocess.Popen[str], folder: Path, again: Path) -> str:
    """Waits for a study; its only trial must have the numbers of the same run in this process. Returns what it said."""
    said = process.communicate(timeout=180)[0]
    assert process.returncode == 0, said
    there = json.loads((folder / "trials/0000/seed-0/result.json").read_text())
    config = parse(RunConfig, load_yaml(folder / "trials/0000/seed-0/config.yaml"), "trial")
    here = {"pool": "inprocess", "sites": {}}
    alone = run(config.model_copy(update={"execution": config.execution.model_copy(update=here)}), again)
    assert there["model_hash"] == alone["model_hash"]
    assert there["final"] == alone["final"]
    assert there["ledger"]["head"] == alone["ledger"]["head"]
    return said


def test_a_study_survives_the_loss_of_a_node(three, tmp_path: Path):
    cluster, _ = three
    folder = tmp_path / "spread"
    process = command({**VALUES, "execution": {**VALUES["execution"], "placement": "spread"}}, folder, cluster)
    try:
        until(lambda: list(folder.glob("trials/*/seed-0/checkpoint.safetensors")), process)
        cluster.kill("b")
        said = ended(process, folder, tmp_path / "alone")
    finally:
        process.kill()
    print(said)


def test_a_trial_waits_for_a_site_that_joins_later(three, tmp_path: Path):
    cluster, _ = three
    folder = tmp_path / "late"
    values = {**VALUES, "execution": {**VALUES["execution"], "sites": dict(enumerate("acca"))}}
    process = command(values, folder, cluster)
    try:
        until(lambda: list(folder.glob("trials/0000")), process)
        time.sleep(1)
        assert not list(folder.glob("trials/0000/seed-0/*.safetensors"))
        cluster.add("c", 1)
        ended(process, folder, tmp_path / "alone")
    finally:
        process.kill()
