"""Shared by all tests: a cache of their own, the real records where they are, a small simulated federation."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.config import DataConfig, RunConfig, parse, set_key

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for this session, also for processes that it starts; the user's is never touched."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PULSELEDGER_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def mitdb() -> Path:
    """The folder of the real MIT-BIH records; tests that ask for it are skipped where there is none."""
    place = Path(os.environ.get("PULSELEDGER_DATA") or ROOT / "../shared/data/mitdb").resolve()
    for folder in (place, place / "mitdb"):
        if (folder / "100.hea").is_file():
            return folder
    pytest.skip(f"The MIT-BIH records are not in {place}; set PULSELEDGER_DATA to a folder that holds them.")


@pytest.fixture(scope="session")
def simulated() -> DataConfig:
    """Six simulated patients of two minutes, cut into windows of 252 samples."""
    return DataConfig(window=(90, 162), simulated={"patients": 6, "minutes": 2.0})


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., RunConfig]:
    """Makes a run of seconds: `tiny_config(**{"cohort.hospitals": 2})` changes any dotted key."""

    def build(**changes: Any) -> RunConfig:
        values: dict[str, Any] = {}
        settings = {
            "data.window": [90, 162],
            "data.simulated.patients": 6,
            "data.simulated.minutes": 1.5,
            "cohort.hospitals": 3,
            "model.channels": [8, 8, 16],
            "model.hidden": 16,
            "federation.rounds": 2,
            "ledger.backend": "none",
            "tracking.backend": "none",
            "execution.pool": "inprocess",
            **changes,
        }
        for key, value in settings.items():
            set_key(values, key, value)
        return parse(RunConfig, values, "tiny_config")

    return build
