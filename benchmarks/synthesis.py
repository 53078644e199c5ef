"""The tables of docs/synthesis.md out of the folder of a study over `balance.method` and `federation.algorithm`.

    python benchmarks/synthesis.py runs/synthesis

A federation gives two rows: its global model, and the hospitals' personal ones. Differences are paired over seeds within
one personalisation, against no balancing, the weighted loss and repeated beats: mean and 95 % interval (Student's t). Reads only.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import ttest_1samp

from engine.data.config import CLASSES
from engine.ledger.subjects.policy import allowed, explain, policy_of, shortcomings
from engine.ledger.subjects.synthetic import SyntheticReport, SyntheticRequest
from engine.ledger.typed import record_from_json
from engine.result import CohortReport, HospitalScores, Model, Result, Scores
from engine.synthesis.config import BalanceConfig, PolicyConfig
from engine.synthesis.reviews import read_state
from sweeps.folder import repeat_folder, trial_folder
from sweeps.rows import rows_of
from sweeps.stored import interval

RARE = "SVF"
REFERENCES = ("none", "class_weighted", "oversample")


class Run(NamedTuple):
    """What one repeat came to, with one kind of model."""

    seed: int
    scores: Scores
    cohort: CohortReport


Runs = dict[tuple[str, str], list[Run]]  # (personalisation, method) -> a run for each seed
Score = Callable[[Scores], float | None]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of the study")
    folder = parser.parse_args().study
    folders = repeats_of(folder)
    runs = runs_of(folders)
    if not runs:
        print(f"{folder}: holds no complete trial.", file=sys.stderr)
        return 2
    for title, rows in {
        "Beats of each class at each hospital: all / tested": cohort_table(runs),
        "Scores, mean ± standard deviation over the seeds": score_table(runs),
        **{f"Less those of {one}, with 95 % interval": difference_table(runs, one) for one in REFERENCES},
        "Recall at each hospital": hospital_table(runs),
        "Batches: evidence, and what the default policy would decide": batch_table(folders),
    }.items():
        print(f"\n{title}\n\n{markdown(rows)}")
    return 0


def repeats_of(folder: Path) -> dict[tuple[str, str], list[Path]]:
    """(algorithm, balancing) -> folders of the repeats, seed by seed, of the complete trials."""
    found: dict[tuple[str, str], list[Path]] = {}
    for row in sorted(rows_of(folder), key=lambda row: row.trial):
        if row.outcome is not None:
            paths = [repeat_folder(trial_folder(folder, row.trial), i) for i in range(row.outcome.repeats)]
            config = Result.read(paths[0]).config
            found[config.federation.algorithm, balancing(config.balance)] = paths
    return found


def runs_of(folders: Mapping[tuple[str, str], Sequence[Path]]) -> Runs:
    """The scores on the test part, for each personalisation."""
    runs: Runs = {}
    results = {names: [Result.read(path) for path in paths] for names, paths in folders.items()}
    models: tuple[Model, ...] = ("global", "personal")
    for model in models:
        for (algorithm, method), repeats in results.items():
            found = [Run(result.config.seed, result.final.of(model), result.cohort) for result in repeats]
            runs.setdefault((personalisation(algorithm, model), method), []).extend(found)
    order = {name: i for i, name in enumerate(dict.fromkeys(name for name, _ in runs))}
    return dict(sorted(runs.items(), key=lambda item: order[item[0][0]]))


def personalisation(algorithm: str, model: Model) -> str:
    """What the rows are called: FedAvg's global model is the one without personalisation."""
    named = {("fedavg", "global"): "none", ("fedavg", "personal"): "fine-tuning"}
    adapted = "adapted" if model == "personal" else "not adapted"
    return named.get((algorithm, model), f"{algorithm}, {adapted}")


def balancing(settings: BalanceConfig) -> str:
    """What the rows are called: the method, for weights with their cap where it is not the default."""
    capped = settings.method == "class_weighted" and settings.max_weight != BalanceConfig().max_weight
    return f"class_weighted, at most {settings.max_weight:g}" if capped else settings.method


def rare_recall(scores: Scores) -> float | None:
    """Mean recall of the rare classes that are tested."""
    known = [recall for c in RARE if (recall := scores.recall.get(c)) is not None]
    return statistics.fmean(known) if known else None


