"""From masked sums in the loop to what is written down of them, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine.aggregation.masked import weights
from engine.config import RunConfig
from engine.encoding import canonical_json, hexed, read_json, unhexed
from engine.errors import ConfigError, LedgerError, MaskError
from engine.ledger.format import MASKS
from engine.ledger.signer import Notice, Signing
from engine.ledger.store import Rows
from engine.ledger.subjects.masks import StepVoice, masks_digest
from engine.levels.tree import above, members
from engine.messages import Asked, Rule
from engine.secure import protocol
from engine.secure.config import SecureConfig
from engine.secure.part import Place, drawn, terms_of
from engine.secure.protocol import Dealt, Keys, Masked, Revealed, Terms, Transcript
from engine.secure.round import Masking, Masks, plain


def build_masking(
    config: RunConfig, pool: Any, signing: Signing | None, rule: Rule, trainers: Sequence[int], per_round: int
) -> Masking:
    """What hides the updates of a run.

    Args:
        trainers: hospitals that may train.
        per_round: how many of them do, in a round.

    Raises:
        ConfigError: too few hospitals train.
    """
    secure, levels = config.aggregation.secure, config.topology.levels
    if not secure.groups:
        return plain
    if problem := secure.problem(per_round):
        raise ConfigError(f"{problem}. So many have train beats here.")
    assert signing is not None  # no masks without a ledger
    edge_of = [path[0] for path in above(config.cohort.hospitals, levels)] if levels else []

    def groups(asked: Asked) -> Sequence[tuple[int, ...]]:
        if levels:
            return members(edge_of, asked.hospitals, secure.groups)
        return drawn(asked.model, asked.round, asked.hospitals, secure.groups)

    at_edges = [len(one) for one in members(edge_of, trainers, secure.groups)] if levels else []
    if few := [edge for edge, many in enumerate(at_edges) if many < secure.least]:
        raise ConfigError(
            f"aggregation.secure.method masks needs at least {secure.least} hospitals at each edge; edge {few[0]} has fewer with train beats."
        )
    smallest, shares = min(at_edges, default=per_round // secure.groups), config.privacy.honest or 0
    if config.privacy.noised and shares > (most := secure.threshold_in(smallest)):
        raise ConfigError(
            f"privacy.honest is {shares}; of the hospitals with train beats here a sum may have no more than {most}, whose noise would be too little."
        )

    def place(notice: Notice) -> Place:
        return Place(signing.federation, notice.headers[-1].round + 1, notice.headers[-1].head)

    def voice(at: Place) -> StepVoice:
        return StepVoice(signing.domain, at.federation, at.round, at.head, signing.holders)

    return Masks(pool, secure, groups, place, voice, weights(rule.spec["weighting"]), config.federation.min_hospitals)


def text_of(said: Transcript) -> str:
    """What was said in a group, canonical JSON, without the shares that stay encrypted; lists are in the order of slots.

    keys        slot, channel key, mask key, hash of the own mask's seed, commitment, signature
    dealt       slot, for each with keys the hashes of its two shares, signature
    masked      slot, SHA-256 of the masked update, signature
    agreed      slot, signature
    revealed    slot, its shares of the own masks of all in `masked`, of the mask keys of those in `dealt` beyond
    """
    return canonical_json(
        {
            "members": list(said.members),
            "threshold": said.terms.threshold,
            "keys": [[slot, *map(hexed, one)] for slot, one in sorted(said.keys.items())],
            "dealt": [[slot, _joined(_hashes(one)), hexed(one.signature)] for slot, one in sorted(said.dealt.items())],
            "masked": [[slot, *map(hexed, one)] for slot, one in sorted(said.masked.items())],
            "agreed": [[slot, hexed(one)] for slot, one in sorted(said.agreed.items())],
            "revealed": [
                [slot, _joined(_sorted(one.own)), _joined(_sorted(one.pair))]
                for slot, one in sorted(said.revealed.items())
            ],
        }
    )


def said_in(text: str, group: int, terms: Terms) -> Transcript:
    """Read what `text_of` wrote.

    Raises:
        LedgerError: it is damaged.
    """
    try:
        found = read_json(text)
        keys = {row[0]: Keys(*map(unhexed, row[1:])) for row in found["keys"]}
        masked = {row[0]: Masked(*map(unhexed, row[1:])) for row in found["masked"]}
        dealt = {slot: _dealt(keys, hashes, signature) for slot, hashes, signature in found["dealt"]}
        gone = sorted(dealt.keys() - masked.keys())
        revealed = {
            slot: Revealed(_named(sorted(masked), own), _named(gone, pair)) for slot, own, pair in found["revealed"]
        }
        agreed = {slot: unhexed(signature) for slot, signature in found["agreed"]}
        return Transcript(terms, group, tuple(found["members"]), keys, dealt, masked, agreed, revealed)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise LedgerError(f"what is written down of masked sums is damaged ({error})") from None


def rows(round: int, groups: Sequence[Transcript]) -> Rows:
    """As the journal holds the masked sums of a round."""
    return {"maskings": [(round, said.group, text_of(said)) for said in groups]} if groups else {}


def digests(groups: Sequence[Transcript]) -> dict[str, bytes]:
    """What a round's annex names of its masked sums."""
    return {MASKS: masks_digest([text_of(said) for said in groups])} if groups else {}


