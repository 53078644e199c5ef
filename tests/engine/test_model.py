"""The hash of a model, and flat vectors as named tensors."""

import copy
import hashlib

import numpy as np
import pytest

from engine.errors import DataError
from engine.model import model_hash, unflatten, vector_hash

LAYOUT = (("conv.weight", (2, 3)), ("bias", (4,)), ("scale", ()))
SIZE = 11


def test_model_hash_is_the_written_out_one():
    tensors = {"b": np.array([[1.5, -0.0]], np.float32), "a": np.array(7, np.int64)}

    def field(data: bytes) -> bytes:
        return len(data).to_bytes(8, "big") + data

    expected = field(b"PulseLedger model 1") + (2).to_bytes(8, "big")
    expected += field(b"a") + field(b"<i8") + field(b"") + field((7).to_bytes(8, "little"))
    shape = (1).to_bytes(8, "big") + (2).to_bytes(8, "big")
    expected += field(b"b") + field(b"<f4") + field(shape) + field(bytes.fromhex("0000c03f00000080"))
    assert model_hash(tensors) == hashlib.sha256(expected).digest()
    assert model_hash(dict(reversed(tensors.items()))) == model_hash(tensors)


def test_model_hash_depends_on_bytes_names_shapes_and_types_only():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    same = [
        np.asfortranarray(values),
        values.astype(">f4"),
        np.arange(12, dtype=np.float32)[::2].reshape(2, 3) / 2,
    ]
    expected = model_hash({"w": values})
    assert all(model_hash({"w": array}) == expected for array in same)

    quiet, payload = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    others = [
        {"v": values},
        {"w": values.reshape(3, 2)},
        {"w": values.astype(np.float64)},
        {"w": values.view(np.int32)},
        {"w": np.array([[-0.0, 1, 2], [3, 4, 5]], np.float32)},
        {"w": values, "empty": np.zeros(0, np.float32)},
        {"n": np.array([quiet])},
        {"n": np.array([payload])},
        {"w": np.float32(1)},
        {"w": np.ones(1, np.float32)},
        {},
    ]
    hashes = [model_hash(tensors) for tensors in others]
    assert len({expected, *hashes}) == len(others) + 1
    with pytest.raises(DataError, match="tensor w has type object"):
        model_hash({"w": np.array([object()])})


def test_flat_vectors_hash_as_the_model_they_stand_for():
    vector = np.arange(SIZE, dtype=np.float32)
    tensors = unflatten(vector, LAYOUT)
    assert {name: tensor.shape for name, tensor in tensors.items()} == dict(LAYOUT)
    assert tensors["scale"] == 10
    assert all(np.shares_memory(tensor, vector) for tensor in tensors.values())
    assert vector_hash(vector, LAYOUT) == model_hash(copy.deepcopy(tensors))
    for wrong in (vector[:-1], vector.astype(np.float64), vector.reshape(1, -1)):
        with pytest.raises(DataError, match="expected a flat float32 vector of 11 values"):
            vector_hash(wrong, LAYOUT)
