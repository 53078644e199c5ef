"""One trial: a runner actor inside the trial's placement group, which makes its hospitals there.

The driver sends an `Order` and gets a `Reply` for each chunk. Both are checked where they are made and nowhere else.
"""

import contextlib
import socket
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from engine.background import Background
from engine.config import RunConfig
from engine.errors import ReviewPending, Stopped, StudyError
from engine.experiment import Place, steps
from engine.messages import RoundRecord
from engine.own.source import Source, know
from engine.result import Result
from engine.tracked import Shown, track
from engine.tracking.tracker import Tracker
from sweeps.folder import NOT_SEEN, Seen, repeat_folder, write_progress

SHOWN = ("macro_f1", "accuracy", "recall_min")  # of the global model on validation beats, while a trial runs


@dataclass(frozen=True)
class Order:
    """What a runner is to do.

    Attributes:
        configs: one for each repeat.
        folder: of the trial.
        named: its run in MLflow.
        scores: paths of the numbers that the driver wants of a result.
        rungs: rounds of the first repeat, or numbers of repeats, after which to pause.
        by_repeat: which of the two.
        stops: files; when one is there the trial ends at its next checkpoint.
        attempt: counts the attempts at this trial; a newer one fences off an older runner that is still alive.
        sources: of the user's own parts.
    """

    configs: tuple[RunConfig, ...]
    folder: Path
    named: Shown
    scores: tuple[str, ...]
    rungs: tuple[int, ...] = ()
    by_repeat: bool = False
    stops: tuple[Path, ...] = ()
    attempt: int = 0
    sources: tuple[Source, ...] = ()

    @property
    def home(self) -> Path:
        """The folder of the first repeat, whose curves MLflow's run of the trial shows."""
        return repeat_folder(self.folder, 0)

    @property
    def rounds(self) -> int:
        """Rounds of all repeats."""
        return sum(config.federation.rounds for config in self.configs)


class Numbers(NamedTuple):
    """What the driver wants of a result: which configuration it belongs to, and the scores that were ordered."""

    config_hash: str
    scores: dict[str, float | None]


@dataclass(frozen=True)
class Reply:
    """How a chunk of a trial ended; each ending is a kind of its own.

    Attributes:
        trained: seconds of training in the chunk.
    """

    trained: float


@dataclass(frozen=True)
class AtRung(Reply):
    """The trial pauses after round, or repeat, `step`."""

    step: int
    numbers: Numbers


@dataclass(frozen=True)
class Done(Reply):
    """All repeats have run."""

    repeats: tuple[Numbers, ...]


@dataclass(frozen=True)
class AtCheckpoint(Reply):
    """The trial was stopped and can be gone on with."""


@dataclass(frozen=True)
class Waiting(Reply):
    """A reviewer must decide before the trial goes on."""

    reason: str


class TrialRunner:
    """The Ray actor that runs a trial's repeats one after another, in chunks that end where a pruner is asked."""

    def __init__(self) -> None:
        self._chunks: Generator[tuple[int, Numbers], None, tuple[Numbers, ...]] | None = None
        self._pruned = False
        self.progress: TrialProgress | None = None

    def begin(self, order: Order, tracker: Background[Tracker] | None) -> Reply:
        """Begins a trial, or goes on where an earlier attempt left off, up to the first rung."""
        self._leave(pruned=False)
        for source in order.sources:
            know(source)
        if not order.folder.is_dir():  # the driver has made it
            raise StudyError(
                f"{order.folder}: is not there on node {socket.gethostname()}; a study's folder must be on a disk that "
                "all nodes of the cluster share."
            )
        self.progress = TrialProgress(order.folder, order.configs[0].federation.method.trains_global)
        self._chunks = _chunks(order, tracker, self.progress, lambda: self._pruned)
        return self.advance()

    def advance(self) -> Reply:
        """Goes on to the next rung, or to the end."""
        assert self._chunks is not None
        assert self.progress is not None
        try:
            step, numbers = next(self._chunks)
            return AtRung(self.progress.take(), step, numbers)
        except StopIteration as end:
            return Done(self.progress.take(), end.value)
        except Stopped:
            return AtCheckpoint(self.progress.take())
        except ReviewPending as error:
            return Waiting(self.progress.take(), str(error))

    def drop(self) -> None:
        """Ends a trial at its rung, for good: the ledger is closed, hospitals are let go."""
        self._leave(pruned=True)

    def _leave(self, pruned: bool) -> None:
        self._pruned = pruned
        if self._chunks is not None:
            self._chunks.close()
            self._chunks = None
        self._pruned = False


