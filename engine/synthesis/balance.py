"""Training-side balancing of one hospital's train data: the loss, repeated beats, or added synthetic ones."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from engine.data.config import labels_of, rare
from engine.data.samples import Samples
from engine.oracles.base import Batch
from engine.seeds import generator
from engine.synthesis.config import BalanceConfig


def balanced(
    samples: Samples,
    settings: BalanceConfig,
    classes: Sequence[str],
    seed: int,
    hospital: int,
    added: Batch | None = None,
) -> Samples:
    """The train part as the hospital is to train on it.

    Args:
        classes: their names.
        seed: the run's.
        added: the accepted synthetic beats of this hospital, for the methods in `config.SYNTHETIC`.
    """
    if settings.method == "none":
        return samples
    labels = samples.labels()
    budget = len(samples) if settings.budget == "real" else None
    match settings.method:
        case "class_weighted":
            return replace(samples, class_weight=class_weights(labels, len(classes), settings.max_weight))
        case "public_weights":
            weights = [(settings.weights or {}).get(name, 1.0) for name in classes]
            return replace(samples, class_weight=np.array(weights, np.float32))
        case "logit_adjustment":
            return replace(samples, logit_offset=logit_offsets(labels, len(classes), settings.tau))
        case "oversample":
            draw = generator(seed if settings.seed is None else settings.seed, "oversample", hospital=hospital)
            repeated = [
                draw.choice(np.flatnonzero(labels == classes.index(name)), count)
                for name, count in wanted_beats(labels, classes, settings).items()
            ]
            index = np.concatenate([samples.index, *(samples.index[r] for r in repeated)])
            return replace(samples, index=index, budget=budget)
        case _:
            return replace(samples, added=added, budget=budget)


def class_weights(labels: np.ndarray, classes: int, largest: float) -> np.ndarray:
    """float32[classes]: n / (classes there are * beats of the class), at most `largest`; 1 for a class without beats.

    Uncapped, their mean over the beats is one, so that the learning rate keeps its meaning.
    """
    counts = np.bincount(labels, minlength=classes)
    there = counts > 0
    weights = np.ones(classes)
    weights[there] = len(labels) / (there.sum() * counts[there])
    return np.minimum(weights, largest).astype(np.float32)


def logit_offsets(labels: np.ndarray, classes: int, tau: float) -> np.ndarray:
    """float32[classes]: tau * log of the classes' shares, added to the logits in the loss (Menon et al. 2021, arXiv
    2007.07314). Each class counts one beat more than there are, so that a missing class has a finite offset."""
    counts = np.bincount(labels, minlength=classes) + 1
    return (tau * np.log(counts / counts.sum())).astype(np.float32)


def wanted_beats(labels: np.ndarray, classes: Sequence[str], settings: BalanceConfig) -> dict[str, int]:
    """Class -> beats to add: up to `target` of the largest class, at most `ratio` for each real beat and `quota`.

    A class without real beats gets none: there is nothing to make them from.
    """
    counts = np.bincount(labels, minlength=len(classes))
    goal = math.ceil(settings.target * int(counts.max(initial=0)))
    allowed = settings.classes or rare(labels_of(classes))
    wanted = {}
    for name, count in zip(classes, counts.tolist(), strict=True):
        more = min(goal - count, math.floor(settings.ratio * count), settings.quota)
        if name in allowed and more > 0:
            wanted[name] = more
    return wanted
