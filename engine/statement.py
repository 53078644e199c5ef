"""What a hospital states of itself at the end of a run: plain data that it signs, and that every reported score must follow from.

data            SHA-256, hex, over its beats: windows, RR features and labels of each part, in order
classes         names; counts and confusion matrices are in their order
counts          part -> beats of each class
validation      "global" and "personal" -> confusion matrix on its validation part; `test` likewise
predictions     SHA-256, hex, over its rows of predictions.parquet: record, sample, true and predicted class, confidence
gradients       evaluations, of its updates in all `rounds`, and of its `personalisation`
triggered       "global" and "personal" -> [test beats that a simulated backdoor led to its target, of how many]; else absent
guessed         "global" and "personal" -> [wins, hits, members, alarms, others] of membership inference; else absent
privacy         what its privacy mechanism says of the whole run; absent without one
curve           (round, confusion matrix of the global model after it) of each round whose model it scored
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.data.beats import Beats
from engine.data.samples import Samples
from engine.encoding import json_hash
from engine.messages import Outcome
from engine.metrics import confusion

_BLOCK = 4096  # beats that are copied at a time


def statement(
    beats: Beats,
    parts: Mapping[str, Samples],
    outcome: Outcome,
    gradients: int,
    curve: Mapping[int, np.ndarray],
) -> dict[str, Any]:
    """What a hospital states.

    Args:
        parts: its real beats, by "train", "validation" and "test".
        gradients: evaluations of its updates.
        curve: round -> confusion matrix.
    """
    size = len(beats.classes)
    test = {model: confusion(outcome.true, predicted, size) for model, predicted in outcome.predicted.items()}
    priced = {} if outcome.privacy is None else {"privacy": dict(outcome.privacy)}
    counted = {"triggered": outcome.triggered, "guessed": outcome.guessed}
    attacked = {
        attack: {name: list(counts) for name, counts in models.items()} for attack, models in counted.items() if models
    }
    return {
        **priced,
        **attacked,
        "data": beats_digest(parts),
        "classes": list(beats.classes),
        "counts": {name: np.bincount(part.labels(), minlength=size).tolist() for name, part in parts.items()},
        "validation": {model: table.tolist() for model, table in outcome.validation.items()},
        "test": {model: table.tolist() for model, table in test.items()},
        "predictions": predictions_digest(beats, outcome),
        "gradients": {"rounds": gradients, "personalisation": outcome.gradient_evaluations},
        "curve": [[round, curve[round].tolist()] for round in sorted(curve)],
    }


def beats_digest(parts: Mapping[str, Samples]) -> str:
    """SHA-256, hex, over the real beats of each part."""
    digest = hashlib.sha256(b"PulseLedger hospital's beats 1")
    for name, part in parts.items():
        digest.update(f"|{name}|{len(part.index)}|".encode())
        for start in range(0, len(part.index), _BLOCK):
            rows = part.index[start : start + _BLOCK]
            for array, kind in ((part.x, "<f4"), (part.rr, "<f4"), (part.y, "i1")):
                digest.update(np.ascontiguousarray(array[rows], kind).data)
    return digest.hexdigest()


def predictions_digest(beats: Beats, outcome: Outcome) -> str:
    """SHA-256, hex, over what a hospital predicted for its test beats."""
    names = [beats.records[r]["name"] for r in beats.record[outcome.rows]]
    samples = beats.sample[outcome.rows].tolist()
    true = _named(beats.classes, outcome.true)
    said = {model: _named(beats.classes, predicted) for model, predicted in outcome.predicted.items()}
    sure = {model: values.tolist() for model, values in outcome.confidence.items()}
    rows = {"record": names, "sample": samples, "true": true, "predicted": said, "confidence": sure}
    return json_hash(rows).hex()


def _named(classes: Sequence[str], values: np.ndarray) -> list[str]:
    return [classes[value] for value in values.tolist()]
