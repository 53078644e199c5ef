"""The cohort: all hospitals of one experiment, with what makes them differ measured and reported."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.data import partitions
from engine.data.beats import Beats
from engine.data.config import CohortConfig, DataConfig
from engine.data.examples import prepared
from engine.data.hindsight import without_hindsight
from engine.data.identity import UNKNOWN
from engine.data.load import load
from engine.data.template import with_template
from engine.errors import ConfigError
from engine.metrics import scores
from engine.own.reference import is_own

LEFT_OUT = ("edge", "lost", "flat", "unclear")  # why a beat of a wanted class is left out, see `Beats`


@dataclass(frozen=True)
class HospitalData:
    """One hospital's share of the beats: index arrays into `Beats`, small enough to send anywhere.

    Attributes:
        id: hospital id, from 0.
        train, validation, test: int64 index arrays, ascending.
        trains: whether it takes part in training; one that does not only adapts and is tested.
    """

    id: int
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    trains: bool = True


@dataclass(frozen=True)
class Cohort:
    """All hospitals, and the report that goes into `result.json` and `pulseledger data describe`."""

    beats: Beats
    hospitals: tuple[HospitalData, ...]
    report: dict[str, Any]

    @property
    def scored(self) -> tuple[str, ...]:
        """The classes that macro-F1 is a mean over."""
        return tuple(self.report["scored"])


def build_cohort(data: DataConfig, config: CohortConfig, progress: Callable[[str], None] = lambda text: None) -> Cohort:
    """Loads the beats, gives them to hospitals and measures the result.

    Raises:
        DataError: the records cannot be read.
        ConfigError: the records do not allow these hospitals, or leave one without train beats.
    """
    beats = load(data, progress)
    owner = partitions.partition(beats, config)
    part, trains = partitions.split(beats, owner, config)
    part = partitions.shortened(beats, owner, part, config.train_beats)
    hospitals = tuple(
        HospitalData(
            id=h,
            train=np.flatnonzero((owner == h) & (part == partitions.TRAIN)),
            validation=np.flatnonzero((owner == h) & (part == partitions.VALIDATION)),
            test=np.flatnonzero((owner == h) & (part == partitions.TEST)),
            trains=bool(trains[h]),
        )
        for h in range(len(trains))
    )
    for hospital in hospitals:
        if not len(hospital.train):
            raise ConfigError(
                f"cohort: hospital {hospital.id} ({_holdings(beats, owner == hospital.id)}) has no train {beats.unit} with split "
                f"{config.split}; give it more records, fewer hospitals, or other data.classes."
            )
    if is_own(data.source):
        beats = prepared(beats, data, owner, part)
        return Cohort(beats, hospitals, describe(beats, hospitals, owner, config))
    horizon = partitions.horizons(beats, owner, part, trains, config)
    beats = without_hindsight(beats, data, owner, part, trains, horizon)
    beats = with_template(beats, data, owner, part, trains)
    return Cohort(beats, hospitals, describe(beats, hospitals, owner, config))


def _holdings(beats: Beats, mine: np.ndarray) -> str:
    """The records of a hospital's beats; of one that has none, those records that no beat is left of."""
    names = [beats.records[r]["name"] for r in np.unique(beats.record[mine])]
    if names:
        return ", ".join(names)
    empty = [record["name"] for r, record in enumerate(beats.records) if not (beats.record == r).any()]
    return f"no beats; none is left of {', '.join(empty)}" if empty else "no beats"


def describe(
    beats: Beats, hospitals: tuple[HospitalData, ...], owner: np.ndarray, config: CohortConfig
) -> dict[str, Any]:
    """Sizes, classes, heterogeneity and trivial baselines of a cohort, as plain JSON values.

    Accuracies of the baselines are over the test beats: `local_majority_accuracy` predicts each hospital's commonest
    train class, `global_majority_accuracy` the commonest train class of all. `local_majority_accuracy_all` does the
    former over all beats of each hospital, tested or not.
    """
    classes = beats.classes
    table, train, validation, test = _tables(beats, hospitals, owner)
    scored = scored_classes(classes, validation.sum(0), test.sum(0))
    rows, shared = _rows(beats, hospitals, owner, table, test, train.argmax(1), scored, config.min_support)
    return {
        "beats": int((owner >= 0).sum()),
        "edge_beats": sum(record["edge"] for record in beats.records),
        "digest": beats.digest,
        "classes": dict(zip(classes, table.sum(0).tolist(), strict=True)),
        "scored": list(scored),
        "not_testable": not_testable(classes, test.sum(0), config.min_support),
        "hospitals": rows,
        "heterogeneity": heterogeneity(table),
        "missing": {c: [h.id for h in hospitals if not table[h.id, i]] for i, c in enumerate(classes)},
        **_trivial(classes, scored, train, test),
        "local_majority_accuracy_all": _share(table[np.arange(len(table)), table.argmax(1)].sum(), table.sum()),
        "patients_shared": shared,
        "leaky": _leaks(beats, config, shared),
        **_reading(beats),
    }


