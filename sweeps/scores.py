"""The scores that studies speak of, by the paths that every result knows them by: which may be tuned for, and how they are shown.

One name everywhere: `final/personal/macro_f1` is the same number in a study's objectives, in `compare --json`, in MLflow and,
as "test macro-F1", in tables.
"""

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
    *(f"clock/{name}" for name in ("virtual_seconds", "compute_joules", "radio_joules")),
)
REACHED = ("clock/target_seconds", "clock/target_joules")  # of runs that reached `clock.target`
MATCHED = tuple(
    f"association/{name}" for name in ("utility", "energy_joules", "delay_seconds", "objective")
)  # of runs with miners
CLOCKED = (*COSTS[-3:], *REACHED, *MATCHED)
PLAIN = (
    *(f"{part}/{model}/{score}" for part in PARTS for model in MODELS for score in SCORES),
    *(f"{part}/personal/hurt_share" for part in PARTS),
    *COSTS,
)
ASIDE = ("ledger/open_seconds", "ledger/close_seconds")  # before the first round, and after the last one
# of runs whose privacy mechanism keeps an account; the last one of those whose hospitals share the noise
SPENT = ("privacy/epsilon", "privacy/delta", "privacy/alone")
GUESSED = tuple(f"membership/{model}/{name}" for model in MODELS for name in ("auc", "advantage"))  # privacy.membership
# what needs no model: each hospital's commonest train class, and that of all
TRIVIAL = tuple(
    f"cohort/{name}" for name in ("local_majority_accuracy", "local_majority_macro_f1", "global_majority_accuracy")
)
UNTUNED = (*ASIDE, *MATCHED, *REACHED, *SPENT, *GUESSED, *TRIVIAL)


def objectives(classes: Sequence[str]) -> tuple[str, ...]:
    """All scores of a study with these classes that may be tuned for."""
    return (*PLAIN, *(f"{part}/{model}/recall/{c}" for part in PARTS for model in MODELS for c in classes))


def details(classes: Sequence[str]) -> tuple[str, ...]:
    """Numbers of the test beats that are shown and not tuned for.

    >>> [shown(path).title for path in details(("N",))[4::3]]
    ['calibration error % global', 'gap % by age global']
    """
    return (
        *(f"final/{model}/{name}/{c}" for model in MODELS for name in ("precision", "f1") for c in classes),
        *(f"calibration/{model}/ece" for model in MODELS),
        *(f"fairness/{model}/{group}/worst" for model in MODELS for group in ("sex", "age")),
    )


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
    if part == "clock" and not config.clock.runs:
        return "no virtual time is kept (clock.fleet is none)"
    of_class = rest.rpartition("/")[2]
    if "/recall/" in name and of_class not in config.data.classes:
        return f"class {of_class} is not among data.classes ({', '.join(config.data.classes)})"
    if rest.startswith("global/") and not config.federation.method.trains_global:
        return f"federation.algorithm {config.federation.algorithm} trains no global model"
    return ""


class Shown(NamedTuple):
    """How a score is printed: its heading, what it is multiplied by, and digits behind the point (None: as short as it goes); what it is."""

    title: str
    factor: float
    digits: int | None
    says: str

    def number(self, value: float | None, missing: str = "-") -> str:
        """The score as text; `missing` for one that is not there.

        >>> shown("final/personal/accuracy").number(0.98765), shown("ledger/gas_per_round").number(73328)
        ('98.77', '73,328')
        """
        if value is None:
            return missing
        return f"{self.factor * value:g}" if self.digits is None else f"{self.factor * value:,.{self.digits}f}"


