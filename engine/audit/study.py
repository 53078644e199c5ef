"""The audit of a study's own ledger: registrations, records, heads, and the contract's state after all transactions.

    read    every row of the journal is read once into a frozen case: form, types, no gaps
    1       registrations: ids derive from the first one, contents are those of their rows, heads follow
    2       records: each trial begins once and ends once, in an unbroken chain of heads
    3       transactions: each asks the contract for what its row holds, and every row has exactly one that succeeded
    4       the contract holds the journal's heads and stages after all transactions

What the records say is compared with Optuna's database and the trials' folders by `sweeps.audit`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from engine.audit import spec
from engine.audit.evidence import opened, rows
from engine.audit.execution import execute
from engine.audit.known import NOTHING, Known
from engine.audit.known import compare as pinned
from engine.audit.reading import read_domain, read_words
from engine.audit.records import read_object
from engine.audit.report import Count, Note, Reading, Report, Told, collected, finding, text
from engine.audit.spec import Domain
from engine.audit.transactions import Transaction, check_transaction, compare_arguments, read_transactions
from engine.errors import LedgerError
from engine.ledger.chain.base import Chain
from engine.ledger.chain.contracts import query
from engine.ledger.format import STAGES, STUDY, STUDY_PURPOSES

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Registration:
    """A row of the designs, by its position: a study, or an amendment to it under a study id of its own."""

    position: int
    study: bytes
    content: Mapping[str, Any]
    digest: bytes
    trials: int
    head: Any


@dataclass(frozen=True)
class TrialRecord:
    """A row of the records: that a trial began or ended; `content` is None where it cannot be read."""

    seq: int
    study: bytes | None
    sequence: Any
    trial: int
    stage: int
    content: Mapping[str, Any] | None
    digest: bytes
    row: Row

    @property
    def name(self) -> str:
        """What a finding calls it."""
        return "begun" if self.stage == 1 else "ended"


@dataclass(frozen=True)
class StudyCase:
    """A study's journal as it was read; nothing in it is true yet. Without a domain nothing could be read."""

    domain: Domain | None = None
    backend: Mapping[str, Any] = field(default_factory=dict)
    registrations: tuple[Registration, ...] = ()
    records: tuple[TrialRecord, ...] = ()
    transactions: tuple[Transaction, ...] = ()
    known: Known = NOTHING

    @property
    def contracts(self) -> dict[str, str]:
        """The contract by its name."""
        return {} if self.domain is None else {"StudyLedger": self.domain.contract}

    @property
    def designs(self) -> list[Mapping[str, Any]]:
        """Content of each generation."""
        return [registration.content for registration in self.registrations]

    @cached_property
    def begun(self) -> dict[int, Mapping[str, Any]]:
        """Trial -> content of its beginning."""
        return {r.trial: r.content for r in reversed(self.records) if r.stage == 1 and r.content is not None}

    @cached_property
    def ended(self) -> dict[int, tuple[str, Mapping[str, Any]]]:
        """Trial -> stage and content of its end."""
        ends = [record for record in reversed(self.records) if record.stage > 1]
        return {r.trial: (STAGES[r.stage], r.content) for r in ends if r.content is not None}

    @property
    def order(self) -> list[int]:
        """Trials in the order in which their ends were recorded."""
        return [record.trial for record in self.records if record.stage > 1]


@dataclass
class Held:
    """What the contract must hold of one generation."""

    head: bytes
    trials: int
    sequence: int = 0
    stages: dict[int, int] = field(default_factory=dict)


Check = Callable[[StudyCase], Iterator[Told]]


# --- Reading ----------------------------------------------------------------------------------------------------------


