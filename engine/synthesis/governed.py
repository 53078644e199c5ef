"""Synthetic beats under a policy, before training starts: asked for, decided, made, measured, accepted or rejected.

1. Each hospital signs a request for every class that it wants more beats of.
2. The policy denies it, grants it or a part of it, or leaves it to a reviewer.
3. While a request waits for a reviewer the run stops with `ReviewPending`; `pulseledger governance` writes the decision.
4. The hospital makes what was granted, measures its quality, and signs a report: digests and the numbers of the policy.
5. The policy accepts or rejects the batch. Only accepted beats enter the hospital's train part.

Every step goes through `policy.Books`, and before them, with a ledger, through its journal and contract, which must come
to the same decision. Without a ledger the books decide alone, so the numbers of a run do not depend on it. A run that
stopped anywhere goes on from the journal; beats are made again from the seed and checked against the reported digest.

Files of a run:
    synthetic/governance.json       how everything stands, for reviewers and the next start
    synthetic/evidence-*.json, png  quality of one batch, named by the request
    synthetic/hospital-*.npz        a hospital's accepted beats
    synthetic/provenance.parquet    a row for each accepted beat
    ledger/reviews/<request>.json   a reviewer's signed decision; .refused.json if it could not be taken
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import RunConfig
from engine.data.beats import Beats
from engine.data.cohort import Cohort, HospitalData
from engine.data.config import CLASSES
from engine.encoding import canonical_json, json_hash
from engine.errors import DataError, LedgerError, ReviewPending, SynthesisError
from engine.files import cache_folder, whole
from engine.ledger.base import LoopLedger, NoLedger
from engine.ledger.format import ZERO
from engine.ledger.keystore import read_reviewers, simulated_organisation
from engine.ledger.signer import Signer, Signing
from engine.ledger.signing import address, recover, reviewer_key, sign
from engine.ledger.subjects.policy import GENERATORS, Books, Standing, Status, explain, policy_of
from engine.ledger.subjects.registry import organisation
from engine.ledger.subjects.synthetic import (
    Expire,
    SetPolicy,
    SetReviewer,
    SignedReport,
    SignedRequest,
    SignedReview,
    Step,
    SyntheticReport,
    SyntheticRequest,
    SyntheticReview,
)
from engine.ledger.typed import Domain, checksum_address, digest, record_from_json, record_to_json
from engine.oracles.base import Batch
from engine.synthesis.generators import Synthetic, joined, save_synthetic
from engine.synthesis.picture import draw_quality
from engine.synthesis.prepare import (
    Request,
    anatomy_of,
    batch_digest,
    hold_exactly,
    hospital_file,
    make_beats,
    parts_of,
    requests_of,
)
from engine.synthesis.quality import GRU, Anatomy, assess, evidence_numbers, of_class, report_json
from engine.synthesis.timegan import interpreter

if TYPE_CHECKING:
    from engine.ledger.observer import LedgerObserver

FOLDER, STATE = "synthetic", "governance.json"
REVIEWS = Path("ledger/reviews")
MEASURE = Path(__file__).with_name("quality.py")  # another way to measure gives other numbers
NOWHERE = Domain(0, checksum_address(bytes(20)))  # what is signed without a ledger counts on no chain
# What is said of a batch that the generator could not make: the worst of everything, which no policy accepts.
NOTHING = {"auc_bp": 10_000, "nndr_bp": 0, "duplicates": 2**32 - 1, "utility_bp": -10_000}


class Desk:
    """Takes the steps of governance, each once: by the ledger's journal and contract if there is one, and by the books.

    Attributes:
        domain: what requests, reviews and reports are signed for.
        books: where every request stands.
        reviews, reports: signed records by request.
        reviewers: addresses that the contract knows.
    """

    def __init__(self, ledger: "LedgerObserver | None") -> None:
        self.domain, self.books = NOWHERE, Books()
        self.reviews: dict[bytes, SyntheticReview] = {}
        self.reports: dict[bytes, SyntheticReport] = {}
        self.reviewers: set[str] = set()
        self._ledger = ledger
        if ledger is not None:
            governance = ledger.governance()
            self.domain = governance.domain
            for step in governance.steps:
                self._enter(step)
            self._compare(governance.decisions)

    def take(self, step: Step) -> bytes:
        """One more step; returns its id, which is that of the request that it is about.

        Raises:
            LedgerError: it is not possible, or contract and books disagree.
        """
        decisions = None if self._ledger is None else self._ledger.govern(step).decisions
        self._enter(step)
        if decisions is not None:
            self._compare(decisions)
        return step.identity(self.domain)

    def expire(self, identity: bytes) -> None:
        """Ends a request whose time has passed on the chain; without a chain no time passes."""
        from engine.ledger.chain.base import ContractRevert

        if self._ledger is None:
            return
        try:
            self.take(Expire(identity))
        except ContractRevert:
            return  # its time has not come

    def _enter(self, step: Step) -> None:
        self.books.take(step, self.domain)
        if isinstance(step, SignedReview):
            self.reviews[step.record.request] = step.record
        elif isinstance(step, SignedReport):
            self.reports[step.record.request] = step.record
        elif isinstance(step, SetReviewer):
            self.reviewers.add(step.account)

    def _compare(self, decisions: bytes) -> None:
        if decisions != self.books.decisions:
            raise LedgerError(
                f"the contract's decisions on synthetic data are 0x{decisions.hex()}, the policy gives "
                f"0x{self.books.decisions.hex()}"
            )


@dataclass(frozen=True)
class _Case:
    """A request as it was signed."""

    id: bytes
    asked: Request
    record: SyntheticRequest

    @property
    def page(self) -> str:
        return f"evidence-{self.id.hex()[:16]}"


def govern(
    config: RunConfig,
    cohort: Cohort,
    folder: Path,
    federation: bytes,
    ledger: LoopLedger,
    organisations: Sequence[bytes] = (),
    note: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Brings all requests of a run to their end and writes the accepted beats, one file for each hospital.

    Args:
        folder: of the run.
        federation: id of the run's federation, with or without a ledger.
        organisations: of the hospitals; empty makes every hospital one of its own.

    Returns:
        What `result.json` says of each request.

    Raises:
        ReviewPending: a request waits for a reviewer.
        SynthesisError: the generator is not installed, or does not make the same beats again.
        LedgerError: the ledger refuses a step, or disagrees.
        DataError: a file cannot be written, or is damaged.
    """
    home = folder / FOLDER
    if (home / STATE).exists():
        state = read_state(folder)
        if state["settled"] and _whole(config, cohort, home, state["requests"]):
            return [_result(row) for row in state["requests"]]
    if config.balance.method == "timegan":
        interpreter()  # every batch would be missing for want of it
    home.mkdir(parents=True, exist_ok=True)
    desk = Desk(None if isinstance(ledger, NoLedger) else ledger)  # type: ignore[arg-type]
    signing = ledger.signing or Signing(federation, ZERO, NOWHERE, "", 0, ZERO)
    own = tuple(organisations) or tuple(organisation(h.id) for h in cohort.hospitals)
    reviewers = _open(config, desk, federation, signing)
    signers = {h.id: Signer(h.id, signing, config.seed) for h in cohort.hospitals}
    cases = [_request(desk, asked, signers[asked.hospital]) for asked in requests_of(config, cohort)]

    def rows() -> list[dict[str, Any]]:
        return [_row(folder, desk, case, own[case.asked.hospital]) for case in cases]

    def keep(settled: bool) -> list[dict[str, Any]]:
        known = {account: "0x" + of.hex() for account, of in reviewers.items()}
        state = {
            "settled": settled,
            "federation": federation.hex(),
            "domain": {"chain_id": desk.domain.chain_id, "contract": desk.domain.contract},
            "keys": "keystore" if signing.keystore is not None else "seed",
            "seed": config.seed,
            "policy": config.balance.policy.model_dump(mode="json"),
            "reviewers": known,
            "requests": (now := rows()),
        }
        _write(home / STATE, state)
        return now

    for row in keep(False):
        if row["status"] == "pending":
            _relay(folder, desk, row, reviewers, note)
    if waiting := [row for row in keep(False) if row["status"] == "pending"]:
        one = len(waiting) == 1
        raise ReviewPending(
            f"{len(waiting)} {'request' if one else 'requests'} for synthetic beats {'waits' if one else 'wait'} for a "
            f"reviewer; decide with `pulseledger governance approve|deny {folder} ID --reason TEXT`, then go on with "
            f"`pulseledger resume {folder}`."
        )
    provenance: list[dict[str, Any]] = []
    pooled: list[Synthetic] = []
    for hospital in cohort.hospitals:
        accepted = []
        for case in (case for case in cases if case.asked.hospital == hospital.id):
            made = _fulfil(config, cohort.beats, hospital, home, desk, case, signers[hospital.id], note)
            standing = desk.books.requests[case.id]
            shown = f"{len(made) if made else 0} beats of {case.asked.wanted}"
            note(f"hospital {hospital.id}, class {case.asked.label}: {shown} {standing.status.name.lower()}")
            if made is not None and standing.status == Status.ACCEPTED:
                accepted.append(made)
        if accepted:
            save_synthetic(hospital_file(home, hospital.id), accepted)
            for made in accepted:
                label = cohort.beats.classes[made.label]
                provenance += [{"hospital": hospital.id, "class": label, **row} for row in made.provenance()]
        pooled += accepted if hospital.trains else []
    if config.federation.algorithm == "centralised" and pooled:
        save_synthetic(hospital_file(home, len(cohort.hospitals)), pooled)  # of the imaginary hospital of everybody
    if provenance:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with whole(home / "provenance.parquet") as part:
            pq.write_table(pa.Table.from_pylist(provenance), part)
    return [_result(row) for row in keep(True)]  # last: it says that everything else is there


