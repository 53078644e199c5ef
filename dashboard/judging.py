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
_one = threading.Lock()  # at a time


def judged(path: Path, *words: str) -> Mapping[str, Any]:
    """What `audit --json` says of a path.

    Args:
        words: further ones of the command.

    Raises:
        DataError: there was no answer.
    """
    command = [sys.executable, "-m", "sweeps", "audit", str(path.absolute()), "--json", *words]
    environment = {name: value for name, value in os.environ.items() if name not in SECRET}
    with _one:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST, env=environment, check=False
            )
        except subprocess.TimeoutExpired:
            raise DataError(f"the audit took more than {LONGEST / 60:.0f} minutes and was ended.") from None
    try:
        found = read_json(done.stdout.decode())
        (report,) = found.values()
        return {**report, "exit_code": done.returncode}
    except (ValueError, AttributeError, TypeError):
        said = one_line(done.stderr.decode(errors="replace").strip()[-500:])
        raise DataError(f"the audit gave no answer (exit code {done.returncode}): {said}") from None
