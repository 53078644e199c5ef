"""Partitions: which hospital holds which beats, and which beats train, validate and test.

Partitions work on whole patients, because a patient split over hospitals is absurd in a clinic and leaks: the only
exception, `beat-dirichlet`, is reported as leaky by the cohort.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from engine.data.beats import Beats
from engine.data.config import CohortConfig, labels_of
from engine.data.sources import DATASETS, Dataset
from engine.data.stratify import Stretch, drawn_evenly, moved
from engine.errors import ConfigError
from engine.seeds import generator

TRAIN, VALIDATION, TEST, UNUSED = 0, 1, 2, -1

UNSEEN_AFTER = ("inter-patient", "other-database")  # splits whose tested patients are hospitals after those that train
RARE_ENOUGH = 50  # beats of a class that make it a patient's pathology (or 2 % of a shorter record)


def partition(beats: Beats, config: CohortConfig) -> np.ndarray:
    """The hospital of each beat.

    Returns:
        int32[beats], hospital id from 0, or -1 for beats that belong to none.

    Raises:
        ConfigError: the records do not allow this many hospitals, or the lists of records are wrong.
    """
    if config.split in UNSEEN_AFTER:
        return _unseen_after(beats, config)
    if config.partition == "beat-dirichlet":
        return _beat_dirichlet(beats, config)
    return _by_record(beats, config, range(len(beats.records)))[beats.record]


def _by_record(beats: Beats, config: CohortConfig, records: Sequence[int]) -> np.ndarray:
    """int32[records], the hospital of each record out of `records`; -1 for the others."""
    patients = _patients(beats, records)
    hospitals = config.hospitals
    if config.partition == "records":
        groups = _listed(beats, config)
    elif config.partition == "given":
        groups = _given(beats, records, hospitals)
    else:
        if hospitals > len(patients):
            raise ConfigError(
                f"cohort.hospitals is {hospitals}, but the {len(records)} records come from {len(patients)} patients and "
                "a patient is never split; allowed: at most that many, or cohort.partition: beat-dirichlet."
            )
        if config.partition == "one-record":
            if hospitals != len(patients):
                raise ConfigError(
                    f"cohort.hospitals is {hospitals}, but partition one-record makes a hospital of each of the "
                    f"{len(patients)} patients; allowed: {len(patients)}."
                )
            groups = patients
        elif config.partition == "consecutive":
            groups = _contiguous(patients, hospitals)
        elif config.partition == "pathology":
            groups = _pathology(beats, patients, hospitals)
        elif config.partition == "record-dirichlet":
            groups = _record_dirichlet(beats, patients, config)
        else:
            groups = _quantity(patients, config)
    result = np.full(len(beats.records), UNUSED, np.int32)
    for hospital, group in enumerate(groups):
        result[group] = hospital
    return result


def _patients(beats: Beats, records: Sequence[int]) -> list[list[int]]:
    """Record indices grouped by patient, in order of each patient's first record."""
    groups: dict[str, list[int]] = {}
    for index in records:
        groups.setdefault(beats.records[index]["patient"], []).append(index)
    return list(groups.values())


def _listed(beats: Beats, config: CohortConfig) -> list[list[int]]:
    index = {record["name"]: i for i, record in enumerate(beats.records)}
    holder: dict[str, int] = {}
    assert config.groups is not None
    for hospital, names in enumerate(config.groups):
        for name in names:
            if name not in index:
                raise ConfigError(f"cohort.groups: there is no record {name!r} among {', '.join(list(index)[:6])} ...")
            patient = beats.records[index[name]]["patient"]
            if holder.setdefault(patient, hospital) != hospital:
                raise ConfigError(
                    f"cohort.groups: record {name} gives patient {patient} to hospitals {holder[patient]} and {hospital}; "
                    "a patient belongs to one hospital."
                )
    return [[index[name] for name in names] for names in config.groups]


