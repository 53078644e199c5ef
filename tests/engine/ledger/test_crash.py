"""Whatever kills the ledger, wherever: it goes on to the same head, loses nothing, does nothing twice.

A trial runs in a process that kills itself before or after the n-th step that touches the disk or the chain, is run again,
killed again, and at last left alone.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from simulators import FEDERATION_ID, LAYOUT, POLICY, Run, interrupted, request

from engine.ledger import archive
from engine.ledger.chain.base import receipt_from_json
from engine.ledger.format import RUN, vectors_name
from engine.ledger.run import RunLedger
from engine.ledger.signing import hospital_key, sign
from engine.ledger.subjects.reputation import Judged, digests, words
from engine.ledger.subjects.rounds import RoundEntry
from engine.ledger.subjects.synthetic import SetPolicy, SignedRequest
from engine.model import vector_hash

ROUNDS = 3
NEW_KEY = hospital_key(77, FEDERATION_ID, 1)  # of hospital 1, from round 3 on


def work(run: Run) -> bytes:
    """A whole run of a ledger that may have been interrupted anywhere; returns its head."""
    run = Run(run.folder)
    with run.open() as ledger:
        domain = ledger.domain
        archive.write_genesis(run.ledger_folder, run.genesis)
        if not ledger.rounds.seals:
            ledger.synthetic.take(SetPolicy(POLICY))
            asked = request()
            ledger.synthetic.take(SignedRequest(asked, sign(asked, ledger.synthetic.domain, run.keys[0])))
        for number in range(1, ROUNDS + 1):
            if number == 3:
                ledger.rotate(run.rotation(1, NEW_KEY, 3, domain))
                run.keys[1] = NEW_KEY
            archive.write_round(run.ledger_folder, number, run.vectors(number))
            ledger.append(entry(run, ledger, number))
            if number == 2:
                ledger.reputation.update(number)
        ledger.closing.close(run.results(ROUNDS, ledger.head, domain), "pruned", {}, {})
        ledger.rounds.finalize()
        return ledger.head


def entry(run: Run, ledger: RunLedger, number: int) -> RoundEntry:
    """A round; the second one has verdicts."""
    made = run.entry(number, ledger.domain, ledger.rounds.headers[number - 1].head)
    if number != 2:
        return made
    judged = Judged(words({0: True, 2: False}, 10))
    after = ledger.reputation.standing(1).after(judged.verdicts)
    return replace(made, digests=digests(number, judged, after), rows=judged.rows(number))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict]:
    run = Run(tmp_path_factory.mktemp("undisturbed"))
    return work(run), contents(run)


def contents(run: Run) -> dict:
    """What the journal holds, apart from the order of attempts: every table, and the purposes that succeeded."""
    connection = sqlite3.connect(run.ledger_folder / RUN.file)
    try:
        tables = {
            name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall()
            for name in RUN.tables
            if name != "transactions"
        }
        receipts = connection.execute("SELECT purpose, round, receipt FROM transactions").fetchall()
    finally:
        connection.close()
    done = Counter((purpose, number) for purpose, number, text in receipts if text and receipt_from_json(text).status)
    assert set(done.values()) == {1}, "something was done twice"
    return tables | {"done": done}


def check(run: Run, undisturbed: tuple[bytes, dict]) -> None:
    head, expected = undisturbed
    with run.open() as ledger:
        assert ledger.head == head
        assert [seal.round for seal in ledger.rounds.seals] == list(range(1, ROUNDS + 1))
        assert ledger.book.query("RoundLedger", ledger.domain.contract, "head", FEDERATION_ID) == head
        assert ledger.rounds.status(ROUNDS) == "FINAL"
    assert contents(run) == expected
    for number in range(1, ROUNDS + 1):
        found = load_file(run.ledger_folder / vectors_name(number))
        hashes = {name: vector_hash(vector, LAYOUT) for name, vector in found.items()}
        assert hashes == {f"slot-{s:04d}": vector_hash(v, LAYOUT) for s, v in run.vectors(number).items()}


def moments(tmp_path: Path) -> Iterator[int]:
    """All moments of an undisturbed run."""
    number = 0
    while killed(Run(tmp_path / f"count-{number}"), number):
        yield number
        number += 1


def killed(run: Run, moment: int | None) -> bool:
    return interrupted(lambda: work(run), moment)


def trial(folder: Path, seed: int) -> tuple[Run, int]:
    """Kill at random moments until the work is done; returns the run and how often it was killed."""
    run, draw, times = Run(folder), np.random.default_rng(seed), 0
    while killed(run, int(draw.integers(0, 100)) if times < 4 else None):
        times += 1
    return run, times


def test_the_undisturbed_run_is_not_trivial(undisturbed: tuple[bytes, dict]):
    _, found = undisturbed
    purposes = {purpose for purpose, _ in found["done"]}
    assert purposes == {
        "deploy", "open", "open-round", "seal", "close", "finalize", "rotate", "deploy-synthetic", "policy", "request",
        "deploy-reputation", "reputation",
    }  # fmt: skip
    assert found["done"]["seal", 3] == 1
    tables = ("updates", "rounds", "annexes", "results", "closings", "rotations", "synthetic", "scores")
    assert [len(found[name]) for name in tables] == [8, 3, 2, 3, 1, 1, 2, 1]


def test_random_crashes(undisturbed: tuple[bytes, dict], tmp_path: Path):
    killed = 0
    for seed in range(3):
        run, times = trial(tmp_path / str(seed), seed)
        check(run, undisturbed)
        killed += times
    assert killed >= 6


@pytest.mark.long
def test_a_crash_at_every_single_moment(undisturbed: tuple[bytes, dict], tmp_path: Path):
    found = 0
    for moment in moments(tmp_path):
        run = Run(tmp_path / f"count-{moment}")
        assert not killed(run, None)
        check(run, undisturbed)
        found += 1
    assert found > 90


@pytest.mark.long
def test_hundreds_of_random_crashes(undisturbed: tuple[bytes, dict], tmp_path: Path):
    killed = 0
    for seed in range(1000, 1300):
        run, times = trial(tmp_path / str(seed), seed)
        check(run, undisturbed)
        killed += times
    assert killed >= 600