# --- Reviewers --------------------------------------------------------------------------------------------------------


def read_state(folder: Path) -> dict[str, Any]:
    """How the requests of a run stand.

    Raises:
        DataError: the run has none, or the file is damaged.
    """
    path = folder / FOLDER / STATE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if not {"settled", "federation", "domain", "policy", "reviewers", "requests"} <= set(state):
            raise ValueError("values are missing")
        return state
    except FileNotFoundError:
        raise DataError(f"{folder}: holds no requests for synthetic beats.") from None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: is not readable ({error}).") from None


def undecided(folder: Path) -> int:
    """Requests of a run that wait, and for which no reviewer has left a decision."""
    rows = read_state(folder)["requests"]
    return sum(row["status"] == "pending" and not decided(folder, row["request"]) for row in rows)


def decided(folder: Path, request: str) -> bool:
    """Whether a reviewer has left a decision on a request (hex)."""
    return _review_file(folder, request).exists()


def write_review(
    folder: Path, row: Mapping[str, Any], approve: bool, granted: int, reason: str, key: bytes | None = None
) -> SyntheticReview:
    """Leaves a reviewer's signed decision for the run, which takes it when it goes on. No lock is needed.

    Args:
        row: of the request, from `read_state`.
        key: of the reviewer; None derives the simulated one from the run's seed.

    Raises:
        LedgerError: the request does not wait, is decided already, or the decision would not be taken.
    """
    state = read_state(folder)
    identity = bytes.fromhex(row["request"])
    path = _review_file(folder, row["request"])
    short = f"request {row['request'][:16]}"
    if row["status"] != "pending":
        raise LedgerError(f"{short} is {row['status']}; only a pending one can be decided")
    if path.exists():
        raise LedgerError(f"{short} is decided already, in {path}")
    domain = Domain(state["domain"]["chain_id"], state["domain"]["contract"])
    record = record_from_json(SyntheticRequest, row["record"])
    if digest(record, domain) != identity:
        raise LedgerError(f"{short} is not the one that the hospital signed; what it shows was changed")
    if key is None:
        if state["keys"] == "keystore":
            raise LedgerError("the run's keys are in a keystore: name the reviewer's with --key FILE")
        key = reviewer_key(state["seed"], bytes.fromhex(state["federation"]))
    said = hashlib.sha256(reason.encode()).digest()
    review = SyntheticReview(identity, approve, granted if approve else 0, said, 0)
    content = {
        "record": record_to_json(review),
        "signature": "0x" + sign(review, domain, key).hex(),
        "reviewer": address(key),
        "reason": reason,
    }
    reviewers = {account: bytes.fromhex(of[2:]) for account, of in state["reviewers"].items()}
    _check_review(content, row, reviewers, domain)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, content)
    return review


