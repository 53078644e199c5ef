"""Masked sums of one group: the sum to the bit for every pattern of losses, and nothing else for anybody."""

from dataclasses import replace
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from masking import STEPS, Group, KeyedVoice

from engine.errors import MaskError
from engine.secure import protocol
from engine.secure.protocol import (
    Keys,
    Revealed,
    Transcript,
    require_dealt,
    require_masked,
    require_revealed,
    secrets_of,
    summed,
    survivors_content,
    threshold_of,
)
from engine.secure.shamir import dealt


def subsets(slots):
    return [set(some) for size in range(len(slots) + 1) for some in combinations(sorted(slots), size)]


def test_the_threshold_is_above_two_thirds():
    assert [threshold_of(n) for n in (3, 4, 5, 10, 20)] == [3, 3, 4, 7, 14]


@pytest.mark.parametrize("hospitals", [4, 5])
def test_every_pattern_of_losses_gives_the_plain_sum_or_nothing(hospitals: int):
    """All subsets that may answer in each step: with the threshold the sum is that without masks, below it every step refuses."""
    group, sums, refusals = Group(hospitals), 0, 0

    def follow(said: Transcript, steps: tuple[str, ...], present: set[int]) -> None:
        nonlocal sums, refusals
        if not steps:
            found = summed(said, {slot: group.hidden[slot] for slot in said.masked})
            assert found.tolist() == group.sum_of(said.masked).tolist()
            sums += 1
            return
        for left in subsets(present):
            after = group.told(said, steps[0], sorted(left))
            if len(left) >= group.terms.threshold:
                follow(after, steps[1:], left)
                continue
            refusals += 1
            last, somebody = len(steps) == 1, next(iter(left), 0)
            with pytest.raises(MaskError, match="threshold"):
                summed(after, group.hidden) if last else group.one(steps[1], somebody, after)

    follow(group.said(), STEPS, set(range(hospitals)))
    assert sums == 1 + 5 * hospitals  # one is lost in one of five steps, or nobody
    assert refusals > 100


def test_a_sum_of_two_is_refused_though_the_threshold_would_do():
    group = Group(3)
    group.terms = group.terms._replace(threshold=2)
    group.owns = {slot: group.own(slot) for slot in group.updates}
    said = group.after("masked", {"masked": {2}})
    with pytest.raises(MaskError, match="at least 3 is wanted"):
        group.one("agreed", 0, said)


def test_what_one_sends_tells_nothing_of_what_it_hides():
    """Chi-square of the bytes over 256 values: 255 degrees of freedom, standard deviation 22.6; zeros would give millions."""
    group = Group(3, size=20_000)
    group.updates[0] = np.zeros(20_000, np.int64)
    group.owns[0] = group.own(0)
    group.after("masked")
    counts = np.bincount(group.hidden[0].view(np.uint8), minlength=256)
    expected = 8 * 20_000 / 256
    assert float(((counts - expected) ** 2 / expected).sum()) < 255 + 6 * 22.6


def test_two_rounds_with_the_same_update_differ_everywhere():
    one, two = Group(3, round=1), Group(3, round=2)
    for group in (one, two):
        group.after("masked")
    assert all((one.hidden[slot] != two.hidden[slot]).all() for slot in range(3))


def test_another_update_in_the_same_round_has_other_masks():
    """Else whoever asks a hospital twice would see the difference of its updates."""
    group, again = Group(3), Group(3)
    again.updates[0] = again.updates[0] + 1
    again.owns[0] = again.own(0)
    assert not {*secrets_of(group.owns[0])} & {*secrets_of(again.owns[0])}