def _read(table: Callable[[str], Iterable[Row]]) -> Reading[StudyCase]:
    values = yield from read_words(table("meta"), "format", "domain", "backend")
    if values.get("format") != str(STUDY.format):
        raise LedgerError(
            f"the study's journal has format {text(values.get('format'))}, this version reads {STUDY.format}"
        )
    what = "domain"
    try:
        domain = read_domain(values.get("domain"))
        what = "backend"
        backend = read_object(values.get("backend"))
    except ValueError as error:
        yield finding("meta", what, f"a readable {what}", values.get(what), f"the {what} cannot be read: {error}")
        return StudyCase()
    registrations = yield from _registrations(table("designs"))
    records = yield from _records(table("records"))
    trials = {record.seq: record.trial for record in records}

    def place(row: Row) -> dict[str, Any]:
        return {"trial": trials.get(row["round"]) if row["purpose"] == "record" else None}

    transactions = yield from read_transactions(table("transactions"), STUDY_PURPOSES, place)
    yield Count("transactions", len(transactions))
    return StudyCase(domain, backend, tuple(registrations), tuple(records), transactions)


def _registrations(table: Iterable[Row]) -> Reading[list[Registration]]:
    found = []
    for position, row in enumerate(table):
        study, content = spec.hash_of(row["study"]), (yield from _content(None, "design", row))
        if row["generation"] != position:
            message = "the registrations are not numbered without a gap"
            yield finding("design", "generation", position, row["generation"], message)
        if study is None or not _is_uint32(row["trials"]) or content is None:
            yield finding("design", "row", "readable values", row["study"], "a registration is damaged")
            continue
        digest = spec.hash_of(row["digest"]) or spec.ZERO
        found.append(Registration(position, study, content, digest, row["trials"], row["head"]))
    return found


def _records(table: Iterable[Row]) -> Reading[list[TrialRecord]]:
    found = []
    for position, row in enumerate(table, start=1):
        trial, stage = row["trial"], row["stage"]
        known = type(stage) is int and 1 <= stage < len(STAGES)
        name = "ended" if known and stage > 1 else "begun"
        if row["seq"] != position:
            message = "the records are not numbered without a gap"
            yield finding(name, "seq", position, row["seq"], message, trial=trial)
        content = yield from _content(trial, name, row)
        if not known or not _is_uint32(trial):
            column = "trial" if known else "stage"
            yield finding(name, column, "a value of the contract", row[column], "a record is damaged", trial=trial)
            continue
        digest = spec.hash_of(row["digest"]) or spec.ZERO
        place = (position, spec.hash_of(row["study"]), row["sequence"], trial, stage)
        found.append(TrialRecord(*place, content, digest, row))
    return found


def _content(trial: Any, record: str, row: Row) -> Reading[Mapping[str, Any] | None]:
    """The content of a row, whose digest must be the anchored one."""
    try:
        content = read_object(row["content"])
        digest = spec.json_hash(content)
        if digest is None:
            raise ValueError("it has no canonical form")
    except ValueError as error:
        message = f"the content is damaged: {error}"
        yield finding(record, "content", "readable JSON", row["content"], message, trial=trial)
        return None
    if spec.hash_of(row["digest"]) != digest:
        message = "the digest is not that of the content"
        yield finding(record, "digest", digest, row["digest"], message, trial=trial)
    return content


