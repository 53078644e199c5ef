"""Whether everything that tells of a trial tells the same: its configuration, the ledgers of its runs, its results, Optuna.

The records of a study's ledger say what a trial began and ended with; here what lies beside them is computed again from the
results, so that it holds where nothing was registered, too.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from engine import databases
from engine.audit.report import Count, Note, Report, Told, finding
from engine.audit.study import StudyCase
from engine.config import config_hash
from engine.errors import DataError
from engine.ledger.format import BUNDLE, RUN
from engine.result import Result
from sweeps.definition import CODE, DEFINITION, definition, flat
from sweeps.folder import Group, optuna_names, repeat_folder, trial_folder
from sweeps.space import StudyConfig, conditions, violation
from sweeps.storage import DATABASE
from sweeps.stored import StoredTrial, interval
from sweeps.tuned import search_space

BACKEND = "ledger.backend"
# Optuna's tables, all of them held.
OPTUNA = {
    "alembic_version",
    "studies",
    "study_directions",
    "study_system_attributes",
    "study_user_attributes",
    "trial_heartbeats",
    "trial_intermediate_values",
    "trial_params",
    "trial_system_attributes",
    "trial_user_attributes",
    "trial_values",
    "trials",
    "version_info",
}


# --- Ledgers ----------------------------------------------------------------------------------------------------------


def check_backend(study: StudyConfig, trials: Mapping[int, StoredTrial], recorded: StudyCase) -> Iterator[Told]:
    """A study whose trials were to keep a ledger does not become one without by a word in its file."""
    chosen = {key for condition in conditions(study) for key in condition.keys} | search_space(study).keys()
    for number, repeat, config in configurations(trials, recorded):
        wanted = backend_of(config)
        if BACKEND in chosen | (trials[number].keys.keys() if number in trials else set()) or repeat:
            continue
        if wanted != study.ledger.backend:
            message = "the trial was to keep another ledger than the study's file says now"
            yield finding("study", BACKEND, wanted, study.ledger.backend, message, trial=number)


def check_ledgers(
    folder: Path, trials: Mapping[int, StoredTrial], recorded: StudyCase, runs: Mapping[str, Report]
) -> Iterator[Told]:
    """Every completed repeat has the ledger that it was configured with, and its last head is in the study's record."""
    ends = recorded.ended
    for number, repeat, config in configurations(trials, recorded):
        stage, content = ends.get(number, (_stage(trials, number), {}))
        if stage != "COMPLETE":
            continue
        run, told = repeat_folder(trial_folder(folder, number), repeat), _recorded(content, repeat)
        backend, name = told.get("backend", backend_of(config)), str(run.relative_to(folder))
        if backend != backend_of(config):
            message = f"repeat {repeat} kept another ledger than it was configured with"
            yield finding("ended", f"results.{repeat}.backend", backend_of(config), backend, message, trial=number)
        if backend == "none":
            yield Note(f"trial {number}: repeat {repeat} kept no ledger, nothing of it is signed", unchecked=True)
        elif not any((run / "ledger" / file).exists() for file in (RUN.file, BUNDLE)):
            message = f"the ledger of completed repeat {repeat} is gone"
            yield finding("folder", f"{name}/ledger", "a ledger", None, message, trial=number)
        elif told and name in runs and runs[name].head != told.get("head"):
            message = f"the head of the ledger of repeat {repeat} is not the one in the study's record"
            yield finding("ended", f"results.{repeat}.head", told.get("head"), runs[name].head, message, trial=number)
        else:
            yield Count("ledgers of repeats")


def configurations(
    trials: Mapping[int, StoredTrial], recorded: StudyCase
) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    """Trial, repeat and configuration, as recorded when the trial began, else as Optuna has it."""
    for number in sorted({*trials, *recorded.begun}):
        begun = recorded.begun.get(number, {}).get("config")
        configs = begun if isinstance(begun, list) else list(trials[number].configs) if number in trials else []
        for repeat, config in enumerate(configs):
            yield number, repeat, config if isinstance(config, dict) else {}


def backend_of(config: Mapping[str, Any]) -> Any:
    """The back end of a configuration in plain values; "embedded" is the default."""
    ledger = config.get("ledger")
    return ledger.get("backend", "embedded") if isinstance(ledger, dict) else "embedded"


def _stage(trials: Mapping[int, StoredTrial], number: int) -> str:
    return trials[number].state if number in trials else ""


def _recorded(content: Mapping[str, Any], repeat: int) -> Mapping[str, Any]:
    """What the study's record says of a repeat; nothing where it says nothing."""
    results = content.get("results")
    told = results[repeat] if isinstance(results, list) and repeat < len(results) else {}
    return told if isinstance(told, dict) else {}


# --- Optuna -----------------------------------------------------------------------------------------------------------


def check_database(study: StudyConfig, folder: Path) -> Iterator[Told]:
    """The database in a study's folder holds what Optuna keeps of it, and no study that nobody reads here."""
    path = folder / DATABASE
    if study.storage is not None or not path.exists():
        return  # one for many studies
    with databases.reader(path) as connect, closing(connect()) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        held = (
            {name for (name,) in connection.execute("SELECT study_name FROM studies")} if "studies" in tables else set()
        )
    for what, more in (("table", tables - OPTUNA), ("study", held - {name for name, _ in optuna_names(study)})):
        for name in sorted(map(str, more)):
            yield finding(
                "database", what, None, name, f"Optuna's database holds a {what} that is none of this study's"
            )


