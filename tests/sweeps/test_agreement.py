"""Everything that tells of a trial must tell the same: Optuna, results, ledgers and MLflow; one word that differs is named."""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from engine.audit.report import Report
from engine.audit.study import audit_records
from engine.errors import PulseLedgerError
from engine.settings import dump_yaml, load_yaml
from sweeps import registration
from sweeps.audit import audit_study
from sweeps.folder import read_study, repeat_folder, trial_folder
from sweeps.records import read_records
from sweeps.space import StudyConfig, conditions


@pytest.fixture
def copy(agreed: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(agreed, tmp_path / "study"))


def places(folder: Path) -> set[tuple]:
    """What is found in the study; how the runs of its trials are audited is told elsewhere."""
    return {(f.trial, f.record, f.field) for f in audit_study(folder, checks=()).findings}


def test_a_study_agrees_with_itself(agreed: Path):
    report = audit_study(agreed)
    assert report.findings == []
    assert [row["state"] for row in report.trials] == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert report.counts["ledgers of repeats"] == 4
    assert report.counts["values"] == 2


# --- Ledgers ----------------------------------------------------------------------------------------------------------


def test_the_last_head_of_every_repeat_is_in_the_record_of_its_trial(agreed: Path):
    recorded = audit_records(agreed / "ledger", Report())
    runs = audit_study(agreed).runs
    for number in (0, 1):
        stage, content = recorded.ended[number]
        assert stage == "COMPLETE"
        for repeat, told in enumerate(content["results"]):
            assert told["head"] == runs[f"trials/{number:04d}/seed-{repeat}"].head
            assert len(told["predictions"]) == 64
            assert told["gradient_evaluations"] > 0


def test_a_deleted_ledger_of_a_repeat_is_named(copy: Path):
    shutil.rmtree(repeat_folder(trial_folder(copy, 1), 1) / "ledger")
    assert places(copy) == {(1, "folder", "trials/0001/seed-1/ledger")}
    ledger = repeat_folder(trial_folder(copy, 0), 0) / "ledger"
    for name in ("journal.sqlite", "bundle.plb"):
        (ledger / name).unlink()
    assert (0, "folder", "trials/0000/seed-0/ledger") in places(copy)


def test_a_deleted_or_shortened_ledger_of_a_pruned_trial_is_named(copy: Path):
    ledger = repeat_folder(trial_folder(copy, 2), 0) / "ledger"
    with sqlite3.connect(ledger / "journal.sqlite") as connection:
        connection.execute("DELETE FROM rounds WHERE round = 2")
    connection.close()
    assert (2, "ended", "heads.0") in places(copy)
    shutil.rmtree(ledger)
    assert (2, "ended", "heads.0") in places(copy)
    shutil.rmtree(ledger.parent)
    assert (2, "ended", "heads.0") in places(copy)


def test_the_ledger_of_another_run_in_its_place_is_named(copy: Path):
    here, there = (repeat_folder(trial_folder(copy, 0), repeat) / "ledger" for repeat in (0, 1))
    shutil.rmtree(here)
    shutil.copytree(there, here)
    assert (0, "ended", "results.0.head") in places(copy)


def test_a_backend_that_is_set_to_none_afterwards_is_named(copy: Path):
    path = copy / "study.yaml"
    values = load_yaml(path)
    values["ledger"] = {"backend": "none"}
    path.write_text(dump_yaml(StudyConfig.model_validate(values)))
    assert {(None, "design", "ledger.backend"), (0, "study", "ledger.backend")} <= places(copy)
    shutil.rmtree(copy / "ledger")  # the study's own
    found = places(copy)
    assert {(number, "study", "ledger.backend") for number in range(3)} <= found
    for ledger in copy.glob("trials/*/*/ledger"):
        shutil.rmtree(ledger)
    assert places(copy) == found | {(n, "folder", f"trials/{n:04d}/seed-{r}/ledger") for n in (0, 1) for r in (0, 1)}


