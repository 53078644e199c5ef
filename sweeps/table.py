"""What `compare` prints: the answer of each condition, then its table; of several studies, side by side by method.

A table shows the columns that fit, the most telling first, and never cuts a number.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.encoding import one_line
from sweeps.answer import Answer, Standing, answers, between
from sweeps.hurt import ALONE, GLOBAL, hurts
from sweeps.rows import NOTHING, Outcome, Row, flat
from sweeps.scores import ASIDE, CLOCKED, GUESSED, SPENT, shown
from sweeps.space import TUNED_ON_TEST
from sweeps.text import megabytes, settings

_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # also in full width
WIDTH = 170  # without a terminal there is no width to ask for
NARROW = 16  # a column of words is not folded below this
GAP = 2  # blanks between two columns
MISSING = "-"
# the numbers of a table by rank: which of them there is room for; recalls of the classes stand where RECALLS is
HURT = "final/personal/hurt_share"
ESSENTIAL, USEFUL = "final/personal/macro_f1", ("final/personal/mean_hospital_macro_f1", "final/personal/rare_recall")
RECALLS = "final/personal/recall"
OF_CLASSES = (RECALLS, "final/personal/precision", "final/personal/f1")
WITH_SD = (ESSENTIAL, "final/personal/accuracy")
ORDER = (
    ESSENTIAL,
    *USEFUL,
    "final/personal/accuracy",
    *OF_CLASSES,
    "final/global/macro_f1",
    "final/personal/hurt_share",
    "final/personal/worst_hospital_macro_f1",
    "final/personal/worst_tenth_macro_f1",
    "final/personal/jain_index",
    "final/personal/variance_hospital_macro_f1",
    "calibration/personal/ece",
    "fairness/personal/sex/worst",
    "fairness/personal/age/worst",
    "timing/gradient_evaluations",
    *CLOCKED,
    *GUESSED,
    "ledger/overhead_share",
    *ASIDE,
    "ledger/gas_per_round",
    "timing/total_seconds",
)
RANKS = (*USEFUL, "timing/gradient_evaluations", "final/personal/accuracy", "final/global/macro_f1", RECALLS)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        cells: one for each row.
        rank: columns of a lower one are shown first; those of rank 0 always.
        words: text that may be folded at blanks; a number never is.
    """

    heading: str
    cells: tuple[str, ...]
    rank: int = 0
    words: bool = False

    @property
    def least(self) -> int:
        """Characters that it cannot do without."""
        lines = (*self.heading.split(), *(cell for cell in self.cells if not self.words))
        folded = (word for cell in self.cells if self.words for word in cell.split())
        widest = max(map(len, (*lines, *folded)), default=1)
        return max(widest, min(NARROW, self.most)) if self.words else widest

    @property
    def most(self) -> int:
        """Characters that it can use."""
        return max((len(line) for cell in (self.heading, *self.cells) for line in cell.split("\n")), default=1)


