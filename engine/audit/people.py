"""What a result says of patients, groups of patients and calibration, computed a second time out of predictions.parquet.

A gap of a class is the largest less the smallest among the known groups: of the share of beats that are called it (demographic
parity), of its recall (equal opportunity), the larger one of that and of its false alarms (equalised odds). Calibration error: over 15
bins of equal width in confidence, the distance of beats right and of confidence, in parts of 10,000 of a beat, over all beats.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.audit.case import Matrix
from engine.audit.scores import pooled, scores, share

KNOWN = {"sex": ("female", "male"), "age": ("<65", ">=65")}
UNKNOWN = "unknown"
BINS, FULL, MOST_PATIENTS = 15, 10_000, 200
THRESHOLDS = (0, 5000, 6000, 7000, 8000, 9000, 9500, 9900)
MODELS = ("global", "personal")

Rows = Sequence[tuple[int, int, int]]  # true and predicted class, confidence


def examined(
    columns: Mapping[str, Sequence[Any]],
    classes: Sequence[str],
    scored: Sequence[str],
    least: int,
    left_out: Sequence[int],
) -> dict[str, Any]:
    """`fairness`, `calibration` and `patients` of a result.

    Args:
        left_out: hospitals that are not scored.

    Raises:
        ValueError: a row is not one of a patient's test beat, or a patient is in two groups.
    """
    place, size = {name: i for i, name in enumerate(classes)}, range(len(classes))
    counts: dict[str, dict[str, list[list[int]]]] = {}
    groups: dict[str, tuple[str, str]] = {}
    rows: dict[str, list[tuple[int, int, int]]] = {model: [] for model in MODELS}
    names = ("hospital", "patient", "sex", "age", "model", "true", "predicted", "confidence")
    for hospital, patient, sex, age, model, true, said, sure in zip(*(columns[name] for name in names), strict=True):
        if hospital in left_out:
            continue
        sexes, ages = (*KNOWN["sex"], UNKNOWN), (*KNOWN["age"], UNKNOWN)
        if type(patient) is not str or sex not in sexes or age not in ages or type(sure) is not int:
            raise ValueError("a row does not say whose beat it is, or how sure a model was")
        if not 0 <= sure <= FULL or groups.setdefault(patient, (sex, age)) != (sex, age):
            raise ValueError(f"patient {patient} is in two groups, or a confidence is none")
        tables = counts.setdefault(patient, {name: [[0 for _ in size] for _ in size] for name in MODELS})
        tables[model][place[true]][place[said]] += 1
        rows[model].append((place[true], place[said], sure))
    people = sorted(counts)
    found: dict[str, Any] = {"fairness": {}, "calibration": {}}
    for model in MODELS:
        each = {patient: tuple(map(tuple, counts[patient][model])) for patient in people}
        found["fairness"][model] = {
            kind: _gaps(each, {p: groups[p][i] for p in people}, KNOWN[kind], classes, scored, least)
            for i, kind in enumerate(("sex", "age"))
        }
        found["calibration"][model] = _calibration(rows[model], classes, scored)
    listed = [
        {"patient": p, "sex": groups[p][0], "age": groups[p][1], **{model: counts[p][model] for model in MODELS}}
        for p in people
    ]
    found["patients"] = listed if len(listed) <= MOST_PATIENTS else []
    return found


def _gaps(
    each: Mapping[str, Matrix],
    group: Mapping[str, str],
    known: Sequence[str],
    classes: Sequence[str],
    scored: Sequence[str],
    least: int,
) -> dict[str, Any]:
    rows, tables = [], dict[str, Matrix]()
    for name in (*known, UNKNOWN):
        mine = [table for patient, table in each.items() if group[patient] == name and any(map(any, table))]
        if mine:
            tables[name] = pooled(mine, len(classes))
            lines = scores(tables[name], classes, scored)
            size = {"patients": len(mine), "beats": sum(map(sum, tables[name]))}
            own = {key: lines[key] for key in ("accuracy", "macro_f1")}
            rows.append({"group": name, **size, **own, "confusion": [list(row) for row in tables[name]]})
    compared = [table for name, table in tables.items() if name != UNKNOWN]
    gaps: dict[str, dict[str, float | None]] = {"demographic_parity": {}, "equal_opportunity": {}, "equalised_odds": {}}
    testable = []
    for i, name in enumerate(classes):
        beats = [sum(map(sum, table)) for table in compared]
        true, called = [sum(table[i]) for table in compared], [sum(row[i] for row in table) for table in compared]
        hits = [table[i][i] for table in compared]
        recall = _range([share(h, t) for h, t in zip(hits, true, strict=True)])
        others = [n - t for n, t in zip(beats, true, strict=True)]
        false = _range([share(c - h, o) for c, h, o in zip(called, hits, others, strict=True)])
        gaps["demographic_parity"][name] = _range([share(c, n) for c, n in zip(called, beats, strict=True)])
        gaps["equal_opportunity"][name] = recall
        gaps["equalised_odds"][name] = None if recall is None or false is None else max(recall, false)
        if len(compared) > 1 and min(*true, *others) >= least:
            testable.append(name)
    odds = [gap for name in testable if (gap := gaps["equalised_odds"][name]) is not None]
    return {"groups": rows, **gaps, "testable": testable, "worst": max(odds, default=None)}


def _range(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return max(there) - min(there) if len(there) == len(values) > 1 else None


def _calibration(rows: Rows, classes: Sequence[str], scored: Sequence[str]) -> dict[str, Any]:
    bins = [{"beats": 0, "right": 0, "confidence": 0} for _ in range(BINS)]
    for true, said, sure in rows:
        one = bins[min(sure * BINS // FULL, BINS - 1)]
        one["beats"] += 1
        one["right"] += true == said
        one["confidence"] += sure
    off, curve, size = sum(abs(FULL * one["right"] - one["confidence"]) for one in bins), [], range(len(classes))
    for threshold in THRESHOLDS if rows else ():
        table = [[0 for _ in size] for _ in size]
        for true, said, sure in rows:
            if sure >= threshold:
                table[true][said] += 1
        lines = scores(tuple(map(tuple, table)), classes, scored)
        answered = {"threshold": threshold, "share": sum(map(sum, table)) / len(rows)}
        curve.append({**answered, **{key: lines[key] for key in ("accuracy", "macro_f1")}})
    return {"ece": off / (FULL * len(rows)) if rows else None, "bins": bins, "abstention": curve}
