"""What the ledger needs of a chain.

Both back ends refuse a transaction that was signed for another chain id before it gets any further: the embedded virtual
machine does not look at the chain id itself. How a transaction gets onto a chain that forgets, reorders or waits is the
business of `engine.ledger.delivery`.
"""

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple, Protocol

from engine.encoding import canonical_json, read_json
from engine.errors import LedgerError
from engine.ledger.accounts import Accounts

# The number of the embedded chain. It is part of what everybody signs, so a ledger is embedded if and only if it is on this
# chain, and no node with this number is used.
EMBEDDED_CHAIN = 131277322940537

# What became of a transaction: in a block (deep enough or not); waiting in the pool with no number missing before it;
# not known, and its number is the next one; not known or waiting, and a smaller number is missing; its number was used
# by another transaction.
Whereabouts = Literal["mined", "pending", "absent", "gap", "displaced"]


@dataclass(frozen=True)
class ChainReceipt:
    """What the chain answered: transaction hash (0x hex), status (1 success, 0 refused), gas used."""

    transaction: str
    status: int
    gas: int


def receipt_to_json(receipt: ChainReceipt) -> str:
    """Write a receipt as JSON."""
    return canonical_json(asdict(receipt))


def receipt_from_json(text: str) -> ChainReceipt:
    """Read what `receipt_to_json` wrote; raises LedgerError when it is something else."""
    try:
        receipt = ChainReceipt(**read_json(text))
    except (TypeError, ValueError) as error:
        raise LedgerError(f"a receipt is damaged: {error}") from error
    if not isinstance(receipt.transaction, str) or not all(type(n) is int for n in (receipt.status, receipt.gas)):
        raise LedgerError("a receipt is damaged: a value has the wrong type")
    return receipt


class Log(NamedTuple):
    """What a contract said in a transaction: its address, topics of 32 bytes (the first names the event), data."""

    contract: str
    topics: tuple[bytes, ...]
    data: bytes


class ContractRevert(LedgerError):
    """The contract refused a call. The message names its error and the arguments."""


class NoContract(LedgerError):
    """Nothing lives at the address of a contract: it never did, or a restart or a reorganisation has taken it away."""


class ChainTrouble(LedgerError):
    """Nothing is wrong with the run: the same work goes on once the node, the way to it or the account is mended."""


class NodeUnreachable(ChainTrouble):
    """No node answered; the same question may get an answer later."""


class NodeRefuses(ChainTrouble):
    """The node answers, and does not do what it was asked."""


class FeeTooLow(NodeRefuses):
    """The node takes this transaction only with a higher fee."""


class NonceProblem(NodeRefuses):
    """The node says that the number of a transaction is used, or that it has the transaction: which, only a look can tell."""


class Chain(Protocol):
    """What the ledger needs of a chain. Addresses are checksum text, hashes and data are bytes."""

    name: str
    chain_id: int
    timeout: float  # seconds after which a transaction without a receipt is an error

    @property
    def accounts(self) -> Accounts:
        """Who signs. Raises LedgerError where the chain is only read."""

    @property
    def sender(self) -> str:
        """The coordinator's account, which signs where no other is named."""

    def within(self, seconds: float) -> AbstractContextManager[None]:
        """All that is asked inside, and waited for, has this long together."""

    def turn(self, account: str) -> AbstractContextManager[None]:
        """Alone with the next number of an account, among the programs of this machine that use the same node."""

    def lost(self, account: str, end: int) -> list[bytes]:
        """What programs of this machine sent from an account and the chain does not have: from the next number to before `end`."""

    def sign(self, to: str | None, data: bytes, gas: int, ahead: int = 0, by: str | None = None) -> bytes:
        """Sign the next transaction of an account (the one `ahead` places after it); `to=None` creates a contract.

        Sends nothing. `by` is one of the ledger's own accounts, None the sender.
        """

    def sign_as(self, key: bytes, to: str, data: bytes, gas: int) -> bytes:
        """Sign the next call of another account, as an auditor does. Sends nothing."""

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign 32 bytes with the coordinator's key, as receipts are."""

    def dearer(self, raw: bytes) -> bytes | None:
        """Sign a transaction again with the same nonce and a fee that may replace it; None where gas is free, or too dear."""

    def cheaper(self, raw: bytes) -> bytes | None:
        """Sign a transaction again with the same nonce for the present price; None where that is not lower."""

    def send(self, raw: bytes) -> None:
        """Send a signed transaction.

        Raises:
            FeeTooLow: the chain would take it for more.
            NonceProblem: its number is used, or the chain has it already.
            LedgerError: it is for another chain, or the chain does not take it.
        """

    def receipt(self, transaction: bytes) -> ChainReceipt | None:
        """Return the receipt of a transaction hash; None if it is in no block, or not yet in one deep enough."""

    def logs(self, transaction: bytes) -> tuple[Log, ...]:
        """Return what contracts said in a transaction; nothing if it is in no block."""

    def where(self, raw: bytes) -> Whereabouts:
        """Tell what became of a transaction."""

    def call(self, to: str, data: bytes, by: str | None = None, answers: bool = False) -> bytes:
        """Call the contract without a transaction, as an account; None is the sender. Raises ContractRevert if it refuses.

        Where it `answers`, nothing is the word of a node that is behind, as long as code is at the address.
        """

    def time(self) -> int:
        """Return the time of the last block, seconds since 1970."""

    def code(self, contract: str) -> bytes:
        """Return the code at an address, empty if there is none."""

    def is_behind(self) -> bool:
        """Whether the node says that it does not have all blocks so far."""

    def close(self) -> None:
        """Let go of the chain."""
