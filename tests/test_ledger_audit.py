"""The audit finds and names every change of a finished run, changes nothing itself, and never ends in a traceback."""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_ledger import CONFIG, LAYOUT, SIZE, Run

from engine.errors import LedgerError
from engine.ledger import archive, canonical, records, signing
from engine.ledger.audit import AuditReport, audit

ROUNDS = 3


def finish(run: Run, rounds: int = ROUNDS) -> Path:
    """Write the folder of a finished run."""
    with run.open() as ledger:
        archive.write_genesis(run.ledger_folder, run.genesis)
        for number in range(1, rounds + 1):
            archive.write_round(run.ledger_folder, number, run.vectors(number))
            ledger.append(run.entry(number, ledger.domain))
        summary = ledger.summary()
    params = run.params(rounds)
    save_file(canonical.unflatten(params, LAYOUT), run.folder / "model.safetensors")
    result = {
        "config_hash": CONFIG.hex(),
        "model_hash": canonical.vector_hash(params, LAYOUT).hex(),
        "ledger": summary,
    }
    (run.folder / "result.json").write_text(json.dumps(result))
    return run.folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(Run(tmp_path_factory.mktemp("run")))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


def change(folder: Path, *statements: str, arguments: tuple = ()) -> None:
    connection = sqlite3.connect(folder / "ledger" / "journal.sqlite")
    # Whoever tampers is not held back by the constraints of the tables.
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '') WHERE type = 'table'")
    connection.commit()
    connection.close()
    connection = sqlite3.connect(folder / "ledger" / "journal.sqlite")
    for statement in statements:
        changed = connection.execute(statement, arguments).rowcount
        assert changed > 0, statement
    connection.commit()
    connection.close()


def places(report: AuditReport) -> set[tuple]:
    return {(f.round, f.hospital, f.record, f.field) for f in report.findings}


def contents(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# --- Clean ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["samples", "uniform", "none"])
def test_a_clean_folder_is_clean_and_stays_as_it_is(tmp_path: Path, weighting: str):
    folder = finish(Run(tmp_path, weighting=weighting))
    before = contents(folder)
    report = audit(folder)
    assert report.findings == []
    assert report.notes == []
    assert contents(folder) == before
    assert report.counts == {
        "rounds": 3,
        "updates": 8,
        "transactions": 5,
        "signatures": 8,
        "re-executed": 5,
        "vectors": 8,
        "aggregates": 3,
        "results": 8,
    }
    assert report.head == json.loads((folder / "result.json").read_text())["ledger"]["head"]
    assert report.lines()[-1] == "clean"
    assert json.loads(json.dumps(report.to_dict()))["clean"] is True


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


# --- Unreadable -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b"text" * 1000),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:9000]),
    ],
)
def test_a_journal_that_cannot_be_read_is_an_error(folder: Path, damage: Callable[[Path], object]):
    damage(folder / "ledger" / "journal.sqlite")
    with pytest.raises(LedgerError, match="journal"):
        audit(folder)


@pytest.mark.parametrize("key", ["federation", "domain", "backend", "format"])
@pytest.mark.parametrize("value", ["null", "[]", "[" * 100_000, '{"chain_id": -1, "contract": "0x00"'])
def test_a_journal_that_does_not_say_whose_it_is_is_an_error(folder: Path, key: str, value: str):
    change(folder, "UPDATE meta SET value = ? WHERE key = ?", arguments=(value, key))
    with pytest.raises(LedgerError, match="journal"):
        audit(folder)


def test_a_domain_that_is_none_is_an_error(folder: Path):
    for chain_id, contract in ((-1, signing.address(b"\x07" * 32)), (1, "0x"), (1, None)):
        value = json.dumps({"chain_id": chain_id, "contract": contract})
        change(folder, "UPDATE meta SET value = ? WHERE key = 'domain'", arguments=(value,))
        with pytest.raises(LedgerError, match=r"journal .* is damaged"):
            audit(folder)


# --- Changed records --------------------------------------------------------------------------------------------------


NEW_VALUES: dict = {"schema": 2, "round": 3, "slot": 1, "samples": 999, "nonce": 1}