class TrialProgress:
    """Observer that leaves the last round of a trial in its folder, for the driver to show, and what goes on since."""

    def __init__(self, folder: Path, trains_global: bool = True) -> None:
        """Args: trains_global says whether there is a global model to show scores of."""
        self._folder, self._trains_global = folder, trains_global
        self._before = 0  # rounds of earlier repeats
        self._seen = NOT_SEEN
        self._trained = 0.0

    def round_finished(self, record: RoundRecord) -> None:
        validation = record.summary.validation if self._trains_global else None
        scores = {f"validation/global/{name}": getattr(validation, name, None) for name in SHOWN}
        self._trained += record.summary.train_seconds
        self._seen = Seen(self._before + record.round, "", {k: v for k, v in scores.items() if v is not None})
        self.note("")

    def note(self, text: str) -> None:
        """Work before the first round can take longer than any round: a generator of synthetic beats is trained."""
        write_progress(self._folder, self._seen._replace(note=text))

    def repeat_finished(self, rounds: int) -> None:
        self._before += rounds

    def take(self) -> float:
        """Seconds of training since the last call."""
        trained, self._trained = self._trained, 0.0
        return trained


def next_attempt(order: Order) -> Order:
    """Counts up the attempts at a trial, in its folder; `checkpoint.fence` goes by them."""
    places = [repeat_folder(order.folder, repeat) for repeat in range(len(order.configs))]
    files = [place / "attempt" for place in places]
    attempt = max((int(file.read_text() or 0) for file in files if file.exists()), default=0) + 1
    for place, file in zip(places, files, strict=True):
        place.mkdir(parents=True, exist_ok=True)
        file.write_text(str(attempt))
    return replace(order, attempt=attempt)


def numbers_of(result: Result, scores: Iterable[str]) -> Numbers:
    """What the driver wants of a result."""
    return Numbers(result.config_hash, {name: result.score(name) for name in scores})


def _chunks(
    order: Order, tracker: Background[Tracker] | None, progress: TrialProgress, pruned: Callable[[], bool]
) -> Generator[tuple[int, Numbers], None, tuple[Numbers, ...]]:
    ended: list[Numbers] = []

    def stopping() -> bool:
        return any(path.exists() for path in order.stops)

    for repeat, config in enumerate(order.configs):
        folder = repeat_folder(order.folder, repeat)
        place = Place(order.attempt, (progress,), progress.note, stopping, pruned)
        rungs = order.rungs if repeat == 0 and not order.by_repeat else ()
        if tracker is not None and repeat == 0:
            # MLflow has one run for each trial: the first repeat's curves; the driver adds mean and spread
            run = track(config, folder, place, tracker, order.named, rungs)
        else:
            run = steps(config, folder, place, rungs)
        with contextlib.closing(run):
            while True:
                try:
                    so_far = next(run)
                except StopIteration as end:
                    ended.append(numbers_of(end.value, order.scores))
                    break
                yield len(so_far.rounds), numbers_of(so_far, order.scores)
        progress.repeat_finished(config.federation.rounds)
        if order.by_repeat and repeat + 1 in order.rungs:
            yield repeat + 1, ended[-1]
        if stopping() and repeat + 1 < len(order.configs):
            raise Stopped(f"{folder}: stopped after repeat {repeat}.")
    return tuple(ended)
