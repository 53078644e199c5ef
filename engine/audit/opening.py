"""The arbiter's check of an opening: whether what a hospital shows is what it signed, and what remains hidden of the others.

    1  the numbers give the commitment that it signed as its update
    2  the secrets are those whose public halves it signed
    3  numbers and masks give the masked update that it signed
    4  the weight behind the numbers is that of its commitment to the number of samples
    5  no entry reaches beyond a bound, where one is given

of chunks: the head of the round has drawn them, and each leads to the commitment; then 5. Any contradiction is fraud, by the
hospital's own signatures. That the update comes from training nobody can see.
"""

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from engine.audit import masks, rules, secure, spec
from engine.audit.case import Case
from engine.audit.masks import Said
from engine.encoding import unhexed
from engine.errors import LedgerError

CHUNK = 1024  # numbers
_EMPTY = hashlib.sha256(b"\x02PulseLedger empty chunk").digest()
_FIELDS = {
    "whole": {"version", "kind", "update", "salt", "own", "pair"},
    "chunks": {"version", "kind", "size", "chunks"},
}


@dataclass(frozen=True)
class Judgement:
    """What an opening comes to.

    Attributes:
        reasons: contradictions, in sentences; () where the hospital is innocent.
        unopened: hospitals of the sum whose updates nobody was shown; from two on they hide each other.
        largest: absolute entry that was opened, of the update times its weight.
        opened, chunks: of the update, and how many it has.
    """

    reasons: tuple[str, ...]
    unopened: int
    largest: float
    opened: int
    chunks: int

    @property
    def fraud(self) -> bool:
        """Whether the opening contradicts what the hospital signed."""
        return bool(self.reasons)

    def escapes(self, bad: int) -> float:
        """The chance that none of so many bad chunks was drawn."""
        return comb(self.chunks - bad, self.opened) / comb(self.chunks, self.opened) if self.chunks >= bad else 0.0


