"""The documents: what they say to type can be typed, what they show is what is printed, and the site is built from them."""

import ast
import contextlib
import doctest
import importlib.util
import io
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any

import pytest
from reference import ROOT

from engine.reads import is_parameter
from engine.result import LedgerSummary
from engine.settings import dotted_keys
from sweeps.__main__ import build_parser, main
from sweeps.scores import PLAIN, TRIVIAL
from sweeps.source import READY, Given, ready, with_flags
from sweeps.space import StudyConfig
from sweeps.verbs.completion import verbs_of

DOCS = ROOT / "docs"
DOCUMENTS = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), ROOT / "deploy" / "README.md"]
EMPTY = Given({}, "flags")
NO_KEYS = (
    "py",
    "md",
    "csv",
    "yaml",
    "json",
    "npz",
    "parquet",
    "safetensors",
    "svg",
    "plb",
    "db",
    "hea",
    "mat",
    "id",
    "cpp",
)
FOLDERS = ("benchmarks", "contracts", "deploy", "docs", "engine", "examples", "sweeps", "tests")
PLACES = {"N": "1", "ROUND": "1", "HOSPITAL": "1", "NUMBER": "1", "TRIAL": "1"}  # what stands for a number


# --- What is to be typed ----------------------------------------------------------------------------------------------


def commands(text: str, program: str) -> Iterator[str]:
    """Every command of a text, in code or in a block, without what is said of it."""
    text = re.sub(r"\\\n\s*", " ", text)
    for line in text.split("\n"):
        if found := re.match(rf"(?:    |\$ )(?:\.venv/bin/)?({program} .*)$", line):
            yield re.sub(r"\s+#.*| {2,}(?![-\[]).*", "", found[1]).strip()
        else:
            yield from re.findall(rf"`({program} [^`]+)`", line)


def readings(command: str) -> Iterator[list[str]]:
    """A command as words: its placeholders as something that can be there, one of its alternatives after the other."""
    words = shlex.split(re.sub(r" *\| *", "|", command.replace("...", "")).replace("[", " ").replace("]", " "))
    choices = [word.split("|") if not re.search("[/:.]", word) else [word] for word in words]
    for chosen in itertools.product(*choices):
        yield [PLACES.get(word, word) for word in chosen if word]


PULSELEDGER = [
    (path, command)
    for path in DOCUMENTS
    for command in dict.fromkeys(commands(path.read_text(encoding="utf-8"), "pulseledger"))
]


def test_commands_are_found():
    text = "a `pulseledger ui DIR` b\n\n    .venv/bin/pulseledger run X   # first\n    pulseledger audit DIR    a folder\n$ pulseledger keys\n"
    assert list(commands(text, "pulseledger")) == [
        "pulseledger ui DIR",
        "pulseledger run X",
        "pulseledger audit DIR",
        "pulseledger keys",
    ]
    assert list(readings("pulseledger governance approve|deny DIR [--granted N]")) == [
        ["pulseledger", "governance", what, "DIR", "--granted", "1"] for what in ("approve", "deny")
    ]
    assert len(PULSELEDGER) > 60


@pytest.mark.parametrize(("path", "command"), PULSELEDGER, ids=lambda it: it.name if isinstance(it, Path) else it)
def test_every_command_in_the_documents_is_one(path: Path, command: str, capsys):
    """Verbs, flags and keys are known, ready-made files and those of the repository are there."""
    for words in readings(command):
        if len(words) == 2 and words[1].startswith("-"):
            continue  # --help and --version end there
        try:
            options, rest = build_parser().parse_known_args(words[1:])
        except SystemExit:
            said = capsys.readouterr().err  # `pulseledger sweep` in a sentence names the verb only
            assert "required" in said, f"{path.name}: {command}: {said}"
            assert len(words) <= 3, f"{path.name}: {command}: {said}"
            continue
        if rest and not (path.name == "first-hour.md" and "hospitalz" in command):
            assert options.takes_keys, f"{path.name}: {command}: {rest[0]}"
            with_flags(EMPTY, rest, StudyConfig)
        for word in words:
            if word.startswith(READY):
                assert word in ready(), f"{path.name}: {command}: there is no {word}"
            if word.startswith(("sweeps/", "deploy/", "examples/")):
                assert (ROOT / word).exists(), f"{path.name}: {command}: there is no {word}"


def test_every_target_of_make_in_the_documents_is_one():
    makefile = (ROOT / "Makefile").read_text()
    known = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    for path in [*DOCUMENTS, ROOT / "contracts" / "README.md"]:
        for command in commands(path.read_text(encoding="utf-8"), "make"):
            assert command.split()[1] in known, f"{path.name}: {command}"


