"""The vectors behind the hashes: one safetensors file per round, so that an audit can recompute every aggregate.

updates/00000.safetensors   tensor "genesis": the parameters before round 1
updates/00007.safetensors   tensors "slot-0003": the change that hospital 3 sent in round 7
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from engine.errors import LedgerError


def write_genesis(folder: Path, vector: np.ndarray) -> Path:
    """Write the parameters f32[P] before round 1; `folder` is the `ledger/` folder of the run."""
    return _write(round_path(folder, 0), {"genesis": vector})


def write_round(folder: Path, round: int, vectors: Mapping[int, np.ndarray]) -> Path:
    """Write the updates f32[P] of a round by slot. The file appears whole or not at all.

    Raises:
        LedgerError: a vector is not flat float32, or the file cannot be written.
    """
    return _write(round_path(folder, round), {f"slot-{slot:04d}": vectors[slot] for slot in sorted(vectors)})


def read_genesis(folder: Path) -> np.ndarray:
    """Read the parameters f32[P] before round 1; raises LedgerError when missing or damaged."""
    tensors = _read(round_path(folder, 0))
    if set(tensors) != {"genesis"}:
        raise LedgerError(f"{round_path(folder, 0).name} does not hold the genesis parameters")
    return tensors["genesis"]


def read_round(folder: Path, round: int) -> dict[int, np.ndarray]:
    """Read the updates f32[P] of a round by slot; raises LedgerError when missing or damaged."""
    path = round_path(folder, round)
    vectors = {}
    for name, vector in sorted(_read(path).items()):
        if not name.startswith("slot-") or not name[5:].isdecimal() or name != f"slot-{int(name[5:]):04d}":
            raise LedgerError(f"{path.name} holds an unknown tensor {name!r}")
        vectors[int(name[5:])] = vector
    return vectors


def round_path(folder: Path, round: int) -> Path:
    """Return where the vectors of a round lie; round 0 is the genesis."""
    return Path(folder) / "updates" / f"{round:05d}.safetensors"


def _write(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    for name, vector in tensors.items():
        if vector.ndim != 1 or vector.dtype != np.float32:
            raise LedgerError(f"{name} of {path.name} is {vector.dtype} of shape {vector.shape}, expected flat float32")
    temporary = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(save({name: np.ascontiguousarray(vector) for name, vector in tensors.items()}))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise LedgerError(f"cannot write {path}: {error.strerror}") from error
    return path


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        tensors = load(path.read_bytes())
    except FileNotFoundError as error:
        raise LedgerError(f"{path.name} is missing") from error
    except OSError as error:
        raise LedgerError(f"cannot read {path}: {error.strerror}") from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{path.name} is damaged: {error}") from error
    for name, vector in tensors.items():
        if vector.ndim != 1 or vector.dtype != np.float32:
            raise LedgerError(f"{path.name}: {name} is {vector.dtype} of shape {vector.shape}, expected flat float32")
    return tensors