class Printer(Console):
    """A console that leaves it to whoever called it that nobody reads any more; rich's own would exit with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def table_console() -> Console:
    """Where tables are printed: as wide as the terminal, or as COLUMNS says, else wide enough for most of them."""
    return Printer(width=None if sys.stdout.isatty() or os.environ.get("COLUMNS") else WIDTH)


def print_table(rows: Sequence[Row], console: Console, wide: bool = False) -> None:
    """Prints the answers, and one table for each condition, best first, with the lines that a constant guess reaches.

    Scores are those of the personal models on test beats, of all hospitals together, unless a heading says otherwise.
    """
    _warn(rows, console)
    print_answers(answers(rows), console)
    left_out = False
    for condition in dict.fromkeys(row.condition for row in rows):
        group = [row for row in rows if row.condition == condition]
        outcomes = [row.outcome for row in group if row.outcome is not None]
        left_out |= _print_columns(condition, columns_of(group, outcomes), console, wide)
        for row in group:
            # below the table, where there is room for it
            said = [ending(row)] if row.outcome is None else []
            said += [f"breaks {name} by {row.constraints[name]:.3g}" for name in row.violated]
            for text in said:
                _say(console, f"trial {row.trial} {text}")
        for path in list(dict.fromkeys(name for row in group for name in row.objectives))[:1]:
            _say(console, f"best first by {shown(path).title}", "dim")
        for outcome in outcomes[:1]:
            _say(console, f"macro-F1 is the mean over the classes {', '.join(outcome.scored)}", "dim")
        for text in [outcome.untestable for outcome in outcomes[:1] if outcome.untestable]:
            _say(console, f"in brackets: {text}", "dim")
        if any(outcome.repeats > 1 for outcome in outcomes):
            _say(console, "± is the standard deviation over the repeats", "dim")
        for text in outcomes[0].leaky if outcomes else ():
            _say(console, f"leaky: {text}", "yellow")
        for text in dict.fromkeys(outcome.attack for outcome in outcomes if outcome.attack):
            _say(console, f"simulated attack: {text}", "yellow")
        for text in dict.fromkeys(outcome.privacy for outcome in outcomes if outcome.privacy):
            _say(console, f"privacy: {text}", "yellow")
        for text in dict.fromkeys(outcome.hidden for outcome in outcomes if outcome.hidden):
            _say(console, f"secure aggregation: {text}")
        for text in dict.fromkeys(outcome.led for outcome in outcomes if outcome.led):
            _say(console, f"led by successors: {text}")
        for row in group:
            if row.outcome is not None and row.outcome.judged:
                _say(console, f"trial {row.trial} {row.outcome.judged}")
        console.print()
    if left_out:
        _say(console, "more columns: --wide, all of them: --csv or --json", "dim")


def print_studies(studies: Mapping[str, Sequence[Row]], console: Console) -> None:
    """Prints what several studies say of the same conditions: of each method its best trial in each study."""
    names = _names(studies)
    _warn([row for rows in studies.values() for row in rows], console)
    found = {name: answers(rows) for name, rows in zip(names, studies.values(), strict=True)}
    for name, each in found.items():
        _say(console, name, "bold")
        print_answers(each, console)
    said = between(dict(zip(names, studies.values(), strict=True)))
    for line in said:
        console.print(Text(one_line(line)))
    if not said:
        console.print(Text("No method was run in the same condition of two of these studies."))
    console.print()
    for condition in dict.fromkeys(a.condition for each in found.values() for a in each):
        lines = [
            (name, standing)
            for name, each in found.items()
            for answer in each
            if answer.condition == condition
            for standing in answer.standings
        ]
        order = {title: place for place, title in enumerate(dict.fromkeys(s.title for _, s in lines))}
        lines.sort(key=lambda line: order[line[1].title])
        if lines:
            _print_columns(condition, _side_by_side(lines), console, wide=False)
    _say(console, "of each method its best trial on validation; all trials: pulseledger compare DIR", "dim")


def _side_by_side(lines: Sequence[tuple[str, Standing]]) -> list[Column]:
    columns = [
        Column("method", tuple(standing.title for _, standing in lines), words=True),
        Column("study", tuple(one_line(name) for name, _ in lines), words=True),
        Column("trial", tuple(str(standing.trial) for _, standing in lines)),
    ]
    for path in ORDER:
        if path not in OF_CLASSES and (path not in CLOCKED or any(s.outcome.mean(path) is not None for _, s in lines)):
            rank = 0 if path == ESSENTIAL else 1 + RANKS.index(path) if path in RANKS else len(RANKS) + 1
            columns.append(Column(shown(path).title, tuple(_cell(s.outcome, path) for _, s in lines), rank))
    return columns


def _names(studies: Iterable[str]) -> list[str]:
    """Short names of folders: their last parts, where these differ."""
    short = [Path(folder).resolve().name for folder in studies]
    return short if len(set(short)) == len(short) else [str(folder) for folder in studies]


def _warn(rows: Iterable[Row], console: Console) -> None:
    if any(row.tuned_on_test for row in rows):
        _say(console, f"warning: {TUNED_ON_TEST}", "bold red")


def print_answers(found: Sequence[Answer], console: Console) -> None:
    """The answers, each a paragraph."""
    for answer in found:
        text = Text(one_line(answer.text))
        text.stylize("bold", 0, len(answer.condition))
        console.print(text)
        console.print()
    for answer in [answer for answer in found if answer.standings][:1]:
        console.print(Text(answer.how, "dim"))
        console.print()


def as_json(studies: Mapping[str, Sequence[Row]]) -> str:
    """The answers and rows of studies, by their folders, as one JSON document."""
    document = {
        name: {"answers": [a.document() for a in answers(rows)], "rows": [row.document() for row in rows]}
        for name, rows in studies.items()
    }
    return json.dumps(document, indent=1)


def as_csv(studies: Mapping[str, Sequence[Row]]) -> str:
    """The rows as CSV, with scores, objectives, constraints and tuned keys as columns of their own."""
    import pandas as pd

    table = pd.DataFrame([{"study": name} | row for name, rows in studies.items() for row in flat(rows)])
    return table.rename(columns=_no_formula).map(_no_formula).to_csv(index=False)


def _no_formula(value: Any) -> Any:
    """A cell that a spreadsheet does not take for a formula; numbers stay as they are (OWASP, "CSV injection").

    >>> [_no_formula(value) for value in ("=1+1", "fedavg", -0.5)]
    ["'=1+1", 'fedavg', -0.5]
    """
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ")[:1] in _FORMULA else value


# --- Columns ----------------------------------------------------------------------------------------------------------


def columns_of(group: Sequence[Row], outcomes: Sequence[Outcome]) -> list[Column]:
    """The columns of one condition, below the trials' cells those of the lines that need no model."""
    lines = _lines(outcomes[0]) if outcomes else []
    blank = ("",) * len(lines)
    objectives = list(dict.fromkeys(name for row in group for name in row.objectives))

    def column(heading: str, cells: Sequence[str], rank: int = 0, words: bool = False) -> Column:
        return Column(heading, (*map(one_line, cells), *blank), rank, words)

    columns = [
        column("trial", [str(row.trial) for row in group]),
        column("Optuna", [MISSING if row.optuna is None else str(row.optuna) for row in group], 14),
        Column("method", (*map(_method, group), *(name for name, _ in lines)), 0, True),
        column("settings", [_settings(row) for row in group], 6, True),
    ]
    for place, path in enumerate(objectives):
        cells = [shown(path).number(_objective(row, path), MISSING) for row in group]
        columns.append(column(shown(path).title, cells, 9 * (place > 0)))
    for path in (*SPENT, *ORDER):
        classes = [""] if path not in OF_CLASSES else outcomes[0].support if outcomes else []
        for name in (f"{path}/{c}" if c else path for c in classes):
            if name in objectives or (
                name in (*CLOCKED, *SPENT, *GUESSED)
                and all(row.outcome is None or row.outcome.mean(name) is None for row in group)
            ):
                continue
            cells = [_cell(row.outcome, name) for row in group]
            ends = [shown(name).number(scores.get(name), "") for _, scores in lines]
            rank = 0 if path in (ESSENTIAL, SPENT[0]) else 1 + RANKS.index(path) * 2 if path in RANKS else 12
            columns.append(Column(shown(name).title, (*cells, *ends), rank))
    sent = [
        MISSING if row.outcome is None or row.outcome.exchanged is None else megabytes(row.outcome.exchanged)
        for row in group
    ]
    harmed = [{} if row.outcome is None else hurts(row.outcome, group) for row in group]
    columns += [
        column(name, [shown(HURT).number(each.get(name), MISSING) for each in harmed], 12) for name in (GLOBAL, ALONE)
    ]
    return [*columns, column("models sent", sent, 13)]