def _given(beats: Beats, records: Sequence[int], hospitals: int) -> list[list[int]]:
    """Hospitals as the data source names them, in the order in which they first come."""
    groups: dict[str, list[int]] = {}
    for index in records:
        groups.setdefault(beats.records[index].get("hospital", ""), []).append(index)
    if "" in groups:
        raise ConfigError("cohort.partition given: the data do not say in which hospital a patient was.")
    if len(groups) != hospitals:
        raise ConfigError(
            f"cohort.hospitals is {hospitals}, but the data are of {len(groups)} hospitals, {', '.join(list(groups)[:8])}; "
            f"allowed with partition given: {len(groups)}."
        )
    return list(groups.values())


def _contiguous(patients: list[list[int]], hospitals: int) -> list[list[int]]:
    """Cuts patients, in their order, into groups of nearly equal numbers of records, none empty."""
    ends = np.cumsum([len(records) for records in patients])
    cuts = [0]
    for hospital in range(1, hospitals):
        wanted = int(np.searchsorted(ends, round(ends[-1] * hospital / hospitals)) + 1)
        # every hospital keeps at least one patient, also the ones still to come
        cuts.append(min(max(wanted, cuts[-1] + 1), len(patients) - (hospitals - hospital)))
    cuts.append(len(patients))
    return [sum(patients[a:b], []) for a, b in itertools.pairwise(cuts)]


def _pathologies(beats: Beats, patients: list[list[int]]) -> list[tuple[str, int]]:
    """For each patient the commonest class besides the usual one that is frequent enough, and its count; else that one, 0."""
    usual, *others = labels_of(beats.classes)
    result = []
    for records in patients:
        counts = {c: sum(beats.records[i]["annotated"][c] for i in records) for c in (usual, *others)}
        needed = min(RARE_ENOUGH, 0.02 * sum(counts.values()))
        label = max(others, key=lambda c: counts[c])
        result.append((label, counts[label]) if counts[label] >= needed else (usual, 0))
    return result


def official(beats: Beats, records: Sequence[int]) -> tuple[Dataset, dict[str, int]] | None:
    """The known database that all `records` are of, and the name that each has there; None for anything else."""
    known = {i: beats.records[i]["known"].partition("/") for i in records}
    databases = {name for name, _, _ in known.values()}
    if len(databases) != 1 or not databases <= DATASETS.keys():
        return None
    return DATASETS[databases.pop()], {name: i for i, (_, _, name) in known.items()}


def _pathology(beats: Beats, patients: list[list[int]], hospitals: int) -> list[list[int]]:
    """The database's own pathology hospitals where they fit; else patients sorted by pathology and cut."""
    if (found := official(beats, sum(patients, []))) is not None:
        dataset, at = found
        listed = [[at[name] for name in group if name in at] for group in dataset.pathologies]
        listed = [group for group in listed if group]
        if len(listed) == hospitals and sum(map(len, listed)) == sum(map(len, patients)):
            return listed
    order = _ranked(beats)
    labels = _pathologies(beats, patients)
    ranked = sorted(range(len(patients)), key=lambda p: (order.index(labels[p][0]), -labels[p][1], p))
    return _contiguous([patients[p] for p in ranked], hospitals)


def _ranked(beats: Beats) -> tuple[str, ...]:
    """The classes as they part patients: the last one (AAMI's paced beats), the others in their order, the usual one."""
    usual, *others, last = labels_of(beats.classes)
    return (last, *others, usual)


def _record_dirichlet(beats: Beats, patients: list[list[int]], config: CohortConfig) -> list[list[int]]:
    """Each pathology's patients are spread over the hospitals with Dirichlet(alpha) shares."""
    draw = generator(config.seed, "partition")
    labels = [label for label, _ in _pathologies(beats, patients)]
    groups: list[list[int]] = [[] for _ in range(config.hospitals)]  # of patients
    for label in _ranked(beats):
        members = [p for p, its in enumerate(labels) if its == label]
        shares = _dirichlet(draw, config.alpha, config.hospitals)
        for patient, hospital in zip(members, draw.choice(config.hospitals, len(members), p=shares), strict=True):
            groups[hospital].append(patient)
    return [sum((patients[p] for p in group), []) for group in _fill(groups, draw)]


