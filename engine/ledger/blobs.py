"""Blocks named by their content: a model or an update as bytes whose SHA-256 is its name on the ledger.

That name, 32 bytes, is a CIDv1 (raw, sha2-256) in base32: what IPFS calls the same block, if it is one block of at most 1 MiB. A store
is a folder with a file for each block, or a Kubo node or gateway behind a URL. Bytes are held against their name whenever they are read.
"""

import base64
import hashlib
import json
import uuid
from pathlib import Path
from typing import Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np

from engine.errors import LedgerError
from engine.files import read_bytes, whole
from engine.model import Layout, model_bytes, unflatten

MOST = 1 << 20  # bytes of a block
_HEAD = len(model_bytes({}))  # before the first tensor: format and number of tensors
_PREFIX = bytes((1, 0x55, 0x12, 0x20))  # version 1, raw, sha2-256, of 32 bytes


class Lost(LedgerError):
    """A block is not where it should be."""


class Store(Protocol):
    """Where blocks lie."""

    def put(self, data: bytes) -> str:
        """Keeps a block; returns its CID.

        Raises:
            LedgerError: it cannot be kept.
        """
        ...

    def get(self, name: str) -> bytes:
        """The block of a CID, verified.

        Raises:
            Lost: it is not there.
            LedgerError: it is another, or the store does not answer.
        """
        ...


def cid(digest: bytes) -> str:
    """The CID of a block whose SHA-256 this is.

    >>> cid(hashlib.sha256(b"hello world").digest())
    'bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e'
    """
    return "b" + base64.b32encode(_PREFIX + digest).decode().rstrip("=").lower()


def digest_in(name: str) -> bytes:
    """The SHA-256 that a CID holds.

    Raises:
        LedgerError: it is no CIDv1 of a raw block under sha2-256, in base32.
    """
    text = name[1:].upper()
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        raw = b""
    if not name.startswith("b") or len(raw) != 36 or raw[:4] != _PREFIX or cid(raw[4:]) != name:
        raise LedgerError(f"{name!r:.80} is no CIDv1 of a raw block under sha2-256")
    return raw[4:]


def block_of(vector: np.ndarray, layout: Layout) -> bytes:
    """A model or an update float32[P], or a masked one int64[P + 1], as the bytes whose SHA-256 names it."""
    return vector.astype("<i8").tobytes() if vector.dtype == np.int64 else model_bytes(unflatten(vector, layout))


def vector_in(block: bytes, layout: Layout) -> np.ndarray:
    """As it was before `block_of`.

    Raises:
        LedgerError: it is neither a model of this layout nor a masked update of one.
    """
    entries = sum(int(np.prod(shape, dtype=np.int64)) for _, shape in layout)
    if len(block) == 8 * (entries + 1):
        return np.frombuffer(block, "<i8").astype(np.int64)
    model = model_bytes(unflatten(np.zeros(entries, np.float32), layout))
    if len(block) != len(model):
        raise LedgerError("a block holds no update of this run's form")
    at, found = _HEAD, {}
    for name, shape in sorted(layout):
        at += 4 * 8 + len(name.encode()) + len("<f4") + 8 * len(shape)  # four lengths, name, type, shape
        size = 4 * int(np.prod(shape, dtype=np.int64))
        found[name] = np.frombuffer(block[at : at + size], "<f4").astype(np.float32)
        at += size
    vector = np.concatenate([found[name] for name, _ in layout])
    if block_of(vector, layout) != block:
        raise LedgerError("a block holds no update of this run's form")
    return vector


def _verified(name: str, data: bytes, where: str) -> bytes:
    if hashlib.sha256(data).digest() != digest_in(name):
        raise LedgerError(f"{where}: block {name} is damaged, its bytes have another name")
    return data


class Folder:
    """Blocks in a folder, one file each; a file appears whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, data: bytes) -> str:
        name = cid(hashlib.sha256(data).digest())
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"{self._path}: cannot be made ({error.strerror})") from None
        with whole(self._path / name, durable=True, error=LedgerError) as part:
            part.write_bytes(data)
        return name

    def get(self, name: str) -> bytes:
        digest_in(name)
        try:
            data = read_bytes(self._path / name, MOST)
        except FileNotFoundError:
            raise Lost(f"{self._path}: block {name} is lost") from None
        except OSError as error:
            raise LedgerError(f"{self._path / name}: cannot be read ({error.strerror})") from None
        return _verified(name, data, str(self._path))


class Kubo:
    """Blocks of a Kubo node by its API, or of a gateway, which can only be read."""

    def __init__(self, url: str, timeout: float = 30.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise LedgerError("a store of blocks is a folder or http(s)://HOST:PORT, without a name or password in it")
        self._url, self._timeout = url.rstrip("/"), timeout

    def put(self, data: bytes) -> str:
        name, mark = cid(hashlib.sha256(data).digest()), uuid.uuid4().hex
        head = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="block"\r\nContent-Type: application/octet-stream\r\n\r\n'
        body = head.encode() + data + f"\r\n--{mark}--\r\n".encode()
        path = "/api/v0/block/put?cid-codec=raw&mhtype=sha2-256&mhlen=-1&pin=true"
        answer = self._ask(
            Request(self._url + path, body, {"Content-Type": f"multipart/form-data; boundary={mark}"}, method="POST"),
            name,
        )
        try:
            kept = json.loads(answer)["Key"]
        except (ValueError, KeyError, TypeError):
            raise LedgerError(f"{self._url}: answers no CID to a block that was put") from None
        if kept != name:
            raise LedgerError(f"{self._url}: keeps block {name} as {kept!r:.80}")
        return name

    def get(self, name: str) -> bytes:
        digest_in(name)
        try:
            data = self._ask(Request(f"{self._url}/api/v0/block/get?arg={name}", b"", method="POST"), name)
        except Lost:  # a gateway knows no API
            asked = Request(f"{self._url}/ipfs/{name}?format=raw", headers={"Accept": "application/vnd.ipld.raw"})
            data = self._ask(asked, name)
        return _verified(name, data, self._url)

    def _ask(self, request: Request, name: str) -> bytes:
        try:
            with urlopen(request, timeout=self._timeout) as answer:
                data: bytes = answer.read(MOST + 1)
        except HTTPError as error:
            text = error.read(200).decode(errors="replace").strip()
            kind = Lost if error.code in (404, 405, 410) or "not found" in text else LedgerError
            raise kind(f"{self._url}: block {name}: {error.code} {text or error.reason}") from None
        except (URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise LedgerError(f"{self._url}: does not answer ({reason})") from None
        if len(data) > MOST:
            raise LedgerError(f"{self._url}: block {name} is larger than {MOST} bytes")
        return data


def store_at(place: str) -> Store:
    """The store that a folder's path or a URL names."""
    return Kubo(place) if "://" in place else Folder(Path(place))