def _check_review(
    content: Any, row: Mapping[str, Any], reviewers: Mapping[str, bytes], domain: Domain
) -> tuple[SyntheticReview, bytes]:
    """The decision in a file, if the contract would take it; else LedgerError with the reason."""
    short = f"request {row['request'][:16]}"
    try:
        review = record_from_json(SyntheticReview, content["record"])
        signature, reviewer = bytes.fromhex(content["signature"][2:]), content["reviewer"]
        reason = content["reason"].encode()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LedgerError(f"{short}: the review is damaged ({error})") from None
    if review.request.hex() != row["request"] or hashlib.sha256(reason).digest() != review.reason:
        raise LedgerError(f"{short}: the review is about another request, or its reason was changed")
    if recover(review, signature, domain) != reviewer:
        raise LedgerError(f"{short}: the review was not signed by {reviewer}")
    if reviewer not in reviewers:
        raise LedgerError(f"{short}: {reviewer} is not a reviewer of this federation")
    if reviewers[reviewer] == bytes.fromhex(row["organisation"]):
        raise LedgerError(f"{short}: {reviewer} belongs to the organisation that asks")
    if not (1 <= review.granted <= row["allowed"] if review.approve else review.granted == 0):
        raise LedgerError(f"{short}: the review grants {review.granted} beats, policy allows 1 to {row['allowed']}")
    return review, signature


