"""Local Ethereum nodes for the tests: anvil and ganache from `contracts/node_modules`, or anvil on the path.

A test that asks for one is skipped, with the reason, where it is not installed (`npm ci` in `contracts/`).
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from reference import ROOT
from servers import free_port

from engine.ledger.accounts import ADMIN, AUDITOR, COORDINATOR, DEPLOYER, Accounts
from engine.ledger.chain.embedded import EMBEDDED_ADMIN, EMBEDDED_AUDITOR, EmbeddedChain

CHAIN_ID = 4242
# Funded on every node here. The first account of the test phrase that the nodes know by themselves.
KEY = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
_PLACE = str(ROOT / "contracts/node_modules/.bin")


class Node:
    """A node on a free port of this machine. `kill` takes its memory; `start` begins again on the same port."""

    _place: Path | None = None  # where its process stands

    def __init__(self, program: str, *options: str, chain_id: int = CHAIN_ID) -> None:
        found = (shutil.which("node") and shutil.which(program, path=_PLACE)) or shutil.which(program)
        if not found:
            pytest.skip(f"{program} is not installed: run `npm ci` in contracts/ (needs Node)")
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._states = tempfile.TemporaryDirectory(
            prefix="node-"
        )  # of old blocks; a node that is killed leaves them behind
        self._command = [found, "--port", str(self._port), *_identity(program, chain_id, self._states.name), *options]
        self._process: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        """Start the node and wait until it answers."""
        silent = subprocess.DEVNULL
        # A session of its own: what npm installs is a script that starts the node, and both must end.
        self._process = subprocess.Popen(
            self._command, stdin=silent, stdout=silent, stderr=silent, start_new_session=True, cwd=self._place
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                self("eth_chainId")
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise AssertionError(f"{self._command[0]} did not start") from None
                time.sleep(0.05)

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order, so that it writes what it was told to keep."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        with suppress(ProcessLookupError):  # it did not start
            os.killpg(self._process.pid, how)
        self._process.wait(20)
        self._process = None
        # The port is free when the node itself has gone.
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
            except OSError:
                return
            time.sleep(0.01)
        raise AssertionError(f"{self._command[0]} did not end")

    def __call__(self, method: str, *params: Any) -> Any:
        """Ask the node something, without any code of the engine."""
        return ask(self.url, method, *params)

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        self._states.cleanup()


def ask(url: str, method: str, *params: Any) -> Any:
    """Ask whoever answers JSON-RPC at an address."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as response:
        answer = json.load(response)
    assert "error" not in answer, f"{method}: {answer['error']}"
    return answer["result"]


def _identity(program: str, chain_id: int, states: str) -> Sequence[str]:
    """Chain id, the funded key and where old states lie, in the words of each program."""
    if program == "anvil":
        return ["--chain-id", str(chain_id), "--silent", "--cache-path", states]
    return [
        "--chain.chainId",
        str(chain_id),
        "--wallet.accounts",
        f"0x{KEY.hex()},0x{10**22:x}",
        "--host",
        "127.0.0.1",
        "--logging.quiet",
    ]


class Meanwhile:
    """Runs a function beside the test; `result` waits for it."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.value: Any = None

        def target() -> None:
            try:
                self.value = function(*arguments)
            except BaseException as error:
                self.value = error

        self._thread = threading.Thread(target=target, daemon=True)
        self._thread.start()

    def result(self) -> Any:
        self._thread.join(60)
        assert not self._thread.is_alive(), "it hangs"
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 20
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return value


def mine(node: Node, blocks: int = 1) -> None:
    for _ in range(blocks):
        node("evm_mine")


def pending(node: Node) -> list[str]:
    """Hashes of the transactions that could go into the next block."""
    content = node("txpool_content")["pending"]
    return [transaction["hash"] for account in content.values() for transaction in account.values()]


def height(node: Node) -> int:
    return int(node("eth_blockNumber"), 16)


_MONEY = {"anvil": "anvil_setBalance", "ganache": "evm_setAccountBalance"}


def of_key(key: bytes) -> Accounts:
    """A coordinator that creates its contracts itself, as on a node; admin and auditor are those that everybody knows."""
    return Accounts({COORDINATOR: key, DEPLOYER: key, ADMIN: EMBEDDED_ADMIN, AUDITOR: EMBEDDED_AUDITOR})


def as_embedded(start: Callable[..., Node], program: str) -> Node:
    """A node with the chain id of the embedded chain, on which the embedded chain's account has money."""
    embedded = EmbeddedChain()
    node = start(program, chain_id=embedded.chain_id)
    node(_MONEY[program], embedded.sender, hex(10**21))
    return node


class Listener:
    """Stands where a node could: counts who comes, and answers nothing that a node would say."""

    def __init__(self) -> None:
        self.asked = 0
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                listener.asked += 1
                self.send_error(500)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Listener":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
