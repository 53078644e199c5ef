"""One way to write bytes: canonical JSON and its hash, 0x hex, Keccak-256."""

import hashlib
import json
import re
from typing import Any

try:
    # Ten times faster than the next; a round of many hospitals is mostly this.
    from sha3 import keccak_256
except ImportError:
    keccak_256 = None

# Brackets outside of strings: a string is taken as one piece.
_JSON_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')


def canonical_json(value: Any) -> str:
    """Write JSON in one way: sorted keys, no spaces, characters as they are, no NaN or infinity (ValueError).

    >>> canonical_json({"b": [1, 2.5, None], "a": "ü"})
    '{"a":"ü","b":[1,2.5,null]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def json_hash(value: Any) -> bytes:
    """Hash plain data: 32 bytes of SHA-256 over the UTF-8 of its canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).digest()


def read_json(text: Any) -> Any:
    """Read JSON that may have been tampered with; raises ValueError for anything else, deep nesting included, and for a key
    that stands twice: a reader who looks for it finds the first, a program takes the last.

    The embedded chain raises the interpreter's recursion limit so far that the standard reader would end the process.
    """
    if not isinstance(text, str):
        raise ValueError(f"expected text, found {type(text).__name__}")
    require_shallow(text)
    return json.loads(text, object_pairs_hook=_once)


def require_shallow(text: str) -> None:
    """Raises ValueError for JSON that is nested too deeply to be read, see `read_json`."""
    depth = 0
    for token in _JSON_BRACKETS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > 100:
            raise ValueError("nested too deeply")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def require_size(value: Any, most: int = 1_000_000) -> None:
    """Refuse plain data that holds more values than this, where what stands in several places counts in each.

    A few lines of YAML can name each other so often that nobody could write them out.

    Raises:
        ValueError: it does, or it holds itself.
    """
    sizes: dict[int, int] = {}

    def size(one: Any, above: frozenset[int]) -> int:
        if not isinstance(one, dict | list | tuple):
            return 1
        if id(one) in above or len(above) > 100:
            raise ValueError("it holds itself, or is nested too deeply")
        if id(one) not in sizes:
            parts = one.values() if isinstance(one, dict) else one
            sizes[id(one)] = 1 + sum(size(part, above | {id(one)}) for part in parts)
        return sizes[id(one)]

    if size(value, frozenset()) > most:
        raise ValueError(f"it holds more than {most} values")


def one_line(words: str) -> str:
    """Text in which whatever moves a cursor is written out: somebody else's words could otherwise be taken for ours.

    >>> one_line("a\\nb\\x1b[2J")
    'a\\\\nb\\\\x1b[2J'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


def hexed(data: bytes) -> str:
    """Bytes as 0x hex.

    >>> hexed(b"PL")
    '0x504c'
    """
    return "0x" + data.hex()


def unhexed(value: Any) -> bytes:
    """Bytes out of 0x hex; raises ValueError for anything else."""
    if not isinstance(value, str) or not value.startswith("0x"):
        raise ValueError(f"expected 0x hex, found {value!r:.80}")
    return bytes.fromhex(value[2:])


def keccak(data: bytes) -> bytes:
    """Hash bytes as Ethereum does, 32 bytes of Keccak-256, with the fastest implementation that is installed."""
    if keccak_256 is not None:
        return bytes(keccak_256(data).digest())
    from eth_hash.auto import keccak as portable

    return portable(data)
