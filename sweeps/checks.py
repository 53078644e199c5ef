"""A run or a study before it starts: everything that can be wrong with it is looked for, and all of it is told at once.

First what its parts say by themselves (names, ranges, who owns a key), then every kind of trial that it will run.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from optuna.distributions import CategoricalDistribution
from pydantic import ValidationError

from engine.config import RunConfig
from engine.errors import ConfigError, PulseLedgerError
from engine.parts import require_parts
from engine.reads import read_with, switches, why_unread
from engine.settings import mistakes, parse, refusal
from sweeps.cohorts import impossible_cohort, too_large
from sweeps.owners import leaves, not_varied, points
from sweeps.scores import impossible
from sweeps.sizes import all_memory
from sweeps.space import (
    STUDY_KEYS,
    Condition,
    StudyConfig,
    conditions,
    resolve,
    rung_rounds,
)
from sweeps.tuned import Tuned, branches, contains, different_trials, ends, kinds_of_trials, tuned

SHOWN = 20  # sentences; a file with more mistakes has one mistake


def load_run(values: dict[str, Any], source: str) -> RunConfig:
    """Checks a run, with what can be said of its cohort before its records are read.

    Raises:
        ConfigError: a sentence about each thing that is wrong.
    """
    config = parse(RunConfig, values, source)
    if problems := [why for why in (impossible_cohort(config), too_large(config, all_memory())) if why]:
        raise refusal(source, problems)
    return config


def load_study(values: dict[str, Any], source: str, flags: Sequence[str] = ()) -> StudyConfig:
    """Checks a study with all its conditions, baselines and the ends of its search ranges.

    Args:
        flags: keys of `values` that were given on the command line, over the file.

    Raises:
        ConfigError: a sentence about each thing that is wrong.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: must be a mapping of keys such as name, seed, data, conditions.")
    try:
        study, problems = StudyConfig.model_validate(values), []
    except ValidationError:
        found = mistakes(StudyConfig, values)
        problems = [mistake.says for mistake in found]
        # what varies is looked at even so, as far as it can be read
        wrong = {key.partition(".")[0] for mistake in found for key in mistake.keys}
        own = {key: values[key] for key in STUDY_KEYS if key in values and key not in wrong}
        try:
            study = StudyConfig.model_validate(own)
        except ValidationError:
            raise refusal(source, problems) from None
    parts = list(_parts(study, flags))
    problems += parts
    if not problems:
        problems += _trials(study, source, flags)
    if problems:
        problems = list(dict.fromkeys(problem.removesuffix(".") for problem in problems))
        more = [f"and {len(problems) - SHOWN} more mistakes"] if len(problems) > SHOWN else []
        raise refusal(source, problems[:SHOWN] + more)
    return study


# --- What the parts say by themselves ---------------------------------------------------------------------------------


def _parts(study: StudyConfig, flags: Sequence[str]) -> Iterator[str]:
    found = [one for one in (_one(study, key) for key in study.search) if isinstance(one, str)]
    yield from found
    yield from _owners(study, flags)
    if not found:
        try:
            tuned(study)
        except ConfigError as error:
            yield str(error).removeprefix("search: ")
        else:
            yield from _sampling(study)
            yield from _design(study)
    if study.tuned_on_test and not study.allow_test_tuning:
        name = next(name for name in study.scored if name.startswith("final/"))
        kind = "objectives" if name in study.objectives else "constraints"
        yield (
            f"{kind}: {name} is a score of the test beats, and what is chosen by it is no estimate any more; take "
            f"validation/{name.removeprefix('final/')}, or set allow_test_tuning: true, which marks every table"
        )
    if study.pruner.method not in ("none", "rungs") and len(study.objectives) > 1:
        yield f"pruner.method {study.pruner.method} knows one objective only; use rungs"
    if study.seed + study.repeats > 2**63:
        yield f"seed is {study.seed}, and the last of {study.repeats} repeats would have a seed of 2 ** 63 or more"
    if study.pruner.method == "wilcoxon" and study.repeats < 2:
        yield f"pruner.method wilcoxon compares repeats, but repeats is {study.repeats}"


