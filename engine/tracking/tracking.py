"""MLflow: one run for each federation, written beside the training.

Only this file imports mlflow. Every call names its run id through `MlflowClient`; the fluent API's ambient run is
thread-local and mixes up parallel runs.

A store that is away, or cannot be opened yet, does not stop a training: what it has not taken yet waits in memory and
in `spool.jsonl`, in order, and is sent once it is back, by this process or by the next one. Replaying is harmless: a
run is found by its key, and a step that it holds already is not written again. What is lost with a process that is
killed is in the runs' folders; `Tracker.lacking` says whose is to be sent again.
"""

import contextlib
import json
import logging
import os
import socket
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock
import psutil

from engine.background import Answer, Background
from engine.config import RunConfig
from engine.errors import PulseLedgerError
from engine.files import whole
from engine.provenance import provenance
from engine.result import CohortReport, Result, RoundSummary, Scores, SyntheticRow
from engine.tracking.config import TrackingConfig

FLUSH_SECONDS = 1.0
FLUSH_METRICS = 900  # MLflow takes at most 1000 in one call
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds until a store that was away is tried again; doubled each time
TRIES = 3  # of a single call that fails while others go through
SPOOL, LOCK = "spool.jsonl", ".spool.lock"
HOSPITALS_SHOWN = 20  # with more than this, single hospitals are left to the files
CURVES = ("train/loss", "sweep/n_complete")  # one of them has every step of a run
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED", "RUNNING": "RUNNING"}


