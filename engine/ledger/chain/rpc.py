"""A node behind JSON-RPC, through web3.py."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from filelock import FileLock
from filelock import Timeout as LockTimeout

from engine.clock import REAL, Clock
from engine.encoding import hexed, keccak, unhexed
from engine.errors import LedgerError
from engine.files import cache_folder
from engine.ledger.accounts import COORDINATOR, Accounts
from engine.ledger.chain.address import ENVIRONMENT, origin
from engine.ledger.chain.base import (
    ChainReceipt,
    ChainTrouble,
    ContractRevert,
    FeeTooLow,
    Log,
    NodeRefuses,
    NodeUnreachable,
    NonceProblem,
    Whereabouts,
)
from engine.ledger.chain.sent import Sent
from engine.ledger.chain.transactions import decode_transaction, require_chain_id, sender_of, sign_transaction
from engine.ledger.signing import address, sign_digest
from engine.ledger.typed import checksum_address

KEY_VARIABLE = "PULSELEDGER_LEDGER_KEY"
FIRST_ANSWER = 20.0  # seconds for a node that has never answered: its address may be wrong
_LAST_TIME = 2**39  # seconds since 1970; the contract keeps a deadline in 40 bits
_GWEI = 10**9  # wei
_HIGH_SECONDS, _HIGH_PAUSE = (
    2.0,
    0.5,
)  # for which a price that is too high may be one of a moment, and between two looks at it
_OLD_STATE = 2.0  # seconds for a question about an earlier block, which a node may have forgotten

# Copies no bytes from 0 to 0: an instruction that came with Cancun.
_MCOPY = bytes.fromhex("6000600060005e00")

# Words of geth, Besu, anvil, hardhat, ganache and EthereumJS: for a price below what the pool or the next block asks; for a number that is
# used, or a transaction that is there; for a transaction that ended in the contract's refusal as it was sent.
_FEE_PROBLEM = re.compile(
    r"underpriced|replacement gas|fee ?per ?gas|fee cap less|max fee|base ?fee|gas ?price", re.IGNORECASE
)
_NONCE_PROBLEM = re.compile(r"nonce|already (known|imported|in)|known transaction|AlreadyKnown", re.IGNORECASE)
_REVERTED = re.compile(r"revert|VM Exception", re.IGNORECASE)

T = TypeVar("T")


class RpcChain:
    """A node behind JSON-RPC, through web3.py. Without accounts it only reads.

    Networks with fees after EIP-1559 get a transaction of type 2, older ones one of the old type bound to the chain id
    (EIP-155); where the node asks no price at all (a permissioned network with free gas) none is offered.
    """

    name = "rpc"

    def __init__(
        self,
        url: str,
        chain_id: int | None = None,
        accounts: Accounts | None = None,
        confirmations: int = 0,
        timeout: float = 300.0,
        first: float = FIRST_ANSWER,
        clock: Clock = REAL,
        max_fee: float = float("inf"),
    ) -> None:
        """Connect.

        Args:
            url: http or https address, or env:NAME.
            chain_id: the chain that the caller means; None takes the node's.
            accounts: who signs transactions.
            confirmations: number of blocks on top of a transaction's own before its receipt counts.
            timeout: seconds that a transaction, or any question, may take.
            first: seconds for the first answer; no more than `timeout`.
            max_fee: gwei that a transaction may pay for a unit of gas.

        Raises:
            NodeUnreachable: nothing answers at the URL.
            ChainTrouble: the node is on another chain.
        """
        from engine.ledger.chain.node import Node  # slow to import, and only this back end needs it

        self._node, self._clock = Node(resolved(url), clock), clock
        self.url = self._node.name
        self.timeout = timeout
        self._accounts = accounts
        self._confirmations, self._max_fee = confirmations, max_fee * _GWEI
        with self.within(min(first, timeout)):
            self.chain_id = self._ask("eth_chainId", read=_quantity)
        if chain_id is not None and chain_id != self.chain_id:
            raise ChainTrouble(f"the node at {self.url} is on chain {self.chain_id}, ledger.chain_id is {chain_id}")

    def within(self, seconds: float) -> AbstractContextManager[None]:
        return self._node.within(seconds)

    @property
    def accounts(self) -> Accounts:
        if self._accounts is None:
            raise LedgerError(f"sending through {self.url} needs a private key in {KEY_VARIABLE} or ledger.key_file")
        return self._accounts

    @property
    def sender(self) -> str:
        return self.accounts.address(COORDINATOR)

    @contextmanager
    def turn(self, account: str) -> Iterator[None]:
        lock = FileLock(self._of_sender(account, "lock"))
        try:
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=self.timeout)
        except LockTimeout:
            message = f"another program has been sending from account {account} for {self.timeout:g} s"
            raise ChainTrouble(message) from None
        except OSError:
            pass  # nobody can be waited for where nothing can be written; what collides is signed again
        try:
            yield
        finally:
            lock.release()

    def lost(self, account: str, end: int) -> list[bytes]:
        return Sent(self._of_sender(account, "sqlite")).between(self._count("pending", account), end)

    def sign(self, to: str | None, data: bytes, gas: int, ahead: int = 0, by: str | None = None) -> bytes:
        account = by or self.sender
        tip, fee = self._fees()
        nonce = self._count("pending", account) + ahead
        return sign_transaction(self.accounts.key(account), self.chain_id, nonce, to, data, gas, tip, fee)

    def sign_as(self, key: bytes, to: str, data: bytes, gas: int) -> bytes:
        tip, fee = self._fees()
        nonce = self._count("pending", address(key))
        return sign_transaction(key, self.chain_id, nonce, to, data, gas, tip, fee)

    def sign_digest(self, digest: bytes) -> bytes:
        return sign_digest(digest, self.accounts.key(self.sender))

    def dearer(self, raw: bytes) -> bytes | None:
        old = decode_transaction(raw)
        tip, fee = self._fees()
        if fee == old["fee"] == 0:
            return None
        # Nodes ask for 10 % more of both numbers, some for 12.5 %.
        fee = max(fee, _raised(old["fee"]))
        tip = None if tip is None else max(tip, _raised(old["tip"] or 0))
        if fee > self._max_fee:
            return None
        # One that was signed before the network had a base fee stays of the old type.
        return self._priced(raw, None if old["tip"] is None else tip, fee)

    def cheaper(self, raw: bytes) -> bytes | None:
        tip, fee = self._fees()
        return self._priced(raw, tip, fee) if fee < decode_transaction(raw)["fee"] else None

    def send(self, raw: bytes) -> None:
        require_chain_id(raw, self)
        # The node behind a URL can change, and some nodes take transactions of any chain.
        found = self._ask("eth_chainId", read=_quantity)
        if found != self.chain_id:
            raise ChainTrouble(f"the node at {self.url} is now on chain {found}, it was on {self.chain_id}")
        Sent(self._of_sender(sender_of(raw), "sqlite")).note(decode_transaction(raw)["nonce"], raw)
        try:
            # Its answer may be lost each time, though the node took it.
            self._ask("eth_sendRawTransaction", "0x" + raw.hex(), read=_data, otherwise=lambda: self._arrived(raw))
        except NodeRefuses as error:
            text = str(error)
            if "insufficient" in text.lower():
                raise NodeRefuses(self._unfunded(raw, text)) from error
            # first: the price of a replacement is about a number, too
            if _FEE_PROBLEM.search(text):
                raise FeeTooLow(text) from error
            if _NONCE_PROBLEM.search(text) or _REVERTED.search(text):
                raise NonceProblem(text) from error
            raise

    def receipt(self, transaction: bytes) -> ChainReceipt | None:
        found = self._receipt(transaction)
        if found is None or self._met_nothing(found):
            return None
        if self._confirmations:
            depth = self._ask("eth_blockNumber", read=_quantity) - found.block
            if depth < self._confirmations:
                return None
        return ChainReceipt(hexed(transaction), found.status, found.gas)

    def logs(self, transaction: bytes) -> tuple[Log, ...]:
        found = self._receipt(transaction)
        return found.logs if found is not None else ()

    def where(self, raw: bytes) -> Whereabouts:
        nonce, account = decode_transaction(raw)["nonce"], sender_of(raw)
        used, queued = self._count("latest", account), self._count("pending", account)
        # Last, so that a block in between does not make a transaction look displaced by itself.
        found = self._found(raw)
        if found == "mined":
            mined = self._receipt(keccak(raw))
            return "displaced" if mined is not None and self._met_nothing(mined) else "mined"
        if used > nonce:
            return "displaced"
        if queued < nonce:
            return "gap"
        return found

    def call(self, to: str, data: bytes, by: str | None = None, answers: bool = False) -> bytes:
        call = {"to": to, "data": "0x" + data.hex()}
        if self._accounts is not None:
            call["from"] = by or self.sender
        if not answers:
            return self._ask("eth_call", call, "latest", read=_data)
        return self._ask("eth_call", call, "latest", read=_some, otherwise=lambda: None if self.code(to) else b"")

    def code(self, contract: str) -> bytes:
        return self._ask("eth_getCode", contract, "latest", read=_data)

    def time(self) -> int:
        # Where blocks come with transactions only, the last one may be of long ago.
        found: Any = None
        with suppress(NodeRefuses):
            found = self._ask("eth_getBlockByNumber", "pending", False, read=_block_or_none)
        return int((found or self._latest())["timestamp"])

    def is_behind(self) -> bool:
        return self._ask("eth_syncing", read=bool)

    def close(self) -> None:
        self._node.close()

    def require_rules(self) -> None:
        """Refuse a node that does not run the code of our contracts, which are compiled for the Cancun rules.

        Raises:
            LedgerError: it does not.
        """
        try:
            self._ask("eth_call", {"data": hexed(_MCOPY)}, "latest", read=_data)
        except ContractRevert as error:
            raise LedgerError(
                f"the chain behind {self.url} does not follow the Cancun rules that the contracts are compiled for ({error})"
            ) from error

    def _of_sender(self, account: str, kind: str) -> Path:
        """A file that the programs of this machine share which send from an account to this node."""
        name = hashlib.sha256(f"{self.url} {self.chain_id} {account}".encode()).hexdigest()[:32]
        return cache_folder() / "senders" / f"{name}.{kind}"

    def _arrived(self, raw: bytes) -> bytes | None:
        """The hash of a transaction that the node knows; None of another."""
        return None if self._found(raw) == "absent" else keccak(raw)

    def _found(self, raw: bytes) -> Whereabouts:
        return self._ask("eth_getTransactionByHash", hexed(keccak(raw)), read=_of(keccak(raw), "hash", _known))

    def _priced(self, raw: bytes, tip: int | None, fee: int) -> bytes:
        old = decode_transaction(raw)
        content = (old["nonce"], old["to"], old["data"], old["gas"])
        return sign_transaction(self.accounts.key(sender_of(raw)), self.chain_id, *content, tip, fee)

    def _receipt(self, transaction: bytes) -> "_Receipt | None":
        read = _of(transaction, "transactionHash", _receipt)
        return self._ask("eth_getTransactionReceipt", hexed(transaction), read=read)

    def _met_nothing(self, found: "_Receipt") -> bool:
        """Whether a call went to an address without a contract, where all calls succeed: its number was used for nothing.

        The functions of our contracts say what they did. One that found it done, as a role may be given twice, ran in a
        contract of an earlier block. Where a node does not know that block any more, to send again does no harm.
        """
        if found.to is None or found.logs or found.status != 1:
            return False
        try:
            with self.within(_OLD_STATE):
                return not self._ask("eth_getCode", found.to, hex(max(found.block - 1, 0)), read=_data)
        except (NodeRefuses, NodeUnreachable):
            return True

    def _count(self, block: str, account: str) -> int:
        """Number of transactions of an account, which is the next nonce; "pending" counts the pool's as well."""
        return self._ask("eth_getTransactionCount", account, block, read=_number)

    def _latest(self) -> Any:
        return self._ask("eth_getBlockByNumber", "latest", False, read=_block)

    def _fees(self) -> tuple[int | None, int]:
        """Return tip (None before EIP-1559) and fee of a transaction that should get into the next blocks, in wei.

        Raises:
            ChainTrouble: they are higher than is allowed, and not for a moment only.
        """
        until = self._clock.now() + _HIGH_SECONDS
        while True:
            price, base = self._ask("eth_gasPrice", read=_quantity), self._latest()["baseFeePerGas"]
            wanted = max(price, base or 0)
            if wanted <= self._max_fee:
                break
            if self._clock.now() >= until:
                raise ChainTrouble(
                    f"the node at {self.url} asks for {wanted / _GWEI:.6g} gwei for a unit of gas, and ledger.max_fee_gwei allows "
                    f"{self._max_fee / _GWEI:.6g}"
                )
            self._clock.sleep(_HIGH_PAUSE)
        if base is None:
            return None, price
        # Room for the base fee to double. What the node asks on top of the base fee is its own idea of a tip.
        tip = max(price - base, 0)
        return tip, int(min(2 * base + tip, self._max_fee))

    def _unfunded(self, raw: bytes, said: str) -> str:
        content, account = decode_transaction(raw), sender_of(raw)
        has = self._ask("eth_getBalance", account, "latest", read=_quantity)
        return (
            f"account {account} has {has} wei, and this transaction may cost {content['gas'] * content['fee']} wei: send it some "
            f"and go on ({said})"
        )

    def _ask(
        self, method: str, *params: Any, read: Callable[[Any], T], otherwise: Callable[[], T | None] = lambda: None
    ) -> T:
        return self._node.ask(method, *params, read=read, seconds=self.timeout, otherwise=otherwise)


