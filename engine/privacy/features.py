"""Feature level: the frozen features of each train beat are released once, with noise, and all training is on these.

    v          relu of the `features` network's frozen layer, m numbers of a beat that everybody can compute from it
    z          v normalised, in one of three ways (Zhao et al., IEEE Internet of Things Journal 2021, compare the first two):
                 beat    each beat by itself, mean 0 and length 1 over its m values: two of them are at most 2 apart
                 batch   each feature over N beats, mean 0 and variance 1 / m, as batch norm does: one beat moves all of these, N vectors
                         that are together at most 2 sqrt(N) apart
                 none    v / sqrt(m), shortened to length C where it is longer: at most 2 C apart
    released   z + noise, once in a run; whatever follows, in any number of rounds and in the adaptation, is a function of that
    gaussian   N(0, (sigma D)^2) for each value, with D the distance above
    laplace    of scale sigma D sqrt(k) for each of the k values (m; of batch N m) that one beat moves, which are at most D sqrt(k) apart in the sum
               of absolute differences. Zhao et al. count each value by itself, so that k of them cost k times their epsilon

Neighbours differ in what one beat is, its window and its RR features. That there is a beat, and its class, are not protected: the head is
trained with the true classes. What leaves the hospital are updates, functions of noised features and classes. The noised features stay.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from engine.data.samples import Samples, passes
from engine.encoding import hexed
from engine.errors import PrivacyError
from engine.messages import State
from engine.model import FeatureNetwork, frozen_features
from engine.oracles.base import Batch, Clipped, Oracle
from engine.privacy.base import Privacy, plain, unchanged
from engine.privacy.config import PrivacyConfig
from engine.privacy.dpsgd import NAMED, SPENT
from engine.privacy.plan import CLIP, LAPLACE, SIGMA, Mechanism
from engine.privacy.secret import commitment, laplace, normal, release_seed

_BLOCK = 256  # beats whose features, and noise, are computed at a time
_ONCE = (1, 0)  # samples by uses


class Normalisation(NamedTuple):
    """How features become z: `PrivacyConfig.normalisation`, N and C."""

    method: str
    batch: int
    clip: float


def normalisation_of(config: PrivacyConfig) -> Normalisation:
    """Of a configuration."""
    return Normalisation(config.normalisation, config.batch, config.clip)


def product(names: str, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """By numpy's own loops, on one thread: the same bits wherever a hospital lives, which a BLAS with threads does not promise."""
    return np.asarray(np.einsum(names, one, other, optimize=False))


# --- Features ---------------------------------------------------------------------------------------------------------


def raised(network: FeatureNetwork, x: np.ndarray, rr: np.ndarray) -> np.ndarray:
    """v, float64[beats, m]; zeros for a beat that is not finite."""
    frozen = frozen_features(network).astype(np.float64)
    found = np.zeros((len(x), network.features))
    for start in range(0, len(x), _BLOCK):
        here = slice(start, start + _BLOCK)
        rows = np.concatenate([x[here].reshape(len(x[here]), -1), rr[here]], 1).astype(np.float64)
        whole = np.isfinite(rows).all(1, keepdims=True)
        found[here] = whole * np.maximum(product("ni,im->nm", np.where(whole, rows, 0), frozen[:-1]) + frozen[-1], 0)
    return found


def by_beat(v: np.ndarray) -> np.ndarray:
    """Mean 0 and length 1 over each row; zeros where all values of a row are one."""
    centred = v - v.mean(1, keepdims=True)
    length = np.sqrt(np.square(centred).sum(1, keepdims=True))
    return np.divide(centred, length, out=np.zeros_like(centred), where=length > 1e-9)


