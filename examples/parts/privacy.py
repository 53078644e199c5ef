"""Gradients that are clipped and noised. The noise is drawn from the run's seed: this simulates protection, and gives none."""

from typing import Any

import numpy as np

from engine.oracles.base import Batch, Oracle
from engine.privacy.base import NONE, Privacy


def noised(draw: np.random.Generator, *, clip: float = 1.0, sigma: float = 0.01) -> Privacy:
    """A mechanism is four functions: batches, a bounded gradient, its noise, and what an update says of the price."""

    def gradient(oracle: Oracle, params: np.ndarray, batch: Batch) -> tuple[float, np.ndarray]:
        loss, plain = oracle.gradient(params, batch)
        return loss, plain * np.float32(min(1.0, clip / max(float(np.linalg.norm(plain)), 1e-12)))

    def noise(gradient: np.ndarray) -> np.ndarray:
        return gradient + np.float32(sigma * clip) * draw.standard_normal(len(gradient), dtype=np.float32)

    def price(gradients: int) -> dict[str, Any]:
        return {"clip": clip, "sigma": sigma, "steps": gradients}

    return Privacy("noised", NONE.batches, gradient, noise, price)
