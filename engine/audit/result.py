"""What a run reports of itself: final model, result.json, and the result in the bundle, against the ledger."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from engine.audit import limits, spec
from engine.audit.case import Case
from engine.audit.closing import bound
from engine.audit.records import read_tensors
from engine.audit.report import Count, Note, Told, finding
from engine.audit.reputation import standing_after
from engine.audit.succession import named, successors
from engine.audit.witnesses import checked_rounds
from engine.encoding import read_json
from engine.files import read_bytes
from engine.ledger.chain.contracts import CONTRACTS, artefact_digest
from engine.ledger.format import BASE_REPUTATION, OF_LEDGER, UNBOUND

RESULT, MODEL = "result.json", "model.safetensors"
_ABSENT = object()


def check(case: Case) -> Iterator[Told]:
    """Check the files of a run that has ended; a run that has not has none of them."""
    folder = case.evidence.folder
    if folder is not None:
        yield from _check_model(case, case.evidence.file(MODEL))
    yield from _check_manifest(case)
    if folder is not None:
        yield from _check_result(case, case.evidence.file(RESULT))


def _check_model(case: Case, path: Path) -> Iterator[Told]:
    if not path.exists():
        if case.ending == "pruned":
            return
        if case.finished:
            yield finding("model", "file", MODEL, None, "the final model is missing")
        elif not case.closed:
            yield Note(f"there is no {MODEL}: the run did not finish")
        return
    try:
        most = 4 * case.federation.parameters + limits.HEADER
        found = spec.tensors_hash(read_tensors(read_bytes(path, most)))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        yield finding("model", "file", "readable tensors", "none", f"{MODEL} is damaged: {error}")
        return
    if found != case.last_model:
        message = f"{MODEL} is not the model that the last round recorded"
        yield finding("model", "model_hash", case.last_model, found, message, round=case.last)


def _check_manifest(case: Case) -> Iterator[Told]:
    manifest = case.evidence.manifest
    if not manifest:
        return  # of a run that has ended, `closing.py` tells it
    result = manifest.get("result")
    if not isinstance(result, dict):
        yield finding("bundle", "result", "an object", result, "the manifest has no result")
        return
    digest = (spec.json_hash(result) or b"").hex()
    if manifest.get("result_digest") != digest:
        message = "the digest of the result is not that of the result"
        yield finding("bundle", "result_digest", digest, manifest.get("result_digest"), message)
    expected = {"model_hash": case.last_model, "config_hash": case.federation.config_hash}
    yield from _compare(result, expected, "bundle")
    builds = manifest.get("contracts")
    for name in CONTRACTS:
        if not isinstance(builds, dict) or builds.get(name) != artefact_digest(name):
            yield Note(f"the run was made with another build of {name}")


def _check_result(case: Case, path: Path) -> Iterator[Told]:
    if not path.exists() and (case.ending == "pruned" or not case.finished):
        if case.ending == "none":
            yield Note(f"there is no {RESULT}: the run did not finish")
        return
    try:
        result = read_json(case.evidence.text(RESULT))
    except (OSError, ValueError) as error:
        yield finding("result", "file", "readable JSON", "none", f"{RESULT} is damaged: {error}")
        return
    expected = _expected(case)
    yield from _compare(result, expected, "result")
    yield from _check_part(result, {*expected, *UNBOUND})
    kept, found = case.evidence.manifest.get("result"), bound(result) if isinstance(result, dict) else {}
    for name, value in kept.items() if isinstance(kept, dict) else ():
        there = found.get(name)
        if there != value:
            message = f"{name} in {RESULT} is not what the bundle holds"
            yield finding("result", name, _short(value), _short(there), message)


def _check_part(result: Any, known: set[str]) -> Iterator[Told]:
    """The part on the ledger is not hashed: nothing may stand in it that is not counted again, or listed as not bound."""
    part = result.get(OF_LEDGER) if isinstance(result, Mapping) else None
    for name, value in sorted(part.items()) if isinstance(part, Mapping) else ():
        if f"{OF_LEDGER}.{name}" not in known and value is not None:
            message = f"{name} of the result's part on the ledger is nothing that the ledger holds"
            yield finding("result", f"{OF_LEDGER}.{name}", None, value, message)


def _expected(case: Case) -> dict[str, Any]:
    """Dotted name of each value that follows from the ledger."""
    expected = {
        "model_hash": case.last_model,
        "config_hash": case.federation.config_hash,
        "ledger.head": case.head(case.last),
        "ledger.contract": case.domain.contract,
        "ledger.chain_id": case.domain.chain_id,
        "ledger.backend": case.backend.get("name"),
        "ledger.updates": sum(len(entry.updates) for entry in case.rounds.values()),
        "ledger.rounds": len(case.rounds),
        "ledger.checked": len(checked_rounds(case)),
        "ledger.cosigned": len(case.results),
        "ledger.gas_per_round": _gas_per_round(case),
        **_spent(case),
    }
    if case.closing is not None:
        expected["ledger.closing"] = case.closing.record.digest(case.domain)
    if case.terms:
        names = successors(case)
        expected["ledger.terms"] = [
            {"term": t.number, "name": named(names, t), "account": t.account, "round": t.round} for t in case.terms
        ]
    if any(entry.verdicts for entry in case.rounds.values()):
        standing = standing_after(case)
        expected["ledger.hospitals"] = [
            {
                "id": slot,
                "reputation": standing.reputations.get(slot, BASE_REPUTATION),
                "reward": standing.rewards.get(slot, 0),
            }
            for slot in case.federation.slots
        ]
    return expected


def _gas_per_round(case: Case) -> float:
    seals = [t.receipt.gas for ts in case.seals.values() for t in ts if t.succeeded and t.receipt is not None]
    return sum(seals) / len(seals) if seals else 0.0


def _spent(case: Case) -> dict[str, int]:
    """Transactions and gas at the end of the run; what was sent after it does not count.

    The number of transactions tells where the end is: nowhere before the one that closed the run.
    """
    closed = max((t.seq for t in case.transactions if t.purpose == "close" and t.succeeded), default=0)
    told = case.reported.get("ledger")
    wanted = told.get("transactions") if isinstance(told, Mapping) else None
    count = gas = 0
    ends: dict[int, int] = {}  # transactions -> gas, at every place where the run may have ended
    for transaction in case.transactions:
        if transaction.receipt is not None:
            count, gas = count + 1, gas + transaction.receipt.gas
        if transaction.seq >= closed:
            ends.setdefault(count, gas)
    ends = ends or {0: 0}
    count = wanted if wanted in ends and type(wanted) is int else min(ends)
    return {"ledger.transactions": count, "ledger.gas_total": ends[count]}


def _compare(result: Any, expected: Mapping[str, Any], record: str) -> Iterator[Told]:
    for name, value in expected.items():
        found: Any = result
        for key in name.split("."):
            found = found.get(key, _ABSENT) if isinstance(found, Mapping) else _ABSENT
        yield Count("results")
        same = _plain_hex(found) == value.hex() if isinstance(value, bytes) else found == value
        if not same:
            there = None if found is _ABSENT else found
            yield finding(record, name, value, there, f"{name} of the result is not what the ledger holds")


def _plain_hex(value: Any) -> str | None:
    return value.lower().removeprefix("0x") if isinstance(value, str) else None


def _short(value: Any) -> str:
    words, digest = json.dumps(value), spec.json_hash(value)
    return words if len(words) <= 100 or digest is None else f"sha256 {digest.hex()}"
