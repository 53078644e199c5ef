"""The scores that studies speak of: which may be tuned for, and how a reader sees them."""

import difflib
from collections.abc import Sequence
from typing import NamedTuple

from engine.config import RunConfig
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


def known_scores(classes: Sequence[str], near: str = "") -> str:
    """All scores in words, those that are spelt nearly like `near` first."""
    close = difflib.get_close_matches(near, objectives(classes), 2)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return (
        f"{hint}known: {'|'.join(PARTS)}/{'|'.join(MODELS)}/{'|'.join(SCORES)}, the same with recall/{'|'.join(classes)}, "
        f"{'|'.join(PARTS)}/personal/hurt_share, {', '.join(COSTS)}"
    )


def impossible(name: str, config: RunConfig) -> str:
    """Why a run can have no such score, or none that means something; empty where it can."""
    part, _, rest = name.partition("/")
    if part == "ledger" and config.ledger.backend == "none":
        return "there is no ledger (ledger.backend is none)"
    if part == "validation" and config.cohort.fractions[1] == 0:
        return "there are no validation beats (the second of cohort.fractions is 0)"
    of_class = rest.rpartition("/")[2]
    if "/recall/" in name and of_class not in config.data.classes:
        return f"class {of_class} is not among data.classes ({', '.join(config.data.classes)})"
    if rest.startswith("global/") and not config.federation.method.trains_global:
        return f"federation.algorithm {config.federation.algorithm} trains no global model"
    return ""


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