def resolved(url: str) -> str:
    """The address itself.

    Raises:
        ChainTrouble: the environment does not hold it.
        LedgerError: it is none.
    """
    text, source = url, "ledger.url"
    if url.startswith(ENVIRONMENT):
        source = url.removeprefix(ENVIRONMENT)
        text = os.environ.get(source, "")
        if not text:
            raise ChainTrouble(f"the address of the node is {url}, but the environment variable {source} is not set")
    if not origin(text):
        raise LedgerError(f"{source} does not hold an http or https address with a host")
    return text.strip()


def _raised(price: int) -> int:
    return (price * 9 + 7) // 8  # by an eighth, rounded up


# --- What answers must be ---------------------------------------------------------------------------------------------


def _quantity(value: Any) -> int:
    """A number as nodes write it: 0x and hex digits."""
    if not isinstance(value, str) or not re.fullmatch("0x[0-9a-fA-F]{1,64}", value):
        raise ValueError("a number as 0x hex")
    return int(value, 16)


def _number(value: Any) -> int:
    """A number of transactions, which EIP-2681 keeps below 2**64 - 1."""
    if (found := _quantity(value)) >= 2**64 - 1:
        raise ValueError("a number of transactions")
    return found


def _data(value: Any) -> bytes:
    """Bytes as 0x hex."""
    if not isinstance(value, str) or not re.fullmatch("0x([0-9a-fA-F]{2})*", value):
        raise ValueError("bytes as 0x hex")
    return bytes.fromhex(value[2:])


