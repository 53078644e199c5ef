"""Updates that are added up under masks: what a hospital hides, and what a rule makes of the sums.

A hospital hides round(weight * update * 2^36), the very integers that the mean adds up, and behind them its weight. The sum
of a group is the same to the bit as without masks; over the means of several groups a rule that bears hostile ones may decide.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from engine.aggregation import mean
from engine.aggregation.config import AggregationConfig
from engine.messages import LoopState, Rule, Taken, Update, Verdicts

Combine = Callable[
    [np.ndarray, np.ndarray], np.ndarray
]  # points float64[n, P], last direction float64[P] -> float64[P]


def numbers(weighting: str, samples: int, update: np.ndarray) -> np.ndarray:
    """What a hospital hides of its update float32[P]: int64[P + 1].

    Raises:
        PulseLedgerError: an entry is too large.
    """
    found = np.zeros(len(update) + 1, np.int64)
    weight = mean.weight(weighting, samples)
    mean.add(found[:-1], weight, update)
    found[-1] = int(weight)
    return found


def weights(weighting: str) -> Callable[[Sequence[Update]], int]:
    """The sum of the weights of updates, of which the last entry of their sum must hold as much."""
    return lambda updates: sum(int(mean.weight(weighting, update.samples)) for update in updates)


def over_sums(rule: Rule, config: AggregationConfig, combine: Combine, remembered: str) -> Rule:
    """The rule where only sums are known: `Taken.summed` is int64[groups, P + 1]."""

    def of_all(state: LoopState, taken: Taken, verdicts: Verdicts) -> np.ndarray | None:
        assert taken.summed is not None
        whole = mean.total(taken.summed[:, :-1], taken.summed.shape[1] - 1)
        return rule.direction(state, replace(taken, summed=whole), verdicts)

    def of_means(state: LoopState, taken: Taken, verdicts: Verdicts) -> np.ndarray | None:
        assert taken.summed is not None
        points = taken.summed[:, :-1] / (mean.SCALE * taken.summed[:, -1:])
        return combine(points, state.server.get(remembered, np.zeros(len(state.params))))

    return replace(rule, partial=None, direction=of_means if config.bears else of_all)
