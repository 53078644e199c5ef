"""Where everything behind a report lies: the trials' folders, their bundles, and their runs in MLflow."""

from pathlib import Path

from engine.files import read_text
from engine.paths import SQLITE, sqlite_path
from engine.result import PREDICTIONS, RESULT
from engine.tracking.merged import run_ids
from engine.tracking.store import store_uri
from sweeps.folder import IDENTITY, repeat_folder, trial_folder
from sweeps.material import Material
from sweeps.page import Cell, Link, Part, Section, Table, Words, cell
from sweeps.space import StudyConfig

PORT = 5000  # of `pulseledger ui`, unless another is given
BUNDLE = Path("ledger") / "bundle.plb"
FILES = (("result", Path(RESULT)), ("predictions", Path(PREDICTIONS)), ("bundle", BUNDLE))


def runs_section(material: Material, folder: Path, home: str) -> Section:
    """A line for each finished trial, with links; `home` is the study's folder as seen from the page."""
    title = "Files and runs"
    if not material.trials:
        return Section(title, missing="no trial has finished")
    tracking = material.study.tracking
    store = None if tracking.backend == "none" else store_uri(tracking, folder)
    key = key_of(material.study, folder)
    known = run_ids(sqlite_path(store), key) if store is not None and store.startswith(SQLITE) else {}
    lines = []
    for trial in sorted(material.trials, key=lambda trial: trial.row.trial):
        number, cells = trial.row.trial, []
        for name, path in FILES:
            links = [
                Link(
                    f"{name}{f' {repeat}' * (len(trial.results) > 1)}",
                    f"{home}/trials/{number:04d}/seed-{repeat}/{path}",
                )
                for repeat in range(len(trial.results))
                if (repeat_folder(trial_folder(folder, number), repeat) / path).exists()
            ]
            cells.append(Cell(tuple(links)))
        found = known.get(f"{key}/{number}")
        run = cell(found[1][:8], run_address(*found)) if found is not None else cell("")
        lines.append([cell(number), cell(trial.condition), cell(trial.method), *cells, run])
    heads = ["trial", "condition", "method", "results", "predictions", "ledger", "MLflow"]
    parts: list[Part] = [Words(_where(store, bool(known)), "lead"), Table(heads, lines, words=(1, 2, 3, 4, 5, 6))]
    return Section(title, tuple(parts))


def key_of(study: StudyConfig, folder: Path) -> str:
    """Of the study's run in MLflow, as `lock.study_key` makes it; here nothing is written."""
    identity = folder / IDENTITY
    return f"{study.name}/{read_text(identity) if identity.is_file() else ''}".replace("'", "_")


def run_address(experiment: str, run: str) -> str:
    """Of a run in MLflow, as `pulseledger ui` serves it."""
    return f"http://127.0.0.1:{PORT}/#/experiments/{experiment}/runs/{run}"


def _where(store: str | None, known: bool) -> str:
    if store is None:
        return "The study was not tracked in MLflow."
    if known:
        return "Links to MLflow lead somewhere while `pulseledger ui DIR` runs, and to files while the page lies where it was written."
    return f"MLflow holds the study at {store}; `pulseledger ui DIR` opens it."
