"""Several MLflow stores on one page: a copy in which all their experiments and runs are, for looking only.

MLflow serves one database. Those of several studies are put together at the level of their tables, so that run ids, curves,
parameters and places of artifacts stay what they are; experiments get new numbers and the name of their folder.
"""

import contextlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from engine.errors import PulseLedgerError

# what a run consists of, in the order of writing; where a table names an experiment its number is mapped
TABLES = (
    "experiment_tags",
    "runs",
    "metrics",
    "latest_metrics",
    "params",
    "tags",
    "datasets",
    "inputs",
    "input_tags",
    "logged_models",
    "logged_model_metrics",
    "logged_model_params",
    "logged_model_tags",
)


def merge_stores(stores: Mapping[str, Path], target: Path) -> None:
    """Writes the runs of all stores into the new database `target`; the stores are only read.

    Args:
        stores: how an experiment's name begins, such as the study's folder -> SQLite file of MLflow.

    Raises:
        PulseLedgerError: a store is no database of MLflow, or of another version than the first.
    """
    target.unlink(missing_ok=True)
    first, *others = stores.items()
    with contextlib.closing(_opened(first[1])) as source, contextlib.closing(_made(target)) as made, made:
        source.backup(made)
        version = _version(made, first[1])
        made.execute("UPDATE experiments SET name = ? || ' / ' || name WHERE experiment_id != 0", (first[0],))
        for name, path in others:
            _opened(path).close()
            made.commit()
            made.execute("ATTACH DATABASE ? AS other", (f"{path.resolve().as_uri()}?mode=ro",))
            if (found := _version(made, path, "other.")) != version:
                raise PulseLedgerError(
                    f"{path}: is of another version of MLflow ({found}) than {first[1]} ({version})."
                )
            _copy(made, name)
            made.commit()
            made.execute("DETACH DATABASE other")


def run_ids(store: Path, study: str) -> dict[str, tuple[str, str]]:
    """Key of each run of a study -> MLflow's numbers of its experiment and of the run.

    Args:
        store: an SQLite file of MLflow; none of them is there if it is not.
        study: key of the study's own run, with which those of its trials begin.
    """
    if not store.exists():
        return {}
    query = (
        "SELECT tags.value, runs.experiment_id, runs.run_uuid FROM tags JOIN runs ON runs.run_uuid = tags.run_uuid "
        "WHERE tags.key = 'pulseledger.key' AND runs.lifecycle_stage = 'active'"
    )
    try:
        with contextlib.closing(_opened(store)) as database:
            rows = database.execute(query).fetchall()
    except (sqlite3.Error, PulseLedgerError):
        return {}
    return {key: (str(experiment), run) for key, experiment, run in rows if key == study or key.startswith(f"{study}/")}


def _made(target: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        target.resolve().as_uri(), uri=True
    )  # or what is attached could not be opened for reading only


def _opened(path: Path) -> sqlite3.Connection:
    try:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        database.execute("SELECT count(*) FROM experiments")
    except sqlite3.Error as error:
        raise PulseLedgerError(f"{path}: is no MLflow store ({error}).") from None
    return database


def _version(database: sqlite3.Connection, path: Path, schema: str = "") -> str:
    try:
        return ", ".join(row[0] for row in database.execute(f"SELECT version_num FROM {schema}alembic_version"))
    except sqlite3.Error as error:
        raise PulseLedgerError(f"{path}: is no MLflow store ({error}).") from None


def _copy(made: sqlite3.Connection, name: str) -> None:
    """Everything of the attached database `other`."""
    numbers = {}
    columns = _columns(made, "experiments")
    (highest,) = made.execute("SELECT max(experiment_id) FROM experiments").fetchone()
    listed = ", ".join(columns)
    for row in made.execute(f"SELECT {listed} FROM other.experiments WHERE experiment_id != 0").fetchall():
        values = dict(zip(columns, row, strict=True))
        highest += 1
        numbers[values["experiment_id"]] = highest
        values |= {"experiment_id": highest, "name": f"{name} / {values['name']}"}
        places = ", ".join("?" * len(columns))
        made.execute(f"INSERT INTO experiments ({listed}) VALUES ({places})", [values[column] for column in columns])
    there = {row[0] for row in made.execute("SELECT name FROM other.sqlite_master WHERE type = 'table'")}
    for table in TABLES:
        if table not in there:
            continue
        columns = _columns(made, table)
        cases = " ".join(f"WHEN {old} THEN {new}" for old, new in numbers.items())
        chosen = [f"CASE {c} {cases} END" if c == "experiment_id" and cases else c for c in columns]
        own = f" WHERE experiment_id IN ({', '.join(map(str, numbers))})" if "experiment_id" in columns else ""
        made.execute(
            f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) SELECT {', '.join(chosen)} FROM other.{table}{own}"
        )


def _columns(database: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in database.execute(f"PRAGMA main.table_info({table})")]
