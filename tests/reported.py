"""What a made-up run reports at its end: what each hospital states and predicts, and the result that follows from it.

run = Run(tmp_path)
statement(run, slot=0, rounds=4)                    # as `engine/statement.py` has it
document(run, rounds=4)                             # of result.json, without the part on the ledger
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from simulators import DATA, SETTINGS, SIZE, Run, opening_metrics

from engine.config import config_hash
from engine.encoding import json_hash
from engine.metrics import confusion, federation_scores, scores
from engine.people.examine import examined

CLASSES = "NSVFQ"
SCORED = ("N", "S", "F", "Q")  # with beats in both parts
PARTS = {"validation": (9, 2, 3, 1, 1), "test": (8, 3, 0, 1, 2)}  # beats of each class


def counts(run: Run, slot: int) -> dict[str, list[int]]:
    """Beats of each class, by part; the train part is as large as the weight of the hospital's updates."""
    rare = [3 + slot, 2, 1, 1]
    return {"train": [run.samples(slot) - sum(rare), *rare], **{part: list(sizes) for part, sizes in PARTS.items()}}


def table(part: str, *seed: int) -> np.ndarray:
    """Some confusion matrix of a part."""
    true = np.repeat(np.arange(len(CLASSES)), PARTS[part])
    draw = np.random.default_rng([*seed, len(true)])
    return confusion(true, np.where(draw.random(len(true)) < 0.6, true, draw.integers(0, 5, len(true))), len(CLASSES))


def tested(slot: int) -> dict[str, Any]:
    """True and predicted classes of a hospital's test beats, as in the file of the predictions."""
    true = np.repeat(np.arange(len(CLASSES)), PARTS["test"])
    draw = np.random.default_rng([3, slot])
    said = {
        model: np.where(draw.random(len(true)) < 0.7, true, draw.integers(0, 5, len(true)))
        for model in ("global", "personal")
    }
    return {
        "record": [f"{100 + slot}"] * len(true),
        "sample": [50 * i for i in range(len(true))],
        "true": true,
        "predicted": said,
        "confidence": {model: draw.integers(2_000, 10_001, len(true)) for model in said},
    }


def letters(values: np.ndarray) -> list[str]:
    return [CLASSES[value] for value in values.tolist()]


def trained(run: Run, slot: int, rounds: int) -> int:
    """Gradients of a hospital's updates."""
    present = [number for number in range(1, rounds + 1) if slot in run.vectors(number)]
    return sum(opening_metrics(number, slot)["gradient_evaluations"] for number in present)


def tables(slot: int) -> dict[str, dict[str, np.ndarray]]:
    """Part -> model -> confusion matrix."""
    beats = tested(slot)
    return {
        "validation": {model: table("validation", 5, slot, i) for i, model in enumerate(("global", "personal"))},
        "test": {model: confusion(beats["true"], said, len(CLASSES)) for model, said in beats["predicted"].items()},
    }


def statement(run: Run, slot: int, rounds: int) -> dict[str, Any]:
    """What a hospital states at the end."""
    beats = tested(slot)
    said = {model: letters(values) for model, values in beats["predicted"].items()}
    rows = {"record": beats["record"], "sample": beats["sample"], "true": letters(beats["true"]), "predicted": said}
    rows["confidence"] = {model: values.tolist() for model, values in beats["confidence"].items()}
    return {
        "data": f"{slot:064x}",
        "classes": list(CLASSES),
        "counts": counts(run, slot),
        **{part: {model: t.tolist() for model, t in both.items()} for part, both in tables(slot).items()},
        "predictions": json_hash(rows).hex(),
        "gradients": {"rounds": trained(run, slot, rounds), "personalisation": 7 + slot},
        "curve": [[number, table("validation", number, slot).tolist()] for number in range(1, rounds + 1)],
    }


