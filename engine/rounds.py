"""The loop: select hospitals, train locally, verify, aggregate, record. It knows protocols only."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from engine.aggregation.mean import moved, weight
from engine.errors import HospitalError, PulseLedgerError
from engine.hospital import Update
from engine.metrics import federation_scores
from engine.pools.base import HospitalPool
from engine.result import RoundSummary, Scores
from engine.seeds import generator

ROWS = 20  # with more hospitals, a round's record does not list them one by one; the final scores do


@dataclass(frozen=True)
class Plan:
    """What the loop needs to know of the configuration.

    Attributes:
        trainers: ids of the hospitals that may be selected.
        validators: ids of the hospitals whose validation part scores each global model.
        validate_participants: score each model by this round's participants only.
        per_round: how many trainers a round selects.
        weighting: "samples", "uniform" or "none".
        min_hospitals: with fewer updates a round fails; None wants all that were selected.
        classes: class letters.
        model_hash: names a parameter vector; b"" where nobody asks.
        notice: what these hospitals are told of the ledger, given the hash of the model; None where none is kept.
        peers: after each round, each participant scores the others' updated models on its own validation part.
        received: called with a round's updates as soon as they are there, to work on them beside the validation.
    """

    rounds: int
    seed: int
    trainers: tuple[int, ...]
    validators: tuple[int, ...]
    per_round: int
    weighting: str
    min_hospitals: int | None
    classes: str
    model_hash: Callable[[np.ndarray], bytes]
    validate_participants: bool = False
    peers: bool = False
    notice: Callable[[bytes, Sequence[int]], Any] = lambda model, hospitals: None
    received: Callable[[int, Sequence[Update]], None] = lambda round, updates: None


@dataclass(frozen=True)
class LoopState:
    """Everything that a later round depends on; a checkpoint is exactly this.

    Attributes:
        round: rounds that are done.
        params: float32[parameters], the global model after them.
        states: hospital id -> private state.
        history: of the rounds, as in `result.json`.
    """

    round: int
    params: np.ndarray
    states: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    history: tuple[RoundSummary, ...] = ()


@dataclass(frozen=True)
class RoundRecord:
    """One finished round, as observers see it; `scores` as from `judge`, where the plan asks for them."""

    round: int
    parent: bytes
    model: bytes
    updates: tuple[Update, ...]
    summary: RoundSummary
    scores: dict[int, dict[int, tuple[int, int]]] = field(default_factory=dict)


class Observer(Protocol):
    """Listens to the loop; may not change it."""

    def round_finished(self, record: RoundRecord) -> None:
        """Called once after each round, before its checkpoint."""
        ...


def run_rounds(
    state: LoopState,
    plan: Plan,
    pool: HospitalPool,
    observers: Sequence[Observer] = (),
    save: Callable[[LoopState], None] = lambda state: None,
) -> LoopState:
    """Runs the rounds that `state` has not yet seen.

    Raises:
        HospitalError: a hospital failed and `min_hospitals` does not allow to go on without it.
    """
    model = plan.model_hash(state.params)
    for round in range(state.round + 1, plan.rounds + 1):
        times = [time.perf_counter()]
        selected = select(plan, round)
        answers, summed = pool.train(round, state.params, plan.notice(model, selected), selected)
        updates, lost = survivors(answers, plan.min_hospitals)
        plan.received(round, updates)
        params = moved(state.params, summed, sum(weight(plan.weighting, u.samples) for u in updates))
        times.append(time.perf_counter())
        parent, model = model, plan.model_hash(params)
        times.append(time.perf_counter())
        scores, blind = validate(plan, pool, round, params, selected)
        times.append(time.perf_counter())
        peers = {}
        if plan.peers:
            peers = judge(plan, pool, round, state.params, updates)
            times.append(time.perf_counter())
        summary = summarise(round, updates, (*lost, *blind), scores, times, pool.width)
        state = replace(
            state,
            round=round,
            params=params,
            states={**state.states, **{u.hospital: u.state for u in updates if u.state}},
            history=(*state.history, summary),
        )
        for observer in observers:
            observer.round_finished(RoundRecord(round, parent, model, updates, summary, peers))
        save(state)
    return state


def select(plan: Plan, round: int) -> list[int]:
    """The hospitals of a round, ascending; drawn from (seed, round) alone, so a resumed run draws the same."""
    if plan.per_round >= len(plan.trainers):
        return list(plan.trainers)
    draw = generator(plan.seed, "participation", round)
    return sorted(draw.choice(plan.trainers, plan.per_round, replace=False).tolist())


def survivors(answers: Sequence[Any], min_hospitals: int | None) -> tuple[tuple[Any, ...], tuple[HospitalError, ...]]:
    """Parts answers from failures. Going on with fewer hospitals is something that somebody must ask for.

    Raises:
        HospitalError: the first failure, when `min_hospitals` is None.
        PulseLedgerError: fewer than `min_hospitals` answered; tells the first failure.
    """
    good = tuple(answer for answer in answers if not isinstance(answer, HospitalError))
    lost = tuple(answer for answer in answers if isinstance(answer, HospitalError))
    if lost and min_hospitals is None:
        raise lost[0]
    if lost and min_hospitals is not None and len(good) < min_hospitals:
        raise PulseLedgerError(
            f"{len(good)} hospitals answered, federation.min_hospitals is {min_hospitals}; first failure: {lost[0]}"
        )
    return good, lost


def validate(
    plan: Plan, pool: HospitalPool, round: int, params: np.ndarray, selected: Sequence[int]
) -> tuple[Scores, tuple[HospitalError, ...]]:
    """Scores of a global model on validation beats, and the hospitals that failed to give theirs."""
    scored = plan.validators
    if plan.validate_participants:
        scored = tuple(h for h in plan.validators if h in set(selected))
    tables = dict(zip(scored, pool.validate(round, params, scored), strict=True))
    _, blind = survivors(list(tables.values()), plan.min_hospitals)
    known = {h: table for h, table in tables.items() if not isinstance(table, HospitalError)}
    return Scores.model_validate(federation_scores(known, plan.classes, most_rows=ROWS)), blind


def judge(
    plan: Plan, pool: HospitalPool, round: int, params: np.ndarray, updates: Sequence[Update]
) -> dict[int, dict[int, tuple[int, int]]]:
    """What each participant's update makes of the model, as the other participants see it; no parameter changes.

    Returns:
        hospital of the update -> judge -> (correct predictions, beats) on the judge's validation part. A judge that
        fails gives none.
    """
    found = {}
    for update in updates:
        judges = [u.hospital for u in updates if u.hospital != update.hospital and u.hospital in plan.validators]
        tables = pool.validate(round, params + update.vector, judges) if judges else []
        found[update.hospital] = {
            hospital: (int(np.trace(table)), int(table.sum()))
            for hospital, table in zip(judges, tables, strict=True)
            if not isinstance(table, HospitalError)
        }
    return found


def summarise(
    round: int,
    updates: Sequence[Update],
    failed: Sequence[HospitalError],
    validation: Scores,
    times: Sequence[float],
    width: int = 1,
) -> RoundSummary:
    """One round's record; `times` are the start and the ends of training, hashing, validation, and scoring by peers.

    Hospitals check and sign at the same time, `width` of them.
    """
    return RoundSummary(
        round=round,
        seconds=times[-1] - times[0],
        train_seconds=times[1] - times[0],
        hash_seconds=times[2] - times[1],
        sign_seconds=sum(u.sign_seconds for u in updates) / width,  # that a round takes longer
        participants=len(updates),
        lost=tuple(str(error) for error in failed),
        train_loss=float(np.average([u.loss for u in updates], weights=[u.samples for u in updates])),
        gradient_evaluations=sum(u.gradient_evaluations for u in updates),
        validation=validation,
        peer_seconds=times[4] - times[3] if len(times) == 5 else None,
    )
