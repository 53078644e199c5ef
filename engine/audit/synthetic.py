"""Governance of synthetic data as it was written down: every step is signed by whom it must be, and was shown to the contract.

What the contract decided on each step is not computed here: see `outcomes.py`.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.audit import spec
from engine.audit.case import Case, Step
from engine.audit.records import check_signature
from engine.audit.report import Count, Told, finding
from engine.audit.spec import Domain, Record
from engine.audit.transactions import Transaction, compare_arguments
from engine.ledger.format import GOVERNED

_ABOUT_REQUESTS = ("preview", "review", "report", "expire")


def check(case: Case) -> Iterator[Told]:
    """Check each step with its transactions, then that no transaction shows the contract what the journal does not hold."""
    domain, asked, versions = case.governance, requests(case), 0
    known: set[int] = set()
    for step, transactions in shown(case):
        yield Count("governance")
        slot = slot_of(step, asked)
        known |= {transaction.seq for transaction in transactions}
        if not transactions:
            message = f"no transaction shows this {step.kind} to the contract"
            content = step.record.values if isinstance(step.record, Record) else step.record
            yield finding("synthetic", "record", "a transaction with the same values", content, message, hospital=slot)
        if step.kind in _ABOUT_REQUESTS and slot is None:
            message = f"the {step.kind} is about a request that the journal does not hold"
            yield finding("synthetic", "request", "one of the requests", step.id, message)
        if not isinstance(step.record, Record):
            versions += step.kind == "policy"
            yield from _check_plain(step, step.record, versions, transactions)
        elif domain is None:
            message = f"the contract could not have taken this {step.kind}: there is none for it"
            yield finding("synthetic", step.kind, "a step that is possible", step.id, message, hospital=slot)
        else:
            came = transactions[0] if transactions else None
            yield from _check_signed(case, step, step.record, domain, slot, came)
    for transaction in case.transactions:
        if transaction.purpose in GOVERNED and case.taken(transaction) and transaction.seq not in known:
            message = (
                f"transaction {transaction.seq} shows the contract a {transaction.purpose} that is not in the journal"
            )
            yield finding("synthetic", "record", "a row of the journal", None, message)


def requests(case: Case) -> dict[bytes, Record]:
    """Requests by their id, which is the digest that was signed; in the order in which they were made."""
    domain = case.governance
    records = [step.record for step in case.steps if step.kind == "request" and isinstance(step.record, Record)]
    return {} if domain is None else {record.digest(domain): record for record in records}


def slot_of(step: Step, asked: Mapping[bytes, Record]) -> int | None:
    """The hospital that a step is about; None for the policy and the reviewers, and where nobody knows the request."""
    if step.kind == "request":
        return int(step.record["slot"])
    request = request_of(step)
    return asked[request]["slot"] if request in asked else None


def request_of(step: Step) -> bytes:
    """Id of the request that a preview, a review, a report or an expiry is about; b"" for other steps."""
    if step.kind not in _ABOUT_REQUESTS:
        return b""
    return (
        bytes(step.record["request"]) if isinstance(step.record, Record) else spec.hex_bytes(step.record.get("request"))
    )


def shown(case: Case) -> list[tuple[Step, list[Transaction]]]:
    """Every step, and the transactions that show it to the contract: several where a chain forgot the first."""
    found: dict[tuple[str, str], list[Transaction]] = defaultdict(list)
    for transaction in case.transactions:
        if transaction.purpose in GOVERNED and case.taken(transaction):
            found[transaction.purpose, _asked(transaction)].append(transaction)
    return [(step, found[step.kind, _text(step.record)]) for step in case.steps]


def _asked(transaction: Transaction) -> str:
    """What a transaction asks for, as the row of its step holds it."""
    arguments = transaction.arguments
    match transaction.purpose:
        case "policy":
            return _text(arguments.get("policy"))
        case "reviewer":
            return _text({"account": arguments.get("reviewer"), "organisation": arguments.get("organisation")})
        case "expire":
            return _text({"request": arguments.get("id")})
    return _text(arguments.get(transaction.purpose))


def _text(values: Any) -> str:
    """Values as JSON in one way, bytes as 0x hex."""
    return json.dumps(_plain(values.members if isinstance(values, Record) else values), sort_keys=True)


def _plain(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {name: _plain(value) for name, value in values.items()}
    if isinstance(values, bytes):
        return "0x" + values.hex()
    return [_plain(value) for value in values] if isinstance(values, tuple | list) else values


def _check_plain(
    step: Step, content: Mapping[str, Any], version: int, transactions: Sequence[Transaction]
) -> Iterator[Told]:
    for name in ("signature", "sender"):
        value = getattr(step, name)
        if value is not None:
            yield finding("synthetic", name, None, value, f"a {step.kind} has no {name}")
    if step.kind == "policy":
        identity = spec.json_hash({"version": version, "policy": content})
        for transaction in transactions:
            yield from compare_arguments(transaction, {"digest": identity}, {"round": transaction.round})
    elif step.kind == "reviewer":
        identity = _address_word(content.get("account"))
    else:
        identity = spec.hash_of(content.get("request"))
    if spec.hash_of(step.id) != identity:
        yield finding("synthetic", "id", identity, step.id, f"the id is not that of the {step.kind}")


def _check_signed(
    case: Case, step: Step, record: Record, domain: Domain, slot: int | None, came: Transaction | None
) -> Iterator[Told]:
    where, digest = {"hospital": slot}, record.digest(domain)
    identity = digest if step.kind == "request" else record["request"]
    if step.kind == "request" and record["federation"] != case.federation.id:
        message = "the request belongs to another federation"
        yield finding("synthetic", "federation", case.federation.id, record["federation"], message, **where)
    if spec.hash_of(step.id) != identity:
        yield finding("synthetic", "id", identity, step.id, f"the id is not that of the {step.kind}", **where)
    signer = step.sender
    if step.kind == "review":
        if not isinstance(step.sender, str):
            message = "the review names no reviewer"
            yield finding("synthetic", "sender", "an address", step.sender, message, **where)
    else:
        if step.sender is not None:
            yield finding("synthetic", "sender", None, step.sender, f"a {step.kind} names no sender", **where)
        signer = case.holder_at(slot, came) if slot is not None and slot in case.federation.slots else None
    signature = spec.hex_bytes(step.signature)
    yield from check_signature(digest, signature, signer, "synthetic", "signature", where)


def _address_word(value: Any) -> bytes | None:
    try:
        return spec.encode("address", value)
    except ValueError:
        return None
