"""The vectors behind the hashes: one safetensors file per round, so that an audit can recompute every aggregate.

updates/00000.safetensors   tensor "genesis": the parameters before round 1
updates/00007.safetensors   tensors "slot-0003": the change that hospital 3 sent in round 7, under masks int64[P + 1]
before.safetensors          tensor "genesis": the parameters before the last round, for a run that goes on; "server/m", "server/v":
                            what the server's optimiser remembered with them; "older/3": the parameters after round 3, from which
                            an update of the last round began; "began": slot, round and discount of each
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from engine.errors import LedgerError
from engine.files import whole
from engine.ledger.format import BEFORE, BEFORE_THAT, GENESIS, tensor_name, vectors_name
from engine.messages import Global

_SERVER, _OLDER, _BEGAN = "server/", "older/", "began"


def write_genesis(folder: Path, vector: np.ndarray) -> Path:
    """Write the parameters f32[P] before round 1; `folder` is the `ledger/` folder of the run."""
    return _write(folder / vectors_name(0), {GENESIS: vector})


def write_round(folder: Path, round: int, vectors: Mapping[int, np.ndarray]) -> Path:
    """Write the updates f32[P] of a round by slot, or the masked ones int64[P + 1]. The file appears whole or not at all.

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


def write_before(folder: Path, before: Global, began: Mapping[int, tuple[int, float]]) -> Path:
    """Write what the last round started from, over that of an earlier one; no part of the archive.

    Where updates begin from older models, that of one round before stays: a checkpoint may be so much behind.

    Args:
        began: as of `recount.Shown`.
    """
    if began and (folder / BEFORE).exists():
        (folder / BEFORE).replace(folder / BEFORE_THAT)
    server = {_SERVER + name: kept for name, kept in before.server.items()}
    older = {f"{_OLDER}{number}": params for number, params in before.older.items()}
    rows = {_BEGAN: np.array([(slot, *one) for slot, one in sorted(began.items())], np.float64)} if began else {}
    return _write(folder / BEFORE, {GENESIS: before.params, **server, **older, **rows}, durable=False)


def read_before(path: Path) -> tuple[Global, dict[int, tuple[int, float]]] | None:
    """Read what `write_before` has written; None where there is nothing."""
    try:
        tensors = load_file(path)
        rows = tensors.pop(_BEGAN, np.zeros((0, 3)))
        server = {n.removeprefix(_SERVER): kept for n, kept in tensors.items() if n.startswith(_SERVER)}
        older = {int(n.removeprefix(_OLDER)): kept for n, kept in tensors.items() if n.startswith(_OLDER)}
        began = {int(slot): (int(start), float(discount)) for slot, start, discount in rows}
        return Global(tensors[GENESIS], server, older), began
    except (OSError, SafetensorError, ValueError, KeyError):
        return None


def _write(path: Path, tensors: dict[str, np.ndarray], durable: bool = True) -> Path:
    for name, vector in tensors.items():
        if name == _BEGAN:
            continue
        kinds = (np.float64,) if name.startswith(_SERVER) else (np.float32, np.int64)
        if vector.ndim != 1 or vector.dtype not in kinds:
            raise LedgerError(f"{name} of {path.name} is {vector.dtype} of shape {vector.shape}, expected flat float32")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerError(f"{path.parent}: cannot be written ({error.strerror}).") from error
    with whole(path, durable=durable, error=LedgerError) as part:
        part.write_bytes(save({name: np.ascontiguousarray(vector) for name, vector in tensors.items()}))
    return path
