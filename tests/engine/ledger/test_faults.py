"""The whole ledger on a node whose questions fail: same head or one sentence, within the time, and opening it again finishes."""

import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty import ALWAYS, LASTING, PASSING, Fault, Faulty, answer_replaced, edited, error, result, said, status
from nodes import KEY, Meanwhile, Node, height, of_key, pending, until
from simulators import Run

from engine.errors import LedgerError
from engine.ledger.accounts import COORDINATOR
from engine.ledger.chain.base import ChainTrouble, NodeRefuses, NodeUnreachable
from engine.ledger.chain.rpc import RpcChain
from engine.ledger.chain.transactions import decode_transaction
from engine.ledger.config import LedgerConfig
from engine.ledger.delivery import NoReceipt
from engine.ledger.subjects.study import StudyLedger

METHODS = (
    "eth_chainId",
    "eth_call",
    "eth_gasPrice",
    "eth_getBlockByNumber",
    "eth_getTransactionCount",
    "eth_sendRawTransaction",
    "eth_getTransactionReceipt",
    "eth_getCode",
    "eth_getTransactionByHash",
)
ROUNDS = 2
# What a node that sends transactions, and forgets or mistakes them, says.
SENDING: dict[str, Fault] = {
    "lost": result("0x" + "11" * 32),
    "already known": error(-32000, "already known"),
    "nonce too low": error(-32000, "nonce too low"),
    "full": error(-32000, "txpool is full"),
    "known after all": answer_replaced(error(-32000, "already known")),
}


@pytest.fixture
def node(start: Callable[..., Node]) -> Node:
    return start("anvil")


@pytest.fixture
def server(node: Node) -> Iterator[Faulty]:
    with Faulty(node.url) as made:
        yield made


_numbers = count()


def fresh(folder: Path) -> Run:
    return Run(folder / str(next(_numbers)), hospitals=2)


def rounds(run: Run, server: Faulty, timeout: float = 20.0, **settings: Any) -> list[bytes]:
    """The heads of all rounds, of a ledger that is opened, or gone on with."""
    with run.open(backend="rpc", url=server.url, timeout=timeout, **settings) as ledger:
        for number in range(1, ROUNDS + 1):
            ledger.append(run.entry(number, ledger.domain))
        heads = [seal.head for seal in ledger.rounds.seals]
        assert heads == run.heads(ledger.domain, ROUNDS)[1:]
        return heads


def cell(folder: Path, server: Faulty, method: str, fault: Fault, at: object, timeout: float) -> str:
    """Rounds while questions fail; how they end: "", or the sentence. Then the same without faults, which must end well."""
    run = fresh(folder)
    server.heal()
    server.fault(method, fault, at)  # type: ignore[arg-type]
    began, said = time.monotonic(), ""
    try:
        heads = rounds(run, server, timeout)
    except LedgerError as problem:
        heads, said = [], str(problem)
        assert said
        assert "\n" not in said
        assert len(said) < 700
    # every step of the ledger has the timeout for itself, and the machine is slow
    assert time.monotonic() - began < 4 * timeout + 10, said
    server.heal()
    again = rounds(run, server)
    assert heads in ([], again)
    return said


# --- A selection ------------------------------------------------------------------------------------------------------


def test_each_question_may_fail_for_a_moment(server: Faulty, tmp_path: Path):
    for index, method in enumerate(METHODS):
        for number, kind in enumerate(list(PASSING)[index::9]):
            server.fault(method, PASSING[kind], at={2 * number + 1})
    assert len(rounds(fresh(tmp_path), server)) == ROUNDS


@pytest.mark.parametrize("method", ["eth_gasPrice", "eth_call", "eth_sendRawTransaction"])
def test_a_question_that_fails_for_good_ends_in_a_sentence(server: Faulty, tmp_path: Path, method: str):
    said = cell(tmp_path, server, method, status(502), range(3, 10**9), timeout=0.5)
    assert f"no Ethereum node answers at {server.url} ({method}: HTTP 502" in said


def test_a_key_that_is_no_longer_taken_ends_at_once(server: Faulty, tmp_path: Path):
    began = time.monotonic()
    said = cell(tmp_path, server, "", LASTING["401"], ALWAYS, timeout=300.0)
    assert "refuses eth_chainId: HTTP 401 Unauthorized" in said
    assert time.monotonic() - began < 20


def test_a_node_that_takes_transactions_and_loses_them_is_not_asked_for_ever(server: Faulty, tmp_path: Path):
    said = cell(tmp_path, server, "eth_sendRawTransaction", SENDING["lost"], range(5, 10**9), timeout=2.0)
    assert "gave no receipt for transaction 0x" in said
    assert "within 2 s" in said
    sent = [at for at, method in server.log if method == "eth_sendRawTransaction"]
    assert len(sent) < 60  # a few times each of the dearer ones


