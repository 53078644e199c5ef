"""Whether what a hospital answers has the form of the step: a coordinator takes nothing apart that it has not looked at.

What hospitals would trip over is refused here, too, and named with who sent it: keys that give no secret, and keys that two advertise.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.errors import HospitalError, MaskError
from engine.secure import masks
from engine.secure.part import STAGE, Hidden
from engine.secure.protocol import Dealt, Keys, Masked, Revealed

_SEALED = 80  # bytes: two shares and the tag of their encryption
_PROBE = bytes(range(32))  # a private key that nobody uses: with it a key that gives no secret is found


def require_form(step: str, hospital: int, answer: Any, size: int) -> None:
    """
    Args:
        size: numbers of a masked update.

    Raises:
        MaskError: the answer is none of this step.
    """
    if not _FORMS[step](hospital, answer, size):
        raise MaskError(f"what hospital {hospital} answers is no answer of this step ({step})")
    if step == "keys":
        for key in (answer.channel, answer.pair):
            try:
                masks.agreed(_PROBE, key)
            except ValueError:
                raise MaskError(f"a key that hospital {hospital} advertises is none") from None


def alone(answers: Mapping[int, Any], round: int) -> dict[int, Any]:
    """Advertised keys and failures, with failures in the place of all who advertise a key that stands twice."""
    held: dict[bytes, list[int]] = {}
    for slot, one in answers.items():
        for key in one[:2] if isinstance(one, Keys) else ():
            held.setdefault(key, []).append(slot)
    found = dict(answers)
    for slots in held.values():
        for slot in slots if len(slots) > 1 else ():
            who = ", ".join(map(str, sorted({*slots})))
            found[slot] = HospitalError(slot, round, STAGE, f"a key stands twice, advertised by hospital {who}")
    return found


def _bytes(value: Any, *sizes: int) -> bool:
    return type(value) is bytes and (not sizes or len(value) in sizes)


def _table(value: Any) -> bool:
    return isinstance(value, Mapping) and all(type(slot) is int and 0 <= slot < 1 << 32 for slot in value)


def _is_keys(hospital: int, answer: Any, size: int) -> bool:
    return isinstance(answer, Keys) and all(_bytes(one, 32) for one in answer[:4]) and _bytes(answer.signature)


def _is_dealt(hospital: int, answer: Any, size: int) -> bool:
    return (
        isinstance(answer, Dealt)
        and _table(answer.sealed)
        and _table(answer.hashes)
        and all(_bytes(one, 0 if slot == hospital else _SEALED) for slot, one in answer.sealed.items())
        and all(type(both) is tuple and len(both) == 2 for both in answer.hashes.values())
        and all(_bytes(one, 32) for both in answer.hashes.values() for one in both)
        and _bytes(answer.signature)
    )


def _is_masked(hospital: int, answer: Any, size: int) -> bool:
    return (
        isinstance(answer, Hidden)
        and isinstance(answer.numbers, np.ndarray)
        and (answer.numbers.dtype, answer.numbers.shape) == (np.int64, (size,))
        and isinstance(answer.word, Masked)
        and _bytes(answer.word.digest, 32)
        and _bytes(answer.word.signature)
    )


def _is_agreed(hospital: int, answer: Any, size: int) -> bool:
    return _bytes(answer)


def _is_revealed(hospital: int, answer: Any, size: int) -> bool:
    return isinstance(answer, Revealed) and all(
        _table(shares) and all(_bytes(one, 32) for one in shares.values()) for shares in answer
    )


_FORMS = {
    "keys": _is_keys,
    "dealt": _is_dealt,
    "masked": _is_masked,
    "agreed": _is_agreed,
    "revealed": _is_revealed,
}
