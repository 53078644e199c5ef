"""The policy in Python against the contract: the same requests in any order give the same decisions, to the unit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulators import FEDERATION_ID, POLICY, REVIEWER, Run, report, request

from engine.errors import LedgerError
from engine.ledger.chain.base import ContractRevert
from engine.ledger.format import ZERO
from engine.ledger.signing import address, sign
from engine.ledger.subjects.policy import Books, Reason, Status, allowed, explain, shortcomings
from engine.ledger.subjects.synthetic import (
    SetPolicy,
    SetReviewer,
    SignedReport,
    SignedRequest,
    SignedReview,
    Step,
    SyntheticReview,
)
from engine.ledger.typed import Domain

HOSPITALS = 2


@pytest.mark.parametrize(
    ("changes", "used", "expected"),
    [
        ({}, 0, (30, 0)),  # the share: at most as many as real
        ({"quantity": 7}, 0, (7, 0)),
        ({}, 29, (1, 0)),
        ({}, 30, (0, Reason.SHARE)),
        ({"real_floor": 200}, 90, (10, 0)),
        ({"real_floor": 200}, 100, (0, Reason.QUOTA)),
        ({"real_floor": 2}, 0, (0, Reason.MIN_REAL)),
        ({"real_floor": 0}, 0, (0, Reason.MIN_REAL | Reason.RATIO | Reason.SHARE)),
        ({"class_": 0}, 0, (0, Reason.CLASS)),
        ({"class_": 4}, 0, (0, Reason.CLASS)),
        ({"generator": 5}, 0, (0, Reason.GENERATOR)),
        ({"generator": 200}, 0, (0, Reason.GENERATOR)),
    ],
)
def test_allowance_by_hand(changes: dict, used: int, expected: tuple) -> None:
    assert allowed(POLICY, request(**changes), used) == expected


def test_quality_at_the_bounds_and_one_beyond() -> None:
    assert not shortcomings(POLICY, report(FEDERATION_ID, 10))
    for change, reason in (
        ({"auc_bp": 2_001}, Reason.AUC),
        ({"nndr_bp": 599}, Reason.NNDR),
        ({"distance_bp": 30_001}, Reason.DISTANCE),
        ({"duplicates": 4}, Reason.DUPLICATES),  # three of ten are the most
        ({"repeated": 4}, Reason.REPEATED),
        ({"spread_bp": 1_999}, Reason.SPREAD),
        ({"utility_bp": -501}, Reason.UTILITY),
        ({"recognised_bp": 2_999}, Reason.RECOGNISED),
    ):
        assert shortcomings(POLICY, report(FEDERATION_ID, 10, **change)) == reason
    assert shortcomings(POLICY, report(FEDERATION_ID, 0)) == Reason.RECOGNISED  # else it would be a free attempt
    assert shortcomings(POLICY, report(FEDERATION_ID, 0, duplicates=1)) == Reason.DUPLICATES | Reason.RECOGNISED
    assert explain(Reason.AUC | Reason.CLASS) == (
        "the class is not allowed; a classifier tells the beats from real ones too easily"
    )


def test_unused_beats_go_back_to_the_quota_and_those_of_a_failed_attempt_do_not() -> None:
    books = Books([POLICY])
    assert books.request(b"a" * 32, request()).counted == 30
    assert books.request(b"b" * 32, request(nonce=1)).status == Status.DENIED  # the share is taken
    books.report(b"a" * 32, report(b"a" * 32, 20), b"r" * 32)
    assert books.used[0, 2] == 20
    assert books.request(b"c" * 32, request(nonce=2)).counted == 10
    books.report(b"c" * 32, report(b"c" * 32, 10, duplicates=9), b"s" * 32)
    assert books.requests[b"c" * 32].status == Status.REJECTED
    assert (books.used[0, 2], books.requests[b"c" * 32].counted) == (30, 10)
    again = books.request(b"d" * 32, request(nonce=3))
    assert (again.status, again.reasons) == (Status.DENIED, Reason.SHARE)
    books.request(b"e" * 32, request(class_=1))
    books.expire(b"e" * 32)
    assert (books.used[0, 1], books.requests[b"e" * 32].status) == (30, Status.EXPIRED)


def test_what_cannot_happen_is_refused() -> None:
    books = Books([POLICY])
    books.request(b"a" * 32, request())
    with pytest.raises(LedgerError, match="made already"):
        books.request(b"a" * 32, request())
    with pytest.raises(LedgerError, match="APPROVED, expected PENDING"):
        books.review(b"a" * 32, SyntheticReview(b"a" * 32, True, 1, ZERO, 0), ZERO)
    with pytest.raises(LedgerError, match="31 beats of 30 granted"):
        books.report(b"a" * 32, report(b"a" * 32, 31), ZERO)
    with pytest.raises(LedgerError, match="unknown"):
        books.report(b"x" * 32, report(b"x" * 32, 1), ZERO)


def next_step(draw: np.random.Generator, books: Books, run: Run, domain: Domain, nonce: int) -> Step:
    """Something that a hospital or a reviewer may try; not all of it is possible."""
    waiting = {s: [id for id, r in books.requests.items() if r.status == s] for s in Status}
    match draw.choice(["request", "review", "report"], p=[0.4, 0.3, 0.3]):
        case "review" if waiting[Status.PENDING]:
            id = waiting[Status.PENDING][draw.integers(len(waiting[Status.PENDING]))]
            most, _ = books.allowance(books.requests[id])
            approve = bool(draw.integers(2))
            granted = int(draw.integers(0, most + 3)) if approve else 0
            review = SyntheticReview(id, approve, granted, b"\x08" * 32, 0)
            return SignedReview(review, sign(review, domain, REVIEWER), address(REVIEWER))
        case "report" if waiting[Status.APPROVED]:
            id = waiting[Status.APPROVED][draw.integers(len(waiting[Status.APPROVED]))]
            generated = int(draw.integers(0, books.requests[id].counted + 2))
            made = report(id, generated, duplicates=int(draw.integers(0, 2)) * int(draw.integers(0, 9)))
            return SignedReport(made, sign(made, domain, run.keys[books.requests[id].request.slot]))
    asked = request(
        slot=int(draw.integers(HOSPITALS)),
        class_=int(draw.integers(1, 4)) if draw.integers(8) else 4,
        generator=2 if draw.integers(8) else 5,
        quantity=int(draw.integers(1, 40)),
        real_floor=int(draw.choice([2, 6, 20, 30, 50])),
        policy_version=1 if draw.integers(8) else 0,
        nonce=nonce,
    )
    return SignedRequest(asked, sign(asked, domain, run.keys[asked.slot]))


@pytest.mark.parametrize("seed", range(3))
def test_the_contract_decides_the_same(tmp_path: Path, seed: int) -> None:
    draw, run = np.random.default_rng(seed), Run(tmp_path, HOSPITALS)
    policy = replace(POLICY, automatic=bool(seed % 2), quota=90)
    with run.open() as ledger:
        desk = ledger.synthetic
        desk.take(SetReviewer(address(REVIEWER), b"\x77" * 32))
        desk.take(SetPolicy(policy))
        books = Books([policy])
        for nonce in range(40):
            step: Any = next_step(draw, books, run, desk.domain, nonce)
            try:
                books.take(step, desk.domain)
                refused = False
            except LedgerError:
                refused = True
            if refused:
                with pytest.raises(ContractRevert):
                    desk.take(step)
                continue
            done = desk.take(step)
            standing = books.requests[done.id]
            assert done.decisions == books.decisions, (step, standing)
            where = (standing.request.slot, standing.request.class_)
            assert desk.ask("used", FEDERATION_ID, *where) == books.used[where] <= policy.quota
            state = desk.ask("requestState", done.id)
            assert (state["status"], state["counted"]) == (standing.status, standing.counted)
        states = {standing.status for standing in books.requests.values()}
        assert {Status.DENIED, Status.ACCEPTED, Status.REJECTED} <= states, states
        again = Books()
        for step in desk.steps():
            again.take(step, desk.domain)
        assert (again.decisions, again.used) == (books.decisions, books.used)
