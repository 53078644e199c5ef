"""The table of a study on a terminal: per condition, best first, beside its trivial baselines."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.encoding import one_line
from sweeps.rows import ModelScores, Outcome, Row, flat
from sweeps.scores import RECALL, SHOWN
from sweeps.space import TUNED_ON_TEST
from sweeps.text import settings

PRINTED = ("accuracy", "macro_f1")
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # also in full width
WIDTH = 170  # without a terminal there is no width to ask for, and a table folded at 80 columns cannot be read


def table_console() -> Console:
    """Where tables are printed."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def print_table(rows: Sequence[Row], console: Console) -> None:
    """Prints one table for each condition, best first, with the lines that a constant guess reaches.

    Accuracy, macro-F1 and recalls are those of the personal models on the test beats of all hospitals together.
    """
    if any(row.tuned_on_test for row in rows):
        console.print(f"warning: {TUNED_ON_TEST}", style="bold red", markup=False, soft_wrap=True)
    for condition in dict.fromkeys(row.condition for row in rows):
        group = [row for row in rows if row.condition == condition]
        outcomes = [row.outcome for row in group if row.outcome is not None]
        console.print(_table(condition, group, outcomes[:1]))
        for row in group:
            # below the table, where there is room for it
            said = [_ending(row)] if row.outcome is None else []
            said += [f"breaks {name} by {row.constraints[name]:.3g}" for name in row.violated]
            for text in said:
                console.print(one_line(f"trial {row.trial} {text}"), markup=False, highlight=False, soft_wrap=True)
        if any(outcome.repeats > 1 for outcome in outcomes):
            console.print("± is the standard deviation over the repeats", style="dim")
        for outcome in outcomes[:1]:
            if outcome.ledger_share is not None:
                console.print(f"ledger of the best: {_cost(outcome)}", style="dim", highlight=False)
        for text in outcomes[0].leaky if outcomes else ():
            console.print(one_line(f"leaky: {text}"), style="yellow", markup=False)
        console.print()


def as_json(rows: Sequence[Row]) -> str:
    """The rows as one JSON document."""
    return json.dumps([row.document() for row in rows], indent=1)


def as_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV, with objectives, constraints and tuned keys as columns of their own."""
    import pandas as pd

    table = pd.DataFrame(flat(rows))
    return table.rename(columns=_no_formula).map(_no_formula).to_csv(index=False)


def _no_formula(value: Any) -> Any:
    """A cell that a spreadsheet does not take for a formula; numbers stay as they are (OWASP, "CSV injection").

    >>> [_no_formula(value) for value in ("=1+1", "fedavg", -0.5)]
    ["'=1+1", 'fedavg', -0.5]
    """
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ")[:1] in _FORMULA else value


def _table(condition: str, group: Sequence[Row], best: Sequence[Outcome]) -> Table:
    """The table of one condition; `best` is its best outcome, if there is one."""
    table = Table(
        title=Text(one_line(condition)), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    classes = [c for outcome in best for c in outcome.personal.recall]
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("method", no_wrap=True)
    table.add_column("tuned", overflow="fold")
    titles = [SHOWN[name].title for name in PRINTED]
    recalls = [f"{RECALL.title} {c}" for c in classes]
    for title in (*titles, *recalls, "global acc", "global F1", "gradients", "s"):
        table.add_column(title, justify="right")
    for row in group:
        table.add_row(*_cells(row, classes))
    for outcome in best:
        for name, line in (("local majority", outcome.local_majority), (f"all {outcome.usual}", outcome.all_usual)):
            scores = (SHOWN[score].number(value) for score, value in zip(PRINTED, line, strict=True))
            table.add_row("", name, "", *scores, style="dim")
        table.add_row("", "global majority", "", SHOWN["accuracy"].number(outcome.global_majority), style="dim")
    return table


def _cells(row: Row, classes: Sequence[str]) -> list[str | Text]:
    lines = [
        settings(row.keys, without=["federation.algorithm"]),
        "baseline" if row.baseline else "",
        "breaks a constraint" if row.violated else "",
    ]
    tuned, outcome = Text("\n".join(one_line(line) for line in lines if line)), row.outcome
    if outcome is None:
        return [str(row.trial), row.state, tuned]
    trained = outcome.method.trains_global
    return [
        str(row.trial),
        outcome.method.title,
        tuned,
        *(_with_sd(outcome.personal, name) for name in PRINTED),
        *(RECALL.number(outcome.personal.recall[c]) for c in classes),
        *(SHOWN[name].number(outcome.global_.scores[name].mean if trained else None) for name in PRINTED),
        f"{outcome.gradients:,.0f}",
        f"{outcome.seconds:.0f}",
    ]


def _cost(outcome: Outcome) -> str:
    """What the ledger took, in words; what was never closed has no seconds of it."""
    share, before, after = (value or 0.0 for value in (outcome.ledger_share, outcome.ledger_open, outcome.ledger_close))
    return f"{100 * share:.2f} % of the rounds' time, {before:.2f} s to open, {after:.2f} s to close"


def _with_sd(scores: ModelScores, name: str) -> str:
    shown, spread = SHOWN[name], scores.scores[name]
    return shown.number(spread.mean) + ("" if spread.sd is None else f" ±{shown.number(spread.sd)}")


def _ending(row: Row) -> str:
    """How a trial without a result ended, or where it is, in one line."""
    where = f"round {row.round} of {row.rounds}"
    if row.state == "PRUNED":
        return f"{row.reason or 'pruned'}, after {where}"
    if row.state == "FAIL":
        return f"failed after {where}" + (f": {row.error}" if row.error else "")
    return f"{row.state.lower()}, {where}"
