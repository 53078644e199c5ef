"""Rows of studies that nobody ran: what each trial came to, written down by hand."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from engine.algorithms.config import METHODS
from sweeps.methods import Named
from sweeps.rows import Hospital, Outcome, Row, Spread

F1 = "validation/personal/macro_f1"
MEAN = "final/personal/mean_hospital_macro_f1"
SUPPORT = {"N": 900, "S": 60, "V": 200, "F": 12}


def outcome(
    algorithm: str,
    *personal: Mapping[int, float],
    title: str = "",
    common: float | None = None,
    majority: float = 0.25,
    gradients: float = 1000.0,
    **fields: Any,
) -> Outcome:
    """What a trial came to: macro-F1 of each hospital's own model by seed, the same one of the global model everywhere."""
    known = METHODS[algorithm]
    method = Named(title or known.title, algorithm, known.trains_global, known.trains_global and common is not None)
    seeds = tuple(
        {h: Hospital((str(100 + h),), SUPPORT, score, common, majority) for h, score in seed.items()}
        for seed in personal
    )
    means = [fmean(seed.values()) for seed in personal]
    scores = {MEAN: Spread(fmean(means)), "timing/gradient_evaluations": Spread(gradients)}
    values: dict[str, Any] = {
        "repeats": len(seeds),
        "method": method,
        "scores": scores,
        "usual": "N",
        "all_usual": (0.77, 0.2),
        "seeds": seeds,
        "scored": ("N", "S", "V", "F"),
        "support": {"N": 900, "S": 60, "V": 200, "F": 55},
        "exchanged": 0.0 if algorithm == "local" else None if algorithm == "centralised" else 2_000_000.0,
        "digest": "d",
        "leaky": (),
        "min_support": 50,
    }
    values |= fields
    few = tuple(c for c, beats in values["support"].items() if beats < values["min_support"])
    return Outcome(**{"not_testable": few, **values})


def row(trial: int, found: Outcome | None, condition: str = "all", state: str = "COMPLETE", **fields: Any) -> Row:
    """A row with the objective that the order of the trials says."""
    objectives = {F1: 1 - trial / 100} if found is not None else {}
    return Row(condition, trial, state, 5, 5, objectives=objectives, outcome=found, **fields)


def condition(*found: Outcome, label: str = "all") -> Sequence[Row]:
    """Rows of one condition, best first."""
    return [row(trial, each, label) for trial, each in enumerate(found)]
