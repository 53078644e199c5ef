"""The policy on synthetic data in integers: what SyntheticLedger.sol decides, a second time.

A run without a ledger decides by it alone; with one, contract and books must come to the same decision. Shares and scores are in basis
points (1 is 10,000).
"""

import enum
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from engine.data.config import rare
from engine.encoding import hexed, keccak
from engine.errors import LedgerError
from engine.ledger.format import ZERO
from engine.ledger.subjects.synthetic import (
    Expire,
    Policy,
    SetPolicy,
    SignedPreview,
    SignedReport,
    SignedRequest,
    SignedReview,
    Step,
    SyntheticPreview,
    SyntheticReport,
    SyntheticRequest,
    SyntheticReview,
)
from engine.ledger.typed import Domain, digest, word
from engine.synthesis.config import NUMBERED, PolicyConfig

BASIS = 10_000
GENERATORS: dict[str, int] = {name: number for number, name in enumerate(NUMBERED, 1)}  # as in the contract


class Status(enum.IntEnum):
    """Where a request stands. A report is judged as it comes in, so there is no state between APPROVED and its verdict."""

    NONE = 0
    PENDING = 1
    PREVIEWED = 2
    DENIED = 3
    APPROVED = 4
    ACCEPTED = 5
    REJECTED = 6
    EXPIRED = 7


WAITING = (Status.PENDING, Status.PREVIEWED)  # for a reviewer


class Reason(enum.IntFlag):
    """Why policy denied a request (the first eight) or rejected a batch."""

    NO_POLICY = 1
    POLICY_VERSION = 2
    CLASS = 4
    GENERATOR = 8
    MIN_REAL = 16
    RATIO = 32
    QUOTA = 64
    SHARE = 128
    AUC = 256
    NNDR = 512
    DUPLICATES = 1024
    UTILITY = 2048
    DISTANCE = 4096
    REPEATED = 8192
    RECOGNISED = 16_384
    SPREAD = 32_768


_NONE = Reason(0)

EXPLAINED = {
    Reason.NO_POLICY: "the federation has no policy",
    Reason.POLICY_VERSION: "the request names another version of the policy",
    Reason.CLASS: "the class is not allowed",
    Reason.GENERATOR: "the generator is not allowed",
    Reason.MIN_REAL: "there are too few real beats for this generator",
    Reason.RATIO: "there are too few real beats for even one synthetic one",
    Reason.QUOTA: "the quota of this hospital and class is used up",
    Reason.SHARE: "the share of synthetic beats is at its cap",
    Reason.AUC: "a classifier tells the beats from real ones too easily",
    Reason.NNDR: "the beats lie too close to single real ones",
    Reason.DUPLICATES: "there are too many copies of real beats",
    Reason.UTILITY: "the beats lower the recall of their class too far",
    Reason.DISTANCE: "the beats lie farther from real ones than real ones from each other",
    Reason.REPEATED: "too many of the beats repeat one another",
    Reason.SPREAD: "the beats vary far less than real ones",
    Reason.RECOGNISED: "whoever learns the class from the beats does not recognise real ones",
}


def policy_of(settings: PolicyConfig, labels: Sequence[str]) -> Policy:
    """The settings of a run in the contract's integers; classes are numbered as in `labels`, at most 16 of them."""
    return Policy(
        allowed_classes=sum(1 << labels.index(name) for name in settings.classes or rare(labels)),
        allowed_generators=sum(1 << GENERATORS[name] for name in settings.min_real),
        automatic=settings.mode == "automatic",
        preview=settings.preview,
        quota=settings.quota,
        ratio_bp=round(settings.ratio * BASIS),
        share_cap_bp=round(settings.share_cap * BASIS),
        expiry_seconds=settings.expiry_seconds,
        max_auc_bp=round(settings.max_auc * BASIS),
        min_nndr_bp=round(settings.min_nndr * BASIS),
        max_distance_bp=round(settings.max_distance * BASIS),
        max_duplicates_bp=round(settings.max_duplicates * BASIS),
        max_repeated_bp=round(settings.max_repeated * BASIS),
        min_spread_bp=round(settings.min_spread * BASIS),
        min_utility_bp=round(settings.min_utility * BASIS),
        min_recognised_bp=round(settings.min_recognised * BASIS),
        min_real=tuple(
            settings.min_real.get({n: name for name, n in GENERATORS.items()}.get(i, ""), 0) for i in range(8)
        ),
    )