def _one(study: StudyConfig, key: str) -> str | None:
    """What is wrong with one key of search."""
    try:
        tuned(study.model_copy(update={"search": {key: study.search[key]}}))
    except ConfigError as error:
        return str(error).removeprefix("search: ")
    reason = not_varied(key)
    return f"search.{reason}" if reason else None


def _owners(study: StudyConfig, flags: Sequence[str]) -> Iterator[str]:
    """Every key that varies has one place that says so."""
    owner: dict[str, str] = {}
    for axis, values in study.conditions.items():
        place = f"conditions.{axis}"
        if not values:
            yield f"{place} is [], it needs at least one value"
        for value in values:
            found = points(axis, value)
            where = f"condition {axis.rsplit('.', 1)[-1]}={_shown(value)}"
            yield from (f"{where}: {problem}" for problem in found.problems)
            for key in found.keys:
                if reason := not_varied(key):
                    yield f"{place}: {reason}"
                if owner.setdefault(key, place) != place:
                    yield f"{key} is set by {owner[key]} and by {place}; one of them must go"
    for key in study.search:
        if key in owner:
            yield f"{key} is set by {owner[key]} and tuned by search.{key}; one of them must go"
    for kind, rows in (("baselines", study.baselines), ("design", study.design)):
        for number, row in enumerate(rows, 1):
            found = leaves(row)
            place = f"{kind}, no. {number}"
            yield from (f"{place}: {problem}" for problem in found.problems)
            for key in found.keys:
                if reason := not_varied(key):
                    yield f"{place}: {reason}"
                elif key in owner:
                    yield f"{key} is set by {owner[key]} and by {place}; one of them must go"
    for flag in flags:
        if flag in owner or flag in study.search:
            place = owner.get(flag, f"search.{flag}")
            yield f"--{flag} would change nothing that {place} does not set over it; take one of them away"


def _shown(value: Any) -> str:
    return " ".join(map(str, value.values())) if isinstance(value, dict) else str(value)


def _sampling(study: StudyConfig) -> Iterator[str]:
    space = tuned(study)
    is_grid = study.sampler == "grid"
    if is_grid and not all(isinstance(each.distribution, CategoricalDistribution) for each in space):
        yield "sampler grid needs every search key as choice"
    if study.sampler in ("nsga2", "nsga3") and len(study.objectives) < 2:
        yield f"sampler {study.sampler} needs at least two objectives"
    if study.trials is None and not is_grid and study.search and not study.design:
        yield "trials is needed, the number of all trials of the study"


def _design(study: StudyConfig) -> Iterator[str]:
    space = {each.key: each for each in tuned(study)}
    for point in study.design:
        for key, value in point.items():
            if key not in space:
                yield f"design: {key} is not a key of search; use baselines for other keys"
                continue
            if not contains(space[key].distribution, value):
                yield f"design: {key} is {value!r}, outside of {study.search[key]}"
            for other, values in space[key].when.items():
                if other in space and point.get(other) not in values:
                    yield f"design: {key} is only there when {other} is {_either(values)}, which must stand in the same point"


def _either(values: Sequence[Any]) -> str:
    return " or ".join(map(str, values))


# --- What the trials would be -----------------------------------------------------------------------------------------


