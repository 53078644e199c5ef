"""Hashes, signatures, tree, journal and both chains; numbers are computed again without the engine's code."""

import dataclasses
import hashlib
import itertools
import multiprocessing
import os
import pickle
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from eth_abi import encode
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_keys.datatypes import Signature
from eth_utils import keccak
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import ROOT

from engine.errors import LedgerError
from engine.ledger import archive, chain, journal, merkle, records, signing
from engine.ledger.ledger import Ledger
from engine.ledger.records import (
    ZERO,
    Domain,
    Federation,
    KeyRotation,
    ModelUpdate,
    Opening,
    Receipt,
    Record,
    RoundEntry,
    RoundHead,
    SignedUpdate,
    SyntheticReport,
    SyntheticRequest,
    SyntheticReview,
    Verdicts,
    commitments,
)
from engine.model import vector_hash

LAYOUT = (("conv.weight", (2, 3)), ("bias", (4,)), ("scale", ()))
SIZE = 11
FEDERATION_ID, CONFIG = b"\x11" * 32, b"\x22" * 32
DOMAIN = Domain(1337, "0x9Be9069a4d2Fb9ec284cc4d149b6388A279f4ABa")


def record(**changes: object) -> ModelUpdate:
    values: dict = {"federation": FEDERATION_ID, "round": 1, "slot": 0, "config_hash": CONFIG, "nonce": 7}
    values |= {
        name: bytes([i]) * 32
        for i, name in enumerate(("parent_model", "parent_head", "update", "samples", "metrics", "privacy"), 0x33)
    }
    return ModelUpdate(**{**values, **changes})


@dataclass
class Run:
    """A small federation that can make its rounds again, bit for bit."""

    folder: Path
    hospitals: int = 3
    weighting: str = "samples"

    def __post_init__(self) -> None:
        self.keys = [signing.hospital_key(5, FEDERATION_ID, slot) for slot in range(self.hospitals)]
        self.genesis = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
        self.federation = Federation(
            FEDERATION_ID,
            CONFIG,
            tuple(signing.address(key) for key in self.keys),
            vector_hash(self.genesis, LAYOUT),
            LAYOUT,
            self.weighting,
        )

    @property
    def ledger_folder(self) -> Path:
        return self.folder / "ledger"

    def open(self, **settings: object) -> Ledger:
        return Ledger(self.ledger_folder, self.federation, **settings)  # type: ignore[arg-type]

    def vectors(self, number: int) -> dict[int, np.ndarray]:
        """Updates of a round: hospital 1 is away in even rounds."""
        away = {1} if number % 2 == 0 and self.hospitals > 1 else set()
        return {
            slot: np.random.default_rng([number, slot]).normal(size=SIZE).astype(np.float32)
            for slot in range(self.hospitals)
            if slot not in away
        }

    def samples(self, slot: int) -> int:
        return 100 + 10 * slot

    def params(self, number: int) -> np.ndarray:
        """Parameters after a round, with the definition written out."""
        params = self.genesis
        for earlier in range(1, number + 1):
            weights = {"samples": self.samples, "uniform": lambda slot: 1}.get(self.weighting)
            if weights is None:
                continue
            total, summed = 0, np.zeros(SIZE)
            for slot, vector in sorted(self.vectors(earlier).items()):
                total += weights(slot)
                summed += weights(slot) * vector.astype(np.float64)
            params = (params.astype(np.float64) + summed / total).astype(np.float32)
        return params

    def heads(self, domain: Domain, rounds: int) -> list[bytes]:
        """The chain of heads computed from the rounds alone."""
        registry = reference_root(
            [
                keccak(b"\0" + slot.to_bytes(4, "big") + bytes.fromhex(hospital[2:]) + organisation)
                for slot, (hospital, organisation) in enumerate(
                    zip(self.federation.hospitals, self.federation.organisations, strict=True)
                )
            ]
        )
        where = [domain.chain_id, domain.contract, FEDERATION_ID]
        values = [*where, CONFIG, registry, self.federation.genesis_model, self.hospitals, self.federation.quorum]
        heads = [keccak(encode(["uint256", "address"] + ["bytes32"] * 4 + ["uint256"] * 2, values))]
        for number in range(1, rounds + 1):
            entry = self.entry(number, domain, heads[-1])
            leaves = {u.record.slot: reference_leaf(u, domain) for u in entry.updates}
            root = reference_root([leaves.get(slot, merkle.EMPTY) for slot in range(self.hospitals)])
            types = ["bytes32", "uint256", "address", "bytes32", "uint64"] + ["bytes32"] * 3 + ["uint32"]
            content = [number, root, entry.parent_model, entry.model, len(leaves), ZERO, ZERO]
            heads.append(keccak(encode([*types, "bytes32", "bytes32"], [heads[-1], *where, *content])))
        return heads

    def opening(self, number: int, slot: int) -> Opening:
        salts = [signing.salt(self.keys[slot], FEDERATION_ID, number, purpose) for purpose in (1, 2)]
        return Opening(self.samples(slot), salts[0], {"loss": number / (1 + slot)}, salts[1])

    def entry(self, number: int, domain: Domain, head: bytes | None = None) -> RoundEntry:
        parent = vector_hash(self.params(number - 1), LAYOUT)
        head = self.heads(domain, number - 1)[-1] if head is None else head
        signed, openings = [], []
        for slot, vector in self.vectors(number).items():
            opening = self.opening(number, slot)
            update = ModelUpdate(
                federation=FEDERATION_ID,
                round=number,
                slot=slot,
                parent_model=parent,
                parent_head=head,
                update=vector_hash(vector, LAYOUT),
                config_hash=CONFIG,
                nonce=1000 * number + slot,
                **commitments(opening),
            )
            signed.append(SignedUpdate(update, signing.sign(update, domain, self.keys[slot])))
            openings.append(opening)
        model = vector_hash(self.params(number), LAYOUT)
        return RoundEntry(number, parent, model, tuple(signed), tuple(openings))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