def groups_in(texts: Sequence[str], config: SecureConfig, place: Place) -> tuple[Transcript, ...]:
    """What was said in the groups of a round, under the terms of the configuration.

    Raises:
        LedgerError: it is damaged.
    """
    found = []
    for group, text in enumerate(texts):
        said = said_in(text, group, Terms(b"", 0, 0))
        found.append(replace(said, terms=terms_of(config, place, group, len(said.members))))
    return tuple(found)


def sums_of(groups: Sequence[Transcript], vectors: Mapping[int, np.ndarray]) -> np.ndarray:
    """The sums int64[groups, parameters + 1] beneath masked updates, by slot.

    Raises:
        LedgerError: what was said does not lead to them.
    """
    try:
        return np.stack([protocol.summed(one, vectors) for one in groups])
    except (MaskError, ValueError, KeyError) as error:
        raise LedgerError(f"masked sums cannot be computed again ({error})") from None


def require_named(groups: Sequence[Transcript], slot: int, vector: np.ndarray) -> bytes:
    """The commitment that a hospital has signed as its update, whose masked form is `vector`.

    Raises:
        LedgerError: it is not.
    """
    said = next((one for one in groups if slot in one.masked), None)
    if said is None or vector.dtype != np.int64 or protocol.digest_of(vector) != said.masked[slot].digest:
        raise LedgerError(f"the masked update of hospital {slot} that is shown is not the one that it signed")
    return said.keys[slot].commitment


def _hashes(dealt: Dealt) -> list[bytes]:
    return [part for slot in sorted(dealt.hashes) for part in dealt.hashes[slot]]


def _dealt(keys: Mapping[int, Any], hashes: str, signature: str) -> Dealt:
    parts = _parts(hashes)
    pairs = dict(zip(sorted(keys), zip(parts[::2], parts[1::2], strict=True), strict=True))
    return Dealt({}, pairs, unhexed(signature))


def _sorted(shares: Mapping[int, bytes]) -> list[bytes]:
    return [shares[slot] for slot in sorted(shares)]


def _named(slots: Sequence[int], shares: str) -> dict[int, bytes]:
    return dict(zip(slots, _parts(shares), strict=True))


def _joined(parts: Sequence[bytes]) -> str:
    return hexed(b"".join(parts))


def _parts(text: str) -> list[bytes]:
    raw = unhexed(text)
    if len(raw) % 32:
        raise ValueError("not in parts of 32 bytes")
    return [raw[i : i + 32] for i in range(0, len(raw), 32)]