def _trivial(classes: Sequence[str], scored: Sequence[str], train: np.ndarray, test: np.ndarray) -> dict[str, Any]:
    """The trivial lines of hospitals whose beats of each class are int64[hospitals, classes]."""
    constant = np.zeros((len(classes), len(classes)), np.int64)  # confusion matrix of the local majority
    for majority, beats in zip(train.argmax(1), test, strict=True):
        constant[:, majority] += beats
    return {
        "local_majority_accuracy": _share(np.trace(constant), test.sum()),
        "local_majority_macro_f1": scores(constant, classes, scored)["macro_f1"],
        "global_majority_accuracy": _share(test[:, train.sum(0).argmax()].sum(), test.sum()),
    }


def report_without(cohort: Cohort, hostile: Collection[int]) -> dict[str, Any]:
    """The report of a cohort with the trivial lines of all hospitals but those that play attackers, which are not scored."""
    classes, honest = cohort.beats.classes, [h for h in cohort.hospitals if h.id not in hostile]
    train, test = (
        np.array([np.bincount(cohort.beats.y[part(h)], minlength=len(classes)) for h in honest])
        for part in (lambda h: h.train, lambda h: h.test)
    )
    return {**cohort.report, **_trivial(classes, cohort.scored, train, test)}


def scored_classes(classes: Sequence[str], validation: np.ndarray, test: np.ndarray) -> tuple[str, ...]:
    """The classes with validation and test beats, so that a mean over classes is of the same ones on both.

    Where one of the parts is empty, those of the other.

    >>> scored_classes("NSVF", np.array([5, 2, 0, 0]), np.array([9, 1, 3, 0]))
    ('N', 'S')
    """
    there = (validation > 0) & (test > 0) if validation.sum() and test.sum() else validation + test > 0
    return tuple(c for c, scored in zip(classes, there.tolist(), strict=True) if scored)


def not_testable(classes: Sequence[str], test: np.ndarray, least: int) -> list[str]:
    """The classes with fewer test beats than that.

    >>> not_testable("NSV", np.array([90, 50, 49]), 50)
    ['V']
    """
    return [c for c, few in zip(classes, (test < least).tolist(), strict=True) if few]


