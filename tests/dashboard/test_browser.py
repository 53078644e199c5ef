"""The dashboard in a browser: Debian's Chromium, driven over its debugging protocol, against the command itself."""

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
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
from dashboard.desk import Desk
from dashboard.serve import address_of, listen
from engine.result import WAITS
from engine.settings import yaml_text
from engine.synthesis.reviews import read_state
from sweeps.commands import CommandTable, commands
from sweeps.folder import Seen, read_study, read_trials, trial_folder, write_progress
from sweeps.governance import status_of
from sweeps.lock import OWNER

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


def until_drawn(page: Any) -> None:
    """Waits for all pictures of a page; not by `wait_for_function`, which the page's policy forbids."""
    drawn = "[...document.querySelectorAll('figure img')].every(i => i.complete && i.naturalWidth > 100)"
    while not page.evaluate(drawn):
        page.wait_for_timeout(200)


def too_wide(page: Any, width: int) -> list[str]:
    """What reaches beyond a window of that width, once the page has its style."""
    page.wait_for_load_state()
    page.set_viewport_size({"width": width, "height": width * 3 // 2})
    if page.evaluate("document.documentElement.scrollWidth") <= width:
        return []
    beyond = (
        "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
        " && !e.closest('.scroll')).map(e => `${e.tagName} ${e.textContent.slice(0, 60)}`)"
    )
    return [page.url, *page.evaluate(beyond)]


@contextmanager
def served(desk: Desk) -> Iterator[str]:
    """The pages of a desk, in this process; gives their address."""
    with listen("127.0.0.1", 0) as bound:
        where = address_of("127.0.0.1", bound.getsockname()[1], False)
        server = uvicorn.Server(
            uvicorn.Config(build(desk, where.origins), log_level="error", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield where.shown
        finally:
            server.should_exit = True
            thread.join()


def test_it_is_entered_by_its_link_and_walked_through_with_the_keyboard(browser: Any, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "a run"
    (folder / "ledger").mkdir(parents=True)
    (folder / "config.yaml").write_text("name: x\n")
    desk = desk_on(folder.parent)
    with served(desk) as where:
        page, wrong = entered(browser, f"{where}/login?key={desk.doorman.link('owner')}")
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


@pytest.mark.long
def test_a_page_says_that_its_driver_has_gone_and_shows_the_next_one(browser: Any, small: Path, tmp_path: Path) -> None:
    """The drivers are processes that do nothing but live; the page is never loaded anew."""
    home = Path(shutil.copytree(small, tmp_path / "home"))
    desk, study = desk_on(home), home / "small"

    def driver() -> Any:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (study / OWNER).write_text(json.dumps({"pid": process.pid, "host": socket.gethostname()}))
        return process

    first = driver()
    with served(desk) as where:
        try:
            page, wrong = entered(browser, f"{where}/login?key={desk.doorman.link('owner')}")
            page.goto(f"{where}/studies/small")
            page.get_by_text(f"process {first.pid} on this machine drives it").wait_for()
            page.get_by_text("boom").first.wait_for()
            page.get_by_text(re.compile("on this machine, [0-9]+ % busy")).wait_for()
            page.evaluate("window.same = true")
            first.kill()
            first.wait()
            page.get_by_text("nobody drives it now; pulseledger resume goes on").wait_for()
            second = driver()
            page.get_by_text(f"process {second.pid} on this machine drives it").wait_for()
            running = next(t.number for t in read_trials(read_study(study), study) if t.state == "RUNNING")
            write_progress(trial_folder(study, running), Seen(2, "", {"validation/personal/macro_f1": 0.625}))
            page.get_by_text("validation macro-F1 0.625").wait_for()
            page.get_by_text(
                re.compile("^about .*")
            ).wait_for()  # what is left, by what was done since this driver began
            assert page.evaluate("window.same") is True
            form = page.locator("form", has=page.get_by_role("button", name="Prune it"))
            form.get_by_role("spinbutton").fill(str(running))
            form.get_by_role("button", name="Prune it").click()
            page.locator("#asked").get_by_text("asked", exact=True).wait_for()
            (asked,) = commands(study)
            CommandTable(study).answer(asked, "done", f"trial {running} is pruned")
            page.get_by_text(f"trial {running} is pruned").wait_for()
            second.kill()
            second.wait()
            assert wrong == []
        finally:
            first.kill()


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


def command(*words: str) -> int:
    """A command of the program; its exit code."""
    return subprocess.run([sys.executable, "-m", "sweeps", *words], capture_output=True, check=False).returncode


@pytest.mark.long
def test_a_whole_approval_and_a_denial_by_browser_and_commands(browser: Any, parked: Path, tmp_path: Path) -> None:
    """Request, preview, approve fewer, withdraw, deny, approve again, one by the command; then used, and seen by audit and dossier."""
    run = Path(shutil.copytree(parked / "run", tmp_path / "home/run"))
    waiting = [row for row in read_state(run).requests if status_of(run, row) in WAITS]
    assert len(waiting) >= 2
    words = ("--role", "reviewer", "--role", "auditor")
    with dashboard(run.parent, *words) as link:
        page, wrong = entered(browser, link("reviewer"), accept_downloads=True)
        page.get_by_role("link", name=waiting[0].request[:16]).click()
        page.get_by_alt_text("Synthetic beats of the preview").scroll_into_view_if_needed()
        until_drawn(page)
        assert "real=1" not in page.content()
        approve = page.locator("form", has=page.get_by_role("button", name="Approve"))
        approve.get_by_label("Beats to grant").fill("2")
        approve.get_by_label("Reason").fill("too hasty")
        approve.get_by_role("button", name="Approve").click()
        page.get_by_role("button", name="Withdraw the decision").click()
        page.get_by_text("Waits for a decision").wait_for()
        # by the keyboard alone: to the number, the reason, the button
        approve.get_by_label("Beats to grant").focus()
        page.keyboard.press("Control+A")
        page.keyboard.type("1")
        page.keyboard.press("Tab")
        page.keyboard.type("enough for a trial")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Approve"
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        page.get_by_text("the run takes it when it goes on").wait_for()
        with page.expect_download() as expected:
            page.get_by_role("link", name="The signed receipt").click()
        assert "enough for a trial" in Path(expected.value.path()).read_text()
        assert command("governance", "deny", str(run), waiting[1].request, "--reason", "by the command") == 0
        page.get_by_role("link", name="All requests").click()
        if len(waiting) > 2:
            page.get_by_label("all", exact=True).check()
            page.get_by_label("Reason").fill("no more")
            page.get_by_role("button", name="Deny those").click()
            page.get_by_role("heading", name="Decided").wait_for()
        assert command("resume", str(run)) == 0
        page.goto(page.url.split("/requests")[0] + "/requests")
        page.get_by_text("Nothing waits.").wait_for()
        page.get_by_text("by the command").wait_for()
        rows = {row.request: row for row in read_state(run).requests}
        assert rows[waiting[0].request].granted == 1
        assert {rows[row.request].status for row in waiting[1:]} == {"denied"}
        assert wrong == []
        auditor, wrong = entered(browser, link("auditor"))
        auditor.goto(auditor.url.rstrip("/") + "/run/governance")
        auditor.get_by_text("approved, 1 beats").wait_for()
        assert auditor.get_by_text("denied; digest of the reason").count() == len(waiting) - 1
        assert auditor.get_by_text("beats were shown to reviewers").count() == len(waiting)
        auditor.goto(auditor.url.replace("/governance", ""))
        auditor.get_by_text("Verdict: clean (grade 0)").wait_for()
        assert wrong == []
    assert command("dossier", str(run), "--out", str(tmp_path / "dossier")) == 0
    assert "membership inference" in (tmp_path / "dossier/dossier.md").read_text()


CONTRAST = """() => {
  const parse = (c) => { const m = c.match(/[0-9.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m };
  const light = (c) => { const [r, g, b] = c.map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b };
  const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] > 0) return c } return CANVAS };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    if (!e.getClientRects().length || ![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    const style = getComputedStyle(e), svg = e instanceof SVGElement;
    const [a, b] = [light(parse(svg ? style.fill : style.color)), light(ground(e))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.tagName, e.textContent.trim().slice(0, 30)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""
NAMELESS = """() => [...document.querySelectorAll("input:not([type=hidden]), select, textarea, button, a, img, [role=region], svg[role=img]")].filter((e) =>
  !(e.labels && e.labels.length) && !e.getAttribute("aria-label") && !e.getAttribute("alt") && !e.textContent.trim()).map((e) => e.outerHTML.slice(0, 120))"""


@pytest.mark.long
@pytest.mark.parametrize(("scheme", "canvas"), [("light", "[255, 255, 255, 1]"), ("dark", "[20, 23, 26, 1]")])
def test_pages_can_be_read_by_everybody(
    browser: Any, ledgered: Path, small: Path, parked: Path, scheme: str, canvas: str
) -> None:
    """Contrast of at least 4.5 (WCAG 2.2, AA), a name for whatever is used, landmarks, and nothing that moves."""
    homes = ((ledgered, "auditor", ("/audit", "/audit/full", "/audit/full/journal?round=1&hospital=1", "/audit/full/governance", "/audit/full/privacy", "/audit/nothing")),
             (small, "owner", ("/", "/studies/small", "/studies/small/trials/1")),
             (parked, "reviewer", ("/requests",)))  # fmt: skip
    for home, role, paths in homes:
        with dashboard(home, "--role", role) as link:
            page, _ = entered(browser, link(role), color_scheme=scheme, reduced_motion="reduce")
            base = "/".join(page.url.split("/")[:3])
            if role == "reviewer":
                paths = (*paths, page.locator("tbody a").first.get_attribute("href"))
            for path in paths:
                page.goto(base + path)
                page.locator("h1", has_not_text="One moment").wait_for(timeout=3 * WAIT)
                page.wait_for_load_state()  # with its style
                lowest = page.evaluate(CONTRAST.replace("CANVAS", canvas))
                assert lowest[0][0] >= 4.5, (path, lowest[:3])
                assert page.evaluate(NAMELESS) == [], path
                for role_, count in (("main", 1), ("banner", 1), ("navigation", 1)):
                    assert page.get_by_role(role_).count() >= count, (path, role_)
                assert page.locator("h1").count() == 1
                assert page.evaluate("document.getAnimations().length") == 0
                assert page.evaluate("document.documentElement.lang") == "en"


# --- An owner ---------------------------------------------------------------------------------------------------------

STUDY = nested({key: value for key, value in TINY.items() if key.startswith(("data.", "model."))}) | {
    "name": "watched",
    "cohort": {"hospitals": 3},
    "federation": {"rounds": 150, "local_epochs": 2},  # long enough for a page to ask for more
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
        base = page.url
        page.goto(base + "studies/watched")
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
        until_drawn(page)
        page.get_by_role("link", name="Audit this study").click()
        page.get_by_text("Verdict: clean (grade 0)").wait_for()
        assert [too_wide(page, width) for width in (360, 1280, 3840)] == [[], [], []]
        for path in ("studies/watched", "studies/watched/trials/0", "audit/watched.0000.0/journal", "audit"):
            page.goto(base + path)
            assert [too_wide(page, width) for width in (360, 1280, 3840)] == [[], [], []]
        assert wrong == []


@pytest.mark.long
def test_a_page_outlives_the_driver_and_shows_the_next_one(browser: Any, tmp_path: Path) -> None:
    """Killed with the page open; resumed; a trial pruned, more asked for, and stopped, all from the page."""
    home, study = tmp_path / "home", tmp_path / "home/watched"
    home.mkdir()
    longer = {**STUDY, "trials": 3, "federation": {"rounds": 400, "local_epochs": 1}}
    (tmp_path / "study.yaml").write_text(yaml_text(longer))
    begin = [sys.executable, "-m", "sweeps", "sweep", str(tmp_path / "study.yaml"), "--out", str(study)]
    resume = [sys.executable, "-m", "sweeps", "resume", str(study)]
    said = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with dashboard(home, "--role", "owner") as link:
        driver = subprocess.Popen(begin, **said)  # type: ignore[call-overload]
        while not (study / "study.yaml").exists():
            assert driver.poll() is None
            time.sleep(0.2)
        page, wrong = entered(browser, link("owner"))
        page.goto(page.url + "studies/watched")
        page.get_by_text(f"process {driver.pid} on this machine drives it").wait_for()
        page.locator("table", has_text="Under way").locator("tbody tr").first.wait_for(timeout=5 * WAIT)  # Ray starts
        page.get_by_text(re.compile(r"\d+ on this machine, [0-9]+ % busy")).first.wait_for()
        driver.kill()
        driver.wait()
        page.get_by_text("nobody drives it now; pulseledger resume goes on").wait_for()
        second = subprocess.Popen(resume, **said)  # type: ignore[call-overload]
        page.get_by_text(f"process {second.pid} on this machine drives it").wait_for()
        page.locator("table", has_text="Under way").locator("tbody tr").first.wait_for(timeout=5 * WAIT)  # Ray starts
        number = page.locator("table", has_text="Under way").locator("tbody a").first.inner_text()
        form = page.locator("form", has=page.get_by_role("button", name="Prune it"))
        form.get_by_role("spinbutton").fill(number)
        form.get_by_role("button", name="Prune it").click()
        page.get_by_text(re.compile("[1-9] PRUNED")).wait_for()
        form = page.locator("form", has=page.get_by_role("button", name="Have so many"))
        form.get_by_role("spinbutton").fill("6")
        form.get_by_role("button", name="Have so many").click()
        page.get_by_text(re.compile("of 6 have ended")).wait_for()
        page.get_by_role("button", name="Stop").click()
        assert second.wait(120) != 0
        page.get_by_text("nobody drives it now; pulseledger resume goes on").wait_for()
        answers = page.locator("#asked tbody tr")
        assert answers.count() == 3
        assert [answers.nth(n).locator("td").first.inner_text() for n in range(3)] == ["prune", "trials", "stop"]
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