def test_no_coordinator_gets_both_secrets_of_anybody():
    """Every pair of sets that it may show, to every division of four hospitals, each of which signs one set only."""
    group = Group(4)
    said = group.after("masked")
    sets = [some for some in subsets(said.masked) if len(some) >= 3]
    shown = {frozenset(some): replace(said, masked={s: said.masked[s] for s in some}) for some in sets}
    signed = {(slot, some): protocol.agree(group.owns[slot], one, KeyedVoice(slot)) for some, one in shown.items() for slot in some}  # fmt: skip
    for one, other in product(shown, repeat=2):
        for choice in product((one, other), repeat=4):
            open_to = set()
            for some in {one, other}:
                agreed = {slot: signed[slot, some] for slot in some if choice[slot] == some}
                if len(agreed) >= group.terms.threshold:
                    open_to.add(some)
            assert len(open_to) <= 1
    for some, one in shown.items():
        mixed = {slot: signed[slot, next(other for other in shown if other != some and slot in other)] for slot in some}
        with pytest.raises(MaskError, match="has not signed"):
            protocol.unmask(group.owns[min(some)], replace(one, agreed=mixed), KeyedVoice(min(some)))


def test_what_is_revealed_are_shares_of_one_secret_of_each():
    group = Group(5)
    said = group.after("revealed", {"masked": {4}})
    for revealed in said.revealed.values():
        assert ({*revealed.own}, {*revealed.pair}) == ({0, 1, 2, 3}, {4})
    both = Revealed({**said.revealed[0].own, 4: bytes(32)}, said.revealed[0].pair)
    with pytest.raises(MaskError, match="exactly the shares"):
        require_revealed(said, 0, both)


def test_an_entry_that_could_make_the_sum_wrap_is_refused_before_it_is_masked():
    room = (2**63 - 1) // 4
    for largest, fits in ((room, True), (room + 1, False), (-room, True), (-room - 1, False), (-(2**63), False)):
        group = Group(4)
        group.updates[1][7] = largest
        group.owns[1] = group.own(1)
        said = group.after("dealt")
        if fits:
            group.one("masked", 1, said)
        else:
            with pytest.raises(MaskError, match="wrap unseen"):
                group.one("masked", 1, said)


def test_another_update_than_was_committed_to_is_not_masked():
    group = Group(4)
    said = group.after("dealt")
    group.updates[1] = group.updates[1] + 1
    with pytest.raises(MaskError, match="not the one that it has committed to"):
        group.one("masked", 1, said)


# --- What goes astray -------------------------------------------------------------------------------------------------


def flipped(value: Any) -> list[Any]:
    """The same with one bit of one byte string changed, for each of them."""
    if isinstance(value, bytes):
        return [] if not value else [value[:-1] + bytes([value[-1] ^ 1]), bytes([value[0] ^ 128]) + value[1:]]
    if isinstance(value, dict):
        return [{**value, key: other} for key, part in value.items() for other in flipped(part)]
    parts = list(value)
    return [
        type(value)(*parts[:i], other, *parts[i + 1 :])
        if hasattr(value, "_fields")
        else (*parts[:i], other, *parts[i + 1 :])
        for i, part in enumerate(parts)
        for other in flipped(part)
    ]


def played(group: Group, said: Transcript, step: str, checks: bool) -> np.ndarray:
    """The rest of a round after a step, with hospitals that refuse taken for lost; `checks`: the coordinator's own."""
    voice = KeyedVoice(99)
    hidden = dict(group.hidden)
    for at in STEPS[STEPS.index(step) :]:
        if at != step:
            answers = {}
            before = {"dealt": said.keys, "masked": said.dealt, "agreed": said.masked, "revealed": said.agreed}[at]
            for slot in before:
                try:
                    answers[slot] = group.one(at, slot, said)
                except MaskError:
                    continue
            said = replace(said, **{at: answers})
            hidden |= group.hidden
        if checks and at == "dealt":
            for slot, shares in said.dealt.items():
                require_dealt(said, slot, shares, voice)
        if checks and at == "masked":
            for slot, masked in said.masked.items():
                require_masked(said, slot, masked, voice)
        if checks and at == "revealed":
            for slot, revealed in said.revealed.items():
                require_revealed(said, slot, revealed)
    return summed(said, {slot: hidden[slot] for slot in said.masked})


