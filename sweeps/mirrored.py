"""What MLflow is told of a study, as plain values: parameters, tags and numbers of its trials, and of itself.

The mirror writes them, the audit holds what is in a store against them. Computed from Optuna's trials and their results alone.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from engine.config import RunConfig
from engine.tracking.curves import final_paths, is_global
from sweeps.answer import Answer
from sweeps.folder import optuna_name
from sweeps.methods import method_of
from sweeps.scores import shown
from sweeps.space import StudyConfig, conditions
from sweeps.stored import StoredTrial
from sweeps.text import plain_name

WITH_SD = tuple(f"final/personal/{name}" for name in ("macro_f1", "mean_hospital_macro_f1", "rare_recall", "accuracy"))
BY_METHOD = (  # what the study's own run compares
    *WITH_SD[:3],
    "timing/gradient_evaluations",
    "ledger/overhead_share",
)
NOTE = 7500  # characters; MLflow takes 8000 in a tag


def first_run(trial: StoredTrial) -> RunConfig:
    """The configuration of the repeat that MLflow's run of a trial follows."""
    return trial.runs[0]


def trial_name(trial: StoredTrial) -> str:
    """What a trial is, in a list of runs: method and condition."""
    place = [trial.condition] if trial.condition != "all" else []
    return " | ".join((method_of(first_run(trial)).title, *place, f"trial {trial.number}"))


def trial_tags(study: StudyConfig, trial: StoredTrial) -> dict[str, str]:
    """Tags of a trial from its beginning on."""
    place = next((c.keys for c in conditions(study) if c.label == trial.condition), {})
    return {
        "study": study.name,
        "condition": trial.condition,
        "number": str(trial.number),
        "optuna.number": str(trial.frozen.number),
        "objective": ", ".join(study.objectives),
        "state": "RUNNING",
        "direction": ", ".join(study.objectives.values()),
        "optuna.study": optuna_name(study, trial.condition),
        "method": method_of(first_run(trial)).title,
        "repeats": str(len(trial.configs)),
        **({"tuned_on_test": "true"} if study.tuned_on_test else {}),
        **{f"condition.{key}": str(value) for key, value in place.items()},
    }


def ending_tags(trial: StoredTrial, state: str) -> dict[str, str]:
    """Why a trial was pruned, or why and where it failed."""
    failure = trial.failure
    where: dict[str, Any] = {"hospital": failure.hospital, "round": failure.round, "stage": failure.stage or None}
    tags = {f"error.{name}": str(value) for name, value in where.items() if value is not None}
    return tags | {"reason": trial.reason} | ({"error": trial.reason} if state == "FAIL" else {})


def told(study: StudyConfig) -> tuple[str, ...]:
    """The numbers of a result that MLflow shows of each trial."""
    return final_paths(study.data.labels)


def varied(study: StudyConfig) -> tuple[str, ...]:
    """Dotted keys that are not the same in all trials: the parameters of their runs."""
    points = (*(condition.keys for condition in conditions(study)), study.search, *study.baselines)
    return tuple(dict.fromkeys(key for point in points for key in point))


def trial_scores(
    study: StudyConfig, trial: StoredTrial, repeats: Sequence[Mapping[str, float | None]]
) -> dict[str, float]:
    """Means over the repeats of a complete trial, and the standard deviation of some; only what every repeat has."""
    trained = first_run(trial).federation.method.trains_global
    metrics = {}
    for path in dict.fromkeys((*study.objectives, *told(study))):
        values = [value for scores in repeats if (value := scores[path]) is not None]
        if len(values) == len(repeats) and (trained or not is_global(path)):
            metrics[path] = statistics.fmean(values)
            if path in WITH_SD and len(values) > 1:
                metrics[f"sd/{path}"] = statistics.stdev(values)
    return metrics


def method_scores(found: Sequence[Answer]) -> dict[str, float]:
    """The numbers of the table that `compare` opens with."""
    return {
        f"{plain_name(answer.condition)}/{plain_name(path)}/{plain_name(standing.title)}": value
        for answer in found
        for path in BY_METHOD  # MLflow keeps the order: one score of all methods, then the next
        for standing in answer.standings
        if (value := standing.outcome.mean(path)) is not None
    }


def study_note(found: Sequence[Answer], more: str) -> str:
    """The note on a study's run, in Markdown: the answers, their tables as long as there is room, how to get it again."""
    said = [f"**{answer.condition}**{answer.text.removeprefix(answer.condition)}" for answer in found]
    for answer in found:
        heads = ["method", *(shown(path).title for path in BY_METHOD)]
        lines = [[s.title, *(shown(path).number(s.outcome.mean(path)) for path in BY_METHOD)] for s in answer.standings]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines))
        said.append(f"### {answer.condition}\n\n{table}")
    chosen: list[str] = []
    for part in said:
        if len("\n\n".join((*chosen, part, more))) < NOTE:
            chosen.append(part)
    return "\n\n".join((*chosen, more))
