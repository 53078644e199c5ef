"""SCAFFOLD: local steps corrected for what makes hospitals differ (Karimireddy et al. 2020, arXiv 1910.06378, option II).

Each of K steps of rate e goes along grad f_i(y) - c_i + c; afterwards c_i <- c_i - c + (x - y) / (K e), and c is the mean
of all c_i. Where all hospitals take part in every round with the same K and e, and the server takes the mean, that mean is
(x - x') / (K e), x' the next global model, for the same weights. So hospitals read c off the models, and nothing more
than the update is sent, signed and averaged.
"""

import numpy as np

from engine.algorithms.base import Local, LocalResult, Work, sgd
from engine.algorithms.config import FederationConfig
from engine.algorithms.fedavg import rate_of, steps_of


def corrected(config: FederationConfig) -> Local:
    """Local work with control variates; private are the hospital's own and the global model of its last round."""

    def local(work: Work) -> LocalResult:
        steps, rate = steps_of(config, work), rate_of(config, work.round)
        own = work.state.get("control", np.zeros_like(work.params))
        common = np.zeros_like(work.params)
        if "model" in work.state:
            last = np.float32(steps * rate_of(config, work.round - 1))
            common = (work.state["model"] - work.params) / last
        correction = common - own
        params, loss = sgd(work, steps, config.batch_size, rate, lambda _, gradient: gradient + correction)
        control = own - common + (work.params - params) / np.float32(steps * rate)
        return LocalResult(params - work.params, loss, steps, {"control": control, "model": work.params.copy()})

    return local
