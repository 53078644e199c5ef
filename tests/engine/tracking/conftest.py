"""An MLflow store in a folder, and someone who looks at what is in it."""

from pathlib import Path
from typing import Any

import pytest

from engine.tracking.store import mlflow_client

EXPERIMENT = "pulseledger"


class Look:
    """What an MLflow store holds, read with MLflow's own client."""

    def __init__(self, uri: str) -> None:
        self.uri, self.client = uri, mlflow_client(uri)

    def runs(self, wanted: str = "", experiment: str = EXPERIMENT) -> list[Any]:
        """The runs of an experiment that a filter finds."""
        return self.client.search_runs([self.client.get_experiment_by_name(experiment).experiment_id], wanted)

    def called(self, pattern: str) -> Any:
        """The only run whose folder is called so."""
        (run,) = self.runs(f"tags.folder LIKE '{pattern}'")
        return run

    def by_key(self, key: str) -> Any:
        """The only run of a key."""
        (run,) = self.runs(f"tags.`pulseledger.key` = '{key}'")
        return run

    def points(self, run: Any, metric: str) -> list[Any]:
        return self.client.get_metric_history(run.info.run_id, metric)

    def steps(self, run: Any, metric: str) -> list[int]:
        return [point.step for point in self.points(run, metric)]

    def files(self, run: Any) -> set[str]:
        return {each.path for each in self.client.list_artifacts(run.info.run_id)}


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `mlflow.db` is a store with an empty experiment: to make its tables takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    mlflow_client(address(folder)).create_experiment(EXPERIMENT, artifact_location=(folder / "artifacts").as_uri())
    return folder


@pytest.fixture(scope="package")
def look(store: Path) -> Look:
    return Look(address(store))


@pytest.fixture(scope="session")
def look_at() -> type[Look]:
    """Looks at another store."""
    return Look


def address(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"
