"""The desk that takes the steps of the governance of synthetic data: by the books alone, or by a ledger before them."""

from dataclasses import replace
from typing import Protocol

from engine.encoding import hexed
from engine.errors import LedgerError
from engine.ledger.chain.base import ContractRevert
from engine.ledger.format import ZERO
from engine.ledger.keystore import read_reviewers, simulated_organisation
from engine.ledger.signer import Signing, Terms
from engine.ledger.signing import address, reviewer_key
from engine.ledger.subjects.policy import Books
from engine.ledger.subjects.registry import organisation
from engine.ledger.subjects.synthetic import (
    Expire,
    Governance,
    Governed,
    Policy,
    SetPolicy,
    SetReviewer,
    SignedReport,
    SignedReview,
    Step,
    SyntheticReport,
    SyntheticReview,
)
from engine.ledger.typed import Domain, checksum_address


class Desk:
    """The desk of a run without a ledger: the books decide alone, and nothing is kept.

    Attributes:
        signing: what hospitals need to sign requests and reports.
        books: where every request stands.
        reviews, reports: signed records by request; previews are in the books.
        reviewers: accounts that may review, with their organisations.
    """

    def __init__(self, signing: Signing, organisations: tuple[bytes, ...] = ()) -> None:
        """
        Args:
            organisations: of the hospitals, by id; empty makes every hospital one of its own.
        """
        self.signing, self._organisations = signing, organisations
        self.books = Books()
        self.reviews: dict[bytes, SyntheticReview] = {}
        self.reports: dict[bytes, SyntheticReport] = {}
        self.reviewers: dict[str, bytes] = {}

    @property
    def terms(self) -> Terms:
        """What hospitals are told of the policy in force."""
        return Terms(self.signing, len(self.books.policies))

    def organisation(self, hospital: int) -> bytes:
        """The organisation that a hospital belongs to."""
        return self._organisations[hospital] if self._organisations else organisation(hospital)

    def open(self, policy: Policy, seed: int) -> None:
        """Sets the policy, and who may review where it wants a reviewer, unless that is done.

        Args:
            seed: of the run, which the simulated reviewer's key is derived from where there is no keystore.

        Raises:
            LedgerError: another policy was set before; the keystore has no reviewer.
        """
        if not self.books.policies:
            self.take(SetPolicy(policy))
        elif self.books.policies[-1] != policy:
            raise LedgerError("the ledger holds another policy on synthetic data than this run's balance.policy")
        if policy.automatic:
            return
        known = {address(reviewer_key(seed, self.signing.federation)): simulated_organisation()}
        if self.signing.keystore is not None:
            known = read_reviewers(self.signing.keystore)
        for account, of in known.items():
            if account not in self.reviewers:
                self.take(SetReviewer(account, of))

    def take(self, step: Step) -> bytes:
        """Takes one more step; returns its id, which is that of the request that it is about.

        Raises:
            LedgerError: it is not possible.
        """
        self.books.take(step, self.signing.domain)
        match step:
            case SignedReview():
                self.reviews[step.record.request] = step.record
            case SignedReport():
                self.reports[step.record.request] = step.record
            case SetReviewer():
                self.reviewers[step.account] = step.organisation
        return step.identity(self.signing.domain)

    def expire(self, request: bytes) -> None:
        """Ends a request whose time has passed; without a chain no time passes."""


class Keeper(Protocol):
    """A ledger, as far as a desk needs it."""

    signing: Signing
    organisations: tuple[bytes, ...]

    def governance(self) -> Governance:
        """How everything stands."""
        ...

    def govern(self, step: Step) -> Governed:
        """Takes a step."""
        ...


class LedgerDesk(Desk):
    """The desk of a run with a ledger: its journal and contract take each step first, and the books must decide the same."""

    def __init__(self, ledger: Keeper) -> None:
        """Takes up every step that the ledger holds.

        Raises:
            LedgerError: contract and books disagree.
        """
        held = ledger.governance()
        super().__init__(replace(ledger.signing, domain=held.domain), ledger.organisations)
        self._ledger = ledger
        for step in held.steps:
            super().take(step)
        self._compare(held.decisions)

    def take(self, step: Step) -> bytes:
        decisions = self._ledger.govern(step).decisions
        identity = super().take(step)
        self._compare(decisions)
        return identity

    def expire(self, request: bytes) -> None:
        try:
            self.take(Expire(request))
        except ContractRevert:
            return  # its time has not come

    def _compare(self, decisions: bytes) -> None:
        if decisions != self.books.decisions:
            raise LedgerError(
                f"the contract's decisions on synthetic data are {hexed(decisions)}, the policy gives "
                f"{hexed(self.books.decisions)}"
            )


def unanchored(federation: bytes) -> Signing:
    """What hospitals need to sign where no ledger is kept: it counts on no chain."""
    return Signing(federation, ZERO, Domain(0, checksum_address(bytes(20))), "", 0, ZERO)
