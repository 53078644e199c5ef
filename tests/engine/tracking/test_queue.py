"""The queue before a store: nothing is lost, nothing changes its place, whatever becomes of the store."""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import JumpingClock
from engine.errors import PulseLedgerError
from engine.tracking.queue import (
    BATCH,
    KINDS,
    LONGEST_WAIT,
    SPOOL,
    TRIES,
    Artifacts,
    Away,
    Call,
    Finish,
    Model,
    Points,
    Queue,
    Single,
    Tags,
    read_spool,
    to_line,
)


class Shelf:
    """A store in memory.

    Attributes:
        away: why it cannot be reached, or nothing.
        refuses: calls of these keys for good.
        hiccups: how many more calls fail in a way that may pass, while the store answers.
        taken: what was done, in order; points as they were sent together.
        backs: what `worked` was told.
    """

    def __init__(self) -> None:
        self.away = ""
        self.refuses: set[str] = set()
        self.hiccups = 0
        self.taken: list[Any] = []
        self.backs: list[bool] = []

    def connect(self) -> None:
        if self.away:
            raise Away(self.away)

    def answers(self) -> bool:
        return not self.away

    def passes(self, error: Exception) -> bool:
        return isinstance(error, ConnectionError)

    def do(self, call: Call) -> None:
        self._take([call], call)

    def send(self, calls: Sequence[Points | Single]) -> None:
        self._take(calls, list(calls))

    def worked(self, back: bool) -> None:
        self.backs.append(back)

    def _take(self, calls: Sequence[Call], what: Any) -> None:
        if self.hiccups:
            self.hiccups -= 1
            raise ConnectionError("try again")
        if any(call.key in self.refuses for call in calls):
            raise ValueError(f"not {calls[0].key}\nfor reasons")
        self.taken.append(what)

    def flat(self) -> list[Call]:
        return [call for what in self.taken for call in (what if isinstance(what, list) else [what])]


def points(key: str, step: int, number: int = 1) -> Points:
    return Points(key, 17, step, {f"m{i}": float(step) for i in range(number)})


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def clock() -> JumpingClock:
    return JumpingClock()


def put(queue: Queue, *calls: Call) -> None:
    for call in calls:
        queue.put(call)


# --- Order ------------------------------------------------------------------------------------------------------------


def test_points_of_a_run_are_sent_together_before_what_was_said_of_it_later(shelf):
    queue = Queue(shelf)
    first, other, second = points("a", 1), points("b", 1), Single("a", 17, {"x": 0.5})
    tags, late = Tags("a", 17, {"t": "1"}), points("a", 2)
    put(queue, first, other, second, tags, late)
    assert (len(queue), shelf.taken) == (5, [])
    queue.work()
    assert shelf.taken == [[first, second], tags, [other], [late]]
    assert (len(queue), queue.state()) == (0, "")


def test_whole_calls_are_sent_as_many_points_at_a_time_as_mlflow_takes(shelf):
    queue = Queue(shelf)
    calls = [points("a", step, 400) for step in range(5)] + [points("a", 5, BATCH + 1)]
    put(queue, *calls)
    queue.work()
    assert shelf.taken == [calls[:2], calls[2:4], calls[4:5], calls[5:]]


def test_what_is_refused_for_good_does_not_hold_up_the_rest(shelf):
    queue = Queue(shelf)
    shelf.refuses = {"b", "c"}
    kept = [Tags("a", 17, {}), Tags("d", 17, {})]
    put(queue, kept[0], points("b", 1), Tags("c", 17, {}), kept[1])
    with pytest.raises(PulseLedgerError) as error:
        queue.work()
    assert str(error.value) == "ValueError: not c; ValueError: not b"
    assert shelf.taken == kept
    queue.work()  # it is said once


def test_what_is_refused_by_a_store_that_is_not_there_waits(shelf, clock):
    """As by a proxy before it, or for a password that has run out."""
    queue = Queue(shelf, clock=clock)
    call = Tags("a", 17, {})
    put(queue, call)
    shelf.refuses, shelf.answers = {"a"}, lambda: False
    queue.work()
    assert queue.state() == "the store is away (not a); 1 entries are not written"
    shelf.refuses = set()
    queue.work(now=True)
    assert shelf.taken == [call]