def _tables(
    beats: Beats, hospitals: tuple[HospitalData, ...], owner: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """int[hospitals, classes]: all beats, train, validation and test beats of each class."""
    y, size = np.asarray(beats.y), len(beats.classes)
    indices = (
        [np.flatnonzero(owner == h.id) for h in hospitals],
        [h.train for h in hospitals],
        [h.validation for h in hospitals],
        [h.test for h in hospitals],
    )
    every, train, validation, test = (
        np.array([np.bincount(y[index], minlength=size) for index in part]) for part in indices
    )
    return every, train, validation, test


def _rows(
    beats: Beats,
    hospitals: tuple[HospitalData, ...],
    owner: np.ndarray,
    table: np.ndarray,
    test: np.ndarray,
    majority: np.ndarray,
    scored: Sequence[str],
    least: int,
) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each hospital, and the patients that more than one has. Beats left out are those of its records."""
    rows: list[dict[str, Any]] = []
    where: dict[str, list[int]] = {}
    for h in hospitals:
        guess = np.zeros((len(beats.classes), len(beats.classes)), np.int64)
        guess[:, majority[h.id]] = test[h.id]
        records = [beats.records[r] for r in np.unique(beats.record[owner == h.id])]
        for patient in {record["patient"] for record in records}:
            where.setdefault(patient, []).append(h.id)
        rows.append(
            {
                "id": h.id,
                "records": [record["name"] for record in records],
                "trains": h.trains,
                "train": len(h.train),
                "validation": len(h.validation),
                "test": len(h.test),
                "classes": dict(zip(beats.classes, table[h.id].tolist(), strict=True)),
                "local_majority_accuracy": _share(test[h.id, majority[h.id]], test[h.id].sum()),
                "local_majority_macro_f1": scores(guess, beats.classes, scored)["macro_f1"],
                "not_testable": not_testable(beats.classes, test[h.id], least),
                "left_out": {reason: sum(record[reason] for record in records) for reason in LEFT_OUT},
            }
        )
    return rows, sorted(patient for patient, holders in where.items() if len(holders) > 1)


def _leaks(beats: Beats, config: CohortConfig, shared: list[str]) -> list[str]:
    """What lets test beats be known, or cannot be excluded to, in sentences."""
    leaks = []
    if config.split == "random" and len(beats) > len({record["patient"] for record in beats.records}):
        leaks.append(f"random split: neighbouring {beats.unit} of one patient are in train and test")
    if shared:
        leaks.append(f"patients in more than one hospital: {', '.join(shared[:5])}{' ...' if len(shared) > 5 else ''}")
    patients = {record["name"]: record["patient"] for record in beats.records}
    copies = [r for r in beats.records if r["copy_of"] and r["patient"] != patients[r["copy_of"]]]
    if copies:
        named = ", ".join(f"{record['name']} is {record['copy_of']}" for record in copies[:5])
        leaks.append(f"one signal as records of two patients: {named}{' ...' if len(copies) > 5 else ''}")
    if not beats.patients_source:
        leaks.append(UNKNOWN)
    return leaks


def _reading(beats: Beats) -> dict[str, Any]:
    """How the records were read: leads, rates, patients, and what was left out."""
    leads: dict[str, list[str]] = {}
    for record in beats.records:
        if record["leads"]:
            leads.setdefault(" + ".join(record["leads"]), []).append(record["name"])
    dropped, others = Counter[str](), Counter[str]()
    for record in beats.records:
        dropped.update(record["dropped"])
        others.update(record["others"])
    return {
        "unit": beats.unit,
        "shape": list(beats.shape),
        "features": list(beats.features),
        "missing_values": beats.missing_values,
        "window": list(beats.window),
        "sampling_rate": beats.records[0]["sampling_rate"],
        "native_rates": {
            f"{rate:g}": n for rate, n in Counter(r["native_rate"] for r in beats.records).items() if rate
        },
        "leads": leads,
        "patients": len({record["patient"] for record in beats.records}),
        "patients_source": beats.patients_source,
        "left_out": {reason: sum(record[reason] for record in beats.records) for reason in LEFT_OUT},
        "doubled": sum(record["doubled"] for record in beats.records),
        "symbols_dropped": dict(sorted(dropped.items())),
        "symbols_no_beats": dict(sorted(others.items())),
    }


def heterogeneity(table: np.ndarray) -> dict[str, float]:
    """How different the hospitals' class distributions and sizes are.

    Args:
        table: int[hospitals, classes], beats of each class.

    Returns:
        emd_mean, emd_max: mean and maximum over hospitals of sum_y |p_k(y) - p(y)|, 0..2 (Zhao et al. 2018, arXiv
            1806.00582), p the pooled distribution. A Wasserstein distance between the probability *vectors*, as one
            library computes it, is blind to which class a hospital has.
        js: square root of the generalised Jensen-Shannon divergence over log2(hospitals), 0..1.
        hellinger: root mean square over pairs of hospitals of the Hellinger distance, 0..1.
        size_cv: coefficient of variation of the hospitals' sizes.
    """
    sizes = table.sum(1)
    p = table / sizes[:, None]
    distance = np.abs(p - table.sum(0) / table.sum()).sum(1)
    k = len(table)
    divergence = _entropy(p.mean(0)) - np.mean([_entropy(row) for row in p])
    root = np.sqrt(p)
    squared = [0.5 * ((root[a] - root[b]) ** 2).sum() for a in range(k) for b in range(a)]
    return {
        "emd_mean": float(distance.mean()),
        "emd_max": float(distance.max()),
        "js": float(np.sqrt(max(divergence, 0.0) / np.log2(k))) if k > 1 else 0.0,
        "hellinger": float(np.sqrt(np.mean(squared))) if k > 1 else 0.0,
        "size_cv": float(sizes.std() / sizes.mean()),
    }


def _entropy(p: np.ndarray) -> float:
    return float(-(p[p > 0] * np.log2(p[p > 0])).sum())


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