def _is_uint32(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 32


# --- Checks -----------------------------------------------------------------------------------------------------------


def check_registrations(case: StudyCase) -> Iterator[Told]:
    """Check each registration against the first one and its row."""
    if not case.registrations:
        yield finding("design", "generation", "a registration", None, "the study was never registered")
        return
    first = "0x" + case.registrations[0].study.hex()
    for one in case.registrations:
        position = one.position
        derived = spec.json_hash({"first": first, "generation": position})
        if position and one.study != derived:
            message = "the id of the amendment does not follow from the first registration"
            yield finding("design", "study", derived, one.study, message)
        named = {"generation": position, "trials": one.trials, "first": first if position else None}
        for name, value in named.items():
            if one.content.get(name) != value:
                message = f"{name} of the registration is not that of its row"
                yield finding("design", name, value, one.content.get(name), message)
        begun = one.content.get("begun")
        if begun and not position:
            yield Note(f"the study was registered after {text(begun)} of its trials had begun")
        head = _first_head(case, one)
        if spec.hash_of(one.head) != head:
            yield finding("design", "head", head, one.head, "the head of the registration does not follow from it")
        yield Count("registrations")
    for before, after in pairwise(case.designs):
        changed = [name for name, _, _ in differences(before.get("design"), after.get("design"))]
        if before.get("trials") != after.get("trials"):
            changed.insert(0, f"trials {text(before.get('trials'))} to {text(after.get('trials'))}")
        yield Note(f"amended: {', '.join(changed)}")


def check_records(case: StudyCase) -> Iterator[Told]:
    """Check each record against the one before it."""
    yield from _walk(case)


def _first_head(case: StudyCase, one: Registration) -> bytes:
    assert case.domain is not None
    return spec.study_head(case.domain, one.study, one.digest, one.trials)


def _walk(case: StudyCase) -> Reading[dict[bytes, Held]]:
    """Go through the records in their order; returns what the contract must hold after the last."""
    studies = {one.study: Held(_first_head(case, one), one.trials) for one in case.registrations}
    for record in case.records:
        held = studies.get(record.study or b"")
        if held is None:
            message = "the record belongs to no registered study"
            found = record.row["study"]
            yield finding(record.name, "study", "a registered study", found, message, trial=record.trial)
            continue
        held.sequence += 1
        was = held.stages.get(record.trial, 0)
        if record.sequence != held.sequence:
            message = "a record of the study is missing, added, or in another place"
            yield finding(record.name, "sequence", held.sequence, record.sequence, message, trial=record.trial)
        if record.trial >= held.trials or not (record.stage == 1 if was == 0 else was == 1 and record.stage > 1):
            message = "the trial cannot begin or end here"
            possible = f"what may follow {STAGES[was]}, of {held.trials} trials"
            yield finding(record.name, "stage", possible, STAGES[record.stage], message, trial=record.trial)
        held.stages[record.trial] = record.stage
        head = spec.trial_head(held.head, held.sequence, record.trial, record.stage, record.digest)
        there = spec.hash_of(record.row["head"])
        if there != head:
            message = "the head does not follow from the record before it"
            yield finding(record.name, "head", head, record.row["head"], message, trial=record.trial)
        # The next link starts from what is written, so that one change is told once.
        held.head = there or head
        yield Count("records")
    return studies


def check_calls(case: StudyCase) -> Iterator[Told]:
    """Compare what each transaction asks for with the row that it belongs to."""
    assert case.domain is not None
    wanted = _wanted(case)
    done: dict[tuple[str, Any], int] = {("deploy", 0): 0, **dict.fromkeys(wanted, 0)}
    for transaction in case.transactions:
        key = (str(transaction.purpose), transaction.round)
        expected = wanted.get(key)
        where = {"trial": None if expected is None else expected.get("trial")}
        if transaction.succeeded:
            done[key] = done.get(key, 0) + 1
        worth = yield from check_transaction(transaction, STUDY_PURPOSES, case.domain, case.contracts, where)
        if worth and expected is None:
            message = f"transaction {transaction.seq} belongs to no row"
            yield finding("transaction", "round", "a row of the journal", transaction.round, message)
        elif worth and expected is not None:
            yield from compare_arguments(transaction, expected, where)
    for key, succeeded in done.items():
        if key not in wanted and key != ("deploy", 0):
            message = "a successful transaction belongs to no row"
            yield finding("transaction", "round", "a row of the journal", f"{key[0]} {key[1]}", message)
        elif succeeded != 1:
            message = f"{key[0]} {key[1]} must have exactly one successful transaction"
            yield finding("transaction", "receipt", 1, succeeded, message, trial=wanted.get(key, {}).get("trial"))


def _wanted(case: StudyCase) -> dict[tuple[str, Any], dict[str, Any]]:
    """What the transaction of each row must ask for, by its purpose and number."""
    found: dict[tuple[str, Any], dict[str, Any]] = {}
    for one in case.registrations:
        found["register", one.position] = {"study": one.study, "design": one.digest, "trials": one.trials}
    for record in case.records:
        names = ("study", "sequence", "trial", "stage", "digest")
        found["record", record.seq] = {name: getattr(record, name) for name in names}
    return found


@dataclass(frozen=True)
class StudyState:
    """What the contract holds: of each study its state by name, of each trial (study, number) its stage."""

    studies: Mapping[bytes, Mapping[str, Any]]
    stages: Mapping[tuple[bytes, int], int]


def check_state(case: StudyCase) -> Iterator[Told]:
    """Compare the contract after all transactions with what the records lead to."""
    assert case.domain is not None
    studies, _ = collected(_walk(case))
    trials = [(study, trial) for study, held in studies.items() for trial in held.stages]

    def questions(chain: Chain) -> StudyState:
        def ask(function: str, *values: Any) -> Any:
            return query(chain, case.contracts["StudyLedger"], function, *values, contract="StudyLedger")

        states = {study: ask("studyState", study) for study in studies}
        return StudyState(states, {place: ask("trialStage", *place) for place in trials})

    place = {record.seq: record.trial for record in case.records}
    executed = execute(
        case.backend,
        case.domain,
        case.contracts,
        case.transactions,
        lambda t: {"trial": place.get(t.round) if t.purpose == "record" else None},
        questions,
        case.known.rpc,
    )
    yield from executed.told
    if executed.state is not None:
        yield from _compare_state(studies, executed.state)


def _compare_state(studies: Mapping[bytes, Held], state: StudyState) -> Iterator[Told]:
    for study, held in studies.items():
        expected = {
            "head": held.head,
            "sequence": held.sequence,
            "trials": held.trials,
            "begun": len(held.stages),
            "ended": sum(stage > 1 for stage in held.stages.values()),
        }
        for name, value in expected.items():
            if state.studies[study][name] != value:
                message = f"journal and chain disagree on {name}; expected is the chain, found the journal"
                yield finding("chain", name, state.studies[study][name], value, message)
        for trial, stage in held.stages.items():
            there = state.stages[study, trial]
            if there != stage:
                message = "journal and chain disagree on where the trial stands; expected is the chain"
                yield finding("chain", "stage", STAGES[there], STAGES[stage], message, trial=trial)


CHECKS: tuple[Check, ...] = (check_registrations, check_records, check_calls, check_state)  # 1 to 4


def audit_records(folder: Path, report: Report, checks: Sequence[Check] = CHECKS, known: Known = NOTHING) -> StudyCase:
    """Recompute the journal in the `ledger/` folder of a study; findings go into `report`. Nothing is changed.

    Args:
        known: what the auditor knows from elsewhere: the node to ask, a head, a contract.

    Raises:
        LedgerError: there is no journal, or none can be read from the file.
    """
    with opened(Path(folder) / STUDY.file, STUDY) as connection:
        case, told = collected(_read(partial(rows, connection, STUDY)))
    for one in told:
        report.add(one)
    case = replace(case, known=known)
    if case.domain is not None:
        for check in checks:
            for one in check(case):
                report.add(one)
        last = [held.head for held in collected(_walk(case))[0].values()]
        for one in pinned(known, case.domain, _heads(case), last):
            report.add(one)
        report.head = " ".join(map(text, last)) or None
    return case


def _heads(case: StudyCase) -> dict[bytes, str]:
    """Every head that the study ever had, and what it is that of."""
    found = {_first_head(case, one): f"registration {one.position}" for one in case.registrations}
    return found | {spec.hash_of(one.row["head"]) or spec.ZERO: f"record {one.seq}" for one in case.records}


def differences(one: Any, two: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted name and both values of everything that differs between two JSON values."""
    if isinstance(one, dict) and isinstance(two, dict):
        for key in sorted(one.keys() | two.keys()):
            yield from differences(one.get(key), two.get(key), f"{name}.{key}" if name else key)
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            yield from differences(a, b, f"{name}.{i}" if name else str(i))
    elif one != two:
        yield name or "value", one, two
