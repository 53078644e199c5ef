"""What the ledger writes down, as frozen plain data; JSON forms for the journal; EIP-712 digest of an update."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

from eth_hash.auto import keccak

from engine.errors import LedgerError
from engine.ledger.canonical import canonical_json, read_json

WEIGHTINGS = ("samples", "uniform", "none")

_DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
_UPDATE_TYPE = (
    "ModelUpdate(uint16 schema,bytes32 federation,uint64 round,uint32 slot,bytes32 parentModel,bytes32 update,"
    "uint64 samples,bytes32 configHash,uint64 nonce)"
)
_DOMAIN_TYPE_HASH = keccak(_DOMAIN_TYPE.encode())
_UPDATE_TYPE_HASH = keccak(_UPDATE_TYPE.encode())
DOMAIN_NAME, DOMAIN_VERSION = "PulseLedger", "1"

# Bits of an unsigned integer, or "bytes32"; the order is that of the signed type.
UPDATE_FIELDS: dict[str, int | str] = {
    "schema": 16,
    "federation": "bytes32",
    "round": 64,
    "slot": 32,
    "parent_model": "bytes32",
    "update": "bytes32",
    "samples": 64,
    "config_hash": "bytes32",
    "nonce": 64,
}


def word(value: int | bytes) -> bytes:
    """Encode an unsigned integer, an address (20 bytes) or a bytes32 as one 32-byte word of the contract's ABI."""
    return value.to_bytes(32, "big") if isinstance(value, int) else value.rjust(32, b"\0")


def checksum_address(raw: bytes) -> str:
    """Write 20 bytes as an address in mixed-case checksum form (EIP-55)."""
    plain = raw.hex()
    marks = keccak(plain.encode()).hex()[:40]
    return "0x" + "".join(c.upper() if int(mark, 16) >= 8 else c for c, mark in zip(plain, marks, strict=True))


def address_bytes(address: Any) -> bytes:
    """Read a checksum address into its 20 bytes.

    Raises:
        LedgerError: it is not an address, or its checksum is wrong.
    """
    try:
        raw = bytes.fromhex(address[2:])
        if len(raw) == 20 and checksum_address(raw) == address:
            return raw
    except (TypeError, ValueError):
        pass
    raise LedgerError(f"{address!r} is not an address in checksum form")


@dataclass(frozen=True)
class Domain:
    """Where a signature counts: one chain and one contract (checksum address)."""

    chain_id: int
    contract: str


@dataclass(frozen=True)
class UpdateRecord:
    """What one hospital signs in one round.

    Attributes:
        federation: 32-byte identifier of the federation.
        round: number of the round, from 1.
        slot: position of the hospital, from 0.
        parent_model: hash of the model that it started from, 32 bytes.
        update: hash of the change that it sends, 32 bytes.
        samples: number of training samples, its weight.
        config_hash: hash of the configuration, 32 bytes.
        nonce: a number of the hospital's choice; two records with different nonces differ.
        schema: version of this record.

    Raises:
        LedgerError: a value has the wrong type, length or range.
    """

    federation: bytes
    round: int
    slot: int
    parent_model: bytes
    update: bytes
    samples: int
    config_hash: bytes
    nonce: int
    schema: int = 1

    def __post_init__(self) -> None:
        for name, kind in UPDATE_FIELDS.items():
            value = getattr(self, name)
            if kind == "bytes32":
                _require_bytes(name, value, 32)
            elif isinstance(kind, int) and not _is_uint(value, kind):
                raise LedgerError(f"record field {name}: expected an integer of at most {kind} bits, found {value!r}")


@dataclass(frozen=True)
class SignedUpdate:
    """A record and the 65 bytes r, s, v (27 or 28) of its hospital's signature."""

    record: UpdateRecord
    signature: bytes


@dataclass(frozen=True)
class Federation:
    """What is fixed before round 1.

    Attributes:
        id: 32 bytes.
        config_hash: hash of the configuration, 32 bytes.
        hospitals: checksum address of each slot.
        genesis_model: hash of the model before round 1, 32 bytes.
        layout: (name, shape) of each tensor in the order of the flat vector.
        weighting: how a round's updates are joined: by "samples", "uniform", or "none" (the global model stays).

    Raises:
        LedgerError: a value has the wrong type, length or range, or a hospital appears twice.
    """

    id: bytes
    config_hash: bytes
    hospitals: tuple[str, ...]
    genesis_model: bytes
    layout: tuple[tuple[str, tuple[int, ...]], ...]
    weighting: str

    def __post_init__(self) -> None:
        for name in ("id", "config_hash", "genesis_model"):
            _require_bytes(name, getattr(self, name), 32)
        # Lists are as good as tuples to a caller, but equality with what was read back must hold.
        object.__setattr__(self, "hospitals", tuple(self.hospitals))
        layout = tuple((str(name), tuple(int(size) for size in shape)) for name, shape in self.layout)
        object.__setattr__(self, "layout", layout)
        for hospital in self.hospitals:
            address_bytes(hospital)
        if not self.hospitals or len(set(self.hospitals)) != len(self.hospitals):
            raise LedgerError("a federation needs at least one hospital, and every hospital an address of its own")
        if self.weighting not in WEIGHTINGS:
            raise LedgerError(f"weighting: expected one of {', '.join(WEIGHTINGS)}, found {self.weighting!r}")


