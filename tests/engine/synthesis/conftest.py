"""One run with accepted beats, which several tests look at."""

from collections.abc import Callable
from pathlib import Path

import pytest
from governed import SMOTE

from engine.config import RunConfig
from engine.experiment import run
from engine.result import Result


@pytest.fixture(scope="session")
def done(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A run with a ledger whose policy decides alone. Nobody writes into its folder."""
    folder = tmp_path_factory.mktemp("governed")
    return folder, run(tiny_config(**SMOTE), folder)