@pytest.mark.parametrize("fault", [PASSING["answer lost"], SENDING["known after all"]], ids=["lost", "already known"])
def test_a_transaction_whose_every_answer_is_lost_is_found_on_the_node(server: Faulty, tmp_path: Path, fault: Fault):
    server.fault("eth_sendRawTransaction", fault)
    assert len(rounds(fresh(tmp_path), server, timeout=5.0)) == ROUNDS
    assert server.asked["eth_sendRawTransaction"] < 12  # each about once


@pytest.mark.parametrize("clock", ["1000000000", "4000000000"])
def test_the_clock_of_a_network_may_be_odd(start: Callable[..., Node], tmp_path: Path, clock: str):
    """Decades behind, decades ahead: deadlines are by the network's own."""
    run = fresh(tmp_path)
    with run.open(backend="rpc", url=start("anvil", "--timestamp", clock).url, deadline=600) as ledger:
        assert ledger.append(run.entry(1, ledger.domain)).head == run.heads(ledger.domain, 1)[1]
        assert 0 <= ledger.rounds.state(ledger.domain.contract)["deadline"] - int(clock) - 600 < 60


def test_what_the_network_leaves_out_is_done_without(server: Faulty, tmp_path: Path):
    """Blocks of a network with proof of authority have more extra data, older ones no base fee."""

    def block(found: dict) -> dict:
        return {name: value for name, value in found.items() if name != "baseFeePerGas"} | {
            "extraData": "0x" + "ab" * 278,
        }

    server.fault("eth_getBlockByNumber", edited(block))
    assert len(rounds(fresh(tmp_path), server)) == ROUNDS


def test_an_account_without_money_is_told_and_goes_on_when_it_has_some(node: Node, tmp_path: Path):
    run = fresh(tmp_path)
    account = of_key(KEY).address(COORDINATOR)
    node("anvil_setBalance", account, "0x1")
    with pytest.raises(NodeRefuses, match=rf"account {account} has 1 wei, and this transaction may cost \d+ wei"):
        run.open(backend="rpc", url=node.url)
    node("anvil_setBalance", account, hex(10**20))
    with run.open(backend="rpc", url=node.url) as ledger:
        assert ledger.append(run.entry(1, ledger.domain)).head == run.heads(ledger.domain, 1)[1]


@pytest.mark.parametrize("price", [10**24, 2**256 - 1])
def test_a_price_of_a_moment_does_not_stay(server: Faulty, tmp_path: Path, price: int):
    """Nobody takes what was signed for it: the account has not that much, and no node reads the greater one."""
    server.fault("eth_gasPrice", result(hex(price)), at={2, 5})
    assert len(rounds(fresh(tmp_path), server, max_fee_gwei=1e80)) == ROUNDS


def test_a_price_above_the_cap_is_not_paid_and_the_same_work_goes_on_later(server: Faulty, tmp_path: Path):
    run = fresh(tmp_path)
    server.fault("eth_gasPrice", result(hex(10**13)))  # the account has enough for it
    with pytest.raises(
        ChainTrouble, match=r"asks for 10000 gwei for a unit of gas, and ledger.max_fee_gwei allows 1000$"
    ):
        rounds(run, server)
    assert server.asked["eth_sendRawTransaction"] == 0
    server.heal()
    assert len(rounds(run, server)) == ROUNDS


def test_the_gas_of_a_transaction_may_be_another_in_another_block(server: Faulty, tmp_path: Path):
    run = fresh(tmp_path)
    rounds(run, server)
    server.fault("eth_getTransactionReceipt", edited(lambda receipt: receipt | {"gasUsed": "0x7777"}))
    with run.open(backend="rpc", url=server.url) as ledger:
        assert len(ledger.rounds.seals) == ROUNDS
        assert {t.receipt.gas for t in ledger.book.transactions if t.receipt} == {0x7777}
    server.fault("eth_getTransactionReceipt", edited(lambda receipt: receipt | {"status": "0x0"}))
    with pytest.raises(
        LedgerError, match=r"contradict each other: the receipt of transaction 0x\w+ has status 1 in .*, and 0 on"
    ):
        run.open(backend="rpc", url=server.url)


def test_a_round_whose_opening_waited_for_too_long_is_opened_anew(node: Node, tmp_path: Path):
    run = fresh(tmp_path)
    account = of_key(KEY).address(COORDINATOR)
    node("anvil_setBalance", account, "0x1")
    with pytest.raises(NodeRefuses, match="send it some and go on"):
        run.open(backend="rpc", url=node.url, deadline=3600)
    node("anvil_setBalance", account, hex(10**20))
    node("evm_increaseTime", 7200)
    with run.open(backend="rpc", url=node.url, deadline=3600) as ledger:
        assert ledger.append(run.entry(1, ledger.domain)).head == run.heads(ledger.domain, 1)[1]


