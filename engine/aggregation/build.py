"""From the configuration to a rule of aggregation."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from engine.aggregation import masked, mean, robust
from engine.aggregation.compression import compressed, form_of
from engine.aggregation.config import AggregationConfig
from engine.aggregation.server import build_step, plain
from engine.algorithms.build import build_algorithm
from engine.config import RunConfig
from engine.errors import PulseLedgerError
from engine.ledger.format import OWN_RULE
from engine.messages import LoopState, Rule, State, Taken, Verdicts
from engine.own.call import guarded, make, require
from engine.own.reference import reference

AGGREGATE = "aggregate"  # in the server's state: where the model went in the last round
SENT = "sent"  # in a hospital's state: what it sent last, float32[parameters]


class Ages(NamedTuple):
    """How many rounds an update's model may be behind, and whether models are averaged in the place of changes."""

    most: int = 0
    of_models: bool = False


FRESH = Ages()


def build_rule(config: AggregationConfig, weighting: str, ages: Ages = FRESH, rounds: int = 1) -> Rule:
    """The rule of a configuration.

    Args:
        ages: how old updates may be.
        weighting: of the algorithm: "samples", "uniform" or "none", under which the model never moves. Rules other than
            the mean count every update the same.
        rounds: of the run, over which a server's rate may fall.
    """
    still = weighting == "none"
    server = {"method": "none"} if still else config.server.used(rounds)
    spec = {"weighting": weighting, "server": server, **config.secure.used()}
    encode = as_it_is if config.worker_momentum == 0 else running_mean(config.worker_momentum)
    step = plain if still else build_step(config.server, rounds)
    if config.rule == "mean" or still:
        towards = mean.direction(weighting, ages.of_models)
        aged = {} if ages.most == 0 else {"settings": {"max_staleness": ages.most, "of_models": ages.of_models}}
        return Rule(mean.NAME, {**spec, **aged}, encode, mean.partial(weighting), mean.total, towards, step)
    if not config.bears:
        own = {**spec, "part": config.rule, "parameters": config.parameters}
        return Rule(OWN_RULE, own, encode, None, mean.total, _own(config, weighting), step)
    return Rule(
        name=config.rule,
        spec={"weighting": "uniform", "server": server, "settings": config.used(), **config.secure.used()},
        encode=encode,
        partial=None,
        join=mean.total,
        direction=direction(config),
        step=step,
        remembers=AGGREGATE if config.rule == "centred-clipping" else "",
    )


def rule_of(config: RunConfig) -> Rule:
    """The rule of a run: what its configuration says, under the weighting of its algorithm.

    Where all data are in one place there is one update, which only the mean takes as it is.
    """
    algorithm = build_algorithm(config.federation, config.personalisation)
    rules = config.aggregation.model_copy(update={"rule": "mean"}) if algorithm.pooled else config.aggregation
    schedule = config.schedule
    ages = Ages(schedule.max_staleness, schedule.mode == "fedasync") if schedule.is_asynchronous else FRESH
    rule = build_rule(rules, algorithm.weighting, ages, config.federation.rounds)
    if rules.secure.groups:
        rule = masked.over_sums(rule, rules, partial(combine, rules), AGGREGATE)
    return replace(rule, encode=compressed(config.update, rule.encode), form=form_of(config.update))


def _own(config: AggregationConfig, weighting: str) -> Callable[[LoopState, Taken, Verdicts], np.ndarray | None]:
    """The direction of a user's own rule: a function of the updates float32[n, parameters], by ascending hospital, and of
    their weights float64[n], which gives float64[parameters]."""
    name, own = config.rule, reference(config.rule)
    assert own is not None
    combine = make("a rule", name, {}, config.parameters)
    require(name, callable(combine), f"made a {type(combine).__name__}, not a function of updates and weights")

    def direction(state: LoopState, taken: Taken, verdicts: Verdicts) -> np.ndarray | None:
        vectors: Sequence[np.ndarray] = [u.vector for u in taken.updates if u.vector is not None]
        weights = np.array([mean.weight(weighting, u.samples) for u in taken.updates])
        stage = f"round {state.round + 1}, aggregate: "
        found = guarded(own, combine, np.stack(vectors), weights, stage=stage)
        right = isinstance(found, np.ndarray) and found.shape == state.params.shape and found.dtype.kind == "f"
        what = f"{found.dtype}{list(found.shape)}" if isinstance(found, np.ndarray) else f"a {type(found).__name__}"
        require(name, right, f"gave {what} in round {state.round + 1}, not float64[{len(state.params)}]")
        require(name, bool(np.isfinite(found).all()), f"gave numbers that are not finite in round {state.round + 1}")
        return np.asarray(found, np.float64)

    return direction


def as_it_is(vector: np.ndarray, memory: State) -> tuple[np.ndarray, State]:
    """A hospital sends its change unaltered, and remembers nothing of it."""
    return vector, {}


def running_mean(past: float) -> Callable[[np.ndarray, State], tuple[np.ndarray, State]]:
    """A hospital sends the running mean of its changes: past * what it sent last + (1 - past) * change, from zero.

    Workers' momentum, Karimireddy et al. 2021 (arXiv 2012.10333): it averages away what an attacker can hide in.
    """

    def encode(vector: np.ndarray, memory: State) -> tuple[np.ndarray, State]:
        before = memory.get(SENT, np.zeros_like(vector))
        sent = np.float32(past) * before + np.float32(1 - past) * vector
        return sent, {SENT: sent}

    return encode


def direction(config: AggregationConfig) -> Callable[[LoopState, Taken, Verdicts], np.ndarray | None]:
    """Where a rule other than the mean sends the model, float64[parameters]."""

    def towards(state: LoopState, taken: Taken, verdicts: Verdicts) -> np.ndarray:
        if problem := config.problem(len(taken.updates)):
            raise PulseLedgerError(f"round {state.round + 1}: {problem}")
        vectors = [update.vector for update in taken.updates if update.vector is not None]
        start = state.server.get(AGGREGATE, np.zeros(len(state.params)))
        return combine(config, mixed(config, vectors), start)

    return towards


def mixed(config: AggregationConfig, vectors: Sequence[np.ndarray]) -> np.ndarray:
    """The updates as the rule takes them, float64[inputs, parameters]."""
    points = np.array(vectors, np.float64)
    if config.mix == "bucketing":
        return robust.bucketing(points, robust.shuffled(vectors), config.bucket)
    return robust.nearest(points, config.byzantine) if config.mix == "nearest" else points


def combine(config: AggregationConfig, points: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The rule on mixed updates; `start` is the last round's direction, float64[parameters]."""
    f, n = config.byzantine, len(points)
    rules: dict[str, Callable[[], np.ndarray]] = {
        "median": partial(robust.median, points),
        "trimmed-mean": partial(robust.trimmed_mean, points, f),
        "krum": partial(robust.multi_krum, points, f, 1),
        "multi-krum": partial(robust.multi_krum, points, f, config.keep or n - f),
        "geometric-median": partial(robust.geometric_median, points, config.iterations),
        "centred-clipping": partial(robust.centred_clipping, points, start, config.radius, config.iterations),
        "norm-bound": partial(robust.norm_bound, points, config.radius),
    }
    return rules[config.rule]()
