"""The algorithms on problems that can be solved on paper, and the mistakes known from other implementations."""

from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import SQUARE, Quadratic, Recorder, Towards, f32, merged, samples, work

from engine.algorithms.base import LocalResult, sgd
from engine.algorithms.build import build_algorithm
from engine.algorithms.config import FederationConfig, PerFedAvgConfig, PersonalisationConfig
from engine.algorithms.perfedavg import COST, meta_gradient
from engine.config import RunConfig
from engine.data.beats import open_beats
from engine.data.cohort import build_cohort
from engine.data.samples import Samples, passes, stratified
from engine.hospital import Hospital, Task
from engine.messages import Asked
from engine.model import Network, build_network, initial_parameters
from engine.oracles.torch import TorchOracle

VARIANTS = ("first-order", "difference", "exact")
ALGORITHMS = "fedavg fedprox scaffold perfedavg ditto fedper fedrep fedbn local centralised".split()


def train(
    settings: dict[str, Any], oracle: Any, params: np.ndarray, data: Samples, round: int = 1, seed: int = 0, state=None
) -> LocalResult:
    """One hospital's work of one round."""
    algorithm = build_algorithm(FederationConfig(**settings), PersonalisationConfig())
    return algorithm.local(work(oracle, params, data, round, seed, state))


def adapt(
    settings: dict[str, Any],
    personalisation: dict[str, Any],
    oracle: Any,
    params: np.ndarray,
    data: Samples,
    state=None,
) -> tuple[np.ndarray, int]:
    """One hospital's personalisation."""
    algorithm = build_algorithm(FederationConfig(**settings), PersonalisationConfig(**personalisation))
    return algorithm.personalise(work(oracle, params, data, state=state))


def meta(variant: str, **settings: Any) -> dict[str, Any]:
    """A configuration of Per-FedAvg; keys of `perfedavg` are told from those of the federation."""
    inner = {k: settings.pop(k) for k in list(settings) if k in PerFedAvgConfig.model_fields}
    return {"algorithm": "perfedavg", "perfedavg": {"variant": variant, **inner}, **settings}


# --- SGD and FedProx --------------------------------------------------------------------------------------------------


def test_sgd_by_hand():
    # f(w) = 1/2 (w - 10)^2 from 0 at rate 0.1: 0 -> 1 -> 1.9; losses 50 and 40.5
    data = samples([10, 10, 10])
    params, loss = sgd(work(Towards(), f32(0), data), 2, 2, 0.1)
    assert params == pytest.approx([1.9], abs=1e-6)
    assert loss == pytest.approx((50 + 40.5) / 2)


def test_fedprox_by_hand():
    # the same with mu = 1: the second gradient is (1 - 10) + 1 * (1 - 0) = -8, so 0 -> 1 -> 1.8
    data = samples([10, 10, 10])
    settings = {"learning_rate": 0.1, "batch_size": 2}
    result = train({"algorithm": "fedprox", "mu": 1.0, **settings}, Towards(), f32(0), data)
    assert result.update == pytest.approx([1.8], abs=1e-6)
    assert result.loss == pytest.approx((50 + 40.5) / 2)  # the network's, without the pull
    without = train({"algorithm": "fedprox", "mu": 0.0, **settings}, Towards(), f32(0), data)
    np.testing.assert_array_equal(without.update, train({**settings}, Towards(), f32(0), data).update)


def test_fedavg_of_two_hospitals_by_hand():
    # from 0 at rate 0.5, one step each towards 2 (three beats) and -6 (one beat): +1 and -3, weighted (3 - 3) / 4
    updates = []
    for data in (samples([2, 2, 2]), samples([-6])):
        updates.append((len(data), train({"learning_rate": 0.5}, Towards(), f32(0), data).update))
    assert [u[0] for _, u in updates] == [1.0, -3.0]
    assert merged(f32(0), updates, "samples") == 0.0
    assert merged(f32(0), updates, "uniform") == -1.0


def test_rates_decay_from_round_to_round():
    # one step of rate 0.4 * 0.5 ** (round - 1) on 1/2 (w - 1)^2 from 0
    for round, expected in ((1, 0.4), (2, 0.2), (4, 0.05)):
        settings = {"learning_rate": 0.4, "decay": 0.5}
        assert train(settings, Towards(), f32(0), samples([1]), round).update == pytest.approx([expected])
    # Per-FedAvg: both rates. Round 2, alpha 0.2, beta 0.5: 0 -> 0 - 0.5 * (1 - 0.2) * (0.2 - 1) = 0.32
    result = train(meta("exact", alpha=0.4, beta=1.0, tau=1, decay=0.5), Towards(), f32(0), samples([1]), 2)
    assert result.update == pytest.approx([0.5 * 0.8 * 0.8])


