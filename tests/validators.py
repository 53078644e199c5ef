"""A network of EthereumJS clients: each of them executes and checks every block, and they propose blocks in turn.

with Validators(block=1.0) as network:               # a block a second; 0: at `network.propose()` only
    RpcChain(network.nodes[0].url)
    network.nodes[1].kill()                           # the others go on; started again, it is told what it has missed

Which block comes next is for a consensus client to say, over the Engine API. This module stands in its place: it asks one
client after the other to build a block, shows it to all, and has all follow it. One that finds a block wrong does not follow. What a client
is sent it passes on to no other before it thinks itself in step with a wider network, so that one that has something is asked first.
"""

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from nodes import CHAIN_ID, KEY, Node, ask, until
from reference import ROOT
from servers import free_port

from engine.ledger.signing import address

MODULES = Path(os.environ.get("PULSELEDGER_NODES", ROOT / "tests/answers")) / "node_modules"
ZERO = "0x" + "00" * 32
_CLIENT, _HARDHAT = "@ethereumjs/client/dist/esm/bin/cli.js", "hardhat/internal/cli/bootstrap.js"


class Program(Node):
    """A node of another maker, from `tests/answers`."""

    def __init__(self, file: str, options: Sequence[str], port: str, home: Path) -> None:
        node, found = shutil.which("node"), MODULES / file
        if node is None or not found.exists():
            pytest.skip(
                f"{file.split('/dist')[0]} is not installed: run `npm install` in tests/answers (needs Node 20)"
            )
        self._port, self._process = free_port(), None
        self.url = f"http://127.0.0.1:{self._port}"
        self._states = tempfile.TemporaryDirectory(prefix="node-")
        self._command = [node, str(found), *options, port, str(self._port)]
        self._place = home
        self.start()


def hardhat(home: Path) -> Program:
    """Hardhat's network, with the Cancun rules."""
    network = {
        "chainId": CHAIN_ID,
        "hardfork": "cancun",
        "accounts": [{"privateKey": KEY.hex(), "balance": str(10**22)}],
    }
    (home / "package.json").write_text("{}")
    (home / "hardhat.config.js").write_text(f"module.exports = {json.dumps({'networks': {'hardhat': network}})}")
    (home / "node_modules").symlink_to(MODULES)
    return Program(_HARDHAT, ("node",), "--port", home)


class Validator(Program):
    """An EthereumJS client; its blocks are in a folder that outlives its process."""

    def __init__(self, home: Path, genesis: Path) -> None:
        home.mkdir()
        self.engine = f"http://127.0.0.1:{(engine := free_port())}"
        flags = ("--gethGenesis", str(genesis), "--dataDir", str(home), "--rpc", "--rpcEngine", "--rpcEngineAuth=false")
        self.peer = free_port()
        silent = ("--discDns=false", "--discV4", "--logFile=false", "--port", str(self.peer))
        super().__init__(_CLIENT, (*flags, *silent, "--rpcEnginePort", str(engine)), "--rpcPort", home)

    @property
    def alive(self) -> bool:
        return self._process is not None

    @property
    def pending(self) -> bool:
        """Whether it has been sent what is in no block."""
        return bool(self("txpool_content")["pending"])

    def meet(self, other: "Validator") -> None:
        """Connects it with another one; without a peer it complains of what it is sent."""
        self("admin_addPeer", {"address": "127.0.0.1", "tcpPort": other.peer, "udpPort": other.peer})
        until(lambda: any(int(one("net_peerCount"), 16) for one in (self, other)))


