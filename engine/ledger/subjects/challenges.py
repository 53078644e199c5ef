"""Challenges to masked updates: an auditor wants one opened, the hospital answers, silence until the deadline is fraud."""

from dataclasses import dataclass
from typing import Any

from engine.errors import LedgerError
from engine.ledger.book import Book, Call
from engine.ledger.chain.contracts import call_data, deploy_data
from engine.ledger.format import ANSWER_TIME, CHALLENGES, ZERO
from engine.ledger.signing import sign
from engine.ledger.subjects.registry import Registry
from engine.ledger.subjects.rounds import Rounds
from engine.ledger.trees import EMPTY
from engine.ledger.typed import U32, U64, Bytes32, Domain, Record, abi_tuple


@dataclass(frozen=True)
class MaskOpening(Record):
    """A hospital's word that this is the opening of its masked update; `opening` is the SHA-256 of the document's canonical JSON."""

    federation: Bytes32
    round: U64
    slot: U32
    opening: Bytes32


class Challenges:
    """Challenges of an open federation, on a contract of their own."""

    def __init__(self, book: Book, registry: Registry, rounds: Rounds) -> None:
        self._book, self._registry, self._rounds = book, registry, rounds
        self._federation = registry.federation

    @property
    def contract(self) -> str:
        """Address of the MaskLedger; deployed when first asked for."""
        data = deploy_data(self._book.domain.contract, ANSWER_TIME, contract="MaskLedger")
        return self._book.deploy("deploy-masks", data)

    def state(self, round: int, slot: int) -> dict[str, Any]:
        """How a challenge stands: `status` is one of `format.CHALLENGES`, `deadline`, `opening`, `reasons`."""
        if not any(one.purpose == "deploy-masks" for one in self._book.transactions):
            return {"status": CHALLENGES[0], "deadline": 0, "opening": ZERO, "reasons": ZERO}
        place = (self._federation.id, round, slot)
        found: dict[str, Any] = self._book.query("MaskLedger", self.contract, "challengeState", *place)
        return {**found, "status": CHALLENGES[found["status"]]}

    def owed(self) -> int:
        """How many challenged hospitals owe an opening."""
        taken = [one.purpose for one in self._book.transactions if one.receipt is not None and one.receipt.status == 1]
        return taken.count("challenge") - taken.count("answer") - taken.count("expire-challenge")

    def challenge(self, round: int, slot: int, key: bytes) -> None:
        """Want an update opened, with an auditor's key.

        Raises:
            LedgerError: the round holds no update of the hospital, it was challenged before, or the account is no auditor.
        """
        proof = self._rounds.prove(round, slot)
        if proof.leaf == EMPTY:
            raise LedgerError(f"round {round} holds no update of hospital {slot}")
        arguments = (self._federation.id, proof.header.abi, slot, proof.leaf, list(proof.siblings))
        self._relay("challenge", round, key, "challengeUpdate", *arguments)

    def answer(self, round: int, slot: int, opening: bytes, key: bytes) -> None:
        """Show the contract the digest of an opening, with the hospital's signature.

        Raises:
            ContractRevert: nobody has challenged the update, it is too late, or the signature does not count.
        """
        record = MaskOpening(self._federation.id, round, slot, opening)
        domain = Domain(self._book.domain.chain_id, self.contract)
        who = (self._registry.holder(slot), *self._registry.membership(slot))
        data = call_data("answerChallenge", abi_tuple(record), sign(record, domain, key), *who, contract="MaskLedger")
        self._book.send(Call("answer", round, self.contract, data))

    def decide(self, round: int, slot: int, fraud: bool, reasons: bytes, key: bytes) -> None:
        """Decide on an opening, with an auditor's key.

        Raises:
            LedgerError: the hospital has not answered, or the account is no auditor.
        """
        self._relay("decide", round, key, "decideChallenge", self._federation.id, round, slot, fraud, reasons)

    def expire(self, round: int, slot: int) -> None:
        """Take the silence of a hospital for fraud.

        Raises:
            ContractRevert: it owes nothing, or may still answer.
        """
        data = call_data("expireChallenge", self._federation.id, round, slot, contract="MaskLedger")
        self._book.send(Call("expire-challenge", round, self.contract, data))

    def _relay(self, purpose: str, round: int, key: bytes, function: str, *arguments: Any) -> None:
        data = call_data(function, *arguments, contract="MaskLedger")
        if self._book.relay(Call(purpose, round, self.contract, data), key).status != 1:
            raise LedgerError(f"the contract refuses: {function} of round {round}")
