"""The state of the loop after a round, in one file that appears whole or not at all."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from engine.errors import DataError, StudyError
from engine.files import whole
from engine.messages import Job, LoopState, Measured, Tally, Timeline
from engine.result import RoundSummary, read_rounds

NAME = "checkpoint.safetensors"


def save(
    folder: Path,
    state: LoopState,
    config_hash: str,
    ledger_entries: Sequence[Any] = (),
    attempt: int = 0,
    data: str = "",
) -> None:
    """Writes the checkpoint of a run's folder.

    Args:
        ledger_entries: rounds, as JSON values, that the ledger may not have written yet.
        attempt: number of this attempt at the run; see `fence`.
        data: digest of the beats that the run is trained on.

    Raises:
        StudyError: a newer attempt has taken over this folder.
        DataError: the disk is full.
    """
    fence(folder, attempt)
    tensors = {"params": state.params}
    tensors |= {f"server/{name}": array for name, array in state.server.items()}
    for hospital, own in state.states.items():
        tensors |= {f"state/{hospital}/{name}": array for name, array in own.items()}
    tensors |= {f"older/{number}": params for number, params in state.older.items()}
    tensors |= _measured_to_tensors(state.measured)
    history = [row.document() for row in state.history]
    meta = {"round": state.round, "history": history, "config_hash": config_hash, "ledger": list(ledger_entries)}
    meta["data"] = data
    meta["models"] = {str(number): _digest(params) for number, params in state.older.items()}
    meta["timeline"] = _timeline_to_json(state.timeline)
    with whole(folder / NAME, mode=0o600) as part:  # rounds that wait for the ledger have their openings in it
        save_file(tensors, part, {"state": json.dumps(meta)})


def load(folder: Path, config_hash: str, data: str | None = None) -> tuple[LoopState, list[Any]] | None:
    """The state and the ledger entries of a run's folder, or None when there is no checkpoint.

    Args:
        data: digest of the beats that it must have been trained on; None: any.

    Raises:
        DataError: the file is damaged, of another configuration, or of other data.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, "numpy") as file:
            meta = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: is not a readable checkpoint ({error}).") from None
    if meta["config_hash"] != config_hash:
        raise DataError(
            f"{path}: belongs to another configuration ({meta['config_hash'][:12]}, not {config_hash[:12]})."
        )
    if data is not None and meta.get("data") != data:
        raise DataError(
            f"{path}: was trained on other data (beats {str(meta.get('data'))[:12]}, now {data[:12]}): the records have "
            "changed since; put them back, or begin in another folder."
        )
    states: dict[int, dict[str, Any]] = {}
    for name, array in tensors.items():
        if name.startswith("state/"):
            _, hospital, key = name.split("/", 2)
            states.setdefault(int(hospital), {})[key] = array
    server = {name.removeprefix("server/"): array for name, array in tensors.items() if name.startswith("server/")}
    rows = read_rounds(meta["history"], path)
    try:
        measured = _measured_from_tensors(tensors, meta["round"])
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(f"{path}: is not a readable checkpoint (measured: {error}).") from None
    older = {int(name.removeprefix("older/")): array for name, array in tensors.items() if name.startswith("older/")}
    try:
        line = _timeline_from_json(meta["timeline"], meta["models"], older)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: is not a readable checkpoint (virtual clock: {error}).") from None
    return LoopState(meta["round"], tensors["params"], states, server, rows, measured, line, older), meta["ledger"]


def history(folder: Path) -> tuple[RoundSummary, ...]:
    """The rounds of a run's checkpoint, which must be there, whatever its configuration.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / NAME
    try:
        if not path.is_file():
            raise OSError("it is no plain file")
        with safe_open(path, "numpy") as file:
            return read_rounds(json.loads(file.metadata()["state"])["history"], path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: is not a readable checkpoint ({error}).") from None


def _measured_to_tensors(measured: Sequence[Measured]) -> dict[str, np.ndarray]:
    """Rows of round, hospital and evaluations; rows of round, hospital and confusion matrix, with its size."""
    gradients = [(one.round, h, n) for one in measured for h, n in one.gradients.items()]
    tables = [(one.round, h, table) for one in measured for h, table in one.tables.items()]
    classes = len(tables[0][2]) if tables else 0
    flat = [np.concatenate([[round, h], table.ravel()]) for round, h, table in tables]
    return {
        "measured/gradients": np.array(gradients, np.int64).reshape(len(gradients), 3),
        "measured/tables": np.array(flat, np.int32).reshape(len(flat), 2 + classes**2),
    }


def _measured_from_tensors(tensors: dict[str, np.ndarray], rounds: int) -> tuple[Measured, ...]:
    gradients: list[dict[int, int]] = [{} for _ in range(rounds)]
    tables: list[dict[int, np.ndarray]] = [{} for _ in range(rounds)]
    for round, hospital, evaluations in tensors["measured/gradients"].tolist():
        gradients[round - 1][hospital] = evaluations
    for row in tensors["measured/tables"].astype(np.int64):
        classes = int(len(row) ** 0.5)
        tables[row[0] - 1][int(row[1])] = row[2:].reshape(classes, classes)
    return tuple(Measured(i + 1, gradients[i], tables[i]) for i in range(rounds))


def _timeline_to_json(line: Timeline) -> dict[str, Any]:
    tallies = {str(hospital): list(one) for hospital, one in line.tallies.items()}
    return {"now": line.now, "begun": line.begun, "jobs": [list(job) for job in line.jobs], "tallies": tallies}


def _timeline_from_json(values: Any, digests: Any, older: Mapping[int, np.ndarray]) -> Timeline:
    """The clock, whose jobs began from the last model or from one of `older`, each under its digest."""
    if {str(number): _digest(params) for number, params in older.items()} != digests:
        raise ValueError("an older model is not the one that was kept")
    tallies = {int(hospital): Tally(*one) for hospital, one in values["tallies"].items()}
    return Timeline(values["now"], tuple(Job(*job) for job in values["jobs"]), values["begun"], tallies)


def _digest(params: np.ndarray) -> str:
    return hashlib.sha256(params.tobytes()).hexdigest()


def fence(folder: Path, attempt: int) -> None:
    """Stops a runner that outlived its driver: processes on Ray live on for a moment after a SIGKILL.

    Raises:
        StudyError: the folder's `attempt` file holds a higher number.
    """
    path = folder / "attempt"
    if path.exists() and int(path.read_text() or 0) > attempt:
        raise StudyError(f"{folder}: attempt {path.read_text().strip()} has taken over from attempt {attempt}.")
