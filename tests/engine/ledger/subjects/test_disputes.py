"""The state machine of a round: direct submissions, disputes by proof, and what an auditor decides."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from simulators import LAYOUT, Run, receipt_signature, rule_of

from engine.encoding import canonical_json
from engine.errors import LedgerError
from engine.ledger.chain.base import ContractRevert
from engine.ledger.chain.embedded import EMBEDDED_AUDITOR, EMBEDDED_COORDINATOR, EmbeddedChain
from engine.ledger.config import LedgerConfig
from engine.ledger.format import RUN
from engine.ledger.run import RunLedger
from engine.ledger.signing import sign
from engine.ledger.subjects.rounds import RoundEntry
from engine.ledger.subjects.updates import SignedUpdate
from engine.ledger.trees import EMPTY
from engine.ledger.typed import Domain
from engine.model import vector_hash


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A federation whose rounds can be disputed for a while."""
    run = Run(tmp_path)
    run.federation = replace(run.federation, window=1000)
    return run


def test_a_broken_receipt_voids_a_round_and_the_next_starts_from_the_model_before(run: Run):
    with run.open() as ledger:
        domain, rounds = ledger.domain, ledger.rounds
        assert [rounds.status(n) for n in (0, 1, 2)] == ["NONE", "OPEN", "NONE"]
        for number in (1, 2):
            ledger.append(run.entry(number, domain))
        promised = b"\x77" * 32
        true_leaf = rounds.prove(2, 0).leaf
        for leaf, key in [(true_leaf, EMBEDDED_COORDINATOR), (promised, run.keys[0])]:
            with pytest.raises(ContractRevert, match=r"EvidenceInconclusive|SignatureInvalid|Role"):
                ledger.disputes.dispute(2, 0, leaf, receipt_signature(domain, 2, 0, leaf, key))
        before = ledger.summary()["transactions"]
        ledger.disputes.dispute(2, 0, promised, receipt_signature(domain, 2, 0, promised))
        ledger.disputes.dispute(2, 0, promised, receipt_signature(domain, 2, 0, promised))
        assert ledger.summary()["transactions"] == before + 1
        assert [rounds.status(n) for n in (1, 2)] == ["SEALED", "DISPUTED"]
        with pytest.raises(ContractRevert):
            ledger.append(run.entry(3, domain))
        with pytest.raises(LedgerError, match="refuses to resolve round 2"):
            ledger.disputes.resolve(2, True, EMBEDDED_COORDINATOR)
        with pytest.raises(ContractRevert, match="RolesConflict"):
            rounds.grant("AUDITOR_ROLE", ledger.opened().coordinator)
        ledger.disputes.resolve(2, True, EMBEDDED_AUDITOR)
        assert rounds.status(2) == "VOID"
        with pytest.raises(LedgerError, match="round 3 starts from model"):
            ledger.append(run.entry(3, domain))
    with run.open() as ledger:
        rounds = ledger.rounds
        assert rounds.status(2) == "VOID"
        entry = again_from(run, run.entry(3, domain), domain, run.model(1))
        assert ledger.append(entry).round == 3
        assert [rounds.status(n) for n in (1, 2, 3, 4)] == ["SEALED", "VOID", "SEALED", "OPEN"]


def again_from(run: Run, entry: RoundEntry, domain: Domain, parent: bytes) -> RoundEntry:
    """The entry, signed again for another model to start from."""
    records = [replace(signed.record, parent_model=parent) for signed in entry.updates]
    signed = tuple(SignedUpdate(r, sign(r, domain, run.keys[r.slot])) for r in records)
    return replace(entry, parent_model=parent, updates=signed)


def test_a_censored_hospital_shows_its_update_and_then_that_it_was_left_out(run: Run):
    with run.open() as ledger:
        entry, disputes = run.entry(1, ledger.domain), ledger.disputes
        wrong = SignedUpdate(entry.updates[1].record, entry.updates[0].signature)
        with pytest.raises(ContractRevert):
            disputes.submit(wrong)
        disputes.submit(entry.updates[1])
        without = replace(
            entry, updates=(entry.updates[0], entry.updates[2]), openings=(entry.openings[0], entry.openings[2])
        )
        ledger.append(without)
        assert ledger.rounds.prove(1, 1).leaf == EMPTY
        with pytest.raises(ContractRevert, match="EvidenceInconclusive"):
            disputes.dispute(1, 2)  # hospital 2 showed nothing, and is not left out
        # The coordinator was not given the vector, and has said so.
        assert ledger.rounds.submission(1, run.model(0), 1)["refused"] is True
        with pytest.raises(ContractRevert, match="SignatureInvalid"):
            disputes.dispute(1, 1)
        update = vector_hash(run.vectors(1)[1], LAYOUT)
        with pytest.raises(LedgerError, match="hospital 1 has shown no update with this vector in round 1"):
            disputes.witness(1, 1, update[::-1], EMBEDDED_AUDITOR)
        for key in (run.keys[1], EMBEDDED_COORDINATOR):
            with pytest.raises(ContractRevert, match="SignatureInvalid"):
                disputes.dispute(1, 1, signature=disputes.witness(1, 1, update, key))
        disputes.dispute(1, 1, signature=disputes.witness(1, 1, update, EMBEDDED_AUDITOR))
        assert ledger.rounds.status(1) == "DISPUTED"
        disputes.resolve(1, False, EMBEDDED_AUDITOR)
        assert ledger.rounds.status(1) == "FINAL"
        assert ledger.append(run.entry(2, ledger.domain, ledger.head)).round == 2
        head = ledger.head
    with run.open() as ledger:
        assert ledger.head == head


