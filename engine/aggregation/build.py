"""From the configuration to a rule of aggregation."""

from collections.abc import Callable, Sequence

import numpy as np

from engine.aggregation import mean
from engine.aggregation.config import AggregationConfig
from engine.aggregation.server import build_step, plain
from engine.algorithms.build import build_algorithm
from engine.config import RunConfig
from engine.ledger.format import OWN_RULE
from engine.messages import LoopState, Rule, Taken, Verdicts
from engine.own.call import guarded, make, require
from engine.own.reference import reference


def build_rule(config: AggregationConfig, weighting: str) -> Rule:
    """The rule of a configuration.

    Args:
        weighting: of the algorithm: "samples", "uniform" or "none", under which the model never moves.
    """
    still = weighting == "none"
    spec = {"weighting": weighting, "server": {"method": "none"} if still else config.server.used()}
    if config.rule != "mean" and not still:
        return Rule(
            name=OWN_RULE,
            spec={**spec, "part": config.rule, "parameters": config.parameters},
            encode=as_it_is,
            partial=None,
            join=mean.total,
            direction=_own(config, weighting),
            step=build_step(config.server),
        )
    return Rule(
        name=mean.NAME,
        spec=spec,
        encode=as_it_is,
        partial=mean.partial(weighting),
        join=mean.total,
        direction=mean.direction(weighting),
        step=plain if still else build_step(config.server),
    )


def rule_of(config: RunConfig) -> Rule:
    """The rule of a run: what its configuration says, under the weighting of its algorithm."""
    return build_rule(config.aggregation, build_algorithm(config.federation, config.personalisation).weighting)


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


def as_it_is(vector: np.ndarray) -> np.ndarray:
    """A hospital sends its change unaltered."""
    return vector