def _fill(groups: list[list[int]], draw: np.random.Generator) -> list[list[int]]:
    """Gives each empty hospital one patient of the hospital that has the most."""
    for group in groups:
        if not group:
            richest = max(groups, key=len)
            group.append(richest.pop(int(draw.integers(len(richest)))))
    return groups


def _dirichlet(draw: np.random.Generator, alpha: float, size: int) -> np.ndarray:
    shares = draw.dirichlet(np.full(size, alpha))
    # With a tiny alpha all gamma draws may underflow to zero: the limit is one hospital that takes all.
    return shares if np.isfinite(shares).all() else np.eye(size)[int(draw.integers(size))]


def _quantity(patients: list[list[int]], config: CohortConfig) -> list[list[int]]:
    """Hospital sizes (in patients) that fall like rank ** -exponent, each at least one."""
    draw = generator(config.seed, "partition")
    weights = np.arange(1, config.hospitals + 1, dtype=float) ** -config.exponent
    spare = len(patients) - config.hospitals
    exact = weights / weights.sum() * spare
    sizes = np.floor(exact).astype(int) + 1
    leftover = len(patients) - int(sizes.sum())
    sizes[np.argsort(-(exact - np.floor(exact)), kind="stable")[:leftover]] += 1
    shuffled = draw.permutation(len(patients))
    ends = np.cumsum(sizes)
    return [
        sum((patients[p] for p in sorted(shuffled[end - size : end])), [])
        for end, size in zip(ends, sizes, strict=True)
    ]


def _beat_dirichlet(beats: Beats, config: CohortConfig) -> np.ndarray:
    """Each class's beats are spread with Dirichlet(alpha) shares, whatever patient they come from (leaky).

    After Hsu, Qi, Brown 2019 (arXiv 1909.06335), drawn again until every hospital has some beats.
    """
    least = 10
    if config.hospitals * least > len(beats):
        raise ConfigError(
            f"cohort.hospitals is {config.hospitals}, but {len(beats)} beats give fewer than {least} to each; "
            f"allowed: at most {len(beats) // least}."
        )
    draw = generator(config.seed, "partition")
    y = np.asarray(beats.y)
    for _ in range(200):
        result = np.empty(len(y), np.int32)
        for label in range(len(beats.classes)):
            members = draw.permutation(np.flatnonzero(y == label))
            ends = np.floor(np.cumsum(_dirichlet(draw, config.alpha, config.hospitals)) * len(members)).astype(int)
            ends[-1] = len(members)
            result[members] = np.repeat(np.arange(config.hospitals), np.diff(ends, prepend=0))
        if np.bincount(result, minlength=config.hospitals).min() >= least:
            return result
    # So skewed that some hospital always stays empty: top the poorest up from the richest.
    while (sizes := np.bincount(result, minlength=config.hospitals)).min() < least:
        giver = np.flatnonzero(result == sizes.argmax())
        # just what it lacks: with more, two hospitals could hand each other the same beats for ever
        result[draw.choice(giver, least - sizes.min(), replace=False)] = sizes.argmin()
    return result


def _unseen_after(beats: Beats, config: CohortConfig) -> np.ndarray:
    """The records that train form `hospitals` hospitals; each patient of the others is one more, unseen one after them."""
    forbidden = ("beat-dirichlet", "records") if config.split == "inter-patient" else ("beat-dirichlet",)
    if config.partition in forbidden:
        raise ConfigError(f"cohort.split {config.split} does not go with cohort.partition {config.partition}.")
    if config.split == "inter-patient":
        seen, unseen = inter_patient_records(beats)
    else:
        seen, unseen = ([i for i, r in enumerate(beats.records) if r["other"] == other] for other in (False, True))
    of_record = _by_record(beats, config, seen)
    for offset, group in enumerate(_patients(beats, unseen)):
        of_record[group] = config.hospitals + offset
    return of_record[beats.record]


