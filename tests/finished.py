"""Folders of finished runs for the tests of the audit, and ways to change them behind the back of everything.

folder = finish(Run(tmp_path), full=True)          # uses everything that a journal can hold
change(folder, "DELETE FROM receipts WHERE round = 2")
assert ("receipt", "signature") in names(audit(folder, checks=OFFLINE))
"""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from reported import document, predictions, statement
from safetensors.numpy import save_file
from simulators import DATA, FEDERATION_ID, LAYOUT, POLICY, REVIEWER, SETTINGS, Run, report, request

from engine.audit import outcomes, state
from engine.audit import run as audit_run
from engine.audit.case import Case
from engine.audit.evidence import Evidence
from engine.audit.execution import Executed, RunState, execute_run
from engine.audit.known import NOTHING, Known
from engine.audit.reading import read
from engine.audit.report import Report, collected
from engine.audit.run import CHECKS, Check
from engine.encoding import canonical_json, hexed, json_hash
from engine.errors import LedgerError
from engine.ledger import archive
from engine.ledger.bundle import write_bundle
from engine.ledger.chain.embedded import EMBEDDED_AUDITOR
from engine.ledger.format import BUNDLE, DECISIONS, RUN
from engine.ledger.run import RunLedger
from engine.ledger.signing import address, sign
from engine.ledger.subjects.closing import bound, text_digest
from engine.ledger.subjects.reputation import PeerScores, Standing, digests, judge, said_digest
from engine.ledger.subjects.rounds import RoundEntry
from engine.ledger.subjects.synthetic import (
    Expire,
    SetPolicy,
    SetReviewer,
    SignedPreview,
    SignedReport,
    SignedRequest,
    SignedReview,
    Step,
    SyntheticPreview,
    SyntheticRequest,
    SyntheticReview,
)
from engine.ledger.subjects.updates import count_commitment
from engine.ledger.typed import Domain, record_to_json
from engine.model import unflatten
from engine.oracles.base import Batch
from engine.outputs import predictions_digest
from engine.provenance import code_digest
from engine.settings import dump_yaml
from engine.synthesis.files import batch_digest, count_file, picture_file, preview_file
from engine.synthesis.govern import NUMBERS

ROUNDS = 4
NEW_KEY = b"\x07" * 32
REAL, SALT = 33, b"\x0a" * 32  # behind every request for synthetic beats
# Without executing the transactions again, which finds much of the rest a second time and takes most of an audit.
OFFLINE = tuple(check for check in CHECKS if check not in (state.check, outcomes.check))


def case_of(folder: Path) -> Case:
    """What an audit reads of a folder that contradicts itself nowhere, with what is read only while its evidence is open."""
    with Evidence(folder) as evidence:
        found, told = collected(read(evidence))
        assert told == []
        assert found is not None
        assert found.config
        assert found.reported
    return found


def finish(
    run: Run,
    rounds: int = ROUNDS,
    full: bool = False,
    evidence: Mapping[str, Any] = {},
    policy: Mapping[str, Any] = {},
    same: bool = False,
    trained: bool = False,
    missing: Mapping[int, str] = {},
    after: Callable[[RunLedger], object] = lambda ledger: None,
    **settings: Any,
) -> Path:
    """Write the folder of a finished run; `full` uses everything that a journal can hold, and the files beside it.

    One with fewer rounds than its configuration wants was pruned, and leaves a journal and vectors only.

    Args:
        evidence, policy: changes of the quality reports, and of the policy on synthetic beats.
        same: all beats of a batch are one.
        trained: reviewers are shown beats that are trained on.
        missing: hospitals that signed nothing at the end, by the coordinator's word.
        after: what is done with the ledger when the run has ended.
    """
    with run.open(**settings) as ledger:
        archive.write_genesis(run.ledger_folder, run.genesis)
        rows = govern(run, ledger, evidence, policy, same, trained) if full else []
        standing = Standing()
        for number in range(1, rounds + 1):
            if full and number == 3:
                ledger.rotate(run.rotation(0, NEW_KEY, number, ledger.domain))
                run.keys[0] = NEW_KEY
            archive.write_round(run.ledger_folder, number, run.vectors(number))
            entry = run.entry(number, ledger.domain, ledger.head)
            if full:
                slots = list(run.vectors(number))
                said = scored(number, slots)
                judged = judge(said, slots, standing, opinions(run, entry, said, ledger.domain, ledger.head))
                standing = standing.after(judged.verdicts)
                named = {**digests(number, judged, standing), DECISIONS: ledger.synthetic.decisions}
                entry = replace(entry, digests=named, rows=judged.rows(number))
            ledger.append(entry)
            if full:
                ledger.reputation.update(number)
        result = document(run, rounds) | ({"synthesis": rows} if full else {})
        close(run, ledger, rounds, result, missing)
        if rounds:
            ledger.rounds.finalize()
        if full:
            for slot in range(run.hospitals):
                ledger.reputation.claim(slot)
        after(ledger)
        summary = ledger.summary()
    (run.folder / "config.yaml").write_text(dump_yaml(SETTINGS))
    if rounds < SETTINGS.federation.rounds:
        return run.folder
    save_file(unflatten(run.params(rounds), LAYOUT), run.folder / "model.safetensors")
    pq.write_table(predictions(run), run.folder / "predictions.parquet")
    write_bundle(run.ledger_folder, result, dump_yaml(SETTINGS))
    times = dict.fromkeys(("seconds", "open_seconds", "close_seconds", "critical_path_seconds", "overhead_share"), 0.5)
    (run.folder / "result.json").write_text(json.dumps({**result, "ledger": {**summary, **times}}))
    return run.folder


