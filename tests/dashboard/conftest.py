"""What the dashboard shows in its tests: a small study, a run with everything in its ledger, and one that waits."""

from pathlib import Path
from typing import Any

import pytest
from finished import finish
from simulators import Run
from studies import ALONE, write_study

STUDY: dict[str, Any] = {
    **ALONE,
    "name": "small",
    "federation": {"rounds": 2, "local_epochs": 1},
    "personalisation": {"steps": 1},
    "conditions": {"cohort.hospitals": [2, 3]},
    "baselines": [{"federation.algorithm": "local"}],
    "search": {"federation.learning_rate": {"log_uniform": [1e-5, 0.1]}},
    "sampler": "random",
    "trials": 8,
}
BOOM = "HospitalError: <b>boom</b>"


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one study: in each of two conditions local-only, FedAvg, one that failed and one under way."""
    folder = tmp_path_factory.mktemp("dashboard") / "home"
    failed = {"federation.learning_rate": 0.02, "state": "FAIL", "error": BOOM}
    running = {"federation.learning_rate": 0.03, "state": "RUNNING"}
    (folder / "small").mkdir(parents=True)
    write_study(folder / "small", STUDY, [{"federation.learning_rate": 0.05}, failed, running])
    return folder


@pytest.fixture(scope="session")
def ledgered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose journal has a row in every table."""
    folder = tmp_path_factory.mktemp("ledgered") / "home"
    finish(Run(folder / "full"), full=True)
    return folder
