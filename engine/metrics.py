"""Scores out of confusion matrices, pooled and per hospital."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np


def confusion(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """int64[classes, classes]: rows are true classes, columns predicted ones."""
    return np.bincount(np.asarray(true, np.int64) * classes + predicted, minlength=classes**2).reshape(classes, classes)


def scores(table: np.ndarray, classes: Sequence[str], scored: Collection[str] | None = None) -> dict[str, Any]:
    """Accuracy, balanced accuracy, macro-F1, lowest recall, and recall, precision, F1 and support of each class.

    Macro-F1, balanced accuracy and the lowest recall are over the `scored` classes that are present among the true
    labels; accuracy is over all beats. Recall and F1 of an absent class, and precision of a class that was never
    predicted, are None.

    Args:
        table: int64[classes, classes] from `confusion`.
        classes: their names.
        scored: those that are scored, the same on all parts of the data that are compared; None scores all.
    """
    hits, support, called = np.diag(table), table.sum(1), table.sum(0)
    recall = [h / s if s else None for h, s in zip(hits.tolist(), support.tolist(), strict=True)]
    precision = [h / c if c else None for h, c in zip(hits.tolist(), called.tolist(), strict=True)]
    f1 = [
        2 * h / (s + c) if s else None for h, s, c in zip(hits.tolist(), support.tolist(), called.tolist(), strict=True)
    ]
    total = int(support.sum())
    chosen = [scored is None or c in scored for c in classes]
    present = [r for r, wanted in zip(recall, chosen, strict=True) if wanted and r is not None]

    def named(values: list[Any]) -> dict[str, Any]:
        return dict(zip(classes, values, strict=True))

    return {
        "accuracy": int(hits.sum()) / total if total else None,
        "balanced_accuracy": _mean(present),
        "macro_f1": _mean([f for f, wanted in zip(f1, chosen, strict=True) if wanted]),
        "recall_min": min(present, default=None),
        "recall": named(recall),
        "precision": named(precision),
        "f1": named(f1),
        "support": named(support.tolist()),
    }


def federation_scores(
    tables: Mapping[int, np.ndarray],
    classes: Sequence[str],
    reference: Mapping[int, np.ndarray] | None = None,
    most_rows: int | None = None,
    scored: Collection[str] | None = None,
) -> dict[str, Any]:
    """Pooled scores of all hospitals, each hospital's own, how even these are, and the share that was hurt.

    Rare recall is the mean recall of the scored classes but the one with the most beats here. Of the hospitals' macro-F1: mean,
    lowest, variance (over n), Jain's index (sum squared over n times the sum of squares; 1 where all are equal, 1/n where one has
    all; Jain, Chiu, Hawe 1984), and the mean of the lowest tenth, of one hospital at least.

    Args:
        tables: hospital id -> confusion matrix. A hospital without test beats is left out of the rows.
        most_rows: with more hospitals than this, no row is made and only pooled scores are given.
        reference: the same of the model to compare with; a hospital is hurt if its macro-F1 is below the reference's.
        scored: classes that are scored, as of `scores`. A hospital with beats of others only has no macro-F1.
    """
    rows = [
        {"id": h, **scores(table, classes, scored)}
        for h, table in sorted(tables.items() if most_rows is None or len(tables) <= most_rows else ())
        if table.sum()
    ]
    pooled = sum(tables.values(), np.zeros((len(classes), len(classes)), np.int64))
    result = scores(pooled, classes, scored)
    common = classes[int(pooled.sum(1).argmax())]
    rare = [r for c, r in result["recall"].items() if c != common and (scored is None or c in scored)]
    own = [row["macro_f1"] for row in rows if row["macro_f1"] is not None]
    result["rare_recall"] = _mean(rare)
    result["confusion"] = pooled.tolist()
    result["per_hospital"] = rows
    result["mean_hospital_macro_f1"] = _mean(own)
    result["worst_hospital_macro_f1"] = min(own, default=None)
    result["worst_hospital_accuracy"] = min((row["accuracy"] for row in rows), default=None)
    result["worst_tenth_macro_f1"] = _mean(sorted(own)[: -(-len(own) // 10)])
    result["variance_hospital_macro_f1"] = _mean([(f1 - sum(own) / len(own)) ** 2 for f1 in own])
    squares = sum(f1 * f1 for f1 in own)
    result["jain_index"] = sum(own) ** 2 / (len(own) * squares) if squares else None
    if reference is not None:
        hurt = [
            row["macro_f1"] < scores(reference[row["id"]], classes, scored)["macro_f1"]
            for row in rows
            if row["macro_f1"] is not None
        ]
        result["hurt_share"] = sum(hurt) / len(hurt) if hurt else None
    return result


def _mean(values: list[Any]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None
