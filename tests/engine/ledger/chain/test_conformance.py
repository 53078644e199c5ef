"""What nodes of several makers answer is read as the same; and a ledger on a network of two clients that check each other."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conversing import ANSWERS, converse, played, started
from nodes import KEY, Node, until
from simulators import Run
from validators import Validators, show

from engine.clock import JumpingClock
from engine.encoding import keccak
from engine.ledger.chain.base import NodeUnreachable
from engine.ledger.chain.rpc import KEY_VARIABLE

# What the ledger makes of a node; [] are the moments of a question.
WANTED: dict[str, Any] = {
    "chain": 4242,
    "behind": False,
    "time": True,
    "rules": "",
    "before": ["absent", None, ""],
    "created": ["1", "mined", True],
    "one block deep": [True, True],
    "again": "NonceProblem",
    "call": ["", "ContractRevert"],
    "nobody there": "",
    "added": ["1", True],
    "refused": "0",
    "met nothing": [None, "displaced"],
    "number used": ["NonceProblem", "displaced"],
    "too cheap": "FeeTooLow",
    "number ahead": "",
    "no money": "NodeRefuses",
}
OTHERWISE: dict[str, dict[str, Any]] = {
    "anvil": {},
    # says at once what became of a transaction, and keeps none for later
    "hardhat": {"refused": "NonceProblem 0", "number ahead": "NonceProblem"},
    # takes what is too cheap and lets it lie
    "ethereumjs": {"too cheap": ""},
    # older rules; says nothing of what it has, and nothing at all while a number is missing; looks at numbers first
    "ganache": {"rules": "LedgerError", "again": "", "too cheap": "NonceProblem", "number ahead": "NodeUnreachable"},
}


def recorded(name: str) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((ANSWERS / f"{name}.json").read_text(encoding="utf-8"))
    return kept


@pytest.mark.parametrize("name", OTHERWISE)
def test_the_answers_of_every_maker_are_read(name: str):
    kept = recorded(name)
    with played(kept["heard"]) as url:
        found = converse(url, clock=JumpingClock())
    assert found == {**WANTED, **OTHERWISE[name]}
    asked = {method for method, _, _ in kept["heard"]}
    assert len(asked) >= 11
    assert len(kept["client"]) > 4


def test_there_is_a_recording_of_each_and_of_no_other():
    assert {path.stem for path in ANSWERS.glob("*.json")} - {"package", "package-lock"} == set(OTHERWISE)


@pytest.mark.long
@pytest.mark.parametrize("name", OTHERWISE)
def test_nodes_answer_as_they_did(name: str):
    with started(name) as (url, mine):
        assert converse(url, mine) == {**WANTED, **OTHERWISE[name]}


# --- Two validators ---------------------------------------------------------------------------------------------------


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Validators]:
    monkeypatch.setenv(KEY_VARIABLE, KEY.hex())
    with Validators(count=2, block=1.0) as made:
        yield made


def opened(run: Run, node: Node, **settings: Any) -> Any:
    return run.open(backend="rpc", url=node.url, **{"timeout": 30.0, **settings})


def holds(node: Node, ledger: Any) -> bool:
    """Whether a node has all seals of a ledger, in its own words."""
    hashes = [seal.transaction for seal in ledger.rounds.seals]
    return all((node("eth_getTransactionReceipt", one) or {}).get("status") == "0x1" for one in hashes)


@pytest.mark.long
def test_two_validators_check_every_block_and_hold_the_same_ledger(tmp_path: Path, network: Validators):
    run, (first, second) = Run(tmp_path), network.nodes
    with opened(run, first, confirmations=1) as ledger:
        domain = ledger.domain
        for number in (1, 2, 3):
            assert ledger.append(run.entry(number, domain)).head == run.heads(domain, 3)[number]
        until(lambda: holds(first, ledger) and holds(second, ledger))
    with opened(run, second) as ledger:  # whichever is asked
        assert ledger.head == run.heads(domain, 3)[-1]
        assert len(ledger.rounds.seals) == 3


@pytest.mark.long
def test_a_validator_that_goes_away_stops_nobody_who_asks_the_other(tmp_path: Path, network: Validators):
    run, (first, second) = Run(tmp_path), network.nodes
    with opened(run, first, timeout=20.0) as ledger:
        domain = ledger.domain
        heads = run.heads(domain, 4)
        ledger.append(run.entry(1, domain))
        until(lambda: holds(second, ledger))
        network.kill(first)
        with pytest.raises(NodeUnreachable, match=f"no Ethereum node answers at {first.url}"):
            ledger.append(run.entry(2, domain))
    with opened(run, second) as ledger:
        for number in (2, 3):
            assert ledger.append(run.entry(number, domain)).head == heads[number]
    network.start(first)
    with opened(run, first) as ledger:
        assert ledger.append(run.entry(4, domain)).head == heads[4]
        until(lambda: holds(first, ledger) and holds(second, ledger))


@pytest.mark.long
@pytest.mark.parametrize("depth", [1, 3])
def test_blocks_that_both_validators_leave_behind_are_made_up_for(tmp_path: Path, network: Validators, depth: int):
    run, (first, second) = Run(tmp_path), network.nodes
    with opened(run, first) as ledger:
        domain = ledger.domain
        heads = run.heads(domain, 4)
        for number in (1, 2, 3):
            ledger.append(run.entry(number, domain))
        network.propose(ahead=depth)
        assert ledger.append(run.entry(4, domain)).head == heads[4]
        assert [seal.head for seal in ledger.rounds.seals] == heads[1:]
    with opened(run, second) as ledger:
        assert [seal.head for seal in ledger.rounds.seals] == heads[1:]


@pytest.mark.long
def test_a_validator_follows_no_block_with_a_wrong_state(network: Validators):
    """One that lies about what a block comes to is left alone with it."""
    second = network.nodes[1]
    until(lambda: len(network.blocks) > 3)
    with network.paused():
        last = network.blocks[-1]
        lie = {**last, "stateRoot": "0x" + keccak(bytes.fromhex(last["stateRoot"][2:])).hex()}
        lie["timestamp"] = hex(int(lie["timestamp"], 16) + 1)
        named = show(second, lie)["validationError"]  # its hash is another: the client tells which one, last
        lie["blockHash"] = re.findall("0x[0-9a-f]{64}", named)[-1]
        found = show(second, lie)
        assert found["status"] == "INVALID"
        assert "root" in found["validationError"]
        assert second("eth_getBlockByNumber", "latest", False)["hash"] == network.blocks[-1]["blockHash"]
