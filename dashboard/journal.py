"""A run's journal as rows to look through, and a study's registration: as the audit reads them, before anything is judged."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engine.audit.case import Case, Step
from engine.audit.evidence import Evidence
from engine.audit.reading import read
from engine.audit.report import Report, collected, text
from engine.audit.spec import Record
from engine.audit.study import audit_records, differences
from engine.errors import DataError
from engine.ledger.format import STAGES, STUDY, Purpose
from sweeps import witness
from sweeps.folder import is_study


class RoundLine(NamedTuple):
    """A sealed round."""

    round: int
    head: str
    model: str
    updates: int
    hospitals: str
    annex: str


class UpdateLine(NamedTuple):
    """What a hospital sent in a round; `samples` where its opening is there."""

    round: int
    hospital: int
    leaf: str
    update: str
    samples: str
    receipt: str


class TransactionLine(NamedTuple):
    """A transaction in the order of the journal."""

    number: int
    purpose: str
    round: str
    contract: str
    status: str
    gas: str
    hash: str


class StepLine(NamedTuple):
    """A step of the governance of synthetic beats."""

    number: int
    kind: str
    request: str
    says: str
    by: str


class Spent(NamedTuple):
    """What a hospital has spent of privacy, as it is reported; `told`: whether it said so itself."""

    hospital: int
    epsilon: str
    told: str


class Journal(NamedTuple):
    """All of a run's journal that pages show.

    Attributes:
        identity: of the ledger: words and values.
        wrong: findings of the reading alone.
        privacy: words and values about the mechanism; empty without one.
    """

    identity: Sequence[tuple[str, str]]
    hospitals: int
    rounds: Sequence[RoundLine]
    updates: Sequence[UpdateLine]
    transactions: Sequence[TransactionLine]
    steps: Sequence[StepLine]
    wrong: int
    privacy: Sequence[tuple[str, str]]
    spent: Sequence[Spent]


def read_journal(path: Path) -> Journal:
    """The journal of a run's folder or a bundle.

    Raises:
        PulseLedgerError: there is none, or none that can be read.
    """
    if is_study(path):
        raise DataError("a study has no rounds of its own: choose one of its runs.")
    with Evidence(path) as evidence:
        case, told = collected(read(evidence))
        if case is None:
            raise DataError("the journal does not say what it belongs to; the audit names what is wrong.")
        wrong = len(told) + len(evidence.problems)
        privacy = case.reported.get("privacy")
        return Journal(
            _identity(case),
            len(case.federation.hospitals),
            [_round(number, entry) for number, entry in sorted(case.rounds.items())],
            [
                _update(n, slot, one)
                for n, entry in sorted(case.rounds.items())
                for slot, one in sorted(entry.updates.items())
            ],
            [_transaction(one) for one in case.transactions],
            [_step(number, step) for number, step in enumerate(case.steps, 1)],
            wrong,
            _mechanism(privacy),
            _spent(privacy),
        )


class Held(NamedTuple):
    """Something that two copies have: in words of each, and whether it is the same."""

    name: str
    one: str
    other: str
    same: bool


def held_together(one: Journal, other: Journal) -> list[Held]:
    """What two copies hold, beside each other: not who signed what twice, which the audit says, but whether they are the same."""
    found = [Held(name, a, b, a == b) for (name, a), (_, b) in zip(one.identity, other.identity, strict=True)]
    for name in ("rounds", "updates", "transactions", "steps"):
        here, there = set(getattr(one, name)), set(getattr(other, name))
        title = "steps of governance" if name == "steps" else name
        found.append(Held(title, _of(here, here - there), _of(there, there - here), here == there))
    return found


def _of(all_: Collection[Any], alone: Collection[Any]) -> str:
    return f"{len(all_):,}" + (f", {len(alone):,} of them not in the other" if alone else "")


def _identity(case: Case) -> list[tuple[str, str]]:
    return [
        ("federation", text(case.federation.id)),
        ("contract", case.domain.contract),
        ("chain", str(case.domain.chain_id)),
        ("back end", str(case.backend.get("name"))),
        ("rule", case.rule.name),
        ("head", text(case.head(case.last))),
        ("ended as", case.ending),
    ]


def _round(number: int, entry: Any) -> RoundLine:
    who = " ".join(map(str, sorted(entry.updates)))
    return RoundLine(number, text(entry.head), text(entry.model), len(entry.updates), who, text(entry.annex))


def _update(number: int, slot: int, one: Any) -> UpdateLine:
    update = text(one.record["update"]) if one.record is not None else "cannot be read"
    samples = "erased" if one.erasure else "not opened" if one.opening is None else str(one.opening.samples)
    return UpdateLine(number, slot, text(one.leaf), update, samples, "yes" if one.receipt else "no")


def _transaction(one: Any) -> TransactionLine:
    status, gas = (
        ("waits", "") if one.receipt is None else ("taken" if one.succeeded else "refused", f"{one.receipt.gas:,}")
    )
    known: Purpose | None = one.known
    where = f"{known.contract}.{known.function or 'create'}" if known else "unknown"
    name = one.receipt.transaction if one.receipt is not None else ""
    return TransactionLine(one.seq, text(one.purpose), text(one.round), where, status, gas, text(name))


def _step(number: int, step: Step) -> StepLine:
    record = step.record.values if isinstance(step.record, Record) else step.record
    about = record.get("request", step.id)
    return StepLine(number, step.kind, text(about), said(step.kind, record), text(step.sender))


def said(kind: str, record: Mapping[str, Any]) -> str:
    """A step in words."""

    def of(name: str) -> str:
        return text(record.get(name))

    match kind:
        case "request":
            return f"hospital {of('slot')} asks for {of('quantity')} beats of class number {of('class_')}; at least {of('real_floor')} are real"
        case "preview":
            return f"{of('generated')} beats were shown to reviewers; digest of them {of('batch')}"
        case "review":
            return f"{'approved, ' + of('granted') + ' beats' if record.get('approve') is True else 'denied'}; digest of the reason {of('reason')}"
        case "report":
            return f"{of('generated')} beats were made; digest of the batch {of('batch')}"
        case "policy":
            return f"quota {of('quota')}, {'without' if record.get('automatic') is True else 'with'} a reviewer"
        case "reviewer":
            return f"account {of('account')} may review"
        case "expire":
            return "nobody decided or reported in time; the request has ended"
    return ""


def _mechanism(privacy: Any) -> list[tuple[str, str]]:
    if not isinstance(privacy, Mapping):
        return []
    names = (
        "mechanism",
        "unit",
        "neighbours",
        "epsilon",
        "delta",
        "alone",
        "sigma",
        "shares",
        "clip",
        "sampling_rate",
        "secret",
    )
    return [(name, text(privacy.get(name))) for name in names if name != "alone" or privacy.get(name) is not None]


def _spent(privacy: Any) -> list[Spent]:
    listed = privacy.get("hospitals") if isinstance(privacy, Mapping) else None
    rows = [row for row in listed if isinstance(row, Mapping)] if isinstance(listed, list) else []
    return [
        Spent(row.get("id", -1), text(row.get("epsilon")), "yes" if row.get("told") is True else "no") for row in rows
    ]


# --- A study's registration -------------------------------------------------------------------------------------------


class Generation(NamedTuple):
    """A registration, or an amendment of it: what differs from the one before."""

    number: int
    digest: str
    trials: int
    claims: str
    changed: Sequence[tuple[str, str, str]]


class Registration(NamedTuple):
    """What a study's ledger holds."""

    generations: Sequence[Generation]
    records: Sequence[tuple[int, int, str]]
    wrong: int
    stamps: Sequence[str]


def read_registration(folder: Path) -> Registration:
    """Of a study's folder.

    Raises:
        PulseLedgerError: it has none, or none that can be read.
    """
    if not (folder / "ledger" / STUDY.file).is_file():
        raise DataError("nothing was registered: the study has no ledger of its own.")
    report = Report()
    case = audit_records(folder / "ledger", report, checks=())
    found: list[Generation] = []
    before: Any = None
    for one in case.registrations:
        design = one.content.get("design")
        study = design.get("study") if isinstance(design, Mapping) else None
        claims = study.get("claims") if isinstance(study, Mapping) else None
        changed = [] if before is None else [(n, text(a), text(b)) for n, a, b in differences(before, design)][:200]
        found.append(Generation(one.position, text(one.digest), one.trials, text(claims), changed))
        before = design
    lines = [(record.seq, record.trial, STAGES[record.stage].lower()) for record in case.records]
    stamps = sorted(path.name for path in (folder / witness.FOLDER).glob("*"))
    return Registration(found, lines, len(report.findings), stamps)
