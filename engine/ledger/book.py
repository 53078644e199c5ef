"""Journal, chain and delivery of one folder: what the ledgers of runs and of studies have in common.

A book knows transactions and not what they mean. Subjects (`engine/ledger/subjects`) write their rows and calls through it,
and take up what they know from what it tells them: every transaction that the chain has taken, in order, when the folder
is opened and from then on. So opening a folder, going on after a crash, and coming back after a node lost its memory
are the same thing.

    book = Book(folder, format.RUN, format.PURPOSES, config)
    if book.is_new:
        book.create(meta, deploy_data(...), lambda contract: (Call("open", 0, contract, call_data(...)),))
    book.keep(subject)
    book.restore()                  # the chain gets what it lacks; the subject is told of every transaction
    book.send(Call(...))            # refused by the contract: raised; else journaled, sent, told
    book.write(Call(...)); book.finish()      # in two steps, unchecked, where somebody notes in between what was written
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from engine.clock import REAL, Clock
from engine.encoding import canonical_json, keccak, read_json
from engine.errors import LedgerError
from engine.ledger.chain.base import (
    Chain,
    ChainReceipt,
    ChainTrouble,
    ContractRevert,
    NoContract,
    NonceProblem,
    receipt_from_json,
    receipt_to_json,
)
from engine.ledger.chain.connect import connect
from engine.ledger.chain.contracts import query
from engine.ledger.chain.transactions import created_contract, decode_transaction, sender_of
from engine.ledger.config import FIRST, Leader, LedgerConfig
from engine.ledger.delivery import Contradiction, JournalTransaction, NoReceipt, NumberLost, Refused, settle
from engine.ledger.format import Journal, Purpose
from engine.ledger.store import Rows, Store
from engine.ledger.subject import Subject
from engine.ledger.typed import Domain, address_bytes, record_from_json, record_to_json

_BEGINNINGS = 5  # times that a ledger begins anew whose contract lost its number
_RESTORES = 3  # a chain can reorganise while it is being brought to the journal's state
_LOOK_SECONDS = 0.1  # between two looks for the receipt of another account's transaction


Answer = TypeVar("Answer")


class _Key(NamedTuple):
    """What a transaction is for: two with the same key are attempts at the same."""

    purpose: str
    round: int
    content: bytes  # address and data of a call
    turn: int = 0  # of a purpose that repeats: how often the same was taken before


@dataclass(frozen=True)
class Call:
    """A transaction that is wanted.

    Attributes:
        purpose: a key of the book's purposes.
        round: number of the round that it is about, 0 for none.
        to: address of the contract; None creates one.
        rows: what is written down together with its first attempt.
    """

    purpose: str
    round: int
    to: str | None
    data: bytes
    rows: Rows = field(default_factory=dict)

    @property
    def key(self) -> _Key:
        return _Key(self.purpose, self.round, (address_bytes(self.to) if self.to else b"") + self.data)


class Book:
    """An open journal and its chain.

    Attributes:
        domain: chain and first contract.
        inherit: makes a successor the one that leads, before it sends in its own name what was left.
    """

    domain: Domain

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        purposes: Mapping[str, Purpose],
        config: LedgerConfig,
        contract: str | None = None,
        clock: Clock = REAL,
        chain: Chain | None = None,
        leader: Leader = FIRST,
    ) -> None:
        """Open the folder, which nobody else may be writing, and connect to the chain.

        Args:
            contract: one that is already deployed.
            chain: in place of the one of the settings.
            leader: who works as coordinator.

        Raises:
            LedgerError: a setting is wrong, the node is unreachable, another process writes here, the journal is
                damaged, or it belongs to another chain than the settings; the message names both sides.
        """
        self._purposes, self._clock = purposes, clock
        self._subjects: list[Subject] = []
        self._roles: dict[str, str] = {}  # role -> its account
        self._transactions: dict[int, JournalTransaction] = {}
        self._attempts: dict[_Key, list[int]] = {}  # seq of every attempt, in the order of the first ones
        self._keys: dict[int, _Key] = {}  # seq -> what it is an attempt at
        self._done: dict[_Key, JournalTransaction] = {}
        self._created: dict[str, str] = {}  # purpose -> address of the contract
        self._open: _Key | None = None  # what was written down last, if the chain has not answered
        self._is_telling = False
        self._turn, self._unsent = ExitStack(), False  # held from the signing of a transaction until it is sent
        self._numbers: dict[str, dict[int, int]] = {}  # account -> nonce -> seq of what counts, or of the newest
        self._mined: dict[str, int] = {}  # account -> greatest nonce that the chain has, as far as is known
        self._chain: Chain | None = None
        self._config, self._contract, self.inherit = config, contract, lambda: None
        if contract is not None:
            address_bytes(contract)
        self._store = Store(folder, journal, clock)
        try:
            if not self.is_new:
                self._require_settings()
            elif contract is not None and config.backend == "embedded":
                raise LedgerError("ledger.contract names a contract on a node, the embedded chain deploys its own")
            self._chain = chain or connect(config, folder, self.is_new, leader)
            self._succeeds = bool(leader.name) and self._chain.name != "embedded"  # which has what a journal has
            if not self.is_new:
                self._load()
        except BaseException:
            self.close()
            raise

    @property
    def is_new(self) -> bool:
        """Whether nothing was written so far."""
        return not self._store.meta

    @property
    def store(self) -> Store:
        """The journal's file."""
        return self._store

    @property
    def path(self) -> Path:
        """Of the journal's file."""
        return self._store.path

    @property
    def chain(self) -> Chain:
        """Raises LedgerError when the book is closed."""
        if self._chain is None:
            raise LedgerError(f"the ledger {self.path.parent} is closed")
        return self._chain

    @property
    def transactions(self) -> list[JournalTransaction]:
        """All attempts, in the order in which they were signed."""
        return list(self._transactions.values())

    def query(self, contract: str, address: str, function: str, *arguments: Any) -> Any:
        """Ask a contract of the chain, see `contracts.query`; the chain gets back what it has lost."""
        try:
            return query(self.chain, address, function, *arguments, contract=contract)
        except NoContract:
            if self._is_telling or self.is_new:
                raise
            self.restore()
            return query(self.chain, address, function, *arguments, contract=contract)

    def create(self, meta: Mapping[str, str], deploy: bytes, calls: Callable[[str], Sequence[Call]]) -> None:
        """Begin a new journal.

        Args:
            meta: what it says of itself, besides format, domain and backend.
            deploy: data that creates the contract, where the settings name none.
            calls: the first ones, given the contract's address. They are written together, so that all or none of
                them are there, and sent together, so that they can share a block.
        """
        chain, contract = self.chain, self._contract
        signed: list[tuple[Any, ...]] = []
        ahead: dict[str, int] = {}  # account -> transactions of it that are signed here

        self._turn.enter_context(chain.turn(self.account("deploy" if contract is None else "open")))

        def sign(call: Call) -> bytes:
            gas, by = self._purposes[call.purpose].gas, self.account(call.purpose)
            raw = chain.sign(call.to, call.data, gas, ahead.get(by, 0), by)
            ahead[by] = ahead.get(by, 0) + 1
            signed.append((len(signed) + 1, call.purpose, call.round, keccak(raw), raw, None))
            return raw

        if contract is None:
            contract = created_contract(self.account("deploy"), sign(Call("deploy", 0, None, deploy)))
        for call in calls(contract):
            sign(call)
        backend = {"name": self._config.backend, "url": self._config.url, "contract": self._contract}
        where = {
            "domain": record_to_json(Domain(chain.chain_id, contract)),
            "backend": canonical_json(backend),
        }
        self._store.create({**meta, **where}, {"transactions": signed})
        self._require_settings()
        self._load()
        # What does not get through now is sent again by `restore`.
        with self._turn.pop_all(), suppress(LedgerError), chain.within(chain.timeout / 10):
            for transaction in self.transactions:
                chain.send(transaction.raw)

    def begin(self, create: Callable[[], None], restore: Callable[[], None]) -> None:
        """Create the journal unless it is there, and bring the chain to it.

        Both again, with another contract, if the number of its creation went to another program of the same account before
        anything depended on it.

        Args:
            create: calls `create`.
            restore: calls `restore`.
        """
        for again in range(_BEGINNINGS, -1, -1):
            if self.is_new:
                create()
            try:
                restore()
                return
            except NumberLost:
                if not again or not self._is_untouched():
                    raise
                self._discard()

    def keep(self, *subjects: Subject) -> None:
        """Tell these subjects, too, in the order given."""
        self._subjects += subjects

    def restore(self) -> None:
        """Bring the chain to what the journal holds, in order; most often it is there already.

        Raises:
            Refused, Contradiction, NoContract: it cannot be brought there, and that was no reorganisation in between.
        """
        for again in range(_RESTORES, -1, -1):
            try:
                self._replay()
                self._tell(lambda subject: subject.restored())
                return
            except (Refused, Contradiction, NoContract):
                if not again:
                    raise

    def send(self, call: Call) -> JournalTransaction:
        """Journal and send a call, once: the same content again returns the transaction that succeeded.

        Of a purpose that repeats the same content is sent again, if the contract takes it again.

        Raises:
            ContractRevert: the contract refuses it now; nothing was written.
            LedgerError: the chain does not answer. What the journal holds is not lost.
        """
        self.finish()
        known = self._done.get(call.key)
        if known is not None and not self._purposes[call.purpose].repeats:
            return known
        self.check(call)
        key = self.write(call, self.check)
        self._send_first()
        try:
            return self._settle(key, live=True)
        except Refused:
            if not self._catch_up() or call.key not in self._done:
                self._open = None
                raise
        except (Contradiction, NoContract):
            self.restore()
            if call.key not in self._done:
                raise
        return self._done[call.key]

    def check(self, call: Call) -> None:
        """Refuse a call that the contract refuses now, once everything before it has come to its end.

        Raises:
            ContractRevert: it does.
        """
        self.finish()
        if call.to is None:
            return
        for again in range(_RESTORES, -1, -1):
            try:
                self.chain.call(call.to, call.data, self.account(call.purpose))
                return
            except ContractRevert:
                # what was refused may be right after what the chain has lost
                if not again or not self._catch_up():
                    raise

    def settled(self, ask: Callable[[], Answer]) -> Answer:
        """What is answered by a chain that has everything: asked again if it has lost something meanwhile."""
        while True:
            found = ask()
            if not self._catch_up():
                return found

    def _catch_up(self) -> bool:
        """As `restore`, if the chain has lost the last transaction that it had; tells whether it had."""
        last = next(reversed(self._done.values()), None)
        if last is None or self.chain.receipt(last.hash) is not None:
            return False
        self.restore()
        return True

    def account(self, purpose: str) -> str:
        """The account that signs transactions of a purpose; raises LedgerError when nobody here knows it."""
        role = self._purposes[purpose].by
        if role not in self._roles:
            self._roles[role] = self.chain.accounts.address(role)
        return self._roles[role]

    def write(self, call: Call, check: Callable[[Call], None] = lambda call: None) -> _Key:
        """Sign a call and write it down, in one durable step with its rows; `finish` sends it. Return what it is kept under.

        Args:
            check: refuses it where the chain had lost something, and has that again: it may have been about that.
        """
        self._turn.close()
        key = self._untaken(call.key)
        rows = {} if key in self._attempts else call.rows
        purpose, by = self._purposes[call.purpose], self.account(call.purpose)
        for again in range(_RESTORES, -1, -1):
            with ExitStack() as turn:
                turn.enter_context(self.chain.turn(by))
                raw = self.chain.sign(call.to, call.data, purpose.gas, by=by)
                if decode_transaction(raw)["nonce"] > self._mined.get(by, -1):
                    self._add(call.purpose, call.round, keccak(raw), raw, rows)
                    self._open, self._unsent, self._turn = key, True, turn.pop_all()
                    return key
            if again:
                self.restore()  # the chain has lost what it had, and this number with it
                check(call)
        raise ChainTrouble(
            f"the node counts fewer transactions of account {by} than {self.path} has receipts of: it is behind, or has lost them"
        )

    def finish(self) -> None:
        """Bring what was written down last to an end on the chain.

        Raises:
            Refused, Contradiction: the chain does not take what the ledger cannot be without.
            LedgerError: the chain does not answer.
        """
        self._send_first()
        key = self._open
        if key is None:
            return
        try:
            self._settle(key, live=True)
        except Refused:
            # A reorganisation may have taken what was before it away.
            if self._purposes[key.purpose].required:
                self.restore()
            elif not self._catch_up():
                self._open = None
        except (Contradiction, NoContract):
            self.restore()

    def created(self, purpose: str) -> str | None:
        """Return the address of the contract that transactions of a purpose create; None if that was not wanted so far."""
        return self._created.get(purpose)

    def deploy(self, purpose: str, data: bytes) -> str:
        """Create a contract, once, and return its address."""
        self.finish()
        if purpose not in self._created:
            self.send(Call(purpose, 0, None, data))
        return self._created[purpose]

    def relay(self, call: Call, key: bytes) -> ChainReceipt:
        """Journal and send a call in the name of another account, whose key it is; the contract may refuse it."""
        self.finish()
        assert call.to is not None
        raw = self.chain.sign_as(key, call.to, call.data, self._purposes[call.purpose].gas)
        return self._pass_on(self._add(call.purpose, call.round, keccak(raw), raw, call.rows))

    def close(self) -> None:
        """Close journal and chain; a second call does nothing."""
        self._turn.close()
        self._store.close()
        if self._chain is not None:
            self._chain.close()
            self._chain = None

    # --- What a delivery writes down ----------------------------------------------------------------------------------

    def add_transaction(self, purpose: str, round: int, hash: bytes, raw: bytes) -> JournalTransaction:
        """Write down another attempt."""
        return self._add(purpose, round, hash, raw, {})

    def set_receipt(self, seq: int, receipt: ChainReceipt | None) -> None:
        """Write down what the chain answered; None where it has taken its answer back."""
        self._store.set_receipt(seq, None if receipt is None else receipt_to_json(receipt))
        self._transactions[seq] = replace(self._transactions[seq], receipt=receipt)
        self._number(self._transactions[seq])

    def before(self, account: str, nonce: int) -> Iterator[JournalTransaction]:
        """Transactions of an account with smaller numbers, one for each number, from the greatest downwards."""
        numbers = self._numbers.get(account, {})
        for number in sorted((n for n in numbers if n < nonce), reverse=True):
            yield self._transactions[numbers[number]]

    def _add(self, purpose: str, round: int, hash: bytes, raw: bytes, rows: Rows) -> JournalTransaction:
        transaction = JournalTransaction(next(reversed(self._transactions), 0) + 1, purpose, round, hash, raw, None)
        self._store.add({**rows, "transactions": [(transaction.seq, purpose, round, hash, raw, None)]})
        self._note(transaction)
        return transaction

    def _note(self, transaction: JournalTransaction) -> None:
        self._transactions[transaction.seq] = transaction
        key = self._keys[transaction.seq] = self._untaken(_key(transaction))
        self._attempts.setdefault(key, []).append(transaction.seq)
        self._number(transaction)

    def _untaken(self, key: _Key) -> _Key:
        """What another attempt is kept under: of a purpose that repeats, after as many turns as the chain has taken."""
        while self._purposes[key.purpose].repeats and any(
            (receipt := self._transactions[seq].receipt) and receipt.status == 1 for seq in self._attempts.get(key, ())
        ):
            key = key._replace(turn=key.turn + 1)
        return key

    def _number(self, transaction: JournalTransaction) -> None:
        if self._purposes[transaction.purpose].foreign:
            return
        account = sender_of(transaction.raw) if self._succeeds else self.account(transaction.purpose)
        nonce = decode_transaction(transaction.raw)["nonce"]
        known = self._numbers.setdefault(account, {})
        if transaction.receipt is not None or self._transactions[known.get(nonce, transaction.seq)].receipt is None:
            known[nonce] = transaction.seq

    def _is_untouched(self) -> bool:
        """Whether the journal holds what opens it and no more, and the chain never had its contract."""
        tables = set(self._store.journal.tables) - {"meta", "transactions"}
        begun = any(self._store.rows(table) for table in tables)
        return not begun and not any(t.purpose == "deploy" and t.receipt is not None for t in self.transactions)

    def _discard(self) -> None:
        """Delete the journal; another can be created."""
        self._store.discard()
        rows, counted = (self._transactions, self._attempts, self._keys), (self._numbers, self._mined)
        for known in (*rows, self._done, self._created, *counted):
            known.clear()
        self._open = None

    def _send_first(self) -> None:
        """Send what was written down last for the first time; whatever comes of it, others may sign after that."""
        if self._open is None or not self._unsent:
            return
        self._unsent = False
        with self._turn.pop_all(), suppress(LedgerError), self.chain.within(self.chain.timeout / 10):
            self.chain.send(self._transactions[self._attempts[self._open][-1]].raw)

    # --- Opening and settling -----------------------------------------------------------------------------------------

    def _require_settings(self) -> None:
        """Refuse a journal that other settings made; before anybody asks a node for it."""
        meta, config = self._store.meta, self._config
        try:
            self.domain, backend = record_from_json(Domain, meta["domain"]), read_json(meta["backend"])
            name = backend["name"]
        except (KeyError, TypeError, ValueError, LedgerError) as error:
            raise LedgerError(f"the journal {self.path} is damaged: {error}") from error
        if name != config.backend:
            raise LedgerError(
                f"the journal {self.path} was written with ledger.backend {name}, this run has {config.backend}"
            )
        if self._contract is not None and self._contract != self.domain.contract:
            raise LedgerError(
                f"the journal {self.path} belongs to contract {self.domain.contract}, this run names {self._contract}"
            )

    def _load(self) -> None:
        """Take up all transactions of the journal."""
        for seq, purpose, round, identity, raw, text in self._store.rows("transactions"):
            if purpose not in self._purposes:
                raise LedgerError(f"the journal {self.path} is damaged: transaction {seq} has no known purpose")
            receipt = receipt_from_json(text) if text else None
            self._note(JournalTransaction(seq, purpose, round, identity, raw, receipt))
        if self.chain.chain_id != self.domain.chain_id:
            raise LedgerError(
                f"the journal {self.path} belongs to chain {self.domain.chain_id}, "
                f"the {self.chain.name} chain is {self.chain.chain_id}"
            )

    def _replay(self) -> None:
        self._turn.close()  # what waits to be sent is sent below, in its order
        self._open, self._unsent, self._done, self._created, self._mined = None, False, {}, {}, {}
        refused, left = set[_Key](), list[_Key]()
        for subject in self._subjects:
            subject.reset()
        for transaction in self.transactions:
            key, purpose = self._keys[transaction.seq], self._purposes[transaction.purpose]
            if purpose.foreign:
                self._pass_on(transaction)
                continue
            if key in self._done or key in refused or key in left:
                continue
            if self._is_left(key):
                left.append(key)
                continue
            try:
                self._settle(key, live=False)
            except Refused:
                if purpose.required and not self._is_superseded(transaction):
                    raise
                refused.add(key)  # the contract did not take it then, either
        for key in left:
            self._take_up(key)

    def _is_left(self, key: _Key) -> bool:
        """Whether a coordinator that was replaced wrote it down, and the chain does not have it: nobody here can sign it again."""
        return self._succeeds and all(self._is_anothers(self._transactions[seq]) for seq in self._attempts[key])

    def _is_anothers(self, one: JournalTransaction) -> bool:
        return sender_of(one.raw) != self.account(one.purpose) and self.chain.receipt(one.hash) is None

    def _take_up(self, key: _Key) -> None:
        """Send in our own name what was left, once nothing of whoever wrote it down counts any more."""
        self.inherit()
        if self._is_left(key):
            content = decode_transaction(self._transactions[self._attempts[key][-1]].raw)
            self.write(Call(key.purpose, key.round, content["to"], content["data"]))
            self._send_first()
        with suppress(*[] if self._purposes[key.purpose].required else [Refused]):
            self._settle(key, live=False)

    def _is_superseded(self, transaction: JournalTransaction) -> bool:
        """Whether the same was written down again later, with what the contract wanted by then."""
        key, last = self._keys[transaction.seq], transaction.seq
        later = (t for t in self._transactions.values() if t.seq > last)
        return any((t.purpose, t.round) == (key.purpose, key.round) and self._keys[t.seq] != key for t in later)

    def _settle(self, key: _Key, live: bool) -> JournalTransaction:
        """Bring a transaction to an end on the chain, by another attempt if need be, and tell the subjects."""
        attempts = [self._transactions[seq] for seq in self._attempts[key]]
        if self._succeeds:
            attempts = [one for one in attempts if not self._is_anothers(one)] or attempts
        done = settle(self.chain, self, attempts, self._purposes[key.purpose].gas, self._clock)
        self._done[key] = done
        by, nonce = sender_of(done.raw), decode_transaction(done.raw)["nonce"]
        self._mined[by] = max(self._mined.get(by, -1), nonce)
        if not self._purposes[key.purpose].function:
            self._created[key.purpose] = created_contract(sender_of(done.raw), done.raw)
        self._open = None
        self._tell(lambda subject: subject.settled(done, live))
        return done

    def _tell(self, what: Callable[[Subject], None]) -> None:
        """Tell all subjects: what they ask meanwhile must not have everything told again in the middle of it."""
        self._is_telling = True
        try:
            for subject in self._subjects:
                what(subject)
        finally:
            self._is_telling = False

    def _pass_on(self, transaction: JournalTransaction) -> ChainReceipt:
        """Send the transaction of another account, once; it is not ours to sign again."""
        chain = self.chain
        receipt = chain.receipt(transaction.hash)
        if receipt is None:
            with suppress(NonceProblem):  # it may be there already
                chain.send(transaction.raw)
            deadline = self._clock.now() + chain.timeout
            while (receipt := chain.receipt(transaction.hash)) is None:
                if self._clock.now() > deadline:
                    raise NoReceipt(f"the {chain.name} chain gave no receipt within {chain.timeout:g} s")
                self._clock.sleep(_LOOK_SECONDS)
        if transaction.receipt is None:
            self.set_receipt(transaction.seq, receipt)
        return receipt


def _key(transaction: JournalTransaction) -> _Key:
    content = decode_transaction(transaction.raw)
    where = address_bytes(content["to"]) if content["to"] else b""
    return _Key(transaction.purpose, transaction.round, where + content["data"])
