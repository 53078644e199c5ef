"""What a study costs: trials an hour here, in a plain Optuna loop and in Ray Tune's OptunaSearch, on the same trials.

Every contestant is a process of its own that runs the same federations, one CPU and one process for each, at the same
points of the search space, and is checked to have come to the same weights. Two trials run at a time on two CPUs where
a contestant can do that. Contestants take turns. Times of trials are read off the files that they leave behind, so that
no contestant measures itself; `--help` and the start are timed, too.

    ours          `pulseledger sweep`: placement groups, SQLite, checkpoints; hospitals in the trial's runner, as it has one CPU
    ours-actors   the same with hospitals in a Ray actor inside the trial's placement group
    optuna        `study.optimize` with an in-memory study, one trial after another in this process
    optuna-2      the same with the two CPUs as threads of each trial
    tune          Ray Tune with OptunaSearch, two trials at a time, actors reused

With --trivial, trials are nothing but overhead: one round of two tiny hospitals, with a ledger and MLflow as a study has them
by default. Only ours run then; --trials 240 shows what a trial costs, and whether it costs more the more there are.
"""

import argparse
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from federation import PR_SET_CHILD_SUBREAPER, machine, run

from engine.config import RunConfig
from engine.experiment import run as run_federation
from engine.pools.config import ExecutionConfig
from engine.result import RESULT, Result
from engine.settings import dump_yaml
from sweeps.checks import load_study
from sweeps.folder import repeat_folder, trial_folder
from sweeps.space import StudyConfig, conditions, resolve

CONTESTANTS = ("ours", "ours-actors", "optuna", "optuna-2", "tune")
CPUS = 2
KEY = "federation.learning_rate"
TRIVIAL: dict[str, Any] = {
    "data": {"source": "simulated", "window": [30, 42], "simulated": {"patients": 6, "minutes": 1.0}},
    "cohort": {"hospitals": 2},
    "model": {"channels": [8, 8, 8], "hidden": 8},
    "federation": {"rounds": 1},
    "personalisation": {"steps": 1},
    "ledger": {"backend": "embedded"},
    "tracking": {"backend": "mlflow"},
}
SCORE = "validation/personal/macro_f1"


def study_of(given: argparse.Namespace) -> StudyConfig:
    """The study of all contestants: as many learning rates as trials, one trial at each."""
    rates = [round(0.02 + 0.18 * i / max(given.trials - 1, 1), 6) for i in range(given.trials)]
    values: dict[str, Any] = {
        "name": "benchmark",
        "data": {"source": "simulated", "window": [90, 162], "simulated": {"patients": 12, "minutes": given.minutes}},
        "cohort": {"hospitals": 4},
        "federation": {"rounds": given.rounds},
        "ledger": {"backend": "none"},
        "tracking": {"backend": "none"},
        "execution": {"pool": "inprocess", "cpus": CPUS},
        "search": {KEY: {"choice": rates}},
        "sampler": "grid",
        "concurrency": CPUS,
    }
    if given.trivial:
        values |= TRIVIAL
    return load_study(values, "benchmark")


def points_of(study: StudyConfig) -> list[float]:
    """The learning rates."""
    return list(study.search[KEY]["choice"])


def federation_at(study: StudyConfig, rate: float, pool: str = "inprocess") -> RunConfig:
    """The run of one point."""
    (condition,) = conditions(study)
    config = resolve(study, condition, {KEY: rate}, 0)
    return config.model_copy(update={"execution": ExecutionConfig(pool=pool, cpus=CPUS)})  # type: ignore[arg-type]


def home_of(folder: Path, study: StudyConfig, rate: float) -> Path:
    """Where a contestant other than ours runs a point: the same place as in a study of ours."""
    return repeat_folder(trial_folder(folder, points_of(study).index(rate)), 0)


# --- Contestants ------------------------------------------------------------------------------------------------------


