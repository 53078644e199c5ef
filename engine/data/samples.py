"""One hospital's beats of one part, and the orders in which batches pass through them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from engine.data.augment import Alter, unaltered
from engine.oracles.base import Batch, Oracle


@dataclass(frozen=True)
class Samples:
    """The beats of one part of one hospital: index array into (memory-mapped) beat arrays, then added beats.

    Attributes:
        added: synthetic beats, at positions from len(index).
        class_weight, logit_offset: of every batch, see `Batch`.
        patient: int[beats], a number of the patient of every beat in the arrays; None where nobody wants to know.
        alter: what becomes of every batch that is taken.
        budget: number of beats whose batches make an epoch; None: of all that are there.
    """

    x: np.ndarray
    rr: np.ndarray
    y: np.ndarray
    index: np.ndarray
    added: Batch | None = None
    class_weight: np.ndarray | None = None
    logit_offset: np.ndarray | None = None
    budget: int | None = None
    patient: np.ndarray | None = None
    alter: Alter = unaltered

    def __len__(self) -> int:
        return len(self.index) + (len(self.added.y) if self.added is not None else 0)

    def plain(self) -> "Samples":
        """The same beats, unaltered."""
        return replace(self, alter=unaltered)

    def batches(self, batch_size: int) -> int:
        """Number of batches in one epoch."""
        return -(-(len(self) if self.budget is None else self.budget) // batch_size)

    def labels(self) -> np.ndarray:
        """int8[n], classes in the order of the positions."""
        labels = np.asarray(self.y[self.index])
        return labels if self.added is None else np.concatenate([labels, self.added.y])

    def batch(self, positions: np.ndarray | slice = slice(None)) -> Batch:
        """The beats at `positions`, 0..n-1, of this part."""
        if self.added is None:
            rows = self.index[positions]
            parts = (self.x[rows], self.rr[rows], self.y[rows])
            if self.patient is not None:
                return self.alter(Batch(*parts, self.class_weight, self.logit_offset, self.patient[rows]))
        else:
            wanted = np.arange(len(self))[positions]
            real = wanted < len(self.index)
            rows, others = self.index[wanted[real]], wanted[~real] - len(self.index)
            order = np.argsort(~real, kind="stable").argsort()  # back from real first, added second
            both = zip((self.x, self.rr, self.y), self.added[:3], strict=True)
            parts = tuple(np.concatenate([a[rows], b[others]])[order] for a, b in both)  # type: ignore[assignment]
        return self.alter(Batch(*parts, self.class_weight, self.logit_offset))


_NONE = np.zeros(0, np.float32)
NO_SAMPLES = Samples(_NONE, _NONE, np.zeros(0, np.int8), np.zeros(0, np.int64))
_BLOCK = 4096  # beats scored at a time, so that a large hospital does not copy all of its mapped beats at once


def predicted(
    oracle: Oracle, params: np.ndarray, samples: Samples, seen: Callable[[Batch], Batch] = lambda batch: batch
) -> np.ndarray:
    """int8[n], the class that the parameters give each beat, as it is or as it is `seen`."""
    blocks = [seen(samples.batch(slice(i, i + _BLOCK))) for i in range(0, len(samples), _BLOCK)]
    return np.concatenate(
        [oracle.scores(params, b.x, b.rr).argmax(1).astype(np.int8) for b in blocks] or [np.zeros(0, np.int8)]
    )


def judged(oracle: Oracle, params: np.ndarray, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """int8[n], the class that the parameters give each beat, and int32[n], how sure they are: its softmax, in parts of 10,000."""
    classes, sure = [np.zeros(0, np.int8)], [np.zeros(0, np.int32)]
    for i in range(0, len(samples), _BLOCK):
        batch = samples.batch(slice(i, i + _BLOCK))
        logits = oracle.scores(params, batch.x, batch.rr).astype(np.float64)
        classes.append(logits.argmax(1).astype(np.int8))
        share = 1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1)
        sure.append(np.rint(10_000 * np.nan_to_num(share)).astype(np.int32))
    return np.concatenate(classes), np.concatenate(sure)


def believed(oracle: Oracle, params: np.ndarray, samples: Samples) -> np.ndarray:
    """float64[n], the probability that the parameters give each beat's own class: 1 less half the L1 distance to the one-hot label."""
    found = [np.zeros(0)]
    for start in range(0, len(samples), _BLOCK):
        batch = samples.batch(slice(start, start + _BLOCK))
        logits = oracle.scores(params, batch.x, batch.rr).astype(np.float64)
        raised = np.exp(logits - logits.max(1, keepdims=True))
        found.append(raised[np.arange(len(raised)), batch.y] / raised.sum(1))
    return np.concatenate(found)


def passes(n: int, batch_size: int, draw: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches of positions 0..n-1, shuffled anew for each pass, without end. The last of a pass may be smaller."""
    while True:
        order = draw.permutation(n)
        for start in range(0, n, batch_size):
            yield order[start : start + batch_size]


def stratified(labels: np.ndarray, batch_size: int, draw: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches with the same number of beats of each class there is, without end.

    Each class is passed through in shuffled order, as often as needed; a class with fewer beats than its share comes
    more than once in a batch. With more classes than `batch_size`, a batch holds one beat of each.
    """
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    streams = [_stream(group, draw) for group in groups]
    size = max(batch_size, len(groups))
    shares = [size // len(groups) + (i < size % len(groups)) for i in range(len(groups))]
    while True:
        yield np.array([next(stream) for stream, share in zip(streams, shares, strict=True) for _ in range(share)])


def _stream(group: np.ndarray, draw: np.random.Generator) -> Iterator[int]:
    while True:
        yield from draw.permutation(group)
