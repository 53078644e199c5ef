"""Progress of a single run: a bar on a terminal, a plain line for each round elsewhere."""

import sys
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from engine.experiment import Place


class RoundProgress:
    """Observer of one run that shows it on stderr."""

    def __init__(self, rounds: int, quiet: bool = False) -> None:
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

    def round_finished(self, record: Any) -> None:
        scores = record.summary["validation"]
        shown = f"loss {record.summary['train_loss']:.4f}"
        if scores["accuracy"] is not None:
            shown += f"  validation accuracy {100 * scores['accuracy']:.2f} %  macro-F1 {scores['macro_f1']:.3f}"
        if self._bar is not None:
            self._bar.update(self._task, completed=record.round, description=shown)
        else:
            self.note(f"round {record.round}/{self._rounds}  {shown}  ({record.summary['seconds']:.1f} s)")

    def __enter__(self) -> "RoundProgress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
