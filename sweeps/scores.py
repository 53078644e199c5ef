"""The scores that studies speak of: which may be tuned for, and how a reader sees them."""

from collections.abc import Sequence
from typing import NamedTuple

from engine.result import SCORES, Model

PARTS = ("validation", "final")  # beats to choose by, and test beats to report on
MODELS: tuple[Model, ...] = ("global", "personal")
COSTS = (
    *(f"ledger/{name}" for name in ("overhead_share", "critical_path_seconds", "gas_per_round")),
    *(f"timing/{name}" for name in ("total_seconds", "rounds_seconds", "gradient_evaluations")),
)
PLAIN = (
    *(f"{part}/{model}/{score}" for part in PARTS for model in MODELS for score in SCORES),
    *(f"{part}/personal/hurt_share" for part in PARTS),
    *COSTS,
)


def objectives(classes: Sequence[str]) -> tuple[str, ...]:
    """All scores of a study with these classes that may be tuned for."""
    return (*PLAIN, *(f"{part}/{model}/recall/{c}" for part in PARTS for model in MODELS for c in classes))


class Shown(NamedTuple):
    """How a score is printed: its heading, what it is multiplied by, and digits behind the point."""

    title: str
    factor: float
    digits: int

    def number(self, value: float | None, missing: str = "-") -> str:
        """The score as text; `missing` for one that is not there.

        >>> SHOWN["accuracy"].number(0.98765)
        '98.77'
        """
        return missing if value is None else f"{self.factor * value:.{self.digits}f}"


# the scores of a table, pooled over all hospitals; the recall of each class is `RECALL`
SHOWN = {
    "accuracy": Shown("accuracy %", 100.0, 2),
    "macro_f1": Shown("macro-F1", 1.0, 3),
    "balanced_accuracy": Shown("balanced accuracy %", 100.0, 2),
}
RECALL = Shown("recall", 1.0, 3)


def is_share(name: str) -> bool:
    """Whether an objective reaches from 0 to 1, as scores and shares do; costs have no upper end."""
    return name not in COSTS or name.endswith("_share")
