"""What MLflow holds of a run or a study, against its folder: every parameter, every point of every metric, and the tags.

The folder is audited first; MLflow is a mirror of it. Where a store says that a run still goes on, what it lacks is no finding.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.audit.known import NOTHING, Known
from engine.audit.report import Count, Note, Report, Told, finding
from engine.audit.run import audit
from engine.audit.study import StudyCase, audit_records
from engine.config import RunConfig, config_hash
from engine.errors import ConfigError, PulseLedgerError
from engine.ledger.format import CONFIG, STUDY
from engine.paths import PATHS, SQLITE, TABLES, load_config, sqlite_path, sqlite_uri
from engine.result import RESULT, Result
from engine.settings import parse
from engine.tracking.curves import final_metrics, ledger_tags, params_of, round_metrics
from engine.tracking.store import STATUS, Kept, read_runs
from sweeps.answer import answers
from sweeps.audit import audit_study, database_trials
from sweeps.folder import is_study, read_groups, read_history, read_study, repeat_folder, trial_folder
from sweeps.front import study_metrics
from sweeps.mirrored import (
    ending_tags,
    first_run,
    method_scores,
    study_note,
    told,
    trial_name,
    trial_scores,
    trial_tags,
    varied,
)
from sweeps.rows import rows_of
from sweeps.space import StudyConfig
from sweeps.stored import StoredTrial, rounds_saved

# Of the machine, and kept nowhere else.
UNBOUND = ("system/", "perf/rss_mb", "sweep/training_share")
# Seconds of a round. One that was done again after an interruption has those of the first time in MLflow.
MEASURED = ("perf/round_s", "perf/train_s", "ledger/hash_sign_seconds")
# Of a run by itself: how and where it was executed, which its folder says as it was in the end.
FREE = ("execution.", *PATHS, *TABLES)
NOTE, NOTE_END = "mlflow.note.content", "To get the same numbers"
LONGEST = 6000  # characters of a parameter

Curves = Mapping[str, Mapping[int, float]]  # name -> step -> value


class Wanted(NamedTuple):
    """What a store must hold of one run.

    Attributes:
        ended: how it ended, as MLflow says it; "" while it goes on.
        single: numbers without a curve.
        tags: those that are held; others may be there.
        free: parameters that are not held, if they are there.
        gaps: whether steps of a curve before its last may be missing.
    """

    name: str
    ended: str
    params: Mapping[str, str]
    curves: Curves
    single: Mapping[str, float]
    tags: Mapping[str, str]
    free: tuple[str, ...] = ()
    gaps: bool = False


def audit_mlflow(run_id: str, store: str | None, folder: Path | None, known: Known = NOTHING) -> tuple[Path, Report]:
    """Audit the folder that an MLflow run belongs to, and hold all that MLflow has of it against what is there.

    Args:
        store: address of the MLflow store; None takes mlflow.db in `folder` or above it.
        folder: of the run, of its study, or one that holds it; None takes that of the store.

    Returns:
        The folder, and its report.

    Raises:
        PulseLedgerError: the store or the run cannot be read, or its folder is not found.
    """
    base = folder or Path()
    if store is None:
        found = next((p for p in (base / "mlflow.db", base.resolve().parent / "mlflow.db") if p.exists()), None)
        if found is None:
            raise ConfigError(f"{base}: neither it nor the folder above holds an MLflow store; name one with --store.")
        store = sqlite_uri(found.resolve())
    if folder is None and store.startswith(SQLITE):
        base = sqlite_path(store).parent
    kept = read_runs(store, run_id, leave=_is_unbound)
    home = _home(base, kept[0].tags)
    report = audit_study(home, known=known) if is_study(home) else audit(home, known=known)
    try:
        compared = list(_compared(home, kept, report))
    except PulseLedgerError as error:
        compared = [Note(f"MLflow's runs were not compared: {error}", unchecked=True)]
    for each in compared:
        report.add(each)
    report.unbound += tuple(f"{name}* in MLflow" if name.endswith("/") else f"{name} in MLflow" for name in UNBOUND)
    return home, report


def _compared(home: Path, kept: Sequence[Kept], report: Report) -> Iterator[Told]:
    own = kept[0]
    if is_study(home):
        study, recorded, of_study = read_study(home), StudyCase(), Report()
        if (home / "ledger" / STUDY.file).exists():
            recorded = audit_records(home / "ledger", of_study, checks=())
        trials = database_trials(study, read_groups(study, home), of_study)
        yield from check_study(kept, study, home, list(trials.values()), recorded, report)
    elif "number" in own.tags:
        above = home.parents[2]
        study = read_study(above)
        trials = database_trials(study, read_groups(study, above), Report())
        number = _number(own.tags)
        if number not in trials:
            yield finding(
                "mlflow", "number", "a trial", own.tags["number"], "MLflow's run is none of the study's trials"
            )
            return
        yield from check(own, _with_head(of_trial(study, above, trials[number]), report), number)
    else:
        yield from check(own, _with_head(of_run(home), report))


def check_study(
    kept: Sequence[Kept],
    study: StudyConfig,
    folder: Path,
    trials: Sequence[StoredTrial],
    recorded: StudyCase,
    report: Report,
) -> Iterator[Told]:
    """MLflow's run of a study, which comes first, and those of its trials, each once."""
    own, *others = kept
    yield from check(own, of_study(study, folder, trials, recorded, report))
    yield from check_note(own, folder)
    known, seen = {trial.number: trial for trial in trials}, set[int]()
    for run in others:
        number = _number(run.tags)
        if number not in known or number in seen:
            message = "MLflow shows a run under the study that is none of its trials, or one twice"
            yield finding("mlflow", "number", "a trial", run.tags.get("number"), message, trial=number)
            continue
        seen.add(number)
        try:
            wanted = of_trial(study, folder, known[number])
        except PulseLedgerError as error:
            yield Note(f"MLflow's run of trial {number} was not compared: {error}", unchecked=True)
            continue
        yield from check(run, wanted, number)
    for number in sorted(known.keys() - seen):
        if known[number].ended:
            yield finding("mlflow", "number", number, None, "MLflow shows no run of the trial", trial=number)


