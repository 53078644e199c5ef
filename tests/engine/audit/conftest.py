"""Folders of finished runs, and copies of them to change."""

import shutil
from pathlib import Path

import pytest
from finished import finish
from simulators import Run


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(Run(tmp_path_factory.mktemp("run")), full=True)


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(Run(tmp_path_factory.mktemp("simple")))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.fixture
def plain(simple: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(simple, tmp_path / "plain"))
