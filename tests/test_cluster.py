"""A cluster of several raylets: hospitals at their sites, a node that is lost, a node that comes late."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import studies
import yaml
from processes import until
from raylets import ENVIRONMENT, Raylets, raylets
from reference import ROOT
from studies import BASE

from engine.config import RunConfig
from engine.errors import ConfigError
from engine.experiment import run
from engine.pools.config import ExecutionConfig
from engine.pools.ray import sited_groups
from engine.result import Result
from engine.settings import load_yaml, parse
from sweeps.folder import repeat_folder, trial_folder
from sweeps.slots import START_SECONDS
from sweeps.space import StudyConfig

VALUES: dict[str, Any] = {
    **BASE,
    "name": "nodes",
    "cohort": {"hospitals": 4},
    "federation": {"rounds": 10, "local_epochs": 2},
    "ledger": {"backend": "embedded"},
    "tracking": {"backend": "mlflow"},
    "execution": {"hospitals_per_actor": 1},
    "search": {"federation.learning_rate": {"log_uniform": [0.01, 0.1]}},
    "sampler": "random",
    "trials": 1,
}


def study_of(**keys: Any) -> StudyConfig:
    return studies.study_of(VALUES, **keys)


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
from sweeps.sizes import trial_bundles, trial_labels

config = RunConfig.model_validate(json.loads(sys.argv[1]))

def ask():
    cohort = build_cohort(config.data, config.cohort)
    beats = cohort.beats
    network = build_network(config.model, *beats.shape, beats.rr.shape[1], len(beats.classes))
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


@pytest.mark.long
def test_each_hospital_is_at_its_site(three):
    cluster, nodes = three
    sites = dict(enumerate("abba"))
    values = {k: v for k, v in VALUES.items() if k in RunConfig.model_fields}
    values["execution"] = {"hospitals_per_actor": 2, "sites": sites, "address": cluster.address}
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


def ended(process: subprocess.Popen[str], folder: Path, again: Path) -> None:
    """Waits for a study; its only trial must have the numbers of the same run in this process."""
    said = process.communicate(timeout=180)[0]
    assert process.returncode == 0, said
    home = repeat_folder(trial_folder(folder, 0), 0)
    there = Result.read(home)
    config = parse(RunConfig, load_yaml(home / "config.yaml"), "trial")
    here = {"pool": "inprocess", "sites": {}}
    alone = run(config.model_copy(update={"execution": config.execution.model_copy(update=here)}), again)
    assert there.model_hash == alone.model_hash
    assert there.final == alone.final
    assert there.ledger.head == alone.ledger.head


@pytest.mark.long
def test_a_study_survives_the_loss_of_a_node(three, tmp_path: Path):
    cluster, _ = three
    folder = tmp_path / "spread"
    keys = {"execution": {"hospitals_per_actor": 2, "placement": "spread"}, "tracking": {"backend": "none"}}
    process = command({**VALUES, **keys}, folder, cluster)
    try:
        until(lambda: list(folder.glob("trials/*/seed-0/checkpoint.safetensors")), process)
        cluster.kill("b")
        assert not list(folder.glob("trials/*/seed-0/result.json"))
        ended(process, folder, tmp_path / "alone")
    finally:
        process.kill()


@pytest.mark.long
@pytest.mark.parametrize("mode", ["buffered", "semi-synchronous"])
def test_rounds_that_do_not_wait_go_on_after_a_kill_on_four_raylets_to_the_same_bits(mode: str, tmp_path: Path):
    folder, late = tmp_path / "late", {"fleet": "stragglers", "slow": [1], "dropout": 0.1}
    keys = {"clock": late, "schedule": {"mode": mode, "buffer": 2, "first": 2}, "tracking": {"backend": "none"}}
    execution = {"hospitals_per_actor": 1, "sites": dict(enumerate("abcd"))}
    with raylets() as cluster:
        for name in "abcd":
            cluster.add(name, 1)
        process = command({**VALUES, **keys, "execution": execution}, folder, cluster)
        try:
            until(lambda: list(folder.glob("trials/*/seed-0/checkpoint.safetensors")), process)
            process.kill()
            process.wait()
            assert not list(folder.glob("trials/*/seed-0/result.json"))
            words = [sys.executable, "-m", "sweeps", "resume", str(folder)]
            process = subprocess.Popen(
                words, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            ended(process, folder, tmp_path / "alone")
        finally:
            process.kill()


@pytest.mark.long
def test_trials_whose_room_is_split_between_nodes_wait_for_each_other(tmp_path: Path):
    """A trial is 0.1 and 0.9 CPUs: three of them leave 0.1 and 0.8 on two nodes, which is room in sum and for nobody."""
    keys = {"execution": {"placement": "spread"}, "tracking": {"backend": "none"}, "trials": 6}
    small = {"cohort": {"hospitals": 2}, "federation": {"rounds": 6}, "ledger": {"backend": "none"}}
    folder = tmp_path / "split"
    with raylets() as cluster:
        cluster.add("a", 2)
        process = command({**VALUES, **keys, **small}, folder, cluster)
        try:
            said = process.communicate(timeout=START_SECONDS)[0]  # after which a trial that waits alone is given up
        finally:
            process.kill()
    assert process.returncode == 0, said
    assert len(list(folder.glob("trials/*/seed-0/result.json"))) == 6


@pytest.mark.long
def test_a_head_that_is_lost_ends_the_study_in_a_sentence_within_seconds(tmp_path: Path):
    folder = tmp_path / "headless"
    keys = {"execution": {"placement": "spread"}, "tracking": {"backend": "none"}, "trials": 4}
    slow = {"federation": {"rounds": 200, "local_epochs": 2}}
    with raylets() as cluster:
        cluster.add("a", 2)
        process = command({**VALUES, **keys, **slow}, folder, cluster)
        try:
            until(lambda: list(folder.glob("trials/*/seed-0/checkpoint.safetensors")), process)
            cluster.behead()
            began = time.monotonic()
            said = process.communicate(timeout=60)[0]
        finally:
            process.kill()
    assert time.monotonic() - began < 30
    assert process.returncode == 2, said
    assert f"Ray was lost (its head at {cluster.address} does not answer: " in said.splitlines()[-1]
    assert "Traceback" not in said


@pytest.mark.long
def test_a_trial_waits_for_a_site_that_joins_later(three, tmp_path: Path):
    cluster, _ = three
    folder = tmp_path / "late"
    values = {**VALUES, "execution": {**VALUES["execution"], "sites": dict(enumerate("acca"))}}
    process = command(values, folder, cluster)
    try:
        until(lambda: list(folder.glob("optuna.db")), process)
        time.sleep(5)  # it has been asked for by then
        assert not list(folder.glob("trials/0000"))
        cluster.add("c", 1)
        ended(process, folder, tmp_path / "alone")
    finally:
        process.kill()
