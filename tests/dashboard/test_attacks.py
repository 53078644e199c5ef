"""What somebody would try: archives that swell, links that lead out, forms that are out of date, pages after the session."""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from browsed import Visitor, desk_on
from governed import HUMAN, OPEN, Flow

from engine.config import RunConfig
from engine.data.cohort import build_cohort
from engine.errors import ReviewPending
from engine.synthesis.reviews import read_state


@pytest.fixture(scope="module")
def parked(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that waits, with one preview for each request."""
    config = tiny_config(**{**HUMAN, **OPEN, "balance.classes": "V", "balance.policy.preview": 2})
    folder = tmp_path_factory.mktemp("attacked") / "run"
    with pytest.raises(ReviewPending):
        Flow(config, build_cohort(config.data, config.cohort))(folder)
    (folder / "config.yaml").write_text("name: run\n")
    return folder


@pytest.fixture
def run(parked: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(parked, tmp_path / "home" / "run"))


def test_an_archive_that_would_swell_is_a_finding_and_fills_nothing(ledgered: Path) -> None:
    """A thousand to one: 100 MB of rows in 100 KB."""
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", json.dumps({"format": 1, "entries": {}}))
        archive.writestr("journal/updates.jsonl", b" " * 100_000_000)
    assert len(bomb.getvalue()) < 200_000
    auditor = Visitor(desk_on(ledgered), "auditor")
    sent = auditor.post("/audit/upload", files={"bundle": ("bomb.plb", bomb.getvalue())})
    page = auditor.get(sent.headers["location"])
    assert "Verdict: unreadable" in page.text or "Verdict: findings" in page.text
    assert len(page.content) < 100_000
    for room in ("journal", "governance", "privacy", "proof?round=1&hospital=0"):
        answer = auditor.get(f"{sent.headers['location']}/{room}")
        assert answer.status_code == 422, room
        assert "Something failed" not in answer.text


@pytest.mark.parametrize("kind", ["outward", "inward", "large", "pipe"])
def test_a_picture_that_is_no_picture_of_the_preview_is_not_sent(run: Path, tmp_path: Path, kind: str) -> None:
    row = read_state(run).pending()[0]
    path = run / f"synthetic/preview-{row.request[:16]}.png"
    path.unlink()
    (tmp_path / "secret").write_text("secret")
    if kind == "outward":
        path.symlink_to(tmp_path / "secret")
    elif kind == "inward":
        path.symlink_to(run / "synthetic/governance.json")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate(1 << 33)
    answer = Visitor(desk_on(run.parent), "reviewer").get(f"/requests/run/{row.request}/preview")
    assert answer.status_code == 422
    assert "secret" not in answer.text
    assert len(answer.content) < 10_000


def test_hostile_words_of_a_preview_s_report_are_text_and_signed_or_not_shown(run: Path) -> None:
    row = read_state(run).pending()[0]
    path = run / f"synthetic/preview-{row.request[:16]}.json"
    for text in (
        '{"quality": {"failed": "<script>alert(1)</script>"}, "pictures": 5, "numbers": []}',
        "[" * 9000,
        "5",
        "",
    ):
        path.write_text(text)
        page = Visitor(desk_on(run.parent), "reviewer").get(f"/requests/run/{row.request}")
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "<img" not in page.text


def test_the_second_of_two_tabs_is_told_that_it_is_late(run: Path) -> None:
    reviewer = Visitor(desk_on(run.parent), "reviewer")
    row = read_state(run).pending()[0]
    address = f"/requests/run/{row.request}"
    assert reviewer.post(f"{address}/decide", {"decision": "deny", "reason": "no"}).status_code == 303
    late = reviewer.post(f"{address}/decide", {"decision": "approve", "reason": "yes", "granted": 1})
    assert late.status_code == 422
    assert "is decided already" in late.text
    assert reviewer.post(f"{address}/withdraw").status_code == 303
    assert reviewer.post(f"{address}/withdraw").status_code == 422


def test_nothing_is_left_to_go_back_to_after_leaving(run: Path) -> None:
    """Neither in the browser, which may keep no page, nor on the server."""
    reviewer = Visitor(desk_on(run.parent), "reviewer")
    page = reviewer.get("/requests")
    assert "no-store" in page.headers["cache-control"]
    assert reviewer.post("/logout").status_code == 200
    for path in ("/requests", "/"):
        assert reviewer.get(path).status_code == 401
    row = read_state(run).pending()[0]
    assert reviewer.post(f"/requests/run/{row.request}/decide", {"decision": "deny", "reason": "x"}).status_code == 401
    assert not (run / "ledger/reviews").exists()
