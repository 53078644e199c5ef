"""Visits to three hospitals as a table: features in place of a signal, with values missing, and classes of other names.

With `data.folder` it reads visits.csv there, a column for each feature and for hospital, patient, day and outcome; without,
it makes visits up.
"""

import csv
from pathlib import Path

import numpy as np

from engine.data.examples import Examples

FEATURES = ("age", "heart rate", "creatinine", "potassium", "weight change")
CLASSES = ("stable", "watch", "admit")  # the usual one first
HOSPITALS = ("north", "south", "harbour")


def visits(folder: Path | None, *, patients: int = 40, seed: int = 0) -> Examples:
    """The cohort: `folder` is `data.folder`, all else are `data.parameters`."""
    rows = _made(patients, np.random.default_rng(seed)) if folder is None else _read(folder / "visits.csv")
    return Examples(
        x=np.array([[float(row[name] or "nan") for name in FEATURES] for row in rows]),
        y=[row["outcome"] for row in rows],
        classes=CLASSES,
        patients=[row["patient"] for row in rows],
        hospitals=[row["hospital"] for row in rows],
        when=[int(row["day"]) for row in rows],
        features=FEATURES,
        unit="visits",
    )


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _made(patients: int, draw: np.random.Generator) -> list[dict[str, str]]:
    rows = []
    for place, hospital in enumerate(HOSPITALS):
        for number in range(patients):
            frailty = draw.normal(0.4 * place)  # the sicker ones go to the harbour
            for day in sorted(draw.choice(365, draw.integers(1, 4), replace=False).tolist()):
                risk = frailty + draw.normal(scale=0.5)
                values = [65 + 8 * frailty, 75 + 9 * risk, 90 + 20 * risk, 4.2 + 0.3 * risk, 1.5 * risk]
                noisy = [f"{value + draw.normal(scale=abs(value) / 40 + 0.1):.2f}" for value in values]
                if hospital == "south" or draw.random() < 0.2:
                    noisy[2] = ""  # creatinine: never measured in the south, now and then not elsewhere
                outcome = CLASSES[int(risk > 0.3) + int(risk > 1.2)]
                named = dict(zip(FEATURES, noisy, strict=True))
                rows.append(
                    {
                        **named,
                        "hospital": hospital,
                        "patient": f"{hospital} {number}",
                        "day": str(day),
                        "outcome": outcome,
                    }
                )
    return rows
