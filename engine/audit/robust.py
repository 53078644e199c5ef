"""The rules that bear hostile updates, written a second time from `engine/aggregation/robust.py`, to the last bit.

x_1 ... x_n are the updates of a round by ascending slot, float32 widened to float64; f is the rule's `byzantine`. All is
float64, each operation rounded once, in the order that is written.

    S(a)   a_1 + a_2 + ..., one after another, from zero
    F(a)   a sum over the parameters by halves: with h = ceil(len / 2) the entries from h on are added to the first ones
           and cut off, until one is left
    |a|    sqrt(F(a * a));   D_ij = F((x_j - x_i)^2)
    med    the middle entry in order, or half the sum of the two in the middle

    median             med of each parameter
    trimmed-mean       S(ordered entries f + 1 ... n - f) / (n - 2f) of each parameter
    krum, multi-krum   score_i = S(the n - f - 2 smallest D_ij with j != i, ascending); S(x of the `keep` least scores, by slot)
                       / keep; keep is 1 for krum, n - f where it is null; ties go to the lower slot
    geometric-median   z = med; `iterations` times: d_i = |x_i - z|, low = 1e-6 * med(d), end if that is 0;
                       w_i = 1 / max(d_i, low), z = S(w_i * x_i) / S(w)
    centred-clipping   z = the last round's result, 0 before round 1; `iterations` times: z = z + S(cut(x_i - z)) / n
    norm-bound         S(cut(x_i)) / n
    cut(a_i)           a_i * min(1, r / |a_i|), a_i itself where it is 0; r is `radius`, or med of |a_1| ... |a_n| where null

    mix bucketing      first: in ascending order of SHA-256(SHA-256(all updates, little-endian) + slot's position as 4 bytes),
                       `bucket` at a time, S / how many
    mix nearest        first: x_i becomes S(x of the n - f least D_ij, j = i included, by slot) / (n - f)
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

_OWN: Mapping[str, tuple[str, ...]] = {
    "median": (),
    "trimmed-mean": (),
    "krum": (),
    "multi-krum": ("keep",),
    "geometric-median": ("iterations",),
    "centred-clipping": ("radius", "iterations"),
    "norm-bound": ("radius",),
}
_MIXES: Mapping[str, tuple[str, ...]] = {"none": (), "bucketing": ("bucket",), "nearest": ()}
_WHOLE = {"byzantine": (0, 10**6), "bucket": (2, 10**6), "keep": (1, 10**6), "iterations": (1, 1000)}
NAMES = tuple(_OWN)
STARTS_FROM_THE_LAST = "centred-clipping"

Vectors = list[np.ndarray]


def keys(name: str, mix: str) -> tuple[str, ...]:
    """What a rule reads of its settings; raises KeyError for one that does not exist."""
    return ("byzantine", "mix", *_MIXES[mix], *_OWN[name])


def problem(name: str, settings: Mapping[str, Any]) -> str:
    """Why a rule with these settings cannot be executed; "" if it can."""
    mix = settings.get("mix")
    if not isinstance(mix, str) or mix not in _MIXES:
        return f"updates were mixed in a way that this version does not know: {', '.join(_MIXES)}"
    wanted = set(keys(name, mix))
    if set(settings) != wanted:
        return f"the rule {name} takes {', '.join(sorted(wanted))}"
    for key, (least, most) in _WHOLE.items():
        if key in wanted and not (key == "keep" and settings[key] is None) and not _whole(settings[key], least, most):
            return f"{key} of the rule {name} is no whole number from {least} to {most}"
    radius = settings.get("radius")
    if radius is not None and (
        isinstance(radius, bool) or not isinstance(radius, int | float) or not 0 < radius < math.inf
    ):
        return f"radius of the rule {name} is no number above 0"
    return ""


def _whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def direction(
    name: str, settings: Mapping[str, Any], updates: Sequence[np.ndarray], last: np.ndarray | None
) -> np.ndarray:
    """Where a round's updates, float32[P] each, by ascending slot, move the model, float64[P].

    Args:
        last: the direction of the last round, None before the first.

    Raises:
        ValueError: the rule does not hold for so few updates, or for such.
    """
    if not all(np.isfinite(update).all() for update in updates):
        raise ValueError("an update is not finite")
    f, mix = settings["byzantine"], settings["mix"]
    count = -(-len(updates) // settings["bucket"]) if mix == "bucketing" else len(updates)
    least = 2 * f + 3 if name in ("krum", "multi-krum") else 2 * f + 1
    if count < least or (mix == "nearest" and len(updates) < 2 * f + 1):
        raise ValueError(f"{name} does not bear {f} hostile ones among {len(updates)} updates")
    points = [update.astype(np.float64) for update in updates]
    if mix == "bucketing":
        points = _bucketed(updates, points, settings["bucket"])
    elif mix == "nearest":
        points = _neighbours(points, f)
    start = np.zeros(len(points[0])) if last is None else last
    return _RULES[name](points, f, settings, start)


def _total(vectors: Sequence[np.ndarray]) -> np.ndarray:
    total = np.zeros_like(vectors[0])
    for vector in vectors:
        total = total + vector
    return total


def _mean(vectors: Sequence[np.ndarray]) -> np.ndarray:
    return _total(vectors) / len(vectors)


def _fold(vector: np.ndarray) -> float:
    if not len(vector):
        return 0.0
    while len(vector) > 1:
        half = math.ceil(len(vector) / 2)
        head = vector[:half].copy()
        head[: len(vector) - half] += vector[half:]
        vector = head
    return float(vector[0])


def _length(vector: np.ndarray) -> float:
    return math.sqrt(_fold(vector * vector))


def _middle(numbers: Sequence[float]) -> float:
    ordered, half = sorted(numbers), len(numbers) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _apart(points: Vectors) -> list[list[float]]:
    n = len(points)
    table = [[0.0] * n for _ in range(n)]
    for j in range(n):
        for i in range(j):
            gap = points[j] - points[i]
            table[i][j] = table[j][i] = _fold(gap * gap)
    return table


def _bucketed(updates: Sequence[np.ndarray], points: Vectors, bucket: int) -> Vectors:
    hashed = hashlib.sha256()
    for update in updates:
        hashed.update(update.astype("<f4").tobytes())
    seed = hashed.digest()
    ranks = {hashlib.sha256(seed + position.to_bytes(4, "big")).digest(): position for position in range(len(points))}
    order = [ranks[rank] for rank in sorted(ranks)]
    return [_mean([points[i] for i in order[at : at + bucket]]) for at in range(0, len(order), bucket)]


def _neighbours(points: Vectors, f: int) -> Vectors:
    keep = len(points) - f
    near = [sorted(sorted(range(len(row)), key=lambda j, row=row: (row[j], j))[:keep]) for row in _apart(points)]  # type: ignore[misc]
    return [_mean([points[j] for j in chosen]) for chosen in near]


def _medians(points: Vectors, f: int = 0, settings: Any = None, start: Any = None) -> np.ndarray:
    ordered, half = np.sort(np.stack(points), axis=0), len(points) // 2
    return ordered[half] if len(points) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _trimmed(points: Vectors, f: int, settings: Any, start: Any) -> np.ndarray:
    return _mean(list(np.sort(np.stack(points), axis=0))[f : len(points) - f])


def _krum(points: Vectors, f: int, settings: Mapping[str, Any], start: Any) -> np.ndarray:
    keep = settings.get("keep", 1)
    keep = len(points) - f if keep is None else keep
    if keep > len(points) - f:
        raise ValueError(f"multi-krum cannot keep {keep} of {len(points)} with {f} hostile")
    scores = []
    for i, row in enumerate(_apart(points)):
        score = 0.0
        for distance in sorted(d for j, d in enumerate(row) if j != i)[: len(points) - f - 2]:
            score += distance
        scores.append((score, i))
    return _mean([points[i] for i in sorted(i for _, i in sorted(scores)[:keep])])


def _weiszfeld(points: Vectors, f: int, settings: Mapping[str, Any], start: Any) -> np.ndarray:
    centre = _medians(points)
    for _ in range(settings["iterations"]):
        away = [_length(point - centre) for point in points]
        low = 1e-6 * _middle(away)
        if low == 0.0:
            return centre
        weights = [1.0 / max(distance, low) for distance in away]
        whole = 0.0
        for weight in weights:
            whole += weight
        centre = _total([point * weight for point, weight in zip(points, weights, strict=True)]) / whole
    return centre


def _cut(points: Vectors, radius: float | None) -> Vectors:
    lengths = [_length(point) for point in points]
    allowed = _middle(lengths) if radius is None else radius
    return [p if length == 0.0 else p * min(1.0, allowed / length) for p, length in zip(points, lengths, strict=True)]


def _centred(points: Vectors, f: int, settings: Mapping[str, Any], start: np.ndarray) -> np.ndarray:
    for _ in range(settings["iterations"]):
        start = start + _mean(_cut([point - start for point in points], settings["radius"]))
    return start


def _bounded(points: Vectors, f: int, settings: Mapping[str, Any], start: Any) -> np.ndarray:
    return _mean(_cut(points, settings["radius"]))


_RULES: Mapping[str, Callable[[Vectors, int, Mapping[str, Any], np.ndarray], np.ndarray]] = {
    "median": _medians,
    "trimmed-mean": _trimmed,
    "krum": _krum,
    "multi-krum": _krum,
    "geometric-median": _weiszfeld,
    "centred-clipping": _centred,
    "norm-bound": _bounded,
}
