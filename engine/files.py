"""Files that appear whole or not at all, and where caches lie."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import platformdirs
from safetensors import SafetensorError

from engine.errors import DataError, PulseLedgerError

LONGEST = 1 << 28  # bytes of a text
TABLE = 1 << 32  # bytes of a table of predictions
CONFIG = 1 << 22  # bytes of a configuration: YAML is slow to read


@contextlib.contextmanager
def whole(
    path: Path, durable: bool = False, mode: int | None = None, error: type[PulseLedgerError] = DataError
) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place at the end and leaves nothing behind on a failure.

    Args:
        durable: on disk when this returns, so that it survives a loss of power; without, only whole.
        mode: permissions of the file from its first byte on, such as 0o600 for a key.

    Raises:
        error: the disk is full, or the folder may not be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if mode is not None:
            part.touch(mode)
        yield part
        if durable:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        part.replace(path)
        if durable:
            sync_folder(path.parent)
    except (OSError, SafetensorError) as problem:  # safetensors reports a full disk in an exception of its own
        reason = getattr(problem, "strerror", None) or problem
        raise error(f"{path}: cannot be written ({reason}).") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, UTF-8, that appears whole or not at all.

    Raises:
        DataError: as of `whole`.
    """
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def read_bytes(path: Path, most: int) -> bytes:
    """The bytes of a file that somebody else may have made: a pipe or a device in its place could have no end.

    Raises:
        OSError: it is not there, is no plain file, or holds more than `most` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is no plain file", str(path))
        if found.st_size > most:
            raise OSError(errno.EFBIG, f"holds {found.st_size} bytes, of at most {most}", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)


def read_text(path: Path, most: int = LONGEST) -> str:
    """As `read_bytes`, for UTF-8; raises ValueError, too, where it is no such text."""
    return read_bytes(path, most).decode("utf-8")


def sync_folder(folder: Path) -> None:
    """Makes the names of new files in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    """Where downloads, cut beats, kernels and generators are kept: PULSELEDGER_CACHE, else the user's cache folder."""
    return Path(os.environ.get("PULSELEDGER_CACHE") or platformdirs.user_cache_dir("pulseledger"))


def own_cache(name: str) -> Path:
    """A folder of the cache for what is taken as this user's own work, such as code that is loaded; made if need be.

    Raises:
        DataError: it belongs to somebody else, or others can write there.
    """
    home = cache_folder() / name
    for folder in (home.parent, home):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{folder}: cannot be made ({error.strerror}).") from None
        if not is_own(folder):
            raise DataError(
                f"{folder}: others can write there or own it, so nothing in it can be trusted; do `chmod go-w` on a folder of "
                "yours, or name another in PULSELEDGER_CACHE."
            )
    return home


def is_own(path: Path) -> bool:
    """Whether a file or folder is there, belongs to this user, and nobody else can write it."""
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
