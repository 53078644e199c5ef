"""Masked sums: what hospitals sign in each step of a round, and what is written down of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from engine.encoding import json_hash
from engine.errors import LedgerError, MaskError
from engine.ledger.book import Book
from engine.ledger.format import MASKS, ZERO
from engine.ledger.signing import recover_digest, sign
from engine.ledger.typed import U8, U32, U64, Bytes32, Domain, Record, digest


@dataclass(frozen=True)
class MaskStep(Record):
    """What a hospital says in one step of the masked sums of a round; `content` is the digest of that, see `engine/secure`."""

    federation: Bytes32
    round: U64
    slot: U32
    parent_head: Bytes32
    step: U8
    content: Bytes32


@dataclass(frozen=True)
class StepVoice:
    """Signs steps with a hospital's key, and checks those of all.

    Attributes:
        head: of the round before.
        holders: for each slot the accounts that may sign for it.
        slot, key: of the hospital that speaks; a coordinator has none.
    """

    domain: Domain
    federation: bytes
    round: int
    head: bytes
    holders: Sequence[Sequence[str]]
    slot: int = 0
    key: bytes = b""

    def sign(self, step: int, content: bytes) -> bytes:
        return sign(self._record(self.slot, step, content), self.domain, self.key)

    def check(self, slot: int, step: int, content: bytes, signature: bytes) -> None:
        try:
            signer = _recovered(digest(self._record(slot, step, content), self.domain), signature)
        except LedgerError as error:
            raise MaskError(f"hospital {slot}, step {step} of masked sums: {error}") from None
        if slot >= len(self.holders) or signer not in self.holders[slot]:
            raise MaskError(
                f"hospital {slot} has not signed what it is said to have said in step {step} of masked sums"
            )

    def _record(self, slot: int, step: int, content: bytes) -> MaskStep:
        return MaskStep(self.federation, self.round, slot, self.head, step, content)


@lru_cache(maxsize=4096)  # hospitals of one process are shown the same signatures
def _recovered(digest: bytes, signature: bytes) -> str:
    return recover_digest(digest, signature)


def masks_digest(texts: Sequence[str]) -> bytes:
    """Digest of what was said in all groups of a round, as its annex names it; ZERO without any."""
    return json_hash(list(texts)) if texts else ZERO


def require_masks(round: int, texts: Sequence[str], named: Mapping[str, bytes]) -> None:
    """
    Raises:
        LedgerError: what is shown of the masked sums of a round is not what its head commits to.
    """
    if masks_digest(texts) != named.get(MASKS, ZERO):
        raise LedgerError(f"round {round}: what is shown of its masked sums is not what the head commits to")


def maskings(book: Book, round: int) -> tuple[str, ...]:
    """What is written down of the masked sums of a round, a text for each group."""
    return tuple(row["said"] for row in sorted(book.store.rows("maskings", round=round), key=lambda row: row["bucket"]))