def _lines(outcome: Outcome) -> list[tuple[str, dict[str, float | None]]]:
    """Name and scores of what needs no model."""
    majority = [score for seed in outcome.own("majority") for score in seed.values()]
    return [
        (
            "local majority",
            {
                ESSENTIAL: outcome.mean("cohort/local_majority_macro_f1"),
                USEFUL[0]: sum(majority) / len(majority) if majority else None,
                "final/personal/accuracy": outcome.mean("cohort/local_majority_accuracy"),
            },
        ),
        (f"all {outcome.usual}", {ESSENTIAL: outcome.all_usual[1], "final/personal/accuracy": outcome.all_usual[0]}),
        ("global majority", {"final/personal/accuracy": outcome.mean("cohort/global_majority_accuracy")}),
    ]


def _cell(outcome: Outcome | None, path: str) -> str:
    if outcome is None:
        return MISSING
    spread = outcome.scores.get(path, NOTHING)
    text = outcome.text(path, MISSING)
    return text if spread.sd is None or path not in WITH_SD else f"{text} ±{shown(path).number(spread.sd)}"


def _objective(row: Row, path: str) -> float | None:
    """As Optuna was told it; of a global model that was never trained there is none."""
    untrained = row.outcome is not None and not row.outcome.method.trains_global and "/global/" in path
    return None if untrained else row.objectives.get(path)


