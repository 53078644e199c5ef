"""What a hospital or an auditor does with the ledger of a run that is finished or paused.

What changes the ledger opens it as the run would, so one must not be going on meanwhile; the bundle of a finished run is
written anew, and `result.json` stays as it was at the end of the run.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from engine.config import RunConfig
from engine.encoding import hexed, unhexed
from engine.errors import ConfigError, LedgerError
from engine.ledger import proofs
from engine.ledger.accounts import AUDITOR
from engine.ledger.bundle import write_bundle, write_public
from engine.ledger.chain.base import ContractRevert
from engine.ledger.config import LedgerConfig
from engine.ledger.erasure import erase as _erase
from engine.ledger.format import BUNDLE, RUN, ZERO, tensor_name
from engine.ledger.keyfiles import read_document, read_key_file
from engine.ledger.keystore import load_key, rotate_key
from engine.ledger.run import RunLedger, federation_of, reopened
from engine.ledger.signing import address, hospital_key
from engine.ledger.store import read_meta, read_only
from engine.ledger.typed import Domain, record_from_json
from engine.model import vector_hash
from engine.paths import load_config
from engine.result import RESULT, Result
from engine.settings import parse

CONFIG = "config.yaml"


def prove(folder: Path, round: int, slot: int, out: Path | None) -> dict[str, Any]:
    """The proof of what a hospital sent in a round, or that it sent nothing; written to a file if one is named."""
    document = proofs.prove(folder / "ledger", round, slot)
    if out is not None:
        proofs.write(out, document)
    return document


def verify(file: Path, head: str | None) -> dict[str, Any]:
    """What a proof shows.

    Raises:
        LedgerError: it does not hold, or leads to another head than the one that is known.
    """
    document = read_document(file)
    try:
        found = proofs.check(document)
    except LedgerError as error:
        raise LedgerError(f"{file}: {error}") from None
    if head is not None and hexed(found.head) != head.lower():
        raise LedgerError(f"{file}: leads to head {hexed(found.head)}, not to {head}")
    return {
        "round": found.round,
        "hospital": found.slot,
        "head": hexed(found.head),
        "present": found.update is not None,
        "signer": found.signer or None,
        "promised_by": found.promised_by or None,
    }


def submit(folder: Path, file: Path) -> dict[str, Any]:
    """Shows the contract a signed update of the open round, around a coordinator that does not take it."""
    signed = proofs.signed_update(read_document(file))
    with opened(folder) as ledger:
        ledger.disputes.submit(signed)
    return {"round": signed.record.round, "hospital": signed.record.slot, "submitted": True}


def dispute(folder: Path, round: int, slot: int, receipt: Path | None, stale: bool = False) -> dict[str, Any]:
    """Proves that a round holds something else than was promised, by a receipt or by an update that was shown directly; or, if
    `stale`, that the update that it holds began from a model that is too old."""
    if stale:
        with opened(folder) as ledger:
            ledger.disputes.dispute_update(round, slot)
            return {"round": round, "hospital": slot, "status": ledger.rounds.status(round)}
    leaf, signature = ZERO, b""
    if receipt is not None:
        document = read_document(receipt)
        try:
            leaf, signature = unhexed(document["leaf"]), unhexed(document["receipt"])
        except (KeyError, TypeError, ValueError):
            raise LedgerError(f"{receipt} holds no receipt: leaf and receipt are needed, as 0x hex") from None
    with opened(folder) as ledger:
        ledger.disputes.dispute(round, slot, leaf, signature)
        return {"round": round, "hospital": slot, "status": ledger.rounds.status(round)}


def overspent(folder: Path, round: int, slot: int) -> dict[str, Any]:
    """Proves that an update is beyond the privacy budget, which voids its round and those after it."""
    with opened(folder) as ledger:
        ledger.disputes.overspent(round, slot)
        return {"round": round, "hospital": slot, "status": ledger.rounds.status(round)}


def resolve(folder: Path, round: int, voided: bool, key: Path | None) -> dict[str, Any]:
    """Decides a dispute in the name of an auditor; one that is none yet gets the role from the admin.

    Args:
        key: file with the auditor's key; None is the one that was drawn for this ledger.
    """
    with opened(folder) as ledger:
        decides = auditor(ledger, key)
        ledger.disputes.resolve(round, voided, decides)
        return {"round": round, "status": ledger.rounds.status(round), "auditor": address(decides)}


def export(folder: Path, out: Path) -> dict[str, Any]:
    """Writes a bundle to hand on: without salts and what they hide, which its audit then names as not verified.

    Raises:
        LedgerError: the run has no bundle yet, or the file is there already.
    """
    if out.exists():
        raise LedgerError(f"{out}: is there already; name another file")
    bundle = folder / "ledger" / BUNDLE
    if not bundle.is_file():
        raise LedgerError(f"{folder}: has no bundle; a run writes one at its end")
    write_public(bundle, out)
    return {"bundle": str(out), "public": True}


def finalize(folder: Path, now: Callable[[], float] = time.time) -> dict[str, Any]:
    """Makes the rounds of a run final whose window for disputes has passed; tells how many are, and whether all are.

    Args:
        now: seconds since 1970.

    Raises:
        LedgerError: it has not, or a dispute is open, or a hospital owes an opening by the embedded chain's clock.
    """
    with opened(folder) as ledger:
        if not ledger.rounds.is_final():
            if ledger.book.chain.name == "embedded":
                _require_passed(folder, now())
                if owed := ledger.challenges.owed():
                    raise LedgerError(
                        f"{folder}: {owed} challenged hospital{'s' * (owed > 1)} may still answer, whose time the clock of the embedded "
                        "chain would pass; `ledger open` or `ledger overdue` comes first"
                    )
            ledger.rounds.finalize()
        return {"rounds": ledger.rounds.finalized(), "final": ledger.rounds.is_final()}


def mark(folder: Path) -> dict[str, Any]:
    """Notes the last sealed round of a paused run, so that it can become final while rounds follow each other."""
    with opened(folder) as ledger:
        ledger.rounds.mark()
        return {"round": len(ledger.rounds.seals), "marked": True}


def _require_passed(folder: Path, now: float) -> None:
    """The embedded chain's clock does not run; what its window means to people is by the clock on the wall."""
    if not (folder / RESULT).exists():
        raise LedgerError(f"{folder}: the run has not ended, its rounds become final after that")
    after = Result.read(folder).ledger.final_after
    if after is not None and now < after:
        raise LedgerError(f"{folder}: its rounds can be disputed until {moment(after)}, and are not final before")


