"""Rounds: heads by an independent computation, wrong rounds leave no trace, and nothing is lost or done twice."""

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from simulators import (
    FEDERATION_ID,
    Faults,
    Run,
    other_values,
    receipt_signature,
    reference_annex,
    rule_of,
)

from engine.errors import LedgerError
from engine.ledger.book import Call
from engine.ledger.chain.base import ContractRevert, NodeUnreachable
from engine.ledger.chain.contracts import call_data
from engine.ledger.chain.embedded import EMBEDDED_COORDINATOR, EmbeddedChain
from engine.ledger.format import PHASES, ZERO
from engine.ledger.signing import address, sign
from engine.ledger.subjects.rounds import RoundEntry, close
from engine.ledger.subjects.updates import SignedUpdate, update_leaf
from engine.ledger.trees import EMPTY, verify
from engine.ledger.typed import Domain


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


# --- Appending --------------------------------------------------------------------------------------------------------


def test_seals_follow_the_independent_heads(run: Run):
    with run.open() as ledger:
        heads = run.heads(ledger.domain, 4)
        assert ledger.summary()["head"] == "0x" + heads[0].hex()
        for number in range(1, 5):
            seal = ledger.append(run.entry(number, ledger.domain))
            assert (seal.round, seal.head, seal.count) == (number, heads[number], 3 if number % 2 else 2)
            assert 0 < seal.gas <= 75_000
        summary, seals = ledger.summary(), ledger.rounds.seals
    assert summary["head"] == "0x" + heads[-1].hex()
    assert {k: summary[k] for k in ("backend", "updates", "rounds", "transactions")} == {
        "backend": "embedded",
        "updates": 10,
        "rounds": 4,
        "transactions": 7,
    }
    assert summary["gas_per_round"] == sum(s.gas for s in seals) / 4
    assert summary["gas_total"] > 4 * summary["gas_per_round"]
    assert summary["seconds"] > 0


def test_reopening_gives_the_same_head_contract_and_seals(run: Run):
    with run.open() as ledger:
        for number in (1, 2):
            ledger.append(run.entry(number, ledger.domain))
        before, seals, domain = ledger.summary(), ledger.rounds.seals, ledger.domain
    with run.open() as ledger:
        assert ledger.domain == domain
        assert ledger.rounds.seals == seals
        assert ledger.append(run.entry(1, domain)) == seals[0]
        after = ledger.summary()
        apart = {"seconds": 0, "final_after": 0}  # the chain's time goes on
        assert {**after, **apart} == {**before, **apart}
        assert ledger.append(run.entry(3, domain)).head == run.heads(domain, 3)[3]


def test_what_subjects_name_is_in_the_annex_and_their_rows_in_the_journal(run: Run):
    digests = {"scores": b"\x01" * 32, "decisions": ZERO, "anything new": b"\x02" * 32}
    with run.open() as ledger:
        entry = replace(run.entry(1, ledger.domain), digests=digests, rows={"peers": [(1, 0, 1, 3, 4)]})
        ledger.append(entry)
        assert ledger.rounds.headers[1].annex == reference_annex(digests)
        assert ledger.rounds.digests(1) == {name: digest for name, digest in digests.items() if any(digest)}
        assert [row["name"] for row in ledger.book.store.rows("annexes")] == ["anything new", "scores"]
        assert [tuple(row) for row in ledger.book.store.rows("peers")] == [(1, 0, 1, 3, 4)]
        with pytest.raises(LedgerError, match="already recorded with another annex"):
            ledger.append(run.entry(1, ledger.domain))
    with run.open() as ledger:
        assert ledger.append(entry).head == ledger.head


def test_a_round_that_was_closed_elsewhere_is_taken_as_it_is(run: Run):
    with run.open() as ledger:
        entry, before = run.entry(1, ledger.domain), ledger.rounds.headers[0]
        leaves = {u.record.slot: update_leaf(u, ledger.domain) for u in entry.updates}
        where = (ledger.domain, FEDERATION_ID, 3)
        for message, closed in {
            "hospital 1: the leaf is not the hash of what was signed": close(
                entry, {**leaves, 1: EMPTY}, before, *where
            ),
            "closed after another head than that of round 0": close(
                entry, leaves, replace(before, head=b"\x01" * 32), *where
            ),
        }.items():
            with pytest.raises(LedgerError, match=message):
                ledger.append(entry, closed)
        closed = close(entry, leaves, before, *where)
        assert ledger.append(entry, closed).head == closed.header.head == run.heads(ledger.domain, 1)[1]


