"""Hospitals that score each other's updates."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from reference import f32

from engine.errors import HospitalError
from engine.messages import Asked, Taken, Update
from engine.schedule.judges import Peers


class Pool:
    """Judge j gets as many of its 10 beats right as the model's only parameter says, less j; judge 3 fails."""

    width = 1
    train = finish = restore = close = None

    def validate(self, round: int, params: np.ndarray, ids: Sequence[int]) -> list[Any]:
        right = [int(params[0]) - judge for judge in ids]
        return [
            HospitalError(j, round, "validate", "boom") if j == 3 else np.array([[r, 10 - r], [0, 0]])
            for j, r in zip(ids, right, strict=True)
        ]


def test_each_update_is_scored_by_the_others_that_have_validation_beats():
    taken = Taken(tuple(Update(h, f32(h), 1, 0.0, 1) for h in (0, 1, 2, 3)), (), None)
    verdicts = Peers(Pool(), judges=(0, 1, 3))(Asked(1, (0, 1, 2, 3), f32(5)), taken)
    # the model that update h makes is 5 + h; hospital 2 has no validation beats, 3 fails
    assert verdicts == {0: {1: (4, 10)}, 1: {0: (6, 10)}, 2: {0: (7, 10), 1: (6, 10)}, 3: {0: (8, 10), 1: (7, 10)}}