# --- Canonical hashes -------------------------------------------------------------------------------------------------


# --- Records and signatures -------------------------------------------------------------------------------------------


# Written out once more, from the contracts' point of view.
TYPES = {
    ModelUpdate: "ModelUpdate(uint16 schema,bytes32 federation,uint64 round,uint32 slot,bytes32 parentModel,"
    "bytes32 parentHead,bytes32 update,bytes32 samples,bytes32 metrics,bytes32 privacy,bytes32 configHash,uint64 nonce,"
    "uint64 deadline)",
    RoundHead: "RoundHead(bytes32 federation,uint64 round,uint32 slot,bytes32 head)",
    Receipt: "Receipt(bytes32 federation,uint64 round,uint32 slot,bytes32 leaf)",
    KeyRotation: "KeyRotation(bytes32 federation,uint32 slot,address from,address to,uint64 round)",
    SyntheticRequest: "SyntheticRequest(bytes32 federation,uint32 slot,uint8 class_,uint8 generator,uint32 quantity,"
    "uint32 realFloor,bytes32 realCount,bytes32 settings,uint32 policyVersion,uint64 nonce,uint64 deadline)",
    SyntheticReview: "SyntheticReview(bytes32 request,bool approve,uint32 granted,bytes32 reason,uint64 deadline)",
    SyntheticReport: "SyntheticReport(bytes32 request,uint32 generated,bytes32 batch,bytes32 evidence,uint16 aucBp,"
    "uint16 nndrBp,uint32 duplicates,int16 utilityBp)",
}


def typed_data(given: Record, domain: Domain) -> dict:
    def fields(text: str) -> list[dict]:
        return [dict(zip(("type", "name"), pair.split(), strict=True)) for pair in text.split(",")]

    name, inside = TYPES[type(given)].removesuffix(")").split("(")
    values = (getattr(given, attribute) for attribute in records.FIELDS[type(given)])
    return {
        "types": {
            "EIP712Domain": fields("string name,string version,uint256 chainId,address verifyingContract"),
            name: fields(inside),
        },
        "primaryType": name,
        "domain": {
            "name": "PulseLedger",
            "version": "2",
            "chainId": domain.chain_id,
            "verifyingContract": domain.contract,
        },
        "message": {field["name"]: value for field, value in zip(fields(inside), values, strict=True)},
    }


