"""Questions to a node: what is asked again and for how long, what is said at once, and in which words."""

import base64
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from faulty import LASTING, PASSING, Faulty, Question, Reply, error, packed, result, said, status, talking

from engine.clock import REAL, JumpingClock
from engine.errors import LedgerError
from engine.ledger.chain.address import hidden, origin, refusal
from engine.ledger.chain.base import ChainTrouble, ContractRevert, FeeTooLow, NodeRefuses, NodeUnreachable, NonceProblem
from engine.ledger.chain.node import LAST_PAUSE, Node
from engine.ledger.chain.rpc import RpcChain, resolved
from engine.ledger.chain.transactions import decode_transaction
from engine.ledger.chain.transport import LONGEST

REVERT = "0x08c379a0" + f"{32:064x}{3:064x}" + b"no!".hex().ljust(64, "0")


@pytest.fixture
def server() -> Iterator[Faulty]:
    with Faulty() as made:
        made.fault("", result("0x2a"))
        yield made


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def ask(server: Faulty, clock: JumpingClock | None = None, method: str = "eth_gasPrice", seconds: float = 300.0) -> str:
    return Node(server.url, clock or JumpingClock()).ask(method, read=text, seconds=seconds)


@pytest.mark.parametrize("kind", [name for name in PASSING if not name.startswith(("answer", "cut", "word"))])
def test_what_may_pass_is_asked_again_within_the_time_and_ends_in_a_sentence(server: Faulty, kind: str):
    server.fault("eth_gasPrice", PASSING[kind], at={1, 2})
    assert ask(server) == "0x2a"
    assert server.asked["eth_gasPrice"] == 3
    server.fault("eth_gasPrice", PASSING[kind])
    clock = JumpingClock()
    with pytest.raises(NodeUnreachable) as told:
        ask(server, clock, seconds=20.0)
    assert clock.now() == 20.0
    assert str(told.value).startswith(f"no Ethereum node answers at {server.url} (eth_gasPrice: ")
    assert "\n" not in str(told.value)
    assert server.asked["eth_gasPrice"] - 3 <= 6 + 20 / LAST_PAUSE + 1


@pytest.mark.parametrize("kind", LASTING)
def test_what_does_not_pass_is_said_at_once(server: Faulty, kind: str):
    server.fault("eth_gasPrice", LASTING[kind])
    with pytest.raises(NodeRefuses) as told:
        ask(server)
    assert server.asked["eth_gasPrice"] == 1
    assert "\n" not in str(told.value)
    assert server.url in str(told.value)
    if kind.isdigit():
        assert f"HTTP {kind}" in str(told.value)
    assert "KEY" not in str(told.value)


def test_all_questions_inside_have_the_time_of_one_together(server: Faulty):
    server.fault("eth_gasPrice", status(502))
    clock = JumpingClock()
    node = Node(server.url, clock)
    with node.within(5.0), node.within(60.0):
        for _ in range(3):
            with pytest.raises(NodeUnreachable):
                node.ask("eth_gasPrice", read=text, seconds=300.0)
    assert clock.now() == 5.0
    with pytest.raises(NodeUnreachable):
        node.ask("eth_gasPrice", read=text, seconds=7.0)
    assert clock.now() == 12.0


def test_as_long_as_a_node_asks_for_is_waited(server: Faulty):
    server.fault("eth_gasPrice", status(429, b"", ("Retry-After", "9")), at={1})
    clock = JumpingClock()
    assert ask(server, clock) == "0x2a"
    assert clock.now() == 9.0


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_an_endless_answer_is_not_read_to_its_end(server: Faulty, encoding: str):
    plain = b" " * (LONGEST + 2**20)
    endless = packed(plain, encoding) if encoding else lambda question, passed: Reply(plain)
    server.fault("eth_gasPrice", endless)
    with pytest.raises(NodeUnreachable, match=f"eth_gasPrice: an answer of more than {LONGEST} bytes"):
        ask(server, seconds=0.0)


