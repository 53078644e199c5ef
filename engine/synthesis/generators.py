"""Generators of synthetic beats of one class, from one hospital's train beats alone.

A beat is its window and its RR features together: supraventricular beats differ from normal ones mostly in timing. For
distances both blocks are brought to the same total variance, so that neither swamps the other.

A generator that cannot run raises SynthesisError, whose sentence is the reason of a denial. None falls back to another.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from engine.encoding import json_hash
from engine.errors import SynthesisError
from engine.oracles.base import Batch
from engine.own.call import OwnPartError, guarded, make, require
from engine.own.reference import is_own, reference
from engine.seeds import generator
from engine.synthesis.config import GENERATORS, OWN_GENERATOR, BalanceConfig

DEFAULTS = BalanceConfig()
NEAR = 256  # synthetic beats whose distances are held at once


@dataclass(frozen=True)
class Synthetic:
    """Synthetic beats of one class, with the provenance of each.

    Attributes:
        x: float32[n, leads, window].
        rr: float32[n, RR features].
        label: the class, an index into the classes of the beats.
        generator: name of the method, as records have it.
        relation: what `parents` are to a beat: it is a "copy" of the first, lies "between" both, or the first is
            merely the "nearest" real beat.
        parents: int64[n, 2], positions in the hospital's train part.
        request: id of the request that the beats answer.
        settings: SHA-256 in hex of everything besides the data that made them, see `settings_digest`.
    """

    x: np.ndarray
    rr: np.ndarray
    label: int
    generator: str
    relation: Literal["copy", "between", "nearest"]
    parents: np.ndarray
    request: str
    settings: str

    def __len__(self) -> int:
        return len(self.x)

    def batch(self) -> Batch:
        """The beats as a batch."""
        return Batch(self.x, self.rr, np.full(len(self), self.label, np.int8))

    def provenance(self) -> list[dict[str, Any]]:
        """For each beat: index, generator, request, settings, relation, parents, and the SHA-256 of its numbers."""
        shared = {"generator": self.generator, "request": self.request, "settings": self.settings}
        return [
            {
                "index": i,
                **shared,
                "relation": self.relation,
                "parents": [int(p) for p in dict.fromkeys(self.parents[i].tolist())],
                "sha256": hashlib.sha256(self.x[i].tobytes() + self.rr[i].tobytes()).hexdigest(),
            }
            for i in range(len(self))
        ]


def generate(
    method: str,
    real: Batch,
    label: int,
    wanted: int,
    settings: BalanceConfig = DEFAULTS,
    seed: int = 0,
    request: str = "",
    note: Callable[[str], None] = lambda text: None,
) -> Synthetic:
    """Makes `wanted` beats of class `label` (ADASYN may give a few less: it rounds for each real beat).

    Args:
        method: one of GENERATORS, or a user's own.
        real: the hospital's whole train part; borderline and adasyn look at the other classes, too.
        seed: same arguments and seed, same beats, bit for bit.
        note: told of the progress of timegan.

    Raises:
        SynthesisError: the generator cannot run on these beats, or is not installed.
    """
    if method not in GENERATORS and not is_own(method):
        raise SynthesisError(f"{method!r} is no generator; allowed: {', '.join(GENERATORS)}.")
    if wanted < 1:
        raise SynthesisError(f"{method} was asked for {wanted} beats; at least 1 is allowed.")
    own = np.flatnonzero(real.y == label)
    if len(own) < (needed := minimum_real(method, settings)):
        raise SynthesisError(f"{method} needs at least {needed} real beats of the class, there are {len(own)}.")
    digest = settings_digest(method, settings, seed)
    if method == "oversample":
        rows = own[generator(seed, "synthesis oversample").integers(len(own), size=wanted)]
        return Synthetic(
            np.array(real.x[rows]),
            np.array(real.rr[rows]),
            label,
            method,
            "copy",
            np.stack([rows, rows], 1),
            request,
            digest,
        )
    space = Space.of(real)
    if is_own(method):
        x, rr = _own(method, real, own, wanted, settings, seed)
        nearest = own[neighbours(space.joint(real.x[own], real.rr[own]), space.joint(x, rr))]
        return Synthetic(x, rr, label, OWN_GENERATOR, "nearest", np.stack([nearest, nearest], 1), request, digest)
    if method == "timegan":
        from engine.synthesis.timegan import sample

        x, rr = sample(np.asarray(real.x[own]), np.asarray(real.rr[own]), wanted, settings.timegan, seed, note)
        nearest = own[neighbours(space.joint(real.x[own], real.rr[own]), space.joint(x, rr))]
        return Synthetic(x, rr, label, method, "nearest", np.stack([nearest, nearest], 1), request, digest)
    points = space.joint(real.x, real.rr)
    made = _resampled(method, points, np.asarray(real.y) == label, wanted, settings.neighbours, seed)
    x, rr = space.parts(made)
    parents = own[between(points[own], made, settings.neighbours)]
    return Synthetic(x, rr, label, method, "between", parents, request, digest)


def _own(
    method: str, real: Batch, own: np.ndarray, wanted: int, settings: BalanceConfig, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """x and rr that a user's own generator makes of the class's real beats."""
    part = reference(method)
    assert part is not None
    generator_of = make("a generator", method, {}, settings.parameters)
    require(
        method,
        callable(generator_of),
        f"made a {type(generator_of).__name__}, not a function of x, rr, wanted and draw",
    )
    x, rr = np.array(real.x[own]), np.array(real.rr[own])
    try:
        found = guarded(part, generator_of, x, rr, wanted, generator(seed, "synthesis own"))
        shapes = ((wanted, *x.shape[1:]), (wanted, *rr.shape[1:]))
        right = isinstance(found, tuple) and len(found) == 2 and all(isinstance(one, np.ndarray) for one in found)
        right = right and all(a.shape == s and a.dtype == np.float32 for a, s in zip(found, shapes, strict=True))
        require(method, right, f"must give x float32{list(shapes[0])} and rr float32{list(shapes[1])}")
        require(method, all(bool(np.isfinite(one).all()) for one in found), "gave numbers that are not finite")
    except OwnPartError as error:
        raise SynthesisError(str(error)) from None
    return found[0], found[1]


def minimum_real(method: str, settings: BalanceConfig = DEFAULTS) -> int:
    """Real beats of a class without which `method` cannot run."""
    if is_own(method):
        return 1
    return {"oversample": 1, "timegan": settings.timegan.minimum}.get(method, settings.neighbours + 1)


def settings_digest(method: str, settings: BalanceConfig, seed: int) -> str:
    """SHA-256 in hex of the generator, what it reads of the settings, and its seed."""
    read: dict[str, Any] = {}
    if method == "timegan":
        read = settings.timegan.model_dump(mode="json")
    elif is_own(method):
        read = {"parameters": settings.parameters}
    elif method != "oversample":
        read = {"neighbours": settings.neighbours}
    return json_hash({"method": method, "seed": seed, **read}).hex()


@dataclass(frozen=True)
class Space:
    """The space of beats in which distances are taken: window and RR features, each of total variance one.

    Attributes:
        shape: leads, and samples in a window.
        scale: divisors of the window and of the RR features.
    """

    shape: tuple[int, int]
    scale: tuple[float, float]

    @classmethod
    def of(cls, real: Batch) -> "Space":
        """The space of a hospital's train beats, all classes together. A block that never varies is left as it is."""
        spread = (float(np.sqrt(np.var(part, axis=0, dtype=np.float64).sum())) for part in (real.x, real.rr))
        x, rr = (one if one > 1e-9 else 1.0 for one in spread)
        return cls((real.x.shape[1], real.x.shape[2]), (x, rr))

    def joint(self, x: np.ndarray, rr: np.ndarray) -> np.ndarray:
        """float64[n, leads * window + RR features]."""
        return np.concatenate([flat(x).astype(np.float64) / self.scale[0], np.asarray(rr) / self.scale[1]], 1)

    def parts(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x float32[n, leads, window] and rr float32[n, features] of joint points."""
        size = math.prod(self.shape)
        x, rr = points[:, :size] * self.scale[0], points[:, size:] * self.scale[1]
        return x.astype(np.float32).reshape(-1, *self.shape), rr.astype(np.float32)


def flat(x: np.ndarray) -> np.ndarray:
    """Windows of several leads, [n, leads, window], as points, [n, leads * window]."""
    return np.asarray(x).reshape(len(x), math.prod(x.shape[1:]))


def _resampled(method: str, points: np.ndarray, own: np.ndarray, wanted: int, k: int, seed: int) -> np.ndarray:
    """The new points of one of imbalanced-learn's over-samplers."""
    from imblearn.over_sampling import ADASYN, SMOTE, BorderlineSMOTE

    if method == "smote":
        # it looks at the class alone, but the library insists on a second one
        points, own = np.concatenate([points[own], points[:1]]), np.arange(own.sum() + 1) < own.sum()
    elif own.all():
        raise SynthesisError(f"{method} needs beats of other classes, there are none.")
    sampler = {"smote": SMOTE, "borderline": BorderlineSMOTE, "adasyn": ADASYN}[method]
    draw = int(generator(seed, f"synthesis {method}").integers(2**31))
    neighbours = {"n_neighbors" if method == "adasyn" else "k_neighbors": k}
    try:
        made, _ = sampler(sampling_strategy={1: int(own.sum()) + wanted}, random_state=draw, **neighbours).fit_resample(
            points, own.astype(int)
        )
    except (ValueError, RuntimeError) as error:
        if method == "adasyn" and ("No samples will be generated" in str(error) or "majority" in str(error)):
            raise SynthesisError("adasyn finds no beat of another class near the class.") from None
        raise SynthesisError(f"{method} cannot run: {' '.join(str(error).split()).rstrip('.')}.") from None
    made = made[len(points) :][:wanted]
    if not len(made):
        raise SynthesisError(f"{method} finds no beat of the class on its border with others.")
    return made


def between(real: np.ndarray, made: np.ndarray, k: int) -> np.ndarray:
    """int64[made, 2]: the two of `real`, neighbours of order up to `k`, on whose segment each point lies.

    The pair whose distances to the point add up to little more than the distance between them, the nearer first.
    """
    from scipy.spatial.distance import cdist
    from sklearn.neighbors import NearestNeighbors

    k = min(k, len(real) - 1)
    distances, near = NearestNeighbors(n_neighbors=k).fit(real).kneighbors()
    ends = np.stack([np.repeat(np.arange(len(real)), k), near.ravel()])
    parents = np.empty((len(made), 2), np.int64)
    for start in range(0, len(made), NEAR):
        to_real = cdist(made[start : start + NEAR], real)
        detour = to_real[:, ends[0]] + to_real[:, ends[1]] - distances.ravel()
        pairs = ends[:, detour.argmin(1)].T
        nearer = np.take_along_axis(to_real, pairs, 1).argsort(1, kind="stable")
        parents[start : start + NEAR] = np.take_along_axis(pairs, nearer, 1)
    return parents


def neighbours(real: np.ndarray, points: np.ndarray) -> np.ndarray:
    """int64[points]: the nearest of `real` to each point."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=1).fit(real).kneighbors(points, return_distance=False)[:, 0]


def joined(*parts: Batch) -> Batch:
    """The beats of several batches as one."""
    return Batch(*(np.concatenate(arrays) for arrays in zip(*(part[:3] for part in parts), strict=True)))
