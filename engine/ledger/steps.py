"""Steps of the governance of synthetic data, each of which a desk takes once."""

from dataclasses import dataclass

from engine.ledger.policy import Policy
from engine.ledger.records import SyntheticReport, SyntheticRequest, SyntheticReview


@dataclass(frozen=True)
class SetPolicy:
    """A version of the policy, from 1."""

    policy: Policy
    version: int = 1


@dataclass(frozen=True)
class SetReviewer:
    """An account may review, for the requests of other organisations than its own."""

    account: str
    organisation: bytes


@dataclass(frozen=True)
class SignedRequest:
    """A request, which has its digest as id."""

    record: SyntheticRequest
    signature: bytes


@dataclass(frozen=True)
class SignedReview:
    """A reviewer's decision on a request; `sender` is the reviewer."""

    record: SyntheticReview
    signature: bytes
    sender: str


@dataclass(frozen=True)
class SignedReport:
    """A hospital's report on what it made."""

    record: SyntheticReport
    signature: bytes


@dataclass(frozen=True)
class Expire:
    """The time of a request has passed."""

    request: bytes


Step = SetPolicy | SetReviewer | SignedRequest | SignedReview | SignedReport | Expire
