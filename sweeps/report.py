"""`pulseledger report`: one HTML page and its pictures, all out of a study's folder. Reads only, apart from what it draws.

The page needs no network and no other file; the pictures lie beside it as PNGs, too.
"""

import base64
import html
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from matplotlib.figure import Figure
from optuna.trial import TrialState

from engine import __version__
from engine.data.config import CLASSES
from engine.files import whole
from engine.provenance import provenance
from engine.result import finished
from sweeps import plots
from sweeps.compare import rows_of
from sweeps.plots import ONLY, Trial
from sweeps.space import StudyConfig, conditions, search_space, total_trials
from sweeps.study import open_studies, read_study, trial_folder
from sweeps.trial import repeat_folder

PAGE = "report.html"
TUNED = 5  # finished trials that Optuna's pictures of the tuned keys need to say anything
ROWS = 20  # of a condition's table; the rest is for `compare`
NAMED = 20  # trials that a caption names
STATES = ("COMPLETE", "RUNNING", "PRUNED", "FAIL", "WAITING")


@dataclass(frozen=True)
class _Picture:
    """A figure with its file's stem, its caption, and a text for those who cannot see it."""

    stem: str
    figure: Figure
    caption: str


@dataclass(frozen=True)
class _Section:
    """A heading, HTML before the pictures, the pictures, and why there are none."""

    title: str
    text: str = ""
    pictures: tuple[_Picture, ...] = ()
    missing: str = ""


@dataclass(frozen=True)
class _Material:
    """Everything that the page is made of."""

    study: StudyConfig
    folder: Path
    rows: list[dict[str, Any]]
    trials: list[Trial]  # the finished ones, best first in each condition
    tuned: list[tuple[str, str, optuna.Study]]  # condition, objective, and an Optuna study of the tuned trials
    front: dict[str, tuple[np.ndarray, np.ndarray]]
    attributes: dict[int, dict[str, Any]]  # number of a trial -> what the driver noted about it
    began: datetime | None
    ended: datetime | None


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
    material = _read(folder)
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
    with whole(out / PAGE) as part:
        part.write_text(_page(material, sections, drawn), encoding="utf-8")
    return written


# --- Reading ----------------------------------------------------------------------------------------------------------


