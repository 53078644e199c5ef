"""The network, and the bridge between its named parameters and one flat float32 vector.

Everything outside works on the flat vector: algorithms are vector algebra, the ledger hashes the named views.
"""

import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from engine.errors import DataError
from engine.own.call import OwnSection, Parameters, own_parameters
from engine.own.reference import Own
from engine.seeds import generator
from engine.settings import Mistake

SHORTEST = 7  # samples in a window of the `cnn`, which halves it three times
Layout = tuple[tuple[str, tuple[int, ...]], ...]

# A change of the byte format of `model_hash` needs a new version here: it starts every hash.
_MODEL_FORMAT = b"PulseLedger model 1"


class ModelConfig(OwnSection):
    """The network."""

    PART = "network"

    network: Literal["cnn", "features"] | Own = Field(
        "cnn",
        union_mode="left_to_right",
        description="the small 1-D CNN of engine/model.py; features: frozen random ReLU features and a linear head, for privacy; "
        "or a torch module of your own",
    )
    parameters: Parameters = own_parameters()
    channels: tuple[int, int, int] = Field((16, 32, 64), description="output channels of the three convolutions")
    kernels: tuple[int, int, int] = Field((7, 5, 5), description="kernel widths, odd")
    residual: bool = Field(
        False,
        description="cnn: add what goes into the second and third convolution to what comes out; computed by torch",
    )
    hidden: int = Field(32, ge=1, le=4096, description="width of the layer before the classes")
    groups: int = Field(8, ge=1, description="groups of GroupNorm; must divide each of `channels`")
    pooled: int = Field(4, ge=1, le=64, description="stretches of time that the last average keeps apart")
    features: int = Field(3000, ge=1, le=100_000, description="features: number of them")
    features_seed: int = Field(0, ge=0, lt=2**63, description="features: what they are drawn from; known to everybody")

    def clashes(self) -> Iterator[Mistake]:
        """What makes no network."""
        yield from super().clashes()
        if min(self.channels) < 1 or any(c % self.groups for c in self.channels):
            yield Mistake(
                f"each of model.channels must be a multiple of model.groups ({self.groups})", ["channels", "groups"]
            )
        if self.residual and list(self.channels) != sorted(self.channels):
            says = "model.residual adds a layer's channels to the next one's: model.channels must not fall"
            yield Mistake(says, ["residual", "channels"])
        if any(k < 1 or k % 2 == 0 for k in self.kernels):
            yield Mistake("model.kernels must be odd numbers, at least 1", ["kernels"])


@dataclass(frozen=True)
class Network:
    """Everything that fixes the shapes of the `cnn`.

    The window passes three times through convolution, GroupNorm, ReLU; after the first two the time axis is halved by
    a maximum, and the first convolution moves two samples at a time. What is left is averaged over `pooled` stretches
    of time, so that the head still sees where in the beat something happened. The RR features join there, followed by
    one hidden layer. With `residual`, what goes into the second and the third convolution, with channels of zeros behind it, is
    added to their norm before the ReLU (He et al. 2016, arXiv 1512.03385, option A): no parameter more. GroupNorm, because BatchNorm's running statistics would be state that no algorithm averages.

    Attributes:
        leads: signals in a window, which the first convolution sees together.
        window: samples in a window.
        rr: number of RR features.
        classes: number of classes.
    """

    leads: int
    window: int
    rr: int
    classes: int
    channels: tuple[int, int, int]
    kernels: tuple[int, int, int]
    hidden: int
    groups: int
    pooled: int
    residual: bool = False

    @property
    def layout(self) -> Layout:
        """Name and shape of each tensor, in the order of the flat vector."""
        inputs = (self.leads, *self.channels[:2])
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


@dataclass(frozen=True)
class FeatureNetwork:
    """Everything that fixes the `features` network: frozen random ReLU features (Rahimi, Recht 2008) under a linear head.

    Of a beat, its windows and RR features in a row, z = relu(W (row, 1)) less its mean, over its length. Only the head is trained,
    so there are few parameters to add noise to, and every beat's features are one long: clipping acts evenly (normalisation
    as of Zhao et al., IEEE Internet of Things Journal 2021, over one beat's own values).

    Attributes:
        leads, window, rr, classes: as of `Network`.
        features: number of them.
        seed: of W, which everybody knows.
    """

    leads: int
    window: int
    rr: int
    classes: int
    features: int
    seed: int

    @property
    def inputs(self) -> int:
        """Numbers in a row."""
        return self.leads * self.window + self.rr

    @property
    def layout(self) -> Layout:
        """Name and shape of each tensor, in the order of the flat vector."""
        return (("head.weight", (self.classes, self.features)), ("head.bias", (self.classes,)))

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.classes * (self.features + 1)


