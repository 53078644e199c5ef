"""The loop: ask hospitals, train locally, take what counts, judge, merge, score, record. It knows protocols only."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.clock import Stopwatch
from engine.errors import HospitalError
from engine.ledger.base import LoopLedger
from engine.messages import (
    Asked,
    Judges,
    LoopState,
    Measured,
    Observer,
    Pace,
    Pool,
    RoundRecord,
    Rule,
    Schedule,
    Taken,
    Update,
    survivors,
)
from engine.metrics import federation_scores
from engine.result import CommitteeRow, RoundSummary, Scores
from engine.secure.round import Masking, plain
from engine.timing.report import Absence, Arrival, Virtual

ROWS = 20  # with more hospitals, a round's record does not list them one by one; the final scores do


@dataclass(frozen=True)
class Validation:
    """How each global model is scored.

    Attributes:
        hospitals: ids of those whose validation part scores it.
        classes: class names.
        scored: those that are scored.
        participants: only this round's participants among them.
        min_hospitals: with fewer answers the round fails; None wants all.
    """

    hospitals: tuple[int, ...]
    classes: Sequence[str]
    scored: Sequence[str]
    participants: bool = False
    min_hospitals: int | None = None


@dataclass(frozen=True)
class Parts:
    """The loop's parts: where hospitals live, who works when, how updates become a model, who judges, who keeps account, what hides
    updates."""

    rounds: int
    pool: Pool
    schedule: Schedule
    rule: Rule
    judges: Judges
    ledger: LoopLedger
    validation: Validation
    masking: Masking = plain


def run_rounds(
    state: LoopState,
    parts: Parts,
    observers: Sequence[Observer] = (),
    save: Callable[[LoopState], None] = lambda state: None,
) -> LoopState:
    """Runs the rounds that `state` has not yet seen.

    Raises:
        HospitalError: a hospital failed and the schedule does not allow to go on without it.
    """
    model = parts.ledger.name(state.params)
    for round in range(state.round + 1, parts.rounds + 1):
        watch = Stopwatch()
        asked = parts.schedule.ask(round, state, model)
        notice = parts.ledger.notice(asked)
        trained = parts.pool.train(asked, notice)
        taken, masked = parts.masking(asked, parts.schedule.take(asked, trained), notice)
        parts.ledger.received(round, taken.updates)  # works beside what follows
        watch.lap("train")
        judged = parts.judges(asked, taken)
        watch.lap("peer")
        params, server = parts.rule.merge(state, judged.counted(taken), judged.verdicts)
        watch.lap("train")
        parent, model = model, parts.ledger.name(params)
        watch.lap("hash")
        tables, blind = validate(parts, asked, params)
        how = parts.validation
        scores = Scores.model_validate(federation_scores(tables, how.classes, most_rows=ROWS, scored=how.scored))
        watch.lap("validate")
        summary = summarise(asked, taken, blind, scores, watch, parts.pool.width, judged.sitting.row)
        record = RoundRecord(
            round, parent, model, taken.updates, judged, summary, (state.server, server), asked, state.older, masked
        )
        state = advanced(state, record, params, server, tables)
        for observer in (parts.ledger, *observers):
            observer.round_finished(record)
        save(state)
    return state


def advanced(
    state: LoopState,
    record: RoundRecord,
    params: np.ndarray,
    server: dict[str, np.ndarray],
    tables: Mapping[int, np.ndarray],
) -> LoopState:
    """The state after a round."""
    measured = Measured(record.round, {u.hospital: u.gradient_evaluations for u in record.updates}, tables)
    line = record.asked.pace.line
    wanted = {job.start for job in line.jobs}
    older = {number: model for number, model in {**state.older, state.round: state.params}.items() if number in wanted}
    return replace(
        state,
        round=record.round,
        params=params,
        states={**state.states, **{u.hospital: u.state for u in record.updates if u.state}},
        server=server,
        history=(*state.history, record.summary),
        measured=(*state.measured, measured),
        timeline=line,
        older=older,
    )


def validate(parts: Parts, asked: Asked, params: np.ndarray) -> tuple[dict[int, np.ndarray], tuple[HospitalError, ...]]:
    """Confusion matrices of a global model on validation beats, and the hospitals that failed to give theirs."""
    how = parts.validation
    asked_for = set(asked.hospitals)
    scored = tuple(h for h in how.hospitals if not how.participants or h in asked_for)
    tables = dict(zip(scored, parts.pool.validate(asked.round, params, scored), strict=True))
    _, blind = survivors(list(tables.values()), how.min_hospitals)
    return {h: table for h, table in tables.items() if not isinstance(table, HospitalError)}, blind


def _mean_loss(updates: Sequence[Update]) -> float | None:
    """Over the beats; None where a hospital tells none."""
    if any(math.isnan(u.loss) for u in updates):
        return None
    return float(np.average([u.loss for u in updates], weights=[u.samples for u in updates]))


def summarise(
    asked: Asked,
    taken: Taken,
    blind: Sequence[HospitalError],
    validation: Scores,
    watch: Stopwatch,
    width: int,
    committee: CommitteeRow | None = None,
) -> RoundSummary:
    """One round's record; hospitals check and sign at the same time, `width` of them."""
    updates, laps = taken.updates, watch.laps
    return RoundSummary(
        round=asked.round,
        seconds=watch.total,
        train_seconds=laps["train"],
        peer_seconds=laps["peer"],
        hash_seconds=laps["hash"],
        sign_seconds=sum(u.sign_seconds for u in updates) / width,  # that a round takes longer
        participants=len(updates),
        lost=tuple(str(error) for error in (*taken.lost, *blind)),
        train_loss=_mean_loss(updates),
        gradient_evaluations=sum(u.gradient_evaluations for u in updates),
        validation=validation,
        committee=committee,
        virtual=virtual(asked.pace),
    )


def virtual(pace: Pace) -> Virtual | None:
    """A round on the virtual clock, as it is reported; None where no time is kept."""
    if not pace.arrived:
        return None
    tallies = pace.line.tallies.values()
    return Virtual(
        seconds=pace.line.now / 10**6,
        compute_joules=sum(one.compute for one in tallies) / 10**9,
        radio_joules=sum(one.radio for one in tallies) / 10**9,
        arrived=tuple(
            Arrival(id=job.hospital, seconds=(job.ends - job.began) / 10**6, start=job.start) for job in pace.arrived
        ),
        absent=tuple(Absence(id=a.hospital, job=a.number, why=a.kind, start=a.start) for a in pace.absent),
    )
