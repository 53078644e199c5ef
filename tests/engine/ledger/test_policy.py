"""The policy in Python against the contract: the same requests in any order give the same decisions, to the unit."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from eth_utils import keccak

from engine.errors import LedgerError
from engine.ledger.chain import ContractRevert, call_data, query
from engine.ledger.ledger import Ledger
from engine.ledger.policy import Books, Policy, Reason, Standing, Status, allowed, explain, shortcomings
from engine.ledger.records import (
    Federation,
    SyntheticReport,
    SyntheticRequest,
    SyntheticReview,
    digest,
    solidity_name,
)
from engine.ledger.signing import address, hospital_key, sign_digest

ID, HOSPITALS = b"\x11" * 32, 2
KEYS = [hospital_key(3, ID, slot) for slot in range(HOSPITALS)]
REVIEWER = hospital_key(4, ID, 0)
POLICY = Policy(
    allowed_classes=0b01110,
    allowed_generators=0b000100,  # smote
    automatic=True,
    quota=100,
    ratio_bp=20_000,
    share_cap_bp=5_000,
    expiry_seconds=1000,
    max_auc_bp=2_000,
    min_nndr_bp=100,
    max_duplicates=3,
    min_utility_bp=-500,
    min_real=(0, 1, 6, 11, 6, 30, 0, 0),
)


def request(**changes: object) -> SyntheticRequest:
    values: dict = {
        "federation": ID,
        "slot": 0,
        "class_": 2,
        "generator": 2,
        "quantity": 40,
        "real_floor": 30,
        "real_count": b"\x01" * 32,
        "settings": b"\x02" * 32,
        "policy_version": 1,
        "nonce": 0,
        "deadline": 0,
    }
    return SyntheticRequest(**{**values, **changes})


def report(id: bytes, generated: int, **changes: int) -> SyntheticReport:
    values = {"auc_bp": 2_000, "nndr_bp": 100, "duplicates": 3, "utility_bp": -500, **changes}
    return SyntheticReport(id, generated, b"\x03" * 32, b"\x04" * 32, **values)


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
    assert not shortcomings(POLICY, report(ID, 1))
    for change, reason in (
        ({"auc_bp": 2_001}, Reason.AUC),
        ({"nndr_bp": 99}, Reason.NNDR),
        ({"duplicates": 4}, Reason.DUPLICATES),
        ({"utility_bp": -501}, Reason.UTILITY),
    ):
        assert shortcomings(POLICY, report(ID, 1, **change)) == reason
    assert explain(Reason.AUC | Reason.CLASS) == (
        "the class is not allowed; a classifier tells the beats from real ones too easily"
    )


def test_rejected_and_unused_beats_go_back_to_the_quota() -> None:
    books = Books([POLICY])
    assert books.request(b"a" * 32, request()).counted == 30
    assert books.request(b"b" * 32, request(nonce=1)).status == Status.DENIED  # the share is taken
    books.report(b"a" * 32, report(b"a" * 32, 20), b"r" * 32)
    assert books.used[0, 2] == 20
    assert books.request(b"c" * 32, request(nonce=2)).counted == 10
    books.report(b"c" * 32, report(b"c" * 32, 10, duplicates=9), b"s" * 32)
    assert books.requests[b"c" * 32].status == Status.REJECTED
    assert books.used[0, 2] == 20
    books.request(b"d" * 32, request(nonce=3))
    books.expire(b"d" * 32)
    assert books.used[0, 2] == 20


def test_what_cannot_happen_is_refused() -> None:
    books = Books([POLICY])
    books.request(b"a" * 32, request())
    with pytest.raises(LedgerError, match="made already"):
        books.request(b"a" * 32, request())
    with pytest.raises(LedgerError, match="APPROVED, expected PENDING"):
        books.review(b"a" * 32, SyntheticReview(b"a" * 32, True, 1, bytes(32), 0), bytes(32))
    with pytest.raises(LedgerError, match="31 beats of 30 granted"):
        books.report(b"a" * 32, report(b"a" * 32, 31), bytes(32))
    with pytest.raises(LedgerError, match="unknown"):
        books.report(b"x" * 32, report(b"x" * 32, 1), bytes(32))


@pytest.mark.parametrize("seed", range(3))
def test_the_contract_decides_the_same(tmp_path: Path, seed: int) -> None:
    draw = np.random.default_rng(seed)
    hospitals = tuple(address(key) for key in KEYS)
    federation = Federation(ID, b"\x22" * 32, hospitals, b"\x33" * 32, (("w", (2,)),), "samples")
    with Ledger(tmp_path, federation) as ledger:
        domain = ledger.synthetic_domain
        ledger._transact("grant", 0, call_data("grantRole", keccak(b"REVIEWER_ROLE"), address(REVIEWER)))
        ledger.govern("reviewer", {"account": address(REVIEWER), "organisation": b"\x77" * 32})
        policy = Policy(**{**asdict(POLICY), "automatic": bool(seed % 2), "quota": 45})
        values = {solidity_name(name): value for name, value in asdict(policy).items()}
        values["minReal"] = list(policy.min_real)
        ledger.govern("policy", values)
        books, nonce = Books([policy]), 0
        for _ in range(40):
            waiting = {s: [id for id, r in books.requests.items() if r.status == s] for s in Status}
            match draw.choice(["request", "review", "report"], p=[0.4, 0.3, 0.3]):
                case "review" if waiting[Status.PENDING]:
                    id = waiting[Status.PENDING][draw.integers(len(waiting[Status.PENDING]))]
                    most, _ = books.allowance(books.requests[id])
                    approve = bool(draw.integers(2))
                    granted = int(draw.integers(0, most + 3)) if approve else 0
                    content = SyntheticReview(id, approve, granted, b"\x08" * 32, 0)
                    step = ("review", content, REVIEWER, address(REVIEWER))
                case "report" if waiting[Status.APPROVED]:
                    id = waiting[Status.APPROVED][draw.integers(len(waiting[Status.APPROVED]))]
                    standing: Standing = books.requests[id]
                    generated = int(draw.integers(0, standing.counted + 2))
                    content = report(id, generated, duplicates=int(draw.integers(2, 5)))
                    step = ("report", content, KEYS[standing.request.slot], None)
                case _:
                    nonce += 1
                    content = request(
                        slot=int(draw.integers(HOSPITALS)),
                        class_=int(draw.integers(1, 4)) if draw.integers(8) else 4,
                        generator=2 if draw.integers(8) else 5,
                        quantity=int(draw.integers(1, 40)),
                        real_floor=int(draw.choice([2, 6, 20, 30, 50])),
                        policy_version=1 if draw.integers(8) else 2,
                        nonce=nonce,
                    )
                    step = ("request", content, KEYS[content.slot], None)
            kind, content, key, sender = step
            signed = digest(content, domain)
            id = signed if kind == "request" else content.request
            try:
                getattr(books, kind)(*((id, content) if kind == "request" else (id, content, signed)))
                refused = False
            except LedgerError:
                refused = True
            if refused:
                with pytest.raises(ContractRevert):
                    ledger.govern(kind, content, sign_digest(signed, key), sender)
                continue
            done = ledger.govern(kind, content, sign_digest(signed, key), sender)
            standing = books.requests[id]
            assert done.decisions == books.decisions, (kind, content, standing)
            where = (ID, standing.request.slot, standing.request.class_)
            used = query(ledger._open_chain(), domain.contract, "used", *where, contract="SyntheticLedger")
            assert used == books.used[where[1:]] <= policy.quota
        states = {standing.status for standing in books.requests.values()}
        assert {Status.DENIED, Status.ACCEPTED, Status.REJECTED} <= states
