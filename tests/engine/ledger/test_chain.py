"""Back ends against each other and against nodes that drop, delay, reorganise, ask for fees, or are away for a while.

The deliveries use a contract of a few bytes that takes the numbers 1, 2, 3, ... in this order and refuses all others.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rlp
from eth_utils import keccak
from nodes import CHAIN_ID, KEY, Node
from test_ledger import DOMAIN, Run, break_off

from engine.errors import LedgerError
from engine.ledger import chain
from engine.ledger.chain import EmbeddedChain, RpcChain, sign_transaction
from engine.ledger.delivery import ATTEMPTS, Refused, settle
from engine.ledger.journal import ChainReceipt, JournalTransaction
from engine.ledger.signing import sign_digest

# calldataload(0) == sload(0) + 1 ? sstore(0, calldataload(0)) : revert
CODE = bytes.fromhex("60003580600054600101146013576000" + "6000fd5b60005500")
CREATION = bytes.fromhex("6018600c60003960186000f3") + CODE
GAS = 200_000
LEGACY = ("--hardfork", "berlin")
OPENING = 3  # transactions before round 1: deploy, open the federation, open round 1


class Memory:
    """As much of a journal as a delivery uses."""

    path = Path("journal")

    def __init__(self) -> None:
        self.rows: list[JournalTransaction] = []

    def add_transaction(self, purpose: str, round: int, hash: bytes, raw: bytes) -> JournalTransaction:
        self.rows.append(JournalTransaction(len(self.rows), purpose, round, hash, raw, None))
        return self.rows[-1]

    def set_receipt(self, seq: int, receipt: ChainReceipt) -> None:
        self.rows[seq] = replace(self.rows[seq], receipt=receipt)

    def of(self, round: int) -> list[JournalTransaction]:
        return [row for row in self.rows if row.round == round]


class Counter:
    """The contract of this file and its journal on one chain."""

    def __init__(self, on: chain.Chain) -> None:
        self.chain, self.journal = on, Memory()
        raw = on.sign(None, CREATION, GAS)
        self.address = chain.created_contract(on.sender, raw)
        self.journal.add_transaction("deploy", 0, keccak(raw), raw)

    def write(self, number: int, raw: bytes | None = None) -> None:
        """Into the journal only."""
        raw = raw or self.chain.sign(self.address, number.to_bytes(32, "big"), GAS)
        self.journal.add_transaction("seal", number, keccak(raw), raw)

    def settle(self, number: int) -> JournalTransaction:
        return settle(self.chain, self.journal, self.journal.of(number), GAS)  # type: ignore[arg-type]

    def add(self, number: int) -> JournalTransaction:
        self.write(number)
        return self.settle(number)

    def transfer(self, nonce: int, fee: int = 10**11) -> bytes:
        """A transaction of the same account that the journal knows nothing of."""
        return sign_transaction(KEY, self.chain.chain_id, nonce, self.chain.sender, b"", 21_000, fee, fee)


def counted(node: Node, counter: Counter) -> int:
    return int(node("eth_getStorageAt", counter.address, "0x0", "latest"), 16)


def nonce(row: JournalTransaction) -> int:
    return chain.decode_transaction(row.raw)["nonce"]


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


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Node]]:
    """Starts nodes and ends them after the test: `start("anvil", "--block-time", "1")`."""
    monkeypatch.setenv(chain.KEY_VARIABLE, KEY.hex())
    nodes: list[Node] = []

    def begin(program: str, *options: str, chain_id: int = CHAIN_ID) -> Node:
        nodes.append(Node(program, *options, chain_id=chain_id))
        return nodes[-1]

    yield begin
    for node in nodes:
        node.kill()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def manual(start: Callable[..., Node], timeout: float = 20.0, **settings: Any) -> tuple[Node, Counter]:
    """A node that mines when told, with the contract on it."""
    node = start("anvil", "--no-mining")
    counter = Counter(RpcChain(node.url, key=KEY, timeout=timeout, **settings))
    deploying = Meanwhile(counter.settle, 0)
    until(lambda: pending(node))
    mine(node, 1 + settings.get("confirmations", 0))
    deploying.result()
    return node, counter


def mine(node: Node, blocks: int = 1) -> None:
    for _ in range(blocks):
        node("evm_mine")


def pending(node: Node) -> list[str]:
    """Hashes of the transactions that could go into the next block."""
    content = node("txpool_content")["pending"]
    return [transaction["hash"] for account in content.values() for transaction in account.values()]


def height(node: Node) -> int:
    return int(node("eth_blockNumber"), 16)


# --- The same on every back end ---------------------------------------------------------------------------------------


@pytest.fixture(params=["embedded", "anvil", "ganache"])
def backend(request: pytest.FixtureRequest, start: Callable[..., Node]) -> chain.Chain:
    return EmbeddedChain() if request.param == "embedded" else RpcChain(start(request.param).url, key=KEY)


def test_a_transaction_for_another_chain_is_refused_by_us_before_anything_is_sent(
    backend: chain.Chain, monkeypatch: pytest.MonkeyPatch
):
    key = chain._EMBEDDED_KEY if backend.name == "embedded" else KEY
    counter = Counter(backend)
    counter.settle(0)
    for tip in (0, None):
        wrong = sign_transaction(
            key, backend.chain_id + 1, 1, counter.address, (1).to_bytes(32, "big"), GAS, tip, 10**10
        )
        with monkeypatch.context() as patch:
            patch.setattr(RpcChain, "_request", break_off)
            with pytest.raises(
                LedgerError, match=f"is signed for chain {backend.chain_id + 1}, the {backend.name} chain"
            ):
                backend.send(wrong)
        counter.journal.rows = counter.journal.rows[:1]
        counter.write(1, wrong)
        with pytest.raises(LedgerError, match=f"is signed for chain {backend.chain_id + 1}"):
            counter.settle(1)
    body = [1, 10**10, GAS, bytes.fromhex(counter.address[2:]), 0, b""]  # bound to no chain, as before EIP-155
    signature = sign_digest(keccak(rlp.encode(body)), key)
    numbers = (int.from_bytes(part, "big") for part in (signature[64:], signature[:32], signature[32:64]))
    with pytest.raises(LedgerError, match="is signed for chain None"):
        backend.send(rlp.encode([*body, *numbers]))
    counter.journal.rows = counter.journal.rows[:1]
    assert nonce(counter.add(1)) == 1


def test_content_counts_once_and_in_order_on_every_back_end(backend: chain.Chain):
    counter = Counter(backend)
    rows = [counter.settle(0), counter.add(1), counter.add(2)]
    assert [row.receipt.status for row in rows if row.receipt] == [1, 1, 1]
    assert counter.settle(1) == rows[1]  # again, and nothing is sent
    assert backend.code(counter.address) == CODE
    with pytest.raises(Refused, match="the contract refuses to seal round 4"):
        counter.add(4)
    assert [row.receipt.status for row in counter.journal.rows if row.receipt] == [1, 1, 1, 0]
    assert nonce(counter.add(3)) == 4
    assert [backend.where(row.raw) for row in counter.journal.rows] == ["mined"] * 5


MONEY = {"anvil": "anvil_setBalance", "ganache": "evm_setAccountBalance"}


def same_account(start: Callable[..., Node], program: str) -> Node:
    """A node with the chain id of the embedded chain, on which the embedded chain's account has money."""
    embedded = EmbeddedChain()
    node = start(program, chain_id=embedded.chain_id)
    node(MONEY[program], embedded.sender, hex(10**21))
    return node


