"""Optimisers of the server, two steps by hand."""

import numpy as np
import pytest
from reference import f32

from engine.aggregation.config import ServerConfig
from engine.aggregation.server import build_step, plain


def two_steps(method: str, **settings: float) -> list[float]:
    """The model after directions 1 and -0.5 from 10."""
    step = build_step(ServerConfig(method=method, **settings))
    params, memory, seen = f32(10), {}, []
    for direction in (1.0, -0.5):
        params, memory = step(params, np.array([direction]), memory, 1)
        assert params.dtype == np.float32
        seen.append(float(params[0]))
    return seen


def test_plain_adds_the_direction_and_remembers_nothing():
    assert two_steps("none") == [11.0, 10.5]
    assert plain(f32(0), np.array([1.0]), {}, 1)[1] == {}


def test_momentum_by_hand():
    # m = 1, then 0.5 * 1 - 0.5 = 0; r = 2
    assert two_steps("momentum", momentum=0.5, learning_rate=2.0) == [12.0, 12.0]
    # without past and at rate 1 it is plain
    assert two_steps("momentum", momentum=0.0) == two_steps("none")


def test_adam_by_hand():
    # b1 = 0.5, b2 = 0.75, t = 0.5, r = 1; m = 0.5, v = 0.75 * 0.25 + 0.25 * 1 = 0.4375
    first = 10 + 0.5 / (0.4375**0.5 + 0.5)
    # m = 0.5 * 0.5 - 0.25 = 0, so the second step stays
    assert two_steps("adam", momentum=0.5, beta2=0.75, tau=0.5) == pytest.approx([first, first], abs=1e-6)


def test_yogi_by_hand():
    # v = 0.25 - 0.25 * 1 * sign(0.25 - 1) = 0.5; then m = 0.25 * 0.5 + 0.75 * -0.5 = -0.25 with b1 = 0.5: m = 0
    first = 10 + 0.5 / (0.5**0.5 + 0.5)
    assert two_steps("yogi", momentum=0.5, beta2=0.75, tau=0.5) == pytest.approx([first, first], abs=1e-6)


def test_yogi_moves_its_squares_by_less_than_adam_where_they_are_large():
    step = build_step(ServerConfig(method="yogi", momentum=0.0, beta2=0.5, tau=2.0))
    _, memory = step(f32(0), np.array([1.0]), {}, 1)
    assert memory["v"].tolist() == [4 - 0.5 * 1]  # adam: 0.5 * 4 + 0.5 * 1 = 2.5


def test_a_rate_that_falls_takes_less_of_the_same_step():
    """Without a past, momentum takes the direction itself: of four rounds 1, 3/4, 2/4, 1/4 of it, or (1 + cos) / 2 at 0, 45, 90, 135 degrees."""
    for rate, expected in (("falling", [1, 0.75, 0.5, 0.25]), ("cosine", [1, 0.8535534, 0.5, 0.1464466])):
        step = build_step(ServerConfig(method="momentum", momentum=0.0, rate=rate), rounds=4)
        steps = [float(step(f32(0), np.array([1.0]), {}, number)[0][0]) for number in (1, 2, 3, 4)]
        assert steps == pytest.approx(expected, abs=2**-20)
        assert steps[:3:2] == expected[:3:2]
    config = ServerConfig(method="adam", rate="cosine")
    assert config.used(4) == {**ServerConfig(method="adam").used(4), "rate": "cosine", "rounds": 4}
    assert ServerConfig(rate="cosine").used(4) == {"method": "none"}  # nobody reads it


@pytest.mark.parametrize("method", ["momentum", "adam", "yogi"])
def test_a_step_writes_to_nothing_it_was_given(method: str):
    step = build_step(ServerConfig(method=method))
    params, direction = f32(1, 2), np.array([0.5, -0.5])
    _, memory = step(params, direction, {}, 1)
    for array in (params, direction, *memory.values()):
        array.setflags(write=False)
    step(params, direction, memory, 2)


def test_only_what_the_method_reads_is_used():
    assert ServerConfig().used(9) == {"method": "none"}
    assert list(ServerConfig(method="momentum").used(9)) == ["method", "learning_rate", "momentum"]
    assert list(ServerConfig(method="yogi").used(9)) == ["method", "learning_rate", "momentum", "beta2", "tau"]
