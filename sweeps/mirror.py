"""The study's own run in MLflow, the parent of its trials' runs: what the study has found so far, and its files."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from engine.errors import DataError
from engine.files import whole
from engine.result import finished
from engine.tracking.tracking import data_profile, run_note
from sweeps.space import StudyConfig, conditions
from sweeps.trial import repeat_folder

PARETO, TRIALS = "pareto.json", "trials.parquet"


class StudyRun:
    """What the driver tells MLflow of the study as a whole."""

    def __init__(self, track: Callable[..., None], key: str, study: StudyConfig, folder: Path) -> None:
        """Args: track calls a method of `engine.tracking.Tracker` and never raises; key names the run."""
        self._track = track
        self._key = key
        self._study = study
        self._folder = folder

    def open(self, tags: dict[str, str]) -> None:
        """Creates or finds the run; CPU and memory are logged from now on."""
        more = " `pulseledger compare DIR` prints the table, `pulseledger report DIR` draws it."
        note = run_note("pulseledger sweep study.yaml", "study.yaml", more)
        self._track(
            "open_run",
            self._key,
            self._study.name,
            {"study": self._study.name, "mlflow.note.content": note, **tags},
            {},
        )
        self._track("artifacts", self._key, [str(self._folder / "study.yaml")])
        self._track("system_metrics", self._key)

    def ended(self, trials: Sequence[FrozenTrial]) -> None:
        """After each trial that ended: one point of each `sweep/` curve, its step the number of ended trials."""
        step = sum(t.state.is_finished() for t in begun(trials))
        if step:
            self._track("log", self._key, step, study_metrics(self._study, trials))

    def close(self, state: str, trials: Sequence[FrozenTrial]) -> None:
        """The files, also the report, the datasets and the best model, then the end of the run."""
        from sweeps.compare import results_frame
        from sweeps.report import write_report

        front = pareto(self._study, trials)
        with whole(self._folder / PARETO) as part:
            part.write_text(json.dumps({"objectives": self._study.objectives, "conditions": front}, indent=1))
        with whole(self._folder / TRIALS) as part:
            results_frame(self._folder).to_parquet(part)
        files = [self._folder / PARETO, self._folder / TRIALS]
        self._track("artifacts", self._key, [str(path) for path in files])
        try:
            write_report(self._folder)
            self._track("artifacts", self._key, [str(self._folder / "report")])
        except Exception as error:  # all trials have ended, and a picture must not be what a study fails of
            self._track("tags", self._key, {"report.error": f"{type(error).__name__}: {error}"})
        seen = set()
        for trial in begun(trials):
            try:
                cohort = finished(self._home(trial))["cohort"]
            except DataError:
                continue  # it never got to a result
            profile = data_profile(cohort)
            if profile not in seen:
                seen.add(profile)
                source = self._study.data.source
                self._track("dataset", self._key, source, cohort["digest"], source, profile)
        for trial in self._modelled(trials):
            self._track("model", f"{self._key}/{trial.user_attrs['trial']}", str(self._home(trial)), self._key)
        self._track("finish", self._key, state)

    def _home(self, trial: FrozenTrial) -> Path:
        from sweeps.study import trial_folder

        return repeat_folder(trial_folder(self._folder, trial.user_attrs["trial"]), 0)

    def _modelled(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Trials whose model is kept: the best by the first objective, of all or of each condition."""
        wanted = self._study.tracking.models
        each = list(by_condition(self._study, trials).values())
        groups: dict[str, list[list[FrozenTrial]]] = {"none": [], "best": [sum(each, [])], "conditions": each}
        best = (_best(self._study, group) for group in groups[wanted])
        return [trial for trial in best if trial is not None]


def begun(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that got as far as having a configuration."""
    return [trial for trial in trials if "config" in trial.user_attrs]


def by_condition(study: StudyConfig, trials: Sequence[FrozenTrial]) -> dict[str, list[FrozenTrial]]:
    """The begun trials of each condition, in the order of the file."""
    groups: dict[str, list[FrozenTrial]] = {condition.label: [] for condition in conditions(study)}
    for trial in begun(trials):
        groups.setdefault(trial.user_attrs["condition"], []).append(trial)
    return groups


def study_metrics(study: StudyConfig, trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """Counts of the trials by state, the best of each objective over all conditions, and the hypervolume.

    The hypervolume is the mean over the conditions, so that it only grows; a condition without a complete trial has 0.
    """
    states = [trial.state for trial in begun(trials)]
    metrics = {
        f"sweep/n_{state.name.lower()}": float(states.count(state))
        for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    }
    complete = _feasible(trials)
    for i, (name, direction) in enumerate(study.objectives.items()):
        values = [trial.values[i] for trial in complete]
        if values:
            metrics[f"sweep/best/{name.replace('/', ' ')}"] = max(values) if direction == "maximize" else min(values)
    if len(study.objectives) > 1:
        volumes = [hypervolume(study, group) for group in by_condition(study, trials).values()]
        metrics["sweep/hypervolume"] = sum(volumes) / len(volumes)
    return metrics


def pareto(study: StudyConfig, trials: Sequence[FrozenTrial]) -> dict[str, list[dict[str, Any]]]:
    """The feasible trials of each condition that no other one beats; with a single objective, the best."""
    signs = _signs(study)
    front = {}
    for label, group in by_condition(study, trials).items():
        points = [(trial, signs * np.array(trial.values)) for trial in _feasible(group)]
        front[label] = [
            {
                "trial": trial.user_attrs["trial"],
                "keys": trial.user_attrs["keys"],
                "values": dict(zip(study.objectives, trial.values, strict=True)),
            }
            for trial, own in points
            if not any((other <= own).all() and (other < own).any() for _, other in points)
        ]
    return front


def hypervolume(study: StudyConfig, trials: Sequence[FrozenTrial]) -> float:
    """The share of the box between the best and the worst thinkable values that the feasible trials dominate.

    Zitzler and Thiele 1999, "Multiobjective evolutionary algorithms". Scores and shares reach from 0 to 1. What has no
    upper end, such as seconds, reaches from 0 to twice the value of the first complete trial.
    """
    from optuna._hypervolume import compute_hypervolume

    complete = sorted(_feasible(trials), key=lambda trial: trial.user_attrs["trial"])
    if not complete:
        return 0.0
    losses = np.array([trial.values for trial in complete], float)
    for i, (name, direction) in enumerate(study.objectives.items()):
        if not (name.startswith(("validation/", "final/")) or name.endswith("_share")):
            losses[:, i] /= 2 * losses[0, i] or 1.0
        if direction == "maximize":
            losses[:, i] = 1 - losses[:, i]
    corner = np.ones(losses.shape[1])
    inside = losses[(losses < corner).all(1)]
    return float(compute_hypervolume(inside, corner)) if len(inside) else 0.0


def _feasible(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Complete trials that keep to all constraints."""
    complete = [trial for trial in begun(trials) if trial.state == TrialState.COMPLETE]
    return [trial for trial in complete if all(value <= 0 for value in trial.constraints.values())]


def _best(study: StudyConfig, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    sign = _signs(study)[0]
    return min(_feasible(trials), key=lambda t: (sign * t.values[0], t.user_attrs["trial"]), default=None)


def _signs(study: StudyConfig) -> np.ndarray:
    """1 for what is minimised, -1 for what is maximised."""
    return np.array([1.0 if direction == "minimize" else -1.0 for direction in study.objectives.values()])
