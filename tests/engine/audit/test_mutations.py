"""Whatever somebody does to the files of a run, an audit says it in one of its verdicts: never a traceback, never clean.

The places come from what lies in the folder and from the format's tables, the values from what JSON and SQLite can hold.
"""

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from finished import OFFLINE, audit, loosen
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.audit.closing import bound
from engine.audit.report import Report, Verdict
from engine.audit.run import CHECKS, Check
from engine.encoding import canonical_json
from engine.errors import LedgerError
from engine.ledger.format import BUNDLE, MANIFEST, RUN, rows_name

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([10**4000, -0.0, 0.0, 1e400, -1e400, float("nan"), 2**53 + 0.5, "", "\ud800", "\u202e\n\x1b[2J"])
    | st.sampled_from(
        ["0x", "0x" + "00" * 32, "0x" + "ff" * 65, "0x" + "00" * 20, "[" * 200, '{"a": NaN}', "null", "\x00"]
    )
    | st.text(max_size=5)
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=5), SCALARS, max_size=3)
STORED = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.sampled_from(
        [-0.0, 1.5, 1e400, "", b"", b"\xff" * 32, b"\x00" * 65, '{"round": -0.0}', '{"a": ' * 150, "x\ncl"]
    )
    | st.binary(max_size=70)
    | st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=5)
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def copied(original: Path, work: Path) -> Path:
    shutil.rmtree(work / "run", ignore_errors=True)
    return Path(shutil.copytree(original, work / "run"))


def audited(path: Path, checks: Sequence[Check]) -> Report:
    """What the audit says, in a form that can be shown."""
    try:
        report = audit(path, checks)
    except LedgerError as error:
        report = Report(unreadable=str(error))
    assert all(line.isprintable() for line in report.lines())
    assert json.loads(json.dumps(report.to_dict()))["verdict"] == report.verdict
    return report


# --- Values in JSON ---------------------------------------------------------------------------------------------------