def challenge(run: Run, ledger: RunLedger) -> None:
    """Two challenges: the first hospital has opened its update and is innocent, the other one is silent for a week."""
    for slot in (1, 2):
        ledger.challenges.challenge(3, slot, EMBEDDED_AUDITOR)
    ledger.challenges.answer(3, 1, b"\x0b" * 32, run.keys[1])
    ledger.challenges.decide(3, 1, False, json_hash([]), EMBEDDED_AUDITOR)
    ledger.challenges.expire(3, 2)


def close(run: Run, ledger: RunLedger, rounds: int, result: Mapping[str, Any], missing: Mapping[int, str] = {}) -> None:
    """End a run as the engine does."""
    contents = {slot: canonical_json(statement(run, slot, rounds)) for slot in range(run.hospitals)}
    signed = run.results(rounds, ledger.head, ledger.domain, contents)
    signed = {slot: one for slot, one in signed.items() if slot not in missing}
    kept = {"config": text_digest(dump_yaml(SETTINGS)), "data": bytes.fromhex(DATA), "code": code_digest()}
    if rounds < SETTINGS.federation.rounds:
        ledger.closing.close(signed, "pruned", missing, kept)
        return
    kept |= {"result": json_hash(bound(result)), "predictions": bytes.fromhex(predictions_digest(predictions(run)))}
    ledger.closing.close(signed, "complete", missing, kept)


def opinions(run: Run, entry: RoundEntry, said: Mapping[int, Any], domain: Domain, head: bytes) -> dict[int, bytes]:
    """What each judge signs of its scores."""
    sent = {one.record.slot: one.record.update for one in entry.updates}
    found = {}
    for by in sent:
        rows = [(slot, sent[slot], *row[by]) for slot, row in sorted(said.items()) if by in row]
        record = PeerScores(FEDERATION_ID, entry.round, by, head, said_digest(rows))
        found[by] = sign(record, domain, run.keys[by])
    return found


def scored(number: int, slots: list[int]) -> dict[int, dict[int, tuple[int, int]]]:
    """Hospital (number % 3) sends rubbish; the others are right about 80 of 100 beats."""
    return {slot: {by: (10 if slot == number % 3 else 80 + by, 100) for by in slots if by != slot} for slot in slots}