def inter_patient_records(beats: Beats) -> tuple[list[int], list[int]]:
    """Record indices that train and that stay unseen: the database's official split, every second patient elsewhere."""
    found = official(beats, range(len(beats.records)))
    if found is not None and found[0].train:
        dataset, at = found
        seen, unseen = (sorted(i for name, i in at.items() if name in part) for part in (dataset.train, dataset.test))
        needed = f"records of both official parts of {dataset.title}, such as {dataset.train[0]} and {dataset.test[0]}"
    else:
        patients = _patients(beats, range(len(beats.records)))
        seen, unseen = sum(patients[::2], []), sum(patients[1::2], [])
        needed = "records of at least two patients"
    if not seen or not unseen:
        raise ConfigError(f"cohort.split inter-patient needs {needed} (data.records, data.exclude).")
    return seen, unseen


def split(beats: Beats, hospital: np.ndarray, config: CohortConfig) -> tuple[np.ndarray, np.ndarray]:
    """Train, validation or test for each beat, and which hospitals take part in training.

    Args:
        hospital: int32[beats] from `partition`.

    Returns:
        part: int8[beats], TRAIN, VALIDATION, TEST, or UNUSED for guard gaps and beats of no hospital.
        trains: bool[hospitals]. A hospital that does not train still adapts on its own train part.
    """
    # Also hospitals without any beat of the wanted classes count: they must be missed, not forgotten.
    trains = np.ones(max(int(hospital.max()) + 1, config.hospitals), bool)
    part = np.full(len(beats), UNUSED, np.int8)
    if config.split == "leave-one-hospital-out":
        trains[config.held_out] = False
    elif config.split in UNSEEN_AFTER:
        trains[config.hospitals :] = False
    if config.split == "random":
        for h in range(len(trains)):
            members = np.flatnonzero(hospital == h)
            shuffled = generator(config.seed, "split", hospital=h).permutation(members)
            labels = np.asarray(beats.y[shuffled])
            for mine in [shuffled[labels == c] for c in np.unique(labels)] if config.stratify else [shuffled]:
                part[mine] = _parts(len(mine), config.fractions, config.min_support if config.stratify else 0)
        return part, trains
    if config.split == "patients" or (config.split != "chronological" and not _have_clocks(beats)):
        _by_patient(beats, hospital, trains, config, part)
        return part, trains
    choosing = _choosing(beats, hospital, trains, config)
    shares = _shares(config, bool(choosing.any()))
    sizes = _tested(beats, hospital, trains, choosing, shares, config)
    # Only beat-dirichlet puts one record's beats into hospitals that train and into one that does not.
    learning, adapting = (hospital >= 0) & trains[hospital], (hospital >= 0) & ~trains[hospital]
    for side, (r, record) in itertools.product((learning, adapting), enumerate(beats.records)):
        members = np.flatnonzero((beats.record == r) & side)
        if not len(members):
            continue
        sample = np.asarray(beats.sample[members])
        if side is adapting:
            early = sample < config.adapt_minutes * 60 * record["sampling_rate"]
            parts = np.where(early, TRAIN, TEST).astype(np.int8)
        elif choosing[members].any():
            parts = np.where(choosing[members], VALIDATION, TRAIN).astype(np.int8)
        else:
            parts = _parts(len(members), shares, sizes.get(r, 0))
        part[members] = _with_gap(parts, sample, sum(beats.window))
    return part, trains


def _shares(config: CohortConfig, chosen: bool) -> tuple[float, float, float]:
    """Train, validation, test of a record that trains; `chosen`: patients of their own validate."""
    train, validation, tested = config.fractions
    if config.split in UNSEEN_AFTER:
        # the training side keeps no test part: its patients are tested nowhere
        known = train + validation
        train, validation, tested = train / known, validation / known, 0.0
    return (1.0 - tested, 0.0, tested) if chosen else (train, validation, tested)


