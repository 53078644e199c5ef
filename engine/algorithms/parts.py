"""Parts of a network that are treated apart: its head, its norms. A part is bool[parameters] over the flat vector."""

from collections.abc import Callable

import numpy as np

from engine.errors import ConfigError
from engine.model import Layout


def part(layout: Layout, wanted: Callable[[str], bool]) -> np.ndarray:
    """bool[parameters]: where the tensors are whose names are wanted."""
    return np.concatenate([np.full(int(np.prod(shape, dtype=np.int64)), wanted(name)) for name, shape in layout])


def head(layout: Layout) -> np.ndarray:
    """The last module, which turns features into classes: the last tensor and those whose names differ behind the last dot.

    >>> head((("body.weight", (3,)), ("head.weight", (2,)), ("head.bias", (1,)))).tolist()
    [False, False, False, True, True, True]
    """
    last = layout[-1][0].rpartition(".")[0]
    return part(layout, lambda name: name.rpartition(".")[0] == last if last else name == layout[-1][0])


def norms(layout: Layout) -> np.ndarray:
    """Scales and shifts of norms: tensors of modules that are called `norm...` or `bn...`.

    Raises:
        ConfigError: there are none.
    """
    found = part(layout, lambda name: any(w.startswith(("norm", "bn")) for w in name.lower().split(".")))
    if not found.any():
        raise ConfigError(
            "federation.algorithm: fedbn keeps each hospital's norms, and this network has no module norm or bn."
        )
    return found