def paired(runs: Runs, one: tuple[str, str], other: tuple[str, str], score: Score) -> list[float]:
    """Differences of a score, seed by seed."""
    values = [{run.seed: score(run.scores) for run in runs[key]} for key in (one, other)]
    common = sorted(set(values[0]) & set(values[1]))
    pairs = [(values[0][seed], values[1][seed]) for seed in common]
    return [a - b for a, b in pairs if a is not None and b is not None]


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction."""
    order, corrected, worst = np.argsort(p), [0.0] * len(p), 0.0
    for rank, i in enumerate(order.tolist()):
        worst = max(worst, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = worst
    return corrected


# --- Tables -----------------------------------------------------------------------------------------------------------


def columns(runs: Runs) -> dict[str, Score]:
    """Heading -> score, of the classes that there are."""
    classes = _first(runs).scores.recall
    by_class: dict[str, Score] = {c: lambda scores, c=c: scores.recall[c] for c in classes}  # type: ignore[misc]
    return {"macro-F1": lambda scores: scores.macro_f1, "rare recall": rare_recall, **by_class}


def cohort_table(runs: Runs) -> list[list[str]]:
    run = _first(runs)
    tested = {row.id: row.support for row in run.scores.per_hospital}
    rows = [["hospital", "records", *run.scores.recall]]
    for hospital in run.cohort.hospitals:
        counts = (f"{n:,} / {tested.get(hospital.id, {}).get(c, 0):,}" for c, n in hospital.classes.items())
        rows.append([str(hospital.id), " ".join(hospital.records), *counts])
    return rows


def score_table(runs: Runs) -> list[list[str]]:
    shown = columns(runs)
    rows = [["personalisation", "balancing", "seeds", *shown]]
    for (name, method), repeats in runs.items():
        cells = [_with_sd([score(run.scores) for run in repeats]) for score in shown.values()]
        rows.append([name, method, str(len(repeats)), *cells])
    always = [f"{_first(runs).cohort.local_majority_macro_f1:.3f}", *["–"] * (len(shown) - 1)]
    return [*rows, ["each hospital's commonest class", "", "", *always]]


def difference_table(runs: Runs, reference: str) -> list[list[str]]:
    """In points of 0.01; the last column is the p value of rare recall, corrected by Holm over the rows."""
    shown = columns(runs)
    rows, p = [], []
    for name, method in runs:
        if method == reference or (name, reference) not in runs:
            continue
        pairs = [paired(runs, (name, method), (name, reference), score) for score in shown.values()]
        rare = pairs[list(shown).index("rare recall")]
        p.append(float(ttest_1samp(rare, 0).pvalue) if len(rare) > 1 and len(set(rare)) > 1 else 1.0)
        rows.append([name, method, *map(_with_interval, pairs)])
    head = ["personalisation", "balancing", *shown, "p of rare recall"]
    said = (f"{value:.3f}" if value >= 0.001 else "<0.001" for value in holm(p))
    return [head, *([*row, value] for row, value in zip(rows, said, strict=True))]


def hospital_table(runs: Runs) -> list[list[str]]:
    """Mean over the seeds, for the rare classes and N wherever they are tested."""
    first = _first(runs).scores.per_hospital
    places = [(row.id, c) for c in f"{RARE}N" for row in first if row.support.get(c)]
    rows = [["personalisation", "balancing", *(f"{c} at {h} ({first_support(first, h, c):,})" for h, c in places)]]
    for (name, method), repeats in runs.items():
        cells = []
        for h, c in places:
            known = [row.recall[c] for run in repeats for row in run.scores.per_hospital if row.id == h]
            cells.append(f"{statistics.fmean(recall for recall in known if recall is not None):.3f}")
        rows.append([name, method, *cells])
    return rows


def first_support(rows: Sequence[HospitalScores], hospital: int, letter: str) -> int:
    """Test beats of a class at a hospital."""
    return next(row.support[letter] for row in rows if row.id == hospital)


def _first(runs: Runs) -> Run:
    return next(iter(runs.values()))[0]


def batch_table(folders: Mapping[tuple[str, str], Sequence[Path]]) -> list[list[str]]:
    """A row for each request of the first repeat of each balancing, of the first algorithm that has it."""
    head = ["balancing", "hospital", "class", "wanted", "made", "here", "by default"]
    rows = [[*head, *EVIDENCE]]
    seen = set()
    for (_, method), paths in folders.items():
        if method in seen or not (paths[0] / "synthetic").is_dir():
            continue
        seen.add(method)
        for row in (asked.document() for asked in read_state(paths[0]).requests):
            evidence = json.loads((paths[0] / row["file"]).read_text()) if row["file"] else {}
            plain = [
                method,
                row["hospital"],
                row["class"],
                row["wanted"],
                row["accepted"],
                row["status"],
                by_default(row),
            ]
            rows.append([*map(str, plain), *(_cell(_found(evidence, path)) for path in EVIDENCE.values())])
    return rows


EVIDENCE = {
    "real": "real",
    "held out": "held_out",
    "KS": "statistical.ks_mean",
    "MMD p": "statistical.mmd_p",
    "GRU score": "discriminative.gru.score",
    "linear score": "discriminative.linear.score",
    "TRTR": "utility.trtr.recall.CLASS",
    "TSTR": "utility.tstr.recall.CLASS",
    "change": "utility.change",
    "NNDR": "privacy.nndr",
    "copies": "privacy.near",
    "membership AUC": "privacy.membership_auc",
}


def by_default(row: Mapping[str, Any]) -> str:
    """What the default policy decides on the request of a row of `governance.json`, and on the same evidence."""
    policy = policy_of(PolicyConfig(), CLASSES)
    granted, reasons = allowed(policy, record_from_json(SyntheticRequest, row["record"]), 0)
    if reasons:
        return f"denied: {explain(reasons)}"
    shown = f"{granted} granted"
    if row["numbers"] is None:
        return shown
    report = SyntheticReport(bytes(32), row["accepted"], bytes(32), bytes(32), **row["numbers"])
    short = shortcomings(policy, report)
    return f"{shown}, rejected: {explain(short)}" if short else f"{shown}, accepted"


def _found(evidence: Mapping[str, Any], path: str) -> Any:
    value: Any = evidence
    for name in path.replace("CLASS", str(evidence.get("label"))).split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return str(value) if isinstance(value, int) else "–"  # not computable: the evidence says why


def _with_sd(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    return f"{statistics.fmean(known):.3f} ± {statistics.stdev(known) if len(known) > 1 else 0:.3f}"


def _with_interval(differences: Sequence[float]) -> str:
    if not differences:
        return "–"
    found = interval([100 * value for value in differences])
    if found.low is None or found.high is None:
        return f"{found.mean:+.1f}"
    sure = found.low > 0 or found.high < 0
    text = f"{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"
    return f"**{text}**" if sure else text


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table; the first row is the head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]])


if __name__ == "__main__":
    sys.exit(main())
