"""Commitments, leaves and heads by hand."""

import hashlib
from dataclasses import replace
from pathlib import Path

from eth_abi import encode
from eth_utils import keccak
from simulators import DOMAIN, FEDERATION_ID, Run, reference_leaf

from engine.ledger.format import ZERO
from engine.ledger.subjects.updates import Header, commitments, head_of, update_leaf


def test_a_leaf_is_the_written_out_one(tmp_path: Path):
    signed = Run(tmp_path).entry(1, DOMAIN, ZERO).updates[2]
    assert update_leaf(signed, DOMAIN) == reference_leaf(signed, DOMAIN)


def test_commitments_are_the_written_out_ones(tmp_path: Path):
    run = Run(tmp_path)
    key, opening = run.keys[1], run.opening(1, 1)
    text = b"PulseLedger salt 1" + key + FEDERATION_ID + b"\0\0\0\0\0\0\0\1"
    assert (opening.samples_salt, opening.metrics_salt) == (keccak(text + b"\1"), keccak(text + b"\2"))
    found = commitments(opening)
    assert found["samples"] == keccak(encode(["bytes32", "uint256"], [opening.samples_salt, 110]))
    metrics = hashlib.sha256(b'{"gradient_evaluations":11,"loss":0.5}').digest()
    assert found["metrics"] == keccak(encode(["bytes32", "bytes32"], [opening.metrics_salt, metrics]))
    assert found["privacy"] == ZERO
    privacy = commitments(replace(opening, privacy={"noise": 1}))["privacy"]
    said = hashlib.sha256(b'{"noise":1}').digest()
    assert privacy == keccak(encode(["bytes32", "uint64[2]"], [said, [0, 0]]))


def test_a_head_is_the_written_out_one():
    words = {
        name: bytes([i]) * 32 for i, name in enumerate(("previous_head", "root", "parent_model", "model", "annex"), 1)
    }
    header = Header(round=7, count=2, **words)
    types = ["bytes32", "uint256", "address", "bytes32", "uint64", "bytes32", "bytes32", "bytes32", "uint32", "bytes32"]
    models = (words["root"], words["parent_model"], words["model"])
    values = [words["previous_head"], DOMAIN.chain_id, DOMAIN.contract, FEDERATION_ID, 7, *models, 2, words["annex"]]
    assert head_of(header, DOMAIN, FEDERATION_ID) == keccak(encode(types, values))