def _relay(
    folder: Path, desk: Desk, row: Mapping[str, Any], reviewers: Mapping[str, bytes], note: Callable[[str], None]
) -> None:
    """Takes the decision that a reviewer left, or puts it aside with the reason."""
    path = _review_file(folder, row["request"])
    if not path.exists():
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        review, signature = _check_review(content, row, reviewers, desk.domain)
    except (OSError, ValueError, LedgerError) as error:
        aside = path.with_suffix(".refused.json")
        path.replace(aside)
        note(f"{error}; the decision is put aside as {aside}")
        return
    desk.take(SignedReview(review, signature, content["reviewer"]))


def _review_file(folder: Path, request: str) -> Path:
    return folder / REVIEWS / f"{request}.json"


# --- Parts of the flow ------------------------------------------------------------------------------------------------


def _open(config: RunConfig, desk: Desk, federation: bytes, signing: Signing) -> dict[str, bytes]:
    """Sets the policy, and who may review; returns the reviewers with their organisations."""
    policy = policy_of(config.balance.policy)
    if not desk.books.policies:
        desk.take(SetPolicy(policy))
    elif desk.books.policies[-1] != policy:
        raise LedgerError("the ledger holds another policy on synthetic data than this run's balance.policy")
    if policy.automatic:
        return {}
    reviewers = {address(reviewer_key(config.seed, federation)): simulated_organisation()}
    if signing.keystore is not None:
        reviewers = read_reviewers(signing.keystore)
    for account, of in reviewers.items():
        if account not in desk.reviewers:
            desk.take(SetReviewer(account, of))
    return reviewers


