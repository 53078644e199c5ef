"""A book with a subject of its own: everything is told once and in order, whatever breaks in between.

The subject here is the counter of the simulators. It needs no change in book, store or format: tables and purposes are given.
"""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from simulators import CONFIG, COUNTER_CREATION, DOMAIN, FEDERATION_ID, Faults, Run, rule_of

from engine.errors import LedgerError
from engine.ledger.book import Book, Call
from engine.ledger.chain.base import Chain, ContractRevert, NodeUnreachable
from engine.ledger.chain.contracts import call_data
from engine.ledger.chain.embedded import EMBEDDED_AUDITOR, EmbeddedChain
from engine.ledger.config import LedgerConfig
from engine.ledger.delivery import JournalTransaction, Refused
from engine.ledger.format import INTEGER, STUDY, TEXT, Journal, Purpose, Table
from engine.ledger.run import RunLedger
from engine.ledger.subject import Subject

COUNTING = Journal(
    "counts.sqlite",
    7,
    {
        **{name: STUDY.tables[name] for name in ("meta", "transactions")},
        "counts": Table({"number": INTEGER, "why": TEXT}, (("number",),)),
    },
)
PURPOSES = {
    "deploy": Purpose("Counter", "", required=True),
    "count": Purpose("Counter", "count", required=True),
    "ask": Purpose("Counter", "count"),
    "visit": Purpose("Counter", "count", foreign=True),
}


class Counts(Subject):
    """Remembers what the book tells it."""

    def __init__(self, book: Book) -> None:
        self.book, self.told = book, []  # type: ignore[var-annotated]

    def reset(self) -> None:
        self.told.append("reset")

    def settled(self, done: JournalTransaction, live: bool) -> None:
        self.told.append((done.purpose, done.round, live))

    def restored(self) -> None:
        self.told.append("restored")

    def call(self, number: int, purpose: str = "count") -> Call:
        data = number.to_bytes(32, "big")
        return Call(purpose, number, self.book.domain.contract, data, {"counts": [(number, purpose)]})


def opened(folder: Path, chain: Chain | None = None) -> Counts:
    book = Book(folder, COUNTING, PURPOSES, LedgerConfig(), chain=chain)
    if book.is_new:
        book.create({"what": "numbers"}, COUNTER_CREATION, lambda contract: ())
    counts = Counts(book)
    book.keep(counts)
    book.restore()
    return counts


def numbers(counts: Counts) -> list[int]:
    return [row["number"] for row in counts.book.store.rows("counts")]


def test_everything_is_told_in_order_now_and_at_the_next_opening(tmp_path: Path):
    counts = opened(tmp_path)
    for number in (1, 2):
        counts.book.send(counts.call(number))
    first = ["reset", ("deploy", 0, False), "restored"]
    assert counts.told == [*first, ("count", 1, True), ("count", 2, True)]
    counts.book.close()
    again = opened(tmp_path)
    assert again.told == [*first[:-1], ("count", 1, False), ("count", 2, False), "restored"]
    assert again.book.store.meta["what"] == "numbers"
    assert numbers(again) == [1, 2]
    again.book.close()


def test_the_same_content_is_sent_once(tmp_path: Path):
    counts = opened(tmp_path)
    first = counts.book.send(counts.call(1))
    assert counts.book.send(counts.call(1)) == first
    assert [t.seq for t in counts.book.transactions] == [1, 2]
    counts.book.close()


def test_what_the_contract_refuses_is_not_written(tmp_path: Path):
    counts = opened(tmp_path)
    with pytest.raises(ContractRevert):
        counts.book.send(counts.call(5))
    assert numbers(counts) == []
    assert len(counts.book.transactions) == 1
    counts.book.close()


def test_what_is_written_is_sent_before_anything_else_and_a_row_is_there_once(tmp_path: Path):
    chain = Faults(EmbeddedChain())
    counts = opened(tmp_path, chain)
    chain.fail("send", NodeUnreachable("gone"))
    with pytest.raises(LedgerError, match="gone"):
        counts.book.send(counts.call(1))
    assert numbers(counts) == [1]
    with pytest.raises(LedgerError, match="gone"):  # and still is
        counts.book.send(counts.call(2))
    assert numbers(counts) == [1]
    chain.heal()
    counts.book.send(counts.call(2))
    assert counts.told[-2:] == [("count", 1, True), ("count", 2, True)]
    assert numbers(counts) == [1, 2]
    counts.book.close()


