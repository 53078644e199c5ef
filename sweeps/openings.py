"""Challenges to masked updates: an auditor wants one opened, its hospital opens it, an arbiter judges what it is shown.

challenge   an auditor, on the chain: the hospital has a week to answer
open        the hospital, with its key: all of its update, or chunks that the head of the round draws
judge       anybody, from the folder or bundle and the opening; an auditor's judgement goes onto the chain
withheld    an auditor, whom nobody gives the opening that a hospital has signed
overdue     anybody, after the week: silence counts as fraud
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.audit.evidence import Evidence
from engine.audit.opening import Judgement
from engine.audit.opening import judge as judged
from engine.audit.reading import read
from engine.config import RunConfig
from engine.encoding import json_hash, keccak
from engine.errors import LedgerError
from engine.ledger import archive, proofs
from engine.ledger.format import ANSWER_TIME, tensor_name
from engine.ledger.keyfiles import read_document
from engine.ledger.keystore import load_key
from engine.ledger.masking import groups_in
from engine.ledger.run import RunLedger
from engine.ledger.signing import SALT_MASKS, hospital_key, salt
from engine.ledger.subjects.masks import maskings
from engine.paths import load_config
from engine.secure import opening
from engine.secure.part import Place
from engine.secure.protocol import Own, Transcript
from engine.secure.vault import FOLDER, Vault
from engine.settings import parse
from sweeps.ledger import CONFIG, auditor, moment, opened

HIDDEN = 2  # unopened hospitals of a sum that hide each other
OWES = "CHALLENGED"  # of `format.CHALLENGES`
WITHHELD = "the opening whose digest the hospital has signed was handed to nobody"
CHALLENGED = "challenges"  # folder of the auditor's notes, beside the journal


def challenge(
    folder: Path, round: int, slot: int, key: Path | None, now: Callable[[], float] = time.time
) -> dict[str, Any]:
    """Wants a masked update opened, as an auditor.

    Raises:
        LedgerError: fewer than two hospitals of the sum would remain unopened; else as `Challenges.challenge`.
    """
    with opened(folder) as ledger:
        said = _group(folder, ledger, round, slot)
        others = _challenged(ledger, round, sorted(said.masked))
        left = len(said.masked) - len({*others, slot})
        if left < HIDDEN and slot not in others:
            raise LedgerError(
                f"{folder}: of the {len(said.masked)} updates in the sum {len(others)} are challenged already; another one would leave "
                f"{left} unopened, which the sum then tells: at least {HIDDEN} must hide each other"
            )
        ledger.challenges.challenge(round, slot, auditor(ledger, key))
        until = int(now()) + ANSWER_TIME
        notes = folder / "ledger" / CHALLENGED
        notes.mkdir(exist_ok=True)
        proofs.write(notes / f"{round:05d}-{slot:04d}.json", {"round": round, "hospital": slot, "until": until})
        return {"round": round, "hospital": slot, "until": until, "unopened": left}


def unlock(folder: Path, round: int, slot: int, chunks: int | None, out: Path) -> dict[str, Any]:
    """Opens a hospital's masked update, with its key; where it was challenged, the contract is told the digest.

    Args:
        chunks: so many of those that the head of the round draws; None: all of the update.

    Raises:
        LedgerError, MaskError: there is no such update, or the key is another.
    """
    if out.exists():
        raise LedgerError(f"{out}: is there already; name another file")
    with opened(folder) as ledger:
        said = _group(folder, ledger, round, slot)
        key = _key(folder, ledger, slot)
        own = Own(slot, _secret(folder, ledger, slot, key), said.terms, said.keys[slot].commitment)
        hidden: np.ndarray = archive.read(folder / "ledger", round)[tensor_name(slot)]
        if chunks is None:
            document = opening.whole(own, said, hidden)
        else:
            document = opening.some(own, said, hidden, ledger.rounds.sealed(round).head, chunks)
        proofs.write(out, document)
        told = False
        if slot in _challenged(ledger, round, [slot]) and chunks is None:
            ledger.challenges.answer(round, slot, json_hash(document), key)
            told = True
        others = _challenged(ledger, round, [s for s in said.masked if s != slot])
        left = len(said.masked) - len(others) - (chunks is None)
        return {"round": round, "hospital": slot, "file": str(out), "answered": told, "unopened": left}


def withheld(folder: Path, round: int, slot: int, key: Path | None) -> dict[str, Any]:
    """Decides on a hospital that has answered a challenge and hands its opening to nobody; an auditor's word, which nothing proves.

    Raises:
        LedgerError: it has not answered.
    """
    with opened(folder) as ledger:
        said = _group(folder, ledger, round, slot)
        ledger.challenges.decide(round, slot, True, json_hash([WITHHELD]), auditor(ledger, key))
        others = _challenged(ledger, round, [s for s in said.masked if s != slot])
        left = len(said.masked) - len(others)
        return {"round": round, "hospital": slot, "fraud": True, "reasons": [WITHHELD], "unopened": left, "told": True}


def judge(
    folder: Path, round: int, slot: int, file: Path, bound: float | None, key: Path | None, tell: bool
) -> dict[str, Any]:
    """Judges an opening; with `tell` an auditor's judgement of an answered challenge goes onto the chain.

    Raises:
        LedgerError: the file is no opening, or, to tell, not the one whose digest the hospital has signed.
    """
    document = read_document(file)
    with Evidence(folder) as evidence:
        case = _last(read(evidence))
        if case is None:
            raise LedgerError(f"{folder}: its journal does not say what it belongs to")
        found: Judgement = judged(case, round, slot, document, bound, _opened_before(case, round, slot))
    done = {
        "round": round,
        "hospital": slot,
        "fraud": found.fraud,
        "reasons": list(found.reasons),
        "unopened": found.unopened,
        "largest": found.largest,
        "chunks": found.chunks,
        "opened": found.opened,
        "escapes": found.escapes(max(1, found.chunks // 10)),
        "told": tell,
    }
    if tell:
        with opened(folder) as ledger:
            state = ledger.challenges.state(round, slot)
            if state["opening"] != json_hash(document):
                raise LedgerError(f"{file}: is not the opening whose digest hospital {slot} has signed")
            reasons = json_hash(list(found.reasons))
            ledger.challenges.decide(round, slot, found.fraud, reasons, auditor(ledger, key))
    return done


def overdue(folder: Path, round: int, slot: int, now: Callable[[], float] = time.time) -> dict[str, Any]:
    """Takes a hospital's silence for fraud, after its time.

    Raises:
        LedgerError: nobody has challenged it, or it may still answer; by the embedded chain's clock, which is one for all, another
            one may.
    """
    with opened(folder) as ledger:
        if ledger.book.chain.name == "embedded":  # whose clock stands still between its blocks
            notes = [read_document(one) for one in sorted((folder / "ledger" / CHALLENGED).glob("*.json"))]
            late = {(note["round"], note["hospital"]): note["until"] for note in notes if now() < note["until"]}
            for (number, other), until in late.items():
                if (number, other) == (round, slot) or ledger.challenges.state(number, other)["status"] == OWES:
                    words = f"hospital {other} may answer in round {number} until {moment(until)}"
                    raise LedgerError(f"{folder}: {words}; the embedded chain has one clock for all")
        ledger.challenges.expire(round, slot)
        return {"round": round, "hospital": slot, "fraud": True}


def _last(reading: Any) -> Any:
    while True:
        try:
            next(reading)
        except StopIteration as end:
            return end.value


def _opened_before(case: Any, round: int, slot: int) -> int:
    """Other hospitals of the same sum that have answered a challenge."""
    said = (
        next((one for one in case.rounds[round].maskings if slot in one.masked), None) if round in case.rounds else None
    )
    answers = [t.arguments["record"] for t in case.transactions if t.purpose == "answer" and t.succeeded]
    told = {record["slot"] for record in answers if record["round"] == round}
    return len(told & {*(said.masked if said else ())} - {slot})


def _challenged(ledger: RunLedger, round: int, slots: Sequence[int]) -> list[int]:
    """Hospitals whose update of a round was challenged."""
    return [slot for slot in slots if ledger.challenges.state(round, slot)["status"] != "NONE"]


def _group(folder: Path, ledger: RunLedger, round: int, slot: int) -> Transcript:
    """What was said in the sum that a hospital was in."""
    texts = maskings(ledger.book, round)
    config = parse(RunConfig, load_config(folder / CONFIG), str(folder / CONFIG)).aggregation.secure
    if texts:
        place = Place(ledger.registry.federation.id, round, ledger.rounds.headers[round - 1].head)
        for said in groups_in(texts, config, place):
            if slot in said.masked:
                return said
    raise LedgerError(f"{folder}: round {round} holds no masked update of hospital {slot}")


def _key(folder: Path, ledger: RunLedger, slot: int) -> bytes:
    config = parse(RunConfig, load_config(folder / CONFIG), str(folder / CONFIG))
    if config.ledger.keystore is None:
        return hospital_key(config.seed, ledger.registry.federation.id, slot)
    return load_key(Path(config.ledger.keystore), slot)


def _secret(folder: Path, ledger: RunLedger, slot: int, key: bytes) -> bytes:
    """What the masks of a hospital follow from; see `Signer.mask_secret`."""
    config = parse(RunConfig, load_config(folder / CONFIG), str(folder / CONFIG))
    drawn = Vault(folder / FOLDER, slot).secret() if config.ledger.keystore is not None else b""
    return keccak(salt(key, ledger.registry.federation.id, 0, SALT_MASKS) + drawn)