def test_a_caller_who_is_not_to_hear_of_it_leaves_it_to_the_next(shelf):
    queue = Queue(shelf)
    shelf.refuses = {"a"}
    put(queue, Tags("a", 17, {}))
    queue.work_unheard()
    with pytest.raises(PulseLedgerError, match=r"^ValueError: not a$"):
        queue.work()


def test_a_call_that_fails_again_and_again_while_the_store_answers_is_dropped(shelf, clock):
    queue = Queue(shelf, clock=clock)
    shelf.hiccups = TRIES
    put(queue, Tags("a", 17, {}), Tags("b", 17, {}))
    for _ in range(TRIES - 1):
        queue.work()
        assert (queue.away, len(queue)) == (True, 2)
        clock.sleep(LONGEST_WAIT)
    with pytest.raises(PulseLedgerError, match=r"^ConnectionError: try again$"):
        queue.work()
    assert shelf.taken == [Tags("b", 17, {})]


# --- Away -------------------------------------------------------------------------------------------------------------


def test_waiting_doubles_up_to_a_minute_and_begins_anew(shelf, clock):
    queue = Queue(shelf, clock=clock)
    shelf.away = "nobody answers"
    put(queue, Tags("a", 17, {}))
    waits = []
    for _ in range(9):
        queue.work()
        waits.append(queue.due - clock.now())
        clock.sleep(waits[-1] / 2)
        queue.work()  # too early: it is not tried
        assert queue.due - clock.now() == waits[-1] / 2
        clock.sleep(waits[-1] / 2)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    shelf.away = ""
    queue.work()
    shelf.away = "again"
    queue.work()
    assert queue.due - clock.now() == 1
    shelf.away = ""
    put(queue, Tags("b", 17, {}))
    queue.work(now=True)
    assert shelf.taken == [Tags("a", 17, {}), Tags("b", 17, {})]
    assert shelf.backs == [True, True]


def test_the_spool_holds_the_queue_while_the_store_is_away_and_nothing_else(shelf, clock, tmp_path: Path):
    spool = tmp_path / "study" / SPOOL
    queue = Queue(shelf, spool, clock)
    put(queue, Tags("a", 17, {"b": "c"}))
    queue.work()
    assert not spool.exists()
    shelf.away = "no store here"
    queue.work()
    put(queue, points("a", 1), points("a", 2))
    assert read_spool(spool) == [points("a", 1), points("a", 2)]
    assert queue.state() == f"the store is away (no store here); 2 entries wait in {spool} for the next start"
    shelf.away = ""
    queue.work(now=True)
    assert shelf.taken[1:] == [[points("a", 1), points("a", 2)]]
    assert not spool.exists()


def test_without_a_spool_it_is_said_that_nothing_is_written(shelf):
    queue = Queue(shelf)
    shelf.away = "no store here"
    put(queue, points("a", 1))
    queue.work()
    assert queue.state() == "the store is away (no store here); 1 entries are not written"


def test_the_next_process_sends_what_the_last_one_left_before_its_own(shelf, clock, tmp_path: Path):
    spool = tmp_path / SPOOL
    with spool.open("w") as file:
        file.write(to_line(Tags("a", 17, {}), tmp_path) + to_line(Finish("a", 18, "PRUNED"), tmp_path))
        file.write('["points", "a", 17')  # killed while it wrote
    queue = Queue(shelf, spool, clock)
    put(queue, Tags("a", 19, {"later": "1"}))
    queue.work()
    assert shelf.taken == [Tags("a", 17, {}), Finish("a", 18, "PRUNED"), Tags("a", 19, {"later": "1"})]
    assert not spool.exists()


