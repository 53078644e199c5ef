"""What the programs of this machine have sent from an account, for a node that forgets it.

A chain takes an account's transactions in the order of their numbers. Where several ledgers share an account, as the trials of a
study do, no journal holds all that stood before its own; without that its contract cannot come to be again at its address.
"""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

_KEPT = 10_000  # numbers


class Sent:
    """Signed transactions of one account by number, in a file; of several for a number the last. Kept as far as it can be."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, number: int, raw: bytes) -> None:
        """Write down what is being sent."""
        with suppress(sqlite3.Error, OSError, OverflowError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=2.0)) as file, file:
                file.execute("PRAGMA synchronous = OFF")
                file.execute("CREATE TABLE IF NOT EXISTS sent (number INTEGER PRIMARY KEY, raw BLOB NOT NULL)")
                file.execute("INSERT OR REPLACE INTO sent VALUES (?, ?)", (number, raw))
                file.execute("DELETE FROM sent WHERE number <= ?", (number - _KEPT,))

    def between(self, first: int, end: int) -> list[bytes]:
        """Those with numbers from `first` on and before `end`, in order, as far as none is missing."""
        with suppress(sqlite3.Error, OSError, OverflowError):
            if self._path.exists():
                with closing(sqlite3.connect(self._path, timeout=2.0)) as file:
                    known = "SELECT number, raw FROM sent WHERE number >= ? AND number < ? ORDER BY number"
                    rows = file.execute(known, (first, end)).fetchall()
                return [bytes(raw) for place, (number, raw) in enumerate(rows) if number == first + place]
        return []
