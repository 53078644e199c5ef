"""How much an audit takes in. Evidence is somebody else's: without bounds it could keep an auditor busy for ever.

Each is far above what the engine writes; what is beyond is refused in a sentence, before it is read.
"""

from engine.errors import LedgerError
from engine.files import CONFIG as CONFIG  # bytes of a configuration
from engine.files import LONGEST
from engine.files import TABLE as TABLE  # bytes of a file of predictions

JOURNAL = 1 << 37  # bytes
ROWS = 20_000_000  # of a table
LINE = 1 << 24  # bytes of a row
TRANSACTIONS = 1_000_000
SLOTS = 100_000  # hospitals of a federation
LEAVES = 100_000_000  # slots of all rounds together, which their trees are made of
FILES = 10_000  # that a folder may hold and nobody reads
TENSORS = 100_000  # of a model
PARAMETERS = 1 << 31
GAS = 50_000_000_000  # limits of all transactions that are executed again
PREDICTIONS = 50_000_000  # values of one of its columns
WORD = 4096  # bytes of a text in it
FILE = LONGEST  # bytes of a text: a result, a configuration, a manifest, a report
HEADER = 1 << 24  # bytes of an archive of vectors beside the vectors


def require(what: str, number: int, most: int) -> None:
    """Raises LedgerError where there is more of something than an audit takes in."""
    if number > most:
        raise LedgerError(f"the evidence holds more {what} than an audit reads: {number} of at most {most}")
