"""The records that a study is of: their digest in each condition, kept from its beginning on.

Trials of one study are compared, so all of them must see the same records. A resume with others is refused, the digests are
part of what the study registers, and the audit holds each result's digest against them.
"""

import json
from pathlib import Path

from engine.data.load import digest
from engine.encoding import read_json
from engine.errors import DataError, StudyError
from engine.files import read_text, write_text
from sweeps.space import StudyConfig, conditions, resolve

RECORDS = "records.json"


def require_same(study: StudyConfig, folder: Path) -> None:
    """Keeps the digests of a study's records in its folder, or compares them with those that are kept.

    Records that lie at sites (`execution.sites`) are not at hand where the driver runs, and are not compared.

    Raises:
        DataError: the records of a condition cannot be read.
        StudyError: they are not those that the study began with.
    """
    if study.execution.sites:
        return
    now, known = _digests(study), read_records(folder)
    for label, value in now.items():
        if known.setdefault(label, value) != value:
            where = f" of condition {label}" if len(now) > 1 else ""
            raise StudyError(
                f"{folder}: the records{where} have changed since the study began (beats {known[label][:12]}, now "
                f"{value[:12]}); put them back, or begin in another folder."
            )
    write_text(folder / RECORDS, json.dumps(known, indent=1))


def read_records(folder: Path) -> dict[str, str]:
    """Condition -> digest of its records; empty for a study that keeps none.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / RECORDS
    if not path.exists():
        return {}
    try:
        found = read_json(read_text(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: is not readable ({error}).") from None
    if not isinstance(found, dict) or not all(isinstance(digest, str) for digest in found.values()):
        raise DataError(f"{path}: is not readable (it is no mapping of conditions to digests).")
    return found


def _digests(study: StudyConfig) -> dict[str, str]:
    found: dict[str, str] = {}
    known: dict[str, str] = {}  # conditions seldom differ in their records
    for condition in conditions(study):
        data = resolve(study, condition, {}, 0).data
        key = data.model_dump_json()
        if key not in known:
            known[key] = digest(data)
        found[condition.label] = known[key]
    return found
