"""What each transaction of a run asks for, against the rows that it belongs to.

Steps of governance and changes of keys are compared where their rows are, in `synthetic.py` and `registry.py`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from engine.audit import spec
from engine.audit.case import Case
from engine.audit.report import Note, Told, finding
from engine.audit.transactions import Transaction, check_transaction, compare_arguments
from engine.ledger.chain.base import EMBEDDED_CHAIN
from engine.ledger.chain.embedded import EMBEDDED_TIME, patience_of, seconds_to
from engine.ledger.format import GOVERNED, MEAN, NO_ROUND, PURPOSES, REWARDS, SCORES

_OF_NO_ROUND = ("open", "grant", "entrust", "appoint", *GOVERNED)
# The roles that this program gives to more accounts than it opens a ledger with; the contract keeps them apart from others.
_AUDITOR, _REVIEWER = (spec.keccak256(role) for role in (b"AUDITOR_ROLE", b"REVIEWER_ROLE"))
_WITH_HEADER = ("seal", "reputation", "claim", "judge", "resolve", "challenge")


def check(case: Case) -> Iterator[Told]:
    """Check every transaction, then that the federation was opened and every round sealed exactly once."""
    for sealed, transaction in case.in_order:
        about = _round(transaction, sealed)
        if about is not None and about != transaction.round:
            message = f"transaction {transaction.seq} is about another round"
            yield finding("transaction", "round", about, transaction.round, message, round=about)
        where = {"round": transaction.round}
        worth = yield from check_transaction(transaction, PURPOSES, case.domain, case.contracts, where)
        if worth:
            yield from _check_arguments(case, transaction)
    if case.pending is not None:
        what = f"{case.pending.purpose} of round {case.pending.round}"
        yield Note(
            f"transaction {case.pending.seq} ({what}) is recorded, but the run stopped before the chain had answered"
        )
    for number in sorted(case.rounds):
        yield from _check_seal(case, number)
    closed = sum(case.taken(t) for t in case.transactions if t.purpose == "close")
    if closed != (case.closing is not None):
        message = "the chain must have been told once how the run ended, or not at all if it has not"
        yield finding("closing", "transaction", int(case.closing is not None), closed, message)
    yield from _check_deadlines(case)
    if case.rounds and sum(t.purpose == "open" and t.succeeded for t in case.transactions) != 1:
        message = "the federation must have been opened exactly once"
        yield finding("transaction", "purpose", "one open", "none or several", message, round=0)


def _round(transaction: Transaction, sealed: int) -> int | None:
    """The round that a transaction belongs to by what it asks for, when `sealed` rounds came before it."""
    if transaction.creates or transaction.purpose in _OF_NO_ROUND:
        return 0
    if transaction.purpose in ("mark", "finalize"):
        return sealed
    if transaction.purpose in ("refuse", "abort", "alive", "take-over"):
        return sealed + 1
    arguments = transaction.arguments
    for name in ("header", "rotation", "record"):
        if isinstance(arguments.get(name), Mapping):
            return int(arguments[name]["round"])
    if isinstance(arguments.get("headers"), tuple) and arguments["headers"]:
        return int(arguments["headers"][0]["round"])
    return int(arguments["round"]) if "round" in arguments else None


def _check_arguments(case: Case, transaction: Transaction) -> Iterator[Told]:
    purpose, where = transaction.purpose, {"round": transaction.round}
    expected: dict[str, Any] = {}
    if "federation" in transaction.arguments:
        expected["federation"] = case.federation.id
    if purpose == "open":
        expected |= _opening(case)
    elif purpose == "open-round":
        expected["round"] = transaction.round
    elif purpose == "grant":
        yield from _check_grant(transaction)
    elif purpose in ("dispute", "dispute-update", "overspent"):
        yield from _check_headers(case, transaction)
    elif purpose == "close":
        expected |= {"round": case.last, "lastHead": case.head(case.last)}
        expected["closing"] = None if case.closing is None else case.closing.record.digest(case.domain)
    elif purpose in _WITH_HEADER:
        header = case.header(transaction.round)
        if header is None:
            message = f"transaction {transaction.seq} is about a round that the journal does not hold"
            yield finding("transaction", "round", transaction.round, None, message, **where)
            return
        expected["header"] = header
        digests = case.rounds[transaction.round].digests
        roots = {"reputation": ("scoresRoot", SCORES), "claim": ("rewardsRoot", REWARDS)}
        if purpose in roots:
            argument, name = roots[purpose]
            expected[argument] = digests.get(name)
    yield from compare_arguments(transaction, expected, where)


def _check_grant(transaction: Transaction) -> Iterator[Told]:
    """Nobody but the coordinator that opened the run may seal its rounds; who else decides disputes is told."""
    role, account = (transaction.arguments.get(name) for name in ("role", "account"))
    if role == _AUDITOR:
        yield Note(f"the admin made {account} an auditor, who decides disputes")
    elif role != _REVIEWER:
        message = "the admin gave a role away that only the accounts of the beginning have"
        yield finding("transaction", "role", "AUDITOR_ROLE or REVIEWER_ROLE", role, message, round=transaction.round)


def _check_headers(case: Case, transaction: Transaction) -> Iterator[Told]:
    """The rounds that a dispute shows, from the disputed one on."""
    for given in transaction.arguments.get("headers", ()):
        header = case.header(given["round"])
        if header is None:
            message = f"transaction {transaction.seq} is about a round that the journal does not hold"
            yield finding("transaction", "round", given["round"], None, message, round=transaction.round)
        else:
            yield from compare_arguments(transaction, header, {"round": transaction.round}, given)


def _check_deadlines(case: Case) -> Iterator[Told]:
    """Every round has the deadline that the configuration promises, by the clock of the chain; after the last none need come.

    The embedded chain's clock follows from its transactions, the first three of which are sent together. That of a node is
    its own, and goes back where blocks are replaced or a node restarts empty that was ahead of the time: said, and no finding.
    """
    promised, wanted = (_look(case.config, *key) for key in (("ledger", "deadline"), ("federation", "rounds")))
    if type(promised) is not int:
        return
    embedded, opened = case.domain.chain_id == EMBEDDED_CHAIN, False
    now, patience, back = EMBEDDED_TIME if embedded else 0, 0, []
    for transaction in case.transactions:
        name = {"open-round": "deadline", "seal": "next"}.get(str(transaction.purpose), "")
        found = transaction.arguments.get(name)
        if type(found) is int:
            first, opened = not opened and embedded, True
            earliest = (EMBEDDED_TIME if first else now) + promised if promised else 0
            none = found == NO_ROUND and transaction.purpose == "seal" and transaction.round == wanted
            if not embedded and promised and promised <= found < NO_ROUND:
                back += [str(transaction.round + (name == "next"))] if found < earliest else []
                now = found - promised
            elif found != earliest and not none:
                message = "the deadline is not what the configuration promises for the next round"
                yield finding("transaction", name, earliest, found, message, round=transaction.round)
        if embedded and transaction.call is not None:
            now += seconds_to(transaction.call.data, patience)
            patience = (case.taken(transaction) and patience_of(transaction.call.data)) or patience
    if back:
        yield Note(f"the chain's clock went back before the opening of round {', '.join(back)}, and deadlines with it")


def _look(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _opening(case: Case) -> dict[str, Any]:
    federation = case.federation
    return {
        "configHash": federation.config_hash,
        "registryRoot": case.registry,
        "genesisModel": federation.genesis_model,
        "slots": len(federation.hospitals),
        "quorum": federation.quorum,
        "window": federation.window,
        "staleness": case.rule.settings.get("max_staleness", 0) if case.rule.name == MEAN else 0,
    }


def _check_seal(case: Case, number: int) -> Iterator[Told]:
    taken = sum(case.taken(transaction) for transaction in case.seals.get(number, []))
    if taken != 1:
        message = "the round must have exactly one successful transaction"
        yield finding("transaction", "receipt", 1, taken, message, round=number)
