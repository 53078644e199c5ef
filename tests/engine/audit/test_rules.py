"""The audit's own arithmetic of a round: by hand, to the bit as the writer's, and the rules that it refuses."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from reference import merged

from engine.aggregation.build import build_rule
from engine.aggregation.config import AggregationConfig, ServerConfig
from engine.aggregation.server import build_step
from engine.audit import robust
from engine.audit.case import Rule
from engine.audit.rules import SERVERS, Model, Weighted, mean, next_model, problem
from engine.encoding import canonical_json
from engine.ledger.format import MEAN, WEIGHTINGS
from engine.messages import LoopState, Taken, Update
from engine.settings import words

PLAIN = {"method": "none"}


def vectors(*rows: list[float]) -> list[np.ndarray]:
    return [np.array(row, np.float32) for row in rows]


def test_the_mean_by_hand():
    one, two = vectors([1.0, -2.0, 0.0], [4.0, 1.0, 0.5])
    updates = [Weighted(1, one), Weighted(3, two)]
    assert mean("samples", updates).tolist() == [3.25, 0.25, 0.375]
    assert mean("uniform", updates).tolist() == [2.5, -0.5, 0.25]
    assert mean("none", updates) is None
    assert mean("samples", [Weighted(0, one)]) is None
    assert mean("uniform", [Weighted(None, one)]).tolist() == [1.0, -2.0, 0.0]


def test_a_mean_is_rounded_to_whole_units_of_which_halves_go_to_the_even_one():
    unit = 2.0**-36
    values = [0.5 * unit, 1.5 * unit, -0.5 * unit, -1.5 * unit, 0.49 * unit]
    assert mean("uniform", [Weighted(1, vectors(values)[0])]).tolist() == [0.0, 2 * unit, 0.0, -2 * unit, 0.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2.0**24])
def test_updates_that_nobody_can_have_added_up_are_refused(value: float):
    with pytest.raises(ValueError, match="an update times its weight"):
        mean("uniform", [Weighted(1, vectors([value])[0])])


def test_a_sum_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="too large"):
        mean("uniform", [Weighted(1, vectors([2.0**23])[0])] * 17)


@given(st.integers(0, 2**32), st.lists(st.integers(0, 10_000), min_size=1, max_size=6), st.sampled_from(WEIGHTINGS))
def test_the_mean_is_the_writers_to_the_last_bit(seed: int, samples: list[int], weighting: str):
    draw = np.random.default_rng(seed)
    scale = np.float32(10.0) ** draw.integers(-12, 3, 7).astype(np.float32)
    rows = [(draw.standard_normal(7).astype(np.float32) * scale).astype(np.float32) for _ in samples]
    params = draw.standard_normal(7).astype(np.float32)
    expected = merged(params, list(zip(samples, rows, strict=True)), weighting)
    updates = [Weighted(count, row) for count, row in zip(samples, rows, strict=True)]
    found = next_model(Rule(MEAN, weighting, PLAIN), Model(params), updates)
    assert found.params.dtype == np.float32
    assert found.params.tobytes() == expected.tobytes()


def test_momentum_by_hand():
    rule = Rule(MEAN, "uniform", {"method": "momentum", "learning_rate": 0.5, "momentum": 0.5})
    model = Model(np.zeros(1, np.float32))
    for expected in (1.0, 2.5, 4.25):  # m: 2, 3, 3.5
        model = next_model(rule, model, [Weighted(1, vectors([2.0])[0])])
        assert model.params.tolist() == [expected]


def test_adam_and_yogi_by_hand():
    server = {"learning_rate": 1.0, "momentum": 0.5, "beta2": 0.75, "tau": 2.0}
    for method, second in (("adam", 7.0), ("yogi", 8.0)):  # v: 4 -> 0.75 * 4 + 0.25 * 16; 4 + 0.25 * 16
        rule = Rule(MEAN, "uniform", {"method": method, **server})
        model = next_model(rule, Model(np.zeros(1, np.float32)), [Weighted(1, vectors([4.0])[0])])
        assert model.v.tolist() == [second]
        assert model.m.tolist() == [2.0]
        assert model.params.tolist() == [np.float32(2.0 / (np.sqrt(second) + 2.0))]


@given(st.integers(0, 2**32), st.sampled_from(sorted(SERVERS)), st.sampled_from(["constant", "falling", "cosine"]))
def test_the_servers_optimisers_are_the_writers_to_the_last_bit(seed: int, method: str, rate: str):
    draw = np.random.default_rng(seed)
    config = ServerConfig(method=method, learning_rate=0.3, momentum=0.85, beta2=0.97, tau=3e-3, rate=rate)
    rule, step, memory = Rule(MEAN, "uniform", config.used(4)), build_step(config, 4), {}
    assert problem(rule) == ""
    params = draw.standard_normal(9).astype(np.float32)
    model = Model(params)
    for number in range(1, 5):
        row = (draw.standard_normal(9) * 10.0 ** draw.integers(-6, 2)).astype(np.float32)
        direction = mean("uniform", [Weighted(1, row)])
        params, memory = step(params, direction, memory, number)
        model = next_model(rule, model, [Weighted(1, row)], number=number)
        assert model.params.tobytes() == params.tobytes()


def test_a_round_whose_weights_are_all_zero_changes_neither_model_nor_memory():
    rule = Rule(MEAN, "samples", {"method": "momentum", "learning_rate": 1.0, "momentum": 0.5})
    model = Model(np.ones(2, np.float32), np.ones(2))
    assert next_model(rule, model, [Weighted(0, np.ones(2, np.float32))]) is model


@pytest.mark.parametrize(
    ("name", "server", "words"),
    [
        ("blend", PLAIN, "a rule that this version does not know"),
        (MEAN, {}, "none that this version knows"),
        (MEAN, {"method": ["none"]}, "none that this version knows"),
        (MEAN, {"method": "adagrad"}, "none that this version knows"),
        (MEAN, {"method": "none", "learning_rate": 1.0}, "none takes nothing"),
        (MEAN, {"method": "momentum", "learning_rate": 1.0}, "momentum takes learning_rate, momentum"),
        (MEAN, {"method": "momentum", "learning_rate": "x", "momentum": 0.5}, "momentum takes"),
        (MEAN, {"method": "momentum", "learning_rate": float("nan"), "momentum": 0.5}, "momentum takes"),
    ],
)
def test_a_rule_that_cannot_be_executed_is_one_sentence(name: str, server: dict[str, Any], words: str):
    assert words in problem(Rule(name, "samples", server))


def test_every_rule_that_a_configuration_can_name_can_be_executed():
    for method in ServerConfig.model_fields["method"].annotation.__args__:
        assert problem(Rule(MEAN, "samples", ServerConfig(method=method).used(3))) == ""
    assert words(AggregationConfig.model_fields["rule"].annotation) == ("mean", *robust.NAMES)


ROBUST = st.fixed_dictionaries(
    {
        "rule": st.sampled_from(robust.NAMES),
        "byzantine": st.integers(0, 2),
        "mix": st.sampled_from(["none", "bucketing", "nearest"]),
        "bucket": st.integers(2, 3),
        "radius": st.none() | st.floats(1e-3, 10),
        "iterations": st.integers(1, 4),
        "keep": st.none() | st.integers(1, 9),
    }
)


@given(ROBUST, st.integers(7, 16), st.integers(0, 2**32), st.booleans())
def test_every_rule_is_the_writers_to_the_last_bit(settings: dict[str, Any], hospitals: int, seed: int, few: bool):
    config = AggregationConfig(**settings)
    assume(not config.problem(hospitals))
    draw = np.random.default_rng(seed)
    rule, size = build_rule(config, "uniform"), int(draw.integers(1, 12))
    told = Rule(rule.name, **json.loads(canonical_json(dict(rule.spec))))
    assert problem(told) == ""
    state = LoopState(0, draw.standard_normal(size).astype(np.float32))
    model = Model(state.params)
    for number in (1, 2):
        rows = draw.standard_normal((hospitals, size)).astype(np.float32)
        if few:  # so that ties are many
            rows = np.round(rows)
        updates = tuple(Update(slot, row, 1, 0.0, 1) for slot, row in enumerate(rows))
        params, server = rule.merge(state, Taken(updates, (), None), {})
        model = next_model(told, model, [Weighted(None, row) for row in rows])
        assert model.params.tobytes() == params.tobytes()
        state = LoopState(number, params, server=server)


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("median", {"radius": 1.0}, "takes byzantine, mix"),
        ("median", {"mix": "blender"}, "mixed in a way"),
        ("krum", {"byzantine": -1}, "byzantine of the rule krum"),
        ("krum", {"byzantine": True}, "byzantine of the rule krum"),
        ("multi-krum", {"keep": 0}, "keep of the rule"),
        ("centred-clipping", {"iterations": 10**5}, "iterations of the rule"),
        ("norm-bound", {"radius": float("nan")}, "radius of the rule"),
        ("norm-bound", {"radius": "far"}, "radius of the rule"),
    ],
)
def test_settings_that_nobody_could_have_set_are_refused(name: str, changed: dict[str, Any], words: str):
    settings = AggregationConfig(rule=name).used()
    assert problem(Rule(name, "uniform", PLAIN, settings)) == ""
    assert words in problem(Rule(name, "uniform", PLAIN, {**settings, **changed}))


def test_a_robust_rule_weighs_nobody_and_the_mean_takes_no_settings():
    assert "they count all updates the same" in problem(
        Rule("median", "samples", PLAIN, AggregationConfig(rule="median").used())
    )
    for settings in ({"byzantine": 1}, {"max_staleness": 0, "of_models": False}, {"max_staleness": 5, "of_models": 1}):
        assert "the mean takes max_staleness, 1 to 1000, and of_models" in problem(
            Rule(MEAN, "samples", PLAIN, settings)
        )
    assert problem(Rule(MEAN, "samples", PLAIN, {"max_staleness": 5, "of_models": True})) == ""


@pytest.mark.parametrize(("name", "byzantine"), [("krum", 1), ("median", 2), ("trimmed-mean", 2)])
def test_too_few_updates_for_a_rule_are_refused(name: str, byzantine: int):
    settings = AggregationConfig(rule=name, byzantine=byzantine).used()
    with pytest.raises(ValueError, match="does not bear"):
        next_model(
            Rule(name, "uniform", PLAIN, settings),
            Model(np.zeros(1, np.float32)),
            [Weighted(1, v) for v in vectors([1.0], [2.0], [3.0], [4.0])],
        )


def test_an_update_that_is_not_finite_is_refused_by_every_rule():
    rule = Rule("median", "uniform", PLAIN, AggregationConfig(rule="median").used())
    with pytest.raises(ValueError, match="not finite"):
        next_model(rule, Model(np.zeros(1, np.float32)), [Weighted(1, vectors([float("nan")])[0])])
