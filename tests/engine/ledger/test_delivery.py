"""Deliveries on nodes that drop, delay, reorganise, ask for more, or are away for a while."""

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from eth_utils import keccak
from nodes import CHAIN_ID, KEY, Meanwhile, Node, height, mine, of_key, pending, until
from simulators import COUNTER_CREATION, COUNTER_GAS, Counter, Faults, Memory

from engine.clock import JumpingClock
from engine.encoding import hexed
from engine.errors import LedgerError
from engine.ledger.chain.base import ChainReceipt, NodeUnreachable
from engine.ledger.chain.embedded import EmbeddedChain
from engine.ledger.chain.rpc import RpcChain
from engine.ledger.chain.transactions import decode_transaction, sign_transaction
from engine.ledger.delivery import ATTEMPTS, LAST_PAUSE, JournalTransaction, NoReceipt, settle


def counted(node: Node, counter: Counter) -> int:
    return int(node("eth_getStorageAt", counter.address, "0x0", "latest"), 16)


def nonce(row: JournalTransaction) -> int:
    return decode_transaction(row.raw)["nonce"]


def manual(start: Callable[..., Node], timeout: float = 20.0, **settings: Any) -> tuple[Node, Counter]:
    """A node that mines when told, with the contract on it."""
    node = start("anvil", "--no-mining")
    counter = Counter(RpcChain(node.url, accounts=of_key(KEY), timeout=timeout, **settings), KEY)
    deploying = Meanwhile(counter.settle, 0)
    until(lambda: pending(node))
    mine(node, 1 + settings.get("confirmations", 0))
    deploying.result()
    return node, counter


# --- Without a node ---------------------------------------------------------------------------------------------------


class Patient:
    """A chain that would wait for an hour."""

    timeout = 3600.0

    def __init__(self, chain: Faults) -> None:
        self._chain = chain

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)


def test_a_delivery_waits_as_long_as_the_chain_allows_and_not_longer():
    clock, chain = JumpingClock(), Faults(EmbeddedChain())
    counter = Counter(Patient(chain), clock=clock)  # type: ignore[arg-type]
    chain.fail("send", NodeUnreachable("away"))
    with pytest.raises(NodeUnreachable, match="away"):
        counter.settle(0)
    assert 3600 <= clock.now() <= 3600 + LAST_PAUSE
    chain.heal()
    assert counter.settle(0) == counter.journal.rows[0]
    assert clock.now() <= 3600 + LAST_PAUSE


def test_what_was_taken_although_the_node_said_nothing_is_not_sent_again():
    chain = Faults(EmbeddedChain())
    counter = Counter(chain)  # type: ignore[arg-type]
    counter.settle(0)
    chain.fail("receipt", NodeUnreachable("no answer"))
    with pytest.raises(NodeUnreachable):
        counter.add(1)
    chain.heal()
    chain.send(counter.journal.of(1)[0].raw)
    chain.fail("send")
    row = counter.settle(1)
    assert row.receipt is not None
    assert row.receipt.status == 1


# --- Fees -------------------------------------------------------------------------------------------------------------


def test_a_stuck_transaction_is_replaced_by_a_dearer_one(start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch):
    node, counter = manual(start, timeout=5.0)
    counter.write(1)
    settling = Meanwhile(counter.settle, 1)
    until(lambda: len(counter.journal.of(1)) == 3)  # after half a second and after a second
    mine(node)
    row = settling.result()
    assert len({nonce(attempt) for attempt in counter.journal.of(1)}) == 1
    assert row.hash in [attempt.hash for attempt in counter.journal.of(1)[1:]]
    assert counted(node, counter) == 1
    assert counter.settle(1) == row  # the attempts that lost do no harm
    fees = [decode_transaction(attempt.raw)["fee"] for attempt in counter.journal.of(1)]
    assert all(8 * later >= 9 * earlier for earlier, later in pairwise(fees))


def test_fees_are_raised_five_times_and_then_no_more(start: Callable[..., Node]):
    _, counter = manual(start, timeout=3.0)
    counter.write(1)
    with pytest.raises(
        LedgerError, match=r"gave no receipt for transaction 0x.* \(seal round 1\) within 3 s; it is in"
    ):
        counter.settle(1)
    assert len(counter.journal.of(1)) == 1 + ATTEMPTS


def test_a_fee_below_the_networks_is_raised_at_once(start: Callable[..., Node]):
    node = start("anvil", "--base-fee", str(10**10))
    counter = Counter(RpcChain(node.url, accounts=of_key(KEY)), KEY)
    counter.settle(0)
    counter.write(1, sign_transaction(KEY, CHAIN_ID, 1, counter.address, (1).to_bytes(32, "big"), COUNTER_GAS, 1, 1000))
    started = time.monotonic()
    row = counter.settle(1)
    assert time.monotonic() - started < 15
    assert len(counter.journal.of(1)) == 2
    assert row == counter.journal.of(1)[1]
    assert nonce(row) == 1


