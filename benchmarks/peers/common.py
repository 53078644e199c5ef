"""What the bare loops and the peers share: the task, the data, the network in plain torch, its training and counting.

Nothing here imports the engine: this file also runs in environments that hold a peer and torch only. The network, the
order of its parameters, the shuffling and the sampling of hospitals are written once more, and a test holds them
against the engine's.
"""

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

torch.set_num_threads(1)
WORKERS = 2  # processes, actors or threads of every parallel contestant
EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Task:
    """One workload, as the driver wrote it to `task.json`."""

    hospitals: int
    per_round: int
    batch: int
    rate: float
    seed: int
    window: int
    rr: int
    classes: str
    channels: tuple[int, int, int]
    kernels: tuple[int, int, int]
    hidden: int
    groups: int
    pooled: int


def load_task(folder: Path) -> Task:
    """The task of a workload's folder."""
    return Task(**json.loads((folder / "task.json").read_text()))


class Data:
    """All beats of all hospitals, mapped from disk; `ranges` says which rows are whose.

    Attributes:
        x: float32[beats, 1, window].
        rr: float32[beats, rr].
        y: int64[beats].
        ranges: for each hospital its first train row, its first test row, and the end.
    """

    def __init__(self, folder: Path) -> None:
        # "c": torch wants writable memory; nothing writes, so the pages stay shared between processes
        self.x, self.rr = (torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c")) for name in ("x", "rr"))
        self.y = torch.from_numpy(np.load(folder / "y.npy").astype(np.int64))
        self.ranges: list[list[int]] = np.load(folder / "hospitals.npy").tolist()

    def train_size(self, hospital: int) -> int:
        """Number of train beats."""
        first, test, _ = self.ranges[hospital]
        return test - first


class Network(torch.nn.Module):
    """The network of `engine/model.py`; `parameters()` come in the order of the engine's flat vector."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        before = 1
        for i, (after, kernel) in enumerate(zip(task.channels, task.kernels, strict=True), 1):
            stride = 2 if i == 1 else 1
            setattr(self, f"conv{i}", torch.nn.Conv1d(before, after, kernel, stride=stride, padding=kernel // 2))
            setattr(self, f"norm{i}", torch.nn.GroupNorm(task.groups, after))
            before = after
        self.hidden = torch.nn.Linear(before * task.pooled + task.rr, task.hidden)
        self.head = torch.nn.Linear(task.hidden, len(task.classes))
        self.pooled = task.pooled

    def forward(self, x: torch.Tensor, rr: torch.Tensor) -> torch.Tensor:
        """Logits, float32[n, classes]."""
        signal = F.max_pool1d(F.relu(self.norm1(self.conv1(x))), 2)
        signal = F.max_pool1d(F.relu(self.norm2(self.conv2(signal))), 2)
        signal = F.relu(self.norm3(self.conv3(signal)))
        joined = torch.cat([F.adaptive_avg_pool1d(signal, self.pooled).flatten(1), rr], 1)
        return self.head(F.relu(self.hidden(joined)))


def load(network: torch.nn.Module, flat: np.ndarray) -> None:
    """Copies the flat vector into the network (torch's own `vector_to_parameters` would make views of it)."""
    parameters = list(network.parameters())
    parts = torch.tensor(flat).split([parameter.numel() for parameter in parameters])
    with torch.no_grad():
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.copy_(part.view_as(parameter))


def flatten(network: torch.nn.Module) -> np.ndarray:
    """A copy of the network's parameters, float32[parameters]."""
    with torch.no_grad():
        return torch.nn.utils.parameters_to_vector(network.parameters()).numpy()


def build(task: Task, folder: Path) -> Network:
    """The network with the initial weights that every contestant starts from."""
    network = Network(task)
    load(network, np.load(folder / "initial.npy"))
    return network


def generator(seed: int, purpose: str, round: int = 0, hospital: int = 0) -> np.random.Generator:
    """The random numbers of `engine/seeds.py`."""
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    return np.random.default_rng(np.random.SeedSequence([seed, word, round, hospital]))


def selected(task: Task, round: int) -> list[int]:
    """The hospitals of a round, counted from 1, ascending."""
    if task.per_round >= task.hospitals:
        return list(range(task.hospitals))
    draw = generator(task.seed, "participation", round)
    return sorted(draw.choice(np.arange(task.hospitals), task.per_round, replace=False).tolist())


def batches(task: Task, data: Data, hospital: int, round: int) -> list[torch.Tensor]:
    """Rows of each batch of one epoch, shuffled for this round and hospital."""
    first, test, _ = data.ranges[hospital]
    order = generator(task.seed, "batches", round, hospital).permutation(test - first)
    return list((torch.from_numpy(order) + first).split(task.batch))


def train(task: Task, data: Data, network: torch.nn.Module, hospital: int, round: int) -> int:
    """One epoch of plain SGD, by hand: an optimizer object is no faster and its first use imports for a second.

    Returns:
        The number of steps.
    """
    parameters = list(network.parameters())
    rows = batches(task, data, hospital, round)
    for row in rows:
        loss = F.cross_entropy(network(data.x[row], data.rr[row]), data.y[row])
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=task.rate)
    return len(rows)


def test_counts(data: Data, network: torch.nn.Module, hospital: int) -> tuple[int, int]:
    """Correct predictions on the hospital's test part, and its size."""
    _, first, end = data.ranges[hospital]
    correct = 0
    with torch.inference_mode():
        for i in range(first, end, EVALUATION_BATCH):
            rows = slice(i, min(i + EVALUATION_BATCH, end))
            correct += int((network(data.x[rows], data.rr[rows]).argmax(1) == data.y[rows]).sum())
    return correct, end - first


def final_scores(task: Task, folder: Path, flat: np.ndarray) -> tuple[float, float]:
    """Mean loss and accuracy of a parameter vector over the test parts of all hospitals; for the driver."""
    data, network = Data(folder), Network(task)
    load(network, flat)
    loss, correct, count = 0.0, 0, 0
    with torch.inference_mode():
        for _, first, end in data.ranges:
            logits, y = network(data.x[first:end], data.rr[first:end]), data.y[first:end]
            loss += float(F.cross_entropy(logits, y, reduction="sum"))
            correct += int((logits.argmax(1) == y).sum())
            count += end - first
    return loss / count, correct / count


def arguments(parser: argparse.ArgumentParser | None = None) -> argparse.Namespace:
    """The options that the driver gives every contestant; `folder` is the workload's."""
    parser = parser or argparse.ArgumentParser()
    parser.add_argument("--workload", required=True, help="W1, W2 or W3")
    parser.add_argument("--data", type=Path, required=True, help="folder that the driver made, one folder a workload")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--final", type=Path, required=True, help="where to write the final weights (.npy)")
    found = parser.parse_args()
    found.folder = found.data / found.workload
    return found


def report(final: Path, flat: np.ndarray, seconds: list[float], accuracy: list[float], steps: int, **more: Any) -> None:
    """Writes the final weights, and one JSON line: seconds and accuracy of each round, SGD steps in all."""
    np.save(final, np.asarray(flat, np.float32))
    print(json.dumps({"rounds": seconds, "accuracy": accuracy, "steps": steps, **more}), flush=True)
