"""Who comes into the dashboard, from where, and with what."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsed import ORIGIN, Visitor, desk_on, visitors

from dashboard.doorman import LONGEST, ROLES, WITHIN, WRONG, Doorman, TooOften
from dashboard.guard import FORM, HEADERS, UPLOAD
from dashboard.serve import address_of, listen, require_tls, serve
from engine.clock import JumpingClock
from engine.errors import ConfigError, DataError

# beginning of an address -> who may ask for it; None is somebody outside
MAY: dict[str, tuple[str | None, ...]] = {
    "/login": (None, *ROLES),
    "/static": (None, *ROLES),
    "/logout": ROLES,
    "/studies": ("owner",),
    "/runs": ("owner",),
    "/audit": ("owner", "auditor"),
    "/requests": ("reviewer",),
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def routes(visitor: Visitor) -> Iterator[tuple[str, str]]:
    """Method and address of everything that there is, out of the application."""
    for route in visitor._client.app._app.routes:  # type: ignore[attr-defined]
        for method in sorted(route.methods):
            yield method, re.sub(r"\{\w+\}", "1", route.path)


def test_every_route_is_for_its_roles_and_for_nobody_else(home: Path) -> None:
    desk = desk_on(home)
    seen = 0
    for role, visitor in visitors(desk):
        for method, path in routes(visitor):
            if path in ("/login", "/logout"):
                continue  # below: they change who one is
            head = "/" + path.split("/")[1]
            may = ROLES if path == "/" else MAY[head]
            body: Any = {"data": {"token": visitor.token}} if method == "POST" else {}
            status = visitor.ask(method, path, {"Origin": ORIGIN}, **body).status_code
            assert (status not in (401, 403)) == (role in may), (role, method, path, status)
            assert status < 500, (role, method, path, status)
            seen += 1
    assert seen > 4 * 20


def test_whatever_changes_something_wants_the_token_of_its_own_session(home: Path) -> None:
    desk = desk_on(home)
    others = [visitor.token for _, visitor in visitors(desk)]
    posts = 0
    for role, visitor in visitors(desk)[1:]:
        for method, path in routes(visitor):
            if method not in ("GET", "HEAD"):
                for token in ("", "x", *others):
                    assert visitor.post(path, {"token": token}).status_code == 403, (role, path)
                posts += 1
    assert posts >= 3 * 6


def test_whatever_changes_something_wants_its_own_origin(home: Path) -> None:
    visitor = Visitor(desk_on(home), "owner")
    form = {"token": visitor.token}
    for origin in ("http://evil.example", "null", "http://127.0.0.1:8081", "https://127.0.0.1:8080", ""):
        assert visitor.ask("POST", "/logout", {"Origin": origin}, data=form).status_code == 403
    assert visitor.ask("POST", "/logout", data=form).status_code == 403
    crossed = {"Origin": ORIGIN, "Sec-Fetch-Site": "same-site"}
    assert visitor.ask("POST", "/logout", crossed, data=form).status_code == 403
    assert visitor.get("/").status_code == 200  # it is still in
    assert visitor.post("/logout").status_code == 200
    assert visitor.get("/").status_code == 401


def test_a_page_of_another_site_can_lead_here_and_do_nothing_else(home: Path) -> None:
    """Neither audits nor wrong links are to be had by an image or a frame of somebody else's page."""
    visitor = Visitor(desk_on(home), "owner")
    for site in ("cross-site", "same-site"):
        for mode, dest in (("no-cors", "image"), ("navigate", "iframe"), ("cors", "empty"), ("navigate", "")):
            headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
            for path in ("/", "/audit", "/login?key=x"):
                assert visitor.ask("GET", path, headers).status_code == 403, (headers, path)
        led = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        assert visitor.ask("GET", "/", led).status_code == 200
    assert len(visitor.desk.doorman._wrong) == 0


def test_a_foreign_name_for_the_address_is_refused(home: Path) -> None:
    visitor = Visitor(desk_on(home), "owner")
    for host in (
        "evil.example",
        "evil.example:8080",
        "127.0.0.1",
        "127.0.0.1:80800",
        "127.0.0.1:8080.evil.example",
        "",
    ):
        assert visitor.ask("GET", "/", {"Host": host}).status_code == 421, host
    assert visitor.ask("GET", "/login?key=x", {"Host": "evil.example"}).status_code == 421


def test_every_answer_tells_the_browser_what_it_may_not_do(home: Path) -> None:
    visitor = Visitor(desk_on(home), "owner")
    answers = [visitor.get(path) for path in ("/", "/nothing", "/studies/x", "/static/style.css", "/requests")]
    answers += [visitor.ask("GET", "/", {"Host": "evil.example"}), visitor.ask("POST", "/logout")]
    for answer in answers:
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert "access-control-allow-origin" not in answer.headers


def test_no_page_holds_a_script_a_style_or_a_foreign_address() -> None:
    for template in (Path(__file__).parents[2] / "dashboard/templates").glob("*.html"):
        text = template.read_text()
        assert not re.search(r"<style|style=|\son\w+=|javascript:|https?://", text), template.name
        assert set(re.findall(r"<script[^>]*>", text)) <= {'<script src="/static/live.js" defer>'}
        assert text.count("<form") == text.count('name="token"') + text.count('method="get"'), template.name


def test_a_link_lets_in_once_and_the_cookie_is_for_the_browser_alone(home: Path) -> None:
    desk = desk_on(home)
    visitor, link = Visitor(desk), desk.doorman.link("auditor")
    came = visitor.get("/login", params={"key": link})
    assert came.status_code == 200
    said = came.headers["set-cookie"].lower()
    assert "httponly" in said
    assert "samesite=strict" in said
    assert link not in came.text
    assert visitor.get("/").headers["location"] == "/audit"
    assert Visitor(desk).get("/login", params={"key": link}).status_code == 401


