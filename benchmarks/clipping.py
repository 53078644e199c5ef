"""What clipping costs: the gradient of a batch against the sum of its beats' clipped gradients, by the native kernel, paired.

    python benchmarks/clipping.py [--pairs 60] [--calls 20]

Networks: the default `cnn` and `features` (3,000), for 252 samples, 4 RR features, 4 classes. Batches: what `privacy.sampling_rate` 0.05
makes of a hospital of W1 (2,000 train beats) and of W2 (200), see `benchmarks/federation.py`. The two gradients of one batch take turns,
each of a pair first half of the time; a ratio is within a pair, by the thread's own CPU time. Shown: median over the pairs, 5 % and 95 %.
A norm is chosen at which half of the beats are clipped.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from engine.model import FeatureNetwork, Network, build_network, initial_parameters
from engine.model import ModelConfig as Model
from engine.oracles.base import Batch
from engine.oracles.native import NativeOracle

BATCHES = {"W1": 100, "W2": 10}
NETWORKS = ("cnn", "features")


def paired(plain: Callable[[], object], clipped: Callable[[], object], pairs: int, calls: int) -> np.ndarray:
    """CPU seconds of a call, float64[pairs, 2]: of the plain one and of the clipped one."""
    took = np.zeros((pairs, 2))
    for number in range(-1, pairs):  # the first pair warms up
        for which in (0, 1) if number % 2 else (1, 0):
            work = (plain, clipped)[which]
            began = time.thread_time()
            for _ in range(calls):
                work()
            took[number, which] = (time.thread_time() - began) / calls
    return took


def measure(name: str, beats: int, pairs: int, calls: int) -> np.ndarray:
    """CPU seconds as of `paired`, of one network and batch."""
    network = build_network(Model(network=name), 1, 252, 4, 4)
    assert isinstance(network, Network | FeatureNetwork)
    oracle, params, draw = NativeOracle(network), initial_parameters(network, 0), np.random.default_rng(0)
    x, rr = (draw.standard_normal(shape).astype(np.float32) for shape in ((beats, 1, 252), (beats, 4)))
    batch = Batch(x, rr, draw.integers(0, 4, beats))
    norms = [
        np.linalg.norm(oracle.gradient(params, Batch(x[i : i + 1], rr[i : i + 1], batch.y[i : i + 1]))[1])
        for i in range(beats)
    ]
    clip = float(np.median(norms))
    return paired(
        lambda: oracle.gradient(params, batch), lambda: oracle.clipped_gradient(params, batch, clip), pairs, calls
    )


def row(name: str, workload: str, took: np.ndarray) -> str:
    """One line of the table."""
    beats = BATCHES[workload]
    plain, clipped = np.median(took, axis=0) * 1e6 / beats
    low, middle, high = np.quantile(took[:, 1] / took[:, 0], (0.05, 0.5, 0.95))
    return (
        f"| {name} | {workload}: {beats} beats | {plain:.1f} | {clipped:.1f} | {middle:.2f} ({low:.2f} to {high:.2f}) |"
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="The gradient of a batch against its clipped gradients.")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--calls", type=int, default=20)
    options = parser.parse_args()
    print("| network | batch | plain, us a beat | clipped, us a beat | ratio |\n|---|---|---|---|---|")
    for name in NETWORKS:
        for workload, beats in BATCHES.items():
            print(row(name, workload, measure(name, beats, options.pairs, options.calls)), flush=True)


if __name__ == "__main__":
    main()
