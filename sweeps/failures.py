"""Why a trial failed: one line, where it happened, and the traceback for whoever mends it."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from engine.errors import HospitalError, StudyError
from engine.files import write_text
from sweeps.folder import error_file
from sweeps.text import first_line


class Failed(NamedTuple):
    """A reason in one line; hospital, round and stage as far as they are known, and the traceback."""

    reason: str
    where: dict[str, Any]


def failure_of(cause: BaseException, trace: str) -> Failed:
    """What is noted of an exception; `trace` is what Ray says of it."""
    reason = first_line(cause) if isinstance(cause, StudyError) else f"{type(cause).__name__}: {first_line(cause)}"
    trace = re.sub(r"\x1b\[[0-9;]*m", "", trace)  # Ray writes in colours
    if not isinstance(cause, HospitalError):
        return Failed(reason, {"traceback": trace})
    where = {"hospital": cause.hospital, "round": cause.round, "stage": cause.stage}
    return Failed(reason, {**where, "traceback": f"{cause.trace}\n{trace}"})


def write_error(folder: Path, trial: int, failed: Failed, logs: str) -> Path:
    """Writes it into the trial's folder; `logs` is where the workers print. Returns the file."""
    path = error_file(folder, trial)
    said = {name: value for name, value in failed.where.items() if name != "traceback"}
    said["what the workers printed"] = logs
    lines = [failed.reason, *(f"{name}: {value}" for name, value in said.items()), "", failed.where["traceback"]]
    write_text(path, "\n".join(lines))
    return path
