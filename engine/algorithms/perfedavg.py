"""Per-FedAvg: a global model from which one step of SGD gives each hospital a good model.

Fallah, Mokhtari, Ozdaglar 2020, "Personalized Federated Learning with Theoretical Guarantees" (arXiv 2002.07948).
Minimised is the mean of F_i(w) = f_i(w - alpha grad f_i(w)), whose gradient is
(I - alpha H_i(w)) grad f_i(w - alpha grad f_i(w)). A meta-step, on three independent batches D, D', D'':

    w~ = w - alpha grad f(w; D)              inner step
    v  = grad f(w~; D')                      outer gradient
    w <- w - beta (v - alpha h)              applied to w, not to w~

where h = 0 (first-order), [grad f(w + d v/|v|; D'') - grad f(w - d v/|v|; D'')] |v| / (2 d) (difference), or the
Hessian-vector product itself (exact). The difference is taken along v/|v| because its best length in float32 depends
on the weights, not on how large v happens to be. The paper calls it Hessian-free and needs a smooth network: on the `cnn`,
whose ReLUs and maxima have kinks within any length that float32 can tell, the difference is off the product by about
as much as it is long at the start, and by half of it when trained. `exact` has no such error.
"""

from collections.abc import Iterator

import numpy as np

from engine.algorithms.base import Local, LocalResult, Work
from engine.algorithms.config import FederationConfig, PerFedAvgConfig
from engine.algorithms.fedavg import steps_of
from engine.data.samples import stratified
from engine.oracles.base import Batch

PRODUCT = 3  # gradients that take as long as a Hessian-vector product: measured 2.7 (native kernel) and 3.0 (torch)
COST = {"first-order": 2, "difference": 4, "exact": 2 + PRODUCT}  # gradients of one batch for one meta-step


def meta_gradient(
    work: Work, params: np.ndarray, batches: tuple[Batch, Batch, Batch], config: PerFedAvgConfig, decay: float = 1.0
) -> tuple[float, np.ndarray]:
    """Loss after the inner step, and the meta-gradient in the chosen variant at `params`, float32[parameters]."""
    support, query, curvature = batches
    alpha = np.float32(config.alpha * decay)
    _, inner = work.gradient(params, support)
    loss, outer = work.gradient(params - alpha * inner, query)
    if config.variant == "first-order":
        return loss, outer
    if config.variant == "exact":
        product = work.oracle.hessian_vector(params, curvature, outer)
    else:
        product = _central_difference(work, params, curvature, outer, config.delta)
    return loss, outer - alpha * product


def _central_difference(work: Work, params: np.ndarray, batch: Batch, vector: np.ndarray, delta: float) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    if length == 0.0:
        return np.zeros_like(vector)
    step = np.float32(delta / length) * vector
    _, ahead = work.gradient(params + step, batch)
    _, behind = work.gradient(params - step, batch)
    return (ahead - behind) * np.float32(length / (2 * delta))


def meta_steps(config: FederationConfig) -> Local:
    """Local work: tau meta-steps. Every hospital takes them all, however few beats it has."""
    settings = config.perfedavg

    def local(work: Work) -> LocalResult:
        cost = COST[settings.variant]
        tau = max(1, steps_of(config, work) // cost) if settings.tau is None else work.cut(settings.tau)
        decay = config.falls(work.round)
        # three streams that share nothing but the generator: the batches of a meta-step are independent
        streams = [_batches(work, config.batch_size, settings.stratified, child) for child in work.draw.spawn(3)]
        trained = work.params.copy()
        losses = []
        for _ in range(tau):
            support, query, curvature = (work.samples.batch(next(stream)) for stream in streams)
            loss, gradient = meta_gradient(work, trained, (support, query, curvature), settings, decay)
            trained -= np.float32(settings.beta * decay) * gradient
            losses.append(loss)
        return LocalResult(trained - work.params, float(np.mean(losses)), tau * cost)

    return local


def _batches(work: Work, batch_size: int, by_class: bool, draw: np.random.Generator) -> Iterator[np.ndarray]:
    return stratified(work.samples.labels(), batch_size, draw) if by_class else work.batches(batch_size, draw)
