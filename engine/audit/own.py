"""A user's own parts: copies of their source against their digests, which are in what was signed, and what is not recomputed.

Code that the evidence names is not executed. The auditor may allow it (`Known.execute`); then an own rule of aggregation is
what its copy in the folder computes, and every model is computed again with it.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from engine.audit.case import Case
from engine.audit.report import Count, Note, Reading, Told, finding
from engine.audit.rules import Combine
from engine.files import read_bytes
from engine.ledger.format import OWN_RULE

_NAMED = re.compile(r"([^/\n]+):(\w+)@([0-9a-f]{64})")
_FILES, _BYTES = 200, 4_000_000
# keys of parts whose built-in ones are computed again
_RECOMPUTED = {"schedule.mode": "schedule", "selection.policy": "selection"}


class Part(NamedTuple):
    """An own part as a configuration names it."""

    key: str
    title: str
    digest: str


def parts(config: Mapping[str, Any]) -> list[Part]:
    """The own parts of a configuration: each the value of a key of a section."""
    found = []
    for section, values in config.items():
        for key, value in values.items() if isinstance(values, Mapping) else ():
            if isinstance(value, str) and (named := _NAMED.fullmatch(value)):
                found.append(Part(f"{section}.{key}", f"{named[1]}:{named[2]}", named[3]))
    return found


def check(case: Case) -> Iterator[Told]:
    """Check the copy of every own part, and say which of them stand in the place of something that is computed again."""
    for part in parts(case.config):
        where = f"{part.key} {part.title}, digest {part.digest}"
        if part.key in _RECOMPUTED:
            yield Note(
                f"own part, not recomputed here: {_RECOMPUTED[part.key]} {part.title}, digest {part.digest}", True
            )
        folder = case.evidence.folder
        if folder is None:
            yield Note(f"a bundle has no copy of own parts: {where}")
            continue
        home = case.evidence.file(f"own/{part.digest}")
        if not home.is_dir():
            yield Note(f"there is no copy of an own part: {where}")
            continue
        yield Count("own parts")
        digest = source_digest(home)
        if digest != part.digest:
            yield finding("own", part.key, part.digest, digest, f"the copy of {part.title} is not the source that ran")


def source_digest(home: Path) -> str | None:
    """SHA-256, hex, over names and bytes of the Python files of a folder; None where they cannot be read."""
    digest = hashlib.sha256(b"PulseLedger own part 1")
    try:
        paths = {path.relative_to(home).as_posix(): path for path in home.rglob("*.py") if path.is_file()}
        for name, path in sorted(paths.items())[: _FILES + 1]:
            content = read_bytes(path, _BYTES)
            digest.update(f"|{name}|{len(content)}|".encode() + content)
    except (OSError, ValueError):
        return None
    return digest.hexdigest()


def rule_of(case: Case) -> Reading[Combine | None]:
    """The own rule of aggregation, executed if that is allowed; None for any other, and where it is not executed."""
    rule = case.rule
    if rule.name != OWN_RULE:
        return None
    named = _NAMED.fullmatch(rule.part)
    what = f"rule {named[1]}:{named[2]}, digest {named[3]}" if named else f"rule {rule.part!r:.80}"
    configured = case.config.get("aggregation")
    if isinstance(configured, Mapping):
        for key, value in (("rule", rule.part), ("parameters", rule.parameters)):
            if configured.get(key) != value:
                message = "the rule of the journal is not that of the configuration"
                yield finding("meta", f"rule.{key}", configured.get(key), value, message)
    if case.known.execute is None:
        yield Note(f"own part, not recomputed here: {what} (--execute-own executes its copy in the folder)", True)
        return None
    try:
        return case.known.execute(case.evidence.folder, rule.part, rule.parameters)
    except Exception as error:  # of somebody else's code
        yield Note(f"own part, not recomputed here: {what}: {error}", True)
        return None
