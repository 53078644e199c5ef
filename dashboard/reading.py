"""What pages show of studies and runs, as the commands read it; kept as long as nothing has changed in the folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from markupsafe import Markup

from dashboard.desk import Desk
from dashboard.places import Place
from engine.checkpoint import NAME as CHECKPOINT
from engine.config import RunConfig
from engine.errors import PulseLedgerError
from engine.ledger.format import CONFIG, RUN, STUDY
from engine.paths import load_config
from engine.result import RESULT, Result, RoundSummary
from engine.settings import parse
from sweeps.answer import Answer, Paired, answers, paired
from sweeps.folder import read_history
from sweeps.rows import Row, rows_of
from sweeps.scores import CLOCKED, SPENT, shown

T = TypeVar("T")
ROWS = 100  # of a table on a page
DRAWN, POINTS = 2_000, 400  # rounds of a line; points of a chart that say their value
STAMPED = (
    "study.yaml",
    "optuna.db",
    "optuna.db-wal",
    "trials",
    RESULT,
    CHECKPOINT,
    *(f"ledger/{file}{end}" for file in (RUN.file, STUDY.file) for end in ("", "-wal")),
)
COSTS = (
    "timing/gradient_evaluations",
    "ledger/overhead_share",
    "ledger/gas_per_round",
    *CLOCKED,
    *SPENT,
    "timing/total_seconds",
)


def stamp(folder: Path) -> tuple[Any, ...]:
    """What changes with the files that pages are made of."""
    found = []
    for name in STAMPED:
        try:
            there = (folder / name).stat()
            found.append((there.st_mtime_ns, there.st_size))
        except OSError:
            found.append((0, -1))
    return tuple(found)


def rows(desk: Desk, place: Place) -> list[Row]:
    """The trials of a study, or a run; raises Busy or PulseLedgerError."""
    return desk.work.ask(("rows", place.path), stamp(place.path), lambda: rows_of(place.path))


class Page(NamedTuple):
    """A part of a long list; numbers from 1."""

    number: int
    pages: int
    total: int
    items: Sequence[Any]

    @classmethod
    def of(cls, items: Sequence[T], number: int, size: int = ROWS) -> "Page":
        """The page of this number, or the nearest."""
        count = max(1, -(-len(items) // size))
        number = min(max(number, 1), count)
        return cls(number, count, len(items), items[(number - 1) * size : number * size])


# --- Methods against being alone --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """Conditions by methods: macro-F1 in the mean hospital, and the difference to local-only with its interval."""

    methods: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def grid(found: Sequence[Answer]) -> Grid:
    """Of the answers of a study."""
    methods = tuple(dict.fromkeys(standing.title for answer in found for standing in answer.standings))
    lines = []
    for answer in found:
        own = {standing.title: standing for standing in answer.standings}
        alone = next((s for s in answer.standings if s.outcome.method.alone), None)
        cells = []
        for title in methods:
            if (standing := own.get(title)) is None:
                cells.append("–")
                continue
            less: Paired | None = None
            if alone is not None and standing is not alone:
                less = paired(standing.outcome.own("personal"), alone.outcome.own("personal"), len(answer.standings))
            cells.append(f"{standing.mean:.3f}" + (f" ({less})" if less is not None else ""))
        lines.append((answer.condition, *cells))
    return Grid(methods, tuple(lines))


def costs(found: Sequence[Answer]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """What the best trial of each method cost: heads, and lines."""
    standings = [(answer.condition, standing) for answer in found for standing in answer.standings]
    paths = [path for path in COSTS if any(s.outcome.mean(path) is not None for _, s in standings)]
    heads = ("condition", "method", "trial", *(shown(path).title for path in paths))
    lines = [
        (condition, s.title, str(s.trial), *(shown(path).number(s.outcome.mean(path), "–") for path in paths))
        for condition, s in standings
    ]
    return heads, lines


def answered(desk: Desk, place: Place) -> list[Answer]:
    """The answers of a study."""
    found = rows(desk, place)
    return desk.work.ask(("answers", place.path), stamp(place.path), lambda: answers(found))


# --- A run ------------------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    """A round of a chart, and what is said of it where somebody points at it."""

    x: float
    y: float
    says: str


class Curve(NamedTuple):
    """A chart of lines: points as SVG takes them, some with words, and ticks of the height."""

    label: str
    axis: str
    lines: tuple[Markup, ...]
    points: tuple[Point, ...]
    ticks: tuple[tuple[float, str], ...]


def curve(label: str, series: Sequence[Sequence[float | None]]) -> Curve:
    """Shares between 0 and 1 by round; a round without a number is left out.

    >>> curve("x", [[0.0, 1.0]]).lines
    (Markup('50.0,210.0 890.0,10.0'),)
    """
    last = max((len(one) for one in series), default=1)
    step, seldom = 840 / max(last - 1, 1), -(-last * len(series) // POINTS) or 1
    lines, points = list[Markup](), list[Point]()
    for number, one in enumerate(series):
        found = [(i, 50 + step * i, 210 - 200 * value, value) for i, value in enumerate(one) if value is not None]
        lines.append(Markup(" ".join(f"{x:.1f},{y:.1f}" for _, x, y, _ in found[:: -(-last // DRAWN)])))
        seed = f"seed {number}, " if len(series) > 1 else ""
        points += [Point(x, y, f"{seed}round {i + 1}: {v:.3f}") for i, x, y, v in found if i % seldom == 0]
    ticks = tuple((210 - 200 * v, f"{v:g}") for v in (0, 0.25, 0.5, 0.75, 1))
    return Curve(label, f"round 1 to {last}", tuple(lines), tuple(points), ticks)


def histories(desk: Desk, places: Sequence[Place]) -> list[Sequence[RoundSummary]]:
    """The rounds of some runs."""
    return [
        desk.work.ask(("history", place.path), stamp(place.path), lambda path=place.path: read_history(path))  # type: ignore[misc]
        for place in places
    ]


def trains_global(place: Place) -> bool:
    """Whether a run has a global model, as far as its configuration can be read: local-only carries one along that nobody trains."""
    try:
        return parse(RunConfig, load_config(place.path / CONFIG), CONFIG).federation.method.trains_global
    except (PulseLedgerError, OSError):
        return False


def result(desk: Desk, place: Place) -> Result | None:
    """Of a run that has ended."""
    if not (place.path / RESULT).exists():
        return None
    return desk.work.ask(("result", place.path), stamp(place.path), lambda: Result.read(place.path))
