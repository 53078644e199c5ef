"""Models and updates of a run as blocks that are named by their content: put somewhere, looked for, brought back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.encoding import hexed, read_json, unhexed
from engine.errors import LedgerError
from engine.ledger import archive
from engine.ledger.blobs import Lost, block_of, cid, store_at, vector_in
from engine.ledger.format import GENESIS, RUN, tensor_name, vectors_name
from engine.ledger.run import federation_of
from engine.ledger.store import read_meta, read_only, table_rows
from engine.model import Layout

BLOBS = "blobs"  # in a run's folder, where no other place is named


class Block(NamedTuple):
    """What a block is: round 0 and slot -1 for the model before round 1; its name, 32 bytes."""

    round: int
    slot: int
    digest: bytes

    @property
    def tensor(self) -> str:
        """Its name in the archive."""
        return GENESIS if self.round == 0 else tensor_name(self.slot)


def blocks(folder: Path) -> tuple[list[Block], Layout]:
    """All that the journal of a run names, in its order, and the layout of the model.

    Raises:
        LedgerError: there is no journal, or it is damaged.
    """
    path = folder / "ledger" / RUN.file
    with read_only(path) as journal:
        federation, _ = federation_of(read_meta(journal, RUN, path), path)
        updates = [dict(row) for row in table_rows(journal, "updates", RUN.tables["updates"])]
        maskings = [dict(row) for row in table_rows(journal, "maskings", RUN.tables["maskings"])]
    try:
        masked = {
            (row["round"], slot): unhexed(digest)
            for row in maskings
            for slot, digest, _ in read_json(row["said"])["masked"]
        }
        named = [
            Block(
                row["round"],
                row["slot"],
                masked.get((row["round"], row["slot"])) or unhexed(read_json(row["record"])["update"]),
            )
            for row in updates
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{path}: is damaged ({error})") from None
    return [Block(0, -1, federation.genesis_model), *named], federation.layout


def put(folder: Path, place: str | None) -> dict[str, Any]:
    """Puts all blocks of a run into a store.

    Raises:
        LedgerError: one of the archive is missing or is not what was signed, or the store takes none.
    """
    named, layout = blocks(folder)
    store, known = store_at(place or str(folder / BLOBS)), dict[int, dict[str, np.ndarray]]()
    size = 0
    for one in named:
        tensors = known.setdefault(one.round, {}) or archive.read(folder / "ledger", one.round)
        known = {one.round: tensors}  # of one round at a time
        if one.tensor not in tensors:
            raise LedgerError(f"{folder / 'ledger' / vectors_name(one.round)}: holds no {one.tensor}")
        data = block_of(tensors[one.tensor], layout)
        name = cid(one.digest)
        if store.put(data) != name:
            raise LedgerError(
                f"{folder / 'ledger' / vectors_name(one.round)}: {one.tensor} is not {name}, which was signed"
            )
        size += len(data)
    return {"blocks": len(named), "bytes": size, "place": place or str(folder / BLOBS)}


def check(folder: Path, place: str | None) -> dict[str, Any]:
    """Looks for all blocks of a run in a store: which are lost, which are damaged."""
    named, _ = blocks(folder)
    found: dict[str, list[dict[str, Any]]] = {"lost": [], "damaged": []}
    for one, kind in _looked(named, place or str(folder / BLOBS)):
        found[kind].append(
            {"round": one.round, "hospital": one.slot, "cid": cid(one.digest), "name": hexed(one.digest)}
        )
    return {"blocks": len(named), **found, "place": place or str(folder / BLOBS)}


def _looked(named: list[Block], place: str) -> Iterator[tuple[Block, str]]:
    store = store_at(place)
    for one in named:
        try:
            store.get(cid(one.digest))
        except Lost:
            yield one, "lost"
        except LedgerError as error:
            if "damaged" not in str(error) and "larger" not in str(error):
                raise
            yield one, "damaged"


def get(folder: Path, place: str | None) -> dict[str, Any]:
    """Brings back the rounds whose archive is not there.

    Raises:
        LedgerError: a block is lost or damaged.
    """
    named, layout = blocks(folder)
    store, rounds = store_at(place or str(folder / BLOBS)), []
    for number in sorted({one.round for one in named}):
        if (folder / "ledger" / vectors_name(number)).exists():
            continue
        vectors = {one.slot: vector_in(store.get(cid(one.digest)), layout) for one in named if one.round == number}
        if number == 0:
            archive.write_genesis(folder / "ledger", vectors[-1])
        else:
            archive.write_round(folder / "ledger", number, vectors)
        rounds.append(number)
    return {"rounds": rounds, "place": place or str(folder / BLOBS)}
