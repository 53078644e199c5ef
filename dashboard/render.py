"""Templates to HTML. Whatever a folder says is text: escaped, on one line, and of a bounded length."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from engine.encoding import one_line

HOME = Path(__file__).parent
TEMPLATES, STATIC = HOME / "templates", HOME / "static"
LONGEST = 600  # characters of one value
SENTENCES = 6_000  # of what the program itself says in sentences


def harmless(value: Any, most: int = LONGEST) -> Any:
    """A value as a page shows it.

    >>> str(harmless("a\\x1b[2J")), str(harmless(None)), len(harmless("x" * 10**7))
    ('a\\\\x1b[2J', '–', 601)
    """
    if isinstance(value, Markup):
        return value
    if value is None:
        return "–"
    words = str(value)
    return one_line(words[:most]) + "…" * (len(words) > most)


def sentences(text: Any) -> Markup:
    """What is longer than a value, and made by the program: an answer, a list of files."""
    return Markup(escape(harmless(text, SENTENCES)))


def environment() -> Environment:
    """Where the templates are."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=harmless,
    )
    made.filters["sentences"] = sentences
    return made