@dataclass
class Standing:
    """A request and what became of it; `granted` stays, `counted` is what it holds of the quota now.

    Whatever was granted counts, rejected and expired grants too; of an accepted one only what was made.
    """

    request: SyntheticRequest
    status: Status = Status.NONE
    counted: int = 0
    reasons: Reason = _NONE
    granted: int = 0
    preview: SyntheticPreview | None = None


@dataclass
class Books:
    """All that the contract holds of one federation, in the order in which it happened."""

    policies: list[Policy] = field(default_factory=list)
    requests: dict[bytes, Standing] = field(default_factory=dict)
    used: Counter[tuple[int, int]] = field(default_factory=Counter)
    decisions: bytes = ZERO

    def take(self, step: Step, domain: Domain) -> None:
        """Take one step; `domain` is what requests, reviews and reports are signed for.

        Raises:
            LedgerError: it is not possible.
        """
        identity = step.identity(domain)
        match step:
            case SetPolicy():
                self.policies.append(step.policy)
            case SignedRequest():
                self.request(identity, step.record)
            case SignedPreview():
                self.preview(identity, step.record, digest(step.record, domain))
            case SignedReview():
                self.review(identity, step.record, digest(step.record, domain))
            case SignedReport():
                self.report(identity, step.record, digest(step.record, domain))
            case Expire():
                self.expire(identity)
            case _:
                pass  # a reviewer changes no books

    def request(self, id: bytes, request: SyntheticRequest, version: int | None = None) -> Standing:
        """Take a request under the version of the policy that is in force; None for the last.

        Raises:
            LedgerError: it was made already, asks for nothing, or names a version of the policy that is still to come.
        """
        if request.policy_version > len(self.policies):
            raise LedgerError(
                f"request {hexed(id)} names version {request.policy_version} of {len(self.policies)} policies"
            )
        if id in self.requests:
            raise LedgerError(f"request {hexed(id)} was made already")
        if request.quantity < 1:
            raise LedgerError(f"request {hexed(id)} asks for no beats")
        standing = self.requests[id] = Standing(request)
        version = len(self.policies) if version is None else version
        allowed, reasons = self.allowance(standing, version)
        if version != request.policy_version:
            reasons |= Reason.POLICY_VERSION
        if reasons:
            self._change(id, Status.DENIED, 0, id, reasons)
        elif self.policies[version - 1].automatic:
            self._change(id, Status.APPROVED, allowed, id)
        else:
            self._change(id, Status.PENDING, 0, id)
        return standing

    def preview(self, id: bytes, preview: SyntheticPreview, digest: bytes) -> Standing:
        """Take what a hospital shows a reviewer; it counts against no quota.

        Raises:
            LedgerError: nothing waits for it, or it has more beats than policy wants.
        """
        standing = self._at(id, Status.PENDING)
        wanted = self._rules(standing).preview
        if wanted == 0 or preview.generated > wanted:
            raise LedgerError(f"request {hexed(id)}: a preview of {preview.generated} beats, policy wants {wanted}")
        standing.preview = preview
        self._change(id, Status.PREVIEWED, 0, digest)
        return standing

    def blind(self, standing: Standing) -> bool:
        """Whether policy wants a preview before a grant, and there is none with a beat in it."""
        return self._rules(standing).preview > 0 and (standing.preview is None or standing.preview.generated == 0)

    def review(self, id: bytes, review: SyntheticReview, digest: bytes) -> Standing:
        """Take a reviewer's decision; `digest` is what was signed.

        Raises:
            LedgerError: nothing waits for it, it grants more than policy allows, or before the preview that policy wants.
        """
        standing = self._at(id, *WAITING)
        allowed, _ = self.allowance(standing)
        if review.approve and self.blind(standing):
            raise LedgerError(f"request {hexed(id)}: a grant before the preview that policy wants")
        if not (1 <= review.granted <= allowed if review.approve else review.granted == 0):
            raise LedgerError(f"request {hexed(id)}: the review grants {review.granted}, policy allows {allowed}")
        self._change(id, Status.APPROVED if review.approve else Status.DENIED, review.granted, digest)
        return standing

    def report(self, id: bytes, report: SyntheticReport, digest: bytes) -> Standing:
        """Judge a generated batch by the policy of its request.

        Raises:
            LedgerError: nothing was granted, more was generated than granted, or it is the batch of the preview.
        """
        standing = self._at(id, Status.APPROVED)
        shown = standing.preview
        if shown is not None and shown.generated and shown.batch == report.batch:
            raise LedgerError(f"request {hexed(id)}: the batch is that of the preview, which is not for training")
        if report.generated > standing.counted:
            raise LedgerError(f"request {hexed(id)}: {report.generated} beats of {standing.counted} granted")
        reasons = shortcomings(self._rules(standing), report)
        if reasons:
            self._change(id, Status.REJECTED, standing.counted, digest, reasons)  # a retry costs quota
        else:
            self._change(id, Status.ACCEPTED, report.generated, digest)
        return standing

    def expire(self, id: bytes) -> Standing:
        """End a request whose time has passed; what it was granted stays counted.

        Raises:
            LedgerError: it has ended already.
        """
        standing = self.requests.get(id)
        if standing is None or standing.status not in (*WAITING, Status.APPROVED):
            raise LedgerError(f"request {hexed(id)} cannot expire")
        self._change(id, Status.EXPIRED, standing.counted, ZERO)
        return standing

    def allowance(self, standing: Standing, version: int | None = None) -> tuple[int, Reason]:
        """The most that policy would grant now, and why it is nothing."""
        version = len(self.policies) if version is None else version
        if not 1 <= version <= len(self.policies):
            return 0, Reason.NO_POLICY
        request = standing.request
        return allowed(self.policies[version - 1], request, self.used[request.slot, request.class_])

    def _rules(self, standing: Standing) -> Policy:
        """The policy that a request was made under."""
        return self.policies[standing.request.policy_version - 1]

    def _at(self, id: bytes, *expected: Status) -> Standing:
        standing = self.requests.get(id)
        if standing is None or standing.status not in expected:
            now = "unknown" if standing is None else standing.status.name
            raise LedgerError(f"request {hexed(id)} is {now}, expected {' or '.join(one.name for one in expected)}")
        return standing

    def _change(self, id: bytes, status: Status, counted: int, record: bytes, reasons: Reason = _NONE) -> None:
        standing = self.requests[id]
        self.used[standing.request.slot, standing.request.class_] += counted - standing.counted
        standing.status, standing.counted, standing.reasons = status, counted, reasons
        if status == Status.APPROVED:
            standing.granted = counted
        self.decisions = keccak(self.decisions + id + word(int(status)) + word(counted) + record)


