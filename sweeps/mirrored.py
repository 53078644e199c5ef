"""What MLflow shows of a run or a study, held against its folder: every parameter and every point of every metric."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from engine.audit.report import Count, Note, Told, finding
from engine.audit.study import StudyCase
from engine.config import RunConfig
from engine.errors import PulseLedgerError
from engine.result import RESULT, Result
from engine.settings import load_yaml, parse
from engine.tracking.curves import final_metrics, flat_params, round_metrics
from engine.tracking.store import Shown
from sweeps.folder import read_history, repeat_folder, trial_folder
from sweeps.front import SPREAD, spread_metrics, study_metrics
from sweeps.space import StudyConfig
from sweeps.stored import StoredTrial, rounds_saved

# Measured while something ran, and written down nowhere else; times of rounds and runs are in the results.
UNBOUND = ("system/", "perf/rss_mb", "sweep/training_share")
LONGEST = 6000  # characters of a parameter

Curves = Mapping[str, Mapping[int, float]]  # name -> step -> value


def check_run(
    shown: Shown, folder: Path, trial: StoredTrial | None = None, repeats: Sequence[Result] = ()
) -> Iterator[Told]:
    """MLflow's run of a folder: parameters are the configuration, curves the rounds, single points the result.

    Args:
        trial: that the run shows, if it is one of a study; MLflow has the configuration that it was ordered with.
        repeats: the results of all repeats of a complete trial, whose spread its run shows.
    """
    number = None if trial is None else trial.number
    try:
        used = parse(RunConfig, load_yaml(folder / "config.yaml"), str(folder / "config.yaml"))
        rounds = read_history(folder)
        result = Result.read(folder) if (folder / RESULT).exists() else None
    except PulseLedgerError as error:
        yield Note(f"MLflow's run of {folder.name} was not compared: {error}", unchecked=True)
        return
    asked = used if trial is None else trial.runs[0]
    params = {name: str(value)[:LONGEST] for name, value in flat_params(asked).items()}
    if trial is None:  # a folder says how it was executed, MLflow how it was to be: "auto"
        params = {
            name: shown.params.get(name, text) if name.startswith("execution.") else text
            for name, text in params.items()
        }
    expected: dict[str, dict[int, float]] = {}
    for row in rounds:
        for name, value in round_metrics(row).items():
            if value is not None:
                expected.setdefault(name, {})[row.round] = float(value)
    single = final_metrics(result) if result is not None else {}
    single |= spread_metrics([{name: one.score(name) for name in SPREAD} for one in repeats])
    expected |= {name: {0: float(value)} for name, value in single.items() if value is not None}
    yield from _params(shown, params, number)
    yield from _curves(shown, expected, number)


def check_study(
    shown: Sequence[Shown], study: StudyConfig, folder: Path, trials: Sequence[StoredTrial], recorded: StudyCase
) -> Iterator[Told]:
    """MLflow's run of a study, which comes first, and those of its trials, each once."""
    own, *others = shown
    yield from _params(own, {}, None)
    yield from _curves(own, _sweep(study, trials, recorded), None)
    known, seen = {trial.number: trial for trial in trials}, set[int]()
    for run in others:
        number = int(run.tags["number"]) if run.tags.get("number", "").isdecimal() else -1
        if number not in known or number in seen:
            message = "MLflow shows a run under the study that is none of its trials, or one twice"
            yield finding("mlflow", "number", "a trial", run.tags.get("number"), message, trial=number)
            continue
        seen.add(number)
        trial, home = known[number], trial_folder(folder, number)
        folders = [repeat_folder(home, repeat) for repeat in range(len(trial.configs))]
        try:
            repeats = [Result.read(each) for each in folders] if trial.state == "COMPLETE" else []
        except PulseLedgerError as error:
            yield Note(f"MLflow's run of trial {number} was not compared: {error}", unchecked=True)
            continue
        yield from check_run(run, folders[0], trial, repeats)
    for number in sorted(known.keys() - seen):
        if known[number].ended:
            yield finding("mlflow", "number", number, None, "MLflow shows no run of the trial", trial=number)


def _sweep(study: StudyConfig, trials: Sequence[StoredTrial], recorded: StudyCase) -> Curves:
    """The curves of a study's own run, a point after each end, in the order of the ends as they are recorded."""
    order = [number for number in recorded.order if number in {trial.number for trial in trials if trial.ended}]
    by_number, expected = {trial.number: trial for trial in trials}, dict[str, dict[int, float]]()
    for step in range(1, len(order) + 1):
        for name, value in study_metrics(study, [by_number[number] for number in order[:step]]).items():
            expected.setdefault(name, {})[step] = value
    if any(trial.state == "PRUNED" for trial in trials):
        expected["sweep/rounds_saved"] = {0: rounds_saved(study, trials)}
    return expected


def _params(shown: Shown, expected: Mapping[str, str], trial: int | None) -> Iterator[Told]:
    for name in sorted(expected.keys() | shown.params.keys()):
        if expected.get(name) != shown.params.get(name):
            message = "the parameter in MLflow is not that of the configuration"
            yield finding("mlflow", name, expected.get(name), shown.params.get(name), message, trial=trial)
    yield Count("parameters in MLflow", len(shown.params))


def _curves(shown: Shown, expected: Curves, trial: int | None) -> Iterator[Told]:
    """Every point must be one that the folder gives; of a run that is finished, the last of each curve must be there."""
    for name, points in sorted(shown.curves.items()):
        if name.startswith(UNBOUND):
            continue
        for step, value in points:
            wanted = expected.get(name, {}).get(step)
            if wanted != value:
                message = f"the metric in MLflow at step {step} is not what the folder gives"
                yield finding("mlflow", name, wanted, value, message, trial=trial)
        yield Count("metrics in MLflow")
    for name, curve in sorted(expected.items()):
        last, there = max(curve), {step for step, _ in shown.curves.get(name, [])}
        if shown.status == "FINISHED" and last not in there:
            yield finding("mlflow", name, curve[last], None, f"the metric is not in MLflow at step {last}", trial=trial)
