"""Whatever kills the ledger, wherever: it goes on to the same head, loses nothing, does nothing twice.

A trial runs in a forked process that kills itself (SIGKILL, so that nothing is tidied up) before or after the n-th step
that touches the disk or the chain, is run again, killed again, and at last left alone.
"""

import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from test_ledger import FEDERATION_ID, LAYOUT, Run
from test_ledger_hospitals import POLICY

from engine.ledger import archive, chain, journal, signing
from engine.ledger.ledger import Ledger
from engine.ledger.records import KeyRotation, RoundHead, SyntheticRequest
from engine.model import vector_hash

ROUNDS = 3

# Everything that writes to the disk or to the chain.
STEPS: tuple[tuple[type, str], ...] = (
    (journal.Journal, "create"),
    (journal.Journal, "add_round"),
    (journal.Journal, "add_transaction"),
    (journal.Journal, "add_heads"),
    (journal.Journal, "set_receipt"),
    (chain.EmbeddedChain, "send"),
    (chain.EmbeddedChain, "sign"),
    (Path, "replace"),
)


def work(run: Run) -> bytes:
    """A whole run of a ledger that may have been interrupted anywhere; returns its head."""
    with run.open() as ledger:
        domain = ledger.domain
        archive.write_genesis(run.ledger_folder, run.genesis)
        if not ledger.seals():
            ledger.govern("policy", POLICY)
            request = SyntheticRequest(FEDERATION_ID, 0, 1, 2, 30, 50, b"\x01" * 32, b"\x02" * 32, 1, 1, 0)
            ledger.govern("request", request, signing.sign(request, ledger.synthetic_domain, run.keys[0]))
        for number in range(1, ROUNDS + 1):
            if number == 3:
                rotate(run, ledger)
            archive.write_round(run.ledger_folder, number, run.vectors(number))
            head = ledger.opened().headers[number - 1].head
            ledger.append(signed_by_holders(run, ledger, number, head))
        heads = {
            slot: signing.sign(RoundHead(FEDERATION_ID, ROUNDS, slot, ledger.head), domain, key_of(run, slot, ROUNDS))
            for slot in range(3)
        }
        ledger.cosign(ROUNDS, heads)
        ledger.finalize()
        return ledger.head


def key_of(run: Run, slot: int, round: int) -> bytes:
    return signing.hospital_key(77, FEDERATION_ID, 1) if (slot, round) == (1, 3) else run.keys[slot]


def signed_by_holders(run: Run, ledger: Ledger, number: int, head: bytes):
    keys = run.keys
    try:
        run.keys = [key_of(run, slot, number) for slot in range(3)]
        return run.entry(number, ledger.domain, head)
    finally:
        run.keys = keys


def rotate(run: Run, ledger: Ledger) -> None:
    old, new = run.keys[1], key_of(run, 1, 3)
    change = KeyRotation(FEDERATION_ID, 1, signing.address(old), signing.address(new), 3)
    ledger.rotate(change, *(signing.sign(change, ledger.domain, key) for key in (old, new)))


def interrupted(run: Run, moment: int | None) -> bool:
    """Run `work` in a process that kills itself at a moment (None: never); tells whether it came to the end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if moment is not None:
                arm(moment)
            work(run)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the process failed before it could be killed"
    return not os.WIFSIGNALED(status)


def arm(moment: int) -> None:
    """Kill this process at the n-th moment: before and after each of the steps."""
    left = [moment]

    def tick() -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def deadly(step: Callable) -> Callable:
        def stepped(*arguments, **named):
            tick()
            result = step(*arguments, **named)
            tick()
            return result

        return stepped

    for owner, name in STEPS:
        setattr(owner, name, deadly(getattr(owner, name)))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict]:
    run = Run(tmp_path_factory.mktemp("undisturbed"))
    return work(run), contents(run)


def contents(run: Run) -> dict:
    """What the journal holds, apart from the order of attempts: every table, and the purposes that succeeded."""
    connection = sqlite3.connect(run.ledger_folder / journal.FILE)
    try:
        tables = {
            name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall()
            for name in journal.TABLES
            if name != "transactions"
        }
        receipts = connection.execute("SELECT purpose, round, receipt FROM transactions").fetchall()
    finally:
        connection.close()
    done = Counter((purpose, number) for purpose, number, text in receipts if text and '"status": 1' in text)
    assert set(done.values()) == {1}, "something was done twice"
    return tables | {"done": done}


def check(run: Run, undisturbed: tuple[bytes, dict]) -> None:
    head, expected = undisturbed
    with run.open() as ledger:
        assert ledger.head == head
        assert [seal.round for seal in ledger.seals()] == list(range(1, ROUNDS + 1))
        contract = chain.query(ledger._open_chain(), ledger.domain.contract, "head", FEDERATION_ID)
        assert contract == head
        assert ledger.round_status(ROUNDS) == "FINAL"
    assert contents(run) == expected
    for number in range(1, ROUNDS + 1):
        hashes = {s: vector_hash(v, LAYOUT) for s, v in archive.read_round(run.ledger_folder, number).items()}
        assert hashes == {s: vector_hash(v, LAYOUT) for s, v in run.vectors(number).items()}


def moments(tmp_path: Path) -> Iterator[int]:
    """All moments of an undisturbed run."""
    number = 0
    while not interrupted(Run(tmp_path / f"count-{number}"), number):
        yield number
        number += 1


def trial(folder: Path, seed: int) -> tuple[Run, int]:
    """Kill at random moments until the work is done; returns the run and how often it was killed."""
    run, draw, killed = Run(folder), np.random.default_rng(seed), 0
    while not interrupted(run, int(draw.integers(0, 90)) if killed < 4 else None):
        killed += 1
    return run, killed


def test_the_undisturbed_run_is_not_trivial(undisturbed: tuple[bytes, dict]):
    _, found = undisturbed
    purposes = {purpose for purpose, _ in found["done"]}
    assert purposes == {
        "deploy", "open", "open-round", "seal", "finalize", "rotate", "deploy-synthetic", "policy", "request"
    }  # fmt: skip
    assert found["done"]["seal", 3] == 1
    assert [len(found[name]) for name in ("updates", "rounds", "heads", "rotations", "synthetic")] == [8, 3, 3, 1, 2]


def test_random_crashes(undisturbed: tuple[bytes, dict], tmp_path: Path):
    killed = 0
    for seed in range(8):
        run, times = trial(tmp_path / str(seed), seed)
        check(run, undisturbed)
        killed += times
    assert killed >= 16


@pytest.mark.long
def test_a_crash_at_every_single_moment(undisturbed: tuple[bytes, dict], tmp_path: Path):
    found = 0
    for moment in moments(tmp_path):
        run = Run(tmp_path / f"count-{moment}")
        assert interrupted(run, None)
        check(run, undisturbed)
        found += 1
    assert found > 80


@pytest.mark.long
def test_hundreds_of_random_crashes(undisturbed: tuple[bytes, dict], tmp_path: Path):
    killed = 0
    for seed in range(1000, 1300):
        run, times = trial(tmp_path / str(seed), seed)
        check(run, undisturbed)
        killed += times
    assert killed >= 600
