"""The native oracle against torch's, in one process on one thread: python benchmarks/oracle.py [repetitions].

The two take turns and medians are printed, of CPU time: other work on the machine would stretch the time on the clock.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from floor import multiply_adds

from engine.model import Network, initial_parameters
from engine.oracles.base import Batch, Oracle
from engine.oracles.native import NativeOracle
from engine.oracles.torch import TorchOracle

NETWORK = Network(1, 252, 4, 4, (16, 32, 64), (7, 5, 5), 32, 8, 4)
BATCH, EVALUATED = 32, 512


def milliseconds(work: Callable[[Oracle], object], oracle: Oracle, calls: int = 10) -> float:
    start = time.thread_time()
    for _ in range(calls):
        work(oracle)
    return (time.thread_time() - start) / calls * 1e3


def main(repetitions: int) -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((EVALUATED, NETWORK.leads, NETWORK.window)).astype(np.float32)
    rr = draw.standard_normal((EVALUATED, NETWORK.rr)).astype(np.float32)
    y = draw.integers(0, NETWORK.classes, EVALUATED)
    params = initial_parameters(NETWORK, 1)
    batch = Batch(x[:BATCH], rr[:BATCH], y[:BATCH])
    forward, backward = multiply_adds(NETWORK)
    oracles: dict[str, Oracle] = {"torch": TorchOracle(NETWORK), "native": NativeOracle(NETWORK)}
    works: dict[str, tuple[Callable[[Oracle], object], int]] = {
        f"gradient of {BATCH}": (lambda o: o.gradient(params, batch), 2 * BATCH * (forward + backward)),
        f"scores of {EVALUATED}": (lambda o: o.scores(params, x, rr), 2 * EVALUATED * forward),
    }
    print(f"{repetitions} repetitions, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores before")
    print(f"{'':16}{'torch ms':>10}{'native ms':>11}{'GFLOP/s':>14}{'ratio':>8}")
    for name, (work, flop) in works.items():
        taken: dict[str, list[float]] = {oracle: [] for oracle in oracles}
        for _ in range(repetitions):
            for oracle, kept in taken.items():
                kept.append(milliseconds(work, oracles[oracle]))
        torch, native = (statistics.median(kept) for kept in taken.values())
        rates = f"{flop / torch / 1e6:.0f} -> {flop / native / 1e6:.0f}"
        print(f"{name:16}{torch:10.2f}{native:11.3f}{rates:>14}{torch / native:7.1f}x")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