def judge(case: Case, number: int, slot: int, document: Any, bound: float | None = None, others: int = 0) -> Judgement:
    """Check an opening.

    Args:
        document: as `pulseledger ledger open` writes it.
        bound: largest entry that is allowed.
        others: hospitals of the same sum that have opened their updates before.

    Raises:
        LedgerError: the round has no masked update of this hospital, or the document is none.
    """
    entry = case.rounds.get(number)
    place = [
        (i, said) for i, said in enumerate(entry.maskings if entry else ()) if slot in said.masked and slot in said.keys
    ]
    if not place:
        raise LedgerError(f"round {number} holds no masked update of hospital {slot}")
    group, said = place[0]
    context = secure.context_of(case, number, group)
    kind = document.get("kind") if isinstance(document, Mapping) else None
    if kind not in _FIELDS or set(document) != _FIELDS[kind] or document["version"] != 1:
        raise LedgerError("this is no opening of a masked update, of this version")
    try:
        if kind == "whole":
            numbers = np.frombuffer(unhexed(document["update"]), "<i8").astype(np.int64)
            if not len(numbers):
                raise ValueError("no numbers")
            reasons = [*_of_whole(case, number, slot, said, context, numbers, document)]
            opened = chunks = -(-len(numbers) // CHUNK)
        else:
            numbers, opened, chunks, reasons = _of_chunks(case, number, slot, said, context, document)
    except (ValueError, TypeError, KeyError) as error:
        raise LedgerError(f"this is no opening of a masked update ({error})") from None
    largest = float(np.abs(numbers[: len(numbers) - (kind == "whole")].astype(np.float64)).max(initial=0.0)) / 2.0**36
    if bound is not None and largest > bound:
        reasons.append(f"an entry of the weighted update reaches {largest:.6g}, beyond the bound of {bound:g}")
    left = len(said.masked) - others - (kind == "whole")
    return Judgement(tuple(reasons), left, largest, opened, chunks)


def _of_whole(
    case: Case, number: int, slot: int, said: Said, context: bytes, numbers: np.ndarray, document: Mapping[str, Any]
) -> Iterator[str]:
    salt, own, pair = (unhexed(document[name]) for name in ("salt", "own", "pair"))
    if {len(salt), len(own), len(pair)} != {32}:
        raise ValueError("salt and secrets have 32 bytes")
    root = _root([_leaf(_chunk_salt(salt, i), i, piece) for i, piece in enumerate(_pieces(numbers))])
    if _commitment(context, slot, len(numbers), root) != said.keys[slot].commitment:
        yield "the update that is shown is not the one that was committed to"
    if masks.public(pair) != said.keys[slot].pair or masks.seal(context, slot, own) != said.keys[slot].seal:
        yield "the secrets that are shown are not those that were signed"
        return
    hidden = numbers.view(np.uint64) + masks.own_stream(context, own, len(numbers))
    for other in said.dealt:
        if other != slot:
            mask = masks.pair_stream(context, pair, said.keys[other].pair, len(numbers))
            hidden = hidden + mask if slot < other else hidden - mask
    if masks.digest_of(hidden.view(np.int64)) != said.masked[slot][0]:
        yield "the update and its masks do not give the masked update that was sent"
    opening = case.rounds[number].updates[slot].opening if slot in case.rounds[number].updates else None
    if opening is not None:
        weight = rules.weight(case.rule.weighting, rules.Weighted(opening.samples, numbers))
        if int(numbers[-1]) != weight:
            yield f"the update weighs {int(numbers[-1])}, the hospital committed to {weight}"


def _of_chunks(
    case: Case, number: int, slot: int, said: Said, context: bytes, document: Mapping[str, Any]
) -> tuple[np.ndarray, int, int, list[str]]:
    size, rows = document["size"], document["chunks"]
    chunks = -(-size // CHUNK) if type(size) is int and 0 < size < 2**32 else 0
    if not isinstance(rows, list) or not 0 < len(rows) <= chunks:
        raise ValueError("no chunks")
    head, reasons, found = case.head(number), [], []
    lots = {hashlib.sha256(b"PulseLedger chunks 1" + head + slot.to_bytes(4, "big") + i.to_bytes(4, "big")).digest(): i for i in range(chunks)}  # fmt: skip
    drawn = sorted(lots[lot] for lot in sorted(lots)[: len(rows)])
    if [row["position"] for row in rows] != drawn:
        reasons.append("the chunks that are shown are not those that the head of the round draws")
    for row in rows:
        piece, position = unhexed(row["numbers"]), int(row["position"])
        node = _leaf(unhexed(row["salt"]), position, piece)
        for depth, sibling in enumerate(row["siblings"]):
            other = unhexed(sibling)
            node = hashlib.sha256(b"\x01" + (other + node if position >> depth & 1 else node + other)).digest()
        right = 1 << len(row["siblings"]) == 1 << (chunks - 1).bit_length()
        if not right or _commitment(context, slot, size, node) != said.keys[slot].commitment:
            reasons.append(f"chunk {position} does not lead to what was committed to")
        values = np.frombuffer(piece, "<i8").astype(np.int64)
        found.append(values[:-1] if position == chunks - 1 else values)  # the last number is the weight
    return np.concatenate(found), len(rows), chunks, reasons


def _pieces(numbers: np.ndarray) -> list[bytes]:
    raw = numbers.astype("<i8").tobytes()
    return [raw[i : i + 8 * CHUNK] for i in range(0, len(raw), 8 * CHUNK)]


def _chunk_salt(salt: bytes, position: int) -> bytes:
    return hmac.new(salt, b"chunk" + position.to_bytes(4, "big"), hashlib.sha256).digest()


def _leaf(salt: bytes, position: int, piece: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + salt + position.to_bytes(4, "big") + piece).digest()


def _root(leaves: list[bytes]) -> bytes:
    level = leaves + [_EMPTY] * ((1 << (len(leaves) - 1).bit_length()) - len(leaves))
    while len(level) > 1:
        level = [hashlib.sha256(b"\x01" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=True)]
    return level[0]


def _commitment(context: bytes, slot: int, size: int, root: bytes) -> bytes:
    place = slot.to_bytes(4, "big") + size.to_bytes(8, "big")
    return spec.sha256(b"PulseLedger masked update 1|" + context + place + root)