def test_two_processes_do_not_write_from_one_spool_at_a_time(shelf, clock, tmp_path: Path):
    """The tracker of a killed driver lives on for a moment: both would make a run, and lose the other's spool."""
    spool = tmp_path / SPOOL
    old, new = Queue(shelf, spool, clock), Queue(shelf, spool, clock)
    shelf.away = "nobody answers"
    put(old, points("a", 1))
    old.work()
    left = spool.read_text()
    shelf.away = ""
    put(new, points("a", 2))
    new.work()
    assert new.state().startswith("the store is away (the tracker of an earlier process still writes); 1 entries wait")
    put(new, points("a", 3))
    assert (spool.read_text(), shelf.taken) == (left, [])
    old.release()  # as the end of its process does
    new.work(now=True)
    assert shelf.flat() == [points("a", 1), points("a", 2), points("a", 3)]
    assert not spool.exists()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0, 100)), max_size=20), st.booleans())
def test_every_call_is_done_once_and_those_of_a_run_in_order(tmp_path_factory, story, restart: bool):
    """Steps of (run, whether the store is away, seconds until the next), with a process that ends in the middle."""
    shelf, clock, spool = Shelf(), JumpingClock(), tmp_path_factory.mktemp("story") / SPOOL
    queue = Queue(shelf, spool, clock)
    said: dict[str, list[Call]] = {}
    for step, (key, away, seconds) in enumerate(story):
        shelf.away = "away" if away else ""
        call = points(key, step) if step % 3 else Tags(key, step, {})
        said.setdefault(key, []).append(call)
        queue.put(call)
        queue.work()
        clock.sleep(seconds)
        if restart and step == len(story) // 2:
            queue.release()
            queue = Queue(shelf, spool, clock)
    shelf.away = ""
    queue.work(now=True)
    assert len(queue) == 0
    assert not spool.exists()
    done = shelf.flat()
    assert {key: [call for call in done if call.key == key] for key in said} == said
    assert len(done) == len(story)


# --- Lines ------------------------------------------------------------------------------------------------------------


def values(kind: Any) -> st.SearchStrategy[Any]:
    if get_origin(kind) is dict:
        return st.dictionaries(st.text(max_size=3), values(get_args(kind)[1]), max_size=2)
    if get_origin(kind) is list:
        return st.lists(st.text(max_size=3), max_size=2)
    texts = st.text(max_size=5)
    floats = st.floats(allow_nan=False, allow_infinity=False)
    return {str: texts, int: st.integers(), float: floats, str | None: st.none() | texts}[kind]


def types(kind: type[Call]) -> dict[str, Any]:
    from typing import get_type_hints

    return {field.name: get_type_hints(kind)[field.name] for field in fields(kind)}


CALLS = st.one_of(*(st.builds(kind, **{n: values(t) for n, t in types(kind).items()}) for kind in KINDS.values()))


@given(st.lists(CALLS, max_size=4))
def test_calls_come_back_from_the_spool_as_they_were(tmp_path_factory, calls: list[Call]):
    path = tmp_path_factory.mktemp("lines") / SPOOL
    lines = [to_line(call, path.parent) for call in calls]
    assert all(line.count("\n") == 1 and isinstance(json.loads(line), list) for line in lines)
    path.write_text("".join(lines), encoding="utf-8")
    assert read_spool(path) == calls
    if calls:
        path.write_text("".join(lines)[:-2], encoding="utf-8")
        assert read_spool(path) == calls[:-1]


def test_files_of_a_spool_move_with_its_folder(tmp_path: Path):
    """Those in the folder, and only those: elsewhere is elsewhere."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    calls = [
        Artifacts("a", 1, [str(first / "report"), "/elsewhere/x"], None),
        Model("a", 2, str(first / "seed-0"), None),
    ]
    (first / SPOOL).write_text("".join(to_line(call, first) for call in calls))
    first.rename(second)
    artifacts, model = read_spool(second / SPOOL)
    assert artifacts == Artifacts("a", 1, [str(second / "report"), "/elsewhere/x"], None)
    assert model == Model("a", 2, str(second / "seed-0"), None)


def test_a_spool_that_is_not_there_is_empty_and_what_is_no_call_is_left_out(tmp_path: Path):
    assert read_spool(tmp_path / SPOOL) == []
    (tmp_path / SPOOL).write_text('[]\n5\n["dance", "a", 1, []]\n["tags", "a", 1, []]\n["tags", "a", 1, [{}]]\nx\n')
    assert read_spool(tmp_path / SPOOL) == [Tags("a", 1, {})]
