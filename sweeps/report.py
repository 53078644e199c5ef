"""`pulseledger report`: one HTML page and its pictures, all out of a study's folder. Reads only, apart from what it draws.

The page needs no network and no other file; the pictures lie beside it as PNGs, too.
"""

import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import optuna
from matplotlib.figure import Figure

import sweeps.plots as plots
from engine import __version__
from engine.data.config import CLASSES
from engine.files import whole, write_text
from engine.provenance import provenance
from sweeps.material import Finished, Material, best_of_each, read_material
from sweeps.page import Picture, Section, code, escape, pictures, table, whole_page
from sweeps.plots import ONLY
from sweeps.rows import Outcome, Row, Spread
from sweeps.scores import RECALL, SHOWN, Shown
from sweeps.space import conditions, search_space, total_trials
from sweeps.text import settings, short

PAGE = "report.html"
TUNED = 5  # finished trials that Optuna's pictures of the tuned keys need to say anything
ROWS = 20  # of a condition's table; the rest is for `compare`
NAMED = 20  # trials that a caption names
STATES = ("COMPLETE", "RUNNING", "PRUNED", "FAIL", "WAITING")
NOTHING = "–"
SHARE = Shown("%", 100.0, 2)
DISTANCE = Shown("label distance", 1.0, 3)
PRINTED = ("accuracy", "macro_f1")


def write_report(folder: Path, out: Path | None = None) -> list[Path]:
    """Draws a study, finished or under way.

    Args:
        folder: the study's folder.
        out: where page and pictures go; null: `report` in the study's folder. Pictures of an earlier report there
            are removed.

    Returns:
        The files written, the page first.

    Raises:
        PulseLedgerError: the folder holds no study, or a result is damaged.
    """
    material = read_material(folder)
    out = out or folder / "report"
    sections = [
        _results(material),
        _cohorts(material),
        _curves(material),
        _recalls(material),
        _against(material, "hospitals"),
        _against(material, "skew"),
        _pareto(material),
        _importance(material),
        _slices(material),
        _spread(material),
        _ledger(material),
        _unfinished(material),
    ]
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.png"):
        if re.fullmatch(r"(curves|recall|hospitals|skew|pareto|importance|slices|spread|ledger)(-\d+)?\.png", old.name):
            old.unlink()
    written, drawn = [out / PAGE], {}
    for picture in (p for section in sections for p in section.pictures):
        buffer = io.BytesIO()
        picture.figure.savefig(buffer, format="png", dpi=160)
        drawn[picture.stem] = buffer.getvalue()
        with whole(out / f"{picture.stem}.png") as part:
            part.write_bytes(buffer.getvalue())
        written.append(out / f"{picture.stem}.png")
    write_text(out / PAGE, whole_page(material.study.name, _facts(material), sections, drawn))
    return written


def _facts(material: Material) -> str:
    study = material.study
    wanted = total_trials(study)
    begun = len(material.rows)
    states = _counted(row.state for row in material.rows) or "none has begun"
    if begun < wanted:
        states += f"; {wanted - begun} of {wanted} not begun"
    running = any(row.state in ("RUNNING", "WAITING") for row in material.rows) or begun < wanted
    if begun and not material.trials:
        states += ". <b>No trial has finished, so there are no scores to show.</b>"
    elif running:
        states += ". <b>The study is not finished: what follows is an interim state.</b>"
    results = [result for trial in material.trials for result in trial.results]
    digests = sorted({result.cohort.digest[:16] for result in results})
    data = ", beats ".join(filter(None, (study.data.source, ", ".join(digests))))
    form = "%Y-%m-%d %H:%M"
    dates = f"{material.began:{form}} to {material.ended:{form}}" if material.began and material.ended else "not begun"
    made = provenance()
    commit = f", commit {made.commit[:12]}{', changed since' if made.changed else ''}" if made.commit else ""
    seeds = f"{study.repeats} seed(s) a trial, {study.federation.rounds} rounds"
    facts = [
        ("runs", dates),
        ("trials", states),
        ("tuned for", ", ".join(f"{name} ({d})" for name, d in study.objectives.items())),
        ("design", f"{len(conditions(study))} condition(s), sampler {study.sampler}, {seeds}"),
        ("data", f"{data}; classes {study.data.classes}; split {study.cohort.split}"),
        ("code", f"drawn with pulseledger {__version__}{commit}"),
    ]
    if lost := sum(bool(result.lost) for result in results):
        facts.append(("hospitals lost", f"in {lost} run(s) some hospitals could not be tested"))
    lines = "".join(f"<tr><td>{k}</td><td>{v if k == 'trials' else escape(v)}</td></tr>" for k, v in facts)
    return f"<table class=facts>{lines}</table>"


# --- Tables -----------------------------------------------------------------------------------------------------------


