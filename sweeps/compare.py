"""The table of a study: per condition, best first, beside its trivial baselines. Reads only."""

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine import checkpoint
from engine.errors import PulseLedgerError
from engine.result import RESULT, finished
from sweeps.study import STUDY_FILE, interval, open_studies, read_error, read_study, trial_folder

if TYPE_CHECKING:
    import pandas as pd

SCORES = ("accuracy", "macro_f1", "balanced_accuracy")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """One plain row for each trial of a study, or a single one for a run's folder; per condition, best first.

    A row has condition, trial, state, keys (what was tuned or set), baseline, objectives and their spread over the
    repeats, constraints (0 or less keeps to it), violated (their names), round (the last one that was run) and rounds
    (wanted); how it ended: reason, and of a failure error (one line), hospital, stage and traceback. A complete trial has the scores of the personal and the global model
    on the test part (mean over the repeats, their standard deviation `_sd` and a 95 % interval of the mean
    `_interval` from Student's t), the trivial baselines and costs.

    Raises:
        PulseLedgerError: the folder holds neither a study nor a finished run.
    """
    if (folder / STUDY_FILE).exists():
        return _study_rows(folder)
    if (folder / RESULT).exists():
        result = finished(folder)
        rounds = len(result["rounds"])
        plain = {"condition": result["name"], "trial": 0, "state": "COMPLETE", "keys": {}, "baseline": False}
        plain |= {"objectives": {}, "spread": {}, "constraints": {}, "violated": [], "round": rounds, "rounds": rounds}
        return [plain | _NO_FAILURE | _scores([result])]
    raise PulseLedgerError(f"{folder}: holds neither a study ({STUDY_FILE}) nor a finished run ({RESULT}).")


def _study_rows(folder: Path) -> list[dict[str, Any]]:
    study = read_study(folder)
    rows = []
    for optuna_study, _ in open_studies(study, folder):
        for trial in optuna_study.get_trials(deepcopy=False):
            attributes = trial.user_attrs
            if "config" not in attributes:
                continue  # never got as far as being a trial
            number = attributes["trial"]
            home = trial_folder(folder, number)
            state = trial.state.name
            constraints = dict(trial.constraints)
            row: dict[str, Any] = {
                "condition": attributes["condition"],
                "trial": number,
                "state": state,
                "keys": attributes["keys"],
                "baseline": "baseline" in attributes,
                "objectives": dict(zip(study.objectives, trial.values or [], strict=False)),
                "constraints": constraints,
                "violated": [name for name, value in constraints.items() if value > 0],
                "round": 0,
                "rounds": study.federation.rounds,
                **_NO_FAILURE,
                "reason": attributes.get("reason", ""),
                "spread": attributes.get("repeats", {}),
            }
            if state == "COMPLETE":
                results = [finished(path) for path in _repeats(home)]
                row |= _scores(results)
                row["round"] = len(results[0]["rounds"])
            elif state == "FAIL":
                row["error"] = row["reason"] or read_error(folder, number)
                row |= {k: attributes.get("error", {}).get(k, row[k]) for k in ("hospital", "stage", "traceback")}
            if state != "COMPLETE":
                row["round"] = max((len(_history(path)) for path in _repeats(home)), default=0)
            rows.append(row)
    first, direction = next(iter(study.objectives.items()))
    sign = -1 if direction == "maximize" else 1
    order = {label: i for i, label in enumerate(dict.fromkeys(row["condition"] for row in rows))}

    def rank(row: dict[str, Any]) -> tuple[Any, ...]:
        # those that keep to the constraints, then those that do not, then those without a final value
        value = row["objectives"].get(first) if row["state"] == "COMPLETE" else None
        group = 2 if value is None else int(bool(row["violated"]))
        return order[row["condition"]], group, sign * value if value is not None else 0.0, row["trial"]

    return sorted(rows, key=rank)


_NO_FAILURE: dict[str, Any] = {"reason": "", "error": "", "hospital": None, "stage": "", "traceback": ""}


def _repeats(trial: Path) -> list[Path]:
    """The folders of a trial's repeats that were begun, in their order."""
    return sorted(trial.glob("seed-*"), key=lambda path: int(path.name.removeprefix("seed-")))


def _history(run: Path) -> list[dict[str, Any]]:
    """The rounds of a run, finished or not."""
    if (run / RESULT).exists():
        return finished(run)["rounds"]
    if not (run / checkpoint.NAME).exists():
        return []
    return checkpoint.history(run)