LIMITS = {
    "bool": (False, True),
    "address": (DOMAIN.contract, "0x" + "00" * 20),
    "bytes32": (b"\x00" * 32, b"\xff" * 32),
}


def example(kind: type, largest: bool) -> Record:
    """A record whose fields are all at one end of their ranges."""
    values = {}
    for name, solidity in records.FIELDS[kind].items():
        if solidity in LIMITS:
            values[name] = LIMITS[solidity][largest]
        else:
            bits, signed = int(solidity.lstrip("uint")), solidity[0] != "u"
            values[name] = ((1 << bits - signed) - 1) if largest else -(1 << bits - 1) if signed else 0
    return kind(**values)


def other_values(given: Record) -> dict[str, object]:
    """Another valid value for every field."""
    others: dict[str, object] = {}
    for name, solidity in records.FIELDS[type(given)].items():
        value = getattr(given, name)
        if solidity == "bytes32":
            others[name] = bytes([value[0] ^ 1]) + value[1:]
        elif solidity == "address":
            others[name] = signing.address(signing.hospital_key(9, FEDERATION_ID, len(others)))
        else:
            others[name] = (not value) if solidity == "bool" else value ^ 1
    return others


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_digest_and_signature_equal_those_of_an_independent_library(kind: type, largest: bool):
    given, key = example(kind, largest), signing.hospital_key(1, FEDERATION_ID, 0)
    independent = Account.sign_message(encode_typed_data(full_message=typed_data(given, DOMAIN)), key)
    assert records.type_string(kind) == TYPES[kind]
    assert records.digest(given, DOMAIN) == bytes(independent.message_hash)
    signature = signing.sign(given, DOMAIN, key)
    assert signature == bytes(independent.signature)
    assert signing.address(key) == Account.from_key(key).address
    assert signing.recover(given, signature, DOMAIN) == Account.from_key(key).address


def test_every_signed_record_is_known_to_the_contracts_by_the_same_fields():
    """The field table against the structs of the committed builds."""
    structs: dict[str, list[tuple[str, str]]] = {}

    def look(item: dict) -> None:
        if item["type"].startswith("tuple"):
            name = item["internalType"].split(".")[-1].removesuffix("[]")
            structs[name] = [(part["type"], part["name"]) for part in item["components"]]
        for part in item.get("components", []):
            look(part)

    for contract in chain.CONTRACTS:
        for entry in chain.artefact(contract)["abi"]:
            for item in (*entry.get("inputs", ()), *entry.get("outputs", ())):
                look(item)
    assert set(TYPES) == set(records.FIELDS)
    for kind, fields in records.FIELDS.items():
        if kind is not RoundHead:  # hospitals sign it for each other and for the audit, no contract takes it
            expected = [(solidity, records.solidity_name(name)) for name, solidity in fields.items()]
            assert structs[kind.__name__] == expected


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_a_signature_counts_for_one_record_chain_and_contract(kind: type):
    key, given = signing.hospital_key(1, FEDERATION_ID, 0), example(kind, True)
    signature = signing.sign(given, DOMAIN, key)
    other_contract = replace(DOMAIN, contract=signing.address(key))
    for domain in (replace(DOMAIN, chain_id=1), other_contract):
        assert signing.recover(given, signature, domain) != signing.address(key)
    changes = other_values(given)
    assert set(changes) == {field.name for field in dataclasses.fields(kind)}
    for name, value in changes.items():
        changed = replace(given, **{name: value})
        assert signing.recover(changed, signature, DOMAIN) != signing.address(key), name