def _results(material: Material) -> Section:
    """The table of each condition, best first."""
    if not material.rows:
        return Section("Results", missing="no trial has begun yet")
    if not material.trials:
        counted = _counted(row.state for row in material.rows)
        return Section("Results", f"<p class=missing>No trial has finished: {counted}.</p>")
    parts = [_how_to_read(material)]
    for label in dict.fromkeys(row.condition for row in material.rows):
        group = [trial for trial in material.trials if trial.condition == label]
        if label != ONLY:
            parts.append(f"<h3>{escape(label)}</h3>")
        if not group:
            counted = _counted(row.state for row in material.rows if row.condition == label)
            parts.append(f"<p class=missing>No trial of this condition has finished ({counted}).</p>")
            continue
        parts.append(_trial_table(group, list(material.study.objectives)))
        if len(group) > ROWS:
            parts.append(
                f"<p>{len(group) - ROWS} more finished trials are left out here: <code>pulseledger compare --csv</code>.</p>"
            )
        parts += [f"<p class=leaky>Leaky: {escape(text)}</p>" for text in group[0].outcome.leaky]
    return Section("Results", "".join(parts))


def _how_to_read(material: Material) -> str:
    first, direction = next(iter(material.study.objectives.items()))
    several = any(trial.outcome.repeats > 1 for trial in material.trials)
    spread = (
        "± is the standard deviation over a trial’s seeds." if several else "Each trial ran with one seed: no spread."
    )
    return (
        f"<p>Best first by {code(first)} ({'highest' if direction == 'maximize' else 'lowest'} first)."
        " Accuracy, macro-F1 and recalls are those of the personal models on the test beats of all hospitals together,"
        " “global” those of the global model there; hurt is the share of hospitals whose macro-F1 is lower under their"
        f" personal model; gradients are gradient evaluations. {spread} Trials marked * were given, not tuned. The two lines"
        " below each table need no model: each hospital’s commonest train class, and N for every beat.</p>"
    )


def _trial_table(group: Sequence[Finished], objectives: Sequence[str]) -> str:
    there = {c for trial in group for c in trial.outcome.support}
    classes = [c for c in CLASSES if c in there]
    titles = [SHOWN[name].title for name in PRINTED]
    heads = ["trial", "method", "settings", *objectives, *titles, *(f"recall {c}" for c in classes)]
    heads += ["global acc. %", "global macro-F1", "hurt %", "gradients", "s"]
    lines = [_trial_line(trial, objectives, classes) for trial in group[:ROWS]]
    outcome = group[0].outcome
    foot = [
        ["", name, "", *[""] * len(objectives), *_scores(values), *[""] * (len(classes) + 5)]
        for name, values in (("local majority", _majority(outcome)), ("all N", outcome.all_n))
    ]
    return table(heads, lines, foot, words=(1, 2))


def _majority(outcome: Outcome) -> tuple[float | None, float | None]:
    return outcome.mean("cohort/local_majority_accuracy"), outcome.mean("cohort/local_majority_macro_f1")


def _trial_line(trial: Finished, objectives: Sequence[str], classes: Sequence[str]) -> list[str]:
    row, outcome = trial.row, trial.outcome
    keys = settings(row.keys, without=("federation.algorithm", "federation.perfedavg.variant"))
    broken = [f"(breaks {name} by {short(row.constraints[name])})" for name in row.violated]
    hurt = SHARE._replace(digits=0)
    return [
        f"{row.trial}{'*' if row.baseline else ''}",
        trial.method,
        " ".join(filter(None, (keys, *broken))),
        *(_score(row.objectives.get(name)) for name in objectives),
        *(_spread_number(SHOWN[name], outcome.scores[f"final/personal/{name}"]) for name in PRINTED),
        *(RECALL.number(outcome.mean(f"final/personal/recall/{c}"), NOTHING) for c in classes),
        *_scores(outcome.mean(f"final/global/{name}") for name in PRINTED),
        hurt.number(outcome.mean("final/personal/hurt_share"), NOTHING),
        f"{outcome.gradients:,.0f}",
        f"{outcome.mean('timing/total_seconds'):.1f}",
    ]