def predictions(run: Run) -> pa.Table:
    """The file of the predictions."""
    columns: dict[str, list[Any]] = {
        name: []
        for name in (
            "hospital",
            "record",
            "patient",
            "sample",
            "model",
            "true",
            "predicted",
            "confidence",
            "sex",
            "age",
        )
    }
    for slot in range(run.hospitals):
        beats = tested(slot)
        for model, said in beats["predicted"].items():
            size = len(said)
            columns["hospital"] += [slot] * size
            columns["record"] += beats["record"]
            columns["patient"] += [f"p{slot}"] * size
            columns["sample"] += beats["sample"]
            columns["model"] += [model] * size
            columns["true"] += letters(beats["true"])
            columns["predicted"] += letters(said)
            columns["confidence"] += beats["confidence"][model].tolist()
            columns["sex"] += [("female", "male", "unknown")[slot % 3]] * size
            columns["age"] += [("<65", ">=65")[slot // 2 % 2]] * size
    return pa.table(columns)


def document(run: Run, rounds: int) -> dict[str, Any]:
    """The result of a made-up run, without the part on the ledger."""
    slots = range(run.hospitals)
    found: dict[str, Any] = {
        "version": 5,
        "name": SETTINGS.name,
        "config_hash": config_hash(SETTINGS),
        "config": SETTINGS.model_dump(mode="json"),
        "model_hash": run.model(rounds).hex(),
        "parameters": SIZE,
        "cohort": cohort(run),
        "rounds": [row(run, number) for number in range(1, rounds + 1)],
        "timing": {
            "train_seconds": 1.5,
            "rounds_seconds": 2.5,
            "total_seconds": 3.5,
            "gradient_evaluations": sum(trained(run, slot, rounds) + 7 + slot for slot in slots),
            "personalisation_gradient_evaluations": sum(7 + slot for slot in slots),
        },
        "lost": [],
    }
    people = examined(predictions(run), CLASSES, SCORED, SETTINGS.cohort.min_support)
    found |= {name: getattr(people, name).document() for name in ("fairness", "calibration")}
    found["patients"] = [one.document() for one in people.patients]
    for name, part in (("validation", "validation"), ("final", "test")):
        both: Mapping[str, Any] = {m: {s: tables(s)[part][m] for s in slots} for m in ("global", "personal")}
        found[name] = {
            "global": federation_scores(both["global"], CLASSES, scored=SCORED),
            "personal": federation_scores(both["personal"], CLASSES, both["global"], scored=SCORED),
        }
    return found


def row(run: Run, number: int) -> dict[str, Any]:
    """One round of the learning curve."""
    present = sorted(run.vectors(number))
    said = {slot: opening_metrics(number, slot) for slot in present}
    weights = [run.samples(slot) for slot in present]
    return {
        "round": number,
        **dict.fromkeys(("seconds", "train_seconds", "peer_seconds", "hash_seconds", "sign_seconds"), 0.5),
        "participants": len(present),
        "lost": [
            f"hospital {slot}, round {number}, train: away" for slot in range(run.hospitals) if slot not in present
        ],
        "train_loss": float(np.average([said[slot]["loss"] for slot in present], weights=weights)),
        "gradient_evaluations": sum(one["gradient_evaluations"] for one in said.values()),
        "validation": federation_scores(
            {slot: table("validation", number, slot) for slot in range(run.hospitals)}, CLASSES, scored=SCORED
        ),
    }


def cohort(run: Run) -> dict[str, Any]:
    """Sizes and trivial lines."""
    sizes = [counts(run, slot) for slot in range(run.hospitals)]
    constant = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    constant[:, 0] = sum(np.array(one["test"]) for one in sizes)  # every hospital has most of N
    lines = scores(constant, CLASSES, SCORED)
    # a beat of class N of each hospital lies between two parts
    held = [[sum(column) + (i == 0) for i, column in enumerate(zip(*one.values(), strict=True))] for one in sizes]
    whole = [sum(column) for column in zip(*held, strict=True)]
    return {
        "digest": DATA,
        "beats": sum(whole),
        "classes": dict(zip(CLASSES, whole, strict=True)),
        "scored": list(SCORED),
        "not_testable": list(CLASSES),  # 50 test beats of a class are needed
        "hospitals": [
            {
                "id": slot,
                "trains": True,
                **{part: sum(values) for part, values in one.items()},
                "classes": dict(zip(CLASSES, held[slot], strict=True)),
                "local_majority_accuracy": lines["accuracy"],  # the same beats everywhere
                "local_majority_macro_f1": lines["macro_f1"],
                "not_testable": list(CLASSES),
            }
            for slot, one in enumerate(sizes)
        ],
        "local_majority_accuracy": lines["accuracy"],
        "local_majority_macro_f1": lines["macro_f1"],
        "global_majority_accuracy": lines["accuracy"],
    }
