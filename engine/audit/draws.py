"""What a run draws from its seed, drawn again: no run may begin from a model, or ask hospitals, of somebody's choice."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def stream(seed: int, purpose: bytes, number: int = 0) -> np.random.Generator:
    """The numbers for a purpose in a round, of no hospital; 0 before the first round."""
    word = int.from_bytes(hashlib.sha256(purpose).digest()[:8], "little")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, word, number, 0])))


def drawn(of: Sequence[int], many: int, draw: np.random.Generator) -> set[int]:
    """So many of these slots, without replacement."""
    return {int(slot) for slot in draw.choice(np.array(of), many, replace=False)}


def initial(layout: Sequence[tuple[str, tuple[int, ...]]], seed: int) -> np.ndarray:
    """float32[P]: the model before round 1: He-uniform weights, biases of 0, norms of 1."""
    draw, parts = stream(seed, b"weights"), [np.zeros(0)]
    for name, shape in layout:
        if name.endswith("bias"):
            parts.append(np.zeros(math.prod(shape)))
        elif name.startswith("norm"):
            parts.append(np.ones(math.prod(shape)))
        else:
            bound = np.sqrt(6.0 / max(math.prod(shape[1:]), 1))
            parts.append(np.ravel(draw.uniform(-bound, bound, shape)))
    return np.concatenate(parts).astype(np.float32)


def seed_of(config: Mapping[str, Any]) -> int | None:
    """The seed of a configuration; None where it has none."""
    seed = config.get("seed")
    return seed if type(seed) is int and seed >= 0 else None
