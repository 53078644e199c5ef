"""MLflow: what a call does to the store. Only this file imports mlflow.

Every call names its run id through `MlflowClient`; the fluent API's ambient run is thread-local and mixes up parallel
runs.
"""

import contextlib
import json
import logging
import sqlite3
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from engine.databases import copy_of
from engine.errors import PulseLedgerError
from engine.paths import SQLITE, sqlite_path, sqlite_uri
from engine.tracking.config import TrackingConfig
from engine.tracking.curves import CURVES, VIEW, source_tags, view_of_runs
from engine.tracking.models import torch_model
from engine.tracking.queue import (
    BATCH,
    Artifacts,
    Away,
    Call,
    DataSet,
    Finish,
    Model,
    Open,
    Points,
    Single,
    Tags,
    first_line,
)
from engine.tracking.server import problem
from engine.tracking.sqlite import ARTIFACTS, BESIDE, ready_store

STORE = "mlflow.db"  # beside the runs, or in a study's folder
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED", "RUNNING": "RUNNING"}
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    f"mlflow.sharedViewState.{VIEW}": json.dumps(view_of_runs()),
}


def mlflow_client(uri: str) -> Any:
    """MLflow's client for a store; its loggers say only what is an error."""
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # after the import, which sets its own level
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


def writing_client(uri: str) -> Any:
    """MLflow's client for a store that is to be written; an SQLite file is made first, or made fit."""
    if not uri.startswith(SQLITE):
        return mlflow_client(uri)
    path = sqlite_path(uri)
    ready_store(path, mlflow_client)
    client = mlflow_client(uri)
    stray = Path(uri.removeprefix(SQLITE)).parent
    if stray != path.parent:  # MLflow makes the folder by the letters of the address
        with contextlib.suppress(OSError):
            stray.rmdir()
    return client


