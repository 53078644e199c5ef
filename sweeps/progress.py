"""Progress of a run or a study: a live view on a terminal, plain lines elsewhere. All of it on stderr."""

import contextlib
import math
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from engine.clock import REAL, Clock
from engine.config import RunConfig
from engine.experiment import Place
from engine.messages import RoundRecord
from sweeps.scores import shown

SHOWN = 12  # running trials, conditions and failures that the live view lists at most
STYLES = {"COMPLETE": "green", "PRUNED": "yellow", "FAIL": "red"}


class RoundProgress:
    """Observer of one run that shows it on stderr."""

    def __init__(self, config: RunConfig, quiet: bool = False) -> None:
        rounds, self._trains_global = config.federation.rounds, config.federation.method.trains_global
        self._quiet = quiet
        self._rounds = rounds
        self._bar: Progress | None = None
        if sys.stderr.isatty() and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("starting", total=rounds)

    def place(self) -> Place:
        """For `engine.experiment.run`."""
        return Place(observers=(self,), note=self.note)

    def note(self, text: str) -> None:
        """A plain message."""
        if self._bar is not None:
            self._bar.console.print(text)
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def round_finished(self, record: RoundRecord) -> None:
        scores = record.summary.validation
        loss = record.summary.train_loss
        text = "loss not told" if loss is None else f"loss {loss:.4f}"
        if scores.accuracy is not None and scores.macro_f1 is not None and self._trains_global:
            text += (
                f"  validation: accuracy {100 * scores.accuracy:.2f} %, macro-F1 {scores.macro_f1:.3f} (global model)"
            )
        if self._bar is not None:
            self._bar.update(self._task, completed=record.round, description=text)
        else:
            self.note(f"round {record.round}/{self._rounds}  {text}  ({record.summary.seconds:.1f} s)")

    def __enter__(self) -> "RoundProgress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


@dataclass
class _Trial:
    """A running trial."""

    label: str
    condition: str
    rounds: int
    started: float
    round: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    note: str = ""


