"""The example of a policy that learns: its gradient by differences, what it learns, and that a run goes on with it."""

from pathlib import Path

import numpy as np
import pytest
from reference import ROOT, Interrupted, StopAfter, numbers

from engine.experiment import Place, run
from engine.messages import Measured
from engine.own.call import found
from engine.own.reference import reference
from engine.schedule.config import SelectionConfig
from engine.schedule.selection import Choice, build_policy

DQN = f"{ROOT}/examples/parts/dqn.py:dqn"


def test_a_step_goes_down_half_the_squared_difference():
    own = reference(SelectionConfig(policy=DQN).policy)
    network = found(own).__globals__["Network"](5, np.random.default_rng(3))
    inputs, target, rate = np.random.default_rng(4).normal(size=(3, 4)), 0.7, 1e-6

    def loss() -> float:
        return float((network.values(inputs).mean() - target) ** 2 / 2)

    before, last, first = loss(), network._last.copy(), network._first.copy()
    network.step(inputs, target, rate)
    moved = np.sum((network._last - last) ** 2) + np.sum((network._first - first) ** 2)
    assert before - loss() == pytest.approx(moved / rate, rel=1e-3)  # a step of length rate |g| lowers by rate |g|^2


def test_it_asks_more_often_for_the_hospital_whose_rounds_gain():
    """Three hospitals with few wrong predictions, and one with many, whose rounds alone make the model better."""
    policy = build_policy(SelectionConfig(policy=DQN, parameters={"explore": 0.2}))
    measured, right, asked = [], 1000, []
    for round in range(1, 61):
        (one,) = policy(Choice(round, (0, 1, 2, 3), 1, np.random.default_rng(round), (), tuple(measured)))
        asked.append(one)
        right += 100 * (one == 2)
        tables = {h: np.array([[90, 10], [10, 90]]) for h in (0, 1, 3)}
        measured.append(Measured(round, {one: 5}, {**tables, 2: np.array([[right, 9000 - right], [0, 1]])}))
    assert asked[30:].count(2) > 15  # by chance 7.5


def test_a_run_goes_on_with_it_bit_for_bit(tiny_config, tmp_path: Path):
    few = {"cohort.hospitals": 5, "data.simulated.patients": 6, "federation.rounds": 4, "federation.participation": 0.4}
    config = tiny_config(**few, **{"selection.policy": DQN, "selection.parameters": {"explore": 0.0}})
    straight = run(config, tmp_path / "straight")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "stumbling", Place(observers=(StopAfter(2),)))
    run(config, tmp_path / "stumbling")
    assert numbers(straight, tmp_path / "straight") == numbers(straight, tmp_path / "stumbling")
