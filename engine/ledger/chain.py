"""Where the contracts live: an Ethereum virtual machine in this process, or a node behind JSON-RPC.

Both refuse a transaction that was signed for another chain id before it gets any further: the embedded virtual machine
does not look at the chain id itself.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from eth_hash.auto import keccak

from engine.errors import LedgerError
from engine.ledger.journal import ChainReceipt
from engine.ledger.records import address_bytes, checksum_address
from engine.ledger.signing import address, sign_digest

CONTRACTS = ("RoundLedger", "SyntheticLedger", "StudyLedger")
KEY_VARIABLE = "PULSELEDGER_LEDGER_KEY"

# The embedded chain dies with its process, so its one account protects nothing; a fixed key gives the contract the
# same address in every run, and a replay the same hashes.
_EMBEDDED_KEY = keccak(b"PulseLedger embedded coordinator 1")
_EMBEDDED_TIME = 1_700_000_000  # seconds since 1970; no hash of ours depends on it

# Limits; the measured use is well below each.
GAS = {"deploy": 7_000_000, "deploy-synthetic": 7_000_000, "seal": 200_000}
GAS_OTHER = 1_500_000


class ContractRevert(LedgerError):
    """The contract refused a call. The message names its error and the arguments."""


class Chain(Protocol):
    """What the ledger needs of a chain. Addresses are checksum text, hashes and data are bytes."""

    name: str
    chain_id: int

    @property
    def sender(self) -> str:
        """Account that signs."""

    def sign(self, to: str | None, data: bytes, gas: int, ahead: int = 0) -> bytes:
        """Sign the next transaction (the one `ahead` places after it); `to=None` creates a contract. Sends nothing."""

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign 32 bytes with the key of the account, as receipts are."""

    def send(self, raw: bytes) -> None:
        """Send a signed transaction. Raises LedgerError if it is for another chain or the chain does not take it."""

    def receipt(self, transaction: bytes, wait: bool = False) -> ChainReceipt | None:
        """Return the receipt of a transaction hash, None if unknown. `wait` raises LedgerError when time runs out."""

    def spent(self, raw: bytes) -> bool:
        """Tell whether the account has already used the nonce of this transaction."""

    def call(self, to: str, data: bytes) -> bytes:
        """Call the contract without a transaction. Raises ContractRevert if it refuses."""

    def code(self, contract: str) -> bytes:
        """Return the code at an address, empty if there is none."""

    def close(self) -> None:
        """Let go of the chain."""


