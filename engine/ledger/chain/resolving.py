"""Addresses of a host within a time: the system's own look-up may hang for minutes, and cannot be interrupted."""

import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

Found = list[tuple[Any, ...]]  # as socket.getaddrinfo gives it
LookUp = Callable[..., Found]


class Resolver:
    """Looks hosts up in threads, one for each host at a time, which nobody waits for when the process ends."""

    def __init__(self, look_up: LookUp = socket.getaddrinfo) -> None:
        self._look_up = look_up
        self._pending: dict[tuple[str, int], Future[Found]] = {}
        self._lock = threading.Lock()

    def addresses(self, host: str, port: int, seconds: float | None) -> list[tuple[str, int]]:
        """All numeric addresses of a host, in the system's order.

        Raises:
            socket.gaierror: there is no host of this name.
            TimeoutError: it has not been found so far; the next call waits for the same answer.
        """
        with self._lock:
            if (host, port) not in self._pending:
                answer = self._pending[host, port] = Future()
                threading.Thread(target=self._work, args=(host, port, answer), name="resolver", daemon=True).start()
            answer = self._pending[host, port]
        return [entry[4][:2] for entry in answer.result(seconds)]

    def _work(self, host: str, port: int, answer: Future[Found]) -> None:
        try:
            answer.set_result(self._look_up(host, port, 0, socket.SOCK_STREAM))
        except Exception as error:
            answer.set_exception(error)
        with self._lock:
            del self._pending[host, port]