# --- Results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("timing", "gradient_evaluations"), 7, "results.0.gradient_evaluations"),
        (("final", "personal", "hurt_share"), 0.99, "results.0.digest"),
        (("final", "personal", "recall", "N"), 0.123, "results.0.digest"),
        (("config", "balance", "policy", "expiry_seconds"), 7200, "results.0.digest"),
        (("ledger", "head"), "0x" + "11" * 32, "results.0.head"),
    ],
)
def test_a_changed_number_of_a_result_is_named(copy: Path, path: tuple[str, ...], value: Any, field: str):
    file = repeat_folder(trial_folder(copy, 0), 0) / "result.json"
    result = json.loads(file.read_text())
    inside = result
    for name in path[:-1]:
        inside = inside[name]
    inside[path[-1]] = value
    file.write_text(json.dumps(result))
    assert (0, "ended", field) in places(copy)


def test_changed_predictions_are_named(copy: Path):
    file = repeat_folder(trial_folder(copy, 1), 0) / "predictions.parquet"
    file.write_bytes(file.read_bytes() + b"x")
    assert (1, "ended", "results.0.predictions") in places(copy)


# --- Optuna, column by column -----------------------------------------------------------------------------------------

# What the audit of a study does not hold, and why.
UNBOUND = {
    "alembic_version.version_num": "the form of the database",
    "version_info.version_info_id": "the form of the database",
    "version_info.schema_version": "the form of the database",
    "version_info.library_version": "the form of the database",
    "trials.number": "Optuna's own count; the study counts its trials itself",
    "trials.datetime_start": "times are not bound",
    "trials.datetime_complete": "times are not bound",
    "trials.heartbeat": "times are not bound",
    "trial_heartbeats.heartbeat": "times are not bound",
    "trial_system_attributes.key": "Optuna's notes to itself, such as a point that waited in the queue",
    "trial_system_attributes.value_json": "Optuna's notes to itself",
    "study_directions.objective": "Optuna's own count, which it never reads: directions are in the order of their rows",
}


def columns(folder: Path) -> list[tuple[str, str]]:
    """Every column of every table that has rows."""
    with sqlite3.connect(folder / "optuna.db") as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        filled = [name for name in tables if connection.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0]]
        found = [(t, row[1], row[5]) for t in filled for row in connection.execute(f"PRAGMA table_info({t})")]
    connection.close()
    return [(table, column) for table, column, key in found if not key]


def changed(value: Any) -> Any:
    """Another value of the kind."""
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str) and value.isupper():
        return {"MAXIMIZE": "MINIMIZE", "COMPLETE": "FAIL", "PRUNED": "FAIL"}.get(value, value + "X")
    try:
        return json.dumps(leaf(json.loads(value)))
    except (TypeError, ValueError):
        return f"{value}x"


def leaf(value: Any) -> Any:
    """JSON with its first leaf changed."""
    match value:
        case dict() if value:
            name = next(iter(value))
            return {**value, name: leaf(value[name])}
        case list() if value:
            return [leaf(value[0]), *value[1:]]
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}x"
    return {"added": 1}


@pytest.mark.parametrize("each", [pytest.param(1, marks=pytest.mark.long), 6], ids=["all", "a sixth"])
def test_a_change_of_any_column_of_optuna_is_named(agreed: Path, tmp_path: Path, each: int):
    """A new table or column that nothing is held against fails here, until it is held or listed with a reason."""
    original = (agreed / "optuna.db").read_bytes()
    folder = Path(shutil.copytree(agreed, tmp_path / "study"))
    missed = set()
    for table, column in sorted(columns(agreed))[::each]:
        if f"{table}.{column}" in UNBOUND:
            continue
        (folder / "optuna.db").write_bytes(original)
        connection = sqlite3.connect(folder / "optuna.db")
        rowid, value = connection.execute(
            f"SELECT rowid, {column} FROM {table} WHERE {column} IS NOT NULL"
        ).fetchone() or (
            None,
            None,
        )
        if rowid is not None:
            connection.execute(f"UPDATE OR REPLACE {table} SET {column} = ? WHERE rowid = ?", (changed(value), rowid))
        connection.commit()
        connection.close()
        if rowid is None:
            continue
        try:
            if not places(folder):
                missed.add(f"{table}.{column}")
        except PulseLedgerError:
            pass  # named, in one sentence
    assert missed == set()


