"""Successors on a node: what the old coordinator had in the pool of the node, races, and who is too early."""

import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nodes import Meanwhile, Node
from simulators import Run, receipt_signature, rule_of

from engine.encoding import keccak
from engine.errors import LedgerError
from engine.ledger.config import Leader, LedgerConfig
from engine.ledger.delivery import NoReceipt
from engine.ledger.format import RUN
from engine.ledger.run import RunLedger
from engine.ledger.signing import address
from engine.ledger.store import read_only, table_rows

# The second and third account of the test phrase, which the nodes fund.
KEYS = [
    bytes.fromhex("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"),
    bytes.fromhex("5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"),
]
FIRST, SECOND = (address(key) for key in KEYS)
PATIENCE = 50


def settings(node: Node, **changes: Any) -> dict[str, Any]:
    return {"backend": "rpc", "url": node.url, "successors": [FIRST, SECOND], "patience": PATIENCE, **changes}


def as_leader(run: Run, node: Node, place: int) -> RunLedger:
    config = LedgerConfig(**settings(node))
    leader = Leader((FIRST, SECOND)[place], KEYS[place])
    return RunLedger(run.ledger_folder, run.federation, rule_of(run.weighting), config, leader=leader)


def later(node: Node, seconds: int) -> None:
    node("evm_increaseTime", hex(seconds))
    node("evm_mine")


def test_what_the_old_one_had_in_the_pool_is_refused_and_the_new_one_seals_the_same(
    tmp_path: Path, start: Callable[..., Node]
):
    node, run = start("anvil"), Run(tmp_path)
    with suppress(NoReceipt), run.open(**settings(node, timeout=5)) as ledger:
        domain, old = ledger.domain, ledger.opened().coordinator
        ledger.append(run.entry(1, domain))
        node("evm_setAutomine", False)
        ledger.append(run.entry(2, domain))
    with read_only(run.ledger_folder / RUN.file) as journal:
        raw = bytes(list(table_rows(journal, "transactions", RUN.tables["transactions"]))[-1]["raw"])
    node(
        "anvil_dropTransaction", "0x" + keccak(raw).hex()
    )  # it waits elsewhere, and comes when it can do no good any more
    node("evm_setAutomine", True)
    with pytest.raises(LedgerError, match=f"it is too early for {FIRST}"):
        as_leader(run, node, 0)
    later(node, PATIENCE)
    with pytest.raises(LedgerError, match=f"it is too early for {SECOND}"):
        as_leader(run, node, 1)
    with as_leader(run, node, 0) as ledger:
        assert [seal.head for seal in ledger.rounds.seals] == run.heads(domain, 2)[1:]
        leaf = ledger.rounds.prove(2, 0).leaf
        assert ledger.rounds.receipts(2)[0] == receipt_signature(domain, 2, 0, leaf, KEYS[0])
        node("eth_sendRawTransaction", "0x" + raw.hex())
        node("evm_mine")
        assert node("eth_getTransactionReceipt", "0x" + keccak(raw).hex())["status"] == "0x0"
        ledger.append(run.entry(3, domain))
        assert ledger.head == run.heads(domain, 3)[-1]
        assert ledger.opened().coordinator == FIRST
        assert ledger.succession.led == (old, FIRST)
        assert ledger.summary()["terms"] == [{"term": 1, "name": FIRST, "account": FIRST, "round": 2}]
    with pytest.raises(LedgerError, match=f"{FIRST} leads this run since round 2"):
        run.open(**settings(node))
    with as_leader(run, node, 0) as ledger:  # again, from the journal
        assert ledger.head == run.heads(domain, 3)[-1]


def test_of_two_that_race_the_other_one_has_been_passed(tmp_path: Path, start: Callable[..., Node]):
    node, run = start("anvil"), Run(tmp_path)
    with run.open(**settings(node)) as ledger:
        domain = ledger.domain
        ledger.append(run.entry(1, domain))
    later(node, PATIENCE)
    with run.open(**settings(node)):
        pass  # it was away, and is there again in time
    with pytest.raises(LedgerError, match=f"it is too early for {FIRST}"):
        as_leader(run, node, 0)
    later(node, 2 * PATIENCE)
    with as_leader(run, node, 1) as ledger:
        ledger.append(run.entry(2, domain))
    later(node, 9 * PATIENCE)
    with pytest.raises(LedgerError, match=f"{SECOND} took over already, which stands at or behind {FIRST}"):
        as_leader(run, node, 0)


def copy_of(run: Run, place: Path) -> Run:
    """The same federation, with the folder as it is now."""
    shutil.copytree(run.folder, place)
    return replace(run, folder=place)


def test_a_folder_that_is_a_round_behind_is_refused_and_the_whole_one_goes_on(
    tmp_path: Path, start: Callable[..., Node]
):
    node, run = start("anvil"), Run(tmp_path / "run")
    with run.open(**settings(node)) as ledger:
        domain = ledger.domain
        ledger.append(run.entry(1, domain))
    stale = copy_of(run, tmp_path / "stale")
    with run.open(**settings(node)) as ledger:
        ledger.append(run.entry(2, domain))
    later(node, PATIENCE)
    with pytest.raises(
        LedgerError, match=r"journal and chain contradict each other: .* in .*stale.* and 2 in contract"
    ):
        as_leader(stale, node, 0)
    with as_leader(run, node, 0) as ledger:
        assert ledger.append(run.entry(3, domain)).head == run.heads(domain, 3)[-1]


@pytest.mark.long
def test_of_two_takeovers_at_once_one_leads_and_the_other_is_told(tmp_path: Path, start: Callable[..., Node]):
    node, run = start("anvil", "--block-time", "1"), Run(tmp_path / "run")
    with run.open(**settings(node)) as ledger:
        domain = ledger.domain
        ledger.append(run.entry(1, domain))
    other = copy_of(run, tmp_path / "other")
    later(node, 2 * PATIENCE)
    both = [Meanwhile(as_leader, one, node, place) for place, one in enumerate((run, other))]
    ended = []
    for one in both:
        try:
            ended.append(one.result())
        except LedgerError as error:
            ended.append(error)
    [leads] = [one for one in ended if isinstance(one, RunLedger)]
    [told] = [str(one) for one in ended if isinstance(one, LedgerError)]
    assert re.search(r"too early|TakeoverTooEarly|took over already|SuccessorPassed", told)
    assert "\n" not in told
    with leads as ledger:
        assert ledger.append(run.entry(2, domain)).head == run.heads(domain, 2)[-1]
