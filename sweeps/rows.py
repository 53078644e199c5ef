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

from engine.algorithms.config import Method
from engine.data.config import labels_of
from engine.errors import PulseLedgerError
from engine.result import RESULT, Model, Result
from sweeps.definition import require_unedited
from sweeps.folder import (
    STUDY_FILE,
    is_study,
    missing_results,
    read_error,
    read_history,
    read_study,
    read_trials,
    repeat_number,
    repeats_of,
    trial_folder,
)
from sweeps.scores import MODELS, SHOWN
from sweeps.space import StudyConfig, conditions
from sweeps.stored import NO_FAILURE, Failure, Interval, StoredTrial, interval

if TYPE_CHECKING:
    import pandas as pd


class Spread(NamedTuple):
    """A number over the repeats of a trial: mean, standard deviation and 95 % interval; None where it is not there."""

    mean: float | None
    sd: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class ModelScores:
    """Of one model on the test beats of all hospitals together, by the names of `scores.SHOWN`, and each class's recall."""

    scores: Mapping[str, Spread]
    recall: Mapping[str, float | None]


@dataclass(frozen=True)
class Outcome:
    """What a complete trial came to, over its repeats.

    Attributes:
        method: its algorithm as a reader knows it; `algorithm` is its key.
        hurt_share: of the hospitals, those whose macro-F1 is lower under their personal model.
        usual: the first of the classes, N of AAMI.
        local_majority, all_usual: accuracy and macro-F1 of each hospital's commonest train class, and of `usual` for every
            beat.
        global_majority: accuracy of the commonest class of all.
        gradients: evaluations, personalisation included.
        ledger_share: of the rounds' time, what they wait for the ledger.
        ledger_open, ledger_close: seconds of the ledger before the first round and after the last one.
        leaky: what of the split lets test beats be known, in sentences.
    """

    repeats: int
    algorithm: str
    method: Method
    personal: ModelScores
    global_: ModelScores
    hurt_share: float | None
    local_majority: tuple[float | None, float | None]
    global_majority: float | None
    usual: str
    all_usual: tuple[float | None, float | None]
    gradients: float
    seconds: float
    ledger_share: float | None
    ledger_open: float | None
    ledger_close: float | None
    gas_per_round: float | None
    leaky: tuple[str, ...]

    def of(self, model: str) -> ModelScores:
        """The scores of "global" or "personal"."""
        return self.global_ if model == "global" else self.personal