def check(kept: Kept, wanted: Wanted, trial: int | None = None) -> Iterator[Told]:
    """Everything that a store holds of a run against what it must hold; what differs, is missing or was added is named."""
    whole = bool(wanted.ended) and kept.status == wanted.ended
    which = "MLflow's run of the study" if trial is None and wanted.gaps else f"MLflow's run {kept.name}"
    if wanted.ended and kept.status == "RUNNING":
        words = f"{which} says that it still goes on, though its folder does not: what it lacks is not told"
        yield Note(words, unchecked=True)
    elif kept.status not in ({wanted.ended} if wanted.ended else {"RUNNING", "FAILED"}):
        yield finding(
            "mlflow", "status", wanted.ended or "RUNNING", kept.status, "the run ended otherwise", trial=trial
        )
    if kept.name != wanted.name:
        yield finding("mlflow", "name", wanted.name, kept.name, "the run has another name in MLflow", trial=trial)
    yield from _params(kept, wanted, trial)
    yield from _curves(kept, wanted, whole, trial, which)
    yield from _single(kept, wanted, whole, trial, which)
    for name in sorted(kept.latest.keys() - wanted.curves.keys() - wanted.single.keys()):
        if not _is_unbound(name):
            message = "the metric in MLflow is none that the folder gives"
            yield finding("mlflow", name, None, kept.latest[name], message, trial=trial)
    for name, text in sorted(wanted.tags.items()):
        there = kept.tags.get(name)
        if there != text and (there is not None or whole):
            yield finding("mlflow", name, text, there, f"MLflow's tag {name} is not what the folder says", trial=trial)
    if (missing := sorted(wanted.tags.keys() - kept.tags.keys())) and not whole:
        yield Note(f"{which} is {kept.status} and has no tag {', '.join(missing)}", unchecked=True)
    yield Count("runs in MLflow")


def _params(kept: Kept, wanted: Wanted, trial: int | None) -> Iterator[Told]:
    for name in sorted(wanted.params.keys() | kept.params.keys()):
        free = name in wanted.free
        if wanted.params.get(name) != kept.params.get(name) and not free:
            message = "the parameter in MLflow is not that of the configuration"
            yield finding("mlflow", name, wanted.params.get(name), kept.params.get(name), message, trial=trial)
    yield Count("parameters in MLflow", len(kept.params))


