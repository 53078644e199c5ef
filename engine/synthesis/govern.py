"""Synthetic beats under a policy, before training starts: asked for, decided, made, measured, accepted or rejected.

1. Each hospital signs a request for every class that it wants more beats of.
2. The policy denies it, grants it or a part of it, or leaves it to a reviewer.
3. Where the policy wants it, the hospital makes a preview for the reviewer: beats of another seed, which nobody trains on.
4. While a request waits for a reviewer the run stops with `ReviewPending`; `pulseledger governance` writes the decision.
5. The hospital makes what was granted, measures its quality, and signs a report: digests and the numbers of the policy.
6. The policy accepts or rejects the batch. Only accepted beats enter the hospital's train part.

What hospitals do they do where they live (`workshop.py`), behind three calls of the pool. Here steps are only passed on:
requests and reports to the desk, decisions to the hospitals. No hospital's key is opened and no beat is read. Every step
goes through the books of `engine/ledger/desk.py`, with a ledger through its journal and contract before; without one the
books decide alone, so the numbers of a run do not depend on it.

A run that stopped anywhere goes on from the journal; beats are made again from the seed and held against the reported
digest. A hospital that fails here ends the run, whatever `federation.min_hospitals` says: who trains on what must be
settled before the first round.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from engine.config import RunConfig
from engine.errors import HospitalError, LedgerError, ReviewPending
from engine.ledger.base import LoopLedger
from engine.ledger.desk import Desk
from engine.ledger.subjects.policy import WAITING, Standing, Status, explain, policy_of
from engine.ledger.subjects.synthetic import SignedRequest, SyntheticReport
from engine.ledger.typed import record_to_json
from engine.messages import Pool, survivors
from engine.result import Preview, SyntheticRow
from engine.synthesis.config import NUMBERED
from engine.synthesis.files import FOLDER, evidence_file, preview_file
from engine.synthesis.reviews import STATE, Requests, left_review, read_state, reason_given

Note = Callable[[str], None]
# of a report, that the policy bounds
NUMBERS = tuple(field.name for field in fields(SyntheticReport))[4:]


def govern(
    config: RunConfig,
    folder: Path,
    ledger: LoopLedger,
    federation: bytes,
    pool: Pool,
    keepers: Mapping[int, Sequence[int]],
    note: Note = lambda text: None,
) -> tuple[SyntheticRow, ...]:
    """Brings all requests of a run to their end; after it the hospitals train on the accepted beats, too.

    Args:
        folder: of the run.
        federation: id of the run's federation, with or without a ledger.
        keepers: hospital -> hospitals whose accepted beats it trains on: itself, or those whose data it pools.
        note: told in plain words what is going on; may raise to end it between two batches.

    Returns:
        How each request ended.

    Raises:
        ReviewPending: a request waits for a reviewer.
        HospitalError: a hospital failed, lacks the generator, or does not make the same beats again.
        LedgerError: the ledger refuses a step, or disagrees.
        DataError: a file cannot be written, or is damaged.
    """
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    own = [hospital for hospital, makers in keepers.items() if hospital in makers]
    others = [hospital for hospital in keepers if hospital not in own]  # who read the files of their makers
    state = read_state(folder) if (folder / FOLDER / STATE).exists() else None
    if state is None or not state.settled:
        state = _settle(config, folder, ledger.desk(federation), pool, own, note)
    for some in filter(None, (own, others)):
        kept = {h: [r for r in state.requests if r.status == "accepted" and r.hospital in keepers[h]] for h in some}
        survivors(pool.keep(kept), None)
    return state.requests


def _settle(config: RunConfig, folder: Path, desk: Desk, pool: Pool, hospitals: Sequence[int], note: Note) -> Requests:
    """From the first request to the last report."""
    labels = config.data.labels
    desk.open(policy_of(config.balance.policy, labels), config.seed)
    requests, _ = survivors(pool.ask(desk.terms, hospitals), None)
    asked = [_asked(desk, signed, labels) for one in requests for signed in one]

    def stand(settled: bool = False) -> Requests:
        state = _standing(config, folder, desk, asked, settled)
        state.write(folder)
        return state

    if config.balance.policy.preview:
        _make(desk, pool, labels, [row for row in stand().requests if row.status == "pending"], note)
    for row in stand().pending():
        if (review := left_review(folder, row, desk.reviewers, desk.signing.domain, note)) is not None:
            desk.take(review)
    state = stand()
    if waiting := state.pending():
        one = len(waiting) == 1
        raise ReviewPending(
            f"{len(waiting)} {'request' if one else 'requests'} for synthetic beats {'waits' if one else 'wait'} for a "
            f"reviewer; decide with `pulseledger governance approve|deny {folder} ID --reason TEXT`, then go on with "
            f"`pulseledger resume {folder}`."
        )
    _make(desk, pool, labels, [row for row in state.requests if row.status == "approved"], note)
    return stand(settled=True)


def _asked(desk: Desk, signed: SignedRequest, labels: Sequence[str]) -> bytes:
    """Takes a request, unless it was taken before an interruption; returns its id."""
    new = signed.record
    for identity, standing in desk.books.requests.items():
        old = standing.request
        if (old.slot, old.class_) == (new.slot, new.class_):
            if (old.quantity, old.settings) != (new.quantity, new.settings):
                raise LedgerError(f"hospital {new.slot} asked for something else of class {labels[new.class_]} before")
            if standing.status in (*WAITING, Status.APPROVED):
                desk.expire(identity)
            return identity
    return desk.take(signed)


def _make(desk: Desk, pool: Pool, labels: Sequence[str], granted: Sequence[SyntheticRow], note: Note) -> None:
    """Has beats made for all granted requests, or previews for those that wait, by as many hospitals at a time as work at once.

    One class after another, so that no hospital waits for itself, and the order of the steps does not depend on the pool.
    """
    if granted:
        note(f"making synthetic beats for {len(granted)} requests")
    for name in labels:
        same = sorted((row for row in granted if row.class_ == name), key=lambda row: row.hospital)
        for start in range(0, len(same), pool.width):
            some = {row.hospital: row for row in same[start : start + pool.width]}
            answers = dict(zip(some, pool.make(desk.terms, {h: [row] for h, row in some.items()}), strict=True))
            made = {h: answer[0] for h, answer in answers.items() if not isinstance(answer, HospitalError)}
            for signed in made.values():
                desk.take(signed)
            survivors(list(answers.values()), None)  # what the others made is taken, whoever failed
            for hospital, signed in made.items():
                status = desk.books.requests[signed.record.request].status.name.lower()
                shown = f"{signed.record.generated} beats of {some[hospital].wanted} {status}"
                note(f"hospital {hospital}, class {name}: {shown}")


# --- How everything stands --------------------------------------------------------------------------------------------


def _standing(config: RunConfig, folder: Path, desk: Desk, asked: Sequence[bytes], settled: bool) -> Requests:
    return Requests(
        settled=settled,
        federation=desk.signing.federation.hex(),
        chain_id=desk.signing.domain.chain_id,
        contract=desk.signing.domain.contract,
        keys="seed" if desk.signing.keystore is None else "keystore",
        seed=config.seed,
        policy=config.balance.policy.model_dump(mode="json"),
        reviewers={account: "0x" + of.hex() for account, of in desk.reviewers.items()},
        requests=tuple(_row(folder, desk, request, config.data.labels) for request in asked),
    )


def _row(folder: Path, desk: Desk, request: bytes, labels: Sequence[str]) -> SyntheticRow:
    """How one request stands. Real beats are told by their floor only."""
    standing, report = desk.books.requests[request], desk.reports.get(request)
    record, name, page = standing.request, request.hex(), evidence_file(folder / FOLDER, request.hex())
    return SyntheticRow(
        request=name,
        hospital=record.slot,
        class_=labels[record.class_],
        generator=NUMBERED[record.generator - 1],
        wanted=record.quantity,
        real_floor=record.real_floor,
        allowed=desk.books.allowance(standing)[0] if standing.status in WAITING else 0,
        granted=standing.granted,
        accepted=standing.counted if standing.status == Status.ACCEPTED else 0,
        status=standing.status.name.lower(),
        reasons=_reasons(folder, desk, request),
        preview=_preview(folder, standing),
        blind=standing.status in WAITING and desk.books.blind(standing),
        numbers=None if report is None else {number: getattr(report, number) for number in NUMBERS},
        batch=None if report is None else report.batch.hex(),
        evidence=None if report is None else report.evidence.hex(),
        file=None if report is None else f"{FOLDER}/{page.name}",
        organisation=desk.organisation(record.slot).hex(),
        record=record_to_json(record),
    )


def _preview(folder: Path, standing: Standing) -> Preview | None:
    """What the reviewer was shown."""
    if (shown := standing.preview) is None:
        return None
    file = f"{FOLDER}/{preview_file(folder / FOLDER, shown.request.hex()).name}"
    return Preview(generated=shown.generated, batch=shown.batch.hex(), evidence=shown.evidence.hex(), file=file)


def _reasons(folder: Path, desk: Desk, request: bytes) -> str:
    """Why it stands so, in words: the generator's, the policy's, the reviewer's."""
    said, page = [], evidence_file(folder / FOLDER, request.hex())
    if request in desk.reports and desk.reports[request].generated == 0 and page.exists():
        said.append(str(json.loads(page.read_text(encoding="utf-8")).get("failed", "")))
    elif reasons := desk.books.requests[request].reasons:
        said.append(explain(reasons))
    if request in desk.reviews:
        verdict = "approved" if desk.reviews[request].approve else "denied"
        text = reason_given(folder, request.hex())
        said.append(f"{verdict} by the reviewer{f': {text}' if text else ''}")
    return "; ".join(part for part in said if part)
