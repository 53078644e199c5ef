"""What can be said of a condition's cohort before its records are read."""

from pathlib import Path

from engine.config import RunConfig
from engine.data.config import DataConfig
from engine.data.sources import DATASETS
from engine.model import build_network
from engine.own.reference import is_own, titled

RATE, MINUTES = 360.0, 30.0  # Hz of simulated records; minutes of a record of the known databases
FEWEST = 50  # beats a minute; hearts that beat faster want more memory than is counted here
_MANY = ("records", "given", "beat-dirichlet")  # partitions not by whole patients, or that know the hospitals already


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
    if most is None or cohort.partition in _MANY or config.execution.pool == "sites":
        return ""
    if cohort.hospitals > most:
        return (
            f"cohort.hospitals is {cohort.hospitals}, but data.source {config.data.source} gives at most {most} patients here, "
            "and a patient is never split"
        )
    if cohort.partition == "one-record" and cohort.hospitals != most and _exact(config):
        return f"cohort.hospitals is {cohort.hospitals}, but partition one-record makes a hospital of each of the {most} patients"
    return ""


def too_large(config: RunConfig, memory: float) -> str:
    """Why this machine can never hold a run, with the sum of what is known to be needed at least; empty where it may.

    Not counted: records of `data.source: folder`, whose lengths only reading them would tell, and what another machine holds.

    Args:
        memory: bytes that this machine has.
    """
    data = config.data
    if (
        config.execution.pool == "sites"
        or config.execution.address != "local"
        or is_own(data.source)
        or is_own(config.model.network)
    ):
        return ""  # how large a user's own are, only executing them would tell
    records = _records(data)
    minutes = data.simulated.minutes if data.source == "simulated" else MINUTES
    dataset = DATASETS.get(data.source)
    try:
        window = sum(data.window_at(data.rate or (dataset.rate if dataset is not None else RATE)))
    except ValueError as error:  # nobody knows yet how many samples a time is at the rate of an own folder
        return "" if data.source == "folder" and data.rate is None else str(error)
    beats = records * minutes * FEWEST
    leads = len(data.inputs) * (1 + (data.template != "none"))
    network = build_network(config.model, leads, window, len(data.rr_names), len(data.classes))
    training = max(round(config.federation.participation * config.cohort.hospitals), 1)
    cut, updates = 2 * beats * leads * window * 4, float(training) * network.size * 4
    if cut + updates <= memory:
        return ""
    return (
        f"at least {_gigabytes(cut + updates)} of memory are needed, and this machine has {_gigabytes(memory)}: "
        f"{_gigabytes(cut)} while beats are cut ({records:,} records x {minutes:g} min x {FEWEST} beats x {leads} lead{'s' * (leads != 1)} x "
        f"{window} samples x 4 bytes, twice), {_gigabytes(updates)} for the updates of a round ({training:,} hospitals x "
        f"{network.size:,} parameters x 4 bytes)"
    )


def _records(data: DataConfig) -> int:
    """Records that are read; 0 where only reading them would tell how long they are."""
    if data.source == "folder":
        return 0
    dataset = DATASETS.get(data.source)
    every = data.simulated.patients if dataset is None else len(dataset.records)
    return max((every if data.records == "all" else len(data.records)) - len(data.exclude), 0)


def _gigabytes(number: float) -> str:
    return f"{number / 1e9:,.1f} GB"


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
