"""The tracker: writes runs into one MLflow store, off the critical path.

A store that is away, or cannot be opened yet, does not stop a training: every call takes its place in a queue first.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.background import Background
from engine.clock import REAL, Clock
from engine.tracking.config import TrackingConfig
from engine.tracking.queue import (
    SPOOL,
    Artifacts,
    Call,
    DataSet,
    Finish,
    Model,
    Open,
    Points,
    Queue,
    Single,
    Tags,
)
from engine.tracking.store import MlflowStore, check_store, store_uri

FLUSH_SECONDS = 1.0


class Tracker:
    """Takes what is to be written. Lives in a `Background`; points of curves are sent in batches.

    Callers name a run by a key of their own, so that nobody has to wait for MLflow to make it.
    """

    def __init__(self, store: MlflowStore, spool: Path | None = None, clock: Clock = REAL) -> None:
        """Args: spool is the file for what cannot be sent now; its folder is made when it is needed."""
        self._store, self._clock = store, clock
        self._queue = Queue(store, spool, clock)
        self._queue.work_unheard()

    def open_run(
        self, key: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any], parent: str | None = None
    ) -> str | None:
        """Creates the run of `key`, or finds it again; `parent` is the key of its parent run.

        Returns:
            MLflow's id; None while the store is away.
        """
        texts = {name: str(value)[:6000] for name, value in params.items()}
        self._take(Open(key, _now(), name, _texts(tags), texts, parent))
        return self._store.run_id(key)

    def log(self, key: str, step: int, metrics: Mapping[str, float | None]) -> None:
        """Points of curves, sent within a second; None is left out. A step that the run holds is not written again."""
        self._queue.put(Points(key, _now(), step, _numbers(metrics)))
        if self._clock.now() - self._queue.tried > FLUSH_SECONDS:
            self._queue.work()

    def summary(self, key: str, metrics: Mapping[str, float | None]) -> None:
        """Single points, without a curve; one that the run holds already is not written again."""
        self._take(Single(key, _now(), _numbers(metrics)))

    def tags(self, key: str, tags: Mapping[str, str]) -> None:
        """Sets tags."""
        self._take(Tags(key, _now(), _texts(tags)))

    def dataset(self, key: str, name: str, digest: str, source: str, profile: str) -> None:
        """The data as a digest: no beat leaves the hospitals. `profile` is JSON, such as sizes and class counts."""
        self._take(DataSet(key, _now(), name, digest[:36], source, profile))

    def artifacts(self, key: str, paths: Sequence[str | Path], into: str | None = None) -> None:
        """Copies files or folders into the run, or into a folder `into` of it."""
        self._take(Artifacts(key, _now(), [str(Path(path).absolute()) for path in paths], into))

    def model(self, key: str, folder: str, parent: str | None = None) -> None:
        """The global model of the finished run in `folder`, as a model of MLflow; also shown in the parent's run."""
        self._take(Model(key, _now(), str(Path(folder).absolute()), parent))

    def system_metrics(self, key: str) -> None:
        """CPU, memory, disk and network of this machine, every 10 s, until the run is finished."""
        self._store.watch(key)
        self._queue.work()

    def finish(self, key: str, state: str) -> None:
        """Ends the run as COMPLETE, PRUNED or FAIL, after everything that was said of it."""
        self._take(Finish(key, _now(), state))

    def flush(self, now: bool = False) -> None:
        """Writes everything that is waiting; with `now` also when a store that is away is not due to be tried."""
        self._queue.work(now)

    def lacking(self, wanted: Mapping[str, tuple[str, str, int]]) -> list[str] | None:
        """Which of these runs are not in the store as they should be; None while it is away.

        Args:
            wanted: key -> how the run ended (COMPLETE, PRUNED or FAIL), its tag `reason` or nothing, and the number of
                steps of its curve.
        """
        self._queue.work_unheard()
        if self._queue.away:
            return None
        try:
            return [
                key
                for key, (state, reason, steps) in wanted.items()
                if not self._store.holds(key, state, reason, steps)
            ]
        except Exception as error:
            if self._store.passes(error):
                return None
            raise

    def close(self) -> str:
        """Writes everything that is waiting, or leaves it in the spool; says so."""
        try:
            self.flush(now=True)
        finally:
            self._store.close()
            self._queue.release()
        return self.state()

    def waiting(self) -> int:
        """Number of calls that the store has not taken yet."""
        return len(self._queue)

    def state(self) -> str:
        """Empty when the store has everything; else one sentence on what is missing and where it waits."""
        return self._queue.state()

    def _take(self, call: Call) -> None:
        self._queue.put(call)
        self._queue.work()


def start_tracker(config: TrackingConfig, folder: Path, actor: bool, home: Path | None = None) -> Background[Tracker]:
    """Starts the tracker of the store; `folder` must exist. `home` is the run's or study's folder, for the spool.

    Raises:
        PulseLedgerError: nobody listens at the configured address, and this is no resume of what began when it did.
    """
    home = home or folder
    require_store(config, folder, home)
    return Background(open_tracker, store_uri(config, folder), config.experiment, home / SPOOL, actor=actor)


def require_store(config: TrackingConfig, folder: Path, home: Path) -> None:
    """Before anything is made: a wrong address is a mistake, unless it was right when `home` was begun.

    Raises:
        PulseLedgerError: nobody listens at the configured address.
    """
    if not (home / ".id").exists():
        check_store(store_uri(config, folder))


def open_tracker(uri: str, experiment: str, spool: Path) -> Tracker:
    """The tracker of an experiment in the store at `uri`."""
    # one try, as the queue does the trying again
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return Tracker(MlflowStore(uri, experiment, spool.parent), spool)


def _now() -> int:
    return int(time.time() * 1000)


def _numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if value is not None}


def _texts(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: str(value)[:8000] for name, value in tags.items()}
