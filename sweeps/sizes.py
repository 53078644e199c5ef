"""What a trial wants of a machine: hosts for its hospitals, CPUs in bundles, memory."""

from collections.abc import Iterable, Iterator
from typing import Any

import psutil

from engine.actors import SITE
from engine.config import RunConfig
from engine.pools.ray import sited_groups
from sweeps.space import StudyConfig, conditions, resolve
from sweeps.tuned import kinds_of_trials

_SIZE = ("cohort.hospitals", "federation.algorithm", "execution.pool", "execution.hospitals_per_actor")
RUNNER_CPU = 0.1  # of a trial's CPUs; the hospitals divide the rest
MEMORY_SHARE, RUNNER_GB, HOST_GB = 0.7, 0.35, 0.3  # of free memory; of a runner and of each host of hospitals, measured


def housed(config: RunConfig, cpus: float) -> RunConfig:
    """A trial's configuration as it runs on so many CPUs: on less than two, its hospitals live in the runner.

    Processes of their own would only wait for each other there. Whoever asks for a number of hospitals in an actor, for
    sites or for a spread gets the actors. No number depends on it, nor does the configuration's hash.
    """
    execution = config.execution
    bound = execution.sites or execution.placement == "spread" or execution.hospitals_per_actor != "auto"
    if execution.pool != "ray" or cpus >= 2 or bound:
        return config
    # one thread: "inprocess" would take a GPU where there is one, whose last bits differ
    return config.model_copy(update={"execution": execution.model_copy(update={"pool": "threads", "cpus": 1})})


def trial_hosts(config: RunConfig, cpus: float) -> list[tuple[str | None, list[int]]]:
    """Which hospitals share an actor in a trial that has so many CPUs, and at which site; [] where they have none."""
    if housed(config, cpus).execution.pool != "ray":
        return []
    hospitals = config.cohort.hospitals + (config.federation.algorithm == "centralised")
    return sited_groups([(i, 1) for i in range(hospitals)], config.execution, round(cpus - RUNNER_CPU, 4))


def trial_bundles(config: RunConfig, cpus: float, nodes: int) -> list[dict[str, float]]:
    """The bundles of a trial's placement group: its runner, and one for each actor that holds hospitals.

    On one node the actors share a bundle, so that the next trial can use the group whatever its number of hospitals.
    """
    hosts = trial_hosts(config, cpus)
    if not hosts:
        return [{"CPU": cpus}]
    n = len(hosts) if nodes > 1 or config.execution.sites else 1
    rest = round(cpus - RUNNER_CPU, 4)
    share = int(1e4 * rest / n) / 1e4
    shares = [share] * (n - 1) + [round(rest - share * (n - 1), 4)]
    return [{"CPU": RUNNER_CPU}, *({"CPU": s} for s in shares)]


def trial_labels(config: RunConfig, cpus: float) -> list[dict[str, str]]:
    """What the node of each bundle must be labelled with; empty without `execution.sites`."""
    if not config.execution.sites:
        return []
    return [{}, *({SITE: site} for site, _ in trial_hosts(config, cpus) if site is not None)]


def free_memory() -> float:
    """Bytes of this machine's memory that nobody uses."""
    return float(psutil.virtual_memory().available)


def all_memory() -> float:
    """Bytes of memory that this machine has."""
    return float(psutil.virtual_memory().total)


def memory_room(study: StudyConfig, cpus: float, free: float) -> int:
    """How many trials fit into `free` bytes of memory at a time, going by the one with the most actors."""
    return int(free * MEMORY_SHARE // (trial_gigabytes(study, cpus) * 1e9))


def trial_gigabytes(study: StudyConfig, cpus: float) -> float:
    """Memory of the largest trial: its runner and each actor that holds hospitals, with torch in each.

    Hospitals in the runner take as much there as in one actor.
    """
    return RUNNER_GB + HOST_GB * max(most_hosts(study, cpus), 1)


def most_hosts(study: StudyConfig, cpus: float) -> int:
    """Actors that hold hospitals in the largest trial."""
    return max(len(trial_hosts(config, cpus)) for config in _sized(study))


def _sized(study: StudyConfig) -> Iterator[RunConfig]:
    """A configuration of each size that trials of the study have."""
    for condition in conditions(study):
        kinds = (keys for _, keys in kinds_of_trials(study, condition))
        yield from (
            resolve(study, condition, sized, 0)
            for sized in _once({k: keys[k] for k in _SIZE if k in keys} for keys in kinds)
        )


def _once(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [dict(row) for row in dict.fromkeys(tuple(row.items()) for row in rows)]
