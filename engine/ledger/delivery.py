"""How a transaction gets onto a chain that may wait, forget, reorder or be away for a while.

Every attempt is in the journal before it is sent. The contracts take the same content once only, so another attempt can
cost gas but never count twice; which attempt counts is what the chain says, not what we remember.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from engine.clock import REAL, Clock
from engine.encoding import keccak
from engine.errors import LedgerError
from engine.ledger.chain.base import (
    Chain,
    ChainReceipt,
    ChainTrouble,
    ContractRevert,
    FeeTooLow,
    NodeRefuses,
    NodeUnreachable,
    NonceProblem,
)
from engine.ledger.chain.transactions import created_contract, decode_transaction, sender_of

ATTEMPTS = 5  # signatures with another nonce, and as many with a higher fee: at most 1.8 times the network's own price
FIRST_PAUSE, LAST_PAUSE = 0.01, 0.25  # seconds between two looks at the chain; each doubles the one before
_GAP_SECONDS = 2.0  # a missing number may be on its way to this node
_AGAIN_SECONDS = (
    0.5  # until the same bytes are sent again to a node that took them and does not know them; doubles, too
)


@dataclass(frozen=True)
class JournalTransaction:
    """A signed transaction, one attempt at what it is for; `receipt` is None until the chain has answered.

    `purpose` is a key of `format.PURPOSES`.
    """

    seq: int
    purpose: str
    round: int
    hash: bytes
    raw: bytes
    receipt: ChainReceipt | None


class Transactions(Protocol):
    """What a journal must do with the attempts at a transaction, and know of the others."""

    @property
    def path(self) -> Path:
        """Of the journal's file."""

    def add_transaction(self, purpose: str, round: int, hash: bytes, raw: bytes) -> JournalTransaction:
        """Write down another attempt."""

    def set_receipt(self, seq: int, receipt: ChainReceipt | None) -> None:
        """Write down what the chain answered; None where it has taken its answer back."""

    def before(self, account: str, nonce: int) -> Iterator[JournalTransaction]:
        """Transactions of an account with smaller numbers, one for each number, from the greatest downwards."""


class Refused(LedgerError):
    """The contract does not take the content of a transaction, whoever sends it and whenever."""


class Contradiction(LedgerError):
    """Journal and chain hold different things. The message names both."""


class NumberLost(LedgerError):
    """The number that a contract was to be created with went elsewhere: it cannot come to be at its address."""


class NoReceipt(ChainTrouble):
    """A transaction is in no block within its time; it is in the journal, and the same work goes on later."""


def settle(
    chain: Chain, journal: Transactions, attempts: list[JournalTransaction], gas: int, clock: Clock = REAL
) -> JournalTransaction:
    """Bring one transaction onto the chain and return the attempt that counts, with its receipt.

    What the chain has is taken as it is; what it lost (a full pool, a restart, a reorganisation) is sent again; what
    waits too long is signed again with the same nonce and a higher fee, `ATTEMPTS` times at most; what lost its nonce
    to a transaction from elsewhere is signed again with the next one, which a contract's creation cannot be.

    Args:
        attempts: what the journal holds of this content, oldest first.
        gas: limit for a new attempt.

    Raises:
        Refused: the contract refuses the content.
        Contradiction: the chain gives another receipt than the journal holds, or lost what was before this transaction.
        NumberLost: the nonce of a contract's creation is lost.
        NoReceipt, NodeUnreachable: time is up.
        LedgerError: the node refuses the transaction.
    """
    with chain.within(chain.timeout):
        return _Delivery(chain, journal, attempts, gas, clock).run()


