"""The seam for privacy: every gradient of every algorithm goes through the mechanism."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from reference import Towards, f32, samples

from engine.algorithms.base import Work
from engine.algorithms.build import build_algorithm
from engine.algorithms.config import FederationConfig, PersonalisationConfig
from engine.privacy.base import NONE, Privacy

ALGORITHMS = [
    {"algorithm": "fedavg"},
    {"algorithm": "fedprox"},
    {"algorithm": "local"},
    {"algorithm": "centralised"},
    {"algorithm": "scaffold"},
    {"algorithm": "ditto"},
    {"algorithm": "perfedavg", "perfedavg": {"variant": "first-order", "stratified": False}},
    {"algorithm": "perfedavg", "perfedavg": {"variant": "difference", "stratified": False}},
]


def test_no_privacy_is_the_identity_and_costs_nothing():
    batch = samples([1.0, 3.0]).batch()
    assert NONE.gradient(Towards(), f32(0), batch) == Towards().gradient(f32(0), batch)
    gradient = f32(1, 2)
    assert NONE.noise(gradient) is gradient
    assert NONE.price(1000) is None


@pytest.mark.parametrize("settings", ALGORITHMS, ids=lambda s: "-".join([s["algorithm"], *s.get("perfedavg", {})]))
def test_every_gradient_goes_through_the_mechanism(settings: dict[str, Any]):
    taken: list[float] = []
    drawn: list[int] = []

    def batches(n: int, batch_size: int, draw: np.random.Generator):
        for positions in NONE.batches(n, batch_size, draw):
            drawn.append(len(positions))
            yield positions

    def gradient(oracle: Any, params: np.ndarray, batch: Any) -> tuple[float, np.ndarray]:
        taken.append(float(params[0]))
        return 0.0, f32(1)  # whatever the oracle would say

    half = Privacy("test", batches, gradient, lambda g: g / 2, lambda steps: {"steps": steps})
    algorithm = build_algorithm(FederationConfig(batch_size=2, **settings), PersonalisationConfig(steps=3))
    nobody: Any = None  # an oracle that was asked directly would be missed at once
    work = Work(nobody, (("w", (1,)),), f32(5), {}, samples(range(8)), np.random.default_rng(0), 1, half)
    result = algorithm.local(work)
    assert len(taken) == result.gradient_evaluations
    assert drawn
    personal, cost = algorithm.personalise(replace(work, state=result.state))
    if cost:  # three steps of half a gradient of one at the default rate of 0.1, or Per-FedAvg's 0.05
        rate = 0.05 if settings["algorithm"] == "perfedavg" else 0.1
        assert personal == pytest.approx([5 - 3 * rate / 2])
    assert len(taken) == result.gradient_evaluations + cost
