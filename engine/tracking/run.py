"""A run as the tracker sees it: an observer of the loop, and what it sends at the end."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import psutil

from engine.background import Answer, Background
from engine.messages import RoundRecord
from engine.own.reference import titled
from engine.result import Result, RoundSummary
from engine.tracking.curves import data_profile, final_metrics, ledger_tags, round_metrics
from engine.tracking.queue import first_line
from engine.tracking.tracker import Tracker

Given = ParamSpec("Given")


class RunTracker:
    """Observer of one run: sends curves and results to a `Tracker` in the background.

    MLflow being away must not stop a training: what went wrong is kept in `problems` and reported at the end.
    """

    def __init__(self, tracker: Background[Tracker], key: str, trains_global: bool = True, final: bool = True) -> None:
        """
        Args:
            key: of a run for which `open_run` was already submitted.
            trains_global: whether there is a global model.
            final: whether the final scores are sent with the result; a trial of several repeats has means of them.
        """
        self._tracker = tracker
        self._key, self._trains_global, self._final = key, trains_global, final
        self._waiting: list[Answer[Any]] = []
        self.problems: list[str] = []

    def round_finished(self, record: RoundRecord) -> None:
        # of this process alone: hospitals that live elsewhere are not in it
        memory = {"perf/rss_mb": psutil.Process().memory_info().rss / 1e6}
        self._send(Tracker.log, record.round, round_metrics(record.summary, self._trains_global) | memory)

    def round_summary(self, summary: RoundSummary) -> None:
        """Sends one round of the past."""
        self._send(Tracker.log, summary.round, round_metrics(summary, self._trains_global))

    def result(self, result: Result, files: Sequence[Path]) -> None:
        """Sends the final scores, the files, the ledger's tags and the dataset."""
        source = titled(result.config.data.source)
        if self._final:
            self._send(Tracker.summary, final_metrics(result))
        self._send(Tracker.dataset, source, result.cohort.digest, source, data_profile(result.cohort))
        self._send(Tracker.tags, ledger_tags(result))
        self._send(Tracker.artifacts, files)

    def end(self, state: str) -> None:
        """Ends the run and waits until everything is written."""
        self._send(Tracker.finish, state)
        self.settle(wait=True)
        with contextlib.suppress(Exception):  # what went wrong with the tracker itself is among the problems
            if missing := self._tracker.submit(Tracker.state).result():
                self.problems.append(f"MLflow: {missing}")

    def settle(self, wait: bool = False) -> None:
        """Collects what failed among the calls that are done, or among all."""
        still = []
        for answer in self._waiting:
            if not wait and not answer.done():
                still.append(answer)
                continue
            try:
                answer.result()
            except Exception as error:
                self.problems.append(f"MLflow: {type(error).__name__}: {first_line(error)}")
        self._waiting = still

    def _send(
        self, method: Callable[Concatenate[Tracker, str, Given], Any], *args: Given.args, **keys: Given.kwargs
    ) -> None:
        self._waiting.append(self._tracker.submit(method, self._key, *args, **keys))
        if len(self._waiting) > 50:
            self.settle()