def _tested(
    beats: Beats,
    hospital: np.ndarray,
    trains: np.ndarray,
    choosing: np.ndarray,
    shares: tuple[float, float, float],
    config: CohortConfig,
) -> dict[int, int]:
    """Record -> how many of its last beats in hospitals that train are tested at least; {} where nobody stratifies."""
    if not config.stratify:
        return {}
    stretches = {}
    for r in range(len(beats.records)):
        members = np.flatnonzero((beats.record == r) & (hospital >= 0) & trains[hospital])
        if len(members) and not choosing[members].any():
            tested = int((_parts(len(members), shares) == TEST).sum())
            stretches[r] = Stretch(np.asarray(beats.y[members]), hospital[members], tested)
    return dict(zip(stretches, moved([*stretches.values()], config.min_support), strict=True))


DRAWS = 200  # sets of patients that are drawn, of which the most even one validates


def _choosing(beats: Beats, hospital: np.ndarray, trains: np.ndarray, config: CohortConfig) -> np.ndarray:
    """bool[beats], true for the beats of whole patients of the training hospitals who validate and do not train.

    What is tested are patients that nobody has seen, so what is chosen by must be, too. Of some sets of patients, drawn
    evenly, the one is taken whose share of each class is nearest to the share of validation; every hospital keeps a
    patient to train on. Nobody is chosen, and minutes validate, where no patients are unseen, where the share is less than
    half a patient, each hospital has one only, or a patient is in several.
    """
    result, wanted = np.zeros(len(beats), bool), config.fractions[1] / sum(config.fractions[:2])
    if trains.all():
        return result
    names = np.unique([record["patient"] for record in beats.records], return_inverse=True)[1][beats.record]
    learning = (hospital >= 0) & trains[hospital]
    patients, home = np.unique(np.stack([names[learning], hospital[learning]]), axis=1)
    spare = len(patients) - len(np.unique(home))
    count = min(spare, round(len(patients) * wanted))
    if not count or len(np.unique(patients)) < len(patients):
        return result
    classes = len(beats.classes)
    table = np.bincount(
        names[learning] * classes + np.asarray(beats.y)[learning], minlength=(names.max() + 1) * classes
    )
    table = table.reshape(-1, classes)[patients]
    table = table[:, table.any(0)] / table.sum(0)[table.any(0)]
    draw, best, chosen = generator(config.seed, "split"), np.inf, np.zeros(0, int)
    for _ in range(DRAWS):
        order = draw.permutation(len(patients))
        keepers = [np.flatnonzero(home[order] == h)[0] for h in np.unique(home)]  # the first of each hospital trains
        some = np.delete(order, keepers)[:count]
        off = np.abs(table[some].sum(0) - wanted).sum()
        if off < best:
            best, chosen = off, some
    return learning & np.isin(names, patients[chosen])


def _have_clocks(beats: Beats) -> bool:
    """Whether minutes mean something in the records."""
    return all(record["sampling_rate"] for record in beats.records)


