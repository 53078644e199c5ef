"""Who judge a round's updates: nobody, or the hospitals of the round each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import HospitalError
from engine.messages import Asked, Pool, Taken, Verdicts


def nobody(asked: Asked, taken: Taken) -> Verdicts:
    """No verdicts."""
    return {}


@dataclass(frozen=True)
class Peers:
    """Each hospital of a round scores the models that the others' updates make, on its own validation part.

    Attributes:
        judges: ids of the hospitals that have validation beats.
    """

    pool: Pool
    judges: Sequence[int]

    def __call__(self, asked: Asked, taken: Taken) -> Verdicts:
        """As the protocol says; a judge that fails gives no verdict."""
        found = {}
        for update in taken.updates:
            judges = [u.hospital for u in taken.updates if u.hospital != update.hospital and u.hospital in self.judges]
            assert update.vector is not None
            tables = self.pool.validate(asked.round, asked.params + update.vector, judges) if judges else []
            found[update.hospital] = {
                hospital: (int(np.trace(table)), int(table.sum()))
                for hospital, table in zip(judges, tables, strict=True)
                if not isinstance(table, HospitalError)
            }
        return found
