"""What follows from the scores of judges: integers only, so that engine, audit and contract agree to the last unit.

Committee consensus as in Li et al. 2020, "A Blockchain-based Decentralized Federated Learning Framework with Committee Consensus"
(arXiv 2004.00773), with scores of each class by itself: a good update of a hospital with a rare class scores low with judges that
do not have the class, and would be turned away by a plain mean.

    share      10,000 * right predictions // beats of the class at the judge; no share of a class that the judge has not. With the
               measure mae probabilities of the true class are added up in the place of right predictions
    of a class the lower median of the shares that the judges gave the update, its own hospital left out
    score      the mean over the classes of which anybody gave it a share, rounded down; 0 without any
    qualified  100 * score >= percent * best score, score > 0, and its hospital owes no scores

Fewer than half of a class's judges cannot move its median out of what the others gave. A class moves a score by its own part
only, so whoever alone has a class rules no verdict.
"""

from collections.abc import Mapping, Sequence

from engine.messages import Column, Vote

PARTS = 10_000


def column(judge: int, vote: Vote, hospitals: Sequence[int], claims: bool = False) -> dict[int, tuple[int | None, ...]]:
    """A judge's shares of each update; what it left out counts as nothing right.

    Args:
        claims: whether it scores its own update, too; see `quality`.

    Raises:
        ValueError: it says something that no validation part can give.

    >>> column(1, Vote((4, 0), {0: (3, 0)}), (0, 1, 2))
    {0: (7500, None), 1: (None, None), 2: (0, None)}
    """
    totals = vote.totals
    if (
        not totals
        or any(total < 0 for total in totals)
        or (judge in vote.correct and not claims)
        or not vote.correct.keys() <= {*hospitals}
    ):
        raise ValueError(f"judge {judge} scores what it cannot score")
    found: dict[int, tuple[int | None, ...]] = {}
    for hospital in hospitals:
        right = vote.correct.get(hospital, (0,) * len(totals))
        if len(right) != len(totals) or any(not 0 <= r <= t for r, t in zip(right, totals, strict=True)):
            raise ValueError(f"judge {judge} found more right predictions than beats")
        unscored = hospital == judge and not claims
        found[hospital] = tuple(
            PARTS * r // t if t and not unscored else None for r, t in zip(right, totals, strict=True)
        )
    return found


def median(values: Sequence[int]) -> int:
    """The lower of the two in the middle: one that somebody gave.

    >>> median([5, 1, 9, 7])
    5
    """
    return sorted(values)[(len(values) - 1) // 2]


def scores(columns: Mapping[int, Column], hospitals: Sequence[int]) -> dict[int, int]:
    """Score of each update, from what others than its hospital say.

    Args:
        columns: by judge.

    >>> scores({7: {0: (10_000, None), 1: (0, None)}, 8: {0: (5_000, 2_000), 1: (5_000, 9_000)}}, (0, 1))
    {0: 3500, 1: 4500}
    """
    found = {}
    for hospital in hospitals:
        by_class = zip(*(one[hospital] for judge, one in columns.items() if judge != hospital), strict=True)
        medians = [median(given) for shares in by_class if (given := [share for share in shares if share is not None])]
        found[hospital] = sum(medians) // len(medians) if medians else 0
    return found


def qualified(scores: Mapping[int, int], percent: int, absent: Sequence[int] = ()) -> frozenset[int]:
    """The hospitals whose updates qualify; `absent` are judges that gave no scores.

    >>> sorted(qualified({0: 9000, 1: 4500, 2: 4499, 3: 0}, 50))
    [0, 1]
    """
    best = max(scores.values(), default=0)
    return frozenset(h for h, s in scores.items() if s > 0 and 100 * s >= percent * best and h not in absent)