def ours(study: StudyConfig, folder: Path, **actors: Any) -> None:
    from sweeps.__main__ import main as pulseledger

    execution = study.execution.model_copy(update={"pool": "ray", **actors})
    path = folder / "benchmark.yaml"
    path.write_text(dump_yaml(study.model_copy(update={"execution": execution})))
    if pulseledger(["sweep", str(path), "--out", str(folder)]):
        raise RuntimeError("the study failed")


def plain_optuna(study: StudyConfig, folder: Path, pool: str) -> None:
    import optuna

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_categorical(KEY, points_of(study))
        config = federation_at(study, rate, pool)
        return run_federation(config, home_of(folder, study, rate)).validation.personal.macro_f1 or 0.0

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = optuna.create_study(direction="maximize")
    for rate in points_of(study):
        made.enqueue_trial({KEY: rate})
    made.optimize(objective, n_trials=len(points_of(study)))


def ray_tune(study: StudyConfig, folder: Path) -> None:
    from optuna.distributions import CategoricalDistribution

    from engine.actors import start_ray, stop_ray

    start_ray(study.execution)
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    def trainable(point: dict[str, Any]) -> None:
        config = federation_at(study, point[KEY])
        result = run_federation(config, home_of(folder, study, point[KEY]))
        tune.report({SCORE: result.validation.personal.macro_f1})

    points = points_of(study)
    search = OptunaSearch(
        {KEY: CategoricalDistribution(points)}, SCORE, "max", points_to_evaluate=[{KEY: rate} for rate in points]
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=search, num_samples=len(points), max_concurrent_trials=CPUS, reuse_actors=True
        ),
        run_config=tune.RunConfig(storage_path=str(folder / "tune"), verbose=0),
    )
    tuner.fit()
    stop_ray()


def compete(given: argparse.Namespace) -> None:
    """One contestant, in a process of its own; prints what this process used."""
    study = study_of(given)
    match given.contestant:
        case "ours":
            ours(study, given.folder)
        case "ours-actors":
            ours(study, given.folder, hospitals_per_actor=study.cohort.hospitals)
        case "optuna":
            plain_optuna(study, given.folder, "inprocess")
        case "optuna-2":
            plain_optuna(study, given.folder, "threads")
        case "tune":
            ray_tune(study, given.folder)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"own_rss_mb": used.ru_maxrss / 1e3, "own_cpu": used.ru_utime + used.ru_stime}))


# --- The race ---------------------------------------------------------------------------------------------------------


def race(given: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Runs every contestant, in turns."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for repetition in range(given.repetitions):
        turn = repetition % len(given.contestants)
        for name in given.contestants[turn:] + given.contestants[:turn]:
            place = folder / f"{name}-{repetition}"
            place.mkdir()
            command = [sys.executable, str(Path(__file__).resolve()), "--contestant", name, "--folder", str(place)]
            command += ["--trials", str(given.trials), "--rounds", str(given.rounds), "--minutes", str(given.minutes)]
            command += ["--trivial"] * given.trivial
            started = time.time()
            out, measured = run(command, given.timeout)
            answer = json.loads([line for line in out.splitlines() if line.startswith("{")][-1])
            row = {**answer, **measured, **trials_of(place, started, given.trials)}
            row["busy"] = row["cpu"] / (CPUS * row["wall"])
            row["training"] = row["train_seconds"] / (CPUS * row["wall"])
            runs.setdefault(name, []).append(row)
            print(
                f"  {repetition + 1}/{given.repetitions} {name:<12}{row['wall']:7.1f} s in all, first trial after "
                f"{row['first']:5.1f} s, {row['foreign']:.0f} s of CPU went to other processes",
                flush=True,
            )
    return runs


def trials_of(folder: Path, started: float, wanted: int) -> dict[str, Any]:
    """What a contestant's trials tell: when each ended, how long its run took, and the weights it came to.

    The rate is that between the end of the second trial and the last one, and a trial's cost is what a CPU's slot
    spends on it beyond the run itself: both without the start, and for `optuna`, which has one slot, with one.
    """
    found = sorted(folder.glob(f"trials/*/seed-*/{RESULT}"))
    if len(found) != wanted:
        raise RuntimeError(f"{folder.name}: {len(found)} of {wanted} trials left a result")
    ends = sorted(path.stat().st_mtime - started for path in found)
    results = [Result.read(path.parent) for path in found]
    slots = 1 if folder.name.startswith("optuna") else CPUS
    seconds = statistics.fmean(r.timing.total_seconds for r in results)
    span = ends[-1] - ends[slots - 1]
    return {
        "first": ends[0],
        "steady_per_hour": 3600 * (wanted - slots) / span,
        "run_seconds": seconds,
        "cost_seconds": slots * span / (wanted - slots) - seconds,
        "train_seconds": sum(r.timing.train_seconds for r in results),
        "weights": {str(r.config.federation.learning_rate): r.model_hash for r in results},
    }


def help_seconds(starts: int) -> dict[str, float]:
    """Median seconds of starting Python, `pulseledger --help`, and the two libraries that it does not import."""
    commands = {
        "python -c pass": ["-c", "pass"],
        "pulseledger --help": ["-m", "sweeps", "--help"],
        "import optuna, ray": ["-c", "import optuna, ray"],
    }
    medians = {}
    for name, command in commands.items():
        times = []
        for _ in range(starts):
            before = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - before)
        medians[name] = statistics.median(times)
    return medians