def _read(folder: Path) -> _Material:
    study = read_study(folder)
    keys = {c.label: c.keys for c in conditions(study)}
    rows = rows_of(folder)
    trials = []
    for row in rows:
        if row["state"] == "COMPLETE":
            home = trial_folder(folder, row["trial"])
            results = tuple(_cut(finished(repeat_folder(home, r))) for r in range(row["repeats"]))
            trials.append(Trial(row, keys.get(row["condition"], {}), results))
    attributes: dict[int, dict[str, Any]] = {}
    tuned, front, times = [], {}, []
    for stored, condition in open_studies(study, folder):
        label = condition.label if condition is not None else "all conditions"
        done = [t for t in stored.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
        attributes |= {t.user_attrs.get("trial", -1): t.user_attrs for t in stored.get_trials(deepcopy=False)}
        times += [
            t for trial in stored.get_trials(deepcopy=False) for t in (trial.datetime_start, trial.datetime_complete)
        ]
        if done and len(study.objectives) > 1:
            chosen = {t.number for t in stored.best_trials}
            front[label] = (np.array([t.values for t in done]), np.array([t.number in chosen for t in done]))
        # a baseline has no tuned keys, and Optuna's pictures stumble over what is not the same in all trials
        drawn = [t for t in done if "baseline" not in t.user_attrs and t.params]
        tuned += [(label, name, _alone(drawn, i, study.objectives[name])) for i, name in enumerate(study.objectives)]
    known = sorted(t for t in times if t is not None)
    began, ended = (known[0], known[-1]) if known else (None, None)
    return _Material(study, folder, rows, trials, tuned, front, attributes, began, ended)


def _alone(
    trials: Sequence[optuna.trial.FrozenTrial], number: int, direction: Literal["minimize", "maximize"]
) -> optuna.Study:
    """A study in memory of one objective only: of several, Optuna's importances take each for one to be minimised."""
    made = optuna.create_study(direction=direction)
    for trial in trials:
        made.add_trial(
            optuna.trial.create_trial(
                value=trial.values[number],
                params=trial.params,
                distributions=trial.distributions,
                system_attrs=trial.system_attrs,
            )
        )
    return made


def _cut(result: dict[str, Any]) -> dict[str, Any]:
    """A result without the scores of every hospital in every round, which are most of it."""
    return result | {"rounds": [row["validation"].get("macro_f1") for row in result["rounds"]]}


def _all_normal(trial: Trial) -> tuple[float | None, float | None]:
    """Accuracy and macro-F1 on the test beats of calling every beat N, from the supports of the classes."""
    support = trial.results[0]["final"]["global"]["support"]
    total, normal = sum(support.values()), support.get("N", 0)
    present = sum(count > 0 for count in support.values())
    if not total:
        return None, None
    # F1 of N is 2 TP / (2 TP + FP + FN) with TP = normal, FP = total - normal; the other classes have 0
    return normal / total, 2 * normal / (normal + total) / present


# --- Sections ---------------------------------------------------------------------------------------------------------


def _results(material: _Material) -> _Section:
    """The table of each condition, best first."""
    study = material.study
    scores = list(study.objectives)
    first = scores[0]
    several = any(len(t.results) > 1 for t in material.trials)
    parts = [
        f"<p>Best first by {_code(first)} ({'highest' if study.objectives[first] == 'maximize' else 'lowest'} first)."
        " Accuracy, macro-F1 and recalls are those of the personal models on the test beats of all hospitals together,"
        " “global” those of the global model there; hurt is the share of hospitals whose macro-F1 is lower under their"
        " personal model; gradients are gradient evaluations. "
        + (
            "± is the standard deviation over a trial’s seeds."
            if several
            else "Each trial ran with one seed: no spread."
        )
        + " Trials marked * were given, not tuned. The two lines below each table need no model: each hospital’s"
        " commonest train class, and N for every beat.</p>"
    ]
    for label in dict.fromkeys(row["condition"] for row in material.rows):
        group = [t for t in material.trials if t.condition == label]
        others = [r for r in material.rows if r["condition"] == label and r["state"] != "COMPLETE"]
        if label != ONLY:
            parts.append(f"<h3>{_text(label)}</h3>")
        if not group:
            counted = _counted(r["state"] for r in others)
            parts.append(f"<p class=missing>No trial of this condition has finished ({counted}).</p>")
            continue
        parts.append(_trial_table(group, scores, material.attributes))
        if len(group) > ROWS:
            parts.append(
                f"<p>{len(group) - ROWS} more finished trials are left out here: <code>pulseledger compare --csv</code>.</p>"
            )
        parts += [f"<p class=leaky>Leaky: {_text(text)}</p>" for text in group[0].results[0]["cohort"]["leaky"]]
    if not material.rows:
        return _Section("Results", missing="no trial has begun yet")
    if not material.trials:
        parts = [f"<p class=missing>No trial has finished: {_counted(r['state'] for r in material.rows)}.</p>"]
    return _Section("Results", "".join(parts))


def _trial_table(group: Sequence[Trial], objectives: Sequence[str], attributes: dict[int, dict[str, Any]]) -> str:
    first = group[0]
    there = {c for t in group for c in t.results[0]["final"]["personal"]["recall"]}
    classes = [c for c in CLASSES if c in there]
    heads = ["trial", "method", "settings", *objectives, "accuracy %", "macro-F1", *(f"recall {c}" for c in classes)]
    heads += ["global acc. %", "global macro-F1", "hurt %", "gradients", "s"]
    shown = [t for i, t in enumerate(group) if i < ROWS]
    lines = []
    for trial in shown:
        row = trial.row
        keys = [
            f"{k.rsplit('.', 1)[-1]}={_short(v)}"
            for k, v in row["keys"].items()
            if k not in ("federation.algorithm", "federation.perfedavg.variant")
        ]
        keys += [f"(infeasible: {text})" for text in attributes[row["trial"]].get("infeasible", [])]
        lines.append(
            [
                f"{row['trial']}{'*' if row['baseline'] else ''}",
                trial.method,
                " ".join(keys),
                *(_score(row["objectives"].get(name)) for name in objectives),
                _spread_number(row, "personal_accuracy", 100, 2),
                _spread_number(row, "personal_macro_f1", 1, 3),
                *(_number(row.get(f"personal_recall_{c}"), 1, 3) for c in classes),
                _number(row["global_accuracy"] if trial.trains_global else None, 100, 2),
                _number(row["global_macro_f1"] if trial.trains_global else None, 1, 3),
                _number(row["hurt_share"] if trial.trains_global else None, 100, 0),
                f"{row['gradient_evaluations']:,.0f}",
                _number(row["seconds"], 1, 1),
            ]
        )
    accuracy, macro_f1 = _all_normal(first)
    blank = [""] * len(objectives)
    majority = [first.row["local_majority_accuracy"], first.row["local_majority_macro_f1"]]
    foot = [
        ["", name, "", *blank, _number(a, 100, 2), _number(f, 1, 3), *[""] * (len(classes) + 5)]
        for name, a, f in (("local majority", *majority), ("all N", accuracy, macro_f1))
    ]
    return _table(heads, lines, foot, words=(1, 2))


def _cohorts(material: _Material) -> _Section:
    """Who the hospitals are in each condition."""
    first: dict[str, Trial] = {}
    for trial in material.trials:
        first.setdefault(trial.condition, trial)
    if not first:
        return _Section("Cohorts", missing="no trial has finished")
    heads = ["condition", "hospitals", "beats", "test beats", "label distance", "size variation"]
    heads += ["local majority %", "all N %", "classes that hospitals lack"]
    lines = []
    for label, trial in first.items():
        cohort = trial.results[0]["cohort"]
        lacking = [f"{c}: {len(who)} of {trial.hospitals}" for c, who in cohort["missing"].items() if who]
        lines.append(
            [
                label,
                str(trial.hospitals),
                f"{cohort['beats']:,}",
                f"{sum(h['test'] for h in cohort['hospitals']):,}",
                _number(cohort["heterogeneity"]["emd_mean"], 1, 3),
                _number(cohort["heterogeneity"]["size_cv"], 1, 2),
                _number(trial.row["local_majority_accuracy"], 100, 2),
                _number(_all_normal(trial)[0], 100, 2),
                ", ".join(lacking) or "none",
            ]
        )
    text = (
        "<p class=lead>Label distance is the mean distance (earth mover’s, 0 to 2) between a hospital’s shares of the classes and those "
        "of all; size variation is the standard deviation of the hospitals’ sizes over their mean.</p>"
    )
    return _Section("Cohorts", text + _table(heads, lines, words=(0, 8)))


def _curves(material: _Material) -> _Section:
    title = "Learning curves"
    if not material.trials:
        return _Section(title, missing="no trial has finished")
    figures = plots.learning_curves(material.trials)
    caption = (
        f"Macro-F1 of the global model on the validation beats by round, from {_of(material.trials)}. A line is the median "
        "over all trials and seeds of a method, its band their middle half; where a method ran once there is no band. The "
        "marks behind the last round are the medians of the personal models, after personalisation. Local-only has no "
        "global model."
    )
    return _Section(title, pictures=_pictures("curves", figures, caption))


def _recalls(material: _Material) -> _Section:
    title = "Recall of each class"
    if not material.trials:
        return _Section(title, missing="no trial has finished")
    caption = (
        "Recall of the personal models on the test beats of all hospitals together: the best trial of each method in each "
        f"condition by {next(iter(material.study.objectives))} ({_numbers(plots.best(material.trials))}), mean over its seeds. "
        "A cell is empty where the class has no test beat."
    )
    return _Section(title, pictures=_pictures("recall", plots.recall_map(material.trials), caption))


def _against(material: _Material, axis: str) -> _Section:
    title = "Scores against the number of hospitals" if axis == "hospitals" else "Scores against the skew"
    there = {t.hospitals if axis == "hospitals" else t.skew for t in material.trials}
    if len(there) < 2:
        one = next(iter(there), None)
        if one is None:
            return _Section(title, missing="no trial has finished")
        what = f"one hospital count only ({one})" if axis == "hospitals" else f"one skew only ({plots.skew_name(one)})"  # type: ignore[arg-type]
        return _Section(title, missing=what)
    bars = "bars are the standard deviation over seeds" if material.study.repeats > 1 else "one seed each"
    caption = (
        "Accuracy and macro-F1 of the personal models on the test beats, the best trial of each method in each condition by "
        f"{next(iter(material.study.objectives))} ({_numbers(plots.best(material.trials))}); {bars}. The dotted line is what each "
        "hospital’s commonest class reaches without a model."
    )
    if axis == "skew":
        caption += (
            " α is the concentration of the Dirichlet distribution that deals out the records: small is more skewed."
        )
    return _Section(title, pictures=_pictures(axis, plots.against(material.trials, axis), caption))


def _pareto(material: _Material) -> _Section:
    title = "Pareto front"
    objectives = material.study.objectives
    if len(objectives) < 2:
        return _Section(title, missing=f"one objective only ({next(iter(objectives))})")
    if not material.front:
        return _Section(title, missing="no trial has finished")
    caption = (
        f"All finished trials ({_of(material.trials)}); a trial is on the front when no other one of its panel is at least as "
        "good in every objective and better in one."
    )
    lines = []
    joined = len(material.front) == 1 and len({t.condition for t in material.trials}) > 1
    for label, (values, front) in material.front.items():
        group = [t for t in material.trials if joined or t.condition == label]
        ordered = sorted(values[front].tolist())
        for point in ordered:
            who = [t for t in group if list(t.row["objectives"].values()) == point]
            for trial in who[:1]:
                keys = " ".join(f"{k.rsplit('.', 1)[-1]}={_short(v)}" for k, v in trial.row["keys"].items())
                lines.append([trial.condition, str(trial.row["trial"]), keys, *(_score(v) for v in point)])
    table = _table(["condition", "trial", "settings", *objectives], lines, words=(0, 2))
    return _Section(title, table, _pictures("pareto", plots.pareto_fronts(material.front, objectives), caption))


def _importance(material: _Material) -> _Section:
    caption = (
        "How much each tuned key matters in {label} for {objective}, from {count} tuned trials, as Optuna estimates it "
        "(PED-ANOVA: how far the better trials’ values of a key differ from all trials’). From few trials this is a hint."
    )
    return _tuned(material, "Importance of the tuned keys", "importance", caption, lambda *of: [plots.importance(*of)])


def _slices(material: _Material) -> _Section:
    caption = (
        "{objective} against each tuned key in {label}; a point is one of {count} tuned trials, later ones darker."
    )
    return _tuned(material, "Slices through the tuned keys", "slices", caption, plots.slices)


def _tuned(
    material: _Material, title: str, stem: str, caption: str, draw: Callable[[optuna.Study, str, str], list[Figure]]
) -> _Section:
    """Optuna's pictures, for each of its studies that has enough trials."""
    keys = [key for key, space in search_space(material.study).items() if not space.single()]
    if not keys:
        return _Section(title, missing="nothing was tuned")
    if stem == "importance" and len(keys) < 2:
        return _Section(title, missing=f"one key only was tuned ({keys[0]})")
    pictures: list[_Picture] = []
    few = {}
    for label, objective, study in material.tuned:
        count = len(study.trials)
        if count < TUNED or len({t.value for t in study.trials}) == 1:
            few[label] = f"{label}: {count}" + (", all with one score" if count >= TUNED else "")
            continue
        for figure in draw(study, objective, label):
            text = caption.format(
                label="the study" if label == ONLY else f"“{label}”", count=count, objective=objective
            )
            pictures.append(_Picture(f"{stem}-{len(pictures) + 1}", figure, text))
    where = (
        "any condition" if len(few) == len({label for label, _, _ in material.tuned}) > 1 else "; ".join(few.values())
    )
    note = f"fewer than {TUNED} tuned trials, or none that differ, have finished in {where}" if few else ""
    if not pictures:
        return _Section(title, missing=note)
    return _Section(title, f"<p class=missing>Left out: {_text(note)}.</p>" if note else "", pictures=tuple(pictures))


def _spread(material: _Material) -> _Section:
    title = "Spread over hospitals"
    chosen = [t for t in plots.best(material.trials) if t.trains_global]
    if not chosen:
        return _Section(title, missing="no trial with a global model has finished")
    caption = (
        "Macro-F1 of each hospital’s test beats under the global model and under its own, best trial of each method "
        f"({_numbers(chosen)}), all seeds. A box spans the middle half, its line is the median. Above: the share of hospitals "
        "that personalisation hurt, that is, whose macro-F1 fell."
    )
    return _Section(title, pictures=_pictures("spread", plots.spread(material.trials), caption))


def _ledger(material: _Material) -> _Section:
    title = "What the ledger costs"
    with_one = [t for t in material.trials if any(r["ledger"]["backend"] != "none" for r in t.results)]
    if not with_one:
        return _Section(title, missing="no finished trial has a ledger" if material.trials else "no trial has finished")
    caption = (
        f"From {_of(with_one)}, a point for each run. The critical path is the time that rounds wait for the ledger, with "
        "hashing and signing; its share is that of the rounds’ time. A tick is the median."
    )
    heads = ["condition", "runs", "ms a round", "share %", "gas a round", "updates a run", "opening s"]
    lines = []
    for label in dict.fromkeys(t.condition for t in with_one):
        runs = [r["ledger"] for t in with_one if t.condition == label for r in t.results if r["ledger"].get("rounds")]
        middle = {
            name: float(np.median([ledger[name] for ledger in runs]))
            for name in ("overhead_share", "gas_per_round", "updates", "open_seconds")
        }
        lines.append(
            [
                label,
                str(len(runs)),
                _number(float(np.median([1000 * r["critical_path_seconds"] / r["rounds"] for r in runs])), 1, 2),
                _number(middle["overhead_share"], 100, 2),
                f"{middle['gas_per_round']:,.0f}",
                f"{middle['updates']:,.0f}",
                _number(middle["open_seconds"], 1, 2),
            ]
        )
    text = "<p class=lead>Medians over all runs of a condition. Opening the ledger happens once, before the first round.</p>"
    return _Section(
        title, text + _table(heads, lines, words=(0,)), _pictures("ledger", plots.ledger_cost(with_one), caption)
    )


def _unfinished(material: _Material) -> _Section:
    title = "Failed and pruned trials"
    rows = sorted((r for r in material.rows if r["state"] in ("FAIL", "PRUNED")), key=lambda r: r["trial"])
    if not rows:
        return _Section(title, missing="no trial has failed or been pruned")
    lines = [
        [
            str(row["trial"]),
            row["state"],
            row["condition"],
            " ".join(f"{k.rsplit('.', 1)[-1]}={_short(v)}" for k, v in row["keys"].items()),
            row["error"] or _why(material.attributes[row["trial"]], material.study, row["state"]),
        ]
        for row in rows
    ]
    return _Section(title, _table(["trial", "state", "condition", "settings", "reason"], lines, words=(1, 2, 3, 4)))


def _why(attributes: dict[str, Any], study: StudyConfig, state: str) -> str:
    """Why a trial was pruned, from its scores at the rungs, or that nobody wrote why it failed."""
    if state != "PRUNED":
        return "no reason was written"
    step = attributes.get("pruned")
    values = attributes.get(f"rung/{step}", {}).get("values", [])
    reached = ", ".join(f"{name} {_score(value)}" for name, value in zip(study.objectives, values, strict=False))
    return "stopped by the pruner" + (f" at rung {step}" if step is not None else "") + (reached and f": {reached}")


# --- HTML -------------------------------------------------------------------------------------------------------------

STYLE = """
@page { size: A4; margin: 15mm }
* { box-sizing: border-box }
body { font: 10pt/1.4 "DejaVu Sans", Verdana, sans-serif; color: #111; background: #fff; max-width: 190mm;
       margin: 0 auto; padding: 5mm }
h1 { font-size: 17pt; margin: 0 0 1mm } h2 { font-size: 13pt; margin: 8mm 0 2mm; border-bottom: 0.4mm solid #111 }
h3 { font-size: 10pt; margin: 4mm 0 1mm } p { margin: 1mm 0 2mm } code { font: 0.92em "DejaVu Sans Mono", monospace }
table { border-collapse: collapse; font-size: 7pt; line-height: 1.25; width: 100%; margin-bottom: 2mm }
th { font-weight: bold; text-align: right; vertical-align: bottom; border-bottom: 0.2mm solid #111; padding: 0.6mm 0.7mm }
td { text-align: right; vertical-align: top; padding: 0.5mm 0.7mm; border-bottom: 0.1mm solid #ddd;
     font-variant-numeric: tabular-nums }
.word { text-align: left; overflow-wrap: break-word; min-width: 16mm } tfoot td { border-bottom: 0; font-style: italic }
th.word { overflow-wrap: normal }
.facts { width: auto; font-size: 9pt } .facts td { border: 0; text-align: left }
.facts td:first-child { color: #444; padding-right: 5mm; white-space: nowrap }
figure { margin: 3mm 0 5mm } img { max-width: 100%; max-height: 225mm; display: block; margin: 0 auto }
figcaption { font-size: 8.5pt; color: #222; margin-top: 1mm }
.missing { color: #444; font-style: italic } .leaky { font-weight: bold }
thead { display: table-header-group } tfoot { display: table-row-group }
@media print { body { padding: 0; max-width: none } h2, h3, .lead { break-after: avoid } figure, table, tr { break-inside: avoid }
               p { orphans: 3; widows: 3 } }
"""


def _page(material: _Material, sections: Sequence[_Section], drawn: dict[str, bytes]) -> str:
    name = _text(material.study.name)
    # nothing may be fetched, whatever a name in the study says
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        f"<title>{name}: report</title><style>{STYLE}</style></head><body>",
        f"<h1>{name}</h1><p>Report of a PulseLedger study</p>",
        _facts(material),
    ]
    for section in sections:
        parts.append(f"<section><h2>{_text(section.title)}</h2>")
        if section.missing:
            parts.append(f"<p class=missing>Left out: {_text(section.missing)}.</p>")
        parts.append(section.text)
        for picture in section.pictures:
            data = base64.b64encode(drawn[picture.stem]).decode()
            parts.append(
                f'<figure id="{picture.stem}"><img alt="{_text(section.title)}" style="width: {picture.figure.get_figwidth():.2f}in" '
                f'src="data:image/png;base64,{data}">'
                f"<figcaption>{_text(picture.caption)}</figcaption></figure>"
            )
        parts.append("</section>\n")
    parts.append("</body></html>\n")
    return "\n".join(parts)


