"""The vectors behind the hashes: one safetensors file per round, so that an audit can recompute every aggregate.

updates/00000.safetensors   tensor "genesis": the parameters before round 1
updates/00007.safetensors   tensors "slot-0003": the change that hospital 3 sent in round 7
before.safetensors          tensor "genesis": the parameters before the last round, for a run that goes on; "server/m", "server/v":
                            what the server's optimiser remembered with them
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from engine.errors import LedgerError
from engine.files import whole
from engine.ledger.format import BEFORE, GENESIS, tensor_name, vectors_name

_SERVER = "server/"


def write_genesis(folder: Path, vector: np.ndarray) -> Path:
    """Write the parameters f32[P] before round 1; `folder` is the `ledger/` folder of the run."""
    return _write(folder / vectors_name(0), {GENESIS: vector})


def write_round(folder: Path, round: int, vectors: Mapping[int, np.ndarray]) -> Path:
    """Write the updates f32[P] of a round by slot. The file appears whole or not at all.

    Raises:
        LedgerError: a vector is not flat float32, or the file cannot be written.
    """
    return _write(folder / vectors_name(round), {tensor_name(slot): vectors[slot] for slot in sorted(vectors)})


def read(folder: Path, round: int) -> dict[str, np.ndarray]:
    """Read what is archived of a round, 0 for the genesis, by the names of its tensors.

    Raises:
        LedgerError: it is missing or damaged.
    """
    path = folder / vectors_name(round)
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise LedgerError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def write_before(folder: Path, vector: np.ndarray, server: Mapping[str, np.ndarray]) -> Path:
    """Write the parameters f32[P] before the last round, over those before an earlier one; no part of the archive.

    Args:
        server: what the server's optimiser remembered then, f64[P] each.
    """
    return _write(
        folder / BEFORE, {GENESIS: vector, **{_SERVER + name: kept for name, kept in server.items()}}, durable=False
    )


def read_before(folder: Path) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    """Read what `write_before` has written; None where there is nothing."""
    try:
        tensors = load_file(folder / BEFORE)
        return tensors.pop(GENESIS), {name.removeprefix(_SERVER): kept for name, kept in tensors.items()}
    except (OSError, SafetensorError, ValueError, KeyError):
        return None


def _write(path: Path, tensors: dict[str, np.ndarray], durable: bool = True) -> Path:
    for name, vector in tensors.items():
        if vector.ndim != 1 or vector.dtype != (np.float64 if name.startswith(_SERVER) else np.float32):
            raise LedgerError(f"{name} of {path.name} is {vector.dtype} of shape {vector.shape}, expected flat float32")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerError(f"{path.parent}: cannot be written ({error.strerror}).") from error
    with whole(path, durable=durable, error=LedgerError) as part:
        part.write_bytes(save({name: np.ascontiguousarray(vector) for name, vector in tensors.items()}))
    return path
