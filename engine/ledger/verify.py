"""Hashes, trees, signatures and commitments as the audit computes them: written a second time, from the formats' definition.

Nothing here is shared with the code that writes the ledger (`canonical`, `merkle`, `records`, `signing`), so one mistake cannot hide
in both. It reads like the specification on purpose: type strings are spelt out, trees are built by recursion.

Sources: EIP-712 (typed structured data), EIP-55 (checksum addresses), EIP-2 (low s), RFC 9162 (domain separation of tree nodes).
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from coincurve import PublicKey
from Crypto.Hash import keccak as _keccak

TYPES = {
    "ModelUpdate": "uint16 schema,bytes32 federation,uint64 round,uint32 slot,bytes32 parentModel,bytes32 parentHead,bytes32 update,"
    "bytes32 samples,bytes32 metrics,bytes32 privacy,bytes32 configHash,uint64 nonce,uint64 deadline",
    "RoundHead": "bytes32 federation,uint64 round,uint32 slot,bytes32 head",
    "Receipt": "bytes32 federation,uint64 round,uint32 slot,bytes32 leaf",
    "KeyRotation": "bytes32 federation,uint32 slot,address from,address to,uint64 round",
    "SyntheticRequest": "bytes32 federation,uint32 slot,uint8 class_,uint8 generator,uint32 quantity,uint32 realFloor,"
    "bytes32 realCount,bytes32 settings,uint32 policyVersion,uint64 nonce,uint64 deadline",
    "SyntheticReview": "bytes32 request,bool approve,uint32 granted,bytes32 reason,uint64 deadline",
    "SyntheticReport": "bytes32 request,uint32 generated,bytes32 batch,bytes32 evidence,uint16 aucBp,uint16 nndrBp,"
    "uint32 duplicates,int16 utilityBp",
}
HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


def keccak256(data: bytes) -> bytes:
    """Keccak-256 as Ethereum uses it, 32 bytes."""
    return _keccak.new(data=data, digest_bits=256).digest()


def sha256(data: bytes) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(data).digest()


def sender(raw: bytes) -> str:
    """The checksum address that signed a raw Ethereum transaction; raises ValueError when nobody did."""
    from eth_account import Account

    try:
        return str(Account.recover_transaction(raw))
    except Exception as error:  # the library has no common base of its errors
        raise ValueError(f"not a signed transaction: {error}") from error


EMPTY_SLOT = keccak256(b"\x02PulseLedger empty slot")


def encode(kind: str, value: Any) -> bytes:
    """One value of a static type as a 32-byte word of the contract ABI.

    Raises:
        ValueError: the value does not belong to the type.
    """
    if kind == "bytes32":
        if not isinstance(value, bytes) or len(value) != 32:
            raise ValueError(f"not 32 bytes: {value!r}")
        return value
    if kind == "address":
        return read_address(value).rjust(32, b"\0")
    if kind == "bool":
        if not isinstance(value, bool):
            raise ValueError(f"not a truth value: {value!r}")
        return int(value).to_bytes(32, "big")
    if type(value) is not int:
        raise ValueError(f"not an integer: {value!r}")
    bits = int(re.sub(r"\D", "", kind))
    low, high = (0, 2**bits) if kind.startswith("uint") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    if not low <= value < high:
        raise ValueError(f"{value} is not a {kind}")
    return (value % 2**256).to_bytes(32, "big")


def typed_digest(kind: str, values: Mapping[str, Any], chain_id: int, contract: str) -> bytes:
    """What EIP-712 signs for a struct of `TYPES`; `values` by the names of the type, the domain is PulseLedger, version 2."""
    domain_type = b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    domain = keccak256(domain_type) + keccak256(b"PulseLedger") + keccak256(b"2")
    domain += encode("uint256", chain_id) + encode("address", contract)
    return keccak256(b"\x19\x01" + keccak256(domain) + struct_hash(kind, values))


def struct_hash(kind: str, values: Mapping[str, Any]) -> bytes:
    """EIP-712's hashStruct; that of a request is also its identifier on the chain."""
    members = [member.split(" ") for member in TYPES[kind].split(",")]
    text = f"{kind}({TYPES[kind]})".encode()
    return keccak256(keccak256(text) + b"".join(encode(type_, values[name]) for type_, name in members))


