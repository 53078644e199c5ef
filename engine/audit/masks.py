"""What was said of masked sums, read and computed a second time from `engine/secure`, and to the last bit.

context      SHA-256("PulseLedger masks 1|context|", federation, round as 8 bytes, head before, group as 4 bytes)
groups       slots in the order of SHA-256("PulseLedger buckets 1", model before, round as 8, slot as 4 bytes), dealt out in turn
digest(l)    SHA-256("PulseLedger masks 1|", l, "|", context, parts), which step 0 to 3 sign in a MaskStep:
  keys       slot, channel key, mask key, seal, commitment
  shares     slot, all keys, for each of U1 its slot and the hashes of its two shares; "all keys": keys without signatures by slot
  masked     slot, all keys, number and slots of U2, SHA-256 of the masked update
  survivors  for each of U3 its slot and the SHA-256 of its masked update
  seal       slot, seed of the own mask;  "share|own", "share|pair": dealer, holder, share
secrets      Lagrange at 0 over the shares at slot + 1, modulo 2^256 - 189
stream(k)    ChaCha20 from zero, little-endian uint64; k = HKDF-SHA256, salt "PulseLedger masks 1|", info that, label "|", context
             of the own mask ("mask": the seed), of a pair ("pair mask": X25519)
sum          of what U3 sent, less the own streams, less the streams shared with U2 without U3, which the lower slot had added
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from engine.audit.evidence import Evidence
from engine.audit.records import read_object
from engine.audit.report import Reading, finding
from engine.encoding import unhexed

_LABEL = b"PulseLedger masks 1|"
_PRIME = 2**256 - 189
FIELDS = ("members", "threshold", "keys", "dealt", "masked", "agreed", "revealed")


class Keys(NamedTuple):
    """What a hospital advertised."""

    channel: bytes
    pair: bytes
    seal: bytes
    commitment: bytes
    signature: bytes


@dataclass(frozen=True)
class Said:
    """A row of the maskings, by slot; `dealt` by dealer and holder the hashes of both shares, `revealed` the shares by holder."""

    members: tuple[int, ...]
    threshold: int
    keys: Mapping[int, Keys]
    dealt: Mapping[int, tuple[Mapping[int, tuple[bytes, bytes]], bytes]]
    masked: Mapping[int, tuple[bytes, bytes]]
    agreed: Mapping[int, bytes]
    revealed: Mapping[int, tuple[Mapping[int, bytes], Mapping[int, bytes]]]
    text: str

    @property
    def gone(self) -> list[int]:
        """Who dealt shares and is not in the sum."""
        return sorted(self.dealt.keys() - self.masked.keys())


def read_said(text: Any) -> Said:
    """Read a row; raises ValueError."""
    found = read_object(text, *FIELDS)
    try:
        keys = _by_slot(found["keys"], 6)
        sizes = (32, 32, 32, 32, 65)
        advertised = {
            slot: Keys._make(_bytes(one, size) for one, size in zip(row, sizes, strict=True))
            for slot, row in keys.items()
        }
        dealt = {}
        for slot, (joined, signature) in _by_slot(found["dealt"], 3).items():
            parts = _parts(joined, 2 * len(advertised))
            pairs = zip(parts[::2], parts[1::2], strict=True)
            dealt[slot] = dict(zip(sorted(advertised), pairs, strict=True)), _bytes(signature, 65)
        masked = {s: (_bytes(row[0], 32), _bytes(row[1], 65)) for s, row in _by_slot(found["masked"], 3).items()}
        agreed = {s: _bytes(row[0], 65) for s, row in _by_slot(found["agreed"], 2).items()}
        gone = sorted(dealt.keys() - masked.keys())
        revealed = {
            slot: (
                dict(zip(sorted(masked), _parts(own, len(masked)), strict=True)),
                dict(zip(gone, _parts(pair, len(gone)), strict=True)),
            )
            for slot, (own, pair) in _by_slot(found["revealed"], 3).items()
        }
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError(f"not as it is written ({error})") from None
    members, threshold = found["members"], found["threshold"]
    if not isinstance(members, list) or not all(_is_slot(one) for one in members) or type(threshold) is not int:
        raise ValueError("members and threshold are no slots and no number")
    return Said(tuple(members), threshold, advertised, dealt, masked, agreed, revealed, text)


def read_maskings(evidence: Evidence, rounds: Mapping[int, Any]) -> Reading[dict[int, tuple[Said, ...]]]:
    """Read all rows, by round."""
    found: dict[int, dict[int, Said]] = {number: {} for number in rounds}
    for one in evidence.rows("maskings"):
        number, bucket = one["round"], one["bucket"]
        if type(number) is not int or number not in rounds or bucket != len(found[number]) or type(bucket) is not int:
            message = "what was said of a masked sum belongs to no recorded round, or is not the next one of its round"
            yield finding("masks", "round", "a recorded round", number, message)
            continue
        try:
            found[number][bucket] = read_said(one["said"])
        except ValueError as error:
            message = f"what was said of a masked sum is damaged: {error}"
            yield finding("masks", "said", "readable words", one["said"], message, round=number)
    return {number: tuple(rows.values()) for number, rows in found.items()}


def _is_slot(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 32


def _by_slot(rows: Any, size: int) -> dict[int, list[Any]]:
    if not isinstance(rows, list) or not all(isinstance(r, list) and len(r) == size and _is_slot(r[0]) for r in rows):
        raise ValueError(f"rows are no lists of a slot and {size - 1} values")
    found = {row[0]: row[1:] for row in rows}
    if len(found) != len(rows):
        raise ValueError("a slot stands twice")
    return found


def _bytes(text: Any, size: int) -> bytes:
    found = unhexed(text)
    if len(found) != size:
        raise ValueError(f"{len(found)} bytes, not {size}")
    return found


def _parts(text: Any, many: int) -> list[bytes]:
    raw = _bytes(text, 32 * many)
    return [raw[32 * i : 32 * i + 32] for i in range(many)]


# --- Digests ----------------------------------------------------------------------------------------------------------


def _four(*slots: int) -> bytes:
    return b"".join(slot.to_bytes(4, "big") for slot in slots)


def context_of(federation: bytes, number: int, head: bytes, group: int) -> bytes:
    """What all of a group is bound to."""
    return hashlib.sha256(_LABEL + b"context|" + federation + number.to_bytes(8, "big") + head + _four(group)).digest()


def drawn(model: bytes, number: int, slots: Iterable[int], groups: int) -> list[list[int]]:
    """The slots of each group."""
    lots = {
        hashlib.sha256(b"PulseLedger buckets 1" + model + number.to_bytes(8, "big") + _four(slot)).digest(): slot
        for slot in slots
    }
    order = [lots[lot] for lot in sorted(lots)]
    return [sorted(slot for i, slot in enumerate(order) if i % groups == group) for group in range(groups)]


def _digest(label: bytes, context: bytes, parts: Iterable[bytes]) -> bytes:
    return hashlib.sha256(_LABEL + label + b"|" + context + b"".join(parts)).digest()


def contents(said: Said, context: bytes) -> dict[int, dict[int, bytes]]:
    """Step -> slot -> what its hospital must have signed."""
    everybody = _digest(b"all keys", context, (_four(s) + b"".join(said.keys[s][:4]) for s in sorted(said.keys)))
    dealers = _four(len(said.dealt), *sorted(said.dealt))
    together = _digest(b"survivors", context, (_four(s) + said.masked[s][0] for s in sorted(said.masked)))
    return {
        0: {s: _digest(b"keys", context, [_four(s), *said.keys[s][:4]]) for s in said.keys},
        1: {
            s: _digest(
                b"shares", context, [_four(s), everybody, *(_four(to) + a + b for to, (a, b) in sorted(row.items()))]
            )
            for s, (row, _) in said.dealt.items()
        },
        2: {s: _digest(b"masked", context, [_four(s), everybody, dealers, row[0]]) for s, row in said.masked.items()},
        3: dict.fromkeys(said.agreed, together),
    }


def signatures(said: Said) -> dict[int, dict[int, bytes]]:
    """Step -> slot -> signature."""
    return {
        0: {s: one.signature for s, one in said.keys.items()},
        1: {s: one[1] for s, one in said.dealt.items()},
        2: {s: one[1] for s, one in said.masked.items()},
        3: dict(said.agreed),
    }


def share_hash(context: bytes, purpose: bytes, dealer: int, holder: int, share: bytes) -> bytes:
    """What a dealer signs of one share."""
    return _digest(b"share|" + purpose, context, [_four(dealer, holder), share])


def seal(context: bytes, slot: int, own: bytes) -> bytes:
    """What a hospital signs of the seed of its own mask."""
    return _digest(b"seal", context, [_four(slot), own])


# --- Secrets and sums -------------------------------------------------------------------------------------------------


def secret(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret behind the first `threshold` shares, by holder."""
    few = sorted(shares)[:threshold]
    total = 0
    for holder in few:
        above = below = 1
        for other in few:
            if other != holder:
                above, below = above * (other + 1) % _PRIME, below * (other - holder) % _PRIME
        total += int.from_bytes(shares[holder], "big") * above * pow(below, -1, _PRIME)
    return (total % _PRIME).to_bytes(32, "big")


