"""`pulseledger` in processes of its own, and Ray's processes below a driver."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from reference import ROOT

# what Ray calls the processes of our actors
TITLES = {"runner": "ray::TrialRunner", "hospital": "ray::_Host", "background": "ray::_Holder"}


@contextlib.contextmanager
def driver(folder: Path, *words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`pulseledger ...` in a process of its own, which is gone afterwards with all that it started.

    What it says is beside `folder`, in a file of its name with the ending .log.
    """
    log = folder.parent / f"{folder.name}.log"
    with log.open("a") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "sweeps", *words],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=file,
            stderr=file,
            text=True,
            preexec_fn=_listens,
        )
        try:
            yield process
        except BaseException:
            print(log.read_text())
            raise
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            process.wait(30)


def _listens() -> None:
    """Signals end the driver also where they are ignored around the tests, as under nohup or in a shell's background."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def actors(pid: int, kind: str) -> list[psutil.Process]:
    """The processes of our actors of one kind below a driver, the oldest first."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if " ".join(child.cmdline()).startswith(TITLES[kind]):
                    found.append(child)
    return sorted(found, key=lambda p: (p.create_time(), p.pid))


def until(condition: Callable[[], Any], process: subprocess.Popen[str] | None = None, seconds: float = 120) -> None:
    """Waits for something to become true, as long as a process lives."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, f"the process ended with {process.returncode}"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