class EmbeddedChain:
    """py-evm in this process: empty each time, filled by replaying the raw transactions of the journal."""

    name = "embedded"

    def __init__(self) -> None:
        # Slow imports, and only this back end needs them.
        from eth.vm.forks import CancunVM
        from eth_tester.backends.pyevm import PyEVMBackend
        from eth_tester.backends.pyevm.main import get_default_genesis_params

        self._account = address_bytes(address(_EMBEDDED_KEY))
        backend = PyEVMBackend(
            genesis_parameters=get_default_genesis_params({"timestamp": _EMBEDDED_TIME}),
            genesis_state={self._account: {"balance": 10**30, "nonce": 0, "code": b"", "storage": {}}},
            # The rules that the contract was compiled for, whatever a later version takes as its default.
            vm_configuration=((0, CancunVM),),
        )
        # The virtual machine itself: the layers above it look up a receipt by walking through all blocks.
        self._chain: Any = backend.chain
        self._receipts: dict[bytes, ChainReceipt] = {}
        self._nonce = 0
        self.chain_id = int(self._chain.chain_id)

    @property
    def sender(self) -> str:
        return checksum_address(self._account)

    def sign(self, to: str | None, data: bytes, gas: int, ahead: int = 0) -> bytes:
        # The base fee only falls from its first value, as the blocks are nearly empty.
        return sign_transaction(_EMBEDDED_KEY, self.chain_id, self._nonce + ahead, to, data, gas, 0, 10**10)

    def sign_digest(self, digest: bytes) -> bytes:
        return sign_digest(digest, _EMBEDDED_KEY)

    def send(self, raw: bytes) -> None:
        from eth_utils import ValidationError

        require_chain_id(raw, self)
        try:
            transaction = self._chain.get_transaction_builder().decode(raw)
            self._chain.set_header_timestamp(self._chain.get_canonical_head().timestamp + 1)
            _, receipt, computation = self._chain.apply_transaction(transaction)
            self._chain.mine_block()
        except ValidationError as error:
            raise LedgerError(f"the embedded chain does not take the transaction: {error}") from error
        self._nonce = transaction.nonce + 1
        identity = keccak(raw)
        self._receipts[identity] = ChainReceipt("0x" + identity.hex(), int(computation.is_success), receipt.gas_used)

    def receipt(self, transaction: bytes, wait: bool = False) -> ChainReceipt | None:
        receipt = self._receipts.get(transaction)
        if receipt is None and wait:
            raise LedgerError(f"the embedded chain has no transaction 0x{transaction.hex()}")
        return receipt

    def spent(self, raw: bytes) -> bool:
        return decode_transaction(raw)["nonce"] < self._nonce

    def call(self, to: str, data: bytes) -> bytes:
        from eth.exceptions import Revert, VMError
        from eth.vm.spoof import SpoofTransaction

        unsigned = self._chain.create_unsigned_transaction(
            nonce=self._nonce, gas_price=10**10, gas=10**7, to=address_bytes(to), value=0, data=data
        )
        transaction = SpoofTransaction(unsigned, from_=self._account)
        try:
            return bytes(self._execute(transaction))
        except Revert as error:
            raise ContractRevert(explain_revert(error.args[0] if error.args else b"")) from error
        except VMError as error:
            raise ContractRevert(str(error)) from error

    def _execute(self, transaction: Any) -> bytes:
        # As the chain's own method, but at the time of the next block: that one takes the time of day, and deadlines pass.
        head = self._chain.get_canonical_head()
        vm = self._chain.get_vm(head)
        block = vm.generate_block_from_parent_header_and_coinbase(head, head.coinbase)
        header = block.header.copy(base_fee_per_gas=0, timestamp=head.timestamp + 1)
        state = vm.build_state(self._chain.chaindb.db, header, vm.chain_context, (head.hash, *vm.previous_hashes))
        snapshot = state.snapshot()
        try:
            computation = state.costless_execute_transaction(transaction)
            computation.raise_if_error()
            return bytes(computation.output)
        finally:
            state.revert(snapshot)

    def code(self, contract: str) -> bytes:
        return bytes(self._chain.get_vm().state.get_code(address_bytes(contract)))

    def close(self) -> None:
        self._chain = None


