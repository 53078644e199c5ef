"""What the ledger writes down, as frozen plain data; EIP-712 digests for signatures; JSON forms for the journal.

`FIELDS` is the one table of every signed record. EIP-712 type strings, digests, JSON forms and the checks of types and
ranges follow from it, so that a field can be forgotten nowhere.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache, lru_cache
from typing import Any, TypeVar

from engine.encoding import canonical_json, json_hash, keccak, read_json
from engine.errors import LedgerError

WEIGHTINGS = ("samples", "uniform", "none")
SCHEMA = 2  # of a ModelUpdate
ZERO = bytes(32)
NO_ROUND = 2**64 - 1  # in place of the next round's deadline: do not open it

_DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
_DOMAIN_TYPE_HASH = keccak(_DOMAIN_TYPE.encode())
DOMAIN_NAME, DOMAIN_VERSION = "PulseLedger", "2"

R = TypeVar("R", bound="Record")


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
class Domain:
    """Where a signature counts: one chain and one contract (checksum address)."""

    chain_id: int
    contract: str


# --- Signed records ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """Something that is signed as EIP-712 typed data; its fields are those of `FIELDS`.

    Raises:
        LedgerError: a value has the wrong type, length or range.
    """

    def __post_init__(self) -> None:
        for name, kind in FIELDS[type(self)].items():
            _require(name, getattr(self, name), kind)


@dataclass(frozen=True)
class ModelUpdate(Record):
    """What one hospital signs in one round.

    Attributes:
        federation: identifier of the federation.
        round: number of the round, from 1.
        slot: position of the hospital, from 0.
        parent_model: hash of the model that it started from.
        parent_head: head after the round before; signing it signs the history so far.
        update: hash of the change that it sends.
        samples: salted commitment to the number of training samples, its weight.
        metrics: salted commitment to what the hospital measured on its own data.
        privacy: hash of the inputs of the privacy accountant, zero without differential privacy.
        config_hash: hash of the configuration.
        nonce: a number of the hospital's choice; two records with different nonces differ.
        deadline: seconds since 1970 after which the contract takes it no more, 0 for none.
        schema: version of this record.
    """

    federation: bytes
    round: int
    slot: int
    parent_model: bytes
    parent_head: bytes
    update: bytes
    samples: bytes
    metrics: bytes
    privacy: bytes
    config_hash: bytes
    nonce: int
    deadline: int = 0
    schema: int = SCHEMA


@dataclass(frozen=True)
class RoundHead(Record):
    """A hospital's signature under the last head, for which no later update follows."""

    federation: bytes
    round: int
    slot: int
    head: bytes


@dataclass(frozen=True)
class Receipt(Record):
    """The coordinator's word that it took this leaf; with an absence proof, evidence that it broke it."""

    federation: bytes
    round: int
    slot: int
    leaf: bytes


@dataclass(frozen=True)
class KeyRotation(Record):
    """A hospital's new address (`to`), valid from `round` on; signed by the old and by the new key."""

    federation: bytes
    slot: int
    from_: str
    to: str
    round: int


@dataclass(frozen=True)
class SyntheticRequest(Record):
    """A hospital asks to generate `quantity` beats of a class.

    Attributes:
        class_: position of the class in "NSVFQ".
        generator: 1 oversample, 2 smote, 3 borderline, 4 adasyn, 5 timegan.
        real_floor: largest step of `real_floor` that does not exceed the real number of beats.
        real_count: salted commitment to that number.
        settings: hash of the generator's settings.
        policy_version: the policy that the hospital knows.
    """

    federation: bytes
    slot: int
    class_: int
    generator: int
    quantity: int
    real_floor: int
    real_count: bytes
    settings: bytes
    policy_version: int
    nonce: int
    deadline: int


@dataclass(frozen=True)
class SyntheticReview(Record):
    """A reviewer's decision on a request; `reason` is the hash of its text."""

    request: bytes
    approve: bool
    granted: int
    reason: bytes
    deadline: int


@dataclass(frozen=True)
class SyntheticReport(Record):
    """What a hospital generated: hash of the batch, hash of the evidence, and the numbers that policy bounds."""

    request: bytes
    generated: int
    batch: bytes
    evidence: bytes
    auc_bp: int
    nndr_bp: int
    duplicates: int
    utility_bp: int


