"""A study as rows: one for each trial, each round, each hospital. Reads only.

Whoever shows or judges a study starts from `rows_of`: plain frozen records, per condition and best first, beside their
trivial baselines.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.algorithms.config import method_called
from engine.config import config_hash
from engine.data.config import labels_of
from engine.errors import DataError, PulseLedgerError
from engine.result import RESULT, Result
from sweeps.definition import require_unedited
from sweeps.folder import (
    STUDY_FILE,
    is_study,
    missing_results,
    read_error,
    read_history,
    read_study,
    read_trials,
    repeat_folder,
    repeat_number,
    repeats_of,
    trial_folder,
)
from sweeps.methods import Named, method_of
from sweeps.scores import (
    ASIDE,
    GUESSED,
    MATCHED,
    MODELS,
    OF_A_CLASS,
    OF_A_HOSPITAL,
    REACHED,
    SCORES,
    SPENT,
    TRIVIAL,
    details,
    objectives,
    shown,
)
from sweeps.space import StudyConfig, conditions
from sweeps.stored import NO_FAILURE, Failure, Interval, StoredTrial, interval
from sweeps.verdicts import verdicts_of

if TYPE_CHECKING:
    import pandas as pd


class Spread(NamedTuple):
    """A number over the repeats of a trial: mean, standard deviation and 95 % interval; None where it is not there."""

    mean: float | None
    sd: float | None = None
    interval: tuple[float, float] | None = None


NOTHING = Spread(None)


class Hospital(NamedTuple):
    """One hospital in one run, on its test beats.

    Attributes:
        support: class -> test beats.
        personal, global_, majority: macro-F1 of its own model, of the global one, and of its commonest train class; None
            where there is no such model, or no beat to score.
    """

    records: tuple[str, ...]
    support: Mapping[str, int]
    personal: float | None
    global_: float | None
    majority: float | None


@dataclass(frozen=True)
class Outcome:
    """What a complete trial came to, over its repeats.

    Attributes:
        scores: path -> the number over the repeats, for all of `scores.objectives` and `scores.TRIVIAL`. Without a global
            model there is none of it: what the loop of local-only carries along was never trained.
        usual: the first of the classes, N of AAMI.
        all_usual: accuracy and macro-F1 of calling every test beat that.
        seeds: of each repeat: hospital -> what it came to.
        scored: the classes that macro-F1 is a mean over.
        support: class -> test beats of all hospitals, of the first repeat.
        not_testable: classes with fewer of them than `min_support`.
        exchanged: bytes of models that went to hospitals and back; None where data are pooled instead.
        digest: of the beats, of the first repeat.
        leaky: what of the split lets test beats be known, in sentences.
        attack: who plays attackers, in a sentence; "" where nobody does.
        privacy: what must be known of its epsilon; "" where no account is kept.
        hidden: what masks hide and what not, in a sentence; "" without them.
        led: which successors led after the coordinator, in a sentence; "" where none did.
        judged: how committees found the updates, in a sentence; "" where none sat.
        unit: what the samples are called, where they are no beats.
    """

    repeats: int
    method: Named
    scores: Mapping[str, Spread]
    usual: str
    all_usual: tuple[float | None, float | None]
    seeds: tuple[Mapping[int, Hospital], ...]
    scored: tuple[str, ...]
    support: Mapping[str, int]
    exchanged: float | None
    digest: str
    leaky: tuple[str, ...]
    not_testable: tuple[str, ...]
    min_support: int
    attack: str = ""
    privacy: str = ""
    hidden: str = ""
    led: str = ""
    judged: str = ""
    unit: str = "beats"

    def mean(self, path: str) -> float | None:
        """Over the repeats; None where there is no such number."""
        return self.scores.get(path, NOTHING).mean

    def text(self, path: str, missing: str) -> str:
        """A number as tables show it, in brackets where it is of a class with too few test beats."""
        plain, (*before, last) = shown(path).number(self.mean(path), missing), path.split("/")
        bracketed = before[:1] == ["final"] and before[-1] in OF_A_CLASS and last in self.not_testable
        return f"({plain})" if bracketed and plain != missing else plain

    @property
    def untestable(self) -> str:
        """What the brackets mean, in a sentence without a full stop; "" where no class has too few test beats."""
        few = [f"{c} ({self.support[c]})" for c in self.not_testable if self.support[c]]
        return f"not testable, with fewer than {self.min_support} test beats: {', '.join(few)}" if few else ""

    @property
    def gradients(self) -> float:
        """All evaluations, personalisation included."""
        return self.mean("timing/gradient_evaluations") or 0.0

    def own(self, model: str) -> list[dict[int, float]]:
        """Macro-F1 of each hospital that has one, by seed; of "personal", "global" or "majority"."""
        name = "global_" if model == "global" else model
        return [
            {h: score for h, hospital in seed.items() if (score := getattr(hospital, name)) is not None}
            for seed in self.seeds
        ]

    def tested(self) -> tuple[object, ...]:
        """What must be equal for two trials to be held against each other: beats, and who was tested on how many of which."""
        hospitals = {h: (own.records, tuple(own.support.items())) for h, own in self.seeds[0].items()}
        return self.digest, self.scored, tuple(sorted(hospitals.items()))


@dataclass(frozen=True)
class Row:
    """One trial of a study, or a run by itself.

    Attributes:
        trial: its number in the whole study.
        method: its title.
        optuna: its number in the Optuna study of its condition, which counts from 0 in each; None of a run.
        state: COMPLETE, PRUNED, FAIL, RUNNING or WAITING; LOST: complete, but its results are gone from its folder.
        keys: what was tuned or, of a baseline, set.
        spread: objective or constraint -> its interval over the repeats.
        constraints: score -> how far its bound is broken; 0 or less keeps to it.
        round: the last one that was run, of `rounds` that were wanted.
        reason: why it was pruned or failed; `error` in a line, if it failed.
        outcome: of a complete trial.
        tuned_on_test: whether scores of test beats decide in its study, which then are no estimates.
    """

    condition: str
    trial: int
    state: str
    round: int
    rounds: int
    keys: dict[str, Any] = field(default_factory=dict)
    baseline: bool = False
    objectives: dict[str, float] = field(default_factory=dict)
    spread: dict[str, Interval] = field(default_factory=dict)
    constraints: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    error: str = ""
    failure: Failure = NO_FAILURE
    outcome: Outcome | None = None
    tuned_on_test: bool = False
    optuna: int | None = None
    method: str = ""

    @property
    def violated(self) -> list[str]:
        """Names of the constraints that are broken."""
        return [name for name, value in self.constraints.items() if value > 0]

    def document(self) -> dict[str, Any]:
        """Plain JSON values, as `compare --json` prints them."""
        plain = {
            "condition": self.condition,
            "trial": self.trial,
            "optuna": self.optuna,
            "method": self.method,
            "state": self.state,
            "keys": self.keys,
            "baseline": self.baseline,
            "objectives": self.objectives,
            "constraints": self.constraints,
            "violated": self.violated,
            "round": self.round,
            "rounds": self.rounds,
            "reason": self.reason,
            "error": self.error,
            "hospital": self.failure.hospital,
            "stage": self.failure.stage,
            "traceback": self.failure.traceback,
            "tuned_on_test": self.tuned_on_test,
            "spread": {name: found._asdict() for name, found in self.spread.items()},
        }
        return plain if self.outcome is None else plain | _document(self.outcome)


def rows_of(folder: Path) -> list[Row]:
    """A row for each trial of a study, per condition and best first, or a single one for a run's folder.

    Raises:
        PulseLedgerError: the folder holds neither a study nor a finished run, or a file in it is damaged.
    """
    if is_study(folder):
        study = read_study(folder)
        require_unedited(study, folder)
        rows = [_row(study, folder, trial) for trial in read_trials(study, folder)]
        return _best_first(study, rows)
    if (folder / RESULT).exists():
        result = Result.read(folder)
        rounds = len(result.rounds)
        title = method_of(result.config).title
        return [Row(result.name, 0, "COMPLETE", rounds, rounds, outcome=outcome_of([result]), method=title)]
    raise PulseLedgerError(f"{folder}: holds neither a study ({STUDY_FILE}) nor a finished run ({RESULT}).")


def _row(study: StudyConfig, folder: Path, trial: StoredTrial) -> Row:
    home = trial_folder(folder, trial.number)
    runs = [repeat_folder(home, repeat) for repeat in range(len(trial.configs))]
    gone = missing_results(folder, trial)
    results = _results(runs, trial) if trial.state == "COMPLETE" and not gone else []
    return Row(
        condition=trial.condition,
        trial=trial.number,
        state="LOST" if gone else trial.state,
        round=len(results[0].rounds) if results else max((len(read_history(run)) for run in runs), default=0),
        rounds=trial.rounds,
        keys=trial.keys,
        baseline=trial.baseline is not None,
        objectives=dict(zip(study.objectives, trial.values, strict=False)),
        spread=trial.spread,
        constraints=trial.constraints,
        reason=f"{gone[0].relative_to(folder)} is gone; `pulseledger resume` runs it again" if gone else trial.reason,
        error=(trial.reason or read_error(folder, trial.number)) if trial.state == "FAIL" else "",
        failure=trial.failure,
        outcome=outcome_of(results) if results else None,
        tuned_on_test=study.tuned_on_test,
        optuna=trial.frozen.number,
        method=method_of(trial.runs[0]).title,
    )


def _results(runs: Sequence[Path], trial: StoredTrial) -> list[Result]:
    """The results of a complete trial.

    Raises:
        DataError: one of them is damaged, or is that of another trial.
    """
    found = [Result.read(run) for run in runs]
    for run, result, config in zip(runs, found, trial.runs, strict=False):
        if result.config_hash != config_hash(config):
            raise DataError(
                f"{run / RESULT}: is the result of another configuration than that of trial {trial.number}; put the right one back, or "
                "move its folder away, and `pulseledger resume` runs the trial again."
            )
    return found


def _best_first(study: StudyConfig, rows: Sequence[Row]) -> list[Row]:
    """In each condition those that keep to the constraints, then those that do not, then those without a final value."""
    first, direction = next(iter(study.objectives.items()))
    sign = -1 if direction == "maximize" else 1
    labels = [*(condition.label for condition in conditions(study)), *(row.condition for row in rows)]
    order = {label: place for place, label in enumerate(dict.fromkeys(labels))}

    def rank(row: Row) -> tuple[int, int, float, int]:
        value = row.objectives.get(first) if row.state == "COMPLETE" else None
        group = 2 if value is None else int(bool(row.violated))
        return order[row.condition], group, sign * value if value is not None else 0.0, row.trial

    return sorted(rows, key=rank)


def outcome_of(results: Sequence[Result]) -> Outcome:
    """What the repeats of a trial came to."""
    first = results[0]
    method = method_of(first.config)
    usual = labels_of(first.config.data.classes)[0]
    guesses = [all_of_class(usual, result.final.personal.support, result.cohort.scored) for result in results]
    scores = {path: _spread([result.score(path) for result in results]) for path in _paths(first, method)}
    for path in REACHED:
        if any(result.score(path) is None for result in results):
            scores[path] = NOTHING  # the mean of those that got there would be too small
    return Outcome(
        repeats=len(results),
        method=method,
        scores=scores,
        usual=usual,
        all_usual=(_mean(guess[0] for guess in guesses), _mean(guess[1] for guess in guesses)),
        seeds=tuple(_hospitals(result, method) for result in results),
        scored=tuple(first.cohort.scored),
        support=first.final.personal.support,
        exchanged=None if method.pools else statistics.fmean(_exchanged(result, method) for result in results),
        digest=first.cohort.digest,
        leaky=first.cohort.leaky,
        not_testable=first.cohort.not_testable,
        min_support=first.config.cohort.min_support,
        attack="; ".join(dict.fromkeys(filter(None, map(_attack, results)))),
        privacy="; ".join(dict.fromkeys(filter(None, map(_privacy, results)))),
        hidden=first.config.aggregation.secure.says,
        led="; ".join(dict.fromkeys(filter(None, map(_led, results)))),
        judged=verdicts_of(results),
        unit=first.cohort.unit,
    )


def _led(result: Result) -> str:
    terms = result.ledger.terms or ()
    return ", ".join(f"{term.name} from round {term.round} on (term {term.term})" for term in terms)


def _attack(result: Result) -> str:
    if not result.hostile:
        return ""
    who = f"{'hospital' if len(result.hostile) == 1 else 'hospitals'} {', '.join(map(str, result.hostile))}"
    opened = ""
    if result.backdoor is not None and result.backdoor.global_ is not None:
        door = result.backdoor
        opened = f"; it leads {_share(door.global_)} of marked test beats to {door.target}, {_share(door.personal)} after adaptation"
    return f"{result.config.attack.method} by {who}, which no score is over{opened}"


def _share(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.0f} %"


def _privacy(result: Result) -> str:
    """What must stand beside an epsilon; without the numbers, which differ from trial to trial."""
    said = result.privacy
    if said is None:
        return ""
    secret = (
        "simulated: whoever knows the seed can take the noise off" if said.secret == "simulated" else "of the hospitals"
    )
    shared = (
        f"It holds while {said.shares} hospitals of each sum are honest, whose noise adds up; against all others together a hospital has "
        "epsilon `alone` of its result. "
        if said.shares > 1
        else ""
    )
    if said.neighbours == "change":
        shared = "It is of a beat's window and RR features, released once; its class is not protected. "
    return (
        f"epsilon is of one {said.unit} of one hospital at delta {said.delta:g}; of a patient, who has up to "
        f"{said.most_beats_of_a_patient} train beats there, it says nothing. {shared}Secrets are {secret}. Validation and test scores, "
        "and what is chosen by them, are not protected"
    )


def _paths(result: Result, method: Named) -> list[str]:
    spent = SPENT if result.privacy is not None else ()
    guessed = GUESSED if result.membership is not None else ()
    classes = tuple(result.final.personal.recall)
    every = (*objectives(classes), *details(classes), *REACHED, *MATCHED, *ASIDE, *spent, *guessed, *TRIVIAL)
    untrained = ("/global/", "/hurt_share") if not method.trains_global else ()
    return [path for path in every if not any(part in path for part in untrained)]


def _hospitals(result: Result, method: Named) -> dict[int, Hospital]:
    """The hospitals that were tested."""
    common = {own.id: own.macro_f1 for own in result.final.global_.per_hospital} if method.trains_global else {}
    about = {report.id: report for report in result.cohort.hospitals}
    return {
        own.id: Hospital(
            about[own.id].records,
            own.support,
            own.macro_f1,
            common.get(own.id),
            about[own.id].local_majority_macro_f1,
        )
        for own in result.final.personal.per_hospital
        if own.id in about
    }


def _exchanged(result: Result, method: Named) -> float:
    """Bytes of models to each participant of a round, of its update back, and of the last model to everybody."""
    if method.alone:
        return 0.0
    took = sum(row.participants for row in result.rounds)
    secure = result.config.aggregation.secure
    update = (secure if secure.groups else result.config.update).size(result.parameters)
    return 4.0 * result.parameters * (took + len(result.cohort.hospitals)) + update * took


def all_of_class(
    name: str, support: Mapping[str, int], scored: Sequence[str] | None = None
) -> tuple[float | None, float | None]:
    """Accuracy and macro-F1 over the scored classes of calling every test beat `name`; None where that is no class.

    >>> all_of_class("N", {"N": 6, "V": 4, "F": 0})
    (0.6, 0.375)
    """
    total = sum(support.values())
    if name not in support or not total:
        return None, None
    hits = support[name]
    there = [c for c, n in support.items() if n and (scored is None or c in scored)]
    # its F1 is 2 hits / (support + called); that of every other class that is there, 0
    f1 = 2 * hits / (hits + total) if name in there else 0.0
    return hits / total, f1 / len(there) if there else None


def _spread(values: Sequence[float | None]) -> Spread:
    there = [value for value in values if value is not None]
    if len(there) < 2:
        return Spread(there[0] if there else None)
    found = interval(there)
    assert found.low is not None
    assert found.high is not None
    return Spread(found.mean, found.sd, (found.low, found.high) if len(there) == len(values) else None)


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None


def _document(outcome: Outcome) -> dict[str, Any]:
    """Of each hospital the mean over the seeds."""

    def plain(spread: Spread) -> dict[str, Any]:
        low, high = spread.interval or (None, None)
        return {"mean": spread.mean, "sd": spread.sd, "low": low, "high": high}

    owns = {name: outcome.own(name) for name in ("personal", "global", "majority")}
    return {
        "repeats": outcome.repeats,
        "algorithm": outcome.method.algorithm,
        "scores": {path: plain(spread) for path, spread in outcome.scores.items()},
        "usual": outcome.usual,
        "all_usual_accuracy": outcome.all_usual[0],
        "all_usual_macro_f1": outcome.all_usual[1],
        "scored": list(outcome.scored),
        "support": dict(outcome.support),
        "not_testable": list(outcome.not_testable),
        "exchanged_bytes": outcome.exchanged,
        "hospitals": [
            {"id": h, "records": list(own.records), "support": dict(own.support)}
            | {name: _mean(seed.get(h) for seed in seeds) for name, seeds in owns.items()}
            for h, own in outcome.seeds[0].items()
        ],
        "leaky": list(outcome.leaky),
        "attack": outcome.attack,
        "privacy": outcome.privacy,
        "hidden": outcome.hidden,
        "led": outcome.led,
        "judged": outcome.judged,
    }


def _cell(value: Any) -> Any:
    """What fits into a table: lists become text."""
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


# --- As tables --------------------------------------------------------------------------------------------------------


def flat(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows without anything nested: scores, objectives, constraints and tuned keys are columns of their own.

    A score has its path for a name, its standard deviation and interval "/sd", "/low" and "/high" behind it.
    """
    nested = ("keys", "objectives", "spread", "constraints", "traceback", "scores", "support", "hospitals")
    return [
        {name: _cell(value) for name, value in row.document().items() if name not in nested}
        | {
            path + part: value
            for path, spread in (row.outcome.scores.items() if row.outcome is not None else ())
            for part, value in zip(
                ("", "/sd", "/low", "/high"), (spread.mean, spread.sd, *(spread.interval or (None, None))), strict=True
            )
        }
        | {f"objective/{name}": value for name, value in row.objectives.items()}
        | {
            f"spread/{name}/{part}": value
            for name, found in row.spread.items()
            for part, value in found._asdict().items()
        }
        | {f"constraint/{name}": value for name, value in row.constraints.items()}
        | {name: _cell(value) for name, value in row.keys.items()}
        for row in rows
    ]