def _cohorts(material: Material) -> Section:
    """Who the hospitals are in each condition."""
    first: dict[str, Finished] = {}
    for trial in material.trials:
        first.setdefault(trial.condition, trial)
    if not first:
        return Section("Cohorts", missing="no trial has finished")
    heads = ["condition", "hospitals", "beats", "test beats", "label distance", "size variation"]
    heads += ["local majority %", "all N %", "classes that hospitals lack"]
    lines = []
    for label, trial in first.items():
        cohort = trial.results[0].cohort
        lacking = [f"{c}: {len(who)} of {trial.hospitals}" for c, who in cohort.missing.items() if who]
        lines.append(
            [
                label,
                str(trial.hospitals),
                f"{cohort.beats:,}",
                f"{sum(hospital.test for hospital in cohort.hospitals):,}",
                DISTANCE.number(cohort.heterogeneity.emd_mean),
                f"{cohort.heterogeneity.size_cv:.2f}",
                SHARE.number(trial.outcome.mean("cohort/local_majority_accuracy"), NOTHING),
                SHARE.number(trial.outcome.all_n[0], NOTHING),
                ", ".join(lacking) or "none",
            ]
        )
    text = (
        "<p class=lead>Label distance is the mean distance (earth mover’s, 0 to 2) between a hospital’s shares of the classes and those "
        "of all; size variation is the standard deviation of the hospitals’ sizes over their mean.</p>"
    )
    return Section("Cohorts", text + table(heads, lines, words=(0, 8)))


def _ledger(material: Material) -> Section:
    title = "What the ledger costs"
    with_one = [t for t in material.trials if any(r.ledger.backend != "none" for r in t.results)]
    if not with_one:
        return Section(title, missing="no finished trial has a ledger" if material.trials else "no trial has finished")
    caption = (
        f"From {_of(with_one)}, a point for each run. The critical path is the time that rounds wait for the ledger, with "
        "hashing and signing; its share is that of the rounds’ time. A tick is the median."
    )
    heads = ["condition", "runs", "ms a round", "share %", "gas a round", "updates a run", "opening s"]
    lines = []
    for label in dict.fromkeys(t.condition for t in with_one):
        runs = [r.ledger for t in with_one if t.condition == label for r in t.results if r.ledger.rounds]
        lines.append(
            [
                label,
                str(len(runs)),
                f"{1000 * _median(r.critical_path_seconds / r.rounds for r in runs):.2f}",  # type: ignore[operator]
                SHARE.number(_median(r.overhead_share for r in runs)),
                f"{_median(r.gas_per_round for r in runs):,.0f}",
                f"{_median(r.updates for r in runs):,.0f}",
                f"{_median(r.open_seconds for r in runs):.2f}",
            ]
        )
    text = "<p class=lead>Medians over all runs of a condition. Opening the ledger happens once, before the first round.</p>"
    return Section(
        title, text + table(heads, lines, words=(0,)), pictures("ledger", plots.ledger_cost(with_one), caption)
    )


def _unfinished(material: Material) -> Section:
    title = "Failed and pruned trials"
    rows = sorted((row for row in material.rows if row.state in ("FAIL", "PRUNED")), key=lambda row: row.trial)
    if not rows:
        return Section(title, missing="no trial has failed or been pruned")
    lines = [
        [str(row.trial), row.state, row.condition, settings(row.keys), row.error or _why(material, row)] for row in rows
    ]
    return Section(title, table(["trial", "state", "condition", "settings", "reason"], lines, words=(1, 2, 3, 4)))


def _why(material: Material, row: Row) -> str:
    """Why a trial was pruned, with its scores at the rung, or that nobody wrote why it failed."""
    if row.state != "PRUNED":
        return "no reason was written"
    trial = material.stored[row.trial]
    why = trial.reason or "stopped by the pruner" + (f" at rung {trial.pruned}" if trial.pruned is not None else "")
    if trial.pruned not in trial.rungs:
        return why
    values = zip(material.study.objectives, trial.rungs[trial.pruned].values, strict=False)
    return f"{why}: " + ", ".join(f"{name} {_score(value)}" for name, value in values)


# --- Pictures ---------------------------------------------------------------------------------------------------------


def _curves(material: Material) -> Section:
    title = "Learning curves"
    if not material.trials:
        return Section(title, missing="no trial has finished")
    caption = (
        f"Macro-F1 of the global model on the validation beats by round, from {_of(material.trials)}. A line is the median "
        "over all trials and seeds of a method, its band their middle half; where a method ran once there is no band. The "
        "marks behind the last round are the medians of the personal models, after personalisation. Local-only has no "
        "global model."
    )
    return Section(title, pictures=pictures("curves", plots.learning_curves(material.trials), caption))


def _recalls(material: Material) -> Section:
    title = "Recall of each class"
    if not material.trials:
        return Section(title, missing="no trial has finished")
    caption = (
        "Recall of the personal models on the test beats of all hospitals together: the best trial of each method in each "
        f"condition by {_first(material)} ({_numbers(best_of_each(material.trials))}), mean over its seeds. "
        "A cell is empty where the class has no test beat."
    )
    return Section(title, pictures=pictures("recall", plots.recall_map(material.trials), caption))


def _against(material: Material, axis: str) -> Section:
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
        f"{_first(material)} ({_numbers(best_of_each(material.trials))}); {bars}. The dotted line is what each "
        "hospital’s commonest class reaches without a model."
    )
    if axis == "skew":
        caption += (
            " α is the concentration of the Dirichlet distribution that deals out the records: small is more skewed."
        )
    return Section(title, pictures=pictures(axis, plots.against(material.trials, axis), caption))


