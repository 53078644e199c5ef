"""Masks: streams of 64-bit numbers from keys that two hospitals agree on, and what a hospital commits to beneath them.

Sums run in integers modulo 2^64 (`engine/aggregation/mean.py`), where a mask hides a number perfectly and cancels to the bit.

    agreed      X25519 of two hospitals' keys, then HKDF-SHA256 with a label of its purpose
    stream      ChaCha20 from nonce 0 under a key of its own, read as little-endian uint64
    commitment  SHA-256 over context, slot and the root of a tree over salted chunks of the update
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

CHUNK = 1024  # numbers in a chunk of the commitment
_LABEL = b"PulseLedger masks 1|"
_BLOCK = 2048  # numbers
_ZEROS = bytes(8 * _BLOCK)
_EMPTY = hashlib.sha256(b"\x02PulseLedger empty chunk").digest()


def derived(secret: bytes, purpose: bytes, context: bytes, size: int = 32) -> bytes:
    """HKDF-SHA256 (RFC 5869) of a secret, for one purpose in one context."""
    key = hmac.digest(_LABEL, secret, "sha256")
    found, block = b"", b""
    for counter in range(1, -(-size // 32) + 1):
        block = hmac.digest(key, block + _LABEL + purpose + b"|" + context + bytes([counter]), "sha256")
        found += block
    return found[:size]


def public(private: bytes) -> bytes:
    """The public half of an X25519 key, 32 bytes."""
    return _private(private).public_key().public_bytes_raw()


@lru_cache(maxsize=1024)  # a channel is used in three steps of a round
def agreed(private: bytes, other: bytes) -> bytes:
    """What the holders of two X25519 keys both know, 32 bytes.

    Raises:
        ValueError: the other key is none that gives a secret.
    """
    return _private(private).exchange(X25519PublicKey.from_public_bytes(other))


@lru_cache(maxsize=64)  # making one costs as much as using it
def _private(private: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(private)


def masked(numbers: np.ndarray, slot: int, own: bytes, pairs: Mapping[int, bytes]) -> np.ndarray:
    """Numbers under the hospital's own mask and those that it shares with others, int64[size].

    Args:
        own: key of its own stream.
        pairs: other hospital -> key of their stream, which the lower slot adds and the higher one takes away.
    """
    found = numbers.view(np.uint64).copy()
    shift(found, own, adds=True)
    for other, key in pairs.items():
        shift(found, key, slot < other)
    return found.view(np.int64)


def shift(numbers: np.ndarray, key: bytes, adds: bool) -> None:
    """Adds the stream of a key to uint64 numbers or takes it away, in place; in blocks that stay in the processor's cache."""
    cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor()
    change = np.add if adds else np.subtract
    for begin in range(0, len(numbers), _BLOCK):
        part = numbers[begin : begin + _BLOCK]
        change(part, np.frombuffer(cipher.update(_ZEROS[: 8 * len(part)]), "<u8"), out=part)


# --- Commitments ------------------------------------------------------------------------------------------------------


def chunks(numbers: np.ndarray) -> list[bytes]:
    """The chunks of an update int64[size] as bytes, little-endian."""
    return [numbers[i : i + CHUNK].astype("<i8").tobytes() for i in range(0, len(numbers), CHUNK)]


def chunk_salt(salt: bytes, position: int) -> bytes:
    """Salt of one chunk: opening it opens no other."""
    return hmac.digest(salt, b"chunk" + position.to_bytes(4, "big"), "sha256")


def leaves(numbers: np.ndarray, salt: bytes) -> list[bytes]:
    """The leaves of an update's tree."""
    return [chunk_leaf(chunk_salt(salt, i), i, chunk) for i, chunk in enumerate(chunks(numbers))]


def chunk_leaf(salt: bytes, position: int, chunk: bytes) -> bytes:
    """The leaf of one chunk."""
    return hashlib.sha256(b"\x00" + salt + position.to_bytes(4, "big") + chunk).digest()


def tree(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """All levels from the leaves, filled up to a power of two, to the root."""
    size = 1 << (len(leaves) - 1).bit_length()
    level = [*leaves, *[_EMPTY] * (size - len(leaves))]
    found = [level]
    while len(level) > 1:
        level = [hashlib.sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level), 2)]
        found.append(level)
    return found


def commitment(context: bytes, slot: int, size: int, root: bytes) -> bytes:
    """What a hospital commits to: its update of `size` numbers, before any mask, 32 bytes."""
    place = slot.to_bytes(4, "big") + size.to_bytes(8, "big")
    return hashlib.sha256(b"PulseLedger masked update 1|" + context + place + root).digest()


def committed(context: bytes, slot: int, numbers: np.ndarray, salt: bytes) -> bytes:
    """The commitment to an update int64[size] under a salt, 32 bytes."""
    return commitment(context, slot, len(numbers), tree(leaves(numbers, salt))[-1][0])
