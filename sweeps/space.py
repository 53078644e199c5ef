"""What a study varies: conditions that are compared, hyper-parameters that are tuned, repeats over seeds.

All of it is plain data from the study's YAML, checked against the run's configuration before anything starts.
"""

import itertools
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field, field_validator, model_validator

from engine.config import RunConfig
from engine.errors import ConfigError
from engine.seeds import generator
from engine.settings import Section, dotted_keys, parse, set_key
from engine.tracking.config import has_password
from sweeps.scores import objectives

STUDY_KEYS = (
    "conditions",
    "search",
    "baselines",
    "design",
    "repeats",
    "objectives",
    "constraints",
    "sampler",
    "pruner",
    "trials",
    "joint",
    "concurrency",
    "storage",
)

_BOUND = re.compile(r"\s*(<=|>=)\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*")


class PrunerConfig(Section):
    """Which trials are ended early. Asked at the rungs, rounds `first`, `first * factor`, ... of the first repeat."""

    method: Literal["none", "median", "successive_halving", "hyperband", "wilcoxon", "rungs"] = Field(
        "none", description="Optuna's pruners; rungs: ours, for several objectives; wilcoxon: after each repeat"
    )
    first: int = Field(1, ge=1, description="round of the first rung")
    factor: int = Field(3, ge=2, description="each rung is this many times the one before; 1/factor is kept at least")
    n_startup_trials: int = Field(
        5, ge=0, description="median: complete trials before any is pruned; rungs: others at the rung"
    )
    p_threshold: float = Field(0.1, ge=0, le=1, description="wilcoxon: p value below which a trial is worse")


class StudyConfig(RunConfig):
    """A study: a run's configuration, and what is varied around it."""

    name: str = Field("study", min_length=1, max_length=200, description="name of the study")
    conditions: dict[str, list[Any]] = Field(
        {}, description="grid that is compared: dotted key -> values; a value may be a mapping of several keys"
    )
    search: dict[str, dict[str, Any]] = Field(
        {}, description="what is tuned: dotted key -> {uniform|log_uniform|int|log_int: [low, high]} or {choice: [...]}"
    )
    baselines: list[dict[str, Any]] = Field(
        [], description="runs in each condition that are compared but not tuned: dotted keys that differ from the base"
    )
    design: list[dict[str, Any]] = Field(
        [], description="points that are run first in each condition: dotted keys of `search` with their values"
    )
    repeats: int = Field(1, ge=1, le=1000, description="seeds of each trial: seed, seed + 1, ... of the run")
    objectives: dict[str, Literal["maximize", "minimize"]] = Field(
        {"validation/personal/macro_f1": "maximize"}, description="what is tuned for, and in which direction"
    )
    constraints: dict[str, str] = Field(
        {}, description='scores that a trial must keep to, such as ledger/overhead_share: "<= 0.05"'
    )
    sampler: Literal["tpe", "nsga2", "nsga3", "gp", "qmc", "random", "grid"] = Field(
        "tpe", description="Optuna's sampler"
    )
    pruner: PrunerConfig = PrunerConfig()
    trials: int | None = Field(
        None, ge=1, description="all trials of the study; null: baselines, design and the whole grid"
    )
    joint: bool = Field(False, description="one Optuna study in which the condition is a parameter, too")
    concurrency: int | None = Field(None, ge=1, description="trials at a time; null: one for each CPU")

    storage: str | None = Field(
        None,
        description="database of the trials: null for SQLite in the study's folder, or postgresql+psycopg://USER@HOST/DATABASE "
        "with the password in PGPASSWORD",
    )

    @field_validator("constraints")
    @classmethod
    def _constraints(cls, value: dict[str, str]) -> dict[str, str]:
        for name, bound in value.items():
            if not _BOUND.fullmatch(bound):
                raise ValueError(f'{name} is {bound!r}; write a bound such as "<= 0.05" or ">= 0.9"')
        return value

    @model_validator(mode="after")
    def _storage(self) -> "StudyConfig":
        # the value is not shown: it may hold a password
        if self.storage is not None:
            if not self.storage.startswith("postgresql+psycopg://"):
                raise ValueError("storage must be null (SQLite) or postgresql+psycopg://USER@HOST:PORT/DATABASE")
            if has_password(self.storage):
                raise ValueError(
                    "storage must not hold a password, which would stay in study.yaml; give it in PGPASSWORD or ~/.pgpass"
                )
        return self

    @model_validator(mode="after")
    def _objectives(self) -> "StudyConfig":
        if not self.objectives:
            raise ValueError("objectives must name at least one score")
        known = objectives(self.data.labels)
        for key, names in (("objectives", self.objectives), ("constraints", self.constraints)):
            if unknown := [name for name in names if name not in known]:
                raise ValueError(
                    f"{key}: {unknown[0]!r} is no score; allowed: {', '.join(known[:3])} ... or see README"
                )
        return self


