"""Test parts in which classes can be spoken of: where too few beats of a class are tested, the last stretch of some records begins earlier.

Nothing is shuffled: a record's test part stays one block at its end, so that nothing of it is known before. At most half of a record is
tested. Where even that holds too few beats of a class, nothing is moved for it, and its scores are marked as not testable.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class Stretch:
    """The beats of one record in order of time: class and hospital of each, and how many of them, the last ones, are tested."""

    classes: np.ndarray
    hospital: np.ndarray
    tested: int

    @property
    def most(self) -> int:
        """How many may be tested."""
        return max(self.tested, len(self.classes) // 2)


def moved(stretches: Sequence[Stretch], least: int) -> list[int]:
    """How many of each record's beats are tested, so that each class has `least` test beats in each hospital that has enough of them,
    and then in all hospitals together. As few beats as can be found by going for the densest stretches are moved."""
    classes = range(1 + max((int(s.classes.max(initial=0)) for s in stretches), default=0))
    hospitals = sorted({int(h) for s in stretches for h in np.unique(s.hospital)})
    for hospital in hospitals:
        for c in classes:
            _reach(stretches, [(s.classes == c) & (s.hospital == hospital) for s in stretches], least)
    for c in classes:
        _reach(stretches, [s.classes == c for s in stretches], least)
    return [s.tested for s in stretches]


def _reach(stretches: Sequence[Stretch], wanted: Sequence[np.ndarray], least: int) -> None:
    """Moves cuts until `least` of the wanted beats are tested, if they can be."""
    there = _tested(zip(stretches, wanted, strict=True))
    possible = sum(int(beats[len(beats) - s.most :].sum()) for s, beats in zip(stretches, wanted, strict=True))
    if possible < least:
        return
    while there < least:
        best = max(
            (
                (gain / (size - s.tested), -number, size, gain)
                for number, (s, beats) in enumerate(zip(stretches, wanted, strict=True))
                for gain, size in _steps(s, beats, least - there)
            ),
        )
        _, number, size, gain = best
        stretches[-number].tested = size
        there += gain


def _steps(stretch: Stretch, wanted: np.ndarray, lacking: int) -> list[tuple[int, int]]:
    """What the test part may grow to: wanted beats that are gained, and its size then."""
    n = len(wanted)
    places = np.flatnonzero(wanted[n - stretch.most : n - stretch.tested])[::-1][:lacking] + n - stretch.most
    return [(i + 1, n - int(place)) for i, place in enumerate(places)]


def _tested(pairs: Iterable[tuple[Stretch, np.ndarray]]) -> int:
    return sum(int(beats[len(beats) - s.tested :].sum()) for s, beats in pairs)


def drawn_evenly(table: np.ndarray, tests: np.ndarray, share: float, least: int) -> int:
    """Which of some drawn sets of patients is tested: the one that leaves fewest classes with too few test beats, of these the one
    whose share of each class is nearest to the share that is to be tested.

    Args:
        table: int[patients, classes], beats.
        tests: bool[draws, patients].
    """
    found = tests.astype(int) @ table
    whole = table.sum(0)
    few = (found < np.minimum(least, whole // 2)).sum(1)
    off = np.abs(found / np.maximum(whole, 1) - share)[:, whole > 0].sum(1)
    return int(np.lexsort((off, few))[0])
