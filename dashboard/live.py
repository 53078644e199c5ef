"""A study under way, out of its folder: it is shown the same whether its driver lives, was killed, or began again."""

import json
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from dashboard.desk import Desk
from dashboard.places import Place
from dashboard.reading import stamp
from dashboard.work import Busy
from engine.files import read_text
from sweeps.commands import Command, commands
from sweeps.folder import Seen, read_progress, read_study, read_trials, trial_folder
from sweeps.lock import OWNER
from sweeps.progress import duration, scores_as_text
from sweeps.stored import StoredTrial
from sweeps.text import settings
from sweeps.tuned import total_trials

EVERY = 1.0  # seconds between two looks
LONGEST = 3600.0  # of a stream; the browser begins another one
GLANCE = 0.1  # seconds in which the cores are watched; without, each new thread is told 0 %
SHOWN = 40  # running trials and failures that are listed


@dataclass(frozen=True)
class Running:
    """A trial under way."""

    trial: int
    condition: str
    tuned: str
    rounds: int
    seen: Seen

    @property
    def scores(self) -> str:
        return self.seen.note or scores_as_text(self.seen.scores)


@dataclass(frozen=True)
class Live:
    """How a study stands.

    Attributes:
        driver: who drives it, in words.
        driven: whether somebody does, as far as this machine can see.
        remaining: what is left, in words.
        cores: of this machine, and how busy they are.
    """

    wanted: int
    counts: dict[str, int]
    running: Sequence[Running]
    failures: Sequence[tuple[int, str]]
    waiting: Sequence[tuple[int, str]]
    driver: str
    driven: bool
    remaining: str
    cores: str
    commands: Sequence[Command]

    @property
    def ended(self) -> int:
        return sum(self.counts.get(state, 0) for state in ("COMPLETE", "PRUNED", "FAIL"))

    @property
    def queued(self) -> int:
        """Trials that have not begun."""
        return max(0, self.wanted - sum(self.counts.values()))

    @property
    def over(self) -> bool:
        """Whether nothing more is to come."""
        return self.ended >= self.wanted and not self.running


def look(desk: Desk, place: Place) -> Live:
    """How a study stands now; raises Busy or PulseLedgerError."""
    folder = place.path
    study, trials = desk.work.ask(
        ("trials", folder), stamp(folder), lambda: (study := read_study(folder), read_trials(study, folder))
    )
    driver, driven, since = _driver(folder)
    running = [
        Running(
            trial.number,
            trial.condition,
            settings(trial.keys),
            trial.rounds * len(trial.configs),
            read_progress(trial_folder(folder, trial.number)),
        )
        for trial in trials
        if trial.state == "RUNNING" and not trial.waiting
    ]
    counts = Counter("WAITING" if trial.waiting and not trial.ended else trial.state for trial in trials)
    wanted = total_trials(study)
    return Live(
        wanted,
        dict(counts),
        running[:SHOWN],
        [(t.number, t.reason) for t in trials if t.state == "FAIL"][-SHOWN:],
        [(t.number, t.waiting) for t in trials if t.waiting and not t.ended][:SHOWN],
        driver,
        driven,
        _remaining(trials, running, wanted, since) if driven else "",
        f"{psutil.cpu_count()} on this machine, {psutil.cpu_percent(GLANCE):.0f} % busy; memory {psutil.virtual_memory().percent:.0f} % taken",
        commands(folder)[-10:],
    )


def _driver(folder: Path) -> tuple[str, bool, float]:
    """Who drives a study, whether he does so now, and since when (seconds since 1970)."""
    path = folder / OWNER
    try:
        said, since = json.loads(read_text(path, 10_000)), path.stat().st_mtime
        pid, host = int(said["pid"]), str(said["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return "nobody has driven it", False, 0.0
    if host != socket.gethostname():
        return (
            f"process {pid} on {host} was the last to drive it; whether it lives cannot be seen from here",
            True,
            since,
        )
    try:
        lives = psutil.Process(pid).create_time() <= since + 1
    except (psutil.Error, OverflowError, ValueError):
        lives = False
    if lives:
        return f"process {pid} on this machine drives it", True, since
    return "nobody drives it now; pulseledger resume goes on", False, since


def _remaining(trials: Sequence[StoredTrial], running: Sequence[Running], wanted: int, since: float) -> str:
    """If trials go on as fast as under this driver."""
    ended = [t for t in trials if t.ended]
    mine = [t for t in ended if t.frozen.datetime_complete and t.frozen.datetime_complete.timestamp() >= since]
    under_way = sum(min(1.0, one.seen.round / one.rounds) for one in running if one.rounds)
    done = len(mine) + under_way
    left = wanted - len(ended) - under_way
    if left <= 0:
        return "nothing"
    return f"about {duration((time.time() - since) * left / done)}" if done > 0 else "not known yet"


def stream(desk: Desk, place: Place, show: Any) -> Iterator[str]:
    """Server-sent events: the part of the page that goes on, as JSON text, whenever it has changed; "ended" at the end.

    Args:
        show: Live -> HTML.
    """
    last, end = "", desk.clock.now() + LONGEST
    while desk.clock.now() < end:
        try:
            now = look(desk, place)
        except Busy:
            now = None
        if now is not None:
            if (html := show(now)) != last:
                last = html
                yield f"data: {json.dumps(html)}\n\n"
            if now.over and not now.driven:
                break
        yield ": still here\n\n"  # whoever has gone is noticed by it
        desk.clock.sleep(EVERY)
    else:
        return
    yield "event: ended\ndata: \n\n"
