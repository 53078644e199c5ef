"""Files of a run's synthetic beats, all below `synthetic/` in its folder.

    governance.json             how every request stands, for reviewers and the next start (`reviews.py`)
    count-<request>.json        the real beats behind a request, and the salt that opens their commitment; for the auditor
    preview-<request>.json      quality of what a reviewer was shown, with digests of its pictures: .png has synthetic beats
                                alone, -real.png real ones, too; .npz are the beats, which nobody trains on
    evidence-<request>.json     quality of one batch, named by the request; .png shows it
    hospital-<id>.npz           accepted beats of a hospital, in the order of its requests
    provenance-<id>.parquet     a row for each of them

The last two and previews are written and read by the hospital itself; the coordinator opens neither. Whoever gives the folder away without
the counts gives away floors only; the audit then says that it could not check them.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import DataError
from engine.files import whole
from engine.oracles.base import Batch

FOLDER = "synthetic"


def evidence_file(home: Path, request: str) -> Path:
    """Where the evidence on the beats for a request (hex) lies, if any were made."""
    return home / f"evidence-{request[:16]}.json"


def preview_file(home: Path, request: str) -> Path:
    """Where the evidence on the preview for a request (hex) lies, if one was made."""
    return home / f"preview-{request[:16]}.json"


def picture_file(page: Path, real: bool) -> Path:
    """The picture beside the evidence on a preview: of synthetic beats alone, or with the real ones."""
    return page.with_name(f"{page.stem}{'-real' if real else ''}.png")


def count_file(home: Path, request: str) -> Path:
    """Where a hospital opens the number of real beats behind a request (hex)."""
    return home / f"count-{request[:16]}.json"


def hospital_file(home: Path, hospital: int) -> Path:
    """Where a hospital's accepted beats lie, if it has any."""
    return home / f"hospital-{hospital}.npz"


def provenance_file(home: Path, hospital: int) -> Path:
    """Where it says of each of them what it was made from."""
    return home / f"provenance-{hospital}.parquet"


def save_synthetic(path: Path, beats: Batch) -> None:
    """Writes beats to one file, for `load_synthetic`. Raises DataError."""
    with whole(path) as part, part.open("wb") as file:
        np.savez(file, x=beats.x, rr=beats.rr, y=beats.y)


def load_synthetic(path: Path) -> Batch:
    """The beats of a file of `save_synthetic`. Raises DataError when it is missing or damaged."""
    try:
        with np.load(path) as arrays:
            return Batch(arrays["x"], arrays["rr"], arrays["y"])
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{path}: holds no synthetic beats ({error}).") from None


def save_provenance(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes the provenance of beats, one row each. Raises DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with whole(path) as part:
        pq.write_table(pa.Table.from_pylist(rows), part)


def batch_digest(batch: Batch) -> bytes:
    """SHA-256 of a batch: its shape as four little-endian uint32 (beats, leads, window, RR features), then all numbers."""
    digest = hashlib.sha256(np.array([*batch.x.shape, batch.rr.shape[1]], "<u4").tobytes())
    for array, kind in ((batch.x, "<f4"), (batch.rr, "<f4"), (batch.y, "i1")):
        digest.update(np.ascontiguousarray(array, kind).tobytes())
    return digest.digest()


def hold_exactly(path: Path, batches: Iterable[tuple[int, bytes]]) -> bool:
    """Whether a file of `save_synthetic` is there and has exactly these batches (beats, digest), in order."""
    try:
        beats, start = load_synthetic(path), 0
    except DataError:
        return False
    for count, digest in batches:
        if batch_digest(Batch(*(array[start : start + count] for array in beats[:3]))) != digest:
            return False
        start += count
    return start == len(beats.y)