@functools.lru_cache(maxsize=2)
def frozen_features(network: FeatureNetwork) -> np.ndarray:
    """W transposed, float32[inputs + 1, features]; the last row is what is added. Signal and RR features weigh the same."""
    draw, signal = generator(network.seed, "random features"), network.leads * network.window
    scale = np.concatenate([np.full(signal, signal**-0.5), np.full(network.rr, max(network.rr, 1) ** -0.5), [1.0]])
    return (scale[:, None] * draw.standard_normal((network.inputs + 1, network.features))).astype(np.float32)


@dataclass(frozen=True)
class OwnNetwork:
    """A network of the user's own, a torch module; see `engine/own/network.py`.

    Attributes:
        part, parameters: as the configuration has them.
        leads, window, rr, classes: as of `Network`.
        layout: name and shape of each tensor, in the order of the flat vector.
    """

    part: str
    parameters: Mapping[str, Any]
    leads: int
    window: int
    rr: int
    classes: int
    layout: Layout

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(int(np.prod(shape)) for _, shape in self.layout)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """What it is made from."""
        return self.leads, self.window, self.rr, self.classes


AnyNetwork = Network | FeatureNetwork | OwnNetwork


def build_network(config: ModelConfig, leads: int, window: int, rr: int, classes: int) -> AnyNetwork:
    """The network of `config` for windows of `leads` signals of `window` samples, `rr` RR features and `classes` classes."""
    if config.network == "features":
        return FeatureNetwork(leads, window, rr, classes, config.features, config.features_seed)
    if config.network != "cnn":
        from engine.own.network import layout_of

        sizes = (leads, window, rr, classes)
        layout = layout_of(config.network, sizes, config.parameters)
        return OwnNetwork(config.network, config.parameters, *sizes, layout)
    return Network(
        leads=leads,
        window=window,
        rr=rr,
        classes=classes,
        channels=config.channels,
        kernels=config.kernels,
        hidden=config.hidden,
        groups=config.groups,
        pooled=config.pooled,
        residual=config.residual,
    )


def initial_parameters(network: AnyNetwork, seed: int) -> np.ndarray:
    """float32[size]: He-uniform weights (He et al. 2015, arXiv 1502.01852), zero biases, unit norms; a user's own network
    begins as it says itself."""
    draw = generator(seed, "weights")
    if isinstance(network, OwnNetwork):
        from engine.own.network import initial

        return initial(network.part, network.sizes, network.parameters, int(draw.integers(2**63)))
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


def model_hash(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Hash named tensors, 32 bytes of SHA-256.

    The bytes decide: NaN payloads and the sign of zero count, memory order, byte order and the order of the mapping
    do not. Every field carries its length, so two models with the same bytes but other names, shapes or types differ.

    Raises:
        DataError: a tensor holds something other than booleans or numbers.
    """
    digest = hashlib.sha256()
    for piece in _pieces(tensors):
        digest.update(piece)
    return digest.digest()


def model_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The bytes whose SHA-256 is `model_hash`; raises as that does."""
    return b"".join(_pieces(tensors))


def _pieces(tensors: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    def field(data: bytes) -> Iterator[bytes]:
        yield len(data).to_bytes(8, "big")
        yield data

    yield from field(_MODEL_FORMAT)
    yield len(tensors).to_bytes(8, "big")
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        if array.dtype.kind not in "biufc":
            raise DataError(f"tensor {name} has type {array.dtype}, a model holds booleans and numbers only")
        little = array.dtype.newbyteorder("<")
        if array.dtype != little:
            # Swapping bytes, unlike a conversion of values, cannot change the payload of a NaN.
            array = array.byteswap().view(little)
        yield from field(name.encode())
        yield from field(little.str.encode())
        yield from field(b"".join(size.to_bytes(8, "big") for size in array.shape))
        yield from field(array.tobytes(order="C"))


def unflatten(vector: np.ndarray, layout: Layout) -> dict[str, np.ndarray]:
    """Cut a flat vector f32[P] into named tensors, as views.

    Raises:
        DataError: the vector is not flat float32, or its length is not that of the layout.
    """
    sizes = [int(np.prod(shape, dtype=np.int64)) for _, shape in layout]
    if vector.ndim != 1 or vector.dtype != np.float32 or vector.size != sum(sizes):
        raise DataError(
            f"expected a flat float32 vector of {sum(sizes)} values, "
            f"found {vector.dtype} of shape {tuple(vector.shape)}"
        )
    tensors, start = {}, 0
    for (name, shape), size in zip(layout, sizes, strict=True):
        tensors[name] = vector[start : start + size].reshape(shape)
        start += size
    if len(tensors) != len(sizes):
        raise DataError("the layout names a tensor twice")
    return tensors


def vector_hash(vector: np.ndarray, layout: Layout) -> bytes:
    """Hash a flat vector f32[P] as the model that it stands for: `model_hash(unflatten(vector, layout))`."""
    return model_hash(unflatten(vector, layout))