class MlflowStore:
    """One experiment in one store; see `queue.Store`."""

    def __init__(
        self,
        uri: str,
        experiment: str,
        home: Path | None = None,
        client: Callable[[str], Any] = writing_client,
        sampling_seconds: float | None = None,
    ) -> None:
        """
        Args:
            home: folder for artifacts of a store that is neither a server nor SQLite.
            client: makes MLflow's client for an address.
            sampling_seconds: between two looks at the machine; None leaves it to MLflow.
        """
        self._uri, self._name, self._home = uri, experiment, home
        self._make, self._sampling = client, sampling_seconds
        self._client: Any = None
        self._experiment = ""
        self._runs: dict[str, str] = {}
        self._steps: dict[str, set[int]] = {}  # steps that a run holds already
        self._single: dict[str, dict[str, float]] = {}  # single points that a run holds already
        self._monitors: dict[str, Any] = {}

    def run_id(self, key: str) -> str | None:
        """MLflow's id of a run, if it is known."""
        return self._runs.get(key)

    # --- For the queue ------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Opens the store, if it is not open; makes the experiment.

        Raises:
            Away: whatever is wrong: a locked database, a proxy without its server, somebody who made the experiment
                just now. It may pass, and to give up would lose all runs of this process.
        """
        if self._client is not None:
            return
        try:
            client = self._make(self._uri)
            found = client.get_experiment_by_name(self._name)
            self._experiment = self._create(client) if found is None else found.experiment_id
            if found is not None and found.lifecycle_stage == "deleted":
                client.restore_experiment(found.experiment_id)  # its runs are wanted again
            for name, value in EXPERIMENT_TAGS.items() if found is not None else ():
                if found.tags.get(name) != value:
                    client.set_experiment_tag(found.experiment_id, name, value)
            self._client = client
        except Exception as error:
            raise Away(f"no MLflow store at {self._uri}: {first_line(error)}") from None

    def _create(self, client: Any) -> str:
        # a database without an artifact folder of its own would put it into the working directory
        files, tags = None, dict(EXPERIMENT_TAGS)
        if self._uri.startswith(SQLITE):
            files = sqlite_path(self._uri).parent / ARTIFACTS
            tags[BESIDE] = "beside the store"
        elif self._home is not None and not self._uri.startswith("http"):
            files = self._home / ARTIFACTS
        where = None if files is None else files.resolve().as_uri()
        made: str = client.create_experiment(self._name, artifact_location=where, tags=tags)
        return made

    def answers(self) -> bool:
        """Whether the store is there."""
        try:
            self._client.get_experiment(self._experiment)
        except Exception:
            return False
        return True

    def passes(self, error: Exception) -> bool:
        """Whether the same call may go well later. A server that says 4xx means it, and a missing file stays missing."""
        import requests
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException):
            status = error.get_http_status_code()
        elif isinstance(error, requests.HTTPError) and error.response is not None:
            status = error.response.status_code
        else:
            return isinstance(error, requests.RequestException | ConnectionError | TimeoutError)
        return not 400 <= status < 500 or status in (408, 429)

    def do(self, call: Call) -> None:
        """Does one call that is no point."""
        if isinstance(call, Open):
            self._open(call)
            return
        run = self._run(call.key)
        match call:
            case Tags():
                self._tag(run, call.tags)
            case DataSet():
                self._dataset(run, call)
            case Artifacts():
                self._copy(run, call)
            case Model():
                self._model(run, Path(call.folder), call.parent)
            case Finish():
                self._end_watch(call.key)
                self._client.set_terminated(run, STATUS[call.state], end_time=call.time)
                self._client.set_tag(run, "state", call.state)

    def send(self, calls: Sequence[Points | Single]) -> None:
        """Sends the points of one run that it does not hold already."""
        from mlflow.entities import Metric

        key = calls[0].key
        run = self._run(key)
        steps, single = set(self._steps[key]), dict(self._single[key])
        rows = []
        for call in calls:
            step, points = 0, call.points
            if isinstance(call, Points):
                step = call.step
                if step in steps:
                    continue
                steps.add(step)
            else:
                points = {name: value for name, value in points.items() if single.get(name) != value}
                single |= points
            rows += [Metric(name, value, call.time, step) for name, value in points.items()]
        for start in range(0, len(rows), BATCH):
            # the store takes an equal point of the same time only once, so a call whose answer was lost does no harm
            self._client.log_batch(run, metrics=rows[start : start + BATCH])
        self._steps[key], self._single[key] = steps, single

    def worked(self, back: bool) -> None:
        """Starts the system metrics that are wanted; MLflow's monitor gives up when its store is away."""
        for key, monitor in self._monitors.items():
            if key in self._runs and (monitor is None or back):
                if monitor is not None:
                    monitor.finish()
                from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

                self._monitors[key] = SystemMetricsMonitor(
                    self._runs[key], self._sampling, resume_logging=True, tracking_uri=self._uri
                )
                self._monitors[key].start()

    # --- For the tracker ----------------------------------------------------------------------------------------------

    def watch(self, key: str) -> None:
        """CPU, memory, disk and network of this machine go to a run, once it is there, until it ends."""
        self._monitors.setdefault(key, None)

    def holds(self, key: str, state: str, reason: str, steps: int) -> bool:
        """Whether a run is there as it should be; see `Tracker.lacking`."""
        run = self._find(key)
        if run is None or len(self._steps[key]) < steps:
            return False
        tags = run.data.tags
        return (run.info.status, tags.get("state"), tags.get("reason", "")) == (STATUS[state], state, reason)

    def close(self) -> None:
        """Ends all watching."""
        for key in list(self._monitors):
            self._end_watch(key)

    # --- Single calls -------------------------------------------------------------------------------------------------

    def _end_watch(self, key: str) -> None:
        if (monitor := self._monitors.pop(key, None)) is not None:
            monitor.finish()

    def _open(self, call: Open) -> None:
        from mlflow.entities import Param

        found = self._find(call.key)
        there: Mapping[str, str] = {}
        if found is None:
            tags = {**source_tags(), **call.tags, "pulseledger.key": _quoted(call.key)}
            if call.parent is not None:
                tags["mlflow.parentRunId"] = self._run(call.parent)
            made = self._client.create_run(self._experiment, start_time=call.time, run_name=call.name, tags=tags)
            run = made.info.run_id
            self._runs[call.key], self._steps[call.key], self._single[call.key] = run, set(), {}
        else:
            run, there = found.info.run_id, found.data.params
            self._client.update_run(run, status="RUNNING")
        rows = [Param(name, value) for name, value in call.params.items() if name not in there]
        for start in range(0, len(rows), 100):
            self._client.log_batch(run, params=rows[start : start + 100])

    def _run(self, key: str) -> str:
        """MLflow's id of a run that this process or an earlier one opened."""
        if key not in self._runs and self._find(key) is None:
            raise LookupError(f"no run was opened for {key}")
        return self._runs[key]

    def _find(self, key: str) -> Any:
        """The run of a key as it is in the store, or None."""
        wanted = f"tags.`pulseledger.key` = '{_quoted(key)}'"
        found = self._client.search_runs([self._experiment], wanted, max_results=1)
        if not found:
            return None
        run = found[0]
        curves = [name for name in CURVES if name in run.data.metrics]
        history = self._client.get_metric_history(run.info.run_id, curves[0]) if curves else ()
        self._runs[key] = run.info.run_id
        self._steps[key] = {point.step for point in history}
        self._single[key] = dict(run.data.metrics)
        return run

    def _tag(self, run: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(run, tags=[RunTag(name, value) for name, value in tags.items()])

    def _dataset(self, run: str, call: DataSet) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=call.name, digest=call.digest, source_type="pulseledger", source=call.source, profile=call.profile
        )
        self._client.log_inputs(run, [DatasetInput(dataset, [InputTag("mlflow.data.context", "train, eval")])])

    def _copy(self, run: str, call: Artifacts) -> None:
        for path in map(Path, call.paths):
            if path.is_dir():
                self._client.log_artifacts(run, str(path), call.into or path.name)
            else:
                self._client.log_artifact(run, str(path), call.into)

    def _model(self, run: str, folder: Path, parent: str | None) -> None:
        """Through the client alone: `mlflow.pytorch.log_model` would need the ambient run."""
        import mlflow.pytorch
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model as Described

        if "model.id" in self._client.get_run(run).data.tags:
            return
        network, example = torch_model(folder)
        made = self._client.create_logged_model(self._experiment, "model", source_run_id=run, model_type="classifier")
        described = Described(
            artifact_path=made.artifact_location, model_uuid=made.model_id, run_id=run, model_id=made.model_id
        )
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "model"
            requirements = [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "numpy", "mlflow")]
            mlflow.pytorch.save_model(
                network, path, mlflow_model=described, input_example=example, pip_requirements=requirements
            )
            self._client.log_model_artifacts(made.model_id, str(path))
        self._client.finalize_logged_model(made.model_id, "READY")
        for each in (run, *([self._run(parent)] if parent is not None else [])):
            self._client.log_outputs(each, [LoggedModelOutput(made.model_id, 0)])
        # last: it says that the model is there
        self._tag(run, {"model.id": made.model_id})


