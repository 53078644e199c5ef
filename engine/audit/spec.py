"""Hashes, trees, signatures, heads and commitments, written a second time from their definitions.

Nothing here is shared with the code that writes the ledger, so one mistake cannot hide in both. It reads like the
specification on purpose: type strings are spelt out, trees are built by recursion, Keccak comes from another library.

Sources: EIP-712 (typed structured data), EIP-55 (checksum addresses), EIP-2 (low s), RFC 9162 (domain separation of
tree nodes), OpenZeppelin's MerkleProof (trees of sorted pairs); `contracts/README.md` for what is ours.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from coincurve import PublicKey
from Crypto.Hash import keccak as _keccak

from engine.encoding import canonical_json, unhexed

TYPES = {
    "ModelUpdate": "uint16 schema,bytes32 federation,uint64 round,uint32 slot,bytes32 parentModel,bytes32 parentHead,bytes32 update,"
    "bytes32 samples,bytes32 metrics,bytes32 privacy,bytes32 configHash,uint64 nonce,uint64 deadline",
    "HospitalResult": "bytes32 federation,uint64 round,uint32 slot,bytes32 head,bytes32 content",
    "PeerScores": "bytes32 federation,uint64 round,uint32 slot,bytes32 parentHead,bytes32 scores",
    "ScoreCommitment": "bytes32 federation,uint64 round,uint32 slot,bytes32 parentHead,bytes32 commitment",
    "RevealedScores": "bytes32 federation,uint64 round,uint32 slot,bytes32 parentHead,bytes32 commitments,bytes32 scores",
    "MaskStep": "bytes32 federation,uint64 round,uint32 slot,bytes32 parentHead,uint8 step,bytes32 content",
    "MaskOpening": "bytes32 federation,uint64 round,uint32 slot,bytes32 opening",
    "RunClosing": "bytes32 federation,uint64 round,bytes32 head,uint8 state,bytes32 results,bytes32 missing,bytes32 result,"
    "bytes32 predictions,bytes32 config,bytes32 data,bytes32 code",
    "Absence": "bytes32 federation,uint64 round,uint32 slot,uint64 job,uint8 kind,uint64 start",
    "Receipt": "bytes32 federation,uint64 round,uint32 slot,bytes32 leaf",
    "KeyRotation": "bytes32 federation,uint32 slot,address from,address to,uint64 round",
    "SyntheticRequest": "bytes32 federation,uint32 slot,uint8 class_,uint8 generator,uint32 quantity,uint32 realFloor,"
    "bytes32 realCount,bytes32 settings,uint32 policyVersion,uint64 nonce,uint64 deadline",
    "Erasure": "bytes32 federation,uint64 round,uint32 slot,bytes32 leaf",
    "SyntheticPreview": "bytes32 request,uint32 generated,bytes32 batch,bytes32 evidence",
    "SyntheticReview": "bytes32 request,bool approve,uint32 granted,bytes32 reason,uint64 deadline",
    "SyntheticReport": "bytes32 request,uint32 generated,bytes32 batch,bytes32 evidence,uint16 aucBp,uint16 nndrBp,"
    "uint16 distanceBp,uint32 duplicates,uint32 repeated,uint16 spreadBp,int16 utilityBp,uint16 recognisedBp",
}
HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
ZERO = bytes(32)


class Domain(NamedTuple):
    """Where a signature counts: one chain and one contract (checksum address)."""

    chain_id: int
    contract: str


@dataclass(frozen=True)
class Record:
    """Something that is signed: a name of `TYPES`, and its values by their names in a journal's JSON."""

    kind: str
    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def members(self) -> dict[str, Any]:
        """The values by the names of the signed type, which are those of the contract."""
        return {member: self.values[name] for name, (member, _) in fields(self.kind).items()}

    def digest(self, domain: Domain) -> bytes:
        """What is signed."""
        return typed_digest(self.kind, self.members, domain)


@cache
def fields(kind: str) -> dict[str, tuple[str, str]]:
    """Name of each value in a journal's JSON -> its name and type in the signed type.

    >>> fields("KeyRotation")["from_"], fields("ModelUpdate")["parent_head"]
    (('from', 'address'), ('parentHead', 'bytes32'))
    """
    members = [member.split(" ") for member in TYPES[kind].split(",")]
    return {_json_name(name): (name, type_) for type_, name in members}


