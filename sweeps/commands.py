"""What others ask a study's driver for, through files in the study's folder: stop, more trials, prune one.

    command = ask(folder, "prune", 7)
    command = wait(folder, command, seconds=10)
    command.state, command.said      # "done", "trial 7 is pruned"

No service and no lock is needed, only a folder that both see. A command is one file that appears whole; after that only
the driver writes to it, with its answer. Every command is answered:

    asked      nobody has looked at it yet: there is no driver, or it has not come round to it
    accepted   under way; a driver that is killed meanwhile leaves it to the next one
    done
    refused    `said` tells why

What is asked of a study that nobody drives waits for `resume`, except for a stop, which the next driver refuses.
"""

import getpass
import json
import secrets
import socket
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from engine.clock import REAL, Clock
from engine.errors import ConfigError
from engine.files import write_text
from sweeps.folder import read_study

FOLDER = "commands"  # in a study's folder
POLL_SECONDS = 0.2

Verb = Literal["stop", "trials", "prune"]
State = Literal["asked", "accepted", "done", "refused"]
VERBS: tuple[Verb, ...] = get_args(Verb)
STATES: tuple[State, ...] = get_args(State)
NEEDS = {"trials": "the number of all trials that the study is to have", "prune": "the number of a trial"}


@dataclass(frozen=True)
class Command:
    """One command and its answer.

    Attributes:
        id: names its file; ids sort by the time of asking.
        value: all trials that the study is to have ("trials"), or the number of one ("prune").
        by: who asked, as USER@HOST.
        at: when, in seconds since 1970.
    """

    id: str
    verb: Verb
    value: int | None
    by: str
    at: float
    state: State = "asked"
    said: str = ""

    @property
    def open(self) -> bool:
        """Whether an answer is still to come."""
        return self.state in ("asked", "accepted")


# --- For whoever asks -------------------------------------------------------------------------------------------------


def ask(folder: Path, verb: Verb, value: int | None = None) -> Command:
    """Leaves a command for the driver of a study.

    Raises:
        StudyError: the folder holds no study.
        ConfigError: the value is missing, or is none.
    """
    read_study(folder)
    if (verb in NEEDS) != (value is not None):
        raise ConfigError(f"{verb}: " + (f"{NEEDS[verb]} is needed." if verb in NEEDS else "takes no number."))
    if value is not None and value < (1 if verb == "trials" else 0):
        raise ConfigError(f"{verb}: {value} is not {NEEDS[verb]}.")
    (folder / FOLDER).mkdir(exist_ok=True)
    now = time.time_ns()
    command = Command(f"{now}-{secrets.token_hex(4)}", verb, value, _asker(), now / 1e9)
    _write(folder, command)
    return command


def wait(folder: Path, command: Command, seconds: float, clock: Clock = REAL) -> Command:
    """The command once it is done or refused, or as it stands after `seconds`."""
    end = clock.now() + seconds
    while (now := _read(_path(folder, command.id)) or command).open and clock.now() < end:
        clock.sleep(POLL_SECONDS)
    return now


def commands(folder: Path) -> list[Command]:
    """All commands of a study and their answers, in the order of asking."""
    found = (_read(path) for path in sorted((folder / FOLDER).glob("*.json")))
    return [command for command in found if command is not None]


# --- For the driver ---------------------------------------------------------------------------------------------------


class CommandTable:
    """The commands of a study as its driver takes them."""

    def __init__(self, folder: Path) -> None:
        """Made by a driver before it does anything else: stops that it finds here were meant for an earlier one."""
        self._folder = folder
        for command in commands(folder):
            if command.verb == "stop" and command.open:
                stopped = command.state == "accepted"
                self.answer(
                    command,
                    "done" if stopped else "refused",
                    "the driver has ended" if stopped else "nobody drove the study when this was asked",
                )

    def waiting(self) -> list[Command]:
        """What is to be done, in the order of asking."""
        return [command for command in commands(self._folder) if command.open]

    def answer(self, command: Command, state: State, said: str = "") -> None:
        """Writes how a command stands."""
        _write(self._folder, replace(command, state=state, said=said))


def _path(folder: Path, id: str) -> Path:
    return folder / FOLDER / f"{id}.json"


def _write(folder: Path, command: Command) -> None:
    write_text(_path(folder, command.id), json.dumps(asdict(command), indent=1))


def _read(path: Path) -> Command | None:
    """A command out of its file; None for a file that is none, which somebody else has put there."""
    try:
        command = Command(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    known = command.verb in VERBS and command.state in STATES and command.id == path.stem
    value = type(command.value) is int if command.verb in NEEDS else command.value is None
    return command if known and value else None


def _asker() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container may run as a number without a name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