@pytest.mark.parametrize("where", ["send", "receipt"])
@pytest.mark.parametrize("reopen", [True, False])
def test_a_crash_between_journal_and_chain_loses_and_doubles_nothing(run: Run, where: str, reopen: bool):
    chain = Faults(EmbeddedChain())
    ledger = run.open(chain=chain)
    domain = ledger.domain
    ledger.append(run.entry(1, domain))
    chain.fail(where, NodeUnreachable("the power went"))
    with pytest.raises(LedgerError, match="the power went"):
        ledger.append(run.entry(2, domain))
    with pytest.raises(LedgerError, match="round 2 is recorded but not sealed"):
        ledger.append(run.entry(3, domain))
    with pytest.raises(LedgerError, match="round 2 is already recorded with another model"):
        ledger.append(replace(run.entry(2, domain), model=b"\x77" * 32))
    chain.heal()
    if reopen:
        ledger.close()
        ledger = run.open()
        assert len(ledger.rounds.seals) == 2
    seal = ledger.append(run.entry(2, domain))
    assert seal.head == run.heads(domain, 2)[2]
    assert ledger.append(run.entry(2, domain)) == seal
    assert ledger.summary()["transactions"] == 5
    ledger.close()


def bad_entries(run: Run, domain: Domain) -> dict[str, RoundEntry]:
    entry = run.entry(1, domain)
    first, second, third = entry.updates

    def signed(hospital: int, key: int | None = None, where: Domain = domain, **changes: Any) -> SignedUpdate:
        changed = replace(entry.updates[hospital].record, **changes)
        return SignedUpdate(changed, sign(changed, where, run.keys[hospital if key is None else key]))

    def with_first(update: SignedUpdate) -> RoundEntry:
        return replace(entry, updates=(update, second, third))

    free = {"slot", "update", "nonce", "deadline"}
    others = {name: value for name, value in other_values(first.record).items() if name not in free}
    return {f"hospital 0: {name} is": with_first(signed(0, **{name: value})) for name, value in others.items()} | {
        "hospital 0: signed by": with_first(signed(0, key=1)),
        "hospital 0: signed by .* for chain": with_first(signed(0, where=replace(domain, chain_id=1))),
        "hospital 0: the signature is not 65": with_first(SignedUpdate(first.record, b"")),
        "hospital 3: there are only 3": with_first(signed(0, slot=3)),
        "sorted by slot": replace(entry, updates=(second, first), openings=entry.openings[1::-1]),
        "one for each hospital": replace(entry, updates=(first, first), openings=entry.openings[:1] * 2),
        "has 0 updates, the quorum is 1": replace(entry, updates=()),
        "has 2 openings for 3 updates": replace(entry, openings=entry.openings[:2]),
        "hospital 0: samples is": replace(entry, openings=(run.opening(2, 0), *entry.openings[1:])),
        "model is not a hash": replace(entry, model=bytes(32)),
        "round 2 cannot follow round 0": run.entry(2, domain),
        "round 1 starts from model": replace(
            entry, parent_model=b"\x88" * 32, updates=tuple(signed(s, parent_model=b"\x88" * 32) for s in range(3))
        ),
    }


def test_every_wrong_round_is_refused_and_leaves_no_trace(run: Run):
    with run.open() as ledger:
        for message, entry in bad_entries(run, ledger.domain).items():
            with pytest.raises(LedgerError, match=message):
                ledger.append(entry)
        assert ledger.summary()["transactions"] == 3
        assert ledger.append(run.entry(1, ledger.domain)).round == 1


def test_a_sealed_round_cannot_be_replaced(run: Run):
    with run.open() as ledger:
        entry = run.entry(1, ledger.domain)
        ledger.append(entry)
        with pytest.raises(LedgerError, match="round 1 is already recorded with another model"):
            ledger.append(replace(entry, model=b"\x77" * 32))
        with pytest.raises(LedgerError, match="round 1 is already recorded with another root"):
            ledger.append(replace(entry, updates=entry.updates[:2], openings=entry.openings[:2]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", b"\x99" * 32),
        ("config_hash", b"\x99" * 32),
        ("genesis_model", b"\x99" * 32),
        ("quorum", 2),
        ("organisations", (b"\x99" * 32,) * 3),
    ],
)
def test_a_journal_of_another_federation_is_refused(run: Run, name: str, value: Any):
    run.open().close()
    run.federation = replace(run.federation, **{name: value})
    with pytest.raises(LedgerError, match=rf"another federation: .*\({name}\)"):
        run.open()


def test_a_journal_of_another_rule_is_refused(run: Run):
    with run.open() as ledger:
        assert ledger.book.store.meta["rule"] == (
            '{"name":"mean/fixed-36","server":{"method":"none"},"weighting":"samples"}'
        )
    assert rule_of("uniform") != rule_of(run.weighting)
    run.weighting = "uniform"
    with pytest.raises(LedgerError, match=r'was written with aggregation rule .*"samples".*, this run has .*"uniform"'):
        run.open()


