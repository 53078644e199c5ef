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

import sweeps.edges as edges
import sweeps.exhibits as exhibits
import sweeps.guessed as guessed
import sweeps.judged as judged
import sweeps.people as people
import sweeps.plots as plots
from engine import __version__
from engine.files import whole, write_text
from engine.homes import claim
from engine.own.reference import titled
from engine.provenance import provenance
from engine.result import Result
from engine.settings import dump_yaml
from sweeps.answer import HOW, Answer, answers
from sweeps.drawing import ONLY, Looks, looks_of
from sweeps.material import Finished, Material, read_material
from sweeps.page import (
    Block,
    Cell,
    Heading,
    Page,
    Part,
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
from sweeps.scores import CLOCKED, SPENT, shown
from sweeps.space import TUNED_ON_TEST, conditions
from sweeps.text import leads_read, listed, settings, short, spoken
from sweeps.tuned import total_trials

PAGE = "report.html"
ROWS = 20  # of a condition's table; the rest is for `compare`
STATES = ("COMPLETE", "RUNNING", "PRUNED", "FAIL", "WAITING", "LOST")
# the numbers of a trial, behind its objectives
ORDER = (
    "final/personal/macro_f1",
    "final/personal/mean_hospital_macro_f1",
    "final/personal/rare_recall",
    "final/personal/accuracy",
    "final/global/macro_f1",
    "final/personal/hurt_share",
    *SPENT,
    "timing/gradient_evaluations",
    *CLOCKED,
    "ledger/overhead_share",
    "timing/total_seconds",
)
WITH_SD = (ORDER[0], ORDER[3])
DRAWN = "curves time recall hospitals skew pareto importance slices slopes spread abstention membership ledger".split()
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
        exhibits.who_gains(material, found, looks),
        exhibits.classes(material, looks),
        _cohorts(material),
        exhibits.curves(material, looks),
        *([exhibits.over_time(material)] if any(t.times for t in material.trials) else ()),
        exhibits.against(material, looks, "hospitals"),
        exhibits.against(material, looks, "skew"),
        exhibits.pareto(material, looks),
        exhibits.importance(material),
        exhibits.slices(material),
        exhibits.spread(material, looks),
        *people.sections(material.trials, looks),
        *judged.sections(material),
        *guessed.sections(material.trials, looks),
        *edges.sections(material),
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
    units = {result.cohort.unit for trial in material.trials for result in trial.results}
    write_text(out / PAGE, spoken(page.html(), units.pop()) if len(units) == 1 else page.html())
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
    attacks = dict.fromkeys(trial.outcome.attack for trial in material.trials if trial.outcome.attack)
    said += [f"Simulated attack: {text}" for text in attacks]
    private = dict.fromkeys(trial.outcome.privacy for trial in material.trials if trial.outcome.privacy)
    said += [f"Privacy: {text}." for text in private]
    hidden = dict.fromkeys(trial.outcome.hidden for trial in material.trials if trial.outcome.hidden)
    said += [f"Secure aggregation: {text}." for text in hidden]
    led = dict.fromkeys(trial.outcome.led for trial in material.trials if trial.outcome.led)
    said += [f"Led by successors of the coordinator: {text}." for text in led]
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
    data = ", digest ".join(filter(None, (titled(study.data.source), ", ".join(digests))))
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
        *_inputs(results),
    ]
    if lost := sum(bool(result.lost) for result in results):
        facts.append(("hospitals lost", f"in {lost} run(s) some hospitals could not be tested"))
    policies = {result.config.balance.policy.loose for result in results if result.synthesis is not None} - {""}
    facts += [("policy on synthetic beats", f"looser than the default: {loose}") for loose in sorted(policies)]
    return facts


def _inputs(results: Sequence[Result]) -> list[tuple[str, str]]:
    """What the samples are: the leads of records, or features."""
    if not results:
        return [("leads", "nothing was read yet")]
    features = dict.fromkeys(", ".join(result.cohort.features) for result in results if result.cohort.features)
    leads = dict.fromkeys(leads_read(result.cohort.leads) for result in results if result.cohort.leads)
    found = [("features", "; ".join(features)), ("leads", "; ".join(leads))]
    return [(name, words) for name, words in found if words]


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
    some = (*CLOCKED, *SPENT)  # of some runs only
    there = [path for path in some if any(trial.outcome.mean(path) is not None for trial in group)]
    paths = [path for path in ORDER if path not in objectives and (path in there or path not in some)]
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
        *(cell(exhibits.score_text(row.objectives.get(path), path)) for path in objectives),
        *(cell(_number(outcome, path)) for path in paths),
    ]


def _number(outcome: Outcome, path: str) -> str:
    spread = outcome.scores.get(path, NOTHING)
    sd = "" if spread.sd is None or path not in WITH_SD else f" ±\xa0{shown(path).number(spread.sd)}"
    return shown(path).number(spread.mean, exhibits.NONE) + sd


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
                    accuracy.number(trial.outcome.mean("cohort/local_majority_accuracy"), exhibits.NONE),
                    accuracy.number(trial.outcome.all_usual[0], exhibits.NONE),
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
        f"From {exhibits.how_many(with_one)}, a point for each run. The critical path is the time that rounds wait for the ledger, with "
        "hashing and signing; its share is that of the rounds’ time. A tick is the median."
    )
    heads = ["condition", "runs", "ms a round", "share %", "gas a round", "updates a run", "opening s", "closing s"]
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
                    f"{_median(r.close_seconds for r in runs):.2f}",
                ]
            )
        )
    text = "Medians over all runs of a condition. The ledger is opened once, before the first round, and closed after the last."
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
    return f"{why}: " + ", ".join(f"{shown(name).title} {exhibits.score_text(value, name)}" for name, value in values)


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


# --- Words ------------------------------------------------------------------------------------------------------------


def _counted(states: Iterable[str]) -> str:
    found = list(states)
    order = [*STATES, *sorted(set(found) - set(STATES))]
    return ", ".join(f"{found.count(s)} {s}" for s in order if s in found)


def _median(values: Iterable[float | None]) -> float:
    return float(np.median([value for value in values if value is not None]))
