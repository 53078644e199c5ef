"""Hospitals of one group of masked sums, without a federation around them.

group = Group(4)
said = group.told(group.said(), "masked", [0, 1, 2])      # hospital 3 is lost before its masked update arrives
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine.errors import MaskError
from engine.secure import masks, protocol
from engine.secure.protocol import Own, Terms, Transcript, context_of, salt_of, threshold_of

SIZE = 40
FEDERATION, HEAD = b"f" * 32, b"h" * 32
STEPS = ("keys", "dealt", "masked", "agreed", "revealed")


@dataclass(frozen=True)
class KeyedVoice:
    """Signs with a key that only it and whoever checks know."""

    slot: int

    def sign(self, step: int, content: bytes) -> bytes:
        return hmac.digest(b"key %d" % self.slot, bytes([step]) + content, "sha256")

    def check(self, slot: int, step: int, content: bytes, signature: bytes) -> None:
        if KeyedVoice(slot).sign(step, content) != signature:
            raise MaskError(f"hospital {slot} has not signed what it is said to have said in step {step}")


@dataclass
class Group:
    """`hospitals` of them in a round, with updates that follow from the seed."""

    hospitals: int
    round: int = 1
    federation: bytes = FEDERATION
    size: int = SIZE
    hidden: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        context = context_of(self.federation, self.round, HEAD, 0)
        self.terms = Terms(context, threshold_of(self.hospitals), 3)
        self.updates = {
            slot: np.random.default_rng(slot).integers(-(2**50), 2**50, self.size) for slot in range(self.hospitals)
        }
        self.owns = {slot: self.own(slot) for slot in self.updates}

    def own(self, slot: int) -> Own:
        seed = hashlib.sha256(b"seed %d" % slot).digest()
        salt = salt_of(seed, self.terms.context)
        return Own(slot, seed, self.terms, masks.committed(self.terms.context, slot, self.updates[slot], salt))

    def said(self) -> Transcript:
        return Transcript(self.terms)

    def one(self, step: str, slot: int, said: Transcript) -> Any:
        """What one hospital answers in a step."""
        own, voice = self.owns[slot], KeyedVoice(slot)
        match step:
            case "keys":
                return protocol.advertise(own, voice)
            case "dealt":
                return protocol.share(own, said, voice)
            case "masked":
                self.hidden[slot], answer = protocol.mask(own, said, self.updates[slot], voice)
                return answer
            case "agreed":
                return protocol.agree(own, said, voice)
        return protocol.unmask(own, said, voice)

    def told(self, said: Transcript, step: str, slots: Iterable[int]) -> Transcript:
        """After a step that only these hospitals have answered."""
        return replace(said, **{step: {slot: self.one(step, slot, said) for slot in slots}})

    def after(self, last: str, gone: Mapping[str, set[int]] = {}) -> Transcript:
        """After all steps to `last`; `gone` are lost in a step and in those that follow."""
        said, left = self.said(), set(range(self.hospitals))
        for step in STEPS[: STEPS.index(last) + 1]:
            left -= gone.get(step, set())
            said = self.told(said, step, sorted(left))
        return said

    def sum_of(self, slots: Iterable[int]) -> np.ndarray:
        """The sum as it is without masks."""
        return sum((self.updates[slot] for slot in slots), np.zeros(self.size, np.int64))
