"""How fast a federation runs: seconds a round, whole run and memory, here, in bare torch and in other simulators.

Every contestant is a process of its own that gets the same data, the same initial weights, the same batches and two
workers. Contestants take turns, so that whatever else the machine does meets all of them. See peers/README.md for how
the other simulators are installed and set up.
"""

import argparse
import ctypes
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contestants import BARE, NETWORK, OURS
from floor import matrix_rate, multiply_adds

from engine.data.beats import save
from engine.model import ModelConfig, build_network, initial_parameters

HERE = Path(__file__).resolve().parent
PEERS = {"flower": ("flower", []), "pfl-1": ("pfl", []), "pfl-2": ("pfl", ["--processes", "2"])}
ORDER = (*BARE, *PEERS, *OURS)
SHOWN = ("ours-ray-native", "ours-ray-torch", "ours-threads-native")  # in the table of ratios
AGAINST = ("pfl-2", "pfl-1", "flower", "bare-1", "bare-2")
CLASSES, WINDOW, RR, RATE = "NSVF", (90, 162), 4, 360.0
BATCH, LEARNING_RATE, SEED = 32, 0.05, 0
# Of the final loss, relative to the first contestant's. Sums in another order round otherwise, and training amplifies
# that where a maximum or a ReLU tips over: one changed last bit in the weights moves the final loss by up to 2.5e-3.
TOLERANCE = 1e-2
WORKERS = 2  # of every contestant whose name does not say otherwise
INTERVAL = 0.5  # seconds between two looks at the processes
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Workload:
    """So many hospitals with so many beats each."""

    hospitals: int
    per_round: int
    train: int
    test: int

    def scaled(self, scale: float) -> "Workload":
        """About `scale` times the work: fewer hospitals, and where they are few already, fewer beats."""
        hospitals = max(min(self.hospitals, 10), round(self.hospitals * scale))
        beats = self.train * self.hospitals * scale / hospitals
        # even, because pfl's samplers run apart when its two processes draw different numbers of hospitals
        per_round = hospitals if self.per_round == self.hospitals else max(2, 2 * round(self.per_round * scale / 2))
        return Workload(hospitals, per_round, max(8, round(beats)), max(2, round(beats * self.test / self.train)))

    def steps(self, rounds: int) -> int:
        """SGD steps of a whole run."""
        return rounds * self.per_round * -(-self.train // BATCH)

    def operations(self) -> float:
        """GFLOP of a round: gradients of the train beats, scores of the test beats."""
        network = build_network(ModelConfig(), 1, sum(WINDOW), RR, len(CLASSES))
        forward, backward = multiply_adds(network)
        return 2e-9 * self.per_round * (self.train * (forward + backward) + self.test * forward)

    def __str__(self) -> str:
        who = "all of them" if self.per_round == self.hospitals else f"{self.per_round} sampled"
        return f"{self.hospitals} hospitals, {self.train} train and {self.test} test beats each, {who} in each round"


WORKLOADS = {
    "W1": Workload(10, 10, 2000, 500),
    "W2": Workload(100, 100, 200, 50),
    "W3": Workload(1000, 100, 50, 12),
}


# --- The data ---------------------------------------------------------------------------------------------------------


def make_data(folder: Path, workload: Workload) -> None:
    """Writes a workload: beats in the engine's format, ranges of rows, initial weights, the task. Deterministic.

    A beat is a sum of smooth bumps whose places and sizes depend on its class, drawn through the hospital's gain, delay
    and slope, with noise; hospitals have different shares of classes, and one label in twenty is wrong, so that the
    loss falls but not to zero.
    """
    draw = np.random.default_rng(SEED)
    each = workload.train + workload.test
    n = workload.hospitals * each
    hospital = np.repeat(np.arange(workload.hospitals), each)
    shares = draw.dirichlet(np.array([3.0, 0.6, 1.2, 0.6]), workload.hospitals)
    true = (draw.random(n)[:, None] > shares.cumsum(1)[hospital]).sum(1).clip(max=len(CLASSES) - 1)
    time_axis = np.arange(-WINDOW[0], WINDOW[1]) / RATE
    # place, width and height of P, QRS, S and T of each class
    bumps = {
        "N": [(-0.16, 0.025, 0.15), (0.0, 0.012, 1.0), (0.03, 0.012, -0.2), (0.25, 0.05, 0.3)],
        "S": [(-0.10, 0.020, 0.08), (0.0, 0.013, 0.9), (0.03, 0.012, -0.2), (0.22, 0.05, 0.25)],
        "V": [(-0.16, 0.025, 0.0), (0.0, 0.035, 1.2), (0.08, 0.030, -0.5), (0.28, 0.06, -0.3)],
        "F": [(-0.16, 0.025, 0.08), (0.0, 0.022, 1.1), (0.05, 0.020, -0.3), (0.26, 0.05, 0.05)],
    }
    gain, delay, slope = (
        draw.normal(mean, spread, workload.hospitals) for mean, spread in ((1.0, 0.2), (0.0, 0.015), (0.0, 0.3))
    )
    x = draw.standard_normal((n, len(time_axis)), dtype=np.float32) * np.float32(0.3)
    for h in range(workload.hospitals):
        rows = slice(h * each, (h + 1) * each)
        axis = time_axis - delay[h]
        templates = np.array(
            [sum(size * np.exp(-(((axis - at) / width) ** 2)) for at, width, size in bumps[c]) for c in CLASSES]
        )
        x[rows] += (gain[h] * templates[true[rows]] + slope[h] * axis).astype(np.float32)
    early = np.array([0.0, -1.5, -1.2, -0.3])[true]  # an early beat, the pause after it
    rr = (early[:, None] * np.array([1.0, -0.7, 1.2, -0.8]) + draw.normal(0, 1, (n, RR))).astype(np.float32)
    y = np.where(draw.random(n) < 0.05, draw.integers(0, len(CLASSES), n), true).astype(np.int8)
    place = np.arange(n)
    arrays = {"x": x[:, None], "rr": rr, "y": y, "record": hospital.astype(np.int32), "sample": place, "peak": place}
    names = [f"rr{i}" for i in range(RR)]
    records = [{"name": str(h)} for h in range(workload.hospitals)]
    meta = {"classes": CLASSES, "records": records, "digest": "0" * 64, "rr_names": names, "window": WINDOW}
    save(folder, arrays, meta)
    first = np.arange(workload.hospitals) * each
    np.save(folder / "hospitals.npy", np.stack([first, first + workload.train, first + each], 1))
    model = ModelConfig()
    np.save(folder / "initial.npy", initial_parameters(build_network(model, 1, sum(WINDOW), RR, len(CLASSES)), SEED))
    task = {
        "hospitals": workload.hospitals,
        "per_round": workload.per_round,
        "batch": BATCH,
        "rate": LEARNING_RATE,
        "seed": SEED,
        "window": sum(WINDOW),
        "rr": RR,
        "classes": CLASSES,
        **model.model_dump(mode="json", include=set(NETWORK)),
    }
    (folder / "task.json").write_text(json.dumps(task))


# --- Watching processes -----------------------------------------------------------------------------------------------


def processes() -> dict[int, tuple[int, float, int]]:
    """All processes of the machine: pid -> parent, CPU seconds, resident bytes."""
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    found = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            found[int(entry)] = (int(fields[1]), (int(fields[11]) + int(fields[12])) / ticks, int(fields[21]) * page)
    return found


def descendants(everything: dict[int, tuple[int, float, int]]) -> set[int]:
    """The processes under this one; orphans come back to it, because it is a subreaper."""
    found, before = {os.getpid()}, 0
    while len(found) > before:
        before = len(found)
        found |= {pid for pid, (parent, _, _) in everything.items() if parent in found}
    return found - {os.getpid()}


def proportional(pids: set[int]) -> int:
    """Memory in bytes with shared pages counted once (PSS)."""
    total = 0
    for pid in pids:
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            continue
    return total


def machine_cpu() -> float:
    """CPU seconds that everything on this machine has used so far."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def children_cpu() -> float:
    """CPU seconds of all children that have ended, and theirs."""
    times = os.times()
    return times.children_user + times.children_system


class Watch(threading.Thread):
    """Samples memory and CPU time of the processes under this one until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.rss = self.pss = self.processes = 0
        self._cpu: dict[int, float] = {}
        self._measured = 0
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(INTERVAL):
            everything = processes()
            tree = descendants(everything)
            self._cpu |= {pid: everything[pid][1] for pid in tree}
            rss = sum(everything[pid][2] for pid in tree)
            self.rss = max(self.rss, rss)
            self.processes = max(self.processes, len(tree))
            if rss > 1.03 * self._measured:  # PSS costs the watched processes time, so only where a peak can be
                self._measured = rss
                self.pss = max(self.pss, proportional(tree))

    def stop(self) -> float:
        """Ends the sampling; returns CPU seconds as far as they were seen."""
        self._over.set()
        self.join()
        return sum(self._cpu.values())


def run(command: list[str], timeout: float) -> tuple[str, dict[str, float]]:
    """Runs a command to its end, and that of everything it left behind.

    Returns:
        Standard output, and what was measured. `foreign` is CPU time that other processes
        of the machine used meanwhile.

    Raises:
        RuntimeError: it failed, or took too long.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment.pop("PYTHONPATH", None)  # a peer must not see the packages of this environment
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        machine, ended, own = machine_cpu(), children_cpu(), time.process_time()
        started = time.perf_counter()
        watch = Watch()
        process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=environment, cwd=HERE)
        watch.start()
        try:
            code: int | None = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            wall, machine = time.perf_counter() - started, machine_cpu() - machine
            _bury(5.0 if process.poll() is not None else 0.0)
            seen = watch.stop()
        tree = max(children_cpu() - ended, seen)
        foreign = machine - tree - (time.process_time() - own)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    if code != 0:
        how = f"took more than {timeout:g} s" if code is None else f"ended with status {code}"
        raise RuntimeError(f"{how}: ...{(texts[1] or texts[0])[-1500:].strip()}")
    measured = {
        "wall": wall,
        "rss_mb": watch.rss / 1e6,
        "pss_mb": watch.pss / 1e6,
        "processes": watch.processes,
        "cpu": tree,
        "foreign": max(foreign, 0.0),
    }
    return texts[0], measured


def _bury(patience: float) -> None:
    """Waits for what is left under this process, ends it after `patience` seconds, and reaps it."""
    end = time.monotonic() + patience
    while tree := descendants(processes()):
        if time.monotonic() > end:
            for pid in tree:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        time.sleep(0.02)


# --- The race ---------------------------------------------------------------------------------------------------------


def race(given: argparse.Namespace, data: Path, names: list[str]) -> dict[str, Any]:
    """Runs every contestant on every workload, in turns; prints as it goes."""
    from peers import common

    results: dict[str, Any] = {}
    rate = matrix_rate()
    for name in given.workloads:
        workload = WORKLOADS[name].scaled(given.scale)
        make_data(data / name, workload)
        runs: dict[str, list[dict[str, Any]]] = {}
        skipped: dict[str, str] = {}
        for repetition in range(given.repetitions):
            # each repetition starts elsewhere, so that nobody is always the first after a pause
            turn = names[repetition % len(names) :] + names[: repetition % len(names)]
            for contestant in turn:
                if contestant in skipped:
                    continue
                final = data / "final.npy"
                final.unlink(missing_ok=True)
                options = ["--workload", name, "--data", str(data), "--rounds", str(given.rounds)]
                command = [*_command(contestant, given), *options, "--final", str(final)]
                try:
                    out, measured = run(command, given.timeout)
                    answer = json.loads([line for line in out.splitlines() if line.startswith("{")][-1])
                except (RuntimeError, ValueError, IndexError) as error:
                    answer = {"skipped": f"FAILED, {error}"}
                if "skipped" in answer:
                    skipped[contestant] = answer["skipped"]
                    print(f"  {name} {contestant} is left out: {answer['skipped']}", flush=True)
                    continue
                loss, accuracy = common.final_scores(
                    common.load_task(data / name), data / name, np.load(data / "final.npy")
                )
                row = {**answer, **measured, "final_loss": loss, "final_accuracy": accuracy}
                runs.setdefault(contestant, []).append(row)
                print(
                    f"  {name} {repetition + 1}/{given.repetitions} {contestant:<21}"
                    f"{statistics.median(row['rounds'][1:]):8.3f} s a round, {measured['wall']:6.1f} s in all",
                    flush=True,
                )
        ordered = {contestant: runs[contestant] for contestant in ORDER if contestant in runs}
        results[name] = {"workload": asdict(workload), "runs": ordered, "skipped": skipped, "matrix_rate": rate}
        results[name] |= summary(workload, ordered, given.rounds)
        print(table(name, workload, results[name], given), flush=True)
        shutil.rmtree(data / name)
    return results


def _command(contestant: str, given: argparse.Namespace) -> list[str]:
    if contestant in PEERS:
        peer, extra = PEERS[contestant]
        return [str(getattr(given, peer)), str(HERE / "peers" / f"{peer}_run.py"), *extra]
    return [sys.executable, str(HERE / "contestants.py"), contestant]


def summary(workload: Workload, runs: dict[str, list[dict[str, Any]]], rounds: int) -> dict[str, Any]:
    """Medians and spreads of each contestant, whether all did the same work, and the ratios."""
    rows: dict[str, dict[str, Any]] = {}
    for contestant, each in runs.items():
        steady = [statistics.median(run["rounds"][1:]) for run in each]
        single = [seconds for run in each for seconds in run["rounds"][1:]]
        rows[contestant] = {
            "seconds": statistics.median(steady),
            "fastest": min(single),
            "slowest": max(single),
            "repetitions": steady,
            "first": statistics.median(run["rounds"][0] for run in each),
            **{
                key: statistics.median(run[key] for run in each)
                for key in ("wall", "rss_mb", "pss_mb", "cpu", "foreign", "final_loss", "final_accuracy")
            },
        }
    problems = []
    reference = next(iter(rows.values()))["final_loss"] if rows else 0.0
    for contestant, each in runs.items():
        off = max((abs(run["final_loss"] / reference - 1) for run in each), default=0.0)
        rows[contestant]["loss_off"] = off
        if off > TOLERANCE:
            problems.append(f"the final loss of {contestant} is off by {off:.2g}")
        for run in each:
            if run["steps"] != workload.steps(rounds) or len(run["rounds"]) != rounds:
                problems.append(f"{contestant} took {run['steps']} steps in {len(run['rounds'])} rounds")
            everybody = workload.per_round == workload.hospitals
            if everybody and abs(run["accuracy"][-1] - run["final_accuracy"]) > 2e-3:
                problems.append(f"{contestant} counted an accuracy of {run['accuracy'][-1]:.4f} in its last round")
    ratios = {
        mine: {
            other: {
                "ratio": rows[other]["seconds"] / rows[mine]["seconds"],
                "repetitions": [
                    b / a for a, b in zip(rows[mine]["repetitions"], rows[other]["repetitions"], strict=False)
                ],
            }
            for other in AGAINST
            if other in rows
        }
        for mine in SHOWN
        if mine in rows
    }
    return {"rows": rows, "problems": problems, "ratios": ratios}


def table(name: str, workload: Workload, result: dict[str, Any], given: argparse.Namespace) -> str:
    """The result of one workload as text."""
    lines = [
        f"\n{name}: {workload}; batch {BATCH}, one epoch, SGD {LEARNING_RATE}, {given.rounds} rounds",
        f"{'':<22}{'seconds a round':>24}{'first':>8}{'whole':>8}{'RSS':>7}{'PSS':>7}{'final test':>18}"
        f"{'own':>8}{'foreign':>9}",
        f"{'contestant':<22}{'median':>8}{'min - max':>16}{'round s':>8}{'run s':>8}{'MB':>7}{'MB':>7}"
        f"{'loss':>10}{'acc.':>8}{'CPU s':>8}{'CPU s':>9}",
    ]
    for contestant, row in result["rows"].items():
        spread = f"{row['fastest']:.3f} - {row['slowest']:.3f}"
        lines.append(
            f"{contestant:<22}{row['seconds']:>8.3f}{spread:>16}{row['first']:>8.2f}{row['wall']:>8.1f}"
            f"{row['rss_mb']:>7.0f}{row['pss_mb']:>7.0f}{row['final_loss']:>10.5f}{row['final_accuracy']:>8.4f}"
            f"{row['cpu']:>8.1f}{row['foreign']:>9.1f}"
        )
    lines += [f"{contestant:<22}left out: {why.splitlines()[-1]}" for contestant, why in result["skipped"].items()]
    lines.append(
        "Median: of rounds 2 and later, then of the repetitions; min and max: of all those rounds. RSS and PSS: peak,"
        " all processes of the run together."
    )
    lines.append(
        f"Same network, initial weights, data, hospitals and batches, {workload.steps(given.rounds)} SGD steps in all;"
        " two workers, but one for bare-1, pfl-1 and ours-inprocess."
    )
    off = max((row["loss_off"] for row in result["rows"].values()), default=0.0)
    verdict = "NOT THE SAME WORK" if result["problems"] else "checked"
    lines.append(f"Final losses agree within {off:.1e} relative (allowed {TOLERANCE:g}): {verdict}.")
    lines += [f"PROBLEM: {problem}." for problem in result["problems"]]
    for mine, others in result["ratios"].items():
        parts = [
            f"{other} {row['ratio']:.1f}x ({min(row['repetitions']):.1f}-{max(row['repetitions']):.1f})"
            for other, row in others.items()
        ]
        lines.append(f"{mine} is faster a round than: {', '.join(parts) or 'nobody here'}")
    floor = workload.operations() / (WORKERS * result["matrix_rate"])
    above = [f"{mine} {result['rows'][mine]['seconds'] / floor:.2f}x" for mine in SHOWN if mine in result["rows"]]
    lines.append(
        f"Floor: {workload.operations():.1f} GFLOP a round at {result['matrix_rate']:.0f} GFLOP/s a core, the best float32 "
        f"matrix product here, on {WORKERS} cores: {floor:.3f} s; {', '.join(above) or 'nobody here'}."
    )
    return "\n".join(lines) + "\n"


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "python": platform.python_version(),
    }


def arguments(args: list[str] | None) -> argparse.Namespace:
    """The command line."""

    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(",") if name.strip()]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", type=names, default=list(WORKLOADS), help="default: W1,W2,W3")
    parser.add_argument("--contestants", type=names, default=list(ORDER), help=f"default: {','.join(ORDER)}")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=6, help="at least 2; the first is reported apart")
    parser.add_argument("--scale", type=float, default=1.0, help="below 1: a smaller workload, to try things out")
    parser.add_argument(
        "--flower", type=Path, help="Python of an environment with Flower; without it Flower is left out"
    )
    parser.add_argument("--pfl", type=Path, help="Python of an environment with pfl; without it pfl is left out")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds that one run may take")
    parser.add_argument("--out", type=Path, help="where to write everything as JSON")
    given = parser.parse_args(args)
    for what, allowed in (("workloads", WORKLOADS), ("contestants", ORDER)):
        if unknown := set(getattr(given, what)) - set(allowed):
            parser.error(f"--{what}: there is no {', '.join(sorted(unknown))}; there are {', '.join(allowed)}")
    if given.rounds < 2 or given.repetitions < 1 or not 0 < given.scale <= 1:
        parser.error("--rounds must be at least 2, --repetitions at least 1, --scale above 0 and at most 1")
    return given


def main(args: list[str] | None = None) -> int:
    """Runs the benchmark; 1 if the contestants did not do the same work or one failed."""
    given = arguments(args)
    # what a contestant leaves behind becomes a child of this process, is seen, and ends before the next one starts
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    names = [n for n in ORDER if n in given.contestants and (n not in PEERS or getattr(given, PEERS[n][0]) is not None)]
    here = machine()
    print(f"{here['cpu']}, {here['cores']} cores, {here['memory_gib']} GiB, Python {here['python']}", flush=True)
    for name in given.contestants:
        if name not in names:
            print(f"  {name} is left out: give its Python by --{PEERS[name][0]}", flush=True)
    with tempfile.TemporaryDirectory(prefix="federation-") as folder:
        results = race(given, Path(folder), names)
    if given.out is not None:
        settings = {"rounds": given.rounds, "repetitions": given.repetitions, "scale": given.scale}
        given.out.write_text(json.dumps({"machine": here, **settings, "workloads": results}, indent=1))
    failed = any(why.startswith("FAILED") for result in results.values() for why in result["skipped"].values())
    return int(failed or any(result["problems"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
