"""The HTML of a report: sections of words, tables and pictures, in one file that asks for nothing from anywhere."""

import base64
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup, escape
from matplotlib.figure import Figure

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Words:
    """A paragraph; `look` is a class of the page's style."""

    text: str
    look: str = ""
    kind: str = "words"


@dataclass(frozen=True)
class Heading:
    """Over a part of a section."""

    text: str
    kind: str = "heading"


@dataclass(frozen=True)
class Block:
    """Commands or a file, as they are."""

    text: str
    kind: str = "block"


class Link(NamedTuple):
    """Text that may lead somewhere."""

    text: str
    href: str = ""


class Cell(NamedTuple):
    """A cell of a table, with a square of a method's colour in front if there is one."""

    parts: tuple[Link, ...]
    colour: str = ""


@dataclass(frozen=True)
class Table:
    """Rows and, set apart, lines at the foot; columns in `words` are text, the others numbers."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    foot: Sequence[Sequence[Cell]] = ()
    words: Collection[int] = ()
    kind: str = "table"


@dataclass(frozen=True)
class Picture:
    """A figure with its file's stem, and its caption."""

    stem: str
    figure: Figure
    caption: str
    kind: str = "picture"


Part = Words | Heading | Block | Table | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; without anything there, `missing` says why."""

    title: str
    parts: tuple[Part, ...] = ()
    missing: str = ""

    @property
    def id(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower())

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return tuple(part for part in self.parts if isinstance(part, Picture))


@dataclass(frozen=True)
class Said:
    """An answer on the page, with the colour of the method that it is about."""

    sentence: str
    notes: Sequence[str]
    colour: str = ""


@dataclass(frozen=True)
class Page:
    """All of a report.

    Attributes:
        how: how the answers are to be read.
        drawn: stem of a picture -> its PNG.
        what: it is, under its name; `first`: the heading over the answers.
    """

    name: str
    answers: Sequence[Said]
    how: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    drawn: Mapping[str, bytes]
    warnings: Sequence[str] = field(default=())
    what: str = "Report of a PulseLedger study"
    first: str = "The answer"

    def html(self) -> str:
        """The page; sections without anything are named at its end."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        environment.filters["breakable"] = breakable
        return environment.get_template("report.html").render(
            name=self.name,
            what=self.what,
            first=self.first,
            answers=self.answers,
            how=self.how,
            facts=self.facts,
            warnings=self.warnings,
            sections=[section for section in self.sections if section.parts],
            missing=[(section.title, section.missing) for section in self.sections if not section.parts],
            drawn={stem: base64.b64encode(data).decode() for stem, data in self.drawn.items()},
            style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        )


def cell(text: Any, href: str = "", colour: str = "") -> Cell:
    """A cell of one text."""
    return Cell((Link(str(text), href),), colour) if str(text) else Cell((), colour)


def cells(texts: Sequence[str]) -> list[Cell]:
    """Cells of plain texts."""
    return [cell(text) for text in texts]


def pictures(stem: str, figures: Sequence[Figure], caption: str) -> tuple[Picture, ...]:
    """Figures that continue each other, numbered if they are several."""
    if len(figures) == 1:
        return (Picture(stem, figures[0], caption),)
    return tuple(
        Picture(f"{stem}-{i + 1}", figure, f"{caption} (Part {i + 1} of {len(figures)}.)")
        for i, figure in enumerate(figures)
    )


def breakable(text: str) -> Markup:
    """Text that may be broken after the slashes and underscores of a score's path.

    >>> breakable("a/<b>")
    Markup('a/<wbr>&lt;b&gt;')
    """
    return Markup(str(escape(text)).replace("/", "/<wbr>").replace("_", "_<wbr>"))
