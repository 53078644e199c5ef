"""Where the contracts live: an Ethereum virtual machine in this process, or a node behind JSON-RPC.

Both refuse a transaction that was signed for another chain id before it gets any further: the embedded virtual machine
does not look at the chain id itself. How a transaction gets onto a chain that forgets, reorders or waits is the business
of `engine.ledger.delivery`.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit, urlunsplit

from engine.encoding import keccak
from engine.errors import LedgerError
from engine.ledger.journal import ChainReceipt
from engine.ledger.records import address_bytes, checksum_address
from engine.ledger.signing import address, sign_digest

CONTRACTS = ("RoundLedger", "SyntheticLedger", "StudyLedger")
KEY_VARIABLE = "PULSELEDGER_LEDGER_KEY"

# The embedded chain dies with its process, so its one account protects nothing; a fixed key gives the contract the
# same address in every run, and a replay the same hashes.
_EMBEDDED_KEY = keccak(b"PulseLedger embedded coordinator 1")
EMBEDDED_AUDITOR = keccak(b"PulseLedger embedded auditor 1")
_EMBEDDED_TIME = 1_700_000_000  # seconds since 1970; no hash of ours depends on it

# Limits; the measured use is well below each.
GAS = {"deploy": 7_000_000, "deploy-synthetic": 7_000_000, "seal": 200_000}
GAS_OTHER = 1_500_000


# What became of a transaction: in a block (deep enough or not); waiting in the pool with no number missing before it;
# not known, and its number is the next one; not known or waiting, and a smaller number is missing; its number was used
# by another transaction.
Whereabouts = Literal["mined", "pending", "absent", "gap", "displaced"]


class ContractRevert(LedgerError):
    """The contract refused a call. The message names its error and the arguments."""


class NodeUnreachable(LedgerError):
    """No node answered; the same question may get an answer later."""


class FeeTooLow(LedgerError):
    """The node takes this transaction only with a higher fee."""


class Chain(Protocol):
    """What the ledger needs of a chain. Addresses are checksum text, hashes and data are bytes."""

    name: str
    chain_id: int
    timeout: float  # seconds after which a transaction without a receipt is an error

    @property
    def sender(self) -> str:
        """Account that signs."""

    def sign(self, to: str | None, data: bytes, gas: int, ahead: int = 0) -> bytes:
        """Sign the next transaction (the one `ahead` places after it); `to=None` creates a contract. Sends nothing."""

    def sign_as(self, key: bytes, to: str, data: bytes, gas: int) -> bytes:
        """Sign the next call of another account, as an auditor does. Sends nothing."""

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign 32 bytes with the key of the account, as receipts are."""

    def dearer(self, raw: bytes) -> bytes | None:
        """Sign a transaction again with the same nonce and a fee that may replace it; None where gas is free."""

    def send(self, raw: bytes) -> None:
        """Send a signed transaction.

        Raises:
            FeeTooLow: the chain would take it for more.
            LedgerError: it is for another chain, or the chain does not take it (also one that it has already).
        """

    def receipt(self, transaction: bytes) -> ChainReceipt | None:
        """Return the receipt of a transaction hash; None if it is in no block, or not yet in one deep enough."""

    def where(self, raw: bytes) -> Whereabouts:
        """Tell what became of a transaction of this account."""

    def call(self, to: str, data: bytes) -> bytes:
        """Call the contract without a transaction. Raises ContractRevert if it refuses."""

    def code(self, contract: str) -> bytes:
        """Return the code at an address, empty if there is none."""

    def close(self) -> None:
        """Let go of the chain."""