def moment(seconds: int) -> str:
    """A time in seconds since 1970, for people."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def abort(folder: Path) -> dict[str, Any]:
    """Ends the open round of a run on record, once its deadline has passed; a resumed run opens it again."""
    with opened(folder) as ledger:
        ledger.rounds.abort()
        return {"round": len(ledger.rounds.seals) + 1, "aborted": True}


def claim(folder: Path, slot: int) -> dict[str, Any]:
    """Pulls the reward of a hospital from the contract."""
    with opened(folder) as ledger:
        try:
            points = ledger.reputation.claim(slot)
        except ContractRevert:
            if ledger.rounds.is_final():
                raise
            raise LedgerError(
                f"{folder}: rewards are paid for final rounds; `pulseledger ledger finalize` makes them so after the window "
                "for disputes"
            ) from None
    return {"hospital": slot, "points": points}


def erase(folder: Path, round: int, slot: int) -> dict[str, Any]:
    """Erases what stands behind the commitments of a hospital's update, under the hospital's signature."""
    if not (folder / RESULT).exists():
        raise LedgerError(f"{folder}: the run has not ended, and still works with what would be erased")
    config = parse(RunConfig, load_config(folder / CONFIG), str(folder / CONFIG))

    def key(federation: bytes) -> bytes:
        keystore = config.ledger.keystore
        return hospital_key(config.seed, federation, slot) if keystore is None else load_key(Path(keystore), slot)

    _erase(folder / "ledger", round, slot, key)
    write_bundle(folder / "ledger", Result.read(folder).document(), (folder / CONFIG).read_text(encoding="utf-8"))
    return {"round": round, "hospital": slot, "erased": True}


def witness(folder: Path, round: int, slot: int, file: Path, key: Path | None, out: Path) -> dict[str, Any]:
    """An auditor's word that the vector behind an update is here which was shown directly; for `dispute --receipt`.

    Args:
        file: safetensors file of the hospital, as in the archive.
        key: of the auditor; None is the one that was drawn for this ledger.
    """
    try:
        vector = load_file(file)[tensor_name(slot)]
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise LedgerError(f"{file} holds no vector of hospital {slot} ({error})") from None
    with opened(folder) as ledger:
        layout = ledger.registry.federation.layout
        if vector.dtype != np.float32 or vector.shape != (sum(math.prod(shape) for _, shape in layout),):
            raise LedgerError(f"{file}: the vector of hospital {slot} has not the form of an update")
        update = vector_hash(vector, layout)
        signature = ledger.disputes.witness(round, slot, update, auditor(ledger, key))
    document = {"leaf": hexed(ZERO), "receipt": hexed(signature)}
    proofs.write(out, document)
    return {"round": round, "hospital": slot, **document}


def rotate(folder: Path, slot: int, keystore: Path | None) -> dict[str, Any]:
    """Gives a hospital a new key from the next round on; the ledger takes it up when the run goes on."""
    if (folder / RESULT).exists():
        raise LedgerError(f"{folder}: is finished, no key of it will sign again")
    stored = keystore or settings(folder).keystore
    if stored is None:
        raise ConfigError(
            f"{folder}: its keys follow from the seed; only a keystore's can be changed (--keystore DIR)."
        )
    path = folder / "ledger" / RUN.file
    with read_only(path) as journal:
        meta = read_meta(journal, RUN, path)
        number = 1 + journal.execute("SELECT COUNT(*) FROM rounds").fetchone()[0]
    federation, _ = federation_of(meta, path)
    if not 0 <= slot < len(federation.hospitals):
        raise LedgerError(f"{folder}: hospital {slot} is not one of the {len(federation.hospitals)} hospitals")
    domain = record_from_json(Domain, meta["domain"])
    change = rotate_key(Path(stored), slot, federation.id, domain, number)
    return {"hospital": slot, "round": number, "from": change.from_, "to": change.to}


def auditor(ledger: RunLedger, file: Path | None) -> bytes:
    """The auditor's key, of an account that has the role."""
    accounts = ledger.book.chain.accounts
    key = accounts.key(accounts.address(AUDITOR)) if file is None else read_key_file(file)
    if not ledger.rounds.has_role("AUDITOR_ROLE", address(key)):
        ledger.rounds.grant("AUDITOR_ROLE", address(key))
    return key


def settings(folder: Path) -> LedgerConfig:
    """The settings of a run's ledger; raises ConfigError when it keeps none."""
    config = parse(RunConfig, load_config(folder / CONFIG), str(folder / CONFIG))
    if config.ledger.backend == "none":
        raise ConfigError(f"{folder}: the run keeps no ledger (ledger.backend is none).")
    return config.ledger


@contextmanager
def opened(folder: Path) -> Iterator[RunLedger]:
    """The ledger of a run; afterwards the bundle of a finished one is written anew, if something was sent."""
    sent = before = 0
    try:
        with reopened(folder / "ledger", settings(folder)) as ledger:
            before = len(ledger.book.transactions)
            try:
                yield ledger
            finally:
                sent = len(ledger.book.transactions) - before
    except ContractRevert as error:
        raise LedgerError(f"the contract refuses: {error}") from None
    finally:
        if sent and (folder / RESULT).exists():
            text = (folder / CONFIG).read_text(encoding="utf-8")
            write_bundle(folder / "ledger", Result.read(folder).document(), text)