def signer(digest: bytes, signature: bytes) -> str:
    """The checksum address whose key signed a digest with 65 bytes r, s, v.

    Raises:
        ValueError: the signature is malformed, has a high s, or belongs to no key.
    """
    if len(signature) != 65 or signature[64] not in (27, 28):
        raise ValueError("the signature is not 65 bytes that end in 27 or 28")
    if int.from_bytes(signature[32:64], "big") > HALF_ORDER:
        raise ValueError("the signature's s is in the upper half of the curve order")
    try:
        public = PublicKey.from_signature_and_message(signature[:64] + bytes([signature[64] - 27]), digest, hasher=None)
    except Exception as error:
        raise ValueError("the signature belongs to no key") from error
    return write_address(keccak256(public.format(compressed=False)[1:])[12:])


def write_address(raw: bytes) -> str:
    """Twenty bytes in checksum form (EIP-55)."""
    letters = raw.hex()
    digits = keccak256(letters.encode()).hex()
    return "0x" + "".join(a.upper() if b in "89abcdef" else a for a, b in zip(letters, digits, strict=False))


def read_address(text: Any) -> bytes:
    """Raises ValueError for anything but an address in checksum form."""
    if not isinstance(text, str) or not re.fullmatch("0x[0-9a-fA-F]{40}", text):
        raise ValueError(f"not an address: {text!r}")
    raw = bytes.fromhex(text[2:])
    if write_address(raw) != text:
        raise ValueError(f"not an address in checksum form: {text}")
    return raw


def tree_root(leaves: Sequence[bytes]) -> bytes:
    """Root of a positional tree, padded with EMPTY_SLOT to a power of two."""
    size = 1
    while size < len(leaves):
        size *= 2
    return _subtree([*leaves, *[EMPTY_SLOT] * (size - len(leaves))])


