"""Who judge a round's updates: nobody, or the hospitals of the round each other."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import HospitalError
from engine.messages import Asked, Judged, Pool, Taken


def nobody(asked: Asked, taken: Taken) -> Judged:
    """No verdicts."""
    return Judged({})


@dataclass(frozen=True)
class Peers:
    """Each hospital of a round scores the models that the others' updates make, on its own validation part.

    Attributes:
        judges: ids of the hospitals that have validation beats.
    """

    pool: Pool
    judges: Sequence[int]

    def __call__(self, asked: Asked, taken: Taken) -> Judged:
        """As the protocol says; a judge that fails gives no verdict."""
        present = [update.hospital for update in taken.updates]
        judges = [hospital for hospital in present if hospital in self.judges and len(present) > 1]
        opinions = dict(zip(judges, self.pool.judge(asked, taken.updates, judges), strict=True)) if judges else {}
        given = {judge: one for judge, one in opinions.items() if not isinstance(one, HospitalError)}
        verdicts = {
            hospital: {judge: one.scores[hospital] for judge, one in given.items() if hospital in one.scores}
            for hospital in present
        }
        return Judged(verdicts, {judge: one.signature for judge, one in given.items()})
