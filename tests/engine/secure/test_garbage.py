"""A hospital that answers garbage of any form, in any step, is lost by name; the sum of the others is right, or there is none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from masking import FEDERATION, HEAD, Group, KeyedVoice

from engine.errors import HospitalError, PulseLedgerError
from engine.messages import Asked, Taken, Update
from engine.secure import protocol
from engine.secure.config import SecureConfig
from engine.secure.part import STEPS, Hidden, Place
from engine.secure.protocol import Dealt, Keys, Masked, Revealed
from engine.secure.round import WITHDRAW, Masks

BAD = 3  # the hospital that sends it
Change = Callable[[Any, "Pool"], Any]


@dataclass
class Pool:
    """Five hospitals of one group, of which one answers what it likes in one step."""

    group: Group
    step: str = ""
    change: Change = lambda answer, pool: answer
    withdrawn: list[int] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)

    def secure(self, step: str, groups: Sequence[Any], notice: Any, ids: Sequence[int]) -> list[Any]:
        if step == WITHDRAW:
            self.withdrawn += ids
            return [None] * len(ids)
        found = []
        for slot in ids:
            try:
                answer = self.group.one(step, slot, groups[0])
            except PulseLedgerError as error:
                answer = HospitalError(slot, 1, "mask", str(error))
            if step == "masked" and isinstance(answer, Masked):
                answer = Hidden(self.group.hidden[slot], answer)
            found.append(answer)
        self.told[step] = dict(zip(ids, found, strict=True))
        return [
            self.change(one, self) if (slot, step) == (BAD, self.step) else one for slot, one in self.told[step].items()
        ]


def summed(pool: Pool, min_hospitals: int | None = 4) -> tuple[Taken, list[str]]:
    """What comes of the round, and why hospitals are not in it."""
    group = pool.group
    config, place = SecureConfig(method="masks"), Place(FEDERATION, 1, HEAD)
    asked = Asked(1, tuple(range(group.hospitals)), np.zeros(group.size - 1, np.float32))
    updates = tuple(Update(slot, None, 1, 0.0, 0) for slot in asked.hospitals)

    def weight(updates: Sequence[Update]) -> int:
        return sum(int(group.updates[one.hospital][-1]) for one in updates)

    masks = Masks(
        pool,
        config,
        lambda asked: (asked.hospitals,),
        lambda notice: place,
        lambda at: KeyedVoice(0),
        weight,
        min_hospitals,
    )
    taken, _ = masks(asked, Taken(updates, (), None), None)
    return taken, [str(error) for error in taken.lost]


class Words(str):
    """Not what it says it is."""


def signed(answer: Any, said: Any, step: int, content: Callable[..., bytes]) -> Any:
    return answer._replace(signature=KeyedVoice(BAD).sign(step, content(said, BAD, answer)))


def of_keys(**values: Any) -> Change:
    """Other keys, under a signature that holds."""

    def change(answer: Keys, pool: Pool) -> Keys:
        return signed(answer._replace(**values), pool.group.terms, protocol.KEYS, protocol.keys_content)

    return change


def as_another(answer: Keys, pool: Pool) -> Keys:
    return of_keys(channel=pool.told["keys"][1].channel)(answer, pool)


ANYTHING: list[Any] = [
    None,
    7,
    "x",
    b"",
    b"\x00" * 31,
    b"\xff" * 33,
    (),
    [],
    {},
    {"a": 1},
    np.zeros(0),
    float("nan"),
    object(),
    Words("y"),
]
LENGTHS = [b"", b"\x01", b"\x01" * 31, b"\x01" * 33, b"\x01" * 4096, None, 5, "0x00"]
GARBAGE: list[tuple[str, str, Change]] = [
    *((step, f"{i}", lambda answer, pool, one=one: one) for step in STEPS for i, one in enumerate(ANYTHING)),
    *(("keys", f"{name} {i}", of_keys(**{name: one})) for name in Keys._fields[:1] for i, one in enumerate(LENGTHS) if isinstance(one, bytes)),
    *(("keys", f"{name} {i}", lambda a, p, name=name, one=one: a._replace(**{name: one})) for name in Keys._fields for i, one in enumerate(LENGTHS)),
    ("keys", "a key that gives no secret", of_keys(pair=bytes(32))),
    ("keys", "the same key twice", of_keys(pair=bytes([9]) + bytes(31), channel=bytes([9]) + bytes(31))),
    *(("dealt", f"sealed {i}", lambda a, p, one=one: a._replace(sealed={**a.sealed, 0: one})) for i, one in enumerate(LENGTHS[:-4] + LENGTHS[-3:])),
    *(("dealt", f"hashes {i}", lambda a, p, one=one: a._replace(hashes={**a.hashes, 0: (one, one)})) for i, one in enumerate(LENGTHS)),
    ("dealt", "to nobody", lambda a, p: Dealt({}, {}, a.signature)),
    ("dealt", "to strangers", lambda a, p: a._replace(hashes={"a": 1}, sealed={-1: b""})),
    ("masked", "float", lambda a, p: a._replace(numbers=a.numbers.astype(np.float64))),
    ("masked", "short", lambda a, p: a._replace(numbers=a.numbers[:-1])),
    ("masked", "long", lambda a, p: a._replace(numbers=np.append(a.numbers, 0))),
    ("masked", "flat no more", lambda a, p: a._replace(numbers=a.numbers[None])),
    ("masked", "list", lambda a, p: a._replace(numbers=a.numbers.tolist())),
    ("masked", "another", lambda a, p: a._replace(numbers=a.numbers + 1)),
    *(("masked", f"digest {i}", lambda a, p, one=one: a._replace(word=Masked(one, one))) for i, one in enumerate(LENGTHS)),
    ("agreed", "another", lambda a, p: a[::-1]),
    *(("revealed", f"share {i}", lambda a, p, one=one: Revealed({**a.own, 0: one}, a.pair)) for i, one in enumerate(LENGTHS)),
    ("revealed", "both of one", lambda a, p: Revealed(a.own, {0: bytes(32)})),
    ("revealed", "none", lambda a, p: Revealed()),
]  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
def test_garbage_in_any_step_loses_its_hospital_alone(step: str):
    group = Group(5)
    for where, what, change in GARBAGE:
        if where != step:
            continue
        pool = Pool(group, step, change)
        taken, why = summed(pool)
        assert [error.hospital for error in taken.lost] == [BAD], what
        assert all("\n" not in words for words in why)
        there = {*range(5)} - ({BAD} if step in STEPS[:3] else set())
        assert taken.summed is not None
        assert (taken.summed[0] == group.sum_of(there)).all(), what
        assert pool.withdrawn == ([BAD] if step in STEPS[:3] else []), what
        with pytest.raises(HospitalError, match=f"hospital {BAD}, round 1, mask"):
            summed(Pool(group, step, change), None)


def test_two_hospitals_with_one_key_are_both_lost_and_named():
    group = Group(7)
    taken, why = summed(Pool(group, "keys", as_another))
    assert [error.hospital for error in taken.lost] == [1, BAD]
    assert all("a key stands twice, advertised by hospital 1, 3" in words for words in why)
    assert (taken.summed[0] == group.sum_of({0, 2, 4, 5, 6})).all()


@pytest.mark.parametrize("step", STEPS)
def test_what_was_said_in_another_round_counts_for_nothing(step: str):
    group, before = Group(5), Pool(Group(5, round=2))
    old = before.group.after("revealed")
    kept = {slot: Hidden(before.group.hidden[slot], word) for slot, word in old.masked.items()}
    answers = {"masked": kept, **{name: getattr(old, name) for name in STEPS if name != "masked"}}
    taken, _ = summed(Pool(group, step, lambda answer, pool: answers[step][BAD]))
    assert [error.hospital for error in taken.lost] == [BAD]


def test_shares_that_one_deals_in_vain_end_the_round_with_its_name():
    """Nobody but their holders can see that shares do not open, so the others cannot tell who lies; but nothing is revealed."""

    def change(answer: Dealt, pool: Pool) -> Dealt:
        return answer._replace(sealed={slot: bytes(80) if slot != BAD else b"" for slot in answer.sealed})

    pool = Pool(Group(5), "dealt", change)
    with pytest.raises(PulseLedgerError, match="the shares that hospital 3 dealt to hospital 0 cannot be opened"):
        summed(pool)
    assert "agreed" not in pool.told


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_next_to_the_wrap_around_are_right_and_beyond_it_refused(sign: int):
    group = Group(4)
    room = (2**63 - 1) // 4
    for slot in group.updates:
        group.updates[slot] = np.full(group.size, sign * room)
    group.owns = {slot: group.own(slot) for slot in group.updates}
    taken, _ = summed(Pool(group))
    assert set(taken.summed[0].tolist()) == {sign * 4 * room}
    group.updates[BAD] = group.updates[BAD] + sign
    group.owns = {slot: group.own(slot) for slot in group.updates}
    taken, why = summed(Pool(group), 3)
    assert [error.hospital for error in taken.lost] == [BAD]
    assert "is so large that the sum over 4 hospitals might not fit" in why[0]


def test_weights_of_zero_are_summed_like_others():
    group = Group(4)
    for slot in group.updates:
        group.updates[slot] = replace_last(group.updates[slot], 0)
    group.owns = {slot: group.own(slot) for slot in group.updates}
    taken, _ = summed(Pool(group))
    assert taken.summed[0][-1] == 0


def replace_last(numbers: np.ndarray, value: int) -> np.ndarray:
    found = numbers.copy()
    found[-1] = value
    return found