def allowed(policy: Policy, request: SyntheticRequest, used: int) -> tuple[int, Reason]:
    """The largest grant for a request when `used` beats of the quota are taken, and why it is nothing."""
    reasons = _NONE
    if not policy.allowed_classes >> request.class_ & 1:
        reasons |= Reason.CLASS
    if not policy.allowed_generators >> request.generator & 1:
        reasons |= Reason.GENERATOR
    elif request.real_floor < policy.min_real[request.generator]:
        reasons |= Reason.MIN_REAL
    limits = {
        Reason.RATIO: request.real_floor * policy.ratio_bp // BASIS,
        Reason.QUOTA: max(policy.quota - used, 0),
        Reason.SHARE: max(_share_limit(policy.share_cap_bp, request.real_floor) - used, 0),
    }
    for reason, limit in limits.items():
        if limit == 0:
            reasons |= reason
    return (0, reasons) if reasons else (min(request.quantity, *limits.values()), reasons)


def shortcomings(policy: Policy, report: SyntheticReport) -> Reason:
    """What of a batch's quality is outside the policy's bounds."""
    found = {
        Reason.AUC: report.auc_bp > policy.max_auc_bp,
        Reason.NNDR: report.nndr_bp < policy.min_nndr_bp,
        Reason.DUPLICATES: _above(report.duplicates, policy.max_duplicates_bp, report.generated),
        Reason.UTILITY: report.utility_bp < policy.min_utility_bp,
        Reason.DISTANCE: report.distance_bp > policy.max_distance_bp,
        Reason.REPEATED: _above(report.repeated, policy.max_repeated_bp, report.generated),
        Reason.SPREAD: report.spread_bp < policy.min_spread_bp,
        # from no beats nobody learns; and an empty report would free the quota for another attempt
        Reason.RECOGNISED: report.generated == 0 or report.recognised_bp < policy.min_recognised_bp,
    }
    return _joined(reason for reason, bad in found.items() if bad)


def explain(reasons: Reason) -> str:
    """Reasons in words."""
    return "; ".join(text for reason, text in EXPLAINED.items() if reason in reasons)


def _above(part: int, share_bp: int, whole: int) -> bool:
    return part * BASIS > share_bp * whole


def _share_limit(cap: int, floor: int) -> int:
    # synthetic / (synthetic + real) <= cap
    return 2**256 - 1 if cap == BASIS else cap * floor // (BASIS - cap)


def _joined(reasons: Iterable[Reason]) -> Reason:
    result = _NONE
    for reason in reasons:
        result |= reason
    return result
