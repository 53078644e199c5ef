"""Small studies, and what several tests ask of them."""

from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from optuna.trial import TrialState
from reference import TINY

from engine.experiment import run
from engine.homes import claim
from engine.result import SyntheticRow
from engine.settings import dump_yaml, set_key
from engine.synthesis.files import FOLDER
from engine.synthesis.reviews import Requests
from sweeps.checks import load_study
from sweeps.folder import STUDY_FILE, WRITTEN, error_file, read_study, read_trials, repeat_folder, trial_folder
from sweeps.queue import open_studies
from sweeps.space import StudyConfig, conditions, resolve
from sweeps.storage import driver_storage
from sweeps.stored import StoredTrial

ROUNDS = 8


def nested(keys: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys as sections."""
    values: dict[str, Any] = {}
    for key, value in keys.items():
        set_key(values, key, value)
    return values


# Trials of seconds, without ledger and MLflow.
BASE: dict[str, Any] = {
    **nested({key: value for key, value in TINY.items() if key.startswith(("data.", "model."))}),
    "name": "tiny",
    "federation": {"rounds": ROUNDS, "local_epochs": 3},
    "ledger": {"backend": "none"},
    "tracking": {"backend": "none"},
    "execution": {"cpus": 2, "hospitals_per_actor": 3},
}
# The same without processes of hospitals.
ALONE: dict[str, Any] = {**BASE, "execution": {"cpus": 2, "pool": "inprocess"}}
# Two conditions, two trials in each, with both.
TUNED: dict[str, Any] = {
    **BASE,
    "execution": {"cpus": 2},
    "ledger": {"backend": "embedded"},
    "tracking": {"backend": "mlflow"},
    "conditions": {"cohort.hospitals": [2, 3]},
    "search": {"federation.learning_rate": {"log_uniform": [0.01, 0.1]}},
    "sampler": "random",
    "trials": 4,
}
# Two conditions, in each a baseline and a trial, two repeats.
SEEN: dict[str, Any] = {
    **ALONE,
    "name": "seen",
    "federation": {"rounds": 2},
    "conditions": {"cohort.hospitals": [2, 3]},
    "baselines": [{"federation.algorithm": "local"}],
    "search": {"federation.learning_rate": {"choice": [0.1]}},
    "sampler": "grid",
    "repeats": 2,
}

# Two complete trials of two repeats, and a pruned one, with a constraint.
AGREED: dict[str, Any] = {
    **ALONE,
    "name": "agreed",
    "federation": {"rounds": 4, "local_epochs": 3},
    "ledger": {"backend": "embedded"},
    "tracking": {"backend": "mlflow", "models": "none"},
    "search": {"federation.learning_rate": {"log_uniform": [1e-5, 0.1]}},
    "design": [{"federation.learning_rate": rate} for rate in (0.05, 0.04, 1e-5)],
    "constraints": {"validation/personal/accuracy": ">= 0.1"},
    "pruner": {"method": "rungs", "first": 2, "factor": 2, "n_startup_trials": 0},
    "sampler": "random",
    "trials": 3,
    "repeats": 2,
}


def study_of(values: dict[str, Any], **keys: Any) -> StudyConfig:
    """A checked study."""
    return load_study({**values, **keys}, "test")


def trials_of(folder: Path) -> list[StoredTrial]:
    """All trials of a study that have begun, by their number."""
    return read_trials(read_study(folder), folder)


def outcome(folder: Path) -> list[Any]:
    """What has to be the same however often a study was interrupted."""
    return [(t.number, t.condition, t.frozen.params, t.state, t.values) for t in trials_of(folder)]


def store_of(done: Path, experiment: str) -> dict[str, str]:
    """An experiment of its own in the store of `done`; a model of its best trial is there, and to export one takes seconds."""
    uri = f"sqlite:///{done / 'mlflow.db'}"
    return {"backend": "mlflow", "uri": uri, "experiment": experiment, "models": "none"}


def runs_of(done: Path, experiment: str) -> tuple[MlflowClient, list[Any]]:
    """All runs of an experiment in the store of `done`."""
    client = MlflowClient(f"sqlite:///{done / 'mlflow.db'}")
    return client, client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def write_study(folder: Path, values: dict[str, Any], points: list[dict[str, Any]]) -> StudyConfig:
    """A study in each of whose conditions the baselines and then `points` have run, in this process and without Ray.

    A point is what was tuned; "state" in it ends the trial otherwise than COMPLETE, "error" is then its reason;
    "attributes" are what the driver would have noted, "broken" the constraints that a complete one breaks.
    """
    study = load_study(values, "test")
    claim(folder, "study", WRITTEN)
    (folder / STUDY_FILE).write_text(dump_yaml(study))
    number = 0
    places = conditions(study)
    with driver_storage(study, folder, print) as storage:
        for opened, condition, given in (
            (opened, condition, given)
            for opened, one in open_studies(study, folder, storage)
            for condition in ([one] if one is not None else places)
            for given in [*study.baselines, *points]
        ):
            keys = {k: v for k, v in given.items() if k not in ("state", "error", "attributes", "broken")}
            tuned = given not in study.baselines
            place = {"condition": condition.label} if study.joint else {}
            opened.enqueue_trial({**place, **(keys if tuned else {})}, {} if tuned else {"baseline": keys})
            asked = opened.ask()
            if study.joint:
                asked.suggest_categorical("condition", [place.label for place in places])
            for key, value in keys.items() if tuned else ():
                match study.search[key]:
                    case {"choice": choices}:
                        asked.suggest_categorical(key, choices)
                    case {"log_uniform": (low, high)}:
                        assert asked.suggest_float(key, low, high, log=True) == value
            configs = [resolve(study, condition, keys, r) for r in range(study.repeats)]
            attributes = {"trial": number, "condition": condition.label, "keys": keys, **given.get("attributes", {})}
            for name, attribute in attributes.items():
                asked.set_user_attr(name, attribute)
            asked.set_user_attr("config", [c.model_dump(mode="json") for c in configs])
            home = trial_folder(folder, number)
            home.mkdir(parents=True)
            number += 1
            if "state" in given:
                error_file(folder, number - 1).write_text(given.get("error", "") + "\n\nTraceback")
                if given["state"] != "RUNNING":
                    opened.tell(asked.number, state=TrialState[given["state"]])
                continue
            results = [run(c, repeat_folder(home, r)) for r, c in enumerate(configs)]
            for name, violation in given.get("broken", {}).items():
                asked.set_constraint(name, violation)
            values_ = [float(np.mean([r.score(name) or 0.0 for r in results])) for name in study.objectives]
            opened.tell(asked.number, values_)
    return study


def parked(run: Path, request: str = "ab" * 32) -> None:
    """Writes into a run's folder that one request for synthetic beats waits for a reviewer."""
    row = SyntheticRow(
        request=request,
        hospital=1,
        class_="S",
        generator="smote",
        wanted=5,
        real_floor=10,
        allowed=5,
        granted=0,
        accepted=0,
        status="pending",
        reasons="",
        preview=None,
        blind=False,
        numbers=None,
        batch=None,
        evidence=None,
        file=None,
        organisation="",
        record="{}",
    )
    (run / FOLDER).mkdir(exist_ok=True)
    Requests(
        settled=False,
        federation="",
        chain_id=0,
        contract="",
        keys="seed",
        seed=0,
        policy={"mode": "human"},
        reviewers={},
        requests=(row,),
    ).write(run)