def _facts(material: _Material) -> str:
    study = material.study
    wanted = total_trials(study)
    begun = len(material.rows)
    states = _counted(row["state"] for row in material.rows) or "none has begun"
    if begun < wanted:
        states += f"; {wanted - begun} of {wanted} not begun"
    running = any(row["state"] in ("RUNNING", "WAITING") for row in material.rows) or begun < wanted
    if begun and not material.trials:
        states += ". <b>No trial has finished, so there are no scores to show.</b>"
    elif running:
        states += ". <b>The study is not finished: what follows is an interim state.</b>"
    data: str = study.data.source
    if material.trials:
        digests = sorted({r["cohort"]["digest"][:16] for t in material.trials for r in t.results})
        data += f", beats {', '.join(digests)}"
    form = "%Y-%m-%d %H:%M"
    dates = f"{material.began:{form}} to {material.ended:{form}}" if material.began and material.ended else "not begun"
    lost = sum(bool(r.get("lost")) for t in material.trials for r in t.results)
    facts = [
        ("runs", dates),
        ("trials", states),
        ("tuned for", ", ".join(f"{name} ({d})" for name, d in study.objectives.items())),
        ("design", f"{len(conditions(study))} condition(s), sampler {study.sampler}, {study.repeats} seed(s) a trial, {study.federation.rounds} rounds"),
        ("data", f"{data}; classes {study.data.classes}; split {study.cohort.split}"),
        ("code", f"drawn with pulseledger {__version__}{_commit()}"),
    ]  # fmt: skip
    if lost:
        facts.append(("hospitals lost", f"in {lost} run(s) some hospitals could not be tested"))
    lines = "".join(f"<tr><td>{k}</td><td>{v if k == 'trials' else _text(v)}</td></tr>" for k, v in facts)
    return f"<table class=facts>{lines}</table>"