def test_whoever_guesses_waits_and_so_does_everybody_else() -> None:
    clock = JumpingClock()
    doorman = Doorman(ROLES, clock)
    link = doorman.link("owner")
    for _ in range(WRONG):
        assert doorman.enter("guessed") is None
    with pytest.raises(TooOften):
        doorman.enter(link)
    clock.sleep(WITHIN)
    session = doorman.enter(link)
    assert session is not None
    clock.sleep(LONGEST)
    assert doorman.session(session.id) is session
    clock.sleep(1)
    assert doorman.session(session.id) is None


def test_too_many_guesses_are_told_in_a_page(home: Path) -> None:
    visitor = Visitor(desk_on(home))
    found = [visitor.get("/login", params={"key": "x"}).status_code for _ in range(WRONG + 1)]
    assert found == [401] * WRONG + [429]


def test_a_body_has_a_bound_whether_it_says_its_length_or_not(home: Path) -> None:
    visitor = Visitor(desk_on(home), "auditor")
    form = {"Origin": ORIGIN, "Content-Type": "application/x-www-form-urlencoded"}
    assert visitor.ask("POST", "/logout", form, content=b"x" * (FORM + 1)).status_code == 413
    assert visitor.ask("POST", "/logout", form, content=iter([b"x" * FORM, b"x"])).status_code == 413
    assert visitor.ask("POST", "/logout", {**form, "Content-Length": "-1"}, content=b"").status_code == 413
    assert visitor.ask("POST", UPLOAD, {**form, "Content-Length": str(2**40)}, content=b"").status_code == 413


# --- Places -----------------------------------------------------------------------------------------------------------


def test_no_address_leads_out_of_the_folders(home: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "study.yaml").write_text("name: secret\n")
    (home / "link").symlink_to(secret)
    inside = home / "run"
    (inside / "ledger").mkdir(parents=True)
    (inside / "config.yaml").write_text("name: run\n")
    visitor = Visitor(desk_on(home), "owner")
    assert "secret" not in visitor.get("/").text
    assert "link" not in re.findall(r'href="/studies/([^"]*)"', visitor.get("/").text)
    for id in ("link", "%2e%2e%2fsecret", "%2fetc", "run.0000.0", "secret", "run%00", "RUN"):
        for area in ("studies", "runs", "audit"):
            assert visitor.get(f"/{area}/{id}").status_code in (404, 307), (area, id)
    assert visitor.get("/runs/run/files/..%2f..%2fsecret").status_code == 404
    (inside / "ledger" / "bundle.plb").symlink_to(secret / "study.yaml")
    refused = visitor.get("/runs/run/files/bundle")
    assert refused.status_code == 422
    assert "is a link out of the folder" in refused.text
    assert "name: secret" not in refused.text


HOSTILE = '<img src=x onerror=alert(1)>"\x1b[2J\u202e'


def test_names_are_text_whatever_is_in_them(home: Path) -> None:
    run = home / HOSTILE
    (run / "ledger").mkdir(parents=True)
    (run / "config.yaml").write_text("name: x\n")
    visitor = Visitor(desk_on(home), "owner")
    for path in ("/", "/audit", "/runs/img-src-x-onerror-alert-1-2j", "/audit/img-src-x-onerror-alert-1-2j"):
        page = visitor.get(path)
        assert page.status_code == 200, path
        assert "<img src=x" not in page.text
        assert "&lt;img src=x onerror=alert(1)&gt;&#34;\\x1b[2J\\u202e" in page.text, path


def test_a_name_of_ten_megabytes_makes_no_long_page(home: Path) -> None:
    (home / "study.yaml").write_text(f"name: {'x' * 10**7}\n")
    visitor = Visitor(desk_on(home), "owner")
    page = visitor.get("/studies/home")
    assert page.status_code == 422
    assert len(page.text) < 5000


# --- Start ------------------------------------------------------------------------------------------------------------


def test_beyond_this_machine_it_wants_a_certificate(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can be reached from other machines"):
        require_tls("0.0.0.0", None, None)
    with pytest.raises(ConfigError, match="go together"):
        require_tls("0.0.0.0", tmp_path, None)
    for name in ("a", "b"):
        with pytest.raises(ConfigError, match="are no certificate"):
            require_tls("dashboard.example", tmp_path / "a", tmp_path / name)
        (tmp_path / "a").write_text("no certificate")
    with pytest.raises(ConfigError, match="the name or the one address"):
        require_tls("0.0.0.0", tmp_path / "a", tmp_path / "b")
    assert require_tls("127.0.0.1", None, None) is False


def test_its_names_are_its_own() -> None:
    assert address_of("127.0.0.1", 80, False).origins == ("http://127.0.0.1:80", "http://localhost:80")
    assert address_of("::1", 80, False).shown == "http://[::1]:80"
    assert address_of("example.org", 443, True).origins == ("https://example.org:443",)


def test_what_cannot_be_is_said_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        listen("127.0.0.1", 70000)
    with listen("127.0.0.1", 0) as taken:
        socket.create_connection(taken.getsockname(), timeout=5).close()  # before anybody serves there
        with pytest.raises(ConfigError, match="cannot be used"):
            listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(DataError, match="is no folder"):
        serve([tmp_path / "none"], ("owner",), "127.0.0.1", 0, None, None, None)
    with pytest.raises(ConfigError, match="goes with --role reviewer"):
        serve([tmp_path], ("owner",), "127.0.0.1", 0, None, None, tmp_path / "key")
