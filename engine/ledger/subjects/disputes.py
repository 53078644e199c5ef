"""Hospitals against the coordinator: updates shown to the contract directly, disputes with proof, an auditor's decisions."""

from engine.errors import LedgerError
from engine.ledger.book import Book, Call
from engine.ledger.chain.contracts import call_arguments, call_data
from engine.ledger.chain.transactions import decode_transaction
from engine.ledger.format import PRIVACY, ZERO
from engine.ledger.signing import sign
from engine.ledger.subjects.privacy import account, terms_digest
from engine.ledger.subjects.registry import Registry
from engine.ledger.subjects.rounds import Rounds
from engine.ledger.subjects.updates import Availability, Receipt, SignedUpdate
from engine.ledger.trees import annex_path
from engine.ledger.typed import abi_tuple


class Disputes:
    """What hospitals can do about a coordinator, and an auditor about a dispute."""

    def __init__(self, book: Book, registry: Registry, rounds: Rounds) -> None:
        self._book, self._registry, self._rounds = book, registry, rounds
        self._federation = registry.federation

    def submit(self, signed: SignedUpdate) -> None:
        """Show the contract an update directly, around a coordinator that does not take it.

        Raises:
            ContractRevert: the round is not open, the update is there already, or the signature does not count.
        """
        record = signed.record
        membership = self._registry.membership(record.slot)
        account = self._registry.holder(record.slot, record.round)
        data = call_data("submitUpdate", abi_tuple(record), signed.signature, account, *membership)
        self._book.send(Call("submit", record.round, self._book.domain.contract, data))

    def dispute(self, round: int, slot: int, leaf: bytes = ZERO, signature: bytes = b"") -> None:
        """Show the contract that a sealed round holds something else than was promised.

        Args:
            leaf: what the coordinator's receipt names; zero where the promise is an update that was shown directly.
            signature: of the receipt; with a zero leaf an auditor's of `Availability`, where the coordinator has said that
                it was not given the vector.

        Raises:
            ContractRevert: it proves nothing.
        """
        proof = self._rounds.prove(round, slot)
        receipt = Receipt(self._federation.id, round, slot, leaf)
        headers = [header.abi for header in self._rounds.headers_from(round)]
        arguments = (abi_tuple(receipt), signature, proof.leaf, list(proof.siblings))
        data = call_data("dispute", self._federation.id, headers, *arguments)
        self._book.send(Call("dispute", round, self._book.domain.contract, data))

    def dispute_update(self, round: int, slot: int) -> None:
        """Show the contract that a sealed update began from a model that is too old, or from none of the federation's.

        Raises:
            LedgerError: the journal has no update there.
            ContractRevert: it did not.
        """
        proof = self._rounds.prove(round, slot)
        sealed = next((one for one in self._rounds.signed(round)[0] if one.record.slot == slot), None)
        if sealed is None:
            raise LedgerError(f"round {round} holds no update of hospital {slot}")
        headers = [header.abi for header in self._rounds.headers_from(round, stale=True)]
        arguments = (headers, abi_tuple(sealed.record), sealed.signature, list(proof.siblings))
        data = call_data("disputeUpdate", self._federation.id, *arguments)
        self._book.send(Call("dispute-update", round, self._book.domain.contract, data))

    def overspent(self, round: int, slot: int) -> None:
        """Show the contract an update that has spent more than the privacy budget, which voids its round and those after it.

        Raises:
            LedgerError: the round holds no such update whose account can be shown.
            ContractRevert: it is within the budget, or the round is final or void.
        """
        both = list(zip(*self._rounds.signed(round), strict=True))
        update, said = next(((one, of.privacy) for one, of in both if one.record.slot == slot), (None, None))
        if update is None or said is None:
            raise LedgerError(f"round {round} holds no update of hospital {slot} that says what privacy it has spent")
        proof, digests = self._rounds.prove(round, slot), self._rounds.digests(round)
        # the budget of the annex counts, whatever the update itself calls its own
        records = [of.privacy for _, of in both if terms_digest(of.privacy) == digests.get(PRIVACY)]
        if not records or records[0] is None:
            raise LedgerError(f"round {round}: no update speaks of the privacy budget that its annex names")
        where = (list(proof.siblings), annex_path(digests, PRIVACY))
        evidence = (abi_tuple(update.record), update.signature, account(said, records[0]), *where)
        headers = [header.abi for header in self._rounds.headers_from(round)]
        data = call_data("voidOverspent", self._federation.id, headers, evidence)
        self._book.send(Call("overspent", round, self._book.domain.contract, data))
        self._rounds.refresh()

    def witness(self, round: int, slot: int, update: bytes, key: bytes) -> bytes:
        """Sign, as an auditor, that the vector behind an update that was shown directly is here.

        Args:
            update: hash of the vector, 32 bytes.
            key: the auditor's.

        Raises:
            LedgerError: the slot has shown no update for this round, or one with another vector.
        """
        shown = [t for t in self._book.transactions if (t.purpose, t.round) == ("submit", round)]
        for transaction in shown:
            _, arguments = call_arguments(decode_transaction(transaction.raw)["data"])
            record = arguments["record"]
            if record["slot"] == slot and record["update"] == update:
                leaf = self._rounds.submission(round, record["parentModel"], slot)["leaf"]
                return sign(Availability(self._federation.id, round, slot, leaf), self._book.domain, key)
        raise LedgerError(f"hospital {slot} has shown no update with this vector in round {round}")

    def resolve(self, round: int, voided: bool, key: bytes) -> None:
        """Decide a dispute with an auditor's key: the round is final, or void with all rounds after it.

        The model is then again the one before the first void round. An auditor is no coordinator, so that the decision
        is not taken by whom it is about; `Rounds.grant("AUDITOR_ROLE", account)` makes one.

        Raises:
            LedgerError: there is no such dispute, the account is no auditor, or the chain does not answer.
        """
        data = call_data("resolveDispute", self._federation.id, self._rounds.sealed(round).abi, voided)
        if self._book.relay(Call("resolve", round, self._book.domain.contract, data), key).status != 1:
            raise LedgerError(f"the contract refuses to resolve round {round}")
        self._rounds.refresh()
