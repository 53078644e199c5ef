"""One hospital's part in masked sums: what it keeps between the steps of a round, and what it answers."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from engine.errors import MaskError
from engine.secure import masks, protocol
from engine.secure.config import SecureConfig
from engine.secure.protocol import Masked, Own, Terms, Transcript, Voice
from engine.secure.vault import Vault

STEPS = ("keys", "dealt", "masked", "agreed", "revealed")
MASKED = STEPS[2]
STAGE = "mask"  # of failures


class Place(NamedTuple):
    """Where a step stands: federation, round, and head of the round before, from which secrets follow."""

    federation: bytes
    round: int
    head: bytes


class Hidden(NamedTuple):
    """A masked update int64[size], what was signed of it, and the hospital's word on the update beneath, as a ledger takes it."""

    numbers: np.ndarray
    word: Masked
    signed: Any = None


def terms_of(config: SecureConfig, place: Place, group: int, members: int) -> Terms:
    """What a group of so many members has in common."""
    context = protocol.context_of(place.federation, place.round, place.head, group)
    return Terms(context, config.threshold_in(members), config.min_summands)


def drawn(model: bytes, round: int, hospitals: Sequence[int], groups: int) -> tuple[tuple[int, ...], ...]:
    """The hospitals of each group, ascending: dealt out by lots, SHA-256 of the model that the round starts from, round and hospital.

    Lots come from the model and not from the head, as those of committees do: a ledger may not change what is trained.
    """

    def lot(hospital: int) -> bytes:
        place = round.to_bytes(8, "big") + hospital.to_bytes(4, "big")
        return hashlib.sha256(b"PulseLedger buckets 1" + model + place).digest()

    order = sorted(hospitals, key=lot)
    return tuple(tuple(sorted(order[group::groups])) for group in range(groups))


class Part:
    """One hospital's. Its secrets follow from what only it knows; the numbers of the round under way are kept here alone."""

    def __init__(self, slot: int, config: SecureConfig, secret: bytes, vault: Vault) -> None:
        self._slot, self._config, self._secret, self._vault = slot, config, secret, vault
        self._numbers: tuple[int, np.ndarray] = (0, np.zeros(0, np.int64))

    def hold(self, round: int, numbers: np.ndarray) -> None:
        """Keeps the update of a round, int64[size], which is to be added up."""
        self._numbers = (round, numbers)

    def drop(self) -> None:
        """Forgets it."""
        self._numbers = (0, np.zeros(0, np.int64))

    def answer(self, step: str, groups: Sequence[Transcript], place: Place, voice: Voice) -> Any:
        """What this hospital says in a step, after what was said before.

        Raises:
            MaskError: it does not go on; see `protocol`.
        """
        said = next((one for one in groups if self._slot in one.members), None)
        if said is None:
            raise MaskError(f"hospital {self._slot} is in no group of round {place.round}")
        if len({*said.members}) < self._config.min_summands or said.terms != terms_of(
            self._config, place, said.group, len({*said.members})
        ):
            raise MaskError(
                f"the terms of the group that hospital {self._slot} is shown are not those of its configuration"
            )
        own = Own(self._slot, self._secret, said.terms, self._commitment(said, place))
        match step:
            case "keys":
                return protocol.advertise(own, voice)
            case "dealt":
                return protocol.share(own, said, voice)
            case "masked":
                return Hidden(*protocol.mask(own, said, self._held(place), voice))
            case "agreed":
                signature = protocol.agree(own, said, voice)
                self._vault.promise(place.round, tuple(sorted(said.masked)))
                return signature
        return protocol.unmask(own, said, voice)

    def _held(self, place: Place) -> np.ndarray:
        round, numbers = self._numbers
        if round != place.round:
            raise MaskError(f"the update of hospital {self._slot} was lost with the process that had computed it")
        return numbers

    def _commitment(self, said: Transcript, place: Place) -> bytes:
        """To its update; a process that has lost that goes on from what it advertised."""
        if self._slot in said.keys:
            return said.keys[self._slot].commitment
        salt = protocol.salt_of(self._secret, said.terms.context)
        return masks.committed(said.terms.context, self._slot, self._held(place), salt)
