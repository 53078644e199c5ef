"""Things that can be solved by hand, and small helpers that several test files share.

The oracles are quadratics with known derivatives; `logits` is the network once more, in plain float64 NumPy.
"""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from engine.actors import end_idle
from engine.aggregation.build import build_rule
from engine.aggregation.config import AggregationConfig
from engine.algorithms.base import Work
from engine.config import RunConfig
from engine.data.samples import Samples
from engine.messages import LoopState, Taken, Update
from engine.model import Network, unflatten
from engine.oracles.base import Batch
from engine.result import Result

ROOT = Path(__file__).parents[1]

# A run of seconds.
TINY: dict[str, Any] = {
    "data.window": [90, 162],
    "data.simulated.patients": 6,
    "data.simulated.minutes": 1.5,
    "cohort.hospitals": 3,
    "model.channels": [8, 8, 16],
    "model.hidden": 16,
    "federation.rounds": 2,
    "tracking.backend": "none",
    "execution.pool": "inprocess",
}


class Quadratic:
    """f(w) = 1/2 |A w - b|^2 whatever the batch: gradient A'(A w - b), Hessian A'A."""

    def __init__(self, a: Any, b: Any) -> None:
        self.a, self.b = np.atleast_2d(np.asarray(a, float)), np.atleast_1d(np.asarray(b, float))
        self.hessian = self.a.T @ self.a

    def gradient(self, params: np.ndarray, batch: Batch) -> tuple[float, np.ndarray]:
        residual = self.a @ params.astype(float) - self.b
        return float(residual @ residual / 2), (self.a.T @ residual).astype(np.float32)

    def hessian_vector(self, params: np.ndarray, batch: Batch, vector: np.ndarray) -> np.ndarray:
        return (self.hessian @ vector.astype(float)).astype(np.float32)

    def scores(self, params: np.ndarray, x: np.ndarray, rr: np.ndarray) -> np.ndarray:
        raise AssertionError("nobody scores a quadratic")


class Towards:
    """f(w; batch) = mean over the batch of 1/2 |w - x|^2: gradient w - mean(x), Hessian 1."""

    def gradient(self, params: np.ndarray, batch: Batch) -> tuple[float, np.ndarray]:
        loss = float(((params - batch.x) ** 2).sum(1).mean() / 2)
        return loss, (params - batch.x.mean(0, dtype=float)).astype(np.float32)

    def hessian_vector(self, params: np.ndarray, batch: Batch, vector: np.ndarray) -> np.ndarray:
        return vector.copy()

    def scores(self, params: np.ndarray, x: np.ndarray, rr: np.ndarray) -> np.ndarray:
        return np.zeros((len(x), 2), np.float32)


SQUARE = Quadratic(np.sqrt(2), 0)  # f(w) = w^2


class Recorder:
    """Passes on to another oracle and remembers (method, params, batch) of everything that derives."""

    def __init__(self, oracle: Any) -> None:
        self.oracle = oracle
        self.calls: list[tuple[str, np.ndarray, Batch]] = []
        self.scored: list[np.ndarray] = []

    def gradient(self, params: np.ndarray, batch: Batch) -> tuple[float, np.ndarray]:
        self.calls.append(("gradient", params.copy(), batch))
        return self.oracle.gradient(params, batch)

    def hessian_vector(self, params: np.ndarray, batch: Batch, vector: np.ndarray) -> np.ndarray:
        self.calls.append(("hessian_vector", params.copy(), batch))
        return self.oracle.hessian_vector(params, batch, vector)

    def scores(self, params: np.ndarray, x: np.ndarray, rr: np.ndarray) -> np.ndarray:
        self.scored.append(x)
        return self.oracle.scores(params, x, rr)


def samples(x: Any, y: Any = None) -> Samples:
    """All of the given beats; `x` may be a list of numbers, a window of one each."""
    x = np.asarray(x, np.float32)
    x = x[:, None] if x.ndim == 1 else x
    y = np.zeros(len(x), np.int8) if y is None else np.asarray(y, np.int8)
    return Samples(x, np.zeros((len(x), 0), np.float32), y, np.arange(len(x)))


def work(oracle: Any, params: np.ndarray, data: Samples, round: int = 0, seed: int = 0, state=None) -> Work:
    """One hospital's work; the parameters are one tensor, which is a norm and a head as well."""
    return Work(oracle, (("norm.w", params.shape),), params, state or {}, data, np.random.default_rng(seed), round)


def merged(params: np.ndarray, updates: Sequence[tuple[int, np.ndarray]], weighting: str) -> np.ndarray:
    """What the mean makes of (samples, change of the parameters) of each hospital."""
    rule = build_rule(AggregationConfig(), weighting)
    sent = tuple(Update(i, vector, samples, 0.0, 1) for i, (samples, vector) in enumerate(updates))
    assert rule.partial is not None
    summed, refused = rule.partial(sent, len(params))
    assert not refused
    return rule.merge(LoopState(0, params), Taken(sent, (), summed), {})[0]


def f32(*values: float) -> np.ndarray:
    """float32[n]"""
    return np.array(values, np.float32)


