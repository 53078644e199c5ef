"""Signals that end work: the first lets it reach a checkpoint, the second leaves at once."""

import contextlib
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ONCE_MORE = "stopping at the next checkpoint; once more leaves at once"


@contextlib.contextmanager
def listening(heard: Callable[[bool], None]) -> Iterator[None]:
    """Calls `heard` at every such signal, with whether it is the first. Only the main thread hears signals.

    A signal that is ignored stays ignored: that is what nohup is for.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []

    def handler(number: int, frame: Any) -> None:
        if number == signal.SIGHUP:
            leave_terminal()
        seen.append(number)
        heard(len(seen) == 1)

    before = {number: signal.getsignal(number) for number in ENDING}
    for number, was in before.items():
        if was != signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, was)


class Ending:
    """Whether a single run is to end at its next checkpoint."""

    def __init__(self, folder: object, say: Callable[[str], None]) -> None:
        self.wanted = False
        self._folder, self._say = folder, say

    def heard(self, first: bool) -> None:
        """For `listening`.

        Raises:
            KeyboardInterrupt: at the second signal.
        """
        if not first:
            raise KeyboardInterrupt(f"left at once; `pulseledger resume {self._folder}` goes on.")
        self.wanted = True
        # not now: whoever is told may be in the middle of something
        threading.Thread(target=self._say, args=(ONCE_MORE,)).start()


@contextlib.contextmanager
def ended_in_a_sentence() -> Iterator[None]:
    """Whatever has no checkpoint ends at any of the signals as at Ctrl-C."""

    def heard(first: bool) -> None:
        raise KeyboardInterrupt

    with listening(heard):
        yield


def leave_terminal() -> None:
    """The terminal is gone, and writing to it would be an error."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)
