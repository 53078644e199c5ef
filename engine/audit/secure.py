"""Masked sums: who was in a group, that each hospital signed every step, and that no secret but those of the masks was told.

The sums themselves are computed in `vectors.py`, from what is archived and what `lifted` finds here.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from engine.audit import challenges, levels, masks, spec
from engine.audit.case import Case, Round
from engine.audit.masks import Said
from engine.audit.records import check_signature
from engine.audit.report import Count, Told, finding
from engine.ledger.format import MASKS

STEPS = ("keys", "dealt", "masked", "agreed")
_PURPOSES = (b"own", b"pair")


class Lifted(NamedTuple):
    """What the masks of a group follow from: seeds of those in the sum, mask keys of those who were lost."""

    seeds: Mapping[int, bytes]
    pairs: Mapping[int, bytes]


def settings_of(case: Case) -> Mapping[str, Any]:
    """The section of the configuration; {} where nothing is hidden."""
    merging = case.config.get("aggregation")
    found = merging.get("secure") if isinstance(merging, Mapping) else None
    return found if isinstance(found, Mapping) and found.get("method") != "none" else {}


def check(case: Case) -> Iterator[Told]:
    """Check every round."""
    settings = settings_of(case)
    for number, entry in sorted(case.rounds.items()):
        named = entry.digests.get(MASKS, spec.ZERO)
        if case.config and not settings:
            if entry.maskings or named != spec.ZERO:
                message = "updates of the round were masked, but the configuration hides none"
                yield finding("masks", "method", "none", "masks", message, round=number)
            continue
        expected = spec.json_hash([said.text for said in entry.maskings]) if entry.maskings else spec.ZERO
        if named != expected:
            message = "what was said of masked sums is not what the head of the round commits to"
            yield finding("annex", MASKS, expected, named, message, round=number)
        if settings:
            yield from _check_groups(case, number, entry, settings)
        for group, said in enumerate(entry.maskings):
            yield Count("masked sums")
            context = context_of(case, number, group)
            yield from _check_sets(number, said)
            yield from _check_signed(case, number, said, context)
            yield from _check_shares(number, said, context)
    if settings and case.ending == "complete":
        parameters = case.federation.parameters
        came = {number: [*entry.updates] for number, entry in case.rounds.items()}
        yield from levels.check(case, came, parameters, 8 * (parameters + 1))
    yield from challenges.check(case)


def context_of(case: Case, number: int, group: int) -> bytes:
    """What a group of a round is bound to."""
    return masks.context_of(case.federation.id, number, case.head(number - 1), group)


def _check_groups(case: Case, number: int, entry: Round, settings: Mapping[str, Any]) -> Iterator[Told]:
    """As many groups as the configuration wants, drawn from the model, and all updates of the round in their sums."""
    wanted, least, threshold = settings.get("buckets") or 1, settings.get("min_summands"), settings.get("threshold")
    if len(entry.maskings) != wanted:
        message = "the round has another number of masked sums than the configuration wants"
        yield finding("masks", "buckets", wanted, len(entry.maskings), message, round=number)
        return
    asked = sorted(slot for said in entry.maskings for slot in said.members)
    if levels.levels_of(case):
        right, message = levels.edges_of(case, asked), "the groups of masked sums are not the hospitals of each edge"
    else:
        right = masks.drawn(case.model_before(number), number, asked, int(wanted))
        message = "the groups of masked sums are not those that are drawn from the model"
    if [list(said.members) for said in entry.maskings] != right:
        yield finding("masks", "members", right, [list(s.members) for s in entry.maskings], message, round=number)
    summed = sorted(slot for said in entry.maskings for slot in said.masked)
    if summed != sorted(entry.updates):
        message = "the hospitals in masked sums are not those whose updates are in the round"
        yield finding("masks", "masked", sorted(entry.updates), summed, message, round=number)
    for said in entry.maskings:
        needed = 2 * len(said.members) // 3 + 1 if threshold == "auto" else threshold
        if said.threshold != needed:
            message = "the threshold of a masked sum is not that of the configuration"
            yield finding("masks", "threshold", needed, said.threshold, message, round=number)
        if type(least) is int and len(said.masked) < least:
            message = "a masked sum has fewer updates than the configuration allows"
            yield finding("masks", "min_summands", least, len(said.masked), message, round=number)
    known = masks.commitments(entry.maskings)
    for slot, update in sorted(entry.updates.items()):
        if update.record is not None and slot in known and update.record["update"] != known[slot]:
            message = "the commitment beneath the masks is not the one that the hospital signed as its update"
            yield finding("masks", "commitment", update.record["update"], known[slot], message, round=number, hospital=slot)  # fmt: skip


def _check_sets(number: int, said: Said) -> Iterator[Told]:
    """Each step is answered by some of those before it, by the threshold at least."""
    steps: Sequence[tuple[str, set[int]]] = (
        ("members", {*said.members}),
        *((step, {*getattr(said, step)}) for step in STEPS),
        ("revealed", {*said.revealed}),
    )
    for (before, known), (step, found) in pairwise(steps):
        if stranger := found - known:
            message = f"a hospital answered a step of masked sums ({step}) without the one before ({before})"
            yield finding("masks", step, sorted(known), sorted(found), message, round=number, hospital=min(stranger))
        if len(found) < said.threshold:
            message = f"fewer hospitals than the threshold answered a step of masked sums ({step})"
            yield finding("masks", step, said.threshold, len(found), message, round=number)


def _check_signed(case: Case, number: int, said: Said, context: bytes) -> Iterator[Told]:
    contents, signed = masks.contents(said, context), masks.signatures(said)
    for step, name in enumerate(STEPS):
        for slot, content in sorted(contents[step].items()):
            where = {"round": number, "hospital": slot}
            if slot not in case.federation.slots:
                yield finding("masks", name, "a hospital", slot, "a step of masked sums is of no hospital", **where)
                continue
            values = {
                "federation": case.federation.id,
                "round": number,
                "slot": slot,
                "parentHead": case.head(number - 1),
                "step": step,
                "content": content,
            }
            digest = spec.typed_digest("MaskStep", values, case.domain)
            yield Count("steps")
            yield from check_signature(digest, signed[step][slot], case.holder(slot, number), "masks", name, where)


def _check_shares(number: int, said: Said, context: bytes) -> Iterator[Told]:
    """Every share that was told is one that its dealer signed; the secrets behind them are those that were signed."""
    for holder, both in sorted(said.revealed.items()):
        for which, purpose in enumerate(_PURPOSES):
            for dealer, share in both[which].items():
                expected = said.dealt[dealer][0][holder][which] if holder in said.keys and dealer in said.dealt else b""
                if masks.share_hash(context, purpose, dealer, holder, share) != expected:
                    message = f"a share of hospital {dealer} is not the one that it signed for its holder"
                    yield finding("masks", "revealed", expected, share, message, round=number, hospital=holder)
    lifted = lifted_of(said)
    for slot, seed in sorted(lifted.seeds.items()):
        if masks.seal(context, slot, seed) != said.keys[slot].seal:
            message = "the shares of the hospital do not give the seed of its mask that it signed"
            yield finding("masks", "seal", said.keys[slot].seal, masks.seal(context, slot, seed), message, round=number, hospital=slot)  # fmt: skip
    for slot, private in sorted(lifted.pairs.items()):
        if masks.public(private) != said.keys[slot].pair:
            message = "the shares of the hospital do not give the mask key that it advertised"
            yield finding("masks", "pair", said.keys[slot].pair, masks.public(private), message, round=number, hospital=slot)  # fmt: skip


def lifted_of(said: Said) -> Lifted:
    """The secrets behind the shares that were told, as far as there are enough of them."""
    if len(said.revealed) < max(said.threshold, 1):
        return Lifted({}, {})

    def behind(which: int, slots: Sequence[int]) -> dict[int, bytes]:
        shares = {slot: {holder: both[which][slot] for holder, both in said.revealed.items()} for slot in slots}
        return {slot: masks.secret(one, said.threshold) for slot, one in shares.items() if slot in said.keys}

    return Lifted(behind(0, sorted(said.masked)), behind(1, said.gone))