def test_a_chain_whose_last_block_is_old_gives_deadlines_that_can_be_kept(node: Node, tmp_path: Path):
    run = fresh(tmp_path)
    node("evm_increaseTime", 7200)  # no block comes of it
    with run.open(backend="rpc", url=node.url, deadline=3600) as ledger:
        assert ledger.append(run.entry(1, ledger.domain)).head == run.heads(ledger.domain, 1)[1]


def test_a_count_that_is_behind_is_waited_for(server: Faulty, tmp_path: Path):
    def behind(found: str) -> str:
        return hex(max(int(found, 16) - 1, 0))

    server.fault("eth_getTransactionCount", edited(behind), at=range(2, 40, 3))
    assert len(rounds(fresh(tmp_path), server)) == ROUNDS


# --- Reorganisations and restarts -------------------------------------------------------------------------------------


def test_a_seal_does_not_take_the_number_of_its_own_contract(start: Callable[..., Node], tmp_path: Path):
    """A node forgets everything while a seal waits for its block."""
    node, run = start("anvil"), fresh(tmp_path)
    with run.open(backend="rpc", url=node.url) as ledger:
        domain = ledger.domain
        node("evm_setAutomine", False)
        sealing = Meanwhile(ledger.append, run.entry(1, domain))
        until(lambda: pending(node))
        node.kill()
        node.start()
        assert sealing.result().head == run.heads(domain, 1)[1]
        assert ledger.append(run.entry(2, domain)).head == run.heads(domain, 2)[2]
        numbers = [decode_transaction(t.raw)["nonce"] for t in ledger.book.transactions]
    assert numbers == [0, 1, 2, 3, 4]


def test_a_record_does_not_take_the_number_of_its_own_contract(node: Node, tmp_path: Path):
    """A node forgets everything between two records of a study."""
    config = LedgerConfig(backend="rpc", url=node.url)
    ledger = StudyLedger(tmp_path, "study", config)
    ledger.register({"a": 1}, 2)
    node.kill()
    node.start()
    ledger.record(0, "BEGUN", {})
    ledger.close()
    again = StudyLedger(tmp_path, "study", config)
    assert again.recorded() == {(0, False)}
    again.close()


def test_a_chain_that_gave_the_contracts_number_away_is_said_plainly(node: Node, tmp_path: Path):
    run = fresh(tmp_path)
    with run.open(backend="rpc", url=node.url) as ledger:
        ledger.append(run.entry(1, ledger.domain))
        node.kill()
        node.start()
        chain = RpcChain(node.url, accounts=of_key(KEY))
        chain.send(chain.sign(chain.sender, b"", 21_000))
        with pytest.raises(LedgerError, match=r"used nonce 0 for something else, .* cannot come to be on this chain"):
            ledger.append(run.entry(2, ledger.domain))
    with pytest.raises(LedgerError, match="begin in an empty folder") as told:
        run.open(backend="rpc", url=node.url)
    assert not isinstance(told.value, ChainTrouble)


def test_a_ledger_whose_first_number_goes_elsewhere_begins_with_the_next(node: Node, server: Faulty, tmp_path: Path):
    """Nothing depends on the contract so far."""
    run = fresh(tmp_path)
    server.fault("eth_sendRawTransaction", status(502))
    with pytest.raises(NodeUnreachable):
        run.open(backend="rpc", url=server.url, timeout=0.3)
    other = RpcChain(node.url, accounts=of_key(KEY))
    other.send(other.sign(other.sender, b"", 21_000))
    server.heal()
    with run.open(backend="rpc", url=server.url) as ledger:
        assert ledger.append(run.entry(1, ledger.domain)).head == run.heads(ledger.domain, 1)[1]
        assert [decode_transaction(t.raw)["nonce"] for t in ledger.book.transactions] == [1, 2, 3, 4]


def test_a_ledger_that_was_told_a_number_far_ahead_begins_with_the_next(server: Faulty, tmp_path: Path):
    """Nothing fills the numbers before it; one that no account can have is asked for again."""
    for wrong in (0xFFFF, 2**64 - 1):
        server.heal()
        server.fault("eth_getTransactionCount", result(hex(wrong)), at={1})
        assert len(rounds(fresh(tmp_path), server)) == ROUNDS


def test_odd_answers_of_a_node_are_asked_for_again_or_read_over(server: Faulty, tmp_path: Path):
    server.fault("eth_call", result("0x"), at=range(2, 20, 2))
    late = edited(lambda block: block | {"timestamp": hex(2**40)})  # no deadline could come after it
    server.fault("eth_getBlockByNumber", late, at={1, 4})
    server.fault("eth_getTransactionReceipt", edited(lambda receipt: receipt and receipt | {"status": "0x2"}), at={3})
    server.fault("eth_gasPrice", lambda question, passed: said({**passed(), "error": False}))
    assert len(rounds(fresh(tmp_path), server)) == ROUNDS


