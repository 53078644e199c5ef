"""What the program is made of: the bill of materials, licences, the lock file, secrets in tracked files, static analysis."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from reference import ROOT

from engine.errors import DataError
from sweeps.__main__ import main
from sweeps.supply import ALLOWED, Component, bom, components, licence, refused

LOCK = ROOT / "deploy/requirements.lock"


class Package:
    """An installed package, as `importlib.metadata` shows it."""

    def __init__(
        self, version: str = "1", requires: tuple[str, ...] = (), files: dict[str, Path] | None = None, **said: Any
    ):
        self.version, self.requires = version, list(requires)
        self.metadata = Message()
        for name, value in said.items():
            for one in value if isinstance(value, list) else [value]:
                self.metadata[name.replace("_", "-")] = one
        self.files = [File(name, path) for name, path in (files or {}).items()]


class File(PurePosixPath):
    """A file of a package, which lies elsewhere."""

    def __new__(cls, name: str, path: Path):
        made = super().__new__(cls, name)
        made._path = path
        return made

    def locate(self) -> Path:
        return self._path


def found(packages: dict[str, Package]) -> Any:
    def find(name: str) -> Package:
        if name not in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return packages[name]

    return find


def test_every_package_that_is_needed_is_listed_once_with_what_it_needs():
    packages = {
        "a": Package("1", ("B_b>=2", 'c; extra == "x"', 'd; python_version < "3"'), License_Expression="MIT"),
        "b-b": Package("2", ("c[y]", "a")),
        "c": Package("3", ('e; extra == "y"',), Provides_Extra="y"),
        "e": Package("4"),
    }
    parts = components("a", found(packages))
    assert [(one.name, one.version, one.needs) for one in parts] == [
        ("a", "1", ("b-b",)),
        ("b-b", "2", ("a", "c")),
        ("c", "3", ("e",)),
        ("e", "4", ()),
    ]
    document = bom(parts)
    assert document["dependencies"][1] == {"ref": "pkg:pypi/b-b@2", "dependsOn": ["pkg:pypi/a@1", "pkg:pypi/c@3"]}
    assert document["metadata"]["component"]["licenses"] == [{"expression": "MIT"}]
    assert bom(components("a", found(packages))) == document
    del packages["e"]
    with pytest.raises(DataError, match="e: is needed by a, but is not installed"):
        components("a", found(packages))
    with pytest.raises(DataError, match="a: has no extra z"):
        components("a[z]", found(packages))


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        (Package(License_Expression="MIT OR Apache-2.0", License="x"), "MIT OR Apache-2.0"),
        (Package(Classifier=["License :: OSI Approved :: MIT License", "Topic :: X"]), "MIT"),
        (Package(Classifier="License :: OSI Approved :: GNU General Public License v3 (GPLv3)"), ""),
        (Package(License="BSD 3-Clause License"), "BSD-3-Clause"),
        (Package(License="see the file"), ""),
        (Package(), ""),
    ],
)
def test_a_licence_is_what_the_metadata_says_or_unknown(package, expected):
    assert licence(package) == expected


def test_a_licence_file_says_it_where_the_metadata_does_not(tmp_path):
    (tmp_path / "text").write_text(
        "Copyright X\n\nPermission is hereby granted, free of charge, to any person obtaining a copy of"
    )
    assert licence(Package(files={"LICENSE": tmp_path / "text"})) == "MIT"
    assert licence(Package(files={"README": tmp_path / "text"})) == ""


def test_licences_that_reach_what_is_combined_with_them_are_refused():
    said = {
        "a": "GPL-3.0-only",
        "b": "",
        "c": "MIT AND AGPL-3.0-only",
        "d": "GPL-2.0-only OR MIT",
        "e": "Apache-2.0 WITH LLVM-exception",
        "f": "(MIT OR GPL-3.0-only) AND MPL-2.0",
    }
    parts = [Component(name, "1", expression, ()) for name, expression in said.items()]
    assert set(refused(parts)) == {"a", "b", "c"}
    assert not {one for one in ALLOWED if one.startswith(("GPL", "AGPL"))}


def test_what_is_installed_here_goes_with_our_licence(tmp_path, capsys):
    assert main(["sbom", "--out", str(tmp_path / "bom.json")]) == 0
    text = (tmp_path / "bom.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.replace('"library"', '"book"', 1)) is not None
    document = json.loads(text)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    names = {one["name"] for one in document["components"]}
    assert {"ray", "torch", "numpy", "mlflow", "optuna", "web3"} <= names
    assert len(names) == len(document["components"])
    references = {one["bom-ref"] for one in document["components"]} | {document["metadata"]["component"]["bom-ref"]}
    for row in document["dependencies"]:
        assert {row["ref"], *row["dependsOn"]} <= references
    assert all(one["licenses"] for one in document["components"])


def locked() -> dict[str, str]:
    rows = [line.split() for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", mark) for _, mark in rows)
    return dict(pin.split("==") for pin, _ in rows)


def test_the_lock_file_has_a_version_that_we_allow_of_everything_that_we_ask_for():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = locked()
    for text in (*project["dependencies"], *project["optional-dependencies"]["postgres"]):
        one = Requirement(text)
        version = pins[str(canonicalize_name(one.name))]
        assert one.specifier.contains(version, prereleases=True), text
    assert len(pins) > 100


SECRETS = (
    re.compile(r"-----BEGIN (RSA |EC |OPENSSH |ENCRYPTED )?PRIVATE KEY-----\s*\n[A-Za-z0-9+/=]{40}"),
    re.compile(r"\b(ghp|gho|ghs|github_pat)_[A-Za-z0-9]{30,}"),
    re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    re.compile(r"\bxox[abpr]-[A-Za-z0-9-]{20,}"),
    re.compile(r"\bsk-[A-Za-z0-9]{32,}"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{20,}\.eyJ[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}"),
    re.compile(r"://[^/\s:@'\"{}<>$]+:[^/\s:@'\"{}<>$]{12,}@[a-z0-9.-]+\.[a-z]{2,}"),
)


def leaks(text: str) -> list[str]:
    return [match[0][:40] for pattern in SECRETS for match in pattern.finditer(text)]


def test_secrets_are_found_where_there_are_some():
    key = "-----BEGIN PRIVATE " + "KEY-----\n" + "A" * 48
    token = "ghp_" + "a1" * 18
    url = "postgresql://u:" + "longenoughpassword" + "@db.example.org/x"
    assert [len(leaks(text)) for text in (key, token, url, "nothing here", "https://HOST:PORT/x@y.z")] == [
        1,
        1,
        1,
        0,
        0,
    ]


@pytest.mark.long
def test_no_tracked_file_holds_a_secret():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = {}
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.is_file() and path.stat().st_size < 1 << 22:
            text = path.read_bytes().decode("utf-8", errors="ignore")
            if there := leaks(text):
                found[name] = there
    assert listed
    assert found == {}


@pytest.mark.long
def test_slither_finds_nothing_in_the_contracts():
    own = ROOT / "contracts/.venv/bin/slither"
    command = str(own) if own.exists() else shutil.which("slither")
    if command is None or not (ROOT / "contracts/node_modules").is_dir():
        pytest.skip("slither or the contracts' packages are not installed: `make slither` does both.")
    found = {**os.environ, "PATH": f"{Path(command).parent}{os.pathsep}{os.environ['PATH']}"}
    words = ["npm", "run", "slither"]
    done = subprocess.run(words, cwd=ROOT / "contracts", capture_output=True, text=True, timeout=280, env=found)
    assert done.returncode == 0, done.stdout + done.stderr
