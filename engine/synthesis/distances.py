"""Distances between synthetic and real beats of one class: how the made ones vary, where they lie, what they give away."""

import math
from dataclasses import dataclass

import numpy as np

from engine.oracles.base import Batch
from engine.synthesis.generators import Space, flat

FEW = 10  # beats without which a distribution, a classifier or a median says nothing
NEAR = 0.02  # root mean square difference, over a beat's own standard deviation: no more than noise


@dataclass(frozen=True)
class NotComputable:
    """Stands for a number or a tier that these beats do not support."""

    not_computable: str


@dataclass(frozen=True)
class Variety:
    """Attributes:
    repeated: synthetic beats that are nearer to an earlier synthetic one than noise (see NEAR).
    spread: variance of the synthetic beats over that of the train beats of the class, summed over all coordinates.
    distance: median distance of synthetic beats to the nearest train beat, over that of train beats to each other; far
        above 1 they lie where no real beat does.
    """

    repeated: int
    spread: float | NotComputable
    distance: float | NotComputable


@dataclass(frozen=True)
class Privacy:
    """Attributes:
    nndr: median distance of synthetic beats to the nearest train beat, over that of real beats ("held-out" ones, or
        the "train" beats to each other, see `against`); below 1 the synthetic beats are suspiciously near.
    exact, near: synthetic beats that equal a train beat, or are nearer to it than noise (see NEAR), exact included.
    membership_auc, membership_tpr: of guessing the train beats among real ones by their distance to the nearest
        synthetic beat; the true-positive rate is that at 1 % false positives.
    """

    nndr: float | NotComputable
    against: str
    exact: int
    near: int
    membership_auc: float | NotComputable
    membership_tpr: float | NotComputable


def variety_of(real: Batch, synthetic: Batch, space: Space) -> Variety:
    """How synthetic beats vary, and how far they lie from the train beats of their class."""
    from sklearn.neighbors import NearestNeighbors

    a, s = (space.joint(part.x, part.rr) for part in (real, synthetic))
    few = NotComputable(f"{len(a)} real and {len(s)} synthetic beats, at least {FEW} of each are needed")
    spread: float | NotComputable = few
    distance: float | NotComputable = few
    if min(len(a), len(s)) >= FEW and (varies := float(a.var(0).sum())) > 0:
        spread = float(s.var(0).sum()) / varies
    if len(a) >= FEW:
        nearest = NearestNeighbors(n_neighbors=1).fit(a)
        if (apart := float(np.median(nearest.kneighbors()[0]))) > 0:  # each to the nearest other one
            distance = float(np.median(nearest.kneighbors(s)[0])) / apart
    return Variety(repeated(flat(synthetic.x)), spread, distance)


def near_duplicates(real: np.ndarray, x: np.ndarray) -> tuple[int, int]:
    """Windows of `x` that equal one of `real`, and those that are nearer to one than noise, exact ones included."""
    exact, near = copies(real, x)
    return int(exact.sum()), int(near.sum())


def copies(real: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bool[x] each: windows of `x` that equal one of `real`, and those that are nearer to one than noise."""
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=1).fit(real).kneighbors(x, return_distance=False)
    # again, exactly: the search loses the last digits
    difference = np.asarray(x, np.float64) - real[nearest[:, 0]]
    limit = NEAR * np.asarray(real, np.float64).std(1)[nearest[:, 0]]
    return (difference == 0).all(1), np.sqrt((difference**2).mean(1)) <= limit


def membership(members: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """AUC and true-positive rate at 1 % false positives, guessing as member who has the smaller distance."""
    from sklearn.metrics import roc_auc_score, roc_curve

    true = np.repeat([1, 0], [len(members), len(others)])
    guess = -np.concatenate([members, others])
    wrong, right, _ = roc_curve(true, guess)
    return float(roc_auc_score(true, guess)), float(right[wrong <= 0.01].max())


def privacy_of(real: Batch, unseen: Batch, synthetic: Batch, space: Space) -> Privacy | NotComputable:
    from sklearn.neighbors import NearestNeighbors

    if not len(real.y):
        return NotComputable("0 real beats")
    a, u, s = (space.joint(part.x, part.rr) for part in (real, unseen, synthetic))
    exact, near = near_duplicates(flat(real.x), flat(synthetic.x))
    to_real = NearestNeighbors(n_neighbors=1).fit(a)
    against, distances = "held-out", np.zeros(0)
    if len(u) >= FEW:
        distances = to_real.kneighbors(u)[0]
    elif len(a) >= FEW:
        against, distances = "train", to_real.kneighbors()[0]  # each to the nearest other one
    nndr: float | NotComputable = NotComputable(
        f"{len(a)} real and {len(u)} held-out beats, {FEW} of a kind are needed"
    )
    if len(distances) and np.median(distances) > 0:
        nndr = float(np.median(to_real.kneighbors(s)[0]) / np.median(distances))
    auc = tpr = NotComputable(f"{len(a)} real and {len(u)} held-out beats, {FEW} of each are needed")
    if min(len(a), len(u)) >= FEW:
        to_synthetic = NearestNeighbors(n_neighbors=1).fit(s)
        auc, tpr = membership(*(to_synthetic.kneighbors(part)[0][:, 0] for part in (a, u)))  # type: ignore[assignment]
    return Privacy(nndr, against, exact, near, auc, tpr)


def repeated(x: np.ndarray) -> int:
    """How many of the windows are nearer to an earlier one than noise."""
    from scipy.spatial.distance import cdist

    x = np.asarray(x, np.float64)
    radius, count = NEAR * math.sqrt(x.shape[1]) * x.std(1), 0
    for start in range(0, len(x), 256):
        rows = np.arange(start, min(start + 256, len(x)))
        near = cdist(x[rows], x[: rows[-1] + 1]) <= radius[rows, None]
        count += int((near & (np.arange(rows[-1] + 1) < rows[:, None])).any(1).sum())
    return count