class Tracker:
    """Writes runs into one MLflow store. Lives in a `Background`; metrics are sent in batches.

    Callers name a run by a key of their own, so that nobody has to wait for MLflow to make it. Every call is put at the
    end of a queue of plain data first; the queue is worked off when the store is there.
    """

    def __init__(self, uri: str, experiment: str, spool: str | None = None) -> None:
        """Args: spool is the file for what cannot be sent now; its folder is made when it is needed."""
        # one try, as the queue does the trying again
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        import mlflow  # noqa: F401

        for name in ("mlflow", "alembic"):  # after the import, which sets its own level
            logging.getLogger(name).setLevel(logging.ERROR)
        self._uri, self._name = uri, experiment
        self._spool = Path(spool) if spool else None
        self._lock = filelock.FileLock(self._spool.with_name(LOCK), thread_local=False) if self._spool else None
        self._queue: list[_Call] = []
        self._spooled = False
        self._client: Any = None
        self._experiment = ""
        self._flushed = time.monotonic()
        self._away: str | None = None  # why the store cannot be reached
        self._wait, self._next_try = FIRST_WAIT, 0.0
        self._problems: list[str] = []
        self._runs: dict[str, str] = {}
        self._steps: dict[str, set[int]] = {}  # steps that a run holds already
        self._single: dict[str, dict[str, float]] = {}  # single points that a run holds already
        self._monitors: dict[str, Any] = {}
        self._work_unheard()

    # --- Calls: each takes its place in the queue ---------------------------------------------------------------------

    def open_run(
        self, key: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any], parent: str | None = None
    ) -> str | None:
        """Creates the run of `key`, or finds it again; `parent` is the key of its parent run.

        Returns:
            MLflow's id; None while the store is away.
        """
        texts = {name: str(value)[:6000] for name, value in params.items()}
        self._call("open", key, [name, {k: str(v)[:8000] for k, v in tags.items()}, texts, parent])
        return self._runs.get(key)

    def log(self, key: str, step: int, metrics: Mapping[str, float | None]) -> None:
        """Points of curves, sent within a second; None is left out. A step that the run holds is not written again."""
        points = {name: float(value) for name, value in metrics.items() if value is not None}
        self._call("points", key, [step, points], now=time.monotonic() - self._flushed > FLUSH_SECONDS)

    def summary(self, key: str, metrics: Mapping[str, float | None]) -> None:
        """Single points, without a curve; one that the run holds already is not written again."""
        self._call("single", key, [{name: float(value) for name, value in metrics.items() if value is not None}])

    def tags(self, key: str, tags: Mapping[str, str]) -> None:
        """Sets tags."""
        self._call("tags", key, [{name: str(value)[:8000] for name, value in tags.items()}])

    def dataset(self, key: str, name: str, digest: str, source: str, profile: str) -> None:
        """The data as a digest: no beat leaves the hospitals. `profile` is JSON, such as sizes and class counts."""
        self._call("dataset", key, [name, digest[:36], source, profile])

    def artifacts(self, key: str, paths: Sequence[str], into: str | None = None) -> None:
        """Copies files or folders into the run, or into a folder `into` of it."""
        self._call("artifacts", key, [[str(path) for path in paths], into])

    def model(self, key: str, folder: str, parent: str | None = None) -> None:
        """The global model of the finished run in `folder`, as a model of MLflow; also shown in the parent's run."""
        self._call("model", key, [folder, parent])

    def system_metrics(self, key: str) -> None:
        """CPU, memory, disk and network of this machine, every 10 s, until the run is finished."""
        self._monitors.setdefault(key, None)
        self._work()

    def finish(self, key: str, state: str) -> None:
        """Ends the run as COMPLETE, PRUNED or FAIL, after everything that was said of it."""
        self._call("finish", key, [state])

    def flush(self, now: bool = False) -> None:
        """Writes everything that is waiting; with `now` also when a store that is away is not due to be tried."""
        if now:
            self._next_try = 0.0
        self._work()

    def lacking(self, wanted: Mapping[str, tuple[str, str, int]]) -> list[str] | None:
        """Which of these runs are not in the store as they should be; None while it is away.

        Args:
            wanted: key -> how the run ended (COMPLETE, PRUNED or FAIL), its tag `reason` or nothing, and the number of
                steps of its curve.
        """
        self._work_unheard()
        if self._away is not None:
            return None
        try:
            return [key for key, values in wanted.items() if not self._is_there(key, *values)]
        except Exception as error:
            if _passing(error):
                return None
            raise

    def close(self) -> str:
        """Writes everything that is waiting, or leaves it in the spool; says so."""
        try:
            self.flush(now=True)
        finally:
            for monitor in self._monitors.values():
                if monitor is not None:
                    monitor.finish()
            self._monitors.clear()
            if self._lock is not None:
                self._lock.release()
        return self.state()

    def waiting(self) -> int:
        """Number of calls that the store has not taken yet."""
        return len(self._queue)

    def state(self) -> str:
        """Empty when the store has everything; else one sentence on what is missing and where it waits."""
        if self._away is None or not self._queue:
            return ""
        where = f" wait in {self._spool} for the next start" if self._spool else " are not written"
        return f"the store is away ({self._away}); {len(self._queue)} entries{where}"

    # --- The queue ----------------------------------------------------------------------------------------------------

    def _call(self, kind: str, key: str, values: list[Any], now: bool = True) -> None:
        call = _Call(kind, key, int(time.time() * 1000), values)
        self._queue.append(call)
        if self._away is not None and self._spool is not None and self._mine():
            with self._spool.open("a", encoding="utf-8") as file:
                file.write(call.line())
        if now:
            self._work()

    def _work(self) -> None:
        """Works off the queue if the store is there.

        Raises:
            PulseLedgerError: the store refused something for good.
        """
        if time.monotonic() < self._next_try:
            return
        self._flushed = time.monotonic()
        done: set[int] = set()
        points: dict[str, list[int]] = {}
        try:
            self._connect()
            for i, call in enumerate(self._queue):
                if call.kind in ("points", "single"):
                    points.setdefault(call.key, []).append(i)
                    continue
                self._points(points.pop(call.key, []), done)
                self._attempt([i], done, lambda call=call: self._do(call))  # type: ignore[misc]
            for waiting in points.values():
                self._points(waiting, done)
            self._watch()
            self._away, self._wait = None, FIRST_WAIT
        except _Away as error:
            self._away = str(error)
            self._next_try = time.monotonic() + self._wait
            self._wait = min(2 * self._wait, LONGEST_WAIT)
        finally:
            self._queue = [call for i, call in enumerate(self._queue) if i not in done]
            self._save()
        if self._problems:
            problems, self._problems = self._problems, []
            raise PulseLedgerError("; ".join(dict.fromkeys(problems)))

    def _work_unheard(self) -> None:
        """`_work`, for a caller who is not to fail of what other calls were refused for; the next call says it."""
        try:
            self._work()
        except PulseLedgerError as error:
            self._problems.append(str(error))

    def _save(self) -> None:
        """The spool holds the queue while the store is away, and nothing else."""
        if self._spool is None or not self._mine() or (self._away is None and not self._spooled):
            return
        if self._away is None and not self._queue:
            self._spool.unlink(missing_ok=True)
            self._spooled = False
            return
        with whole(self._spool) as part:
            part.write_text("".join(call.line() for call in self._queue), encoding="utf-8")
        self._spooled = True

    def _attempt(self, indices: list[int], done: set[int], work: Callable[[], None]) -> None:
        """Does the work of some calls. Refused for good: they are dropped and it is said. Away: they stay.

        Raises:
            _Away: the store cannot be reached.
        """
        try:
            work()
        except Exception as error:
            reason = f"{type(error).__name__}: {_first_line(error)}"
            if _passing(error):
                first = self._queue[indices[0]]
                first.tries += 1
                if first.tries < TRIES or not self._answers():
                    raise _Away(_first_line(error)) from None
            self._problems.append(reason)
        done.update(indices)

    def _answers(self) -> bool:
        try:
            self._client.get_experiment(self._experiment)
        except Exception:
            return False
        return True

    def _mine(self) -> bool:
        return self._lock is None or self._lock.is_locked

    def _take_over(self) -> None:
        """Takes the spool, with what an earlier process left there.

        A tracker lives on for a moment after a SIGKILL of its driver. Two at a time would make two runs of one key.

        Raises:
            _Away: the earlier one is still there.
        """
        if self._lock is None or self._lock.is_locked:
            return
        assert self._spool is not None
        self._spool.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise _Away("the tracker of an earlier process still writes") from None
        left = _read_spool(self._spool)
        self._queue[:0] = left
        self._spooled = bool(left)

    def _connect(self) -> None:
        self._take_over()
        if self._client is not None:
            return
        from mlflow import MlflowClient

        try:
            client = MlflowClient(tracking_uri=self._uri)
            found = client.get_experiment_by_name(self._name)
            # a database without an artifact folder of its own would put it into the working directory
            files = None
            if self._uri.startswith("sqlite:///"):
                files = Path(self._uri.removeprefix("sqlite:///")).parent / "artifacts"
            elif self._spool is not None and not self._uri.startswith("http"):
                files = self._spool.parent / "artifacts"
            self._experiment = (
                found.experiment_id
                if found
                else client.create_experiment(
                    self._name,
                    artifact_location=files.resolve().as_uri() if files else None,
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            )
            self._client = client
        except Exception as error:
            # A locked database, a proxy without its server, somebody who made the experiment just now: whatever it is,
            # it may pass, and to give up here would lose all runs of this process.
            raise _Away(f"no MLflow store at {self._uri}: {_first_line(error)}") from None

    # --- What a call does to the store --------------------------------------------------------------------------------

    def _do(self, call: "_Call") -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, RunTag

        if call.kind == "open":
            self._open(call.key, call.time, *call.values)
            return
        run = self._run(call.key)
        if call.kind == "tags":
            self._client.log_batch(run, tags=[RunTag(name, value) for name, value in call.values[0].items()])
        elif call.kind == "dataset":
            name, digest, source, profile = call.values
            dataset = Dataset(name=name, digest=digest, source_type="pulseledger", source=source, profile=profile)
            self._client.log_inputs(run, [DatasetInput(dataset, [InputTag("mlflow.data.context", "train, eval")])])
        elif call.kind == "artifacts":
            paths, into = call.values
            for path in map(Path, paths):
                if path.is_dir():
                    self._client.log_artifacts(run, str(path), into or path.name)
                else:
                    self._client.log_artifact(run, str(path), into)
        elif call.kind == "model":
            self._model(run, *call.values)
        elif call.kind == "finish":
            if (monitor := self._monitors.pop(call.key, None)) is not None:
                monitor.finish()
            self._client.set_terminated(run, STATUS[call.values[0]], end_time=call.time)
            self._client.set_tag(run, "state", call.values[0])

    def _open(
        self, key: str, time: int, name: str, tags: dict[str, str], params: dict[str, str], parent: str | None
    ) -> None:
        found = self._find(key)
        if found is None:
            all_tags = {**source_tags(), **tags, "pulseledger.key": _tag(key)}
            if parent is not None:
                all_tags["mlflow.parentRunId"] = self._run(parent)
            run = self._client.create_run(self._experiment, start_time=time, run_name=name, tags=all_tags).info.run_id
            self._runs[key], self._steps[key], self._single[key] = run, set(), {}
            there: Mapping[str, str] = {}
        else:
            run, there = found.info.run_id, found.data.params
            self._client.update_run(run, status="RUNNING")
        from mlflow.entities import Param

        rows = [Param(name, value) for name, value in params.items() if name not in there]
        for start in range(0, len(rows), 100):
            self._client.log_batch(run, params=rows[start : start + 100])

    def _run(self, key: str) -> str:
        """MLflow's id of a run that this process or an earlier one opened."""
        if key not in self._runs and self._find(key) is None:
            raise LookupError(f"no run was opened for {key}")
        return self._runs[key]

    def _find(self, key: str) -> Any:
        """The run of a key as it is in the store, or None."""
        found = self._client.search_runs([self._experiment], f"tags.`pulseledger.key` = '{_tag(key)}'", max_results=1)
        if not found:
            return None
        run = found[0]
        curves = [name for name in CURVES if name in run.data.metrics]
        history = self._client.get_metric_history(run.info.run_id, curves[0]) if curves else ()
        self._runs[key] = run.info.run_id
        self._steps[key] = {point.step for point in history}
        self._single[key] = dict(run.data.metrics)
        return run

    def _is_there(self, key: str, state: str, reason: str, steps: int) -> bool:
        run = self._find(key)
        if run is None or len(self._steps[key]) < steps:
            return False
        tags = run.data.tags
        return (run.info.status, tags.get("state"), tags.get("reason", "")) == (STATUS[state], state, reason)

    def _points(self, indices: list[int], done: set[int]) -> None:
        """Sends the points of one run, whole calls together, as many as MLflow takes at a time."""
        batch: list[int] = []
        size = 0
        for i in indices:
            new = len(self._queue[i].values[-1])
            if batch and size + new > FLUSH_METRICS:
                self._attempt(batch, done, lambda batch=batch: self._send(batch))  # type: ignore[misc]
                batch, size = [], 0
            batch.append(i)
            size += new
        if batch:
            self._attempt(batch, done, lambda: self._send(batch))

    def _send(self, indices: list[int]) -> None:
        from mlflow.entities import Metric

        key = self._queue[indices[0]].key
        run = self._run(key)
        steps, single = set(self._steps[key]), dict(self._single[key])
        rows = []
        for call in (self._queue[i] for i in indices):
            points = call.values[-1]
            if call.kind == "points":
                step = call.values[0]
                if step in steps:
                    continue
                steps.add(step)
            else:
                step = 0
                points = {name: value for name, value in points.items() if single.get(name) != value}
                single |= points
            rows += [Metric(name, value, call.time, step) for name, value in points.items()]
        for start in range(0, len(rows), FLUSH_METRICS):
            # the store takes an equal point of the same time only once, so a call whose answer was lost does no harm
            self._client.log_batch(run, metrics=rows[start : start + FLUSH_METRICS])
        self._steps[key], self._single[key] = steps, single

    def _model(self, run: str, folder: str, parent: str | None) -> None:
        """Through the client alone: `mlflow.pytorch.log_model` would need the ambient run."""
        import mlflow.pytorch
        from mlflow.entities import LoggedModelOutput, RunTag
        from mlflow.models import Model

        if "model.id" in self._client.get_run(run).data.tags:
            return
        network, example = _torch_model(Path(folder))
        made = self._client.create_logged_model(self._experiment, "model", source_run_id=run, model_type="classifier")
        described = Model(
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
        self._client.log_batch(run, tags=[RunTag("model.id", made.model_id)])

    def _watch(self) -> None:
        """Starts the system metrics that are wanted; MLflow's monitor gives up when its store is away."""
        for key, monitor in self._monitors.items():
            if key in self._runs and (monitor is None or self._away is not None):
                if monitor is not None:
                    monitor.finish()
                from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

                self._monitors[key] = SystemMetricsMonitor(self._runs[key], resume_logging=True, tracking_uri=self._uri)
                self._monitors[key].start()


@dataclass
class _Call:
    """One call to the store, as plain data."""

    kind: str
    key: str
    time: int  # milliseconds since 1970, when it was made
    values: list[Any]
    tries: int = 0

    def line(self) -> str:
        return json.dumps([self.kind, self.key, self.time, self.values]) + "\n"


class _Away(Exception):
    """The store cannot be reached for now."""


def _read_spool(path: Path | None) -> list[_Call]:
    if path is None or not path.exists():
        return []
    calls = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            calls.append(_Call(*json.loads(line)))
        except (ValueError, TypeError):
            continue  # the process ended while it wrote the last line
    return calls


def _passing(error: Exception) -> bool:
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


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _tag(key: str) -> str:
    """Keys hold names that users gave: a quote would end the filter's string."""
    return key.replace("'", "_")


def _torch_model(folder: Path) -> tuple[Any, Any]:
    """The global model of a finished run as a torch module, and an input that shows the shape: noise, nobody's beats.

    Two rows, because torch fixes a batch of one for good when it exports a network.
    """
    import numpy as np
    from safetensors.numpy import load_file

    from engine.model import build_network
    from engine.oracles.torch import as_module

    result = Result.read(folder)
    config, classes = result.config, len(result.cohort.classes)
    network = build_network(config.model, sum(result.cohort.window), len(config.data.rr_names), classes)
    tensors = load_file(folder / "model.safetensors")
    params = np.concatenate([tensors[name].ravel() for name, _ in network.layout]).astype(np.float32)
    example = np.random.default_rng(0).standard_normal((2, network.window + network.rr), dtype=np.float32)
    return as_module(network, params), example


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
        # of this process alone: hospitals that live elsewhere are not in it
        memory = {"perf/rss_mb": psutil.Process().memory_info().rss / 1e6}
        self._send("log", record.round, round_metrics(record.summary) | memory)

    def round_summary(self, summary: RoundSummary) -> None:
        """Sends one round of the past."""
        self._send("log", summary.round, round_metrics(summary))

    def result(self, result: Result, files: Sequence[Path]) -> None:
        """Sends the final scores, the files, the ledger's tags and the dataset."""
        source = result.config.data.source
        self._send("summary", final_metrics(result))
        self._send("dataset", source, result.cohort.digest, source, data_profile(result.cohort))
        self._send("tags", ledger_tags(result))
        self._send("artifacts", [str(path) for path in files])

    def end(self, state: str) -> None:
        """Ends the run and waits until everything is written."""
        self._send("finish", state)
        self.settle(wait=True)
        with contextlib.suppress(Exception):  # what went wrong with the tracker itself is among the problems
            if missing := self._tracker.submit("state").result():
                self.problems.append(f"MLflow: {missing}")

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


def start_tracker(config: TrackingConfig, folder: Path, actor: bool, home: Path | None = None) -> Background:
    """Starts the tracker of the store; `folder` must exist. `home` is the run's or study's folder, for the spool.

    Raises:
        PulseLedgerError: nobody listens at the configured address, and this is no resume of what began when it did.
    """
    home = home or folder
    if not (home / ".id").exists():
        _check_store(store_uri(config, folder))
    return Background(Tracker, store_uri(config, folder), config.experiment, str(home / SPOOL), actor=actor)


def experiment_id(uri: str, name: str) -> str:
    """MLflow's number of an experiment.

    Raises:
        PulseLedgerError: the store cannot be opened, or has no such experiment.
    """
    _check_store(uri)
    import mlflow
    from mlflow.exceptions import MlflowException

    logging.getLogger("alembic").setLevel(logging.ERROR)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    try:
        found = mlflow.MlflowClient(uri).get_experiment_by_name(name)
    except MlflowException as error:
        raise PulseLedgerError(f"tracking.uri: no MLflow store at {uri} ({_first_line(error)}).") from None
    if found is None:
        raise PulseLedgerError(f"{uri}: has no experiment {name!r}.")
    return found.experiment_id


def run_tags(uri: str, run_id: str) -> tuple[dict[str, str], str]:
    """The tags of one run and its status, such as FINISHED.

    Raises:
        PulseLedgerError: the store cannot be opened, or has no such run.
    """
    _check_store(uri)
    import mlflow
    from mlflow.exceptions import MlflowException

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        run = mlflow.MlflowClient(uri).get_run(run_id)
    except MlflowException as error:
        raise PulseLedgerError(f"{uri}: MLflow's run {run_id} cannot be read ({_first_line(error)}).") from None
    return dict(run.data.tags), str(run.info.status)


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
    held = {"head": ledger.head, "contract": ledger.contract, "chain_id": ledger.chain_id, "bundle": ledger.bundle}
    tags |= {f"ledger.{name}": str(value) for name, value in held.items() if value is not None}
    if result.lost or any(row.lost for row in result.rounds):
        tags["degraded"] = "true"
    return tags


def flat_params(config: RunConfig) -> dict[str, Any]:
    """The configuration with dotted names, as MLflow's parameters."""
    rows: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for name, child in value.items():
                walk(f"{prefix}.{name}" if prefix else name, child)
        else:
            rows[prefix] = value

    walk("", config.model_dump(mode="json", exclude={"out": True}))
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