@pytest.mark.parametrize("name", list(records.UPDATE_FIELDS))
def test_a_change_of_any_field_of_a_record_is_named(folder: Path, name: str):
    connection = sqlite3.connect(folder / "ledger" / "journal.sqlite")
    [text] = connection.execute("SELECT record FROM updates WHERE round = 2 AND slot = 2").fetchone()
    connection.close()
    record = replace(records.record_from_json(text), **{name: NEW_VALUES.get(name, b"\x99" * 32)})
    statement = "UPDATE updates SET record = ? WHERE round = 2 AND slot = 2"
    change(folder, statement, arguments=(records.record_to_json(record),))
    found = places(audit(folder))
    expected = {(2, 2, "update", "signature"), (2, 2, "update", "leaf")}
    if name in ("schema", "federation", "round", "slot", "parent_model", "config_hash"):
        expected.add((2, 2, "update", name))
    if name == "update":
        expected.add((2, 2, "archive", "update"))
    if name == "samples":
        expected.add((2, None, "round", "model"))
    assert found == expected


DAMAGE: list[tuple[str, tuple]] = [
    ("UPDATE updates SET signature = zeroblob(65) WHERE round = 2 AND slot = 2", (2, 2, "update", "signature")),
    ("UPDATE updates SET signature = x'00' WHERE round = 2 AND slot = 2", (2, 2, "update", "signature")),
    ("UPDATE updates SET signature = NULL WHERE round = 2 AND slot = 2", (2, 2, "update", "signature")),
    ("UPDATE updates SET signature = 'text' WHERE round = 2 AND slot = 2", (2, 2, "update", "signature")),
    ("UPDATE updates SET leaf = zeroblob(32) WHERE round = 2 AND slot = 2", (2, 2, "update", "leaf")),
    ("UPDATE updates SET leaf = NULL WHERE round = 2 AND slot = 2", (2, 2, "update", "leaf")),
    ("UPDATE updates SET leaf = 5 WHERE round = 2 AND slot = 2", (2, 2, "update", "leaf")),
    ("UPDATE updates SET record = '{' WHERE round = 2 AND slot = 2", (2, 2, "update", "record")),
    ("UPDATE updates SET record = NULL WHERE round = 2 AND slot = 2", (2, 2, "update", "record")),
    ("UPDATE updates SET record = x'ff00' WHERE round = 2 AND slot = 2", (2, 2, "update", "record")),
    ("UPDATE updates SET record = cast(x'ff7b' AS TEXT) WHERE round = 2 AND slot = 2", (2, 2, "update", "record")),
    (
        "UPDATE updates SET record = json_remove(record, '$.nonce') WHERE round = 2 AND slot = 2",
        (2, 2, "update", "record"),
    ),
    ("UPDATE updates SET slot = 1 WHERE round = 2 AND slot = 2", (2, 1, "update", "slot")),
    ("UPDATE updates SET slot = 7 WHERE round = 2 AND slot = 2", (2, None, "update", "slot")),
    ("UPDATE updates SET slot = NULL WHERE round = 2 AND slot = 2", (2, None, "update", "slot")),
    ("UPDATE updates SET round = 9 WHERE round = 2 AND slot = 2", (9, 2, "update", "round")),
    ("UPDATE updates SET round = 'x' WHERE round = 2 AND slot = 2", (None, 2, "update", "round")),
    ("DELETE FROM updates WHERE round = 2 AND slot = 2", (2, None, "round", "count")),
    ("UPDATE rounds SET parent_model = zeroblob(32) WHERE round = 2", (2, None, "round", "parent_model")),
    ("UPDATE rounds SET parent_model = NULL WHERE round = 2", (2, None, "round", "parent_model")),
    ("UPDATE rounds SET model = zeroblob(32) WHERE round = 2", (2, None, "round", "model")),
    ("UPDATE rounds SET model = 'text' WHERE round = 2", (2, None, "round", "model")),
    ("UPDATE rounds SET count = 3 WHERE round = 2", (2, None, "round", "count")),
    ("UPDATE rounds SET count = NULL WHERE round = 2", (2, None, "round", "count")),
    ("UPDATE rounds SET count = -5 WHERE round = 2", (2, None, "round", "count")),
    ("UPDATE rounds SET root = zeroblob(32) WHERE round = 2", (2, None, "round", "root")),
    ("UPDATE rounds SET root = x'' WHERE round = 2", (2, None, "round", "root")),
    ("UPDATE rounds SET head = zeroblob(32) WHERE round = 2", (2, None, "round", "head")),
    ("UPDATE rounds SET head = NULL WHERE round = 2", (2, None, "round", "head")),
    ("UPDATE rounds SET round = 8 WHERE round = 2", (2, None, "round", "round")),
    ("UPDATE rounds SET round = -2 WHERE round = 2", (2, None, "round", "round")),
    ("DELETE FROM rounds WHERE round = 1", (1, None, "round", "round")),
    ("DELETE FROM rounds WHERE round = 3", (3, None, "round", "round")),
    ("UPDATE transactions SET raw = x'02' WHERE round = 2", (2, None, "transaction", "raw")),
    ("UPDATE transactions SET raw = NULL WHERE round = 2", (2, None, "transaction", "raw")),
    ("UPDATE transactions SET hash = zeroblob(32) WHERE round = 2", (2, None, "transaction", "hash")),
    ("UPDATE transactions SET purpose = 'open' WHERE round = 2", (2, None, "transaction", "purpose")),
    ("UPDATE transactions SET purpose = NULL WHERE round = 2", (2, None, "transaction", "purpose")),
    ("UPDATE transactions SET round = 3 WHERE round = 2", (3, None, "transaction", "round")),
    ("UPDATE transactions SET round = 'x' WHERE round = 2", (2, None, "transaction", "receipt")),
    ("UPDATE transactions SET receipt = NULL WHERE round = 2", (2, None, "transaction", "receipt")),
    ("UPDATE transactions SET receipt = NULL WHERE round = 3", (3, None, "transaction", "receipt")),
    ("UPDATE transactions SET receipt = '[]' WHERE round = 2", (2, None, "transaction", "receipt")),
    (
        "UPDATE transactions SET receipt = json_set(receipt, '$.gas', 1) WHERE round = 2",
        (2, None, "transaction", "gas"),
    ),
    (
        "UPDATE transactions SET receipt = json_set(receipt, '$.status', 0) WHERE round = 2",
        (2, None, "transaction", "status"),
    ),
    (
        "UPDATE transactions SET receipt = json_set(receipt, '$.transaction', '0x') WHERE round = 2",
        (2, None, "transaction", "receipt"),
    ),
    ("DELETE FROM transactions WHERE round = 2", (2, None, "transaction", "receipt")),
    ("DELETE FROM transactions WHERE purpose = 'open'", (1, None, "chain", "transaction")),
    ("DELETE FROM transactions WHERE purpose = 'deploy'", (0, None, "chain", "transaction")),
    ("UPDATE meta SET value = '{}' WHERE key = 'backend'", (None, None, "chain", "backend")),
    (
        "UPDATE meta SET value = json_set(value, '$.chain_id', 1) WHERE key = 'domain'",
        (None, None, "result", "ledger.chain_id"),
    ),
    (
        "UPDATE meta SET value = json_set(value, '$.weighting', 'uniform') WHERE key = 'federation'",
        (1, None, "round", "model"),
    ),
    (
        "UPDATE meta SET value = replace(value, 'bias', 'bios') WHERE key = 'federation'",
        (0, None, "archive", "genesis"),
    ),
]