def _quoted(key: str) -> str:
    """Keys hold names that users gave: a quote would end the filter's string."""
    return key.replace("'", "_")


# --- Addresses, and what readers ask ------------------------------------------------------------------------------------


def store_uri(config: TrackingConfig, folder: Path) -> str:
    """The absolute address of the MLflow store: the configured one, else `mlflow.db` in `folder`."""
    return config.uri or sqlite_uri((folder / STORE).resolve())


def runs_address(uri: str, name: str) -> str:
    """Where MLflow's pages show the runs of an experiment, behind the address of its server; with its columns, if it has them.

    Raises:
        PulseLedgerError: the store cannot be opened, or has no such experiment.
    """
    check_store(uri)
    from mlflow.exceptions import MlflowException

    try:
        with _reading_client(uri) as client:
            found = client.get_experiment_by_name(name)
    except (MlflowException, sqlite3.Error) as error:
        raise PulseLedgerError(f"tracking.uri: no MLflow store at {uri} ({first_line(error)}).") from None
    if found is None:
        raise PulseLedgerError(f"{uri}: has no experiment {name!r}.")
    # without the last part MLflow 3 opens on traces of language models
    kind = "?workflowType=machine_learning"
    view = f"&viewStateShareKey={VIEW}" if f"mlflow.sharedViewState.{VIEW}" in found.tags else ""
    return f"{kind}#/experiments/{found.experiment_id}/runs{kind}{view}"