def _scores(results: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"repeats": len(results), "method": results[0]["config"]["federation"]["algorithm"]}
    for model in ("personal", "global"):
        for name in SCORES:
            values = [r["final"][model][name] for r in results]
            row[f"{model}_{name}"], row[f"{model}_{name}_sd"] = _mean_sd(values)
            row[f"{model}_{name}_interval"] = None
            if len(values) > 1 and None not in values:
                found = interval(values)
                row[f"{model}_{name}_interval"] = [found["low"], found["high"]]
        for c in results[0]["final"][model]["recall"]:
            row[f"{model}_recall_{c}"] = _mean_sd([r["final"][model]["recall"][c] for r in results])[0]
    row["hurt_share"] = _mean_sd([r["final"]["personal"].get("hurt_share") for r in results])[0]
    row["local_majority_accuracy"] = _mean_sd([r["cohort"]["local_majority_accuracy"] for r in results])[0]
    row["local_majority_macro_f1"] = _mean_sd([r["cohort"]["local_majority_macro_f1"] for r in results])[0]
    row["global_majority_accuracy"] = _mean_sd([r["cohort"]["global_majority_accuracy"] for r in results])[0]
    guesses = [_all_n(r["final"]["personal"]["support"]) for r in results]
    row["all_n_accuracy"], row["all_n_macro_f1"] = (_mean_sd([g[i] for g in guesses])[0] for i in (0, 1))
    row["gradient_evaluations"] = _mean_sd(
        [r["timing"]["gradient_evaluations"] + r["timing"]["personalisation_gradient_evaluations"] for r in results]
    )[0]
    row["seconds"] = _mean_sd([r["timing"]["total_seconds"] for r in results])[0]
    row["ledger_share"] = _mean_sd([r["ledger"].get("overhead_share") for r in results])[0]
    row["gas_per_round"] = _mean_sd([r["ledger"].get("gas_per_round") for r in results])[0]
    row["leaky"] = results[0]["cohort"]["leaky"]
    return row


def _all_n(support: dict[str, int]) -> tuple[float | None, float | None]:
    """Accuracy and macro-F1 of calling every test beat N; None where N is no class."""
    total = sum(support.values())
    if "N" not in support or not total:
        return None, None
    # F1 of N is 2 hits / (support + called); of every other class that is there, 0
    return support["N"] / total, 2 * support["N"] / (support["N"] + total) / sum(n > 0 for n in support.values())


def print_table(rows: list[dict[str, Any]], console: Console) -> None:
    """Prints one table for each condition, best first, with the lines that a constant guess reaches.

    Accuracy, macro-F1 and recalls are those of the personal models on the test beats of all hospitals together.
    """
    for condition in dict.fromkeys(row["condition"] for row in rows):
        group = [row for row in rows if row["condition"] == condition]
        done = [row for row in group if row["state"] == "COMPLETE"]
        table = Table(
            title=Text(condition), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
        )
        classes = [key[-1] for key in (done[0] if done else {}) if key.startswith("personal_recall_")]
        for name in ("trial", "method"):
            table.add_column(name, justify="right" if name == "trial" else "left", no_wrap=True)
        table.add_column("tuned", overflow="fold")
        headings = [
            "accuracy",
            "macro-F1",
            *(f"recall {c}" for c in classes),
            "global acc",
            "global F1",
            "gradients",
            "s",
        ]
        for name in headings:
            table.add_column(name, justify="right")
        for row in group:
            keys = " ".join(
                f"{k.rsplit('.', 1)[-1]}={_short(v)}" for k, v in row["keys"].items() if k != "federation.algorithm"
            )
            lines = [keys] if keys else []
            lines += ["baseline"] if row["baseline"] else []
            lines += ["breaks a constraint"] if row["violated"] else []
            if row["state"] != "COMPLETE":
                table.add_row(str(row["trial"]), row["state"], Text("\n".join(lines)))
                continue
            table.add_row(
                str(row["trial"]),
                row["method"],
                Text("\n".join(lines)),
                _with_sd(row, "personal_accuracy", 100, 2),
                _with_sd(row, "personal_macro_f1", 1, 3),
                *(_number(row[f"personal_recall_{c}"], 1, 3) for c in classes),
                # local-only has no global model: what the loop carries along was never trained
                "-" if row["method"] == "local" else _number(row["global_accuracy"], 100, 2),
                "-" if row["method"] == "local" else _number(row["global_macro_f1"], 1, 3),
                f"{row['gradient_evaluations']:,.0f}",
                f"{row['seconds']:.0f}",
            )
        if done:
            first = done[0]
            for name, key in (("local majority", "local_majority"), ("all N", "all_n")):
                line = (_number(first[f"{key}_accuracy"], 100, 2), _number(first[f"{key}_macro_f1"], 1, 3))
                table.add_row("", name, "", *line, style="dim")
            table.add_row("", "global majority", "", _number(first["global_majority_accuracy"], 100, 2), style="dim")
        console.print(table)
        for row in group:
            # below the table, where there is room for it
            said = [_ending(row)] if row["state"] != "COMPLETE" else []
            said += [f"breaks {name} by {row['constraints'][name]:.3g}" for name in row["violated"]]
            for text in said:
                console.print(f"trial {row['trial']} {text}", markup=False, highlight=False, soft_wrap=True)
        if any(row["repeats"] > 1 for row in done):
            console.print("± is the standard deviation over the repeats", style="dim")
        for text in done[0]["leaky"] if done else []:
            console.print(f"leaky: {text}", style="yellow", markup=False)
        console.print()


