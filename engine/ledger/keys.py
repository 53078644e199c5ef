"""The hospital's side of the ledger: where its key comes from, what it signs, and what it checks before it signs.

A hospital signs its update of a round over the head of the round before, and so the whole history. It does that only
when the coordinator shows that this history holds what the hospital sent before, under the heads that it signed.

Keys of simulated hospitals are derived from the seed of the run. Otherwise they lie in a folder, the keystore:

    registry.json             [{"slot": 0, "address": "0x..", "organisation": "0x.."}, ...], the first holders
    hospital-0000.json        the key of slot 0, encrypted with a password (Ethereum keystore, version 3, scrypt)
    rotations.json            changes of keys, each signed by the old and by the new key
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.encoding import keccak, read_json
from engine.errors import LedgerError
from engine.ledger.merkle import header_head, update_leaf, verify
from engine.ledger.records import (
    Domain,
    Header,
    KeyRotation,
    ModelUpdate,
    Opening,
    Receipt,
    RoundHead,
    SignedUpdate,
    SyntheticReport,
    SyntheticRequest,
    commitments,
    count_commitment,
    digest,
    organisation,
    real_floor,
    record_from_json,
    record_to_json,
)
from engine.ledger.signing import (
    SALT_METRICS,
    SALT_REAL_COUNT,
    SALT_SAMPLES,
    address,
    hospital_key,
    recover_digest,
    salt,
    sign,
)
from engine.ledger.steps import SignedReport, SignedRequest

PASSWORD_VARIABLE = "PULSELEDGER_KEYSTORE_PASSWORD"
REGISTRY, ROTATIONS = "registry.json", "rotations.json"
SCRYPT_N = 2**18  # work and memory (256 MiB) that a guess of the password costs


@dataclass(frozen=True)
class Signing:
    """What a hospital needs to sign: the federation, the contract that anchors it, and where it begins.

    Attributes:
        coordinator: address that signs receipts.
        slots: number of hospitals.
        genesis: head of round 0.
        keystore: folder of the encrypted keys; None derives the key from the seed of the run.
    """

    federation: bytes
    config_hash: bytes
    domain: Domain
    coordinator: str
    slots: int
    genesis: bytes
    keystore: Path | None = None


@dataclass(frozen=True)
class Notice:
    """What the coordinator tells hospitals before they sign: how the ledger stands, and what became of their updates.

    Attributes:
        model: hash of the model that the round starts from.
        headers: sealed rounds without a gap, from the oldest that one of them must check to the last.
        paths: slot -> siblings, joined, from the leaf of its last update to the root of that round.
        receipts: slot -> round and coordinator's signature, of the newest receipt that it has not been given.
    """

    model: bytes
    headers: tuple[Header, ...]
    paths: Mapping[int, bytes]
    receipts: Mapping[int, tuple[int, bytes]]


@dataclass(frozen=True)
class Terms:
    """What the coordinator tells hospitals before they ask for synthetic beats.

    Attributes:
        signing: what requests and reports are signed for; of a run without a ledger, whose domain counts nowhere, too.
        policy_version: of the policy in force.
    """

    signing: Signing
    policy_version: int


@dataclass(frozen=True)
class Memory:
    """What a hospital remembers of its last update: round, leaf, and the head that it signed with it."""

    round: int
    leaf: bytes
    parent_head: bytes


class Signer:
    """Holds the key of one hospital. Whoever keeps `memory` can build it again after its process was lost."""

    def __init__(self, slot: int, signing: Signing, seed: int, memory: Memory | None = None) -> None:
        """Derives the key or reads it from the keystore.

        Raises:
            LedgerError: there is no key, or the password is wrong.
        """
        self._slot, self._signing = slot, signing
        if signing.keystore is None:
            self._key = hospital_key(seed, signing.federation, slot)
        else:
            self._key = load_key(signing.keystore, slot)
        self.memory: Memory | None = None
        self._promised: dict[int, bytes] = {}  # round -> leaf without a receipt so far
        self._receipt: tuple[int, bytes] | None = None
        if memory is not None:
            self.restore(memory)

    def restore(self, memory: Memory) -> None:
        """Take up what an earlier process of this hospital remembered."""
        self.memory, self._promised = memory, {memory.round: memory.leaf}

    def check(self, notice: Notice) -> None:
        """Compare a notice with what this hospital signed and sent.

        Raises:
            LedgerError: the heads do not follow from each other or from the one that was signed, the last update is
                not in its slot of the round that it was sent for, or a receipt is for something else.
        """
        signing, last = self._signing, self.memory
        _check_headers(notice.headers, signing)
        if last is not None:
            header = next((h for h in notice.headers if h.round == last.round), None)
            if header is None:
                raise LedgerError(f"round {last.round}, in which this hospital took part, is not shown")
            if header.previous_head != last.parent_head:
                raise LedgerError(
                    f"round {last.round} follows head 0x{header.previous_head.hex()}, "
                    f"this hospital signed 0x{last.parent_head.hex()}"
                )
            joined = notice.paths.get(self._slot, b"")
            siblings = [joined[i : i + 32] for i in range(0, len(joined), 32)]
            if not verify(header.root, last.leaf, self._slot, signing.slots, siblings):
                raise LedgerError(
                    f"the proof does not lead from the update of round {last.round} to the root 0x{header.root.hex()}"
                )
        if self._slot in notice.receipts:
            self._take(*notice.receipts[self._slot])

    def update(
        self,
        notice: Notice,
        vector_hash: bytes,
        samples: int,
        metrics: dict[str, Any],
        privacy: dict[str, Any] | None = None,
    ) -> tuple[SignedUpdate, Opening, bytes]:
        """Sign the update of the round after the last of the notice: record, what opens its commitments, and its leaf.

        Raises:
            LedgerError: this hospital has signed another update for this round, or one for a later round.
        """
        signing, header = self._signing, notice.headers[-1]
        round = header.round + 1
        salts = [salt(self._key, signing.federation, round, purpose) for purpose in (SALT_SAMPLES, SALT_METRICS)]
        opening = Opening(samples, salts[0], metrics, salts[1], privacy)
        committed = commitments(opening)
        record = ModelUpdate(
            federation=signing.federation,
            round=round,
            slot=self._slot,
            parent_model=notice.model,
            parent_head=header.head,
            update=vector_hash,
            samples=committed["samples"],
            metrics=committed["metrics"],
            privacy=committed["privacy"],
            config_hash=signing.config_hash,
            nonce=round,
        )
        signed = SignedUpdate(record, sign(record, signing.domain, self._key))
        leaf = update_leaf(signed, signing.domain)
        if self.memory is not None and self.memory.round >= round and self.memory.leaf != leaf:
            raise LedgerError(f"this hospital has already signed another update, for round {self.memory.round}")
        self.memory = Memory(round, leaf, header.head)
        self._promised[round] = leaf
        return signed, opening, leaf

    def request(
        self, terms: Terms, class_: int, generator: int, quantity: int, real: int, settings: bytes
    ) -> SignedRequest:
        """Ask for synthetic beats of a class; of the number of real ones only a floor and a commitment are told.

        Args:
            settings: digest of the generator's settings, 32 bytes.
        """
        federation, nonce = self._signing.federation, class_ + 1
        record = SyntheticRequest(
            federation=federation,
            slot=self._slot,
            class_=class_,
            generator=generator,
            quantity=quantity,
            real_floor=real_floor(real),
            real_count=count_commitment(salt(self._key, federation, nonce, SALT_REAL_COUNT), real),
            settings=settings,
            policy_version=terms.policy_version,
            nonce=nonce,
            deadline=0,
        )
        return SignedRequest(record, sign(record, terms.signing.domain, self._key))

    def report(
        self, terms: Terms, request: bytes, generated: int, batch: bytes, evidence: bytes, numbers: Mapping[str, int]
    ) -> SignedReport:
        """Sign what was generated for a request.

        Args:
            batch, evidence: digests, 32 bytes.
            numbers: those of the evidence that policy bounds, by the names of the record.
        """
        record = SyntheticReport(request, generated, batch, evidence, **numbers)
        return SignedReport(record, sign(record, terms.signing.domain, self._key))

    def withdraw(self) -> None:
        """Forget the last update: it never left this hospital's host."""
        if self.memory is not None:
            self._promised.pop(self.memory.round, None)
            self.memory = None

    def head(self, notice: Notice) -> bytes:
        """Sign the last head, for which no later update follows; call `check` first.

        Raises:
            LedgerError: there is no receipt for the last update of this hospital.
        """
        signing, header = self._signing, notice.headers[-1]
        if self.memory is not None and self.memory.round in self._promised:
            raise LedgerError(f"the coordinator gave no receipt for the update of round {self.memory.round}")
        record = RoundHead(signing.federation, header.round, self._slot, header.head)
        return sign(record, signing.domain, self._key)

    def _take(self, round: int, signature: bytes) -> None:
        leaf = self._promised.get(round)
        if leaf is None:
            return  # of a time before this process
        record = Receipt(self._signing.federation, round, self._slot, leaf)
        try:
            signer = recover_digest(digest(record, self._signing.domain), signature)
        except LedgerError as error:
            raise LedgerError(f"the receipt of round {round} is damaged: {error}") from error
        if signer != self._signing.coordinator:
            raise LedgerError(f"the receipt of round {round} is not the coordinator's word on the update that was sent")
        self._receipt = (round, signature)
        self._promised = {r: leaf for r, leaf in self._promised.items() if r > round}