class Validators:
    """Clients that follow one chain.

    Attributes:
        blocks: what all follow, the one of the genesis file first.
    """

    def __init__(self, count: int = 2, block: float = 0.0) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="validators-")
        home = Path(self._folder.name)
        (home / "genesis.json").write_text(json.dumps(_genesis()))
        self.nodes = [Validator(home / str(i), home / "genesis.json") for i in range(count)]
        first = self.nodes[0]("eth_getBlockByNumber", "latest", False)
        self.blocks = [{"blockHash": first["hash"], "timestamp": first["timestamp"]}]
        self._block, self._turn, self._lock, self._stop = block, 0, threading.RLock(), threading.Event()
        self._proposing = threading.Thread(target=self._propose_all, daemon=True)
        self.propose()  # none takes a transaction before it knows a block
        for node in self.nodes[1:]:
            node.meet(self.nodes[0])

    @property
    def url(self) -> str:
        return self.nodes[0].url

    def propose(self, ahead: int = 0) -> None:
        """Whose turn it is builds a block on the newest but `ahead`, and all follow it."""
        with self._lock:
            alive = [node for node in self.nodes if node.alive]
            self._turn += 1
            turns = [alive[(self._turn + i) % len(alive)] for i in range(len(alive))]
            by = next((one for one in turns if one.pending), turns[0])
            kept, left = self.blocks[: len(self.blocks) - ahead], self.blocks[len(self.blocks) - ahead :]
            # later than what it follows, and than what it takes the place of: that would be the same block
            moment = max([int(time.time()), *(int(one["timestamp"], 16) + 1 for one in (kept[-1], *left[:1]))])
            attributes = {
                "timestamp": hex(moment), "prevRandao": ZERO, "suggestedFeeRecipient": "0x" + "00" * 20, "withdrawals": [],
                "parentBeaconBlockRoot": ZERO,
            }  # fmt: skip
            begun = ask(by.engine, "engine_forkchoiceUpdatedV3", _choice(kept[-1]["blockHash"]), attributes)
            payload = ask(by.engine, "engine_getPayloadV3", begun["payloadId"])["executionPayload"]
            for node in alive:
                show(node, payload)
            self.blocks = [*kept, payload]

    def kill(self, node: Validator) -> None:
        """Ends one at once; the others go on."""
        with self._lock:
            node.kill()

    def paused(self) -> threading.RLock:
        """As long as it is held, no block comes."""
        return self._lock

    def start(self, node: Validator) -> None:
        """Starts one again that was killed, and tells it what it has missed."""
        with self._lock:
            node.start()
            for payload in self.blocks[1:]:
                show(node, payload)
            for other in self.nodes:
                if other.alive and other is not node:
                    node.meet(other)

    def _propose_all(self) -> None:
        while not self._stop.wait(self._block - time.time() % self._block):
            self.propose()

    def __enter__(self) -> "Validators":
        if self._block:
            self._proposing.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._block:
            self._proposing.join(20)
        for node in self.nodes:
            node.kill()
        self._folder.cleanup()


def show(node: Validator, payload: dict[str, Any]) -> dict[str, Any]:
    """Shows a block to a client, which follows it if it is right; its word on it."""
    found: dict[str, Any] = ask(node.engine, "engine_newPayloadV3", payload, [], ZERO)
    if found["status"] == "VALID":
        ask(node.engine, "engine_forkchoiceUpdatedV3", _choice(payload["blockHash"]), None)
    return found


def _choice(head: str) -> dict[str, str]:
    return {"headBlockHash": head, "safeBlockHash": ZERO, "finalizedBlockHash": ZERO}


def _genesis() -> dict[str, Any]:
    """A chain with the Cancun rules from its first block on, whose money is the test account's."""
    names = "homestead eip150 eip155 eip158 byzantium constantinople petersburg istanbul berlin london mergeNetsplit"
    rules: dict[str, Any] = {f"{name}Block": 0 for name in names.split()}
    rules |= {"chainId": CHAIN_ID, "shanghaiTime": 0, "cancunTime": 0, "terminalTotalDifficulty": 0}
    rules |= {
        "terminalTotalDifficultyPassed": True,
        "blobSchedule": {"cancun": {"target": 3, "max": 6, "baseFeeUpdateFraction": 3338477}},
    }
    zeros = dict.fromkeys(("nonce", "timestamp", "difficulty", "number", "gasUsed"), "0x0")
    nobody = {"mixHash": ZERO, "coinbase": "0x" + "00" * 20, "parentHash": ZERO, "extraData": "0x"}
    money = {address(KEY)[2:].lower(): {"balance": hex(10**24)}}
    return {"config": rules, **zeros, **nobody, "gasLimit": hex(30_000_000), "baseFeePerGas": "0x7", "alloc": money}
