"""The dashboard in a browser: Debian's Chromium, driven over its debugging protocol, against the command itself."""

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from browsed import desk_on
from reference import TINY
from studies import nested

from dashboard.app import build
from dashboard.serve import address_of, listen
from engine.result import WAITS
from engine.settings import yaml_text
from engine.synthesis.reviews import read_state
from sweeps.folder import read_study, read_trials
from sweeps.governance import status_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT = 60_000  # milliseconds: the machine may be busy


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium; its sandbox needs a user of its own, which a container has not."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium to open pages in: install chromium or google-chrome")
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (pip install pulseledger[browser])"
    )
    with sync_api.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@contextmanager
def dashboard(folder: Path, *words: str) -> Iterator[Callable[[str], str]]:
    """The command on a folder; gives a link for a role, each once."""
    command = [sys.executable, "-m", "sweeps", "dashboard", str(folder), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = process.stdout

    def link(role: str) -> str:
        for line in lines:
            if line.startswith(f"{role}: "):
                return line.removeprefix(f"{role}: ").strip()
        raise AssertionError("the dashboard has ended")

    try:
        yield link
    finally:
        process.terminate()
        assert process.wait(60) == 0


def entered(browser: Any, link: str, **how: Any) -> tuple[Any, list[str]]:
    """A page of somebody who has come in, and what the browser complains about."""
    page = browser.new_context(**how).new_page()
    wrong: list[str] = []
    page.set_default_timeout(WAIT)
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(link)
    page.wait_for_url(re.compile(r"/(audit|requests)?$"))
    return page, wrong


def test_it_is_entered_by_its_link_and_walked_through_with_the_keyboard(browser: Any, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "a run"
    (folder / "ledger").mkdir(parents=True)
    (folder / "config.yaml").write_text("name: x\n")
    desk = desk_on(folder.parent)
    with listen("127.0.0.1", 0) as bound:
        where = address_of("127.0.0.1", bound.getsockname()[1], False)
        server = uvicorn.Server(uvicorn.Config(build(desk, where.origins), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            page, wrong = entered(browser, f"{where.shown}/login?key={desk.doorman.link('owner')}")
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
            page.keyboard.press("Enter")
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.textContent") == "a run"
            page.keyboard.press("Enter")
            page.wait_for_url("**/runs/a-run")
            assert "login" not in page.evaluate("document.referrer + location.href")
            assert page.evaluate("document.cookie") == ""
            assert wrong == []
        finally:
            server.should_exit = True
            thread.join()


# --- A reviewer -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that waits for its reviewer."""
    home = tmp_path_factory.mktemp("reviewed") / "home"
    home.mkdir()
    values = nested({**TINY, "federation.rounds": 1, "execution.pool": "inprocess", "tracking.backend": "none"})
    values |= {"name": "run", "balance": {"method": "smote", "classes": "SV", "policy": {"mode": "human"}}}
    (home.parent / "run.yaml").write_text(yaml_text(values))
    command = [sys.executable, "-m", "sweeps", "run", str(home.parent / "run.yaml"), "--out", str(home / "run")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 3
    return home


@pytest.mark.long
def test_a_whole_approval_and_a_denial(browser: Any, parked: Path, tmp_path: Path) -> None:
    run = parked / "run"
    with dashboard(parked, "--role", "reviewer") as link:
        page, wrong = entered(browser, link("reviewer"), accept_downloads=True)
        waiting = [row for row in read_state(run).requests if status_of(run, row) in WAITS]
        page.get_by_role("link", name=waiting[0].request[:16]).click()
        form = page.locator("form", has=page.get_by_role("button", name="Approve"))
        form.get_by_label("Beats to grant").fill("1")
        form.get_by_label("Reason").fill("enough for a trial")
        form.get_by_role("button", name="Approve").click()
        page.get_by_text("Decided; the run takes it when it goes on").wait_for()
        with page.expect_download() as expected:
            page.get_by_role("link", name="The signed receipt").click()
        assert "enough for a trial" in Path(expected.value.path()).read_text()
        page.get_by_role("link", name="All requests").click()
        page.get_by_label("all", exact=True).check()
        page.get_by_label("Reason").fill("no more")
        page.get_by_role("button", name="Deny those").click()
        page.get_by_role("heading", name="Decided").wait_for()
        command = [sys.executable, "-m", "sweeps", "resume", str(run)]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
        page.get_by_role("link", name="All requests").click()
        page.get_by_text("Nothing waits.").wait_for()
        rows = {row.request: row for row in read_state(run).requests}
        assert rows[waiting[0].request].granted == 1
        assert {rows[row.request].status for row in waiting[1:]} <= {"denied"}
        assert wrong == []


# --- An owner ---------------------------------------------------------------------------------------------------------

STUDY = nested({key: value for key, value in TINY.items() if key.startswith(("data.", "model."))}) | {
    "name": "watched",
    "cohort": {"hospitals": 3},
    "federation": {"rounds": 20, "local_epochs": 2},
    "tracking": {"backend": "none"},
    "execution": {"cpus": 2, "pool": "inprocess"},
    "baselines": [{"federation.algorithm": "local"}],
    "search": {"federation.learning_rate": {"log_uniform": [0.01, 0.1]}},
    "sampler": "random",
    "trials": 4,
    "concurrency": 1,
}


@pytest.mark.long
def test_a_study_is_watched_to_its_end_and_its_audit_after_it(browser: Any, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "study.yaml").write_text(yaml_text(STUDY))
    command = [sys.executable, "-m", "sweeps", "sweep", str(tmp_path / "study.yaml"), "--out", str(home / "watched")]
    with (
        dashboard(home, "--role", "owner") as link,
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as study,
    ):
        assert study.stderr is not None
        for line in study.stderr:
            if line.startswith("trial 0"):
                break
        page, wrong = entered(browser, link("owner"))
        page.goto(page.url + "studies/watched")
        page.get_by_text("on this machine drives it").wait_for()
        form = page.locator("form", has=page.get_by_role("button", name="Have so many"))
        form.get_by_role("spinbutton").fill("5")
        form.get_by_role("button", name="Have so many").click()
        page.get_by_text("5 of 5 have ended").wait_for(timeout=3 * WAIT)
        study.stderr.read()
        assert study.wait() == 0
        page.locator("[data-live-state]", has_text="ended").wait_for()
        assert len(read_trials(read_study(home / "watched"), home / "watched")) == 5
        page.reload()
        page.get_by_role("heading", name="What it costs").wait_for()
        for picture in page.locator("figure img").all():
            picture.scroll_into_view_if_needed()
        drawn = "[...document.querySelectorAll('figure img')].every(i => i.complete && i.naturalWidth > 100)"
        while not page.evaluate(drawn):
            page.wait_for_timeout(200)
        page.get_by_role("link", name="Audit this study").click()
        page.get_by_text("Verdict: clean (grade 0)").wait_for()
        for width, height in ((360, 740), (3840, 2160)):
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert wrong == []


# --- An auditor -------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_tampered_bundle_is_told(browser: Any, ledgered: Path, tmp_path: Path) -> None:
    whole = (ledgered / "full/ledger/bundle.plb").read_bytes()
    at = whole.index(b"slot-0001") + 400
    (tmp_path / "tampered.plb").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with dashboard(ledgered, "--role", "auditor") as link:
        page, wrong = entered(browser, link("auditor"))
        page.get_by_label("A run in one file").set_input_files(tmp_path / "tampered.plb")
        page.get_by_role("button", name="Audit it").click()
        page.get_by_text("Verdict: findings").wait_for()
        assert page.get_by_role("heading", name="Findings").is_visible()
        assert wrong == []


# --- An attacker ------------------------------------------------------------------------------------------------------


@contextmanager
def foreign(html: str) -> Iterator[str]:
    """A page of another origin, by another name of this machine."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *words: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.long
def test_a_page_of_another_origin_can_neither_read_nor_change_nor_frame(browser: Any, tmp_path: Path) -> None:
    """Of the same host, even: browsers send it the cookie."""
    home = tmp_path / "home"
    (home / "watched").mkdir(parents=True)
    (home / "watched/study.yaml").write_text(yaml_text({**STUDY, "ledger": {"backend": "none"}}))
    with dashboard(home, "--role", "owner") as link:
        page, _ = entered(browser, link("owner"))
        target = page.url
        attack = f"""<form id=f method=post action="{target}studies/watched/ask"><input name=verb value=stop><input name=token value=x></form>
            <iframe id=frame src="{target}"></iframe>"""
        with foreign(attack) as address:
            evil = page.context.new_page()
            evil.goto(address)
            read = "fetch(TARGET, {credentials: 'include'}).then(r => r.text()).then(() => 'read', () => 'refused')"
            assert evil.evaluate(read.replace("TARGET", repr(target))) == "refused"
            sent = "fetch(TARGET, {method: 'POST', mode: 'no-cors', credentials: 'include', body: new URLSearchParams({verb: 'stop'})}).then(() => 0, () => 0)"
            evil.evaluate(sent.replace("TARGET", repr(f"{target}studies/watched/ask")))
            assert evil.frames[1].evaluate("document.body.innerText.includes('Studies')") is False
            evil.evaluate("document.getElementById('f').submit()")
            evil.wait_for_url("**/ask")
            assert "this did not come from a page of the dashboard" in evil.content()
        assert not (home / "watched/commands").exists()
        page.goto(target)
        assert page.get_by_role("heading", name="Studies", exact=True).is_visible()
