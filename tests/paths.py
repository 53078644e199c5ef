"""Places of values in documents: which there are, and copies in which one value is another."""

from collections.abc import Iterator
from typing import Any

Path_ = tuple[Any, ...]


def leaves(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Places of all values; of a list the first and the last."""
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from leaves(each, (*path, key))
    elif isinstance(value, list) and value:
        for i in sorted({0, len(value) - 1}):
            yield from leaves(value[i], (*path, i))
    else:
        yield path


def general(path: Path_) -> str:
    """A place with a star for the items of lists."""
    return ".".join("*" if isinstance(key, int) else str(key) for key in path)


def at(value: Any, path: Path_) -> Any:
    for key in path:
        value = value[key]
    return value


def changed(value: Any, path: Path_, new: Any) -> Any:
    """A copy with one value in place of another."""
    if not path:
        return new
    key, *rest = path
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[key] = changed(value[key], tuple(rest), new)
    return copy