def _subtree(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    middle = len(leaves) // 2
    return keccak256(b"\x01" + _subtree(leaves[:middle]) + _subtree(leaves[middle:]))


def update_leaf(values: Mapping[str, Any], signature: bytes, chain_id: int, contract: str) -> bytes:
    """Leaf of a signed update."""
    place = values["schema"].to_bytes(2, "big") + values["slot"].to_bytes(4, "big")
    return keccak256(b"\x00" + place + typed_digest("ModelUpdate", values, chain_id, contract) + signature)


def registry_leaf(slot: int, address: str, organisation: bytes) -> bytes:
    """Leaf of a hospital in the registry of its federation."""
    return keccak256(b"\x00" + slot.to_bytes(4, "big") + read_address(address) + organisation)


def first_head(
    chain_id: int,
    contract: str,
    federation: bytes,
    config: bytes,
    registry: bytes,
    model: bytes,
    slots: int,
    quorum: int,
) -> bytes:
    """Head of round 0."""
    words = [encode("uint256", chain_id), encode("address", contract), federation, config, registry, model]
    return keccak256(b"".join(words) + encode("uint256", slots) + encode("uint256", quorum))


def following_head(
    before: bytes,
    chain_id: int,
    contract: str,
    federation: bytes,
    number: int,
    root: bytes,
    parent: bytes,
    model: bytes,
    count: int,
    scores: bytes,
    decisions: bytes,
) -> bytes:
    """Head after a round."""
    words = [before, encode("uint256", chain_id), encode("address", contract), federation, encode("uint64", number)]
    words += [root, parent, model, encode("uint32", count), scores, decisions]
    return keccak256(b"".join(words))


def paired_root(leaves: Sequence[bytes]) -> bytes:
    """Root of a tree whose pairs are sorted and whose odd node moves up (OpenZeppelin's MerkleProof); zeros without a leaf."""
    level = list(leaves)
    while len(level) > 1:
        pairs = [sorted(level[i : i + 2]) for i in range(0, len(level), 2)]
        level = [keccak256(pair[0] + pair[1]) if len(pair) > 1 else pair[0] for pair in pairs]
    return level[0] if level else bytes(32)


def verdicts_leaf(number: int, index: int, participated: int, accepted: int, threshold: int) -> bytes:
    """Leaf of the verdicts on 16 hospitals in the tree of a round's scores; hashed twice."""
    values = (number, index, participated, accepted, threshold)
    return keccak256(keccak256(b"".join(encode("uint256", value) for value in values)))


def peers_leaf(number: int, rows: Sequence[tuple[int, int, int, int]]) -> bytes:
    """Leaf of the scores behind a round's verdicts: slot, judge, correct and total of each; hashed twice."""
    values = [number, *(value for row in rows for value in row)]
    text = b"PulseLedger peer scores 1" + b"".join(encode("uint256", value) for value in values)
    return keccak256(keccak256(text))


def commitment(salt: bytes, value: int | bytes) -> bytes:
    """Salted commitment of a count, or of 32 bytes."""
    return keccak256(salt + (encode("uint256", value) if isinstance(value, int) else value))


def batch_digest(x: np.ndarray, rr: np.ndarray, y: np.ndarray) -> bytes:
    """Digest of a batch of synthetic beats: sizes as uint32, then windows and RR features (float32), classes (int8)."""
    sizes = [len(x), x.shape[1] if x.ndim == 2 else 0, rr.shape[1] if rr.ndim == 2 else 0]
    data = b"".join(size.to_bytes(4, "little") for size in sizes)
    for array, kind in ((x, "float32"), (rr, "float32"), (y, "int8")):
        if array.dtype != kind:
            return sha256(b"")
        data += array.astype(array.dtype.newbyteorder("<")).tobytes()
    return sha256(data)


def quality_numbers(report: Any) -> dict[str, int]:
    """The numbers of a signed report as they follow from the quality report (JSON); {} where nothing was made.

    A tier that is not computable counts as its worst value.
    """

    def look(*names: str) -> Any:
        value = report
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    if not isinstance(report, dict) or "failed" in report:
        return {}
    kinds = [look("discriminative", kind, "auc") for kind in ("gru", "linear")]
    ratio, near, change = look("privacy", "nndr"), look("privacy", "near"), look("utility", "change")
    return {
        "auc_bp": 10_000 if None in kinds else max(round(auc * 10_000) for auc in kinds),
        "nndr_bp": 0 if ratio is None else min(round(ratio * 10_000), 65_535),
        "duplicates": look("synthetic") if near is None else near,
        "utility_bp": -10_000 if change is None else round(change * 10_000),
    }


def tensors_hash(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Hash of named tensors: SHA-256 over length-prefixed name, type, shape and little-endian bytes, in order of the names."""
    parts = [b"PulseLedger model 1"]
    digest = hashlib.sha256(_prefixed(parts[0]) + len(tensors).to_bytes(8, "big"))
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        if array.dtype.byteorder == ">":
            array = array.view(array.dtype.newbyteorder("<")).byteswap()
        shape = b"".join(int(n).to_bytes(8, "big") for n in tensors[name].shape)
        for part in (name.encode(), array.dtype.newbyteorder("<").str.encode(), shape, array.tobytes()):
            digest.update(_prefixed(part))
    return digest.digest()


def flat_hash(vector: np.ndarray, layout: Sequence[tuple[str, Sequence[int]]]) -> bytes:
    """`tensors_hash` of a flat vector f32[P] that is cut by (name, shape).

    Raises:
        ValueError: it is not flat float32 of the layout's size.
    """
    sizes = [int(np.prod(shape, dtype=np.int64)) for _, shape in layout]
    if vector.ndim != 1 or vector.dtype != np.float32 or len(vector) != sum(sizes):
        raise ValueError(f"expected {sum(sizes)} flat float32 values, found {vector.dtype} of shape {vector.shape}")
    ends = np.cumsum(sizes)
    return tensors_hash(
        {
            name: vector[end - size : end].reshape(shape)
            for (name, shape), size, end in zip(layout, sizes, ends, strict=True)
        }
    )


def _prefixed(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data