def test_the_same_rounds_give_the_same_head_embedded_and_on_a_node(
    tmp_path: Path, start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
):
    """Same chain id and account, so the same contract address: both must agree on everything."""
    monkeypatch.setenv(chain.KEY_VARIABLE, chain._EMBEDDED_KEY.hex())
    node = same_account(start, "anvil")
    found = []
    for name, settings in (("embedded", {}), ("anvil", {"backend": "rpc", "url": node.url})):
        run = Run(tmp_path / name)
        with run.open(**settings) as ledger:
            seals = [ledger.append(run.entry(number, ledger.domain)) for number in range(1, 5)]
            found.append((ledger.domain, [(seal.head, seal.root, seal.gas) for seal in seals]))
            assert [seal.head for seal in seals] == run.heads(ledger.domain, 4)[1:]
    assert found[0] == found[1]


def test_the_same_transactions_give_the_same_receipts_on_every_back_end(start: Callable[..., Node]):
    key = chain._EMBEDDED_KEY
    found = []
    for program in ("embedded", "anvil", "ganache"):
        embedded = program == "embedded"
        on = EmbeddedChain() if embedded else RpcChain(same_account(start, program).url, key=key)
        counter = Counter(on)
        counter.settle(0)
        for number, content in enumerate((1, 9, 2), 1):
            data = content.to_bytes(32, "big")
            counter.write(number, sign_transaction(key, on.chain_id, number, counter.address, data, GAS, 10**9, 10**10))
            with suppress(Refused):
                counter.settle(number)
        receipts = [row.receipt for row in counter.journal.rows if row.receipt]
        # The creation was signed with fees of the network's own, so its hash differs.
        found.append((counter.address, replace(receipts[0], transaction=""), receipts[1:]))
    assert [receipt.status for receipt in found[0][2]] == [1, 0, 1]
    assert found[0] == found[1] == found[2]


