"""Two copies of a run against each other: what one signer signed twice, in two versions, is proof against it."""

from collections.abc import Iterator

from engine.audit import spec
from engine.audit.case import Case, Update
from engine.audit.report import Count, Note, Told, finding
from engine.audit.spec import Record


def check(first: Case, second: Case) -> Iterator[Told]:
    """Compare what both hold: rounds, and the end."""
    both = sorted(first.rounds.keys() & second.rounds.keys())
    yield Count("rounds", len(both))
    yield Count("updates", 0)
    for number in both:
        yield from _check_round(number, first, second)
    for number in sorted(first.rounds.keys() ^ second.rounds.keys()):
        yield Note(f"round {number} is in one copy only", unchecked=True)
    yield from _check_end(first, second)


def _check_round(number: int, first: Case, second: Case) -> Iterator[Told]:
    a, b = first.rounds[number], second.rounds[number]
    for slot in sorted(a.updates.keys() & b.updates.keys()):
        one, two = a.updates[slot], b.updates[slot]
        yield Count("updates")
        if one.record is None or two.record is None or one.record == two.record:
            continue
        if _sent(first, number, slot, one) and _sent(second, number, slot, two):
            message = "the hospital signed two different updates for one round"
            yield finding("equivocation", "update", one.leaf, two.leaf, message, round=number, hospital=slot)
    led = first.leader(number), second.leader(number)
    if led[0] != led[1]:
        message = "the round was led by one account in one copy and by another in the other: two went on with one run"
        yield finding("succession", "leader", *led, message, round=number)
    if a.head != b.head:
        message = "the coordinator sealed the round in two versions"
        yield finding("equivocation", "head", a.head, b.head, message, round=number)


def _check_end(first: Case, second: Case) -> Iterator[Told]:
    """What hospitals and coordinator signed at the end; a copy of an earlier day has none of it."""
    for slot in sorted(first.results.keys() & second.results.keys()):
        yield Count("co-signatures")
        one, two = first.results[slot], second.results[slot]
        holders = first.holder(slot, first.last), second.holder(slot, second.last)
        a = _signed(first, one.record, one.signature, holders[0])
        if one.record != two.record and a and _signed(second, two.record, two.signature, holders[1]):
            message = "the hospital signed two different results at the end"
            yield finding("equivocation", "result", one.text, two.text, message, hospital=slot)
    if first.closing is None or second.closing is None:
        if first.closing is not second.closing:
            yield Note("the end of the run is in one copy only", unchecked=True)
        return
    yield Count("closings")
    ours, other = first.closing.record, second.closing.record
    if ours == other:
        return
    ends, whose = ((first, first.closing), (second, second.closing)), {first.leader(), second.leader()}
    signed = all(_signed(case, end.record, end.signature, case.leader()) for case, end in ends)
    record = "equivocation" if signed and len(whose) == 1 else "closing"
    message = "the run was closed in two versions"
    yield finding(record, "closing", ours.digest(first.domain), other.digest(second.domain), message)


def _sent(case: Case, number: int, slot: int, update: Update) -> bool:
    """Whether an update is signed by the holder of its slot."""
    assert update.record is not None
    return _signed(case, update.record, update.signature, case.holder(slot, number))


def _signed(case: Case, record: Record, signature: bytes, who: str) -> bool:
    try:
        return spec.signer(record.digest(case.domain), signature) == who
    except ValueError:
        return False
