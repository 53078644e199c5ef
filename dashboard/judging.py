"""The verdict on evidence, by `pulseledger audit` in a process of its own: it is somebody else's, and may be made to hurt."""

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.encoding import one_line, read_json
from engine.errors import DataError
from engine.ledger.keyfiles import PASSWORD_VARIABLE

LONGEST = 1800.0  # seconds of an audit
SECRET = (PASSWORD_VARIABLE, "PULSELEDGER_LEDGER_KEY", "PGPASSWORD", "MLFLOW_TRACKING_PASSWORD")  # not for it


class Judges:
    """Audits, one at a time, that end with the dashboard."""

    def __init__(self) -> None:
        self._turn, self._lock = threading.Lock(), threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._closed = False

    def __call__(self, path: Path, *words: str) -> Mapping[str, Any]:
        """What `audit --json` says of a path.

        Args:
            words: further ones of the command.

        Raises:
            DataError: there was no answer.
        """
        command = [sys.executable, "-m", "sweeps", "audit", str(path.absolute()), "--json", *words]
        environment = {name: value for name, value in os.environ.items() if name not in SECRET}
        with self._turn:
            with self._lock:
                if self._closed:
                    raise DataError("the dashboard has ended.")
                self._running = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
                )
            with self._running as process:
                try:
                    out, said = process.communicate(timeout=LONGEST)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise DataError(f"the audit took more than {LONGEST / 60:.0f} minutes and was ended.") from None
        try:
            found = read_json(out.decode())
            (report,) = found.values()
            return {**report, "exit_code": process.returncode}
        except (ValueError, AttributeError, TypeError):
            told = one_line(said.decode(errors="replace").strip()[-500:])
            raise DataError(f"the audit gave no answer (exit code {process.returncode}): {told}") from None

    def close(self) -> None:
        """Ends the one under way, and starts no other."""
        with self._lock:
            self._closed = True
            if self._running is not None and self._running.poll() is None:
                self._running.kill()