def test_malformed_signatures_are_refused():
    given = record()
    signature = signing.sign(given, DOMAIN, signing.hospital_key(1, FEDERATION_ID, 0))
    r, s, v = signature[:32], signature[32:64], signature[64]
    high = (signing.CURVE_ORDER - int.from_bytes(s, "big")).to_bytes(32, "big")
    # The mirrored signature comes from the same key: only the rule of the lower half refuses it.
    digest = records.digest(given, DOMAIN)
    mirrored = Signature(r + high + bytes([28 - v]))
    signer = mirrored.recover_public_key_from_msg_hash(digest).to_checksum_address()
    assert signer == signing.recover(given, signature, DOMAIN)
    cases = {
        "upper half": r + high + bytes([55 - v]),
        "65 bytes": signature[:-1],
        "expected 27 or 28": r + s + bytes([v - 27]),
        "belongs to no key": b"\xff" * 32 + s + bytes([v]),
    }
    for message, damaged in cases.items():
        with pytest.raises(LedgerError, match=message):
            signing.recover(given, damaged, DOMAIN)
    with pytest.raises(LedgerError, match="no key"):
        signing.recover(given, bytes(64) + b"\x1b", DOMAIN)
    with pytest.raises(LedgerError, match="not a valid secp256k1 scalar"):
        signing.sign(given, DOMAIN, bytes(32))


def test_hospital_keys_differ_and_repeat():
    keys = [signing.hospital_key(*args) for args in [(1, b"a", 0), (1, b"a", 1), (1, b"b", 0), (2, b"a", 0)]]
    assert len(set(keys)) == 4
    assert signing.hospital_key(1, b"a", 0) == keys[0]


def test_records_survive_json_and_pickle(run: Run):
    entry = run.entry(1, DOMAIN)
    assert pickle.loads(pickle.dumps(entry)) == entry
    assert pickle.loads(pickle.dumps(run.federation)) == run.federation
    for kind in TYPES:
        for one in (example(kind, False), example(kind, True)):
            assert records.record_from_json(kind, records.record_to_json(one)) == one
    opening, verdicts = run.opening(1, 2), Verdicts(3, 0xFFFF, 0x0F0F, 2)
    assert records.opening_from_json(records.record_to_json(opening)) == opening
    assert records.verdicts_from_json(records.record_to_json(verdicts)) == verdicts
    assert records.federation_from_json(records.federation_to_json(run.federation)) == run.federation
    assert records.domain_from_json(records.domain_to_json(DOMAIN)) == DOMAIN


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", "[" * 100_000, records.record_to_json(record()).replace("7", '"7"')]
)
def test_damaged_records_give_one_sentence(text: str):
    with pytest.raises(LedgerError, match="record"):
        records.record_from_json(ModelUpdate, text)


@pytest.mark.parametrize(
    ("name", "value"),
    [("deadline", -1), ("round", 2**64), ("slot", True), ("update", b"short"), ("nonce", 1.0), ("samples", 100)],
)
def test_records_refuse_wrong_values(name: str, value: object):
    with pytest.raises(LedgerError, match=name):
        record(**{name: value})


def test_federations_refuse_wrong_values(run: Run):
    first = run.federation.hospitals[0]
    for change in (
        {"hospitals": ()},
        {"hospitals": (first, first)},
        {"hospitals": (first.lower(),)},
        {"weighting": "median"},
        {"id": b""},
        {"quorum": 0},
        {"quorum": 4},
        {"organisations": (b"\1" * 32,)},
        {"window": 2**24},
    ):
        with pytest.raises(LedgerError):
            replace(run.federation, **change)  # type: ignore[arg-type]


def test_a_hospital_process_loads_neither_web3_nor_eth_account():
    slow = ("web3", "eth_account", "eth_tester", "eth", "requests")
    code = f"import sys, engine.ledger.signing; print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- Tree -------------------------------------------------------------------------------------------------------------


def reference_root(leaves: list[bytes]) -> bytes:
    """The tree written as a recursion from the top, unlike the engine's level by level."""
    size = 1
    while size < len(leaves):
        size *= 2
    empty = keccak(b"\x02PulseLedger empty slot")

    def node(start: int, width: int) -> bytes:
        if width == 1:
            return leaves[start] if start < len(leaves) else empty
        half = width // 2
        return keccak(b"\x01" + node(start, half) + node(start + half, half))

    return node(0, size)


