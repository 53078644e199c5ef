"""One definition each: the hash of a model, the hash of a JSON value, and Keccak-256."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.errors import LedgerError

try:
    # Ten times faster than the next; a round of many hospitals is mostly this.
    from sha3 import keccak_256
except ImportError:
    keccak_256 = None

Layout = Sequence[tuple[str, tuple[int, ...]]]

# A change of the byte format below needs a new version here: it starts every hash.
_MODEL_FORMAT = b"PulseLedger model 1"

# Brackets outside of strings: a string is taken as one piece.
_JSON_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')


def model_hash(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Hash named tensors, 32 bytes of SHA-256.

    The bytes decide: NaN payloads and the sign of zero count, memory order, byte order and the order of the mapping
    do not. Every field carries its length, so two models with the same bytes but other names, shapes or types differ.

    Raises:
        LedgerError: a tensor holds something other than booleans or numbers.
    """
    digest = hashlib.sha256()

    def field(data: bytes) -> None:
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)

    field(_MODEL_FORMAT)
    digest.update(len(tensors).to_bytes(8, "big"))
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        if array.dtype.kind not in "biufc":
            raise LedgerError(f"tensor {name} has type {array.dtype}, a model holds booleans and numbers only")
        little = array.dtype.newbyteorder("<")
        if array.dtype != little:
            # Swapping bytes, unlike a conversion of values, cannot change the payload of a NaN.
            array = array.byteswap().view(little)
        field(name.encode())
        field(little.str.encode())
        field(b"".join(size.to_bytes(8, "big") for size in array.shape))
        field(array.tobytes(order="C"))
    return digest.digest()


def unflatten(vector: np.ndarray, layout: Layout) -> dict[str, np.ndarray]:
    """Cut a flat vector f32[P] into named tensors, as views.

    Raises:
        LedgerError: the vector is not flat float32, or its length is not that of the layout.
    """
    sizes = [int(np.prod(shape, dtype=np.int64)) for _, shape in layout]
    if vector.ndim != 1 or vector.dtype != np.float32 or vector.size != sum(sizes):
        raise LedgerError(
            f"expected a flat float32 vector of {sum(sizes)} values, "
            f"found {vector.dtype} of shape {tuple(vector.shape)}"
        )
    tensors, start = {}, 0
    for (name, shape), size in zip(layout, sizes, strict=True):
        tensors[name] = vector[start : start + size].reshape(shape)
        start += size
    if len(tensors) != len(sizes):
        raise LedgerError("the layout names a tensor twice")
    return tensors


def vector_hash(vector: np.ndarray, layout: Layout) -> bytes:
    """Hash a flat vector f32[P] as the model that it stands for: `model_hash(unflatten(vector, layout))`."""
    return model_hash(unflatten(vector, layout))


def canonical_json(obj: Any) -> str:
    """Write JSON in one way: sorted keys, no spaces, UTF-8, no NaN or infinity (ValueError)."""
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def read_json(text: Any) -> Any:
    """Read JSON that may have been tampered with; raises ValueError for anything else, deep nesting included.

    The embedded chain raises the interpreter's recursion limit so far that the standard reader would end the process.
    """
    if not isinstance(text, str):
        raise ValueError(f"expected text, found {type(text).__name__}")
    depth = 0
    for token in _JSON_BRACKETS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > 100:
            raise ValueError("nested too deeply")
    return json.loads(text)


def json_hash(obj: Any) -> bytes:
    """Hash plain data, 32 bytes of SHA-256 over its canonical JSON."""
    return hashlib.sha256(canonical_json(obj).encode()).digest()


def keccak(data: bytes) -> bytes:
    """Hash bytes as Ethereum does, 32 bytes of Keccak-256, with the fastest implementation that is installed."""
    if keccak_256 is not None:
        return bytes(keccak_256(data).digest())
    from eth_hash.auto import keccak as portable

    return portable(data)
