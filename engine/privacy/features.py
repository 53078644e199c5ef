"""Feature level: each train beat's frozen features leave its hospital's records once, with noise; all training is on these.

    z          features of the `features` network: random ReLU, mean 0 and length 1 over one beat's own values (the normalisation of Zhao et al.,
               IEEE Internet of Things Journal 2021, here over a vector in place of an image's channel)
    released   z + noise, once in a run: everything after it, in any number of rounds and in the adaptation, follows from that
    gaussian   N(0, (2 sigma)^2) for each value: two vectors of length 1 are at most 2 apart
    laplace    of scale 2 sqrt(m) sigma for each of m values: they are at most 2 sqrt(m) apart in the sum of absolute differences. Zhao et al. count each
               value by itself, at 2 sqrt(m - 1) / sqrt(m) of a vector of length 1; m of these cost the whole budget m times, so their scale would be
               larger by sqrt(m - 1)

Neighbours differ in what one beat is, its window and its RR features. That there is a beat, and its class, are not protected: the head is
trained with the true classes. What leaves the hospital are updates, functions of noised features and classes.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from engine.data.augment import unaltered
from engine.data.samples import Samples, passes
from engine.encoding import hexed
from engine.messages import State
from engine.model import FeatureNetwork, frozen_features
from engine.oracles.base import Batch, Oracle
from engine.privacy.base import Privacy, unchanged
from engine.privacy.plan import CLIP, LAPLACE, SIGMA, Mechanism
from engine.privacy.secret import commitment, laplace, normal, release_seed

_BLOCK = 256  # beats whose noise is drawn at a time


class _Release:
    """The noised features of one hospital's train beats, made when they are first wanted."""

    def __init__(self, mechanism: Mechanism, network: FeatureNetwork, secret: bytes) -> None:
        self.mechanism, self.network, self.secret = mechanism, network, secret
        self.of, self.named, self.noised = np.zeros(0, np.int64), b"", np.zeros((0, 1, network.features), np.float32)

    def make(self, samples: Samples) -> None:
        if self.named and np.array_equal(self.of, samples.index):
            return
        clean = vectors(self.network, samples)
        # with other features or beats the noise is another, so that no two releases can be subtracted from each other
        seed = release_seed(self.secret, 0, [frozen_features(self.network), clean])
        self.of, self.named = samples.index, commitment(seed)
        self.noised = (clean + noise(self.mechanism, seed, clean.shape)).astype(np.float32)[:, None, :]

    def shown(self, samples: Samples) -> Samples:
        """The train beats with noised features in place of windows."""
        self.make(samples)
        rest: dict[str, Any] = {"y": samples.labels(), "rr": np.zeros((len(samples), 0), np.float32)}
        return replace(samples, x=self.noised, index=np.arange(len(samples)), patient=None, alter=unaltered, **rest)

    def price(self, gradients: int) -> dict[str, Any]:
        """What a signed update says: one release, whatever was done with it."""
        once = {"steps": [1, 0], "spent": [1, 0]}
        return {**self.mechanism.record(), **once, "secret": self.mechanism.secret, "noise": hexed(self.named)}


def of_features(
    mechanism: Mechanism, network: FeatureNetwork, secret: bytes
) -> Callable[[int, np.ndarray, State, Samples], Privacy]:
    """The mechanisms of one hospital, see `build.Mechanisms`: in each round and in the adaptation the same release."""
    one = _Release(mechanism, network, secret)

    def made(round: int, params: np.ndarray, state: State, samples: Samples) -> Privacy:
        one.make(samples)
        return Privacy("features", passes, head_gradient, unchanged, one.price, shown=one.shown)

    return made


def vectors(network: FeatureNetwork, samples: Samples) -> np.ndarray:
    """float64[beats, features], each of mean 0 and length 1; zeros for a beat that is not finite."""
    frozen = frozen_features(network).astype(np.float64)
    found = np.zeros((len(samples), network.features))
    for start in range(0, len(samples), _BLOCK):
        batch = samples.plain().batch(slice(start, start + _BLOCK))
        rows = np.concatenate([batch.x.reshape(len(batch.y), -1), batch.rr], 1).astype(np.float64)
        raised = np.maximum(np.nan_to_num(rows) @ frozen[:-1] + frozen[-1], 0)
        raised -= raised.mean(1, keepdims=True)
        length = np.sqrt(np.square(raised).sum(1, keepdims=True))
        kept = np.isfinite(length[:, 0]) & np.isfinite(rows).all(1) & (length[:, 0] > 0)
        found[start : start + _BLOCK][kept] = raised[kept] / length[kept]
    return found


def noise(mechanism: Mechanism, seed: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """float64[beats, features] of the mechanism's distribution."""
    beats, features = shape
    scale = mechanism.sigma / SIGMA * mechanism.clip / CLIP
    drawn, scale = (laplace, scale * features**0.5) if mechanism.name == LAPLACE else (normal, scale)
    blocks = range(-(-beats // _BLOCK))
    found = [drawn(seed, block, _BLOCK * features).reshape(_BLOCK, features) for block in blocks]
    return scale * np.concatenate([np.zeros((0, features)), *found])[:beats]


def head_gradient(oracle: Oracle, params: np.ndarray, batch: Batch) -> tuple[float, np.ndarray]:
    """Loss and gradient of the linear head on given features, float32[parameters]."""
    z, n = batch.x[:, 0].astype(np.float64), len(batch.y)
    width = z.shape[1] + 1
    classes = len(params) // width
    weight, bias = params[:-classes].reshape(classes, -1).astype(np.float64), params[-classes:]
    logits = z @ weight.T + bias
    logits -= logits.max(1, keepdims=True)
    chance = np.exp(logits)
    chance /= chance.sum(1, keepdims=True)
    each = np.ones(n) if batch.class_weight is None else batch.class_weight[batch.y].astype(np.float64)
    loss = float(-(each * np.log(np.maximum(chance[np.arange(n), batch.y], 1e-300))).mean())
    chance[np.arange(n), batch.y] -= 1
    chance *= (each / n)[:, None]
    return loss, np.concatenate([(chance.T @ z).ravel(), chance.sum(0)]).astype(np.float32)
