"""What every rule of aggregation must keep. A new rule is added to `RULES`."""

from collections.abc import Callable

import numpy as np
import pytest

from engine.aggregation.build import build_rule
from engine.aggregation.config import RULE_KEYS, AggregationConfig, ServerConfig
from engine.encoding import canonical_json
from engine.messages import LoopState, Rule, Taken, Update

SIZE = 5
RULES: dict[str, Callable[[], Rule]] = {
    "mean of samples": lambda: build_rule(AggregationConfig(), "samples"),
    "plain mean": lambda: build_rule(AggregationConfig(), "uniform"),
    "no aggregation": lambda: build_rule(AggregationConfig(), "none"),
    **{
        f"mean, server {method}": lambda m=method: build_rule(
            AggregationConfig(server=ServerConfig(method=m)), "samples"
        )
        for method in ("momentum", "adam", "yogi")
    },
    **{name: lambda n=name: build_rule(AggregationConfig(rule=n), "samples") for name in RULE_KEYS},
    "median of buckets": lambda: build_rule(AggregationConfig(rule="median", mix="bucketing"), "uniform"),
    "mean of nearest": lambda: build_rule(
        AggregationConfig(rule="trimmed-mean", mix="nearest", byzantine=1), "uniform"
    ),
    "centred, momentum twice": lambda: build_rule(
        AggregationConfig(rule="centred-clipping", worker_momentum=0.5, server=ServerConfig(method="momentum")),
        "uniform",
    ),
}


@pytest.fixture(params=RULES, ids=lambda name: name.replace(" ", "-"))
def rule(request: pytest.FixtureRequest) -> Rule:
    return RULES[request.param]()


def sent(seed: int, hospitals: int = 4) -> tuple[Update, ...]:
    """Updates of float32 vectors, of hospitals 0, 1, ..."""
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(hospitals, SIZE)).astype(np.float32)
    return tuple(Update(i, vectors[i], int(draw.integers(1, 50)), 0.0, 1) for i in range(hospitals))


def taken(rule: Rule, updates: tuple[Update, ...], hosts: int = 1) -> Taken:
    """The updates as they come from a number of hosts."""
    if rule.partial is None:
        return Taken(updates, (), None)
    sums = [rule.partial(updates[host::hosts], SIZE)[0] for host in range(hosts)]
    return Taken(updates, (), rule.join(sums, SIZE))


def state(round: int = 0) -> LoopState:
    return LoopState(round, np.linspace(-1, 1, SIZE, dtype=np.float32))


def test_it_is_named_and_says_in_plain_data_what_fixes_its_arithmetic(rule: Rule):
    assert rule.name
    assert canonical_json(dict(rule.spec))


def test_the_model_that_comes_out_is_new_finite_float32(rule: Rule):
    start = state()
    params, memory = rule.merge(start, taken(rule, sent(0)), {})
    assert (params.dtype, params.shape) == (np.float32, (SIZE,))
    assert np.isfinite(params).all()
    assert not np.shares_memory(params, start.params)
    assert all(isinstance(array, np.ndarray) for array in memory.values())


def test_nothing_that_it_is_given_is_written_to(rule: Rule):
    start, updates = state(), sent(1)
    for array in (start.params, *(u.vector for u in updates)):
        array.setflags(write=False)
    _, memory = rule.merge(start, taken(rule, updates), {})
    for array in memory.values():
        array.setflags(write=False)
    rule.merge(LoopState(1, start.params, server=memory), taken(rule, updates), {})


def test_the_number_of_hosts_changes_no_bit(rule: Rule):
    alone, _ = rule.merge(state(), taken(rule, sent(2)), {})
    for hosts in (2, 3, 4):
        np.testing.assert_array_equal(rule.merge(state(), taken(rule, sent(2), hosts), {})[0], alone)


def test_the_same_twice_is_the_same_and_all_memory_is_in_the_state(rule: Rule):
    def rounds() -> list[bytes]:
        now, seen = state(), []
        for number in range(1, 4):
            params, memory = rule.merge(now, taken(rule, sent(number)), {})
            now = LoopState(number, params, server=memory)
            seen.append(params.tobytes())
        return seen

    assert rounds() == rounds()


def test_a_hospital_sends_an_array_as_long_as_the_model(rule: Rule):
    vector = np.ones(SIZE, np.float32)
    vector.setflags(write=False)
    once, memory = rule.encode(vector, {})
    again, _ = rule.encode(vector, memory)
    for sent in (once, again, *memory.values()):
        assert (sent.shape, sent.dtype) == ((SIZE,), np.float32)
