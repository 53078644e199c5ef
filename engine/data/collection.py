"""The records of a configuration, all of them found and known before a beat is cut."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engine.data.config import DataConfig
from engine.data.disk import Found, file_digests, locate, records_in
from engine.data.identity import Patients, who_is_who
from engine.data.records import Entry, open_record
from engine.data.sources import DATASETS, recognised
from engine.errors import DataError

MOST_REASONS = 8  # in one sentence; of more records only the names are said


@dataclass(frozen=True)
class Collection:
    """The records of one source.

    Attributes:
        data: settings for it.
        entries: its records, in order.
        digests: path -> SHA-256 of every file that is read.
        known: record -> database and record that it is, or is a copy of; None for what is not known.
        patients: whose its records are.
        copies: record -> the first one that has the same signal file.
    """

    data: DataConfig
    found: Found
    entries: tuple[Entry, ...]
    digests: Mapping[str, str]
    known: Mapping[str, tuple[str, str] | None]
    patients: Patients
    copies: Mapping[str, str]

    @property
    def prefix(self) -> str:
        """Before the names of its records and patients where they stand beside those of another source."""
        return f"{self.data.source}/"

    def described(self) -> list[object]:
        """What makes it this collection and no other, as plain JSON values."""
        told = {"leads": self.data.inputs, "annotator": self.data.annotator}
        names = [entry.name for entry in self.entries]
        return [told, names, dict(self.digests), dict(self.patients.of), dict(self.known)]


def gather(data: DataConfig, progress: Callable[[str], None] = lambda text: None) -> Collection:
    """Finds the records of `data`, reads their headers, and says whose they are.

    Raises:
        DataError: a folder or record is missing, damaged or foreign; names all such records.
    """
    found = records_in(locate(data, progress), data)
    for stray in found.strays:
        progress(stray)
    entries, problems = [], {}
    for name, header in zip(found.names, found.headers, strict=True):
        try:
            entries.append(open_record(name, header, data))
        except DataError as error:
            problems[name] = str(error)
    refuse(found, problems)
    digests: dict[str, str] = {}
    known: dict[str, tuple[str, str] | None] = {}
    first: dict[str, str] = {}  # digest of a signal file -> the first record that it is of
    copies: dict[str, str] = {}
    for entry in entries:
        try:
            own = file_digests(found.folder, entry.files, DATASETS.get(data.source))
        except DataError as error:
            problems[entry.name] = str(error)
            continue
        digests |= own
        known[entry.name] = recognised(own.values(), entry.header.comments)
        for file, digest in zip(entry.files, own.values(), strict=True):
            if file in entry.header.signal_files and first.setdefault(digest, entry.name) != entry.name:
                copies[entry.name] = first[digest]
    refuse(found, problems)
    return Collection(data, found, tuple(entries), digests, known, who_is_who(entries, data, known), copies)


def refuse(found: Found, problems: Mapping[str, str]) -> None:
    """Says in one sentence which records cannot be used, if there are any.

    Args:
        problems: record -> its own sentence.

    Raises:
        DataError: there is a problem.
    """
    if len(problems) == 1:
        raise DataError(next(iter(problems.values())))
    if problems:
        reasons = [text.rstrip(".") for text in list(problems.values())[:MOST_REASONS]]
        more = list(problems)[MOST_REASONS:]
        rest = f"; and {', '.join(more)}" if more else ""
        raise DataError(
            f"{found.folder}: {len(problems)} of {len(found.names)} records cannot be used (data.exclude leaves them out): "
            f"{'; '.join(reasons)}{rest}."
        )


def one_rate(collections: Sequence[Collection]) -> float:
    """The sampling rate in Hz to which all records come.

    Raises:
        DataError: they have several and `data.rate` is not given.
    """
    wanted = collections[0].data.rate
    if wanted is not None:
        return wanted
    rates: dict[float, list[str]] = {}
    for collection in collections:
        for entry in collection.entries:
            rates.setdefault(entry.header.rate, []).append(entry.name)
    if len(rates) > 1:
        named = [
            f"{rate:g} Hz ({', '.join(names[:3])}{' ...' if len(names) > 3 else ''})" for rate, names in rates.items()
        ]
        raise DataError(
            f"{collections[0].found.folder}: the records have different sampling rates, {' and '.join(named)}; give "
            "data.rate, to which all are resampled."
        )
    return next(iter(rates))


def require_apart(first: Collection, second: Collection) -> None:
    """Two sources that are trained and tested on share no file.

    Raises:
        DataError: they do.
    """
    files = {digest: path for path, digest in first.digests.items()}
    same = [path for path, digest in second.digests.items() if digest in files]
    if same:
        raise DataError(
            f"data.other: {second.found.folder / same[0]} is the same file as {first.found.folder / files[second.digests[same[0]]]}, "
            "so what is tested on would be trained on."
        )


def patient_of(record: str, collection: Collection, beside: Collection) -> str:
    """Whose a record is, under a name that tells the patients of two sources apart, and finds those of both.

    A copy of a known database's record belongs to that database's patient, wherever it lies.
    """
    own, known = collection.patients.of[record], collection.known[record]
    if known is None or not DATASETS[known[0]].patients_known:
        return f"{collection.prefix}{own}"
    patient = DATASETS[known[0]].patient(known[1])
    alike = {copy[0] if copy else "" for copy in beside.known.values()} == {known[0]}
    return patient if alike and beside.data.patients is None else f"{known[0]} {patient}"
