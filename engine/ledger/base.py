"""The ledger as a part of the loop, and the one that keeps nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from engine.messages import Asked, Ending, Global, RoundRecord, Update

if TYPE_CHECKING:
    from engine.ledger.desk import Desk

Again = Callable[[int, Global, Sequence[Update], np.ndarray | None], Global]  # see `Rule.again`


class LoopLedger(Protocol):
    """What the loop and its assembly ask of a ledger. It may not change a single bit of the training.

    Attributes:
        signing: what hospitals need to sign; None where nobody signs.
        organisations: of the hospitals, by id.
        wants_vectors: whether single updates must leave their hosts.
        open_seconds: that opening took.
        seconds: that the loop waited for the ledger.
    """

    signing: Any
    organisations: tuple[bytes, ...]
    wants_vectors: bool
    open_seconds: float
    seconds: float

    def desk(self, federation: bytes) -> "Desk":
        """Where requests for synthetic beats are decided; `federation` is the id of the run's."""
        ...

    def name(self, params: np.ndarray) -> bytes:
        """The name of a model, float32[parameters]."""
        ...

    def notice(self, asked: Asked) -> Any:
        """What the hospitals that are asked must know of the ledger before they work."""
        ...

    def received(self, round: int, updates: Sequence[Update]) -> None:
        """The updates of a round are there; works on them beside what follows."""
        ...

    def round_finished(self, record: RoundRecord) -> None:
        """A round is over."""
        ...

    def pending(self) -> list[Any]:
        """Rounds, as JSON values, that are not yet confirmed; they go into the checkpoint."""
        ...

    def replay(self, pending: list[Any], rounds: int, again: Again) -> None:
        """Takes up the rounds of a checkpoint that holds `rounds`; `again` computes the model of one anew."""
        ...

    def summary(self) -> dict[str, Any]:
        """What is held so far, for `result.json`."""
        ...

    def finish(self) -> None:
        """Waits until the last round is sealed."""
        ...

    def close(self, signed: Mapping[int, Any], ending: Ending) -> dict[str, Any]:
        """Keeps what hospitals signed at the end, by id, closes over it and ends; returns the summary."""
        ...

    def leave(self) -> None:
        """Lets go of a run that may go on later."""
        ...

    def abandon(self) -> None:
        """Lets go after something else failed."""
        ...

    def bundle(self, result: Mapping[str, Any], config: str) -> None:
        """Writes everything that an audit needs into one file. The ledger is closed."""
        ...


class NoLedger:
    """Nothing is kept: nobody signs, models have no name."""

    signing = None
    organisations: tuple[bytes, ...] = ()
    wants_vectors = False
    open_seconds = 0.0
    seconds = 0.0

    def desk(self, federation: bytes) -> "Desk":
        from engine.ledger.desk import Desk, unanchored

        return Desk(unanchored(federation))

    def name(self, params: np.ndarray) -> bytes:
        return b""

    def notice(self, asked: Asked) -> None:
        return None

    def received(self, round: int, updates: Sequence[Update]) -> None:
        pass

    def round_finished(self, record: RoundRecord) -> None:
        pass

    def pending(self) -> list[Any]:
        return []

    def replay(self, pending: list[Any], rounds: int, again: Again) -> None:
        pass

    def summary(self) -> dict[str, Any]:
        return {"backend": "none"}

    def finish(self) -> None:
        pass

    def close(self, signed: Mapping[int, Any], ending: Ending) -> dict[str, Any]:
        return self.summary()

    def leave(self) -> None:
        pass

    def abandon(self) -> None:
        pass

    def bundle(self, result: Mapping[str, Any], config: str) -> None:
        pass


NO_LEDGER = NoLedger()
