"""What the audit finds in a study's own ledger."""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from engine.ledger.config import LedgerConfig
from engine.ledger.format import STUDY
from engine.ledger.study_audit import StudyReport, audit_records
from engine.ledger.subjects.study import StudyLedger

DESIGN = {"study": {"name": "s", "seed": 3}, "code": {"commit": "abc"}}
TRIALS = [
    ("COMPLETE", {"values": [0.5], "results": []}),
    ("PRUNED", {"reason": "pruned at round 2"}),
    ("FAILED", {"reason": "x"}),
]


def opened(folder: Path) -> StudyLedger:
    return StudyLedger(folder, "s/1", LedgerConfig())


def fill(ledger: StudyLedger, trials: int = 3) -> None:
    ledger.register(DESIGN, 3)
    for trial in range(trials):
        ledger.record(trial, "BEGUN", {"trial": trial})
    for trial in range(trials):
        ledger.record(trial, *TRIALS[trial])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    ledger = opened(folder)
    fill(ledger)
    ledger.register({**DESIGN, "code": {"commit": "def"}}, 4)
    ledger.record(3, "BEGUN", {"trial": 3})
    ledger.close()
    with sqlite3.connect(folder / STUDY.file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder


def change(folder: Path, statement: str, *arguments: Any) -> None:
    """Change the journal, in tables that have lost their constraints."""
    path = folder / STUDY.file
    with sqlite3.connect(path) as connection:
        rows = {table: connection.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall() for table in STUDY.tables}
    connection.close()
    path.unlink()
    with sqlite3.connect(path) as connection:
        for table, (columns, _) in STUDY.tables.items():
            connection.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
            connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", rows[table])
        assert connection.execute(statement, arguments).rowcount > 0
    connection.close()


def found_in(folder: Path) -> StudyReport:
    report = StudyReport()
    audit_records(folder, report)
    json.dumps(report.to_dict())
    assert all("\n" not in line for line in report.lines())
    return report


COLUMNS = [(table, column) for table, (columns, _) in STUDY.tables.items() if table != "meta" for column in columns]


def test_a_clean_ledger_is_clean(original: Path):
    report = found_in(original)
    assert report.findings == []
    assert report.counts == {"registrations": 2, "records": 7, "transactions": 10, "re-executed": 10}
    assert report.notes == ["amended: trials 3 to 4, code.commit"]


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_change_of_any_column_is_found(original: Path, tmp_path: Path, table: str, column: str, monkeypatch):
    monkeypatch.setattr("engine.ledger.study_audit._StudyAudit.check_chain", lambda self: None)
    for value in (None, b"\xff" * 32, "x", -1, 2, 2**62, 1.5, "[" * 10_000, '{"trial": 9}'):
        folder = Path(shutil.copytree(original, tmp_path / "copy", dirs_exist_ok=True))
        where = "generation = 1" if table == "designs" else "seq = 5"
        with sqlite3.connect(folder / STUDY.file) as connection:
            if connection.execute(f"SELECT {column} FROM {table} WHERE {where}").fetchone()[0] == value:
                continue
        change(folder, f"UPDATE {table} SET {column} = ? WHERE {where}", value)
        assert not found_in(folder).clean, value


@pytest.mark.parametrize("table", ["designs", "records", "transactions"])
def test_a_missing_row_is_found(original: Path, tmp_path: Path, table: str):
    folder = Path(shutil.copytree(original, tmp_path / "copy"))
    change(folder, f"DELETE FROM {table} WHERE rowid = 3 OR rowid = 1")
    assert not found_in(folder).clean


@pytest.mark.parametrize("key", ["format", "domain", "backend"])
def test_damaged_meta_is_named(original: Path, tmp_path: Path, key: str):
    folder = Path(shutil.copytree(original, tmp_path / "copy"))
    change(folder, f"UPDATE meta SET value = 'x' WHERE key = '{key}'")
    assert [f.field for f in found_in(folder).findings] == [key]
