"""The residual network: what goes in is added to what comes out, with channels of zeros behind it."""

import numpy as np
import pytest

from engine.errors import ConfigError
from engine.model import ModelConfig, Network, build_network, initial_parameters, unflatten
from engine.oracles.base import Batch
from engine.oracles.build import choose_oracle
from engine.oracles.torch import TorchOracle
from engine.pools.config import ExecutionConfig

CONFIG = ModelConfig(channels=(2, 2, 4), kernels=(1, 1, 1), hidden=4, groups=1, pooled=1, residual=True)


def network(residual: bool = True) -> Network:
    found = build_network(CONFIG.model_copy(update={"residual": residual}), 1, 16, 0, 2)
    assert isinstance(found, Network)
    return found


def test_a_layer_that_does_nothing_passes_on_what_it_was_given():
    """The second and third norm are switched off, so what reaches the head is the first layer's output: its two channels' mean over time
    after two maxima, and zeros in the third and fourth channel."""
    net = network()
    params = initial_parameters(net, 0)
    tensors = unflatten(params, net.layout)
    for name in ("norm2", "norm3"):
        tensors[f"{name}.weight"][:] = 0
        tensors[f"{name}.bias"][:] = 0
    tensors["conv1.weight"][:, 0, 0] = [1, -1]
    tensors["conv1.bias"][:] = 0
    tensors["hidden.weight"][:] = np.eye(4)
    tensors["hidden.bias"][:] = 0
    tensors["head.weight"][:] = [[1, 0, 0, 0], [0, 1, 10, 10]]
    tensors["head.bias"][:] = 0
    x = np.arange(16, dtype=np.float32)[None, None]
    taken = x[0, 0, ::2]  # by two
    # GroupNorm over both channels, +x and -x: mean 0, variance the mean square
    scale = np.sqrt((taken**2).mean() + 1e-5)
    up, down = np.maximum(taken, 0) / scale, np.maximum(-taken, 0) / scale
    pooled = [v.reshape(-1, 2).max(1).reshape(-1, 2).max(1).mean() for v in (up, down)]
    scores = TorchOracle(net).scores(params, x, np.zeros((1, 0), np.float32))
    assert scores[0].tolist() == pytest.approx(pooled, rel=1e-5)
    plain = TorchOracle(network(residual=False)).scores(params, x, np.zeros((1, 0), np.float32))
    assert plain[0].tolist() == [0, 0]  # nothing comes through


def test_it_has_the_same_parameters_and_another_gradient():
    assert network().layout == network(residual=False).layout
    params, draw = initial_parameters(network(), 0), np.random.default_rng(0)
    batch = Batch(draw.normal(size=(4, 1, 16)).astype(np.float32), np.zeros((4, 0), np.float32), np.array([0, 1, 1, 0]))
    gradient = TorchOracle(network()).gradient(params, batch)[1]
    step = 1e-2 * gradient / np.linalg.norm(gradient)
    up, down = (TorchOracle(network()).gradient(params + sign * step, batch)[0] for sign in (1, -1))
    assert (up - down) / 2e-2 == pytest.approx(np.linalg.norm(gradient), rel=0.05)
    assert not np.allclose(gradient, TorchOracle(network(residual=False)).gradient(params, batch)[1])


def test_torch_computes_it():
    assert choose_oracle(ExecutionConfig(), network(), print) == "torch"
    with pytest.raises(ConfigError, match=r"execution.oracle is native, but model.residual needs torch"):
        choose_oracle(ExecutionConfig(oracle="native"), network(), print)


def test_channels_that_fall_are_refused():
    with pytest.raises(ValueError, match=r"model.channels must not fall"):
        ModelConfig(channels=(16, 8, 64), groups=8, residual=True)