def _json_name(member: str) -> str:
    return "from_" if member == "from" else re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), member)


# --- Bytes ------------------------------------------------------------------------------------------------------------


def keccak256(data: bytes) -> bytes:
    """Keccak-256 as Ethereum uses it, 32 bytes."""
    return _keccak.new(data=data, digest_bits=256).digest()


def sha256(data: bytes) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(data).digest()


def json_hash(value: Any) -> bytes | None:
    """SHA-256 of canonical JSON; None if it has none: a number that is none, or half a character."""
    try:
        return sha256(canonical_json(value).encode())
    except ValueError:
        return None


def counted_hash(text: bytes, numbers: Any) -> bytes:
    """keccak256(abi.encode(bytes32 SHA-256 of the text, uint64[2])); of numbers that are no such two zeros."""
    right = (
        isinstance(numbers, list) and len(numbers) == 2 and all(type(n) is int and 0 <= n < 1 << 64 for n in numbers)
    )
    return keccak256(sha256(text) + words(*(numbers if right else (0, 0))))


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
    bits = int(kind.removeprefix("u").removeprefix("int"))
    low, high = (0, 2**bits) if kind[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    if not low <= value < high:
        raise ValueError(f"{value} is not a {kind}")
    return (value % 2**256).to_bytes(32, "big")


def hex_bytes(value: Any) -> bytes:
    """Bytes out of 0x hex; nothing out of anything else."""
    try:
        return unhexed(value)
    except ValueError:
        return b""


def hash_of(value: Any) -> bytes | None:
    """32 bytes out of 0x hex; None out of anything else."""
    found = hex_bytes(value)
    return found if len(found) == 32 else None


def words(*values: int) -> bytes:
    """Integers as words of the contract ABI, one after the other."""
    return b"".join(encode("uint256", value) for value in values)


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


# --- Signatures -------------------------------------------------------------------------------------------------------


def typed_digest(kind: str, values: Mapping[str, Any], domain: Domain) -> bytes:
    """What EIP-712 signs for a struct of `TYPES`; `values` by the names of the type, the domain is PulseLedger, version 2."""
    members = b"".join(encode(type_, values[name]) for name, type_ in fields(kind).values())
    return keccak256(b"\x19\x01" + _separator(domain) + keccak256(_type_hash(kind) + members))


@cache
def _type_hash(kind: str) -> bytes:
    return keccak256(f"{kind}({TYPES[kind]})".encode())


@cache
def _separator(domain: Domain) -> bytes:
    type_ = b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    named = keccak256(type_) + keccak256(b"PulseLedger") + keccak256(b"2")
    return keccak256(named + _where(domain))


def _where(domain: Domain) -> bytes:
    return encode("uint256", domain.chain_id) + encode("address", domain.contract)


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


def sender(raw: bytes) -> str:
    """The checksum address that signed a raw Ethereum transaction; raises ValueError when nobody did."""
    from eth_account import Account

    try:
        return str(Account.recover_transaction(raw))
    except Exception as error:  # the library has no common base of its errors
        raise ValueError(f"not a signed transaction: {error}") from error


# --- Trees ------------------------------------------------------------------------------------------------------------

EMPTY_SLOT = keccak256(b"\x02PulseLedger empty slot")


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


def root_behind(leaf: bytes, slot: int, siblings: Sequence[bytes]) -> bytes:
    """Root of the positional tree in which a leaf has these siblings, from the leaf upwards."""
    for sibling in siblings:
        leaf = keccak256(b"\x01" + (sibling + leaf if slot & 1 else leaf + sibling))
        slot >>= 1
    return leaf


def update_leaf(update: Record, signature: bytes, domain: Domain) -> bytes:
    """Leaf of a signed update."""
    place = update["schema"].to_bytes(2, "big") + update["slot"].to_bytes(4, "big")
    return keccak256(b"\x00" + place + update.digest(domain) + signature)


def drawn(head: bytes, slots: int, many: int) -> set[int]:
    """Slots whose hospitals compute the model of the round with this head again: the first by a hash of head and slot."""
    ranks = {keccak256(b"PulseLedger check 1" + head + s.to_bytes(4, "big")): s for s in range(slots)}
    return {ranks[rank] for rank in sorted(ranks)[:many]}


def result_leaf(result: Record, signature: bytes, domain: Domain) -> bytes:
    """Leaf of what a hospital signed at the end."""
    return keccak256(b"\x00" + result["slot"].to_bytes(4, "big") + result.digest(domain) + signature)


def registry_leaf(slot: int, address: str, organisation: bytes) -> bytes:
    """Leaf of a hospital of a federation as it was opened."""
    return keccak256(b"\x00" + slot.to_bytes(4, "big") + read_address(address) + organisation)


def registry_root(addresses: Sequence[str], organisations: Sequence[bytes]) -> bytes:
    """Root over the hospitals of a federation as it was opened."""
    return tree_root([registry_leaf(s, addresses[s], organisations[s]) for s in range(len(addresses))])


def paired_root(leaves: Sequence[bytes]) -> bytes:
    """Root of a tree whose pairs are sorted and whose odd node moves up (OpenZeppelin's MerkleProof); zeros without a leaf."""
    level = list(leaves)
    while len(level) > 1:
        pairs = [sorted(level[i : i + 2]) for i in range(0, len(level), 2)]
        level = [keccak256(pair[0] + pair[1]) if len(pair) > 1 else pair[0] for pair in pairs]
    return level[0] if level else ZERO


def annex_root(digests: Mapping[str, bytes]) -> bytes:
    """Root over named digests, in the order of the bytes of their names, each hashed twice; digests of zero are left out."""
    names = sorted((name for name in digests if digests[name] != ZERO), key=lambda name: name.encode())
    return paired_root([keccak256(keccak256(keccak256(name.encode()) + digests[name])) for name in names])


def verdicts_leaf(round: int, index: int, participated: int, accepted: int, threshold: int) -> bytes:
    """Leaf of the verdicts on 16 hospitals in the tree of a round's scores; hashed twice."""
    return keccak256(keccak256(words(round, index, participated, accepted, threshold)))


def peers_leaf(round: int, rows: Sequence[tuple[int, int, int, int]]) -> bytes:
    """Leaf of the scores behind a round's verdicts: slot, judge, correct and total of each; hashed twice."""
    values = [round, *(value for row in rows for value in row)]
    return keccak256(keccak256(b"PulseLedger peer scores 1" + words(*values)))


def reward_leaf(slot: int, cumulative: int) -> bytes:
    """Leaf of what a hospital has earned so far in the tree of rewards; hashed twice."""
    return keccak256(keccak256(words(slot, cumulative)))


# --- Heads and commitments --------------------------------------------------------------------------------------------


def first_head(
    domain: Domain, federation: bytes, config: bytes, registry: bytes, model: bytes, slots: int, quorum: int
) -> bytes:
    """Head of round 0."""
    return keccak256(_where(domain) + federation + config + registry + model + words(slots, quorum))


def next_head(domain: Domain, federation: bytes, header: Mapping[str, Any]) -> bytes:
    """Head after a round, from the contract's Header by name.

    Raises:
        ValueError: a value of the header has the wrong type or range.
    """
    told = encode("uint64", header["round"])
    told += b"".join(encode("bytes32", header[name]) for name in ("root", "parentModel", "model"))
    told += encode("uint32", header["count"]) + encode("bytes32", header["annex"])
    return keccak256(encode("bytes32", header["previousHead"]) + _where(domain) + federation + told)


def next_decision(before: bytes, request: bytes, status: int, counted: int, record: bytes) -> bytes:
    """Head of the chain of decisions on synthetic data after one; `record` is the digest of what was signed for it."""
    return keccak256(before + request + words(status, counted) + record)


def study_head(domain: Domain, study: bytes, design: bytes, trials: int) -> bytes:
    """Head of a study when it is registered."""
    return keccak256(_where(domain) + study + design + words(trials))


def trial_head(before: bytes, sequence: int, trial: int, stage: int, record: bytes) -> bytes:
    """Head of a study after a trial began or ended."""
    return keccak256(before + words(sequence, trial, stage) + record)


def commitment(salt: bytes, value: int | bytes) -> bytes:
    """Salted commitment of a count, or of 32 bytes."""
    return keccak256(salt + (encode("uint256", value) if isinstance(value, int) else value))


# --- Models -----------------------------------------------------------------------------------------------------------


def tensors_hash(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Hash of named tensors: SHA-256 over length-prefixed name, type, shape and little-endian bytes, in order of the names."""
    digest = hashlib.sha256(_prefixed(b"PulseLedger model 1") + len(tensors).to_bytes(8, "big"))
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