def govern(
    run: Run, ledger: RunLedger, changed: Mapping[str, Any], policy: Mapping[str, Any], same: bool, trained: bool
) -> list[dict[str, Any]]:
    """An accepted, a rejected, a waiting and five denied requests, with what lies in the folder behind them.

    On the embedded chain, where every transaction takes a second, the waiting one expires.
    """
    take, domain, rows = ledger.synthetic.take, ledger.synthetic.domain, []
    home, reviews = run.folder / "synthetic", run.ledger_folder / "reviews"
    home.mkdir()
    reviews.mkdir()

    def ask(status: str, granted: int = 0, accepted: int = 0, **changes: Any) -> bytes:
        asked: SyntheticRequest = request(**{"real_count": count_commitment(SALT, REAL), **changes})
        id = take(SignedRequest(asked, sign(asked, domain, run.keys[asked.slot]))).id
        open_count(run.folder, id)
        row = {"request": id.hex(), "hospital": asked.slot, "class": "NSVFQ"[asked.class_], "wanted": asked.quantity}
        row |= {"generator": "smote", "real_floor": asked.real_floor, "record": record_to_json(asked), "allowed": 0}
        row |= {"organisation": run.federation.organisations[asked.slot].hex(), "reasons": ""}
        row |= {"preview": None, "blind": False, **dict.fromkeys(("numbers", "batch", "evidence", "file"))}
        rows.append({**row, "status": status, "granted": granted, "accepted": accepted})
        return id

    take(SetReviewer(address(REVIEWER), b"\x77" * 32))
    take(SetPolicy(replace(POLICY, automatic=False, preview=30, expiry_seconds=4, **policy)))
    ask("denied", class_=4)
    draw = np.random.default_rng(3)
    for nonce, status, near in ((1, "accepted", 0), (2, "rejected", 99)):
        made = Batch(draw.normal(size=(7, 5)), draw.normal(size=(7, 2)), np.full(7, 2))
        if same:
            made = made._replace(x=made.x[[0] * 7])
        made = Batch(made.x.astype(np.float32), made.rr.astype(np.float32), made.y.astype(np.int8))
        id = ask(status, 8, len(made.y) if status == "accepted" else 0, nonce=nonce, quantity=9)
        rows[-1]["preview"] = preview(run, take, domain, id, made if trained else made._replace(x=made.x - 2))
        reason = f"reason {nonce}"
        (reviews / f"{id.hex()}.json").write_text(json.dumps({"reason": reason}))
        review = SyntheticReview(id, True, 8, hashlib.sha256(reason.encode()).digest(), 0)
        take(SignedReview(review, sign(review, domain, REVIEWER), address(REVIEWER)))
        evidence = quality(near) | dict(changed)
        (home / f"evidence-{id.hex()[:16]}.json").write_text(json.dumps(evidence, indent=1))
        told = replace(
            report(id, 7, duplicates=near, repeated=0), batch=batch_digest(made), evidence=json_hash(evidence)
        )
        take(SignedReport(told, sign(told, domain, run.keys[0])))
        rows[-1] |= {"batch": told.batch.hex(), "evidence": told.evidence.hex()}
        rows[-1] |= {
            "file": f"synthetic/evidence-{id.hex()[:16]}.json",
            "numbers": {n: getattr(told, n) for n in NUMBERS},
        }
        if status == "accepted":
            np.savez(home / "hospital-0.npz", **made._asdict())
    embedded = ledger.book.chain.name == "embedded"
    waiting = ask("expired" if embedded else "pending", nonce=3, slot=2)
    for nonce in (4, 5, 6, 7):
        ask("denied", nonce=nonce, class_=4)
    if embedded:
        take(Expire(waiting))
    return rows


def preview(run: Run, take: Callable[[Step], Any], domain: Domain, id: bytes, made: Batch) -> dict[str, Any]:
    """Show the first five of some beats to the reviewer, with a picture; returns the row of it."""
    page, made = preview_file(run.folder / "synthetic", id.hex()), Batch(*(part[:5] for part in made[:3]))
    picture = picture_file(page, real=False)
    picture.write_bytes(b"\x89PNG")
    evidence = quality(0) | {"synthetic": 5}
    numbers = {n: getattr(report(id, 5, duplicates=0, repeated=0), n) for n in NUMBERS}
    pictures = {picture.name: hashlib.sha256(b"\x89PNG").hexdigest()}
    content = {"quality": evidence, "numbers": numbers, "pictures": pictures}
    page.write_text(json.dumps(content))
    np.savez(page.with_suffix(".npz"), x=made.x, rr=made.rr, y=made.y)
    shown = SyntheticPreview(id, 5, batch_digest(made), json_hash(content))
    take(SignedPreview(shown, sign(shown, domain, run.keys[0])))
    digests = {name: getattr(shown, name).hex() for name in ("batch", "evidence")}
    return {"generated": 5, **digests, "file": f"synthetic/{page.name}"}


def open_count(folder: Path, id: bytes) -> None:
    """Open the real beats behind a request, as its hospital does before it asks."""
    path = count_file(folder / "synthetic", id.hex())
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"count": REAL, "salt": hexed(SALT)}))


