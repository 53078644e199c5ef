"""Room for trials on Ray: a placement group for each at a time, and the runner that lives in its first bundle."""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from engine.actors import SITE, imported_ray, joined_ray, start_ray, stop_ray
from engine.clock import REAL, Clock
from engine.config import RunConfig
from engine.errors import ResourceError, StudyError
from engine.joining import lost
from engine.pools.config import ExecutionConfig
from sweeps.sizes import (
    RUNNER_CPU,
    all_memory,
    free_memory,
    memory_room,
    trial_bundles,
    trial_gigabytes,
    trial_labels,
)
from sweeps.space import StudyConfig
from sweeps.text import first_line
from sweeps.trial import TrialRunner

HEAD_SECONDS = 10.0  # for which the head of a cluster may be away
_LOOK_SECONDS = 2.0  # between two looks at it
SAY_SECONDS = (10.0, 60.0)  # until it is said what is waited for, and until it is said again
START_SECONDS = 180.0  # a placement group that is not there by then, with no other trial in its way, never will be


class RayLost(Exception):
    """Ray itself is gone; the message says what was seen of it."""


@dataclass(frozen=True)
class Slot:
    """A placement group and its runner, used by one trial after another."""

    group: Any
    runner: Any
    bundles: list[dict[str, float]]
    labels: list[dict[str, str]]


@dataclass(frozen=True)
class _Asked:
    """A placement group that Ray has been asked for; `since` when no other trial is in its way, and when to say so."""

    group: Any
    bundles: list[dict[str, float]]
    labels: list[dict[str, str]]
    since: float
    say_at: float


