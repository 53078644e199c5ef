"""A Ray for the study driver alone: everything runs in this thread, and waiting is a clock that jumps.

An actor's call is worked off when somebody waits for it, and takes a second. A method that raises `Hangs` never ends; one that raises `Dies`
takes its process with it. Errors come back in Ray's own wrapping.
"""

import contextlib
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from engine.actors import imported_ray
from engine.background import Background
from engine.clock import JumpingClock
from engine.homes import claim
from engine.pools.config import ExecutionConfig
from engine.tracking.config import TrackingConfig
from engine.tracking.tracker import Tracker, start_tracker
from sweeps.means import Limits, Means
from sweeps.trial import TrialRunner


class Hangs(Exception):
    """The call never ends."""


class Dies(Exception):
    """The process of the actor is lost."""


class _Call:
    """A method of an actor that was called."""

    def __init__(self, actor: "_Actor", work: Callable[[], Any]) -> None:
        self.actor, self._work = actor, work
        self.answer: Any = None
        self.error: Exception | None = None
        self.ended = False

    def work(self) -> None:
        if self.ended:
            return
        errors = imported_ray().exceptions
        try:
            if not self.actor.alive:
                raise Dies
            self.answer = self._work()
        except Hangs:
            return
        except Dies:
            self.error = errors.RayActorError()
        except Exception as error:
            self.error = errors.RayTaskError("method", traceback.format_exc(), error).as_instanceof_cause()
        self.ended = True


class _Actor:
    """An actor; its methods are called with `.remote`."""

    def __init__(self, kind: type) -> None:
        self._object = kind()
        self.alive = True

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._object, name)
        return SimpleNamespace(remote=lambda *args: _Call(self, lambda: method(*args)))


class SimulatedRay:
    """What of Ray's module the driver uses.

    Attributes:
        machines: nodes that are alive.
        memory: bytes that are free, as a cluster tells them.
        groups: placement groups that are there.
    """

    def __init__(self, clock: JumpingClock, cpus: float = 2.0) -> None:
        self.clock, self._cpus = clock, cpus
        self.machines = 1
        self.memory = float("inf")
        self.exceptions = imported_ray().exceptions
        self.groups = 0
        self.util = SimpleNamespace(
            placement_group=self._group,
            remove_placement_group=self._remove,
            scheduling_strategies=SimpleNamespace(PlacementGroupSchedulingStrategy=lambda *args, **options: None),
        )

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self._cpus}

    def available_resources(self) -> dict[str, float]:
        return {"CPU": self._cpus, "memory": self.memory}

    def nodes(self) -> list[dict[str, Any]]:
        head = {"CPU": self._cpus, "node:__internal_head__": 1.0}
        return [{"NodeID": "here", "Alive": True, "Labels": {}, "Resources": head}] * self.machines

    def ready(self) -> bool:
        """Whether a placement group is there after a second of waiting."""
        return True

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "here")

    def remote(self, **options: Any) -> Callable[[type], Any]:
        return lambda kind: SimpleNamespace(options=lambda **more: SimpleNamespace(remote=lambda: _Actor(kind)))

    def wait(self, calls: Sequence[_Call], num_returns: int, timeout: float) -> tuple[list[_Call], list[_Call]]:
        for call in calls:
            call.work()
            if call.ended:
                self.clock.sleep(1.0)
                return [call], [other for other in calls if other is not call]
        self.clock.sleep(timeout)
        return [], list(calls)

    def get(self, call: _Call, timeout: float | None = None) -> Any:
        call.work()
        if call.error is not None:
            raise call.error
        return call.answer

    def kill(self, actor: _Actor) -> None:
        actor.alive = False

    def _group(self, bundles: Any, strategy: str, bundle_label_selector: Any = None) -> Any:
        self.groups += 1
        return SimpleNamespace(wait=lambda seconds: self.ready())

    def _remove(self, group: Any) -> None:
        self.groups -= 1


def simulated(
    runner: type[TrialRunner] = TrialRunner,
    limits: Limits | None = None,
    clock: JumpingClock | None = None,
    cluster: Callable[[JumpingClock], SimulatedRay] = SimulatedRay,
) -> Means:
    """What a driver works with, without Ray and without pictures; MLflow's tracker is a thread."""
    clock, limits = clock or JumpingClock(), limits or Limits()

    @contextlib.contextmanager
    def ray(execution: ExecutionConfig) -> Iterator[SimulatedRay]:
        starter = threading.current_thread()
        yield cluster(clock)
        assert starter.is_alive(), (
            "Linux kills a Ray with the thread that started it, and leaving a dead one takes 15 s"
        )

    def tracker(config: TrackingConfig, folder: Path, actor: bool) -> Background[Tracker]:
        return start_tracker(config, folder, actor=False)

    def draw(folder: Path) -> None:
        claim(folder / "report", "report", ("report.html",))
        (folder / "report" / "report.html").write_text("a page", encoding="utf-8")

    return Means(clock, ray, limits, runner, tracker, warm=lambda study, note: None, draw=draw)
