"""Gradient inversion: the beats that an honest but curious coordinator makes out of one gradient, with and without noise.

    python benchmarks/inversion.py [--draws 5] [--picture docs/pictures/inversion.png]

Attack of Geiping et al. (NeurIPS 2020): beats and RR features are moved by Adam until their gradient points where the released one does; labels are given
away (Zhao, Mopuri, Bilen, 2020: they can be read off the last layer). The model is the one that everybody starts from, and the release is one sum of
gradients of 1 or 4 beats, as a hospital with one step a round sends it. A mean beat of the class needs no gradient and looks much like any beat, so what is told is
the correlation, between a real beat and what the attack makes of it, of what sets them apart from that: 0 for a guess, 1 for the beat. Beats are simulated, of nobody.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment

from engine.data.beats import Beats, load_beats
from engine.data.config import DataConfig
from engine.model import AnyNetwork, ModelConfig, build_network, initial_parameters
from engine.oracles.base import Batch
from engine.oracles.torch import TorchOracle, forward_of
from engine.privacy.config import PrivacyConfig
from engine.privacy.plan import SIGMA, mechanism_of

NETWORKS = {"CNN": ModelConfig(), "1,000 random features": ModelConfig(network="features", features=1000)}
NOISES: tuple[float | None, ...] = (None, 8.0, 1.0)  # epsilon of 400 steps at rate 0.02
BEATS = (1, 4)
ITERATIONS, RATE = 400, 0.05
STEPS, SAMPLED, CLIP = 400, 0.02, 1.0


class Found(NamedTuple):
    """Of one draw: real beats, what was made of their gradient, and the mean beat of each one's class, float[n, length]."""

    real: np.ndarray
    made: np.ndarray
    usual: np.ndarray

    @property
    def given_away(self) -> float:
        """Correlation of real and made beats in what sets each apart from the usual beat, mean over the beats."""
        apart = ((_apart(r, u), _apart(m, u)) for r, m, u in zip(self.real, self.made, self.usual, strict=True))
        return float(np.mean([np.corrcoef(real, made)[0, 1] for real, made in apart]))


