"""Our contracts: committed builds, calls of their functions, and what their answers and refusals mean."""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from engine.encoding import keccak
from engine.errors import LedgerError
from engine.ledger.chain.base import Chain, Log, NoContract
from engine.ledger.typed import checksum_address

CONTRACTS = (
    "RoundLedger",
    "ReputationLedger",
    "SyntheticLedger",
    "CommitteeLedger",
    "MaskLedger",
    "SuccessionLedger",
    "StudyLedger",
)

_BUILDS = Path(__file__).parents[1] / "artefacts"


@cache
def artefact(contract: str = "RoundLedger") -> dict[str, Any]:
    """Return the committed build of one of `CONTRACTS`: abi, bytecode, deployedBytecode, ..."""
    content: dict[str, Any] = json.loads((_BUILDS / f"{contract}.json").read_text(encoding="utf-8"))
    return content


def artefact_digest(contract: str = "RoundLedger") -> str:
    """Return the SHA-256, in hex, of the committed build as it lies in its file."""
    return hashlib.sha256((_BUILDS / f"{contract}.json").read_bytes()).hexdigest()


def is_deployed(code: bytes, contract: str = "RoundLedger") -> bool:
    """Tell whether the code at an address is this version's; values that the constructor filled in are skipped."""
    expected = bytearray.fromhex(artefact(contract)["deployedBytecode"][2:])
    if len(code) != len(expected):
        return False
    found = bytearray(code)
    for start in _immutables(contract):
        found[start : start + 32] = bytes(32)
    return found == expected


@cache
def _immutables(contract: str) -> list[int]:
    """Where the committed code leaves room for a word that the constructor knows: PUSH32 of zero."""
    code = bytes.fromhex(artefact(contract)["deployedBytecode"][2:])
    hole, places, start = b"\x7f" + bytes(32), [], 0
    while (start := code.find(hole, start)) >= 0:
        places.append(start + 1)
        start += len(hole)
    return places


def deploy_data(*arguments: Any, contract: str = "RoundLedger") -> bytes:
    """Encode the creation of a contract with the arguments of its constructor."""
    return bytes.fromhex(artefact(contract)["bytecode"][2:]) + _encode(_entry("constructor", None, contract), arguments)


def call_data(function: str, *arguments: Any, contract: str = "RoundLedger") -> bytes:
    """Encode a call; a struct is a tuple of its values.

    Raises:
        LedgerError: an argument is not of the type that the contract takes.
    """
    entry = _entry("function", function, contract)
    return _selector(function, "function", contract) + _encode(entry, arguments)


def call_arguments(data: bytes, contract: str = "RoundLedger") -> tuple[str, dict[str, Any]]:
    """Read the function of a call and its arguments by name, as `call_data` takes them; bytes stay bytes.

    Raises:
        LedgerError: it is not a call of this contract.
    """
    for item in artefact(contract)["abi"]:
        if item["type"] == "function" and _selector(item["name"], "function", contract) == data[:4]:
            return item["name"], _decode(item["inputs"], data[4:])
    raise LedgerError(f"the data is not a call of {contract}")


def read_event(log: Log, contract: str = "RoundLedger") -> tuple[str, dict[str, Any]]:
    """Read the name of an event of this contract, and its values by name.

    Raises:
        LedgerError: it is no event of this contract.
    """
    for item in artefact(contract)["abi"]:
        if item["type"] == "event" and log.topics[:1] == (_signature(item["name"], "event", contract),):
            inputs = item["inputs"]
            indexed = [part for part in inputs if part["indexed"]]
            values = _decode(indexed, b"".join(log.topics[1:])) | _decode(
                [part for part in inputs if not part["indexed"]], log.data
            )
            return item["name"], {part["name"]: values[part["name"]] for part in inputs}
    raise LedgerError(f"the log is no event of {contract}")


def query(chain: Chain, address: str, function: str, *arguments: Any, contract: str = "RoundLedger") -> Any:
    """Ask a contract: one answer as it is, several by name; a struct is a mapping of its values by name.

    Raises:
        ContractRevert: the contract refuses.
        NoContract: nothing lives at the address.
        LedgerError: what lives at the address does not answer as this contract.
    """
    answer = chain.call(address, call_data(function, *arguments, contract=contract), answers=True)
    try:
        values = _decode(_entry("function", function, contract)["outputs"], answer)
        return values if len(values) > 1 else next(iter(values.values()), None)
    except LedgerError as error:
        if not answer and not chain.code(address):
            raise NoContract(f"there is no contract at {address} on the {chain.name} chain (any more)") from error
        raise LedgerError(f"{address} on the {chain.name} chain does not answer as a {contract}") from error


def explain_revert(data: bytes) -> str:
    """Turn the bytes of a custom error into its name and arguments."""
    for contract in CONTRACTS:
        for item in artefact(contract)["abi"]:
            if item["type"] == "error" and _selector(item["name"], "error", contract) == data[:4]:
                try:
                    values = _decode(item["inputs"], data[4:])
                except LedgerError:
                    break
                shown = [f"{name}={'0x' + v.hex() if isinstance(v, bytes) else v}" for name, v in values.items()]
                return f"{item['name']}({', '.join(shown)})"
    return f"reverted with 0x{data.hex()}"


@cache
def _entry(kind: str, name: str | None, contract: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        item for item in artefact(contract)["abi"] if item["type"] == kind and item.get("name") == name
    )
    return found


def selector(function: str, contract: str = "RoundLedger") -> bytes:
    """The first four bytes of every call of a function."""
    return _selector(function, "function", contract)


def _selector(name: str, kind: str, contract: str) -> bytes:
    return _signature(name, kind, contract)[:4]


@cache
def _signature(name: str, kind: str, contract: str) -> bytes:
    inputs = _entry(kind, name, contract)["inputs"]
    return keccak(f"{name}({','.join(_type(item) for item in inputs)})".encode())


def _type(item: dict[str, Any]) -> str:
    """The canonical type of an argument; a struct is written as the tuple of its types."""
    if not item["type"].startswith("tuple"):
        return str(item["type"])
    return f"({','.join(_type(part) for part in item['components'])}){item['type'].removeprefix('tuple')}"


def _encode(entry: dict[str, Any], arguments: Sequence[Any]) -> bytes:
    from eth_abi import encode
    from eth_abi.exceptions import EncodingError

    try:
        return encode([_type(item) for item in entry["inputs"]], list(arguments))
    except (EncodingError, ValueError, TypeError) as error:
        raise LedgerError(f"the arguments of {entry.get('name', 'the constructor')} do not fit: {error}") from error


def _decode(items: Sequence[dict[str, Any]], data: bytes) -> dict[str, Any]:
    from eth_abi import decode
    from eth_abi.exceptions import DecodingError

    try:
        values = decode([_type(item) for item in items], data)
    except (DecodingError, ValueError, OverflowError) as error:
        raise LedgerError(f"the data does not have the expected form: {error}") from error
    return {item["name"] or str(i): _named(item, v) for i, (item, v) in enumerate(zip(items, values, strict=True))}


def _named(item: dict[str, Any], value: Any) -> Any:
    """A decoded value with structs as mappings and addresses in checksum form."""
    if item["type"] == "address":
        return checksum_address(bytes.fromhex(value[2:]))
    if item["type"].endswith("[]"):
        return tuple(_named({**item, "type": item["type"].removesuffix("[]")}, one) for one in value)
    if item["type"] == "tuple":
        return {part["name"]: _named(part, v) for part, v in zip(item["components"], value, strict=True)}
    return value
