"""What is known of a run's requests for synthetic beats, and what reviewers decide on them.

    synthetic/governance.json       how everything stands, for reviewers and the next start of the run
    ledger/reviews/<request>.json   a reviewer's signed decision; .refused.json if it could not be taken, .withdrawn.json if
                                    the reviewer took it back before the run took it

Whoever reviews reads the first and leaves the second; no lock is needed. The run takes the decision when it goes on.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from engine.encoding import hexed, unhexed
from engine.errors import DataError, LedgerError
from engine.files import read_text, write_text
from engine.ledger.signing import address, recover, reviewer_key, sign
from engine.ledger.subjects.synthetic import SignedReview, SyntheticRequest, SyntheticReview
from engine.ledger.typed import Domain, digest, record_from_json, record_to_json
from engine.result import WAITS, Many, Part, SyntheticRow
from engine.synthesis.files import FOLDER

STATE = "governance.json"
REVIEWS = Path("ledger/reviews")


class Requests(Part):
    """The content of `governance.json`.

    Attributes:
        settled: all requests have come to their end.
        federation: id in hex.
        chain_id, contract: what requests, reviews and reports are signed for.
        keys: where they come from: derived from the run's seed, or out of a keystore.
        policy: the run's `balance.policy`, for reviewers to look at.
        reviewers: accounts that may review -> their organisations in hex.
    """

    settled: bool
    federation: str
    chain_id: int
    contract: str
    keys: Literal["seed", "keystore"]
    seed: int
    policy: dict[str, Any]
    reviewers: dict[str, str]
    requests: Many[SyntheticRow]

    @property
    def domain(self) -> Domain:
        """What requests, reviews and reports are signed for."""
        return Domain(self.chain_id, self.contract)

    def pending(self) -> tuple[SyntheticRow, ...]:
        """Those that wait for a reviewer."""
        return tuple(row for row in self.requests if row.status in WAITS)

    def write(self, folder: Path) -> None:
        """Writes the file into a run's folder; raises DataError."""
        write_text(folder / FOLDER / STATE, json.dumps(self.document(), indent=1, allow_nan=False))


def read_state(folder: Path) -> Requests:
    """How the requests of a run stand.

    Raises:
        DataError: the run has none, or the file is damaged.
    """
    path = folder / FOLDER / STATE
    try:
        return Requests.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{folder}: holds no requests for synthetic beats.") from None
    except ValidationError as error:
        what = error.errors()[0]
        place = ".".join(map(str, what["loc"]))
        raise DataError(f"{path}: is not readable ({f'{place}: ' if place else ''}{what['msg']}).") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is not readable ({error}).") from None


def undecided(folder: Path) -> int:
    """Requests of a run that wait, and for which no reviewer has left a decision."""
    return sum(not decided(folder, row.request) for row in read_state(folder).pending())


def decided(folder: Path, request: str) -> bool:
    """Whether a reviewer has left a decision on a request (hex)."""
    return _review_file(folder, request).exists()


def reason_given(folder: Path, request: str) -> str:
    """What a reviewer's decision says in words; "" where it is not there."""
    path = _review_file(folder, request)
    return str(json.loads(path.read_text(encoding="utf-8"))["reason"]) if path.exists() else ""


