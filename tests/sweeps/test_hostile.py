"""Whatever somebody does to the files of a study, its audit says so in one of its verdicts: no traceback, no end of waiting."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.audit.report import Report, Verdict
from engine.errors import PulseLedgerError
from sweeps.audit import audit_study
from sweeps.folder import repeat_folder, trial_folder


@pytest.fixture
def copy(agreed: Path, tmp_path: Path) -> Path:
    """A copy to change, without what MLflow and the report have of it."""
    return Path(shutil.copytree(agreed, tmp_path / "study", ignore=shutil.ignore_patterns("artifacts", "report")))


def audited(folder: Path) -> Report:
    """How the runs of its trials are audited is told elsewhere."""
    try:
        return audit_study(folder, checks=())
    except PulseLedgerError as error:
        return Report(unreadable=str(error))


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


# What the audit reads of a study beside the ledgers of its runs.
FILES = (
    "study.yaml",
    "records.json",
    "optuna.db",
    "pareto.json",
    "trials.parquet",
    "ledger/study.sqlite",
    "trials/0000/seed-0/result.json",
    "trials/0000/seed-0/predictions.parquet",
    "trials/0000/seed-0/confusion.svg",
)


@pytest.mark.parametrize("each", [pytest.param(1, marks=pytest.mark.long), 2], ids=["all", "half"])
@pytest.mark.parametrize("file", FILES)
def test_no_kind_of_file_keeps_an_auditor_busy_or_passes(copy: Path, file: str, each: int):
    held = (copy / file).read_bytes()
    kinds: tuple[Callable[[Path], object], ...] = (
        as_pipe,
        as_link,
        lambda path: path.write_bytes(held[: len(held) // 2]),
        lambda path: os.truncate(path, 1 << 40),
    )
    for change in kinds[FILES.index(file) % each :: each]:  # the other kinds for the next file
        change(copy / file)
        assert audited(copy).verdict in (Verdict.FINDINGS, Verdict.UNREADABLE, Verdict.NOT_VERIFIED)
        (copy / file).unlink()
        (copy / file).write_bytes(held)


def test_folders_of_no_repeat_and_of_no_trial_are_named(copy: Path):
    shutil.copytree(repeat_folder(trial_folder(copy, 0), 1), repeat_folder(trial_folder(copy, 0), 2))
    for name in ("trials/0001/seed-x", "trials/0001/seed-²", "trials/²", "trials/\x1b[2J"):
        (copy / name).mkdir()
    found = {(f.trial, f.field) for f in audited(copy).findings}
    assert {(0, "seed-2"), (1, "seed-x"), (1, "seed-²"), (None, "²"), (None, "\\x1b[2J")} <= found


def test_what_nobody_reads_of_a_study_is_listed(copy: Path):
    (copy / "better.json").write_text("7")
    report = audited(copy)
    assert report.clean or not report.findings
    assert {"better.json", "ledger/admin.key", "trials/0000/progress.json", "mlflow.db"} <= set(report.unread)
    assert not {"study.yaml", "optuna.db", "ledger/study.sqlite"} & set(report.unread)
    assert not [name for name in report.unread if name.startswith("trials/0000/seed-0")]


def test_what_is_made_of_a_study_for_people_is_made_again(copy: Path):
    assert audited(copy).unchecked == []
    for name in ("pareto.json", "trials/0000/seed-0/confusion.svg"):
        (copy / name).write_text((copy / name).read_text().replace("1", "2", 1))
    shutil.copyfile(repeat_folder(trial_folder(copy, 0), 0) / "predictions.parquet", copy / "trials.parquet")
    report = audited(copy)
    assert [words.split(" ", 1)[0] for words in report.unchecked] == ["pareto.json", "trials.parquet"]
    assert "confusion.svg is not what this version makes" in report.runs["trials/0000/seed-0"].unchecked[0]


@pytest.mark.parametrize(
    "change",
    [
        "CREATE VIEW trials AS WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n AS trial_id FROM r",
        "CREATE TABLE trials (trial_id INTEGER, number INTEGER GENERATED ALWAYS AS (trial_id) VIRTUAL)",
        "CREATE TABLE trials (trial_id TEXT)",
        "",
    ],
)
def test_a_database_of_another_form_is_refused(copy: Path, change: str):
    with sqlite3.connect(copy / "optuna.db") as database:
        database.execute("ALTER TABLE trials RENAME TO before")
        database.execute(change)
    database.close()
    assert audited(copy).verdict is Verdict.UNREADABLE


def test_a_key_that_stands_twice_in_a_result_is_named(copy: Path):
    path = repeat_folder(trial_folder(copy, 0), 0) / "result.json"
    path.write_text('{"model_hash": "0x00", ' + path.read_text()[1:])
    assert (0, "result.json") in {(f.trial, f.field) for f in audited(copy).findings}


@pytest.mark.parametrize("value", ["9e999", "x'00ff'"])
def test_a_value_that_is_no_number_is_named(copy: Path, value: str):
    with sqlite3.connect(copy / "optuna.db") as database:
        database.execute(f"UPDATE trial_values SET value = {value}")
    database.close()
    assert {(0, "values"), (1, "values")} <= {(f.trial, f.field) for f in audited(copy).findings}
