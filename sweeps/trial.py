"""One trial: a runner actor inside the trial's placement group, which makes its hospitals there."""

import contextlib
import json
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Any

from engine.background import Background
from engine.config import RunConfig
from engine.errors import ReviewPending, Stopped, StudyError
from engine.experiment import Place, steps
from engine.files import whole
from engine.tracked import track

RUNNER_CPU = 0.1  # of a trial's CPUs; the hospitals divide the rest
PROGRESS = "progress.json"
KEPT = ("validation", "final", "ledger", "timing", "config_hash")


class TrialRunner:
    """The Ray actor that runs a trial's repeats one after another, in chunks that end where a pruner is asked."""

    def __init__(self) -> None:
        self._chunks: Generator[tuple[int, dict[str, Any]], None, list[dict[str, Any]]] | None = None
        self._progress: _Progress | None = None

    def begin(self, order: dict[str, Any], tracker: Background | None) -> dict[str, Any]:
        """Begins a trial, or goes on where an earlier attempt left off, up to the first rung.

        Args:
            order: configs (one for each repeat), folder, attempt, stop (a file that ends the trial at its next
                checkpoint), rungs (rounds of the first repeat, or numbers of repeats, after which to pause),
                by_repeat (which of the two), key, name, tags, parent of the MLflow run.

        Returns:
            See `advance`.
        """
        self.drop()
        if not Path(order["folder"]).is_dir():  # the driver has made it
            raise StudyError(
                f"{order['folder']}: is not there on node {socket.gethostname()}; a study's folder must be on a disk that "
                "all nodes of the cluster share."
            )
        self._progress = _Progress(Path(order["folder"]))
        self._chunks = _chunks(order, tracker, self._progress)
        return self.advance()

    def advance(self) -> dict[str, Any]:
        """Goes on to the next rung, or to the end.

        Returns:
            state: "rung" with step and result, "done" with results, "stopped", or "waiting" with reason; `trained`: seconds of training in
            this chunk. Results are cut down to what the driver needs.
        """
        assert self._chunks is not None
        assert self._progress is not None
        try:
            step, result = next(self._chunks)
            reply = {"state": "rung", "step": step, "result": {k: result[k] for k in KEPT}}
        except StopIteration as end:
            reply = {"state": "done", "results": [{k: result[k] for k in KEPT} for result in end.value]}
        except Stopped:
            reply = {"state": "stopped"}
        except ReviewPending as error:
            reply = {"state": "waiting", "reason": str(error)}
        return {**reply, "trained": self._progress.take()}

    def drop(self) -> None:
        """Ends a trial at its rung: hospitals are let go, the ledger is closed."""
        if self._chunks is not None:
            self._chunks.close()
            self._chunks = None


class _Progress:
    """Observer that leaves the last round of a trial in its folder, for the driver to show, and what goes on since."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = 0  # rounds of earlier repeats
        self._shown: dict[str, Any] = {"round": 0, "scores": {}}
        self._trained = 0.0

    def round_finished(self, record: Any) -> None:
        scores = record.summary["validation"]
        shown = {name: scores[name] for name in ("accuracy", "macro_f1", "recall_min") if scores[name] is not None}
        self._trained += record.summary["train_seconds"]
        self._shown = {"round": self._before + record.round, "scores": shown}
        self.note("")

    def note(self, text: str) -> None:
        """Work before the first round can take longer than any round: a generator of synthetic beats is trained."""
        with whole(self._folder / PROGRESS) as part:
            part.write_text(json.dumps({**self._shown, "note": text}))

    def repeat_finished(self, rounds: int) -> None:
        self._before += rounds

    def take(self) -> float:
        """Seconds of training since the last call."""
        trained, self._trained = self._trained, 0.0
        return trained


def _chunks(
    order: dict[str, Any], tracker: Background | None, progress: _Progress
) -> Generator[tuple[int, dict[str, Any]], None, list[dict[str, Any]]]:
    results = []
    stop = Path(order["stop"])
    for repeat, values in enumerate(order["configs"]):
        config = RunConfig.model_validate(values)
        folder = repeat_folder(Path(order["folder"]), repeat)
        place = Place(order["attempt"], (progress,), progress.note, stop.exists)
        rungs = order["rungs"] if repeat == 0 and not order["by_repeat"] else []
        if tracker is not None and repeat == 0:
            # MLflow has one run for each trial: the first repeat's curves; the driver adds mean and spread
            named = (order["key"], order["name"], order["tags"], order["parent"])
            run = track(config, folder, place, tracker, *named, rungs)
        else:
            run = steps(config, folder, place, rungs)
        with contextlib.closing(run):
            while True:
                try:
                    so_far = next(run)
                except StopIteration as end:
                    results.append(end.value)
                    break
                yield len(so_far["rounds"]), so_far
        progress.repeat_finished(config.federation.rounds)
        if order["by_repeat"] and repeat + 1 in order["rungs"]:
            yield repeat + 1, results[-1]
        if stop.exists() and repeat + 1 < len(order["configs"]):
            raise Stopped(f"{folder}: stopped after repeat {repeat}.")
    return results


def repeat_folder(trial: Path, repeat: int) -> Path:
    """Where one repeat of a trial writes."""
    return trial / f"seed-{repeat}"
