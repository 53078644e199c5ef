"""From 10 to 1,000 hospitals: cost of a gradient step and peak memory; and memory over 200 rounds.

    python benchmarks/scale.py [--pools threads,ray] [--beats 256]

Every hospital has as many train beats as the others, all of full batches, and 100 at most are drawn in a round, so that
a step is the same work everywhere. Each row is a process of its own, started and watched as in `federation.py`.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from federation import BATCH, HERE, Workload, make_data, run


def measure(pool: str, workload: Workload, data: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds for a gradient step (wall time of a steady round over its steps), peak memory, seconds in all."""
    options = ["--workload", data.name, "--data", str(data.parent), "--rounds", str(rounds)]
    command = [sys.executable, str(HERE / "contestants.py"), f"ours-{pool}-native", *options]
    out, measured = run([*command, "--final", str(data / "final.npy")], 1200)
    answer = json.loads([line for line in out.splitlines() if line.startswith("{")][-1])
    if "skipped" in answer:
        raise SystemExit(f"{pool}: {answer['skipped']}")
    steps = workload.steps(1)
    return {"ms": [1000 * s / steps for s in answer["rounds"][1:]], **measured}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Cost of a step and memory from 10 to 1,000 hospitals.")
    parser.add_argument("--pools", default="threads,ray")
    parser.add_argument("--beats", type=int, default=8 * BATCH, help="train beats of each hospital, full batches")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(
        f"{'pool':8}{'hospitals':>10}{'in a round':>11}{'rounds':>7}{'ms a step (min..max)':>28}{'RSS MB':>8}{'PSS MB':>8}{'s':>7}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for hospitals, rounds in ((10, options.rounds), (100, options.rounds), (1000, options.rounds), (1000, 200)):
            workload = Workload(hospitals, min(hospitals, 100), options.beats, options.beats // 4)
            data = Path(folder) / f"{hospitals}"
            if not data.exists():
                make_data(data, workload)
            for pool in options.pools.split(","):
                found = measure(pool, workload, data, rounds)
                ms = found["ms"]
                spread = f"{statistics.median(ms):.3f} ({min(ms):.3f}..{max(ms):.3f})"
                print(
                    f"{pool:8}{hospitals:10}{workload.per_round:11}{rounds:7}{spread:>28}"
                    f"{found['rss_mb']:8.0f}{found['pss_mb']:8.0f}{found['wall']:7.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
