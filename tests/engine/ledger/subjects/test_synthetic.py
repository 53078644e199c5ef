"""Steps of governance through journal and contract: each once, in order, and read back as they were."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from simulators import FEDERATION_ID, POLICY, REVIEWER, Run, report, request

from engine.errors import LedgerError
from engine.ledger.chain.base import ContractRevert
from engine.ledger.format import DECISIONS, GOVERNED, ZERO
from engine.ledger.signing import address, sign
from engine.ledger.subjects.synthetic import (
    Expire,
    Policy,
    SetPolicy,
    SetReviewer,
    SignedPreview,
    SignedReport,
    SignedRequest,
    SignedReview,
    Step,
    SyntheticReview,
    from_contract,
    real_floor,
    to_contract,
)
from engine.ledger.typed import digest

HUMAN = replace(POLICY, automatic=False)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_the_ladder_of_real_counts():
    ladder = [0, 1, 2, 6, 10, 20, 30, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000]
    for below, step in pairwise(ladder):
        assert (real_floor(step), real_floor(step - 1)) == (step, below)


def test_a_policy_has_the_names_of_the_contract_and_nothing_else():
    assert from_contract(to_contract(POLICY)) == POLICY
    for change in ({"quota": "7"}, {"automatic": 1}, {"minReal": (1,)}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            from_contract({**to_contract(POLICY), **change})
    with pytest.raises(TypeError):
        from_contract({name: value for name, value in to_contract(POLICY).items() if name != "quota"})
    with pytest.raises(KeyError):
        from_contract({**to_contract(POLICY), "more": 1})


def test_a_request_is_reviewed_and_reported(run: Run):
    with run.open() as ledger:
        desk = ledger.synthetic
        assert (ledger.opened().decisions, ledger.summary()["transactions"]) == (ZERO, 3)
        domain = desk.domain
        policy, reviewer = SetPolicy(HUMAN), SetReviewer(address(REVIEWER), b"\x05" * 32)
        assert desk.take(policy).transaction == desk.take(policy).transaction
        desk.take(reviewer)
        asked = request(quantity=20)
        signature = sign(asked, domain, run.keys[0])
        done = desk.take(SignedRequest(asked, signature))
        assert done.id == digest(asked, domain)
        assert done.decisions == desk.decisions != ZERO
        with pytest.raises(LedgerError, match=r"request 0x.* is already recorded with other content"):
            desk.take(SignedRequest(asked, b"\x01" * 65))
        review = SyntheticReview(done.id, True, 18, b"\x03" * 32, 0)
        reviewed = SignedReview(review, sign(review, domain, REVIEWER), address(REVIEWER))
        desk.take(reviewed)
        made = report(done.id, 15)
        reported = SignedReport(made, sign(made, domain, run.keys[0]))
        last = desk.take(reported)
        assert desk.ask("used", FEDERATION_ID, 0, 2) == 15
        transactions = ledger.summary()["transactions"]
        entry = replace(run.entry(1, ledger.domain), digests={DECISIONS: last.decisions})
        head = ledger.append(entry).head
    steps: tuple[Step, ...] = (policy, reviewer, SignedRequest(asked, signature), reviewed, reported)
    with run.open() as ledger:
        governance = ledger.synthetic.governance()
        assert (governance.domain, governance.steps, governance.decisions) == (domain, steps, last.decisions)
        assert ledger.synthetic.take(SignedRequest(asked, signature)).transaction == done.transaction
        assert ledger.summary()["transactions"] == transactions + 1
        assert ledger.opened().decisions == last.decisions
        assert ledger.head == head


def test_a_policy_can_come_back_as_another_version(run: Run):
    with run.open() as ledger:
        versions = [HUMAN, POLICY, HUMAN]
        ledger.synthetic.take(SetPolicy(HUMAN, 1))
        for number, policy in enumerate(versions[1:], 2):
            ledger.synthetic.take(SetPolicy(policy, number))
            assert ledger.synthetic.ask("policyVersion", FEDERATION_ID) == number - 1
            with pytest.raises(ContractRevert, match=f"PolicyPending.*version={number}"):
                ledger.synthetic.take(SetPolicy(POLICY, number + 1))
            ledger.append(run.entry(number - 1, ledger.domain))
            ledger.rounds.finalize()  # after the longest window, in which a day passes
            assert ledger.synthetic.ask("policyVersion", FEDERATION_ID) == number
        assert [step.policy for step in ledger.synthetic.steps() if isinstance(step, SetPolicy)] == versions
        assert [step.version for step in ledger.synthetic.steps() if isinstance(step, SetPolicy)] == [1, 2, 3]


def test_a_request_expires_when_its_time_has_passed(run: Run):
    with run.open() as ledger:
        desk = ledger.synthetic
        desk.take(SetPolicy(replace(POLICY, expiry_seconds=3)))
        asked = request()
        id = desk.take(SignedRequest(asked, sign(asked, desk.domain, run.keys[0]))).id
        with pytest.raises(ContractRevert):
            desk.take(Expire(id))
        for number in (1, 2, 3):  # a second of the chain's time each
            ledger.append(run.entry(number, ledger.domain))
        desk.take(Expire(id))
        assert desk.ask("used", FEDERATION_ID, 0, 2) == 30  # what was granted stays counted
        late = report(id, 30)
        with pytest.raises(ContractRevert, match=r"RequestStatusMismatch.*given=7"):
            desk.take(SignedReport(late, sign(late, desk.domain, run.keys[0])))
        assert desk.steps()[-1] == Expire(id)


def test_a_damaged_step_gives_one_sentence(run: Run):
    with run.open() as ledger:
        ledger.synthetic.take(SetPolicy(POLICY))
        with ledger.book.store.connection as connection:
            connection.execute("UPDATE synthetic SET record = '{}'")
        with pytest.raises(LedgerError, match=r"is damaged: step 1 \(") as refused:
            ledger.synthetic.steps()
        assert "\n" not in str(refused.value)


def test_every_kind_of_step_has_a_class():
    kinds = {
        step.kind for step in (SetPolicy, SetReviewer, SignedRequest, SignedPreview, SignedReview, SignedReport, Expire)
    }
    assert kinds == set(GOVERNED)
    assert isinstance(POLICY, Policy)
