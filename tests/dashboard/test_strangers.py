"""What a stranger sends, and what happens to a folder while its pages are open."""

import io
import json
import re
import shutil
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from browsed import ORIGIN, Visitor, desk_on

from dashboard.app import build
from dashboard.desk import STREAMS
from dashboard.doorman import LINK, ROLES, Doorman, Expired
from dashboard.patience import Impatient
from dashboard.serve import address_of, listen
from engine.clock import JumpingClock

HOSTILE = "<img src=x onerror=alert(1)>\x1b[2J\u202e' onfocus='x"
ROOMS = ("journal", "journal?round=1&hospital=1", "governance", "privacy")


def harmless(page: Any) -> bool:
    """Nothing of a hostile text is markup, or speaks to a terminal."""
    return "<img src=x" not in page.text and "\x1b" not in page.text and "\u202e" not in page.text


# --- Coming in --------------------------------------------------------------------------------------------------------


def test_an_old_link_lets_nobody_in_and_the_terminal_shows_another(ledgered: Path) -> None:
    clock, told = JumpingClock(), list[str]()
    desk = desk_on(ledgered, clock=clock)
    desk.said = told.append
    link = desk.doorman.link("auditor")
    clock.sleep(LINK + 1)
    visitor = Visitor(desk)
    answer = visitor.get("/login", params={"key": link})
    assert answer.status_code == 401
    assert "too old" in answer.text
    assert told == ["auditor"]
    assert "set-cookie" not in answer.headers
    assert "was used" in visitor.get("/login", params={"key": link}).text
    doorman = Doorman(ROLES, clock)
    fresh = doorman.link("owner")
    clock.sleep(LINK)
    assert doorman.enter(fresh) is not None
    stale = doorman.link("owner")
    clock.sleep(LINK + 1)
    with pytest.raises(Expired):
        doorman.enter(stale)


def test_a_session_is_made_by_the_door_and_ends_when_somebody_comes_in_anew(ledgered: Path) -> None:
    """Whoever plants a cookie before somebody comes in (fixation) has nothing by it."""
    desk = desk_on(ledgered)
    visitor = Visitor(desk)
    visitor._client.cookies.set(desk.cookie, "planted")
    assert visitor.get("/audit").status_code == 401
    visitor._client.cookies.clear()
    came = visitor.ask(
        "GET", "/login", {"Cookie": f"{desk.cookie}=planted"}, params={"key": desk.doorman.link("owner")}
    )
    first = visitor._client.cookies[desk.cookie]
    assert came.status_code == 200
    assert first != "planted"
    assert visitor.get("/login", params={"key": desk.doorman.link("auditor")}).status_code == 200
    assert visitor._client.cookies[desk.cookie] != first
    assert desk.doorman.session(first) is None
    assert desk.doorman.session("planted") is None


# --- Folders that change ----------------------------------------------------------------------------------------------


def test_a_folder_that_goes_while_its_pages_are_open_is_not_here(ledgered: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(ledgered, tmp_path / "home"))
    owner = Visitor(desk_on(home), "owner")
    pages = ("/audit/full", "/audit/full/journal", "/audit/full/proof?round=1&hospital=0", "/runs/full/files/bundle")
    assert [owner.get(page).status_code for page in pages] == [200] * 4
    shutil.rmtree(home / "full")
    assert [owner.get(page).status_code for page in pages] == [404] * 4
    assert owner.get("/").status_code == 200
    shutil.rmtree(home)
    for page in ("/", *pages):
        answer = owner.get(page)
        assert answer.status_code in (200, 404, 422), page
        assert "Something failed" not in answer.text


@pytest.mark.parametrize("cut", [0, 1, 400])
def test_a_result_that_is_half_written_is_a_sentence(ledgered: Path, tmp_path: Path, cut: int) -> None:
    home = Path(shutil.copytree(ledgered, tmp_path / "home"))
    path = home / "full/result.json"
    path.write_bytes(path.read_bytes()[:cut])
    owner = Visitor(desk_on(home), "owner")
    for page in ("/runs/full", "/audit/full", "/audit/full/privacy", "/audit/full/journal", "/runs/full/files/result"):
        answer = owner.get(page)
        assert answer.status_code in (200, 422), (page, answer.status_code)
        assert "Something failed" not in answer.text, page
        assert "Traceback" not in answer.text


# --- Bundles of strangers ---------------------------------------------------------------------------------------------