@lru_cache(maxsize=8)  # all hospitals of a process are shown the same rounds
def _check_headers(headers: tuple[Header, ...], signing: Signing) -> None:
    if not headers:
        raise LedgerError("no head is shown")
    for before, header in zip((None, *headers), headers, strict=False):
        if before is not None and (header.previous_head != before.head or header.round != before.round + 1):
            raise LedgerError(f"round {header.round} does not follow round {before.round}")
        if header.round == 0:
            if header.head != signing.genesis:
                raise LedgerError(f"the federation begins with head 0x{header.head.hex()}, not with its own")
        elif header_head(header, signing.domain, signing.federation) != header.head:
            raise LedgerError(f"the head of round {header.round} does not follow from what is shown of it")


# --- Reviewers --------------------------------------------------------------------------------------------------------

REVIEWERS, REVIEWER = "reviewers.json", "reviewer.json"


def simulated_organisation() -> bytes:
    """The organisation of the reviewer of a simulated federation, which no hospital belongs to."""
    return keccak(b"PulseLedger reviewer's organisation 1")


def read_reviewers(folder: Path) -> dict[str, bytes]:
    """Read the reviewers of a keystore: address -> organisation. Raises LedgerError when there are none."""
    path = Path(folder) / REVIEWERS
    try:
        return {entry["address"]: bytes.fromhex(entry["organisation"][2:]) for entry in _read_json(path)}
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
    _write_key(folder / REVIEWER, key, _password(password), work)
    _write_json(folder / REVIEWERS, [{"address": address(key), "organisation": "0x" + keccak(name.encode()).hex()}])
    return address(key)


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
        return _decrypted(Path(path), password)
    try:
        key = bytes.fromhex(text.removeprefix("0x"))
        address(key)
    except (ValueError, LedgerError):
        raise LedgerError(f"{path} holds no private key") from None
    return key