def _apart(beat: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """What is left of a beat once the usual one, scaled and moved to fit it best, is taken away."""
    return beat - np.polyval(np.polyfit(usual, beat, 1), usual)


def sigma_of(epsilon: float) -> float:
    """The noise multiplier of a run that spends epsilon."""
    private = PrivacyConfig(method="dp-sgd", epsilon=epsilon, sampling_rate=SAMPLED, steps=STEPS)
    return mechanism_of(private, (STEPS, 0)).sigma / SIGMA


def released(
    network: AnyNetwork, params: np.ndarray, batch: Batch, epsilon: float | None, draw: np.random.Generator
) -> np.ndarray:
    """The sum of the batch's gradients; with an epsilon, of clipped ones with noise."""
    oracle = TorchOracle(network)
    if epsilon is None:
        return oracle.gradient(params, batch)[1] * len(batch.y)
    clipped = oracle.clipped_gradient(params, batch, CLIP).total
    return clipped + draw.normal(0, sigma_of(epsilon) * CLIP, len(clipped)).astype(np.float32)


def inverted(network: AnyNetwork, params: np.ndarray, batch: Batch, sent: np.ndarray, seed: int) -> np.ndarray:
    """Beats float32[n, leads, length] whose gradient points where `sent` does. Reads nothing of the batch but shapes and labels."""
    torch.manual_seed(seed)
    forward, sizes = forward_of(network), [int(np.prod(shape)) for _, shape in network.layout]
    flat, wanted = torch.tensor(params, requires_grad=True), torch.tensor(sent)
    x, rr = torch.randn(batch.x.shape, requires_grad=True), torch.zeros(batch.rr.shape, requires_grad=True)
    labels = torch.tensor(batch.y).long()
    optimiser = torch.optim.Adam([x, rr], lr=RATE)
    for _ in range(ITERATIONS):
        parts = [p.view(shape) for p, (_, shape) in zip(flat.split(sizes), network.layout, strict=True)]
        loss = torch.nn.functional.cross_entropy(forward(parts, x, rr), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, flat, create_graph=True)
        optimiser.zero_grad()
        (1 - torch.nn.functional.cosine_similarity(gradient, wanted, dim=0)).backward(inputs=[x, rr])
        optimiser.step()
    return x.detach().numpy()


def attack(beats: Beats, name: str, n: int, epsilon: float | None, seed: int) -> Found:
    """One draw of n beats, their release, and what comes of it; beats are matched to what they resemble most."""
    draw = np.random.default_rng([seed, n])
    network = build_network(NETWORKS[name], *beats.shape, beats.rr.shape[1], len(beats.classes))
    params = initial_parameters(network, seed)
    rows = draw.choice(len(beats.y), n, replace=False)
    batch = Batch(np.array(beats.x[rows]), np.array(beats.rr[rows]), np.array(beats.y[rows]))
    made = inverted(network, params, batch, released(network, params, batch, epsilon, draw), seed).reshape(n, -1)
    real = batch.x.reshape(n, -1)
    usual = np.stack([beats.x[beats.y == label].mean(0).ravel() for label in batch.y])
    alike = np.array([[abs(np.corrcoef(r, m)[0, 1]) for m in made] for r in real])
    return Found(real, made[linear_sum_assignment(-alike)[1]], usual)


def cases(draws: int) -> Iterator[tuple[str, int, float | None, list[Found]]]:
    """Network, beats, epsilon and what was found in each draw."""
    beats = load_beats(DataConfig(source="simulated"))
    for name in NETWORKS:
        for n in BEATS:
            for epsilon in NOISES:
                yield name, n, epsilon, [attack(beats, name, n, epsilon, seed) for seed in range(draws)]


def picture(found: list[tuple[str, int, float | None, list[Found]]], path: Path) -> None:
    """The first beat of the first draw of each case: the real one, and what the attack made of it, to the same scale."""
    figure = Figure(figsize=(7.1, 1.5 * len(NETWORKS) * len(BEATS) / 2 + 1.2), layout="constrained")
    table = figure.subplots(len(NETWORKS), len(BEATS) * len(NOISES), squeeze=False, sharey=True)
    for i, (name, n, epsilon, draws) in enumerate(found):
        axes = table[i // (len(BEATS) * len(NOISES)), i % (len(BEATS) * len(NOISES))]
        one = draws[0]
        real, made = one.real[0], one.made[0]
        axes.plot(real, color="#6b6b6b", linewidth=1.0)
        slope, offset = np.polyfit(made, real, 1)
        axes.plot(slope * made + offset, color="#d55e00", linewidth=0.8)
        noise = "no noise" if epsilon is None else f"epsilon {epsilon:g}"
        axes.set_title(f"{n} beat{'s' * (n > 1)}, {noise}", fontsize=7)
        axes.set_xticks([])
        axes.tick_params(labelsize=6)
        if i % (len(BEATS) * len(NOISES)) == 0:
            axes.set_ylabel(name, fontsize=7)
    figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--picture", type=Path)
    words = parser.parse_args()
    print("noise multipliers: " + ", ".join(f"{sigma_of(e):.2f} at epsilon {e:g}" for e in NOISES if e is not None))
    print("| network | beats in the sum | epsilon | correlation beyond the mean beat |\n|---|---|---|---|")
    found = []
    for name, n, epsilon, draws in cases(words.draws):
        found.append((name, n, epsilon, draws))
        away = [one.given_away for one in draws]
        noise = "none" if epsilon is None else f"{epsilon:g}"
        print(
            f"| {name} | {n} | {noise} | {statistics.fmean(away):.2f} ({min(away):.2f} to {max(away):.2f}) |",
            flush=True,
        )
    if words.picture is not None:
        picture(found, words.picture)


if __name__ == "__main__":
    main()
