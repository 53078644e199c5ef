"""What all pictures of a report have in common: their style, a look for each method, and panels."""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

WIDTH = 7.1  # inches: the text of an A4 page with margins of 15 mm
PANELS = 12  # at most in one picture; more are continued in the next
ROWS = 30  # of a heat map or a row of strips in one picture
POINTS = 60  # a strip with more is drawn as its box alone
ONLY = "all"  # label of the only condition of a study without a grid
GREY = "#6b6b6b"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "figure.facecolor": "white",
}


class Look(NamedTuple):
    """How a method is drawn, everywhere in a report."""

    colour: str
    marker: str
    dash: Any


Looks = Mapping[str, Look]
# of Okabe and Ito (2008), which colour-blind readers tell apart; marker and dash repeat what a colour says
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">", "h")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (3, 1)),
    (0, (8, 2)),
    (0, (1, 2)),
)


def looks_of(methods: Iterable[str]) -> dict[str, Look]:
    """A look for each method; two of them are never the same, though colours come again after the seventh."""
    return {
        method: Look(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])
        for i, method in enumerate(sorted(set(methods)))
    }


def parts(items: list[Any], size: int) -> list[list[Any]]:
    """Even parts of at most `size`."""
    count = -(-len(items) // size)
    ends = [round(i * len(items) / count) for i in range(count + 1)] if items else []
    return [items[a:b] for a, b in itertools.pairwise(ends)]


def grid(items: Sequence[Any], height: float) -> tuple[Figure, list[Axes]]:
    """A figure with one panel for each item, at most three in a row."""
    columns = min(3, len(items)) if len(items) != 4 else 2
    rows = -(-len(items) // columns)
    # a single panel over the whole width would be a poster
    width = WIDTH if columns > 1 else 0.62 * WIDTH
    figure = Figure(figsize=(width, 0.5 + height * rows * (1.25 if columns < 3 else 1)), layout="constrained")
    table = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in table[len(items) :]:
        axes.set_visible(False)
    return figure, table[: len(items)]


def outer(figure: Figure, panels: Sequence[Axes], x: str, y: str, every_x: bool = False) -> None:
    """Labels the first column and the last panel of each column, whose neighbours have the same axes."""
    columns = panels[0].get_subplotspec().get_gridspec().ncols  # type: ignore[union-attr]
    for i, axes in enumerate(panels):
        if i % columns == 0:
            axes.set_ylabel(y)
        else:
            axes.set_yticklabels([])
        if every_x or i + columns >= len(panels):
            axes.set_xlabel(x)


def legend(
    figure: Figure,
    looks: Looks,
    shown: Collection[str],
    majority: bool = False,
    common: bool = False,
    lines: bool = True,
) -> None:
    """Below the panels: the methods that are shown, and what is grey.

    Args:
        majority: there is a line of each hospital's commonest class.
        common: there are marks of the global models.
        lines: methods are drawn as lines, too.
    """
    handles = [
        Line2D(
            [],
            [],
            color=colour,
            marker=marker,
            linestyle=dash if lines else "",
            markersize=4.5,
            label=folded(method, 40),
        )
        for method, (colour, marker, dash) in looks.items()
        if method in shown
    ]
    if majority:
        handles.append(Line2D([], [], color=GREY, marker="_", linestyle=":", label="local majority"))
    if common:
        handles.append(Line2D([], [], color=GREY, marker="_", linestyle="", label="its global model"))
    widest = max((len(line) for handle in handles for line in str(handle.get_label()).splitlines()), default=1)
    columns = min(len(handles), 3, max(1, 105 // (widest + 6)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def panel_title(label: str) -> str:
    """Of a panel: its condition, unless it is the only one."""
    return "" if label == ONLY else folded(label)


def folded(text: str, width: int = 34) -> str:
    """Breaks a long label, at commas if they do, else at slashes and blanks, too."""
    if len(text) <= width:
        return text
    pieces = text.replace(", ", ",\0 ").split("\0")
    if len(pieces) == 1:
        pieces = text.replace("/", "/\0").replace(" ", "\0 ").split("\0")
    lines = [""]
    for piece in pieces:
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece if lines[-1] else piece.lstrip()
    return "\n".join(lines)


def jitter(count: int) -> np.ndarray:
    """Small shifts that are the same at every drawing."""
    return 0.1 * np.sin(2.4 * np.arange(count))


def number(value: float | None) -> float:
    """A score for arrays."""
    return np.nan if value is None else value
