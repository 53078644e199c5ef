"""`pulseledger report`: one HTML page and its pictures, all out of a study's folder. Reads only, apart from what it draws.

The page needs no network and no other file; the pictures lie beside it as PNGs, too. It opens with the answer; what it is
made of, tables and pictures, follows.
"""

import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import optuna
from matplotlib.figure import Figure

import sweeps.plots as plots
from engine import __version__
from engine.files import whole, write_text
from engine.homes import claim
from engine.provenance import provenance
from engine.settings import dump_yaml
from sweeps.answer import HOW, Answer, answers
from sweeps.drawing import ONLY, Looks, looks_of
from sweeps.material import Finished, Material, best_of_each, read_material
from sweeps.page import (
    Block,
    Cell,
    Heading,
    Page,
    Part,
    Picture,
    Said,
    Section,
    Table,
    Words,
    cell,
    cells,
    pictures,
)
from sweeps.places import runs_section
from sweeps.rows import NOTHING, Outcome, Row
from sweeps.scores import shown
from sweeps.space import TUNED_ON_TEST, conditions
from sweeps.text import leads_read, listed, settings, short
from sweeps.tuned import search_space, total_trials

PAGE = "report.html"
TUNED = 5  # finished trials that Optuna's pictures of the tuned keys need to say anything
ROWS = 20  # of a condition's table; the rest is for `compare`
NAMED = 20  # trials that a caption names
STATES = ("COMPLETE", "RUNNING", "PRUNED", "FAIL", "WAITING", "LOST")
NONE = "–"
# the numbers of a trial, behind its objectives
ORDER = (
    "final/personal/macro_f1",
    "final/personal/mean_hospital_macro_f1",
    "final/personal/rare_recall",
    "final/personal/accuracy",
    "final/global/macro_f1",
    "final/personal/hurt_share",
    "timing/gradient_evaluations",
    "ledger/overhead_share",
    "timing/total_seconds",
)
WITH_SD = (ORDER[0], ORDER[3])
DRAWN = "curves recall hospitals skew pareto importance slices slopes spread ledger".split()
NO_AUDIT = "not checked here: pulseledger audit DIR recomputes everything"


def write_report(folder: Path, out: Path | None = None, verdict: Callable[[Path], str] | None = None) -> list[Path]:
    """Draws a study, finished or under way.

    Args:
        folder: the study's folder.
        out: where page and pictures go; null: `report` in the study's folder. Pictures of an earlier report there
            are removed.
        verdict: audits the folder and says how it went, in a sentence; None does not audit.

    Returns:
        The files written, the page first.

    Raises:
        PulseLedgerError: the folder holds no study, or a result is damaged.
    """
    material = read_material(folder)
    out = out or folder / "report"
    found = answers(material.rows)
    looks = looks_of(trial.method for trial in material.trials)
    sections = [
        _results(material, looks, _relative(folder, out)),
        _slopes(material, found, looks),
        _recalls(material, looks),
        _cohorts(material),
        _curves(material, looks),
        _against(material, looks, "hospitals"),
        _against(material, looks, "skew"),
        _pareto(material, looks),
        _importance(material),
        _slices(material),
        _spread(material, looks),
        _ledger(material, looks),
        _unfinished(material),
        runs_section(material, folder, _relative(folder, out)),
        _again(material, folder),
    ]
    earlier = [old for old in out.glob("*.png") if re.fullmatch(rf"({'|'.join(DRAWN)})(-\d+)?\.png", old.name)]
    claim(out, "report", (PAGE, *(old.name for old in earlier)))
    for old in earlier:
        old.unlink()
    written, drawn = [out / PAGE], {}
    for picture in (p for section in sections for p in section.pictures):
        buffer = io.BytesIO()
        picture.figure.savefig(buffer, format="png", dpi=160)
        drawn[picture.stem] = buffer.getvalue()
        with whole(out / f"{picture.stem}.png") as part:
            part.write_bytes(buffer.getvalue())
        written.append(out / f"{picture.stem}.png")
    said = [_said(answer, looks) for answer in found]
    facts = _facts(material, verdict(folder) if verdict is not None else NO_AUDIT)
    page = Page(material.study.name, said, HOW, facts, sections, drawn, _warnings(material))
    write_text(out / PAGE, page.html())
    return written