def test_rates_fall_along_half_a_cosine_or_in_three_steps():
    # as above; of four rounds (1 + cos) / 2 at 0, 45, 90, 135 degrees, and of six two at each of 1, 1/2, 1/4
    for rate, rounds, factors in (
        ("cosine", 4, [1, 0.8535534, 0.5, 0.1464466]),
        ("steps", 6, [1, 1, 0.5, 0.5, 0.25, 0.25]),
    ):
        settings = {"learning_rate": 0.4, "decay": 0.5, "rounds": rounds, "rate": rate}
        found = [train(settings, Towards(), f32(0), samples([1]), round).update[0] for round in range(1, rounds + 1)]
        assert found == pytest.approx([0.4 * factor for factor in factors])
    # a hospital that has had more jobs than there are rounds takes none beyond the end
    assert (
        train({"learning_rate": 0.4, "rounds": 2, "rate": "cosine"}, Towards(), f32(0), samples([1]), 9).update == 0.0
    )


def test_a_pass_visits_every_beat_once():
    batches = passes(10, 4, np.random.default_rng(0))
    first, second = list(islice(batches, 3)), list(islice(batches, 3))
    assert [len(b) for b in first + second] == [4, 4, 2, 4, 4, 2]
    for one in (first, second):
        assert sorted(np.concatenate(one).tolist()) == list(range(10))
    assert np.concatenate(first).tolist() != np.concatenate(second).tolist()
    assert [samples([0.0] * n).batches(4) for n in (1, 4, 5, 8)] == [1, 1, 2, 2]


# --- Per-FedAvg by hand -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "expected", "tolerance"),
    [("first-order", 0.20, 1e-6), ("exact", 0.36, 1e-6), ("difference", 0.36, 1e-4)],
)
def test_one_meta_step_on_a_parabola(variant: str, expected: float, tolerance: float):
    """f(w) = w^2 at w = 1, alpha 0.1, beta 0.5; applying the update to w~ instead of w would give 0.00."""
    result = train(meta(variant, alpha=0.1, beta=0.5, tau=1), SQUARE, f32(1), samples([0]))
    assert 1 + result.update[0] == pytest.approx(expected, abs=tolerance)
    assert result.loss == pytest.approx(0.8**2)  # after the inner step


