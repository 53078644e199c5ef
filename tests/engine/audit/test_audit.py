"""The audit names every change of a finished run, changes nothing itself, and never ends in a traceback.

The changes of single fields come from the journal's tables and the records' fields: a new one without a check fails here.
"""

import hashlib
import json
import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from test_ledger import CONFIG, FEDERATION_ID, LAYOUT, SIZE, Run
from test_policy import POLICY, REVIEWER, report, request

from engine import encoding
from engine.errors import LedgerError
from engine.ledger import archive, records, signing
from engine.ledger.audit import AuditReport, audit, compare
from engine.ledger.bundle import BUNDLE, write_bundle
from engine.ledger.chain import call_data
from engine.ledger.journal import TABLES
from engine.ledger.ledger import Ledger
from engine.ledger.records import (
    FIELDS,
    KeyRotation,
    ModelUpdate,
    RoundHead,
    SyntheticReport,
    SyntheticRequest,
    SyntheticReview,
    digest,
    solidity_name,
)
from engine.ledger.reputation import after, peer_scores, threshold, verdicts, words
from engine.model import unflatten, vector_hash

ROUNDS = 4
NEW_KEY = b"\x07" * 32


def govern(ledger: Ledger, kind: str, content: Any, key: bytes) -> bytes:
    signed = digest(content, ledger.synthetic_domain)
    sender = signing.address(key) if kind == "review" else None
    ledger.govern(kind, content, signing.sign_digest(signed, key), sender)
    return signed


def governance(run: Run, ledger: Ledger) -> None:
    """A denied, an accepted, a rejected and an expired request."""
    domain_admin = call_data("grantRole", signing.keccak(b"REVIEWER_ROLE"), signing.address(REVIEWER))
    ledger._transact("grant", 0, domain_admin)
    ledger.govern("reviewer", {"account": signing.address(REVIEWER), "organisation": b"\x77" * 32})
    values = {solidity_name(name): value for name, value in asdict(replace(POLICY, automatic=False)).items()}
    values |= {"minReal": list(POLICY.min_real), "expirySeconds": 4}
    ledger.govern("policy", values)
    govern(ledger, "request", request(class_=4), run.keys[0])
    for nonce, duplicates in ((1, 0), (2, 99)):
        id = govern(ledger, "request", request(nonce=nonce, quantity=9), run.keys[0])
        govern(ledger, "review", SyntheticReview(id, True, 8, b"\x08" * 32, 0), REVIEWER)
        govern(ledger, "report", report(id, 7, duplicates=duplicates), run.keys[0])
    id = govern(ledger, "request", request(nonce=3, slot=2), run.keys[2])
    for nonce in (4, 5, 6, 7):
        govern(ledger, "request", request(nonce=nonce, class_=4), run.keys[0])
    ledger.govern("expire", {"request": id})


def scored(number: int, slots: list[int]) -> tuple[records.PeerScore, ...]:
    """Hospital (number % 3) sends rubbish; the others are right about 80 of 100 beats."""
    return tuple(
        records.PeerScore(slot, judge, 10 if slot == number % 3 else 80 + judge, 100)
        for slot in slots
        for judge in slots
        if judge != slot
    )


