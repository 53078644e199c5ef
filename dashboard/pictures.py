"""Pictures of a study as its report has them, drawn when a page asks."""

import io
import threading
from collections.abc import Sequence
from pathlib import Path

from engine.errors import DataError
from sweeps.answer import Answer, answers

NAMES = {
    "slopes": "Macro-F1 of each hospital: alone, under the global model, under its own",
    "curves": "Learning curves",
}
_one = threading.Lock()  # matplotlib's settings are those of the whole process


def there(found: Sequence[Answer]) -> dict[str, str]:
    """The pictures that a study has, with what they show."""
    drawn = {"slopes": any(answer.subject for answer in found), "curves": any(answer.standings for answer in found)}
    return {name: says for name, says in NAMES.items() if drawn[name]}


def draw(folder: Path, name: str) -> bytes:
    """A picture as PNG.

    Raises:
        PulseLedgerError: the study cannot be read, or has no such picture.
    """
    from sweeps import exhibits  # with matplotlib and Optuna, which take a second
    from sweeps.drawing import looks_of
    from sweeps.material import read_material

    material = read_material(folder)
    looks = looks_of(trial.method for trial in material.trials)
    with _one:
        if name == "slopes":
            section = exhibits.who_gains(material, answers(material.rows), looks)
        elif name == "curves":
            section = exhibits.curves(material, looks)
        else:
            raise DataError(f"there is no picture {name!r:.40}.")
        if not section.pictures:
            raise DataError(f"{name}: {section.missing}.")
        buffer = io.BytesIO()
        section.pictures[0].figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
