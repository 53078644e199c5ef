"""The journal's file: one writer, whole or not there, and one sentence for whatever is wrong with it."""

import multiprocessing
import os
import sqlite3
import time
from pathlib import Path

import pytest
from simulators import Run

from engine.clock import JumpingClock
from engine.errors import LedgerError
from engine.ledger.format import RUN, STUDY
from engine.ledger.run import RunLedger
from engine.ledger.store import PATIENCE, Store, read_only

META = {"domain": "{}"}


def created(folder: Path) -> Store:
    store = Store(folder, RUN)
    store.create(META, {})
    return store


def test_rows_come_back_in_the_order_in_which_they_were_written(tmp_path: Path):
    store = created(tmp_path)
    rows = [(2, 1, b"b"), (1, 5, b"a"), (1, 0, b"c")]
    store.add({"receipts": rows, "openings": [(1, 0, "{}")]})
    assert [tuple(row) for row in store.rows("receipts")] == rows
    assert [tuple(row) for row in store.rows("receipts", round=1)] == rows[1:]
    assert [tuple(row) for row in store.rows("receipts", round=1, slot=0)] == rows[2:]
    assert store.meta == {"format": "8", **META}
    store.close()


def test_rows_that_do_not_all_fit_are_not_written_at_all(tmp_path: Path):
    store = created(tmp_path)
    with pytest.raises(LedgerError, match="UNIQUE constraint failed"):
        store.add({"openings": [(1, 0, "{}")], "receipts": [(1, 0, b""), (1, 0, b"")]})
    assert store.rows("openings") == store.rows("receipts") == []
    store.close()
    with pytest.raises(LedgerError, match="is closed"):
        store.rows("openings")


def test_a_reader_sees_what_is_written_and_touches_nothing(tmp_path: Path):
    store = created(tmp_path)
    store.add({"openings": [(1, 0, "{}")]})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with read_only(store.path) as journal:
        assert journal.execute("SELECT COUNT(*) FROM openings").fetchone()[0] == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    store.close()
    with pytest.raises(LedgerError, match="there is no journal"), read_only(tmp_path / "other.sqlite"):
        pass


def test_a_second_writer_is_refused_after_a_while_and_told_who_writes(tmp_path: Path):
    clock = JumpingClock()
    store = created(tmp_path)
    with pytest.raises(LedgerError, match=f"process {os.getpid()} is writing the journal"):
        Store(tmp_path, RUN, clock)
    assert PATIENCE <= clock.now() < PATIENCE + 1
    store.close()
    Store(tmp_path, RUN).close()


def hold(folder: Path, ready: "multiprocessing.synchronize.Event") -> None:
    Store(folder, RUN)
    ready.set()
    time.sleep(60)


def test_a_killed_writer_leaves_no_lock(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(30)
    with pytest.raises(LedgerError, match=f"process {process.pid} is writing"):
        Store(tmp_path, RUN, JumpingClock())
    process.kill()
    process.join(10)
    Store(tmp_path, RUN).close()


def test_a_file_that_cannot_be_written_whole_is_not_there(tmp_path: Path):
    store = Store(tmp_path, RUN)
    with pytest.raises(LedgerError, match="UNIQUE constraint failed"):
        store.create(META, {"receipts": [(1, 0, b""), (1, 0, b"")]})
    assert [path.name for path in tmp_path.iterdir()] == ["journal.lock"]
    (tmp_path / ".journal.sqlite.77").write_text("left by a process that was killed")
    store.create(META, {})
    assert not list(tmp_path.glob(".journal*"))
    store.close()


@pytest.mark.parametrize("damage", ["cut", "zeros", "text", "empty"])
def test_a_damaged_journal_gives_one_sentence(tmp_path: Path, damage: str):
    run = Run(tmp_path)
    with run.open() as ledger:
        ledger.append(run.entry(1, ledger.domain))
        path = ledger.book.path
    data = path.read_bytes()
    damaged = {
        "cut": data[: len(data) // 2],
        "zeros": data[:4096] + bytes(len(data) - 4096),
        "text": b"not a database" * 100,
        "empty": b"",
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(LedgerError, match=r"the journal .*journal\.sqlite is damaged") as refused:
        run.open()
    assert "\n" not in str(refused.value)


def append_all(ledger: RunLedger, run: Run, numbers: range) -> None:
    for number in numbers:
        ledger.append(run.entry(number, ledger.domain, ledger.head))


def test_a_full_disk_gives_one_sentence_and_keeps_what_was_sealed(tmp_path: Path):
    run = Run(tmp_path)
    with run.open() as ledger:
        ledger.append(run.entry(1, ledger.domain))
        connection = ledger.book.store.connection
        [pages] = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LedgerError, match="cannot be written: the disk is full"):
            append_all(ledger, run, range(2, 60))
        sealed = len(ledger.rounds.seals)
        assert sealed < 59
        assert ledger.append(run.entry(1, ledger.domain)).round == 1
    with run.open() as ledger:
        # A receipt that found no room is written on opening, so there may be one more.
        assert sealed <= len(ledger.rounds.seals) <= sealed + 1


def test_another_format_is_refused(tmp_path: Path):
    store = created(tmp_path)
    store.close()
    connection = sqlite3.connect(store.path)
    connection.execute("UPDATE meta SET value = '2' WHERE key = 'format'")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError, match="has format 2, expected 8"):
        Store(tmp_path, RUN)
    store.path.rename(tmp_path / STUDY.file)
    with pytest.raises(LedgerError, match="has format 2, expected 3"):
        Store(tmp_path, STUDY)