def finish(run: Run, rounds: int = ROUNDS, full: bool = False) -> Path:
    """Write the folder of a finished run; `full` uses everything that a journal can hold."""
    reputation: dict[int, int] = {}
    with run.open() as ledger:
        archive.write_genesis(run.ledger_folder, run.genesis)
        if full:
            governance(run, ledger)
        for number in range(1, rounds + 1):
            if full and number == 3:
                domain, slot = ledger.domain, 1
                record = KeyRotation(
                    FEDERATION_ID, slot, signing.address(run.keys[slot]), signing.address(NEW_KEY), number
                )
                signatures = [signing.sign(record, domain, key) for key in (run.keys[slot], NEW_KEY)]
                ledger.rotate(record, *signatures)
                run.keys[slot] = NEW_KEY
            archive.write_round(run.ledger_folder, number, run.vectors(number))
            entry = run.entry(number, ledger.domain, ledger.head)
            if full:
                peers = scored(number, list(run.vectors(number)))
                accepted = verdicts(peer_scores(peers))
                level = threshold(reputation, list(accepted))
                judged = replace(entry, verdicts=words(accepted, level), peers=peers)
                entry = replace(judged, decisions=ledger.opened().decisions)
                reputation = after(reputation, accepted, level)
            ledger.append(entry)
            if full:
                ledger.update_reputation(number)
        head = RoundHead(FEDERATION_ID, rounds, 0, ledger.head)
        heads = {s: signing.sign(replace(head, slot=s), ledger.domain, run.keys[s]) for s in range(run.hospitals)}
        ledger.cosign(rounds, heads)
        if rounds:
            ledger.finalize()
        if full:
            for slot in range(3):
                ledger.claim(slot)
        summary = ledger.summary()
    params = run.params(rounds)
    save_file(unflatten(params, LAYOUT), run.folder / "model.safetensors")
    result = {"config_hash": CONFIG.hex(), "model_hash": vector_hash(params, LAYOUT).hex(), "ledger": summary}
    summary["bundle"] = write_bundle(run.ledger_folder, result, "name: test\n")
    (run.folder / "result.json").write_text(json.dumps(result))
    return run.folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(Run(tmp_path_factory.mktemp("run")), full=True)


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(Run(tmp_path_factory.mktemp("simple")), rounds=3)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.fixture
def plain(simple: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(simple, tmp_path / "plain"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without executing the transactions again, which finds much of the rest a second time and takes most of an audit."""
    monkeypatch.setattr("engine.ledger.audit._Audit.check_chain", lambda self: None)


def change(folder: Path, *statements: str, arguments: tuple = ()) -> None:
    """Change the journal behind the back of its tables' constraints, and write the bundle again from it."""
    path = folder / "ledger" / "journal.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA writable_schema = ON")
    for word in (
        " NOT NULL",
        "PRIMARY KEY (round, slot)",
        "PRIMARY KEY (slot, round)",
        "PRIMARY KEY (round, slot, judge)",
        "UNIQUE (kind, id)",
        "UNIQUE (round, verdicts)",
    ):
        new = "" if word == " NOT NULL" else "CHECK (1)"
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE type = 'table'", (word, new))
    connection.execute("DELETE FROM sqlite_master WHERE name LIKE 'sqlite_autoindex%' AND tbl_name != 'meta'")
    connection.commit()
    connection.close()
    connection = sqlite3.connect(path)
    for statement in statements:
        changed = connection.execute(statement, arguments).rowcount
        assert changed > 0, statement
    connection.commit()
    connection.close()
    result = json.loads((folder / "result.json").read_text())
    try:
        write_bundle(folder / "ledger", result, "name: test\n")
    except LedgerError:
        (folder / "ledger" / BUNDLE).unlink()


def places(report: AuditReport) -> set[tuple]:
    return {(f.round, f.hospital, f.record, f.field) for f in report.findings}


def names(report: AuditReport) -> set[tuple[str, str]]:
    return {(f.record, f.field) for f in report.findings}


def contents(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# --- Clean ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["samples", "uniform", "none"])
def test_a_clean_folder_is_clean_and_stays_as_it_is(tmp_path: Path, weighting: str):
    folder = finish(Run(tmp_path, weighting=weighting), rounds=3)
    before = contents(folder)
    report = audit(folder)
    assert report.findings == []
    assert report.notes == []
    assert contents(folder) == before
    assert report.counts == {
        "rounds": 3,
        "updates": 8,
        "transactions": 7,
        "openings": 8,
        "signatures": 8,
        "receipts": 8,
        "co-signatures": 3,
        "re-executed": 7,
        "vectors": 8,
        "aggregates": 3,
        "results": 10,
    }
    assert report.head == json.loads((folder / "result.json").read_text())["ledger"]["head"]
    assert report.lines()[-1] == "clean"
    assert json.loads(json.dumps(report.to_dict()))["clean"] is True


def test_a_run_with_everything_is_clean_from_folder_and_bundle(original: Path):
    report = audit(original)
    assert (report.findings, report.notes) == ([], [])
    assert {"governance", "quotas", "rotations", "verdicts", "reputations"} <= report.counts.keys()
    assert report.counts["governance"] == 15
    alone = audit(original / "ledger" / BUNDLE)
    assert (alone.findings, alone.notes, alone.head) == ([], [], report.head)
    # without the folder there is no result.json to compare with: two hashes instead of ten values
    assert alone.counts == report.counts | {"results": 2}


def test_an_erased_opening_leaves_a_note(folder: Path):
    change(folder, "DELETE FROM openings WHERE round = 2 AND slot = 2")
    report = audit(folder)
    assert report.findings == []
    assert any("round 2, hospital 2: the number of samples was erased" in note for note in report.notes)


def test_a_run_that_stopped_is_clean_with_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from engine.ledger.chain import EmbeddedChain

    run = Run(tmp_path)
    ledger = run.open()
    archive.write_genesis(run.ledger_folder, run.genesis)
    for number in (1, 2):
        archive.write_round(run.ledger_folder, number, run.vectors(number))
    ledger.append(run.entry(1, ledger.domain))
    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedChain, "send", None)
        with pytest.raises(TypeError):
            ledger.append(run.entry(2, ledger.domain))
    # The ledger is still open: what it wrote lies in the write-ahead log only.
    before = contents(tmp_path)
    report = audit(tmp_path)
    assert contents(tmp_path) == before
    ledger.close()
    assert report.findings == []
    assert report.counts["rounds"] == 2
    assert any("round 2 is recorded, but the run stopped" in note for note in report.notes)
    assert any("no result.json" in note for note in report.notes)


def test_one_hospital_and_no_round_are_clean(tmp_path: Path):
    assert audit(finish(Run(tmp_path / "one", hospitals=1))).clean
    assert audit(finish(Run(tmp_path / "none"), rounds=0)).clean


# --- Every field of every table ---------------------------------------------------------------------------------------

NAMES = {"updates": "update", "openings": "opening", "receipts": "receipt", "heads": "head", "rotations": "rotation"}
NAMES |= {"rounds": "round", "transactions": "transaction", "peers": "scores"}
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
    **{("peers", name): {"peers"} for name in ("slot", "judge", "correct", "total")},
    ("peers", "round"): {"round", "peers"},
    ("synthetic", "kind"): {"kind", "record"},
}
RECORDS = {
    ("updates", "record"): ModelUpdate,
    ("rotations", "record"): KeyRotation,
    ("synthetic", "record", "request"): SyntheticRequest,
    ("synthetic", "record", "review"): SyntheticReview,
    ("synthetic", "record", "report"): SyntheticReport,
}
JSON = {
    ("openings", "opening"): records.Opening,
    ("scores", "verdicts"): records.Verdicts,
}


