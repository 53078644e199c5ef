"""Starting and leaving Ray, and actors that are used again.

An actor costs a process: half a second to two seconds of start-up. One that did its work is kept, and given to the
next that wants the same kind with the same share of a CPU.
"""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from engine.errors import ResourceError
from engine.joining import found, require_ray, use_token
from engine.pools.config import ExecutionConfig

HERE = Path(__file__).resolve().parents[1]
PACKAGES = ("engine", "sweeps", "pulseledger")
LONGEST_FOLDER = 40  # letters of Ray's folder
_session: list[str] = []  # the folder of the Ray that this process started or joined
_head: list[str] = []  # HOST:PORT of a Ray that this process joined
_users: list[int] = []  # one for each that has started it and not left
_lock = threading.RLock()
# (class, share of a CPU, place) -> actors that are there to be taken again
_idle: dict[tuple[str, float, "Spot"], list[Any]] = {}


class Spot(NamedTuple):
    """Where an actor must run. With nothing set it is Ray's choice, or within the caller's placement group.

    Attributes:
        bundle: of the caller's placement group.
        site: value of the node label `site`.
        spread: away from others of its kind.
        here: on the caller's own node, for one that shares its disk.
    """

    bundle: int | None = None
    site: str | None = None
    spread: bool = False
    here: bool = False


ANYWHERE = Spot()
SITE = "site"  # the label of Ray's nodes that `execution.sites` speaks of


def imported_ray() -> Any:
    """Ray, imported with the settings that keep it quiet and at normal priority."""
    for name, value in {
        "RAY_worker_niceness": "0",  # the default of 15 lets any other process on the machine win
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SCHEDULER_EVENTS": "0",
    }.items():
        os.environ.setdefault(name, value)
    import ray

    # a local Ray makes itself a token and says so at every start, and one that starts in a thread that it hears no signals
    for name in ("authentication", "worker"):
        logging.getLogger(f"ray._private.{name}").setLevel(logging.ERROR)
    return ray


def start_ray(execution: ExecutionConfig) -> bool:
    """Starts or joins the Ray of `execution.address`, quietly; returns whether `stop_ray` must be called for it.

    An address is always given: a bare `ray.init()` would join whatever other Ray runs on the machine. A Ray that this
    process has started already is shared, by threads, too; the last one to leave stops it.

    Raises:
        ResourceError: no Ray answers at the address, or none can be started here.
    """
    ray = imported_ray()
    with _lock:
        if ray.is_initialized():
            if _session:
                _users.append(1)
            return bool(_session)
        local = execution.address == "local"
        if local and sys.flags.optimize > 1:
            raise ResourceError("Ray does not work without docstrings: take away PYTHONOPTIMIZE=2, or python's -OO.")
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
        if not execution.address.startswith("ray://"):
            options["job_config"] = _search_path()
        if local:
            options |= {"include_dashboard": False, **_short_folder()}
            if execution.cpus is not None:
                options["num_cpus"] = execution.cpus
        # a Ray that joins no cluster listens on this machine's loopback only, as it does by itself on other systems
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = not local
        address = execution.address
        if not local:
            use_token()
            address = found(address)
            require_ray(address)
        try:
            with _own_signals():
                joined = ray.init(address=address, **options)
        except Exception as error:  # a node that is slow to start is a bare Exception
            reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            if local:
                raise ResourceError(
                    f"Ray could not be started here ({reason}); its files are in {_ray_folder()}."
                ) from None
            raise ResourceError(f"execution.address: no Ray at {address!r} ({reason}).") from None
        _session[:] = [str(joined.address_info.get("session_dir") or "")]
        _head[:] = [] if local else [str(joined.address_info.get("gcs_address") or address)]
        _users[:] = [1]
        return True


def _ray_folder() -> str:
    return os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()


