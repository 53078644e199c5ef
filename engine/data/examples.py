"""A data source of the user's own: samples that are features or signals, by whatever names their classes have.

The source is a function of the settings' folder and its own parameters that gives `Examples`. What is missing (NaN) in
features is treated as `data.missing` says, from the train part of each hospital alone: nothing of a hospital's validation or
test part, and nothing of another hospital, is in what a sample looks like.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.data.beats import Beats, derived, open_beats, save
from engine.data.config import DataConfig
from engine.data.partitions import TRAIN
from engine.encoding import json_hash
from engine.errors import DataError
from engine.files import own_cache
from engine.own.call import make
from engine.own.reference import reference

PATIENTS = "the data source"


@dataclass(frozen=True)
class Examples:
    """What a data source gives. Row by row, in any order.

    Attributes:
        x: float[n, d], features, or float[n, leads, length], signals. NaN is what is missing, in features only.
        y: the class of each sample, by name.
        classes: all classes that the source knows, the usual one first.
        patients: whose each sample is.
        hospitals: where it is from; None: `cohort.partition` gives patients to hospitals.
        when: a whole number that orders the samples of a patient, each its own; None: as they come.
        features: names of the columns of features.
        unit: what the samples are called, in the plural.
    """

    x: np.ndarray
    y: Sequence[str]
    classes: Sequence[str]
    patients: Sequence[str]
    hospitals: Sequence[str] | None = None
    when: Sequence[int] | None = None
    features: Sequence[str] = ()
    unit: str = "samples"


def examples_of(data: DataConfig) -> Examples:
    """What the source of a configuration gives, checked: x float32[n, leads, length], the kept classes, rows in order.

    Raises:
        PulseLedgerError: the source fails, or gives what cannot be used.
    """
    folder = None if data.folder is None else Path(data.folder).expanduser().absolute()
    given: Examples = make("a data source", data.source, {"folder": folder}, data.parameters, Examples)
    own = reference(data.source)
    assert own is not None

    def need(holds: bool, words: str) -> None:
        if not holds:
            raise DataError(f"{own.title}: {words}.")

    x, features = _numbers(given, data, need)
    n, tabular = len(x), x.ndim == 2
    labels = _classes(given, data, need)
    patients = _names(given.patients, "patient", need)
    hospitals = None if given.hospitals is None else _names(given.hospitals, "hospital", need)
    when = list(range(n)) if given.when is None else [_whole(value, i, need) for i, value in enumerate(given.when)]
    seen: dict[tuple[str, str, int], int] = {}
    for i, key in enumerate(zip(hospitals or patients, patients, when, strict=True)):
        need(
            seen.setdefault(key, i) == i,
            f"samples {seen.get(key)} and {i} of patient {key[1]} are both at {key[2]} in `when`",
        )
    kept = [i for i in range(n) if labels[i] in data.classes]
    need(bool(kept), f"no sample is of data.classes {', '.join(data.classes)}")
    order = _ordered(kept, hospitals, patients, when)

    def of(values: Sequence[Any]) -> list[Any]:
        return [values[i] for i in order]

    hospitals_in_order = None if hospitals is None else of(hospitals)
    wide = x[order][:, None, :] if tabular else x[order]
    return Examples(
        wide, of(labels), data.classes, of(patients), hospitals_in_order, of(when), features, str(given.unit)
    )


Need = Callable[[bool, str], None]


def _numbers(given: Examples, data: DataConfig, need: Need) -> tuple[np.ndarray, tuple[str, ...]]:
    """x float32[n, d] or [n, leads, length], with a row for each of the rest, and the names of its columns."""
    x = np.asarray(given.x)
    need(
        x.dtype.kind in "fiub" and x.ndim in (2, 3),
        f"x is {x.dtype}{list(x.shape)}, not numbers [n, d] or [n, leads, length]",
    )
    need(x.size > 0, "gives no samples")
    n, tabular = len(x), x.ndim == 2
    rows = {"y": given.y, "patients": given.patients, "hospitals": given.hospitals, "when": given.when}
    for name, values in rows.items():
        need(
            values is None or len(values) == n, f"x has {n} samples, {name} has {0 if values is None else len(values)}"
        )
    features = tuple(map(str, given.features)) or tuple(f"feature {i + 1}" for i in range(x.shape[1] if tabular else 0))
    need(len(features) == (x.shape[1] if tabular else 0), f"x has {x.shape[1]} columns, features names {len(features)}")
    need(len(set(features)) == len(features), "features names a column twice")
    x = x.astype(np.float32)
    need(not np.isinf(x).any(), "x holds numbers that are infinite, or too large for float32")
    lacking = np.isnan(x)
    need(tabular or not lacking.any(), "x holds NaN, which only features may")
    if tabular and data.missing == "refuse" and lacking.any():
        column = int(lacking.any(0).argmax())
        words = f"{features[column]} is missing in {int(lacking[:, column].sum())} of {n} samples; data.missing says what is done about it"
        need(False, f"{words}: mask, mean or median")
    return x, features


def _classes(given: Examples, data: DataConfig, need: Need) -> list[str]:
    """The classes of all samples, each of them known; those of the configuration are among the known ones."""
    known = [str(name) for name in given.classes]
    need(len(set(known)) == len(known) > 1, "classes must be at least two different names")
    if foreign := [name for name in data.classes if name not in known]:
        said = f"has no class {foreign[0]} of data.classes"
        need(False, f"{said}; write data.classes: [{', '.join(known)}], or some of these")
    for i, name in enumerate(given.y):
        need(isinstance(name, str) and name in known, f"y of sample {i} is {name!r:.40}, not one of {', '.join(known)}")
    return [str(name) for name in given.y]


def _names(values: Sequence[Any], what: str, need: Need) -> list[str]:
    for i, value in enumerate(values):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        need(
            whole or (isinstance(value, str) and bool(value.strip())),
            f"the {what} of sample {i} is {value!r:.40}, not a name",
        )
    return [str(value) for value in values]


def _whole(value: Any, i: int, need: Need) -> int:
    need(
        isinstance(value, int | np.integer) and abs(int(value)) < 2**62,
        f"`when` of sample {i} is {value!r:.40}, not a whole number",
    )
    return int(value)


def _ordered(kept: list[int], hospitals: list[str] | None, patients: list[str], when: list[int]) -> list[int]:
    """Rows by hospital and patient in the order in which they first come, then by time."""
    places = {name: i for i, name in enumerate(dict.fromkeys(hospitals))} if hospitals is not None else {}
    people = {name: i for i, name in enumerate(dict.fromkeys(patients))}
    return sorted(kept, key=lambda i: (places[hospitals[i]] if hospitals else 0, people[patients[i]], when[i]))


# --- As beats ---------------------------------------------------------------------------------------------------------


def load_examples(data: DataConfig) -> Beats:
    """The samples of an own source, mapped from the cache: each patient of each hospital is a record.

    Raises:
        PulseLedgerError: as of `examples_of`.
    """
    found = examples_of(data)
    digest = examples_digest(found, data)
    code = Path(__file__).read_bytes()
    folder = own_cache("beats") / hashlib.sha256(digest.encode() + code).hexdigest()[:24]
    try:
        return _told(open_beats(folder, check=True))
    except DataError:
        pass  # not stored yet, or damaged
    hospitals = found.hospitals or [""] * len(found.y)
    pairs = list(zip(hospitals, found.patients, strict=True))
    records = list(dict.fromkeys(pairs))
    shared = {patient for patient, places in Counter(patient for _, patient in records).items() if places > 1}
    y = np.array([data.classes.index(name) for name in found.y], np.int8)
    number = {pair: i for i, pair in enumerate(records)}
    sample = np.array(found.when, np.int64)
    rows: dict[tuple[str, str], list[str]] = {pair: [] for pair in records}
    for pair, name in zip(pairs, found.y, strict=True):
        rows[pair].append(name)
    described = [_record(pair, pair[1] in shared, rows[pair], data) for pair in records]
    arrays = {
        "x": found.x,
        "rr": np.zeros((len(y), 0), np.float32),
        "y": y,
        "record": np.array([number[pair] for pair in pairs], np.int32),
        "sample": sample,
        "peak": sample,
    }
    meta: dict[str, Any] = {
        "classes": data.classes,
        "records": described,
        "digest": digest,
        "rr_names": (),
        "window": (0, 0),
    }
    meta |= {"unit": found.unit, "features": found.features, "missing_values": int(np.isnan(found.x).sum())}
    save(folder, arrays, meta)
    return _told(open_beats(folder, check=True))


def _record(pair: tuple[str, str], shared: bool, classes: list[str], data: DataConfig) -> dict[str, Any]:
    """A patient of a hospital as a record, see `Beats`. It has no leads and no clock."""
    hospital, patient = pair
    return {
        "name": f"{hospital}/{patient}" if shared else patient,
        "patient": patient,
        "hospital": hospital,
        "known": "",
        "copy_of": "",
        "other": False,
        "sex": None,
        "age": None,
        "leads": [],
        "sampling_rate": 0.0,
        "native_rate": 0.0,
        "samples": len(classes),
        "peaks": len(classes),
        "annotated": {name: classes.count(name) for name in data.labels},
        **dict.fromkeys(("edge", "lost", "flat", "unclear", "doubled"), 0),
        "dropped": {},
        "others": {},
    }


def _told(beats: Beats) -> Beats:
    return replace(beats, patients_source=PATIENTS)


def examples_digest(found: Examples, data: DataConfig) -> str:
    """SHA-256, hex, over all that a source gave and the settings under which it is used."""
    arrays = hashlib.sha256(np.ascontiguousarray(found.x, "<f4").tobytes()).hexdigest()
    told = {"y": found.y, "patients": found.patients, "hospitals": found.hospitals, "when": found.when}
    settings: dict[str, Any] = {
        "classes": data.classes,
        "features": found.features,
        "unit": found.unit,
        "shape": found.x.shape[1:],
    }
    return json_hash({"format": "examples 1", "x": arrays, **told, **settings}).hex()


# --- Missing values and scale -----------------------------------------------------------------------------------------


def prepared(beats: Beats, data: DataConfig, owner: np.ndarray, part: np.ndarray) -> Beats:
    """The samples as hospitals train on them: scaled, and nothing missing, by the train part of each hospital alone.

    Args:
        owner, part: of `partitions`: hospital and part of each sample.
    """
    if data.normalise != "train" and not beats.missing_values:
        return beats
    key = [beats.digest.encode(), Path(__file__).read_bytes(), data.normalise.encode(), data.missing.encode()]
    key += [owner.tobytes(), part.tobytes()]
    place = beats.folder.with_name(f"{beats.folder.name}-{hashlib.sha256(b'|'.join(key)).hexdigest()[:16]}")
    try:
        return _told(open_beats(place, check=True))
    except DataError:
        pass  # not made yet, or damaged
    x = np.array(beats.x, np.float64)
    lacking = np.isnan(x)
    for hospital in np.unique(owner[owner >= 0]):
        mine = np.flatnonzero(owner == hospital)
        known = x[mine[part[mine] == TRAIN]]
        x[mine] = _filled(*_scaled(x[mine], known, data, bool(beats.features)), data.missing)
    x[np.isnan(x)] = 0.0  # of no hospital
    features = beats.features
    if data.missing == "mask" and beats.missing_values:
        x = np.concatenate([x, lacking.astype(np.float64)], 2)
        features = (*features, *(f"{name} missing" for name in features))
    return _told(derived(beats, place, {"x": x.astype(np.float32)}, {"features": features}))


def _scaled(x: np.ndarray, known: np.ndarray, data: DataConfig, tabular: bool) -> tuple[np.ndarray, np.ndarray]:
    """Less the median and over the spread of `known`: of each feature, or of each lead."""
    if data.normalise != "train" or not len(known):
        return x, known
    centre, spread = np.zeros(x.shape[1:]), np.ones(x.shape[1:])
    for at in np.ndindex(*x.shape[1:]) if tabular else ((lead, slice(None)) for lead in range(x.shape[1])):
        there = known[(slice(None), *at)].ravel()
        there = there[~np.isnan(there)]
        if len(there):
            centre[at], spread[at] = np.median(there), max(float(there.std()), 1e-6)
    return (x - centre) / spread, (known - centre) / spread


def _filled(x: np.ndarray, known: np.ndarray, rule: str) -> np.ndarray:
    """What is missing becomes the mean or median of what the train part knows of a feature, or zero."""
    if not np.isnan(x).any():
        return x
    filled = x.copy()
    for feature in range(x.shape[2]):
        there = known[:, 0, feature]
        there = there[~np.isnan(there)]
        value = 0.0
        if len(there) and rule in ("mean", "median"):
            value = math.fsum(there) / len(there) if rule == "mean" else float(np.median(there))
        column = filled[:, 0, feature]
        column[np.isnan(column)] = value
    return filled
