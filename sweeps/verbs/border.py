"""The border between the program and its user: what nobody foresaw is told in a sentence with its place, not in a traceback.

With PULSELEDGER_TRACEBACK set it is raised as it is; the tests set it, so that nothing hides here.
"""

import os
import traceback
from pathlib import Path

from engine.encoding import one_line

VARIABLE = "PULSELEDGER_TRACEBACK"


def unforeseen(error: Exception) -> str:
    """One sentence about an error that is none of the program's own; raises it again where tracebacks are wanted."""
    if os.environ.get(VARIABLE):
        raise error
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}, line {last.lineno}, in {last.name}"
    words = one_line(str(error)[:300])
    return f"nobody foresaw this: {type(error).__name__}: {words} ({where}); {VARIABLE}=1 shows the way there."
