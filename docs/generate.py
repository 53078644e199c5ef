"""What the site's build makes out of the program: every key, every score, every command, the Python API.

The pages are made anew by each build into generated/, which is not committed. Here, too: the tables of contents, which are
the lists of links in index.md, and the check that no page of the site needs the network.
"""

import argparse
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from engine.config import RunConfig
from sweeps.__main__ import build_parser
from sweeps.keys import Key, all_keys
from sweeps.scores import ASIDE, PLAIN, SPENT, TRIVIAL, details, shown
from sweeps.verbs.completion import verbs_of

HERE = Path(__file__).parent
ROOT = HERE.parent
FOLDER = "generated"
PAGES = {  # name -> what the index says of it
    "keys": "[Every key](generated/keys.md) of a configuration: what it may be, unit, default, when it is read",
    "scores": "[Every score](generated/scores.md): what may be tuned for, bounded and compared",
    "commands": "[Every command](generated/commands.md) with its flags",
    "api": "[The Python API](generated/api.rst): running, studying, auditing, and the seams for parts of your own",
}
# Markdown elsewhere in the repository -> its page in the site
FOREIGN = {
    "README.md": "index.md",
    "CHANGELOG.md": "generated/changelog.md",
    "deploy/README.md": "generated/deploy.md",
    "deploy/besu-qbft/README.md": "generated/besu.md",
    "contracts/README.md": "generated/contracts.md",
    "benchmarks/peers/README.md": "generated/peers.md",
}
RUNNING = ["autofunction:: pulseledger.run", "autoclass:: sweeps.Study", "autofunction:: pulseledger.audit"]
RUNNING += ["autoclass:: engine.audit.report.Report", "autoclass:: engine.result.Result"]
SEAMS = {  # heading -> module
    "Algorithms: a hospital's work": "engine.algorithms.base",
    "The loop: what passes through it, and its parts": "engine.messages",
    "Gradients": "engine.oracles.base",
    "Privacy": "engine.privacy.base",
    "Ledgers": "engine.ledger.base",
    "Errors": "engine.errors",
}
LINK = re.compile(r"\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def write_pages(folder: Path) -> None:
    """Writes all generated pages; one that would be the same is left alone, so that a second build is quick."""
    folder.mkdir(exist_ok=True)
    made = {"keys.md": keys_page(), "scores.md": scores_page(), "commands.md": commands_page(), "api.rst": api_page()}
    for source, page in FOREIGN.items():
        if page.startswith(FOLDER):
            made[Path(page).name] = moved((ROOT / source).read_text(encoding="utf-8"), ROOT / source, folder)
    for name, text in made.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


# --- Keys and scores --------------------------------------------------------------------------------------------------


def keys_page() -> str:
    """Every key, in the order of the file."""
    lines = [
        "# Every key",
        "",
        "In the order of the file. `pulseledger keys KEY` says the same, `pulseledger keys --schema run` or `study` is the JSON schema",
        "for editors. Every key is a flag of `run`, `sweep`, `plan` and `data`, too: `--cohort.hospitals 10`. A key that is not always read",
        "says with which values of others it is.",
    ]
    section = ""
    for key in all_keys():
        head = "Of studies" if key.study else key.name.partition(".")[0] if "." in key.name else "Of the whole file"
        lines += ["", f"## {head}", *_section(head)] if head != section else []
        section = head
        lines += ["", *_key(key)]
    return "\n".join(lines) + "\n"


def _section(name: str) -> Iterator[str]:
    """Where the keys of a section are read, and what they are about."""
    if name in RunConfig.model_fields:
        model = RunConfig.model_fields[name].annotation
        path = f"{model.__module__.replace('.', '/')}.py"
        yield from (
            "",
            f"{_plain(model.__doc__.partition(chr(10))[0])} Checked by [{path}]({os.path.relpath(ROOT / path, HERE / FOLDER)}).",
        )


def _key(key: Key) -> Iterator[str]:
    yield f"```{{confval}} {key.name}"
    yield f":type: {_plain(key.allowed)}{f', in {key.unit}' if key.unit else ''}"
    yield from (f":default: `{key.default}`", "", f"{_plain(key.description)}.")
    yield from ("", f"Read with {_plain(key.read_with)}.") if key.read_with else ()
    yield from ("", f"In a study: {_plain(key.in_study)}.") if key.in_study else ()
    yield "```"


def scores_page() -> str:
    """Every score by its path."""
    head = ["", "| path | heading in tables | what it is |", "|---|---|---|"]
    chosen = [path for path in PLAIN if not path.startswith(("final/", "validation/global/"))]
    return "\n".join(
        [
            "# Every score",
            "",
            "A score has one path everywhere: in `objectives` and `constraints` of a study, in `compare --json` and `--csv`, in MLflow and",
            "in `result.json`. `validation` is of the beats to choose by, `final` of test beats; `personal` is the model that a hospital",
            "ends with, `global` the one that all share. Scores are over the beats of all hospitals together unless they say otherwise.",
            "`pulseledger keys PATH` explains one.",
            *head,
            *(_score(path) for path in chosen),
            _score("validation/personal/recall/N", "validation/personal/recall/CLASS"),
            "",
            "Those that begin with `validation/personal` are there with `final`, too, and with `global` (but for `hurt_share`). An objective",
            "on `final/...` wants `allow_test_tuning: true`, which marks every table.",
            "",
            "## Shown, but not to be tuned for",
            *head,
            *(
                _score(path, f"{path[:-1]}CLASS" if path.startswith("final/") else "")
                for path in details(("N",))
                if "/personal/" in path
            ),
            *(_score(path) for path in (*ASIDE, *SPENT, *TRIVIAL)),
            "",
        ]
    )


def _score(path: str, written: str = "") -> str:
    found = shown(path)
    return f"| `{written or path}` | {_plain(found.title)} | {_plain(found.says)} |"


def _plain(text: str) -> str:
    """Text of the program as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_<>\[\]|#{}$~])", r"\\\1", text)


# --- Commands and the API ---------------------------------------------------------------------------------------------


def commands_page() -> str:
    """What every command says of itself."""
    lines = [
        "# Every command",
        "",
        "What `--help` prints. [Exit codes](../files.md#exit-codes).",
    ]
    for name, verb in verbs_of(build_parser()).items():
        lines += ["", f"## {name}", "", "```text", _help(verb), "```"]
        inner = verbs_of(verb) if any(isinstance(each, argparse._SubParsersAction) for each in verb._actions) else {}
        for word, one in inner.items():
            lines += ["", f"### {name} {word}", "", "```text", _help(one), "```"]
    return "\n".join(lines) + "\n"


def _help(parser: argparse.ArgumentParser) -> str:
    parser.formatter_class = lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=96)  # type: ignore[assignment]
    return parser.format_help().rstrip()


def api_page() -> str:
    """The public API, then the protocols and records that a part of one's own meets."""
    lines = [
        _title("The Python API", "="),
        ".. automodule:: pulseledger",
        "",
        _title("Running, studying, auditing", "-"),
    ]
    for what in RUNNING:
        options = ["   :members:", "   :exclude-members: model_config"] if what.startswith("autoclass") else []
        lines += [f".. {what}", *options, ""]
    lines += [
        _title("Parts of your own", "-"),
        "What an algorithm, a rule, a schedule or another part is given and gives back.",
        "",
    ]
    for heading, module in SEAMS.items():
        lines += [_title(heading, "~"), f".. automodule:: {module}", "   :members:", ""]
    return "\n".join(lines)


def _title(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n"


# --- Links ------------------------------------------------------------------------------------------------------------


def completed(app: Sphinx, name: str, text: list[str]) -> None:
    """What Sphinx reads of a page: links as the site has them, and the tables of contents of the first one."""
    if not name.startswith(FOLDER):
        text[0] = moved(text[0], HERE / f"{name}.md", HERE)
    if name == "index":
        text[0] = with_contents(text[0])


def moved(text: str, source: Path, folder: Path) -> str:
    """Markdown out of `source` as a page in `folder`: its links lead to pages of the site, to files, or both as they are."""

    def link(found: re.Match[str]) -> str:
        place = (source.parent / found[1]).resolve()
        inside = str(place.relative_to(ROOT)) if place.is_relative_to(ROOT) else ""
        target = HERE / FOREIGN[inside] if inside in FOREIGN else place
        return f"]({os.path.relpath(target, folder)}{found[2] or ''})"

    return LINK.sub(link, text)


def with_contents(index: str) -> str:
    """The index with the generated pages under "Reference", and a table of contents out of each section's links."""
    head, *sections = re.split(r"^## ", index, flags=re.MULTILINE)
    whole = [head]
    for section in sections:
        title, _, body = section.partition("\n")
        if title == "Reference":
            body += "\n".join(f"- {line}" for line in PAGES.values()) + "\n"
        pages = [path for path, _ in LINK.findall(body) if path.endswith((".md", ".rst"))]
        toc = "\n".join(["```{toctree}", ":hidden:", f":caption: {title}", "", *dict.fromkeys(pages), "```"])
        whole.append(f"{title}\n{body}\n{toc}\n\n")
    return "## ".join(whole)


# --- The network ------------------------------------------------------------------------------------------------------


class _Loaded(HTMLParser):
    """What a page loads by itself, where it is not the site's own."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attributes}
        loads = named.get("src", "") if tag != "link" else named.get("href", "")
        if re.match(r"(https?:)?//", loads) and named.get("rel") != "canonical":
            self.found.append(loads)


def loaded_from_outside(site: Path) -> Iterator[str]:
    """File and address of everything that a page or style sheet of the site would load from the network."""
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""", text)
        if path.suffix == ".html":
            page = _Loaded()
            page.feed(text)
            found = page.found
        yield from (f"{path.relative_to(site)} loads {address}" for address in found)


def require_offline(app: Sphinx, error: Exception | None) -> None:
    """Fails the build where a page needs the network."""
    if error is None and (found := list(loaded_from_outside(Path(app.outdir)))):
        raise ExtensionError(f"{found[0]}: no page may need the network.")
