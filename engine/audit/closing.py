"""The end of a run: what hospitals and coordinator signed, that nothing is missing without a signed word on it, and what they bind."""

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from engine.audit import spec
from engine.audit.case import Case, Closing
from engine.audit.records import check_signature
from engine.audit.report import Count, Note, Told, finding
from engine.audit.settings import config_hash, federation_id, rule
from engine.ledger.format import ENDINGS, OF_LEDGER, UNBOUND


def check(case: Case) -> Iterator[Told]:
    """Check the hospitals' results, the coordinator's closing over them, and what a run that has ended must have."""
    for slot in sorted(case.results):
        yield from _check_result(case, slot)
    closing = case.closing
    if closing is None:
        if case.finished:
            message = "the run says that it has ended, but it was never closed"
            yield finding("closing", "record", "a closing", None, message)
        return
    yield from _check_record(case, closing)
    yield from _check_complete(case, closing)
    yield from _check_settings(case, closing)
    yield from _check_document(case, closing)
    if closing.record["code"] != code_digest():
        yield Note("the run was made by other code than that of the release that audits it")


def _check_result(case: Case, slot: int) -> Iterator[Told]:
    result, where = case.results[slot], {"hospital": slot}
    expected = {
        "federation": case.federation.id,
        "round": case.last,
        "slot": slot,
        "head": case.head(case.last),
        "content": spec.sha256(result.text.encode("utf-8", "replace")),
    }
    for name, value in expected.items():
        if result.record[name] != value:
            message = f"{name} of what the hospital signed at the end is not that of the run"
            yield finding("hospital", name, value, result.record[name], message, **where)
    yield Count("co-signatures")
    digest, who = result.record.digest(case.domain), case.holder(slot, case.last)
    yield from check_signature(digest, result.signature, who, "hospital", "signature", where)


def _check_record(case: Case, closing: Closing) -> Iterator[Told]:
    """The closing against the hospitals' results, the last head, and the coordinator's signature."""
    record, number = closing.record, closing.round
    leaves = [
        spec.result_leaf(case.results[slot].record, case.results[slot].signature, case.domain)
        if slot in case.results
        else spec.EMPTY_SLOT
        for slot in case.federation.slots
    ]
    missing = {str(slot): reason for slot, reason in sorted(closing.missing.items())}
    expected = {
        "federation": case.federation.id,
        "round": case.last,
        "head": case.head(case.last),
        "results": spec.tree_root(leaves),
        "missing": spec.json_hash(missing),
    }
    for name, value in expected.items():
        if record[name] != value:
            message = f"{name} of the closing is not what the run's rows lead to"
            yield finding("closing", name, value, record[name], message, round=number)
    if number != record["round"]:
        message = "the closing stands under another round than it was signed for"
        yield finding("closing", "round", record["round"], number, message, round=number)
    if case.ending == ENDINGS[0]:
        allowed = ", ".join(ENDINGS[1:])
        yield finding("closing", "state", allowed, record["state"], "the run ended in no known way", round=number)
    yield Count("closings")
    digest = record.digest(case.domain)
    yield from check_signature(digest, closing.signature, case.leader(), "closing", "signature", {"round": number})


def _check_complete(case: Case, closing: Closing) -> Iterator[Told]:
    """Nothing may be missing that nobody signed for: hospitals, rounds, files."""
    for slot in case.federation.slots:
        if slot not in case.results and slot not in closing.missing:
            message = "the hospital signed neither the last head nor its result, and nobody says why"
            yield finding("hospital", "signature", "a signature", None, message, hospital=slot)
        if slot in case.results and slot in closing.missing:
            message = "the hospital signed its result, but the closing says that it is missing"
            yield finding("closing", "missing", None, closing.missing[slot], message, hospital=slot)
    for slot in sorted(closing.missing):
        yield Note(f"hospital {slot} signed no result: {closing.missing[slot]}")
    wanted = _look(case.config, "federation", "rounds")
    if case.ending == "complete" and isinstance(wanted, int) and wanted != case.last:
        message = "the run is closed as complete, but it has not the rounds of its configuration"
        yield finding("closing", "rounds", wanted, case.last, message, round=closing.round)
    if case.ending == "pruned":
        yield Note(f"the run was closed as pruned after round {case.last} of {wanted}")
    if case.ending == "pruned" and isinstance(wanted, int) and wanted <= case.last:
        message = "the run is closed as pruned, but it has all rounds of its configuration"
        yield finding("closing", "state", "complete", "pruned", message, round=closing.round)
    folder = case.evidence.folder
    if folder is None or case.ending != "complete":
        return
    if not case.finished:
        gone = ", ".join(case.missing)
        words = (
            f"the run was closed as complete, and {gone} is not there: deleted, or its process ended before it wrote it"
        )
        yield Note(f"{words}; to go on with the run makes it again", unchecked=True)
    elif not case.evidence.manifest:
        yield finding("bundle", "file", "a bundle", None, "the run has ended and its bundle is missing")


