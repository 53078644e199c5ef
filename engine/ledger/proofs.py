"""What a slot of a sealed round holds, as one small file that anyone can check without the run.

    {"format": 1, "domain": {chain_id, contract}, "federation", "header": {fields of Header}, "slot", "leaf", "siblings",
     "update": {fields of ModelUpdate}, "signature", "receipt"}

Bytes are 0x hex, siblings are joined. `update`, its hospital's signature and the coordinator's receipt are null where the
slot is empty. A file with update and signature alone is enough to show the contract an update.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.encoding import canonical_json, hexed, unhexed
from engine.errors import LedgerError
from engine.files import whole
from engine.ledger.format import RUN
from engine.ledger.run import federation_of
from engine.ledger.signing import recover
from engine.ledger.store import read_meta, read_only
from engine.ledger.subjects.updates import (
    Header,
    ModelUpdate,
    Receipt,
    SignedUpdate,
    genesis_header,
    head_of,
    update_leaf,
)
from engine.ledger.trees import EMPTY, levels, path, verify
from engine.ledger.typed import Domain, record_from_json, record_to_json

FORMAT = 1


@dataclass(frozen=True)
class Checked:
    """What a proof shows, once it holds.

    Attributes:
        head: that it leads to; whoever trusts the proof knows this head from elsewhere.
        update: in the slot; None where the slot is empty.
        signer: address that signed the update; "" where the slot is empty.
        promised_by: address that signed the receipt, "" without one.
    """

    round: int
    slot: int
    head: bytes
    update: SignedUpdate | None
    signer: str
    promised_by: str


def prove(folder: Path, round: int, slot: int) -> dict[str, Any]:
    """The proof of what a slot holds in a round, from the journal in a `ledger/` folder, which is not touched.

    Raises:
        LedgerError: there is no journal, no such round or slot, or a row is damaged.
    """
    place = folder / RUN.file
    with read_only(place) as journal:
        meta = read_meta(journal, RUN, place)

        def rows(table: str) -> list[Mapping[str, Any]]:
            one = "" if table == "rounds" else " WHERE round = ?"
            return journal.execute(f"SELECT * FROM {table}{one}", (round,) if one else ()).fetchall()

        return proof_of(meta, rows, round, slot, str(place))


def proof_of(
    meta: Mapping[str, str], rows: Callable[[str], Iterable[Mapping[str, Any]]], round: int, slot: int, source: str
) -> dict[str, Any]:
    """The same from the rows of a journal, wherever they come from; what comes of it holds by itself or is no proof.

    Args:
        rows: table -> its rows, of any rounds; asked for `rounds`, `updates` and `receipts`.
        source: of the rows, for what is said where something is wrong.

    Raises:
        LedgerError: there is no such round or slot, a row is damaged, or the rows do not fit together.
    """
    try:
        document = _document(meta, rows, round, slot, source)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LedgerError(f"{source}: the journal is damaged ({error})") from None
    check(document)
    return document


def _document(
    meta: Mapping[str, str], rows: Callable[[str], Iterable[Mapping[str, Any]]], round: int, slot: int, source: str
) -> dict[str, Any]:
    federation, _ = federation_of(meta, Path(source))
    domain = record_from_json(Domain, meta["domain"])
    rounds = sorted(rows("rounds"), key=lambda row: int(row["round"]))
    updates = {row["slot"]: row for row in rows("updates") if row["round"] == round}
    receipts = {row["slot"]: row["signature"] for row in rows("receipts") if row["round"] == round}
    slots = len(federation.hospitals)
    if not 1 <= round <= len(rounds):
        raise LedgerError(f"{source}: round {round} is not one of the {len(rounds)} rounds")
    if not 0 <= slot < slots:
        raise LedgerError(f"{source}: hospital {slot} is not one of the {slots} hospitals")
    row = rounds[round - 1]
    before = rounds[round - 2]["head"] if round > 1 else genesis_header(domain, federation).head
    content = (row["root"], row["parent_model"], row["model"], row["count"], row["annex"], row["head"])
    tree = levels([updates[i]["leaf"] if i in updates else EMPTY for i in range(slots)])
    own = None
    if slot in updates:
        own = SignedUpdate(record_from_json(ModelUpdate, updates[slot]["record"]), updates[slot]["signature"])
    return {
        "format": FORMAT,
        "domain": json.loads(record_to_json(domain)),
        "federation": hexed(federation.id),
        "header": json.loads(record_to_json(Header(round, before, *content))),
        "slot": slot,
        "leaf": hexed(tree[0][slot]),
        "siblings": hexed(b"".join(path(tree, slot))),
        **update_document(own),
        "receipt": hexed(receipts[slot]) if slot in receipts else None,
    }


def check(document: Any) -> Checked:
    """Check a proof: head, path, leaf and signatures, from the document alone.

    Raises:
        LedgerError: a value is missing or damaged, or does not follow from the others.
    """
    try:
        if repr(document["format"]) != repr(FORMAT):  # True would be equal to 1
            raise LedgerError(f"the proof has format {document['format']!r:.80}, expected {FORMAT}")
        domain = record_from_json(Domain, canonical_json(document["domain"]))
        header = record_from_json(Header, canonical_json(document["header"]))
        federation, slot = unhexed(document["federation"]), document["slot"]
        leaf, joined = unhexed(document["leaf"]), unhexed(document["siblings"])
        update = None if document["update"] is None else signed_update(document)
        receipt = None if document["receipt"] is None else unhexed(document["receipt"])
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(f"the proof is damaged: {error}") from None
    if head_of(header, domain, federation) != header.head:
        raise LedgerError("the head does not follow from the header")
    if leaf != (EMPTY if update is None else update_leaf(update, domain)):
        raise LedgerError("the leaf is not the hash of what the slot holds")
    siblings = [joined[i : i + 32] for i in range(0, len(joined), 32)]
    if type(slot) is not int or not verify(header.root, leaf, slot, 1 << len(siblings), siblings):
        raise LedgerError("the path does not lead from the leaf to the root of the round")
    signer = promised_by = ""
    if update is not None:
        record = update.record
        for name, value in {"federation": federation, "round": header.round, "slot": slot}.items():
            if getattr(record, name) != value:
                raise LedgerError(f"{name} of the signed update is not that of the proof")
        signer = recover(record, update.signature, domain)
    if receipt is not None:
        promised_by = recover(Receipt(federation, header.round, slot, leaf), receipt, domain)
    return Checked(header.round, slot, header.head, update, signer, promised_by)


def signed_update(document: Any) -> SignedUpdate:
    """The update of a document; raises LedgerError when it has none, or a damaged one."""
    try:
        record = record_from_json(ModelUpdate, canonical_json(document["update"]))
        return SignedUpdate(record, unhexed(document["signature"]))
    except (KeyError, TypeError, ValueError, LedgerError) as error:
        raise LedgerError(f"there is no signed update: {error}") from None


def update_document(signed: SignedUpdate | None) -> dict[str, Any]:
    """A signed update as a document that `signed_update` reads; nulls where there is none."""
    if signed is None:
        return {"update": None, "signature": None}
    return {"update": json.loads(record_to_json(signed.record)), "signature": hexed(signed.signature)}


def write(file: Path, document: dict[str, Any]) -> None:
    """Write a document; raises LedgerError when that is not possible."""
    with whole(file, error=LedgerError) as part:
        part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