class EmbeddedChain:
    """py-evm in this process: empty each time, filled by replaying the raw transactions of the journal."""

    name = "embedded"
    timeout = 0.0

    def __init__(self) -> None:
        # Slow imports, and only this back end needs them.
        from eth.vm.forks import CancunVM
        from eth_tester.backends.pyevm import PyEVMBackend
        from eth_tester.backends.pyevm.main import get_default_genesis_params

        self._account = address_bytes(address(_EMBEDDED_KEY))
        backend = PyEVMBackend(
            genesis_parameters=get_default_genesis_params({"timestamp": _EMBEDDED_TIME}),
            genesis_state={
                account: {"balance": 10**30, "nonce": 0, "code": b"", "storage": {}}
                for account in (self._account, address_bytes(address(EMBEDDED_AUDITOR)))
            },
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

    def sign_as(self, key: bytes, to: str, data: bytes, gas: int) -> bytes:
        nonce = self._chain.get_vm().state.get_nonce(address_bytes(address(key)))
        return sign_transaction(key, self.chain_id, nonce, to, data, gas, 0, 10**10)

    def sign_digest(self, digest: bytes) -> bytes:
        return sign_digest(digest, _EMBEDDED_KEY)

    def dearer(self, raw: bytes) -> bytes | None:
        return None

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
        if transaction.sender == self._account:
            self._nonce = transaction.nonce + 1
        identity = keccak(raw)
        self._receipts[identity] = ChainReceipt("0x" + identity.hex(), int(computation.is_success), receipt.gas_used)

    def receipt(self, transaction: bytes) -> ChainReceipt | None:
        return self._receipts.get(transaction)

    def where(self, raw: bytes) -> Whereabouts:
        nonce = decode_transaction(raw)["nonce"]
        if keccak(raw) in self._receipts:
            return "mined"
        return "absent" if nonce == self._nonce else "displaced" if nonce < self._nonce else "gap"

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
    """A node behind JSON-RPC, through web3.py. `key` None reads only.

    Networks with fees after EIP-1559 get a transaction of type 2, older ones one of the old type bound to the chain id
    (EIP-155); where the node asks no price at all (a permissioned network with free gas) none is offered.
    """

    name = "rpc"

    def __init__(
        self,
        url: str,
        chain_id: int | None = None,
        key: bytes | None = None,
        confirmations: int = 0,
        timeout: float = 300.0,
    ) -> None:
        """Connect.

        Args:
            url: http or https address.
            chain_id: the chain that the caller means; None takes the node's.
            key: 32 bytes, signs transactions.
            confirmations: number of blocks on top of a transaction's own before its receipt counts.
            timeout: seconds that a transaction may take.

        Raises:
            LedgerError: nothing answers at the URL within about five seconds, or the node is on another chain.
        """
        self.url = public_url(url)
        self.timeout = timeout
        self._key = key
        self._confirmations = confirmations
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
        tip, fee = self._fees()
        nonce = self._count("pending") + ahead
        return sign_transaction(self._signing_key(), self.chain_id, nonce, to, data, gas, tip, fee)

    def sign_as(self, key: bytes, to: str, data: bytes, gas: int) -> bytes:
        tip, fee = self._fees()
        nonce = int(self._request("eth_getTransactionCount", address(key), "pending"), 16)
        return sign_transaction(key, self.chain_id, nonce, to, data, gas, tip, fee)

    def sign_digest(self, digest: bytes) -> bytes:
        return sign_digest(digest, self._signing_key())

    def dearer(self, raw: bytes) -> bytes | None:
        old = decode_transaction(raw)
        tip, fee = self._fees()
        if fee == old["fee"] == 0:
            return None
        # Nodes ask for 10 % more of both numbers, some for 12.5 %.
        fee = max(fee, _raised(old["fee"]))
        tip = None if tip is None else max(tip, _raised(old["tip"] or 0))
        # One that was signed before the network had a base fee stays of the old type.
        tip = None if old["tip"] is None else tip
        content = (old["nonce"], old["to"], old["data"], old["gas"])
        return sign_transaction(self._signing_key(), self.chain_id, *content, tip, fee)

    def send(self, raw: bytes) -> None:
        require_chain_id(raw, self)
        # The node behind a URL can change, and some nodes take transactions of any chain.
        found = int(self._request("eth_chainId"), 16)
        if found != self.chain_id:
            raise LedgerError(f"the node at {self.url} is now on chain {found}, it was on {self.chain_id}")
        try:
            self._request("eth_sendRawTransaction", "0x" + raw.hex())
        except NodeUnreachable:
            raise
        except LedgerError as error:
            if _FEE_PROBLEM.search(str(error)):
                raise FeeTooLow(str(error)) from error
            raise

    def receipt(self, transaction: bytes) -> ChainReceipt | None:
        found = self._request("eth_getTransactionReceipt", "0x" + transaction.hex())
        if found is None or found.get("blockNumber") is None:
            return None
        if self._confirmations:
            depth = int(self._request("eth_blockNumber"), 16) - int(found["blockNumber"], 16)
            if depth < self._confirmations:
                return None
        return ChainReceipt("0x" + transaction.hex(), int(found["status"], 16), int(found["gasUsed"], 16))

    def where(self, raw: bytes) -> Whereabouts:
        nonce = decode_transaction(raw)["nonce"]
        used, queued = self._count("latest"), self._count("pending")
        # Last, so that a block in between does not make a transaction look displaced by itself.
        found = self._request("eth_getTransactionByHash", "0x" + keccak(raw).hex())
        if found is not None and found.get("blockNumber") is not None:
            return "mined"
        if used > nonce:
            return "displaced"
        if queued < nonce:
            return "gap"
        return "absent" if found is None else "pending"

    def call(self, to: str, data: bytes) -> bytes:
        call = {"to": to, "data": "0x" + data.hex()}
        if self._key is not None:
            call["from"] = self.sender
        return bytes.fromhex(self._request("eth_call", call, "latest")[2:])

    def code(self, contract: str) -> bytes:
        return bytes.fromhex(self._request("eth_getCode", contract, "latest")[2:])

    def close(self) -> None:
        self._provider = None

    def require_rules(self) -> None:
        """Refuse a node that does not run the code of our contracts, which are compiled for the Cancun rules.

        Raises:
            LedgerError: it does not.
        """
        try:
            self._request("eth_call", {"data": "0x" + _MCOPY.hex()}, "latest")
        except ContractRevert as error:
            raise LedgerError(
                f"the chain behind {self.url} does not follow the Cancun rules that the contracts are compiled for ({error})"
            ) from error

    def _count(self, block: str) -> int:
        """Number of transactions of the account, which is the next nonce; "pending" counts the pool's as well."""
        return int(self._request("eth_getTransactionCount", self.sender, block), 16)

    def _fees(self) -> tuple[int | None, int]:
        """Return tip (None before EIP-1559) and fee of a transaction that should get into the next blocks, in wei."""
        price = int(self._request("eth_gasPrice"), 16)
        base = (self._request("eth_getBlockByNumber", "latest", False) or {}).get("baseFeePerGas")
        if base is None:
            return None, price
        # Room for the base fee to double. What the node asks on top of the base fee is its own idea of a tip.
        tip = max(price - int(base, 16), 0)
        return tip, 2 * int(base, 16) + tip

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
            message = f"no Ethereum node answers at {self.url} ({method}: {type(error).__name__})"
            raise NodeUnreachable(message) from None
        if answer.get("error") is not None:
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
    """Read chain_id (None if it is bound to none), nonce, tip (None in the old type), fee, gas, to (None: creates), data.

    Raises:
        LedgerError: it is not a transaction of the two types that `sign_transaction` makes.
    """
    import rlp

    try:
        if raw[:1] == b"\x02":
            chain, nonce, tip, fee, gas, to, _, data = rlp.decode(raw[1:])[:8]
            chain_id: int | None = _integer(chain)
        else:
            nonce, fee, gas, to, _, data, v = rlp.decode(raw)[:7]
            tip = None
            chain_id = (_integer(v) - 35) // 2 if _integer(v) >= 35 else None
        return {
            "chain_id": chain_id,
            "nonce": _integer(nonce),
            "tip": None if tip is None else _integer(tip),
            "fee": _integer(fee),
            "gas": _integer(gas),
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


def _raised(price: int) -> int:
    return (price * 9 + 7) // 8  # by an eighth, rounded up


# Copies no bytes from 0 to 0: an instruction that came with Cancun.
_MCOPY = bytes.fromhex("6000600060005e00")

# Words of geth, Besu, anvil and ganache for a price below what the pool or the next block asks.
_FEE_PROBLEM = re.compile(r"underpriced|fee ?per ?gas|fee cap|base ?fee|gas ?price", re.IGNORECASE)


def _provider(url: str, timeout: tuple[float, float]) -> Any:
    from web3 import HTTPProvider

    if urlsplit(url).scheme not in ("http", "https"):
        raise LedgerError(f"ledger.url {public_url(url)!r} is not an http or https address")
    # Without retries: the caller decides whether to try again, and the journal makes that safe.
    return HTTPProvider(url, request_kwargs={"timeout": timeout}, exception_retry_configuration=None)
