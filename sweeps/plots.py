"""The pictures of a study's report. Finished trials in, matplotlib figures out; nothing is read or written here.

A method looks the same in all of them; a page printed in grey can be read, too.
"""

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from optuna.distributions import CategoricalDistribution

from sweeps.drawing import (
    COLOURS,
    DASHES,
    GREY,
    PANELS,
    POINTS,
    ROWS,
    STYLE,
    WIDTH,
    Look,
    Looks,
    folded,
    grid,
    jitter,
    legend,
    number,
    outer,
    panel_title,
    parts,
)
from sweeps.material import Finished, Front, Skew, best_of_each
from sweeps.scores import MODELS, SHOWN
from sweeps.text import spoken


def skew_name(skew: Skew) -> str:
    """Short text of a partition."""
    partition, alpha = skew
    return partition if alpha is None else f"{partition.removesuffix('-dirichlet')}s α = {alpha:g}"


# --- Pictures ---------------------------------------------------------------------------------------------------------


@matplotlib.rc_context(STYLE)
def learning_curves(trials: Sequence[Finished], looks: Looks) -> list[Figure]:
    """Validation macro-F1 of the global model by round, a panel for each condition.

    A line is the median over all trials and repeats of a method, its band their middle half; the mark behind the last
    round is the median of the personal models.
    """
    figures = []
    for labels in parts(list(dict.fromkeys(t.condition for t in trials)), PANELS):
        figure, panels = grid(labels, height=1.75)
        for label, axes in zip(labels, panels, strict=True):
            group = [t for t in trials if t.condition == label]
            last = 0
            methods = sorted({t.method for t in group})
            for method in methods:
                own = [t for t in group if t.method == method]
                colour, _, dash = looks[method]
                curves = [curve for t in own if t.trains_global for curve in t.curves]
                length = max((len(c) for c in curves), default=0)
                last = max(last, *(len(curve) for t in own for curve in t.curves))
                table = np.full((len(curves), length), np.nan)
                for i, curve in enumerate(curves):
                    table[i, : len(curve)] = [np.nan if v is None else v for v in curve]
                if np.isfinite(table).any():
                    low, middle, high = _quartiles(table)
                    rounds = np.arange(1, length + 1)
                    axes.plot(rounds, middle, color=colour, linestyle=dash, marker="." if length == 1 else None)
                    if len(curves) > 1:
                        axes.fill_between(rounds, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.axvspan(1.03 * last, last * (1.09 + 0.05 * len(methods)), color="#f1f1f1", linewidth=0)
            middle = last * (1.06 + 0.025 * len(methods))
            axes.text(middle, 0.02, "personal", ha="center", va="bottom", fontsize=6.5, rotation=90, color=GREY)
            for place, method in enumerate(methods):
                own = [t for t in group if t.method == method]
                found = [r.validation.personal.macro_f1 for t in own for r in t.results]
                ends = [e for e in found if e is not None]
                if ends:
                    colour, marker, _ = looks[method]
                    # side by side, or equal ends would hide each other
                    axes.plot(last * (1.085 + 0.05 * place), np.median(ends), color=colour, marker=marker)
            axes.set(title=panel_title(label), ylim=(0, 1.02))
            ticks = MaxNLocator(5, integer=True).tick_values(1, last)
            axes.set_xticks([t for t in ticks if 1 <= t <= last])
        outer(figure, panels, "round", "macro-F1 (validation)")
        legend(figure, looks, {t.method for t in trials if t.condition in labels})
        figures.append(figure)
    return figures


@matplotlib.rc_context(STYLE)
def over_time(trials: Sequence[Finished]) -> list[Figure]:
    """Validation macro-F1 of the global model against virtual seconds, of those that keep them; a line for each run."""
    labels = list(dict.fromkeys(t.condition for t in trials if t.times))
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    axes = figure.subplots()
    for place, label in enumerate(labels):
        runs = [
            run
            for t in trials
            if t.condition == label and t.trains_global
            for run in zip(t.times, t.curves, strict=True)
        ]
        for position, (times, curve) in enumerate(runs):
            kept = [(time, score) for time, score in zip(times, curve, strict=False) if score is not None]
            axes.step(
                *zip(*kept, strict=True) if kept else ([], []),
                where="post",
                color=COLOURS[place % len(COLOURS)],
                linestyle=DASHES[place // len(COLOURS) % len(DASHES)],
                label=label if position == 0 else None,
                linewidth=1,
            )
    axes.set(xlabel="virtual seconds", ylabel="macro-F1 (validation)", ylim=(0, 1.02))
    axes.set_xlim(left=0)
    axes.legend(loc="lower right")
    return [figure]


@matplotlib.rc_context(STYLE)
def recall_map(trials: Sequence[Finished]) -> list[Figure]:
    """Recall of each class by the personal models on the test beats, the best trial of each condition and method."""
    classes = list(dict.fromkeys(c for t in trials for c in t.outcome.support))
    figures = []
    for rows in parts(best_of_each(trials), ROWS):
        values = np.array(
            [[number(trial.outcome.mean(f"final/personal/recall/{c}")) for c in classes] for trial in rows], dtype=float
        )
        several = len({t.condition for t in rows}) > 1
        names, before = [], None
        for trial in rows:
            first = f"{trial.condition}   " if several and trial.condition != before else ""
            names.append(folded(first + trial.method, 44))
            before = trial.condition
        lines = 1 if max(name.count("\n") for name in names) == 0 else 1.6
        figure = Figure(figsize=(WIDTH, 0.65 + 0.2 * lines * len(rows)), layout="constrained")
        axes = figure.subplots()
        axes.grid(False)
        shown = axes.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for i, j in np.ndindex(values.shape):
            if np.isfinite(values[i, j]):
                dark = values[i, j] < 0.55
                axes.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", color="w" if dark else "k")
        axes.set_yticks(range(len(rows)), names)
        support = [sorted({r.final.personal.support.get(c, 0) for t in rows for r in t.results}) for c in classes]
        counts = [f"{s[0]:,}" if s[0] == s[-1] else f"{s[0]:,}–{s[-1]:,}" for s in support]
        few = {c for trial in rows for c in trial.outcome.not_testable}
        marks = ["\nnot testable" if c in few and s[-1] else "" for c, s in zip(classes, support, strict=True)]
        axes.set_xticks(range(len(classes)), [f"{c}\n{n}{m}" for c, n, m in zip(classes, counts, marks, strict=True)])
        axes.set_xlabel(spoken("class, and its number of test beats", rows[0].outcome.unit))
        for i in range(1, len(rows)):
            if rows[i].condition != rows[i - 1].condition:
                axes.axhline(i - 0.5, color="white", linewidth=2.5)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        figure.colorbar(shown, ax=axes, label="recall", aspect=30, pad=0.01)
        figures.append(figure)
    return figures


@matplotlib.rc_context(STYLE)
def against(trials: Sequence[Finished], looks: Looks, axis: str) -> list[Figure]:
    """Accuracy and macro-F1 of the personal models on the test beats against the hospital count or the skew.

    A panel column for each value of everything else that the conditions set; the local-majority line in each panel.

    Args:
        axis: "hospitals" or "skew".
    """
    chosen = best_of_each(trials)
    panels: dict[str, list[Finished]] = {}
    for trial in chosen:
        fixed = skew_name(trial.skew) if axis == "hospitals" else f"{trial.hospitals} hospitals"
        panels.setdefault(", ".join(filter(None, (fixed, trial.others))), []).append(trial)
    figures = []
    for part in parts(list(panels), 3):
        figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
        table = figure.subplots(2, len(part), sharex="col", sharey="row", squeeze=False)
        for column, label in enumerate(part):
            group = panels[label]
            places = _places(group, axis)
            methods = list(dict.fromkeys(t.method for t in group))
            for line, score in enumerate(("accuracy", "macro_f1")):
                shown = SHOWN[score]
                axes = table[line, column]
                for i, method in enumerate(methods):
                    own = [t for t in group if t.method == method]
                    shift = 0.1 * (i - (len(methods) - 1) / 2)
                    spreads = [(_place(t, axis), t.outcome.scores[f"final/personal/{score}"]) for t in own]
                    points = [(p, shown.factor * number(s.mean), shown.factor * (s.sd or 0)) for p, s in spreads]
                    _line(axes, points, places, looks[method], shift)
                majority = f"cohort/local_majority_{score}"
                constant = {_place(t, axis): shown.factor * number(t.outcome.mean(majority)) for t in group}
                _line(axes, [(p, v, 0) for p, v in constant.items()], places, (GREY, "_", ":"), 0)
                if line == 0:
                    axes.set_title(panel_title(label))
                if column == 0:
                    axes.set_ylabel(shown.title)
                axes.set_xticks(range(len(places)), [_tick(p, axis) for p in places])
                axes.set_xlim(-0.5, len(places) - 0.5)
                axes.grid(axis="x", visible=False)
        for axes in table[1]:
            axes.set_xlabel("hospitals" if axis == "hospitals" else "skew")
        legend(figure, looks, {t.method for p in part for t in panels[p]}, majority=True)
        figures.append(figure)
    return figures


@matplotlib.rc_context(STYLE)
def pareto_fronts(points: Mapping[str, Front], objectives: Mapping[str, str], looks: Looks) -> list[Figure]:
    """Every pair of objectives: all finished trials in their methods' looks, those on the front filled and joined.

    Args:
        points: label of the Optuna study -> its front.
        objectives: name -> "maximize" or "minimize".
    """
    names = list(objectives)
    pairs = [(a, b) for a in range(len(names)) for b in range(a + 1, len(names))]
    figures = []
    for part in parts([(label, pair) for label in points for pair in pairs], PANELS):
        figure, panels = grid(part, height=2.2)
        for (label, (x, y)), axes in zip(part, panels, strict=True):
            values, front = points[label].values, points[label].marked
            chain = values[front][np.argsort(values[front][:, x])]
            joined = "-" if len(names) == 2 else ""  # between three objectives there is a surface, not a line
            axes.plot(chain[:, x], chain[:, y], color=GREY, linestyle=joined, linewidth=1)
            for point, marked, method in zip(values, front, points[label].methods, strict=True):
                colour, marker, _ = looks[method]
                face = colour if marked else "none"
                axes.scatter(point[x], point[y], s=18, marker=marker, facecolors=face, edgecolors=colour, zorder=3)
            axes.set(title=panel_title(label), xlabel=_goal(names[x], objectives), ylabel=_goal(names[y], objectives))
            axes.xaxis.label.set_fontsize(7)
            axes.yaxis.label.set_fontsize(7)
        legend(figure, looks, {method for label, _ in part for method in points[label].methods}, lines=False)
        figures.append(figure)
    return figures


def importance(study: optuna.Study, objective: str, title: str) -> Figure:
    """Optuna's picture of how much each tuned key matters for one objective."""
    axes = _optunas(lambda: optuna.visualization.matplotlib.plot_param_importances(study))
    figure = axes.figure
    count = len(axes.get_yticks())
    figure.set_size_inches(0.75 * WIDTH, 0.75 + 0.27 * count)
    axes.set_yticks(axes.get_yticks(), [t.get_text().rsplit(".", 1)[-1] for t in axes.get_yticklabels()])
    axes.set_title("", loc="left")
    axes.set(xlabel=f"importance for {objective} (shares of 1)", ylabel="")
    figure.suptitle(panel_title(title), fontsize=8, x=0.01, ha="left")
    for patch in axes.patches:
        patch.set(facecolor=COLOURS[0], height=0.6, y=patch.get_y() + (patch.get_height() - 0.6) / 2)
    for text in axes.texts:
        text.set_text(f" {text.get_text()}")
    axes.get_legend().remove()
    return _plain(figure)


def slices(study: optuna.Study, objective: str, title: str) -> list[Figure]:
    """Optuna's picture of one objective against each tuned key."""
    keys = sorted({key for trial in study.trials for key in trial.params})
    figures = []
    for part in parts(keys, 4):
        every = np.atleast_1d(
            _optunas(lambda part=part: optuna.visualization.matplotlib.plot_slice(study, params=part))
        )
        figure = every[0].figure
        figure.set_size_inches(WIDTH if len(part) > 1 else WIDTH / 2, 2.3)
        for axes in every:
            key = axes.get_xlabel()
            axes.set(xlabel=key.rsplit(".", 1)[-1], title="", ylabel="")
            if isinstance(study.trials[0].distributions[key], CategoricalDistribution):
                names = [t.get_text().strip("'") for t in axes.get_xticklabels()]
                axes.set_xticks(axes.get_xticks(), names, rotation=25, ha="right", rotation_mode="anchor")
            elif axes.get_xscale() == "log":
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
                axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
                axes.xaxis.set_minor_formatter(NullFormatter())
        every[0].set_ylabel(folded(objective, 26))
        figure.axes[-1].set_ylabel("order of the trials")
        figure.suptitle(panel_title(title), fontsize=8, x=0.01, ha="left")
        figures.append(_plain(figure))
    return figures


@matplotlib.rc_context(STYLE)
def slopes(
    chosen: Sequence[Finished], alone: Mapping[str, Finished], losers: Mapping[str, Collection[int]], looks: Looks
) -> list[Figure]:
    """Macro-F1 of each hospital's test beats: training alone, under the global model, under its own; mean over the seeds.

    A line for each hospital, dashed where it loses; its number stands at its end.

    Args:
        chosen: one trial with a global model for each condition.
        alone: condition -> its local-only trial, as far as there is one.
        losers: condition -> hospitals that lose against being alone.
    """
    figures = []
    for part in parts(list(chosen), PANELS):
        figure, panels = grid(part, height=2.6)
        for trial, axes in zip(part, panels, strict=True):
            lone = alone.get(trial.condition)
            columns = [*([("alone", lone, "personal")] if lone else []), ("global", trial, "global")]
            columns.append(("personal", trial, "personal"))
            table = [_hospital_means(source, model) for _, source, model in columns]
            ends = []
            for hospital in sorted(table[-1]):
                line = [column.get(hospital, np.nan) for column in table]
                loses = hospital in losers.get(trial.condition, ())
                look = looks[trial.method]
                axes.plot(
                    line, color=look.colour, linestyle=(0, (3, 2)) if loses else "-", linewidth=1, alpha=0.8, marker=""
                )
                for place, (_, source, model) in enumerate(columns):
                    own = looks[source.method] if model == "personal" else Look(GREY, "_", "-")
                    axes.plot(place, line[place], color=own.colour, marker=own.marker, linestyle="")
                ends.append((line[-1], f"{hospital}{' loses' * loses}"))
            for (_, text), height in zip(ends, _apart([end for end, _ in ends], 0.055), strict=True):
                axes.text(len(columns) - 0.93, height, text, va="center", fontsize=6.5)
            axes.set_xticks(range(len(columns)), [name for name, _, _ in columns])
            axes.set(xlim=(-0.25, len(columns) - 0.45), ylim=(0, 1.03), title=panel_title(trial.condition))
            axes.grid(axis="x", visible=False)
        outer(figure, panels, "", "macro-F1 of a hospital (test)", every_x=True)
        legend(
            figure, looks, {t.method for t in part} | {alone[t.condition].method for t in part if t.condition in alone}
        )
        figures.append(figure)
    return figures


def _hospital_means(trial: Finished, model: str) -> dict[int, float]:
    """Macro-F1 of each hospital, mean over the seeds in which it has one."""
    seeds = trial.outcome.own(model)
    every = {hospital for seed in seeds for hospital in seed}
    return {h: float(np.mean([seed[h] for seed in seeds if h in seed])) for h in every}


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """The heights moved as little as it takes that no two are closer than `gap`, in squares."""
    from sklearn.isotonic import isotonic_regression

    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(heights))
    placed = np.empty(len(heights))
    placed[order] = isotonic_regression(np.asarray(heights)[order] - steps) + steps
    return placed.tolist()


@matplotlib.rc_context(STYLE)
def spread(trials: Sequence[Finished], looks: Looks) -> list[Figure]:
    """Macro-F1 of each hospital under the global and under its personal model, test beats, best trial of each method."""
    chosen = [t for t in best_of_each(trials) if t.trains_global]
    figures = []
    for labels in parts(list(dict.fromkeys(t.condition for t in chosen)), PANELS):
        figure, panels = grid(labels, height=2.3)
        for label, axes in zip(labels, panels, strict=True):
            group = sorted((t for t in chosen if t.condition == label), key=lambda t: t.method)
            for place, trial in enumerate(group):
                _boxes(axes, place, trial, looks[trial.method])
            axes.set_xticks(range(len(group)), [""] * len(group))
            axes.set(ylim=(0, 1.16), xlim=(-0.6, len(group) - 0.4), title=panel_title(label))
            axes.set_yticks(np.arange(0, 1.01, 0.2))
            axes.grid(axis="x", visible=False)
        outer(figure, panels, "", "macro-F1 of a hospital (test)")
        legend(figure, looks, {t.method for t in chosen if t.condition in labels}, common=True, lines=False)
        figures.append(figure)
    return figures


def _boxes(axes: Axes, place: int, trial: Finished, look: Look) -> None:
    """Two boxes side by side, with the hospitals' points if they are few, and the share that was hurt above."""
    for model, (shift, colour, marker) in zip(
        MODELS, ((-0.19, GREY, "_"), (0.19, look.colour, look.marker)), strict=True
    ):
        values = [score for seed in trial.outcome.own(model) for score in seed.values()]
        if not values:
            continue
        few, line = len(values) <= POINTS, {"color": colour}
        axes.boxplot(
            [values], positions=[place + shift], widths=0.3, showfliers=not few, whis=(0, 100) if few else 1.5, medianprops={"color": "black"},
            boxprops=line, whiskerprops=line, capprops=line, flierprops={"markersize": 2, "markeredgecolor": colour}, manage_ticks=False,
        )  # fmt: skip
        if few:
            x = np.full(len(values), place + shift) + jitter(len(values))
            axes.scatter(x, values, s=12, color=colour, marker=marker, alpha=0.7, linewidths=1 if marker == "_" else 0)
    hurt = trial.outcome.mean("final/personal/hurt_share")
    if hurt is not None:
        axes.text(place, 1.06, f"{100 * hurt:.0f} %", ha="center", va="bottom", fontsize=7)


@matplotlib.rc_context(STYLE)
def ledger_cost(trials: Sequence[Finished], looks: Looks) -> list[Figure]:
    """Time that the ledger keeps a round waiting, its share of the run, and gas; a row for each condition."""
    columns = (
        ("critical path (ms a round)", lambda ledger: 1000 * ledger.critical_path_seconds / ledger.rounds),
        ("share of the rounds (%)", lambda ledger: 100 * ledger.overhead_share),
        ("gas (units a round)", lambda ledger: ledger.gas_per_round),
    )
    figures = []
    for labels in parts(list(dict.fromkeys(t.condition for t in trials)), ROWS):
        figure = Figure(figsize=(WIDTH, 0.9 + 0.3 * len(labels)), layout="constrained")
        for axes, (name, value) in zip(figure.subplots(1, 3, sharey=True), columns, strict=True):
            for place, label in enumerate(labels):
                values = [value(r.ledger) for t in trials if t.condition == label for r in t.results if r.ledger.rounds]
                seen = [t.method for t in trials if t.condition == label for r in t.results if r.ledger.rounds]
                for x, y, method in zip(values, place + jitter(len(values)), seen, strict=True):
                    axes.scatter(
                        x, y, s=12, color=looks[method].colour, marker=looks[method].marker, alpha=0.7, linewidths=0
                    )
                if values:
                    axes.plot(np.median(values), place, marker="|", markersize=13, color="black", mew=1.6)
            axes.set(xlabel=name, ylim=(len(labels) - 0.5, -0.5))
            axes.set_xlim(left=0)
            axes.set_xlim(right=1.08 * axes.get_xlim()[1])
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.10g}"))
        figure.axes[0].set_yticks(range(len(labels)), labels)
        legend(figure, looks, {t.method for t in trials if t.condition in labels}, lines=False)
        figures.append(figure)
    return figures


