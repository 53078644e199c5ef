"""Whom to ask, by what earlier rounds have shown: pure functions of a round's random numbers and of facts that hospitals sign.

A hospital's facts are how often and when last its update was taken, the wrong predictions of the last global model that it
scored among its validation beats, and how a committee found its updates. None of them is a loss that it claims: who could
name his loss could have himself chosen for ever. Arithmetic is float64 in the order that is written, ties go to the lower id,
so that an audit finds the same.

    round-robin      those that were asked longest ago, and of these least often
    power-of-choice  of 2m that are drawn the m with most wrong                       Cho et al. 2020, arXiv 2010.01243
    oort             those with the largest utility, n sqrt(share wrong), cut at its 95 % quantile and divided by the largest,
                     + sqrt(0.1 ln R / round of the last time); first, of those never asked, max(0.2, 0.9 * 0.98^(R - 1)) of m
                                                                                           Lai et al. 2021, arXiv 2010.06081
    ucb              those with the largest mean gain of the rounds that they were in + sqrt(2 ln R / times); a gain is that of the
                     mean recall, against the largest so far
    thompson         those with the largest draw of Beta(1 + qualified, 1 + not)
    reputation       drawn without replacement by weights (1 + qualified) / (2 + judged)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from engine.messages import Measured
from engine.result import RoundSummary


class Fact(NamedTuple):
    """What is known of a hospital.

    Attributes:
        times: rounds that took its update.
        last: the last of them, 0 without one.
        beats, wrong: of its validation part, under the last global model that it scored; 0 beats where it never did.
        qualified, judged: updates that a committee found good, and all that it judged.
        gain: sum over its rounds of their gains.
    """

    times: int = 0
    last: int = 0
    beats: int = 0
    wrong: int = 0
    qualified: int = 0
    judged: int = 0
    gain: float = 0.0

    @property
    def share(self) -> float | None:
        """Of wrong predictions; None where nothing is known."""
        return self.wrong / self.beats if self.beats else None


def facts(hospitals: Sequence[int], measured: Sequence[Measured], history: Sequence[RoundSummary]) -> dict[int, Fact]:
    """The facts of each hospital after these rounds."""
    found, gain = dict.fromkeys(hospitals, Fact()), gains([mean_recall(one.tables) for one in measured])
    for one, gained in zip(measured, gain, strict=True):
        for hospital in found.keys() & one.gradients.keys():
            fact = found[hospital]
            found[hospital] = fact._replace(times=fact.times + 1, last=one.round, gain=fact.gain + gained)
        for hospital in found.keys() & one.tables.keys():
            table = one.tables[hospital]
            beats = int(table.sum())
            found[hospital] = found[hospital]._replace(beats=beats, wrong=beats - int(np.trace(table)))
    for row in history:
        for verdict in row.committee.verdicts if row.committee is not None else ():
            if verdict.hospital in found:
                fact = found[verdict.hospital]
                good = fact.qualified + verdict.qualified
                found[verdict.hospital] = fact._replace(qualified=good, judged=fact.judged + 1)
    return found


def mean_recall(tables: Mapping[int, np.ndarray]) -> float:
    """Mean over the classes with beats of the recall on all hospitals' validation beats; 0 without any.

    >>> mean_recall({0: np.array([[3, 1], [0, 0]]), 1: np.array([[0, 0], [1, 1]])})
    0.625
    """
    if not tables:
        return 0.0
    whole = sum(tables[hospital].astype(np.int64) for hospital in sorted(tables))
    recalls = [int(row[i]) / int(row.sum()) for i, row in enumerate(np.asarray(whole)) if row.sum()]
    total = 0.0
    for recall in recalls:
        total += recall
    return total / len(recalls) if recalls else 0.0


def gains(values: Sequence[float]) -> list[float]:
    """What each round has gained over the one before, a loss being none, against the largest gain; the first has none.

    >>> gains([0.5, 0.75, 0.7, 0.825])
    [0.0, 1.0, 0.0, 0.5]
    """
    steps = [max(after - before, 0.0) for before, after in zip([*values[:1], *values], values, strict=False)]
    largest = max(steps, default=0.0)
    return [step / largest if largest else 0.0 for step in steps]


def behind(known: Mapping[int, Fact], round: int, wanted: int, floor: float) -> list[int]:
    """Those below their floor, a share of an even part of all rounds so far, furthest behind first.

    >>> behind({0: Fact(times=4), 1: Fact(times=1), 2: Fact()}, 5, 1, 0.9)
    [2, 1]
    """
    least = floor * wanted * (round - 1) / len(known)
    return sorted((h for h, fact in known.items() if fact.times < least), key=lambda h: (known[h].times, h))


def shares(known: Mapping[int, Fact]) -> dict[int, float]:
    """Share of wrong predictions of each; of one that never scored a model the mean of the others, 1 where none did."""
    told = [share for fact in known.values() if (share := fact.share) is not None]
    total = 0.0
    for share in told:
        total += share
    usual = total / len(told) if told else 1.0
    return {h: usual if fact.share is None else fact.share for h, fact in known.items()}


def best(values: Mapping[int, float], many: int) -> list[int]:
    """The hospitals with the largest values."""
    return sorted(values, key=lambda hospital: (-values[hospital], hospital))[:many]


Chosen = Callable[[Mapping[int, Fact], int, int, np.random.Generator], Sequence[int]]  # facts, round, how many, draw


def round_robin(known: Mapping[int, Fact], round: int, many: int, draw: np.random.Generator) -> list[int]:
    return sorted(known, key=lambda hospital: (known[hospital].last, known[hospital].times, hospital))[:many]


def power_of_choice(known: Mapping[int, Fact], round: int, many: int, draw: np.random.Generator) -> list[int]:
    ids = sorted(known)
    drawn = draw.choice(ids, min(2 * many, len(ids)), replace=False).tolist()
    wrong = shares(known)
    return best({hospital: wrong[hospital] for hospital in drawn}, many)


def oort(known: Mapping[int, Fact], round: int, many: int, draw: np.random.Generator) -> list[int]:
    fresh = [hospital for hospital in sorted(known) if not known[hospital].times]
    explored = min(len(fresh), math.ceil(max(0.2, 0.9 * 0.98 ** (round - 1)) * many))
    first = draw.choice(fresh, explored, replace=False).tolist() if explored else []
    wrong = shares(known)
    plain = {h: fact.beats * math.sqrt(wrong[h]) for h, fact in known.items()}
    ordered = sorted(plain.values())
    cut = ordered[int(0.95 * (len(ordered) - 1))]
    utility = {}
    for hospital in sorted(known.keys() - {*first}):
        clipped = min(plain[hospital], cut) / cut if cut else 0.0
        utility[hospital] = clipped + math.sqrt(0.1 * math.log(round) / max(known[hospital].last, 1))
    return [*first, *best(utility, many - len(first))]


def ucb(known: Mapping[int, Fact], round: int, many: int, draw: np.random.Generator) -> list[int]:
    def bound(fact: Fact) -> float:
        if not fact.times:
            return math.inf
        return fact.gain / fact.times + math.sqrt(2 * math.log(round) / fact.times)

    return best({hospital: bound(known[hospital]) for hospital in sorted(known)}, many)


def thompson(known: Mapping[int, Fact], round: int, many: int, draw: np.random.Generator) -> list[int]:
    drawn = {
        h: float(draw.beta(1 + known[h].qualified, 1 + known[h].judged - known[h].qualified)) for h in sorted(known)
    }
    return best(drawn, many)


def reputation(known: Mapping[int, Fact], round: int, many: int, draw: np.random.Generator) -> list[int]:
    ids = sorted(known)
    weights = np.array([(1 + known[h].qualified) / (2 + known[h].judged) for h in ids])
    return draw.choice(ids, many, replace=False, p=weights / weights.sum()).tolist()  # type: ignore[no-any-return]


POLICIES: Mapping[str, Chosen] = {
    "round-robin": round_robin,
    "power-of-choice": power_of_choice,
    "oort": oort,
    "ucb": ucb,
    "thompson": thompson,
    "reputation": reputation,
}


def chosen(
    policy: str, known: Mapping[int, Fact], round: int, wanted: int, floor: float, draw: np.random.Generator
) -> list[int]:
    """As many hospitals as are wanted: those behind their floor, then those that the policy takes of the others."""
    first = behind(known, round, wanted, floor)[:wanted]
    rest = {hospital: fact for hospital, fact in known.items() if hospital not in first}
    more = POLICIES[policy](rest, round, wanted - len(first), draw) if len(first) < wanted else []
    return sorted([*first, *more])
