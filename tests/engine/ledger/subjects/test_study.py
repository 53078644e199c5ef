"""A study's own ledger: what is registered and recorded, once, whatever kills it."""

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from eth_abi import encode
from eth_utils import keccak
from simulators import Faults, interrupted

from engine.clock import REAL, Clock, JumpingClock
from engine.errors import LedgerError
from engine.ledger.chain.base import Chain, ContractRevert, NodeUnreachable
from engine.ledger.chain.embedded import EmbeddedChain
from engine.ledger.config import LedgerConfig
from engine.ledger.format import STUDY
from engine.ledger.subjects.study import StudyLedger

DESIGN = {"study": {"name": "s", "seed": 3}, "code": {"commit": "abc"}}
TRIALS = [
    ("COMPLETE", {"values": [0.5], "results": []}),
    ("PRUNED", {"reason": "pruned at round 2"}),
    ("FAILED", {"reason": "x"}),
]


def opened(folder: Path, identity: str = "s/1", clock: Clock = REAL, chain: Chain | None = None) -> StudyLedger:
    return StudyLedger(folder, identity, LedgerConfig(), clock, chain)


def fill(ledger: StudyLedger, trials: int = 3) -> None:
    ledger.register(DESIGN, 3)
    for trial in range(trials):
        ledger.record(trial, "BEGUN", {"trial": trial})
    for trial in range(trials):
        ledger.record(trial, *TRIALS[trial])


def digest(value: Any) -> bytes:
    """SHA-256 of JSON with sorted keys and no spaces."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).digest()


def heads(
    domain: Any, content: dict[str, Any], records: list[tuple[int, int, Any]], trials: int, study: bytes
) -> list[bytes]:
    """The chain of heads written out as in StudyLedger.sol."""
    values = [domain.chain_id, domain.contract, study, digest(content), trials]
    found = [keccak(encode(["uint256", "address", "bytes32", "bytes32", "uint32"], values))]
    for sequence, (trial, stage, what) in enumerate(records, 1):
        words = [found[-1], sequence, trial, stage, digest(what)]
        found.append(keccak(encode(["bytes32", "uint64", "uint32", "uint8", "bytes32"], words)))
    return found


def test_heads_are_the_written_out_ones(tmp_path: Path):
    ledger = opened(tmp_path)
    fill(ledger)
    summary = ledger.summary()
    content = {"design": DESIGN, "trials": 3, "generation": 0, "first": None, "begun": 0}
    records = [(t, 1, {"trial": t}) for t in range(3)] + [(t, 2 + t, TRIALS[t][1]) for t in range(3)]
    expected = heads(ledger.domain, content, records, 3, digest({"study": "s/1"}))
    assert summary["head"] == "0x" + expected[-1].hex()
    assert (summary["records"], summary["generations"], summary["backend"]) == (6, 1, "embedded")
    ledger.close()
    with sqlite3.connect(tmp_path / STUDY.file) as connection:
        assert [row[0] for row in connection.execute("SELECT head FROM records ORDER BY seq")] == expected[1:]
    again = opened(tmp_path)
    assert again.summary() | {"seconds": 0} == summary | {"seconds": 0}
    again.close()


def test_the_same_again_changes_nothing_and_something_else_is_refused(tmp_path: Path):
    ledger = opened(tmp_path)
    fill(ledger)
    head = ledger.summary()["head"]
    fill(ledger)
    assert ledger.summary()["head"] == head
    assert ledger.recorded() == {(t, end) for t in range(3) for end in (False, True)}
    with pytest.raises(LedgerError, match=r"trial 0 is recorded as COMPLETE .* now it is FAILED"):
        ledger.record(0, "FAILED", TRIALS[0][1])
    with pytest.raises(LedgerError, match="trial 1 is recorded as BEGUN"):
        ledger.record(1, "BEGUN", {"trial": 2})
    with pytest.raises(LedgerError, match="trial 7 cannot end as COMPLETE: no beginning"):
        ledger.record(7, "COMPLETE", {})
    with pytest.raises(ContractRevert, match="TrialOutOfRange"):
        ledger.record(3, "BEGUN", {"trial": 3})
    ledger.close()
    again = opened(tmp_path)  # what was refused was not written down
    assert again.summary()["head"] == head
    again.close()


def test_an_amendment_names_the_first_registration_and_leaves_begun_trials_where_they_are(tmp_path: Path):
    ledger = opened(tmp_path)
    ledger.register(DESIGN, 1)
    ledger.record(0, "BEGUN", {"trial": 0})
    ledger.register(DESIGN, 3)
    ledger.register(DESIGN, 2)  # fewer are no amendment
    ledger.record(1, "BEGUN", {"trial": 1})
    ledger.record(0, "FAILED", {"reason": "x"})
    ledger.close()
    first, second = digest({"study": "s/1"}), digest({"first": "0x" + digest({"study": "s/1"}).hex(), "generation": 1})
    with sqlite3.connect(tmp_path / STUDY.file) as connection:
        designs = connection.execute("SELECT study, content, trials FROM designs ORDER BY generation").fetchall()
        records = connection.execute("SELECT study, sequence, trial, stage FROM records ORDER BY seq").fetchall()
    assert [(study, trials) for study, _, trials in designs] == [(first, 1), (second, 3)]
    assert json.loads(designs[1][1])["first"] == "0x" + first.hex()
    assert json.loads(designs[1][1])["begun"] == 1
    assert records == [(first, 1, 0, 1), (second, 1, 1, 1), (first, 2, 0, 4)]


def test_a_ledger_of_another_study_is_refused(tmp_path: Path):
    ledger = opened(tmp_path)
    fill(ledger, 0)
    with pytest.raises(LedgerError, match="is writing the journal"):
        opened(tmp_path, clock=JumpingClock())
    ledger.close()
    with pytest.raises(LedgerError, match="belongs to another study than t/1"):
        opened(tmp_path, "t/1")


def test_a_record_that_the_chain_did_not_answer_is_settled_before_the_next(tmp_path: Path):
    chain = Faults(EmbeddedChain())
    ledger = opened(tmp_path, chain=chain)
    ledger.register(DESIGN, 2)
    chain.fail("send", NodeUnreachable("gone"))
    with pytest.raises(LedgerError, match="gone"):
        ledger.record(0, "BEGUN", {"trial": 0})
    chain.heal()
    ledger.record(1, "BEGUN", {"trial": 1})
    assert ledger.recorded() == {(0, False), (1, False)}
    head = ledger.summary()["head"]
    ledger.close()
    again = opened(tmp_path, chain=EmbeddedChain())  # whose accounts wrote the journal
    assert (again.summary()["head"], again.summary()["records"]) == (head, 2)
    again.close()


def rows(folder: Path) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(folder / STUDY.file)
    try:
        return connection.execute("SELECT * FROM records ORDER BY seq").fetchall()
    finally:
        connection.close()


def filled(folder: Path) -> None:
    ledger = opened(folder)
    fill(ledger)
    ledger.close()


def test_killed_at_any_step_the_head_is_the_same(tmp_path: Path):
    """The making of the journal and 8 transactions, each signed, written, sent and answered: before and after each step."""
    filled(tmp_path / "straight")
    straight = opened(tmp_path / "straight")
    head = straight.summary()["head"]
    straight.close()
    died = 0
    for moment in range(0, 66, 4):
        folder = tmp_path / str(moment)
        died += interrupted(lambda folder=folder: filled(folder), moment)
        filled(folder)
        ledger = opened(folder)
        assert ledger.summary()["head"] == head
        ledger.close()
        assert rows(folder) == rows(tmp_path / "straight")
    assert died == 17
