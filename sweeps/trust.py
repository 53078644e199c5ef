"""Which servers and files a reader may open because a folder names them: those that the user has named, too.

A folder may come from anybody, and what it names gets the user's questions and his password. So `compare`, `report`,
`audit` and `ui` open what lies in the folder, and of all else only what one of these names:

    --trust SERVER              on the command line, several times if need be
    PULSELEDGER_TRUSTED         in the environment, with commas between
    trusted.txt                 in the user's configuration folder, a server a line
    a study that this process has driven: whoever drives one has chosen its database

A SERVER is a host (`db.example`), a host with its port (`db.example:5432`), or a whole address as the folder has it, which
alone names an address with parameters or with several hosts: these can lead elsewhere.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from urllib.parse import SplitResult, urlsplit, urlunsplit

import platformdirs

from engine.encoding import one_line
from engine.errors import NotTrusted
from engine.paths import SQLITE, sqlite_path

VARIABLE = "PULSELEDGER_TRUSTED"
FILE = "trusted.txt"

_named: ContextVar[frozenset[str]] = ContextVar("named", default=frozenset())
_driven: set[str] = set()


@contextmanager
def trusting(servers: Iterable[str]) -> Iterator[None]:
    """Takes further servers as named by the user, within the block."""
    token = _named.set(_named.get() | frozenset(servers))
    try:
        yield
    finally:
        _named.reset(token)


def driven(address: str) -> None:
    """Takes an address as named by the user from now on, as this process drives a study there."""
    _driven.add(address)


def require_trusted(address: str, key: str, folder: Path) -> None:
    """Before anything is opened that a folder names.

    Args:
        key: that names it.

    Raises:
        NotTrusted: it lies neither in the folder, nor is it one that the user has named.
    """
    if not _inside(address, folder) and not is_trusted(address, {*_listed(), *_named.get(), *_driven}):
        raise NotTrusted(
            f"{folder}: {key} is {_shown(address)}, which was not opened: a folder may name any server; if you trust this "
            f"one, give --trust {_server(address)}, or name it in {VARIABLE} or {_file()}."
        )


def is_trusted(address: str, servers: Iterable[str]) -> bool:
    """Whether an address is among servers.

    >>> is_trusted("postgresql://me@db:5432/studies", ["db"])
    True
    >>> is_trusted("postgresql://db/studies?host=elsewhere", ["db"])
    False
    """
    named, parts = set(servers), _parts(address)
    if address in named:
        return True
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    plain = host and not parts.query and "," not in parts.netloc and "%" not in parts.netloc
    return bool(plain) and bool(named & {str(host), f"{host}:{port}"})


def _server(address: str) -> str:
    host = str(_parts(address).hostname)
    return host if is_trusted(address, [host]) else "ADDRESS, the whole of it"


def _shown(address: str) -> str:
    parts = _parts(address)
    public = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return one_line(public if parts.scheme else address)


def _parts(address: str) -> SplitResult:
    """The parts of an address; none of one that has none."""
    try:
        return urlsplit(address)
    except ValueError:
        return SplitResult("", "", "", "", "")


def _inside(address: str, folder: Path) -> bool:
    """Whether an address is that of a file in the folder, or of the store that studies have beside them."""
    parts = _parts(address)
    if parts.scheme != "sqlite" or parts.netloc or parts.query:
        return False
    home = folder.resolve()
    # with its escapes read, and as it is: whoever opens it may do the one or the other
    places = {sqlite_path(address).resolve(), Path(address.removeprefix(SQLITE)).resolve()}
    return all(place.is_relative_to(home) or place == home.parent / "mlflow.db" for place in places)


def _listed() -> set[str]:
    """What the environment and the user's own file name."""
    words = os.environ.get(VARIABLE, "").split(",")
    try:
        lines = _file().read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    words += [line.partition("#")[0] for line in lines]
    return {word.strip() for word in words} - {""}


def _file() -> Path:
    return Path(platformdirs.user_config_dir("pulseledger")) / FILE