# --- Keystore ---------------------------------------------------------------------------------------------------------


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
    folder, password = Path(folder), _password(password)
    if (folder / REGISTRY).exists():
        raise LedgerError(f"{folder} already holds a keystore")
    registry = []
    for slot in range(hospitals):
        name = keccak(organisations[slot].encode()) if organisations else organisation(slot)
        key = draw(32)
        _write_key(_key_path(folder, slot), key, password, work)
        registry.append({"slot": slot, "address": address(key), "organisation": "0x" + name.hex()})
    _write_json(folder / REGISTRY, registry)
    return [str(entry["address"]) for entry in registry]


def read_registry(folder: Path, hospitals: int) -> tuple[tuple[str, ...], tuple[bytes, ...]]:
    """Read the first addresses and the organisations of the slots 0 to hospitals - 1.

    Raises:
        LedgerError: the registry is missing or damaged, or does not name these slots.
    """
    path = Path(folder) / REGISTRY
    try:
        entries = {entry["slot"]: entry for entry in _read_json(path)}
        found = [entries[slot] for slot in range(hospitals)]
        organisations = tuple(bytes.fromhex(entry["organisation"][2:]) for entry in found)
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
    return _decrypted(_key_path(Path(folder), slot), password)


def _decrypted(path: Path, password: str | None) -> bytes:
    from eth_keyfile import decode_keyfile_json

    content = _read_json(path)
    try:
        return bytes(decode_keyfile_json(content, _password(password).encode()))
    except LedgerError:
        raise
    except Exception as error:  # the library raises many kinds for damaged files
        wrong = "MAC mismatch" in str(error)
        reason = f"the password in {PASSWORD_VARIABLE} is wrong" if wrong else f"damaged ({type(error).__name__})"
        raise LedgerError(f"{path} cannot be opened: {reason}") from None


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
    folder, password = Path(folder), _password(password)
    old, new = load_key(folder, slot, password), draw(32)
    record = KeyRotation(federation, slot, address(old), address(new), round)
    known = _read_json(folder / ROTATIONS) if (folder / ROTATIONS).exists() else []
    signatures = [sign(record, domain, key).hex() for key in (old, new)]
    path = _key_path(folder, slot)
    path.replace(path.with_suffix(f".until-{round}.json"))
    _write_key(path, new, password, work)
    _write_json(folder / ROTATIONS, [*known, {"record": record_to_json(record), "signatures": signatures}])
    return record


def read_rotations(folder: Path) -> list[tuple[KeyRotation, bytes, bytes]]:
    """Read the changes of keys in a keystore, in order; raises LedgerError when the file is damaged."""
    path = Path(folder) / ROTATIONS
    if not path.exists():
        return []
    try:
        found = []
        for one in _read_json(path):
            old, new = (bytes.fromhex(text) for text in one["signatures"])
            found.append((record_from_json(KeyRotation, one["record"]), old, new))
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(f"{path} is damaged: {error}") from error


def _key_path(folder: Path, slot: int) -> Path:
    return folder / f"hospital-{slot:04d}.json"


def _password(password: str | None) -> str:
    found = password if password is not None else os.environ.get(PASSWORD_VARIABLE, "")
    if not found:
        raise LedgerError(f"a keystore needs a password in {PASSWORD_VARIABLE}")
    return found


def _write_key(path: Path, key: bytes, password: str, work: int) -> None:
    from eth_keyfile import create_keyfile_json

    _write_json(path, create_keyfile_json(key, password.encode(), kdf="scrypt", iterations=work))


def _write_json(path: Path, value: Any) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".new")
        part.touch(0o600)
        with part.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise LedgerError(f"cannot write {path}: {error.strerror}") from error


def _read_json(path: Path) -> Any:
    try:
        return read_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LedgerError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise LedgerError(f"{path} is damaged: {error}") from error
