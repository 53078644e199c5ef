"""What MLflow shows of a run: names of curves and single points, parameters, tags, notes."""

import json
from collections.abc import Sequence
from typing import Any

from engine.config import RunConfig
from engine.provenance import provenance
from engine.result import CohortReport, Result, RoundSummary, SyntheticRow
from engine.settings import Section
from engine.timing.report import Virtual

HOSPITALS_SHOWN = 20  # with more than this, single hospitals are left to the files
VIEW = "pulseledger"  # name of the view of an experiment's runs
EVENNESS = ("worst_hospital_macro_f1", "worst_tenth_macro_f1", "jain_index", "variance_hospital_macro_f1")
CURVES = ("train/loss", "sweep/n_complete")  # one of them has every step of a run


def round_metrics(summary: RoundSummary, trains_global: bool = True) -> dict[str, float | None]:
    """Curves: names with a slash make sections in MLflow's UI. Without a global model there is none to validate."""
    validation = summary.validation
    scores: dict[str, float | None] = {
        "val/accuracy": validation.accuracy,
        "val/macro_f1": validation.macro_f1,
        "val/balanced_accuracy": validation.balanced_accuracy,
        **{f"val/recall/{c}": r for c, r in validation.recall.items()},
        "val/recall_min": validation.recall_min,
        "val/worst_hospital_macro_f1": validation.worst_hospital_macro_f1,
    }
    return {
        "train/loss": summary.train_loss,
        **(scores if trains_global else {}),
        "fl/participants": summary.participants,
        "fl/lost": len(summary.lost),
        "fl/gradient_evaluations": summary.gradient_evaluations,
        "ledger/hash_sign_seconds": summary.hash_seconds + summary.sign_seconds,
        "perf/round_s": summary.seconds,
        "perf/train_s": summary.train_seconds,
        **_clock(summary.virtual),
    }


def _clock(virtual: Virtual | None) -> dict[str, float | None]:
    """The virtual clock after a round."""
    if virtual is None:
        return {}
    joules = virtual.compute_joules + virtual.radio_joules
    return {"clock/seconds": virtual.seconds, "clock/joules": joules, "clock/absent": len(virtual.absent)}


def final_paths(classes: Sequence[str]) -> tuple[str, ...]:
    """Which numbers of a result MLflow shows, under the paths that everybody else knows them by, the telling ones first."""
    test = ("macro_f1", "mean_hospital_macro_f1", "rare_recall", "accuracy", "balanced_accuracy", "recall_min")
    return (
        *(f"final/personal/{name}" for name in (*test, "hurt_share", *EVENNESS)),
        *(f"final/personal/{name}/{c}" for c in classes for name in ("recall", "precision", "f1")),
        *(f"final/global/{name}" for name in test[:4]),
        *(f"final/global/{name}/{c}" for c in classes for name in ("recall", "precision", "f1")),
        *(f"validation/personal/{name}" for name in test[:3]),
        *(f"calibration/{model}/ece" for model in ("personal", "global")),
        *(f"fairness/{model}/{group}/worst" for model in ("personal", "global") for group in ("sex", "age")),
        *(f"ledger/{name}" for name in ("overhead_share", "gas_per_round", "critical_path_seconds")),
        *(f"timing/{name}" for name in ("gradient_evaluations", "total_seconds")),
        *(
            f"clock/{name}"
            for name in ("virtual_seconds", "compute_joules", "radio_joules", "target_seconds", "target_joules")
        ),
        *(f"association/{name}" for name in ("utility", "energy_joules", "delay_seconds", "objective")),
        *(f"cohort/{name}" for name in ("local_majority_accuracy", "local_majority_macro_f1")),
    )


def is_global(path: str) -> bool:
    """Whether a number speaks of a global model, which local-only does not have."""
    return "/global/" in path or path.endswith("/hurt_share")


def final_metrics(result: Result) -> dict[str, float | None]:
    """Single points of a finished run: `final_paths`, each hospital's own scores, synthetic beats."""
    trained = result.config.federation.method.trains_global
    paths = final_paths(tuple(result.final.personal.recall))
    metrics = {path: result.score(path) for path in paths if trained or not is_global(path)}
    personal = result.final.personal
    if len(personal.per_hospital) <= HOSPITALS_SHOWN:
        for row in personal.per_hospital:
            metrics |= {
                f"hospital/{row.id:02d}/accuracy": row.accuracy,
                f"hospital/{row.id:02d}/macro_f1": row.macro_f1,
            }
    if result.privacy is not None:
        spent = ("epsilon", "delta", "alone", "pld", "rdp")
        metrics |= {f"privacy/{name}": getattr(result.privacy, name) for name in spent}
    if result.membership is not None:
        models = {"global": result.membership.global_, "personal": result.membership.personal}
        for model, guess in models.items() if trained else [("personal", models["personal"])]:
            metrics |= {f"membership/{model}/auc": guess.auc, f"membership/{model}/advantage": guess.advantage}
    if result.synthesis is not None:
        metrics |= synthesis_metrics(result.synthesis)
    return metrics


def view_of_runs() -> dict[str, Any]:
    """What the list of an experiment's runs shows first, as MLflow's pages keep a view that is shared: by condition, with the
    numbers that a study is about.
    """
    columns = ("final/personal/macro_f1", "final/personal/rare_recall", "ledger/overhead_share")
    return {
        "orderByKey": "tags.`condition`",
        "orderByAsc": True,
        "searchFilter": "",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": [*(f"metrics.`{column}`" for column in columns), "tags.`method`", "tags.`condition`"],
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsHiddenMode": "FIRST_10_RUNS",
        "runsVisibilityMap": {},
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
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


ALWAYS = ("federation.algorithm", "cohort.hospitals", "seed")  # parameters of a run, whatever they are


def params_of(config: RunConfig, keys: Sequence[str] | None = None) -> dict[str, Any]:
    """A handful of parameters, with dotted names; the whole configuration is among the artifacts.

    Args:
        keys: those that are shown, sections with all that is in them; None shows what differs from the defaults.
    """
    own = _flat(config)
    if keys is not None:
        wanted = tuple(keys)
        return {
            name: value
            for name, value in own.items()
            if name in wanted or name.startswith(tuple(f"{k}." for k in wanted))
        }
    plain = _flat(RunConfig())
    unlike = {name: value for name, value in own.items() if name in ALWAYS or plain.get(name) != value}
    return {name: value for name, value in unlike.items() if name.split(".")[0] not in ("name", "tracking")}


def _flat(config: RunConfig) -> dict[str, Any]:
    """The configuration with dotted names. A mapping of a user's own names is one value."""
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