def _commit() -> str:
    """The commit of this code, where it lies in a repository."""
    made = provenance()
    changed = ", changed since" if made.changed else ""
    return f", commit {made.commit[:12]}{changed}" if made.commit else ""


def _table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    foot: Sequence[Sequence[str]] = (),
    words: Iterable[int] = (),
) -> str:
    """An HTML table; columns in `words` are text, the others numbers."""
    texts = set(words)

    def line(cells: Sequence[str], tag: str) -> str:
        return (
            "<tr>"
            + "".join(
                f"<{tag}{' class=word' if i in texts else ''}>{_text(cell) if tag == 'td' else _breakable(cell)}</{tag}>"
                for i, cell in enumerate(cells)
            )
            + "</tr>"
        )

    body = "".join(line(row, "td") for row in rows)
    end = f"<tfoot>{''.join(line(row, 'td') for row in foot)}</tfoot>" if foot else ""
    return f"<table><thead>{line(heads, 'th')}</thead><tbody>{body}</tbody>{end}</table>"


def _pictures(stem: str, figures: Sequence[Figure], caption: str) -> tuple[_Picture, ...]:
    if len(figures) == 1:
        return (_Picture(stem, figures[0], caption),)
    return tuple(
        _Picture(f"{stem}-{i + 1}", figure, f"{caption} (Part {i + 1} of {len(figures)}.)")
        for i, figure in enumerate(figures)
    )


