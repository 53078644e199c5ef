"""Hospitals that send the opposite of what they have trained."""

from collections.abc import Callable

import numpy as np

from engine.aggregation.attacks import Honest


def flip(*, scale: float = 4.0) -> Callable[[Honest], np.ndarray]:
    """From what the hospital would have sent to what it sends, float32[parameters]."""
    return lambda honest: np.float32(-scale) * honest.update
