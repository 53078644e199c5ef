"""Beats: a window around each annotated R peak, its class and its timing, kept as memory-mapped arrays.

Cutting happens once for each data configuration and set of files; the arrays are then mapped by every process, so
that a hundred hospitals on one machine share one copy.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.data import signals
from engine.data.collection import Collection, gather, one_rate, patient_of, refuse, require_apart
from engine.data.config import DataConfig, seconds_of
from engine.data.records import Record, read_record
from engine.encoding import json_hash
from engine.errors import DataError
from engine.files import own_cache

LONGEST_RR = 3.0  # seconds
ARRAYS = ("x", "rr", "y", "record", "sample", "peak")
# The code that finds, reads and cuts is part of the cache's key: other code makes other beats.
CODE = "beats collection config disk headers identity records signals sources".split()


@dataclass(frozen=True)
class Beats:
    """All beats of one data configuration, in order of record and time.

    Attributes:
        folder: where the arrays lie; `open_beats(folder)` maps them again, in any process.
        classes: names of the classes; `y` counts in this order.
        x: float32[beats, leads, before + after], the windows.
        rr: float32[beats, RR features].
        y: int8[beats], class.
        record: int32[beats], index into `records`.
        sample: int64[beats], position of the R peak in its record, at the record's sampling_rate.
        peak: int64[annotated beats], positions of all beats, record after record, also of those that were left out.
        records: for each record its name, patient, known (database and name that it is a copy of, or ""), other (whether
            it is of the database that is only tested on), copy_of (a record before it that has the same signal file, or
            ""), sex, age, leads, sampling_rate, native_rate (of the file), samples, peaks (number of annotated beats),
            annotated (those of each class); beats left out because their window leaves the record (edge), holds lost
            samples (lost) or a flat stretch (flat), or because their annotations contradict each other (unclear); doubled
            (annotations of one beat); symbols left out (dropped) and annotations that are no beats (others).
        digest: SHA-256 over the files' digests and the data configuration.
        rr_names: names of the columns of `rr`.
        window: samples before and after the R peak.
        patients_source: where the patients are from, in words; "" where they are not known, or the arrays were mapped by
            a process that need not know.
        unit: what one is called, in the plural: beats, or what a data source of the user's own says.
        features: names of the columns, where x is features [n, 1, columns] and no signals.
        missing_values: of the features, before a rule has filled them.
    """

    folder: Path
    classes: tuple[str, ...]
    x: np.ndarray
    rr: np.ndarray
    y: np.ndarray
    record: np.ndarray
    sample: np.ndarray
    peak: np.ndarray
    records: tuple[dict[str, Any], ...]
    digest: str
    rr_names: tuple[str, ...]
    window: tuple[int, int]
    patients_source: str = ""
    unit: str = "beats"
    features: tuple[str, ...] = ()
    missing_values: int = 0

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, int]:
        """Leads, and samples in a window."""
        return self.x.shape[1], self.x.shape[2]

    def counts(self) -> dict[str, int]:
        """Class -> number of beats."""
        return dict(zip(self.classes, np.bincount(self.y, minlength=len(self.classes)).tolist(), strict=True))


class Cut(NamedTuple):
    """The beats of one record.

    Attributes:
        x, rr, y, sample: as in `Beats`.
        counts: edge, lost, flat, unclear: beats left out, see `Beats`.
        dropped: symbol -> number of beats left out because of it.
    """

    x: np.ndarray
    rr: np.ndarray
    y: np.ndarray
    sample: np.ndarray
    counts: dict[str, int]
    dropped: dict[str, int]


def cut(record: Record, data: DataConfig) -> Cut:
    """Windows, RR features, classes and positions of one record's beats.

    A beat whose window would leave the record, or holds lost samples or a flat stretch, is left out, as are classes and
    symbols that `data` does not want. RR features are computed over all annotated beats, also those left out.
    """
    before, after = data.window_at(record.sampling_rate)
    peaks, signal, length = record.peaks, record.signal, record.signal.shape[1]
    classes = [data.class_of(symbol) for symbol in record.symbols]
    wanted = np.array(
        [c in data.classes and s not in data.drop_symbols for s, c in zip(record.symbols, classes, strict=True)],
        bool,
    )
    inside = (peaks - before >= 0) & (peaks + after <= length)
    lost, flat = (
        inside & _touched((record.kinds == kind).any(0), peaks, before, after) for kind in (signals.LOST, signals.FLAT)
    )
    keep = wanted & inside & ~lost & ~flat
    if data.normalise == "record":
        good = record.kinds == signals.GOOD
        signal = np.stack([_scaled(lead, kept) for lead, kept in zip(signal, good, strict=True)])
    at = peaks[keep][:, None] + np.arange(-before, after)
    x = np.ascontiguousarray(signal[:, at].swapaxes(0, 1), np.float32)
    if data.normalise == "beat":
        x = (x - x.mean(2, keepdims=True)) / np.maximum(x.std(2, keepdims=True), 1e-6)
    return Cut(
        x=x,
        rr=rr_features(peaks / record.sampling_rate, data)[keep],
        y=np.array([data.classes.index(c) for c, k in zip(classes, keep, strict=True) if k and c], np.int8),
        sample=peaks[keep],
        counts={
            "edge": int((wanted & ~inside).sum()),
            "lost": int((wanted & lost).sum()),
            "flat": int((wanted & flat & ~lost).sum()),
            "unclear": record.symbols.count(""),
        },
        dropped=dict(Counter(s for s, w in zip(record.symbols, wanted, strict=True) if s and not w)),
    )


def _touched(bad: np.ndarray, peaks: np.ndarray, before: int, after: int) -> np.ndarray:
    """bool[beats]: whether a window holds a bad sample. Windows outside of the record hold none."""
    if not bad.any():
        return np.zeros(len(peaks), bool)
    total = np.concatenate([[0], np.cumsum(bad)])
    start, end = (np.clip(peaks + shift, 0, len(bad)) for shift in (-before, after))
    return total[end] > total[start]


def _scaled(signal: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Less its median and over its spread, which are those of its good samples."""
    known = signal if good.all() else signal[good]
    if not len(known):
        return signal
    return (signal - np.median(known)) / max(float(known.std()), 1e-6)


