"""Hospitals and their coordinator: proofs, receipts, disputes, keys, what a hospital refuses to sign, and the bundle."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from eth_account import Account
from test_ledger import CONFIG, FEDERATION_ID, LAYOUT, Run, record

from engine.errors import HospitalError, LedgerError
from engine.experiment import run as run_experiment
from engine.hospital import Hospital
from engine.ledger import bundle, chain, keys, merkle, signing
from engine.ledger.chain import ContractRevert
from engine.ledger.config import LedgerConfig
from engine.ledger.keys import Memory, Notice, Signer, Signing
from engine.ledger.observer import LedgerObserver
from engine.ledger.records import (
    ZERO,
    Domain,
    Header,
    KeyRotation,
    Receipt,
    RoundEntry,
    RoundHead,
    SignedUpdate,
    SyntheticReport,
    SyntheticRequest,
    SyntheticReview,
    Verdicts,
    commitments,
    digest,
)
from engine.model import vector_hash

COORDINATOR = chain._EMBEDDED_KEY


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def receipt_signature(domain: Domain, round: int, slot: int, leaf: bytes, key: bytes = COORDINATOR) -> bytes:
    return signing.sign(Receipt(FEDERATION_ID, round, slot, leaf), domain, key)


# --- Proofs and receipts ----------------------------------------------------------------------------------------------


def test_proofs_show_who_is_in_a_round_and_who_is_not(run: Run):
    with run.open() as ledger:
        for number in (1, 2):  # hospital 1 is away in round 2
            ledger.append(run.entry(number, ledger.domain))
        contract, node = ledger.domain.contract, ledger._open_chain()
        for number, slot in [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]:
            proof = ledger.prove(number, slot)
            absent = (number, slot) == (2, 1)
            assert (proof.leaf == merkle.EMPTY) == absent
            assert (proof.header.round, proof.header.head) == (number, run.heads(ledger.domain, number)[-1])
            root, siblings = proof.header.root, list(proof.siblings)
            assert merkle.verify(root, proof.leaf, slot, 3, siblings)
            assert chain.query(node, contract, "verifyUpdate", root, slot, proof.leaf, 3, siblings)
            assert chain.query(node, contract, "verifyAbsent", root, slot, 3, siblings) == absent
        for number, slot in [(0, 0), (3, 0), (1, 3), (1, -1)]:
            with pytest.raises(LedgerError, match="is not one of"):
                ledger.prove(number, slot)


def test_receipts_are_the_coordinators_word_for_every_update(run: Run):
    with run.open() as ledger:
        ledger.append(run.entry(1, ledger.domain))
        ledger.append(run.entry(2, ledger.domain))
        assert list(ledger.receipts(2)) == [0, 2]
        for slot, signature in ledger.receipts(1).items():
            leaf = ledger.prove(1, slot).leaf
            assert signature == receipt_signature(ledger.domain, 1, slot, leaf)
        assert signing.address(COORDINATOR) == ledger.opened().coordinator


def test_hospitals_sign_the_last_head(run: Run):
    with run.open() as ledger:
        ledger.append(run.entry(1, ledger.domain))
        heads = [RoundHead(FEDERATION_ID, 1, slot, ledger.head) for slot in range(3)]
        signatures = {slot: signing.sign(heads[slot], ledger.domain, run.keys[slot]) for slot in range(3)}
        with pytest.raises(LedgerError, match="round 1, hospital 1, head: signed by"):
            ledger.cosign(1, {1: signatures[2]})
        with pytest.raises(LedgerError, match="round 2 is not one of the 1 sealed rounds"):
            ledger.cosign(2, signatures)
        for _ in range(2):
            ledger.cosign(1, signatures)
            assert ledger.summary()["cosigned"] == 3
        assert ledger._journal.heads(1) == signatures


# --- The state machine of a round -------------------------------------------------------------------------------------


def test_a_broken_receipt_voids_a_round_and_the_next_starts_from_the_model_before(run: Run):
    run.federation = replace(run.federation, window=1000)
    with run.open() as ledger:
        domain = ledger.domain
        assert [ledger.round_status(n) for n in (0, 1, 2)] == ["NONE", "OPEN", "NONE"]
        for number in (1, 2):
            ledger.append(run.entry(number, domain))
        with pytest.raises(ContractRevert, match="WindowOpen"):
            ledger.finalize()
        promised = b"\x77" * 32
        true_leaf = ledger.prove(2, 0).leaf
        for leaf, key in [(true_leaf, COORDINATOR), (promised, run.keys[0])]:
            with pytest.raises(ContractRevert, match=r"EvidenceInconclusive|SignatureInvalid|Role"):
                ledger.dispute(2, 0, leaf, receipt_signature(domain, 2, 0, leaf, key))
        before = ledger.summary()["transactions"]
        ledger.dispute(2, 0, promised, receipt_signature(domain, 2, 0, promised))
        ledger.dispute(2, 0, promised, receipt_signature(domain, 2, 0, promised))
        assert ledger.summary()["transactions"] == before + 1
        assert [ledger.round_status(n) for n in (1, 2)] == ["SEALED", "DISPUTED"]
        with pytest.raises(ContractRevert):
            ledger.append(run.entry(3, domain))
        auditor = chain.EMBEDDED_AUDITOR
        with pytest.raises(LedgerError, match="refuses to resolve round 2"):
            ledger.resolve(2, True, auditor)
        with pytest.raises(ContractRevert, match="RolesConflict"):
            ledger.grant("AUDITOR_ROLE", ledger.opened().coordinator)
        ledger.grant("AUDITOR_ROLE", signing.address(auditor))
        ledger.resolve(2, True, auditor)
        assert ledger.round_status(2) == "VOID"
        with pytest.raises(LedgerError, match="round 3 starts from model"):
            ledger.append(run.entry(3, domain))
    with run.open() as ledger:
        assert ledger.round_status(2) == "VOID"
        parent = vector_hash(run.params(1), LAYOUT)
        entry = again_from(run, run.entry(3, domain), domain, parent)
        assert ledger.append(entry).round == 3
        assert [ledger.round_status(n) for n in (1, 2, 3, 4)] == ["SEALED", "VOID", "SEALED", "OPEN"]


def again_from(run: Run, entry: RoundEntry, domain: Domain, parent: bytes) -> RoundEntry:
    """The entry, signed again for another model to start from."""
    records = [replace(signed.record, parent_model=parent) for signed in entry.updates]
    signed = tuple(SignedUpdate(r, signing.sign(r, domain, run.keys[r.slot])) for r in records)
    return replace(entry, parent_model=parent, updates=signed)


def test_a_censored_hospital_shows_its_update_and_then_that_it_was_left_out(run: Run):
    run.federation = replace(run.federation, window=1000)
    with run.open() as ledger:
        entry = run.entry(1, ledger.domain)
        wrong = SignedUpdate(entry.updates[1].record, entry.updates[0].signature)
        with pytest.raises(ContractRevert):
            ledger.submit(wrong)
        ledger.submit(entry.updates[1])
        without = replace(
            entry, updates=(entry.updates[0], entry.updates[2]), openings=(entry.openings[0], entry.openings[2])
        )
        ledger.append(without)
        assert ledger.prove(1, 1).leaf == merkle.EMPTY
        with pytest.raises(ContractRevert, match="EvidenceInconclusive"):
            ledger.dispute(1, 2)  # hospital 2 showed nothing, and is not left out
        ledger.dispute(1, 1)
        assert ledger.round_status(1) == "DISPUTED"
        ledger.grant("AUDITOR_ROLE", signing.address(chain.EMBEDDED_AUDITOR))
        ledger.resolve(1, False, chain.EMBEDDED_AUDITOR)
        assert ledger.round_status(1) == "FINAL"
        parent = run.entry(2, ledger.domain, ledger.head)
        assert ledger.append(parent).round == 2
        head = ledger.head
    with run.open() as ledger:
        assert ledger.head == head


def test_all_rounds_become_final_in_one_transaction(run: Run):
    with run.open() as ledger:
        for number in (1, 2, 3):
            ledger.append(run.entry(number, ledger.domain))
        before = ledger.summary()["transactions"]
        ledger.finalize()
        ledger.finalize()
        assert ledger.summary()["transactions"] == before + 1
        assert [ledger.round_status(n) for n in (1, 2, 3, 4)] == ["FINAL"] * 3 + ["OPEN"]


def test_verdicts_move_reputations(run: Run):
    with run.open() as ledger:
        verdicts = (Verdicts(0, 0b111, 0b011, 8),)
        entry = replace(run.entry(1, ledger.domain), verdicts=verdicts)
        ledger.append(entry)
        with pytest.raises(LedgerError, match="already recorded with another scores_root"):
            ledger.append(run.entry(1, ledger.domain))

        def reputations() -> list[int]:
            contract = ledger.domain.contract
            return [chain.query(ledger._open_chain(), contract, "reputation", FEDERATION_ID, s) for s in range(4)]

        before = reputations()
        ledger.update_reputation(1)
        ledger.update_reputation(1)
        after = reputations()
        assert before == [before[0]] * 4
        assert after[0] == after[1] > after[2]
        assert after[3] == before[3]  # took no part
    with run.open() as ledger:
        assert ledger._journal.scores(1) == list(verdicts)
        assert ledger.append(entry).round == 1
        with pytest.raises(LedgerError, match="round 2 has no verdicts"):
            ledger.update_reputation(2)


# --- Rotation ---------------------------------------------------------------------------------------------------------


def rotated(run: Run, domain: Domain, slot: int, round: int) -> tuple[KeyRotation, bytes, bytes, bytes]:
    new = signing.hospital_key(77, FEDERATION_ID, slot)
    change = KeyRotation(FEDERATION_ID, slot, signing.address(run.keys[slot]), signing.address(new), round)
    return change, signing.sign(change, domain, run.keys[slot]), signing.sign(change, domain, new), new


def test_a_hospital_changes_its_key_with_both_keys(run: Run):
    with run.open() as ledger:
        domain = ledger.domain
        ledger.append(run.entry(1, domain))
        # hospital 1 takes part in odd rounds only
        ledger.append(run.entry(2, domain))
        change, old, new, key = rotated(run, domain, 1, 3)
        with pytest.raises(LedgerError, match="rotation of hospital 1: old key: signed by"):
            ledger.rotate(change, new, new)
        with pytest.raises(LedgerError, match="rotation of hospital 1: new key: signed by"):
            ledger.rotate(change, old, old)
        late, *signatures, _ = rotated(run, domain, 1, 2)
        with pytest.raises(LedgerError, match="it is for round 2, the next one is round 3"):
            ledger.rotate(late, *signatures)
        for _ in range(2):
            ledger.rotate(change, old, new)
        assert ledger.summary()["transactions"] == 6
        assert [ledger.holder(1, n) for n in (2, 3)] == [change.from_, change.to]
    with run.open() as ledger:
        with pytest.raises(LedgerError, match=f"round 3, hospital 1: signed by {change.from_}"):
            ledger.append(run.entry(3, domain))
        head, run.keys[1] = ledger.head, key
        assert ledger.append(run.entry(3, domain, head)).round == 3
        contract, proof = ledger.domain.contract, ledger._membership(1)
        for account, holds in [(change.from_, False), (change.to, True)]:
            assert chain.query(ledger._open_chain(), contract, "isHospital", FEDERATION_ID, 1, account, *proof) == holds


# --- Governance -------------------------------------------------------------------------------------------------------

POLICY = {
    "allowedClasses": 0b00110,
    "allowedGenerators": 0b11110,
    "automatic": False,
    "quota": 100,
    "ratioBp": 20_000,
    "shareCapBp": 8_000,
    "expirySeconds": 10_000,
    "maxAucBp": 3_000,
    "minNndrBp": 100,
    "maxDuplicates": 0,
    "minUtilityBp": -500,
    "minReal": [0, 1, 6, 6, 6, 20, 0, 0],
}


def test_a_request_is_reviewed_and_reported(run: Run):
    reviewer = signing.hospital_key(99, FEDERATION_ID, 0)
    with run.open() as ledger:
        domain = ledger.synthetic_domain
        assert ledger.opened().decisions == ZERO
        with pytest.raises(LedgerError, match=r"policy: .*quota"):
            ledger.govern("policy", {name: value for name, value in POLICY.items() if name != "quota"})
        ledger.govern("policy", POLICY)
        assert ledger.govern("policy", POLICY).transaction == ledger.govern("policy", POLICY).transaction
        ledger.govern("reviewer", {"account": signing.address(reviewer), "organisation": b"\x05" * 32})
        request = SyntheticRequest(FEDERATION_ID, 0, 1, 2, 30, 50, b"\x01" * 32, b"\x02" * 32, 1, 1, 0)
        signature = signing.sign(request, domain, run.keys[0])
        asked = ledger.govern("request", request, signature)
        assert asked.id == digest(request, domain)
        assert asked.decisions != ZERO
        with pytest.raises(LedgerError, match="already recorded with other content"):
            ledger.govern("request", request, b"\x01" * 65)
        review = SyntheticReview(asked.id, True, 20, b"\x03" * 32, 0)
        ledger.govern("review", review, signing.sign(review, domain, reviewer), signing.address(reviewer))
        report = SyntheticReport(asked.id, 15, b"\x06" * 32, b"\x07" * 32, 1_000, 500, 0, 10)
        done = ledger.govern("report", report, signing.sign(report, domain, run.keys[0]))
        used = chain.query(
            ledger._open_chain(), domain.contract, "used", FEDERATION_ID, 0, 1, contract="SyntheticLedger"
        )
        assert used == 15
        state, transactions = ledger.request_state(asked.id), ledger.summary()["transactions"]
        entry = replace(run.entry(1, ledger.domain), decisions=done.decisions)
        head = ledger.append(entry).head
    with run.open() as ledger:
        assert ledger.synthetic_domain == domain
        assert ledger.request_state(asked.id) == state
        assert ledger.govern("request", request, signature).transaction == asked.transaction
        assert ledger.summary()["transactions"] == transactions + 1
        assert ledger.opened().decisions == done.decisions
        assert ledger.head == head
        with pytest.raises(LedgerError, match="governance: 'review' does not go with"):
            ledger.govern("review", request, signature)


# --- What a hospital checks -------------------------------------------------------------------------------------------


class Coordinator:
    """Tells hospitals of a ledger that never was: enough for them to check."""

    def __init__(self, run: Run) -> None:
        self.domain = Domain(1, signing.address(COORDINATOR))
        self.headers = [merkle.genesis_header(self.domain, run.federation)]
        address = signing.address(COORDINATOR)
        self.signing = Signing(FEDERATION_ID, CONFIG, self.domain, address, 3, self.headers[0].head)
        self.signers = [Signer(slot, self.signing, 5) for slot in range(3)]

    def round(self, slots: tuple[int, ...] = (0, 1, 2)) -> None:
        """One honest round of some hospitals."""
        leaves = {}
        for slot in slots:
            notice = self.notice(slot)
            self.signers[slot].check(notice)
            _, _, leaves[slot] = self.signers[slot].update(notice, b"\x44" * 32, 10, {})
        self.seal(leaves)

    def seal(self, leaves: dict[int, bytes]) -> None:
        before = self.headers[-1]
        self.leaves = [leaves.get(slot, merkle.EMPTY) for slot in range(3)]
        content = (merkle.root(self.leaves), before.model, before.model, len(leaves), ZERO, ZERO)
        head = merkle.next_head(before.head, self.domain, FEDERATION_ID, before.round + 1, *content)
        self.headers.append(Header(before.round + 1, before.head, *content, head))

    def notice(self, slot: int) -> Notice:
        last = self.headers[-1].round
        paths, receipts = {}, {}
        if last:
            paths = {slot: b"".join(merkle.prove(self.leaves, slot))}
            receipts = {slot: (last, receipt_signature(self.domain, last, slot, self.leaves[slot]))}
        return Notice(self.headers[-1].model, tuple(self.headers[-2:]), paths, receipts)


def test_an_honest_coordinator_gets_every_signature(run: Run):
    there = Coordinator(run)
    for _ in range(3):
        there.round()
    for slot, signer in enumerate(there.signers):
        notice = there.notice(slot)
        signer.check(notice)
        head = RoundHead(FEDERATION_ID, 3, slot, there.headers[3].head)
        assert signing.recover(head, signer.head(notice), there.domain) == signing.address(run.keys[slot])


def forge(header: Header, there: Coordinator, **changes: object) -> Header:
    changed = replace(header, **changes)  # type: ignore[arg-type]
    return replace(changed, head=merkle.header_head(changed, there.domain, FEDERATION_ID))


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
        signer.head(last)
    # Another process of the same hospital that takes up its memory knows what to expect.
    again = Signer(0, there.signing, 5, signer.memory)
    assert again.memory == Memory(1, first[2], there.headers[0].head)
    with pytest.raises(LedgerError, match="the receipt of round 1"):
        again.check(replace(last, receipts={0: (1, b"\x01" * 65)}))
    again.check(last)
    assert again.head(last) == signing.sign(
        RoundHead(FEDERATION_ID, 1, 0, last.headers[-1].head), there.domain, run.keys[0]
    )


def test_the_commitments_of_a_hospital_open_and_tell_nothing_twice(run: Run):
    there = Coordinator(run)
    signed, opening, leaf = there.signers[0].update(there.notice(0), b"\x55" * 32, 10, {"loss": 0.5}, {"noise": 1})
    assert {name: getattr(signed.record, name) for name in ("samples", "metrics", "privacy")} == commitments(opening)
    assert (opening.samples, opening.metrics, opening.privacy) == (10, {"loss": 0.5}, {"noise": 1})
    assert leaf == merkle.update_leaf(signed, there.domain)
    there.seal({0: leaf})
    second, _, _ = there.signers[0].update(there.notice(0), b"\x55" * 32, 10, {"loss": 0.5}, {"noise": 1})
    assert second.record.samples != signed.record.samples
    assert second.record.metrics != signed.record.metrics


# --- A whole run ------------------------------------------------------------------------------------------------------


def test_a_lying_coordinator_stops_the_run_with_hospital_round_and_stage(tiny_config, tmp_path: Path, monkeypatch):
    honest = Hospital.train

    def lied_to(self: Hospital, round: int, params: np.ndarray, notice: Notice) -> object:
        if round == 2 and self.id == 1:
            notice = replace(notice, paths=notice.paths | {1: notice.paths[2]})
        return honest(self, round, params, notice)

    with monkeypatch.context() as patch:
        patch.setattr(Hospital, "train", lied_to)
        with pytest.raises(HospitalError, match=r"hospital 1, round 2, ledger: .*the proof does not lead") as refused:
            run_experiment(tiny_config(**{"ledger.backend": "embedded"}), tmp_path)
    assert (refused.value.hospital, refused.value.round, refused.value.stage) == (1, 2, "ledger")


def test_a_hospital_signs_only_for_the_model_that_it_was_given(tiny_config, tmp_path: Path, monkeypatch):
    honest = Hospital.train
    monkeypatch.setattr(Hospital, "train", lambda self, round, params, notice: honest(self, round, params + 1, notice))
    with pytest.raises(HospitalError, match=r"hospital 0, round 1, ledger: .*the model to start from is not the one"):
        run_experiment(tiny_config(**{"ledger.backend": "embedded"}), tmp_path)


def test_a_run_with_partial_participation_and_keystore(tiny_config, tmp_path: Path, monkeypatch):
    """Hospitals that are away for some rounds check all of them when they come back."""
    monkeypatch.setenv(keys.PASSWORD_VARIABLE, "secret")
    stored = tmp_path / "keys"
    addresses = keys.create_keystore(stored, 3, ("A", "A", "B"), work=2)
    config = tiny_config(
        **{
            "ledger.backend": "embedded",
            "ledger.keystore": str(stored),
            "federation.rounds": 6,
            "federation.participation": 0.5,
        }
    )
    result = run_experiment(config, tmp_path / "run")
    assert result.ledger.cosigned == 3
    rows = read_bundle(tmp_path / "run" / "ledger")["journal/updates.jsonl"]
    rounds = [sorted(row["slot"] for row in rows if row["round"] == n) for n in range(1, 7)]
    assert all(len(slots) == 2 for slots in rounds)
    assert len(set(map(tuple, rounds))) > 1
    federation = json.loads(
        next(r for r in read_bundle(tmp_path / "run" / "ledger")["journal/meta.jsonl"] if r["key"] == "federation")[
            "value"
        ]
    )
    assert federation["hospitals"] == addresses
    assert federation["organisations"][0] == federation["organisations"][1] != federation["organisations"][2]
    plain = run_experiment(config.model_copy(update={"ledger": LedgerConfig(backend="none")}), tmp_path / "plain")
    assert plain.model_hash == result.model_hash


def test_a_checkpoint_without_its_ledger_is_refused(run: Run):
    observer = LedgerObserver(run.ledger_folder, run.federation, LedgerConfig(), actor=False, rounds=5)
    try:
        observer.replay([], 0)
        with pytest.raises(LedgerError, match=r"the checkpoint is after round 3, the ledger in .* ends with round 0"):
            observer.replay([], 3)
    finally:
        observer.abandon()


def test_openings_can_be_erased_and_the_rest_stays(run: Run):
    with run.open() as ledger:
        ledger.append(run.entry(1, ledger.domain))
        connection = ledger._journal._open()
        connection.execute("DELETE FROM openings WHERE slot = 1")
        connection.commit()
    with run.open() as ledger:
        assert ledger.append(run.entry(2, ledger.domain)).head == run.heads(ledger.domain, 2)[2]
        assert merkle.verify(ledger.prove(1, 1).header.root, ledger.prove(1, 1).leaf, 1, 3, ledger.prove(1, 1).siblings)


def test_a_journal_of_an_older_format_is_refused(run: Run):
    with run.open() as ledger:
        connection = ledger._journal._open()
        connection.execute("UPDATE meta SET value = '1' WHERE key = 'format'")
        connection.commit()
    with pytest.raises(LedgerError, match="has format 1, expected 2"):
        run.open()


# --- Keystore ---------------------------------------------------------------------------------------------------------


def test_a_keystore_opens_with_its_password_only(tmp_path: Path, monkeypatch):
    monkeypatch.delenv(keys.PASSWORD_VARIABLE, raising=False)
    with pytest.raises(LedgerError, match=f"a keystore needs a password in {keys.PASSWORD_VARIABLE}"):
        keys.create_keystore(tmp_path, 1)
    addresses = keys.create_keystore(tmp_path, 2, password="open", work=2)
    key = keys.load_key(tmp_path, 1, "open")
    assert signing.address(key) == addresses[1]
    # An independent reader of the standard's format agrees.
    assert Account.decrypt((tmp_path / "hospital-0001.json").read_text(), "open") == key
    assert (tmp_path / "hospital-0001.json").stat().st_mode & 0o77 == 0
    assert keys.read_registry(tmp_path, 2)[0] == tuple(addresses)
    with pytest.raises(LedgerError, match="the password in PULSELEDGER_KEYSTORE_PASSWORD is wrong"):
        keys.load_key(tmp_path, 1, "closed")
    with pytest.raises(LedgerError, match="already holds a keystore"):
        keys.create_keystore(tmp_path, 2, password="open", work=2)
    with pytest.raises(LedgerError, match="names no hospital 2, the run has 3"):
        keys.read_registry(tmp_path, 3)
    with pytest.raises(LedgerError, match=r"cannot read .*hospital-0007\.json"):
        keys.load_key(tmp_path, 7, "open")
    (tmp_path / "hospital-0001.json").write_text("{}")
    with pytest.raises(LedgerError, match="damaged"):
        keys.load_key(tmp_path, 1, "open")


def test_a_keystore_changes_a_key_with_both_signatures(tmp_path: Path):
    domain = Domain(1, signing.address(COORDINATOR))
    before, _ = keys.create_keystore(tmp_path, 2, password="open", work=2)
    change = keys.rotate_key(tmp_path, 0, FEDERATION_ID, domain, 4, password="open", work=2)
    after = signing.address(keys.load_key(tmp_path, 0, "open"))
    assert change == KeyRotation(FEDERATION_ID, 0, before, after, 4)
    [(read, old, new)] = keys.read_rotations(tmp_path)
    assert read == change
    assert [signing.recover(read, s, domain) for s in (old, new)] == [before, after]
    assert keys.read_registry(tmp_path, 2)[0][0] == before  # the registry names the first holders


# --- Bundle -----------------------------------------------------------------------------------------------------------


def read_bundle(folder: Path) -> dict:
    with zipfile.ZipFile(folder / bundle.BUNDLE) as archive:
        assert archive.testzip() is None
        return {
            name: [json.loads(line) for line in archive.read(name).splitlines()]
            if name.endswith(".jsonl")
            else archive.read(name)
            for name in archive.namelist()
        }


def test_the_bundle_holds_everything_and_equal_runs_give_equal_bytes(tiny_config, tmp_path: Path):
    config = tiny_config(**{"ledger.backend": "embedded"})
    result = run_experiment(config, tmp_path / "a")
    again = run_experiment(config, tmp_path / "b")
    whole = (tmp_path / "a" / "ledger" / bundle.BUNDLE).read_bytes()
    assert whole == (tmp_path / "b" / "ledger" / bundle.BUNDLE).read_bytes()
    assert result.ledger.bundle == again.ledger.bundle == hashlib.sha256(whole).hexdigest()
    content = read_bundle(tmp_path / "a" / "ledger")
    manifest = json.loads(content["manifest.json"])
    with zipfile.ZipFile(tmp_path / "a" / "ledger" / bundle.BUNDLE) as archive:
        assert manifest["entries"] == {
            name: hashlib.sha256(archive.read(name)).hexdigest()
            for name in archive.namelist()
            if name != "manifest.json"
        }
    tables = [name for name in content if name.startswith("journal/")]
    assert tables == sorted(tables)
    sizes = {
        name: len(content[f"journal/{name}.jsonl"]) for name in ("updates", "openings", "receipts", "heads", "rounds")
    }
    assert sizes == {"updates": 6, "openings": 6, "receipts": 6, "heads": 3, "rounds": 2}
    assert content["journal/rounds.jsonl"][-1]["head"] == result.ledger.head
    assert "0x" + manifest["result"]["model_hash"] == content["journal/rounds.jsonl"][-1]["model"]
    assert [name for name in content if name.startswith("updates/")] == [
        f"updates/{n:05d}.safetensors" for n in range(3)
    ]
    assert record().schema == 2
