"""What MLflow shows of a run: names of curves and single points, parameters, tags, notes."""

import json
from collections.abc import Sequence
from typing import Any

from engine.config import RunConfig
from engine.provenance import provenance
from engine.result import CohortReport, Result, RoundSummary, Scores, SyntheticRow
from engine.settings import Section

HOSPITALS_SHOWN = 20  # with more than this, single hospitals are left to the files
CURVES = ("train/loss", "sweep/n_complete")  # one of them has every step of a run


def round_metrics(summary: RoundSummary) -> dict[str, float | None]:
    """Curves: names with a slash make sections in MLflow's UI."""
    validation = summary.validation
    return {
        "train/loss": summary.train_loss,
        "val/accuracy": validation.accuracy,
        "val/macro_f1": validation.macro_f1,
        "val/balanced_accuracy": validation.balanced_accuracy,
        **{f"val/recall/{c}": r for c, r in validation.recall.items()},
        "val/recall_min": validation.recall_min,
        "val/worst_hospital_macro_f1": validation.worst_hospital_macro_f1,
        "fl/participants": summary.participants,
        "fl/lost": len(summary.lost),
        "fl/gradient_evaluations": summary.gradient_evaluations,
        "ledger/hash_sign_seconds": summary.hash_seconds + summary.sign_seconds,
        "perf/round_s": summary.seconds,
        "perf/train_s": summary.train_seconds,
    }


def final_metrics(result: Result) -> dict[str, float | None]:
    """Single points of a finished run: `final/...` for the personal models, `final_global/...`, ledger, baselines."""
    personal, cohort, ledger = result.final.personal, result.cohort, result.ledger
    metrics = _scores_at("final_global", result.final.global_) | _scores_at("final", personal)
    metrics["final/hurt_share"] = personal.hurt_share
    if len(personal.per_hospital) <= HOSPITALS_SHOWN:
        for row in personal.per_hospital:
            metrics |= {
                f"hospital/{row.id:02d}/accuracy": row.accuracy,
                f"hospital/{row.id:02d}/macro_f1": row.macro_f1,
            }
    metrics |= {
        "baseline/local_majority_accuracy": cohort.local_majority_accuracy,
        "baseline/global_majority_accuracy": cohort.global_majority_accuracy,
        "cohort/emd_mean": cohort.heterogeneity.emd_mean,
        "cohort/js": cohort.heterogeneity.js,
        "final/ledger_overhead": ledger.overhead_share,
        "final/ledger_gas_per_round": ledger.gas_per_round,
        "final/ledger_critical_path_s": ledger.critical_path_seconds,
        "final/gradient_evaluations": result.timing.gradient_evaluations,
        "final/total_s": result.timing.total_seconds,
    }
    if result.synthesis is not None:
        metrics |= synthesis_metrics(result.synthesis)
    return metrics


def _scores_at(prefix: str, scores: Scores) -> dict[str, float | None]:
    return {
        f"{prefix}/accuracy": scores.accuracy,
        f"{prefix}/balanced_accuracy": scores.balanced_accuracy,
        f"{prefix}/macro_f1": scores.macro_f1,
        f"{prefix}/recall_min": scores.recall_min,
        f"{prefix}/worst_hospital_macro_f1": scores.worst_hospital_macro_f1,
        **{f"{prefix}/recall/{c}": recall for c, recall in scores.recall.items()},
    }


def synthesis_metrics(rows: Sequence[SyntheticRow]) -> dict[str, float | None]:
    """Synthetic beats that were asked for, granted and accepted; requests that were denied, and rejected at quality."""
    return {
        "synthesis/requested": sum(row.wanted for row in rows),
        "synthesis/granted": sum(row.granted for row in rows),
        "synthesis/accepted": sum(row.accepted for row in rows),
        "synthesis/denied": sum(row.status == "denied" for row in rows),
        "synthesis/rejected": sum(row.status == "rejected" for row in rows),
    }


def ledger_tags(result: Result) -> dict[str, str]:
    """Tags by which a figure can be traced to the ledger."""
    ledger = result.ledger
    tags = {"model_hash": result.model_hash, "ledger.backend": ledger.backend}
    held = {"head": ledger.head, "contract": ledger.contract, "chain_id": ledger.chain_id, "closing": ledger.closing}
    tags |= {f"ledger.{name}": str(value) for name, value in held.items() if value is not None}
    if result.lost or any(row.lost for row in result.rounds):
        tags["degraded"] = "true"
    return tags


def flat_params(config: RunConfig) -> dict[str, Any]:
    """The configuration with dotted names, as MLflow's parameters. A mapping of a user's own names is one value."""
    rows: dict[str, Any] = {}

    def walk(prefix: str, section: Section) -> None:
        for name in type(section).model_fields:
            value = getattr(section, name)
            if isinstance(value, Section):
                walk(f"{prefix}{name}.", value)
            else:  # as JSON values: a tuple is a list, and a symbol such as ? could not be the name of a parameter
                rows[prefix + name] = section.model_dump(mode="json", include={name})[name]

    walk("", config)
    del rows["out"]
    return rows


def data_profile(cohort: CohortReport) -> str:
    """What MLflow may know of the data, as JSON: the number of beats and the label histogram."""
    return json.dumps({"num_rows": cohort.beats, "classes": cohort.classes})


def run_note(command: str, file: str, more: str = "") -> str:
    """The note on a run's page, in Markdown: how to get the same numbers again."""
    made = provenance()
    code = f"PulseLedger {made.version}" + (f", commit `{made.commit}`" if made.commit else "")
    if made.changed:
        code += " **with changes that were not committed**"
    return (
        f"To get the same numbers, download `{file}` from the artifacts and run\n\n    {command}\n\nwith {code}.{more}"
    )


def source_tags() -> dict[str, str]:
    """Who and what produced a run; `MlflowClient.create_run` fills none of these in."""
    made = provenance()
    tags = {"mlflow.source.name": "pulseledger", "mlflow.source.type": "LOCAL"}
    if made.user:
        tags["mlflow.user"] = made.user
    if made.commit:
        tags["mlflow.source.git.commit"] = made.commit
        tags["mlflow.source.git.branch"] = made.branch
        tags["mlflow.source.git.dirty"] = str(made.changed).lower()
    if made.url:
        tags["mlflow.source.git.repoURL"] = made.url
    return tags
