"""The audit of a whole study: its registration and records, Optuna's database, the trials' folders, and each trial's run.

It proves that no trial was dropped, swapped, added, or changed after the fact, and lists those that failed or were pruned.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.audit import evidence
from engine.audit.known import NOTHING, Known
from engine.audit.report import Count, Note, Report
from engine.audit.run import CHECKS, Check, audit
from engine.audit.study import StudyCase, audit_records, differences
from engine.config import RunConfig
from engine.data.config import DataConfig
from engine.encoding import canonical_json, read_json
from engine.errors import ConfigError, DataError, NotTrusted, PulseLedgerError
from engine.ledger.format import CONFIG, STUDY, UNBOUND
from engine.own.call import make
from engine.own.reference import reference
from engine.own.source import hold
from engine.paths import load_config
from engine.result import PICTURE, RESULT, Result
from engine.settings import parse
from sweeps import registration, witness
from sweeps.agreement import check_backend, check_begun, check_database, check_ledgers, check_optuna, check_outcomes
from sweeps.derived import DRAWN, PARETO, TRIALS, check_picture, check_summaries
from sweeps.folder import IDENTITY, STUDY_FILE, Group, is_study, read_groups, read_study, repeat_folder, trial_folder
from sweeps.records import RECORDS, read_records
from sweeps.space import StudyConfig, conditions, resolve
from sweeps.storage import DATABASE
from sweeps.stored import StoredTrial, damaged, stored


def audit_folder(path: Path, checks: Sequence[Check] = CHECKS, known: Known = NOTHING) -> Report:
    """Recompute everything that a run, a bundle or a study claims; of a run that kept no ledger, say so.

    Raises:
        PulseLedgerError: what is there cannot be read.
    """
    if is_study(path):
        return audit_study(path, checks, known)
    if not (path / "ledger").exists() and (path / CONFIG).is_file():
        config = parse(RunConfig, load_config(path / CONFIG), str(path / CONFIG))
        if config.ledger.backend == "none":
            report = Report(finished=(path / RESULT).exists())
            report.add(
                Note("no ledger was kept (ledger.backend is none): nothing of this run is bound", unchecked=True)
            )
            return report
    report = audit(path, checks, known)
    _look_at_picture(path, report)
    return report


def _look_at_picture(run: Path, report: Report) -> None:
    report.unread = [name for name in report.unread if name != PICTURE]
    for told in check_picture(run):
        report.add(told)


def audit_study(folder: Path, checks: Sequence[Check] = CHECKS, known: Known = NOTHING) -> Report:
    """Recompute everything that a study's folder claims. Nothing is changed.

    Args:
        checks: of each trial's run.
        known: what the auditor knows from elsewhere; head and contract are those of the study.

    Raises:
        PulseLedgerError: the study's file, database or journal cannot be read.
    """
    study, report, recorded = read_study(folder), Report(), StudyCase()
    trials: dict[int, StoredTrial] | None = None
    groups: list[Group] = []
    try:
        groups = _groups(study, folder, report)
        trials = database_trials(study, groups, report)
    except NotTrusted as error:
        report.add(Note(f"Optuna's database was not compared: {error}", unchecked=True))
    kept = read_records(folder)
    if (folder / "ledger" / STUDY.file).exists():
        recorded = audit_records(folder / "ledger", report, known=known)
        for told in witness.check(folder, recorded):
            report.add(told)
        _check_design(study, kept, recorded, report)
        if trials is not None:
            _check_trials(study, folder, trials, recorded, report)
    elif study.ledger.backend != "none" and trials == {} and not any(folder.glob("trials/*")):
        report.add(Note("the study has no ledger of its own so far, and no trial has begun"))
    elif study.ledger.backend != "none":
        message = "the study has no ledger of its own: it was never registered, or its record is gone"
        report.find(None, "study", "ledger", f"ledger/{STUDY.file}", None, message)
    else:
        words = "no ledger was kept (ledger.backend is none): nothing was registered"
        report.add(Note(words, unchecked=True))
    for told in (*check_backend(study, trials or {}, recorded), *check_outcomes(study, folder, trials or {})):
        report.add(told)
    _check_data(study, kept, folder, trials or {}, report)
    _tell_trials(trials or {}, recorded, report)
    _audit_runs(folder, recorded, checks, known, report)
    amended = len(recorded.designs) > 1
    for told in check_begun(study, groups, recorded):
        report.add(told)
    optuna = (*check_database(study, folder), *check_optuna(study, groups, amended))
    for told in (*check_ledgers(folder, trials or {}, recorded, report.runs), *optuna):
        report.add(told)
    for told in check_summaries(study, folder, list((trials or {}).values())) if report.finished else ():
        report.add(told)
    report.unread = _unread(folder, [folder / name for name in report.runs])
    return report


def _tell_trials(trials: Mapping[int, StoredTrial], recorded: StudyCase, report: Report) -> None:
    """How each trial stands, and whether the study has come to its end."""
    report.trials = [
        {
            "trial": number,
            "condition": trial.condition,
            "state": registration.STAGE.get(trial.state, trial.state),
            "reason": trial.reason,
        }
        for number, trial in sorted(trials.items())
    ]
    for state in ("COMPLETE", "PRUNED", "FAILED", "RUNNING"):
        report.counts[state.lower()] = sum(row["state"] == state for row in report.trials)
    wanted = recorded.designs[-1].get("trials") if recorded.designs else None
    begun = {*recorded.begun, *trials}
    never = wanted - len(begun) if type(wanted) is int else 0
    if never > 0:
        report.add(Note(f"{never} of {wanted} registered trials never began"))
    # what a driver that was killed did not get to record; the next one does so before anything else
    late = [number for number in sorted(trials) if number not in recorded.begun]
    ends = [n for n, trial in sorted(trials.items()) if trial.ended and n not in recorded.ended and n not in late]
    for what, numbers in (("beginning", late), ("end", ends)):
        if recorded.designs and numbers:
            report.add(Note(f"the {what} of trials {', '.join(map(str, numbers))} is not recorded; resume does so"))
    over = recorded.ended.keys() if recorded.designs else {n for n, trial in trials.items() if trial.ended}
    report.finished = bool(begun) and never <= 0 and begun <= over


def _audit_runs(folder: Path, recorded: StudyCase, checks: Sequence[Check], known: Known, report: Report) -> None:
    """Audit the ledger of each trial's runs; one of a trial that is recorded as pruned or failed need not have ended."""
    for run in sorted(path.parent for path in folder.glob("trials/*/seed-*/ledger")):
        name = str(run.relative_to(folder))
        try:
            report.runs[name] = found = audit(run, checks, known.node)
            found.unbound, report.unbound = (), (*UNBOUND, *DRAWN[1:])  # said once
            _look_at_picture(run, found)
        except PulseLedgerError as error:
            report.runs[name] = Report(unreadable=str(error))
            continue
        stage, _ = recorded.ended.get(_number(run.parent), ("", None))
        if stage in ("PRUNED", "FAILED") and not found.finished:
            found.finished = True
            found.add(Note(f"the run did not finish: its trial is recorded as {stage}"))


