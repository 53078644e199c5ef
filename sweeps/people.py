"""What came out for whom: groups of patients, patients, and what is gained where a model may say that it does not know."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import sweeps.statistics as statistics
from engine.people.report import Gaps
from engine.result import Result
from sweeps.drawing import ONLY, STYLE, WIDTH, Looks, legend
from sweeps.material import Finished, best_of_each
from sweeps.page import Cell, Part, Section, Table, Words, cell, cells, pictures
from sweeps.scores import shown
from sweeps.statistics import Interval

RESAMPLES, LEVEL = 1000, 0.95
MOST_PATIENTS = 30  # that a table lists, those with most errors
NONE = "–"
LEVELS = ["condition", "method", "group", "patients", "score", "% and interval"]
ATTRIBUTES = {"sex": ("female", "male"), "age": ("<65", ">=65")}


class Gap(NamedTuple):
    """The first group less the second one, with intervals over patients; None where a group has no such beats."""

    recall: Interval | None
    false_alarms: Interval | None
    called: Interval | None


def gap_of(first: np.ndarray, second: np.ndarray, i: int, resamples: int = RESAMPLES, seed: int = 0) -> Gap:
    """Of class i under confusion matrices int[seeds, patients, C, C] of two groups of patients.

    Patients are drawn whole with replacement within their group, the same in all seeds; a rate is of all beats of a group together,
    mean over seeds. A resample in which a rate is not defined is left out.
    """
    draw = np.random.default_rng(np.random.SeedSequence([seed, i, first.shape[1], second.shape[1]]))
    rates = []
    for tables in (first, second):
        patients = tables.shape[1]
        drawn = draw.multinomial(patients, np.full(patients, 1 / patients), resamples)
        weights = np.concatenate([np.ones((1, patients)), drawn])
        whole = np.einsum("bp,spij->bsij", weights, tables.astype(float))
        true, hits, called, beats = (
            whole[..., i, :].sum(-1),
            whole[..., i, i],
            whole[..., i].sum(-1),
            whole.sum((-2, -1)),
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            rates.append([hits / true, (called - hits) / (beats - true), called / beats])
    return Gap(*(_interval((a - b).mean(1)) for a, b in zip(*rates, strict=True)))


def _interval(found: np.ndarray) -> Interval | None:
    value, resampled = float(found[0]), found[1:][np.isfinite(found[1:])]
    if not np.isfinite(value) or not len(resampled):
        return None
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Interval(value, low, high)


def sections(trials: Sequence[Finished], looks: Looks) -> list[Section]:
    """Groups of patients, calibration and patients, of the best trial of each method in each condition."""
    chosen = best_of_each(trials)
    if not chosen:
        missing = "no trial has finished"
        return [
            Section(title, missing=missing)
            for title in ("Groups of patients", "Calibration and abstention", "Patients")
        ]
    return [_groups(chosen, looks), _calibration(chosen, looks), _patients(chosen)]


def _where(trial: Finished) -> str:
    return "" if trial.condition == ONLY else trial.condition


def _groups(chosen: Sequence[Finished], looks: Looks) -> Section:
    title = "Groups of patients"
    counts = chosen[0].results[0].fairness.personal
    told = [
        f"{name}: " + ", ".join(f"{one.group} {one.patients} patients, {one.beats:,} beats" for one in found.groups)
        for name, found in (("sex", counts.sex), ("age", counts.age))
        if found.groups
    ]
    lines = [line for trial in chosen for line in _lines_of(trial, looks)]
    if not lines:
        return Section(title, missing="no two known groups of patients were tested")
    text = (
        "Of the personal models on test beats, each class against all others: recall of the first group less that of the second "
        "(equal opportunity), false alarms likewise (with recall: equalised odds), and the share of beats that are called the "
        "class (demographic parity), in points, with 95 % intervals over patients drawn whole, mean over seeds. In brackets: not "
        f"testable, a group has fewer than {chosen[0].outcome.min_support} beats of the class or of the others. Patients tested: {'; '.join(told)}."
    )
    heads = ["condition", "method", "groups", "class", "beats", "recall", "false alarms", "called so"]
    levels = [line for trial in chosen for line in _levels_of(trial, looks)]
    told_levels = (
        "The same groups by themselves, in percent: of all test beats of a group together, mean over seeds, with 95 % intervals over its patients drawn whole. "
        "One patient has no interval. In brackets: the group has too few beats of a class."
    )
    parts = (Words(text, "lead"), Table(heads, lines, words=(0, 1, 2, 3)), Words(told_levels, "lead"))
    return Section(title, (*parts, Table(LEVELS, levels, words=(0, 1, 2, 4))))


def group_tables(results: Sequence[Result], attribute: str, group: str) -> np.ndarray:
    """Confusion matrices int[seeds, patients, C, C] of the personal models, of the patients of a group."""
    each = [{one.patient: one.personal for one in r.patients if getattr(one, attribute) == group} for r in results]
    size = len(results[0].final.personal.support)
    names, nothing = sorted({name for seed in each for name in seed}), np.zeros((size, size), int)
    return np.array([[seed.get(name, nothing) for name in names] for seed in each], int).reshape(
        len(each), len(names), size, size
    )


def _lines_of(trial: Finished, looks: Looks) -> list[list[Cell]]:
    scored, lines = trial.outcome.scored, []
    for attribute, names in ATTRIBUTES.items():
        parts = [group_tables(trial.results, attribute, name) for name in names]
        if any(not part.any() for part in parts):
            continue
        found: Gaps = getattr(trial.results[0].fairness.personal, attribute)
        for i, name in enumerate(trial.outcome.support):
            if name not in scored:
                continue
            beats = " / ".join(f"{int(part[0, :, i].sum()):,}" for part in parts)
            gaps = [_text(gap, name in found.testable) for gap in gap_of(parts[0], parts[1], i)]
            head = [cell(_where(trial)), cell(trial.method, colour=looks[trial.method].colour)]
            lines.append([*head, *cells([f"{names[0]} less {names[1]}", name, beats, *gaps])])
    return lines


def levels(tables: np.ndarray, scored: Sequence[tuple[int, str]], least: int) -> list[tuple[str, str]]:
    """Accuracy, macro-F1 and the recalls of one group by itself, each as it is shown.

    Args:
        tables: int[seeds, patients, C, C].
        scored: places and names of the classes that count.
        least: with fewer beats a class stands in brackets.
    """
    beats, places = tables[0].sum((0, 2)), [i for i, _ in scored]
    rows = [("accuracy", statistics.accuracy, [*range(tables.shape[-1])]), ("macro-F1", statistics.macro_f1, places)]
    rows += [(f"recall of {name}", statistics.accuracy, [i]) for i, name in scored]
    told = []
    for title, score, classes in rows:
        if not beats[classes].any():
            told.append((title, NONE))
            continue
        value, low, high = (100 * one for one in statistics.by_patients(tables, None, score, classes, LEVEL, RESAMPLES))
        between = f" [{low:.1f}, {high:.1f}]" if tables.shape[1] > 1 else ""
        few = title != "accuracy" and (beats[classes] < least).any()
        told.append((title, f"({value:.1f}{between})" if few else f"{value:.1f}{between}"))
    return told


def _levels_of(trial: Finished, looks: Looks) -> list[list[Cell]]:
    scored = [(i, name) for i, name in enumerate(trial.outcome.support) if name in trial.outcome.scored]
    lines = []
    for attribute, groups in ATTRIBUTES.items():
        for group in groups:
            tables = group_tables(trial.results, attribute, group)
            for told in levels(tables, scored, trial.outcome.min_support) if tables.any() else ():
                head = [cell(_where(trial)), cell(trial.method, colour=looks[trial.method].colour)]
                lines.append([*head, *cells([group, f"{tables.shape[1]:,}", *told])])
    return lines


def _text(gap: Interval | None, testable: bool) -> str:
    if gap is None:
        return NONE
    value, low, high = (f"{100 * number:+.1f}" for number in gap)
    text = f"{value} [{low}, {high}]"
    return text if testable else f"({text})"


def _calibration(chosen: Sequence[Finished], looks: Looks) -> Section:
    ece = "calibration/personal/ece"
    points = [one.threshold for one in chosen[0].results[0].calibration.personal.abstention]
    asked = [p for p in points if p in (9000, 9500, 9900)]
    heads = ["condition", "method", shown(ece).title]
    heads += [f"{what} from {p / 100:g} %" for p in asked for what in ("answered %", "accuracy %")]
    lines = []
    for trial in chosen:
        curves = [{one.threshold: one for one in result.calibration.personal.abstention} for result in trial.results]
        numbers = []
        for p in asked:
            there = [curve[p] for curve in curves if p in curve]
            numbers.append(_percent([one.share for one in there]))
            numbers.append(_percent([one.accuracy for one in there if one.accuracy is not None]))
        head = [cell(_where(trial)), cell(trial.method, colour=looks[trial.method].colour)]
        lines.append([*head, *cells([shown(ece).number(trial.outcome.mean(ece), NONE), *numbers])])
    text = (
        "How sure a personal model says it is (its softmax) against how often it is right, on test beats: the expected calibration "
        "error over 15 bins (Guo et al. 2017); and what it answers, and how much of that is right, where it leaves to a human what it "
        "is less sure of, mean over seeds."
    )
    caption = (
        "Errors among the answered test beats against the share that is left to a human, by the thresholds 0, 50, 60, 70, 80, 90, 95 and "
        "99 % of confidence; the best trial of each method, first seed."
    )
    drawn = pictures("abstention", [_curves(chosen, looks)], caption)
    return Section("Calibration and abstention", (Words(text, "lead"), Table(heads, lines, words=(0, 1)), *drawn))


def _percent(values: Sequence[float]) -> str:
    return f"{100 * sum(values) / len(values):.2f}" if values else NONE


@matplotlib.rc_context(STYLE)
def _curves(chosen: Sequence[Finished], looks: Looks) -> Figure:
    figure = Figure(figsize=(0.62 * WIDTH, 2.6), layout="constrained")
    axes = figure.subplots()
    for trial in chosen:
        found = trial.results[0].calibration.personal.abstention
        curve = [(1 - one.share, 1 - one.accuracy) for one in found if one.accuracy is not None]
        if curve:
            look = looks[trial.method]
            axes.plot(*(100 * np.array(curve)).T, color=look.colour, marker=look.marker, linestyle=look.dash)
    axes.set_xlabel("left to a human, %")
    axes.set_ylabel("errors among the rest, %")
    legend(figure, looks, {trial.method for trial in chosen})
    return figure


def _patients(chosen: Sequence[Finished]) -> Section:
    title = "Patients"
    parts: list[Part] = []
    text = (
        f"Errors of the personal models on each patient's test beats, true class first: first seed of the best trial of each condition, at "
        f"most {MOST_PATIENTS} patients, those with most errors first. All of them, under both models, are in result.json (patients)."
    )
    lines = []
    for trial in {trial.condition: trial for trial in reversed(chosen)}.values():
        classes = tuple(trial.outcome.support)
        rows = []
        for one in trial.results[0].patients:
            table = np.array(one.personal)
            wrong = {
                f"{classes[i]} as {classes[j]} {table[i, j]:,}": int(table[i, j])
                for i, j in np.ndindex(table.shape)
                if i != j and table[i, j]
            }
            errors = sum(wrong.values())
            said = ", ".join(sorted(wrong, key=lambda text: -wrong[text]))
            beats = ", ".join(f"{c} {n:,}" for c, n in zip(classes, table.sum(1).tolist(), strict=True) if n)
            rows.append((errors, [_where(trial), one.patient, one.sex, one.age, beats, f"{errors:,}", said or "none"]))
        rows.sort(key=lambda row: -row[0])
        lines += [cells(row) for _, row in rows[:MOST_PATIENTS]]
    if not lines:
        return Section(title, missing="patients are too many to list; predictions.parquet has them")
    heads = ["condition", "patient", "sex", "age", "test beats", "errors", "which"]
    parts += [Words(text, "lead"), Table(heads, lines, words=(0, 1, 2, 3, 4, 6))]
    return Section(title, tuple(parts))