@dataclass(frozen=True)
class Condition:
    """One point of the grid.

    Attributes:
        label: short text that names it, such as "hospitals=5, skew=record-dirichlet 0.1"; "all" without a grid.
        keys: dotted key -> value.
    """

    label: str
    keys: dict[str, Any]


def load_study(values: dict[str, Any], source: str) -> StudyConfig:
    """Checks a study with all its conditions, baselines and the ends of its search ranges.

    Raises:
        ConfigError: one sentence about the first thing that is wrong.
    """
    study = parse(StudyConfig, values, source)
    distributions = search_space(study, source)
    if study.sampler == "grid" and not all(isinstance(d, CategoricalDistribution) for d in distributions.values()):
        raise ConfigError(f"{source}: sampler grid needs every search key as choice.")
    if study.sampler in ("nsga2", "nsga3") and len(study.objectives) < 2:
        raise ConfigError(f"{source}: sampler {study.sampler} needs at least two objectives.")
    if study.pruner.method not in ("none", "rungs") and len(study.objectives) > 1:
        raise ConfigError(f"{source}: pruner.method {study.pruner.method} knows one objective only; use rungs.")
    if study.pruner.method == "wilcoxon" and study.repeats < 2:
        raise ConfigError(f"{source}: pruner.method wilcoxon compares repeats, but repeats is {study.repeats}.")
    for point in study.design:
        for key, value in point.items():
            if key not in distributions:
                raise ConfigError(f"{source}: design: {key} is not a key of search; use baselines for other keys.")
            if not _contains(distributions[key], value):
                raise ConfigError(f"{source}: design: {key} is {value!r}, outside of {study.search[key]}.")
    if study.trials is None and study.sampler != "grid" and study.search and not study.design:
        raise ConfigError(f"{source}: trials is needed, the number of all trials of the study.")
    for axis, points in study.conditions.items():
        if not points:
            raise ConfigError(f"{source}: conditions.{axis} is [], it needs at least one value.")
    labels = [condition.label for condition in conditions(study)]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"{source}: condition {label} is there twice.")
    for condition in conditions(study):
        for baseline in study.baselines:
            resolve(study, condition, baseline, 0, source)
        for corner in (*_corners(distributions), *study.design):
            resolve(study, condition, corner, 0, source)
    return study


def conditions(study: StudyConfig) -> list[Condition]:
    """All points of the grid, in the order of the file, the last axis running fastest."""
    points = []
    for values in itertools.product(*study.conditions.values()):
        keys: dict[str, Any] = {}
        words = []
        for axis, value in zip(study.conditions, values, strict=True):
            keys.update(value if isinstance(value, dict) else {axis: value})
            shown = " ".join(str(v) for v in value.values()) if isinstance(value, dict) else str(value)
            words.append(f"{axis.rsplit('.', 1)[-1]}={shown}")
        points.append(Condition(", ".join(words) or "all", keys))
    return points


def search_space(study: StudyConfig, source: str = "search") -> dict[str, BaseDistribution]:
    """Dotted key -> Optuna distribution.

    Raises:
        ConfigError: a key is unknown or a range is not one.
    """
    known = dotted_keys(RunConfig)
    space: dict[str, BaseDistribution] = {}
    for key, spec in study.search.items():
        if key not in known:
            raise ConfigError(f"{source}: search.{key} is not a key of a run's configuration.")
        kind, value = next(iter(spec.items())) if len(spec) == 1 else ("", [])
        try:
            match kind:
                case "uniform" | "log_uniform":
                    low, high = value
                    space[key] = FloatDistribution(float(low), float(high), log=kind == "log_uniform")
                case "int" | "log_int":
                    low, high = value
                    space[key] = IntDistribution(int(low), int(high), log=kind == "log_int")
                case "choice":
                    space[key] = CategoricalDistribution(value)
                case _:
                    raise ValueError("allowed: uniform, log_uniform, int, log_int or choice, one of them")
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{source}: search.{key} is {spec}: {error}.") from None
    return space


