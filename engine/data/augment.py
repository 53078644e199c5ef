"""Beats as they might have looked: moved in time, weaker or stronger, on a wandering baseline, with noise. For training only.

Each train beat is altered anew whenever it is in a batch; what is validated or tested is as it was recorded.
"""

from collections.abc import Callable

import numpy as np
from pydantic import Field

from engine.oracles.base import Batch
from engine.settings import Section

CYCLES = (0.1, 0.5)  # of the baseline within a window: breathing is about ten times slower than a beat is long


class AugmentConfig(Section):
    """How train beats are altered; nothing at zero. Heights are in units of the signal, which `data.normalise` sets."""

    shift: int = Field(0, ge=0, le=200, description="samples by which a beat is moved at most, to either side")
    scale: float = Field(0.0, ge=0, le=2, description="standard deviation of the logarithm of a factor on all leads")
    wander: float = Field(0.0, ge=0, le=10, description="standard deviation of the height of a slow wave, in each lead")
    noise: float = Field(0.0, ge=0, le=10, description="standard deviation of noise in each sample")

    @property
    def active(self) -> bool:
        """Whether anything is altered."""
        return bool(self.shift or self.scale or self.wander or self.noise)


Alter = Callable[[Batch], Batch]


def unaltered(batch: Batch) -> Batch:
    """The beats as they are."""
    return batch


def alter_of(config: AugmentConfig, draw: np.random.Generator, copies: int = 1) -> Alter:
    """What alters the batches of one hospital's work.

    Args:
        draw: random numbers of this work alone.
        copies: how many leads are looks at one input lead (`data.template`), which wander and are noisy together.
    """
    if not config.active:
        return unaltered

    def alter(batch: Batch) -> Batch:
        x = batch.x
        n, leads, window = x.shape
        if config.shift:
            by: np.ndarray = draw.integers(-config.shift, config.shift + 1, size=(n, 1))
            at = np.clip(np.arange(window) - by, 0, window - 1)  # the ends are drawn out
            x = np.take_along_axis(x, at[:, None, :].repeat(leads, 1), 2)
        if config.scale:
            x = x * np.exp(config.scale * draw.standard_normal((n, 1, 1)))
        added = np.zeros((n, leads // copies, window))
        if config.wander:
            height, phase = config.wander * draw.standard_normal((n, leads // copies, 1)), draw.random((n, 1, 1))
            turns = draw.uniform(*CYCLES, (n, 1, 1)) * np.arange(window) / window + phase
            added = added + height * np.sin(2 * np.pi * turns)
        if config.noise:
            added = added + config.noise * draw.standard_normal(added.shape)
        return batch._replace(x=(x + np.tile(added, (1, copies, 1))).astype(np.float32))

    return alter