def row_of(folder: Path, table: str, where: str = "1") -> tuple[int, dict[str, Any]]:
    """A row in the middle of a table."""
    connection = sqlite3.connect(folder / "ledger" / "journal.sqlite")
    rows = connection.execute(f"SELECT rowid, {', '.join(TABLES[table])} FROM {table} WHERE {where}").fetchall()
    connection.close()
    assert rows, f"the run of this test has no row in {table}"
    rowid, *values = rows[len(rows) // 2]
    return rowid, dict(zip(TABLES[table], values, strict=True))


def other(value: Any) -> Any:
    """A value of the same kind that is not the same."""
    match value:
        case bool():
            return not value
        case int():
            return value + 100
        case float():
            return value + 0.5
        case bytes():
            return value[:-1] + bytes([value[-1] ^ 1])
        case str() if value.startswith("0x") and len(value) == 42:
            return signing.address(b"\x09" * 32)
        case str() if value.startswith("0x"):
            return value[:-1] + ("0" if value[-1] != "0" else "1")
        case dict():
            return {**value, "added": 1}
        case None:
            return {"added": 1}
    return f"{value}x"


def set_value(folder: Path, table: str, rowid: int, column: str, value: Any) -> None:
    change(folder, f"UPDATE {table} SET {column} = ? WHERE rowid = ?", arguments=(value, rowid))


COLUMNS = [(table, column) for table, columns in TABLES.items() if table != "meta" for column in columns]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_change_of_any_column_is_found_and_named(folder: Path, table: str, column: str):
    where = f"{column} IS NOT NULL" if table == "synthetic" else "1"
    rowid, row = row_of(folder, table, where)
    value = row[column]
    set_value(folder, table, rowid, column, "damaged" if column in ("record", "opening", "verdicts") else other(value))
    found = names(audit(folder))
    expected = ALIASES.get((table, column), {column})
    # a score that changes no verdict shows in the root alone
    root = {("round", "scores_root")} if table == "peers" else set()
    assert (root | {(NAMES.get(table, table), name) for name in expected}) & found, sorted(found)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("value", [None, "", b"\xff", -1, 2**62, 1.5, "[" * 100_000], ids=lambda v: repr(v)[:12])
@pytest.mark.parametrize("table", [table for table in TABLES if table != "meta"])
def test_no_value_of_any_column_ends_in_a_traceback(original: Path, folder: Path, table: str, value: Any):
    for column in TABLES[table]:
        rowid, _ = row_of(folder, table, f"{column} IS NOT NULL" if table == "synthetic" else "1")
        if (table, column) in (("synthetic", "seq"), ("transactions", "seq"), ("rounds", "round")) and type(
            value
        ) is not int:
            continue  # SQLite itself holds nothing but an integer there
        set_value(folder, table, rowid, column, value)
        report = audit(folder)
        assert not report.clean, column
        assert all("\n" not in line for line in report.lines())
        json.dumps(report.to_dict())
        shutil.copyfile(original / "ledger" / "journal.sqlite", folder / "ledger" / "journal.sqlite")


FIELDS_OF_RECORDS = [(*where, name) for where, kind in RECORDS.items() for name in FIELDS[kind]]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("place", FIELDS_OF_RECORDS, ids=lambda place: ".".join(place))
def test_a_change_of_any_field_of_a_signed_record_is_found_and_named(folder: Path, place: tuple[str, ...]):
    table, column, *kinds, name = place
    kind = kinds[0] if kinds else None
    rowid, row = row_of(folder, table, f"kind = '{kind}' AND seq > 5" if kind else "1")
    values = json.loads(row[column])
    values[name] = other(values[name])
    set_value(folder, table, rowid, column, encoding.canonical_json(values))
    found = names(audit(folder))
    record = NAMES.get(table, table)
    assert {(record, name), (record, "signature"), (record, "old_signature")} & found, sorted(found)


def test_every_signed_record_of_a_journal_is_covered():
    assert {ModelUpdate, KeyRotation, SyntheticRequest, SyntheticReview, SyntheticReport} == set(RECORDS.values())
    assert set(FIELDS) - set(RECORDS.values()) == {RoundHead, records.Receipt}  # only their signatures are kept


FIELDS_OF_JSON = [(*where, name) for where, kind in JSON.items() for name in kind.__dataclass_fields__]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("place", FIELDS_OF_JSON, ids=lambda place: ".".join(place))
def test_a_change_of_any_field_behind_a_commitment_is_found_and_named(folder: Path, place: tuple[str, str, str]):
    table, column, name = place
    rowid, row = row_of(folder, table)
    values = json.loads(row[column])
    values[name] = other(values[name])
    set_value(folder, table, rowid, column, encoding.canonical_json(values))
    found = names(audit(folder))
    record = NAMES.get(table, table)
    committed = {"samples_salt": "samples", "metrics_salt": "metrics"}.get(name, name)
    assert {(record, committed), ("round", "scores_root")} & found, sorted(found)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("key", ["federation", "domain", "backend", "format", "rule"])
def test_a_change_of_what_the_journal_belongs_to_is_found_and_named(folder: Path, key: str):
    set_value(folder, "meta", row_of(folder, "meta", f"key = '{key}'")[0], "value", "x")
    assert ("meta", key) in names(audit(folder))
    set_value(folder, "meta", row_of(folder, "meta", f"key = '{key}'")[0], "value", "[" * 100_000)
    assert ("meta", key) in names(audit(folder))


FEDERATION = {
    "id": {("update", "federation"), ("transaction", "federation")},
    "config_hash": {("update", "config_hash"), ("transaction", "configHash")},
    "hospitals": {("update", "signature"), ("transaction", "registryRoot")},
    "genesis_model": {("archive", "genesis"), ("transaction", "genesisModel")},
    "layout": {("archive", "genesis")},
    "weighting": {("round", "model")},
    "organisations": {("transaction", "registryRoot")},
    "quorum": {("transaction", "quorum")},
    "window": {("transaction", "window")},
}


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", records.Federation.__dataclass_fields__)
def test_a_change_of_the_federation_is_found_and_named(folder: Path, name: str):
    rowid, row = row_of(folder, "meta", "key = 'federation'")
    values = json.loads(row["value"])
    match name:
        case "hospitals" | "organisations":
            values[name][1] = other(values[name][1])
        case "layout":
            values[name][0][0] += "x"
        case "weighting":
            values[name] = "uniform"
        case "quorum":
            values[name] = 2
        case _:
            values[name] = other(values[name])
    set_value(folder, "meta", rowid, "value", encoding.canonical_json(values))
    assert FEDERATION[name] <= names(audit(folder))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("table", [t for t in TABLES if t not in ("meta", "openings", "heads")])
def test_a_missing_row_is_found(folder: Path, table: str):
    rowid, row = row_of(folder, table)
    change(folder, f"DELETE FROM {table} WHERE rowid = ?", arguments=(rowid,))
    report = audit(folder)
    assert not report.clean
    if "round" in row and table != "rotations":
        assert any(f.round == row["round"] for f in report.findings)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("table", ["updates", "openings", "receipts"])
def test_swapped_rows_are_found_and_named(folder: Path, table: str):
    change(
        folder,
        f"UPDATE {table} SET slot = -1 WHERE round = 3 AND slot = 0",
        f"UPDATE {table} SET slot = 0 WHERE round = 3 AND slot = 2",
        f"UPDATE {table} SET slot = 2 WHERE round = 3 AND slot = -1",
    )
    found = {(f.round, f.hospital, f.record) for f in audit(folder).findings}
    assert {(3, 0, NAMES[table]), (3, 2, NAMES[table])} <= found


@pytest.mark.usefixtures("offline")
def test_swapped_rounds_are_named(folder: Path):
    change(
        folder,
        "UPDATE rounds SET round = -1 WHERE round = 1",
        "UPDATE rounds SET round = 1 WHERE round = 2",
        "UPDATE rounds SET round = 2 WHERE round = -1",
    )
    found = places(audit(folder))
    for number in (1, 2):
        assert {(number, None, "round", name) for name in ("parent_model", "root", "head")} <= found


def test_a_last_round_that_is_cut_off_everywhere_still_shows(plain: Path):
    tables = ("rounds", "updates", "openings", "receipts", "heads")
    change(
        plain, *(f"DELETE FROM {table} WHERE round = 3" for table in tables), "DELETE FROM transactions WHERE seq > 5"
    )
    archive.round_path(plain / "ledger", 3).unlink()
    found = names(audit(plain))
    assert {("result", "ledger.head"), ("result", "ledger.rounds"), ("model", "model_hash")} <= found
    alone = audit(plain / "ledger" / BUNDLE)
    assert ("bundle", "model_hash") in names(alone)


def test_a_whole_history_written_anew_shows_against_another_copy(tmp_path: Path):
    """Whoever holds all keys can write another history; the copy that somebody kept gives it away, hospital by hospital."""
    truth = finish(Run(tmp_path / "a"), rounds=3)
    forged = Run(tmp_path / "b")
    forged.samples = lambda slot: 100 + 20 * slot  # type: ignore[method-assign]
    lie = finish(forged, rounds=3)
    assert audit(lie).clean
    report = compare(truth / "ledger" / BUNDLE, lie)
    assert (1, 1, "equivocation", "update") in places(report)
    assert (3, None, "equivocation", "head") in places(report)
    assert compare(truth, truth / "ledger" / BUNDLE).clean


def test_copies_of_different_runs_cannot_contradict(tmp_path: Path, simple: Path):
    one = finish(Run(tmp_path, hospitals=2), rounds=1)
    report = compare(one, simple)  # same id, same contract, other members
    assert ("equivocation", "head") in names(report)


def test_another_transaction_with_a_valid_signature_is_named(plain: Path):
    """The coordinator's key signs a seal with another model: hash and signature are right, the content is not."""
    from engine.ledger import chain

    rowid, row = row_of(plain, "transactions", "purpose = 'seal' AND round = 2")
    content = chain.decode_transaction(row["raw"])
    _, arguments = chain.call_arguments(content["data"])
    header = tuple({**arguments["header"], "model": b"\x99" * 32}.values())
    data = call_data("sealRound", FEDERATION_ID, header, arguments["submissions"], arguments["next"])
    forged = chain.sign_transaction(
        chain._EMBEDDED_KEY, content["chain_id"], content["nonce"], content["to"], data, chain.GAS["seal"], 0, 10**10
    )
    statement = "UPDATE transactions SET raw = ?, hash = ? WHERE rowid = ?"
    change(plain, statement, arguments=(forged, chain.keccak(forged), rowid))
    found = places(audit(plain))
    assert (2, None, "transaction", "model") in found
    assert (3, None, "transaction", "status") in found


# --- Changed files ----------------------------------------------------------------------------------------------------


def test_a_changed_vector_is_named(plain: Path):
    path = archive.round_path(plain / "ledger", 2)
    vectors = load_file(path)
    vectors["slot-0002"][5] = np.nextafter(vectors["slot-0002"][5], np.float32(9))
    save_file(vectors, path)
    report = audit(plain)
    assert (2, 2, "archive", "update") in places(report)
    assert "aggregates were not recomputed from round 2 on" in report.notes
    finding = next(f for f in report.findings if f.record == "archive")
    assert finding.expected.startswith("0x")
    assert finding.found.startswith("0x")
    assert finding.expected != finding.found


@pytest.mark.parametrize(
    ("vectors", "place"),
    [
        ({"slot-0000": SIZE, "slot-0002": SIZE - 1}, (2, 2, "archive", "update")),
        ({"slot-0000": SIZE}, (2, 2, "archive", "update")),
        ({"slot-0000": SIZE, "slot-0001": SIZE, "slot-0002": SIZE}, (2, 1, "archive", "update")),
        ({"slot-2": SIZE}, (2, 2, "archive", "update")),
    ],
)
def test_a_wrong_archive_is_named(plain: Path, vectors: dict[str, int], place: tuple):
    path = archive.round_path(plain / "ledger", 2)
    save_file({name: np.zeros(size, np.float32) for name, size in vectors.items()}, path)
    assert place in places(audit(plain))


def test_missing_damaged_and_surplus_archives_are_named(plain: Path):
    archive.round_path(plain / "ledger", 1).write_bytes(b"\xff" * 100)
    archive.round_path(plain / "ledger", 2).unlink()
    archive.write_round(plain / "ledger", 4, {0: np.zeros(SIZE, np.float32)})
    assert {(number, None, "archive", "file") for number in (1, 2, 4)} <= places(audit(plain))


def test_a_changed_model_is_named(plain: Path):
    path = plain / "model.safetensors"
    tensors = load_file(path)
    tensors["bias"][0] = -tensors["bias"][0]
    save_file(tensors, path)
    assert places(audit(plain)) == {(3, None, "model", "model_hash")}
    path.write_bytes(path.read_bytes()[:40])
    assert places(audit(plain)) == {(None, None, "model", "file")}
    path.unlink()
    assert places(audit(plain)) == {(None, None, "model", "file")}


@pytest.mark.parametrize("value", ["0x" + "99" * 32, 5, None, ["0x"], -1])
@pytest.mark.parametrize(
    "name",
    ["model_hash", "config_hash"] + [f"ledger.{n}" for n in ("head", "contract", "chain_id", "updates", "rounds")],
)
def test_a_changed_result_is_named(plain: Path, name: str, value: object):
    path = plain / "result.json"
    result = json.loads(path.read_text())
    *parents, key = name.split(".")
    inner = result[parents[0]] if parents else result
    inner[key] = value
    path.write_text(json.dumps(result))
    assert places(audit(plain)) == {(None, None, "result", name)}


def test_a_result_without_values_or_form_is_named(plain: Path):
    path = plain / "result.json"
    path.write_text('{"ledger": 5}')
    assert ("result", "ledger.head") in names(audit(plain))
    for text in ("[" * 100_000, "{", "\udcff"):
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        assert places(audit(plain)) == {(None, None, "result", "file")}


def test_an_unreachable_node_is_noted(plain: Path):
    url = "http://127.0.0.1:9"
    statement = "UPDATE meta SET value = json_set(value, '$.name', 'rpc', '$.url', ?) WHERE key = 'backend'"
    change(plain, statement, arguments=(url,))
    report = audit(plain)
    assert places(report) == {(None, None, "result", "ledger.backend")}
    assert any(note.startswith("the chain was not compared") for note in report.notes)


# --- Hostile archives -------------------------------------------------------------------------------------------------


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


def test_a_bundle_of_another_time_beside_the_journal_is_named(plain: Path, original: Path):
    shutil.copyfile(original / "ledger" / BUNDLE, plain / "ledger" / BUNDLE)
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
