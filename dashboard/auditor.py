"""The auditor's pages: verdicts, the journal to look through, proofs to take along, governance, registration, privacy."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, File, UploadFile
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from dashboard import journal, reading
from dashboard.desk import At, Auditor, AuditorChanges, Desk
from dashboard.places import Place
from dashboard.reading import Page
from engine.audit import spec
from engine.audit.evidence import Evidence
from engine.encoding import unhexed
from engine.errors import ConfigError, PulseLedgerError
from engine.ledger import proofs

UPLOADS = 20  # bundles of a dashboard
FRESH = 30.0  # seconds that a verdict is shown of a folder that goes on changing
SHOWN = 300  # findings of a report on its page


def add(app: FastAPI) -> None:
    """Adds the pages."""
    app.add_api_route("/audit", start)
    app.add_api_route("/audit/upload", upload, methods=["POST"])
    app.add_api_route("/audit/compare", compare)
    app.add_api_route("/audit/{id}", verdict)
    app.add_api_route("/audit/{id}/report", report)
    app.add_api_route("/audit/{id}/journal", look)
    app.add_api_route("/audit/{id}/proof", proof)
    app.add_api_route("/audit/{id}/governance", governance)
    app.add_api_route("/audit/{id}/registration", registration)
    app.add_api_route("/audit/{id}/privacy", privacy)


def start(desk: At, session: Auditor) -> Response:
    """What can be audited."""
    return desk.page("audits.html", session, places=desk.places.all())


def upload(desk: At, session: AuditorChanges, bundle: Annotated[UploadFile, File()]) -> Response:
    """Takes a bundle to look at; it is gone with the dashboard."""
    if sum(place.kind == "bundle" for place in desk.places.all()) >= UPLOADS:
        raise ConfigError(f"{UPLOADS} bundles were brought already; start the dashboard again.")
    with tempfile.NamedTemporaryFile(dir=desk.uploads, suffix=".plb", delete=False) as file:
        shutil.copyfileobj(bundle.file, file)
    place = desk.places.give(Path(bundle.filename or "bundle").name[:200], Path(file.name))
    return RedirectResponse(f"/audit/{place.id}", 303)


def _judged(desk: Desk, path: Path, *words: str) -> Any:
    """A verdict; raises Busy until it is there. It holds for the folder as it was when the audit began."""
    work = ("audit", path, words)
    return desk.work.ask(work, reading.stamp(path), lambda: desk.judge(path, *words), stand_in=False, fresh=FRESH)


def verdict(desk: At, session: Auditor, id: str, head: str = "") -> Response:
    """What the audit says."""
    place = desk.place(id)
    words = _head(head)
    found = _judged(desk, place.path, *words)
    runs = sorted(found.get("runs", {}).items())
    return desk.page(
        "verdict.html",
        session,
        place=place,
        report=found,
        findings=found["findings"][:SHOWN],
        head=head,
        runs=[(name, _run_id(place, name), one) for name, one in runs],
    )


def _head(text: str) -> tuple[str, ...]:
    """A head that the auditor knows, as words of the command."""
    text = text.strip().lower()
    if not text:
        return ()
    if spec.hash_of(text if text.startswith("0x") else f"0x{text}") is None:
        raise ConfigError("the head is no hash: 64 hexadecimal digits.")
    return ("--head", text)


def _run_id(place: Place, name: str) -> str:
    """trials/0003/seed-1 of a study -> the id of that run."""
    parts = name.split("/")
    return f"{place.id}.{parts[1]}.{parts[2].removeprefix('seed-')}" if len(parts) == 3 else place.id


def report(desk: At, session: Auditor, id: str, head: str = "") -> Response:
    """The whole report, as `audit --json` prints it, to take along."""
    place = desk.place(id)
    found = _judged(desk, place.path, *_head(head))
    return _file(f"{place.id}-audit.json", found)


def compare(desk: At, session: Auditor, one: str = "", other: str = "") -> Response:
    """Two copies of a run against each other."""
    if not one or not other:
        raise ConfigError("choose two runs or bundles to compare.")
    first, second = desk.place(one), desk.place(other)
    if "study" in (first.kind, second.kind):
        raise ConfigError("runs and bundles are compared; a study has its runs one by one.")
    found = _judged(desk, first.path, "--against", str(second.path))
    return desk.page(
        "compared.html",
        session,
        first=first,
        second=second,
        report=found,
        findings=found["findings"][:SHOWN],
        held=_beside(desk, first, second),
    )


def _beside(desk: Desk, first: Place, second: Place) -> list[journal.Held]:
    """What both copies hold; nothing where one cannot be read, which the report says."""
    try:
        return journal.held_together(_journal(desk, first), _journal(desk, second))
    except PulseLedgerError:
        return []


def _journal(desk: Desk, place: Place) -> journal.Journal:
    path = place.path
    return desk.work.ask(("journal", path), reading.stamp(path), lambda: journal.read_journal(path))


def look(
    desk: At,
    session: Auditor,
    id: str,
    hospital: str = "",
    round: str = "",
    transaction: str = "",
    record: str = "",
    page: int = 1,
) -> Response:
    """Rounds, updates and transactions, as far as they are asked for."""
    place = desk.place(id)
    found = _journal(desk, place)
    slot, number = _number(hospital, "hospital"), _number(round, "round")
    sought = transaction.strip().lower()
    updates = [
        line
        for line in found.updates
        if slot in (None, line.hospital) and number in (None, line.round) and _has(line, record)
    ]
    rounds = [line for line in found.rounds if number in (None, line.round) and _has(line, record)]
    transactions = [
        line
        for line in found.transactions
        if (not sought or sought in (str(line.number), line.purpose) or line.hash.startswith(sought))
        and (number is None or line.round == str(number))
        and _has(line, record)
    ]
    return desk.page(
        "journal.html",
        session,
        place=place,
        journal=found,
        asked={"hospital": hospital, "round": round, "transaction": transaction, "record": record},
        rounds=Page.of(rounds if slot is None else [r for r in rounds if str(slot) in r.hospitals.split()], page),
        updates=Page.of(updates, page),
        transactions=Page.of(transactions if slot is None else [], page),
        asks=slot is not None and number is not None,
        provable=slot is not None and slot < found.hospitals and any(r.round == number for r in found.rounds),
    )


def _has(line: Any, record: str) -> bool:
    sought = record.strip().lower()
    return not sought or any(sought in str(value).lower() for value in line)


def _number(text: str, name: str) -> int | None:
    text = text.strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ConfigError(f"{name}: {text!r:.40} is no number.")
    return int(text)


def proof(desk: At, session: Auditor, id: str, round: int, hospital: int) -> Response:
    """That a hospital was in a round, or was not: what `ledger verify` checks, with nothing else."""
    place = desk.place(id)
    if place.kind == "study":
        raise HTTPException(404, "A proof is made of a run or a bundle.")
    with Evidence(place.path) as evidence:
        meta = {str(row["key"]): str(row["value"]) for row in evidence.rows("meta")}
        document = proofs.proof_of(meta, partial(_rows, evidence), round, hospital, place.name)
    return _file(f"{place.id}-round-{round}-hospital-{hospital}.json", document)


def _rows(evidence: Evidence, table: str) -> Iterator[Mapping[str, Any]]:
    """Rows with their BLOBs as bytes, which a bundle has as 0x hex."""
    for row in evidence.rows(table):
        yield {k: unhexed(v) if isinstance(v, str) and v.startswith("0x") else v for k, v in row.items()}


def _file(name: str, document: Any) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(json.dumps(document, indent=1), media_type="application/json", headers=headers)


def governance(desk: At, session: Auditor, id: str, page: int = 1) -> Response:
    """Every step of the governance of synthetic beats, in its order."""
    place = desk.place(id)
    found = _journal(desk, place)
    return desk.page("governance.html", session, place=place, steps=Page.of(found.steps, page))


def registration(desk: At, session: Auditor, id: str, page: int = 1) -> Response:
    """What a study registered before its first trial, amendments, and what it recorded since."""
    place = desk.place(id)
    path = place.path
    found = desk.work.ask(("registration", path), reading.stamp(path), lambda: journal.read_registration(path))
    return desk.page("registration.html", session, place=place, found=found, records=Page.of(found.records, page))


def privacy(desk: At, session: Auditor, id: str, page: int = 1) -> Response:
    """What each hospital has spent."""
    place = desk.place(id)
    found = _journal(desk, place)
    return desk.page("privacy.html", session, place=place, privacy=found.privacy, spent=Page.of(found.spent, page))
