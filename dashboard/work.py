"""What takes longer than somebody waits for a page: done once, by a thread, and kept."""

import contextvars
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from typing import Any, TypeVar

T = TypeVar("T")
KEPT = 64  # answers
PATIENCE = 0.6  # seconds that a page waits


class Busy(Exception):
    """It is being done; ask again."""


class Work:
    """Jobs by what they depend on: whoever asks for the same gets the same answer, and a job runs once."""

    def __init__(self, patience: float = PATIENCE, threads: int = 2) -> None:
        self._patience = patience
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="dashboard")
        self._jobs: dict[Hashable, Future[Any]] = {}
        self._lock = threading.Lock()

    def ask(self, key: Hashable, job: Callable[[], T], patience: float | None = None) -> T:
        """What a job returns, or raises.

        Args:
            key: everything that the answer depends on.
            patience: seconds to wait for it; None are those of all.

        Raises:
            Busy: it is not done yet.
        """
        with self._lock:
            if (future := self._jobs.pop(key, None)) is None:
                # with what the user named as trusted, which is said in the context
                future = self._pool.submit(contextvars.copy_context().run, job)
            self._jobs[key] = future  # at the end: what was asked for last is kept longest
            done = [old for old, one in self._jobs.items() if one.done()]
            for old in done[: max(0, len(self._jobs) - KEPT)]:
                del self._jobs[old]
        try:
            answer: T = future.result(self._patience if patience is None else patience)
        except Late:
            if not future.done():
                raise Busy from None
            raise
        return answer

    def close(self) -> None:
        """Waits for nobody."""
        self._pool.shutdown(wait=False, cancel_futures=True)