def public(private: bytes) -> bytes:
    """The public half of an X25519 key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def own_stream(context: bytes, seed: bytes, size: int) -> np.ndarray:
    """The own mask of a hospital, uint64[size]."""
    return _stream(seed, b"mask", context, size)


def pair_stream(context: bytes, private: bytes, other: bytes, size: int) -> np.ndarray:
    """The mask that two hospitals share, uint64[size]; raises ValueError for a key that is none."""
    both = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(other))
    return _stream(both, b"pair mask", context, size)


def _stream(secret: bytes, label: bytes, context: bytes, size: int) -> np.ndarray:
    key = HKDF(hashes.SHA256(), 32, _LABEL, _LABEL + label + b"|" + context).derive(secret)
    return np.frombuffer(
        Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor().update(bytes(8 * size)), np.dtype("<u8")
    )


def total(
    said: Said, context: bytes, hidden: Mapping[int, np.ndarray], seeds: Mapping[int, bytes], pairs: Mapping[int, bytes]
) -> np.ndarray:
    """The sum beneath masked updates int64[size].

    Args:
        seeds: slot in the sum -> seed of its own mask.
        pairs: slot that dealt shares and is not in the sum -> its mask key.
    """
    size = len(next(iter(hidden.values())))
    found = np.zeros(size, np.uint64)
    for slot in said.masked:
        found = found + hidden[slot].astype(np.int64).view(np.uint64) - own_stream(context, seeds[slot], size)
        for gone, private in pairs.items():
            mask = pair_stream(context, private, said.keys[slot].pair, size)
            found = found - mask if slot < gone else found + mask
    return found.view(np.int64)


def digest_of(vector: np.ndarray) -> bytes:
    """SHA-256 of int64[size]."""
    return hashlib.sha256(np.ascontiguousarray(vector).astype("<i8").tobytes()).digest()


def commitments(groups: Sequence[Said]) -> dict[int, bytes]:
    """Slot -> the commitment that it advertised."""
    return {slot: one.commitment for said in groups for slot, one in said.keys.items()}
