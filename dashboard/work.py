"""What takes longer than somebody waits for a page: done once, by a thread, and kept until what it is about has changed."""

import contextvars
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass
from typing import Any, TypeVar

from engine.clock import REAL, Clock

T = TypeVar("T")
KEPT = 64  # subjects
PATIENCE = 0.6  # seconds that a page waits


class Busy(Exception):
    """It is being done; ask again."""


@dataclass
class _Job:
    """Of one subject: what is being done, and what was done last; a version is that of the files it was begun on."""

    running: Future[Any] | None = None
    begun: Hashable = None
    done: Future[Any] | None = None
    version: Hashable = None
    ended: float = 0.0


class Work:
    """Jobs by their subject, one of each at a time: whoever asks for the same gets the same answer.

    A folder that goes on changing would otherwise never be shown: what was read last stands in until the next reading is done.
    """

    def __init__(self, patience: float = PATIENCE, threads: int = 2, clock: Clock = REAL) -> None:
        self._patience, self._clock = patience, clock
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="dashboard")
        self._jobs: dict[Hashable, _Job] = {}
        self._lock = threading.Lock()

    def ask(
        self,
        subject: Hashable,
        version: Hashable,
        job: Callable[[], T],
        patience: float | None = None,
        stand_in: bool = True,
        fresh: float = 0.0,
    ) -> T:
        """What a job returns, or raises.

        Args:
            version: of what it is about; an answer for another version is taken only as the following say.
            patience: seconds to wait for it; None are those of all.
            stand_in: the last answer may stand in while the next one is made.
            fresh: seconds in which an answer stands whatever has changed.

        Raises:
            Busy: it is not done yet.
        """
        with self._lock:
            for each in self._jobs.values():
                self._settle(each)
            one = self._jobs[subject] = self._jobs.pop(subject) if subject in self._jobs else _Job()
            young = one.done is not None and self._clock.now() - one.ended < fresh
            if one.done is not None and (one.version == version or young):
                future = one.done
            else:
                if one.running is None:
                    # with what the user named as trusted, which is said in the context
                    one.running = self._pool.submit(contextvars.copy_context().run, job)
                    one.begun = version
                future = one.running
            idle = [name for name, other in self._jobs.items() if other.running is None and other is not one]
            for old in idle[: max(0, len(self._jobs) - KEPT)]:
                del self._jobs[old]
            last = one.done
        try:
            answer: T = future.result(self._patience if patience is None else patience)
        except Late:
            if future.done():
                raise
            if not stand_in or last is None or last.exception() is not None:
                raise Busy from None
            answer = last.result()
        return answer

    def _settle(self, one: _Job) -> None:
        """Takes up what has ended since."""
        if one.running is not None and one.running.done():
            one.done, one.version, one.ended = one.running, one.begun, self._clock.now()
            one.running = None

    def close(self) -> None:
        """Waits for nobody."""
        self._pool.shutdown(wait=False, cancel_futures=True)
