"""Rounds: updates and their signatures, openings, the tree, the annex, the chain of heads, receipts.

Every link is held against its neighbours as they are recorded, so one changed value shows where it is and not in every round after it.
"""

import json
from collections.abc import Iterator

from engine.audit import spec
from engine.audit.case import Case, Round, Update
from engine.audit.records import check_signature
from engine.audit.report import Count, Note, Told, finding
from engine.audit.spec import Record
from engine.ledger.format import (
    ASSOCIATION,
    CLOCK,
    COMMITTEE,
    DECISIONS,
    MASKS,
    MEAN,
    PRIVACY,
    REWARDS,
    SCHEMA,
    SCORES,
    SERVER,
)


def check(case: Case) -> Iterator[Told]:
    """Check each round, and what the coordinator signed of it."""
    for number, entry in sorted(case.rounds.items()):
        for slot, update in sorted(entry.updates.items()):
            yield from _check_update(case, number, slot, update)
        yield from _check_links(case, number, entry)
        yield from _check_annex(number, entry)
        yield from _check_receipts(case, number, entry)


def _check_update(case: Case, number: int, slot: int, update: Update) -> Iterator[Told]:
    record = update.record
    if record is None:
        return
    where = {"round": number, "hospital": slot}
    expected = {
        "schema": SCHEMA,
        "federation": case.federation.id,
        "round": number,
        "slot": slot,
        "parent_model": case.rounds[number].parent_model,
        "parent_head": case.head(number - 1),
        "config_hash": case.federation.config_hash,
    }
    most = case.rule.settings.get("max_staleness") if case.rule.name == MEAN else 0
    oldest = number - 1 - most if type(most) is int and 0 < most <= 1000 else number - 1
    if record["parent_model"] in {case.model_after(n) for n in range(max(0, oldest), number - 1)}:
        del expected["parent_model"]  # from which of them its work began, the clock says
    for name, value in expected.items():
        if record[name] != value:
            message = f"{name} of the signed record is not that of the run"
            yield finding("update", name, value, record[name], message, **where)
    yield Count("signatures")
    digest = record.digest(case.domain)
    yield from check_signature(digest, update.signature, case.holder(slot, number), "update", "signature", where)
    if update.leaf is not None and spec.update_leaf(record, update.signature, case.domain) != update.leaf:
        leaf = spec.update_leaf(record, update.signature, case.domain)
        message = "the leaf is not the hash of the record and its signature"
        yield finding("update", "leaf", leaf, update.leaf, message, **where)
    if update.opening is not None:
        yield from _check_opening(update, record, where)
    yield from _check_erasure(case, update, where)


def _check_opening(update: Update, record: Record, where: dict[str, int]) -> Iterator[Told]:
    opening = update.opening
    assert opening is not None
    yield Count("openings")
    values = {
        "samples": spec.commitment(opening.samples_salt, opening.samples),
        "metrics": spec.commitment(opening.metrics_salt, spec.sha256(opening.metrics)),
        "privacy": spec.ZERO
        if opening.privacy is None
        else spec.counted_hash(opening.privacy, json.loads(opening.privacy).get("spent")),
    }
    for name, value in values.items():
        if value != record[name]:
            message = f"the opening is not what the hospital committed to as {name}"
            yield finding("opening", name, record[name], value, message, **where)


def _check_erasure(case: Case, update: Update, where: dict[str, int]) -> Iterator[Told]:
    """An opening is there, or its hospital has signed that it was erased."""
    if update.erasure is None:
        if update.opening is None and not case.public:
            message = "the opening is missing, and the hospital has not signed that it was erased"
            yield finding("opening", "opening", "an opening or an erasure", None, message, **where)
        return
    values = {"federation": case.federation.id, **{"round": where["round"], "slot": where["hospital"]}}
    digest = spec.typed_digest("Erasure", values | {"leaf": update.leaf or spec.ZERO}, case.domain)
    holder = case.holder(where["hospital"])
    right = yield from check_signature(digest, update.erasure, holder, "erasure", "signature", where)
    if update.opening is not None:
        yield finding("erasure", "slot", "no opening", "one", "the opening is there that was to be erased", **where)
    elif right:
        words = (
            f"round {where['round']}, hospital {where['hospital']}: the hospital has erased its weight and its metrics"
        )
        yield Note(words, unchecked=True)


def _check_links(case: Case, number: int, entry: Round) -> Iterator[Told]:
    """Model, number of updates, tree and head of a round against the round before it."""
    federation, known = case.federation, case.known_before(number)
    if known and entry.parent_model != case.model_before(number):
        message = "the round does not start from the model that the round before ended with"
        yield finding("round", "parent_model", case.model_before(number), entry.parent_model, message, round=number)
    if case.rule.weighting == "none" and entry.model != entry.parent_model:
        message = "the model changed in a federation that does not aggregate"
        yield finding("round", "model", entry.parent_model, entry.model, message, round=number)
    if entry.count != len(entry.updates):
        message = "the number of updates is not the recorded one"
        yield finding("round", "count", len(entry.updates), entry.count, message, round=number)
    if len(entry.updates) < federation.quorum:
        message = "the round has fewer updates than its quorum"
        yield finding("round", "quorum", federation.quorum, len(entry.updates), message, round=number)
    leaves = [entry.updates[slot].leaf if slot in entry.updates else None for slot in federation.slots]
    root = spec.tree_root([leaf or spec.EMPTY_SLOT for leaf in leaves])
    if root != entry.root:
        message = "the tree over the recorded leaves has another root"
        yield finding("round", "root", root, entry.root, message, round=number)
    if known and 0 <= entry.count < 1 << 32:
        head = spec.next_head(case.domain, federation.id, case.header(number) or {})
        if head != entry.head:
            message = "the head does not follow from the head before it and this round"
            yield finding("round", "head", head, entry.head, message, round=number)


def _check_annex(number: int, entry: Round) -> Iterator[Told]:
    known_names = (ASSOCIATION, CLOCK, COMMITTEE, DECISIONS, MASKS, PRIVACY, REWARDS, SCORES, SERVER)
    for name in sorted(entry.digests.keys() - set(known_names)):
        message = f"nobody knows what the {name} of a round are"
        known = ", ".join(known_names)
        yield finding("annex", "name", known, name, message, round=number)
    if list(entry.digests) != sorted(entry.digests, key=lambda name: name.encode()):
        message = "the digests of the round are not in the order of their names"
        yield finding("annex", "name", sorted(entry.digests), list(entry.digests), message, round=number)
    annex = spec.annex_root(entry.digests)
    if annex != entry.annex:
        message = "the tree over the recorded digests has another root"
        yield finding("round", "annex", annex, entry.annex, message, round=number)


def _check_receipts(case: Case, number: int, entry: Round) -> Iterator[Told]:
    for slot, update in sorted(entry.updates.items()):
        where = {"round": number, "hospital": slot}
        if update.receipt is None:
            yield finding("receipt", "signature", "a receipt", None, "the update has no receipt", **where)
        elif update.leaf is not None:
            yield Count("receipts")
            values = {"federation": case.federation.id, "round": number, "slot": slot, "leaf": update.leaf}
            digest = spec.typed_digest("Receipt", values, case.domain)
            yield from check_signature(digest, update.receipt, case.leader(number), "receipt", "signature", where)
