"""Who sends a ledger's transactions: three accounts of its own, drawn for it, kept, and never in a bundle."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from simulators import Run, rule_of

from engine.config import RunConfig
from engine.errors import LedgerError
from engine.experiment import run as run_experiment
from engine.ledger.accounts import ADMIN, AUDITOR, COORDINATOR, EMBEDDED_DEPLOYER, key_path, open_accounts
from engine.ledger.chain.base import ContractRevert
from engine.ledger.config import LedgerConfig
from engine.ledger.format import BUNDLE
from engine.ledger.keyfiles import PASSWORD_VARIABLE
from engine.ledger.keystore import create_keystore
from engine.ledger.run import RunLedger
from engine.ledger.signing import address

ROLES = (COORDINATOR, ADMIN, AUDITOR)


def opened(run: Run, **settings: Any) -> RunLedger:
    """The ledger with accounts of its own, not those that everybody knows."""
    return RunLedger(run.ledger_folder, run.federation, rule_of(run.weighting), LedgerConfig(**settings))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def test_three_keys_are_drawn_and_only_their_owner_may_read_them(run: Run):
    with opened(run) as ledger:
        accounts = {role: ledger.book.chain.accounts.address(role) for role in ROLES}
        assert len({*accounts.values(), address(EMBEDDED_DEPLOYER)}) == 4
        for role, account in accounts.items():
            path = key_path(run.ledger_folder, role)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert address(bytes.fromhex(path.read_text())) == account
        held = {"COORDINATOR_ROLE": COORDINATOR, "AUDITOR_ROLE": AUDITOR}
        for contract_role, role in held.items():
            assert [ledger.rounds.has_role(contract_role, accounts[one]) for one in ROLES] == [
                one == role for one in ROLES
            ]


def test_equal_runs_have_equal_contracts_and_heads_but_no_equal_key(tmp_path: Path):
    found, keys = set(), set()
    for name in ("a", "b"):
        run = Run(tmp_path / name)
        with opened(run) as ledger:
            ledger.append(run.entry(1, ledger.domain))
            found.add((ledger.domain, ledger.head))
        keys |= {key_path(run.ledger_folder, role).read_text() for role in ROLES}
    assert len(found) == 1
    assert len(keys) == 6


def test_a_ledger_that_is_opened_again_finds_its_keys(run: Run):
    with opened(run) as ledger:
        ledger.append(run.entry(1, ledger.domain))
        before = ledger.book.chain.sender
    with opened(run) as ledger:
        assert ledger.book.chain.sender == before
        assert ledger.append(run.entry(2, ledger.domain)).head == run.heads(ledger.domain, 2)[2]


def test_a_lost_key_is_told_in_a_sentence(run: Run):
    with opened(run) as ledger:
        ledger.append(run.entry(1, ledger.domain))
    key_path(run.ledger_folder, COORDINATOR).unlink()
    with pytest.raises(LedgerError, match=r"coordinator.key is missing: it holds the key of this ledger's coordinator"):
        opened(run)


def test_a_damaged_key_is_told_without_a_word_of_it(run: Run):
    with opened(run):
        pass
    key_path(run.ledger_folder, COORDINATOR).write_text("abcdef")
    with pytest.raises(LedgerError, match=r"coordinator.key holds no private key") as refused:
        opened(run)
    assert "abcdef" not in str(refused.value)


def test_a_bundle_holds_no_key(tiny_config: Callable[..., RunConfig], tmp_path: Path):
    run_experiment(tiny_config(**{"ledger.backend": "embedded"}), tmp_path)
    bundle = (tmp_path / "ledger" / BUNDLE).read_bytes()
    for role in ROLES:
        text = key_path(tmp_path / "ledger", role).read_text().strip()
        assert text.encode() not in bundle
        assert bytes.fromhex(text) not in bundle


def test_with_a_keystore_they_are_encrypted_under_its_password(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
    create_keystore(tmp_path / "keys", 3, work=2)
    with opened(run, keystore=str(tmp_path / "keys")) as ledger:
        sender = ledger.book.chain.sender
    assert '"crypto"' in key_path(run.ledger_folder, COORDINATOR).read_text()
    with opened(run, keystore=str(tmp_path / "keys")) as ledger:
        assert ledger.book.chain.sender == sender
    monkeypatch.setenv(PASSWORD_VARIABLE, "wrong")
    with pytest.raises(LedgerError, match=f"the password in {PASSWORD_VARIABLE} is wrong"):
        opened(run, keystore=str(tmp_path / "keys"))


def test_on_a_node_two_roles_of_one_account_are_refused(tmp_path: Path):
    sender = b"\x07" * 32
    for role in (ADMIN, AUDITOR):
        config = LedgerConfig(backend="rpc", url="http://node", **{role: address(sender)})
        with pytest.raises(LedgerError, match=f"coordinator and {role} are both account {address(sender)}"):
            open_accounts(tmp_path, config, True, sender)
    other = address(b"\x08" * 32)
    with pytest.raises(LedgerError, match=f"admin and auditor are both account {other}"):
        open_accounts(
            tmp_path, LedgerConfig(backend="rpc", url="http://node", admin=other, auditor=other), True, sender
        )


def test_on_a_node_an_admin_that_is_elsewhere_signs_nothing_here(tmp_path: Path):
    other = address(b"\x08" * 32)
    accounts = open_accounts(tmp_path, LedgerConfig(backend="rpc", url="http://node", admin=other), True, b"\x07" * 32)
    assert accounts.address(ADMIN) == other
    with pytest.raises(LedgerError, match=f"admin {other} must sign this, but its key is not here"):
        accounts.key(other)


def test_the_coordinator_gives_no_roles_and_judges_no_dispute(run: Run):
    with opened(run) as ledger:
        chain = ledger.book.chain
        with pytest.raises(ContractRevert, match="RolesConflict"):
            ledger.rounds.grant("AUDITOR_ROLE", chain.sender)
        domain = ledger.domain
        ledger.append(run.entry(1, domain))
        with pytest.raises(LedgerError, match="refuses to resolve round 1"):
            ledger.disputes.resolve(1, True, chain.accounts.key(chain.sender))
