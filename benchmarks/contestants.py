"""The bare torch loops and the engine's pools, each to be run as a process of its own by `federation.py`.

Prints one JSON line. The engine is measured through `build_pool` and `run_rounds` alone: without ledger, tracking,
checkpoints and the cutting of records, which the other contestants do not have.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

WORKERS = 2  # as in peers/common.py, which is not imported here because it imports torch
BARE = ("bare-1", "bare-2")
OURS = tuple(f"ours-{pool}-{oracle}" for pool in ("inprocess", "threads", "ray") for oracle in ("torch", "native"))
NETWORK = ("channels", "kernels", "hidden", "groups", "pooled")  # the settings of the network that every contestant has


def bare(given: argparse.Namespace, processes: int) -> dict[str, Any]:
    """A loop without any framework; with more processes, each takes every n-th hospital and sends back one sum."""
    from peers import common

    task, data = common.load_task(given.folder), common.Data(given.folder)
    # forked before torch has started any thread; the first share is worked on here
    context = multiprocessing.get_context("fork")
    pipes, helpers = [], []
    for _ in range(processes - 1):
        here, there = context.Pipe()
        helpers.append(context.Process(target=_help, args=(common, task, data, there), daemon=True))
        helpers[-1].start()
        pipes.append(here)
    network = common.Network(task)
    flat = np.load(given.folder / "initial.npy")
    seconds, accuracy, steps = [], [], 0
    for round in range(1, given.rounds + 1):
        started = time.perf_counter()
        ids = common.selected(task, round)
        sums = _shared(pipes, "train", flat, ids, round, _train(common, task, data, network))
        steps += sum(s[1] for s in sums)
        flat = (np.sum([s[0] for s in sums], axis=0) / sum(s[2] for s in sums)).astype(np.float32)
        counts = np.sum(_shared(pipes, "test", flat, ids, round, _test(common, data, network)), axis=0)
        accuracy.append(float(counts[0] / counts[1]))
        seconds.append(time.perf_counter() - started)
    for pipe in pipes:
        pipe.send(None)
    for helper in helpers:
        helper.join()
    np.save(given.final, flat)
    return {"rounds": seconds, "accuracy": accuracy, "steps": steps, "versions": {"torch": version("torch")}}


def _shared(
    pipes: list[Connection], what: str, flat: np.ndarray, ids: list[int], round: int, work: Callable[..., Any]
) -> list[Any]:
    shares = [ids[i :: len(pipes) + 1] for i in range(len(pipes) + 1)]
    for pipe, share in zip(pipes, shares[1:], strict=True):
        pipe.send((what, flat, share, round))
    return [work(flat, shares[0], round), *(pipe.recv() for pipe in pipes)]


def _help(common: Any, task: Any, data: Any, pipe: Connection) -> None:
    network = common.Network(task)
    work = {"train": _train(common, task, data, network), "test": _test(common, data, network)}
    while (asked := pipe.recv()) is not None:
        what, *rest = asked
        pipe.send(work[what](*rest))


def _train(common: Any, task: Any, data: Any, network: Any) -> Callable[..., tuple[np.ndarray, int, int]]:
    def work(flat: np.ndarray, ids: list[int], round: int) -> tuple[np.ndarray, int, int]:
        """The sum of the hospitals' weights times their beats, the steps taken, the beats."""
        total, steps, beats = np.zeros(len(flat), np.float64), 0, 0
        for hospital in ids:
            common.load(network, flat)
            steps += common.train(task, data, network, hospital, round)
            beats += data.train_size(hospital)
            total += data.train_size(hospital) * common.flatten(network).astype(np.float64)
        return total, steps, beats

    return work


def _test(common: Any, data: Any, network: Any) -> Callable[..., np.ndarray]:
    def work(flat: np.ndarray, ids: list[int], round: int) -> np.ndarray:
        common.load(network, flat)
        return np.sum([common.test_counts(data, network, hospital) for hospital in ids], axis=0)

    return work


def ours(given: argparse.Namespace, pool_name: str, oracle: str) -> dict[str, Any]:
    """The engine, with the pool and the oracle that the contestant's name says."""
    from engine.actors import start_ray, stop_ray
    from engine.aggregation.build import rule_of
    from engine.config import RunConfig
    from engine.data.beats import open_beats
    from engine.data.cohort import HospitalData
    from engine.errors import PulseLedgerError
    from engine.hospital import Task
    from engine.ledger.base import NO_LEDGER
    from engine.messages import LoopState, RoundRecord
    from engine.model import build_network
    from engine.oracles.build import choose_oracle
    from engine.pools.build import build_pool
    from engine.rounds import Parts, Validation, run_rounds
    from engine.schedule.judges import nobody
    from engine.schedule.sampled import Sampled
    from engine.settings import parse

    task = json.loads((given.folder / "task.json").read_text())
    settings: dict[str, Any] = {
        "seed": task["seed"],
        "data": {"classes": task["classes"]},
        "cohort": {"hospitals": task["hospitals"]},
        "model": {name: task[name] for name in NETWORK},
        "federation": {
            "algorithm": "fedavg",
            "rounds": given.rounds,
            "batch_size": task["batch"],
            "learning_rate": task["rate"],
            "validation": "participants",
        },
        "personalisation": {"method": "none"},
        "ledger": {"backend": "none"},
        "tracking": {"backend": "none"},
        "execution": {"pool": pool_name, "oracle": oracle, "cpus": WORKERS},
    }
    try:
        config = parse(RunConfig, settings, "benchmark")
        network = build_network(config.model, 1, task["window"], task["rr"], len(task["classes"]))
        chosen = choose_oracle(config.execution, network, print)
    except PulseLedgerError as error:
        return {"skipped": str(error)}
    if chosen != oracle:
        return {"skipped": f"the oracle would be {chosen}"}
    beats = open_beats(given.folder)
    ranges = np.load(given.folder / "hospitals.npy").tolist()
    none = np.zeros(0, np.int64)
    hospitals = [HospitalData(h, np.arange(a, b), np.arange(b, c), none) for h, (a, b, c) in enumerate(ranges)]
    ids = tuple(range(len(hospitals)))
    marks: list[float] = []

    class Clock:
        def round_finished(self, record: RoundRecord) -> None:
            marks.append(time.perf_counter())

    if pool_name == "ray":
        start_ray(config.execution)
    pool = build_pool(hospitals, Task(config, network, given.folder, None, oracle=chosen, keep_vectors=False))
    try:
        marks.append(time.perf_counter())
        schedule = Sampled(config.seed, ids, task["per_round"])
        validation = Validation(ids, beats.classes, beats.classes, participants=True)
        parts = Parts(given.rounds, pool, schedule, rule_of(config), nobody, NO_LEDGER, validation)
        state = run_rounds(LoopState(0, np.load(given.folder / "initial.npy")), parts, [Clock()])
    finally:
        pool.close()
        if pool_name == "ray":
            stop_ray()
    np.save(given.final, state.params)
    names = ["torch", *(["ray"] if pool_name == "ray" else [])]
    return {
        "rounds": np.diff(marks).tolist(),
        "accuracy": [row.validation.accuracy for row in state.history],
        "steps": sum(row.gradient_evaluations for row in state.history),
        "versions": {name: version(name) for name in names},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=BARE + OURS)
    parser.add_argument("--workload", required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder that federation.py made")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--final", type=Path, required=True, help="where to write the final weights (.npy)")
    given = parser.parse_args()
    given.folder = given.data / given.workload
    kind, *rest = given.name.split("-")
    print(json.dumps(bare(given, int(rest[0])) if kind == "bare" else ours(given, *rest)), flush=True)
