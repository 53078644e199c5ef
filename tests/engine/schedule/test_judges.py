"""Hospitals that score each other's updates."""

from collections.abc import Sequence
from typing import Any

from reference import f32

from engine.errors import HospitalError
from engine.messages import Asked, Opinion, Taken, Update
from engine.schedule.judges import Peers


class Pool:
    """Judge j gets as many of its 10 beats right as the model's only parameter says, less j; judge 3 fails."""

    width = 1
    train = validate = finish = restore = close = None

    def judge(self, asked: Asked, updates: Sequence[Update], ids: Sequence[int]) -> list[Any]:
        return [
            HospitalError(j, asked.round, "judge", "boom")
            if j == 3
            else Opinion(
                {u.hospital: (int(asked.params[0] + u.vector[0]) - j, 10) for u in updates if u.hospital != j},
                b"%d" % j,
            )
            for j in ids
        ]


def test_each_update_is_scored_by_the_others_that_have_validation_beats():
    taken = Taken(tuple(Update(h, f32(h), 1, 0.0, 1) for h in (0, 1, 2, 3)), (), None)
    judged = Peers(Pool(), judges=(0, 1, 3))(Asked(1, (0, 1, 2, 3), f32(5)), taken)
    # the model that update h makes is 5 + h; hospital 2 has no validation beats, 3 fails
    assert judged.verdicts == {
        0: {1: (4, 10)},
        1: {0: (6, 10)},
        2: {0: (7, 10), 1: (6, 10)},
        3: {0: (8, 10), 1: (7, 10)},
    }
    assert judged.signatures == {0: b"0", 1: b"1"}