def _relative(folder: Path, out: Path) -> str:
    """The study's folder as seen from the page."""
    return Path(os.path.relpath(folder.resolve(), out.resolve())).as_posix()


def _said(answer: Answer, looks: Looks) -> Said:
    look = looks.get(answer.best)
    return Said(answer.sentence, answer.notes, look.colour if look is not None else "")


def _warnings(material: Material) -> list[str]:
    """What must be known before anything is believed."""
    begun, wanted = len(material.rows), total_trials(material.study)
    running = any(row.state in ("RUNNING", "WAITING") for row in material.rows) or begun < wanted
    leaky = dict.fromkeys(text for trial in material.trials for text in trial.outcome.leaky)
    said = [f"Leaky: {text}" for text in leaky]
    if material.study.tuned_on_test:
        said.insert(0, f"Warning: {TUNED_ON_TEST}.")
    if begun and not material.trials:
        said.append("No trial has finished, so there are no scores to show.")
    elif running and begun:
        said.append("The study is not finished: this is an interim state.")
    return said


def _facts(material: Material, verdict: str) -> list[tuple[str, str]]:
    study = material.study
    wanted = total_trials(study)
    begun = len(material.rows)
    states = _counted(row.state for row in material.rows) or "none has begun"
    if begun < wanted:
        states += f"; {wanted - begun} of {wanted} not begun"
    results = [result for trial in material.trials for result in trial.results]
    digests = sorted({result.cohort.digest[:16] for result in results})
    data = ", beats ".join(filter(None, (study.data.source, ", ".join(digests))))
    form = "%Y-%m-%d %H:%M"
    dates = f"{material.began:{form}} to {material.ended:{form}}" if material.began and material.ended else "not begun"
    scored = dict.fromkeys(", ".join(trial.outcome.scored) for trial in material.trials)
    seeds = f"{study.repeats} seed(s) a trial, {study.federation.rounds} rounds"
    facts = [
        ("runs", dates),
        ("trials", states),
        ("audit", verdict),
        ("tuned for", ", ".join(f"{name} ({d})" for name, d in study.objectives.items())),
        ("design", f"{len(conditions(study))} condition(s), sampler {study.sampler}, {seeds}"),
        ("data", f"{data}; classes {', '.join(study.data.classes)}; split {study.cohort.split}"),
        ("macro-F1", f"mean over the classes {' or '.join(scored)}" if scored else "no trial has finished"),
        (
            "leads",
            "; ".join(dict.fromkeys(leads_read(result.cohort.leads) for result in results)) or "nothing was read yet",
        ),
    ]
    if lost := sum(bool(result.lost) for result in results):
        facts.append(("hospitals lost", f"in {lost} run(s) some hospitals could not be tested"))
    return facts


# --- Tables -----------------------------------------------------------------------------------------------------------


def _results(material: Material, looks: Looks, home: str) -> Section:
    """The table of each condition, best first."""
    if not material.trials:
        counted = _counted(row.state for row in material.rows)
        return Section("Results", missing=f"no trial has finished ({counted})" if counted else "no trial has begun yet")
    parts: list[Part] = [Words(_how_to_read(material), "lead")]
    for label in dict.fromkeys(row.condition for row in material.rows):
        group = [trial for trial in material.trials if trial.condition == label]
        if label != ONLY:
            parts.append(Heading(label))
        if not group:
            counted = _counted(row.state for row in material.rows if row.condition == label)
            parts.append(Words(f"No trial of this condition has finished ({counted}).", "missing"))
            continue
        parts.append(_trial_table(group, list(material.study.objectives), looks, home))
        if len(group) > ROWS:
            more = f"The best {ROWS} of {len(group)} finished trials; all: pulseledger compare DIR."
            parts.append(Words(more))
    return Section("Results", tuple(parts))


