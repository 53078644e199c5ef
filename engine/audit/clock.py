"""The virtual clock: who came in, who did not, when, at what cost, and from which model everybody began."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from engine.audit import association, levels, policies, spec
from engine.audit.association import Market
from engine.audit.case import Case, Round
from engine.audit.records import check_signature
from engine.audit.report import Count, Note, Told, finding
from engine.audit.selection import schedule_of
from engine.audit.settings import ASYNCHRONOUS
from engine.audit.virtual import Beat, Clock, Size
from engine.ledger.format import ABSENCES, CLOCK

# variant of Per-FedAvg -> gradients of a batch in a meta-step; a Hessian-vector product counts as three
_META = {"first-order": 2, "difference": 4, "exact": 5}
_ROWS = 1000  # with more hospitals, the clock does not list them


def check(case: Case) -> Iterator[Told]:
    """Check every round against the clock that follows from the configuration."""
    for number, entry in sorted(case.rounds.items()):
        yield from _check_words(case, number, entry)
    yield from association.check(case, market_of(case))
    beats = rounds_of(case)
    if beats is None:
        if clocked(case):
            why = policies.untold(case) or "configuration or sizes are not told"
            yield Note(f"the virtual clock was not recomputed: {why}", unchecked=case.finished)
        return
    for number, entry in sorted(case.rounds.items()):
        if number in beats:
            yield from _check_round(case, number, entry, beats[number])
    if case.reported and case.ending == "complete" and len(beats) == len(case.rounds):
        parameters = case.federation.parameters
        yield from levels.check(case, {n: [*beat.came] for n, beat in beats.items()}, parameters, 4 * parameters)
        yield from _check_report(case, beats)


def clocked(case: Case) -> bool:
    """Whether the run keeps virtual time."""
    section = case.config.get("clock")
    return isinstance(section, Mapping) and section.get("fleet") != "none"


def rounds_of(case: Case) -> Mapping[int, Beat] | None:
    """The clock's rounds by number; None where none is kept, or nobody can tell."""
    trainers, places, seed = schedule_of(case, _all_train(case))
    if not clocked(case) or not trainers or policies.untold(case):
        return None
    found: dict[int, Beat] = {}
    try:
        sizes, pairs = _sizes(case, trainers), _associated(case)
        rates: Mapping[int, float] = {}
        if pairs:
            rates = {slot: association.links(case.config["association"], seed, slot)[m] for slot, m in pairs.items()}
            sizes = {slot: size for slot, size in sizes.items() if slot in pairs}
            places = max(1, round(case.config["federation"]["participation"] * len(sizes)))
        clock = Clock(
            case.config["schedule"],
            case.config["clock"],
            seed,
            sizes,
            places,
            _hospitals(case),
            rates=rates,
            hops=sum(levels.hops(levels.levels_of(case), case.federation.parameters)),
            chosen=functools.partial(policies.asked, case, seed),
        )
        for number in range(1, case.last + 1):
            found[number] = _copied(clock.next(number))
    except (KeyError, TypeError, ValueError, ArithmeticError, IndexError):
        return None
    return found


def market_of(case: Case) -> Market | None:
    """The market in which hospitals found their miners; None where there is none, or nobody can tell."""
    trainers, _, _ = schedule_of(case, _all_train(case))
    if not association.runs(case) or not trainers:
        return None
    try:
        return association.market_of(case, _sizes(case, trainers), _train(case))
    except (KeyError, TypeError, ValueError, ArithmeticError, IndexError):
        return None


def _associated(case: Case) -> dict[int, int]:
    """Slot -> miner of those who have one; {} without miners.

    Raises:
        ValueError: nobody can tell.
    """
    if not association.runs(case):
        return {}
    if (market := market_of(case)) is None:
        raise ValueError("no market")
    return association.settled(case, market)


def _copied(beat: Beat) -> Beat:
    return Beat(beat.now, beat.came, beat.absent, {slot: type(one)(**vars(one)) for slot, one in beat.totals.items()})