COLUMNS = {
    "wall": ("whole", "s", 1),
    "per_hour": ("trials", "an hour", 0),
    "first": ("first", "trial s", 1),
    "steady_per_hour": ("later", "an hour", 0),
    "run_seconds": ("a run", "s", 2),
    "cost_seconds": ("cost a", "trial s", 2),
    "cpu_per_trial": ("all CPU", "s/trial", 2),
    "own_cpu_per_trial": ("driver's", "s/trial", 2),
    "own_rss_mb": ("driver", "MB", 0),
    "pss_mb": ("all", "MB", 0),
    "busy": ("cores", "busy %", 0),
    "training": ("training", "%", 0),
    "foreign": ("foreign", "CPU s", 0),
}


def summary(runs: dict[str, list[dict[str, Any]]], trials: int) -> dict[str, dict[str, float]]:
    """Medians over the repetitions."""
    table = {}
    for name, rows in runs.items():
        for row in rows:
            row["per_hour"] = 3600 * trials / row["wall"]
            row["cpu_per_trial"] = row["cpu"] / trials
            row["own_cpu_per_trial"] = row["own_cpu"] / trials
        table[name] = {key: statistics.median(row[key] for row in rows) for key in COLUMNS}
    return table


def ratios(runs: dict[str, list[dict[str, Any]]], mine: str) -> dict[str, dict[str, list[float]]]:
    """How many times as many trials an hour as each other contestant, in each repetition: in all, and later."""
    return {
        other: {
            key: [a[key] / b[key] for a, b in zip(runs[mine], rows, strict=True)]
            for key in ("per_hour", "steady_per_hour")
        }
        for other, rows in runs.items()
        if not other.startswith("ours")
    }