def _how_to_read(material: Material) -> str:
    first, direction = next(iter(material.study.objectives.items()))
    several = any(trial.outcome.repeats > 1 for trial in material.trials)
    spread = (
        "± is the standard deviation over a trial’s seeds." if several else "Each trial ran with one seed: no spread."
    )
    return (
        f"Best first by {shown(first).title} ({'highest' if direction == 'maximize' else 'lowest'} first)."
        " Scores are those of the personal models on the test beats of all hospitals together unless a heading says"
        " otherwise; mean hospital is the mean of the hospitals’ own macro-F1, rare recall that of all classes but the"
        " commonest; hurt is the share of hospitals whose macro-F1 is lower under their personal model than under the global"
        f" one; gradients count personalisation, too. {spread} Trials marked * were given, not tuned; the number in brackets"
        " is Optuna’s. The lines below each table need no model: each hospital’s commonest train class, and the usual class for every beat."
    )


def _trial_table(group: Sequence[Finished], objectives: Sequence[str], looks: Looks, home: str) -> Table:
    paths = [path for path in ORDER if path not in objectives]
    heads = ["trial", "method", "settings", *(shown(path).title for path in (*objectives, *paths))]
    lines = [_trial_line(trial, objectives, paths, looks, home) for trial in group[:ROWS]]
    outcome = group[0].outcome
    majority = [score for seed in outcome.own("majority") for score in seed.values()]
    constant = {
        "local majority": {
            ORDER[0]: outcome.mean("cohort/local_majority_macro_f1"),
            ORDER[1]: float(np.mean(majority)) if majority else None,
            ORDER[3]: outcome.mean("cohort/local_majority_accuracy"),
        },
        f"all {outcome.usual}": {ORDER[0]: outcome.all_usual[1], ORDER[3]: outcome.all_usual[0]},
    }
    foot = [
        cells(["", name, "", *[""] * len(objectives), *(shown(path).number(line.get(path), "") for path in paths)])
        for name, line in constant.items()
    ]
    return Table(heads, lines, foot, words=(1, 2))


def _trial_line(
    trial: Finished, objectives: Sequence[str], paths: Sequence[str], looks: Looks, home: str
) -> list[Cell]:
    row, outcome = trial.row, trial.outcome
    keys = settings(row.keys, without=("federation.algorithm", "federation.perfedavg.variant"))
    broken = [f"(breaks {name} by {short(row.constraints[name])})" for name in row.violated]
    number = f"{row.trial}{'*' if row.baseline else ''}" + (f" ({row.optuna})" if row.optuna is not None else "")
    return [
        cell(number, f"{home}/trials/{row.trial:04d}/"),
        cell(trial.method, colour=looks[trial.method].colour),
        cell(" ".join(filter(None, (keys, *broken)))),
        *(cell(_score(row.objectives.get(path), path)) for path in objectives),
        *(cell(_number(outcome, path)) for path in paths),
    ]


def _number(outcome: Outcome, path: str) -> str:
    spread = outcome.scores.get(path, NOTHING)
    sd = "" if spread.sd is None or path not in WITH_SD else f" ±\xa0{shown(path).number(spread.sd)}"
    return shown(path).number(spread.mean, NONE) + sd


def _cohorts(material: Material) -> Section:
    """Who the hospitals are in each condition."""
    first: dict[str, Finished] = {}
    for trial in material.trials:
        first.setdefault(trial.condition, trial)
    if not first:
        return Section("Cohorts", missing="no trial has finished")
    heads = ["condition", "hospitals", "beats", "test beats", "label distance", "size variation"]
    heads += ["local majority %", "usual class %", "classes that hospitals lack"]
    accuracy = shown("final/personal/accuracy")
    lines = []
    for label, trial in first.items():
        cohort = trial.results[0].cohort
        lacking = [f"{c}: {len(who)} of {trial.hospitals}" for c, who in cohort.missing.items() if who]
        lines.append(
            cells(
                [
                    label,
                    str(trial.hospitals),
                    f"{cohort.beats:,}",
                    f"{sum(hospital.test for hospital in cohort.hospitals):,}",
                    f"{cohort.heterogeneity.emd_mean:.3f}",
                    f"{cohort.heterogeneity.size_cv:.2f}",
                    accuracy.number(trial.outcome.mean("cohort/local_majority_accuracy"), NONE),
                    accuracy.number(trial.outcome.all_usual[0], NONE),
                    ", ".join(lacking) or "none",
                ]
            )
        )
    text = (
        "Label distance is the mean distance (earth mover’s, 0 to 2) between a hospital’s shares of the classes and those "
        "of all; size variation is the standard deviation of the hospitals’ sizes over their mean."
    )
    return Section("Cohorts", (Words(text, "lead"), Table(heads, lines, words=(0, 8))))