@dataclass(frozen=True)
class RoundEntry:
    """One round as the loop reports it: number from 1, model hashes before and after, updates by ascending slot."""

    round: int
    parent_model: bytes
    model: bytes
    updates: tuple[SignedUpdate, ...]


@dataclass(frozen=True)
class Seal:
    """Proof that a round is on the chain: tree root, head after it, updates, transaction hash (0x hex), gas."""

    round: int
    root: bytes
    head: bytes
    count: int
    transaction: str
    gas: int


@lru_cache(maxsize=64)
def _domain_separator(domain: Domain) -> bytes:
    return keccak(
        _DOMAIN_TYPE_HASH
        + keccak(DOMAIN_NAME.encode())
        + keccak(DOMAIN_VERSION.encode())
        + word(domain.chain_id)
        + word(address_bytes(domain.contract))
    )


def update_digest(record: UpdateRecord, domain: Domain) -> bytes:
    """Compute the 32 bytes that a hospital signs (EIP-712 typed data)."""
    struct = keccak(_UPDATE_TYPE_HASH + b"".join(word(getattr(record, name)) for name in UPDATE_FIELDS))
    return keccak(b"\x19\x01" + _domain_separator(domain) + struct)


def record_to_json(record: UpdateRecord) -> str:
    """Write a record as canonical JSON, bytes as 0x hex."""
    return canonical_json(_plain(asdict(record)))


def record_from_json(text: str) -> UpdateRecord:
    """Read what `record_to_json` wrote.

    Raises:
        LedgerError: not JSON, a field is missing, unknown, or of the wrong type, length or range.
    """
    convert = {name: _hex for name, kind in UPDATE_FIELDS.items() if kind == "bytes32"}
    return UpdateRecord(**_read("record", text, UpdateRecord, convert))


def federation_to_json(federation: Federation) -> str:
    """Write a federation as canonical JSON, bytes as 0x hex."""
    return canonical_json(_plain(asdict(federation)))


def federation_from_json(text: str) -> Federation:
    """Read what `federation_to_json` wrote.

    Raises:
        LedgerError: not JSON, or a field is missing, unknown or wrong.
    """
    values = _read("federation", text, Federation, {"id": _hex, "config_hash": _hex, "genesis_model": _hex})
    try:
        return Federation(**values)
    except (TypeError, ValueError) as error:
        raise LedgerError(f"federation: {error}") from error


def domain_to_json(domain: Domain) -> str:
    """Write a domain as canonical JSON."""
    return canonical_json(asdict(domain))


def domain_from_json(text: str) -> Domain:
    """Read what `domain_to_json` wrote.

    Raises:
        LedgerError: not JSON, or a field is missing, unknown or wrong.
    """
    domain = Domain(**_read("domain", text, Domain, {}))
    address_bytes(domain.contract)
    if not _is_uint(domain.chain_id, 256):
        raise LedgerError(f"domain: {domain.chain_id!r} is not a chain id")
    return domain


def _is_uint(value: Any, bits: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << bits


def _require_bytes(name: str, value: Any, length: int) -> None:
    if not isinstance(value, bytes) or len(value) != length:
        found = f"{len(value)} bytes" if isinstance(value, bytes) else repr(value)
        raise LedgerError(f"record field {name}: expected {length} bytes, found {found}")


def _hex(value: Any) -> bytes:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise ValueError(f"expected 0x hex, found {value!r}")
    return bytes.fromhex(value[2:])


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _read(what: str, text: Any, kind: type, convert: Mapping[str, Callable[[Any], bytes]]) -> dict[str, Any]:
    try:
        values = read_json(text)
    except ValueError as error:
        raise LedgerError(f"{what}: not JSON ({error})") from error
    names = {field.name for field in fields(kind)}
    if not isinstance(values, dict) or set(values) != names:
        raise LedgerError(f"{what}: expected an object with the fields {', '.join(sorted(names))}")
    for name, function in convert.items():
        try:
            values[name] = function(values[name])
        except ValueError as error:
            raise LedgerError(f"{what} field {name}: {error}") from error
    return values
