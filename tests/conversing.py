"""What the ledger asks of a node, once each, and what nodes of several makers answered: recorded in `tests/answers`, played again without them.

python tests/conversing.py anvil ganache        # records again: anvil and ganache of contracts/, hardhat and ethereumjs of
python tests/conversing.py hardhat ethereumjs   # tests/answers/package.json (`npm install` there)
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faulty import Faulty, Passed, Question, Reply, said
from nodes import KEY, Node, ask, of_key
from reference import ROOT
from simulators import COUNTER_CODE, COUNTER_CREATION, COUNTER_GAS
from validators import Validators, hardhat

from engine.clock import REAL, Clock
from engine.encoding import keccak
from engine.errors import LedgerError
from engine.ledger.chain.rpc import RpcChain
from engine.ledger.chain.transactions import created_contract, sign_transaction

ANSWERS = ROOT / "tests/answers"
POOR = keccak(b"an account without any money")


def converse(url: str, mine: Callable[[], object] = lambda: None, clock: Clock = REAL) -> dict[str, Any]:
    """One ledger's questions of every kind; what the back end made of the answers.

    Args:
        mine: has what was sent come into a block.
        clock: for the back end, and between two looks.
    """
    chain, poor, deep = (
        RpcChain(url, accounts=of_key(key), confirmations=depth, timeout=10.0, clock=clock)
        for key, depth in ((KEY, 0), (POOR, 0), (KEY, 1))
    )
    found: dict[str, Any] = {"chain": chain.chain_id, "behind": chain.is_behind(), "time": chain.time() > 0}
    found["rules"] = _kind(chain.require_rules)

    def settled(raw: bytes) -> str:
        """What sending says, and what becomes of it."""
        kind = _kind(lambda: chain.send(raw))
        mine()
        for _ in range(50):
            if (receipt := chain.receipt(keccak(raw))) is not None:
                return f"{kind} {receipt.status}".strip()
            if chain.where(raw) == "displaced":
                return f"{kind} displaced".strip()
            clock.sleep(0.1)
        return f"{kind} {chain.where(raw)}".strip()

    creation = chain.sign(None, COUNTER_CREATION, COUNTER_GAS)
    address = created_contract(chain.sender, creation)
    found["before"] = [chain.where(creation), chain.receipt(keccak(creation)), chain.code(address).hex()]
    found["created"] = [settled(creation), chain.where(creation), chain.code(address) == COUNTER_CODE]
    found["one block deep"] = [deep.receipt(keccak(creation)) is None]
    found["again"] = _kind(lambda: chain.send(creation))
    found["call"] = [chain.call(address, _number(1)).hex(), _kind(lambda: chain.call(address, _number(9)))]
    found["nobody there"] = chain.call(poor.sender, _number(1)).hex()
    added = chain.sign(address, _number(1), COUNTER_GAS)
    found["added"] = [
        settled(added),
        [[log.contract, list(log.topics), log.data.hex()] for log in chain.logs(keccak(added))],
    ]
    found["added"][1] = found["added"][1] == [[address, [], ""]]
    found["one block deep"].append(deep.receipt(keccak(creation)) is not None)
    found["refused"] = settled(chain.sign(address, _number(9), COUNTER_GAS))
    transfer = chain.sign(poor.sender, b"", 21_000)
    chain.send(transfer)
    mine()
    found["met nothing"] = [chain.receipt(keccak(transfer)), chain.where(transfer)]
    _, fee = chain._fees()
    used = sign_transaction(KEY, chain.chain_id, 1, chain.sender, b"", 21_000, None, fee)
    found["number used"] = [_kind(lambda: chain.send(used)), chain.where(used)]
    found["too cheap"] = _kind(
        lambda: chain.send(sign_transaction(KEY, chain.chain_id, 4, chain.sender, b"", 21_000, 1, 1))
    )
    found["number ahead"] = _kind(
        lambda: chain.send(sign_transaction(KEY, chain.chain_id, 9, chain.sender, b"", 21_000, None, fee))
    )
    found["no money"] = _kind(lambda: poor.send(poor.sign(None, COUNTER_CREATION, COUNTER_GAS)))
    return found


def _number(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _kind(call: Callable[[], object]) -> str:
    """The class of what is raised; "" for nothing."""
    try:
        call()
    except LedgerError as error:
        return type(error).__name__
    return ""


class Recorder:
    """Passes questions on and writes down both sides."""

    def __init__(self) -> None:
        self.heard: list[list[Any]] = []

    def __call__(self, question: Question, passed: Passed) -> Reply:
        answer = passed()
        kept = {name: answer[name] for name in ("result", "error") if name in answer}
        if "error" in kept:
            kept["error"] = {name: value for name, value in kept["error"].items() if name != "stack"}  # holds paths
        self.heard.append([question["method"], question["params"], kept])
        return said(answer)


class Player:
    """Gives what was recorded: to the same question one answer after the other, the last one for ever."""

    def __init__(self, heard: list[list[Any]]) -> None:
        self._answers: dict[str, list[Any]] = {}
        for method, params, answer in heard:
            self._answers.setdefault(json.dumps([method, params]), []).append(answer)

    def __call__(self, question: Question, passed: Passed) -> Reply | None:
        left = self._answers.get(json.dumps([question["method"], question["params"]]))
        if not left:
            return None  # never asked there: nobody answers
        answer = left.pop(0) if len(left) > 1 else left[0]
        return said({"jsonrpc": "2.0", "id": question["id"], **answer})


@contextmanager
def played(heard: list[list[Any]]) -> Iterator[str]:
    """The address of a node that gives recorded answers."""
    with Faulty() as server:
        server.fault("", Player(heard))
        yield server.url


@contextmanager
def started(name: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """A node of a maker: its address, and what makes it mine."""
    if name == "ethereumjs":
        with Validators(count=2) as network:
            yield network.url, network.propose
    elif name == "hardhat":
        with tempfile.TemporaryDirectory() as home, hardhat(Path(home)) as node:
            yield node.url, lambda: None
    else:
        options = ("--chain.hardfork", "shanghai") if name == "ganache" else ()
        with Node(name, *options) as node:
            yield node.url, lambda: None


def record(name: str) -> None:
    """Holds the conversation with a node, and keeps it."""
    recorder = Recorder()
    with started(name) as (url, mine), Faulty(url) as server:
        server.fault("", recorder)
        found = converse(server.url, mine)
        version = ask(url, "web3_clientVersion")
    kept = {"client": version, "found": found, "heard": recorder.heard}
    (ANSWERS / f"{name}.json").write_text(json.dumps(kept, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{name}: {version}, {len(recorder.heard)} questions: {json.dumps(found)}")


if __name__ == "__main__":
    for one in sys.argv[1:]:
        record(one)
