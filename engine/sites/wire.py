"""How messages between a site and the coordinator are written: MessagePack, and a closed table of records with typed fields.

Nothing in a message names code. A record is written as its place in a table and its fields; what is read must have the types
that the fields are declared with, so that a message is either one of ours or refused before anything looks into it.
"""

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgpack
import numpy as np

from engine.errors import HospitalError, HospitalLost, PulseLedgerError

MOST_BYTES = 1 << 28  # of a message; gRPC refuses a longer one before it is read
MOST_ITEMS = 1 << 20  # of a list or mapping
DEEPEST = 24  # records within records
DTYPES = ("<f4", "<f8", "|i1", "<i4", "<i8")
_ARRAY, _RECORD, _FAILURE = 1, 2, 3
_FAILURES: tuple[type[HospitalError], ...] = (HospitalError, HospitalLost)


class WireError(PulseLedgerError):
    """A message is not one of ours."""


class Wire:
    """Writes and reads messages that are made of these records."""

    def __init__(self, records: Sequence[type]) -> None:
        """Args: records: frozen dataclasses and named tuples; their order is their number on the wire."""
        self._records = tuple(records)
        self._numbers = {kind: number for number, kind in enumerate(self._records)}

    def pack(self, value: Any) -> bytes:
        """
        Raises:
            WireError: a value is in it that has no place on the wire.
        """
        try:
            packed: bytes = msgpack.packb(self._written(value, 0), use_bin_type=True)
        except (TypeError, ValueError, OverflowError) as error:
            raise WireError(f"cannot be sent: {error}") from None
        if len(packed) > MOST_BYTES:
            raise WireError(f"a message has {len(packed)} bytes, of at most {MOST_BYTES}")
        return packed

    def unpack(self, data: bytes, kind: Any) -> Any:
        """What was packed, if it is of a type: a record, or anything that can be annotated with records, plain types and arrays.

        Raises:
            WireError: it is not.
        """
        return self._read(self._opened(data), kind, 0)

    def _opened(self, data: bytes) -> Any:
        if len(data) > MOST_BYTES:
            raise WireError(f"has {len(data)} bytes, of at most {MOST_BYTES}")
        try:
            return msgpack.unpackb(
                data,
                raw=False,
                strict_map_key=False,
                max_array_len=MOST_ITEMS,
                max_map_len=MOST_ITEMS,
            )
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
            raise WireError(f"is no message ({type(error).__name__})") from None

    def _written(self, value: Any, depth: int) -> Any:
        """In the types that MessagePack knows."""
        if depth > DEEPEST:
            raise WireError("cannot be sent: it is nested too deeply")

        def inner(one: Any) -> Any:
            return self._written(one, depth + 1)

        if isinstance(value, np.ndarray):
            kind = value.dtype.newbyteorder("<").str
            if kind not in DTYPES:
                raise WireError(f"cannot be sent: an array of {value.dtype}")
            content = np.ascontiguousarray(value, kind).tobytes()
            return msgpack.ExtType(_ARRAY, msgpack.packb([DTYPES.index(kind), list(value.shape), content]))
        if isinstance(value, HospitalError):  # without its trace, which may show what lies at the site
            said = [_FAILURES.index(type(value)), value.hospital, value.round, value.stage, value.cause]
            return msgpack.ExtType(_FAILURE, msgpack.packb(said))
        kind_of: Any = type(value)
        if kind_of in self._numbers:
            said = [self._numbers[kind_of], *(inner(getattr(value, name)) for name in hints_of(kind_of))]
            return msgpack.ExtType(_RECORD, msgpack.packb(said, use_bin_type=True))
        if isinstance(value, np.generic):
            return value.item()
        if value is None or isinstance(value, bool | int | float | str | bytes):
            return value
        if isinstance(value, Mapping):
            return {inner(key): inner(one) for key, one in value.items()}
        if isinstance(value, list | tuple) and (type(value) in (list, tuple)):
            return [inner(one) for one in value]
        raise WireError(f"cannot be sent: a {type(value).__name__}")

    def _read(self, value: Any, kind: Any, depth: int) -> Any:
        if depth > DEEPEST:
            raise WireError("is nested too deeply")
        origin, args = get_origin(kind), get_args(kind)
        if isinstance(value, msgpack.ExtType):
            value = self._extended(value, kind, depth)
        if kind is Any:
            return self._any(value, depth)
        if origin in (Union, types.UnionType):
            return self._one_of(value, args, depth)
        if origin is Literal:
            return _required(value, value in args and isinstance(value, str | int), kind)
        if origin is tuple:
            return self._tuple(value, args, kind, depth)
        if origin in (dict, Mapping, types.MappingProxyType) or (origin and issubclass(origin, Mapping)):
            _required(value, isinstance(value, dict), kind)
            return {self._read(k, args[0], depth + 1): self._read(v, args[1], depth + 1) for k, v in value.items()}
        if origin and issubclass(origin, Sequence):
            _required(value, isinstance(value, list), kind)
            return tuple(self._read(one, args[0], depth + 1) for one in value)
        return _plain(value, kind)

    def _one_of(self, value: Any, kinds: Sequence[Any], depth: int) -> Any:
        for one in kinds:
            try:
                return self._read(value, one, depth + 1)
            except WireError:
                continue
        raise WireError(f"holds {_shown(value)} in the place of {' or '.join(map(_name, kinds))}")

    def _tuple(self, value: Any, args: Sequence[Any], kind: Any, depth: int) -> Any:
        _required(value, isinstance(value, list), kind)
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(self._read(one, args[0], depth + 1) for one in value)
        _required(value, len(value) == len(args), kind)
        return tuple(self._read(one, arg, depth + 1) for one, arg in zip(value, args, strict=True))

    def _any(self, value: Any, depth: int) -> Any:
        """Plain JSON values, and records of the table."""
        if isinstance(value, list):
            return [self._read(one, Any, depth + 1) for one in value]
        if isinstance(value, dict):
            return {_plain(k, str): self._read(v, Any, depth + 1) for k, v in value.items()}
        return value

    def _extended(self, value: msgpack.ExtType, kind: Any, depth: int) -> Any:
        content = self._opened(value.data)
        _required(content, isinstance(content, list), kind)
        if value.code == _ARRAY:
            return _array(content)
        if value.code == _FAILURE:
            return _failure(content)
        if value.code != _RECORD or not content or not _is_place(content[0], self._records):
            raise WireError("holds a record that is not in the table")
        found = self._records[content[0]]
        hints = hints_of(found)
        if len(content) != 1 + len(hints):
            raise WireError(f"holds a {found.__name__} of {len(content) - 1} fields, which has {len(hints)}")
        read = {
            name: self._read(one, hint, depth + 1) for one, (name, hint) in zip(content[1:], hints.items(), strict=True)
        }
        try:
            return found(**read)
        except (PulseLedgerError, TypeError, ValueError) as error:
            raise WireError(f"holds a {found.__name__} that is none: {error}") from None