def _of(trials: Sequence[Trial]) -> str:
    """How many trials and runs a picture is made of."""
    runs = sum(len(t.results) for t in trials)
    return f"{len(trials)} finished trial{'s' * (len(trials) != 1)}" + (
        f" of {runs} runs" if runs > len(trials) else ""
    )


def _numbers(trials: Sequence[Trial]) -> str:
    numbers = sorted(t.row["trial"] for t in trials)
    more = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return f"trial{'s' * (len(numbers) != 1)} {', '.join(map(str, numbers[:NAMED]))}{more}"


def _counted(states: Iterable[str]) -> str:
    found = list(states)
    order = [*STATES, *sorted(set(found) - set(STATES))]
    return ", ".join(f"{found.count(s)} {s}" for s in order if s in found)


def _text(value: Any) -> str:
    return html.escape(str(value))


def _breakable(heading: str) -> str:
    """A heading that may be broken after the slashes and underscores of a score's path."""
    return _text(heading).replace("/", "/<wbr>").replace("_", "_<wbr>")


def _code(value: str) -> str:
    return f"<code>{_text(value)}</code>"


def _number(value: float | None, factor: float, digits: int) -> str:
    return "–" if value is None else f"{factor * value:.{digits}f}"


def _spread_number(row: dict[str, Any], key: str, factor: float, digits: int) -> str:
    sd = row[f"{key}_sd"]
    return _number(row[key], factor, digits) + (f" ±\xa0{factor * sd:.{digits}f}" if sd is not None else "")


def _score(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if 0.01 <= abs(value) < 100 else _short(float(value))


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "–" if value is None else str(value)
