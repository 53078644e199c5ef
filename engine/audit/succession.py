"""Who led which round: the order of successors before round 1, takeovers in that order, and nothing of anybody else."""

from collections.abc import Iterator
from typing import Any

from engine.audit import spec
from engine.audit.case import Case, Term
from engine.audit.report import Count, Note, Told, finding
from engine.audit.transactions import Transaction
from engine.ledger.chain.base import EMBEDDED_CHAIN

# Of these the contracts take only what whoever leads sends.
_LEADERS = ("entrust", "appoint", "alive", "open-round", "seal", "refuse", "close", "reputation")


def check(case: Case) -> Iterator[Told]:
    """Check the order against the configuration, each takeover against the order, and who sent what."""
    names = successors(case)
    order = [t for t in case.transactions if t.purpose == "appoint" and case.taken(t)]
    if not order:
        if names and case.rounds:
            message = "the configuration names successors, and the chain was told of none before round 1"
            yield finding("succession", "successors", list(names), None, message)
        if case.terms:
            message = "somebody took over, and nobody was appointed to"
            yield finding("succession", "take-over", None, case.terms[0].account, message)
        return
    yield from _check_order(case, names, order)
    yield from _check_terms(case, list(order[0].arguments.get("successors", ())))
    yield from _check_senders(case)
    yield from _tell(case, names)


def successors(case: Case) -> tuple[str, ...]:
    """Names of those who may take over, by the configuration."""
    ledger = case.config.get("ledger")
    named = ledger.get("successors") if isinstance(ledger, dict) else None
    return tuple(map(str, named)) if isinstance(named, list | tuple) else ()


def _check_order(case: Case, names: tuple[str, ...], order: list[Transaction]) -> Iterator[Told]:
    yield Count("successors", len(names))
    if len(order) > 1:
        message = "the order of successors was fixed more than once"
        yield finding("succession", "appoint", 1, len(order), message)
    given = order[0].arguments
    accounts = list(given.get("successors", ()))
    if len(accounts) != len(names):
        message = "the chain was told of other successors than the configuration names"
        yield finding("succession", "successors", len(names), len(accounts), message)
    for name, account in zip(names, accounts, strict=False):
        wanted = account
        if name.isdecimal():
            slot = int(name)
            wanted = case.federation.hospitals[slot] if slot in case.federation.slots else ""
        elif name.startswith("0x"):
            wanted = name
        if wanted != account:
            message = f"successor {name} is another account on the chain"
            yield finding("succession", "successors", wanted, account, message)
    promised = case.config.get("ledger", {}).get("patience")
    if given.get("patience") != promised:
        message = "the patience with a coordinator is another one on the chain than in the configuration"
        yield finding("succession", "patience", promised, given.get("patience"), message)
    keepers = [t.arguments.get("keeper") for t in case.transactions if t.purpose == "entrust" and case.taken(t)]
    if keepers != [case.contracts.get("SuccessionLedger")]:
        message = "the run is not entrusted to the contract that keeps the order"
        yield finding("succession", "keeper", case.contracts.get("SuccessionLedger"), keepers, message)


def named(names: tuple[str, ...], term: Term) -> str:
    """Who led in a term, by the configuration; "" where it names nobody."""
    return names[term.number - 1] if term.number <= len(names) else ""


def _check_terms(case: Case, accounts: list[str]) -> Iterator[Told]:
    before = 0
    for term in case.terms:
        where = {"round": term.round}
        yield Count("takeovers")
        place = term.number - 1
        wanted = accounts[place] if place < len(accounts) else None
        if term.account != wanted:
            message = f"{term.account} took over as a usurper: another account stands in place {place + 1} of the order"
            yield finding("succession", "account", wanted, term.account, message, **where)
        if term.number <= before:
            message = f"{term.account} took over out of order: place {before} has led already"
            yield finding("succession", "place", before + 1, term.number, message, **where)
        before = max(before, term.number)
    state = case.chain.state
    last = case.leader()
    if state is not None and state.federation["coordinator"] != last:
        message = "journal and chain disagree on who leads; expected is the chain, found the journal"
        yield finding("chain", "coordinator", state.federation["coordinator"], last, message, round=case.last)


def _check_senders(case: Case) -> Iterator[Told]:
    """Whoever sent what only the leader of that time may send: another's is a usurper's where it counts, and told where it was refused."""
    led, terms = case.coordinator, {term.seq: term for term in case.terms}
    for transaction in case.transactions:
        if transaction.seq in terms:
            led = terms[transaction.seq].account
        if transaction.purpose not in _LEADERS or transaction.receipt is None:
            continue
        sender = _sender(transaction)
        if sender == led:
            continue
        where: dict[str, Any] = {"round": transaction.round}
        if transaction.succeeded:
            message = f"{transaction.purpose} counts, and {sender} sent it, which did not lead then: a usurper"
            yield finding("succession", "sender", led, sender, message, **where)
        else:
            yield Note(
                f"{sender} sent {transaction.purpose} of round {transaction.round} after it had been replaced; the contract refused"
            )


def _sender(transaction: Transaction) -> str:
    try:
        return spec.sender(transaction.raw)
    except ValueError:
        return ""


def _tell(case: Case, names: tuple[str, ...]) -> Iterator[Told]:
    if not case.terms:
        return
    first, led = 1, f"the coordinator {case.coordinator}"
    for term in case.terms:
        yield Note(_led(led, first, term.round - 1))
        first, led = term.round, f"{named(names, term)} {term.account} (term {term.number})"
    yield Note(_led(led, first, case.last))
    if case.domain.chain_id == EMBEDDED_CHAIN:
        yield Note(
            "the embedded chain has no clock of its own: that it was time to take over is the word of whoever did"
        )


def _led(who: str, first: int, last: int) -> str:
    if last < first:
        return f"{who} led no round to its end"
    return f"{who} led round {first}" if first == last else f"{who} led rounds {first} to {last}"
