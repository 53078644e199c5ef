"""What a hospital or an auditor does with the ledger of a run that is finished or paused.

What changes the ledger opens it as the run would, so one must not be going on meanwhile; the bundle of a finished run is
written anew, and `result.json` stays as it was at the end of the run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.encoding import hexed, unhexed
from engine.errors import ConfigError, LedgerError
from engine.ledger import proofs
from engine.ledger.bundle import write_bundle
from engine.ledger.chain.base import ContractRevert
from engine.ledger.chain.embedded import EMBEDDED_AUDITOR
from engine.ledger.config import LedgerConfig
from engine.ledger.format import RUN, ZERO
from engine.ledger.keystore import read_key_file, rotate_key
from engine.ledger.run import RunLedger, federation_of, reopened
from engine.ledger.signing import address
from engine.ledger.store import read_meta, read_only
from engine.ledger.typed import Domain, record_from_json
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
    document = proofs.read(file)
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
    signed = proofs.signed_update(proofs.read(file))
    with opened(folder) as ledger:
        ledger.disputes.submit(signed)
    return {"round": signed.record.round, "hospital": signed.record.slot, "submitted": True}


def dispute(folder: Path, round: int, slot: int, receipt: Path | None) -> dict[str, Any]:
    """Proves that a round holds something else than was promised: by a receipt, or by an update that was shown directly."""
    leaf, signature = ZERO, b""
    if receipt is not None:
        document = proofs.read(receipt)
        try:
            leaf, signature = unhexed(document["leaf"]), unhexed(document["receipt"])
        except (KeyError, TypeError, ValueError):
            raise LedgerError(f"{receipt} holds no receipt: leaf and receipt are needed, as 0x hex") from None
    with opened(folder) as ledger:
        ledger.disputes.dispute(round, slot, leaf, signature)
        return {"round": round, "hospital": slot, "status": ledger.rounds.status(round)}


def resolve(folder: Path, round: int, voided: bool, key: Path | None) -> dict[str, Any]:
    """Decides a dispute in the name of an auditor, who gets the role from the coordinator.

    Args:
        key: file with the auditor's key; None is the embedded chain's own.
    """
    with opened(folder) as ledger:
        if key is None and ledger.book.chain.name != "embedded":
            raise LedgerError("a dispute on a node is decided with an auditor's key: --key FILE")
        auditor = EMBEDDED_AUDITOR if key is None else read_key_file(key)
        ledger.rounds.grant("AUDITOR_ROLE", address(auditor))
        ledger.disputes.resolve(round, voided, auditor)
        return {"round": round, "status": ledger.rounds.status(round), "auditor": address(auditor)}


def claim(folder: Path, slot: int) -> dict[str, Any]:
    """Pulls the reward of a hospital from the contract."""
    with opened(folder) as ledger:
        points = ledger.reputation.claim(slot)
    return {"hospital": slot, "points": points}


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