def test_a_node_that_keeps_no_old_transactions_is_told(server: Faulty, tmp_path: Path):
    """Its contract is there, so its number did not go to anything else."""
    run = fresh(tmp_path)
    rounds(run, server)
    for method in ("eth_getTransactionByHash", "eth_getTransactionReceipt"):
        server.fault(method, result(None))
    with pytest.raises(NoReceipt, match=r"there is a contract at 0x\w+, and the node knows nothing of the transaction"):
        rounds(run, server, timeout=1.0)
    server.heal()
    assert len(rounds(run, server)) == ROUNDS


def test_ledgers_of_one_account_at_the_same_time_lose_nothing(start: Callable[..., Node], tmp_path: Path):
    node = start("anvil", "--block-time", "1")
    with Faulty(node.url) as server:
        working = [Meanwhile(rounds, fresh(tmp_path), server) for _ in range(3)]
        for one in working:
            assert len(one.result()) == ROUNDS


@pytest.mark.parametrize("reopen", [pytest.param(True, marks=pytest.mark.long), False])
def test_what_other_ledgers_of_the_account_sent_comes_before_what_a_ledger_lost(
    start: Callable[..., Node], tmp_path: Path, reopen: bool
):
    """A ledger is finished, and a study's and a second one are under way, as a node restarts empty: all three are there again."""
    node, (done, run) = start("anvil"), (fresh(tmp_path), fresh(tmp_path))
    config = LedgerConfig(backend="rpc", url=node.url, timeout=20.0)
    study = StudyLedger(tmp_path, "study", config)
    study.register({"a": 1}, 2)
    study.record(0, "BEGUN", {})
    with done.open(backend="rpc", url=node.url) as ledger:
        ledger.append(done.entry(1, ledger.domain))
        first = ledger.domain.contract
    study.record(0, "COMPLETE", {})
    ledger = run.open(backend="rpc", url=node.url)
    ledger.append(run.entry(1, ledger.domain))
    node.kill()
    node.start()
    if reopen:
        ledger.close()
        ledger = run.open(backend="rpc", url=node.url)
    assert ledger.append(run.entry(2, ledger.domain)).head == run.heads(ledger.domain, 2)[2]
    ledger.close()
    sent = height(node)
    study.record(1, "BEGUN", {})
    assert height(node) == sent + 1
    assert study.recorded() == {(0, False), (0, True), (1, False)}
    study.close()
    assert len(node("eth_getCode", first, "latest")) > 1000
    with done.open(backend="rpc", url=node.url) as ledger:
        assert [seal.head for seal in ledger.rounds.seals] == done.heads(ledger.domain, 1)[1:]
        assert height(node) == sent + 1


@pytest.mark.parametrize("depth", [2, 4])
def test_a_reorganisation_that_reaches_the_deployment_costs_nothing(node: Node, tmp_path: Path, depth: int):
    run = fresh(tmp_path)
    with run.open(backend="rpc", url=node.url) as ledger:
        domain = ledger.domain
        ledger.append(run.entry(1, domain))
        node("anvil_reorg", depth, [])
        ledger.append(run.entry(2, domain))
        assert [seal.head for seal in ledger.rounds.seals] == run.heads(domain, 2)[1:]


# --- Every question, every fault, several moments ---------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_every_fault_of_every_question_at_several_moments(server: Faulty, tmp_path: Path, method: str):
    faults = {**PASSING, **LASTING, **(SENDING if method == "eth_sendRawTransaction" else {})}
    for kind, fault in faults.items():
        for first in (1, 2, 5):
            said = cell(tmp_path, server, method, fault, {first}, timeout=10.0)
            if kind in PASSING:
                assert said == "", f"{kind} at question {first}: {said}"
            said = cell(tmp_path, server, method, fault, range(first, 10**9), timeout=0.5)
            harmless = kind in ("answer lost", "answer replaced", "already known", "known after all")
            assert said or harmless or server.asked[method] < first, f"{kind} from question {first} on"


@pytest.mark.long
def test_a_node_that_fails_at_random(server: Faulty, tmp_path: Path):
    random = np.random.default_rng(1)
    kinds = list(PASSING.values())

    class Now:
        def __contains__(self, number: object) -> bool:
            return random.random() < 0.1

    for _ in range(20):
        server.heal()
        server.fault("", lambda question, passed: kinds[random.integers(len(kinds))](question, passed), at=Now())
        assert len(rounds(fresh(tmp_path), server)) == ROUNDS