@cache
def hints_of(kind: Any) -> dict[str, Any]:
    """Field -> its type, in their order, of a frozen dataclass or named tuple."""
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)] if is_dataclass(kind) else kind._fields  # type: ignore[attr-defined]
    return {name: hints[name] for name in names}


def _plain(value: Any, kind: Any) -> Any:
    """A value of a plain type, an array or a record that has been read already."""
    if kind is None or kind is types.NoneType:
        return _required(value, value is None, kind)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (int, float, str, bytes, bool):
        return _required(value, type(value) is kind, kind)
    if kind is Path:  # a path is a matter of one machine
        raise WireError("holds a path")
    wanted = kind if isinstance(kind, type) else object
    return _required(value, wanted is not object and isinstance(value, wanted), kind)


def _array(content: Sequence[Any]) -> np.ndarray:
    """A new array, which may be written to."""
    right = len(content) == 3 and _is_place(content[0], DTYPES) and isinstance(content[1], list)
    if not right or not isinstance(content[2], bytes) or len(content[1]) > 4:
        raise WireError("holds an array that is none")
    number, shape, data = content
    kind = np.dtype(DTYPES[number])
    if any(type(n) is not int or not 0 <= n <= MOST_BYTES for n in shape):
        raise WireError("holds an array that is none")
    size = kind.itemsize
    for n in shape:
        size *= n
    if size != len(data):
        raise WireError(f"holds an array of {len(data)} bytes, which says that it has {size}")
    return np.frombuffer(data, kind).reshape(shape).copy()


def _failure(content: Sequence[Any]) -> HospitalError:
    kinds = (int, int, int, str, str)
    if [type(one) for one in content] != list(kinds) or not _is_place(content[0], _FAILURES):
        raise WireError("holds a failure that is none")
    return _FAILURES[content[0]](*content[1:])


def _is_place(number: Any, table: Sequence[Any]) -> bool:
    return type(number) is int and 0 <= number < len(table)


def _required(value: Any, right: bool, kind: Any) -> Any:
    if not right:
        raise WireError(f"holds {_shown(value)} in the place of {_name(kind)}")
    return value


def _shown(value: Any) -> str:
    return f"a {type(value).__name__}"


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", None) or str(kind)
