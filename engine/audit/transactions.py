"""The transactions of a journal, of a run's as of a study's: read, decoded, and compared with what they must ask for."""

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from engine.audit import spec
from engine.audit.report import Reading, Told, finding
from engine.audit.spec import Domain
from engine.errors import LedgerError
from engine.ledger.chain.base import ChainReceipt, receipt_from_json
from engine.ledger.chain.contracts import artefact, call_arguments
from engine.ledger.chain.transactions import created_contract, decode_transaction
from engine.ledger.format import Purpose

Place = Mapping[str, Any]  # round or trial of a finding


class Call(NamedTuple):
    """What is in the bytes of a transaction.

    Attributes:
        chain_id: that it is bound to, None if to none.
        to: the contract that it calls, None if it creates one.
        gas: limit.
        sender: of one that creates a contract, opens a federation or takes it over; of others it is not recovered.
        created: address of the contract that it creates.
        function, arguments: of a call whose purpose is known, as the contract names them.
    """

    chain_id: int | None
    to: str | None
    data: bytes
    gas: int
    sender: str = ""
    created: str = ""
    function: str = ""
    arguments: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Transaction:
    """A row of the transactions.

    Attributes:
        seq: its position in the journal, from 1.
        purpose, round: as they stand in the row; of a study's journal, `round` is a generation or the seq of a record.
        known: what the format says of the purpose; None if it does not know it.
        call: None where the bytes are no transaction.
    """

    seq: int
    purpose: Any
    round: Any
    raw: bytes
    receipt: ChainReceipt | None
    known: Purpose | None
    call: Call | None

    @property
    def succeeded(self) -> bool:
        """Whether the chain took it, by its recorded receipt."""
        return self.receipt is not None and self.receipt.status == 1

    @property
    def creates(self) -> bool:
        """Whether it is to create a contract."""
        return self.known is not None and not self.known.function

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Of the call; empty where they cannot be read."""
        return self.call.arguments if self.call is not None else {}


def read_transactions(
    rows: Iterable[Mapping[str, Any]], purposes: Mapping[str, Purpose], place: Callable[[Mapping[str, Any]], Place]
) -> Reading[tuple[Transaction, ...]]:
    """Read and decode the rows of a journal; one without bytes is told and left out."""
    found = []
    for position, row in enumerate(rows, start=1):
        where = place(row)
        if row["seq"] != position:
            message = "the transactions are not numbered without a gap"
            yield finding("transaction", "seq", position, row["seq"], message, **where)
        raw = spec.hex_bytes(row["raw"])
        if not raw:
            message = f"transaction {position} is damaged"
            yield finding("transaction", "raw", "bytes", row["raw"], message, **where)
            continue
        identity = spec.keccak256(raw)
        if spec.hash_of(row["hash"]) != identity:
            message = f"transaction {position} is not the one that was recorded"
            yield finding("transaction", "hash", identity, row["hash"], message, **where)
        receipt = yield from _receipt(position, identity, row["receipt"], where)
        known = purposes.get(row["purpose"]) if isinstance(row["purpose"], str) else None
        call = yield from _call(position, row["purpose"], known, raw, where)
        found.append(Transaction(position, row["purpose"], row["round"], raw, receipt, known, call))
    return tuple(found)


def _receipt(position: int, identity: bytes, text: Any, where: Place) -> Reading[ChainReceipt | None]:
    if text is None:
        return None
    try:
        receipt = receipt_from_json(text)
    except LedgerError as error:
        yield finding("transaction", "receipt", "a readable receipt", text, str(error), **where)
        return None
    if receipt.transaction != "0x" + identity.hex():
        message = f"the receipt of transaction {position} belongs to another one"
        yield finding("transaction", "receipt", identity, receipt.transaction, message, **where)
    return receipt


def _call(position: int, purpose: Any, known: Purpose | None, raw: bytes, where: Place) -> Reading[Call | None]:
    creates = known is not None and not known.function
    try:
        content = decode_transaction(raw)
        call = Call(content["chain_id"], content["to"], content["data"], content["gas"])
        if creates or purpose in ("open", "take-over"):
            call = call._replace(sender=spec.sender(raw))
        if creates:
            return call._replace(created=created_contract(call.sender, raw))
    except (LedgerError, ValueError) as error:
        message = f"transaction {position} is damaged: {error}"
        yield finding("transaction", "raw", "a signed transaction", raw, message, **where)
        return None
    if known is None:
        return call
    try:
        function, arguments = call_arguments(call.data, known.contract)
    except LedgerError as error:
        message = f"transaction {position} is damaged: {error}"
        yield finding("transaction", "function", f"a call of {known.contract}", call.data[:4], message, **where)
        return call
    return call._replace(function=function, arguments=arguments)


def check_transaction(
    transaction: Transaction,
    purposes: Mapping[str, Purpose],
    domain: Domain,
    contracts: Mapping[str, str],
    where: Place,
) -> Reading[bool]:
    """Check chain, contract, function and the code of a new contract; returns whether its arguments are worth a look.

    Args:
        domain: chain, and the contract that all begins with.
        contracts: name of each contract -> its address.
    """
    seq, known, call = transaction.seq, transaction.known, transaction.call
    if known is None:
        message = f"transaction {seq} has no known purpose"
        yield finding("transaction", "purpose", ", ".join(purposes), transaction.purpose, message, **where)
        return False
    if call is None:
        return False
    if call.chain_id != domain.chain_id:
        message = f"transaction {seq} is signed for another chain"
        yield finding("transaction", "chain_id", domain.chain_id, call.chain_id, message, **where)
    if transaction.creates:
        yield from _check_code(transaction, known.contract, call, domain, where)
        return False
    target = contracts.get(known.contract)
    if call.to != target:
        message = f"transaction {seq} goes to another contract"
        yield finding("transaction", "to", target, call.to, message, **where)
    if call.function and call.function != known.function:
        message = f"transaction {seq} calls something else"
        yield finding("transaction", "function", known.function, call.function, message, **where)
    return call.function == known.function


def _check_code(
    transaction: Transaction, name: str, call: Call, domain: Domain, where: Place
) -> Generator[Told, None, None]:
    code = bytes.fromhex(artefact(name)["bytecode"][2:])
    given, arguments = call.data[: len(code)], call.data[len(code) :]
    if given != code:
        hashes = (spec.keccak256(code), spec.keccak256(given))
        yield finding("transaction", "bytecode", *hashes, f"{name} was created from other code", **where)
    if transaction.purpose == "deploy":
        if transaction.succeeded and call.created != domain.contract:
            message = f"{name} was created elsewhere"
            yield finding("transaction", "contract", domain.contract, call.created, message, **where)
    # The constructors of all other contracts take the address of the first one before anything else.
    elif arguments[:32] != spec.encode("address", domain.contract):
        message = f"{name} was created for another contract"
        yield finding("transaction", "contract", domain.contract, arguments[:32], message, **where)


def compare_arguments(
    transaction: Transaction, expected: Mapping[str, Any], where: Place, given: Mapping[str, Any] | None = None
) -> Generator[Told, None, None]:
    """Name the arguments of a call that are not as they must be; a struct is compared by its values."""
    given = transaction.arguments if given is None else given
    for name, value in expected.items():
        there = given.get(name)
        if isinstance(value, Mapping):
            inner = there if isinstance(there, Mapping) else {}
            yield from compare_arguments(transaction, value, where, inner)
        elif there != value:
            message = f"{name} in transaction {transaction.seq} is not the recorded one"
            yield finding("transaction", name, value, there, message, **where)
