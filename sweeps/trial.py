"""One trial: a runner actor inside the trial's placement group, which makes its hospitals there."""

from pathlib import Path
from typing import Any

from engine.background import Background
from engine.config import RunConfig
from engine.experiment import Place, run, track

RUNNER_CPU = 0.1  # of a trial's CPUs; the hospitals divide the rest


class TrialRunner:
    """The Ray actor that runs a trial's repeats one after another."""

    def run(self, order: dict[str, Any], tracker: Background | None) -> list[dict[str, Any]]:
        """Runs all repeats; each goes on where an earlier attempt left off.

        Args:
            order: configs (one for each repeat), folder, attempt, key, name, tags, parent of the MLflow run.

        Returns:
            The result of each repeat, cut down to what the driver needs.
        """
        results = []
        for repeat, values in enumerate(order["configs"]):
            config = RunConfig.model_validate(values)
            folder = repeat_folder(Path(order["folder"]), repeat)
            place = Place(attempt=order["attempt"])
            if tracker is not None and repeat == 0:
                # MLflow has one run for each trial: the first repeat's curves; the driver adds mean and spread
                named = (order["key"], order["name"], order["tags"], order["parent"])
                results.append(track(config, folder, place, tracker, *named))
            else:
                results.append(run(config, folder, place))
        return [
            {k: result[k] for k in ("validation", "final", "ledger", "timing", "config_hash")} for result in results
        ]


def repeat_folder(trial: Path, repeat: int) -> Path:
    """Where one repeat of a trial writes."""
    return trial / f"seed-{repeat}"