trees = st.lists(st.one_of(st.binary(min_size=32, max_size=32), st.just(merkle.EMPTY)), min_size=1, max_size=40)


@settings(deadline=None, max_examples=60)
@given(trees, st.data())
def test_proofs_show_presence_and_absence_in_one_position(leaves: list[bytes], data: st.DataObject):
    root = merkle.root(leaves)
    assert root == reference_root(leaves)
    slot = data.draw(st.integers(0, len(leaves) - 1))
    proof = merkle.prove(leaves, slot)
    assert merkle.verify(root, leaves[slot], slot, len(leaves), proof)
    other_leaf = data.draw(st.binary(min_size=32, max_size=32).filter(lambda leaf: leaf != leaves[slot]))
    assert not merkle.verify(root, other_leaf, slot, len(leaves), proof)
    assert not merkle.verify(root, leaves[slot], len(leaves), len(leaves), proof)
    assert not merkle.verify(root, leaves[slot], slot, len(leaves), [*proof, merkle.EMPTY])
    for other in range(len(leaves)):
        if leaves[other] != leaves[slot]:
            assert not merkle.verify(root, leaves[slot], other, len(leaves), merkle.prove(leaves, other))
            assert not merkle.verify(root, leaves[slot], other, len(leaves), proof)


@settings(deadline=None, max_examples=40)
@given(trees, st.data())
def test_any_other_leaf_gives_another_root(leaves: list[bytes], data: st.DataObject):
    slot = data.draw(st.integers(0, len(leaves) - 1))
    changed = list(leaves)
    changed[slot] = data.draw(st.binary(min_size=32, max_size=32).filter(lambda leaf: leaf != leaves[slot]))
    assert merkle.root(changed) != merkle.root(leaves)


def reference_leaf(signed: SignedUpdate, domain: Domain) -> bytes:
    message = encode_typed_data(full_message=typed_data(signed.record, domain))
    digest = keccak(b"\x19" + message.version + message.header + message.body)
    return keccak(b"\0\0\2" + signed.record.slot.to_bytes(4, "big") + digest + signed.signature)


def test_leaf_and_registry_are_the_written_out_ones(run: Run):
    signed = run.entry(1, DOMAIN, ZERO).updates[2]
    assert merkle.update_leaf(signed, DOMAIN) == reference_leaf(signed, DOMAIN)
    leaves = merkle.registry_leaves(run.federation)
    assert merkle.registry_root(run.federation) == reference_root(leaves)
    with pytest.raises(LedgerError, match="at least one slot"):
        merkle.root([])
    with pytest.raises(LedgerError, match="slot 3"):
        merkle.prove(leaves, 3)


def test_commitments_are_the_written_out_ones(run: Run):
    key, opening = run.keys[1], run.opening(1, 1)
    text = b"PulseLedger salt 1" + key + FEDERATION_ID + b"\0\0\0\0\0\0\0\1"
    assert (opening.samples_salt, opening.metrics_salt) == (keccak(text + b"\1"), keccak(text + b"\2"))
    found = commitments(opening)
    assert found["samples"] == keccak(encode(["bytes32", "uint256"], [opening.samples_salt, 110]))
    metrics = hashlib.sha256(b'{"loss":0.5}').digest()
    assert found["metrics"] == keccak(encode(["bytes32", "bytes32"], [opening.metrics_salt, metrics]))
    assert found["privacy"] == ZERO
    privacy = commitments(replace(opening, privacy={"noise": 1}))["privacy"]
    assert privacy == hashlib.sha256(b'{"noise":1}').digest()


def test_the_ladder_of_real_counts():
    ladder = [0, 1, 2, 6, 10, 20, 30, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000]
    for below, step in itertools.pairwise(ladder):
        assert (records.real_floor(step), records.real_floor(step - 1)) == (step, below)