def _curves(kept: Kept, wanted: Wanted, whole: bool, trial: int | None, which: str) -> Iterator[Told]:
    """Each point must be one that the folder gives, and what MLflow's tables show the last of them."""
    others, ahead = set[str](), set[int]()
    for name, curve in sorted(wanted.curves.items()):
        points, last = kept.curves.get(name, ()), max(curve)
        shown = [(step, value, "") for step, value in points]
        if name in kept.latest:
            there = max((step for step, _ in points), default=last)
            shown.append((there, kept.latest[name], ", in MLflow's tables,"))
        for step, value, where in shown:
            if _same(curve.get(step), value):
                continue
            if not wanted.ended and step > last:
                ahead.add(step)
            elif name in MEASURED and step in curve:
                others.add(f"{name} at step {step}")
            else:
                message = f"the metric{where} at step {step} is not what the folder gives"
                yield finding("mlflow", name, curve.get(step), value, message, trial=trial)
        steps = {step for step, _ in points}
        for step in sorted(curve.keys() - steps) if whole else ():
            if step == last or not wanted.gaps:
                yield finding(
                    "mlflow", name, curve[step], None, f"the metric is not in MLflow at step {step}", trial=trial
                )
        yield Count("points in MLflow", len(points))
    if others:
        words = f"{which} has other seconds than the folder, as after a round that was done again: "
        yield Note(words + ", ".join(sorted(others)), unchecked=True)
    if ahead:
        yield Note(f"{which} is ahead of the folder (steps {', '.join(map(str, sorted(ahead)))})", unchecked=True)


def _single(kept: Kept, wanted: Wanted, whole: bool, trial: int | None, which: str) -> Iterator[Told]:
    """The last point must be what the folder gives, and MLflow's tables must show it; earlier ones were superseded."""
    before = set[str]()
    for name, expected in sorted(wanted.single.items()):
        points = kept.curves.get(name, ())
        if name not in kept.latest:
            if whole:
                yield finding("mlflow", name, expected, None, "the metric is not in MLflow", trial=trial)
            continue
        last = [value for _, value in points][-1:]
        wrong = next((value for value in (*last, kept.latest[name]) if not _same(expected, value)), None)
        if wrong is not None or any(step for step, _ in points):
            if whole:
                message = "the metric in MLflow is not what the folder gives"
                yield finding("mlflow", name, expected, wrong, message, trial=trial)
            else:
                before.add(name)
        elif not all(_same(expected, value) for _, value in points):
            before.add(name)
        yield Count("points in MLflow", len(points))
    if before:
        words = f"{which} has points of an earlier end, which nothing is held against: {', '.join(sorted(before))}"
        yield Note(words, unchecked=True)


def check_note(own: Kept, folder: Path) -> Iterator[Told]:
    """What the note on a study's run says of its methods; how to get the numbers again, at its end, is not held."""
    note = own.tags.get(NOTE, "")
    if own.status == "FINISHED":
        said, found = note.rpartition(NOTE_END), answers(rows_of(folder))
        expected = study_note(found, said[1] + said[2])
        if note != expected:
            yield finding("mlflow", NOTE, expected, note, "MLflow's note does not say what the study came to")


# --- What must be there -----------------------------------------------------------------------------------------------


def of_run(home: Path) -> Wanted:
    """Of a run by itself."""
    used = parse(RunConfig, load_config(home / CONFIG), str(home / CONFIG))
    result = Result.read(home) if (home / RESULT).exists() else None
    params = _texts(params_of(used))
    whole = _texts(params_of(used, tuple(RunConfig.model_fields)))
    tags = {"config_hash": config_hash(used), "seed": str(used.seed)}
    single: dict[str, float | None] = {}
    if result is not None:
        tags, single = tags | ledger_tags(result), final_metrics(result)
    ended = "FINISHED" if result is not None else ""
    free = tuple(name for name in whole if name.startswith(FREE))
    return Wanted(used.name, ended, params, _rounds(home, used), _numbers(single), tags, free)


def of_trial(study: StudyConfig, folder: Path, trial: StoredTrial) -> Wanted:
    """Of a trial: the curves of its first repeat, and means over all."""
    first, home = first_run(trial), trial_folder(folder, trial.number)
    places = [repeat_folder(home, repeat) for repeat in range(len(trial.configs))]
    tags = {"config_hash": config_hash(first), "seed": str(first.seed)} | trial_tags(study, trial)
    single: dict[str, float | None] = {}
    if (places[0] / RESULT).exists():
        result = Result.read(places[0])
        tags |= ledger_tags(result)
        single |= final_metrics(result) if len(places) == 1 else {}
    if trial.state == "COMPLETE":
        results = [Result.read(place) for place in places]
        paths = (*study.objectives, *told(study))
        single |= trial_scores(study, trial, [{path: each.score(path) for path in paths} for each in results])
    if trial.ended:
        tags |= {"state": trial.state}
        if trial.state != "COMPLETE" and trial.reason:
            tags |= ending_tags(trial, trial.state)
    ended = STATUS[trial.state] if trial.ended else ""
    params = _texts(params_of(first, varied(study)))
    return Wanted(trial_name(trial), ended, params, _rounds(places[0], first), _numbers(single), tags)


