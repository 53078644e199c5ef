"""Hospitals one by one against all at once: milliseconds for one SGD step of every hospital.

    python benchmarks/stacked.py [--device cuda] [--hospitals 10 100 1000]

Network: the default `cnn` for 252 samples, 4 RR features, 4 classes. Batch 32. "stacked" is the gradient call alone,
"lockstep" the way a pool uses it, with a thread for each hospital and its SGD in NumPy.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import numpy as np

from engine.algorithms.base import Work, sgd
from engine.data.samples import Samples
from engine.model import ModelConfig, Network, build_network, initial_parameters
from engine.oracles.base import Batch
from engine.oracles.stacked import Lockstep, StackedOracle
from engine.oracles.torch import TorchOracle

BATCH, STEPS = 32, 5


def milliseconds(work: Callable[[], object], steps: int, repeat: int = 5) -> tuple[float, float, float]:
    """Median, minimum and maximum per step, after one warm-up."""
    work()
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) * 1000 / steps)
    return statistics.median(times), min(times), max(times)


def measure(count: int, single: TorchOracle, stacked: StackedOracle, network: Network) -> str:
    """One row of the table."""
    start = initial_parameters(network, 0)
    draw = np.random.default_rng(0)
    n = BATCH * STEPS
    samples = [
        Samples(
            draw.standard_normal((n, 1, 252)).astype(np.float32),
            draw.standard_normal((n, 4)).astype(np.float32),
            draw.integers(0, 4, n).astype(np.int8),
            np.arange(n),
        )
        for _ in range(count)
    ]

    def tasks(oracle: TorchOracle | Lockstep) -> list[Callable[[], np.ndarray]]:
        def train(i: int) -> np.ndarray:
            return sgd(
                Work(oracle, network.layout, start, {}, samples[i], np.random.default_rng(i)), STEPS, BATCH, 0.05
            )[0]

        return [functools.partial(train, i) for i in range(count)]

    lockstep = Lockstep(stacked, single)
    batches = [Batch(s.x[:BATCH], s.rr[:BATCH], s.y[:BATCH]) for s in samples]
    params = np.repeat(start[None], count, 0)
    one = milliseconds(lambda: [task() for task in tasks(single)], STEPS, 3)
    together = milliseconds(lambda: stacked.gradients(params, batches), 1)
    locked = milliseconds(lambda: lockstep.run(tasks(lockstep)), STEPS)
    alone, joint = [task() for task in tasks(single)[:10]], lockstep.run(tasks(lockstep)[:10])
    difference = max(float(np.abs(a - b).max()) for a, b in zip(alone, joint, strict=True))
    cells = "  ".join(f"{m:9.1f} ({a:.1f}..{b:.1f})".rjust(22) for m, a, b in (one, together, locked))
    return f"{count:9}  {cells}  {one[0] / locked[0]:21.1f}  {difference:.1e}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Hospitals one by one against all at once.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--hospitals", type=int, nargs="+", default=[10, 100, 1000])
    options = parser.parse_args()
    network = build_network(ModelConfig(), 1, 252, 4, 4)
    single, stacked = TorchOracle(network, device=options.device), StackedOracle(network, options.device)
    print(f"device {options.device}, batch {BATCH}, {network.size} parameters; ms for one step of all hospitals")
    titles = "  ".join(name.rjust(22) for name in ("one by one", "stacked", "lockstep"))
    print(f"hospitals  {titles}  one by one / lockstep  largest difference")
    for count in options.hospitals:
        print(measure(count, single, stacked, network), flush=True)


if __name__ == "__main__":
    main()
