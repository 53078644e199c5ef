"""One driver at a time for each study folder, and a name for the folder that stays when it is moved."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from engine.errors import StudyError
from engine.files import write_text
from sweeps.folder import IDENTITY
from sweeps.space import StudyConfig

LOCK, OWNER = ".lock", ".driver.json"


@contextlib.contextmanager
def only_driver(folder: Path) -> Iterator[None]:
    """Holds the folder; a second driver is told who the first is.

    Raises:
        StudyError: another driver has it.
    """
    lock = filelock.FileLock(folder / LOCK)
    owner = folder / OWNER
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        try:
            first = json.loads(owner.read_text(encoding="utf-8"))
            who = f"process {first['pid']} on {first['host']}"
        except (OSError, ValueError, KeyError):
            who = "another process"
        raise StudyError(f"{folder}: is being driven by {who}; wait for it, or stop it and resume.") from None
    try:
        owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), encoding="utf-8")
        yield
    finally:
        lock.release()


def identity(folder: Path) -> str:
    """Names a study's folder wherever it is moved: host, process and time of its beginning; written at the first call."""
    path = folder / IDENTITY
    if not path.exists():
        write_text(path, f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}")
    return path.read_text(encoding="utf-8")


def study_key(study: StudyConfig, folder: Path) -> str:
    """Names a study on the ledger and in MLflow, wherever its folder is moved."""
    return f"{study.name}/{identity(folder)}"