def of_study(
    study: StudyConfig, folder: Path, trials: Sequence[StoredTrial], recorded: StudyCase, report: Report
) -> Wanted:
    """Of a study: a point of each curve after each end, and at its end a table of its methods."""
    heads = {"ledger.head": report.head}
    if recorded.domain is not None:
        heads |= {"ledger.backend": study.ledger.backend}
        heads |= {"ledger.contract": recorded.domain.contract, "ledger.chain_id": str(recorded.domain.chain_id)}
    tags = {"study": study.name} | ({"tuned_on_test": "true"} if study.tuned_on_test else {})
    tags |= {name: text for name, text in heads.items() if text is not None}
    tags |= {"state": "COMPLETE"} if report.finished else {}
    single: dict[str, float | None] = dict(method_scores(answers(rows_of(folder))))
    if any(trial.state == "PRUNED" for trial in trials):
        single["sweep/rounds_saved"] = rounds_saved(study, trials)
    ended = "FINISHED" if report.finished else ""
    return Wanted(study.name, ended, {}, _ends(study, trials, recorded), _numbers(single), tags, gaps=True)


def _ends(study: StudyConfig, trials: Sequence[StoredTrial], recorded: StudyCase) -> Curves:
    """The curves of a study, whose steps count the trials that have ended; in the order of its record, if it has one."""
    place = {number: step for step, number in enumerate(recorded.order)}
    over = sorted(
        (trial for trial in trials if trial.ended),
        key=lambda trial: (place.get(trial.number, len(place)), str(trial.frozen.datetime_complete)),
    )
    expected: dict[str, dict[int, float]] = {}
    for step in range(1, len(over) + 1):
        for name, value in study_metrics(study, over[:step]).items():
            expected.setdefault(name, {})[step] = float(value)
    return expected


def _with_head(wanted: Wanted, report: Report) -> Wanted:
    """With the head that the audit of the run has come to, whatever its result says."""
    return wanted if report.head is None else wanted._replace(tags={**wanted.tags, "ledger.head": report.head})


def _rounds(run: Path, config: RunConfig) -> Curves:
    """The curves of a run, as its folder has its rounds."""
    expected: dict[str, dict[int, float]] = {}
    for row in read_history(run):
        for name, value in round_metrics(row, config.federation.method.trains_global).items():
            if value is not None:
                expected.setdefault(name, {})[row.round] = float(value)
    return expected


def _numbers(single: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float(value) for name, value in single.items() if value is not None}


def _texts(params: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value)[:LONGEST] for name, value in params.items()}


def _same(expected: float | None, found: float) -> bool:
    """MLflow keeps what is infinite as the largest number."""
    if expected is None:
        return False
    if math.isinf(expected):
        expected = math.copysign(1.7976931348623157e308, expected)
    return expected == found or (math.isnan(expected) and math.isnan(found))


def _is_unbound(name: str) -> bool:
    return name.startswith(UNBOUND)


def _number(tags: Mapping[str, str]) -> int:
    """Of a trial, by MLflow's tag; -1 where that is none."""
    text = tags.get("number", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1


def _home(base: Path, tags: Mapping[str, str]) -> Path:
    """The folder of an MLflow run, in `base`, in a folder of its study, or `base` itself; never one that a tag leads to."""

    def beside(name: str) -> list[Path]:
        return [base / tags[name]] if tags.get(name, "/") == Path(tags.get(name, "/")).name else []

    bases = [base, *beside("study")]
    if "number" in tags:
        places = [repeat_folder(trial_folder(place, _number(tags)), 0) for place in bases]
    elif "study" in tags:
        places = [place for place in bases if is_study(place)]
    else:
        places = [*beside("folder"), base]
    for place in (*places, base):
        if (place / CONFIG).exists() or (is_study(place) and "number" not in tags):
            return place
    raise ConfigError(f"{base}: the folder of MLflow's run {tags.get('mlflow.runName', '')!r} is not there; name it.")
