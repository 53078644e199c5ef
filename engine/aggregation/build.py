"""From the configuration to a rule of aggregation."""

import numpy as np

from engine.aggregation import mean
from engine.aggregation.config import AggregationConfig
from engine.aggregation.server import build_step, plain
from engine.algorithms.build import build_algorithm
from engine.config import RunConfig
from engine.messages import Rule


def build_rule(config: AggregationConfig, weighting: str) -> Rule:
    """The rule of a configuration.

    Args:
        weighting: of the algorithm: "samples", "uniform" or "none", under which the model never moves.
    """
    still = weighting == "none"
    return Rule(
        name=mean.NAME,
        spec={"weighting": weighting, "server": {"method": "none"} if still else config.server.used()},
        encode=as_it_is,
        partial=mean.partial(weighting),
        join=mean.total,
        direction=mean.direction(weighting),
        step=plain if still else build_step(config.server),
    )


def rule_of(config: RunConfig) -> Rule:
    """The rule of a run: what its configuration says, under the weighting of its algorithm."""
    return build_rule(config.aggregation, build_algorithm(config.federation, config.personalisation).weighting)


def as_it_is(vector: np.ndarray) -> np.ndarray:
    """A hospital sends its change unaltered."""
    return vector