def results_frame(folder: Path) -> "pd.DataFrame":
    """A row for each trial, as `flat` makes them of `rows_of`."""
    import pandas as pd

    table = pd.DataFrame(flat(rows_of(folder)))
    empty = [name for name in table if table[name].isna().all()]  # None everywhere is no kind of number to pandas
    return table.astype(dict.fromkeys(empty, float))


def rounds_frame(folder: Path) -> "pd.DataFrame":
    """The learning curves: a row for each round of each repeat of each trial, also of those that are not complete.

    Columns: condition, trial, repeat, round, the scores of the global model on the validation part (none without one),
    train_loss and what the round cost.
    """
    import pandas as pd

    rows = []
    for where, run, trained in _runs(folder):
        for summary in read_history(run):
            scores = summary.validation
            rows.append(
                where
                | {n: value for n, value in summary.document().items() if n not in ("validation", "lost", "virtual")}
                | ({} if summary.virtual is None else {"virtual_seconds": summary.virtual.seconds})
                | {name: getattr(scores, name) if trained else None for name in SCORES}
                | {f"recall_{c}": value if trained else None for c, value in scores.recall.items()}
                | {"lost": len(summary.lost)}
            )
    return pd.DataFrame(rows)


def hospitals_frame(folder: Path) -> "pd.DataFrame":
    """A row for each hospital of each repeat of each complete trial: its data, and its scores on its test beats.

    `personal_` is the model adapted there, `global_` the common one; train, validation and test count beats.
    """
    import pandas as pd

    rows = []
    for where, run, trained in _runs(folder):
        if not (run / RESULT).exists():
            continue
        result = Result.read(run)
        tested = {
            model: {own.id: own for own in result.final.of(model).per_hospital if trained or model == "personal"}
            for model in MODELS
        }
        for hospital in result.cohort.hospitals:
            row = where | {"hospital": hospital.id, "records": len(hospital.records)}
            row |= {
                k: getattr(hospital, k) for k in ("trains", "train", "validation", "test", "local_majority_accuracy")
            }
            row |= {f"beats_{c}": n for c, n in hospital.classes.items()}
            for model, each in tested.items():
                own = each.get(hospital.id)  # without test beats there are no scores
                row |= {f"{model}_{name}": getattr(own, name) if own else None for name in OF_A_HOSPITAL}
                for name in OF_A_CLASS:
                    row |= {f"{model}_{name}_{c}": getattr(own, name)[c] if own else None for c in hospital.classes}
            rows.append(row)
    return pd.DataFrame(rows)


def _runs(folder: Path) -> list[tuple[dict[str, Any], Path, bool]]:
    """Condition, trial and repeat of each run of a study, with its folder, and whether it trains a global model."""
    return [
        (
            {"condition": trial.condition, "trial": trial.number, "repeat": repeat_number(path)},
            path,
            method_called(trial.algorithm).trains_global,
        )
        for trial in read_trials(read_study(folder), folder)
        for path in repeats_of(trial_folder(folder, trial.number))
    ]
