"""What can be said of a condition's cohort before its records are read."""

from pathlib import Path

from engine.config import RunConfig
from engine.data.config import DataConfig
from engine.data.sources import DATASETS
from engine.own.reference import is_own, titled

_MANY = (
    "records",
    "given",
    "beat-dirichlet",
)  # partitions that do not go by whole patients, or name the records themselves


def patients(config: RunConfig) -> int | None:
    """The most patients that may train: of the records that are asked for; None where only reading them would tell."""
    data = config.data
    if is_own(data.source):
        return None
    dataset = DATASETS.get(data.source)
    if data.records != "all":
        names = list(data.records)
    elif data.source == "simulated":
        return max(data.simulated.patients - len(data.exclude), 0)
    elif dataset is not None:
        names = list(dataset.records)
    else:
        return _headers(data)
    names = [name for name in names if name not in data.exclude]
    if dataset is None:
        return len(names)
    if config.cohort.split == "inter-patient" and dataset.train:
        names = [name for name in names if name in dataset.train]
    return len({dataset.patient(name) for name in names})


def impossible_cohort(config: RunConfig) -> str:
    """Why a cohort cannot be made; empty where nothing is known against it."""
    cohort, most = config.cohort, patients(config)
    if most is None or cohort.partition in _MANY:
        return ""
    if cohort.hospitals > most:
        return (
            f"cohort.hospitals is {cohort.hospitals}, but data.source {config.data.source} gives at most {most} patients here, "
            "and a patient is never split"
        )
    if cohort.partition == "one-record" and cohort.hospitals != most and _exact(config):
        return f"cohort.hospitals is {cohort.hospitals}, but partition one-record makes a hospital of each of the {most} patients"
    return ""


def _exact(config: RunConfig) -> bool:
    """Whether `patients` is more than a bound."""
    dataset = DATASETS.get(config.data.source)
    known = config.data.source == "simulated" or (dataset is not None and dataset.patients_known)
    return known and config.data.patients is None and config.cohort.split not in ("inter-patient", "other-database")


def cohort_words(config: RunConfig) -> str:
    """A cohort in words: hospitals, patients, partition and split."""
    cohort, most = config.cohort, patients(config)
    skew = {"record-dirichlet": f" alpha {cohort.alpha:g}", "beat-dirichlet": f" alpha {cohort.alpha:g}"}
    skew["quantity"] = f" exponent {cohort.exponent:g}"
    who = f" of {most} patients" if most is not None else ""
    return (
        f"{cohort.hospitals} hospitals{who} ({titled(config.data.source)}), partition {cohort.partition}{skew.get(cohort.partition, '')}, "
        f"split {cohort.split}, classes {' '.join(config.data.classes)}"
    )


def _headers(data: DataConfig) -> int | None:
    folder = Path(data.folder or "").expanduser()
    if not data.folder or not folder.is_dir():
        return None
    return sum(1 for _ in folder.rglob("*.hea")) or None