def test_meta_gradients_of_two_hospitals_have_their_closed_form():
    """(I - alpha H) (H (w - alpha (H w - A'b)) - A'b), averaged uniformly, for f_i(w) = 1/2 |A_i w - b_i|^2."""
    draw = np.random.default_rng(0)
    hospitals = [Quadratic(draw.normal(size=(4, 3)), draw.normal(size=4)) for _ in range(2)]
    w, alpha = f32(0.3, -1.2, 0.8), 0.1
    batches = (samples([0]).batch(),) * 3
    means = {}
    for variant in VARIANTS:
        config = PerFedAvgConfig(variant=variant, alpha=alpha)
        means[variant] = [
            meta_gradient(work(hospital, w, samples([0])), w, batches, config)[1] for hospital in hospitals
        ]
    closed = []
    for i, hospital in enumerate(hospitals):
        h, pull = hospital.hessian, hospital.a.T @ hospital.b
        outer = h @ (w - alpha * (h @ w - pull)) - pull
        closed.append(outer - alpha * h @ outer)
        missing = means["first-order"][i] - means["exact"][i]
        np.testing.assert_allclose(missing, alpha * h @ outer, atol=1e-5)
        assert np.abs(missing).max() > 0.1
    for variant in ("exact", "difference"):
        np.testing.assert_allclose(means[variant], closed, atol=1e-4)
    # one round through the algorithm and the server: w - beta * mean
    settings = meta("exact", alpha=alpha, beta=0.25, tau=1)
    algorithm = build_algorithm(FederationConfig(**settings), PersonalisationConfig())
    updates = [
        (n, train(settings, hospital, w, samples([0] * n)).update)
        for n, hospital in zip((1, 9), hospitals, strict=True)
    ]
    np.testing.assert_allclose(merged(w, updates, algorithm.weighting), w - 0.25 * np.mean(closed, axis=0), atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("by_class", [False, True])
def test_alpha_zero_is_federated_sgd_bit_for_bit(variant: str, by_class: bool):
    draw = np.random.default_rng(3)
    data = samples(draw.normal(size=(50, 6)), draw.integers(0, 3, 50))
    w = draw.normal(size=6).astype(np.float32)
    settings = meta(variant, alpha=0.0, beta=0.3, tau=5, stratified=by_class, batch_size=8)
    update = train(settings, Towards(), w, data, seed=11).update
    # plain SGD on the second of the three streams of batches
    child = np.random.default_rng(11).spawn(3)[1]
    stream = stratified(data.labels(), 8, child) if by_class else passes(50, 8, child)
    plain = w.copy()
    for _ in range(5):
        plain -= np.float32(0.3) * Towards().gradient(plain, data.batch(next(stream)))[1]
    np.testing.assert_array_equal(update, plain - w)
    assert (update != 0).all()


def test_every_gradient_is_taken_at_the_right_place():
    recorder = Recorder(Towards())
    train(meta("difference", alpha=0.5, beta=0.1, tau=2, delta=0.01, stratified=False), recorder, f32(4), samples([0]))
    at = [float(params[0]) for _, params, _ in recorder.calls]
    # f(w) = w^2 / 2 from 4: w~ = 2, v = 2, h = 2, g = 2 - 0.5 * 2 = 1, so the second meta-step begins at 3.9
    assert at[:4] == pytest.approx([4, 2, 4.01, 3.99], abs=1e-6)
    assert at[4:6] == pytest.approx([3.9, 1.95], abs=1e-4)


def test_a_vanishing_outer_gradient_has_no_direction():
    # at the minimum of w^2 the difference would be taken along 0 / 0
    update = train(meta("difference", tau=3), SQUARE, f32(0), samples([0])).update
    np.testing.assert_array_equal(update, [0.0])


# --- Per-FedAvg: batches and costs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_batches_of_a_meta_step_are_drawn_apart(variant: str):
    recorder = Recorder(Towards())
    train(meta(variant, tau=6, stratified=False, batch_size=10), recorder, f32(0), samples(range(100)))
    cost = {"first-order": 2, "difference": 4, "exact": 3}[variant]  # calls
    drawn = [frozenset(batch.x.ravel().tolist()) for _, _, batch in recorder.calls]
    assert len(drawn) == 6 * cost
    steps = [drawn[i : i + cost] for i in range(0, len(drawn), cost)]
    for step in steps:
        assert len({*step[:3]}) == min(cost, 3)
        if variant == "difference":
            assert step[2] == step[3]  # both ends of the difference see the same beats
    for stream in zip(*steps, strict=True):
        assert len(frozenset.union(*stream)) == 60  # without repetition within a pass


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("beats", [1, 5])
def test_a_hospital_with_one_batch_takes_all_meta_steps(variant: str, beats: int):
    recorder = Recorder(SQUARE)
    settings = meta(variant, alpha=0.1, beta=0.05, tau=7)
    result = train(settings, recorder, f32(1), samples([0.0] * beats))
    assert result.gradient_evaluations == 7 * COST[variant]
    assert sum(3 if method == "hessian_vector" else 1 for method, _, _ in recorder.calls) == 7 * COST[variant]
    shrink = 1 - 0.05 * (1.6 if variant == "first-order" else 1.28)
    assert 1 + result.update[0] == pytest.approx(shrink**7, abs=1e-4)
    one_step = train(meta(variant, alpha=0.1, beta=0.05, tau=None), SQUARE, f32(1), samples([0.0] * beats))
    assert 1 + one_step.update[0] == pytest.approx(shrink, abs=1e-4)


def test_costs_of_a_meta_step():
    assert COST == {"first-order": 2, "difference": 4, "exact": 5}


@given(
    n=st.integers(1, 400), batch=st.integers(1, 64), epochs=st.integers(1, 3), variant=st.sampled_from(VARIANTS)
)  # fmt: skip
def test_tau_null_costs_no_more_than_fedavg(n: int, batch: int, epochs: int, variant: str):
    settings = {"batch_size": batch, "local_epochs": epochs}
    data, recorder = samples(np.zeros((n, 1))), Recorder(SQUARE)
    fedavg = train(settings, recorder, f32(1), data)
    assert fedavg.gradient_evaluations == len(recorder.calls) == epochs * -(-n // batch)
    spent = train(meta(variant, **settings), SQUARE, f32(1), data).gradient_evaluations
    assert spent >= COST[variant]
    assert spent <= max(fedavg.gradient_evaluations, COST[variant])
    assert fedavg.gradient_evaluations - spent < COST[variant]  # and takes what it may


def test_alpha_beta_and_the_learning_rate_are_three_numbers():
    data = samples([3, 5, 7])
    base = {"alpha": 0.1, "beta": 0.2, "tau": 1, "learning_rate": 0.5, "stratified": False}

    def update(**changes: Any) -> float:
        settings = meta("exact", **base | changes)
        return float(train(settings, Towards(), f32(0), data).update[0])

    # w = 0, mean 5, Hessian 1: v = -5 (1 - alpha), g = v (1 - alpha), w = 5 beta (1 - alpha)^2
    assert update() == pytest.approx(5 * 0.2 * 0.9**2)
    assert update(learning_rate=0.01) == update()
    assert update(alpha=0.5) == pytest.approx(5 * 0.2 * 0.5**2)
    assert update(beta=0.4) == pytest.approx(5 * 0.4 * 0.9**2)


def test_stratified_batches_hold_equal_shares():
    labels = np.array([0] * 90 + [3] * 9 + [4])  # one beat of class 4
    batches = list(islice(stratified(labels, 12, np.random.default_rng(0)), 30))
    for batch in batches:
        assert Counter(labels[batch].tolist()) == {0: 4, 3: 4, 4: 4}
    drawn = Counter(np.concatenate(batches).tolist())
    assert drawn[99] == 120
    # every class is passed through evenly: 120 draws of 90 beats and of 9
    assert {drawn[i] for i in range(90)} == {1, 2}
    assert {drawn[i] for i in range(90, 99)} == {13, 14}


def test_stratified_batches_divide_the_rest_among_the_first_classes():
    labels = np.array([0, 0, 1, 1, 2, 2])
    for batch in islice(stratified(labels, 5, np.random.default_rng(0)), 4):
        assert Counter(labels[batch].tolist()) == {0: 2, 1: 2, 2: 1}


def test_a_small_stratified_batch_leaves_no_class_out():
    labels = np.array([0, 0, 1, 2, 3, 4])
    for batch in islice(stratified(labels, 2, np.random.default_rng(0)), 4):
        assert set(labels[batch].tolist()) == {0, 1, 2, 3, 4}


# --- Personalisation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("personalisation", "steps"),
    [({"steps": 10}, 10), ({"epochs": 2.0}, 6), ({"epochs": 0.5}, 2), ({"epochs": 0.01}, 1), ({"method": "none"}, 0)],
)
def test_fedavg_and_perfedavg_adapt_with_the_same_steps(personalisation: dict[str, Any], steps: int):
    data = samples(range(70))  # three batches of 32
    found = {}
    for name in ("fedavg", "fedprox", "perfedavg", "centralised"):
        recorder = Recorder(Towards())
        settings = {**personalisation, "learning_rate": 0.05}
        found[name], cost = adapt({"algorithm": name, "batch_size": 32}, settings, recorder, f32(0), data)
        assert cost == len(recorder.calls) == steps
        np.testing.assert_array_equal(found[name], found["fedavg"])
    assert (found["fedavg"][0] > 0) == (steps > 0)


def test_adaptation_takes_the_rate_of_the_algorithm_unless_told():
    # one step on 1/2 (w - 1)^2 from 0 is the rate itself
    settings = {"learning_rate": 0.25, "perfedavg": {"alpha": 0.125}}
    for name, told, expected in (
        ("fedavg", None, 0.25),
        ("perfedavg", None, 0.125),
        ("fedavg", 0.5, 0.5),
        ("perfedavg", 0.5, 0.5),
    ):
        personal, _ = adapt(
            {"algorithm": name, **settings}, {"steps": 1, "learning_rate": told}, Towards(), f32(0), samples([1])
        )
        assert personal == [expected]


def test_local_only_goes_on_from_its_own_model_and_sends_nothing():
    settings = {"algorithm": "local", "learning_rate": 0.1}
    data, far = samples([10]), f32(1000)
    first = train(settings, Towards(), f32(0), data)
    second = train(settings, Towards(), far, data, 2, state=first.state)  # whatever the server sends
    assert first.state["params"] == pytest.approx([1.0])
    assert second.state["params"] == pytest.approx([1.9])
    for result in (first, second):
        np.testing.assert_array_equal(result.update, [0.0])
        assert result.gradient_evaluations == 1
    personal, cost = adapt(settings, {"steps": 10}, Towards(), far, data, state=second.state)
    assert personal == pytest.approx([1.9])
    assert cost == 0


def test_local_only_trains_in_a_hospital_that_was_not_there():
    # two rounds at rates 0.1 and 0.05 on 1/2 (w - 10)^2 from 0: 1, then 1 + 0.05 * 9
    settings = {"algorithm": "local", "learning_rate": 0.1, "rounds": 2, "decay": 0.5}
    personal, cost = adapt(settings, {"steps": 10}, Towards(), f32(0), samples([10]))
    assert personal == pytest.approx([1.45])
    assert cost == 2


@pytest.mark.parametrize("name", ALGORITHMS)
def test_given_parameters_and_state_are_never_written_to(name: str):
    data = samples([1, 2, 3])
    params, own = f32(0.5), f32(0.25)
    for array in (params, own, data.x, data.y):
        array.setflags(write=False)
    state = {"params": own}
    for variant in VARIANTS:
        settings = {"algorithm": name, "perfedavg": {"variant": variant, "tau": 2}}
        result = train(settings, Towards(), params, data, state=state)
        personal, _ = adapt(settings, {"steps": 2}, Towards(), params, data, state=state)
        assert not np.shares_memory(result.update, params)
        assert (params[0], own[0]) == (0.5, 0.25)
        assert np.isfinite(personal).all()
    assert list(state) == ["params"]


@pytest.mark.parametrize(
    ("name", "auto", "told"),
    [("fedavg", "samples", "uniform"), ("perfedavg", "uniform", "samples"), ("local", "none", "none")],
)
def test_weights_of_the_mean(name: str, auto: str, told: str):
    assert build_algorithm(FederationConfig(algorithm=name), PersonalisationConfig()).weighting == auto
    config = FederationConfig(algorithm=name, weighting=told if told != "none" else "samples")
    assert build_algorithm(config, PersonalisationConfig()).weighting == told


# --- On a network -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(tiny_config, tmp_path_factory):
    """A cohort with hospitals of three parts, and its network."""
    config: RunConfig = tiny_config()
    cohort = build_cohort(config.data, config.cohort)
    beats = cohort.beats
    network = build_network(config.model, *beats.shape, beats.rr.shape[1], len(beats.classes))
    return cohort, network


@pytest.mark.parametrize(
    ("name", "variant"), [(name, "exact") for name in ALGORITHMS] + [("perfedavg", v) for v in VARIANTS[:2]]
)
def test_only_train_beats_are_ever_derived_for(tiny_config, parts, name: str, variant: str):
    cohort, network = parts
    keys = {"federation.algorithm": name, "federation.perfedavg.variant": variant, "federation.perfedavg.tau": 40}
    steps = 40 if name == "scaffold" else None
    config = tiny_config(
        **keys, **{"federation.local_epochs": 2, "federation.local_steps": steps, "personalisation.epochs": 3}
    )
    beats = open_beats(cohort.beats.folder)
    for data in cohort.hospitals:
        assert min(len(data.train), len(data.validation), len(data.test)) > 3
        recorder = Recorder(TorchOracle(network))
        hospital = Hospital(data, Task(config, network, cohort.beats.folder, None), recorder)
        params = initial_parameters(network, 0)
        hospital.train(Asked(1, (data.id,), params), None)
        hospital.validate(1, params)
        assert len(recorder.scored) == 1
        outcome = hospital.finish(1, params, None)
        seen = {row.tobytes() for _, _, batch in recorder.calls for row in batch.x}
        assert seen == {row.tobytes() for row in beats.x[data.train]}
        scored = {row.tobytes() for x in recorder.scored for row in x}
        assert scored == {row.tobytes() for row in beats.x[np.concatenate([data.validation, data.test])]}
        assert not seen & scored
        np.testing.assert_array_equal(outcome.rows, data.test)


@pytest.mark.parametrize("variant", VARIANTS)
def test_hospitals_of_one_class_each_adapt_to_it_within_twenty_rounds(variant: str):
    """The windows say nothing about the class, so a common model can be right in one hospital only."""
    network = Network(
        leads=1, window=16, rr=0, classes=3, channels=(4, 4, 4), kernels=(3, 3, 3), hidden=8, groups=2, pooled=2
    )  # fmt: skip
    draw = np.random.default_rng(0)
    hospitals = [samples(draw.normal(size=(40, 1, 16)), [label] * 40) for label in range(3)]
    fresh = draw.normal(size=(30, 1, 16)).astype(np.float32)
    none = np.zeros((30, 0), np.float32)
    oracle = TorchOracle(network)
    settings = FederationConfig(**meta(variant, alpha=0.1, beta=0.1, tau=4, batch_size=16))
    algorithm = build_algorithm(settings, PersonalisationConfig(steps=10))
    params = initial_parameters(network, 0)
    for round in range(1, 21):
        results = [
            algorithm.local(replace(work(oracle, params, data, round), draw=np.random.default_rng([round, i])))
            for i, data in enumerate(hospitals)
        ]
        params = merged(params, [(40, r.update) for r in results], algorithm.weighting)
    for label, data in enumerate(hospitals):
        personal, _ = algorithm.personalise(work(oracle, params, data, seed=label))
        assert (oracle.scores(personal, fresh, none).argmax(1) == label).all()
