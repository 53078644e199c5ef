"""TimeGAN (Yoon, Jarrett, van der Schaar 2019), by ydata-synthetic, in a process and an environment of its own.

A beat is a short sequence of patches: 360 samples are 24 steps of 15, and its RR features go along as constant
channels. Each beat is one sequence, so no window runs from one beat into the next. Every position of the window and
every RR feature is brought to [0, 1] and back: its mean over the class's real beats, less and plus SPREAD standard
deviations. (Minimum and maximum would do as well for one number, but along a beat they jump from sample to sample, and
so would every synthetic beat.) The paper trains for tens of thousands of steps; the default here for as many as two cores do in
about ten minutes.

Trained generators and what was drawn from them are kept in the cache folder, by the digest of their data and settings.
"""

import collections
import contextlib
import hashlib
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from engine.encoding import canonical_json
from engine.errors import DataError, SynthesisError
from engine.files import is_own, own_cache
from engine.synthesis.config import TimeGanConfig

WORKER = Path(__file__).with_name("timegan_worker.py")
VARIABLE = "PULSELEDGER_TIMEGAN_PYTHON"
SPREAD = 4.0
WAIT = 10.0  # seconds between two words about a process that is waited for


def interpreter() -> str:
    """The Python that has ydata-synthetic: the one that PULSELEDGER_TIMEGAN_PYTHON names, that of `make timegan`, or
    this one.

    Raises:
        SynthesisError: there is none.
    """
    if named := os.environ.get(VARIABLE):
        if not Path(named).is_file():
            raise SynthesisError(f"{VARIABLE} names {named}, which is no file.")
        return named
    made = Path(__file__).parents[2] / ".venv-timegan/bin/python"
    if made.is_file():
        return str(made)
    if importlib.util.find_spec("ydata_synthetic"):
        return sys.executable
    raise SynthesisError(f"timegan needs ydata-synthetic 1.4: run `make timegan`, or name its Python in {VARIABLE}.")


def sample(
    x: np.ndarray,
    rr: np.ndarray,
    wanted: int,
    settings: TimeGanConfig,
    seed: int = 0,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Trains on the beats of one class, or finds the generator in the cache, and draws `wanted` beats.

    Args:
        x: float32[n, leads, window].
        rr: float32[n, features].
        note: told of the progress.

    Returns:
        x float32[wanted, leads, window], rr float32[wanted, features].

    Raises:
        SynthesisError: the library is not there, or fails.
    """
    python = interpreter()
    shape = (x.shape[1], x.shape[2])
    beats = np.concatenate([x.reshape(len(x), -1), rr], 1).astype(np.float64)
    deviation = beats.std(0)
    span = 2 * SPREAD * np.where(deviation > 0, deviation, 1.0)
    low = beats.mean(0) - span / 2
    data = to_sequences(np.clip((beats - low) / span, 0, 1), shape, settings.patch)
    described = {**settings.model_dump(mode="json"), "seed": seed}
    # what was trained depends on the worker's code too
    key = hashlib.sha256(
        canonical_json(described).encode() + data.tobytes() + repr(data.shape).encode() + WORKER.read_bytes()
    )
    try:
        home = own_cache("timegan")
    except DataError as error:
        raise SynthesisError(str(error)) from None
    weights, drawn = home / f"{key.hexdigest()}.npz", home / f"{key.hexdigest()}-{wanted}.npz"
    with _alone(weights.with_suffix(".lock"), drawn, note):
        for path in (weights, drawn):
            if not is_own(path):
                path.unlink(missing_ok=True)
        if drawn.exists():
            note("timegan: found in the cache")
        else:
            note(f"timegan: {'drawing again' if weights.exists() else f'training on {len(x)} beats'}")
            _draw(python, data, {**described, "wanted": wanted}, weights, drawn, note)
    try:
        with np.load(drawn) as arrays:
            beats = from_sequences(arrays["beats"], shape, rr.shape[1], settings.patch)
    except (OSError, ValueError, KeyError) as error:
        raise SynthesisError(f"timegan left no beats ({error}).") from None
    beats = beats * span + low
    size = math.prod(shape)
    return beats[:, :size].astype(np.float32).reshape(-1, *shape), beats[:, size:].astype(np.float32)


@contextlib.contextmanager
def _alone(lock: Path, wanted: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Waits for a process that trains the same generator, as trials of one study do at the same time."""
    with contextlib.ExitStack() as stack:
        started = time.monotonic()
        while not wanted.exists():
            try:
                stack.enter_context(filelock.FileLock(lock, timeout=WAIT))
                break
            except filelock.Timeout:
                note(f"timegan: waiting since {time.monotonic() - started:.0f} s for another process that trains it")
        yield


def _draw(
    python: str, data: np.ndarray, settings: dict[str, Any], weights: Path, drawn: Path, note: Callable[[str], None]
) -> None:
    """Trains unless `weights` are there, and draws, in a process of its own."""
    with tempfile.TemporaryDirectory(dir=weights.parent) as folder:
        job, trained, out = (Path(folder) / name for name in ("job.npz", "weights.npz", "beats.npz"))
        np.savez(job, data=data, settings=json.dumps(settings))
        used = weights if weights.exists() else trained
        _run([python, "-I", str(WORKER), str(job), str(used), str(out)], note)
        if not out.exists():
            raise SynthesisError("timegan left no beats.")
        if used is trained:
            trained.replace(weights)
        out.replace(drawn)


def to_sequences(beats: np.ndarray, shape: tuple[int, int], patch: int) -> np.ndarray:
    """float32[n, ceil(window / patch), leads * patch + features] of float[n, leads * window + features].

    Each lead's window is cut into patches, its last sample repeated to fill the last; the features stand in every step.
    """
    leads, window = shape
    steps = -(-window // patch)
    x = beats[:, : leads * window].reshape(len(beats), leads, window)
    padded = np.pad(x, ((0, 0), (0, 0), (0, steps * patch - window)), mode="edge")
    patches = padded.reshape(len(beats), leads, steps, patch).swapaxes(1, 2).reshape(len(beats), steps, leads * patch)
    features = np.repeat(beats[:, None, leads * window :], steps, 1)
    return np.concatenate([patches, features], 2).astype(np.float32)


def from_sequences(sequences: np.ndarray, shape: tuple[int, int], features: int, patch: int) -> np.ndarray:
    """float64[n, leads * window + features]: `to_sequences` undone; a feature is its mean over the steps."""
    (leads, window), (n, steps, _) = shape, sequences.shape
    x = sequences[:, :, : leads * patch].reshape(n, steps, leads, patch).swapaxes(1, 2).reshape(n, leads, steps * patch)
    told = sequences[:, :, leads * patch :].mean(1).reshape(n, features)
    return np.concatenate([x[:, :, :window].reshape(n, leads * window), told], 1).astype(np.float64)


def _run(command: list[str], note: Callable[[str], None]) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    last: collections.deque[str] = collections.deque(maxlen=1)
    try:
        worker = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
        )
    except OSError as error:
        raise SynthesisError(f"timegan's Python {command[0]} cannot be run ({error.strerror}).") from None
    try:
        assert worker.stdout is not None
        for line in worker.stdout:
            if line.startswith("timegan: "):
                note(line.strip())
            elif line.strip():
                last.append(line.strip())
        if worker.wait():
            raise SynthesisError(f"timegan failed: {last[0] if last else f'exit status {worker.returncode}'}.")
    finally:
        if worker.poll() is None:  # somebody interrupted the wait
            worker.kill()
            worker.wait()
