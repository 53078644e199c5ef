"""What all judges must keep. New ones are added to `JUDGES`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from engine.committee.config import CommitteeConfig
from engine.committee.judges import Committee
from engine.messages import Asked, Commitment, Judges, Opinion, Taken, Update, Vote
from engine.schedule.judges import Peers, nobody

JUDGES: dict[str, Callable[[Any], Judges]] = {
    "nobody": lambda pool: nobody,
    "peers": lambda pool: Peers(pool, (0, 1, 2)),
    "committee": lambda pool: Committee(pool, CommitteeConfig(method="others"), (0, 1, 2), lambda asked: None),
}


class Pool:
    """Every judge gets three of its four beats right."""

    width = 1
    train = validate = finish = restore = close = None

    def judge(self, asked: Asked, updates: Sequence[Update], ids: Sequence[int]) -> list[Opinion]:
        return [Opinion({u.hospital: (3, 4) for u in updates if u.hospital != judge}, b"") for judge in ids]

    def commit(self, asked: Asked, updates: Sequence[Update], notice: Any, ids: Sequence[int]) -> list[Commitment]:
        return [Commitment(b"", b"") for _ in ids]

    def reveal(
        self, asked: Asked, updates: Sequence[Update], shown: Any, notice: Any, ids: Sequence[int]
    ) -> list[Vote]:
        return [Vote((4,), {u.hospital: (3,) for u in updates if u.hospital != judge}) for judge in ids]


@pytest.fixture(params=JUDGES)
def judges(request: pytest.FixtureRequest) -> Judges:
    return JUDGES[request.param](Pool())


def round_of(hospitals: Sequence[int]) -> tuple[Asked, Taken]:
    params = np.ones(3, np.float32)
    params.setflags(write=False)
    updates = tuple(Update(h, np.full(3, h, np.float32), 5, 0.0, 1) for h in hospitals)
    return Asked(1, tuple(hospitals), params), Taken(updates, (), None)


def test_verdicts_are_on_updates_of_the_round_and_nobody_judges_itself(judges: Judges):
    asked, taken = round_of([0, 1, 2])
    verdicts = judges(asked, taken).verdicts
    assert set(verdicts) <= {0, 1, 2}
    for hospital, given in verdicts.items():
        assert hospital not in given
        assert all(type(right) is int and type(all_) is int and 0 <= right <= all_ for right, all_ in given.values())


def test_the_same_round_gives_the_same_verdicts(judges: Judges):
    assert judges(*round_of([0, 2])) == judges(*round_of([0, 2]))


def test_one_update_alone_has_nobody_to_judge_it(judges: Judges):
    assert all(not given for given in judges(*round_of([1])).verdicts.values())
