"""The network and its derivatives, against counting by hand, finite differences and a second implementation."""

import numpy as np
import pytest
import torch
from reference import logits

from engine.errors import DataError
from engine.model import ModelConfig, Network, build_network, initial_parameters, unflatten
from engine.oracles.base import Batch
from engine.oracles.build import choose_oracle
from engine.oracles.native import NativeUnavailable
from engine.oracles.torch import TorchOracle
from engine.pools.config import ExecutionConfig

TINY = Network(
    leads=2, window=23, rr=2, classes=3, channels=(2, 4, 2), kernels=(5, 3, 3), hidden=3, groups=2, pooled=2
)  # fmt: skip


def beats(n: int, dtype: type = np.float64, seed: int = 1) -> Batch:
    draw = np.random.default_rng(seed)
    x, rr = draw.normal(size=(n, TINY.leads, TINY.window)), draw.normal(size=(n, TINY.rr))
    return Batch(x.astype(dtype), rr.astype(dtype), draw.integers(0, TINY.classes, n))


def point(seed: int = 0) -> np.ndarray:
    """Parameters away from the zeros and ones of the start, float64."""
    return np.random.default_rng(seed).normal(0, 0.5, TINY.size)


@pytest.fixture(scope="module")
def oracle() -> TorchOracle:
    return TorchOracle(TINY)


# --- Parameters -------------------------------------------------------------------------------------------------------


def test_parameters_are_counted_by_hand():
    convolutions = (2 * 2 * 5 + 2) + (4 * 2 * 3 + 4) + (2 * 4 * 3 + 2)
    norms = 2 * (2 + 4 + 2)
    hidden = 3 * (2 * 2 + 2) + 3
    head = 3 * 3 + 3
    assert TINY.size == convolutions + norms + hidden + head == 22 + 28 + 26 + 16 + 21 + 12
    # the default: 16, 32, 64 channels, kernels 7, 5, 5, four pooled stretches, four RR features, five classes
    default = build_network(ModelConfig(), leads=1, window=360, rr=4, classes=5)
    assert default.size == (112 + 16) + 32 + (2560 + 32) + 64 + (10240 + 64) + 128 + (32 * 260 + 32) + (160 + 5)
    assert default.size == 21_765


def test_flat_vector_and_named_tensors_are_the_same_numbers():
    params = initial_parameters(TINY, 3)
    tensors = unflatten(params, TINY.layout)
    assert [(name, tensor.shape) for name, tensor in tensors.items()] == list(TINY.layout)
    np.testing.assert_array_equal(np.concatenate([t.ravel() for t in tensors.values()]), params)
    tensors["head.bias"][0] = 7.0  # views, not copies
    assert params[-3] == 7.0
    with pytest.raises(DataError, match=f"{TINY.size} values"):
        unflatten(params[:-1], TINY.layout)


def test_initial_parameters_depend_on_the_seed_alone():
    np.random.seed(1)  # nobody may listen to it
    torch.manual_seed(1)
    first = initial_parameters(TINY, 5)
    np.random.seed(2)
    torch.manual_seed(2)
    np.testing.assert_array_equal(initial_parameters(TINY, 5), first)
    assert first.dtype == np.float32
    assert (initial_parameters(TINY, 6) != first).sum() == 20 + 24 + 24 + 18 + 9  # every weight, no bias, no norm
    tensors = unflatten(first, TINY.layout)
    for name, tensor in tensors.items():
        if name.endswith("bias"):
            assert not tensor.any()
        elif name.startswith("norm"):
            assert (tensor == 1).all()
    bound = np.sqrt(6 / (2 * 3))  # He-uniform: two channels times three samples go into a unit of conv2
    assert 0.8 * bound < np.abs(tensors["conv2.weight"]).max() <= bound


# --- Derivatives ------------------------------------------------------------------------------------------------------


def test_gradient_is_the_central_difference_of_the_loss(oracle: TorchOracle):
    params, batch, step = point(), beats(7), 1e-6
    loss, gradient = oracle.gradient(params, batch)
    slope = np.empty_like(params)
    for i in range(TINY.size):
        ahead, behind = params.copy(), params.copy()
        ahead[i] += step
        behind[i] -= step
        slope[i] = (oracle.gradient(ahead, batch)[0] - oracle.gradient(behind, batch)[0]) / (2 * step)
    np.testing.assert_allclose(gradient, slope, atol=1e-8)
    assert np.abs(gradient).max() > 0.01
    # what the hospitals use is the same in float32
    single = oracle.gradient(params.astype(np.float32), beats(7, np.float32))
    assert single[0] == pytest.approx(loss, abs=1e-5)
    assert single[1].dtype == np.float32
    np.testing.assert_allclose(single[1], gradient, atol=1e-5)


def test_hessian_vector_is_the_central_difference_of_the_gradient(oracle: TorchOracle):
    params, batch, step = point(), beats(7), 1e-6
    vector = np.random.default_rng(4).normal(size=TINY.size)
    product = oracle.hessian_vector(params, batch, vector)
    ahead = oracle.gradient(params + step * vector, batch)[1]
    behind = oracle.gradient(params - step * vector, batch)[1]
    np.testing.assert_allclose(product, (ahead - behind) / (2 * step), atol=1e-7)
    assert np.abs(product).max() > 0.01
    # a Hessian is symmetric: u'Hv = v'Hu
    other = np.random.default_rng(5).normal(size=TINY.size)
    assert other @ product == pytest.approx(vector @ oracle.hessian_vector(params, batch, other), rel=1e-9)


