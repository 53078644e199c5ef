"""Beats: a window around each annotated R peak, its class and its timing, kept as memory-mapped arrays.

Cutting happens once for each data configuration and set of files; the arrays are then mapped by every process, so
that a hundred hospitals on one machine share one copy.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.data.config import DataConfig
from engine.data.records import AAMI, Record, file_digests, locate, read_record, record_names
from engine.encoding import json_hash
from engine.errors import DataError
from engine.files import cache_folder

LONGEST_RR = 3.0  # seconds
ARRAYS = ("x", "rr", "y", "record", "sample")


@dataclass(frozen=True)
class Beats:
    """All beats of one data configuration, in order of record and time.

    Attributes:
        folder: where the arrays lie; `open_beats(folder)` maps them again, in any process.
        classes: letters of the classes; `y` counts in this order.
        x: float32[beats, before + after], the windows.
        rr: float32[beats, RR features].
        y: int8[beats], class.
        record: int16[beats], index into `records`.
        sample: int64[beats], position of the R peak in its record.
        records: for each record its name, patient, sex, age, lead, sampling_rate, samples, annotated (beats of
            the five classes in the file, as a mapping), edge (beats left out because their window leaves the record).
        digest: SHA-256 over the files' digests and the data configuration.
        rr_names: names of the columns of `rr`.
    """

    folder: Path
    classes: str
    x: np.ndarray
    rr: np.ndarray
    y: np.ndarray
    record: np.ndarray
    sample: np.ndarray
    records: tuple[dict[str, Any], ...]
    digest: str
    rr_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.y)

    def counts(self) -> dict[str, int]:
        """Class letter -> number of beats."""
        return dict(zip(self.classes, np.bincount(self.y, minlength=len(self.classes)).tolist(), strict=True))


def cut(record: Record, data: DataConfig) -> dict[str, np.ndarray]:
    """Windows, RR features, classes and positions of one record's beats.

    A beat whose window would leave the record is left out, as are classes and symbols that `data` does not want.
    RR features are computed over all annotated beats, also those left out.

    Returns:
        x float32[n, before + after], rr float32[n, features], y int8[n], sample int64[n].
    """
    before, after = data.window
    peaks = record.peaks
    inside = (peaks - before >= 0) & (peaks + after <= len(record.signal))
    wanted = np.array([AAMI[s] in data.classes and s not in data.drop_symbols for s in record.symbols], bool)
    keep = inside & wanted
    signal = record.signal
    if data.normalise == "record":
        signal = (signal - np.median(signal)) / max(float(signal.std()), 1e-6)
    x = signal[peaks[keep][:, None] + np.arange(-before, after)].astype(np.float32)
    if data.normalise == "beat":
        x = (x - x.mean(1, keepdims=True)) / np.maximum(x.std(1, keepdims=True), 1e-6)
    return {
        "x": x,
        "rr": rr_features(peaks / record.sampling_rate, data)[keep],
        "y": np.array([data.classes.index(AAMI[s]) for s, k in zip(record.symbols, keep, strict=True) if k], np.int8),
        "sample": peaks[keep],
    }


def rr_features(seconds: np.ndarray, data: DataConfig) -> np.ndarray:
    """Timing of each beat: RR intervals in seconds, and the logarithm of their ratio to the local mean.

    The local mean is over the `rr_context` intervals before and after the beat. Ratios are logarithms so that a beat
    that comes early and the pause after it lie equally far from zero. Every column is brought to the order of one by
    constants (seconds: less 0.8, over 0.25; ratios: over 0.1, so that a tenth early is -1), not by statistics that a
    hospital would have to share.

    Args:
        seconds: float64[beats], times of the R peaks.

    Returns:
        float32[beats, features] in the order of `data.rr_names`.
    """
    n = len(seconds)
    if n < 2:
        return np.zeros((n, len(data.rr_names)), np.float32)
    # Ventricular flutter is not annotated beat by beat: the gap would dwarf every real interval.
    interval = np.clip(np.diff(seconds), 1e-3, LONGEST_RR)
    previous = np.concatenate([interval[:1], interval])
    following = np.concatenate([interval, interval[-1:]])
    total = np.concatenate([[0.0], np.cumsum(interval)])
    first = np.maximum(np.arange(n) - data.rr_context, 0)
    last = np.minimum(np.arange(n) + data.rr_context, n - 1)
    local = (total[last] - total[first]) / (last - first)
    columns = {
        "previous": (previous - 0.8) / 0.25,
        "next": (following - 0.8) / 0.25,
        "previous_ratio": np.log(previous / local) / 0.1,
        "next_ratio": np.log(following / local) / 0.1,
    }
    return np.array([columns[name] for name in data.rr_names], np.float32).reshape(-1, n).T


def load_beats(data: DataConfig, progress: Callable[[str], None] = lambda text: None) -> Beats:
    """The beats of `data`: from the cache when files and settings are the same, else cut anew.

    Raises:
        DataError: a record is missing, damaged or foreign, or nothing is left.
    """
    source = locate(data, progress)
    names = record_names(source, data)
    settings = data.model_dump(mode="json", exclude={"folder", "source", "simulated", "records", "exclude"})
    described = [data.source == "mitdb", settings, names, file_digests(source, names, data)]
    digest = json_hash(described).hex()
    # The code that reads and cuts is part of the cache's key too: other code makes other beats.
    code = [Path(__file__).with_name(file).read_bytes() for file in ("records.py", "beats.py")]
    folder = cache_folder() / "beats" / hashlib.sha256(b"".join([digest.encode(), *code])).hexdigest()[:24]
    try:
        return open_beats(folder, check=True)
    except DataError:
        pass  # not cut yet, or damaged: cut it (again)
    progress(f"cutting beats of {len(names)} records")
    records = []
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ARRAYS}
    for index, name in enumerate(names):
        record = read_record(source, name, data)
        arrays = cut(record, data)
        arrays["record"] = np.full(len(arrays["y"]), index, np.int16)
        for array in ARRAYS:
            parts[array].append(arrays[array])
        annotated = [AAMI[s] for s in record.symbols]
        wanted = sum(AAMI[s] in data.classes and s not in data.drop_symbols for s in record.symbols)
        records.append(
            {
                "name": name,
                "patient": record.patient,
                "sex": record.sex,
                "age": record.age,
                "lead": record.lead,
                "sampling_rate": record.sampling_rate,
                "samples": len(record.signal),
                "annotated": {c: annotated.count(c) for c in "NSVFQ"},
                "edge": wanted - len(arrays["y"]),
            }
        )
    whole = {name: np.concatenate(parts[name]) for name in ARRAYS}
    if not len(whole["y"]):
        raise DataError(
            f"{source}: no beat is left; data.classes is {data.classes} and data.window {list(data.window)}."
        )
    _save(folder, whole, {"classes": data.classes, "records": records, "digest": digest, "rr_names": data.rr_names})
    return open_beats(folder, check=True)


def open_beats(folder: Path, check: bool = False) -> Beats:
    """Maps the arrays of a cache folder; with `check`, their checksums are compared too.

    Raises:
        DataError: there is no cache, or it is damaged.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text())
        for name in ARRAYS:
            if check and zlib.crc32((folder / f"{name}.npy").read_bytes()) != meta["checksums"][name]:
                raise ValueError(f"checksum of {name}.npy")
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        return Beats(
            folder=folder,
            classes=meta["classes"],
            records=tuple(meta["records"]),
            digest=meta["digest"],
            rr_names=tuple(meta["rr_names"]),
            **arrays,
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: is not a complete cache of beats ({error}).") from None


def _save(folder: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    part = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(part / f"{name}.npy", array)
        checksums = {name: zlib.crc32((part / f"{name}.npy").read_bytes()) for name in arrays}
        (part / "meta.json").write_text(json.dumps({**meta, "checksums": checksums}))
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        if not (folder / "meta.json").exists():  # otherwise another process was faster
            raise DataError(f"{folder}: the beats cannot be stored ({error.strerror}).") from None