class RpcChain:
    """A node behind JSON-RPC, through web3.py. `key` None reads only."""

    name = "rpc"

    def __init__(
        self, url: str, chain_id: int | None = None, key: bytes | None = None, receipt_seconds: float = 60.0
    ) -> None:
        """Connect.

        Raises:
            LedgerError: nothing answers at the URL within about five seconds, or the node is on another chain.
        """
        self.url = public_url(url)
        self._key = key
        self._receipt_seconds = receipt_seconds
        # The first question has little time, so that a wrong URL is told soon; a busy node has more of it later.
        self._provider = _provider(url, (1.5, 3.0))
        self.chain_id = int(self._request("eth_chainId"), 16)
        self._provider = _provider(url, (5.0, 30.0))
        if chain_id is not None and chain_id != self.chain_id:
            raise LedgerError(f"the node at {self.url} is on chain {self.chain_id}, ledger.chain_id is {chain_id}")

    @property
    def sender(self) -> str:
        return address(self._signing_key())

    def sign(self, to: str | None, data: bytes, gas: int, ahead: int = 0) -> bytes:
        nonce = int(self._request("eth_getTransactionCount", self.sender, "pending"), 16) + ahead
        base = (self._request("eth_getBlockByNumber", "latest", False) or {}).get("baseFeePerGas")
        if base is None:
            price = int(self._request("eth_gasPrice"), 16)
            return sign_transaction(self._signing_key(), self.chain_id, nonce, to, data, gas, None, price)
        # Room for the base fee to double; a network with free gas has base 0 and pays nothing.
        tip = min(int(base, 16), 10**9)
        fee = 2 * int(base, 16) + tip
        return sign_transaction(self._signing_key(), self.chain_id, nonce, to, data, gas, tip, fee)

    def sign_digest(self, digest: bytes) -> bytes:
        return sign_digest(digest, self._signing_key())

    def send(self, raw: bytes) -> None:
        require_chain_id(raw, self)
        self._request("eth_sendRawTransaction", "0x" + raw.hex())

    def receipt(self, transaction: bytes, wait: bool = False) -> ChainReceipt | None:
        deadline = time.monotonic() + self._receipt_seconds
        pause = 0.01
        while True:
            found = self._request("eth_getTransactionReceipt", "0x" + transaction.hex())
            if found is not None:
                return ChainReceipt("0x" + transaction.hex(), int(found["status"], 16), int(found["gasUsed"], 16))
            if not wait:
                return None
            if time.monotonic() > deadline:
                raise LedgerError(
                    f"the node at {self.url} gave no receipt for transaction 0x{transaction.hex()} "
                    f"within {self._receipt_seconds:g} s; it is in the journal and can be settled later"
                )
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def spent(self, raw: bytes) -> bool:
        count = int(self._request("eth_getTransactionCount", self.sender, "latest"), 16)
        return decode_transaction(raw)["nonce"] < count

    def call(self, to: str, data: bytes) -> bytes:
        call = {"to": to, "data": "0x" + data.hex()}
        if self._key is not None:
            call["from"] = self.sender
        return bytes.fromhex(self._request("eth_call", call, "latest")[2:])

    def code(self, contract: str) -> bytes:
        return bytes.fromhex(self._request("eth_getCode", contract, "latest")[2:])

    def close(self) -> None:
        self._provider = None

    def _signing_key(self) -> bytes:
        if self._key is None:
            raise LedgerError(f"sending through {self.url} needs a private key in {KEY_VARIABLE} or ledger.key_file")
        return self._key

    def _request(self, method: str, *params: Any) -> Any:
        from requests.exceptions import RequestException
        from web3.exceptions import Web3Exception

        try:
            answer: Any = self._provider.make_request(method, list(params))
        except (RequestException, Web3Exception, OSError, ValueError) as error:
            # What the library says repeats the URL, with any credentials in it.
            raise LedgerError(f"no Ethereum node answers at {self.url} ({method}: {type(error).__name__})") from None
        if "error" in answer:
            problem = answer["error"]
            data = problem.get("data") if isinstance(problem, dict) else None
            message = problem.get("message", problem) if isinstance(problem, dict) else problem
            if method == "eth_call":
                text = explain_revert(bytes.fromhex(data[2:])) if isinstance(data, str) and len(data) > 2 else message
                raise ContractRevert(str(text))
            raise LedgerError(f"the node at {self.url} refuses {method}: {message}")
        return answer.get("result")


def read_key(key_file: str | Path | None) -> bytes:
    """Read the 32-byte key of the coordinator: from the environment, else from a file of 64 hex digits.

    Raises:
        LedgerError: there is none, or it is not a key. The message never holds any of it.
    """
    source, text = KEY_VARIABLE, os.environ.get(KEY_VARIABLE, "")
    if not text and key_file is not None:
        source = str(key_file)
        try:
            text = Path(key_file).read_text(encoding="ascii")
        except (OSError, ValueError) as error:
            raise LedgerError(f"ledger.key_file {key_file} cannot be read") from error
    if not text:
        raise LedgerError(f"ledger.backend rpc needs a private key in {KEY_VARIABLE} or ledger.key_file")
    try:
        key = bytes.fromhex(text.strip().removeprefix("0x"))
        address(key)
    except (ValueError, LedgerError):
        raise LedgerError(f"{source} does not hold a private key of 64 hex digits") from None
    return key