def test_verdicts_tree_by_hand():
    three = [Verdicts(index, 7, 5, 2) for index in range(3)]
    types = ["uint64", "uint32", "uint16", "uint16", "uint16"]
    a, b, c = (keccak(keccak(encode(types, [9, index, 7, 5, 2]))) for index in range(3))
    pair = keccak(min(a, b) + max(a, b))
    assert merkle.scores_root(9, three) == keccak(min(pair, c) + max(pair, c))
    levels = merkle.scores_levels(9, three)
    assert [merkle.paired_path(levels, i) for i in range(3)] == [[b, c], [a, c], [pair]]
    assert merkle.scores_root(9, []) == ZERO


# --- Ledger -----------------------------------------------------------------------------------------------------------


def test_seals_follow_the_independent_heads(run: Run):
    with run.open() as ledger:
        heads = run.heads(ledger.domain, 4)
        assert ledger.summary()["head"] == "0x" + heads[0].hex()
        for number in range(1, 5):
            seal = ledger.append(run.entry(number, ledger.domain))
            assert (seal.round, seal.head, seal.count) == (number, heads[number], 3 if number % 2 else 2)
            assert 0 < seal.gas <= 75_000
        summary = ledger.summary()
    assert summary["head"] == "0x" + heads[-1].hex()
    assert {k: summary[k] for k in ("backend", "updates", "rounds", "transactions")} == {
        "backend": "embedded",
        "updates": 10,
        "rounds": 4,
        "transactions": 7,
    }
    assert summary["gas_per_round"] == sum(s.gas for s in ledger.seals()) / 4
    assert summary["gas_total"] > 4 * summary["gas_per_round"]
    assert summary["seconds"] > 0


def test_reopening_gives_the_same_head_contract_and_seals(run: Run):
    with run.open() as ledger:
        for number in (1, 2):
            ledger.append(run.entry(number, ledger.domain))
        before, seals, domain = ledger.summary(), ledger.seals(), ledger.domain
    with run.open() as ledger:
        assert ledger.domain == domain
        assert ledger.seals() == seals
        assert ledger.append(run.entry(1, domain)) == seals[0]
        after = ledger.summary()
        assert {**after, "seconds": 0} == {**before, "seconds": 0}
        assert ledger.append(run.entry(3, domain)).head == run.heads(domain, 3)[3]


def break_off(*arguments: object) -> None:
    raise OSError("the power went")


@pytest.mark.parametrize("where", ["send", "receipt"])
@pytest.mark.parametrize("reopen", [True, False])
def test_a_crash_between_journal_and_chain_loses_and_doubles_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, where: str, reopen: bool
):
    ledger = run.open()
    domain = ledger.domain
    ledger.append(run.entry(1, domain))
    target = (chain.EmbeddedChain, "send") if where == "send" else (journal.Journal, "set_receipt")
    with monkeypatch.context() as patch:
        patch.setattr(*target, break_off)
        with pytest.raises(OSError, match="the power went"):
            ledger.append(run.entry(2, domain))
        with pytest.raises(LedgerError, match="round 2 is recorded but not sealed"):
            ledger.append(run.entry(3, domain))
        with pytest.raises(LedgerError, match="round 2 is already recorded with another model"):
            ledger.append(replace(run.entry(2, domain), model=b"\x77" * 32))
    if reopen:
        ledger.close()
        ledger = run.open()
        assert len(ledger.seals()) == 2
    seal = ledger.append(run.entry(2, domain))
    assert seal.head == run.heads(domain, 2)[2]
    assert ledger.append(run.entry(2, domain)) == seal
    assert ledger.summary()["transactions"] == 5
    ledger.close()


