"""Runs one object's methods beside the caller, in order: in a thread, or in a Ray actor of its own.

The ledger and the tracker live here, so that a round never waits for a database or a chain. A call names the method
itself, which readers and type checkers can follow:

    tracker = Background(Tracker, uri, experiment, actor=True)
    tracker.submit(Tracker.log, key, step, {"train/loss": 0.5})
"""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from queue import SimpleQueue
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from engine.actors import Spot, end_actor, give_back, take_actor

_HERE = Spot(here=True)
ABANDON_SECONDS = 10.0  # for what is under way when the rest has failed or was stopped: it may wait for a node


class Closable(Protocol):
    """What can be kept in the background: it is closed at the end."""

    def close(self) -> Any:
        """Finishes its work; a second call does nothing."""
        ...


Object = TypeVar("Object", bound=Closable)
Given = ParamSpec("Given")
Found = TypeVar("Found")
Found_co = TypeVar("Found_co", covariant=True)


class Answer(Protocol[Found_co]):
    """The result of a call that may still be under way."""

    def result(self) -> Found_co:
        """Waits; raises what the call raised."""
        ...

    def done(self) -> bool:
        """Whether `result` would return at once."""
        ...


class Background(Generic[Object]):
    """An object made by `factory(*args)`, used from afar. Calls run one after another in the order of submission."""

    def __init__(self, factory: Callable[..., Object], *args: Any, actor: bool) -> None:
        """Args: factory and args make the object in its own place; `actor` picks a Ray actor, else a thread."""
        self._thread: _Thread | None = None
        self._actor: Any = None
        if actor:
            # no CPU is claimed: it mostly waits for a disk or a node; the disk is its maker's
            self._actor = take_actor(_Holder, 0, _HERE)
            self._actor.make.remote(factory, args)
        else:
            self._thread = _Thread(factory.__name__)
            self._object = self._thread.submit(lambda: factory(*args))

    def submit(
        self, function: Callable[Concatenate[Object, Given], Found], /, *args: Given.args, **keys: Given.kwargs
    ) -> Answer[Found]:
        """Calls a method of the object's class, or a function of the object; does not wait.

        Of a method, a subclass's own is called. A function must be one that another process can import.
        """
        return self._submit(function, *args, **keys)

    def _submit(self, function: Callable[..., Any], /, *args: Any, **keys: Any) -> Answer[Any]:
        if self._thread is not None:
            return self._thread.submit(lambda: _called(self._object.result(), function, args, keys))
        return _RayAnswer(self._actor.call.remote(function, args, keys))

    def close(self) -> None:
        """Closes the object, waits for it, and lets go of thread or actor."""
        try:
            self._submit(Closable.close).result()
        except BaseException:
            self.abandon()
            raise
        if self._thread is not None:
            self._thread.end()
        elif self._actor is not None:
            give_back(self._actor, _Holder, 0, _HERE)
            self._actor = None

    def end(self) -> None:
        """Ends an actor at once, with everything that waits in it."""
        if self._actor is not None:
            end_actor(self._actor)
            self._actor = None

    def abandon(self, seconds: float = ABANDON_SECONDS) -> None:
        """Closes the object if it was made at all; whatever goes wrong stays unsaid, as something else did first.

        What is under way has so many seconds. After that it is left: an actor ends, and a thread ends with the process.
        """
        if self._thread is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._thread.end(self._thread.submit(lambda: self._object.result().close()), seconds)
        elif self._actor is not None:
            with contextlib.suppress(Exception):
                _RayAnswer(self._actor.call.remote(Closable.close, (), {})).within(seconds)
            end_actor(self._actor)
            self._actor = None


class _Thread:
    """Calls one after another in a thread, which nobody waits for when the process ends."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._has_ended = False
        self._last: Future[Any] | None = None
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        if self._has_ended:
            raise RuntimeError("a call after the end")
        answer: Future[Any] = Future()
        self._calls.put((answer, call))
        return answer

    def end(self, last: Future[Any] | None = None, seconds: float = 0.0) -> None:
        """After the calls so far; those that have not begun when so many seconds are over are left out, but for the last."""
        self._has_ended = True
        self._calls.put(None)
        if last is not None and wait_for([last], seconds).not_done:
            self._last = last

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            answer, call = item
            if self._last not in (None, answer):
                answer.cancel()
                continue
            try:
                answer.set_result(call())
            except BaseException as error:
                answer.set_exception(error)


class _Holder:
    """The Ray actor."""

    def __init__(self) -> None:
        self._object: Any = None
        self._error: Exception | None = None

    def make(self, factory: Callable[..., Any], args: tuple[Any, ...]) -> None:
        # The error waits for the first call, which somebody listens to.
        self._object = self._error = None
        try:
            self._object = factory(*args)
        except Exception as error:
            self._error = error

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], keys: dict[str, Any]) -> Any:
        if self._error is not None:
            raise self._error
        return _called(self._object, function, args, keys)


def _called(target: Any, function: Callable[..., Any], args: tuple[Any, ...], keys: dict[str, Any]) -> Any:
    if "." in function.__qualname__:  # a method of a class
        return getattr(target, function.__name__)(*args, **keys)
    return function(target, *args, **keys)


class _RayAnswer:
    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def result(self) -> Any:
        import ray

        try:
            return ray.get(self._reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None  # our own exception, not Ray's wrapping of it

    def within(self, seconds: float) -> None:
        """Waits so long at most."""
        import ray

        ray.wait([self._reference], timeout=seconds)

    def done(self) -> bool:
        import ray

        return bool(ray.wait([self._reference], timeout=0)[0])
