"""Making an own part and calling it: what is wrong with it is told in a sentence that names it, before any long work.

What is named is a function or class. It is called with what the engine gives to its kind, and with the user's parameters by
their names; what it returns is the part.
"""

import difflib
import functools
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from engine.encoding import canonical_json
from engine.errors import ConfigError, PulseLedgerError
from engine.own.load import is_own_file, module_of
from engine.own.reference import FORMS, Reference, is_own, reference
from engine.settings import Mistake, Section


class OwnPartError(PulseLedgerError):
    """Code of an own part failed, or gave what its kind may not. The message names part, file and line."""


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    try:
        canonical_json(values)
    except (TypeError, ValueError, RecursionError):
        raise ValueError("must be plain finite values: text, numbers, true, false, null, lists and mappings") from None
    return values


Parameters = Annotated[dict[str, Any], AfterValidator(_plain)]


class OwnSection(Section):
    """Settings of which one key names a part that may be a user's own; its parameters stand beside it."""

    PART: ClassVar[str]  # that key

    def clashes(self) -> Iterator[Mistake]:
        """Parameters of what is built in would be dropped."""
        name, parameters = getattr(self, self.PART), getattr(self, "parameters")  # noqa: B009 (each has its own)
        if parameters and not is_own(name):
            says = f"parameters are for a part of your own ({FORMS}), and {self.PART} is {name}"
            yield Mistake(says, ["parameters", self.PART])


def own_parameters() -> Any:
    """The field of a section's `parameters`."""
    return Field({}, description="of a part of your own: its parameters by name")


def make(
    what: str, text: str, given: Mapping[str, Any], parameters: Mapping[str, Any], kind: type | None = None
) -> Any:
    """The part that an own function or class makes.

    Args:
        what: its kind with an article, such as "an algorithm".
        text: as the configuration names it.
        given: what the engine gives to this kind, by position.
        kind: of what must come back; None: the caller checks.

    Raises:
        ConfigError: it cannot be executed, or does not take what is given.
        OwnPartError: it failed.
    """
    own = reference(text)
    assert own is not None, text
    factory = found(own)
    require_signature(what, own, factory, tuple(given), parameters)
    made = guarded(own, factory, *given.values(), **parameters)
    if kind is not None and not isinstance(made, kind):
        raise OwnPartError(f"{own.title}: made {_a(made)}, {what} is a {kind.__name__}.")
    return made


def found(own: Reference) -> Callable[..., Any]:
    """What an own part's name stands for.

    Raises:
        ConfigError: its file fails, or has no such name.
    """
    module = guarded(own, lambda: module_of(own), error=ConfigError)
    if not hasattr(module, own.name):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        own_names = [name for name in names if getattr(vars(module)[name], "__module__", "") == module.__name__]
        near = difflib.get_close_matches(own.name, names, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(f"{own.entry}: has no {own.name}{hint}; it has {', '.join(own_names) or 'no function'}.")
    return getattr(module, own.name)  # type: ignore[no-any-return]


def require_signature(
    what: str, own: Reference, factory: Any, given: Sequence[str], parameters: Mapping[str, Any]
) -> None:
    """
    Raises:
        ConfigError: `factory` cannot be called with these.
    """
    if not callable(factory):
        raise ConfigError(f"{own.title}: is {_a(factory)}, not a function or class that makes {what}.")
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        raise ConfigError(f"{own.title}: does not say what it takes; write a function around it.") from None
    takes = list(signature.parameters.values())
    if any(one.kind is one.VAR_KEYWORD for one in takes):
        raise ConfigError(
            f"{own.title}: takes any parameter (**), so a misspelt one would be dropped; name each of them."
        )
    positional = [one for one in takes if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    if len(positional) < len(given) and not any(one.kind is one.VAR_POSITIONAL for one in takes):
        raise ConfigError(
            f"{own.title}: takes {signature}; {what} is made from ({', '.join(given)}), by position, and its parameters."
        )
    open_to = [one.name for one in takes if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)]
    open_to = [name for name in open_to if name not in {one.name for one in positional[: len(given)]}]
    for name in parameters:
        if name not in open_to:
            near = difflib.get_close_matches(name, open_to, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(
                f"{own.title}: has no parameter {name}{hint}; its parameters are {', '.join(open_to) or 'none'}."
            )
    try:
        signature.bind(*given, **parameters)
    except TypeError as error:
        raise ConfigError(
            f"{own.title}: takes {signature}; {what} is made from ({', '.join(given)}), by position, and its parameters: {error}."
        ) from None


def guarded(
    own: Reference, work: Callable[..., Any], *args: Any, error: type = OwnPartError, stage: str = "", **named: Any
) -> Any:
    """Calls code of an own part; what it raises is told with its file and line.

    Raises:
        PulseLedgerError: `error` for what the code raised; those that are told already pass.
    """
    try:
        return work(*args, **named)
    except (PulseLedgerError, MemoryError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as problem:  # sys.exit() in it, too, would end the program as if all were well
        raise error(f"{stage}{own.title}: {told(problem)}") from problem


def wrapped(text: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """A function of an own part, `guarded`."""
    own = reference(text)
    assert own is not None, text
    return functools.partial(guarded, own, work)


def told(problem: BaseException) -> str:
    """An exception of an own part in words, with the last line of the part that it went through."""
    words = " ".join(str(problem).split())[:300].rstrip(".")
    where = ""
    if isinstance(problem, SyntaxError):
        words = problem.msg
    for frame in traceback.extract_tb(problem.__traceback__):
        if is_own_file(frame.filename):
            where = f" ({Path(frame.filename).name}, line {frame.lineno})"
    return f"{type(problem).__name__}{': ' if words else ''}{words}{where}."


def is_of_own(problem: BaseException) -> bool:
    """Whether an exception went through code of an own part."""
    return any(is_own_file(frame.filename) for frame in traceback.extract_tb(problem.__traceback__))


def require(own_text: str, holds: bool, words: str) -> None:
    """
    Raises:
        OwnPartError: it does not hold; `words` say what it is and what it must be.
    """
    if not holds:
        own = reference(own_text)
        raise OwnPartError(f"{own.title if own else own_text}: {words}.")


def _a(value: Any) -> str:
    name = type(value).__name__
    return "nothing" if value is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
