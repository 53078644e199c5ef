"""What every schedule must keep. A new one is added to `SCHEDULES`."""

from collections.abc import Callable

import numpy as np
import pytest
from reference import ROOT

from engine.committee.schedule import Seated
from engine.errors import HospitalError, PulseLedgerError
from engine.messages import LoopState, Schedule, Trained, Update
from engine.schedule.build import build_schedule
from engine.schedule.config import FLOORED, ScheduleConfig, SelectionConfig
from engine.schedule.sampled import Sampled

TRAINERS = (0, 1, 2, 3, 5)
GROWING = ScheduleConfig(mode=f"{ROOT}/examples/parts/schedule.py:Growing", parameters={"first": 2})
TURNS = SelectionConfig(policy=f"{ROOT}/examples/parts/selection.py:turns")
SCHEDULES: dict[str, Callable[[int | None], Schedule]] = {
    "all": lambda least: Sampled(3, TRAINERS, 5, least),
    "some": lambda least: Sampled(3, TRAINERS, 2, least),
    **{
        policy: lambda least, policy=policy: build_schedule(  # type: ignore[misc]
            ScheduleConfig(), SelectionConfig(policy=policy), 3, TRAINERS, 2, least
        )
        for policy in FLOORED
    },
    "seated": lambda least: Seated(
        Sampled(3, TRAINERS, 3, least), TRAINERS, 2, "random", lambda params: params.tobytes()
    ),
    "own": lambda least: build_schedule(GROWING, TURNS, 3, TRAINERS, 3, least),
}


@pytest.fixture(params=SCHEDULES)
def build(request: pytest.FixtureRequest) -> Callable[[int | None], Schedule]:
    return SCHEDULES[request.param]


def state(round: int) -> LoopState:
    return LoopState(round, np.full(2, round, np.float32))


def answers(hospitals: tuple[int, ...], failing: tuple[int, ...] = ()) -> Trained:
    return Trained(
        [HospitalError(h, 1, "train", "boom") if h in failing else Update(h, None, 1, 0.0, 1) for h in hospitals],
        np.zeros(2, np.int64),
    )


def test_only_trainers_are_asked_ascending_and_at_least_one(build: Callable[[int | None], Schedule]):
    for round in range(1, 30):
        asked = build(None).ask(round, state(round - 1), b"m")
        assert (asked.round, asked.model) == (round, b"m")
        assert asked.hospitals
        assert list(asked.hospitals) == sorted(set(asked.hospitals))
        assert set(asked.hospitals) <= set(TRAINERS)
        np.testing.assert_array_equal(asked.params, state(round - 1).params)


def test_a_schedule_made_anew_asks_the_same(build: Callable[[int | None], Schedule]):
    first, second = build(None), build(None)
    for round in (1, 7, 8):
        first.ask(round + 1, state(round), b"")  # what was asked before does not matter
        assert first.ask(round, state(round - 1), b"").hospitals == second.ask(round, state(round - 1), b"").hospitals


def test_everybody_who_answered_is_taken_in_order(build: Callable[[int | None], Schedule]):
    schedule = build(None)
    asked = schedule.ask(1, state(0), b"")
    taken = schedule.take(asked, answers(asked.hospitals))
    assert tuple(update.hospital for update in taken.updates) == asked.hospitals
    assert taken.lost == ()


def test_a_lost_hospital_ends_the_round_unless_fewer_are_allowed(build: Callable[[int | None], Schedule]):
    asked = build(None).ask(1, state(0), b"")
    gone = asked.hospitals[0]
    with pytest.raises(HospitalError, match=f"hospital {gone}"):
        build(None).take(asked, answers(asked.hospitals, (gone,)))
    taken = build(1).take(asked, answers(asked.hospitals, (gone,)))
    assert [error.hospital for error in taken.lost] == [gone]
    assert [update.hospital for update in taken.updates] == list(asked.hospitals[1:])
    with pytest.raises(PulseLedgerError, match="0 hospitals answered"):
        build(1).take(asked, answers(asked.hospitals, asked.hospitals))