def _trials(study: StudyConfig, source: str, flags: Sequence[str]) -> Iterator[str]:
    """Every kind of trial of every condition, tried out as a configuration."""
    places = conditions(study)
    labels = [place.label for place in places]
    yield from (f"condition {label} is there twice" for label in dict.fromkeys(labels) if labels.count(label) > 1)
    used: set[str] = set()  # tuned keys that are there in some trial
    clean = True
    same: dict[str, str] = {}  # what a condition comes to -> the first that comes to it
    every: list[tuple[dict[str, Any], RunConfig]] = []
    for place in places:
        where = f"condition {place.label}: " if study.conditions else ""
        configs: list[RunConfig] = []
        problems: list[str] = []
        for kind, keys in kinds_of_trials(study, place):
            try:
                config = resolve(study, place, keys, 0, source)
            except ConfigError as error:
                said = {"tuned": "search: ", "baseline": f"baseline {_words(keys)}: "}.get(kind, "")
                lines = str(error).replace(f"{source}, {where}", f"{source}: ").split("\n")
                problems += [f"{where}{said}{line.removeprefix(f'{source}: ')}" for line in lines]
                continue
            try:
                require_parts(config)
            except PulseLedgerError as error:
                problems.append(f"{where}{error}")
                continue
            configs.append(config)
            every.append(({**place.keys, **keys}, config))
            if kind == "baseline":
                problems += [
                    f"{where}baseline {_words(keys)}: {key} is not read ({why})"
                    for key in keys
                    if (why := why_unread(config, key))
                ]
            problems += [
                f"{where}{name} as a score: {why}" for name in study.scored if (why := impossible(name, config))
            ]
            problems += [f"{where}{why}" for why in (impossible_cohort(config), too_large(config, all_memory())) if why]
            if kind != "baseline" and study.pruner.method not in ("none", "wilcoxon"):
                problems += [*_no_rung(study, where, config), *_pruned(study, where, config)]
        problems += _unread_tuned(study, place, where, used, source) if not problems else []
        if configs and not problems:
            problems += [
                f"{where}{key} is not read by any trial there ({why_unread(configs[0], key)})"
                for key in place.keys
                if all(why_unread(config, key) for config in configs)
            ]
            first = same.setdefault(configs[0].model_dump_json(), place.label)
            if first != place.label:
                problems.append(f"conditions {first} and {place.label} are the same")
        clean = clean and not problems
        yield from dict.fromkeys(problems)
    if not clean:
        return
    if never := [key for key in study.search if key not in used]:
        yield from (f"search.{key}: its `when` holds in no trial" for key in never)
    else:
        yield from _idle_flags(flags, every)
        yield from _numbers(study)


def _idle_flags(flags: Sequence[str], every: Sequence[tuple[dict[str, Any], RunConfig]]) -> Iterator[str]:
    """A flag that no trial goes by; a file may well hold such keys, as one that was written by a run does."""
    for flag in flags if every else ():
        if all(flag in keys for keys, _ in every):
            yield f"--{flag} would change nothing: every trial has its own; take it away"
        elif all(why_unread(config, flag) for keys, config in every if flag not in keys):
            why = next(why_unread(config, flag) for keys, config in every if flag not in keys)
            yield f"--{flag} would change nothing: no trial reads it ({why}); take it away"


def _unread_tuned(study: StudyConfig, place: Condition, where: str, used: set[str], source: str) -> Iterator[str]:
    """A tuned key that its trial does not read would be tuned by noise."""
    deciding = switches() | {key for each in tuned(study) for key in each.when}

    def values(each: Tuned) -> Sequence[Any]:
        return ends(each) if each.key in deciding else ends(each)[:1]

    for keys in branches(study, place, values) if study.search else ():
        config = resolve(study, place, keys, 0, source)
        used.update(keys)
        for key in keys:
            if why := why_unread(config, key):
                other = why.partition(" is ")[0]
                add = f"give it `when` ({read_with(key)})" if other in {*keys, *place.keys} else "take it out"
                yield f"{where}search.{key} is not read when {why}; {add}"


def _pruned(study: StudyConfig, where: str, config: RunConfig) -> Iterator[str]:
    if config.privacy.method == "dp-sgd":
        yield (
            f"{where}pruner.method {study.pruner.method} looks at models on the way, and with privacy.method "
            f"{config.privacy.method} each look is a release that no budget has room for; use none"
        )


def _no_rung(study: StudyConfig, where: str, config: RunConfig) -> Iterator[str]:
    if not rung_rounds(study.pruner, config.federation.rounds):
        yield (
            f"{where}pruner.first is {study.pruner.first}, but a trial has {config.federation.rounds} rounds: the pruner would "
            "never be asked"
        )


def _numbers(study: StudyConfig) -> Iterator[str]:
    if study.trials is not None and (most := different_trials(study, study.trials)) < study.trials:
        yield f"trials is {study.trials}, but all that differ are {most}: nothing else is tuned"


def _words(keys: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in keys.items())
