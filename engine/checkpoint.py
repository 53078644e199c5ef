"""The state of the loop after a round, in one file that appears whole or not at all."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from engine.errors import DataError, StudyError
from engine.files import whole
from engine.messages import LoopState
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
    history = [row.document() for row in state.history]
    meta = {"round": state.round, "history": history, "config_hash": config_hash, "ledger": list(ledger_entries)}
    meta["data"] = data
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
    return LoopState(meta["round"], tensors["params"], states, server, read_rounds(meta["history"], path)), meta[
        "ledger"
    ]


def history(folder: Path) -> tuple[RoundSummary, ...]:
    """The rounds of a run's checkpoint, which must be there, whatever its configuration.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / NAME
    try:
        with safe_open(path, "numpy") as file:
            return read_rounds(json.loads(file.metadata()["state"])["history"], path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: is not a readable checkpoint ({error}).") from None


def fence(folder: Path, attempt: int) -> None:
    """Stops a runner that outlived its driver: processes on Ray live on for a moment after a SIGKILL.

    Raises:
        StudyError: the folder's `attempt` file holds a higher number.
    """
    path = folder / "attempt"
    if path.exists() and int(path.read_text() or 0) > attempt:
        raise StudyError(f"{folder}: attempt {path.read_text().strip()} has taken over from attempt {attempt}.")
