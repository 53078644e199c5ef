"""What a study is: conditions that are compared, hyper-parameters that are tuned, repeats over seeds.

All of it is plain data from the study's YAML. `resolve` is the one place that says what a trial runs.
"""

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from engine.config import OWN_KEYS, RunConfig
from engine.errors import ConfigError
from engine.own.reference import titled
from engine.settings import Mistake, Section, parse, set_key
from engine.tracking.config import has_password
from sweeps.owners import leaves, points
from sweeps.scores import is_share, known_scores, objectives

STUDY_KEYS = (
    "conditions",
    "search",
    "baselines",
    "design",
    "repeats",
    "vary",
    "claims",
    "objectives",
    "constraints",
    "allow_test_tuning",
    "sampler",
    "pruner",
    "trials",
    "joint",
    "concurrency",
    "storage",
)

TUNED_ON_TEST = "tuned on test beats (allow_test_tuning): what was chosen by these scores is no estimate any more"
_BOUND = re.compile(r"\s*(<=|>=)\s*([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*")


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
        {},
        description="what is tuned: dotted key -> {uniform|log_uniform|int|log_int: [low, high]} or {choice: [...]}; "
        "with when: {KEY: VALUES} only in trials that have one of these values",
    )
    baselines: list[dict[str, Any]] = Field(
        [], description="runs in each condition that are compared but not tuned: dotted keys that differ from the base"
    )
    design: list[dict[str, Any]] = Field(
        [], description="points that are run first in each condition: dotted keys of `search` with their values"
    )
    repeats: int = Field(1, ge=1, le=1000, description="seeds of each trial: seed, seed + 1, ... of the run")
    vary: Literal["seed", "seed and cohort"] = Field(
        "seed",
        description="what a repeat changes: the run's seed, or that of partition and split (cohort.seed) as well",
    )
    claims: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of the claims that it is to decide; see pulseledger claims --hash",
    )
    objectives: dict[str, Literal["maximize", "minimize"]] = Field(
        {"validation/personal/macro_f1": "maximize"}, description="what is tuned for, and in which direction"
    )
    constraints: dict[str, str] = Field(
        {}, description='scores that a trial must keep to, such as ledger/overhead_share: "<= 0.05"'
    )
    allow_test_tuning: bool = Field(
        False, description="let objectives and constraints be scores of test beats (final/...); marks every table"
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

    @field_validator("baselines", "design")
    @classmethod
    def _dotted(cls, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [each if leaves(each).problems else leaves(each).keys for each in value]

    @field_validator("constraints")
    @classmethod
    def _constraints(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        for name, bound in value.items():
            _require_score(name, info)
            if not (match := _BOUND.fullmatch(bound)) or not math.isfinite(limit := float(match[2])):
                raise ValueError(f'{name} is {bound!r}; write a bound such as "<= 0.05" or ">= 0.9"')
            if limit < 0 if match[1] == "<=" else is_share(name) and limit > 1:
                reach = "from 0 to 1" if is_share(name) else "from 0 on"
                raise ValueError(f"{name} is {bound!r}, but it reaches {reach}: no trial can keep to it")
        return value

    @field_validator("objectives")
    @classmethod
    def _objectives(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if not value:
            raise ValueError("must name at least one score")
        for name in value:
            _require_score(name, info)
        return value

    def clashes(self) -> Iterator[Mistake]:
        """What does not go together in the base, as far as it does not vary: trials are looked at one by one.

        And a storage that cannot be; its value is not shown, as it may hold a password.
        """
        varied = {
            key for axis, values in self.conditions.items() for value in values for key in points(axis, value).keys
        }
        varied |= set(self.search)
        yield from (clash for clash in super().clashes() if varied.isdisjoint(clash.keys))
        if self.execution.pool == "sites":
            yield Mistake("execution.pool sites: hospitals join a run, not a study", ["execution.pool"])
        if self.storage is not None and not self.storage.startswith("postgresql+psycopg://"):
            yield Mistake("storage must be null (SQLite) or postgresql+psycopg://USER@HOST:PORT/DATABASE", ["storage"])
        elif self.storage is not None and has_password(self.storage):
            yield Mistake(
                "storage must not hold a password, which would stay in study.yaml; give it in PGPASSWORD or ~/.pgpass",
                ["storage"],
            )

    @property
    def scored(self) -> tuple[str, ...]:
        """All scores that decide on something: objectives and constraints."""
        return tuple(dict.fromkeys((*self.objectives, *self.constraints)))

    @property
    def tuned_on_test(self) -> bool:
        """Whether something is chosen by scores of test beats, which then are no estimates any more."""
        return any(name.startswith("final/") for name in self.scored)


def _require_score(name: str, info: ValidationInfo) -> None:
    """Raises ValueError for what is no score of the classes in the settings before, which are wrong where they are not there."""
    data = info.data.get("data")
    if data is not None and name not in objectives(data.labels):
        raise ValueError(f"{name!r} is no score; {known_scores(data.labels, name)}")


@dataclass(frozen=True)
class Condition:
    """One point of the grid.

    Attributes:
        label: short text that names it, such as "hospitals=5, skew=record-dirichlet 0.1"; "all" without a grid.
        keys: dotted key -> value.
    """

    label: str
    keys: dict[str, Any]


def conditions(study: StudyConfig) -> list[Condition]:
    """All points of the grid, in the order of the file, the last axis running fastest."""
    found = []
    for values in itertools.product(*study.conditions.values()):
        keys: dict[str, Any] = {}
        words = []
        for axis, value in zip(study.conditions, values, strict=True):
            own = points(axis, value).keys
            keys |= own
            shown = " ".join(map(titled, own.values())) or "base"
            words.append(f"{axis.rsplit('.', 1)[-1]}={shown}")
        found.append(Condition(", ".join(words) or "all", keys))
    return found


def resolve(
    study: StudyConfig, condition: Condition, keys: dict[str, Any], repeat: int, source: str = "study"
) -> RunConfig:
    """What a trial runs: the base, then its condition, then its tuned or baseline keys, and the seed of the repeat.

    Raises:
        ConfigError: the combination is not allowed.
    """
    where = f"{source}, condition {condition.label}" if study.conditions else source
    values, changed = study.model_dump(mode="json", exclude={*STUDY_KEYS, "out"}), {**condition.keys, **keys}
    for key in OWN_KEYS:
        section, _, name = key.partition(".")
        if key in changed and changed[key] != values[section][name]:
            values[section]["parameters"] = {}  # those of the base are another part's
    for key, value in changed.items():
        try:
            set_key(values, key, value)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    values["seed"] = study.seed + repeat
    if study.vary == "seed and cohort":
        values["cohort"]["seed"] += repeat
    return parse(RunConfig, values, where)


def runs_of(study: StudyConfig, condition: str, keys: dict[str, Any]) -> tuple[RunConfig, ...]:
    """The configurations of all repeats of a trial, of which the label of its condition and its keys are known.

    Raises:
        ConfigError: the study has no such condition.
    """
    place = next((each for each in conditions(study) if each.label == condition), None)
    if place is None:
        raise ConfigError(f"study: has no condition {condition!r}.")
    return tuple(resolve(study, place, keys, repeat) for repeat in range(study.repeats))


def violation(bound: str, value: float) -> float:
    """How far `value` is on the wrong side of a bound such as "<= 0.05"; zero or less keeps to it, as Optuna counts."""
    match = _BOUND.fullmatch(bound)
    assert match is not None, bound  # StudyConfig checked it
    limit = float(match[2])
    return value - limit if match[1] == "<=" else limit - value


def rung_rounds(pruner: PrunerConfig, rounds: int) -> list[int]:
    """Rounds before the last, of so many, at which a trial may be pruned; none for pruners that look at repeats."""
    if pruner.method in ("none", "wilcoxon"):
        return []
    powers = (pruner.first * pruner.factor**k for k in itertools.count())
    return list(itertools.takewhile(lambda round: round < rounds, powers))