def test_only_what_is_required_stops_an_opening(tmp_path: Path):
    """The contract refuses both; nobody asked it before they were written."""
    counts = opened(tmp_path)
    counts.book.write(counts.call(8, "ask"))
    counts.book.finish()
    assert counts.told[-1] == "restored"
    counts.book.close()
    counts = opened(tmp_path)
    counts.book.write(counts.call(9))
    with pytest.raises(Refused, match="the contract refuses to count round 9"):
        counts.book.finish()
    counts.book.close()
    with pytest.raises(Refused, match="the contract refuses to count round 9"):
        opened(tmp_path)


def test_another_accounts_transactions_are_passed_on_each_in_its_place(tmp_path: Path):
    counts = opened(tmp_path)
    early = counts.book.relay(counts.call(2, "visit"), EMBEDDED_AUDITOR)
    counts.book.send(counts.call(1))
    late = counts.book.relay(Call("visit", 2, counts.book.domain.contract, (2).to_bytes(32, "big")), EMBEDDED_AUDITOR)
    assert (early.status, late.status) == (0, 1)
    counts.book.close()
    again = opened(tmp_path)
    assert [t.receipt.status for t in again.book.transactions if t.receipt] == [1, 0, 1, 1]
    again.book.send(again.call(3))
    again.book.close()


def test_a_purpose_that_nobody_knows_is_damage(tmp_path: Path):
    counts = opened(tmp_path)
    counts.book.close()
    connection = sqlite3.connect(counts.book.path)
    connection.execute("UPDATE transactions SET purpose = 'steal'")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError, match="transaction 1 has no known purpose"):
        opened(tmp_path)


# --- The settings of a run --------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("needs a private key", {"backend": "rpc", "url": "http://127.0.0.1:1"}),
        ("ledger.chain_id is 5", {"chain_id": 5}),
        ("the embedded chain deploys its own", {"contract": DOMAIN.contract}),
        ("expected embedded or rpc, found 'none'", {"backend": "none"}),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(run: Run, message: str, settings: dict[str, Any], monkeypatch):
    monkeypatch.delenv("PULSELEDGER_LEDGER_KEY", raising=False)
    config = LedgerConfig(**settings)
    with pytest.raises(LedgerError, match=message):
        RunLedger(run.ledger_folder, run.federation, rule_of(run.weighting), config)
    assert not (run.ledger_folder / "journal.sqlite").exists()
    assert not list(run.ledger_folder.glob("*.key"))


@pytest.mark.parametrize("key", ["contract", "admin", "auditor"])
def test_addresses_are_taken_in_any_case_and_without_quotes(key: str):
    text = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
    for given in (text, text.lower(), "0x" + text[2:].upper(), text[2:].lower(), int(text, 16)):
        assert getattr(LedgerConfig.model_validate({key: given}), key) == text
    for wrong in (text[:-1] + "b", "0x12", "nobody", -1, 2**160):
        with pytest.raises(ValidationError, match=r"address|string"):
            LedgerConfig.model_validate({key: wrong})
    assert LedgerConfig.model_validate({"federation": 42}).federation == "42"


def test_a_journal_of_another_back_end_is_refused_before_anybody_asks_a_node(run: Run):
    run.open().close()
    with pytest.raises(LedgerError, match=r"written with ledger.backend embedded, this run has rpc"):
        run.open(backend="rpc", url="http://127.0.0.1:1")


def test_a_refusal_of_the_contract_is_told_by_name(run: Run):
    with run.open() as ledger:
        data = call_data("openFederation", FEDERATION_ID, CONFIG, CONFIG, CONFIG, 3, 1, 0, 0)
        with pytest.raises(ContractRevert, match=rf"FederationAlreadyOpen\(federation=0x{FEDERATION_ID.hex()}\)"):
            ledger.book.chain.call(ledger.domain.contract, data)
