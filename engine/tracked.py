"""A run under the eyes of MLflow: `run` and `steps` of `experiment`, with curves, scores and files sent on the way."""

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from engine.background import Background
from engine.config import RunConfig, config_hash
from engine.errors import DataError, ReviewPending, Stopped
from engine.experiment import HERE, Place, claim_run, drained, ray_of, run, steps
from engine.files import write_text
from engine.outputs import rounds_done
from engine.result import PICTURE, RESULT, Result
from engine.tracking.curves import params_of, run_note
from engine.tracking.run import RunTracker
from engine.tracking.tracker import Tracker, require_store, start_tracker


class Shown(NamedTuple):
    """How MLflow shows a run.

    Attributes:
        key: by which it is found; `parent` is that of its parent run.
        params: dotted keys that are its parameters; None for those that differ from the defaults.
        final: whether its final scores are sent with the result.
    """

    key: str
    name: str
    tags: dict[str, str]
    parent: str | None = None
    params: tuple[str, ...] | None = None
    final: bool = True


def run_tracked(config: RunConfig, folder: Path, store: Path, place: Place = HERE) -> Result:
    """`run`, with its own MLflow run in the store that `config.tracking` names (or in the folder `store`)."""
    if config.tracking.backend == "none":
        return run(config, folder, place)
    store.mkdir(parents=True, exist_ok=True)
    require_store(config.tracking, store, folder)
    claim_run(folder, config)
    with ray_of(config):
        tracker = start_tracker(config.tracking, store, actor=config.execution.pool == "ray", home=folder)
        key = f"{config_hash(config)[:16]}/{_folder_id(folder)}"  # whatever the folder is called, and wherever it is moved
        try:
            result = drained(track(config, folder, place, tracker, Shown(key, config.name, {})))
        except BaseException:
            tracker.abandon()
            raise
        with contextlib.suppress(Exception):  # what MLflow refused was said already
            tracker.close()
        return result


def track(
    config: RunConfig,
    folder: Path,
    place: Place,
    tracker: Background[Tracker],
    shown: Shown,
    rungs: Sequence[int] = (),
) -> Generator[Result, None, Result]:
    """`steps` under its MLflow run, which is created or found again.

    A run that is closed early or stopped is left open in MLflow, with every round so far.
    """
    following = _open_run(config, folder, tracker, shown)
    try:
        for row in rounds_done(config, folder):  # what an interrupted attempt did not get through
            following.round_summary(row)
        result = yield from steps(config, folder, replace(place, observers=(following, *place.observers)), rungs)
        following.result(result, _shown(folder, result))
        following.end("COMPLETE")
    except (GeneratorExit, Stopped, ReviewPending):
        with contextlib.suppress(Exception):
            tracker.submit(Tracker.flush).result()
        raise
    except BaseException as error:
        tracker.submit(Tracker.tags, shown.key, {"error": f"{type(error).__name__}: {error}"})
        following.end("FAIL")
        raise
    for problem in dict.fromkeys(following.problems):
        place.note(problem)
    return result


def publish(
    config: RunConfig,
    folder: Path,
    tracker: Background[Tracker],
    shown: Shown,
) -> list[str]:
    """Sends what a run that has ended left in its folder; MLflow's run is found again, or made, and holds nothing twice.

    Returns:
        What went wrong, in sentences.
    """
    following = _open_run(config, folder, tracker, shown)
    try:
        for row in rounds_done(config, folder):
            following.round_summary(row)
        if (folder / RESULT).exists():
            result = Result.read(folder, config_hash(config))
            following.result(result, _shown(folder, result))
    except DataError as error:
        following.problems.append(str(error))
    following.settle(wait=True)
    return list(dict.fromkeys(following.problems))


def _shown(folder: Path, result: Result) -> list[Path]:
    """The files of a finished run that MLflow keeps: result, configuration, picture, and the evidence on synthetic beats."""
    evidence = [folder / row.file for row in result.synthesis or () if row.file is not None]
    pictures = [path.with_suffix(".png") for path in evidence]
    files = [folder / name for name in (RESULT, "config.yaml", PICTURE)]
    return [path for path in (*files, *evidence, *pictures) if path.exists()]


def _open_run(
    config: RunConfig,
    folder: Path,
    tracker: Background[Tracker],
    shown: Shown,
) -> RunTracker:
    note = run_note("pulseledger run config.yaml", "config.yaml")
    known = {"config_hash": config_hash(config), "seed": str(config.seed), "folder": folder.name}
    if config.attack.method != "none":
        known["simulated attack"] = config.attack.method
    tags = {**known, "mlflow.note.content": note, **shown.tags}
    params = params_of(config, shown.params)
    tracker.submit(Tracker.open_run, shown.key, shown.name, tags, params, shown.parent)
    return RunTracker(tracker, shown.key, config.federation.method.trains_global, shown.final)


def _folder_id(folder: Path) -> str:
    """A stable id of a run's folder, so that its MLflow run is found again after an interruption."""
    import uuid

    path = folder / ".id"
    if not path.exists():
        write_text(path, uuid.uuid4().hex[:16])
    return path.read_text()
