"""What the final models give away of who was trained on: membership inference, by method."""

import statistics
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from engine.privacy.membership import Guess, most_advantage
from engine.result import Model, Result
from sweeps.drawing import GREY, ONLY, STYLE, WIDTH, Looks, folded
from sweeps.material import Finished, best_of_each
from sweeps.page import Section, Table, Words, cell, cells, pictures

TITLE = "What the models give away"
HEADS = ("condition", "method", "epsilon", "model", "AUC", "advantage", "worst hospital", "most by epsilon")
NONE = "–"


def sections(trials: Sequence[Finished], looks: Looks) -> list[Section]:
    """Of the best trial of each method in each condition whose hospitals measured it; nothing where none did."""
    chosen = [trial for trial in best_of_each(trials) if trial.results[0].membership is not None]
    if not chosen:
        return []
    text = (
        "Membership inference by whoever holds a model, and a beat with its class: AUC is how often a train beat has the lower "
        "cross-entropy than a test beat; advantage, in points, is the share of train beats that are not above the mean train "
        "cross-entropy, less that of test beats. Means over hospitals and seeds; a coin has 0.5 and 0. Where test beats are of another time or other "
        "patients, a part of that is no memory of single beats. Most by epsilon is what differential privacy leaves to the best attack "
        "where the two kinds of beats are drawn alike."
    )
    lines = [line for trial in chosen for model in _models(trial) for line in [_line(trial, model, looks)]]
    caption = (
        "Advantage of membership inference, in points: a dot for each hospital of the first seed, filled for the model that it uses, open "
        "for the global one. The grey mark is what epsilon allows."
    )
    drawn = pictures("membership", [_picture(chosen, looks)], caption)
    return [Section(TITLE, (Words(text, "lead"), Table(HEADS, lines, words=(0, 1, 3)), *drawn))]


def _models(trial: Finished) -> tuple[Model, ...]:
    trained = trial.results[0].config.federation.method.trains_global
    return ("global", "personal") if trained else ("personal",)


def _guesses(result: Result, model: Model) -> tuple[Guess, list[float]]:
    """The mean over hospitals, and each hospital's advantage."""
    found = result.membership
    assert found is not None
    field = "global_" if model == "global" else "personal"
    return getattr(found, field), [getattr(row, field).advantage for row in found.hospitals]


def _most(result: Result) -> float | None:
    said = result.privacy
    return None if said is None or said.unit != "beat" else most_advantage(said.epsilon, said.delta)


def _line(trial: Finished, model: Model, looks: Looks) -> list:
    found = [_guesses(result, model) for result in trial.results if result.membership is not None]
    spent = [result.privacy.epsilon for result in trial.results if result.privacy is not None]
    most = _most(trial.results[0])
    values = [
        f"{statistics.fmean(spent):.2f}" if spent else NONE,
        model,
        f"{statistics.fmean(guess.auc for guess, _ in found):.3f}",
        f"{100 * statistics.fmean(guess.advantage for guess, _ in found):.1f}",
        f"{100 * max(max(each) for _, each in found):.1f}",
        NONE if most is None else f"{100 * most:.1f}",
    ]
    condition = "" if trial.condition == ONLY else trial.condition
    return [*cells([condition]), cell(trial.method, colour=looks[trial.method].colour), *cells(values)]


@matplotlib.rc_context(STYLE)
def _picture(chosen: Sequence[Finished], looks: Looks) -> Figure:
    figure = Figure(figsize=(WIDTH, 0.9 + 0.34 * len(chosen)), layout="constrained")
    axes = figure.subplots()
    for place, trial in enumerate(chosen):
        look = looks[trial.method]
        for model in _models(trial):
            each = 100 * np.array(_guesses(trial.results[0], model)[1])
            height = np.full(len(each), place + (0.16 if model == "global" else -0.16))
            filled = look.colour if model == "personal" else "none"
            axes.scatter(each, height, s=16, marker=look.marker, edgecolors=look.colour, facecolors=filled)
        most = _most(trial.results[0])
        if most is not None:
            axes.plot([100 * most] * 2, [place - 0.4, place + 0.4], color=GREY, linewidth=2)
    names = [trial.method if trial.condition == ONLY else f"{trial.condition}, {trial.method}" for trial in chosen]
    axes.set_yticks(range(len(chosen)), [folded(name, 44) for name in names])
    axes.set_ylim(len(chosen) - 0.5, -0.5)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_xlabel("advantage of membership inference, points")
    return figure