def test_a_network_with_older_rules_is_refused_before_anything_is_deployed(run: Run, start: Callable[..., Node]):
    for program, options in (("ganache", ()), ("anvil", ("--hardfork", "shanghai"))):
        node = start(program, *options)
        with pytest.raises(LedgerError, match=f"the chain behind {node.url} does not follow the Cancun rules"):
            run.open(backend="rpc", url=node.url)
        assert height(node) == 0
        assert not (run.ledger_folder / "journal.sqlite").exists()


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
    on = RpcChain(node.url, key=key)
    assert (int(node("eth_getBalance", on.sender, "latest"), 16) == 0) == free
    counter = Counter(on)
    rows = [counter.settle(0), counter.add(1), counter.add(2)]
    assert counted(node, counter) == 2
    contents = [chain.decode_transaction(row.raw) for row in rows]
    assert all((content["tip"] is None) == (tip is None) for content in contents)
    assert all((content["fee"] == 0) == free for content in contents)
    assert (on.dearer(rows[0].raw) is None) == free


@pytest.mark.parametrize("options", [(), LEGACY], ids=["EIP-1559", "before it"])
def test_a_dearer_transaction_has_the_same_content_and_an_eighth_more_fee(start: Callable[..., Node], options: tuple):
    on = RpcChain(start("anvil", *options).url, key=KEY)
    tip, fee = on._fees()
    first = sign_transaction(KEY, on.chain_id, 7, None, CREATION, GAS, tip, 100 * fee)
    once, twice = on.dearer(first), on.dearer(on.dearer(first) or b"")
    assert once
    assert twice
    before, after, last = map(chain.decode_transaction, (first, once, twice))
    assert all(before[name] == after[name] for name in ("chain_id", "nonce", "gas", "to", "data"))
    assert after["fee"] == -(-before["fee"] * 9 // 8)
    assert last["fee"] == -(-after["fee"] * 9 // 8)
    if tip is not None:
        assert after["tip"] * 8 >= before["tip"] * 9
    cheap = sign_transaction(KEY, on.chain_id, 7, None, CREATION, GAS, None if tip is None else 0, 1)
    assert chain.decode_transaction(on.dearer(cheap) or b"")["fee"] == fee  # at least what the network asks now


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
    fees = [chain.decode_transaction(attempt.raw)["fee"] for attempt in counter.journal.of(1)]
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
    counter = Counter(RpcChain(node.url, key=KEY))
    counter.settle(0)
    counter.write(1, sign_transaction(KEY, CHAIN_ID, 1, counter.address, (1).to_bytes(32, "big"), GAS, 1, 1000))
    started = time.monotonic()
    row = counter.settle(1)
    assert time.monotonic() - started < 15
    assert len(counter.journal.of(1)) == 2
    assert row == counter.journal.of(1)[1]
    assert nonce(row) == 1


def test_a_dearer_foreign_transaction_is_not_outbid(start: Callable[..., Node]):
    node, counter = manual(start)
    node("eth_sendRawTransaction", "0x" + counter.transfer(1, fee=10**12).hex())
    counter.write(1, sign_transaction(KEY, CHAIN_ID, 1, counter.address, (1).to_bytes(32, "big"), GAS, 10**9, 10**10))
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
    counter = Counter(RpcChain(node.url, key=KEY))
    counter.settle(0)
    data = (1).to_bytes(32, "big")
    older = sign_transaction(KEY, CHAIN_ID, 1, counter.address, (5).to_bytes(32, "big"), GAS, 10**9, 10**10)
    newer = sign_transaction(KEY, CHAIN_ID, 2, counter.address, data, GAS, 10**9, 10**10)
    counter.write(1, older)
    counter.write(1, newer)
    assert counter.settle(1).hash == keccak(newer)
    assert [row.receipt.status for row in counter.journal.of(1) if row.receipt] == [0, 1]


def test_a_missing_number_that_is_not_ours_is_not_waited_for(start: Callable[..., Node]):
    node = start("anvil")
    counter = Counter(RpcChain(node.url, key=KEY, timeout=10.0))
    counter.settle(0)
    counter.write(1, counter.chain.sign(counter.address, (1).to_bytes(32, "big"), GAS, ahead=3))
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
    counter = Counter(RpcChain(node.url, key=KEY))
    node("eth_sendRawTransaction", "0x" + counter.transfer(0).hex())
    with pytest.raises(
        LedgerError, match=rf"account {counter.chain.sender} used nonce 0 for something else, .* journal "
    ):
        counter.settle(0)
    assert len(counter.journal.rows) == 1


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
    counter = Counter(RpcChain(node.url, key=KEY))
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
    counter = Counter(RpcChain(node.url, key=KEY))
    counter.settle(0)
    counter.write(1)
    node("anvil_setChainId", 7)
    with pytest.raises(LedgerError, match=rf"the node at {node.url} is now on chain 7, it was on {CHAIN_ID}"):
        counter.settle(1)


# --- The whole ledger on a node ---------------------------------------------------------------------------------------


def opened(run: Run, node: Node, **settings: Any) -> Any:
    return run.open(backend="rpc", url=node.url, **settings)


def test_a_node_that_was_killed_gets_back_what_it_lost(run: Run, start: Callable[..., Node]):
    node = start("anvil")
    with pytest.raises(LedgerError, match=r"is on chain 4242, ledger.chain_id is 1"):
        opened(run, node, chain_id=1)
    with opened(run, node, chain_id=CHAIN_ID) as ledger:
        domain = ledger.domain
        heads = run.heads(domain, 4)
        seals = [ledger.append(run.entry(n, domain)) for n in (1, 2)]
    node.kill()
    node.start()  # it remembers nothing
    assert height(node) == 0
    with opened(run, node) as ledger:
        assert ledger.domain == domain
        assert ledger.seals() == seals
        assert ledger.append(run.entry(3, domain)).head == heads[3]
        node.kill()
        node.start()
        assert ledger.append(run.entry(4, domain)).head == heads[4]
        assert [seal.head for seal in ledger.seals()] == heads[1:]


def test_a_node_that_kept_its_state_is_only_compared(run: Run, tmp_path: Path, start: Callable[..., Node]):
    node = start("anvil", "--state", str(tmp_path / "state.json"))
    with opened(run, node) as ledger:
        seal = ledger.append(run.entry(1, ledger.domain))
    node.stop()
    node.start()
    before = height(node)
    assert before == OPENING + 1
    with opened(run, node) as ledger:
        assert ledger.seals() == [seal]
        assert height(node) == before


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("reopen", [True, False])
def test_rounds_that_a_reorganisation_took_are_sealed_again(
    run: Run, start: Callable[..., Node], depth: int, reopen: bool
):
    node = start("anvil")
    ledger = opened(run, node)
    domain, heads = ledger.domain, run.heads(ledger.domain, 4)
    seals = [ledger.append(run.entry(number, domain)) for number in (1, 2, 3)]
    node("anvil_reorg", depth, [])
    if reopen:
        ledger.close()
        ledger = opened(run, node)
    assert ledger.append(run.entry(4, domain)).head == heads[4]
    assert ledger.seals()[:3] == seals
    ledger.close()
    with opened(run, node) as ledger:
        assert [seal.head for seal in ledger.seals()] == heads[1:]
    assert int(node("eth_getTransactionCount", RpcChain(node.url, key=KEY).sender, "latest"), 16) == OPENING + 4


def test_a_reorganisation_that_put_another_transaction_in_our_place(run: Run, start: Callable[..., Node]):
    node = start("anvil")
    with opened(run, node) as ledger:
        domain, heads = ledger.domain, run.heads(ledger.domain, 4)
        seals = [ledger.append(run.entry(number, domain)) for number in (1, 2, 3)]
        node("anvil_reorg", 2, [])
        sender = RpcChain(node.url, key=KEY).sender
        node(
            "eth_sendRawTransaction",
            "0x" + sign_transaction(KEY, CHAIN_ID, OPENING + 1, sender, b"", 21_000, 1, 10**11).hex(),
        )
        assert ledger.append(run.entry(4, domain)).head == heads[4]
        after = ledger.seals()
        assert [seal.head for seal in after] == heads[1:]
        assert after[0] == seals[0]
        assert after[1].transaction != seals[1].transaction
    with opened(run, node) as ledger:
        assert ledger.seals() == after


def test_a_chain_that_cannot_be_brought_to_the_journal_is_a_contradiction(run: Run, start: Callable[..., Node]):
    """Somebody with our key sealed the round that a reorganisation took away, with another content."""
    node = start("anvil")
    ledger = opened(run, node)
    domain = ledger.domain
    entry = run.entry(1, domain)
    ledger.append(entry)
    content = chain.decode_transaction(ledger._journal.transactions(1)[-1].raw)
    node("anvil_reorg", 1, [])
    data = content["data"].replace(entry.model, b"\x66" * 32)
    raw = sign_transaction(KEY, CHAIN_ID, content["nonce"], domain.contract, data, 200_000, 10**9, 10**11)
    node("eth_sendRawTransaction", "0x" + raw.hex())
    with pytest.raises(LedgerError, match="the contract refuses to seal round 1: ") as refused:
        ledger.append(run.entry(2, domain))
    assert "\n" not in str(refused.value)
    ledger.close()
    with pytest.raises(LedgerError, match="the contract refuses to seal round 1: "):
        opened(run, node)


def test_a_lost_number_is_signed_for_again(run: Run, start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch):
    node = start("anvil")
    ledger = opened(run, node)
    domain = ledger.domain
    with monkeypatch.context() as patch:
        patch.setattr(chain.RpcChain, "send", break_off)
        with pytest.raises(OSError, match="the power went"):
            ledger.append(run.entry(1, domain))
    ledger._open_chain().send(ledger._open_chain().sign(domain.contract, b"", 100_000))
    ledger.close()
    with opened(run, node) as ledger:
        assert ledger.append(run.entry(1, domain)).head == run.heads(domain, 1)[1]
    with opened(run, node) as ledger:
        assert [seal.round for seal in ledger.seals()] == [1]


def test_a_contract_is_shared_but_a_federation_is_there_once(run: Run, tmp_path: Path, start: Callable[..., Node]):
    node = start("anvil")
    with opened(run, node) as ledger:
        contract = ledger.domain.contract
    again = Run(tmp_path / "again")
    with pytest.raises(LedgerError, match="already holds federation"):
        opened(again, node, contract=contract)
    again.federation = replace(again.federation, id=b"\x12" * 32)
    with opened(again, node, contract=contract) as ledger:
        assert ledger.domain.contract == contract
    with pytest.raises(LedgerError, match="is not this version's RoundLedger"):
        opened(Run(tmp_path / "third"), node, contract=DOMAIN.contract)


def test_slow_blocks(run: Run, start: Callable[..., Node]):
    node = start("anvil", "--block-time", "1")
    with opened(run, node) as ledger:
        blocks = {
            node("eth_getTransactionReceipt", "0x" + t.hash.hex())["blockNumber"]
            for t in ledger._journal.transactions()
        }
        assert len(blocks) < OPENING  # what opens a ledger is sent together
        for number in (1, 2):
            assert ledger.append(run.entry(number, ledger.domain)).head == run.heads(ledger.domain, 2)[number]
        assert len(ledger._journal.transactions()) == OPENING + 2


@pytest.mark.long
@pytest.mark.parametrize("confirmations", [0, 2])
def test_many_accidents_end_in_the_same_head(
    run: Run, start: Callable[..., Node], confirmations: int, monkeypatch: pytest.MonkeyPatch
):
    """A node with blocks of one second that loses blocks, forgets its pool and mines foreign transactions at random."""
    node = start("anvil", "--block-time", "1")
    sender = RpcChain(node.url, key=KEY).sender
    random = np.random.default_rng(confirmations)
    stop = threading.Event()

    def trouble() -> None:
        while not stop.wait(random.uniform(0.3, 2.0)):
            kind = random.integers(3)
            if kind == 0 and height(node) > 6:
                node("anvil_reorg", int(random.integers(1, 3)), [])
            elif kind == 1:
                node("anvil_dropAllTransactions")
            elif kind == 2 and height(node) > 6:
                used = int(node("eth_getTransactionCount", sender, "latest"), 16)
                foreign = sign_transaction(KEY, CHAIN_ID, used, sender, b"", 21_000, 10**12, 10**12)
                with suppress(AssertionError):  # the nonce went to us
                    node("eth_sendRawTransaction", "0x" + foreign.hex())

    with opened(run, node, confirmations=confirmations) as ledger:
        domain, heads = ledger.domain, run.heads(ledger.domain, 20)
        troubling = Meanwhile(trouble)
        for number in range(1, 21):
            assert ledger.append(run.entry(number, domain)).head == heads[number]
        stop.set()
        troubling.result()
    with opened(run, node) as ledger:
        assert [seal.head for seal in ledger.seals()] == heads[1:]
