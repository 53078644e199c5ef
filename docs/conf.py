"""The documentation's site: `make docs`. What cannot be seen from the Markdown files alone is made by generate.py."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import generate  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

from engine import __version__  # noqa: E402

project, author, version = "PulseLedger", "The authors of PulseLedger", __version__
copyright = "the authors of PulseLedger, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4  # as GitHub makes them
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"PulseLedger {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
pygments_style, pygments_dark_style = "friendly", "monokai"

default_role = "code"
autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False


def setup(app: Sphinx) -> None:
    """Joins the build: pages before it, checks after it."""
    # a named tuple's fields are told in its own words
    app.connect("autodoc-skip-member", lambda app, kind, name, thing, skip, how: skip or _is_field(thing))
    app.connect("autodoc-process-docstring", lambda app, kind, name, thing, how, lines: _as_code(lines), priority=400)
    app.connect("builder-inited", lambda app: generate.write_pages(HERE / generate.FOLDER))
    app.connect("source-read", generate.completed)
    app.connect("build-finished", generate.require_offline)


def _as_code(lines: list[str]) -> None:
    """What stands indented after an empty line is code, as in Markdown."""
    for at in range(len(lines) - 1, 1, -1):
        before = next((line for line in reversed(lines[:at]) if line), "")
        if lines[at].startswith("    ") and not lines[at - 1] and before and not before.startswith((" ", ">>>")):
            lines[at:at] = ["::", ""]


def _is_field(thing: object) -> bool:
    return (getattr(thing, "__doc__", None) or "").startswith("Alias for field number")