def _method(row: Row) -> str:
    return row.method if row.outcome is not None else " ".join((row.method, row.state))


def _settings(row: Row) -> str:
    """What of a trial its method's name does not say."""
    named = ("federation.algorithm", "federation.perfedavg.variant", "personalisation.method", "balance.method")
    words = [settings(row.keys, without=named if row.outcome is not None else ())]
    words += ["baseline"] * row.baseline + ["breaks a constraint"] * bool(row.violated)
    return " ".join(filter(None, words))


def _print_columns(title: str, columns: Sequence[Column], console: Console, wide: bool) -> bool:
    """Prints the columns that fit, all if it is to be wide; whether some were left out."""
    chosen = list(columns) if wide else fitting(columns, console.width)
    table = Table(
        title=Text(one_line(title)),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    table.padding = (0, GAP - 1, 0, 0)
    spare = max(0, console.width - width_of(chosen))
    for column in chosen:
        width = column.least
        if column.words:
            width = column.most if wide else min(column.most, width + spare)
            spare -= width - column.least
        table.add_column(
            Text(column.heading),
            justify="left" if column.words else "right",
            width=width,
            no_wrap=False,
            overflow="fold",
        )
    count = len(columns[0].cells)
    for line in range(count):
        table.add_row(
            *(Text(column.cells[line]) for column in chosen), style="dim" if columns[0].cells[line] == "" else ""
        )
    total = sum(column.width or 0 for column in table.columns) + GAP * (len(chosen) - 1)
    if total > console.width:
        # the terminal wraps the lines, but no number is cut
        before, console.width = console.width, total
        console.print(table)
        console.width = before
    else:
        console.print(table)
    return len(chosen) < len(columns)


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """As many columns as fit, those of the lowest ranks, in their order; those of one rank together."""
    chosen = [column for column in columns if column.rank == 0]
    for rank in sorted({column.rank for column in columns} - {0}):
        more = [column for column in columns if column in chosen or column.rank == rank]
        if width_of(more) > width:
            break
        chosen = more
    return chosen


def width_of(columns: Sequence[Column]) -> int:
    """Characters that columns need at least."""
    return sum(column.least for column in columns) + GAP * (len(columns) - 1)


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(one_line(text), style), soft_wrap=True)


def ending(row: Row) -> str:
    """How a trial without a result ended, or where it is, in one line."""
    where = f"round {row.round} of {row.rounds}"
    if row.state == "PRUNED":
        return f"{row.reason or 'pruned'}, after {where}"
    if row.state == "FAIL":
        return f"failed after {where}" + (f": {row.error}" if row.error else "")
    return f"{row.state.lower()}, {where}"
