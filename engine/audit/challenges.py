"""Challenges to masked updates: each call is about an update of the journal, in its turn, and signed by whom it must be; what came of them.

What an opening must be is judged in `opening.py`, by those to whom it is shown: the journal holds its digest alone. Nor does
it hold the reasons of an auditor who found fraud; who found none can have given none.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from engine.audit import spec
from engine.audit.case import Case
from engine.audit.records import check_signature
from engine.audit.report import Count, Note, Told, finding
from engine.audit.spec import Domain
from engine.audit.transactions import Transaction, compare_arguments

# Each call -> the one that must have come before it, and the contract accepted.
_AFTER = {"challenge": "", "answer": "challenge", "decide": "answer", "expire-challenge": "challenge"}
_HIDDEN = 2  # hospitals of a sum
_FRAUD, _NO_REASONS = "fraud", spec.json_hash([])


def check(case: Case) -> Iterator[Told]:
    """Check every call that the contract took, then tell what became of each challenge."""
    known: dict[tuple[Any, int], str] = {}
    for transaction in case.transactions:
        purpose, call = transaction.purpose, transaction.call
        if purpose not in _AFTER or call is None or transaction.known is None:
            continue
        right = call.function == transaction.known.function and type(transaction.round) is int
        if not transaction.succeeded or not right:
            continue  # a call of something else or in another round is told where all calls are checked
        arguments = transaction.arguments
        slot = (arguments["record"] if purpose == "answer" else arguments)["slot"]
        yield from _check_call(case, transaction, slot)
        place = (transaction.round, slot)
        if known.get(place, "") != _AFTER[purpose]:
            message = f"transaction {transaction.seq} is about a challenge that was not its turn"
            where = {"round": transaction.round, "hospital": slot}
            yield finding("transaction", "slot", _AFTER[purpose] or None, known.get(place), message, **where)
        known[place] = _FRAUD if purpose == "expire-challenge" or arguments.get("fraud") else purpose
    for (number, slot), how in sorted(known.items(), key=str):
        yield Count("challenges")
        if how == _FRAUD:
            message = "the hospital was found to have committed fraud: it opened something else than it signed, or nothing in time"
            yield finding("masks", "challenge", "an opening", _FRAUD, message, round=number, hospital=slot)
        elif how != "decide":
            what = "was not answered yet" if how == "challenge" else "waits for the auditor's decision"
            yield Note(f"round {number}: the challenge to the masked update of hospital {slot} {what}", unchecked=True)
    yield from _check_hidden(case, {place for place in known if place[0] in case.rounds})


def _check_hidden(case: Case, challenged: Set[tuple[Any, int]]) -> Iterator[Told]:
    """Two hospitals of each sum are never challenged; the contract counts over a whole round, whatever its sums."""
    for number in sorted({number for number, _ in challenged}):
        for said in case.rounds[number].maskings:
            left = [slot for slot in said.masked if (number, slot) not in challenged]
            if len(left) < _HIDDEN and len(left) < len(said.masked):
                message = "challenges leave fewer hospitals of a masked sum unopened than hide each other"
                yield finding("masks", "unopened", f"{_HIDDEN} or more", len(left), message, round=number)


def _check_call(case: Case, transaction: Transaction, slot: int) -> Iterator[Told]:
    where = {"round": transaction.round, "hospital": slot}
    entry = case.rounds.get(transaction.round)
    update = None if entry is None else entry.updates.get(slot)
    if entry is None or update is None:
        message = f"transaction {transaction.seq} is about an update that the journal does not hold"
        yield finding("transaction", "slot", "an update of the round", slot, message, **where)
    elif transaction.purpose == "challenge":
        yield from compare_arguments(transaction, {"leaf": update.leaf}, where)
        yield from _check_proof(transaction, slot, update.leaf or spec.ZERO, entry.root, where)
    elif transaction.purpose == "answer":
        yield from _check_answer(case, transaction, slot, where)
    elif transaction.purpose == "decide":
        fraud, reasons = transaction.arguments["fraud"], transaction.arguments["reasons"]
        if fraud == (reasons == _NO_REASONS):
            message = f"the reasons in transaction {transaction.seq} are not those of the decision"
            expected = "a reason" if fraud else _NO_REASONS
            yield finding("transaction", "reasons", expected, reasons, message, **where)


def _check_answer(case: Case, transaction: Transaction, slot: int, where: Mapping[str, Any]) -> Iterator[Told]:
    """The holder of the slot has signed the opening, and its place in the registry is shown."""
    record, holder = transaction.arguments["record"], case.holder_at(slot, transaction)
    organisation = case.federation.organisations[slot]
    expected = {
        "record": {"federation": case.federation.id, "round": transaction.round},
        "account": holder,
        "organisation": organisation,
    }
    yield from compare_arguments(transaction, expected, where)
    if "MaskLedger" in case.contracts:
        digest = spec.typed_digest("MaskOpening", record, Domain(case.domain.chain_id, case.contracts["MaskLedger"]))
        signature = transaction.arguments["signature"]
        yield from check_signature(digest, signature, holder, "transaction", "signature", where)
    leaf = spec.registry_leaf(slot, case.federation.hospitals[slot], organisation)
    yield from _check_proof(transaction, slot, leaf, case.registry, where)


def _check_proof(
    transaction: Transaction, slot: int, leaf: bytes, root: bytes, where: Mapping[str, Any]
) -> Iterator[Told]:
    proof: Sequence[bytes] = transaction.arguments["proof"]
    found = spec.root_behind(leaf, slot, proof)
    if found != root:
        message = f"proof in transaction {transaction.seq} does not lead to the recorded root"
        yield finding("transaction", "proof", root, found, message, **where)
