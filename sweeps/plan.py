"""What a study would run, before it runs: trials, placement groups, actors, memory, and how long it may take."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.experiment import run
from engine.result import Result
from sweeps.cohorts import cohort_words
from sweeps.scores import COSTS
from sweeps.sizes import RUNNER_CPU, free_memory, memory_room, most_hosts, trial_gigabytes, trial_hosts
from sweeps.space import TUNED_ON_TEST, Condition, StudyConfig, conditions, resolve, rung_rounds
from sweeps.tuned import branches, ends, kinds_of_trials, total_trials, tuned


def plan_lines(
    study: StudyConfig, probe: bool = False, free: float | None = None, run: Callable[[RunConfig, Path], Result] = run
) -> Iterator[str]:
    """The plan for a machine with `free` bytes of memory, this one by default, line by line.

    Nothing is started but, with `probe`, one round of each condition, by `run`.
    """
    yield from _counts(study)
    yield from _decides(study)
    cores = study.execution.cpus or os.cpu_count() or 1
    at_once = study.concurrency or cores
    cpus = cores / at_once
    for condition in conditions(study):
        yield from _condition(study, condition, cpus)
    for keys in study.baselines:
        yield f"  baseline in each condition: {_words(keys)}"
    if study.search and len({_space(study, condition) for condition in conditions(study)}) == 1:
        yield from _space(study, conditions(study)[0])
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


def _counts(study: StudyConfig) -> Iterator[str]:
    """How many trials there are, and of which kind."""
    total, places = total_trials(study), conditions(study)
    rounds = sorted(
        {resolve(study, c, keys, 0).federation.rounds for c in places for _, keys in kinds_of_trials(study, c)}
    )
    each = f"{rounds[0]} rounds each" if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]} rounds"
    yield f"{study.name}: {total} trials of {study.repeats} repeat(s), {each}"
    baselines = min(len(study.baselines) * len(places), total)
    tuned_ones = total - baselines if study.search else 0
    fixed = total - baselines - tuned_ones
    parts = [f"{baselines} baselines ({len(study.baselines)} in each of {len(places)} conditions)"] if baselines else []
    parts += [f"{tuned_ones} tuned"] if study.search else []
    parts += [f"{fixed} of the base as it is"] if fixed else []
    yield f"of them: {', '.join(parts)}"
    yield from (f"warning: {text}" for text in doubts(study))


def doubts(study: StudyConfig) -> Iterator[str]:
    """What of a study may not be meant, in sentences without their full stop."""
    for name, direction in study.objectives.items():
        if (direction == "minimize") != (name in COSTS or name.endswith("hurt_share")):
            yield f"objectives: {direction} {name} looks for the worst"
    total, places = total_trials(study), len(conditions(study))
    lines = len(study.baselines) * places
    if total < places:
        yield f"{places - total} of {places} conditions get no trial; trials is {total}"
    if total < lines:
        yield f"{lines - total} of {lines} baselines are left out; trials is {total}"
    if study.search and (without := places - min(max(total - lines, 0), places)):
        yield f"{without} of {places} conditions get no tuned trial; trials is {total}"


def _decides(study: StudyConfig) -> Iterator[str]:
    """What trials are judged by."""
    yield f"sampler {study.sampler}, objectives " + ", ".join(f"{d} {name}" for name, d in study.objectives.items())
    if study.tuned_on_test:
        yield f"warning: {TUNED_ON_TEST}"
    if study.pruner.method != "none":
        rungs = rung_rounds(study.pruner, study.federation.rounds)
        where = f"after rounds {', '.join(map(str, rungs))}" if rungs else "after each repeat"
        yield f"pruner {study.pruner.method}, asked {where}"
    for name, bound in study.constraints.items():
        yield f"constraint {name} {bound}"


def _condition(study: StudyConfig, condition: Condition, cpus: float) -> Iterator[str]:
    configs = [resolve(study, condition, keys, 0) for _, keys in kinds_of_trials(study, condition)]
    actors = max(len(trial_hosts(config, cpus)) for config in configs)
    held = f"in {actors} actor{'s' * (actors != 1)}" if actors else "in the trial's runner"
    yield f"  condition {condition.label}: {' or '.join(dict.fromkeys(map(cohort_words, configs)))}; {held}"
    methods = dict.fromkeys(c.federation.method.title for c in configs)
    yield f"    methods: {', '.join(methods)}"
    yield from (
        f"    secure aggregation: {text}" for text in dict.fromkeys(c.aggregation.secure.says for c in configs) if text
    )
    if study.search and len({_space(study, each) for each in conditions(study)}) > 1:
        yield from (f"  {line}" for line in _space(study, condition))


def _space(study: StudyConfig, condition: Condition) -> tuple[str, ...]:
    """What is tuned in a condition, a line for each choice that other keys depend on, such as the method."""
    deciding = {key for each in tuned(study) for key in each.when}
    found: dict[str, None] = {}
    for keys in branches(study, condition, lambda each: ends(each) if each.key in deciding else ends(each)[:1]):
        chosen = _words({key: value for key, value in keys.items() if key in deciding})
        space = [
            f"{each.key} {_range(study.search[each.key])}"
            for each in tuned(study)
            if each.key in keys and each.key not in deciding
        ]
        found[f"  tuned{f' with {chosen}' if chosen else ''}: {', '.join(space) or 'nothing else'}"] = None
    return tuple(found)


def _range(spec: dict[str, Any]) -> str:
    kind, value = next((kind, value) for kind, value in spec.items() if kind != "when")
    return f"{kind} {value}"


def _words(keys: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in keys.items()) or "the base as it is"


def probe_seconds(study: StudyConfig, run: Callable[[RunConfig, Path], Result] = run) -> float:
    """Seconds of work in the whole study on one CPU: one round of each condition is run here, and multiplied."""
    each = total_trials(study) * study.repeats / len(conditions(study))
    seconds = 0.0
    for condition in conditions(study):
        _, keys = kinds_of_trials(study, condition)[-1]
        config = resolve(study, condition, keys, 0)
        values = config.model_dump(mode="json")
        values["federation"]["rounds"] = 1
        values["ledger"] = values["tracking"] = {"backend": "none"}
        values["execution"] = {**values["execution"], "pool": "inprocess", "sites": {}}
        with tempfile.TemporaryDirectory() as folder:
            timing = run(RunConfig.model_validate(values), Path(folder)).timing
        seconds += each * config.federation.rounds * timing.rounds_seconds
    return seconds
