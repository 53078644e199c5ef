"""Who is who: whose each record is, as far as that is known.

Two records of one patient in two hospitals, or on both sides of a split, leak. So what is not known is said, and never
guessed from a file's name.
"""

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.data.config import DataConfig
from engine.data.records import Entry
from engine.data.sources import DATASETS
from engine.errors import DataError

COMMENT = r"^patient\s+(\S*\d\S*)$"  # as in INCART's headers, "patient 12"; "patient unknown" is nobody
UNKNOWN = "patients not known: each record is taken for one; leaks cannot be excluded"


@dataclass(frozen=True)
class Patients:
    """Whose records are.

    Attributes:
        of: record -> patient.
        source: where that is from, in words; "" where nothing says it and each record is taken for a patient.
    """

    of: Mapping[str, str]
    source: str


def who_is_who(entries: Sequence[Entry], data: DataConfig, known: Mapping[str, tuple[str, str] | None]) -> Patients:
    """Patients of records: what `data.patients` says, else what is known of the database, else what the headers say.

    Args:
        known: record -> database and record that it is a copy of.

    Raises:
        DataError: `data.patients` says nothing of a record, or its file cannot be read.
    """
    names = [entry.name for entry in entries]
    if data.patients is not None:
        return _told(entries, data.patients)
    if data.source == "simulated":
        return Patients({name: name for name in names}, "simulated: each record is a patient")
    found = [known[name] for name in names]
    databases = {copy[0] for copy in found if copy is not None}
    if databases and None not in found and all(DATASETS[name].patients_known for name in databases):
        of = {n: DATASETS[c[0]].patient(c[1]) for n, c in zip(names, found, strict=True) if c is not None}
        return Patients(of, " and ".join(sorted(DATASETS[name].title for name in databases)))
    said = {entry.name: _commented(entry, re.compile(COMMENT, re.IGNORECASE)) for entry in entries}
    if all(said.values()):
        return Patients({name: patient or "" for name, patient in said.items()}, "the headers' comments")
    # Some may still be known; a patient of theirs must not be taken for a record of the same name.
    of = {n: n if c is None else f"{c[0]} {DATASETS[c[0]].patient(c[1])}" for n, c in zip(names, found, strict=True)}
    return Patients(of, "")


def _told(entries: Sequence[Entry], patients: str | Mapping[str, str]) -> Patients:
    """What `data.patients` says."""
    if isinstance(patients, str) and patients.lower().endswith(".csv"):
        path = Path(patients).expanduser().absolute()
        return _listed(entries, _table(path), str(path))
    if isinstance(patients, str):
        pattern = re.compile(patients)
        of = {entry.name: _first(pattern.search(entry.name)) for entry in entries}
        source = f"the records' names by {patients}"
    elif set(patients) == {"comment"}:
        pattern = re.compile(patients["comment"], re.IGNORECASE)
        of = {entry.name: _commented(entry, pattern) for entry in entries}
        source = f"the headers' comments by {patients['comment']}"
    else:
        return _listed(entries, patients, "data.patients")
    if lacking := [name for name, patient in of.items() if not patient]:
        raise DataError(f"data.patients: finds no patient of {_some(lacking)} in {source}.")
    return Patients({name: patient or "" for name, patient in of.items()}, source)


def _listed(entries: Sequence[Entry], table: Mapping[str, str], source: str) -> Patients:
    """A record is named by its path, or by the last part of it where no other record has that."""
    last = Counter(entry.name.rpartition("/")[2] for entry in entries)
    short = {name: patient for name, patient in table.items() if last[name] == 1}
    of = {entry.name: table.get(entry.name, short.get(entry.name.rpartition("/")[2], "")) for entry in entries}
    if lacking := [name for name, patient in of.items() if not patient]:
        raise DataError(f"{source}: names no patient of {_some(lacking)}.")
    return Patients(of, source)


def _table(path: Path) -> dict[str, str]:
    """A CSV of records and patients: columns of these names, or two columns without a head. All of it is text.

    Columns are parted by commas, semicolons or tabs, whichever the first line has most of.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            mark = max(",;\t", key=file.readline().count)
            file.seek(0)
            read = csv.reader(file, delimiter=mark)
            rows = [[cell.strip() for cell in row] for row in read if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'no CSV'}).") from None
    head = [cell.lower() for cell in rows[0]] if rows else []
    if "record" in head and "patient" in head:
        columns, rows = (head.index("record"), head.index("patient")), rows[1:]
    elif rows and all(len(row) == 2 for row in rows):
        columns = (0, 1)
    else:
        raise DataError(f"{path}: needs the columns record and patient, or two columns without a head.")
    table: dict[str, str] = {}
    for row in rows:
        if len(row) <= max(columns):
            raise DataError(f"{path}: a row has {len(row)} columns: {','.join(row)[:60]}.")
        record, patient = row[columns[0]].removesuffix(".hea"), row[columns[1]]
        if table.setdefault(record, patient) != patient:
            raise DataError(f"{path}: gives record {record} to two patients, {table[record]} and {patient}.")
    return table


def _commented(entry: Entry, pattern: re.Pattern[str]) -> str | None:
    found = (pattern.search(line) for line in entry.header.comments)
    return next((patient for match in found if (patient := _first(match))), None)


def _first(match: re.Match[str] | None) -> str | None:
    """The first group, or the whole where there is none."""
    if match is None:
        return None
    return (match[1] if match.re.groups else match[0]) or None


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
