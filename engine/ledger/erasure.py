"""Erasing what stands behind the commitments of an update, at its hospital's will and under its signature."""

from collections.abc import Callable
from pathlib import Path

from engine.errors import LedgerError
from engine.ledger.format import RUN
from engine.ledger.run import federation_of
from engine.ledger.signing import address, sign
from engine.ledger.store import Store
from engine.ledger.subjects.registry import KeyRotation
from engine.ledger.subjects.updates import Erasure
from engine.ledger.typed import Domain, record_from_json


def erase(folder: Path, round: int, slot: int, key: Callable[[bytes], bytes]) -> Erasure:
    """Erase the opening of a hospital's update from the journal of a run that has ended; returns what the hospital signed.

    The weight and the metrics of the update can then be told by nobody; signatures, tree and heads stay valid.

    Args:
        folder: the `ledger/` folder of the run. Its bundle must be written anew.
        key: gives the hospital's private key for the id of the federation.

    Raises:
        LedgerError: there is no such update, its opening was erased before, or the key is not the hospital's.
    """
    store = Store(folder, RUN)
    try:
        if not store.meta:
            raise LedgerError(f"there is no journal {store.path}")
        federation, _ = federation_of(store.meta, store.path)
        updates = store.rows("updates", round=round, slot=slot)
        if not updates:
            raise LedgerError(f"hospital {slot} has sent no update in round {round}")
        if not store.rows("openings", round=round, slot=slot):
            raise LedgerError(f"the opening of hospital {slot} in round {round} was erased before")
        holder = federation.hospitals[slot]
        for row in store.rows("rotations", slot=slot):
            holder = record_from_json(KeyRotation, row["record"]).to
        secret = key(federation.id)
        if address(secret) != holder:
            raise LedgerError(f"the key belongs to {address(secret)}, hospital {slot} signs with {holder}")
        record = Erasure(federation.id, round, slot, updates[0]["leaf"])
        signature = sign(record, record_from_json(Domain, store.meta["domain"]), secret)
        place = {"round": round, "slot": slot}
        store.replace("openings", place, {"erasures": [(round, slot, signature)]})
        return record
    finally:
        store.close()
