"""The quota of a hospital and class: whatever comes in which order, and from however many sides, no beat more is granted."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulators import POLICY, Run, report, request, rule_of

from engine.background import Background
from engine.data.config import CLASSES
from engine.ledger.config import LedgerConfig
from engine.ledger.run import RunLedger
from engine.ledger.signing import sign
from engine.ledger.subjects.policy import Books, Status, policy_of
from engine.ledger.subjects.synthetic import (
    Governance,
    Governed,
    SetPolicy,
    SignedRequest,
    Step,
    SyntheticRequest,
    SyntheticReview,
    from_contract,
    to_contract,
)
from engine.synthesis.config import PolicyConfig


def test_the_settings_in_integers_by_hand():
    settings = PolicyConfig(
        mode="human", classes="SF", quota=7, ratio=1.5, share_cap=0.25, min_real={"smote": 4, "timegan": 50},
        max_auc=0.9, min_nndr=0.12, max_distance=3.5, max_duplicates=0.3, max_repeated=0.4, min_spread=0.2,
        min_utility=-0.015, min_recognised=0.6, expiry_seconds=3600,
    )  # fmt: skip
    policy = policy_of(settings, CLASSES)
    assert (policy.allowed_classes, policy.allowed_generators) == (0b1010, 0b100100)
    assert (policy.automatic, policy.quota, policy.ratio_bp, policy.share_cap_bp) == (False, 7, 15_000, 2_500)
    assert policy.min_real == (0, 0, 4, 0, 0, 50, 0, 0)
    assert (policy.max_auc_bp, policy.min_nndr_bp, policy.max_distance_bp) == (9_000, 1_200, 35_000)
    assert (policy.max_duplicates_bp, policy.max_repeated_bp) == (3_000, 4_000)
    assert (policy.min_spread_bp, policy.min_utility_bp, policy.min_recognised_bp) == (2_000, -150, 6_000)
    assert policy.expiry_seconds == 3600
    assert from_contract(json.loads(json.dumps(to_contract(policy)))) == policy


steps = st.lists(
    st.tuples(
        st.integers(0, 1), st.integers(1, 3), st.integers(1, 60), st.sampled_from((2, 6, 20, 50)), st.integers(0, 3)
    ),
    max_size=30,
)


@given(steps, st.integers(0, 80), st.booleans())
def test_no_order_of_steps_grants_more_than_the_quota(moves: list[tuple[int, ...]], quota: int, automatic: bool):
    policy = replace(POLICY, quota=quota, automatic=automatic)
    books = Books([policy])
    for nonce, (slot, class_, quantity, floor, then) in enumerate(moves):
        id = nonce.to_bytes(32, "big")
        standing = books.request(
            id, request(slot=slot, class_=class_, quantity=quantity, real_floor=floor, nonce=nonce)
        )
        if standing.status == Status.PENDING:
            allowed, _ = books.allowance(standing)
            if allowed:
                books.review(id, SyntheticReview(id, True, allowed, bytes(32), 0), bytes(32))
        if standing.status == Status.APPROVED:
            assert 1 <= standing.granted <= min(quantity, 2 * floor, quota)
            if then == 1:
                books.report(id, report(id, standing.granted), bytes(32))
            elif then == 2:
                books.report(id, report(id, standing.granted, duplicates=999), bytes(32))
            elif then == 3:
                books.expire(id)
        for where, used in books.used.items():
            held = [s for s in books.requests.values() if (s.request.slot, s.request.class_) == where]
            assert used == sum(s.counted for s in held) <= quota


def governance(ledger: RunLedger) -> Governance:
    return ledger.synthetic.governance()


def take(ledger: RunLedger, step: Step) -> Governed:
    return ledger.synthetic.take(step)


def counted(ledger: RunLedger, id: bytes) -> int:
    held: int = ledger.synthetic.ask("requestState", id)["counted"]
    return held


@pytest.mark.parametrize("seed", range(2))
def test_requests_from_many_sides_at_once_get_the_quota_and_no_more(tmp_path: Path, seed: int):
    run = Run(tmp_path)
    ledger = Background(RunLedger, run.ledger_folder, run.federation, rule_of("samples"), LedgerConfig(), actor=False)
    domain = ledger.submit(governance).result().domain
    ledger.submit(take, SetPolicy(replace(POLICY, quota=45))).result()
    slots = range(run.hospitals)
    asked = [request(slot=s, quantity=20, real_floor=50, nonce=n) for s in slots for n in range(4)]
    asked = [asked[i] for i in np.random.default_rng(seed).permutation(len(asked))]

    def ask(one: SyntheticRequest) -> Governed:
        return ledger.submit(take, SignedRequest(one, sign(one, domain, run.keys[one.slot]))).result()

    with ThreadPoolExecutor(8) as many:
        done = list(many.map(ask, [*asked, *asked]))  # each twice: the second one changes nothing
    for first, again in zip(done[: len(asked)], done[len(asked) :], strict=True):
        assert first.transaction == again.transaction
    held: dict[int, list[int]] = {slot: [] for slot in slots}
    for one, answer in zip(asked, done, strict=False):
        held[one.slot].append(ledger.submit(counted, answer.id).result())
    assert [sorted(amounts) for amounts in held.values()] == [[0, 5, 20, 20]] * run.hospitals
    ledger.close()