def resolve(
    study: StudyConfig, condition: Condition, keys: dict[str, Any], repeat: int, source: str = "study"
) -> RunConfig:
    """The run's configuration for one condition, tuned or baseline keys, and repeat.

    Raises:
        ConfigError: the combination is not allowed.
    """
    where = f"{source}, condition {condition.label}" if study.conditions else source
    values = study.model_dump(mode="json", exclude={*STUDY_KEYS, "out"})
    for key, value in {**condition.keys, **keys}.items():
        try:
            set_key(values, key, value)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    values["seed"] = study.seed + repeat
    return parse(RunConfig, values, where)


def total_trials(study: StudyConfig) -> int:
    """How many trials the study wants over all conditions."""
    if study.trials is not None:
        return study.trials
    # without a search there is nothing to draw: one trial of the base, unless baselines are all that is wanted
    tuned = len(grid(study)) + len(study.design) if study.search else int(not study.baselines)
    return len(conditions(study)) * (len(study.baselines) + tuned)


def grid(study: StudyConfig) -> list[dict[str, Any]]:
    """All points of the grid in the order of the file, the last key running fastest; none for other samplers.

    They are enqueued: Optuna's own GridSampler stops the study from inside `tell`, which ask-and-tell does not allow.
    """
    if study.sampler != "grid":
        return []
    space = {k: d.choices for k, d in search_space(study).items() if isinstance(d, CategoricalDistribution)}
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def suggest(trial: optuna.Trial, key: str, distribution: BaseDistribution) -> Any:
    """Draws one value through Optuna's public interface."""
    match distribution:
        case FloatDistribution():
            return trial.suggest_float(key, distribution.low, distribution.high, log=distribution.log)
        case IntDistribution():
            return trial.suggest_int(key, distribution.low, distribution.high, log=distribution.log)
        case CategoricalDistribution():
            return trial.suggest_categorical(key, distribution.choices)
        case _:
            raise TypeError(f"{key}: {distribution} is no distribution that search_space makes")


def build_sampler(study: StudyConfig, asked: int, condition: int) -> optuna.samplers.BaseSampler:
    """A sampler for the next trial.

    It is made anew for each trial with a seed that counts the trials so far: one that is seeded only once draws the
    same points again after a resume.
    """
    seed = int(generator(study.seed, "sampler", asked, condition).integers(2**31))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match study.sampler:
            case "random" | "grid":  # the points of a grid wait in the queue
                return optuna.samplers.RandomSampler(seed=seed)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=seed)
            case "nsga3":
                return optuna.samplers.NSGAIIISampler(seed=seed)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed)
            case "qmc":  # keeps its place in the sequence in the study
                return optuna.samplers.QMCSampler(seed=study.seed, scramble=True, warn_independent_sampling=False)
            case _:
                return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)


def violation(bound: str, value: float) -> float:
    """How far `value` is on the wrong side of a bound such as "<= 0.05"; zero or less keeps to it, as Optuna counts."""
    match = _BOUND.fullmatch(bound)
    assert match is not None, bound  # StudyConfig checked it
    limit = float(match[2])
    return value - limit if match[1] == "<=" else limit - value


def rung_rounds(study: StudyConfig) -> list[int]:
    """Rounds before the last at which a trial may be pruned; none for pruners that look at repeats."""
    pruner = study.pruner
    if pruner.method in ("none", "wilcoxon"):
        return []
    powers = (pruner.first * pruner.factor**k for k in itertools.count())
    return list(itertools.takewhile(lambda round: round < study.federation.rounds, powers))


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = isinstance(distribution, FloatDistribution) or value == int(value) if number else False
    return number and whole and distribution.low <= value <= distribution.high


def _corners(space: dict[str, BaseDistribution]) -> Iterator[dict[str, Any]]:
    """The first and the last value of every range, all choices in turn: enough to notice a value out of range."""
    ends = {
        key: list(d.choices) if isinstance(d, CategoricalDistribution) else [d.low, d.high]  # type: ignore[attr-defined]
        for key, d in space.items()
    }
    for i in range(max((len(values) for values in ends.values()), default=1)):
        yield {key: values[min(i, len(values) - 1)] for key, values in ends.items()}
