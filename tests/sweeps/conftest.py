"""A finished study that several test files look at; none of them may change it."""

from pathlib import Path

import pytest
from reference import Heard, settled
from studies import TUNED, study_of

from sweeps.start import start_study


@pytest.fixture(scope="session")
def said() -> Heard:
    """What the driver of `done` said."""
    return Heard()


@pytest.fixture(scope="session")
def done(ray2, said: Heard, tmp_path_factory) -> Path:
    """The folder of a finished study: two conditions, two trials in each, tracked, with ledgers."""
    settled()
    folder = tmp_path_factory.mktemp("studies") / "tiny"
    start_study(study_of(TUNED), folder, said)
    return folder
