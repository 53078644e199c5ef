"""What a driver works with, and how long it waits; tests give others."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.background import Background
from engine.clock import REAL, Clock
from engine.pools.config import ExecutionConfig
from engine.tracking.tracker import Tracker, start_tracker
from sweeps.mirror import STORE_SECONDS, draw_report
from sweeps.slots import START_SECONDS, started_ray
from sweeps.space import StudyConfig
from sweeps.trial import TrialRunner
from sweeps.warm import warm


@dataclass(frozen=True)
class Limits:
    """How long a driver waits, and how often it tries.

    Attributes:
        start: seconds for a placement group, and for the first sign of a trial.
        stop: seconds for a trial to reach a checkpoint when a stop is wanted; more where its rounds take longer than half of it.
        leave: the same for one that has made no round yet, so that nothing is lost with it.
        drop: seconds for a pruned trial to close its ledger and let its hospitals go.
        store: seconds for an MLflow store that is away when the study ends.
        tick: seconds between two looks at the running trials.
        losses: times that a trial is started again after its processes were lost.
        fail_fast: trials that all fail at the start end the study.
    """

    start: float = START_SECONDS
    stop: float = 30.0
    leave: float = 5.0
    drop: float = 30.0
    store: float = STORE_SECONDS
    tick: float = 0.5
    losses: int = 2
    fail_fast: int = 3


@dataclass(frozen=True)
class Means:
    """What a driver works with.

    Attributes:
        ray: gives the module, started, for as long as it is entered.
        warm: prepares this machine for the first trial while a local Ray starts.
        draw: writes the report of a study that is tracked into its folder.
    """

    clock: Clock = REAL
    ray: Callable[[ExecutionConfig], AbstractContextManager[Any]] = started_ray
    limits: Limits = Limits()
    runner: type[TrialRunner] = TrialRunner
    start_tracker: Callable[..., Background[Tracker]] = start_tracker
    warm: Callable[[StudyConfig, Callable[[str], None]], None] = warm
    draw: Callable[[Path], object] = draw_report


MEANS = Means()