def quality(near: int) -> dict[str, Any]:
    """A quality report whose numbers are those of `simulators.report`."""
    return {
        "label": "V",
        "generator": "smote",
        "real": REAL,
        "synthetic": 7,
        "discriminative": {"gru": {"auc": 0.2}, "linear": {"auc": 0.1}},
        "variety": {"repeated": 0, "spread": 0.2, "distance": 3.0},
        "privacy": {"nndr": 0.06, "near": near},
        "utility": {"change": -0.05},
        "recognition": {"share": 0.3},
    }


# --- Changes ----------------------------------------------------------------------------------------------------------


def change(folder: Path, *statements: str, arguments: tuple = ()) -> None:
    """Change the journal, in tables that lose their constraints first, and write the bundle again from it."""
    path = folder / "ledger" / RUN.file
    loosen(path, {name: what for name, what in RUN.tables.items() if any(name in one for one in statements)})
    connection = sqlite3.connect(path)
    for one in statements:
        changed = connection.execute(one, arguments).rowcount
        assert changed > 0, one
    connection.commit()
    connection.close()
    result = json.loads((folder / "result.json").read_text())
    try:
        write_bundle(folder / "ledger", result, (folder / "config.yaml").read_text())
    except LedgerError:
        (folder / "ledger" / BUNDLE).unlink()


def loosen(path: Path, tables: Mapping[str, Any]) -> None:
    """Take types, keys and constraints from tables of a journal."""
    connection = sqlite3.connect(path)
    made = dict(connection.execute("SELECT name, sql FROM sqlite_master").fetchall())
    for table, what in tables.items():
        columns = ", ".join(what.columns)
        if made[table] == f'CREATE TABLE "{table}" ({columns})':
            continue  # it has none
        connection.execute(f"CREATE TABLE loose ({columns})")
        connection.execute(f"INSERT INTO loose SELECT {columns} FROM {table} ORDER BY rowid")
        connection.execute(f"DROP TABLE {table}")
        connection.execute(f"ALTER TABLE loose RENAME TO {table}")
    connection.commit()
    connection.close()


def set_value(folder: Path, table: str, rowid: int, column: str, value: Any) -> None:
    """Write one value."""
    change(folder, f"UPDATE {table} SET {column} = ? WHERE rowid = ?", arguments=(value, rowid))


def row_of(folder: Path, table: str, where: str = "1") -> tuple[int, dict[str, Any]]:
    """A row in the middle of a table, and its position."""
    path = folder / "ledger" / RUN.file
    loosen(path, {table: RUN.tables[table]})
    connection = sqlite3.connect(path)
    columns = tuple(RUN.tables[table].columns)
    rows = connection.execute(f"SELECT rowid, {', '.join(columns)} FROM {table} WHERE {where}").fetchall()
    connection.close()
    assert rows, f"the run of this test has no row in {table}"
    rowid, *values = rows[len(rows) // 2]
    return rowid, dict(zip(columns, values, strict=True))


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
            return address(b"\x09" * 32)
        case str() if value.startswith("0x"):
            return value[:-1] + ("0" if value[-1] != "0" else "1")
        case dict():
            return {**value, "added": 1}
        case None:
            return {"added": 1}
    return f"{value}x"


# --- Audits -----------------------------------------------------------------------------------------------------------

_executed: dict[str, Executed[RunState]] = {}


def remembered(*given: Any) -> Executed[RunState]:
    """As `execute_run`, but what was executed before is not again: nearly all changes leave the transactions alone."""
    if given[-1] is not None:  # a node's answer is its own each time
        return execute_run(*given)
    key = repr(given)
    if key not in _executed:
        _executed[key] = execute_run(*given)
    return _executed[key]


def audit(path: Path, checks: Sequence[Check] = CHECKS, known: Known = NOTHING) -> Report:
    """The audit of a run; of the many copies of one run, the contracts are executed for the first."""
    return audit_run.audit(path, checks, known, remembered)


# --- What an audit says -----------------------------------------------------------------------------------------------


def places(report: Report) -> set[tuple]:
    """Round, hospital, record and field of each finding."""
    return {(f.round, f.hospital, f.record, f.field) for f in report.findings}


def names(report: Report) -> set[tuple[str, str]]:
    """Record and field of each finding."""
    return {(f.record, f.field) for f in report.findings}


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
