"""The ledger as an observer of the loop: hands signed rounds to the ledger in the background, keeps the vectors."""

import time
from pathlib import Path
from typing import Any

from engine.background import Answer, Background
from engine.config import LedgerConfig
from engine.errors import LedgerError
from engine.ledger import archive
from engine.ledger.ledger import Ledger
from engine.ledger.records import Domain, Federation, RoundEntry, SignedUpdate, record_from_json, record_to_json


class LedgerObserver:
    """Observer of one run. A round waits for hashing and signing; tree, journal and chain go on beside the training.

    Attributes:
        domain: chain and contract that the hospitals sign for.
        seconds: time that the loop waited for this observer.
    """

    def __init__(self, folder: Path, federation: Federation, config: LedgerConfig, actor: bool) -> None:
        """Opens or creates the ledger in `folder`.

        Raises:
            LedgerError: the node is unreachable, or journal, chain and this run contradict each other.
        """
        started = time.perf_counter()
        self._folder = folder
        settings = (config.backend, config.url, config.chain_id, config.contract, config.key_file)
        self._ledger = Background(Ledger, folder, federation, *settings, actor=actor)
        try:
            opened = self._ledger.submit("summary").result()
        except BaseException:
            self._ledger.abandon()
            raise
        self.domain = Domain(opened["chain_id"], opened["contract"])
        self._open: list[tuple[RoundEntry, Answer]] = []
        self.open_seconds = time.perf_counter() - started
        self.seconds = 0.0

    def round_finished(self, record: Any) -> None:
        """Archives the updates and submits the round; raises what the ledger refused of an earlier one."""
        started = time.perf_counter()
        archive.write_round(self._folder, record.round, {u.hospital: u.vector for u in record.updates})
        signed = tuple(u.signed for u in record.updates)
        self._submit(RoundEntry(record.round, record.parent, record.model, signed))
        self.seconds += time.perf_counter() - started

    def pending(self) -> list[Any]:
        """The rounds, as JSON values, that the ledger has not confirmed; they go into the checkpoint."""
        self._collect()
        return [_to_json(entry) for entry, _ in self._open]

    def replay(self, pending: list[Any]) -> None:
        """Submits the rounds of a checkpoint again; what the ledger already holds it confirms."""
        for value in pending:
            self._submit(_from_json(value))

    def summary(self) -> dict[str, Any]:
        """What the ledger holds, once it has confirmed the last round."""
        started = time.perf_counter()
        for _, answer in self._open:
            answer.result()
        self._open = []
        summary = self._ledger.submit("summary").result()
        self.seconds += time.perf_counter() - started
        return summary

    def close(self) -> None:
        """Waits for everything submitted and lets go."""
        self._ledger.close()

    def abandon(self) -> None:
        """Lets go without waiting for a good end, after something else failed."""
        self._ledger.abandon()

    def _submit(self, entry: RoundEntry) -> None:
        self._collect()
        self._open.append((entry, self._ledger.submit("append", entry)))

    def _collect(self) -> None:
        while self._open and self._open[0][1].done():
            self._open.pop(0)[1].result()


def _to_json(entry: RoundEntry) -> dict[str, Any]:
    updates = [[record_to_json(signed.record), signed.signature.hex()] for signed in entry.updates]
    return {"round": entry.round, "parent": entry.parent_model.hex(), "model": entry.model.hex(), "updates": updates}


def _from_json(value: Any) -> RoundEntry:
    try:
        updates = tuple(SignedUpdate(record_from_json(r), bytes.fromhex(s)) for r, s in value["updates"])
        return RoundEntry(value["round"], bytes.fromhex(value["parent"]), bytes.fromhex(value["model"]), updates)
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(f"the checkpoint's ledger entries are damaged ({error}).") from None
