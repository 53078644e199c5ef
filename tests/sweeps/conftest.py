"""Finished studies that several test files look at; none of them may change one."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial
from reference import Heard, settled
from simulated_ray import simulated
from studies import AGREED, SEEN, TUNED, study_of

from sweeps import Study
from sweeps.folder import read_study, repeat_folder, trial_folder
from sweeps.queue import open_studies
from sweeps.start import start_study
from sweeps.storage import driver_storage


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


@pytest.fixture(scope="session")
def ended(tmp_path_factory) -> Path:
    """The same study, for those who only read: made without Ray."""
    folder = tmp_path_factory.mktemp("ended") / "tiny"
    start_study(study_of({**TUNED, "execution": {"cpus": 2, "pool": "inprocess"}}), folder, Heard(), means=simulated())
    return folder


@pytest.fixture(scope="session")
def seen(tmp_path_factory) -> Study:
    """Two conditions, in each a baseline and a trial, two repeats; neither ledger nor MLflow."""
    folder = tmp_path_factory.mktemp("seen") / "study"
    start_study(study_of(SEEN), folder, Heard(), means=simulated())
    return Study(folder)


@pytest.fixture(scope="session")
def agreed(tmp_path_factory) -> Path:
    """Two complete trials of two repeats and a pruned one, with everything that tells of them: ledgers, Optuna, MLflow."""
    folder = tmp_path_factory.mktemp("agreed") / "study"
    start_study(study_of(AGREED), folder, Heard(), means=simulated())
    return folder


ENDINGS: dict[str, dict[str, Any]] = {  # as the driver notes them
    "PRUNED": {"pruned": 2, "reason": "pruned at round 2"},
    "FAIL": {
        "reason": "HospitalError: hospital 1, round 2, train: ValueError: boom",
        "error": {"hospital": 1, "round": 2, "stage": "train", "traceback": "Traceback ..."},
    },
}


@pytest.fixture(scope="session")
def marked(seen: Study, tmp_path_factory) -> Path:
    """A copy of the study in which one trial is pruned, one has failed, and one breaks a constraint."""
    folder = Path(shutil.copytree(seen.folder, tmp_path_factory.mktemp("marked") / "study"))
    study = read_study(folder)
    with driver_storage(study, folder, print) as storage:
        (first, _), _ = open_studies(study, folder, storage)
        template = first.get_trials()[-1].user_attrs
        for number, state in ((10, "PRUNED"), (11, "FAIL"), (12, "COMPLETE")):
            shutil.copytree(trial_folder(folder, template["trial"]), trial_folder(folder, number))
            attributes = {**template, "trial": number, "keys": {"mu": float(number)}, **ENDINGS.get(state, {})}
            complete = state == "COMPLETE"
            trial = create_trial(state=TrialState[state], values=[2.0] if complete else None, user_attrs=attributes)
            if complete:
                trial.set_constraint("ledger/overhead_share", 0.25)
            else:
                for repeat in (0, 1):
                    (repeat_folder(trial_folder(folder, number), repeat) / "result.json").unlink()
            first.add_trial(trial)
    return folder