def _some(value: Any) -> bytes:
    """Bytes, and not none."""
    if not (found := _data(value)):
        raise ValueError("an answer of the contract")
    return found


def _block(value: Any) -> dict[str, int | None]:
    found: dict[str, int | None] = {**(numbers := _numbers(value, "timestamp"))}
    if numbers["timestamp"] > _LAST_TIME:
        raise ValueError("a time in seconds")
    base = value.get("baseFeePerGas")
    return found | {"baseFeePerGas": None if base is None else _numbers(value, "baseFeePerGas")["baseFeePerGas"]}


def _of(transaction: bytes, name: str, read: Callable[[Any], T]) -> Callable[[Any], T]:
    """What is about this transaction by its own word, and not about another one."""

    def checked(value: Any) -> T:
        if isinstance(value, dict) and str(value.get(name, hexed(transaction))).lower() != hexed(transaction):
            raise ValueError(f"what is about transaction {hexed(transaction)}")
        return read(value)

    return checked


def _block_or_none(value: Any) -> dict[str, int | None] | None:
    return None if value is None else _block(value)


def _known(value: Any) -> Whereabouts:
    """What became of a transaction that is asked for by its hash."""
    if value is None:
        return "absent"
    if not isinstance(value, dict):
        raise ValueError("a transaction")
    return "pending" if value.get("blockNumber") is None else "mined"


