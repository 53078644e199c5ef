"""A node that forgets something at any moment: before each single question of a whole ledger, everything is as it would have been."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty import Faulty, Passed, Question, Reply, pass_on
from nodes import Node, height
from simulators import Run

from engine.config import RunConfig
from engine.experiment import run
from engine.ledger.config import LedgerConfig
from engine.ledger.subjects.study import StudyLedger

REORGANISED = (1, 2, 4)  # blocks


class Forgetful:
    """A node that forgets everything, or so many blocks, before its question number `at`; counts questions in `asked`."""

    def __init__(self, node: Node) -> None:
        self.node, self.asked, self.at, self.blocks = node, 0, -1, 0
        self._lock = threading.Lock()

    def begin(self, at: int = -1, blocks: int = 0) -> None:
        """From the start, on an empty chain; `blocks` 0 are all."""
        self.node("anvil_reset")
        self.asked, self.at, self.blocks = 0, at, blocks

    def __call__(self, question: Question, passed: Passed) -> Reply:
        with self._lock:
            self.asked += 1
            if self.asked == self.at:
                self._forget()
        return pass_on(question, passed)

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


WORKS = {"rounds": rounds, "trials": trials}


@pytest.mark.parametrize("name", WORKS)
def test_what_a_node_forgets_now_and_then_is_there_again(forgetful: Forgetful, url: str, tmp_path: Path, name: str):
    every_moment(WORKS[name], forgetful, url, tmp_path, first=4, step=13)


@pytest.mark.long
@pytest.mark.parametrize("name", WORKS)
def test_what_a_node_forgets_at_any_moment_is_there_again(forgetful: Forgetful, url: str, tmp_path: Path, name: str):
    for blocks in (0, *REORGANISED):
        every_moment(WORKS[name], forgetful, url, tmp_path / str(blocks), blocks=(blocks,))


@pytest.mark.long
def test_a_whole_run_does_not_notice_what_a_node_forgets(forgetful: Forgetful, url: str, tmp_path: Path, tiny_config):
    config = tiny_config(**settings(url), **{"federation.rounds": 2})
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
) -> None:
    """Does the work undisturbed, and then once for each moment."""
    forgetful.begin()
    wanted, questions = work(folder / "0", url), forgetful.asked
    assert questions > 20
    for index, at in enumerate(range(first, questions + 1, step)):
        forgetful.begin(at, blocks[index % len(blocks)])
        assert work(folder / str(at), url) == wanted, f"{forgetful.blocks} blocks before question {at}"
        assert forgetful.asked >= at
