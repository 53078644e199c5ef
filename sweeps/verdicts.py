"""What committees found of the hospitals' updates, in a sentence."""

from collections.abc import Sequence
from statistics import fmean

from engine.result import Result


def verdicts_of(results: Sequence[Result]) -> str:
    """How the updates of honest and hostile hospitals fared, in a sentence; "" where no committee judged.

    Returns:
        For example "qualified: 97 % of the updates of honest hospitals, 4 % of hostile ones".
    """
    good: dict[bool, list[bool]] = {False: [], True: []}
    for result in results:
        for row in result.rounds:
            for one in row.committee.verdicts if row.committee is not None else ():
                good[one.hospital in (result.hostile or ())].append(one.qualified)
    if not any(good.values()):
        return ""
    shares = [f"{100 * fmean(good[False]):.0f} % of the updates of honest hospitals"] if good[False] else []
    shares += [f"{100 * fmean(good[True]):.0f} % of hostile ones"] if good[True] else []
    return f"qualified: {', '.join(shares)}"
