"""A node behind JSON-RPC, through web3.py."""

import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from engine.encoding import hexed, keccak, unhexed
from engine.errors import LedgerError
from engine.ledger.accounts import COORDINATOR, Accounts
from engine.ledger.chain.base import ChainReceipt, ContractRevert, FeeTooLow, Log, NodeUnreachable, Whereabouts
from engine.ledger.chain.contracts import explain_revert
from engine.ledger.chain.transactions import decode_transaction, require_chain_id, sender_of, sign_transaction
from engine.ledger.signing import address, sign_digest
from engine.ledger.typed import checksum_address

KEY_VARIABLE = "PULSELEDGER_LEDGER_KEY"

# Copies no bytes from 0 to 0: an instruction that came with Cancun.
_MCOPY = bytes.fromhex("6000600060005e00")

# Words of geth, Besu, anvil and ganache for a price below what the pool or the next block asks.
_FEE_PROBLEM = re.compile(r"underpriced|fee ?per ?gas|fee cap|base ?fee|gas ?price", re.IGNORECASE)


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
    ) -> None:
        """Connect.

        Args:
            url: http or https address.
            chain_id: the chain that the caller means; None takes the node's.
            accounts: who signs transactions.
            confirmations: number of blocks on top of a transaction's own before its receipt counts.
            timeout: seconds that a transaction may take.

        Raises:
            LedgerError: nothing answers at the URL within about five seconds, or the node is on another chain.
        """
        self.url = public_url(url)
        self.timeout = timeout
        self._accounts = accounts
        self._confirmations = confirmations
        # The first question has little time, so that a wrong URL is told soon; a busy node has more of it later.
        self._provider = _provider(url, (1.5, 3.0))
        self.chain_id = int(self._request("eth_chainId"), 16)
        self._provider = _provider(url, (5.0, 30.0))
        if chain_id is not None and chain_id != self.chain_id:
            raise LedgerError(f"the node at {self.url} is on chain {self.chain_id}, ledger.chain_id is {chain_id}")

    @property
    def accounts(self) -> Accounts:
        if self._accounts is None:
            raise LedgerError(f"sending through {self.url} needs a private key in {KEY_VARIABLE} or ledger.key_file")
        return self._accounts

    @property
    def sender(self) -> str:
        return self.accounts.address(COORDINATOR)

    def sign(self, to: str | None, data: bytes, gas: int, ahead: int = 0, by: str | None = None) -> bytes:
        account = by or self.sender
        tip, fee = self._fees()
        nonce = self._count("pending", account) + ahead
        return sign_transaction(self.accounts.key(account), self.chain_id, nonce, to, data, gas, tip, fee)

    def sign_as(self, key: bytes, to: str, data: bytes, gas: int) -> bytes:
        tip, fee = self._fees()
        nonce = int(self._request("eth_getTransactionCount", address(key), "pending"), 16)
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
        # One that was signed before the network had a base fee stays of the old type.
        tip = None if old["tip"] is None else tip
        content = (old["nonce"], old["to"], old["data"], old["gas"])
        return sign_transaction(self.accounts.key(sender_of(raw)), self.chain_id, *content, tip, fee)

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

    def logs(self, transaction: bytes) -> tuple[Log, ...]:
        found = self._request("eth_getTransactionReceipt", hexed(transaction)) or {}
        try:
            return tuple(
                Log(checksum_address(unhexed(one["address"])), tuple(map(unhexed, one["topics"])), unhexed(one["data"]))
                for one in found.get("logs", ())
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LedgerError(f"the node at {self.url} gives a damaged receipt ({error})") from error

    def where(self, raw: bytes) -> Whereabouts:
        nonce, account = decode_transaction(raw)["nonce"], sender_of(raw)
        used, queued = self._count("latest", account), self._count("pending", account)
        # Last, so that a block in between does not make a transaction look displaced by itself.
        found = self._request("eth_getTransactionByHash", "0x" + keccak(raw).hex())
        if found is not None and found.get("blockNumber") is not None:
            return "mined"
        if used > nonce:
            return "displaced"
        if queued < nonce:
            return "gap"
        return "absent" if found is None else "pending"

    def call(self, to: str, data: bytes, by: str | None = None) -> bytes:
        call = {"to": to, "data": "0x" + data.hex()}
        if self._accounts is not None:
            call["from"] = by or self.sender
        return bytes.fromhex(self._request("eth_call", call, "latest")[2:])

    def code(self, contract: str) -> bytes:
        return bytes.fromhex(self._request("eth_getCode", contract, "latest")[2:])

    def time(self) -> int:
        return int(self._request("eth_getBlockByNumber", "latest", False)["timestamp"], 16)

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

    def _count(self, block: str, account: str) -> int:
        """Number of transactions of an account, which is the next nonce; "pending" counts the pool's as well."""
        return int(self._request("eth_getTransactionCount", account, block), 16)

    def _fees(self) -> tuple[int | None, int]:
        """Return tip (None before EIP-1559) and fee of a transaction that should get into the next blocks, in wei."""
        price = int(self._request("eth_gasPrice"), 16)
        base = (self._request("eth_getBlockByNumber", "latest", False) or {}).get("baseFeePerGas")
        if base is None:
            return None, price
        # Room for the base fee to double. What the node asks on top of the base fee is its own idea of a tip.
        tip = max(price - int(base, 16), 0)
        return tip, 2 * int(base, 16) + tip

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


def public_url(url: str) -> str:
    """Return a URL without user name, password and query, fit for messages and for the journal."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _raised(price: int) -> int:
    return (price * 9 + 7) // 8  # by an eighth, rounded up


def _provider(url: str, timeout: tuple[float, float]) -> Any:
    from web3 import HTTPProvider

    if urlsplit(url).scheme not in ("http", "https"):
        raise LedgerError(f"ledger.url {public_url(url)!r} is not an http or https address")
    # Without retries: the caller decides whether to try again, and the journal makes that safe.
    return HTTPProvider(url, request_kwargs={"timeout": timeout}, exception_retry_configuration=None)
