"""The desk that takes the steps of the governance of synthetic data: by the books alone, or by a ledger before them."""

import json
from typing import Any, Protocol

from engine.encoding import hexed
from engine.errors import LedgerError
from engine.ledger.chain import ContractRevert
from engine.ledger.keys import Signing, Terms, read_reviewers, simulated_organisation
from engine.ledger.policy import Books, Policy, from_contract, to_contract
from engine.ledger.records import (
    ZERO,
    Domain,
    SyntheticReport,
    SyntheticRequest,
    SyntheticReview,
    checksum_address,
    digest,
    organisation,
    record_from_json,
    record_to_json,
)
from engine.ledger.signing import address, reviewer_key
from engine.ledger.steps import Expire, SetPolicy, SetReviewer, SignedReport, SignedRequest, SignedReview, Step


class Desk:
    """The desk of a run without a ledger: the books decide alone, and nothing is kept.

    Attributes:
        signing: what hospitals need to sign requests and reports.
        books: where every request stands.
        reviews, reports: signed records by request.
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
    def domain(self) -> Domain:
        """What requests, reviews and reports are signed for."""
        return self.signing.domain

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
        """Takes one more step; returns the id of the request that it is about, b"" where it is about none.

        Raises:
            LedgerError: it is not possible.
        """
        identity = _request_of(step, self.domain)
        signed = (
            digest(step.record, self.domain) if isinstance(step, SignedRequest | SignedReview | SignedReport) else ZERO
        )
        kind, text = _described(step)
        self.books.take(kind, identity, text, signed)
        match step:
            case SignedReview():
                self.reviews[identity] = step.record
            case SignedReport():
                self.reports[identity] = step.record
            case SetReviewer():
                self.reviewers[step.account] = step.organisation
        return identity

    def expire(self, request: bytes) -> None:
        """Ends a request whose time has passed; without a chain no time passes."""


class Registrar(Protocol):
    """A ledger that keeps the steps, and whose contract decides."""

    signing: Signing
    organisations: tuple[bytes, ...]

    def governance(self) -> Any: ...

    def govern(self, kind: str, content: Any, signature: bytes | None = None, sender: str | None = None) -> Any: ...


class LedgerDesk(Desk):
    """The desk of a run with a ledger. Each step goes into its journal and to its contract, before the books decide the same."""

    def __init__(self, ledger: Any) -> None:
        """Takes up every step that the ledger holds.

        Raises:
            LedgerError: contract and books disagree.
        """
        domain, steps = ledger.governance()
        signing = ledger.signing
        super().__init__(
            Signing(
                signing.federation,
                signing.config_hash,
                domain,
                signing.coordinator,
                signing.slots,
                signing.genesis,
                signing.keystore,
            ),
            ledger.organisations,
        )
        self._ledger = ledger
        for kind, _, text, signature, sender in steps:
            super().take(_read(kind, text, signature, sender))
        self._compare(ledger.decisions)

    def take(self, step: Step) -> bytes:
        kind, _ = _described(step)
        match step:
            case SetPolicy():
                content: Any = to_contract(step.policy)
            case SetReviewer():
                content = {"account": step.account, "organisation": step.organisation}
            case Expire():
                content = {"request": step.request}
            case _:
                content = step.record
        signature, sender = getattr(step, "signature", None), getattr(step, "sender", None)
        decisions = self._ledger.govern(kind, content, signature, sender).decisions
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


def _request_of(step: Step, domain: Domain) -> bytes:
    match step:
        case SignedRequest():
            return digest(step.record, domain)
        case SignedReview() | SignedReport():
            return step.record.request
        case Expire():
            return step.request
    return b""


def _described(step: Step) -> tuple[str, str]:
    match step:
        case SetPolicy():
            return "policy", json.dumps(to_contract(step.policy))
        case SetReviewer():
            return "reviewer", ""
        case Expire():
            return "expire", json.dumps({"request": hexed(step.request)})
        case SignedRequest():
            return "request", record_to_json(step.record)
        case SignedReview():
            return "review", record_to_json(step.record)
        case SignedReport():
            return "report", record_to_json(step.record)


def _read(kind: str, text: str, signature: Any, sender: Any) -> Step:
    match kind:
        case "policy":
            return SetPolicy(from_contract(json.loads(text)))
        case "reviewer":
            values = json.loads(text)
            return SetReviewer(values["account"], bytes.fromhex(values["organisation"][2:]))
        case "request":
            return SignedRequest(record_from_json(SyntheticRequest, text), signature)
        case "review":
            return SignedReview(record_from_json(SyntheticReview, text), signature, sender)
        case "report":
            return SignedReport(record_from_json(SyntheticReport, text), signature)
        case "expire":
            return Expire(bytes.fromhex(json.loads(text)["request"][2:]))
    raise LedgerError(f"{kind!r} is no kind of step")