def test_every_script_in_the_documents_is_there():
    for path in DOCUMENTS:
        for command in commands(path.read_text(encoding="utf-8"), "python"):
            script = command.split()[1]
            assert script.startswith("-") or (ROOT / script).exists(), f"{path.name}: {command}"


def test_every_file_that_the_documents_name_is_there():
    """In code: what begins as a folder of the repository does is a file, a folder, a pattern of some, or a test for short."""
    for path in [*DOCUMENTS, ROOT / "contracts" / "README.md"]:
        for name in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w/.*-]*)`", path.read_text(encoding="utf-8")):
            there = list(ROOT.glob(name.rstrip("/"))) or list((ROOT / "tests").glob(f"{name}.py"))
            assert there, f"{path.name}: {name}"


def test_every_key_in_the_documents_is_one():
    """In code: `cohort.alpha` is a key, and so is everything that looks like one."""
    sections = {key.partition(".")[0] for key in dotted_keys(StudyConfig) if "." in key}
    known = {
        key[:at] for key in dotted_keys(StudyConfig) for at in (*(m.start() for m in re.finditer(r"\.", key)), len(key))
    }
    known |= {f"ledger.{name}" for name in LedgerSummary.model_fields}  # in result.json
    for path in DOCUMENTS:
        for word in re.findall(r"`([a-z_]+(?:\.[a-z_0-9]+)+)(?::[^`]*)?`", path.read_text(encoding="utf-8")):
            if word.partition(".")[0] in sections and word.rpartition(".")[2] not in NO_KEYS:
                assert word in known or is_parameter(word), f"{path.name}: {word}"


# --- What is shown ----------------------------------------------------------------------------------------------------


class Shown:
    """A command of a page, and what the page says that it prints."""

    def __init__(self, page: str, command: str, printed: str) -> None:
        self.page, self.command, self.printed = page, command, printed
        verb = command.split()[1]
        refused = printed.startswith("pulseledger: ")
        # what needs no training, and no records but a few minutes of them
        self.quick = refused or verb in ("keys", "new", "plan") or (verb == "data" and page == "own-data.md")


def shown_in(page: str) -> list[Shown]:
    blocks = re.findall(r"```console\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    parts = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE) if part]
    return [Shown(page, *part.split("\n", 1)) for part in parts]


def printed_by(command: str) -> str:
    """What a command prints, in this process, as on a terminal of 100 columns."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        main(shlex.split(command)[1:])
    return out.getvalue()


def numberless(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+|[-+]?[0-9][0-9.,]*", "#", text)


def agree(page: Shown, printed: str, exactly: bool) -> bool:
    want, got = (text if exactly else numberless(text) for text in (page.printed, printed))
    return doctest.OutputChecker().check_output(want, got, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)


@pytest.mark.parametrize("page", ["first-hour.md", "own-data.md"])
def test_what_a_page_shows_is_printed(page: str, tmp_path: Path, monkeypatch):
    """Those commands that train nothing, in their order; all that they print, to the digit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    every = [shown for shown in shown_in(page) if shown.quick]
    assert len(every) >= 2
    for shown in every:
        printed = printed_by(shown.command)
        assert agree(shown, printed, exactly=True), f"{page}: {shown.command} prints\n{printed}"
    if page == "first-hour.md":
        found = doctest.DocTestParser().get_doctest((DOCS / page).read_text(encoding="utf-8"), {}, page, page, 0)
        assert found.examples
        assert doctest.DocTestRunner().run(found).failed == 0


def test_another_word_is_no_agreement():
    shown = Shown("x.md", "pulseledger keys", "seed 0, 12 trials\n...\n end\n")
    assert agree(shown, "seed 0, 12 trials\nmore\nend\n", exactly=True)
    assert agree(shown, "seed 3, 1.5 trials\nmore\nend\n", exactly=False)
    assert not agree(shown, "seed 3, 12 trials\nmore\nend\n", exactly=True)
    assert not agree(shown, "seed 0, 12 runs\nmore\nend\n", exactly=False)


@pytest.mark.long
def test_the_first_hour(tmp_path: Path):
    """All of it, each command in a process of its own. Scores differ in their last digits between machines, so digits are not compared."""
    environment = {**os.environ, "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    for shown in shown_in("first-hour.md"):
        words = [sys.executable, "-m", "pulseledger", *shlex.split(shown.command)[1:]]
        done = subprocess.run(words, cwd=tmp_path, env=environment, text=True, stdout=PIPE, stderr=STDOUT, timeout=600)
        assert agree(shown, done.stdout, exactly=False), f"{shown.command} prints\n{done.stdout}"


# --- The site ---------------------------------------------------------------------------------------------------------

NO_SPHINX = "sphinx, myst-parser and furo build the site: pip install -e '.[docs]'"


@pytest.fixture(scope="module")
def generate() -> Any:
    """The script beside conf.py."""
    pytest.importorskip("sphinx", reason=NO_SPHINX)
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["basic", pytest.param("furo", marks=pytest.mark.long)])
def site(generate: Any, tmp_path_factory, request: pytest.FixtureRequest) -> Path:
    """The built site; a link that leads nowhere, or any other warning, has failed it. A plain theme takes less time than ours."""
    for name in ("myst_parser", "furo"):
        pytest.importorskip(name, reason=NO_SPHINX)
    folder = tmp_path_factory.mktemp("site")
    words = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "html",
        "-D",
        f"html_theme={request.param}",
    ]
    words += [str(DOCS), str(folder)]
    done = subprocess.run(words, text=True, stdout=PIPE, stderr=STDOUT, timeout=300)
    assert done.returncode == 0, done.stdout
    return folder


def test_the_site_has_every_key_score_and_command(site: Path):
    keys, scores, commands, api = (
        (site / "generated" / f"{name}.html").read_text(encoding="utf-8")
        for name in ("keys", "scores", "commands", "api")
    )
    lacking = [key for key in dotted_keys(StudyConfig) if f'id="confval-{key}"' not in keys]
    assert lacking == []
    for path in (*PLAIN, *TRIVIAL):
        shared = path.replace("final/", "validation/", 1).replace("/global/", "/personal/", 1)
        assert f">{shared}<" in scores, path
    for verb in verbs_of(build_parser()):
        assert f"usage: pulseledger {verb} " in commands
    for name in ("pulseledger.run", "pulseledger.audit", "sweeps.Study", "engine.algorithms.base.Algorithm"):
        assert f'id="{name}"' in api


def test_the_index_leads_to_every_page(site: Path):
    """In one list, which is the contents of the site, too."""
    index = (site / "index.html").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        assert page.name == "index.md" or f'href="{page.stem}.html"' in index


def test_no_page_of_the_site_needs_the_network(site: Path, generate: Any, tmp_path: Path):
    assert list(generate.loaded_from_outside(site)) == []
    (tmp_path / "a.html").write_text(
        '<a href="https://x.y">z</a><img src="b.png"><script src="https://c.d/e.js"></script>'
        '<link rel="stylesheet" href="//f.g/h.css"><link rel="canonical" href="https://i.j">'
    )
    (tmp_path / "b.css").write_text('@import "https://k.l/m.css"; body { background: url(n.png) }')
    assert list(generate.loaded_from_outside(tmp_path)) == [
        "a.html loads https://c.d/e.js",
        "a.html loads //f.g/h.css",
        "b.css loads https://k.l/m.css",
    ]


def claims() -> Iterator[tuple[str, list[str]]]:
    """Each claim of the page on verdicts, and the files of the tests that it cites."""
    page = (DOCS / "ledger.md").read_text(encoding="utf-8").split("## What each verdict proves, against whom")[1]
    rows = [line for line in page.split("\n## ")[0].splitlines() if line.startswith("| ")][1:]
    for claim, *_, tests in ([cell.strip() for cell in row.strip("|").split("|")] for row in rows):
        yield claim, re.findall(r"`([\w/]+)`", tests)


def test_every_claim_of_the_page_on_verdicts_cites_tests_that_run():
    """In the default suite, each of them; whether they hold is theirs to say."""
    found = dict(claims())
    assert len(found) >= 10
    for claim, names in found.items():
        assert names, claim
        for name in names:
            path = ROOT / "tests" / (f"{name}.py" if "/" in name else f"engine/audit/{name}.py")
            assert path.is_file(), (claim, name)
            assert [test for test in functions_that_test(path) if not is_long(test)], (claim, name)


def functions_that_test(path: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [n for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "pytestmark"], path
    return [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]


def is_long(test: ast.FunctionDef) -> bool:
    return any(ast.unparse(mark) == "pytest.mark.long" for mark in test.decorator_list)


def test_a_page_from_elsewhere_keeps_its_links(generate: Any):
    """To a page of the site where it is one, else to the file."""
    text = "[a](../docs/ledger.md#files) [b](Dockerfile) [c](https://x.y) [d](../contracts/README.md)"
    moved = generate.moved(text, ROOT / "deploy" / "README.md", DOCS / "generated")
    assert moved == "[a](../ledger.md#files) [b](../../deploy/Dockerfile) [c](https://x.y) [d](contracts.md)"
