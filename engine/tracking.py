"""MLflow: one run for each federation, written beside the training.

Only this file imports mlflow. Every call names its run id through `MlflowClient`; the fluent API's ambient run is
thread-local and mixes up parallel runs.
"""

import os
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.background import Answer, Background
from engine.config import RunConfig, TrackingConfig
from engine.errors import PulseLedgerError

FLUSH_SECONDS = 1.0
FLUSH_METRICS = 900  # MLflow takes at most 1000 in one call
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED", "RUNNING": "RUNNING"}


class Tracker:
    """Writes runs into one MLflow store. Lives in a `Background`; metrics are sent in batches.

    Callers name a run by a key of their own, so that nobody has to wait for MLflow to make it. A step that a run already holds is not written again, so a resumed run may send its whole history.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        import logging

        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):  # after the import, which sets its own level
            logging.getLogger(name).setLevel(logging.ERROR)
        self._buffer: dict[str, list[Any]] = {}
        self._flushed = time.monotonic()
        self._last_step: dict[str, int] = {}
        self._runs: dict[str, str] = {}
        self._single: dict[str, dict[str, float]] = {}  # single points that a run holds already
        try:
            self._client = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(experiment)
            # a file store without an artifact folder of its own would put it into the working directory
            files = Path(uri.removeprefix("sqlite:///")).parent / "artifacts" if uri.startswith("sqlite:///") else None
            self._experiment = (
                found.experiment_id
                if found
                else self._client.create_experiment(
                    experiment,
                    artifact_location=files.resolve().as_uri() if files else None,
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            )
        except Exception as error:  # MLflow's own, the database's, the network's
            raise PulseLedgerError(
                f"tracking.uri: no MLflow store at {uri} ({str(error).splitlines()[0][:200]})."
            ) from None

    def open_run(
        self, key: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any], parent: str | None = None
    ) -> str:
        """Creates the run of `key`, or finds it again; returns MLflow's id. `parent` is the key of its parent run."""
        # keys hold names that users gave: a quote would end the filter's string
        tag = key.replace("'", "_")
        found = self._client.search_runs([self._experiment], f"tags.`pulseledger.key` = '{tag}'", max_results=1)
        if found:
            run = self._runs[key] = found[0].info.run_id
            self._client.update_run(run, status="RUNNING")
            history = self._client.get_metric_history(run, "train/loss")
            self._last_step[key] = max((metric.step for metric in history), default=0)
            self._single[key] = dict(found[0].data.metrics)
            return run
        all_tags = {**source_tags(), **tags, "pulseledger.key": tag}
        if parent is not None:
            all_tags["mlflow.parentRunId"] = self._runs[parent]
        run = self._client.create_run(self._experiment, run_name=name, tags=all_tags).info.run_id
        self._runs[key] = run
        self._last_step[key] = 0
        self._params(run, params)
        return run

    def log(self, key: str, step: int, metrics: Mapping[str, float | None]) -> None:
        """Points of curves; None is left out."""
        if step <= self._last_step[key]:
            return
        self._last_step[key] = step
        self._put(key, step, metrics)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def summary(self, key: str, metrics: Mapping[str, float | None]) -> None:
        """Single points, without a curve; one that the run holds already is not written again."""
        held = self._single.setdefault(key, {})
        new = {name: float(value) for name, value in metrics.items() if value is not None}
        self._put(key, 0, {name: value for name, value in new.items() if held.get(name) != value})
        held |= new

    def tags(self, key: str, tags: Mapping[str, str]) -> None:
        """Sets tags."""
        from mlflow.entities import RunTag

        self._client.log_batch(self._runs[key], tags=[RunTag(name, str(value)[:8000]) for name, value in tags.items()])

    def dataset(self, key: str, name: str, digest: str, source: str, profile: str) -> None:
        """The data as a digest: no beat leaves the hospitals."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name=name, digest=digest[:36], source_type="pulseledger", source=source, profile=profile)
        self._client.log_inputs(self._runs[key], [DatasetInput(dataset, [InputTag("mlflow.data.context", "train")])])

    def artifacts(self, key: str, paths: Sequence[str]) -> None:
        """Copies files into the run."""
        for path in paths:
            self._client.log_artifact(self._runs[key], path)

    def finish(self, key: str, state: str) -> None:
        """Writes what is waiting, then ends the run as COMPLETE, PRUNED or FAIL."""
        self.flush()
        self._client.set_terminated(self._runs[key], STATUS[state])
        self._client.set_tag(self._runs[key], "state", state)

    def flush(self) -> None:
        """Writes everything that is waiting."""
        for key, metrics in self._buffer.items():
            while metrics:
                self._client.log_batch(self._runs[key], metrics=metrics[:FLUSH_METRICS])
                del metrics[:FLUSH_METRICS]
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes everything that is waiting."""
        self.flush()

    def _put(self, key: str, step: int, metrics: Mapping[str, float | None]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(name, float(value), now, step) for name, value in metrics.items() if value is not None]
        self._buffer.setdefault(key, []).extend(points)

    def _params(self, run: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        rows = [Param(name, str(value)[:6000]) for name, value in params.items()]
        for start in range(0, len(rows), 100):
            self._client.log_batch(run, params=rows[start : start + 100])


class RunTracker:
    """Observer of one run: sends curves and results to a `Tracker` in the background.

    MLflow being away must not stop a training: what went wrong is kept in `problems` and reported at the end.
    """

    def __init__(self, tracker: Background, key: str) -> None:
        """Args: key of a run for which `open_run` was already submitted."""
        self._tracker = tracker
        self._key = key
        self._waiting: list[Answer] = []
        self.problems: list[str] = []

    def round_finished(self, record: Any) -> None:
        self.round_summary(record.summary)

    def round_summary(self, summary: Mapping[str, Any]) -> None:
        """Sends one round's record, as in `result.json`."""
        self._send("log", summary["round"], round_metrics(summary))

    def result(self, result: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Sends the final scores, the files, the ledger's tags and the dataset."""
        data = result["config"]["data"]
        self._send("summary", final_metrics(result))
        self._send(
            "dataset", data["source"], result["cohort"]["digest"], data["source"], str(result["cohort"]["classes"])
        )
        self._send("tags", ledger_tags(result))
        self._send("artifacts", [str(path) for path in files])

    def end(self, state: str) -> None:
        """Ends the run and waits until everything is written."""
        self._send("finish", state)
        self.settle(wait=True)

    def settle(self, wait: bool = False) -> None:
        """Collects what failed among the calls that are done, or among all."""
        still = []
        for answer in self._waiting:
            if not wait and not answer.done():
                still.append(answer)
                continue
            try:
                answer.result()
            except Exception as error:
                self.problems.append(f"MLflow: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
        self._waiting = still

    def _send(self, method: str, *args: Any) -> None:
        self._waiting.append(self._tracker.submit(method, self._key, *args))
        if len(self._waiting) > 50:
            self.settle()


def store_uri(config: TrackingConfig, folder: Path) -> str:
    """The absolute address of the MLflow store: the configured one, else `mlflow.db` in `folder`."""
    return config.uri or f"sqlite:///{(folder / 'mlflow.db').resolve()}"


def start_tracker(config: TrackingConfig, folder: Path, actor: bool) -> Background:
    """Starts the tracker of the store; `folder` must exist.

    Raises:
        PulseLedgerError: nobody listens at the configured address.
    """
    _check_store(store_uri(config, folder))
    return Background(Tracker, store_uri(config, folder), config.experiment, actor=actor)


def _check_store(uri: str) -> None:
    """Notices a wrong address before any work; the tracker itself starts in the background and only reports."""
    parts = urllib.parse.urlsplit(uri)
    try:
        if parts.scheme in ("http", "https"):
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname or "", port), timeout=5).close()
        elif parts.scheme == "sqlite":
            path = Path(uri.removeprefix("sqlite:///"))
            if not path.parent.is_dir():
                raise ValueError("its folder does not exist")
            if path.exists() and path.open("rb").read(15) not in (b"", b"SQLite format 3"):
                raise ValueError("it is not an SQLite file")
        elif not parts.scheme.startswith(("postgresql", "mysql", "mssql")):
            raise ValueError("give sqlite:///PATH, http://HOST:PORT or another database that MLflow knows")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PulseLedgerError(f"tracking.uri: no MLflow store at {uri} ({reason}).") from None


def round_metrics(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Curves: names with a slash make sections in MLflow's UI."""
    validation = summary["validation"]
    return {
        "train/loss": summary["train_loss"],
        "val/accuracy": validation["accuracy"],
        "val/macro_f1": validation["macro_f1"],
        "val/balanced_accuracy": validation["balanced_accuracy"],
        **{f"val/recall/{c}": r for c, r in validation["recall"].items()},
        "val/recall_min": validation["recall_min"],
        "fl/participants": summary["participants"],
        "fl/gradient_evaluations": summary["gradient_evaluations"],
        "ledger/hash_sign_seconds": summary["hash_seconds"] + summary["sign_seconds"],
        "perf/round_s": summary["seconds"],
    }


def final_metrics(result: Mapping[str, Any]) -> dict[str, float | None]:
    """Single points of a finished run: `final/...` for the personal models, `final_global/...`, ledger, baselines."""
    metrics: dict[str, float | None] = {}
    for prefix, scores in (("final", result["final"]["personal"]), ("final_global", result["final"]["global"])):
        for name in (
            "accuracy",
            "balanced_accuracy",
            "macro_f1",
            "recall_min",
            "worst_hospital_macro_f1",
            "hurt_share",
        ):
            metrics[f"{prefix}/{name}"] = scores.get(name)
        for c, recall in scores["recall"].items():
            metrics[f"{prefix}/recall/{c}"] = recall
    cohort, ledger, timing = result["cohort"], result["ledger"], result["timing"]
    metrics |= {
        "baseline/local_majority_accuracy": cohort["local_majority_accuracy"],
        "baseline/global_majority_accuracy": cohort["global_majority_accuracy"],
        "cohort/emd_mean": cohort["heterogeneity"]["emd_mean"],
        "cohort/js": cohort["heterogeneity"]["js"],
        "final/ledger_overhead": ledger.get("overhead_share"),
        "final/ledger_gas_per_round": ledger.get("gas_per_round"),
        "final/ledger_critical_path_s": ledger.get("critical_path_seconds"),
        "final/gradient_evaluations": timing["gradient_evaluations"],
        "final/total_s": timing["total_seconds"],
    }
    return metrics


def ledger_tags(result: Mapping[str, Any]) -> dict[str, str]:
    """Tags by which a figure can be traced to the ledger."""
    ledger = result["ledger"]
    tags = {"model_hash": result["model_hash"], "ledger.backend": ledger["backend"]}
    if ledger["backend"] != "none":
        tags |= {f"ledger.{name}": str(ledger[name]) for name in ("head", "contract", "chain_id")}
    if result["lost"] or any(row["lost"] for row in result["rounds"]):
        tags["degraded"] = "true"
    return tags


def flat_params(config: RunConfig) -> dict[str, Any]:
    """The configuration with dotted names, as MLflow's parameters."""
    rows: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, child in value.items():
                walk(f"{prefix}.{name}" if prefix else name, child)
        else:
            rows[prefix] = value

    walk("", config.model_dump(mode="json", exclude={"out": True}))
    return rows


def source_tags() -> dict[str, str]:
    """Who and what produced a run; `MlflowClient.create_run` fills none of these in."""
    tags = {
        "mlflow.source.name": "pulseledger",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": os.environ.get("USER") or os.environ.get("USERNAME") or "unknown",
    }
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if commit := git("rev-parse", "HEAD"):
        tags["mlflow.source.git.commit"] = commit
        tags["mlflow.source.git.branch"] = git("rev-parse", "--abbrev-ref", "HEAD") or ""
        tags["mlflow.source.git.dirty"] = str(bool(git("status", "--porcelain"))).lower()
    return tags


def draw_confusion(result: Mapping[str, Any], path: Path) -> None:
    """The confusion matrices of the global and the personal models, in shares of the true class, as a PNG."""
    from matplotlib.figure import Figure

    classes = list(result["final"]["global"]["recall"])
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for axes, model in zip(figure.subplots(1, 2), ("global", "personal"), strict=True):
        scores = result["final"][model]
        table = scores["confusion"]
        rates = [[v / max(sum(row), 1) for v in row] for row in table]
        axes.imshow(rates, cmap="Blues", vmin=0, vmax=1)
        for i, row in enumerate(table):
            for j, count in enumerate(row):
                axes.text(j, i, f"{count:,}", ha="center", va="center", color="white" if rates[i][j] > 0.6 else "black")
        axes.set(
            xticks=range(len(classes)), yticks=range(len(classes)), xticklabels=classes, yticklabels=classes,
            xlabel="predicted", ylabel="true", title=f"{model}: accuracy {scores['accuracy']:.4f}, macro-F1 {scores['macro_f1']:.3f}",
        )  # fmt: skip
    figure.savefig(path, dpi=110, format="png")
