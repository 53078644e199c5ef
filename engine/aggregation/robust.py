"""Rules that bear hostile updates: n updates float64[n, P] by ascending hospital, of which f may be anything, to one.

Every update counts the same, as whoever reports a weight would control the rule. All arithmetic is float64, each
operation rounded once, in a fixed order that no library chooses: sums over updates run by ascending hospital (`summed`),
sums over parameters by halves (`folded`). Ties go to the lower hospital. So the audit, which has these rules a second
time, finds the same bits on any machine.

    median            of each parameter; of an even number the mean of the two in the middle
    trimmed-mean      of each parameter, without the f lowest and the f highest           Yin et al. 2018, arXiv 1803.01498
    krum              the update with the least sum of squared distances to its n - f - 2 nearest others
    multi-krum        the mean of the `keep` updates with the least such sums   Blanchard et al. 2017, arXiv 1703.02757
    geometric-median  the point with the least sum of distances, smoothed Weiszfeld steps  Pillutla et al. 2022, arXiv 1912.13445
    centred-clipping  v + mean of (x - v) min(1, radius / |x - v|), again and again, from the last round's v
                                                                            Karimireddy et al. 2021, arXiv 2012.10333
    norm-bound        the mean of x min(1, radius / |x|)                                  Sun et al. 2019, arXiv 1911.07963

Before each of them updates may be mixed:

    bucketing         shuffled, then replaced by the means of `bucket` at a time      Karimireddy et al. 2022, arXiv 2006.09365
    nearest           each replaced by the mean of the n - f nearest to it, itself included  Allouah et al. 2023, arXiv 2302.01772
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from engine.messages import Update


def unfit(updates: Sequence[Update]) -> dict[int, str]:
    """The hospitals whose updates no distance may be computed of, each with the reason."""
    return {
        update.hospital: "the update is not finite"
        for update in updates
        if update.vector is not None and not np.isfinite(update.vector).all()
    }


def summed(points: np.ndarray) -> np.ndarray:
    """The sum of the rows, one after another, float64[P].

    >>> summed(np.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [4.0, 6.0]
    """
    total = np.zeros(points.shape[1])
    for row in points:
        total = total + row
    return total


def mean(points: np.ndarray) -> np.ndarray:
    """The mean of the rows, float64[P]."""
    return summed(points) / len(points)


def folded(values: np.ndarray) -> np.ndarray:
    """The sum over the last axis by halves: the second half is added to the first until one number is left.

    Of an odd number the one in the middle waits. NumPy's and BLAS's own sums differ by version and machine in the last bit.

    >>> float(folded(np.array([1.0, 2.0, 4.0])))  # (1 + 4) + 2
    7.0
    """
    size = values.shape[-1]
    if size == 0:
        return np.zeros(values.shape[:-1])
    values = values.copy()
    while size > 1:
        first = (size + 1) // 2
        values[..., : size - first] += values[..., first:size]
        size = first
    return np.asarray(values[..., 0])


def squared_distances(points: np.ndarray) -> np.ndarray:
    """Squared distance of each two updates, float64[n, n]; from differences, as the short cut over dot products cancels."""
    found = np.zeros((len(points), len(points)))
    for i in range(len(points) - 1):
        difference = points[i + 1 :] - points[i]
        found[i, i + 1 :] = found[i + 1 :, i] = folded(difference * difference)
    return found


def median(points: np.ndarray) -> np.ndarray:
    """Of each parameter, float64[P].

    >>> median(np.array([[1.0], [9.0], [2.0], [4.0]])).tolist()
    [3.0]
    """
    ordered, middle = np.sort(points, axis=0), len(points) // 2
    return ordered[middle] if len(points) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def trimmed_mean(points: np.ndarray, f: int) -> np.ndarray:
    """Of each parameter, without the f lowest and f highest, float64[P].

    >>> trimmed_mean(np.array([[1.0], [9.0], [2.0], [4.0]]), 1).tolist()
    [3.0]
    """
    return mean(np.sort(points, axis=0)[f : len(points) - f])


def krum_scores(points: np.ndarray, f: int) -> np.ndarray:
    """For each update the sum of the squared distances to its n - f - 2 nearest others, float64[n].

    >>> krum_scores(np.array([[0.0], [1.0], [3.0], [100.0], [4.0]]), 1).tolist()
    [10.0, 5.0, 5.0, 18625.0, 10.0]
    """
    distances = squared_distances(points)
    others = [np.sort(np.delete(row, i)) for i, row in enumerate(distances)]
    return summed(np.array(others).T[: len(points) - f - 2])


def multi_krum(points: np.ndarray, f: int, keep: int) -> np.ndarray:
    """The mean of the `keep` updates with the least scores, float64[P]; with one it is Krum.

    >>> multi_krum(np.array([[0.0], [1.0], [3.0], [100.0], [4.0]]), 1, 1).tolist()
    [1.0]
    """
    best = np.argsort(krum_scores(points, f), kind="stable")[:keep]
    return mean(points[np.sort(best)])


def norms(points: np.ndarray) -> np.ndarray:
    """The Euclidean norm of each row, float64[n]."""
    return np.sqrt(folded(points * points))


def geometric_median(points: np.ndarray, iterations: int) -> np.ndarray:
    """Smoothed Weiszfeld steps from the coordinates' median, float64[P].

    A distance below a millionth of the median distance counts as that: without a floor a step onto an update divides by
    zero, and a floor of fixed size would make a plain mean of small updates.

    >>> geometric_median(np.array([[0.0], [1.0], [100.0]]), 20).tolist()
    [1.0]
    """
    centre = median(points)
    for _ in range(iterations):
        away = norms(points - centre)
        floor = 1e-6 * float(median(away[:, None])[0])
        if floor == 0.0:  # more than half of the updates are the centre
            break
        weights = 1.0 / np.maximum(away, floor)
        centre = summed(points * weights[:, None]) / summed(weights[:, None])
    return centre


def clipped(points: np.ndarray, radius: float | None) -> np.ndarray:
    """Rows shortened to `radius`, float64[n, P]; None: to the median of their norms."""
    lengths = norms(points)
    allowed = float(median(lengths[:, None])[0]) if radius is None else radius
    factors = np.minimum(1.0, allowed / np.where(lengths == 0.0, 1.0, lengths))
    return points * np.where(lengths == 0.0, 1.0, factors)[:, None]


def centred_clipping(points: np.ndarray, start: np.ndarray, radius: float | None, iterations: int) -> np.ndarray:
    """The mean of what is near the centre and of what is far in its direction only, float64[P].

    Args:
        start: float64[P], the last round's.
        radius: None: in each iteration the median distance to the centre.

    >>> centred_clipping(np.array([[0.0], [1.0], [101.0]]), np.array([1.0]), 2.0, 1).tolist()  # 1 + (-1 + 0 + 2) / 3
    [1.3333333333333333]
    """
    centre = start
    for _ in range(iterations):
        centre = centre + mean(clipped(points - centre, radius))
    return centre


def norm_bound(points: np.ndarray, radius: float | None) -> np.ndarray:
    """The mean of the updates after each is shortened to `radius`, float64[P]."""
    return mean(clipped(points, radius))


def shuffled(vectors: Sequence[np.ndarray]) -> list[int]:
    """An order of the updates that none of their senders could choose alone: by SHA-256 of all of them and of the position.

    Args:
        vectors: float32[P] each, as sent; hashed as little-endian bytes.
    """
    seed = hashlib.sha256(b"".join(np.ascontiguousarray(v, "<f4").tobytes() for v in vectors)).digest()
    return sorted(range(len(vectors)), key=lambda i: hashlib.sha256(seed + i.to_bytes(4, "big")).digest())


def bucketing(points: np.ndarray, order: Sequence[int], bucket: int) -> np.ndarray:
    """Means of `bucket` updates at a time in this order, of the rest in the last, float64[ceil(n / bucket), P].

    >>> bucketing(np.array([[1.0], [2.0], [6.0]]), [2, 0, 1], 2).tolist()
    [[3.5], [2.0]]
    """
    starts = range(0, len(points), bucket)
    return np.array([mean(points[list(order[start : start + bucket])]) for start in starts])


def nearest(points: np.ndarray, f: int) -> np.ndarray:
    """Each update replaced by the mean of the n - f nearest to it, itself included, float64[n, P].

    >>> nearest(np.array([[0.0], [1.0], [3.0], [100.0]]), 2).tolist()
    [[0.5], [0.5], [2.0], [51.5]]
    """
    distances = squared_distances(points)
    near = np.argsort(distances, axis=1, kind="stable")[:, : len(points) - f]
    return np.array([mean(points[np.sort(row)]) for row in near])