def rr_features(seconds: np.ndarray, data: DataConfig) -> np.ndarray:
    """Timing of each beat: RR intervals in seconds, and the logarithm of their ratio to the local mean.

    The local mean is over the `rr_context` intervals before and after the beat, or over those within that time, but at
    least over the beat's own. Ratios are logarithms so that a beat that comes early and the pause after it lie equally
    far from zero. Every column is brought to the order of one by constants (seconds: less 0.8, over 0.25; ratios: over
    0.1, so that a tenth early is -1), not by statistics that a hospital would have to share.

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
    at, reach = np.arange(n), seconds_of(data.rr_context)
    if reach is None:
        first, last = np.maximum(at - int(data.rr_context), 0), np.minimum(at + int(data.rr_context), n - 1)
    else:
        first = np.minimum(np.searchsorted(seconds, seconds - reach), np.maximum(at - 1, 0))
        last = np.maximum(np.searchsorted(seconds, seconds + reach, side="right") - 1, np.minimum(at + 1, n - 1))
    local = (total[last] - total[first]) / (last - first)
    columns = {
        "previous": (previous - 0.8) / 0.25,
        "next": (following - 0.8) / 0.25,
        "previous_ratio": np.log(previous / local) / 0.1,
        "next_ratio": np.log(following / local) / 0.1,
    }
    return np.array([columns[name] for name in data.rr_names], np.float32).reshape(-1, n).T


def digest_of(data: DataConfig, progress: Callable[[str], None] = lambda text: None) -> str:
    """The digest that `load_beats` gives these records under these settings; nothing is cut.

    Raises:
        DataError: as of `load_beats`, but for what only reading signals and annotations shows.
    """
    return _found(data, progress)[2]


def _found(data: DataConfig, progress: Callable[[str], None]) -> tuple[list[Collection], tuple[int, int], str]:
    """The records of all sources, the window at their rate, and the digest of files and settings."""
    collections = [gather(data, progress)]
    if data.other.source != "none":
        collections.append(gather(data.of_other(), progress))
        require_apart(*collections)
    try:
        window = data.window_at(one_rate(collections))
    except ValueError as error:
        raise DataError(f"{error}.") from None
    told = {"folder", "source", "simulated", "records", "exclude", "patients", "lead", "leads", "annotator", "other"}
    told |= {"rr_stop", "parameters", "missing", "template", "template_minutes"}  # nothing is cut otherwise
    digest = json_hash([data.model_dump(mode="json", exclude=told), *(c.described() for c in collections)]).hex()
    return collections, window, digest


def load_beats(data: DataConfig, progress: Callable[[str], None] = lambda text: None) -> Beats:
    """The beats of `data`: from the cache when files and settings are the same, else cut anew.

    Raises:
        DataError: a record is missing, damaged or foreign, or nothing is left.
    """
    collections, window, digest = _found(data, progress)
    code = [Path(__file__).with_name(f"{name}.py").read_bytes() for name in CODE]
    folder = own_cache("beats") / hashlib.sha256(b"".join([digest.encode(), *code])).hexdigest()[:24]
    source = _patients_source(collections)  # the same patients may be told in another way
    try:
        return replace(open_beats(folder, check=True), patients_source=source)
    except DataError:
        pass  # not cut yet, or damaged: cut it (again)
    progress(f"cutting beats of {sum(len(c.entries) for c in collections)} records")
    whole, records = _cut_all(collections)
    if not len(whole["y"]):
        raise DataError(
            f"{collections[0].found.folder}: no beat is left; data.classes is {list(data.classes)} and data.window "
            f"{list(data.window)}{_left_out(records)}."
        )
    meta = {
        "classes": data.classes,
        "records": records,
        "digest": digest,
        "rr_names": data.rr_names,
        "window": window,
    }
    save(folder, whole, meta)
    return replace(open_beats(folder, check=True), patients_source=source)


def _cut_all(collections: list[Collection]) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Arrays and descriptions of all records."""
    records: list[dict[str, Any]] = []
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ARRAYS}
    for collection in collections:
        problems = {}
        for entry in collection.entries:
            try:
                record = read_record(entry, collection.data)
            except DataError as error:
                problems[entry.name] = str(error)
                continue
            made = cut(record, collection.data)
            number = np.full(len(made.y), len(records), np.int32)
            arrays = {"x": made.x, "rr": made.rr, "y": made.y, "record": number, "sample": made.sample}
            for name, array in {**arrays, "peak": record.peaks}.items():
                parts[name].append(array)
            identity = _identity(entry.name, collection, collections[0])
            records.append({**identity, **_described(record, made, collection.data)})
        refuse(collection.found, problems)
    return {name: np.concatenate(parts[name]) for name in ARRAYS}, records


