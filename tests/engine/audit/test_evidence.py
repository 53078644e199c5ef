"""Journals and bundles that somebody else made: whatever is in them, an audit names it or ends in one sentence."""

import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finished import audit, change, finish, names
from hypothesis import given, settings
from hypothesis import strategies as st
from reported import document
from simulators import Run

from engine.errors import LedgerError
from engine.ledger.bundle import write_bundle
from engine.ledger.format import BUNDLE


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b"text" * 1000),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:9000]),
    ],
)
def test_a_journal_that_cannot_be_read_is_an_error(plain: Path, damage: Callable[[Path], object]):
    damage(plain / "ledger" / "journal.sqlite")
    with pytest.raises(LedgerError, match="journal"):
        audit(plain)


@pytest.mark.parametrize("more", ["CREATE TABLE better (score)", "ALTER TABLE rounds ADD COLUMN better TEXT"])
def test_what_nobody_reads_has_no_place_in_a_journal(plain: Path, more: str):
    connection = sqlite3.connect(plain / "ledger" / "journal.sqlite")
    connection.execute(more)
    connection.close()
    with pytest.raises(LedgerError, match="nobody reads"):
        audit(plain)


@pytest.mark.parametrize("first", [True, False])
def test_what_a_journal_says_of_itself_stands_there_once(plain: Path, first: bool):
    """Another reader may take the row that this one does not."""
    change(
        plain, "INSERT INTO meta (rowid, key, value) VALUES (?, 'federation', '{}')", arguments=(-5 if first else 99,)
    )
    assert ("meta", "federation") in names(audit(plain))


def test_a_file_that_is_no_bundle_is_an_error(tmp_path: Path):
    path = tmp_path / "x.plb"
    for content in (b"", b"text", b"PK\x03\x04" + b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(LedgerError, match="neither a run's folder nor a bundle"):
            audit(path)


def rewrite(path: Path, edit: Callable[[dict[str, bytes]], None], **options: Any) -> None:
    with zipfile.ZipFile(path) as archive_:
        entries = {name: archive_.read(name) for name in archive_.namelist()}
    edit(entries)
    with zipfile.ZipFile(path, "w", **options) as archive_:
        for name, data in entries.items():
            archive_.writestr(name, data)


@pytest.mark.parametrize("name", ["../../evil", "/etc/passwd", "journal/other.jsonl", "updates/x.safetensors", "a\\b"])
def test_names_outside_the_format_are_named(plain: Path, name: str):
    path = plain / "ledger" / BUNDLE
    rewrite(path, lambda entries: entries.update({name: b"x"}))
    assert any(f.record == "bundle" and name.split("/")[-1] in f.field for f in audit(path).findings)


def test_compressed_doubled_changed_and_missing_entries_are_named(plain: Path, tmp_path: Path):
    path = plain / "ledger" / BUNDLE
    original = path.read_bytes()
    rewrite(path, lambda entries: None, compression=zipfile.ZIP_DEFLATED)
    assert ("bundle", "manifest.json") in names(audit(path))
    path.write_bytes(original)
    with zipfile.ZipFile(path, "a") as archive_, pytest.warns(UserWarning, match="Duplicate"):
        archive_.writestr("config.yaml", "name: other\n")
    assert ("bundle", "config.yaml") in names(audit(path))
    path.write_bytes(original)
    rewrite(path, lambda entries: entries.pop("updates/00002.safetensors"))
    assert {("bundle", "updates/00002.safetensors"), ("archive", "file")} <= names(audit(path))
    path.write_bytes(original)
    rewrite(path, lambda entries: entries.update({"journal/rounds.jsonl": b"{}\n\xff\n[1]\nnull\n"}))
    assert ("rounds", "row") in names(audit(path))
    path.write_bytes(original)
    rewrite(path, lambda entries: entries.update({"manifest.json": b"[" * 1000}))
    assert ("bundle", "manifest.json") in names(audit(path))


def test_a_bundle_of_another_time_beside_the_journal_is_named(plain: Path, tmp_path: Path):
    run = Run(tmp_path / "shorter")
    shorter = finish(run, rounds=2)
    write_bundle(shorter / "ledger", document(run, 2), (shorter / "config.yaml").read_text())
    shutil.copyfile(shorter / "ledger" / BUNDLE, plain / "ledger" / BUNDLE)
    assert ("bundle", "journal/updates.jsonl") in names(audit(plain))


@settings(max_examples=60)
@given(data=st.data())
def test_random_bytes_in_a_bundle_never_pass_and_never_end_in_a_traceback(
    simple: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    content = bytearray((simple / "ledger" / BUNDLE).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("random") / "x.plb"
    path.write_bytes(content)
    whole = zipfile.ZipFile(simple / "ledger" / BUNDLE)
    try:
        report = audit(path)
    except LedgerError:
        return
    if report.clean:
        # a byte of the container that says nothing (a time, a version): every entry is still the same
        with zipfile.ZipFile(path) as changed:
            assert all(changed.read(name) == whole.read(name) for name in whole.namelist())


def test_settings_that_name_each_other_are_not_written_out(plain: Path):
    """Ten lines of YAML that stand for 9^10 values."""
    lines = ["a: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    for text in ("\n".join(lines), "a: &a [*a]"):
        (plain / "config.yaml").write_text(text)
        assert ("config", "config_hash") in names(audit(plain))


def test_predictions_that_would_swell_are_not_read(plain: Path):
    """A Parquet file holds each text once, however many rows have it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 1000
    table = pa.table({"hospital": [0] * rows, "record": ["x" * 5000] * rows})
    pq.write_table(table, plain / "predictions.parquet")
    assert (plain / "predictions.parquet").stat().st_size < 50_000
    with pytest.raises(LedgerError, match="more bytes of a text in the predictions than an audit reads: 5000"):
        audit(plain)
