"""Finished runs of which several files change copies; nobody changes these themselves."""

import shutil
from pathlib import Path

import pytest
from finished import challenge, finish
from simulators import Run


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that a journal can hold."""
    return finish(Run(tmp_path_factory.mktemp("run")), full=True)


@pytest.fixture(scope="session")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with rounds and nothing else."""
    return finish(Run(tmp_path_factory.mktemp("simple")))


@pytest.fixture(scope="session")
def challenged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose updates were challenged when it had ended: of hospital 1, which is innocent, and of 2, which is silent."""
    run = Run(tmp_path_factory.mktemp("challenged"), hospitals=4)
    return finish(run, after=lambda ledger: challenge(run, ledger))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.fixture
def plain(simple: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(simple, tmp_path / "plain"))
