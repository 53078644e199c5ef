"""FedAvg whose hospitals keep their momentum from one round to the next, in their private state."""

import numpy as np

from engine.algorithms.base import Algorithm, LocalResult, Personalise, Work
from engine.algorithms.config import FederationConfig


def momentum(settings: FederationConfig, adapt: Personalise, *, beta: float = 0.9) -> Algorithm:
    """`settings` are those of the section `federation`, `adapt` is what `personalisation` asks for."""

    def local(work: Work) -> LocalResult:
        params = work.params.copy()  # never written to
        velocity = work.state.get("velocity", np.zeros_like(params))
        batches, losses = work.batches(settings.batch_size), []
        steps = settings.local_epochs * work.samples.batches(settings.batch_size)
        for _ in range(steps):
            loss, gradient = work.gradient(params, work.samples.batch(next(batches)))
            velocity = np.float32(beta) * velocity + gradient
            params -= np.float32(settings.learning_rate) * velocity
            losses.append(loss)
        return LocalResult(params - work.params, float(np.mean(losses)), steps, {"velocity": velocity})

    return Algorithm(local, adapt, "samples")
