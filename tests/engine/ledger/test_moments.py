"""A node that forgets something at any moment: before each single question of a whole ledger, everything is as it would have been."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faulty import Faulty, Passed, Question, Reply, pass_on
from nodes import Node, height, mine, pending, until
from simulators import POLICY, REVIEWER, Run, report, request

from engine.config import RunConfig
from engine.experiment import run
from engine.ledger.chain.base import receipt_from_json
from engine.ledger.config import LedgerConfig
from engine.ledger.format import DECISIONS, RUN
from engine.ledger.signing import address, sign
from engine.ledger.store import read_only
from engine.ledger.subjects.policy import Books
from engine.ledger.subjects.study import StudyLedger
from engine.ledger.subjects.synthetic import SetPolicy, SetReviewer, SignedReport, SignedRequest, Step

FUNDED = (
    "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"  # the second account of the nodes' test phrase
)
REORGANISED = (1, 2, 4)  # blocks


class Forgetful:
    """A node that forgets everything, or so many blocks, before its question number `at`; counts questions in `asked`.

    How often somebody looks must not depend on the time that a block takes, or the moments of two runs are not the same. So
    a transaction is in a block before the answer to its sending; with `late`, at the second look for its receipt, so that
    each first one finds it in the pool.
    """

    def __init__(self, node: Node) -> None:
        self.node, self.asked, self.at, self.blocks, self.late = node, 0, -1, 0, False
        self._looked: set[str] = set()
        self._lock = threading.Lock()

    def begin(self, at: int = -1, blocks: int = 0, late: bool = False) -> None:
        """From the start, on an empty chain; `blocks` 0 are all."""
        self.node("anvil_reset")
        self.node("evm_setAutomine", not late)
        self.asked, self.at, self.blocks, self.late = 0, at, blocks, late
        self._looked.clear()

    def __call__(self, question: Question, passed: Passed) -> Reply:
        with self._lock:
            self.asked += 1
            if self.asked == self.at:
                self._forget()
            if question["method"] == "eth_getTransactionReceipt":
                self._look(question["params"][0])
        reply = pass_on(question, passed)
        if question["method"] == "eth_sendRawTransaction" and not self.late:
            until(lambda: not pending(self.node))
        return reply

    def _look(self, transaction: str) -> None:
        if self.late and transaction in self._looked and pending(self.node):
            mine(self.node)
        self._looked.add(transaction)

    def _forget(self) -> None:
        if not self.blocks:
            self.node("anvil_reset")
        elif blocks := min(self.blocks, height(self.node)):
            self.node("anvil_reorg", blocks, [])


@pytest.fixture
def forgetful(start: Callable[..., Node]) -> Forgetful:
    return Forgetful(start("anvil"))


@pytest.fixture
def url(forgetful: Forgetful) -> Iterator[str]:
    with Faulty(forgetful.node.url) as server:
        server.fault("", forgetful)
        yield server.url


def rounds(folder: Path, url: str) -> Any:
    federation = Run(folder, hospitals=2)
    with federation.open(backend="rpc", url=url, timeout=20.0) as ledger:
        for number in (1, 2):
            ledger.append(federation.entry(number, ledger.domain))
        ledger.rounds.finalize()
        assert ledger.opened().headers[-1].head == ledger.head
        assert ledger.summary()["final"]
        heads = [seal.head for seal in ledger.rounds.seals]
        assert heads == federation.heads(ledger.domain, 2)[1:]
    return heads


def trials(folder: Path, url: str) -> Any:
    ledger = StudyLedger(folder, "study", LedgerConfig(backend="rpc", url=url, timeout=20.0))
    try:
        ledger.register({"a": 1}, 1)
        ledger.record(0, "BEGUN", {"b": 2})
        ledger.register({"a": 1}, 2)  # an amendment
        ledger.record(1, "BEGUN", {"b": 3})
        ledger.record(0, "COMPLETE", {"c": 4})
        return ledger.recorded(), ledger.summary()["head"]
    finally:
        ledger.close()


def governed(folder: Path, url: str) -> Any:
    """Two accounts send, and what the one sends is refused, or goes nowhere, without what the other has sent."""
    federation, admin = Run(folder, hospitals=2), folder / "admin.key"
    folder.mkdir(parents=True)
    admin.write_text(FUNDED)
    with federation.open(backend="rpc", url=url, timeout=20.0, admin_key_file=str(admin)) as ledger:
        domain, books, asked = ledger.synthetic.domain, Books(), request()

        def take(step: Step) -> bytes:
            books.take(step, domain)
            done = ledger.synthetic.take(step)
            assert done.decisions == books.decisions
            return done.id

        take(SetPolicy(POLICY))
        take(SetReviewer(address(REVIEWER), b"\x05" * 32))
        made = report(take(SignedRequest(asked, sign(asked, domain, federation.keys[0]))), 15)
        take(SignedReport(made, sign(made, domain, federation.keys[0])))
        entry = federation.entry(1, ledger.domain)
        ledger.append(replace(entry, digests={DECISIONS: books.decisions}))
        return books.decisions, ledger.head


WORKS = {"rounds": rounds, "trials": trials, "governed": governed}


@pytest.mark.parametrize("name", ["rounds", "trials"])
def test_what_a_node_forgets_now_and_then_is_there_again(forgetful: Forgetful, url: str, tmp_path: Path, name: str):
    every_moment(WORKS[name], forgetful, url, tmp_path, first=4, step=13)


@pytest.mark.parametrize(("purpose", "blocks"), [("policy", 0), ("request", 4)])
def test_what_goes_nowhere_or_comes_too_early_is_sent_again(
    forgetful: Forgetful, tmp_path: Path, purpose: str, blocks: int
):
    """The contract is gone as the admin's first transaction is sent; or as that is sent which the admin's must precede."""
    sent = ["deploy", "open", "open-round", "deploy-synthetic", "policy", "grant", "reviewer", "request"]
    forgetful.begin(sent.index(purpose) + 1, blocks)
    with Faulty(forgetful.node.url) as server:
        server.fault("eth_sendRawTransaction", forgetful)
        governed(tmp_path / "it", server.url)
    with read_only(tmp_path / "it/ledger" / RUN.file) as journal:
        rows = journal.execute("SELECT purpose, receipt FROM transactions ORDER BY seq").fetchall()
    assert list(dict.fromkeys(name for name, _ in rows))[: len(sent)] == sent
    attempts = [receipt and receipt_from_json(receipt).status for name, receipt in rows if name == purpose]
    assert attempts == [None if purpose == "policy" else 0, 1]


@pytest.mark.long
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", WORKS)
def test_what_a_node_forgets_at_any_moment_is_there_again(
    forgetful: Forgetful, url: str, tmp_path: Path, name: str, late: bool
):
    for blocks in (0, *REORGANISED):
        every_moment(WORKS[name], forgetful, url, tmp_path / str(blocks), blocks=(blocks,), late=late)


@pytest.mark.long
def test_a_whole_run_does_not_notice_what_a_node_forgets(forgetful: Forgetful, url: str, tmp_path: Path, tiny_config):
    config = tiny_config(**settings(url), **{"federation.rounds": 2})
    every_moment(lambda folder, url: heads(config, folder), forgetful, url, tmp_path, step=3)


@pytest.mark.long
def test_a_whole_run_with_synthetic_beats_does_not_notice_what_a_node_forgets(
    forgetful: Forgetful, url: str, tmp_path: Path, tiny_config
):
    admin = tmp_path / "admin.key"
    admin.write_text(FUNDED)
    beats = {"ledger.admin_key_file": str(admin), "balance.method": "smote", "balance.classes": "SV"}
    config = tiny_config(**settings(url), **beats, **{"federation.rounds": 1})
    every_moment(lambda folder, url: heads(config, folder), forgetful, url, tmp_path, step=3)


def settings(url: str) -> dict[str, Any]:
    return {"ledger.backend": "rpc", "ledger.url": url, "ledger.timeout": 20.0}


def heads(config: RunConfig, folder: Path) -> tuple[str, str]:
    found = run(config, folder)
    return found.model_hash, found.ledger.head


def every_moment(
    work: Callable[[Path, str], Any],
    forgetful: Forgetful,
    url: str,
    folder: Path,
    blocks: tuple[int, ...] = (0, *REORGANISED),
    first: int = 1,
    step: int = 1,
    late: bool = False,
) -> None:
    """Does the work undisturbed, and then once for each moment."""
    forgetful.begin(late=late)
    wanted, questions = work(folder / "0", url), forgetful.asked
    assert questions > 20
    for index, at in enumerate(range(first, questions + 1, step)):
        forgetful.begin(at, blocks[index % len(blocks)], late)
        assert work(folder / str(at), url) == wanted, f"{forgetful.blocks} blocks before question {at}"
        assert forgetful.asked >= at, f"question {at} of {questions} was not asked"
