"""How a driver is stopped: by a signal or a command at the next checkpoints, by a second signal at once.

No trial is waited for without end: one that reaches no checkpoint in time is ended, and goes on from its last.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from engine.clock import Clock
from sweeps.commands import Command, CommandTable
from sweeps.signals import listening

STOP = ".stop"  # in the study's folder asks all runners to end at their next checkpoint, in a trial's folder its own


class Stopping:
    """Whether, and how urgently, a driver is to stop.

    Attributes:
        urgency: 0, 1 at the next checkpoints, 2 at once.
        waits: whether trials are under way; without any, the first signal leaves at once.
        ended: numbers of trials that have reached no checkpoint in time.
    """

    def __init__(self, folder: Path, commands: CommandTable, say: Callable[[str], None], clock: Clock) -> None:
        self.urgency, self.waits, self.ended = 0, False, set[int]()
        self._folder, self._table, self._say, self._clock = folder, commands, say, clock
        self._asked: list[Command] = []
        self._since = 0.0
        (folder / STOP).unlink(missing_ok=True)

    def ask(self, command: Command) -> None:
        """Somebody has left a command to stop."""
        self._table.answer(command, "accepted", "stopping at the next checkpoints")
        self._asked.append(command)
        self._begin()

    def asked(self, command: Command) -> bool:
        """Whether a command was taken already."""
        return any(command.id == taken.id for taken in self._asked)

    def seconds(self) -> float:
        """Since a stop was wanted first; 0 without one."""
        return self._clock.now() - self._since if self.urgency else 0.0

    def end(self) -> None:
        """Called when no trial runs any more.

        Raises:
            KeyboardInterrupt: a stop was wanted; says how to go on.
        """
        self.waits = False
        if not self.urgency:
            return
        how = "every trial is at a checkpoint"
        if self.ended:
            numbers = ", ".join(map(str, sorted(self.ended)))
            one = len(self.ended) == 1
            how = f"{'trial' if one else 'trials'} {numbers} reached no checkpoint in time and {'goes' if one else 'go'} on from the last"
        for command in self._asked:
            self._table.answer(command, "done", how)
        raise KeyboardInterrupt(f"stopped, {how}; `pulseledger resume {self._folder}` goes on.")

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """The first SIGINT, SIGTERM or SIGHUP lets every trial reach a checkpoint, the second leaves at once."""

        def heard(first: bool) -> None:
            if self.urgency or not self.waits:
                self.urgency = 2
                raise KeyboardInterrupt(f"left at once; `pulseledger resume {self._folder}` goes on.")
            self._begin()
            # not now: whoever is told may be in the middle of something
            text = "stopping at the next checkpoints; once more leaves at once"
            threading.Thread(target=self._say, args=(text,)).start()

        with listening(heard):
            yield

    def _begin(self) -> None:
        if not self.urgency:
            self.urgency, self._since = 1, self._clock.now()
        (self._folder / STOP).touch()
