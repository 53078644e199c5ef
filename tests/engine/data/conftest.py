"""Shared by the tests of data: records of our own, and refusals in one sentence."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.data import simulate
from engine.data.beats import Beats, load_beats
from engine.data.config import DataConfig
from engine.errors import PulseLedgerError


@pytest.fixture(scope="session")
def refused() -> Callable[[Callable[[], object]], str]:
    """The message with which some work is refused: one sentence on one line."""

    def message_of(work: Callable[[], object]) -> str:
        with pytest.raises(PulseLedgerError) as caught:
            work()
        message = str(caught.value)
        assert message.endswith((".", "?"))
        assert len(message.splitlines()) == 1
        assert caught.value.__cause__ is None
        return message

    return message_of


@pytest.fixture(scope="session")
def settings_of() -> Callable[..., DataConfig]:
    """Settings of a folder: windows of 252 samples, and any key."""

    def build(folder: Path, **settings: Any) -> DataConfig:
        return DataConfig(**{"source": "folder", "folder": str(folder), "window": (90, 162), **settings})

    return build


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two simulated records, s001 and s002, of 12,960 samples; tests that damage them take a copy."""
    folder = tmp_path_factory.mktemp("pair") / "records"
    simulate.write_records(folder, 2, seed=0, minutes=0.6)
    return folder


@pytest.fixture
def folder(pair: Path, tmp_path: Path) -> Path:
    """A copy of `pair`."""
    return Path(shutil.copytree(pair, tmp_path / "records"))


@pytest.fixture(scope="session")
def real(mitdb: Path) -> Beats:
    """All 48 real records with windows so short that no beat is lost at an edge."""
    return load_beats(DataConfig(source="mitdb", folder=str(mitdb), window=(2, 2), normalise="none", rr_features=False))
