"""Stacked gradients and the lockstep equal the reference oracle; without a GPU the path runs on the CPU."""

import numpy as np
import pytest
from reference import work

from engine.algorithms.base import sgd
from engine.data.samples import Samples
from engine.model import ModelConfig, build_network, initial_parameters
from engine.oracles.base import Batch
from engine.oracles.stacked import Lockstep, StackedOracle
from engine.oracles.torch import TorchOracle

NETWORK = build_network(ModelConfig(channels=(8, 8, 16), hidden=8, groups=4, pooled=3), 2, 61, 2, 3)


def beats(n: int, seed: int) -> Batch:
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((n, NETWORK.leads, NETWORK.window)).astype(np.float32)
    return Batch(x, draw.standard_normal((n, 2)).astype(np.float32), draw.integers(0, 3, n).astype(np.int8))


def test_each_hospitals_gradient_is_that_of_the_reference_whatever_the_others_ask():
    sizes = [32, 7, 1, 32]
    params = np.stack([initial_parameters(NETWORK, seed) for seed in range(len(sizes))])
    batches = [beats(n, seed) for seed, n in enumerate(sizes)]
    losses, gradients = StackedOracle(NETWORK, "cpu").gradients(params, batches)
    reference = TorchOracle(NETWORK)
    for i, batch in enumerate(batches):
        loss, gradient = reference.gradient(params[i], batch)
        assert losses[i] == pytest.approx(loss, rel=1e-6)
        assert np.abs(gradients[i] - gradient).max() <= 1e-5 * np.abs(gradient).max()


def test_hospitals_may_have_losses_of_their_own():
    params = np.stack([initial_parameters(NETWORK, seed) for seed in range(4)])
    weight, offset = np.array([0.2, 1, 3], np.float32), np.array([-1, 0.5, 2], np.float32)
    batches = [
        beats(9, 0),
        beats(5, 1)._replace(class_weight=weight),
        beats(7, 2)._replace(logit_offset=offset),
        beats(9, 3)._replace(class_weight=weight, logit_offset=offset),
    ]
    losses, gradients = StackedOracle(NETWORK, "cpu").gradients(params, batches)
    reference = TorchOracle(NETWORK)
    for i, batch in enumerate(batches):
        loss, gradient = reference.gradient(params[i], batch)
        assert losses[i] == pytest.approx(loss, rel=1e-6)
        assert np.abs(gradients[i] - gradient).max() <= 1e-5 * np.abs(gradient).max()


def test_training_in_lockstep_equals_training_alone():
    reference = TorchOracle(NETWORK)
    start = initial_parameters(NETWORK, 0)
    parts = [Samples(*beats(n, seed)[:3], index=np.arange(n)) for seed, n in enumerate((40, 9, 25))]

    def tasks(oracle):
        # unequal numbers of steps: some hospitals are done while others still ask
        return [lambda i=i: sgd(work(oracle, start, parts[i], seed=i), 3 + 2 * i, 8, 0.1) for i in range(len(parts))]

    lockstep = Lockstep(StackedOracle(NETWORK, "cpu"), reference)
    for (together, loss), (alone, expected) in zip(
        lockstep.run(tasks(lockstep)), [task() for task in tasks(reference)], strict=True
    ):
        np.testing.assert_allclose(together, alone, atol=2e-6)
        assert loss == pytest.approx(expected, rel=1e-5)


def test_requests_are_answered_together():
    sizes = []

    class Counting(StackedOracle):
        def gradients(self, params, batches):
            sizes.append(len(batches))
            return super().gradients(params, batches)

    lockstep = Lockstep(Counting(NETWORK, "cpu"), TorchOracle(NETWORK))
    start = initial_parameters(NETWORK, 0)
    part = Samples(*beats(16, 0)[:3], index=np.arange(16))
    lockstep.run([lambda s=s: sgd(work(lockstep, start, part), s, 8, 0.1) for s in (1, 2, 4)])
    assert sizes == [3, 2, 1, 1]


def test_a_failing_task_is_raised_and_holds_up_nobody():
    lockstep = Lockstep(StackedOracle(NETWORK, "cpu"), TorchOracle(NETWORK))
    start = initial_parameters(NETWORK, 0)
    part = Samples(*beats(16, 0)[:3], index=np.arange(16))

    def broken():
        raise ValueError("no beats")

    with pytest.raises(ValueError, match="no beats"):
        lockstep.run([broken, lambda: sgd(work(lockstep, start, part), 2, 8, 0.1)])
    with pytest.raises(ValueError, match="broadcast"):  # a complaint about the shape reaches the task that asked
        lockstep.run([lambda: lockstep.gradient(start, Batch(part.x[..., :-1], part.rr, part.y))])
