"""Who leads a run: the order of successors, fixed before round 1, and the terms that takeovers have begun."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from engine.errors import LedgerError
from engine.ledger.book import Book, Call
from engine.ledger.chain.contracts import call_arguments, call_data, deploy_data
from engine.ledger.chain.transactions import decode_transaction, sender_of
from engine.ledger.config import Leader, LedgerConfig
from engine.ledger.delivery import JournalTransaction
from engine.ledger.format import RUN
from engine.ledger.subject import Subject
from engine.ledger.subjects.registry import Federation
from engine.ledger.subjects.rounds import Rounds


class Term(NamedTuple):
    """A time in which one account led: its number, who it was, and the first round that was its own."""

    number: int
    account: str
    name: str
    round: int


class Succession(Subject):
    """The terms of an open federation.

    Attributes:
        terms: that takeovers have begun, in order; none while the first coordinator leads.
    """

    def __init__(
        self, book: Book, federation: Federation, rounds: Rounds, config: LedgerConfig, leader: Leader, silent: float
    ) -> None:
        """
        Args:
            leader: who opens the ledger.
            silent: seconds since the last sign of whoever leads, by the clock on the wall.
        """
        self._book, self._federation, self._rounds = book, federation, rounds
        self._names, self._patience = config.successors, config.patience
        self._leader, self._silent = leader, silent
        self.terms: list[Term] = []
        self._appointed = False
        book.inherit = self._inherit

    @property
    def led(self) -> tuple[str, ...]:
        """Accounts that have led before whoever does now, the first one first."""
        opened = [sender_of(t.raw) for t in self._book.transactions if t.purpose == "open"]
        return (*dict.fromkeys([*opened, *(term.account for term in self.terms)]),)

    def settle(self) -> None:
        """Fix the order before round 1; take over where the settings name a successor, else refuse one that was replaced.

        Raises:
            LedgerError: somebody else leads, or it is not the turn or not the time of this one.
        """
        if any(self._rounds.state(self._book.domain.contract)["closing"]):
            return  # nobody leads any more, whoever writes down what it came to
        began = self._appointed
        self._appoint()
        last = self.terms[-1].name if self.terms else ""
        if self._leader.name == last:
            if not last:
                self._rounds.require_coordinator(self._book.domain.contract)
            if began and self._book.chain.name != "embedded":  # whose sign is the last write into the journal
                self.alive()
            return
        folder = self._book.path.parent.parent
        if not self._leader.name:
            term = self.terms[-1]
            raise LedgerError(
                f"{folder}: {last} leads this run since round {term.round} (term {term.number}), nothing that the coordinator "
                f"before it sends counts; `pulseledger resume {folder} --as {last}` goes on"
            )
        self.take_over()

    def take_over(self) -> None:
        """Lead from now on; what the chain holds of a round before this stays.

        Raises:
            LedgerError: another one stands before it, or whoever leads has time left.
        """
        place = self._names.index(self._leader.name)
        self._require_account(place)
        self._require_peace()
        self._require_time(place)
        rounds, what = self._rounds, (self._federation.id, place)
        data = call_data("takeOver", *what, contract="SuccessionLedger")
        self._book.send(Call("take-over", len(rounds.seals) + 1, self._contract, data))

    def alive(self) -> None:
        """Show that whoever leads is there, without a seal."""
        data = call_data("reportAlive", self._federation.id, contract="SuccessionLedger")
        self._book.send(Call("alive", len(self._rounds.seals) + 1, self._contract, data))

    def summary(self) -> dict[str, Any]:
        """What a run reports of its terms; {} where nobody took over."""
        rows = [{"term": t.number, "name": t.name, "account": t.account, "round": t.round} for t in self.terms]
        return {"terms": rows} if rows else {}

    # --- What the book tells ------------------------------------------------------------------------------------------

    def reset(self) -> None:
        self.terms, self._appointed = [], False

    def settled(self, done: JournalTransaction, live: bool) -> None:
        self._appointed |= done.purpose == "appoint"
        if done.purpose != "take-over":
            return
        _, given = call_arguments(decode_transaction(done.raw)["data"], "SuccessionLedger")
        place = given["place"]
        name = self._names[place] if place < len(self._names) else ""
        self.terms.append(Term(place + 1, sender_of(done.raw), name, done.round))

    def _inherit(self) -> None:
        if self._leader.name != (self.terms[-1].name if self.terms else ""):
            self.take_over()
        self._rounds.promise_again()

    # --- Steps --------------------------------------------------------------------------------------------------------

    @property
    def _contract(self) -> str:
        data = deploy_data(self._book.domain.contract, contract="SuccessionLedger")
        return self._book.deploy("deploy-succession", data)

    def _appoint(self) -> None:
        if self._appointed or not self._names:
            return
        if self._rounds.seals or self._leader.name:
            raise LedgerError(
                "ledger.successors: this run began without them, and nobody can be appointed after round 1"
            )
        domain, accounts = self._book.domain, [self._account(name) for name in self._names]
        entrust = call_data("entrust", self._federation.id, self._contract)
        self._book.send(Call("entrust", 0, domain.contract, entrust))
        given = (self._federation.id, accounts, self._patience)
        appoint = call_data("appoint", *given, contract="SuccessionLedger")
        self._book.send(Call("appoint", 0, self._contract, appoint))

    def _account(self, name: str) -> str:
        if name.isdecimal():
            return self._federation.hospitals[int(name)]
        return name if name.startswith("0x") else self._book.chain.accounts.address(name)

    def _require_account(self, place: int) -> None:
        """Refuse a key that is not of whoever was appointed: of somebody else, or of a hospital that has changed it since."""
        book, name = self._book, self._names[place]
        question = ("SuccessionLedger", self._contract, "succession", self._federation.id)
        wanted, own = book.settled(lambda: book.query(*question))["successors"][place], book.chain.sender
        if own != wanted:
            raise LedgerError(
                f"--as {name}: the key here is of account {own}, and the chain knows {name} as {wanted}; that one's key takes over"
            )

    def _require_peace(self) -> None:
        """Refuse to lead what is disputed: the dispute may be about whoever would."""
        round = self._rounds.state(self._book.domain.contract)["disputed"]
        if round and self._rounds.status(round) == "DISPUTED":
            raise LedgerError(
                f"round {round} is disputed: an auditor must decide (`pulseledger ledger resolve`) before {self._leader.name} can "
                "take over"
            )

    def _require_time(self, place: int) -> None:
        """Refuse what the contract would, in a sentence; on the embedded chain, whose clock stands still, by that on the wall."""
        book, name = self._book, self._names[place]
        passed = [term.name for term in self.terms if term.number > place]
        if passed:
            raise LedgerError(
                f"ledger.successors: {passed[-1]} took over already, which stands at or behind {name}; who was passed leads no more"
            )
        if book.chain.name == "embedded":
            wait = self._patience * (place + 1 - _number(self.terms)) - self._silent
            since = time.time() + wait
        else:
            question = ("SuccessionLedger", self._contract, "takeoverFrom", self._federation.id, place)
            since = float(book.settled(lambda: book.query(*question)))
            wait = since - book.chain.time()
        if wait > 0:
            when = datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds")
            raise LedgerError(
                f"ledger.successors: it is too early for {name}: whoever leads has been silent for less than ledger.patience "
                f"({self._patience} s for each place); from {when} on, in {wait:.0f} s, it can take over"
            )


def _number(terms: Sequence[Term]) -> int:
    """The number of the present term, 0 for that of the first coordinator."""
    return terms[-1].number if terms else 0


def require_named(config: LedgerConfig, leader: Leader) -> None:
    """
    Raises:
        LedgerError: whoever is to lead is no successor of the run.
    """
    if leader.name and leader.name not in config.successors:
        known = f"allowed: {', '.join(config.successors)}" if config.successors else "the run names none"
        raise LedgerError(f"--as {leader.name}: is none of ledger.successors; {known}")


def require_successors(config: LedgerConfig, hospitals: int, folder: Path, leader: Leader) -> None:
    """Before any long work.

    Raises:
        LedgerError: a successor is no hospital of the run, or there is nothing that one could take over.
    """
    for name in config.successors:
        if name.isdecimal() and int(name) >= hospitals:
            raise LedgerError(f"ledger.successors: there is no hospital {name}, the run has 0 to {hospitals - 1}")
    if not leader.name:
        return
    if not (folder / RUN.file).exists():
        raise LedgerError(
            f"--as {leader.name}: {folder} has no journal, so there is nothing to take over; resume without it"
        )
    if leader.name.startswith("0x") and not leader.key:
        raise LedgerError(f"--as {leader.name}: its key is not here, give its file with --key")
