"""Back ends against each other, on the counter of the simulators; fees as each network asks for them."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import rlp
from eth_utils import keccak
from nodes import KEY, Node, as_embedded, of_key
from simulators import COUNTER_CODE, COUNTER_CREATION, COUNTER_GAS, Counter

from engine.errors import LedgerError
from engine.ledger.chain.base import Chain
from engine.ledger.chain.embedded import EMBEDDED_COORDINATOR, EmbeddedChain
from engine.ledger.chain.rpc import RpcChain
from engine.ledger.chain.transactions import decode_transaction, sign_transaction
from engine.ledger.delivery import JournalTransaction, Refused
from engine.ledger.signing import sign_digest

LEGACY = ("--hardfork", "berlin")


def counted(node: Node, counter: Counter) -> int:
    return int(node("eth_getStorageAt", counter.address, "0x0", "latest"), 16)


def nonce(row: JournalTransaction) -> int:
    return decode_transaction(row.raw)["nonce"]


def test_the_embedded_chain_refuses_another_chain_id_though_its_machine_does_not():
    embedded = EmbeddedChain()
    raw = sign_transaction(EMBEDDED_COORDINATOR, 1, 0, None, b"", 100_000, 0, 10**10)
    with pytest.raises(LedgerError, match="signed for chain 1, the embedded chain is"):
        embedded.send(raw)
    assert embedded.receipt(keccak(raw)) is None
    raw = embedded.sign(None, b"", 100_000)
    embedded.send(raw)
    with pytest.raises(LedgerError, match="does not take the transaction"):
        embedded.send(raw)
    with pytest.raises(LedgerError, match="not a signed transaction"):
        embedded.send(b"\x02nonsense")


# --- The same on every back end ---------------------------------------------------------------------------------------


@pytest.fixture(params=["embedded", "anvil", "ganache"])
def backend(request: pytest.FixtureRequest, start: Callable[..., Node]) -> Chain:
    return EmbeddedChain() if request.param == "embedded" else RpcChain(start(request.param).url, accounts=of_key(KEY))


def test_a_transaction_for_another_chain_is_refused_by_us_before_anything_is_sent(
    backend: Chain,
):
    key = EMBEDDED_COORDINATOR if backend.name == "embedded" else KEY
    counter = Counter(backend)
    counter.settle(0)
    for tip in (0, None):
        wrong = sign_transaction(
            key, backend.chain_id + 1, 1, counter.address, (1).to_bytes(32, "big"), COUNTER_GAS, tip, 10**10
        )
        with pytest.raises(LedgerError, match=f"is signed for chain {backend.chain_id + 1}, the {backend.name} chain"):
            backend.send(wrong)
        assert backend.where(wrong) == "absent"
        counter.journal.rows = counter.journal.rows[:1]
        counter.write(1, wrong)
        with pytest.raises(LedgerError, match=f"is signed for chain {backend.chain_id + 1}"):
            counter.settle(1)
    body = [1, 10**10, COUNTER_GAS, bytes.fromhex(counter.address[2:]), 0, b""]  # bound to no chain, as before EIP-155
    signature = sign_digest(keccak(rlp.encode(body)), key)
    numbers = (int.from_bytes(part, "big") for part in (signature[64:], signature[:32], signature[32:64]))
    with pytest.raises(LedgerError, match="is signed for chain None"):
        backend.send(rlp.encode([*body, *numbers]))
    counter.journal.rows = counter.journal.rows[:1]
    assert nonce(counter.add(1)) == 1


def test_content_counts_once_and_in_order_on_every_back_end(backend: Chain):
    counter = Counter(backend)
    rows = [counter.settle(0), counter.add(1), counter.add(2)]
    assert [row.receipt.status for row in rows if row.receipt] == [1, 1, 1]
    assert counter.settle(1) == rows[1]  # again, and nothing is sent
    assert backend.code(counter.address) == COUNTER_CODE
    with pytest.raises(Refused, match="the contract refuses to seal round 4"):
        counter.add(4)
    assert [row.receipt.status for row in counter.journal.rows if row.receipt] == [1, 1, 1, 0]
    assert nonce(counter.add(3)) == 4
    assert [backend.where(row.raw) for row in counter.journal.rows] == ["mined"] * 5


def test_the_same_transactions_give_the_same_receipts_on_every_back_end(start: Callable[..., Node]):
    key = EMBEDDED_COORDINATOR
    found = []
    for program in ("embedded", "anvil", "ganache"):
        embedded = program == "embedded"
        on = EmbeddedChain() if embedded else RpcChain(as_embedded(start, program).url, accounts=of_key(key))
        counter = Counter(on)
        counter.settle(0)
        for number, content in enumerate((1, 9, 2), 1):
            data = content.to_bytes(32, "big")
            counter.write(
                number, sign_transaction(key, on.chain_id, number, counter.address, data, COUNTER_GAS, 10**9, 10**10)
            )
            with suppress(Refused):
                counter.settle(number)
        receipts = [row.receipt for row in counter.journal.rows if row.receipt]
        # The creation was signed with fees of the network's own, so its hash differs.
        found.append((counter.address, replace(receipts[0], transaction=""), receipts[1:]))
    assert [receipt.status for receipt in found[0][2]] == [1, 0, 1]
    assert found[0] == found[1] == found[2]


# --- Networks that ask for fees, or for none --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "options", "tip"),
    [
        ("anvil", (), "some"),
        ("anvil", ("--hardfork", "berlin"), None),
        ("ganache", ("--chain.hardfork", "berlin"), None),
        ("ganache", ("--chain.hardfork", "berlin", "--miner.defaultGasPrice", "0x0"), None),
    ],
    ids=["EIP-1559", "before it", "before it, ganache", "free gas"],
)
def test_fees_follow_what_the_network_asks(
    start: Callable[..., Node], program: str, options: tuple[str, ...], tip: Any
):
    node = start(program, *options)
    free = "0x0" in options
    key = b"\x05" * 32 if free else KEY  # an account without any money
    on = RpcChain(node.url, accounts=of_key(key))
    assert (int(node("eth_getBalance", on.sender, "latest"), 16) == 0) == free
    counter = Counter(on)
    rows = [counter.settle(0), counter.add(1), counter.add(2)]
    assert counted(node, counter) == 2
    contents = [decode_transaction(row.raw) for row in rows]
    assert all((content["tip"] is None) == (tip is None) for content in contents)
    assert all((content["fee"] == 0) == free for content in contents)
    assert (on.dearer(rows[0].raw) is None) == free


@pytest.mark.parametrize("options", [(), LEGACY], ids=["EIP-1559", "before it"])
def test_a_dearer_transaction_has_the_same_content_and_an_eighth_more_fee(start: Callable[..., Node], options: tuple):
    on = RpcChain(start("anvil", *options).url, accounts=of_key(KEY))
    asked = decode_transaction(on.sign(None, COUNTER_CREATION, COUNTER_GAS))
    tip, fee = asked["tip"], asked["fee"]
    first = sign_transaction(KEY, on.chain_id, 7, None, COUNTER_CREATION, COUNTER_GAS, tip, 100 * fee)
    once, twice = on.dearer(first), on.dearer(on.dearer(first) or b"")
    assert once
    assert twice
    before, after, last = map(decode_transaction, (first, once, twice))
    assert all(before[name] == after[name] for name in ("chain_id", "nonce", "gas", "to", "data"))
    assert after["fee"] == -(-before["fee"] * 9 // 8)
    assert last["fee"] == -(-after["fee"] * 9 // 8)
    if tip is not None:
        assert after["tip"] * 8 >= before["tip"] * 9
    cheap = sign_transaction(KEY, on.chain_id, 7, None, COUNTER_CREATION, COUNTER_GAS, None if tip is None else 0, 1)
    assert decode_transaction(on.dearer(cheap) or b"")["fee"] == fee  # at least what the network asks now
