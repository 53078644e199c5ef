"""What an MLflow store has not taken yet: a queue in memory and, while the store is away, in `spool.jsonl`.

Calls are plain data and keep their order. Replaying them is harmless: a run is found by its key, and a step that it holds
already is not written again. So what is left here is sent by this process or by the next one. What is lost with a
process that is killed is in the runs' folders; `Tracker.lacking` says whose is to be sent again.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import filelock

from engine.clock import REAL, Clock
from engine.errors import PulseLedgerError
from engine.files import whole

SPOOL, LOCK = "spool.jsonl", ".spool.lock"
HERE = "<here>/"  # in the spool: the folder that it lies in
BATCH = 900  # MLflow takes at most 1000 points in one call
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds until a store that was away is tried again; doubled each time
TRIES = 3  # of a single call that fails while others go through


# --- Calls ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One call to the store.

    Attributes:
        key: names the run.
        time: when it was made, in milliseconds since 1970.
    """

    key: str
    time: int

    @property
    def size(self) -> int:
        """Number of points."""
        return 0


@dataclass(frozen=True)
class Open(Call):
    """Creates the run, or finds it again; `parent` is the key of its parent run."""

    name: str
    tags: dict[str, str]
    params: dict[str, str]
    parent: str | None


@dataclass(frozen=True)
class Points(Call):
    """Points of curves at one step."""

    step: int
    points: dict[str, float]

    @property
    def size(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class Single(Call):
    """Single points, without a curve."""

    points: dict[str, float]

    @property
    def size(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class Tags(Call):
    """Sets tags."""

    tags: dict[str, str]


@dataclass(frozen=True)
class DataSet(Call):
    """What is said of the data."""

    name: str
    digest: str
    source: str
    profile: str


@dataclass(frozen=True)
class Artifacts(Call):
    """Copies files or folders into the run, or into a folder `into` of it."""

    paths: list[str]
    into: str | None


@dataclass(frozen=True)
class Model(Call):
    """The model of the finished run in `folder`; also shown in the run of the key `parent`."""

    folder: str
    parent: str | None


@dataclass(frozen=True)
class Finish(Call):
    """Ends the run as COMPLETE, PRUNED or FAIL."""

    state: str


# How they are named in the spool.
KINDS: dict[str, type[Call]] = {
    "open": Open,
    "points": Points,
    "single": Single,
    "tags": Tags,
    "dataset": DataSet,
    "artifacts": Artifacts,
    "model": Model,
    "finish": Finish,
}
_NAMES = {kind: name for name, kind in KINDS.items()}


def to_line(call: Call, home: Path) -> str:
    """A call as a line of the spool in `home`; files in there are named relative to it, so that it can be moved."""
    here = f"{home}{os.sep}"
    call = _with_paths(call, lambda path: HERE + path.removeprefix(here) if path.startswith(here) else path)
    values = [getattr(call, field.name) for field in fields(call)[2:]]
    return json.dumps([_NAMES[type(call)], call.key, call.time, values]) + "\n"


def _with_paths(call: Call, change: Callable[[str], str]) -> Call:
    match call:
        case Artifacts():
            return replace(call, paths=[change(path) for path in call.paths])
        case Model():
            return replace(call, folder=change(call.folder))
        case _:
            return call


def read_spool(path: Path) -> list[Call]:
    """The calls of a spool; none if there is no file."""
    if not path.exists():
        return []
    calls = []

    def here(text: str) -> str:
        return str(path.parent.absolute() / text.removeprefix(HERE)) if text.startswith(HERE) else text

    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            kind, key, time, values = json.loads(line)
            calls.append(_with_paths(KINDS[kind](key, time, *values), here))
        except (ValueError, TypeError, KeyError):
            continue  # the process ended while it wrote the last line
    return calls


# --- The queue --------------------------------------------------------------------------------------------------------


class Away(Exception):
    """The store cannot be reached for now."""


class Store(Protocol):
    """What works a queue off; only `connect` may raise Away."""

    def connect(self) -> None:
        """Opens the store, if it is not open."""
        ...

    def answers(self) -> bool:
        """Whether the store is there."""
        ...

    def passes(self, error: Exception) -> bool:
        """Whether the same call may go well later."""
        ...

    def do(self, call: Call) -> None:
        """Does one call."""
        ...

    def send(self, calls: Sequence[Points | Single]) -> None:
        """Sends points of one run, all or none."""
        ...

    def worked(self, back: bool) -> None:
        """Told after the whole queue went through; `back` says that the store was away before."""
        ...


@dataclass
class _Waiting:
    call: Call
    tries: int = 0
    done: bool = False


class Queue:
    """Calls in order.

    Attributes:
        due: time of the clock before which a store that is away is not tried again.
        tried: time of the clock at which the queue was last worked off, or tried to be.
    """

    def __init__(self, store: Store, spool: Path | None = None, clock: Clock = REAL) -> None:
        """Args: spool is the file for what cannot be sent now; its folder is made when it is needed."""
        self._store, self._spool, self._clock = store, spool, clock
        self._lock = filelock.FileLock(spool.with_name(LOCK), thread_local=False) if spool else None
        self._waiting: list[_Waiting] = []
        self._spooled = False
        self._away: str | None = None  # why the store cannot be reached
        self._wait = FIRST_WAIT
        self._problems: list[str] = []
        self.due, self.tried = 0.0, clock.now()

    def __len__(self) -> int:
        """Calls that the store has not taken yet."""
        return len(self._waiting)

    @property
    def away(self) -> bool:
        """Whether the store could not be reached when it was last tried."""
        return self._away is not None

    def put(self, call: Call) -> None:
        """Puts a call at the end."""
        self._waiting.append(_Waiting(call))
        if self.away and self._spool is not None and self._mine():
            with self._spool.open("a", encoding="utf-8") as file:
                file.write(to_line(call, self._spool.parent.absolute()))

    def work(self, now: bool = False) -> None:
        """Works off the queue if the store is there; with `now` also when a store that is away is not due to be tried.

        Raises:
            PulseLedgerError: the store refused something for good.
        """
        if now:
            self.due = 0.0
        if self._clock.now() < self.due:
            return
        self.tried = self._clock.now()
        try:
            self._take_over()
            self._store.connect()
            self._send_all()
            self._store.worked(back=self.away)
            self._away, self._wait = None, FIRST_WAIT
        except Away as error:
            self._away = str(error)
            self.due = self._clock.now() + self._wait
            self._wait = min(2 * self._wait, LONGEST_WAIT)
        finally:
            self._waiting = [each for each in self._waiting if not each.done]
            self._save()
        if self._problems:
            problems, self._problems = self._problems, []
            raise PulseLedgerError("; ".join(dict.fromkeys(problems)))

    def work_unheard(self) -> None:
        """`work`, for a caller who is not to fail of what other calls were refused for; the next call says it."""
        try:
            self.work()
        except PulseLedgerError as error:
            self._problems.append(str(error))

    def release(self) -> None:
        """Leaves the spool to others, as the end of the process does."""
        if self._lock is not None:
            self._lock.release()

    def state(self) -> str:
        """Empty when the store has everything; else one sentence on what is missing and where it waits."""
        if not self.away or not self._waiting:
            return ""
        where = f" wait in {self._spool} for the next start" if self._spool else " are not written"
        return f"the store is away ({self._away}); {len(self)} entries{where}"

    def _send_all(self) -> None:
        """Points of a run are sent together, before anything else that was said of it later."""
        points: dict[str, list[_Waiting]] = {}
        for each in self._waiting:
            key = each.call.key
            if isinstance(each.call, Points | Single):
                points.setdefault(key, []).append(each)
                continue
            self._send(points.pop(key, []))
            self._attempt([each], self._store.do, each.call)
        for rest in points.values():
            self._send(rest)

    def _send(self, waiting: Sequence[_Waiting]) -> None:
        for batch in _batches(waiting):
            self._attempt(batch, self._store.send, [each.call for each in batch])

    def _attempt(self, waiting: Sequence[_Waiting], work: Callable[[Any], None], what: Any) -> None:
        """Does the work of some calls. Refused for good: they are dropped and it is said. Away: they stay.

        Raises:
            Away: the store cannot be reached.
        """
        try:
            work(what)
        except Exception as error:
            passes = self._store.passes(error)
            waiting[0].tries += passes
            # a refusal counts where the store is there: a password that has run out, or a proxy's own page, refuses everything
            if (passes and waiting[0].tries < TRIES) or not self._store.answers():
                raise Away(first_line(error)) from None
            self._problems.append(f"{type(error).__name__}: {first_line(error)}")
        for each in waiting:
            each.done = True

    def _mine(self) -> bool:
        return self._lock is None or self._lock.is_locked

    def _take_over(self) -> None:
        """Takes the spool, with what an earlier process left there.

        A tracker lives on for a moment after a SIGKILL of its driver. Two at a time would make two runs of one key.

        Raises:
            Away: the earlier one is still there.
        """
        if self._lock is None or self._spool is None or self._lock.is_locked:
            return
        self._spool.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise Away("the tracker of an earlier process still writes") from None
        left = read_spool(self._spool)
        self._waiting[:0] = map(_Waiting, left)
        self._spooled = bool(left)

    def _save(self) -> None:
        """The spool holds the queue while the store is away, and nothing else."""
        if self._spool is None or not self._mine() or not (self.away or self._spooled):
            return
        if not self.away and not self._waiting:
            self._spool.unlink(missing_ok=True)
            self._spooled = False
            return
        with whole(self._spool) as part:
            home = self._spool.parent.absolute()
            part.write_text("".join(to_line(each.call, home) for each in self._waiting), encoding="utf-8")
        self._spooled = True


def _batches(waiting: Sequence[_Waiting]) -> Iterator[list[_Waiting]]:
    """Whole calls together, as many points as MLflow takes at a time."""
    batch: list[_Waiting] = []
    size = 0
    for each in waiting:
        if batch and size + each.call.size > BATCH:
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += each.call.size
    if batch:
        yield batch


def first_line(error: Exception) -> str:
    """An error in one line of at most 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