def public_url(url: str) -> str:
    """Return a URL without user name, password and query, fit for messages and for the journal."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


# --- Transactions -----------------------------------------------------------------------------------------------------


def sign_transaction(
    key: bytes,
    chain_id: int,
    nonce: int,
    to: str | None,
    data: bytes,
    gas: int,
    tip: int | None,
    fee: int,
) -> bytes:
    """Sign a transaction of type 2, or of the old type bound to the chain id when `tip` is None. Fees are in wei."""
    import rlp

    target = address_bytes(to) if to is not None else b""
    if tip is None:
        body = [nonce, fee, gas, target, 0, data]
        signature = sign_digest(keccak(rlp.encode([*body, chain_id, 0, 0])), key)
        v = signature[64] - 27 + 35 + 2 * chain_id
        return bytes(rlp.encode([*body, v, _integer(signature[:32]), _integer(signature[32:64])]))
    body = [chain_id, nonce, tip, fee, gas, target, 0, data, []]
    signature = sign_digest(keccak(b"\x02" + rlp.encode(body)), key)
    tail = [signature[64] - 27, _integer(signature[:32]), _integer(signature[32:64])]
    return b"\x02" + bytes(rlp.encode([*body, *tail]))


def decode_transaction(raw: bytes) -> dict[str, Any]:
    """Read chain_id (None if it is bound to none), nonce, to (None for a new contract) and data.

    Raises:
        LedgerError: it is not a transaction of the two types that `sign_transaction` makes.
    """
    import rlp

    try:
        if raw[:1] == b"\x02":
            chain, nonce, _, _, _, to, _, data = rlp.decode(raw[1:])[:8]
            chain_id: int | None = _integer(chain)
        else:
            nonce, _, _, to, _, data, v = rlp.decode(raw)[:7]
            chain_id = (_integer(v) - 35) // 2 if _integer(v) >= 35 else None
        return {
            "chain_id": chain_id,
            "nonce": _integer(nonce),
            "to": checksum_address(bytes(to)) if to else None,
            "data": bytes(data),
        }
    except (rlp.exceptions.RLPException, ValueError, TypeError, IndexError) as error:
        raise LedgerError("the bytes are not a signed transaction of a known type") from error


def require_chain_id(raw: bytes, chain: Chain) -> None:
    """Refuse a transaction that was signed for another chain.

    Raises:
        LedgerError: it was.
    """
    found = decode_transaction(raw)["chain_id"]
    if found != chain.chain_id:
        raise LedgerError(f"the transaction is signed for chain {found}, the {chain.name} chain is {chain.chain_id}")


def created_contract(sender: str, raw: bytes) -> str:
    """Return the address of the contract that a transaction creates."""
    import rlp

    return checksum_address(keccak(rlp.encode([address_bytes(sender), decode_transaction(raw)["nonce"]]))[-20:])


# --- The contracts ----------------------------------------------------------------------------------------------------


@cache
def artefact(contract: str = "RoundLedger") -> dict[str, Any]:
    """Return the committed build of RoundLedger, SyntheticLedger or StudyLedger: abi, bytecode, deployedBytecode, ..."""
    content: dict[str, Any] = json.loads(Path(__file__).with_name(f"{contract}.json").read_text(encoding="utf-8"))
    return content


def artefact_digest(contract: str = "RoundLedger") -> str:
    """Return the SHA-256, in hex, of the committed build as it lies in its file."""
    return hashlib.sha256(Path(__file__).with_name(f"{contract}.json").read_bytes()).hexdigest()


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


def query(chain: Chain, address: str, function: str, *arguments: Any, contract: str = "RoundLedger") -> Any:
    """Ask a contract: one answer as it is, several by name; a struct is a mapping of its values by name.

    Raises:
        ContractRevert: the contract refuses.
        LedgerError: what lives at the address does not answer as this contract.
    """
    answer = chain.call(address, call_data(function, *arguments, contract=contract))
    try:
        values = _decode(_entry("function", function, contract)["outputs"], answer)
        return values if len(values) > 1 else next(iter(values.values()), None)
    except LedgerError as error:
        raise LedgerError(f"{address} on the {chain.name} chain does not answer as a {contract}") from error


def coordinator_role() -> bytes:
    """Return the identifier of the role that may open federations and seal rounds."""
    return keccak(b"COORDINATOR_ROLE")


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


@cache
def _selector(name: str, kind: str, contract: str) -> bytes:
    inputs = _entry(kind, name, contract)["inputs"]
    return keccak(f"{name}({','.join(_type(item) for item in inputs)})".encode())[:4]


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
    if item["type"] == "tuple":
        return {part["name"]: _named(part, v) for part, v in zip(item["components"], value, strict=True)}
    return value


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _provider(url: str, timeout: tuple[float, float]) -> Any:
    from web3 import HTTPProvider

    if urlsplit(url).scheme not in ("http", "https"):
        raise LedgerError(f"ledger.url {public_url(url)!r} is not an http or https address")
    # Without retries: the caller decides whether to try again, and the journal makes that safe.
    return HTTPProvider(url, request_kwargs={"timeout": timeout}, exception_retry_configuration=None)