def _ledger(material: Material, looks: Looks) -> Section:
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
            cells(
                [
                    label,
                    str(len(runs)),
                    f"{1000 * _median(r.critical_path_seconds / r.rounds for r in runs):.2f}",  # type: ignore[operator]
                    shown("ledger/overhead_share").number(_median(r.overhead_share for r in runs)),
                    f"{_median(r.gas_per_round for r in runs):,.0f}",
                    f"{_median(r.updates for r in runs):,.0f}",
                    f"{_median(r.open_seconds for r in runs):.2f}",
                ]
            )
        )
    text = "Medians over all runs of a condition. Opening the ledger happens once, before the first round."
    drawn = pictures("ledger", plots.ledger_cost(with_one, looks), caption)
    return Section(title, (Words(text, "lead"), Table(heads, lines, words=(0,)), *drawn))


def _unfinished(material: Material) -> Section:
    title = "Failed and pruned trials"
    rows = sorted((row for row in material.rows if row.state in ("FAIL", "PRUNED")), key=lambda row: row.trial)
    if not rows:
        return Section(title, missing="no trial has failed or been pruned")
    lines = [
        cells(
            [
                str(row.trial),
                row.state,
                row.condition,
                row.method,
                settings(row.keys),
                row.error or _why(material, row),
            ]
        )
        for row in rows
    ]
    heads = ["trial", "state", "condition", "method", "settings", "reason"]
    return Section(title, (Table(heads, lines, words=(1, 2, 3, 4, 5)),))


def _why(material: Material, row: Row) -> str:
    """Why a trial was pruned, with its scores at the rung, or that nobody wrote why it failed."""
    if row.state != "PRUNED":
        return "no reason was written"
    trial = material.stored[row.trial]
    why = trial.reason or "stopped by the pruner" + (f" at rung {trial.pruned}" if trial.pruned is not None else "")
    if trial.pruned not in trial.rungs:
        return why
    values = zip(material.study.objectives, trial.rungs[trial.pruned].values, strict=False)
    return f"{why}: " + ", ".join(f"{shown(name).title} {_score(value, name)}" for name, value in values)


def _again(material: Material, folder: Path) -> Section:
    """The whole configuration, and how to come to the same numbers."""
    made = provenance()
    commit = (
        f", commit {made.commit}{' with changes that were not committed' if made.changed else ''}"
        if made.commit
        else ""
    )
    results = [result for trial in material.trials for result in trial.results]
    digests = sorted({result.cohort.digest for result in results})
    checks = [Words(f"The beats’ digest is {listed(digests)}; another one means other data.")] if digests else []
    commands = (
        "pulseledger sweep study.yaml --out again\npulseledger compare again\npulseledger audit again\n"
        "pulseledger report again"
    )
    return Section(
        "How to get it again",
        (
            Words(f"Save what stands below as study.yaml and run, with pulseledger {__version__}{commit}:"),
            Block(commands),
            *checks,
            Heading("study.yaml, with every key"),
            Block(dump_yaml(material.study)),
        ),
    )


# --- Pictures ---------------------------------------------------------------------------------------------------------


def _slopes(material: Material, found: Sequence[Answer], looks: Looks) -> Section:
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
        f"best method that federates ({_numbers(chosen)}), mean over its seeds. A dashed line is that of a hospital that "
        "loses in every seed against training alone; the number at its end is the hospital’s."
    )
    if without:
        caption += f" Without a local-only trial: {listed(without)}."
    return Section(title, pictures("slopes", plots.slopes(chosen, alone, losers, looks), caption))