def test_a_crash_while_the_journal_is_created_leaves_nothing(run: Run, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", break_off)
        with pytest.raises(LedgerError):
            run.open()
    assert not (run.ledger_folder / "journal.sqlite").exists()
    run.open().close()


def bad_entries(run: Run, domain: Domain) -> dict[str, RoundEntry]:
    entry = run.entry(1, domain)
    first, second, third = entry.updates

    def signed(hospital: int, key: int | None = None, where: Domain = domain, **changes: object) -> SignedUpdate:
        changed = replace(entry.updates[hospital].record, **changes)  # type: ignore[arg-type]
        return SignedUpdate(changed, signing.sign(changed, where, run.keys[hospital if key is None else key]))

    def with_first(update: SignedUpdate) -> RoundEntry:
        return replace(entry, updates=(update, second, third))

    bound = set(records.FIELDS[ModelUpdate]) - {"slot", "update", "nonce", "deadline"}
    others = {name: value for name, value in other_values(first.record).items() if name in bound}
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
        ("weighting", "uniform"),
        ("quorum", 2),
        ("organisations", (b"\x99" * 32,) * 3),
    ],
)
def test_a_journal_of_another_federation_is_refused(run: Run, name: str, value: object):
    run.open().close()
    run.federation = replace(run.federation, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(LedgerError, match=rf"another federation: .*\({name}\)"):
        run.open()


def test_a_journal_that_the_chain_contradicts_is_refused(run: Run):
    with run.open() as ledger:
        ledger.append(run.entry(1, ledger.domain))
    path = run.ledger_folder / "journal.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("UPDATE rounds SET head = ?", (b"\x55" * 32,))
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError, match=f"contradict each other: head of round 1 is 0x{'55' * 32}.* and 0x"):
        run.open()


def test_settings_that_cannot_be_meant_are_refused(run: Run):
    for message, given_settings in {
        "expected embedded or rpc, found 'fabric'": {"backend": "fabric"},
        "needs ledger.url": {"backend": "rpc"},
        "ledger.chain_id is 5": {"chain_id": 5},
        "the embedded chain deploys its own": {"contract": DOMAIN.contract},
        "not an address": {"contract": "0x12"},
    }.items():
        with pytest.raises(LedgerError, match=message):
            run.open(**given_settings)
    assert not (run.ledger_folder / "journal.sqlite").exists()
    run.open().close()
    with pytest.raises(LedgerError, match=r"written with ledger.backend embedded, this run has rpc"):
        run.open(backend="rpc", url="http://127.0.0.1:1")


# --- Journal ----------------------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_and_told_who_writes(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journal, "LOCK_SECONDS", 0.2)
    with run.open(), pytest.raises(LedgerError, match=f"process {os.getpid()} is writing the journal"):
        run.open()
    run.open().close()


def hold(folder: Path, ready: "multiprocessing.synchronize.Event") -> None:
    journal.Journal(folder)
    ready.set()
    time.sleep(60)


def test_a_killed_writer_leaves_no_lock(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journal, "LOCK_SECONDS", 0.2)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(run.ledger_folder, ready))
    process.start()
    assert ready.wait(30)
    with pytest.raises(LedgerError, match=f"process {process.pid} is writing"):
        run.open()
    process.kill()
    process.join(10)
    run.open().close()