class Kept(NamedTuple):
    """What a store holds of one run.

    Attributes:
        status: such as FINISHED.
        curves: metric -> step and value of every point, in the order of steps and of writing.
        latest: metric -> value that MLflow's tables show.
    """

    name: str
    status: str
    params: Mapping[str, str]
    curves: Mapping[str, Sequence[tuple[int, float]]]
    latest: Mapping[str, float]
    tags: Mapping[str, str]


def read_runs(uri: str, run_id: str, leave: Callable[[str], bool] = lambda name: False) -> list[Kept]:
    """A run and all that hang below it, deleted ones apart. Not a byte is written: an SQLite file is read from a copy.

    Args:
        leave: says of a metric that its curve is not wanted.

    Raises:
        PulseLedgerError: the store cannot be opened, or has no such run.
    """
    check_store(uri)
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    def kept(client: Any, run: Any) -> Kept:
        curves = {}
        for name in run.data.metrics:
            points = () if leave(name) else client.get_metric_history(run.info.run_id, name)
            curves[name] = [(p.step, p.value) for p in sorted(points, key=lambda p: (p.step, p.timestamp))]
        data = run.data
        return Kept(run.info.run_name, str(run.info.status), data.params, curves, data.metrics, data.tags)

    try:
        with _reading_client(uri) as client:
            run = client.get_run(run_id)
            wanted, found, token = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'", [run], None
            while True:
                page = client.search_runs([run.info.experiment_id], wanted, page_token=token)
                found += page
                if not (token := page.token):
                    return [kept(client, each) for each in found]
    except sqlite3.Error as error:
        raise PulseLedgerError(f"{uri}: no MLflow store can be read there ({first_line(error)}).") from None
    except (MlflowException, SQLAlchemyError) as error:
        raise PulseLedgerError(f"{uri}: MLflow's run {run_id} cannot be read ({first_line(error)}).") from None


@contextlib.contextmanager
def _reading_client(uri: str) -> Iterator[Any]:
    if not uri.startswith(SQLITE):
        yield mlflow_client(uri)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / STORE
        copy_of(sqlite_path(uri), copy)
        yield mlflow_client(sqlite_uri(copy))


def check_store(uri: str) -> None:
    """Notices a wrong address before any work; the tracker itself starts in the background and only reports.

    Raises:
        PulseLedgerError: there is no store, says why.
    """
    parts = urllib.parse.urlsplit(uri)
    try:
        if parts.scheme in ("http", "https"):
            if wrong := problem(uri):
                raise ValueError(wrong)
        elif parts.scheme == "sqlite":
            path = sqlite_path(uri)
            if not path.parent.is_dir():
                raise ValueError("its folder does not exist")
            if path.exists() and path.open("rb").read(15) not in (b"", b"SQLite format 3"):
                raise ValueError("it is not an SQLite file")
        elif not parts.scheme.startswith(("postgresql", "mysql", "mssql")):
            raise ValueError("give sqlite:///PATH, http://HOST:PORT or another database that MLflow knows")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PulseLedgerError(f"tracking.uri: no MLflow store at {uri} ({reason}).") from None
