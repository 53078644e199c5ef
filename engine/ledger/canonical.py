"""One definition each: the hash of a model, the hash of a configuration, and the weighted mean of updates."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.errors import LedgerError

Layout = Sequence[tuple[str, tuple[int, ...]]]

# A change of the byte format below needs a new version here: it starts every hash.
_MODEL_FORMAT = b"PulseLedger model 1"


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


def json_hash(obj: Any) -> bytes:
    """Hash plain data, 32 bytes of SHA-256 over its canonical JSON."""
    return hashlib.sha256(canonical_json(obj).encode()).digest()


def weighted_mean_update(global_params: np.ndarray, updates: Sequence[tuple[float, np.ndarray]]) -> np.ndarray:
    """Add the weighted mean of updates to the global parameters: the definition that training and audit share.

    Sums in float64 and in the order given, which must be the order of the slots: another order may change the last bit.

    Args:
        global_params: f32[P] before the round.
        updates: (weight, f32[P] change) of each participant, by ascending slot.

    Returns:
        f32[P] after the round, always a new array.

    Raises:
        LedgerError: there is no update, or the weights do not sum to more than zero.
    """
    total = sum(weight for weight, _ in updates)
    if not total > 0:
        raise LedgerError(f"the weights of {len(updates)} updates sum to {total}, expected more than zero")
    accumulated = np.zeros(global_params.shape, dtype=np.float64)
    for weight, delta in updates:
        accumulated += weight * delta.astype(np.float64)
    return (global_params.astype(np.float64) + accumulated / total).astype(np.float32)
