"""What committees found of the hospitals' updates, in a sentence."""

from collections.abc import Sequence
from statistics import fmean

from engine.result import Result


def verdicts_of(results: Sequence[Result]) -> str:
    """How the updates of honest and hostile hospitals fared, in a sentence; "" where no committee judged.

    Returns:
        For example "qualified: 97 % of the updates of honest hospitals, 4 % of hostile ones; hostile ones led 1 of 20 rounds".
    """
    led: list[bool] = []
    good: dict[bool, list[bool]] = {False: [], True: []}
    for result in results:
        for row in result.rounds:
            if row.committee is None:
                continue
            for one in row.committee.verdicts:
                good[one.hospital in (result.hostile or ())].append(one.qualified)
            if row.committee.leader is not None:
                led.append(row.committee.leader in (result.hostile or ()))
    if not any(good.values()):
        return ""
    shares = [f"{100 * fmean(good[False]):.0f} % of the updates of honest hospitals"] if good[False] else []
    shares += [f"{100 * fmean(good[True]):.0f} % of hostile ones"] if good[True] else []
    ends = f"; hostile ones led {sum(led)} of {len(led)} rounds" if led and good[True] else ""
    return f"qualified: {', '.join(shares)}{ends}"
