"""Whom a method hurts: hospitals whose model is more than a point of macro-F1 below another one that they could have."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from sweeps.rows import Outcome, Row

POINT = 0.01
GLOBAL, ALONE = "hurt % by a point, global", "hurt % by a point, alone"

Scores = Sequence[Mapping[int, float]]  # of each seed: hospital -> macro-F1


def hurt(ours: Scores, theirs: Scores) -> float | None:
    """Share of the hospitals that are more than a point worse off, mean over seeds; None where none can be compared.

    >>> hurt([{0: 0.5, 1: 0.5}], [{0: 0.52, 1: 0.505}])
    0.5
    """
    shared = [a.keys() & b.keys() for a, b in zip(ours, theirs, strict=False)]
    names = set.intersection(*map(set, shared)) if shared else set()
    below = [fmean(a[h] - b[h] for a, b in zip(ours, theirs, strict=False)) < -POINT - 1e-12 for h in sorted(names)]
    return fmean(below) if below else None


def hurts(outcome: Outcome, group: Sequence[Row]) -> dict[str, float | None]:
    """What a trial's personal models do to hospitals, against its own global model and against training alone.

    Args:
        group: the rows of its condition, best first.
    """
    own = outcome.own("personal")
    alone = next((row.outcome for row in group if row.outcome is not None and row.outcome.method.alone), None)
    comparable = alone is not None and alone is not outcome and alone.tested() == outcome.tested()
    return {
        GLOBAL: hurt(own, outcome.own("global")) if outcome.method.adapts else None,
        ALONE: hurt(own, alone.own("personal")) if alone is not None and comparable else None,
    }