def _number(trial: Path) -> int:
    """The number of a trial by its folder; -1 where that is no trial's."""
    return int(trial.name) if trial.name.isascii() and trial.name.isdecimal() and len(trial.name) < 10 else -1


def _groups(study: StudyConfig, folder: Path, report: Report) -> list[Group]:
    """The studies of Optuna's database."""
    if study.storage is None and not (folder / DATABASE).exists():
        report.find(None, "database", "file", DATABASE, None, "Optuna's database is gone")
        return []
    return read_groups(study, folder)


def database_trials(study: StudyConfig, groups: Sequence[Group], report: Report) -> dict[int, StoredTrial]:
    """The trials that got as far as having a configuration, by their number in the study."""
    found: dict[int, StoredTrial] = {}
    for trial in (trial for group in groups for trial in group.trials):
        if "config" not in trial.user_attrs:
            continue
        number, wrong = trial.user_attrs.get("trial"), damaged(trial)
        told = trial.values or ()  # Optuna has None where there is not one
        if trial.state.name == "COMPLETE" and "values" not in wrong and len(told) != len(study.objectives):
            wrong.append("values")
        for name in wrong:
            message = f"{name} of Optuna's trial {trial.number} is damaged"
            report.find(number, "database", name, "a readable value", trial.user_attrs.get(name), message)
        if number in found:
            report.find(number, "database", "trial", "one", "two", "two trials have the same number")
        elif not wrong and (one := stored(trial)) is not None:
            found[one.number] = one
    return found


def _check_design(study: StudyConfig, kept: Mapping[str, str], recorded: StudyCase, report: Report) -> None:
    if not recorded.designs:
        return
    registered, now = recorded.designs[-1].get("design"), registration.design(study, kept)
    there = registered.get("study") if isinstance(registered, dict) else None
    for name, expected, found in differences(there, read_json(canonical_json(now["study"]))):
        report.find(None, "design", name, expected, found, f"{STUDY_FILE} is not the registered study")
    named = registered.get("records") if isinstance(registered, dict) else None
    for name, expected, found in differences(named, now["records"]):
        report.find(None, "design", name, expected, found, f"{RECORDS} does not name the records that were registered")


