"""A proof as a file: it holds by itself, and no change of it does."""

import copy
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from simulators import Run

from engine.encoding import canonical_json, hexed, keccak, read_json, unhexed
from engine.errors import LedgerError
from engine.ledger import proofs
from engine.ledger.chain.embedded import EMBEDDED_COORDINATOR
from engine.ledger.keyfiles import read_document
from engine.ledger.signing import address
from engine.ledger.subjects.updates import Header, head_of
from engine.ledger.trees import EMPTY
from engine.ledger.typed import Domain, record_from_json, record_to_json


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two rounds; hospital 1 is away in the second."""
    run = Run(tmp_path_factory.mktemp("run"))
    with run.open() as ledger:
        for number in (1, 2):
            ledger.append(run.entry(number, ledger.domain))
    return run


def test_a_proof_shows_an_update_and_its_absence(kept: Run):
    before = {path.name: path.read_bytes() for path in kept.ledger_folder.iterdir()}
    with kept.open() as ledger:
        domain, headers = ledger.domain, ledger.rounds.headers
    for number, slot in [(1, 0), (1, 1), (2, 1), (2, 2)]:
        found = proofs.check(proofs.prove(kept.ledger_folder, number, slot))
        assert (found.round, found.slot, found.head) == (number, slot, headers[number].head)
        if (number, slot) == (2, 1):
            assert (found.update, found.signer, found.promised_by) == (None, "", "")
            continue
        assert found.update in kept.entry(number, domain, headers[number - 1].head).updates
        assert (found.signer, found.promised_by) == (address(kept.keys[slot]), address(EMBEDDED_COORDINATOR))
    assert before.keys() == {path.name for path in kept.ledger_folder.iterdir()}


def leaves(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all values in a document."""
    return [p for k, v in value.items() for p in leaves(v, (*place, k))] if isinstance(value, dict) else [place]


def changed(document: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    copied = copy.deepcopy(document)
    inside = copied
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    return copied


def test_no_change_of_a_proof_holds(kept: Run):
    """Every value of the document, by another of its type; what signatures say is told by whose they then are."""
    document = proofs.prove(kept.ledger_folder, 1, 0)
    honest = proofs.check(document)
    assert len(leaves(document)) == 7 + 2 + 8 + 13
    for place in leaves(document):
        value: Any = document
        for key in place:
            value = value[key]
        others = (
            [value + 1, -1] if isinstance(value, int) else [value[:-1] + ("0" if value[-1] != "0" else "1"), "0x", "x"]
        )
        for other in [*others, None, [], True]:
            with suppress(LedgerError):
                found = proofs.check(changed(document, place, other))
                # only a receipt by somebody else, or none, leaves the rest as it was
                assert place == ("receipt",)
                assert found.promised_by != honest.promised_by


@pytest.mark.parametrize("document", [None, 3, [], {}, {"format": 2}, {"format": 1}])
def test_what_is_no_proof_gives_one_sentence(document: Any):
    with pytest.raises(LedgerError) as refused:
        proofs.check(document)
    assert "\n" not in str(refused.value)


def test_an_empty_slot_cannot_be_given_an_update_or_the_other_way_round(kept: Run):
    absent, present = proofs.prove(kept.ledger_folder, 2, 1), proofs.prove(kept.ledger_folder, 2, 0)
    with pytest.raises(LedgerError, match="leaf is not the hash"):
        proofs.check({**absent, "update": present["update"], "signature": present["signature"]})
    with pytest.raises(LedgerError, match="path does not lead"):
        proofs.check({**present, "update": None, "signature": None, "leaf": hexed(EMPTY)})


def test_an_update_in_another_slot_than_its_own_is_told(kept: Run):
    """A coordinator that puts the update of hospital 0 where hospital 1 belongs, under a head that follows."""
    document = proofs.prove(kept.ledger_folder, 1, 0)
    first, second = (unhexed(document["siblings"])[i : i + 32] for i in (0, 32))
    root = keccak(b"\x01" + keccak(b"\x01" + first + unhexed(document["leaf"])) + second)
    header = replace(record_from_json(Header, canonical_json(document["header"])), root=root)
    domain = record_from_json(Domain, canonical_json(document["domain"]))
    header = replace(header, head=head_of(header, domain, unhexed(document["federation"])))
    with pytest.raises(LedgerError, match="slot of the signed update is not that of the proof"):
        proofs.check({**document, "slot": 1, "header": read_json(record_to_json(header))})


def test_rounds_and_hospitals_that_are_not_there(kept: Run, tmp_path: Path):
    for number, slot, message in [
        (0, 0, "round 0 is not one of the 2 rounds"),
        (3, 0, "round 3"),
        (1, 3, "hospital 3"),
    ]:
        with pytest.raises(LedgerError, match=message):
            proofs.prove(kept.ledger_folder, number, slot)
    with pytest.raises(LedgerError, match="there is no journal"):
        proofs.prove(tmp_path, 1, 0)


def test_a_signed_update_travels_as_a_file(kept: Run, tmp_path: Path):
    with kept.open() as ledger:
        signed = kept.entry(3, ledger.domain, ledger.head).updates[0]
    proofs.write(tmp_path / "update.json", proofs.update_document(signed))
    assert proofs.signed_update(read_document(tmp_path / "update.json")) == signed
    with pytest.raises(LedgerError, match="there is no signed update"):
        proofs.signed_update({"update": None})