def test_loss_of_a_batch_is_the_mean_over_its_beats(oracle: TorchOracle):
    """So a partial batch counts like a full one, and one beat is a batch, too."""
    params, batch = point(), beats(5)
    single = [oracle.gradient(params, Batch(*(part[i : i + 1] for part in batch[:3]))) for i in range(5)]
    loss, gradient = oracle.gradient(params, batch)
    assert loss == pytest.approx(np.mean([each[0] for each in single]), rel=1e-12)
    np.testing.assert_allclose(gradient, np.mean([each[1] for each in single], axis=0), atol=1e-12)


def test_loss_is_the_cross_entropy_of_the_scores(oracle: TorchOracle):
    params, batch = point(), beats(6)
    scores = oracle.scores(params, batch.x, batch.rr)
    log_share = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    assert oracle.gradient(params, batch)[0] == pytest.approx(-log_share[np.arange(6), batch.y].mean(), rel=1e-12)


def test_the_weighted_and_shifted_loss_is_that_of_its_formula(oracle: TorchOracle):
    """mean_i w[y_i] (log sum_c exp(z_ic + o_c) - z_i,y_i - o_y_i), and its gradient the central difference."""
    params, batch, step = point(), beats(6), 1e-6
    weight, offset = np.array([0.5, 2.0, 3.0]), np.array([-1.0, 0.0, 2.5])
    changed = batch._replace(class_weight=weight, logit_offset=offset)
    scores = oracle.scores(params, batch.x, batch.rr) + offset
    losses = np.log(np.exp(scores).sum(1)) - scores[np.arange(6), batch.y]
    loss, gradient = oracle.gradient(params, changed)
    assert loss == pytest.approx((weight[batch.y] * losses).mean(), rel=1e-12)
    direction = np.random.default_rng(6).normal(size=TINY.size)
    ahead = oracle.gradient(params + step * direction, changed)
    behind = oracle.gradient(params - step * direction, changed)
    assert gradient @ direction == pytest.approx((ahead[0] - behind[0]) / (2 * step), rel=1e-6)
    product = oracle.hessian_vector(params, changed, direction)
    np.testing.assert_allclose(product, (ahead[1] - behind[1]) / (2 * step), atol=1e-6)
    # the offset moves the loss alone: a constant one changes nothing
    same = oracle.gradient(params, batch._replace(logit_offset=np.full(3, 7.0)))[1]
    np.testing.assert_allclose(same, oracle.gradient(params, batch)[1], atol=1e-12)


def test_nothing_that_is_handed_over_is_changed(oracle: TorchOracle):
    params, vector, batch = point(), point(1), beats(4)
    for array in (params, vector, *batch[:3]):
        array.setflags(write=False)  # as the views that come through Ray and from a mapped file
    before = params.copy()
    oracle.gradient(params, batch)
    oracle.hessian_vector(params, batch, vector)
    oracle.scores(params, batch.x, batch.rr)
    np.testing.assert_array_equal(params, before)


# --- Scores -----------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_network_written_down_again(oracle: TorchOracle):
    params, batch = point(2).astype(np.float32), beats(4, np.float32)
    expected = logits(TINY, params, batch.x, batch.rr)
    np.testing.assert_allclose(oracle.scores(params, batch.x, batch.rr), expected, atol=1e-4)
    assert np.ptp(expected, axis=0).min() > 0.01  # they tell beats apart


def test_scores_do_not_depend_on_the_evaluation_batch():
    params, batch = point(2).astype(np.float32), beats(37, np.float32)
    whole = TorchOracle(TINY).scores(params, batch.x, batch.rr)
    assert whole.shape == (37, 3)
    for size in (1, 8, 36, 37):
        part = TorchOracle(TINY, size).scores(params, batch.x, batch.rr)
        np.testing.assert_allclose(part, whole, atol=1e-5)
        np.testing.assert_array_equal(part.argmax(1), whole.argmax(1))


def test_no_beats_give_no_scores(oracle: TorchOracle):
    batch = beats(0, np.float32)
    scores = oracle.scores(point().astype(np.float32), batch.x, batch.rr)
    assert scores.shape == (0, 3)
    assert scores.dtype == np.float32


def test_an_oracle_computes_on_one_thread_and_repeats_itself():
    torch.set_num_threads(2)
    oracle = TorchOracle(TINY)
    assert torch.get_num_threads() == 1
    params, batch = point().astype(np.float32), beats(64, np.float32)
    first = oracle.gradient(params, batch)
    again = TorchOracle(TINY).gradient(params, batch)
    assert first[0] == again[0]
    np.testing.assert_array_equal(first[1], again[1])


def test_without_a_compiler_torch_takes_over_and_says_so_once(monkeypatch: pytest.MonkeyPatch):
    def unavailable(*_):
        raise NativeUnavailable("There is no C++ compiler.")

    monkeypatch.setattr("engine.oracles.native.compile_kernel", unavailable)
    said: list[str] = []
    assert choose_oracle(ExecutionConfig(pool="threads"), TINY, said.append) == "torch"
    assert said == ["gradients by torch, about five times slower than the native kernel: There is no C++ compiler."]
    with pytest.raises(NativeUnavailable):  # asked for by name, it is not silently something else
        choose_oracle(ExecutionConfig(oracle="native"), TINY, said.append)
    assert choose_oracle(ExecutionConfig(oracle="torch"), TINY, said.append) == "torch"
    assert len(said) == 1


def test_a_gpu_stacks_the_hospitals_of_one_process_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("engine.oracles.build._has_gpu", lambda: True)
    monkeypatch.setattr("engine.oracles.native.compile_kernel", lambda network: None)
    for pool, expected in (("inprocess", "stacked"), ("ray", "native"), ("threads", "native")):
        assert choose_oracle(ExecutionConfig(pool=pool), TINY, print) == expected