@pytest.mark.parametrize(("statement", "place"), DAMAGE, ids=[statement for statement, _ in DAMAGE])
def test_a_change_of_any_row_is_named(folder: Path, statement: str, place: tuple):
    change(folder, statement)
    report = audit(folder)
    assert place in places(report)
    assert not report.clean
    assert all("\n" not in line for line in report.lines())
    json.dumps(report.to_dict())


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


def test_a_last_round_that_is_cut_off_everywhere_still_shows(folder: Path):
    change(folder, *(f"DELETE FROM {table} WHERE round = 3" for table in ("rounds", "updates", "transactions")))
    archive.round_path(folder / "ledger", 3).unlink()
    found = places(audit(folder))
    names = {"model_hash", "ledger.head", "ledger.rounds", "ledger.updates"}
    assert found == {(None, None, "result", name) for name in names} | {(2, None, "model", "model_hash")}


def test_a_hospital_that_is_exchanged_shows_in_the_registry(folder: Path):
    stranger = signing.address(b"\x07" * 32)
    statement = "UPDATE meta SET value = json_set(value, '$.hospitals[1]', ?) WHERE key = 'federation'"
    change(folder, statement, arguments=(stranger,))
    found = places(audit(folder))
    assert {(1, 1, "update", "signature"), (3, 1, "update", "signature")} <= found
    assert (0, None, "transaction", "registry_root") in found
    assert (ROUNDS, None, "chain", "registry_root") in found


def test_another_transaction_with_a_valid_signature_is_named(folder: Path):
    """The coordinator's key signs a seal with another model: hash and signature are right, the content is not."""
    from engine.ledger import chain

    connection = sqlite3.connect(folder / "ledger" / "journal.sqlite")
    [raw] = connection.execute("SELECT raw FROM transactions WHERE round = 2").fetchone()
    connection.close()
    content = chain.decode_transaction(raw)
    data = content["data"][: 4 + 4 * 32] + b"\x99" * 32 + content["data"][4 + 5 * 32 :]
    forged = chain.sign_transaction(
        chain._EMBEDDED_KEY, content["chain_id"], content["nonce"], content["to"], data, chain.GAS["seal"], 0, 10**10
    )
    statement = "UPDATE transactions SET raw = ?, hash = ? WHERE round = 2"
    change(folder, statement, arguments=(forged, chain.keccak(forged)))
    found = places(audit(folder))
    assert (2, None, "transaction", "model") in found
    assert (3, None, "transaction", "status") in found
    assert (3, None, "chain", "round") in found