def _by_patient(beats: Beats, hospital: np.ndarray, trains: np.ndarray, config: CohortConfig, part: np.ndarray) -> None:
    """Parts the patients of each hospital, none of whom is in two parts; fills `part`.

    A hospital that does not train adapts on the train fraction of its patients and is tested on the others.
    """
    train, validation, _test = config.fractions
    known = train + validation
    seen = (train / known, validation / known, 0.0) if config.split in UNSEEN_AFTER else config.fractions
    owner = np.array([record["patient"] for record in beats.records])[beats.record]
    for h in range(len(trains)):
        members = np.flatnonzero(hospital == h)
        patients = list(dict.fromkeys(owner[members].tolist()))
        draw, shares = generator(config.seed, "split", hospital=h), seen if trains[h] else (train, 0.0, 1.0 - train)
        parts, sizes = np.empty(len(patients), np.int8), _parts(len(patients), shares)
        orders = [draw.permutation(len(patients)) for _ in range(DRAWS if config.stratify else 1)]
        chosen = 0
        if config.stratify:
            tests = np.array([sizes[np.argsort(order)] == TEST for order in orders])
            labels = np.asarray(beats.y[members])
            table = np.zeros((len(patients), len(beats.classes)), int)
            who = np.array([patients.index(name) for name in owner[members].tolist()])
            np.add.at(table, (who, labels), 1)
            chosen = drawn_evenly(table, tests, shares[2], config.min_support)
        parts[orders[chosen]] = sizes
        part[members] = parts[[patients.index(name) for name in owner[members].tolist()]]


def _parts(n: int, fractions: tuple[float, float, float], least: int = 0) -> np.ndarray:
    """int8[n]: the first beats train, the next validate, the last test; `least` of them, or half of all, are tested at least."""
    usual = round(n * fractions[2])
    trained = min(round(n * fractions[0]), n - usual) if fractions[1] > 0 else n - usual
    tested = max(usual, min(least, n // 2))
    if tested > usual:  # what is tested more, train and validation give up by their sizes
        trained = round(trained * (n - tested) / (n - usual))
    return np.repeat(np.array([TRAIN, VALIDATION, TEST], np.int8), [trained, n - tested - trained, tested])


def _with_gap(parts: np.ndarray, sample: np.ndarray, window: int) -> np.ndarray:
    """Drops the beats before each boundary whose window overlaps a window after it."""
    result = parts.copy()
    for boundary in np.flatnonzero(np.diff(parts)) + 1:
        before = np.arange(len(parts)) < boundary
        result[before & (sample > sample[boundary] - window)] = UNUSED
    return result


def shortened(beats: Beats, hospital: np.ndarray, part: np.ndarray, most: int | None) -> np.ndarray:
    """int8[beats]: of each hospital's train beats `most` at most, the first of each record by the records' shares; the rest is unused."""
    if most is None:
        return part
    result = part.copy()
    for h in np.unique(hospital[hospital >= 0]):
        mine = np.flatnonzero((hospital == h) & (part == TRAIN))
        records, counts = np.unique(beats.record[mine], return_counts=True)
        exact = counts * min(1.0, most / max(len(mine), 1))
        kept = np.floor(exact).astype(int)
        spare = min(most, len(mine)) - int(kept.sum())
        kept[np.argsort(kept - exact, kind="stable")[:spare]] += 1  # to those that lost most of a beat
        for record, keep in zip(records, kept.tolist(), strict=True):
            rows = mine[beats.record[mine] == record]
            result[rows[np.argsort(beats.sample[rows], kind="stable")[keep:]]] = UNUSED
    return result


NO_END = np.iinfo(np.int64).max


def horizons(
    beats: Beats, hospital: np.ndarray, part: np.ndarray, trains: np.ndarray, config: CohortConfig
) -> np.ndarray:
    """int64[beats]: the sample before which everything lies that a beat may know of its record.

    That is the first beat of a later part (validation, test) of the same record, on the same side of a split that has
    hospitals which do not train; NO_END where there is none, and for the random split, which mixes its parts in time.
    """
    result = np.full(len(beats), NO_END, np.int64)
    if config.split == "random":
        return result
    side = (hospital >= 0) & trains[hospital]
    for r, learning in itertools.product(range(len(beats.records)), (True, False)):
        members = np.flatnonzero((beats.record == r) & (hospital >= 0) & (side == learning))
        parts, sample = part[members], np.asarray(beats.sample[members])
        for own, later in ((TRAIN, (VALIDATION, TEST)), (VALIDATION, (TEST,))):
            after = np.isin(parts, later)
            if after.any():
                result[members[parts == own]] = sample[after].min()
    return result