def _request(desk: Desk, asked: Request, signer: Signer) -> _Case:
    """The signed request, made now or before an interruption."""
    where = (asked.hospital, CLASSES.index(asked.label))
    for identity, standing in desk.books.requests.items():
        if (standing.request.slot, standing.request.class_) == where:
            if (standing.request.quantity, standing.request.settings.hex()) != (asked.wanted, asked.settings):
                raise LedgerError(f"hospital {asked.hospital} asked for something else of class {asked.label} before")
            if standing.status in (Status.PENDING, Status.APPROVED):
                desk.expire(identity)
            return _Case(identity, asked, standing.request)
    record, signature = signer.request(
        desk.domain,
        class_=where[1],
        generator=GENERATORS[asked.generator],
        quantity=asked.wanted,
        real=asked.real,
        settings=bytes.fromhex(asked.settings),
        policy_version=len(desk.books.policies),
    )
    return _Case(desk.take(SignedRequest(record, signature)), asked, record)


def _fulfil(
    config: RunConfig,
    beats: Beats,
    hospital: HospitalData,
    home: Path,
    desk: Desk,
    case: _Case,
    signer: Signer,
    note: Callable[[str], None],
) -> Synthetic | None:
    """Makes what was granted and reports it, or makes again what was accepted before an interruption."""
    standing = desk.books.requests[case.id]
    if standing.status not in (Status.APPROVED, Status.ACCEPTED):
        return None
    train, held_out = parts_of(beats, hospital)
    try:
        made = make_beats(config, case.asked, standing.granted, train, beats.classes, case.id.hex(), note)
    except SynthesisError as error:
        if standing.status == Status.ACCEPTED:
            raise
        _report(desk, case, home, signer, {"failed": str(error)}, None, NOTHING)
        return None
    known = desk.reports.get(case.id)
    if known is not None and known.batch != batch_digest(made.batch()):
        raise SynthesisError(
            f"hospital {hospital.id}, class {case.asked.label}: the beats made now are not those that were reported "
            f"(digest {batch_digest(made.batch()).hex()[:16]}, not {known.batch.hex()[:16]})."
        )
    if known is None or not (home / f"{case.page}.json").exists():
        seed = config.seed if config.balance.seed is None else config.balance.seed
        page = home / f"{case.page}.png"
        evidence, numbers = _measure(train, held_out, made, anatomy_of(config, beats), seed, page)
        _report(desk, case, home, signer, evidence, made, numbers)
    return made


def _measure(
    train: Batch, held_out: Batch, made: Synthetic, anatomy: Anatomy, seed: int, page: Path
) -> tuple[dict[str, Any], dict[str, int]]:
    """The evidence on a batch as JSON, its numbers for the policy, and its picture page.

    They are kept in the cache folder by the digest of what they depend on, as the trials of a study often share
    batches and each takes several seconds.
    """
    described = {**asdict(anatomy), "generator": made.generator, "seed": seed, "gru": GRU}
    key = hashlib.sha256(canonical_json(described).encode() + MEASURE.read_bytes())
    for batch in (train, held_out, made.batch()):
        key.update(batch_digest(batch))
    home = cache_folder() / "evidence"
    home.mkdir(parents=True, exist_ok=True)
    kept, picture = (home / f"{key.hexdigest()}.{ending}" for ending in ("json", "png"))
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
        with whole(page) as part:
            shutil.copyfile(picture, part)
        return found["evidence"], found["numbers"]
    except (OSError, ValueError, KeyError, DataError):
        pass  # not measured before
    report = assess(train, held_out, made.batch(), anatomy, made.generator, seed)
    real = joined(*(of_class(part, made.label) for part in (train, held_out)))
    with whole(page) as part:
        draw_quality(report, real, made.batch(), anatomy, part)
    with whole(picture) as part:
        shutil.copyfile(page, part)
    found = {"evidence": report_json(report), "numbers": evidence_numbers(report)}
    _write(kept, found)
    return found["evidence"], found["numbers"]