_THESE = "the classes that have validation and test beats"
# by the last part of their path; pooled over the beats of all hospitals unless they say otherwise
SHOWN = {
    "accuracy": Shown(
        "accuracy %", 100.0, 2, "share of beats whose class is right; little more than a guess where one class is most"
    ),
    "macro_f1": Shown("macro-F1", 1.0, 3, f"mean F1 of {_THESE}"),
    "balanced_accuracy": Shown("balanced accuracy %", 100.0, 2, f"mean recall of {_THESE}"),
    "mean_hospital_macro_f1": Shown(
        "macro-F1 mean hospital", 1.0, 3, "macro-F1 of each hospital by itself, mean over hospitals"
    ),
    "worst_hospital_macro_f1": Shown("macro-F1 worst hospital", 1.0, 3, "macro-F1 of the hospital that has the lowest"),
    "worst_hospital_accuracy": Shown(
        "accuracy % worst hospital", 100.0, 2, "accuracy of the hospital that has the lowest"
    ),
    "worst_tenth_macro_f1": Shown(
        "macro-F1 worst tenth",
        1.0,
        3,
        "mean macro-F1 of the tenth of the hospitals that has the lowest, of one at least",
    ),
    "variance_hospital_macro_f1": Shown(
        "macro-F1 variance", 1.0, 4, "variance of the hospitals' macro-F1 over hospitals"
    ),
    "jain_index": Shown(
        "Jain index", 1.0, 3, "of the hospitals' macro-F1: 1 where all are equal, 1 / hospitals where one has all"
    ),
    "rare_recall": Shown("rare recall", 1.0, 3, f"mean recall of {_THESE}, but for the commonest"),
    "recall_min": Shown("lowest recall", 1.0, 3, f"lowest recall of {_THESE}"),
    "hurt_share": Shown(
        "hurt %", 100.0, 0, "share of hospitals with a lower macro-F1 than the global model gives them"
    ),
    "overhead_share": Shown("ledger %", 100.0, 2, "share of the rounds' time in which training waited for the ledger"),
    "critical_path_seconds": Shown("ledger s", 1.0, 2, "seconds of the rounds in which training waited for the ledger"),
    "open_seconds": Shown("ledger s to open", 1.0, 2, "seconds before the first round, once a run"),
    "close_seconds": Shown("ledger s to close", 1.0, 2, "seconds after the last round, once a run"),
    "gas_per_round": Shown("gas a round", 1.0, 0, "gas that sealing a round takes, mean over rounds"),
    "total_seconds": Shown("s", 1.0, 0, "seconds of the whole run, records and test included"),
    "rounds_seconds": Shown("rounds s", 1.0, 0, "seconds of all rounds"),
    "gradient_evaluations": Shown(
        "gradients", 1.0, 0, "gradients of one batch, of all hospitals, personalisation included"
    ),
    "virtual_seconds": Shown("virtual s", 1.0, 1, "seconds on the virtual clock until the last round has ended"),
    "compute_joules": Shown(
        "J computing", 1.0, 3, "energy of the hospitals' computing on the virtual clock, until then"
    ),
    "radio_joules": Shown("J sending", 1.0, 3, "energy of sending updates on the virtual clock, until then"),
    "utility": Shown("utility", 1.0, 1, "of hospitals and miners together, eq. 19 of BPFISH, in units"),
    "energy_joules": Shown("J by plan", 1.0, 3, "energy of all rounds that the association counts with"),
    "delay_seconds": Shown("s a job", 1.0, 2, "seconds of the slowest associated hospital's job"),
    "objective": Shown("objective F", 1.0, 2, "rho utility - (1 - rho) loss, eq. 21 of BPFISH"),
    "target_seconds": Shown(
        "s to target",
        1.0,
        2,
        "seconds on the virtual clock until a global model first reached clock.target on validation beats",
    ),
    "target_joules": Shown("J to target", 1.0, 3, "energy of computing and sending on the virtual clock until then"),
    "ece": Shown(
        "calibration error %", 100.0, 2, "how far confidence and share right are apart on test beats, over 15 bins"
    ),
    "worst": Shown(
        "gap %", 100.0, 1, "largest equalised odds difference between two groups of patients, of the testable classes"
    ),
    "local_majority_accuracy": Shown(
        "accuracy % local majority", 100.0, 2, "accuracy of always saying each hospital's commonest train class"
    ),
    "local_majority_macro_f1": Shown(
        "macro-F1 local majority", 1.0, 3, "macro-F1 of always saying each hospital's commonest train class"
    ),
    "epsilon": Shown("epsilon", 1.0, 2, "what the hospital that released most has spent of privacy, an upper bound"),
    "delta": Shown("delta", 1.0, None, "probability that epsilon does not speak of"),
    "alone": Shown(
        "epsilon alone", 1.0, 2, "epsilon at most where all others of each masked sum work together against a hospital"
    ),
    "auc": Shown(
        "membership AUC",
        1.0,
        3,
        "how well cross-entropy ranks train beats before test beats, area under the curve, mean over hospitals",
    ),
    "advantage": Shown(
        "membership advantage %",
        100.0,
        1,
        "train beats less test beats that a threshold takes for train beats, mean over hospitals",
    ),
    "global_majority_accuracy": Shown(
        "accuracy % global majority", 100.0, 2, "accuracy of always saying the commonest train class of all hospitals"
    ),
}
OF_A_CLASS = {
    "recall": Shown("recall", 1.0, 3, "share of the beats of this class that are recognised"),
    "precision": Shown("precision", 1.0, 3, "share of the beats that are called this class that are of it"),
    "f1": Shown("F1", 1.0, 3, "twice the recognised beats of this class, by its beats and those that are called it"),
}
OF_A_HOSPITAL = ("accuracy", "macro_f1", "balanced_accuracy")  # what a single hospital has, too


def shown(path: str) -> Shown:
    """How the number at a path is printed. Its heading says which beats it is of: those to choose by, or test beats.

    >>> [shown(path).title for path in ("validation/personal/macro_f1", "final/global/recall/S", "ledger/overhead_share")]
    ['validation macro-F1', 'test recall S global', 'ledger %']
    """
    parts = path.split("/")
    of_class = OF_A_CLASS.get(parts[-2]) if len(parts) > 1 else None
    plain = SHOWN[parts[-1]] if of_class is None else of_class._replace(title=f"{of_class.title} {parts[-1]}")
    if parts[0] in ("calibration", "fairness"):
        by = f" by {parts[2]}" if parts[0] == "fairness" else ""
        return plain._replace(title=f"{plain.title}{by}{' global' * (parts[1] == 'global')}")
    if parts[0] == "membership":
        return plain._replace(title=f"{plain.title}{' global' * (parts[1] == 'global')}")
    if parts[0] not in PARTS:
        return plain
    part = "test" if parts[0] == "final" else parts[0]
    return plain._replace(title=f"{part} {plain.title}{' global' * (parts[1] == 'global')}")


def is_share(name: str) -> bool:
    """Whether an objective reaches from 0 to 1, as scores and shares do; costs have no upper end."""
    return name not in COSTS or name.endswith("_share")