class _Delivery:
    def __init__(
        self, chain: Chain, journal: Transactions, attempts: list[JournalTransaction], gas: int, clock: Clock
    ) -> None:
        self._chain, self._journal, self._gas, self._clock = chain, journal, gas, clock
        self._attempts = list(attempts)
        self._content, self._by = decode_transaction(attempts[-1].raw), sender_of(attempts[-1].raw)
        self._what = f"{attempts[-1].purpose} round {attempts[-1].round}"
        self._signed = self._raised = self._lowered = 0
        self._problem = ""
        self._displaced = float("inf")  # when the newest attempt's number was first seen used by another
        self._since = self._clock.now()  # when the newest attempt began to wait
        self._sent: dict[bytes, tuple[float, float]] = {}  # raw -> when to send it again, and the pause after that

    def run(self) -> JournalTransaction:
        deadline = self._clock.now() + self._chain.timeout
        pause = FIRST_PAUSE
        while True:
            try:
                done, moved = self._look()
            except NodeUnreachable:
                if self._clock.now() > deadline:
                    raise
                done, moved = None, False
            if done is not None:
                return done
            if moved:  # each kind of move has a limit
                pause = FIRST_PAUSE
                continue
            if self._clock.now() > deadline:
                raise NoReceipt(
                    f"the {self._chain.name} chain gave no receipt for transaction 0x{self._attempts[-1].hash.hex()} "
                    f"({self._what}) within {self._chain.timeout:g} s{self._problem}; it is in the journal and can be settled "
                    "later"
                )
            self._clock.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)

    def _look(self) -> tuple[JournalTransaction | None, bool]:
        """Compare with the chain and do the next thing; return the attempt that counts, and whether something moved."""
        chain, waiting = self._chain, []
        for attempt in self._attempts:
            receipt = chain.receipt(attempt.hash)
            if receipt is None:
                waiting.append(attempt)
                continue
            attempt = self._note(attempt, receipt)
            if receipt.status == 1:
                return attempt, True
        where = [chain.where(attempt.raw) for attempt in waiting]
        if "mined" in where:
            return None, False
        has_ended = not waiting or waiting[-1] is not self._attempts[-1]
        newest = "displaced" if has_ended else where[-1]
        if newest != "displaced":
            self._displaced = float("inf")
        else:
            self._displaced = float("-inf") if has_ended else min(self._displaced, self._clock.now())
            if self._is_doubtful(_AGAIN_SECONDS):
                return None, False
            # An earlier attempt with the same nonce may have got into a block after we asked for it.
            displaced = all(chain.where(attempt.raw) != "mined" for attempt in waiting)
            return None, displaced and self._sign_again()
        if newest == "pending":
            return None, self._is_stuck() and self._raise_fee()
        if "absent" in where:
            if self._is_stuck() and self._raise_fee():  # taken again and again, and lost each time
                return None, True
            # The newest, or an earlier one that stands before it; of several for one number the last, whose price is right.
            number = _nonce(waiting[where.index("absent")])
            lost = [one for one, at in zip(waiting, where, strict=True) if at == "absent" and _nonce(one) == number]
            return None, self._send(lost[-1].raw)
        return None, self._fill_gap()

    def _fill_gap(self) -> bool:
        """Send what stands before the newest attempt again if the chain lost it; take a missing number that is nobody's here.

        Raises:
            Contradiction: something is lost that was in a block: others may depend on it, and have their order.
        """
        lost: list[JournalTransaction] = []
        number = _nonce(self._attempts[-1])
        for one in self._journal.before(self._by, number):
            where = self._chain.where(one.raw)
            if where in ("mined", "pending"):
                break  # and so is everything before it
            if where == "displaced" or one.receipt is not None:
                raise self._lost(one.raw)
            lost.append(one)
        own = {_nonce(one): one.raw for one in lost}
        others = {decode_transaction(raw)["nonce"]: raw for raw in self._chain.lost(self._by, number)}
        sent = [self._send(raw) for _, raw in sorted((others | own).items())]
        if any(sent) or (own and self._attempts[-1].purpose != "deploy"):
            return any(sent)
        waited = self._clock.now() - self._since
        return waited >= min(_GAP_SECONDS, self._chain.timeout) and self._sign_again()

    def _is_doubtful(self, seconds: float) -> bool:
        """Whether a number was used so lately that it may be by ourselves: a node may count a block before it shows what is in it."""
        return self._clock.now() - self._displaced < min(seconds, self._chain.timeout / 4)

    def _is_stuck(self) -> bool:
        return self._clock.now() - self._since > self._chain.timeout / 10

    def _note(self, attempt: JournalTransaction, receipt: ChainReceipt) -> JournalTransaction:
        """Write down what the chain answered. A success does not change any more, a refusal may after a replay.

        The gas may: in another block a transaction can find other storage. The last answer counts.
        """
        known = attempt.receipt
        if known is not None and known.status == 1 != receipt.status:
            raise Contradiction(
                f"journal and chain contradict each other: the receipt of transaction {receipt.transaction} has status "
                f"{known.status} in {self._journal.path}, and {receipt.status} on the {self._chain.name} chain"
            )
        noted = replace(attempt, receipt=receipt)
        if known != receipt:
            self._journal.set_receipt(attempt.seq, receipt)
            self._attempts[self._attempts.index(attempt)] = noted
        return noted

    def _send(self, raw: bytes) -> bool:
        """Send, and the same again only after a while; tells whether it was the first time."""
        due, pause = self._sent.get(raw, (0.0, _AGAIN_SECONDS))
        is_first, now = raw not in self._sent, self._clock.now()
        if now < due:
            return False
        self._sent[raw] = (now + pause, 2 * pause)
        try:
            self._chain.send(raw)
        except FeeTooLow as error:
            self._problem = f" ({error})"
            if raw != self._attempts[-1].raw:
                return False  # somebody's dearer one has its number, who ends by taking it, or by being lost
            # Once at once. After that its nonce is held by a dearer transaction from elsewhere, and we wait.
            return (self._raised == 0 or self._is_stuck()) and self._raise_fee()
        except NonceProblem as error:
            # Its nonce was taken, or it arrived, between the two questions; or the node is mistaken, which passes.
            self._problem = f" ({error})"
            return False
        except NodeUnreachable:
            del self._sent[raw]  # nobody took it
            raise
        except LedgerError as error:
            # What is refused here already, such as another chain's, is not refused for its price.
            if self._chain.where(raw) == "absent" and not (isinstance(error, NodeRefuses) and self._lower_fee(raw)):
                raise
        return is_first

    def _raise_fee(self) -> bool:
        """Replace the newest attempt by a dearer one; False if that is of no use."""
        raw = self._chain.dearer(self._attempts[-1].raw) if self._raised < ATTEMPTS else None
        self._since = self._clock.now()
        if raw is None:
            return False
        self._raised += 1
        self._add(raw)
        self._send(raw)
        return True

    def _lower_fee(self, raw: bytes) -> bool:
        """Sign what nobody takes for a price that is lower by now; an answer of a moment, or a wrong one, must not stay for good."""
        if raw != self._attempts[-1].raw or self._lowered == ATTEMPTS:
            return False
        cheaper = self._chain.cheaper(raw)
        if cheaper is None:
            return False
        self._lowered += 1
        self._add(cheaper)
        return True

    def _sign_again(self) -> bool:
        """Give the content the next free nonce."""
        nonce, to = self._content["nonce"], self._content["to"]
        chain, last = self._chain, self._attempts[-1]
        if to is None and (last.purpose == "deploy" or any(attempt.receipt for attempt in self._attempts)):
            if chain.where(last.raw) != "displaced":
                if not any(attempt.receipt for attempt in self._attempts):  # nor can anything depend on it
                    raise NumberLost(
                        f"account {self._by} has sent nothing with the numbers before {nonce}, which the contract of {self._journal.path} "
                        "was to be created with"
                    )
                # its number is still free, and waits for those before it
                self._problem = (
                    f" (it has number {nonce}; what account {self._by} sent before it is neither there nor known on this machine: "
                    "unless the node gets its state back, begin in an empty folder)"
                )
                return False
            contract = created_contract(self._by, last.raw)
            if any(attempt.receipt for attempt in self._attempts) and chain.code(contract):
                self._problem = (
                    f" (there is a contract at {contract}, and the node knows nothing of the transaction that made it: the ledger "
                    "wants a node that keeps its transactions)"
                )
                return False
            raise NumberLost(
                f"account {self._by} used nonce {nonce} for something else, so the contract that the journal "
                f"{self._journal.path} creates with it cannot come to be on this chain: begin in an empty folder"
            )
        if to is not None:
            if not chain.code(to):
                raise self._lost(last.raw)
            try:
                chain.call(to, self._content["data"], self._by)
            except ContractRevert as error:
                if self._is_doubtful(_GAP_SECONDS):
                    return False
                raise Refused(f"the contract refuses to {self._what}: {error}") from error
        if self._signed == ATTEMPTS:
            raise LedgerError(f"the chain refuses to {self._what}; {ATTEMPTS} attempts are in {self._journal.path}")
        self._forget()
        with chain.turn(self._by):
            raw = chain.sign(to, self._content["data"], self._gas, by=self._by)
            self._signed += 1
            self._add(raw)
            self._send(raw)
        return True

    def _forget(self) -> None:
        """Take back what the chain said of attempts that it has no more: the content counts once, by the attempt that comes."""
        for index, attempt in enumerate(self._attempts):
            if attempt.receipt is not None and attempt.receipt.status == 1:
                self._journal.set_receipt(attempt.seq, None)
                self._attempts[index] = replace(attempt, receipt=None)

    def _lost(self, raw: bytes) -> Contradiction:
        return Contradiction(
            f"journal and chain contradict each other: transaction 0x{keccak(raw).hex()}, or the contract that it is for, is in "
            f"{self._journal.path}, and the {self._chain.name} chain does not have it (any more)"
        )

    def _add(self, raw: bytes) -> None:
        last = self._attempts[-1]
        self._attempts.append(self._journal.add_transaction(last.purpose, last.round, keccak(raw), raw))
        self._since = self._clock.now()


def _nonce(attempt: JournalTransaction) -> int:
    return int(decode_transaction(attempt.raw)["nonce"])
