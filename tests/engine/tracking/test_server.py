"""Whether an address is MLflow's: what is said of everything else, within seconds; names and passwords with any signs."""

import base64
import contextlib
import gzip
import http.server
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from engine.tracking.server import problem

MOMENT = 0.3  # seconds


@contextlib.contextmanager
def serving(
    status: int, body: bytes, seen: list[Any] | None = None, pause: float = 0.0, **headers: str
) -> Iterator[str]:
    """A server that answers so to everything, byte by byte if there is a pause."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            (seen if seen is not None else []).append(self.headers)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            with contextlib.suppress(OSError):
                for start in range(0, len(body), 1 if pause else len(body)):
                    self.wfile.write(body[start : start + (1 if pause else len(body))])
                    time.sleep(pause)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b'{"experiments": [{"name": "Default"}], "next_page_token": "x"}', ""),
        (200, b"{}", ""),  # none that we may see
        (400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "?"}', ""),
        (200, b"<html>welcome</html>", "what listens there is no MLflow: HTTP 200 OK"),
        (200, b"", "what listens there is no MLflow: HTTP 200 OK"),
        (200, b"[" * 100_000, "what listens there is no MLflow: HTTP 200 OK"),
        (200, b'{"jsonrpc": "2.0", "error": {"code": -32600}}', "what listens there is no MLflow: HTTP 200 OK"),
        (404, b"{}", "what listens there is no MLflow: HTTP 404 Not Found"),
        (401, b"who?", "it wants a name and a password, .*MLFLOW_TRACKING_PASSWORD: HTTP 401 Unauthorized"),
        (502, b"<html>", "HTTP 502 Bad Gateway"),
    ],
)
def test_what_is_no_mlflow_is_told(status: int, body: bytes, said: str):
    with serving(status, body) as uri:
        assert re.fullmatch(said, problem(uri, MOMENT, {}))


def test_nobody_and_somebody_who_says_nothing_are_told_in_time():
    assert problem("http://127.0.0.1:9", MOMENT, {}) == "Connection refused"
    assert problem("http://no.such.host.example.invalid", MOMENT, {}).startswith("no connection")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        said = problem(f"http://127.0.0.1:{listening.getsockname()[1]}", MOMENT, {})
        assert said == "what listens there does not answer within 0.3 s"
    began = time.monotonic()
    with serving(200, b'{"experiments": []}' + b" " * 500, pause=0.05) as uri:
        assert problem(uri, MOMENT, {}) == "what listens there is no MLflow"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("status", [302, 308])
@pytest.mark.parametrize(
    ("location", "where"),
    [("https://a:b@mlflow.example:8443/login?x", " to https://mlflow.example:8443"), ("/login", "")],
)
def test_a_server_that_sends_everybody_on_is_told(status: int, location: str, where: str):
    with serving(status, b"", Location=location) as uri:
        said = problem(uri, MOMENT, {})
    assert said.startswith(f"it sends everybody on{where}, which would have to be the address: HTTP {status}")


@pytest.mark.parametrize("body", [b"no gzip", gzip.compress(b"[" + b" " * 2**24)])
def test_what_is_packed_wrongly_or_beyond_measure_is_told(body: bytes):
    with serving(200, body, Content_Encoding="gzip") as uri:
        assert problem(uri, 5.0, {}) == "what listens there is no MLflow"


def test_headers_that_trickle_end_with_the_time():
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def trickle() -> None:
            with contextlib.suppress(OSError):
                connection = listening.accept()[0]
                for sign in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000:
                    connection.send(bytes([sign]))
                    time.sleep(0.05)

        threading.Thread(target=trickle, daemon=True).start()
        said = problem(f"http://127.0.0.1:{listening.getsockname()[1]}", MOMENT, {})
    assert said == "what listens there does not answer within 0.3 s"
    assert time.monotonic() - began < 5


def test_names_and_passwords_may_have_any_signs():
    seen: list[Any] = []
    with serving(200, b"{}", seen) as uri:
        assert problem(uri, 5.0, {"MLFLOW_TRACKING_USERNAME": "al@ice", "MLFLOW_TRACKING_PASSWORD": "p:w/#é€ %"}) == ""
        assert problem(uri, 5.0, {"MLFLOW_TRACKING_TOKEN": "abc"}) == ""
        assert problem(uri, 5.0, {}) == ""
    sent = [headers.get("Authorization") for headers in seen]
    assert base64.b64decode(sent[0].split()[1]).decode() == "al@ice:p:w/#é€ %"
    assert sent[1:] == ["Bearer abc", None]