def test_a_coordinator_that_was_given_the_update_refuses_nothing(run: Run):
    with run.open() as ledger:
        entry = run.entry(1, ledger.domain)
        ledger.disputes.submit(entry.updates[1])
        ledger.append(entry)
        shown = ledger.rounds.submission(1, run.model(0), 1)
        assert (shown["leaf"], shown["refused"]) == (ledger.rounds.prove(1, 1).leaf, False)
        with pytest.raises(ContractRevert, match="EvidenceInconclusive"):
            ledger.disputes.dispute(1, 1)


def test_an_old_round_is_disputed_however_many_came_after(run: Run):
    with run.open() as ledger:
        domain = ledger.domain
        for number in range(1, 11):
            ledger.append(run.entry(number, domain))
        assert [ledger.rounds.status(n) for n in (1, 10)] == ["SEALED", "SEALED"]
        assert [header.round for header in ledger.rounds.headers_from(2)] == [2, 3, 4, 5, 6, 7]
        assert [header.round for header in ledger.rounds.headers_from(9)] == [9]
        promised = b"\x77" * 32
        ledger.disputes.dispute(2, 0, promised, receipt_signature(domain, 2, 0, promised))
        assert ledger.rounds.status(2) == "DISPUTED"
        ledger.disputes.resolve(2, True, EMBEDDED_AUDITOR)
        assert [ledger.rounds.status(n) for n in (1, 2, 10)] == ["SEALED", "VOID", "VOID"]
        again = again_from(run, run.entry(11, domain, ledger.head), domain, run.model(1))
        assert ledger.append(again).round == 11


def lenient(run: Run, most: int) -> RunLedger:
    """The ledger of a coordinator that has come to believe that an update may be so many rounds behind."""
    rule = {**rule_of(run.weighting), "settings": {"max_staleness": most, "of_models": False}}
    path = run.ledger_folder / RUN.file
    if path.exists():
        with sqlite3.connect(path) as journal:
            journal.execute("UPDATE meta SET value = ? WHERE key = 'rule'", [canonical_json(rule)])
        journal.close()
    return RunLedger(run.ledger_folder, run.federation, rule, LedgerConfig(), chain=EmbeddedChain())


def test_an_update_that_began_from_a_model_that_is_too_old_is_shown_to_the_contract(run: Run):
    with lenient(run, 1) as ledger:
        domain = ledger.domain
        entries = [run.entry(number, domain) for number in (1, 2, 3)]
        for entry in entries[:2]:
            ledger.append(entry)
        late = began_from(run, entries[2], domain, slot=0, model=run.model(1))  # one round behind is allowed
        ledger.append(late)
        head = ledger.head
        old = began_from(run, run.entry(4, domain, head), domain, slot=2, model=run.model(1))  # two are not
        with pytest.raises(LedgerError, match="round 4, hospital 2: parent_model is"):
            ledger.append(old)
        with pytest.raises(ContractRevert, match="EvidenceInconclusive"):
            ledger.disputes.dispute_update(3, 0)
        with pytest.raises(LedgerError, match="round 2 holds no update of hospital 1"):
            ledger.disputes.dispute_update(2, 1)
    with lenient(run, 9) as ledger:
        ledger.append(old)
    with lenient(run, 1) as ledger:
        with pytest.raises(ContractRevert, match="EvidenceInconclusive"):
            ledger.disputes.dispute_update(4, 0)
        ledger.disputes.dispute_update(4, 2)
        assert ledger.rounds.status(4) == "DISPUTED"
        ledger.disputes.resolve(4, True, EMBEDDED_AUDITOR)
        assert [ledger.rounds.status(number) for number in (3, 4)] == ["SEALED", "VOID"]


def began_from(run: Run, entry: RoundEntry, domain: Domain, slot: int, model: bytes) -> RoundEntry:
    """The entry, in which one hospital has worked from another model."""
    signed = []
    for one in entry.updates:
        record = replace(one.record, parent_model=model) if one.record.slot == slot else one.record
        signed.append(SignedUpdate(record, sign(record, domain, run.keys[record.slot])))
    return replace(entry, updates=tuple(signed))