def test_a_journal_that_the_chain_contradicts_is_refused(run: Run):
    with run.open() as ledger:
        ledger.append(run.entry(1, ledger.domain))
        path = ledger.book.path
    connection = sqlite3.connect(path)
    connection.execute("UPDATE rounds SET head = ?", (b"\x55" * 32,))
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError, match=f"contradict each other: head of round 1 is 0x{'55' * 32}.* and 0x"):
        run.open()


# --- Proofs, receipts, the last head ----------------------------------------------------------------------------------


def test_proofs_show_who_is_in_a_round_and_who_is_not(run: Run):
    with run.open() as ledger:
        for number in (1, 2):  # hospital 1 is away in round 2
            ledger.append(run.entry(number, ledger.domain))
        for number, slot in [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]:
            proof = ledger.rounds.prove(number, slot)
            assert (proof.leaf == EMPTY) == ((number, slot) == (2, 1))
            assert (proof.header.round, proof.header.head) == (number, run.heads(ledger.domain, number)[-1])
            assert verify(proof.header.root, proof.leaf, slot, 3, proof.siblings)
        for number, slot in [(0, 0), (3, 0), (1, 3), (1, -1)]:
            with pytest.raises(LedgerError, match="is not one of"):
                ledger.rounds.prove(number, slot)


def test_receipts_are_the_coordinators_word_for_every_update(run: Run):
    with run.open() as ledger:
        for number in (1, 2):
            ledger.append(run.entry(number, ledger.domain))
        assert list(ledger.rounds.receipts(2)) == [0, 2]
        for slot, signature in ledger.rounds.receipts(1).items():
            leaf = ledger.rounds.prove(1, slot).leaf
            assert signature == receipt_signature(ledger.domain, 1, slot, leaf)
        assert address(EMBEDDED_COORDINATOR) == ledger.opened().coordinator


def test_all_rounds_become_final_in_one_transaction(run: Run):
    with run.open() as ledger:
        for number in (1, 2, 3):
            ledger.append(run.entry(number, ledger.domain))
        before = ledger.summary()["transactions"]
        ledger.rounds.finalize()
        ledger.rounds.finalize()
        assert ledger.summary()["transactions"] == before + 1
        assert [ledger.rounds.status(n) for n in (1, 2, 3)] == ["FINAL"] * 3


def test_a_round_that_was_opened_again_can_be_aborted_again(run: Run):
    """The call is the same as before, what it does is not: the journal keeps both apart, also when it is opened anew."""
    fixed = (FEDERATION_ID, 2, run.model(1))
    with run.open(deadline=6) as ledger:
        contract = ledger.domain.contract
        ledger.append(run.entry(1, ledger.domain))
        for again in range(3):
            with pytest.raises(ContractRevert, match="NothingToAbort"):
                ledger.rounds.abort()
            for account in range(6):  # the clock of this chain moves with its transactions
                ledger.rounds.grant("AUDITOR_ROLE", address(bytes([9 + again, account]) * 16))
            ledger.rounds.abort()
            state = ledger.rounds.state(contract)
            assert PHASES[state["phase"]] == "ABORTED"
            if again < 2:
                data = call_data("openRound", *fixed, ledger.book.chain.time() + 6)
                ledger.book.send(Call("open-round", 2, contract, data))
        sent = [(t.purpose, t.round) for t in ledger.book.transactions]
        assert sent.count(("abort", 2)) == 3
    with run.open(deadline=6) as ledger:
        assert [(t.purpose, t.round) for t in ledger.book.transactions] == sent
        with pytest.raises(ContractRevert, match="NothingToAbort"):
            ledger.rounds.abort()
        assert ledger.append(run.entry(2, ledger.domain)).head == run.heads(ledger.domain, 2)[2]


def test_openings_can_be_erased_and_the_rest_stays(run: Run):
    with run.open() as ledger:
        ledger.append(run.entry(1, ledger.domain))
        with ledger.book.store.connection as connection:
            connection.execute("DELETE FROM openings WHERE slot = 1")
    with run.open() as ledger:
        assert ledger.append(run.entry(2, ledger.domain)).head == run.heads(ledger.domain, 2)[2]
        proof = ledger.rounds.prove(1, 1)
        assert verify(proof.header.root, proof.leaf, 1, 3, proof.siblings)


def test_a_round_without_its_transaction_or_a_transaction_without_its_round_is_damage(run: Run):
    with run.open() as ledger:
        ledger.append(run.entry(1, ledger.domain))
        path = ledger.book.path
    for statement in ("DELETE FROM transactions WHERE purpose = 'seal'", "DELETE FROM rounds"):
        data = path.read_bytes()
        connection = sqlite3.connect(path)
        connection.execute(statement)
        connection.commit()
        connection.close()
        with pytest.raises(LedgerError, match="is damaged: round 1 is not whole"):
            run.open()
        path.write_bytes(data)
