"""Who and what made a result."""

import subprocess
import sys
from pathlib import Path

import pytest
from reference import ROOT

from engine import __version__
from engine.provenance import provenance


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one committed file and a remote whose address holds a password."""
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first")
    git(tmp_path, "remote", "add", "origin", "https://user:sec@ret@host/some/where.git")
    return tmp_path


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_a_file_of_a_repository_has_its_commit_and_no_password(repository: Path):
    made = provenance(repository / "code.py")
    assert made.commit == git(repository, "rev-parse", "HEAD")
    assert (made.branch, made.changed, made.version) == ("main", False, __version__)
    assert made.url == "https://host/some/where.git"


def test_a_change_that_is_not_committed_is_told(repository: Path):
    (repository / "other.py").write_text("y = 2\n")
    assert provenance(repository / "code.py").changed is True


def test_a_package_inside_a_foreign_repository_does_not_take_its_commit(repository: Path):
    installed = repository / "venv" / "lib" / "code.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("x = 1\n")
    made = provenance(installed)
    assert (made.commit, made.branch, made.url, made.changed) == ("", "", "", None)


def test_without_a_repository_there_is_no_commit(tmp_path: Path):
    (tmp_path / "code.py").write_text("")
    assert provenance(tmp_path / "code.py").commit == ""


@pytest.mark.parametrize(("place", "told"), [("", True), ("lib/site-packages", False)])
def test_a_committed_copy_of_the_package_is_no_checkout_of_it(place: str, told: bool, repository: Path):
    """Somebody who keeps his installed packages in his own repository: only at its top is it ours."""
    copy = repository / place / "engine"
    copy.mkdir(parents=True)
    for name in ("__init__.py", "provenance.py"):
        (copy / name).write_text((ROOT / "engine" / name).read_text())
    git(repository, "add", ".")
    git(repository, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "second")
    code = "from engine.provenance import provenance; print(provenance().commit)"
    done = subprocess.run([sys.executable, "-c", code], cwd=copy.parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (git(repository, "rev-parse", "HEAD") if told else "")
