"""What an audit says: findings with their place, notes, counts, the report that gathers them, and its verdict.

For runs and studies. The verdict has five grades, each with an exit code of its own; of several the gravest counts:

    unreadable     2   what was to be audited cannot be read
    findings       1   something is not as it must be
    not verified   4   nothing is wrong, but something could not be checked: each is named
    unfinished     5   all that is there is consistent, and it says of itself that it goes on
    clean          0   everything was checked and is as it must be
"""

from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from engine.encoding import one_line

_LONGEST = 200  # characters of a value
_LONGEST_MESSAGE = 1000
_LISTED = 20  # files that were not read


class Verdict(StrEnum):
    """What an audit comes to, the gravest first."""

    UNREADABLE = "unreadable"
    FINDINGS = "findings"
    NOT_VERIFIED = "not verified"
    UNFINISHED = "unfinished"
    CLEAN = "clean"

    @property
    def code(self) -> int:
        """The exit code of the command line; 3 is that of a run that waits for a reviewer."""
        return {"unreadable": 2, "findings": 1, "not verified": 4, "unfinished": 5, "clean": 0}[self]


def gravest(verdicts: Iterable[Verdict]) -> Verdict:
    """The gravest of several verdicts; clean without any.

    >>> gravest([Verdict.CLEAN, Verdict.UNFINISHED, Verdict.NOT_VERIFIED])
    <Verdict.NOT_VERIFIED: 'not verified'>
    """
    order = list(Verdict)
    return min(verdicts, key=order.index, default=Verdict.CLEAN)


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it must be; made by `finding`.

    Attributes:
        trial: number in the study, None if it concerns no single trial; as are round and hospital (a slot).
        record: where it is. In a run: meta, update, opening, receipt, head, rotation, scores, round, annex, synthetic,
            transaction, succession, chain, archive, bundle, model, result or equivocation. In a study: meta, design, begun, ended,
            transaction, chain, database, folder, study or mlflow.
        field: what of it.
        expected: the value that follows from everything else, as text.
        found: the value that is there, as text.
        message: one sentence.
    """

    trial: int | None
    round: int | None
    hospital: int | None
    record: str
    field: str
    expected: str
    found: str
    message: str

    @property
    def place(self) -> str:
        """Where it is, such as "round 3, hospital 1, update.leaf"."""
        numbers = {"trial": self.trial, "round": self.round, "hospital": self.hospital}
        parts = [f"{name} {number}" for name, number in numbers.items() if number is not None]
        return ", ".join([*parts, f"{self.record}.{self.field}"])


class Note(NamedTuple):
    """Something to know beside the findings; `unchecked` if it says what could not be checked."""

    text: str
    unchecked: bool = False


class Count(NamedTuple):
    """How much was checked of something."""

    name: str
    number: int = 1


Told = Finding | Note | Count
T = TypeVar("T")
# Something that is read piece by piece: it yields what is wrong with it and returns what is right.
Reading = Generator[Told, None, T]


def finding(
    record: str,
    field: str,
    expected: Any,
    found: Any,
    message: str,
    *,
    trial: Any = None,
    round: Any = None,
    hospital: Any = None,
) -> Finding:
    """A finding of values as they are; a place that is no integer is none."""

    def number(place: Any) -> int | None:
        return place if type(place) is int else None

    where = (number(trial), number(round), number(hospital))
    return Finding(*where, record, text(field), text(expected), text(found), _cut(one_line(message), _LONGEST_MESSAGE))


def collected(reading: Reading[T]) -> tuple[T, list[Told]]:
    """What a reading returns, and all that it says on the way."""
    told: list[Told] = []
    while True:
        try:
            told.append(next(reading))
        except StopIteration as end:
            return end.value, told


def text(value: Any) -> str:
    """A value as text on one line, bytes as 0x hex, with its end cut off if it is long."""
    if isinstance(value, bytes):
        shown = "0x" + value[:_LONGEST].hex()
    else:
        try:
            shown = "nothing" if value is None else one_line(str(value)[: 10 * _LONGEST])
        except ValueError:  # an integer of more digits than Python writes
            shown = "a number of thousands of digits"
    return _cut(shown, _LONGEST)


def _cut(words: str, longest: int) -> str:
    return words if len(words) <= longest else words[: longest - 3] + "..."


@dataclass
class Report:
    """What an audit found.

    Attributes:
        findings: what is not as it must be.
        counts: how much was checked.
        notes: what else there is to know.
        unchecked: those of the notes that say what could not be checked.
        finished: whether what was audited says that it has ended.
        unreadable: why nothing could be audited, in a sentence; "" if something could.
        head: of a run after its last round; of a study those of all its generations, with a space between them.
        trials: of a study: number, condition, state and reason of every trial, failed and pruned ones included.
        runs: of a study: folder of each trial's run -> the audit of its own ledger.
        unbound: dotted names of what is reported, and nobody signed: whatever it says, it is as it must be.
        unread: files of the folder that were not read: whatever is in them, it proves nothing. Those of a study's runs are
            in `runs`.
    """

    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    finished: bool = True
    unreadable: str = ""
    head: str | None = None
    trials: list[dict[str, Any]] = field(default_factory=list)
    runs: dict[str, "Report"] = field(default_factory=dict)
    unbound: tuple[str, ...] = ()
    unread: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """The gravest of what this report and those of a study's runs come to."""
        grades = (
            (self.unreadable, Verdict.UNREADABLE),
            (self.findings, Verdict.FINDINGS),
            (self.unchecked, Verdict.NOT_VERIFIED),
            (not self.finished, Verdict.UNFINISHED),
        )
        own = [verdict for there, verdict in grades if there]
        return gravest([*own, *(report.verdict for report in self.runs.values())])

    @property
    def clean(self) -> bool:
        """Whether everything was checked, ended, and is as it must be, here and in every run of a study."""
        return self.verdict is Verdict.CLEAN

    def add(self, told: Told) -> None:
        """Takes up what a check says."""
        match told:
            case Finding():
                self.findings.append(told)
            case Note(words, unchecked):
                self.notes.append(_cut(one_line(words), _LONGEST_MESSAGE))
                if unchecked:
                    self.unchecked.append(self.notes[-1])
            case Count(name, number):
                self.counts[name] = self.counts.get(name, 0) + number

    def find(self, trial: Any, record: str, field: str, expected: Any, found: Any, message: str) -> None:
        """Adds a finding about a study, or about one trial of it."""
        self.add(finding(record, field, expected, found, message, trial=trial))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "verdict": str(self.verdict),
            "exit_code": self.verdict.code,
            **{f.name: getattr(self, f.name) for f in fields(self)},
            "findings": [asdict(found) for found in self.findings],
            "runs": {name: report.to_dict() for name, report in self.runs.items()},
        }

    def lines(self) -> list[str]:
        """Return the report as text, one thing a line: what it is stands first, so that no text of the evidence can be it.

        The last line is the verdict.
        """
        return [one_line(line) for line in (*self._told(), f"verdict: {self.verdict}{self._why()}")]

    def _told(self) -> list[str]:
        checked = ", ".join(f"{number} {name}" for name, number in self.counts.items())
        lines = [f"checked: {checked}", f"head: {self.head}"] if not self.unreadable else []
        lines += [f"unreadable: {self.unreadable}"] if self.unreadable else []
        for row in self.trials:
            if row["state"] != "COMPLETE":
                lines.append(f"trial {row['trial']}: {row['state']}: {row['reason']} ({row['condition']})")
        lines += [f"finding: {f.place}: {f.message} (expected {f.expected}, found {f.found})" for f in self.findings]
        lines += [f"not verified: {note}" for note in self.unchecked]
        lines += [f"note: {note}" for note in self.notes if note not in self.unchecked]
        lines += [f"not bound: {', '.join(self.unbound)}"] if self.unbound else []
        more = [f"and {len(self.unread) - _LISTED} more"] if len(self.unread) > _LISTED else []
        lines += [f"not read: {', '.join([*self.unread[:_LISTED], *more])}"] if self.unread else []
        for name, report in self.runs.items():
            if report.verdict is not Verdict.CLEAN or report.notes:
                lines += [f"run {name}: {line}" for line in report.lines()]
        if self.runs:
            lines.append(f"runs: {sum(report.clean for report in self.runs.values())} of {len(self.runs)} are clean")
        return lines

    def _why(self) -> str:
        """What the verdict rests on, in numbers."""
        everything = [self, *self.runs.values()]
        match self.verdict:
            case Verdict.FINDINGS:
                return f" ({sum(len(report.findings) for report in everything)})"
            case Verdict.NOT_VERIFIED:
                unchecked = sum(len(report.unchecked) for report in everything)
                return f" ({unchecked} thing{'s' * (unchecked > 1)} could not be checked)"
            case Verdict.UNFINISHED:
                return " (all that is there is consistent)"
        return ""