def test_what_nobody_reads_has_no_place_in_the_database(copy: Path):
    with sqlite3.connect(copy / "optuna.db") as connection:
        connection.execute("CREATE TABLE better (score)")
        connection.execute("INSERT INTO studies (study_name) VALUES ('better')")
    connection.close()
    assert places(copy) == {(None, "database", "table"), (None, "database", "study")}


@pytest.mark.parametrize("ledger", [True, False])
def test_what_a_study_was_begun_with_is_held_against_it(agreed: Path, copy: Path, ledger: bool):
    if not ledger:
        shutil.rmtree(copy / "ledger")
    before = places(copy)
    with sqlite3.connect(copy / "optuna.db") as connection:
        change = "UPDATE study_user_attributes SET value_json = json_set(value_json, '$.\"federation.rounds\"', 5) "
        connection.execute(change + "WHERE key = 'definition'")
    connection.close()
    assert places(copy) - before == {(None, "database", "definition.federation.rounds")}
    with sqlite3.connect(copy / "optuna.db") as connection:
        connection.execute("DELETE FROM study_user_attributes WHERE key = 'definition'")
    connection.close()
    assert places(copy) - before == {(None, "database", "definition")}


@pytest.mark.parametrize("each", [pytest.param(1, marks=pytest.mark.long), 3], ids=["all", "a third"])
def test_a_change_of_any_note_of_the_driver_is_named(agreed: Path, tmp_path: Path, each: int):
    original = (agreed / "optuna.db").read_bytes()
    folder = Path(shutil.copytree(agreed, tmp_path / "study"))
    with sqlite3.connect(agreed / "optuna.db") as connection:
        notes = connection.execute("SELECT rowid, trial_id, key, value_json FROM trial_user_attributes").fetchall()
    connection.close()
    seen: dict[str, int] = {}
    missed = set()
    for rowid, _, key, value in notes:
        seen[key] = seen.get(key, 0) + 1
        if (seen[key] > 1 and not key.startswith("rung/")) or rowid % each:
            continue
        (folder / "optuna.db").write_bytes(original)
        connection = sqlite3.connect(folder / "optuna.db")
        connection.execute("UPDATE trial_user_attributes SET value_json = ? WHERE rowid = ?", (changed(value), rowid))
        connection.commit()
        connection.close()
        try:
            if not places(folder):
                missed.add(key)
        except PulseLedgerError:
            pass
    assert missed == set()
    assert {"trial", "condition", "keys", "config", "repeats", "rung/2", "pruned", "reason"} <= seen.keys()


# --- The study's file -------------------------------------------------------------------------------------------------

# Where a study runs, and who is told of it.
FREE = {"out", "concurrency", "execution", "storage", "tracking", "trials", "data.folder"}
FREE |= {f"ledger.{name}" for name in ("url", "chain_id", "contract", "key_file", "confirmations", "timeout")}
FREE |= {f"ledger.{name}" for name in ("max_fee_gwei", "keystore", "successors", "patience")}


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Dotted name of every value."""
    if isinstance(value, dict) and value:
        return {k: v for key, part in value.items() for k, v in leaves(part, f"{name}.{key}" if name else key).items()}
    return {name: value}


def test_every_key_of_the_study_is_registered_or_listed(agreed: Path):
    study = read_study(agreed)
    records = read_records(agreed)
    design = registration.design(study, records)
    registered = leaves(design["study"])
    assert design["records"] == records
    assert records.keys() == {condition.label for condition in conditions(study)}
    for name in leaves(study.model_dump(mode="json")):
        free = any(name == key or name.startswith(f"{key}.") for key in FREE)
        assert (name in registered) != free, name
