"""Keys and signatures: malformed ones are refused, keys repeat, and a hospital's process stays light."""

import subprocess
import sys

import pytest
from eth_keys.datatypes import Signature
from reference import ROOT
from simulators import DOMAIN, FEDERATION_ID, record

from engine.errors import LedgerError
from engine.ledger.signing import CURVE_ORDER, hospital_key, recover, sign
from engine.ledger.typed import digest


def test_malformed_signatures_are_refused():
    given = record()
    signature = sign(given, DOMAIN, hospital_key(1, FEDERATION_ID, 0))
    r, s, v = signature[:32], signature[32:64], signature[64]
    high = (CURVE_ORDER - int.from_bytes(s, "big")).to_bytes(32, "big")
    # The mirrored signature comes from the same key: only the rule of the lower half refuses it.
    mirrored = Signature(r + high + bytes([28 - v]))
    signer = mirrored.recover_public_key_from_msg_hash(digest(given, DOMAIN)).to_checksum_address()
    assert signer == recover(given, signature, DOMAIN)
    cases = {
        "upper half": r + high + bytes([55 - v]),
        "65 bytes": signature[:-1],
        "expected 27 or 28": r + s + bytes([v - 27]),
        "belongs to no key": b"\xff" * 32 + s + bytes([v]),
        "no key": bytes(64) + b"\x1b",
    }
    for message, damaged in cases.items():
        with pytest.raises(LedgerError, match=message):
            recover(given, damaged, DOMAIN)
    with pytest.raises(LedgerError, match="not a valid secp256k1 scalar"):
        sign(given, DOMAIN, bytes(32))


def test_hospital_keys_differ_and_repeat():
    keys = [hospital_key(*args) for args in [(1, b"a", 0), (1, b"a", 1), (1, b"b", 0), (2, b"a", 0)]]
    assert len(set(keys)) == 4
    assert hospital_key(1, b"a", 0) == keys[0]


def test_a_hospital_process_loads_neither_web3_nor_eth_account():
    slow = ("web3", "eth_account", "eth_tester", "eth", "requests")
    code = f"import sys, engine.ledger.signer; print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
