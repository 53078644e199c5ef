"""Who leads a round: the proof of training quality, in integers, so that engine, audit and contract agree to the last unit.

After Lu et al. 2020, "Blockchain and Federated Learning for Privacy-Preserved Data Sharing in Industrial IoT" (IEEE Transactions on
Industrial Informatics 16(6)): whose model has the smallest mean absolute error, in its own eyes and in those of the others, leads.
Here a share is 10,000 * (1 - error), or of right predictions, of each class by itself (`committee.measure`), so that the largest leads.

    quality    the mean of the shares that a judge gave an update, over the classes that it has, rounded down
    received   the mean of the others' qualities of an update, rounded down
    claim      its own hospital's quality of it, moved to within `cap` of the lower median of the others'
    merit      own * claim + (100 - own) * received
    leader     of the updates that qualify, of which their hospitals claim something and that others scored: the one with the
               largest merit, of equals the lowest hospital

A claim counts for `own` per cent of `cap` above or below the others' median at most, and for nothing else. This orders hospitals: it is no agreement
protocol, and says nothing of what hospitals do that see different rounds.
"""

from collections.abc import Collection, Mapping

from engine.committee.verdicts import median
from engine.messages import Column


def quality(shares: tuple[int | None, ...]) -> int | None:
    """The mean over the classes that the judge has; None without any.

    >>> quality((9000, None, 5001)), quality((None,))
    (7000, None)
    """
    given = [share for share in shares if share is not None]
    return sum(given) // len(given) if given else None


def merit(columns: Mapping[int, Column], hospital: int, own: int, cap: int) -> int | None:
    """What an update was found to be, in parts of 1,000,000; None where its hospital claims nothing or nobody else scored it.

    >>> merit({0: {0: (10_000,)}, 1: {0: (6000,)}, 2: {0: (7000,)}}, 0, 50, 500)
    650000
    """
    found = {judge: quality(column[hospital]) for judge, column in columns.items()}
    claim = found.pop(hospital, None)
    received = [one for one in found.values() if one is not None]
    if claim is None or not received:
        return None
    middle = median(received)
    capped = min(max(claim, middle - cap), middle + cap)
    return own * capped + (100 - own) * (sum(received) // len(received))


def leader(columns: Mapping[int, Column], good: Collection[int], own: int, cap: int) -> int | None:
    """The hospital that leads; None where nobody does.

    Args:
        columns: by judge.
        good: hospitals whose updates qualify.
        own: per cent that a claim weighs; 0: nobody leads.
    """
    merits = {h: value for h in sorted(good) if own and (value := merit(columns, h, own, cap)) is not None}
    return max(merits, key=merits.__getitem__, default=None)  # of equals the first