# --- Parts of pictures ------------------------------------------------------------------------------------------------


def _quartiles(table: np.ndarray) -> np.ndarray:
    """float[3, rounds]: quartiles and median of float[runs, rounds], over what is there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # rounds that no validation beats scored
        return np.nanpercentile(table, (25, 50, 75), axis=0)


def _place(trial: Finished, axis: str) -> Any:
    return trial.hospitals if axis == "hospitals" else trial.skew


def _places(trials: Sequence[Finished], axis: str) -> list[Any]:
    """Ticks in order; of skews, those without a concentration first."""
    there = {_place(t, axis) for t in trials}
    return sorted(there) if axis == "hospitals" else sorted(there, key=lambda s: (s[1] is not None, s[0], s[1] or 0.0))


def _tick(place: Any, axis: str) -> str:
    return str(place) if axis == "hospitals" else skew_name(place).replace(" α", "\nα")


def _line(
    axes: Axes,
    points: Sequence[tuple[Any, float, float]],
    places: list[Any],
    look: tuple[str, str, Any],
    shift: float,
) -> None:
    """Points with bars, joined where neighbours lie on one scale: two partitions do not."""
    colour, marker, dash = look
    points = sorted(points, key=lambda p: places.index(p[0]))
    scales: dict[Any, list[tuple[Any, float, float]]] = {}
    for point in points:
        place = point[0]
        apart = isinstance(place, tuple)
        scales.setdefault((place[0], place[1] is None) if apart else "", []).append(point)
    for group in scales.values():
        x = [places.index(p) + shift for p, _, _ in group]
        # a bar of no height would look like a spread of none
        errors = [sd if sd else np.nan for _, _, sd in group]
        axes.errorbar(
            x,
            [v for _, v, _ in group],
            errors,
            color=colour,
            marker=marker,
            linestyle=dash,
            capsize=2,
            elinewidth=1,
            markersize=4.5 if marker != "_" else 14,
        )


def _goal(name: str, objectives: Mapping[str, str]) -> str:
    return f"{folded(name, 30)} ({'higher' if objectives[name] == 'maximize' else 'lower'} is better)"


def _optunas(draw: Any) -> Any:
    """Calls one of Optuna's drawing functions, which use pyplot and change its style, without leaving traces."""
    from matplotlib import pyplot

    before = matplotlib.get_backend(auto_select=False)
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        pyplot.switch_backend("agg")  # no window, and a notebook's own pictures stay as they were
        try:
            made = draw()
            pyplot.close(np.atleast_1d(made)[0].figure)
        finally:
            if before is not None:
                pyplot.switch_backend(before)
    return made


def _plain(figure: Figure) -> Figure:
    """Optuna's pictures in the style of the others."""
    # the bar beside a single panel is laid out in a way that the constrained layout divides by zero
    figure.set_layout_engine("constrained" if len(figure.axes) != 2 else "tight")
    figure.set_facecolor("white")
    for axes in figure.axes:
        bar = axes.get_label() == "<colorbar>"
        axes.set_facecolor("white")
        axes.grid(False)
        if not bar:
            axes.grid(True, color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set(visible=not bar and side in ("left", "bottom"), color="black", linewidth=0.8)
        axes.tick_params(labelsize=7.5, colors="black")
        for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
            text.set(fontsize=8, color="black", fontweight="normal", fontfamily="DejaVu Sans")
        for text in (*axes.get_xticklabels(), *axes.get_yticklabels(), *axes.texts):
            text.set(fontsize=7.5, color="black", fontfamily="DejaVu Sans")
    return figure