@pytest.mark.parametrize("step", STEPS)
def test_a_flipped_bit_in_any_message_never_gives_another_sum(step: str):
    group = Group(3)
    said = group.after(step)
    expected = group.sum_of(range(3)).tolist()
    refused = 0
    for other in flipped(getattr(said, step)):
        for checks in (True, False):
            try:
                found = played(group, replace(said, **{step: other}), step, checks).tolist()
            except MaskError:
                refused += 1
                continue
            assert found == expected
    assert refused > 3


@pytest.mark.parametrize("step", STEPS[:-1])
def test_what_belongs_to_another_slot_round_or_federation_is_refused_by_name(step: str):
    group = Group(3)
    said = group.after(step)
    following = STEPS[STEPS.index(step) + 1]
    mine = getattr(said, step)
    strangers = {
        "another slot": {**mine, 1: mine[2]},
        "another round": {**mine, 1: getattr(Group(3, round=2).after(step), step)[1]},
        "another federation": {**mine, 1: getattr(Group(3, federation=b"o" * 32).after(step), step)[1]},
    }
    for what, other in strangers.items():
        if step == "masked":  # what a survivor has sent is looked at by whoever routes it, and by whoever opens
            with pytest.raises(MaskError, match="has not signed"):
                require_masked(said, 1, other[1], KeyedVoice(0))
            continue
        with pytest.raises(MaskError, match=r"hospital 1|cannot be opened") as refusal:
            group.one(following, 0, replace(said, **{step: other}))
        assert "hospital" in str(refusal.value), what


def test_a_hospital_whose_own_keys_were_exchanged_deals_no_shares():
    group = Group(3)
    said = group.after("keys")
    private = b"\x05" * 32
    forged = Keys(protocol.masks.public(private), said.keys[0].pair, said.keys[0].seal, said.keys[0].commitment, b"")
    forged = forged._replace(signature=KeyedVoice(0).sign(protocol.KEYS, protocol.keys_content(said.terms, 0, forged)))
    with pytest.raises(MaskError, match="other keys of its own"):
        group.one("dealt", 0, replace(said, keys={**said.keys, 0: forged}))


def test_a_key_that_stands_twice_is_refused():
    group = Group(3)
    said = group.after("keys")
    twice = said.keys[1]._replace(pair=said.keys[2].pair)
    twice = twice._replace(signature=KeyedVoice(1).sign(protocol.KEYS, protocol.keys_content(said.terms, 1, twice)))
    with pytest.raises(MaskError, match=r"hospital \d advertises a key that is none, or that of hospital \d"):
        group.one("dealt", 0, replace(said, keys={**said.keys, 1: twice}))


def test_hospitals_that_were_shown_different_keys_open_no_shares_of_each_other():
    group, said = Group(4), Group(4).after("keys")
    fewer = replace(said, keys={slot: said.keys[slot] for slot in (0, 1, 2)})
    mixed = replace(said, dealt={slot: group.one("dealt", slot, fewer if slot == 1 else said) for slot in range(4)})
    with pytest.raises(MaskError, match="hospital 1"):
        group.one("masked", 0, mixed)


@pytest.mark.parametrize(("gone", "what"), [({}, "seed"), ({"masked": {3}}, "mask key")])
def test_a_dealer_that_shares_something_else_is_named(gone: dict[str, set[int]], what: str):
    group = Group(4)
    said = group.after("revealed", gone)
    shares = dealt([9, 1, 2], range(4))
    place = "pair" if gone else "own"
    lied = {
        holder: one._replace(**{place: {**getattr(one, place), 3: shares[holder].to_bytes(32, "big")}})
        for holder, one in said.revealed.items()
    }
    with pytest.raises(MaskError, match=f"hospital 3 has dealt shares of another {what}"):
        summed(replace(said, revealed=lied), group.hidden)


def test_the_set_that_is_signed_names_what_each_has_sent():
    said = Group(3).after("masked")
    other = replace(said, masked={**said.masked, 1: said.masked[1]._replace(digest=bytes(32))})
    assert survivors_content(said) != survivors_content(other)
