"""A node that fails: a server between the engine and a node, or in place of one, which is told what goes wrong.

    with Faulty(node.url) as server:
        server.fault("eth_call", BAD_GATEWAY, at={3})      # the third question of this kind, counted from here
        RpcChain(server.url)

`Fault`s are plain functions: they get the question, and a function that passes it on, and return what to send back.
"""

import contextlib
import gzip
import json
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Container, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from typing import Any, NamedTuple


class Reply(NamedTuple):
    """What is sent back; a body that is shorter than `length` says breaks off."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    length: int | None = None


Question = dict[str, Any]
Passed = Callable[[], Any]  # asks the node itself; the JSON of its answer
Fault = Callable[[Question, Passed], Reply | None]  # None breaks the connection
ALWAYS = range(1, 10**9)


class Faulty:
    """The server. `asked` counts questions by method since the last `heal`; `log` has all since the start."""

    def __init__(self, node: str = "", host: str = "127.0.0.1") -> None:
        self._node, self._faults = node, [("", ALWAYS, pass_on)]
        self.asked: Counter[str] = Counter()
        self.log: list[tuple[float, str]] = []
        self.seen: list[dict[str, str]] = []  # headers
        lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    method = question["method"]
                    server.asked[method] += 1
                    server.log.append((time.monotonic(), method))
                    server.seen.append({**self.headers, ":path": self.path})
                    fault = server._fault(method, server.asked[method])
                reply = fault(question, lambda: server._ask(question))
                if reply is None:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for name, value in reply.headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body) if reply.length is None else reply.length))
                self.end_headers()
                with contextlib.suppress(OSError):  # nobody waits for it any more
                    self.wfile.write(reply.body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def handle_error(self, request: object, client_address: object) -> None:
                pass

        self.server = Quiet((host, 0), Handler)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.server.server_port}"

    def fault(self, method: str, fault: Fault, at: Container[int] = ALWAYS) -> None:
        """What goes wrong with the questions of a method that have these numbers; "" is every method."""
        self._faults.insert(0, (method, at, fault))

    def heal(self) -> None:
        """Everything is passed on, and counted from the start."""
        del self._faults[:-1]
        self.asked.clear()

    def _fault(self, method: str, number: int) -> Fault:
        return next(fault for name, at, fault in self._faults if name in ("", method) and number in at)

    def _ask(self, question: Question) -> Any:
        content = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._node, json.dumps(question).encode(), content)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def __enter__(self) -> "Faulty":
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()


# --- What can go wrong ------------------------------------------------------------------------------------------------


def pass_on(question: Question, passed: Passed) -> Reply:
    return said(passed())


def said(answer: Any) -> Reply:
    """An answer of a node, whole."""
    return Reply(json.dumps(answer).encode(), headers=(("Content-Type", "application/json"),))


def status(code: int, body: bytes = b"<html>no</html>", *headers: tuple[str, str]) -> Fault:
    return lambda question, passed: Reply(body, code, headers)


def error(code: Any, message: str, data: Any = None) -> Fault:
    """An error in the words of JSON-RPC."""
    problem = {"code": code, "message": message, **({} if data is None else {"data": data})}
    return lambda question, passed: said({"jsonrpc": "2.0", "id": question["id"], "error": problem})


def result(value: Any) -> Fault:
    return lambda question, passed: said({"jsonrpc": "2.0", "id": question["id"], "result": value})


def body(text: str) -> Fault:
    return lambda question, passed: Reply(text.encode())


def cut(question: Question, passed: Passed) -> Reply:
    """The answer breaks off in the middle."""
    whole = json.dumps(passed()).encode()
    return Reply(whole[:-5], length=len(whole))


def dropped(question: Question, passed: Passed) -> None:
    """The connection breaks before the node hears of it."""


def answer_lost(question: Question, passed: Passed) -> None:
    """The node hears it, and the connection breaks before its answer comes."""
    passed()


def answer_replaced(by: Fault) -> Fault:
    """The node hears it, and something else answers."""

    def fault(question: Question, passed: Passed) -> Reply | None:
        passed()
        return by(question, passed)

    return fault


def edited(change: Callable[[Any], Any]) -> Fault:
    """The result of the node, changed."""

    def fault(question: Question, passed: Passed) -> Reply:
        answer = passed()
        return said({**answer, "result": change(answer.get("result"))})

    return fault


def of_another(question: Question, passed: Passed) -> Reply:
    """The answer to somebody else's question."""
    return said({"jsonrpc": "2.0", "id": question["id"] + 1, "result": "0x7"})


def batch(question: Question, passed: Passed) -> Reply:
    """As if several had been asked."""
    return said([{"jsonrpc": "2.0", "id": question["id"], "result": "0x7"}])


def packed(plain: bytes, encoding: str) -> Fault:
    """An answer in an encoding, packed once for each comma and once more."""
    for _ in encoding.split(","):
        plain = gzip.compress(plain, mtime=0)
    return lambda question, passed: Reply(plain, headers=(("Content-Encoding", encoding),))


PASSING: dict[str, Fault] = {
    "dropped": dropped,
    "answer lost": answer_lost,
    "502": status(502),
    "503": status(503, b""),
    "429": status(429, b"slow down", ("Retry-After", "0")),
    "limit": error(-32005, "limit exceeded"),
    "capacity": error(429, "Your app has exceeded its compute units per second capacity"),
    "no header": error(-32000, "header not found"),
    "no state": error(-32000, "missing trie node 1a2b (path ) state 0x1 is not available"),
    "internal": error(-32603, "Internal error"),
    "timeout": error(-32002, "request timed out"),
    "page": body("<html>maintenance</html>"),
    "empty": body(""),
    "cut": cut,
    "deep": body("[" * 200_000),
    "text": body('"rate limited"'),
    "list": body("[]"),
    "batch": batch,
    "another": of_another,
    "packed twice": packed(b"{}", "gzip, gzip"),
    "torn pack": status(200, b"\x1f\x8b no", ("Content-Encoding", "gzip")),
    "object": body("{}"),
    "number": result(7),
    "word": result("0xzz"),
    "answer replaced": answer_replaced(status(502)),
}
LASTING: dict[str, Fault] = {
    "401": status(401, b"who are you?"),
    "403": status(403),
    "404": status(404, b"not found"),
    "moved": status(301, b"", ("Location", "http://elsewhere.example/KEY")),
    "no method": error(-32601, "the method does not exist/is not available"),
    "unauthorized": error(-32000, "Unauthorized"),
}


# --- Below HTTP -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def talking(*parts: bytes, pause: float = 0.05) -> Iterator[str]:
    """A server that says these parts to everybody, the last one again and again, with pauses; yields its address."""
    done = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            for part in chain(parts, repeat(parts[-1])):
                if done.wait(pause):
                    return
                connection.sendall(part)

    def listen() -> None:
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            done.set()
            listener.join()