def _identity(name: str, collection: Collection, first: Collection) -> dict[str, Any]:
    """Which record of whom it is. One of the second source has that before its name."""
    other, known = collection is not first, collection.known[name]
    return {
        "name": f"{collection.prefix}{name}" if other else name,
        "patient": patient_of(name, collection, first) if other else collection.patients.of[name],
        "known": "/".join(known) if known else "",
        "other": other,
        "copy_of": f"{collection.prefix if other else ''}{copied}" if (copied := collection.copies.get(name)) else "",
    }


def _described(record: Record, made: Cut, data: DataConfig) -> dict[str, Any]:
    annotated = [data.class_of(symbol) for symbol in record.symbols]
    return {
        "sex": record.sex,
        "age": record.age,
        "leads": list(record.leads),
        "sampling_rate": record.sampling_rate,
        "native_rate": record.native_rate,
        "samples": record.signal.shape[1],
        "peaks": len(record.peaks),
        "annotated": {c: annotated.count(c) for c in data.labels},
        **made.counts,
        "doubled": record.doubled,
        "dropped": made.dropped,
        "others": dict(record.others),
    }


def _patients_source(collections: list[Collection]) -> str:
    """Where the patients are from; "" as soon as those of one source are not known."""
    sources = [collection.patients.source for collection in collections]
    return " and ".join(dict.fromkeys(sources)) if all(sources) else ""


def _left_out(records: list[dict[str, Any]]) -> str:
    """How many beats were left out, and why, for a sentence."""
    reasons = {
        "edge": "too near an end",
        "lost": "on lost samples",
        "flat": "on a flat stretch",
        "unclear": "contradicting",
    }
    counts = {text: sum(record[key] for record in records) for key, text in reasons.items()}
    said = [f"{count} beats {text}" for text, count in counts.items() if count]
    return f"; {', '.join(said)} were left out" if said else ""


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
            classes=tuple(meta["classes"]),
            records=tuple(meta["records"]),
            digest=meta["digest"],
            rr_names=tuple(meta["rr_names"]),
            window=(int(meta["window"][0]), int(meta["window"][1])),
            unit=str(meta.get("unit", "beats")),
            features=tuple(meta.get("features", ())),
            missing_values=int(meta.get("missing_values", 0)),
            **arrays,
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: is not a complete cache of beats ({error}).") from None


def derived(beats: Beats, folder: Path, changed: dict[str, np.ndarray], told: Mapping[str, Any] | None = None) -> Beats:
    """Beats with some arrays changed, in a cache folder of their own; the other arrays are the same files.

    Args:
        told: what of their description changes.

    Raises:
        DataError: they cannot be stored.
    """
    meta = {**json.loads((beats.folder / "meta.json").read_text()), **(told or {})}
    save(folder, changed, meta, {name: beats.folder / f"{name}.npy" for name in ARRAYS if name not in changed})
    return reopened(beats, folder)


def reopened(beats: Beats, folder: Path) -> Beats:
    """The beats of another cache folder, which are `beats` but for some arrays.

    Raises:
        DataError: they are not there, or damaged.
    """
    return replace(open_beats(folder, check=True), patients_source=beats.patients_source)


def save(
    folder: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any], same: Mapping[str, Path] | None = None
) -> None:
    """Writes a cache folder, whole or not at all; `same` are arrays that are files already."""
    part = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(part / f"{name}.npy", array)
        for name, path in (same or {}).items():
            try:
                os.link(path, part / f"{name}.npy")
            except OSError:  # a file system without links
                shutil.copyfile(path, part / f"{name}.npy")
        checksums = {name: zlib.crc32((part / f"{name}.npy").read_bytes()) for name in (*arrays, *(same or {}))}
        (part / "meta.json").write_text(json.dumps({**meta, "checksums": checksums}))
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        if not (folder / "meta.json").exists():  # otherwise another process was faster
            raise DataError(f"{folder}: the beats cannot be stored ({error.strerror}).") from None
