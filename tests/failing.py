"""Coordinators that die: a run that ends between any two steps, and what stands in its folder from then on.

whole = undisturbed(config, folder)                  # its result, and the names of all its steps, in order
with pytest.raises(Interrupted):
    run(config, folder, dying(moment=7))             # before the eighth of them
run(config, folder, led_by("deputy"))
same(folder, whole)
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from reference import Interrupted

from engine.config import RunConfig
from engine.experiment import Place, run
from engine.ledger.config import Leader
from engine.ledger.format import RUN
from engine.messages import LoopState
from engine.pools.build import build_pool
from engine.result import MODEL, PREDICTIONS, Result
from engine.rounds import Parts

PATIENCE = 60  # seconds
FAILOVER: dict[str, Any] = {
    "ledger.backend": "embedded",
    "ledger.successors": ["deputy", 1, "reserve"],
    "ledger.patience": PATIENCE,
}
STEPS = 23  # of a run of two rounds: nine in each, five at its end
QUIET = ("notice", "name", "desk", "pending", "abandon")  # steps that leave nothing behind: the next one shows the same


class _Part:
    """A part of the loop, each of whose calls is a step."""

    def __init__(self, name: str, part: Any, step: Callable[[str], None]) -> None:
        self._name, self._part, self._step = name, part, step

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if not callable(found) or name in QUIET or name == "partial":
            return found

        def called(*args: Any, **keys: Any) -> Any:
            self._step(f"{self._name}.{name}")
            return found(*args, **keys)

        return called

    def __call__(self, *args: Any) -> Any:
        self._step(self._name)
        return self._part(*args)


def _watched(parts: Parts, step: Callable[[str], None]) -> Parts:
    names = ("pool", "schedule", "rule", "judges", "ledger", "masking")
    return replace(parts, **{name: _Part(name, getattr(parts, name), step) for name in names})


class Whole(NamedTuple):
    """An undisturbed run: its folder, its result, the names of its steps."""

    folder: Path
    result: Result
    steps: tuple[str, ...]


def undisturbed(config: RunConfig, folder: Path) -> Whole:
    """Runs to the end."""
    seen: list[str] = []
    result = run(config, folder, Place(parts=lambda parts: _watched(parts, seen.append)))
    return Whole(folder, result, tuple(seen))


def same(folder: Path, whole: Whole) -> None:
    """Model, predictions, head and closing record are those of the undisturbed run, to the bit."""
    for name in (MODEL, PREDICTIONS):
        assert (folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    found = Result.read(folder)
    assert (found.ledger.head, found.ledger.closing) == (whole.result.ledger.head, whole.result.ledger.closing)
    assert [row.validation for row in found.rounds] == [row.validation for row in whole.result.rounds]


def dying(moment: int, name: str = "") -> Place:
    """Where a coordinator, or the successor `name`, is gone before a step, counted from 0."""
    seen: list[str] = []

    def step(name: str) -> None:
        if len(seen) == moment:
            raise Interrupted
        seen.append(name)

    return Place(parts=lambda parts: _watched(parts, step), leader=Leader(name))


def dying_within(call: str, times: int) -> Place:
    """Where a coordinator is gone before the pool's `call` is made for the n-th time: within a step of the loop, or before it."""
    left = [times]

    def step(name: str) -> None:
        if name == call:
            left[0] -= 1
            if not left[0]:
                raise Interrupted

    return Place(pool=lambda hospitals, task: _Part("pool", build_pool(hospitals, task), step))  # type: ignore[arg-type, return-value]


def cheating(round: int, name: str = "", **more: Any) -> Place:
    """Where the coordinator, or a successor, moves the model of a round by a little more than its updates say.

    Args:
        more: of the place.
    """

    def parts(parts: Parts) -> Parts:
        honest = parts.rule.direction

        def direction(state: LoopState, *given: Any) -> np.ndarray | None:
            found = honest(state, *given)
            return found + np.float32(1e-3) if state.round + 1 == round else found

        return replace(parts, rule=replace(parts.rule, direction=direction))

    return Place(parts=parts, leader=Leader(name), **more)


def led_by(name: str, key: bytes = b"") -> Place:
    """Where a successor goes on."""
    return Place(leader=Leader(name, key))


def silent(folder: Path, seconds: float) -> None:
    """Makes the last sign in a journal so many seconds old."""
    for path in (folder / "ledger").glob(RUN.file + "*"):
        os.utime(path, (time.time() - seconds, time.time() - seconds))
