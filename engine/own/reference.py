"""How an own part is named, and the name that a configuration keeps of it.

A user writes FILE.py:NAME or PACKAGE.MODULE:NAME. A configuration holds FILE.py:NAME@DIGEST: the file without its folder,
and the SHA-256 of the source, which thereby is part of everything that the configuration is part of.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, WithJsonSchema

from engine.errors import ConfigError
from engine.own import source

FORMS = "FILE.py:NAME or PACKAGE.MODULE:NAME"
_NAMED = re.compile(r"(?P<place>.+\.py|\w+(?:\.\w+)*):(?P<name>\w+)", re.DOTALL)
_PINNED = re.compile(r"(?P<entry>[^/\n]+):(?P<name>\w+)@(?P<digest>[0-9a-f]{64})")


class Reference(NamedTuple):
    """An own part as a configuration names it.

    Attributes:
        entry: the file's name, or the module's.
        digest: SHA-256 of the source, hex.
    """

    entry: str
    name: str
    digest: str

    @property
    def title(self) -> str:
        """For sentences."""
        return f"{self.entry}:{self.name}"

    @property
    def short(self) -> str:
        """For tables, where another state of the same file is another part."""
        return f"{self.title}@{self.digest[:8]}"

    @property
    def brief(self) -> str:
        """For the name of a method, which tells several parts in one line."""
        return f"{self.name}@{self.digest[:4]}"


def reference(text: Any) -> Reference | None:
    """The own part that a configuration names; None for anything else.

    >>> reference("prox.py:prox@" + 64 * "0").title, reference("fedavg")
    ('prox.py:prox', None)
    """
    found = _PINNED.fullmatch(text) if isinstance(text, str) else None
    return Reference(found["entry"], found["name"], found["digest"]) if found else None


def is_own(text: Any) -> bool:
    """Whether a configuration's value names an own part."""
    return reference(text) is not None


def titled(value: Any) -> str:
    """A value of a configuration for tables."""
    own = reference(value)
    return str(value) if own is None else own.short


def looks_own(text: Any) -> bool:
    """Whether a user means an own part, by the form of what was written."""
    return isinstance(text, str) and not is_own(text) and (_NAMED.fullmatch(text) is not None or text.endswith(".py"))


def anchored(text: str, base: Path) -> str:
    """The same with an absolute path; a relative one is meant from `base`."""
    place, colon, name = text.rpartition(":")
    if not place.endswith(".py"):
        return text
    return f"{Path(base).absolute() / Path(place).expanduser()}{colon}{name}"


def pinned(text: str) -> str:
    """What a configuration keeps of a part that a user has named; the source is known from now on.

    Raises:
        ConfigError: there is no such file or module, or it is no Python.
    """
    if is_own(text):
        return text
    found = _NAMED.fullmatch(text)
    if found is None:
        if text.endswith(".py"):
            raise ConfigError(f"{text} is a file; name the part in it, {text}:NAME.")
        raise ConfigError(f"a part of your own, {FORMS}")
    if found["place"].endswith(".py"):
        path = Path(found["place"]).expanduser()
        return f"{path.name}:{found['name']}@{source.know(source.of_file(path))}"
    return f"{found['place']}:{found['name']}@{source.know(source.of_module(found['place']))}"


def _own(text: str) -> str:
    try:
        return pinned(text)
    except ConfigError as error:
        raise ValueError(str(error).removesuffix(".")) from None


# beside the names of what is built in; as it is validated, the source is read, and never executed
Own = Annotated[str, AfterValidator(_own), WithJsonSchema({"type": "string", "pattern": r":\w+(@[0-9a-f]{64})?$"})]


def digests(model: BaseModel) -> list[str]:
    """The digests of all own parts that settings name."""
    return list(dict.fromkeys(own.digest for own in named(model.model_dump(mode="json"))))


def require_same(folder: Path, begun: Any, now: BaseModel) -> None:
    """Refuses an own part that is another one than the work in a folder was begun with.

    Args:
        begun: plain values of the configuration there.

    Raises:
        ConfigError: it was edited.
    """
    before = {own.title: own for own in named(begun)}
    for own in named(now.model_dump(mode="json")):
        if (was := before.get(own.title, own)).digest != own.digest:
            raise ConfigError(
                f"{own.title} was edited since the work in {folder} began (digest {was.digest[:12]}, now {own.digest[:12]}); "
                f"put it back, go on with `pulseledger resume {folder}`, which has a copy, or begin in another --out."
            )


def named(values: Any) -> list[Reference]:
    """All own parts that plain values name, wherever in them, each once."""
    found: dict[Reference, None] = {}

    def look(value: Any) -> None:
        if isinstance(value, Mapping):
            for key, each in value.items():
                look(key)
                look(each)
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            for each in value:
                look(each)
        elif (own := reference(value)) is not None:
            found[own] = None

    look(values)
    return list(found)
