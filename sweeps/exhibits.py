"""The pictures of a report, each a section with its caption and its table, if it has one."""

from collections.abc import Callable, Sequence

import optuna
from matplotlib.figure import Figure

import sweeps.plots as plots
from sweeps.answer import Answer
from sweeps.drawing import ONLY, Looks
from sweeps.material import Finished, Material, best_of_each
from sweeps.page import Picture, Section, Table, Words, cell, cells, pictures
from sweeps.scores import OF_A_CLASS, shown
from sweeps.text import listed, settings
from sweeps.tuned import search_space

TUNED = 5  # finished trials that Optuna's pictures of the tuned keys need to say anything
NAMED = 20  # trials that a caption names
NONE = "–"  # of a number that is not there


def who_gains(material: Material, found: Sequence[Answer], looks: Looks) -> Section:
    title = "Who gains, hospital by hospital"
    best = {(trial.condition, trial.method): trial for trial in best_of_each(material.trials)}
    chosen = [best[answer.condition, answer.subject] for answer in found if (answer.condition, answer.subject) in best]
    if not chosen:
        return Section(title, missing="no trial that federates has finished")
    alone = {trial.condition: trial for (_, _), trial in best.items() if trial.outcome.method.alone}
    losers = {answer.condition: answer.alone.lose for answer in found if answer.alone is not None}
    without = [trial.condition for trial in chosen if trial.condition not in alone]
    caption = (
        "Macro-F1 of each hospital’s test beats when it trains alone, under the global model, and under its own model, for the "
        f"best method that federates ({trial_numbers(chosen)}), mean over its seeds. A dashed line is that of a hospital that "
        "loses in every seed against training alone; the number at its end is the hospital’s."
    )
    if without:
        caption += f" Without a local-only trial: {listed(without)}."
    return Section(title, pictures("slopes", plots.slopes(chosen, alone, losers, looks), caption))


def curves(material: Material, looks: Looks) -> Section:
    title = "Learning curves"
    if not material.trials:
        return Section(title, missing="no trial has finished")
    caption = (
        f"Macro-F1 of the global model on the validation beats by round, from {how_many(material.trials)}. A line is the median "
        "over all trials and seeds of a method, its band their middle half; where a method ran once there is no band. The "
        "marks behind the last round are the medians of the personal models on the validation beats, after personalisation. "
        "Local-only has no global model."
    )
    return Section(title, pictures("curves", plots.learning_curves(material.trials, looks), caption))


def over_time(material: Material) -> Section:
    caption = (
        f"Macro-F1 of the global model on the validation beats against the virtual clock, from {how_many(material.trials)}: what "
        "hospitals' work, links and absences take by the configuration, whatever the machine that computed it. A line for each "
        "run, a colour for each condition."
    )
    return Section("Virtual time", pictures("time", plots.over_time(material.trials), caption))


def classes(material: Material, looks: Looks) -> Section:
    title = "Recall, precision and F1 of each class"
    if not material.trials:
        return Section(title, missing="no trial has finished")
    chosen = best_of_each(material.trials)
    caption = (
        "Recall of the personal models on the test beats of all hospitals together: the best trial of each method in each "
        f"condition by {shown(first_objective(material)).title} ({trial_numbers(chosen)}), mean over its seeds. "
        "A cell is empty where the class has no test beat."
    )
    names = list(dict.fromkeys(c for trial in chosen for c in trial.outcome.support))
    paths = [f"final/personal/{score}/{c}" for c in names for score in OF_A_CLASS]
    several = len({trial.condition for trial in chosen}) > 1
    lines = [
        [
            *([cell(trial.condition)] if several else []),
            cell(trial.method, colour=looks[trial.method].colour),
            *(cell(trial.outcome.text(path, NONE)) for path in paths),
        ]
        for trial in chosen
    ]
    heads = [*(["condition"] if several else []), "method", *(shown(path).title for path in paths)]
    words = (0, 1) if several else (0,)
    few = dict.fromkeys(trial.outcome.untestable for trial in chosen if trial.outcome.untestable)
    said = [Words(f"In brackets: {'; '.join(few)}.")] if few else []
    drawn = pictures("recall", plots.recall_map(material.trials), caption)
    return Section(title, (*drawn, Table(heads, lines, words=words), *said))


def against(material: Material, looks: Looks, axis: str) -> Section:
    title = "Scores against the number of hospitals" if axis == "hospitals" else "Scores against the skew"
    counts, skews = ({t.hospitals for t in material.trials}, {t.skew for t in material.trials})
    if not material.trials:
        return Section(title, missing="no trial has finished")
    if axis == "hospitals" and len(counts) == 1:
        return Section(title, missing=f"one hospital count only ({counts.pop()})")
    if axis == "skew" and len(skews) == 1:
        return Section(title, missing=f"one skew only ({plots.skew_name(skews.pop())})")
    bars = "bars are the standard deviation over seeds" if material.study.repeats > 1 else "one seed each"
    caption = (
        "Accuracy and macro-F1 of the personal models on the test beats, the best trial of each method in each condition by "
        f"{shown(first_objective(material)).title} ({trial_numbers(best_of_each(material.trials))}); {bars}. The dotted line is what each "
        "hospital’s commonest class reaches without a model."
    )
    if axis == "skew":
        caption += (
            " α is the concentration of the Dirichlet distribution that deals out the records: small is more skewed."
        )
    return Section(title, pictures(axis, plots.against(material.trials, looks, axis), caption))