def _check_trials(
    study: StudyConfig, folder: Path, trials: Mapping[int, StoredTrial], recorded: StudyCase, report: Report
) -> None:
    wanted = recorded.designs[-1].get("trials") if recorded.designs else None
    registered = wanted if type(wanted) is int else 0
    for number, trial in sorted(trials.items()):
        if number in recorded.begun:
            _compare(number, "begun", recorded.begun[number], registration.begun(trial), report)
        elif number >= registered:
            message = "the trial is in Optuna's database, but is none of the registered ones"
            report.find(number, "database", "trial", f"one of {registered} trials", number, message)
        if not trial.ended:
            if number in recorded.ended:
                message = "the database says that the trial has not ended"
                report.find(number, "database", "state", recorded.ended[number][0], trial.state, message)
            continue
        try:
            stage, content = registration.ended(trial, trial_folder(folder, number))
        except DataError as error:
            report.find(number, "folder", "result.json", "the recorded results", None, str(error))
            continue
        if number not in recorded.ended:
            continue
        was, there = recorded.ended[number]
        if was != stage:
            report.find(number, "database", "state", was, stage, "the trial ended in another way than recorded")
        else:
            _compare(number, "ended", there, content, report)
    for number in sorted(recorded.begun.keys() - trials.keys()):
        message = "the trial was begun, but Optuna's database does not hold it: it was dropped"
        report.find(number, "database", "trial", number, None, message)
    numbers = sorted({*recorded.begun, *trials})
    for number in sorted(set(range(max(numbers, default=-1) + 1)) - set(numbers)):
        report.find(number, "database", "trial", number, None, "a trial is missing: numbers have no gap")
    for path in sorted((folder / "trials").glob("*")):
        if not path.name.isdecimal() or path != trial_folder(folder, int(path.name)) or int(path.name) not in numbers:
            surplus = int(path.name) if path.name.isdecimal() else None
            report.find(surplus, "folder", path.name, None, path.name, "the folder belongs to no trial of the study")
            continue
        wanted = (
            [f"seed-{repeat}" for repeat in range(len(trials[number].configs))]
            if (number := int(path.name)) in trials
            else []
        )
        for other in sorted(each.name for each in path.glob("seed*") if each.name not in wanted):
            report.find(number, "folder", other, None, other, "the folder belongs to no repeat of the trial")
    going = [str(n) for n in numbers if n in recorded.begun and n not in recorded.ended and n in trials]
    going = [n for n in going if not trials[int(n)].ended]
    if going:
        report.add(Note(f"trials that have not ended: {', '.join(going)}"))


def _compare(number: int, record: str, there: Mapping[str, Any], now: Mapping[str, Any], report: Report) -> None:
    """Name what of a trial is not as it was recorded."""
    for name, expected, found in differences(there, read_json(canonical_json(now))):
        message = f"{name} is not what was recorded when the trial {'began' if record == 'begun' else 'ended'}"
        report.find(number, record, name, expected, found, message)
    report.add(Count("compared"))


def _check_data(
    study: StudyConfig, kept: Mapping[str, str], folder: Path, trials: Mapping[int, StoredTrial], report: Report
) -> None:
    """Results must be of the records that the study began with, unless the trial's own keys choose others."""
    if not kept:
        lost = f"{RECORDS} is not there: results were not held against the records that the study began with"
        away = "the records that the study is of were not registered; they are at its sites"
        report.add(Note(away if study.execution.sites else lost, unchecked=True))
        return
    base = {condition.label: resolve(study, condition, {}, 0).data for condition in conditions(study)}
    for number, trial in sorted(trials.items()):
        same = [repeat for repeat, values in enumerate(trial.configs) if _data(values) == base.get(trial.condition)]
        for repeat in same if trial.state == "COMPLETE" else ():
            try:
                found = Result.read(repeat_folder(trial_folder(folder, number), repeat)).cohort.digest
            except DataError:
                continue  # told above
            expected = kept.get(trial.condition)
            if found != expected:
                message = f"repeat {repeat} was trained on other records than the study began with"
                report.find(number, "folder", "cohort.digest", expected, found, message)


def _data(values: Mapping[str, Any]) -> DataConfig | None:
    try:
        return DataConfig.model_validate(values["data"])
    except (KeyError, ValueError):
        return None  # told above


def _unread(folder: Path, runs: Sequence[Path]) -> list[str]:
    """Files of a study that its audit does not read, but those of its runs and what `DRAWN` names."""
    kept = {
        f"{name}{ending}" for name in (DATABASE, f"ledger/{STUDY.file}") for ending in ("", "-wal", "-shm", "-journal")
    }
    asked = {*kept, STUDY_FILE, RECORDS, IDENTITY, PARETO, TRIALS, witness.FOLDER.as_posix()}
    left = {"artifacts", "report", *(run.relative_to(folder).as_posix() for run in runs)}
    return [*evidence.unread(folder, asked, left), *(["artifacts/*"] if (folder / "artifacts").exists() else [])]


def own_rule(folder: Path | None, part: str, parameters: Mapping[str, Any]) -> Callable[..., Any]:
    """A user's own rule of aggregation, by the copy of its source in a run's folder. Its code is executed.

    Raises:
        PulseLedgerError: there is no copy, it was edited, or it fails.
    """
    named = reference(part)
    if folder is None or named is None:
        raise ConfigError("there is no copy of it here")
    hold(folder, [named.digest])
    return make("a rule", part, {}, parameters)  # type: ignore[no-any-return]
