"""A round's masked sums: what the coordinator asks, holds against what was signed, and adds up. It sees no update."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from engine.errors import HospitalError, MaskError
from engine.messages import Asked, Taken, Update, survivors
from engine.secure import protocol
from engine.secure.config import SecureConfig
from engine.secure.form import alone, require_form
from engine.secure.part import STAGE, STEPS, Hidden, Place, terms_of
from engine.secure.protocol import Masked, Transcript, Voice

Masking = Callable[[Asked, Taken, Any], tuple[Taken, tuple[Transcript, ...]]]
WITHDRAW = "withdraw"  # a hospital that is not in the sum after all


class MaskingPool(Protocol):
    """What a pool must know for masked sums."""

    def secure(self, step: str, groups: Sequence[Transcript], notice: Any, ids: Sequence[int]) -> Sequence[Any]:
        """A step of these hospitals, after what was said before; a failure in the place of an answer is a HospitalError."""
        ...


def plain(asked: Asked, taken: Taken, notice: Any) -> tuple[Taken, tuple[Transcript, ...]]:
    """Nothing is hidden."""
    return taken, ()


@dataclass(frozen=True)
class Masks:
    """Goes through the steps with the hospitals whose updates were taken.

    Attributes:
        groups: the hospitals of each sum of a round, ascending.
        place: of a round, from what the ledger tells hospitals.
        voice: checks what hospitals sign in a round.
        weights: hospitals' updates -> the sum of their weights.
        min_hospitals: with fewer in the sum the round fails; None wants all that were taken, to the last step.
    """

    pool: MaskingPool
    config: SecureConfig
    groups: Callable[[Asked], Sequence[tuple[int, ...]]]
    place: Callable[[Any], Place]
    voice: Callable[[Place], Voice]
    weights: Callable[[Sequence[Update]], int]
    min_hospitals: int | None

    def __call__(self, asked: Asked, taken: Taken, notice: Any) -> tuple[Taken, tuple[Transcript, ...]]:
        """What is added up of a round, with the masked updates in the place of the updates, and what was said.

        Raises:
            HospitalError, PulseLedgerError: a hospital failed and `min_hospitals` does not allow to go on without it.
            MaskError: fewer than the threshold of a group are left, or the sum is not one of these hospitals' updates.
        """
        place = self.place(notice)
        voice, trained = self.voice(place), {update.hospital: update for update in taken.updates}
        groups = tuple(
            Transcript(terms_of(self.config, place, group, len(members)), group, members)
            for group, members in enumerate(self.groups(asked))
        )
        hidden: dict[int, Hidden] = {}
        left, lost = tuple(trained), list(taken.lost)
        for step in STEPS:
            answers = self.pool.secure(step, groups, notice, left)
            right: dict[int, Any] = {}
            failed: list[HospitalError] = []
            size = len(asked.params) + 1
            checks = {
                hospital: self._checked(step, groups, hospital, answer, voice, asked.round, size)
                for hospital, answer in zip(left, answers, strict=True)
            }
            for hospital, checked in (alone(checks, asked.round) if step == "keys" else checks).items():
                if isinstance(checked, HospitalError):
                    failed.append(checked)
                else:
                    right[hospital] = checked
            if step == "masked":
                hidden = right
                right = {hospital: one.word for hospital, one in right.items()}
            if step in STEPS[:3] and (gone := [hospital for hospital in left if hospital not in right]):
                self.pool.secure(WITHDRAW, groups, notice, gone)
            survivors([*right.values(), *failed], self.min_hospitals)
            lost += failed
            left = tuple(right)
            groups = tuple(one.after(step, {h: right[h] for h in left if h in one.members}) for one in groups)
            for one in groups:
                protocol.require_enough(f"round {asked.round}: answers", getattr(one, step), one.terms)
        kept = [
            replace(trained[hospital], vector=one.numbers, signed=one.signed)
            for hospital, one in sorted(hidden.items())
        ]
        sums = np.stack([self._sum(one, hidden, trained, asked.round) for one in groups])
        return Taken(tuple(kept), tuple(lost), sums), groups

    def _checked(
        self,
        step: str,
        groups: Sequence[Transcript],
        hospital: int,
        answer: Any,
        voice: Voice,
        round: int,
        size: int,
    ) -> Any:
        """The answer, or why it counts for none."""
        if isinstance(answer, HospitalError):
            return answer
        said = next(one for one in groups if hospital in one.members)
        try:
            require_form(step, hospital, answer, size)
            require_step(said, step, hospital, answer, voice)
        except MaskError as error:
            return HospitalError(hospital, round, STAGE, str(error))
        return answer

    def _sum(
        self, said: Transcript, hidden: Mapping[int, Hidden], trained: Mapping[int, Update], round: int
    ) -> np.ndarray:
        """int64[parameters + 1], the last entry the sum of the weights."""
        total = protocol.summed(said, {hospital: hidden[hospital].numbers for hospital in said.masked})
        weight = self.weights([trained[hospital] for hospital in said.masked])
        if int(total[-1]) != weight:
            raise MaskError(
                f"round {round}: the weights in the sum come to {int(total[-1])}, those that hospitals told to {weight}; one of hospitals "
                f"{', '.join(map(str, sorted(said.masked)))} has added up another one"
            )
        return total


def require_step(said: Transcript, step: str, hospital: int, answer: Any, voice: Voice) -> None:
    """
    Raises:
        MaskError: an answer is not what the step wants, or not signed by its hospital.
    """
    match step:
        case "keys":
            voice.check(hospital, protocol.KEYS, protocol.keys_content(said.terms, hospital, answer), answer.signature)
        case "dealt":
            protocol.require_dealt(said, hospital, answer, voice)
        case "masked":
            word: Masked = answer.word
            if protocol.digest_of(answer.numbers) != word.digest:
                raise MaskError(f"what hospital {hospital} has sent is not the masked update that it has signed")
            protocol.require_masked(said, hospital, word, voice)
        case "agreed":
            voice.check(hospital, protocol.SURVIVORS, protocol.survivors_content(said), answer)
        case "revealed":
            protocol.require_revealed(said, hospital, answer)