def pareto(material: Material, looks: Looks) -> Section:
    title = "Pareto front"
    objectives = material.study.objectives
    if len(objectives) < 2:
        return Section(title, missing=f"one objective only ({shown(first_objective(material)).title})")
    if not material.fronts:
        return Section(title, missing="no trial has finished")
    caption = (
        f"All finished trials ({how_many(material.trials)}); a filled one is on the front: no other one of its panel is at least "
        "as good in every objective and better in one."
    )
    lines = []
    for label, found in material.fronts.items():
        group = [trial for trial in material.trials if material.study.joint or trial.condition == label]
        for point in sorted(found.values[found.marked].tolist()):
            trial = next(trial for trial in group if list(trial.row.objectives.values()) == point)
            scores = (score_text(value, name) for value, name in zip(point, objectives, strict=True))
            row = trial.row
            lines.append(
                [
                    *cells([row.condition, str(row.trial)]),
                    cell(trial.method, colour=looks[trial.method].colour),
                    *cells([settings(row.keys), *scores]),
                ]
            )
    heads = ["condition", "trial", "method", "settings", *(shown(name).title for name in objectives)]
    drawn = pictures("pareto", plots.pareto_fronts(material.fronts, objectives, looks), caption)
    return Section(title, (Table(heads, lines, words=(0, 2, 3)), *drawn))


def importance(material: Material) -> Section:
    caption = (
        "How much each tuned key matters in {label} for {objective}, from {count} tuned trials, as Optuna estimates it "
        "(PED-ANOVA: how far the better trials’ values of a key differ from all trials’). From few trials this is a hint."
    )
    return _tuned(material, "Importance of the tuned keys", "importance", caption, lambda *of: [plots.importance(*of)])


def slices(material: Material) -> Section:
    caption = (
        "{objective} against each tuned key in {label}; a point is one of {count} tuned trials, later ones darker."
    )
    return _tuned(material, "Slices through the tuned keys", "slices", caption, plots.slices)


def _tuned(
    material: Material, title: str, stem: str, caption: str, draw: Callable[[optuna.Study, str, str], list[Figure]]
) -> Section:
    """Optuna's pictures, for each of its studies that has enough trials."""
    keys = [key for key, space in search_space(material.study).items() if not space.single()]
    if not keys:
        return Section(title, missing="nothing was tuned")
    if stem == "importance" and len(keys) < 2:
        return Section(title, missing=f"one key only was tuned ({keys[0]})")
    drawn: list[Picture] = []
    few: dict[str, str] = {}
    for tuned in material.tuned:
        count = len(tuned.study.trials)
        if count < TUNED:
            few[tuned.label] = f"{tuned.label}: {count}"
        elif len({t.value for t in tuned.study.trials}) == 1:
            few[f"{tuned.label} {tuned.objective}"] = (
                f"{tuned.label}: {count}, all with one {shown(tuned.objective).title}"
            )
        else:
            where = "the study" if tuned.label == ONLY else f"“{tuned.label}”"
            for figure in draw(tuned.study, tuned.objective, tuned.label):
                text = caption.format(label=where, count=count, objective=shown(tuned.objective).title)
                drawn.append(Picture(f"{stem}-{len(drawn) + 1}", figure, text))
    note = f"it takes {TUNED} tuned trials that differ, and there are too few ({'; '.join(few.values())})"
    if not drawn:
        return Section(title, missing=note)
    return Section(title, (*([Words(f"Not drawn: {note}.", "missing")] if few else []), *drawn))


def spread(material: Material, looks: Looks) -> Section:
    title = "Spread over hospitals"
    chosen = [trial for trial in best_of_each(material.trials) if trial.trains_global]
    if not chosen:
        return Section(title, missing="no trial with a global model has finished")
    caption = (
        "Macro-F1 of each hospital’s test beats under the global model (grey) and under its own, best trial of each method "
        f"({trial_numbers(chosen)}), all seeds. A box spans the middle half, its line is the median. Above: the share of hospitals "
        "that personalisation hurt, that is, whose macro-F1 fell."
    )
    return Section(title, pictures("spread", plots.spread(material.trials, looks), caption))


def first_objective(material: Material) -> str:
    """The objective that decides which trial is best."""
    return next(iter(material.study.objectives))


def how_many(trials: Sequence[Finished]) -> str:
    """How many trials and runs a picture is made of."""
    runs = sum(len(t.results) for t in trials)
    return f"{len(trials)} finished trial{'s' * (len(trials) != 1)}" + (
        f" of {runs} runs" if runs > len(trials) else ""
    )


def trial_numbers(trials: Sequence[Finished]) -> str:
    numbers = sorted(t.row.trial for t in trials)
    more = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return f"trial{'s' * (len(numbers) != 1)} {', '.join(map(str, numbers[:NAMED]))}{more}"


def score_text(value: float | None, path: str) -> str:
    """An objective's value."""
    return shown(path).number(value, NONE)
