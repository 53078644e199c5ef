"""Updates in a form that takes fewer bytes to send, with what was left out added to the next one (error feedback).

    int8    whole numbers of -127 to 127 times one power of two, the least that reaches the largest entry
    top-k   the entries with the largest absolute values, a share of all, as they are; the others zero

What is signed, archived and added up is the float32 vector that such a form stands for, so that everybody finds the same bits.
The remainder stays in the hospital's private state and so in a checkpoint (Seide et al. 2014; Karimireddy et al. 2019, arXiv
1901.09847). A power of two costs at most one bit of the eight, and makes each entry exact in float32.
"""

import math
from collections.abc import Callable

import numpy as np

from engine.aggregation.config import UpdateConfig
from engine.messages import State

REMAINDER = "remainder"  # in a hospital's state: what it has not sent yet, float32[parameters]
LEVELS = 127

Form = Callable[[np.ndarray], np.ndarray]
Encode = Callable[[np.ndarray, State], tuple[np.ndarray, State]]


def int8(vector: np.ndarray) -> np.ndarray:
    """The vector in 255 levels, float32[P].

    >>> int8(np.array([127.0, 0.4, -3.6], np.float32)).tolist()
    [127.0, 0.0, -4.0]
    >>> int8(np.array([128.0, 1.0, 3.0], np.float32)).tolist()  # now in steps of 2; halves go to even
    [128.0, 0.0, 4.0]
    """
    largest = float(np.abs(vector).max(initial=0.0))
    if largest == 0.0 or not math.isfinite(largest):
        return vector.copy()
    exponent = math.ceil(math.log2(largest / LEVELS))
    exponent += largest > LEVELS * 2.0**exponent  # where the logarithm was rounded down
    return np.ldexp(np.rint(np.ldexp(vector.astype(np.float64), -exponent)), exponent).astype(np.float32)


def top(vector: np.ndarray, share: float) -> np.ndarray:
    """The entries with the largest absolute values, one at least; among equals the first, float32[P].

    >>> top(np.array([1.0, -3.0, 2.0, 3.0], np.float32), 0.5).tolist()
    [0.0, -3.0, 0.0, 3.0]
    """
    kept = np.zeros_like(vector)
    largest = np.argsort(-np.abs(vector), kind="stable")[: kept_of(share, len(vector))]
    kept[largest] = vector[largest]
    return kept


def kept_of(share: float, size: int) -> int:
    """How many entries top-k keeps."""
    return max(1, round(share * size))


def form_of(config: UpdateConfig) -> Form:
    """What a vector becomes on its way."""
    match config.compression:
        case "int8":
            return int8
        case "top-k":
            return lambda vector: top(vector, config.share)
        case _:
            return lambda vector: vector


def compressed(config: UpdateConfig, encode: Encode) -> Encode:
    """What a hospital sends and remembers, after `encode`; that alone without compression."""
    if config.compression == "none":
        return encode
    form = form_of(config)

    def sent(vector: np.ndarray, memory: State) -> tuple[np.ndarray, State]:
        plain, kept = encode(vector, memory)
        whole = plain + memory.get(REMAINDER, np.zeros_like(plain))
        found = form(whole)
        return found, {**kept, REMAINDER: whole - found}

    return sent
