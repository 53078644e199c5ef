"""Where keys come from that are not derived from a run's seed: a folder, the keystore.

registry.json             [{"slot": 0, "address": "0x..", "organisation": "0x.."}, ...], the first holders
hospital-0000.json        the key of slot 0, encrypted with a password (Ethereum keystore, version 3, scrypt)
rotations.json            changes of keys, each signed by the old and by the new key
reviewers.json            [{"address": "0x..", "organisation": "0x.."}] of the reviewer
reviewer.json             the reviewer's key
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.encoding import hexed, keccak, unhexed
from engine.errors import LedgerError
from engine.ledger.config import Leader
from engine.ledger.keyfiles import (
    SCRYPT_N,
    decrypted,
    keystore_password,
    read_document,
    write_key_file,
    write_private_json,
)
from engine.ledger.signing import address, hospital_key, sign
from engine.ledger.subjects.registry import KeyRotation, SignedRotation, organisation
from engine.ledger.typed import Domain, record_from_json, record_to_json

REGISTRY, ROTATIONS = "registry.json", "rotations.json"
REVIEWERS, REVIEWER = "reviewers.json", "reviewer.json"

# --- Hospitals --------------------------------------------------------------------------------------------------------


def create_keystore(
    folder: Path,
    hospitals: int,
    organisations: Sequence[str] = (),
    password: str | None = None,
    draw: Callable[[int], bytes] = os.urandom,
    work: int = SCRYPT_N,
) -> list[str]:
    """Create keys for the hospitals of a federation; returns their addresses. Each hospital then takes its own file.

    Args:
        organisations: name of each hospital's organisation; empty makes each one of its own.
        password: None takes it from PULSELEDGER_KEYSTORE_PASSWORD.

    Raises:
        LedgerError: there is a keystore already, no password, or the folder cannot be written.
    """
    if hospitals < 1:
        raise LedgerError(f"a federation needs at least one hospital, not {hospitals}")
    if organisations and len(organisations) != hospitals:
        raise LedgerError(f"expected {hospitals} organisations, one for each hospital, found {len(organisations)}")
    folder, password = Path(folder), keystore_password(password)
    if (folder / REGISTRY).exists():
        raise LedgerError(f"{folder} already holds a keystore")
    registry = []
    for slot in range(hospitals):
        name = keccak(organisations[slot].encode()) if organisations else organisation(slot)
        key = draw(32)
        write_key_file(_key_path(folder, slot), key, password, work)
        registry.append({"slot": slot, "address": address(key), "organisation": hexed(name)})
    write_private_json(folder / REGISTRY, registry)
    return [str(entry["address"]) for entry in registry]


def read_registry(folder: Path, hospitals: int) -> tuple[tuple[str, ...], tuple[bytes, ...]]:
    """Read the first addresses and the organisations of the slots 0 to hospitals - 1.

    Raises:
        LedgerError: the registry is missing or damaged, or does not name these slots.
    """
    path = Path(folder) / REGISTRY
    try:
        entries = {entry["slot"]: entry for entry in read_document(path)}
        found = [entries[slot] for slot in range(hospitals)]
        organisations = tuple(unhexed(entry["organisation"]) for entry in found)
        return tuple(entry["address"] for entry in found), organisations
    except KeyError as error:
        raise LedgerError(f"{path} names no hospital {error}, the run has {hospitals}") from error
    except (TypeError, ValueError) as error:
        raise LedgerError(f"{path} is damaged: {error}") from error


def load_key(folder: Path, slot: int, password: str | None = None) -> bytes:
    """Decrypt the key of one hospital.

    Raises:
        LedgerError: the file is missing or damaged, or the password is missing or wrong.
    """
    return decrypted(_key_path(Path(folder), slot), password)


def with_key(leader: Leader, seed: int, federation: bytes, keystore: str | None) -> Leader:
    """With the key of a hospital that leads, which is simulated or in the keystore; raises LedgerError as `load_key`."""
    if leader.key or not leader.name.isdecimal():
        return leader
    slot = int(leader.name)
    if keystore is None:
        return leader._replace(key=hospital_key(seed, federation, slot))
    try:
        return leader._replace(key=load_key(Path(keystore), slot))
    except LedgerError as error:
        raise LedgerError(
            f"--as {slot}: {error}; where that hospital keeps its key, give its file with --key"
        ) from None


def rotate_key(
    folder: Path,
    slot: int,
    federation: bytes,
    domain: Domain,
    round: int,
    password: str | None = None,
    draw: Callable[[int], bytes] = os.urandom,
    work: int = SCRYPT_N,
) -> KeyRotation:
    """Give a hospital a new key from `round` on, and write down the change for the ledger, signed by both keys.

    The old key is kept beside it, as `hospital-0000.until-<round>.json`.

    Raises:
        LedgerError: as `load_key`.
    """
    folder, password = Path(folder), keystore_password(password)
    old, new = load_key(folder, slot, password), draw(32)
    record = KeyRotation(federation, slot, address(old), address(new), round)
    known = read_document(folder / ROTATIONS) if (folder / ROTATIONS).exists() else []
    signatures = [sign(record, domain, key).hex() for key in (old, new)]
    path = _key_path(folder, slot)
    path.replace(path.with_suffix(f".until-{round}.json"))
    write_key_file(path, new, password, work)
    write_private_json(folder / ROTATIONS, [*known, {"record": record_to_json(record), "signatures": signatures}])
    return record


def read_rotations(folder: Path) -> list[SignedRotation]:
    """Read the changes of keys in a keystore, in order; raises LedgerError when the file is damaged."""
    path = Path(folder) / ROTATIONS
    if not path.exists():
        return []
    try:
        found = []
        for one in read_document(path):
            old, new = (bytes.fromhex(text) for text in one["signatures"])
            found.append(SignedRotation(record_from_json(KeyRotation, one["record"]), old, new))
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(f"{path} is damaged: {error}") from error


# --- Reviewers --------------------------------------------------------------------------------------------------------


def simulated_organisation() -> bytes:
    """The organisation of the reviewer of a simulated federation, which no hospital belongs to."""
    return keccak(b"PulseLedger reviewer's organisation 1")


def read_reviewers(folder: Path) -> dict[str, bytes]:
    """Read the reviewers of a keystore: address -> organisation. Raises LedgerError when there are none."""
    path = Path(folder) / REVIEWERS
    try:
        return {entry["address"]: unhexed(entry["organisation"]) for entry in read_document(path)}
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(f"{path} is damaged: {error}") from error


def create_reviewer(
    folder: Path,
    name: str,
    password: str | None = None,
    draw: Callable[[int], bytes] = os.urandom,
    work: int = SCRYPT_N,
) -> str:
    """Create the key of a reviewer of the organisation `name` in a keystore; returns its address.

    Raises:
        LedgerError: there is one already, no password, or the folder cannot be written.
    """
    folder, key = Path(folder), draw(32)
    if (folder / REVIEWERS).exists():
        raise LedgerError(f"{folder} already holds a reviewer")
    write_key_file(folder / REVIEWER, key, keystore_password(password), work)
    write_private_json(folder / REVIEWERS, [{"address": address(key), "organisation": hexed(keccak(name.encode()))}])
    return address(key)


def _key_path(folder: Path, slot: int) -> Path:
    return folder / f"hospital-{slot:04d}.json"
