"""What a study of rounds that do not wait says: virtual time and energy to the target, against the best semi-synchronous setting.

    pulseledger sweep ready:async --data.folder MITDB --out runs/async
    python benchmarks/time_to_target.py runs/async [--choosing 2] [--target 0.55]

The first `--choosing` seeds choose how many updates end a semi-synchronous round (the lowest mean time to the target), the others measure.
A ratio is the geometric mean over those seeds of its time over the method's, with a 95 % interval by Student's t of the logarithms; "-"
where one of the seeds never gets there. The difference of personal macro-F1 is in points, paired by seed. Slow hospitals are those of the clock.
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from scipy import stats

from engine.result import Result
from engine.timing.fleet import devices
from sweeps.folder import read_study, read_trials, repeat_folder, trial_folder

PERSONAL = "final/personal/macro_f1"


class Seed(NamedTuple):
    """A run: seconds and joules to the target, infinite where it is not reached; scores at the end; seconds in all."""

    seconds: float
    joules: float
    shared: float
    personal: float
    slow: float
    end: float


def seed_of(result: Result, target: float) -> Seed:
    """What a run came to."""
    good = (row.virtual for row in result.rounds if (row.validation.macro_f1 or 0.0) >= target)
    first = next((one for one in good if one is not None), None)
    config = result.config
    slow = {h for h, one in enumerate(devices(config.clock, config.seed, config.cohort.hospitals)) if one.slow > 1}
    own = [one.macro_f1 for one in result.final.personal.per_hospital if one.id in slow and one.macro_f1 is not None]
    return Seed(
        math.inf if first is None else first.seconds,
        math.inf if first is None else first.compute_joules + first.radio_joules,
        result.final.global_.macro_f1 or 0.0,
        result.final.personal.macro_f1 or 0.0,
        statistics.fmean(own) if own else math.nan,
        0.0 if result.clock is None else result.clock.virtual_seconds,
    )


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval by Student's t.

    >>> interval([1.0, 3.0])[0]
    2.0
    """
    mean, many = statistics.fmean(values), len(values)
    if many < 2:
        return mean, math.nan, math.nan
    reach = float(stats.t.ppf(0.975, many - 1)) * statistics.stdev(values) / math.sqrt(many)
    return mean, mean - reach, mean + reach


def name_of(keys: dict[str, object]) -> str:
    """A method's settings in short."""
    mode = str(keys.get("schedule.mode", "synchronous"))
    more = [str(keys[key]) for key in ("schedule.first", "schedule.buffer", "schedule.correction") if key in keys]
    return " ".join([mode, *more])


def lines(methods: dict[str, list[Seed]], choosing: int) -> list[str]:
    """The table of one condition."""
    semi = {name: seeds for name, seeds in methods.items() if name.startswith("semi") and len(seeds) > choosing}
    chosen = min(semi, key=lambda name: statistics.fmean(one.seconds for one in semi[name][:choosing]), default="")
    found = []
    for name, seeds in methods.items():
        own = seeds[choosing:]
        if not own:
            continue
        there = [one.seconds for one in own if math.isfinite(one.seconds)]
        reached = (
            f"{statistics.fmean(there):.2f}" if len(there) == len(own) else f"{len(there)} of {len(own)} get there"
        )
        joules = f"{statistics.fmean(one.joules for one in own):.2f}" if len(there) == len(own) else "-"
        ratio, points = "-", "-"
        if chosen:
            base = semi[chosen][choosing : choosing + len(own)]
            if all(math.isfinite(one.seconds) for one in (*own, *base)):
                logs = [math.log(b.seconds / o.seconds) for o, b in zip(own, base, strict=False)]
                mean, low, high = map(math.exp, interval(logs))
                ratio = f"{mean:.2f} ({low:.2f} to {high:.2f})"
            mean, low, high = interval([100 * (o.personal - b.personal) for o, b in zip(own, base, strict=False)])
            points = f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
        scores = " | ".join(
            f"{statistics.fmean(getattr(one, key) for one in own):.3f}" for key in ("shared", "personal", "slow")
        )
        end = statistics.fmean(one.end for one in own)
        mark = " (chosen)" if name == chosen else ""
        found.append(f"| {name}{mark} | {reached} | {joules} | {ratio} | {scores} | {points} | {end:.1f} |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--choosing", type=int, default=2, help="seeds that choose and do not measure")
    parser.add_argument("--target", type=float, help="validation macro-F1 of the global model; default: clock.target")
    given = parser.parse_args()
    study = read_study(given.study)
    target = given.target or study.clock.target or 0.5
    groups: dict[str, dict[str, list[Seed]]] = {}
    for trial in read_trials(study, given.study):
        runs = [repeat_folder(trial_folder(given.study, trial.number), repeat) for repeat in range(study.repeats)]
        there = [run for run in runs if (run / "result.json").exists()]
        groups.setdefault(trial.condition, {})[name_of(trial.keys)] = [
            seed_of(Result.read(run), target) for run in there
        ]
    for condition, methods in groups.items():
        print(
            f"\n{condition}: target {target:g}, seeds {given.choosing} to {study.repeats - 1}; {given.choosing} seeds chose\n"
        )
        print(
            "| schedule | s to target | J to target | times faster | global macro-F1 | personal | of slow hospitals | personal, points | s in all |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        print("\n".join(lines(methods, given.choosing)), flush=True)


if __name__ == "__main__":
    main()
