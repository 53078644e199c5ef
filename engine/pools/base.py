"""What a pool is: all hospitals of one run behind one interface."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from engine.errors import HospitalError
from engine.hospital import Outcome, Update
from engine.ledger.keys import Notice


class Trained(NamedTuple):
    """A round's local work.

    Attributes:
        answers: an update or a failure for each hospital that was asked, in the order of the ids.
        summed: int64[parameters], the weighted updates added up in fixed point (see `engine/aggregation/mean.py`).
    """

    answers: Sequence[Update | HospitalError]
    summed: np.ndarray


class HospitalPool(Protocol):
    """All hospitals of one run. Answers come in the order of the ids that were asked for.

    A hospital that fails is answered by its HospitalError in place of a result; the caller decides what that means.

    Attributes:
        width: hospitals that work at the same time, at most.
    """

    width: int

    def train(self, round: int, params: np.ndarray, notice: Notice | None, ids: Sequence[int]) -> Trained:
        """One round of local work; `notice` is what the coordinator says of the ledger."""
        ...

    def validate(self, round: int, params: np.ndarray, ids: Sequence[int]) -> list[np.ndarray | HospitalError]:
        """Confusion matrices on the validation parts, int64[classes, classes] each."""
        ...

    def finish(self, round: int, params: np.ndarray, ids: Sequence[int]) -> list[Outcome | HospitalError]:
        """Personalisation and test."""
        ...

    def sign_head(self, round: int, notice: Notice, ids: Sequence[int]) -> list[bytes | HospitalError]:
        """Signatures under the head after the last round."""
        ...

    def restore(self, states: dict[int, dict[str, np.ndarray]]) -> None:
        """Gives hospitals the private states of a checkpoint."""
        ...

    def close(self) -> None:
        """Lets go of processes."""
        ...
