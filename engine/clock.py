"""Time as a parameter: what waits, waits on a clock, so that a test can let hours pass at once."""

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds that only go forward, and waiting for them."""

    def now(self) -> float:
        """Seconds since some fixed moment."""
        ...

    def sleep(self, seconds: float) -> None:
        """Waits."""
        ...


class RealClock:
    """The machine's own."""

    def now(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class JumpingClock:
    """A clock for tests: it stands still until somebody sleeps, and then jumps.

    >>> clock = JumpingClock()
    >>> clock.sleep(3600)
    >>> clock.now()
    3600.0
    """

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += max(seconds, 0.0)


REAL = RealClock()


class Stopwatch:
    """Laps of a piece of work, in seconds by name."""

    def __init__(self, clock: Clock = REAL) -> None:
        self._clock = clock
        self._began = self._last = clock.now()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Ends a lap, which began with the one before."""
        now = self._clock.now()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now

    @property
    def total(self) -> float:
        """Seconds from the start to the end of the last lap."""
        return self._last - self._began