def test_a_dearer_foreign_transaction_is_not_outbid(start: Callable[..., Node]):
    node, counter = manual(start)
    node("eth_sendRawTransaction", "0x" + counter.transfer(1, fee=10**12).hex())
    counter.write(
        1, sign_transaction(KEY, CHAIN_ID, 1, counter.address, (1).to_bytes(32, "big"), COUNTER_GAS, 10**9, 10**10)
    )
    settling = Meanwhile(counter.settle, 1)
    until(lambda: len(counter.journal.of(1)) == 2)
    time.sleep(0.5)
    assert [nonce(attempt) for attempt in counter.journal.of(1)] == [1, 1]
    mine(node)
    until(lambda: len(counter.journal.of(1)) == 3)
    until(lambda: pending(node))
    mine(node)
    assert nonce(settling.result()) == 2
    assert counted(node, counter) == 1


# --- Nodes that lose and reorder --------------------------------------------------------------------------------------


def test_a_transaction_that_the_pool_dropped_is_sent_again(start: Callable[..., Node]):
    node, counter = manual(start)
    counter.write(1)
    settling = Meanwhile(counter.settle, 1)
    first = until(lambda: pending(node))
    node("anvil_dropTransaction", first[0])
    until(lambda: pending(node) == first)
    mine(node)
    assert settling.result() == counter.journal.of(1)[0]


def test_a_number_that_an_unsent_transaction_of_ours_holds_is_filled_first(start: Callable[..., Node]):
    """As after a crash: the older attempt was refused and then forgotten by the node, the newer one counts."""
    node = start("anvil")
    counter = Counter(RpcChain(node.url, accounts=of_key(KEY)), KEY)
    counter.settle(0)
    data = (1).to_bytes(32, "big")
    older = sign_transaction(KEY, CHAIN_ID, 1, counter.address, (5).to_bytes(32, "big"), COUNTER_GAS, 10**9, 10**10)
    newer = sign_transaction(KEY, CHAIN_ID, 2, counter.address, data, COUNTER_GAS, 10**9, 10**10)
    counter.write(1, older)
    counter.write(1, newer)
    assert counter.settle(1).hash == keccak(newer)
    assert [row.receipt.status for row in counter.journal.of(1) if row.receipt] == [0, 1]


def test_a_dearer_foreign_transaction_in_the_place_of_an_older_attempt_is_waited_for(start: Callable[..., Node]):
    """The pool refuses the older attempt for its price, as another transaction has its number: that is no contradiction."""
    node, counter = manual(start)
    node("eth_sendRawTransaction", "0x" + counter.transfer(1, fee=10**12).hex())
    older, newer = (
        sign_transaction(KEY, CHAIN_ID, number, counter.address, (1).to_bytes(32, "big"), COUNTER_GAS, 10**9, 10**10)
        for number in (1, 2)
    )
    counter.write(1, older)
    counter.write(1, newer)
    settling = Meanwhile(counter.settle, 1)
    time.sleep(0.5)  # it has been refused by then
    until(lambda: (mine(node), any(row.receipt for row in counter.journal.of(1)))[1])
    assert settling.result().hash == keccak(newer)
    assert counted(node, counter) == 1


def test_a_missing_number_that_is_not_ours_is_not_waited_for(start: Callable[..., Node]):
    node = start("anvil")
    counter = Counter(RpcChain(node.url, accounts=of_key(KEY), timeout=10.0), KEY)
    counter.settle(0)
    counter.write(1, counter.chain.sign(counter.address, (1).to_bytes(32, "big"), COUNTER_GAS, ahead=3))
    row = counter.settle(1)
    assert [nonce(attempt) for attempt in counter.journal.of(1)] == [4, 1]
    assert row == counter.journal.of(1)[1]
    assert counted(node, counter) == 1


@pytest.mark.parametrize("mined", [True, False], ids=["mined", "waiting"])
def test_a_foreign_transaction_with_our_number_costs_us_another_one(start: Callable[..., Node], mined: bool):
    node, counter = manual(start)
    counter.write(1)
    if mined:
        node("eth_sendRawTransaction", "0x" + counter.transfer(1).hex())
        mine(node)
    settling = Meanwhile(counter.settle, 1)
    first = until(lambda: pending(node))
    if not mined:
        node("eth_sendRawTransaction", "0x" + counter.transfer(1).hex())
        until(lambda: pending(node) != first)
        mine(node)
        until(lambda: len(counter.journal.of(1)) == 2)
        until(lambda: pending(node))
    mine(node)
    row = settling.result()
    assert [nonce(attempt) for attempt in counter.journal.of(1)] == [1, 2]
    assert row == counter.journal.of(1)[1]
    assert counted(node, counter) == 1


