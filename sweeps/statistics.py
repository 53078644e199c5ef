"""The statistics of claims, on plain arrays: bootstrap over patients, paired tests, corrections. scipy's where it has them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

BLOCK = 500  # resamples at a time


class Interval(NamedTuple):
    """A difference and its interval."""

    value: float
    low: float
    high: float


def macro_f1(tables: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """float[...]: mean F1 over those of `classes` that have true beats, of confusion matrices float[..., C, C]; NaN where none has."""
    hits, true, called = np.diagonal(tables, axis1=-2, axis2=-1), tables.sum(-1), tables.sum(-2)
    there = (true > 0)[..., classes]
    f1 = np.where(there, 2 * hits[..., classes] / np.maximum(true + called, 1)[..., classes], 0.0)
    return np.where(there.any(-1), f1.sum(-1) / np.maximum(there.sum(-1), 1), np.nan)


def accuracy(tables: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """float[...]: share of the true beats of `classes` that are called right; one class: its recall. NaN without beats."""
    hits, true = np.diagonal(tables, axis1=-2, axis2=-1)[..., classes].sum(-1), tables.sum(-1)[..., classes].sum(-1)
    return np.where(true > 0, hits / np.maximum(true, 1), np.nan)


def equality(tables: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """float[...]: 1 less the difference of two groups' recalls, of confusion matrices float[..., 2, C, C]; NaN where one has no beats."""
    recall = accuracy(tables, classes)
    return 1 - np.abs(recall[..., 0] - recall[..., 1])


Score = Callable[[np.ndarray, Sequence[int]], np.ndarray]


def by_patients(
    ours: np.ndarray,
    theirs: np.ndarray | None,
    score: Score,
    classes: Sequence[int],
    level: float,
    resamples: int,
    seed: int = 0,
) -> Interval:
    """The difference of two models' scores and its percentile interval over patients drawn with replacement.

    Patients are drawn whole, the same for both models and all seeds; a score is of the beats of all patients together,
    mean over seeds. A resample in which a score is not defined is left out.

    Args:
        ours, theirs: confusion matrices int[seeds, patients, ..., C, C]; without `theirs` the interval is of the score itself.
    """

    def difference(weights: np.ndarray) -> np.ndarray:  # float[resamples, patients] -> float[resamples]
        found = score(np.einsum("bp,sp...->bs...", weights, ours.astype(float)), classes).mean(1)
        if theirs is None:
            return found
        return found - score(np.einsum("bp,sp...->bs...", weights, theirs.astype(float)), classes).mean(1)

    patients = ours.shape[1]
    value = float(difference(np.ones((1, patients)))[0])
    draw = np.random.default_rng(np.random.SeedSequence([seed, patients]))
    found = []
    for start in range(0, resamples, BLOCK):
        drawn = draw.multinomial(patients, np.full(patients, 1 / patients), min(BLOCK, resamples - start))
        found.append(difference(drawn.astype(float)))
    low, high = np.nanquantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(value, low, high)


def wilcoxon(differences: Sequence[float]) -> float:
    """Two-sided p of the signed-rank test; 1 where all differences are zero."""
    from scipy import stats

    given = np.asarray(differences, float)
    return float(stats.wilcoxon(given).pvalue) if given.any() else 1.0


def tost(differences: Sequence[float], margin: float) -> float:
    """p of two one-sided paired t-tests that the mean lies within the margin (Schuirmann 1987); one value has no p: 1."""
    from scipy import stats

    given = np.asarray(differences, float)
    if len(given) < 2:
        return 1.0
    if given.std() == 0:
        return 0.0 if abs(given[0]) < margin else 1.0
    above = stats.ttest_1samp(given, -margin, alternative="greater").pvalue
    return float(max(above, stats.ttest_1samp(given, margin, alternative="less").pvalue))


def not_worse(differences: Sequence[float], margin: float) -> float:
    """p of the one-sided paired t-test that the mean is above minus the margin."""
    from scipy import stats

    given = np.asarray(differences, float)
    if len(given) < 2:
        return 1.0
    if given.std() == 0:
        return 0.0 if given[0] > -margin else 1.0
    return float(stats.ttest_1samp(given, -margin, alternative="greater").pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for a family (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, least = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, p[i] * (len(p) - rank)))
        adjusted[i] = least
    return adjusted


class Ranks(NamedTuple):
    """Methods over blocks.

    Attributes:
        p: of Friedman's test.
        mean: mean rank of each method, 1 is best.
        critical: mean ranks further apart than this differ (Nemenyi).
    """

    p: float
    mean: list[float]
    critical: float


def friedman(scores: np.ndarray, level: float = 0.95) -> Ranks:
    """Friedman's test and Nemenyi's critical difference (Demsar 2006) of float[blocks, methods], higher is better."""
    from scipy import stats

    blocks, methods = scores.shape
    ranks = stats.rankdata(-scores, axis=1).mean(0)
    q = stats.studentized_range.ppf(level, methods, np.inf) / np.sqrt(2)
    p = float(stats.friedmanchisquare(*scores.T).pvalue) if methods > 2 else wilcoxon(scores[:, 0] - scores[:, 1])
    return Ranks(p, ranks.tolist(), float(q * np.sqrt(methods * (methods + 1) / (6 * blocks))))
