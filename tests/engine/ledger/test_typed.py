"""Records against an independent library and the contracts' own structs; what is not a record is refused."""

import dataclasses
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from simulators import CONFIG, DOMAIN, FEDERATION_ID, TYPES, Run, other_values, record, report, typed_data

from engine.errors import LedgerError
from engine.ledger.chain.contracts import CONTRACTS, artefact
from engine.ledger.signing import address, hospital_key, recover, sign
from engine.ledger.subjects.closing import HospitalResult, RunClosing
from engine.ledger.subjects.committee import RevealedScores, ScoreCommitment
from engine.ledger.subjects.masks import MaskStep
from engine.ledger.subjects.reputation import PeerScores, Verdicts
from engine.ledger.subjects.updates import Absence, Availability, Erasure, ModelUpdate, Opening
from engine.ledger.typed import (
    Domain,
    Record,
    digest,
    record_from_json,
    record_to_json,
    solidity_name,
    type_string,
    types_of,
)

LIMITS = {
    "bool": (False, True),
    "address": (DOMAIN.contract, "0x" + "00" * 20),
    "bytes32": (b"\x00" * 32, b"\xff" * 32),
}

# For the audit, and for a dispute: no contract takes them as they are.
DISPUTED = {
    MaskStep,
    Absence,
    Availability,
    Erasure,
    HospitalResult,
    PeerScores,
    RevealedScores,
    RunClosing,
    ScoreCommitment,
}


def example(kind: type, largest: bool) -> Record:
    """A record whose fields are all at one end of their ranges."""
    values = {}
    for name, solidity in types_of(kind).items():
        if solidity in LIMITS:
            values[name] = LIMITS[solidity][largest]
        else:
            bits, signed = int(solidity.lstrip("uint")), solidity[0] != "u"
            values[name] = ((1 << bits - signed) - 1) if largest else -(1 << bits - 1) if signed else 0
    return kind(**values)


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_digest_and_signature_equal_those_of_an_independent_library(kind: type, largest: bool):
    given, key = example(kind, largest), hospital_key(1, FEDERATION_ID, 0)
    independent = Account.sign_message(encode_typed_data(full_message=typed_data(given, DOMAIN)), key)
    assert type_string(kind) == TYPES[kind]
    assert digest(given, DOMAIN) == bytes(independent.message_hash)
    signature = sign(given, DOMAIN, key)
    assert signature == bytes(independent.signature)
    assert address(key) == Account.from_key(key).address
    assert recover(given, signature, DOMAIN) == Account.from_key(key).address


def test_every_signed_record_is_known_to_the_contracts_by_the_same_fields():
    """The types of the fields against the structs of the committed builds."""
    structs: dict[str, list[tuple[str, str]]] = {}

    def look(item: dict) -> None:
        if item["type"].startswith("tuple"):
            name = item["internalType"].split(".")[-1].removesuffix("[]")
            structs[name] = [(part["type"], part["name"]) for part in item["components"]]
        for part in item.get("components", []):
            look(part)

    for contract in CONTRACTS:
        for entry in artefact(contract)["abi"]:
            for item in (*entry.get("inputs", ()), *entry.get("outputs", ())):
                look(item)
    for kind in TYPES:
        if kind not in DISPUTED:
            expected = [(solidity, solidity_name(name)) for name, solidity in types_of(kind).items()]
            assert structs[kind.__name__] == expected


def test_no_signed_record_is_forgotten():
    """Those of `TYPES` are all that can be signed; the others are written down only."""
    unsigned = {"Domain", "Header", "Opening", "Verdicts"}
    assert {kind.__name__ for kind in Record.__subclasses__()} == unsigned | {kind.__name__ for kind in TYPES}


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_a_signature_counts_for_one_record_chain_and_contract(kind: type):
    key, given = hospital_key(1, FEDERATION_ID, 0), example(kind, True)
    signature = sign(given, DOMAIN, key)
    for domain in (replace(DOMAIN, chain_id=1), replace(DOMAIN, contract=address(key))):
        assert recover(given, signature, domain) != address(key)
    changes = other_values(given)
    assert set(changes) == {field.name for field in dataclasses.fields(kind)}
    for name, value in changes.items():
        changed = replace(given, **{name: value})
        assert recover(changed, signature, DOMAIN) != address(key), name


def test_records_survive_json_and_pickle(tmp_path: Path):
    run = Run(tmp_path)
    entry = run.entry(1, DOMAIN)
    assert pickle.loads(pickle.dumps(entry)) == entry
    for kind in TYPES:
        for one in (example(kind, False), example(kind, True)):
            assert record_from_json(kind, record_to_json(one)) == one
    for other in (
        run.opening(1, 2),
        replace(run.opening(1, 2), privacy={"noise": 1}),
        Verdicts(3, 0xFFFF, 0x0F0F, 2),
        DOMAIN,
    ):
        assert record_from_json(type(other), record_to_json(other)) == other


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "[" * 100_000, record_to_json(record()).replace("7", '"7"')])
def test_damaged_records_give_one_sentence(text: str):
    with pytest.raises(LedgerError, match="record") as refused:
        record_from_json(ModelUpdate, text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("deadline", -1), ("round", 2**64), ("slot", True), ("update", b"short"), ("nonce", 1.0), ("samples", 100)],
)
def test_records_refuse_wrong_values(name: str, value: object):
    with pytest.raises(LedgerError, match=name):
        record(**{name: value})


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Domain, {"chain_id": 2**256, "contract": DOMAIN.contract}),
        (Domain, {"chain_id": 1, "contract": DOMAIN.contract.lower()}),
        (Opening, {"samples": 1, "samples_salt": CONFIG, "metrics": [], "metrics_salt": CONFIG}),
        (Opening, {"samples": 1, "samples_salt": CONFIG, "metrics": {}, "metrics_salt": CONFIG, "privacy": 0}),
    ],
)
def test_what_is_written_down_only_is_checked_as_well(kind: type, values: dict):
    with pytest.raises(LedgerError):
        kind(**values)


def test_the_first_and_last_value_of_a_signed_number():
    limits = [-(2**15), 2**15 - 1]
    assert [report(CONFIG, 1, utility_bp=number).utility_bp for number in limits] == limits
    for number in (-(2**15) - 1, 2**15):
        with pytest.raises(LedgerError, match="utility_bp"):
            report(CONFIG, 1, utility_bp=number)
