"""Openings of masked updates: what a hospital shows an arbiter, all of its update or chunks that nobody chose.

All of it follows from what the hospital has sent and from its secrets: nothing of the training is needed any more.
"""

import hashlib
from typing import Any

import numpy as np

from engine.encoding import hexed
from engine.errors import MaskError
from engine.secure import masks, protocol
from engine.secure.protocol import Own, Transcript

VERSION = 1


def unmasked(own: Own, said: Transcript, hidden: np.ndarray) -> np.ndarray:
    """A hospital's own update int64[size] beneath what it has sent.

    Raises:
        MaskError: this hospital's secrets are not those of the round.
    """
    secrets = protocol.secrets_of(own)
    found = hidden.view(np.uint64).copy()
    masks.shift(found, protocol.mask_key(own.terms, secrets.own), adds=False)
    for slot in said.dealt:
        if slot != own.slot:
            key = protocol.pair_key(own.terms, secrets.pair, said.keys[slot].pair)
            masks.shift(found, key, adds=own.slot > slot)
    numbers = found.view(np.int64)
    salt = protocol.salt_of(own.seed, own.terms.context)
    if masks.committed(own.terms.context, own.slot, numbers, salt) != own.commitment:
        raise MaskError(
            f"the secrets of hospital {own.slot} do not lift the masks of its update; its key or its file in secure/ is another"
        )
    return numbers


def drawn_chunks(head: bytes, slot: int, chunks: int, many: int) -> list[int]:
    """Positions of the chunks to open: the first by SHA-256 of the round's head, the slot and the position."""

    def lot(position: int) -> bytes:
        place = slot.to_bytes(4, "big") + position.to_bytes(4, "big")
        return hashlib.sha256(b"PulseLedger chunks 1" + head + place).digest()

    return sorted(sorted(range(chunks), key=lot)[:many])


def whole(own: Own, said: Transcript, hidden: np.ndarray) -> dict[str, Any]:
    """The opening of all of an update, as plain JSON values."""
    numbers, secrets = unmasked(own, said, hidden), protocol.secrets_of(own)
    return {
        "version": VERSION,
        "kind": "whole",
        "update": hexed(numbers.astype("<i8").tobytes()),
        "salt": hexed(protocol.salt_of(own.seed, own.terms.context)),
        "own": hexed(secrets.own),
        "pair": hexed(secrets.pair),
    }


def some(own: Own, said: Transcript, hidden: np.ndarray, head: bytes, many: int) -> dict[str, Any]:
    """The opening of so many chunks that the head of the round draws, as plain JSON values."""
    numbers, salt = unmasked(own, said, hidden), protocol.salt_of(own.seed, own.terms.context)
    pieces, tree = masks.chunks(numbers), masks.tree(masks.leaves(numbers, salt))
    rows = [
        {
            "position": position,
            "salt": hexed(masks.chunk_salt(salt, position)),
            "numbers": hexed(pieces[position]),
            "siblings": [hexed(level[(position >> depth) ^ 1]) for depth, level in enumerate(tree[:-1])],
        }
        for position in drawn_chunks(head, own.slot, len(pieces), many)
    ]
    return {"version": VERSION, "kind": "chunks", "size": len(numbers), "chunks": rows}
