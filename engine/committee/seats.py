"""Who sits in the committee of a round: pure functions of the model that the round starts from and of the verdicts before.

Lots come from the model, which the head of the round before commits to, and not from the head itself: a head depends on the
contract's address and on keys, and a ledger may not change what is trained. The last to know a round's updates, its
coordinator, might try several and so choose lots: a committee on a chain of one coordinator is no Byzantine agreement.
"""

import hashlib
from collections.abc import Mapping, Sequence

from engine.result import CommitteeRow


def lot(model: bytes, round: int, hospital: int) -> bytes:
    """A hospital's lot: SHA-256 of the model's name, the round (8 bytes) and the hospital (4 bytes)."""
    return hashlib.sha256(
        b"PulseLedger committee 1" + model + round.to_bytes(8, "big") + hospital.to_bytes(4, "big")
    ).digest()


def seated(
    model: bytes, round: int, candidates: Sequence[int], size: int, election: str, before: CommitteeRow | None
) -> tuple[int, ...]:
    """The committee of a round, ascending.

    First come hospitals whose updates qualified in the round before, then the others that trained or did not take part, then
    those that have just sat, last those that owed scores: nobody sits twice in a row while others can. Among equals the
    smallest lot, or with election "score" the best score and then the smallest lot.

    Args:
        model: name of the model that the round starts from.
        candidates: hospitals that train and have validation beats.
        before: what the committee of the round before said; None without one.
    """
    scores: Mapping[int, int] = {}
    ranks: dict[int, int] = {}
    if before is not None:
        scores = {one.hospital: one.score for one in before.verdicts}
        ranks = dict.fromkeys(before.judges, 2) | dict.fromkeys(before.absent, 3)
        ranks |= {one.hospital: 0 for one in before.verdicts if one.qualified}

    def place(hospital: int) -> tuple[int, int, bytes]:
        best = -scores.get(hospital, 0) if election == "score" else 0
        return ranks.get(hospital, 1), best, lot(model, round, hospital)

    return tuple(sorted(sorted(candidates, key=place)[:size]))