class _Receipt(NamedTuple):
    """Of a transaction in a block; `to` is None where it creates a contract."""

    block: int
    status: int
    gas: int
    to: str | None
    logs: tuple[Log, ...]


def _receipt(value: Any) -> _Receipt | None:
    """A receipt; None of a transaction that is in no block."""
    if value is None or (isinstance(value, dict) and value.get("blockNumber", "") is None):
        return None
    numbers = _numbers(value, "blockNumber", "status", "gasUsed")
    if numbers["status"] > 1:
        raise ValueError("a receipt of status 0 or 1")
    try:
        logs = tuple(
            Log(checksum_address(unhexed(one["address"])), tuple(map(unhexed, one["topics"])), unhexed(one["data"]))
            for one in value["logs"]
        )
        to = value.get("to")
        to = None if to is None else checksum_address(unhexed(to))
    except (AttributeError, KeyError, TypeError, ValueError, LedgerError):
        raise ValueError("a receipt with its address and logs") from None
    return _Receipt(numbers["blockNumber"], numbers["status"], numbers["gasUsed"], to, logs)


def _numbers(value: Any, *names: str) -> dict[str, int]:
    """These numbers of an object."""
    if not isinstance(value, dict):
        raise ValueError(f"an object with {', '.join(names)}")
    for name in names:
        try:
            _quantity(value.get(name))
        except ValueError as error:
            raise ValueError(f"{name} to be {error}") from None
    return {name: _quantity(value[name]) for name in names}
