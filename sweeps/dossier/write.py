"""`pulseledger dossier`: the file for the regulator, as HTML to print and as Markdown to work on."""

from collections.abc import Callable, Sequence
from pathlib import Path

from engine.encoding import one_line
from engine.files import write_text
from engine.homes import claim
from sweeps.dossier.document import FILL, sections
from sweeps.dossier.facts import facts_of
from sweeps.page import Block, Cell, Heading, Page, Said, Section, Table, Words

HTML, MARKDOWN = "dossier.html", "dossier.md"
FIRST = (
    "This file says what the software does, tied to tests by name, and what was measured in this study. It is no legal advice "
    "and no certificate, and PulseLedger is no medical device. What people must add is marked."
)


def write_dossier(folder: Path, out: Path | None, verdict: Callable[[Path], str]) -> list[Path]:
    """Writes both; what people wrote into an earlier one is not kept.

    Args:
        out: where they go; None: `dossier` in the folder.
        verdict: says in a sentence how the folder's audit went.

    Raises:
        PulseLedgerError: nothing has finished there, or the place is somebody else's.
    """
    facts = facts_of(folder)
    parts = sections(facts, verdict(folder))
    out = out or folder / "dossier"
    claim(out, "report", (HTML, MARKDOWN))
    marked = sum(text.count(FILL) for section in parts for text in _texts(section))
    note = f"{marked} places are marked “{FILL.strip()}”."
    page = Page(
        facts.name, [Said(FIRST, [note])], "", [], parts, {}, what="Dossier of a PulseLedger study", first="Read first"
    )
    write_text(out / HTML, page.html())
    write_text(out / MARKDOWN, markdown(facts.name, note, parts))
    return [out / HTML, out / MARKDOWN]


def _texts(section: Section) -> list[str]:
    found = []
    for part in section.parts:
        if isinstance(part, Words | Heading | Block):
            found.append(part.text)
        elif isinstance(part, Table):
            found += [_cell(cell) for row in part.rows for cell in row]
    return found


def _cell(cell: Cell) -> str:
    return " ".join(part.text for part in cell.parts)


def markdown(name: str, note: str, parts: Sequence[Section]) -> str:
    """The sections as Markdown; whatever the data say is text in it.

    >>> markdown("a|*b*", "", []).splitlines()[0]
    '# Dossier of a\\\\|\\\\*b\\\\*'
    """
    lines = [f"# Dossier of {plain(name)}", "", plain(FIRST), "", plain(note), ""]
    for section in parts:
        lines += [f"## {plain(section.title)}", ""]
        for part in section.parts:
            match part:
                case Heading(text):
                    lines += [f"### {plain(text)}", ""]
                case Words(text, look):
                    lines += [f"**{plain(text)}**" if look == "warning" else plain(text), ""]
                case Block(text):
                    lines += ["    " + line for line in text.splitlines()] + [""]
                case Table():
                    lines += [_line(part.heads), _line(["---"] * len(part.heads))]
                    lines += [_line([plain(_cell(cell)) for cell in row]) for row in (*part.rows, *part.foot)] + [""]
                case _:
                    pass  # pictures stand in the report
    return "\n".join(lines)


def plain(text: str) -> str:
    """Text that Markdown takes for nothing else."""
    shown = one_line(text)
    for sign in "\\`*_<>|#[]":
        shown = shown.replace(sign, f"\\{sign}")
    return shown


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
