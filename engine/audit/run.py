"""The audit of a run, from its folder or its bundle alone, and of two copies of a run against each other.

    read      every row of the journal is read once into a frozen case: form, types, no gaps               reading.py
    1         rounds: signatures, openings, trees, annexes, heads, receipts                              rounds.py
    2         changes of keys: signed by both keys, shown to the contract                                 registry.py
    3         verdicts follow from scores, rewards from verdicts                                        reputation.py
    4         steps of governance: signed, and each shown to the contract; looser policies       synthetic.py, policy.py
    5         transactions: each calls the right contract for what the journal holds                         calls.py
    6         the chain after all transactions holds the journal's head, model and reputations               state.py
    7         decisions on synthetic data as the contract made them: rounds, quotas, result, beats        outcomes.py
    7         previews: before the grant, as they were signed, never trained on                         previews.py
    8         quality reports, real counts and reasons in the folder are those that were signed            quality.py
    9         vectors are those that were signed, and every model is computed again from them              vectors.py
    10        the end: signed by hospitals and coordinator, nothing missing, configuration, data           closing.py
    11        final model, result.json and the bundle's result are those of the ledger                      result.py
    12        every reported number follows from what hospitals signed at the end                         numbers.py
    13        hospitals of every round are those that the seed draws                                      selection.py
    13        committees: drawn from the models, committed before they revealed, verdicts from scores          committee.py
    13        masked sums: groups drawn from the models, every step signed, no secret told but those of masks      secure.py
    14        updates shown to the contract directly; hospitals that computed rounds again             witnesses.py
    15        copies of a user's own parts are the sources whose digests were signed                        own.py
    16        privacy: mechanism, account and budget that were signed; epsilons computed again          privacy.py
    17        the virtual clock: who came in, who did not, in what time, from which models              clock.py
    18        who led which round: takeovers in the order of before round 1, nothing of anybody else     succession.py

Every link is held against its neighbours as they are recorded, so one changed value gives findings where it is and not in
every round after it. Together the links reach from the signatures of the hospitals to the head on the chain and to the
final model. A check depends on the case alone, never on another check, so any of them can be left out.

What an audit of one copy cannot see: whoever holds all hospital keys can write a different history that is consistent in
itself. Every hospital signs the head before it; `compare` holds two copies against each other, and the tracker keeps the
head, too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from engine.audit import (
    calls,
    clock,
    closing,
    committee,
    copies,
    numbers,
    outcomes,
    own,
    policy,
    previews,
    privacy,
    quality,
    registry,
    reputation,
    result,
    rounds,
    secure,
    selection,
    state,
    succession,
    synthetic,
    vectors,
    witnesses,
)
from engine.audit.case import Case
from engine.audit.evidence import Evidence
from engine.audit.execution import Execute, execute_run
from engine.audit.known import NOTHING, Known
from engine.audit.known import compare as pinned
from engine.audit.reading import read
from engine.audit.report import Note, Report, Told, collected, text
from engine.ledger.format import UNBOUND

Check = Callable[[Case], Iterator[Told]]

CHECKS: tuple[Check, ...] = (
    rounds.check,  # 1
    registry.check,  # 2
    reputation.check,  # 3
    synthetic.check,  # 4
    policy.check,  # 4
    calls.check,  # 5
    state.check,  # 6
    outcomes.check,  # 7
    previews.check,  # 7
    quality.check,  # 8
    vectors.check,  # 9
    closing.check,  # 10
    result.check,  # 11
    numbers.check,  # 12
    selection.check,  # 13
    committee.check,  # 13
    secure.check,  # 13
    witnesses.check,  # 14
    own.check,  # 15
    privacy.check,  # 16
    clock.check,  # 17
    succession.check,  # 18
)


def audit(
    path: Path, checks: Sequence[Check] = CHECKS, known: Known = NOTHING, execute: Execute = execute_run
) -> Report:
    """Recompute a run's ledger from its folder or its bundle. Nothing is changed.

    Args:
        known: what the auditor knows from elsewhere: the node to ask, a head, a contract.
        execute: asks the chain; whoever audits many copies of a run may give one that does equal work once.

    Raises:
        LedgerError: there is neither, or a file is so damaged that no journal can be read from it.
    """
    report = Report()
    with Evidence(Path(path)) as evidence:
        case = _read(evidence, report)
        if case is None:
            return report
        case = replace(case, known=known, execute=execute)
        report.counts |= {"rounds": len(case.rounds), "updates": _updates(case), "transactions": len(case.transactions)}
        for check in checks:
            for told in check(case):
                report.add(told)
        heads = {case.genesis_head: "round 0", **{one.head: f"round {n}" for n, one in sorted(case.rounds.items())}}
        for told in pinned(known, case.domain, heads, [case.head(case.last)]):
            report.add(told)
        report.finished = case.finished
        report.head = text(case.head(case.last))
        report.unbound = UNBOUND
        report.unread = evidence.unread()
    return report


def compare(path: Path, other: Path) -> Report:
    """Hold two copies of a run against each other: what one signer signed twice, in two versions, is proof against it.

    Raises:
        LedgerError: a copy cannot be read.
    """
    report = Report()
    with Evidence(Path(path)) as here, Evidence(Path(other)) as there:
        first, second = _read(here, report), _read(there, report)
        if first is None or second is None:
            return report
        report.findings.clear()  # what is wrong with a copy by itself is what its own audit says
        if first.federation.id != second.federation.id or first.domain != second.domain:
            words = "nothing was compared: the two belong to different federations or contracts"
            report.add(Note(words, unchecked=True))
            return report
        for told in copies.check(first, second):
            report.add(told)
        if not first.rounds.keys() & second.rounds.keys():
            report.add(Note("nothing was compared: no round is in both copies", unchecked=True))
        report.head = text(first.head(first.last))
    return report


def _read(evidence: Evidence, report: Report) -> Case | None:
    case, told = collected(read(evidence))
    for one in told:
        report.add(one)
    return case


def _updates(case: Case) -> int:
    return sum(len(entry.updates) for entry in case.rounds.values())
