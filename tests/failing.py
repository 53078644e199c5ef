"""Coordinators that die: a run that ends between any two steps, and what stands in its folder from then on.

moments = steps_of(config, folder)                   # names of all steps of a run, in order
with pytest.raises(Interrupted):
    run(config, folder, dying(moment=7))             # before the eighth of them
run(config, folder, led_by("deputy"))
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from reference import Interrupted

from engine.config import RunConfig
from engine.experiment import Place, run
from engine.ledger.config import Leader
from engine.ledger.format import RUN
from engine.rounds import Parts

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


def steps_of(config: RunConfig, folder: Path) -> tuple[str, ...]:
    """Runs to the end; returns the names of its steps, in order."""
    seen: list[str] = []
    run(config, folder, Place(parts=lambda parts: _watched(parts, seen.append)))
    return tuple(seen)


def dying(moment: int, name: str = "") -> Place:
    """Where a coordinator, or the successor `name`, is gone before a step, counted from 0."""
    seen: list[str] = []

    def step(name: str) -> None:
        if len(seen) == moment:
            raise Interrupted
        seen.append(name)

    return Place(parts=lambda parts: _watched(parts, step), leader=Leader(name))


def led_by(name: str, key: bytes = b"") -> Place:
    """Where a successor goes on."""
    return Place(leader=Leader(name, key))


def silent(folder: Path, seconds: float) -> None:
    """Makes the last sign in a journal so many seconds old."""
    for path in (folder / "ledger").glob(RUN.file + "*"):
        os.utime(path, (time.time() - seconds, time.time() - seconds))
