"""What others than the coordinator could see of a round: updates shown to the contract directly, hospitals that computed it again."""

from collections.abc import Iterator

from engine.audit import spec
from engine.audit.case import Case
from engine.audit.report import Count, Note, Told, finding

_NAMED = 10  # rounds that a note lists


def check(case: Case) -> Iterator[Told]:
    """Check that no update that was shown directly is missing, and tell whose word the models are."""
    yield from _check_shown(case)
    yield from _tell_unchecked(case)


def _check_shown(case: Case) -> Iterator[Told]:
    if not any(case.shown(number) for number in case.rounds):
        return  # the chain is asked for those of no other round
    state = case.chain.state
    if state is None:
        return
    decided = {t.round for t in case.transactions if t.purpose == "resolve" and t.succeeded}
    for number, entry in sorted(case.rounds.items()):
        shown = {slot: kept for (round, slot), kept in state.shown.items() if round == number}
        if len(shown) != case.shown(number):
            message = "the seal does not name the number of updates that were shown to the contract directly"
            yield finding("round", "submissions", len(shown), case.shown(number), message, round=number)
        for slot, (leaf, refused) in sorted(shown.items()):
            yield Count("direct submissions")
            there = entry.updates[slot].leaf if slot in entry.updates else spec.EMPTY_SLOT
            if there == leaf or number in decided:
                continue
            if refused:
                words = "its update was shown directly and left out, as the coordinator says that it was not given the vector"
                yield Note(f"round {number}, hospital {slot}: {words}")
            else:
                message = "the tree lacks an update that was shown to the contract directly: the round can be disputed"
                yield finding("round", "submission", leaf, there, message, round=number, hospital=slot)


def checked_rounds(case: Case) -> list[int]:
    """The rounds that a drawn hospital, or their leader, has computed again: one that has signed on, over their heads."""
    federation, found = case.federation, []
    for number, entry in sorted(case.rounds.items()):
        drawn = spec.drawn(entry.head, len(federation.hospitals), federation.checks)
        if federation.checks and entry.sitting is not None and entry.sitting.leader is not None:
            drawn.add(entry.sitting.leader)
        after = case.rounds.get(number + 1)
        signers = set(after.updates) if after is not None else set(case.results)
        if drawn & signers:
            found.append(number)
    return found


def _tell_unchecked(case: Case) -> Iterator[Told]:
    if not case.rounds:
        return
    if case.federation.checks == 0:
        yield Note(
            "no hospital was asked to compute a round again: besides this audit, models are the coordinator's word"
        )
        return
    checked = checked_rounds(case)
    yield Count("rounds computed again by hospitals", len(checked))
    missed = sorted(case.rounds.keys() - set(checked) - (set() if case.finished else {case.last}))
    if missed:
        shown = ", ".join(map(str, missed[:_NAMED])) + (", ..." if len(missed) > _NAMED else "")
        yield Note(f"{len(missed)} of {len(case.rounds)} rounds were computed again by no hospital: {shown}")
