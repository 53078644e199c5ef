"""The contracts' state of a run after all transactions, against the journal."""

from collections.abc import Iterator, Mapping

from engine.audit import spec
from engine.audit.case import Case
from engine.audit.report import Count, Note, Told, finding
from engine.audit.reputation import applied


def check(case: Case) -> Iterator[Told]:
    """Check head, model and reputations, as far as the chain could be asked for them."""
    yield from case.chain.told
    state = case.chain.state
    if state is None:
        return
    last = case.last
    if case.pending in case.seals.get(last, []) and state.federation["round"] == last - 1:
        last -= 1
    expected = {
        "head": case.head(last),
        "model": case.model_before(last + 1),
        "configHash": case.federation.config_hash,
        "registryRoot": case.registry,
        "round": last,
        "closing": spec.ZERO if case.closing is None else case.closing.record.digest(case.domain),
    }
    if case.pending is not None and case.pending.purpose == "close" and not any(state.federation["closing"]):
        del expected["closing"]
    for name, value in expected.items():
        there = state.federation[name]
        if there != value:
            message = f"journal and chain disagree on {name}; expected is the chain, found the journal"
            yield finding("chain", name, there, value, message, round=last)
    yield from _tell_finality(case, state.federation["finalized"])
    for slot, reputation in sorted(applied(case).items()):
        yield Count("reputations")
        held = state.reputations.get(slot)
        if held != reputation:
            message = "journal and chain disagree on a reputation; expected is the journal"
            yield finding("scores", "reputation", reputation, held, message, hospital=slot)


def _tell_finality(case: Case, final: int) -> Iterator[Told]:
    """A run that has ended is sealed at first, and final after the window for disputes."""
    said = case.reported.get("ledger")
    if isinstance(said, Mapping) and said.get("final") is True and final < case.last:
        message = "the result says that all rounds are final, and the chain does not"
        yield finding("result", "ledger.final", False, True, message)
    if case.finished and final < case.last:
        words = f"round {case.last} is" if final + 1 == case.last else f"rounds {final + 1} to {case.last} are"
        yield Note(
            f"{words} sealed, not final: disputes are possible for {case.federation.window} s after the last "
            "seal, and until `pulseledger ledger finalize`"
        )
