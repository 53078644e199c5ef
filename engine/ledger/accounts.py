"""Who sends transactions: the accounts of a ledger, and where the keys lie that are drawn for it.

coordinator, admin and auditor are three accounts, which the contract demands. On the embedded chain all three are drawn for
each ledger; on a node the coordinator is the account of the settings, and admin and auditor are drawn unless they are
named. A drawn key is a file beside the journal that only its owner may read: 64 hex digits, or, where the settings name a keystore,
an Ethereum keystore file under the same password. No bundle holds it. The embedded chain's contracts are created by an
account whose key everybody knows, so that their addresses are the same in every run; it has no role in them.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from engine.encoding import keccak
from engine.errors import LedgerError
from engine.files import whole
from engine.ledger.config import FIRST, Leader, LedgerConfig
from engine.ledger.format import ADMIN, AUDITOR, COORDINATOR, DEPLOYER
from engine.ledger.keyfiles import read_key_file, work_in, write_key_file
from engine.ledger.signing import address

EMBEDDED_DEPLOYER = keccak(b"PulseLedger embedded coordinator 1")


class Accounts:
    """The accounts of a ledger, by role. A key that lies in a file is read when it is first wanted."""

    def __init__(
        self, keys: Mapping[str, bytes], files: Mapping[str, Path] | None = None, named: Mapping[str, str] | None = None
    ) -> None:
        """
        Args:
            keys, files, named: role -> its private key; the file that holds it; its address, where the key is elsewhere.
        """
        self._keys, self._files, self._named = dict(keys), dict(files or {}), dict(named or {})

    def address(self, role: str) -> str:
        """The account of a role; raises LedgerError when nobody here knows it."""
        if role in self._named:
            return self._named[role]
        return address(self._key(role))

    def key(self, account: str) -> bytes:
        """The private key of an account; raises LedgerError when it is not here."""
        for role in (*self._keys, *self._files):
            key = self._key(role)
            if address(key) == account:
                return key
        role = next((role for role, known in self._named.items() if known == account), "")
        raise LedgerError(f"{role or 'an account'} {account} must sign this, but its key is not here")

    def _key(self, role: str) -> bytes:
        if role not in self._keys:
            if role not in self._files:
                raise LedgerError(f"the {role} of this ledger must sign this, but its key is not here")
            self._keys[role] = _read(self._files[role], self._files[role].stem)  # a successor's own name
        return self._keys[role]


def open_accounts(
    folder: Path,
    config: LedgerConfig,
    is_new: bool,
    sender: bytes | None,
    leader: Leader = FIRST,
    draw: Callable[[int], bytes] = os.urandom,
) -> Accounts:
    """The accounts of the ledger in a folder; draws and keeps what a new one lacks.

    Args:
        is_new: whether the folder holds no journal so far.
        sender: key of the coordinator; None draws it, too, and has contracts created by `EMBEDDED_DEPLOYER`.
        leader: whose account is the coordinator's.

    Raises:
        LedgerError: a key that is wanted cannot be read, or two roles are one account.
    """
    named = {role: account for role, account in ((ADMIN, config.admin), (AUDITOR, config.auditor)) if account}
    keys = {DEPLOYER: EMBEDDED_DEPLOYER} if sender is None else {COORDINATOR: sender, DEPLOYER: sender}
    if config.admin_key_file is not None:
        keys[ADMIN] = read_key_file(Path(config.admin_key_file))
    deployed = config.contract is not None  # its roles are held by whom its owner chose
    drawn = [role for role in (COORDINATOR, ADMIN, AUDITOR) if not (role in keys or role in named or deployed)]
    drawn += [one for one in config.successors if one[0].isalpha()]
    files = {role: key_path(folder, role) for role in drawn}
    if leader.key:
        keys[COORDINATOR] = leader.key
    elif leader.name in files:
        files[COORDINATOR] = files[leader.name]
    for role in drawn if is_new else ():
        if not files[role].exists():
            keys[role] = _drawn(draw)
            _write(files[role], keys[role], config.keystore)
    accounts = Accounts(keys, files, named)
    if is_new:
        _require_apart({role: accounts.address(role) for role in (*keys, *files, *named) if role != DEPLOYER})
    return accounts


def key_path(folder: Path, role: str) -> Path:
    """Where the drawn key of a role lies."""
    return Path(folder) / f"{role}.key"


def drawn_key(folder: Path, role: str) -> bytes:
    """The key that was drawn for a role when the ledger in a folder began; raises LedgerError where it is not there."""
    return _read(key_path(folder, role), role)


def _read(path: Path, role: str) -> bytes:
    if not path.exists():
        raise LedgerError(
            f"{path} is missing: it holds the key of this ledger's {role}, which was drawn when the ledger began, and "
            "nobody can go on without it"
        )
    return read_key_file(path)


def _drawn(draw: Callable[[int], bytes]) -> bytes:
    while True:
        key = draw(32)
        with suppress(LedgerError):  # one in 2^128 is no key
            address(key)
            return key


def _write(path: Path, key: bytes, keystore: str | None) -> None:
    if keystore is not None:
        write_key_file(path, key, work=work_in(Path(keystore)))
        return
    with whole(path, durable=True, mode=0o600, error=LedgerError) as part:
        part.write_text(key.hex() + "\n", encoding="ascii")


def _require_apart(addresses: Mapping[str, str]) -> None:
    known: dict[str, str] = {}
    for role, account in addresses.items():
        if account in known:
            raise LedgerError(
                f"{known[account]} and {role} are both account {account}: whoever seals rounds, gives roles away or judges "
                "disputes must be somebody else than the other two (ledger.admin, ledger.auditor)"
            )
        known[account] = role
