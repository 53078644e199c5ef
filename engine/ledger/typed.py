"""Records: frozen plain data whose fields carry their Solidity types, so that one definition serves for everything.

    @dataclass(frozen=True)
    class Receipt(Record):
        federation: Bytes32
        round: U64
        slot: U32
        leaf: Bytes32

EIP-712 type strings and digests, JSON forms, arguments of calls, and the checks of types and ranges follow from that:

>>> type_string(Domain)
'Domain(uint256 chainId,address contract)'
>>> record_to_json(Domain(1, "0x9Be9069a4d2Fb9ec284cc4d149b6388A279f4ABa"))
'{"chain_id":1,"contract":"0x9Be9069a4d2Fb9ec284cc4d149b6388A279f4ABa"}'

The order of the fields is that of the type in the contract.
"""

import re
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from typing import Annotated, Any, TypeVar, get_type_hints

from engine.encoding import canonical_json, hexed, keccak, read_json, unhexed
from engine.errors import LedgerError

U8 = Annotated[int, "uint8"]
U16 = Annotated[int, "uint16"]
U32 = Annotated[int, "uint32"]
U64 = Annotated[int, "uint64"]
U256 = Annotated[int, "uint256"]
I16 = Annotated[int, "int16"]
Bool = Annotated[bool, "bool"]
Bytes32 = Annotated[bytes, "bytes32"]
Address = Annotated[str, "address"]  # in checksum form
# Plain JSON data; nothing that holds it can be signed.
Json = Annotated[dict[str, Any], "object"]
JsonOrNone = Annotated[dict[str, Any] | None, "object or null"]

DOMAIN_NAME, DOMAIN_VERSION = "PulseLedger", "2"
_DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"


def word(value: int | bytes) -> bytes:
    """Encode an integer, an address (20 bytes) or a bytes32 as one 32-byte word of the contract's ABI."""
    if isinstance(value, int):
        return (value % (1 << 256)).to_bytes(32, "big")
    return value.rjust(32, b"\0")


@lru_cache(maxsize=4096)
def checksum_address(raw: bytes) -> str:
    """Write 20 bytes as an address in mixed-case checksum form (EIP-55)."""
    plain = raw.hex()
    marks = keccak(plain.encode()).hex()[:40]
    return "0x" + "".join(c.upper() if int(mark, 16) >= 8 else c for c, mark in zip(plain, marks, strict=True))


@lru_cache(maxsize=4096)
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
class Record:
    """Base of all records.

    Raises:
        LedgerError: a value has the wrong type, length or range.
    """

    def __post_init__(self) -> None:
        for name, kind in types_of(type(self)).items():
            require_type(name, getattr(self, name), kind)


R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Domain(Record):
    """Where a signature counts: one chain and one contract (checksum address)."""

    chain_id: U256
    contract: Address


def types_of(kind: type) -> dict[str, str]:
    """Name and Solidity type of every field of a record, in their order."""
    return _types_of(kind)


@cache
def _types_of(kind: type) -> dict[str, str]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in fields(kind)}


def require_type(name: str, value: Any, kind: str) -> None:
    """Refuse a value that is not of a Solidity type, or not an object where JSON data is meant.

    Raises:
        LedgerError: it is not.
    """
    if kind == "bytes32":
        if not isinstance(value, bytes) or len(value) != 32:
            found = f"{len(value)} bytes" if isinstance(value, bytes) else repr(value)
            raise LedgerError(f"record field {name}: expected 32 bytes, found {found}")
    elif kind == "address":
        address_bytes(value)
    elif kind == "bool":
        if not isinstance(value, bool):
            raise LedgerError(f"record field {name}: expected true or false, found {value!r}")
    elif kind.startswith("object"):
        if not (isinstance(value, dict) or (value is None and kind == "object or null")):
            raise LedgerError(f"record field {name}: expected an {kind}, found {value!r:.80}")
    else:
        bits = int(kind.removeprefix("u").removeprefix("int"))
        lowest = 0 if kind[0] == "u" else -(1 << bits - 1)
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value < lowest + (1 << bits):
            raise LedgerError(f"record field {name}: expected an integer of type {kind}, found {value!r:.80}")


# --- EIP-712 ----------------------------------------------------------------------------------------------------------


def solidity_name(name: str) -> str:
    """Return the name of a field in the contract: camelCase; `class_` keeps its line, `from_` loses it."""
    if name == "from_":
        return "from"
    return re.sub(r"_(.)", lambda found: found[1].upper(), name)


@cache
def type_string(kind: type) -> str:
    """Return the EIP-712 type of a record, such as "Receipt(bytes32 federation,uint64 round,...)"."""
    inside = ",".join(f"{solidity} {solidity_name(name)}" for name, solidity in types_of(kind).items())
    return f"{kind.__name__}({inside})"


def struct_hash(record: Record) -> bytes:
    """Compute the EIP-712 hash of a record without its domain."""
    kind: type = type(record)
    words = [_word(getattr(record, name), solidity) for name, solidity in types_of(kind).items()]
    return keccak(_type_hash(kind) + b"".join(words))


def digest(record: Record, domain: Domain) -> bytes:
    """Compute the 32 bytes that are signed (EIP-712 typed data); of a request they are its id, too."""
    return keccak(b"\x19\x01" + _domain_separator(domain) + struct_hash(record))


def abi_tuple(record: Record) -> tuple[Any, ...]:
    """Return the values of a record in the order of its type, as a call of the contract takes them."""
    return tuple(getattr(record, name) for name in types_of(type(record)))


@cache
def _type_hash(kind: type) -> bytes:
    return keccak(type_string(kind).encode())


@lru_cache(maxsize=64)
def _domain_separator(domain: Domain) -> bytes:
    return keccak(
        keccak(_DOMAIN_TYPE.encode())
        + keccak(DOMAIN_NAME.encode())
        + keccak(DOMAIN_VERSION.encode())
        + word(domain.chain_id)
        + word(address_bytes(domain.contract))
    )


def _word(value: Any, solidity: str) -> bytes:
    return word(address_bytes(value) if solidity == "address" else value)


# --- JSON -------------------------------------------------------------------------------------------------------------


def record_to_json(record: Record) -> str:
    """Write a record as canonical JSON, bytes as 0x hex."""
    values = ((name, getattr(record, name)) for name in types_of(type(record)))
    return canonical_json({name: hexed(value) if isinstance(value, bytes) else value for name, value in values})


def record_from_json(kind: type[R], text: Any) -> R:
    """Read what `record_to_json` wrote.

    Raises:
        LedgerError: not JSON, a field is missing, unknown, or of the wrong type, length or range.
    """
    types = types_of(kind)
    values = read_object(f"record {kind.__name__}", text, set(types))
    for name, solidity in types.items():
        if solidity == "bytes32":
            try:
                values[name] = unhexed(values[name])
            except ValueError as error:
                raise LedgerError(f"record field {name}: {error}") from error
    return kind(**values)


def read_object(what: str, text: Any, names: set[str]) -> dict[str, Any]:
    """Read a JSON object with exactly these fields; raises LedgerError for anything else."""
    try:
        values = read_json(text)
    except ValueError as error:
        raise LedgerError(f"{what}: not JSON ({error})") from error
    if not isinstance(values, dict) or set(values) != names:
        raise LedgerError(f"{what}: expected an object with the fields {', '.join(sorted(names))}")
    return values
