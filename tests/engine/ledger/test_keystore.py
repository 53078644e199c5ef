"""Keys that are drawn: they open with their password, belong to their owner only, and change with both signatures."""

from pathlib import Path

import pytest
from eth_account import Account
from simulators import FEDERATION_ID

from engine.errors import LedgerError
from engine.ledger import keystore
from engine.ledger.chain.embedded import EMBEDDED_COORDINATOR
from engine.ledger.keyfiles import PASSWORD_VARIABLE
from engine.ledger.signing import address, recover
from engine.ledger.subjects.registry import KeyRotation
from engine.ledger.typed import Domain


def test_a_keystore_opens_with_its_password_only(tmp_path: Path, monkeypatch):
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    with pytest.raises(LedgerError, match=f"a keystore needs a password in {PASSWORD_VARIABLE}"):
        keystore.create_keystore(tmp_path, 1)
    addresses = keystore.create_keystore(tmp_path, 2, password="open", work=2)
    key = keystore.load_key(tmp_path, 1, "open")
    assert address(key) == addresses[1]
    # An independent reader of the standard's format agrees.
    assert Account.decrypt((tmp_path / "hospital-0001.json").read_text(), "open") == key
    assert (tmp_path / "hospital-0001.json").stat().st_mode & 0o77 == 0
    assert keystore.read_registry(tmp_path, 2)[0] == tuple(addresses)
    with pytest.raises(LedgerError, match="the password in PULSELEDGER_KEYSTORE_PASSWORD is wrong"):
        keystore.load_key(tmp_path, 1, "closed")
    with pytest.raises(LedgerError, match="already holds a keystore"):
        keystore.create_keystore(tmp_path, 2, password="open", work=2)
    with pytest.raises(LedgerError, match="names no hospital 2, the run has 3"):
        keystore.read_registry(tmp_path, 3)
    with pytest.raises(LedgerError, match=r"cannot read .*hospital-0007\.json"):
        keystore.load_key(tmp_path, 7, "open")
    (tmp_path / "hospital-0001.json").write_text("{}")
    with pytest.raises(LedgerError, match="damaged"):
        keystore.load_key(tmp_path, 1, "open")


def test_a_keystore_changes_a_key_with_both_signatures(tmp_path: Path):
    domain = Domain(1, address(EMBEDDED_COORDINATOR))
    before, _ = keystore.create_keystore(tmp_path, 2, password="open", work=2)
    change = keystore.rotate_key(tmp_path, 0, FEDERATION_ID, domain, 4, password="open", work=2)
    after = address(keystore.load_key(tmp_path, 0, "open"))
    assert change == KeyRotation(FEDERATION_ID, 0, before, after, 4)
    [signed] = keystore.read_rotations(tmp_path)
    assert signed.record == change
    assert [recover(change, s, domain) for s in (signed.old, signed.new)] == [before, after]
    assert keystore.read_registry(tmp_path, 2)[0][0] == before  # the registry names the first holders