def _all_train(case: Case) -> list[dict[str, Any]] | None:
    """Of a pruned run, which reports no cohort: that every hospital trains, where its split has no others."""
    cohort = case.config.get("cohort")
    if case.ending != "pruned" or not isinstance(cohort, Mapping) or type(many := cohort.get("hospitals")) is not int:
        return None
    if cohort.get("split") in ("leave-one-hospital-out", "other-database") or not 0 < many <= len(case.results):
        return None
    return [{"trains": True}] * many


def _hospitals(case: Case) -> int:
    return int(case.config["cohort"]["hospitals"])


def _sizes(case: Case, trainers: list[int]) -> dict[int, Size]:
    """Work of a job of each trainer: gradients that its algorithm is configured to take on its real train beats."""
    federation, train = case.config["federation"], _train(case)
    bits = 32 * case.federation.parameters
    found, epochs, size = {}, int(federation["local_epochs"]), int(federation["batch_size"])
    for slot in trainers:
        batches, beats = epochs * -(-train[slot] // size), epochs * train[slot]
        if federation["local_steps"] is not None:
            batches = int(federation["local_steps"])
            beats = batches * min(size, train[slot])
        if case.config["privacy"]["method"] == "dp-sgd":
            batches = int(case.config["privacy"]["steps"])
            beats = batches * min(size, train[slot])
        elif federation["algorithm"] == "perfedavg":
            cost = _META[federation["perfedavg"]["variant"]]
            batches = cost * (federation["perfedavg"]["tau"] or max(1, batches // cost))
            beats = batches * min(size, train[slot])
        found[slot] = Size(beats, batches, bits)
    return found


def _train(case: Case) -> dict[int, int]:
    """Slot -> train beats."""
    rows = case.reported["cohort"]["hospitals"] if case.reported else ()
    train = {slot: int(row["train"]) for slot, row in enumerate(rows)}
    train[len(rows)] = sum(int(row["train"]) for row in rows if row["trains"])
    # a pruned run has no result, but what its hospitals have signed
    return train | {s: sum(one.content.counts["train"]) for s, one in case.results.items() if one.content is not None}


def _check_words(case: Case, number: int, entry: Round) -> Iterator[Told]:
    """The coordinator's word on each job without an update."""
    for slot, job, kind, start, signature in entry.absent:
        where = {"round": number, "hospital": slot}
        yield Count("absences")
        values = {"round": number, "slot": slot, "job": job, "kind": ABSENCES.index(kind), "start": start}
        digest = spec.typed_digest("Absence", {"federation": case.federation.id, **values}, case.domain)
        yield from check_signature(digest, signature, case.leader(number), "absence", "signature", where)
    if entry.absent and CLOCK not in entry.digests:
        yield finding(
            "absence", "clock", "a digest", None, "jobs came to nothing in a round without a clock", round=number
        )


def _check_round(case: Case, number: int, entry: Round, beat: Beat) -> Iterator[Told]:
    yield Count("clocks")
    said = [list(one[:4]) for one in entry.absent]
    wanted = [list(one) for one in beat.absent]
    for slot, job, kind, start in [one for one in wanted if one not in said]:
        message = f"by the clock job {job} was {kind}, and no word of the coordinator says so"
        yield finding("absence", "job", [slot, job, kind, start], None, message, round=number, hospital=slot)
    for slot, job, kind, start in [one for one in said if one not in wanted]:
        message = f"job {job} is said to be {kind}, and by the clock it was not"
        yield finding("absence", "job", None, [slot, job, kind, start], message, round=number, hospital=slot)
    digest = spec.json_hash({"now": beat.now, "absent": wanted})
    if digest != entry.digests.get(CLOCK):
        message = "time and absences under the head are not those of the clock"
        yield finding("annex", CLOCK, digest, entry.digests.get(CLOCK), message, round=number)
    for slot in sorted(entry.updates.keys() - beat.came.keys()):
        message = "the hospital's update is in a round in which by the clock it did not come in"
        yield finding("round", "clock", sorted(beat.came), slot, message, round=number, hospital=slot)
    for slot, came in beat.came.items():
        record = entry.updates[slot].record if slot in entry.updates else None
        model = case.model_after(came.start)
        if record is not None and model is not None and record["parent_model"] != model:
            behind = number - 1 - came.start
            message = f"by the clock the work began from the model after round {came.start}, {behind} behind the last"
            yield finding("update", "parent_model", model, record["parent_model"], message, round=number, hospital=slot)


def _check_report(case: Case, beats: Mapping[int, Beat]) -> Iterator[Told]:
    rows, report = case.reported.get("rounds"), case.reported.get("clock")
    for number, beat in beats.items():
        row = rows[number - 1] if isinstance(rows, list) and len(rows) >= number else None
        found = row.get("virtual") if isinstance(row, Mapping) else None
        yield from _compare(f"rounds.{number - 1}.virtual", _virtual(beat), found, number)
    if beats:
        yield from _compare("clock", {**_report(beats[max(beats)]), **_target(case, beats)}, report, None)


def _compare(name: str, wanted: Mapping[str, Any], found: Any, number: int | None) -> Iterator[Told]:
    for key, value in wanted.items():
        yield Count("results")
        told = found.get(key) if isinstance(found, Mapping) else None
        if told != value:
            message = f"{name}.{key} of the result does not follow from the configuration"
            yield finding("result", f"{name}.{key}", value, told, message, round=number)


def _joules(beat: Beat) -> dict[str, float]:
    totals = beat.totals.values()
    compute, radio = sum(one.compute for one in totals), sum(one.radio for one in totals)
    return {"compute_joules": compute / 1e9, "radio_joules": radio / 1e9}


def _virtual(beat: Beat) -> dict[str, Any]:
    return {
        "seconds": beat.now / 1e6,
        **_joules(beat),
        "arrived": [{"id": slot, "seconds": came.took / 1e6, "start": came.start} for slot, came in beat.came.items()],
        "absent": [{"id": slot, "job": job, "why": kind, "start": start} for slot, job, kind, start in beat.absent],
    }


def _report(beat: Beat) -> dict[str, Any]:
    totals = beat.totals.values()
    busy = sum(one.busy for one in totals)
    rows = [
        {
            "id": slot,
            "delivered": one.delivered,
            "dropped": one.dropped,
            "late": one.late,
            "busy_seconds": one.busy / 1e6,
            "wasted_seconds": one.wasted / 1e6,
            "compute_joules": one.compute / 1e9,
            "radio_joules": one.radio / 1e9,
        }
        for slot, one in sorted(beat.totals.items())
    ]
    return {
        "virtual_seconds": beat.now / 1e6,
        **_joules(beat),
        "wasted_share": sum(one.wasted for one in totals) / busy if busy else 0.0,
        "delivered": sum(one.delivered for one in totals),
        "dropped": sum(one.dropped for one in totals),
        "late": sum(one.late for one in totals),
        "hospitals": rows if len(rows) <= _ROWS else [],
    }


def _target(case: Case, beats: Mapping[int, Beat]) -> dict[str, float | None]:
    """Time and energy until the first round that reaches the target, by scores that `numbers.py` computes from what hospitals signed."""
    target, rows = case.config["clock"].get("target"), case.reported.get("rounds")
    scores = dict(enumerate(map(_macro_f1, rows if isinstance(rows, list) else ()), 1))
    there = [n for n in sorted(beats) if target is not None and scores.get(n, 0.0) >= target]
    if not there:
        return {"target_seconds": None, "target_joules": None}
    return {"target_seconds": beats[there[0]].now / 1e6, "target_joules": sum(_joules(beats[there[0]]).values())}


def _macro_f1(row: Any) -> float:
    score = (
        row["validation"]["macro_f1"]
        if isinstance(row, Mapping) and isinstance(row.get("validation"), Mapping)
        else None
    )
    return score if isinstance(score, float) else 0.0


def discounts(case: Case) -> Mapping[int, Mapping[int, tuple[int, float]]] | None:
    """Round -> slot -> the round after whose model its work began, and what its update counts; None where nobody can tell."""
    section = case.config.get("schedule")
    if not isinstance(section, Mapping) or section.get("mode") not in ASYNCHRONOUS:
        return {}
    beats = rounds_of(case)
    if beats is None:
        return None
    return {n: {slot: (came.start, came.discount) for slot, came in beat.came.items()} for n, beat in beats.items()}
