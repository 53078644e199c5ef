"""Who is who: federations that cannot be, the registry's tree, and hospitals that change their keys."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from simulators import FEDERATION_ID, Run, reference_root

from engine.errors import LedgerError
from engine.ledger.signing import hospital_key
from engine.ledger.subjects.registry import (
    federation_from_json,
    federation_to_json,
    registry_leaves,
    registry_root,
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_federations_refuse_wrong_values(run: Run):
    first = run.federation.hospitals[0]
    changes: tuple[dict[str, Any], ...] = (
        {"hospitals": ()},
        {"hospitals": (first, first)},
        {"hospitals": (first.lower(),)},
        {"id": b""},
        {"quorum": 0},
        {"quorum": 4},
        {"organisations": (b"\1" * 32,)},
        {"window": 2**24},
    )
    for change in changes:
        with pytest.raises(LedgerError):
            replace(run.federation, **change)


def test_a_federation_survives_json_and_pickle(run: Run):
    assert pickle.loads(pickle.dumps(run.federation)) == run.federation
    text = federation_to_json(run.federation)
    assert federation_from_json(text) == run.federation
    for damaged in (
        "",
        "{}",
        text.replace('"quorum":1', '"quorum":"1"'),
        text.replace('"0x', '"'),
        text[:-1] + ',"x":1}',
    ):
        with pytest.raises(LedgerError) as refused:
            federation_from_json(damaged)
        assert "\n" not in str(refused.value)


def test_the_registry_is_the_written_out_tree(run: Run):
    assert registry_root(run.federation) == reference_root(registry_leaves(run.federation))
    assert len(set(registry_leaves(run.federation))) == 3


def test_a_hospital_changes_its_key_with_both_keys(run: Run):
    key = hospital_key(77, FEDERATION_ID, 1)
    with run.open() as ledger:
        domain = ledger.domain
        for number in (1, 2):  # hospital 1 takes part in odd rounds only
            ledger.append(run.entry(number, domain))
        signed = run.rotation(1, key, 3, domain)
        with pytest.raises(LedgerError, match="rotation of hospital 1: old key: signed by"):
            ledger.rotate(replace(signed, old=signed.new))
        with pytest.raises(LedgerError, match="rotation of hospital 1: new key: signed by"):
            ledger.rotate(replace(signed, new=signed.old))
        with pytest.raises(LedgerError, match="it is for round 2, the next one is round 3"):
            ledger.rotate(run.rotation(1, key, 2, domain))
        with pytest.raises(LedgerError, match="already holds a slot"):
            ledger.rotate(run.rotation(1, run.keys[0], 3, domain))
        for _ in range(2):
            ledger.rotate(signed)
        change = signed.record
        assert ledger.summary()["transactions"] == 6
        assert [ledger.registry.holder(1, n) for n in (2, 3)] == [change.from_, change.to]
        with pytest.raises(LedgerError, match=f"it leaves {change.from_}, the slot is held by {change.to}"):
            ledger.rotate(run.rotation(1, hospital_key(78, FEDERATION_ID, 1), 3, domain))
    with run.open() as ledger:
        with pytest.raises(LedgerError, match=f"round 3, hospital 1: signed by {change.from_}"):
            ledger.append(run.entry(3, domain))
        head, run.keys[1] = ledger.head, key
        assert ledger.append(run.entry(3, domain, head)).round == 3
        proof = ledger.registry.membership(1)
        for account, holds in [(change.from_, False), (change.to, True)]:
            asked = ("RoundLedger", domain.contract, "isHospital", FEDERATION_ID, 1, account, *proof)
            assert ledger.book.query(*asked) == holds
        with pytest.raises(LedgerError, match="there is no hospital 3"):
            ledger.registry.membership(3)