def rewritten(bundle: bytes, change: Callable[[str, bytes], bytes], **more: bytes) -> bytes:
    """A bundle with other contents."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(bundle)) as old, zipfile.ZipFile(made, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
        for name, data in more.items():
            new.writestr(name, data)
    return made.getvalue()


def shown(ledgered: Path, bundle: bytes, name: str = "x.plb") -> list[Any]:
    """All pages on a bundle that somebody brings."""
    auditor = Visitor(desk_on(ledgered), "auditor")
    sent = auditor.post("/audit/upload", files={"bundle": (name, bundle)})
    assert sent.status_code == 303
    at = sent.headers["location"]
    return [auditor.get(at), *(auditor.get(f"{at}/{room}") for room in ROOMS)]


def test_whatever_stands_in_a_field_of_a_stranger_s_bundle_is_text(ledgered: Path) -> None:
    """Each column of each table in turn, and every text of its configuration and result."""
    whole = (ledgered / "full/ledger/bundle.plb").read_bytes()
    columns: set[tuple[str, str]] = set()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        for name in archive.namelist():
            if name.endswith(".jsonl"):
                columns |= {(name, key) for line in archive.read(name).splitlines() for key in json.loads(line)}
    assert len(columns) > 30

    def poisoned(part: int) -> Callable[[str, bytes], bytes]:
        def change(name: str, data: bytes) -> bytes:
            if not name.endswith(".jsonl"):
                return data
            rows = [json.loads(line) for line in data.splitlines()]
            mine = {key for i, (file, key) in enumerate(sorted(columns)) if file == name and i % 6 == part}
            return b"\n".join(
                json.dumps({k: HOSTILE if k in mine else v for k, v in row.items()}).encode() for row in rows
            )

        return change

    seen = 0
    for part in range(6):
        for page in shown(ledgered, rewritten(whole, poisoned(part)), HOSTILE):
            assert page.status_code in (200, 422), page.text[:300]
            assert harmless(page)
            assert "Something failed" not in page.text
            seen += "&lt;img src=x" in page.text
    assert seen > 6


@pytest.mark.parametrize(
    "name", ["../../outside.json", "/etc/cron.d/outside", "journal/../../outside.json", "a\\..\\outside"]
)
def test_names_in_a_bundle_and_of_a_bundle_lead_nowhere(ledgered: Path, name: str) -> None:
    before = set(ledgered.parent.rglob("*outside*"))
    whole = (ledgered / "full/ledger/bundle.plb").read_bytes()
    verdict, *_ = shown(ledgered, rewritten(whole, lambda _, data: data, **{name: b"{}"}), name)
    assert "Verdict: findings" in verdict.text or "Verdict: unreadable" in verdict.text
    assert set(ledgered.parent.rglob("*outside*")) == before
    assert not Path("/etc/cron.d/outside").exists()


def test_a_form_of_another_kind_is_no_bundle(ledgered: Path) -> None:
    auditor = Visitor(desk_on(ledgered), "auditor")
    assert auditor.post("/audit/upload", {"bundle": "words"}).status_code == 400
    assert auditor.post("/audit/upload").status_code == 400
    for kind in ("application/json", "text/plain", "multipart/form-data", "multipart/form-data; boundary=x"):
        answer = auditor.ask("POST", "/audit/upload", {"Origin": ORIGIN, "Content-Type": kind}, content=b"--x\r\n")
        assert answer.status_code in (400, 403), kind
    huge = {"Origin": ORIGIN, "Content-Length": str(2 << 30)}
    assert auditor.ask("POST", "/audit/upload", huge, content=b"").status_code == 413


# --- Patience ---------------------------------------------------------------------------------------------------------


class Hasty(Impatient):
    """One that waits a moment only."""

    head = 0.3


@contextmanager
def served(desk: Any) -> Iterator[tuple[str, int]]:
    """The server itself, with little patience."""
    with listen("127.0.0.1", 0) as bound:
        where = address_of("127.0.0.1", bound.getsockname()[1], False)
        config = uvicorn.Config(build(desk, where.origins), http=Hasty, log_level="error", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield bound.getsockname()
        finally:
            server.should_exit = True
            thread.join()


def test_whoever_sends_nothing_or_half_a_request_is_cut_off(ledgered: Path) -> None:
    with served(desk_on(ledgered)) as where:
        for begun in (b"", b"GET / HTTP/1.1\r\nHost: "):
            with socket.create_connection(where, timeout=20) as idle:
                idle.sendall(begun)
                assert idle.recv(1000) == b""
        with socket.create_connection(where, timeout=20) as good:
            host = f"127.0.0.1:{where[1]}".encode()
            good.sendall(b"GET /static/live.js HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
            assert good.recv(15).startswith(b"HTTP/1.1 200 OK")


def test_pages_that_are_live_are_bounded_and_the_next_asks_again(small: Path) -> None:
    desk = desk_on(small)
    owner = Visitor(desk, "owner")
    for _ in range(STREAMS):
        assert desk.streams.acquire(blocking=False)
    full = owner.get("/studies/small/live")
    assert re.fullmatch(r"retry: \d+\n\n", full.text)
    desk.streams.release()
