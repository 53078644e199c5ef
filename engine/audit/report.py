"""What an audit says: findings with their place, notes, counts, and the report that gathers them. For runs and studies."""

from collections.abc import Generator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple, TypeVar

_LONGEST = 200  # characters of a value


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it must be; made by `finding`.

    Attributes:
        trial: number in the study, None if it concerns no single trial; as are round and hospital (a slot).
        record: where it is. In a run: meta, update, opening, receipt, head, rotation, scores, round, annex, synthetic,
            transaction, chain, archive, bundle, model, result or equivocation. In a study: meta, design, begun, ended,
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
    return Finding(*where, record, one_line(field), text(expected), text(found), one_line(message))


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
        shown = "0x" + value.hex()
    else:
        shown = "nothing" if value is None else one_line(str(value))
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 3] + "..."


def one_line(words: str) -> str:
    """Text in which whatever moves a cursor is written out: evidence could otherwise say that it is clean."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


@dataclass
class Report:
    """What an audit found.

    Attributes:
        findings: what is not as it must be.
        counts: how much was checked.
        notes: what else there is to know.
        unchecked: those of the notes that say what could not be checked.
        finished: whether what was audited says that it has ended.
        head: of a run after its last round; of a study those of all its generations, with a space between them.
        trials: of a study: number, condition, state and reason of every trial, failed and pruned ones included.
        runs: of a study: folder of each trial's run -> the audit of its own ledger.
    """

    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    finished: bool = True
    head: str | None = None
    trials: list[dict[str, Any]] = field(default_factory=list)
    runs: dict[str, "Report"] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether nothing was found, neither here nor in a run of a study."""
        return not self.findings and all(report.clean for report in self.runs.values())

    def add(self, told: Told) -> None:
        """Takes up what a check says."""
        match told:
            case Finding():
                self.findings.append(told)
            case Note(words, unchecked):
                self.notes.append(one_line(words))
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
            "clean": self.clean,
            **{f.name: getattr(self, f.name) for f in fields(self)},
            "findings": [asdict(found) for found in self.findings],
            "runs": {name: report.to_dict() for name, report in self.runs.items()},
        }

    def lines(self) -> list[str]:
        """Return the report as text, one finding a line."""
        checked = ", ".join(f"{number} {name}" for name, number in self.counts.items())
        lines = [f"checked: {checked}", f"head: {self.head}"]
        for row in self.trials:
            if row["state"] != "COMPLETE":
                lines.append(f"trial {row['trial']}: {row['state']}: {row['reason']} ({row['condition']})")
        lines += [f"finding: {f.place}: {f.message} (expected {f.expected}, found {f.found})" for f in self.findings]
        lines += [f"note: {note}" for note in self.notes]
        for name, report in self.runs.items():
            if report.findings or report.notes:
                lines += [f"{name}: {line}" for line in report.lines()]
        if self.runs:
            lines.append(f"{sum(report.clean for report in self.runs.values())} of {len(self.runs)} runs are clean")
        found = len(self.findings) + sum(len(report.findings) for report in self.runs.values())
        lines.append("clean" if self.clean else f"{found} findings")
        return [one_line(line) for line in lines]
