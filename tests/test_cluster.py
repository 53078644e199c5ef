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

from engine.config import RunConfig
from engine.errors import ConfigError, ResourceError, StudyError
from engine.experiment import run
from engine.pools.config import ExecutionConfig
from engine.pools.ray import sited_groups
from engine.result import Result
from engine.settings import load_yaml, parse
from sweeps import study as driver
from sweeps.space import StudyConfig, load_study
from sweeps.trial import TrialRunner

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


def test_only_hospitals_of_one_site_share_an_actor():
    sizes = [(h, 10) for h in range(4)]
    assert sited_groups(sizes, ExecutionConfig(hospitals_per_actor=2), 2.0) == [(None, [0, 2]), (None, [1, 3])]
    sites = {0: "b", 1: "a", 2: "b", 3: "b"}
    apart = ExecutionConfig(hospitals_per_actor=1, sites=sites)
    assert sited_groups(sizes, apart, 2.0) == [("a", [1]), ("b", [0]), ("b", [2]), ("b", [3])]
    # two CPUs are one for each site: three hospitals are more than two for each CPU
    assert sited_groups(sizes, ExecutionConfig(sites=sites), 2.0) == [("a", [1]), ("b", [0, 2, 3])]
    with pytest.raises(ConfigError, match="no site for hospital 4"):
        sited_groups([*sizes, (4, 10)], apart, 2.0)


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


def test_a_trial_fits_the_smallest_site():
    ray = nodes_of(("head", 0, ""), ("x", 4, "a"), ("y", 2, "b"), ("z", 8, "b"))
    assert driver._trial_cpus(ray, study_of(), 1) == 1.0
    assert driver._trial_cpus(ray, study_of(concurrency=2), 2) == 7.0  # half of 14
    assert driver._trial_cpus(ray, study_of(concurrency=1), 1) == 8.0  # no more than the largest node has
    sites = study_of(execution={"sites": dict(enumerate("abba")), "hospitals_per_actor": 1}, concurrency=2)
    assert driver._trial_cpus(ray, sites, 2) == 2.0  # half of what a has; b has a node of eight
    late = study_of(execution={"sites": dict(enumerate("abcc"))})
    assert driver._trial_cpus(ray, late, 1) == 1.0  # c is not there yet
    with pytest.raises(ResourceError, match=r"concurrency 2 leaves 0\.1 CPU"):
        driver._trial_cpus(nodes_of(("x", 0.2, "a"), ("y", 2, "b")), sites, 2)
    assert driver.trial_bundles(sites, 2.0, 2) == [{"CPU": 0.1}] + [{"CPU": 0.475}] * 4
    assert driver.trial_labels(sites, 2.0) == [{}, *({"site": site} for site in "aabb")]
    assert driver.trial_labels(study_of(), 2.0) == []


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


def test_a_node_that_does_not_see_the_studys_folder_says_so(tmp_path: Path):
    with pytest.raises(StudyError, match="must be on a disk that all nodes of the cluster share"):
        TrialRunner().begin({"folder": str(tmp_path / "elsewhere")}, None)


# --- Three raylets ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three() -> Iterator[tuple[Raylets, dict[str, str]]]:
    """A head and the nodes `a` and `b`, labelled so; site -> node id."""
    with raylets() as cluster:
        yield cluster, {name: cluster.add(name, 2) for name in "ab"}


# Joins the cluster, and asks the actors where they are: within a trial's placement group, and without one.
ASK = """
import json, sys
import numpy as np
from engine.actors import imported_ray, start_ray
from engine.config import RunConfig
from engine.data.cohort import build_cohort
from engine.hospital import Task
from engine.messages import Asked
from engine.model import build_network, initial_parameters
from engine.pools.local import InProcessPool
from engine.pools.ray import RayPool
from sweeps.study import trial_bundles, trial_labels

config = RunConfig.model_validate(json.loads(sys.argv[1]))

def ask():
    cohort = build_cohort(config.data, config.cohort)
    beats = cohort.beats
    network = build_network(config.model, beats.x.shape[1], beats.rr.shape[1], len(beats.classes))
    task = Task(config, network, beats.folder, None)
    params = initial_parameters(network, 0)
    pool = RayPool(cohort.hospitals, task)
    here = InProcessPool(cohort.hospitals, task).train(Asked(1, (0, 1, 2, 3), params), None).summed
    same = np.array_equal(pool.train(Asked(1, (0, 1, 2, 3), params), None).summed, here)
    nodes = pool.nodes()
    pool.close()
    return nodes, bool(same)

start_ray(config.execution)
ray = imported_ray()
group = ray.util.placement_group(trial_bundles(config, 2.0, 2), "PACK", bundle_label_selector=trial_labels(config, 2.0))
strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group, 0, True)
within = ray.get(ray.remote(num_cpus=0.1)(ask).options(scheduling_strategy=strategy).remote())
ray.util.remove_placement_group(group)
print("->", json.dumps([within, ask()]))
"""


def test_each_hospital_is_at_its_site(three):
    cluster, nodes = three
    sites = dict(enumerate("abba"))
    values = {k: v for k, v in VALUES.items() if k in RunConfig.model_fields}
    values["execution"] = {"hospitals_per_actor": 1, "sites": sites, "address": cluster.address}
    words = [sys.executable, "-c", ASK, json.dumps(values)]
    done = subprocess.run(words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.split("-> ")[1])
    assert len(answers) == 2
    for found, same in answers:
        assert found == {str(hospital): nodes[site] for hospital, site in sites.items()}
        assert same


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


def ended(process: subprocess.Popen[str], folder: Path, again: Path) -> None:
    """Waits for a study; its only trial must have the numbers of the same run in this process."""
    said = process.communicate(timeout=180)[0]
    assert process.returncode == 0, said
    there = Result.read(folder / "trials/0000/seed-0")
    config = parse(RunConfig, load_yaml(folder / "trials/0000/seed-0/config.yaml"), "trial")
    here = {"pool": "inprocess", "sites": {}}
    alone = run(config.model_copy(update={"execution": config.execution.model_copy(update=here)}), again)
    assert there.model_hash == alone.model_hash
    assert there.final == alone.final
    assert there.ledger.head == alone.ledger.head


def test_a_study_survives_the_loss_of_a_node(three, tmp_path: Path):
    cluster, _ = three
    folder = tmp_path / "spread"
    process = command({**VALUES, "execution": {**VALUES["execution"], "placement": "spread"}}, folder, cluster)
    try:
        until(lambda: list(folder.glob("trials/*/seed-0/checkpoint.safetensors")), process)
        cluster.kill("b")
        assert not list(folder.glob("trials/*/seed-0/result.json"))
        ended(process, folder, tmp_path / "alone")
    finally:
        process.kill()


@pytest.mark.long
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
