"""BlockFL's latency (Kim, Park, Bennis, Kim): the rate of blocks at which a round takes least, by formula and by playing rounds through.

    python benchmarks/blockfl.py [--hospitals 10] [--rounds 4000]

Hospitals' work, links and jitter are those of the virtual clock (fleet bpfish, jitter 0.3), a model of 17,000 parameters and 3,000 beats
each; miners race as in `engine/timing/blocks.py`. The last columns are the rate with the least mean of a grid, and that mean, beside the formula's.
"""

import argparse
import statistics

import numpy as np

from engine.messages import Timeline
from engine.schedule.clocked import Clocked
from engine.schedule.config import ScheduleConfig
from engine.schedule.sampled import Sampled
from engine.timing.blocks import best_rate, fork, latency, simulated
from engine.timing.config import ClockConfig
from engine.timing.fleet import MICRO, Fleet, Load

ATTEMPTS = 500
GRID = np.geomspace(0.25, 4, 17)  # times the formula's rate


def waits(hospitals: int) -> list[float]:
    """Seconds of synchronous rounds on the virtual clock, one after another."""
    clock = ClockConfig(fleet="bpfish", jitter=0.3)
    loads = dict.fromkeys(range(hospitals), Load(3000, 94, 32 * 17_000))
    schedule = Clocked(Sampled(0, tuple(loads), hospitals), ScheduleConfig(), Fleet(clock, 0, hospitals), loads)
    found, line = [], Timeline()
    for number in range(1, ATTEMPTS + 1):
        after = schedule.pace(number, line).line
        found.append((after.now - line.now) / MICRO)
        line = after
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hospitals", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=4000, help="played through at each rate")
    given = parser.parse_args()
    times = waits(given.hospitals)
    wait = statistics.fmean(times)
    print(f"{given.hospitals} hospitals: the last update is in after {wait:.4f} s on average\n")
    print(
        "| miners | spread s | best rate | fork | latency s | played: latency s | played: best rate | its latency s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for miners in (2, 5, 10, 50):
        for spread in (0.01, 0.1, 1.0):
            rate = best_rate(wait, miners, spread)
            means = {}
            for factor in (1.0, *GRID):
                # the same draws for all rates: what differs is the rate
                seconds = simulated(times, factor * rate, miners, spread, given.rounds, np.random.default_rng(18))
                means[float(factor * rate)] = float(seconds.mean())
            least = min(means, key=lambda one: means[one])
            print(
                f"| {miners} | {spread} | {rate:.4g} | {fork(rate, miners, spread):.3f} | {latency(wait, rate, miners, spread):.4f} | "
                f"{means[rate]:.4f} | {least:.4g} | {means[least]:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