def logits(network: Network, params: np.ndarray, x: np.ndarray, rr: np.ndarray) -> np.ndarray:
    """The scores of the network, written down a second time: loops and float64, no torch."""
    p = {name: tensor.astype(float) for name, tensor in unflatten(params, network.layout).items()}
    rows = []
    for beat, timing in zip(x.astype(float), rr.astype(float), strict=True):
        signal = beat
        for layer, kernel in enumerate(network.kernels, 1):
            padded = np.pad(signal, ((0, 0), (kernel // 2, kernel // 2)))
            stride = 2 if layer == 1 else 1
            starts = range(0, padded.shape[1] - kernel + 1, stride)
            weight, bias = p[f"conv{layer}.weight"], p[f"conv{layer}.bias"]
            signal = np.array([(weight * padded[:, s : s + kernel]).sum((1, 2)) + bias for s in starts]).T
            groups = signal.reshape(network.groups, -1)
            centred = groups - groups.mean(1, keepdims=True)
            signal = (centred / np.sqrt(groups.var(1, keepdims=True) + 1e-5)).reshape(signal.shape)
            signal = signal * p[f"norm{layer}.weight"][:, None] + p[f"norm{layer}.bias"][:, None]
            signal = np.maximum(signal, 0)
            if layer < 3:
                half = signal.shape[1] // 2
                signal = signal[:, : 2 * half].reshape(len(signal), half, 2).max(2)
        length, parts = signal.shape[1], network.pooled
        ends = [(i * length // parts, -(-(i + 1) * length // parts)) for i in range(parts)]
        pooled = np.array([signal[:, a:b].mean(1) for a, b in ends]).T.ravel()
        joined = np.concatenate([pooled, timing])
        hidden = np.maximum(p["hidden.weight"] @ joined + p["hidden.bias"], 0)
        rows.append(p["head.weight"] @ hidden + p["head.bias"])
    return np.array(rows)


def settled() -> None:
    """Ends idle hosts, and waits until Ray has noticed that all CPUs are free."""
    import ray

    end_idle()
    end = time.monotonic() + 30
    while ray.available_resources().get("CPU", 0) < 2 and time.monotonic() < end:
        time.sleep(0.1)


TIMES = ("seconds", "train_seconds", "peer_seconds", "hash_seconds", "sign_seconds")


def numbers(result: Result, folder: Path) -> dict[str, Any]:
    """Everything of a run that has to be the same wherever and however often it was begun."""
    ledger, timing = result.ledger, result.timing
    return {
        "model": result.model_hash,
        "rounds": [{k: v for k, v in row.document().items() if k not in TIMES} for row in result.rounds],
        "scores": [result.validation, result.final],
        "gradients": [timing.gradient_evaluations, timing.personalisation_gradient_evaluations],
        "predictions": pq.read_table(folder / "predictions.parquet").to_pydict(),
        "ledger": [ledger.head, ledger.contract, ledger.updates, ledger.rounds, ledger.transactions, stated(folder)],
    }


def stated(folder: Path) -> list[Any]:
    """What hospitals signed at the end of a run: slot, record, signature, content."""
    path = folder / "ledger" / "journal.sqlite"
    if not path.exists():
        return []
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT * FROM results ORDER BY slot").fetchall()
    finally:
        connection.close()


class Interrupted(Exception):
    """What an observer raises to end a run in the middle."""


class StopAfter:
    """Observer that ends the run once a round is finished, before its checkpoint."""

    def __init__(self, round: int) -> None:
        self.round = round

    def round_finished(self, record: Any) -> None:
        if record.round == self.round:
            raise Interrupted


class Watch:
    """Observer that calls `work` once a round is finished."""

    def __init__(self, round: int, work: Callable[[], None]) -> None:
        self.round, self.work = round, work

    def round_finished(self, record: Any) -> None:
        if record.round == self.round:
            self.work()


def as_run(config: RunConfig, oracle: str) -> RunConfig:
    """A configuration as a run echoes it, with the oracle that "auto" became."""
    assert oracle in ("native", "torch", "stacked")
    return config.model_copy(update={"execution": config.execution.model_copy(update={"oracle": oracle})})


def command(*words: str | Path, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "sweeps", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def as_flags(**keys: Any) -> list[str]:
    """Dotted keys as flags."""
    return [word for key, value in keys.items() for word in (f"--{key}", json.dumps(value))]


class Heard:
    """A study's progress that only remembers: what was said, and what became of each trial."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.starts: list[int] = []
        self.totals: list[int] = []
        self.rounds: dict[int, list[int]] = {}
        self.ends: dict[int, tuple[str, dict[str, float], str]] = {}

    def started(self, trial: int, label: str, condition: str, rounds: int) -> None:
        self.starts.append(trial)

    def advanced(self, trial: int, round: int, scores: dict[str, float], note: str = "") -> None:
        if not note:  # a round ended
            self.rounds.setdefault(trial, []).append(round)

    def ended(
        self, trial: int, label: str, condition: str, state: str, values: dict[str, float], reason: str, seconds: float
    ) -> None:
        assert trial not in self.ends, "a trial ends once"
        self.ends[trial] = (state, values, reason)

    def extended(self, total: int) -> None:
        self.totals.append(total)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def __enter__(self) -> "Heard":
        return self

    def __exit__(self, *error: object) -> None:
        pass
