"""Work beside the caller: in order, by the method itself, and its errors come back."""

import threading
import time
from concurrent.futures import CancelledError
from typing import Any

import pytest
from processes import until

from engine.background import Background
from engine.errors import HospitalError, LedgerError


def kinds() -> tuple[type, type]:
    """Two classes that a Ray process need not be able to import."""

    class Notes:
        """Keeps what it is told."""

        def __init__(self, first: str = "") -> None:
            if first == "bad":
                raise LedgerError("it does not open")
            self.lines = [first]

        def add(self, line: str, twice: bool = False) -> int:
            self.lines += [line] * (1 + twice)
            return len(self.lines)

        def all(self) -> list[str]:
            return self.lines

        def fail(self) -> None:
            raise HospitalError(3, 2, "train", "boom")

        def close(self) -> None:
            self.lines.append("closed")

    class Loud(Notes):
        def add(self, line: str, twice: bool = False) -> int:
            return super().add(line.upper(), twice)

    return Notes, Loud


Notes, Loud = kinds()


@pytest.fixture(params=[False, True], ids=["thread", "actor"])
def actor(request) -> bool:
    if request.param:
        request.getfixturevalue("ray2")
    return request.param


def test_calls_are_made_in_order_and_their_answers_come_back(actor: bool):
    notes = Background(Notes, "first", actor=actor)
    answers = [notes.submit(Notes.add, "b"), notes.submit(Notes.add, "c", twice=True)]
    assert notes.submit(Notes.all).result() == ["first", "b", "c", "c"]
    assert [answer.result() for answer in answers] == [2, 4]
    assert all(answer.done() for answer in answers)
    notes.close()


def test_a_subclass_is_asked_for_its_own_method(actor: bool):
    notes = Background(Loud, "first", actor=actor)
    notes.submit(Notes.add, "b")
    assert notes.submit(Notes.all).result() == ["first", "B"]
    notes.close()


def test_errors_come_back_as_they_were_raised(actor: bool):
    notes = Background(Notes, "first", actor=actor)
    with pytest.raises(HospitalError) as error:
        notes.submit(Notes.fail).result()
    assert (error.value.hospital, error.value.round, error.value.stage) == (3, 2, "train")
    notes.submit(Notes.add, "goes on")
    assert notes.submit(Notes.all).result() == ["first", "goes on"]
    notes.close()


def test_an_object_that_cannot_be_made_says_so_at_each_call(actor: bool):
    notes = Background(Notes, "bad", actor=actor)
    for _ in range(2):
        with pytest.raises(LedgerError, match="it does not open"):
            notes.submit(Notes.all).result()
    notes.abandon()


def test_nobody_waits_for_a_call():
    go = threading.Event()

    class Slow(Notes):
        def add(self, *args: Any, **keys: Any) -> int:
            assert go.wait(10)
            return 0

    notes = Background(Slow, actor=False)
    answer = notes.submit(Notes.add, "b")
    assert not answer.done()
    go.set()
    assert answer.result() == 0
    notes.close()


def test_closing_closes_the_object_and_lets_go_of_it():
    kept: list[Any] = []

    def make() -> Any:
        kept.append(Notes())
        return kept[0]

    notes = Background(make, actor=False)
    notes.close()
    assert kept[0].lines == ["", "closed"]
    with pytest.raises(RuntimeError):
        notes.submit(Notes.all)


def test_an_abandoned_object_is_waited_for_no_longer_than_allowed_and_closed_once_it_can_be():
    go = threading.Event()

    class Slow(Notes):
        def wait(self) -> None:
            assert go.wait(10)

    kept = Slow()
    notes = Background(lambda: kept, actor=False)
    under_way, behind = notes.submit(Slow.wait), notes.submit(Notes.add, "never")
    began = time.monotonic()
    notes.abandon(0.1)
    assert 0.1 <= time.monotonic() - began < 2
    assert kept.lines == [""]
    go.set()
    under_way.result()
    with pytest.raises(CancelledError):
        behind.result()
    until(lambda: kept.lines == ["", "closed"])
    notes.abandon()  # nothing is left to do
