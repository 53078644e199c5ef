"""What a hospital checks before it signs, and what it signs once only."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from simulators import FEDERATION_ID, Coordinator, Run, receipt_signature

from engine.errors import LedgerError
from engine.ledger.signer import Memory, Notice, Signer
from engine.ledger.signing import address, recover, sign
from engine.ledger.subjects.closing import HospitalResult, SignedResult, text_digest
from engine.ledger.subjects.updates import Header, commitments, head_of, update_leaf


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_an_honest_coordinator_gets_every_signature(run: Run):
    there = Coordinator(run)
    for _ in range(3):
        there.round()
    for slot, signer in enumerate(there.signers):
        notice = there.notice(slot)
        signer.check(notice)
        signed = signer.result(notice, '{"stated":1}')
        head = there.headers[3].head
        assert signed.record == HospitalResult(FEDERATION_ID, 3, slot, head, text_digest('{"stated":1}'))
        assert recover(signed.record, signed.signature, there.domain) == address(run.keys[slot])


def forge(header: Header, there: Coordinator, **changes: object) -> Header:
    changed = replace(header, **changes)  # type: ignore[arg-type]
    return replace(changed, head=head_of(changed, there.domain, FEDERATION_ID))


LIES: dict[str, Callable[[Coordinator, Notice], Notice]] = {
    "does not follow from what is shown": lambda there, n: replace(
        n, headers=(n.headers[0], replace(n.headers[1], root=b"\x01" * 32))
    ),
    "proof does not lead": lambda there, n: replace(
        n, headers=(n.headers[0], forge(n.headers[1], there, root=b"\x01" * 32))
    ),
    "the proof does not lead from the update of round 2": lambda there, n: replace(n, paths={}),
    "round 2, in which this hospital took part, is not shown": lambda there, n: replace(n, headers=n.headers[:1]),
    "round 2 follows head .* this hospital signed": lambda there, n: replace(
        n, headers=(forge(n.headers[1], there, previous_head=b"\x01" * 32),)
    ),
    "round 2 does not follow round 1": lambda there, n: replace(
        n, headers=(n.headers[0], forge(n.headers[1], there, previous_head=b"\x01" * 32))
    ),
    "no head is shown": lambda there, n: replace(n, headers=()),
    "the receipt of round 2 is not the coordinator's word": lambda there, n: replace(
        n, receipts={0: (2, receipt_signature(there.domain, 2, 0, b"\x01" * 32))}
    ),
    "the receipt of round 2 is not the coordinator's": lambda there, n: replace(
        n, receipts={0: (2, receipt_signature(there.domain, 2, 0, there.leaves[0], b"\x09" * 32))}
    ),
    "the receipt of round 2 is damaged": lambda there, n: replace(n, receipts={0: (2, b"")}),
    "begins with head": lambda there, n: replace(n, headers=(replace(there.headers[0], head=b"\x01" * 32), *n.headers)),
}


@pytest.mark.parametrize("message", LIES)
def test_a_hospital_refuses_what_does_not_fit_to_what_it_signed(run: Run, message: str):
    there = Coordinator(run)
    there.round()
    there.round()
    honest = there.notice(0)
    with pytest.raises(LedgerError, match=message):
        there.signers[0].check(LIES[message](there, honest))
    there.signers[0].check(honest)


def test_a_hospital_that_was_left_out_refuses_and_one_that_withdrew_does_not(run: Run):
    there = Coordinator(run)
    there.round()
    notices = [there.notice(slot) for slot in range(3)]
    leaves = {slot: there.signers[slot].update(notices[slot], b"\x55" * 32, 10, {})[2] for slot in range(3)}
    there.signers[2].withdraw()
    there.seal({1: leaves[1]})
    with pytest.raises(LedgerError, match="the proof does not lead from the update of round 2"):
        there.signers[0].check(replace(there.notice(0), receipts={}))
    there.signers[1].check(there.notice(1))
    there.signers[2].check(replace(there.notice(2), receipts={}))


def test_a_hospital_signs_one_update_a_round_and_the_last_head_only_for_a_receipt(run: Run):
    there = Coordinator(run)
    signer, notice = there.signers[0], there.notice(0)
    first = signer.update(notice, b"\x55" * 32, 10, {})
    assert signer.update(notice, b"\x55" * 32, 10, {}) == first  # a repeated call, the same bits
    with pytest.raises(LedgerError, match="has already signed another update, for round 1"):
        signer.update(notice, b"\x56" * 32, 10, {})
    there.seal({0: first[2]})
    last = there.notice(0)
    signer.check(replace(last, receipts={}))
    with pytest.raises(LedgerError, match="gave no receipt for the update of round 1"):
        signer.result(last, "{}")
    # Another process of the same hospital that takes up its memory knows what to expect.
    again = Signer(0, there.signing, 5, signer.memory)
    assert again.memory == Memory(1, first[2], there.headers[0].head)
    with pytest.raises(LedgerError, match="the receipt of round 1"):
        again.check(replace(last, receipts={0: (1, b"\x01" * 65)}))
    again.check(last)
    result = HospitalResult(FEDERATION_ID, 1, 0, last.headers[-1].head, text_digest("{}"))
    assert again.result(last, "{}") == SignedResult(result, sign(result, there.domain, run.keys[0]), "{}")


def test_the_commitments_of_a_hospital_open_and_tell_nothing_twice(run: Run):
    there = Coordinator(run)
    signed, opening, leaf = there.signers[0].update(there.notice(0), b"\x55" * 32, 10, {"loss": 0.5}, {"noise": 1})
    assert {name: getattr(signed.record, name) for name in ("samples", "metrics", "privacy")} == commitments(opening)
    assert (opening.samples, opening.metrics, opening.privacy) == (10, {"loss": 0.5}, {"noise": 1})
    assert leaf == update_leaf(signed, there.domain)
    there.seal({0: leaf})
    second, _, _ = there.signers[0].update(there.notice(0), b"\x55" * 32, 10, {"loss": 0.5}, {"noise": 1})
    assert second.record.samples != signed.record.samples
    assert second.record.metrics != signed.record.metrics
