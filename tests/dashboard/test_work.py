"""Long work behind pages: done once, kept, and stood in for by the last answer."""

import threading

import pytest

from dashboard.work import KEPT, Busy, Work
from engine.clock import JumpingClock


def test_equal_questions_are_one_job_and_its_errors_are_told_to_all() -> None:
    work, done = Work(60), []
    assert [work.ask("a", 1, lambda: done.append(0) or 7) for _ in range(3)] == [7, 7, 7]
    assert len(done) == 1

    def fails() -> int:
        done.append(1)
        raise ValueError("x")

    for _ in range(2):
        with pytest.raises(ValueError, match="x"):
            work.ask("b", 1, fails)
    assert len(done) == 2


def test_what_changes_all_the_time_is_shown_as_it_was_read_last() -> None:
    work, gate = Work(0.01), threading.Event()
    assert work.ask("a", 1, lambda: "first", 60) == "first"
    asked: list[int] = []

    def slow() -> str:
        asked.append(0)
        gate.wait(60)
        return "second"

    assert [work.ask("a", version, slow) for version in (2, 3, 4)] == ["first"] * 3
    with pytest.raises(Busy):
        work.ask("a", 5, slow, stand_in=False)
    gate.set()
    assert work.ask("a", 6, slow, 60) == "second"
    assert len(asked) <= 2  # one at a time


def test_a_fresh_answer_stands_whatever_has_changed_and_an_old_one_does_not() -> None:
    clock = JumpingClock()
    work = Work(60, clock=clock)
    assert work.ask("a", 1, lambda: 1, fresh=30) == 1
    assert work.ask("a", 2, lambda: 2, fresh=30) == 1
    clock.sleep(31)
    assert work.ask("a", 3, lambda: 3, fresh=30) == 3


def test_no_more_is_kept_than_there_is_room_for() -> None:
    work = Work(60)
    for number in range(3 * KEPT):
        work.ask(number, 0, lambda: bytes(1000))
    assert len(work._jobs) <= KEPT + 1