def check_outcomes(study: StudyConfig, folder: Path, trials: Mapping[int, StoredTrial]) -> Iterator[Told]:
    """The values, intervals and constraints that Optuna holds are those of the results, the results those of the
    configurations."""
    for number, trial in sorted(trials.items()):
        if trial.state != "COMPLETE":
            continue
        try:
            hashes = [config_hash(config) for config in trial.runs]
            results = [Result.read(repeat_folder(trial_folder(folder, number), r)) for r in range(len(hashes))]
            yield from _outcome(study, trial, results)
        except (DataError, ValueError, KeyError) as error:
            words = " ".join(str(error).split())
            yield finding("folder", "result.json", "the results of the trial", None, words, trial=number)
            continue
        for repeat, (result, expected) in enumerate(zip(results, hashes, strict=True)):
            if result.config_hash != expected:
                message = f"repeat {repeat} ran another configuration"
                yield finding("folder", "config_hash", expected, result.config_hash, message, trial=number)
        yield Count("values")


def _outcome(study: StudyConfig, trial: StoredTrial, results: Sequence[Result]) -> Iterator[Told]:
    scores: dict[str, list[float]] = {}
    for name in (*study.objectives, *study.constraints):
        found = [result.score(name) for result in results]
        numbers = [score for score in found if isinstance(score, int | float)]
        scores[name] = numbers if len(numbers) == len(found) else []
    spread = {name: interval(values) for name, values in scores.items() if values}
    values = dict(zip(study.objectives, trial.values, strict=True))
    bounds = {name: violation(bound, spread[name].mean) for name, bound in study.constraints.items() if name in spread}
    for name, value in values.items():
        mean = statistics.fmean(scores[name]) if scores[name] else None
        if mean != value:
            message = "the value in Optuna's database is not that of the results"
            yield finding("database", name, mean, value, message, trial=trial.number)
    for what, expected, there in (("repeats", spread, trial.spread), ("constraints", bounds, trial.constraints)):
        for name in sorted(expected.keys() | there.keys()):
            if expected.get(name) != there.get(name):
                message = f"{what} of Optuna's database are not those of the results"
                yield finding(
                    "database", f"{what}.{name}", expected.get(name), there.get(name), message, trial=trial.number
                )


def check_begun(study: StudyConfig, groups: Sequence[Group], recorded: StudyCase) -> Iterator[Told]:
    """What a study was begun with, as the driver noted it, is what was registered, or what the study's file says."""
    designs = [one["design"] for one in recorded.designs if isinstance(one.get("design"), dict)]
    codes = [design.get("code") for design in designs]
    there = designs[0].get("study") if designs else None
    now = definition(study)
    wanted = flat(there) if isinstance(there, dict) else now
    for group in groups:
        if not group.trials:
            continue  # the driver notes it before it puts the first trial into the queue
        code, noted = group.noted.get(CODE), group.noted.get(DEFINITION)
        if code is None or (codes and code not in codes):
            message = f"Optuna's study {group.name!r} was begun with another program than was registered"
            yield finding("database", CODE, codes[0] if codes else "the program", code, message)
        if not isinstance(noted, dict):
            message = f"Optuna's study {group.name!r} does not say what it was begun with"
            yield finding("database", DEFINITION, "keys of the study", noted, message)
            continue
        for key in sorted((wanted.keys() & now.keys()) | (noted.keys() - now.keys())):
            if noted.get(key) != wanted.get(key):
                message = f"Optuna's study {group.name!r} was begun with another {key}"
                yield finding("database", f"{DEFINITION}.{key}", wanted.get(key), noted.get(key), message)


def check_optuna(study: StudyConfig, groups: Sequence[Group], amended: bool) -> Iterator[Told]:
    """What Optuna's own columns say of a trial agrees with what the driver noted beside them.

    Args:
        amended: the study has changed since its first registration, and so may its search space have.
    """
    wanted, space = list(study.objectives.values()), search_space(study)
    for group in groups:
        if group.trials and list(group.directions) != wanted:
            message = f"Optuna's study {group.name!r} has other directions than the study"
            yield finding("database", "directions", wanted, list(group.directions), message)
        if group.trials and group.names != list(study.objectives):
            message = f"Optuna's study {group.name!r} names other objectives than the study"
            yield finding("database", "metric_names", list(study.objectives), group.names, message)
        for frozen in group.trials:
            noted, number = frozen.user_attrs, frozen.user_attrs.get("trial")
            if not isinstance(noted.get("keys"), dict) or "config" not in noted:
                continue
            params = {name: value for name, value in frozen.params.items() if name != "condition"}
            drawn = noted["keys"] if noted.get("baseline") is None else {}
            if params != drawn:
                message = "Optuna's parameters are not those that the trial ran with"
                yield finding("database", "params", drawn, params, message, trial=number)
            if frozen.params.get("condition", noted.get("condition")) != noted.get("condition"):
                message = "Optuna's condition is not the one that the trial ran in"
                yield finding(
                    "database", "params", noted.get("condition"), frozen.params["condition"], message, trial=number
                )
            ranges = {name: found for name, found in frozen.distributions.items() if name != "condition"}
            if not amended and ranges != {name: space[name] for name in ranges if name in space}:
                message = "Optuna's ranges are not those of the study"
                yield finding("database", "distributions", space, ranges, message, trial=number)
            # a driver may have been killed between the two words on a rung
            if len(wanted) == 1 and frozen.state.is_finished():
                rungs = {name[5:]: rung for name, rung in noted.items() if name.startswith("rung/")}
                kept = {step: rung.get("values") if isinstance(rung, dict) else None for step, rung in rungs.items()}
                there = {str(step): [value] for step, value in frozen.intermediate_values.items()}
                if kept != there:
                    message = "Optuna's intermediate values are not what the trial reached at its rungs"
                    yield finding("database", "intermediate_values", kept, there, message, trial=number)