class Slots:
    """The slots of a study.

    Attributes:
        at_once: trials that run at a time.
        cpus: of each of them.
    """

    def __init__(
        self,
        ray: Any,
        study: StudyConfig,
        say: Callable[[str], None] = lambda text: None,
        runner: type[TrialRunner] = TrialRunner,
        clock: Clock = REAL,
        start_seconds: float = START_SECONDS,
        memory: float | None = None,
        head: Callable[[], str] | None = None,
    ) -> None:
        """
        Args:
            say: told what is waited for, and until when.
            memory: bytes that this machine has; None asks it.
            head: what is wrong with the head of a cluster just now, "" for nothing; None asks that of the Ray that was joined.

        Raises:
            ResourceError: a trial does not fit.
        """
        memory = all_memory() if memory is None else memory
        self._ray, self._study, self._say, self._runner, self._clock = ray, study, say, runner, clock
        self._seconds = start_seconds
        there = ray.cluster_resources().get("CPU", 1.0)
        # what each site may hold at a time, only the user knows
        self.wanted = study.concurrency or (1 if study.execution.sites else max(1, int(there)))
        room = memory_room(study, there / self.wanted, _free_memory(ray, study))
        self.at_once = min(self.wanted, max(room, 1))
        self.cpus = trial_cpus(ray, study, self.at_once)
        each = trial_gigabytes(study, self.cpus)
        if study.execution.address == "local" and each * 1e9 > memory:
            raise ResourceError(
                f"the largest trial wants about {each:.3g} GB of memory, and this machine has {memory / 1e9:.3g} GB; give fewer "
                "hospitals, or more of them to an actor (execution.hospitals_per_actor)."
            )
        self._idle: list[Slot] = []
        self._asked: _Asked | None = None
        self._where = joined_ray()
        self._head = head or (lambda: lost(self._where))
        self._is_away = False
        self._left: list[Slot] = []  # to be ended when the head is back
        self._heard = self._looked = clock.now()

    def look(self) -> bool:
        """Looks after the head of a cluster that was joined; tells whether it is there.

        Ray itself waits a minute for it, in whatever it is asked, and then ends the process without a word.

        Raises:
            RayLost: it has been away for `HEAD_SECONDS`.
        """
        now = self._clock.now()
        if now - self._looked < _LOOK_SECONDS:
            return not self._is_away
        self._looked = now
        problem = self._head()
        self._is_away = bool(problem)
        if not problem:
            self._heard = now
            while self._left:
                self.end(self._left.pop())
        elif now - self._heard > HEAD_SECONDS:
            raise RayLost(f"its head at {self._where} does not answer: {problem}")
        return not self._is_away

    def take(self, trial: int, config: RunConfig, others: bool = False) -> Slot | None:
        """A slot for a trial: one that is idle and has its size, else a new one; None while Ray has no room for it.

        CPUs that are free in sum may lie on several nodes, so a group may have to wait for others to end. Looks for a
        second, and never longer: whoever waits has trials to conclude.

        Args:
            others: whether trials of this study are running, whose end may make room.

        Raises:
            ResourceError: it does not come to be, though it waits for no other trial.
            RayLost: and never will.
        """
        nodes = sum(node["Alive"] for node in self._ray.nodes())
        bundles, labels = trial_bundles(config, self.cpus, nodes), trial_labels(config, self.cpus)
        for slot in self._idle:
            if (slot.bundles, slot.labels) == (bundles, labels):
                self._idle.remove(slot)
                self._forget()
                return slot
        if self._idle:
            self.end(self._idle.pop(0))  # of another size: its CPUs are wanted
        return self._open(trial, bundles, labels, others)

    def give_back(self, slot: Slot) -> None:
        """Keeps a slot whose trial has ended for the next."""
        self._idle.append(slot)

    def end(self, slot: Slot) -> None:
        """Ends a slot with all that runs in it."""
        if self._is_away:
            self._left.append(slot)  # nobody is there to do it, and Ray would wait
            return
        self.end_runner(slot)
        with contextlib.suppress(Exception):
            self._ray.util.remove_placement_group(slot.group)

    def end_runner(self, slot: Slot) -> None:
        """Ends a runner's process; its hospitals belong to it and end with it. What it was called for fails."""
        with contextlib.suppress(Exception):
            self._ray.kill(slot.runner)

    def close(self) -> None:
        """Ends the idle ones, and what was asked for."""
        self._forget()
        while self._idle:
            self.end(self._idle.pop())

    def cores(self) -> float:
        """CPUs of the whole cluster."""
        return self._ray.cluster_resources().get("CPU", 1.0)

    def _open(
        self, trial: int, bundles: list[dict[str, float]], labels: list[dict[str, str]], others: bool
    ) -> Slot | None:
        ray, now = self._ray, self._clock.now()
        asked = self._asked
        if asked is None or (asked.bundles, asked.labels) != (bundles, labels):
            self._forget()
            strategy = "SPREAD" if self._study.execution.placement == "spread" else "PACK"
            group = ray.util.placement_group(bundles, strategy, bundle_label_selector=labels or None)
            asked = _Asked(group, bundles, labels, now, now + SAY_SECONDS[0])
        self._asked = replace(asked, since=now, say_at=now + SAY_SECONDS[0]) if others else asked
        if not self._is_there(asked.group):
            if not others:
                self._wait_on(trial, asked)
            return None
        self._asked = None
        where = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
            asked.group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
        )
        actor = ray.remote(num_cpus=RUNNER_CPU, max_restarts=0)(self._runner)
        return Slot(asked.group, actor.options(scheduling_strategy=where).remote(), bundles, labels)

    def _wait_on(self, trial: int, asked: _Asked) -> None:
        """Says now and then what a trial waits for, though no other is in its way.

        Raises:
            ResourceError: it has waited long enough.
        """
        now = self._clock.now()
        left = self._seconds - (now - asked.since)
        there, free = self.cores(), self._ray.available_resources().get("CPU", 0)
        sites = sorted({label[SITE] for label in asked.labels if label})
        where = f" on nodes labelled {SITE}={', '.join(sites)}" if sites else ""
        parts = f" in {len(asked.bundles)} bundles" if len(asked.bundles) > 1 else ""
        wanted, found = f"{self.cpus:g} CPU{parts}{where}", f"the cluster's {there:g} CPU have {free:g} free"
        if left < 0:
            self._forget()
            raise ResourceError(f"trial {trial} wants {wanted}; after {self._seconds:g} s {found}.")
        if now >= asked.say_at:
            self._say(f"trial {trial} waits for {wanted}, for {left:.0f} s more; {found}")
            self._asked = replace(asked, say_at=now + SAY_SECONDS[1])

    def _forget(self) -> None:
        """Takes back what Ray was asked for and has not given."""
        if self._asked is not None and not self._is_away:
            with contextlib.suppress(Exception):
                self._ray.util.remove_placement_group(self._asked.group)
        self._asked = None

    def _is_there(self, group: Any) -> bool:
        lost = "no node is left"
        try:
            if group.wait(1):
                return True
            # on a cluster another node may join
            if self._study.execution.address != "local" or any(node["Alive"] for node in self._ray.nodes()):
                return False
        except Exception as error:  # Ray's own is a bare Exception here
            lost = first_line(error)
        raise RayLost(lost)


