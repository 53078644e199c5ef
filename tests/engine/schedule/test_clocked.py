"""Rounds on the virtual clock: traces that can be followed by hand, and the same traces by the audit's own arithmetic."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from engine.audit.draws import stream
from engine.audit.virtual import Clock, Size
from engine.messages import LoopState, Pace, Timeline
from engine.schedule.clocked import Clocked, rounds_of
from engine.schedule.config import ScheduleConfig
from engine.schedule.sampled import Sampled
from engine.schedule.staleness import discount
from engine.timing.config import ClockConfig
from engine.timing.fleet import MICRO, Fleet, Load

NO_CHANGE: Mapping[str, Any] = {}
SECOND = {"cycles": 1e9, "frequency": 1e9, "uplink": 1e15, "downlink": 1e15}  # for each beat


def clocked(
    beats: Sequence[int], clock: Mapping[str, Any] = NO_CHANGE, places: int | None = None, **schedule: Any
) -> Clocked:
    """Hospitals whose jobs take as many seconds as they have beats."""
    loads = {h: Load(n, 1, 1) for h, n in enumerate(beats)}
    fleet = Fleet(ClockConfig(**{"fleet": "equal", **SECOND, **clock}), 0, len(beats))
    sampled = Sampled(0, tuple(loads), places or len(beats))
    return Clocked(sampled, ScheduleConfig(**schedule), fleet, loads)


def trace(schedule: Clocked, rounds: int) -> list[tuple[float, dict[int, int]]]:
    """Of each round: seconds at its end, hospital -> round after which its model was made."""
    paces = rounds_of(schedule, rounds)
    return [(pace.line.now / MICRO, {job.hospital: job.start for job in pace.arrived}) for pace in paces]


def absent(pace: Pace) -> list[tuple[int, str]]:
    return [(one.hospital, one.kind) for one in pace.absent]


def test_synchronous_rounds_wait_for_the_slowest():
    assert trace(clocked([1, 2, 5], mode="synchronous"), 2) == [(5, {0: 0, 1: 0, 2: 0}), (10, {0: 1, 1: 1, 2: 1})]


def test_a_ledger_s_block_comes_between_two_rounds():
    assert [now for now, _ in trace(clocked([1, 2], {"block": 3}, mode="synchronous"), 2)] == [5, 10]


def test_semi_synchronous_rounds_give_up_who_is_late():
    schedule = clocked([1, 2, 5], mode="semi-synchronous", first=2)
    assert trace(schedule, 2) == [(2, {0: 0, 1: 0}), (4, {0: 1, 1: 1})]
    last = rounds_of(schedule, 2)[-1]
    assert absent(last) == [(2, "late")]
    # each time 2 of the 5 s were spent
    assert last.line.tallies[2]._replace(compute=0, radio=0) == (2, 0, 0, 2, 4 * MICRO, 4 * MICRO, 0, 0, 0)


def test_a_deadline_ends_a_round_with_what_it_has_but_never_with_nothing():
    assert trace(clocked([1, 2, 5], mode="semi-synchronous", first=None, deadline=3), 2) == [
        (3, {0: 0, 1: 0}),
        (6, {0: 1, 1: 1}),
    ]
    assert trace(clocked([4, 5], mode="semi-synchronous", first=None, deadline=3), 1) == [(4, {0: 0})]


def test_a_buffer_goes_on_with_jobs_that_began_from_older_models():
    schedule = clocked([1, 1, 4], mode="buffered", buffer=2)
    assert trace(schedule, 5) == [
        (1, {0: 0, 1: 0}),
        (2, {0: 1, 1: 1}),
        (3, {0: 2, 1: 2}),
        (4, {0: 3, 1: 3}),  # of three that come in at 4 s the first two fill the buffer
        (5, {0: 4, 2: 0}),
    ]
    began = rounds_of(schedule, 5)[-1].arrived
    assert discount(schedule.config, 5, began, {}, (0, 1, 2)) == {0: 1.0, 2: round(5**-0.5 * 2**20) / 2**20}


def test_a_hospital_is_in_a_buffer_once_and_waits_for_the_flush():
    assert trace(clocked([1, 5, 5], mode="buffered", buffer=2), 2) == [(5, {0: 0, 1: 0}), (6, {0: 1, 2: 0})]


def test_fedasync_ends_a_round_with_every_update():
    assert trace(clocked([2, 3], mode="fedasync"), 5) == [
        (2, {0: 0}),
        (3, {1: 0}),
        (4, {0: 1}),
        (6, {0: 3}),
        (6, {1: 2}),
    ]


def test_fedcompass_cuts_work_so_that_arrivals_meet():
    schedule = clocked([1, 4], mode="fedcompass", least=0.25, slack=0)
    # until speeds are known a quarter of the work, 0.25 s and 1 s; three quarters then meet the slow one's quarter
    assert trace(schedule, 6) == [
        (0.25, {0: 0}),
        (1, {0: 1, 1: 0}),
        (2, {0: 2}),
        (3, {0: 3}),
        (4, {0: 4}),
        (5, {0: 5, 1: 2}),
    ]
    work = [[job.work for job in pace.arrived] for pace in rounds_of(schedule, 6)]
    assert work == [[0.25], [0.75, 0.25], [1], [1], [1], [1, 1]]


def test_a_lost_job_begins_again_at_once_or_with_the_next_round():
    waits = clocked([1, 1, 1], {"dropout": 0.5}, mode="synchronous")
    for pace in rounds_of(waits, 20):
        assert len(pace.arrived) + len({one.hospital for one in pace.absent} - {j.hospital for j in pace.arrived}) == 3
    goes_on = clocked([1, 1, 1], {"dropout": 0.5}, mode="buffered", buffer=3)
    for pace in rounds_of(goes_on, 20):
        assert [job.hospital for job in pace.arrived] == [0, 1, 2]
    last = rounds_of(goes_on, 20)[-1].line
    assert sum(tally.dropped for tally in last.tallies.values()) > 20
    assert last.begun == sum(tally.jobs for tally in last.tallies.values())


def test_a_round_without_an_update_is_repeated_until_there_is_one():
    paces = rounds_of(clocked([1], {"dropout": 0.9}, mode="synchronous"), 10)
    assert all(len(pace.arrived) == 1 for pace in paces)
    assert paces[-1].line.now > 30 * MICRO


def test_older_work_than_allowed_is_given_up_and_begins_afresh():
    schedule = clocked([1, 1, 10], mode="buffered", buffer=2, max_staleness=3)
    paces = rounds_of(schedule, 12)
    assert absent(paces[3]) == [(2, "late")]
    assert [pace.line.jobs[-1].start for pace in paces[4:8] if pace.line.jobs] == [4, 4, 4]
    assert all(round - job.start <= 4 for round, pace in enumerate(paces, 1) for job in pace.arrived)
    assert paces[-1].line.tallies[2].late == 3


def test_as_many_work_as_there_are_places_and_those_at_work_are_not_asked_again():
    schedule = clocked([1, 2, 3, 4, 5, 6], places=3, mode="buffered", buffer=2)
    line = Timeline()
    for round in range(1, 30):
        pace = schedule.pace(round, line)
        assert len(pace.arrived) == 2
        line = pace.line
        assert len(line.jobs) == 1


MODES: tuple[dict[str, Any], ...] = (
    {"mode": "synchronous"},
    {"mode": "semi-synchronous", "first": 3},
    {"mode": "buffered", "buffer": 3},
    {"mode": "fedcompass", "least": 1.0},
    {"mode": "buffered", "buffer": 3, "correction": "rate", "staleness": "hinge"},
)


@pytest.mark.parametrize("settings", MODES, ids=lambda one: one["mode"])
def test_when_nobody_is_late_every_mode_asks_as_synchronous_rounds_do(settings: dict[str, Any]):
    schedule, plain = clocked([2, 2, 2], **settings), Sampled(0, (0, 1, 2), 3)
    line = Timeline()
    for round in range(1, 8):
        state = LoopState(round - 1, np.full(3, round, np.float32), timeline=line)
        asked, wanted = schedule.ask(round, state, b"m"), plain.ask(round, state, b"m")
        assert (asked.round, asked.hospitals, asked.model) == (wanted.round, wanted.hospitals, wanted.model)
        for hospital in asked.hospitals:
            start, same = asked.start_of(hospital), wanted.start_of(hospital)
            assert start.params is same.params
            assert start._replace(params=None) == same._replace(params=None)  # type: ignore[arg-type]
        line = asked.pace.line


def test_a_hospital_works_from_the_model_that_it_was_given():
    schedule = clocked([1, 1, 4], mode="buffered", buffer=2)
    models = [np.full(2, n, np.float32) for n in range(6)]
    line = Timeline()
    for round in range(1, 6):
        state = LoopState(round - 1, models[round - 1], timeline=line, older=dict(enumerate(models[: round - 1])))
        asked = schedule.ask(round, state, b"")
        for hospital, start in asked.starts.items():
            assert start.params is models[start.round], hospital
        line = asked.pace.line
    assert asked.starts[2].round == 0


def test_rates_fall_with_jobs_and_not_with_flushes():
    schedule = clocked([1] * 6, mode="buffered", buffer=2)
    ticks = [job.tick for pace in rounds_of(schedule, 9) for job in pace.arrived]
    assert ticks == sorted(ticks)
    assert ticks[-1] == 3  # 18 updates of 6 hospitals are three rounds


def test_the_updates_of_fast_hospitals_count_less_if_that_is_wished():
    schedule = clocked([1, 1, 9], mode="buffered", buffer=2, correction="rate", staleness="constant", cap=4)
    line = rounds_of(schedule, 8)[-1].line
    pace = schedule.pace(9, line)
    found = discount(schedule.config, 9, pace.arrived, line.tallies, (0, 1, 2))
    # 16 updates so far, 8 of each fast one: (16 + 3) / (3 * 9)
    assert found[0] == round(19 / 27 * 2**20) / 2**20


def drawn(seed: int) -> tuple[Clocked, Clock]:
    """A schedule on its clock with settings at random, and the auditor's."""
    draw = random.Random(seed)
    hospitals = draw.choice([1, 2, 5, 9])
    places = draw.randint(1, hospitals)
    schedule = ScheduleConfig(
        mode=draw.choice(["synchronous", "semi-synchronous", "buffered", "fedasync", "fedcompass"]),
        first=draw.choice([None, 1, 2, places]),
        deadline=draw.choice([0.05, 1.0]),
        buffer=draw.randint(1, places),
        max_staleness=draw.choice([1, 2, 20]),
        staleness=draw.choice(["constant", "hinge", "polynomial"]),
        correction=draw.choice(["none", "rate"]),
        hinge=1,
        least=draw.choice([0.1, 0.5, 1.0]),
        slack=draw.choice([0.0, 0.2, 3.0]),
    )
    clock = ClockConfig(
        fleet=draw.choice(["equal", "stragglers", "bpfish"]),
        share=0.4,
        jitter=draw.choice([0.0, 0.5]),
        dropout=draw.choice([0.0, 0.3]),
        on=draw.choice([None, 0.05]),
        off=0.03,
        night=draw.choice([0.0, 0.5]),
        day=0.1,
        block=draw.choice([0.0, 0.01]),
        gradient_seconds=draw.choice([None, 0.001]),
    )
    loads = {h: Load(draw.choice([100, 300]), 5, 10_000) for h in range(hospitals)}
    engine = Clocked(Sampled(seed, tuple(range(hospitals)), places), schedule, Fleet(clock, seed, hospitals), loads)
    sizes = {h: Size(*load) for h, load in loads.items()}
    sections = (schedule.model_dump(mode="json"), clock.model_dump(mode="json"))
    return engine, Clock(*sections, seed, sizes, places, hospitals, lambda *asked: asks_again(seed, *asked))


def asks_again(seed: int, round: int, free: Sequence[int], wanted: int) -> set[int]:
    drawn = stream(seed, b"participation", round)
    return {*(free if wanted >= len(free) else drawn.choice(free, wanted, replace=False).tolist())}


@pytest.mark.parametrize("block", range(4))
def test_the_audit_s_clock_goes_as_the_engine_s(block: int):
    for seed in range(30 * block, 30 * (block + 1)):
        engine, audit = drawn(seed)
        line = Timeline()
        for round in range(1, 13):
            pace, beat = engine.pace(round, line), audit.next(round)
            counts = discount(engine.config, round, pace.arrived, line.tallies, engine.sampled.trainers)
            line = pace.line
            assert beat.now == line.now
            came = {job.hospital: (job.start, job.ends - job.began, counts[job.hospital]) for job in pace.arrived}
            assert {slot: tuple(one) for slot, one in beat.came.items()} == came
            assert [(one.hospital, one.number, one.kind, one.start) for one in pace.absent] == list(beat.absent)
            assert {slot: tuple(vars(one).values()) for slot, one in beat.totals.items()} == line.tallies