FIELDS: dict[type, dict[str, str]] = {
    ModelUpdate: {
        "schema": "uint16",
        "federation": "bytes32",
        "round": "uint64",
        "slot": "uint32",
        "parent_model": "bytes32",
        "parent_head": "bytes32",
        "update": "bytes32",
        "samples": "bytes32",
        "metrics": "bytes32",
        "privacy": "bytes32",
        "config_hash": "bytes32",
        "nonce": "uint64",
        "deadline": "uint64",
    },
    RoundHead: {"federation": "bytes32", "round": "uint64", "slot": "uint32", "head": "bytes32"},
    Receipt: {"federation": "bytes32", "round": "uint64", "slot": "uint32", "leaf": "bytes32"},
    KeyRotation: {"federation": "bytes32", "slot": "uint32", "from_": "address", "to": "address", "round": "uint64"},
    SyntheticRequest: {
        "federation": "bytes32",
        "slot": "uint32",
        "class_": "uint8",
        "generator": "uint8",
        "quantity": "uint32",
        "real_floor": "uint32",
        "real_count": "bytes32",
        "settings": "bytes32",
        "policy_version": "uint32",
        "nonce": "uint64",
        "deadline": "uint64",
    },
    SyntheticReview: {
        "request": "bytes32",
        "approve": "bool",
        "granted": "uint32",
        "reason": "bytes32",
        "deadline": "uint64",
    },
    SyntheticReport: {
        "request": "bytes32",
        "generated": "uint32",
        "batch": "bytes32",
        "evidence": "bytes32",
        "auc_bp": "uint16",
        "nndr_bp": "uint16",
        "duplicates": "uint32",
        "utility_bp": "int16",
    },
}


def solidity_name(name: str) -> str:
    """Return the name of a field in the contract: camelCase; `class_` keeps its line, `from_` loses it."""
    if name == "from_":
        return "from"
    return re.sub(r"_(.)", lambda found: found[1].upper(), name)


@cache
def type_string(kind: type) -> str:
    """Return the EIP-712 type of a record, such as "RoundHead(bytes32 federation,uint64 round,...)"."""
    inside = ",".join(f"{solidity} {solidity_name(name)}" for name, solidity in FIELDS[kind].items())
    return f"{kind.__name__}({inside})"


@cache
def _type_hash(kind: type) -> bytes:
    return keccak(type_string(kind).encode())


@lru_cache(maxsize=64)
def _domain_separator(domain: Domain) -> bytes:
    return keccak(
        _DOMAIN_TYPE_HASH
        + keccak(DOMAIN_NAME.encode())
        + keccak(DOMAIN_VERSION.encode())
        + word(domain.chain_id)
        + word(address_bytes(domain.contract))
    )


def struct_hash(record: Record) -> bytes:
    """Compute the EIP-712 hash of a record without its domain."""
    kind: type = type(record)
    words = [_word(getattr(record, name), solidity) for name, solidity in FIELDS[kind].items()]
    return keccak(_type_hash(kind) + b"".join(words))


def digest(record: Record, domain: Domain) -> bytes:
    """Compute the 32 bytes that are signed (EIP-712 typed data); of a request they are its id, too."""
    return keccak(b"\x19\x01" + _domain_separator(domain) + struct_hash(record))


def abi_tuple(record: Record) -> tuple[Any, ...]:
    """Return the values of a record in the order of its type, as a call of the contract takes them."""
    return tuple(getattr(record, name) for name in FIELDS[type(record)])


@dataclass(frozen=True)
class SignedUpdate:
    """A record and the 65 bytes r, s, v (27 or 28) of its hospital's signature."""

    record: ModelUpdate
    signature: bytes


# --- Commitments ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Opening:
    """What stands behind the salted commitments of one update; deleting it makes them unreadable for good.

    Attributes:
        samples: number of training samples.
        samples_salt: 32 bytes.
        metrics: what the hospital measured, plain JSON data.
        metrics_salt: 32 bytes.
        privacy: inputs of the privacy accountant, None without differential privacy.
    """

    samples: int
    samples_salt: bytes
    metrics: dict[str, Any]
    metrics_salt: bytes
    privacy: dict[str, Any] | None = None


def count_commitment(salt: bytes, count: int) -> bytes:
    """Commit to a number: keccak256(abi.encode(bytes32 salt, uint256 count))."""
    return keccak(salt + word(count))