def problems_of(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Contestants whose trials came to other weights than the first one's."""
    rows = [(name, row["weights"]) for name, many in runs.items() for row in many]
    return sorted({f"{name} came to other weights than {rows[0][0]}" for name, w in rows if w != rows[0][1]})


def _shape(given: argparse.Namespace) -> str:
    if given.trivial:
        return "one round, 2 tiny hospitals, simulated records, ledger and MLflow"
    return f"{given.rounds} rounds, 4 hospitals, simulated records, no ledger, no tracking"


def show(given: argparse.Namespace, result: dict[str, Any]) -> str:
    """The table as text."""
    percent = ("busy", "training")
    lines = [
        f"\n{given.trials} trials of {_shape(given)}; {given.repetitions} repetition(s), medians",
        f"{'':<13}" + "".join(f"{top:>9}" for top, _, _ in COLUMNS.values()),
        f"{'contestant':<13}" + "".join(f"{unit:>9}" for _, unit, _ in COLUMNS.values()),
    ]
    for name, row in result["rows"].items():
        cells = [f"{row[key] * (100 if key in percent else 1):>9.{digits}f}" for key, (_, _, digits) in COLUMNS.items()]
        lines.append(f"{name:<13}" + "".join(cells))
    lines.append(
        "later: between the ends of the first trials and the last one. cost: what a trial's slot spends beyond the run."
        " all CPU: of all processes,\n"
        "with the start, over the trials; driver's: of the contestant's own process (of `optuna`, that which trains), its"
        " peak RSS beside the PSS of all.\n"
        "training: wall seconds of training over the cores' seconds. foreign: CPU of other processes."
    )
    for mine, others in result["ratios"].items():
        for key, name in (("per_hour", "trials an hour in all"), ("steady_per_hour", "later trials an hour")):
            parts = [
                f"{other} {statistics.median(row[key]):.2f}x ({min(row[key]):.2f}-{max(row[key]):.2f})"
                for other, row in others.items()
            ]
            if parts:
                lines.append(f"{mine}, {name}, over: {', '.join(parts)}")
    lines.append("start: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in result["help"].items()))
    lines.append("All trials came to the same weights." if not result["problems"] else "NOT THE SAME WORK")
    lines += [f"PROBLEM: {problem}." for problem in result["problems"]]
    return "\n".join(lines)


def main(args: list[str] | None = None) -> int:
    """Runs the benchmark; 1 if the contestants did not do the same work."""

    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(",") if name.strip()]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--contestants", type=names, default=list(CONTESTANTS), help=f"default: {','.join(CONTESTANTS)}"
    )
    parser.add_argument("--trials", type=int, default=24, help="at least 4")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--trivial", action="store_true", help="trials that are nothing but overhead, of ours alone")
    parser.add_argument("--minutes", type=float, default=6.0, help="length of the simulated records")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--helps", type=int, default=5, help="times that --help is started")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds that one contestant may take")
    parser.add_argument("--out", type=Path, help="where to write everything as JSON")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(args)
    if given.contestant is not None:
        compete(given)
        return 0
    if given.trivial:
        given.contestants = [name for name in given.contestants if name.startswith("ours")]
    if unknown := [name for name in given.contestants if name not in CONTESTANTS]:
        parser.error(f"unknown contestant {unknown[0]!r}; allowed: {', '.join(CONTESTANTS)}")
    if given.trials < 4 or given.repetitions < 1:
        parser.error("--trials must be at least 4, --repetitions at least 1")
    # what a contestant leaves behind becomes a child of this process, is seen, and ends before the next one starts
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    here = machine()
    print(f"{here['cpu']}, {here['cores']} cores, {here['memory_gib']} GiB, Python {here['python']}", flush=True)
    print(f"load at the start: {' '.join(f'{load:.1f}' for load in os.getloadavg())}", flush=True)
    with tempfile.TemporaryDirectory(prefix="study-") as folder:
        # cuts the beats and compiles the kernel once, for all
        study = study_of(given)
        run_federation(federation_at(study, points_of(study)[0]), Path(folder) / "warm")
        runs = race(given, Path(folder))
    mine = [name for name in runs if name.startswith("ours")]
    result = {
        "machine": here,
        "settings": {key: getattr(given, key) for key in ("trials", "rounds", "minutes", "repetitions", "trivial")},
        "runs": runs,
        "rows": summary(runs, given.trials),
        "ratios": {name: ratios(runs, name) for name in mine},
        "help": help_seconds(given.helps),
        "problems": problems_of(runs),
    }
    print(show(given, result))
    if given.out is not None:
        given.out.write_text(json.dumps(result, indent=1))
    return int(bool(result["problems"]))


if __name__ == "__main__":
    sys.exit(main())