def _report(
    desk: Desk,
    case: _Case,
    home: Path,
    signer: Signer,
    evidence: dict[str, Any],
    made: Synthetic | None,
    numbers: Mapping[str, int],
) -> None:
    """Writes the evidence, then signs and sends the report on it, if that has not happened."""
    _write(home / f"{case.page}.json", evidence)
    if case.id in desk.reports:
        return
    batch = ZERO if made is None else batch_digest(made.batch())
    found = json_hash(evidence)
    report = SyntheticReport(case.id, 0 if made is None else len(made), batch, found, **numbers)
    desk.take(SignedReport(report, signer.report(desk.domain, report)))


def _row(folder: Path, desk: Desk, case: _Case, of: bytes) -> dict[str, Any]:
    """How one request stands, as JSON values. Real beats are told by their floor only."""
    standing: Standing = desk.books.requests[case.id]
    report = desk.reports.get(case.id)
    pending = standing.status == Status.PENDING
    file = folder / FOLDER / f"{case.page}.json"
    return {
        "request": case.id.hex(),
        "hospital": case.asked.hospital,
        "class": case.asked.label,
        "generator": case.asked.generator,
        "wanted": case.asked.wanted,
        "real_floor": case.record.real_floor,
        "allowed": desk.books.allowance(standing)[0] if pending else 0,
        "granted": standing.granted,
        "accepted": standing.counted if standing.status == Status.ACCEPTED else 0,
        "status": standing.status.name.lower(),
        "reasons": _reasons(folder, desk, case, file),
        "numbers": {name: getattr(report, name) for name in NOTHING} if report is not None else None,
        "batch": report.batch.hex() if report is not None else None,
        "evidence": report.evidence.hex() if report is not None else None,
        "file": f"{FOLDER}/{file.name}" if report is not None else None,
        "organisation": of.hex(),
        "record": record_to_json(case.record),
    }


def _reasons(folder: Path, desk: Desk, case: _Case, evidence: Path) -> str:
    """Why it stands so, in words: the generator's, the policy's, the reviewer's."""
    said = []
    if case.id in desk.reports and desk.reports[case.id].generated == 0 and evidence.exists():
        said.append(str(json.loads(evidence.read_text(encoding="utf-8")).get("failed", "")))
    elif reasons := desk.books.requests[case.id].reasons:
        said.append(explain(reasons))
    if case.id in desk.reviews:
        text = ""
        path = _review_file(folder, case.id.hex())
        if path.exists():
            text = f": {json.loads(path.read_text(encoding='utf-8'))['reason']}"
        said.append(f"{'approved' if desk.reviews[case.id].approve else 'denied'} by the reviewer{text}")
    return "; ".join(part for part in said if part)


def _result(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in row if key not in ("allowed", "organisation", "record")}


def _whole(config: RunConfig, cohort: Cohort, home: Path, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all accepted beats are where hospitals look for them."""
    trains = {h.id for h in cohort.hospitals if h.trains}
    files: dict[int, list[tuple[int, bytes]]] = {}
    for row in rows:
        if row["status"] == "accepted":
            batch = (row["accepted"], bytes.fromhex(row["batch"]))
            files.setdefault(row["hospital"], []).append(batch)
            if config.federation.algorithm == "centralised" and row["hospital"] in trains:
                files.setdefault(len(cohort.hospitals), []).append(batch)
    return all(hold_exactly(hospital_file(home, hospital), batches) for hospital, batches in files.items())


def _write(path: Path, value: Any) -> None:
    with whole(path) as part:
        part.write_text(json.dumps(value, indent=1, allow_nan=False), encoding="utf-8")