def test_a_packed_answer_is_read_though_nobody_asked_for_one(server: Faulty):
    server.fault("eth_gasPrice", packed(b'{"id": null, "result": "0x5"}', "gzip"))
    assert ask(server) == "0x5"
    assert server.seen[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    "parts",
    [
        [b"HTTP/1.1 200 OK\r\nX: ", b"x"],
        [b"HTTP/1.1 100 Continue\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n[\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"["],
    ],
)
def test_an_answer_that_trickles_ends_with_its_time(parts: list[bytes]):
    """Each byte comes soon after the one before, and there is no last one."""
    with talking(*parts) as url:
        began = REAL.now()
        with pytest.raises(NodeUnreachable, match=r"eth_gasPrice: no answer in time"):
            Node(url, REAL).ask("eth_gasPrice", read=text, seconds=0.3)
        assert REAL.now() - began < 1.5


def test_a_host_that_is_never_looked_up_ends_with_the_time():
    """One look-up at a time is under way; a later question waits for the same one."""
    go, asked = Event(), list[str]()

    def look_up(host: str, *more: Any) -> Any:
        asked.append(host)
        assert go.wait(20)
        return socket.getaddrinfo("127.0.0.1", *more)

    with Faulty() as server:
        server.fault("", result("0x2a"))
        node = Node(server.url.replace("127.0.0.1", "node.example"), REAL, look_up)
        began = REAL.now()
        for _ in range(2):
            with pytest.raises(NodeUnreachable, match=r"eth_gasPrice: the host is not looked up in time; asked for"):
                node.ask("eth_gasPrice", read=text, seconds=0.3)
        assert REAL.now() - began < 3
        assert asked == ["node.example"]
        go.set()
        assert node.ask("eth_gasPrice", read=text, seconds=5.0) == "0x2a"
        assert server.seen[0]["Host"] == server.url.replace("http://127.0.0.1", "node.example")


def test_all_addresses_of_a_host_are_tried_and_a_name_that_is_none_is_said(server: Faulty):
    def look_up(host: str, port: int, *more: Any) -> Any:
        if host == "nowhere.example":
            raise socket.gaierror(socket.EAI_NONAME, "no")
        return [(None, None, 0, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

    port = server.url.rpartition(":")[2]
    assert Node(f"http://node.example:{port}", JumpingClock(), look_up).ask("m", read=text, seconds=1.0) == "0x2a"
    with pytest.raises(NodeUnreachable, match=r"m: no host of this name"):
        Node(f"http://nowhere.example:{port}", JumpingClock(), look_up).ask("m", read=text, seconds=1.0)


def test_one_connection_serves_many_questions():
    answer = b'{"id": null, "result": "0x5"}'
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer)
    connections = set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            connections.add(self.client_address)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.wfile.write(head + answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as there:
        Thread(target=there.serve_forever, args=(0.02,), daemon=True).start()
        node = Node(f"http://127.0.0.1:{there.server_port}", REAL)
        assert [node.ask("eth_gasPrice", read=text, seconds=5.0) for _ in range(3)] == ["0x5"] * 3
        assert len(connections) == 1
        node.close()
        there.shutdown()


def test_what_a_server_says_is_shown_in_plain_signs_and_without_the_address(server: Faulty):
    key = base64.b64encode(b"alice:s3cret").decode()
    node = Node(server.url.replace("http://", "http://alice:s3cret@") + "/PATHKEY", JumpingClock())
    server.fault("eth_call", error(-32000, f"\ud800 \x1b[31m Basic {key}"))
    with pytest.raises(NodeRefuses, match=r"refuses eth_call: \? \?\[31m Basic \.\.\.$"):
        node.ask("eth_call", read=text, seconds=1.0)
    with (
        talking(b"HTTP/1.1 404 No project PATHKEY\r\nContent-Length: 0\r\n\r\n") as url,
        pytest.raises(NodeRefuses, match=r"refuses eth_call: HTTP 404 No project \.\.\.$"),
    ):
        Node(f"{url}/PATHKEY", REAL).ask("eth_call", read=text, seconds=1.0)


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (error(3, "execution reverted: no!", REVERT), "reverted with 0x08c379a0"),
        (error(-32000, "execution reverted"), "execution reverted"),
        (error(-32603, "Error: VM Exception while processing transaction: reverted", {"data": REVERT}), "0x08c379a0"),
        (error(-32603, f"Error: reverted with an unrecognized custom error (return data: {REVERT})"), "0x08c379a0"),
        (error(-32015, "VM execution error.", f"Reverted {REVERT}"), "0x08c379a0"),
        (error(-32000, "invalid opcode: MCOPY"), "invalid opcode"),
        (status(400, b'{"error": {"code": 3, "message": "execution reverted"}}'), "execution reverted"),
    ],
)
def test_a_refusal_of_the_contract_is_told_from_a_trouble_of_the_node(server: Faulty, problem: Any, words: str):
    server.fault("eth_call", problem)
    with pytest.raises(ContractRevert, match=words):
        ask(server, method="eth_call")
    assert server.asked["eth_call"] == 1


OTHERS = [fault for name, fault in PASSING.items() if not name.startswith(("answer", "cut", "word"))]


@pytest.mark.parametrize(
    "problem", [*OTHERS, *LASTING.values(), error(-32000, "gas limit too low"), error(-1, "?"), error([], "?")]
)
def test_a_trouble_of_the_node_is_never_a_refusal_of_the_contract(server: Faulty, problem: Any):
    server.fault("eth_call", problem)
    with pytest.raises(LedgerError) as told:
        ask(server, method="eth_call", seconds=0.0)
    assert not isinstance(told.value, ContractRevert)


def test_nobody_is_waited_for_a_while_and_not_for_ever():
    clock = JumpingClock()
    with pytest.raises(
        NodeUnreachable, match=r"http://127.0.0.1:9 \(eth_chainId: connection refused; asked for 20 s\)"
    ):
        RpcChain("http://127.0.0.1:9", clock=clock)
    assert clock.now() == 20.0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed (apt-get install openssl)")
def test_a_certificate_of_ones_own_wants_a_bundle(server: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=node -keyout key -out node.pem"
    command = ["openssl", *words.split(), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    secured = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secured.load_cert_chain(tmp_path / "node.pem", tmp_path / "key")
    server.server.socket = secured.wrap_socket(server.server.socket, server_side=True)
    node = Node(server.url.replace("http", "https"), JumpingClock())
    with pytest.raises(NodeRefuses, match=r"the certificate of https://127.* is not trusted; REQUESTS_CA_BUNDLE"):
        node.ask("eth_gasPrice", read=text, seconds=300.0)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "node.pem"))
    assert node.ask("eth_gasPrice", read=text, seconds=0.0) == "0x2a"


def test_an_address_in_ipv6_is_asked():
    with Faulty(host="::1") as there:
        there.fault("", result("0x2a"))
        assert there.url.startswith("http://[::1]:")
        assert ask(there) == "0x2a"


# --- Sending ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said_of_it", "kind"),
    [
        ("nonce too low", NonceProblem),
        ("Nonce too high. Expected nonce to be 3 but got 5.", NonceProblem),
        ("already known", NonceProblem),
        ("Known transaction", NonceProblem),
        ("VM Exception while processing transaction: reverted with custom error", NonceProblem),
        ("replacement transaction underpriced", FeeTooLow),
        ("replacement gas too low, got tip 1, min: 1, got fee 15, min: 16", FeeTooLow),
        ("0x35ab: this transaction is already in the TxPool", NonceProblem),
        ("max fee per gas less than block base fee", FeeTooLow),
        ("transaction underpriced", FeeTooLow),
        ("tx fee (1.40 ether) exceeds the configured cap (1.00 ether)", NodeRefuses),
        ("exceeds block gas limit", NodeRefuses),
        ("invalid sender", NodeRefuses),
    ],
)
def test_what_a_node_says_of_a_transaction_is_understood(server: Faulty, said_of_it: str, kind: type):
    chain, raw = signed(server)
    server.fault("eth_sendRawTransaction", error(-32000, said_of_it))
    with pytest.raises(NodeRefuses) as told:
        chain.send(raw)
    assert type(told.value) is kind
    assert server.asked["eth_sendRawTransaction"] == 1


def test_missing_money_names_the_account_and_the_amounts(server: Faulty):
    chain, raw = signed(server)
    server.fault("eth_sendRawTransaction", error(-32003, "insufficient funds for gas * price + value"))
    server.fault("eth_getBalance", result("0x5"))
    with pytest.raises(
        NodeRefuses, match=f"account {chain.sender} has 5 wei, and this transaction may cost 4200000 wei"
    ):
        chain.send(raw)


def signed(server: Faulty) -> tuple[RpcChain, bytes]:
    """A chain of number 42 without a price, and a transaction of 100,000 gas on it for 42 wei each."""
    from nodes import KEY, of_key

    def block(question: Question, passed: Any) -> Reply:
        return said({"result": {"timestamp": "0x1"}})

    server.fault("eth_getBlockByNumber", block)
    chain = RpcChain(server.url, accounts=of_key(KEY), clock=JumpingClock())
    return chain, chain.sign(None, b"", 100_000)


def test_a_price_above_the_cap_is_refused_after_a_moment_and_room_for_the_price_to_rise_keeps_below_it(server: Faulty):
    from nodes import KEY, of_key

    clock = JumpingClock()
    chain = RpcChain(server.url, accounts=of_key(KEY), clock=clock, max_fee=50.0)

    def prices(price: float, base: float | None) -> None:
        server.heal()
        block = {"timestamp": "0x1"} | ({} if base is None else {"baseFeePerGas": hex(int(base * 1e9))})
        server.fault("", result("0x2a"))
        server.fault("eth_getBlockByNumber", result(block))
        server.fault("eth_gasPrice", result(hex(int(price * 1e9))))

    for price, base, fee in ((50.0, None, 50), (12.0, 10.0, 22), (32.0, 30.0, 50), (0.0, None, 0)):
        prices(price, base)
        raw = chain.sign(None, b"", 100_000)
        assert decode_transaction(raw)["fee"] == fee * 10**9
    for price, base in ((50.5, None), (60.0, 10.0), (1.0, 51.0)):
        prices(price, base)
        began = clock.now()
        with pytest.raises(
            ChainTrouble, match=r"asks for [\d.]+ gwei for a unit of gas, and ledger.max_fee_gwei allows 50$"
        ):
            chain.sign(None, b"", 100_000)
        assert clock.now() - began == 2.0
    prices(2.0, 1.0)
    server.fault("eth_gasPrice", result(hex(10**20)), at={1, 2})  # of a moment
    assert decode_transaction(chain.sign(None, b"", 100_000))["fee"] == 3 * 10**9
    prices(50.0, None)
    assert chain.dearer(chain.sign(None, b"", 100_000)) is None  # a dearer one would cost more than 50


# --- Addresses --------------------------------------------------------------------------------------------------------


def test_an_address_with_more_than_host_and_port_does_not_stand_in_settings():
    for fine in ("http://node:8545", "https://node.example", "http://node:8545/", "HTTP://[::1]:8545", "env:NODE_URL"):
        assert refusal(fine) == ""
    for key in ("http://u:p@node", "http://u@node", "http://node/v3/KEY", "http://node/?k=KEY", "http://node#KEY"):
        assert "env:NAME" in refusal(key)
    for wrong in (
        "node:8545",
        "ws://node",
        "http://",
        "http://[::1",
        "http://node:abc",
        "http://node:99999",
        "env:",
        "env:a b",
    ):
        assert refusal(wrong)


def test_an_address_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NODE_URL", "https://u:p@node:1/v3/PATHKEY?k=SECRET")
    assert resolved("env:NODE_URL") == "https://u:p@node:1/v3/PATHKEY?k=SECRET"
    assert origin(resolved("env:NODE_URL")) == "https://node:1"
    monkeypatch.setenv("NODE_URL", "nonsense SECRET")
    for name, words in (("NODE_URL", "NODE_URL does not hold"), ("OTHER", "OTHER is not set")):
        with pytest.raises(LedgerError, match=words) as told:
            resolved(f"env:{name}")
        assert "SECRET" not in str(told.value)


def test_credentials_are_taken_out_of_what_a_node_says():
    url = "https://alice:s3cret%21@node/v3/PATHKEY?apikey=QUERYKEY"
    text = "project PATHKEY of alice:s3cret! (apikey=QUERYKEY)\n is over"
    assert hidden(text, url) == "project ... of ...:... (...) is over"


def test_credentials_reach_the_node_whatever_signs_are_in_them(server: Faulty):
    node = Node(server.url.replace("http://", "http://al%40ice:p%3Aw%2F%23%C3%A9@") + "/v3/KEY?a=b", JumpingClock())
    assert node.ask("eth_gasPrice", read=text, seconds=1.0) == "0x2a"
    assert base64.b64decode(server.seen[0]["Authorization"].split()[1]).decode() == "al@ice:p:w/#é"
    assert server.seen[0][":path"] == "/v3/KEY?a=b"
    assert node.name == server.url