@dataclass(frozen=True)
class Row:
    """One trial of a study, or a run by itself.

    Attributes:
        trial: its number in the whole study.
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

    @property
    def violated(self) -> list[str]:
        """Names of the constraints that are broken."""
        return [name for name, value in self.constraints.items() if value > 0]

    def document(self) -> dict[str, Any]:
        """Plain JSON values, as `compare --json` prints them."""
        plain = {
            "condition": self.condition,
            "trial": self.trial,
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
        return [Row(result.name, 0, "COMPLETE", rounds, rounds, outcome=outcome_of([result]))]
    raise PulseLedgerError(f"{folder}: holds neither a study ({STUDY_FILE}) nor a finished run ({RESULT}).")


def _row(study: StudyConfig, folder: Path, trial: StoredTrial) -> Row:
    runs = repeats_of(trial_folder(folder, trial.number))
    gone = missing_results(folder, trial)
    results = [Result.read(run) for run in runs] if trial.state == "COMPLETE" and not gone else []
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
    )


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
    cohorts = [result.cohort for result in results]
    usual = labels_of(first.config.data.classes)[0]
    guesses = [all_of_class(usual, result.final.personal.support) for result in results]
    return Outcome(
        repeats=len(results),
        algorithm=first.config.federation.algorithm,
        method=first.config.federation.method,
        personal=_scores(results, "personal"),
        global_=_scores(results, "global"),
        hurt_share=_mean(result.final.personal.hurt_share for result in results),
        local_majority=(
            _mean(cohort.local_majority_accuracy for cohort in cohorts),
            _mean(cohort.local_majority_macro_f1 for cohort in cohorts),
        ),
        global_majority=_mean(cohort.global_majority_accuracy for cohort in cohorts),
        usual=usual,
        all_usual=(_mean(guess[0] for guess in guesses), _mean(guess[1] for guess in guesses)),
        gradients=statistics.fmean(result.timing.gradient_evaluations for result in results),
        seconds=statistics.fmean(result.timing.total_seconds for result in results),
        ledger_share=_mean(result.ledger.overhead_share for result in results),
        ledger_open=_mean(result.ledger.open_seconds for result in results),
        ledger_close=_mean(result.ledger.close_seconds for result in results),
        gas_per_round=_mean(result.ledger.gas_per_round for result in results),
        leaky=first.cohort.leaky,
    )


def all_of_class(name: str, support: Mapping[str, int]) -> tuple[float | None, float | None]:
    """Accuracy and macro-F1 of calling every test beat `name`; None where that is no class.

    >>> all_of_class("N", {"N": 6, "V": 4, "F": 0})
    (0.6, 0.375)
    """
    total = sum(support.values())
    if name not in support or not total:
        return None, None
    hits = support[name]
    # its F1 is 2 hits / (support + called); that of every other class that is there, 0
    return hits / total, 2 * hits / (hits + total) / sum(n > 0 for n in support.values())


def _scores(results: Sequence[Result], model: Model) -> ModelScores:
    each = [result.final.of(model) for result in results]
    scores = {name: _spread([getattr(scores, name) for scores in each]) for name in SHOWN}
    return ModelScores(scores, {c: _mean(scores.recall[c] for scores in each) for c in each[0].recall})


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
    row: dict[str, Any] = {"repeats": outcome.repeats, "method": outcome.algorithm}
    for model in reversed(MODELS):
        tested = outcome.of(model)
        for name, spread in tested.scores.items():
            row[f"{model}_{name}"], row[f"{model}_{name}_sd"] = spread.mean, spread.sd
            row[f"{model}_{name}_interval"] = None if spread.interval is None else list(spread.interval)
        row |= {f"{model}_recall_{c}": value for c, value in tested.recall.items()}
    row["hurt_share"] = outcome.hurt_share
    row["local_majority_accuracy"], row["local_majority_macro_f1"] = outcome.local_majority
    row["global_majority_accuracy"] = outcome.global_majority
    row["usual_class"] = outcome.usual
    row["all_usual_accuracy"], row["all_usual_macro_f1"] = outcome.all_usual
    row["gradient_evaluations"], row["seconds"] = outcome.gradients, outcome.seconds
    row["ledger_share"], row["gas_per_round"] = outcome.ledger_share, outcome.gas_per_round
    row["ledger_open_seconds"], row["ledger_close_seconds"] = outcome.ledger_open, outcome.ledger_close
    row["leaky"] = list(outcome.leaky)
    return row


def _cell(value: Any) -> Any:
    """What fits into a table: lists become text."""
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


# --- As tables --------------------------------------------------------------------------------------------------------


def flat(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows without anything nested: objectives, constraints and tuned keys are columns of their own."""
    nested = ("keys", "objectives", "spread", "constraints", "traceback")
    return [
        {name: _cell(value) for name, value in row.document().items() if name not in nested}
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

    Columns: condition, trial, repeat, round, the scores of the global model on the validation part, train_loss and
    what the round cost.
    """
    import pandas as pd

    rows = []
    for where, run in _runs(folder):
        for summary in read_history(run):
            scores = summary.validation
            rows.append(
                where
                | {name: value for name, value in summary.document().items() if name not in ("validation", "lost")}
                | {name: getattr(scores, name) for name in (*SHOWN, "recall_min", "worst_hospital_macro_f1")}
                | {f"recall_{c}": value for c, value in scores.recall.items()}
                | {"lost": len(summary.lost)}
            )
    return pd.DataFrame(rows)


def hospitals_frame(folder: Path) -> "pd.DataFrame":
    """A row for each hospital of each repeat of each complete trial: its data, and its scores on its test beats.

    `personal_` is the model adapted there, `global_` the common one; train, validation and test count beats.
    """
    import pandas as pd

    rows = []
    for where, run in _runs(folder):
        if not (run / RESULT).exists():
            continue
        result = Result.read(run)
        tested = {model: {own.id: own for own in result.final.of(model).per_hospital} for model in MODELS}
        for hospital in result.cohort.hospitals:
            row = where | {"hospital": hospital.id, "records": len(hospital.records)}
            row |= {
                k: getattr(hospital, k) for k in ("trains", "train", "validation", "test", "local_majority_accuracy")
            }
            row |= {f"beats_{c}": n for c, n in hospital.classes.items()}
            for model, each in tested.items():
                own = each.get(hospital.id)  # without test beats there are no scores
                row |= {f"{model}_{name}": getattr(own, name) if own else None for name in SHOWN}
                row |= {f"{model}_recall_{c}": own.recall[c] if own else None for c in hospital.classes}
            rows.append(row)
    return pd.DataFrame(rows)


def _runs(folder: Path) -> list[tuple[dict[str, Any], Path]]:
    """Condition, trial and repeat of each run of a study, with its folder."""
    return [
        ({"condition": trial.condition, "trial": trial.number, "repeat": repeat_number(path)}, path)
        for trial in read_trials(read_study(folder), folder)
        for path in repeats_of(trial_folder(folder, trial.number))
    ]