def by_batch(v: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Each column of mean 0 and variance 1 / m, by these moments; zeros where a column has one value."""
    centred = v - mean
    wide = np.broadcast_to(deviation > 1e-9, centred.shape)
    return np.divide(centred, deviation * math.sqrt(v.shape[1]), out=np.zeros_like(centred), where=wide)


def shortened(v: np.ndarray, clip: float) -> np.ndarray:
    """v / sqrt(m), rows no longer than `clip`."""
    scaled = v / math.sqrt(v.shape[1])
    length = np.sqrt(np.square(scaled).sum(1, keepdims=True))
    return scaled * np.minimum(1.0, clip / np.maximum(length, 1e-300))


def normalised(v: np.ndarray, how: Normalisation) -> np.ndarray:
    """z of train beats, float64[beats, m]; of `batch` the beats are taken N at a time, in the order in which they stand."""
    if how.method == "beat":
        return by_beat(v)
    if how.method == "none":
        return shortened(v, how.clip)
    groups = [v[start : start + how.batch] for start in range(0, len(v), how.batch)]
    return np.concatenate([np.zeros((0, v.shape[1])), *(by_batch(one, one.mean(0), one.std(0)) for one in groups)])


# --- The release ------------------------------------------------------------------------------------------------------


def noise(mechanism: Mechanism, seed: bytes, beats: int, features: int) -> np.ndarray:
    """float64[beats, features] of the mechanism's distribution."""
    drawn = laplace if mechanism.name.endswith(LAPLACE) else normal
    blocks = range(-(-beats // _BLOCK))
    found = [drawn(seed, block, _BLOCK * features).reshape(_BLOCK, features) for block in blocks]
    return mechanism.sigma / SIGMA * mechanism.clip / CLIP * np.concatenate([np.zeros((0, features)), *found])[:beats]


class _Release:
    """The noised features of one hospital's train beats, made when they are first wanted, from its secret: again with the same bits."""

    def __init__(self, mechanism: Mechanism, network: FeatureNetwork, how: Normalisation, secret: bytes) -> None:
        self.mechanism, self.network, self.how, self.secret = mechanism, network, how, secret
        self.of, self.named, self.noised = np.zeros(0, np.int64), b"", np.zeros((0, network.features), np.float32)

    def make(self, samples: Samples, state: State) -> None:
        """Raises PrivacyError where another one was made before: a second one would cost as much again."""
        if not self.named or not np.array_equal(self.of, samples.index):
            bare = samples.plain().batch()
            clean = normalised(raised(self.network, bare.x, bare.rr), self.how)
            # with other beats the noise is another, so that no two releases can be subtracted from each other; it follows from what goes
            # in, whose bits are the same everywhere
            seed = release_seed(self.secret, 0, [frozen_features(self.network), bare.x, bare.rr])
            self.of, self.named = samples.index, commitment(seed)
            self.noised = (clean + noise(self.mechanism, seed, *clean.shape)).astype(np.float32)
        if NAMED in state and state[NAMED].tobytes() != self.named:
            raise PrivacyError(
                "the features of other train beats were released before; a run has a budget for one release"
            )

    def shown(self, samples: Samples) -> Samples:
        """The train beats with noised features, float32[beats, m], in place of windows."""
        y, rr = samples.labels(), np.zeros((len(samples), 0), np.float32)
        shown = {"x": self.noised, "rr": rr, "y": y, "index": np.arange(len(y)), "added": None, "patient": None}
        return replace(samples.plain(), **shown)  # type: ignore[arg-type]

    def price(self, gradients: int) -> dict[str, object]:
        """What a signed update says: one release, whatever is done with it."""
        once = {"steps": list(_ONCE), "spent": list(_ONCE)}
        return {**self.mechanism.record(), **once, "secret": self.mechanism.secret, "noise": hexed(self.named)}

    def memory(self) -> State:
        """What the hospital keeps."""
        return {SPENT: np.array(_ONCE, np.int64), NAMED: np.frombuffer(self.named, np.uint8)}


def of_features(
    mechanism: Mechanism, network: FeatureNetwork, how: Normalisation, secret: bytes
) -> Callable[[int, np.ndarray, State, Samples], Privacy]:
    """The mechanisms of one hospital, see `build.Mechanisms`: in each round and in the adaptation the same release."""
    one = _Release(mechanism, network, how, secret)

    def made(round: int, params: np.ndarray, state: State, samples: Samples) -> Privacy:
        one.make(samples, state)
        return Privacy("features", passes, plain, unchanged, one.price, memory=one.memory, shown=one.shown)

    return made


# --- The head ---------------------------------------------------------------------------------------------------------


class HeadOracle:
    """The linear head of the `features` network: gradients on given features, scores on these and on windows.

    Windows are normalised as the train beats are: of `batch` by the moments of all of the hospital's train beats, which stay there.
    """

    def __init__(self, network: FeatureNetwork, how: Normalisation, oracle: Oracle, train: Samples) -> None:
        """Args: oracle: of the network, whose features are those of `beat`."""
        self._network, self._how, self._oracle, self._train = network, how, oracle, train
        self._moments: tuple[np.ndarray, np.ndarray] | None = None

    def gradient(self, params: np.ndarray, batch: Batch) -> tuple[float, np.ndarray]:
        """The mean loss and its gradient, float32[parameters]; x: float32[n, m] features."""
        z, chance, each = self._seen(params, batch)
        own = np.arange(len(z)), batch.y
        loss = -(each[:, 0] * np.log(np.maximum(chance[own], 1e-300))).sum()
        error = chance.copy()
        error[own] -= 1
        error *= each
        return float(loss), np.concatenate([product("nc,nm->cm", error, z).ravel(), error.sum(0)]).astype(np.float32)

    def scores(self, params: np.ndarray, x: np.ndarray, rr: np.ndarray) -> np.ndarray:
        """Logits, float32[n, classes], of windows [n, leads, window] with RR features, or of features [n, m]."""
        if x.ndim == 2:
            return self._logits(params, x.astype(np.float64)).astype(np.float32)
        if self._how.method == "beat":
            return self._oracle.scores(params, x, rr)
        v = raised(self._network, np.asarray(x), np.asarray(rr))
        z = shortened(v, self._how.clip) if self._how.method == "none" else by_batch(v, *self._known())
        return self._logits(params, z).astype(np.float32)

    def clipped_gradient(self, params: np.ndarray, batch: Batch, clip: float) -> Clipped:
        """Features that have noise already are clipped nowhere."""
        raise NotImplementedError

    def hessian_vector(self, params: np.ndarray, batch: Batch, vector: np.ndarray) -> np.ndarray:
        """The Hessian of the loss times `vector`, float32[parameters]."""
        z, chance, each = self._seen(params, batch)
        moved = self._logits(vector, z)
        moved = chance * (moved - (chance * moved).sum(1, keepdims=True)) * each
        return np.concatenate([product("nc,nm->cm", moved, z).ravel(), moved.sum(0)]).astype(np.float32)

    def _seen(self, params: np.ndarray, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, probabilities of the classes, and what each beat's loss counts in the mean, float64[n, 1]."""
        z, n = batch.x.astype(np.float64), len(batch.y)
        logits = self._logits(params, z) + (0 if batch.logit_offset is None else batch.logit_offset)
        chance = np.exp(logits - logits.max(1, keepdims=True))
        each = np.ones(n) if batch.class_weight is None else batch.class_weight[batch.y].astype(np.float64)
        return z, chance / chance.sum(1, keepdims=True), (each / n)[:, None]

    def _known(self) -> tuple[np.ndarray, np.ndarray]:
        if self._moments is None:
            v = raised(self._network, *self._train.batch()[:2])
            self._moments = v.mean(0), v.std(0)
        return self._moments

    def _logits(self, params: np.ndarray, z: np.ndarray) -> np.ndarray:
        classes, m = self._network.classes, self._network.features
        weight = params[: classes * m].reshape(classes, m).astype(np.float64)
        return product("nm,cm->nc", z, weight) + params[classes * m :]
