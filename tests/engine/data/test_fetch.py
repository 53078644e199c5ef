"""Fetching a database: every file once, whole, checked, replaced where it is wrong; the server is one of ours."""

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.data.fetch import SUMS, fetch, published
from engine.data.sources import INCART, MITDB, SVDB, Dataset
from engine.errors import DataError


def refusal(work: Callable[[], object]) -> str:
    """The message with which `work` is refused: one sentence on one line."""
    with pytest.raises(DataError) as caught:
        work()
    message = str(caught.value)
    assert message.endswith((".", "?"))
    assert len(message.splitlines()) == 1
    assert caught.value.__cause__ is None
    return message


class Server(ThreadingHTTPServer):
    """Serves `files` on 127.0.0.1; `ranges` says whether parts may be asked for, `cut` where a body breaks off."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.cut: int | None = None
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name, wanted = self.path[1:], self.headers["Range"]
        self.server.asked.append((name, wanted))
        content = self.server.files.get(name)
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.server.cut])

    def log_message(self, format: str, *args: Any) -> None:
        pass


FILES = {
    "100.hea": b"100 2 360 650000\n",
    "100.dat": np.random.default_rng(0).bytes(200_000),
    "100.atr": bytes(range(256)),
}


DIGESTS = {name: hashlib.sha256(body).hexdigest() for name, body in FILES.items()}


def small(server: Server) -> Dataset:
    """MIT-BIH of one record, on this server."""
    return replace(MITDB, url=server.url, records=("100",), digests=DIGESTS)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        server.files = dict(FILES)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_fetch_takes_every_file_once(server: Server, tmp_path: Path) -> None:
    target, told = tmp_path / "deep" / "mitdb", []
    assert fetch(small(server), target, told.append) == 3
    assert contents(target) == FILES
    assert server.asked == [(name, None) for name in FILES]
    assert told == ["0/3 100.hea", "1/3 100.dat", "2/3 100.atr", "3/3 done"]
    assert fetch(small(server), target) == 0
    assert len(server.asked) == 3


def test_fetch_goes_on_inside_a_file(server: Server, tmp_path: Path) -> None:
    server.cut = 150_000  # the connection breaks in the middle of 100.dat
    message = refusal(lambda: fetch(small(server), tmp_path))
    assert message.startswith(f"{server.url}100.dat: cannot be fetched (")
    assert "PULSELEDGER_DATA" in message
    assert set(contents(tmp_path)) == {"100.hea", "100.dat.part"}
    got = (tmp_path / "100.dat.part").stat().st_size
    assert 0 < got <= 150_000
    server.cut, server.asked = None, []
    assert fetch(small(server), tmp_path) == 2
    assert contents(tmp_path) == FILES
    assert server.asked == [("100.dat", f"bytes={got}-"), ("100.atr", None)]


def test_fetch_starts_a_file_again_where_the_server_sends_no_parts(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "100.dat.part").write_bytes(FILES["100.dat"][:1000])
    assert fetch(small(server), tmp_path) == 3
    assert contents(tmp_path) == FILES


def test_fetch_takes_a_part_that_was_already_whole(server: Server, tmp_path: Path) -> None:
    (tmp_path / "100.atr.part").write_bytes(FILES["100.atr"])
    assert fetch(small(server), tmp_path) == 3
    assert contents(tmp_path) == FILES
    assert ("100.atr", "bytes=256-") in server.asked


@pytest.mark.parametrize("part", [b"", b"not the beginning"])
def test_fetch_throws_away_what_is_not_the_published_file(server: Server, tmp_path: Path, part: bytes) -> None:
    if part:
        (tmp_path / "100.dat.part").write_bytes(part)
    else:
        server.files["100.dat"] = FILES["100.dat"][:-1] + b"x"
    assert refusal(lambda: fetch(small(server), tmp_path)) == (
        f"{server.url}100.dat: is not the published file (SHA-256 differs); it was thrown away."
    )
    assert contents(tmp_path) == {"100.hea": FILES["100.hea"]}
    server.files = dict(FILES)
    assert fetch(small(server), tmp_path) == 2
    assert contents(tmp_path) == FILES


def test_fetch_of_a_file_that_the_server_lacks(server: Server, tmp_path: Path) -> None:
    del server.files["100.dat"]
    message = refusal(lambda: fetch(small(server), tmp_path))
    assert message.startswith(f"{server.url}100.dat: cannot be fetched (HTTPError); ")
    assert set(contents(tmp_path)) == {"100.hea"}


def test_fetch_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as closed:  # bound but not listening: nobody else gets the port meanwhile
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        assert refusal(lambda: fetch(replace(MITDB, url=url), tmp_path)) == (
            f"{url}100.atr: cannot be fetched (ConnectionError); "
            "set data.folder or PULSELEDGER_DATA to a copy of MIT-BIH 1.0.0."
        )
    assert contents(tmp_path) == {}


def test_fetch_into_a_full_disk_is_one_sentence(server: Server, tmp_path: Path) -> None:
    (tmp_path / "100.hea.part").symlink_to("/dev/full")
    message = refusal(lambda: fetch(small(server), tmp_path))
    assert message == f"{tmp_path / '100.hea.part'}: cannot be stored (No space left on device)."


@pytest.mark.parametrize("left", [0, 3, -1])
def test_fetch_replaces_what_is_there_but_wrong(server: Server, tmp_path: Path, left: int) -> None:
    fetch(small(server), tmp_path)
    (tmp_path / "100.atr").write_bytes(FILES["100.atr"][:left])  # an interrupted copy
    (tmp_path / "100.hea").write_bytes(FILES["100.hea"].replace(b"360", b"250"))
    server.asked = []
    assert fetch(small(server), tmp_path) == 2
    assert contents(tmp_path) == FILES
    assert sorted(name for name, _ in server.asked) == ["100.atr", "100.hea"]


def test_fetch_replaces_a_link_and_not_what_it_points_to(server: Server, tmp_path: Path) -> None:
    other = tmp_path / "other.hea"
    other.write_bytes(b"another record")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "100.hea").symlink_to(other)
    fetch(small(server), tmp_path / "data")
    assert contents(tmp_path / "data") == FILES
    assert other.read_bytes() == b"another record"


# --- Databases whose digests the server has


@pytest.fixture
def listing(server: Server) -> Dataset:
    server.files[SUMS] = "".join(
        f"{digest} {name}\n" for name, digest in {**DIGESTS, "RECORDS": "0" * 64}.items()
    ).encode()
    return replace(SVDB, url=server.url, records=("100",))


def test_the_servers_list_says_what_is_right(server: Server, listing: Dataset, tmp_path: Path) -> None:
    assert fetch(listing, tmp_path) == 3
    assert {name: body for name, body in contents(tmp_path).items() if name != SUMS} == FILES
    assert published(listing, tmp_path) == DIGESTS
    server.asked = []
    assert fetch(listing, tmp_path) == 0
    assert server.asked == [(SUMS, None)]
    (tmp_path / "100.dat").write_bytes(b"")
    assert fetch(listing, tmp_path) == 1
    assert (tmp_path / "100.dat").read_bytes() == FILES["100.dat"]


def test_a_file_that_is_not_the_listed_one_is_thrown_away(server: Server, listing: Dataset, tmp_path: Path) -> None:
    server.files["100.dat"] = b"damaged on the way"
    assert refusal(lambda: fetch(listing, tmp_path)) == (
        f"{server.url}100.dat: is not the published file (SHA-256 differs); it was thrown away."
    )


@pytest.mark.parametrize("content", [b"", b"<html>sign in first</html>", b"\xff\xfe" * 40])
def test_a_list_that_is_none_is_refused(server: Server, listing: Dataset, tmp_path: Path, content: bytes) -> None:
    server.files[SUMS] = content
    assert refusal(lambda: fetch(listing, tmp_path)).startswith(
        f"{server.url}{SUMS}: does not list 100.hea, so it is not "
    )
    assert contents(tmp_path) == {}


def test_a_server_without_a_list_is_refused(server: Server, tmp_path: Path) -> None:
    dataset = replace(INCART, url=server.url)
    assert refusal(lambda: fetch(dataset, tmp_path)) == (
        f"{server.url}{SUMS}: cannot be fetched (HTTPError); "
        "set data.folder or PULSELEDGER_DATA to a copy of the St Petersburg INCART database 1.0.0."
    )


def test_without_a_list_nothing_is_known(tmp_path: Path) -> None:
    assert published(SVDB, tmp_path) == {}
    assert published(MITDB, tmp_path) == MITDB.digests
