"""Rounds that do not wait, from 100 to 10,000 hospitals: CPU of a job, memory of a hospital, and of the clock alone.

    python benchmarks/scale_late.py [--hospitals 100 1000 10000] [--rounds 40]

Every hospital has 50 train and 2 validation beats of the workload of `federation.py`. 100 work at a time, a round is a flush of 50 updates
(FedBuff) of two gradient steps each; a fifth is ten times slower and a tenth of all jobs is lost. In this process, without ledger, tracker
and checkpoints. CPU is this process's, median over rounds after the first five; memory is what Python and NumPy allocate (tracemalloc,
in a second pass, as it slows everything), without the mapped beats.
"""

import argparse
import gc
import statistics
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
from federation import CLASSES, Workload, make_data

from engine.aggregation.build import rule_of
from engine.config import RunConfig
from engine.data.beats import open_beats
from engine.data.cohort import HospitalData
from engine.hospital import Task
from engine.ledger.base import NO_LEDGER
from engine.messages import LoopState, RoundRecord, Timeline
from engine.model import build_network, initial_parameters
from engine.oracles.build import choose_oracle
from engine.pools.local import InProcessPool
from engine.rounds import Parts, Validation, run_rounds
from engine.schedule.clocked import Clocked
from engine.schedule.judges import nobody
from engine.schedule.sampled import Sampled
from engine.settings import parse
from engine.timing.fleet import Fleet
from engine.virtual import load_of

BEATS, SCORED, PLACES, BUFFER, WARM = 50, 2, 100, 50, 5


class Marks:
    """CPU seconds at the end of each round, and its updates."""

    def __init__(self) -> None:
        self.seconds, self.jobs = [time.process_time()], list[int]()

    def round_finished(self, record: RoundRecord) -> None:
        self.seconds.append(time.process_time())
        self.jobs.append(len(record.updates))


def config_of(hospitals: int, rounds: int) -> RunConfig:
    """The run of a workload."""
    values: dict[str, Any] = {
        "data": {"classes": "".join(CLASSES)},
        "cohort": {"hospitals": hospitals},
        "federation": {"rounds": rounds, "participation": PLACES / hospitals, "batch_size": 32, "learning_rate": 0.05},
        "personalisation": {"method": "none"},
        "clock": {"fleet": "stragglers", "dropout": 0.1},
        "schedule": {"mode": "buffered", "buffer": BUFFER},
        "ledger": {"backend": "none"},
        "tracking": {"backend": "none"},
        "execution": {"pool": "inprocess"},
    }
    return parse(RunConfig, values, "benchmark")


def play(folder: Path, hospitals: int, rounds: int) -> tuple[Marks, dict[str, float]]:
    """A run; bytes of a hospital before and after it, and of what the loop knows, where memory is traced."""
    config, beats = config_of(hospitals, rounds), open_beats(folder)
    network = build_network(config.model, *beats.shape, beats.rr.shape[1], len(beats.classes))
    oracle = choose_oracle(config.execution, network, lambda text: None)
    ranges, none = np.load(folder / "hospitals.npy").tolist(), np.zeros(0, np.int64)
    ids = tuple(range(hospitals))
    gc.collect()
    begun = tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else 0
    data = [HospitalData(h, np.arange(a, b), np.arange(b, c), none) for h, (a, b, c) in enumerate(ranges)]
    pool = InProcessPool(data, Task(config, network, folder, None, oracle, False))
    gc.collect()
    built = tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else 0
    loads = dict.fromkeys(ids, load_of(config, BEATS, network.size))
    sampled = Sampled(config.seed, ids, min(PLACES, hospitals))
    schedule = Clocked(sampled, config.schedule, Fleet(config.clock, config.seed, hospitals), loads)
    validation = Validation(ids, beats.classes, beats.classes, participants=True)
    parts = Parts(rounds, pool, schedule, rule_of(config), nobody, NO_LEDGER, validation)
    marks = Marks()
    run_rounds(LoopState(0, initial_parameters(network, 0)), parts, [marks])
    gc.collect()
    after = tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else 0
    pool.close()
    return marks, {"built": (built - begun) / hospitals, "after": (after - begun) / hospitals}


def clock_alone(hospitals: int, rounds: int) -> float:
    """Microseconds of CPU for a job on the clock, without any training."""
    config = config_of(hospitals, rounds)
    loads = dict.fromkeys(range(hospitals), load_of(config, BEATS, 10_000))
    sampled = Sampled(0, tuple(loads), min(PLACES, hospitals))
    schedule = Clocked(sampled, config.schedule, Fleet(config.clock, 0, hospitals), loads)
    line, began = Timeline(), time.process_time()
    for number in range(1, rounds + 1):
        line = schedule.pace(number, line).line
    return 1e6 * (time.process_time() - began) / line.begun


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hospitals", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args()
    print(
        "| hospitals | ms of CPU a job (quartiles) | us of the clock alone | bytes a hospital, built | and after the run |"
    )
    print("|---|---|---|---|---|")
    for hospitals in given.hospitals:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "beats"
            make_data(folder, Workload(hospitals, min(PLACES, hospitals), BEATS, SCORED))
            marks, _ = play(folder, hospitals, given.rounds)
            each = [1000 * s / n for s, n in zip(np.diff(marks.seconds), marks.jobs, strict=True)][WARM:]
            low, middle, high = statistics.quantiles(each, n=4)
            tracemalloc.start()
            _, memory = play(folder, hospitals, given.rounds)
            tracemalloc.stop()
        cells = f"{clock_alone(hospitals, given.rounds):.0f} | {memory['built']:,.0f} | {memory['after']:,.0f}"
        print(f"| {hospitals:,} | {middle:.2f} ({low:.2f} to {high:.2f}) | {cells} |", flush=True)


if __name__ == "__main__":
    main()
