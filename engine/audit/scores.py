"""Scores of a model out of the hospitals' confusion matrices, computed a second time.

Recall is hits by true beats of a class, precision hits by beats that were called so, F1 twice the hits by the sum of both;
means are over the scored classes that have true beats, accuracy is over all. What cannot be divided is None. All in the
order of the classes, so that the last bit is the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.audit.case import Matrix

Tables = Mapping[int, Matrix]  # by hospital


def share(part: int, whole: int) -> float | None:
    """A part of a whole, None of nothing."""
    return part / whole if whole else None


def scored_classes(classes: Sequence[str], validation: Sequence[int], test: Sequence[int]) -> list[str]:
    """Classes with beats in both parts; where one part has none at all, those of the other."""
    both = sum(validation) > 0 and sum(test) > 0
    there = [v > 0 and t > 0 if both else v + t > 0 for v, t in zip(validation, test, strict=True)]
    return [name for name, here in zip(classes, there, strict=True) if here]


def scores(table: Matrix, classes: Sequence[str], scored: Sequence[str]) -> dict[str, Any]:
    """Scores of one confusion matrix."""
    size = range(len(classes))
    hits = [table[i][i] for i in size]
    true = [sum(table[i]) for i in size]
    called = [sum(table[i][j] for i in size) for j in size]
    recall = {classes[i]: share(hits[i], true[i]) for i in size}
    f1 = {classes[i]: share(2 * hits[i], true[i] + called[i]) if true[i] else None for i in size}
    known = [recall[name] for name in scored if recall[name] is not None]
    return {
        "accuracy": share(sum(hits), sum(true)),
        "balanced_accuracy": _mean(known),
        "macro_f1": _mean([f1[name] for name in scored]),
        "recall_min": min(known, default=None),  # type: ignore[type-var]
        "recall": recall,
        "precision": {classes[i]: share(hits[i], called[i]) for i in size},
        "f1": f1,
        "support": {classes[i]: true[i] for i in size},
    }


def pooled(tables: Sequence[Matrix], size: int) -> Matrix:
    """The sum of confusion matrices."""
    return tuple(tuple(sum(table[i][j] for table in tables) for j in range(size)) for i in range(size))


def federation_scores(
    tables: Tables, classes: Sequence[str], scored: Sequence[str], reference: Tables | None = None, rows: bool = True
) -> dict[str, Any]:
    """Pooled scores, each hospital's own where `rows` are wanted, their mean, the worst, and whom the personal model hurts."""
    own = {slot: scores(t, classes, scored) for slot, t in sorted(tables.items()) if any(map(any, t)) and rows}
    whole = pooled([*tables.values()], len(classes))
    found = scores(whole, classes, scored)
    beats = [sum(row) for row in whole]
    common = classes[beats.index(max(beats))]
    f1 = {slot: one["macro_f1"] for slot, one in own.items() if one["macro_f1"] is not None}
    found |= {
        "rare_recall": _mean([found["recall"][name] for name in scored if name != common]),
        "confusion": [list(row) for row in whole],
        "per_hospital": [{"id": slot, **one} for slot, one in own.items()],
        "mean_hospital_macro_f1": _mean([*f1.values()]),
        "worst_hospital_macro_f1": min(f1.values(), default=None),
        "worst_hospital_accuracy": min((one["accuracy"] for one in own.values()), default=None),
        **_evenness([*f1.values()]),
    }
    if reference is not None:
        hurt = [value < scores(reference[slot], classes, scored)["macro_f1"] for slot, value in f1.items()]
        found["hurt_share"] = share(sum(hurt), len(hurt))
    return found


def _evenness(f1: Sequence[float]) -> dict[str, float | None]:
    """Of the hospitals' macro-F1: mean of the lowest tenth, variance, Jain's index."""
    n, total, squares = len(f1), sum(f1), sum(one * one for one in f1)
    lowest = sorted(f1)[: (n + 9) // 10]
    return {
        "worst_tenth_macro_f1": _mean(lowest),
        "variance_hospital_macro_f1": _mean([(one - total / n) ** 2 for one in f1]),
        "jain_index": total**2 / (n * squares) if squares else None,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