def _curves(material: Material, looks: Looks) -> Section:
    title = "Learning curves"
    if not material.trials:
        return Section(title, missing="no trial has finished")
    caption = (
        f"Macro-F1 of the global model on the validation beats by round, from {_of(material.trials)}. A line is the median "
        "over all trials and seeds of a method, its band their middle half; where a method ran once there is no band. The "
        "marks behind the last round are the medians of the personal models on the validation beats, after personalisation. "
        "Local-only has no global model."
    )
    return Section(title, pictures("curves", plots.learning_curves(material.trials, looks), caption))


def _recalls(material: Material, looks: Looks) -> Section:
    title = "Recall of each class"
    if not material.trials:
        return Section(title, missing="no trial has finished")
    chosen = best_of_each(material.trials)
    caption = (
        "Recall of the personal models on the test beats of all hospitals together: the best trial of each method in each "
        f"condition by {shown(_first(material)).title} ({_numbers(chosen)}), mean over its seeds. "
        "A cell is empty where the class has no test beat."
    )
    classes = list(dict.fromkeys(c for trial in chosen for c in trial.outcome.support))
    several = len({trial.condition for trial in chosen}) > 1
    lines = [
        [
            *([cell(trial.condition)] if several else []),
            cell(trial.method, colour=looks[trial.method].colour),
            *(
                cell(shown(f"final/personal/recall/{c}").number(trial.outcome.mean(f"final/personal/recall/{c}"), NONE))
                for c in classes
            ),
        ]
        for trial in chosen
    ]
    heads = [*(["condition"] if several else []), "method", *(f"test recall {c}" for c in classes)]
    words = (0, 1) if several else (0,)
    drawn = pictures("recall", plots.recall_map(material.trials), caption)
    return Section(title, (*drawn, Table(heads, lines, words=words)))


def _against(material: Material, looks: Looks, axis: str) -> Section:
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
        f"{shown(_first(material)).title} ({_numbers(best_of_each(material.trials))}); {bars}. The dotted line is what each "
        "hospital’s commonest class reaches without a model."
    )
    if axis == "skew":
        caption += (
            " α is the concentration of the Dirichlet distribution that deals out the records: small is more skewed."
        )
    return Section(title, pictures(axis, plots.against(material.trials, looks, axis), caption))


def _pareto(material: Material, looks: Looks) -> Section:
    title = "Pareto front"
    objectives = material.study.objectives
    if len(objectives) < 2:
        return Section(title, missing=f"one objective only ({shown(_first(material)).title})")
    if not material.fronts:
        return Section(title, missing="no trial has finished")
    caption = (
        f"All finished trials ({_of(material.trials)}); a filled one is on the front: no other one of its panel is at least "
        "as good in every objective and better in one."
    )
    lines = []
    for label, found in material.fronts.items():
        group = [trial for trial in material.trials if material.study.joint or trial.condition == label]
        for point in sorted(found.values[found.marked].tolist()):
            trial = next(trial for trial in group if list(trial.row.objectives.values()) == point)
            scores = (_score(value, name) for value, name in zip(point, objectives, strict=True))
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


def _spread(material: Material, looks: Looks) -> Section:
    title = "Spread over hospitals"
    chosen = [trial for trial in best_of_each(material.trials) if trial.trains_global]
    if not chosen:
        return Section(title, missing="no trial with a global model has finished")
    caption = (
        "Macro-F1 of each hospital’s test beats under the global model (grey) and under its own, best trial of each method "
        f"({_numbers(chosen)}), all seeds. A box spans the middle half, its line is the median. Above: the share of hospitals "
        "that personalisation hurt, that is, whose macro-F1 fell."
    )
    return Section(title, pictures("spread", plots.spread(material.trials, looks), caption))


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


def _score(value: float | None, path: str) -> str:
    return shown(path).number(value, NONE)
