"""The physical floor: the operations of a network, and the best rate at which one core multiplies matrices."""

import os
import subprocess
import sys

from engine.model import Network

SIZES = (256, 512, 1024, 2048)
# CPU time of the fastest of several products: what else the machine does does not count
PRODUCT = """
import sys, time
import numpy as np
best = 0.0
for n in map(int, sys.argv[1:]):
    a, b = (np.random.default_rng(i).standard_normal((n, n), dtype=np.float32) for i in (1, 2))
    for _ in range(max(3, 2**30 // n**3)):
        began = time.thread_time()
        a @ b
        best = max(best, 2 * n**3 / (time.thread_time() - began) / 1e9)
print(best)
"""


def multiply_adds(network: Network) -> tuple[int, int]:
    """Of one beat, forward and backward; the first layer needs no gradient of its input. Norms and pools not counted."""
    length = (network.window + 1) // 2
    layers = []
    for before, after, kernel in zip(
        (network.leads, *network.channels[:2]), network.channels, network.kernels, strict=True
    ):
        layers.append(length * after * before * kernel)
        length //= 2
    layers.append((network.channels[2] * network.pooled + network.rr) * network.hidden)
    layers.append(network.hidden * network.classes)
    return sum(layers), 2 * sum(layers) - layers[0]


def matrix_rate() -> float:
    """GFLOP/s of the best float32 matrix product on one core."""
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "VECLIB")}
    command = [sys.executable, "-c", PRODUCT, *map(str, SIZES)]
    done = subprocess.run(command, env={**os.environ, **threads}, check=True, capture_output=True, text=True)
    return float(done.stdout)