def json_commitment(salt: bytes, value: Any) -> bytes:
    """Commit to JSON data: keccak256(abi.encode(bytes32 salt, bytes32 sha256 of the canonical JSON))."""
    return keccak(salt + json_hash(value))


def commitments(opening: Opening) -> dict[str, bytes]:
    """Return the fields samples, metrics and privacy of the update that an opening belongs to."""
    return {
        "samples": count_commitment(opening.samples_salt, opening.samples),
        "metrics": json_commitment(opening.metrics_salt, opening.metrics),
        "privacy": ZERO if opening.privacy is None else json_hash(opening.privacy),
    }


def real_floor(count: int) -> int:
    """Return the largest of 0, 1, 2, 6, 10, 20, 30, 50, 100, 200, 500, 1000, ... that does not exceed `count`.

    Steps 2 and 6 are those at which a generator with five neighbours begins to work.
    """
    steps = [0, 1, 2, 6, 10, 20, 30, 50]
    scale = 100
    while scale <= count:
        steps += [scale, 2 * scale, 5 * scale]
        scale *= 10
    return max(step for step in steps if step <= count)


# --- The federation and its rounds ------------------------------------------------------------------------------------


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
        organisations: 32 bytes for each slot; empty makes every hospital an organisation of its own.
        quorum: least number of updates of a round.
        window: seconds in which a sealed round can be disputed.

    Raises:
        LedgerError: a value has the wrong type, length or range, or a hospital appears twice.
    """

    id: bytes
    config_hash: bytes
    hospitals: tuple[str, ...]
    genesis_model: bytes
    layout: tuple[tuple[str, tuple[int, ...]], ...]
    weighting: str
    organisations: tuple[bytes, ...] = ()
    quorum: int = 1
    window: int = 0

    def __post_init__(self) -> None:
        for name in ("id", "config_hash", "genesis_model"):
            _require(name, getattr(self, name), "bytes32")
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
        own = self.organisations or tuple(organisation(slot) for slot in range(len(self.hospitals)))
        object.__setattr__(self, "organisations", tuple(own))
        for value in self.organisations:
            _require("organisation", value, "bytes32")
        if len(self.organisations) != len(self.hospitals):
            raise LedgerError(
                f"organisations: expected {len(self.hospitals)}, one for each slot, found {len(self.organisations)}"
            )
        _require("window", self.window, "uint24")
        if not _is_uint(self.quorum, 24) or not 1 <= self.quorum <= len(self.hospitals):
            raise LedgerError(f"quorum: expected 1 to {len(self.hospitals)}, found {self.quorum!r}")


def organisation(slot: int) -> bytes:
    """Return the organisation of a hospital that belongs to no other."""
    return keccak(b"PulseLedger organisation 1|%d" % slot)


@dataclass(frozen=True)
class Header:
    """A sealed round as its head commits to it; `head` follows from the other fields (`merkle.next_head`).

    Attributes:
        round: number of the round, from 1; 0 is the opening of the federation.
        previous_head: head before it.
        root: root of the tree of updates.
        parent_model: hash of the model before the round.
        model: hash of the model after it.
        count: number of updates.
        scores_root: root of the tree of verdicts, zero without.
        decisions: hash chain of all decisions on synthetic data so far, zero without.
        head: head after it.
    """

    round: int
    previous_head: bytes
    root: bytes
    parent_model: bytes
    model: bytes
    count: int
    scores_root: bytes
    decisions: bytes
    head: bytes


@dataclass(frozen=True)
class Verdicts:
    """Verdicts of one round on the 16 hospitals 16 * index to 16 * index + 15, one bit each.

    Attributes:
        participated: bit set of the hospitals with a verdict.
        accepted: bit set of those whose update was good.
        threshold: reputation at which the rule turns.
    """

    index: int
    participated: int
    accepted: int
    threshold: int


@dataclass(frozen=True)
class PeerScore:
    """What hospital `judge` found of the update of `slot`: correct predictions among all its validation beats."""

    slot: int
    judge: int
    correct: int
    total: int


@dataclass(frozen=True)
class RoundEntry:
    """One round as the loop reports it: number from 1, model hashes before and after, updates by ascending slot.

    Attributes:
        openings: one for each update.
        verdicts: by ascending index.
        peers: what the verdicts follow from, by ascending slot and judge.
        decisions: as in `Header`.
        next_deadline: of the next round, which the seal opens: 0 for none, NO_ROUND opens no round.
    """

    round: int
    parent_model: bytes
    model: bytes
    updates: tuple[SignedUpdate, ...]
    openings: tuple[Opening, ...]
    verdicts: tuple[Verdicts, ...] = ()
    peers: tuple[PeerScore, ...] = ()
    decisions: bytes = ZERO
    next_deadline: int = 0


@dataclass(frozen=True)
class Seal:
    """Proof that a round is on the chain: tree root, head after it, updates, transaction hash (0x hex), gas."""

    round: int
    root: bytes
    head: bytes
    count: int
    transaction: str
    gas: int


# --- JSON -------------------------------------------------------------------------------------------------------------


def record_to_json(record: Record | Opening | Verdicts) -> str:
    """Write a record as canonical JSON, bytes as 0x hex."""
    return canonical_json(_plain(asdict(record)))


def record_from_json(kind: type[R], text: str) -> R:
    """Read what `record_to_json` wrote.

    Raises:
        LedgerError: not JSON, a field is missing, unknown, or of the wrong type, length or range.
    """
    convert = {name: _hex for name, solidity in FIELDS[kind].items() if solidity == "bytes32"}
    return kind(**_read("record", text, kind, convert))


def opening_from_json(text: str) -> Opening:
    """Read the JSON of an opening; raises LedgerError when a field is missing, unknown or wrong."""
    opening = Opening(**_read("opening", text, Opening, {"samples_salt": _hex, "metrics_salt": _hex}))
    _require("samples", opening.samples, "uint64")
    for name in ("samples_salt", "metrics_salt"):
        _require(name, getattr(opening, name), "bytes32")
    if not isinstance(opening.metrics, dict) or not isinstance(opening.privacy, dict | None):
        raise LedgerError("opening: metrics and privacy must be objects")
    return opening


def verdicts_from_json(text: str) -> Verdicts:
    """Read the JSON of verdicts; raises LedgerError when a field is missing, unknown or wrong."""
    verdicts = Verdicts(**_read("verdicts", text, Verdicts, {}))
    _require("index", verdicts.index, "uint32")
    for name in ("participated", "accepted", "threshold"):
        _require(name, getattr(verdicts, name), "uint16")
    return verdicts


def federation_to_json(federation: Federation) -> str:
    """Write a federation as canonical JSON, bytes as 0x hex."""
    return canonical_json(_plain(asdict(federation)))


def federation_from_json(text: str) -> Federation:
    """Read what `federation_to_json` wrote.

    Raises:
        LedgerError: not JSON, or a field is missing, unknown or wrong.
    """
    names = ("id", "config_hash", "genesis_model")
    values = _read("federation", text, Federation, dict.fromkeys(names, _hex) | {"organisations": _hex_list})
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


def _word(value: Any, solidity: str) -> bytes:
    return word(address_bytes(value) if solidity == "address" else value)


def _is_uint(value: Any, bits: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << bits


def _require(name: str, value: Any, solidity: str) -> None:
    """Refuse a value that is not of a Solidity type."""
    if solidity == "bytes32":
        if not isinstance(value, bytes) or len(value) != 32:
            found = f"{len(value)} bytes" if isinstance(value, bytes) else repr(value)
            raise LedgerError(f"record field {name}: expected 32 bytes, found {found}")
    elif solidity == "address":
        address_bytes(value)
    elif solidity == "bool":
        if not isinstance(value, bool):
            raise LedgerError(f"record field {name}: expected true or false, found {value!r}")
    else:
        bits = int(solidity.removeprefix("u").removeprefix("int"))
        if not _is_uint(value if solidity[0] == "u" else _shifted(value, bits), bits):
            raise LedgerError(f"record field {name}: expected an integer of type {solidity}, found {value!r}")


def _shifted(value: Any, bits: int) -> Any:
    return value + (1 << bits - 1) if isinstance(value, int) and not isinstance(value, bool) else value


def _hex(value: Any) -> bytes:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise ValueError(f"expected 0x hex, found {value!r}")
    return bytes.fromhex(value[2:])


def _hex_list(value: Any) -> Any:
    if not isinstance(value, list):
        raise ValueError(f"expected a list, found {value!r}")
    return tuple(_hex(item) for item in value)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _read(what: str, text: Any, kind: type, convert: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
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
