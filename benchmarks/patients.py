"""Scores of a study's methods with intervals over patients, as rows of a Markdown table for each condition.

    pulseledger sweep sweeps/claims/own.yaml --data.folder MITDB --out runs/own
    python benchmarks/patients.py runs/own

A score is of the test beats of all patients together, mean over seeds; its 95 % interval is over 2,000 draws of whole patients, the same
for all seeds. Of each method the best finished trial speaks.
"""

import argparse
from pathlib import Path

import numpy as np

from sweeps import statistics
from sweeps.claims import predictions, tables_of
from sweeps.folder import read_study
from sweeps.rows import rows_of

DRAWS = 2000


def table(folder: Path) -> list[str]:
    """The rows."""
    classes, rows, lines = read_study(folder).data.classes, rows_of(folder), list[str]()
    for condition in dict.fromkeys(row.condition for row in rows):
        lines += ["", f"{condition}", "", f"| method | model | accuracy % | macro-F1 | recall {' | '.join(classes)} |"]
        lines.append("|---" * (4 + len(classes)) + "|")
        for method in dict.fromkeys(row.method for row in rows if row.condition == condition):
            paths = predictions(rows, folder, condition, method)
            models = (
                ("personal",) if method == "local-only" else ("global", "personal")
            )  # nobody trained its common one
            for model in models if paths else ():
                tables = tables_of(paths, model, classes, ())
                if tables.patients:
                    lines.append(f"| {method} | {model} | {' | '.join(cells(tables.counts, len(classes)))} |")
    return lines


def cells(counts: np.ndarray, classes: int) -> list[str]:
    """Accuracy, macro-F1, the recall of each class, in points."""
    wanted = [(statistics.accuracy, [*range(classes)]), (statistics.macro_f1, [*range(classes)])]
    wanted += [(statistics.accuracy, [one]) for one in range(classes)]
    found = [statistics.by_patients(counts, None, score, of, 0.95, DRAWS) for score, of in wanted]
    return [f"{100 * one.value:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]" for one in found]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a study")
    print("\n".join(table(parser.parse_args().folder)))
