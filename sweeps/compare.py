"""The table of a study: per condition, best first, beside its trivial baselines. Reads only."""

import json
import statistics
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from engine.errors import PulseLedgerError
from engine.experiment import RESULT, finished
from sweeps.study import STUDY_FILE, open_studies, read_error, read_study, trial_folder
from sweeps.trial import repeat_folder

SCORES = ("accuracy", "macro_f1", "balanced_accuracy")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """One plain row for each trial of a study, or a single one for a run's folder.

    A row has condition, trial, state, keys (what was tuned or set), repeats, objectives, the scores of the personal and
    the global model on the test part (mean and sd over the repeats), the baselines, costs, and `error` for a failed
    trial.

    Raises:
        PulseLedgerError: the folder holds neither a study nor a finished run.
    """
    if (folder / STUDY_FILE).exists():
        return _study_rows(folder)
    if (folder / RESULT).exists():
        result = finished(folder)
        return [
            {"condition": result["name"], "trial": 0, "state": "COMPLETE", "keys": {}, "error": "", **_scores([result])}
        ]
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
            row: dict[str, Any] = {
                "condition": attributes["condition"],
                "trial": number,
                "state": trial.state.name,
                "keys": attributes["keys"],
                "baseline": "baseline" in attributes,
                "objectives": dict(zip(study.objectives, trial.values or [], strict=False)),
                "error": read_error(folder, number) if trial.state.name == "FAIL" else "",
            }
            if trial.state.name == "COMPLETE":
                home = trial_folder(folder, number)
                results = [finished(repeat_folder(home, r)) for r in range(len(attributes["config"]))]
                row |= _scores(results)
            rows.append(row)
    first, direction = next(iter(study.objectives.items()))
    sign = -1 if direction == "maximize" else 1
    order = {label: i for i, label in enumerate(dict.fromkeys(row["condition"] for row in rows))}
    rows.sort(key=lambda r: (order[r["condition"]], sign * r["objectives"].get(first, sign * float("inf")), r["trial"]))
    return rows


def _scores(results: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"repeats": len(results), "method": results[0]["config"]["federation"]["algorithm"]}
    for model in ("personal", "global"):
        for name in SCORES:
            row[f"{model}_{name}"], row[f"{model}_{name}_sd"] = _mean_sd([r["final"][model][name] for r in results])
        for c in results[0]["final"][model]["recall"]:
            row[f"{model}_recall_{c}"] = _mean_sd([r["final"][model]["recall"][c] for r in results])[0]
    row["hurt_share"] = _mean_sd([r["final"]["personal"].get("hurt_share") for r in results])[0]
    row["local_majority_accuracy"] = _mean_sd([r["cohort"]["local_majority_accuracy"] for r in results])[0]
    row["local_majority_macro_f1"] = _mean_sd([r["cohort"]["local_majority_macro_f1"] for r in results])[0]
    row["global_majority_accuracy"] = _mean_sd([r["cohort"]["global_majority_accuracy"] for r in results])[0]
    row["gradient_evaluations"] = _mean_sd(
        [r["timing"]["gradient_evaluations"] + r["timing"]["personalisation_gradient_evaluations"] for r in results]
    )[0]
    row["seconds"] = _mean_sd([r["timing"]["total_seconds"] for r in results])[0]
    row["ledger_share"] = _mean_sd([r["ledger"].get("overhead_share") for r in results])[0]
    row["gas_per_round"] = _mean_sd([r["ledger"].get("gas_per_round") for r in results])[0]
    row["leaky"] = results[0]["cohort"]["leaky"]
    return row


def print_table(rows: list[dict[str, Any]], console: Console) -> None:
    """Prints one table for each condition, best first, with the lines that a constant guess reaches.

    Accuracy, macro-F1 and recalls are those of the personal models on the test beats of all hospitals together.
    """
    for condition in dict.fromkeys(row["condition"] for row in rows):
        group = [row for row in rows if row["condition"] == condition]
        done = [row for row in group if row["state"] == "COMPLETE"]
        table = Table(title=condition, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
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
            if row["state"] != "COMPLETE":
                table.add_row(str(row["trial"]), row["state"], keys + (f"\n{row['error']}" if row["error"] else ""))
                continue
            table.add_row(
                str(row["trial"]),
                row["method"],
                keys,
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
            line = (_number(first["local_majority_accuracy"], 100, 2), _number(first["local_majority_macro_f1"], 1, 3))
            table.add_row("", "local majority", "", *line, style="dim")
            table.add_row("", "global majority", "", _number(first["global_majority_accuracy"], 100, 2), style="dim")
        console.print(table)
        for text in done[0]["leaky"] if done else []:
            console.print(f"leaky: {text}", style="yellow")
        console.print()


def as_json(rows: list[dict[str, Any]]) -> str:
    """The rows as one JSON document."""
    return json.dumps(rows, indent=1)


def as_csv(rows: list[dict[str, Any]]) -> str:
    """The rows as CSV, with the tuned keys as columns of their own."""
    import pandas as pd

    flat = [{k: v for k, v in row.items() if k not in ("keys", "objectives")} | row["keys"] for row in rows]
    return pd.DataFrame(flat).to_csv(index=False)


def _mean_sd(values: list[float | None]) -> tuple[float | None, float | None]:
    present = [v for v in values if v is not None]
    if not present:
        return None, None
    return statistics.fmean(present), statistics.stdev(present) if len(present) > 1 else None


def _number(value: float | None, factor: float, digits: int) -> str:
    return "-" if value is None else f"{factor * value:.{digits}f}"


def _with_sd(row: dict[str, Any], key: str, factor: float, digits: int) -> str:
    sd = row[f"{key}_sd"]
    return _number(row[key], factor, digits) + (f" ±{factor * sd:.{digits}f}" if sd is not None else "")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