def _ending(row: dict[str, Any]) -> str:
    """How a trial without a result ended, or where it is, in one line."""
    where = f"round {row['round']} of {row['rounds']}"
    if row["state"] == "PRUNED":
        return f"{row['reason'] or 'pruned'}, after {where}"
    if row["state"] == "FAIL":
        return f"failed after {where}" + (f": {row['error']}" if row["error"] else "")
    return f"{row['state'].lower()}, {where}"


def as_json(rows: list[dict[str, Any]]) -> str:
    """The rows as one JSON document."""
    return json.dumps(rows, indent=1)


def as_csv(rows: list[dict[str, Any]]) -> str:
    """The rows as CSV, with objectives, constraints and tuned keys as columns of their own."""
    import pandas as pd

    return pd.DataFrame(flat(rows)).to_csv(index=False)


def flat(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without anything nested: objectives, constraints and tuned keys are columns of their own."""
    nested = ("keys", "objectives", "spread", "constraints", "traceback")
    return [
        {k: _plain(v) for k, v in row.items() if k not in nested}
        | {f"objective/{name}": value for name, value in row["objectives"].items()}
        | {f"spread/{name}/{k}": value for name, part in row["spread"].items() for k, value in part.items()}
        | {f"constraint/{name}": value for name, value in row["constraints"].items()}
        | {name: _plain(value) for name, value in row["keys"].items()}
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
        for record in _history(run):
            scores = record["validation"]
            rows.append(
                where
                | {k: v for k, v in record.items() if k not in ("validation", "lost")}
                | {name: scores[name] for name in (*SCORES, "recall_min", "worst_hospital_macro_f1")}
                | {f"recall_{c}": value for c, value in scores["recall"].items()}
                | {"lost": len(record["lost"])}
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
        result = finished(run)
        scores = {m: {r["id"]: r for r in result["final"][m]["per_hospital"]} for m in ("personal", "global")}
        for hospital in result["cohort"]["hospitals"]:
            row = where | {"hospital": hospital["id"], "records": len(hospital["records"])}
            row |= {k: hospital[k] for k in ("trains", "train", "validation", "test", "local_majority_accuracy")}
            row |= {f"beats_{c}": n for c, n in hospital["classes"].items()}
            for model, each in scores.items():
                own = each.get(hospital["id"])  # without test beats there are no scores
                row |= {f"{model}_{name}": own[name] if own else None for name in SCORES}
                for c in hospital["classes"]:
                    row[f"{model}_recall_{c}"] = own["recall"][c] if own else None
            rows.append(row)
    return pd.DataFrame(rows)


def _runs(folder: Path) -> list[tuple[dict[str, Any], Path]]:
    """Condition, trial and repeat of each run of a study, with its folder."""
    study = read_study(folder)
    trials = [t for opened, _ in open_studies(study, folder) for t in opened.get_trials(deepcopy=False)]
    found = []
    for attributes in sorted((t.user_attrs for t in trials if "config" in t.user_attrs), key=lambda a: a["trial"]):
        where = {"condition": attributes["condition"], "trial": attributes["trial"]}
        for path in _repeats(trial_folder(folder, attributes["trial"])):
            found.append((where | {"repeat": int(path.name.removeprefix("seed-"))}, path))
    return found


def _mean_sd(values: list[float | None]) -> tuple[float | None, float | None]:
    present = [v for v in values if v is not None]
    if not present:
        return None, None
    return statistics.fmean(present), statistics.stdev(present) if len(present) > 1 else None


def _plain(value: Any) -> Any:
    """A cell: lists become text."""
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


def _number(value: float | None, factor: float, digits: int) -> str:
    return "-" if value is None else f"{factor * value:.{digits}f}"


def _with_sd(row: dict[str, Any], key: str, factor: float, digits: int) -> str:
    sd = row[f"{key}_sd"]
    return _number(row[key], factor, digits) + (f" ±{factor * sd:.{digits}f}" if sd is not None else "")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
