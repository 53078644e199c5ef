"""What Optuna's database holds of a study's trials.

The driver notes everything in user attributes of Optuna's trial, plain JSON that any tool of Optuna shows:

    trial, condition, keys, config      number in the whole study, label, what was tuned, one configuration per repeat
    baseline                            of a baseline: its keys
    rung/ROUND                          values of the objectives there, kept, and what Optuna's pruner noted
    pruned                              round, or repeat, at which it was pruned
    repeats                             objective -> mean, sd, low, high (95 % interval), n
    reason                              why it was pruned or failed, in a line
    waiting                             what a trial waits for that a reviewer must decide on; "" once it goes on
    error                               of a failed trial: hospital, round, stage, traceback

A trial without `config` never got as far as being one.
"""

import functools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.config import RunConfig
from engine.errors import DataError
from sweeps.space import StudyConfig

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

ENDED = ("COMPLETE", "PRUNED", "FAIL")
_KINDS: dict[str, Any] = {"trial": int, "condition": str, "keys": dict, "config": list}
_OPTIONAL: dict[str, Any] = {
    "baseline": dict | None,
    "pruned": int | None,
    "repeats": dict,
    "reason": str,
    "waiting": str,
    "error": dict,
}


class Interval(NamedTuple):
    """Mean, standard deviation and 95 % interval of the mean (Student's t) over n values; None where one is too few."""

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    n: int


def interval(values: Sequence[float]) -> Interval:
    """What the repeats of a trial say together.

    >>> interval([0.5])
    Interval(mean=0.5, sd=None, low=None, high=None, n=1)
    """
    from scipy.special import stdtrit  # Student's t; scipy.stats takes half a second to import

    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return Interval(mean, None, None, None, n)
    sd = statistics.stdev(values)
    half = float(stdtrit(n - 1, 0.975)) * sd / math.sqrt(n)
    return Interval(mean, sd, mean - half, mean + half, n)


@dataclass(frozen=True)
class Rung:
    """What a trial reached at a rung, and what was decided on it.

    Attributes:
        values: of the objectives, in their order.
        memory: what Optuna's pruner noted about the trial there.
    """

    values: tuple[float, ...]
    kept: bool = True
    memory: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """Where a trial failed, as far as it is known."""

    hospital: int | None = None
    round: int | None = None
    stage: str = ""
    traceback: str = ""


NO_FAILURE = Failure()


@dataclass(frozen=True)
class StoredTrial:
    """One trial of a study.

    Attributes:
        number: in the whole study; names its folder.
        keys: dotted keys that were tuned or, of a baseline, set.
        configs: the whole configuration of each repeat, as plain values.
        state: COMPLETE, PRUNED, FAIL, RUNNING or WAITING.
        values: of the objectives; empty unless it is complete.
        constraints: score -> how far its bound is broken; 0 or less keeps to it.
        rungs: round, or repeat, -> what was reached there.
        pruned: the round, or repeat, at which it was pruned.
        spread: objective or constraint -> its mean and interval over the repeats.
        waiting: what a reviewer must decide on before it goes on.
        frozen: Optuna's own record of it.
    """

    number: int
    condition: str
    keys: dict[str, Any]
    configs: tuple[dict[str, Any], ...]
    state: str
    values: tuple[float, ...]
    frozen: "FrozenTrial"
    baseline: dict[str, Any] | None = None
    constraints: dict[str, float] = field(default_factory=dict)
    rungs: dict[int, Rung] = field(default_factory=dict)
    pruned: int | None = None
    spread: dict[str, Interval] = field(default_factory=dict)
    reason: str = ""
    waiting: str = ""
    failure: Failure = NO_FAILURE

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ENDED

    @property
    def feasible(self) -> bool:
        """Whether it is complete and keeps to all constraints."""
        return self.state == "COMPLETE" and all(value <= 0 for value in self.constraints.values())

    @functools.cached_property
    def runs(self) -> tuple[RunConfig, ...]:
        """The configuration of each repeat, as it was noted when the trial began."""
        return tuple(RunConfig.model_validate(values) for values in self.configs)

    @property
    def algorithm(self) -> str:
        """The key of its method, such as "perfedavg"."""
        return self.configs[0]["federation"]["algorithm"]

    @property
    def rounds(self) -> int:
        """Rounds that one repeat wants."""
        return self.configs[0]["federation"]["rounds"]


def stored(trial: "FrozenTrial") -> StoredTrial | None:
    """A trial out of Optuna's; None for one that never got as far as being one.

    Raises:
        DataError: what the driver noted is damaged.
    """
    noted = trial.user_attrs
    if "config" not in noted:
        return None
    if wrong := damaged(trial):
        raise DataError(f"Optuna's trial {trial.number}: {wrong[0]} is damaged; `pulseledger audit` says more.")
    return _read(trial)


def _read(trial: "FrozenTrial") -> StoredTrial:
    """Raises what Python raises for values of another form."""
    noted = trial.user_attrs
    rungs = {int(key[5:]): value for key, value in noted.items() if key.startswith("rung/")}
    return StoredTrial(
        number=noted["trial"],
        condition=noted["condition"],
        keys=noted["keys"],
        configs=tuple(noted["config"]),
        state=trial.state.name,
        values=tuple(trial.values) if trial.state.name == "COMPLETE" else (),
        frozen=trial,
        baseline=noted.get("baseline"),
        constraints=dict(trial.constraints),
        rungs={s: Rung(tuple(rungs[s]["values"]), rungs[s]["kept"], rungs[s]["memory"]) for s in sorted(rungs)},
        pruned=noted.get("pruned"),
        spread={name: Interval(**values) for name, values in noted.get("repeats", {}).items()},
        reason=noted.get("reason", ""),
        waiting=noted.get("waiting", ""),
        failure=Failure(**noted.get("error", {})),
    )


def begun(trials: "Iterable[FrozenTrial]") -> list[StoredTrial]:
    """The trials that got as far as having a configuration."""
    return [found for trial in trials if (found := stored(trial)) is not None]


def damaged(trial: "FrozenTrial") -> list[str]:
    """Names of what the driver noted of a begun trial, or must have, and is no such thing."""
    noted = trial.user_attrs
    wrong = [name for name, kind in _KINDS.items() if not isinstance(noted.get(name), kind)]
    wrong += [name for name, kind in _OPTIONAL.items() if name in noted and not isinstance(noted[name], kind)]
    if isinstance(noted.get("trial"), bool) or (not wrong and not 0 <= noted["trial"] < 10**9):
        wrong.append("trial")
    if not wrong and not all(_is_config(config) for config in noted["config"]):
        wrong.append("config")
    told = (*(trial.values or ()), *trial.intermediate_values.values())
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in told):
        wrong.append("values")
    if not wrong:
        try:
            _read(trial)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            wrong += [name for name in noted if name.startswith("rung/")] + ["values"]
    return wrong


def _is_config(config: Any) -> bool:
    return isinstance(config, dict) and isinstance(config.get("federation"), dict)


def pruned_at(step: int, study: StudyConfig) -> str:
    """Where a trial was pruned, in words."""
    return f"pruned at {'repeat' if study.pruner.method == 'wilcoxon' else 'round'} {step}"


def rounds_saved(study: StudyConfig, trials: Iterable[StoredTrial]) -> float:
    """The share of the rounds of all `trials` that pruning has left out."""
    wanted = saved = 0
    for trial in trials:
        rounds = trial.rounds * study.repeats
        wanted += rounds
        if trial.pruned is not None:
            saved += rounds - trial.pruned * (trial.rounds if study.pruner.method == "wilcoxon" else 1)
    return saved / wanted if wanted else 0.0