def _check_settings(case: Case, closing: Closing) -> Iterator[Told]:
    """The text of the configuration, what identifies it, and the federation that follows from it and the data."""
    record, text = closing.record, case.evidence.config
    if not text and case.evidence.folder is None:
        return  # a bundle without its configuration is told as it is opened
    digest = spec.sha256(text.encode("utf-8", "replace"))
    if digest != record["config"]:
        message = "config.yaml is not the one that the run was closed with"
        yield finding("config", "file", record["config"], digest, message)
    hashed = config_hash(_as_used(case))
    if hashed != case.federation.config_hash:
        message = "config.yaml is not the configuration of the federation"
        yield finding("config", "config_hash", case.federation.config_hash, hashed, message)
    wanted = rule(case.config)
    if case.rule.name and wanted is not None and wanted != case.rule:
        message = "the journal's rule of aggregation does not follow from config.yaml"
        yield finding("meta", "rule", wanted, case.rule, message)
    named = federation_id(case.config, case.federation.config_hash, record["data"].hex())
    if named != case.federation.id:
        message = "the federation does not follow from configuration, data and name"
        yield finding("meta", "federation", named, case.federation.id, message)


def _as_used(case: Case) -> Mapping[str, Any]:
    """The configuration; where it names tables in the run's folder, with their paths as they were when it ran."""
    used, given = _look(case.reported, "config", "data"), _look(case.config, "data")
    if not isinstance(used, Mapping) or not isinstance(given, Mapping):
        return case.config
    data = {**given, "patients": used.get("patients")}
    if isinstance(given.get("other"), Mapping):
        data["other"] = {**given["other"], "patients": _look(used, "other", "patients")}
    return {**case.config, "data": data}


def _check_document(case: Case, closing: Closing) -> Iterator[Told]:
    """What the run reports, as a whole."""
    if not case.reported:
        return  # a result that cannot be read is told in `result.py`
    digest = spec.json_hash(bound(case.reported))
    if digest != closing.record["result"]:
        message = "the reported result is not the one that the run was closed with"
        yield finding("result", "digest", closing.record["result"], digest, message)
    data = _look(case.reported, "cohort", "digest")
    if data != closing.record["data"].hex():
        message = "the digest of the data is not the one that the run was closed with"
        yield finding("result", "cohort.digest", closing.record["data"].hex(), data, message)
    yield Count("results", 2)


_UNBOUND = frozenset(tuple(path.split(".")) for path in UNBOUND)
_ABOVE = frozenset(path[:depth] for path in _UNBOUND for depth in range(len(path)))  # what has something unbound in it


def bound(document: Mapping[str, Any]) -> Any:
    """What of a result is hashed: without the times in `UNBOUND` and the part on the ledger."""

    def kept(value: Any, path: tuple[str, ...]) -> Any:
        if path not in _ABOVE:
            return value
        if isinstance(value, Mapping):
            return {key: kept(each, (*path, key)) for key, each in value.items() if (*path, key) not in _UNBOUND}
        if isinstance(value, list):
            return [kept(each, (*path, "*")) for each in value]
        return value

    return kept({key: value for key, value in document.items() if key != OF_LEDGER}, ())


@cache
def code_digest() -> bytes:
    """SHA-256 over names and bytes of the sources of this package."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256(b"PulseLedger code 1")
    sources = [path for path in package.rglob("*") if path.suffix in (".py", ".json", ".cpp", ".txt")]
    for path in sorted(sources):
        content = path.read_bytes()
        digest.update(f"|{path.relative_to(package).as_posix()}|{len(content)}|".encode())
        digest.update(content)
    return digest.digest()


def _look(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
