"""Files that appear whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from engine.errors import DataError


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place at the end and leaves nothing behind on a failure.

    Raises:
        DataError: the disk is full, or the folder may not be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield part
        part.replace(path)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk in an exception of its own
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be written ({reason}).") from None
