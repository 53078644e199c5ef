"""What a study would run: trials, actors, memory and time, by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from reference import ROOT
from studies import BASE, study_of

from engine.config import RunConfig, config_hash
from engine.settings import load_yaml
from sweeps.checks import load_study
from sweeps.plan import plan_lines
from sweeps.sizes import housed, memory_room, trial_bundles, trial_labels


def three_seconds(config: RunConfig, folder: Path) -> Any:
    """A run whose rounds take three seconds each."""
    return SimpleNamespace(timing=SimpleNamespace(rounds_seconds=3.0 * config.federation.rounds))


def test_plan_counts_actors_memory_and_time_by_hand():
    """Two CPUs, two trials of one CPU; 0.9 of it hold one actor for 3 hospitals: 0.35 + 0.3 GB, four processes each."""
    quickstart = load_yaml(ROOT / "sweeps" / "quickstart.yaml")
    small = {key: value for key, value in BASE.items() if key in ("data", "model")}
    conditions = {"cohort.hospitals": [3], "skew": quickstart["conditions"]["skew"]}
    values = {**quickstart, **small, "conditions": conditions, "federation": {"rounds": 9}}
    study = load_study({**values, "execution": {"cpus": 2}, "trials": 4, "pruner": {"method": "rungs"}}, "test")
    out = "\n".join(plan_lines(study, probe=True, free=1.5e9, run=three_seconds)) + "\n"
    assert "4 trials of" in out
    assert "pruner rungs, asked after rounds 1, 3\n" in out
    # a runner with the hospitals and a ledger in each of two trials, and the tracker
    assert "  condition hospitals=3, skew=pathology: 3 hospitals of " in out
    assert "classes N S V F Q; in the trial's runner" in out
    assert "of them: 2 baselines (1 in each of 2 conditions), 2 tuned\n" in out
    assert "    methods: local-only, FedAvg, Per-FedAvg difference\n" in out
    assert "actors: up to 5 processes" in out
    # 1.5 GB * 0.7 / 0.65 GB = 1.6
    assert "about 0.65 GB a trial, 1.3 GB in all, 1.5 GB are free; enough for 1 at a time, and no more will run" in out
    # 4 trials * 9 rounds * 3 s on two CPUs
    assert "time: about 0.9 min of rounds on 2 CPU" in out
    assert "(108 s of work)" in out


def test_a_trial_without_ray_plans_no_actors():
    lines = list(plan_lines(study_of(BASE, execution={"pool": "inprocess", "cpus": 2}), free=1e9))
    (condition,) = (line for line in lines if line.startswith("  condition all: 5 hospitals of "))
    assert condition.endswith("; in the trial's runner")
    assert not any(line.startswith(("actors", "memory")) for line in lines)


def test_bundles_are_the_runner_and_its_hosts():
    study = study_of(BASE, cohort={"hospitals": 4}, execution={"hospitals_per_actor": 1})
    assert trial_bundles(study, 1.0, nodes=1) == [{"CPU": 0.1}, {"CPU": 0.9}]  # on one node they share
    assert trial_bundles(study, 2.0, nodes=2) == [{"CPU": 0.1}] + [{"CPU": 0.475}] * 4
    thirds = trial_bundles(study_of(BASE, cohort={"hospitals": 3}, execution={"hospitals_per_actor": 1}), 1.1, nodes=2)
    assert thirds == [{"CPU": 0.1}, {"CPU": 0.3333}, {"CPU": 0.3333}, {"CPU": 0.3334}]
    assert trial_labels(study, 2.0) == []
    sites = study_of(BASE, cohort={"hospitals": 4}, execution={"sites": dict(enumerate("abba"))})
    assert trial_labels(sites, 2.0) == [{}, {"site": "a"}, {"site": "b"}]


def test_on_one_cpu_hospitals_live_in_the_runner():
    study = study_of(BASE, execution={})
    alone = housed(study, 1.0)
    assert (alone.execution.pool, alone.execution.cpus) == ("threads", 1)
    assert config_hash(alone) == config_hash(study)
    assert trial_bundles(study, 1.0, nodes=2) == [{"CPU": 1.0}]
    assert trial_bundles(study, 2.0, nodes=1) == [{"CPU": 0.1}, {"CPU": 1.9}]
    assert housed(study, 2.0) == study
    for asked in (
        {"hospitals_per_actor": 1},
        {"placement": "spread"},
        {"sites": dict(enumerate("abbab"))},
        {"pool": "threads"},
    ):
        bound = study_of(BASE, execution=asked)
        assert housed(bound, 1.0) == bound
    assert trial_bundles(study_of(BASE, execution={"pool": "threads"}), 1.0, nodes=1) == [{"CPU": 1.0}]


def test_memory_counts_the_largest_trial():
    study = study_of(BASE, conditions={"cohort.hospitals": [2, 4]}, execution={"hospitals_per_actor": 1})
    # 0.35 + 4 * 0.3 GB = 1.55 GB a trial; 0.7 of 10 GB hold four of them
    assert memory_room(study, 2.0, 10e9) == 4
    assert memory_room(study, 2.0, 1e9) == 0
