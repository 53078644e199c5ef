"""From the test beats' predictions to patients, groups of patients and calibration.

Definitions of gaps are those of Agarwal et al. 2018 and Hardt et al. 2016 as fairlearn computes them, for each class against all
others. All counts are whole numbers, so that whoever reads predictions.parquet comes to the same bits.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from engine.metrics import scores
from engine.people.report import (
    Answered,
    Bin,
    BothCalibration,
    BothFairness,
    Calibration,
    Fairness,
    Gaps,
    Group,
    Patient,
)

if TYPE_CHECKING:
    import pyarrow as pa

UNKNOWN = "unknown"
SEXES, AGES = {"F": "female", "M": "male"}, ("<65", ">=65")
OLD = 65  # years
FULL, BINS = 10_000, 15
THRESHOLDS = (0, 5000, 6000, 7000, 8000, 9000, 9500, 9900)
MOST_PATIENTS = 200  # with more, they are left to predictions.parquet


class People(NamedTuple):
    """What a result says of them."""

    fairness: BothFairness
    calibration: BothCalibration
    patients: tuple[Patient, ...]


def groups_of(records: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Patient -> group by sex and by age, out of `Beats.records`; unknown where no record says, or two contradict each other.

    >>> groups_of([{"patient": "a", "sex": "F", "age": 64}, {"patient": "b", "sex": "", "age": -1}])
    {'a': ('female', '<65'), 'b': ('unknown', 'unknown')}
    """
    said: dict[str, tuple[set[str], set[str]]] = {}
    for record in records:
        sexes, ages = said.setdefault(record["patient"], (set(), set()))
        if record["sex"] in SEXES:
            sexes.add(SEXES[record["sex"]])
        if record["age"] is not None and record["age"] >= 0:
            ages.add(AGES[record["age"] >= OLD])
    return {
        patient: (*(found.pop() if len(found) == 1 else UNKNOWN for found in both),)  # type: ignore[misc]
        for patient, both in said.items()
    }


def examined(table: "pa.Table", classes: Sequence[str], scored: Sequence[str], least: int) -> People:
    """What the predictions of a run say.

    Args:
        table: of predictions.parquet.
        scored: classes that macro-F1 is a mean over.
        least: beats of a class that make a gap testable.
    """
    names, first, who = np.unique(_column(table, "patient"), return_index=True, return_inverse=True)
    groups = {key: _column(table, key)[first] for key in ("sex", "age")}
    place = {name: i for i, name in enumerate(classes)}
    true, said = (np.array([place[name] for name in table[key].to_pylist()], int) for key in ("true", "predicted"))
    sure, model = _column(table, "confidence").astype(int), _column(table, "model")
    size = len(classes)
    tables, calibration = {}, {}
    for name in ("global", "personal"):
        mine = model == name
        tables[name] = np.zeros((len(names), size, size), np.int64)
        np.add.at(tables[name], (who[mine], true[mine], said[mine]), 1)
        calibration[name] = _calibration(true[mine], said[mine], sure[mine], classes, scored)
    fair = {
        name: Fairness(
            sex=_gaps(found, groups["sex"], (*SEXES.values(), UNKNOWN), classes, scored, least),
            age=_gaps(found, groups["age"], (*AGES, UNKNOWN), classes, scored, least),
        )
        for name, found in tables.items()
    }
    rows = tuple(
        Patient(
            patient=str(name),
            sex=str(groups["sex"][i]),
            age=str(groups["age"][i]),
            global_=tables["global"][i].tolist(),
            personal=tables["personal"][i].tolist(),
        )
        for i, name in enumerate(names)
    )
    return People(
        BothFairness(global_=fair["global"], personal=fair["personal"]),
        BothCalibration(global_=calibration["global"], personal=calibration["personal"]),
        rows if len(rows) <= MOST_PATIENTS else (),
    )


def _column(table: "pa.Table", name: str) -> np.ndarray:
    return np.array(table[name].to_pylist(), object if len(table) else str)


def _gaps(
    tables: np.ndarray,
    group: np.ndarray,
    order: Sequence[str],
    classes: Sequence[str],
    scored: Sequence[str],
    least: int,
) -> Gaps:
    """Of confusion matrices int[patients, C, C] and the group of each patient; the last of `order` is in no gap."""
    rows, known = [], []
    for name in order:
        mine = tables[group == name]
        whole = mine.sum(0)
        if not whole.any():
            continue
        found = scores(whole, classes, scored)
        rows.append(
            Group(
                group=name,
                patients=int((mine.sum((1, 2)) > 0).sum()),
                beats=int(whole.sum()),
                accuracy=found["accuracy"],
                macro_f1=found["macro_f1"],
                confusion=whole.tolist(),
            )
        )
        if name != order[-1]:
            known.append(whole)
    each = {name: _gap([_counts(table, i) for table in known]) for i, name in enumerate(classes)}
    enough = [
        len(known) > 1 and all(min(int(t[i].sum()), int(t.sum() - t[i].sum())) >= least for t in known)
        for i in range(len(classes))
    ]
    testable = tuple(name for name, so in zip(classes, enough, strict=True) if so)
    return Gaps(
        groups=tuple(rows),
        demographic_parity={name: gap[0] for name, gap in each.items()},
        equal_opportunity={name: gap[1] for name, gap in each.items()},
        equalised_odds={name: gap[2] for name, gap in each.items()},
        testable=testable,
        worst=max((odds for name in testable if (odds := each[name][2]) is not None), default=None),
    )


Counts = tuple[int, int, int, int]  # beats of the class, those of them that are called so, all that are, all beats


def _counts(table: np.ndarray, i: int) -> Counts:
    return int(table[i].sum()), int(table[i, i]), int(table[:, i].sum()), int(table.sum())


def _gap(groups: Sequence[Counts]) -> tuple[float | None, float | None, float | None]:
    """Demographic parity, equal opportunity and equalised odds of one class."""
    if len(groups) < 2:
        return None, None, None
    parity = _range([called / beats for _, _, called, beats in groups])
    recall = false = None
    if all(true for true, *_ in groups):
        recall = _range([hits / true for true, hits, _, _ in groups])
    if all(beats - true for true, _, _, beats in groups):
        false = _range([(called - hits) / (beats - true) for true, hits, called, beats in groups])
    return parity, recall, None if recall is None or false is None else max(recall, false)


def _range(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _calibration(
    true: np.ndarray, said: np.ndarray, sure: np.ndarray, classes: Sequence[str], scored: Sequence[str]
) -> Calibration:
    right, place = true == said, np.minimum(sure * BINS // FULL, BINS - 1)
    beats, hits, told = (
        np.bincount(place, weights, BINS).astype(int).tolist() for weights in (None, right.astype(float), sure)
    )
    off = sum(abs(FULL * h - t) for h, t in zip(hits, told, strict=True))
    size = len(classes)
    curve = []
    for threshold in THRESHOLDS if len(true) else ():
        mine = sure >= threshold
        table = np.bincount(true[mine] * size + said[mine], minlength=size**2).reshape(size, size)
        found = scores(table, classes, scored)
        curve.append(
            Answered(
                threshold=threshold,
                share=int(mine.sum()) / len(true),
                accuracy=found["accuracy"],
                macro_f1=found["macro_f1"],
            )
        )
    return Calibration(
        ece=off / (FULL * len(true)) if len(true) else None,
        bins=tuple(Bin(beats=b, right=h, confidence=t) for b, h, t in zip(beats, hits, told, strict=True)),
        abstention=tuple(curve),
    )