def _short_folder() -> dict[str, str]:
    """Where Ray's sockets lie: their names have 107 bytes, of which Ray's own parts want more than half.

    Raises:
        ResourceError: neither TMPDIR nor /tmp will do.
    """
    if len(os.fsencode(_ray_folder())) <= LONGEST_FOLDER:
        return {}
    if "RAY_TMPDIR" not in os.environ and os.access("/tmp", os.W_OK):
        return {"_temp_dir": "/tmp/ray"}
    raise ResourceError(
        f"{_ray_folder()}: is too long for the names of Ray's sockets; set RAY_TMPDIR to a folder of at most {LONGEST_FOLDER} "
        "letters, such as /tmp."
    )


def _search_path() -> Any:
    """Ray has workers look for modules where the driver was started: a package of our name there would hide ours."""
    from ray.job_config import JobConfig

    class Ours(JobConfig):
        def _serialize(self) -> Any:
            self._py_driver_sys_path = [path for path in self._py_driver_sys_path if not _hides_ours(Path(path))]
            return super()._serialize()

    return Ours()


def _hides_ours(folder: Path) -> bool:
    if folder.resolve() == HERE:
        return False
    return any((folder / name).exists() for ours in PACKAGES for name in (ours, f"{ours}.py"))


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray sets handlers of its own, which end the process without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: set from outside of Python
                signal.signal(number, handler)


def worker_logs() -> str:
    """Where this machine keeps what Ray's workers print; they stay after Ray has ended. Empty without a Ray."""
    return f"{_session[0]}/logs" if _session and _session[0] else ""


def joined_ray() -> str:
    """HOST:PORT of the Ray that this process joined; empty without one, and for one of its own."""
    return _head[0] if _head else ""


def stop_ray() -> None:
    """Leaves or stops the Ray that `start_ray` started, once nobody else in this process wants it."""
    with _lock:
        if _users:
            _users.pop()
        if _users:
            return
        _idle.clear()
        _session.clear()
        _head.clear()
        imported_ray().shutdown()


def take_actor(kind: type, num_cpus: float, place: Spot = ANYWHERE) -> Any:
    """An actor of class `kind`, whose constructor takes no arguments: one that was given back, else a new one.

    Idle actors of the same class with another share are ended first, so that they do not hold CPUs that are wanted.
    """
    for name, share, where in list(_idle):
        if name == kind.__name__ and share != num_cpus:
            for actor in _idle.pop((name, share, where)):
                end_actor(actor)
    if waiting := _idle.get((kind.__name__, num_cpus, place)):
        return waiting.pop()
    ray = imported_ray()
    options: dict[str, Any] = {"num_cpus": num_cpus, "max_restarts": 0}
    strategies = ray.util.scheduling_strategies
    if place.bundle is not None:
        options["scheduling_strategy"] = strategies.PlacementGroupSchedulingStrategy(
            ray.util.get_current_placement_group(), placement_group_bundle_index=place.bundle
        )
    elif place.site is not None:
        options["label_selector"] = {SITE: place.site}
    elif place.spread:
        options["scheduling_strategy"] = "SPREAD"
    elif place.here:
        node = ray.get_runtime_context().get_node_id()
        options["scheduling_strategy"] = strategies.NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(**options)(kind).remote()


def give_back(actor: Any, kind: type, num_cpus: float, place: Spot = ANYWHERE) -> None:
    """Keeps an actor that did its work for the next that wants one; a broken one must be ended instead."""
    _idle.setdefault((kind.__name__, num_cpus, place), []).append(actor)


def end_idle() -> None:
    """Ends all actors that wait to be taken again."""
    for actors in _idle.values():
        for actor in actors:
            end_actor(actor)
    _idle.clear()


def idle_cpus(kind: type) -> float:
    """CPUs held by idle actors of class `kind`: free for whoever takes them or ends them."""
    return sum(share * len(actors) for (name, share, _), actors in _idle.items() if name == kind.__name__)


def end_actor(actor: Any) -> None:
    """Ends an actor's process."""
    with contextlib.suppress(Exception):
        imported_ray().kill(actor)
