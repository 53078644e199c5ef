"""The audit names a change of every field of every table of a journal.

The changes come from the journal's tables and the records' fields: a new one without a check fails here.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from finished import (
    OFFLINE,
    audit,
    change,
    finish,
    names,
    other,
    places,
    row_of,
    set_value,
)
from simulators import Run
from sweeping import every

from engine import encoding
from engine.ledger.erasure import erase
from engine.ledger.format import RUN
from engine.ledger.subjects.challenges import MaskOpening
from engine.ledger.subjects.closing import HospitalResult, RunClosing
from engine.ledger.subjects.committee import RevealedScores, ScoreCommitment
from engine.ledger.subjects.masks import MaskStep
from engine.ledger.subjects.registry import Federation, KeyRotation
from engine.ledger.subjects.reputation import PeerScores, Verdicts
from engine.ledger.subjects.synthetic import (
    SyntheticPreview,
    SyntheticReport,
    SyntheticRequest,
    SyntheticReview,
)
from engine.ledger.subjects.updates import (
    Absence,
    Availability,
    Erasure,
    Header,
    ModelUpdate,
    Opening,
    Receipt,
)
from engine.ledger.typed import Domain, Record, types_of

NAMES = {"updates": "update", "openings": "opening", "receipts": "receipt", "rotations": "rotation"}
NAMES |= {"results": "hospital", "closings": "closing", "judges": "scores"}
NAMES |= {"rounds": "round", "transactions": "transaction", "peers": "scores", "annexes": "annex"}
# (table, column) -> what the finding may be called where it is not the column's own name
ALIASES = {
    ("openings", "round"): {"round", "slot"},
    ("receipts", "round"): {"round", "slot"},
    ("synthetic", "sender"): {"sender", "signature"},
    ("rotations", "slot"): {"slot", "federation"},
    ("transactions", "round"): {"round", "receipt"},
    ("transactions", "purpose"): {"purpose", "function", "receipt"},
    ("transactions", "raw"): {"raw", "hash"},
    ("scores", "round"): {"round", "participated"},
    ("annexes", "round"): {"round", "scores"},
    ("annexes", "digest"): {"scores", "rewards"},
    **{("peers", name): {"peers"} for name in ("slot", "judge", "correct", "total")},
    ("peers", "round"): {"round", "peers"},
    **{("judges", name): {"signature"} for name in ("round", "slot", "signature")},
    ("synthetic", "kind"): {"kind", "record"},
}
RECORDS: dict[tuple[str, ...], type[Record]] = {
    ("updates", "record"): ModelUpdate,
    ("rotations", "record"): KeyRotation,
    ("results", "record"): HospitalResult,
    ("closings", "record"): RunClosing,
    ("synthetic", "record", "request"): SyntheticRequest,
    ("synthetic", "record", "preview"): SyntheticPreview,
    ("synthetic", "record", "review"): SyntheticReview,
    ("synthetic", "record", "report"): SyntheticReport,
}
JSON: dict[tuple[str, str], type[Record]] = {("openings", "opening"): Opening, ("scores", "verdicts"): Verdicts}


ASIDE = ("meta", "erasures", "sittings", "votes", "absences", "maskings")  # tables with tests of their own
COLUMNS = [(table, column) for table, what in RUN.tables.items() if table not in ASIDE for column in what.columns]


@pytest.mark.parametrize(("table", "column"), every(2, COLUMNS))
def test_a_change_of_any_column_is_found_and_named(folder: Path, table: str, column: str):
    where = f"{column} IS NOT NULL" if table == "synthetic" else "1"
    rowid, row = row_of(folder, table, where)
    value = row[column]
    set_value(folder, table, rowid, column, "damaged" if column in ("record", "opening", "verdicts") else other(value))
    found = names(audit(folder, OFFLINE))
    expected = ALIASES.get((table, column), {column})
    # a score that changes no verdict shows in the root alone, as does a digest that nobody but the chain can tell
    root = {"peers": {("annex", "scores")}, "annexes": {("round", "annex")}}.get(table, set())
    assert (root | {(NAMES.get(table, table), name) for name in expected}) & found, sorted(found)


VALUES = [None, "", b"\xff", -1, 2**62, 1.5, "[" * 100_000]
TABLES = [table for table in RUN.tables if table not in ASIDE]


def no_traceback(original: Path, folder: Path, table: str, column: str, value: Any) -> None:
    """One value of one row, and everything as it was."""
    rowid, _ = row_of(folder, table, f"{column} IS NOT NULL" if table == "synthetic" else "1")
    set_value(folder, table, rowid, column, value)
    report = audit(folder, OFFLINE)
    assert not report.clean, column
    assert all("\n" not in line for line in report.lines())
    json.dumps(report.to_dict())
    shutil.copyfile(original / "ledger" / "journal.sqlite", folder / "ledger" / "journal.sqlite")


@pytest.mark.parametrize("table", TABLES)
def test_a_value_of_any_column_ends_in_no_traceback(original: Path, folder: Path, table: str):
    """Every column has one of the values, every value several columns."""
    for column in RUN.tables[table].columns:
        value = VALUES[COLUMNS.index((table, column)) % len(VALUES)]
        no_traceback(original, folder, table, column, value)


@pytest.mark.long
@pytest.mark.parametrize("value", VALUES, ids=lambda v: repr(v)[:12])
@pytest.mark.parametrize("table", TABLES)
def test_no_value_of_any_column_ends_in_a_traceback(original: Path, folder: Path, table: str, value: Any):
    for column in RUN.tables[table].columns:
        no_traceback(original, folder, table, column, value)


@pytest.fixture
def erased(tmp_path: Path) -> Path:
    """A run whose hospital 2 has erased the opening of its update of round 2."""
    run = Run(tmp_path)
    folder = finish(run)
    erase(run.ledger_folder, 2, 2, lambda federation: run.keys[2])
    change(folder, "UPDATE meta SET value = value")
    return folder


def test_an_erasure_is_no_finding_but_unchecked(erased: Path):
    report = audit(erased)
    assert report.findings == []
    assert "round 2, hospital 2: the hospital has erased its weight and its metrics" in report.unchecked
    assert any("the number of samples was erased, so the aggregate is not recomputed" in n for n in report.unchecked)


@pytest.mark.parametrize("column", RUN.tables["erasures"].columns)
def test_a_change_of_an_erasure_is_found_and_named(erased: Path, column: str):
    rowid, row = row_of(erased, "erasures")
    values = {"round": [1, 9, "x"], "slot": [0, 9, None], "signature": [other(row["signature"]), b"", 1.5]}
    for value in values[column]:
        set_value(erased, "erasures", rowid, column, value)
        found = names(audit(erased, OFFLINE))
        assert {("opening", "opening"), ("erasure", "signature")} & found, (value, sorted(found))


def test_a_row_that_belongs_to_no_update_is_no_erasure(folder: Path):
    """An opening that is missing without its hospital's word, or with somebody else's, is a finding."""
    change(folder, "DELETE FROM openings WHERE round = 2 AND slot = 2")
    assert (2, 2, "opening", "opening") in places(audit(folder))
    change(folder, "INSERT INTO erasures VALUES (2, 2, zeroblob(65))")
    assert (2, 2, "erasure", "signature") in places(audit(folder))


@pytest.mark.parametrize("name", ["decisions", "rewards", "scores"])
def test_a_change_of_any_named_digest_is_found_and_named(folder: Path, name: str):
    rowid, row = row_of(folder, "annexes", f"name = '{name}'")
    set_value(folder, "annexes", rowid, "digest", other(row["digest"]))
    found = places(audit(folder))
    assert {(row["round"], None, "annex", name), (row["round"], None, "round", "annex")} <= found


FIELDS_OF_RECORDS = [(*where, name) for where, kind in RECORDS.items() for name in types_of(kind)]


@pytest.mark.parametrize("place", every(3, [[place] for place in FIELDS_OF_RECORDS]), ids=lambda place: ".".join(place))
def test_a_change_of_any_field_of_a_signed_record_is_found_and_named(folder: Path, place: tuple[str, ...]):
    table, column, *kinds, name = place
    kind = kinds[0] if kinds else None
    rowid, row = row_of(folder, table, f"kind = '{kind}' AND seq > 5" if kind else "1")
    values = json.loads(row[column])
    values[name] = other(values[name])
    set_value(folder, table, rowid, column, encoding.canonical_json(values))
    found = names(audit(folder, OFFLINE))
    record = NAMES.get(table, table)
    assert {(record, name), (record, "signature"), (record, "old_signature")} & found, sorted(found)


def test_every_record_of_a_journal_is_covered():
    journaled = {kind for kind in Record.__subclasses__() if kind.__module__.startswith("engine.ledger.subjects")}
    # Only signatures of the first three are kept, the fourth goes into a dispute, the last is the table of rounds.
    elsewhere = {Absence, Receipt, PeerScores, ScoreCommitment, RevealedScores, Erasure, Availability, Header}
    # The first is within what was said of masked sums, whose table has tests of its own; the last stands in its transaction alone.
    elsewhere |= {MaskStep, MaskOpening}
    assert journaled == {*RECORDS.values(), *JSON.values(), *elsewhere}
    assert Domain in Record.__subclasses__()  # covered with the journal's meta rows


FIELDS_OF_JSON = [(*where, name) for where, kind in JSON.items() for name in types_of(kind)]


@pytest.mark.parametrize("place", FIELDS_OF_JSON, ids=lambda place: ".".join(place))
def test_a_change_of_any_field_behind_a_commitment_is_found_and_named(folder: Path, place: tuple[str, str, str]):
    table, column, name = place
    rowid, row = row_of(folder, table)
    values = json.loads(row[column])
    values[name] = other(values[name])
    set_value(folder, table, rowid, column, encoding.canonical_json(values))
    found = names(audit(folder, OFFLINE))
    record = NAMES.get(table, table)
    committed = {"samples_salt": "samples", "metrics_salt": "metrics"}.get(name, name)
    assert {(record, committed), ("annex", "scores")} & found, sorted(found)


@pytest.mark.parametrize("key", ["federation", "domain", "backend", "rule"])
def test_a_change_of_what_the_journal_belongs_to_is_found_and_named(folder: Path, key: str):
    set_value(folder, "meta", row_of(folder, "meta", f"key = '{key}'")[0], "value", "x")
    assert ("meta", key) in names(audit(folder, OFFLINE))
    set_value(folder, "meta", row_of(folder, "meta", f"key = '{key}'")[0], "value", "[" * 100_000)
    assert ("meta", key) in names(audit(folder, OFFLINE))


@pytest.mark.parametrize("name", ["chain_id", "contract"])
def test_a_change_of_chain_or_contract_is_found_and_named(folder: Path, name: str):
    rowid, row = row_of(folder, "meta", "key = 'domain'")
    values = json.loads(row["value"])
    values[name] = other(values[name])
    set_value(folder, "meta", rowid, "value", encoding.canonical_json(values))
    field = {"chain_id": "chain_id", "contract": "to"}[name]
    assert {("transaction", field), ("update", "signature")} <= names(audit(folder, OFFLINE))


FEDERATION = {
    "id": {("update", "federation"), ("transaction", "federation")},
    "config_hash": {("update", "config_hash"), ("transaction", "configHash")},
    "hospitals": {("update", "signature"), ("transaction", "registryRoot")},
    "genesis_model": {("archive", "genesis"), ("transaction", "genesisModel")},
    "layout": {("archive", "genesis")},
    "organisations": {("transaction", "registryRoot")},
    "quorum": {("transaction", "quorum")},
    "window": {("transaction", "window")},
    "checks": {("result", "ledger.checked")},
}


@pytest.mark.parametrize("name", Federation.__dataclass_fields__)
def test_a_change_of_the_federation_is_found_and_named(folder: Path, name: str):
    rowid, row = row_of(folder, "meta", "key = 'federation'")
    values = json.loads(row["value"])
    match name:
        case "hospitals" | "organisations":
            values[name][1] = other(values[name][1])
        case "layout":
            values[name][0][0] += "x"
        case "quorum":
            values[name] = 2
        case "checks":
            values[name] = 0
        case _:
            values[name] = other(values[name])
    set_value(folder, "meta", rowid, "value", encoding.canonical_json(values))
    assert FEDERATION[name] <= names(audit(folder, OFFLINE))


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("weighting", "uniform", ("round", "model")),
        ("weighting", "none", ("round", "model")),
        ("weighting", "votes", ("meta", "rule")),
        ("name", "mean/fixed-35", ("meta", "rule")),
        ("server", {"method": "momentum", "learning_rate": 1.0, "momentum": 0.9}, ("round", "model")),
        ("server", {"method": "none", "momentum": 0.9}, ("meta", "rule")),
        ("added", 1, ("meta", "rule")),
    ],
)
def test_a_change_of_the_rule_is_found_and_named(folder: Path, name: str, value: Any, place: tuple[str, str]):
    rowid, row = row_of(folder, "meta", "key = 'rule'")
    set_value(folder, "meta", rowid, "value", encoding.canonical_json({**json.loads(row["value"]), name: value}))
    report = audit(folder, OFFLINE)
    assert place in names(report)
    if place == ("meta", "rule"):
        assert "aggregates were not recomputed from round 1 on" in report.unchecked


@pytest.mark.parametrize(
    "table", [t for t in RUN.tables if t not in ("meta", "openings", "sittings", "votes", "absences", "maskings")]
)
def test_a_missing_row_is_found(folder: Path, table: str):
    if table == "erasures":
        erase(folder / "ledger", 2, 2, lambda federation: Run(folder).keys[2])
    rowid, row = row_of(folder, table)
    change(folder, f"DELETE FROM {table} WHERE rowid = ?", arguments=(rowid,))
    report = audit(folder, OFFLINE)
    assert not report.clean
    if "round" in row and table != "rotations":
        assert any(f.round == row["round"] for f in report.findings)


@pytest.mark.parametrize("table", ["updates", "openings", "receipts"])
def test_swapped_rows_are_found_and_named(folder: Path, table: str):
    change(
        folder,
        f"UPDATE {table} SET slot = -1 WHERE round = 3 AND slot = 0",
        f"UPDATE {table} SET slot = 0 WHERE round = 3 AND slot = 2",
        f"UPDATE {table} SET slot = 2 WHERE round = 3 AND slot = -1",
    )
    found = {(f.round, f.hospital, f.record) for f in audit(folder, OFFLINE).findings}
    assert {(3, 0, NAMES[table]), (3, 2, NAMES[table])} <= found


def test_swapped_rounds_are_named(folder: Path):
    change(
        folder,
        "UPDATE rounds SET round = -1 WHERE round = 1",
        "UPDATE rounds SET round = 1 WHERE round = 2",
        "UPDATE rounds SET round = 2 WHERE round = -1",
    )
    found = places(audit(folder, OFFLINE))
    for number in (1, 2):
        assert {(number, None, "round", name) for name in ("parent_model", "root", "head")} <= found