def _pareto(material: Material) -> Section:
    title = "Pareto front"
    objectives = material.study.objectives
    if len(objectives) < 2:
        return Section(title, missing=f"one objective only ({_first(material)})")
    if not material.fronts:
        return Section(title, missing="no trial has finished")
    caption = (
        f"All finished trials ({_of(material.trials)}); a trial is on the front when no other one of its panel is at least as "
        "good in every objective and better in one."
    )
    lines = []
    for label, found in material.fronts.items():
        group = [trial.row for trial in material.trials if material.study.joint or trial.condition == label]
        for point in sorted(found.values[found.marked].tolist()):
            row = next(row for row in group if list(row.objectives.values()) == point)
            lines.append([row.condition, str(row.trial), settings(row.keys), *(_score(v) for v in point)])
    text = table(["condition", "trial", "settings", *objectives], lines, words=(0, 2))
    return Section(title, text, pictures("pareto", plots.pareto_fronts(material.fronts, objectives), caption))


def _importance(material: Material) -> Section:
    caption = (
        "How much each tuned key matters in {label} for {objective}, from {count} tuned trials, as Optuna estimates it "
        "(PED-ANOVA: how far the better trials’ values of a key differ from all trials’). From few trials this is a hint."
    )
    return _tuned(material, "Importance of the tuned keys", "importance", caption, lambda *of: [plots.importance(*of)])


def _slices(material: Material) -> Section:
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
    few = {}
    for tuned in material.tuned:
        count = len(tuned.study.trials)
        if count < TUNED or len({t.value for t in tuned.study.trials}) == 1:
            few[tuned.label] = f"{tuned.label}: {count}" + (", all with one score" if count >= TUNED else "")
            continue
        where = "the study" if tuned.label == ONLY else f"“{tuned.label}”"
        for figure in draw(tuned.study, tuned.objective, tuned.label):
            text = caption.format(label=where, count=count, objective=tuned.objective)
            drawn.append(Picture(f"{stem}-{len(drawn) + 1}", figure, text))
    all_few = len(few) == len({tuned.label for tuned in material.tuned}) > 1
    where = "any condition" if all_few else "; ".join(few.values())
    note = f"fewer than {TUNED} tuned trials, or none that differ, have finished in {where}" if few else ""
    if not drawn:
        return Section(title, missing=note)
    return Section(title, f"<p class=missing>Left out: {escape(note)}.</p>" if note else "", pictures=tuple(drawn))


def _spread(material: Material) -> Section:
    title = "Spread over hospitals"
    chosen = [trial for trial in best_of_each(material.trials) if trial.trains_global]
    if not chosen:
        return Section(title, missing="no trial with a global model has finished")
    caption = (
        "Macro-F1 of each hospital’s test beats under the global model and under its own, best trial of each method "
        f"({_numbers(chosen)}), all seeds. A box spans the middle half, its line is the median. Above: the share of hospitals "
        "that personalisation hurt, that is, whose macro-F1 fell."
    )
    return Section(title, pictures=pictures("spread", plots.spread(material.trials), caption))


# --- Words ------------------------------------------------------------------------------------------------------------


def _first(material: Material) -> str:
    """The objective that decides which trial is best."""
    return next(iter(material.study.objectives))


def _of(trials: Sequence[Finished]) -> str:
    """How many trials and runs a picture is made of."""
    runs = sum(len(t.results) for t in trials)
    return f"{len(trials)} finished trial{'s' * (len(trials) != 1)}" + (
        f" of {runs} runs" if runs > len(trials) else ""
    )


def _numbers(trials: Sequence[Finished]) -> str:
    numbers = sorted(t.row.trial for t in trials)
    more = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return f"trial{'s' * (len(numbers) != 1)} {', '.join(map(str, numbers[:NAMED]))}{more}"


def _counted(states: Iterable[str]) -> str:
    found = list(states)
    order = [*STATES, *sorted(set(found) - set(STATES))]
    return ", ".join(f"{found.count(s)} {s}" for s in order if s in found)


def _median(values: Iterable[float | None]) -> float:
    return float(np.median([value for value in values if value is not None]))


def _scores(values: Iterable[float | None]) -> list[str]:
    """Accuracy and macro-F1."""
    return [SHOWN[name].number(value, NOTHING) for name, value in zip(PRINTED, values, strict=True)]


def _spread_number(shown: Shown, spread: Spread) -> str:
    sd = "" if spread.sd is None else f" ±\xa0{shown.number(spread.sd)}"
    return shown.number(spread.mean, NOTHING) + sd


def _score(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:.3f}" if 0.01 <= abs(value) < 100 else short(float(value))
