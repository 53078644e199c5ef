"""What the trials of a study have found so far, in numbers: counts, bests, Pareto fronts, hypervolume."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sweeps.scores import is_share
from sweeps.space import StudyConfig, conditions
from sweeps.stored import ENDED, StoredTrial
from sweeps.text import plain_name


def by_condition(study: StudyConfig, trials: Sequence[StoredTrial]) -> dict[str, list[StoredTrial]]:
    """The trials of each condition, in the order of the file."""
    groups: dict[str, list[StoredTrial]] = {condition.label: [] for condition in conditions(study)}
    for trial in trials:
        groups.setdefault(trial.condition, []).append(trial)
    return groups


def study_metrics(study: StudyConfig, trials: Sequence[StoredTrial]) -> dict[str, float]:
    """Counts of the trials by state, the best of each objective in each condition, and the hypervolume.

    Conditions are compared, not chosen from: there is no best over them.

    The hypervolume is the mean over the conditions, so that it only grows; a condition without a complete trial has 0.
    """
    states = [trial.state for trial in trials]
    metrics = {f"sweep/n_{state.lower()}": float(states.count(state)) for state in ENDED}
    for label, group in by_condition(study, trials).items():
        for i, (name, direction) in enumerate(study.objectives.items()):
            if values := [trial.values[i] for trial in group if trial.feasible]:
                path = f"sweep/best/{plain_name(label)}/{plain_name(name)}"
                metrics[path] = max(values) if direction == "maximize" else min(values)
    if len(study.objectives) > 1:
        volumes = [hypervolume(study, group) for group in by_condition(study, trials).values()]
        metrics["sweep/hypervolume"] = sum(volumes) / len(volumes)
    return metrics


def pareto(study: StudyConfig, trials: Sequence[StoredTrial]) -> dict[str, list[dict[str, Any]]]:
    """The feasible trials of each condition that no other one beats; with a single objective, the best."""
    return {
        label: [
            {"trial": t.number, "keys": t.keys, "values": dict(zip(study.objectives, t.values, strict=True))}
            for t in front(study, group)
        ]
        for label, group in by_condition(study, trials).items()
    }


def front(study: StudyConfig, trials: Sequence[StoredTrial]) -> list[StoredTrial]:
    """The feasible of `trials` than which no other one is as good in every objective and better in one."""
    signs = _signs(study)
    points = [(trial, signs * np.array(trial.values)) for trial in trials if trial.feasible]
    return [
        trial for trial, own in points if not any((other <= own).all() and (other < own).any() for _, other in points)
    ]


def hypervolume(study: StudyConfig, trials: Sequence[StoredTrial]) -> float:
    """The share of the box between the best and the worst thinkable values that the feasible trials dominate.

    Zitzler and Thiele 1999, "Multiobjective evolutionary algorithms". Scores and shares reach from 0 to 1. What has no
    upper end, such as seconds, reaches from 0 to twice the value of the first complete trial.
    """
    from optuna._hypervolume import compute_hypervolume

    complete = sorted((trial for trial in trials if trial.feasible), key=lambda trial: trial.number)
    if not complete:
        return 0.0
    losses = np.array([trial.values for trial in complete], float)
    for i, (name, direction) in enumerate(study.objectives.items()):
        if not is_share(name):
            losses[:, i] /= 2 * losses[0, i] or 1.0
        if direction == "maximize":
            losses[:, i] = 1 - losses[:, i]
    corner = np.ones(losses.shape[1])
    inside = losses[(losses < corner).all(1)]
    return float(compute_hypervolume(inside, corner)) if len(inside) else 0.0


def best(study: StudyConfig, trials: Sequence[StoredTrial]) -> StoredTrial | None:
    """The feasible trial with the best first objective, the earliest of several."""
    sign = _signs(study)[0]
    there = (trial for trial in trials if trial.feasible)
    return min(there, key=lambda trial: (sign * trial.values[0], trial.number), default=None)


def _signs(study: StudyConfig) -> np.ndarray:
    """1 for what is minimised, -1 for what is maximised."""
    return np.array([1.0 if direction == "minimize" else -1.0 for direction in study.objectives.values()])
