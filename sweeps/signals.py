"""Signals that end work: the first lets it reach a checkpoint, the second leaves at once."""

import contextlib
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

CONFIG = "config.yaml"  # there once a run has begun
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_IMPORTING = "<frozen importlib"  # Python's own files that import
_MOMENT, _MOMENTS = 0.01, 1000  # seconds until a signal is heard again, and how often it is put off
ONCE_MORE = "stopping at the next checkpoint; once more leaves at once"


@contextlib.contextmanager
def listening(heard: Callable[[bool], None]) -> Iterator[None]:
    """Calls `heard` at every such signal, with whether it is the first. Only the main thread hears signals.

    A signal that is ignored stays ignored: that is what nohup is for. One that comes in the middle of an import is heard a
    moment later: raised there, it would leave Python's lock on imports taken for good, and every other thread would wait.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []
    put_off = 0

    def handler(number: int, frame: Any) -> None:
        nonlocal put_off
        if put_off < _MOMENTS and frame is not None and frame.f_code.co_filename.startswith(_IMPORTING):
            put_off += 1
            again = threading.Timer(_MOMENT, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
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
    """Whether a single run is to end at its next checkpoint; an observer of it.

    Before its first round is over there is nothing that a checkpoint would keep, and the first signal leaves at once: data
    may be cut for minutes, and a node may be waited for as long.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.wanted, self._has_begun = False, False
        self._folder, self._say = folder, say

    def round_finished(self, record: object) -> None:
        self._has_begun = True

    def heard(self, first: bool) -> None:
        """For `listening`.

        Raises:
            KeyboardInterrupt: at the second signal, or before a round was over.
        """
        if not first or not self._has_begun:
            begun = (self._folder / CONFIG).exists()
            goes_on = f"`pulseledger resume {self._folder}` goes on" if begun else "nothing was begun"
            raise KeyboardInterrupt(f"left at once; {goes_on}.")
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


def leave(code: int) -> NoReturn:
    """Ends the process, which has said its last word: a signal while it is being taken down ends it at once, and says nothing."""

    def handler(number: int, frame: Any) -> None:
        os._exit(code)

    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)
    sys.exit(code)


def leave_terminal() -> None:
    """The terminal is gone, and writing to it would be an error."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)
