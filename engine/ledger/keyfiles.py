"""Private keys in files: 64 hex digits, or encrypted with a password (Ethereum keystore, version 3, scrypt)."""

import json
import os
from pathlib import Path
from typing import Any

from engine.encoding import read_json
from engine.errors import LedgerError
from engine.files import read_text, whole
from engine.ledger.signing import address

PASSWORD_VARIABLE = "PULSELEDGER_KEYSTORE_PASSWORD"
SCRYPT_N = 2**18  # work and memory (256 MiB) that a guess of the password costs


def read_key_file(path: Path, password: str | None = None) -> bytes:
    """Read a private key: 32 bytes as hex, or an encrypted one, which wants the keystore's password.

    Raises:
        LedgerError: the file is missing or damaged, or the password is missing or wrong.
    """
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LedgerError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not a text file'}") from None
    if text.startswith("{"):
        return decrypted(Path(path), password)
    try:
        key = bytes.fromhex(text.removeprefix("0x"))
        address(key)
    except (ValueError, LedgerError):
        raise LedgerError(f"{path} holds no private key") from None
    return key


def write_key_file(path: Path, key: bytes, password: str | None = None, work: int = SCRYPT_N) -> None:
    """Write a private key, encrypted with the keystore's password; raises LedgerError when there is none."""
    from eth_keyfile import create_keyfile_json

    content = create_keyfile_json(key, keystore_password(password).encode(), kdf="scrypt", iterations=work)
    write_private_json(path, content)


def work_of(path: Path) -> int:
    """The work that a guess of the password of an encrypted file costs; raises LedgerError when the file is damaged."""
    try:
        return int(read_document(path)["crypto"]["kdfparams"]["n"])
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(f"{path} is damaged: it is no encrypted key") from error


def work_in(folder: Path) -> int:
    """The work of the keys in a keystore; of a coordinator's, which may hold none as each hospital has its own at its site, the usual."""
    found = [path for name in ("hospital-0000.json", "reviewer.json") if (path := folder / name).exists()]
    return work_of(found[0]) if found else SCRYPT_N


def keystore_password(password: str | None) -> str:
    """The password given, else that of the environment; raises LedgerError when there is none."""
    found = password if password is not None else os.environ.get(PASSWORD_VARIABLE, "")
    if not found:
        raise LedgerError(f"a keystore needs a password in {PASSWORD_VARIABLE}")
    return found


def decrypted(path: Path, password: str | None) -> bytes:
    """The key in an encrypted file; raises LedgerError when it is missing or damaged, or the password is wrong."""
    from eth_keyfile import decode_keyfile_json

    content = read_document(path)
    try:
        return bytes(decode_keyfile_json(content, keystore_password(password).encode()))
    except LedgerError:
        raise
    except Exception as error:  # the library raises many kinds for damaged files
        wrong = "MAC mismatch" in str(error)
        reason = f"the password in {PASSWORD_VARIABLE} is wrong" if wrong else f"damaged ({type(error).__name__})"
        raise LedgerError(f"{path} cannot be opened: {reason}") from None


def write_private_json(path: Path, value: Any) -> None:
    """Write a file that only its owner may read; raises LedgerError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerError(f"{path.parent}: cannot be written ({error.strerror}).") from error
    with whole(path, durable=True, mode=0o600, error=LedgerError) as part:
        part.write_text(json.dumps(value, indent=1), encoding="utf-8")


def read_document(path: Path) -> Any:
    """Read a file of JSON, a key or what somebody has handed over; raises LedgerError when it is missing or damaged."""
    try:
        return read_json(read_text(path))
    except OSError as error:
        raise LedgerError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise LedgerError(f"{path} is damaged, it is not JSON ({error})") from None