def places(document: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in a JSON document."""
    yield here
    for key, value in document.items() if isinstance(document, dict) else ():
        yield from places(value, (*here, key))
    for index, value in enumerate(document) if isinstance(document, list) else ():
        yield from places(value, (*here, index))


def put(document: Any, way: tuple[Any, ...], value: Any) -> Any:
    """The document with another value at a place."""
    if not way:
        return value
    changed = json.loads(json.dumps(document))
    inner = changed
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = value
    return changed


def same(one: Any, two: Any) -> bool:
    return type(one) is type(two) and repr(one) == repr(two)


def in_bundle(original: Path, work: Path, data: st.DataObject, checks: Sequence[Check]) -> None:
    """One value of one row, with the manifest made anew, as whoever writes a bundle can."""
    path = work / "changed.plb"
    with zipfile.ZipFile(original / "ledger" / BUNDLE) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    tables = [table for table in RUN.tables if entries[rows_name(table)]]
    name = rows_name(data.draw(st.sampled_from(tables)))
    rows = [json.loads(line) for line in entries[name].splitlines()]
    at = data.draw(st.integers(0, len(rows) - 1))
    row = rows[at]
    column = data.draw(st.sampled_from(sorted(row)))
    text = row[column]
    inside = isinstance(text, str) and text.startswith("{") and data.draw(st.booleans())
    document = json.loads(text) if inside else text
    way = data.draw(st.sampled_from(list(places(document)))) if inside else ()
    value = data.draw(VALUES)
    if data.draw(st.integers(0, 9)):
        changed = put(document, way, value)
        rows[at] = {**row, column: json.dumps(changed) if inside else changed}
    else:
        changed, rows[at] = value, value  # a row that is no mapping
    entries[name] = b"".join(json.dumps(one).encode() + b"\n" for one in rows)
    manifest = json.loads(entries[MANIFEST])
    manifest["entries"][name] = hashlib.sha256(entries[name]).hexdigest()
    entries[MANIFEST] = canonical_json(manifest).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    if audited(path, checks).clean:
        assert same(changed, document)


@settings(max_examples=25)
@given(data=st.data())
def test_a_value_of_a_bundle_is_never_another_and_clean(original: Path, work: Path, data: st.DataObject):
    in_bundle(original, work, data, CHECKS)


@pytest.mark.long
@settings(max_examples=1500)
@given(data=st.data())
def test_no_value_of_a_bundle_is_another_and_clean(original: Path, work: Path, data: st.DataObject):
    in_bundle(original, work, data, CHECKS)


def in_file(original: Path, work: Path, data: st.DataObject, checks: Sequence[Check]) -> None:
    """One value of one JSON document beside the journal."""
    folder = copied(original, work)
    files = [p for p in sorted(folder.rglob("*.json")) if p.name != "result.json"]
    path = data.draw(st.sampled_from([folder / "result.json", *files]))
    document = json.loads(path.read_text())
    way = data.draw(st.sampled_from(list(places(document))))
    changed = put(document, way, data.draw(VALUES))
    path.write_text(json.dumps(changed))
    report = audited(folder, checks)
    if report.clean:
        # a reason is bound, what else stands beside it is nobody's word; times of a result are not bound
        assert same(changed, document) or (
            bound(changed) == bound(document)
            if path.name == "result.json"
            else changed.get("reason") == document.get("reason") is not None
        )


@settings(max_examples=25)
@given(data=st.data())
def test_a_value_of_a_document_beside_the_journal_is_never_another_and_clean(
    original: Path, work: Path, data: st.DataObject
):
    in_file(original, work, data, OFFLINE)


@pytest.mark.long
@settings(max_examples=1000)
@given(data=st.data())
def test_no_value_of_a_document_beside_the_journal_is_another_and_clean(
    original: Path, work: Path, data: st.DataObject
):
    in_file(original, work, data, CHECKS)


# --- Values in the journal --------------------------------------------------------------------------------------------


def in_journal(original: Path, work: Path, data: st.DataObject, checks: Sequence[Check]) -> None:
    """One value of one row of the journal, and no bundle beside it that would tell."""
    import sqlite3

    folder = copied(original, work)
    (folder / "ledger" / BUNDLE).unlink()
    path = folder / "ledger" / RUN.file
    loosen(path, RUN.tables)
    connection = sqlite3.connect(path)
    full = [t for t in RUN.tables if connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0]]
    table = data.draw(st.sampled_from(full))
    column = data.draw(st.sampled_from(list(RUN.tables[table].columns)))
    ids = [one for (one,) in connection.execute(f"SELECT rowid FROM {table}")]
    rowid = data.draw(st.sampled_from(ids))
    (was,) = connection.execute(f"SELECT {column} FROM {table} WHERE rowid = ?", (rowid,)).fetchone()
    value = data.draw(STORED)
    connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, rowid))
    connection.commit()
    connection.close()
    report = audited(folder, checks)
    assert same(value, was) or report.verdict in (Verdict.FINDINGS, Verdict.UNREADABLE)


@settings(max_examples=25)
@given(data=st.data())
def test_a_value_of_the_journal_is_never_another_and_clean(original: Path, work: Path, data: st.DataObject):
    in_journal(original, work, data, CHECKS)


@pytest.mark.long
@settings(max_examples=1500)
@given(data=st.data())
def test_no_value_of_the_journal_is_another_and_clean(original: Path, work: Path, data: st.DataObject):
    in_journal(original, work, data, CHECKS)


# --- Files ------------------------------------------------------------------------------------------------------------


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "x").touch()


def as_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def as_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


KINDS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "no UTF-8": lambda path: path.write_bytes(b'{"a": "\xff\xfe"}' * 100),
    "NUL": lambda path: path.write_bytes(b"\x00" * 5000),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "twice": lambda path: path.write_bytes(path.read_bytes() * 2),
    "nested": lambda path: path.write_bytes(b"[" * 100_000),
    "number": lambda path: path.write_bytes(b"1e999"),
    "list": lambda path: path.write_bytes(b'[{"reason": {}}, NaN]'),
    "folder": as_folder,
    "link to what has no end": as_link,
    "link to itself": as_loop,
    "pipe": as_pipe,
}
FREE = {"journal.lock"}  # says nothing
FILES = (
    "ledger/journal.sqlite",
    "ledger/bundle.plb",
    "ledger/updates/00000.safetensors",
    "ledger/updates/00002.safetensors",
    "model.safetensors",
    "result.json",
    "config.yaml",
    "predictions.parquet",
    "synthetic/hospital-0.npz",
    "synthetic/evidence-*.json",
    "synthetic/count-*.json",
    "synthetic/preview-*.npz",
    "synthetic/preview-*.json",
    "synthetic/preview-*.png",
    "ledger/reviews/*.json",
)


def test_every_kind_of_file_of_a_run_is_covered(original: Path):
    covered = {path for name in FILES for path in original.glob(name)}
    there = {path for path in original.rglob("*") if path.is_file() and path.name not in FREE}
    assert there - covered == {original / "ledger" / "updates" / f"0000{n}.safetensors" for n in (1, 3, 4)}


@pytest.mark.parametrize("each", [pytest.param(1, marks=pytest.mark.long), 4], ids=["all", "a fourth"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_became_something_else_is_never_clean(original: Path, work: Path, kind: str, each: int):
    for name in FILES[list(KINDS).index(kind) % each :: each]:  # other files for the next kind
        folder = copied(original, work)
        path = sorted(folder.glob(name))[0]
        KINDS[kind](path)
        # what the contract accepted tells which beats there must be
        report = audited(folder, CHECKS if name.endswith(".npz") else OFFLINE)
        # bytes behind a database and before an archive are none of it
        spare = path.suffix in (".sqlite", ".plb", ".npz", ".parquet")
        assert not report.clean or (kind == "twice" and spare), name


def test_folders_that_became_files_are_never_clean(original: Path, work: Path):
    for name in ("ledger/updates", "synthetic", "ledger"):
        folder = copied(original, work)
        shutil.rmtree(folder / name)
        (folder / name).write_bytes(b"x")
        assert not audited(folder, OFFLINE).clean, name
