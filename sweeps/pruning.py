"""Which trials are ended early: Optuna's own pruners for one objective, a rung pruner for several.

A decision is a function of what the trials of one condition reported at their rungs. It needs nothing else, so a
resumed study decides as one that was never interrupted, and conditions never compete with each other.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial

from sweeps.space import PrunerConfig, StudyConfig
from sweeps.stored import StoredTrial


@dataclass(frozen=True)
class Contender:
    """One trial of a condition as the pruners see it.

    Attributes:
        state: Optuna's state of the trial.
        value: its objective, of a complete trial of a study with one objective.
        rungs: round, or repeat, -> the objectives there.
        memory: what Optuna's pruner noted about the trial at its last rung.
    """

    state: TrialState
    value: float | None = None
    rungs: dict[int, tuple[float, ...]] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)


def competitors(trials: Sequence[StoredTrial], condition: str) -> dict[int, Contender]:
    """Number in the whole study -> contender, for the tuned trials of one condition."""
    return {
        trial.number: Contender(
            TrialState[trial.state],
            trial.values[0] if trial.values else None,
            {step: rung.values for step, rung in trial.rungs.items()},
            dict(trial.rungs[max(trial.rungs)].memory) if trial.rungs else {},
        )
        for trial in trials
        if trial.condition == condition and trial.baseline is None
    }


def keep(
    study: StudyConfig, name: str, contenders: Sequence[Contender], own: int, rounds: int
) -> tuple[bool, dict[str, Any]]:
    """Whether `contenders[own]` goes on after its last rung, and what the pruner wants to remember of it.

    Args:
        name: of the Optuna study; Hyperband's brackets depend on it.
        contenders: all trials of the condition that are tuned, in the order in which they were begun.
        rounds: of the trial.
    """
    directions = list(study.objectives.values())
    if study.pruner.method == "rungs":
        step = max(contenders[own].rungs)
        others = [c.rungs[step] for i, c in enumerate(contenders) if i != own and step in c.rungs]
        if len(others) < study.pruner.n_startup_trials:
            return True, {}
        return keep_at_rung(contenders[own].rungs[step], others, directions, study.pruner.factor), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        view = optuna.create_study(storage=optuna.storages.InMemoryStorage(), study_name=name, direction=directions[0])
        for c in contenders:
            reported = {step: values[0] for step, values in c.rungs.items()}
            view.add_trial(
                create_trial(state=c.state, value=c.value, intermediate_values=reported, system_attrs=c.memory)
            )
        pruned = build_pruner(study.pruner, rounds).prune(view, view.get_trials()[own])
        return not pruned, view.get_trials()[own].system_attrs


def keep_at_rung(
    own: Sequence[float], others: Sequence[Sequence[float]], directions: Sequence[str], factor: int
) -> bool:
    """The rung pruner for several objectives: a trial goes on unless two things hold.

    It is dominated: another trial was better in every objective at this rung. (A tie counts for the trial: at early
    rungs a rare class has recall 0 everywhere, which says nothing yet.) And by its first objective it is not among the
    best 1/`factor` of all that reached the rung, the rule of asynchronous successive halving (Li et al. 2020, "A System
    for Massively Parallel Hyperparameter Tuning").
    """
    signs = [1 if direction == "maximize" else -1 for direction in directions]
    dominated = any(all(s * o > s * m for s, o, m in zip(signs, other, own, strict=True)) for other in others)
    better = sum(signs[0] * other[0] > signs[0] * own[0] for other in others)
    return not dominated or better * factor < len(others) + 1


def build_pruner(pruner: PrunerConfig, rounds: int) -> optuna.pruners.BasePruner:
    """Optuna's pruner of a study with one objective."""
    match pruner.method:
        case "median":
            return optuna.pruners.MedianPruner(n_startup_trials=pruner.n_startup_trials)
        case "successive_halving":
            return optuna.pruners.SuccessiveHalvingPruner(pruner.first, pruner.factor)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(pruner.first, rounds, pruner.factor)
        case "wilcoxon":
            return optuna.pruners.WilcoxonPruner(p_threshold=pruner.p_threshold)
        case _:
            return optuna.pruners.NopPruner()
