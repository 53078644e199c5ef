"""What a study would run, before it runs: trials, placement groups, actors, memory, and how long it may take."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from engine.config import RunConfig
from engine.experiment import run
from engine.result import Result
from sweeps.sizes import RUNNER_CPU, free_memory, memory_room, most_hosts, trial_gigabytes, trial_hosts
from sweeps.space import StudyConfig, conditions, resolve, rung_rounds, search_space, total_trials


def plan_lines(
    study: StudyConfig, probe: bool = False, free: float | None = None, run: Callable[[RunConfig, Path], Result] = run
) -> Iterator[str]:
    """The plan for a machine with `free` bytes of memory, this one by default, line by line.

    Nothing is started but, with `probe`, one round of each condition, by `run`.
    """
    total, rounds = total_trials(study), study.federation.rounds
    yield f"{study.name}: {total} trials of {study.repeats} repeat(s), {rounds} rounds each"
    yield f"sampler {study.sampler}, objectives " + ", ".join(f"{d} {name}" for name, d in study.objectives.items())
    if study.pruner.method != "none":
        rungs = rung_rounds(study)
        where = f"after rounds {', '.join(map(str, rungs))}" if rungs else "after each repeat"
        yield f"pruner {study.pruner.method}, asked {where}"
    for name, bound in study.constraints.items():
        yield f"constraint {name} {bound}"
    cores = study.execution.cpus or os.cpu_count() or 1
    at_once = study.concurrency or cores
    cpus = cores / at_once
    for condition in conditions(study):
        config = resolve(study, condition, {}, 0)
        actors, hospitals = len(trial_hosts(config, cpus)), config.cohort.hospitals
        where = f"{actors} actor{'s' * (actors != 1)}" if actors else "the trial's runner"
        yield f"  condition {condition.label}: {hospitals} hospitals in {where}"
    for keys in study.baselines:
        yield f"  baseline in each condition: {keys}"
    for key, distribution in search_space(study).items():
        yield f"  tuned {key}: {distribution}"
    yield f"at a time: {at_once} trials, each one placement group of {cpus:.2g} of {cores} CPU ({RUNNER_CPU:g} for its runner)"
    if study.execution.pool == "ray":
        # runner, hospitals, ledger; and one tracker for all
        each = 1 + most_hosts(study, cpus) + (study.ledger.backend != "none")
        yield f"actors: up to {at_once * each + (study.tracking.backend != 'none')} processes"
        free = free_memory() if free is None else free
        room, wanted = memory_room(study, cpus, free), trial_gigabytes(study, cpus)
        yield (
            f"memory: about {wanted:.2g} GB a trial, {at_once * wanted:.2g} GB in all, {free / 1e9:.2g} GB are free"
            + (f"; enough for {max(room, 1)} at a time, and no more will run" if room < at_once else "")
        )
    if probe:
        seconds = probe_seconds(study, run)
        yield (
            f"time: about {seconds / cores / 60:.2g} min of rounds on {cores} CPU without pruning, going by one round of each condition "
            f"({seconds:.0f} s of work)"
        )


def probe_seconds(study: StudyConfig, run: Callable[[RunConfig, Path], Result] = run) -> float:
    """Seconds of work in the whole study on one CPU: one round of each condition is run here, and multiplied."""
    each = total_trials(study) * study.repeats / len(conditions(study))
    seconds = 0.0
    for condition in conditions(study):
        values = resolve(study, condition, {}, 0).model_dump(mode="json")
        values["federation"]["rounds"] = 1
        values["ledger"] = values["tracking"] = {"backend": "none"}
        values["execution"] = {**values["execution"], "pool": "inprocess", "sites": {}}
        with tempfile.TemporaryDirectory() as folder:
            timing = run(RunConfig.model_validate(values), Path(folder)).timing
        seconds += each * study.federation.rounds * timing.rounds_seconds
    return seconds
