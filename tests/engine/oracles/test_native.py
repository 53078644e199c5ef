"""The native oracle against torch's: same numbers on any network, same bits twice, and a cache that can be trusted."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from reference import ROOT

from engine.model import FeatureNetwork, Network, initial_parameters
from engine.oracles import native
from engine.oracles.base import Batch
from engine.oracles.native import FLAGS, NativeOracle, NativeUnavailable, compile_kernel
from engine.oracles.torch import TorchOracle

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))),
    reason="There is no C++ compiler to build the kernel with (apt-get install g++).",
)
PORTABLE = tuple(flag for flag in FLAGS if flag != "-march=native")
STANDARD = Network(1, 252, 4, 4, (16, 32, 64), (7, 5, 5), 32, 8, 4)
# odd sizes everywhere: no channel count fills a vector, lengths are odd, stretches overlap, more stretches than samples
ODD = Network(3, 37, 1, 3, (3, 21, 6), (9, 1, 3), 5, 3, 7)
SMALL = Network(2, 60, 2, 5, (4, 8, 4), (3, 5, 3), 6, 2, 3)
TOLERANCE = 1e-5
FLAT = 1e-4  # a group of one channel that hardly moves: GroupNorm blows up the last bits, in torch too
PROFILE = settings(
    derandomize=True,  # a handful of networks, always the same: each is compiled once
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

oracle = cache(NativeOracle)
reference = cache(TorchOracle)


def parameters(network: Network, seed: int = 0) -> np.ndarray:
    """Initial ones, moved: zero biases and unit norms would hide mistakes."""
    moved = 0.1 * np.random.default_rng(seed).standard_normal(network.size)
    return initial_parameters(network, seed) + moved.astype(np.float32)


def beats(network: Network, n: int, seed: int = 0, magnitude: float = 1.0) -> Batch:
    draw = np.random.default_rng(seed)
    x = magnitude * draw.standard_normal((n, network.leads, network.window))
    rr = draw.standard_normal((n, network.rr))
    return Batch(x.astype(np.float32), rr.astype(np.float32), draw.integers(0, network.classes, n))


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    """Relative to the norm of `wanted`."""
    return float(np.linalg.norm(found.astype(np.float64) - wanted) / np.linalg.norm(wanted.astype(np.float64)))


def assert_agrees(
    tested: NativeOracle, network: Network, params: np.ndarray, batch: Batch, tolerance: float = TOLERANCE
) -> None:
    """Loss, gradient and scores.

    The gradient jumps where a ReLU's input crosses zero or two samples under a maximum cross. Now and then a case lies
    within rounding of such a place, and both answers are right; then the cases around it have to agree.
    """

    def difference(params: np.ndarray) -> float:
        loss, gradient = tested.gradient(params, batch)
        wanted_loss, wanted = reference(network).gradient(params, batch)
        assert loss == pytest.approx(wanted_loss, rel=tolerance)
        return distance(gradient, wanted)

    if difference(params) > tolerance:
        draw = np.random.default_rng(1)
        around = [params * (1 + 1e-3 * draw.standard_normal(params.shape)).astype(np.float32) for _ in range(4)]
        assert max(map(difference, around)) <= tolerance
    scores = tested.scores(params, batch.x, batch.rr)
    assert distance(scores, reference(network).scores(params, batch.x, batch.rr)) <= tolerance


@st.composite
def networks(draw: st.DrawFn) -> Network:
    groups = draw(st.integers(1, 4))
    channels = st.integers(1, 40 // groups).map(lambda share: share * groups)
    kernel = st.integers(0, 5).map(lambda half: 2 * half + 1)
    return Network(
        leads=draw(st.sampled_from((1, 2, 12))),
        window=draw(st.integers(16, 300)),
        rr=draw(st.integers(0, 6)),
        classes=draw(st.integers(2, 20)),
        channels=(draw(channels), draw(channels), draw(channels)),
        kernels=(draw(kernel), draw(kernel), draw(kernel)),
        hidden=draw(st.integers(1, 40)),
        groups=groups,
        pooled=draw(st.integers(1, 9)),
    )


def agrees(network: Network) -> None:
    for n in (1, 5):
        assert_agrees(oracle(network), network, parameters(network, n), beats(network, n, n))


@settings(PROFILE, max_examples=2)  # to compile one takes a second
@given(networks())
def test_any_network_agrees_with_torch(network: Network) -> None:
    agrees(network)


@pytest.mark.long
@settings(PROFILE, max_examples=30)
@given(networks())
def test_any_of_many_networks_agrees_with_torch(network: Network) -> None:
    agrees(network)


@settings(PROFILE, max_examples=40)
@given(
    network=st.sampled_from([STANDARD, ODD, SMALL]),
    n=st.integers(1, 40),
    seed=st.integers(0, 10_000),
    magnitude=st.sampled_from([1e-8, 1e-3, 1.0, 1e3, 1e6]),
)
def test_any_batch_agrees_with_torch(network: Network, n: int, seed: int, magnitude: float) -> None:
    # a nearly flat signal under few channels a group: GroupNorm multiplies the rounding of both oracles
    tolerance = FLAT if network is not STANDARD and magnitude < 1 else TOLERANCE
    assert_agrees(oracle(network), network, parameters(network, seed), beats(network, n, seed, magnitude), tolerance)


def test_a_long_batch_agrees_with_torch() -> None:
    assert_agrees(oracle(STANDARD), STANDARD, parameters(STANDARD), beats(STANDARD, 3000))


TIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "zero": lambda x: np.zeros_like(x),
    "constant": lambda x: np.full_like(x, 0.7),
    "steps": lambda x: np.repeat(x[..., : (x.shape[2] + 7) // 8], 8, axis=2)[..., : x.shape[2]],
    "one beat many times": lambda x: np.repeat(x[:1], len(x), axis=0),
}


@pytest.mark.parametrize("network", [STANDARD, ODD, SMALL], ids=["standard", "odd", "small"])
@pytest.mark.parametrize("tie", TIES)
def test_ties_go_to_the_first_as_in_torch(network: Network, tie: str) -> None:
    batch = beats(network, 9)
    batch = batch._replace(x=TIES[tie](batch.x))
    tolerance = FLAT if network is ODD and tie == "zero" else TOLERANCE
    assert_agrees(oracle(network), network, parameters(network), batch, tolerance)


@pytest.mark.parametrize("shift", [0, 1])
def test_no_gradient_where_relu_sees_exactly_zero(shift: int) -> None:
    """Untouched biases and norms on a beat without a signal: zero is what every ReLU sees, or all but the third."""
    params = initial_parameters(SMALL, 0)
    at = 0
    for name, shape in SMALL.layout:
        if name == "norm3.bias":
            params[at : at + shape[0]] = shift * np.linspace(0.5, 1, shape[0])
        at += int(np.prod(shape))
    assert_agrees(oracle(SMALL), SMALL, params, beats(SMALL, 4, magnitude=0.0))


def test_gradient_is_the_slope_of_the_loss() -> None:
    params, batch = parameters(STANDARD), beats(STANDARD, 32)
    _, gradient = oracle(STANDARD).gradient(params, batch)
    step = (0.003 * gradient / np.linalg.norm(gradient)).astype(np.float32)
    ahead, behind = (oracle(STANDARD).gradient(params + s, batch)[0] for s in (step, -step))
    assert ahead - behind == pytest.approx(2 * float(step @ gradient), rel=0.01)


@pytest.mark.parametrize("network", [STANDARD, ODD, SMALL], ids=["standard", "odd", "small"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
def test_a_changed_loss_is_the_same_in_both(network: Network, weighted: bool, shifted: bool) -> None:
    draw = np.random.default_rng(3)
    weight = draw.uniform(0.1, 5, network.classes).astype(np.float32) if weighted else None
    offset = draw.normal(0, 3, network.classes).astype(np.float32) if shifted else None
    for n in (1, 32):
        batch = beats(network, n, n)._replace(class_weight=weight, logit_offset=offset)
        assert_agrees(oracle(network), network, parameters(network, n), batch)


def test_weights_of_one_and_offsets_of_zero_change_no_bit() -> None:
    params, batch = parameters(STANDARD), beats(STANDARD, 32)
    ones, zeros = np.ones(STANDARD.classes, np.float32), np.zeros(STANDARD.classes, np.float32)
    plain = oracle(STANDARD).gradient(params, batch)
    changed = oracle(STANDARD).gradient(params, batch._replace(class_weight=ones, logit_offset=zeros))
    assert changed[0] == plain[0]
    assert changed[1].tobytes() == plain[1].tobytes()


def test_class_weights_weigh_the_beats() -> None:
    params, batch = parameters(SMALL), beats(SMALL, 5)
    weight = np.array([0, 2, 0.5, 1, 3])
    scale = weight[batch.y]
    each = [reference(SMALL).gradient(params, Batch(*(part[i : i + 1] for part in batch[:3]))) for i in range(5)]
    loss, gradient = oracle(SMALL).gradient(params, batch._replace(class_weight=weight))
    assert loss == pytest.approx(np.mean([s * one for s, (one, _) in zip(scale, each, strict=True)]), rel=TOLERANCE)
    assert distance(gradient, sum(s * g for s, (_, g) in zip(scale, each, strict=True)) / 5) <= TOLERANCE


@pytest.mark.parametrize("network", [STANDARD, ODD], ids=["standard", "odd"])
@pytest.mark.parametrize("quantile", [0.0, 0.4, 1.0])
def test_clipped_gradient_is_the_sum_of_clipped_gradients(network: Network, quantile: float) -> None:
    params, batch = parameters(network), beats(network, 8)
    each = [reference(network).gradient(params, Batch(*(part[i : i + 1] for part in batch[:3])))[1] for i in range(8)]
    norms = np.array([np.linalg.norm(gradient) for gradient in each])
    clip = float(np.quantile(norms, quantile)) * (1.01 if quantile else 0.5)
    found, clipped, zeroed = oracle(network).clipped_gradient(params, batch, clip)
    assert zeroed == 0
    assert distance(found, sum(g * min(1, clip / n) for g, n in zip(each, norms, strict=True))) <= TOLERANCE
    assert clipped == np.sum(norms > clip)
    one, *_ = oracle(network).clipped_gradient(params, Batch(*(part[:1] for part in batch[:3])), clip)
    assert np.linalg.norm(one) <= clip * (1 + 1e-6)


@pytest.mark.parametrize("made", [oracle, reference], ids=["native", "torch"])
def test_class_weights_change_a_beat_s_loss_before_its_gradient_is_clipped(made: Any) -> None:
    params, batch = parameters(SMALL), beats(SMALL, 6)
    weight = np.array([0.5, 1, 2, 3, 0], np.float32)
    each = [reference(SMALL).gradient(params, Batch(*(part[i : i + 1] for part in batch[:3])))[1] for i in range(6)]
    weighted = [weight[y] * g for y, g in zip(batch.y, each, strict=True)]
    clip = float(np.median([np.linalg.norm(g) for g in weighted]))
    found = made(SMALL).clipped_gradient(params, batch._replace(class_weight=weight), clip)
    wanted = sum(g * min(1, clip / max(np.linalg.norm(g), 1e-12)) for g in weighted)
    assert distance(found.total, wanted) <= TOLERANCE
    assert found.longer == sum(np.linalg.norm(g) > clip for g in weighted)


@pytest.mark.parametrize("made", [oracle, reference], ids=["native", "torch"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_gradient_that_is_not_finite_counts_zero_and_moves_no_other(made: Any, value: float) -> None:
    params, batch = parameters(SMALL), beats(SMALL, 5)
    batch.rr[2] = value
    others = Batch(*(np.delete(part, 2, axis=0) for part in batch[:3]))
    found, wanted = (made(SMALL).clipped_gradient(params, one, 1.0) for one in (batch, others))
    assert (found.zeroed, wanted.zeroed) == (1, 0)
    assert distance(found.total, wanted.total) <= (0 if made is oracle else 1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["params", "x", "rr"])
def test_what_is_not_finite_shows(value: float, where: str) -> None:
    params, batch = parameters(STANDARD), beats(STANDARD, 3)
    {"params": params, "x": batch.x[1, 0], "rr": batch.rr[1]}[where][3] = value
    loss, gradient = oracle(STANDARD).gradient(params, batch)
    assert not np.isfinite(loss)
    assert not np.isfinite(gradient).all()
    assert not np.isfinite(oracle(STANDARD).scores(params, batch.x, batch.rr)).all()


@pytest.mark.parametrize("name", [name for name, _ in STANDARD.layout])
def test_no_broken_parameter_is_swallowed(name: str) -> None:
    starts = np.cumsum([0] + [int(np.prod(shape)) for _, shape in STANDARD.layout])
    params = parameters(STANDARD)
    params[starts[[name for name, _ in STANDARD.layout].index(name)]] = np.nan
    assert np.isnan(oracle(STANDARD).gradient(params, beats(STANDARD, 2))[0])


RANDOM = FeatureNetwork(2, 30, 4, 3, 70, 5)  # 70 features fill no vectors


@pytest.mark.parametrize("n", [1, 5, 6, 13])
def test_the_features_network_agrees_with_torch(n: int) -> None:
    params = np.random.default_rng(1).standard_normal(RANDOM.size).astype(np.float32)
    batch = beats(RANDOM, n)._replace(class_weight=np.float32([1, 2, 0.5]), logit_offset=np.float32([0, 1, -1]))
    (loss, gradient), (right, wanted) = (made(RANDOM).gradient(params, batch) for made in (oracle, reference))
    assert loss == pytest.approx(right, rel=1e-5)
    assert distance(gradient, wanted) <= TOLERANCE
    one, other = (made(RANDOM).scores(params, batch.x, batch.rr) for made in (oracle, reference))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    plain = batch._replace(logit_offset=None)
    (total, longer, zeroed), wanted = (
        made(RANDOM).clipped_gradient(params, plain, 0.9) for made in (oracle, reference)
    )
    assert distance(total, wanted.total) <= TOLERANCE
    assert (longer, zeroed) == (wanted.longer, 0)


def test_features_are_one_long_and_each_beat_s_do_not_depend_on_the_others() -> None:
    """With a head of ones for a class, weights of a single feature show the features themselves."""
    batch = beats(RANDOM, 9)
    shown = []
    for feature in range(RANDOM.features):
        params = np.zeros(RANDOM.size, np.float32)
        params[feature] = 1
        shown.append(oracle(RANDOM).scores(params, batch.x, batch.rr)[:, 0])
    features = np.array(shown).T
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(features.mean(1), 0, atol=1e-6)
    params = np.ones(RANDOM.size, np.float32)
    together = oracle(RANDOM).scores(params, batch.x, batch.rr)
    alone = [oracle(RANDOM).scores(params, batch.x[i : i + 1], batch.rr[i : i + 1])[0] for i in range(9)]
    np.testing.assert_array_equal(together, alone)


def test_a_beat_that_is_not_finite_has_no_part_in_the_features_network_s_sum() -> None:
    params, batch = np.zeros(RANDOM.size, np.float32), beats(RANDOM, 7)
    wanted = oracle(RANDOM).clipped_gradient(params, Batch(*(np.delete(part, 3, axis=0) for part in batch[:3])), 1.0)
    batch.x[3, 0, 0] = np.nan
    found = oracle(RANDOM).clipped_gradient(params, batch, 1.0)
    assert found.zeroed == 1
    np.testing.assert_array_equal(found.total, wanted.total)
    assert np.isnan(oracle(RANDOM).gradient(params, batch)[0])


def test_same_bits_again_and_from_two_threads() -> None:
    params = parameters(STANDARD)
    batches = [beats(STANDARD, n, n) for n in (32, 31, 7, 1)]

    def everything(batch: Batch) -> bytes:
        loss, gradient = oracle(STANDARD).gradient(params, batch)
        total, *_ = oracle(STANDARD).clipped_gradient(params, batch, 1.0)
        scores = oracle(STANDARD).scores(params, batch.x, batch.rr)
        return np.float64(loss).tobytes() + gradient.tobytes() + total.tobytes() + scores.tobytes()

    once = [everything(batch) for batch in batches]
    assert [everything(batch) for batch in batches] == once
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(everything, batches * 20)) == once * 20


def test_a_beat_does_not_see_the_one_before() -> None:
    params, batch = parameters(ODD), beats(ODD, 6)
    batch.x[2] = np.nan
    scores = oracle(ODD).scores(params, batch.x, batch.rr)
    alone = [oracle(ODD).scores(params, batch.x[i : i + 1], batch.rr[i : i + 1])[0] for i in range(6)]
    np.testing.assert_array_equal(scores, alone)
    assert np.isfinite(np.delete(scores, 2, axis=0)).all()


def test_other_layouts_and_types_are_taken() -> None:
    params, batch = parameters(SMALL), beats(SMALL, 4)
    wanted = oracle(SMALL).gradient(params, batch)[1]
    other = Batch(np.asfortranarray(batch.x), batch.rr.astype(np.float64), batch.y.astype(np.int8))
    np.testing.assert_array_equal(oracle(SMALL).gradient(params, other)[1], wanted)
    assert oracle(SMALL).scores(params, batch.x[:0], batch.rr[:0]).shape == (0, 5)


def test_hessian_vector_is_torchs() -> None:
    network = ODD
    params, batch, vector = parameters(network), beats(network, 4), parameters(network, 1)
    draw = np.random.default_rng(2)
    changed = batch._replace(
        class_weight=draw.uniform(0.5, 2, network.classes).astype(np.float32),
        logit_offset=draw.standard_normal(network.classes).astype(np.float32),
    )
    for one in (batch, changed):
        wanted = reference(network).hessian_vector(params, one, vector)
        assert distance(oracle(network).hessian_vector(params, one, vector), wanted) <= TOLERANCE


def test_a_hessian_is_linear_and_symmetric() -> None:
    params, batch = parameters(ODD), beats(ODD, 6)
    u, v = parameters(ODD, 1), parameters(ODD, 2)
    one, other = (oracle(ODD).hessian_vector(params, batch, w) for w in (u, v))
    assert distance(oracle(ODD).hessian_vector(params, batch, 2 * u - v), 2 * one - other) <= TOLERANCE
    assert float(v.astype(float) @ one) == pytest.approx(float(u.astype(float) @ other), rel=1e-4)
    np.testing.assert_array_equal(oracle(ODD).hessian_vector(params, batch, np.zeros_like(u)), np.zeros_like(u))


def test_what_does_not_fit_is_refused() -> None:
    params, (x, rr, y) = parameters(SMALL), beats(SMALL, 4)[:3]
    gradient = oracle(SMALL).gradient
    for wrong in (
        Batch(x[..., 1:], rr, y),
        Batch(x[:, 1:], rr, y),
        Batch(x[1:], rr, y),
        Batch(x, rr[:, 1:], y),
        Batch(x, rr, y + 5),
        Batch(x, rr, y - 5),
        Batch(x, rr, y.astype(np.float32)),
        Batch(x, rr, y[:, None]),
        Batch(x[:0], rr[:0], y[:0]),
    ):
        with pytest.raises(ValueError, match=r"x|rr|y|beat"):
            gradient(params, wrong)
    with pytest.raises(ValueError, match="params"):
        gradient(params[1:], Batch(x, rr, y))
    for name in ("class_weight", "logit_offset"):
        with pytest.raises(ValueError, match=name):
            gradient(params, Batch(x, rr, y)._replace(**{name: np.ones(3)}))
    with pytest.raises(ValueError, match="clipped gradients know no logit offsets"):
        oracle(SMALL).clipped_gradient(params, Batch(x, rr, y, None, np.ones(5)), 1.0)
    with pytest.raises(ValueError, match="clip"):
        oracle(SMALL).clipped_gradient(params, Batch(x, rr, y), 0.0)
    with pytest.raises(ValueError, match="rr"):
        oracle(SMALL).scores(params, x, rr[1:])


ONLY_AVX2 = pytest.param(("-mavx2",), marks=pytest.mark.long)


@pytest.mark.parametrize("flags", [ONLY_AVX2, ("-mavx2", "-mfma"), ()], ids=["avx2", "avx2+fma", "baseline"])
def test_a_plainer_cpu_agrees_too(flags: tuple[str, ...]) -> None:
    if flags:
        if platform.machine() not in ("x86_64", "AMD64"):
            pytest.skip("AVX2 is for x86: run on a machine of that kind.")
        if any(flag[2:] not in Path("/proc/cpuinfo").read_text() for flag in flags):
            pytest.skip("This CPU has no AVX2: run on one that has.")
    tested = NativeOracle(ODD, (*PORTABLE, *flags))
    for n in (1, 8):
        assert_agrees(tested, ODD, parameters(ODD, n), beats(ODD, n, n))


@pytest.mark.skipif(not shutil.which("clang++"), reason="clang++ is not installed (apt-get install clang).")
def test_the_other_compiler_agrees_too() -> None:
    assert_agrees(NativeOracle(STANDARD, compiler="clang++"), STANDARD, parameters(STANDARD), beats(STANDARD, 8))


def test_torch_is_not_needed() -> None:
    code = (
        "import sys, numpy as np; from engine.model import Network; from engine.oracles.native import NativeOracle\n"
        "from engine.oracles.base import Batch\n"
        f"network = {SMALL!r}; oracle = NativeOracle(network); params = np.ones(network.size, np.float32)\n"
        "batch = Batch(np.ones((2, 2, 60), np.float32), np.ones((2, 2), np.float32), np.array([0, 1]))\n"
        "oracle.gradient(params, batch); oracle.scores(params, batch.x, batch.rr)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("PULSELEDGER_CACHE", str(tmp_path))
    return tmp_path / "native"


# the cache does not care how good the code is
QUICK = (*PORTABLE, "-O0")


def test_the_second_time_nothing_is_compiled(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = compile_kernel(SMALL, QUICK)
    assert list(fresh.iterdir()) == [path]
    monkeypatch.setattr(native, "_build", lambda *_: pytest.fail("compiled again"))
    assert compile_kernel(SMALL, QUICK) == path


def test_key_depends_on_all_that_shapes_the_library(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native, "_build", lambda command, source, path: None)
    paths = [compile_kernel(SMALL), compile_kernel(ODD), compile_kernel(SMALL, QUICK)]
    paths.append(compile_kernel(SMALL, product=True))
    monkeypatch.setattr(native, "_cpu", lambda: ["another"])
    paths.append(compile_kernel(SMALL))
    monkeypatch.setattr(native, "_version", lambda *command: "version 99")
    paths.append(compile_kernel(SMALL))
    (tmp_path / "other.cpp").write_text("// changed")
    monkeypatch.setattr(native, "SOURCE", tmp_path / "other.cpp")
    paths.append(compile_kernel(SMALL))
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("left", [20, 5000])
def test_a_damaged_library_is_built_again(fresh: Path, left: int) -> None:
    path = compile_kernel(SMALL, QUICK)
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    assert compile_kernel(SMALL, QUICK) == path
    assert path.read_bytes() == whole
    changed = bytearray(whole)
    changed[left] ^= 1
    path.write_bytes(changed)
    NativeOracle(SMALL, QUICK).gradient(parameters(SMALL), beats(SMALL, 2))
    assert path.read_bytes() == whole


def test_two_at_once_leave_one_library(fresh: Path) -> None:
    with ThreadPoolExecutor(3) as threads:
        paths = list(threads.map(lambda _: compile_kernel(SMALL, QUICK), range(3)))
    assert set(paths) == set(fresh.iterdir())
    assert len(set(paths)) == 1


def test_without_a_compiler_one_sentence_says_so(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -x")
    with pytest.raises(NativeUnavailable, match=r"'no-such-compiler -x' is not there; unset CXX or install it\.$"):
        compile_kernel(SMALL)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NativeUnavailable, match=r"There is no C\+\+ compiler"):
        NativeOracle(SMALL)


def test_what_the_compiler_says_is_passed_on(fresh: Path) -> None:
    short = Network(1, 1, 0, 2, (4, 4, 4), (3, 3, 3), 4, 2, 2)
    with pytest.raises(NativeUnavailable, match="the window is too short for this network"):
        compile_kernel(short)
    assert list(fresh.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PULSELEDGER_CACHE", str(tmp_path / "file"))
    with pytest.raises(NativeUnavailable, match=r"cannot be kept in .*file"):
        compile_kernel(SMALL)


@pytest.mark.long
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    """Runs away from pytest: the sanitizers have to be there before Python is."""
    command = native._find_compiler(None)
    library = subprocess.run([*command, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(library).is_file():
        pytest.skip("The compiler has no shared libasan (apt-get install g++).")
    code = (
        "import sys, numpy as np; sys.path[:0] = ['.', 'tests']\n"
        "from test_native import *\n"
        "flags = (*FLAGS, '-O1', '-g', '-fsanitize=address,undefined', '-fno-sanitize-recover=all')\n"
        "for network in (STANDARD, ODD, SMALL, Network(1, 16, 0, 2, (1, 1, 1), (1, 1, 1), 1, 1, 1)):\n"
        "    oracle = NativeOracle(network, flags)\n"
        "    for n in (1, 3):\n"
        "        params, batch = parameters(network), beats(network, n)\n"
        "        oracle.gradient(params, batch); oracle.gradient(params, batch, np.ones(n))\n"
        "        oracle.clipped_gradient(params, batch, 1.0); oracle.scores(params, batch.x, batch.rr)\n"
        "print('clean')"
    )
    environment = {
        **os.environ,
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python leaves much to the end of the process
        "PULSELEDGER_CACHE": str(tmp_path),
    }
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "clean", done.stderr[-3000:]
