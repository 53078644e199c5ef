"""Own parts: names, sources and their digests, copies in folders, and what is told of one that is wrong."""

from pathlib import Path

import pytest

from engine.errors import ConfigError, DataError, PulseLedgerError
from engine.own.call import OwnPartError, make
from engine.own.reference import digests, is_own, looks_own, named, pinned, reference, titled
from engine.own.source import FOLDER, hold, known, of_file, of_module
from engine.settings import Section

BUILT = "def part(*, mu=1):\n    return mu\n"


def written(folder: Path, **files: str) -> Path:
    """Writes NAME.py files; returns the first."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder / f"{next(iter(files))}.py"


def made(path: Path, name: str = "part", **parameters: object) -> object:
    return make("a part", pinned(f"{path}:{name}"), {}, parameters)


def test_a_configuration_keeps_file_name_and_digest_but_no_folder(tmp_path: Path):
    one, two = (pinned(f"{written(tmp_path / place, part=BUILT)}:part") for place in ("a", "b with 'quotes\" in"))
    assert one == two
    own = reference(one)
    assert own is not None
    assert (own.entry, own.name, own.title) == ("part.py", "part", "part.py:part")
    assert titled(one) == f"part.py:part@{own.digest[:8]}"
    assert titled(0.5) == "0.5"
    assert pinned(one) == one
    assert named({"a": [1, {"b": one}], "c": "fedavg"}) == [own]


def test_what_is_built_in_is_no_own_part():
    for word in ("fedavg", "record-dirichlet", "", "a:b:c", 3, None):
        assert not is_own(word)
        assert not looks_own(word)
    assert looks_own("x.py:f")
    assert looks_own("x.py")
    assert looks_own("package.module:f")


def test_every_byte_and_name_of_every_file_is_in_the_digest(tmp_path: Path):
    texts = {"part": "from helper import two\ndef part():\n    return two\n", "helper": "two = 2\n"}
    before = of_file(written(tmp_path, **texts))
    assert [name for name, _ in before.files] == ["helper.py", "part.py"]
    written(tmp_path, helper="two = 3\n")
    assert of_file(tmp_path / "part.py").digest != before.digest
    written(tmp_path, helper="two = 2\n", unread="two = 4\n")
    assert of_file(tmp_path / "part.py").digest == before.digest


def test_two_files_of_one_name_with_helpers_of_one_name_do_not_meet(tmp_path: Path):
    parts = []
    for n in (1, 2):
        text = "import helper\ndef part():\n    import helper as late\n    return helper.number, late.number\n"
        parts.append(written(tmp_path / str(n), part=text, helper=f"number = {n}\n"))
    assert [made(path) for path in parts] == [(1, 1), (2, 2)]


def test_a_helper_may_be_a_package_and_import_its_neighbours(tmp_path: Path):
    path = written(tmp_path, part="from tools.a import one\ndef part():\n    return one()\n")
    written(
        tmp_path / "tools",
        __init__="",
        a="from . import b\nfrom .b import number\ndef one():\n    return b.number + number\n",
    )
    written(tmp_path / "tools", b="import math\nnumber = math.floor(1.5)\n")
    assert made(path) == 2
    assert len(of_file(path).files) == 4


def test_a_module_on_the_path_is_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written(tmp_path / "pulsetestpackage", __init__="raise RuntimeError('imported')\n", rules=BUILT)
    monkeypatch.syspath_prepend(tmp_path)
    assert [name for name, _ in of_module("pulsetestpackage.rules").files] == [
        "pulsetestpackage/__init__.py",
        "pulsetestpackage/rules.py",
    ]
    with pytest.raises(
        ConfigError, match=r"pulsetestpackage.rules:part: RuntimeError: imported \(__init__.py, line 1\)"
    ):
        make("a part", pinned("pulsetestpackage.rules:part"), {}, {})
    with pytest.raises(ConfigError, match="package pulsetestpackage has no such module"):
        of_module("pulsetestpackage.missing")


@pytest.mark.parametrize(
    ("text", "sentence"),
    {
        "def f(:\n": r"x.py, line 1: is no Python \(invalid syntax\)",
        "import nowhere_at_all\n": r"ModuleNotFoundError: No module named 'nowhere_at_all' \(x.py, line 1\)",
        "def parts(): pass\n": r"has no part \(did you mean parts\?\); it has parts",
        "part = 3\n": "is an int, not a function or class that makes a part",
        "def part(**more): pass\n": r"takes any parameter \(\*\*\), so a misspelt one would be dropped",
        "def part(*, mut=1): pass\n": r"has no parameter mu \(did you mean mut\?\); its parameters are mut",
        "def part(mu, nu): pass\n": "missing a required argument: 'nu'",
        "from builtins import max as part\n": "does not say what it takes",
        "import sys\ndef part(mu): sys.exit(0)\n": r"SystemExit: 0 \(x.py, line 2\)",
        "class part:\n    def __init__(self, mu):\n        self.mu = mu.missing\n": r"AttributeError.*\(x.py, line 3\)",
        "from json import loads\n": "json is json.py beside it, and an installed module, too",
    }.items(),
)
def test_what_is_wrong_is_one_sentence_that_names_the_file(text: str, sentence: str, tmp_path: Path):
    written(tmp_path, x=text, json="loads = 1\n")
    with pytest.raises(PulseLedgerError, match=sentence) as caught:
        made(tmp_path / "x.py", mu=1)
    assert "x.py" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_classes_and_lambdas_are_parts_too(tmp_path: Path):
    path = written(tmp_path, x="class part:\n    def __init__(self, *, mu): self.mu = mu\nshort = lambda mu=2: mu\n")
    assert made(path, mu=3).mu == 3  # type: ignore[attr-defined]
    assert made(path, "short") == 2


def test_a_part_of_the_wrong_kind_is_refused(tmp_path: Path):
    with pytest.raises(OwnPartError, match=r"part.py:part: made an int, a part is a str"):
        make("a part", pinned(f"{written(tmp_path, part=BUILT)}:part"), {}, {}, str)


class _Named(Section):
    part: str


def test_a_folder_keeps_the_source_and_refuses_an_edited_copy(tmp_path: Path):
    text = pinned(f"{written(tmp_path / 'mine', part='import helper' + chr(10) + BUILT, helper='')}:part")
    (digest,) = digests(_Named(part=text))
    folder = tmp_path / "run"
    hold(folder, [digest])
    hold(folder, [digest])
    copy = folder / FOLDER / digest / "part.py"
    assert copy.read_text().endswith(BUILT)
    assert known(digest).origin == str(copy.parent)
    copy.write_text(BUILT + "# longer\n")
    with pytest.raises(DataError, match=r"this own part \(helper.py, part.py\) was edited"):
        hold(folder, [digest])
    copy.unlink()
    with pytest.raises(DataError, match="was edited"):
        hold(folder, [digest])


def test_a_digest_of_nobody_is_not_guessed(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"own part \(digest 0{12}\) is not at hand"):
        hold(tmp_path, [64 * "0"])
