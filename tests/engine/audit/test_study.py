"""The audit of a study's own ledger names every change of its journal, and never ends in a traceback."""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from finished import loosen

from engine.audit.report import Report
from engine.audit.study import CHECKS, audit_records, check_state
from engine.errors import LedgerError
from engine.ledger.config import LedgerConfig
from engine.ledger.format import STUDY
from engine.ledger.subjects.study import StudyLedger

DESIGN = {"study": {"name": "s", "seed": 3}, "code": {"commit": "abc"}}
ENDS = [
    ("COMPLETE", {"values": [0.5], "results": []}),
    ("PRUNED", {"reason": "pruned at round 2"}),
    ("FAILED", {"reason": "x"}),
]
OFFLINE = tuple(check for check in CHECKS if check is not check_state)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three trials, amended to four, of which the last has begun."""
    folder = tmp_path_factory.mktemp("original")
    ledger = StudyLedger(folder, "s/1", LedgerConfig())
    ledger.register(DESIGN, 3)
    for trial in range(3):
        ledger.record(trial, "BEGUN", {"trial": trial})
    for trial, (stage, content) in enumerate(ENDS):
        ledger.record(trial, stage, content)
    ledger.register({**DESIGN, "code": {"commit": "def"}}, 4)
    ledger.record(3, "BEGUN", {"trial": 3})
    ledger.close()
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def change(folder: Path, statement: str, *arguments: Any) -> None:
    path = folder / STUDY.file
    loosen(path, STUDY.tables)
    connection = sqlite3.connect(path)
    assert connection.execute(statement, arguments).rowcount > 0
    connection.commit()
    connection.close()


def found_in(folder: Path, checks: Any = CHECKS) -> Report:
    report = Report()
    audit_records(folder, report, checks)
    json.dumps(report.to_dict())
    assert all("\n" not in line for line in report.lines())
    return report


def places(report: Report) -> set[tuple]:
    return {(f.trial, f.record, f.field) for f in report.findings}


COLUMNS = [(table, column) for table, what in STUDY.tables.items() if table != "meta" for column in what.columns]


def test_a_clean_ledger_is_clean_and_tells_what_it_holds(original: Path):
    report = Report()
    case = audit_records(original, report)
    assert report.findings == []
    assert report.counts == {"registrations": 2, "records": 7, "transactions": 10, "re-executed": 10}
    assert (report.notes, report.unchecked) == (["amended: trials 3 to 4, code.commit"], [])
    assert [design["design"]["code"]["commit"] for design in case.designs] == ["abc", "def"]
    assert case.begun == {trial: {"trial": trial} for trial in range(4)}
    assert case.ended == dict(enumerate(ENDS))
    assert report.head is not None
    assert len(report.head.split()) == 2


def test_no_check_depends_on_another_one(original: Path):
    whole = found_in(original)
    for check in CHECKS:
        alone = found_in(original, [check])
        assert alone.clean
        assert alone.counts.items() <= whole.counts.items()


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_change_of_any_column_is_found(original: Path, folder: Path, table: str, column: str):
    where = "generation = 1" if table == "designs" else "seq = 5"
    for value in (None, b"\xff" * 32, "x", -1, 2, 2**62, 1.5, "[" * 10_000, '{"trial": 9}'):
        shutil.rmtree(folder)
        shutil.copytree(original, folder)
        change(folder, f"UPDATE {table} SET {column} = ? WHERE {where}", value)
        assert not found_in(folder, OFFLINE).clean, value


@pytest.mark.parametrize(
    ("statement", "place"),
    [
        ("UPDATE designs SET trials = 9 WHERE generation = 1", (None, "design", "trials")),
        ("UPDATE designs SET head = ? WHERE generation = 1", (None, "design", "head")),
        ("UPDATE designs SET study = ? WHERE generation = 1", (None, "design", "study")),
        ("UPDATE records SET trial = 2 WHERE seq = 5", (2, "ended", "head")),
        ("UPDATE records SET stage = 1 WHERE seq = 5", (1, "begun", "stage")),
        ("UPDATE records SET stage = 4 WHERE seq = 5", (1, "transaction", "stage")),
        ("UPDATE records SET digest = ? WHERE seq = 5", (1, "ended", "digest")),
        ("UPDATE records SET sequence = 9 WHERE seq = 5", (1, "ended", "sequence")),
        ("UPDATE records SET study = ? WHERE seq = 5", (1, "ended", "study")),
        ("UPDATE transactions SET round = 4 WHERE round = 5", (1, "transaction", "receipt")),
        ("UPDATE transactions SET purpose = 'deploy' WHERE seq = 5", (None, "transaction", "bytecode")),
        (
            "UPDATE transactions SET receipt = NULL WHERE purpose = 'record' AND round = 5",
            (1, "transaction", "receipt"),
        ),
    ],
)
def test_a_change_is_named_with_its_trial(folder: Path, statement: str, place: tuple):
    change(folder, statement, *[b"\x99" * 32] * statement.count("?"))
    assert place in places(found_in(folder, OFFLINE))


@pytest.mark.parametrize("table", ["designs", "records", "transactions"])
def test_a_missing_row_is_found(folder: Path, table: str):
    change(folder, f"DELETE FROM {table} WHERE rowid = 3 OR rowid = 1")
    assert not found_in(folder).clean


def test_what_only_the_execution_of_all_transactions_can_tell_is_named(folder: Path):
    change(
        folder, "UPDATE transactions SET receipt = json_set(receipt, '$.gas', 1) WHERE purpose = 'record' AND round = 5"
    )
    assert found_in(folder, OFFLINE).clean
    assert places(found_in(folder)) == {(1, "transaction", "gas")}
    change(folder, "UPDATE transactions SET raw = (SELECT raw FROM transactions WHERE seq = 9) WHERE seq = 8")
    report = found_in(folder, [check_state])
    assert (None, "chain", "transaction") in {(None, *place[1:]) for place in places(report)}
    assert report.unchecked == ["the head on the chain was not compared, as the execution stopped before it"]


@pytest.mark.parametrize("key", ["domain", "backend"])
def test_damaged_meta_is_named(folder: Path, key: str):
    for value in ("x", "[" * 100_000, None):
        change(folder, f"UPDATE meta SET value = ? WHERE key = '{key}'", value)
        assert [f.field for f in found_in(folder).findings] == [key]


def test_a_journal_of_another_format_or_none_is_an_error(folder: Path):
    change(folder, "UPDATE meta SET value = '9' WHERE key = 'format'")
    with pytest.raises(LedgerError, match="the study's journal has format 9, this version reads 3"):
        found_in(folder)
    (folder / STUDY.file).write_bytes(b"text" * 1000)
    with pytest.raises(LedgerError, match="journal"):
        found_in(folder)
    (folder / STUDY.file).unlink()
    with pytest.raises(LedgerError, match="there is no journal"):
        found_in(folder)
