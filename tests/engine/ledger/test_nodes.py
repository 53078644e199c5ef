"""The whole ledger on a node: killed, reorganised, slow, shared; the same heads as on the embedded chain."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty import Faulty, Passed, Question, Reply, pass_on
from finished import audit
from nodes import CHAIN_ID, KEY, Meanwhile, Node, as_embedded, height, mine, of_key
from simulated_ray import simulated
from simulators import DOMAIN, SETTINGS, Faults, Run
from studies import ALONE, study_of

from engine.audit import calls
from engine.errors import LedgerError
from engine.ledger.chain.base import ContractRevert
from engine.ledger.chain.contracts import call_data
from engine.ledger.chain.embedded import EMBEDDED_COORDINATOR, EmbeddedChain
from engine.ledger.chain.rpc import RpcChain
from engine.ledger.chain.transactions import decode_transaction, sign_transaction
from engine.ledger.signing import sign
from engine.ledger.typed import abi_tuple
from engine.settings import dump_yaml
from sweeps.rows import rows_of
from sweeps.start import start_study

OPENING = 3  # transactions before round 1: deploy, open the federation, open round 1


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_the_same_rounds_give_the_same_head_embedded_and_on_a_node(tmp_path: Path, start: Callable[..., Node]):
    """Same chain id and account, so the same contract address: both must agree on everything."""
    node = as_embedded(start, "anvil")
    found = []
    own = of_key(EMBEDDED_COORDINATOR)
    for name, chain in (("embedded", EmbeddedChain(own)), ("anvil", RpcChain(node.url, accounts=own))):
        run = Run(tmp_path / name)
        with run.open(chain=chain) as ledger:
            seals = [ledger.append(run.entry(number, ledger.domain)) for number in range(1, 5)]
            found.append((ledger.domain, [(seal.head, seal.root, seal.gas) for seal in seals]))
            assert [seal.head for seal in seals] == run.heads(ledger.domain, 4)[1:]
    assert found[0] == found[1]


def test_a_node_with_the_chain_id_of_the_embedded_chain_is_refused(run: Run, start: Callable[..., Node]):
    """What everybody signs names the chain: evidence of a run on a node cannot say that it was embedded."""
    node = as_embedded(start, "anvil")
    with pytest.raises(LedgerError, match="which is that of the embedded back end"):
        run.open(backend="rpc", url=node.url)


def test_a_network_with_older_rules_is_refused_before_anything_is_deployed(run: Run, start: Callable[..., Node]):
    for program, options in (("ganache", ()), ("anvil", ("--hardfork", "shanghai"))):
        node = start(program, *options)
        with pytest.raises(LedgerError, match=f"the chain behind {node.url} does not follow the Cancun rules"):
            run.open(backend="rpc", url=node.url)
        assert height(node) == 0
        assert not (run.ledger_folder / "journal.sqlite").exists()


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
        assert ledger.rounds.seals == seals
        assert ledger.append(run.entry(3, domain)).head == heads[3]
        node.kill()
        node.start()
        assert ledger.append(run.entry(4, domain)).head == heads[4]
        assert [seal.head for seal in ledger.rounds.seals] == heads[1:]


def test_a_clock_that_goes_back_with_a_node_that_restarts_is_told_and_no_finding(run: Run, start: Callable[..., Node]):
    """A node that makes a block for each transaction runs ahead of the time when there are several in a second."""
    node = start("anvil")
    node("evm_increaseTime", 7200)
    with opened(run, node) as ledger:
        ledger.append(run.entry(1, ledger.domain))
        node.kill()
        node.start()
        for number in (2, 3):
            ledger.append(run.entry(number, ledger.domain))
    (run.folder / "config.yaml").write_text(dump_yaml(SETTINGS))
    report = audit(run.folder, [calls.check])
    assert report.findings == []
    assert "the chain's clock went back before the opening of round 3, and deadlines with it" in report.notes


def test_a_node_that_kept_its_state_is_only_compared(run: Run, tmp_path: Path, start: Callable[..., Node]):
    node = start("anvil", "--state", str(tmp_path / "state.json"))
    with opened(run, node) as ledger:
        seal = ledger.append(run.entry(1, ledger.domain))
    node.stop()
    node.start()
    before = height(node)
    assert before == OPENING + 1
    with opened(run, node) as ledger:
        assert ledger.rounds.seals == [seal]
        assert height(node) == before


@pytest.mark.long
def test_a_study_does_not_notice_a_node_that_is_bounced_with_its_state(tmp_path: Path, start: Callable[..., Node]):
    node = start("anvil", "--state", str(tmp_path / "state.json"))

    def bounce(question: Question, passed: Passed) -> Reply:
        node.stop()
        node.start()
        return pass_on(question, passed)

    with Faulty(node.url) as server:
        server.fault("eth_sendRawTransaction", bounce, at={5, 11})
        values = {**ALONE, "federation": {"rounds": 2}, "tracking": {"backend": "none"}, "trials": 2}
        ledger = {"ledger": {"backend": "rpc", "url": server.url, "timeout": 20}}
        search = {"search": {"federation.learning_rate": {"log_uniform": [0.01, 0.1]}}}
        start_study(study_of(values, **ledger, **search), tmp_path / "study", quiet=True, means=simulated())
        assert server.asked["eth_sendRawTransaction"] > 11
    assert [row.state for row in rows_of(tmp_path / "study")] == ["COMPLETE"] * 2


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
    assert ledger.rounds.seals[:3] == seals
    ledger.close()
    with opened(run, node) as ledger:
        assert [seal.head for seal in ledger.rounds.seals] == heads[1:]
    assert (
        int(node("eth_getTransactionCount", RpcChain(node.url, accounts=of_key(KEY)).sender, "latest"), 16)
        == OPENING + 4
    )


def test_a_reorganisation_that_put_another_transaction_in_our_place(run: Run, start: Callable[..., Node]):
    node = start("anvil")
    with opened(run, node) as ledger:
        domain, heads = ledger.domain, run.heads(ledger.domain, 4)
        seals = [ledger.append(run.entry(number, domain)) for number in (1, 2, 3)]
        node("anvil_reorg", 2, [])
        sender = RpcChain(node.url, accounts=of_key(KEY)).sender
        node(
            "eth_sendRawTransaction",
            "0x" + sign_transaction(KEY, CHAIN_ID, OPENING + 1, sender, b"", 21_000, 1, 10**11).hex(),
        )
        assert ledger.append(run.entry(4, domain)).head == heads[4]
        after = ledger.rounds.seals
        assert [seal.head for seal in after] == heads[1:]
        assert after[0] == seals[0]
        assert after[1].transaction != seals[1].transaction
    with opened(run, node) as ledger:
        assert ledger.rounds.seals == after
        # the receipt that the chain took back counts no more
        taken = [t.round for t in ledger.book.transactions if t.purpose == "seal" and t.receipt is not None]
        assert sorted(taken) == [1, 2, 3, 4]


def test_a_chain_that_cannot_be_brought_to_the_journal_is_a_contradiction(run: Run, start: Callable[..., Node]):
    """Somebody with our key sealed the round that a reorganisation took away, with another content."""
    node = start("anvil")
    ledger = opened(run, node)
    domain = ledger.domain
    entry = run.entry(1, domain)
    ledger.append(entry)
    content = decode_transaction(ledger.book.transactions[-1].raw)
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


def test_a_lost_number_is_signed_for_again(run: Run, start: Callable[..., Node]):
    node = start("anvil")
    chain = Faults(RpcChain(node.url, accounts=of_key(KEY)))
    ledger = opened(run, node, chain=chain)
    domain = ledger.domain
    chain.fail("send")
    with pytest.raises(OSError, match="the power went"):
        ledger.append(run.entry(1, domain))
    chain.heal()
    chain.send(chain.sign(domain.contract, b"", 100_000))
    ledger.close()
    with opened(run, node) as ledger:
        assert ledger.append(run.entry(1, domain)).head == run.heads(domain, 1)[1]
    with opened(run, node) as ledger:
        assert [seal.round for seal in ledger.rounds.seals] == [1]


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


def test_a_window_must_pass_before_rounds_are_final(run: Run, start: Callable[..., Node]):
    node = start("anvil")
    run.federation = replace(run.federation, window=1000)
    with opened(run, node) as ledger:
        ledger.append(run.entry(1, ledger.domain))
        with pytest.raises(ContractRevert, match="WindowOpen"):
            ledger.rounds.finalize()
        node("evm_increaseTime", 1001)
        mine(node)
        ledger.rounds.finalize()
        assert ledger.rounds.is_final()


@pytest.mark.parametrize("aborted", [False, True])
def test_a_round_whose_deadline_passed_is_opened_again(run: Run, start: Callable[..., Node], aborted: bool):
    node = start("anvil")
    with opened(run, node, deadline=1000) as ledger:
        ledger.append(run.entry(1, ledger.domain))
        with pytest.raises(ContractRevert, match="NothingToAbort"):
            ledger.rounds.abort()
        node("evm_increaseTime", 1001)
        mine(node)
        assert ledger.rounds.status(2) == "VOID"
        if aborted:
            ledger.rounds.abort()
        assert ledger.append(run.entry(2, ledger.domain)).head == run.heads(ledger.domain, 2)[2]
        assert ledger.rounds.status(3) == "OPEN"


def test_a_seal_that_came_after_the_deadline_is_sent_again(run: Run, start: Callable[..., Node]):
    node = start("anvil")
    chain = Faults(RpcChain(node.url, accounts=of_key(KEY)))
    ledger = opened(run, node, chain=chain, deadline=1000)
    domain = ledger.domain
    chain.fail("send")
    with pytest.raises(OSError, match="the power went"):
        ledger.append(run.entry(1, domain))
    ledger.close()
    node("evm_increaseTime", 1001)
    mine(node)
    with opened(run, node, deadline=1000) as ledger:
        assert [seal.head for seal in ledger.rounds.seals] == run.heads(domain, 1)[1:]
        assert ledger.append(run.entry(2, domain)).head == run.heads(domain, 2)[2]


def test_a_submission_that_crosses_a_seal_stops_nobody(run: Run, start: Callable[..., Node]):
    """Shown to the contract after the coordinator has looked, and before its seal is there: it is named after all."""
    node = start("anvil")
    chain = Faults(RpcChain(node.url, accounts=of_key(KEY)))
    with opened(run, node, chain=chain) as ledger:
        domain, entry = ledger.domain, run.entry(1, ledger.domain)
        other = replace(entry.updates[1].record, nonce=9)
        signature = sign(other, domain, run.keys[1])
        membership = (run.federation.hospitals[1], *ledger.registry.membership(1))
        chain.fail("send")
        with pytest.raises(OSError, match="the power went"):
            ledger.append(entry)
        chain.heal()
        chain.send(
            chain.sign(domain.contract, call_data("submitUpdate", abi_tuple(other), signature, *membership), 500_000)
        )
        assert ledger.append(entry).head == run.heads(domain, 1)[1]
        assert ledger.rounds.submission(1, run.model(0), 1)["refused"] is True
        assert ledger.append(run.entry(2, domain)).head == run.heads(domain, 2)[2]
    with opened(run, node) as ledger:
        assert [seal.head for seal in ledger.rounds.seals] == run.heads(domain, 2)[1:]


def test_slow_blocks(run: Run, start: Callable[..., Node]):
    node = start("anvil", "--block-time", "1")
    with opened(run, node) as ledger:
        blocks = {
            node("eth_getTransactionReceipt", "0x" + t.hash.hex())["blockNumber"] for t in ledger.book.transactions
        }
        assert len(blocks) < OPENING  # what opens a ledger is sent together
        for number in (1, 2):
            assert ledger.append(run.entry(number, ledger.domain)).head == run.heads(ledger.domain, 2)[number]
        assert len(ledger.book.transactions) == OPENING + 2


@pytest.mark.long
@pytest.mark.parametrize("confirmations", [0, 2])
def test_many_accidents_end_in_the_same_head(run: Run, start: Callable[..., Node], confirmations: int):
    """A node with blocks of one second that loses blocks, forgets its pool and mines foreign transactions at random."""
    node = start("anvil", "--block-time", "1")
    sender = RpcChain(node.url, accounts=of_key(KEY)).sender
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
        assert [seal.head for seal in ledger.rounds.seals] == heads[1:]