@contextlib.contextmanager
def started_ray(execution: ExecutionConfig) -> Iterator[Any]:
    """Ray, started or joined unless it was already.

    Raises:
        ResourceError: no Ray answers at the address.
    """
    started = start_ray(execution)
    try:
        yield imported_ray()
    finally:
        if started:
            stop_ray()


def cause_of(ray: Any, error: BaseException) -> BaseException:
    """What went wrong in an actor, also in one that another actor asked."""
    while isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


def unimportable(error: BaseException) -> str:
    """What a process could not import while it was started: a mistake, and no process that was lost; empty otherwise."""
    text = str(error)
    found = re.findall(r"\b((?:ModuleNotFound|Import)Error: .+)", text) if "creation task" in text else []
    return found[-1].strip() if found else ""


def trial_cpus(ray: Any, study: StudyConfig, concurrency: int) -> float:
    """CPUs of one trial: all divided by the wanted concurrency, at least one if there is.

    Raises:
        ResourceError: the trials at a time want more than there is.
    """
    there = ray.cluster_resources().get("CPU", 0.0)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    largest = max((node["Resources"].get("CPU", 0.0) for node in nodes), default=0.0)
    cpus = min(there / concurrency, largest) if study.concurrency else 1.0
    rooms = dict.fromkeys(study.execution.sites.values(), 0.0)
    for node in nodes:
        if (site := node["Labels"].get(SITE)) in rooms:
            rooms[site] = max(rooms[site], node["Resources"].get("CPU", 0.0))
    if rooms:
        # all hospitals may be at the smallest site; one that has not joined yet has at least one CPU
        cpus = min(room or 1.0 for room in rooms.values()) / concurrency
    if cpus < 2 * RUNNER_CPU or cpus > largest:
        raise ResourceError(
            f"concurrency {study.concurrency or 1} leaves {cpus:.2g} CPU for a trial, which wants at least "
            f"{2 * RUNNER_CPU:g}; the cluster has {there:g} CPU."
        )
    return cpus


def require_head(ray: Any, study: StudyConfig) -> None:
    """SQLite is one machine's: on a cluster its file lies beside a driver on the head node.

    Raises:
        StudyError: the driver is on another node.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    here = ray.get_runtime_context().get_node_id()
    head = [node["NodeID"] for node in alive if "node:__internal_head__" in node["Resources"]]
    if study.storage is None and len(alive) > 1 and here not in head:
        raise StudyError(
            f"storage: null is SQLite, which wants the driver on the head node of a cluster of {len(alive)} nodes; start it "
            "there, or give storage a postgresql+psycopg:// address."
        )


def _free_memory(ray: Any, study: StudyConfig) -> float:
    if study.execution.address == "local":
        return free_memory()
    return float(ray.available_resources().get("memory", 0.0)) or float("inf")
