"""Files that are made of others, for people to look at: they must be what their sources give. Nothing of them is signed."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.audit.report import Count, Note, Told
from engine.errors import PulseLedgerError
from engine.files import TABLE, read_bytes, read_text
from engine.picture import confusion_svg
from engine.result import PICTURE, RESULT, Result
from sweeps.front import pareto
from sweeps.rows import results_frame
from sweeps.space import StudyConfig
from sweeps.stored import StoredTrial

PARETO, TRIALS = "pareto.json", "trials.parquet"
DRAWN = (
    PICTURE,
    "report/*",
    "synthetic/*.png",
    "synthetic/provenance-*.parquet",
    "trials/*/error.txt",
)  # of these only the first is held


def pareto_text(study: StudyConfig, trials: Sequence[StoredTrial]) -> str:
    """The Pareto front of each condition as a file."""
    return json.dumps({"objectives": study.objectives, "conditions": pareto(study, trials)}, indent=1)


def check_picture(run: Path) -> Iterator[Told]:
    """The picture of a finished run, if there is one."""
    if not (run / PICTURE).exists() or not (run / RESULT).exists():
        return
    try:
        same = read_text(run / PICTURE) == confusion_svg(Result.read(run))
    except (OSError, ValueError, PulseLedgerError):
        same = False
    yield Count("pictures") if same else _another(PICTURE, "of the result")


def check_summaries(study: StudyConfig, folder: Path, trials: Sequence[StoredTrial]) -> Iterator[Told]:
    """The table and the front of a study that has ended, where they are."""
    if (folder / PARETO).exists():
        try:
            same = read_text(folder / PARETO) == pareto_text(study, trials)
        except (OSError, ValueError):
            same = False
        yield Count("summaries") if same else _another(PARETO, "of the trials")
    if (folder / TRIALS).exists():
        yield Count("summaries") if _same_table(folder) else _another(TRIALS, "of the trials")


def _same_table(folder: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        kept = pq.read_table(pa.BufferReader(read_bytes(folder / TRIALS, TABLE)))
        made = pa.Table.from_pandas(results_frame(folder))
    except (OSError, pa.ArrowException, ValueError, TypeError, PulseLedgerError):
        return False
    return repr(_plain(kept)) == repr(_plain(made))


def _plain(table: Any) -> dict[str, list[Any]]:
    return {name: table[name].to_pylist() for name in table.column_names}


def _another(name: str, of: str) -> Note:
    words = f"{name} is not what this version makes {of}: it was changed, or made by another version"
    return Note(words, unchecked=True)
