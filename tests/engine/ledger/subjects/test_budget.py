"""A round with an update beyond the privacy budget: refused by a ledger of ours, and voided by anybody where another one has taken it."""

from dataclasses import replace
from pathlib import Path

import pytest
from eth_abi import encode
from finished import audit
from simulators import Run

from engine.audit import calls, rounds, spec, state
from engine.encoding import canonical_json, json_hash, keccak
from engine.errors import LedgerError
from engine.ledger.chain.base import ContractRevert
from engine.ledger.format import PRIVACY, PRIVACY_TERMS
from engine.ledger.run import RunLedger
from engine.ledger.subjects import rounds as taking
from engine.ledger.subjects.privacy import account, said_digest, terms_digest
from engine.ledger.subjects.updates import Opening

RECORD = {
    "budget": [10, 5],
    **{"clip": 1, "delta": 1, "mechanism": "dp-sgd/1", "neighbours": "add-remove", "rate": 1},
    **{"sampler": "poisson", "shares": 1, "sigma": 1, "unit": "beat", "spent": [3, 1]},
}


class Spending(Run):
    """Each round five samples of each hospital, of a budget of fifteen."""

    def opening(self, number: int, slot: int) -> Opening:
        return replace(super().opening(number, slot), privacy={**RECORD, "spent": [5 * number, 0]})

    def take(self, ledger: RunLedger, number: int) -> None:
        entry = self.entry(number, ledger.domain, ledger.head)
        ledger.append(replace(entry, digests={PRIVACY: terms_digest(RECORD)}))


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator whose software takes whatever comes."""
    monkeypatch.setattr(taking, "require_spent", lambda where, record, named: None)


def test_digests_are_those_of_the_contract_and_of_the_audit():
    kinds = ["bytes32", "uint64[2]"]
    terms = {name: RECORD[name] for name in PRIVACY_TERMS}
    assert terms_digest(RECORD) == keccak(encode(kinds, [json_hash(terms), [10, 5]]))
    assert said_digest(RECORD) == keccak(encode(kinds, [json_hash(RECORD), [3, 1]]))
    lavish = {**RECORD, "budget": [10**6, 5]}
    assert account(lavish, RECORD) == (json_hash(terms), [10, 5], json_hash(lavish), [3, 1])
    assert spec.counted_hash(canonical_json(RECORD).encode(), [3, 1]) == said_digest(RECORD)
    for other in (None, [1], [1, -1], [True, 1], [1, 2**64], "12", [1.0, 2]):
        record = {**RECORD, "spent": other}
        assert said_digest(record) == keccak(encode(kinds, [json_hash(record), [0, 0]]))
        assert said_digest(record) == spec.counted_hash(canonical_json(record).encode(), other)


def test_anybody_voids_a_round_beyond_the_budget(tmp_path: Path, careless: None):
    run = Spending(tmp_path)
    with run.open() as ledger:
        for number in (1, 2, 3, 4):
            run.take(ledger, number)
        for number in (1, 3):
            with pytest.raises(ContractRevert, match="EvidenceInconclusive"):
                ledger.disputes.overspent(number, 0)
        with pytest.raises(LedgerError, match="round 4 holds no update of hospital 1"):
            ledger.disputes.overspent(4, 1)
        ledger.disputes.overspent(4, 2)
        assert [ledger.rounds.status(number) for number in (1, 2, 3, 4)] == ["SEALED"] * 3 + ["VOID"]
        sent = len(ledger.book.transactions)
        ledger.disputes.overspent(4, 2)  # once
        assert len(ledger.book.transactions) == sent
    assert audit(run.folder, [calls.check, rounds.check, state.check]).findings == []


def test_a_ledger_of_ours_takes_no_such_round(tmp_path: Path):
    run = Spending(tmp_path)
    with run.open() as ledger:
        for number in (1, 2, 3):
            run.take(ledger, number)
        with pytest.raises(
            LedgerError, match=r"has spent \[20, 0\] noised samples, beyond the privacy budget \[10, 5\]"
        ):
            run.take(ledger, 4)


def test_a_round_without_a_budget_cannot_be_voided_so(tmp_path: Path):
    run = Run(tmp_path)
    with run.open() as ledger:
        ledger.append(run.entry(1, ledger.domain, ledger.head))
        with pytest.raises(LedgerError, match="that says what privacy it has spent"):
            ledger.disputes.overspent(1, 0)