def write_review(
    folder: Path, row: SyntheticRow, approve: bool, granted: int, reason: str, key: bytes | None = None
) -> SyntheticReview:
    """Leaves a reviewer's signed decision for the run.

    Args:
        row: of the request, from `read_state`.
        key: of the reviewer; None derives the simulated one from the run's seed.

    Raises:
        LedgerError: the request does not wait, is decided already, or the decision would not be taken.
    """
    state, path = read_state(folder), _review_file(folder, row.request)
    short = f"request {row.request[:16]}"
    if row.status not in WAITS:
        raise LedgerError(f"{short} is {row.status}; only a pending one can be decided")
    if path.exists():
        raise LedgerError(f"{short} is decided already, in {path}")
    identity = bytes.fromhex(row.request)
    if digest(record_from_json(SyntheticRequest, row.record), state.domain) != identity:
        raise LedgerError(f"{short} is not the one that the hospital signed; what it shows was changed")
    if key is None:
        if state.keys == "keystore":
            raise LedgerError("the run's keys are in a keystore: name the reviewer's with --key FILE")
        key = reviewer_key(state.seed, bytes.fromhex(state.federation))
    said = hashlib.sha256(reason.encode()).digest()
    review = SyntheticReview(identity, approve, granted if approve else 0, said, 0)
    content = {
        "record": record_to_json(review),
        "signature": hexed(sign(review, state.domain, key)),
        "reviewer": address(key),
        "reason": reason,
    }
    known = {account: unhexed(of) for account, of in state.reviewers.items()}
    _check(content, row, known, state.domain)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1, allow_nan=False))
    return review


def withdraw(folder: Path, row: SyntheticRow) -> None:
    """Takes back a decision that the run has not taken yet; what it said stays beside, as .withdrawn.json.

    Raises:
        LedgerError: there is none, or it was taken.
    """
    path, short = _review_file(folder, row.request), f"request {row.request[:16]}"
    aside = path.with_suffix(".withdrawn.json")
    if not path.exists():
        raise LedgerError(f"{short}: nothing is decided that could be withdrawn")
    path.replace(aside)
    now = next((one.status for one in read_state(folder).requests if one.request == row.request), "gone")
    if now not in WAITS:
        aside.replace(path)
        raise LedgerError(f"{short} is {now}: the run has taken the decision, which stands")


def receipt(folder: Path, request: str) -> str:
    """A reviewer's decision as it was signed, JSON; "" where there is none."""
    path = _review_file(folder, request)
    return read_text(path) if path.exists() else ""


def left_review(
    folder: Path, row: SyntheticRow, reviewers: Mapping[str, bytes], domain: Domain, note: Callable[[str], None]
) -> SignedReview | None:
    """The decision that a reviewer left on a request; one that cannot be taken is put aside, with the reason."""
    path = _review_file(folder, row.request)
    if not path.exists():
        return None
    try:
        return _check(json.loads(path.read_text(encoding="utf-8")), row, reviewers, domain)
    except (OSError, ValueError, LedgerError) as error:
        aside = path.with_suffix(".refused.json")
        path.replace(aside)
        note(f"{error}; the decision is put aside as {aside}")
        return None


def _check(content: Any, row: SyntheticRow, reviewers: Mapping[str, bytes], domain: Domain) -> SignedReview:
    """The decision in a file, if the contract would take it; else LedgerError with the reason."""
    short = f"request {row.request[:16]}"
    try:
        review = record_from_json(SyntheticReview, content["record"])
        signature, reviewer = unhexed(content["signature"]), content["reviewer"]
        reason = content["reason"].encode()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LedgerError(f"{short}: the review is damaged ({error})") from None
    if review.request.hex() != row.request or hashlib.sha256(reason).digest() != review.reason:
        raise LedgerError(f"{short}: the review is about another request, or its reason was changed")
    if recover(review, signature, domain) != reviewer:
        raise LedgerError(f"{short}: the review was not signed by {reviewer}")
    if reviewer not in reviewers:
        raise LedgerError(f"{short}: {reviewer} is not a reviewer of this federation")
    if reviewers[reviewer] == bytes.fromhex(row.organisation):
        raise LedgerError(f"{short}: {reviewer} belongs to the organisation that asks")
    if review.approve and row.blind:
        raise LedgerError(f"{short}: the policy wants a preview before a grant, and there is none with a beat in it")
    if not (1 <= review.granted <= row.allowed if review.approve else review.granted == 0):
        raise LedgerError(f"{short}: the review grants {review.granted} beats, policy allows 1 to {row.allowed}")
    return SignedReview(review, signature, reviewer)


def _review_file(folder: Path, request: str) -> Path:
    return folder / REVIEWS / f"{request}.json"