def test_a_contract_whose_number_went_elsewhere_is_refused(start: Callable[..., Node]):
    node = start("anvil")
    counter = Counter(RpcChain(node.url, accounts=of_key(KEY)), KEY)
    node("eth_sendRawTransaction", "0x" + counter.transfer(0).hex())
    with pytest.raises(
        LedgerError, match=rf"account {counter.chain.sender} used nonce 0 for something else, .* journal "
    ):
        counter.settle(0)
    assert len(counter.journal.rows) == 1


def test_a_contract_whose_earlier_numbers_are_in_no_journal_says_what_it_waits_for(start: Callable[..., Node]):
    """As after a node's empty restart, where another program had sent before us with the same account."""
    chain, journal = RpcChain(start("anvil").url, accounts=of_key(KEY), timeout=1.0), Memory()
    raw = chain.sign(None, COUNTER_CREATION, COUNTER_GAS, ahead=3)
    row = journal.add_transaction("deploy", 0, keccak(raw), raw)
    journal.set_receipt(row.seq, ChainReceipt(hexed(row.hash), 1, COUNTER_GAS))  # in a block that is gone
    says = (
        rf"\(it has number 3; what account {chain.sender} sent before it is neither there nor known on this machine: "
        r"unless the node gets its state back, begin in an empty folder\)"
    )
    with pytest.raises(NoReceipt, match=says):
        settle(chain, journal, journal.of(0), COUNTER_GAS)


def test_time_runs_out_and_the_transaction_is_mined_later(start: Callable[..., Node]):
    node, counter = manual(start, timeout=1.0)
    counter.write(1)
    patience = counter.chain.timeout
    counter.chain.timeout = 0.3
    with pytest.raises(LedgerError, match="it is in the journal and can be settled later"):
        counter.settle(1)
    mine(node)
    counter.chain.timeout = patience
    row = counter.settle(1)
    assert row in counter.journal.of(1)
    assert row.receipt
    assert row.receipt.status == 1
    assert counter.settle(1) == row
    assert counted(node, counter) == 1
    assert height(node) == 2


def test_a_receipt_counts_when_enough_blocks_are_on_top(start: Callable[..., Node]):
    node, counter = manual(start, confirmations=2)
    counter.write(1)
    settling = Meanwhile(counter.settle, 1)
    until(lambda: pending(node))
    mine(node, 2)
    time.sleep(0.3)
    assert counter.journal.of(1)[0].receipt is None
    assert counter.chain.where(counter.journal.of(1)[0].raw) == "mined"
    mine(node)
    assert settling.result() == counter.journal.of(1)[0]
    assert len(counter.journal.of(1)) == 1


def test_a_reorganisation_before_the_depth_costs_nothing(start: Callable[..., Node]):
    node, counter = manual(start, confirmations=2)
    counter.write(1)
    settling = Meanwhile(counter.settle, 1)
    until(lambda: pending(node))
    mine(node, 2)
    node("anvil_reorg", 2, [])
    until(lambda: pending(node))
    assert counted(node, counter) == 0
    mine(node, 3)
    assert settling.result() == counter.journal.of(1)[0]
    assert counted(node, counter) == 1


def test_a_node_that_is_away_for_a_while_is_waited_for(start: Callable[..., Node], tmp_path: Path):
    node = start("anvil", "--state", str(tmp_path / "state.json"))
    counter = Counter(RpcChain(node.url, accounts=of_key(KEY)), KEY)
    counter.settle(0)
    counter.write(1)
    node.stop()
    settling = Meanwhile(counter.settle, 1)
    time.sleep(0.2)
    node.start()
    assert settling.result() == counter.journal.of(1)[0]
    node.kill()
    counter.chain.timeout = 0.2
    with pytest.raises(LedgerError, match=f"no Ethereum node answers at {node.url}"):
        counter.settle(1)


def test_a_url_that_leads_to_another_chain_by_now_is_refused(start: Callable[..., Node]):
    node = start("anvil")
    counter = Counter(RpcChain(node.url, accounts=of_key(KEY)), KEY)
    counter.settle(0)
    counter.write(1)
    node("anvil_setChainId", 7)
    with pytest.raises(LedgerError, match=rf"the node at {node.url} is now on chain 7, it was on {CHAIN_ID}"):
        counter.settle(1)