@pytest.mark.parametrize("damage", ["cut", "zeros", "text", "empty"])
def test_a_damaged_journal_gives_one_sentence(run: Run, damage: str):
    with run.open() as ledger:
        ledger.append(run.entry(1, ledger.domain))
    path = run.ledger_folder / "journal.sqlite"
    data = path.read_bytes()
    damaged = {
        "cut": data[: len(data) // 2],
        "zeros": data[:4096] + bytes(len(data) - 4096),
        "text": b"not a database" * 100,
        "empty": b"",
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(LedgerError, match=r"the journal .*journal\.sqlite is damaged") as refused:
        run.open()
    assert "\n" not in str(refused.value)


def append_many(ledger: Ledger, run: Run, first: int, last: int) -> None:
    for number in range(first, last + 1):
        ledger.append(run.entry(number, ledger.domain))


def test_a_full_disk_gives_one_sentence_and_keeps_what_was_sealed(run: Run):
    ledger = run.open()
    ledger.append(run.entry(1, ledger.domain))
    connection = ledger._journal._open()
    [pages] = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LedgerError, match="cannot be written: the disk is full"):
        append_many(ledger, run, 2, 60)
    sealed = len(ledger.seals())
    assert ledger.append(run.entry(1, ledger.domain)).round == 1
    ledger.close()
    with run.open() as ledger:
        # A receipt that found no room is written on opening, so there may be one more.
        assert sealed <= len(ledger.seals()) <= sealed + 1


# --- Archive ----------------------------------------------------------------------------------------------------------


def test_archive_round_trip(run: Run):
    archive.write_genesis(run.folder, run.genesis)
    path = archive.write_round(run.folder, 2, run.vectors(2))
    assert path == run.folder / "updates" / "00002.safetensors"
    np.testing.assert_array_equal(archive.read_genesis(run.folder), run.genesis)
    vectors = archive.read_round(run.folder, 2)
    assert list(vectors) == [0, 2]
    for slot, vector in run.vectors(2).items():
        np.testing.assert_array_equal(vectors[slot], vector)
    assert sorted(p.name for p in path.parent.iterdir()) == ["00000.safetensors", "00002.safetensors"]
    with pytest.raises(LedgerError, match=r"00003\.safetensors is missing"):
        archive.read_round(run.folder, 3)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(LedgerError, match=r"00002\.safetensors is damaged"):
        archive.read_round(run.folder, 2)
    with pytest.raises(LedgerError, match="expected flat float32"):
        archive.write_round(run.folder, 3, {0: np.zeros(3)})


# --- Chains -----------------------------------------------------------------------------------------------------------


def test_the_embedded_chain_refuses_another_chain_id_though_its_machine_does_not():
    embedded = chain.EmbeddedChain()
    raw = chain.sign_transaction(chain._EMBEDDED_KEY, 1, 0, None, b"", 100_000, 0, 10**10)
    with pytest.raises(LedgerError, match="signed for chain 1, the embedded chain is"):
        embedded.send(raw)
    assert embedded.receipt(keccak(raw)) is None
    raw = embedded.sign(None, b"", 100_000)
    embedded.send(raw)
    with pytest.raises(LedgerError, match="does not take the transaction"):
        embedded.send(raw)
    with pytest.raises(LedgerError, match="not a signed transaction"):
        embedded.send(b"\x02nonsense")


def test_a_refusal_of_the_contract_is_told_by_name(run: Run):
    with run.open() as ledger:
        data = chain.call_data("openFederation", FEDERATION_ID, CONFIG, CONFIG, CONFIG, 3, 1, 0)
        with pytest.raises(chain.ContractRevert, match=rf"FederationAlreadyOpen\(federation=0x{FEDERATION_ID.hex()}\)"):
            ledger._open_chain().call(ledger.domain.contract, data)


def test_an_unreachable_node_is_told_in_one_sentence_and_soon(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(chain.KEY_VARIABLE, "07" * 32)
    # One port refuses, the other accepts and never answers.
    with socket.socket() as closed, socket.socket() as silent:
        closed.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for listener in (closed, silent):
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            started = time.monotonic()
            with pytest.raises(LedgerError, match=f"no Ethereum node answers at {url}") as refused:
                run.open(backend="rpc", url=url.replace("//", "//user:secret@"))
            assert time.monotonic() - started < 6
            assert "\n" not in str(refused.value)
            assert "secret" not in str(refused.value)
    with pytest.raises(LedgerError, match="not an http or https address"):
        run.open(backend="rpc", url="localhost:8545")


def test_the_key_comes_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(chain.KEY_VARIABLE, raising=False)
    with pytest.raises(LedgerError, match="needs a private key"):
        chain.read_key(None)
    file = tmp_path / "key"
    file.write_text("0x" + "07" * 32 + "\n")
    assert chain.read_key(file) == b"\x07" * 32
    file.write_text("0x" + "00" * 32)
    with pytest.raises(LedgerError, match="does not hold a private key") as refused:
        chain.read_key(file)
    assert "0000" not in str(refused.value)
    with pytest.raises(LedgerError, match="cannot be read"):
        chain.read_key(tmp_path / "absent")
    monkeypatch.setenv(chain.KEY_VARIABLE, "08" * 32)
    assert chain.read_key(file) == b"\x08" * 32
