"""The network, and the bridge between its named parameters and one flat float32 vector.

Everything outside works on the flat vector: algorithms are vector algebra, the ledger hashes the named views.
"""

from dataclasses import dataclass

import numpy as np

from engine.config import ModelConfig
from engine.seeds import generator

Layout = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Network:
    """Everything that fixes the shapes of the `cnn`.

    The window passes three times through convolution, GroupNorm, ReLU; after the first two the time axis is halved by
    a maximum, and the first convolution moves two samples at a time. What is left is averaged over `pooled` stretches
    of time, so that the head still sees where in the beat something happened. The RR features join there, followed by
    one hidden layer. GroupNorm, because BatchNorm's running statistics would be state that no algorithm averages.

    Attributes:
        window: samples in a window.
        rr: number of RR features.
        classes: number of classes.
    """

    window: int
    rr: int
    classes: int
    channels: tuple[int, int, int]
    kernels: tuple[int, int, int]
    hidden: int
    groups: int
    pooled: int

    @property
    def layout(self) -> Layout:
        """Name and shape of each tensor, in the order of the flat vector."""
        inputs = (1, *self.channels[:2])
        layout: list[tuple[str, tuple[int, ...]]] = []
        for i, (before, after, kernel) in enumerate(zip(inputs, self.channels, self.kernels, strict=True), 1):
            layout += [(f"conv{i}.weight", (after, before, kernel)), (f"conv{i}.bias", (after,))]
            layout += [(f"norm{i}.weight", (after,)), (f"norm{i}.bias", (after,))]
        joined = self.channels[2] * self.pooled + self.rr
        layout += [("hidden.weight", (self.hidden, joined)), ("hidden.bias", (self.hidden,))]
        layout += [("head.weight", (self.classes, self.hidden)), ("head.bias", (self.classes,))]
        return tuple(layout)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(int(np.prod(shape)) for _, shape in self.layout)


def build_network(config: ModelConfig, window: int, rr: int, classes: int) -> Network:
    """The network of `config` for windows of `window` samples, `rr` RR features and `classes` classes."""
    return Network(
        window=window,
        rr=rr,
        classes=classes,
        channels=config.channels,
        kernels=config.kernels,
        hidden=config.hidden,
        groups=config.groups,
        pooled=config.pooled,
    )


def initial_parameters(network: Network, seed: int) -> np.ndarray:
    """float32[size]: He-uniform weights (He et al. 2015, arXiv 1502.01852), zero biases, unit norms."""
    draw = generator(seed, "weights")
    parts = []
    for name, shape in network.layout:
        if name.endswith("bias"):
            parts.append(np.zeros(shape))
        elif name.startswith("norm"):
            parts.append(np.ones(shape))
        else:
            bound = np.sqrt(6.0 / np.prod(shape[1:]))
            parts.append(draw.uniform(-bound, bound, shape))
    return np.concatenate([part.ravel() for part in parts]).astype(np.float32)