# --- Changed files ----------------------------------------------------------------------------------------------------


def test_a_changed_vector_is_named(folder: Path):
    path = archive.round_path(folder / "ledger", 2)
    vectors = load_file(path)
    vectors["slot-0002"][5] = np.nextafter(vectors["slot-0002"][5], np.float32(9))
    save_file(vectors, path)
    report = audit(folder)
    assert places(report) == {(2, 2, "archive", "update")}
    assert report.notes == ["aggregates were not recomputed from round 2 on"]
    [finding] = report.findings
    assert finding.expected.startswith("0x")
    assert finding.found.startswith("0x")
    assert finding.expected != finding.found
    assert report.lines()[2].startswith("finding: round 2, hospital 2, archive.update: the archived vector is not")


@pytest.mark.parametrize(
    ("vectors", "place"),
    [
        ({"slot-0000": SIZE, "slot-0002": SIZE - 1}, (2, 2, "archive", "update")),
        ({"slot-0000": SIZE}, (2, 2, "archive", "update")),
        ({"slot-0000": SIZE, "slot-0001": SIZE, "slot-0002": SIZE}, (2, 1, "archive", "update")),
        ({"slot-2": SIZE}, (2, None, "archive", "file")),
    ],
)
def test_a_wrong_archive_is_named(folder: Path, vectors: dict[str, int], place: tuple):
    path = archive.round_path(folder / "ledger", 2)
    save_file({name: np.zeros(size, np.float32) for name, size in vectors.items()}, path)
    assert place in places(audit(folder))


def test_missing_damaged_and_surplus_archives_are_named(folder: Path):
    archive.round_path(folder / "ledger", 1).write_bytes(b"\xff" * 100)
    archive.round_path(folder / "ledger", 2).unlink()
    archive.write_round(folder / "ledger", 4, {0: np.zeros(SIZE, np.float32)})
    assert places(audit(folder)) == {(number, None, "archive", "file") for number in (1, 2, 4)}


def test_a_changed_genesis_is_named(folder: Path):
    archive.write_genesis(folder / "ledger", np.zeros(SIZE, np.float32))
    assert places(audit(folder)) == {(0, None, "archive", "genesis")}
    archive.round_path(folder / "ledger", 0).unlink()
    assert places(audit(folder)) == {(0, None, "archive", "genesis")}


def test_a_changed_model_is_named(folder: Path):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["bias"][0] = -tensors["bias"][0]
    save_file(tensors, path)
    assert places(audit(folder)) == {(ROUNDS, None, "model", "model_hash")}
    path.write_bytes(path.read_bytes()[:40])
    assert places(audit(folder)) == {(None, None, "model", "file")}
    path.unlink()
    assert places(audit(folder)) == {(None, None, "model", "file")}


@pytest.mark.parametrize("value", ["0x" + "99" * 32, 5, None, ["0x"], -1])
@pytest.mark.parametrize(
    "name",
    ["model_hash", "config_hash"] + [f"ledger.{n}" for n in ("head", "contract", "chain_id", "updates", "rounds")],
)
def test_a_changed_result_is_named(folder: Path, name: str, value: object):
    path = folder / "result.json"
    result = json.loads(path.read_text())
    *parents, key = name.split(".")
    inner = result[parents[0]] if parents else result
    inner[key] = value
    path.write_text(json.dumps(result))
    assert places(audit(folder)) == {(None, None, "result", name)}


def test_results_without_the_fields_are_noted_and_damaged_ones_named(folder: Path):
    path = folder / "result.json"
    path.write_text('{"ledger": 5}')
    report = audit(folder)
    assert report.clean
    assert "result.json has no ledger.head to compare" in report.notes
    for text in ("[" * 100_000, "{", "\udcff"):
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        assert places(audit(folder)) == {(None, None, "result", "file")}


def test_an_unreachable_node_is_noted(folder: Path):
    url = "http://127.0.0.1:9"
    statement = "UPDATE meta SET value = json_set(value, '$.name', 'rpc', '$.url', ?) WHERE key = 'backend'"
    change(folder, statement, arguments=(url,))
    report = audit(folder)
    assert places(report) == {(None, None, "result", "ledger.backend")}
    assert any(
        note.startswith(f"the chain was not compared: no Ethereum node answers at {url}") for note in report.notes
    )
