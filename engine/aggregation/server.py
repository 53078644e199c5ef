"""Optimisers of the server: the direction that a rule gives is taken for a negative gradient.

FedAvgM: Hsu, Qi, Brown 2019 (arXiv 1909.06335). FedAdam, FedYogi: Reddi et al. 2021 (arXiv 2003.00295), algorithm 2,
without bias correction, v starting at tau^2. With d the direction, r the rate, b1 `momentum`, b2 `beta2`, t `tau`,
all in float64, each operation rounded once, in the order that is written:

    none       x = x + d
    momentum   m = b1 * m + d                                                        x = x + r * m
    adam       m = b1 * m + (1 - b1) * d;  v = b2 * v + (1 - b2) * (d * d)            x = x + r * (m / (sqrt(v) + t))
    yogi       m as adam;  v = v - (1 - b2) * (d * d) * sign(v - d * d)               x as adam

r falls over the rounds where it is asked to, by a factor in round n of N: 1 - (n - 1) / N, or half a cosine, rounded to 2^-20 so
that no two machines differ: round(2^20 * (1 + cos(pi (n - 1) / N)) / 2) / 2^20.

x is widened from float32 before, and rounded to float32 after. m starts at zero. The audit repeats this.
"""

import math
from collections.abc import Callable

import numpy as np

from engine.aggregation.config import ServerConfig
from engine.messages import State

Step = Callable[[np.ndarray, np.ndarray, State, int], tuple[np.ndarray, State]]  # the last is the round, from 1


def plain(params: np.ndarray, direction: np.ndarray, memory: State, round: int) -> tuple[np.ndarray, State]:
    """The model moves by the direction as it is; nothing is remembered."""
    return (params.astype(np.float64) + direction).astype(np.float32), memory


def falls(rate: str, round: int, rounds: int) -> float:
    """Factor on the rate in a round.

    >>> [falls(rate, 2, 4) for rate in ("constant", "falling", "cosine")]
    [1.0, 0.75, 0.8535537719726562]
    """
    done = min((round - 1) / rounds, 1.0)
    if rate == "cosine":
        return math.floor(2**20 * (0.5 + 0.5 * math.cos(math.pi * done)) + 0.5) / 2**20
    return 1.0 - done if rate == "falling" else 1.0


def build_step(config: ServerConfig, rounds: int = 1) -> Step:
    """The optimiser of a configuration, in a run of so many rounds."""
    if config.method == "none":
        return plain
    beta1, beta2, tau = config.momentum, config.beta2, config.tau

    def momentum(params: np.ndarray, direction: np.ndarray, memory: State, round: int) -> tuple[np.ndarray, State]:
        m = beta1 * memory.get("m", np.zeros_like(direction)) + direction
        rate = config.learning_rate * falls(config.rate, round, rounds)
        return (params.astype(np.float64) + rate * m).astype(np.float32), {"m": m}

    def adaptive(params: np.ndarray, direction: np.ndarray, memory: State, round: int) -> tuple[np.ndarray, State]:
        m = beta1 * memory.get("m", np.zeros_like(direction)) + (1 - beta1) * direction
        v = memory.get("v", np.full_like(direction, tau * tau))
        square = direction * direction
        if config.method == "adam":
            v = beta2 * v + (1 - beta2) * square
        else:
            v = v - (1 - beta2) * square * np.sign(v - square)
        rate = config.learning_rate * falls(config.rate, round, rounds)
        return (params.astype(np.float64) + rate * (m / (np.sqrt(v) + tau))).astype(np.float32), {"m": m, "v": v}

    return momentum if config.method == "momentum" else adaptive