class StudyProgress:
    """A study as it goes on: on a terminal a live view, elsewhere one plain line for each trial that ended.

    While it is entered, whatever is printed to stdout goes to stderr too: Ray prints the raylet's messages there, and
    stdout belongs to the result.
    """

    def __init__(
        self,
        total: int,
        quiet: bool = False,
        directions: Mapping[str, str] | None = None,
        already: int = 0,
        clock: Clock = REAL,
    ) -> None:
        """
        Args:
            total: trials of the whole study.
            quiet: show nothing.
            directions: objective -> "maximize" or "minimize"; "best" goes by the first one. Without, larger is better.
            already: trials that ended before, in an earlier driver.
        """
        self._clock = clock
        self._total = total
        self._already = already
        self._quiet = quiet
        self._minimise = next(iter((directions or {}).values()), "maximize") == "minimize"
        self._running: dict[int, _Trial] = {}
        self._states: Counter[str] = Counter()
        self._best: dict[str, tuple[int, dict[str, float]]] = {}
        self._failures: list[str] = []
        self._began = self._clock.now()
        self._lock = threading.RLock()  # the live view is drawn by a thread of its own
        self._live: Live | None = None
        self._stack = contextlib.ExitStack()

    def started(self, trial: int, label: str, condition: str, rounds: int) -> None:
        """A trial begins or goes on. `label` says what is tuned, `rounds` is what it will run over all its repeats."""
        with self._lock:
            self._running[trial] = _Trial(label, condition, rounds, self._clock.now())

    def advanced(self, trial: int, round: int, scores: dict[str, float], note: str = "") -> None:
        """A running trial finished `round` rounds; `scores` are its current ones, `note` what it does since."""
        with self._lock:
            if trial in self._running:
                self._running[trial].note = note
                self._running[trial].round = round
                self._running[trial].scores = dict(scores)

    def ended(
        self,
        trial: int,
        label: str,
        condition: str,
        state: str,
        values: dict[str, float],
        reason: str,
        seconds: float,
    ) -> None:
        """A trial ended as COMPLETE, PRUNED or FAIL, with its objectives and, unless complete, the reason."""
        with self._lock:
            self._running.pop(trial, None)
            self._states[state] += 1
            if state == "COMPLETE" and values:
                best = self._best.get(condition)
                if best is None or self._rank(values) > self._rank(best[1]):
                    self._best[condition] = trial, dict(values)
            count = self._already + self._states.total()
            first = reason.strip().split("\n", 1)[0]
            if state == "FAIL":
                self._failures.append(f"trial {trial}: {first}")
        outcome = scores_as_text(values)
        if state != "COMPLETE":
            outcome = "  ".join(
                part for part in (f"{'FAILED' if state == 'FAIL' else state}: {first}", outcome) if part
            )
        text = f"trial {trial} ({count}/{self._total})  [{condition}] {label}  {outcome}  ({seconds:.0f} s)"
        self._print(text, STYLES.get(state, ""))

    def extended(self, total: int) -> None:
        """The study is to have another number of trials."""
        with self._lock:
            self._total = total

    def note(self, text: str) -> None:
        """A plain message."""
        self._print(text, "")

    def remaining_seconds(self) -> float | None:
        """Seconds until the last trial ends, if rounds go on as fast as so far; None before the first round."""
        with self._lock:
            under_way = sum(min(1.0, t.round / t.rounds) for t in self._running.values() if t.rounds)
            done = self._states.total() + under_way
            left = self._total - self._already - done
        return (self._clock.now() - self._began) * left / done if done > 0 else None

    def __enter__(self) -> "StudyProgress":
        self._began = self._clock.now()
        if sys.stderr.isatty() and not self._quiet:
            console = Console(stderr=True)
            self._live = Live(console=console, get_renderable=self.view, refresh_per_second=2, transient=True)
            self._stack.enter_context(self._live)  # sends stdout and stderr above the view, which is on stderr
        else:
            self._stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._live = None

    def _rank(self, values: Mapping[str, float]) -> float:
        first = next(iter(values.values()))
        return -math.inf if math.isnan(first) else -first if self._minimise else first

    def _print(self, text: str, style: str) -> None:
        if self._live is not None:
            self._live.console.print(Text(text, style))
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def view(self) -> RenderableType:
        """What a terminal shows now."""
        with self._lock:
            parts: list[RenderableType] = []
            if self._running:
                table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
                table.add_column("running", no_wrap=True)
                table.add_column("condition", overflow="ellipsis", no_wrap=True, ratio=2)
                table.add_column("tuned", overflow="ellipsis", no_wrap=True, ratio=3)
                table.add_column("round", justify="right", no_wrap=True)
                table.add_column("", width=12)
                table.add_column("scores", overflow="ellipsis", no_wrap=True, ratio=3)
                table.add_column("s", justify="right", no_wrap=True)
                now = self._clock.now()
                for number, trial in sorted(self._running.items())[:SHOWN]:
                    table.add_row(
                        f"trial {number}",
                        Text(trial.condition),
                        Text(trial.label),
                        f"{trial.round}/{trial.rounds}",
                        ProgressBar(total=max(trial.rounds, 1), completed=trial.round, width=12),
                        Text(trial.note or scores_as_text(trial.scores)),
                        f"{now - trial.started:.0f}",
                    )
                parts.append(table)
                if len(self._running) > SHOWN:
                    parts.append(Text(f"and {len(self._running) - SHOWN} more", "dim"))
            if self._best:
                table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
                for name in ("best so far", "trial", "objectives"):
                    table.add_column(name, justify="right" if name == "trial" else "left", no_wrap=True)
                for condition, (number, values) in list(self._best.items())[:SHOWN]:
                    table.add_row(Text(condition), str(number), Text(scores_as_text(values)))
                parts.append(table)
                if len(self._best) > SHOWN:
                    parts.append(Text(f"and {len(self._best) - SHOWN} more conditions", "dim"))
            parts += [Text(f"failed: {text}", "red", no_wrap=True, overflow="ellipsis") for text in self._failures[-3:]]
            parts.append(Text(self._counts(), "bold"))
            return Group(*parts)

    def _counts(self) -> str:
        ended = self._already + self._states.total()
        words = [f"{ended}/{self._total} trials"]
        words += [
            f"{self._states[s]} {w}" for s, w in (("COMPLETE", "complete"), ("PRUNED", "pruned"), ("FAIL", "failed"))
        ]
        if self._already:
            words.append(f"{self._already} before")
        left = self.remaining_seconds()
        words.append(f"{duration(self._clock.now() - self._began)} so far")
        words.append(f"about {duration(left)} to go" if left is not None else "time to go not known yet")
        return ", ".join(words)


def scores_as_text(values: Mapping[str, float]) -> str:
    """Scores by their paths, in words that say which beats they are of.

    >>> scores_as_text({"validation/personal/macro_f1": 0.8804, "timing/gradient_evaluations": 4200.0})
    'validation macro-F1 0.880, gradients 4,200'
    """
    return ", ".join(f"{shown(name).title} {shown(name).number(value)}" for name, value in values.items())


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(75)
    '1 min 15 s'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
