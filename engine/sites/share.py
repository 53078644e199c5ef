"""A hospital's share of the data: cut at the site out of the site's own records, and told to the coordinator in counts.

What the site does is what `build_cohort` does for this hospital, so the same records give the same beats. The coordinator makes a
cohort of what all sites tell: positions, counts and records, no beat.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.config import RunConfig
from engine.data import partitions
from engine.data.beats import Beats, derived, load_beats, reopened
from engine.data.cohort import Cohort, HospitalData, describe
from engine.data.config import LONGEST_WINDOW, MOST_LEADS, CohortConfig, DataConfig
from engine.data.hindsight import without_hindsight
from engine.data.template import with_template
from engine.encoding import json_hash
from engine.errors import ConfigError, DataError
from engine.people.examine import OLD
from engine.sites.orders import RecordTold, Share

PARTS = ("train", "validation", "test")
MOST_BEATS = 50_000_000  # of one site
LONGEST_TEXT = 200  # of a name
LEFT_OUT = ("edge", "lost", "flat", "unclear", "doubled")


@dataclass(frozen=True)
class Own:
    """What a site makes of its records: its beats, its place in them, and what it tells."""

    beats: Beats
    data: HospitalData
    share: Share


def own_share(config: RunConfig, hospital: int, folder: Path, patients: str | None, plain: bool = False) -> Own:
    """The share of a hospital whose records lie in `folder`, all of them its own.

    Args:
        patients: whose its records are, as `data.patients`; None: what the run's configuration says, if that is no file.
        plain: tell records' and patients' names as they are; else numbers.

    Raises:
        DataError, ConfigError: the records cannot be used, or leave no train beats.
    """
    said = config.data.patients
    if isinstance(said, str) and said.lower().endswith(".csv"):  # a file of the coordinator's machine
        said = None
    data = config.data.model_copy(
        update={
            "source": "folder",
            "folder": str(folder),
            "records": "all",
            "exclude": (),
            "patients": patients or said,
        }
    )
    beats = load_beats(data)
    owner = np.full(len(beats), hospital, np.int32)
    part, trains = partitions.split(beats, owner, config.cohort)
    part = partitions.shortened(beats, owner, part, config.cohort.train_beats)
    every = np.bincount(beats.y, minlength=len(beats.classes))
    horizon = partitions.horizons(beats, owner, part, trains, config.cohort)
    beats = without_hindsight(beats, data, owner, part, trains, horizon)
    beats = with_template(beats, data, owner, part, trains)
    if not plain:
        beats = _named_anew(beats, hospital)
    train, validation, test = (
        np.flatnonzero(part == kind) for kind in (partitions.TRAIN, partitions.VALIDATION, partitions.TEST)
    )
    if not len(train):
        raise ConfigError(f"{folder}: leaves hospital {hospital} no train beats with split {config.cohort.split}.")
    mine = HospitalData(hospital, train, validation, test)
    return Own(beats, mine, _told(beats, mine, every))


def _named_anew(beats: Beats, hospital: int) -> Beats:
    """The same beats under numbers in the place of names, in the cache."""
    records, patients = [], dict.fromkeys(record["patient"] for record in beats.records)
    numbers = {name: number for number, name in enumerate(patients)}
    names = {record["name"]: f"{hospital}-{i}" for i, record in enumerate(beats.records)}
    for record in beats.records:
        fresh = {"name": names[record["name"]], "patient": f"{hospital}-p{numbers[record['patient']]}", "known": ""}
        records.append({**record, **fresh, "copy_of": names.get(record["copy_of"], "")})
    key = hashlib.sha256(f"{beats.folder.name}|{hospital}|{Path(__file__).read_text()}".encode()).hexdigest()[:16]
    place = beats.folder.with_name(f"{beats.folder.name}-{key}")
    try:
        return reopened(beats, place)
    except DataError:
        return derived(beats, place, {}, {"records": records})


def _told(beats: Beats, data: HospitalData, every: np.ndarray) -> Share:
    size, parts = len(beats.classes), {"train": data.train, "validation": data.validation, "test": data.test}
    counts = {name: np.bincount(beats.y[index], minlength=size) for name, index in parts.items()}
    train, all_of = (
        np.bincount(of, minlength=len(beats.records)).tolist() for of in (beats.record[data.train], beats.record)
    )
    return Share(
        digest=beats.digest,
        classes=beats.classes,
        rr_names=beats.rr_names,
        shape=beats.shape,
        window=beats.window,
        patients_source=beats.patients_source,
        records=tuple(_record(*of) for of in zip(beats.records, train, all_of, strict=True)),
        counts={name: tuple(table.tolist()) for name, table in {"every": every, **counts}.items()},
        record=np.asarray(beats.record[data.test], np.int32),
        sample=np.asarray(beats.sample[data.test], np.int64),
    )


def _record(record: Mapping[str, Any], train: int, every: int) -> RecordTold:
    age = record["age"]
    return RecordTold(
        name=record["name"],
        patient=record["patient"],
        sex=record["sex"],
        age=None if age is None or age < 0 else (OLD if age >= OLD else OLD - 1),
        leads=tuple(record["leads"]),
        sampling_rate=float(record["sampling_rate"]),
        native_rate=float(record["native_rate"]),
        left_out=tuple(int(record[key]) for key in LEFT_OUT),
        dropped=record["dropped"],
        others=record["others"],
        copy_of=record["copy_of"],
        train=train,
        every=every,
    )


# --- The coordinator's side -------------------------------------------------------------------------------------------


def require_share(share: Share, data: DataConfig) -> None:
    """
    Raises:
        DataError: what a site tells contradicts itself or the run's configuration.
    """
    size, names = len(share.classes), [record.name for record in share.records]
    tables, tested = share.counts, sum(share.counts.get("test", ()))
    texts = (*names, *(text for r in share.records for text in (r.patient, r.sex, *r.leads, *r.dropped, *r.others)))
    right = (
        (share.classes, share.rr_names) == (tuple(data.classes), tuple(data.rr_names))
        and set(tables) == {"every", *PARTS}
        and all(len(table) == size and min(table) >= 0 for table in tables.values())
        and all(sum(tables[name][c] for name in PARTS) <= tables["every"][c] for c in range(size))
        and 0 < sum(tables["train"]) <= sum(tables["every"]) <= MOST_BEATS
        and 0 < share.shape[0] <= 2 * MOST_LEADS
        and 0 < share.shape[1] == sum(share.window) <= LONGEST_WINDOW
        and sum(r.train for r in share.records) == sum(tables["train"])
        and sum(r.every for r in share.records) == sum(tables["every"])
        and all(0 <= r.train <= r.every and min(r.left_out, default=-1) >= 0 for r in share.records)
        and all(len(r.left_out) == len(LEFT_OUT) for r in share.records)
        and len(set(names)) == len(names)
        and all(r.copy_of in ("", *names) for r in share.records)
        and max(map(len, texts)) <= LONGEST_TEXT
        and (share.record.dtype, share.sample.dtype) == (np.int32, np.int64)
        and share.record.shape == share.sample.shape == (tested,)
        and bool((share.record >= 0).all() and (share.record < len(names)).all())
        and len(share.digest) == 64
    )
    if not right:
        raise DataError("what it tells of its beats contradicts itself or the run's settings.")


def cohort_of(shares: Sequence[Share], config: CohortConfig) -> Cohort:
    """The cohort of hospitals that tell this of themselves, in their order.

    Its arrays are as long as theirs together, and hold what is known of each beat: of test beats the record and position, of
    others the record or class that makes the counts right. There is no signal in them.

    Raises:
        DataError: two sites cut their beats in different ways, or call two records by one name.
    """
    first = shares[0]
    for hospital, share in enumerate(shares):
        alike = (share.shape, share.window, share.records[0].sampling_rate)
        if alike != (first.shape, first.window, first.records[0].sampling_rate):
            raise DataError(
                f"hospital {hospital} cuts windows of {share.window} samples at {share.records[0].sampling_rate:g} Hz, hospital 0 of "
                f"{first.window} at {first.records[0].sampling_rate:g}; give data.rate."
            )
    names = Counter(record.name for share in shares for record in share.records)
    if twice := [name for name, n in names.items() if n > 1]:
        raise DataError(
            f"two sites have a record {twice[0]!r:.40}; one of them must tell numbers in the place of names."
        )
    hospitals, owner, start, records = [], [], 0, 0
    arrays: dict[str, list[np.ndarray]] = {"y": [], "record": [], "sample": []}
    for hospital, share in enumerate(shares):
        sizes = [sum(share.counts[name]) for name in PARTS]
        ends = start + np.cumsum([0, *sizes])
        train, validation, test = (np.arange(a, b) for a, b in itertools.pairwise(ends))
        hospitals.append(HospitalData(hospital, train, validation, test))
        found = _arrays(share)
        arrays["y"].append(found[0])
        arrays["record"].append(found[1] + records)
        arrays["sample"].append(found[2])
        owner.append(np.full(len(found[0]), hospital, np.int32))
        start, records = start + len(found[0]), records + len(share.records)
    joined = {name: np.concatenate(parts) for name, parts in arrays.items()}
    sources = [share.patients_source for share in shares]
    beats = Beats(
        folder=Path(),
        classes=first.classes,
        y=joined["y"],
        record=joined["record"],
        sample=joined["sample"],
        x=np.broadcast_to(np.float32(0), (start, *first.shape)),
        rr=np.broadcast_to(np.float32(0), (start, len(first.rr_names))),
        peak=np.zeros(0, np.int64),
        records=tuple(_described(record) for share in shares for record in share.records),
        digest=json_hash([share.digest for share in shares]).hex(),
        rr_names=first.rr_names,
        window=first.window,
        patients_source=" and ".join(dict.fromkeys(sources)) if all(sources) else "",
    )
    return Cohort(beats, tuple(hospitals), describe(beats, tuple(hospitals), np.concatenate(owner), config))


def _arrays(share: Share) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class, record and position of each beat: train, validation, test, the rest."""
    counts = {name: np.array(table) for name, table in share.counts.items()}
    rest = counts["every"] - sum(counts[name] for name in PARTS)
    y = np.concatenate([np.repeat(np.arange(len(rest)), table) for table in (*(counts[n] for n in PARTS), rest)])
    train = np.repeat(np.arange(len(share.records)), [record.train for record in share.records])
    others = (int(counts["validation"].sum()), int(rest.sum()))
    there = np.flatnonzero([record.every for record in share.records])
    somewhere = [np.resize(there, n) for n in others]
    record = np.concatenate([train, somewhere[0], share.record, somewhere[1]])
    sample = np.zeros(len(y), np.int64)
    first = len(train) + others[0]
    sample[first : first + len(share.sample)] = share.sample
    return y.astype(np.int8), record.astype(np.int32), sample


def _described(record: RecordTold) -> dict[str, Any]:
    return {
        **{key: getattr(record, key) for key in ("name", "patient", "sex", "age", "sampling_rate", "native_rate")},
        "leads": list(record.leads),
        **dict(zip(LEFT_OUT, record.left_out, strict=True)),
        "dropped": dict(record.dropped),
        "others": dict(record.others),
        "copy_of": record.copy_of,
        "known": "",
        "other": False,
    }
