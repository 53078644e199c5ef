"""How a driver is stopped: by a signal or a command at the next checkpoints, by a second signal at once."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from sweeps.commands import Command, CommandTable
from sweeps.signals import listening

STOP = ".stop"  # in the study's folder asks all runners to end at their next checkpoint, in a trial's folder its own


class Stopping:
    """Whether, and how urgently, a driver is to stop.

    Attributes:
        urgency: 0, 1 at the next checkpoints, 2 at once.
    """

    def __init__(self, folder: Path, commands: CommandTable, say: Callable[[str], None]) -> None:
        self.urgency = 0
        self._folder, self._table, self._say = folder, commands, say
        self._asked: list[Command] = []
        (folder / STOP).unlink(missing_ok=True)

    def ask(self, command: Command) -> None:
        """Somebody has left a command to stop."""
        self._table.answer(command, "accepted", "stopping at the next checkpoints")
        self._asked.append(command)
        self._begin()

    def asked(self, command: Command) -> bool:
        """Whether a command was taken already."""
        return any(command.id == taken.id for taken in self._asked)

    def end(self) -> None:
        """Called when every trial is at a checkpoint.

        Raises:
            KeyboardInterrupt: a stop was wanted; says how to go on.
        """
        if not self.urgency:
            return
        for command in self._asked:
            self._table.answer(command, "done", "every trial is at a checkpoint")
        raise KeyboardInterrupt(
            f"stopped, every trial is at a checkpoint; `pulseledger resume {self._folder}` goes on."
        )

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """The first SIGINT, SIGTERM or SIGHUP lets every trial reach a checkpoint, the second leaves at once."""

        def heard(first: bool) -> None:
            if self.urgency:
                self.urgency = 2
                raise KeyboardInterrupt(f"left at once; `pulseledger resume {self._folder}` goes on.")
            self._begin()
            # not now: whoever is told may be in the middle of something
            text = "stopping at the next checkpoints; once more leaves at once"
            threading.Thread(target=self._say, args=(text,)).start()

        with listening(heard):
            yield

    def _begin(self) -> None:
        self.urgency = max(self.urgency, 1)
        (self._folder / STOP).touch()
